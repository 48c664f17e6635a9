/* Engine, sessions and streams on nghttp2: input, events, answers. Output is in http2_send.c. */
#include "daemon/http2/http2_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/poison.h"

COUNTER_DEFINE(http2, HTTP2_COUNTERS);

/* Header lists travel to nghttp2 without conversion. */
_Static_assert(sizeof(struct http2_header) == sizeof(nghttp2_nv), "same shape");
_Static_assert(offsetof(struct http2_header, name) == offsetof(nghttp2_nv, name), "same shape");
_Static_assert(offsetof(struct http2_header, value) == offsetof(nghttp2_nv, value), "same shape");
_Static_assert(offsetof(struct http2_header, name_len) == offsetof(nghttp2_nv, namelen),
	       "same shape");
_Static_assert(offsetof(struct http2_header, value_len) == offsetof(nghttp2_nv, valuelen),
	       "same shape");
_Static_assert(offsetof(struct http2_header, flags) == offsetof(nghttp2_nv, flags), "same shape");
_Static_assert((int)HTTP2_NEVER_INDEX == (int)NGHTTP2_NV_FLAG_NO_INDEX, "same flags");
_Static_assert((int)HTTP2_STATIC == (NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE),
	       "same flags");

/* What we ask of nghttp2's own reset limit: never to act, ours knows the time that was passed in.
 */
#define NG_RESET_BURST UINT64_C(1000000000)

/* Likewise: Debian's 1.52 counts each piece of a CONTINUATION's header that it is fed as a frame.
 */
#define NG_CONTINUATIONS 1000000000

void http2_config_default(struct http2_config *config, uint32_t sessions_max)
{
	*config = (struct http2_config){
		.sessions_max = sessions_max,
		.streams_max = 1024,
		.streams_total = 8192,
		.stream_user_bytes = 0,
		.window_stream = 64 * 1024,
		.window_connection = 1024 * 1024,
		.frame_bytes_max = 16384,
		.header_bytes_max = 16 * 1024,
		.headers_max = 128,
		.header_table_bytes = 4096,
		.memory_bytes = (uint64_t)sessions_max * 96 * 1024 + (8u << 20),
		.session_bytes_max = 4u << 20,
		.frame_timeout_ns = UINT64_C(20000000000),
		.resets = {1000, 100},
		.pings = {1000, 100},
		.settings = {100, 10},
		.empty = {10000, 1000},
		.windows = {20000, 20000},
	};
}

/* --- events from nghttp2 ------------------------------------------------------------------------
 */

void http2_session_fail(struct http2_session *s, uint32_t code, int error)
{
	if (s->error != 0)
		return;
	s->error = error;
	counter_inc(&s->engine->counters.sessions_failed);
	if (nghttp2_session_terminate_session(s->ng, code) != 0)
		s->finished = true;
}

void http2_session_fail_text(struct http2_session *s, uint32_t code, int error, const char *text)
{
	int32_t last = nghttp2_session_get_last_proc_stream_id(s->ng);

	if (s->error != 0)
		return;
	s->error = error;
	s->goaway_text = true;
	counter_inc(&s->engine->counters.sessions_failed);
	if (nghttp2_submit_goaway(s->ng, NGHTTP2_FLAG_NONE, last, code, (const uint8_t *)text,
				  strlen(text)) != 0)
		s->finished = true;
}

static struct http2_stream *stream_find(struct http2_session *s, int32_t id)
{
	if (likely(s->last_found != NULL && s->last_found->id == (uint32_t)id))
		return s->last_found;
	s->last_found = nghttp2_session_get_stream_user_data(s->ng, id);
	return s->last_found;
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
	struct http2_session *s = user;
	struct http2_engine *e = s->engine;
	struct http2_stream *stream;

	http2_fields_drop(s);
	if (frame->headers.cat != NGHTTP2_HCAT_REQUEST || s->error != 0)
		return 0; /* trailers: read, checked, not kept */
	counter_inc(&e->counters.streams);
	if ((uint32_t)frame->hd.stream_id > s->last_stream_id)
		s->last_stream_id = (uint32_t)frame->hd.stream_id;
	stream = pool_get(&e->streams);
	if (unlikely(stream == NULL)) {
		counter_inc(&e->counters.streams_refused);
		http2_scan_stream_closed(s, (uint32_t)frame->hd.stream_id, true);
		(void)nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
						NGHTTP2_REFUSED_STREAM);
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	memset(stream, 0, sizeof(*stream) + e->config.stream_user_bytes);
	stream->session = s;
	stream->id = (uint32_t)frame->hd.stream_id;
	list_add_tail(&s->streams, &stream->link);
	s->streams_open++;
	s->header_stream = stream;
	s->last_found = stream;
	return nghttp2_session_set_stream_user_data(ng, frame->hd.stream_id, stream);
}

/* RFC 9113 s8.1.1: a malformed request ends its stream, nobody hears of it. */
static void request_malformed(struct http2_session *s, int32_t id, struct http2_stream *stream)
{
	counter_inc(&s->engine->counters.rx_malformed);
	if (stream == NULL) {
		(void)nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, id,
						NGHTTP2_PROTOCOL_ERROR);
		return;
	}
	/* As dear as one the peer sent itself (see reset_sent). */
	http2_flood_spend(s, FLOOD_RESETS);
	http2_stream_reset(stream, HTTP2_PROTOCOL_ERROR);
}

static void request_received(struct http2_session *s, const nghttp2_frame *frame)
{
	struct http2_engine *e = s->engine;
	struct http2_stream *stream = s->header_stream;
	unsigned flags = 0;

	if (stream == NULL || stream->id != (uint32_t)frame->hd.stream_id || s->error != 0)
		return;
	if (unlikely(!http2_fields_valid(s, &stream->body_left) ||
		     ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) && stream->body_left > 0))) {
		request_malformed(s, frame->hd.stream_id, stream);
		http2_fields_drop(s);
		return;
	}
	if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
		stream->flags |= STREAM_END_RECEIVED;
		flags |= HTTP2_HEADERS_END;
	}
	if (stream->flags & STREAM_OVER)
		flags |= HTTP2_HEADERS_OVER;
	stream->flags |= STREAM_ANNOUNCED;
	if (e->events->headers(s->user, stream, e->fields, s->fields, flags) != 0)
		http2_stream_reset(stream, HTTP2_INTERNAL_ERROR);
	http2_fields_drop(s);
}

static void stream_end_received(struct http2_session *s, int32_t id)
{
	struct http2_stream *stream = stream_find(s, id);

	if (stream == NULL || !(stream->flags & STREAM_ANNOUNCED))
		return;
	if (unlikely(stream->body_left > 0 && !(stream->flags & STREAM_RESET))) {
		request_malformed(s, id, stream);
		return;
	}
	stream->flags |= STREAM_END_RECEIVED;
	if (!(stream->flags & STREAM_RESET))
		s->engine->events->end(stream);
}

/* RFC 9113 s8.1: a second list ends the stream, and has no pseudo-header fields. */
static void trailers_received(struct http2_session *s, const nghttp2_frame *frame)
{
	if (s->fields_bad || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		request_malformed(s, frame->hd.stream_id, stream_find(s, frame->hd.stream_id));
	else
		stream_end_received(s, frame->hd.stream_id);
	http2_fields_drop(s);
}

/* The second GOAWAY of a graceful end: the peer has seen the first, so what it sent is here. */
static void session_goaway_last(struct http2_session *s)
{
	int32_t last = nghttp2_session_get_last_proc_stream_id(s->ng);

	s->draining = false;
	if (nghttp2_submit_goaway(s->ng, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0) != 0)
		s->error = -SPLIT_E_HTTP2_NOMEM;
}

/* A SETTINGS frame begins: the widest window to send in that it may still widen. */
static int on_begin_frame(nghttp2_session *ng, const nghttp2_frame_hd *hd, void *user)
{
	struct http2_session *s = user;

	if (likely(hd->type != NGHTTP2_SETTINGS) || (hd->flags & NGHTTP2_FLAG_ACK))
		return 0;
	s->peer_window = 0;
	s->peer_window_initial =
		nghttp2_session_get_remote_settings(ng, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE);
	list_for_each (pos, &s->streams) {
		struct http2_stream *stream = list_entry(pos, struct http2_stream, link);
		int32_t window =
			nghttp2_session_get_stream_remote_window_size(ng, (int32_t)stream->id);

		if (window > s->peer_window)
			s->peer_window = window;
	}
	return 0;
}

/* RFC 9113 s6.9.2: a window that overflows by SETTINGS is an error of the connection; nghttp2 would
 * end the stream alone. */
static void settings_received(struct http2_session *s, const nghttp2_settings *settings)
{
	for (size_t i = 0; i < settings->niv; i++) {
		const nghttp2_settings_entry *e = &settings->iv[i];

		if (e->settings_id == NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE &&
		    (int64_t)s->peer_window + e->value - s->peer_window_initial > INT32_MAX) {
			counter_inc(&s->engine->counters.rx_malformed);
			http2_session_fail(s, HTTP2_FLOW_CONTROL_ERROR, -SPLIT_E_HTTP2_PROTOCOL);
			return;
		}
	}
}

static int on_frame_recv(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
	struct http2_session *s = user;
	struct http2_stream *stream;

	if (s->error != 0)
		return 0;
	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
		if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
			request_received(s, frame);
		else
			trailers_received(s, frame);
		break;
	case NGHTTP2_DATA:
		if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
			stream_end_received(s, frame->hd.stream_id);
		break;
	case NGHTTP2_RST_STREAM:
		counter_inc(&s->engine->counters.rx_resets);
		stream = stream_find(s, frame->hd.stream_id);
		if (stream != NULL)
			stream->flags |= STREAM_PEER_RESET;
		break;
	case NGHTTP2_PING:
		if ((frame->hd.flags & NGHTTP2_FLAG_ACK) &&
		    http2_ping_answered(s, frame->ping.opaque_data) && s->draining)
			session_goaway_last(s);
		break;
	case NGHTTP2_SETTINGS:
		if (!(frame->hd.flags & NGHTTP2_FLAG_ACK))
			settings_received(s, &frame->settings);
		break;
	case NGHTTP2_GOAWAY:
		counter_inc(&s->engine->counters.rx_goaways);
		break;
	case NGHTTP2_WINDOW_UPDATE:
		if (frame->hd.stream_id == 0)
			http2_send_window_grown(s);
		break;
	default:
		break;
	}
	(void)ng;
	return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
		   void *user)
{
	struct http2_session *s = user;
	struct http2_stream *stream;

	(void)flags;
	counter_add(&s->engine->counters.rx_data_bytes, n);
	if (s->window_stream < s->engine->config.window_stream_max)
		http2_bdp_data(s, n);
	/* The connection's window is given back before anybody looks at the bytes. */
	if (nghttp2_session_consume_connection(ng, n) != 0)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	stream = stream_find(s, id);
	if (s->error != 0 || stream == NULL || (stream->flags & STREAM_RESET))
		return 0;
	if (!(stream->flags & STREAM_ANNOUNCED))
		return 0;
	if (stream->body_left >= 0) {
		if (unlikely(n > (uint64_t)stream->body_left)) {
			request_malformed(s, id, stream);
			return 0;
		}
		stream->body_left -= (int64_t)n;
	}
	s->engine->events->data(stream, p, n);
	return 0;
}

static int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *frame, int error, void *user)
{
	struct http2_session *s = user;

	(void)ng;
	(void)frame;
	(void)error;
	counter_inc(&s->engine->counters.rx_malformed);
	return 0;
}

static void stream_gone(struct http2_stream *stream, uint32_t code, bool by_peer)
{
	struct http2_session *s = stream->session;

	http2_scan_stream_closed(
		s, stream->id,
		!by_peer && ((stream->flags & STREAM_RESET) || code != HTTP2_NO_ERROR));
	if (s->data.open && s->data.stream == stream)
		http2_send_forget(s);
	if (s->header_stream == stream)
		s->header_stream = NULL;
	if (s->last_found == stream)
		s->last_found = NULL;
	list_del(&stream->link);
	s->streams_open--;
	if (stream->flags & STREAM_ANNOUNCED)
		s->engine->events->closed(stream, code, by_peer);
	pool_put(&s->engine->streams, stream);
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
	struct http2_session *s = user;
	struct http2_stream *stream = nghttp2_session_get_stream_user_data(ng, id);

	if (stream == NULL)
		return 0;
	if (stream->flags & STREAM_PEER_RESET) {
		stream_gone(stream, code, true);
		return 0;
	}
	if (code == NGHTTP2_NO_ERROR)
		http2_flood_earn(s, FLOOD_RESETS, 1);
	stream_gone(stream, code, false);
	return 0;
}

/* --- engine --------------------------------------------------------------------------------------
 */

static bool config_valid(const struct http2_config *c)
{
	return c->sessions_max > 0 && c->streams_max > 0 && c->streams_max <= 65535 &&
	       c->streams_total > 0 && c->window_stream > 0 && c->window_stream <= INT32_MAX &&
	       c->window_connection >= 65535 && c->window_connection <= INT32_MAX &&
	       c->frame_bytes_max >= 16384 && c->frame_bytes_max < (1u << 24) &&
	       c->headers_max >= 8 && c->headers_max <= 1024 && c->header_bytes_max >= 256 &&
	       c->header_bytes_max <= (1u << 24) && c->stream_user_bytes <= 65536;
}

static int engine_nghttp2_init(struct http2_engine *e)
{
	nghttp2_session_callbacks *cb;

	if (nghttp2_session_callbacks_new(&e->callbacks) != 0 ||
	    nghttp2_option_new(&e->option) != 0)
		return -SPLIT_E_BASE_NOMEM;
	cb = e->callbacks;
	nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback2(cb, http2_fields_add);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, http2_send_frame_done);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, http2_send_frame_refused);
	nghttp2_session_callbacks_set_send_data_callback(cb, http2_send_data);
	nghttp2_option_set_no_auto_window_update(e->option, 1);
	nghttp2_option_set_no_closed_streams(e->option, 1);
	nghttp2_option_set_max_deflate_dynamic_table_size(e->option, e->config.header_table_bytes);
	nghttp2_option_set_stream_reset_rate_limit(e->option, NG_RESET_BURST, NG_RESET_BURST);
	nghttp2_option_set_max_continuations(e->option, NG_CONTINUATIONS);
	/* http2_fields.c does it, and only for what is new. */
	nghttp2_option_set_no_http_messaging(e->option, 1);
	return 0;
}

int http2_engine_create(const struct http2_config *config, const struct http2_events *events,
			struct http2_engine **engine_out)
{
	struct http2_engine *e;
	size_t stream_bytes = sizeof(struct http2_stream) + config->stream_user_bytes;
	int error;

	*engine_out = NULL;
	if (!config_valid(config))
		return -SPLIT_E_BASE_INVALID;
	e = aligned_alloc(BITS_CACHE_LINE, align_up(sizeof(*e), BITS_CACHE_LINE));
	if (e == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(e, 0, sizeof(*e));
	e->config = *config;
	e->events = events;
	e->fields = calloc(config->headers_max, sizeof(*e->fields));
	e->field_tokens = calloc(config->headers_max, 1);
	e->fields_held = calloc(2 * (size_t)config->headers_max, sizeof(nghttp2_rcbuf *));
	error = e->fields == NULL || e->field_tokens == NULL || e->fields_held == NULL
			? -SPLIT_E_BASE_NOMEM
			: 0;
	if (error == 0)
		error = http2_memory_init(&e->memory, config->memory_bytes);
	if (error == 0)
		error = pool_init(&e->sessions, sizeof(struct http2_session), config->sessions_max,
				  NULL);
	if (error == 0)
		error = pool_init(&e->streams, align_up(stream_bytes, BITS_CACHE_LINE),
				  config->streams_total, NULL);
	if (error == 0)
		error = engine_nghttp2_init(e);
	if (error != 0) {
		http2_engine_destroy(e);
		return error;
	}
	*engine_out = e;
	return 0;
}

void http2_engine_destroy(struct http2_engine *e)
{
	if (e == NULL)
		return;
	nghttp2_session_callbacks_del(e->callbacks);
	nghttp2_option_del(e->option);
	pool_fini(&e->streams);
	pool_fini(&e->sessions);
	http2_memory_fini(&e->memory);
	free(e->fields_held);
	free(e->field_tokens);
	free(e->fields);
	free(e);
}

const struct http2_counters *http2_engine_counters(const struct http2_engine *e)
{
	return &e->counters;
}

void *http2_engine_alloc(struct http2_engine *e, size_t bytes)
{
	size_t taken;
	void *p = http2_memory_get(&e->memory, bytes, &taken);

	if (p == NULL)
		counter_inc(&e->counters.memory_refused);
	return p;
}

void http2_engine_free(struct http2_engine *e, void *p)
{
	(void)http2_memory_put(&e->memory, p);
}

void http2_engine_configure(struct http2_engine *e, const struct http2_config *config)
{
	struct http2_config *c = &e->config;

	c->streams_max = config->streams_max;
	c->frame_timeout_ns = config->frame_timeout_ns;
	c->ping_interval_min_ns = config->ping_interval_min_ns;
	c->ping_strikes_max = config->ping_strikes_max;
	c->pings_without_streams = config->pings_without_streams;
	c->resets = config->resets;
	c->pings = config->pings;
	c->settings = config->settings;
	c->empty = config->empty;
	c->windows = config->windows;
}

size_t http2_engine_memory_used(const struct http2_engine *e)
{
	return e->memory.used;
}

size_t http2_engine_streams_used(const struct http2_engine *e)
{
	return pool_in_use(&e->streams);
}

/* --- session -------------------------------------------------------------------------------------
 */

static int session_greet(struct http2_session *s)
{
	const struct http2_config *c = &s->engine->config;
	const nghttp2_settings_entry settings[] = {
		{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, c->streams_max},
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, c->window_stream},
		{NGHTTP2_SETTINGS_MAX_FRAME_SIZE, c->frame_bytes_max},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, c->header_bytes_max},
		{NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, c->header_table_bytes},
		{NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
	};

	if (nghttp2_submit_settings(s->ng, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings)) != 0)
		return -SPLIT_E_BASE_NOMEM;
	if (nghttp2_session_set_local_window_size(s->ng, NGHTTP2_FLAG_NONE, 0,
						  (int32_t)c->window_connection) != 0)
		return -SPLIT_E_BASE_NOMEM;
	return 0;
}

int http2_session_create(struct http2_engine *e, const struct http2_out *out, void *user,
			 struct http2_session **session_out)
{
	struct http2_session *s = pool_get_zero(&e->sessions);
	nghttp2_mem mem;

	*session_out = NULL;
	if (s == NULL) {
		counter_inc(&e->counters.sessions_refused);
		return -SPLIT_E_BASE_NOMEM;
	}
	s->engine = e;
	s->pocket = (struct http2_pocket){.memory = &e->memory,
					  .max = e->config.session_bytes_max,
					  .refused = &e->counters.memory_refused};
	mem = http2_pocket_mem(&s->pocket);
	s->window_stream = e->config.window_stream;
	s->window_connection = e->config.window_connection;
	s->out = *out;
	s->user = user;
	http2_scan_init(s);
	list_init(&s->streams);
	if (nghttp2_session_server_new3(&s->ng, e->callbacks, s, e->option, &mem) != 0) {
		counter_inc(&e->counters.sessions_refused);
		pool_put(&e->sessions, s);
		return -SPLIT_E_BASE_NOMEM;
	}
	if (session_greet(s) != 0) {
		nghttp2_session_del(s->ng);
		counter_inc(&e->counters.sessions_refused);
		pool_put(&e->sessions, s);
		return -SPLIT_E_BASE_NOMEM;
	}
	counter_inc(&e->counters.sessions);
	*session_out = s;
	return 0;
}

/* A list that waits in its session: fields, what is held for them, tokens. */
struct spill_layout {
	size_t held, tokens, bytes;
};

static struct spill_layout spill_layout(const struct http2_session *s)
{
	struct spill_layout l = {.held = s->fields * sizeof(struct http2_header)};

	l.tokens = l.held + s->held * sizeof(nghttp2_rcbuf *);
	l.bytes = l.tokens + s->fields;
	return l;
}

/* Forget a list that waits in `spill`; the engine's arrays may be in use by another session. */
static void header_spill_drop(struct http2_session *s)
{
	uint8_t *held;

	if (s->spill == NULL)
		return;
	held = s->spill + spill_layout(s).held;
	for (uint32_t i = 0; i < s->held; i++) {
		void *buf;

		memcpy(&buf, held + i * sizeof(void *), sizeof(void *));
		nghttp2_rcbuf_decref(buf);
	}
	http2_engine_free(s->engine, s->spill);
	s->spill = NULL;
	s->fields = 0;
	s->held = 0;
}

void http2_session_destroy(struct http2_session *s)
{
	struct list *node;

	if (s == NULL)
		return;
	assert(!s->in_io);
	s->in_io = true; /* whatever the layer above does now, nothing goes out */
	header_spill_drop(s);
	while ((node = list_first(&s->streams)) != NULL)
		stream_gone(list_entry(node, struct http2_stream, link), HTTP2_CANCEL, true);
	http2_fields_fini(s);
	nghttp2_session_del(s->ng);
	assert(s->pocket.used == 0);
	pool_put(&s->engine->sessions, s);
}

void *http2_session_user(const struct http2_session *s)
{
	return s->user;
}

unsigned http2_session_streams(const struct http2_session *s)
{
	return s->streams_open;
}

/* A header list may stop anywhere; another session's may come before it goes on. */
static int header_spill(struct http2_session *s)
{
	struct http2_engine *e = s->engine;
	struct spill_layout l;

	if (likely(s->fields == 0))
		return 0;
	l = spill_layout(s);
	s->spill = http2_engine_alloc(e, l.bytes);
	if (s->spill == NULL) {
		http2_fields_drop(s);
		return -SPLIT_E_HTTP2_NOMEM;
	}
	memcpy(s->spill, e->fields, l.held);
	memcpy(s->spill + l.held, e->fields_held, l.tokens - l.held);
	memcpy(s->spill + l.tokens, e->field_tokens, s->fields);
	return 0;
}

static void header_unspill(struct http2_session *s)
{
	struct http2_engine *e = s->engine;
	struct spill_layout l;

	if (likely(s->spill == NULL))
		return;
	l = spill_layout(s);
	memcpy(e->fields, s->spill, l.held);
	memcpy(e->fields_held, s->spill + l.held, l.tokens - l.held);
	memcpy(e->field_tokens, s->spill + l.tokens, s->fields);
	http2_engine_free(e, s->spill);
	s->spill = NULL;
}

/* Give nghttp2 the next bytes. */
static void recv_feed(struct http2_session *s, const uint8_t *p, size_t n)
{
	ssize_t got = nghttp2_session_mem_recv(s->ng, p, n);

	if (likely(got >= 0))
		return;
	if (got == NGHTTP2_ERR_NOMEM)
		http2_session_fail(s, HTTP2_INTERNAL_ERROR, -SPLIT_E_HTTP2_NOMEM);
	else if (got == NGHTTP2_ERR_FLOODED)
		http2_session_fail(s, HTTP2_ENHANCE_YOUR_CALM, -SPLIT_E_HTTP2_FLOOD);
	else
		http2_session_fail(s, HTTP2_PROTOCOL_ERROR, -SPLIT_E_HTTP2_PROTOCOL);
}

/* Take the next bytes; returns how many. */
static size_t recv_step(struct http2_session *s, const uint8_t *p, size_t n)
{
	struct scan *scan = &s->scan;
	size_t part;

	if (unlikely(scan->leave_out > 0)) {
		part = scan->leave_out < n ? scan->leave_out : n;
		scan->leave_out -= (uint8_t)part;
		return part;
	}
	if (unlikely(scan->head_len > 0)) {
		bool whole;

		part = http2_scan_rest(s, p, n, &whole);
		if (whole && s->error == 0)
			recv_feed(s, scan->head, sizeof(scan->head));
		return part;
	}
	part = http2_scan(s, p, n);
	if (likely(s->error == 0 && part > 0))
		recv_feed(s, p, part);
	return part + scan->head_len;
}

int http2_session_recv(struct http2_session *s, const uint8_t *p, size_t n, uint64_t now_ns)
{
	if (s->error != 0)
		return s->error;
	assert(!s->in_io);
	s->now_ns = now_ns;
	if (unlikely(!s->started)) {
		s->started = true;
		s->scan.since_ns = now_ns; /* the preface begins */
		http2_flood_init(s);
	}
	counter_add(&s->engine->counters.rx_bytes, n);
	s->in_io = true;
	header_unspill(s);
	while (n > 0 && s->error == 0) {
		size_t part = recv_step(s, p, n);

		p += part;
		n -= part;
	}
	if (unlikely(header_spill(s) != 0))
		http2_session_fail(s, HTTP2_INTERNAL_ERROR, -SPLIT_E_HTTP2_NOMEM);
	s->in_io = false;
	return s->error;
}

void http2_session_goaway(struct http2_session *s, bool graceful, uint32_t code)
{
	int rc;

	if (s->error != 0)
		return;
	if (graceful) {
		if (s->draining)
			return;
		s->draining = true;
		rc = nghttp2_submit_shutdown_notice(s->ng);
	} else {
		rc = nghttp2_session_terminate_session(s->ng, code);
	}
	if (rc != 0)
		s->error = -SPLIT_E_HTTP2_NOMEM;
	http2_send_wanted(s);
}

/* --- stream --------------------------------------------------------------------------------------
 */

void *http2_stream_user(struct http2_stream *stream)
{
	return stream->user;
}

struct http2_stream *http2_stream_of_user(void *user)
{
	return container_of(user, struct http2_stream, user);
}

struct http2_session *http2_stream_session(const struct http2_stream *stream)
{
	return stream->session;
}

uint32_t http2_stream_id(const struct http2_stream *stream)
{
	return stream->id;
}

int http2_stream_respond(struct http2_stream *stream, const struct http2_header *h, size_t n,
			 bool has_body)
{
	struct http2_session *s = stream->session;
	nghttp2_data_provider body = {.source = {.ptr = stream},
				      .read_callback = http2_send_body_next};

	if (stream->flags & (STREAM_RESPONDED | STREAM_RESET))
		return -SPLIT_E_HTTP2_STATE;
	if (nghttp2_submit_response(s->ng, (int32_t)stream->id, (const nghttp2_nv *)h, n,
				    has_body ? &body : NULL) != 0) {
		http2_stream_reset(stream, HTTP2_INTERNAL_ERROR);
		return -SPLIT_E_HTTP2_STREAM;
	}
	stream->flags |= STREAM_RESPONDED | (has_body ? STREAM_BODY : 0);
	http2_send_wanted(s);
	return 0;
}

int http2_stream_trailers(struct http2_stream *stream, const struct http2_header *h, size_t n)
{
	if (!(stream->flags & STREAM_BODY) || (stream->flags & (STREAM_TRAILERS | STREAM_RESET)))
		return -SPLIT_E_HTTP2_STATE;
	if (nghttp2_submit_trailer(stream->session->ng, (int32_t)stream->id, (const nghttp2_nv *)h,
				   n) != 0) {
		http2_stream_reset(stream, HTTP2_INTERNAL_ERROR);
		return -SPLIT_E_HTTP2_STREAM;
	}
	stream->flags |= STREAM_TRAILERS;
	return 0;
}

void http2_stream_resume(struct http2_stream *stream)
{
	if (!(stream->flags & STREAM_WAITING))
		return;
	stream->flags &= ~(uint32_t)STREAM_WAITING;
	(void)nghttp2_session_resume_data(stream->session->ng, (int32_t)stream->id);
	http2_send_wanted(stream->session);
}

void http2_stream_reset(struct http2_stream *stream, uint32_t code)
{
	struct http2_session *s = stream->session;

	if (stream->flags & STREAM_RESET)
		return;
	stream->flags |= STREAM_RESET;
	if (nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, (int32_t)stream->id, code) != 0)
		http2_session_fail(s, HTTP2_INTERNAL_ERROR, -SPLIT_E_HTTP2_NOMEM);
	http2_send_wanted(s);
}

void http2_stream_consume(struct http2_stream *stream, size_t n)
{
	struct http2_session *s = stream->session;

	/* Told in quarters of a window: nghttp2 updates at half of it, and each telling is a
	 * look-up. */
	stream->consumed += (uint32_t)n;
	if (stream->consumed < s->engine->config.window_stream / 4 + 1 ||
	    (stream->flags & (STREAM_END_RECEIVED | STREAM_RESET)))
		return;
	(void)nghttp2_session_consume_stream(s->ng, (int32_t)stream->id, stream->consumed);
	stream->consumed = 0;
	http2_send_wanted(s);
}
