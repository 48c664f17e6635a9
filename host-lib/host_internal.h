/* What the files of host-lib share. Nothing here leaves the folder.
 *
 *   host.c      the host object: services, sessions, attach again
 *   session.c   one attachment: its workers, its end
 *   worker.c    the loop: take slots, run handlers, park
 *   lane.c      the producer's side: which lane, waiting for room, release batches
 *   call.c      calls: table, handles, references, what a handler asks of them
 *   answer.c    replies: flatten, status, metadata
 *   stream.c    streams: what comes for a call after its request, its window, its credit
 *   room.c      memory in the to-daemon segment
 *   wire.c      messages that come, or go, as their wire bytes
 *   relocate.c  a small message out of its slot
 *   typed.c     what generated code stands on
 *   channel.c   channels, stubs, calls out: beginning them
 *   out.c       what comes back for calls out
 *
 * One `struct session` is one attachment with threads of its own, so that a handler stuck in the
 * old one never holds up the new one. A session is freed when its workers have ended and every call
 * opened in it is over.
 *
 * The consumer's side of the rings of worker h belongs to whoever holds h's `ring_held`: the worker
 * itself, but while a handler runs anybody who waits for room may take it, so that RELEASE and
 * CANCEL never wait for a handler (worker.c). The producer's side is always the worker's own.
 */
#ifndef SPLITD_HOST_INTERNAL_H
#define SPLITD_HOST_INTERNAL_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/error.h"
#include "host-lib/split-host.h"
#include "linearize/linearize.h"
#include "shepherd/shepherd.h"

#define HOST_CALLS_MAX_DEFAULT 65536u
#define HOST_CALLS_MAX_LIMIT   (1u << 24) /* a handle has 24 bits of index */
#define HOST_CALL_CHUNK        64u        /* calls allocated at a time */
#define HOST_METADATA_ITEMS    64u
#define HOST_METADATA_BYTES    8192u
#define HOST_TEXT_BYTES        1024u
#define HOST_DETAILS_BYTES     4096u
#define HOST_WORKERS_MAX       SHEPHERD_HOST_WORKERS_MAX
#define HOST_TRACES            3u   /* names of trace context that calls out inherit */
#define HOST_TRACE_BYTES       512u /* of each: W3C's tracestate may have so many */

struct session;
struct worker;

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* ------------------------------------------------------------------ methods */

struct method;

/* The code pointer of a method's table entry; its data pointer is the struct method. */
typedef void (*method_code)(struct split_call *call, struct method *method);

/* Where messages of a type have their pointers (relocate.c). */
#define RELOCATION_POINTERS 12u
struct relocation {
	bool walk; /* this does not say it all: its descriptor does */
	uint8_t n;
	uint8_t at[RELOCATION_POINTERS];
};

struct split_channel {
	struct split_channel *next;
	struct split_host *host;
	char *name;
	uint64_t timeout_ns;
	bool wait_for_ready;
	struct channel_service *services;
};

struct method {
	uint32_t index;                     /* in the host's table */
	uint32_t input_index, output_index; /* in its schema, of what the attach names so */
	_Atomic size_t wire_hint;           /* bytes that an answer takes, encoded */
	/* One that the host calls. `input` is what comes in then, the answer, and `output` the
	 * request. NULL: it is served. */
	struct split_channel *channel;
	method_code code;
	char *path; /* "package.Service/Method" */
	char *service_name;
	char *method_name;
	enum split_method_kind kind;
	const ProtobufCMessageDescriptor *input;
	const ProtobufCMessageDescriptor *output;
	struct flatten_plan *plan;  /* of `output`; NULL: its descriptors are not sound */
	struct relocation pointers; /* of `input` */
	bool answers_now; /* a handler that returns without answering or retaining has forgotten */
	uint32_t read_ahead; /* messages handed over ahead of the handler; 1..255 */

	ProtobufCService *service; /* a protobuf-c service's method, or */
	unsigned service_index;
	struct split_method raw; /* one of split_host_serve_method */
};

/* ------------------------------------------------------------------ memory in the segment */

/* Starts each block of the to-daemon arena. Blocks of one slot are chained; the address of the
 * first one is the slot's token. */
struct block {
	struct block *next;
	uint64_t bytes; /* of the whole block */
};

_Static_assert(sizeof(struct block) == 16, "messages stay 16-byte aligned behind it");

#define ROOM_CLASSES   5  /* blocks of 256 B … 4 KiB are kept by the worker that gets them back */
#define ROOM_CACHE_MAX 32 /* of each class at most */

/* A worker's own free blocks. Its thread only. */
struct room_cache {
	struct block *free[ROOM_CLASSES];
	uint16_t count[ROOM_CLASSES];
};

/* A session's to-daemon arena. Any thread. */
struct room {
	pthread_mutex_t lock;
	struct arena *arena;
	struct shepherd_chunk mem;
	unsigned cache_max;       /* blocks of each class that one worker may keep */
	_Atomic uint32_t waiters; /* threads that found no room: caches are given back */
};

int room_init(struct room *r, struct shepherd_chunk mem, unsigned workers) SPLIT_MUST_USE;
void room_fini(struct room *r);
/* A block with `bytes` behind its header, or NULL: no room now. `cache` may be NULL. */
struct block *room_get(struct room *r, struct room_cache *cache, size_t bytes);
/* Free a whole chain. */
void room_put(struct room *r, struct room_cache *cache, struct block *chain);
/* Give a cache back. */
void room_cache_flush(struct room *r, struct room_cache *cache);
/* Whether a block for `bytes` could exist at all. */
bool room_possible(const struct room *r, size_t bytes);
/* A chain goes to the daemon with a slot, and comes back with a RELEASE: what orders the two (slot,
 * the daemon, slot) goes through another process's mapping, where ThreadSanitizer does not look. */
#if defined(__SANITIZE_THREAD__)
void __tsan_release(void *address);
void __tsan_acquire(void *address);
#define ROOM_TO_DAEMON(chain)   __tsan_release(chain)
#define ROOM_FROM_DAEMON(chain) __tsan_acquire(chain)
#else
#define ROOM_TO_DAEMON(chain)   (void)(chain)
#define ROOM_FROM_DAEMON(chain) (void)(chain)
#endif
/* The chain behind a token, or NULL when it names none. */
struct block *room_of_token(const struct room *r, uint64_t token);

/* ------------------------------------------------------------------ wire bytes (wire.c) */

/* Memory that a message is decoded into; on the heap. */
struct wire_part {
	struct wire_part *next;
	size_t bytes;
	_Alignas(16) uint8_t mem[];
};

/* A message that came as its wire bytes. */
struct wire_in {
	bool wanted; /* it is to be decoded, from `at` */
	uint32_t bytes;
	uint32_t elements_max;
	uint64_t limits; /* WIRE_LIMITS */
	const uint8_t *at;
	struct wire_part *parts; /* what it was decoded into */
};

/* ------------------------------------------------------------------ calls */

/* split_call.word: generation << 32 | flags | references. A call is over, and its struct free, when
 * it is ANSWERED and has no reference. References: the handler while it runs, each retain, and
 * whoever is at work on the answer. */
#define CALL_ANSWERED  UINT64_C(0x80000000) /* somebody has taken it on himself to answer */
#define CALL_GONE      UINT64_C(0x40000000) /* the request's blocks have been given back */
#define CALL_REFS      UINT64_C(0x00ffffff)
#define CALL_GEN_SHIFT 32

struct heap_part {
	struct heap_part *next;
	uint64_t pad;
	uint8_t bytes[];
};

/* Metadata of an answer until it is sent; items point into heap parts of the call. */
struct metadata_list {
	struct metadata_item *items;
	uint32_t count;
	uint32_t bytes;
};

/* What the worker has to run for a call, in the order in which it came. */
enum event_kind {
	EVENT_BEGIN, /* of any kind of call; only where it could not be run from its slot */
	EVENT_MESSAGE,
	EVENT_HALF_CLOSE,
	EVENT_WRITABLE,
	EVENT_CANCEL, /* of streams */
	/* of calls out */
	EVENT_OUT_METADATA,
	EVENT_OUT_MESSAGE,
	EVENT_OUT_WRITABLE,
	EVENT_OUT_STATUS,
};

/* An event; a message that the handler may keep. */
struct split_message {
	struct split_message *next; /* queue, free list */
	struct split_call *call;    /* NULL: only the token is to be given back */
	uint8_t kind;
	bool has_token;
	bool compressed;
	bool last; /* the client's half-close came with it; of a call out: its end */
	uint16_t daemon_worker;
	_Atomic uint32_t refs; /* its callback, and each retain: each is a reference of the call too
				*/
	uint64_t token;
	const ProtobufCMessage *message;
	struct wire_in in;
	/* of calls out */
	const struct metadata_block *metadata;
	const char *text;
	uint32_t text_bytes, status;
	_Alignas(BITS_CACHE_LINE) uint8_t inline_area[SLOT_INLINE_BYTES];
};

/* A streaming call's own state; stays with its struct split_call. */
struct stream {
	struct split_message *current; /* the message whose callback runs */
	bool half_closed;              /* with the request */

	/* The window: the sender counts `sent`, who holds the ring the rest. */
	_Atomic uint32_t sent;
	_Atomic uint32_t done;
	_Atomic uint32_t window;
	_Atomic uint32_t want; /* a send found no room: the writable callback is due */
	bool asked;            /* for it by WANT; the sender's */
	_Atomic uint64_t bytes_sent;
	_Atomic uint64_t bytes_done;
	_Atomic uint32_t sizes[SHEPHERD_STREAM_WINDOW_MAX]; /* of message n at n % MAX */

	_Atomic uint32_t credit_due; /* messages the handler is through with and splitd not told */
};

/* A call out, beside the struct split_call that it is made of: that one's "reply" is the request.
 */
struct split_out {
	struct split_call *call;
	_Atomic uint64_t id; /* as slots name it; 0: it is over */
	uint32_t index;      /* its place among those at its daemon worker */
	bool shared;         /* its place is of those that all threads share */
	bool half_closed;    /* the sender's */
	bool waits;          /* for somebody who can answer */
	_Atomic bool ended;  /* the status has come */
	uint64_t parent_id;  /* the call it is made for; 0: none */
	struct split_out_events events;
	void *data;
	ProtobufCClosure closure; /* of a stub of protoc-c */
	/* Trace context, for those that its continuations begin. */
	struct out_trace {
		uint16_t bytes[HOST_TRACES];
		uint8_t value[HOST_TRACES][HOST_TRACE_BYTES];
	} trace;
};

struct split_call {
	/* line 0: identity, and what every answer needs */
	_Atomic uint64_t word;
	struct session *session;
	struct method *method;
	uint64_t call_id;
	uint64_t request_token;
	const ProtobufCMessage *message;
	uint32_t index; /* in the host's table */
	uint16_t daemon_worker;
	_Atomic uint8_t cancelled;
	uint8_t status;
	/* What makes an answer unusual; all false at the beginning of a unary call. Written by
	 * whoever builds the answer, and only looked at as one word by it. */
	union {
		struct {
			bool status_set;
			bool streaming;    /* a kind other than unary: `stream` is set */
			bool initial_sent; /* its initial metadata, or a message, is out */
			bool compress;     /* what is sent shall be */
			bool is_out;       /* a call out: `out` is set */
			bool answers_wire; /* what it is answered with is encoded here */
			bool in_place; /* promised: replies point into the call's own memory only */
			bool parts;    /* something of it has to be freed: answer_parts_free */
		};
		uint64_t unusual;
	};

	/* line 1: each call's too */
	union {
		struct {
			bool has_token;
			bool cancel_queued;
			bool begun;      /* its handler was called */
			bool compressed; /* the request came compressed */
			bool fell_back;  /* some of the reply's memory came from the heap */
			bool peer_is_tls;
			bool nowait; /* while something is sent: memory is there or it is not */
			bool wired;  /* `in` counts: something came as its wire bytes */
		};
		uint64_t marks;
	};
	struct worker *home; /* the worker that took it */
	uint64_t deadline_ns;
	const struct metadata_block *metadata;
	const struct metadata_block *identity;
	void *user;
	struct split_call *next; /* free list */
	/* Where the last slot of it went: what follows on another lane must not overtake it. */
	struct host_lane *out_lane;

	/* asked for now and then */
	uint32_t out_tail;
	bool taken_back; /* revoked by the daemon: not run */
	struct split_peer peer;
	struct split_call *cancel_next; /* calls whose cancelled callback is due */
	struct stream *stream;          /* NULL until the struct first stands for a stream */
	struct split_out *out;          /* NULL until it first stands for a call out */
	struct wire_in in;              /* with `wired`: its request, where that came so */

	/* the reply being built: one thread at a time */
	struct block *blocks; /* chain; the newest first */
	uint8_t *bump;
	uint8_t *bump_end;
	struct heap_part *heap;
	char *text;
	struct metadata_list initial;
	struct metadata_list trailing;
	ProtobufCAllocator allocator;
	struct split_host *host;

	_Alignas(BITS_CACHE_LINE) uint8_t inline_area[SLOT_INLINE_BYTES];
};

_Static_assert(offsetof(struct split_call, marks) == BITS_CACHE_LINE &&
		       offsetof(struct split_call, out_tail) == 2 * BITS_CACHE_LINE,
	       "a small call has two lines, and those of its message");

/* A struct that stood for another call, of whichever side, begins anew. Not its word, which
 * publishes the rest, nor taken_back, which the claim of a slot has set before. */
static inline void call_reset(struct split_call *call, struct session *session, struct worker *home,
			      struct method *method)
{
	call->session = session;
	call->home = home;
	call->method = method;
	call->message = NULL;
	call->status = SPLIT_OK;
	call->unusual = 0;
	call->marks = 0;
	call->user = NULL;
	call->metadata = NULL;
	call->identity = NULL;
	call->peer.family = 0;
	call->out_lane = NULL;
	atomic_store_explicit(&call->cancelled, 0, memory_order_relaxed);
}

/* Made at attach, freed at detach; structs are never moved or unmapped before. */
struct call_table {
	pthread_mutex_t lock;
	struct split_call *free;
	_Atomic(struct split_call *) *chunks;
	uint32_t made;
	uint32_t max;
	uint32_t generation; /* what new structs start from */
};

int call_table_init(struct call_table *t, uint32_t max) SPLIT_MUST_USE;
void call_table_fini(struct call_table *t);
/* A few free structs as a list, or NULL. Any thread. */
struct split_call *call_table_get(struct call_table *t, struct split_host *host);
void call_table_put(struct call_table *t, struct split_call *list);

/* Handles: what closure data is. */
void *call_handle(const struct split_call *call);
void call_closure(const ProtobufCMessage *reply, void *closure_data);
/* The right to answer `call`, once: takes a reference. False: answered before. `gen` must match. */
bool call_claim_answer(struct split_call *call, uint32_t gen);
uint32_t call_generation(const struct split_call *call);
/* A reference while the call is not answered. */
bool call_hold_unanswered(struct split_call *call);
/* Drop `n` references; gives the request back, answers for a forgetful handler, frees. */
void call_put(struct split_call *call, unsigned n);
/* Nobody refers to it any more: its struct is free. */
void call_free(struct split_call *call);
/* Free a call that was taken from a ring and never begun (its session is gone). */
void call_drop_unbegun(struct split_call *call);
/* Registry of hosts, so that a handle of a host that is gone is harmless. */
int host_registry_add(struct split_host *host) SPLIT_MUST_USE;
void host_registry_remove(struct split_host *host);

/* Answer a call that is ANSWERED; the reference stays the caller's, unless the answer waits for the
 * handler's return: then *kept_out is true, and worker->pending has the reference (of a call that
 * is no stream: none, the handler's does for both). */
int answer_claimed(struct split_call *call, const ProtobufCMessage *reply, bool *kept_out);
/* The same from within the handler of `call`, on its worker w, for the usual: a message that fits a
 * slot and nothing beside it. False: it is not that, and nothing was done. */
bool answer_usual(struct worker *w, struct split_call *call, const ProtobufCMessage *reply);
/* Free what the reply was built of. */
void answer_parts_free(struct split_call *call);
/* split_call_set_status without asking whether the call was answered. */
int answer_status_set(struct split_call *call, unsigned code, const char *message);

/* ------------------------------------------------------------------ workers and sessions */

/* Release tokens gathered for one daemon worker. */
struct release_batch {
	uint64_t tokens[SLOT_TOKENS_MAX];
	unsigned n;
};

/* Which call a daemon's call index stands for: index in the call table + 1, by daemon worker. */
struct call_map {
	uint32_t *of;
	uint32_t n;
};

struct worker {
	struct session *session;
	struct split_host *host;
	unsigned h;
	pthread_t thread;
	bool started;
	_Atomic bool exited;

	/* whoever holds the ring */
	_Alignas(BITS_CACHE_LINE) _Atomic uint32_t ring_held;
	struct split_call *free;
	struct split_message *queue_head; /* taken from the ring and not yet run */
	struct split_message *queue_tail;
	struct split_message *events_free;
	struct split_call *cancel_head;
	struct call_map *maps; /* by daemon worker */
	_Atomic uint64_t opened;
	_Atomic uint64_t closed_here; /* by this thread; the others count in `closed` */
	bool tryagain;                /* TRYAGAIN came: look no longer */
	bool yield;                   /* YIELDNOW came */
	bool retire; /* not needed now: RETIRE came, or it begins so; until RESUME */
	bool turned; /* RETIRE or RESUME has just come */

	/* any thread */
	_Alignas(BITS_CACHE_LINE) _Atomic(struct split_call *) returned;
	_Atomic(struct split_message *) events_returned;
	_Atomic(struct split_call *) outs_returned;
	_Atomic uint64_t closed;

	/* the worker's thread */
	_Alignas(BITS_CACHE_LINE) struct split_call *current;
	struct { /* an answer that waits for its handler's return; filled, not committed */
		struct split_call *call;
		struct slot *slot;
		struct host_lane *lane;
		unsigned refs; /* that it has of the call */
	} pending;
	struct host_lane **lanes;      /* by daemon worker */
	struct release_batch *batches; /* by daemon worker */
	struct split_call *outs_free;  /* structs for calls out */
	struct out_ids *out_ids;       /* by daemon worker */
	struct split_out *out;         /* whose continuation runs */
	struct room_cache cache;
	struct wire_part *parts; /* free ones, all of one size */
	unsigned parts_n;
	bool ring_mine;   /* this thread holds its ring */
	bool shares_core; /* with a daemon worker, when it last had nothing to do */
	uint8_t state;    /* enum host_state last said */
	uint32_t passes;
	uint32_t looks;     /* in vain, since it last had work */
	uint64_t gap_ns;    /* moving average of the pauses between works */
	uint64_t looked_ns; /* when it last had nothing to do */
	cpu_set_t cpus;     /* where it may be when splitd names no core */
	int core;           /* the one it was put on; -1: none */

	struct split_host_stats stats; /* relaxed; this thread writes */
};

/* Ids of calls out at one daemon worker that one thread may give: `first` .. `first` + max. */
struct out_ids {
	uint32_t first, max;
	uint32_t free_n;
	uint32_t *free;        /* places, `max` of them */
	uint32_t *generations; /* by place - first */
};

struct foreign {
	_Alignas(BITS_CACHE_LINE) pthread_mutex_t lock;
};

struct session {
	struct split_host *host;
	struct attachment *attachment;
	struct pump *pump;    /* over tcp://; NULL: in shared memory */
	struct session *next; /* host's list of ending ones */
	struct room room;
	unsigned daemon_workers;
	unsigned workers_n;
	struct worker *workers;
	struct foreign *foreign; /* by daemon worker */
	/* Calls out. */
	uint32_t outs_max;                      /* by daemon worker */
	_Atomic(struct split_call *) **outs_of; /* by daemon worker and place */
	_Atomic uint64_t outs_opened, outs_closed;
	_Atomic uint32_t outs_turn;  /* spreads those of foreign threads */
	pthread_mutex_t outs_lock;   /* of the shared ids, and foreign threads' structs */
	struct out_ids *outs_shared; /* by daemon worker */
	struct split_call *outs_free;
	_Atomic bool draining;
	_Atomic uint64_t drain_until_ns;
};

/* The thread's worker, NULL on threads that are none. */
extern __thread struct worker *worker_self __attribute__((tls_model("initial-exec")));

int session_open(struct split_host *host, const struct attach_hello *hello, struct session **out,
		 struct attach_refusal *why) SPLIT_MUST_USE;
/* Let the workers end once nothing is open, or at `until_ns`. */
void session_drain(struct session *s, uint64_t until_ns);
/* The other side is gone, or we go: workers end after the handler they are in. */
void session_end(struct session *s);
bool session_workers_exited(const struct session *s);
/* Calls not over. Exact once the workers have ended. */
uint64_t session_calls(const struct session *s);
/* Wait for the workers' threads. */
void session_join(struct session *s);
/* After join; every call is over, or the host goes. Adds its counters to the host's. */
void session_free(struct session *s);

void *worker_main(void *arg);
/* Have a handler for the signal that follows an unheeded YIELDNOW: its number, 0: none. */
int worker_yield_signal(const struct split_host_options *options);
/* Take what waits in the rings of the session's workers, without running anything: what a thread
 * that waits for room does. True when something was taken. */
bool worker_help(struct session *s);
/* Whether a CANCEL of `call` lies in the ring of this thread's worker; takes nothing. */
bool worker_sees_cancel(struct worker *w, const struct split_call *call);
/* Give back the caches of the workers to the arena, soon. */
void session_kick(struct session *s);
/* Commit an answer that waits for the handler's return, without the release. */
void worker_pending_flush(struct worker *w);

/* ------------------------------------------------------------------ producing */

/* A place to produce completions: the worker's own lane, or the foreign lane, locked. */
struct producer {
	struct session *session;
	struct host_lane *lane;
	struct worker *worker; /* NULL: foreign, `d` is locked */
	unsigned d;
	bool nowait; /* producer_slot does not wait for tokens */
};

void producer_open(struct producer *p, struct session *s, unsigned d);
void producer_close(struct producer *p);
/* producer_open for a slot that must not overtake what the call has sent before. On failure (0 is
 * good, -SPLIT_E_HOST_LOST) nothing is open. */
int producer_open_call(struct producer *p, struct split_call *call) SPLIT_MUST_USE;
/* Commit and wake, the call's next slot coming after this one. */
void producer_commit_call(struct producer *p, struct split_call *call, struct slot *slot);
/* A slot, waiting for one. 0; -SPLIT_E_HOST_LOST; with a token also -SPLIT_E_HOST_ROOM after
 * room_wait_ns. */
int producer_slot(struct producer *p, bool with_token, struct slot **out) SPLIT_MUST_USE;
/* Commit and wake the daemon worker. */
void producer_commit(struct producer *p, struct slot *slot);

/* Give a request's blocks back, soon. Any thread that has a reference in the session. */
void request_release(struct session *s, unsigned d, uint64_t token);
/* What the worker has gathered. */
void worker_batches_flush(struct worker *w);

/* One thread's wait for room. */
struct waiter {
	uint64_t until_ns;
	unsigned idle;
	bool counted;
};

void waiter_init(struct waiter *wt, const struct session *s);
/* Make some progress or pause. 0; -SPLIT_E_HOST_ROOM: waited long enough; -SPLIT_E_HOST_LOST. */
int waiter_step(struct waiter *wt, struct session *s) SPLIT_MUST_USE;
void waiter_fini(struct waiter *wt, struct session *s);

/* ------------------------------------------------------------------ wire bytes (wire.c) */

/* The schema that the host has told splitd, for decoding and encoding here. No session is alive. */
void wire_schema_set(struct split_host *host, const struct attach_hello *hello);
/* `hello` goes; what was made of it stays. */
void wire_schema_forget(struct split_host *host);
void wire_schema_fini(struct split_host *host);
/* Note a slot's message of SLOT_FORM_WIRE; `inline_copy`: where its inline area was copied to. */
void wire_take(struct wire_in *in, const struct slot *slot, const void *inline_copy);
/* Decode it, by type `m`->input. 0, or a negative code whose status is linearize_map_status's; what
 * it was decoded into is freed by wire_free. The worker's thread. */
int wire_decode(struct worker *w, const struct method *m, struct wire_in *in,
		const ProtobufCMessage **out) SPLIT_MUST_USE;
/* Any thread; `home`: the worker of the message's call. */
void wire_free(struct worker *home, struct wire_in *in);
void wire_parts_free(struct worker *w);

#define WIRE_SMALL_BYTES 512
/* Encode a message of the call's method->output: `*bytes_out` bytes at `*at_out`, which lie in
 * `small` or in a block that was added to the call's chain. 0 or a negative code, blocks being the
 * caller's in any case. */
int wire_encode(struct split_call *call, const ProtobufCMessage *message,
		uint8_t small[WIRE_SMALL_BYTES], const uint8_t **at_out,
		uint32_t *bytes_out) SPLIT_MUST_USE;
/* answer.c: the thread's own free blocks; one more block for the call, of at least `min` bytes and
 * rather `want`: now (NULL: there is no room), or waiting for it. */
struct room_cache *answer_cache(const struct session *s);
struct block *answer_block_now(struct split_call *call, size_t min, size_t want);
struct block *answer_block_wait(struct split_call *call, size_t min, size_t want, int *rc);
/* A message of the call could not be decoded: end it with `rc`'s status. The caller has taken it on
 * himself to answer, and keeps his reference. The worker's thread, outside a handler. */
void answer_undecoded(struct split_call *call, int rc);

/* ------------------------------------------------------------------ streams (stream.c) */

/* Make `call`'s stream state new. Ring held. */
int stream_begin(struct split_call *call, const struct slot *slot) SPLIT_MUST_USE;
/* An event of the worker's store, or NULL: no memory. Ring held. */
struct split_message *event_get(struct worker *w);
/* To the end of the queue, or back to the store. Ring held. */
void event_queue(struct worker *w, struct split_message *e);
void event_unget(struct worker *w, struct split_message *e);
/* Fill in from a MESSAGE slot. False: it makes no sense. */
bool event_take_message(struct split_message *e, const struct slot *slot, const struct method *m);
/* WRITABLE: true when the handler waits for it. Ring held. */
bool stream_writable(struct split_call *call, uint64_t info);
/* Run an event of a stream; the worker's thread. `run_callback` as in worker.c. */
void event_run(struct worker *w, struct split_message *e);
/* Drop an event that will not be run; the session is over. */
void event_discard(struct split_message *e);
/* The session is over: end the streams of the worker that are open. */
void streams_cancel(struct worker *w);
void events_free(struct worker *w);
/* What a method's table entry runs for streams. */
void run_stream(struct split_call *call, struct method *method);
/* Call `fn` with the call as the worker's current one; drops a reference. */
void worker_run_callback(struct worker *w, struct split_call *call,
			 void (*fn)(struct split_call *call, void *data));
/* One message of a stream into shared memory and out: 0 or a negative code. */
int answer_message(struct split_call *call, const ProtobufCMessage *message) SPLIT_MUST_USE;
/* A message of a stream that takes `bytes` of the segment is about to be published. */
void stream_sends(struct split_call *call, uint32_t bytes);
/* The initial metadata, if any was added and none is out. `always`: even if there is none. */
int answer_initial(struct split_call *call, bool always) SPLIT_MUST_USE;

/* ------------------------------------------------------------------ calls out */

/* Publish the CALL of a call out, with its metadata (call->initial) and `request` (may be NULL). */
int answer_call(struct split_call *call, const ProtobufCMessage *request) SPLIT_MUST_USE;
/* Make `call`'s stream state new. */
int stream_reset(struct split_call *call) SPLIT_MUST_USE;
/* As split_call_send, but for who may call it. */
int stream_send(struct split_call *call, const ProtobufCMessage *message);
/* The handler is through with messages. */
void stream_credit(struct split_call *call, uint32_t messages);
/* One reference of a message less. The call's reference that goes with it stays the caller's. */
void message_put(struct split_message *m);
/* A slot that says no more than its kind: HALF_CLOSE, ABANDON, WANT. 0 or -SPLIT_E_HOST_LOST. */
int stream_say(struct split_call *call, uint8_t kind) SPLIT_MUST_USE;

int outs_init(struct session *s) SPLIT_MUST_USE;
void outs_fini(struct session *s);
/* Take a slot of a call out into an event. False: it makes no sense. Ring held. */
bool out_take(struct worker *w, struct split_message *e, const struct slot *slot, bool *queue_out);
/* Run such an event, on the worker's thread. */
void out_event_run(struct worker *w, struct split_message *e);
/* The session is over: end the calls out whose continuations are w's. */
void outs_cancel(struct worker *w);
/* Nobody refers to it any more. */
void out_free(struct split_call *call);
void out_id_put(struct out_ids *ids, uint32_t index);
void out_result_set(const struct split_out_result *result);
/* The call out's id is free, its place empty; false: somebody else has done that. */
bool out_withdraw(struct split_call *call);
void channels_fini(struct split_host *host);
/* split_out_start, of a method with a channel; `closure`: of a stub of protoc-c. */
int out_start(struct method *m, const ProtobufCMessage *request,
	      const struct split_out_options *options, const struct split_out_events *events,
	      ProtobufCClosure closure, void *data, struct split_out **out) SPLIT_MUST_USE;
/* Run `fn` as a handler is run, but for no call. */
void worker_run_plain(struct worker *w, void (*fn)(void *arg), void *arg);

/* ------------------------------------------------------------------ relocate */

/* Move the pointers of a message that was copied: each into [from, from + bytes) is shifted by
 * `to - from`. `message` is the copy. */
void relocation_plan(const ProtobufCMessageDescriptor *d, struct relocation *out);
void relocate_message(ProtobufCMessage *message, const ProtobufCMessageDescriptor *descriptor,
		      uint64_t from, size_t bytes, int64_t shift);

/* ------------------------------------------------------------------ host */

struct split_host {
	char *path;
	char *name;
	struct split_host_options options;
	unsigned *cores;
	char *tls_files[4];

	struct method **methods;
	size_t methods_n;
	size_t methods_max;

	struct split_channel *channels; /* channel.c */
	struct kept *kept;              /* typed.c */
	const struct schema_file_info **infos;
	size_t infos_n;

	/* wire.c */
	const uint8_t *schema_blob; /* what splitd was told; while it runs */
	size_t schema_bytes;
	pthread_mutex_t schema_lock;
	_Atomic(struct schema *) schema; /* made of it when first needed */

	unsigned registry; /* index + 1 */
	struct call_table calls;

	int stop_fd; /* eventfd */
	_Atomic bool stopping;
	_Atomic bool running;
	bool waiting; /* that splitd is not there was told */
	int yield_signal;

	_Atomic(struct session *) session; /* for statistics */
	pthread_mutex_t stats_lock;        /* sessions come and go under it */
	struct session *ending;
	struct split_host_stats stats;       /* atomic adds; threads that are no worker */
	struct split_host_stats stats_ended; /* of sessions that ended; stats_lock */
};

/* Add a method with its names and types; the caller fills in what runs it. `channel` NULL: one that
 * is served. 0 or SPLIT_E_*. */
int method_add(struct split_host *host, struct split_channel *channel, const char *service,
	       const char *name, const ProtobufCMessageDescriptor *input,
	       const ProtobufCMessageDescriptor *output, struct method **out);

/* ------------------------------------------------------------------ typed.c */

/* Tell a schema's builder all that split_host_describe was told. */
int typed_inform(const struct split_host *host, struct schema_builder *builder) SPLIT_MUST_USE;
void typed_fini(struct split_host *host);

/* Counters: a worker writes its own block, others add to the host's. */
#define STAT_ADD(host_, field, n)                                                                  \
	do {                                                                                       \
		struct worker *stat_w_ = worker_self;                                              \
		if (stat_w_ != NULL && stat_w_->host == (host_))                                   \
			__atomic_store_n(&stat_w_->stats.field, stat_w_->stats.field + (n),        \
					 __ATOMIC_RELAXED);                                        \
		else                                                                               \
			__atomic_fetch_add(&(host_)->stats.field, (n), __ATOMIC_RELAXED);          \
	} while (0)
#define STAT(host_, field) STAT_ADD(host_, field, 1)
/* On worker w's thread. */
#define STAT_OWN(w, field)                                                                         \
	__atomic_store_n(&(w)->stats.field, (w)->stats.field + 1, __ATOMIC_RELAXED)

#endif
