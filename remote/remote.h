/* Remote: what goes over a stream between splitd and a host on another machine.
 *
 *   stream   TCP, or TLS over it, never blocking
 *   link     frames in and out of a stream, the two windows, the pulse
 *   frame    what frames say: greeting, slots with their messages and metadata
 *
 * Both ends link it: daemon/relay/, which is a host towards splitd's workers, and host-lib, whose
 * pump is splitd towards its own. docs/SOCKET.md is the format's prose. All that arrives is
 * hostile: it is checked here, and messages by relocate_in.
 *
 * Threads: a link and all that belongs to it is one thread's. Little endian, 64 bits, as
 * linearize's messages are.
 */
#ifndef SPLITD_REMOTE_REMOTE_H
#define SPLITD_REMOTE_REMOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "linearize/linearize.h"
#include "shepherd/shepherd.h"

#define REMOTE_VERSION 1
#define REMOTE_MAGIC   0x4f4d4552u /* "REMO" */

/* Bounds. */
#define REMOTE_METADATA_MAX   (64u << 10) /* metadata, identity and text of one slot, together */
#define REMOTE_METADATA_ITEMS 1024u
#define REMOTE_WINDOW_MIN     (256u << 10)
#define REMOTE_WINDOW_MAX     (1u << 30)
#define REMOTE_HELLO_MAX      (ATTACH_BLOB_MAX + 4096)
#define REMOTE_CHARGE_MIN     256u /* what a frame costs of the window at least */

/* ------------------------------------------------------------------ TLS */

/* Mutual: each side shows a certificate and checks the other's. */
struct remote_tls_files {
	const char *cert, *key; /* PEM files */
	const char *ca;         /* of the authorities that the peer's certificate is from */
	const char *name;       /* client: that the server's certificate is for; NULL: not asked */
};

struct remote_tls;
/* `why` gets a line for a person. 0, -SPLIT_E_TLS_CONFIG, -SPLIT_E_BASE_NOMEM. */
int remote_tls_create(bool server, const struct remote_tls_files *files, struct remote_tls **out,
		      char *why, size_t why_bytes) SPLIT_MUST_USE;
void remote_tls_destroy(struct remote_tls *tls); /* after its links; NULL is fine */

/* ------------------------------------------------------------------ link */

enum remote_type {
	REMOTE_HELLO = 1,   /* host → splitd: struct remote_hello, blob */
	REMOTE_WELCOME = 2, /* splitd → host: struct remote_welcome; calls may follow */
	REMOTE_REFUSED = 3, /* splitd → host: struct remote_refused; then it closes */
	REMOTE_SLOT = 4,    /* both ways: struct remote_slot, message, metadata, identity, text */
	REMOTE_WINDOW = 5,  /* both ways: struct remote_window */
	REMOTE_LEAVING = 6, /* host → splitd: no more calls, please */
	REMOTE_DRAINED = 7, /* splitd → host: nothing is left */
	REMOTE_PULSE = 8,   /* both ways: I am here; an asking one is answered by another */
	REMOTE_GOODBYE = 9, /* both ways: orderly end */
	REMOTE_TYPES,
};

/* Starts each frame. */
struct remote_head {
	uint32_t bytes; /* of the whole frame; a multiple of 8 */
	uint8_t type;
	uint8_t flags; /* PULSE: 1 asks for one back; else 0 */
	uint16_t zero;
};

struct remote_frame {
	enum remote_type type;
	uint8_t flags;
	const uint8_t *body; /* 8-byte aligned; until the next link_frame or link_read */
	size_t bytes;
};

struct remote_link;

/* Over a connected socket, which it owns from here on, also on failure; sets its options. `tls`
 * NULL: none. */
int link_create(int fd, struct remote_tls *tls, bool server,
		struct remote_link **out) SPLIT_MUST_USE;
/* Closes the socket. NULL is fine. */
void link_destroy(struct remote_link *link);
/* Why the link is of no use any more, one line; "" while it is well. */
const char *link_cause(const struct remote_link *link);
/* The same as a negative code; 0. */
int link_fault(const struct remote_link *link);
int link_fd(const struct remote_link *link);
/* Frames of more bytes than this are refused; REMOTE_HELLO_MAX at first. */
void link_frame_max_set(struct remote_link *link, size_t bytes);

/* Take in what is there. 1: something was; 0: nothing; negative: the end, cause set. After writing
 * has failed, what had come before can still be read. */
int link_read(struct remote_link *link, uint64_t now_ns) SPLIT_MUST_USE;
/* For a loop that serves the link beside its rings. link_read where something may be there, as far
 * as link_polled, link_goes_on and the last read have said; else 0. */
int link_read_seen(struct remote_link *link, uint64_t now_ns) SPLIT_MUST_USE;
/* At a turn's end, whether it found something: true: begin the next one at once, without poll. */
bool link_goes_on(struct remote_link *link, bool busy);
/* The next link_goes_on says false, whatever the turn found. */
void link_poll_next(struct remote_link *link);
/* What poll has said of link_fd. */
void link_polled(struct remote_link *link, short revents);
/* The next whole frame: 1; 0: it is not here yet; -SPLIT_E_REMOTE_FRAME. */
int link_frame(struct remote_link *link, struct remote_frame *out) SPLIT_MUST_USE;
/* Room for a frame with so many bytes of body (rounded up to 8, the last zeroed): where the body
 * is to be written, until the next call of the link. NULL: no memory, cause set. */
uint8_t *link_put(struct remote_link *link, enum remote_type type, size_t body_bytes);
/* The frame put last is not to be sent after all. */
void link_take_back(struct remote_link *link);
/* A frame whose body is all here. */
int link_say(struct remote_link *link, enum remote_type type, const void *body, size_t bytes);
/* Send what can be sent. 1: more waits for the socket; 0: all is out; negative: the end. */
int link_flush(struct remote_link *link) SPLIT_MUST_USE;
/* Bytes put and not sent yet. */
size_t link_backlog(const struct remote_link *link);
/* What poll shall wait for. */
short link_events(const struct remote_link *link);
/* Say something where nothing was put for a third of `timeout_ns`, ask for a pulse where nothing
 * was heard for as long, and give up after the whole of it. Call it at least as often as *next_ns,
 * the time of the next look, says. 0 or negative: the end, -SPLIT_E_REMOTE_SILENT. */
int link_pulse(struct remote_link *link, uint64_t now_ns, uint64_t timeout_ns,
	       uint64_t *next_ns) SPLIT_MUST_USE;
/* Silence counts from now on: before, the peer had nothing to say and was asked for nothing. */
void link_silence_begin(struct remote_link *link, uint64_t now_ns);
/* Answer an asking PULSE. */
int link_pulse_answer(struct remote_link *link, const struct remote_frame *frame) SPLIT_MUST_USE;
/* Blocking, for the greeting: send all; the TLS handshake; one frame of `type` (or REFUSED, 1).
 * 0, or negative with cause set. `stop_fd` readable ends it; -1: none. */
int link_wait_sent(struct remote_link *link, uint64_t until_ns, int stop_fd) SPLIT_MUST_USE;
int link_wait_secure(struct remote_link *link, uint64_t until_ns, int stop_fd) SPLIT_MUST_USE;
int link_wait_frame(struct remote_link *link, enum remote_type type, uint64_t until_ns, int stop_fd,
		    struct remote_frame *out) SPLIT_MUST_USE;
/* Alternative names of the peer's certificate, "DNS:..." and "URI:...", one after the other, each
 * with its NUL, and an empty one at the end; only that without TLS. Names that do not fit, or that
 * have other characters than printable ASCII, are left out. */
void link_peer_names(const struct remote_link *link, char *buf, size_t bytes);

/* "tcp://host:port", "tcp://[v6]:port". Whether `path` is one; connect to it. fd, or negative with
 * `why` filled. Blocks at most timeout_ms. */
bool remote_is_address(const char *path);
int remote_connect(const char *path, int timeout_ms, char *host, size_t host_bytes, char *why,
		   size_t why_bytes) SPLIT_MUST_USE;

/* ------------------------------------------------------------------ greeting */

struct remote_hello {
	uint32_t magic;
	uint16_t version;
	uint16_t layout; /* 1: little endian, 64 bits */
	uint32_t workers;
	uint32_t blob_bytes; /* follows: as at an attach, code, data and addresses 0 */
	uint64_t window;     /* bytes of slots that splitd may send before it hears WINDOW */
	char name[ATTACH_NAME_MAX];
};

struct remote_welcome {
	uint32_t magic;
	uint16_t version;
	uint16_t zero;
	uint32_t daemon_workers;
	uint32_t calls_max;     /* by daemon worker */
	uint32_t tokens_max;    /* the same */
	uint32_t outs_max;      /* the same */
	uint32_t stream_window; /* messages of a call that may be out at its beginning */
	uint32_t zero2;
	uint64_t window; /* bytes of slots that the host may send before it hears WINDOW */
	uint64_t timeout_ns;
};

struct remote_refused {
	int32_t code;
	uint32_t zero;
	char text[ATTACH_TEXT_MAX];
};

struct remote_window {
	uint64_t bytes; /* more, from now on */
};

/* Copies and checks. `blob_out` points into the frame. 0, -SPLIT_E_SHEPHERD_ATTACH_VERSION,
 * _LAYOUT, _MALFORMED. */
int remote_hello_parse(const struct remote_frame *frame, struct remote_hello *out,
		       const uint8_t **blob_out) SPLIT_MUST_USE;
int remote_welcome_parse(const struct remote_frame *frame,
			 struct remote_welcome *out) SPLIT_MUST_USE;
int remote_refused_parse(const struct remote_frame *frame,
			 struct remote_refused *out) SPLIT_MUST_USE;
int remote_window_parse(const struct remote_frame *frame, uint64_t *bytes_out) SPLIT_MUST_USE;

/* ------------------------------------------------------------------ slots */

/* What a slot of shared memory says (docs/SHARED-MEMORY.md), without addresses. */
struct remote_slot {
	uint8_t kind, flags; /* SLOT_END_STREAM, _HAS_STATUS, _HAS_MESSAGE, _COMPRESSED */
	uint16_t peer_port;
	uint32_t method; /* index in HELLO's table */
	uint64_t call_id;
	uint32_t msg_seq;
	uint32_t status;
	uint64_t deadline_left_ns; /* from now; 0: none */
	uint64_t info;             /* as of the kind, tokens excepted */
	uint32_t message_bytes;    /* each part is followed by zeroes up to a multiple of 8 */
	uint32_t metadata_bytes;
	uint32_t identity_bytes;
	uint32_t text_bytes;
	uint8_t peer_family, peer_flags;
	uint8_t zero[6];
	uint8_t peer_address[16];
};

_Static_assert(sizeof(struct remote_head) == 8 && sizeof(struct remote_slot) == 80, "version 1");
_Static_assert(sizeof(struct remote_hello) == 24 + ATTACH_NAME_MAX, "version 1");
_Static_assert(sizeof(struct remote_welcome) == 48, "version 1");

/* A slot that has arrived, its parts in the frame. */
struct remote_arrival {
	struct remote_slot slot;
	const uint8_t *message, *metadata, *identity, *text;
	size_t room; /* bytes that remote_land needs; 0: none */
};

/* Check the form: lengths, kind and flags for the direction, metadata. 0 or -SPLIT_E_REMOTE_FRAME.
 */
int remote_slot_parse(const struct remote_frame *frame, bool to_host,
		      struct remote_arrival *out) SPLIT_MUST_USE;

/* Where the parts of an arrival lie for their receiver; 0: no such part. */
struct remote_landed {
	uint64_t message, metadata, identity, text;
};

/* Lay the parts down at `mem` (16-byte aligned, arrival->room bytes), for a receiver that has it
 * at + delta, and relocate the message, of type `m`. 0 or a negative code of relocate_in. */
int remote_land(const struct remote_arrival *arrival, const struct schema_message *m, uint8_t *mem,
		int64_t delta, struct remote_landed *out) SPLIT_MUST_USE;

/* CANCEL, WRITABLE, CREDIT, WANT, REFUSE, ABANDON: they cost nothing of the window and wait for
 * none, since what frees the window may wait for them. They have no parts. */
bool remote_slot_is_free(const struct remote_slot *slot);
/* What a slot costs of the window. At least what arena blocks its parts take at the receiver. */
uint64_t remote_charge(const struct remote_slot *slot);

/* A slot that is to go out. The sender fills in `slot` (but for lengths) and what the addresses
 * are. */
struct remote_item {
	struct remote_item *next;
	struct remote_slot slot;
	const struct schema_message *type; /* NULL: no message */
	struct linear_source source;
	uint64_t root;
	const struct metadata_block *metadata, *identity; /* this process's; NULL: none */
	const char *text;
	uint32_t text_bytes;
	bool measured;
	/* The sender's own. */
	uint64_t deadline_ns; /* 0: none */
	uint64_t token;
	bool has_token;
	unsigned d, lane;
	void *kept; /* copies of metadata and text; free()d with the item */
	uint64_t area[SLOT_INLINE_BYTES / 8] __attribute__((aligned(16)));
};

/* Fill in the lengths. 0; or negative: the message or metadata cannot be sent
 * (-SPLIT_E_LINEARIZE_*, -SPLIT_E_BASE_LIMIT). */
int remote_item_measure(struct remote_item *item, uint64_t message_max) SPLIT_MUST_USE;
/* Into the link. 0 or negative. */
int remote_item_put(struct remote_link *link, struct remote_item *item,
		    uint64_t now_ns) SPLIT_MUST_USE;

/* Items that wait, and a store of unused ones. */
struct remote_queue {
	struct remote_item *first, *last;
	size_t n;
	struct remote_item *unused;
};
struct remote_item *remote_item_get(struct remote_queue *q); /* zeroed; NULL: no memory */
/* Have metadata and text copied, since where they lie does not last. False: no memory. */
bool remote_item_keep(struct remote_item *item);
void remote_item_free(struct remote_queue *q, struct remote_item *item);
void remote_queue_add(struct remote_queue *q, struct remote_item *item);
struct remote_item *remote_queue_take(struct remote_queue *q);
void remote_queue_put_back(struct remote_queue *q, struct remote_item *item); /* at the front */
/* Whether the item that opens the call waits in it. */
bool remote_queue_opens(const struct remote_queue *q, uint64_t call_id);
void remote_queue_fini(struct remote_queue *q);

/* Windows of one direction. The sender: `left`. The receiver: what it has taken and not given back
 * again. */
struct remote_flow {
	uint64_t left;        /* we may send */
	uint64_t peer_window; /* what the other side's was to begin with */
	uint64_t taken;       /* of ours, by the peer, and not given back */
	uint64_t window;      /* ours, whole */
};
/* A message of more cannot be sent at all. */
uint64_t remote_message_max(uint64_t window);
/* The peer has sent a slot. -SPLIT_E_REMOTE_FRAME: more than it may. */
int remote_flow_take(struct remote_flow *flow, const struct remote_slot *slot) SPLIT_MUST_USE;
/* Send an item: 0 sent and charged; 1: it must wait, for the window or for the link (free slots
 * wait for neither); negative: it can never go, or changed meanwhile. */
int remote_item_send(struct remote_flow *flow, struct remote_link *link, struct remote_item *item,
		     uint64_t now_ns) SPLIT_MUST_USE;
/* The status that ends a call whose item failed with `rc`: RESOURCE_EXHAUSTED where none fits. */
uint32_t remote_item_status(int rc);
/* Its line of text: `large` where that is what it is, else what `rc` says. */
const char *remote_item_text(int rc, const char *large);
/* Give back what is not in use any more, when that is worth a frame. */
int remote_flow_give(struct remote_flow *flow, struct remote_link *link,
		     uint64_t used) SPLIT_MUST_USE;

#endif
