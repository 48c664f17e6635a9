/* Output: nghttp2's frames and the bodies of the layer above into lent room.
 *
 * nghttp2 hands over every frame but DATA as bytes of its own, which stay valid until the next
 * nghttp2_session_mem_send: `pending` remembers where the room ended. For DATA it hands over the
 * frame header and asks for the body, which events.body_copy writes straight into the room. If the
 * room ends inside, http2_send_data says "would block", nghttp2 repeats the very call, and `data`
 * remembers how far it got. If the stream is reset between the two, nghttp2 forgets the frame, but
 * its header is out: zeros complete it (the peer discards the body of a stream that was reset). The
 * peer counts those bytes against the connection's window (RFC 9113 s6.9.1) and nghttp2 does not:
 * `window_unseen` is by how much nghttp2 thinks too well of that window, and no frame takes it.
 */
#include "daemon/http2/http2_internal.h"

#include <assert.h>
#include <string.h>

static void room_commit(struct http2_session *s)
{
	if (s->room_used > 0)
		s->out.commit(s->out.ctx, s->room_used);
	s->sent += s->room_used;
	s->room = NULL;
	s->room_left = 0;
	s->room_used = 0;
}

/* True when there is at least 1 byte of room. */
static bool room_find(struct http2_session *s, size_t wanted)
{
	if (likely(s->room_left > 0))
		return true;
	room_commit(s);
	if (s->out.reserve(s->out.ctx, wanted, &s->room, &s->room_left) != 0) {
		s->room_left = 0;
		s->blocked = true;
		return false;
	}
	return s->room_left > 0;
}

static void room_advance(struct http2_session *s, size_t n)
{
	s->room += n;
	s->room_left -= n;
	s->room_used += n;
}

/* Write what fits of [p, p+n); returns how much. */
static size_t room_write(struct http2_session *s, const uint8_t *p, size_t n)
{
	size_t done = 0;

	while (done < n && room_find(s, n - done)) {
		size_t part = n - done < s->room_left ? n - done : s->room_left;

		memcpy(s->room, p + done, part);
		room_advance(s, part);
		done += part;
	}
	return done;
}

/* Go on with the DATA frame in `data`. True when it is complete. */
static bool data_write(struct http2_session *s)
{
	struct send_data *d = &s->data;

	d->head_done += (uint8_t)room_write(s, d->head + d->head_done, 9u - d->head_done);
	if (d->head_done < 9)
		return false;
	while (d->left > 0 && room_find(s, d->left)) {
		size_t part = d->left < s->room_left ? d->left : s->room_left;

		if (d->stream != NULL)
			s->engine->events->body_copy(d->stream, s->room, part);
		else
			memset(s->room, 0, part);
		room_advance(s, part);
		d->left -= (uint32_t)part;
	}
	if (d->left > 0)
		return false;
	d->open = false;
	return true;
}

/* More than this nghttp2's own count of the window might overflow by. */
#define WINDOW_UNSEEN_MAX (UINT64_C(1) << 30)

void http2_send_forget(struct http2_session *s)
{
	struct send_data *d = &s->data;

	if (d->head_done == 0) {
		d->open = false; /* nothing of it is out */
		return;
	}
	d->stream = NULL;
	s->window_unseen += d->length;
	if (unlikely(s->window_unseen > WINDOW_UNSEEN_MAX))
		http2_session_goaway(s, true, HTTP2_NO_ERROR);
}

/* What of `length` the connection's window has room for, if nghttp2 saw all that was sent. */
static size_t window_allows(struct http2_session *s, size_t length)
{
	int64_t left =
		(int64_t)nghttp2_session_get_remote_window_size(s->ng) - (int64_t)s->window_unseen;

	return left <= 0 ? 0 : (uint64_t)left < length ? (size_t)left : length;
}

void http2_send_window_grown(struct http2_session *s)
{
	if (likely(!s->window_waits))
		return;
	s->window_waits = false;
	list_for_each (pos, &s->streams)
		http2_stream_resume(list_entry(pos, struct http2_stream, link));
}

int http2_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *head, size_t length,
		    nghttp2_data_source *source, void *user)
{
	struct http2_session *s = user;
	struct send_data *d = &s->data;

	(void)ng;
	(void)frame;
	if (!d->open) {
		d->open = true;
		d->stream = source->ptr;
		memcpy(d->head, head, 9);
		d->head_done = 0;
		d->left = d->length = (uint32_t)length;
		counter_add(&s->engine->counters.tx_data_bytes, length);
		http2_flood_earn(s, FLOOD_WINDOWS, 4);
	}
	return data_write(s) ? 0 : NGHTTP2_ERR_WOULDBLOCK;
}

ssize_t http2_send_body_next(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t length,
			     uint32_t *flags, nghttp2_data_source *source, void *user)
{
	struct http2_session *s = user;
	struct http2_stream *stream = source->ptr;
	bool eof = false;
	size_t n;

	(void)ng;
	(void)id;
	(void)buf;
	if (stream->flags & STREAM_RESET)
		return NGHTTP2_ERR_DEFERRED;
	if (unlikely(s->window_unseen > 0)) {
		length = window_allows(s, length);
		if (length == 0) {
			s->window_waits = true;
			stream->flags |= STREAM_WAITING;
			return NGHTTP2_ERR_DEFERRED;
		}
	}
	n = s->engine->events->body_next(stream, length, &eof);
	assert(n <= length);
	if (n == 0 && !eof) {
		stream->flags |= STREAM_WAITING;
		return NGHTTP2_ERR_DEFERRED;
	}
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (eof) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		if (stream->flags & STREAM_TRAILERS)
			*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
	}
	return (ssize_t)n;
}

/* A reset that the peer made us send is as dear as one it sent itself. */
static void reset_sent(struct http2_session *s, const nghttp2_frame *frame)
{
	struct http2_stream *stream =
		nghttp2_session_get_stream_user_data(s->ng, frame->hd.stream_id);

	counter_inc(&s->engine->counters.tx_resets);
	if (frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
	    frame->rst_stream.error_code != NGHTTP2_REFUSED_STREAM &&
	    (stream == NULL || !(stream->flags & STREAM_RESET)))
		http2_flood_spend(s, FLOOD_RESETS);
}

/* RFC 9113 s8.1: an answer that is complete before its request asks the peer to stop sending. */
int http2_send_frame_done(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
	struct http2_session *s = user;
	struct http2_stream *stream;

	switch (frame->hd.type) {
	case NGHTTP2_RST_STREAM:
		reset_sent(s, frame);
		return 0;
	case NGHTTP2_GOAWAY:
		counter_inc(&s->engine->counters.tx_goaways);
		/* One that nghttp2 found: http2_session_fail has counted ours. */
		if (frame->goaway.error_code != NGHTTP2_NO_ERROR && s->error == 0)
			counter_inc(&s->engine->counters.sessions_failed);
		/* Not before it is out: nghttp2 would let a PING overtake it. */
		if (s->draining)
			(void)nghttp2_submit_ping(ng, NGHTTP2_FLAG_NONE, http2_drain_ping);
		s->goaway_out = s->goaway_text;
		return 0;
	case NGHTTP2_HEADERS:
	case NGHTTP2_DATA:
		s->ping_last_ns = 0;
		s->ping_strikes = 0;
		break;
	default:
		return 0;
	}
	if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	stream = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);
	if (stream != NULL && !(stream->flags & (STREAM_END_RECEIVED | STREAM_RESET)))
		http2_stream_reset(stream, HTTP2_NO_ERROR);
	return 0;
}

/* An answer that nghttp2 refuses to encode (over its bound) must not leave the stream hanging. */
int http2_send_frame_refused(nghttp2_session *ng, const nghttp2_frame *frame, int error, void *user)
{
	struct http2_stream *stream;

	(void)error;
	(void)user;
	if (frame->hd.type != NGHTTP2_HEADERS)
		return 0;
	stream = nghttp2_session_get_stream_user_data(ng, frame->hd.stream_id);
	if (stream != NULL)
		http2_stream_reset(stream, HTTP2_INTERNAL_ERROR);
	return 0;
}

/* One step: true when something was written, false when nothing is due, the room ended or it
 * failed. */
static bool send_step(struct http2_session *s)
{
	const uint8_t *p;
	size_t done;
	ssize_t n;

	if (unlikely(s->data.open && s->data.stream == NULL) && !data_write(s))
		return false;
	if (unlikely(s->pending_len > 0)) {
		done = room_write(s, s->pending, s->pending_len);
		s->pending += done;
		s->pending_len -= done;
		if (s->pending_len > 0)
			return false;
	}
	if (unlikely(s->goaway_out))
		return false; /* nothing behind it */
	n = nghttp2_session_mem_send(s->ng, &p);
	if (unlikely(n < 0)) {
		if (s->error == 0)
			s->error = n == NGHTTP2_ERR_NOMEM ? -SPLIT_E_HTTP2_NOMEM
							  : -SPLIT_E_HTTP2_PROTOCOL;
		s->finished = true;
		return false;
	}
	done = room_write(s, p, (size_t)n);
	if (unlikely(done < (size_t)n)) {
		s->pending = p + done;
		s->pending_len = (size_t)n - done;
		return false;
	}
	return n > 0;
}

int http2_session_send(struct http2_session *s, size_t bytes_max)
{
	bool over = false;

	if (s->finished)
		return s->error != 0 ? s->error : 0;
	assert(!s->in_io);
	s->in_io = true;
	s->wanted_told = false;
	s->blocked = false;
	s->sent = 0;
	while (send_step(s)) {
		if (s->sent + s->room_used >= bytes_max) {
			over = true;
			break;
		}
	}
	room_commit(s);
	s->in_io = false;
	counter_add(&s->engine->counters.tx_bytes, s->sent);
	if (s->blocked)
		counter_inc(&s->engine->counters.tx_blocked);
	if ((s->blocked || over) && !s->finished)
		return SPLIT_AGAIN;
	if (s->error != 0)
		s->finished = true;
	return s->error;
}

bool http2_session_want_send(const struct http2_session *s)
{
	return !s->finished &&
	       (s->pending_len > 0 || s->data.open || nghttp2_session_want_write(s->ng) != 0);
}

bool http2_session_done(const struct http2_session *s)
{
	if (s->finished)
		return true;
	return !http2_session_want_send(s) && nghttp2_session_want_read(s->ng) == 0;
}

void http2_send_wanted(struct http2_session *s)
{
	if (s->in_io || s->wanted_told || s->out.wanted == NULL)
		return;
	s->wanted_told = true;
	s->out.wanted(s->out.ctx);
}
