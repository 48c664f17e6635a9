/* Inside daemon/worker only: what lanes.c keeps of an endpoint, in struct attached, and does. */
#ifndef SPLITD_DAEMON_WORKER_LANES_H
#define SPLITD_DAEMON_WORKER_LANES_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/balance/balance.h"
#include "shepherd/layout.h"

/* What was last seen of one host worker (lanes.c). */
struct lane_watch {
	uint32_t claim; /* with heartbeat: while neither moves one handler runs */
	uint32_t polled_claim;
	uint64_t heartbeat;
	uint64_t since_ns;   /* when they last moved */
	uint64_t polling_ns; /* it looks in vain since; 0: it does not */
	bool stuck;          /* has been in one handler for long */
	bool told;           /* TRYAGAIN */
};

/* Sums over ticks. */
struct lane_scale {
	unsigned ticks;
	uint64_t busy, active; /* host workers */
	bool waited;
};

struct attached;

extern const struct balance_lanes attached_lanes;

/* See whether host workers are stuck or missing. Each turn; looks now and then. */
void attached_look(struct attached *ep);
/* When it should look though nothing happens; UINT64_MAX: no need. */
uint64_t attached_look_ns(const struct attached *ep);
/* Publish the load, judge the number of host workers. Each tick. */
void attached_scale(struct attached *ep);
/* Say something to a host worker. False: its ring has no room. */
bool attached_ask(struct attached *ep, unsigned lane, enum slot_kind kind);

#endif
