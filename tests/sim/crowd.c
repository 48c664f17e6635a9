#include "tests/sim/crowd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_mbuf.h>

#include "base/random.h"
#include "tests/sim/check.h"

#define MS UINT64_C(1000000)
#define S  UINT64_C(1000000000)

#define FRAMES_MAX 4096u /* on the link, each way */
#define MBUFS      32767u
#define STEP_NS    (MS / 2)
#define LIMIT_NS   (3600 * S)
#define REST_NS    (600 * S) /* time to stand still when all are open */
#define AT_ONCE    512u      /* opened, or asked, in one step */
#define PORT_FIRST 1024u
#define PORTS      60000u /* of the client, for each of the server's */
#define LOSS       0.002
#define WORD       64u /* bytes of a request, and of its answer */

struct crowd;

struct crowd_end {
	struct crowd *crowd;
	struct tcp_conn *conn;
	uint8_t got;
	bool up, over;
};

struct crowd_link {
	struct crowd *crowd;
	unsigned to;
	uint32_t first, n;
	struct rte_mbuf *frames[FRAMES_MAX];
};

struct crowd {
	struct random random;
	struct rte_mempool *pool;
	struct net_stack *stacks[2]; /* client, server */
	struct crowd_link links[2];
	struct crowd_end *clients;
	struct tcp_listener **listeners;
	uint64_t now_ns;
	uint32_t connections, listeners_n, up, accepted, answered, over;
	char failure[160];
};

static void crowd_fail(struct crowd *w, const char *what)
{
	if (w->failure[0] == 0)
		snprintf(w->failure, sizeof(w->failure), "%s", what);
}

/* ---- the link ------------------------------------------------------------------------------- */

static uint16_t crowd_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	struct crowd_link *l = ctx;
	uint16_t i;

	for (i = 0; i < n && l->n < FRAMES_MAX; i++) {
		if (random_unit(&l->crowd->random) < LOSS) {
			rte_pktmbuf_free(pkts[i]);
			continue;
		}
		l->frames[(l->first + l->n++) % FRAMES_MAX] = pkts[i];
	}
	return i;
}

static uint64_t crowd_random(void *ctx)
{
	return random_next(&((struct crowd_link *)ctx)->crowd->random);
}

static void crowd_deliver(struct crowd_link *l)
{
	while (l->n > 0) {
		struct rte_mbuf *m = l->frames[l->first];
		struct rte_mbuf *copy = rte_pktmbuf_copy(m, l->crowd->pool, 0, UINT32_MAX);

		l->first = (l->first + 1) % FRAMES_MAX;
		l->n--;
		rte_pktmbuf_free(m);
		if (copy == NULL)
			continue; /* lost */
		copy->ol_flags = 0;
		net_rx(l->crowd->stacks[l->to], &copy, 1, l->crowd->now_ns);
	}
}

static void crowd_step(struct crowd *w)
{
	w->now_ns += STEP_NS;
	for (unsigned i = 0; i < 2; i++) {
		crowd_deliver(&w->links[i]);
		while (net_timers_run(w->stacks[i], w->now_ns) != 0)
			;
		net_flush(w->stacks[i], w->now_ns);
	}
	if (w->now_ns > LIMIT_NS)
		crowd_fail(w, "no end within the time limit");
}

/* ---- applications --------------------------------------------------------------------------- */

static void client_connected(void *ctx, struct tcp_conn *conn)
{
	struct crowd_end *e = ctx;

	(void)conn;
	e->up = true;
	e->crowd->up++;
}

static void client_data(void *ctx, struct rte_mbuf *chain)
{
	struct crowd_end *e = ctx;
	uint32_t bytes = chain->pkt_len, id = (uint32_t)(e - e->crowd->clients), said;

	if (e->got == 0 && bytes >= sizeof(said)) {
		memcpy(&said, rte_pktmbuf_mtod(chain, void *), sizeof(said));
		if (said != id)
			crowd_fail(e->crowd, "an answer came on another connection");
	}
	rte_pktmbuf_free(chain);
	tcp_consumed(e->conn, bytes);
	e->got = (uint8_t)(e->got + bytes);
	if (e->got == WORD)
		e->crowd->answered++;
	else if (e->got > WORD)
		crowd_fail(e->crowd, "an answer is too long");
}

static void client_eof(void *ctx)
{
	struct crowd_end *e = ctx;

	tcp_shutdown(e->conn);
}

static void client_closed(void *ctx, int reason)
{
	struct crowd_end *e = ctx;

	e->over = true;
	e->crowd->over++;
	if (reason != 0)
		crowd_fail(e->crowd, "a connection did not end in order");
}

static int server_accept(void *listen_ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	((struct crowd *)listen_ctx)->accepted++;
	*conn_ctx_out = conn;
	return 0;
}

static void server_data(void *ctx, struct rte_mbuf *chain)
{
	uint32_t bytes = chain->pkt_len;

	tcp_consumed(ctx, bytes);
	if (tcp_send(ctx, chain) != 0)
		rte_pktmbuf_free(chain); /* found by the client, whose answer is short */
}

static void server_eof(void *ctx)
{
	tcp_shutdown(ctx);
}

static void server_nothing(void *ctx)
{
	(void)ctx;
}

static void server_closed(void *ctx, int reason)
{
	(void)ctx;
	(void)reason;
}

static const struct tcp_events client_events = {
	.connected = client_connected,
	.data = client_data,
	.eof = client_eof,
	.closed = client_closed,
};

static const struct tcp_events server_events = {
	.accept = server_accept,
	.data = server_data,
	.eof = server_eof,
	.writable = server_nothing,
	.closed = server_closed,
};

/* ---- the world ------------------------------------------------------------------------------ */

static struct net_addr side_addr(unsigned side, uint16_t port)
{
	return (struct net_addr){.family = NET_FAMILY_IPV4,
				 .bytes = {198, 18, 0, (uint8_t)(1 + side)},
				 .port = port};
}

static uint64_t resident_bytes(void)
{
	unsigned long long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (file != NULL) {
		if (fscanf(file, "%*u %llu", &pages) != 1)
			pages = 0;
		(void)fclose(file);
	}
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static bool stack_make(struct crowd *w, unsigned side)
{
	const struct net_ops ops = {
		.tx = crowd_tx, .random = crowd_random, .ctx = &w->links[!side]};
	struct net_config c;

	net_config_default(&c);
	c.mac.addr_bytes[0] = 2;
	c.mac.addr_bytes[5] = (uint8_t)(1 + side);
	c.addresses_n = 1;
	c.addresses[0] = (struct net_prefix){side_addr(side, 0), 24};
	c.pool = w->pool;
	c.tcp.connections_max = w->connections;
	c.tcp.backlog_max = 4096;
	c.tcp.time_wait_max = 4096;
	return net_stack_create(&c, &ops, w->now_ns, &w->stacks[side]) == 0;
}

static bool world_make(struct crowd *w)
{
	for (unsigned i = 0; i < 2; i++)
		w->links[i] = (struct crowd_link){.crowd = w, .to = i};
	w->pool = rte_pktmbuf_pool_create("crowd", MBUFS, 0, 0, 512 + RTE_PKTMBUF_HEADROOM, 0);
	w->clients = calloc(w->connections, sizeof(*w->clients));
	w->listeners_n = (w->connections + PORTS - 1) / PORTS;
	w->listeners = calloc(w->listeners_n, sizeof(struct tcp_listener *));
	if (w->pool == NULL || w->clients == NULL || w->listeners == NULL || !stack_make(w, 0) ||
	    !stack_make(w, 1))
		return false;
	for (uint32_t i = 0; i < w->listeners_n; i++) {
		struct net_addr any = {.family = NET_FAMILY_IPV4, .port = (uint16_t)(80 + i)};

		if (tcp_listen(w->stacks[1], &any, &server_events, w, &w->listeners[i]) != 0)
			return false;
	}
	return true;
}

static void world_free(struct crowd *w)
{
	for (unsigned i = 0; i < 2; i++) {
		net_stack_destroy(w->stacks[i]);
		for (; w->links[i].n > 0; w->links[i].n--) {
			rte_pktmbuf_free(w->links[i].frames[w->links[i].first]);
			w->links[i].first = (w->links[i].first + 1) % FRAMES_MAX;
		}
	}
	if (w->pool != NULL && w->failure[0] == 0 && rte_mempool_in_use_count(w->pool) != 0)
		crowd_fail(w, "mbufs leaked");
	rte_mempool_free(w->pool);
	free(w->listeners);
	free(w->clients);
}

/* ---- what is done --------------------------------------------------------------------------- */

static void open_all(struct crowd *w)
{
	for (uint32_t next = 0; w->failure[0] == 0 && w->up < w->connections; crowd_step(w)) {
		for (; next < w->connections && next < w->up + AT_ONCE; next++) {
			struct net_addr local = side_addr(0, (uint16_t)(PORT_FIRST + next % PORTS));
			struct net_addr remote = side_addr(1, (uint16_t)(80 + next / PORTS));
			struct crowd_end *e = &w->clients[next];

			e->crowd = w;
			if (tcp_connect(w->stacks[0], &local, &remote, &client_events, e,
					&e->conn) != 0) {
				crowd_fail(w, "a connection cannot be opened");
				return;
			}
		}
	}
}

/* Each connection gets an answer, long after it was opened. */
static void ask_all(struct crowd *w)
{
	for (uint32_t next = 0; w->failure[0] == 0 && w->answered < w->connections; crowd_step(w)) {
		for (; next < w->connections && next < w->answered + AT_ONCE; next++) {
			struct rte_mbuf *m = rte_pktmbuf_alloc(w->pool);
			uint8_t *p;

			if (m == NULL)
				break;
			m->data_len = WORD;
			m->pkt_len = WORD;
			p = rte_pktmbuf_mtod(m, uint8_t *);
			memset(p, 0, WORD);
			memcpy(p, &next, sizeof(next));
			if (tcp_send(w->clients[next].conn, m) != 0) {
				rte_pktmbuf_free(m);
				crowd_fail(w, "a held connection takes no request");
				return;
			}
		}
	}
}

static void close_all(struct crowd *w)
{
	for (uint32_t next = 0; w->failure[0] == 0 && w->over < w->connections; crowd_step(w)) {
		for (; next < w->connections && next < w->over + AT_ONCE; next++)
			tcp_shutdown(w->clients[next].conn);
	}
}

/* Every connection of both stacks; idle ones hold nothing that was lent. */
static void check_all(struct crowd *w)
{
	for (unsigned side = 0; side < 2 && w->failure[0] == 0; side++) {
		const struct net_stack *s = w->stacks[side];
		uint32_t mbufs = 0, n = 0;
		const char *wrong;

		for (uint32_t i = 0; i <= s->table_mask; i++) {
			for (const struct tcp_conn *c = s->conns[i]; c != NULL; c = c->hash_next) {
				wrong = sim_conn_wrong(c, &mbufs);
				if (wrong != NULL)
					crowd_fail(w, wrong);
				n++;
			}
		}
		wrong = sim_stack_wrong(s, n);
		if (wrong != NULL)
			crowd_fail(w, wrong);
		if (n != w->connections)
			crowd_fail(w, "connections are missing");
		if (pool_in_use(&s->flight_pool) + pool_in_use(&s->sent_pool) +
			    pool_in_use(&s->ooo_pool) !=
		    0)
			crowd_fail(w, "idle connections hold what was lent to them");
		if (net_gauges_of(s).timers > 2)
			crowd_fail(w, "idle connections have timers");
	}
}

static void stand(struct crowd *w, uint64_t ns)
{
	for (uint64_t end_ns = w->now_ns + ns; w->failure[0] == 0 && w->now_ns < end_ns;) {
		uint64_t next_ns = end_ns;

		for (unsigned i = 0; i < 2; i++) {
			uint64_t t = net_timer_next_ns(w->stacks[i]);

			next_ns = t < next_ns ? t : next_ns;
		}
		if (w->links[0].n + w->links[1].n == 0 && next_ns > w->now_ns + STEP_NS)
			w->now_ns = next_ns - STEP_NS;
		crowd_step(w);
	}
}

bool crowd_run(uint32_t connections, uint64_t seed)
{
	struct crowd *w = calloc(1, sizeof(*w));
	uint64_t before = resident_bytes(), used;
	bool good;

	if (w == NULL)
		return false;
	w->now_ns = S;
	w->connections = connections;
	random_seed(&w->random, seed);
	if (!world_make(w)) {
		crowd_fail(w, "not enough memory");
	} else {
		open_all(w);
		stand(w, REST_NS);
		check_all(w);
		ask_all(w);
		stand(w, S);
		check_all(w);
		used = resident_bytes() - before;
		printf("%" PRIu32 " connections: each end %" PRIu64
		       " bytes resident (packet buffers and the test's own included), struct "
		       "tcp_conn %zu\n",
		       connections, used / connections / 2, sizeof(struct tcp_conn));
		close_all(w);
	}
	world_free(w);
	good = w->failure[0] == 0;
	printf("%" PRIu32 " opened, %" PRIu32 " accepted, %" PRIu32 " answered, %" PRIu32
	       " closed in order%s%s\n",
	       w->up, w->accepted, w->answered, w->over, good ? "" : ": failed: ", w->failure);
	free(w);
	return good;
}
