/* PINGs: ours, to see whether the peer lives and how much it can have on the way, and the peer's,
 * of which gRPC allows few.
 *
 * Strikes (gRPC's A8, "Server Enforcement"): a PING that comes sooner after the last than
 * ping_interval_min allows (two hours while no stream is open, unless pings_without_streams) is a
 * strike; past ping_strikes_max the connection ends with ENHANCE_YOUR_CALM and "too_many_pings".
 * Whatever we send of an answer forgives, since some clients measure with PINGs while they receive.
 *
 * Windows: half a window received, a PING goes out and what arrives until its answer is counted.
 * When that is more than two thirds of the stream's window, the sender was about to wait for us:
 * the windows double, up to their maxima (gRPC's flow-control by bandwidth-delay product). */
#include "daemon/http2/http2_internal.h"

#include <string.h>

#define NS_PER_S        UINT64_C(1000000000)
#define STRIKES_IDLE_NS (2 * 3600 * NS_PER_S)
/* Between two measurements that found nothing to widen. */
#define BDP_PAUSE_NS (NS_PER_S / 2)

const uint8_t http2_drain_ping[8] = {'s', 'p', 'l', 'i', 't', 'd', 0, 1};
static const uint8_t alive_ping[8] = {'s', 'p', 'l', 'i', 't', 'd', 0, 2};
static const uint8_t bdp_ping[8] = {'s', 'p', 'l', 'i', 't', 'd', 0, 3};

int http2_session_ping(struct http2_session *s)
{
	if (s->error != 0)
		return s->error;
	if (nghttp2_submit_ping(s->ng, NGHTTP2_FLAG_NONE, alive_ping) != 0)
		return -SPLIT_E_BASE_NOMEM;
	counter_inc(&s->engine->counters.tx_pings);
	http2_send_wanted(s);
	return 0;
}

void http2_ping_received(struct http2_session *s)
{
	const struct http2_config *c = &s->engine->config;
	uint64_t interval_ns = c->ping_interval_min_ns;
	uint64_t last_ns = s->ping_last_ns;

	http2_flood_spend(s, FLOOD_PINGS);
	if (c->ping_strikes_max == 0 || interval_ns == 0)
		return;
	if (s->streams_open == 0 && !c->pings_without_streams && interval_ns < STRIKES_IDLE_NS)
		interval_ns = STRIKES_IDLE_NS;
	s->ping_last_ns = s->now_ns;
	if (last_ns == 0 || s->now_ns - last_ns >= interval_ns ||
	    ++s->ping_strikes <= c->ping_strikes_max || s->error != 0)
		return;
	counter_inc(&s->engine->counters.ping_strikes);
	http2_session_fail_text(s, HTTP2_ENHANCE_YOUR_CALM, -SPLIT_E_HTTP2_FLOOD, "too_many_pings");
}

/* ---- windows -------------------------------------------------------------------------------- */

void http2_bdp_data(struct http2_session *s, size_t n)
{
	s->bdp_bytes += n;
	if (s->bdp_pinged || s->bdp_bytes < s->window_stream / 2 || s->now_ns < s->bdp_next_ns ||
	    s->error != 0)
		return;
	if (nghttp2_submit_ping(s->ng, NGHTTP2_FLAG_NONE, bdp_ping) != 0)
		return;
	s->bdp_pinged = true;
	s->bdp_bytes = 0;
}

/* Wider windows are memory that waiting calls may hold: not while that is scarce. */
static bool memory_plenty(const struct http2_engine *e)
{
	return e->memory.used < e->config.memory_bytes / 4;
}

static void windows_grow(struct http2_session *s)
{
	const struct http2_config *c = &s->engine->config;
	uint64_t stream = 2 * (uint64_t)s->window_stream;
	uint64_t connection = 2 * (uint64_t)s->window_connection;
	nghttp2_settings_entry setting = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0};

	stream = stream < c->window_stream_max ? stream : c->window_stream_max;
	connection = connection < c->window_connection_max ? connection : c->window_connection_max;
	setting.value = (uint32_t)stream;
	if (nghttp2_submit_settings(s->ng, NGHTTP2_FLAG_NONE, &setting, 1) != 0)
		return;
	s->window_stream = (uint32_t)stream;
	if (connection > s->window_connection &&
	    nghttp2_session_set_local_window_size(s->ng, NGHTTP2_FLAG_NONE, 0,
						  (int32_t)connection) == 0)
		s->window_connection = (uint32_t)connection;
	counter_inc(&s->engine->counters.windows_grown);
}

bool http2_ping_answered(struct http2_session *s, const uint8_t *data)
{
	if (s->bdp_pinged && memcmp(data, bdp_ping, sizeof(bdp_ping)) == 0) {
		s->bdp_pinged = false;
		if (s->bdp_bytes >= (uint64_t)s->window_stream * 2 / 3 && memory_plenty(s->engine))
			windows_grow(s);
		else
			s->bdp_next_ns = s->now_ns + BDP_PAUSE_NS;
		s->bdp_bytes = 0;
	}
	return memcmp(data, http2_drain_ping, sizeof(http2_drain_ping)) == 0;
}
