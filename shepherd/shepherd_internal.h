/* What the files of shepherd share. Not for other folders. */
#ifndef SPLITD_SHEPHERD_INTERNAL_H
#define SPLITD_SHEPHERD_INTERNAL_H

#include "base/bits.h"
#include "shepherd/shepherd.h"

/* ---- geometry.c */

/* Fill offsets of a geometry whose counts and sizes are set. -SPLIT_E_SHEPHERD_GEOMETRY. */
int geometry_lay_out(struct geometry *g) SPLIT_MUST_USE;
/* Whether a copied geometry is one that geometry_lay_out makes, for segments of these sizes. */
int geometry_check(const struct geometry *g, uint64_t to_host_bytes,
		   uint64_t to_daemon_bytes) SPLIT_MUST_USE;
static inline uint32_t geometry_lanes(const struct geometry *g) /* foreign ones included */
{
	return g->daemon_workers * g->host_workers + g->daemon_workers;
}
uint64_t geometry_completion_offset(const struct geometry *g, unsigned d, unsigned lane);
uint64_t geometry_request_offset(const struct geometry *g, unsigned d, unsigned lane);

/* ---- segment.c */

#define SEGMENT_SEALS (F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
#define SEGMENT_HUGE  (2ULL << 20)

struct sigbus_entry;

struct segment {
	int fd;
	uint8_t *mem; /* NULL: not mapped */
	size_t bytes;
	bool huge;
	bool lazy;                  /* its pages are taken when they are touched */
	struct sigbus_entry *watch; /* NULL: its SIGBUS is not ours */
};

/* A memfd of `bytes` (rounded up), its pages taken unless it is lazy. Not mapped, not sealed. */
int segment_create(struct segment *s, const char *name, uint64_t bytes, bool huge, int numa_node,
		   bool lazy) SPLIT_MUST_USE;
/* Map it and fault every page in, unless it is lazy. `dead` is set by the SIGBUS handler; NULL: not
 * registered. */
int segment_map(struct segment *s, bool writable, uint32_t *dead) SPLIT_MUST_USE;
/* Add the seals and see that they hold, that the size is right. */
int segment_seal(const struct segment *s) SPLIT_MUST_USE;
/* Unmap and close. */
void segment_destroy(struct segment *s);

/* ---- attach_wire.c: the packets */

#define ATTACH_MAGIC 0x70687053 /* "Sphp" */
#define ATTACH_LAYOUT                                                                              \
	(((uint32_t)sizeof(void *) << 8) | (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 1u : 2u))

enum attach_type {
	ATTACH_HELLO = 1,   /* host → daemon */
	ATTACH_BLOB = 2,    /* host → daemon, as many as it takes, in order */
	ATTACH_OFFER = 3,   /* daemon → host, with to-host, to-daemon, eventfd of each worker */
	ATTACH_BASES = 4,   /* host → daemon: where the host has mapped them */
	ATTACH_ACTIVE = 5,  /* daemon → host */
	ATTACH_REFUSED = 6, /* daemon → host */
	ATTACH_GOODBYE = 7, /* host → daemon */
	ATTACH_LEAVING = 8, /* host → daemon: wants no more calls, and to know when it has none */
	ATTACH_DRAINED = 9, /* daemon → host: it has none */
};

struct attach_header {
	uint32_t magic;
	uint16_t type;
	uint16_t version;
	uint32_t layout;
	uint32_t bytes; /* of the whole packet */
};

struct attach_hello_packet {
	struct attach_header header;
	uint32_t workers;
	uint32_t workers_min;  /* 0: all */
	uint32_t yield_signal; /* 0: none */
	uint32_t blob_bytes;
	char name[ATTACH_NAME_MAX];
};

struct attach_blob_packet {
	struct attach_header header;
	uint32_t offset;
	uint32_t reserved;
	uint8_t bytes[];
};

struct attach_offer_packet {
	struct attach_header header;
	uint64_t to_host_bytes;
	uint64_t to_daemon_bytes;
	uint32_t daemon_workers;
	uint32_t huge;
};

struct attach_bases_packet {
	struct attach_header header;
	uint64_t to_host_base;
	uint64_t to_daemon_base;
};

struct attach_refused_packet {
	struct attach_header header;
	int32_t code;
	char text[ATTACH_TEXT_MAX];
};

/* The head of the blob, then methods_n records, then the schema. */
struct attach_blob_head {
	uint32_t methods_n;
	uint32_t methods_bytes;
	uint32_t schema_bytes;
	uint32_t reserved;
};

/* Options go behind the names of a record, so many bytes of this as its writer knew: newer members
 * come last, and who does not know them skips them. None: zero bytes. */
struct attach_options_record {
	uint64_t deadline_ns;
	uint32_t request_bytes_max;
	uint32_t response_bytes_max;
	uint8_t decode, encode, idempotency;
	uint8_t zero[5];
} __attribute__((packed));

struct attach_method_record {
	uint64_t code;
	uint64_t data;
	uint32_t input_schema;
	uint32_t output_schema;
	uint8_t kind;
	uint8_t service_bytes; /* both follow, without NUL; records are not aligned */
	uint8_t method_bytes;
	uint8_t read_ahead;
	uint8_t options_bytes; /* of an attach_options_record, behind the names */
	uint8_t channel_bytes; /* the channel's name, behind these; 0: the method is served */
} __attribute__((packed));

/* Header of a received packet of `bytes`: magic, version, layout, length, type and its size. Copies
 * nothing. The type, or a negative code. */
int attach_header_parse(const uint8_t *packet, size_t bytes) SPLIT_MUST_USE;
/* 1..63 bytes of printable ASCII without spaces, NUL inside `room`. */
bool attach_name_valid(const char *name, size_t room);

#define ATTACH_FDS_MAX (2 + SHEPHERD_DAEMON_WORKERS_MAX)

void attach_header_fill(struct attach_header *h, enum attach_type type, size_t bytes);
/* One packet, never blocks: 0, or -SPLIT_E_SHEPHERD_ATTACH_CLOSED / _TIMEOUT (no room). */
int attach_send(int fd, const void *packet, size_t bytes, const int *fds,
		size_t fds_n) SPLIT_MUST_USE;

struct attach_received {
	size_t bytes;
	bool has_credentials;
	pid_t pid;
	uid_t uid;
	gid_t gid;
	int fds[ATTACH_FDS_MAX]; /* the caller's to close */
	size_t fds_n;
};
/* One packet, never blocks: 0; SPLIT_AGAIN (none there); or a negative code. */
int attach_receive(int fd, void *buf, size_t room, struct attach_received *out) SPLIT_MUST_USE;
void attach_received_close(struct attach_received *r);

/* ---- endpoint.c */

/* Segments made and to-host mapped and sealed; `methods` copied. Refcount 1. */
int endpoint_create(const struct endpoint_config *config, const struct attach_request *request,
		    struct endpoint **out) SPLIT_MUST_USE;
/* Send OFFER with the descriptors; the daemon's own copies of what only the host needs are closed.
 */
int endpoint_offer(struct endpoint *e, int fd) SPLIT_MUST_USE;
/* The host has mapped: seal, check, map and fault in the to-daemon segment. */
int endpoint_map(struct endpoint *e, uint64_t to_host_base, uint64_t to_daemon_base) SPLIT_MUST_USE;

/* ---- the daemon's side: what endpoint*.c share. Private memory, but where it says otherwise. */

#define INDEX_NONE UINT32_MAX

/* A message's blocks in the host's hands. Its token is generation << 32 | index + 1. */
struct hold {
	uint64_t since_ns; /* when its call was closed */
	uint32_t generation;
	uint32_t blocks; /* head of the list in port->block_next, 0: this hold is free */
	uint32_t next, prev;
	uint32_t call; /* whose list it is in; INDEX_NONE: the overdue list */
};

enum call_state { CALL_FREE, CALL_OPEN, CALL_ENDED, CALL_REFUSED };

struct call {
	void *user;
	uint32_t generation;
	uint32_t holds; /* list of holds; in a free call the next free one */
	uint32_t lane;  /* INDEX_NONE until its REQUEST is submitted */
	uint32_t ticket;
	uint32_t request_hold; /* of the REQUEST, INDEX_NONE: none (or given back) */
	uint8_t state;
	uint8_t status;      /* of a call out that was refused */
	bool out;            /* the host made its id */
	uint64_t code, data; /* of a call out */
};

/* A response token on its way back. */
struct token_node {
	uint64_t token;
	uint32_t next;
};

struct lane {
	/* requests: we produce */
	struct slot *requests; /* shared, ours */
	uint32_t request_slots;
	uint32_t tail;
	uint32_t head_seen;                 /* the host's head when last looked at, checked */
	const struct host_line *host_line;  /* shared, hostile */
	const struct control_line *control; /* shared, hostile; NULL: foreign lane */
	uint32_t *wake;                     /* shared with the other daemon workers */
	uint64_t *published_ns;             /* by slot */
	uint32_t calls;
	uint32_t woken_tail; /* what was published when we last woke it */
	bool woken;
	bool dirty; /* something was published since the last doorbell */
	/* completions: we consume */
	const struct slot *completions; /* shared, hostile */
	uint64_t completions_peer;      /* where the host has them */
	uint32_t completion_slots;
	uint64_t head;
	struct daemon_line *daemon_line; /* shared, ours */
	/* response tokens that wait to go back */
	uint32_t tokens_first, tokens_last, tokens_n;
	uint64_t tokens_since_ns; /* 0: not yet seen by a flush */
};

struct endpoint_port {
	struct endpoint *endpoint;
	const struct geometry *geometry;
	unsigned worker;
	unsigned lanes_n;    /* host workers; lane[lanes_n] is the foreign one */
	unsigned poll_first; /* lane the next poll begins at */
	struct lane *lanes;
	struct shepherd_counters *counters;
	void *user;
	int64_t delta;
	struct shepherd_window window;        /* the host's arena */
	struct shepherd_window inline_window; /* during a callback: the slot's inline area */
	/* blocks */
	struct arena *arena;
	uint8_t *arena_mem;
	uint32_t *block_next; /* by unit: unit + 1 of the next block of the list */
	uint64_t quota_bytes;
	size_t block_max;
	/* calls and holds */
	struct call *calls;
	uint32_t calls_max, calls_free, calls_open; /* behind the calls come outs_max calls out */
	uint32_t outs_max;
	uint32_t refused_first, refused_last; /* calls out whose STATUS is due, by call.holds */
	struct hold *holds;
	uint32_t holds_max, holds_free;
	uint32_t overdue_first, overdue_last;
	uint32_t refused_hold; /* of the REFUSE being delivered: may be kept; INDEX_NONE: none */
	uint64_t release_timeout_ns;
	/* response tokens */
	struct token_node *nodes;
	uint32_t nodes_free;
	uint32_t tokens_max, tokens_out; /* out: delivered and not yet back in the ring */
	uint32_t tokens_pending;         /* of these, waiting in lanes[].tokens */
	uint64_t release_delay_ns;
	/* sleep and doorbells */
	uint32_t *sleep_word; /* shared, ours */
	uint32_t sleep_value;
	uint32_t core; /* as in struct daemon_sleep */
	int eventfd;
	bool any_dirty;
	int fault; /* 0, or the fatal code that poll reports */
	char cause[160];
	struct shepherd_counters counters_own;
};

/* Both ends of a lane may be in one process: host-lib's pump, and tests. One word has two addresses
 * there, which ThreadSanitizer takes for two words. So where a word is published to the host or
 * taken from it, the daemon's end tells it the host's address. `address` is only a name: no memory
 * is touched. */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define peer_published(address) __tsan_release((void *)(uintptr_t)(address))
#define peer_taken(address)     __tsan_acquire((void *)(uintptr_t)(address))
#else
#define peer_published(address) ((void)(address))
#define peer_taken(address)     ((void)(address))
#endif

/* Where the host has a word of the to-host segment. */
static inline uint64_t port_ours_at_host(const struct endpoint_port *p, const void *word)
{
	return (uint64_t)(uintptr_t)word + (uint64_t)p->delta;
}

/* The same of the to-daemon segment. */
static inline uint64_t port_theirs_at_host(const struct endpoint_port *p, const void *word)
{
	return (uint64_t)(uintptr_t)word - (uint64_t)(uintptr_t)p->window.mem + p->window.peer_base;
}

struct endpoint {
	uint32_t refs;
	uint32_t gone; /* SIGBUS in a segment */
	uint32_t detached;
	char name[ATTACH_NAME_MAX];
	pid_t pid;
	int pidfd;
	struct geometry geometry;
	struct geometry *shared; /* in the to-host segment */
	struct segment to_host, to_daemon;
	bool mapped;
	uint32_t methods_n;
	uint64_t *method_code, *method_data;
	bool *method_out; /* called over a channel, not served */
	struct endpoint_port **ports;
};

int port_create(struct endpoint *e, const struct endpoint_config *config, unsigned d,
		struct endpoint_port **out) SPLIT_MUST_USE;
/* Once the to-daemon segment is mapped. */
void port_map(struct endpoint_port *port, uint64_t to_host_base, uint64_t to_daemon_base);
void port_destroy(struct endpoint_port *port);

/* The host wrote nonsense: keep the first cause, end the endpoint. Returns the fatal code. */
int port_fault(struct endpoint_port *port, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* endpoint_calls.c */
struct call *call_find(struct endpoint_port *port, uint64_t call_id); /* NULL: stale */
void call_end(struct endpoint_port *port, struct call *call);
/* The place of a call out; NULL: an id that none can have. */
struct call *call_out_at(struct endpoint_port *port, uint64_t call_id);
/* Open it there; NULL: its place is taken, or there is none. */
struct call *call_out_open(struct endpoint_port *port, uint64_t call_id, uint32_t home);
/* A hold for the list of blocks, in the call's list; INDEX_NONE: none is free. */
uint32_t hold_take(struct endpoint_port *port, struct call *call, uint32_t blocks);
uint64_t hold_token(const struct endpoint_port *port, uint32_t hold);
/* The host gives a token back (checked, counted). */
void hold_release(struct endpoint_port *port, uint64_t token);
/* Take the hold apart without freeing its blocks; returns their list. */
uint32_t hold_dissolve(struct endpoint_port *port, uint32_t hold);
struct endpoint_blocks hold_blocks(struct endpoint_port *port, uint32_t hold); /* and counts them */

/* endpoint_send.c */
void blocks_free(struct endpoint_port *port, uint32_t head);
/* Say their status to the calls out that were refused, as far as rings have room. */
void refusals_publish(struct endpoint_port *port, uint64_t now_ns);
/* Slots that could be published; looks at the host's head when there seem to be none. */
uint32_t lane_room(struct endpoint_port *port, struct lane *lane);
/* Load and check the host's head. */
void lane_head_load(struct endpoint_port *port, struct lane *lane);
int futex_wake_shared(uint32_t *word);

/* ---- the host's side: what attachment.c and host.c share */

/* Per host worker. */
struct host_worker {
	uint32_t kick; /* private futex word: raised by host_kick */
	uint32_t kick_seen;
	struct control_line *control; /* shared, ours */
	const struct host_wake *wake; /* shared, the daemon's */
} cache_aligned;

struct attachment {
	struct attachment_life life; /* first: host_lane.h looks at it */
	int fd;
	struct geometry geometry;
	struct segment to_host, to_daemon;
	struct host_lane *lanes; /* as in layout.h: pairs, then foreign ones */
	struct host_peer *peers;
	struct host_worker *workers;
};

static_assert(offsetof(struct attachment, life) == 0, "attachment_alive");

/* Lanes, peers and workers over the two mapped segments. */
int attachment_wire(struct attachment *a, const int *eventfds) SPLIT_MUST_USE;

#endif
