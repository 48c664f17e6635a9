/* Finding connections: a table of connections and one of TIME_WAIT records, both chained, sized for
 * their bounds, and hashed with SipHash under a secret key so that no peer can choose collisions.
 *
 * All TIME_WAIT records live equally long, so a list in order of expiry and one timer for its head
 * serve them all.
 */
#include "daemon/net/net_internal.h"

#include <string.h>

void flow_key_make(struct flow_key *k, const struct net_addr *local, const struct net_addr *remote)
{
	k->local = *local;
	k->remote = *remote;
}

static uint64_t flow_hash(const struct siphash_key *key, const struct flow_key *k)
{
	size_t each = k->local.family == NET_FAMILY_IPV4 ? 4 : 16;
	uint8_t bytes[36];

	memcpy(bytes, k->local.bytes, each);
	memcpy(bytes + each, k->remote.bytes, each);
	memcpy(bytes + 2 * each, &k->local.port, 2);
	memcpy(bytes + 2 * each + 2, &k->remote.port, 2);
	return siphash24(key, bytes, 2 * each + 4);
}

uint32_t tcp_table_bucket(const struct net_stack *s, const struct flow_key *k)
{
	return (uint32_t)flow_hash(&s->hash_key, k) & s->table_mask;
}

static bool flow_equal(const struct flow_key *a, const struct flow_key *b)
{
	return net_addr_equal(&a->remote, &b->remote) && net_addr_equal(&a->local, &b->local);
}

static struct tcp_conn *find_in(struct tcp_conn *c, const struct flow_key *k)
{
	while (c != NULL && !flow_equal(&c->key, k))
		c = c->hash_next;
	return c;
}

struct tcp_conn *tcp_table_find(struct net_stack *s, const struct flow_key *k)
{
	return find_in(s->conns[tcp_table_bucket(s, k)], k);
}

struct tcp_conn *tcp_table_find_rx(struct net_stack *s, const struct flow_key *k)
{
	if (s->rx_bucket == UINT32_MAX)
		return tcp_table_find(s, k);
	return find_in(s->conns[s->rx_bucket], k);
}

void tcp_table_add(struct net_stack *s, struct tcp_conn *c)
{
	uint32_t bucket = tcp_table_bucket(s, &c->key);

	c->hash_next = s->conns[bucket];
	s->conns[bucket] = c;
}

void tcp_table_del(struct net_stack *s, struct tcp_conn *c)
{
	struct tcp_conn **pp = &s->conns[tcp_table_bucket(s, &c->key)];

	while (*pp != c)
		pp = &(*pp)->hash_next;
	*pp = c->hash_next;
}

/* ---- TIME_WAIT ------------------------------------------------------------------------------ */

struct tcp_time_wait *tcp_time_wait_find(struct net_stack *s, const struct flow_key *k)
{
	struct tcp_time_wait *tw = s->time_waits[tcp_table_bucket(s, k)];

	while (tw != NULL && !flow_equal(&tw->key, k))
		tw = tw->hash_next;
	return tw;
}

static void time_wait_arm(struct net_stack *s)
{
	struct list *first = list_first(&s->time_wait);

	if (first == NULL)
		wheel_cancel(&s->wheel, &s->time_wait_timer);
	else
		wheel_arm(&s->wheel, &s->time_wait_timer,
			  list_entry(first, struct tcp_time_wait, link)->expires_ns);
}

static void time_wait_remove(struct net_stack *s, struct tcp_time_wait *tw)
{
	struct tcp_time_wait **pp = &s->time_waits[tcp_table_bucket(s, &tw->key)];

	while (*pp != tw)
		pp = &(*pp)->hash_next;
	*pp = tw->hash_next;
	list_del(&tw->link);
	pool_put(&s->time_wait_pool, tw);
}

void tcp_time_wait_del(struct net_stack *s, struct tcp_time_wait *tw)
{
	bool first = list_first(&s->time_wait) == &tw->link;

	time_wait_remove(s, tw);
	if (first)
		time_wait_arm(s);
}

void tcp_time_wait_restart(struct net_stack *s, struct tcp_time_wait *tw)
{
	tw->expires_ns = s->now_ns + s->config.tcp.time_wait_ns;
	list_del(&tw->link);
	list_add_tail(&s->time_wait, &tw->link);
	time_wait_arm(s);
}

void tcp_time_wait_enter(struct tcp_conn *c)
{
	struct net_stack *s = c->stack;
	struct tcp_time_wait *tw = pool_get(&s->time_wait_pool);
	uint32_t bucket;

	if (s->config.tcp.time_wait_ns == 0) {
		pool_put(&s->time_wait_pool, tw);
		return;
	}
	if (tw == NULL) {
		struct list *oldest = list_first(&s->time_wait);

		COUNT(s, tcp_time_wait_evictions);
		time_wait_remove(s, list_entry(oldest, struct tcp_time_wait, link));
		tw = pool_get(&s->time_wait_pool);
	}
	memset(tw, 0, sizeof(*tw));
	tw->key = c->key;
	tw->snd_nxt = c->snd_max;
	tw->rcv_nxt = c->rcv_nxt;
	tw->rcv_wnd = c->rcv_adv - c->rcv_nxt;
	tw->receive_wscale = c->receive_wscale;
	tw->timestamps = (c->flags & TCPF_TIMESTAMPS) != 0;
	tw->ts_recent = c->ts_recent;
	tw->ts_offset = c->ts_offset;
	tw->expires_ns = s->now_ns + s->config.tcp.time_wait_ns;
	list_add_tail(&s->time_wait, &tw->link);
	bucket = tcp_table_bucket(s, &tw->key);
	tw->hash_next = s->time_waits[bucket];
	s->time_waits[bucket] = tw;
	time_wait_arm(s);
}

void tcp_time_wait_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct net_stack *s = container_of(t, struct net_stack, time_wait_timer);
	unsigned budget = 64; /* the rest at the next advance */
	struct list *first;

	while (budget-- > 0 && (first = list_first(&s->time_wait)) != NULL) {
		struct tcp_time_wait *tw = list_entry(first, struct tcp_time_wait, link);

		if (tw->expires_ns > now_ns)
			break;
		time_wait_remove(s, tw);
	}
	time_wait_arm(s);
}

/* ---- numbers a peer must not guess ---------------------------------------------------------- */

/* RFC 6528 s3: ISN = M + F(4-tuple, secret), M a clock of 4 microseconds. */
uint32_t tcp_isn(struct net_stack *s, const struct flow_key *k)
{
	return (uint32_t)(s->now_ns / 4000) + (uint32_t)flow_hash(&s->isn_key, k);
}

/* RFC 7323 s5.4: the timestamp clock starts at a place of its own for each connection. The same for
 * a 4-tuple over its lives, so PAWS holds across them. */
uint32_t tcp_ts_offset(struct net_stack *s, const struct flow_key *k)
{
	return (uint32_t)(flow_hash(&s->isn_key, k) >> 32);
}
