/* A lean gRPC client over HTTP/2: as little work for a call as a load generator can do and still
 * know that the answer is right.
 *
 * A call has one message each way, or several: all at once (client and server streaming), or each
 * when the last was answered (both ways).
 *
 * Requests are written from templates: the header block is encoded once (its strings go into the
 * server's HPACK table with a connection's first call, later calls are seven indexed fields), the
 * message once, but for eight bytes that number the call. Answers are checked whole: every byte of
 * the message, :status 200, grpc-status 0, END_STREAM, and nothing more. Header blocks go through
 * nghttp2's inflater, but for those that are byte for byte the last good one and made of indexed
 * fields only, which can mean nothing else.
 *
 * Knows SETTINGS, PING, WINDOW_UPDATE, RST_STREAM, GOAWAY and CONTINUATION; a server that sends
 * padding or pushes has its connection given up.
 *
 * Thread rule: one thread for all that shares an h2_template.
 */
#ifndef SPLITD_BENCH_H2_H
#define SPLITD_BENCH_H2_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/list.h"

struct h2_call;
struct h2_conn;

/* What all calls of a run have in common. */
struct h2_template {
	uint8_t first[512]; /* header block of a connection's first call */
	uint8_t next[32];   /* of the others */
	uint8_t plain[512]; /* when the server wants no HPACK table */
	uint32_t first_n, next_n, plain_n;
	struct h2_message {
		uint8_t *bytes; /* five-byte prefix and message */
		uint32_t n;
		uint32_t serial_at; /* eight bytes here number the call; 0: it is too small */
	} request, reply;
	uint32_t requests, replies; /* messages of a call each way */
	bool in_turns;              /* a request waits for the reply to the last */
	/* The call is over; `ok` false: wrong, reset, or lost. Runs inside h2_input and h2_fail;
	 * may start another on the connection. */
	void (*done)(void *ctx, struct h2_conn *conn, struct h2_call *call, bool ok);
	void *ctx;
};

enum h2_kind { H2_UNARY, H2_CLIENT, H2_SERVER, H2_BIDI };

/* `/path`, EchoMessage{payload: size bytes}; a method of examples/echo of that kind, `messages` of
 * them where it streams. 0 or -SPLIT_E_BASE_NOMEM. */
int h2_template_init(struct h2_template *t, const char *path, const char *authority,
		     enum h2_kind kind, uint32_t messages, uint32_t size) SPLIT_MUST_USE;
/* The same of any unary method: `request` and `reply` with their prefixes, as they are to be sent
 * and to come; the template's from here on, to be freed by h2_template_fini (also on failure). */
int h2_template_init_bytes(struct h2_template *t, const char *path, const char *authority,
			   uint8_t *request, size_t request_bytes, uint8_t *reply,
			   size_t reply_bytes) SPLIT_MUST_USE;
void h2_template_fini(struct h2_template *t);

struct h2_call {
	struct list link;  /* conn.free, conn.sending or conn.waiting */
	uint64_t begin_ns; /* the caller's: what latency counts from */
	uint64_t serial;
	uint32_t stream;    /* 0: free */
	uint64_t sent, got; /* bytes of all messages */
	int64_t window;
	uint64_t consumed; /* DATA bytes since the last WINDOW_UPDATE */
	bool headers, status_ok, bad;
};

struct h2_conn {
	const struct h2_template *t;
	void *user;
	struct h2_call *calls;
	uint32_t calls_n, open;     /* slots; calls under way */
	struct h2_call **by_stream; /* [stream / 2 & map_mask] */
	uint32_t map_mask;
	struct list free, sending;
	uint32_t next_stream;
	uint64_t serial;
	bool ready;  /* the server's SETTINGS are there: calls may start */
	bool failed; /* nothing goes any more */
	bool first_out;
	const char *why; /* failed: one line */

	/* Out: whole frames, a prefix of which was taken by the link. */
	uint8_t *out;
	size_t out_n, out_at, out_max;
	int64_t window; /* the connection's */
	int64_t window_initial;
	uint32_t frame_max, streams_max;
	bool no_table;

	/* In: a frame header, then the payload of anything but DATA. */
	uint8_t head[9];
	uint32_t head_n;
	uint32_t left; /* of the payload */
	uint8_t type, flags;
	uint32_t stream;
	uint8_t *in;
	uint32_t in_n;
	uint32_t block_stream; /* a header block goes on in CONTINUATION */
	uint8_t block_flags;
	uint64_t consumed; /* DATA bytes since the last WINDOW_UPDATE */

	nghttp2_hd_inflater *inflater;
	/* The last good blocks made of indexed fields only: 0 headers, 1 trailers. */
	struct {
		uint8_t bytes[64];
		uint32_t n;
	} known[2];
};

/* 0 or -SPLIT_E_BASE_NOMEM; nothing is left to free then. Queues preface and SETTINGS. */
int h2_conn_init(struct h2_conn *c, const struct h2_template *t, uint32_t streams,
		 void *user) SPLIT_MUST_USE;
void h2_conn_fini(struct h2_conn *c);

/* Whether h2_start would take a call now. */
static inline bool h2_room(const struct h2_conn *c)
{
	return c->ready && !c->failed && c->open < c->streams_max && !list_empty(&c->free) &&
	       c->next_stream < 0x7fffff00;
}
/* Begin a call; h2_room() holds. */
void h2_start(struct h2_conn *c, uint64_t begin_ns);

/* Bytes that arrived. Failures set conn.failed and end every call. */
void h2_input(struct h2_conn *c, const uint8_t *bytes, size_t n);
/* What is to be sent; h2_output_taken says how much was. More may follow. */
const uint8_t *h2_output(struct h2_conn *c, size_t *n_out);
void h2_output_taken(struct h2_conn *c, size_t n);
/* The connection is lost: every call under way ends badly. */
void h2_fail(struct h2_conn *c, const char *why);

#endif
