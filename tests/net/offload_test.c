/* Large segments, joined segments, chains and jumbo frames between two stacks over a pair of rings:
 * the same bytes with every offload as without, and, frame by frame, the same on the wire whether
 * TCP builds its segments itself or large ones are cut in front of the device. One EAL for all
 * tests, so Check must not fork; time is virtual. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_eth_ring.h>

#include "base/random.h"
#include "base/siphash.h"
#include "config/config.h"
#include "daemon/net/net_internal.h"
#include "daemon/port/port_internal.h"

#define STEP_NS    UINT64_C(20000)
#define STEPS_MAX  200000
#define BYTES      (3u << 20)
#define PIECE      5000u /* of what the layer above gives at once, in mbufs of 1,700 */
#define FRAMES_MAX 20000

/* What is switched on. */
struct way {
	uint8_t family;
	uint16_t mtu;
	uint64_t room; /* 0: what the MTU needs */
	int tso;
	bool gro, clones, echo; /* clones: the device takes references to mbufs */
	bool timestamps;
};

/* One end: a port with a stack, which sends BYTES of its own and checks what comes. */
struct end {
	struct port_queue *queue;
	struct net_stack *stack;
	struct tcp_conn *conn;
	struct random random;
	uint64_t sent, received;
	bool sends, done, joined; /* joined: a large segment came up */
	uint8_t salt, peer_salt;
	uint32_t largest; /* frame received */
};

static struct config_worker workers[1] = {{.core = 0, .numa_node = CONFIG_NONE}};
static struct config_port ports[2];
static struct config cfg;
static struct port_set *set;
static struct port_error err;
static struct end ends[2];
static uint64_t now_ns;
static unsigned devices_made;

/* What went from end 0 to end 1. */
static uint64_t wire[FRAMES_MAX];
static unsigned wire_n;
static uint32_t wire_largest;

static uint8_t pattern(uint64_t i, uint8_t salt)
{
	return (uint8_t)((i * 31 >> 3) + (i >> 11) + salt);
}

/* ---- the layer above ------------------------------------------------------------------------ */

static void send_more(struct end *e)
{
	while (e->sends && e->sent < BYTES && tcp_send_room(e->conn) >= PIECE) {
		struct rte_mbuf *head = NULL, *tail = NULL;
		uint32_t len = RTE_MIN((uint64_t)PIECE, BYTES - e->sent), done = 0;

		while (done < len) {
			struct rte_mbuf *m = rte_pktmbuf_alloc(port_queue_pool(e->queue));
			uint16_t n = (uint16_t)RTE_MIN(RTE_MIN(len - done, 1700u),
						       (uint32_t)rte_pktmbuf_tailroom(m));

			ck_assert_ptr_nonnull(m);
			for (uint16_t i = 0; i < n; i++)
				rte_pktmbuf_mtod(m, uint8_t *)[i] =
					pattern(e->sent + done + i, e->salt);
			m->data_len = n;
			if (head == NULL)
				head = m;
			else
				tail->next = m, head->nb_segs++;
			tail = m;
			done += n;
			head->pkt_len = done;
		}
		ck_assert_int_eq(tcp_send(e->conn, head), 0);
		e->sent += len;
	}
	if (e->conn != NULL && (!e->sends || e->sent == BYTES))
		tcp_shutdown(e->conn);
}

static int on_accept(void *ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	struct end *e = ctx;

	e->conn = conn;
	*conn_ctx_out = e;
	return 0;
}

static void on_connected(void *ctx, struct tcp_conn *conn)
{
	((struct end *)ctx)->conn = conn;
}

static void on_data(void *ctx, struct rte_mbuf *chain)
{
	struct end *e = ctx;
	uint32_t len = chain->pkt_len;

	for (struct rte_mbuf *m = chain; m != NULL; m = m->next) {
		for (uint16_t i = 0; i < m->data_len; i++)
			if (rte_pktmbuf_mtod(m, uint8_t *)[i] !=
			    pattern(e->received + i, e->peer_salt))
				ck_abort_msg("byte %lu differs", e->received + i);
		e->received += m->data_len;
	}
	rte_pktmbuf_free(chain);
	tcp_consumed(e->conn, len);
}

static void on_event(void *ctx)
{
	(void)ctx;
}

static void on_closed(void *ctx, int reason)
{
	struct end *e = ctx;

	ck_assert_msg(reason == 0, "%s", error_name(reason));
	e->conn = NULL;
	e->done = true;
}

static const struct tcp_events events = {
	.accept = on_accept,
	.connected = on_connected,
	.data = on_data,
	.eof = on_event,
	.writable = on_event,
	.closed = on_closed,
};

/* ---- two ends ------------------------------------------------------------------------------- */

static uint16_t on_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	return port_tx_burst(((struct end *)ctx)->queue, pkts, RTE_MIN(n, PORT_BURST_MAX));
}

static uint64_t on_random(void *ctx)
{
	return random_next(&((struct end *)ctx)->random);
}

static struct net_addr address_of(unsigned i, uint8_t family, uint16_t port)
{
	struct net_addr a = {.family = family, .port = port};
	const uint8_t v4[4] = {198, 18, 0, (uint8_t)(1 + i)};
	const uint8_t v6[16] = {0x20, 1, 0, 2, [15] = (uint8_t)(1 + i)};

	if (family == NET_FAMILY_IPV4)
		memcpy(a.bytes, v4, 4);
	else
		memcpy(a.bytes, v6, 16);
	return a;
}

static void port_config(struct config_port *p, unsigned i, const struct way *way)
{
	memset(p, 0, sizeof(*p));
	snprintf(p->name, sizeof(p->name), "p%u", i);
	snprintf(p->device, sizeof(p->device), "net_ring_o%u", devices_made * 2 + i);
	p->mtu = way->mtu;
	p->rx_queues = p->tx_queues = 1;
	p->rx_descriptors = p->tx_descriptors = 1024;
	p->mbufs = way->room != 0 ? 16383 : 4095;
	p->mbuf_room = way->room != 0 ? way->room : RTE_MAX(2176u, way->mtu + 300u);
	p->queue_workers_n = 1;
	p->numa_node = CONFIG_NONE;
	p->tso = way->tso;
	p->gro = way->gro;
}

static void devices_make(void)
{
	struct rte_ring *rings[2];
	char name[32];

	for (unsigned i = 0; i < 2; i++) {
		snprintf(name, sizeof(name), "o%u_%u", devices_made, i);
		rings[i] =
			rte_ring_create(name, 2048, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
		ck_assert_ptr_nonnull(rings[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		snprintf(name, sizeof(name), "o%u", devices_made * 2 + i);
		ck_assert_int_ge(rte_eth_from_rings(name, &rings[i], 1, &rings[!i], 1, 0), 0);
	}
}

static void end_make(unsigned i, const struct way *way)
{
	struct end *e = &ends[i];
	const struct net_ops ops = {.tx = on_tx, .random = on_random, .ctx = e};
	struct tcp_listener *listener;
	struct net_addr any = {.family = way->family, .port = 80};
	struct port_info info;
	struct net_config c;

	memset(e, 0, sizeof(*e));
	e->queue = port_queue_of(set, i, 0);
	if (way->clones)
		e->queue->copies_clones = false;
	random_seed(&e->random, 7 + i);
	e->salt = (uint8_t)(i * 100);
	e->peer_salt = (uint8_t)(!i * 100);
	e->sends = i == 0 || way->echo;
	port_info_get(set, i, &info);
	net_config_default(&c);
	c.mac = info.mac;
	c.addresses[0].addr = address_of(i, way->family, 0);
	c.addresses[0].prefix_len = way->family == NET_FAMILY_IPV4 ? 24 : 64;
	c.addresses_n = 1;
	c.dad_transmits = 0;
	c.mtu = way->mtu;
	c.pool = port_queue_pool(e->queue);
	c.tcp.timestamps = way->timestamps;
	if (info.flags & PORT_TX_TSO)
		c.flags |= NET_TX_TSO;
	ck_assert_int_eq(net_stack_create(&c, &ops, now_ns, &e->stack), 0);
	ck_assert_int_eq(tcp_listen(e->stack, &any, &events, e, &listener), 0);
}

static void frames_note(struct rte_mbuf **pkts, uint16_t n)
{
	static const struct siphash_key key = {1, 2};
	static uint8_t flat[10000];

	for (uint16_t i = 0; i < n; i++) {
		const uint8_t *p = rte_pktmbuf_read(pkts[i], 0, pkts[i]->pkt_len, flat);

		wire_largest = RTE_MAX(wire_largest, pkts[i]->pkt_len);
		if (wire_n < FRAMES_MAX)
			wire[wire_n++] = siphash24(&key, p, pkts[i]->pkt_len);
	}
}

static void end_poll(unsigned i)
{
	struct rte_mbuf *pkts[PORT_BURST_MAX];
	struct end *e = &ends[i];
	uint16_t n;

	while ((n = port_rx_burst(e->queue, pkts, PORT_BURST_MAX)) > 0) {
		for (uint16_t k = 0; k < n; k++) {
			e->largest = RTE_MAX(e->largest, pkts[k]->pkt_len);
			e->joined |= (pkts[k]->ol_flags & RTE_MBUF_F_RX_LRO) != 0;
		}
		if (i == 1 && !e->queue->joins)
			frames_note(pkts, n);
		net_rx(e->stack, pkts, n, now_ns);
	}
	net_timers_run(e->stack, now_ns);
	if (e->conn != NULL && tcp_info(e->conn).state >= TCP_ESTABLISHED)
		send_more(e);
	net_flush(e->stack, now_ns);
}

/* A connection from end 0 to end 1 with everything that `way` says, to its end. */
static void transfer(const struct way *way)
{
	struct net_addr to = address_of(1, way->family, 80);
	unsigned steps = 0;

	memset(&cfg, 0, sizeof(cfg));
	cfg.eal.memory = 192 << 20;
	cfg.workers = workers;
	cfg.workers_n = 1;
	cfg.ports = ports;
	cfg.ports_n = 2;
	for (unsigned i = 0; i < 2; i++)
		port_config(&ports[i], i, way);
	devices_make();
	devices_made++;
	ck_assert_msg(port_set_create(&cfg, &set, &err) == 0, "%s", err.text);
	ck_assert_msg(port_set_start(set, &err) == 0, "%s", err.text);
	now_ns = 1000000000;
	wire_n = wire_largest = 0;
	for (unsigned i = 0; i < 2; i++)
		end_make(i, way);
	ck_assert_int_eq(tcp_connect(ends[0].stack, NULL, &to, &events, &ends[0], &ends[0].conn),
			 0);
	for (; steps < STEPS_MAX && !(ends[0].done && ends[1].done); steps++) {
		now_ns += STEP_NS;
		end_poll(0);
		end_poll(1);
		/* Who closed first stays in TIME_WAIT; for the application it is over. */
	}
	ck_assert_msg(ends[0].done && ends[1].done, "%lu and %lu bytes arrived, then nothing",
		      ends[0].received, ends[1].received);
	ck_assert_uint_eq(ends[1].received, BYTES);
	ck_assert_uint_eq(ends[0].received, way->echo ? BYTES : 0);
	ck_assert_uint_eq(net_counters_of(ends[0].stack)->tcp_retransmits, 0);
	ck_assert_uint_eq(net_counters_of(ends[1].stack)->rx_drop_tcp_checksum, 0);
}

static void transfer_end(void)
{
	for (unsigned i = 0; i < 2; i++)
		net_stack_destroy(ends[i].stack);
	for (unsigned i = 0; i < 2; i++) {
		struct rte_mbuf *pkts[PORT_BURST_MAX];
		uint16_t n;

		while ((n = port_rx_burst(ends[i].queue, pkts, PORT_BURST_MAX)) > 0)
			rte_pktmbuf_free_bulk(pkts, n);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct port_pool_usage usage;

		port_queue_pool_usage(ends[i].queue, &usage);
		ck_assert_uint_eq(usage.tx_used, 0);
		ck_assert_uint_eq(usage.rx_used, 0);
	}
	port_set_stop(set);
	port_set_destroy(set);
	set = NULL;
}

static uint64_t counted(unsigned i, const char *name)
{
	const struct port_counters *c = port_queue_counters(ends[i].queue);

	for (size_t k = 0; k < port_counter_desc.count; k++)
		if (strcmp(port_counter_desc.names[k].name, name) == 0)
			return counter_read(c, &port_counter_desc, k);
	ck_abort_msg("no counter %s", name);
}

/* The same transfer twice, segments built by the stack, then cut: each frame is the same. */
static void same_wire(struct way way)
{
	static uint64_t before[FRAMES_MAX];
	unsigned before_n;

	way.tso = CONFIG_TSO_OFF;
	transfer(&way);
	ck_assert_uint_eq(counted(0, "tx_cut"), 0);
	ck_assert_uint_le(wire_largest, way.mtu + 14u);
	ck_assert_uint_gt(wire_n, BYTES / way.mtu);
	memcpy(before, wire, sizeof(before));
	before_n = wire_n;
	transfer_end();
	way.tso = CONFIG_TSO_SOFTWARE;
	transfer(&way);
	ck_assert_uint_gt(counted(0, "tx_cut"), BYTES / way.mtu / 2);
	ck_assert_uint_eq(wire_n, before_n);
	for (unsigned i = 0; i < wire_n; i++)
		ck_assert_msg(wire[i] == before[i], "frame %u of %u differs", i, wire_n);
	transfer_end();
}

static const uint8_t families[] = {NET_FAMILY_IPV4, NET_FAMILY_IPV6};

START_TEST(cut_segments_are_those_the_stack_builds_by_copy)
{
	same_wire((struct way){.family = families[_i], .mtu = 1500, .timestamps = true});
	same_wire((struct way){.family = families[_i], .mtu = 1500, .echo = true});
}
END_TEST

START_TEST(cut_segments_are_those_the_stack_builds_by_reference)
{
	same_wire((struct way){.family = families[_i], .mtu = 1500, .clones = true});
}
END_TEST

START_TEST(jumbo_frames_of_9000)
{
	same_wire((struct way){.family = families[_i], .mtu = 9000, .timestamps = true});
	ck_assert_uint_eq(wire_largest, 9014);
}
END_TEST

/* A frame in several mbufs, each way. */
START_TEST(frames_scattered_over_mbufs)
{
	same_wire((struct way){
		.family = families[_i], .mtu = 9000, .room = 2176, .timestamps = true});
	ck_assert_uint_eq(wire_largest, 9014);
	same_wire((struct way){.family = families[_i], .mtu = 1500, .room = 640, .clones = true});
}
END_TEST

START_TEST(joined_segments_bring_the_same_bytes)
{
	struct way way = {.family = families[_i], .mtu = 1500, .gro = true, .timestamps = true};

	transfer(&way);
	ck_assert_uint_gt(counted(1, "rx_joined"), BYTES / 1500 / 2);
	ck_assert(ends[1].joined);
	ck_assert_uint_gt(ends[1].largest, 3000);
	transfer_end();
	way.tso = CONFIG_TSO_SOFTWARE;
	way.echo = true;
	transfer(&way);
	ck_assert_uint_gt(counted(0, "rx_joined"), 100);
	ck_assert_uint_gt(counted(1, "rx_joined"), 100);
	transfer_end();
	way.mtu = 9000;
	transfer(&way);
	ck_assert_uint_gt(ends[1].largest, 18000);
	transfer_end();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("offload");
	TCase *tc = tcase_create("offload");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, cut_segments_are_those_the_stack_builds_by_copy, 0, 2);
	tcase_add_loop_test(tc, cut_segments_are_those_the_stack_builds_by_reference, 0, 2);
	tcase_add_loop_test(tc, jumbo_frames_of_9000, 0, 2);
	tcase_add_loop_test(tc, frames_scattered_over_mbufs, 0, 2);
	tcase_add_loop_test(tc, joined_segments_bring_the_same_bytes, 0, 2);
	suite_add_tcase(suite, tc);
	cfg.eal.memory = 512 << 20;
	cfg.workers = workers;
	cfg.workers_n = 1;
	snprintf(cfg.eal.file_prefix, sizeof(cfg.eal.file_prefix), "splitd-offload-test-%d",
		 (int)getpid());
	if (port_eal_start(&cfg, "offload_test", &err) != 0) {
		fprintf(stderr, "%s\n", err.text);
		return EXIT_FAILURE;
	}
	runner = srunner_create(suite);
	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	port_eal_stop();
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
