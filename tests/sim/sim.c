#include "tests/sim/sim.h"

#include "daemon/net/cksum.h"
#include "daemon/net/net_internal.h"
#include "daemon/port/port_internal.h"
#include "tests/sim/check.h"

#include <inttypes.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define S  UINT64_C(1000000000)

#define FAULTS_NS (20 * S)  /* then the link heals */
#define LIMIT_NS  (600 * S) /* by then all connections have ended */
#define REST_NS   (200 * S) /* and by then all timers */

#define POOL_MBUFS 32768u

static struct rte_mempool *sim_pool;
static struct port_dev sim_dev;    /* without offloads */
static struct port_queue sim_port; /* of both stacks: cuts large segments, joins small ones */

bool sim_init(void)
{
	sim_pool = rte_pktmbuf_pool_create("sim", POOL_MBUFS, 0, 0, 2048 + RTE_PKTMBUF_HEADROOM, 0);
	return sim_pool != NULL;
}

/* ---- frames ---------------------------------------------------------------------------------- */

/* The frame's bytes are read only now, so a sender that changed them meanwhile is found out. NULL:
 * the receiving device has no mbuf, it is lost. */
static struct rte_mbuf *link_read(struct sim_link *l)
{
	struct sim *sim = l->sim;
	struct sim_frame frame = sim_link_take(l);
	struct rte_mbuf *m = sim_frame_copy(sim, frame.m);

	rte_pktmbuf_free(frame.m);
	if (m == NULL)
		return NULL;
	if (sim_chance(sim, l->mark))
		sim_frame_mark(m);
	if (frame.corrupt_bit >= 0) {
		uint32_t at = (uint32_t)frame.corrupt_bit / 8;
		struct rte_mbuf *seg = m;

		while (at >= seg->data_len) {
			at -= seg->data_len;
			seg = seg->next;
		}
		*rte_pktmbuf_mtod_offset(seg, uint8_t *, at) ^=
			(uint8_t)(1u << (frame.corrupt_bit % 8));
	}
	return m;
}

/* Up to `n` frames that are due; joined as a port joins them where the seed says so. */
static void link_deliver(struct sim_link *l, unsigned n)
{
	struct sim *sim = l->sim;
	struct rte_mbuf *pkts[SIM_BURST_MAX];
	uint16_t got = 0;

	while (n-- > 0 && l->frames_n > 0 && l->frames[0].due_ns <= sim->now_ns) {
		pkts[got] = link_read(l);
		if (pkts[got] == NULL)
			continue;
		if (sim->joins) {
			got++;
			continue;
		}
		net_rx(sim->stacks[l->to], pkts, 1, sim->now_ns);
	}
	if (got > 0)
		net_rx(sim->stacks[l->to], pkts, port_join(&sim_port, pkts, got), sim->now_ns);
}

/* A large segment is cut as a port cuts it; without mbufs for that it is lost. */
static void link_cut(struct sim_link *l, struct rte_mbuf *m)
{
	struct rte_mbuf *pieces[PORT_CUT_MAX];
	uint16_t n = port_cut(&sim_port, m, pieces);

	for (uint16_t i = 0; i < n; i++)
		sim_link_send(l, pieces[i]);
	rte_pktmbuf_free(m);
}

static uint16_t stack_tx(void *ctx, struct rte_mbuf **pkts, uint16_t n)
{
	struct sim_link *l = ctx;
	uint16_t i;

	for (i = 0; i < n; i++) {
		/* A device that is full now and then. */
		if (!l->sim->healed && sim_chance(l->sim, 0.002))
			break;
		if (pkts[i]->ol_flags & RTE_MBUF_F_TX_TCP_SEG)
			link_cut(l, pkts[i]);
		else
			sim_link_send(l, pkts[i]);
	}
	return i;
}

static uint64_t stack_random(void *ctx)
{
	struct sim_link *l = ctx;

	return random_next(&l->sim->random);
}

/* ---- the applications ----------------------------------------------------------------------- */

/* Byte `i` of what `side` sends on connection `id`. */
static uint8_t pattern(const struct sim *sim, int side, uint32_t id, uint64_t i)
{
	uint64_t x = sim->seed * 31 + (uint64_t)side * 7 + id * 131 + (i >> 3);

	x *= UINT64_C(0x9e3779b97f4a7c15);
	x ^= x >> 32;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return (uint8_t)(x >> (8 * (i & 7)));
}

static struct rte_mbuf *chain_make(struct sim_end *e, uint64_t bytes)
{
	struct rte_mbuf *head = NULL, *tail = NULL;
	uint64_t done = 0;

	while (done < bytes) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(e->sim->pool);
		uint64_t n;

		if (m == NULL)
			break;
		m->data_off = (uint16_t)sim_between(e->sim, 0, RTE_PKTMBUF_HEADROOM);
		n = sim_between(e->sim, sim_chance(e->sim, 0.05) ? 0 : 1, e->mbuf_max);
		if (n > bytes - done)
			n = bytes - done;
		for (uint64_t i = 0; i < n; i++)
			rte_pktmbuf_mtod(m, uint8_t *)[i] =
				pattern(e->sim, e->side, e->id, e->sent + done + i);
		m->data_len = (uint16_t)n;
		if (head == NULL) {
			head = m;
		} else {
			tail->next = m;
			head->nb_segs++;
		}
		tail = m;
		done += n;
	}
	if (head != NULL)
		head->pkt_len = (uint32_t)done;
	return head;
}

/* Send what there is room for; shut down when it is time. */
static void end_pump(struct sim_end *e)
{
	while (e->conn != NULL && e->sent < e->send_total) {
		uint64_t want = sim_between(e->sim, 1, e->chunk_max);
		size_t room = tcp_send_room(e->conn);
		struct rte_mbuf *chain;
		uint32_t bytes;

		if (want > e->send_total - e->sent)
			want = e->send_total - e->sent;
		if (room == 0) {
			tcp_want_writable(e->conn);
			return;
		}
		if (want > room)
			want = room;
		chain = chain_make(e, want);
		if (chain == NULL) {
			e->blocked = true; /* tried again by the clock */
			return;
		}
		bytes = chain->pkt_len;
		if (tcp_send(e->conn, chain) != 0) {
			rte_pktmbuf_free(chain);
			sim_fail(e->sim, "tcp_send of %u bytes with room for %zu failed", bytes,
				 room);
			return;
		}
		e->sent += bytes;
	}
	if (e->conn == NULL || e->shut || (e->waits_eof && !e->eof))
		return;
	e->shut = true;
	if (e->closes && e->eof && e->unread == 0) {
		struct tcp_conn *c = e->conn;

		e->conn = NULL;
		e->gone = true;
		tcp_close(c);
		return;
	}
	tcp_shutdown(e->conn);
}

static void end_data(void *ctx, struct rte_mbuf *chain)
{
	struct sim_end *e = ctx;
	uint32_t bytes = 0;
	unsigned segs = 0;

	for (const struct rte_mbuf *m = chain; m != NULL; m = m->next, segs++) {
		const uint8_t *p = rte_pktmbuf_mtod(m, const uint8_t *);

		for (uint32_t i = 0; i < m->data_len; i++, bytes++) {
			if (p[i] != pattern(e->sim, !e->side, e->id, e->received + bytes)) {
				sim_fail(e->sim, "conn %u side %d: byte %" PRIu64 " is wrong",
					 e->id, e->side, e->received + bytes);
				break;
			}
		}
	}
	if (bytes != chain->pkt_len || segs != chain->nb_segs)
		sim_fail(e->sim, "chain says %u bytes, %u mbufs; has %u, %u", chain->pkt_len,
			 chain->nb_segs, bytes, segs);
	if (e->eof || e->gone)
		sim_fail(e->sim, "data after %s", e->gone ? "closed" : "eof");
	e->received += bytes;
	rte_pktmbuf_free(chain);
	if (e->received > e->other->sent)
		sim_fail(e->sim, "conn %u: more received than sent", e->id);
	if (e->received >= e->abort_at) {
		struct tcp_conn *c = e->conn;

		e->conn = NULL;
		e->gone = true;
		tcp_abort(c);
		return;
	}
	if (e->read_delay_ns == 0) {
		tcp_consumed(e->conn, bytes);
		return;
	}
	if (e->unread == 0)
		e->read_at_ns = e->sim->now_ns + sim_between(e->sim, 1, e->read_delay_ns);
	e->unread += bytes;
}

static void end_eof(void *ctx)
{
	struct sim_end *e = ctx;

	if (e->eof || e->gone)
		sim_fail(e->sim, "eof twice or after closed");
	e->eof = true;
	if (e->received != e->other->send_total)
		sim_fail(e->sim, "conn %u side %d: eof after %" PRIu64 " of %" PRIu64 " bytes",
			 e->id, e->side, e->received, e->other->send_total);
	end_pump(e);
}

static void end_writable(void *ctx)
{
	end_pump(ctx);
}

static void end_closed(void *ctx, int reason)
{
	struct sim_end *e = ctx;

	if (e->gone)
		sim_fail(e->sim, "closed twice");
	e->gone = true;
	e->conn = NULL;
	e->reason = reason;
	if (reason == 0 && (!e->eof || !e->shut))
		sim_fail(e->sim, "conn %u side %d: closed in order without both FINs", e->id,
			 e->side);
	if (reason != 0 && !e->sim->aborts)
		sim_fail(e->sim, "conn %u side %d: closed by %s", e->id, e->side,
			 error_name(reason));
}

static void end_connected(void *ctx, struct tcp_conn *conn)
{
	struct sim_end *e = ctx;

	e->opened = true;
	if (conn != e->conn)
		sim_fail(e->sim, "connected with another connection");
	end_pump(e);
}

static int end_accept(void *listen_ctx, struct tcp_conn *conn, void **conn_ctx_out)
{
	struct sim *sim = listen_ctx;
	struct net_addr peer;
	struct sim_end *e;

	tcp_peer(conn, &peer);
	if (peer.port < 1000 || peer.port >= 1000 + sim->conns) {
		sim_fail(sim, "accept from port %u", peer.port);
		return -1;
	}
	e = &sim->ends[1][peer.port - 1000];
	if (e->opened && sim->cookies)
		return -1; /* its handshake's last ACK came again, after all was over */
	if (e->opened) {
		sim_fail(sim, "accepted twice");
		return -1;
	}
	e->opened = true;
	e->conn = conn;
	*conn_ctx_out = e;
	end_pump(e);
	return 0;
}

static const struct tcp_events end_events = {
	.accept = end_accept,
	.connected = end_connected,
	.data = end_data,
	.eof = end_eof,
	.writable = end_writable,
	.closed = end_closed,
};

/* ---- a seed's world ------------------------------------------------------------------------- */

static struct net_addr side_addr(const struct sim *sim, int side, uint16_t port)
{
	if (sim->family == NET_FAMILY_IPV6)
		return (struct net_addr){.family = NET_FAMILY_IPV6,
					 .bytes = {0x20, 1, 0, 2, [15] = (uint8_t)(1 + side)},
					 .port = port};
	return (struct net_addr){.family = NET_FAMILY_IPV4,
				 .bytes = {198, 18, 0, (uint8_t)(1 + side)},
				 .port = port};
}

static uint64_t pick(struct sim *sim, const uint64_t *values, size_t n)
{
	return values[random_below(&sim->random, n)];
}

static void link_draw(struct sim *sim, int to)
{
	static const uint64_t delays[] = {10 * US, 50 * US, 500 * US, 5 * MS, 40 * MS, 120 * MS};
	static const uint64_t byte_ns[] = {0, 0, 1, 8, 80};
	struct sim_link *l = &sim->links[to];

	l->sim = sim;
	l->to = to;
	l->frames_n = 0;
	l->busy_until_ns = 0;
	l->delay_ns = pick(sim, delays, 6);
	l->jitter_ns = sim_chance(sim, 0.5) ? sim_between(sim, 0, l->delay_ns * 2) : 0;
	l->loss = sim_chance(sim, 0.7) ? random_unit(&sim->random) * 0.12 : 0;
	l->duplicate = sim_chance(sim, 0.4) ? random_unit(&sim->random) * 0.08 : 0;
	l->corrupt = sim_chance(sim, 0.4) ? random_unit(&sim->random) * 0.04 : 0;
	l->mark = sim_chance(sim, 0.4) ? random_unit(&sim->random) * 0.3 : 0;
	l->down_until_ns = 0;
	l->byte_ns = pick(sim, byte_ns, 5);
	l->mtu = UINT32_MAX;
	l->too_big = 0;
	l->queue_max = sim_chance(sim, 0.3) ? (uint32_t)sim_between(sim, 4, 64) : SIM_LINK_MAX - 2;
}

static bool stack_draw(struct sim *sim, int side)
{
	static const uint64_t mtus[] = {576, 1280, 1500, 1500, 1500, 9000};
	static const uint64_t buffers[] = {2048, 8192, 65536, 262144, 1u << 20};
	struct net_ops ops = {.tx = stack_tx, .random = stack_random, .ctx = &sim->links[!side]};
	struct net_config c;

	net_config_default(&c);
	c.mac.addr_bytes[0] = 2;
	c.mac.addr_bytes[5] = (uint8_t)(1 + side);
	c.addresses_n = 1;
	c.addresses[0] = (struct net_prefix){side_addr(sim, side, 0), 24};
	c.dad_transmits = 0; /* connections open at once */
	c.pool = sim->pool;
	c.mtu = (uint16_t)pick(sim, mtus, 6);
	if (sim->family == NET_FAMILY_IPV6 && c.mtu < IP6_MTU_MIN)
		c.mtu = IP6_MTU_MIN;
	c.tcp.connections_max = SIM_CONNS_MAX;
	c.tcp.backlog_max = SIM_CONNS_MAX;
	c.tcp.time_wait_max = SIM_CONNS_MAX;
	c.tcp.receive_buffer = (uint32_t)pick(sim, buffers, 5);
	c.tcp.send_buffer = (uint32_t)pick(sim, buffers, 5);
	c.tcp.ooo_ranges_max = (uint32_t)sim_between(sim, 1, 64);
	c.tcp.ooo_mbufs_max = (uint32_t)sim_between(sim, 4, 2048);
	c.tcp.flights_max = sim_chance(sim, 0.2) ? (uint32_t)sim_between(sim, 1, 4) : 0;
	c.tcp.copy_bytes_max = (uint32_t)sim_between(sim, 0, 1500);
	c.tcp.half_open_ns = LIMIT_NS;
	c.tcp.orphan_ns = LIMIT_NS;
	c.tcp.fin_wait_2_ns = LIMIT_NS;
	c.tcp.user_timeout_ns = LIMIT_NS;
	c.tcp.syn_retries = 30;
	c.tcp.rto_max_ns = 10 * S;
	c.tcp.nagle = sim_chance(sim, 0.3);
	c.tcp.timestamps = sim_chance(sim, 0.7);
	c.tcp.window_scaling = sim_chance(sim, 0.8);
	c.tcp.sack = sim_chance(sim, 0.7);
	c.tcp.delayed_ack_ns = sim_chance(sim, 0.2) ? 1 : 40 * MS;
	c.tcp.keepalive_idle_ns = sim_chance(sim, 0.2) ? 5 * S : 0;
	c.tcp.congestion = (uint8_t)sim_between(sim, TCP_CONGESTION_CUBIC, TCP_CONGESTION_DCTCP);
	c.tcp.ecn = sim_chance(sim, 0.6);
	if (sim->cookies)
		c.tcp.backlog_max = 1;
	c.tcp.source_half_open_max = sim->cookies ? (uint32_t)sim_between(sim, 0, 8) : 0;
	/* By the seed itself, so that what is drawn for older seeds stays as it was. */
	if ((sim->seed / 3 + (uint64_t)side) % 4 == 1)
		c.flags |= NET_TX_TSO;
	c.tcp.pacing_rtt_min_ns = (sim->seed + (uint64_t)side) % 3 != 0 ? MS : 0;
	if (sim_chance(sim, 0.3))
		c.flags |= NET_FORCE_SLOW; /* the fast path's generic twin */
	return net_stack_create(&c, &ops, sim->now_ns, &sim->stacks[side]) == 0;
}

static void end_draw(struct sim *sim, int side, uint32_t id)
{
	static const uint64_t totals[] = {0, 1, 100, 1460, 5000, 60000, 300000};
	struct sim_end *e = &sim->ends[side][id];

	memset(e, 0, sizeof(*e));
	e->sim = sim;
	e->side = side;
	e->id = id;
	e->other = &sim->ends[!side][id];
	e->send_total = sim_between(sim, 0, pick(sim, totals, 7));
	e->chunk_max = (uint32_t)sim_between(sim, 1, sim_chance(sim, 0.2) ? 50 : 20000);
	e->mbuf_max = (uint32_t)sim_between(sim, 1, sim_chance(sim, 0.2) ? 20 : 2048);
	if (e->chunk_max > 600 * e->mbuf_max)
		e->chunk_max = 600 * e->mbuf_max;
	e->read_delay_ns = sim_chance(sim, 0.3) ? sim_between(sim, 1, 200 * MS) : 0;
	e->waits_eof = side == 1 && sim_chance(sim, 0.4);
	e->closes = sim_chance(sim, 0.3);
	e->abort_at = UINT64_MAX;
	if (sim->aborts && sim_chance(sim, 0.3))
		e->abort_at = sim_between(sim, 1, 50000);
}

static bool world_make(struct sim *sim)
{
	struct net_addr any = {.port = 80};
	struct tcp_listener *listener;

	sim->family = sim_chance(sim, 0.4) ? NET_FAMILY_IPV6 : NET_FAMILY_IPV4;
	any.family = sim->family;
	sim->aborts = sim_chance(sim, 0.15);
	sim->conns = (uint32_t)sim_between(sim, 1, SIM_CONNS_MAX);
	sim->cookies = sim_chance(sim, 0.2);
	sim->down_p = sim_chance(sim, 0.25) ? 0.0005 : 0;
	sim->jump_p = sim_chance(sim, 0.25) ? 0.0005 : 0;
	sim->mtu_p = sim_chance(sim, 0.25) ? 0.003 : 0;
	link_draw(sim, 0);
	link_draw(sim, 1);
	if (!stack_draw(sim, 0) || !stack_draw(sim, 1))
		return false;
	for (uint32_t id = 0; id < sim->conns; id++) {
		end_draw(sim, 0, id);
		end_draw(sim, 1, id);
		sim->open_at_ns[id] = sim->now_ns + sim_between(sim, 0, 2 * S);
	}
	if (sim_chance(sim, 0.15)) {
		/* Leave so few mbufs that both stacks run dry again and again. */
		uint32_t leave = (uint32_t)sim_between(sim, 64, 512);

		while (rte_mempool_avail_count(sim->pool) > leave)
			sim->hoard[sim->hoard_n++] = rte_pktmbuf_alloc(sim->pool);
	}
	for (uint32_t id = 0; id < sim->conns; id++)
		sim->both_open[id] = sim_chance(sim, 0.15);
	return tcp_listen(sim->stacks[1], &any, &end_events, sim, &listener) == 0;
}

static void client_open(struct sim *sim, uint32_t id)
{
	struct net_addr local = side_addr(sim, 0, (uint16_t)(1000 + id));
	struct net_addr remote = side_addr(sim, 1, 80);
	struct sim_end *e = &sim->ends[0][id];
	int error = tcp_connect(sim->stacks[0], &local, &remote, &end_events, e, &e->conn);

	if (error == 0 && sim->both_open[id]) {
		e = &sim->ends[1][id];
		e->opened = true;
		error = tcp_connect(sim->stacks[1], &remote, &local, &end_events, e, &e->conn);
	}
	if (error != 0)
		sim_fail(sim, "tcp_connect: %s", error_name(error));
	sim->open_at_ns[id] = UINT64_MAX;
}

static void heal(struct sim *sim)
{
	sim->healed = true;
	for (int i = 0; i < 2; i++) {
		sim->links[i].loss = 0;
		sim->links[i].duplicate = 0;
		sim->links[i].corrupt = 0;
		sim->links[i].mark = 0;
		sim->links[i].down_until_ns = 0;
		sim->links[i].queue_max = SIM_LINK_MAX - 2;
		sim->links[i].mtu = UINT32_MAX;
	}
	while (sim->hoard_n > 0)
		rte_pktmbuf_free(sim->hoard[--sim->hoard_n]);
}

/* ---- what always holds ---------------------------------------------------------------------- */

static void edge_check(struct sim *sim, int side, const struct tcp_conn *c)
{
	uint32_t id = (side == 0 ? c->key.local.port : c->key.remote.port) - 1000u;
	struct sim_end *e;

	if (id >= sim->conns || sim->cookies || c->state < TCP_ESTABLISHED)
		return;
	e = &sim->ends[side][id];
	if (e->edge_known && seq_lt(c->rcv_adv, e->edge))
		sim_fail(sim, "side %d conn %u: the window was shrunk", side, id);
	e->edge_known = true;
	e->edge = c->rcv_adv;
}

static void check_stack(struct sim *sim, int side)
{
	const struct net_stack *s = sim->stacks[side];
	uint32_t mbufs = 0, connections = 0;
	const char *wrong;

	for (uint32_t i = 0; i <= s->table_mask; i++) {
		for (const struct tcp_conn *c = s->conns[i]; c != NULL; c = c->hash_next) {
			wrong = sim_conn_wrong(c, &mbufs);
			if (wrong != NULL)
				sim_fail(sim, "side %d port %u %s at %" PRIu64 " ns: %s", side,
					 c->key.remote.port, tcp_state_name(c->state), sim->now_ns,
					 wrong);
			edge_check(sim, side, c);
			connections++;
		}
	}
	wrong = sim_stack_wrong(s, connections);
	if (wrong != NULL)
		sim_fail(sim, "side %d: %s", side, wrong);
	if (mbufs != s->ooo_mbufs)
		sim_fail(sim, "side %d: %u mbufs out of order, counted %u", side, mbufs,
			 s->ooo_mbufs);
}

/* ---- the clock ------------------------------------------------------------------------------ */

static void earlier(uint64_t *next, uint64_t t)
{
	if (t < *next)
		*next = t;
}

/* When anything happens next. */
static uint64_t next_event(struct sim *sim)
{
	uint64_t next = UINT64_MAX;

	for (int i = 0; i < 2; i++) {
		if (sim->links[i].frames_n > 0)
			earlier(&next, sim->links[i].frames[0].due_ns);
		earlier(&next, net_timer_next_ns(sim->stacks[i]));
		if (net_flush_pending(sim->stacks[i]))
			earlier(&next, sim->now_ns + 100 * US);
		for (uint32_t id = 0; id < sim->conns; id++) {
			struct sim_end *e = &sim->ends[i][id];

			if (e->conn != NULL && e->unread > 0)
				earlier(&next, e->read_at_ns);
			if (e->conn != NULL && e->blocked)
				earlier(&next, sim->now_ns + 1 * MS);
		}
	}
	for (uint32_t id = 0; id < sim->conns; id++)
		earlier(&next, sim->open_at_ns[id]);
	if (!sim->healed)
		earlier(&next, FAULTS_NS + S);
	return next > sim->now_ns ? next : sim->now_ns + 1;
}

static void end_clock(struct sim *sim, struct sim_end *e)
{
	if (e->conn != NULL && e->unread > 0 && e->read_at_ns <= sim->now_ns) {
		uint64_t n = e->unread;

		if (sim_chance(sim, 0.3))
			n = sim_between(sim, 1, e->unread); /* reads in parts */
		e->unread -= n;
		e->read_at_ns = sim->now_ns + sim_between(sim, 1, e->read_delay_ns);
		tcp_consumed(e->conn, n);
	}
	if (e->conn != NULL && e->blocked) {
		e->blocked = false;
		end_pump(e);
	}
}

/* What befalls the world as a whole. */
static void mishaps(struct sim *sim)
{
	if (sim->healed)
		return;
	if (sim_chance(sim, sim->down_p)) {
		uint64_t until_ns = sim->now_ns + sim_between(sim, 1 * MS, 4 * S);

		sim->links[0].down_until_ns = until_ns;
		sim->links[1].down_until_ns = until_ns;
	}
	if (sim_chance(sim, sim->mtu_p)) { /* another path: it may be wider, too */
		static const uint64_t mtus[] = {576, 1006, 1280, 1400, 1500, UINT32_MAX};
		struct sim_link *l = &sim->links[random_below(&sim->random, 2)];

		l->mtu = (uint32_t)pick(sim, mtus, 6);
		if (sim->family == NET_FAMILY_IPV6 && l->mtu < IP6_MTU_MIN)
			l->mtu = IP6_MTU_MIN;
		l->too_big = sim_chance(sim, 0.7) ? random_unit(&sim->random) : 0;
	}
	if (sim_chance(sim, sim->jump_p)) /* as after a suspended machine: all is late at once */
		sim->now_ns += sim_between(sim, 1, 3 * S);
}

static void step(struct sim *sim)
{
	sim->now_ns = next_event(sim);
	mishaps(sim);
	if (!sim->healed && sim->now_ns >= FAULTS_NS + S)
		heal(sim);
	for (uint32_t id = 0; id < sim->conns; id++) {
		if (sim->open_at_ns[id] <= sim->now_ns)
			client_open(sim, id);
		end_clock(sim, &sim->ends[0][id]);
		end_clock(sim, &sim->ends[1][id]);
	}
	for (int i = 0; i < 2; i++) {
		link_deliver(&sim->links[i], (unsigned)sim_between(sim, 1, SIM_BURST_MAX));
		/* A clock that goes back is taken as standing still. */
		if (sim->jump_p > 0 && sim_chance(sim, 0.01))
			net_timers_run(sim->stacks[i], sim->now_ns - sim_between(sim, 1, S));
		net_timers_run(sim->stacks[i], sim->now_ns);
		net_flush(sim->stacks[i], sim->now_ns);
		check_stack(sim, i);
	}
}

static bool all_ended(const struct sim *sim)
{
	for (uint32_t id = 0; id < sim->conns; id++) {
		if (sim->open_at_ns[id] != UINT64_MAX || !sim->ends[0][id].gone)
			return false;
		if (sim->ends[1][id].opened && !sim->ends[1][id].gone)
			return false;
	}
	return true;
}

static void check_bytes(struct sim *sim)
{
	for (int side = 0; side < 2; side++) {
		for (uint32_t id = 0; id < sim->conns; id++) {
			struct sim_end *e = &sim->ends[side][id];

			if (!sim->aborts && e->received != e->other->send_total)
				sim_fail(sim, "conn %u side %d: %" PRIu64 " of %" PRIu64 " bytes",
					 id, side, e->received, e->other->send_total);
		}
	}
}

static void describe(struct sim *sim)
{
	for (int side = 0; side < 2; side++) {
		for (uint32_t id = 0; id < sim->conns; id++) {
			struct sim_end *e = &sim->ends[side][id];
			struct tcp_info i;

			if (e->conn == NULL)
				continue;
			i = tcp_info(e->conn);
			fprintf(stderr,
				"  side %d conn %u %s sent %lu/%lu received %lu unread %lu queued "
				"%u cwnd %u "
				"wnd %u/%u rto %u us eof %d shut %d\n",
				side, id, tcp_state_name(i.state), e->sent, e->send_total,
				e->received, e->unread, i.queued, i.cwnd, i.send_window,
				i.receive_window, i.rto_us, e->eof, e->shut);
		}
	}
}

bool sim_run(struct sim *sim, uint64_t seed)
{
	uint64_t rest_ns;
	unsigned avail;

	memset(sim, 0, offsetof(struct sim, pool));
	sim->seed = seed;
	sim->pool = sim_pool;
	sim->joins = seed / 12 % 3 == 1;
	sim_port =
		(struct port_queue){.dev = &sim_dev, .tx_pool = sim_pool, .linear_pool = sim_pool};
	sim->failure[0] = 0;
	sim->healed = false;
	sim->now_ns = 1 * S;
	sim->hoard_n = 0;
	if (sim->hoard == NULL) {
		sim->hoard = calloc(POOL_MBUFS, sizeof(*sim->hoard));
		sim->totals = calloc(net_counter_desc.count, sizeof(*sim->totals));
	}
	random_seed(&sim->random, seed);
	avail = rte_mempool_avail_count(sim_pool);
	if (sim->hoard == NULL || sim->totals == NULL || !world_make(sim)) {
		sim_fail(sim, "world_make failed");
		return false;
	}
	while (sim->failure[0] == 0 && !all_ended(sim)) {
		if (sim->now_ns > LIMIT_NS) {
			sim_fail(sim, "no end after %" PRIu64 " s", sim->now_ns / S);
			describe(sim);
		}
		step(sim);
	}
	/* Then nothing may be left: frames, timers, TIME_WAIT, connections. */
	rest_ns = sim->now_ns + REST_NS;
	while (sim->failure[0] == 0 && sim->now_ns < rest_ns && next_event(sim) < rest_ns)
		step(sim);
	check_bytes(sim);
	for (int i = 0; i < 2; i++) {
		struct net_gauges g = net_gauges_of(sim->stacks[i]);

		if (!sim->aborts &&
		    g.timers + g.connections + g.half_open + g.time_wait + g.ooo_mbufs != 0)
			sim_fail(sim,
				 "stack %d: %u timers, %u connections, %u half open, %u TIME_WAIT, "
				 "%u "
				 "out of order "
				 "left",
				 i, g.timers, g.connections, g.half_open, g.time_wait, g.ooo_mbufs);
	}
	if (!sim->healed)
		heal(sim);
	sim->cut += sim_port.counters.tx_cut;
	sim->joined += sim_port.counters.rx_joined;
	for (int i = 0; i < 2; i++) {
		counter_sum(sim->totals, net_counters_of(sim->stacks[i]), &net_counter_desc);
		net_stack_destroy(sim->stacks[i]);
		while (sim->links[i].frames_n > 0)
			rte_pktmbuf_free(sim_link_take(&sim->links[i]).m);
	}
	if (rte_mempool_avail_count(sim_pool) != avail)
		sim_fail(sim, "%d mbufs leaked", (int)(avail - rte_mempool_avail_count(sim_pool)));
	return sim->failure[0] == 0;
}
