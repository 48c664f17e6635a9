/* Channels to servers: their TLS contexts, and the names that are resolved for them.
 *
 * A reload makes every context anew, or none (channels_prepare); workers take them over with the
 * configuration (channels_configure), and the old ones live on until no handshake uses them. What
 * was resolved for targets that stay is kept.
 *
 * Names go through the system's resolver (getaddrinfo), which may take seconds, so a thread of its
 * own asks it, one name after the other. What it finds is taken over at the control thread's next
 * tick and posted to the workers; a list lives until all workers have copied it. The thread is
 * detached: at the end nobody waits for a name server that does not answer. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/control/control_internal.h"
#include "daemon/tls/tls.h"

/* A name that could not be resolved is asked for again after this, or its interval if that is less.
 */
#define FAILED_AGAIN_NS (5 * CLOCK_NS_PER_SEC)
/* One with an address that cannot be connected to is asked for at once, but no sooner after the
 * last time than this. */
#define FAILING_AGAIN_NS CLOCK_NS_PER_SEC

struct found {
	uint32_t n;
	int error; /* of getaddrinfo */
	struct worker_address at[CONFIG_CHANNEL_ADDRESSES_MAX];
};

struct name {
	bool wanted, fresh;
	char channel[CONFIG_NAME_MAX + 1];
	char host[CONFIG_AUTHORITY_MAX + 1];
	uint16_t port;
	uint64_t interval_ns, asked_ns, next_ns;
	struct found found;
};

/* Shared by the control thread and the resolver's; the last of them frees it. */
struct resolver {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned refs;
	bool stop;
	uint32_t names_n;
	struct name names[CONFIG_CHANNELS_MAX];
};

struct control_channels {
	/* Workers read it at their start and while they take a configuration over. */
	struct tls_context *contexts[CONFIG_CHANNELS_MAX];
	struct tls_context *fresh[CONFIG_CHANNELS_MAX]; /* of a reload under way */
	struct list past;                               /* contexts not in use any more */
	struct resolver *resolver;                      /* NULL: no name is to be resolved */
	char targets[CONFIG_CHANNELS_MAX][CONFIG_TARGET_MAX + 1]; /* what `lists` are of */
	struct worker_addresses *lists[CONFIG_CHANNELS_MAX];
	uint64_t todo[CONFIG_CHANNELS_MAX]; /* workers that have not got the list yet */
	struct list retired;                /* struct worker_addresses */
};

/* ---- TLS --------------------------------------------------------------------------------------
 */

static const char *given(const char *text)
{
	return text[0] != '\0' ? text : NULL;
}

static bool wanted(const struct config_channel *ch)
{
	return !ch->gone && !config_channel_is_local(ch);
}

static int context_make(const struct config *config, uint32_t index, const char *path,
			void (*tell)(const char *line), struct tls_context **out)
{
	const struct config_channel *ch = &config->channels[index];
	const struct tls_client_config cfg = {
		.name = ch->name,
		.ca_file = strcmp(ch->tls.ca, "system") == 0 ? NULL : ch->tls.ca,
		.cert_file = given(ch->tls.cert),
		.key_file = given(ch->tls.key),
		.min_version =
			ch->tls.min_version == CONFIG_TLS_1_3 ? TLS_VERSION_1_3 : TLS_VERSION_1_2,
	};
	struct tls_error error;
	char line[1024];
	int err;

	if (!wanted(ch) || ch->tls.ca[0] == '\0')
		return 0;
	err = tls_context_create_client(&cfg, out, &error);
	if (err == 0)
		return 0;
	(void)snprintf(line, sizeof(line), "%s: channels[%u].tls: %s", path, index,
		       err == -SPLIT_E_TLS_CONFIG ? error.text : error_text(err));
	tell(line);
	return err;
}

static void contexts_drop(struct tls_context *contexts[CONFIG_CHANNELS_MAX])
{
	for (uint32_t i = 0; i < CONFIG_CHANNELS_MAX; i++) {
		tls_context_put(contexts[i]);
		contexts[i] = NULL;
	}
}

/* All of them, or none and what is wrong. */
static int contexts_make(const struct config *config, const char *path,
			 void (*tell)(const char *line),
			 struct tls_context *out[CONFIG_CHANNELS_MAX])
{
	int result = 0;

	for (uint32_t i = 0; i < config->channels_n; i++) {
		int err = context_make(config, i, path, tell, &out[i]);

		if (err != 0)
			result = err;
	}
	if (result != 0)
		contexts_drop(out);
	return result;
}

/* ---- the resolver's thread --------------------------------------------------------------------
 */

static void resolver_put(struct resolver *r)
{
	bool last;

	pthread_mutex_lock(&r->lock);
	last = --r->refs == 0;
	pthread_mutex_unlock(&r->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->changed);
	free(r);
}

static void resolve(const char *host, uint16_t port, struct found *out)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;

	memset(out, 0, sizeof(*out));
	out->error = getaddrinfo(host, NULL, &hints, &list);
	if (out->error != 0)
		return;
	for (struct addrinfo *a = list; a != NULL && out->n < CONFIG_CHANNEL_ADDRESSES_MAX;
	     a = a->ai_next) {
		struct worker_address *to = &out->at[out->n];
		struct sockaddr_in sin;
		struct sockaddr_in6 sin6;

		if (a->ai_family == AF_INET) {
			memcpy(&sin, a->ai_addr, sizeof(sin));
			memcpy(to->bytes, &sin.sin_addr, 4);
			to->family = 4;
		} else if (a->ai_family == AF_INET6) {
			memcpy(&sin6, a->ai_addr, sizeof(sin6));
			memcpy(to->bytes, &sin6.sin6_addr, 16);
			to->family = 6;
		} else {
			continue;
		}
		to->port = port;
		out->n++;
	}
	freeaddrinfo(list);
}

/* The name that is due, or when one will be. */
static struct name *name_due(struct resolver *r, uint64_t now_ns, uint64_t *next_ns_out)
{
	*next_ns_out = UINT64_MAX;
	for (uint32_t i = 0; i < r->names_n; i++) {
		struct name *n = &r->names[i];

		if (!n->wanted)
			continue;
		if (n->next_ns <= now_ns)
			return n;
		if (n->next_ns < *next_ns_out)
			*next_ns_out = n->next_ns;
	}
	return NULL;
}

static void name_found(struct name *n, const struct found *found)
{
	uint64_t again_ns = n->interval_ns;

	if (found->n == 0 && again_ns > FAILED_AGAIN_NS)
		again_ns = FAILED_AGAIN_NS;
	n->found = *found;
	n->fresh = true;
	n->asked_ns = clock_ns();
	n->next_ns = n->asked_ns + again_ns;
}

static void wait_until(struct resolver *r, uint64_t when_ns)
{
	struct timespec at;

	at.tv_sec = (time_t)(when_ns / CLOCK_NS_PER_SEC);
	at.tv_nsec = (long)(when_ns % CLOCK_NS_PER_SEC);
	(void)pthread_cond_timedwait(&r->changed, &r->lock, &at);
}

static void *resolver_run(void *arg)
{
	struct resolver *r = arg;
	uint64_t next_ns;

	pthread_mutex_lock(&r->lock);
	while (!r->stop) {
		struct name *n = name_due(r, clock_ns(), &next_ns);
		struct found found;

		if (n == NULL) {
			wait_until(r, next_ns);
			continue;
		}
		/* Host and port never change while we are here. */
		pthread_mutex_unlock(&r->lock);
		resolve(n->host, n->port, &found);
		pthread_mutex_lock(&r->lock);
		name_found(n, &found);
	}
	pthread_mutex_unlock(&r->lock);
	resolver_put(r);
	return NULL;
}

static int resolver_create(const struct config *config, struct resolver **out)
{
	struct resolver *r;
	pthread_condattr_t attr;
	bool any = false;

	*out = NULL;
	for (uint32_t i = 0; i < config->channels_n; i++)
		any |= wanted(&config->channels[i]) && config->channels[i].addresses_n == 0;
	if (!any)
		return 0;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return -SPLIT_E_BASE_NOMEM;
	r->refs = 1;
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* clock_ns()'s */
	pthread_cond_init(&r->changed, &attr);
	pthread_condattr_destroy(&attr);
	r->names_n = config->channels_n;
	for (uint32_t i = 0; i < config->channels_n; i++) {
		const struct config_channel *ch = &config->channels[i];
		struct name *n = &r->names[i];

		n->wanted = wanted(ch) && ch->addresses_n == 0;
		memcpy(n->channel, ch->name, sizeof(n->channel));
		memcpy(n->host, ch->host, sizeof(n->host));
		n->port = (uint16_t)ch->port;
		n->interval_ns = ch->resolve_interval_ns;
	}
	*out = r;
	return 0;
}

/* Whatever it still asks, nobody hears it. */
static void resolver_stop(struct resolver *r)
{
	if (r == NULL)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	resolver_put(r);
}

/* ---- life -------------------------------------------------------------------------------------
 */

int control_channels_create(const struct config *config, const char *path,
			    void (*tell)(const char *line), struct control_channels **out)
{
	struct control_channels *cs = calloc(1, sizeof(*cs));
	int err;

	*out = NULL;
	if (cs == NULL)
		return -SPLIT_E_BASE_NOMEM;
	list_init(&cs->retired);
	list_init(&cs->past);
	for (uint32_t i = 0; i < config->channels_n; i++)
		memcpy(cs->targets[i], config->channels[i].target, sizeof(cs->targets[i]));
	err = contexts_make(config, path, tell, cs->contexts);
	if (err == 0)
		err = resolver_create(config, &cs->resolver);
	if (err != 0) {
		control_channels_destroy(cs);
		return err;
	}
	*out = cs;
	return 0;
}

int control_channels_start(struct control_channels *cs)
{
	pthread_t thread;

	if (cs == NULL || cs->resolver == NULL)
		return 0;
	cs->resolver->refs++;
	if (pthread_create(&thread, NULL, resolver_run, cs->resolver) != 0) {
		cs->resolver->refs--;
		return -SPLIT_E_BASE_SYSTEM;
	}
	pthread_detach(thread);
	return 0;
}

void control_channels_destroy(struct control_channels *cs)
{
	struct list *node;

	if (cs == NULL)
		return;
	resolver_stop(cs->resolver);
	contexts_drop(cs->contexts);
	contexts_drop(cs->fresh);
	contexts_past_fini(&cs->past);
	for (uint32_t i = 0; i < CONFIG_CHANNELS_MAX; i++)
		free(cs->lists[i]);
	while ((node = list_pop_head(&cs->retired)) != NULL)
		free(list_entry(node, struct worker_addresses, link));
	free(cs);
}

/* ---- reload ------------------------------------------------------------------------------------
 */

int channels_prepare(struct control *control, const struct config *fresh,
		     void (*tell)(const char *line))
{
	struct control_channels *cs = control->p.channels;

	return cs != NULL ? contexts_make(fresh, control->p.config_path, tell, cs->fresh) : 0;
}

void channels_prepare_undo(struct control *control)
{
	if (control->p.channels != NULL)
		contexts_drop(control->p.channels->fresh);
}

static void list_retire(struct control_channels *cs, uint32_t index)
{
	if (cs->lists[index] != NULL)
		list_add_tail(&cs->retired, &cs->lists[index]->link);
	cs->lists[index] = NULL;
	cs->todo[index] = 0;
}

void channels_configure(struct control *control)
{
	const struct config *config = control->p.config;
	struct control_channels *cs = control->p.channels;

	if (cs == NULL)
		return;
	for (uint32_t i = 0; i < config->channels_n; i++) {
		const struct config_channel *ch = &config->channels[i];

		if (cs->contexts[i] != NULL)
			context_past_add(&cs->past, cs->contexts[i]);
		cs->contexts[i] = cs->fresh[i];
		cs->fresh[i] = NULL;
		if (wanted(ch) && strcmp(cs->targets[i], ch->target) == 0)
			continue;
		list_retire(cs, i);
		memcpy(cs->targets[i], ch->target, sizeof(cs->targets[i]));
	}
	resolver_stop(cs->resolver);
	if (resolver_create(config, &cs->resolver) != 0 || control_channels_start(cs) != 0)
		log_error("reload: no memory or thread to resolve the names of channels with");
}

struct tls_context *const *control_channels_contexts(const struct control_channels *cs)
{
	return cs != NULL ? cs->contexts : NULL;
}

/* ---- the control thread's tick ----------------------------------------------------------------
 */

static void list_log(const struct name *name, const struct worker_addresses *old)
{
	const struct found *found = &name->found;

	if (found->n == 0)
		log_warn("channel %s: %s cannot be resolved: %s", name->channel, name->host,
			 found->error != 0 ? gai_strerror(found->error) : "it has no address");
	else if (old == NULL || old->n != found->n)
		log_info("channel %s: %s has %u addresses", name->channel, name->host, found->n);
}

static void list_take(struct control *control, uint32_t index)
{
	struct control_channels *cs = control->p.channels;
	const struct found *found = &cs->resolver->names[index].found;
	struct worker_addresses *old = cs->lists[index];
	struct worker_addresses *fresh;

	list_log(&cs->resolver->names[index], old);
	/* A resolver that is away for a while takes no servers away. */
	if (found->error != 0 && old != NULL && old->n != 0)
		return;
	if (old != NULL && old->n == found->n &&
	    memcmp(old->at, found->at, found->n * sizeof(found->at[0])) == 0)
		return;
	fresh = calloc(1, sizeof(*fresh) + found->n * sizeof(fresh->at[0]));
	if (fresh == NULL)
		return; /* the next time, then */
	fresh->n = found->n;
	memcpy(fresh->at, found->at, found->n * sizeof(fresh->at[0]));
	list_init(&fresh->link);
	if (old != NULL)
		list_add_tail(&cs->retired, &old->link);
	cs->lists[index] = fresh;
	cs->todo[index] = control_workers_mask(control);
}

static void list_post(struct control *control, uint32_t index)
{
	struct control_channels *cs = control->p.channels;
	const struct worker_msg msg = {
		.kind = WORKER_MSG_ADDRESSES,
		.addresses = cs->lists[index],
		.channel = index,
	};

	for (unsigned w = 0; w < control->p.workers_n; w++) {
		uint64_t bit = UINT64_C(1) << w;

		if ((cs->todo[index] & bit) == 0)
			continue;
		atomic_fetch_add_explicit(&cs->lists[index]->readers, 1, memory_order_relaxed);
		if (worker_post(control->p.workers[w], &msg) == 0) {
			cs->todo[index] &= ~bit;
			continue;
		}
		atomic_fetch_sub_explicit(&cs->lists[index]->readers, 1, memory_order_relaxed);
		counter_inc(&control->counters.worker_post_full);
	}
}

static void name_hurry(struct resolver *r, struct name *n)
{
	uint64_t when_ns = n->asked_ns + FAILING_AGAIN_NS;

	if (!n->wanted || n->asked_ns == 0 || when_ns >= n->next_ns)
		return;
	n->next_ns = when_ns;
	pthread_cond_broadcast(&r->changed);
}

static void names_take(struct control *control)
{
	struct resolver *r = control->p.channels->resolver;
	uint64_t failing = 0;

	for (unsigned w = 0; w < control->p.workers_n; w++)
		failing |= worker_channels_failing(control->p.workers[w]);
	pthread_mutex_lock(&r->lock);
	for (uint32_t i = 0; failing != 0 && i < r->names_n; i++)
		if ((failing >> i & 1) != 0)
			name_hurry(r, &r->names[i]);
	for (uint32_t i = 0; i < r->names_n; i++) {
		if (!r->names[i].fresh)
			continue;
		r->names[i].fresh = false;
		list_take(control, i);
	}
	pthread_mutex_unlock(&r->lock);
}

void channels_tick(struct control *control)
{
	struct control_channels *cs = control->p.channels;

	if (cs == NULL)
		return;
	contexts_past_reap(&cs->past);
	if (cs->resolver != NULL)
		names_take(control);
	/* Workers know the channels of one configuration: those that these lists are of. */
	for (uint32_t i = 0; control->config_wait == 0 && i < CONFIG_CHANNELS_MAX; i++)
		if (cs->todo[i] != 0)
			list_post(control, i);
	list_for_each_safe (pos, &cs->retired) {
		struct worker_addresses *old = list_entry(pos, struct worker_addresses, link);

		if (atomic_load_explicit(&old->readers, memory_order_acquire) != 0)
			continue;
		list_del(&old->link);
		free(old);
	}
}
