/* The daemon's half of one endpoint on this thread, and a process with the real libsplit-host at
 * the other end, attached by the real protocol over a socket of their own. Its one method answers
 * each EchoMessage with itself and stamps when its handler was entered. */
#ifndef SPLITD_BENCH_HOST_PAIR_H
#define SPLITD_BENCH_HOST_PAIR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "linearize/linearize.h"
#include "shepherd/shepherd.h"

/* Shared by the two processes, beside the segments. */
struct host_pair_page {
	_Alignas(64) _Atomic uint64_t calls; /* handlers entered */
	uint64_t entered;                    /* cycles at the last entry */
	uint64_t first;                      /* cycles when the first handler of a batch went on */
	_Alignas(64) _Atomic uint64_t gate;  /* the handler of call n waits until gate >= n */
	_Alignas(64) _Atomic uint64_t parks; /* written when the host ends, and each 64 calls */
};

struct host_pair {
	pid_t pid;
	char dir[32], path[64];
	int listen_fd;
	struct attach_server *server;
	struct endpoint *endpoint;
	struct endpoint_port *port;
	struct schema *schema;
	const struct schema_message *input;
	struct shepherd_counters counters;
	struct host_pair_page *page;
	uint8_t wire[128];
	size_t wire_n;
	struct decode_job *job;
	uint64_t published, answered, bad;
	uint64_t answered_at;  /* cycles, when the last answer was seen */
	uint64_t published_at; /* cycles, just before the last slot became visible */
};

struct host_pair_options {
	unsigned workers, core;
	uint64_t spin_ns; /* UINT64_MAX: never parks */
	unsigned payload;
};

/* Forks: before there are threads. 0, or a negative code after a line on standard error. */
int host_pair_open(struct host_pair *p, const struct host_pair_options *options) SPLIT_MUST_USE;
void host_pair_close(struct host_pair *p);

/* One call on the lane of this worker: opened, decoded into its slot; not rung. */
int host_pair_submit(struct host_pair *p, unsigned lane) SPLIT_MUST_USE;
/* Rings. */
void host_pair_flush(struct host_pair *p);
/* Take answers; negative when the host is broken. */
int host_pair_poll(struct host_pair *p) SPLIT_MUST_USE;
/* Poll until every call is answered; at most 5 s. */
int host_pair_wait(struct host_pair *p) SPLIT_MUST_USE;

#endif
