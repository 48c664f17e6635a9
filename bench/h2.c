#include "bench/h2.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

enum {
	DATA,
	HEADERS,
	PRIORITY,
	RST_STREAM,
	SETTINGS,
	PUSH_PROMISE,
	PING,
	GOAWAY,
	WINDOW_UPDATE,
	CONTINUATION
};

#define END_STREAM  0x1
#define ACK         0x1
#define END_HEADERS 0x4
#define PADDED      0x8
#define PRIORITY_ON 0x20

#define WINDOW     (1 << 30)
#define BLOCK_MAX  65536u
#define FRAME_HEAD 9u
#define OUT_MARGIN 1024u /* a call's frames but for its DATA */

/* ---- templates ------------------------------------------------------------------------------ */

/* A literal field: new name; inserted into the table or not. RFC 7541 s6.2. Lengths below 127. */
static uint8_t *literal(uint8_t *p, bool insert, unsigned name_index, const char *name,
			const char *value)
{
	size_t n;

	*p++ = (uint8_t)((insert ? 0x40 : 0x00) | name_index);
	if (name_index == 0) {
		n = strlen(name);
		*p++ = (uint8_t)n;
		memcpy(p, name, n);
		p += n;
	}
	n = strlen(value);
	*p++ = (uint8_t)n;
	memcpy(p, value, n);
	return p + n;
}

/* Static indices of RFC 7541, appendix A; below 15, so that they fit both prefixes. */
#define HPACK_METHOD_POST 3
#define HPACK_SCHEME_HTTP 6
#define HPACK_PATH        4
#define HPACK_AUTHORITY   1

static uint32_t block(uint8_t *out, bool insert, const char *path, const char *authority)
{
	uint8_t *p = out;

	*p++ = 0x80 | HPACK_METHOD_POST;
	*p++ = 0x80 | HPACK_SCHEME_HTTP;
	p = literal(p, insert, HPACK_PATH, NULL, path);
	p = literal(p, insert, HPACK_AUTHORITY, NULL, authority);
	p = literal(p, insert, 0, "content-type", "application/grpc");
	p = literal(p, insert, 0, "te", "trailers");
	p = literal(p, insert, 0, "user-agent", "split-perf/" SPLITD_VERSION);
	return (uint32_t)(p - out);
}

static size_t varint_put(uint8_t *p, uint64_t v)
{
	size_t n = 0;

	for (; v >= 0x80; v >>= 7)
		p[n++] = (uint8_t)(v | 0x80);
	p[n++] = (uint8_t)v;
	return n;
}

/* Numbers of EchoMessage's fields. */
#define FIELD_REPLY_BYTES 2
#define FIELD_REPLIES     4

/* EchoMessage{payload: size bytes, field: value}; no field where that is 0. */
static bool message_init(struct h2_message *m, uint32_t size, unsigned field_number, uint32_t value)
{
	size_t n = 5;

	m->bytes = malloc((size_t)size + 32);
	if (m->bytes == NULL)
		return false;
	if (size != 0) {
		m->bytes[n++] = 0x0a;
		n += varint_put(m->bytes + n, size);
		if (size >= 8)
			m->serial_at = (uint32_t)n;
		for (uint32_t i = 0; i < size; i++)
			m->bytes[n + i] = (uint8_t)i;
		n += size;
	}
	if (field_number != 0 && value != 0) {
		m->bytes[n++] = (uint8_t)(field_number << 3);
		n += varint_put(m->bytes + n, value);
	}
	m->bytes[0] = 0;
	be32_store(m->bytes + 1, (uint32_t)(n - 5));
	m->n = (uint32_t)n;
	return true;
}

static int headers_init(struct h2_template *t, const char *path, const char *authority)
{
	/* What the first block has inserted, the newest first: 62 is user-agent, 66 is :path. */
	static const uint8_t indexed[] = {0x80 | HPACK_METHOD_POST,
					  0x80 | HPACK_SCHEME_HTTP,
					  0x80 | 66,
					  0x80 | 65,
					  0x80 | 64,
					  0x80 | 63,
					  0x80 | 62};

	memset(t, 0, sizeof(*t));
	if (strlen(path) > 126 || strlen(authority) > 126)
		return -SPLIT_E_BASE_INVALID;
	t->first_n = block(t->first, true, path, authority);
	t->plain_n = block(t->plain, false, path, authority);
	memcpy(t->next, indexed, sizeof(indexed));
	t->next_n = sizeof(indexed);
	return 0;
}

int h2_template_init(struct h2_template *t, const char *path, const char *authority,
		     enum h2_kind kind, uint32_t messages, uint32_t size)
{
	bool client_streams = kind == H2_CLIENT || kind == H2_BIDI;
	bool server_streams = kind == H2_SERVER || kind == H2_BIDI;
	int err = headers_init(t, path, authority);

	if (err != 0)
		return err;
	t->requests = client_streams ? messages : 1;
	t->replies = server_streams ? messages : 1;
	t->in_turns = kind == H2_BIDI;
	if (!message_init(&t->request, size, kind == H2_SERVER ? FIELD_REPLIES : 0, messages) ||
	    !message_init(&t->reply, size, kind == H2_CLIENT ? FIELD_REPLY_BYTES : 0,
			  (uint32_t)((uint64_t)messages * size))) {
		h2_template_fini(t);
		return -SPLIT_E_BASE_NOMEM;
	}
	return 0;
}

int h2_template_init_bytes(struct h2_template *t, const char *path, const char *authority,
			   uint8_t *request, size_t request_bytes, uint8_t *reply,
			   size_t reply_bytes)
{
	int err = headers_init(t, path, authority);

	t->request = (struct h2_message){.bytes = request, .n = (uint32_t)request_bytes};
	t->reply = (struct h2_message){.bytes = reply, .n = (uint32_t)reply_bytes};
	t->requests = t->replies = 1;
	return err;
}

void h2_template_fini(struct h2_template *t)
{
	free(t->request.bytes);
	free(t->reply.bytes);
	t->request.bytes = t->reply.bytes = NULL;
}

/* ---- output --------------------------------------------------------------------------------- */

/* Room for `n` more bytes, or NULL: the connection has failed. */
static uint8_t *out_room(struct h2_conn *c, size_t n)
{
	if (c->out_at != 0 && (c->out_at == c->out_n || c->out_n + n > c->out_max)) {
		memmove(c->out, c->out + c->out_at, c->out_n - c->out_at);
		c->out_n -= c->out_at;
		c->out_at = 0;
	}
	if (c->out_n + n > c->out_max) {
		size_t max = (c->out_n + n) * 2;
		uint8_t *out = realloc(c->out, max);

		if (out == NULL) {
			h2_fail(c, "out of memory");
			return NULL;
		}
		c->out = out;
		c->out_max = max;
	}
	return c->out + c->out_n;
}

static uint8_t *frame_head(uint8_t *p, uint32_t bytes, uint8_t type, uint8_t flags, uint32_t stream)
{
	p[0] = (uint8_t)(bytes >> 16);
	p[1] = (uint8_t)(bytes >> 8);
	p[2] = (uint8_t)bytes;
	p[3] = type;
	p[4] = flags;
	be32_store(p + 5, stream);
	return p + FRAME_HEAD;
}

static void frame_put(struct h2_conn *c, uint8_t type, uint8_t flags, uint32_t stream,
		      const void *bytes, uint32_t n)
{
	uint8_t *p = out_room(c, FRAME_HEAD + n);

	if (p == NULL)
		return;
	p = frame_head(p, n, type, flags, stream);
	if (n != 0)
		memcpy(p, bytes, n);
	c->out_n += FRAME_HEAD + n;
}

static void window_put(struct h2_conn *c, uint32_t stream, uint32_t bytes)
{
	uint8_t update[4];

	be32_store(update, bytes);
	frame_put(c, WINDOW_UPDATE, 0, stream, update, sizeof(update));
}

/* The request's bytes [from, from + n), with the call's number in them. */
static void body_copy(const struct h2_conn *c, const struct h2_call *call, uint8_t *to,
		      uint32_t from, uint32_t n)
{
	uint32_t at = c->t->request.serial_at;
	uint8_t serial[8];

	memcpy(to, c->t->request.bytes + from, n);
	if (at == 0 || from + n <= at || from >= at + 8)
		return;
	memcpy(serial, &call->serial, 8);
	for (uint32_t i = 0; i < 8; i++) {
		if (at + i >= from && at + i < from + n)
			to[at + i - from] = serial[i];
	}
}

/* Whether these are the reply's bytes [from, from + n). */
static bool body_equal(const struct h2_conn *c, const struct h2_call *call, const uint8_t *bytes,
		       uint32_t from, uint32_t n)
{
	uint32_t at = c->t->reply.serial_at;
	uint8_t serial[8];

	if (at == 0 || from + n <= at || from >= at + 8)
		return memcmp(bytes, c->t->reply.bytes + from, n) == 0;
	memcpy(serial, &call->serial, 8);
	if (from <= at && from + n >= at + 8)
		return memcmp(bytes, c->t->reply.bytes + from, at - from) == 0 &&
		       memcmp(bytes + (at - from), serial, 8) == 0 &&
		       memcmp(bytes + (at - from) + 8, c->t->reply.bytes + at + 8,
			      from + n - at - 8) == 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t o = from + i;
		uint8_t want = o >= at && o < at + 8 ? serial[o - at] : c->t->reply.bytes[o];

		if (bytes[i] != want)
			return false;
	}
	return true;
}

/* How far a call may send: to the end, or to the end of the message whose turn it is. */
static uint64_t send_end(const struct h2_conn *c, const struct h2_call *call)
{
	const struct h2_template *t = c->t;
	uint64_t turn = call->got / t->reply.n + 1;

	if (t->in_turns && turn < t->requests)
		return turn * t->request.n;
	return (uint64_t)t->requests * t->request.n;
}

/* DATA of one call as far as windows go. True when nothing more can go before something comes. */
static bool call_send(struct h2_conn *c, struct h2_call *call)
{
	const struct h2_template *t = c->t;
	uint64_t end = send_end(c, call), all = (uint64_t)t->requests * t->request.n;

	while (call->sent < end) {
		uint32_t from = (uint32_t)(call->sent % t->request.n);
		int64_t n = t->request.n - from;
		uint8_t *p;

		n = n < c->frame_max ? n : c->frame_max;
		n = n < c->window ? n : c->window;
		n = n < call->window ? n : call->window;
		if (n <= 0)
			return false;
		p = out_room(c, FRAME_HEAD + (size_t)n);
		if (p == NULL)
			return false;
		p = frame_head(p, (uint32_t)n, DATA,
			       call->sent + (uint64_t)n == all ? END_STREAM : 0, call->stream);
		body_copy(c, call, p, from, (uint32_t)n);
		c->out_n += FRAME_HEAD + (size_t)n;
		call->sent += (uint64_t)n;
		call->window -= n;
		c->window -= n;
	}
	return true;
}

static void sending_go_on(struct h2_conn *c)
{
	struct list *pos = c->sending.next;

	while (pos != &c->sending && c->window > 0 && !c->failed) {
		struct h2_call *call = list_entry(pos, struct h2_call, link);

		pos = pos->next;
		if (call_send(c, call))
			list_del(&call->link);
	}
}

static struct h2_call **slot_of(struct h2_conn *c, uint32_t stream)
{
	return &c->by_stream[stream / 2 & c->map_mask];
}

void h2_start(struct h2_conn *c, uint64_t begin_ns)
{
	const struct h2_template *t = c->t;
	struct h2_call *call = list_entry(list_pop_head(&c->free), struct h2_call, link);
	const uint8_t *block_bytes = c->no_table ? t->plain : c->first_out ? t->next : t->first;
	uint32_t n = c->no_table ? t->plain_n : c->first_out ? t->next_n : t->first_n;

	/* Numbers may be left out; one whose place is still taken is. RFC 9113 s5.1.1 */
	while (*slot_of(c, c->next_stream) != NULL)
		c->next_stream += 2;
	*call = (struct h2_call){
		.begin_ns = begin_ns,
		.serial = ++c->serial,
		.stream = c->next_stream,
		.window = c->window_initial,
	};
	list_init(&call->link);
	c->next_stream += 2;
	*slot_of(c, call->stream) = call;
	c->open++;
	frame_put(c, HEADERS, END_HEADERS, call->stream, block_bytes, n);
	c->first_out = true;
	if (!c->failed && !call_send(c, call) && !c->failed)
		list_add_tail(&c->sending, &call->link);
}

const uint8_t *h2_output(struct h2_conn *c, size_t *n_out)
{
	*n_out = c->out_n - c->out_at;
	return c->out + c->out_at;
}

void h2_output_taken(struct h2_conn *c, size_t n)
{
	c->out_at += n;
	if (c->out_at == c->out_n)
		c->out_at = c->out_n = 0;
}

/* ---- the end of a call ---------------------------------------------------------------------- */

static void call_end(struct h2_conn *c, struct h2_call *call, bool ok)
{
	*slot_of(c, call->stream) = NULL;
	list_del(&call->link);
	call->stream = 0;
	list_add_tail(&c->free, &call->link);
	c->open--;
	c->t->done(c->t->ctx, c, call, ok);
}

void h2_fail(struct h2_conn *c, const char *why)
{
	if (c->failed)
		return;
	c->failed = true;
	c->why = why;
	for (uint32_t i = 0; i < c->calls_n; i++) {
		if (c->calls[i].stream != 0)
			call_end(c, &c->calls[i], false);
	}
}

static struct h2_call *call_of(struct h2_conn *c, uint32_t stream)
{
	struct h2_call *call = *slot_of(c, stream);

	return call != NULL && call->stream == stream ? call : NULL;
}

static void call_over(struct h2_conn *c, struct h2_call *call)
{
	const struct h2_template *t = c->t;
	bool ok = !call->bad && call->status_ok && call->got == (uint64_t)t->replies * t->reply.n;

	/* Answered before all was sent: allowed, but not by an echo. */
	call_end(c, call, ok && call->sent == (uint64_t)t->requests * t->request.n);
}

/* ---- input ---------------------------------------------------------------------------------- */

/* Bytes of the call's replies, one message or several. */
static void reply_input(struct h2_conn *c, struct h2_call *call, const uint8_t *bytes, uint32_t n)
{
	const struct h2_template *t = c->t;

	if (n > (uint64_t)t->replies * t->reply.n - call->got || !call->headers)
		call->bad = true;
	while (n != 0 && !call->bad) {
		uint32_t from = (uint32_t)(call->got % t->reply.n);
		uint32_t part = t->reply.n - from < n ? t->reply.n - from : n;

		if (!body_equal(c, call, bytes, from, part))
			call->bad = true;
		call->got += part;
		bytes += part;
		n -= part;
	}
}

static void data_input(struct h2_conn *c, const uint8_t *bytes, uint32_t n, bool last)
{
	struct h2_call *call = call_of(c, c->stream);

	c->consumed += n;
	if (c->consumed >= WINDOW / 2) {
		window_put(c, 0, (uint32_t)c->consumed);
		c->consumed = 0;
	}
	if (call == NULL)
		return;
	reply_input(c, call, bytes, n);
	call->consumed += n;
	if (call->consumed >= WINDOW / 2) {
		window_put(c, c->stream, (uint32_t)call->consumed);
		call->consumed = 0;
	}
	if (c->t->in_turns && list_empty(&call->link) && !call_send(c, call) && !c->failed)
		list_add_tail(&c->sending, &call->link);
	if (last && (c->flags & END_STREAM) != 0)
		call_over(c, call);
}

/* One representation each byte: an indexed field, RFC 7541 s6.1. */
static bool only_indexed(const uint8_t *bytes, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (bytes[i] <= 0x80 || bytes[i] == 0xff)
			return false;
	}
	return n != 0 && n <= sizeof(((struct h2_conn *)NULL)->known[0].bytes);
}

struct found {
	bool status_200, grpc_status, grpc_ok;
};

static void field(const nghttp2_nv *nv, struct found *f)
{
	if (nv->namelen == 7 && memcmp(nv->name, ":status", 7) == 0)
		f->status_200 = nv->valuelen == 3 && memcmp(nv->value, "200", 3) == 0;
	if (nv->namelen == 11 && memcmp(nv->name, "grpc-status", 11) == 0) {
		f->grpc_status = true;
		f->grpc_ok = nv->valuelen == 1 && nv->value[0] == '0';
	}
}

static bool inflate(struct h2_conn *c, const uint8_t *bytes, uint32_t n, struct found *f)
{
	size_t at = 0;

	for (;;) {
		int flags = 0;
		nghttp2_nv nv;
		ssize_t used =
			nghttp2_hd_inflate_hd2(c->inflater, &nv, &flags, bytes + at, n - at, 1);

		if (used < 0)
			return false;
		at += (size_t)used;
		if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0)
			field(&nv, f);
		if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0)
			break;
		if ((flags & NGHTTP2_HD_INFLATE_EMIT) == 0 && at == n)
			return false;
	}
	(void)nghttp2_hd_inflate_end_headers(c->inflater);
	return true;
}

static void headers_input(struct h2_conn *c, uint32_t stream, uint8_t flags, const uint8_t *bytes,
			  uint32_t n)
{
	struct h2_call *call = call_of(c, stream);
	bool trailers = call != NULL && call->headers, indexed = only_indexed(bytes, n);
	struct found f = {0};

	if (indexed && call != NULL && c->known[trailers].n == n &&
	    memcmp(c->known[trailers].bytes, bytes, n) == 0) {
		call->status_ok = trailers;
	} else {
		if (!inflate(c, bytes, n, &f)) {
			h2_fail(c, "a header block that cannot be decoded");
			return;
		}
		if (!indexed) /* the table may have moved */
			c->known[0].n = c->known[1].n = 0;
		if (call == NULL)
			return;
		if (trailers)
			call->status_ok = f.grpc_status && f.grpc_ok;
		else if (!f.status_200)
			call->bad = true;
		if (indexed && (trailers ? call->status_ok : f.status_200 && !f.grpc_status)) {
			memcpy(c->known[trailers].bytes, bytes, n);
			c->known[trailers].n = n;
		}
	}
	call->headers = true;
	if ((flags & END_STREAM) != 0)
		call_over(c, call);
}

static void settings_input(struct h2_conn *c, const uint8_t *p, uint32_t n)
{
	for (; n >= 6; p += 6, n -= 6) {
		uint32_t value = be32_load(p + 2);

		switch (p[0] << 8 | p[1]) {
		case 1: /* HEADER_TABLE_SIZE: our five entries want about 300 bytes */
			if (value < 512)
				c->no_table = true;
			break;
		case 3:
			c->streams_max = value;
			break;
		case 4: /* RFC 9113 s6.9.2: moves every stream's window */
			for (uint32_t i = 0; i < c->calls_n; i++)
				c->calls[i].window += (int64_t)value - c->window_initial;
			c->window_initial = value;
			break;
		case 5:
			c->frame_max = value;
			break;
		default:
			break;
		}
	}
	frame_put(c, SETTINGS, ACK, 0, NULL, 0);
	c->ready = true;
	sending_go_on(c);
}

static void window_input(struct h2_conn *c, uint32_t stream, const uint8_t *p, uint32_t n)
{
	struct h2_call *call = stream != 0 ? call_of(c, stream) : NULL;
	uint32_t more = n == 4 ? be32_load(p) & 0x7fffffff : 0;

	if (stream == 0)
		c->window += more;
	else if (call != NULL)
		call->window += more;
	if (!list_empty(&c->sending))
		sending_go_on(c);
}

/* A whole frame that is not DATA. */
static void frame_input(struct h2_conn *c, const uint8_t *p, uint32_t n)
{
	struct h2_call *call;

	switch (c->type) {
	case HEADERS:
		headers_input(c, c->stream, c->flags, p, n);
		break;
	case RST_STREAM:
		call = call_of(c, c->stream);
		if (call != NULL)
			call_end(c, call, false);
		break;
	case SETTINGS:
		if ((c->flags & ACK) == 0)
			settings_input(c, p, n);
		break;
	case PING:
		if ((c->flags & ACK) == 0)
			frame_put(c, PING, ACK, 0, p, n);
		break;
	case GOAWAY:
		c->ready = false;
		break;
	case WINDOW_UPDATE:
		window_input(c, c->stream, p, n);
		break;
	default:
		break;
	}
}

/* The header's nine bytes are there. */
static void head_parse(struct h2_conn *c, const uint8_t *p)
{
	c->left = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
	c->type = p[3];
	c->flags = p[4];
	c->stream = be32_load(p + 5) & 0x7fffffff;
	if (c->left > 16384)
		h2_fail(c, "a frame larger than allowed");
	else if (c->type == PUSH_PROMISE ||
		 ((c->type == DATA || c->type == HEADERS) && (c->flags & PADDED) != 0) ||
		 (c->type == HEADERS && (c->flags & PRIORITY_ON) != 0))
		h2_fail(c, "padding, priorities or a push, which split-perf does not speak");
	else if ((c->type == CONTINUATION) != (c->block_stream != 0))
		h2_fail(c, "a header block that is interrupted");
}

/* A header block in pieces is put together in `in`. True while it goes on. */
static bool block_goes_on(struct h2_conn *c)
{
	if (c->type == HEADERS && (c->flags & END_HEADERS) == 0) {
		c->block_stream = c->stream;
		c->block_flags = c->flags;
		return true;
	}
	if (c->type != CONTINUATION)
		return false;
	if ((c->flags & END_HEADERS) == 0)
		return true;
	c->type = HEADERS;
	c->flags = c->block_flags;
	c->block_stream = 0;
	return false;
}

static void frame_end(struct h2_conn *c, const uint8_t *p, uint32_t n)
{
	if (block_goes_on(c))
		return;
	frame_input(c, p, n);
	c->in_n = 0;
}

static bool in_append(struct h2_conn *c, const uint8_t *bytes, uint32_t n)
{
	if (c->in_n + n > BLOCK_MAX) {
		h2_fail(c, "a header block larger than 64 KiB");
		return false;
	}
	memcpy(c->in + c->in_n, bytes, n);
	c->in_n += n;
	return true;
}

/* Payload of the frame at hand; returns how many bytes it took. */
static size_t payload_input(struct h2_conn *c, const uint8_t *bytes, size_t n)
{
	uint32_t take = n < c->left ? (uint32_t)n : c->left;
	bool last = take == c->left;

	c->left -= take;
	if (c->type == DATA) {
		data_input(c, bytes, take, last);
		return take;
	}
	if (last && c->in_n == 0 && c->block_stream == 0 &&
	    !(c->type == HEADERS && (c->flags & END_HEADERS) == 0)) {
		frame_input(c, bytes, take); /* whole, where it lies */
		return take;
	}
	if (in_append(c, bytes, take) && last)
		frame_end(c, c->in, c->in_n);
	return take;
}

void h2_input(struct h2_conn *c, const uint8_t *bytes, size_t n)
{
	while (n != 0 && !c->failed) {
		size_t used;

		if (c->head_n < FRAME_HEAD) {
			used = n < FRAME_HEAD - c->head_n ? n : FRAME_HEAD - c->head_n;
			memcpy(c->head + c->head_n, bytes, used);
			c->head_n += (uint32_t)used;
			if (c->head_n == FRAME_HEAD) {
				head_parse(c, c->head);
				/* An empty payload is whole already. */
				if (c->left == 0 && !c->failed)
					(void)payload_input(c, bytes, 0);
			}
		} else {
			used = payload_input(c, bytes, n);
		}
		if (c->head_n == FRAME_HEAD && c->left == 0)
			c->head_n = 0;
		bytes += used;
		n -= used;
	}
}

/* ---- connections ---------------------------------------------------------------------------- */

static void preface_put(struct h2_conn *c)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	/* ENABLE_PUSH 0, INITIAL_WINDOW_SIZE 2^30 */
	static const uint8_t settings[] = {0, 2, 0, 0, 0, 0, 0, 4, 0x40, 0, 0, 0};
	uint8_t *p = out_room(c, sizeof(preface) - 1);

	if (p == NULL)
		return;
	memcpy(p, preface, sizeof(preface) - 1);
	c->out_n += sizeof(preface) - 1;
	frame_put(c, SETTINGS, 0, 0, settings, sizeof(settings));
	window_put(c, 0, WINDOW);
}

int h2_conn_init(struct h2_conn *c, const struct h2_template *t, uint32_t streams, void *user)
{
	uint32_t map = (uint32_t)pow2_up((uint64_t)streams * 8);

	memset(c, 0, sizeof(*c));
	list_init(&c->free);
	list_init(&c->sending);
	c->t = t;
	c->user = user;
	c->map_mask = map - 1;
	c->next_stream = 1;
	c->window = c->window_initial = 65535;
	c->frame_max = 16384;
	c->streams_max = UINT32_MAX;
	c->calls = calloc(streams, sizeof(*c->calls));
	c->by_stream = calloc(map, sizeof(struct h2_call *));
	c->in = malloc(BLOCK_MAX);
	c->out_max = OUT_MARGIN;
	c->out = malloc(c->out_max);
	if (c->calls == NULL || c->by_stream == NULL || c->in == NULL || c->out == NULL ||
	    nghttp2_hd_inflate_new(&c->inflater) != 0) {
		h2_conn_fini(c);
		return -SPLIT_E_BASE_NOMEM;
	}
	c->calls_n = streams;
	for (uint32_t i = 0; i < streams; i++)
		list_add_tail(&c->free, &c->calls[i].link);
	preface_put(c);
	return 0;
}

void h2_conn_fini(struct h2_conn *c)
{
	nghttp2_hd_inflate_del(c->inflater);
	free(c->calls);
	free(c->by_stream);
	free(c->in);
	free(c->out);
	memset(c, 0, sizeof(*c));
}
