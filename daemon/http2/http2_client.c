/* Client sessions on nghttp2, which also checks the answers' form (RFC 9113 s8.3.2).
 *
 * Unlike in the server's sessions body bytes pass through nghttp2's frame buffer on their way out:
 * every frame is then a run of bytes that stays valid until the next nghttp2_session_mem_send, and
 * `pending` is all there is to remember when the room ends inside one. */
#include "daemon/http2/http2_client.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "daemon/http2/http2_internal.h"

COUNTER_DEFINE(http2_client, HTTP2_CLIENT_COUNTERS);

/* Debian's 1.52 counts each piece of a CONTINUATION's header that it is fed as a frame; nine pieces
 * each for more frames than a header list within its limits needs. */
#define CONTINUATIONS_MAX 128
/* A frame of data that we send lets the server send so many window updates and the like. */
#define FRAMES_EARNED 4
/* RFC 9113 s5.1.1: 31 bits; long before that another connection is made. */
#define STREAM_ID_LAST (1 << 30)

static const char too_many_pings[] = "too_many_pings";

/* A header list that is being received; in the engine's memory. */
struct header_list {
	uint32_t fields, text;  /* so far */
	uint32_t counted, seen; /* as RFC 9113 s6.5.2; over all fields */
	bool over;
	struct http2_header h[]; /* headers_max, then the text */
};

struct http2_client_engine {
	struct http2_client_config config;
	const struct http2_client_events *events;
	nghttp2_session_callbacks *callbacks;
	nghttp2_option *option;
	struct http2_memory memory;
	struct pool sessions;
	struct pool streams;
	struct http2_client_counters counters;
};

struct http2_client_session {
	nghttp2_session *ng;
	struct http2_client_engine *engine;
	struct http2_out out;
	void *user;
	struct list streams;
	unsigned streams_open;
	int error;
	struct http2_pocket pocket;
	struct header_list *list;
	uint32_t header_bytes_max;
	struct flood_level level;
	uint64_t now_ns;
	uint32_t goaway_code;
	const uint8_t *pending;
	size_t pending_len;
	bool ready, goaway, goaway_pings, leaving, finished;
	bool in_io, wanted_told;
};

enum {
	CLIENT_STREAM_ANSWERED = 0x1, /* the final header list came */
	CLIENT_STREAM_SENT = 0x2,     /* the request's HEADERS are out */
	CLIENT_STREAM_EOF = 0x4,      /* our side has ended */
	CLIENT_STREAM_END = 0x8,      /* the answer has ended */
	CLIENT_STREAM_RESET = 0x10,
	CLIENT_STREAM_PEER = 0x20,
	CLIENT_STREAM_WAITING = 0x40,
};

struct http2_client_stream {
	struct list link;
	struct http2_client_session *session;
	int32_t id;
	uint32_t flags;
	uint32_t consumed;
	_Alignas(16) uint8_t user[];
};

void http2_client_config_default(struct http2_client_config *config, uint32_t sessions_max)
{
	*config = (struct http2_client_config){
		.sessions_max = sessions_max,
		.streams_total = 4096,
		.window_stream = 256 * 1024,
		.window_connection = 4 * 1024 * 1024,
		.header_bytes_max = 16 * 1024,
		.headers_max = 128,
		.memory_bytes = (uint64_t)sessions_max * 96 * 1024 + (8u << 20),
		.session_bytes_max = 4u << 20,
		.frames = {10000, 1000},
	};
}

/* ---- events from nghttp2 ----------------------------------------------------------------------
 */

static void session_fail(struct http2_client_session *s, uint32_t code, int error)
{
	if (s->error != 0)
		return;
	s->error = error;
	counter_inc(&s->engine->counters.sessions_failed);
	if (nghttp2_session_terminate_session(s->ng, code) != 0)
		s->finished = true;
}

static void send_wanted(struct http2_client_session *s)
{
	if (s->in_io || s->wanted_told || s->out.wanted == NULL)
		return;
	s->wanted_told = true;
	s->out.wanted(s->out.ctx);
}

/* A frame without effect: spend one. */
static void frames_spend(struct http2_client_session *s)
{
	const struct http2_budget *b = &s->engine->config.frames;
	struct flood_level *level = &s->level;
	uint64_t earned = (s->now_ns - level->refilled_ns) / CLOCK_NS_PER_MS * b->per_second / 1000;

	if (earned > 0) {
		level->refilled_ns = s->now_ns;
		level->left += (int64_t)(earned < b->burst ? earned : b->burst);
		if (level->left > (int64_t)b->burst)
			level->left = b->burst;
	}
	if (--level->left >= 0)
		return;
	counter_inc(&s->engine->counters.flood_frames);
	session_fail(s, HTTP2_ENHANCE_YOUR_CALM, -SPLIT_E_HTTP2_FLOOD);
}

static struct http2_client_stream *stream_of(struct http2_client_session *s, int32_t id)
{
	return nghttp2_session_get_stream_user_data(s->ng, id);
}

static void list_drop(struct http2_client_session *s)
{
	if (s->list != NULL)
		http2_client_engine_free(s->engine, s->list);
	s->list = NULL;
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
	struct http2_client_session *s = user;
	const struct http2_client_config *c = &s->engine->config;
	size_t bytes = sizeof(struct header_list) + c->headers_max * sizeof(struct http2_header) +
		       s->header_bytes_max;

	(void)ng;
	(void)frame;
	list_drop(s);
	s->list = http2_client_engine_alloc(s->engine, bytes);
	if (s->list == NULL) {
		session_fail(s, HTTP2_INTERNAL_ERROR, -SPLIT_E_HTTP2_NOMEM);
		return 0;
	}
	memset(s->list, 0, sizeof(*s->list));
	return 0;
}

static const char *text_add(struct http2_client_session *s, nghttp2_vec v)
{
	struct header_list *list = s->list;
	char *at = (char *)&list->h[s->engine->config.headers_max] + list->text;

	memcpy(at, v.base, v.len);
	at[v.len] = '\0';
	list->text += (uint32_t)v.len + 1;
	return at;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, nghttp2_rcbuf *name_buf,
		     nghttp2_rcbuf *value_buf, uint8_t flags, void *user)
{
	struct http2_client_session *s = user;
	const struct http2_client_config *c = &s->engine->config;
	nghttp2_vec name = nghttp2_rcbuf_get_buf(name_buf);
	nghttp2_vec value = nghttp2_rcbuf_get_buf(value_buf);
	struct header_list *list = s->list;
	uint64_t counted;

	(void)ng;
	(void)frame;
	(void)flags;
	if (list == NULL || s->error != 0)
		return 0;
	list->seen++;
	counted = (uint64_t)list->counted + name.len + value.len + 32;
	if (counted > s->header_bytes_max || list->fields >= c->headers_max) {
		if (!list->over)
			counter_inc(&s->engine->counters.headers_over);
		list->over = true;
		list->counted = counted < UINT32_MAX ? (uint32_t)counted : UINT32_MAX;
		if (counted <= 4 * (uint64_t)s->header_bytes_max &&
		    list->seen <= 4 * c->headers_max)
			return 0;
		counter_inc(&s->engine->counters.headers_bombs);
		session_fail(s, HTTP2_ENHANCE_YOUR_CALM, -SPLIT_E_HTTP2_FLOOD);
		return 0;
	}
	list->counted = (uint32_t)counted;
	list->h[list->fields] = (struct http2_header){
		.name_len = name.len,
		.value_len = value.len,
	};
	list->h[list->fields].name = text_add(s, name);
	list->h[list->fields].value = text_add(s, value);
	list->fields++;
	return 0;
}

/* Our side has not ended: nobody reads it any more (RFC 9113 s8.1). */
static void answer_ended(struct http2_client_stream *stream)
{
	stream->flags |= CLIENT_STREAM_END;
	if (!(stream->flags & (CLIENT_STREAM_EOF | CLIENT_STREAM_RESET)))
		http2_client_stream_reset(stream, HTTP2_NO_ERROR);
}

static void headers_received(struct http2_client_session *s, const nghttp2_frame *frame)
{
	struct http2_client_stream *stream = stream_of(s, frame->hd.stream_id);
	struct header_list *list = s->list;
	unsigned flags = 0;

	if (stream == NULL || list == NULL || (stream->flags & CLIENT_STREAM_RESET))
		goto out;
	if (!(stream->flags & CLIENT_STREAM_ANSWERED) && list->fields > 0 &&
	    strcmp(list->h[0].name, ":status") == 0 && list->h[0].value[0] == '1')
		goto out; /* interim (RFC 9110 s15.2) */
	if (stream->flags & CLIENT_STREAM_ANSWERED)
		flags |= HTTP2_CLIENT_TRAILERS;
	stream->flags |= CLIENT_STREAM_ANSWERED;
	if (list->over)
		flags |= HTTP2_CLIENT_OVER;
	if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
		flags |= HTTP2_CLIENT_END;
	s->engine->events->headers(stream, list->h, list->fields, flags);
	if (flags & HTTP2_CLIENT_END)
		answer_ended(stream);
out:
	list_drop(s);
}

static void data_received(struct http2_client_session *s, const nghttp2_frame *frame)
{
	struct http2_client_stream *stream;

	if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
		if (frame->hd.length == 0 || frame->hd.length == frame->data.padlen)
			frames_spend(s);
		return;
	}
	stream = stream_of(s, frame->hd.stream_id);
	if (stream == NULL || (stream->flags & CLIENT_STREAM_RESET))
		return;
	s->engine->events->end(stream);
	answer_ended(stream);
}

static void goaway_received(struct http2_client_session *s, const nghttp2_goaway *goaway)
{
	counter_inc(&s->engine->counters.rx_goaways);
	s->goaway = true;
	s->goaway_code = goaway->error_code;
	if (goaway->opaque_data_len == sizeof(too_many_pings) - 1 &&
	    memcmp(goaway->opaque_data, too_many_pings, sizeof(too_many_pings) - 1) == 0)
		s->goaway_pings = true;
	s->engine->events->changed(s->user);
}

static int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
	struct http2_client_session *s = user;
	struct http2_client_stream *stream;

	(void)ng;
	if (s->error != 0)
		return 0;
	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
		headers_received(s, frame);
		break;
	case NGHTTP2_DATA:
		data_received(s, frame);
		break;
	case NGHTTP2_RST_STREAM:
		counter_inc(&s->engine->counters.rx_resets);
		stream = stream_of(s, frame->hd.stream_id);
		if (stream != NULL)
			stream->flags |= CLIENT_STREAM_PEER;
		else
			frames_spend(s);
		break;
	case NGHTTP2_PING:
		if (frame->hd.flags & NGHTTP2_FLAG_ACK)
			s->engine->events->pong(s->user);
		else
			frames_spend(s);
		break;
	case NGHTTP2_SETTINGS:
		if (frame->hd.flags & NGHTTP2_FLAG_ACK)
			break;
		if (s->ready)
			frames_spend(s);
		s->ready = true;
		s->engine->events->changed(s->user);
		break;
	case NGHTTP2_GOAWAY:
		if (s->goaway)
			frames_spend(s);
		goaway_received(s, &frame->goaway);
		break;
	default:
		frames_spend(s);
		break;
	}
	return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
		   void *user)
{
	struct http2_client_session *s = user;
	struct http2_client_stream *stream = stream_of(s, id);

	(void)flags;
	counter_add(&s->engine->counters.rx_data_bytes, n);
	if (nghttp2_session_consume_connection(ng, n) != 0)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	if (s->error == 0 && stream != NULL && !(stream->flags & CLIENT_STREAM_RESET))
		s->engine->events->data(stream, p, n);
	return 0;
}

static int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *frame, int error, void *user)
{
	struct http2_client_session *s = user;

	(void)ng;
	(void)frame;
	(void)error;
	counter_inc(&s->engine->counters.rx_malformed);
	frames_spend(s);
	return 0;
}

static void stream_gone(struct http2_client_stream *stream, uint32_t code, unsigned flags)
{
	struct http2_client_session *s = stream->session;

	if (!(stream->flags & CLIENT_STREAM_SENT))
		flags |= HTTP2_CLIENT_UNSENT;
	if (code == HTTP2_REFUSED_STREAM && !(stream->flags & CLIENT_STREAM_ANSWERED))
		flags |= HTTP2_CLIENT_REFUSED;
	list_del(&stream->link);
	s->streams_open--;
	s->engine->events->closed(stream, code, flags);
	pool_put(&s->engine->streams, stream);
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
	struct http2_client_session *s = user;
	struct http2_client_stream *stream = nghttp2_session_get_stream_user_data(ng, id);
	bool peer;

	if (stream == NULL)
		return 0;
	peer = (stream->flags & CLIENT_STREAM_PEER) ||
	       (s->goaway && !(stream->flags & CLIENT_STREAM_RESET) && code != HTTP2_NO_ERROR);
	(void)nghttp2_session_set_stream_user_data(ng, id, NULL);
	stream_gone(stream, code, peer ? HTTP2_CLIENT_PEER : 0);
	s->engine->events->changed(s->user);
	return 0;
}

static int on_frame_send(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
	struct http2_client_session *s = user;
	struct http2_client_stream *stream;

	switch (frame->hd.type) {
	case NGHTTP2_RST_STREAM:
		counter_inc(&s->engine->counters.tx_resets);
		return 0;
	case NGHTTP2_HEADERS:
		stream = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);
		if (stream != NULL)
			stream->flags |= CLIENT_STREAM_SENT;
		return 0;
	case NGHTTP2_DATA:
		counter_add(&s->engine->counters.tx_data_bytes, frame->hd.length);
		s->level.left += FRAMES_EARNED;
		if (s->level.left > (int64_t)s->engine->config.frames.burst)
			s->level.left = s->engine->config.frames.burst;
		return 0;
	default:
		return 0;
	}
}

static ssize_t on_body(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t length,
		       uint32_t *flags, nghttp2_data_source *source, void *user)
{
	struct http2_client_session *s = user;
	struct http2_client_stream *stream = source->ptr;
	bool eof = false;
	size_t n;

	(void)ng;
	(void)id;
	if (stream->flags & CLIENT_STREAM_RESET)
		return NGHTTP2_ERR_DEFERRED;
	n = s->engine->events->body(stream, buf, length, &eof);
	assert(n <= length);
	if (eof) {
		stream->flags |= CLIENT_STREAM_EOF;
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	} else if (n == 0) {
		stream->flags |= CLIENT_STREAM_WAITING;
		return NGHTTP2_ERR_DEFERRED;
	}
	return (ssize_t)n;
}

/* ---- engine -----------------------------------------------------------------------------------
 */

static bool config_valid(const struct http2_client_config *c)
{
	return c->sessions_max > 0 && c->streams_total > 0 && c->window_stream > 0 &&
	       c->window_stream <= INT32_MAX && c->window_connection >= 65535 &&
	       c->window_connection <= INT32_MAX && c->headers_max >= 8 && c->headers_max <= 1024 &&
	       c->header_bytes_max >= 256 && c->header_bytes_max <= 65536 &&
	       c->stream_user_bytes <= 65536;
}

static int engine_nghttp2_init(struct http2_client_engine *e)
{
	nghttp2_session_callbacks *cb;

	if (nghttp2_session_callbacks_new(&e->callbacks) != 0 ||
	    nghttp2_option_new(&e->option) != 0)
		return -SPLIT_E_BASE_NOMEM;
	cb = e->callbacks;
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback2(cb, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
	nghttp2_option_set_no_auto_window_update(e->option, 1);
	nghttp2_option_set_no_closed_streams(e->option, 1);
	nghttp2_option_set_max_continuations(e->option, CONTINUATIONS_MAX);
	nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation(e->option, 1);
	return 0;
}

int http2_client_engine_create(const struct http2_client_config *config,
			       const struct http2_client_events *events,
			       struct http2_client_engine **out)
{
	size_t stream_bytes = sizeof(struct http2_client_stream) + config->stream_user_bytes;
	struct http2_client_engine *e;
	int err;

	*out = NULL;
	if (!config_valid(config))
		return -SPLIT_E_BASE_INVALID;
	e = aligned_alloc(BITS_CACHE_LINE, align_up(sizeof(*e), BITS_CACHE_LINE));
	if (e == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(e, 0, sizeof(*e));
	e->config = *config;
	e->events = events;
	err = http2_memory_init(&e->memory, config->memory_bytes);
	if (err == 0)
		err = pool_init(&e->sessions, sizeof(struct http2_client_session),
				config->sessions_max, NULL);
	if (err == 0)
		err = pool_init(&e->streams, align_up(stream_bytes, BITS_CACHE_LINE),
				config->streams_total, NULL);
	if (err == 0)
		err = engine_nghttp2_init(e);
	if (err != 0) {
		http2_client_engine_destroy(e);
		return err;
	}
	*out = e;
	return 0;
}

void http2_client_engine_destroy(struct http2_client_engine *e)
{
	if (e == NULL)
		return;
	nghttp2_session_callbacks_del(e->callbacks);
	nghttp2_option_del(e->option);
	pool_fini(&e->streams);
	pool_fini(&e->sessions);
	http2_memory_fini(&e->memory);
	free(e);
}

const struct http2_client_counters *http2_client_engine_counters(
	const struct http2_client_engine *e)
{
	return &e->counters;
}

void *http2_client_engine_alloc(struct http2_client_engine *e, size_t bytes)
{
	size_t taken;
	void *p = http2_memory_get(&e->memory, bytes, &taken);

	if (p == NULL)
		counter_inc(&e->counters.memory_refused);
	return p;
}

void http2_client_engine_free(struct http2_client_engine *e, void *p)
{
	(void)http2_memory_put(&e->memory, p);
}

size_t http2_client_engine_memory_used(const struct http2_client_engine *e)
{
	return e->memory.used;
}

size_t http2_client_engine_streams_used(const struct http2_client_engine *e)
{
	return pool_in_use(&e->streams);
}

/* ---- session ----------------------------------------------------------------------------------
 */

static int session_greet(struct http2_client_session *s)
{
	const struct http2_client_config *c = &s->engine->config;
	const nghttp2_settings_entry settings[] = {
		{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
		{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0}, /* the server begins none */
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, c->window_stream},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, s->header_bytes_max},
	};

	if (nghttp2_submit_settings(s->ng, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings)) != 0 ||
	    nghttp2_session_set_local_window_size(s->ng, NGHTTP2_FLAG_NONE, 0,
						  (int32_t)c->window_connection) != 0)
		return -SPLIT_E_BASE_NOMEM;
	return 0;
}

int http2_client_session_create(struct http2_client_engine *e, const struct http2_out *out,
				uint32_t header_bytes_max, void *user, uint64_t now_ns,
				struct http2_client_session **session_out)
{
	struct http2_client_session *s = pool_get_zero(&e->sessions);
	nghttp2_mem mem;

	if (s == NULL) {
		counter_inc(&e->counters.sessions_refused);
		return -SPLIT_E_BASE_NOMEM;
	}
	s->engine = e;
	s->pocket = (struct http2_pocket){.memory = &e->memory,
					  .max = e->config.session_bytes_max,
					  .refused = &e->counters.memory_refused};
	mem = http2_pocket_mem(&s->pocket);
	s->out = *out;
	s->user = user;
	s->now_ns = now_ns;
	s->header_bytes_max = header_bytes_max != 0 && header_bytes_max < e->config.header_bytes_max
				      ? header_bytes_max
				      : e->config.header_bytes_max;
	s->level = (struct flood_level){e->config.frames.burst, now_ns};
	list_init(&s->streams);
	if (nghttp2_session_client_new3(&s->ng, e->callbacks, s, e->option, &mem) != 0 ||
	    session_greet(s) != 0) {
		nghttp2_session_del(s->ng);
		pool_put(&e->sessions, s);
		counter_inc(&e->counters.sessions_refused);
		return -SPLIT_E_BASE_NOMEM;
	}
	counter_inc(&e->counters.sessions);
	*session_out = s;
	return 0;
}

void http2_client_session_destroy(struct http2_client_session *s)
{
	struct list *node;

	if (s == NULL)
		return;
	assert(!s->in_io);
	s->in_io = true;
	list_drop(s);
	while ((node = list_first(&s->streams)) != NULL)
		stream_gone(list_entry(node, struct http2_client_stream, link), HTTP2_CANCEL,
			    HTTP2_CLIENT_LOST);
	nghttp2_session_del(s->ng);
	assert(s->pocket.used == 0);
	pool_put(&s->engine->sessions, s);
}

int http2_client_recv(struct http2_client_session *s, const uint8_t *p, size_t n, uint64_t now_ns)
{
	ssize_t got;

	if (s->error != 0)
		return s->error;
	assert(!s->in_io);
	s->now_ns = now_ns;
	counter_add(&s->engine->counters.rx_bytes, n);
	s->in_io = true;
	got = nghttp2_session_mem_recv(s->ng, p, n);
	if (got == NGHTTP2_ERR_NOMEM)
		session_fail(s, HTTP2_INTERNAL_ERROR, -SPLIT_E_HTTP2_NOMEM);
	else if (got == NGHTTP2_ERR_FLOODED)
		session_fail(s, HTTP2_ENHANCE_YOUR_CALM, -SPLIT_E_HTTP2_FLOOD);
	else if (got < 0)
		session_fail(s, HTTP2_PROTOCOL_ERROR, -SPLIT_E_HTTP2_PROTOCOL);
	s->in_io = false;
	return s->error;
}

/* Write what is pending; true when all of it went. */
static bool pending_write(struct http2_client_session *s, size_t *sent)
{
	while (s->pending_len > 0) {
		size_t room = 0, part;
		uint8_t *to;

		if (s->out.reserve(s->out.ctx, s->pending_len, &to, &room) != 0 || room == 0)
			return false;
		part = room < s->pending_len ? room : s->pending_len;
		memcpy(to, s->pending, part);
		s->out.commit(s->out.ctx, part);
		s->pending += part;
		s->pending_len -= part;
		*sent += part;
	}
	return true;
}

int http2_client_send(struct http2_client_session *s, size_t bytes_max)
{
	int result = 0;
	size_t sent = 0;

	if (s->finished)
		return s->error;
	assert(!s->in_io);
	s->in_io = true;
	s->wanted_told = false;
	for (;;) {
		ssize_t n;

		if (!pending_write(s, &sent) || sent >= bytes_max) {
			result = SPLIT_AGAIN;
			break;
		}
		n = nghttp2_session_mem_send(s->ng, &s->pending);
		if (n <= 0) {
			if (n < 0 && s->error == 0) {
				s->error = n == NGHTTP2_ERR_NOMEM ? -SPLIT_E_HTTP2_NOMEM
								  : -SPLIT_E_HTTP2_PROTOCOL;
				counter_inc(&s->engine->counters.sessions_failed);
			}
			s->finished = s->error != 0;
			result = s->error;
			break;
		}
		s->pending_len = (size_t)n;
	}
	s->in_io = false;
	counter_add(&s->engine->counters.tx_bytes, sent);
	return result;
}

bool http2_client_want_send(const struct http2_client_session *s)
{
	return !s->finished && (s->pending_len > 0 || nghttp2_session_want_write(s->ng) != 0);
}

bool http2_client_done(const struct http2_client_session *s)
{
	if (s->finished)
		return true;
	return !http2_client_want_send(s) && nghttp2_session_want_read(s->ng) == 0;
}

uint32_t http2_client_room(const struct http2_client_session *s)
{
	uint32_t max;

	if (!s->ready || s->goaway || s->leaving || s->error != 0 ||
	    nghttp2_session_check_request_allowed(s->ng) == 0 ||
	    nghttp2_session_get_next_stream_id(s->ng) >= STREAM_ID_LAST)
		return 0;
	max = nghttp2_session_get_remote_settings(s->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
	return max > s->streams_open ? max - s->streams_open : 0;
}

bool http2_client_ready(const struct http2_client_session *s)
{
	return s->ready;
}

bool http2_client_leaving(const struct http2_client_session *s, uint32_t *code_out)
{
	*code_out = s->goaway_code;
	return s->goaway || s->leaving ||
	       nghttp2_session_get_next_stream_id(s->ng) >= STREAM_ID_LAST;
}

bool http2_client_too_many_pings(const struct http2_client_session *s)
{
	return s->goaway_pings && s->goaway_code == HTTP2_ENHANCE_YOUR_CALM;
}

unsigned http2_client_streams(const struct http2_client_session *s)
{
	return s->streams_open;
}

int http2_client_ping(struct http2_client_session *s)
{
	if (s->error != 0)
		return s->error;
	if (nghttp2_submit_ping(s->ng, NGHTTP2_FLAG_NONE, NULL) != 0)
		return -SPLIT_E_HTTP2_NOMEM;
	counter_inc(&s->engine->counters.tx_pings);
	send_wanted(s);
	return 0;
}

void http2_client_goaway(struct http2_client_session *s)
{
	if (s->leaving || s->error != 0)
		return;
	s->leaving = true;
	(void)nghttp2_submit_goaway(s->ng, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, NULL, 0);
	send_wanted(s);
}

/* ---- streams ----------------------------------------------------------------------------------
 */

int http2_client_request(struct http2_client_session *s, const struct http2_header *h, size_t n,
			 struct http2_client_stream **stream_out)
{
	struct http2_client_engine *e = s->engine;
	nghttp2_data_provider body = {.read_callback = on_body};
	struct http2_client_stream *stream;

	if (http2_client_room(s) == 0)
		return -SPLIT_E_BASE_LIMIT;
	stream = pool_get(&e->streams);
	if (stream == NULL) {
		counter_inc(&e->counters.streams_refused);
		return -SPLIT_E_BASE_LIMIT;
	}
	memset(stream, 0, sizeof(*stream) + e->config.stream_user_bytes);
	body.source.ptr = stream;
	stream->session = s;
	stream->id = nghttp2_submit_request(s->ng, NULL, (const nghttp2_nv *)h, n, &body, stream);
	if (stream->id < 0) {
		pool_put(&e->streams, stream);
		return -SPLIT_E_HTTP2_NOMEM;
	}
	list_add_tail(&s->streams, &stream->link);
	s->streams_open++;
	counter_inc(&e->counters.streams);
	*stream_out = stream;
	send_wanted(s);
	return 0;
}

void *http2_client_stream_user(struct http2_client_stream *stream)
{
	return stream->user;
}

struct http2_client_stream *http2_client_stream_of_user(void *user)
{
	return container_of(user, struct http2_client_stream, user);
}

struct http2_client_session *http2_client_stream_session(const struct http2_client_stream *stream)
{
	return stream->session;
}

void *http2_client_session_user(const struct http2_client_session *s)
{
	return s->user;
}

uint32_t http2_client_stream_id(const struct http2_client_stream *stream)
{
	return (uint32_t)stream->id;
}

void http2_client_stream_resume(struct http2_client_stream *stream)
{
	if (!(stream->flags & CLIENT_STREAM_WAITING))
		return;
	stream->flags &= ~(uint32_t)CLIENT_STREAM_WAITING;
	(void)nghttp2_session_resume_data(stream->session->ng, stream->id);
	send_wanted(stream->session);
}

void http2_client_stream_reset(struct http2_client_stream *stream, uint32_t code)
{
	struct http2_client_session *s = stream->session;

	if (stream->flags & CLIENT_STREAM_RESET)
		return;
	stream->flags |= CLIENT_STREAM_RESET;
	if (nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, stream->id, code) != 0)
		session_fail(s, HTTP2_INTERNAL_ERROR, -SPLIT_E_HTTP2_NOMEM);
	send_wanted(s);
}

void http2_client_stream_consume(struct http2_client_stream *stream, size_t n)
{
	struct http2_client_session *s = stream->session;

	stream->consumed += (uint32_t)n;
	if (stream->consumed < s->engine->config.window_stream / 4 + 1 ||
	    (stream->flags & (CLIENT_STREAM_END | CLIENT_STREAM_RESET)))
		return;
	(void)nghttp2_session_consume_stream(s->ng, stream->id, stream->consumed);
	stream->consumed = 0;
	send_wanted(s);
}
