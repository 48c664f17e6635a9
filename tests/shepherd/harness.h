/* Both ends of an endpoint for tests: in one process (a thread runs the host's blocking open) or
 * with a forked host. */
#ifndef SPLITD_TESTS_SHEPHERD_HARNESS_H
#define SPLITD_TESTS_SHEPHERD_HARNESS_H

#include "shepherd/shepherd.h"

#define MS 1000000ull

struct pair {
	struct attach_server *server;
	struct endpoint *endpoint;
	struct endpoint_port *port; /* of daemon worker 0, adopted with `counters` */
	struct shepherd_counters counters;
	struct attachment *host; /* NULL with a forked host */
	pid_t pid;               /* of the forked host */
};

/* Small: 1 daemon worker, 2 host workers, 8 slots, 1 MiB segments, 16 calls. */
struct endpoint_config pair_config(void);
/* Two unary methods of service "test.Pair": 0 (code 0x1000, data 0x2000) and 1. */
const struct attach_hello *pair_hello(void);

void pair_open(struct pair *p, const struct endpoint_config *config);
/* The child attaches, runs host(attachment, arg) and exits with its result. */
void pair_fork(struct pair *p, const struct endpoint_config *config,
	       int (*host)(struct attachment *, void *), void *arg);
/* Waits for the child too; returns its exit status (or -signal), 0 without one. */
int pair_close(struct pair *p);

/* Run the server up to ACTIVE, waiting for the host. 0 or the code it failed with. */
int serve_attach(struct attach_server *server, const struct endpoint_config *config);

/* Completions gathered by gather(), the events' callback with a struct gathered as ctx. */
struct gathered {
	unsigned n;
	struct endpoint_completion c[64];
	uint8_t area[64][SLOT_INLINE_BYTES]; /* copy of an inline message */
	bool release;                        /* give tokens back at once */
};
extern const struct endpoint_events gather;

uint64_t now(void);
bool hugepages_there(unsigned pages);
#endif
