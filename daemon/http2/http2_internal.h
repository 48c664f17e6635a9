/* Inside of daemon/http2: the nghttp2 engine. Nothing here is seen by another folder. */
#ifndef SPLITD_DAEMON_HTTP2_INTERNAL_H
#define SPLITD_DAEMON_HTTP2_INTERNAL_H

#include <nghttp2/nghttp2.h>

#include "base/bits.h"
#include "base/list.h"
#include "base/poison.h"
#include "base/pool.h"
#include "daemon/http2/http2.h"

/* --- memory (http2_memory.c) ---------------------------------------------------------------- */

#define MEMORY_PAGE_SHIFT 13
#define MEMORY_PAGE       (1u << MEMORY_PAGE_SHIFT)
#define MEMORY_ORDERS     6 /* runs of 1..32 pages: 8..256 KiB */
#define MEMORY_CLASSES    14
#define MEMORY_BYTES_MAX  ((size_t)MEMORY_PAGE << (MEMORY_ORDERS - 1))
#define MEMORY_SMALL      1024
#define MEMORY_CACHE      16 /* objects of a class given back last: what a call takes */

struct memory_page {
	uint64_t free_bits[4]; /* slab: one bit for each free object */
	uint32_t prev, next;   /* free list of its order, or partial list of its class */
	uint16_t used;         /* slab: objects out */
	uint16_t pages;        /* head of a run: its length */
	uint8_t state;
	uint8_t order; /* free block: its order */
	uint8_t class; /* slab: its class */
};

struct memory_cache {
	uint32_t n;
	uint8_t *object[MEMORY_CACHE];
};

/* The engine's memory: one mapping, pages handed out by a buddy system, small objects from pages of
 * one size class each. What a class gives back in whole pages serves every other class again; the
 * few objects in `cache` do so before anybody is refused. */
struct http2_memory {
	uint8_t *base;
	struct memory_page *page;
	uint32_t pages;
	uint32_t free_head[MEMORY_ORDERS];
	uint32_t partial[MEMORY_CLASSES];
	struct memory_cache cache[MEMORY_CLASSES];
	size_t used;
};

int http2_memory_init(struct http2_memory *m, size_t bytes);
void http2_memory_fini(struct http2_memory *m);
/* NULL when there is none or for 0 or more than MEMORY_BYTES_MAX bytes. 16-byte aligned. *taken_out
 * and the result of put: what the block really takes. */
void *http2_memory_get(struct http2_memory *m, size_t bytes, size_t *taken_out);
size_t http2_memory_put(struct http2_memory *m, void *p);
/* Bytes of an object of each class; class by size in units of 16, up to MEMORY_SMALL. */
extern const uint16_t http2_memory_class_bytes[MEMORY_CLASSES];
extern const uint8_t http2_memory_class_small[MEMORY_SMALL / 16 + 1];

/* What nghttp2 does a dozen times a call: an object given back lately, of up to MEMORY_SMALL bytes.
 * NULL: ask http2_memory_get. */
static inline void *http2_memory_get_cached(struct http2_memory *m, size_t bytes, size_t *taken_out)
{
	unsigned class;
	struct memory_cache *c;
	uint8_t *object;

	if (unlikely(bytes > MEMORY_SMALL || bytes == 0))
		return NULL;
	class = http2_memory_class_small[(bytes + 15) >> 4];
	c = &m->cache[class];
	if (unlikely(c->n == 0))
		return NULL;
	object = c->object[--c->n];
	*taken_out = http2_memory_class_bytes[class];
	m->used += *taken_out;
	unpoison_region(object, bytes);
	return object;
}
/* The same for a block that stays. */
size_t http2_memory_size(const struct http2_memory *m, const void *p);

/* What one session may have of it, and has. */
struct http2_pocket {
	struct http2_memory *memory;
	size_t used, max;
	uint64_t *refused; /* counts what was over the limit, or found no room */
};
/* nghttp2's allocation functions upon it; it must outlive the session. */
nghttp2_mem http2_pocket_mem(struct http2_pocket *pocket);

/* --- floods (http2_flood.c) ------------------------------------------------------------------- */

enum flood_kind {
	FLOOD_RESETS,
	FLOOD_PINGS,
	FLOOD_SETTINGS,
	FLOOD_EMPTY,
	FLOOD_WINDOWS,
	FLOOD_KINDS
};

struct flood_level {
	int64_t left;
	uint64_t refilled_ns;
};

/* --- the scanner (http2_scan.c) -----------------------------------------------------------------
 */

/* Streams remembered after their end: enough for what a peer has on the way when we end one. */
#define SCAN_CLOSED 64

struct scan {
	uint32_t skip; /* bytes until the next frame header: of the preface, then of a payload */
	uint8_t head[9];
	uint8_t head_len;  /* of a header that is cut off: so many bytes wait here, not fed yet */
	uint8_t leave_out; /* bytes that nghttp2 does not get */
	uint8_t priority_wanted; /* bytes of a PRIORITY's dependency still to come */
	uint8_t priority[4];
	bool stop;              /* feed nghttp2 up to the end of this frame before going on */
	bool pad_wanted;        /* the first byte of a DATA frame's payload: its padding */
	bool list_open;         /* a header list whose CONTINUATIONs are still to come */
	uint64_t since_ns;      /* when the frame or list that comes now began */
	uint32_t continuations; /* of this header list */
	uint32_t headers_max;   /* highest identifier in a HEADERS frame */
	uint32_t closed_next;
	uint32_t closed[SCAN_CLOSED]; /* identifier << 1 | ended by us */
};

/* --- engine, session, stream ------------------------------------------------------------------ */

struct http2_engine {
	struct http2_config config;
	const struct http2_events *events;
	nghttp2_session_callbacks *callbacks;
	nghttp2_option *option;
	struct http2_memory memory;
	struct pool sessions;
	struct pool streams;
	/* The header list being received. Lists never interleave within a session (RFC 9113 s4.3),
	 * and a list that a recv leaves unfinished moves to its session (header_spill). */
	struct http2_header *fields;
	uint8_t *field_tokens;
	nghttp2_rcbuf **fields_held; /* two for each field that no memo holds */
	struct http2_counters counters;
};

/* A frame body that is being written when the room ends. */
struct send_data {
	struct http2_stream *stream; /* NULL: it was reset meanwhile, zeros complete its frame */
	uint8_t head[9];
	uint8_t head_done;
	bool open;
	uint32_t left;
	uint32_t length;
};

/* Fields of the last header list that a session remembers (http2_fields.c). A power of two. */
#define FIELDS_MEMO 16

struct field_memo {
	nghttp2_rcbuf *name, *value; /* a reference to each; NULL: nothing here */
	struct http2_header field;
	uint8_t token;
};

struct http2_session {
	nghttp2_session *ng;
	struct http2_engine *engine;
	struct http2_out out;
	void *user;
	struct list streams;
	unsigned streams_open;
	int error; /* fatal error found, 0 while good */
	uint64_t now_ns;
	struct http2_pocket pocket;

	/* The header list in progress: in the engine's arrays while recv runs, in `spill` between.
	 */
	struct http2_stream *header_stream;
	uint8_t *spill;
	uint32_t fields;
	uint32_t held; /* entries of fields_held */
	uint32_t field_bytes;
	uint32_t fields_seen;
	uint32_t fields_known; /* of these, how many stand in the memo, at the same place */
	bool fields_bad;
	uint32_t last_stream_id;
	uint32_t memo_fields; /* the memo is a whole, valid list of so many; 0: it is not */
	int64_t memo_length;  /* its content-length, or -1 */
	struct field_memo memo[FIELDS_MEMO];

	/* While a SETTINGS frame comes in: see on_begin_frame. */
	int32_t peer_window;
	uint32_t peer_window_initial;

	/* Output. */
	const uint8_t *pending; /* rest of a frame, valid until the next nghttp2_session_mem_send */
	size_t pending_len;
	struct send_data data;
	uint64_t
		window_unseen; /* of the connection's window: taken by frames that nghttp2 forgot */
	bool window_waits;     /* a stream waits for that window, unknown to nghttp2 */
	uint8_t *room;
	size_t room_left;
	size_t room_used;
	size_t sent;
	bool in_io;
	bool wanted_told;
	bool blocked;
	bool started;  /* the first bytes were received */
	bool finished; /* the last output after an error is written */
	bool draining; /* the first GOAWAY of two is out, its PING not answered */

	/* http2_ping.c */
	uint64_t ping_last_ns; /* the peer's last PING; 0: none since we sent an answer */
	uint32_t ping_strikes;
	uint32_t window_stream, window_connection; /* as they stand */
	uint64_t bdp_bytes, bdp_next_ns;
	bool bdp_pinged;
	bool goaway_text, goaway_out; /* the GOAWAY with a text is submitted; is out */

	struct scan scan;
	struct flood_level flood[FLOOD_KINDS];
	struct http2_stream *last_found;
};

enum {
	STREAM_ANNOUNCED = 0x01, /* events.headers was called */
	STREAM_OVER = 0x02,
	STREAM_END_RECEIVED = 0x04,
	STREAM_RESPONDED = 0x08,
	STREAM_BODY = 0x10,
	STREAM_TRAILERS = 0x20,
	STREAM_PEER_RESET = 0x40,
	STREAM_WAITING = 0x80, /* body_next said 0 */
	STREAM_RESET = 0x100,  /* our RST_STREAM is due */
};

struct http2_stream {
	struct list link;
	struct http2_session *session;
	uint32_t id;
	uint32_t flags;
	uint32_t consumed; /* not yet told to nghttp2 */
	uint32_t reset_code;
	int64_t body_left; /* of the content-length; -1: none was given */
	_Alignas(16) uint8_t user[];
};

/* Sent behind the first GOAWAY of a graceful end; its answer says that the peer has seen that. */
extern const uint8_t http2_drain_ping[8];

/* http2_send.c */
ssize_t http2_send_body_next(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t length,
			     uint32_t *flags, nghttp2_data_source *source, void *user);
int http2_send_data(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *head, size_t length,
		    nghttp2_data_source *source, void *user);
int http2_send_frame_done(nghttp2_session *ng, const nghttp2_frame *frame, void *user);
int http2_send_frame_refused(nghttp2_session *ng, const nghttp2_frame *frame, int error,
			     void *user);
/* Tell the owner that output became due, unless recv or send is running and will see it. */
/* The stream whose DATA frame is being written is gone, and nghttp2 forgets the frame. */
void http2_send_forget(struct http2_session *s);
/* The peer has widened the connection's window. */
void http2_send_window_grown(struct http2_session *s);
void http2_send_wanted(struct http2_session *s);

/* http2_fields.c. One field of the list that comes in; a list's end: whether it is a well-formed
 * request (RFC 9113 s8.2, s8.3), and its content-length or -1. Trailers are well-formed unless
 * s->fields_bad. */
int http2_fields_add(nghttp2_session *ng, const nghttp2_frame *frame, nghttp2_rcbuf *name,
		     nghttp2_rcbuf *value, uint8_t flags, void *user);
bool http2_fields_valid(struct http2_session *s, int64_t *length_out);
/* The list was used. The session ends. */
void http2_fields_drop(struct http2_session *s);
void http2_fields_fini(struct http2_session *s);
/* http2_flood.c. Begin the budgets at now_ns. Spend one of `kind`; when it is spent out the session
 * ends with ENHANCE_YOUR_CALM. */
void http2_flood_init(struct http2_session *s);
void http2_flood_exceeded(struct http2_session *s, enum flood_kind kind);
void http2_flood_spend(struct http2_session *s, enum flood_kind kind);
void http2_flood_earn(struct http2_session *s, enum flood_kind kind, uint32_t n);
/* http2_scan.c. Look at the next bytes of the input; returns how many of them to feed to nghttp2
 * before scanning goes on (all of them, most times). Finds errors: see s->error. */
void http2_scan_init(struct http2_session *s);
size_t http2_scan(struct http2_session *s, const uint8_t *p, size_t n);
/* While scan.head_len > 0: take what is missing of a frame's header; returns how much that was.
 * When it is whole and nghttp2 is to get it, it stands in scan.head. */
size_t http2_scan_rest(struct http2_session *s, const uint8_t *p, size_t n, bool *whole_out);
void http2_scan_stream_closed(struct http2_session *s, uint32_t id, bool by_us);
/* End the session with a GOAWAY of `code`; `error` (negative, fatal) is what recv and send return.
 */
void http2_session_fail(struct http2_session *s, uint32_t code, int error);
void http2_session_fail_text(struct http2_session *s, uint32_t code, int error, const char *text);

/* http2_ping.c. The peer's PING; its answer to one of ours (true: to the one behind a GOAWAY). */
void http2_ping_received(struct http2_session *s);
bool http2_ping_answered(struct http2_session *s, const uint8_t *data);
/* Body bytes came, and the windows may still grow. */
void http2_bdp_data(struct http2_session *s, size_t n);

#endif
