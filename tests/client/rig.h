/* A client over in-process byte pipes, and servers that do as they are told: HTTP/2 by our own
 * server sessions, gRPC by hand. Time is virtual. */
#ifndef SPLITD_TESTS_CLIENT_RIG_H
#define SPLITD_TESTS_CLIENT_RIG_H

#include <check.h>
#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/wheel.h"
#include "daemon/client/client.h"
#include "daemon/http2/http2.h"
#include "daemon/http2/http2_client.h"

#define SERVERS    4
#define SESSIONS   64
#define CALLS      256
#define PIPE_BYTES (8u << 20)
#define MS         CLOCK_NS_PER_MS
#define SEC        CLOCK_NS_PER_SEC

/* ---- servers ----------------------------------------------------------------------------------
 */

enum server_mode { SERVER_OK, SERVER_REFUSES, SERVER_SILENT, SERVER_RAW };

/* A request at a server. */
struct request {
	struct http2_stream *stream;
	struct server *server;
	char path[64], timeout[16], previous[4], accept[64], md[128], authority[64], agent[64];
	uint8_t body[1 << 16];
	size_t body_n;
	bool end, closed;
	uint32_t closed_code;
	/* What is to be sent. */
	uint8_t out[1 << 17];
	size_t out_n, out_at;
	bool ending;
	char status[4], message[64], pushback[16];
	bool answered;
};

struct server {
	enum server_mode mode;
	unsigned accepted, connections_n;
	unsigned requests_n; /* all that came */
	unsigned watches_n;  /* health ones */
	bool hold;           /* requests are left alone */
	bool no_health;      /* UNIMPLEMENTED */
	uint8_t health;      /* what a watch is told */
	struct request *watch;
	/* What the next requests get, first come first served; then OK with the body echoed. */
	struct script {
		const char *status;   /* trailers-only with it */
		const char *pushback; /* grpc-retry-pushback-ms */
		uint32_t reset;       /* RST_STREAM with this code + 1 */
		bool close;           /* the connection is cut */
		bool headers_first;   /* then the status */
		const char *http;     /* an HTTP answer with this :status */
	} script[64];
	unsigned script_n, script_at;
	struct request *requests[CALLS];
};
extern struct server servers[SERVERS];

/* Helpers for requests that were held. */
void server_headers(struct request *r, const struct http2_header *more, size_t n);
void server_message(struct request *r, const void *p, size_t n, bool compressed);
void server_status(struct request *r, const char *status, const char *message);
void server_goaway(struct server *s, bool graceful, uint32_t code);
/* Cut all connections of it. */
void server_cut(struct server *s);
/* Bytes as they are to all of its connections (mode RAW or not). */
void server_raw(struct server *s, const void *p, size_t n);
/* Its connections say nothing any more, nor do they listen. */
void rig_silence(struct server *s);
/* The last request that came. */
struct request *server_last(struct server *s);

/* ---- the client -------------------------------------------------------------------------------
 */

struct call {
	struct client_call *client;
	unsigned headers_n, messages_n, statuses_n, writables_n, released_n;
	char md[256], trailers[256], text[128];
	uint8_t body[1 << 17];
	size_t body_n;
	uint32_t status;
	bool by_peer;
	bool no_room; /* reserve says SPLIT_AGAIN */
	uint8_t *room;
	struct client_message message[8];
	struct iovec iov[8][2];
	unsigned sent_n;
	bool cancel_in_headers, again_in_status;
};
extern struct client *client;
extern unsigned call_channel; /* where calls go; 0 at first */
extern struct client_channel_config channel;
extern struct client_config config;
extern struct wheel wheel;
extern uint64_t now_ns;

/* `channel` and `config` are at their defaults with one server; change, then rig_begin. */
void rig_setup(void);
void rig_teardown(void);
void rig_begin(unsigned servers_n);
/* Everything that can happen without time going by; then time goes by. */
void rig_turn(void);
void rig_advance(uint64_t ns);

struct call *call_new(enum grpc_kind kind, uint64_t timeout_ns, bool wait_for_ready);
struct call *call_unary(const char *message); /* started, sent, not run */
int call_send(struct call *c, const void *p, size_t n);
uint64_t counter_of(const char *name);
struct client_address server_address(unsigned i);

#endif
