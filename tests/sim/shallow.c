#include "tests/sim/shallow.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <rte_mbuf.h>

#include "base/random.h"
#include "tests/sim/check.h"

#define MS UINT64_C(1000000)
#define S  UINT64_C(1000000000)

#define STEP_NS     (MS / 20)
#define LIMIT_NS    (600 * S)
#define DELAY_NS    (20 * MS) /* each way */
#define BYTE_NS     400       /* 20 Mbit/s */
#define QUEUE_BYTES 24000     /* in front of the slow link */
#define FRAMES_MAX  4096u
#define MBUFS       16383u

#define MESSAGES      50u
#define MESSAGE_BYTES 60000u
#define PAUSE_NS      (60 * MS) /* less than a timeout: the window stays open */

struct shallow;

struct shallow_link {
	struct shallow *world;
	unsigned to;
	uint64_t free_ns; /* when the wire has sent what it was given */
	uint32_t first, n;
	struct rte_mbuf *frames[FRAMES_MAX];
	uint64_t due_ns[FRAMES_MAX];
};

struct shallow {
	struct random random;
	struct rte_mempool *pool;
	struct net_stack *stacks[2]; /* who sends, who receives */
	struct shallow_link links[2];
	struct tcp_conn *conn;
	uint64_t now_ns, next_ns; /* next_ns: when the next message begins */
	uint64_t sent, received;
	uint32_t messages, lost;
	bool broken;
};

static uint16_t shallow_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	struct shallow_link *l = ctx;
	uint64_t now_ns = l->world->now_ns;

	for (uint16_t i = 0; i < n; i++) {
		uint64_t start_ns = l->free_ns > now_ns ? l->free_ns : now_ns;
		uint32_t at = (l->first + l->n) % FRAMES_MAX;

		if (start_ns - now_ns > (uint64_t)QUEUE_BYTES * BYTE_NS || l->n == FRAMES_MAX) {
			l->world->lost++;
			rte_pktmbuf_free(pkts[i]);
			continue;
		}
		l->free_ns = start_ns + (uint64_t)pkts[i]->pkt_len * BYTE_NS;
		l->frames[at] = pkts[i];
		l->due_ns[at] = l->free_ns + DELAY_NS;
		l->n++;
	}
	return n;
}

static uint64_t shallow_random(void *ctx)
{
	return random_next(&((struct shallow_link *)ctx)->world->random);
}

static void shallow_deliver(struct shallow_link *l)
{
	while (l->n > 0 && l->due_ns[l->first] <= l->world->now_ns) {
		struct rte_mbuf *m = l->frames[l->first];
		struct rte_mbuf *copy = rte_pktmbuf_copy(m, l->world->pool, 0, UINT32_MAX);

		l->first = (l->first + 1) % FRAMES_MAX;
		l->n--;
		rte_pktmbuf_free(m);
		if (copy == NULL) {
			l->world->broken = true;
			return;
		}
		copy->ol_flags = 0;
		net_rx(l->world->stacks[l->to], &copy, 1, l->world->now_ns);
	}
}

/* ---- the two ends --------------------------------------------------------------------------- */

static int on_accept(void *listen_ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	((struct shallow *)listen_ctx)->conn = conn;
	*conn_ctx_out = listen_ctx;
	return 0;
}

static void on_data(void *ctx, struct rte_mbuf *chain)
{
	struct shallow *w = ctx;
	uint32_t bytes = chain->pkt_len;

	w->received += bytes;
	rte_pktmbuf_free(chain);
	tcp_consumed(w->conn, bytes);
}

static void on_nothing(void *ctx)
{
	(void)ctx;
}

static void on_closed(void *ctx, int reason)
{
	(void)reason;
	((struct shallow *)ctx)->broken = true;
}

static const struct tcp_events events = {
	.accept = on_accept,
	.data = on_data,
	.eof = on_nothing,
	.writable = on_nothing,
	.closed = on_closed,
};

static bool stack_make(struct shallow *w, unsigned side, bool pacing)
{
	struct net_ops ops = {
		.tx = shallow_tx, .random = shallow_random, .ctx = &w->links[1 - side]};
	struct net_config c;

	net_config_default(&c);
	c.mac.addr_bytes[0] = 2;
	c.mac.addr_bytes[5] = (uint8_t)(1 + side);
	c.addresses_n = 1;
	c.addresses[0] = (struct net_prefix){
		{.family = NET_FAMILY_IPV4, .bytes = {198, 18, 0, (uint8_t)(1 + side)}}, 24};
	c.pool = w->pool;
	c.mtu = 1500;
	c.tcp.connections_max = c.tcp.backlog_max = 4;
	c.tcp.pacing_rtt_min_ns = pacing ? MS : 0;
	return net_stack_create(&c, &ops, w->now_ns, &w->stacks[side]) == 0;
}

static struct rte_mbuf *message_make(struct shallow *w)
{
	struct rte_mbuf *head = NULL, *tail = NULL;

	for (uint32_t done = 0; done < MESSAGE_BYTES;) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(w->pool);
		char *at;

		if (m == NULL)
			break;
		at = rte_pktmbuf_append(m, (uint16_t)RTE_MIN(MESSAGE_BYTES - done, 1500u));
		memset(at, 'x', m->data_len);
		done += m->data_len;
		if (head == NULL)
			head = m;
		else
			tail->next = m;
		tail = m;
	}
	return head;
}

/* A message when the last one has been acknowledged, and a pause is over. */
static void sender_run(struct shallow *w, struct tcp_conn *c)
{
	if (tcp_info(c).state != TCP_ESTABLISHED || tcp_info(c).queued > 0 ||
	    w->messages == MESSAGES)
		return;
	if (w->next_ns == 0) {
		w->next_ns = w->now_ns + PAUSE_NS;
		return;
	}
	if (w->now_ns < w->next_ns)
		return;
	w->next_ns = 0;
	if (tcp_send(c, message_make(w)) != 0)
		w->broken = true;
	w->messages++;
	w->sent += MESSAGE_BYTES;
}

/* Nanoseconds until all has arrived; 0: it has not. */
static uint64_t world_run(struct shallow *w, bool pacing)
{
	struct net_addr any = {.family = NET_FAMILY_IPV4, .port = 80};
	struct net_addr server = {.family = NET_FAMILY_IPV4, .bytes = {198, 18, 0, 2}, .port = 80};
	struct tcp_listener *listener;
	struct tcp_conn *c;
	uint64_t begin_ns = S;

	w->now_ns = begin_ns;
	random_seed(&w->random, 1);
	for (unsigned i = 0; i < 2; i++) {
		w->links[i].world = w;
		w->links[i].to = i;
	}
	if (!stack_make(w, 0, pacing) || !stack_make(w, 1, pacing) ||
	    tcp_listen(w->stacks[1], &any, &events, w, &listener) != 0 ||
	    tcp_connect(w->stacks[0], NULL, &server, &events, w, &c) != 0)
		return 0;
	while (w->now_ns < LIMIT_NS && !w->broken &&
	       (w->messages < MESSAGES || w->received < w->sent)) {
		w->now_ns += STEP_NS;
		sender_run(w, c);
		for (unsigned i = 0; i < 2; i++) {
			shallow_deliver(&w->links[i]);
			while (net_timers_run(w->stacks[i], w->now_ns) != 0)
				;
			net_flush(w->stacks[i], w->now_ns);
		}
	}
	return w->broken || w->received != (uint64_t)MESSAGES * MESSAGE_BYTES
		       ? 0
		       : w->now_ns - begin_ns;
}

static void world_free(struct shallow *w)
{
	for (unsigned i = 0; i < 2; i++) {
		if (w->stacks[i] != NULL)
			net_stack_destroy(w->stacks[i]);
		for (; w->links[i].n > 0; w->links[i].n--) {
			rte_pktmbuf_free(w->links[i].frames[w->links[i].first]);
			w->links[i].first = (w->links[i].first + 1) % FRAMES_MAX;
		}
	}
}

bool shallow_run(void)
{
	static struct shallow w;
	struct rte_mempool *pool =
		rte_pktmbuf_pool_create("shallow", MBUFS, 0, 0, 2048 + RTE_PKTMBUF_HEADROOM, 0);
	uint64_t took_ns[2];
	uint32_t lost[2];

	if (pool == NULL)
		return false;
	for (unsigned pacing = 0; pacing < 2; pacing++) {
		memset(&w, 0, sizeof(w));
		w.pool = pool;
		took_ns[pacing] = world_run(&w, pacing == 1);
		lost[pacing] = w.lost;
		printf("%s: %u messages of %u bytes in %" PRIu64 " ms, %u packets lost\n",
		       pacing ? "paced" : "not paced", w.messages, MESSAGE_BYTES,
		       took_ns[pacing] / MS, w.lost);
		world_free(&w);
		if (took_ns[pacing] == 0) {
			printf("failed: not all arrived\n");
			return false;
		}
	}
	if (2 * lost[1] >= lost[0] || took_ns[1] > took_ns[0]) {
		printf("failed: pacing did not help\n");
		return false;
	}
	return true;
}
