/* libsplit-host: what a service links to be served by splitd.
 *
 * splitd owns the network, HTTP/2, gRPC and protobuf; this library hands each request to a handler
 * as a ready protobuf-c struct in shared memory and takes the answer back. No DPDK and no root are
 * needed in the process that links it.
 *
 *     static void say_hello(Greeter_Service *self, const HelloRequest *req,
 *                           HelloReply_Closure reply, void *call) { ... reply(&out, call); }
 *
 *     struct split_host *host = split_host_attach(NULL, "greeter", NULL);
 *     split_host_serve(host, &greeter.base);
 *     return split_host_run(host, 0) == 0 ? 0 : 1;
 *
 * Call protocol: attach; serve every service; run (returns after stop); detach.
 *
 * Threads. split_host_attach, _serve, _serve_method, _run and _detach belong to one thread at a
 * time. split_host_stop may be called from any thread and from a signal handler. Handlers run on
 * the workers that split_host_run starts, several at a time when there are several. split_call_*
 * functions may be called from any thread, for one call from one thread at a time (answering
 * and split_call_cancelled excepted: these may race with anything). A handler must not fork and go
 * on using the segments in the child: they are not mapped there.
 *
 * Streams (kinds other than SPLIT_UNARY; split_host_serve_method, or handlers of protoc-gen-split).
 * Every callback of a call runs on one and the same worker, never two at a time, in this order:
 *
 *     open, message, message, …, half_close        SPLIT_CLIENT_STREAM, SPLIT_BIDI_STREAM
 *     message                                      SPLIT_SERVER_STREAM: the request, once
 *
 * with `writable` and, at most once, `cancelled` in between; after `cancelled` none but `closed`.
 * open comes when the call's headers have come: before any message, and also when none ever comes.
 * `closed` is the last of all.
 *
 *   - The handler sends by split_call_send, from callbacks or any other thread, in the order of its
 *     calls. SPLIT_AGAIN: the client is slow, the message was not taken; `writable` is called when
 *     there is room again. split_call_send_wait waits instead.
 *   - What was added by split_call_add_initial_metadata leaves before the first message, or when
 *     split_call_send_initial_metadata says so.
 *   - A call ends when the handler says so, whatever the client still sends: split_call_answer with
 *     the one reply of a SPLIT_CLIENT_STREAM call, with NULL for the others (the status set, OK
 *     when none was); split_call_fail in any case. Messages sent before go out first. No callback
 *     but `closed` begins after that.
 *   - A message is valid until its callback returns; split_message_retain keeps it longer. The
 *     request of a SPLIT_SERVER_STREAM call, and metadata of every streaming call, are valid until
 *     the call has been answered (and longer by split_call_retain).
 *   - Read-ahead: splitd hands over at most `read_ahead` messages of a call that the handler is not
 *     through with. It is through with one when its callback has returned, or with the release of a
 *     retained one; with SPLIT_METHOD_CREDIT it says so itself (split_call_credit). Beyond that the
 *     client is stopped by HTTP/2's flow control.
 *   - A struct split_call is valid in its callbacks, and elsewhere until `closed`.
 *   - When the client goes, the deadline passes or splitd is lost, `cancelled` is called, and the
 *     call must still be ended. A streaming method without `cancelled` leaves that to the library:
 *     its calls are over then as if failed with SPLIT_CANCELLED. Likewise when a message cannot be
 *     decoded, where that is left to this side; the library has ended the call already then, and
 *     an answer is refused.
 *
 * A call. Each call is answered exactly once: by the closure that protobuf-c hands to the handler,
 * or by split_call_answer or split_call_fail. A second answer is refused (SPLIT_E_ANSWERED),
 * counted and harmless, whenever and from wherever it comes: closure data is a handle with a
 * generation, never a pointer that could dangle.
 *
 *   - The request message is valid until the handler returns; between split_call_retain and
 *     split_call_release also after it.
 *   - An answer may be given later and from any thread. What that asks for depends on the
 *     interface. protobuf-c's closure says nothing about "later", so a call of a protobuf-c service
 *     whose handler has returned without answering counts as to be answered later: it stays open
 *     until its closure runs (SPLIT_SERVE_ANSWERS_NOW is for services that never do that). A
 *     handler of split_host_serve_method which returns having neither answered nor retained its
 *     call has forgotten it: INTERNAL is answered for it. So it is at the last split_call_release.
 *   - An answer given inside the handler, to a request too large for its slot, leaves when the
 *     handler returns, so that answer and release are one slot; split_call_flush sends it at once.
 *   - A call that the client gave up (or whose splitd is gone) must still be answered and released;
 *     the answer goes nowhere and costs nothing.
 *
 * Replies. Any protobuf-c message does; it is copied once into shared memory, and may be freed as
 * soon as the closure has returned. What was allocated by the call's allocator
 * (split_call_allocator) lies there already and is not copied; it belongs to the call, is never
 * freed by the handler, and must not be touched after the answer.
 *
 * Errors are negative numbers, split_host_error_text names them. */
#ifndef SPLIT_HOST_H
#define SPLIT_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SPLIT_API __attribute__((visibility("default")))

/* Path of splitd's attach socket when the caller names none: this variable, then the default. */
#define SPLIT_HOST_SOCKET_ENV     "SPLITD_SOCKET"
#define SPLIT_HOST_SOCKET_DEFAULT "/run/splitd/host.sock"

struct split_host;
struct split_call;

/* gRPC's status codes. */
enum split_status {
	SPLIT_OK = 0,
	SPLIT_CANCELLED = 1,
	SPLIT_UNKNOWN = 2,
	SPLIT_INVALID_ARGUMENT = 3,
	SPLIT_DEADLINE_EXCEEDED = 4,
	SPLIT_NOT_FOUND = 5,
	SPLIT_ALREADY_EXISTS = 6,
	SPLIT_PERMISSION_DENIED = 7,
	SPLIT_RESOURCE_EXHAUSTED = 8,
	SPLIT_FAILED_PRECONDITION = 9,
	SPLIT_ABORTED = 10,
	SPLIT_OUT_OF_RANGE = 11,
	SPLIT_UNIMPLEMENTED = 12,
	SPLIT_INTERNAL = 13,
	SPLIT_UNAVAILABLE = 14,
	SPLIT_DATA_LOSS = 15,
	SPLIT_UNAUTHENTICATED = 16,
};

/* What the event callback is told. */
enum split_host_event {
	SPLIT_HOST_ATTACHED = 1, /* active: calls may come */
	SPLIT_HOST_LOST = 2,     /* splitd is gone or let us go; attaching again, with backoff */
	SPLIT_HOST_REFUSED = 3,  /* the attach was refused; text says why */
	SPLIT_HOST_WAITING = 4,  /* splitd is not there yet; told once, text says where and why */
};

/* Options. Start from SPLIT_HOST_OPTIONS_INIT; a zero means the default. */
struct split_host_options {
	size_t size;           /* sizeof(struct split_host_options): how old the caller is */
	unsigned workers;      /* when split_host_run is given 0; default: cores_n, else 1 */
	const unsigned *cores; /* worker i is pinned to cores[i % cores_n]; copied */
	size_t cores_n;        /* 0: not pinned */
	uint64_t spin_ns;      /* a worker looks at most this long before it parks, less where calls
				  come seldom; default 50 us; UINT64_MAX never parks */
	uint64_t room_wait_ns; /* an answer waits this long for room in the to-daemon segment before
				  it becomes RESOURCE_EXHAUSTED; default 30 s */
	uint64_t drain_ns;     /* after split_host_stop splitd gives no new calls, and those that it
				  has already, or that are open, may be answered this long; default
				  5 s */
	uint64_t backoff_min_ns; /* first pause before attaching again; default 20 ms, doubling up
				    to */
	uint64_t backoff_max_ns; /* default 1 s */
	uint32_t calls_max; /* calls open in this process; more are given back to splitd (REFUSE);
			       default 65536 */
	bool attach_once;   /* return from split_host_run when splitd is lost or absent */
	/* Called on the thread that is in split_host_run. `text` lives for the call. NULL: what
	 * keeps calls away (all but SPLIT_HOST_ATTACHED) is told on standard error, in a line. */
	void (*event)(struct split_host *host, enum split_host_event event, const char *text,
		      void *event_arg);
	void *event_arg;
	/* Of the workers that split_host_run starts, so many are at work from the beginning; the
	 * others sleep until splitd finds that they are needed, and again when they are not.
	 * Default: all. */
	unsigned workers_min;
	/* The signal by which splitd asks a worker that runs a long handler to give up its core
	 * (only where its configuration has a core broker): its handler moves the thread and
	 * yields. Default SIGRTMIN + 5, unless the program has a handler for it already; below 0:
	 * none. It is sent to worker threads only. */
	int yield_signal;
	/* Over tcp:// only (docs/SOCKET.md). PEM files: this program's certificate, its key, and
	 * the authorities that splitd's certificate must be from: all three, or none for no TLS.
	 * The name that splitd's certificate must have: default the host part of the address.
	 * Where NULL, the environment says: SPLITD_TLS_CERT, _KEY, _CA, _NAME. Copied. */
	const char *tls_cert;
	const char *tls_key;
	const char *tls_ca;
	const char *tls_name;
};

#define SPLIT_HOST_OPTIONS_INIT                                                                    \
	{                                                                                          \
		.size = sizeof(struct split_host_options)                                          \
	}

/* Make a host that will attach under `name` (as in splitd's "hosts") at the socket `path` (NULL:
 * see SPLIT_HOST_SOCKET_ENV). `options` may be NULL; it is copied. Connects to nothing yet: the
 * services must be known first. NULL when out of memory or an argument is invalid (errno says
 * which). */
SPLIT_API struct split_host *split_host_attach(const char *path, const char *name,
					       const struct split_host_options *options);

/* Serve every method of a protobuf-c service, unchanged, through service->invoke. `service` and its
 * descriptors must outlive the host. Before split_host_run only. 0, or SPLIT_E_* (also for a NULL
 * host, so that a caller may check once, at the end). */
SPLIT_API int split_host_serve(struct split_host *host, ProtobufCService *service);

/* As split_host_serve; flags: SPLIT_SERVE_*. */
SPLIT_API int split_host_serve_flags(struct split_host *host, ProtobufCService *service,
				     unsigned flags);

/* The service's handlers never answer after they return: one that does has forgotten its call, and
 * INTERNAL is answered for it, unless it retained the call. */
#define SPLIT_SERVE_ANSWERS_NOW 0x1u

enum split_method_kind {
	SPLIT_UNARY = 0,
	SPLIT_CLIENT_STREAM = 1,
	SPLIT_SERVER_STREAM = 2,
	SPLIT_BIDI_STREAM = 3,
};

/* Where a message is decoded or encoded. */
enum split_place { SPLIT_PLACE_ANY = 0, SPLIT_PLACE_DAEMON = 1, SPLIT_PLACE_HOST = 2 };
/* Whether a call may be made twice. */
enum split_idempotency {
	SPLIT_IDEMPOTENCY_UNKNOWN = 0,
	SPLIT_IDEMPOTENCY_NO_SIDE_EFFECTS = 1,
	SPLIT_IDEMPOTENCY_IDEMPOTENT = 2,
};

/* What splitd is told of a method; zero says nothing. As in split/options.proto. */
struct split_method_options {
	uint32_t request_bytes_max;  /* on the wire, each message; past it RESOURCE_EXHAUSTED. At */
	uint32_t response_bytes_max; /* most what splitd's configuration allows */
	uint64_t deadline_ns;        /* of calls whose client gave none */
	uint8_t decode, encode;      /* enum split_place; the configuration has precedence */
	uint8_t idempotency;         /* enum split_idempotency */
};

/* One method, served by callbacks of its own. All run on workers; those of one call never run at
 * the same time. `data` is the method's. Callbacks a kind does not need may be NULL. */
struct split_method {
	const char *service; /* full name, "package.Service"; copied */
	const char *name;    /* copied */
	enum split_method_kind kind;
	const ProtobufCMessageDescriptor *input;  /* must outlive the host */
	const ProtobufCMessageDescriptor *output; /* must outlive the host */
	void *data;
	/* The request of a unary or server-streaming call; each message of the other kinds. */
	void (*message)(struct split_call *call, const ProtobufCMessage *message, void *data);
	/* A client- or bidi-streaming call began. */
	void (*open)(struct split_call *call, void *data);
	/* The client sends no more messages. */
	void (*half_close)(struct split_call *call, void *data);
	/* split_call_send would block before; there is room again. May also come unasked. */
	void (*writable)(struct split_call *call, void *data);
	/* Nobody waits for the answer any more. The call must be answered all the same. */
	void (*cancelled)(struct split_call *call, void *data);
	/* The call is over: answered, no callback running, nothing of it retained. The last word
	 * about it, on whichever thread that happens; only split_call_user, _method and _kind may
	 * be used. For calls that `open` or `message` was called for; not for those that
	 * split_host_detach finds unanswered. */
	void (*closed)(struct split_call *call, void *data);
	uint32_t read_ahead; /* messages handed over ahead of the handler, 1..255; 0: 16 */
	unsigned flags;      /* SPLIT_METHOD_* */
	const struct split_method_options *options; /* NULL: none; must outlive the host */
};

/* Only split_call_credit says that the handler is through with a message. */
#define SPLIT_METHOD_CREDIT 0x1u

/* Serve one method, of any kind. `method` is copied; zeroed fields are fine. SPLIT_UNARY and
 * SPLIT_SERVER_STREAM need `message`, the other kinds `message` and one of `open` and `half_close`.
 * 0 or SPLIT_E_*. Before split_host_run only. */
SPLIT_API int split_host_serve_method(struct split_host *host, const struct split_method *method);

/* Attach, start the workers, and serve until split_host_stop. n_workers 0: see options. After a
 * restart of splitd attaches again by itself, without end. Returns 0 after split_host_stop, with
 * all workers ended (handlers that run are waited for); SPLIT_E_REFUSED when splitd refuses the
 * first attach for a reason that waiting does not mend; SPLIT_E_LOST with attach_once; other
 * SPLIT_E_* when it cannot begin. May be called again. */
SPLIT_API int split_host_run(struct split_host *host, unsigned n_workers);

/* Make split_host_run return, now or as soon as it is called. Any thread; async-signal-safe. */
SPLIT_API void split_host_stop(struct split_host *host);

/* Free the host; split_host_run must have returned. Waits until no closure is running. Calls that
 * are still open end at their client with UNAVAILABLE; their closures may still be called later and
 * do nothing, but struct split_call pointers and retained messages are invalid. NULL is ignored. */
SPLIT_API void split_host_detach(struct split_host *host);

/* Counters since split_host_attach. Any thread. */
struct split_host_stats {
	uint64_t calls;           /* requests handed to handlers */
	uint64_t answers;         /* answers sent, of any status */
	uint64_t answers_async;   /* of these, from threads that are no worker */
	uint64_t answers_twice;   /* second answers refused */
	uint64_t answers_late;    /* answers to calls that nobody waited for */
	uint64_t answers_missing; /* INTERNAL answered for a forgetful handler */
	uint64_t cancels;         /* calls cancelled */
	uint64_t refused;         /* calls given back: calls_max, or an unknown method */
	uint64_t retained;        /* messages retained */
	uint64_t replies_inline;  /* replies that fitted their slot */
	uint64_t replies_copied;  /* bytes of replies copied into the segment */
	uint64_t heap_fallback;  /* allocations of split_call_alloc that the segment had no room for
				  */
	uint64_t room_waits;     /* times an answer had to wait for room */
	uint64_t room_exhausted; /* answers that became RESOURCE_EXHAUSTED */
	uint64_t parks;          /* times a worker parked */
	uint64_t attaches;       /* times attached */
	uint64_t protocol_errors; /* slots that made no sense; ignored */
	uint64_t messages_in;     /* messages of streams handed to handlers */
	uint64_t messages_out;    /* messages of streams sent */
	uint64_t sends_again;     /* sends that said SPLIT_AGAIN */
	uint64_t retires;         /* times a worker was found not to be needed */
	uint64_t resumes;         /* times one was called back */
	uint64_t yields;          /* times a worker gave up its core when asked to */
	uint64_t yields_forced;   /* of these, by a signal, in the middle of a handler */
	uint64_t outs;            /* calls out begun */
	uint64_t outs_failed;     /* of these, ended with another status than OK */
	uint64_t decodes;         /* messages decoded here instead of by splitd */
	uint64_t decode_errors;   /* messages that could not be; their calls ended */
	uint64_t encodes;         /* messages encoded here instead of by splitd */
};
SPLIT_API void split_host_stats_get(const struct split_host *host, struct split_host_stats *out);

/* Errors. */
#define SPLIT_E_NOMEM     (-1)   /* out of memory, or no room in the segment */
#define SPLIT_E_ARGUMENT  (-2)   /* an argument is invalid, or comes at the wrong time */
#define SPLIT_E_SYSTEM    (-4)   /* a system call failed */
#define SPLIT_E_REFUSED   (-900) /* splitd refused the attach */
#define SPLIT_E_LOST      (-901) /* splitd is not there, or is gone */
#define SPLIT_E_KIND      (-902) /* not for this kind of method */
#define SPLIT_E_DUPLICATE (-903) /* the method is served already */
#define SPLIT_E_ANSWERED  (-904) /* the call was answered before */
#define SPLIT_E_SCHEMA    (-905) /* the message descriptors cannot be described to splitd */
#define SPLIT_E_METADATA  (-906) /* metadata is malformed or too much */

/* One line of text for an error; never NULL; static. */
SPLIT_API const char *split_host_error_text(int error);

/* ---- a call ---- */

/* The call that this thread's handler was called for; NULL outside a handler. */
SPLIT_API struct split_call *split_call_current(void);

/* The call behind a protobuf-c handler's closure data. NULL once it has been answered and is
 * neither retained nor in its handler. Any thread. */
SPLIT_API struct split_call *split_call_of(void *closure_data);

/* The request message. Valid as described above. */
SPLIT_API const ProtobufCMessage *split_call_message(const struct split_call *call);

/* Keep the request message, the metadata and the call itself valid beyond the handler, until as
 * many split_call_release. Returns the message to be used from here on. From the handler only, or
 * from whoever holds a retain. */
SPLIT_API const ProtobufCMessage *split_call_retain(struct split_call *call);
SPLIT_API void split_call_release(struct split_call *call);

/* Metadata of the request: `*count_out` entries, valid as long as the message. Names are lower
 * case; both strings are NUL-terminated, values of "-bin" names are bytes, decoded. */
struct split_metadata {
	const char *name;
	const char *value;
	uint32_t name_bytes; /* without the NUL */
	uint32_t value_bytes;
};
SPLIT_API const struct split_metadata *split_call_metadata(const struct split_call *call,
							   size_t *count_out);
/* First entry of that name, or NULL. */
SPLIT_API const struct split_metadata *split_call_metadata_find(const struct split_call *call,
								const char *name);

/* The deadline on CLOCK_MONOTONIC in ns; 0: none. What is left of it: negative when past, INT64_MAX
 * without a deadline. */
SPLIT_API uint64_t split_call_deadline_ns(const struct split_call *call);
SPLIT_API int64_t split_call_time_left_ns(const struct split_call *call);

/* Who calls. */
struct split_peer {
	uint8_t family; /* 4, 6, or 0: not known */
	uint16_t port;
	uint8_t address[16]; /* network order; IPv4 in the first four */
};
SPLIT_API void split_call_peer(const struct split_call *call, struct split_peer *out);
/* As gRPC writes it, "ipv4:198.18.0.1:4000", NUL-terminated. Returns the length it has, or would
 * have had, as snprintf. */
SPLIT_API int split_call_peer_text(const struct split_call *call, char *buf, size_t bytes);
/* Whether the client's connection is one of TLS. */
SPLIT_API bool split_call_peer_is_tls(const struct split_call *call);
/* What the client's certificate says about it, verified by splitd, under gRPC's names:
 * "x509_common_name", "x509_subject" and, once for each, "x509_subject_alternative_name". Valid as
 * long as the metadata. NULL and 0: the client gave no certificate. */
SPLIT_API const struct split_metadata *split_call_peer_identity(const struct split_call *call,
								size_t *count_out);

/* "package.Service/Method"; valid as long as the host. The method's kind. */
SPLIT_API const char *split_call_method(const struct split_call *call);
SPLIT_API enum split_method_kind split_call_kind(const struct split_call *call);

/* Whether nobody waits for the answer: cancelled, past its deadline, connection or splitd gone. Any
 * thread, any time while the call is valid. */
SPLIT_API bool split_call_cancelled(const struct split_call *call);

/* Status of the answer to come; default SPLIT_OK. `message` (UTF-8, copied, cut at 1 KiB) may be
 * NULL. With a code other than SPLIT_OK the reply message is not sent. 0, SPLIT_E_ANSWERED or
 * SPLIT_E_ARGUMENT. */
SPLIT_API int split_call_set_status(struct split_call *call, enum split_status code,
				    const char *message);

/* A serialised google.rpc.Status, sent as "grpc-status-details-bin". Copied; at most 4 KiB. */
SPLIT_API int split_call_set_status_details(struct split_call *call, const void *bytes, size_t len);

/* Add to the metadata sent before the reply, or after it. Copied. `name`: lower case, [a-z0-9_.-],
 * not "grpc-…"; values of "-bin" names are bytes (splitd encodes them), others printable ASCII. At
 * most 64 entries and 8 KiB each way. 0, SPLIT_E_METADATA, SPLIT_E_ANSWERED or SPLIT_E_NOMEM. */
SPLIT_API int split_call_add_initial_metadata(struct split_call *call, const char *name,
					      const void *value, size_t len);
SPLIT_API int split_call_add_trailing_metadata(struct split_call *call, const char *name,
					       const void *value, size_t len);

/* Memory for the reply, in the segment that splitd reads: what a reply built of it needs no copy.
 * 16-byte aligned, not zeroed; freed with the call. Falls back to the heap, with the same rules,
 * while the segment has no room (the reply is then copied). NULL only when that fails too. One
 * thread at a time for each call, before the answer. The allocator's `free` does nothing. */
SPLIT_API void *split_call_alloc(struct split_call *call, size_t bytes);
SPLIT_API ProtobufCAllocator *split_call_allocator(struct split_call *call);

/* A promise about what this call sends from here on: everything that a reply points to, at any
 * depth, was made by this call's allocator since the last message that it sent (the outermost
 * struct may lie anywhere, and what protobuf-c's _init left, defaults and empty strings, is fine).
 * The library then looks at none of it, which makes a reply cost nothing however large it is;
 * without the promise it is walked once, and what lies elsewhere is copied. A promise that is
 * broken, by a string literal for example, ends the call with INTERNAL, "message points outside its
 * segment": splitd checks every pointer. Where the allocator had to fall back to the heap the
 * library knows, and copies. */
SPLIT_API void split_call_in_place(struct split_call *call);

/* Answer: `reply` of the method's output type, or NULL for the status that was set (INTERNAL when
 * none was). The same as calling the closure. 0, SPLIT_E_ANSWERED (counted), SPLIT_E_LOST (nobody
 * waits any more), SPLIT_E_NOMEM (no room within room_wait_ns; the client got RESOURCE_EXHAUSTED)
 * or SPLIT_E_SCHEMA (the reply cannot be sent as it is: too deep, or not of the method's output
 * type; the client got INTERNAL). But for SPLIT_E_ANSWERED the call is over in each case. */
SPLIT_API int split_call_answer(struct split_call *call, const ProtobufCMessage *reply);

/* split_call_set_status and split_call_answer(call, NULL) in one. */
SPLIT_API int split_call_fail(struct split_call *call, enum split_status code, const char *message);

/* Streams: end the call with the status that was set (OK when none was) and the trailing metadata.
 * The same as split_call_answer(call, NULL). */
SPLIT_API int split_call_finish(struct split_call *call);

/* Send an answer that waits for its handler's return now. Harmless otherwise. Handler's thread
 * only. */
SPLIT_API void split_call_flush(struct split_call *call);

/* ---- streams ---- */

/* Not an error: nothing was taken; `writable` follows. */
#define SPLIT_AGAIN 1

/* One message of a server- or bidi-streaming call, of the method's output type. Copied, or in place
 * when built by the call's allocator (it belongs to splitd then, and the allocator goes on with
 * fresh memory). Never blocks but for memory of which this call has nothing out (at most
 * room_wait_ns). Any thread, one at a time for each call.
 * 0: on its way. SPLIT_AGAIN: not taken; send it again after `writable`. SPLIT_E_ANSWERED: the call
 * is ended. SPLIT_E_LOST: nobody waits any more; end the call. SPLIT_E_KIND: not such a call.
 * SPLIT_E_NOMEM, SPLIT_E_SCHEMA: this message cannot be sent; the call goes on. */
SPLIT_API int split_call_send(struct split_call *call, const ProtobufCMessage *message);

/* As split_call_send, but waits while it would say SPLIT_AGAIN, for at most `timeout_ns`
 * (UINT64_MAX: as long as the call lives). In a callback it holds up every other call of the
 * worker: for threads of the service's own, and for simple services. */
SPLIT_API int split_call_send_wait(struct split_call *call, const ProtobufCMessage *message,
				   uint64_t timeout_ns);

/* Messages that split_call_send would take now without SPLIT_AGAIN, at least. A hint. */
SPLIT_API uint32_t split_call_room(const struct split_call *call);

/* Send the initial metadata added so far now (also when none was), before any message. Any kind of
 * call. 0; SPLIT_E_ARGUMENT (it was sent before); SPLIT_E_ANSWERED; SPLIT_E_LOST; SPLIT_E_NOMEM. */
SPLIT_API int split_call_send_initial_metadata(struct split_call *call);

/* SPLIT_METHOD_CREDIT: the handler is through with `messages` more. 0, SPLIT_E_KIND (no such
 * method) or SPLIT_E_ANSWERED. */
SPLIT_API int split_call_credit(struct split_call *call, uint32_t messages);

/* Keep the message that this thread's `message` callback was called with, of a client- or
 * bidi-streaming call, and its call. NULL when memory is short or no such callback runs. Until
 * split_message_release, once, from any thread. */
struct split_message;
SPLIT_API struct split_message *split_message_retain(struct split_call *call);
SPLIT_API const ProtobufCMessage *split_message_get(const struct split_message *message);
SPLIT_API void split_message_release(struct split_message *message);

/* Compression (gRPC's per-message flag). Whether the client sent the message that the running
 * callback got (the request) compressed; whether messages sent from here on shall be compressed, if
 * the client takes that: at first as splitd's configuration says. */
SPLIT_API bool split_call_compressed(const struct split_call *call);
SPLIT_API void split_call_compress(struct split_call *call, bool on);

/* ---- calls out: channels (docs/CHANNELS.md) ----
 *
 * A channel leads to services that this host calls itself: those of other hosts that are attached
 * to the same splitd, straight through shared memory, or gRPC servers on the network, through
 * splitd's own client. Its name and where it goes stand in splitd's "channels". What is called is
 * declared before split_host_run, as what is served is: a stub is one method over one channel.
 *
 *     svc = split_channel_service(split_channel_open(host, "back"), &back__descriptor);
 *     ...
 *     back__ask(svc, &question, on_answer, data);      a stub of protoc-c, in a handler
 *
 * A call out never blocks and takes no thread: what answers it runs as a continuation on the worker
 * whose handler began it (from another thread: on some worker), after that handler has returned,
 * never two of one call at a time. The last one is `done` (or protobuf-c's closure), exactly once
 * for each split_out_start that returned 0.
 *
 * A call out made in a handler is made for the call that is handled: it inherits what is left of
 * its deadline, its trace context (traceparent, tracestate, grpc-trace-bin), and its end: when that
 * call is cancelled, past its deadline or answered, the call out is cancelled. So does one that is
 * made in a continuation. SPLIT_OUT_DETACHED inherits nothing. */
struct split_channel;
struct split_stub;
struct split_out;

/* The channel of that name; another call with the same name gives the same. Lives as long as the
 * host. NULL: no memory, an invalid argument, or split_host_run has begun. */
SPLIT_API struct split_channel *split_channel_open(struct split_host *host, const char *name);

/* Deadline of its calls that bring no other, from their start; 0 (at first): none. */
SPLIT_API void split_channel_timeout(struct split_channel *channel, uint64_t timeout_ns);

/* Whether its calls wait for somebody who can answer, as SPLIT_OUT_WAIT_FOR_READY says; false at
 * first. For the stubs of protoc-c, which have no options. */
SPLIT_API void split_channel_wait_for_ready(struct split_channel *channel, bool on);

/* Every method of a protobuf-c service over the channel, for the stubs that protoc-c generates: the
 * closure gets the answer, or NULL when the call failed (split_out_current has the status). It and
 * the descriptor live as long as the host; destroy does nothing. NULL: as split_channel_open. */
SPLIT_API ProtobufCService *split_channel_service(struct split_channel *channel,
						  const ProtobufCServiceDescriptor *descriptor);

/* One method, of any kind. `service` and `name` are copied; the descriptors must outlive the host.
 * `read_ahead`: messages of an answer handed over ahead of the continuation, 1..255; 0: 16. NULL:
 * as split_channel_open. */
SPLIT_API struct split_stub *split_channel_stub(struct split_channel *channel, const char *service,
						const char *name, enum split_method_kind kind,
						const ProtobufCMessageDescriptor *input,
						const ProtobufCMessageDescriptor *output,
						uint32_t read_ahead);

/* How a call out ended. Valid until `done` (or the closure) returns. */
struct split_out_result {
	enum split_status status;
	const char *message; /* of the status; "" when none came */
	const ProtobufCMessage
		*reply; /* the one answer of SPLIT_UNARY and SPLIT_CLIENT_STREAM; NULL
			   unless the status is SPLIT_OK, and for the other kinds */
	const struct split_metadata *trailers;
	size_t trailers_n;
};

/* Continuations; those not wanted are NULL. */
struct split_out_events {
	/* The answer's metadata, before its first message; only if there is any. */
	void (*initial_metadata)(struct split_out *out, const struct split_metadata *metadata,
				 size_t count, void *data);
	/* A message of the answer: SPLIT_SERVER_STREAM and SPLIT_BIDI_STREAM. Valid until it
	 * returns; then the next is welcome. */
	void (*message)(struct split_out *out, const ProtobufCMessage *message, void *data);
	/* split_out_send said SPLIT_AGAIN; there is room again. */
	void (*writable)(struct split_out *out, void *data);
	/* The end; the last word. */
	void (*done)(struct split_out *out, const struct split_out_result *result, void *data);
};

#define SPLIT_OUT_DETACHED 0x1u
/* gRPC's wait-for-ready: while nobody can answer (no host that serves it is attached, no server can
 * be reached) the call waits, until its deadline; else it fails with UNAVAILABLE at once. */
#define SPLIT_OUT_WAIT_FOR_READY 0x2u

/* Start from SPLIT_OUT_OPTIONS_INIT; zero means the default. */
struct split_out_options {
	size_t size;               /* sizeof(struct split_out_options) */
	uint64_t timeout_ns;       /* from now; the shorter of it and what is inherited counts */
	struct split_call *parent; /* the call it is made for; default: the one that is handled.
				      From other threads: one that is retained */
	const struct split_metadata *metadata; /* as split_call_add_initial_metadata; copied */
	size_t metadata_n;
	unsigned flags; /* SPLIT_OUT_* */
	bool compress;  /* ask for compression, where it goes over a network */
};

#define SPLIT_OUT_OPTIONS_INIT                                                                     \
	{                                                                                          \
		.size = sizeof(struct split_out_options)                                           \
	}

/* Begin a call. `request`: the one request of SPLIT_UNARY and SPLIT_SERVER_STREAM, copied; NULL for
 * the other kinds, whose messages follow by split_out_send. `options` may be NULL; `events` is
 * copied. `out` may be NULL; else it is a reference, to be given back by split_out_release. Any
 * thread. 0: `done` follows. Else it does not: SPLIT_E_ARGUMENT, SPLIT_E_METADATA, SPLIT_E_SCHEMA
 * (the request cannot be sent as it is), SPLIT_E_NOMEM (too many calls out, or no room),
 * SPLIT_E_LOST (splitd is not there). */
SPLIT_API int split_out_start(struct split_stub *stub, const ProtobufCMessage *request,
			      const struct split_out_options *options,
			      const struct split_out_events *events, void *data,
			      struct split_out **out);

/* Keep it valid beyond `done`; for threads that send. */
SPLIT_API void split_out_retain(struct split_out *out);
SPLIT_API void split_out_release(struct split_out *out);

/* One more request of SPLIT_CLIENT_STREAM or SPLIT_BIDI_STREAM: as split_call_send.
 * SPLIT_E_ANSWERED: it was half-closed, or has ended. */
SPLIT_API int split_out_send(struct split_out *out, const ProtobufCMessage *request);
/* Keep the message of the answer, or the one reply, that this thread's continuation was called
 * with, and its call out. NULL: it was called with none. Until split_message_release, once, from
 * any thread; until then it counts as read-ahead, and what the host keeps past the end of a call
 * counts against splitd's release_timeout. */
SPLIT_API struct split_message *split_out_message_retain(struct split_out *out);
/* No more requests. 0, SPLIT_E_KIND, SPLIT_E_ANSWERED or SPLIT_E_LOST. */
SPLIT_API int split_out_half_close(struct split_out *out);
/* Nobody waits for the answer any more: `done` follows, with SPLIT_CANCELLED if it has not ended
 * meanwhile. Any thread, any number of times. */
SPLIT_API void split_out_cancel(struct split_out *out);

/* The call out whose continuation runs on this thread, and in `done` or a closure how it ended;
 * NULL outside. Of a stub of protoc-c that could not be begun, in its closure: NULL and the result.
 */
SPLIT_API struct split_out *split_out_current(const struct split_out_result **result_out);
SPLIT_API void *split_out_data(const struct split_out *out);

/* ---- what generated code (protoc-gen-split) stands on ---- */

/* What a typed handler returns when the answer comes later; else an enum split_status. */
#define SPLIT_LATER 1000

/* End a call as its typed handler's result says: SPLIT_LATER leaves it open; SPLIT_OK answers with
 * `reply` (NULL ends a stream; a status set before counts); another status fails it, with the
 * message that split_call_set_status gave to that status; anything else is INTERNAL. As
 * split_call_answer. */
SPLIT_API int split_call_settle(struct split_call *call, int result, const ProtobufCMessage *reply);

/* A copy of `len` bytes (16-byte aligned) that lives until split_host_detach; NULL: no memory. */
SPLIT_API void *split_host_keep(struct split_host *host, const void *bytes, size_t len);

/* Tell splitd what descriptors leave out of the types of one file: constant tables of generated
 * code (split-schema.h). Before split_host_run only. 0 or SPLIT_E_*. */
struct schema_file_info;
SPLIT_API int split_host_describe(struct split_host *host, const struct schema_file_info *info);

/* A pointer of the caller's that goes with the call; NULL at first. */
SPLIT_API void split_call_set_user(struct split_call *call, void *user);
SPLIT_API void *split_call_user(const struct split_call *call);

#ifdef __cplusplus
}
#endif

#endif
