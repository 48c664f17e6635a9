/* Rings of two slots, segments smaller than what is asked of them, tokens and tables used up: calls
 * wait or end with a status; none is lost and nothing stands still. */
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

/* By request: 0 echoes; 1 waits for `go`; 2 is answered later by threads; 3 answers as many bytes,
 * made by the call's allocator, as the name says; 4 the same from the heap. */
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
	if (in->action < 3) {
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
	owed_n = 0;
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
		int rc = sent < n ? send_action(&calls[sent], sent % lanes, action, name) : -1;

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
	c.to_daemon_bytes = 96 * 1024;
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
	calls_many(calls, 400, 2, 4, "9000");
	check_ok(calls, 400, 9000);
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

int main(void)
{
	Suite *s = suite_create("full");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, rings_of_two);
	tcase_add_test(t, wait_behind_a_request);
	tcase_add_test(t, arena_exhausted);
	tcase_add_test(t, tokens_used_up);
	tcase_add_test(t, foreign_while_busy);
	tcase_add_test(t, calls_max);
	tcase_add_test(t, revoke);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
