/* What decode_fast.c has functions for, and decode_tables.c tells it to call: each pair of a kind
 * of type and a cardinality is an op. */
#ifndef SPLITD_LINEARIZE_DECODE_OPS_H
#define SPLITD_LINEARIZE_DECODE_OPS_H

#include "linearize/decode_internal.h"

/* Types that are decoded alike. */
enum fast_kind {
	KIND_V32, /* varints: low 32 bits, 64 bits, zigzag, bool */
	KIND_V64,
	KIND_Z32,
	KIND_Z64,
	KIND_BOOL,
	KIND_F32, /* fixed */
	KIND_F64,
	KIND_STRING,
	KIND_TEXT, /* string under the UTF-8 rule */
	KIND_BYTES,
	KIND_MESSAGE,
	KIND_ENUM, /* closed */
	KINDS
};

/* PLAIN: no presence is stored. */
enum fast_card { PLAIN, HAS, ONEOF, REQUIRED, REPEATED, CARDS };

#define OP(kind, card)  ((kind)*CARDS + (card))
#define OP_PACKED(kind) (KINDS * CARDS + (kind))
#define OPS             (KINDS * CARDS + KIND_STRING)

static_assert(OPS <= 256, "an op is a byte");

#endif
