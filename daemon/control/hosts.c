/* Hosts: from the first packet on the attach socket to the last freed page.
 *
 * GREETING → ADDING → ACTIVE → REMOVING → gone. A host that fails before MAPPED was never shown to
 * a worker and goes at once. From ADDING on workers may hold the endpoint, so it goes by REMOVE and
 * waits for QUIET of every worker that was given the ADD. A full ring towards a worker only leaves
 * its bit in add_todo or remove_todo; the next tick tries again. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/balance/picker.h"
#include "daemon/control/control_internal.h"
#include "linearize/linearize.h"

/* Refusals logged in a second; the counters count all. */
#define REFUSAL_LOG_BURST 10
/* Lines about hosts that come and go in a second, but for faults. */
#define HOST_LOG_BURST 64
/* After an accept that failed for want of something. */
#define ACCEPT_PAUSE_NS (100 * CLOCK_NS_PER_MS)
/* Calls out of one process at one worker, whatever channels allow together. */
#define OUTS_MAX 65536u
/* Connections taken in one turn: a flood of them must not hold up who is being served. */
#define ACCEPT_BURST 8

static uint64_t all_workers(const struct control *control)
{
	return control->p.workers_n == 64 ? UINT64_MAX : (UINT64_C(1) << control->p.workers_n) - 1;
}

static void count_refusal(struct control *control, int code)
{
	struct control_counters *c = &control->counters;

	switch (-code) {
	case SPLIT_E_SHEPHERD_ATTACH_UID:
		counter_inc(&c->attach_refused_uid);
		break;
	case SPLIT_E_SHEPHERD_ATTACH_NAME:
		counter_inc(&c->attach_refused_name);
		break;
	case SPLIT_E_SHEPHERD_ATTACH_CERTIFICATE:
		counter_inc(&c->attach_refused_certificate);
		break;
	case SPLIT_E_SHEPHERD_ATTACH_LIMIT:
		counter_inc(&c->attach_refused_limit);
		break;
	case SPLIT_E_SHEPHERD_ATTACH_OUTCAST:
		counter_inc(&c->attach_refused_outcast);
		break;
	case SPLIT_E_SHEPHERD_ATTACH_TIMEOUT:
		counter_inc(&c->attach_timeout);
		break;
	case SPLIT_E_SHEPHERD_MEMORY:
	case SPLIT_E_SHEPHERD_GEOMETRY:
	case SPLIT_E_SHEPHERD_SEAL:
	case SPLIT_E_BASE_NOMEM:
	case SPLIT_E_BASE_SYSTEM:
		counter_inc(&c->attach_refused_resources);
		break;
	default:
		counter_inc(&c->attach_refused_protocol);
		break;
	}
}

/* What stands before `more`: the host's name is known where something else is missing. */
static const char *refusal_text(int code, const char *more)
{
	return code == -SPLIT_E_SHEPHERD_ATTACH_NAME && more[0] != '\0' ? "attach"
									: error_text(code);
}

static void log_refusal(struct control_host *host, int code, const char *more)
{
	struct control *control = host->control;
	char names[RELAY_NAMES_MAX + 64];
	uint32_t held_back;

	count_refusal(control, code);
	if (!log_limit_pass(&control->attach_log, clock_ns(), REFUSAL_LOG_BURST, CLOCK_NS_PER_SEC,
			    &held_back))
		return;
	if (held_back != 0)
		log_warn("attach: %u more refusals were not logged", held_back);
	if (code == -SPLIT_E_SHEPHERD_ATTACH_CERTIFICATE)
		more = guest_names_text(&host->guest, names, sizeof(names));
	if (host->remote)
		log_warn("attach of \"%s\" (remote, %s) refused: %s%s", host->name,
			 host->guest.peer, refusal_text(code, more), more);
	else if (host->name[0] != '\0')
		log_warn("attach of \"%s\" (pid %d, uid %u) refused: %s%s", host->name, host->pid,
			 host->uid, refusal_text(code, more), more);
	else
		log_warn("attach refused: %s%s", refusal_text(code, more), more);
}

static void host_unwatch(struct control_host *host)
{
	if (host->server != NULL)
		control_unwatch(host->control, attach_server_fd(host->server));
	if (host->endpoint != NULL)
		control_unwatch(host->control, endpoint_pidfd(host->endpoint));
}

/* No worker holds anything of it. */
static void host_free(struct control_host *host)
{
	struct control *control = host->control;

	pthread_mutex_lock(&control->lock);
	list_del(&host->link);
	pthread_mutex_unlock(&control->lock);
	host_unwatch(host);
	if (host->state == HOST_GREETING)
		control->greeting_n--;
	/* A host that was only offered segments may have kept them too. */
	if (!host->remote && attach_server_endpoint(host->server) != NULL)
		departed_add(control, host, attach_server_endpoint(host->server));
	if (host->endpoint != NULL) {
		refused_drain(control); /* records name it, and what it has in its segment */
		endpoint_put(host->endpoint);
		counter_inc(&control->counters.endpoint_freed);
	}
	threads_host_fini(host);
	attach_server_destroy(host->server);
	services_catalog_destroy(host->catalog);
	schema_destroy(host->schema);
	free(host->shared.told);
	free(host->shared.methods_told);
	free(host->methods);
	free(host->services);
	free(host);
}

static void state_set(struct control_host *host, enum host_state_control state)
{
	pthread_mutex_lock(&host->control->lock);
	if (host->state == HOST_GREETING && state != HOST_GREETING)
		host->control->greeting_n--;
	host->state = state;
	pthread_mutex_unlock(&host->control->lock);
}

/* Refuse one that no worker knows. `code` is what the host is told. */
static void host_refuse(struct control_host *host, int code, const char *more)
{
	char text[ATTACH_TEXT_MAX];

	snprintf(text, sizeof(text), "%s%s", refusal_text(code, more), more);
	attach_server_refuse(host->server, code, text);
	log_refusal(host, code, more);
	host_free(host);
}

struct census {
	unsigned serving; /* what endpoints_max is about */
	unsigned leaving; /* memory that is still held */
};

static struct census hosts_count(const struct control *control, int host_index)
{
	struct census n = {0, 0};

	list_for_each (pos, &control->hosts) {
		const struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->host_index == host_index && host->state == HOST_REMOVING)
			n.leaving++;
		else if (host->host_index == host_index)
			n.serving++;
	}
	return n;
}

/* A process that takes over from one that has just died must not find its place still taken: look
 * at the pidfds now instead of when their event comes. */
static void reap_dead(struct control *control, int host_index)
{
	list_for_each (pos, &control->hosts) {
		struct control_host *host = list_entry(pos, struct control_host, link);
		struct pollfd pidfd = {.events = POLLIN};

		if (host->host_index != host_index || host->endpoint == NULL)
			continue;
		pidfd.fd = endpoint_pidfd(host->endpoint);
		if (poll(&pidfd, 1, 0) == 1)
			hosts_event(host, WATCH_PIDFD);
	}
}

static bool has_place(struct control *control, int host_index)
{
	unsigned max = control->p.config->hosts[host_index].endpoints_max;
	struct census n = hosts_count(control, host_index);
	unsigned room;

	if (n.serving >= max) {
		reap_dead(control, host_index);
		n = hosts_count(control, host_index);
	}
	/* Who leaves still has its segments, and who was detached and lives on may keep them: as
	 * many again, not more. */
	room = n.leaving <= max ? max - n.leaving : 0;
	return n.serving < max && n.leaving <= max &&
	       departed_count(control, host_index, room + 1) <= room;
}

/* attach_policy.admit: at HELLO, before the host may send anything large. */
static int host_admit(void *ctx, const struct attach_request *request)
{
	struct control_host *host = ctx;
	const struct config *cfg = host->control->p.config;
	int index = config_host_find(cfg, request->name);

	pthread_mutex_lock(&host->control->lock);
	snprintf(host->name, sizeof(host->name), "%s", request->name);
	host->pid = request->pid;
	host->uid = request->uid;
	pthread_mutex_unlock(&host->control->lock);
	if (index < 0)
		return -SPLIT_E_SHEPHERD_ATTACH_NAME;
	if (host->remote && !cfg->hosts[index].remote)
		return -SPLIT_E_SHEPHERD_ATTACH_NAME;
	if (host->remote && !guest_is_for(&host->guest, &cfg->hosts[index]))
		return -SPLIT_E_SHEPHERD_ATTACH_CERTIFICATE;
	if (!host->remote && !config_host_has_uid(&cfg->hosts[index], request->uid))
		return -SPLIT_E_SHEPHERD_ATTACH_UID;
	if (!host->remote && departed_is_outcast(host->control, request->pid))
		return -SPLIT_E_SHEPHERD_ATTACH_OUTCAST;
	if (host->control->state != CONTROL_RUNNING || !has_place(host->control, index))
		return -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
	host->host_index = index;
	return 0;
}

/* `guest`: a relay's host; NULL: a process of this machine. */
static struct control_host *host_create(struct control *control, int fd,
					const struct relay_guest *guest)
{
	struct control_host *host = calloc(1, sizeof(*host));
	struct attach_policy policy;

	if (host == NULL) {
		close(fd);
		return NULL;
	}
	host->control = control;
	host->remote = guest != NULL;
	if (guest != NULL)
		host->guest = *guest;
	host->id = ++control->next_id;
	host->host_index = -1;
	host->since_ns = clock_ns();
	host->deadline_ns = host->since_ns + control->p.config->control.attach_timeout_ns;
	host->socket_watch = (struct watch){WATCH_HOST, host};
	host->pidfd_watch = (struct watch){WATCH_PIDFD, host};
	policy = (struct attach_policy){.admit = host_admit, .ctx = host};
	if (attach_server_create(fd, &policy, &host->server) != 0) {
		free(host);
		return NULL;
	}
	if (control_watch(control, attach_server_fd(host->server), &host->socket_watch) != 0) {
		attach_server_destroy(host->server);
		free(host);
		return NULL;
	}
	pthread_mutex_lock(&control->lock);
	list_add_tail(&control->hosts, &host->link);
	control->greeting_n++;
	pthread_mutex_unlock(&control->lock);
	return host;
}

static bool channel_allowed(const struct control_host *host, const char *name)
{
	const struct config *cfg = host->control->p.config;
	int channel = config_channel_find(cfg, name);

	return channel >= 0 &&
	       config_channel_has_host(&cfg->channels[channel], (uint32_t)host->host_index);
}

/* Calls out that one process may have at each worker: what the channels allow that it may open. It
 * calls over none: no room is kept for any. */
static uint32_t outs_max(const struct control_host *host, const struct attach_request *request)
{
	const struct config *cfg = host->control->p.config;
	uint64_t n = 0;
	bool calls = false;

	for (size_t i = 0; i < request->methods_n; i++)
		calls |= request->methods[i].channel != NULL;
	for (uint32_t i = 0; calls && i < cfg->channels_n; i++)
		if (config_channel_has_host(&cfg->channels[i], (uint32_t)host->host_index))
			n += cfg->channels[i].calls_max;
	return (uint32_t)(n < OUTS_MAX ? n : OUTS_MAX);
}

/* 0, or why this host's methods can't be served; `more` gets the detail. */
static int methods_check(const struct control_host *host, const struct attach_request *request,
			 char *more, size_t bytes)
{
	const struct config *cfg = host->control->p.config;
	size_t served = 0, called = 0;

	for (size_t i = 0; i < request->methods_n; i++) {
		const struct attach_method *m = &request->methods[i];
		int service = config_service_find(cfg, m->service);

		if (schema_message_at(host->schema, m->input_schema) == NULL ||
		    schema_message_at(host->schema, m->output_schema) == NULL) {
			snprintf(more, bytes, ": %s/%s names a message that is not in it",
				 m->service, m->method);
			return -SPLIT_E_SHEPHERD_ATTACH_SCHEMA;
		}
		if (m->channel != NULL) {
			called++;
			if (channel_allowed(host, m->channel))
				continue;
			snprintf(more, bytes, ": no channel \"%s\" is in the configuration for it",
				 m->channel);
			return -SPLIT_E_SHEPHERD_ATTACH_NAME;
		}
		if (!manifest_agrees(host->control, host, m, more, bytes))
			return -SPLIT_E_SHEPHERD_ATTACH_SCHEMA;
		served += service >= 0 && config_service_has_host(&cfg->services[service],
								  (uint32_t)host->host_index);
	}
	if (served > cfg->hosts[host->host_index].methods_max ||
	    called > cfg->hosts[host->host_index].methods_max) {
		snprintf(more, bytes, ": it serves or calls more than hosts[].methods_max methods");
		return -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
	}
	if (served == 0) {
		snprintf(more, bytes, ": none of its services is in the configuration for it");
		return -SPLIT_E_SHEPHERD_ATTACH_NAME;
	}
	return 0;
}

/* The attach's methods with what manifests say of them. False: no memory. */
static bool methods_take(struct control_host *host, const struct attach_request *request)
{
	host->methods = calloc(request->methods_n + 1, sizeof(*host->methods));
	for (size_t i = 0; host->methods != NULL && i < request->methods_n; i++) {
		host->methods[i] = request->methods[i];
		manifest_options(host->control, &host->methods[i]);
	}
	host->services = calloc(request->methods_n + 1, sizeof(*host->services));
	return host->methods != NULL && host->services != NULL;
}

/* Which service of the configuration each of its methods belongs to. */
static void services_find(struct control_host *host, const struct config *cfg, size_t methods_n)
{
	for (size_t i = 0; i < methods_n; i++)
		host->services[i] = (int16_t)config_service_find(cfg, host->methods[i].service);
}

static uint64_t hugepages_free_bytes(void)
{
	unsigned long long pages = 0;
	FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");

	if (file == NULL)
		return 0;
	if (fscanf(file, "%20llu", &pages) != 1)
		pages = 0;
	fclose(file);
	return (uint64_t)pages << 21;
}

static bool host_hugepages(const struct control_host *host, const struct config_host *ch)
{
	/* Both are rounded up to whole pages. */
	uint64_t need = ch->to_host + ch->to_daemon + (UINT64_C(4) << 20);

	if (!ch->hugepages)
		return false;
	if (!ch->hugepages_fallback || hugepages_free_bytes() >= need)
		return true;
	log_warn("host \"%s\" (pid %d): too few free hugepages for its segments; using normal "
		 "pages",
		 host->name, host->pid);
	return false;
}

static uint32_t foreign_slots(const struct config_host *ch)
{
	/* All foreign threads of a process share it: four times a worker's own. */
	uint64_t slots = (uint64_t)ch->lane_slots * 4;

	return slots > SHEPHERD_SLOTS_MAX ? SHEPHERD_SLOTS_MAX : (uint32_t)slots;
}

/* Take the one of another host in place of `*schema`, if it is the same. */
static void schema_share(struct control *control, struct schema **schema)
{
	list_for_each (pos, &control->hosts) {
		const struct control_host *other = list_entry(pos, struct control_host, link);

		if (other->schema == NULL || other->schema == *schema ||
		    !schema_equal(other->schema, *schema))
			continue;
		schema_destroy(*schema);
		*schema = schema_get(other->schema);
		counter_inc(&control->counters.schema_shared);
		return;
	}
}

/* The schema of a host that brought the same bytes, or a new one. Many processes of one service are
 * the rule, and tables are large. */
static int schema_take(struct control *control, const struct attach_request *request,
		       struct schema **out)
{
	const struct config *cfg = control->p.config;
	uint64_t hash = schema_blob_hash(request->schema, request->schema_bytes);
	struct schema_limits limits = schema_limits_default;
	int err;

	limits.blob_bytes_max = (uint32_t)cfg->linearize.schema_bytes_max;
	limits.messages_max = cfg->linearize.schema_messages_max;
	limits.fields_max = cfg->linearize.schema_fields_max;
	if (manifests_has(control, request)) {
		err = schema_parse(request->schema, request->schema_bytes, &limits, out);
		if (err == 0)
			err = manifests_amend(control, request, &limits, out);
		if (err == 0)
			schema_share(control, out);
		return err;
	}
	list_for_each (pos, &control->hosts) {
		const struct control_host *other = list_entry(pos, struct control_host, link);

		if (other->schema == NULL || schema_hash(other->schema) != hash ||
		    !schema_is_from(other->schema, request->schema, request->schema_bytes))
			continue;
		*out = schema_get(other->schema);
		counter_inc(&control->counters.schema_shared);
		return 0;
	}
	return schema_parse(request->schema, request->schema_bytes, &limits, out);
}

/* HELLO and its blob are complete: look at them, make the segments, offer them. */
static void host_offer(struct control_host *host)
{
	const struct attach_request *request = attach_server_request(host->server);
	const struct config *cfg = host->control->p.config;
	const struct config_host *ch = &cfg->hosts[host->host_index];
	struct endpoint_config ec;
	char more[ATTACH_TEXT_MAX / 2] = "";
	uint32_t workers, workers_min;
	int result;

	result = schema_take(host->control, request, &host->schema);
	if (result == 0)
		result = methods_check(host, request, more, sizeof(more));
	if (result == 0 && !methods_take(host, request))
		result = -SPLIT_E_BASE_NOMEM;
	if (result != 0) {
		host_refuse(host, result, more);
		return;
	}
	host->catalog = control_catalog_make(host, request);
	workers = request->workers < ch->workers_max ? request->workers : ch->workers_max;
	workers_min = ch->workers_min != 0 ? ch->workers_min : request->workers_min;
	ec = (struct endpoint_config){
		.name = host->name,
		.daemon_workers = host->control->p.workers_n,
		.host_workers = workers,
		.host_workers_min = workers_min < workers ? workers_min : workers,
		.request_slots = ch->lane_slots,
		.completion_slots = ch->lane_slots,
		.foreign_slots = foreign_slots(ch),
		.to_host_bytes = ch->to_host,
		.to_daemon_bytes = ch->to_daemon,
		.hugepages = host_hugepages(host, ch),
		.numa_node = ch->numa_node,
		.calls_max = ch->calls_max,
		.quota_bytes = ch->memory_max,
		/* What waits in a relay for its host's window is no process's that keeps it; one
		 * that gives nothing back gets nothing more, and who is silent is let go. */
		.release_timeout_ns = host->remote ? 0 : ch->release_timeout_ns,
		.outs_max = outs_max(host, request),
		.revocable = true, /* a call cancelled before it was begun never runs */
	};
	result = attach_server_offer(host->server, &ec);
	if (result != 0) {
		log_refusal(host, result, "");
		host_free(host);
	}
}

/* Post what is still to be posted; what finds a full ring stays. */
static void host_post(struct control_host *host, uint64_t *todo, enum worker_msg_kind kind)
{
	struct control *control = host->control;

	for (unsigned w = 0; w < control->p.workers_n; w++) {
		struct worker_msg msg = {
			.kind = kind,
			.endpoint = &host->shared,
			.config = control->p.config,
			.drain = host->drain,
		};
		uint64_t bit = UINT64_C(1) << w;

		if (!(*todo & bit))
			continue;
		if (worker_post(control->p.workers[w], &msg) != 0) {
			counter_inc(&control->counters.worker_post_full);
			continue;
		}
		*todo &= ~bit;
		if (kind == WORKER_MSG_ENDPOINT_ADD)
			host->added |= bit;
	}
}

/* Who comes and goes for ever does not fill the log with it. */
static void host_log(const struct control_host *host, const char *what, const char *more)
{
	uint32_t held_back;

	if (!log_limit_pass(&host->control->host_log, clock_ns(), HOST_LOG_BURST, CLOCK_NS_PER_SEC,
			    &held_back))
		return;
	if (held_back != 0)
		log_info("%u more attaches and detaches were not logged", held_back);
	if (host->remote)
		log_info("host \"%s\" (remote, %s) %s: %s", host->name, host->guest.peer, what,
			 more);
	else
		log_info("host \"%s\" (pid %d, uid %u) %s: %s", host->name, host->pid, host->uid,
			 what, more);
}

/* Its calls end, its memory goes when the workers are done. Any state from ADDING on, once. */
static void host_remove(struct control_host *host, const char *why)
{
	if (host->state == HOST_REMOVING)
		return;
	host_log(host, "detached", why);
	endpoint_detach(host->endpoint);
	host_unwatch(host);
	state_set(host, HOST_REMOVING);
	/* Who never got the ADD needs no REMOVE. */
	host->add_todo = 0;
	host->remove_todo = host->added;
	host_post(host, &host->remove_todo, WORKER_MSG_ENDPOINT_REMOVE);
}

static void host_activate(struct control_host *host)
{
	struct control *control = host->control;
	char what[64];

	host_post(host, &host->add_todo, WORKER_MSG_ENDPOINT_ADD);
	if (host->add_todo != 0)
		return;
	if (attach_server_activate(host->server) != 0) {
		counter_inc(&control->counters.endpoint_detached);
		host_remove(host, "it went away before it was active");
		return;
	}
	state_set(host, HOST_ACTIVE);
	counter_inc(&control->counters.attach_accepted);
	snprintf(what, sizeof(what), "%u workers, %zu methods",
		 endpoint_geometry(host->endpoint)->host_workers, host->shared.methods_n);
	host_log(host, "attached", what);
}

/* The lowest number that no process of the name has: who takes over from one that died gets its
 * number, and with it what a consistent hash had sent there. */
static unsigned ordinal_free(const struct control *control, int host_index)
{
	uint64_t taken[(CONFIG_ENDPOINTS_MAX + 63) / 64] = {0};
	unsigned n = 0;

	list_for_each (pos, &control->hosts) {
		const struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->host_index == host_index && host->endpoint != NULL &&
		    host->state != HOST_REMOVING)
			taken[host->ordinal / 64] |= UINT64_C(1) << (host->ordinal % 64);
	}
	while (n < CONFIG_ENDPOINTS_MAX - 1 && taken[n / 64] >> (n % 64) & 1)
		n++;
	return n;
}

static uint64_t member_id(const struct control_host *host)
{
	char text[ATTACH_NAME_MAX + 16];
	int n = snprintf(text, sizeof(text), "%s/%u", host->name, host->ordinal);

	return picker_hash(text, (size_t)n);
}

/* Counters of one endpoint, by worker. */
static struct endpoint_counters *told_make(const struct control *control)
{
	size_t bytes = control->p.workers_n * sizeof(struct endpoint_counters);
	struct endpoint_counters *told = aligned_alloc(BITS_CACHE_LINE, bytes);

	if (told != NULL)
		memset(told, 0, bytes);
	return told;
}

/* Both segments are mapped and sealed: the endpoint exists. */
static void host_mapped(struct control_host *host)
{
	struct control *control = host->control;
	const struct attach_request *request = attach_server_request(host->server);
	struct endpoint *endpoint = attach_server_endpoint(host->server);
	struct endpoint_counters *told;

	if (control->state != CONTROL_RUNNING) {
		host_refuse(host, -SPLIT_E_SHEPHERD_ATTACH_LIMIT, ": splitd is shutting down");
		return;
	}
	if (control_watch(control, endpoint_pidfd(endpoint), &host->pidfd_watch) != 0) {
		host_refuse(host, -SPLIT_E_BASE_SYSTEM, ": its pidfd can't be watched");
		return;
	}
	told = told_make(control);
	if (told == NULL) {
		control_unwatch(control, endpoint_pidfd(endpoint));
		host_refuse(host, -SPLIT_E_BASE_NOMEM, "");
		return;
	}
	endpoint_get(endpoint);
	host->ordinal = ordinal_free(control, host->host_index);
	services_find(host, control->p.config, request->methods_n);
	pthread_mutex_lock(&control->lock);
	host->endpoint = endpoint;
	pthread_mutex_unlock(&control->lock);
	host->yield_signal = request->yield_signal;
	if (threads_host_init(host) != 0) {
		free(told);
		host_refuse(host, -SPLIT_E_BASE_NOMEM, "");
		return;
	}
	pthread_mutex_lock(&control->lock);
	host->config = control->p.config->hosts[host->host_index];
	host->config.remote_names = NULL; /* the configuration's, which may go first */
	host->config.remote_names_n = 0;
	host->shared = (struct worker_endpoint){
		.told = told,
		.methods_told = sides_make(control, request->methods_n),
		.endpoint = endpoint,
		.host = &host->config,
		.host_index = (uint32_t)host->host_index,
		.services = host->services,
		.schema = host->schema,
		.methods = host->methods,
		.methods_n = request->methods_n,
		.catalog = host->catalog,
		.id = member_id(host),
		.node = placement_node(host),
		.remote = host->remote,
		.load = host->load,
		.on_cpu = host->words,
		.cores_shared = &host->cores_shared,
	};
	pthread_mutex_unlock(&control->lock);
	placement_check(host);
	host->add_todo = all_workers(control);
	state_set(host, HOST_ADDING);
	host_activate(host);
}

/* ---- draining ------------------------------------------------------------------------------- */

uint64_t host_told(const struct control_host *host, size_t offset)
{
	uint64_t sum = 0;

	for (unsigned w = 0; host->shared.told != NULL && w < host->control->p.workers_n; w++)
		sum += counter_get(
			(const uint64_t *)(const void *)((const char *)&host->shared.told[w] +
							 offset));
	return sum;
}

bool host_drained(const struct control_host *host)
{
	if (host->drain == 0 || host->drain_todo != 0)
		return false;
	for (unsigned w = 0; w < host->control->p.workers_n; w++)
		if (host->added >> w & 1 &&
		    counter_get(&host->shared.told[w].gauge_drained) != host->drain)
			return false;
	return true;
}

/* Begin or end the drain that its operator or the host itself wants; tell the host when it is over.
 */
static void host_drain_look(struct control_host *host)
{
	struct control *control = host->control;
	bool wanted;

	pthread_mutex_lock(&control->lock);
	wanted = host->drain_asked || host->leaving;
	if (wanted != (host->drain != 0)) {
		host->drain = wanted ? ++control->next_drain : 0;
		host->drain_todo = host->added;
		counter_inc(wanted ? &control->counters.drains : &control->counters.undrains);
	}
	pthread_mutex_unlock(&control->lock);
	host_post(host, &host->drain_todo, WORKER_MSG_ENDPOINT_DRAIN);
	if (!host->leaving || host->let_go || !host_drained(host))
		return;
	host->let_go = true;
	if (attach_server_drained(host->server) != 0)
		host_remove(host, "it leaves, and does not listen");
}

static void host_step(struct control_host *host)
{
	enum attach_event event = ATTACH_NOTHING;
	int result = attach_server_step(host->server, &event);

	if (result != 0) {
		if (host->state == HOST_GREETING) {
			log_refusal(host, result, "");
			host_free(host);
		} else {
			counter_inc(&host->control->counters.endpoint_fault);
			host->outcast = result != -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
			host_remove(host, error_text(result));
		}
		return;
	}
	switch (event) {
	case ATTACH_REQUESTED:
		host_offer(host);
		break;
	case ATTACH_MAPPED:
		host_mapped(host);
		break;
	case ATTACH_LEAVES:
		host->leaving = true;
		if (host->state == HOST_ACTIVE)
			host_drain_look(host);
		break;
	case ATTACH_DETACHED:
		counter_inc(&host->control->counters.endpoint_detached);
		host_remove(host, "it said so, or its socket was closed");
		break;
	case ATTACH_NOTHING:
		break;
	}
}

/* No descriptor, no memory: who knocks waits in the backlog, and control does not turn in circles
 * around it. */
static void accept_pause(struct control *control, const char *why)
{
	uint64_t now_ns = clock_ns();

	counter_inc(&control->counters.attach_refused_resources);
	if (log_limit_pass(&control->attach_log, now_ns, REFUSAL_LOG_BURST, CLOCK_NS_PER_SEC, NULL))
		log_warn("attach socket: %s", why);
	control_unwatch(control, control->socket_fd);
	control->accept_again_ns = now_ns + ACCEPT_PAUSE_NS;
}

static void accept_resume(struct control *control, uint64_t now_ns)
{
	if (control->accept_again_ns == 0 || now_ns < control->accept_again_ns)
		return;
	control->accept_again_ns = 0;
	if (control->state == CONTROL_RUNNING &&
	    control_watch(control, control->socket_fd, &control->socket_watch) != 0)
		control->accept_again_ns = now_ns + ACCEPT_PAUSE_NS;
}

/* False: nobody knocks. */
static bool host_accept(struct control *control)
{
	int fd = accept4(control->socket_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct control_host *host;

	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			accept_pause(control, strerror(errno));
		return false;
	}
	host = host_create(control, fd, NULL);
	if (host == NULL)
		counter_inc(&control->counters.attach_refused_resources);
	else
		host_step(host); /* often its HELLO is there already: then it has a name */
	return true;
}

void hosts_guest(struct control *control, const struct relay_guest *guest)
{
	struct control_host *host = host_create(control, guest->fd, guest);

	if (host == NULL)
		counter_inc(&control->counters.attach_refused_resources);
	else
		host_step(host);
}

void hosts_accept(struct control *control)
{
	for (unsigned i = 0; i < ACCEPT_BURST && host_accept(control); i++)
		;
}

static unsigned greeting_same_name(const struct control *control, int host_index)
{
	unsigned n = 0;

	list_for_each (pos, &control->hosts) {
		const struct control_host *h = list_entry(pos, struct control_host, link);

		n += h->state == HOST_GREETING && h->host_index == host_index;
	}
	return n;
}

/* Too many attaches are under way: the oldest gives way, of the name that has most of them (none
 * yet is a name too). So whoever floods the socket displaces himself, and a host that comes to the
 * point gets through. Here and not in accept, since an event of the one that goes may still be in
 * the batch at hand. */
static void greeting_thin(struct control *control)
{
	while (control->greeting_n > control->p.config->control.pending_max) {
		struct control_host *victim = NULL;
		unsigned most = 0;

		list_for_each (pos, &control->hosts) {
			struct control_host *h = list_entry(pos, struct control_host, link);
			unsigned n;

			if (h->state != HOST_GREETING ||
			    (victim != NULL && h->host_index == victim->host_index))
				continue;
			n = greeting_same_name(control, h->host_index);
			if (n <= most)
				continue;
			most = n;
			victim = h;
		}
		if (victim == NULL)
			return;
		host_refuse(victim, -SPLIT_E_SHEPHERD_ATTACH_LIMIT,
			    ": control.pending_max attaches are under way");
	}
}

void hosts_event(struct control_host *host, enum watch_kind kind)
{
	/* Both of its descriptors may be in one batch of events: the first one removed it. */
	if (host->state == HOST_REMOVING)
		return;
	if (kind == WATCH_PIDFD) {
		counter_inc(&host->control->counters.endpoint_died);
		host_remove(host, "its process has ended");
		return;
	}
	host_step(host);
}

void hosts_report(struct control *control, const struct worker_report *report)
{
	struct control_host *host = NULL;

	list_for_each (pos, &control->hosts) {
		struct control_host *h = list_entry(pos, struct control_host, link);

		if (&h->shared == report->endpoint)
			host = h;
	}
	if (host == NULL)
		return; /* a fault that crossed its REMOVE */
	if (report->kind == WORKER_REPORT_ENDPOINT_QUIET) {
		host->quiet |= UINT64_C(1) << report->worker;
	} else if (host->state != HOST_REMOVING) {
		counter_inc(&control->counters.endpoint_fault);
		/* Slow is no crime: who did not release in time may come again. */
		host->outcast = report->cause == -SPLIT_E_SHEPHERD_PROTOCOL ||
				report->cause == -SPLIT_E_SHEPHERD_GONE;
		log_warn("host \"%s\" (pid %d): worker %u: %s", host->name, host->pid,
			 report->worker, error_text(report->cause));
		host_remove(host, error_text(report->cause));
	}
}

void hosts_tick(struct control *control, uint64_t now_ns)
{
	greeting_thin(control);
	guests_accept(control);
	accept_resume(control, now_ns);
	guests_resume(control, now_ns);
	departed_tick(control, now_ns);
	list_for_each_safe (pos, &control->hosts) {
		struct control_host *host = list_entry(pos, struct control_host, link);

		switch (host->state) {
		case HOST_GREETING:
			if (now_ns >= host->deadline_ns)
				host_refuse(host, -SPLIT_E_SHEPHERD_ATTACH_TIMEOUT, "");
			break;
		case HOST_ADDING:
			host_activate(host);
			break;
		case HOST_ACTIVE:
			if (host->leave_ns != 0 && now_ns >= host->leave_ns)
				host_remove(host, "the configuration names it no more");
			else
				host_drain_look(host);
			break;
		case HOST_REMOVING:
			host_post(host, &host->remove_todo, WORKER_MSG_ENDPOINT_REMOVE);
			if (host->remove_todo == 0 && (host->added & ~host->quiet) == 0)
				host_free(host);
			break;
		}
	}
}

void hosts_configure(struct control *control, const struct config *fresh)
{
	uint64_t leave_ns = clock_ns() + fresh->shutdown.drain_timeout_ns;

	list_for_each_safe (pos, &control->hosts) {
		struct control_host *host = list_entry(pos, struct control_host, link);
		bool stays =
			host->host_index < 0 ||
			(!fresh->hosts[host->host_index].gone &&
			 (host->remote ? guest_is_for(&host->guest, &fresh->hosts[host->host_index])
				       : config_host_has_uid(&fresh->hosts[host->host_index],
							     host->uid)));

		if (host->state == HOST_GREETING && !stays) {
			host_refuse(host, -SPLIT_E_SHEPHERD_ATTACH_NAME,
				    ": the configuration names it no more");
			continue;
		}
		if (host->services != NULL && host->endpoint != NULL)
			services_find(host, fresh, host->shared.methods_n);
		/* It gets no new calls; those it has may end. */
		if (stays)
			host->leave_ns = 0;
		else if (host->leave_ns == 0)
			host->leave_ns = leave_ns;
	}
}

void hosts_remove_all(struct control *control, const char *why)
{
	list_for_each_safe (pos, &control->hosts) {
		struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->state == HOST_GREETING)
			host_refuse(host, -SPLIT_E_SHEPHERD_ATTACH_LIMIT, ": splitd stops");
		else
			host_remove(host, why);
	}
}

void hosts_destroy_all(struct control *control)
{
	while (!list_empty(&control->hosts)) {
		struct control_host *host =
			list_entry(list_first(&control->hosts), struct control_host, link);

		if (host->endpoint != NULL)
			endpoint_detach(host->endpoint);
		host_free(host);
	}
}
