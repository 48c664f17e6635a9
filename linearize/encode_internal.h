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

/* A message being written. Its fields at and after `field` are out. While `left` is not 0, that
 * many elements of `array` are still to be written: of unknown fields if field == field_count,
 * else of the repeated field `field`. */
struct encode_frame {
	const struct schema_message *m;
	const uint8_t *src;
	const uint8_t *array;
	uint64_t left;
	uint64_t mark; /* bytes written before this message */
	uint32_t field;
	bool unknown_done;
};

struct encode_state {
	uint8_t *head; /* first byte written in this chunk */
	uint8_t *chunk;
	uint64_t written;
	int64_t budget;
	struct encode_frame *frame;
	enum encode_phase phase;
	int error;
	const struct linear_fast *fast;  /* may take fields; NULL: the generic engine alone */
	struct encode_frame *frame_last; /* deepest that limits allow */
	uint64_t empty_string;

	const struct schema_field *field; /* of the long phases */
	const uint8_t *from;
	uint64_t left;   /* COPY: bytes, from the end on */
	uint64_t length; /* STRING: found so far */
	uint64_t mark;   /* PACKED: bytes written before */
	uint8_t header[16];
	uint8_t header_bytes;

	uint64_t elements, work;
	uint64_t root;
	struct linear_source source;
	struct encode_sink sink;
	struct linear_limits limits;
	uint32_t chunk_count;
	struct linear_chunk chunks[ENCODE_CHUNKS_MAX];
	struct encode_frame frames[LINEAR_DEPTH_MAX + 1];
};

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
