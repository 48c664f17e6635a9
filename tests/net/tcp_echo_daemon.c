/* A small server on the network stack over any DPDK port, for tests against kernel sockets.
 *
 *     tcp_echo_daemon ADDRESS PREFIX GATEWAY|- [EAL arguments]
 *
 * port 7: echo; port 9: counts and hashes what comes and answers "BYTES HASH\n" after the FIN
 * (FNV-1a, 64 bits); port 19: reads "BYTES\n", sends so many bytes of i * 7 + (i >> 8); port 13:
 * resets after the first data; port 27: reads "PORT\n", opens a connection to that port of the
 * peer, which echoes, and answers "open" or why it did not open. ECHO_IMPAIR and ECHO_CORRUPT: of a
 * thousand frames each way so many are lost, doubled or held back, and so many have a bit changed.
 * Prints "ready" when it serves; on SIGTERM closes everything, prints
 * the counters that moved and how many mbufs are still out, and exits.
 * ECHO_SESSIONS: how many connections there may be (default 2,048).
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_ethdev.h>

#include "base/clock.h"
#include "base/random.h"
#include "daemon/net/net.h"

#define BURST      32
#define MBUFS      32768
#define SESSIONS   2048 /* unless ECHO_SESSIONS says otherwise */
#define IDLE_US    50
#define IDLE_POLLS 200 /* then sleep */

enum service {
	SERVICE_ECHO = 7,
	SERVICE_DISCARD = 9,
	SERVICE_RESET = 13,
	SERVICE_CHARGEN = 19,
	SERVICE_OPEN = 27
};

struct session {
	struct tcp_conn *conn;
	enum service service;
	struct rte_mbuf *pending; /* echo: taken and not sent yet */
	struct session *next_free;
	bool used, eof;
	uint64_t bytes, hash;
	uint64_t want, sent;   /* chargen; open: the port */
	struct session *asker; /* who asked for this connection and has no answer yet */
	struct session *asked; /* the connection that it asked for, while it has no answer */
};

static struct session *sessions, *sessions_free;
static unsigned sessions_n = SESSIONS;
static struct rte_mempool *pool;
static struct net_stack *stack;
static volatile sig_atomic_t stopping;

static void on_signal(int sig)
{
	(void)sig;
	stopping = 1;
}

static uint64_t port_random(void *ctx)
{
	return random_next(ctx);
}

/* ---- a bad link ----------------------------------------------------------------------------- */

struct impair {
	unsigned per_mille, corrupt;
	struct random random;
	struct rte_mbuf *held;
};

static struct impair impair_rx, impair_tx;

/* One bit of it, in a copy: the stack still has what it sent. */
static struct rte_mbuf *corrupted(struct impair *i, struct rte_mbuf *m)
{
	struct rte_mbuf *copy = rte_pktmbuf_copy(m, pool, 0, UINT32_MAX);
	uint64_t bit = random_below(&i->random, (uint64_t)m->pkt_len * 8);
	struct rte_mbuf *at = copy;

	rte_pktmbuf_free(m);
	if (copy == NULL)
		return NULL;
	while (bit / 8 >= at->data_len) {
		bit -= (uint64_t)at->data_len * 8;
		at = at->next;
	}
	rte_pktmbuf_mtod(at, uint8_t *)[bit / 8] ^= (uint8_t)(1u << bit % 8);
	return copy;
}

static struct rte_mbuf *maybe_corrupted(struct impair *i, struct rte_mbuf *m)
{
	if (i->corrupt == 0 || random_below(&i->random, 1000) >= i->corrupt)
		return m;
	return corrupted(i, m);
}

/* Turn `n` frames into those that come through, at most 2 * n + 1. */
static uint16_t impair(struct impair *i, struct rte_mbuf **in, uint16_t n, struct rte_mbuf **out)
{
	uint16_t k = 0;

	for (uint16_t j = 0; j < n; j++) {
		struct rte_mbuf *twin;

		in[j] = maybe_corrupted(i, in[j]);
		if (in[j] == NULL)
			continue;
		if (random_below(&i->random, 1000) >= i->per_mille) {
			out[k++] = in[j];
			continue;
		}
		switch (random_below(&i->random, 3)) {
		case 0:
			rte_pktmbuf_free(in[j]);
			break;
		case 1:
			twin = rte_pktmbuf_copy(in[j], pool, 0, UINT32_MAX);
			out[k++] = in[j];
			if (twin != NULL)
				out[k++] = twin;
			break;
		default:
			if (i->held != NULL)
				out[k++] = i->held;
			i->held = in[j];
			break;
		}
	}
	if (i->held != NULL && random_below(&i->random, 4) == 0) {
		out[k++] = i->held;
		i->held = NULL;
	}
	return k;
}

static uint16_t port_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	struct rte_mbuf *out[2 * BURST + 1];
	uint16_t k, sent;

	(void)ctx;
	if (impair_tx.per_mille == 0 && impair_tx.corrupt == 0)
		return rte_eth_tx_burst(0, 0, pkts, n);
	if (n > BURST)
		n = BURST;
	k = impair(&impair_tx, pkts, n, out);
	sent = rte_eth_tx_burst(0, 0, out, k);
	rte_pktmbuf_free_bulk(out + sent, k - sent);
	return n;
}

static uint16_t port_rx(struct rte_mbuf **pkts)
{
	struct rte_mbuf *in[BURST];
	uint16_t n = rte_eth_rx_burst(0, 0, in, BURST);

	if (impair_rx.per_mille == 0 && impair_rx.corrupt == 0) {
		memcpy(pkts, in, n * sizeof(in[0]));
		return n;
	}
	return impair(&impair_rx, in, n, pkts);
}

/* ---- services ------------------------------------------------------------------------------- */

static void echo_push(struct session *s)
{
	while (s->pending != NULL) {
		struct rte_mbuf *m = s->pending, *next = m->next;
		uint32_t len = m->data_len;

		m->next = NULL;
		m->nb_segs = 1;
		m->pkt_len = len;
		if (tcp_send(s->conn, m) != 0) {
			m->next = next;
			return;
		}
		tcp_consumed(s->conn, len);
		s->pending = next;
	}
	if (s->eof)
		tcp_shutdown(s->conn);
}

static void chargen_push(struct session *s)
{
	while (s->sent < s->want) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
		uint64_t n = s->want - s->sent;
		uint8_t *p;

		if (m == NULL) {
			tcp_want_writable(s->conn);
			return;
		}
		if (n > rte_pktmbuf_tailroom(m))
			n = rte_pktmbuf_tailroom(m);
		p = (uint8_t *)rte_pktmbuf_append(m, (uint16_t)n);
		for (uint64_t i = 0; i < n; i++)
			p[i] = (uint8_t)((s->sent + i) * 7 + ((s->sent + i) >> 8));
		if (tcp_send(s->conn, m) != 0) {
			rte_pktmbuf_free(m);
			return;
		}
		s->sent += n;
	}
	tcp_shutdown(s->conn);
}

static struct session *session_new(struct tcp_conn *conn, enum service service)
{
	struct session *s = sessions_free;

	if (s == NULL)
		return NULL;
	sessions_free = s->next_free;
	*s = (struct session){.conn = conn,
			      .service = service,
			      .used = true,
			      .hash = UINT64_C(0xcbf29ce484222325)};
	return s;
}

static void session_free(struct session *s)
{
	s->used = false;
	s->next_free = sessions_free;
	sessions_free = s;
}

static bool sessions_make(void)
{
	const char *n = getenv("ECHO_SESSIONS");

	if (n != NULL)
		sessions_n = (unsigned)strtoul(n, NULL, 10);
	sessions = calloc(sessions_n, sizeof(*sessions));
	for (unsigned i = sessions_n; sessions != NULL && i > 0; i--)
		session_free(&sessions[i - 1]);
	return sessions != NULL;
}

static int on_accept(void *listen_ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	struct session *s = session_new(conn, (enum service)(uintptr_t)listen_ctx);

	*conn_ctx_out = s;
	return s != NULL ? 0 : -SPLIT_E_BASE_LIMIT;
}

static void text_send(struct session *s, const char *text)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(pool);

	if (m == NULL)
		return;
	snprintf(rte_pktmbuf_mtod(m, char *), 64, "%s", text);
	rte_pktmbuf_append(m, (uint16_t)strlen(text));
	if (tcp_send(s->conn, m) != 0)
		rte_pktmbuf_free(m);
}

/* Who asked hears once how it went. */
static void asker_answer(struct session *s, const char *text)
{
	struct session *asker = s->asker;

	s->asker = NULL;
	if (asker == NULL)
		return;
	asker->asked = NULL;
	text_send(asker, text);
	tcp_shutdown(asker->conn);
}

static const struct tcp_events events;

static void open_data(struct session *s, const struct rte_mbuf *chain)
{
	const char *p = rte_pktmbuf_mtod(chain, const char *);
	struct session *opened;
	struct net_addr remote;
	uint32_t i = 0;
	int result;

	for (; i < chain->data_len && p[i] != '\n'; i++)
		s->want = s->want * 10 + (uint64_t)(p[i] - '0');
	if (i == chain->data_len || s->asked != NULL)
		return;
	tcp_peer(s->conn, &remote);
	remote.port = (uint16_t)s->want;
	opened = session_new(NULL, SERVICE_ECHO);
	if (opened == NULL) {
		tcp_shutdown(s->conn);
		return;
	}
	opened->asker = s;
	s->asked = opened;
	result = tcp_connect(stack, NULL, &remote, &events, opened, &opened->conn);
	if (result != 0) {
		asker_answer(opened, error_name(result));
		session_free(opened);
	}
}

static void on_connected(void *ctx, struct tcp_conn *conn)
{
	(void)conn;
	asker_answer(ctx, "open");
}

static void discard_data(struct session *s, const struct rte_mbuf *chain)
{
	for (const struct rte_mbuf *m = chain; m != NULL; m = m->next) {
		const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);

		for (uint32_t i = 0; i < m->data_len; i++)
			s->hash = (s->hash ^ p[i]) * UINT64_C(0x100000001b3);
	}
}

static void chargen_data(struct session *s, const struct rte_mbuf *chain)
{
	const char *p = rte_pktmbuf_mtod(chain, const char *);

	for (uint32_t i = 0; i < chain->data_len && p[i] != '\n'; i++)
		s->want = s->want * 10 + (uint64_t)(p[i] - '0');
	chargen_push(s);
}

static void on_data(void *ctx, struct rte_mbuf *chain)
{
	struct session *s = ctx;
	uint32_t len = chain->pkt_len;

	s->bytes += len;
	switch (s->service) {
	case SERVICE_ECHO:
		if (s->pending == NULL)
			s->pending = chain;
		else
			rte_pktmbuf_lastseg(s->pending)->next = chain;
		echo_push(s);
		return;
	case SERVICE_DISCARD:
		discard_data(s, chain);
		break;
	case SERVICE_CHARGEN:
		chargen_data(s, chain);
		break;
	case SERVICE_OPEN:
		open_data(s, chain);
		break;
	case SERVICE_RESET:
		rte_pktmbuf_free(chain);
		tcp_abort(s->conn);
		session_free(s);
		return;
	}
	rte_pktmbuf_free(chain);
	tcp_consumed(s->conn, len);
}

static void on_eof(void *ctx)
{
	struct session *s = ctx;
	struct rte_mbuf *m;

	s->eof = true;
	if (s->service == SERVICE_ECHO) {
		echo_push(s);
		return;
	}
	if (s->service == SERVICE_DISCARD && (m = rte_pktmbuf_alloc(pool)) != NULL) {
		int n = snprintf(rte_pktmbuf_mtod(m, char *), 64, "%" PRIu64 " %016" PRIx64 "\n",
				 s->bytes, s->hash);

		rte_pktmbuf_append(m, (uint16_t)n);
		if (tcp_send(s->conn, m) != 0)
			rte_pktmbuf_free(m);
	}
	if (s->service == SERVICE_OPEN)
		return; /* its answer is to come */
	if (s->service != SERVICE_CHARGEN || s->sent == s->want)
		tcp_shutdown(s->conn);
}

static void on_writable(void *ctx)
{
	struct session *s = ctx;

	if (s->service == SERVICE_ECHO)
		echo_push(s);
	else if (s->service == SERVICE_CHARGEN)
		chargen_push(s);
}

static void session_free_pending(struct session *s)
{
	while (s->pending != NULL) {
		struct rte_mbuf *next = s->pending->next;

		rte_pktmbuf_free_seg(s->pending);
		s->pending = next;
	}
}

static void on_closed(void *ctx, int reason)
{
	struct session *s = ctx;

	session_free_pending(s);
	if (s->asked != NULL)
		s->asked->asker = NULL;
	asker_answer(s, error_name(reason));
	session_free(s);
}

static const struct tcp_events events = {
	.accept = on_accept,
	.connected = on_connected,
	.data = on_data,
	.eof = on_eof,
	.writable = on_writable,
	.closed = on_closed,
};

/* ---- the loop ------------------------------------------------------------------------------- */

static bool port_start(struct net_config *c)
{
	struct rte_eth_conf conf = {0};

	if (rte_eth_dev_count_avail() == 0 || rte_eth_dev_configure(0, 1, 1, &conf) != 0 ||
	    rte_eth_rx_queue_setup(0, 0, 1024, rte_socket_id(), NULL, pool) != 0 ||
	    rte_eth_tx_queue_setup(0, 0, 1024, rte_socket_id(), NULL) != 0 ||
	    rte_eth_dev_start(0) != 0)
		return false;
	rte_eth_promiscuous_enable(0);
	return rte_eth_macaddr_get(0, &c->mac) == 0;
}

static bool serve(uint8_t family)
{
	static const enum service services[] = {SERVICE_ECHO, SERVICE_DISCARD, SERVICE_RESET,
						SERVICE_CHARGEN, SERVICE_OPEN};
	struct tcp_listener *listener;

	for (unsigned i = 0; i < RTE_DIM(services); i++) {
		struct net_addr any = {.family = family, .port = (uint16_t)services[i]};

		if (tcp_listen(stack, &any, &events, (void *)(uintptr_t)services[i], &listener) !=
		    0)
			return false;
	}
	return true;
}

static void loop(void)
{
	struct rte_mbuf *pkts[2 * BURST + 1];
	unsigned idle = 0;

	while (!stopping) {
		uint16_t n = port_rx(pkts);
		uint64_t now_ns = clock_ns();

		net_rx(stack, pkts, n, now_ns);
		net_timers_run(stack, now_ns);
		net_flush(stack, now_ns);
		idle = n > 0 || net_flush_pending(stack) ? 0 : idle + 1;
		if (idle > IDLE_POLLS)
			usleep(IDLE_US);
	}
}

static void report(void)
{
	struct net_gauges g = net_gauges_of(stack);

	for (size_t i = 0; i < net_counter_desc.count; i++) {
		uint64_t v = counter_read(net_counters_of(stack), &net_counter_desc, i);

		if (v != 0)
			printf("%s %" PRIu64 "\n", net_counter_desc.names[i].name, v);
	}
	printf("connections %u\nhalf_open %u\nooo_mbufs %u\n", g.connections, g.half_open,
	       g.ooo_mbufs);
}

int main(int argc, char **argv)
{
	static struct random random;
	struct net_ops ops = {.tx = port_tx, .random = port_random, .ctx = &random};
	struct net_config c;

	net_config_default(&c);
	if (argc < 4 || net_addr_parse(argv[1], &c.addresses[0].addr) != 0 ||
	    (strcmp(argv[3], "-") != 0 && net_addr_parse(argv[3], &c.gateway) != 0)) {
		fprintf(stderr,
			"usage: tcp_echo_daemon ADDRESS PREFIX GATEWAY|- [EAL arguments]\n");
		return 2;
	}
	c.addresses[0].prefix_len = (uint8_t)strtoul(argv[2], NULL, 10);
	c.addresses_n = 1;
	if (c.gateway.family == NET_FAMILY_IPV6) {
		c.gateway6 = c.gateway;
		c.gateway.family = NET_FAMILY_NONE;
	}
	argv[3] = argv[0];
	if (rte_eal_init(argc - 3, argv + 3) < 0 || random_seed_system(&random) != 0)
		return 1;
	pool = rte_pktmbuf_pool_create("echo", MBUFS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, 0);
	c.pool = pool;
	c.tcp.time_wait_ns = UINT64_C(2000000000);
	if (getenv("ECHO_SESSIONS") != NULL)
		c.tcp.connections_max = (uint32_t)strtoul(getenv("ECHO_SESSIONS"), NULL, 10);
	if (!sessions_make() || pool == NULL || !port_start(&c) ||
	    net_stack_create(&c, &ops, clock_ns(), &stack) != 0 ||
	    !serve(c.addresses[0].addr.family)) {
		fprintf(stderr, "tcp_echo_daemon: cannot start\n");
		return 1;
	}
	if (getenv("ECHO_IMPAIR") != NULL)
		impair_rx.per_mille = impair_tx.per_mille =
			(unsigned)strtoul(getenv("ECHO_IMPAIR"), NULL, 10);
	if (getenv("ECHO_CORRUPT") != NULL)
		impair_rx.corrupt = impair_tx.corrupt =
			(unsigned)strtoul(getenv("ECHO_CORRUPT"), NULL, 10);
	random_seed(&impair_rx.random, 1);
	random_seed(&impair_tx.random, 2);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	printf("ready\n");
	fflush(stdout);
	loop();
	report();
	net_stack_destroy(stack);
	for (unsigned i = 0; i < sessions_n; i++)
		session_free_pending(&sessions[i]);
	free(sessions);
	rte_pktmbuf_free(impair_rx.held);
	rte_pktmbuf_free(impair_tx.held);
	rte_eth_dev_stop(0);
	rte_eth_dev_close(0);
	printf("mbufs_out %u\n", rte_mempool_in_use_count(pool));
	fflush(stdout);
	rte_eal_cleanup();
	return 0;
}
