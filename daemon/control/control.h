/* Control: the slow half of splitd, on the EAL's main lcore: hosts that attach and die, signals,
 * the log, telemetry. It never touches the data path; it reaches workers only by messages
 * (daemon/worker/worker.h: worker_post, worker_report_next) and reads counters.
 *
 * Thread: the main lcore, all of it. Telemetry callbacks run on DPDK's telemetry thread and read
 * counters and a snapshot that control publishes.
 *
 * An endpoint's life:
 *   attach socket → shepherd's daemon-side attach (credentials against config "hosts", segments,
 *   seals, schema) → ENDPOINT_ADD to every worker that serves one of its services → ACTIVE to the
 *   host … → the host's death (pidfd), its detach (socket closed) or a worker's ENDPOINT_FAULT →
 *   detach epoch raised → ENDPOINT_REMOVE to the same workers, which end its calls → each answers
 *   ENDPOINT_QUIET when it holds no reference any more → memory unmapped and freed.
 *
 * Signals: SIGTERM and SIGINT drain (DRAIN to every worker: stop accepting, GOAWAY, finish calls
 * within shutdown.drain_timeout), a second one stops at once; SIGHUP reads the configuration file
 * and all certificates again and takes them over (reload.c); what a running daemon can't change is
 * named, and then nothing changes.
 */
#ifndef SPLITD_DAEMON_CONTROL_CONTROL_H
#define SPLITD_DAEMON_CONTROL_CONTROL_H

#include <sched.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/error.h"

struct config;
struct control;
struct control_channels;
struct control_tls;
struct port_set;
struct tls_context;
struct tls_helpers;
struct worker;

#define CONTROL_COUNTERS(X)                                                                        \
	X(attach_accepted, "hosts attached")                                                       \
	X(attach_refused_uid, "attaches refused: uid not allowed")                                 \
	X(attach_refused_name, "attaches refused: no such host, or nothing for it to do")          \
	X(attach_refused_certificate,                                                              \
	  "attaches refused: of another machine, with a certificate that is for another name")     \
	X(attach_refused_protocol, "attaches refused: malformed or of another version")            \
	X(attach_refused_limit, "attaches refused: too many at once")                              \
	X(attach_refused_outcast, "attaches refused: the process was cut off for what it did")     \
	X(attach_refused_resources, "attaches refused: no memory or descriptors")                  \
	X(attach_timeout, "attaches given up: the host said nothing in time")                      \
	X(schema_shared, "attaches that brought the schema of another host and share it")          \
	X(endpoint_died, "hosts whose process ended")                                              \
	X(endpoint_detached, "hosts that detached")                                                \
	X(endpoint_fault, "hosts detached for what they did")                                      \
	X(endpoint_freed, "endpoints whose memory was freed")                                      \
	X(worker_post_full, "messages that found a worker's ring full and were tried again")       \
	X(sched_unavailable, "starts without the scheduler's word: BPF is not to be had")          \
	X(sched_threads, "host threads whose place on a CPU is watched (BPF)")                     \
	X(broker_moves, "host cores given to another process")                                     \
	X(broker_signals, "workers signalled: they had not given up their core in time")           \
	X(broker_unheeded, "workers that kept their core all the same")                            \
	X(log_lines, "log records written for workers")                                            \
	X(drains, "times a host began to drain: it leaves, or an operator wants it")               \
	X(undrains, "times a host that drained got calls again")                                   \
	X(reloads, "configurations read again and taken over")                                     \
	X(reloads_failed, "configurations read again and found not valid")                         \
	X(ticket_keys, "keys for TLS session tickets made after the first")

COUNTER_DECLARE(control, CONTROL_COUNTERS);

struct control_params {
	const struct config *config;
	const char *config_path; /* for SIGHUP */
	struct port_set *ports;
	struct worker **workers;
	unsigned workers_n;
	/* The cores this process had before DPDK pinned its threads: what SIGHUP checks a
	 * configuration against. NULL: the control thread's own. */
	const cpu_set_t *cores;
	int report_fd;           /* the eventfd given to every worker; -1: reports are polled for */
	struct control_tls *tls; /* NULL: no listener speaks TLS */
	struct control_channels *channels; /* NULL: no channel goes to servers */
};

/* Block the signals that control serves and ignore SIGPIPE. First thing in main: threads that DPDK
 * makes must inherit it. 0 or -SPLIT_E_BASE_SYSTEM. */
int control_signals_block(void) SPLIT_MUST_USE;

/* TLS of the listeners, before anything is started: reads every certificate and key and checks
 * them. `tell` gets a line for each that is wrong. *out NULL and 0: no listener speaks TLS. 0,
 * -SPLIT_E_TLS_CONFIG, -SPLIT_E_BASE_NOMEM, -SPLIT_E_BASE_SYSTEM. Both arguments must outlive it.
 */
int control_tls_create(const struct config *config, const char *path,
		       void (*tell)(const char *line), struct control_tls **out) SPLIT_MUST_USE;
/* Starts the helper threads; `cores`: those that this process may use. */
int control_tls_start(struct control_tls *tls, const cpu_set_t *cores) SPLIT_MUST_USE;
/* After the workers. NULL is fine, as it is for all of these. */
void control_tls_destroy(struct control_tls *tls);
/* For worker_params: by listener; and the helpers, after the start. */
struct tls_context *const *control_tls_contexts(const struct control_tls *tls);
struct tls_helpers *control_tls_helpers(const struct control_tls *tls);

/* Channels to servers: their certificates (as control_tls_create), and the names to be resolved. */
int control_channels_create(const struct config *config, const char *path,
			    void (*tell)(const char *line),
			    struct control_channels **out) SPLIT_MUST_USE;
/* Begin to resolve names, on a thread of its own. 0 or -SPLIT_E_BASE_SYSTEM. */
int control_channels_start(struct control_channels *channels) SPLIT_MUST_USE;
/* After the workers. NULL is fine, as it is for all of these. */
void control_channels_destroy(struct control_channels *channels);
/* For worker_params: by channel. */
struct tls_context *const *control_channels_contexts(const struct control_channels *channels);

/* Reads each manifest that a service names, before anything is started; `tell` gets a line for each
 * that cannot be used. 0 or -SPLIT_E_CONFIG_INVALID. */
int control_manifests_check(const struct config *config, const char *path,
			    void (*tell)(const char *line)) SPLIT_MUST_USE;

/* Opens the attach socket (mode and owner as configured; a stale socket file is replaced, one that
 * somebody listens on is an error), takes over the signals, registers the telemetry commands.
 * All that `p` points to must outlive the control. One clear line goes to the log on failure.
 * 0, -SPLIT_E_CONTROL_SOCKET, -SPLIT_E_BASE_NOMEM, -SPLIT_E_BASE_SYSTEM. */
int control_create(const struct control_params *p, struct control **out) SPLIT_MUST_USE;

/* Tell the service manager that started us (NOTIFY_SOCKET, sd_notify(3)): "READY=1", "STOPPING=1",
 * "RELOADING=1". Does nothing without one. Never blocks; a failure is logged and otherwise ignored.
 * Any thread. */
void control_notify(const char *state);

/* Serve until stopped by a signal and every worker has drained (or the time for it is over).
 * Returns 0 after a drain that finished, -SPLIT_E_CONTROL_DRAIN when calls had to be cut off. */
int control_run(struct control *control) SPLIT_MUST_USE;

/* Open the attach socket at `path`: listening, non-blocking, with `mode`. A socket file that nobody
 * listens on is replaced; anything else there is an error. A missing last directory of the path is
 * made (mode 0755). Returns the descriptor, or
 * -SPLIT_E_CONTROL_SOCKET with one line in `error`. */
int control_socket_open(const char *path, unsigned mode, char *error, size_t bytes) SPLIT_MUST_USE;

/* After every worker has left its loop (and, when control_run was called, may have been destroyed;
 * a control that never ran goes before its workers): frees the endpoints that are left, removes the
 * socket. NULL is fine. */
void control_destroy(struct control *control);

const struct control_counters *control_counters_get(const struct control *control);

#endif
