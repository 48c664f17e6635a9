#include "tests/worker/harness.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_eth_ring.h>
#include <rte_launch.h>
#include <rte_lcore.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/port/port.h"
#include "tests/worker/harness_internal.h"

static const char config_text[] =
	"{\"eal\": {\"main_core\": 0, \"memory\": \"128MiB\", \"hugepages\": false,"
	"  \"devices\": [\"net_ring0\"]},"
	"\"workers\": [{\"core\": 1}],"
	"\"ports\": [{\"name\": \"p0\", \"device\": \"net_ring0\", \"mtu\": 1500,"
	"  \"mbufs\": 8191, \"checksum\": \"unverified\", \"addresses\": [\"198.18.0.2/24\"]}],"
	"\"tcp\": {\"connections_max\": 64},"
	"\"http2\": {\"memory\": \"32MiB\"},"
	"\"listeners\": [{\"name\": \"main\", \"address\": \"0.0.0.0\", \"port\": 50051,"
	"  \"services\": [\"*\"]}],"
	"\"hosts\": [{\"name\": \"echo\", \"uids\": [0], \"hugepages\": false,"
	"  \"to_host\": \"32MiB\", \"to_daemon\": \"32MiB\"}],"
	"\"services\": [{\"name\": \"split.examples.Echo\", \"hosts\": [\"echo\"]},"
	"  {\"name\": \"split.examples.Nobody\", \"hosts\": [\"echo\"]}]}";

struct harness harness;

struct worker *harness_worker(void)
{
	return harness.worker;
}

/* ---- the client's stack --------------------------------------------------------------------- */

static uint16_t stack_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	(void)ctx;
	return (uint16_t)rte_ring_enqueue_burst(harness.to_worker, (void **)pkts, n, NULL);
}

static uint64_t stack_random(void *ctx)
{
	(void)ctx;
	return random_next(&harness.random);
}

static void stack_start(void)
{
	const struct net_ops ops = {.tx = stack_tx, .random = stack_random};
	struct net_config cfg;

	net_config_default(&cfg);
	cfg.mac = (struct rte_ether_addr){{2, 0, 0, 0, 0, 1}};
	ck_assert_int_eq(net_addr_parse("198.18.0.1", &cfg.addresses[0].addr), 0);
	cfg.addresses[0].prefix_len = 24;
	cfg.addresses_n = 1;
	cfg.mtu = 1500;
	cfg.flags = NET_PRIMARY | NET_RX_CSUM_TRUST;
	cfg.pool = harness.pool;
	cfg.tcp.connections_max = 64;
	random_seed(&harness.random, 1);
	ck_assert_int_eq(net_stack_create(&cfg, &ops, clock_ns(), &harness.stack), 0);
}

void client_turn(void)
{
	struct rte_mbuf *pkts[32];
	uint64_t now_ns = clock_ns();
	unsigned n = rte_ring_dequeue_burst(harness.to_client, (void **)pkts, 32, NULL);

	if (n != 0)
		net_rx(harness.stack, pkts, (uint16_t)n, now_ns);
	net_timers_run(harness.stack, now_ns);
	clients_send();
	net_flush(harness.stack, now_ns);
	if (n == 0)
		usleep(20); /* two cores, and neither is ours */
}

static bool never(void *arg)
{
	(void)arg;
	return false;
}

bool harness_until(bool (*cond)(void *arg), void *arg, unsigned ms)
{
	/* A bound on hanging, not a verdict on speed: wide enough for a busy machine under ASan. */
	uint64_t end_ns = clock_ns() + (cond == never ? 1 : 20) * ms * CLOCK_NS_PER_MS;

	do {
		if (cond(arg))
			return true;
		client_turn();
	} while (clock_ns() < end_ns);
	return cond(arg);
}

void harness_run(unsigned ms)
{
	(void)harness_until(never, NULL, ms);
}

/* ---- the worker ----------------------------------------------------------------------------- */

static void config_make(void (*edit)(struct config *cfg))
{
	struct config_report rep;

	config_report_init(&rep);
	if (config_parse(config_text, sizeof(config_text) - 1, "test", NULL, &harness.config,
			 &rep) != 0)
		ck_abort_msg("%s", rep.count != 0 ? rep.findings[0].text : "config");
	config_report_fini(&rep);
	/* The device is made from two rings, by port_make(). */
	harness.config->eal.devices_n = 0;
	(void)snprintf(harness.config->eal.file_prefix, sizeof(harness.config->eal.file_prefix),
		       "worker_test_%d", (int)getpid());
	(void)snprintf(harness.config->ports[0].device, sizeof(harness.config->ports[0].device),
		       "net_ring_t");
	if (edit != NULL)
		edit(harness.config);
}

static void port_make(void)
{
	struct port_error err;

	harness.to_worker = rte_ring_create("to_worker", 4096, SOCKET_ID_ANY, 0);
	harness.to_client = rte_ring_create("to_client", 4096, SOCKET_ID_ANY, 0);
	ck_assert(harness.to_worker != NULL && harness.to_client != NULL);
	ck_assert_int_ge(rte_eth_from_rings("t", &harness.to_worker, 1, &harness.to_client, 1, 0),
			 0);
	harness.pool = rte_pktmbuf_pool_create("client", 16383, 256, 0, 2048 + 128, SOCKET_ID_ANY);
	ck_assert_ptr_nonnull(harness.pool);
	ck_assert_msg(port_set_create(harness.config, &harness.ports, &err) == 0, "%s", err.text);
	ck_assert_msg(port_set_start(harness.ports, &err) == 0, "%s", err.text);
}

void harness_start(void (*edit)(struct config *cfg))
{
	struct worker_params params = {.workers_n = 1, .report_fd = -1};
	struct port_error err;

	config_make(edit);
	ck_assert_msg(port_eal_start(harness.config, "worker_test", &err) == 0, "%s", err.text);
	port_make();
	stack_start();
	harness.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	params.config = harness.config;
	params.ports = harness.ports;
	params.wake_fd = harness.wake_fd;
	ck_assert_int_eq(worker_board_create(harness.config, &harness.board), 0);
	params.board = harness.board;
	ck_assert_int_eq(worker_create(&params, &harness.worker), 0);
	ck_assert_int_eq(rte_eal_remote_launch(worker_run, harness.worker, port_worker_lcore(0)),
			 0);
}

uint64_t harness_counter(const char *name)
{
	struct worker_counter_block blocks[16];
	size_t n = worker_counters(harness.worker, blocks, 16);

	for (size_t b = 0; b < n; b++) {
		size_t layer = strlen(blocks[b].layer);

		if (strncmp(name, blocks[b].layer, layer) != 0 || name[layer] != '.')
			continue;
		for (size_t i = 0; i < blocks[b].n; i++) {
			if (strcmp(blocks[b].desc->names[i].name, name + layer + 1) == 0)
				return counter_get(&blocks[b].values[i]);
		}
	}
	ck_abort_msg("no counter %s", name);
	return 0;
}

void harness_post(enum worker_msg_kind kind, const struct worker_endpoint *we, uint64_t deadline_ns)
{
	const struct worker_msg msg = {
		.kind = kind, .endpoint = we, .deadline_ns = deadline_ns, .config = harness.config};

	ck_assert_int_eq(worker_post(harness.worker, &msg), 0);
}

static struct worker_report reports[64];
static unsigned reports_n;

static bool report_taken(void *arg)
{
	struct worker_report *want = arg;

	log_ring_drain(worker_log(harness.worker), 100);
	while (reports_n < 64 && worker_report_next(harness.worker, &reports[reports_n]))
		reports_n++;
	for (unsigned i = 0; i < reports_n; i++) {
		if (reports[i].kind != want->kind)
			continue;
		*want = reports[i];
		reports[i] = reports[--reports_n];
		return true;
	}
	return false;
}

struct worker_report harness_report(enum worker_report_kind kind)
{
	struct worker_report report = {.kind = kind};

	ck_assert_msg(harness_until(report_taken, &report, 10000), "no report %d", (int)kind);
	return report;
}

static bool nothing_held(void *arg)
{
	struct worker_gauges g;

	(void)arg;
	worker_gauges_read(harness.worker, &g);
	return g.calls == 0 && g.connections == 0 && g.pages == 0 && g.calls_queued == 0;
}

void harness_stop(void)
{
	struct worker_gauges g;

	clients_close();
	hosts_remove();
	(void)harness_until(nothing_held, NULL, 3000);
	worker_gauges_read(harness.worker, &g);
	ck_assert_uint_eq(g.calls, 0);
	ck_assert_uint_eq(g.connections, 0);
	ck_assert_uint_eq(g.calls_queued, 0);
	harness_post(WORKER_MSG_STOP, NULL, 0);
	rte_eal_wait_lcore(port_worker_lcore(0));
	log_ring_drain(worker_log(harness.worker), 1000);
	worker_destroy(harness.worker);
	worker_board_destroy(harness.board);
	net_stack_destroy(harness.stack);
	port_set_stop(harness.ports);
	port_set_destroy(harness.ports);
	close(harness.wake_fd);
	config_free(harness.config);
}

/* ---- Check ---------------------------------------------------------------------------------- */

void harness_start_plain(void)
{
	harness_start(NULL);
}

TCase *harness_case(Suite *s, const char *name, void (*up)(void))
{
	TCase *tc = tcase_create(name);

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, up, harness_stop);
	suite_add_tcase(s, tc);
	return tc;
}

int harness_suite_run(Suite *s)
{
	SRunner *runner = srunner_create(s);
	int failed;

	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
