/* Neighbour discovery for IPv6: RFC 4861; addresses: RFC 4862 (duplicate address detection, SLAAC),
 * RFC 7217 (interface identifiers), RFC 6724 (source addresses, in its simplest form).
 *
 * Every stack of a port keeps the same addresses: all hear every ICMPv6 packet, and identifiers
 * follow from the MAC address and the prefix. Only the one with NET_PRIMARY speaks: asks whether an
 * address is taken, answers for it, solicits routers.
 *
 * Neighbours live in neigh.c, by the same rule as ARP's: nothing unasked makes or changes an entry.
 * Router advertisements count only where net_config.slaac says so, and what they may bring is
 * bounded: one router (the first, until its time is over), SLAAC_MAX prefixes, as many on-link
 * ones. Redirects are not believed.
 */
#include "daemon/net/net_internal.h"

#include <string.h>

enum { OPTION_SOURCE = 1, OPTION_TARGET = 2, OPTION_PREFIX = 3, OPTION_MTU = 5 };

#define NA_SOLICITED 0x40
#define NA_OVERRIDE  0x20

#define TICK_NS            SEC_NS /* RetransTimer, RFC 4861 s10 */
#define DAD_ATTEMPTS       3      /* RFC 7217 s6, IDGEN_RETRIES */
#define SOLICITATIONS      3      /* RFC 4861 s10 */
#define SOLICIT_TICKS      4
#define TWO_HOURS_NS       (7200 * SEC_NS) /* RFC 4862 s5.5.3 (e) */
#define DEFEND_INTERVAL_NS (10 * SEC_NS)

static const struct net_addr all_nodes = {.family = NET_FAMILY_IPV6, .bytes = {0xff, 2, [15] = 1}};
static const struct net_addr all_routers = {.family = NET_FAMILY_IPV6,
					    .bytes = {0xff, 2, [15] = 2}};
static const struct net_addr unspecified = {.family = NET_FAMILY_IPV6};

static bool link_local(const uint8_t a[16])
{
	return a[0] == 0xfe && (a[1] & 0xc0) == 0x80;
}

static bool prefix_match(const uint8_t a[16], const uint8_t b[16], unsigned bits)
{
	unsigned bytes = bits / 8, rest = bits % 8;

	return memcmp(a, b, bytes) == 0 &&
	       (rest == 0 || ((a[bytes] ^ b[bytes]) & (0xff << (8 - rest)) & 0xff) == 0);
}

void ndp_solicited_node(const uint8_t a[16], struct net_addr *group_out)
{
	*group_out = (struct net_addr){.family = NET_FAMILY_IPV6,
				       .bytes = {0xff, 2, [11] = 1, [12] = 0xff}};
	memcpy(group_out->bytes + 13, a + 13, 3);
}

/* ---- addresses ------------------------------------------------------------------------------ */

struct net_address6 *ndp_address_find(const struct net_stack *s, const struct net_addr *a)
{
	for (unsigned i = 0; i < s->addresses6_n; i++) {
		const struct net_address6 *own = &s->addresses6[i];

		if (memcmp(own->addr.bytes, a->bytes, 16) == 0 && own->state != ADDRESS6_DUPLICATE)
			return (struct net_address6 *)own;
	}
	return NULL;
}

static bool usable(const struct net_stack *s, const struct net_address6 *a)
{
	return a->state == ADDRESS6_ASSIGNED && s->now_ns < a->valid_ns;
}

bool ndp_address_usable(const struct net_stack *s, const struct net_addr *a)
{
	const struct net_address6 *own = ndp_address_find(s, a);

	return own != NULL && usable(s, own);
}

bool ndp_group_ours(const struct net_stack *s, const uint8_t group[16])
{
	struct net_addr node;

	if (memcmp(group, all_nodes.bytes, 16) == 0)
		return true;
	for (unsigned i = 0; i < s->addresses6_n; i++) {
		ndp_solicited_node(s->addresses6[i].addr.bytes, &node);
		if (memcmp(group, node.bytes, 16) == 0)
			return true;
	}
	return false;
}

/* RFC 7217 s5, F being SipHash; the key needs no secret: the MAC address is on the link anyway. */
static void identifier_make(const struct net_stack *s, struct net_address6 *a)
{
	static const struct siphash_key key = {UINT64_C(0x73706c6974643663),
					       UINT64_C(0x6964656e74696679)};
	uint8_t input[8 + 6 + 2] = {0};
	uint64_t id;

	memcpy(input, a->addr.bytes, 8);
	memcpy(input + 8, s->config.mac.addr_bytes, 6);
	for (;; a->attempt++) {
		input[14] = a->attempt;
		id = siphash24(&key, input, sizeof(input));
		if (id > UINT8_MAX && id < UINT64_C(0xfdffffffffffff80)) /* RFC 5453 */
			break;
	}
	be32_store(a->addr.bytes + 8, (uint32_t)(id >> 32));
	be32_store(a->addr.bytes + 12, (uint32_t)id);
}

static void ndp_tick_soon(struct net_stack *s)
{
	if (!wheel_timer_armed(&s->ndp_timer))
		wheel_arm(&s->wheel, &s->ndp_timer, s->now_ns);
}

static void address_start(struct net_stack *s, struct net_address6 *a)
{
	a->state = s->config.dad_transmits == 0 ? ADDRESS6_ASSIGNED : ADDRESS6_TENTATIVE;
	a->asked = 0;
	mld_join(s, a); /* before the first question: RFC 4862 s5.4.2 */
	ndp_tick_soon(s);
}

/* One whose time is over, for a newer to take its place; NULL without. */
static struct net_address6 *address_expired(struct net_stack *s)
{
	for (unsigned i = 0; i < s->addresses6_n; i++)
		if (s->addresses6[i].made && s->addresses6[i].valid_ns <= s->now_ns)
			return &s->addresses6[i];
	return NULL;
}

static struct net_address6 *address_add(struct net_stack *s, const uint8_t prefix[16],
					uint8_t prefix_len, bool made)
{
	struct net_address6 *a;

	if (s->addresses6_n == NET_ADDRESSES6_MAX)
		a = address_expired(s);
	else
		a = &s->addresses6[s->addresses6_n++];
	if (a == NULL)
		return NULL;
	*a = (struct net_address6){.prefix_len = prefix_len,
				   .made = made,
				   .valid_ns = UINT64_MAX,
				   .preferred_ns = UINT64_MAX};
	a->addr.family = NET_FAMILY_IPV6;
	memcpy(a->addr.bytes, prefix, 16);
	if (made)
		identifier_make(s, a);
	address_start(s, a);
	return a;
}

/* Another node has it. RFC 4862 s5.4.5. */
static void address_conflict(struct net_stack *s, struct net_address6 *a)
{
	COUNT(s, ndp_duplicates);
	if (!a->made || a->attempt + 1 >= DAD_ATTEMPTS) {
		a->state = ADDRESS6_DUPLICATE;
		return;
	}
	a->attempt++;
	identifier_make(s, a);
	address_start(s, a);
}

/* ---- routes --------------------------------------------------------------------------------- */

static bool on_link(const struct net_stack *s, const uint8_t a[16])
{
	if (link_local(a))
		return true;
	for (unsigned i = 0; i < s->addresses6_n; i++) {
		const struct net_address6 *own = &s->addresses6[i];

		if (!own->made && prefix_match(a, own->addr.bytes, own->prefix_len))
			return true;
	}
	for (unsigned i = 0; i < s->prefixes6_n; i++) {
		const struct net_prefix6 *p = &s->prefixes6[i];

		if (s->now_ns < p->valid_ns && prefix_match(a, p->bytes, p->len))
			return true;
	}
	return false;
}

bool ndp_next_hop(const struct net_stack *s, const struct net_addr *dst, struct net_addr *hop_out)
{
	*hop_out = *dst;
	if (on_link(s, dst->bytes))
		return true;
	if (s->config.gateway6.family == NET_FAMILY_IPV6) {
		*hop_out = s->config.gateway6;
		return true;
	}
	*hop_out = s->router6;
	return s->router6.family == NET_FAMILY_IPV6 && s->now_ns < s->router6_ns;
}

static unsigned common_bits(const uint8_t a[16], const uint8_t b[16])
{
	unsigned n = 0;

	while (n < 128 && prefix_match(a, b, n + 1))
		n++;
	return n;
}

/* RFC 6724 s5: rules 2 (scope), 3 (not deprecated), 8 (longest match). */
bool ndp_source_for(const struct net_stack *s, const struct net_addr *dst, struct net_addr *src_out)
{
	const struct net_address6 *best = NULL;
	unsigned best_score = 0;
	struct net_addr hop;

	if (dst->bytes[0] != 0xff && !ndp_next_hop(s, dst, &hop))
		return false;
	for (unsigned i = 0; i < s->addresses6_n; i++) {
		const struct net_address6 *a = &s->addresses6[i];
		unsigned score = 1 + common_bits(a->addr.bytes, dst->bytes);

		if (!usable(s, a))
			continue;
		score += s->now_ns < a->preferred_ns ? 256 : 0;
		score += link_local(a->addr.bytes) ==
					 (link_local(dst->bytes) || dst->bytes[0] == 0xff)
				 ? 512
				 : 0;
		if (score > best_score) {
			best = a;
			best_score = score;
		}
	}
	if (best == NULL)
		return false;
	*src_out = best->addr;
	return true;
}

/* ---- out ------------------------------------------------------------------------------------ */

/* A message of `type`, with `target` unless NULL and our MAC address as `option` unless 0. `mac`
 * NULL: dst is a group. */
static void message_send(struct net_stack *s, uint8_t type, uint8_t flags,
			 const struct net_addr *target, uint8_t option, const struct net_addr *src,
			 const struct net_addr *dst, const uint8_t *mac)
{
	struct rte_mbuf *m = net_mbuf_get(s);
	struct icmp_header *icmp;
	uint8_t *p;

	if (m == NULL)
		return;
	icmp = net_mbuf_append(m, sizeof(*icmp));
	*icmp = (struct icmp_header){.type = type, .rest = {flags}};
	if (target != NULL)
		memcpy(net_mbuf_append(m, 16), target->bytes, 16);
	if (option != 0) {
		p = net_mbuf_append(m, 8);
		p[0] = option;
		p[1] = 1;
		memcpy(p + 2, s->config.mac.addr_bytes, 6);
	}
	icmp6_checksum(m, src, dst);
	ip6_push(m, src, dst, IP_PROTO_ICMP6, IP_ECN_NOT, 255);
	ip6_link_output(s, m, mac);
}

void ndp_solicit_send(struct net_stack *s, const struct net_addr *target, const uint8_t *mac)
{
	struct net_addr src, group;

	if (!ndp_source_for(s, target, &src))
		return;
	COUNT(s, tx_ndp_solicitations);
	ndp_solicited_node(target->bytes, &group);
	message_send(s, ICMP6_NEIGHBOUR_SOLICIT, 0, target, OPTION_SOURCE, &src,
		     mac != NULL ? target : &group, mac);
}

static void advertise(struct net_stack *s, const struct net_address6 *a, const struct net_addr *dst,
		      uint8_t flags, const uint8_t *mac)
{
	if ((s->config.flags & NET_PRIMARY) == 0)
		return;
	COUNT(s, tx_ndp_advertisements);
	message_send(s, ICMP6_NEIGHBOUR_ADVERT, flags | NA_OVERRIDE, &a->addr, OPTION_TARGET,
		     &a->addr, dst, mac);
}

/* Is our address taken? RFC 4862 s5.4.2. */
static void dad_ask(struct net_stack *s, struct net_address6 *a)
{
	struct net_addr group;

	a->asked++;
	if ((s->config.flags & NET_PRIMARY) == 0)
		return;
	COUNT(s, tx_ndp_solicitations);
	ndp_solicited_node(a->addr.bytes, &group);
	message_send(s, ICMP6_NEIGHBOUR_SOLICIT, 0, &a->addr, 0, &unspecified, &group, NULL);
}

static void routers_ask(struct net_stack *s)
{
	struct net_addr src;

	s->solicitations++;
	if ((s->config.flags & NET_PRIMARY) == 0)
		return;
	if (ndp_source_for(s, &all_routers, &src))
		message_send(s, ICMP6_ROUTER_SOLICIT, 0, NULL, OPTION_SOURCE, &src, &all_routers,
			     NULL);
}

/* ---- time ----------------------------------------------------------------------------------- */

/* Addresses that are being asked for: once a second each. True while there is one. */
static bool addresses_tick(struct net_stack *s)
{
	bool more = false;

	for (unsigned i = 0; i < s->addresses6_n; i++) {
		struct net_address6 *a = &s->addresses6[i];

		if (a->state == ADDRESS6_ASSIGNED && !a->announced) {
			a->announced = true; /* RFC 4861 s7.2.6: unsolicited */
			advertise(s, a, &all_nodes, 0, NULL);
		}
		if (a->state != ADDRESS6_TENTATIVE)
			continue;
		more = true;
		if (a->asked < s->config.dad_transmits) {
			dad_ask(s, a);
			continue;
		}
		a->state = ADDRESS6_ASSIGNED;
		a->announced = true;
		advertise(s, a, &all_nodes, 0, NULL);
	}
	return more;
}

static bool routers_tick(struct net_stack *s)
{
	if (!s->config.slaac || s->solicitations >= SOLICITATIONS ||
	    s->router6.family != NET_FAMILY_NONE)
		return false;
	if (s->addresses6[0].state == ADDRESS6_ASSIGNED && s->solicit_ticks++ % SOLICIT_TICKS == 0)
		routers_ask(s);
	return true;
}

static void ndp_fire(struct wheel_timer *t, uint64_t now_ns)
{
	struct net_stack *s = container_of(t, struct net_stack, ndp_timer);
	bool more = addresses_tick(s);

	more |= routers_tick(s);
	if (more)
		wheel_arm(&s->wheel, t, now_ns + TICK_NS);
}

void ndp_init(struct net_stack *s)
{
	static const uint8_t local_prefix[16] = {0xfe, 0x80};
	bool wanted = s->config.slaac;

	wheel_timer_init(&s->ndp_timer, ndp_fire);
	s->hop_limit6 = IP_TTL;
	for (unsigned i = 0; i < s->config.addresses_n; i++)
		wanted |= s->config.addresses[i].addr.family == NET_FAMILY_IPV6;
	if (!wanted)
		return;
	address_add(s, local_prefix, 64, true);
	for (unsigned i = 0; i < s->config.addresses_n; i++) {
		const struct net_prefix *p = &s->config.addresses[i];

		if (p->addr.family == NET_FAMILY_IPV6)
			address_add(s, p->addr.bytes, p->prefix_len, false);
	}
}

/* ---- neighbours ----------------------------------------------------------------------------- */

/* The MAC address in option `kind` of the options in [at, end of m); NULL without. False:
 * malformed. */
static bool option_mac(const struct rte_mbuf *m, uint32_t at, uint8_t kind, const uint8_t **mac_out)
{
	const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);

	*mac_out = NULL;
	while (at < m->data_len) {
		uint32_t len;

		if (m->data_len - at < 2 || p[at + 1] == 0) /* RFC 4861 s4.6: zero is no length */
			return false;
		len = p[at + 1] * 8u;
		if (len > m->data_len - at)
			return false;
		if (p[at] == kind && len == 8 && *mac_out == NULL && (p[at + 2] & 1) == 0)
			*mac_out = p + at + 2;
		at += len;
	}
	return true;
}

static bool solicited_node(const struct net_addr *a)
{
	static const uint8_t prefix[13] = {0xff, 2, [11] = 1, [12] = 0xff};

	return memcmp(a->bytes, prefix, sizeof(prefix)) == 0;
}

static void solicitation(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
			 const struct net_addr *src, const struct net_addr *dst)
{
	struct net_addr target = {.family = NET_FAMILY_IPV6};
	struct net_address6 *a;
	const uint8_t *mac;
	bool probe = net_addr_is_any(src);

	memcpy(target.bytes, rte_pktmbuf_mtod_offset(m, const uint8_t *, offset + 8), 16);
	if (!option_mac(m, offset + 24, OPTION_SOURCE, &mac) ||
	    (probe && (mac != NULL || !solicited_node(dst)))) { /* RFC 4861 s7.1.1 */
		COUNT(s, rx_drop_ndp_malformed);
		return;
	}
	a = ndp_address_find(s, &target);
	if (a == NULL)
		return;
	COUNT(s, rx_ndp_solicitations);
	if (a->state == ADDRESS6_TENTATIVE) {
		/* Another one asks for it too. Our own question may come back from a port that
		 * echoes: it has our MAC address. RFC 4862 s5.4.3. */
		if (probe && memcmp(s->rx_mac, s->config.mac.addr_bytes, 6) != 0)
			address_conflict(s, a);
		return;
	}
	if (probe) {
		advertise(s, a, &all_nodes, 0, NULL);
		return;
	}
	advertise(s, a, src, NA_SOLICITED, mac != NULL ? mac : s->rx_mac);
	if (mac != NULL)
		neigh_answer(s, src, mac, false);
}

static void advertisement(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
			  const struct net_addr *dst)
{
	const uint8_t *p = rte_pktmbuf_mtod_offset(m, const uint8_t *, offset);
	bool solicited = (p[4] & NA_SOLICITED) != 0;
	struct net_addr target = {.family = NET_FAMILY_IPV6};
	struct net_address6 *a;
	const uint8_t *mac;

	memcpy(target.bytes, p + 8, 16);
	if (!option_mac(m, offset + 24, OPTION_TARGET, &mac) ||
	    (solicited && dst->bytes[0] == 0xff)) {
		COUNT(s, rx_drop_ndp_malformed);
		return;
	}
	a = ndp_address_find(s, &target);
	if (a != NULL) {
		if (memcmp(s->rx_mac, s->config.mac.addr_bytes, 6) == 0)
			return;
		if (a->state == ADDRESS6_TENTATIVE) {
			address_conflict(s, a);
			return;
		}
		COUNT(s, ndp_duplicates);
		if (s->defended_ns == 0 || s->now_ns - s->defended_ns >= DEFEND_INTERVAL_NS) {
			s->defended_ns = s->now_ns;
			advertise(s, a, &all_nodes, 0, NULL);
		}
		return;
	}
	neigh_answer(s, &target, mac != NULL ? mac : s->rx_mac, solicited);
}

/* ---- routers -------------------------------------------------------------------------------- */

static uint64_t lifetime_end(const struct net_stack *s, uint32_t seconds)
{
	return seconds == UINT32_MAX ? UINT64_MAX : s->now_ns + seconds * SEC_NS;
}

/* RFC 4861 s6.3.4. */
static void prefix_on_link(struct net_stack *s, const uint8_t *prefix, uint8_t len,
			   uint64_t valid_ns)
{
	struct net_prefix6 *p = s->prefixes6, *end = p + s->prefixes6_n, *old = NULL;

	for (; p < end && (p->len != len || memcmp(p->bytes, prefix, 16) != 0); p++)
		if (p->valid_ns <= s->now_ns)
			old = p;
	if (p == end) {
		if (valid_ns <= s->now_ns)
			return;
		if (old != NULL) {
			p = old;
		} else if (s->prefixes6_n == NET_PREFIXES6_MAX) {
			COUNT(s, rx_drop_ndp_limit);
			return;
		} else {
			s->prefixes6_n++;
		}
		memcpy(p->bytes, prefix, 16);
		p->len = len;
	}
	p->valid_ns = valid_ns;
}

static struct net_address6 *made_of(struct net_stack *s, const uint8_t *prefix)
{
	for (unsigned i = 0; i < s->addresses6_n; i++)
		if (s->addresses6[i].made && prefix_match(s->addresses6[i].addr.bytes, prefix, 64))
			return &s->addresses6[i];
	return NULL;
}

/* RFC 4862 s5.5.3. */
static void prefix_address(struct net_stack *s, const uint8_t *prefix, uint64_t valid_ns,
			   uint64_t preferred_ns)
{
	struct net_address6 *a = made_of(s, prefix);

	if (a == NULL) {
		if (valid_ns <= s->now_ns)
			return;
		a = address_add(s, prefix, 64, true);
		if (a == NULL) {
			COUNT(s, rx_drop_ndp_limit);
			return;
		}
		a->valid_ns = valid_ns;
	} else if (valid_ns > s->now_ns + TWO_HOURS_NS || valid_ns > a->valid_ns) {
		a->valid_ns = valid_ns;
	} else if (a->valid_ns > s->now_ns + TWO_HOURS_NS) {
		a->valid_ns = s->now_ns + TWO_HOURS_NS; /* nobody may take it away at once */
	}
	a->preferred_ns = preferred_ns;
}

static void prefix_option(struct net_stack *s, const uint8_t *p)
{
	uint32_t valid = be32_load(p + 4), preferred = be32_load(p + 8);
	const uint8_t *prefix = p + 16;
	uint8_t bytes[16] = {0};

	if (p[2] > 128 || link_local(prefix) || prefix[0] == 0xff || preferred > valid)
		return;
	for (unsigned i = 0; i < 16 && i * 8 < p[2]; i++)
		bytes[i] = prefix[i] &
			   (p[2] - i * 8 >= 8 ? 0xff : (0xff << (8 - (p[2] - i * 8))) & 0xff);
	if (p[3] & 0x80)
		prefix_on_link(s, bytes, p[2], lifetime_end(s, valid));
	if ((p[3] & 0x40) != 0 && p[2] == 64)
		prefix_address(s, bytes, lifetime_end(s, valid), lifetime_end(s, preferred));
}

static bool advert_options(struct net_stack *s, const struct rte_mbuf *m, uint32_t at)
{
	const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);

	while (at < m->data_len) {
		uint32_t len;

		if (m->data_len - at < 2 || p[at + 1] == 0)
			return false;
		len = p[at + 1] * 8u;
		if (len > m->data_len - at)
			return false;
		if (p[at] == OPTION_PREFIX && len == 32)
			prefix_option(s, p + at);
		if (p[at] == OPTION_MTU && len == 8) {
			uint32_t mtu = be32_load(p + at + 4);

			if (mtu >= IP6_MTU_MIN && mtu <= s->config.mtu)
				s->mtu6 = (uint16_t)mtu;
		}
		at += len;
	}
	return true;
}

static void router_advert(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
			  const struct net_addr *src)
{
	const uint8_t *p = rte_pktmbuf_mtod_offset(m, const uint8_t *, offset);
	uint32_t lifetime = be16_load(p + 6);
	bool known = s->router6.family != NET_FAMILY_NONE && s->now_ns < s->router6_ns;

	if (!link_local(src->bytes)) {
		COUNT(s, rx_drop_ndp_malformed);
		return;
	}
	if (!s->config.slaac) {
		COUNT(s, rx_drop_icmp_type);
		return;
	}
	COUNT(s, rx_ndp_router_adverts);
	if (!advert_options(s, m, offset + 16)) {
		COUNT(s, rx_drop_ndp_malformed);
		return;
	}
	if (p[4] != 0)
		s->hop_limit6 = p[4];
	if (known && memcmp(s->router6.bytes, src->bytes, 16) != 0)
		return;
	if (lifetime != 0) {
		s->router6 = *src;
		s->router6_ns = s->now_ns + lifetime * SEC_NS;
	} else if (known) {
		s->router6.family = NET_FAMILY_NONE;
	}
}

void ndp_rx(struct net_stack *s, const struct rte_mbuf *m, uint32_t offset,
	    const struct net_addr *src, const struct net_addr *dst)
{
	const struct ip6_header *ip = rte_pktmbuf_mtod(m, const struct ip6_header *);
	const struct icmp_header *icmp =
		rte_pktmbuf_mtod_offset(m, const struct icmp_header *, offset);
	uint32_t least = icmp->type == ICMP6_ROUTER_ADVERT ? 16 : 24;

	/* RFC 4861 s7.1: from this link, and whole; RFC 6980 s5: not even an atomic fragment. */
	if (ip->hop_limit != 255 || icmp->code != 0 || m->nb_segs != 1 || s->reassembled ||
	    (icmp->type != ICMP6_ROUTER_SOLICIT && m->data_len < offset + least) ||
	    (least == 24 && icmp->type != ICMP6_ROUTER_SOLICIT &&
	     *((const uint8_t *)icmp + 8) == 0xff)) {
		COUNT(s, rx_drop_ndp_malformed);
		return;
	}
	switch (icmp->type) {
	case ICMP6_NEIGHBOUR_SOLICIT:
		solicitation(s, m, offset, src, dst);
		break;
	case ICMP6_NEIGHBOUR_ADVERT:
		if (net_addr_is_any(src))
			COUNT(s, rx_drop_ndp_malformed);
		else
			advertisement(s, m, offset, dst);
		break;
	case ICMP6_ROUTER_ADVERT:
		router_advert(s, m, offset, src);
		break;
	default: /* solicitations are for routers; redirects are not believed */
		COUNT(s, rx_drop_icmp_type);
		break;
	}
}
