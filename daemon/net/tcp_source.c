/* Admission by where connections come from: how many of them, and how many handshakes, the networks
 * of the peers have. A table of the prefixes that have any, keyed like that of the connections. An
 * entry lives as long as one of its connections, so their bound is its bound.
 */
#include "daemon/net/net_internal.h"

#include <stdlib.h>
#include <string.h>

struct tcp_source {
	struct tcp_source *hash_next;
	uint64_t prefix[2];
	uint32_t family;
	uint32_t connections, half_open;
};

static bool limits_any(const struct tcp_config *t)
{
	return t->source_connections_max != 0 || t->source_half_open_max != 0;
}

int tcp_source_init(struct net_stack *s, uint32_t conns)
{
	uint64_t buckets = pow2_up(conns);

	if (!limits_any(&s->config.tcp))
		return 0;
	s->source_mask = (uint32_t)buckets - 1;
	s->sources = calloc(buckets, sizeof(struct tcp_source *));
	if (s->sources == NULL)
		return -SPLIT_E_BASE_NOMEM;
	return pool_init(&s->source_pool, sizeof(struct tcp_source), conns, NULL);
}

void tcp_source_fini(struct net_stack *s)
{
	free(s->sources);
	pool_fini(&s->source_pool);
}

static struct tcp_source source_key(const struct net_stack *s, const struct net_addr *remote)
{
	const struct tcp_config *t = &s->config.tcp;
	bool v4 = remote->family == NET_FAMILY_IPV4;
	unsigned bits = v4 ? t->source_prefix_ipv4 : t->source_prefix_ipv6;
	struct tcp_source key = {.family = remote->family};
	uint8_t bytes[16] = {0};

	for (unsigned i = 0; i < 16 && bits > 0; i++) {
		unsigned here = bits < 8 ? bits : 8;

		bytes[i] = remote->bytes[i] & (uint8_t)(0xff << (8 - here));
		bits -= here;
	}
	memcpy(key.prefix, bytes, sizeof(bytes));
	return key;
}

static struct tcp_source **source_place(struct net_stack *s, const struct tcp_source *key)
{
	uint64_t hash = siphash24(&s->hash_key, key->prefix, sizeof(key->prefix));
	struct tcp_source **pp = &s->sources[(uint32_t)hash & s->source_mask];

	while (*pp != NULL && ((*pp)->family != key->family ||
			       memcmp((*pp)->prefix, key->prefix, sizeof(key->prefix)) != 0))
		pp = &(*pp)->hash_next;
	return pp;
}

enum tcp_source_verdict tcp_source_ask(struct net_stack *s, const struct net_addr *remote)
{
	const struct tcp_config *t = &s->config.tcp;
	struct tcp_source key;
	const struct tcp_source *found;

	if (s->sources == NULL)
		return TCP_SOURCE_OK;
	key = source_key(s, remote);
	found = *source_place(s, &key);
	if (found == NULL)
		return TCP_SOURCE_OK;
	if (t->source_connections_max != 0 && found->connections >= t->source_connections_max)
		return TCP_SOURCE_FULL;
	if (t->source_half_open_max != 0 && found->half_open >= t->source_half_open_max)
		return TCP_SOURCE_CROWDED;
	return TCP_SOURCE_OK;
}

void tcp_source_enter(struct tcp_conn *c, bool half_open)
{
	struct net_stack *s = c->stack;
	struct tcp_source key, **pp;

	if (s->sources == NULL)
		return;
	key = source_key(s, &c->key.remote);
	pp = source_place(s, &key);
	if (*pp == NULL) {
		*pp = pool_get(&s->source_pool); /* one for each connection there may be */
		**pp = key;
	}
	c->marks |= TCPM_SOURCE;
	if (half_open)
		(*pp)->half_open++;
	else
		(*pp)->connections++;
}

/* Where the entry stands that counts `c`. */
static struct tcp_source **source_of(const struct tcp_conn *c)
{
	struct tcp_source key = source_key(c->stack, &c->key.remote);

	return source_place(c->stack, &key);
}

void tcp_source_established(struct tcp_conn *c)
{
	struct tcp_source *src;

	if ((c->marks & TCPM_SOURCE) == 0)
		return;
	src = *source_of(c);
	src->half_open--;
	src->connections++;
}

void tcp_source_leave(struct tcp_conn *c, bool half_open)
{
	struct net_stack *s = c->stack;
	struct tcp_source *src, **pp;

	if ((c->marks & TCPM_SOURCE) == 0)
		return;
	c->marks &= (uint8_t)~TCPM_SOURCE;
	pp = source_of(c);
	src = *pp;
	if (half_open)
		src->half_open--;
	else
		src->connections--;
	if (src->half_open + src->connections != 0)
		return;
	*pp = src->hash_next;
	pool_put(&s->source_pool, src);
}
