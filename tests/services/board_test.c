/* The board: what one worker writes is what the others read, whole or not at all. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/wheel.h"
#include "daemon/services/services_internal.h"

#define WORKERS 2
#define SOCKETS 8

static struct wheel wheel;
static struct grpc_server *servers[WORKERS];
static struct services *workers[WORKERS];
static struct services_board *board;

static enum services_health health(void *ctx, const char *name, size_t n)
{
	(void)ctx;
	(void)name;
	(void)n;
	return SERVICES_SERVING;
}

static const char *service(void *ctx, size_t i)
{
	(void)ctx;
	(void)i;
	return NULL;
}

static const struct services_catalog *catalog(void *ctx, size_t i)
{
	(void)ctx;
	(void)i;
	return NULL;
}

static const struct grpc_backend backend;

static void setup(void)
{
	static const struct services_listener listener = {"main", {.family = 4, .port = 7}};
	static const struct services_source source = {health, service, catalog, NULL};
	const struct services_board_config cfg = {WORKERS, SOCKETS, &listener, 1};
	struct grpc_config grpc;

	wheel_init(&wheel, 1000000000);
	grpc_config_default(&grpc, 2);
	ck_assert_int_eq(services_board_create(&cfg, &board), 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		const struct services_config own = {.worker = i, .board = board};

		ck_assert_int_eq(grpc_server_create(&grpc, &backend, NULL, &wheel, &servers[i]), 0);
		ck_assert_int_eq(services_create(&own, &source, servers[i], &workers[i]), 0);
	}
}

static void teardown(void)
{
	for (unsigned i = 0; i < WORKERS; i++) {
		services_destroy(workers[i]);
		grpc_server_destroy(servers[i]);
	}
	services_board_destroy(board);
}

/* A connection whose every word says `n`. */
static struct services_socket *enter(unsigned worker, uint64_t n)
{
	struct services_address local = {.family = 4, .port = (uint16_t)n}, remote = local;
	struct services_socket *s;

	memcpy(local.bytes, &n, sizeof(n));
	memcpy(remote.bytes, &n, sizeof(n));
	s = services_socket_open(workers[worker], &local, &remote, NULL);
	if (s != NULL) {
		counter_set(&s->stats.streams_started, n);
		counter_set(&s->stats.received_ns, n);
	}
	return s;
}

static unsigned listed(uint64_t from)
{
	uint64_t last = 0;
	unsigned n = 0;

	for (uint64_t id = board_socket_from(board, from); id != 0;
	     id = board_socket_from(board, id + 1)) {
		ck_assert_uint_gt(id, last);
		last = id;
		n++;
	}
	return n;
}

START_TEST(sockets_come_and_go)
{
	struct services_socket *all[WORKERS][SOCKETS], copy;
	uint64_t first, again;

	ck_assert_uint_eq(listed(0), 0);
	for (unsigned i = 0; i < SOCKETS; i++)
		for (unsigned w = 0; w < WORKERS; w++)
			all[w][i] = enter(w, 100 * w + i + 1);
	ck_assert_ptr_null(enter(0, 9)); /* full */
	ck_assert_uint_eq(listed(0), WORKERS * SOCKETS);
	first = board_socket_from(board, 0);
	ck_assert_uint_eq(listed(first + 1), WORKERS * SOCKETS - 1);
	ck_assert(board_socket_read(board, first, &copy));
	ck_assert_uint_eq(copy.stats.streams_started, 1);
	ck_assert_uint_eq(copy.remote.port, 1);
	/* Its slot for another: the old id tells of nobody. */
	services_socket_close(workers[0], all[0][0]);
	ck_assert(!board_socket_read(board, first, &copy));
	ck_assert_uint_eq(listed(0), WORKERS * SOCKETS - 1);
	all[0][0] = enter(0, 55);
	again = board_socket_from(board, 0);
	ck_assert_uint_ne(again, first);
	ck_assert(board_socket_read(board, again, &copy));
	ck_assert_uint_eq(copy.stats.streams_started, 55);
	ck_assert_uint_eq(copy.stats.messages_sent, 0);
	for (unsigned i = 0; i < SOCKETS; i++)
		for (unsigned w = 0; w < WORKERS; w++)
			services_socket_close(workers[w], all[w][i]);
	ck_assert_uint_eq(listed(0), 0);
	services_socket_close(workers[0], NULL);
}
END_TEST

START_TEST(ids_that_are_none)
{
	static const uint64_t ids[] = {0,
				       1,
				       2,
				       UINT64_C(1) << 32,
				       UINT64_MAX,
				       INT64_MAX,
				       UINT64_C(1) << 52,
				       UINT64_C(9) << 52};
	struct services_socket copy;

	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		ck_assert(!board_socket_read(board, ids[i], &copy));
		ck_assert_uint_eq(board_socket_from(board, ids[i]), 0);
	}
}
END_TEST

static atomic_bool stop;

static void *churn(void *arg)
{
	struct services_socket *held[SOCKETS] = {NULL};

	(void)arg;
	for (uint64_t n = 1; !atomic_load(&stop); n++) {
		unsigned i = (unsigned)(n * 2654435761u >> 16) % SOCKETS;

		services_socket_close(workers[1], held[i]);
		held[i] = enter(1, n);
	}
	for (unsigned i = 0; i < SOCKETS; i++)
		services_socket_close(workers[1], held[i]);
	return NULL;
}

START_TEST(a_copy_is_of_one_connection)
{
	unsigned copies = 0, tries = 0;
	pthread_t thread;

	atomic_store(&stop, false);
	ck_assert_int_eq(pthread_create(&thread, NULL, churn, NULL), 0);
	/* As many as it takes; where one core is shared few change hands meanwhile. */
	while (copies < 20000 && tries < 2000000) {
		uint64_t id = board_socket_from(board, 0);

		for (; id != 0; id = board_socket_from(board, id + 1)) {
			struct services_socket copy;
			uint64_t local, remote;

			tries++;
			if (!board_socket_read(board, id, &copy))
				continue;
			memcpy(&local, copy.local.bytes, sizeof(local));
			memcpy(&remote, copy.remote.bytes, sizeof(remote));
			ck_assert_uint_eq(local, remote);
			ck_assert_uint_eq(copy.local.port, (uint16_t)local);
			/* The counters are written after the id, as calls come. */
			ck_assert(copy.stats.streams_started == local ||
				  copy.stats.streams_started == 0);
			copies++;
		}
		tries++;
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	ck_assert_uint_gt(copies, 0);
	ck_assert_uint_eq(listed(0), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("services/board");
	TCase *tc = tcase_create("board");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, sockets_come_and_go);
	tcase_add_test(tc, ids_that_are_none);
	tcase_add_test(tc, a_copy_is_of_one_connection);
	suite_add_tcase(s, tc);
	runner = srunner_create(s);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
