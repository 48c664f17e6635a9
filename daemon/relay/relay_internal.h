/* Inside daemon/relay only. */
#ifndef SPLITD_DAEMON_RELAY_INTERNAL_H
#define SPLITD_DAEMON_RELAY_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>

#include "base/list.h"
#include "base/log.h"
#include "daemon/relay/relay.h"
#include "remote/remote.h"
#include "shepherd/shepherd.h"

struct relay {
	struct relay_params p;
	int fd;
	struct remote_tls *tls;
	struct list guests; /* of struct guest; the control thread's */
	struct log_limit limit_log;
	unsigned guests_n;
	pthread_mutex_t lock;
	struct list waiting;            /* of struct guest.offer; under the lock */
	bool closing;                   /* under the lock: nobody is offered any more */
	struct relay_counters counters; /* atomic adds */
};

/* A call, by its place at a daemon worker. */
struct guest_call {
	uint64_t id;
	uint32_t method;
	uint32_t waits; /* arrivals of this place that wait for room */
	uint32_t pass;  /* guest.pass in which one of them found none */
	uint32_t
		failed; /* a call out whose answer cannot go to the host: the status it ends with */
};

struct guest_calls {
	struct guest_call *at;
	uint32_t n, max;
};

/* A slot that has arrived and waits for room towards the workers. */
struct guest_waiting {
	struct guest_waiting *next;
	uint64_t charge, came_ns, call_id;
	size_t bytes, room;
	_Alignas(16) uint8_t body[];
};

struct guest_batch {
	uint64_t tokens[SLOT_TOKENS_MAX];
	unsigned n;
};

/* One connection. */
struct guest {
	struct list link;
	struct relay *relay;
	pthread_t thread;
	bool done;   /* atomic: its thread has ended */
	int stop_fd; /* eventfd: control wants it to end */
	int fd;      /* until the link has it */
	char peer[96];
	/* Towards control: the other end of the attach socket, until it is taken. */
	struct list offer;
	int offer_fd;
	bool secure;
	char names[RELAY_NAMES_MAX];

	/* its thread */
	struct remote_link *remote;
	struct remote_hello hello;
	uint8_t *blob;
	struct attach_table table;
	struct schema *schema;
	struct attachment *a;
	unsigned daemon_workers;
	struct shepherd_window incoming;
	struct arena *arena;              /* of the to-daemon segment */
	struct guest_calls *calls, *outs; /* by daemon worker */
	struct guest_batch *batches;      /* the same: request tokens to be given back */
	bool *dirty;                      /* the same: a completion was published */
	struct remote_queue queue;        /* out, waiting for the host's window */
	struct guest_waiting *waiting, *waiting_last;
	uint64_t waiting_charge;
	uint32_t waiting_n;
	uint32_t pass; /* over those that wait */
	struct remote_flow flow;
	bool over;
	bool faulted; /* it was counted */
	/* The waker: waits for the workers' wake-up while `parked`. */
	pthread_t waker;
	bool waker_runs;
	sem_t waker_go;
	int wake_fd;
	uint32_t wake;
	bool parked;
	bool waker_stop; /* atomic */
};

#define RELAY_COUNT(g, field) __atomic_fetch_add(&(g)->relay->counters.field, 1, __ATOMIC_RELAXED)

/* greet.c: from the first byte to WELCOME. 0, or negative: the connection is over; the cause was
 * logged and, where that is possible, told. */
int guest_greet(struct guest *g) SPLIT_MUST_USE;
/* Whatever greeting and serving have made. */
void guest_fini(struct guest *g);
/* loop.c: until one side goes. Ends with guest_fini. */
void guest_serve(struct guest *g);
/* out.c: slots from the rings into frames. True: something was there. */
bool guest_lanes_take(struct guest *g, uint64_t now_ns);
/* Send what waits, as far as the window goes. */
void guest_queue_send(struct guest *g, uint64_t now_ns);
/* in.c: a frame from the host. Negative: it makes no sense. */
int guest_slot(struct guest *g, const struct remote_frame *frame, uint64_t now_ns) SPLIT_MUST_USE;
/* Those that waited. Negative: one makes no sense. */
int guest_waiting_retry(struct guest *g) SPLIT_MUST_USE;
/* End a call towards its worker: STATUS for one of splitd's, ABANDON for a call out. */
void guest_call_end(struct guest *g, uint64_t call_id, uint32_t status, const char *text);
/* Give a request's blocks back; they go out in batches. */
void guest_release(struct guest *g, unsigned d, uint64_t token);
void guest_releases_flush(struct guest *g);

/* The host's fault, counted once. */
void guest_fault(struct guest *g);
/* Nobody wants what waits for the window of this call. True: not even its beginning was sent. */
bool guest_queue_purge(struct guest *g, uint64_t call_id);
/* Where a call is kept, whichever now is. NULL: no memory, or an id that cannot be. */
struct guest_call *guest_call_place(struct guest *g, uint64_t call_id);
/* Remember the method of a call; false: no memory, or an id that cannot be. */
bool guest_call_note(struct guest *g, uint64_t call_id, uint32_t method);
/* NULL: a call that is not known. */
const struct attach_method *guest_call_method(const struct guest *g, uint64_t call_id);
const struct schema_message *guest_type(const struct guest *g, const struct attach_method *m,
					bool output);

#endif
