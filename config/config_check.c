/* What no single key shows: names that must be unique or known, sizes that must fit together, cores
 * and nodes that must exist. Each finding stands at the key that would have to change; what is
 * absent from the file is blamed on its object. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "config/config_internal.h"

#define FRAME_OVERHEAD 22  /* Ethernet header, one VLAN tag, FCS */
#define MBUF_HEADROOM  128 /* RTE_PKTMBUF_HEADROOM */
#define MBUF_OVERHEAD  192 /* struct rte_mbuf and the pool's header */
#define MBUF_ROOM_MIN  2176
#define DESCRIPTORS    2048 /* of a queue, by default */
/* XDP_PACKET_HEADROOM: net_af_xdp makes an mbuf of what the kernel calls a chunk, and the kernel
 * keeps so much of it before a frame, beside the driver's own headroom. */
#define AF_XDP_OVERHEAD 256
#define FOREIGN_FACTOR  4 /* slots of a foreign lane, of lane_slots */
#define HUGEPAGE_BYTES  (UINT64_C(2) << 20)
#define SLOT_BYTES      256 /* of a lane's ring */

struct check {
	struct config *cfg;
	const struct doc_node *root;
	const struct config_machine *machine;
	const struct config_sink *sink;
};

/* The member, or the object where the member is absent, or the document. */
static const struct doc_node *blame(const struct check *c, const struct doc_node *object,
				    const char *key)
{
	const struct doc_node *node = doc_member(object, key);

	if (node != NULL)
		return node;
	return object != NULL ? object : c->root;
}

static const struct doc_node *element(const struct check *c, const char *array, uint32_t index)
{
	return doc_element(doc_member(c->root, array), index);
}

/* ---- placement ------------------------------------------------------------------------------ */

static bool core_exists(const struct config_machine *m, uint32_t core)
{
	return core <= CONFIG_CORE_MAX && (m->cores[core / 64] >> (core % 64) & 1) != 0;
}

static void check_node(const struct check *c, const struct doc_node *object, int32_t numa_node)
{
	if (c->machine == NULL || numa_node == CONFIG_NONE)
		return;
	if ((c->machine->nodes >> numa_node & 1) == 0)
		config_sink_node(c->sink, blame(c, object, "numa_node"),
				 "memory node %d is not there, expected one of this machine",
				 numa_node);
}

static void check_workers(const struct check *c)
{
	struct config *cfg = c->cfg;

	for (uint32_t i = 0; i < cfg->workers_n; i++) {
		struct config_worker *w = &cfg->workers[i];
		const struct doc_node *node = element(c, "workers", i);

		if (doc_member(node, "core") == NULL)
			continue; /* told already */
		/* Workers that sleep may share a core; those that always poll starve each other. */
		for (uint32_t j = 0; j < i && cfg->idle.mode == CONFIG_IDLE_POLL; j++)
			if (cfg->workers[j].core == w->core &&
			    doc_member(element(c, "workers", j), "core") != NULL)
				config_sink_node(
					c->sink, blame(c, node, "core"),
					"core %u is that of workers[%u] too, expected one core "
					"for each worker that polls (idle.mode)",
					w->core, j);
		check_node(c, node, w->numa_node);
		if (c->machine == NULL)
			continue;
		if (!core_exists(c->machine, w->core))
			config_sink_node(
				c->sink, blame(c, node, "core"),
				"core %u is not there or not allowed to this process, expected "
				"one of this machine's",
				w->core);
		else if (w->numa_node == CONFIG_NONE)
			w->numa_node = c->machine->node_of_core[w->core];
	}
}

static void check_eal(const struct check *c)
{
	int32_t core = c->cfg->eal.main_core;

	if (c->machine != NULL && core != CONFIG_NONE && !core_exists(c->machine, (uint32_t)core))
		config_sink_node(
			c->sink, blame(c, doc_member(c->root, "eal"), "main_core"),
			"core %d is not there or not allowed to this process, expected one of "
			"this machine's",
			core);
}

/* ---- ports ---------------------------------------------------------------------------------- */

/* "net_tap0" among {"net_tap0,iface=sd0"}. */
static bool device_listed(const struct config *cfg, const char *device)
{
	size_t len = strcspn(device, ",");

	for (uint32_t i = 0; i < cfg->eal.devices_n; i++)
		if (strncmp(cfg->eal.devices[i].text, device, len) == 0 &&
		    strchr(",", cfg->eal.devices[i].text[len]) != NULL)
			return true;
	return false;
}

static void check_port_queues(const struct check *c, struct config_port *p,
			      const struct doc_node *node)
{
	const struct doc_node *queues = doc_member(node, "queue_workers");
	uint32_t workers = c->cfg->workers_n;

	if (workers == 0)
		return; /* told already */
	if (p->rx_queues == 0)
		p->rx_queues = p->queue_workers_n != 0 ? p->queue_workers_n : 1;
	if (p->tx_queues == 0)
		p->tx_queues = p->rx_queues;
	if (p->rx_queues > workers)
		config_sink_node(c->sink, blame(c, node, "rx_queues"),
				 "%u queues for %u workers, expected at most one for each",
				 p->rx_queues, workers);
	if (p->tx_queues > workers)
		config_sink_node(c->sink, blame(c, node, "tx_queues"),
				 "%u queues for %u workers, expected at most one for each",
				 p->tx_queues, workers);
	if (p->queue_workers_n == 0) {
		for (uint32_t q = 0; q < p->rx_queues && q < CONFIG_PORT_QUEUES_MAX; q++)
			p->queue_workers[p->queue_workers_n++] = q;
		return;
	}
	if (p->queue_workers_n != p->rx_queues)
		config_sink_node(c->sink, queues,
				 "names %u workers, expected one for each of %u queues",
				 p->queue_workers_n, p->rx_queues);
	for (uint32_t q = 0; q < p->queue_workers_n; q++) {
		if (p->queue_workers[q] >= workers)
			config_sink_node(c->sink, doc_element(queues, q),
					 "is %u, expected the index of one of %u workers",
					 p->queue_workers[q], workers);
		for (uint32_t o = 0; o < q; o++)
			if (p->queue_workers[o] == p->queue_workers[q])
				config_sink_node(
					c->sink, doc_element(queues, q),
					"worker %u has queue %u already, expected at most one "
					"queue for each",
					p->queue_workers[q], o);
	}
}

/* RFC 8200 s5: no link of IPv6 has less. */
#define IPV6_MTU_MIN 1280

static void check_port_ipv6(const struct check *c, const struct config_port *p,
			    const struct doc_node *node, bool v6)
{
	const struct config_address *g = &p->gateway_ipv6;
	bool on_link = g->family == 6 && g->bytes[0] == 0xfe && (g->bytes[1] & 0xc0) == 0x80;

	for (uint32_t i = 0; i < p->addresses_n; i++)
		on_link |= config_address_in(g, &p->addresses[i]);
	if (g->family == 4)
		config_sink_node(c->sink, blame(c, node, "gateway_ipv6"),
				 "is IPv4, expected an IPv6 address");
	else if (g->family != 0 && !on_link)
		config_sink_node(c->sink, blame(c, node, "gateway_ipv6"),
				 "is on none of the port's networks, expected an address within "
				 "one, or a link-local one");
	if (v6 && p->mtu < IPV6_MTU_MIN)
		config_sink_node(c->sink, blame(c, node, "mtu"),
				 "%u is too small for IPv6, expected at least %u", p->mtu,
				 IPV6_MTU_MIN);
}

static void check_port_addresses(const struct check *c, uint32_t index, const struct doc_node *node)
{
	const struct config_port *p = &c->cfg->ports[index];
	const struct doc_node *addresses = doc_member(node, "addresses");
	bool on_link = p->addresses_n == 0, v6 = p->slaac;

	for (uint32_t i = 0; i < p->addresses_n; i++) {
		const struct config_address *a = &p->addresses[i];

		if (a->family == 0) {
			on_link = true; /* told already */
			continue;
		}
		if (!config_address_unicast(a) || a->prefix == 0)
			config_sink_node(
				c->sink, doc_element(addresses, i),
				"cannot be an interface's, expected a unicast address and a "
				"prefix");
		on_link |= config_address_in(&p->gateway, a);
		v6 |= a->family == 6;
		for (uint32_t q = 0; q <= index; q++)
			for (uint32_t j = 0; j < (q == index ? i : c->cfg->ports[q].addresses_n);
			     j++)
				if (config_address_equal(&c->cfg->ports[q].addresses[j], a))
					config_sink_node(c->sink, doc_element(addresses, i),
							 "is ports[%u].addresses[%u] too, expected "
							 "each address once",
							 q, j);
		if (config_address_equal(a, &p->gateway))
			config_sink_node(c->sink, blame(c, node, "gateway"),
					 "is the port's own address, expected a neighbour's");
		if (config_address_equal(a, &p->gateway_ipv6))
			config_sink_node(c->sink, blame(c, node, "gateway_ipv6"),
					 "is the port's own address, expected a neighbour's");
	}
	if (p->gateway.family == 6)
		config_sink_node(c->sink, blame(c, node, "gateway"),
				 "is IPv6, expected an IPv4 address (gateway_ipv6 is IPv6's)");
	else if (p->gateway.family != 0 && !on_link)
		config_sink_node(
			c->sink, blame(c, node, "gateway"),
			"is on none of the port's networks, expected an address within one");
	check_port_ipv6(c, p, node, v6);
}

/* A packet buffer holds a frame of the MTU behind its headroom, unless several may. */
static void check_port_room(const struct check *c, struct config_port *p,
			    const struct doc_node *node)
{
	bool xdp = strncmp(p->device, "net_af_xdp", strlen("net_af_xdp")) == 0;
	/* One frame, one buffer; of others the driver has the word. */
	bool whole = strncmp(p->device, "net_", strlen("net_")) == 0 &&
		     strncmp(p->device, "net_ring", strlen("net_ring")) != 0;
	uint32_t need = p->mtu + FRAME_OVERHEAD + MBUF_HEADROOM + (xdp ? AF_XDP_OVERHEAD : 0);

	if (p->mbuf_room == 0)
		p->mbuf_room = need > MBUF_ROOM_MIN ? align_up(need, 64) : MBUF_ROOM_MIN;
	if (need > p->mbuf_room && whole)
		config_sink_node(c->sink, blame(c, node, "mbuf_room"),
				 "frames of MTU %u and headroom need %u bytes, expected mbuf_room "
				 "of at least that",
				 p->mtu, need);
}

static void check_port(const struct check *c, uint32_t index)
{
	struct config_port *p = &c->cfg->ports[index];
	const struct doc_node *node = element(c, "ports", index);
	static const uint8_t zero[6];

	for (uint32_t j = 0; j < index; j++) {
		if (p->name[0] != '\0' && strcmp(c->cfg->ports[j].name, p->name) == 0)
			config_sink_node(c->sink, blame(c, node, "name"),
					 "is the name of ports[%u] too, expected one of its own",
					 j);
		if (p->device[0] != '\0' && strcmp(c->cfg->ports[j].device, p->device) == 0)
			config_sink_node(c->sink, blame(c, node, "device"),
					 "is the device of ports[%u] too, expected one of its own",
					 j);
	}
	/* Devices that are wrong themselves were told already. */
	if (strncmp(p->device, "net_", 4) == 0 && !device_listed(c->cfg, p->device) &&
	    (c->cfg->eal.devices_n != 0 ||
	     doc_member(doc_member(c->root, "eal"), "devices") == NULL))
		config_sink_node(c->sink, blame(c, node, "device"),
				 "does not stand in eal.devices, expected \"%.200s,...\" there",
				 p->device);
	check_port_room(c, p, node);
	if (p->rx_descriptors == 0)
		p->rx_descriptors = p->mbufs / 4 < DESCRIPTORS ? p->mbufs / 4 : DESCRIPTORS;
	if (p->tx_descriptors == 0)
		p->tx_descriptors = p->mbufs / 4 < DESCRIPTORS ? p->mbufs / 4 : DESCRIPTORS;
	if (p->mbufs < p->rx_descriptors + p->tx_descriptors)
		config_sink_node(c->sink, blame(c, node, "mbufs"),
				 "%u buffers do not fill the descriptors, expected at least %u",
				 p->mbufs, p->rx_descriptors + p->tx_descriptors);
	if (p->mac_given && ((p->mac[0] & 1) != 0 || memcmp(p->mac, zero, sizeof(zero)) == 0))
		config_sink_node(c->sink, blame(c, node, "mac"),
				 "is not one of an interface, expected a unicast address");
	check_node(c, node, p->numa_node);
	check_port_queues(c, p, node);
	check_port_addresses(c, index, node);
}

static void check_ports_memory(const struct check *c)
{
	struct config *cfg = c->cfg;
	uint64_t bytes = 0;
	char need[32], have[32];

	/* A pool for each worker and one for each receive queue. */
	for (uint32_t i = 0; i < cfg->ports_n; i++)
		bytes += (uint64_t)cfg->ports[i].mbufs * (cfg->ports[i].mbuf_room + MBUF_OVERHEAD) *
			 (cfg->workers_n + cfg->ports[i].rx_queues);
	if (bytes > cfg->eal.memory)
		config_sink_node(
			c->sink, blame(c, doc_member(c->root, "eal"), "memory"),
			"%s is too small for the packet buffers of %u ports and %u workers, "
			"expected more than %s",
			config_size_format(cfg->eal.memory, have), cfg->ports_n, cfg->workers_n,
			config_size_format(align_up(bytes, UINT64_C(1) << 20), need));
}

/* ---- transport and calls -------------------------------------------------------------------- */

static void check_tcp(const struct check *c)
{
	const struct config_tcp *t = &c->cfg->tcp;
	const struct doc_node *node = doc_member(c->root, "tcp");

	if (t->rto_min_ns > t->rto_max_ns)
		config_sink_node(
			c->sink, blame(c, node, "rto_min"),
			"is more than rto_max, expected rto_min <= rto_initial <= rto_max");
	else if (t->rto_initial_ns < t->rto_min_ns || t->rto_initial_ns > t->rto_max_ns)
		config_sink_node(c->sink, blame(c, node, "rto_initial"),
				 "is out of order, expected rto_min <= rto_initial <= rto_max");
	/* A delayed ACK later than the peer's timeout makes it send everything twice. */
	if (t->delayed_ack_ns > 0 && t->delayed_ack_ns >= t->rto_min_ns)
		config_sink_node(
			c->sink, blame(c, node, "delayed_ack"),
			"is not less than rto_min, expected acknowledgements before peers time "
			"out");
	if (t->receive_buffer > UINT16_MAX && !t->window_scaling)
		config_sink_node(
			c->sink, blame(c, node, "receive_buffer"),
			"needs window scaling, expected at most 65535B or window_scaling true");
	for (uint32_t i = 0; i < c->cfg->ports_n; i++)
		if (t->copy_bytes_max + MBUF_HEADROOM + 128 > c->cfg->ports[i].mbuf_room)
			config_sink_node(
				c->sink, blame(c, node, "copy_bytes_max"),
				"does not fit behind headers into ports[%u].mbuf_room, expected "
				"256 bytes less than that",
				i);
}

static void budget_default(struct config_budget *b, uint32_t burst, uint32_t per_second)
{
	if (b->burst == 0)
		b->burst = burst;
	if (b->per_second == 0)
		b->per_second = per_second;
}

static void check_http2(const struct check *c)
{
	struct config_http2 *h = &c->cfg->http2;
	const struct config_grpc *g = &c->cfg->grpc;
	const struct doc_node *node = doc_member(c->root, "http2");

	budget_default(&h->resets, 1000, 100);
	budget_default(&h->pings, 1000, 100);
	budget_default(&h->settings, 100, 10);
	budget_default(&h->empty, 10000, 1000);
	budget_default(&h->windows, 20000, 20000);
	if (h->streams_max > h->streams_total_max)
		config_sink_node(c->sink, blame(c, node, "streams_max"),
				 "is more than streams_total_max (%u), expected at most that",
				 h->streams_total_max);
	if (h->session_bytes_max > h->memory)
		config_sink_node(c->sink, blame(c, node, "session_bytes_max"),
				 "is more than http2.memory, expected at most that");
	if (h->header_bytes_max < g->metadata_bytes_max)
		config_sink_node(
			c->sink, blame(c, doc_member(c->root, "grpc"), "metadata_bytes_max"),
			"is more than http2.header_bytes_max lets in, expected at most that");
}

/* ---- listeners ------------------------------------------------------------------------------ */

static bool address_is_ours(const struct config *cfg, const struct config_address *a)
{
	for (uint32_t i = 0; i < cfg->ports_n; i++)
		for (uint32_t j = 0; j < cfg->ports[i].addresses_n; j++)
			if (config_address_equal(&cfg->ports[i].addresses[j], a))
				return true;
	return false;
}

static void check_listener_services(const struct check *c, struct config_listener *l,
				    const struct doc_node *services)
{
	if (services == NULL) {
		l->all_services = true;
		return;
	}
	for (const struct doc_node *e = services->first; e != NULL; e = e->next) {
		const char *name = json_string_value(e->value);
		char quote[CONFIG_QUOTE_TEXT_MAX];
		int index;

		if (name == NULL)
			continue;
		if (strcmp(name, "*") == 0) {
			if (services->children != 1)
				config_sink_node(c->sink, e,
						 "stands beside other names, expected it alone");
			l->all_services = true;
			continue;
		}
		index = config_service_find(c->cfg, name);
		if (index < 0)
			config_sink_node(c->sink, e,
					 "%s is no service, expected a name in services",
					 config_quote(name, quote));
		else if (config_listener_has_service(l, (uint32_t)index) && !l->all_services)
			config_sink_node(c->sink, e, "%s is named twice, expected each once",
					 config_quote(name, quote));
		else if (l->services_n < CONFIG_SERVICES_MAX)
			l->services[l->services_n++] = (uint32_t)index;
	}
}

static void check_listener_tls(const struct check *c, struct config_listener_tls *tls,
			       const struct doc_node *node)
{
	if (tls->client_ca[0] != '\0' && doc_member(node, "client_auth") == NULL)
		tls->client_auth = CONFIG_CLIENT_REQUIRED;
	if (tls->client_auth != CONFIG_CLIENT_NONE && tls->client_ca[0] == '\0')
		config_sink_node(c->sink, blame(c, node, "client_auth"),
				 "asks for client certificates, expected client_ca with it");
	if (tls->client_auth == CONFIG_CLIENT_NONE && tls->client_ca[0] != '\0')
		config_sink_node(c->sink, blame(c, node, "client_auth"),
				 "is \"none\" beside a client_ca, expected \"optional\" or "
				 "\"required\"");
	if (tls->min_version == CONFIG_TLS_1_3 && tls->ciphers[0] != '\0')
		config_sink_node(c->sink, blame(c, node, "ciphers"),
				 "are of TLS 1.2, which min_version leaves out, expected "
				 "ciphersuites");
}

static void check_tls(const struct check *c)
{
	const struct config_tls *tls = &c->cfg->tls;
	const struct doc_node *cores = doc_member(doc_member(c->root, "tls"), "helper_cores");

	for (uint32_t i = 0; i < tls->helper_cores_n && c->machine != NULL; i++) {
		uint32_t core = tls->helper_cores[i];

		if (!(c->machine->cores[core / 64] >> (core % 64) & 1))
			config_sink_node(c->sink, doc_element(cores, i),
					 "core %u is not there or not allowed to this process",
					 core);
	}
}

static void check_listener(const struct check *c, uint32_t index)
{
	struct config_listener *l = &c->cfg->listeners[index];
	const struct doc_node *node = element(c, "listeners", index);

	for (uint32_t j = 0; j < index; j++) {
		const struct config_listener *o = &c->cfg->listeners[j];

		if (l->name[0] != '\0' && strcmp(o->name, l->name) == 0)
			config_sink_node(
				c->sink, blame(c, node, "name"),
				"is the name of listeners[%u] too, expected one of its own", j);
		if (l->port == 0 || o->port != l->port || o->address.family != l->address.family)
			continue;
		if (config_address_any(&o->address) || config_address_any(&l->address) ||
		    config_address_equal(&o->address, &l->address))
			config_sink_node(
				c->sink, blame(c, node, "port"),
				"%u on this address is taken by listeners[%u], expected another "
				"port or address",
				l->port, j);
	}
	if (!config_address_any(&l->address) && !address_is_ours(c->cfg, &l->address))
		config_sink_node(c->sink, blame(c, node, "address"),
				 "belongs to no port, expected a port's address or \"0.0.0.0\"");
	check_listener_services(c, l, doc_member(node, "services"));
	if (doc_member(node, "tls") != NULL)
		check_listener_tls(c, &l->tls, doc_member(node, "tls"));
}

/* ---- hosts and services --------------------------------------------------------------------- */

static void check_host_sizes(const struct check *c, const struct config_host *h,
			     const struct doc_node *node)
{
	uint64_t workers = c->cfg->workers_n != 0 ? c->cfg->workers_n : 1;
	uint64_t requests = workers * h->workers_max * h->lane_slots * SLOT_BYTES;
	uint64_t completions =
		workers * (h->workers_max + FOREIGN_FACTOR) * h->lane_slots * SLOT_BYTES;
	char text[32];

	if (requests > h->to_host / 2)
		config_sink_node(c->sink, blame(c, node, "to_host"),
				 "rings alone take %s, expected at least twice that",
				 config_size_format(requests, text));
	if (completions > h->to_daemon / 2)
		config_sink_node(c->sink, blame(c, node, "to_daemon"),
				 "rings alone take %s, expected at least twice that",
				 config_size_format(completions, text));
	if (h->hugepages && h->to_host % HUGEPAGE_BYTES != 0)
		config_sink_node(c->sink, blame(c, node, "to_host"),
				 "is no multiple of a hugepage, expected a multiple of 2MiB");
	if (h->hugepages && h->to_daemon % HUGEPAGE_BYTES != 0)
		config_sink_node(c->sink, blame(c, node, "to_daemon"),
				 "is no multiple of a hugepage, expected a multiple of 2MiB");
}

static void check_host(const struct check *c, uint32_t index)
{
	struct config_host *h = &c->cfg->hosts[index];
	const struct doc_node *node = element(c, "hosts", index);
	const struct doc_node *uids = doc_member(node, "uids");

	for (uint32_t j = 0; j < index; j++)
		if (h->name[0] != '\0' && strcmp(c->cfg->hosts[j].name, h->name) == 0)
			config_sink_node(c->sink, blame(c, node, "name"),
					 "is the name of hosts[%u] too, expected one of its own",
					 j);
	for (uint32_t i = 0; i < h->uids_n; i++)
		for (uint32_t j = 0; j < i; j++)
			if (h->uids[i] == h->uids[j])
				config_sink_node(c->sink, doc_element(uids, i),
						 "%u stands here twice, expected each uid once",
						 h->uids[i]);
	if (!is_pow2(h->lane_slots))
		config_sink_node(c->sink, blame(c, node, "lane_slots"),
				 "is %u, expected a power of two", h->lane_slots);
	if (h->lane_depth > h->lane_slots)
		config_sink_node(c->sink, blame(c, node, "lane_depth"),
				 "is more than lane_slots (%u), expected at most that",
				 h->lane_slots);
	if (h->workers_min > h->workers_max)
		config_sink_node(c->sink, blame(c, node, "workers_min"),
				 "is more than workers_max (%u), expected at most that",
				 h->workers_max);
	if (h->cores_floor > h->cores_ceiling)
		config_sink_node(c->sink, blame(c, node, "cores_floor"),
				 "is more than cores_ceiling (%u), expected at most that",
				 h->cores_ceiling);
	check_node(c, node, h->numa_node);
	check_host_sizes(c, h, node);
}

static void check_broker(const struct check *c)
{
	const struct config_broker *b = &c->cfg->broker;
	const struct doc_node *cores = doc_member(doc_member(c->root, "broker"), "cores");

	for (uint32_t i = 0; i < b->cores_n; i++) {
		uint32_t core = b->cores[i];

		for (uint32_t j = 0; j < i; j++)
			if (b->cores[j] == core)
				config_sink_node(c->sink, doc_element(cores, i),
						 "%u stands here twice, expected each core once",
						 core);
		if (c->machine != NULL && !core_exists(c->machine, core))
			config_sink_node(c->sink, doc_element(cores, i),
					 "there is no core %u here, expected one that this process "
					 "may use",
					 core);
	}
}

static void service_limits_default(const struct config *cfg, struct config_service_limits *l,
				   const struct doc_node *node)
{
	if (doc_member(node, "message_bytes_max") == NULL)
		l->message_bytes_max = cfg->grpc.message_bytes_max;
	if (doc_member(node, "send_message_bytes_max") == NULL)
		l->send_message_bytes_max = cfg->grpc.send_message_bytes_max;
	if (doc_member(node, "linear_bytes_max") == NULL)
		l->linear_bytes_max = cfg->linearize.linear_bytes_max;
	if (doc_member(node, "queue_max") == NULL)
		l->queue_max = cfg->grpc.queue_max;
	if (doc_member(node, "calls_max") == NULL)
		l->calls_max = cfg->grpc.calls_max;
	if (doc_member(node, "queue_timeout") == NULL)
		l->queue_timeout_ns = cfg->grpc.queue_timeout_ns;
}

/* A message of the largest size must have room in the part of the segment that one worker owns. */
static void check_service_sizes(const struct check *c, const struct config_service *s,
				const struct doc_node *node)
{
	const struct doc_node *limits = doc_member(node, "limits");
	uint64_t workers = c->cfg->workers_n != 0 ? c->cfg->workers_n : 1;
	char need[32], have[32];

	if (s->limits.message_bytes_max > s->limits.linear_bytes_max)
		config_sink_node(
			c->sink, blame(c, limits != NULL ? limits : node, "message_bytes_max"),
			"messages of %s do not fit into linear_bytes_max of %s, expected at "
			"most that",
			config_size_format(s->limits.message_bytes_max, need),
			config_size_format(s->limits.linear_bytes_max, have));
	for (uint32_t i = 0; i < s->hosts_n; i++) {
		const struct config_host *h = &c->cfg->hosts[s->hosts[i]];
		uint64_t rings = (uint64_t)h->workers_max * h->lane_slots * SLOT_BYTES;

		if (h->memory_max != 0 && s->limits.linear_bytes_max > h->memory_max)
			config_sink_node(
				c->sink, blame(c, element(c, "hosts", s->hosts[i]), "memory_max"),
				"%s is less than linear_bytes_max (%s) of service %s, expected at "
				"least that",
				config_size_format(h->memory_max, have),
				config_size_format(s->limits.linear_bytes_max, need), s->name);
		if (s->limits.linear_bytes_max + rings > h->to_host / workers)
			config_sink_node(
				c->sink, blame(c, element(c, "hosts", s->hosts[i]), "to_host"),
				"%s among %llu workers leaves less than linear_bytes_max (%s) of "
				"service %s, expected more",
				config_size_format(h->to_host, have), (unsigned long long)workers,
				config_size_format(s->limits.linear_bytes_max, need), s->name);
	}
}

static void check_service_hosts(const struct check *c, struct config_service *s,
				const struct doc_node *hosts)
{
	if (hosts == NULL || !json_is_array(hosts->value))
		return;
	for (const struct doc_node *e = hosts->first; e != NULL; e = e->next) {
		const char *name = json_string_value(e->value);
		char quote[CONFIG_QUOTE_TEXT_MAX];
		int index = name != NULL ? config_host_find(c->cfg, name) : -1;

		if (name == NULL)
			continue;
		if (index < 0)
			config_sink_node(c->sink, e, "%s is no host, expected a name in hosts",
					 config_quote(name, quote));
		else if (config_service_has_host(s, (uint32_t)index))
			config_sink_node(c->sink, e, "%s is named twice, expected each once",
					 config_quote(name, quote));
		else if (s->hosts_n < CONFIG_HOSTS_MAX)
			s->hosts[s->hosts_n++] = (uint32_t)index;
	}
}

static bool clients_known(const struct config *cfg, uint32_t service)
{
	for (uint32_t i = 0; i < cfg->listeners_n; i++)
		if (cfg->listeners[i].tls.client_ca[0] != '\0' &&
		    config_listener_has_service(&cfg->listeners[i], service))
			return true;
	return false;
}

/* "2.1" as numbers. */
static bool field_path_parse(const char *text, struct config_hash *h)
{
	h->field_n = 0;
	do {
		char *end;
		unsigned long n;

		if (*text < '1' || *text > '9' || h->field_n == CONFIG_FIELD_DEPTH_MAX)
			return false;
		n = strtoul(text, &end, 10);
		if (n > 536870911) /* of protobuf */
			return false;
		h->field[h->field_n++] = (uint32_t)n;
		text = end;
	} while (*text++ == '.');
	return text[-1] == '\0';
}

static void check_metadata_key(const struct check *c, const char *key, const struct doc_node *node)
{
	if (key[0] == '\0' || key[strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_.-")] != '\0')
		config_sink_node(c->sink, blame(c, node, "key"),
				 "%s, expected the name of a metadata entry, in lower case, as key",
				 key[0] == '\0' ? "names none" : "is no name of one");
}

/* Of `targets` things, named as `what`. */
static void check_balance(const struct check *c, struct config_balance *b, uint32_t targets,
			  const char *what, const struct doc_node *node)
{
	const struct doc_node *balance = doc_member(node, "balance");
	const struct doc_node *hash = doc_member(balance, "hash");
	const struct doc_node *sticky = doc_member(balance, "sticky");

	if (b->weights_n != 0 && b->weights_n != targets)
		config_sink_node(c->sink, doc_member(balance, "weights"),
				 "has %u elements, expected one for each of %s (%u)", b->weights_n,
				 what, targets);
	if (b->hash.by == CONFIG_HASH_METADATA)
		check_metadata_key(c, b->hash.key, hash);
	if (b->hash.by == CONFIG_HASH_FIELD && !field_path_parse(b->hash.key, &b->hash))
		config_sink_node(c->sink, blame(c, hash, "key"),
				 "expected numbers of at most %d fields with dots, like \"2.1\"",
				 CONFIG_FIELD_DEPTH_MAX);
	if (b->sticky.by == CONFIG_STICKY_METADATA)
		check_metadata_key(c, b->sticky.key, sticky);
	if (hash != NULL && b->policy != CONFIG_CONSISTENT_HASH)
		config_sink_node(c->sink, hash,
				 "stands beside another policy, expected consistent_hash with it");
	if (b->weights_n != 0 && b->policy == CONFIG_ROUND_ROBIN)
		config_sink_node(c->sink, doc_member(balance, "weights"),
				 "are nothing to round_robin, expected \"weighted\"");
	if (b->ejection.time_max_ns < b->ejection.time_ns)
		config_sink_node(c->sink, blame(c, doc_member(balance, "ejection"), "time_max"),
				 "is less than time, expected at least that");
}

static void check_service(const struct check *c, uint32_t index)
{
	struct config_service *s = &c->cfg->services[index];
	const struct doc_node *node = element(c, "services", index);
	const struct doc_node *workers = doc_member(node, "workers");

	for (uint32_t j = 0; j < index; j++)
		if (s->name[0] != '\0' && strcmp(c->cfg->services[j].name, s->name) == 0)
			config_sink_node(c->sink, blame(c, node, "name"),
					 "is the name of services[%u] too, expected one of its own",
					 j);
	check_service_hosts(c, s, doc_member(node, "hosts"));
	for (uint32_t i = 0; i < s->workers_n; i++) {
		if (s->workers[i] >= c->cfg->workers_n)
			config_sink_node(c->sink, doc_element(workers, i),
					 "is %u, expected the index of one of %u workers",
					 s->workers[i], c->cfg->workers_n);
		for (uint32_t j = 0; j < i; j++)
			if (s->workers[i] == s->workers[j])
				config_sink_node(c->sink, doc_element(workers, i),
						 "worker %u stands here twice, expected each once",
						 s->workers[i]);
	}
	if (s->workers_n == 0)
		for (uint32_t w = 0; w < c->cfg->workers_n && w < CONFIG_WORKERS_MAX; w++)
			s->workers[s->workers_n++] = w;
	check_balance(c, &s->balance, s->hosts_n, "hosts", node);
	service_limits_default(c->cfg, &s->limits, doc_member(node, "limits"));
	check_service_sizes(c, s, node);
	for (uint32_t i = 0; i < s->methods_n; i++)
		for (uint32_t j = 0; j < i; j++)
			if (strcmp(s->methods[i].name, s->methods[j].name) == 0)
				config_sink_node(
					c->sink, doc_element(doc_member(node, "methods"), i),
					"is of the same method as methods[%u], expected one "
					"entry for each",
					j);
	if (s->allow_n > 0 && !clients_known(c->cfg, index))
		config_sink_node(c->sink, doc_member(node, "allow"),
				 "lets nobody in: no listener that offers the service knows its "
				 "clients, expected one with tls.client_ca");
}

/* Mutual or not at all; and names for which there is no way in are a mistake. */
static void check_remote(const struct check *c)
{
	const struct config_remote *r = &c->cfg->remote;
	const struct doc_node *node = doc_member(c->root, "remote"), *tls = doc_member(node, "tls");
	const struct doc_node *hosts = doc_member(c->root, "hosts");

	if (tls != NULL &&
	    (r->tls.cert[0] == '\0' || r->tls.key[0] == '\0' || r->tls.ca[0] == '\0'))
		config_sink_node(c->sink, tls, "is mutual, expected cert, key and ca");
	for (uint32_t i = 0; i < c->cfg->hosts_n && r->port == 0; i++)
		if (c->cfg->hosts[i].remote)
			config_sink_node(c->sink, blame(c, doc_element(hosts, i), "remote"),
					 "is true, expected a remote.port by which they come");
	for (uint32_t i = 0; i < c->cfg->hosts_n; i++) {
		const struct config_host *h = &c->cfg->hosts[i];

		if (h->remote_names_n != 0 && (!h->remote || tls == NULL))
			config_sink_node(c->sink, blame(c, doc_element(hosts, i), "remote_names"),
					 "is of certificates, expected %s",
					 h->remote ? "remote.tls, which asks for them"
						   : "remote to be true");
	}
}

void config_check(struct config *cfg, const struct doc_node *root,
		  const struct config_machine *machine, const struct config_sink *sink)
{
	struct check c = {cfg, root, machine, sink};

	check_workers(&c);
	check_eal(&c);
	for (uint32_t i = 0; i < cfg->ports_n; i++)
		check_port(&c, i);
	check_ports_memory(&c);
	check_tcp(&c);
	check_http2(&c);
	check_tls(&c);
	for (uint32_t i = 0; i < cfg->listeners_n; i++)
		check_listener(&c, i);
	for (uint32_t i = 0; i < cfg->hosts_n; i++)
		check_host(&c, i);
	check_broker(&c);
	for (uint32_t i = 0; i < cfg->services_n; i++)
		check_service(&c, i);
	config_check_channels(cfg, root, sink);
	check_remote(&c);
}
