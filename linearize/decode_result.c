/* What a decode job tells once it has ended. */
#include "linearize/decode_internal.h"

static inline const struct decode_state *state_const(const struct decode_job *j)
{
	return (const struct decode_state *)(const void *)j->opaque;
}

uint64_t decode_root(const struct decode_job *j)
{
	return state_const(j)->root;
}

size_t decode_chunk_used(const struct decode_job *j)
{
	return (size_t)(state_const(j)->bump.free - state_const(j)->bump.chunk);
}

uint64_t decode_aliased(const struct decode_job *j)
{
	return state_const(j)->aliased;
}

uint64_t decode_linear_bytes(const struct decode_job *j)
{
	return state_const(j)->bump.used;
}

uint64_t decode_where(const struct decode_job *j)
{
	return (uint64_t)(state_const(j)->at - state_const(j)->wire);
}

uint64_t decode_work(const struct decode_job *j)
{
	return state_const(j)->work;
}
