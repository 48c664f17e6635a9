/* Channels to servers: their TLS contexts, and the names that are resolved for them.
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
	uint64_t interval_ns, next_ns;
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
	uint32_t channels_n;
	struct tls_context *contexts[CONFIG_CHANNELS_MAX];
	struct resolver *resolver; /* NULL: no name is to be resolved */
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

static int context_make(struct control_channels *cs, const struct config *config, uint32_t index,
			const char *path, void (*tell)(const char *line))
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

	if (config_channel_is_local(ch) || ch->tls.ca[0] == '\0')
		return 0;
	err = tls_context_create_client(&cfg, &cs->contexts[index], &error);
	if (err == 0)
		return 0;
	(void)snprintf(line, sizeof(line), "%s: channels[%u].tls: %s", path, index,
		       err == -SPLIT_E_TLS_CONFIG ? error.text : error_text(err));
	tell(line);
	return err;
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
	n->next_ns = clock_ns() + again_ns;
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

static struct resolver *resolver_create(const struct config *config)
{
	struct resolver *r = calloc(1, sizeof(*r));
	pthread_condattr_t attr;

	if (r == NULL)
		return NULL;
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

		n->wanted = !config_channel_is_local(ch) && ch->addresses_n == 0;
		memcpy(n->channel, ch->name, sizeof(n->channel));
		memcpy(n->host, ch->host, sizeof(n->host));
		n->port = (uint16_t)ch->port;
		n->interval_ns = ch->resolve_interval_ns;
	}
	return r;
}

/* ---- life -------------------------------------------------------------------------------------
 */

int control_channels_create(const struct config *config, const char *path,
			    void (*tell)(const char *line), struct control_channels **out)
{
	struct control_channels *cs;
	bool wanted = false, names = false;
	int err = 0;

	*out = NULL;
	for (uint32_t i = 0; i < config->channels_n; i++) {
		wanted |= !config_channel_is_local(&config->channels[i]);
		names |= !config_channel_is_local(&config->channels[i]) &&
			 config->channels[i].addresses_n == 0;
	}
	if (!wanted)
		return 0;
	cs = calloc(1, sizeof(*cs));
	if (cs == NULL)
		return -SPLIT_E_BASE_NOMEM;
	cs->channels_n = config->channels_n;
	list_init(&cs->retired);
	for (uint32_t i = 0; i < config->channels_n && err == 0; i++)
		err = context_make(cs, config, i, path, tell);
	if (err == 0 && names) {
		cs->resolver = resolver_create(config);
		err = cs->resolver == NULL ? -SPLIT_E_BASE_NOMEM : 0;
	}
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
	if (cs->resolver != NULL) {
		pthread_mutex_lock(&cs->resolver->lock);
		cs->resolver->stop = true;
		pthread_cond_broadcast(&cs->resolver->changed);
		pthread_mutex_unlock(&cs->resolver->lock);
		resolver_put(cs->resolver);
	}
	for (uint32_t i = 0; i < CONFIG_CHANNELS_MAX; i++) {
		tls_context_put(cs->contexts[i]);
		free(cs->lists[i]);
	}
	while ((node = list_pop_head(&cs->retired)) != NULL)
		free(list_entry(node, struct worker_addresses, link));
	free(cs);
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

void channels_tick(struct control *control)
{
	struct control_channels *cs = control->p.channels;
	struct resolver *r = cs != NULL ? cs->resolver : NULL;

	if (r == NULL)
		return;
	pthread_mutex_lock(&r->lock);
	for (uint32_t i = 0; i < r->names_n; i++) {
		if (!r->names[i].fresh)
			continue;
		r->names[i].fresh = false;
		list_take(control, i);
	}
	pthread_mutex_unlock(&r->lock);
	for (uint32_t i = 0; i < r->names_n; i++)
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
