/* Errors about our packets (RFC 5927), and what they and silence say of the path's MTU: RFC 1191,
 * RFC 8201, black holes after RFC 2923 and RFC 4821.
 *
 * An error is believed only if it quotes a sequence number that is in flight. A smaller MTU takes
 * effect at once: what is unacknowledged is sent again in smaller pieces, without counting as a
 * loss. It is remembered for ten minutes for further connections to that address, in a small table
 * in which a newer destination takes an older one's place.
 *
 * After that time (RFC 8899's PMTU_RAISE_TIMER) a connection with a full segment to send tries the
 * next larger step, as the first segment of a flight. If it is acknowledged, so large they stay and
 * the next flight tries the step after; at the first timeout, or an error, all is as before for
 * another ten minutes. Others of that destination wait meanwhile.
 */
#include "daemon/net/net_internal.h"

#include <string.h>

#define PMTU_LIFE_NS (600 * SEC_NS) /* RFC 1191 s6.3 */

/* Timeouts in a row after which smaller segments are tried. */
#define BLACK_HOLE_FIRST 2
#define BLACK_HOLE_LAST  4

/* RFC 1191 s7.1, for routers that do not say, and for the way back up. */
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

static uint32_t link_mtu(const struct net_stack *s, const struct net_addr *remote)
{
	return remote->family == NET_FAMILY_IPV6 && s->mtu6 != 0 ? s->mtu6 : s->config.mtu;
}

uint32_t pmtu_of(struct net_stack *s, const struct net_addr *remote)
{
	const struct net_pmtu *e = entry_of(s, remote);
	uint32_t mtu = link_mtu(s, remote);

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
	c->marks &= (uint8_t) ~(TCPM_RAISED | TCPM_SHRUNK);
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

/* What pmtu_raise() tried does not arrive. */
static void raise_undo(struct tcp_conn *c)
{
	const struct net_addr *remote = &c->key.remote;
	struct net_stack *s = c->stack;
	const struct net_pmtu *e = entry_of(s, remote);
	uint32_t mtu = entry_holds(s, e, remote) ? e->mtu : IP6_MTU_MIN;

	c->marks &= (uint8_t)~TCPM_RAISED;
	if (mtu < IP6_MTU_MIN && remote->family == NET_FAMILY_IPV4)
		c->path.fragmentable = mtu <= IP4_MTU_FLOOR;
	if (shrink(c, mtu)) {
		COUNT(s, ip_pmtu_black_holes);
		remember(s, remote, mtu);
	}
}

void pmtu_black_hole(struct tcp_conn *c)
{
	bool v4 = c->key.local.family == NET_FAMILY_IPV4;
	uint32_t mtu = 0;

	if (!c->stack->config.path_mtu_discovery)
		return;
	if (c->marks & TCPM_RAISED) {
		raise_undo(c);
		return;
	}
	if (c->timeouts == BLACK_HOLE_FIRST)
		mtu = IP6_MTU_MIN;
	else if (c->timeouts == BLACK_HOLE_LAST && v4)
		mtu = IP4_MTU_FLOOR;
	if (mtu == 0)
		return;
	if (mtu == IP4_MTU_FLOOR)
		c->path.fragmentable = true;
	if (shrink(c, mtu)) {
		COUNT(c->stack, ip_pmtu_black_holes);
		c->marks |= TCPM_SHRUNK; /* remembered if it helps */
	}
}

/* ---- the way back up ------------------------------------------------------------------------ */

static uint32_t next_step(uint32_t mtu, uint32_t max)
{
	for (size_t i = ARRAY_LEN(plateaus); i-- > 0;) {
		if (plateaus[i] > mtu)
			return plateaus[i] < max ? plateaus[i] : max;
	}
	return max;
}

void pmtu_raise(struct tcp_conn *c)
{
	const struct net_addr *remote = &c->key.remote;
	struct net_stack *s = c->stack;
	const struct net_pmtu *e = entry_of(s, remote);
	uint32_t now = c->path_mss + headers(c), max = link_mtu(s, remote), mss;

	if (!s->config.path_mtu_discovery || now >= max || c->peer_mss <= c->path_mss ||
	    (c->marks & (TCPM_SHRUNK | TCPM_RAISED)) != 0)
		return;
	if (e->addr.family != remote->family || memcmp(e->addr.bytes, remote->bytes, 16) != 0) {
		remember(s, remote, now); /* another destination had taken its place */
		return;
	}
	if (s->now_ns < e->expires_ns)
		return;
	now = next_step(now, max);
	mss = now - headers(c);
	mss = (mss < c->peer_mss ? mss : c->peer_mss) - options(c);
	if (mss <= c->mss || c->snd_end - c->snd_nxt < mss || c->snd_wnd < mss || c->cwnd < mss)
		return; /* it would not be seen whether such a segment arrives */
	remember(s, remote, c->path_mss + headers(c)); /* what raise_undo() goes back to */
	COUNT(s, ip_pmtu_probes);
	c->path_mss = (uint16_t)(now - headers(c));
	c->mss = (uint16_t)mss;
	c->path.fragmentable = false;
	c->marks |= TCPM_RAISED;
}

void pmtu_acked(struct tcp_conn *c)
{
	struct net_stack *s = c->stack;

	remember(s, &c->key.remote, c->path_mss + headers(c));
	if (c->marks & TCPM_RAISED) {
		COUNT(s, ip_pmtu_raised);
		entry_of(s, &c->key.remote)->expires_ns = s->now_ns; /* the next step at once */
	}
	c->marks &= (uint8_t) ~(TCPM_RAISED | TCPM_SHRUNK);
}
