#include "base_check.h"

#include <string.h>

#include "base/bits.h"
#include "base/poison.h"
#include "base/pool.h"
#include "base/random.h"

START_TEST(sizes)
{
	struct pool p;
	uint8_t unaligned[128];

	ck_assert_uint_eq(pool_mem_bytes(0, 4), 0);
	ck_assert_uint_eq(pool_mem_bytes(SIZE_MAX, 4), 0);
	ck_assert_uint_eq(pool_mem_bytes(SIZE_MAX / 4, 8), 0);
	ck_assert_uint_eq(pool_mem_bytes(1, 4), 64);
	ck_assert_uint_eq(pool_mem_bytes(128, 2), 256);
	ck_assert_int_eq(pool_init(&p, 16, 0, NULL), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(pool_init(&p, 0, 1, NULL), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(pool_init(&p, 16, 1, (void *)(((uintptr_t)unaligned & ~63ul) + 8)),
			 -SPLIT_E_BASE_INVALID);
	if (!POISON_ENABLED) { /* ASan's allocator aborts instead */
		ck_assert_int_eq(pool_init(&p, SIZE_MAX / 8, 4, NULL), -SPLIT_E_BASE_NOMEM);
		pool_fini(&p);
	}
}
END_TEST

START_TEST(index_of_every_size)
{
	for (size_t bytes = 1; bytes <= 3000; bytes += 7) {
		struct pool p;
		void *obj[40];

		ck_assert_int_eq(pool_init(&p, bytes, 40, NULL), 0);
		for (unsigned i = 0; i < 40; i++) {
			obj[i] = pool_get(&p);
			ck_assert_uint_eq(pool_index(&p, obj[i]), i);
		}
		for (unsigned i = 0; i < 40; i++)
			pool_put(&p, obj[i]);
		pool_fini(&p);
	}
}
END_TEST

START_TEST(every_object_once)
{
	static _Alignas(64) uint8_t mem[64 * 64];
	struct pool p;
	void *obj[64];

	ck_assert_uint_eq(pool_mem_bytes(64, 64), sizeof(mem));
	ck_assert_int_eq(pool_init(&p, 64, 64, mem), 0);
	for (unsigned i = 0; i < 64; i++) {
		obj[i] = pool_get(&p);
		ck_assert_uint_eq(pool_index(&p, obj[i]), i);
		ck_assert_ptr_eq(pool_at(&p, i), obj[i]);
		ck_assert(is_aligned((uintptr_t)obj[i], 64));
		memset(obj[i], (int)i, 64);
	}
	ck_assert_ptr_null(pool_get(&p));
	ck_assert_uint_eq(pool_in_use(&p), 64);
	for (unsigned i = 0; i < 64; i++)
		ck_assert_uint_eq(((uint8_t *)obj[i])[63], i);
	pool_put(&p, obj[5]);
	ck_assert_ptr_null(pool_at(&p, 5));
	ck_assert_ptr_null(pool_at(&p, 64));
	pool_put(&p, obj[9]);
	pool_put(&p, NULL);
	ck_assert_ptr_eq(pool_get(&p), obj[9]); /* LIFO: warm in the cache */
	ck_assert_ptr_eq(pool_get_zero(&p), obj[5]);
	ck_assert_uint_eq(((uint8_t *)obj[5])[0], 0);
	ck_assert_uint_eq(p.in_use_max, 64);
	pool_fini(&p);
	mem[0] = 1; /* the caller's again, not poisoned */
	pool_fini(&p);
}
END_TEST

START_TEST(random_walk)
{
	enum { N = 300 };
	struct pool p;
	struct random r;
	uint32_t *held[N];
	unsigned n = 0;

	random_seed(&r, 1);
	ck_assert_int_eq(pool_init(&p, 24, N, NULL), 0);
	for (int step = 0; step < 20000; step++) {
		if (random_below(&r, 2) == 0) {
			uint32_t *obj = pool_get(&p);

			ck_assert((obj == NULL) == (n == N));
			if (obj != NULL) {
				*obj = pool_index(&p, obj);
				held[n++] = obj;
			}
		} else if (n > 0) {
			unsigned k = (unsigned)random_below(&r, n);

			ck_assert_uint_eq(*held[k], pool_index(&p, held[k]));
			pool_put(&p, held[k]);
			held[k] = held[--n];
		}
		ck_assert_uint_eq(pool_in_use(&p), n);
	}
	pool_fini(&p);
}
END_TEST

BASE_CHECK_MAIN("pool", sizes, index_of_every_size, every_object_once, random_walk)
