/* Memory in the to-daemon segment: blocks for replies.
 *
 * One arena, one lock. Small blocks that come back by RELEASE stay with the worker that took the
 * RELEASE, so that in the steady state neither getting nor giving back takes the lock. What workers
 * keep is bounded to a sixteenth of the arena, and given back while anybody waits for room.
 */
#include "base/poison.h"
#include "host-lib/host_internal.h"

#define ROOM_CLASS_MIN SHEPHERD_BLOCK_MIN
#define ROOM_CLASS_MAX (SHEPHERD_BLOCK_MIN << (ROOM_CLASSES - 1))
#define ROOM_CACHED    ((SHEPHERD_BLOCK_MIN << ROOM_CLASSES) - SHEPHERD_BLOCK_MIN)

int room_init(struct room *r, struct shepherd_chunk mem, unsigned workers)
{
	uint64_t share = mem.bytes / 16 / (workers == 0 ? 1 : workers) / ROOM_CACHED;
	int rc = arena_create(mem.mem, mem.bytes, &r->arena);

	if (rc != 0)
		return rc;
	if (pthread_mutex_init(&r->lock, NULL) != 0) {
		arena_destroy(r->arena);
		return -SPLIT_E_BASE_NOMEM;
	}
	r->mem = mem;
	r->cache_max = share > ROOM_CACHE_MAX ? ROOM_CACHE_MAX : (unsigned)share;
	atomic_init(&r->waiters, 0);
	return 0;
}

void room_fini(struct room *r)
{
	unpoison_region(r->mem.mem, r->mem.bytes);
	arena_destroy(r->arena);
	pthread_mutex_destroy(&r->lock);
}

/* Class whose blocks have `total` bytes or more; total <= ROOM_CLASS_MAX. */
static unsigned class_of(size_t total)
{
	return total <= ROOM_CLASS_MIN ? 0 : log2_ceil(total) - log2_floor(ROOM_CLASS_MIN);
}

struct block *room_get(struct room *r, struct room_cache *cache, size_t bytes)
{
	struct shepherd_chunk chunk;
	struct block *b;
	size_t total;
	int rc;

	if (bytes > r->mem.bytes)
		return NULL;
	total = align_up(bytes + sizeof(struct block), 16);
	if (total <= ROOM_CLASS_MAX) {
		unsigned class = class_of(total);

		total = (size_t)ROOM_CLASS_MIN << class;
		if (cache != NULL && cache->free[class] != NULL) {
			b = cache->free[class];
			cache->free[class] = b->next;
			cache->count[class]--;
			unpoison_region(b, total);
			b->next = NULL;
			return b;
		}
	}
	pthread_mutex_lock(&r->lock);
	rc = arena_get(r->arena, total, &chunk);
	pthread_mutex_unlock(&r->lock);
	if (rc != 0)
		return NULL;
	b = (struct block *)(void *)chunk.mem;
	b->next = NULL;
	b->bytes = total;
	return b;
}

static bool cache_put(struct room *r, struct room_cache *cache, struct block *b)
{
	unsigned class;

	if (b->bytes > ROOM_CLASS_MAX || !is_pow2(b->bytes) || b->bytes < ROOM_CLASS_MIN ||
	    atomic_load_explicit(&r->waiters, memory_order_relaxed) != 0)
		return false;
	class = class_of(b->bytes);
	if (cache->count[class] >= r->cache_max)
		return false;
	b->next = cache->free[class];
	cache->free[class] = b;
	cache->count[class]++;
	poison_region(b + 1, b->bytes - sizeof(*b));
	return true;
}

void room_put(struct room *r, struct room_cache *cache, struct block *chain)
{
	bool locked = false;

	while (chain != NULL) {
		struct block *next = chain->next;

		if (cache == NULL || !cache_put(r, cache, chain)) {
			if (!locked)
				pthread_mutex_lock(&r->lock);
			locked = true;
			/* A block that is not held is a broken token; nothing was changed then. */
			if (arena_put(r->arena, chain) != 0)
				break;
		}
		chain = next;
	}
	if (locked)
		pthread_mutex_unlock(&r->lock);
}

void room_cache_flush(struct room *r, struct room_cache *cache)
{
	pthread_mutex_lock(&r->lock);
	for (unsigned class = 0; class < ROOM_CLASSES; class ++) {
		while (cache->free[class] != NULL) {
			struct block *b = cache->free[class];

			cache->free[class] = b->next;
			unpoison_region(b, (size_t)ROOM_CLASS_MIN << class);
			(void)arena_put(r->arena, b);
		}
		cache->count[class] = 0;
	}
	pthread_mutex_unlock(&r->lock);
}

bool room_possible(const struct room *r, size_t bytes)
{
	return bytes <= r->mem.bytes && bytes + sizeof(struct block) <= arena_largest(r->arena);
}

struct block *room_of_token(const struct room *r, uint64_t token)
{
	uint64_t base = (uint64_t)(uintptr_t)r->mem.mem;

	if (token < base || !range_fits(token - base, sizeof(struct block), r->mem.bytes) ||
	    !is_aligned(token - base, SHEPHERD_BLOCK_MIN))
		return NULL;
	return (struct block *)(uintptr_t)token;
}
