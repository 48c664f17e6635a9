/* One field of a protobuf message, read from the wire without decoding it: balance chooses the
 * endpoint before the message is decoded, since it is decoded into that endpoint's memory.
 *
 * No state, no allocation, any thread. `wire` is hostile; work is bounded by its length. Only what
 * lies in `n` bytes is looked at, which may be the beginning of the message. */
#ifndef SPLITD_DAEMON_BALANCE_FIELD_H
#define SPLITD_DAEMON_BALANCE_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nesting of groups that is followed. */
#define FIELD_GROUPS_MAX 32

struct field_value {
	const uint8_t *bytes; /* of a string, bytes or a message; else `number`'s own eight */
	size_t len;
	uint64_t number;
};

enum field_result {
	FIELD_FOUND,
	FIELD_ABSENT, /* the message is here whole, and has no such field: its default */
	FIELD_UNSEEN, /* it may lie behind what is here, or the message is malformed */
};

/* Find the field whose number is path[depth - 1], inside the sub-messages path[0] .. path[depth -
 * 2] (depth at least 1): the first occurrence of each. `whole`: the n bytes are all of the message.
 * A value of 0, of no bytes, is FIELD_ABSENT, for that is the same message. `value_out` points into
 * `wire` or into itself. protobuf.dev, "Encoding". */
enum field_result field_find(const uint8_t *wire, size_t n, bool whole, const uint32_t *path,
			     unsigned depth, struct field_value *value_out);

#endif
