/* A look at the frame headers before nghttp2 gets the bytes.
 *
 * nghttp2 passes silently over frames that it has no use for: PRIORITY (we announce
 * SETTINGS_NO_RFC7540_PRIORITIES, which saves the dependency tree), frames on closed streams,
 * unknown types. RFC 9113 has errors for some of these, and floods are made of them. So this
 * scanner walks the frame boundaries, spends the flood budgets, and finds what nghttp2 would let
 * pass:
 *
 *   s5.1    DATA or HEADERS on a stream that the peer itself closed       STREAM_CLOSED
 *   s5.1.1  HEADERS on an identifier that was skipped                     PROTOCOL_ERROR
 *   s5.3.1 of RFC 7540, s6.3  PRIORITY on stream 0, of a wrong length, on itself
 *
 * Frames on streams that we reset are ignored, as s5.1 asks. What is on the way to nghttp2 when a
 * decision depends on its state (after RST_STREAM) is fed first: http2_scan stops there.
 *
 * One thing it lets pass that s5.1 forbids: RST_STREAM on a stream not yet opened, on a connection
 * that has opened others. gRPC's C core sends it for a call that is cancelled before its HEADERS
 * are out, and every other call of its connection would pay for that. Such a frame is left out of
 * what nghttp2 gets; so that none of it has been fed by then, a header that is cut off waits in
 * `head`.
 */
#include "daemon/http2/http2_internal.h"

#include <string.h>

#define PREFACE_BYTES 24
#define HEAD_BYTES    9

/* Frames that one header list may be spread over: at 16 KiB each, far more than any limit takes. */
#define CONTINUATIONS_MAX 32

/* How a stream ended that is gone from nghttp2; SCAN_UNKNOWN: never there, or long ago. */
enum scan_end { SCAN_UNKNOWN, SCAN_BY_PEER, SCAN_BY_US };

void http2_scan_init(struct http2_session *s)
{
	s->scan.skip = PREFACE_BYTES;
}

void http2_scan_stream_closed(struct http2_session *s, uint32_t id, bool by_us)
{
	struct scan *scan = &s->scan;

	scan->closed[scan->closed_next] = id << 1 | (by_us ? 1 : 0);
	scan->closed_next = (scan->closed_next + 1) % SCAN_CLOSED;
}

static enum scan_end closed_how(const struct http2_session *s, uint32_t id)
{
	for (unsigned i = 0; i < SCAN_CLOSED; i++)
		if (s->scan.closed[i] >> 1 == id)
			return s->scan.closed[i] & 1 ? SCAN_BY_US : SCAN_BY_PEER;
	return SCAN_UNKNOWN;
}

static bool stream_open(struct http2_session *s, uint32_t id)
{
	if (likely(s->last_found != NULL && s->last_found->id == id))
		return true;
	return nghttp2_session_get_stream_user_data(s->ng, (int32_t)id) != NULL;
}

static void stream_error(struct http2_session *s, uint32_t id, uint32_t code)
{
	counter_inc(&s->engine->counters.rx_malformed);
	(void)nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, (int32_t)id, code);
}

static void connection_error(struct http2_session *s, uint32_t code)
{
	counter_inc(&s->engine->counters.rx_malformed);
	http2_session_fail(s, code, -SPLIT_E_HTTP2_PROTOCOL);
}

/* DATA or HEADERS on an identifier that nghttp2 knew about before this input. */
static void scan_known_stream(struct http2_session *s, uint8_t type, uint32_t id)
{
	enum scan_end how;

	if (id > s->last_stream_id || id % 2 == 0 || stream_open(s, id))
		return;
	how = closed_how(s, id);
	if (how == SCAN_BY_US)
		return;
	if (type == NGHTTP2_DATA)
		stream_error(s, id, HTTP2_STREAM_CLOSED);
	else
		connection_error(s,
				 how == SCAN_BY_PEER ? HTTP2_STREAM_CLOSED : HTTP2_PROTOCOL_ERROR);
}

static void scan_priority(struct http2_session *s, uint32_t length, uint32_t id)
{
	http2_flood_spend(s, FLOOD_EMPTY);
	if (id == 0)
		connection_error(s, HTTP2_PROTOCOL_ERROR);
	else if (length != 5 && id <= s->last_stream_id && stream_open(s, id))
		stream_error(s, id, HTTP2_FRAME_SIZE_ERROR);
	else if (length != 5)
		connection_error(s, HTTP2_FRAME_SIZE_ERROR);
	else
		s->scan.priority_wanted = 4;
}

/* A frame's header is complete. False: what came before it must reach nghttp2 first. */
static bool scan_head(struct http2_session *s, bool all_fed)
{
	struct scan *scan = &s->scan;
	uint32_t length = be32_load(scan->head) >> 8;
	uint32_t id = be32_load(scan->head + 5) & 0x7fffffff;
	uint8_t type = scan->head[3];
	uint8_t flags = scan->head[4];

	switch (type) {
	case NGHTTP2_DATA:
		if (unlikely(length == 0 && !(flags & NGHTTP2_FLAG_END_STREAM)))
			http2_flood_spend(s, FLOOD_EMPTY);
		scan->pad_wanted = length != 0 && (flags & NGHTTP2_FLAG_PADDED) &&
				   !(flags & NGHTTP2_FLAG_END_STREAM);
		/* Behind a later stream's HEADERS: was it skipped? nghttp2 must know of that first.
		 */
		if (unlikely(id < scan->headers_max && id > s->last_stream_id && !all_fed))
			return false;
		scan_known_stream(s, type, id);
		break;
	case NGHTTP2_HEADERS:
		/* Trailers, or a mistake, right behind what opened the stream: which, nghttp2
		 * knows. */
		if (unlikely(id <= scan->headers_max && id > s->last_stream_id && !all_fed))
			return false;
		if (id > scan->headers_max)
			scan->headers_max = id;
		else
			scan_known_stream(s, type, id);
		scan->continuations = 0;
		scan->list_open = !(flags & NGHTTP2_FLAG_END_HEADERS);
		break;
	case NGHTTP2_CONTINUATION:
		http2_flood_spend(s, FLOOD_EMPTY);
		if (flags & NGHTTP2_FLAG_END_HEADERS)
			scan->list_open = false;
		if (++scan->continuations > CONTINUATIONS_MAX)
			http2_flood_exceeded(s, FLOOD_EMPTY);
		break;
	case NGHTTP2_RST_STREAM:
		if (unlikely(id > scan->headers_max && scan->headers_max > 0 && id % 2 == 1 &&
			     length == 4)) {
			if (!all_fed)
				return false;
			scan->leave_out = HEAD_BYTES + 4;
		}
		http2_flood_spend(s, FLOOD_RESETS);
		scan->stop = true;
		break;
	case NGHTTP2_SETTINGS:
		http2_flood_spend(s, flags & NGHTTP2_FLAG_ACK ? FLOOD_EMPTY : FLOOD_SETTINGS);
		break;
	case NGHTTP2_PING:
		if (flags & NGHTTP2_FLAG_ACK)
			http2_flood_spend(s, FLOOD_PINGS);
		else
			http2_ping_received(s);
		break;
	case NGHTTP2_WINDOW_UPDATE:
		http2_flood_spend(s, FLOOD_WINDOWS);
		break;
	case NGHTTP2_PRIORITY:
		scan_priority(s, length, id);
		break;
	default: /* GOAWAY, unknown ones */
		http2_flood_spend(s, FLOOD_EMPTY);
		break;
	}
	scan->skip = length;
	return true;
}

/* Bytes inside a frame: of interest are PRIORITY's, and how much of DATA is padding. */
static size_t scan_payload(struct http2_session *s, const uint8_t *p, size_t n)
{
	struct scan *scan = &s->scan;

	n = n < scan->skip ? n : scan->skip;
	if (unlikely(scan->pad_wanted)) {
		/* Nothing but padding is as empty as nothing. */
		if (p[0] + 1u >= scan->skip)
			http2_flood_spend(s, FLOOD_EMPTY);
		scan->pad_wanted = false;
	}
	if (unlikely(scan->priority_wanted > 0)) {
		n = n < scan->priority_wanted ? n : scan->priority_wanted;
		memcpy(scan->priority + 4 - scan->priority_wanted, p, n);
		scan->priority_wanted -= (uint8_t)n;
		if (scan->priority_wanted == 0 &&
		    ((be32_load(scan->priority) ^ be32_load(scan->head + 5)) & 0x7fffffff) == 0)
			connection_error(s, HTTP2_PROTOCOL_ERROR);
	}
	scan->skip -= (uint32_t)n;
	return n;
}

size_t http2_scan(struct http2_session *s, const uint8_t *p, size_t n)
{
	struct scan *scan = &s->scan;
	size_t at = 0;

	while (at < n && s->error == 0) {
		if (scan->skip > 0) {
			at += scan_payload(s, p + at, n - at);
			if (scan->skip == 0 && unlikely(scan->stop))
				break;
			continue;
		}
		if (!scan->list_open)
			scan->since_ns = s->now_ns;
		if (unlikely(n - at < HEAD_BYTES)) {
			memcpy(scan->head, p + at, n - at);
			scan->head_len = (uint8_t)(n - at);
			break;
		}
		memcpy(scan->head, p + at, HEAD_BYTES);
		if (unlikely(!scan_head(s, at == 0)))
			break;
		if (unlikely(scan->leave_out > 0)) {
			scan->skip = 0;
			break;
		}
		at += HEAD_BYTES;
	}
	scan->stop = false;
	return at;
}

size_t http2_scan_rest(struct http2_session *s, const uint8_t *p, size_t n, bool *whole_out)
{
	struct scan *scan = &s->scan;
	size_t part = (size_t)HEAD_BYTES - scan->head_len;

	*whole_out = false;
	part = part < n ? part : n;
	memcpy(scan->head + scan->head_len, p, part);
	scan->head_len += (uint8_t)part;
	if (scan->head_len < HEAD_BYTES)
		return part;
	scan->head_len = 0;
	(void)scan_head(s, true);
	if (scan->leave_out > 0) {
		scan->skip = 0;
		scan->leave_out -= HEAD_BYTES;
		scan->stop = false;
	} else {
		*whole_out = true;
	}
	return part;
}

bool http2_session_check(struct http2_session *s, uint64_t now_ns)
{
	const struct scan *scan = &s->scan;
	uint64_t timeout_ns = s->engine->config.frame_timeout_ns;

	if (s->error != 0 || timeout_ns == 0 || !s->started || now_ns < scan->since_ns + timeout_ns)
		return false;
	if (scan->skip == 0 && scan->head_len == 0 && !scan->list_open)
		return false;
	counter_inc(&s->engine->counters.frames_slow);
	http2_session_fail(s, HTTP2_ENHANCE_YOUR_CALM, -SPLIT_E_HTTP2_FLOOD);
	return true;
}
