/* Sessions in memory: every split of the input, every room of the output, windows, resets inside a
 * frame, limits, and memory that runs out at each point. */
#include <check.h>

#include "daemon/http2/http2.h"
#include "tests/http2/wire.h"

#define GET_END (NGHTTP2_FLAG_END_STREAM)

static const char *const get[] = {":method", "GET",        ":scheme", "http", ":path",
				  "/a",      ":authority", "x",       NULL};
static const char *const post[] = {":method",    "POST", ":scheme", "http", ":path", "/b",
				   ":authority", "x",    "x-more",  "1",    NULL};

/* --- the layer above: notes everything, answers with `body_bytes` of a pattern and a trailer
 * -------- */

static char trace[1 << 20];
static size_t trace_n;
static size_t body_bytes = 30;
static bool answer = true;
static bool consume = true;
static struct http2_stream *last_stream;
static unsigned closed_n;
static uint32_t closed_code;
static bool closed_by_peer;

struct user {
	size_t sent;
};

static void note(const char *p, size_t n)
{
	if (n > sizeof(trace) - trace_n)
		abort();
	memcpy(trace + trace_n, p, n);
	trace_n += n;
}

static int on_headers(void *session_user, struct http2_stream *s, const struct http2_header *h,
		      size_t n, unsigned flags)
{
	static const struct http2_header answer_headers[] = {HTTP2_HEADER(":status", "200"),
							     HTTP2_HEADER("x-answer", "yes")};

	(void)session_user;
	(void)flags;
	last_stream = s;
	note("H", 1);
	for (size_t i = 0; i < n; i++) {
		note(h[i].name, h[i].name_len);
		note("=", 1);
		note(h[i].value, h[i].value_len);
	}
	if (answer)
		ck_assert_int_le(http2_stream_respond(s, answer_headers, 2, true), 0);
	return 0;
}

static void on_data(struct http2_stream *s, const uint8_t *p, size_t n)
{
	note((const char *)p, n);
	if (consume)
		http2_stream_consume(s, n);
}

static void on_end(struct http2_stream *s)
{
	(void)s;
	note("E", 1);
}

static size_t on_body_next(struct http2_stream *s, size_t max, bool *eof)
{
	static const struct http2_header trailer[] = {HTTP2_HEADER("x-trailer", "t")};
	struct user *u = http2_stream_user(s);
	size_t n = body_bytes - u->sent;

	if (n > max)
		n = max;
	*eof = u->sent + n == body_bytes;
	if (*eof)
		(void)!http2_stream_trailers(s, trailer, 1);
	return n;
}

static void on_body_copy(struct http2_stream *s, uint8_t *dst, size_t n)
{
	struct user *u = http2_stream_user(s);

	for (size_t i = 0; i < n; i++)
		dst[i] = (uint8_t)(u->sent++ % 251 + 1);
}

static void on_closed(struct http2_stream *s, uint32_t code, bool by_peer)
{
	(void)s;
	closed_n++;
	closed_code = code;
	closed_by_peer = by_peer;
}

static const struct http2_events events = {on_headers,   on_data,      on_end,
					   on_body_next, on_body_copy, on_closed};

/* --- output
 * ------------------------------------------------------------------------------------------ */

static struct wire out;
static size_t room_each, room_left;
static unsigned wanted_n;

static int out_reserve(void *ctx, size_t wanted, uint8_t **buf, size_t *room)
{
	(void)ctx;
	(void)wanted;
	*buf = out.b + out.n;
	*room = room_each < room_left ? room_each : room_left;
	return *room == 0 ? SPLIT_AGAIN : 0;
}

static void out_commit(void *ctx, size_t n)
{
	(void)ctx;
	if (n > room_left)
		ck_abort_msg("more than was lent");
	out.n += n;
	room_left -= n;
}

static void out_wanted(void *ctx)
{
	(void)ctx;
	wanted_n++;
}

static const struct http2_out out_ops = {out_reserve, out_commit, out_wanted, NULL};

static struct http2_engine *engine;
static struct http2_session *session;
static struct http2_config config;
static struct wire in;

static void open_session(void)
{
	trace_n = 0;
	out.n = 0;
	closed_n = 0;
	room_each = room_left = SIZE_MAX;
	ck_assert_int_eq(http2_session_create(engine, &out_ops, NULL, &session), 0);
}

static void setup(void)
{
	http2_config_default(&config, 4);
	config.stream_user_bytes = sizeof(struct user);
	config.streams_total = 200;
	ck_assert_int_eq(http2_engine_create(&config, &events, &engine), 0);
	answer = consume = true;
	body_bytes = 30;
	in.n = 0;
	open_session();
}

static void reopen(void)
{
	http2_session_destroy(session);
	open_session();
}

static void engine_again(void)
{
	http2_session_destroy(session);
	http2_engine_destroy(engine);
	ck_assert_int_eq(http2_engine_create(&config, &events, &engine), 0);
	open_session();
}

static void teardown(void)
{
	http2_session_destroy(session);
	ck_assert_uint_eq(http2_engine_memory_used(engine), 0);
	ck_assert_uint_eq(http2_engine_streams_used(engine), 0);
	http2_engine_destroy(engine);
}

static int feed(const void *p, size_t n)
{
	uint8_t *own = malloc(n + 1);
	int rc;

	memcpy(own, p, n);
	rc = http2_session_recv(session, own, n, 1000000);
	free(own);
	return rc;
}

static void script(void)
{
	uint8_t padded[20] = {9, 'p', 'a', 'd'};
	uint8_t block[256];
	size_t n = 0;

	wire_preface(&in);
	wire_headers(&in, 1, GET_END, get);
	wire_headers(&in, 3, 0, post);
	wire_frame(&in, NGHTTP2_DATA, 0, 3, "first", 5);
	wire_frame(&in, NGHTTP2_PING, 0, 0, "12345678", 8);
	for (int i = 0; post[i] != NULL; i += 2)
		n += wire_literal(block + n, post[i], post[i + 1]);
	wire_frame(&in, NGHTTP2_HEADERS, 0, 5, block, 7);
	wire_frame(&in, NGHTTP2_CONTINUATION, 0, 5, block + 7, 30);
	wire_frame(&in, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 5, block + 37, n - 37);
	wire_frame(&in, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM | NGHTTP2_FLAG_PADDED, 5, padded, 20);
	wire_frame(&in, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 3, "second", 6);
}

START_TEST(every_split_of_the_input)
{
	static char want_trace[4096];
	static uint8_t want[8192];
	size_t want_trace_n, want_n;

	script();
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	want_trace_n = trace_n;
	want_n = out.n;
	ck_assert_uint_lt(trace_n, sizeof(want_trace));
	ck_assert_uint_lt(out.n, sizeof(want));
	memcpy(want_trace, trace, trace_n);
	memcpy(want, out.b, out.n);
	ck_assert_uint_eq(closed_n, 3);
	for (size_t k = 0; k <= in.n; k++) {
		reopen();
		if (k == in.n) /* each byte by itself */
			for (size_t i = 0; i < in.n; i++)
				ck_assert_int_eq(feed(in.b + i, 1), 0);
		ck_assert_int_eq(feed(in.b, k == in.n ? 0 : k), 0);
		ck_assert_int_eq(feed(in.b + k, in.n - k), 0);
		ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
		ck_assert_uint_eq(trace_n, want_trace_n);
		ck_assert_mem_eq(trace, want_trace, trace_n);
		ck_assert_uint_eq(out.n, want_n);
		ck_assert_mem_eq(out.b, want, want_n);
	}
}
END_TEST

START_TEST(every_room_of_the_output)
{
	static uint8_t want[131072];
	size_t want_n;

	body_bytes = 17000;
	script();
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	want_n = out.n;
	ck_assert_uint_gt(want_n, 3 * body_bytes);
	memcpy(want, out.b, out.n);
	for (size_t each = 1; each < 70; each += 1 + each / 16)
		for (size_t total = each; total < 20000; total = total * 9 + 1) {
			reopen();
			room_each = each;
			ck_assert_int_eq(feed(in.b, in.n), 0);
			do {
				room_left = total;
			} while (http2_session_send(session, SIZE_MAX) == SPLIT_AGAIN);
			ck_assert(!http2_session_want_send(session));
			ck_assert_uint_eq(out.n, want_n);
			ck_assert_mem_eq(out.b, want, want_n);
		}
}
END_TEST

START_TEST(send_yields)
{
	unsigned rounds = 0;

	body_bytes = 60000;
	wire_preface(&in);
	wire_headers(&in, 1, GET_END, get);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	while (http2_session_send(session, 1) == SPLIT_AGAIN)
		rounds++;
	ck_assert_uint_ge(rounds, 5);
	ck_assert_uint_gt(out.n, 60000);
}
END_TEST

START_TEST(reset_inside_a_frame)
{
	struct wire_reader r;
	struct wire_got g;
	size_t zeros = 0;

	body_bytes = 10000;
	wire_preface(&in);
	wire_headers(&in, 1, GET_END, get);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	room_left = 500;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), SPLIT_AGAIN);
	in.n = 0;
	wire_u32(&in, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	wire_frame(&in, NGHTTP2_PING, 0, 0, "12345678", 8);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_uint_eq(closed_n, 1);
	ck_assert(closed_by_peer);
	ck_assert_uint_eq(closed_code, NGHTTP2_CANCEL);
	room_left = 100;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), SPLIT_AGAIN);
	room_left = SIZE_MAX;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	wire_reader_init(&r, out.b, out.n);
	ck_assert(wire_find(&r, &g, NGHTTP2_DATA, 1));
	ck_assert_uint_eq(g.n, 10000);
	while (zeros < g.n && g.p[g.n - 1 - zeros] == 0)
		zeros++;
	ck_assert_uint_gt(zeros, 9000);
	ck_assert_uint_lt(zeros, 10000);
	ck_assert(wire_find(&r, &g, NGHTTP2_PING, 0));
	ck_assert_uint_eq(r.at, r.n);
	wire_reader_fini(&r);
}
END_TEST

/* The bytes of all DATA frames that begin at `at` or later; *first_out, if not NULL: where the
 * first one begins. */
static size_t data_bytes(size_t at, size_t *first_out)
{
	size_t n = 0;

	for (; at + 9 <= out.n; at += 9 + (be32_load(out.b + at) >> 8)) {
		if (out.b[at + 3] != NGHTTP2_DATA)
			continue;
		if (n == 0 && first_out != NULL)
			*first_out = at;
		n += be32_load(out.b + at) >> 8;
	}
	return n;
}

/* RFC 9113 s6.9.1: what completes the frame of a stream that was reset counts for the connection.
 */
START_TEST(reset_inside_a_frame_counts_for_the_window)
{
	const size_t window = 65535;
	uint8_t wide[6] = {0, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE};
	size_t before;

	body_bytes = 10000;
	wire_preface(&in);
	wire_headers(&in, 1, GET_END, get);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	room_left = 500;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), SPLIT_AGAIN);
	in.n = 0;
	wire_u32(&in, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	/* Streams wide enough; the connection's window is as it was. */
	be32_store(wide + 2, 1 << 20);
	wire_frame(&in, NGHTTP2_SETTINGS, 0, 0, wide, sizeof(wide));
	ck_assert_int_eq(feed(in.b, in.n), 0);
	room_left = SIZE_MAX;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	body_bytes = 100000;
	in.n = 0;
	wire_headers(&in, 3, GET_END, get);
	wire_headers(&in, 5, GET_END, get);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	ck_assert_uint_eq(data_bytes(0, NULL), window);
	/* Both go on when it widens, as far as it does. */
	before = out.n;
	in.n = 0;
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 0, 20000);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert(http2_session_want_send(session));
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	ck_assert_uint_eq(data_bytes(before, NULL), 20000);
	before = out.n;
	in.n = 0;
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 0, 1 << 20);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	ck_assert_uint_eq(data_bytes(before, NULL), 2 * body_bytes - (window - 10000) - 20000);
	ck_assert_uint_eq(closed_n, 3);
}
END_TEST

/* A frame of which nothing is out yet goes with its stream. */
START_TEST(reset_in_front_of_a_frame)
{
	size_t first = 0;

	body_bytes = 10000;
	wire_preface(&in);
	wire_headers(&in, 1, GET_END, get);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	ck_assert_uint_eq(data_bytes(0, &first), body_bytes);
	reopen();
	ck_assert_int_eq(feed(in.b, in.n), 0);
	room_left = first;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), SPLIT_AGAIN);
	in.n = 0;
	wire_u32(&in, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	room_left = SIZE_MAX;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	ck_assert_uint_eq(data_bytes(0, NULL), 0);
}
END_TEST

START_TEST(our_reset_inside_a_frame_keeps_the_bytes)
{
	struct wire_reader r;
	struct wire_got g;

	body_bytes = 10000;
	wire_preface(&in);
	wire_headers(&in, 1, 0, post);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	room_left = 500;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), SPLIT_AGAIN);
	http2_stream_reset(last_stream, HTTP2_CANCEL);
	ck_assert_uint_eq(wanted_n, 1);
	room_left = SIZE_MAX;
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	wire_reader_init(&r, out.b, out.n);
	ck_assert(wire_find(&r, &g, NGHTTP2_DATA, 1));
	ck_assert_uint_eq(g.n, 10000);
	ck_assert_uint_eq(g.p[9999], 9999 % 251 + 1);
	ck_assert(wire_find(&r, &g, NGHTTP2_RST_STREAM, 1));
	ck_assert_uint_eq(closed_n, 1);
	wire_reader_fini(&r);
}
END_TEST

START_TEST(windows_are_withheld)
{
	static uint8_t body[16384];
	struct wire_reader r;
	struct wire_got g;

	consume = answer = false;
	wire_preface(&in);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	in.n = 0;
	wire_frame(&in, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
	wire_headers(&in, 1, 0, post);
	for (int i = 0; i < 4; i++)
		wire_frame(&in, NGHTTP2_DATA, 0, 1, body, sizeof(body));
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	wire_reader_init(&r, out.b, out.n);
	ck_assert(!wire_find(&r, &g, NGHTTP2_WINDOW_UPDATE, 1));
	wire_reader_fini(&r);
	/* One byte more is the peer's mistake. */
	http2_stream_consume(last_stream, 40000);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	wire_reader_init(&r, out.b, out.n);
	ck_assert(wire_find(&r, &g, NGHTTP2_WINDOW_UPDATE, 1));
	ck_assert_uint_eq(be32_load(g.p), 40000);
	wire_reader_fini(&r);
	in.n = 0;
	for (int i = 0; i < 3; i++)
		wire_frame(&in, NGHTTP2_DATA, 0, 1, body, sizeof(body));
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	ck_assert_uint_eq(closed_n, 1);
	ck_assert_uint_eq(closed_code, HTTP2_FLOW_CONTROL_ERROR);
}
END_TEST

START_TEST(connection_window_is_replenished)
{
	static uint8_t body[8192];
	struct wire_reader r;
	struct wire_got g;
	uint64_t given = 65535;
	size_t sent = 0;

	/* 100 streams that nobody reads: each may fill its window, no matter what the others hold.
	 */
	consume = answer = false;
	wire_preface(&in);
	for (uint32_t id = 1; id < 200; id += 2) {
		wire_headers(&in, id, 0, post);
		wire_frame(&in, NGHTTP2_DATA, 0, id, body, sizeof(body));
		sent += sizeof(body);
		ck_assert_int_eq(feed(in.b, in.n), 0);
		in.n = 0;
		ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	}
	wire_reader_init(&r, out.b, out.n);
	while (wire_find(&r, &g, NGHTTP2_WINDOW_UPDATE, 0))
		given += be32_load(g.p);
	ck_assert_uint_ge(given, sent + config.window_connection / 2 - 65535);
	wire_reader_fini(&r);
}
END_TEST

START_TEST(graceful_goaway)
{
	struct wire_reader r;
	struct wire_got g;

	answer = false;
	wire_preface(&in);
	wire_headers(&in, 1, GET_END, get);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	http2_session_goaway(session, true, HTTP2_NO_ERROR);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	wire_reader_init(&r, out.b, out.n);
	ck_assert(wire_find(&r, &g, NGHTTP2_GOAWAY, 0));
	ck_assert_uint_eq(be32_load(g.p), 0x7fffffff);
	ck_assert(wire_find(&r, &g, NGHTTP2_PING, 0));
	/* A request that crossed the first GOAWAY is served. */
	in.n = 0;
	wire_headers(&in, 3, GET_END, get);
	wire_frame(&in, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, g.p, 8);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	r.n = out.n;
	ck_assert(wire_find(&r, &g, NGHTTP2_GOAWAY, 0));
	ck_assert_uint_eq(be32_load(g.p), 3);
	ck_assert_uint_eq(be32_load(g.p + 4), HTTP2_NO_ERROR);
	ck_assert(!http2_session_done(session));
	in.n = 0;
	wire_u32(&in, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	wire_u32(&in, NGHTTP2_RST_STREAM, 3, NGHTTP2_CANCEL);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	ck_assert(http2_session_done(session));
	wire_reader_fini(&r);
}
END_TEST

START_TEST(streams_run_out)
{
	struct wire_reader r;
	struct wire_got g;

	answer = false;
	config.streams_total = 3;
	engine_again();
	wire_preface(&in);
	for (uint32_t id = 1; id <= 9; id += 2)
		wire_headers(&in, id, GET_END, get);
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	wire_reader_init(&r, out.b, out.n);
	for (uint32_t id = 7; id <= 9; id += 2) {
		ck_assert(wire_find(&r, &g, NGHTTP2_RST_STREAM, id));
		ck_assert_uint_eq(be32_load(g.p), HTTP2_REFUSED_STREAM);
	}
	ck_assert_uint_eq(http2_engine_counters(engine)->streams_refused, 2);
	ck_assert_uint_eq(http2_session_streams(session), 3);
	wire_reader_fini(&r);
}
END_TEST

/* The script again and again, with a little more memory each time: an allocation fails at each
 * point in turn. Nothing may crash, leak or end twice. */
START_TEST(memory_runs_out_everywhere)
{
	bool whole = false;

	script();
	http2_session_destroy(session);
	for (size_t bytes = 8192; !whole; bytes += 64) {
		http2_engine_destroy(engine);
		config.session_bytes_max = bytes;
		ck_assert_int_eq(http2_engine_create(&config, &events, &engine), 0);
		trace_n = out.n = 0;
		closed_n = 0;
		if (http2_session_create(engine, &out_ops, NULL, &session) == 0) {
			int rc = 0;

			for (size_t i = 0; i < in.n && rc == 0; i += 50)
				rc = feed(in.b + i, in.n - i < 50 ? in.n - i : 50);
			if (http2_session_send(session, SIZE_MAX) == 0 && rc == 0)
				whole = closed_n == 3 &&
					http2_engine_counters(engine)->memory_refused == 0;
			http2_session_destroy(session);
		}
		ck_assert_uint_eq(http2_engine_memory_used(engine), 0);
		ck_assert_uint_eq(http2_engine_streams_used(engine), 0);
		ck_assert_uint_lt(bytes, 1u << 20);
	}
	open_session();
}
END_TEST

START_TEST(sessions_interleave_their_headers)
{
	struct http2_session *a = session, *b, *c;

	script();
	ck_assert_int_eq(http2_session_create(engine, &out_ops, NULL, &b), 0);
	ck_assert_int_eq(http2_session_create(engine, &out_ops, NULL, &c), 0);
	for (size_t i = 0; i < in.n; i++) {
		ck_assert_int_eq(http2_session_recv(a, in.b + i, 1, 1), 0);
		ck_assert_int_eq(http2_session_recv(b, in.b + i, 1, 1), 0);
		if (i < in.n / 2)
			ck_assert_int_eq(http2_session_recv(c, in.b + i, 1, 1), 0);
	}
	http2_session_destroy(c);
	ck_assert_uint_eq(http2_engine_counters(engine)->streams, 6 + 2);
	http2_session_destroy(b);
}
END_TEST

/* What gRPC's C core sends for a call that is cancelled before its HEADERS are out: the others of
 * its connection go on, wherever the input is cut. On a connection without a stream it is an error.
 */
START_TEST(reset_of_a_stream_to_come)
{
	wire_preface(&in);
	wire_headers(&in, 1, 0, post);
	wire_u32(&in, NGHTTP2_RST_STREAM, 3, NGHTTP2_CANCEL);
	wire_frame(&in, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, "body", 4);
	wire_u32(&in, NGHTTP2_RST_STREAM, 7, NGHTTP2_CANCEL);
	wire_headers(&in, 9, GET_END, get);
	for (size_t cut = 0; cut <= in.n; cut++) {
		reopen();
		ck_assert_int_eq(feed(in.b, cut), 0);
		ck_assert_int_eq(feed(in.b + cut, in.n - cut), 0);
		ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
		ck_assert_ptr_nonnull(memmem(trace, trace_n, "bodyE", 5));
		ck_assert_ptr_nonnull(memmem(trace, trace_n, ":path=/a", 8));
		ck_assert_uint_eq(closed_n, 2);
	}
	in.n = 0;
	reopen();
	wire_preface(&in);
	wire_u32(&in, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	(void)!feed(in.b, in.n);
	(void)!http2_session_send(session, SIZE_MAX);
	ck_assert(http2_session_done(session));
}
END_TEST

START_TEST(floods_refill_with_time)
{
	config.pings = (struct http2_budget){10, 5};
	engine_again();
	wire_preface(&in);
	for (int i = 0; i < 10; i++)
		wire_frame(&in, NGHTTP2_PING, 0, 0, "12345678", 8);
	ck_assert_int_eq(http2_session_recv(session, in.b, in.n, 1000000000), 0);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
	in.n = 0;
	for (int i = 0; i < 5; i++)
		wire_frame(&in, NGHTTP2_PING, 0, 0, "12345678", 8);
	ck_assert_int_eq(http2_session_recv(session, in.b, in.n, 2000000000), 0);
	ck_assert_int_eq(http2_session_recv(session, in.b, in.n, 2100000000), -SPLIT_E_HTTP2_FLOOD);
	ck_assert_uint_eq(http2_engine_counters(engine)->flood_pings, 1);
	ck_assert_int_eq(http2_session_send(session, SIZE_MAX), -SPLIT_E_HTTP2_FLOOD);
	ck_assert(http2_session_done(session));
}
END_TEST

/* Each byte by itself, the session looked at before and after each: no frame is late before its
 * time is over, whatever the clock shows, the preface included; each is late after it. */
START_TEST(slow_frames)
{
	const uint64_t begin = UINT64_C(5000000000000), timeout = UINT64_C(20000000000);
	bool late = true;

	config.frame_timeout_ns = timeout;
	engine_again();
	script();
	for (size_t late_at = 0; late_at < in.n; late_at++) {
		reopen();
		for (size_t i = 0; i <= late_at; i++) {
			ck_assert(!http2_session_check(session, begin));
			ck_assert_int_eq(http2_session_recv(session, in.b + i, 1, begin), 0);
			ck_assert(!http2_session_check(session, begin + timeout - 1));
		}
		late = http2_session_check(session, begin + timeout);
		/* Inside the preface's text, and inside its SETTINGS frame. */
		if (late_at < 23 || (late_at >= 24 && late_at < 32))
			ck_assert(late);
		ck_assert_int_eq(http2_session_send(session, SIZE_MAX),
				 late ? -SPLIT_E_HTTP2_FLOOD : 0);
	}
	ck_assert(!late); /* behind the last byte nothing is half here */
}
END_TEST

START_TEST(header_limits)
{
	static char big[9000];
	const char *const fat[] = {":method", "GET",        ":scheme", "http",  ":path",
				   "/",       ":authority", "x",       "x-one", big,
				   "x-two",   big,          NULL};

	memset(big, 'v', sizeof(big) - 1);
	wire_preface(&in);
	wire_headers(&in, 1, GET_END, fat);
	/* 18 KB of literals in one frame is over SETTINGS_MAX_FRAME_SIZE: cut it. */
	in.n = 0;
	wire_preface(&in);
	{
		static uint8_t block[20000];
		size_t n = 0;

		for (int i = 0; fat[i] != NULL; i += 2)
			n += wire_literal(block + n, fat[i], fat[i + 1]);
		wire_frame(&in, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM, 1, block, 10000);
		wire_frame(&in, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 1, block + 10000,
			   n - 10000);
	}
	ck_assert_int_eq(feed(in.b, in.n), 0);
	ck_assert_uint_eq(http2_engine_counters(engine)->headers_over, 1);
	ck_assert_ptr_nonnull(memmem(trace, trace_n, "x-one=", 6));
	ck_assert_ptr_null(memmem(trace, trace_n, "x-two=", 6));
}
END_TEST

START_TEST(configs)
{
	struct http2_engine *e;
	struct http2_config c = config;

	c.window_connection = 100;
	ck_assert_int_eq(http2_engine_create(&c, &events, &e), -SPLIT_E_BASE_INVALID);
	c = config;
	c.frame_bytes_max = 1;
	ck_assert_int_eq(http2_engine_create(&c, &events, &e), -SPLIT_E_BASE_INVALID);
	c = config;
	c.streams_max = 0;
	ck_assert_int_eq(http2_engine_create(&c, &events, &e), -SPLIT_E_BASE_INVALID);
	ck_assert_ptr_null(e);
	http2_engine_destroy(NULL);
}
END_TEST

START_TEST(sessions_run_out)
{
	struct http2_session *s[4];

	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(http2_session_create(engine, &out_ops, NULL, &s[i]), 0);
	ck_assert_int_eq(http2_session_create(engine, &out_ops, NULL, &s[3]), -SPLIT_E_BASE_NOMEM);
	ck_assert_ptr_null(s[3]);
	for (int i = 0; i < 3; i++)
		http2_session_destroy(s[i]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("http2/session");
	TCase *t = tcase_create("session");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, every_split_of_the_input);
	tcase_add_test(t, every_room_of_the_output);
	tcase_add_test(t, send_yields);
	tcase_add_test(t, reset_inside_a_frame);
	tcase_add_test(t, reset_inside_a_frame_counts_for_the_window);
	tcase_add_test(t, reset_in_front_of_a_frame);
	tcase_add_test(t, our_reset_inside_a_frame_keeps_the_bytes);
	tcase_add_test(t, windows_are_withheld);
	tcase_add_test(t, connection_window_is_replenished);
	tcase_add_test(t, graceful_goaway);
	tcase_add_test(t, streams_run_out);
	tcase_add_test(t, memory_runs_out_everywhere);
	tcase_add_test(t, sessions_interleave_their_headers);
	tcase_add_test(t, reset_of_a_stream_to_come);
	tcase_add_test(t, floods_refill_with_time);
	tcase_add_test(t, slow_frames);
	tcase_add_test(t, header_limits);
	tcase_add_test(t, configs);
	tcase_add_test(t, sessions_run_out);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
