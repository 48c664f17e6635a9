/* SYN cookies: RFC 4987 s3.6. When there is no room for another half-open connection, the SYN-ACK
 * carries in its sequence number what the handshake's last ACK needs to bring back, and nothing is
 * kept:
 *
 *     31    27 26  24 23                      0
 *     | time | mss   | MAC of all that is bound |
 *
 * time counts periods of 64 s, mss is an index of mss_table. The MAC binds both ends, the peer's
 * initial number, time and mss under a key of this stack's own. Window scale and SACK come back in
 * the low bits of the echoed timestamp (a peer that sends none gets neither); they are bound too.
 *
 * A cookie is believed for one to two periods, and only after the stack has sent any: at rest
 * nobody can guess a connection into being.
 */
#include "daemon/net/net_internal.h"

#define COOKIE_PERIOD_NS (64 * SEC_NS)
#define COOKIE_TIME_BITS 5u
#define COOKIE_MAC_MASK  0xffffffu

/* Bits of the timestamp. */
#define COOKIE_TS_BITS   6u
#define COOKIE_TS_MASK   ((1u << COOKIE_TS_BITS) - 1)
#define COOKIE_WSCALE    0x0fu /* 15: none */
#define COOKIE_NO_WSCALE 15u
#define COOKIE_SACK      0x10u
#define COOKIE_ECN       0x20u
#define COOKIE_NO_TS     0x80u /* in the MAC alone */

/* Segment sizes that paths have: the smallest taken, RFC 879's, tunnels', PPPoE's, Ethernet's with
 * IPv6 and IPv4, AF_XDP's largest frame, jumbo frames. Rounded down. */
static const uint16_t mss_table[8] = {64, 536, 1220, 1360, 1440, 1460, 3400, 8940};

static uint32_t period_of(const struct net_stack *s)
{
	return (uint32_t)(s->now_ns / COOKIE_PERIOD_NS) & ((1u << COOKIE_TIME_BITS) - 1);
}

static uint32_t cookie_mac(const struct net_stack *s, const struct flow_key *k, uint32_t irs,
			   uint32_t high, uint32_t options)
{
	struct {
		struct flow_key key;
		uint32_t irs, high, options, zero;
	} bound = {*k, irs, high, options, 0};

	_Static_assert(sizeof(bound) == sizeof(struct flow_key) + 16, "no padding: hashed");
	return (uint32_t)siphash24(&s->cookie_key, &bound, sizeof(bound)) & COOKIE_MAC_MASK;
}

static uint32_t cookie_make(const struct net_stack *s, const struct flow_key *k, uint32_t irs,
			    uint32_t period, uint32_t mss_index, uint32_t options)
{
	uint32_t high = period << 3 | mss_index;

	return high << 24 | cookie_mac(s, k, irs, high, options);
}

static uint32_t mss_index(const struct tcp_options *o)
{
	uint32_t mss = o->has_mss ? o->mss : 536, i = 7;

	while (i > 0 && mss_table[i] > mss)
		i--;
	return i;
}

void tcp_cookie_send(struct net_stack *s, const struct net_addr *local,
		     const struct net_addr *remote, const struct tcp_segment *seg)
{
	const struct tcp_config *t = &s->config.tcp;
	const struct tcp_options *o = &seg->opt;
	bool timestamps = t->timestamps && o->has_timestamp;
	struct tcp_options out = {.has_mss = true, .mss = (uint16_t)tcp_mss_limit(s, local)};
	uint32_t bits = COOKIE_NO_TS, iss;
	struct flow_key key;

	flow_key_make(&key, local, remote);
	if (timestamps) {
		uint32_t now = s->now_ms + tcp_ts_offset(s, &key);

		out.has_wscale = t->window_scaling && o->has_wscale;
		out.sack_permitted = t->sack && o->sack_permitted;
		out.wscale = tcp_receive_wscale(t);
		bits = out.has_wscale ? o->wscale : COOKIE_NO_WSCALE;
		if (out.sack_permitted)
			bits |= COOKIE_SACK;
		if (tcp_ecn_asked(s, seg->flags))
			bits |= COOKIE_ECN;
		out.has_timestamp = true;
		out.ts_echo = o->ts_value;
		out.ts_value = (now & ~COOKIE_TS_MASK) | bits;
		if (seq_gt(out.ts_value, now)) /* the clock must not go back afterwards */
			out.ts_value -= COOKIE_TS_MASK + 1;
	}
	iss = cookie_make(s, &key, seg->seq, period_of(s), mss_index(o), bits);
	s->cookie_sent_ns = s->now_ns;
	COUNT(s, tcp_cookies_sent);
	tcp_syn_ack_stateless(s, local, remote, iss, seg->seq + 1,
			      (bits & COOKIE_NO_TS) == 0 && (bits & COOKIE_ECN) != 0, &out);
}

bool tcp_cookie_fresh(const struct net_stack *s)
{
	return s->cookie_sent_ns != 0 && s->now_ns - s->cookie_sent_ns < 2 * COOKIE_PERIOD_NS;
}

bool tcp_cookie_check(struct net_stack *s, const struct net_addr *local,
		      const struct net_addr *remote, const struct tcp_segment *seg,
		      struct tcp_cookie *out)
{
	uint32_t iss = seg->ack - 1, irs = seg->seq - 1, bits = COOKIE_NO_TS;
	uint32_t period = iss >> (32 - COOKIE_TIME_BITS), index = iss >> 24 & 7, age;
	struct flow_key key;

	if (!tcp_cookie_fresh(s))
		return false;
	age = (period_of(s) - period) & ((1u << COOKIE_TIME_BITS) - 1);
	if (s->config.tcp.timestamps && seg->opt.has_timestamp)
		bits = seg->opt.ts_echo & COOKIE_TS_MASK;
	flow_key_make(&key, local, remote);
	if (age > 1 || iss != cookie_make(s, &key, irs, period, index, bits)) {
		COUNT(s, tcp_cookies_refused);
		return false;
	}
	*out = (struct tcp_cookie){.iss = iss};
	out->opt.has_mss = true;
	out->opt.mss = mss_table[index];
	if (bits != COOKIE_NO_TS) {
		out->opt.has_timestamp = true;
		out->opt.ts_value = seg->opt.ts_value;
		out->opt.has_wscale = (bits & COOKIE_WSCALE) != COOKIE_NO_WSCALE;
		out->opt.wscale = out->opt.has_wscale ? bits & COOKIE_WSCALE : 0;
		out->opt.sack_permitted = (bits & COOKIE_SACK) != 0;
		out->ecn = (bits & COOKIE_ECN) != 0;
	}
	return true;
}
