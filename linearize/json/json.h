/* Linear messages as JSON: protobuf's JSON mapping, for logs, debugging and tools.
 *
 * The message may lie in memory of this process or in a host's segment: as for encode, each word of
 * it is loaded once and every pointer is checked into the source's window, and the schema decides
 * what is walked. Nesting, values and text are bounded.
 *
 * What of protobuf's mapping is not here: unknown fields, extensions and groups are left out (as in
 * every mapping without reflection on them); text that is not UTF-8, which proto2 allows, has
 * U+FFFD for each byte that does not fit.
 *
 * Threads: any; nothing is kept. Memory comes from malloc (jansson's): not for the data path.
 */
#ifndef SPLITD_LINEARIZE_JSON_JSON_H
#define SPLITD_LINEARIZE_JSON_JSON_H

#include "linearize/linearize.h"

#include <jansson.h>

struct json_view_options {
	bool proto_names;    /* names of the .proto instead of lowerCamelCase */
	bool zero_fields;    /* print fields without presence that are zero or empty too */
	bool enum_numbers;   /* numbers instead of names */
	uint32_t depth_max;  /* nesting of messages; 0: LINEAR_DEPTH_MAX */
	uint32_t values_max; /* values of all kinds; 0: 1 Mi */
	size_t text_max;     /* bytes of names, strings and base64; 0: 64 MiB */
};

/* The message of type `m` at the peer's address `root` in `source`. `*out` is a new reference.
 * `options` NULL: all zero. Types of google.protobuf.Any are looked for in m's schema; one that is
 * not there is shown as base64 under "value". 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_LINEARIZE_POINTER,
 * _SOURCE (a count without array), _DEPTH, _LIMIT_ELEMENTS, _LIMIT_LINEAR (text_max). */
SPLIT_MUST_USE int json_view(const struct schema_message *m, const struct linear_source *source,
			     uint64_t root, const struct json_view_options *options, json_t **out);

/* The same of wire bytes, which are decoded first. `limits` as of decode_start. Errors of
 * decode_run too. */
SPLIT_MUST_USE int json_view_wire(const struct schema_message *m, const void *wire, size_t len,
				  const struct linear_limits *limits,
				  const struct json_view_options *options, json_t **out);

/* A view that keeps what it has when it must stop, for logs: the outermost value may be there after
 * an error, and strings and bytes of more text than is left are cut (text_max) instead of left out.
 */
#define JSON_PATH_MAX 256
struct json_partial {
	json_t *value; /* a new reference; NULL: nothing */
	int error;     /* as returned */
	/* After an error, where: "a.b[2].c", by the keys of the JSON. Names past its end are left
	 * out. */
	char path[JSON_PATH_MAX];
};

/* As json_view; out->value is the caller's in any case. */
SPLIT_MUST_USE int json_view_partial(const struct schema_message *m,
				     const struct linear_source *source, uint64_t root,
				     const struct json_view_options *options,
				     struct json_partial *out);

/* --- Messages that were refused ----------------------------------------------------------- */

#define JSON_UNKNOWN UINT64_MAX

/* What is known of one. Either its wire bytes, or a linear message, or nothing. */
struct json_refused {
	const struct schema_message *m;
	const char *what;             /* "request", "answer" */
	const char *peer;             /* who calls */
	const char *host;             /* the attached host whose method it is */
	const char *service, *method; /* "package.Service", "Method" */
	int error;                    /* negative */
	int status;                   /* of the call, gRPC's */
	uint64_t bytes;               /* on the wire; JSON_UNKNOWN */
	size_t text_max;              /* of "message" in the line */
	/* Wire bytes, private memory: the first `kept` of them; NULL: not known. */
	const uint8_t *wire;
	uint64_t kept;
	uint64_t at; /* decode_where(); JSON_UNKNOWN */
	/* A linear message, which others may write to meanwhile; NULL: none. */
	const struct linear_source *source;
	uint64_t root;
};

/* One line of JSON, printable ASCII, no newline: refused (what), peer, host, method (its path),
 * error (its name), text, status, and where known bytes, at, field (the path of the field that was
 * refused, or that is missing), hex (the first 32 bytes from `at` on), cut (true: "message" is not
 * all that was good), message (what was good before). `*line_out` is the caller's to free. 0 or
 * -SPLIT_E_BASE_NOMEM. docs/LINEARIZE.md ("Refused messages in the log"). */
SPLIT_MUST_USE int json_refused_line(const struct json_refused *r, char **line_out);

#endif
