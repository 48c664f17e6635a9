/* A gRPC connection in memory: raw frames in and out, virtual time, and a backend that can be told
 * what to do and notes what it was told. One rig for each test process; setup and teardown are
 * fixtures. */
#ifndef SPLITD_TESTS_GRPC_RIG_H
#define SPLITD_TESTS_GRPC_RIG_H

#include <check.h>
#include <inttypes.h>

#include "base/wheel.h"
#include "daemon/grpc/grpc.h"
#include "tests/http2/wire.h"

#define MS       UINT64_C(1000000)
#define CALLS    64
#define END      NGHTTP2_FLAG_END_STREAM
#define OK_REPLY "reply"

/* One call as the backend saw it. */
struct call {
	struct grpc_call *grpc;
	uint8_t *buf;
	uint32_t buf_bytes;
	uint8_t got[1 << 17];
	size_t got_n;
	unsigned messages, half_closes, writables, opened, closed;
	enum grpc_closed why;
	bool last;
	struct grpc_chain chains[8];
	struct iovec iov[8][3];
	unsigned chains_n, released;
	uint64_t deadline_ns;
	char path[64];
	char md[512];
};

extern struct call calls[CALLS];
extern unsigned calls_n;

/* Orders for the backend. */
extern enum grpc_kind kind;
extern int open_status, reserve_error;
extern bool room, answer_at_once, pause_after_message;
extern uint32_t message_max;
extern uint8_t reply_bytes[300000];
extern uint32_t reply_n;
extern bool reply_compress;

extern struct wire in, out;
extern size_t room_left; /* of the output */
extern struct grpc_config config;
extern struct grpc_server *server;
extern struct grpc_connection *conn;
extern struct wheel wheel;
extern uint64_t now_ns;

void rig_setup(void);
void rig_teardown(void);
void connect_again(void);
void server_again(void); /* with `config` as it is now */
void all_closed_once(void);
void feed(void); /* what `in` holds; it must be taken */
void send_all(void);

/* Put requests into `in`. `more`: name, value, ..., NULL. */
const char *const *grpc_fields(const char *path, const char *const *more);
void request_with(uint32_t id, uint8_t flags, const char *const *more);
void request(uint32_t id, uint8_t flags);
void body(uint32_t id, uint8_t flags, const void *p, size_t n);
void message(uint32_t id, uint8_t flags, const char *text);

/* The backend answers. */
int reply(struct call *c);
void finish(struct call *c, uint32_t status, const char *message_text);

/* All answers of stream `id` so far: HEADERS as text, DATA as "[bytes]", RST as "RST code". */
const char *answer(uint32_t id);
void answer_is(uint32_t id, const char *behind_head);
void status_is(uint32_t id, const char *status);

#endif
