#include "linearize/linearize_internal.h"

const struct linear_limits linear_limits_default = {
	.linear_bytes_max = 64u << 20,
	.elements_max = 4u << 20,
	.wire_bytes_max = 4u << 20,
	.depth_max = LINEAR_DEPTH_MAX,
	.work_quantum = 16384,
	.work_max = 64u << 20,
};

#ifdef LINEARIZE_ENGINE_GENERIC_ONLY
#define ENGINE_DEFAULT LINEARIZE_ENGINE_GENERIC
#define ENGINE_LAST    LINEARIZE_ENGINE_GENERIC
#else
#define ENGINE_DEFAULT LINEARIZE_ENGINE_FAST
#define ENGINE_LAST    LINEARIZE_ENGINE_FAST
#endif

_Atomic unsigned linearize_engine_now = ENGINE_DEFAULT;

int linearize_engine_set(enum linearize_engine wanted)
{
	if ((unsigned)wanted > ENGINE_LAST)
		return -SPLIT_E_BASE_INVALID;
	linearize_engine_now = wanted;
	return 0;
}

enum linearize_engine linearize_engine_get(void)
{
	return (enum linearize_engine)linearize_engine_now;
}

#define T(name) [PROTOBUF_C_TYPE_##name]

const uint8_t type_bytes[TYPE_COUNT] = {
	T(INT32) = 4,    T(SINT32) = 4,  T(SFIXED32) = 4, T(INT64) = 8,  T(SINT64) = 8,
	T(SFIXED64) = 8, T(UINT32) = 4,  T(FIXED32) = 4,  T(UINT64) = 8, T(FIXED64) = 8,
	T(FLOAT) = 4,    T(DOUBLE) = 8,  T(BOOL) = 4,     T(ENUM) = 4,   T(STRING) = 8,
	T(BYTES) = 16,   T(MESSAGE) = 8,
};

const uint8_t type_wire[TYPE_COUNT] = {
	T(INT32) = WIRE_VARINT,  T(SINT32) = WIRE_VARINT, T(SFIXED32) = WIRE_32,
	T(INT64) = WIRE_VARINT,  T(SINT64) = WIRE_VARINT, T(SFIXED64) = WIRE_64,
	T(UINT32) = WIRE_VARINT, T(FIXED32) = WIRE_32,    T(UINT64) = WIRE_VARINT,
	T(FIXED64) = WIRE_64,    T(FLOAT) = WIRE_32,      T(DOUBLE) = WIRE_64,
	T(BOOL) = WIRE_VARINT,   T(ENUM) = WIRE_VARINT,   T(STRING) = WIRE_LEN,
	T(BYTES) = WIRE_LEN,     T(MESSAGE) = WIRE_LEN,
};

uint8_t *bump_get_slow(struct linear_bump *b, uint64_t bytes, uint64_t hint, int *error)
{
	return bump_open(b, bytes, hint, error);
}

int linearize_map_status(int error)
{
	switch (error < 0 ? -error : error) {
	case 0:
		return 0;
	case SPLIT_E_LINEARIZE_NOMEM:
	case SPLIT_E_LINEARIZE_LIMIT_LINEAR:
	case SPLIT_E_LINEARIZE_LIMIT_ELEMENTS:
	case SPLIT_E_LINEARIZE_LIMIT_WIRE:
	case SPLIT_E_LINEARIZE_LIMIT_WORK:
	case SPLIT_E_BASE_NOMEM:
	case SPLIT_E_BASE_LIMIT:
	case SPLIT_E_SHEPHERD_FULL:
		return 8; /* RESOURCE_EXHAUSTED */
	default:
		return 13; /* INTERNAL */
	}
}
