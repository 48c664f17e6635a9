/* Where everything lies in the two segments. A pure function of counts and sizes, so that the host
 * can hold what it was given against what it must be. */
#include "shepherd/shepherd_internal.h"

#include <string.h>

#define ARENA_ALIGN 4096u

static bool slots_valid(uint32_t n)
{
	return n >= SHEPHERD_SLOTS_MIN && n <= SHEPHERD_SLOTS_MAX && (n & (n - 1)) == 0;
}

static uint64_t round_up(uint64_t v, uint64_t to)
{
	return (v + to - 1) / to * to;
}

int geometry_lay_out(struct geometry *g)
{
	uint64_t pairs, at;

	if (g->daemon_workers < 1 || g->daemon_workers > SHEPHERD_DAEMON_WORKERS_MAX ||
	    g->host_workers < 1 || g->host_workers > SHEPHERD_HOST_WORKERS_MAX ||
	    g->host_workers_min < 1 || g->host_workers_min > g->host_workers ||
	    !slots_valid(g->request_slots) || !slots_valid(g->completion_slots) ||
	    !slots_valid(g->foreign_slots) || g->to_host_bytes > SHEPHERD_SEGMENT_MAX ||
	    g->to_daemon_bytes > SHEPHERD_SEGMENT_MAX || g->tokens_max < 1 ||
	    g->stream_window < 1 || g->stream_window > SHEPHERD_STREAM_WINDOW_MAX ||
	    g->outs_max > SLOT_OUT_INDEX)
		return -SPLIT_E_SHEPHERD_GEOMETRY;
	pairs = (uint64_t)g->daemon_workers * g->host_workers;

	at = ARENA_ALIGN;
	g->host_wake_offset = at;
	at += (uint64_t)g->host_workers * SHEPHERD_LINE;
	g->daemon_sleep_offset = at;
	at += (uint64_t)g->daemon_workers * SHEPHERD_LINE;
	g->daemon_line_offset = at;
	at += (pairs + g->daemon_workers) * SHEPHERD_LINE;
	at = round_up(at, SLOT_BYTES);
	g->request_offset = at;
	at += pairs * g->request_slots * SLOT_BYTES;
	at = round_up(at, ARENA_ALIGN);
	g->to_host_arena_offset = at;
	if (at + (uint64_t)g->daemon_workers * ARENA_ALIGN > g->to_host_bytes)
		return -SPLIT_E_SHEPHERD_GEOMETRY;
	g->to_host_partition_bytes =
		(g->to_host_bytes - at) / g->daemon_workers / ARENA_ALIGN * ARENA_ALIGN;

	at = 0;
	g->control_offset = at;
	at += (uint64_t)g->host_workers * SHEPHERD_LINE;
	g->host_line_offset = at;
	at += (pairs + g->daemon_workers) * SHEPHERD_LINE;
	at = round_up(at, SLOT_BYTES);
	g->completion_offset = at;
	at += pairs * g->completion_slots * SLOT_BYTES;
	g->foreign_offset = at;
	at += (uint64_t)g->daemon_workers * g->foreign_slots * SLOT_BYTES;
	at = round_up(at, ARENA_ALIGN);
	g->to_daemon_arena_offset = at;
	if (at + ARENA_ALIGN > g->to_daemon_bytes)
		return -SPLIT_E_SHEPHERD_GEOMETRY;
	g->to_daemon_arena_bytes = (g->to_daemon_bytes - at) / ARENA_ALIGN * ARENA_ALIGN;
	return 0;
}

int geometry_check(const struct geometry *g, uint64_t to_host_bytes, uint64_t to_daemon_bytes)
{
	struct geometry own = *g;

	if (g->magic != SHEPHERD_MAGIC || g->version != SHEPHERD_VERSION)
		return -SPLIT_E_SHEPHERD_ATTACH_VERSION;
	if (g->to_host_bytes != to_host_bytes || g->to_daemon_bytes != to_daemon_bytes ||
	    geometry_lay_out(&own) < 0 || memcmp(&own, g, sizeof(own)) != 0)
		return -SPLIT_E_SHEPHERD_GEOMETRY;
	return 0;
}

uint64_t geometry_request_offset(const struct geometry *g, unsigned d, unsigned lane)
{
	return g->request_offset +
	       ((uint64_t)d * g->host_workers + lane) * g->request_slots * SLOT_BYTES;
}

uint64_t geometry_completion_offset(const struct geometry *g, unsigned d, unsigned lane)
{
	if (lane == g->host_workers)
		return g->foreign_offset + (uint64_t)d * g->foreign_slots * SLOT_BYTES;
	return g->completion_offset +
	       ((uint64_t)d * g->host_workers + lane) * g->completion_slots * SLOT_BYTES;
}
