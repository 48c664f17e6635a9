/* The state machine against a scripted peer: opening, closing, resets, attacks on them.
 * RFC 9293 s3.5, s3.6, s3.10; RFC 5961; RFC 6191; RFC 6528. */
#include "tests/net/rig.h"

#include <string.h>

static struct rig r;

#define COUNTER(name) (net_counters_of(r.stack)->name)
#define ACK           TCP_ACK
#define FIN           TCP_FIN
#define RST           TCP_RST
#define SYN           TCP_SYN
#define PSH           TCP_PSH

static void start(void)
{
	rig_defaults(&r);
	rig_start(&r);
}

static void stop(void)
{
	ck_assert_uint_eq(net_gauges_of(r.stack).connections, 0);
	rig_stop(&r);
}

static void assert_state(enum tcp_state state)
{
	ck_assert_str_eq(tcp_state_name(tcp_info(r.app.conn).state), tcp_state_name(state));
}

static void say(uint8_t flags, uint32_t seq, uint32_t ack)
{
	static struct rig_segment s;

	memset(&s, 0, sizeof(s));
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = seq;
	s.ack = ack;
	s.flags = flags;
	s.window = 65535;
	rig_send(&r, &s);
}

/* ---- opening -------------------------------------------------------------------------------- */

START_TEST(test_passive_open_and_close)
{
	struct rig_segment s;

	start();
	rig_accept(&r, NULL, 0);
	rig_silent(&r);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	/* They close first. */
	rig_segment(&r, FIN | ACK, 0, NULL, 0);
	s = rig_expect(&r, ACK);
	ck_assert_uint_eq(s.ack, r.peer_seq + 1);
	ck_assert_uint_eq(r.app.eofs, 1);
	assert_state(TCP_CLOSE_WAIT);
	tcp_shutdown(r.app.conn);
	rig_flush(&r);
	s = rig_expect(&r, FIN | ACK);
	ck_assert_uint_eq(s.seq, r.peer_ack);
	assert_state(TCP_LAST_ACK);
	say(ACK, r.peer_seq + 1, r.peer_ack + 1);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_close_first_and_time_wait)
{
	start();
	rig_accept(&r, NULL, 0);
	tcp_shutdown(r.app.conn);
	tcp_shutdown(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, FIN | ACK);
	assert_state(TCP_FIN_WAIT_1);
	say(ACK, r.peer_seq, r.peer_ack + 1);
	assert_state(TCP_FIN_WAIT_2);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	/* Half closed: their data still comes. */
	r.peer_ack++;
	rig_segment(&r, ACK | PSH, 0, "hello", 5);
	ck_assert_uint_eq(r.app.bytes, 5);
	rig_wait(&r, 50 * RIG_MS);
	rig_expect(&r, ACK);
	say(FIN | ACK, r.peer_seq + 5, r.peer_ack);
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq + 6);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 1);
	/* Their FIN again: acked again. An ACK: silence. An RST does not cut it short (RFC 1337).
	 */
	say(FIN | ACK, r.peer_seq + 5, r.peer_ack);
	rig_expect(&r, ACK);
	say(ACK, r.peer_seq + 6, r.peer_ack);
	say(RST, r.peer_seq + 6, 0);
	rig_silent(&r);
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 1);
	rig_wait(&r, 61 * RIG_S);
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_simultaneous_close)
{
	start();
	rig_accept(&r, NULL, 0);
	tcp_shutdown(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, FIN | ACK);
	say(FIN | ACK, r.peer_seq, r.peer_ack); /* theirs crossed ours */
	assert_state(TCP_CLOSING);
	rig_expect(&r, ACK);
	say(ACK, r.peer_seq + 1, r.peer_ack + 1);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 1);
	stop();
}
END_TEST

START_TEST(test_fin_with_ack_of_ours)
{
	start();
	rig_accept(&r, NULL, 0);
	tcp_shutdown(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, FIN | ACK);
	say(FIN | ACK, r.peer_seq, r.peer_ack + 1);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 1);
	rig_expect(&r, ACK);
	stop();
}
END_TEST

static struct rig_segment client_connect(void)
{
	struct net_addr local = rig_local(RIG_PORT), remote = rig_remote(RIG_PEER_PORT);
	struct tcp_conn *c;

	tcp_listener_close(r.listener);
	ck_assert_int_eq(tcp_connect(r.stack, &local, &remote, &rig_events, &r.app, &c), 0);
	r.app.conn = c;
	rig_flush(&r);
	return rig_expect(&r, SYN);
}

START_TEST(test_active_open)
{
	struct rig_segment s;

	start();
	s = client_connect();
	ck_assert(s.opt.has_mss && s.opt.mss == 1460);
	ck_assert(s.opt.has_timestamp && s.opt.has_wscale && s.opt.sack_permitted);
	say(SYN | ACK, 7000, s.seq + 1);
	ck_assert_uint_eq(r.app.connected, 1);
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, 7001);
	assert_state(TCP_ESTABLISHED);
	ck_assert(!tcp_info(r.app.conn).timestamps);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, RST | ACK);
	ck_assert_uint_eq(r.app.closeds, 0); /* no event after an abort */
	stop();
}
END_TEST

START_TEST(test_active_open_refused)
{
	struct rig_segment s;

	start();
	s = client_connect();
	say(SYN | ACK, 7000, s.seq + 9); /* acks what was not sent */
	ck_assert_uint_eq(rig_expect(&r, RST).seq, s.seq + 9);
	say(RST, 0, 0); /* without ACK: anyone could send it */
	say(RST | ACK, 0, s.seq + 9);
	rig_silent(&r);
	assert_state(TCP_SYN_SENT);
	say(RST | ACK, 0, s.seq + 1);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_REFUSED);
	stop();
}
END_TEST

START_TEST(test_active_open_retries)
{
	uint64_t began;
	unsigned syns = 1;
	struct rig_segment s;

	start();
	client_connect();
	began = r.now_ns;
	while (r.app.closeds == 0) {
		rig_wait(&r, 10 * RIG_MS);
		while (rig_take_tcp(&r, &s))
			syns++;
		ck_assert_uint_lt(r.now_ns - began, 100 * RIG_S);
	}
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_TIMEOUT);
	ck_assert_uint_eq(r.now_ns - began >= 29 * RIG_S, true); /* half_open_ns */
	ck_assert_uint_eq(syns, 5);                              /* at 0, 1, 3, 7, 15 s */
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_connect_timeout)
{
	struct rig_segment s;

	start();
	client_connect();
	rig_wait(&r, 1 * RIG_S);
	tcp_set_connect_timeout(r.app.conn, 3 * RIG_S); /* from now */
	rig_wait(&r, 2990 * RIG_MS);
	ck_assert_uint_eq(r.app.closeds, 0);
	rig_wait(&r, 20 * RIG_MS);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_TIMEOUT);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	while (rig_take_tcp(&r, &s))
		;
	stop();
}
END_TEST

/* One of four workers: the answers come here if the port's number says so. */
static bool reached_here(void *ctx, const struct net_addr *local, const struct net_addr *remote)
{
	(void)ctx;
	return net_steer_hash(local, remote) % 4 == 3;
}

START_TEST(test_ports_bring_the_answers_here)
{
	static struct rig_segment answer, s;
	struct net_addr remote = rig_remote(90);
	struct tcp_conn *conns[16];
	uint8_t frame[200];
	uint32_t hash;

	rig_defaults(&r);
	r.config.tcp.connections_max = 32;
	r.reached = reached_here;
	rig_start(&r);
	for (unsigned i = 0; i < 16; i++) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(r.pool);
		size_t len;

		ck_assert_int_eq(tcp_connect(r.stack, NULL, &remote, &rig_events, &r, &conns[i]),
				 0);
		rig_flush(&r);
		s = rig_expect(&r, SYN);
		answer.src_port = s.dst_port;
		answer.dst_port = s.src_port;
		answer.flags = SYN | ACK;
		len = rig_build_tcp(frame, &answer);
		memcpy(rte_pktmbuf_append(m, (uint16_t)len), frame, len);
		ck_assert_int_eq(net_steer(m, &hash), NET_STEER_FLOW);
		ck_assert_uint_eq(hash % 4, 3);
		rte_pktmbuf_free(m);
	}
	for (unsigned i = 0; i < 16; i++)
		tcp_abort(conns[i]);
	rig_flush(&r);
	stop();
}
END_TEST

START_TEST(test_simultaneous_open)
{
	struct rig_segment s, t;

	start();
	s = client_connect();
	say(SYN, 7000, 0); /* theirs crossed ours */
	assert_state(TCP_SYN_RECEIVED);
	t = rig_expect(&r, SYN | ACK);
	ck_assert_uint_eq(t.seq, s.seq);
	ck_assert_uint_eq(t.ack, 7001);
	say(SYN | ACK, 7000, s.seq + 1);
	assert_state(TCP_ESTABLISHED);
	ck_assert_uint_eq(r.app.connected, 1);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	stop();
}
END_TEST

START_TEST(test_icmp_refuses_only_syn)
{
	uint8_t l4[200] = {3, 3}, f[200];
	struct rig_segment s;
	uint16_t sum;

	start();
	s = client_connect();
	l4[8] = IP4_VERSION_IHL;
	l4[8 + 9] = IP_PROTO_TCP;
	memcpy(l4 + 8 + 12, (uint8_t[]){198, 18, 0, 2, 198, 18, 0, 9}, 8);
	be16_store(l4 + 28, RIG_PORT);
	be16_store(l4 + 30, RIG_PEER_PORT);
	be32_store(l4 + 32, s.seq + 5); /* not the SYN's number */
	sum = 0;
	for (int round = 0; round < 2; round++) {
		uint32_t add = 0;

		memset(l4 + 2, 0, 2);
		for (int i = 0; i < 36; i += 2)
			add += be16_load(l4 + i);
		add = (add & 0xffff) + (add >> 16);
		sum = (uint16_t) ~((add & 0xffff) + (add >> 16));
		be16_store(l4 + 2, sum);
		rig_input(&r, f, rig_build_ip(f, IP_PROTO_ICMP, l4, 36));
		ck_assert_uint_eq(r.app.closeds, (unsigned)round);
		be32_store(l4 + 32, s.seq);
	}
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_REFUSED);
	stop();
}
END_TEST

START_TEST(test_closed_port)
{
	static struct rig_segment s;
	struct rig_segment got;

	start();
	s.src_port = 4001;
	s.dst_port = 81;
	s.seq = 50;
	s.flags = SYN;
	rig_send(&r, &s);
	got = rig_expect(&r, RST | ACK);
	ck_assert_uint_eq(got.ack, 51);
	ck_assert_uint_eq(got.seq, 0);
	s.flags = ACK;
	s.ack = 999;
	rig_send(&r, &s);
	ck_assert_uint_eq(rig_expect(&r, RST).seq, 999);
	s.flags = RST;
	rig_send(&r, &s);
	s.flags = RST | ACK;
	rig_send(&r, &s);
	rig_silent(&r);
	stop();
}
END_TEST

START_TEST(test_half_open_times_out)
{
	struct rig_segment s;
	unsigned n = 0;

	start();
	say(SYN, 1000, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).half_open, 1);
	rig_wait(&r, 31 * RIG_S);
	while (rig_take_tcp(&r, &s)) {
		ck_assert_uint_eq(s.flags, SYN | ACK);
		n++;
	}
	ck_assert_uint_eq(n, 5);
	ck_assert_uint_eq(net_gauges_of(r.stack).half_open, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	ck_assert_uint_eq(r.app.accepted + r.app.closeds, 0);
	stop();
}
END_TEST

START_TEST(test_backlog_gives_way)
{
	static struct rig_segment s, got;
	uint32_t last_ack = 0;

	rig_defaults(&r);
	r.config.tcp.syn_cookies = false;
	rig_start(&r);
	s.dst_port = RIG_PORT;
	s.flags = SYN;
	s.window = 1000;
	for (uint16_t i = 0; i < 500; i++) { /* a flood */
		s.src_port = (uint16_t)(10000 + i);
		s.seq = i;
		rig_send(&r, &s);
		while (rig_take_tcp(&r, &got))
			last_ack = got.seq;
		ck_assert_uint_le(net_gauges_of(r.stack).half_open, 16);
	}
	ck_assert_uint_eq(COUNTER(tcp_backlog_evictions), 484);
	/* The newest still gets in. */
	s.flags = ACK;
	s.seq = 500;
	s.ack = last_ack + 1;
	rig_send(&r, &s);
	ck_assert_uint_eq(r.app.accepted, 1);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	stop();
}
END_TEST

START_TEST(test_syn_ack_again_and_bad_ack)
{
	struct rig_segment s;

	start();
	say(SYN, 1000, 0);
	s = rig_expect(&r, SYN | ACK);
	say(SYN, 1000, 0); /* ours was lost */
	ck_assert_uint_eq(rig_expect(&r, SYN | ACK).seq, s.seq);
	say(ACK, 1001, s.seq + 2); /* RFC 9293 s3.10.7.4: reset, and nothing changes */
	ck_assert_uint_eq(rig_expect(&r, RST).seq, s.seq + 2);
	say(SYN, 3000, 0); /* another SYN for the same ports: challenged */
	ck_assert_uint_eq(r.app.accepted, 0);
	say(RST, 1001, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).half_open, 0);
	ck_assert_uint_eq(r.app.closeds, 0);
	while (rig_take_tcp(&r, &s))
		;
	stop();
}
END_TEST

START_TEST(test_accept_refuses)
{
	start();
	r.app.refuse = true;
	rig_accept(&r, NULL, 0);
	rig_expect(&r, RST | ACK);
	ck_assert_uint_eq(COUNTER(tcp_accept_refused), 1);
	stop();
}
END_TEST

START_TEST(test_connections_max)
{
	static struct rig_segment s, got;

	rig_defaults(&r);
	r.config.tcp.connections_max = 2;
	rig_start(&r);
	s.dst_port = RIG_PORT;
	s.window = 1000;
	for (uint16_t i = 0; i < 4; i++) {
		s.src_port = (uint16_t)(10000 + i);
		s.flags = SYN;
		s.seq = 7;
		rig_send(&r, &s);
		if (!rig_take_tcp(&r, &got))
			continue;
		s.flags = ACK;
		s.seq = 8;
		s.ack = got.seq + 1;
		rig_send(&r, &s);
	}
	ck_assert_uint_eq(r.app.accepted, 2);
	ck_assert_uint_eq(COUNTER(tcp_drop_connections), 2);
	rig_stop(&r);
}
END_TEST

/* A SYN of the peer's port `port`; whether it was answered. */
static bool syn_answered(uint16_t port, uint32_t *iss_out)
{
	static struct rig_segment s, got;

	s.dst_port = RIG_PORT;
	s.window = 1000;
	s.src_port = port;
	s.flags = SYN;
	s.seq = 7;
	s.ack = 0;
	rig_send(&r, &s);
	if (!rig_take_tcp(&r, &got))
		return false;
	*iss_out = got.seq;
	return true;
}

static void syn_completed(uint16_t port, uint32_t iss)
{
	static struct rig_segment s;

	s.dst_port = RIG_PORT;
	s.window = 1000;
	s.src_port = port;
	s.flags = ACK;
	s.seq = 8;
	s.ack = iss + 1;
	rig_send(&r, &s);
}

START_TEST(test_listener_limits)
{
	static struct listener_counters counters;
	uint32_t iss[3];

	rig_defaults(&r);
	r.config.tcp.syn_cookies = false;
	rig_start(&r);
	tcp_listener_limit(r.listener, 1, 2, &counters);
	ck_assert(syn_answered(10000, &iss[0]));
	ck_assert_uint_eq(counter_get(&counters.half_open), 1);
	ck_assert(!syn_answered(10001, &iss[1])); /* one handshake at a time */
	ck_assert_uint_eq(counter_get(&counters.dropped), 1);
	syn_completed(10000, iss[0]);
	ck_assert_uint_eq(counter_get(&counters.half_open), 0);
	ck_assert(syn_answered(10001, &iss[1]));
	syn_completed(10001, iss[1]);
	ck_assert_uint_eq(counter_get(&counters.connections), 2);
	ck_assert_uint_eq(counter_get(&counters.accepted), 2);
	ck_assert(!syn_answered(10002, &iss[2])); /* and two connections */
	ck_assert_uint_eq(counter_get(&counters.dropped), 2);
	ck_assert_uint_eq(COUNTER(tcp_drop_listener), 2);
	tcp_abort(r.app.conn); /* room again */
	rig_flush(&r);
	rig_expect(&r, RST | ACK);
	ck_assert_uint_eq(counter_get(&counters.connections), 1);
	ck_assert(syn_answered(10002, &iss[2]));
	rig_stop(&r);
}
END_TEST

START_TEST(test_listener_close)
{
	start();
	say(SYN, 1000, 0);
	rig_expect(&r, SYN | ACK);
	tcp_listener_close(r.listener);
	rig_flush(&r);
	rig_expect(&r, RST | ACK);
	ck_assert_uint_eq(net_gauges_of(r.stack).half_open, 0);
	say(SYN, 2000, 0);
	rig_expect(&r, RST | ACK);
	stop();
}
END_TEST

START_TEST(test_isn)
{
	struct rig_segment a, b;
	static struct rig_segment s;

	start();
	s.dst_port = RIG_PORT;
	s.flags = SYN;
	s.src_port = 5000;
	rig_send(&r, &s);
	a = rig_expect(&r, SYN | ACK);
	s.src_port = 5001;
	rig_send(&r, &s);
	b = rig_expect(&r, SYN | ACK);
	ck_assert_uint_ne(a.seq, b.seq);
	/* The same ports later: grows with the clock, 250,000 a second. */
	s.src_port = 5000;
	s.flags = RST;
	s.seq = 1;
	rig_send(&r, &s);
	ck_assert_uint_eq(net_gauges_of(r.stack).half_open, 1);
	rig_wait(&r, 100 * RIG_MS);
	s.flags = SYN;
	s.seq = 0;
	rig_send(&r, &s);
	b = rig_expect(&r, SYN | ACK);
	ck_assert_uint_ge(b.seq - a.seq, 25000);
	ck_assert_uint_le(b.seq - a.seq, 25100);
	rig_stop(&r);
}
END_TEST

/* ---- resets and forged segments ------------------------------------------------------------- */

START_TEST(test_reset_exact)
{
	start();
	rig_accept(&r, NULL, 0);
	say(RST, r.peer_seq + 70000, 0); /* outside */
	rig_silent(&r);
	say(RST, r.peer_seq + 1, 0); /* inside, not exact: RFC 5961 s3.2 */
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq);
	say(RST, r.peer_seq + 2, 0); /* challenges are limited */
	rig_silent(&r);
	ck_assert_uint_eq(r.app.closeds, 0);
	say(RST, r.peer_seq, 0);
	ck_assert_uint_eq(r.app.closeds, 1);
	ck_assert_int_eq(r.app.reason, -SPLIT_E_NET_RESET);
	rig_silent(&r);
	stop();
}
END_TEST

START_TEST(test_syn_in_connection)
{
	start();
	rig_accept(&r, NULL, 0);
	say(SYN, r.peer_seq, 0); /* RFC 5961 s4.2 */
	rig_expect(&r, ACK);
	assert_state(TCP_ESTABLISHED);
	ck_assert_uint_eq(COUNTER(tcp_challenge_acks), 1);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	stop();
}
END_TEST

START_TEST(test_ack_out_of_range)
{
	start();
	rig_accept(&r, NULL, 0);
	say(ACK, r.peer_seq, r.peer_ack + 1);
	rig_expect(&r, ACK);
	rig_wait(&r, RIG_S);
	say(ACK, r.peer_seq, r.peer_ack - 70000); /* older than any window: RFC 5961 s5.2 */
	rig_expect(&r, ACK);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_ack), 2);
	say(ACK, r.peer_seq, r.peer_ack - 1); /* merely old */
	rig_silent(&r);
	assert_state(TCP_ESTABLISHED);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	stop();
}
END_TEST

START_TEST(test_no_ack_flag_and_odd_flags)
{
	struct rig_segment s;

	start();
	rig_accept(&r, NULL, 0);
	say(0, r.peer_seq, 0);
	say(FIN, r.peer_seq, 0);
	say(PSH, r.peer_seq, 0);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_flags), 3);
	assert_state(TCP_ESTABLISHED);
	/* All 256 combinations outside the window change nothing but may be answered. */
	for (unsigned flags = 0; flags < 256; flags++)
		say((uint8_t)flags, r.peer_seq + 1000000, r.peer_ack);
	while (rig_take_tcp(&r, &s))
		ck_assert_uint_eq(s.flags, ACK);
	assert_state(TCP_ESTABLISHED);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	stop();
}
END_TEST

START_TEST(test_malformed_headers)
{
	static struct rig_segment s;
	uint8_t f[200];
	size_t len;

	start();
	rig_accept(&r, NULL, 0);
	s.src_port = RIG_PEER_PORT;
	s.dst_port = RIG_PORT;
	s.seq = r.peer_seq;
	s.ack = r.peer_ack;
	s.flags = ACK;
	s.options_len = 4;
	memcpy(s.options, (uint8_t[]){8, 0, 1, 1}, 4); /* the length that never ends */
	rig_send(&r, &s);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_options), 1);
	s.options_len = 0;
	len = rig_build_tcp(f, &s);
	f[46] = 0xf0; /* header past the end */
	f[50] = f[51] = 0;
	rig_input(&r, f, len);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_checksum), 1);
	s.src_port = 0;
	rig_send(&r, &s);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_header), 1);
	assert_state(TCP_ESTABLISHED);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	stop();
}
END_TEST

/* ---- closing, odd ways ---------------------------------------------------------------------- */

START_TEST(test_close_with_unread_resets)
{
	start();
	rig_accept(&r, NULL, 0);
	r.app.keep_unread = true;
	rig_segment(&r, ACK | PSH, 0, "unread", 6);
	tcp_close(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, RST | ACK);
	stop();
}
END_TEST

START_TEST(test_data_for_orphan_resets)
{
	start();
	rig_accept(&r, NULL, 0);
	tcp_close(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, FIN | ACK);
	rig_segment(&r, ACK | PSH, 0, "late", 4);
	rig_expect(&r, RST | ACK);
	ck_assert_uint_eq(COUNTER(rx_drop_tcp_closed_data), 1);
	ck_assert_uint_eq(r.app.closeds, 0);
	stop();
}
END_TEST

START_TEST(test_orphan_in_fin_wait_2)
{
	start();
	rig_accept(&r, NULL, 0);
	tcp_close(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, FIN | ACK);
	say(ACK, r.peer_seq, r.peer_ack + 1);
	ck_assert_uint_eq(net_gauges_of(r.stack).connections, 1);
	rig_wait(&r, 31 * RIG_S);
	ck_assert_uint_eq(net_gauges_of(r.stack).connections, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_orphan_never_acked)
{
	struct rig_segment s;

	start();
	rig_accept(&r, NULL, 0);
	tcp_close(r.app.conn);
	rig_wait(&r, 70 * RIG_S);
	ck_assert_uint_eq(net_gauges_of(r.stack).connections, 0);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	ck_assert_uint_eq(r.app.closeds, 0);
	while (rig_take_tcp(&r, &s))
		;
	ck_assert_uint_eq(s.flags, RST | ACK);
	stop();
}
END_TEST

START_TEST(test_time_wait_reused_by_syn)
{
	struct rig_segment s;
	uint32_t old_end;

	start();
	rig_accept(&r, NULL, 0);
	tcp_shutdown(r.app.conn);
	rig_flush(&r);
	rig_expect(&r, FIN | ACK);
	old_end = r.peer_ack + 1;
	say(FIN | ACK, r.peer_seq, old_end);
	rig_expect(&r, ACK);
	say(SYN, r.peer_seq - 100, 0); /* old: RFC 6191 */
	ck_assert_uint_eq(rig_expect(&r, ACK).ack, r.peer_seq + 1);
	ck_assert_uint_eq(net_gauges_of(r.stack).half_open, 0);
	say(SYN, r.peer_seq + 100, 0);
	s = rig_expect(&r, SYN | ACK);
	ck_assert(seq_gt(s.seq, old_end));
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 0);
	ck_assert_uint_eq(COUNTER(tcp_time_wait_reused), 1);
	rig_stop(&r);
}
END_TEST

START_TEST(test_time_wait_is_bounded)
{
	static struct rig_segment s;

	rig_defaults(&r);
	r.config.tcp.time_wait_max = 4;
	rig_start(&r);
	for (uint16_t i = 0; i < 10; i++) {
		struct rig_segment got;

		s.src_port = (uint16_t)(6000 + i);
		s.dst_port = RIG_PORT;
		s.window = 1000;
		s.flags = SYN;
		s.seq = 0;
		rig_send(&r, &s);
		got = rig_expect(&r, SYN | ACK);
		s.flags = ACK;
		s.seq = 1;
		s.ack = got.seq + 1;
		rig_send(&r, &s);
		tcp_shutdown(r.app.conn);
		rig_flush(&r);
		rig_expect(&r, FIN | ACK);
		s.flags = FIN | ACK;
		s.ack++;
		rig_send(&r, &s);
		rig_expect(&r, ACK);
	}
	ck_assert_uint_eq(net_gauges_of(r.stack).time_wait, 4);
	ck_assert_uint_eq(COUNTER(tcp_time_wait_evictions), 6);
	rig_wait(&r, 61 * RIG_S);
	ck_assert_uint_eq(net_gauges_of(r.stack).timers, 0);
	stop();
}
END_TEST

START_TEST(test_abort_in_callback)
{
	start();
	rig_accept(&r, NULL, 0);
	r.app.abort_on_data = true;
	rig_segment(&r, ACK | PSH | FIN, 0, "bang", 4);
	rig_expect(&r, RST | ACK);
	ck_assert_uint_eq(r.app.eofs + r.app.closeds, 0);
	rig_silent(&r);
	stop();
}
END_TEST

START_TEST(test_fin_out_of_order)
{
	start();
	rig_accept(&r, NULL, 0);
	rig_segment(&r, ACK | FIN, 3, "def", 3);
	ck_assert_uint_eq(r.app.eofs, 0);
	rig_segment(&r, ACK, 0, "abc", 3);
	ck_assert_uint_eq(r.app.bytes, 6);
	ck_assert_mem_eq(r.app.data, "abcdef", 6);
	ck_assert_uint_eq(r.app.eofs, 1);
	assert_state(TCP_CLOSE_WAIT);
	tcp_abort(r.app.conn);
	rig_flush(&r);
	stop();
}
END_TEST

START_TEST(test_connect_errors)
{
	struct net_addr local = rig_local(777), remote = rig_remote(99), zero = rig_remote(0);
	struct net_addr any = {.family = NET_FAMILY_IPV4, .port = RIG_PORT};
	struct tcp_listener *l;
	struct tcp_conn *c, *d;

	start();
	ck_assert_int_eq(tcp_connect(r.stack, &local, &remote, &rig_events, &r.app, &c), 0);
	ck_assert_int_eq(tcp_connect(r.stack, &local, &remote, &rig_events, &r.app, &d),
			 -SPLIT_E_NET_IN_USE);
	ck_assert_int_eq(tcp_connect(r.stack, NULL, &zero, &rig_events, &r.app, &d),
			 -SPLIT_E_BASE_INVALID);
	local.bytes[3] = 77;
	ck_assert_int_eq(tcp_connect(r.stack, &local, &remote, &rig_events, &r.app, &d),
			 -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(tcp_listen(r.stack, &any, &rig_events, NULL, &l), -SPLIT_E_NET_IN_USE);
	any.port = 0;
	ck_assert_int_eq(tcp_listen(r.stack, &any, &rig_events, NULL, &l), -SPLIT_E_BASE_INVALID);
	tcp_close(c);
	ck_assert_uint_eq(r.app.closeds, 0);
	rig_flush(&r);
	stop();
}
END_TEST

RIG_MAIN("tcp_state", test_passive_open_and_close, test_close_first_and_time_wait,
	 test_simultaneous_close, test_fin_with_ack_of_ours, test_active_open,
	 test_active_open_refused, test_active_open_retries, test_connect_timeout,
	 test_ports_bring_the_answers_here, test_simultaneous_open, test_icmp_refuses_only_syn,
	 test_closed_port, test_half_open_times_out, test_backlog_gives_way,
	 test_syn_ack_again_and_bad_ack, test_accept_refuses, test_connections_max,
	 test_listener_limits, test_listener_close, test_isn, test_reset_exact,
	 test_syn_in_connection, test_ack_out_of_range, test_no_ack_flag_and_odd_flags,
	 test_malformed_headers, test_close_with_unread_resets, test_data_for_orphan_resets,
	 test_orphan_in_fin_wait_2, test_orphan_never_acked, test_time_wait_reused_by_syn,
	 test_time_wait_is_bounded, test_abort_in_callback, test_fin_out_of_order,
	 test_connect_errors)
