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

#endif
