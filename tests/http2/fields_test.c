/* Header lists of RFC 9113 s8.2 and s8.3, well-formed and not, in every order on one connection:
 * what a session remembers of the last list must never change the verdict on the next. The lists
 * are sent as HPACK indexes, as literals, or mixed. */
#include <check.h>

#include "base/random.h"
#include "daemon/http2/http2.h"
#include "tests/http2/wire.h"

#define BASE       ":method", "POST", ":scheme", "http", ":path", "/a.B/C", ":authority", "x"
#define FIELDS_MAX 20

struct list {
	const char *field[2 * FIELDS_MAX + 1];
	bool good;
	int body; /* DATA bytes sent after it; good lists end well with them if `ends` */
	bool ends;
};

static const struct list lists[] = {
	{{BASE, NULL}, true, 0, true},
	{{BASE, "te", "trailers", "content-type", "application/grpc", NULL}, true, 5, true},
	{{BASE, "te", "Trailers", "x-a", "1", NULL}, true, 5, true},
	{{BASE, "x-a", "1", "x-a", "1", "x-a", "2", NULL}, true, 1, true},
	{{BASE, "x-space", " v ", NULL}, true, 0, true},
	{{BASE, "host", "x", NULL}, true, 0, true},
	{{":method", "POST", ":scheme", "http", ":path", "/", "host", "x", NULL}, true, 0, true},
	{{":path", "/b", ":authority", "x", ":scheme", "https", ":method", "GET", NULL},
	 true,
	 0,
	 true},
	{{":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "x", NULL},
	 true,
	 0,
	 true},
	{{":method", "CONNECT", ":authority", "x:1", NULL}, true, 3, true},
	{{BASE, "content-length", "5", NULL}, true, 5, true},
	{{BASE, "content-length", "5", NULL}, true, 4, false},
	{{BASE, "content-length", "5", NULL}, true, 6, false},
	{{BASE, "content-length", "0", NULL}, true, 0, true},
	{{BASE, "content-length", "7", NULL}, false, 0, false},
	{{BASE, "content-length", "5", "content-length", "5", NULL}, false, 5, false},
	{{BASE, "content-length", "-1", NULL}, false, 0, false},
	{{BASE, "content-length", "", NULL}, false, 0, false},
	{{BASE, "content-length", "99999999999999999999", NULL}, false, 0, false},
	{{BASE, "te", "gzip", NULL}, false, 0, false},
	{{BASE, "connection", "close", NULL}, false, 0, false},
	{{BASE, "keep-alive", "1", NULL}, false, 0, false},
	{{BASE, "proxy-connection", "1", NULL}, false, 0, false},
	{{BASE, "transfer-encoding", "chunked", NULL}, false, 0, false},
	{{BASE, "upgrade", "h2c", NULL}, false, 0, false},
	{{BASE, "X-Upper", "1", NULL}, false, 0, false},
	{{BASE, "x a", "1", NULL}, false, 0, false},
	{{BASE, "", "1", NULL}, false, 0, false},
	{{BASE, "x-a", "a\nb", NULL}, false, 0, false},
	{{BASE, "x-a", "a\rb", NULL}, false, 0, false},
	{{BASE, ":path", "/a.B/C", NULL}, false, 0, false},
	{{BASE, ":method", "POST", NULL}, false, 0, false},
	{{BASE, "x-a", "1", ":authority", "x", NULL}, false, 0, false},
	{{":method", "POST", ":scheme", "http", ":path", "/", "x-a", "1", ":authority", "x", NULL},
	 false,
	 0,
	 false},
	{{BASE, ":unknown", "1", NULL}, false, 0, false},
	{{BASE, ":status", "200", NULL}, false, 0, false},
	{{BASE, "host", "x", "host", "x", NULL}, false, 0, false},
	{{BASE, "host", "X:80", NULL}, true, 0, true},
	{{BASE, "host", "y", NULL}, false, 0, false},
	{{BASE, "host", "x:443", NULL}, false, 0, false},
	{{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "x:443", "host", "x",
	  NULL},
	 true,
	 0,
	 true},
	{{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "me@x", NULL},
	 false,
	 0,
	 false},
	{{":scheme", "http", ":path", "/", ":authority", "x", NULL}, false, 0, false},
	{{":method", "GET", ":path", "/", ":authority", "x", NULL}, false, 0, false},
	{{":method", "GET", ":scheme", "http", ":authority", "x", NULL}, false, 0, false},
	{{":method", "GET", ":scheme", "http", ":path", "/", NULL}, false, 0, false},
	{{":method", "GET", ":scheme", "http", ":path", "", ":authority", "x", NULL},
	 false,
	 0,
	 false},
	{{":method", "GET", ":scheme", "http", ":path", "a", ":authority", "x", NULL},
	 false,
	 0,
	 false},
	{{":method", "GET", ":scheme", "http", ":path", "*", ":authority", "x", NULL},
	 false,
	 0,
	 false},
	{{":method", "GET", ":scheme", "http", ":path", "/a b", ":authority", "x", NULL},
	 false,
	 0,
	 false},
	{{":method", "G T", ":scheme", "http", ":path", "/", ":authority", "x", NULL},
	 false,
	 0,
	 false},
	{{":method", "CONNECT", ":authority", "x:1", ":path", "/", NULL}, false, 0, false},
	{{":method", "CONNECT", NULL}, false, 0, false},
	/* More than a session remembers. */
	{{BASE, "a", "1", "b", "1", "c", "1", "d", "1", "e", "1", "f",
	  "1",  "g", "1", "h", "1", "i", "1", "j", "1", "k", "1", NULL},
	 true,
	 0,
	 true},
	{{BASE, "a", "1", "b", "1", "c", "1", "d", "1", "e",       "1", "f",
	  "1",  "g", "1", "h", "1", "i", "1", "j", "1", "upgrade", "1", NULL},
	 false,
	 0,
	 false},
};

/* --- the layer above ----------------------------------------------------------------------------
 */

static char seen[4096]; /* the last list: "name=value\n"... */
static unsigned headers_n, ends_n;

static int on_headers(void *user, struct http2_stream *s, const struct http2_header *h, size_t n,
		      unsigned flags)
{
	static const struct http2_header answer[] = {HTTP2_HEADER(":status", "200")};
	size_t at = 0;

	(void)user;
	(void)flags;
	headers_n++;
	seen[0] = '\0';
	for (size_t i = 0; i < n; i++)
		at += (size_t)snprintf(seen + at, sizeof(seen) - at, "%s=%s\n", h[i].name,
				       h[i].value);
	ck_assert_int_le(http2_stream_respond(s, answer, 1, false), 0);
	return 0;
}

static void on_data(struct http2_stream *s, const uint8_t *p, size_t n)
{
	(void)p;
	http2_stream_consume(s, n);
}

static void on_end(struct http2_stream *s)
{
	(void)s;
	ends_n++;
}

static size_t on_body_next(struct http2_stream *s, size_t max, bool *eof)
{
	(void)s;
	(void)max;
	*eof = true;
	return 0;
}

static void on_body_copy(struct http2_stream *s, uint8_t *dst, size_t n)
{
	(void)s;
	memset(dst, 0, n);
}

static void on_closed(struct http2_stream *s, uint32_t code, bool by_peer)
{
	(void)s;
	(void)code;
	(void)by_peer;
}

static const struct http2_events events = {on_headers,   on_data,      on_end,
					   on_body_next, on_body_copy, on_closed};

static struct wire out;

static int out_reserve(void *ctx, size_t wanted, uint8_t **buf, size_t *room)
{
	(void)ctx;
	(void)wanted;
	*buf = out.b;
	*room = sizeof(out.b);
	return 0;
}

static void out_commit(void *ctx, size_t n)
{
	(void)ctx;
	(void)n;
}

static const struct http2_out out_ops = {out_reserve, out_commit, NULL, NULL};

/* --- the client ----------------------------------------------------------------------------------
 */

static struct wire in;

static void send_list(nghttp2_hd_deflater *d, struct random *rng, const struct list *l, uint32_t id)
{
	static uint8_t block[8192];
	static const uint8_t body[16];
	nghttp2_nv nv[FIELDS_MAX];
	uint64_t style = random_below(rng, 3); /* all indexed, all literal, mixed */
	size_t n = 0;
	ssize_t bytes;

	for (; l->field[2 * n] != NULL; n++) {
		const char *const *f = &l->field[2 * n];
		bool literal = style == 1 || (style == 2 && random_below(rng, 2));

		nv[n] = (nghttp2_nv){(uint8_t *)(uintptr_t)f[0], (uint8_t *)(uintptr_t)f[1],
				     strlen(f[0]), strlen(f[1]),
				     literal ? NGHTTP2_NV_FLAG_NO_INDEX : 0};
	}
	bytes = nghttp2_hd_deflate_hd(d, block, sizeof(block), nv, n);
	ck_assert_int_gt(bytes, 0);
	in.n = 0;
	wire_frame(&in, NGHTTP2_HEADERS,
		   NGHTTP2_FLAG_END_HEADERS | (l->body == 0 ? NGHTTP2_FLAG_END_STREAM : 0), id,
		   block, (size_t)bytes);
	if (l->body > 0)
		wire_frame(&in, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, id, body, (size_t)l->body);
}

static void list_text(const struct list *l, char *text, size_t bytes)
{
	size_t at = 0;

	text[0] = '\0';
	for (size_t i = 0; l->field[2 * i] != NULL; i++)
		at += (size_t)snprintf(text + at, bytes - at, "%s=%s\n", l->field[2 * i],
				       l->field[2 * i + 1]);
}

START_TEST(every_order)
{
	struct http2_config config;
	struct http2_engine *engine;
	struct http2_session *session;
	const struct http2_counters *c;
	nghttp2_hd_deflater *d;
	struct random rng;
	char text[4096];

	random_seed(&rng, 20 + (uint64_t)_i);
	http2_config_default(&config, 2);
	config.resets = (struct http2_budget){1000000, 1000000};
	ck_assert_int_eq(http2_engine_create(&config, &events, &engine), 0);
	ck_assert_int_eq(http2_session_create(engine, &out_ops, NULL, &session), 0);
	ck_assert_int_eq(nghttp2_hd_deflate_new(&d, 4096), 0);
	c = http2_engine_counters(engine);
	wire_preface(&in);
	ck_assert_int_eq(http2_session_recv(session, in.b, in.n, 1), 0);
	for (uint32_t round = 0, at = 0; round < 4000; round++) {
		const struct list *l;
		unsigned headers = headers_n, ends = ends_n;
		uint64_t malformed = c->rx_malformed;

		/* Half of the time the same again: that is what clients do. */
		if (random_below(&rng, 2))
			at = (uint32_t)random_below(&rng, sizeof(lists) / sizeof(lists[0]));
		l = &lists[at];
		send_list(d, &rng, l, 2 * round + 1);
		ck_assert_int_eq(http2_session_recv(session, in.b, in.n, 2 + round), 0);
		ck_assert_int_eq(http2_session_send(session, SIZE_MAX), 0);
		list_text(l, text, sizeof(text));
		ck_assert_msg(headers_n - headers == l->good, "list %u: %s", at, text);
		ck_assert_msg(ends_n - ends == (l->good && l->ends && l->body > 0), "list %u: %s",
			      at, text);
		ck_assert_msg((c->rx_malformed != malformed) == !(l->good && l->ends),
			      "list %u: %s", at, text);
		if (l->good)
			ck_assert_str_eq(seen, text);
		ck_assert_uint_eq(http2_session_streams(session), 0);
	}
	nghttp2_hd_deflate_del(d);
	http2_session_destroy(session);
	ck_assert_uint_eq(http2_engine_memory_used(engine), 0);
	http2_engine_destroy(engine);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("http2/fields");
	TCase *t = tcase_create("fields");
	SRunner *r;
	int failed;

	tcase_add_loop_test(t, every_order, 0, 4);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
