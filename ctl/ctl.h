/* splitctl's parts, apart from main so that tests can use them: the client of DPDK's telemetry
 * socket, the command line, and the tables.
 *
 * One thread. All memory handed out is the caller's (json_decref, free) unless said otherwise.
 *
 * The protocol is DPDK's (Telemetry User Guide): SOCK_SEQPACKET at <runtime dir>/dpdk_telemetry.v2;
 * the server greets with {"version", "pid", "max_output_len"}; a request is "/command,params"; the
 * answer is {"/command": value}. Whoever listens there is not trusted: sizes are bounded and every
 * value is checked before it is shown.
 */
#ifndef SPLITD_CTL_CTL_H
#define SPLITD_CTL_CTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <jansson.h>

#include "base/error.h"

/* Largest answer accepted, whatever the greeting promises. */
#define CTL_ANSWER_BYTES_MAX (1u << 20)
/* How long splitctl waits for an answer. */
#define CTL_TIMEOUT_MS 3000

struct ctl_client {
	int fd;
	int pid; /* of the daemon, from its greeting */
	size_t answer_bytes_max;
	char error[640]; /* why the last call failed, one line */
};

/* The socket of the instance with DPDK file prefix `prefix`: what the EAL would choose for this
 * user (root: /var/run/dpdk; else $XDG_RUNTIME_DIR/dpdk; else /tmp/dpdk). 0 or
 * -SPLIT_E_BASE_INVALID (prefix with a '/' or empty, path too long). */
int ctl_socket_path(const char *prefix, char *path_out, size_t bytes) SPLIT_MUST_USE;

/* Connect and read the greeting. On failure c->error says why and nothing stays open.
 * 0, -SPLIT_E_BASE_SYSTEM (can't connect), -SPLIT_E_BASE_INVALID (not a telemetry socket). */
int ctl_open(struct ctl_client *c, const char *path) SPLIT_MUST_USE;
void ctl_close(struct ctl_client *c);

/* Ask "/command[,params]"; *value_out is the answer's value (new reference). 0 or as ctl_open. */
int ctl_ask(struct ctl_client *c, const char *request, json_t **value_out) SPLIT_MUST_USE;

/* The two parsers behind them, on bytes. `bytes` need not be terminated. */
int ctl_parse_greeting(const char *bytes, size_t n, int *pid_out,
		       size_t *answer_max_out) SPLIT_MUST_USE;
int ctl_parse_answer(const char *bytes, size_t n, const char *request,
		     json_t **value_out) SPLIT_MUST_USE;

/* ---- command line --------------------------------------------------------------------------- */

enum ctl_command {
	CTL_STATS,
	CTL_ENDPOINTS,
	CTL_SERVICES,
	CTL_DRAIN,
	CTL_UNDRAIN,
	CTL_PORTS,
	CTL_PLACEMENT,
	CTL_RELOAD,
	CTL_VERSION,
	CTL_HELP
};

struct ctl_options {
	enum ctl_command command;
	const char *prefix; /* default "splitd" */
	const char *socket; /* NULL: found by prefix */
	const char *host;   /* drain, undrain: name or number */
	const char *layer;  /* stats: this one only; NULL: all */
	bool only_version;  /* --version: splitctl's own, no daemon asked */
	bool json;
	bool all;            /* stats: counters that are 0 too */
	unsigned interval_s; /* stats: 0 once, else again and again */
};

/* False: `error` (a line) says what is wrong. Strings point into argv. */
bool ctl_options_parse(int argc, char **argv, struct ctl_options *out, char *error, size_t bytes);

/* ---- decode --------------------------------------------------------------------------------- */

/* splitctl decode: messages of a descriptor set's type as JSON; no daemon is asked. */
struct ctl_decode_options {
	const char *proto_set, *type;
	const char *file; /* NULL: standard input */
	bool delimited;   /* else the file is one message */
	bool compact, proto_names, zero_fields, enum_numbers, help;
};

void ctl_decode_usage(FILE *to);
/* argv[0] is "decode". False: `error` (a line) says what is wrong. */
bool ctl_decode_parse(int argc, char **argv, struct ctl_decode_options *out, char *error,
		      size_t bytes);
/* False after a line in `error`, which names the file and, of several, the message (from 0). */
bool ctl_decode(const struct ctl_decode_options *o, FILE *to, char *error, size_t error_bytes);

/* ---- gathering and showing ------------------------------------------------------------------ */

/* Everything "stats" shows, as one JSON object:
 * {"pid":…, "info":{…}, "layers":{"net":{"rx_frames":{"total":N,"workers":[…]},…},…},
 *  "gauges":{…same shape…}}. */
int ctl_gather_stats(struct ctl_client *c, const char *layer, json_t **out) SPLIT_MUST_USE;
/* Arrays of objects, one for each endpoint (or port). */
int ctl_gather_endpoints(struct ctl_client *c, json_t **out) SPLIT_MUST_USE;
int ctl_gather_services(struct ctl_client *c, json_t **out) SPLIT_MUST_USE;
int ctl_gather_ports(struct ctl_client *c, json_t **out) SPLIT_MUST_USE;
int ctl_gather_placement(struct ctl_client *c, json_t **out) SPLIT_MUST_USE;

/* Tables for people. `stats` as gathered; missing or odd parts are shown as "-". */
void ctl_show_stats(FILE *to, const json_t *stats, bool all);
void ctl_show_endpoints(FILE *to, const json_t *endpoints);
void ctl_show_services(FILE *to, const json_t *services);
void ctl_show_ports(FILE *to, const json_t *ports);
/* What is poor comes once more below, a line each. */
void ctl_show_placement(FILE *to, const json_t *rows);

#endif
