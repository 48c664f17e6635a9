/* The ops of encode_fast.c: one for each kind of value and way of being there. encode_tables.c
 * fills the rows with them when a schema is parsed. */
#ifndef SPLITD_LINEARIZE_ENCODE_OPS_H
#define SPLITD_LINEARIZE_ENCODE_OPS_H

enum encode_kind {
	KIND_U32, /* varints: unsigned, sign-extended, 64 bits, zigzag, bool */
	KIND_I32,
	KIND_V64,
	KIND_Z32,
	KIND_Z64,
	KIND_BOOL,
	KIND_F32, /* fixed; floating ones have another zero */
	KIND_F64,
	KIND_FLOAT,
	KIND_DOUBLE,
	KIND_STRING,
	KIND_BYTES,
	KIND_MESSAGE,
	KINDS
};

/* How a member says that it is there: by not being zero, by a word, by the case word, by a pointer
 * that is neither NULL nor the default; or it always is. ELEMENT: one of an array. */
enum encode_presence { NONZERO, HAS, ONEOF, POINTER, ALWAYS, ELEMENT, PRESENCES };

#define OP_SLOW            0
#define OP(kind, presence) (1 + (kind)*PRESENCES + (presence))
#define OP_BEGIN           (1 + KINDS * PRESENCES) /* before the first field of a row */
#define OP_PACKED          (OP_BEGIN + 1)
#define OP_PACKED_FIXED    (OP_PACKED + 1)
#define OPS                (OP_PACKED_FIXED + 1)

_Static_assert(OPS <= 256, "an op is a byte");

#endif
