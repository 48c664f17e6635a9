/* 100,000 calls (or as many as asked for) over several daemon and host workers, answered in every
 * way at once, with replies given back out of order: each is answered exactly once and nothing is
 * left. Prints its seed; takes one as argument, and a number of calls as second. */
#include <check.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "tests/host-lib/harness.h"

#define DAEMONS 2
#define WORKERS 3
#define OPEN    96
#define THREADS 2
#define QUEUE   1024

static struct harness h;
static struct hcall calls[OPEN];
static uint32_t numbers[OPEN]; /* what each call's reply must begin with */

struct later {
	Split__Test__Item_Closure reply;
	void *data;
	const Split__Test__Item *in; /* retained; or NULL */
	uint32_t action;
};
static struct {
	pthread_mutex_t lock;
	struct later entries[QUEUE];
	unsigned head, tail;
	_Atomic bool end;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void answer(const Split__Test__Item *in, uint32_t action, Split__Test__Item_Closure reply,
		   void *data)
{
	Split__Test__Item out = SPLIT__TEST__ITEM__INIT;

	out.action = action;
	if (in != NULL && action % 3 == 0)
		out.payload = in->payload;
	reply(&out, data);
	if (action % 50 == 0)
		reply(&out, data); /* refused */
}

static void host_unary(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	struct later l = {reply, data, NULL, in->action};

	(void)self;
	if (in->action % 4 != 0) {
		answer(in, in->action, reply, data);
		return;
	}
	if (in->action % 8 == 0)
		l.in = (const Split__Test__Item *)(const void *)split_call_retain(
			split_call_of(data));
	pthread_mutex_lock(&queue.lock);
	ck_assert_uint_lt(queue.tail - queue.head, QUEUE);
	queue.entries[queue.tail++ % QUEUE] = l;
	pthread_mutex_unlock(&queue.lock);
}

static void host_other(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	host_unary(self, in, reply, data);
}

static Split__Test__Host_Service service = SPLIT__TEST__HOST__INIT(host_);

static void *later_thread(void *arg)
{
	(void)arg;
	while (!queue.end) {
		struct later l;
		bool some;

		pthread_mutex_lock(&queue.lock);
		some = queue.head != queue.tail;
		if (some)
			l = queue.entries[queue.head++ % QUEUE];
		pthread_mutex_unlock(&queue.lock);
		if (!some) {
			sched_yield();
			continue;
		}
		struct split_call *held = l.in == NULL ? NULL : split_call_of(l.data);

		answer(l.in, l.action, l.reply, l.data);
		if (held != NULL)
			split_call_release(held);
	}
	return NULL;
}

static void release_some(struct random *rng)
{
	for (unsigned n = (unsigned)(random_next(rng) % 16); n > 0 && h.held_n > 0; n--) {
		size_t i = random_next(rng) % h.held_n;
		struct held_token t = h.held[i];

		h.held[i] = h.held[--h.held_n];
		endpoint_token_release(h.port[t.d], t.lane, t.token);
	}
}

static bool open_one(struct random *rng, unsigned i, uint32_t number)
{
	static uint8_t payload[4096];
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct hsend s = {.method = "split.test.Host/Unary",
			  .message = &item.base,
			  .d = (unsigned)(random_next(rng) % DAEMONS),
			  .lane = (unsigned)(random_next(rng) % h.host_workers)};

	item.action = number;
	item.payload.data = payload;
	item.payload.len = random_next(rng) % 8 == 0 ? random_next(rng) % sizeof(payload)
						     : random_next(rng) % 100;
	numbers[i] = number;
	return harness_send(&h, &calls[i], &s) == 0;
}

static void check_answer(unsigned i)
{
	Split__Test__Item *item = harness_item(&calls[i]);

	ck_assert_uint_eq(item->action, numbers[i]);
	split__test__item__free_unpacked(item, NULL);
	hcall_free(&calls[i]);
}

static uint64_t seed;
static uint32_t total = 100000;

START_TEST(stress)
{
	struct endpoint_config config = harness_config();
	struct split_host_stats stats;
	pthread_t threads[THREADS];
	struct random rng;
	uint32_t sent = 0, done = 0;
	uint64_t progress = clock_ns();

	printf("seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	random_seed(&rng, seed);
	config.daemon_workers = DAEMONS;
	config.request_slots = 8;
	config.completion_slots = 4;
	config.foreign_slots = 4;
	config.calls_max = OPEN;
	config.to_daemon_bytes = 512 * 1024;
	harness_init(&h, &config, WORKERS, NULL);
	ck_assert_int_eq(split_host_serve(h.host, &service.base), 0);
	harness_run(&h);
	h.hold_tokens = true;
	for (unsigned i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, later_thread, NULL), 0);
	while (done < total) {
		for (unsigned i = 0; i < OPEN; i++) {
			if (calls[i].answers > 0) {
				check_answer(i);
				memset(&calls[i], 0, offsetof(struct hcall, initial_buf));
				done++;
				progress = clock_ns();
			}
			if (!calls[i].open && sent < total && open_one(&rng, i, sent + 1))
				sent++;
		}
		release_some(&rng);
		if (harness_poll(&h) == 0)
			sched_yield();
		ck_assert_msg(clock_ns() - progress < 10 * CLOCK_NS_PER_SEC,
			      "stuck: %u sent, %u answered", sent, done);
	}
	harness_release_held(&h);
	harness_wait_released(&h);
	queue.end = true;
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	split_host_stats_get(h.host, &stats);
	ck_assert_uint_eq(stats.calls, total);
	ck_assert_uint_eq(stats.answers, total);
	ck_assert_uint_eq(stats.answers_twice, total / 50);
	ck_assert_uint_eq(stats.protocol_errors, 0);
	for (unsigned d = 0; d < DAEMONS; d++) {
		ck_assert_uint_eq(h.counters[d].stale_calls, 0);
		ck_assert_uint_eq(h.counters[d].stale_releases, 0);
		ck_assert_uint_eq(endpoint_calls_open(h.port[d]), 0);
	}
	printf("%u calls, %llu from other threads, %llu waits for room, %llu parks\n", total,
	       (unsigned long long)stats.answers_async, (unsigned long long)stats.room_waits,
	       (unsigned long long)stats.parks);
	harness_fini(&h);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("stress");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 0;
	if (seed == 0)
		seed = clock_ns();
	total = argc > 2 ? (uint32_t)atoi(argv[2]) : total;
	tcase_set_timeout(t, 3600);
	tcase_add_test(t, stress);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
