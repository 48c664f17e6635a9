/* Mbufs under AddressSanitizer. ASan knows nothing of DPDK's memory, so in such builds the pools
 * use mempool operations of their own: the usual ring, but a free mbuf's room is poisoned, and so
 * is the gap in front of the next mbuf, which catches what runs over the end of a room. Such pools
 * have no per-lcore caches: a cached mbuf would be free and unpoisoned. Elsewhere this file is
 * empty. */
#include <errno.h>
#include <string.h>

#include "base/poison.h"
#include "daemon/port/port_internal.h"

#if POISON_ENABLED

/* net_af_xdp 22.11 never frees libxdp's handle of its memory: 80 bytes once, theirs. */
const char *__lsan_default_suppressions(void); /* NOLINT: the sanitizer's name */
const char *__lsan_default_suppressions(void)  /* NOLINT */
{
	return "leak:xsk_umem__create\n";
}

static const struct rte_mempool_ops *ring_ops(void)
{
	for (uint32_t i = 0; i < rte_mempool_ops_table.num_ops; i++)
		if (strcmp(rte_mempool_ops_table.ops[i].name, "ring_mp_mc") == 0)
			return &rte_mempool_ops_table.ops[i];
	return NULL;
}

static int poison_alloc(struct rte_mempool *pool)
{
	return ring_ops() != NULL ? ring_ops()->alloc(pool) : -ENOTSUP;
}

static void poison_free(struct rte_mempool *pool)
{
	ring_ops()->free(pool);
}

static size_t room_bytes(const struct rte_mempool *pool)
{
	return pool->elt_size - sizeof(struct rte_mbuf);
}

/* Between the mbuf before (or its trailer) and this one's mempool header. */
static size_t gap_bytes(const struct rte_mempool *pool)
{
	return pool->header_size - sizeof(struct rte_mempool_objhdr);
}

/* pool_config is ours: not NULL once the pool stands. While it is populated nothing is poisoned,
 * for DPDK clears the memory when it has to give up half way. */
static int poison_enqueue(struct rte_mempool *pool, void *const *mbufs, unsigned n)
{
	for (unsigned i = 0; i < n && pool->pool_config != NULL; i++)
		poison_region((char *)mbufs[i] + sizeof(struct rte_mbuf), room_bytes(pool));
	return ring_ops()->enqueue(pool, mbufs, n);
}

static int poison_dequeue(struct rte_mempool *pool, void **mbufs, unsigned n)
{
	int result = ring_ops()->dequeue(pool, mbufs, n);

	for (unsigned i = 0; i < n && result == 0; i++)
		unpoison_region((char *)mbufs[i] + sizeof(struct rte_mbuf), room_bytes(pool));
	return result;
}

static unsigned poison_count(const struct rte_mempool *pool)
{
	return ring_ops()->get_count(pool);
}

static const struct rte_mempool_ops poison_ops = {
	.name = "splitd_poison",
	.alloc = poison_alloc,
	.free = poison_free,
	.enqueue = poison_enqueue,
	.dequeue = poison_dequeue,
	.get_count = poison_count,
};

RTE_MEMPOOL_REGISTER_OPS(poison_ops);

static void poison_object(struct rte_mempool *pool, void *opaque, void *object, unsigned index)
{
	(void)opaque;
	(void)index;
	poison_region((char *)object - pool->header_size, gap_bytes(pool));
	poison_region((char *)object + sizeof(struct rte_mbuf), room_bytes(pool));
}

static void unpoison_object(struct rte_mempool *pool, void *opaque, void *object, unsigned index)
{
	(void)opaque;
	(void)index;
	unpoison_region((char *)object - pool->header_size,
			(size_t)pool->header_size + pool->elt_size);
}

const char *port_poison_ops(void)
{
	return poison_ops.name;
}

void port_poison_begin(struct rte_mempool *pool)
{
	rte_mempool_obj_iter(pool, poison_object, NULL);
	pool->pool_config = pool;
}

void port_poison_forget(struct rte_mempool *pool)
{
	if (pool != NULL)
		rte_mempool_obj_iter(pool, unpoison_object, NULL);
}

#else

void port_poison_begin(struct rte_mempool *pool)
{
	(void)pool;
}

const char *port_poison_ops(void)
{
	return NULL;
}

void port_poison_forget(struct rte_mempool *pool)
{
	(void)pool;
}

#endif
