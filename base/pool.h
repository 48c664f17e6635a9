/* Fixed-size object pool: everything allocated at create, LIFO free list, nothing later.
 *
 * Thread rule: one owner thread for get and put; pool_in_use and pool_size may be read by that
 * thread only. Objects are 64-byte aligned when their size is a multiple of 64, else 16. Free
 * objects are poisoned under ASan and carry no header: the free list is an array of indices of its
 * own, so a write after put corrupts no pool state.
 */
#ifndef SPLITD_BASE_POOL_H
#define SPLITD_BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct pool {
	uint8_t *mem;        /* objects, `stride` apart */
	uint32_t *free;      /* stack of free indices */
	uint64_t *used_bits; /* one bit an object: catches double put and foreign pointers */
	size_t stride;
	uint64_t stride_inverse; /* of its odd part, modulo 2^64 */
	unsigned stride_shift;   /* stride == odd << stride_shift */
	size_t object_bytes;
	uint32_t objects;
	uint32_t free_count;
	uint32_t in_use_max;
	bool own_mem;
};

/* Bytes of caller memory that `objects` objects of `object_bytes` take; 0 on overflow. */
size_t pool_mem_bytes(size_t object_bytes, uint32_t objects);

/* Prepare `p` (caller's struct) for 1.. `objects` objects of 1.. `object_bytes`. `mem`: at least
 * pool_mem_bytes(), 64-byte aligned (hugepage memory, say), which stays the caller's and must
 * outlive the pool; NULL: allocated here. The memory is touched now, so no page fault comes later.
 * 0, -SPLIT_E_BASE_INVALID or -SPLIT_E_BASE_NOMEM (then nothing is held). */
int pool_init(struct pool *p, size_t object_bytes, uint32_t objects, void *mem) SPLIT_MUST_USE;

/* Give everything back; objects still out become invalid. Harmless on a zeroed struct. */
void pool_fini(struct pool *p);

/* One object, contents undefined, or NULL when all are in use. O(1). */
void *pool_get(struct pool *p);

/* As pool_get, zeroed. */
void *pool_get_zero(struct pool *p);

/* Give `obj` back; it must come from this pool and be in use (asserted: else it is our bug). NULL
 * is ignored. O(1). */
void pool_put(struct pool *p, void *obj);

/* Dense index of an object in [0, objects), and back. pool_at gives NULL when out of range or free,
 * so a hostile index may be put in. */
uint32_t pool_index(const struct pool *p, const void *obj);
void *pool_at(const struct pool *p, uint32_t index);

static inline uint32_t pool_in_use(const struct pool *p)
{
	return p->objects - p->free_count;
}

static inline uint32_t pool_size(const struct pool *p)
{
	return p->objects;
}

#endif
