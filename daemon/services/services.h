/* The services that the daemon answers itself: grpc.health.v1.Health (Check and Watch), server
 * reflection (grpc.reflection.v1 and v1alpha), grpc.channelz.v1, as gRPC's own documents describe
 * them.
 *
 * They are one more backend of daemon/grpc: the worker asks services_open first and looks among its
 * hosts' methods only for what is not theirs. What they tell comes from a `services_source`, which
 * the worker gives: nothing here knows endpoints.
 *
 * Threads: a struct services belongs to one worker's thread. The board is shared (below). A catalog
 * is made once for a host, by the control thread, never changes, and is read by every worker.
 *
 * Bounds: calls at once, bytes of a request, bytes of all answers under way (services_internal.h).
 */
#ifndef SPLITD_DAEMON_SERVICES_SERVICES_H
#define SPLITD_DAEMON_SERVICES_SERVICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/error.h"
#include "daemon/grpc/grpc.h"

#define SERVICES_COUNTERS(X)                                                                       \
	X(checks, "health checks answered")                                                        \
	X(watches, "health watches begun")                                                         \
	X(watch_changes, "changes told to watches")                                                \
	X(reflections, "reflection requests answered")                                             \
	X(reflection_errors, "of these, with an error")                                            \
	X(channelz, "channelz requests answered")                                                  \
	X(calls_over, "calls refused: too many at once")                                           \
	X(answers_over, "answers refused: too many bytes under way")                               \
	X(malformed, "requests that could not be decoded")

COUNTER_DECLARE(services, SERVICES_COUNTERS);

/* ---- catalogs ------------------------------------------------------------------------------- */

/* What reflection can tell of one host: the files of a FileDescriptorSet, and which of them
 * declares which symbol and extension. */
struct services_catalog;

/* `set`: a serialized google.protobuf.FileDescriptorSet, hostile, copied. 0, -SPLIT_E_BASE_NOMEM,
 * or what linearize/descriptor says of it. */
int services_catalog_create(const uint8_t *set, size_t bytes,
			    struct services_catalog **catalog_out) SPLIT_MUST_USE;
/* NULL is fine. */
void services_catalog_destroy(struct services_catalog *catalog);

/* ---- the board ------------------------------------------------------------------------------
 *
 * What channelz of any worker tells of all workers: each has a part of it that only it writes, and
 * reads those of the others. Nobody waits for anybody: an entry that changes while it is read was
 * another connection a moment ago, and is left out. */

struct services_board;

struct services_address {
	uint8_t family; /* 4 or 6 */
	uint16_t port;
	uint8_t bytes[16]; /* IPv4 in the first four */
};

/* A listener, as a socket that listens. */
struct services_listener {
	const char *name; /* outlives the board */
	struct services_address local;
};

struct services_board_config {
	unsigned workers_n;                        /* 1 to 64 */
	uint32_t sockets_max;                      /* connections of each worker, at most 2^20 */
	const struct services_listener *listeners; /* copied */
	uint32_t listeners_n;
};

/* One connection on the board. Its worker's. */
struct services_socket {
	struct grpc_connection_stats stats; /* for grpc_connection_count */
	const char *cipher;                 /* TLS, static; NULL: plain */
	struct services_address local, remote;
};

/* Control thread, before the first worker is made and after the last is gone. 0,
 * -SPLIT_E_BASE_NOMEM or -SPLIT_E_BASE_INVALID. */
int services_board_create(const struct services_board_config *config,
			  struct services_board **board_out) SPLIT_MUST_USE;
/* NULL is fine. */
void services_board_destroy(struct services_board *board);

/* ---- a worker's ----------------------------------------------------------------------------- */

enum services_health {
	SERVICES_UNKNOWN, /* there is no such service */
	SERVICES_SERVING,
	SERVICES_NOT_SERVING,
};

/* What the worker says of itself. */
struct services_source {
	/* By full name, not NUL-terminated; the empty one: of the server as a whole. Cheap. */
	enum services_health (*health)(void *ctx, const char *name, size_t name_len);
	/* Full names of the services that are served now, 0, 1, ...; NULL behind the last. */
	const char *(*service)(void *ctx, size_t i);
	/* Catalogs of what is attached now, 0, 1, ...; NULL behind the last. */
	const struct services_catalog *(*catalog)(void *ctx, size_t i);
	void *ctx;
};

struct services_config {
	bool health;
	bool reflection;
	bool channelz;
	unsigned worker;              /* index of the worker */
	struct services_board *board; /* outlives the services */
};

struct services;

/* `source` is copied; `grpc` gives the memory of answers: services_destroy comes after the last
 * connection of it has gone, and before grpc_server_destroy. 0 or a negative code. */
int services_create(const struct services_config *config, const struct services_source *source,
		    struct grpc_server *grpc, struct services **services_out) SPLIT_MUST_USE;
/* NULL is fine. */
void services_destroy(struct services *services);
const struct services_counters *services_counters_get(const struct services *services);

/* From the server's backend.open. SPLIT_AGAIN: the path is nobody's here; else what open has to
 * return. */
int services_open(struct services *services, struct grpc_call *call,
		  const struct grpc_request_head *head, struct grpc_accept *accept) SPLIT_MUST_USE;
/* Whether a service of this full name is answered here. */
bool services_has(const struct services *services, const char *name, size_t name_len);

/* A connection begins: it stands on the board, counted from nothing, until services_socket_close,
 * which comes after grpc_connection_destroy. NULL: the board is full. `cipher`: static or NULL. */
struct services_socket *services_socket_open(struct services *services,
					     const struct services_address *local,
					     const struct services_address *remote,
					     const char *cipher);
/* NULL is fine. */
void services_socket_close(struct services *services, struct services_socket *socket);

/* What source.health says may have changed: tell those who watch. */
void services_changed(struct services *services);
/* The server goes: watches are told so and ended. */
void services_drain(struct services *services);

#endif
