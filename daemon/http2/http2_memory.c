/* Memory for sessions: bounded, preallocated, and cheap for nghttp2's dozen allocations a call.
 *
 * One anonymous mapping is cut into 8 KiB pages. A buddy system hands out runs of pages; a request
 * of up to 4 KiB is served from a page that holds objects of one size class, tracked by a bitmap in
 * the page table, out of reach of whoever overruns an object. Full pages are on no list, empty ones
 * go back to the buddies (one is kept for each class), so no class starves another for ever.
 */
#include "daemon/http2/http2_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/poison.h"

#define NONE UINT32_MAX

enum { PAGE_FREE_TAIL, PAGE_FREE_HEAD, PAGE_RUN, PAGE_SLAB };

const uint16_t http2_memory_class_bytes[MEMORY_CLASSES] = {32,  48,  64,  96,   128,  192,  256,
							   384, 512, 768, 1024, 1600, 2720, 4096};
#define SLAB_BYTES_MAX 4096

const uint8_t http2_memory_class_small[MEMORY_SMALL / 16 + 1] = {
	0, 0, 0, 1, 2, 3,  3,  4,  4,  5,  5,  5,  5,  6,  6,  6,  6,  7,  7,  7,  7,  7,
	7, 7, 7, 8, 8, 8,  8,  8,  8,  8,  8,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,
	9, 9, 9, 9, 9, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10,
};

/* 2^24 / size, rounded up: (offset * it) >> 24 is offset / size for every offset within a page. */
#define RECIPROCAL(size) (((1u << 24) + (size)-1) / (size))
static const uint32_t class_reciprocal[MEMORY_CLASSES] = {
	RECIPROCAL(32),   RECIPROCAL(48),   RECIPROCAL(64),   RECIPROCAL(96),  RECIPROCAL(128),
	RECIPROCAL(192),  RECIPROCAL(256),  RECIPROCAL(384),  RECIPROCAL(512), RECIPROCAL(768),
	RECIPROCAL(1024), RECIPROCAL(1600), RECIPROCAL(2720), RECIPROCAL(4096)};

static unsigned class_of(size_t bytes)
{
	if (likely(bytes <= MEMORY_SMALL))
		return http2_memory_class_small[(bytes + 15) >> 4];
	return bytes <= 1600 ? 11 : bytes <= 2720 ? 12 : 13;
}

static void list_push(struct http2_memory *m, uint32_t *head, uint32_t i)
{
	m->page[i].prev = NONE;
	m->page[i].next = *head;
	if (*head != NONE)
		m->page[*head].prev = i;
	*head = i;
}

static void list_remove(struct http2_memory *m, uint32_t *head, uint32_t i)
{
	struct memory_page *p = &m->page[i];

	if (p->prev == NONE)
		*head = p->next;
	else
		m->page[p->prev].next = p->next;
	if (p->next != NONE)
		m->page[p->next].prev = p->prev;
}

/* Give one aligned block of 2^order pages back, joining it with its free buddies. */
static void buddy_put(struct http2_memory *m, uint32_t i, unsigned order)
{
	while (order + 1 < MEMORY_ORDERS) {
		uint32_t buddy = i ^ (1u << order);

		if (buddy >= m->pages || m->page[buddy].state != PAGE_FREE_HEAD ||
		    m->page[buddy].order != order)
			break;
		list_remove(m, &m->free_head[order], buddy);
		m->page[buddy].state = PAGE_FREE_TAIL;
		m->page[i].state = PAGE_FREE_TAIL;
		i &= ~(1u << order);
		order++;
	}
	m->page[i].state = PAGE_FREE_HEAD;
	m->page[i].order = (uint8_t)order;
	list_push(m, &m->free_head[order], i);
}

/* Pages [i, i+n): as the largest aligned blocks they are made of. */
static void pages_put(struct http2_memory *m, uint32_t i, uint32_t n)
{
	while (n > 0) {
		unsigned order = log2_floor(n);

		if (i != 0 && (unsigned)__builtin_ctz(i) < order)
			order = (unsigned)__builtin_ctz(i);
		if (order >= MEMORY_ORDERS)
			order = MEMORY_ORDERS - 1;
		m->page[i].state = PAGE_FREE_TAIL;
		buddy_put(m, i, order);
		i += 1u << order;
		n -= 1u << order;
	}
}

/* `n` pages in a row, or NONE. */
static uint32_t pages_get(struct http2_memory *m, uint32_t n)
{
	unsigned order = log2_ceil(n);
	unsigned from = order;
	uint32_t i;

	while (from < MEMORY_ORDERS && m->free_head[from] == NONE)
		from++;
	if (from >= MEMORY_ORDERS)
		return NONE;
	i = m->free_head[from];
	list_remove(m, &m->free_head[from], i);
	m->page[i].state = PAGE_RUN;
	m->page[i].pages = (uint16_t)n;
	pages_put(m, i + n, (1u << from) - n);
	return i;
}

int http2_memory_init(struct http2_memory *m, size_t bytes)
{
	size_t pages = bytes >> MEMORY_PAGE_SHIFT;

	memset(m, 0, sizeof(*m));
	if (pages == 0 || pages > UINT32_MAX / 2)
		return -SPLIT_E_BASE_INVALID;
	m->base = mmap(NULL, pages << MEMORY_PAGE_SHIFT, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->base == MAP_FAILED) {
		m->base = NULL;
		return -SPLIT_E_BASE_NOMEM;
	}
	m->page = calloc(pages, sizeof(*m->page));
	if (m->page == NULL) {
		(void)munmap(m->base, pages << MEMORY_PAGE_SHIFT);
		m->base = NULL;
		return -SPLIT_E_BASE_NOMEM;
	}
	m->pages = (uint32_t)pages;
	for (unsigned i = 0; i < MEMORY_ORDERS; i++)
		m->free_head[i] = NONE;
	for (unsigned i = 0; i < MEMORY_CLASSES; i++)
		m->partial[i] = NONE;
	pages_put(m, 0, m->pages);
	poison_region(m->base, pages << MEMORY_PAGE_SHIFT);
	return 0;
}

void http2_memory_fini(struct http2_memory *m)
{
	if (m->base != NULL) {
		unpoison_region(m->base, (size_t)m->pages << MEMORY_PAGE_SHIFT);
		(void)munmap(m->base, (size_t)m->pages << MEMORY_PAGE_SHIFT);
	}
	free(m->page);
	memset(m, 0, sizeof(*m));
}

static uint32_t slab_new(struct http2_memory *m, unsigned class)
{
	uint32_t i = pages_get(m, 1);
	unsigned objects = MEMORY_PAGE / http2_memory_class_bytes[class];
	struct memory_page *p;

	if (i == NONE)
		return NONE;
	p = &m->page[i];
	p->state = PAGE_SLAB;
	p->class = (uint8_t) class;
	p->used = 0;
	for (unsigned w = 0; w < 4; w++) {
		unsigned bits = objects > w * 64 ? objects - w * 64 : 0;

		p->free_bits[w] = bits >= 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
	}
	list_push(m, &m->partial[class], i);
	return i;
}

/* An object of the class from its pages, as poisoned as it lay there. */
static uint8_t *slab_get(struct http2_memory *m, unsigned class)
{
	uint32_t i = m->partial[class];
	struct memory_page *p;
	unsigned w = 0;
	unsigned bit;

	if (unlikely(i == NONE)) {
		i = slab_new(m, class);
		if (i == NONE)
			return NULL;
	}
	p = &m->page[i];
	while (p->free_bits[w] == 0)
		w++;
	bit = (unsigned)__builtin_ctzll(p->free_bits[w]);
	p->free_bits[w] &= p->free_bits[w] - 1;
	p->used++;
	if ((p->free_bits[0] | p->free_bits[1] | p->free_bits[2] | p->free_bits[3]) == 0)
		list_remove(m, &m->partial[class], i);
	return m->base + ((size_t)i << MEMORY_PAGE_SHIFT) +
	       (w * 64 + bit) * http2_memory_class_bytes[class];
}

static void slab_put(struct http2_memory *m, uint32_t i, size_t offset)
{
	struct memory_page *p = &m->page[i];
	size_t bytes = http2_memory_class_bytes[p->class];
	size_t object = (offset * class_reciprocal[p->class]) >> 24;
	uint64_t bit = UINT64_C(1) << (object % 64);
	bool was_full =
		(p->free_bits[0] | p->free_bits[1] | p->free_bits[2] | p->free_bits[3]) == 0;

	assert(object * bytes == offset && !(p->free_bits[object / 64] & bit));
	p->free_bits[object / 64] |= bit;
	p->used--;
	if (was_full)
		list_push(m, &m->partial[p->class], i);
	/* Keep one empty page, so that a class at the edge does not fetch and return it each time.
	 */
	if (unlikely(p->used == 0) && (p->prev != NONE || p->next != NONE)) {
		list_remove(m, &m->partial[p->class], i);
		pages_put(m, i, 1);
	}
}

static uint32_t page_of(const struct http2_memory *m, const void *ptr, size_t *offset_out)
{
	size_t at = (size_t)((const uint8_t *)ptr - m->base);

	assert((const uint8_t *)ptr >= m->base && at >> MEMORY_PAGE_SHIFT < m->pages);
	*offset_out = at & (MEMORY_PAGE - 1);
	return (uint32_t)(at >> MEMORY_PAGE_SHIFT);
}

/* Give all that is cached back to its pages. False when there was nothing. */
static bool cache_flush(struct http2_memory *m)
{
	bool any = false;

	for (unsigned class = 0; class < MEMORY_CLASSES; class ++) {
		struct memory_cache *c = &m->cache[class];

		while (c->n > 0) {
			size_t offset;
			uint32_t i = page_of(m, c->object[--c->n], &offset);

			slab_put(m, i, offset);
			any = true;
		}
	}
	return any;
}

static uint8_t *object_get(struct http2_memory *m, unsigned class)
{
	struct memory_cache *c = &m->cache[class];
	uint8_t *object;

	if (likely(c->n > 0))
		return c->object[--c->n];
	object = slab_get(m, class);
	if (unlikely(object == NULL) && cache_flush(m))
		object = slab_get(m, class);
	return object;
}

static size_t object_put(struct http2_memory *m, uint32_t i, size_t offset)
{
	unsigned class = m->page[i].class;
	struct memory_cache *c = &m->cache[class];
	uint8_t *object = m->base + ((size_t)i << MEMORY_PAGE_SHIFT) + offset;

	m->used -= http2_memory_class_bytes[class];
	poison_region(object, http2_memory_class_bytes[class]);
	if (likely(c->n < MEMORY_CACHE)) {
		assert(c->n == 0 || c->object[c->n - 1] != object);
		c->object[c->n++] = object;
	} else {
		slab_put(m, i, offset);
	}
	return http2_memory_class_bytes[class];
}

void *http2_memory_get(struct http2_memory *m, size_t bytes, size_t *taken_out)
{
	uint32_t pages;
	uint32_t i;

	if (unlikely(bytes == 0))
		return NULL;
	if (likely(bytes <= SLAB_BYTES_MAX)) {
		unsigned class = class_of(bytes);
		uint8_t *object = object_get(m, class);

		if (unlikely(object == NULL))
			return NULL;
		*taken_out = http2_memory_class_bytes[class];
		m->used += *taken_out;
		unpoison_region(object, bytes);
		return object;
	}
	if (bytes > MEMORY_BYTES_MAX)
		return NULL;
	pages = (uint32_t)((bytes + MEMORY_PAGE - 1) >> MEMORY_PAGE_SHIFT);
	i = pages_get(m, pages);
	if (i == NONE && cache_flush(m))
		i = pages_get(m, pages);
	if (i == NONE)
		return NULL;
	*taken_out = (size_t)pages << MEMORY_PAGE_SHIFT;
	m->used += *taken_out;
	unpoison_region(m->base + ((size_t)i << MEMORY_PAGE_SHIFT), bytes);
	return m->base + ((size_t)i << MEMORY_PAGE_SHIFT);
}

size_t http2_memory_put(struct http2_memory *m, void *ptr)
{
	size_t offset;
	uint32_t i;
	uint32_t n;

	if (ptr == NULL)
		return 0;
	i = page_of(m, ptr, &offset);
	if (likely(m->page[i].state == PAGE_SLAB))
		return object_put(m, i, offset);
	assert(m->page[i].state == PAGE_RUN && offset == 0);
	n = m->page[i].pages;
	m->used -= (size_t)n << MEMORY_PAGE_SHIFT;
	poison_region(ptr, (size_t)n << MEMORY_PAGE_SHIFT);
	pages_put(m, i, n);
	return (size_t)n << MEMORY_PAGE_SHIFT;
}

size_t http2_memory_size(const struct http2_memory *m, const void *ptr)
{
	size_t offset;
	uint32_t i = page_of(m, ptr, &offset);

	if (m->page[i].state == PAGE_SLAB)
		return http2_memory_class_bytes[m->page[i].class];
	return (size_t)m->page[i].pages << MEMORY_PAGE_SHIFT;
}

/* ---- a session's part --------------------------------------------------------------------------
 */

static void *pocket_malloc(size_t bytes, void *user)
{
	struct http2_pocket *pocket = user;
	size_t taken = 0;
	void *p = NULL;

	if (unlikely(pocket->used + bytes > pocket->max)) {
		counter_inc(pocket->refused);
		return NULL;
	}
	p = http2_memory_get_cached(pocket->memory, bytes, &taken);
	if (unlikely(p == NULL))
		p = http2_memory_get(pocket->memory, bytes, &taken);
	pocket->used += taken;
	if (unlikely(p == NULL && bytes != 0))
		counter_inc(pocket->refused);
	return p;
}

static void pocket_free(void *p, void *user)
{
	struct http2_pocket *pocket = user;

	pocket->used -= http2_memory_put(pocket->memory, p);
}

static void *pocket_calloc(size_t n, size_t size, void *user)
{
	size_t bytes;
	void *p;

	if (__builtin_mul_overflow(n, size, &bytes))
		return NULL;
	p = pocket_malloc(bytes, user);
	if (p != NULL)
		memset(p, 0, bytes);
	return p;
}

static void *pocket_realloc(void *old, size_t bytes, void *user)
{
	struct http2_pocket *pocket = user;
	size_t have = old == NULL ? 0 : http2_memory_size(pocket->memory, old);
	void *p = pocket_malloc(bytes, user);

	if (p == NULL || old == NULL)
		return p;
	/* The old block's true length is not known; its room is at least that. */
	unpoison_region(old, have);
	memcpy(p, old, have < bytes ? have : bytes);
	pocket_free(old, user);
	return p;
}

nghttp2_mem http2_pocket_mem(struct http2_pocket *pocket)
{
	return (nghttp2_mem){.mem_user_data = pocket,
			     .malloc = pocket_malloc,
			     .free = pocket_free,
			     .calloc = pocket_calloc,
			     .realloc = pocket_realloc};
}
