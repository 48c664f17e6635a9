/* Inside daemon/services only. */
#ifndef SPLITD_DAEMON_SERVICES_INTERNAL_H
#define SPLITD_DAEMON_SERVICES_INTERNAL_H

#include <protobuf-c/protobuf-c.h>

#include "base/bits.h"
#include "base/list.h"
#include "base/pool.h"
#include "daemon/services/services.h"
#include "linearize/descriptor/descriptor.h"

/* Calls at once; a Watch is one as long as its client likes. */
#define SERVICES_CALLS_MAX   1024u
#define SERVICES_REQUEST_MAX 1024u
#define SERVICES_NAME_MAX    256u
/* An answer's bytes come in pieces; all answers of a worker together have so many bytes. */
#define SERVICES_PIECE_BYTES (32u * 1024u)
#define SERVICES_PIECES_MAX  128u
#define SERVICES_ANSWERS_MAX (16u << 20)
/* What a request of SERVICES_REQUEST_MAX bytes takes when it is unpacked, at most. */
#define SERVICES_SCRATCH (128u * 1024u)
/* Files of one reflection answer. */
#define SERVICES_FILES_MAX   256u
#define SERVICES_LISTED_MAX  1024u
#define SERVICES_NUMBERS_MAX 4096u

struct services_call;

/* One method. */
struct services_method {
	const char *path; /* "/package.Service/Method" */
	enum grpc_kind kind;
	void (*request)(struct services_call *call, const uint8_t *p, uint32_t n);
};

struct services_call {
	struct services *services;
	struct grpc_call *grpc;
	const struct services_method *method;
	struct services_answer *waiting; /* grpc would not take it yet */
	bool half_closed;
	/* health Watch */
	struct list watch; /* services.watches */
	int told;          /* ServingStatus last sent; -1: none */
	uint32_t name_len;
	char name[SERVICES_NAME_MAX];
	uint8_t buf[SERVICES_REQUEST_MAX];
};

/* Packed bytes on their way: the struct lies in the first piece. */
struct services_answer {
	struct grpc_chain chain;
	struct services *services;
	bool full; /* a piece was not to be had */
	uint32_t pieces;
	struct iovec iov[SERVICES_PIECES_MAX];
};

struct services {
	struct services_config config;
	struct services_source source;
	struct grpc_server *grpc;
	struct pool calls;
	struct list watches;
	bool draining;
	uint64_t answer_bytes;
	uint64_t sockets_made;
	struct services_catalog *own; /* of these services themselves */
	uint8_t *scratch;
	size_t scratch_used;
	struct services_counters counters;
};

/* ---- services.c ----------------------------------------------------------------------------- */

/* protobuf-c's allocator over the scratch, emptied. */
ProtobufCAllocator services_scratch(struct services *services);
/* Send one message, and finish the call OK with it if `last`. Without memory the call ends with
 * RESOURCE_EXHAUSTED. */
void services_reply(struct services_call *call, const ProtobufCMessage *message, bool last);
void services_finish(struct services_call *call, enum grpc_status status, const char *text);

/* ---- health.c, reflection.c ----------------------------------------------------------------- */

void health_check(struct services_call *call, const uint8_t *p, uint32_t n);
void health_watch(struct services_call *call, const uint8_t *p, uint32_t n);
/* Tell one watch what it does not know yet. */
void health_update(struct services_call *call);
void reflection_info(struct services_call *call, const uint8_t *p, uint32_t n);

/* ---- board.c -------------------------------------------------------------------------------- */

/* The worker's part tells of `grpc` from now on; NULL: of nobody. */
void board_worker_set(struct services_board *board, unsigned worker,
		      const struct grpc_server *grpc);
/* Sums over all workers. */
struct board_calls {
	uint64_t started, succeeded, failed;
	uint64_t last_ns; /* 0: none */
};
void board_calls(const struct services_board *board, struct board_calls *out);
/* The first socket whose id is at least `from`: its id; 0: there is none. */
uint64_t board_socket_from(const struct services_board *board, uint64_t from);
/* A copy of that socket. False: it is gone. */
bool board_socket_read(const struct services_board *board, uint64_t id,
		       struct services_socket *out);
size_t board_listeners(const struct services_board *board,
		       const struct services_listener **list_out);
/* When the board was made, on CLOCK_MONOTONIC. */
uint64_t board_created_ns(const struct services_board *board);

/* ---- channelz.c ----------------------------------------------------------------------------- */

void channelz_top_channels(struct services_call *call, const uint8_t *p, uint32_t n);
void channelz_servers(struct services_call *call, const uint8_t *p, uint32_t n);
void channelz_server(struct services_call *call, const uint8_t *p, uint32_t n);
void channelz_server_sockets(struct services_call *call, const uint8_t *p, uint32_t n);
void channelz_socket(struct services_call *call, const uint8_t *p, uint32_t n);
void channelz_none(struct services_call *call, const uint8_t *p, uint32_t n);

/* ---- catalog.c ------------------------------------------------------------------------------ */

/* The file of that name; that declares the symbol; that declares the extension. NULL: none. */
const struct proto_file *catalog_file(const struct services_catalog *c, const char *name);
const struct proto_file *catalog_symbol(const struct services_catalog *c, const char *name);
const struct proto_file *catalog_extension(const struct services_catalog *c, const char *extendee,
					   int32_t number);
/* Numbers of the extendee's extensions into `numbers`, at most `max`; returns how many. *known_out:
 * whether there is such a type. */
size_t catalog_extension_numbers(const struct services_catalog *c, const char *extendee,
				 int32_t *numbers, size_t max, bool *known_out);

#endif
