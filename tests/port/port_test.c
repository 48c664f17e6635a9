/* Ports on net_ring and net_null: bursts, chains, hand-over, what is refused. One EAL for all
 * tests, so Check must not fork; every test makes virtual devices of its own. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rte_dev.h>

#include "base/log.h"
#include "base/poison.h"
#include "config/config.h"
#include "daemon/port/port_internal.h"

#define ROOM 2176

static struct config_worker workers[2] = {{.core = 0, .numa_node = CONFIG_NONE},
					  {.core = 0, .numa_node = CONFIG_NONE}};
static struct config_port port;
static struct config cfg;
static struct port_set *set;
static struct port_error err;
static unsigned devices_made;

static void config_reset(void)
{
	memset(&cfg, 0, sizeof(cfg));
	memset(&port, 0, sizeof(port));
	cfg.eal.main_core = 0;
	cfg.eal.memory = 64 << 20;
	cfg.workers = workers;
	cfg.workers_n = 1;
	cfg.ports = &port;
	cfg.ports_n = 1;
	snprintf(port.name, sizeof(port.name), "p0");
	port.mtu = 1500;
	port.rx_queues = port.tx_queues = 1;
	port.rx_descriptors = port.tx_descriptors = 128;
	port.mbufs = 1023;
	port.mbuf_room = ROOM;
	port.queue_workers_n = 1;
	port.numa_node = CONFIG_NONE;
}

/* A fresh device of this driver; net_ring loops back what is sent. */
static void device_make(const char *driver)
{
	snprintf(port.device, sizeof(port.device), "%s%u", driver, 10 + devices_made++);
	ck_assert_int_eq(rte_eal_hotplug_add("vdev", port.device, ""), 0);
}

static void set_make(const char *driver)
{
	device_make(driver);
	ck_assert_msg(port_set_create(&cfg, &set, &err) == 0, "%s", err.text);
	ck_assert_msg(port_set_start(set, &err) == 0, "%s", err.text);
}

/* Every test ends here: nothing may be left in a pool but what the device holds. */
static void set_end(void)
{
	port_set_stop(set);
	port_set_destroy(set);
	set = NULL;
}

static struct rte_mbuf *frame_make(struct rte_mempool *pool, unsigned segments, uint16_t bytes,
				   uint8_t fill)
{
	struct rte_mbuf *head = NULL;

	for (unsigned i = 0; i < segments; i++) {
		struct rte_mbuf *seg = rte_pktmbuf_alloc(pool);
		char *data;

		ck_assert_ptr_nonnull(seg);
		data = rte_pktmbuf_append(seg, bytes);
		ck_assert_ptr_nonnull(data);
		memset(data, fill + (int)i, bytes);
		if (head == NULL)
			head = seg;
		else
			ck_assert_int_eq(rte_pktmbuf_chain(head, seg), 0);
	}
	return head;
}

START_TEST(ring_loops_frames_back)
{
	struct rte_mbuf *pkts[8], *got[8];
	struct port_queue *q;
	struct port_pool_usage usage;

	config_reset();
	set_make("net_ring");
	q = port_queue_of(set, 0, 0);
	ck_assert_int_eq(port_queue_fd(q), -1);
	for (int i = 0; i < 8; i++)
		pkts[i] = frame_make(port_queue_pool(q), 1, 60, (uint8_t)i);
	ck_assert_uint_eq(port_rx_burst(q, got, 8), 0);
	ck_assert_uint_eq(port_tx_burst(q, pkts, 8), 8);
	ck_assert_uint_eq(port_rx_burst(q, got, 8), 8);
	for (int i = 0; i < 8; i++) {
		ck_assert_ptr_eq(got[i], pkts[i]);
		rte_pktmbuf_free(got[i]);
	}
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->rx_frames), 8);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->rx_bytes), 480);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->rx_polls_empty), 1);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->tx_frames), 8);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->tx_bytes), 480);
	port_queue_pool_usage(q, &usage);
	ck_assert_uint_eq(usage.tx_used, 0);
	ck_assert_uint_eq(usage.rx_used, 0);
	ck_assert_uint_eq(usage.tx_size, 1023);
	set_end();
}
END_TEST

START_TEST(info_tells_of_the_device)
{
	struct port_info info;
	struct port_link link;

	config_reset();
	port.mac_given = true;
	memcpy(port.mac, "\x02\x11\x22\x33\x44\x55", 6);
	set_make("net_null");
	ck_assert_uint_eq(port_set_count(set), 1);
	port_info_get(set, 0, &info);
	ck_assert_str_eq(info.name, "p0");
	ck_assert_str_eq(info.driver, "net_null");
	ck_assert_mem_eq(info.mac.addr_bytes, port.mac, 6);
	ck_assert_uint_eq(info.mtu, 1500);
	ck_assert_uint_eq(info.data_room, ROOM - RTE_PKTMBUF_HEADROOM);
	/* Neither checksums nor chains: net/ and the linearizing do it. */
	ck_assert_uint_eq(info.flags, 0);
	port_link_get(set, 0, &link);
	ck_assert(link.up);
	set_end();
}
END_TEST

START_TEST(unverified_checksums_are_passed_on)
{
	struct port_info info;

	config_reset();
	port.checksum = CONFIG_CHECKSUM_UNVERIFIED;
	set_make("net_null");
	port_info_get(set, 0, &info);
	ck_assert_uint_eq(info.flags, PORT_RX_NO_CKSUM);
	set_end();
}
END_TEST

START_TEST(linearize_keeps_bytes_and_flags)
{
	struct rte_mempool *pool;
	struct rte_mbuf *chain, *flat;

	config_reset();
	set_make("net_null");
	pool = port_queue_pool(port_queue_of(set, 0, 0));
	chain = frame_make(pool, 3, 100, 'a');
	chain->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_TCP_CKSUM | RTE_MBUF_F_RX_RSS_HASH;
	chain->l2_len = 14;
	chain->l3_len = 20;
	flat = port_linearize(pool, chain);
	ck_assert_ptr_nonnull(flat);
	ck_assert_uint_eq(flat->nb_segs, 1);
	ck_assert_uint_eq(flat->pkt_len, 300);
	ck_assert_uint_eq(flat->data_len, 300);
	for (int i = 0; i < 300; i++)
		ck_assert_int_eq(rte_pktmbuf_mtod(flat, char *)[i], 'a' + i / 100);
	ck_assert(flat->ol_flags == (RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_TCP_CKSUM));
	ck_assert_uint_eq(flat->l2_len, 14);
	ck_assert_uint_eq(flat->l3_len, 20);
	rte_pktmbuf_free(flat);
	ck_assert_uint_eq(rte_mempool_in_use_count(pool), 0);
	set_end();
}
END_TEST

START_TEST(linearize_refuses_what_does_not_fit)
{
	struct rte_mempool *pool;
	struct rte_mbuf *chain;

	config_reset();
	set_make("net_null");
	pool = port_queue_pool(port_queue_of(set, 0, 0));
	ck_assert_ptr_null(port_linearize(pool, frame_make(pool, 2, 1500, 0)));
	ck_assert_uint_eq(rte_mempool_in_use_count(pool), 0);
	/* A chain whose length is a lie: no byte past the claim is copied, none is made up. */
	chain = frame_make(pool, 2, 100, 0);
	chain->pkt_len = 150;
	chain = port_linearize(pool, chain);
	ck_assert_ptr_nonnull(chain);
	ck_assert_uint_eq(chain->pkt_len, 150);
	rte_pktmbuf_free(chain);
	chain = frame_make(pool, 2, 100, 0);
	chain->pkt_len = 250;
	ck_assert_ptr_null(port_linearize(pool, chain));
	ck_assert_uint_eq(rte_mempool_in_use_count(pool), 0);
	set_end();
}
END_TEST

START_TEST(chains_are_copied_for_a_device_that_takes_none)
{
	struct rte_mbuf *pkts[3];
	struct port_queue *q;

	config_reset();
	set_make("net_null");
	q = port_queue_of(set, 0, 0);
	pkts[0] = frame_make(port_queue_pool(q), 1, 60, 0);
	pkts[1] = frame_make(port_queue_pool(q), 3, 60, 0);
	pkts[2] = frame_make(port_queue_pool(q), 2, 2000, 0); /* too large: dropped */
	ck_assert_uint_eq(port_tx_burst(q, pkts, 3), 3);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->tx_frames), 2);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->tx_bytes), 240);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->tx_linearized), 1);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->tx_linearize_drops), 1);
	ck_assert_uint_eq(rte_mempool_in_use_count(port_queue_pool(q)), 0);
	set_end();
}
END_TEST

START_TEST(chains_pass_a_device_that_takes_them)
{
	struct rte_mbuf *pkt, *clone, *got[2];
	struct port_queue *q;

	config_reset();
	set_make("net_ring");
	q = port_queue_of(set, 0, 0);
	pkt = frame_make(port_queue_pool(q), 3, 60, 0);
	got[0] = pkt;
	ck_assert_uint_eq(port_tx_burst(q, got, 1), 1);
	ck_assert_uint_eq(port_rx_burst(q, got, 2), 1);
	ck_assert_ptr_eq(got[0], pkt);
	ck_assert_uint_eq(got[0]->nb_segs, 3);
	/* A clone shares its data with another: a ring's receiver could write into it. */
	clone = rte_pktmbuf_clone(pkt, port_queue_pool(q));
	ck_assert_ptr_nonnull(clone);
	got[0] = clone;
	ck_assert_uint_eq(port_tx_burst(q, got, 1), 1);
	ck_assert_uint_eq(port_rx_burst(q, got, 2), 1);
	ck_assert_uint_eq(got[0]->nb_segs, 1);
	ck_assert(RTE_MBUF_DIRECT(got[0]));
	rte_pktmbuf_free(got[0]);
	rte_pktmbuf_free(pkt);
	ck_assert_uint_eq(rte_mempool_in_use_count(port_queue_pool(q)), 0);
	set_end();
}
END_TEST

/* The ring takes 1,023; a burst that holds a frame that is dropped meets its end. */
START_TEST(a_full_device_leaves_the_rest_behind_the_count)
{
	struct rte_mbuf *pkts[4], *last, *got[PORT_BURST_MAX];
	struct port_queue *q;
	uint16_t n;

	config_reset();
	port.mbufs = 2047;
	set_make("net_ring");
	q = port_queue_of(set, 0, 0);
	q->copies_chains = true;
	for (int i = 0; i < 1022; i++) {
		pkts[0] = frame_make(port_queue_pool(q), 1, 60, 0);
		ck_assert_uint_eq(port_tx_burst(q, pkts, 1), 1);
	}
	pkts[0] = frame_make(port_queue_pool(q), 2, 2000, 0); /* dropped */
	pkts[1] = frame_make(port_queue_pool(q), 1, 60, 1);   /* fits */
	pkts[2] = frame_make(port_queue_pool(q), 2, 60, 2);   /* linearized, but no room */
	pkts[3] = last = frame_make(port_queue_pool(q), 1, 60, 4);
	ck_assert_uint_eq(port_tx_burst(q, pkts, 4), 2);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q)->tx_full), 1);
	ck_assert_uint_eq(pkts[2]->pkt_len, 120);
	ck_assert_uint_eq(pkts[2]->nb_segs, 1);
	ck_assert_ptr_eq(pkts[3], last);
	while ((n = port_rx_burst(q, got, PORT_BURST_MAX)) != 0)
		rte_pktmbuf_free_bulk(got, n);
	ck_assert_uint_eq(port_tx_burst(q, pkts + 2, 2), 2);
	ck_assert_uint_eq(port_rx_burst(q, got, PORT_BURST_MAX), 2);
	ck_assert_ptr_eq(got[1], last);
	rte_pktmbuf_free_bulk(got, 2);
	ck_assert_uint_eq(rte_mempool_in_use_count(port_queue_pool(q)), 0);
	set_end();
}
END_TEST

/* net_tap once stood still for ever behind a frame larger than the kernel takes. */
START_TEST(a_frame_that_no_device_takes_gives_way)
{
	struct rte_mbuf *pkts[2], *second, *got[PORT_BURST_MAX];
	const struct port_counters *counters;
	unsigned tries = 0;
	struct port_queue *q;
	uint16_t n;

	config_reset();
	port.mbufs = 2047;
	set_make("net_ring");
	q = port_queue_of(set, 0, 0);
	counters = port_queue_counters(q);
	for (int i = 0; i < 1023; i++) { /* a full ring takes nothing */
		pkts[0] = frame_make(port_queue_pool(q), 1, 60, 0);
		ck_assert_uint_eq(port_tx_burst(q, pkts, 1), 1);
	}
	pkts[0] = frame_make(port_queue_pool(q), 1, 60, 1);
	pkts[1] = second = frame_make(port_queue_pool(q), 1, 60, 2);
	while (port_tx_burst(q, pkts, 2) == 0)
		ck_assert_uint_lt(++tries, 100000);
	ck_assert_uint_ge(tries, 1000); /* a device that is busy for a while loses nothing */
	ck_assert_uint_eq(counter_get(&counters->tx_stuck_drops), 1);
	ck_assert_uint_eq(counter_get(&counters->tx_frames), 1023);
	ck_assert_ptr_eq(pkts[1], second);
	while ((n = port_rx_burst(q, got, PORT_BURST_MAX)) != 0)
		rte_pktmbuf_free_bulk(got, n);
	ck_assert_uint_eq(port_tx_burst(q, pkts + 1, 1), 1);
	ck_assert_uint_eq(port_rx_burst(q, got, PORT_BURST_MAX), 1);
	ck_assert_ptr_eq(got[0], second);
	rte_pktmbuf_free(got[0]);
	ck_assert_uint_eq(counter_get(&counters->tx_stuck_drops), 1);
	ck_assert_uint_eq(rte_mempool_in_use_count(port_queue_pool(q)), 0);
	set_end();
}
END_TEST

/* First byte: 'A' for everybody, else the worker. */
static bool steer_by_first_byte(const struct rte_mbuf *pkt, uint32_t *hash_out)
{
	uint8_t first = *rte_pktmbuf_mtod(pkt, const uint8_t *);

	*hash_out = first;
	return first != 'A';
}

/* "Verifying the RSS Hash Calculation", Microsoft's NDIS documentation. */
START_TEST(toeplitz_hashes_as_published)
{
	static const uint8_t key[PORT_RSS_KEY_MAX] = {
		0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
		0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
		0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};
	const struct port_flow v4 = {.src = {66, 9, 149, 187},
				     .dst = {161, 142, 100, 80},
				     .src_port = 2794,
				     .dst_port = 1766};
	const struct port_flow v6 = {
		.ipv6 = true,
		.src = {0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, [15] = 7},
		.dst = {0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x00, 0x03, [15] = 1},
		.src_port = 2794,
		.dst_port = 1766};

	ck_assert_uint_eq(port_rss_hash(key, &v4, true), 0x51ccc178);
	ck_assert_uint_eq(port_rss_hash(key, &v4, false), 0x323e8fc2);
	ck_assert_uint_eq(port_rss_hash(key, &v6, true), 0x40207d3d);
	ck_assert_uint_eq(port_rss_hash(key, &v6, false), 0x2cc18cd5);
}
END_TEST

START_TEST(a_symmetric_key_hashes_both_ways_alike)
{
	struct rte_eth_dev_info info = {.hash_key_size = 40};
	struct port_flow to = {.src_port = 50000, .dst_port = 80}, back = to;
	struct rte_eth_conf conf = {0};
	static struct port_dev dev;

	port_rss_request(&dev, &info, &conf);
	ck_assert_ptr_eq(conf.rx_adv_conf.rss_conf.rss_key, dev.rss.key);
	for (unsigned i = 0; i < 64; i++) {
		to.ipv6 = i % 2 != 0;
		for (unsigned b = 0; b < 16; b++) {
			to.src[b] = (uint8_t)(i * 31 + b * 7);
			to.dst[b] = (uint8_t)(i * 17 + b * 3 + 1);
		}
		to.src_port = (uint16_t)(1000 + i * 977);
		back = (struct port_flow){
			.ipv6 = to.ipv6, .src_port = to.dst_port, .dst_port = to.src_port};
		memcpy(back.src, to.dst, sizeof(to.dst));
		memcpy(back.dst, to.src, sizeof(to.src));
		ck_assert_uint_eq(port_rss_hash(dev.rss.key, &to, true),
				  port_rss_hash(dev.rss.key, &back, true));
	}
	info.hash_key_size = 16; /* too short to hold IPv6: the driver's own */
	conf.rx_adv_conf.rss_conf.rss_key = NULL;
	port_rss_request(&dev, &info, &conf);
	ck_assert_ptr_null(conf.rx_adv_conf.rss_conf.rss_key);
}
END_TEST

/* Where the device spreads, its table says whose a flow is; where it does not, the steering hash
 * does; and exactly one worker has each. */
START_TEST(a_flow_belongs_to_one_worker)
{
	struct port_flow flow = {.src = {198, 18, 0, 9}, .dst = {198, 18, 0, 2}, .dst_port = 80};
	static struct port_dev dev;
	struct port_queue q[3];
	unsigned had[3] = {0};

	dev.workers_n = 3;
	dev.steer = steer_by_first_byte;
	for (unsigned w = 0; w < 3; w++)
		q[w] = (struct port_queue){
			.dev = &dev, .worker = (uint16_t)w, .rx_queue = (uint16_t)(2 - w)};
	for (uint32_t hash = 0; hash < 6; hash++) {
		for (unsigned w = 0; w < 3; w++)
			ck_assert_int_eq(port_queue_gets(&q[w], &flow, hash), hash % 3 == w);
	}
	dev.spreads = dev.rss.ports = true;
	dev.rss.entries = 128;
	for (unsigned i = 0; i < 128; i++)
		dev.rss.table[i] = (uint16_t)(i % 3);
	for (unsigned i = 0; i < sizeof(dev.rss.key); i++)
		dev.rss.key[i] = i % 2 == 0 ? 0x6d : 0x5a;
	for (uint16_t from = 50000; from < 50300; from++) {
		unsigned owners = 0;

		flow.src_port = from;
		for (unsigned w = 0; w < 3; w++) {
			bool gets = port_queue_gets(&q[w], &flow, 0);

			owners += gets;
			had[w] += gets;
		}
		ck_assert_uint_eq(owners, 1);
	}
	for (unsigned w = 0; w < 3; w++)
		ck_assert_uint_gt(had[w], 30);
}
END_TEST

START_TEST(frames_reach_the_worker_that_owns_them)
{
	struct rte_mbuf *pkts[3], *got[8];
	struct port_queue *q0, *q1;

	config_reset();
	cfg.workers_n = 2;
	set_make("net_ring");
	port_set_steer(set, steer_by_first_byte);
	q0 = port_queue_of(set, 0, 0);
	q1 = port_queue_of(set, 0, 1);
	pkts[0] = frame_make(port_queue_pool(q0), 1, 60, 0);
	pkts[1] = frame_make(port_queue_pool(q0), 1, 60, 1);
	pkts[2] = frame_make(port_queue_pool(q0), 1, 60, 'A');
	ck_assert_uint_eq(port_tx_burst(q0, pkts, 3), 3);
	ck_assert_uint_eq(port_rx_burst(q1, got, 8), 0); /* has no queue: nothing yet */
	ck_assert_uint_eq(port_rx_burst(q0, got, 8), 2);
	ck_assert_ptr_eq(got[0], pkts[0]);
	ck_assert_ptr_eq(got[1], pkts[2]);
	rte_pktmbuf_free_bulk(got, 2);
	ck_assert_uint_eq(port_rx_burst(q1, got, 8), 2);
	ck_assert_ptr_eq(got[0], pkts[1]);
	ck_assert_ptr_ne(got[1], pkts[2]);
	ck_assert_int_eq(*rte_pktmbuf_mtod(got[1], uint8_t *), 'A');
	rte_pktmbuf_free_bulk(got, 2);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q0)->rx_handed_over), 2);
	set_end();
}
END_TEST

START_TEST(a_worker_without_a_queue_sends_through_the_owner)
{
	struct rte_mbuf *pkts[2], *got[8];
	struct port_queue *q0, *q1;

	config_reset();
	cfg.workers_n = 2;
	set_make("net_ring");
	port_set_steer(set, steer_by_first_byte);
	q0 = port_queue_of(set, 0, 0);
	q1 = port_queue_of(set, 0, 1);
	pkts[0] = frame_make(port_queue_pool(q1), 1, 60, 1);
	pkts[1] = frame_make(port_queue_pool(q1), 1, 60, 0);
	ck_assert_uint_eq(port_tx_burst(q1, pkts, 2), 2);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q1)->tx_handed_over), 2);
	/* The owner's poll sends them; net_ring brings them back at once. */
	ck_assert_uint_eq(port_rx_burst(q0, got, 8), 1);
	ck_assert_ptr_eq(got[0], pkts[1]);
	ck_assert_uint_eq(counter_get(&port_queue_counters(q0)->tx_frames), 2);
	ck_assert_uint_eq(port_rx_burst(q1, got + 1, 7), 1);
	ck_assert_ptr_eq(got[1], pkts[0]);
	rte_pktmbuf_free_bulk(got, 2);
	set_end();
}
END_TEST

START_TEST(a_worker_that_is_behind_loses_frames_not_the_others)
{
	struct rte_mbuf *got[PORT_BURST_MAX];
	struct port_queue *q0, *q1;
	uint16_t n;

	config_reset();
	cfg.workers_n = 2;
	port.mbufs = 2047;
	set_make("net_ring");
	port_set_steer(set, steer_by_first_byte);
	q0 = port_queue_of(set, 0, 0);
	q1 = port_queue_of(set, 0, 1);
	for (int i = 0; i < PORT_HANDOVER_SLOTS + 10; i++) {
		got[0] = frame_make(port_queue_pool(q0), 1, 60, 1);
		ck_assert_uint_eq(port_tx_burst(q0, got, 1), 1);
		ck_assert_uint_eq(port_rx_burst(q0, got, 8), 0);
	}
	ck_assert_uint_eq(counter_get(&port_queue_counters(q0)->rx_handover_drops), 11);
	while ((n = port_rx_burst(q1, got, PORT_BURST_MAX)) != 0)
		rte_pktmbuf_free_bulk(got, n);
	ck_assert_uint_eq(rte_mempool_in_use_count(port_queue_pool(q0)), 0);
	set_end();
}
END_TEST

START_TEST(destroy_frees_what_is_in_the_rings)
{
	struct rte_mbuf *pkt, *got[8];
	struct port_queue *q0;

	config_reset();
	cfg.workers_n = 2;
	set_make("net_ring");
	port_set_steer(set, steer_by_first_byte);
	q0 = port_queue_of(set, 0, 0);
	pkt = frame_make(port_queue_pool(q0), 1, 60, 1);
	ck_assert_uint_eq(port_tx_burst(q0, &pkt, 1), 1);
	ck_assert_uint_eq(port_rx_burst(q0, got, 8), 0);
	pkt = frame_make(port_queue_pool(q0), 1, 60, 1);
	ck_assert_uint_eq(port_tx_burst(port_queue_of(set, 0, 1), &pkt, 1), 1);
	set_end();
}
END_TEST

/* Only in sanitizer builds: what ASan knows of mbufs. */
START_TEST(free_mbufs_are_poisoned)
{
	struct rte_mempool *pool;
	struct rte_mbuf *pkt;
	char *room;

	if (!POISON_ENABLED)
		return;
	config_reset();
	set_make("net_null");
	pool = port_queue_pool(port_queue_of(set, 0, 0));
	pkt = rte_pktmbuf_alloc(pool);
	room = pkt->buf_addr;
	ck_assert(!poison_is_poisoned(room));
	ck_assert(!poison_is_poisoned(room + ROOM - 1));
	ck_assert(poison_is_poisoned(room + ROOM));
	rte_pktmbuf_free(pkt);
	ck_assert(poison_is_poisoned(room));
	ck_assert(poison_is_poisoned(room + ROOM - 1));
	set_end();
	ck_assert(!poison_is_poisoned(room));
}
END_TEST

START_TEST(a_write_past_a_room_is_reported)
{
	struct rte_mbuf *pkt;
	volatile char *room;
	int status;
	pid_t pid;

	if (!POISON_ENABLED)
		return;
	config_reset();
	set_make("net_null");
	pkt = rte_pktmbuf_alloc(port_queue_pool(port_queue_of(set, 0, 0)));
	room = pkt->buf_addr;
	pid = fork();
	if (pid == 0) {
		if (freopen("/dev/null", "w", stderr) == NULL)
			_exit(0);
		room[ROOM] = 1;
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
	rte_pktmbuf_free(pkt);
	set_end();
}
END_TEST

static void refused(const char *text)
{
	ck_assert_int_eq(port_set_create(&cfg, &set, &err), -SPLIT_E_PORT_DEVICE);
	ck_assert_ptr_null(set);
	ck_assert_msg(strstr(err.text, text) != NULL, "\"%s\" not in \"%s\"", text, err.text);
	ck_assert_ptr_null(strchr(err.text, '\n'));
}

START_TEST(bad_ports_are_refused_in_one_line)
{
	config_reset();
	snprintf(port.device, sizeof(port.device), "net_tap77");
	refused("port p0: no device net_tap77");

	device_make("net_null");
	port.checksum = CONFIG_CHECKSUM_DEVICE;
	refused("checksum is \"device\", but net_null");

	port.checksum = CONFIG_CHECKSUM_AUTO;
	port.rx_queues = 2000;
	refused("2000");

	port.rx_queues = 1;
	port.mbufs = 1 << 20;
	ck_assert_int_eq(port_set_create(&cfg, &set, &err), -SPLIT_E_PORT_MEMORY);
	ck_assert_msg(strstr(err.text, "raise eal.memory") != NULL, "%s", err.text);

	/* A failed create leaves the device usable. */
	port.mbufs = 1023;
	ck_assert_int_eq(port_set_create(&cfg, &set, &err), 0);
	set_end();
}
END_TEST

START_TEST(missing_hugepages_are_told_before_the_eal_is_touched)
{
	config_reset();
	cfg.eal.hugepages = true;
	cfg.eal.memory = UINT64_C(1) << 50;
	ck_assert_int_eq(port_eal_start(&cfg, "test", &err), -SPLIT_E_PORT_HUGEPAGES);
	ck_assert_msg(strstr(err.text, "MiB of hugepages") != NULL, "%s", err.text);
}
END_TEST

static Suite *port_suite(void)
{
	Suite *suite = suite_create("port");
	TCase *tc = tcase_create("port");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, ring_loops_frames_back);
	tcase_add_test(tc, info_tells_of_the_device);
	tcase_add_test(tc, unverified_checksums_are_passed_on);
	tcase_add_test(tc, linearize_keeps_bytes_and_flags);
	tcase_add_test(tc, linearize_refuses_what_does_not_fit);
	tcase_add_test(tc, chains_are_copied_for_a_device_that_takes_none);
	tcase_add_test(tc, chains_pass_a_device_that_takes_them);
	tcase_add_test(tc, a_full_device_leaves_the_rest_behind_the_count);
	tcase_add_test(tc, a_frame_that_no_device_takes_gives_way);
	tcase_add_test(tc, frames_reach_the_worker_that_owns_them);
	tcase_add_test(tc, a_worker_without_a_queue_sends_through_the_owner);
	tcase_add_test(tc, a_worker_that_is_behind_loses_frames_not_the_others);
	tcase_add_test(tc, destroy_frees_what_is_in_the_rings);
	tcase_add_test(tc, bad_ports_are_refused_in_one_line);
	tcase_add_test(tc, toeplitz_hashes_as_published);
	tcase_add_test(tc, a_symmetric_key_hashes_both_ways_alike);
	tcase_add_test(tc, a_flow_belongs_to_one_worker);
	tcase_add_test(tc, free_mbufs_are_poisoned);
	tcase_add_test(tc, a_write_past_a_room_is_reported);
	suite_add_tcase(suite, tc);
	return suite;
}

static Suite *eal_suite(void)
{
	Suite *suite = suite_create("eal");
	TCase *tc = tcase_create("eal");

	tcase_add_test(tc, missing_hugepages_are_told_before_the_eal_is_touched);
	suite_add_tcase(suite, tc);
	return suite;
}

int main(void)
{
	SRunner *runner = srunner_create(eal_suite());
	int failed;

	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);

	config_reset();
	snprintf(cfg.eal.file_prefix, sizeof(cfg.eal.file_prefix), "splitd-port-test-%d",
		 (int)getpid());
	if (port_eal_start(&cfg, "port_test", &err) != 0) {
		fprintf(stderr, "%s\n", err.text);
		return EXIT_FAILURE;
	}
	runner = srunner_create(port_suite());
	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	failed += srunner_ntests_failed(runner);
	srunner_free(runner);
	port_eal_stop();
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
