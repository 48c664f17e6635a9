/* What the files of hostile_host share. */
#ifndef SPLITD_TESTS_HOSTILE_H
#define SPLITD_TESTS_HOSTILE_H

#include <pthread.h>
#include <signal.h>

#include "base/random.h"
#include "echo.pb-c.h"
#include "linearize/linearize.h"
#include "shepherd/shepherd_internal.h"

#define HOSTILE_MODES(X)                                                                           \
	X(SCRIBBLE, "scribble")             /* writes anywhere in its segment, at full speed */    \
	X(SCRIBBLE_ARENA, "scribble-arena") /* only where answers lie, while they are encoded */   \
	X(NEVER_RELEASE, "never-release")   /* answers, and keeps every request */                 \
	X(RELEASE_TWICE, "release-twice")   /* each token again, and some that never were */       \
	X(ANSWER_TWICE, "answer-twice")     /* each answer again, and others after it */           \
	X(STALE, "stale")                   /* call ids of other generations, workers, indices */  \
	X(POINT, "point")           /* pointers in messages to memory that is not its own */       \
	X(POINT_SLOT, "point-slot") /* the same in slots: message, metadata, text */               \
	X(WIRE, "wire")           /* encoded answers: noise, too many bytes, undecoded requests */ \
	X(WIRE_WILD, "wire-wild") /* the same outside its segment, and forms that there are not */ \
	X(PUNCH, "punch")         /* holes, truncation, new mappings, once sealed */               \
	X(PUNCH_EARLY, "punch-early")     /* the same while splitd maps and seals */               \
	X(WAKE, "wake")                   /* wake storms, states that are not so */                \
	X(EVENTFD, "eventfd")             /* drained, filled, made blocking */                     \
	X(STALL, "stall")                 /* takes nothing, or takes and never answers */          \
	X(STREAM_FLOOD, "stream-flood")   /* of a stream: more messages than it may send */        \
	X(STREAM_AFTER, "stream-after")   /* messages, credit and more after the end */            \
	X(STREAM_CREDIT, "stream-credit") /* credit without end, messages kept */                  \
	X(STREAM_WANT, "stream-want")     /* asks for room again and again; never ends a call */   \
	X(CALL_OUT, "call-out")           /* calls itself and others without end, gives them up */ \
	X(CALL_OUT_WILD, "call-out-wild") /* calls out that cannot be */                           \
	X(BOMB, "bomb")                   /* answers that never end when walked */                 \
	X(SOCKET, "socket")               /* nonsense on the attach socket */                      \
	X(ATTACHES, "attaches")           /* a thousand attaches, left half way */                 \
	X(MIXED, "mixed")                 /* another one at each attach */

enum hostile_mode {
#define X(name, text) MODE_##name,
	HOSTILE_MODES(X)
#undef X
};

enum hostile_region { REGION_LINES, REGION_RINGS, REGION_ARENA, REGION_ALL, REGION_ANY };

#define HOSTILE_COUNTS(X)                                                                          \
	X(sessions)                                                                                \
	X(refused)                                                                                 \
	X(detached)                                                                                \
	X(requests)                                                                                \
	X(answers)                                                                                 \
	X(writes)                                                                                  \
	X(storms)                                                                                  \
	X(drains)                                                                                  \
	X(packets)                                                                                 \
	X(connects)                                                                                \
	X(crashed)                                                                                 \
	X(denied)  /* attempts on sealed memory that failed, as they must */                       \
	X(allowed) /* and those that did not */

struct hostile_counts {
#define X(name) uint64_t name;
	HOSTILE_COUNTS(X)
#undef X
};

#define STALE_MAX    64
#define HOSTILE_OUTS 64

struct hostile {
	const char *socket, *name, *service;
	enum hostile_mode mode_asked, mode;
	enum hostile_region region;
	uint64_t seed, end_ns, session_ns;
	struct random rng;
	struct schema_blob blob;
	uint32_t schema_index;
	struct attach_method methods[3]; /* served; called: itself, and Echo */
	uint8_t out_open[HOSTILE_OUTS];  /* places of calls out, at daemon worker 0 */
	uint32_t out_generation;
	struct attach_hello hello;
	/* while attached */
	struct attachment *a;
	struct arena *arena;
	pthread_t writer;
	bool writing, writer_stop, gentle;
	uint64_t stale[STALE_MAX]; /* calls of before, their tokens */
	uint64_t stale_tokens[STALE_MAX];
	unsigned stale_n;
	unsigned bomb;
	struct hostile_counts *counts; /* shared with the processes that attach */
};

extern volatile sig_atomic_t hostile_stop;
uint64_t hostile_now_ns(void);
bool hostile_over(const struct hostile *x);
int hostile_hello(struct hostile *x);
/* hostile_lane.c: take what is in the lane of daemon worker d and worker h, answer as the mode has
 * it. Returns how many slots were taken. */
unsigned hostile_serve(struct hostile *x, unsigned d, unsigned h);
/* hostile_bomb.c: answers of split.tests.Node, by the kind that the request names. */
const ProtobufCMessageDescriptor *bomb_descriptor(void);
unsigned bomb_kind(const void *request);
size_t bomb_bytes(unsigned kind);
void bomb_make(unsigned kind, uint8_t *mem);
/* hostile_socket.c: the attach socket itself. */
void hostile_socket(struct hostile *x);
/* hostile_memory.c: the segments behind it. */
void hostile_memory(struct hostile *x);
/* A connected attach socket, or -1. */
int hostile_connect(const struct hostile *x);

#endif
