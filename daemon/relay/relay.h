/* Relay: hosts on other machines.
 *
 * A host that connects by TCP gets a thread here that is, towards splitd's control thread and its
 * workers, an ordinary host process: it attaches by a socket of its own, has two segments, lanes
 * and one host worker. What it takes from the rings goes over the connection as frames (remote/),
 * and frames become completions. Nothing on the data path knows of it. docs/SOCKET.md.
 *
 * Threads: relay_* are the control thread's. Each connection has two threads more: one that does
 * the work, one that waits for the workers' wake-up in its stead.
 */
#ifndef SPLITD_DAEMON_RELAY_RELAY_H
#define SPLITD_DAEMON_RELAY_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sched.h>

#include "base/counter.h"
#include "base/error.h"
#include "config/config.h"

#define RELAY_COUNTERS(X)                                                                          \
	X(connections, "connections of hosts taken by remote.port")                                \
	X(refused, "of these, closed before they attached")                                        \
	X(refused_limit, "closed at once: remote.connections_max")                                 \
	X(refused_tls, "closed because TLS failed: no certificate, or none that is trusted")       \
	X(faults, "attached ones closed for what they sent, or because nothing was heard")         \
	X(slots_out, "slots sent to remote hosts")                                                 \
	X(slots_in, "slots taken from remote hosts")                                               \
	X(window_waits, "slots that had to wait for the host's window")                            \
	X(room_waits, "slots that had to wait for room towards the workers")                       \
	X(messages_large, "messages past the other side's window; their calls ended")

COUNTER_DECLARE(relay, RELAY_COUNTERS);

/* Bytes of the names in one guest's certificate. Those past them are as if they were not there. */
#define RELAY_NAMES_MAX 2048

struct relay;

struct relay_params {
	const struct config_remote *config;
	uint64_t attach_timeout_ns;
	const char *path;       /* of the configuration, for messages */
	const cpu_set_t *cores; /* that its threads may use; NULL: those of the caller */
};

/* Listens; reads the TLS files. `tell` gets a line when something is wrong. 0; -SPLIT_E_TLS_CONFIG,
 * -SPLIT_E_BASE_NOMEM, -SPLIT_E_BASE_SYSTEM. */
int relay_create(const struct relay_params *params, void (*tell)(const char *line),
		 struct relay **out) SPLIT_MUST_USE;
/* Readable when somebody knocks. */
int relay_fd(const struct relay *relay);
/* False: splitd is out of something: ask again later, not at once. */
bool relay_accept(struct relay *relay) SPLIT_MUST_USE;

/* One that has said who it is and is to be served like a process on the attach socket. */
struct relay_guest {
	int fd; /* the attach socket's end that splitd serves; the taker's */
	char peer[96];
	bool secure;                 /* over TLS: the authority says that it is */
	char names[RELAY_NAMES_MAX]; /* this, as link_peer_names() has it; else "" */
};
bool relay_guest_take(struct relay *relay, struct relay_guest *out);
/* Collect threads that have ended. */
void relay_tick(struct relay *relay);
/* Ends every connection and waits for its threads. NULL is fine. */
void relay_destroy(struct relay *relay);
/* The sums, relaxed. */
const struct relay_counters *relay_counters_get(const struct relay *relay);

#endif
