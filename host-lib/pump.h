/* The pump: splitd's end of the rings, in this process, for a splitd that is on another machine.
 *
 * A session over tcp:// has segments, lanes and workers as any other; only, who writes requests and
 * takes answers is a thread of host-lib's own, which has the rest from a connection (remote/,
 * docs/SOCKET.md). So what host-lib does above the rings is the same for both backends. This header
 * is between pump*.c and session.c.
 *
 *   pump.c      greeting, the thread, its loop, its end
 *   pump_in.c   frames from splitd: calls, which worker gets them, taking them back
 *   pump_out.c  completions of the workers into frames
 */
#ifndef SPLITD_HOST_LIB_PUMP_H
#define SPLITD_HOST_LIB_PUMP_H

#include <pthread.h>

#include "base/list.h"
#include "host-lib/host_internal.h"
#include "remote/remote.h"

struct pump;

/* Connect to host->path, greet, and attach to a pump that is then running. `out` is as of
 * attachment_open. */
int pump_open(struct split_host *host, const struct attach_hello *hello, int timeout_ms,
	      struct attachment **out, struct pump **pump_out,
	      struct attach_refusal *why) SPLIT_MUST_USE;
/* The session's socket is shut: wait for its thread, free it. NULL is fine. */
void pump_close(struct pump *pump);

/* ------------------------------------------------------------------ of the pump's files */

/* A slot from splitd that waits for a worker, for room or for those before it. */
struct pump_frame {
	struct pump_frame *next;
	uint64_t charge, came_ns;
	size_t bytes;
	_Alignas(16) uint8_t body[];
};

/* A call in either direction. */
struct pump_call {
	struct list due; /* in pump.due or .opening while frames wait */
	struct pump_frame *first, *last;
	uint64_t wire_id; /* as both ends of the connection call it */
	uint64_t id;      /* as the rings here do; of a call out the same */
	uint32_t method;
	unsigned d, lane;
	bool out;
	bool begun;                      /* it is in the rings */
	bool forgotten;                  /* splitd's is over: only a CANCEL waits for room */
	uint32_t failed;                 /* a call out that could not go on: its status; 0: none */
	bool alone;                      /* so far by its REQUEST only: it can be taken back */
	struct endpoint_request request; /* as it was given to its lane, while `alone` */
};

struct pump_calls {
	struct pump_call **at; /* by place */
	uint32_t n, max;
};

struct pump {
	struct split_host *host;
	struct remote_tls *tls;
	struct remote_link *remote;
	struct remote_welcome welcome;
	struct schema *schema;
	struct attach_method *methods; /* the hello's, but for their strings */
	size_t methods_n;
	pthread_t thread;
	bool started;

	/* the thread's */
	struct attach_server *server;
	struct endpoint_config config;
	struct endpoint *endpoint;
	struct endpoint_port **ports;
	unsigned daemon_workers, workers;
	uint64_t looked_ns; /* when its thread last looked */
	bool active;        /* ACTIVE has been said: slots may come */
	bool over;
	struct pump_calls *calls, *outs; /* by daemon worker */
	struct list due;                 /* calls that are begun and have frames that wait */
	struct list opening;             /* calls that wait for a worker, the longest first */
	uint64_t due_charge;
	uint32_t due_n;
	struct pump_call *
		*ahead;   /* by worker: the call that may lie unbegun in its ring; or NULL */
	uint64_t look_ns; /* next look at what lies behind a busy worker */
	struct remote_queue queue; /* out, waiting for splitd's window */
	struct remote_flow flow;
};

/* pump_in.c */
int pump_slot(struct pump *p, const struct remote_frame *frame, uint64_t now_ns) SPLIT_MUST_USE;
/* What waits. Negative: the other side talks nonsense. */
int pump_due(struct pump *p, uint64_t now_ns) SPLIT_MUST_USE;
/* When pump_due wants to be called again though nothing happens; UINT64_MAX. */
uint64_t pump_due_next_ns(const struct pump *p);
/* Forget a call; its own part of the rings was closed. */
void pump_call_free(struct pump *p, struct pump_call *call);
struct pump_call *pump_call_new(struct pump *p, uint64_t wire_id, uint32_t method);
void pump_calls_fini(struct pump *p);
/* A call out of which splitd has heard nothing ends here, with a status of our own. */
void pump_out_end(struct pump *p, uint64_t wire_id, uint32_t status);
/* One of which splitd has heard: it ends with that status when splitd says that it has ended. */
void pump_out_fail(struct pump *p, uint64_t wire_id, uint32_t status);
/* One of splitd's is over there: its handler hears of it. Nothing, where it is over here too. */
void pump_call_end(struct pump *p, uint64_t wire_id, uint64_t now_ns);

/* pump_out.c */
extern const struct endpoint_events pump_events;
void pump_queue_send(struct pump *p, uint64_t now_ns);
/* Splitd shall give the call to somebody else; it is in no ring. Frees it. */
void pump_refuse(struct pump *p, struct pump_call *call);

#endif
