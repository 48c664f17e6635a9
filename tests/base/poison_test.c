/* Under ASan this proves that an overflow out of a pool's object is caught; without it, that the
 * calls cost nothing and break nothing. */
#include "base_check.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/poison.h"
#include "base/pool.h"

START_TEST(free_objects_are_poisoned)
{
	struct pool pool;
	uint8_t *a, *b;

	ck_assert_int_eq(pool_init(&pool, 48, 4, NULL), 0);
	a = pool_get(&pool);
	b = pool_get(&pool);
	memset(a, 1, 48);
	memset(b, 2, 48);
	ck_assert(!poison_is_poisoned(a + 47));
	pool_put(&pool, b);
	ck_assert(poison_is_poisoned(b) == (POISON_ENABLED == 1));
	ck_assert(!poison_is_poisoned(a));
	pool_fini(&pool);
}
END_TEST

START_TEST(overflow_is_caught)
{
	struct pool pool;
	volatile uint8_t *obj;
	int status;
	pid_t pid;

	if (!POISON_ENABLED)
		return;
	ck_assert_int_eq(pool_init(&pool, 48, 4, NULL), 0);
	obj = pool_get(&pool);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		(void)!freopen("/dev/null", "w", stderr);
		obj[48] = 1; /* the next object, which is free */
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(!(WIFEXITED(status) && WEXITSTATUS(status) == 0));
	pool_fini(&pool);
}
END_TEST

BASE_CHECK_MAIN("poison", free_objects_are_poisoned, overflow_is_caught)
