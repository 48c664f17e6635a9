/* Counter blocks: a struct of uint64_t with a table of names.
 *
 * Thread rule: one writer thread for each block (its worker); any thread may read. Writes and reads
 * are relaxed atomic loads and stores, never read-modify-write on a shared line, so they cost a
 * plain add. A block is cache-line aligned by COUNTER_DEFINE so that no two writers share a line.
 *
 * A module declares its counters once:
 *
 *     #define NET_COUNTERS(X) X(rx_frames, "frames received") X(rx_bytes, "bytes received")
 *     COUNTER_DECLARE(net, NET_COUNTERS);         in its header: struct net_counters,
 * net_counter_desc COUNTER_DEFINE(net, NET_COUNTERS);          in one .c file
 *     counter_add(&c->rx_frames, n);
 *     counter_read(&block, &net_counter_desc, i)  for telemetry
 */
#ifndef SPLITD_BASE_COUNTER_H
#define SPLITD_BASE_COUNTER_H

#include <stddef.h>
#include <stdint.h>

#include "base/bits.h"

struct counter_name {
	const char *name; /* as shown by telemetry and splitctl: [a-z0-9_] */
	const char *help; /* one line for people */
};

struct counter_desc {
	const char *module;
	const struct counter_name *names;
	size_t count;
};

#define COUNTER_FIELD_(field, help) uint64_t field;
#define COUNTER_NAME_(field, help)  {#field, help},

#define COUNTER_DECLARE(module, LIST)                                                              \
	struct module##_counters {                                                                 \
		LIST(COUNTER_FIELD_)                                                               \
	} cache_aligned;                                                                           \
	extern const struct counter_desc module##_counter_desc

#define COUNTER_DEFINE(mod, LIST)                                                                  \
	static const struct counter_name mod##_counter_names[] = {LIST(COUNTER_NAME_)};            \
	const struct counter_desc mod##_counter_desc = {#mod, mod##_counter_names,                 \
							ARRAY_LEN(mod##_counter_names)}

/* Writer thread only. */
static inline void counter_add(uint64_t *c, uint64_t n)
{
	__atomic_store_n(c, __atomic_load_n(c, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline void counter_inc(uint64_t *c)
{
	counter_add(c, 1);
}

/* Gauges and high-water marks. Writer thread only. */
static inline void counter_set(uint64_t *c, uint64_t v)
{
	__atomic_store_n(c, v, __ATOMIC_RELAXED);
}

static inline void counter_max(uint64_t *c, uint64_t v)
{
	if (v > __atomic_load_n(c, __ATOMIC_RELAXED))
		__atomic_store_n(c, v, __ATOMIC_RELAXED);
}

/* Any thread. */
static inline uint64_t counter_get(const uint64_t *c)
{
	return __atomic_load_n(c, __ATOMIC_RELAXED);
}

/* Counter `i` of a block described by `desc`; i < desc->count. Any thread. */
static inline uint64_t counter_read(const void *block, const struct counter_desc *desc, size_t i)
{
	(void)desc;
	return counter_get((const uint64_t *)block + i);
}

/* sum[i] += block[i] for the whole block; `sum` is private to the caller. Any thread. */
static inline void counter_sum(uint64_t *sum, const void *block, const struct counter_desc *desc)
{
	for (size_t i = 0; i < desc->count; i++)
		sum[i] += counter_read(block, desc, i);
}

#endif
