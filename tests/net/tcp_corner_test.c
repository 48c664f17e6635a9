/* Corners of TCP that ordinary traffic seldom shows, against a scripted peer: each was wrong once.
 * RFC 9293 s3.8.6, s3.10.7; RFC 6298 s5; RFC 7323 s5.5; RFC 6191; RFC 5961. */
#include "tests/net/rig.h"

#include <string.h>

#include "daemon/net/cksum.h"

static struct rig r;

#define COUNTER(name) (net_counters_of(r.stack)->name)
#define ACK           TCP_ACK
#define PSH           TCP_PSH
#define SYN           TCP_SYN
#define FIN           TCP_FIN
#define RST           TCP_RST

static const uint8_t syn_mss_1000[] = {2, 4, 0x03, 0xe8};
static const uint8_t syn_stamped[] = {1, 1, 8, 10, 0, 0, 0, 100, 0, 0, 0, 0};

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

/* Any segment from the peer, without payload. */
static void say(uint8_t flags, uint32_t seq, uint32_t ack, uint16_t window)
{
	static struct rig_segment s;

	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = seq;
	s.ack = ack;
	s.flags = flags;
	s.window = window;
	rig_send(&r, &s);
}

static void peer_acks(uint32_t acked, uint16_t window)
{
	say(ACK, r.peer_seq, r.peer_ack + acked, window);
}

static void app_sends(uint32_t len)
{
	ck_assert_int_eq(tcp_send(r.app.conn, rig_chain(&r, len, 1000)), 0);
	rig_flush(&r);
}

static void expect_data(uint32_t off, uint32_t len)
{
	static struct rig_segment s;

	ck_assert_msg(rig_take_tcp(&r, &s), "nothing sent, expected %u bytes at %u", len, off);
	ck_assert_uint_eq(s.seq - r.peer_ack, off);
	ck_assert_uint_eq(s.len, len);
}

static unsigned frames_drop(void)
{
	static struct rig_segment s;
	unsigned n = 0;

	while (rig_take_tcp(&r, &s))
		n++;
	return n;
}

/* ---- windows -------------------------------------------------------------------------------- */

/* Old bytes and new ones that the closed window does not take: the ACK that was lost is repeated.
 */
START_TEST(test_closed_window_old_data_is_acked)
{
	static uint8_t bytes[2048];

	rig_defaults(&r);
	r.config.tcp.receive_buffer = 2048;
	rig_start(&r);
	rig_accept(&r, syn_mss_1000, sizeof(syn_mss_1000));
	r.app.keep_unread = true;
	rig_segment(&r, ACK, 0, bytes, 1000);
	rig_segment(&r, ACK, 1000, bytes, 1048);
	rig_wait(&r, 100 * RIG_MS);
	frames_drop();
	ck_assert_uint_eq(tcp_info(r.app.conn).receive_window, 0);
	rig_segment(&r, ACK, 1500, bytes, 549);
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq + 2048);
	rig_segment(&r, ACK, 1500, bytes, 548); /* nothing new at all */
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq + 2048);
	ck_assert_uint_eq(r.app.bytes, 2048);
	stop();
}
END_TEST

/* A peer whose window stays too small to be worth a segment gets what fits after the override
 * timeout of RFC 9293 s3.8.6.2.1, again and again, not a byte each backed-off probe. */
START_TEST(test_small_window_is_used)
{
	start();
	peer_acks(0, 400);
	app_sends(2000);
	rig_silent(&r);
	for (uint32_t off = 0; off < 2000; off += 400) {
		uint64_t began = r.now_ns;

		while (r.sent_n == 0 && r.now_ns < began + RIG_S)
			rig_wait(&r, 10 * RIG_MS);
		expect_data(off, 400);
		rig_silent(&r);
		peer_acks(off + 400, 400);
	}
	ck_assert_uint_eq(tcp_info(r.app.conn).queued, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	/* Lost, it is sent again. */
	app_sends(1000);
	rig_wait(&r, RIG_S);
	expect_data(2000, 400);
	expect_data(2000, 400);
	stop();
}
END_TEST

/* Time spent waiting for a window does not count as time without progress. */
START_TEST(test_user_timeout_after_closed_window)
{
	rig_defaults(&r);
	r.config.tcp.user_timeout_ns = 5 * RIG_S;
	rig_start(&r);
	rig_accept(&r, syn_mss_1000, sizeof(syn_mss_1000));
	peer_acks(0, 0);
	app_sends(500);
	for (unsigned i = 0; i < 20; i++) {
		rig_wait(&r, RIG_S);
		frames_drop();
		peer_acks(0, 0);
	}
	peer_acks(0, 65535);
	frames_drop();
	rig_wait(&r, 2 * RIG_S); /* lost, and sent again */
	ck_assert_uint_ge(frames_drop(), 1);
	ck_assert_ptr_nonnull(r.app.conn);
	rig_wait(&r, 10 * RIG_S);
	ck_assert_ptr_null(r.app.conn);
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_TIMEOUT);
	stop();
}
END_TEST

/* SND.WND follows only what acks SND.UNA or more. */
START_TEST(test_old_ack_moves_no_window)
{
	static struct rig_segment s;

	start();
	app_sends(1000);
	peer_acks(1000, 65535);
	frames_drop();
	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = r.peer_seq + 10;
	s.ack = r.peer_ack + 500;
	s.flags = ACK;
	s.len = 1;
	rig_send(&r, &s);
	ck_assert_uint_eq(tcp_info(r.app.conn).send_window, 65535);
	stop();
}
END_TEST

/* The window of a SYN-ACK is not scaled, also where both sides opened. RFC 7323 s2.2. */
START_TEST(test_simultaneous_open_window)
{
	struct net_addr to = rig_remote(RIG_PEER_PORT), from = rig_local(RIG_PORT);
	static struct rig_segment s;
	struct tcp_conn *c;
	uint32_t iss;

	rig_defaults(&r);
	rig_start(&r);
	ck_assert_int_eq(tcp_connect(r.stack, &from, &to, &rig_events, &r.app, &c), 0);
	rig_flush(&r);
	iss = rig_expect(&r, SYN).seq;
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = 7000;
	s.flags = SYN;
	s.window = 2000;
	s.options_len = 4;
	memcpy(s.options, (const uint8_t[]){1, 3, 3, 7}, 4);
	rig_send(&r, &s);
	rig_expect(&r, SYN | ACK);
	s.flags = SYN | ACK;
	s.ack = iss + 1;
	rig_send(&r, &s);
	ck_assert_int_eq(tcp_info(c).state, TCP_ESTABLISHED);
	ck_assert_uint_le(tcp_info(c).send_window, 2000);
	tcp_abort(c);
	rig_flush(&r);
	rig_stop(&r);
}
END_TEST

/* ---- answers to what may be forged ---------------------------------------------------------- */

START_TEST(test_old_acks_are_answered_in_measure)
{
	start();
	for (unsigned i = 0; i < 50; i++)
		say(ACK, r.peer_seq - 1, r.peer_ack, 65535);
	ck_assert_uint_eq(frames_drop(), 1);
	rig_wait(&r, 60 * RIG_MS);
	say(ACK, r.peer_seq - 1, r.peer_ack, 65535);
	ck_assert_uint_eq(frames_drop(), 1);
	/* SYNs with data behind them are no way round. */
	rig_wait(&r, RIG_S);
	for (int i = 0; i < 50; i++)
		rig_segment(&r, SYN, -200000 - i, "x", 1);
	ck_assert_uint_eq(frames_drop(), 1);
	stop();
}
END_TEST

/* A peer that came back to life without timestamps is told, not ignored. */
START_TEST(test_syn_without_timestamps_is_challenged)
{
	rig_defaults(&r);
	rig_start(&r);
	r.peer_ts = 100;
	rig_accept(&r, syn_stamped, sizeof(syn_stamped));
	say(SYN, 4242, 0, 65535);
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq);
	say(RST, r.peer_seq, 0, 0); /* what it answers */
	ck_assert_ptr_null(r.app.conn);
	stop();
}
END_TEST

/* ---- timers --------------------------------------------------------------------------------- */

/* Karn: without a sample, an ACK does not take the backoff back. */
START_TEST(test_backoff_stays_until_a_sample)
{
	start();
	app_sends(1000);
	peer_acks(1000, 65535);
	app_sends(1000);
	rig_wait(&r, 700 * RIG_MS); /* after 200 and 400 ms */
	ck_assert_uint_eq(tcp_info(r.app.conn).rto_us, 800000);
	peer_acks(2000, 65535); /* of which transmission? */
	ck_assert_uint_eq(tcp_info(r.app.conn).rto_us, 800000);
	app_sends(1000);
	frames_drop();
	rig_wait(&r, 700 * RIG_MS);
	rig_silent(&r);
	peer_acks(3000, 65535); /* of this one */
	ck_assert_uint_lt(tcp_info(r.app.conn).rto_us, 3000000);
	ck_assert_uint_eq(COUNTER(tcp_rto), 2);
	stop();
}
END_TEST

START_TEST(test_rto_after_a_lost_syn)
{
	struct net_addr to = rig_remote(RIG_PEER_PORT), from = rig_local(RIG_PORT);
	struct tcp_conn *c;
	uint32_t iss;

	rig_defaults(&r);
	rig_start(&r);
	ck_assert_int_eq(tcp_connect(r.stack, &from, &to, &rig_events, &r.app, &c), 0);
	rig_flush(&r);
	iss = rig_expect(&r, SYN).seq;
	rig_wait(&r, 1100 * RIG_MS);
	rig_expect(&r, SYN);
	say(SYN | ACK, 7000, iss + 1, 65535);
	rig_expect(&r, ACK);
	ck_assert_uint_eq(tcp_info(c).rto_us, 3000000);
	tcp_abort(c);
	rig_flush(&r);
	rig_stop(&r);
}
END_TEST

/* ---- timestamps ----------------------------------------------------------------------------- */

/* After 24 days of silence the peer's clock may be anywhere; from then on it counts again. */
START_TEST(test_timestamps_after_24_days)
{
	rig_defaults(&r);
	rig_start(&r);
	r.peer_ts = 0x70000000;
	rig_accept(&r, syn_stamped, sizeof(syn_stamped));
	rig_segment(&r, ACK | PSH, 0, "a", 1);
	rig_wait(&r, UINT64_C(25) * 86400 * RIG_S);
	frames_drop();
	r.peer_ts = 0x30000000; /* on the circle: before the last one */
	rig_segment(&r, ACK | PSH, 1, "b", 1);
	ck_assert_uint_eq(r.app.bytes, 2);
	rig_wait(&r, 50 * RIG_MS);
	ck_assert_uint_eq(rig_expect(&r, ACK).opt.ts_echo, 0x30000000);
	r.peer_ts = 0x2fffffff;
	rig_segment(&r, ACK | PSH, 2, "c", 1);
	ck_assert_uint_eq(r.app.bytes, 2);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_paws), 1);
	stop();
}
END_TEST

/* RFC 6191: within one tick of the peer's clock the sequence number decides. */
START_TEST(test_time_wait_reused_within_a_tick)
{
	static struct rig_segment s;

	rig_defaults(&r);
	rig_start(&r);
	r.peer_ts = 100;
	rig_accept(&r, syn_stamped, sizeof(syn_stamped));
	tcp_shutdown(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, FIN | ACK);
	r.peer_ack++;
	rig_segment(&r, FIN | ACK, 0, NULL, 0);
	rig_expect(&r, ACK);
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 1);
	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.flags = SYN;
	s.window = 1000;
	s.options_len = sizeof(syn_stamped);
	memcpy(s.options, syn_stamped, sizeof(syn_stamped));
	s.seq = r.peer_seq - 10;
	rig_send(&r, &s);
	rig_expect(&r, ACK);
	s.seq = r.peer_seq + 10;
	rig_send(&r, &s);
	rig_expect(&r, SYN | ACK);
	rig_stop(&r);
}
END_TEST

/* ---- the end -------------------------------------------------------------------------------- */

/* A FIN that came early is the end, whatever is sent beyond it. */
START_TEST(test_nothing_follows_fin)
{
	static uint8_t bytes[200];

	start();
	say(FIN | ACK, r.peer_seq + 100, r.peer_ack, 65535);
	rig_expect(&r, ACK);
	rig_segment(&r, ACK, 120, bytes, 50); /* beyond it */
	rig_segment(&r, ACK, 0, bytes, 150);
	ck_assert_uint_eq(r.app.bytes, 100);
	ck_assert_uint_eq(r.app.eofs, 1);
	ck_assert_int_eq(tcp_info(r.app.conn).state, TCP_CLOSE_WAIT);
	ck_assert_uint_eq(net_gauges_of(r.stack).ooo_mbufs, 0);
	stop();
}
END_TEST

/* ---- others beside it ----------------------------------------------------------------------- */

/* Another connection, from `port`; segments of it go by segment_from(). */
static uint32_t accept_from(uint16_t port)
{
	static struct rig_segment s;
	uint32_t ours;

	memset(&s, 0, sizeof(s));
	s.src_port = port;
	s.dst_port = RIG_PORT;
	s.seq = 999;
	s.flags = SYN;
	s.window = 65535;
	rig_send(&r, &s);
	ours = rig_expect(&r, SYN | ACK).seq + 1;
	s.seq = 1000;
	s.ack = ours;
	s.flags = ACK;
	rig_send(&r, &s);
	return ours;
}

static void segment_from(uint16_t port, uint32_t ours, uint32_t off, uint32_t len)
{
	static struct rig_segment s;

	memset(&s, 0, sizeof(s));
	s.src_port = port;
	s.dst_port = RIG_PORT;
	s.seq = 1000 + off;
	s.ack = ours;
	s.flags = ACK;
	s.window = 65535;
	s.len = len;
	rig_send(&r, &s);
}

/* Handshakes that began together do not end in more connections than there may be. */
START_TEST(test_connections_max_holds)
{
	static struct rig_segment s;
	uint32_t ours[4];

	rig_defaults(&r);
	r.config.tcp.connections_max = 2;
	rig_start(&r);
	s.dst_port = RIG_PORT;
	s.window = 65535;
	for (uint16_t i = 0; i < 4; i++) {
		s.src_port = (uint16_t)(5000 + i);
		s.seq = 999;
		s.flags = SYN;
		rig_send(&r, &s);
		ours[i] = rig_expect(&r, SYN | ACK).seq + 1;
	}
	for (uint16_t i = 0; i < 4; i++) {
		segment_from((uint16_t)(5000 + i), ours[i], 0, 0);
		ck_assert_uint_eq(net_gauges_of(r.stack).connections, i < 2 ? i + 1u : 2);
		if (i >= 2)
			rig_expect(&r, RST | ACK);
	}
	ck_assert_uint_eq(r.app.accepted, 2);
	ck_assert_uint_eq(COUNTER(tcp_drop_connections), 2);
	stop();
}
END_TEST

/* Who sends islands of a byte each leaves others room to lose a segment. */
START_TEST(test_out_of_order_room_is_shared)
{
	uint32_t greedy[2], honest, before;

	rig_defaults(&r);
	r.config.tcp.ooo_mbufs_max = 60;
	rig_start(&r);
	greedy[0] = accept_from(5000);
	greedy[1] = accept_from(5001);
	honest = accept_from(5002);
	for (uint32_t i = 1; i < 120; i += 2) {
		segment_from(5000, greedy[0], i, 1);
		frames_drop();
	}
	ck_assert_uint_eq(net_gauges_of(r.stack).ooo_mbufs, 30);
	for (uint32_t i = 1; i < 120; i += 2) {
		segment_from(5001, greedy[1], i, 1);
		frames_drop();
	}
	before = net_gauges_of(r.stack).ooo_mbufs;
	for (uint32_t i = 1; i < 6; i++) { /* what follows a lost segment */
		segment_from(5002, honest, i * 1000, 1000);
		frames_drop();
	}
	ck_assert_uint_eq(net_gauges_of(r.stack).ooo_mbufs, before + 5);
	segment_from(5002, honest, 0, 1000);
	ck_assert_uint_eq(r.app.bytes, 6000);
	stop();
}
END_TEST

/* A connection that fills a slow device's queue each time does not keep others from it. */
START_TEST(test_slow_device_is_shared)
{
	static const uint8_t syn_mss_64[] = {2, 4, 0, 64};
	static struct rig_segment s;
	struct tcp_conn *big;
	bool seen = false;

	rig_defaults(&r);
	r.config.tcp.initial_window = 400; /* that is 14600 bytes: RFC 6928 */
	rig_start(&r);
	rig_accept(&r, syn_mss_64, sizeof(syn_mss_64));
	big = r.app.conn;
	app_sends(20000);
	peer_acks(14592, 65535); /* doubles the congestion window: 456 segments */
	frames_drop();
	peer_acks(20000, 65535);
	frames_drop();
	accept_from(5000);
	r.device_room = 8;
	ck_assert_int_eq(tcp_send(big, rig_chain(&r, 40000, 1000)), 0);
	ck_assert_int_eq(tcp_send(r.app.conn, rig_chain(&r, 100, 1000)), 0);
	for (unsigned i = 0; i < 40; i++) {
		rig_flush(&r);
		while (rig_take_tcp(&r, &s))
			seen |= s.dst_port == 5000;
	}
	ck_assert(seen);
	stop();
}
END_TEST

/* Peers that take nothing fill their queues ever less; who takes what it gets has room, and hears
 * of it. */
START_TEST(test_send_queues_are_shared)
{
	static struct rig_segment s;
	struct tcp_conn *stalled[6];
	uint32_t seen, before = 0;

	rig_defaults(&r);
	r.config.tcp.send_buffer = 256 << 10;
	r.config.tcp.send_mbufs_max = 400;
	rig_start(&r);
	for (uint16_t i = 0; i < 6; i++) {
		uint32_t queued = 0;

		accept_from((uint16_t)(5000 + i));
		stalled[i] = r.app.conn;
		while (tcp_send_room(stalled[i]) >= 1000) {
			struct rte_mbuf *chain = rig_chain(&r, 1000, 1000);

			ck_assert_int_eq(tcp_send(stalled[i], chain), 0);
			queued += 1000;
		}
		if (i == 0)
			ck_assert_uint_gt(queued, 200000);
		else
			ck_assert_uint_le(queued, before);
		ck_assert_uint_ge(queued, 15000);
		before = queued;
		rig_flush(&r);
		frames_drop();
	}
	ck_assert_uint_lt(before, 50000);
	/* A newcomer's queue empties as it is acknowledged: each time it hears that there is room.
	 */
	seen = accept_from(6000);
	for (unsigned i = 0; i < 20; i++) {
		struct rte_mbuf *chain = rig_chain(&r, 16000, 1000);
		int result = tcp_send(r.app.conn, chain);

		ck_assert_msg(result == 0, "round %u: %s", i, error_name(result));
		tcp_want_writable(r.app.conn);
		r.app.writables = 0;
		for (unsigned k = 0; k < 40 && tcp_info(r.app.conn).queued > 0; k++) {
			rig_flush(&r);
			while (rig_take_tcp(&r, &s))
				if (s.dst_port == 6000 && s.len > 0)
					seen = s.seq + s.len;
			segment_from(6000, seen, 0, 0);
		}
		ck_assert_uint_eq(tcp_info(r.app.conn).queued, 0);
		ck_assert_uint_eq(r.app.writables, 1);
	}
	/* Once the others are gone it has all of its buffer again. */
	for (unsigned i = 0; i < 6; i++)
		tcp_abort(stalled[i]);
	ck_assert_uint_eq(tcp_send_room(r.app.conn), 256 << 10);
	stop();
}
END_TEST

/* ---- frames that wait for others ------------------------------------------------------------ */

#define HOLD_NS (30 * UINT64_C(1000))

/* One byte from `port`, `us` later; whether the answer left at once. */
static bool hold_ask(uint16_t port, uint32_t seq, uint32_t ack, unsigned us)
{
	static struct rig_segment s;

	memset(&s, 0, sizeof(s));
	s.src_port = port;
	s.dst_port = RIG_PORT;
	s.seq = seq;
	s.ack = ack;
	s.flags = ACK | PSH;
	s.window = 60000;
	s.len = 1;
	rig_wait(&r, us * UINT64_C(1000));
	rig_send(&r, &s);
	/* What a busy layer above does with a request. */
	ck_assert_int_eq(tcp_send(r.app.conn, rig_chain(&r, 1, 1)), 0);
	rig_flush(&r);
	return frames_drop() > 0;
}

START_TEST(test_frames_wait_for_others)
{
	uint64_t begin_ns;
	unsigned waited = 0;

	struct tcp_conn *first;

	start();
	first = r.app.conn;
	r.stack->config.tx_hold_ns = HOLD_NS;
	/* The only connection: nobody else can ask meanwhile, so nothing waits. */
	for (uint32_t i = 0; i < 50; i++)
		ck_assert(hold_ask(RIG_PEER_PORT, r.peer_seq + i, r.peer_ack + i, 5));
	r.stack->config.tx_hold_ns = 0;
	for (uint16_t port = 7000; port < 7004; port++)
		accept_from(port);
	r.app.conn = first;
	r.stack->config.tx_hold_ns = HOLD_NS;
	/* With others, and requests 5 us apart, an answer waits, but not past the bound. */
	for (uint32_t i = 50; i < 100; i++) {
		if (hold_ask(RIG_PEER_PORT, r.peer_seq + i, r.peer_ack + 50, 5))
			continue;
		waited++;
		ck_assert(net_flush_pending(r.stack));
	}
	ck_assert_uint_gt(waited, 25);
	ck_assert_uint_gt(COUNTER(tx_holds), 0);
	begin_ns = r.now_ns;
	while (net_flush_pending(r.stack)) {
		rig_wait(&r, 1000);
		rig_flush(&r);
	}
	ck_assert_uint_le(r.now_ns - begin_ns, HOLD_NS + 1000);
	frames_drop();
	/* Requests that come seldom wait for nothing. */
	waited = 0;
	for (uint32_t i = 100; i < 150; i++)
		waited += hold_ask(RIG_PEER_PORT, r.peer_seq + i, r.peer_ack + 100, 100) ? 0 : 1;
	ck_assert_uint_lt(waited, 10); /* until the mean has grown */
	stop();
}
END_TEST

/* ---- what a peer may make us remember ------------------------------------------------------- */

/* One byte in two sacked: a record for each piece would be thousands, looked at with each ACK. */
START_TEST(test_sliced_flight_is_bounded)
{
	static const uint8_t syn_sack[] = {2, 4, 0x03, 0xe8, 4, 2, 1, 1};
	static struct rig_segment s;
	struct tcp_conn *c;
	uint32_t most = 0;

	rig_defaults(&r);
	rig_start(&r);
	rig_accept(&r, syn_sack, sizeof(syn_sack));
	c = r.app.conn;
	app_sends(10000);
	ck_assert_uint_eq(frames_drop(), 10);
	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = r.peer_seq;
	s.ack = r.peer_ack;
	s.flags = ACK;
	s.window = 65535;
	s.options_len = 12 + 16;
	s.options[0] = s.options[1] = 1;
	s.options[2] = 5;
	s.options[3] = 2 + 24;
	for (uint32_t at = 1; at + 6 < 10000; at += 6) {
		for (uint32_t i = 0; i < 3; i++) {
			be32_store(s.options + 4 + 8 * i, r.peer_ack + at + 2 * i);
			be32_store(s.options + 8 + 8 * i, r.peer_ack + at + 2 * i + 1);
		}
		rig_send(&r, &s);
		frames_drop();
		if (c->flight != NULL && c->flight->sent_n > most)
			most = c->flight->sent_n;
	}
	ck_assert_uint_gt(most, 500);
	ck_assert_uint_le(most, 1026);
	/* All of it but the first bytes, in one block: one record for them and one for the rest. */
	s.options[3] = 2 + 8;
	s.options_len = 12;
	be32_store(s.options + 4, r.peer_ack + 1000);
	be32_store(s.options + 8, r.peer_ack + 10000);
	rig_send(&r, &s);
	for (struct list *node = c->flight->sent.next; node != &c->flight->sent;
	     node = node->next) {
		const struct tcp_sent *sent = list_entry(node, struct tcp_sent, link);

		ck_assert(seq_lt(sent->start, r.peer_ack + 1000) || node->next == &c->flight->sent);
	}
	frames_drop();
	peer_acks(10000, 65535);
	ck_assert_ptr_null(c->flight);
	ck_assert_uint_eq(pool_in_use(&r.stack->sent_pool), 0);
	stop();
}
END_TEST

/* Hundreds of bursts under way: the later ones share records, so that a loss finds room for cuts.
 */
START_TEST(test_many_bursts_leave_room_for_cuts)
{
	static const uint8_t syn_sack[] = {2, 4, 0x03, 0xe8, 4, 2, 1, 1};
	struct tcp_conn *c;

	rig_defaults(&r);
	rig_start(&r);
	rig_accept(&r, syn_sack, sizeof(syn_sack));
	c = r.app.conn;
	c->cwnd = 1 << 20;
	for (unsigned i = 0; i < 650; i++) {
		app_sends(100);
		ck_assert_uint_eq(frames_drop(), 1);
		r.now_ns += 1000;
	}
	ck_assert_uint_gt(c->flight->sent_n, 512);
	ck_assert_uint_lt(c->flight->sent_n, 600);
	peer_acks(65000, 65535);
	ck_assert_ptr_null(c->flight);
	stop();
}
END_TEST

/* What only wants pacing leaves the last flights to those that repair, and goes at once. */
START_TEST(test_repairs_come_before_pacing)
{
	static const uint8_t syn_sack[] = {2, 4, 0x03, 0xe8, 4, 2, 1, 1};
	struct tcp_flight *taken[8];
	struct tcp_conn *c;

	for (unsigned left = 3; left >= 2; left--) {
		rig_defaults(&r);
		r.config.tcp.flights_max = 8;
		r.config.tcp.pacing_rtt_min_ns = 5 * RIG_MS;
		rig_start(&r);
		rig_accept(&r, syn_sack, sizeof(syn_sack));
		c = r.app.conn;
		c->srtt_ticks = c->min_rtt_ticks = tcp_ticks(20 * RIG_MS);
		c->cwnd = 40000;
		for (unsigned i = left; i < 8; i++)
			taken[i] = pool_get(&r.stack->flight_pool);
		app_sends(30000);
		ck_assert_uint_eq(frames_drop(), left == 3 ? 10 : 30);
		ck_assert_uint_eq(c->flight != NULL, left == 3);
		ck_assert_uint_eq(COUNTER(tcp_flights_blind), 0);
		for (unsigned i = left; i < 8; i++)
			pool_put(&r.stack->flight_pool, taken[i]);
		stop();
		memset(&r.app, 0, sizeof(r.app));
	}
}
END_TEST

/* RFC 9438 s4.8: after a timeout the curve begins where congestion avoidance does. */
START_TEST(test_cubic_forgets_at_a_timeout)
{
	struct tcp_conn *c;

	rig_defaults(&r);
	r.config.tcp.congestion = TCP_CONGESTION_CUBIC;
	rig_start(&r);
	rig_accept(&r, syn_mss_1000, sizeof(syn_mss_1000));
	c = r.app.conn;
	c->cwnd = 100000;
	app_sends(50000);
	ck_assert_uint_eq(frames_drop(), 50);
	rig_wait(&r, 250 * RIG_MS);
	frames_drop();
	ck_assert_uint_eq(c->ssthresh, 35000);
	peer_acks(49000, 65535);
	ck_assert_uint_eq(c->cwnd, 35000);
	c->flags |= TCPF_CWND_LIMITED;
	tcp_cc(c)->acked(c, 1000, r.now_ns);
	ck_assert_uint_eq(c->cubic.k_us, 0);
	ck_assert_uint_eq(c->cubic.w_max, 35000);
	stop();
}
END_TEST

/* RFC 6864 s4.1, RFC 7739: what may not be fragmented has no number; else each pair of ends counts
 * for itself. */
START_TEST(test_ip_identifiers_tell_nothing)
{
	uint8_t frame[200], echo[16] = {8};
	uint16_t sum = cksum_fold(cksum_add(0, echo, sizeof(echo)));
	uint16_t last = 0;

	start();
	say(ACK, r.peer_seq + 100000, r.peer_ack, 1000); /* answered by an ACK */
	ck_assert_uint_gt(rig_take(&r, frame, sizeof(frame)), 0);
	ck_assert_uint_eq(be16_load(frame + 18), 0);
	ck_assert_uint_eq(be16_load(frame + 20), IP4_DONT_FRAGMENT);
	tcp_abort(r.app.conn);
	r.app.conn = NULL;
	rig_flush(&r);
	ck_assert_uint_gt(rig_take(&r, frame, sizeof(frame)), 0); /* RST */
	ck_assert_uint_eq(be16_load(frame + 18), 0);
	ck_assert_uint_eq(be16_load(frame + 20), IP4_DONT_FRAGMENT);
	say(ACK, 1, 1, 1); /* of no connection: RST */
	ck_assert_uint_gt(rig_take(&r, frame, sizeof(frame)), 0);
	ck_assert_uint_eq(be16_load(frame + 18), 0);
	memcpy(echo + 2, &sum, 2);
	for (unsigned i = 0; i < 3; i++) {
		uint8_t f[200];

		rig_input(&r, f, rig_build_ip(f, IP_PROTO_ICMP, echo, sizeof(echo)));
		ck_assert_uint_gt(rig_take(&r, frame, sizeof(frame)), 0);
		ck_assert_uint_eq(be16_load(frame + 20), 0);
		if (i > 0)
			ck_assert_uint_eq(be16_load(frame + 18), (uint16_t)(last + 1));
		last = be16_load(frame + 18);
	}
	stop();
}
END_TEST

RIG_MAIN("tcp_corner", test_closed_window_old_data_is_acked, test_small_window_is_used,
	 test_user_timeout_after_closed_window, test_old_ack_moves_no_window,
	 test_simultaneous_open_window, test_old_acks_are_answered_in_measure,
	 test_syn_without_timestamps_is_challenged, test_backoff_stays_until_a_sample,
	 test_rto_after_a_lost_syn, test_timestamps_after_24_days,
	 test_time_wait_reused_within_a_tick, test_nothing_follows_fin, test_connections_max_holds,
	 test_out_of_order_room_is_shared, test_slow_device_is_shared, test_send_queues_are_shared,
	 test_frames_wait_for_others, test_sliced_flight_is_bounded,
	 test_many_bursts_leave_room_for_cuts, test_repairs_come_before_pacing,
	 test_cubic_forgets_at_a_timeout, test_ip_identifiers_tell_nothing)
