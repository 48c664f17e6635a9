/* The format of the two shared segments, version 5. docs/SHARED-MEMORY.md is its prose.
 *
 * Everything here is memory that two processes see: any change of a size, an offset or a meaning
 * bumps SHEPHERD_VERSION. Little endian, 64-bit pointers; a host of another layout is refused at
 * attach. Offsets are from the start of the segment named.
 *
 * to-host segment (the daemon alone writes)         to-daemon segment (the host alone writes)
 *   geometry           1 page                          control line of each host worker
 *   host_wake          a line for each host worker     host_line of each lane and foreign lane
 *   daemon_sleep       a line for each daemon worker   completion rings, then foreign rings
 *   daemon_line        a line for each lane            arena
 *   request rings
 *   arena: one partition for each daemon worker
 *
 * Lane (d, h) has index d * host_workers + h; the foreign lane of d has index
 * daemon_workers * host_workers + d. It has a completion ring only.
 */
#ifndef SPLITD_SHEPHERD_LAYOUT_H
#define SPLITD_SHEPHERD_LAYOUT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define SHEPHERD_VERSION 5
#define SHEPHERD_MAGIC   0x31646c6f46706853ULL /* "ShpFold1" */
#define SHEPHERD_LINE    64

/* Bounds of a geometry; what configuration asks for is checked against them. */
#define SHEPHERD_DAEMON_WORKERS_MAX 64
#define SHEPHERD_HOST_WORKERS_MAX   256
#define SHEPHERD_SLOTS_MIN          2 /* fewer cannot tell full from empty */
#define SHEPHERD_SLOTS_MAX          4096
#define SHEPHERD_SEGMENT_MAX        (1ULL << 38)
#define SHEPHERD_BLOCK_MIN          256 /* the arena's unit */

/* Messages of one call that a host may have given and splitd not yet sent: what a geometry begins a
 * stream with, and what it may grow to by WRITABLE. */
#define SHEPHERD_STREAM_WINDOW     2
#define SHEPHERD_STREAM_WINDOW_MAX 32

#define SLOT_BYTES        256
#define SLOT_INLINE_BYTES 128
#define SLOT_TOKENS_MAX   16 /* of one RELEASE slot: SLOT_INLINE_BYTES / 8 */

/* Kinds. The two directions share no value, so that a mixed-up ring is noticed. `info` is the
 * kind's argument. */
enum slot_kind {
	SLOT_NONE = 0,

	/* to the host */
	TO_HOST_REQUEST = 1,    /* opens a call; the message of a unary one; info: token */
	TO_HOST_MESSAGE = 2,    /* a further message of the call; info: token */
	TO_HOST_HALF_CLOSE = 3, /* the client sends no more, and no message comes with it */
	TO_HOST_CANCEL = 4,     /* nobody waits for the answer; info: enum cancel_cause */
	TO_HOST_RELEASE = 5,    /* info tokens of response blocks, in the inline area */
	TO_HOST_WRITABLE = 6,   /* messages of the call were sent; info: WRITABLE_* */
	TO_HOST_TRYAGAIN = 7,   /* nothing has come for long: park instead of looking on */
	TO_HOST_YIELDNOW = 8,   /* give up the core: run on host_wake.core from now on */
	TO_HOST_RETIRE = 9,     /* this worker is not needed any more */
	/* Of calls out (an id of the host's own), as are MESSAGE and WRITABLE with such an id. */
	TO_HOST_STATUS = 10,           /* ends it; status, text, trailing metadata */
	TO_HOST_INITIAL_METADATA = 11, /* metadata of the answer */
	TO_HOST_RESUME = 12,           /* to a RETIRED worker: it is needed again */
	TO_HOST_KINDS,

	/* to the daemon */
	TO_DAEMON_INITIAL_METADATA = 0x41, /* metadata */
	TO_DAEMON_MESSAGE = 0x42,          /* msg, or inline; info: status with SLOT_HAS_STATUS */
	TO_DAEMON_STATUS = 0x43,  /* ends the call; info: status; text, trailing metadata */
	TO_DAEMON_RELEASE = 0x44, /* info tokens of request blocks, in the inline area */
	TO_DAEMON_REFUSE = 0x45,  /* the call was not begun; it may go elsewhere */
	TO_DAEMON_CREDIT = 0x46,  /* the handler takes `info` more messages of the call */
	TO_DAEMON_WANT = 0x47,    /* WRITABLE is wanted as soon as a message of the call was sent */
	/* Of calls out, as are MESSAGE, CREDIT and WANT with an id of the host's own. */
	TO_DAEMON_CALL = 0x48,       /* opens one, of slot.method; info: the call it is made for */
	TO_DAEMON_HALF_CLOSE = 0x49, /* no more requests, and none comes with it */
	TO_DAEMON_ABANDON = 0x4a,    /* nobody waits for the answer; STATUS follows all the same */
	TO_DAEMON_KINDS,
};

enum cancel_cause {
	CANCEL_BY_CLIENT = 1,
	CANCEL_DEADLINE = 2,
	CANCEL_CONNECTION = 3,
	CANCEL_SHUTDOWN = 4,
};

/* Argument of WRITABLE: so many of the host's messages are done with, and so many more than these
 * it may have out from now on. */
#define WRITABLE_INFO(done, more) ((uint64_t)(uint16_t)(done) | (uint64_t)(uint16_t)(more) << 16)
#define WRITABLE_DONE(info)       ((uint32_t)(info)&0xffffu)
#define WRITABLE_MORE(info)       ((uint32_t)((info) >> 16) & 0xffffu)

/* What a message in SLOT_FORM_WIRE may become: linear_limits.linear_bytes_max and .depth_max. */
#define WIRE_LIMITS(bytes, depth) ((uint64_t)(bytes) | (uint64_t)(uint16_t)(depth) << 48)
#define WIRE_LIMITS_BYTES(limits) ((limits)&0xffffffffffffu)
#define WIRE_LIMITS_DEPTH(limits) ((uint32_t)((limits) >> 48))

/* Flags of a slot. */
#define SLOT_END_STREAM      0x01 /* no message follows in this direction */
#define SLOT_INLINE          0x02 /* the message lies in the slot's inline area */
#define SLOT_HAS_STATUS      0x04 /* to daemon: info is the status; to host: slot.status; the end */
#define SLOT_RELEASE_REQUEST 0x08 /* to daemon: `release` is a token given back */
#define SLOT_EXTRA           0x10 /* line 1 counts; else the receiver does not read it */
#define SLOT_HAS_TOKEN       0x20 /* a token must be given back: info (to host), token (to daemon) */
#define SLOT_HAS_MESSAGE     0x40 /* `msg` is a message (it may be at any address, even inline) */
#define SLOT_COMPRESSED      0x80 /* to host: the client sent it compressed; to daemon: compress it */

/* Forms of a slot: 0 is linear, both ways.
 *   WIRE       `msg` is the message's wire bytes, at any address: `inline_bytes` of the inline area
 *              with SLOT_INLINE, else `msg_bytes`. The host decodes them; the daemon sends them.
 *   ENCODE     to the host, of a REQUEST: what answers it is the host's to encode, and may come in
 *              form WIRE; without it, it may not.
 *   UNDECODED  to the daemon, of a STATUS: it ends the call because a message in form WIRE could
 *              not be decoded. */
#define SLOT_FORM_WIRE      0x01
#define SLOT_FORM_ENCODE    0x02
#define SLOT_FORM_UNDECODED 0x04

/* A call out is named by its host: generation << 32 | daemon worker << 24 | SLOT_OUT | index, the
 * index below geometry.outs_max, for each daemon worker. It may be used again once STATUS (or a
 * MESSAGE with HAS_STATUS) was taken, with another generation. */
#define SLOT_OUT       0x800000u
#define SLOT_OUT_INDEX 0x7fffffu

/* Of slot.peer_flags: the connection is one of TLS. */
#define SLOT_PEER_TLS 0x01

/* Of slot.out_flags: the call waits while there is nobody who could answer it (gRPC's
 * wait-for-ready), until its deadline. */
#define SLOT_OUT_WAITS 0x01

/* One slot: four cache lines. A consumer polls line 0 only. `seq` is stored last (release) and is
 * the valid flag: slot i of a ring of n holds ticket t (t % n == i) when seq == (uint32_t)(t + 1).
 * `revoke` alone changes after publication (stored by the daemon: ticket + 1 when taken back). */
struct slot {
	/* line 0: all that a small call needs */
	uint32_t seq;
	uint8_t kind;
	uint8_t flags;
	uint8_t inline_bytes; /* of the inline area that count; <= SLOT_INLINE_BYTES */
	uint8_t form;         /* SLOT_FORM_* */
	uint64_t call_id;     /* generation << 32 | daemon worker << 24 | index; the daemon's, or
				 SLOT_OUT */
	union {
		uint64_t code;    /* to host: code pointer of the method, or of a call out (0 by
				     socket) */
		uint64_t release; /* to daemon: with SLOT_RELEASE_REQUEST */
	};
	union {
		uint64_t data;  /* to host: data pointer of the method, or of a call out */
		uint64_t token; /* to daemon: with SLOT_HAS_TOKEN, names the blocks behind the slot
				 */
	};
	uint64_t msg;    /* the message, in the host's address space, both ways */
	uint32_t method; /* index in the attach's method table */
	union {
		uint32_t msg_seq; /* 0, 1, … within the call and direction */
		uint32_t home;    /* CALL: the host worker that the answer goes to */
	};
	union {
		uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none */
		uint64_t status;      /* to host, with SLOT_HAS_STATUS */
	};
	uint64_t info; /* the kind's argument */

	/* line 1: SLOT_EXTRA */
	uint64_t metadata; /* struct metadata_block, or 0 */
	union {
		uint64_t peer;     /* struct metadata_block: the client certificate's names; or 0 */
		uint64_t out_code; /* CALL: given back as `code` with all that answers it, */
	};
	union {
		uint64_t trace;    /* NUL-terminated traceparent, or 0 */
		uint64_t out_data; /* and as `data` */
	};
	union {
		uint64_t text;   /* status message: text_bytes bytes, or 0 */
		uint64_t limits; /* to host, with SLOT_FORM_WIRE: WIRE_LIMITS */
	};
	uint32_t msg_bytes;
	union {
		uint32_t text_bytes;
		uint32_t elements_max; /* with `limits`: linear_limits.elements_max */
	};
	uint32_t revoke;
	uint16_t peer_port;  /* host order */
	uint8_t peer_family; /* 0, 4 or 6 */
	union {
		uint8_t peer_flags; /* SLOT_PEER_TLS */
		uint8_t out_flags;  /* CALL: SLOT_OUT_WAITS */
	};
	uint8_t peer_address[16]; /* IPv4 in the first four bytes; network order */

	/* lines 2-3: a linear message, or tokens of a RELEASE */
	union {
		uint8_t inline_area[SLOT_INLINE_BYTES];
		uint64_t tokens[SLOT_TOKENS_MAX];
	};
};

static_assert(sizeof(struct slot) == SLOT_BYTES, "slot v1");
static_assert(offsetof(struct slot, seq) == 0, "slot v1");
static_assert(offsetof(struct slot, kind) == 4, "slot v1");
static_assert(offsetof(struct slot, flags) == 5, "slot v1");
static_assert(offsetof(struct slot, inline_bytes) == 6, "slot v1");
static_assert(offsetof(struct slot, form) == 7, "slot v5");
static_assert(offsetof(struct slot, call_id) == 8, "slot v1");
static_assert(offsetof(struct slot, code) == 16, "slot v1");
static_assert(offsetof(struct slot, data) == 24, "slot v1");
static_assert(offsetof(struct slot, msg) == 32, "slot v1");
static_assert(offsetof(struct slot, method) == 40, "slot v1");
static_assert(offsetof(struct slot, msg_seq) == 44, "slot v1");
static_assert(offsetof(struct slot, deadline_ns) == 48, "slot v1");
static_assert(offsetof(struct slot, info) == 56, "slot v1");
static_assert(offsetof(struct slot, metadata) == 64, "slot v1");
static_assert(offsetof(struct slot, peer) == 72, "slot v1");
static_assert(offsetof(struct slot, trace) == 80, "slot v1");
static_assert(offsetof(struct slot, text) == 88, "slot v1");
static_assert(offsetof(struct slot, msg_bytes) == 96, "slot v1");
static_assert(offsetof(struct slot, text_bytes) == 100, "slot v1");
static_assert(offsetof(struct slot, limits) == offsetof(struct slot, text), "slot v5");
static_assert(offsetof(struct slot, elements_max) == offsetof(struct slot, text_bytes), "slot v5");
static_assert(offsetof(struct slot, revoke) == 104, "slot v1");
static_assert(offsetof(struct slot, peer_port) == 108, "slot v1");
static_assert(offsetof(struct slot, peer_family) == 110, "slot v1");
static_assert(offsetof(struct slot, peer_flags) == 111, "slot v1");
static_assert(offsetof(struct slot, peer_address) == 112, "slot v1");
static_assert(offsetof(struct slot, inline_area) == 128, "slot v1");

/* Metadata, both ways. Addresses are the host's. Names are lower case; values are bytes (a "-bin"
 * value is already decoded). */
struct metadata_entry {
	uint64_t name;
	uint64_t value;
	uint32_t name_bytes; /* without the NUL that follows in memory */
	uint32_t value_bytes;
};

struct metadata_block {
	uint32_t count;
	uint32_t reserved;
	struct metadata_entry entries[];
};

static_assert(sizeof(struct metadata_entry) == 24, "metadata v1");
static_assert(sizeof(struct metadata_block) == 8, "metadata v1");

/* What a host worker says about itself; to-daemon segment, one line each. `state` holds enum
 * host_state in its low half and, when PARKED or RETIRED, the wake word's value it sleeps at in its
 * high half: one word, so that the two are never seen apart. A RETIRED worker gets no new call, but
 * what belongs to calls it has, and RESUME; it is woken for these as a parked one is. */
enum host_state {
	HOST_POLLING = 0,
	HOST_RUNNING = 1,
	HOST_PARKED = 2,
	HOST_RETIRED = 3,
	HOST_STATES,
};

struct control_line {
	uint64_t state;
	uint64_t heartbeat; /* raised by the worker now and then; 0 until it begins */
	uint32_t core;      /* 1 + the core it was on when it last had nothing to do; 0: unknown */
	uint32_t tid;       /* its thread, as gettid() there says; 0: not begun */
	uint8_t reserved[40];
};

/* The host's words of one lane; to-daemon segment. */
struct host_line {
	uint32_t head;  /* request slots taken (ticket of the next) */
	uint32_t claim; /* ticket + 1 of the request being begun */
	uint32_t tail;  /* completion slots published; for observers only */
	uint8_t reserved[52];
};

/* The daemon's words of one lane; to-host segment. */
struct daemon_line {
	uint32_t head; /* completion slots taken */
	uint32_t tail; /* request slots published; for observers only */
	uint8_t reserved[56];
};

/* `word` is raised by any daemon worker (atomically) to wake the host worker. `core` is stored by
 * the control thread: 1 + the core that the worker shall be on, read at YIELDNOW and RESUME and by
 * the signal that follows an unheeded YIELDNOW; 0: where it likes. */
struct host_wake {
	uint32_t word;
	uint32_t core;
	uint8_t reserved[56];
};

/* `word`: odd while daemon worker d sleeps, or is about to. */
struct daemon_sleep {
	uint32_t word;
	uint32_t core; /* 1 + the core it is pinned to; 0: unknown */
	uint8_t reserved[56];
};

static_assert(sizeof(struct control_line) == SHEPHERD_LINE, "a line");
static_assert(sizeof(struct host_line) == SHEPHERD_LINE, "a line");
static_assert(sizeof(struct daemon_line) == SHEPHERD_LINE, "a line");
static_assert(sizeof(struct host_wake) == SHEPHERD_LINE, "a line");
static_assert(sizeof(struct daemon_sleep) == SHEPHERD_LINE, "a line");

/* Starts the to-host segment. Written once by the daemon before it passes the segment on; only
 * `detach_epoch` changes after. Each side keeps a checked private copy and uses that. */
struct geometry {
	/* line 0 */
	uint64_t magic;
	uint32_t version;
	uint32_t daemon_workers;
	uint32_t host_workers;
	uint32_t request_slots;    /* each a power of two */
	uint32_t completion_slots; /* of lanes */
	uint32_t foreign_slots;    /* of foreign lanes */
	uint32_t tokens_max;       /* unreleased response tokens at one daemon worker */
	uint32_t revocable;        /* 1: claim and revoke are in use */
	uint64_t to_host_bytes;
	uint64_t to_daemon_bytes;
	uint64_t session; /* random, another for each attach */
	/* line 1: to-host offsets, line multiples */
	uint64_t host_wake_offset;
	uint64_t daemon_sleep_offset;
	uint64_t daemon_line_offset;
	uint64_t request_offset;
	uint64_t to_host_arena_offset;
	uint64_t to_host_partition_bytes; /* the arena is daemon_workers of these */
	uint32_t stream_window;           /* messages of a call that may be out at its beginning */
	uint32_t outs_max;                /* calls out that may be open at one daemon worker */
	uint32_t host_workers_min;        /* of host_workers, those that begin at work: 1 or more */
	uint32_t reserved1;
	/* line 2: to-daemon offsets */
	uint64_t control_offset;
	uint64_t host_line_offset;
	uint64_t completion_offset;
	uint64_t foreign_offset;
	uint64_t to_daemon_arena_offset;
	uint64_t to_daemon_arena_bytes;
	uint64_t reserved3[2];
	/* line 3 */
	uint32_t detach_epoch; /* 0 while attached; a host runs nothing once it is not 0 */
	uint8_t reserved4[60];
};

static_assert(offsetof(struct geometry, host_wake_offset) == 64, "geometry v1");
static_assert(offsetof(struct geometry, control_offset) == 128, "geometry v1");
static_assert(offsetof(struct geometry, detach_epoch) == 192, "geometry v1");
static_assert(sizeof(struct geometry) == 256, "geometry v1");

#endif
