/* A whole worker in one process: it runs on its lcore over a net_ring port, the test's thread is
 * the client at the other end (our own stack opening actively, with nghttp2 on it) and the control
 * thread (attach, messages, reports), and each fake host is a thread over shepherd's host side.
 *
 * One worker per process: Check forks for each test. */
#ifndef SPLITD_TESTS_WORKER_HARNESS_H
#define SPLITD_TESTS_WORKER_HARNESS_H

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "daemon/grpc/grpc.h"
#include "daemon/worker/worker.h"
#include "shepherd/shepherd.h"

#define ECHO_PATH "/split.examples.Echo/Unary"

/* ---- the worker ----------------------------------------------------------------------------- */

/* Start with the test's configuration; `edit` (may be NULL) changes it before. */
void harness_start(void (*edit)(struct config *cfg));
/* Close the client, remove hosts, stop the worker, and check that nothing of it is left in use. */
void harness_stop(void);
struct worker *harness_worker(void);
/* Value of a counter of the worker ("grpc.calls"); asserts that it exists. */
uint64_t harness_counter(const char *name);
/* Run the client until cond(arg) or `ms` have gone by; returns whether cond came true. */
bool harness_until(bool (*cond)(void *arg), void *arg, unsigned ms);
void harness_run(unsigned ms);
void harness_post(enum worker_msg_kind kind, const struct worker_endpoint *we,
		  uint64_t deadline_ns);
/* Wait for a report of that kind; asserts that it comes. Others are kept. */
struct worker_report harness_report(enum worker_report_kind kind);

/* A test case of `s`, each of whose tests runs in a worker started by `up` and ends with
 * harness_stop(). */
TCase *harness_case(Suite *s, const char *name, void (*up)(void));
/* For `up`: the test's configuration as it is. */
void harness_start_plain(void);
/* Runs and frees the suite; the program's exit status. */
int harness_suite_run(Suite *s);

/* ---- fake hosts ----------------------------------------------------------------------------- */

enum host_mode {
	HOST_ECHO,        /* answers with the payload, or reply_bytes of 'r' */
	HOST_HOLD,        /* takes calls and keeps them until the mode changes */
	HOST_DEAF,        /* takes nothing */
	HOST_STATUS,      /* answers NOT_FOUND "no such thing" with a trailer x-t: v */
	HOST_REFUSE_ALL,  /* gives every call back */
	HOST_REFUSE_ONCE, /* the first one, then as HOST_ECHO */
	HOST_BAD_POINTER, /* answers with an address outside its segment */
	HOST_BAD_MESSAGE, /* answers with a message whose payload lies outside */
	HOST_FORGET,      /* takes a call and never says anything */
	HOST_WIRE,        /* echoes, and encodes its answers whether asked to or not */
	HOST_WIRE_LONG,   /* encodes; says that the bytes go on past the end of its segment */
	HOST_WIRE_HUGE, /* encodes; says that there are more than may be sent, all in its segment */
};

#define HOST_HELD_MAX    1024
#define HOST_STREAMS_MAX 64
#define HOST_OWED_MAX    256

struct held {
	struct slot slot;
	_Alignas(16) uint8_t message[SLOT_INLINE_BYTES]; /* an inline one's struct */
};

/* A streaming call of a fake host (host_stream.c). */
struct fake_stream {
	uint64_t id; /* 0: none */
	struct host_lane *lane;
	enum attach_kind kind;
	bool half; /* the client has sent all */
	uint64_t bytes;
	uint32_t out, window; /* answers with splitd; how many may be */
	uint32_t withheld;    /* credit, in HOST_HOLD */
	unsigned owed_first, owed_n;
	uint32_t owed[HOST_OWED_MAX]; /* answers to come */
};

struct fake_host {
	struct worker_endpoint shared;
	struct config_host config;
	int16_t services[64]; /* by method */
	struct attach_server *server;
	struct schema *schema;
	struct attachment *attachment;
	struct arena *arena;
	pthread_t thread;
	int fd;
	unsigned workers;
	_Atomic int mode;
	atomic_int deaf_worker;     /* takes nothing, as one in a long handler; -1: none */
	atomic_uint parked;         /* by bit: takes nothing and says that it sleeps */
	atomic_uint absent;         /* by bit: takes nothing and says that it looks */
	atomic_uint requests_of[8]; /* by worker */
	atomic_bool overrun;        /* answers past the window */
	atomic_uint stream_messages, stream_ends, bad_bytes;
	uint64_t on_cpu[8]; /* what the scheduler says, by worker */
	struct fake_stream streams[HOST_STREAMS_MAX];
	atomic_bool stop, running;
	atomic_uint requests, cancels, releases, inlined, metadata_entries;
	atomic_uint wired; /* requests that came as their wire bytes */
	_Atomic uint64_t deadline_ns;
	char traceparent[64];
	unsigned held_first, held_n;
	struct held held[HOST_HELD_MAX]; /* taken and not answered yet */
	bool removed;
};

/* Attach and post ENDPOINT_ADD; `edit` may change sizes. */
struct fake_host *host_attach(enum host_mode mode, void (*edit)(struct endpoint_config *cfg));
/* Dead or gone: REMOVE, wait for QUIET, free. */
void host_remove(struct fake_host *h);
static inline void host_mode_set(struct fake_host *h, enum host_mode mode)
{
	atomic_store(&h->mode, mode);
}

/* ---- the client ----------------------------------------------------------------------------- */

struct client; /* one connection */

struct rpc {
	struct client *client;
	int32_t stream;
	int http_status;
	int grpc_status; /* -1: none came */
	char message[256];
	char trailer[64]; /* x-t */
	uint8_t *body;    /* the answer's DATA */
	size_t body_len, body_max;
	const uint8_t *out;
	size_t out_len, out_sent;
	size_t out_hold; /* stop after so many bytes of the request until raised */
	uint8_t *owned;
	uint32_t reset; /* RST_STREAM's code */
	bool closed;
};

struct client *client_open(void);
/* false: the connection has ended */
bool client_alive(const struct client *c);
bool client_goaway(const struct client *c); /* the server said GOAWAY */
void client_close(struct client *c);
void client_abort(struct client *c);
/* Stop reading: nothing that arrives is given back to TCP's window. */
void client_stall(struct client *c, bool on);

struct header {
	const char *name, *value;
};
/* Begin a call: DATA is `len` bytes at `bytes` (framing included), copied. */
void rpc_start(struct rpc *r, struct client *c, const char *path, const void *bytes, size_t len,
	       const struct header *extra, size_t extra_n);
/* Byte i of each payload that a client sends. */
static inline uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 7 + (i >> 8));
}
/* One EchoMessage with its prefix at `to` (len + 32 bytes); returns its bytes. */
size_t echo_frame(uint8_t *to, size_t len, uint32_t reply_bytes, uint32_t replies);
/* Begin Echo/Unary with a payload of `len` bytes of a pattern; asks for reply_bytes if not 0. */
void rpc_echo(struct rpc *r, struct client *c, size_t len, uint32_t reply_bytes);
/* Let more of the request go. */
void rpc_release(struct rpc *r, size_t out_hold);
void rpc_cancel(struct rpc *r);
/* Run until it is closed; asserts that it is within 10 s. Returns grpc_status. */
int rpc_wait(struct rpc *r);
/* Asserts an OK echo of a payload of `len` (rpc_echo's pattern). */
void rpc_check_echo(struct rpc *r, size_t len);
void rpc_free(struct rpc *r);

#endif
