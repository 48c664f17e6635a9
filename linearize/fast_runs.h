/* How the fast decode engine finds out how many elements follow each other. */
#ifndef SPLITD_LINEARIZE_FAST_RUNS_H
#define SPLITD_LINEARIZE_FAST_RUNS_H

#include "linearize/fast_internal.h"

/* The place after the value of a repeated field of wire type `wire`, or NULL. */
static inline const uint8_t *value_skip(const uint8_t *p, const uint8_t *end, unsigned wire)
{
	struct varint r;

	if (wire == WIRE_VARINT || wire == WIRE_LEN) {
		if (p < end && *p < 0x80)
			r = (struct varint){p + 1, *p};
		else
			r = varint_careful(p, end);
		if (!r.next || wire == WIRE_VARINT)
			return r.next;
		return r.next - p > 4 || r.v > (uint64_t)(end - r.next) ? NULL : r.next + r.v;
	}
	return end - p < (wire == WIRE_64 ? 8 : 4) ? NULL : p + (wire == WIRE_64 ? 8 : 4);
}

/* How many fields with the tag of `e` follow each other from `p` on, as far as `most`; 0: something
 * is unusual. */
static int64_t run_count(const uint8_t *p, const uint8_t *end, const struct fast_field *e,
			 int64_t most)
{
	unsigned wire = e->tag & 7, tag_bytes = e->tag < 0x80 ? 1 : 2;
	uint8_t first = (uint8_t)(e->tag < 0x80 ? e->tag : e->tag | 0x80);
	int64_t run = 0;

	while (p < end && *p == first) {
		if (tag_bytes == 2 && (end - p < 2 || p[1] != e->tag >> 7))
			break;
		p = value_skip(p + tag_bytes, end, wire);
		if (!p)
			return 0;
		if (++run > most)
			return 0;
	}
	/* Too long a form of the same tag goes on with the run. */
	if (p < end && *p >= 0x80) {
		struct varint r = varint_careful(p, end - p < 5 ? end : p + 5);

		if (r.next && r.v == e->tag)
			return 0;
	}
	return run;
}

/* The length of a string tells where the next one is, and no more than that: where strings lie far
 * from each other each would be waited for. So ask for what comes behind `at`, as it will be copied
 * soon; up to `asked` that has been done. Returns up to where it is now; nothing comes near it
 * until there is more to ask for. */
#define NEAR_BYTES 4096 /* how far */
#define NEAR_EACH  1024 /* for strings of less than that */

static __attribute__((noinline)) uintptr_t ask_near(const uint8_t *at, const uint8_t *end,
						    uintptr_t asked)
{
	uintptr_t from = (uintptr_t)at > asked ? (uintptr_t)at : asked;
	uintptr_t to = end - at > 2 * NEAR_BYTES ? (uintptr_t)at + 2 * NEAR_BYTES : (uintptr_t)end;

	for (; from < to; from += 64)
		__builtin_prefetch((const void *)from);
	return to == (uintptr_t)end ? UINTPTR_MAX : to;
}

#endif
