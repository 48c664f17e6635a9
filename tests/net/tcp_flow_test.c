/* Data against a scripted peer: ACKs, windows, order, loss, timers.
 * RFC 9293 s3.7, s3.8; RFC 5681; RFC 6298; RFC 6582; RFC 7323; RFC 2018. */
#include "tests/net/rig.h"

#include <string.h>

static struct rig r;

#define COUNTER(name) (net_counters_of(r.stack)->name)
#define ACK           TCP_ACK
#define PSH           TCP_PSH

static const uint8_t syn_mss_1000[] = {2, 4, 0x03, 0xe8};
static const uint8_t syn_sack[] = {2, 4, 0x03, 0xe8, 1, 1, 4, 2};

static void start(void)
{
	rig_defaults(&r);
	rig_start(&r);
	rig_accept(&r, syn_mss_1000, sizeof(syn_mss_1000));
}

static void stop(void)
{
	if (r.app.conn != NULL)
		tcp_abort(r.app.conn);
	rig_flush(&r);
	rig_stop(&r);
}

/* An ACK of `acked` bytes of ours, with this window. */
static void peer_acks(uint32_t acked, uint16_t window)
{
	static struct rig_segment s;

	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = r.peer_seq;
	s.ack = r.peer_ack + acked;
	s.window = window;
	s.flags = ACK;
	rig_send(&r, &s);
}

static void peer_sacks(uint32_t acked, uint32_t from, uint32_t to)
{
	static struct rig_segment s;
	struct tcp_options o = {.sack_n = 1};

	memset(&s, 0, sizeof(s));
	o.sack[0] = (struct tcp_sack_block){r.peer_ack + from, r.peer_ack + to};
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = r.peer_seq;
	s.ack = r.peer_ack + acked;
	s.window = 65535;
	s.flags = ACK;
	s.options_len = (uint32_t)tcp_options_write(s.options, &o);
	rig_send(&r, &s);
}

static void app_sends(uint32_t len, uint32_t mbuf_len)
{
	ck_assert_int_eq(tcp_send(r.app.conn, rig_chain(&r, len, mbuf_len)), 0);
	rig_flush(&r);
}

/* Expect the segment of ours at `off` with `len` bytes of rig_chain()'s pattern. */
static void expect_data(uint32_t off, uint32_t len)
{
	static struct rig_segment s;

	ck_assert_msg(rig_take_tcp(&r, &s), "nothing sent, expected %u bytes at %u", len, off);
	ck_assert_uint_eq(s.flags & ~PSH, ACK);
	ck_assert_uint_eq(s.seq - r.peer_ack, off);
	ck_assert_uint_eq(s.len, len);
	for (uint32_t i = 0; i < len; i++)
		ck_assert_uint_eq(s.payload[i], (uint8_t)(off + i));
}

/* ---- sending -------------------------------------------------------------------------------- */

START_TEST(test_segments_follow_mss)
{
	start();
	ck_assert_uint_eq(tcp_info(r.app.conn).mss, 1000);
	app_sends(2500, 700); /* pieces across mbufs */
	expect_data(0, 1000);
	expect_data(1000, 1000);
	expect_data(2000, 500);
	rig_silent(&r);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 1);
	peer_acks(2500, 65535);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	ck_assert_uint_eq(tcp_info(r.app.conn).queued, 0);
	stop();
}
END_TEST

START_TEST(test_many_tiny_mbufs)
{
	rig_defaults(&r);
	r.config.tcp.copy_bytes_max =
		0; /* neither in the queue nor in segments, unless in too many pieces */
	rig_start(&r);
	rig_accept(&r, syn_mss_1000, 4);
	app_sends(2000, 3);
	expect_data(0, 1000);
	expect_data(1000, 1000);
	peer_acks(2000, 65535);
	stop();
}
END_TEST

START_TEST(test_small_sends_are_compacted)
{
	start();
	r.device_full = true; /* so that nothing leaves meanwhile */
	for (int i = 0; i < 40; i++) {
		struct rte_mbuf *m = rig_chain(&r, 10, 10);

		for (int k = 0; k < 10; k++)
			*rte_pktmbuf_mtod_offset(m, uint8_t *, k) = (uint8_t)(i * 10 + k);
		ck_assert_int_eq(tcp_send(r.app.conn, m), 0);
	}
	ck_assert_uint_eq(COUNTER(tcp_compactions), 39);
	r.device_full = false;
	rig_flush(&r);
	expect_data(0, 400);
	peer_acks(400, 65535);
	stop();
}
END_TEST

START_TEST(test_initial_window_is_ten)
{
	unsigned n = 0;
	struct rig_segment s;

	start();
	app_sends(30000, 2000);
	while (rig_take_tcp(&r, &s))
		n++;
	ck_assert_uint_eq(n, 10);
	peer_acks(2000, 65535); /* slow start: two acked let four go */
	while (rig_take_tcp(&r, &s))
		n++;
	ck_assert_uint_eq(n, 14);
	stop();
}
END_TEST

START_TEST(test_peer_window_and_probe)
{
	static struct rig_segment s;

	start();
	peer_acks(0, 1500);
	app_sends(5000, 2000);
	expect_data(0, 1000);
	rig_silent(&r); /* 500 are left: a silly segment */
	peer_acks(1000, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 1);
	rig_silent(&r);
	/* Probes of one byte, at growing distances. */
	rig_wait(&r, 210 * RIG_MS);
	expect_data(1000, 1);
	peer_acks(1000, 0);
	rig_wait(&r, 300 * RIG_MS);
	rig_silent(&r);
	rig_wait(&r, 110 * RIG_MS);
	expect_data(1000, 1);
	peer_acks(1001, 0); /* taken this time */
	rig_silent(&r);
	rig_wait(&r, 210 * RIG_MS);
	expect_data(1001, 1);
	/* The window opens. */
	peer_acks(1001, 3000);
	expect_data(1001, 1000);
	expect_data(2001, 1000);
	expect_data(3001, 1000);
	ck_assert_uint_eq(COUNTER(tcp_zero_window_probes), 3);
	peer_acks(4001, 3000);
	expect_data(4001, 999);
	peer_acks(5000, 3000);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	ck_assert(!rig_take_tcp(&r, &s));
	stop();
}
END_TEST

START_TEST(test_window_shrinks_to_zero_in_flight)
{
	start();
	app_sends(3000, 2000);
	expect_data(0, 1000);
	expect_data(1000, 1000);
	expect_data(2000, 1000);
	peer_acks(0, 0); /* RFC 9293 s3.8.6: must be survived */
	rig_wait(&r, RIG_S * 5 / 4);
	rig_wait(&r, RIG_S * 3);
	expect_data(0, 1);
	peer_acks(3000, 5000);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	ck_assert_uint_eq(tcp_info(r.app.conn).queued, 0);
	stop();
}
END_TEST

START_TEST(test_send_room_and_writable)
{
	struct rte_mbuf *m;
	uint32_t room;

	rig_defaults(&r);
	r.config.tcp.send_buffer = 4000;
	rig_start(&r);
	rig_accept(&r, syn_mss_1000, 4);
	room = (uint32_t)tcp_send_room(r.app.conn);
	ck_assert_uint_eq(room, 4000);
	m = rig_chain(&r, 4001, 2000);
	ck_assert_int_eq(tcp_send(r.app.conn, m), -SPLIT_E_BASE_INVALID); /* never fits */
	rte_pktmbuf_free(m);
	app_sends(100, 100);
	m = rig_chain(&r, 4000, 2000);
	ck_assert_int_eq(tcp_send(r.app.conn, m), -SPLIT_E_NET_FULL);
	rte_pktmbuf_free(m);
	peer_acks(100, 65535);
	ck_assert_uint_eq(r.app.writables, 1);
	r.app.writables = 0;
	r.peer_ack += 100;
	app_sends(4000, 2000);
	ck_assert_uint_eq(tcp_send_room(r.app.conn), 0);
	tcp_want_writable(r.app.conn);
	peer_acks(1000, 65535);
	ck_assert_uint_eq(r.app.writables, 0); /* less than half */
	peer_acks(4000, 65535);
	ck_assert_uint_eq(r.app.writables, 1);
	/* Asked for when there is room already: no ACK will come, so the flush gives it. */
	tcp_want_writable(r.app.conn);
	ck_assert_uint_eq(r.app.writables, 1);
	rig_flush(&r);
	ck_assert_uint_eq(r.app.writables, 2);
	/* Too long for the room that is left: not before there is that room. */
	app_sends(1500, 1500);
	m = rig_chain(&r, 3000, 1500);
	ck_assert_int_eq(tcp_send(r.app.conn, m), -SPLIT_E_NET_FULL);
	tcp_want_writable(r.app.conn); /* asks for less: the larger wish stays */
	rig_flush(&r);
	ck_assert_uint_eq(r.app.writables, 2);
	peer_acks(5500, 65535);
	ck_assert_uint_eq(r.app.writables, 3);
	ck_assert_int_eq(tcp_send(r.app.conn, m), 0);
	tcp_shutdown(r.app.conn);
	m = rig_chain(&r, 10, 10);
	ck_assert_int_eq(tcp_send(r.app.conn, m), -SPLIT_E_NET_CLOSED);
	rte_pktmbuf_free(m);
	stop();
}
END_TEST

START_TEST(test_nagle)
{
	start();
	app_sends(10, 10);
	expect_data(0, 10);
	app_sends(10, 10); /* off by default: goes at once */
	rig_flush(&r);
	ck_assert_uint_eq(rig_expect(&r, ACK | PSH).len, 10);
	tcp_set_nagle(r.app.conn, true);
	app_sends(10, 10);
	rig_silent(&r);
	peer_acks(20, 65535);
	ck_assert_uint_eq(rig_expect(&r, ACK | PSH).len, 10);
	stop();
}
END_TEST

START_TEST(test_device_full)
{
	start();
	r.device_full = true;
	app_sends(300, 300);
	ck_assert(net_flush_pending(r.stack));
	r.device_full = false;
	rig_flush(&r);
	ck_assert(!net_flush_pending(r.stack));
	expect_data(0, 300);
	stop();
}
END_TEST

START_TEST(test_out_of_mbufs)
{
	static struct rte_mbuf *hoard[8192];
	struct rte_mbuf *chain;
	unsigned n = 0;

	start();
	chain = rig_chain(&r, 3000, 1000);
	while ((hoard[n] = rte_pktmbuf_alloc(r.pool)) != NULL)
		n++;
	ck_assert_int_eq(tcp_send(r.app.conn, chain), 0);
	rig_flush(&r);
	rig_silent(&r);
	ck_assert_uint_gt(COUNTER(tx_drop_nomem), 0);
	ck_assert(net_flush_pending(r.stack));
	while (n > 0)
		rte_pktmbuf_free(hoard[--n]);
	rig_flush(&r);
	expect_data(0, 1000);
	expect_data(1000, 1000);
	expect_data(2000, 1000);
	stop();
}
END_TEST

/* ---- loss ----------------------------------------------------------------------------------- */

START_TEST(test_timeout_backs_off)
{
	uint64_t last, gap = 0;

	rig_defaults(&r);
	r.config.path_mtu_discovery = false; /* the same segment every time */
	rig_start(&r);
	rig_accept(&r, syn_mss_1000, sizeof(syn_mss_1000));
	app_sends(100, 100);
	expect_data(0, 100);
	last = r.now_ns;
	for (int i = 0; i < 5; i++) {
		static struct rig_segment s;

		while (!rig_take_tcp(&r, &s))
			rig_wait(&r, 10 * RIG_MS);
		ck_assert_uint_eq(s.seq, r.peer_ack);
		if (gap != 0) {
			ck_assert_uint_ge(r.now_ns - last, gap * 2 - 20 * RIG_MS);
			ck_assert_uint_le(r.now_ns - last, gap * 2 + 20 * RIG_MS);
		}
		gap = r.now_ns - last;
		last = r.now_ns;
	}
	ck_assert_uint_eq(COUNTER(tcp_rto), 5);
	ck_assert_uint_eq(tcp_info(r.app.conn).cwnd, 1000);
	peer_acks(100, 65535);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_user_timeout)
{
	struct rig_segment s;

	start();
	tcp_set_user_timeout(r.app.conn, 5 * RIG_S);
	app_sends(100, 100);
	rig_wait(&r, 4 * RIG_S);
	ck_assert_uint_eq(r.app.closeds, 0);
	rig_wait(&r, 10 * RIG_S);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_TIMEOUT);
	while (rig_take_tcp(&r, &s))
		;
	ck_assert_uint_eq(s.flags, TCP_RST | ACK);
	stop();
}
END_TEST

START_TEST(test_go_back_after_timeout)
{
	start();
	app_sends(3000, 1500);
	for (uint32_t i = 0; i < 3; i++)
		expect_data(i * 1000, 1000);
	rig_wait(&r, 210 * RIG_MS);
	expect_data(0, 1000); /* one segment, then as acked */
	rig_silent(&r);
	peer_acks(1000, 65535);
	expect_data(1000, 1000);
	expect_data(2000, 1000);
	peer_acks(3000, 65535);
	rig_silent(&r);
	stop();
}
END_TEST

START_TEST(test_fast_retransmit_newreno)
{
	start();
	app_sends(8000, 1500);
	for (uint32_t i = 0; i < 8; i++)
		expect_data(i * 1000, 1000);
	/* 0 and 3000 are lost. */
	peer_acks(0, 65535);
	peer_acks(0, 65535);
	rig_silent(&r);
	peer_acks(0, 65535);
	expect_data(0, 1000);
	rig_silent(&r);
	ck_assert_uint_eq(tcp_info(r.app.conn).ssthresh, 4000);
	ck_assert_uint_eq(tcp_info(r.app.conn).cwnd, 7000);
	peer_acks(0, 65535);
	ck_assert_uint_eq(tcp_info(r.app.conn).cwnd, 8000);
	peer_acks(3000, 65535); /* partial: the next hole at once */
	expect_data(3000, 1000);
	ck_assert_uint_eq(tcp_info(r.app.conn).cwnd, 6000);
	peer_acks(8000, 65535);
	ck_assert_uint_eq(tcp_info(r.app.conn).cwnd,
			  2000); /* min(ssthresh, max(flight, mss) + mss) */
	rig_silent(&r);
	ck_assert_uint_eq(COUNTER(tcp_fast_retransmits), 1);
	ck_assert_uint_eq(COUNTER(tcp_retransmits), 2);
	stop();
}
END_TEST

START_TEST(test_not_a_duplicate)
{
	start();
	app_sends(5000, 1500);
	for (uint32_t i = 0; i < 5; i++)
		expect_data(i * 1000, 1000);
	for (uint16_t i = 1; i <= 5; i++) /* each changes the window */
		peer_acks(0, (uint16_t)(60000 - i));
	for (int32_t i = 0; i < 5; i++) /* each carries data */
		rig_segment(&r, ACK, i, "x", 1);
	ck_assert_uint_eq(COUNTER(tcp_fast_retransmits), 0);
	stop();
}
END_TEST

START_TEST(test_sack_recovery)
{
	rig_defaults(&r);
	rig_start(&r);
	rig_accept(&r, syn_sack, sizeof(syn_sack));
	ck_assert(tcp_info(r.app.conn).sack);
	app_sends(10000, 1500);
	for (uint32_t i = 0; i < 10; i++)
		expect_data(i * 1000, 1000);
	rig_wait(&r, 5 * RIG_MS);
	/* 0 and 4000 are lost. */
	peer_sacks(0, 1000, 2000);
	peer_sacks(0, 1000, 3000);
	rig_silent(&r);
	peer_sacks(0, 1000, 4000);
	expect_data(0, 1000);
	peer_sacks(0, 5000, 6000);
	rig_silent(&r); /* lost by now, but PRR holds it for one delivery more */
	peer_sacks(0, 5000, 7000);
	expect_data(4000, 1000);
	peer_sacks(0, 5000, 9000);
	rig_silent(&r);
	peer_acks(4000, 65535);
	rig_silent(&r); /* 4000 was sent again already */
	peer_acks(10000, 65535);
	ck_assert_uint_eq(tcp_info(r.app.conn).cwnd, 5000);
	ck_assert_uint_eq(COUNTER(tcp_retransmits), 2);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_sack_nonsense)
{
	rig_defaults(&r);
	rig_start(&r);
	rig_accept(&r, syn_sack, sizeof(syn_sack));
	app_sends(5000, 1500);
	for (uint32_t i = 0; i < 5; i++)
		expect_data(i * 1000, 1000);
	peer_sacks(0, 9000, 10000);                      /* never sent */
	peer_sacks(0, 3000, 2000);                       /* backwards */
	peer_sacks(0, 0, 1000);                          /* the first byte: would be acked */
	peer_sacks(0, (uint32_t)-5000, (uint32_t)-4000); /* the past */
	rig_silent(&r);
	ck_assert_uint_eq(COUNTER(tcp_fast_retransmits), 0);
	/* A hundred islands: bounded, and survived. */
	for (uint32_t i = 0; i < 100; i++)
		peer_sacks(0, 1001 + i * 20, 1002 + i * 20);
	peer_acks(5000, 65535);
	ck_assert_uint_eq(tcp_info(r.app.conn).queued, 0);
	stop();
}
END_TEST

START_TEST(test_held_frame_is_not_changed)
{
	uint8_t first[2000], second[2000];
	struct rte_mbuf *held;

	start();
	app_sends(900, 2000); /* by reference */
	ck_assert_uint_eq(r.sent_n, 1);
	held = r.sent[0]; /* the device is slow */
	r.sent_n = 0;
	rte_pktmbuf_read(held, 0, held->pkt_len, first);
	memcpy(first, rte_pktmbuf_read(held, 0, held->pkt_len, first), 54);
	rig_wait(&r, 210 * RIG_MS);
	ck_assert_uint_eq(r.sent_n, 1); /* sent again meanwhile */
	ck_assert_ptr_ne(r.sent[0], held);
	expect_data(0, 900);
	peer_acks(900, 65535); /* and freed by the queue */
	ck_assert_ptr_nonnull(rte_pktmbuf_read(held, 0, held->pkt_len, second));
	ck_assert_mem_eq(rte_pktmbuf_read(held, 0, 54, second), first, 54);
	ck_assert_uint_eq(*(const uint8_t *)rte_pktmbuf_read(held, 54 + 100, 1, second), 100);
	rte_pktmbuf_free(held);
	stop();
}
END_TEST

/* ---- receiving ------------------------------------------------------------------------------ */

START_TEST(test_delayed_ack)
{
	static uint8_t full[1000];

	start();
	rig_segment(&r, ACK | PSH, 0, "a", 1);
	rig_silent(&r);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 1);
	rig_wait(&r, 39 * RIG_MS);
	rig_silent(&r);
	rig_wait(&r, 2 * RIG_MS);
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq + 1);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	/* Every second full segment at once. */
	rig_segment(&r, ACK, 1, full, 1000);
	rig_silent(&r);
	rig_segment(&r, ACK, 1001, full, 1000);
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq + 2001);
	/* An answer carries it. */
	rig_segment(&r, ACK | PSH, 2001, "b", 1);
	app_sends(5, 5);
	ck_assert_uint_eq(rig_expect(&r, ACK | PSH).ack, r.peer_seq + 2002);
	rig_wait(&r, 100 * RIG_MS);
	rig_silent(&r);
	stop();
}
END_TEST

START_TEST(test_out_of_order)
{
	struct rig_segment s;

	rig_defaults(&r);
	rig_start(&r);
	rig_accept(&r, syn_sack, sizeof(syn_sack));
	rig_segment(&r, ACK, 6, "ghi", 3);
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq(s.ack, r.peer_seq);
	ck_assert_uint_eq(s.opt.sack_n, 1);
	ck_assert_uint_eq(s.opt.sack[0].start, r.peer_seq + 6);
	ck_assert_uint_eq(s.opt.sack[0].end, r.peer_seq + 9);
	rig_segment(&r, ACK, 12, "mno", 3);
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq(s.opt.sack_n, 2);
	ck_assert_uint_eq(s.opt.sack[0].start, r.peer_seq + 12); /* the newest first */
	rig_segment(&r, ACK, 7, "hijk", 4);                      /* overlaps */
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq(s.opt.sack[0].start, r.peer_seq + 6);
	ck_assert_uint_eq(s.opt.sack[0].end, r.peer_seq + 11);
	rig_segment(&r, ACK, 3, "defghijklmnop", 13); /* covers all of it */
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq(s.opt.sack_n, 1);
	ck_assert_uint_eq(s.opt.sack[0].end, r.peer_seq + 16);
	ck_assert_uint_eq(r.app.bytes, 0);
	rig_segment(&r, ACK, 0, "abcd", 4);
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq(s.ack, r.peer_seq + 16);
	ck_assert_uint_eq(s.opt.sack_n, 0);
	ck_assert_mem_eq(r.app.data, "abcdefghijklmnop", 16);
	ck_assert_uint_eq(r.app.bytes, 16);
	ck_assert_uint_eq(net_gauges_of(r.stack).ooo_mbufs, 0);
	stop();
}
END_TEST

START_TEST(test_every_order_of_pieces)
{
	/* Four pieces that overlap, in all orders: the bytes are always the same. */
	static const struct {
		int32_t off;
		uint32_t len;
	} pieces[] = {{0, 4}, {2, 5}, {6, 3}, {8, 4}};
	static const char bytes[] = "abcdefghijkl";

	for (unsigned order = 0; order < 256; order++) {
		rig_defaults(&r);
		rig_start(&r);
		rig_accept(&r, syn_sack, sizeof(syn_sack));
		for (unsigned k = 0; k < 4; k++) {
			unsigned i = order >> (2 * k) & 3;

			rig_segment(&r, ACK, pieces[i].off, bytes + pieces[i].off, pieces[i].len);
		}
		for (unsigned i = 0; i < 4; i++) /* what the order left out */
			rig_segment(&r, ACK, pieces[i].off, bytes + pieces[i].off, pieces[i].len);
		ck_assert_uint_eq(r.app.bytes, 12);
		ck_assert_mem_eq(r.app.data, bytes, 12);
		stop();
	}
}
END_TEST

START_TEST(test_ooo_bounds)
{
	rig_defaults(&r);
	r.config.tcp.ooo_ranges_max = 8;
	r.config.tcp.ooo_mbufs_max = 20;
	rig_start(&r);
	rig_accept(&r, syn_sack, sizeof(syn_sack));
	for (int32_t i = 1; i < 60; i += 2) /* islands of one byte */
		rig_segment(&r, ACK, i, "x", 1);
	ck_assert_uint_eq(net_gauges_of(r.stack).ooo_mbufs, 8);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_ooo_ranges), 22);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	rig_stop(&r);
	/* Contiguous bytes one by one share an mbuf. */
	rig_defaults(&r);
	rig_start(&r);
	rig_accept(&r, syn_sack, sizeof(syn_sack));
	for (int32_t i = 1; i < 300; i++) {
		struct rig_segment s;

		rig_segment(&r, ACK, i, "y", 1);
		while (rig_take_tcp(&r, &s))
			;
	}
	ck_assert_uint_eq(net_gauges_of(r.stack).ooo_mbufs, 1);
	ck_assert_uint_eq(COUNTER(tcp_compactions), 298);
	rig_segment(&r, ACK, 0, "x", 1);
	ck_assert_uint_eq(r.app.bytes, 300);
	stop();
}
END_TEST

START_TEST(test_window_closes_and_opens)
{
	static uint8_t full[1000];
	struct rig_segment s;
	uint32_t sent = 0, edge = 65535;

	start();
	r.app.keep_unread = true;
	/* As much as it says, one segment after another; the right edge never moves left. */
	while (sent < edge) {
		uint32_t n = edge - sent < 1000 ? edge - sent : 1000;

		rig_segment(&r, ACK, (int32_t)sent, full, n);
		sent += n;
		while (rig_take_tcp(&r, &s)) {
			uint32_t now_edge = s.ack - r.peer_seq + s.window;

			ck_assert_uint_ge(now_edge, edge);
			edge = now_edge;
		}
		ck_assert_uint_lt(sent, 200000);
	}
	ck_assert_uint_eq(r.app.bytes, 65535);
	rig_wait(&r, 50 * RIG_MS);
	while (rig_take_tcp(&r, &s))
		;
	ck_assert_uint_eq(s.window, 0);
	/* A probe is answered and not taken. */
	rig_segment(&r, ACK, (int32_t)sent, "z", 1);
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq(s.ack, r.peer_seq + sent);
	ck_assert_uint_eq(s.window, 0);
	/* Reading a little says nothing, reading a segment's worth does. */
	tcp_consumed(r.app.conn, 100);
	rig_flush(&r);
	rig_silent(&r);
	tcp_consumed(r.app.conn, 20000);
	rig_flush(&r);
	s = rig_expect(&r, ACK);
	ck_assert_uint_gt(s.window,
			  2000); /* less than was read: what is left pins more than its bytes */
	ck_assert_uint_le(s.window, 20100);
	tcp_consumed(r.app.conn, 45435);
	rig_flush(&r);
	ck_assert_uint_eq(rig_expect(&r, ACK).window, 65535);
	stop();
}
END_TEST

START_TEST(test_unread_tiny_segments_are_bounded)
{
	struct rig_segment s;

	rig_defaults(&r);
	r.config.tcp.receive_buffer = 32768;
	rig_start(&r);
	rig_accept(&r, syn_mss_1000, 4);
	r.app.keep_unread = true;
	for (int i = 0; i < 200; i++) { /* each would pin a whole mbuf with its reader */
		rig_segment(&r, ACK, (int32_t)r.app.bytes, "q", 1);
		while (rig_take_tcp(&r, &s))
			;
	}
	ck_assert_uint_gt(COUNTER(rx_drop_tcp_memory), 100);
	ck_assert_uint_lt(r.app.bytes, 60);
	tcp_consumed(r.app.conn, r.app.bytes);
	rig_segment(&r, ACK, (int32_t)r.app.bytes, "q", 1);
	ck_assert_uint_eq(tcp_info(r.app.conn).unconsumed, 1);
	stop();
}
END_TEST

START_TEST(test_data_beyond_window_is_cut)
{
	static uint8_t much[3000];

	rig_defaults(&r);
	r.config.tcp.receive_buffer = 2048;
	r.config.mtu = 4000;
	rig_start(&r);
	rig_accept(&r, NULL, 0);
	r.app.keep_unread = true;
	rig_segment(&r, ACK | TCP_FIN, 0, much, 3000);
	ck_assert_uint_eq(r.app.bytes, 2048);
	ck_assert_uint_eq(r.app.eofs, 0);
	rig_segment(&r, ACK, 5000, "x", 1); /* all of it beyond */
	ck_assert_uint_eq(r.app.bytes, 2048);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_window), 1);
	stop();
}
END_TEST

START_TEST(test_old_data_is_acked_again)
{
	start();
	rig_segment(&r, ACK, 0, "abcdef", 6);
	rig_wait(&r, 50 * RIG_MS);
	rig_expect(&r, ACK);
	rig_segment(&r, ACK, 0, "abcdef", 6);
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq + 6);
	rig_segment(&r, ACK, 3, "defghi", 6); /* half of it old */
	ck_assert_uint_eq(r.app.bytes, 9);
	ck_assert_mem_eq(r.app.data, "abcdefghi", 9);
	ck_assert_uint_eq(COUNTER(tcp_duplicate_segments), 1);
	stop();
}
END_TEST

/* ---- options and timers --------------------------------------------------------------------- */

START_TEST(test_timestamps_and_paws)
{
	static const uint8_t syn[] = {1, 1, 8, 10, 0, 0, 0, 100, 0, 0, 0, 0};
	struct rig_segment s;

	rig_defaults(&r);
	rig_start(&r);
	r.peer_ts = 100;
	rig_accept(&r, syn, sizeof(syn));
	ck_assert(tcp_info(r.app.conn).timestamps);
	r.peer_ts = 200;
	rig_segment(&r, ACK | PSH, 0, "a", 1);
	rig_wait(&r, 50 * RIG_MS);
	s = rig_expect(&r, ACK);
	ck_assert(s.opt.has_timestamp);
	ck_assert_uint_eq(s.opt.ts_echo, 200);
	r.peer_ts = 150; /* from the past */
	rig_segment(&r, ACK | PSH, 1, "b", 1);
	ck_assert_uint_eq(r.app.bytes, 1);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_paws), 1);
	rig_expect(&r, ACK);
	r.peer_ts = 0; /* without: RFC 7323 s3.2 */
	rig_segment(&r, ACK | PSH, 1, "b", 1);
	ck_assert_uint_eq(r.app.bytes, 1);
	rig_silent(&r);
	r.peer_ts = 250; /* out of order: not echoed yet */
	rig_segment(&r, ACK | PSH, 5, "f", 1);
	ck_assert_uint_eq(rig_expect(&r, ACK).opt.ts_echo, 200);
	stop();
}
END_TEST

START_TEST(test_window_scale)
{
	static const uint8_t syn[] = {1, 3, 3, 4};
	struct rig_segment s;

	rig_defaults(&r);
	r.config.tcp.receive_buffer = 1u << 20;
	rig_start(&r);
	rig_accept(&r, syn, sizeof(syn));
	ck_assert_uint_eq(tcp_info(r.app.conn).send_window, 65535u << 4);
	rig_segment(&r, ACK | PSH, 0, "a", 1);
	rig_wait(&r, 50 * RIG_MS);
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq((uint32_t)s.window << 5, 1u << 20); /* 2^20 needs a shift of 5 */
	stop();
}
END_TEST

START_TEST(test_round_trip_time)
{
	start();
	for (int i = 0; i < 20; i++) {
		struct rig_segment s;

		app_sends(10, 10);
		rig_wait(&r, 30 * RIG_MS);
		while (rig_take_tcp(&r, &s))
			;
		peer_acks(10u * (unsigned)(i + 1), 65535);
	}
	ck_assert_uint_ge(tcp_info(r.app.conn).srtt_us, 20000);
	ck_assert_uint_le(tcp_info(r.app.conn).srtt_us, 31000);
	ck_assert_uint_eq(tcp_info(r.app.conn).rto_us, 200000); /* rto_min */
	stop();
}
END_TEST

START_TEST(test_keepalive)
{
	struct rig_segment s;
	unsigned probes = 0;

	start();
	tcp_set_keepalive(r.app.conn, 60 * RIG_S);
	rig_wait(&r, 59 * RIG_S);
	rig_silent(&r);
	rig_wait(&r, 2 * RIG_S);
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq(s.seq, r.peer_ack - 1);
	ck_assert_uint_eq(s.len, 0);
	peer_acks(0, 65535); /* alive */
	rig_wait(&r, 58 * RIG_S);
	rig_silent(&r);
	rig_wait(&r, 100 * RIG_S);
	while (rig_take_tcp(&r, &s))
		probes++;
	ck_assert_uint_eq(probes, 6); /* five and the RST */
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_TIMEOUT);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_slow_path_is_the_same)
{
	static struct rig_segment fast[64], slow[64];
	unsigned n[2] = {0, 0};

	for (int way = 0; way < 2; way++) {
		struct rig_segment *out = way == 0 ? fast : slow;

		rig_defaults(&r);
		if (way == 1)
			r.config.flags |= NET_FORCE_SLOW;
		rig_start(&r);
		rig_accept(&r, syn_sack, sizeof(syn_sack));
		for (int32_t i = 0; i < 12; i++) {
			rig_segment(&r, ACK | PSH, i * 900, out->payload, 900);
			if (i % 3 == 0)
				app_sends(1500, 400);
			if (i % 4 == 1)
				peer_acks((uint32_t)i * 300, 65535);
			rig_wait(&r, 20 * RIG_MS);
			while (rig_take_tcp(&r, &out[n[way]]))
				n[way]++;
		}
		stop();
	}
	ck_assert_uint_eq(n[0], n[1]);
	ck_assert_uint_gt(n[0], 8);
	for (unsigned i = 0; i < n[0]; i++)
		ck_assert_mem_eq(&fast[i], &slow[i], offsetof(struct rig_segment, payload));
}
END_TEST

RIG_MAIN("tcp_flow", test_segments_follow_mss, test_many_tiny_mbufs, test_small_sends_are_compacted,
	 test_initial_window_is_ten, test_peer_window_and_probe,
	 test_window_shrinks_to_zero_in_flight, test_send_room_and_writable, test_nagle,
	 test_device_full, test_out_of_mbufs, test_timeout_backs_off, test_user_timeout,
	 test_go_back_after_timeout, test_fast_retransmit_newreno, test_not_a_duplicate,
	 test_sack_recovery, test_sack_nonsense, test_held_frame_is_not_changed, test_delayed_ack,
	 test_out_of_order, test_every_order_of_pieces, test_ooo_bounds,
	 test_window_closes_and_opens, test_unread_tiny_segments_are_bounded,
	 test_data_beyond_window_is_cut, test_old_data_is_acked_again, test_timestamps_and_paws,
	 test_window_scale, test_round_trip_time, test_keepalive, test_slow_path_is_the_same)
