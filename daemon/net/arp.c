/* ARP for IPv4 over Ethernet: RFC 826, RFC 5227 (announcement, conflict). */
#include "daemon/net/net_internal.h"

#include <string.h>

struct arp_packet {
	struct be16 hardware, protocol;
	uint8_t hardware_len, protocol_len;
	struct be16 operation;
	uint8_t sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
};

_Static_assert(sizeof(struct arp_packet) == 28, "ARP packet");

enum { ARP_HARDWARE_ETHERNET = 1, ARP_REQUEST = 1, ARP_REPLY = 2 };

/* RFC 5227 s2.4: defend an address at most once in DEFEND_INTERVAL. */
#define DEFEND_INTERVAL_NS (10 * SEC_NS)

static const uint8_t mac_broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t mac_zero[6];

static void arp_send(struct net_stack *s, uint16_t operation, const uint8_t sender_ip[4],
		     const uint8_t target_ip[4], const uint8_t target_mac[6],
		     const uint8_t eth_dst[6])
{
	struct rte_mbuf *m = net_mbuf_get(s);
	struct arp_packet *arp;

	if (m == NULL)
		return;
	arp = net_mbuf_append(m, sizeof(*arp));
	arp->hardware = be16_make(ARP_HARDWARE_ETHERNET);
	arp->protocol = be16_make(ETH_TYPE_IPV4);
	arp->hardware_len = 6;
	arp->protocol_len = 4;
	arp->operation = be16_make(operation);
	memcpy(arp->sender_mac, s->config.mac.addr_bytes, 6);
	memcpy(arp->sender_ip, sender_ip, 4);
	memcpy(arp->target_mac, target_mac, 6);
	memcpy(arp->target_ip, target_ip, 4);
	if (operation == ARP_REQUEST)
		COUNT(s, tx_arp_requests);
	else
		COUNT(s, tx_arp_replies);
	net_eth_push(s, m, ETH_TYPE_ARP);
	memcpy(rte_pktmbuf_mtod(m, struct eth_header *)->dst, eth_dst, 6);
	net_xmit(s, m);
}

void arp_request_send(struct net_stack *s, const struct net_addr *target, const uint8_t *mac)
{
	struct net_addr source;

	if (target->family != NET_FAMILY_IPV4 || !net_source_for(s, target, &source))
		return;
	arp_send(s, ARP_REQUEST, source.bytes, target->bytes, mac_zero,
		 mac != NULL ? mac : mac_broadcast);
}

void arp_announce_send(struct net_stack *s, const struct net_addr *addr)
{
	if (addr->family == NET_FAMILY_IPV4)
		arp_send(s, ARP_REQUEST, addr->bytes, addr->bytes, mac_zero, mac_broadcast);
}

static bool arp_valid(const struct rte_mbuf *m)
{
	const struct eth_header *eth = rte_pktmbuf_mtod(m, const struct eth_header *);
	const struct arp_packet *arp = (const struct arp_packet *)(eth + 1);

	return m->data_len >= sizeof(*eth) + sizeof(*arp) &&
	       be16_get(arp->hardware) == ARP_HARDWARE_ETHERNET &&
	       be16_get(arp->protocol) == ETH_TYPE_IPV4 && arp->hardware_len == 6 &&
	       arp->protocol_len == 4 && (arp->sender_mac[0] & 1) == 0 &&
	       memcmp(arp->sender_mac, mac_zero, 6) != 0 &&
	       memcmp(arp->sender_mac, eth->src, 6) == 0;
}

static void arp_conflict(struct net_stack *s, const struct net_addr *addr)
{
	COUNT(s, rx_arp_conflicts);
	if ((s->config.flags & NET_PRIMARY) == 0)
		return;
	if (s->defended_ns != 0 && s->now_ns - s->defended_ns < DEFEND_INTERVAL_NS)
		return;
	s->defended_ns = s->now_ns;
	arp_announce_send(s, addr);
}

void arp_rx(struct net_stack *s, struct rte_mbuf *m)
{
	struct net_addr sender = {.family = NET_FAMILY_IPV4};
	struct net_addr target = {.family = NET_FAMILY_IPV4};
	const struct arp_packet *arp;
	uint16_t operation;
	bool for_us;

	if (!arp_valid(m)) {
		COUNT(s, rx_drop_arp_malformed);
		goto out;
	}
	arp = rte_pktmbuf_mtod_offset(m, const struct arp_packet *, sizeof(struct eth_header));
	operation = be16_get(arp->operation);
	memcpy(sender.bytes, arp->sender_ip, 4);
	memcpy(target.bytes, arp->target_ip, 4);
	for_us = net_addr_is_ours(s, &target);
	if (net_addr_is_ours(s, &sender)) {
		/* Our own MAC address alone proves nothing: on TAP the kernel's side has it too. */
		if (memcmp(arp->sender_mac, s->config.mac.addr_bytes, 6) != 0)
			arp_conflict(s, &sender);
		goto out;
	}
	if (operation == ARP_REQUEST && for_us) {
		COUNT(s, rx_arp_requests);
		if (s->config.flags & NET_PRIMARY)
			arp_send(s, ARP_REPLY, target.bytes, sender.bytes, arp->sender_mac,
				 arp->sender_mac);
	}
	if (!net_addr_is_any(&sender)) /* any: a probe, RFC 5227 s2.1 */
		neigh_answer(s, &sender, arp->sender_mac, operation == ARP_REPLY && for_us);
out:
	rte_pktmbuf_free(m);
}
