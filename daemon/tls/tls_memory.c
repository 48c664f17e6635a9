/* OpenSSL's memory. A session that releases its record buffers when idle takes and frees 17 KiB for
 * every record; malloc gives such sizes back to its central lists each time. So each thread keeps
 * a few of them at hand. Everything else is malloc's, with the size in front, so that what OpenSSL
 * holds can be counted.
 *
 * Blocks move between threads (a helper makes a session, a worker uses and frees it): a block kept
 * is any thread's. */
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "base/poison.h"
#include "daemon/tls/tls_internal.h"

#define HEADER_BYTES 16

/* Record buffers: 16 KiB and what a record adds, by version and direction. */
#define KEPT_MIN   (16u * 1024u)
#define KEPT_BYTES (18u * 1024u)
/* A worker needs one for reading and one for writing at a time. Under ASan none are kept, so that
 * it sees a use after free. */
#define KEPT_MAX 4u

struct kept {
	void *block[KEPT_MAX];
	unsigned n;
};

static __thread struct kept kept;
static pthread_key_t kept_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool counted;

/* What each thread took less what it gave back, on a line of its own; only the sum means something.
 * Further threads share lines. */
#define COUNTS 64u
static struct {
	cache_aligned atomic_long bytes;
} used[COUNTS];
static atomic_uint threads;
static __thread unsigned thread_number; /* 0: none yet */

static void used_add(long bytes)
{
	if (unlikely(thread_number == 0))
		thread_number = 1 + atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&used[thread_number % COUNTS].bytes, bytes, memory_order_relaxed);
}

static void kept_free(void *arg)
{
	struct kept *k = arg;

	while (k->n > 0)
		free(k->block[--k->n]);
}

static size_t block_bytes(size_t n)
{
	return n >= KEPT_MIN && n <= KEPT_BYTES ? KEPT_BYTES : n;
}

static void *block_new(size_t n)
{
	bool keeps = block_bytes(n) == KEPT_BYTES;
	uint8_t *p = NULL;

	if (n > SIZE_MAX - HEADER_BYTES)
		return NULL;
	if (keeps && kept.n > 0)
		p = kept.block[--kept.n];
	else
		p = malloc(HEADER_BYTES + block_bytes(n));
	if (p == NULL)
		return NULL;
	memcpy(p, &n, sizeof(n));
	used_add((long)(HEADER_BYTES + block_bytes(n)));
	return p + HEADER_BYTES;
}

static size_t block_size(const void *block)
{
	size_t n;

	memcpy(&n, (const uint8_t *)block - HEADER_BYTES, sizeof(n));
	return n;
}

static void block_free(void *block)
{
	size_t n;

	if (block == NULL)
		return;
	n = block_bytes(block_size(block));
	used_add(-(long)(HEADER_BYTES + n));
	if (n != KEPT_BYTES || POISON_ENABLED || kept.n >= KEPT_MAX) {
		free((uint8_t *)block - HEADER_BYTES);
		return;
	}
	if (kept.n == 0)
		(void)pthread_setspecific(kept_key, &kept);
	kept.block[kept.n++] = (uint8_t *)block - HEADER_BYTES;
}

static void *hook_malloc(size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	return n != 0 ? block_new(n) : NULL;
}

static void *hook_realloc(void *block, size_t n, const char *file, int line)
{
	size_t had;
	void *p;

	if (block == NULL)
		return hook_malloc(n, file, line);
	if (n == 0) {
		block_free(block);
		return NULL;
	}
	p = block_new(n);
	if (p == NULL)
		return NULL;
	had = block_size(block);
	memcpy(p, block, had < n ? had : n);
	block_free(block);
	return p;
}

static void hook_free(void *block, const char *file, int line)
{
	(void)file;
	(void)line;
	block_free(block);
}

static void library_init(void)
{
	if (pthread_key_create(&kept_key, kept_free) == 0)
		counted = CRYPTO_set_mem_functions(hook_malloc, hook_realloc, hook_free) == 1;
	/* The system's openssl.cnf shall not decide what this daemon speaks. */
	(void)OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_LOAD_SSL_STRINGS, NULL);
}

void tls_library_init(void)
{
	(void)pthread_once(&once, library_init);
}

size_t memory_used(void)
{
	long sum = 0;

	for (unsigned i = 0; i < COUNTS; i++)
		sum += atomic_load_explicit(&used[i].bytes, memory_order_relaxed);
	return counted && sum > 0 ? (size_t)sum : 0;
}
