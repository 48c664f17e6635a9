/* Plays splitd for host-lib's tests: the daemon's end of attach and lanes, in this process, driven
 * step by step by the test's thread. The host runs in a thread of its own, through the public API.
 */
#ifndef SPLITD_TESTS_HOST_LIB_HARNESS_H
#define SPLITD_TESTS_HOST_LIB_HARNESS_H

#include <pthread.h>
#include <split-host.h>

#include "base/clock.h"
#include "daemon/relay/relay.h"
#include "host.pb-c.h"
#include "linearize/linearize.h"
#include "shepherd/shepherd.h"

#define HARNESS_DAEMONS_MAX 4
#define HARNESS_ITEMS       64

/* One call as the client would see it. */
struct hcall {
	uint64_t id;
	unsigned d;
	unsigned lane;
	uint32_t method;
	bool open;
	bool closed;      /* by the daemon: cancelled */
	unsigned answers; /* completions with a status; 1 in the end */
	unsigned refused;
	unsigned answer_lane;
	uint32_t messages; /* without a status */
	uint32_t credit;   /* given by the host */
	uint32_t wants;
	uint32_t sent; /* messages by harness_message */
	/* A call out of the host: `reply` is its request. */
	bool out, half_closed;
	unsigned abandons;
	uint64_t parent, deadline_ns;
	bool waits;
	/* Each message, as it comes; set after harness_send. */
	void (*on_message)(struct hcall *call);
	void *user;
	uint32_t status;
	uint8_t *reply; /* wire bytes, NULL without a message */
	size_t reply_bytes;
	bool undecoded;  /* the status says so */
	int reply_error; /* encode's; 0 but with replies_may_fail */
	char text[2048];
	struct metadata_item initial[HARNESS_ITEMS];
	int initial_n;
	struct metadata_item trailing[HARNESS_ITEMS];
	int trailing_n;
	uint8_t initial_buf[16384];
	uint8_t trailing_buf[16384];
};

struct held_token {
	unsigned d;
	unsigned lane;
	uint64_t token;
};

struct harness {
	bool replies_may_fail; /* to encode */
	char dir[64];
	char path[96];
	int listen_fd;
	struct config_remote remote; /* over TCP */
	struct relay *relay;         /* the same; NULL: shared memory */
	struct endpoint_config config;
	struct attach_server *server;
	struct endpoint *endpoint;
	struct endpoint_port *port[HARNESS_DAEMONS_MAX];
	struct shepherd_counters counters[HARNESS_DAEMONS_MAX];
	struct schema *schema;
	uint32_t schema_in[64], schema_out[64];
	char method[64][128];
	size_t methods_n;
	uint32_t host_workers;

	/* Messages go as their wire bytes, and answers are asked for so. harness_init: whether
	 * SPLIT_TEST_FORMS is "wire", so that whole test programs run either way. */
	bool wire;
	unsigned wire_replies; /* that came so */
	bool hold_tokens;      /* keep responses' tokens in `held` */
	struct held_token *held;
	size_t held_n, held_max;
	bool count_only;    /* stress: do not keep replies */
	struct hcall *outs; /* the host's calls out, as they come; the test's memory */
	_Atomic unsigned outs_n;
	unsigned outs_max;

	struct split_host *host;
	pthread_t thread;
	bool running;
	int run_result;
	unsigned workers;
	_Atomic unsigned attached;
	_Atomic unsigned lost;
	_Atomic unsigned refused;
	_Atomic unsigned waiting;
};

/* 1 daemon worker, 1 host worker, 64 slots, 1 MiB segments (16 over TCP), 64 calls, normal pages.
 */
struct endpoint_config harness_config(void);
/* Listen, make a host "test" that will attach with `workers`. Serve on h->host, then run. */
void harness_init(struct harness *h, const struct endpoint_config *config, unsigned workers,
		  const struct split_host_options *options);
/* Listen only: the host is another process. */
void harness_init_remote(struct harness *h, const struct endpoint_config *config);
/* HARNESS_TCP in the environment: all of it over the socket backend, a relay of splitd's between.
 * What a user of host-lib observes is the same. The lanes, states and blocks that a test sees then
 * are the relay's, which has one worker: tests that look at the host's own look at them over shared
 * memory only. */
bool harness_over_tcp(void);
/* What differs by the backend: `a` over shared memory, `b` over TCP. */
#define HARNESS_EITHER(a, b) (harness_over_tcp() ? (b) : (a))
/* Start split_host_run in a thread, take the attach, adopt the ports. */
void harness_run(struct harness *h);
/* Accept and activate one attach (the first, or one after harness_drop). */
void harness_accept(struct harness *h);
/* Refuse the next attach with `code`. */
void harness_refuse(struct harness *h, int code, const char *text);
/* The daemon goes: epoch raised (unless `abrupt`), socket closed, endpoint freed. */
void harness_drop(struct harness *h, bool abrupt);
/* The same, seen by the host: over TCP its connection has ended. */
void harness_drop_wait(struct harness *h);
/* Answer a host, told to stop, that says that it leaves, if it does. */
void harness_leaving_answer(struct harness *h);
/* split_host_stop, wait for run, drop. */
void harness_stop(struct harness *h);
/* Wait for the host, told to stop, to say that it leaves; say that it has no calls. */
void harness_let_go(struct harness *h);
/* Stop if running; detach; everything freed. */
void harness_fini(struct harness *h);

struct hsend {
	unsigned d;
	unsigned lane;
	const char *method; /* "package.Service/Method" */
	const ProtobufCMessage *message;
	uint64_t deadline_ns;
	const struct metadata_item *metadata;
	size_t metadata_n;
	bool no_inline;
	const uint8_t *raw; /* instead of `message`: its wire bytes, whatever they are */
	size_t raw_bytes;
	bool linear;                        /* whatever harness.wire says */
	const struct linear_limits *limits; /* that it is sent with as wire bytes; NULL: defaults */
	bool open;                          /* a call that may have many requests: no message */
};

/* Open a call and publish its request. 0, or endpoint_submit's error (no call is open then). */
int harness_send(struct harness *h, struct hcall *call, const struct hsend *send);
/* A further message of a stream; `last`: the half-close with it. 0, or endpoint_submit's error. */
int harness_message(struct harness *h, struct hcall *call, const ProtobufCMessage *message,
		    bool no_inline, bool last);
/* The same with wire bytes, whatever they are. */
int harness_raw(struct harness *h, struct hcall *call, const uint8_t *bytes, size_t len, bool last);
int harness_half_close(struct harness *h, struct hcall *call);
/* End a call out: with `message` (may be NULL) and a status; `text`, `trailers` go with a STATUS.
 */
int harness_out_end(struct harness *h, struct hcall *out, const ProtobufCMessage *message,
		    uint32_t status, const char *text, const struct metadata_item *trailers,
		    size_t trailers_n);
/* Its answer's initial metadata. */
int harness_out_headers(struct harness *h, struct hcall *out, const struct metadata_item *items,
			size_t n);
int harness_writable(struct harness *h, struct hcall *call, unsigned done, unsigned more);
/* CANCEL the call and close it, as the daemon does. */
void harness_cancel(struct harness *h, struct hcall *call);
/* The same, unless its ring has no room: endpoint_submit's error. */
int harness_try_cancel(struct harness *h, struct hcall *call);
/* One poll and flush of every port. Returns completions. */
unsigned harness_poll(struct harness *h);
/* Poll until `call` is answered; fails the test after 10 s. */
void harness_wait(struct harness *h, struct hcall *call);
/* Poll for `ms`, or until *flag. */
void harness_spin(struct harness *h, unsigned ms, const _Atomic unsigned *flag, unsigned until);
/* Poll until `condition` holds, which another thread sees to: it may have to wait for its turn. */
#define harness_until(h, condition)                                                                \
	do {                                                                                       \
		uint64_t until_ns_ = clock_ns() + HARNESS_PATIENCE_NS;                             \
		while (!(condition)) {                                                             \
			ck_assert_msg(clock_ns() < until_ns_, "not in time: %s", #condition);      \
			harness_spin(h, 1, NULL, 0);                                               \
		}                                                                                  \
	} while (0)
#define HARNESS_PATIENCE_NS (20 * CLOCK_NS_PER_SEC)
/* Give held tokens back: the last first. */
void harness_release_held(struct harness *h);
/* Give back the one that was held first. */
void harness_release_first(struct harness *h);
/* Wait until no request block is out. */
void harness_wait_released(struct harness *h);
/* The reply as a message; free by split__test__item__free_unpacked. */
Split__Test__Item *harness_item(const struct hcall *call);
void hcall_free(struct hcall *call);

#endif
