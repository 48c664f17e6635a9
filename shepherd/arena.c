/* Arena: a buddy allocator whose whole state is private memory, beside the segment.
 *
 * The unit is 256 bytes; a block of order k is 2^k units and starts at a multiple of its size. A
 * region whose size is no power of two is the sum of the largest blocks that fit. For each unit
 * there are a state byte and two list links; only the first unit of a block means anything.
 *
 * Freed blocks first rest in a short stack of their order (`rest`), unmerged, and are given out
 * again from there: most calls ask for the sizes of the calls before, and splitting a 32 MiB block
 * down to 256 bytes and merging it again each time would cost more than the rest of a small call.
 * When a get finds nothing, all resting blocks are merged and it looks again.
 */
#include "shepherd/shepherd_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/poison.h"

#define ORDERS   32
#define REST_MAX 64 /* blocks of one order that may rest */
#define NONE     UINT32_MAX

enum unit_state { UNIT_INSIDE = 0, UNIT_FREE = 0x40, UNIT_REST = 0x80, UNIT_USED = 0xc0 };
#define STATE_OF(b) ((b)&0xc0)
#define ORDER_OF(b) ((b)&0x3f)

struct arena {
	uint8_t *mem;
	uint32_t units;
	uint32_t orders_free; /* bit k: free[k] is not empty */
	uint32_t orders_rest;
	uint32_t free[ORDERS]; /* heads */
	uint32_t rest[ORDERS];
	uint32_t rest_n[ORDERS];
	uint64_t used_units;
	uint32_t order_max;
	uint8_t *state;
	uint32_t *next;
	uint32_t *prev;
};

static void free_push(struct arena *a, uint32_t unit, unsigned order)
{
	uint32_t head = a->free[order];

	a->state[unit] = (uint8_t)(UNIT_FREE | order);
	a->next[unit] = head;
	a->prev[unit] = NONE;
	if (head != NONE)
		a->prev[head] = unit;
	a->free[order] = unit;
	a->orders_free |= 1u << order;
}

static void free_remove(struct arena *a, uint32_t unit, unsigned order)
{
	uint32_t next = a->next[unit], prev = a->prev[unit];

	if (next != NONE)
		a->prev[next] = prev;
	if (prev != NONE)
		a->next[prev] = next;
	else
		a->free[order] = next;
	if (a->free[order] == NONE)
		a->orders_free &= ~(1u << order);
	a->state[unit] = UNIT_INSIDE;
}

/* Put a block among the free ones, joined with its buddy as long as that is free too. */
static void free_merge(struct arena *a, uint32_t unit, unsigned order)
{
	a->state[unit] = UNIT_INSIDE;
	while (order < a->order_max) {
		uint32_t buddy = unit ^ (1u << order);

		if (buddy >= a->units || a->state[buddy] != (UNIT_FREE | order))
			break;
		free_remove(a, buddy, order);
		unit &= ~(1u << order);
		order++;
	}
	free_push(a, unit, order);
}

static void rest_merge_all(struct arena *a)
{
	while (a->orders_rest != 0) {
		unsigned order = (unsigned)__builtin_ctz(a->orders_rest);
		uint32_t unit = a->rest[order];

		while (unit != NONE) {
			uint32_t next = a->next[unit];

			free_merge(a, unit, order);
			unit = next;
		}
		a->rest[order] = NONE;
		a->rest_n[order] = 0;
		a->orders_rest &= ~(1u << order);
	}
}

int arena_create(uint8_t *mem, size_t bytes, struct arena **out)
{
	struct arena *a;
	uint32_t unit = 0;

	if (((uintptr_t)mem % SHEPHERD_BLOCK_MIN) != 0 || bytes < SHEPHERD_BLOCK_MIN ||
	    bytes / SHEPHERD_BLOCK_MIN > (1u << 30))
		return -SPLIT_E_BASE_INVALID;
	a = calloc(1, sizeof(*a));
	if (a == NULL)
		return -SPLIT_E_BASE_NOMEM;
	a->mem = mem;
	a->units = (uint32_t)(bytes / SHEPHERD_BLOCK_MIN);
	a->state = calloc(a->units, 1);
	a->next = calloc(a->units, sizeof(uint32_t));
	a->prev = calloc(a->units, sizeof(uint32_t));
	if (a->state == NULL || a->next == NULL || a->prev == NULL) {
		arena_destroy(a);
		return -SPLIT_E_BASE_NOMEM;
	}
	for (unsigned i = 0; i < ORDERS; i++)
		a->free[i] = a->rest[i] = NONE;
	while (unit < a->units) {
		unsigned fit = 31u - (unsigned)__builtin_clz(a->units - unit);
		unsigned aligned = unit == 0 ? fit : (unsigned)__builtin_ctz(unit);
		unsigned order = fit < aligned ? fit : aligned;

		if (order > a->order_max)
			a->order_max = order;
		free_push(a, unit, order);
		unit += 1u << order;
	}
	poison_region(mem, bytes);
	*out = a;
	return 0;
}

void arena_destroy(struct arena *a)
{
	if (a == NULL)
		return;
	unpoison_region(a->mem, (size_t)a->units * SHEPHERD_BLOCK_MIN);
	free(a->state);
	free(a->next);
	free(a->prev);
	free(a);
}

static uint32_t rest_take(struct arena *a, unsigned order)
{
	uint32_t unit = a->rest[order];

	a->rest[order] = a->next[unit];
	if (--a->rest_n[order] == 0)
		a->orders_rest &= ~(1u << order);
	return unit;
}

/* A block of `order`, split from the smallest free one that is large enough; NONE. */
static uint32_t free_take(struct arena *a, unsigned order)
{
	uint32_t larger = a->orders_free & ~((1u << order) - 1);
	unsigned found;
	uint32_t unit;

	if (larger == 0)
		return NONE;
	found = (unsigned)__builtin_ctz(larger);
	unit = a->free[found];
	free_remove(a, unit, found);
	while (found > order) {
		found--;
		free_push(a, unit + (1u << found), found);
	}
	return unit;
}

int arena_get(struct arena *a, size_t bytes, struct shepherd_chunk *out)
{
	size_t units = bytes / SHEPHERD_BLOCK_MIN + (bytes % SHEPHERD_BLOCK_MIN != 0);
	unsigned order;
	uint32_t unit;

	if (bytes == 0)
		return -SPLIT_E_BASE_INVALID;
	if (units > (size_t)1 << a->order_max)
		return -SPLIT_E_SHEPHERD_FULL;
	order = units == 1 ? 0 : 32u - (unsigned)__builtin_clz((uint32_t)units - 1);
	if (a->rest_n[order] != 0) {
		unit = rest_take(a, order);
	} else {
		unit = free_take(a, order);
		if (unit == NONE && a->orders_rest != 0) {
			rest_merge_all(a);
			unit = free_take(a, order);
		}
		if (unit == NONE)
			return -SPLIT_E_SHEPHERD_FULL;
	}
	a->state[unit] = (uint8_t)(UNIT_USED | order);
	a->used_units += (uint64_t)1 << order;
	out->mem = a->mem + (size_t)unit * SHEPHERD_BLOCK_MIN;
	out->bytes = (bytes + 15) & ~(size_t)15;
	unpoison_region(out->mem, out->bytes);
	return 0;
}

int arena_put(struct arena *a, const void *mem)
{
	size_t offset = (size_t)((const uint8_t *)mem - a->mem);
	uint32_t unit = (uint32_t)(offset / SHEPHERD_BLOCK_MIN);
	unsigned order;

	if (offset / SHEPHERD_BLOCK_MIN >= a->units || offset % SHEPHERD_BLOCK_MIN != 0 ||
	    STATE_OF(a->state[unit]) != UNIT_USED)
		return -SPLIT_E_SHEPHERD_BLOCK;
	order = ORDER_OF(a->state[unit]);
	poison_region(mem, (size_t)SHEPHERD_BLOCK_MIN << order);
	a->used_units -= (uint64_t)1 << order;
	if (a->rest_n[order] >= REST_MAX) {
		free_merge(a, unit, order);
		return 0;
	}
	a->state[unit] = (uint8_t)(UNIT_REST | order);
	a->next[unit] = a->rest[order];
	a->rest[order] = unit;
	a->rest_n[order]++;
	a->orders_rest |= 1u << order;
	return 0;
}

size_t arena_used(const struct arena *a)
{
	return (size_t)a->used_units * SHEPHERD_BLOCK_MIN;
}

size_t arena_capacity(const struct arena *a)
{
	return (size_t)a->units * SHEPHERD_BLOCK_MIN;
}

size_t arena_largest(const struct arena *a)
{
	return (size_t)SHEPHERD_BLOCK_MIN << a->order_max;
}
