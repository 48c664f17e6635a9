/* What the two engines of decode share: the job's state. decode.c is the generic engine and knows
 * everything; decode_fast.c runs fields between two of its steps and knows the usual only. */
#ifndef SPLITD_LINEARIZE_DECODE_INTERNAL_H
#define SPLITD_LINEARIZE_DECODE_INTERNAL_H

#include "linearize/fast_internal.h"

/* How far past the begin of a field the fast engine reads. */
#define DECODE_SLOP 48

enum decode_phase {
	PHASE_FIELDS,
	PHASE_COPY,         /* copy string, bytes, unknown or packed fixed content */
	PHASE_GROW,         /* copy the elements of an outgrown array */
	PHASE_RUN,          /* count a run of like unpacked elements */
	PHASE_PACKED_COUNT, /* count the varints of a packed field */
	PHASE_PACKED,       /* decode them */
	PHASE_GROUP,        /* find the end of an unknown group */
	PHASE_DONE,
};

struct decode_frame {
	const struct schema_message *m;
	uint8_t *mem;
	const uint8_t *end;
	/* The fast engine's. */
	const uint8_t *stop; /* fields that begin before it may be read without care */
	const struct fast_field *table;
};

/* Where an array lives: its count, its pointer (receiver's address) and its element size. */
struct array_ref {
	uint8_t *count;
	uint8_t *pointer;
	uint32_t bytes;
	bool count32; /* unknown fields count in 32 bits */
};

struct decode_state {
	const uint8_t *p;
	int64_t budget;
	struct decode_frame *frame;
	int64_t delta;
	uint64_t elements;

	/* The fast engine's, while it runs. */
	uint8_t *limit;                  /* of the chunk */
	uint8_t *limit_short;            /* a short string that begins before it has room */
	struct decode_frame *frame_last; /* deepest that limits allow */
	const uint8_t *readable;         /* where bytes that may be read end */
	ptrdiff_t shift; /* how far from the wire its end is: in `tail`; 0: it is not */
	uint8_t *free;
	const uint8_t *wire; /* its first byte */
	const uint8_t *at;   /* the field that the generic engine took last (decode_where) */
	uint32_t hops;
	uint32_t tails; /* how often it was in the tail */
	/* No frame's `stop` lies behind it: SLOP bytes before the end of the wire, or its start. In
	 * the tail: nothing does. */
	const uint8_t *safe;

	enum decode_phase phase;
	enum decode_phase after_copy;
	uint32_t incomplete; /* messages that lack required fields so far */
	int error;
	const struct linear_fast *fast; /* may take fields; NULL: the generic engine alone */
	struct linear_bump bump;

	/* The long phases' cursors. */
	const uint8_t *scan, *scan_end;
	uint8_t *copy_to;
	const uint8_t *utf8_from; /* not NULL: check what is copied, from here on */
	const uint8_t *copy_from;
	uint64_t copy_left;
	uint64_t run;
	const struct schema_field *field;
	struct array_ref grow;
	uint8_t *grow_to;
	uint32_t group_depth;
	uint32_t unknown_tag;

	uint64_t work, root;
	uint64_t alias_min; /* content of so many bytes stays on the wire */
	uint64_t aliased;
	uint64_t nuls; /* receiver's address of the last alias_nul; 0: none */
	struct linear_limits limits;
	/* Everything from here on is not cleared. */
	uint8_t tail[DECODE_SLOP + 80];
	uint32_t groups[LINEAR_DEPTH_MAX + 1];
	struct decode_frame frames[LINEAR_DEPTH_MAX + 1];
};

/* A NUL that is due on the wire when the job is done, where an aliased string ends. Lies in linear
 * memory; both are receiver's addresses. */
struct alias_nul {
	uint64_t before; /* the one that was noted before; 0: none */
	uint64_t place;
};

static_assert(LINEAR_ALIAS_LEAST > DECODE_SLOP, "nothing in `tail` is aliased");
static_assert(sizeof(struct decode_state) <= DECODE_JOB_BYTES, "a job holds its state");

/* `m` at `mem`, whose bytes end at `end`, becomes what `frame` stands for. */
static inline void decode_frame_set(const struct decode_state *s, struct decode_frame *frame,
				    const struct schema_message *m, uint8_t *mem,
				    const uint8_t *end)
{
	frame->m = m;
	frame->mem = mem;
	frame->end = end;
	frame->stop = end <= s->safe ? end : s->safe;
	frame->table = m->fast;
}

/* When a message ends: is every required field there? It may be opened again later. */
void decode_required_judge(struct decode_state *s, const struct decode_frame *frame);

#endif
