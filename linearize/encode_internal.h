/* What the two engines of encode share: the job's state and the loads from hostile memory. encode.c
 * is the generic engine and knows everything; encode_fast.c takes the usual between its steps. */
#ifndef SPLITD_LINEARIZE_ENCODE_INTERNAL_H
#define SPLITD_LINEARIZE_ENCODE_INTERNAL_H

#include "linearize/fast_internal.h"

enum encode_phase {
	PHASE_FIELDS,
	PHASE_STRING, /* look for the NUL */
	PHASE_COPY,   /* string, bytes, unknown data, packed fixed elements: then the header */
	PHASE_PACKED, /* packed varints: then length and tag */
	PHASE_DONE,
};

/* A message being written. Its fields at and after `at`, in their row, are out. While `left` is not
 * 0, that many elements of `array` are still to be written: of unknown fields if `at` is the row's
 * end, else of the repeated field `at`. */
struct encode_frame {
	const struct schema_message *m;
	const struct encode_field *at;
	const uint8_t *src;
	uint64_t left;
	uint64_t mark; /* bytes written before this message */
	const uint8_t *array;
	bool unknown_done;
};

struct encode_state {
	struct encode_frame *frame;
	int64_t budget;
	uint64_t elements;
	struct linear_source source;
	uint64_t empty_string;

	/* The fast engine's, while it runs. */
	/* Places in the source that have ENCODE_MARGIN bytes on both sides: how many there are, the
	 * peer's address of the first and where it is here. */
	uint64_t inner, inner_peer;
	uintptr_t inner_mem;
	uint64_t written_base;           /* bytes written, plus `head` */
	struct encode_frame *frame_last; /* deepest that limits allow */
	uint8_t *floor;                  /* no byte before it may be written */
	uint8_t *floor_field;            /* a field needs `head` not to be before this */
	uint8_t *fast_head;
	uint32_t hops;

	enum encode_phase phase;
	uint8_t *head; /* first byte written in this chunk */
	uint8_t *chunk;
	uint64_t written;
	const struct linear_fast *fast; /* may take fields; NULL: the generic engine alone */
	int error;

	const struct schema_field *field; /* of the long phases */
	const uint8_t *from;
	uint64_t left;   /* COPY: bytes, from the end on */
	uint64_t length; /* STRING: found so far */
	uint64_t mark;   /* PACKED: bytes written before */
	uint8_t header[16];
	uint8_t header_bytes;

	uint64_t work, root;
	struct encode_sink sink;
	struct linear_limits limits;
	uint32_t chunk_count;
	struct linear_chunk chunks[ENCODE_CHUNKS_MAX];
	struct encode_frame frames[LINEAR_DEPTH_MAX + 1];
};

/* What the fast engine reads before and after a short string. */
#define ENCODE_MARGIN 32

static_assert(sizeof(struct encode_state) <= ENCODE_JOB_BYTES, "a job holds its state");

typedef uint32_t hostile32 __attribute__((aligned(1), may_alias));
typedef uint64_t hostile64 __attribute__((aligned(1), may_alias));

/* volatile: the compiler may neither repeat nor split the load (TOCTOU). */
static inline uint32_t load32_once(const uint8_t *p)
{
	return *(const volatile hostile32 *)(const void *)p;
}

static inline uint64_t load64_once(const uint8_t *p)
{
	return *(const volatile hostile64 *)(const void *)p;
}

#endif
