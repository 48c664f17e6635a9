/* Rings of two slots, segments smaller than what is asked of them, tokens and tables used up: calls
 * wait or end with a status; none is lost and nothing stands still.
 *
 * Over TCP the small rings and segments are the relay's. The host has its own, of its own size, and
 * what is scarce between the two is the window; so what is asked for differs in size, and tests of
 * the window stand beside those of the segment. */
#include <check.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "tests/host-lib/harness.h"

#define UNARY "split.test.Host/Unary"

static struct harness h;
static _Atomic unsigned running, go;

static struct {
	Split__Test__Item_Closure reply;
	void *data;
} owed[512];
static _Atomic unsigned owed_n;
static struct split_call *kept[16];
static _Atomic unsigned kept_n;
static pthread_t thread_of[2];
static _Atomic unsigned go_of[2];

/* By request: 0 echoes; 1 waits for `go`; 2 is answered later by threads; 3 answers as many bytes,
 * made by the call's allocator, as the name says; 4 the same from the heap; 5 retains,
 * and answers with nothing; 6 waits for the go_of its name, then echoes. */
static void host_unary(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	Split__Test__Item out = SPLIT__TEST__ITEM__INIT;
	struct split_call *c = split_call_of(data);

	(void)self;
	if (in->action == 2) {
		owed[owed_n].reply = reply;
		owed[owed_n].data = data;
		owed_n++;
		return;
	}
	if (in->action == 1) {
		running++;
		while (go == 0)
			sched_yield();
	}
	if (in->action == 5) {
		split_call_retain(c);
		kept[kept_n] = c;
		reply(&out, data);
		kept_n++;
		return;
	}
	if (in->action == 6) {
		thread_of[atoi(in->name)] = pthread_self();
		running++;
		while (go_of[atoi(in->name)] == 0)
			sched_yield();
	}
	if (in->action < 3 || in->action == 6) {
		reply(in, data);
		return;
	}
	out.payload.len = (size_t)atoi(in->name);
	out.payload.data =
		in->action == 3 ? split_call_alloc(c, out.payload.len) : malloc(out.payload.len);
	memset(out.payload.data, 0x77, out.payload.len);
	reply(&out, data);
	if (in->action == 4)
		free(out.payload.data);
}

static void host_other(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	host_unary(self, in, reply, data);
}

static Split__Test__Host_Service service = SPLIT__TEST__HOST__INIT(host_);

static void start(const struct endpoint_config *config, unsigned workers,
		  const struct split_host_options *options)
{
	running = go = 0;
	owed_n = kept_n = 0;
	harness_init(&h, config, workers, options);
	ck_assert_int_eq(split_host_serve(h.host, &service.base), 0);
	harness_run(&h);
}

static int send_action(struct hcall *c, unsigned lane, unsigned action, const char *name)
{
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct hsend s = {.method = UNARY, .message = &item.base, .lane = lane};

	item.name = (char *)(uintptr_t)name;
	item.action = action;
	return harness_send(&h, c, &s);
}

static struct split_host_stats stats(void)
{
	struct split_host_stats s;

	split_host_stats_get(h.host, &s);
	return s;
}

/* `n` calls in flight as far as the ring allows, all answered in the end. */
static void calls_many(struct hcall *calls, unsigned n, unsigned lanes, unsigned action,
		       const char *name)
{
	unsigned sent = 0, done = 0;
	uint64_t until = clock_ns() + 20 * CLOCK_NS_PER_SEC;

	while (done < n) {
		int rc = sent < n ? send_action(&calls[sent], sent % lanes % h.host_workers, action,
						name)
				  : -1;

		if (rc == 0)
			sent++;
		else if (harness_poll(&h) == 0)
			sched_yield();
		if (h.hold_tokens && h.held_n > 3)
			harness_release_held(&h);
		while (done < sent && calls[done].answers + calls[done].refused > 0)
			done++;
		ck_assert_msg(clock_ns() < until, "%u of %u answered", done, sent);
	}
}

static void check_ok(struct hcall *calls, unsigned n, size_t payload)
{
	for (unsigned i = 0; i < n; i++) {
		Split__Test__Item *item = harness_item(&calls[i]);

		ck_assert_uint_eq(item->payload.len, payload);
		if (payload > 0)
			ck_assert_uint_eq(item->payload.data[payload - 1], 0x77);
		split__test__item__free_unpacked(item, NULL);
		hcall_free(&calls[i]);
	}
}

static struct endpoint_config tiny_config(void)
{
	struct endpoint_config c = harness_config();

	c.request_slots = c.completion_slots = c.foreign_slots = 2;
	/* Over TCP a window of 256 KiB, the smallest. */
	c.to_daemon_bytes = HARNESS_EITHER(96 * 1024, 400 * 1024);
	return c;
}

START_TEST(rings_of_two)
{
	struct endpoint_config config = tiny_config();
	static struct hcall calls[400];

	start(&config, 2, NULL);
	calls_many(calls, 200, 2, 0, "");
	check_ok(calls, 200, 0);
	calls_many(calls, 200, 2, 3, "5000");
	check_ok(calls, 200, 5000);
	/* Replies given back late and in the wrong order: RELEASE and REQUEST fight for two slots.
	 */
	h.hold_tokens = true;
	calls_many(calls, 400, 2, 4, HARNESS_EITHER("9000", "20000"));
	check_ok(calls, 400, HARNESS_EITHER(9000, 20000));
	harness_release_held(&h);
	harness_wait_released(&h);
	harness_fini(&h);
}
END_TEST

/* The worker waits for room inside its closure while its ring holds a REQUEST, and the RELEASE that
 * it waits for cannot be published before that REQUEST is taken. */
START_TEST(wait_behind_a_request)
{
	struct endpoint_config config = tiny_config();
	static struct hcall a, b, c;

	start(&config, 1, NULL);
	h.hold_tokens = true;
	ck_assert_int_eq(send_action(&a, 0, 4, "30000"), 0); /* takes most of the arena */
	harness_wait(&h, &a);
	ck_assert_int_eq(send_action(&b, 0, 4, "50000"), 0); /* waits */
	while (stats().room_waits == 0)
		harness_poll(&h);
	while (send_action(&c, 0, 0, "") != 0)
		harness_poll(&h);
	harness_release_held(&h);
	harness_wait(&h, &b);
	harness_wait(&h, &c);
	ck_assert_uint_eq(b.status, 0);
	ck_assert_uint_eq(c.status, 0);
	hcall_free(&a);
	hcall_free(&b);
	hcall_free(&c);
	harness_fini(&h);
}
END_TEST

/* A reply that can never fit, and one that does not get its room in time. */
START_TEST(arena_exhausted)
{
	struct endpoint_config config = tiny_config();
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	static struct hcall a, b;

	o.room_wait_ns = 50 * CLOCK_NS_PER_MS;
	start(&config, 1, &o);
	for (unsigned action = 3; action <= 4; action++) {
		ck_assert_int_eq(send_action(&a, 0, action, "1000000"), 0);
		harness_wait(&h, &a);
		ck_assert_uint_eq(a.status, SPLIT_RESOURCE_EXHAUSTED);
		hcall_free(&a);
	}
	ck_assert_uint_eq(stats().heap_fallback, 1);
	h.hold_tokens = true;
	ck_assert_int_eq(send_action(&a, 0, 3, "50000"), 0);
	harness_wait(&h, &a);
	ck_assert_uint_eq(a.status, 0);
	ck_assert_int_eq(send_action(&b, 0, 3, "50000"), 0);
	harness_wait(&h, &b);
	ck_assert_uint_eq(b.status, SPLIT_RESOURCE_EXHAUSTED);
	ck_assert_uint_eq(stats().room_exhausted, 3);
	harness_release_held(&h);
	h.hold_tokens = false;
	hcall_free(&a);
	ck_assert_int_eq(send_action(&a, 0, 3, "50000"), 0);
	harness_wait(&h, &a);
	check_ok(&a, 1, 50000);
	hcall_free(&b);
	harness_fini(&h);
}
END_TEST

/* More responses with the daemon than tokens. */
START_TEST(tokens_used_up)
{
	struct endpoint_config config = harness_config();
	static struct hcall calls[40];

	/* Over TCP as splitd has it: four for each call. */
	config.calls_max = HARNESS_EITHER(config.calls_max, 1);
	config.tokens_max = 4;
	start(&config, 1, NULL);
	h.hold_tokens = true;
	calls_many(calls, 40, 1, 3, "300");
	check_ok(calls, 40, 300);
	harness_release_held(&h);
	harness_fini(&h);
}
END_TEST

static void *answer_owed(void *arg)
{
	unsigned first = *(unsigned *)arg;
	Split__Test__Item out = SPLIT__TEST__ITEM__INIT;

	out.payload.len = 20000;
	out.payload.data = malloc(out.payload.len);
	memset(out.payload.data, 0x77, out.payload.len);
	for (unsigned i = first; i < owed_n; i += 4)
		owed[i].reply(&out, owed[i].data);
	free(out.payload.data);
	return NULL;
}

/* Four threads answer through one foreign lane of two slots into an arena that holds four replies,
 * while the only worker is in a handler that takes long: its ring must not hold them up. */
START_TEST(foreign_while_busy)
{
	struct endpoint_config config = tiny_config();
	static struct hcall calls[40], busy;
	static unsigned first[4] = {0, 1, 2, 3};
	pthread_t t[4];

	config.calls_max = 64;
	start(&config, 1, NULL);
	for (unsigned i = 0; i < 40; i++)
		while (send_action(&calls[i], 0, 2, "") != 0)
			harness_poll(&h);
	harness_spin(&h, 5000, &owed_n, 40);
	while (send_action(&busy, 0, 1, "") != 0)
		harness_poll(&h);
	harness_spin(&h, 5000, &running, 1);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, answer_owed, &first[i]), 0);
	for (unsigned i = 0; i < 40; i++)
		harness_wait(&h, &calls[i]);
	ck_assert_uint_eq(busy.answers, 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	check_ok(calls, 40, 20000);
	go = 1;
	harness_wait(&h, &busy);
	hcall_free(&busy);
	harness_fini(&h);
}
END_TEST

/* More calls open than the process wants: given back, not lost. */
START_TEST(calls_max)
{
	struct endpoint_config config = harness_config();
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	static struct hcall calls[80];
	unsigned refused = 0;

	config.calls_max = 128;
	o.calls_max = 64; /* one chunk of the table */
	o.drain_ns = 1;
	start(&config, 1, &o);
	for (unsigned i = 0; i < 80; i++)
		while (send_action(&calls[i], 0, 2, "") != 0)
			harness_poll(&h);
	harness_spin(&h, 5000, &owed_n, 64);
	for (uint64_t until = clock_ns() + 5 * CLOCK_NS_PER_SEC;
	     refused < 16 && clock_ns() < until;) {
		harness_poll(&h);
		refused = 0;
		for (unsigned i = 0; i < 80; i++)
			refused += calls[i].refused;
	}
	ck_assert_uint_eq(refused, 16);
	ck_assert_uint_eq(stats().refused, 16);
	harness_fini(&h);
}
END_TEST

/* A call that waits behind a stuck handler is taken back and never runs. */
START_TEST(revoke)
{
	struct endpoint_config config = harness_config();
	struct endpoint_blocks blocks = {0};
	static struct hcall stuck, waiting, after;

	config.revocable = true;
	start(&config, 1, NULL);
	ck_assert_int_eq(send_action(&stuck, 0, 1, ""), 0);
	harness_spin(&h, 5000, &running, 1);
	ck_assert_int_eq(send_action(&waiting, 0, 1, ""), 0);
	ck_assert_int_eq(endpoint_revoke(h.port[0], stuck.id, clock_ns(), &blocks),
			 -SPLIT_E_SHEPHERD_STALE);
	ck_assert_int_eq(endpoint_revoke(h.port[0], waiting.id, clock_ns(), &blocks), 0);
	endpoint_blocks_put(h.port[0], &blocks);
	go = 1;
	harness_wait(&h, &stuck);
	ck_assert_int_eq(send_action(&after, 0, 0, ""), 0);
	harness_wait(&h, &after);
	ck_assert_uint_eq(running, 1);
	ck_assert_uint_eq(stats().calls, 2);
	hcall_free(&stuck);
	hcall_free(&after);
	harness_wait_released(&h);
	harness_fini(&h);
}
END_TEST

/* ------------------------------------------------------------------ the same, over TCP */

/* In the place of wait_behind_a_request: two answers that splitd still holds fill the window, and a
 * third waits for it in the host, with whatever is behind it. */
START_TEST(wait_for_the_window)
{
	struct endpoint_config config = tiny_config();
	static struct hcall a[2], b, c;

	start(&config, 1, NULL);
	h.hold_tokens = true;
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(send_action(&a[i], 0, 4, "100000"), 0);
		harness_wait(&h, &a[i]);
	}
	ck_assert_int_eq(send_action(&b, 0, 4, "100000"), 0);
	while (send_action(&c, 0, 0, "") != 0)
		harness_poll(&h);
	for (uint64_t until = clock_ns() + 20 * CLOCK_NS_PER_SEC; stats().answers < 4;) {
		harness_poll(&h);
		ck_assert_uint_lt(clock_ns(), until); /* the handlers do not wait */
	}
	harness_spin(&h, 20, NULL, 0);
	ck_assert_uint_eq(b.answers, 0);
	harness_release_held(&h);
	harness_wait(&h, &b);
	harness_wait(&h, &c);
	h.hold_tokens = false;
	harness_release_held(&h);
	check_ok(a, 2, 100000);
	check_ok(&b, 1, 100000);
	check_ok(&c, 1, 0);
	harness_fini(&h);
}
END_TEST

#define LARGE      3900000 /* costs 4 MiB: half of splitd's window, an eighth of the host's */
#define LARGE_TEXT "3900000"

/* More answers than the window and the host's own segment take: handlers wait, and all are answered
 * once splitd gives back what it holds. */
START_TEST(handlers_wait_for_the_window)
{
	struct endpoint_config config = harness_config();
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	uint64_t until = clock_ns() + 40 * CLOCK_NS_PER_SEC;
	static struct hcall calls[16];

	o.room_wait_ns = 60 * CLOCK_NS_PER_SEC;
	start(&config, 1, &o);
	h.hold_tokens = true;
	for (unsigned i = 0; i < 16; i++)
		ck_assert_int_eq(send_action(&calls[i], 0, 4, LARGE_TEXT), 0);
	while (stats().room_waits == 0) {
		harness_poll(&h);
		ck_assert_uint_lt(clock_ns(), until);
	}
	for (unsigned i = 0; i < 16; i++) {
		while (calls[i].answers == 0) {
			if (harness_poll(&h) == 0)
				harness_release_held(&h);
			ck_assert_uint_lt(clock_ns(), until);
		}
		check_ok(&calls[i], 1, LARGE);
	}
	h.hold_tokens = false;
	harness_release_held(&h);
	ck_assert_uint_eq(stats().room_exhausted, 0);
	harness_fini(&h);
}
END_TEST

/* In the place of arena_exhausted: an answer that no window takes ends its call; one that finds no
 * room in the host's segment in time likewise. The others are answered. */
START_TEST(window_exhausted)
{
	struct endpoint_config config = tiny_config(), wide = harness_config();
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	uint64_t until = clock_ns() + 40 * CLOCK_NS_PER_SEC;
	static struct hcall a, calls[16];
	unsigned exhausted = 0;

	start(&config, 1, NULL);
	for (unsigned action = 3; action <= 4; action++) {
		ck_assert_int_eq(send_action(&a, 0, action, "1000000"), 0);
		harness_wait(&h, &a);
		ck_assert_uint_eq(a.answers, 1);
		ck_assert_uint_eq(a.status, SPLIT_RESOURCE_EXHAUSTED);
		ck_assert_str_eq(a.text, "the message is too large for the connection to splitd");
		hcall_free(&a);
	}
	ck_assert_int_eq(send_action(&a, 0, 3, "100000"), 0);
	harness_wait(&h, &a);
	check_ok(&a, 1, 100000);
	ck_assert_uint_eq(h.lost, 0);
	harness_fini(&h);

	o.room_wait_ns = CLOCK_NS_PER_MS;
	start(&wide, 1, &o);
	h.hold_tokens = true;
	for (unsigned i = 0; i < 16; i++)
		ck_assert_int_eq(send_action(&calls[i], 0, 4, LARGE_TEXT), 0);
	while (stats().answers < 16) {
		harness_poll(&h);
		ck_assert_uint_lt(clock_ns(), until);
	}
	ck_assert_uint_ge(stats().room_exhausted, 1);
	for (unsigned i = 0; i < 16; i++) {
		while (calls[i].answers == 0) {
			if (harness_poll(&h) == 0)
				harness_release_held(&h);
			ck_assert_uint_lt(clock_ns(), until);
		}
		exhausted += calls[i].status == SPLIT_RESOURCE_EXHAUSTED;
		if (calls[i].status == 0)
			check_ok(&calls[i], 1, LARGE);
		hcall_free(&calls[i]);
	}
	ck_assert_uint_eq(exhausted, stats().room_exhausted);
	h.hold_tokens = false;
	harness_release_held(&h);
	harness_fini(&h);
}
END_TEST

static void send_large(struct hcall *c, unsigned action)
{
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct hsend s = {.method = UNARY, .message = &item.base};
	uint64_t until = clock_ns() + 20 * CLOCK_NS_PER_SEC;

	item.action = action;
	item.payload.len = LARGE;
	item.payload.data = calloc(1, item.payload.len);
	while (harness_send(&h, c, &s) != 0) {
		harness_poll(&h);
		ck_assert_uint_lt(clock_ns(), until);
	}
	free(item.payload.data);
}

/* Requests that the host holds fill the window to it (32 MiB, each costs 4): the next waits with
 * splitd until one is given back. A CANCEL does not wait. */
START_TEST(window_held)
{
	struct endpoint_config config = harness_config();
	static struct hcall calls[9], cancelled;

	start(&config, 2, NULL);
	for (unsigned i = 0; i < 8; i++) {
		send_large(&calls[i], 5);
		harness_wait(&h, &calls[i]);
		check_ok(&calls[i], 1, 0);
	}
	ck_assert_uint_eq(kept_n, 8);
	send_large(&calls[8], 5);
	send_large(&cancelled, 5);
	harness_spin(&h, 20, NULL, 0);
	ck_assert_uint_eq(kept_n, 8);
	harness_cancel(&h, &cancelled);
	split_call_release(kept[0]);
	harness_wait(&h, &calls[8]);
	check_ok(&calls[8], 1, 0);
	for (unsigned i = 1; i < 8; i++)
		split_call_release(kept[i]);
	harness_spin(&h, 10000, &kept_n, 9);
	harness_wait_released(&h);
	ck_assert_uint_eq(kept_n, 9); /* the cancelled one never began */
	ck_assert_uint_eq(stats().calls, 9);
	split_call_release(kept[8]);
	ck_assert_uint_eq(h.lost, 0);
	harness_fini(&h);
}
END_TEST

/* The relay has taken all that was published. */
static bool lane_is_empty(void)
{
	struct endpoint_lane_state lane;

	endpoint_lane_state(h.port[0], 0, &lane);
	return lane.queued == 0;
}

/* In the place of revoke: the relay takes at once what is published, so that splitd finds nothing
 * to take back. Who does is the pump: of two workers one is stuck, and the call that lies behind
 * either gets the other. */
START_TEST(taken_back)
{
	struct endpoint_config config = harness_config();
	struct endpoint_blocks blocks = {0};
	static struct hcall stuck[2], waiting;
	pthread_t first = {0};

	config.revocable = true;
	start(&config, 2, NULL);
	for (unsigned round = 0; round < 2; round++) {
		unsigned free_one;

		running = go_of[0] = go_of[1] = 0;
		ck_assert_int_eq(send_action(&stuck[0], 0, 6, "0"), 0);
		ck_assert_int_eq(send_action(&stuck[1], 0, 6, "1"), 0);
		harness_spin(&h, 20000, &running, 2);
		ck_assert_uint_eq(running, 2);
		ck_assert(!pthread_equal(thread_of[0], thread_of[1]));
		ck_assert_int_eq(send_action(&waiting, 0, 0, ""), 0);
		harness_until(&h, lane_is_empty());
		harness_spin(&h, 20, NULL, 0);
		ck_assert_uint_eq(waiting.answers, 0);
		ck_assert_int_eq(endpoint_revoke(h.port[0], waiting.id, clock_ns(), &blocks),
				 -SPLIT_E_SHEPHERD_STALE);
		/* One worker in the first round, the other in the second. */
		if (round == 0)
			first = thread_of[0];
		free_one = (round == 0) == (pthread_equal(thread_of[0], first) != 0) ? 0 : 1;
		go_of[free_one] = 1;
		harness_wait(&h, &stuck[free_one]);
		harness_wait(&h, &waiting);
		ck_assert_uint_eq(waiting.status, 0);
		ck_assert_uint_eq(waiting.refused, 0);
		ck_assert_uint_eq(stuck[1 - free_one].answers, 0);
		go_of[1 - free_one] = 1;
		harness_wait(&h, &stuck[1 - free_one]);
		for (unsigned i = 0; i < 2; i++) {
			ck_assert_uint_eq(stuck[i].status, 0);
			hcall_free(&stuck[i]);
		}
		hcall_free(&waiting);
	}
	ck_assert_uint_eq(stats().calls, 6);
	harness_wait_released(&h);
	harness_fini(&h);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("full");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, rings_of_two);
	tcase_add_test(t, tokens_used_up);
	tcase_add_test(t, foreign_while_busy);
	tcase_add_test(t, calls_max);
	if (harness_over_tcp()) {
		tcase_add_test(t, wait_for_the_window);
		tcase_add_test(t, handlers_wait_for_the_window);
		tcase_add_test(t, window_exhausted);
		tcase_add_test(t, window_held);
		tcase_add_test(t, taken_back);
	} else {
		tcase_add_test(t, wait_behind_a_request);
		tcase_add_test(t, arena_exhausted);
		tcase_add_test(t, revoke);
	}
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
