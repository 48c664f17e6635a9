/* Errors about our packets (RFC 5927), and what they and silence say of the path's MTU: RFC 1191,
 * RFC 8201, black holes after RFC 2923 and RFC 4821.
 *
 * An error is believed only if it quotes a sequence number that is in flight. A smaller MTU takes
 * effect at once: what is unacknowledged is sent again in smaller pieces, without counting as a
 * loss. It is remembered for ten minutes for further connections to that address, in a small table
 * in which a newer destination takes an older one's place.
 */
#include "daemon/net/net_internal.h"

#include <string.h>

#define PMTU_LIFE_NS (600 * SEC_NS) /* RFC 1191 s6.3 */

/* Timeouts in a row after which smaller segments are tried. */
#define BLACK_HOLE_FIRST 2
#define BLACK_HOLE_LAST  4

/* RFC 1191 s7.1, for routers that do not say. */
static const uint16_t plateaus[] = {8166, 4352, 2002, 1492, 1006, 576};

static struct net_pmtu *entry_of(struct net_stack *s, const struct net_addr *a)
{
	uint64_t hash = siphash24(&s->hash_key, a->bytes, 16);

	return &s->pmtus[hash & (NET_PMTU_ENTRIES - 1)];
}

static bool entry_holds(const struct net_stack *s, const struct net_pmtu *e,
			const struct net_addr *a)
{
	return e->addr.family == a->family && memcmp(e->addr.bytes, a->bytes, 16) == 0 &&
	       s->now_ns < e->expires_ns;
}

uint32_t pmtu_of(struct net_stack *s, const struct net_addr *remote)
{
	const struct net_pmtu *e = entry_of(s, remote);
	uint32_t mtu = s->config.mtu;

	if (remote->family == NET_FAMILY_IPV6 && s->mtu6 != 0)
		mtu = s->mtu6;
	return entry_holds(s, e, remote) && e->mtu < mtu ? e->mtu : mtu;
}

static void remember(struct net_stack *s, const struct net_addr *remote, uint32_t mtu)
{
	struct net_pmtu *e = entry_of(s, remote);

	e->addr = *remote;
	e->mtu = (uint16_t)mtu;
	e->expires_ns = s->now_ns + PMTU_LIFE_NS;
}

static uint32_t headers(const struct tcp_conn *c)
{
	return (c->key.local.family == NET_FAMILY_IPV4 ? 20u : 40u) +
	       (uint32_t)sizeof(struct tcp_header);
}

static uint32_t options(const struct tcp_conn *c)
{
	return c->flags & TCPF_TIMESTAMPS ? 12 : 0;
}

/* Segments of at most `mtu` from now on. False if they are that small already. */
static bool shrink(struct tcp_conn *c, uint32_t mtu)
{
	uint32_t path_mss = mtu - headers(c), mss = path_mss - options(c);

	if (path_mss < c->path_mss)
		c->path_mss = (uint16_t)path_mss;
	if (mss >= c->mss)
		return false;
	c->mss = (uint16_t)mss;
	return true;
}

static void too_big(struct tcp_conn *c, uint32_t mtu)
{
	struct net_stack *s = c->stack;
	bool v4 = c->key.local.family == NET_FAMILY_IPV4;
	uint32_t now = c->mss + options(c) + headers(c);

	if (!s->config.path_mtu_discovery || c->state < TCP_ESTABLISHED)
		return;
	if (v4 && mtu == 0) {
		for (size_t i = 0; i < ARRAY_LEN(plateaus) && (mtu == 0 || mtu >= now); i++)
			mtu = plateaus[i];
	}
	if (mtu < (v4 ? IP4_MTU_FLOOR : IP6_MTU_MIN)) {
		if (!v4) { /* RFC 8201 s4: not believed */
			COUNT(s, rx_drop_icmp_type);
			return;
		}
		mtu = IP4_MTU_FLOOR;
		c->path.fragmentable = true;
	}
	if (mtu >= now || !shrink(c, mtu))
		return;
	COUNT(s, ip_pmtu_reduced);
	remember(s, &c->key.remote, mtu);
	/* What was too big is gone: again, as smaller pieces. RFC 1191 s6.4. */
	c->snd_nxt = c->snd_una;
	tcp_sent_lose_all(c);
	c->flags &= ~TCPF_RTT_TIMED;
	tcp_mark_dirty(c);
}

void tcp_icmp_in(struct net_stack *s, const struct net_addr *local, const struct net_addr *remote,
		 const struct tcp_icmp *error)
{
	struct flow_key key;
	struct tcp_conn *c;

	flow_key_make(&key, local, remote);
	c = tcp_table_find(s, &key);
	if (c == NULL || !seq_in(error->seq, c->snd_una, c->snd_max - c->snd_una)) {
		COUNT(s, rx_drop_icmp_type);
		return;
	}
	COUNT(s, rx_icmp_unreachable);
	if (error->kind == TCP_ICMP_TOO_BIG) {
		too_big(c, error->mtu);
		return;
	}
	/* RFC 5927 s5.2, RFC 1122 s4.2.3.9: only who is opening gives up. */
	if (c->state != TCP_SYN_SENT || error->kind == TCP_ICMP_SOFT)
		return;
	COUNT(s, tcp_connect_failed);
	tcp_conn_end(c, error->kind == TCP_ICMP_REFUSED ? -SPLIT_E_NET_REFUSED
							: -SPLIT_E_NET_UNREACHABLE);
}

void pmtu_black_hole(struct tcp_conn *c)
{
	bool v4 = c->key.local.family == NET_FAMILY_IPV4;
	uint32_t mtu = 0;

	if (!c->stack->config.path_mtu_discovery)
		return;
	if (c->timeouts == BLACK_HOLE_FIRST)
		mtu = IP6_MTU_MIN;
	else if (c->timeouts == BLACK_HOLE_LAST && v4)
		mtu = IP4_MTU_FLOOR;
	if (mtu == 0)
		return;
	if (mtu == IP4_MTU_FLOOR)
		c->path.fragmentable = true;
	if (shrink(c, mtu))
		COUNT(c->stack, ip_pmtu_black_holes);
}
