#include "base/pool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/poison.h"

static size_t pool_stride(size_t object_bytes)
{
	size_t align = object_bytes % BITS_CACHE_LINE == 0 ? BITS_CACHE_LINE : 16;

	return align_up(object_bytes, align);
}

/* By Newton: each step doubles the bits that are right, and 5 are from the start. */
static uint64_t inverse_of_odd(uint64_t odd)
{
	uint64_t x = (3 * odd) ^ 2;

	for (int bits = 5; bits < 64; bits *= 2)
		x *= 2 - odd * x;
	return x;
}

size_t pool_mem_bytes(size_t object_bytes, uint32_t objects)
{
	size_t bytes;

	if (object_bytes == 0 || object_bytes > SIZE_MAX - BITS_CACHE_LINE)
		return 0;
	if (__builtin_mul_overflow(pool_stride(object_bytes), (size_t)objects, &bytes))
		return 0;
	if (bytes > SIZE_MAX - BITS_CACHE_LINE)
		return 0;
	return align_up(bytes, BITS_CACHE_LINE);
}

/* Pools past a few huge pages live in such (where the kernel gives them on request): an object in
 * use is seldom near the last one, and each small page would take a TLB entry of its own. */
#define HUGE_BYTES     ((size_t)2 << 20)
#define HUGE_BYTES_MIN (4 * HUGE_BYTES)

static void *memory_take(size_t bytes)
{
	void *mem;

	if (bytes < HUGE_BYTES_MIN || bytes > SIZE_MAX - HUGE_BYTES)
		return aligned_alloc(BITS_CACHE_LINE, bytes);
	mem = aligned_alloc(HUGE_BYTES, align_up(bytes, HUGE_BYTES));
	if (mem != NULL)
		(void)madvise(mem, bytes & ~(HUGE_BYTES - 1), MADV_HUGEPAGE);
	return mem;
}

int pool_init(struct pool *p, size_t object_bytes, uint32_t objects, void *mem)
{
	size_t bytes = pool_mem_bytes(object_bytes, objects);

	memset(p, 0, sizeof(*p));
	if (bytes == 0 || !is_aligned((uintptr_t)mem, BITS_CACHE_LINE))
		return -SPLIT_E_BASE_INVALID;
	p->free = calloc(objects, sizeof(*p->free));
	p->used_bits = calloc(((size_t)objects + 63) / 64, sizeof(*p->used_bits));
	p->own_mem = mem == NULL;
	p->mem = p->own_mem ? memory_take(bytes) : mem;
	p->stride = pool_stride(object_bytes);
	p->stride_shift = (unsigned)__builtin_ctzll(p->stride);
	p->stride_inverse = inverse_of_odd(p->stride >> p->stride_shift);
	p->object_bytes = object_bytes;
	if (p->free == NULL || p->used_bits == NULL || p->mem == NULL) {
		if (!p->own_mem)
			p->mem = NULL;
		pool_fini(p);
		return -SPLIT_E_BASE_NOMEM;
	}
	memset(p->mem, 0, bytes);
	p->objects = objects;
	p->free_count = objects;
	/* The lowest index comes out first. */
	for (uint32_t i = 0; i < objects; i++)
		p->free[i] = objects - 1 - i;
	poison_region(p->mem, bytes);
	return 0;
}

void pool_fini(struct pool *p)
{
	if (p->mem != NULL)
		unpoison_region(p->mem, pool_mem_bytes(p->object_bytes, p->objects));
	if (p->own_mem)
		free(p->mem);
	free(p->free);
	free(p->used_bits);
	memset(p, 0, sizeof(*p));
}

void *pool_get(struct pool *p)
{
	uint32_t index;
	uint8_t *obj;

	if (p->free_count == 0)
		return NULL;
	index = p->free[--p->free_count];
	p->used_bits[index / 64] |= UINT64_C(1) << (index % 64);
	if (p->objects - p->free_count > p->in_use_max)
		p->in_use_max = p->objects - p->free_count;
	obj = p->mem + index * p->stride;
	unpoison_region(obj, p->object_bytes);
	return obj;
}

void *pool_get_zero(struct pool *p)
{
	void *obj = pool_get(p);

	if (obj != NULL)
		memset(obj, 0, p->object_bytes);
	return obj;
}

uint32_t pool_index(const struct pool *p, const void *obj)
{
	size_t offset = (size_t)((const uint8_t *)obj - p->mem);
	/* A division without remainder is a multiplication; with one the product is no index of
	 * which `offset` could be the place. */
	size_t index = (offset >> p->stride_shift) * p->stride_inverse;

	assert((const uint8_t *)obj >= p->mem && index < p->objects && index * p->stride == offset);
	return (uint32_t)index;
}

void *pool_at(const struct pool *p, uint32_t index)
{
	if (index >= p->objects || !(p->used_bits[index / 64] >> (index % 64) & 1))
		return NULL;
	return p->mem + index * p->stride;
}

void pool_put(struct pool *p, void *obj)
{
	uint32_t index;

	if (obj == NULL)
		return;
	index = pool_index(p, obj);
	assert(p->used_bits[index / 64] >> (index % 64) & 1);
	p->used_bits[index / 64] &= ~(UINT64_C(1) << (index % 64));
	p->free[p->free_count++] = index;
	poison_region(obj, p->stride);
}
