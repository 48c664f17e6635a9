/* The load generator of split-perf rpc: connections full of calls, closed loop (each stream begins
 * its next call when one ends) or open loop (calls begin at the times of a Poisson process whatever
 * the server does, and latency counts from the time a call was meant to begin, so that a stall is
 * charged to all calls it held up).
 *
 * One thread. create → connect → run … → drain → destroy.
 */
#ifndef SPLITD_BENCH_LOAD_H
#define SPLITD_BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/h2.h"
#include "bench/link.h"
#include "bench/perf.h"

struct load;

struct load_params {
	unsigned connections, streams; /* streams: calls under way on one connection, at most */
	uint32_t bytes;                /* payload of each EchoMessage */
	enum h2_kind kind;
	uint32_t messages; /* of a call, each way that streams */
	double rate;       /* calls a second; 0: closed loop */
	const char *path, *authority;
	/* Not NULL: a unary call of any method, these bytes each way (gRPC's prefix first), instead
	 * of EchoMessages; the load's from load_create on. */
	uint8_t *request, *reply;
	size_t request_bytes, reply_bytes;
	uint64_t seed;
	/* True: end early (the server is gone, a signal came). May be NULL. */
	bool (*stopped)(void *ctx);
	void *ctx;
};

/* What ended between begin and end. */
struct load_window {
	uint64_t begin_ns, end_ns;
	uint64_t calls;  /* ended well */
	uint64_t errors; /* ended otherwise */
	uint64_t behind; /* open loop: meant to begin by end_ns and not begun */
	struct perf_histogram latency;
};

extern const struct link_events load_link_events;

/* `set` was made with load_link_events; it outlives the load. */
int load_create(const struct load_params *params, struct link_set *set,
		struct load **out) SPLIT_MUST_USE;
/* Open every connection and wait until the server's SETTINGS have come on each. */
int load_connect(struct load *load, uint64_t timeout_ns) SPLIT_MUST_USE;
/* Keep the load up for `ns`; counts into `window` when it is not NULL. A line each second. Negative
 * when nothing can go on (every connection failed, or stopped). */
int load_run(struct load *load, uint64_t ns, struct load_window *window) SPLIT_MUST_USE;
/* Begin nothing more and wait for what is under way. Returns how many calls were never answered. */
uint64_t load_drain(struct load *load, uint64_t timeout_ns);
/* Closes the connections. */
void load_destroy(struct load *load);

#endif
