/* Calls in memory, in raw frames and virtual time: framing at every split, the statuses of broken
 * requests, room that comes late, deadlines, resets, limits, and that every call ends exactly once.
 */
#include <check.h>
#include <inttypes.h>

#include "base/wheel.h"
#include "daemon/grpc/grpc.h"
#include "tests/http2/wire.h"

#define MS       UINT64_C(1000000)
#define CALLS    64
#define END      NGHTTP2_FLAG_END_STREAM
#define OK_REPLY "reply"

/* --- a backend that can be told what to do
 * ------------------------------------------------------------ */

struct call {
	struct grpc_call *grpc;
	uint8_t *buf;
	uint32_t buf_bytes;
	uint8_t got[1 << 17];
	size_t got_n;
	unsigned messages, half_closes, writables, opened, closed;
	enum grpc_closed why;
	bool last;
	struct grpc_chain chains[8];
	struct iovec iov[8][3];
	unsigned chains_n, released;
	uint64_t deadline_ns;
	char path[64];
	char md[512];
};

static struct call calls[CALLS];
static unsigned calls_n;
static enum grpc_kind kind;
static int open_status;
static bool room, answer_at_once, pause_after_message;
static int reserve_error;
static uint32_t message_max;
static uint8_t reply_bytes[300000];
static uint32_t reply_n;

static void released(struct grpc_chain *chain)
{
	for (unsigned i = 0; i < calls_n; i++)
		for (unsigned k = 0; k < calls[i].chains_n; k++)
			if (&calls[i].chains[k] == chain) {
				ck_assert_uint_eq(calls[i].closed, 0);
				calls[i].released++;
			}
}

static int reply(struct call *c)
{
	unsigned k = c->chains_n;
	int rc;

	c->iov[k][0] = (struct iovec){reply_bytes, reply_n / 2};
	c->iov[k][1] = (struct iovec){reply_bytes, 0};
	c->iov[k][2] = (struct iovec){reply_bytes + reply_n / 2, reply_n - reply_n / 2};
	c->chains[k] = (struct grpc_chain){
		.iov = c->iov[k], .iov_count = 3, .bytes = reply_n, .release = released};
	rc = grpc_send_message(c->grpc, &c->chains[k]);
	if (rc == 0)
		c->chains_n++;
	return rc;
}

static void finish(struct call *c, uint32_t status, const char *message)
{
	struct grpc_result result = {.status = status,
				     .message = message,
				     .message_len =
					     message != NULL ? (uint32_t)strlen(message) : 0};

	grpc_finish(c->grpc, &result);
}

static int on_open(void *ctx, struct grpc_call *call, const struct grpc_request_head *head,
		   struct grpc_accept *accept)
{
	struct call *c = &calls[calls_n];
	size_t n = 0;

	(void)ctx;
	if (open_status != 0) {
		accept->refusal = "not here";
		return open_status;
	}
	ck_assert_uint_lt(calls_n, CALLS);
	calls_n++;
	memset(c, 0, sizeof(*c));
	c->grpc = call;
	c->opened = 1;
	c->deadline_ns = head->deadline_ns;
	snprintf(c->path, sizeof(c->path), "%.*s|%.*s", (int)head->service_len, head->service,
		 (int)head->method_len, head->method);
	for (uint32_t i = 0; i < head->metadata_count; i++) {
		const struct grpc_metadata *md = &head->metadata[i];

		n += (size_t)snprintf(c->md + n, sizeof(c->md) - n, "%.*s=%.*s;", (int)md->name_len,
				      md->name, (int)md->value_len, (const char *)md->value);
	}
	accept->kind = kind;
	accept->message_bytes_max = message_max;
	accept->user = c;
	return 0;
}

static int on_reserve(void *ctx, struct grpc_call *call, uint32_t bytes, uint8_t **buf)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	ck_assert_ptr_null(c->buf);
	if (reserve_error != 0)
		return reserve_error;
	if (!room)
		return SPLIT_AGAIN;
	c->buf = malloc(bytes);
	c->buf_bytes = bytes;
	*buf = c->buf;
	return 0;
}

static void on_message(void *ctx, struct grpc_call *call, uint8_t *buf, uint32_t bytes, bool last)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	ck_assert_ptr_eq(buf, c->buf);
	ck_assert_uint_eq(bytes, c->buf_bytes);
	ck_assert_uint_eq(c->closed, 0);
	if (c->got_n + bytes <= sizeof(c->got) && bytes > 0)
		memcpy(c->got + c->got_n, buf, bytes);
	c->got_n += bytes;
	c->messages++;
	c->last = last;
	free(c->buf);
	c->buf = NULL;
	if (pause_after_message)
		grpc_call_pause(call, true);
	if (last && answer_at_once) {
		ck_assert_int_eq(reply(c), 0);
		finish(c, GRPC_OK, NULL);
	}
}

static void on_half_close(void *ctx, struct grpc_call *call)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	c->half_closes++;
	if (answer_at_once) {
		ck_assert_int_eq(reply(c), 0);
		finish(c, GRPC_OK, NULL);
	}
}

static void on_writable(void *ctx, struct grpc_call *call)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	c->writables++;
}

static void on_closed(void *ctx, struct grpc_call *call, enum grpc_closed why)
{
	struct call *c = grpc_call_user(call);

	(void)ctx;
	ck_assert_uint_eq(c->released, c->chains_n);
	c->closed++;
	c->why = why;
	free(c->buf);
	c->buf = NULL;
}

static const struct grpc_backend backend = {on_open,       on_reserve,  on_message,
					    on_half_close, on_writable, on_closed};

/* --- the connection
 * ------------------------------------------------------------------------------------ */

static struct wire in, out;
static size_t room_left;
static struct grpc_config config;
static struct grpc_server *server;
static struct grpc_connection *conn;
static struct wheel wheel;
static uint64_t now_ns;

static int out_reserve(void *ctx, size_t wanted, uint8_t **buf, size_t *size)
{
	(void)ctx;
	(void)wanted;
	*buf = out.b + out.n;
	*size = room_left;
	return room_left == 0 ? SPLIT_AGAIN : 0;
}

static void out_commit(void *ctx, size_t n)
{
	(void)ctx;
	out.n += n;
	room_left -= n;
}

static const struct http2_out out_ops = {out_reserve, out_commit, NULL, NULL};

static void connect_again(void)
{
	calls_n = 0;
	out.n = 0;
	room_left = 1u << 21;
	ck_assert_int_eq(grpc_connection_create(server, &out_ops, NULL, &conn), 0);
}

static void server_again(void)
{
	grpc_connection_destroy(conn);
	grpc_server_destroy(server);
	ck_assert_int_eq(grpc_server_create(&config, &backend, NULL, &wheel, &server), 0);
	connect_again();
}

static void setup(void)
{
	grpc_config_default(&config, 8);
	now_ns = 1000 * MS;
	wheel_init(&wheel, now_ns);
	kind = GRPC_UNARY;
	open_status = reserve_error = 0;
	message_max = 0;
	room = answer_at_once = true;
	pause_after_message = false;
	memcpy(reply_bytes, OK_REPLY, 5);
	reply_n = 5;
	ck_assert_int_eq(grpc_server_create(&config, &backend, NULL, &wheel, &server), 0);
	in.n = 0;
	connect_again();
}

static void all_closed_once(void)
{
	for (unsigned i = 0; i < calls_n; i++)
		ck_assert_uint_eq(calls[i].closed, 1);
	ck_assert_uint_eq(grpc_server_calls(server), 0);
}

static void teardown(void)
{
	grpc_connection_destroy(conn);
	all_closed_once();
	ck_assert_uint_eq(wheel_next_ns(&wheel), UINT64_MAX);
	grpc_server_destroy(server);
}

static void feed(void)
{
	ck_assert_int_eq(grpc_connection_recv(conn, in.b, in.n, now_ns), 0);
	in.n = 0;
}

static void send_all(void)
{
	ck_assert_int_eq(grpc_connection_send(conn, SIZE_MAX), 0);
}

static const char *const *grpc_fields(const char *path, const char *const *more)
{
	static const char *fields[64];
	unsigned n = 0;
	const char *const base[] = {":method", "POST",     ":scheme",      "http",
				    ":path",   path,       ":authority",   "x",
				    "te",      "trailers", "content-type", "application/grpc"};

	for (; n < ARRAY_LEN(base); n++)
		fields[n] = base[n];
	while (more != NULL && more[0] != NULL) {
		fields[n++] = *more++;
		fields[n++] = *more++;
	}
	fields[n] = NULL;
	return fields;
}

static void request_with(uint32_t id, uint8_t flags, const char *const *more)
{
	wire_headers(&in, id, flags, grpc_fields("/a.B/C", more));
}

static void request(uint32_t id, uint8_t flags)
{
	request_with(id, flags, NULL);
}

static void body(uint32_t id, uint8_t flags, const void *p, size_t n)
{
	wire_frame(&in, NGHTTP2_DATA, flags, id, p, n);
}

static void message(uint32_t id, uint8_t flags, const char *text)
{
	uint8_t b[512];

	b[0] = 0;
	be32_store(b + 1, (uint32_t)strlen(text));
	memcpy(b + 5, text, strlen(text));
	body(id, flags, b, 5 + strlen(text));
}

/* All answers of stream `id` so far: HEADERS as text, DATA as "[bytes]", RST as "RST code". */
static const char *answer(uint32_t id)
{
	static char text[1 << 16];
	struct wire_reader r;
	struct wire_got g;
	size_t n = 0;

	text[0] = 0;
	wire_reader_init(&r, out.b, out.n);
	while (wire_next(&r, &g)) {
		if (g.id != id)
			continue;
		if (g.type == NGHTTP2_HEADERS)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s", g.fields);
		else if (g.type == NGHTTP2_DATA)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "[%zu %.*s]\n", g.n,
					      g.n > 5 ? (int)(g.n < 50 ? g.n - 5 : 45) : 0,
					      (const char *)g.p + (g.n > 5 ? 5 : 0));
		else if (g.type == NGHTTP2_RST_STREAM)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "RST %u\n",
					      be32_load(g.p));
		if ((g.type == NGHTTP2_HEADERS || g.type == NGHTTP2_DATA) && (g.flags & END))
			n += (size_t)snprintf(text + n, sizeof(text) - n, "END\n");
	}
	wire_reader_fini(&r);
	return text;
}

static const char head_text[] = ":status: 200\ncontent-type: application/grpc\n";

static void answer_is(uint32_t id, const char *behind_head)
{
	const char *got = answer(id);

	ck_assert_msg(strncmp(got, head_text, strlen(head_text)) == 0, "%s", got);
	ck_assert_str_eq(got + strlen(head_text), behind_head);
}

static void status_is(uint32_t id, const char *status)
{
	char want[40];

	snprintf(want, sizeof(want), "grpc-status: %s\n", status);
	ck_assert_msg(strstr(answer(id), want) != NULL, "wanted %s got: %s", want, answer(id));
}

/* --- tests
 * ------------------------------------------------------------------------------------------------
 */

START_TEST(unary)
{
	wire_preface(&in);
	request(1, 0);
	message(1, END, "hello");
	feed();
	ck_assert_uint_eq(calls_n, 1);
	ck_assert_str_eq(calls[0].path, "a.B|C");
	ck_assert_uint_eq(calls[0].deadline_ns, UINT64_MAX);
	ck_assert(calls[0].last);
	ck_assert_uint_eq(calls[0].got_n, 5);
	ck_assert_uint_eq(calls[0].closed, 0);
	send_all();
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DONE);
	answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\n");
}
END_TEST

/* A stream of messages of many sizes in one DATA run, cut at every place. */
START_TEST(framing_at_every_split)
{
	static uint8_t run[600];
	size_t n = 0;

	kind = GRPC_CLIENT_STREAMING;
	for (uint32_t size = 0; size < 30; size += 1 + size / 3) {
		run[n++] = 0;
		be32_store(run + n, size);
		n += 4;
		for (uint32_t i = 0; i < size; i++)
			run[n++] = (uint8_t)('a' + i % 26);
	}
	for (size_t cut = 0; cut <= n; cut++) {
		grpc_connection_destroy(conn);
		connect_again();
		wire_preface(&in);
		request(1, 0);
		if (cut == n)
			for (size_t i = 0; i < n; i++)
				body(1, 0, run + i, 1);
		else
			body(1, 0, run, cut);
		body(1, END, run + cut, n - cut);
		feed();
		send_all();
		answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\n");
		ck_assert_uint_eq(calls[0].messages, 10);
		ck_assert_uint_eq(calls[0].half_closes, 1);
		ck_assert_uint_eq(calls[0].got_n, n - 5 * 10);
	}
}
END_TEST

START_TEST(metadata_in)
{
	const char *const more[] = {"x-a",
				    "1",
				    "user-agent",
				    "test",
				    "x-b-bin",
				    "aGk=,aG8",
				    "x-a",
				    "2",
				    "x-b-bin",
				    "",
				    "grpc-timeout",
				    "5S",
				    "grpc-accept-encoding",
				    "gzip",
				    NULL};

	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "");
	feed();
	send_all();
	ck_assert_str_eq(calls[0].md,
			 "x-a=1;user-agent=test;x-b-bin=hi;x-b-bin=ho;x-a=2;x-b-bin=;");
	ck_assert_uint_eq(calls[0].deadline_ns, now_ns + 5000 * MS);
	status_is(1, "0");
}
END_TEST

START_TEST(broken_requests)
{
	static const struct {
		const char *bytes;
		size_t n;
		const char *status;
	} bodies[] = {
		{"", 0, "13"},                         /* no message */
		{"\0\0", 2, "13"},                     /* half a prefix */
		{"\0\0\0\0\5abc", 8, "13"},            /* half a message */
		{"\1\0\0\0\3abc", 8, "13"},            /* compressed without an encoding */
		{"\2\0\0\0\3abc", 8, "13"},            /* a flag nobody knows */
		{"\0\0\x50\0\0", 5, "8"},              /* over the limit */
		{"\0\xff\xff\xff\xff", 5, "8"},        /* far over it */
		{"\0\0\0\0\3abc\0\0\0\0\1d", 14, "0"}, /* a second message is discarded */
		{"\0\0\0\0\3abc\1", 9, "0"},           /* so is garbage */
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++, id += 2) {
		request(id, 0);
		body(id, END, bodies[i].bytes, bodies[i].n);
		feed();
		send_all();
		status_is(id, bodies[i].status);
		ck_assert_uint_eq(calls[i].closed, 1);
	}
	request(id, END);
	feed();
	send_all();
	status_is(id, "13");
}
END_TEST

START_TEST(broken_heads)
{
	static const struct {
		const char *path;
		const char *more[3];
		const char *status;
	} heads[] = {
		{"/a.B/C", {"grpc-timeout", "123456789S", NULL}, "13"},
		{"/a.B/C", {"grpc-timeout", "1", NULL}, "13"},
		{"/a.B/C", {"grpc-timeout", "0m", NULL}, "4"},
		{"/a.B/C", {"x-a-bin", "****", NULL}, "13"},
		{"/a.B/C", {"grpc-encoding", "gzip", NULL}, "12"},
		{"/a.B", {NULL}, "12"},
		{"/", {NULL}, "12"},
		{"//", {NULL}, "12"},
		{"/a/", {NULL}, "12"},
		{"*", {NULL}, ""},
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(heads); i++, id += 2) {
		wire_headers(&in, id, 0, grpc_fields(heads[i].path, heads[i].more));
		feed();
		send_all();
		if (heads[i].status[0] == 0)
			ck_assert_str_eq(answer(id), "RST 1\n");
		else
			status_is(id, heads[i].status);
		if (strcmp(heads[i].status, "12") == 0)
			ck_assert_ptr_nonnull(
				strstr(answer(id), "grpc-accept-encoding: identity\n"));
		ck_assert_ptr_nonnull(strstr(answer(id), "RST"));
	}
	ck_assert_uint_eq(calls_n, 0);
}
END_TEST

START_TEST(encoding_identity)
{
	const char *const more[] = {"grpc-encoding", "identity", NULL};

	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "x");
	feed();
	send_all();
	status_is(1, "0");
}
END_TEST

START_TEST(content_types)
{
	static const struct {
		const char *type;
		const char *status;
	} types[] = {
		{"application/grpc+proto", ":status: 200"},
		{"application/grpc;x=y", ":status: 200"},
		{"application/grpc-web", ":status: 415"},
		{"application/json", ":status: 415"},
		{"application/grp", ":status: 415"},
		{"", ":status: 415"},
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(types); i++, id += 2) {
		const char *const fields[] = {":method",      "POST",        ":scheme", "http",
					      ":authority",   "x",           ":path",   "/a.B/C",
					      "content-type", types[i].type, NULL};

		wire_headers(&in, id, 0, fields);
		message(id, END, "x");
		feed();
		send_all();
		ck_assert_ptr_nonnull(strstr(answer(id), types[i].status));
	}
}
END_TEST

START_TEST(plain_http)
{
	static const struct {
		const char *method, *path, *want;
	} cases[] = {
		{"GET", "/healthz", ":status: 200\n"}, {"HEAD", "/healthz", ":status: 200\n"},
		{"GET", "/", ":status: 404\n"},        {"POST", "/", ":status: 415\n"},
		{"PUT", "/", ":status: 405\n"},        {"OPTIONS", "*", ":status: 405\n"},
	};
	uint32_t id = 1;

	wire_preface(&in);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++, id += 2) {
		const char *const fields[] = {":method", cases[i].method, ":scheme",
					      "http",    ":authority",    "x",
					      ":path",   cases[i].path,   NULL};

		wire_headers(&in, id, END, fields);
		feed();
		send_all();
		ck_assert_ptr_nonnull(strstr(answer(id), cases[i].want));
		ck_assert_ptr_nonnull(strstr(answer(id), "END"));
		ck_assert_int_eq(strstr(answer(id), "[") == NULL,
				 strcmp(cases[i].method, "HEAD") == 0);
	}
	ck_assert_uint_eq(grpc_server_counters(server)->http_requests, ARRAY_LEN(cases));
}
END_TEST

START_TEST(open_refuses)
{
	wire_preface(&in);
	open_status = GRPC_UNIMPLEMENTED;
	request(1, 0);
	message(1, END, "hello");
	feed();
	send_all();
	answer_is(1,
		  "grpc-status: 12\ngrpc-accept-encoding: identity\ngrpc-message: not here\nEND\n");
	open_status = -5;
	request(3, 0);
	feed();
	send_all();
	status_is(3, "13");
}
END_TEST

START_TEST(reset_behind_an_early_answer)
{
	wire_preface(&in);
	request(1, 0);
	message(1, 0, "hello");
	feed();
	send_all();
	answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\nRST 0\n");
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DONE);
	/* What was under way is ignored. */
	body(1, END, "late", 4);
	feed();
	send_all();
	answer_is(1, "[10 reply]\ngrpc-status: 0\nEND\nRST 0\n");
}
END_TEST

START_TEST(room_comes_late)
{
	static char text[200];

	memset(text, 'x', sizeof(text) - 1);
	for (unsigned pieces = 1; pieces < 5; pieces++) {
		grpc_connection_destroy(conn);
		connect_again();
		kind = GRPC_CLIENT_STREAMING;
		room = false;
		wire_preface(&in);
		request(1, 0);
		for (unsigned i = 0; i < pieces; i++)
			message(1, 0, text);
		body(1, 0, "\0\0", 2);
		feed();
		body(1, 0, "\0\0\1", 3);
		body(1, END, "y", 1);
		feed();
		ck_assert_uint_eq(calls[0].messages, 0);
		grpc_call_room(calls[0].grpc);
		ck_assert_uint_eq(calls[0].messages, 0);
		room = true;
		grpc_call_room(calls[0].grpc);
		ck_assert_uint_eq(calls[0].messages, pieces + 1);
		ck_assert_uint_eq(calls[0].half_closes, 1);
		send_all();
		status_is(1, "0");
	}
}
END_TEST

START_TEST(held_bytes_withhold_the_window)
{
	static uint8_t big[16000];
	struct wire_reader r;
	struct wire_got g;

	room = false;
	kind = GRPC_CLIENT_STREAMING;
	wire_preface(&in);
	request(1, 0);
	be32_store(big + 1, 64000 - 5);
	for (int i = 0; i < 4; i++) {
		body(1, 0, big, sizeof(big));
		memset(big, 0, 5);
	}
	feed();
	send_all();
	wire_reader_init(&r, out.b, out.n);
	ck_assert(!wire_find(&r, &g, NGHTTP2_WINDOW_UPDATE, 1));
	wire_reader_fini(&r);
	room = true;
	grpc_call_room(calls[0].grpc);
	send_all();
	wire_reader_init(&r, out.b, out.n);
	ck_assert(wire_find(&r, &g, NGHTTP2_WINDOW_UPDATE, 1));
	wire_reader_fini(&r);
	ck_assert_uint_eq(calls[0].messages, 1);
	ck_assert_uint_eq(grpc_server_counters(server)->rx_messages_held, 1);
}
END_TEST

START_TEST(hold_memory_runs_out)
{
	static uint8_t big[16000];
	unsigned refused = 0;

	room = false;
	config.hold_bytes_max = 128 * 1024;
	server_again();
	wire_preface(&in);
	be32_store(big + 1, 15995);
	for (uint32_t id = 1; id < 40; id += 2) {
		request(id, 0);
		body(id, END, big, sizeof(big));
		feed();
		send_all();
		if (strstr(answer(id), "grpc-status: 8\n") != NULL)
			refused++;
	}
	ck_assert_uint_ge(refused, 11);
	ck_assert_uint_le(refused, 14);
	ck_assert_uint_eq(grpc_server_counters(server)->hold_refused, refused);
	/* Those that wait go on. */
	room = true;
	for (unsigned i = 0; i < calls_n; i++)
		if (!calls[i].closed)
			grpc_call_room(calls[i].grpc);
	send_all();
	all_closed_once();
}
END_TEST

START_TEST(reserve_fails)
{
	reserve_error = -SPLIT_E_BASE_LIMIT;
	wire_preface(&in);
	request(1, 0);
	message(1, END, "x");
	feed();
	send_all();
	status_is(1, "8");
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_FAILED);
}
END_TEST

START_TEST(method_has_its_own_limit)
{
	message_max = 3;
	wire_preface(&in);
	request(1, 0);
	message(1, END, "abc");
	request(3, 0);
	message(3, END, "abcd");
	feed();
	send_all();
	status_is(1, "0");
	status_is(3, "8");
}
END_TEST

START_TEST(paused)
{
	kind = GRPC_BIDI;
	answer_at_once = false;
	pause_after_message = true;
	wire_preface(&in);
	request(1, 0);
	message(1, 0, "one");
	message(1, 0, "two");
	message(1, END, "three");
	feed();
	for (unsigned want = 1; want <= 3; want++) {
		ck_assert_uint_eq(calls[0].messages, want);
		ck_assert_uint_eq(calls[0].half_closes, 0);
		grpc_call_pause(calls[0].grpc, false);
	}
	ck_assert_uint_eq(calls[0].half_closes, 1);
	finish(&calls[0], GRPC_OK, NULL);
	send_all();
	answer_is(1, "grpc-status: 0\nEND\n");
}
END_TEST

START_TEST(deadline)
{
	const char *const more[] = {"grpc-timeout", "100m", NULL};

	answer_at_once = false;
	wire_preface(&in);
	request_with(1, 0, more);
	message(1, 0, "x");
	feed();
	wheel_advance(&wheel, now_ns + 99 * MS, 10);
	ck_assert_uint_eq(calls[0].closed, 0);
	wheel_advance(&wheel, now_ns + 101 * MS, 10);
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DEADLINE);
	send_all();
	answer_is(1, "grpc-status: 4\ngrpc-message: deadline exceeded\nEND\nRST 0\n");
}
END_TEST

START_TEST(deadline_behind_an_answer_cancels_the_timer)
{
	const char *const more[] = {"grpc-timeout", "100m", NULL};

	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "x");
	feed();
	send_all();
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_uint_eq(wheel_next_ns(&wheel), UINT64_MAX);
}
END_TEST

/* The output stops inside a DATA frame, then the deadline comes: the frame must be finished with
 * the message's own bytes, the chain be kept until then, and the status follow. */
START_TEST(deadline_inside_a_frame)
{
	const char *const more[] = {"grpc-timeout", "100m", NULL};
	struct wire_reader r;
	struct wire_got g;

	kind = GRPC_SERVER_STREAMING;
	answer_at_once = false;
	reply_n = 9000;
	memset(reply_bytes, 'r', reply_n);
	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "x");
	feed();
	ck_assert_int_eq(reply(&calls[0]), 0);
	ck_assert_int_eq(reply(&calls[0]), 0);
	ck_assert_int_eq(reply(&calls[0]), 0);
	room_left = 500;
	ck_assert_int_eq(grpc_connection_send(conn, SIZE_MAX), SPLIT_AGAIN);
	wheel_advance(&wheel, now_ns + 101 * MS, 10);
	ck_assert_uint_eq(calls[0].closed, 0);
	ck_assert_uint_eq(calls[0].released, 0);
	ck_assert_int_eq(reply(&calls[0]), -SPLIT_E_GRPC_STATE);
	room_left = 1u << 20;
	send_all();
	ck_assert_uint_eq(calls[0].closed, 1);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DEADLINE);
	wire_reader_init(&r, out.b, out.n);
	ck_assert(wire_find(&r, &g, NGHTTP2_DATA, 1));
	ck_assert_uint_eq(g.n, 16384);
	for (size_t i = 5; i < g.n; i++)
		ck_assert(g.p[i] == 'r' || (i >= 9005 && i < 9010));
	ck_assert(wire_find(&r, &g, NGHTTP2_HEADERS, 1));
	ck_assert_ptr_nonnull(strstr(g.fields, "grpc-status: 4\n"));
	wire_reader_fini(&r);
}
END_TEST

START_TEST(timeouts_are_cut)
{
	const char *const more[] = {"grpc-timeout", "99999999H", NULL};

	config.timeout_max_ns = 7000 * MS;
	server_again();
	answer_at_once = false;
	wire_preface(&in);
	request_with(1, END, more);
	kind = GRPC_BIDI;
	feed();
	ck_assert_uint_eq(calls[0].deadline_ns, now_ns + 7000 * MS);
}
END_TEST

START_TEST(client_resets)
{
	answer_at_once = false;
	wire_preface(&in);
	request(1, 0);
	message(1, 0, "x");
	request(3, 0);
	body(3, 0,
	     "\0\0\0\0\x09"
	     "abc",
	     8); /* inside a message */
	request(5, 0);
	feed();
	room = false;
	body(5, 0,
	     "\0\0\0\0\x09"
	     "abc",
	     8); /* while it waits for room */
	feed();
	for (uint32_t id = 1; id <= 5; id += 2)
		wire_u32(&in, NGHTTP2_RST_STREAM, id, NGHTTP2_CANCEL);
	feed();
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_uint_eq(calls[i].closed, 1);
		ck_assert_int_eq(calls[i].why, GRPC_CLOSED_CANCELLED);
	}
	ck_assert_uint_eq(grpc_server_counters(server)->calls_cancelled, 3);
}
END_TEST

START_TEST(connection_lost)
{
	answer_at_once = false;
	wire_preface(&in);
	request(1, 0);
	message(1, 0, "x");
	request(3, 0);
	feed();
	ck_assert_int_eq(reply(&calls[0]), 0);
	grpc_connection_destroy(conn);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_CONNECTION);
	ck_assert_int_eq(calls[1].why, GRPC_CLOSED_CONNECTION);
	all_closed_once();
	connect_again();
}
END_TEST

START_TEST(send_queue_is_bounded)
{
	unsigned taken = 0;

	kind = GRPC_SERVER_STREAMING;
	answer_at_once = false;
	reply_n = 100000;
	wire_preface(&in);
	request(1, 0);
	message(1, END, "x");
	feed();
	while (taken < 8 && reply(&calls[0]) == 0)
		taken++;
	ck_assert_uint_eq(taken, 2);
	ck_assert_uint_eq(grpc_server_counters(server)->tx_blocked, 1);
	send_all(); /* 65,535 bytes of window */
	ck_assert_uint_eq(calls[0].writables, 1);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 1, 10000000);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 0, 10000000);
	feed();
	send_all();
	ck_assert_uint_eq(calls[0].released, 2);
	finish(&calls[0], GRPC_OK, NULL);
	send_all();
	status_is(1, "0");
}
END_TEST

START_TEST(metadata_out)
{
	static const struct grpc_metadata md[] = {{"x-a", (const uint8_t *)"v", 3, 1},
						  {"x-b-bin", (const uint8_t *)"hi", 7, 2}};
	static const struct grpc_metadata bad[] = {{"grpc-x", (const uint8_t *)"v", 6, 1}};
	struct grpc_result result = {.status = GRPC_ABORTED,
				     .message = "50% \n",
				     .message_len = 5,
				     .details = (const uint8_t *)"xyz",
				     .details_len = 3,
				     .trailers = md,
				     .trailers_count = 2};

	answer_at_once = false;
	wire_preface(&in);
	request(1, 0);
	message(1, END, "x");
	request(3, 0);
	message(3, END, "x");
	request(5, 0);
	message(5, END, "x");
	feed();
	ck_assert_int_eq(grpc_send_metadata(calls[0].grpc, bad, 1), -SPLIT_E_GRPC_METADATA);
	ck_assert_int_eq(grpc_send_metadata(calls[0].grpc, md, 2), 0);
	ck_assert_int_eq(grpc_send_metadata(calls[0].grpc, md, 2), -SPLIT_E_GRPC_METADATA);
	ck_assert_int_eq(reply(&calls[0]), 0);
	ck_assert_int_eq(reply(&calls[0]), -SPLIT_E_GRPC_STATE);
	grpc_finish(calls[0].grpc, &result);
	grpc_finish(calls[0].grpc, &result);
	grpc_finish(calls[1].grpc, &result);
	result.trailers = bad;
	result.trailers_count = 1;
	grpc_finish(calls[2].grpc, &result);
	send_all();
	answer_is(1, "x-a: v\nx-b-bin: aGk\n[10 reply]\ngrpc-status: 10\ngrpc-message: 50%25 %0A\n"
		     "grpc-status-details-bin: eHl6\nx-a: v\nx-b-bin: aGk\nEND\n");
	answer_is(3, "grpc-status: 10\ngrpc-message: 50%25 %0A\ngrpc-status-details-bin: eHl6\n"
		     "x-a: v\nx-b-bin: aGk\nEND\n");
	answer_is(5, "grpc-status: 13\ngrpc-message: trailers that cannot be sent\nEND\n");
}
END_TEST

START_TEST(odd_results)
{
	answer_at_once = false;
	wire_preface(&in);
	for (uint32_t id = 1; id <= 5; id += 2) {
		request(id, 0);
		message(id, END, "x");
	}
	feed();
	finish(&calls[0], GRPC_OK, NULL); /* no reply */
	finish(&calls[1], 99, NULL);
	ck_assert_int_eq(reply(&calls[2]), 0);
	finish(&calls[2], GRPC_UNAVAILABLE, "");
	send_all();
	status_is(1, "13");
	status_is(3, "2");
	status_is(5, "14");
}
END_TEST

START_TEST(too_many_calls)
{
	answer_at_once = false;
	config.calls_max = 2;
	server_again();
	wire_preface(&in);
	request(1, 0);
	request(3, 0);
	request(5, 0);
	feed();
	send_all();
	ck_assert_uint_eq(calls_n, 2);
	status_is(5, "8");
	ck_assert_uint_eq(grpc_server_counters(server)->calls_over, 1);
	wire_u32(&in, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
	request(7, 0);
	feed();
	ck_assert_uint_eq(calls_n, 3);
}
END_TEST

START_TEST(metadata_limit)
{
	static char value[9000];
	const char *const more[] = {"x-big", value, NULL};

	memset(value, 'v', 8100);
	wire_preface(&in);
	request_with(1, 0, more);
	message(1, END, "");
	memset(value, 'v', 8200);
	request_with(3, 0, more);
	feed();
	send_all();
	status_is(1, "0");
	status_is(3, "8");
	ck_assert_uint_eq(grpc_server_counters(server)->rx_metadata_over, 1);
}
END_TEST

START_TEST(large_messages_both_ways)
{
	static uint8_t big[100000];

	reply_n = sizeof(reply_bytes);
	be32_store(big + 1, sizeof(big) - 5);
	wire_preface(&in);
	feed();
	send_all();
	wire_frame(&in, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 0, 10000000);
	request(1, 0);
	wire_u32(&in, NGHTTP2_WINDOW_UPDATE, 1, 10000000);
	for (size_t at = 0; at < sizeof(big); at += 10000) {
		body(1, at + 10000 >= sizeof(big) ? END : 0, big + at, 10000);
		feed();
		send_all();
	}
	ck_assert_uint_eq(calls[0].got_n, sizeof(big) - 5);
	ck_assert_int_eq(calls[0].why, GRPC_CLOSED_DONE);
	status_is(1, "0");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("grpc/call");
	TCase *t = tcase_create("call");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, unary);
	tcase_add_test(t, framing_at_every_split);
	tcase_add_test(t, metadata_in);
	tcase_add_test(t, broken_requests);
	tcase_add_test(t, broken_heads);
	tcase_add_test(t, encoding_identity);
	tcase_add_test(t, content_types);
	tcase_add_test(t, plain_http);
	tcase_add_test(t, open_refuses);
	tcase_add_test(t, reset_behind_an_early_answer);
	tcase_add_test(t, room_comes_late);
	tcase_add_test(t, held_bytes_withhold_the_window);
	tcase_add_test(t, hold_memory_runs_out);
	tcase_add_test(t, reserve_fails);
	tcase_add_test(t, method_has_its_own_limit);
	tcase_add_test(t, paused);
	tcase_add_test(t, deadline);
	tcase_add_test(t, deadline_behind_an_answer_cancels_the_timer);
	tcase_add_test(t, deadline_inside_a_frame);
	tcase_add_test(t, timeouts_are_cut);
	tcase_add_test(t, client_resets);
	tcase_add_test(t, connection_lost);
	tcase_add_test(t, send_queue_is_bounded);
	tcase_add_test(t, metadata_out);
	tcase_add_test(t, odd_results);
	tcase_add_test(t, too_many_calls);
	tcase_add_test(t, metadata_limit);
	tcase_add_test(t, large_messages_both_ways);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
