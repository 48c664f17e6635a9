/* Many streams at once on several workers and daemon workers: what each handler does follows from a
 * seed (echo in the callback, echo later from another thread, end early, be cancelled). The test
 * plays splitd and checks that every stream gets its own messages, in order, within its window, and
 * exactly one status.
 *
 * usage: stream_stress_test SEED (0: by the clock) STREAMS */
#include <check.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "tests/host-lib/harness.h"

#define AT_ONCE  24
#define DAEMONS  2
#define WORKERS  3
#define READ_MAX 16

static struct harness h;

/* ---- the service ---------------------------------------------------------------------------- */

/* By the first message: what the handler does. */
enum plan { PLAN_ECHO, PLAN_LATER, PLAN_EARLY, PLANS };

struct state {
	struct split_message *kept[READ_MAX];
	unsigned first, n;
	bool half_closed, over;
	pthread_mutex_t lock;
};

static pthread_mutex_t later_lock = PTHREAD_MUTEX_INITIALIZER;
static struct split_call *later[4096];
static unsigned later_n;
static _Atomic bool later_stop;
static _Atomic unsigned closed_n, opened_n;

static void state_go(struct split_call *call, struct state *s)
{
	while (!s->over && s->n != 0) {
		struct split_message *m = s->kept[s->first];
		int rc = split_call_send(call, split_message_get(m));

		if (rc == SPLIT_AGAIN)
			return;
		split_message_release(m);
		s->first = (s->first + 1) % READ_MAX;
		s->n--;
		if (rc != 0) {
			(void)split_call_fail(call, SPLIT_ABORTED, NULL);
			s->over = true;
		}
	}
	for (; s->over && s->n != 0; s->n--) {
		split_message_release(s->kept[s->first]);
		s->first = (s->first + 1) % READ_MAX;
	}
	if (!s->over && s->half_closed) {
		s->over = true;
		(void)split_call_finish(call);
	}
}

static void on_open(struct split_call *call, void *data)
{
	struct state *s = calloc(1, sizeof(*s));

	(void)data;
	ck_assert_ptr_nonnull(s);
	pthread_mutex_init(&s->lock, NULL);
	split_call_set_user(call, s);
	opened_n++;
}

static void on_message(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	const Split__Test__Item *item = (const Split__Test__Item *)message;
	struct state *s = split_call_user(call);

	(void)data;
	pthread_mutex_lock(&s->lock);
	if (s->over) {
		pthread_mutex_unlock(&s->lock);
		return;
	}
	ck_assert_uint_lt(s->n, READ_MAX);
	s->kept[(s->first + s->n++) % READ_MAX] = split_message_retain(call);
	if (item->action % PLANS == PLAN_LATER) {
		pthread_mutex_lock(&later_lock);
		if (later_n < 4096) {
			split_call_retain(call);
			later[later_n++] = call;
		}
		pthread_mutex_unlock(&later_lock);
	} else {
		state_go(call, s);
	}
	if (item->action % PLANS == PLAN_EARLY && item->number > 5 && !s->over) {
		(void)split_call_fail(call, SPLIT_ABORTED, "early");
		s->over = true;
		state_go(call, s);
	}
	pthread_mutex_unlock(&s->lock);
}

static void on_go(struct split_call *call, void *data)
{
	struct state *s = split_call_user(call);

	(void)data;
	pthread_mutex_lock(&s->lock);
	state_go(call, s);
	pthread_mutex_unlock(&s->lock);
}

static void on_half_close(struct split_call *call, void *data)
{
	struct state *s = split_call_user(call);

	pthread_mutex_lock(&s->lock);
	s->half_closed = true;
	pthread_mutex_unlock(&s->lock);
	on_go(call, data);
}

static void on_cancelled(struct split_call *call, void *data)
{
	struct state *s = split_call_user(call);

	pthread_mutex_lock(&s->lock);
	if (!s->over)
		(void)split_call_fail(call, SPLIT_CANCELLED, NULL);
	s->over = true;
	pthread_mutex_unlock(&s->lock);
	on_go(call, data);
}

static void on_closed(struct split_call *call, void *data)
{
	struct state *s = split_call_user(call);

	(void)data;
	ck_assert_uint_eq(s->n, 0);
	pthread_mutex_destroy(&s->lock);
	free(s);
	closed_n++;
}

static void *later_main(void *arg)
{
	while (!later_stop) {
		struct split_call *call = NULL;

		pthread_mutex_lock(&later_lock);
		if (later_n != 0)
			call = later[--later_n];
		pthread_mutex_unlock(&later_lock);
		if (call == NULL) {
			sched_yield();
			continue;
		}
		on_go(call, NULL);
		split_call_release(call);
	}
	return arg;
}

static const struct split_method method = {
	.service = "split.test.Stress",
	.name = "Bidi",
	.kind = SPLIT_BIDI_STREAM,
	.input = &split__test__item__descriptor,
	.output = &split__test__item__descriptor,
	.open = on_open,
	.message = on_message,
	.half_close = on_half_close,
	.writable = on_go,
	.cancelled = on_cancelled,
	.closed = on_closed,
	.read_ahead = READ_MAX,
};

/* ---- the daemon ----------------------------------------------------------------------------- */

struct stream {
	struct hcall call;
	unsigned serial, action, messages, done, window;
	int64_t back; /* number awaited */
	bool running, half_closed, cancel;
};

static struct stream streams[AT_ONCE];
static struct random rng;

static void on_back(struct hcall *call)
{
	struct stream *s = call->user;
	Split__Test__Item *item = split__test__item__unpack(NULL, call->reply_bytes, call->reply);

	ck_assert_ptr_nonnull(item);
	ck_assert_int_eq(item->number, s->back);
	ck_assert_uint_eq(item->action, s->action);
	ck_assert_uint_eq(item->n_numbers, 1);
	ck_assert_int_eq(item->numbers[0], s->serial);
	split__test__item__free_unpacked(item, NULL);
	s->back++;
	ck_assert_uint_le(call->messages - s->done, s->window);
}

static bool stream_open(struct stream *s, unsigned serial)
{
	struct hsend send = {.d = serial % DAEMONS,
			     .lane = (unsigned)random_below(&rng, h.host_workers),
			     .method = "split.test.Stress/Bidi",
			     .open = true};
	uint8_t *reply = s->call.reply;

	s->call.reply = NULL;
	free(reply);
	if (harness_send(&h, &s->call, &send) != 0)
		return false;
	s->call.on_message = on_back;
	s->call.user = s;
	s->serial = serial;
	s->action = (unsigned)random_below(&rng, PLANS);
	s->messages = (unsigned)random_below(&rng, 40);
	s->cancel = random_below(&rng, 5) == 0;
	s->back = 0;
	s->done = 0;
	s->window = SHEPHERD_STREAM_WINDOW;
	s->half_closed = false;
	s->running = true;
	return true;
}

static void stream_send(struct stream *s)
{
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	static uint8_t bytes[3000];
	int64_t number = s->serial;

	item.pick_case = SPLIT__TEST__ITEM__PICK_NUMBER;
	item.number = s->call.sent;
	item.action = s->action;
	item.numbers = &number;
	item.n_numbers = 1;
	item.payload.data = bytes;
	item.payload.len = random_below(&rng, 4) == 0 ? (size_t)random_below(&rng, 3000) : 0;
	(void)harness_message(&h, &s->call, &item.base, false, false);
}

static void stream_grant(struct stream *s)
{
	unsigned out = s->call.messages - s->done, more;

	if (out == 0 && s->call.wants == 0)
		return;
	more = s->window < SHEPHERD_STREAM_WINDOW_MAX ? (unsigned)random_below(&rng, 3) : 0;
	if (harness_writable(&h, &s->call, out, more) != 0)
		return;
	s->done += out;
	s->window += more;
	s->call.wants = 0;
}

/* False: the stream is over. */
static bool stream_step(struct stream *s)
{
	if (!s->call.open)
		return false;
	if (s->cancel && s->call.sent > s->messages / 2)
		return harness_try_cancel(&h, &s->call) != 0;
	if (s->call.sent < s->messages && s->call.sent < READ_MAX + s->call.credit &&
	    random_below(&rng, 3) != 0)
		stream_send(s);
	else if (s->call.sent == s->messages && !s->half_closed)
		s->half_closed = harness_half_close(&h, &s->call) == 0;
	if (random_below(&rng, 3) == 0)
		stream_grant(s);
	return true;
}

static void stream_over(struct stream *s)
{
	s->running = false;
	if (s->call.closed)
		return; /* cancelled */
	ck_assert_uint_eq(s->call.answers, 1);
	if (s->call.status == SPLIT_OK)
		ck_assert_uint_eq(s->back, s->messages);
	else
		ck_assert_msg(s->call.status == SPLIT_ABORTED && s->action == PLAN_EARLY,
			      "status %u", s->call.status);
}

static uint64_t seed;
static unsigned total = 2000;

START_TEST(every_stream_gets_its_own)
{
	unsigned begun = 0, over = 0;
	struct endpoint_config config = harness_config();
	uint64_t until;
	pthread_t thread;

	random_seed(&rng, seed);
	config.daemon_workers = DAEMONS;
	config.host_workers = WORKERS;
	config.to_host_bytes = config.to_daemon_bytes = 4 << 20;
	harness_init(&h, &config, WORKERS, NULL);
	ck_assert_int_eq(split_host_serve_method(h.host, &method), 0);
	harness_run(&h);
	pthread_create(&thread, NULL, later_main, NULL);
	until = clock_ns() + 300 * CLOCK_NS_PER_SEC;
	while (over < total) {
		for (unsigned i = 0; i < AT_ONCE; i++) {
			struct stream *s = &streams[i];

			if (!s->running && begun < total && stream_open(s, begun))
				begun++;
			else if (s->running && !stream_step(s)) {
				stream_over(s);
				over++;
			}
		}
		if (harness_poll(&h) == 0)
			sched_yield();
		ck_assert_msg(clock_ns() < until, "stuck: %u of %u streams are over", over, total);
	}
	while (closed_n < opened_n) {
		(void)harness_poll(&h);
		ck_assert_msg(clock_ns() < until, "%u of %u calls were closed", closed_n, opened_n);
	}
	later_stop = true;
	pthread_join(thread, NULL);
	harness_wait_released(&h);
	for (unsigned i = 0; i < AT_ONCE; i++)
		hcall_free(&streams[i].call);
	harness_fini(&h);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("stream_stress");
	TCase *tc = tcase_create("all");
	SRunner *r;
	int failed;

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 0;
	if (argc > 2)
		total = (unsigned)strtoul(argv[2], NULL, 0);
	if (seed == 0)
		seed = clock_ns();
	printf("seed %llu\n", (unsigned long long)seed);
	tcase_set_timeout(tc, 0);
	tcase_add_test(tc, every_stream_gets_its_own);
	suite_add_tcase(s, tc);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
