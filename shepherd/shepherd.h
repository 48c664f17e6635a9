/* Shepherd: the shared memory between splitd and one host process, and how they meet.
 *
 *   segment      two memfds, each sealed so that the other side can only read it
 *   arena        blocks out of a segment; its state is private to the one who gives them
 *   attach       the two ends of the protocol on the UNIX socket
 *   endpoint     the daemon's side: a port for each daemon worker
 *   attachment   the host's side: a lane for each pair of workers
 *
 * The format of the memory is in layout.h, its prose in docs/SHARED-MEMORY.md. No DPDK here.
 *
 * Trust. The daemon treats every byte of the to-daemon segment and of the attach socket as hostile
 * and changing under its feet: each is loaded once into a local, checked, then used. The host
 * trusts the daemon's segment but checks what came by the socket. Neither side's allocator state is
 * shared.
 *
 * Tokens. Blocks go back by a token, never by an address. The token of a request names the blocks
 * the daemon sent (checked on return: a stale one is counted and ignored); the token of a response
 * is whatever the host put there and is given back unread.
 *
 * Threads are named at each part. Nothing here blocks, but for attachment_open and host_park.
 */
#ifndef SPLITD_SHEPHERD_SHEPHERD_H
#define SPLITD_SHEPHERD_SHEPHERD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bits.h"
#include "base/counter.h"
#include "base/error.h"
#include "shepherd/layout.h"

/* By daemon worker; each worker brings a block of its own to endpoint_port_adopt. */
#define SHEPHERD_COUNTERS(X)                                                                       \
	X(slots_out, "slots published to hosts")                                                   \
	X(requests_out, "requests published to hosts")                                             \
	X(requests_inline, "requests that fitted their slot")                                      \
	X(slots_in, "slots taken from hosts")                                                      \
	X(ring_full, "publications that found no room in the request ring")                        \
	X(quota_full, "blocks refused because the host holds too many")                            \
	X(arena_full, "blocks refused because the partition has none")                             \
	X(calls_full, "calls refused because the endpoint's table is full")                        \
	X(stale_calls, "completions of a call that has ended; ignored")                            \
	X(stale_releases, "tokens given back that are not held; ignored")                          \
	X(releases_in, "request tokens given back")                                                \
	X(releases_out, "response tokens given back to hosts")                                     \
	X(releases_deferred, "response tokens that had to wait for room in the request ring")      \
	X(wakes, "parked host workers woken (system calls)")                                       \
	X(wakes_saved, "wakes not needed: another worker had woken it already")                    \
	X(sleeps, "times the worker was allowed to sleep")                                         \
	X(sleeps_refused, "times work was found at the last look before sleep")                    \
	X(revoked, "requests taken back from a stuck worker")                                      \
	X(outs, "calls out that hosts have opened")                                                \
	X(outs_refused, "of these, refused at once: no room for them")                             \
	X(faults, "endpoints found to talk nonsense")

COUNTER_DECLARE(shepherd, SHEPHERD_COUNTERS);

/* ------------------------------------------------------------------ memory */

/* A piece of one's own segment. 16-byte aligned. */
struct shepherd_chunk {
	uint8_t *mem;
	size_t bytes;
};

/* The other's memory as seen here: peer addresses [peer_base, peer_base + bytes) are at mem. */
struct shepherd_window {
	const uint8_t *mem;
	uint64_t peer_base;
	size_t bytes;
};

/* Arena: buddy allocator over [mem, mem + bytes), private state, one thread at a time. Free blocks
 * and the unused tail of used ones are poisoned under ASan. O(log) worst case, O(1) mostly. */
struct arena;

/* `mem` 256-byte aligned, stays the caller's; bytes >= 256. 0 or -SPLIT_E_BASE_NOMEM/_INVALID. */
int arena_create(uint8_t *mem, size_t bytes, struct arena **out) SPLIT_MUST_USE;
void arena_destroy(struct arena *arena); /* unpoisons the memory; NULL is fine */
/* At least `bytes`, exactly `bytes` rounded up to 16, 256-byte aligned. 0 or
 * -SPLIT_E_SHEPHERD_FULL (nothing that large is free) or -SPLIT_E_BASE_INVALID (0 bytes). */
int arena_get(struct arena *arena, size_t bytes, struct shepherd_chunk *out) SPLIT_MUST_USE;
/* `mem` is the start of a block that is held; else -SPLIT_E_SHEPHERD_BLOCK, nothing changed. */
int arena_put(struct arena *arena, const void *mem);
size_t arena_used(const struct arena *arena);     /* bytes in blocks held, rounding included */
size_t arena_capacity(const struct arena *arena); /* bytes managed */
size_t arena_largest(const struct arena *arena);  /* largest block it could ever give */

/* A SIGBUS in a registered segment maps zeroes over it and marks its endpoint dead; any other goes
 * to the handler that was there before. Once, by the daemon, before the first endpoint. */
int segment_sigbus_install(void) SPLIT_MUST_USE;

/* Metadata into memory of one's own segment. */
struct metadata_item {
	const char *name;
	const void *value;
	uint32_t name_bytes;
	uint32_t value_bytes;
};

/* Bytes that `n` items need in one chunk (8-byte aligned start). */
size_t metadata_bytes(const struct metadata_item *items, size_t n);
/* Write a metadata_block and its strings (each NUL-terminated) at `mem`; receiver address = address
 * here + delta. -SPLIT_E_BASE_LIMIT when `bytes` is too small. */
int metadata_write(const struct metadata_item *items, size_t n, void *mem, size_t bytes,
		   int64_t delta) SPLIT_MUST_USE;

/* ------------------------------------------------------------------ attach */

#define ATTACH_NAME_MAX    64          /* of a host's name, with NUL */
#define ATTACH_PART_MAX    (32 * 1024) /* one packet */
#define ATTACH_BLOB_MAX    (8 << 20)   /* schema and methods together, whatever is configured */
#define ATTACH_METHODS_MAX 65535
#define ATTACH_TEXT_MAX    256
#define ATTACH_SIGNAL_MIN  34 /* SIGRTMIN as the C libraries leave it */
#define ATTACH_SIGNAL_MAX  64

enum attach_kind {
	ATTACH_UNARY = 0,
	ATTACH_CLIENT_STREAM = 1,
	ATTACH_SERVER_STREAM = 2,
	ATTACH_BIDI = 3
};

/* What a method's own options say (split/options.proto). Zero: nothing. */
struct attach_method_options {
	uint32_t request_bytes_max; /* on the wire; below what the configuration allows */
	uint32_t response_bytes_max;
	uint64_t deadline_ns;   /* of calls whose client gave none */
	uint8_t decode, encode; /* split.Placement: 0 any, 1 daemon, 2 host */
	uint8_t idempotency;    /* 0 unknown, 1 no side effects, 2 idempotent */
};

/* One method a host serves. Strings are NUL-terminated, at most 255 bytes each. */
struct attach_method {
	const char *service; /* full name: "split.examples.Echo" */
	const char *method;
	enum attach_kind kind;
	uint32_t input_schema; /* index in the schema blob */
	uint32_t output_schema;
	uint64_t code; /* given back with each request */
	uint64_t data;
	uint8_t read_ahead; /* messages of a call handed over before its first CREDIT; 0: 1 */
	struct attach_method_options options;
	/* NULL: the host serves it. Else it calls it, over this channel: `input` is what it sends
	 * and `output` what it gets, code and data are 0 (each call out brings its own). */
	const char *channel;
};

/* What a host says of itself. All memory stays the caller's. */
struct attach_hello {
	const char *name;
	uint32_t workers; /* it would like to run; it may get fewer */
	const struct attach_method *methods;
	size_t methods_n;
	const uint8_t *schema; /* linearize's schema blob; shepherd does not look inside */
	size_t schema_bytes;
	uint32_t workers_min;  /* of the workers, at work from the beginning; 0: all */
	uint32_t yield_signal; /* asks a worker that is in a handler to yield; 0: none */
	bool lazy; /* pages are taken when touched: as in endpoint_config, by who offers both */
};

/* How big an endpoint is. */
struct endpoint_config {
	const char *name; /* copied */
	uint32_t daemon_workers;
	uint32_t host_workers;
	uint32_t host_workers_min; /* of these, at work from the beginning; 0: all */
	uint32_t request_slots;    /* powers of two, SHEPHERD_SLOTS_MIN..MAX */
	uint32_t completion_slots;
	uint32_t foreign_slots;
	uint64_t to_host_bytes; /* whole segments, rounded up to pages */
	uint64_t to_daemon_bytes;
	bool hugepages; /* 2 MiB pages, or -SPLIT_E_SHEPHERD_MEMORY */
	bool lazy;     /* a page is taken when it is first touched, not at once. For two ends of one
			* process: who may cut a segment short can kill who touches it */
	int numa_node; /* -1: anywhere */
	uint32_t calls_max; /* each by daemon worker */
	uint32_t holds_max; /* messages handed over with blocks and not given back; 0: 4 * calls_max
			     */
	uint32_t tokens_max;  /* response tokens not given back to the host; 0: 4 * calls_max */
	uint64_t quota_bytes; /* in blocks taken; 0: the partition */
	uint64_t release_timeout_ns; /* for giving back blocks of an ended call; 0: none */
	uint64_t release_delay_ns;   /* how long tokens for a parked worker may gather; 0: 1 ms */
	bool revocable;              /* requests may be taken back; costs the host a fence each */
	uint32_t outs_max;           /* calls out at once, by daemon worker; 0: none */
};

/* The blob of a hello, methods and schema in one, as an attach carries it; *out by malloc. 0,
 * -SPLIT_E_SHEPHERD_ATTACH_LIMIT, -SPLIT_E_BASE_INVALID, -SPLIT_E_BASE_NOMEM. */
int attach_blob_make(const struct attach_hello *hello, uint8_t **out,
		     size_t *bytes_out) SPLIT_MUST_USE;
/* What it says; hostile. `blob` stays: `schema` points into it. */
struct attach_table {
	struct attach_method *methods; /* one allocation with its strings */
	size_t methods_n;
	const uint8_t *schema; /* inside the blob */
	size_t schema_bytes;
};
int attach_blob_parse(const uint8_t *blob, size_t bytes, struct attach_table *out) SPLIT_MUST_USE;
void attach_table_fini(struct attach_table *table);

/* Daemon's end: one for each connection on the attach socket. Control thread. */
struct attach_server;
struct endpoint;

/* What arrived; pointers live until attach_server_destroy. Checked for form, not for sense. */
struct attach_request {
	const char *name; /* printable ASCII without spaces, 1..63 bytes */
	uid_t uid;        /* by the kernel, of the sender of HELLO */
	gid_t gid;
	pid_t pid;
	uint32_t workers;      /* 1..SHEPHERD_HOST_WORKERS_MAX */
	uint32_t workers_min;  /* 1..workers */
	uint32_t yield_signal; /* a real-time signal, or 0 */
	const struct attach_method *methods;
	size_t methods_n;
	const uint8_t *schema;
	size_t schema_bytes;
};

struct attach_policy {
	/* Called once, after HELLO and before its blob is taken in: methods and schema are still
	 * empty. 0 admits; -SPLIT_E_SHEPHERD_ATTACH_UID / _ATTACH_NAME / _ATTACH_LIMIT refuse. */
	int (*admit)(void *ctx, const struct attach_request *request);
	void *ctx;
	size_t blob_bytes_max; /* 0: ATTACH_BLOB_MAX */
};

enum attach_event {
	ATTACH_NOTHING,   /* wait until the socket is readable again */
	ATTACH_REQUESTED, /* attach_server_request() is complete: offer or refuse */
	ATTACH_MAPPED,    /* sealed, faulted in, checked: give it to the workers, then activate */
	ATTACH_LEAVES,   /* an active host wants no more calls: drain it, then attach_server_drained
			  */
	ATTACH_DETACHED, /* an active host says goodbye or has closed the socket */
};

/* `fd`: connected SOCK_SEQPACKET, owned by the server from here on (also on failure). */
int attach_server_create(int fd, const struct attach_policy *policy,
			 struct attach_server **out) SPLIT_MUST_USE;
/* Take in at most a few packets; never blocks. Call when attach_server_fd() is readable or hung up.
 * 0 with *event_out, or a negative code: the attach has failed (REFUSED was sent where that is
 * possible, and counts by code for the caller) and only destroy is left.
 * -SPLIT_E_SHEPHERD_ATTACH_* */
int attach_server_step(struct attach_server *server, enum attach_event *event_out) SPLIT_MUST_USE;
int attach_server_fd(const struct attach_server *server);
const struct attach_request *attach_server_request(const struct attach_server *server);
/* After REQUESTED: make the segments and offer them. On failure the host has been refused. */
int attach_server_offer(struct attach_server *server,
			const struct endpoint_config *config) SPLIT_MUST_USE;
/* Refuse, at any time before ACTIVE; one line of text for a person. */
void attach_server_refuse(struct attach_server *server, int code, const char *text);
/* After MAPPED. The server's own reference goes at destroy: endpoint_get() what outlives it. */
struct endpoint *attach_server_endpoint(const struct attach_server *server);
/* After MAPPED, once the workers have it: the host may begin. */
int attach_server_activate(struct attach_server *server) SPLIT_MUST_USE;
/* Tell a host that said it leaves that no call is left with it. Lost when its socket is full, which
 * an honest host's never is. */
int attach_server_drained(struct attach_server *server) SPLIT_MUST_USE;
/* Closes the socket. NULL is fine. */
void attach_server_destroy(struct attach_server *server);

/* One packet of the protocol, for the fuzz target: parse `bytes` as the daemon would. */
int attach_packet_check(const uint8_t *packet, size_t bytes) SPLIT_MUST_USE;
/* A whole blob of methods and schema as the daemon parses it; frees what it made. */
int attach_blob_check(const uint8_t *blob, size_t bytes) SPLIT_MUST_USE;

/* ------------------------------------------------------------------ endpoint (daemon) */

/* One attached process. Reference counted: get/put from any thread, but only the control thread may
 * give up the last reference (it unmaps, which takes long). */
struct endpoint;
void endpoint_get(struct endpoint *endpoint);
void endpoint_put(struct endpoint *endpoint);
unsigned endpoint_refs(const struct endpoint *endpoint);

const char *endpoint_name(const struct endpoint *endpoint);
const struct geometry *endpoint_geometry(const struct endpoint *endpoint); /* private copy */
pid_t endpoint_pid(const struct endpoint *endpoint);
/* Readable once the process has ended; owned by the endpoint. Control thread polls it. */
/* (-1 where the kernel has none and the process is this one: host-lib under valgrind, over TCP) */
int endpoint_pidfd(const struct endpoint *endpoint);
/* Tell the host that it is over: raises the detach epoch and wakes every parked worker. Whatever
 * was in flight is answered by the daemon. Control thread; any number of times. */
void endpoint_detach(struct endpoint *endpoint);
/* False once detached, dead or broken. Any thread. */
bool endpoint_alive(const struct endpoint *endpoint);

/* What the workers of a mapped endpoint say of themselves, and where they are asked to run. Any
 * thread; what is read is the host's word, good for nothing that safety depends on. */
struct endpoint_worker_state {
	enum host_state state; /* a nonsense value reads RUNNING */
	uint32_t tid;          /* its thread, as its own process sees it; 0: not begun */
	int core;              /* where it last was with nothing to do; -1: not told */
};
void endpoint_worker_state(const struct endpoint *endpoint, unsigned h,
			   struct endpoint_worker_state *out);
/* Where its two segments are mapped here, to-host first; NULL while it is not. Good for asking on
 * which node their pages are. */
void endpoint_memory(const struct endpoint *endpoint, const void *mem_out[2], size_t bytes_out[2]);
/* -1: where it likes. Takes effect at YIELDNOW, RESUME or the yield signal. Control thread. */
void endpoint_core_set(struct endpoint *endpoint, unsigned h, int core);

/* One daemon worker's part. Everything below: that worker's thread only. */
struct endpoint_port;
struct endpoint_port *endpoint_port_of(struct endpoint *endpoint, unsigned daemon_worker);
/* First call on a port; `counters` (the worker's, NULL: none) must outlive it. */
void endpoint_port_adopt(struct endpoint_port *port, struct shepherd_counters *counters);
struct endpoint *endpoint_of_port(const struct endpoint_port *port);
/* A word for the worker's own use. */
void endpoint_port_set_user(struct endpoint_port *port, void *user);
void *endpoint_port_user(const struct endpoint_port *port);

/* host address = daemon address + delta, for blocks and inline areas of the to-host segment. */
int64_t endpoint_delta(const struct endpoint_port *port);
/* The host's whole arena. Completions name the window that their message lies in. */
struct shepherd_window endpoint_window(const struct endpoint_port *port);

/* Blocks of one message, gathered before it is submitted. Zero-initialise. */
struct endpoint_blocks {
	uint32_t head; /* 0: none */
	uint32_t count;
	uint64_t bytes;
};

/* Add a block. 0; -SPLIT_E_SHEPHERD_QUOTA (too much is out; wait for releases);
 * -SPLIT_E_SHEPHERD_FULL (no room); -SPLIT_E_BASE_LIMIT (larger than any block can be). */
int endpoint_block_get(struct endpoint_port *port, struct endpoint_blocks *blocks, size_t bytes,
		       struct shepherd_chunk *out) SPLIT_MUST_USE;
/* Let all blocks of `from` be in `to`; empties `from`. */
void endpoint_blocks_move(struct endpoint_port *port, struct endpoint_blocks *to,
			  struct endpoint_blocks *from);
/* Give back blocks that were not submitted; empties the list. */
void endpoint_blocks_put(struct endpoint_port *port, struct endpoint_blocks *blocks);
size_t endpoint_block_max(const struct endpoint_port *port);
uint64_t endpoint_bytes_used(const struct endpoint_port *port);

/* Open a call: its id is what slots carry. `user` comes back with each completion.
 * 0 or -SPLIT_E_SHEPHERD_CALLS. */
int endpoint_call_open(struct endpoint_port *port, void *user,
		       uint64_t *call_id_out) SPLIT_MUST_USE;
/* The call is over at the client, answered or not; later completions of it are stale. Blocks the
 * host still holds stay with the host, now against release_timeout. `now_ns`: CLOCK_MONOTONIC. */
void endpoint_call_close(struct endpoint_port *port, uint64_t call_id, uint64_t now_ns);
unsigned endpoint_calls_open(const struct endpoint_port *port);
/* Visit the open calls, for instance to end them after a fault; fn may close the call it is given.
 */
void endpoint_calls_each(struct endpoint_port *port,
			 void (*fn)(void *ctx, uint64_t call_id, void *user), void *ctx);

/* Calls out: the host made their id. One whose id the host may not use yet, or whose words fit no
 * call out, ends the endpoint; what the receiver gets is sound in form.
 *
 * Take the call of a TO_DAEMON_CALL: submits to its home lane name it by its id, `user` comes with
 * what the host says of it further; it ends with a STATUS, or a MESSAGE with SLOT_HAS_STATUS,
 * after which the receiver says endpoint_call_close. */
void endpoint_out_accept(struct endpoint_port *port, uint64_t call_id, void *user);
/* End it at once; the host hears `status` at a flush, when its ring has room. */
void endpoint_out_refuse(struct endpoint_port *port, uint64_t call_id, uint32_t status);
/* `user` of the daemon's own call of that id while it is open; NULL: no such. */
void *endpoint_call_user(struct endpoint_port *port, uint64_t call_id);

/* What to publish. Zero-initialise; unused fields stay 0. */
struct endpoint_request {
	enum slot_kind kind; /* TO_HOST_REQUEST, _MESSAGE, _HALF_CLOSE, _CANCEL, _WRITABLE,
				_STATUS, _INITIAL_METADATA, _TRYAGAIN, _YIELDNOW, _RETIRE,
				_RESUME */
	uint8_t flags; /* SLOT_END_STREAM, SLOT_COMPRESSED, SLOT_HAS_STATUS (calls out); the others
			  are set by submit */
	uint8_t form;  /* SLOT_FORM_WIRE, SLOT_FORM_ENCODE */
	bool has_message;
	uint8_t inline_bytes; /* of endpoint_inline_area that the message uses; 0: it is in blocks,
			       * or of no bytes at all (SLOT_FORM_WIRE) */
	uint64_t call_id;
	uint32_t method; /* index in the attach's table: code and data pointer follow from it */
	uint32_t msg_seq;
	uint32_t msg_bytes;
	uint64_t limits;       /* with SLOT_FORM_WIRE: WIRE_LIMITS, */
	uint32_t elements_max; /* and so many elements */
	uint64_t deadline_ns;
	uint64_t info;                 /* CANCEL: cause; WRITABLE: WRITABLE_INFO */
	uint64_t msg, metadata, trace; /* host addresses */
	uint64_t peer;                 /* the same: metadata_block of the client's names */
	uint32_t status;               /* of a call out, with SLOT_HAS_STATUS */
	uint64_t text;                 /* its message, a host address: */
	uint32_t text_bytes;
	uint8_t peer_family; /* 0: not told */
	uint8_t peer_flags;  /* SLOT_PEER_* */
	uint16_t peer_port;
	uint8_t peer_address[16];
	struct endpoint_blocks *blocks; /* everything msg, metadata, trace lie in; NULL: none */
};

/* Where the next slot of this lane would keep an inline message: 128 bytes, stable until the next
 * submit on the lane. -SPLIT_E_SHEPHERD_FULL when the ring has no room. */
int endpoint_inline_area(struct endpoint_port *port, unsigned lane,
			 struct shepherd_chunk *out) SPLIT_MUST_USE;
/* Publish one slot on the lane to host worker `lane`. On success *request->blocks is empty: the
 * host holds them. On failure they stay the caller's. The doorbell rings at endpoint_flush. 0;
 * -SPLIT_E_SHEPHERD_FULL (no room in the ring); -SPLIT_E_SHEPHERD_HOLDS (holds_max);
 * -SPLIT_E_SHEPHERD_STALE (the call is not open); -SPLIT_E_BASE_INVALID. */
int endpoint_submit(struct endpoint_port *port, unsigned lane,
		    const struct endpoint_request *request, uint64_t now_ns) SPLIT_MUST_USE;
/* Take back a REQUEST that the host has not begun, by the call it opened (geometry.revocable).
 * 0: it never runs there; the call is closed (its id is stale from now on) and *blocks_out has the
 * request's blocks back, to submit elsewhere on this endpoint or to put. -SPLIT_E_SHEPHERD_STALE:
 * it was begun, or the host refuses it in a moment (REFUSE); the call goes on. */
int endpoint_revoke(struct endpoint_port *port, uint64_t call_id, uint64_t now_ns,
		    struct endpoint_blocks *blocks_out) SPLIT_MUST_USE;

struct endpoint_lane_state {
	enum host_state state; /* as the host says; a nonsense value reads RUNNING */
	unsigned room;         /* slots that could be published now */
	unsigned queued;       /* slots published and not yet taken */
	unsigned calls;        /* calls submitted here and not ended: the depth */
	uint64_t oldest_ns;    /* when the oldest slot neither taken, claimed nor revoked was
				* published; 0: none
				*/
	uint64_t heartbeat;
	uint32_t claim; /* with the heartbeat: as long as neither changes, one handler runs */
	int core;       /* as in struct endpoint_worker_state */
	bool woken;     /* by us, for a slot it has not taken yet */
};

/* State of the lane to host worker `lane`; loads two of the host's lines. */
void endpoint_lane_state(struct endpoint_port *port, unsigned lane,
			 struct endpoint_lane_state *out);
unsigned endpoint_lanes(const struct endpoint_port *port); /* host workers */

/* One thing the host said, all of it copied and checked. Addresses lie inside `window`'s peer range
 * at their start (msg only, and inline ones in the copy); what is behind them is still hostile. */
struct endpoint_completion {
	enum slot_kind kind; /* TO_DAEMON_INITIAL_METADATA, _MESSAGE, _STATUS, _REFUSE, _CREDIT,
				_WANT, _CALL, _HALF_CLOSE, _ABANDON */
	uint8_t flags;       /* SLOT_END_STREAM, SLOT_HAS_STATUS, SLOT_COMPRESSED */
	uint8_t form;        /* SLOT_FORM_WIRE, SLOT_FORM_UNDECODED */
	bool has_message;
	unsigned lane; /* host_workers for the foreign lane */
	uint64_t call_id;
	void *user;
	uint32_t msg_seq;
	uint32_t msg_bytes; /* as claimed; with SLOT_FORM_WIRE so many lie at msg in `window` */
	uint32_t status;    /* gRPC status 0..16 when SLOT_HAS_STATUS or STATUS */
	uint32_t credit;
	/* CALL: method of the attach's table (one with a channel), lane of the answer, the call it
	 * is made for (0: none; may be anything), deadline (0: none), whether it waits for somebody
	 * who can answer. `user` is NULL: the receiver
	 * says endpoint_out_accept or _refuse before it returns. */
	uint32_t method;
	unsigned home;
	uint64_t parent;
	uint64_t deadline_ns;
	bool waits;
	uint64_t msg;
	uint64_t metadata,
		text; /* read with endpoint_metadata_read / endpoint_text_read; 0: none */
	uint32_t text_bytes;
	uint64_t token; /* not 0 by has_token: give back once by endpoint_token_release */
	bool has_token;
	struct shepherd_window
		window; /* of the message; an inline one is valid in the callback only */
};

struct endpoint_events {
	/* May call anything of this port but endpoint_poll. When has_token, the receiver owes one
	 * endpoint_token_release, now or later. */
	void (*completion)(void *ctx, struct endpoint_port *port,
			   const struct endpoint_completion *c);
};

/* During the delivery of a REFUSE: the blocks of the request that was given back, to submit again
 * on this endpoint or to put. False: it had none, or the host has not given them back; they are
 * freed after the delivery when nobody asks. */
bool endpoint_refused_blocks(struct endpoint_port *port,
			     struct endpoint_blocks *blocks_out) SPLIT_MUST_USE;

/* Take at most `budget` completion slots from all lanes, fairly. Returns how many, or a fatal code:
 * the host wrote nonsense (-SPLIT_E_SHEPHERD_PROTOCOL), its segment is gone (_GONE), it did not
 * give back in time (_RELEASE). Then endpoint_cause() says what and every later poll says the same.
 */
int endpoint_poll(struct endpoint_port *port, unsigned budget, const struct endpoint_events *events,
		  void *ctx, uint64_t now_ns) SPLIT_MUST_USE;
/* One line naming what the host did; "" while all is well. */
const char *endpoint_cause(const struct endpoint_port *port);

/* Give a response's blocks back to the host, in any order. Goes out in batches at endpoint_flush;
 * kept when the ring has no room. */
void endpoint_token_release(struct endpoint_port *port, unsigned lane, uint64_t token);

/* Once at the end of each poll: publish releases, then at most one wake for each parked worker that
 * got something. */
void endpoint_flush(struct endpoint_port *port, uint64_t now_ns);
/* When flush should be called again though nothing happens (gathered releases, release_timeout);
 * UINT64_MAX: no need. */
uint64_t endpoint_next_ns(const struct endpoint_port *port);

/* Metadata that a host sent: at most `items_max` entries, their strings copied to `buf`. Every word
 * is loaded once. Returns the number of items; -SPLIT_E_BASE_LIMIT (more than fits);
 * -SPLIT_E_SHEPHERD_ADDRESS (outside the host's arena). */
int endpoint_metadata_read(const struct endpoint_port *port, uint64_t address,
			   struct metadata_item *items, size_t items_max, uint8_t *buf,
			   size_t buf_bytes) SPLIT_MUST_USE;
/* The status message: copies min(bytes, max), returns how many; -SPLIT_E_SHEPHERD_ADDRESS. */
int endpoint_text_read(const struct endpoint_port *port, uint64_t address, uint32_t bytes,
		       char *buf, size_t max) SPLIT_MUST_USE;

/* The worker's own sleep, after endpoint_flush. True: nothing is waiting here and from now on a
 * completion makes endpoint_eventfd readable; false: look again, nothing is armed. */
bool endpoint_arm_sleep(struct endpoint_port *port);
void endpoint_disarm_sleep(struct endpoint_port *port);
/* Whether a worker of this host says that it is on this worker's core, so that it runs only while
 * this worker does not. A hint by the host: good for deciding how to be idle, for nothing else. */
bool endpoint_shares_core(const struct endpoint_port *port);
/* One for each port, because a host can empty it: watch it edge-triggered (EPOLLET) and never read
 * it (the host could have made it blocking). Owned by the endpoint. */
int endpoint_eventfd(const struct endpoint_port *port);

/* ------------------------------------------------------------------ attachment (host) */

/* The host's side of one endpoint. Opening and closing: one thread. */
struct attachment;
struct host_lane;

struct attach_refusal {
	int code; /* negative code of the daemon, or of this side */
	char text[ATTACH_TEXT_MAX];
};

/* Connect to `path`, attach, return once ACTIVE. Blocks at most timeout_ms for each step.
 * -SPLIT_E_SHEPHERD_ATTACH_*, with `why` (may be NULL) filled. */
int attachment_open(const char *path, const struct attach_hello *hello, int timeout_ms,
		    struct attachment **out, struct attach_refusal *why) SPLIT_MUST_USE;
/* The same on a connected socket, which it owns from here on, also on failure. */
int attachment_open_fd(int fd, const struct attach_hello *hello, int timeout_ms,
		       struct attachment **out, struct attach_refusal *why) SPLIT_MUST_USE;
/* Ask for no more calls. 0, or negative: the daemon has gone. */
int attachment_leave(struct attachment *a) SPLIT_MUST_USE;
/* Take one packet from attachment_fd(), which is readable: 1 when it says that no call is left, 0
 * for any other, negative when the daemon has gone. */
int attachment_take(struct attachment *a) SPLIT_MUST_USE;
/* Says goodbye, unmaps. No thread may be inside or hold an address of the segments. NULL is fine.
 */
void attachment_close(struct attachment *attachment);
/* Readable or hung up when the daemon has something to say: it is gone or going. */
int attachment_fd(const struct attachment *attachment);
/* False once the daemon has detached us or has gone (attachment_lost): run no further call. One
 * load of a line that hardly ever changes; acquire. Any thread. */
static inline bool attachment_alive(const struct attachment *attachment);
/* What the thread that watches attachment_fd calls when it hangs up; wakes every parked worker. */
void attachment_lost(struct attachment *attachment);

unsigned attachment_daemon_workers(const struct attachment *attachment);
unsigned attachment_workers(const struct attachment *attachment);     /* granted */
unsigned attachment_workers_min(const struct attachment *attachment); /* that begin at work */
/* The part of the to-daemon segment that responses live in; arena_create over it is the caller's.
 */
struct shepherd_chunk attachment_arena(const struct attachment *attachment);
/* The to-host segment: where all that the daemon hands over lies. */
struct shepherd_window attachment_incoming(const struct attachment *attachment);
/* Whether [p, p + bytes) lies in that arena. */
bool attachment_holds(const struct attachment *attachment, const void *p, size_t bytes);

/* Lane between daemon worker d and host worker h: thread of h only. Foreign lane of d: completions
 * only, callers serialise. Live as long as the attachment. */
struct host_lane *attachment_lane(struct attachment *attachment, unsigned d, unsigned h);
struct host_lane *attachment_foreign(struct attachment *attachment, unsigned d);
/* Messages of a call that may be with the daemon before its first WRITABLE. */
uint32_t attachment_stream_window(const struct attachment *attachment);
/* Response tokens that may be with each daemon worker. */
uint32_t attachment_tokens_max(const struct attachment *attachment);
/* Calls out that may be open at each daemon worker. */
uint32_t attachment_outs_max(const struct attachment *attachment);
/* The daemon worker that made a call id, and so whose lane its answer takes. */
static inline unsigned attachment_call_worker(uint64_t call_id);

/* Next request slot, or NULL. The slot and its inline area stay until host_lane_advance. */
static inline const struct slot *host_lane_peek(struct host_lane *lane);
/* The slot `ahead` places behind it, or NULL: for a worker that waits inside a handler and must
 * still see RELEASE and CANCEL. */
static inline const struct slot *host_lane_peek_at(struct host_lane *lane, uint32_t ahead);
/* Before a REQUEST's handler runs: tells the daemon that it was begun though its slot is not given
 * back yet. False (only if geometry.revocable): it was taken back: publish TO_DAEMON_REFUSE with
 * its call id and advance. */
static inline bool host_lane_claim(struct host_lane *lane, const struct slot *slot);
static inline void host_lane_advance(struct host_lane *lane);
/* The same for several slots at once: skip goes on to the next, give_back is for all that were
 * skipped. A daemon that waits for room in the ring then fetches the line with our head once, not
 * for each. */
static inline void host_lane_skip(struct host_lane *lane);
static inline void host_lane_give_back(struct host_lane *lane);
/* Ask for the line that the slot `ahead` of the next begins with. */
static inline void host_lane_prefetch(const struct host_lane *lane, uint32_t ahead);
/* Tokens of a TO_HOST_RELEASE slot; call once for each such slot. Returns how many. */
unsigned host_lane_released(struct host_lane *lane, const struct slot *slot,
			    uint64_t tokens[SLOT_TOKENS_MAX]);

/* Next completion slot to fill in place: zeroed in line 0 and 1 (but seq). NULL when the ring is
 * full or, with `with_token`, when tokens_max responses are with the daemon. Fill; then commit or
 * drop. The producer sets kind, flags and fields; SLOT_EXTRA when it uses line 1. */
struct slot *host_lane_reserve(struct host_lane *lane, bool with_token);
void host_lane_commit(struct host_lane *lane, struct slot *slot);
void host_lane_drop(struct host_lane *lane, struct slot *slot);
/* The same for a slot without a token that fills in all of line 0 but seq itself, and uses no line
 * 1: not zeroed, published without further looks. */
static inline struct slot *host_lane_next(struct host_lane *lane);
static inline void host_lane_publish(struct host_lane *lane, struct slot *slot);
/* After commits: how many slots were ever published here; and, on any thread, whether the daemon
 * has taken that many. */
static inline uint32_t host_lane_tail(const struct host_lane *lane);
static inline bool host_lane_taken(const struct host_lane *lane, uint32_t tail);
/* After commits: wakes the daemon worker if it sleeps. */
static inline void host_lane_ring(struct host_lane *lane);

/* What worker h does, for the scheduler in the daemon. Thread of h. Not for PARKED. */
void host_state_set(struct attachment *attachment, unsigned h, enum host_state state);
void host_heartbeat(struct attachment *attachment, unsigned h);
/* Note the core that worker h is on. True when a daemon worker is pinned to the same: whoever looks
 * for work there keeps it from coming. Thread of h, when it has nothing to do. */
bool host_shares_core(struct attachment *attachment, unsigned h);
/* Sleep until a slot is there, host_kick, detach, or timeout_ns (0: for ever), as PARKED, leaving
 * POLLING behind, or as RETIRED, which stays. True when there may be something to do, false on
 * timeout. Thread of h. */
bool host_park(struct attachment *attachment, unsigned h, enum host_state state,
	       uint64_t timeout_ns);
/* The same in two parts, for who must wait for other things too. Thread of h: say PARKED; false:
 * something is there, and it says POLLING. */
bool host_park_begin(struct attachment *attachment, unsigned h, uint32_t *wake_out) SPLIT_MUST_USE;
/* Any one thread, once for each begin that was true: return when h was woken since, or kicked. The
 * state stays PARKED until h says another. */
void host_park_wait(struct attachment *attachment, unsigned h, uint32_t wake);
/* Say which thread worker h is. Thread of h. */
void host_worker_begin(struct attachment *attachment, unsigned h);
/* The core that splitd wants worker h on; -1: any. Async-signal-safe. */
int host_core_wanted(const struct attachment *attachment, unsigned h);
/* Make worker h leave host_park, now or the next time. Any thread. */
void host_kick(struct attachment *attachment, unsigned h);

#include "shepherd/host_lane.h" /* inline bodies */

#endif
