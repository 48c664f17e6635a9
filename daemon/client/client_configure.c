/* Channels from their configuration, at the beginning and again while calls go on.
 *
 * A channel keeps its place, its counters and what it knows of addresses that stay. What calls,
 * connections and handshakes need of the strings they have copied, so that the old ones may go at
 * once. A connection that was made by other rules (TLS or not, another name in the certificate,
 * health checks) takes no new calls and ends with its last. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/client/client_internal.h"

static void config_drop(struct client_channel_config *config)
{
	tls_context_put(config->tls);
	free((char *)config->name);
	free((char *)config->target);
	free((char *)config->authority);
	free((char *)config->tls_name);
	free((char *)config->health_service);
	free((char *)config->hash_key);
	free((char *)config->sticky_key);
	*config = (struct client_channel_config){0};
}

static char *copy(const char *text, bool *good)
{
	char *p = text != NULL ? strdup(text) : NULL;

	*good &= text == NULL || p != NULL;
	return p;
}

/* "host:port", "[::1]:port" or either without a port: the host. */
static char *host_of(const char *authority)
{
	const char *end = strrchr(authority, ':');
	bool bracket = authority[0] == '[';

	if (bracket)
		end = strchr(authority, ']');
	else if (end != NULL && strchr(authority, ':') != end)
		end = NULL; /* an IPv6 address as it is */
	if (end == NULL)
		return strdup(authority);
	return strndup(authority + bracket, (size_t)(end - authority) - bracket);
}

static bool config_good(const struct client_channel_config *cfg)
{
	return cfg->name != NULL && cfg->authority != NULL && cfg->connections_max > 0 &&
	       cfg->streams_max > 0 && cfg->calls_max > 0 && cfg->retry.attempts_max >= 1 &&
	       cfg->retry.attempts_max <= 5 && cfg->retry.backoff_percent >= 100 &&
	       cfg->retry.tokens_max <= 1000 &&
	       (cfg->health_service == NULL || strlen(cfg->health_service) <= 127);
}

/* Strings and a reference of the TLS context of its own; the addresses are left out. */
static int config_copy(const struct client_channel_config *from, struct client_channel_config *out)
{
	bool good = true;

	*out = (struct client_channel_config){0};
	if (!config_good(from))
		return -SPLIT_E_BASE_INVALID;
	*out = *from;
	out->addresses = NULL;
	out->addresses_n = 0;
	out->name = copy(from->name, &good);
	out->target = copy(from->target, &good);
	out->authority = copy(from->authority, &good);
	out->tls_name =
		from->tls_name != NULL ? copy(from->tls_name, &good) : host_of(from->authority);
	out->health_service = copy(from->health_service, &good);
	out->hash_key = copy(from->hash_key, &good);
	out->sticky_key = copy(from->sticky_key, &good);
	out->tls = from->tls != NULL ? tls_context_get(from->tls) : NULL;
	if (good && out->tls_name != NULL)
		return 0;
	config_drop(out);
	return -SPLIT_E_BASE_NOMEM;
}

static void tokens_set(struct channel *ch, int milli)
{
	ch->tokens_milli = milli;
	counter_set(&ch->counters.gauge_tokens_milli, (uint64_t)milli);
}

int channel_init(struct client *c, unsigned index, const struct client_channel_config *cfg)
{
	struct channel *ch = &c->channels[index];
	struct picker_config picker = cfg->picker;
	int err;

	ch->c = c;
	ch->index = index;
	list_init(&ch->targets);
	list_init(&ch->leaving);
	list_init(&ch->waiting);
	list_init(&ch->calls);
	list_init(&ch->due);
	err = config_copy(cfg, &ch->config);
	if (err != 0)
		return err;
	(void)snprintf(ch->layer, sizeof(ch->layer), "channel_%.63s", cfg->name);
	(void)snprintf(ch->layer_picker, sizeof(ch->layer_picker), "%s_balance", ch->layer);
	tokens_set(ch, (int)cfg->retry.tokens_max * 1000);
	ch->keepalive_ns = cfg->keepalive_ns;
	picker.members_max = c->config.addresses_max;
	picker.seed = random_next(&c->random);
	err = picker_init(&ch->picker, &picker);
	if (err == 0 && cfg->addresses_n > 0)
		client_channel_addresses(c, index, cfg->addresses, cfg->addresses_n, c->now_ns);
	return err;
}

void channel_fini(struct channel *ch)
{
	channel_end(ch);
	config_drop(&ch->config);
}

/* ---- while calls go on ------------------------------------------------------------------------
 */

static bool text_same(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Whether connections made by the one serve the other. */
static bool connections_fit(const struct client_channel_config *a,
			    const struct client_channel_config *b)
{
	return (a->tls == NULL) == (b->tls == NULL) && text_same(a->tls_name, b->tls_name) &&
	       text_same(a->health_service, b->health_service);
}

static void connections_retire(struct channel *ch)
{
	list_for_each (pos, &ch->targets) {
		struct target *t = list_entry(pos, struct target, link);

		list_for_each (p, &t->connections) {
			struct client_connection *conn =
				list_entry(p, struct client_connection, link);

			health_drop(conn);
			conn->outdated = true;
			connection_retire(conn);
		}
	}
	list_for_each (pos, &ch->leaving) {
		struct target *t = list_entry(pos, struct target, link);

		list_for_each (p, &t->connections)
			health_drop(list_entry(p, struct client_connection, link));
	}
}

static void retry_budget_set(struct channel *ch, const struct client_retry_config *old)
{
	int max = (int)ch->config.retry.tokens_max * 1000;

	/* One that begins is full. */
	if (old->tokens_max == 0 || ch->tokens_milli > max)
		tokens_set(ch, max);
}

int client_channel_configure(struct client *c, unsigned index,
			     const struct client_channel_config *cfg, uint64_t now_ns)
{
	struct channel *ch = &c->channels[index];
	struct client_channel_config old, fresh;
	struct picker_config picker = cfg->picker;
	int err;

	c->now_ns = now_ns;
	if (index > c->channels_n || index >= c->channels_max)
		return -SPLIT_E_BASE_LIMIT;
	if (index == c->channels_n) {
		err = channel_init(c, index, cfg);
		if (err != 0)
			channel_fini(ch);
		else
			__atomic_store_n(&c->channels_n, index + 1, __ATOMIC_RELEASE);
		return err;
	}
	picker.members_max = c->config.addresses_max;
	picker.seed = ch->picker.cfg.seed;
	err = config_copy(cfg, &fresh);
	if (err == 0)
		err = picker_configure(&ch->picker, &picker);
	if (err != 0) {
		config_drop(&fresh);
		return err;
	}
	old = ch->config;
	ch->config = fresh;
	/* The very string stays: a watch that is not sent yet points to it. */
	if (text_same(old.health_service, fresh.health_service)) {
		ch->config.health_service = old.health_service;
		old.health_service = fresh.health_service;
	}
	retry_budget_set(ch, &old.retry);
	if (old.keepalive_ns != fresh.keepalive_ns)
		ch->keepalive_ns = fresh.keepalive_ns;
	if (!connections_fit(&old, &fresh))
		connections_retire(ch);
	if (fresh.unused || !text_same(old.target, fresh.target))
		channel_forget(ch, cfg->addresses, cfg->addresses_n);
	if (cfg->addresses_n > 0)
		client_channel_addresses(c, index, cfg->addresses, cfg->addresses_n, now_ns);
	list_for_each (pos, &ch->targets)
		target_update(list_entry(pos, struct target, link));
	config_drop(&old);
	channel_due(ch);
	return 0;
}
