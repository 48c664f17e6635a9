/* Neighbours: which MAC address an on-link address has. A bounded table for any address family;
 * arp.c speaks for IPv4, ndp.c for IPv6.
 *
 * An entry is made only because we have a packet to send, and takes a MAC address only while it
 * waits for an answer. So nothing that arrives unasked makes or changes an entry: an unsolicited
 * claim of another MAC address only makes us ask again (PROBING keeps using the old answer), first
 * the one we know and alone, and then only it is believed.
 *
 * A flood from many on-link addresses makes entries that nobody answers. They stand on a list of
 * their own and give way before those that answered once they are a quarter of the table; what
 * waits for answers pins a bounded part of the pool.
 */
#include "daemon/net/net_internal.h"

#include <stdlib.h>
#include <string.h>

#define NEIGH_TRIES 3
/* Parts of the table that unanswered entries keep, and of the pool that packets waiting pin. */
#define NEIGH_UNANSWERED_PART 4u
#define NEIGH_PENDING_PART    8u
#define NEIGH_RETRY_NS        SEC_NS

/* RFC 5227 s1.1: ANNOUNCE_NUM, ANNOUNCE_INTERVAL. */
#define ANNOUNCE_NUM         2
#define ANNOUNCE_INTERVAL_NS (2 * SEC_NS)

static void neigh_fire(struct wheel_timer *t, uint64_t now_ns);

static uint32_t neigh_bucket(const struct net_stack *s, const struct net_addr *a)
{
	size_t len = a->family == NET_FAMILY_IPV4 ? 4 : 16;

	return (uint32_t)siphash24(&s->hash_key, a->bytes, len) & s->neigh_mask;
}

static struct neigh *neigh_find(struct net_stack *s, const struct net_addr *a)
{
	struct neigh *n = s->neighs[neigh_bucket(s, a)];

	while (n != NULL &&
	       (n->addr.family != a->family || memcmp(n->addr.bytes, a->bytes, 16) != 0))
		n = n->hash_next;
	return n;
}

static void neigh_drop_pending(struct neigh *n)
{
	for (unsigned i = 0; i < n->pending_n; i++) {
		COUNT(n->stack, tx_drop_arp_pending);
		n->stack->neigh_pending_mbufs -= n->pending[i]->nb_segs;
		rte_pktmbuf_free(n->pending[i]);
	}
	n->pending_n = 0;
}

static void neigh_remove(struct neigh *n)
{
	struct net_stack *s = n->stack;
	struct neigh **pp = &s->neighs[neigh_bucket(s, &n->addr)];

	while (*pp != n)
		pp = &(*pp)->hash_next;
	*pp = n->hash_next;
	wheel_cancel(&s->wheel, &n->timer);
	neigh_drop_pending(n);
	list_del(&n->lru);
	if (n->state == NEIGH_INCOMPLETE)
		s->neigh_unanswered_n--;
	else
		s->neigh_generation++; /* paths may know it */
	pool_put(&s->neigh_pool, n);
}

/* Who gives way in a full table. */
static struct neigh *neigh_victim(struct net_stack *s)
{
	struct list *lru = &s->neigh_lru;

	if (s->neigh_unanswered_n * NEIGH_UNANSWERED_PART >= s->config.arp_entries_max ||
	    list_empty(lru))
		lru = &s->neigh_unanswered;
	return list_entry(list_first(lru), struct neigh, lru);
}

static struct neigh *neigh_make(struct net_stack *s, const struct net_addr *a)
{
	struct neigh *n = pool_get(&s->neigh_pool);
	uint32_t bucket = neigh_bucket(s, a);

	if (n == NULL) {
		COUNT(s, arp_evictions);
		neigh_remove(neigh_victim(s));
		n = pool_get(&s->neigh_pool);
	}
	memset(n, 0, sizeof(*n));
	n->stack = s;
	n->addr = *a;
	n->addr.port = 0;
	n->state = NEIGH_INCOMPLETE;
	wheel_timer_init(&n->timer, neigh_fire);
	list_add_tail(&s->neigh_unanswered, &n->lru);
	s->neigh_unanswered_n++;
	n->hash_next = s->neighs[bucket];
	s->neighs[bucket] = n;
	return n;
}

int neigh_init(struct net_stack *s)
{
	uint32_t buckets = (uint32_t)pow2_up(s->config.arp_entries_max);

	list_init(&s->neigh_lru);
	list_init(&s->neigh_unanswered);
	s->neigh_pending_max = s->pool->size / NEIGH_PENDING_PART;
	s->neigh_generation = 1;
	s->neigh_mask = buckets - 1;
	s->neighs = calloc(buckets, sizeof(struct neigh *));
	if (s->neighs == NULL)
		return -SPLIT_E_BASE_NOMEM;
	return pool_init(&s->neigh_pool, sizeof(struct neigh), s->config.arp_entries_max, NULL);
}

void neigh_fini(struct net_stack *s)
{
	struct list *node;

	if (s->neighs == NULL)
		return;
	list_splice_tail(&s->neigh_lru, &s->neigh_unanswered);
	while ((node = list_first(&s->neigh_lru)) != NULL)
		neigh_remove(list_entry(node, struct neigh, lru));
	free(s->neighs);
	pool_fini(&s->neigh_pool);
}

static void neigh_ask(struct neigh *n)
{
	struct net_stack *s = n->stack;
	const uint8_t *known;

	n->tries++;
	wheel_arm(&s->wheel, &n->timer, s->now_ns + NEIGH_RETRY_NS);
	/* RFC 1122 s2.3.2.1: the first probe of a known neighbour is unicast. */
	known = n->state == NEIGH_PROBING && n->tries == 1 ? n->mac : NULL;
	if (n->addr.family == NET_FAMILY_IPV6)
		ndp_solicit_send(s, &n->addr, known);
	else
		arp_request_send(s, &n->addr, known);
}

static void neigh_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct neigh *n = container_of(t, struct neigh, timer);

	(void)now_ns;
	if (n->tries < NEIGH_TRIES) {
		neigh_ask(n);
		return;
	}
	COUNT(n->stack, arp_failures);
	neigh_remove(n);
}

static void eth_xmit(struct net_stack *s, struct rte_mbuf *m, const uint8_t mac[6])
{
	memcpy(rte_pktmbuf_mtod(m, struct eth_header *)->dst, mac, 6);
	net_xmit(s, m);
}

static void neigh_probe_start(struct neigh *n)
{
	if (n->state != NEIGH_REACHABLE)
		return;
	n->state = NEIGH_PROBING;
	n->tries = 0;
	neigh_ask(n);
}

static __rte_noinline void neigh_output_slow(struct net_stack *s, struct rte_mbuf *m,
					     const struct net_addr *hop, struct net_path *path)
{
	struct neigh *n = neigh_find(s, hop);

	if (n == NULL) {
		n = neigh_make(s, hop);
		neigh_ask(n);
	} else if (n->state != NEIGH_INCOMPLETE) {
		list_del(&n->lru);
		list_add_tail(&s->neigh_lru, &n->lru);
	}
	if (n->state == NEIGH_INCOMPLETE) {
		if (n->pending_n >= s->config.arp_pending_max ||
		    s->neigh_pending_mbufs + m->nb_segs > s->neigh_pending_max) {
			COUNT(s, tx_drop_arp_pending);
			rte_pktmbuf_free(m);
			return;
		}
		s->neigh_pending_mbufs += m->nb_segs;
		n->pending[n->pending_n++] = m;
		return;
	}
	if (n->state == NEIGH_REACHABLE && s->now_ns >= n->expires_ns)
		neigh_probe_start(n);
	if (path != NULL && n->state == NEIGH_REACHABLE) {
		path->generation = s->neigh_generation;
		path->expires_s = (uint32_t)(n->expires_ns / SEC_NS);
		memcpy(path->mac, n->mac, 6);
	}
	eth_xmit(s, m, n->mac);
}

void neigh_output(struct net_stack *s, struct rte_mbuf *m, const struct net_addr *hop,
		  struct net_path *path)
{
	if (likely(path != NULL && path->generation == s->neigh_generation &&
		   s->now_s < path->expires_s)) {
		eth_xmit(s, m, path->mac);
		return;
	}
	neigh_output_slow(s, m, hop, path);
}

void neigh_answer(struct net_stack *s, const struct net_addr *addr, const uint8_t mac[6],
		  bool solicited)
{
	struct neigh *n = neigh_find(s, addr);

	if (n == NULL || (n->state == NEIGH_REACHABLE && memcmp(n->mac, mac, 6) == 0)) {
		COUNT(s, rx_arp_unsolicited);
		return;
	}
	if (n->state == NEIGH_REACHABLE || !solicited) {
		/* Somebody else may have the address now. Believe only the answer to our question.
		 */
		COUNT(s, rx_arp_unsolicited);
		neigh_probe_start(n);
		return;
	}
	if (n->state == NEIGH_PROBING && n->tries == 1 && memcmp(n->mac, mac, 6) != 0) {
		/* Only the one we know was asked: nobody else can have heard the question. */
		COUNT(s, rx_arp_unsolicited);
		return;
	}
	COUNT(s, rx_arp_replies);
	if (n->state == NEIGH_INCOMPLETE) {
		s->neigh_unanswered_n--;
		list_del(&n->lru);
		list_add_tail(&s->neigh_lru, &n->lru);
	} else if (memcmp(n->mac, mac, 6) != 0) {
		s->neigh_generation++;
	}
	memcpy(n->mac, mac, 6);
	n->state = NEIGH_REACHABLE;
	n->tries = 0;
	n->expires_ns = s->now_ns + s->config.arp_reachable_ns;
	wheel_cancel(&s->wheel, &n->timer);
	for (unsigned i = 0; i < n->pending_n; i++) {
		s->neigh_pending_mbufs -= n->pending[i]->nb_segs;
		eth_xmit(s, n->pending[i], mac);
	}
	n->pending_n = 0;
}

static void announce_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct net_stack *s = container_of(t, struct net_stack, announce_timer);

	for (unsigned i = 0; i < s->config.addresses_n; i++)
		arp_announce_send(s, &s->config.addresses[i].addr);
	if (++s->announcements < ANNOUNCE_NUM)
		wheel_arm(&s->wheel, t, now_ns + ANNOUNCE_INTERVAL_NS);
}

void neigh_announce_start(struct net_stack *s)
{
	wheel_timer_init(&s->announce_timer, announce_fire);
	announce_fire(&s->announce_timer, s->now_ns);
}
