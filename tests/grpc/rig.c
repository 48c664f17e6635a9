/* See rig.h. */
#include "tests/grpc/rig.h"

/* --- a backend that can be told what to do
 * ------------------------------------------------------------ */

struct call calls[CALLS];
unsigned calls_n;
enum grpc_kind kind;
int open_status;
bool room, answer_at_once, pause_after_message;
int reserve_error;
uint32_t message_max;
uint8_t reply_bytes[300000];
uint32_t reply_n;
bool reply_compress;

static void released(struct grpc_chain *chain)
{
	for (unsigned i = 0; i < calls_n; i++)
		for (unsigned k = 0; k < calls[i].chains_n; k++)
			if (&calls[i].chains[k] == chain) {
				ck_assert_uint_eq(calls[i].closed, 0);
				calls[i].released++;
			}
}

int reply(struct call *c)
{
	unsigned k = c->chains_n;
	int rc;

	c->iov[k][0] = (struct iovec){reply_bytes, reply_n / 2};
	c->iov[k][1] = (struct iovec){reply_bytes, 0};
	c->iov[k][2] = (struct iovec){reply_bytes + reply_n / 2, reply_n - reply_n / 2};
	c->chains[k] = (struct grpc_chain){.iov = c->iov[k],
					   .iov_count = 3,
					   .bytes = reply_n,
					   .compress = reply_compress,
					   .release = released};
	rc = grpc_send_message(c->grpc, &c->chains[k]);
	if (rc == 0)
		c->chains_n++;
	return rc;
}

void finish(struct call *c, uint32_t status, const char *message)
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

static const struct grpc_backend backend = {
	.open = on_open,
	.reserve = on_reserve,
	.message = on_message,
	.half_close = on_half_close,
	.writable = on_writable,
	.closed = on_closed,
};

/* --- the connection
 * ------------------------------------------------------------------------------------ */

struct wire in, out;
size_t room_left;
struct grpc_config config;
struct grpc_server *server;
struct grpc_connection *conn;
struct wheel wheel;
uint64_t now_ns;

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

void connect_again(void)
{
	calls_n = 0;
	out.n = 0;
	room_left = 1u << 21;
	ck_assert_int_eq(grpc_connection_create(server, &out_ops, NULL, &conn), 0);
}

void server_again(void)
{
	grpc_connection_destroy(conn);
	grpc_server_destroy(server);
	ck_assert_int_eq(grpc_server_create(&config, &backend, NULL, &wheel, &server), 0);
	connect_again();
}

void rig_setup(void)
{
	grpc_config_default(&config, 8);
	now_ns = 1000 * MS;
	wheel_init(&wheel, now_ns);
	kind = GRPC_UNARY;
	open_status = reserve_error = 0;
	message_max = 0;
	room = answer_at_once = true;
	pause_after_message = false;
	reply_compress = false;
	memcpy(reply_bytes, OK_REPLY, 5);
	reply_n = 5;
	ck_assert_int_eq(grpc_server_create(&config, &backend, NULL, &wheel, &server), 0);
	in.n = 0;
	connect_again();
}

void all_closed_once(void)
{
	for (unsigned i = 0; i < calls_n; i++)
		ck_assert_uint_eq(calls[i].closed, 1);
	ck_assert_uint_eq(grpc_server_calls(server), 0);
}

void rig_teardown(void)
{
	grpc_connection_destroy(conn);
	all_closed_once();
	ck_assert_uint_eq(wheel_next_ns(&wheel), UINT64_MAX);
	grpc_server_destroy(server);
}

void feed(void)
{
	ck_assert_int_eq(grpc_connection_recv(conn, in.b, in.n, now_ns), 0);
	in.n = 0;
}

void send_all(void)
{
	ck_assert_int_eq(grpc_connection_send(conn, SIZE_MAX), 0);
}

const char *const *grpc_fields(const char *path, const char *const *more)
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

void request_with(uint32_t id, uint8_t flags, const char *const *more)
{
	wire_headers(&in, id, flags, grpc_fields("/a.B/C", more));
}

void request(uint32_t id, uint8_t flags)
{
	request_with(id, flags, NULL);
}

void body(uint32_t id, uint8_t flags, const void *p, size_t n)
{
	wire_frame(&in, NGHTTP2_DATA, flags, id, p, n);
}

void message(uint32_t id, uint8_t flags, const char *text)
{
	uint8_t b[512];

	b[0] = 0;
	be32_store(b + 1, (uint32_t)strlen(text));
	memcpy(b + 5, text, strlen(text));
	body(id, flags, b, 5 + strlen(text));
}

/* All answers of stream `id` so far: HEADERS as text, DATA as "[bytes]", RST as "RST code". */
const char *answer(uint32_t id)
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

void answer_is(uint32_t id, const char *behind_head)
{
	const char *got = answer(id);

	ck_assert_msg(strncmp(got, head_text, strlen(head_text)) == 0, "%s", got);
	ck_assert_str_eq(got + strlen(head_text), behind_head);
}

void status_is(uint32_t id, const char *status)
{
	char want[40];

	snprintf(want, sizeof(want), "grpc-status: %s\n", status);
	ck_assert_msg(strstr(answer(id), want) != NULL, "wanted %s got: %s", want, answer(id));
}
