/* Streams through the public API, against a daemon that the test plays: order of callbacks, credit,
 * the window and would-block, retained messages, sends from several threads, every way to end. */
#include <check.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "tests/host-lib/harness.h"

#define LOG_MAX 4096

static struct harness h;
static struct hcall call;
static struct split_call *seen; /* the call of the last open or message */

/* What the callbacks did, a letter each. */
static _Atomic char log_text[LOG_MAX];
static _Atomic unsigned log_n;

static void note(char c)
{
	unsigned n = log_n;

	if (n + 1 < LOG_MAX)
		log_text[n] = c;
	log_n = n + 1;
}

static void log_equals(const char *wanted)
{
	char text[LOG_MAX];
	unsigned n = log_n;

	for (unsigned i = 0; i < n; i++)
		text[i] = log_text[i];
	text[n] = '\0';
	ck_assert_str_eq(text, wanted);
}

static void log_check(const char *wanted)
{
	harness_spin(&h, 5000, &log_n, (unsigned)strlen(wanted));
	harness_spin(&h, 5, NULL, 0); /* nothing more comes */
	log_equals(wanted);
}

static Split__Test__Item item_of(int64_t number)
{
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;

	item.pick_case = SPLIT__TEST__ITEM__PICK_NUMBER;
	item.number = number;
	return item;
}

static int64_t number_of(const ProtobufCMessage *message)
{
	return ((const Split__Test__Item *)message)->number;
}

static int send_wait_number(struct split_call *c, int64_t number)
{
	Split__Test__Item item = item_of(number);

	return split_call_send_wait(c, &item.base, UINT64_MAX);
}

static int send_number(struct split_call *c, int64_t number)
{
	Split__Test__Item item = item_of(number);

	return split_call_send(c, &item.base);
}

/* ---- the service ---------------------------------------------------------------------------- */

static _Atomic int64_t next_number; /* what streams of the test send */
static int64_t limit;
static struct split_message *kept[64];
static _Atomic unsigned kept_n;
static bool keep;
static bool builds; /* a message is an occasion to build something */

static void on_open(struct split_call *c, void *data)
{
	(void)data;
	seen = c;
	note('o');
}

static void on_message(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	(void)data;
	seen = c;
	ck_assert_ptr_eq(split_call_message(c), message);
	if (keep) {
		kept[kept_n] = split_message_retain(c);
		ck_assert_ptr_eq(split_message_get(kept[kept_n]), message);
		kept_n++;
	}
	if (builds)
		memset(split_call_alloc(c, 3000), 'o', 3000);
	note('m');
}

static void echo_message(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	on_message(c, message, data);
	ck_assert_int_eq(send_number(c, number_of(message)), 0);
}

/* Sends next_number up to limit, as far as it goes. */
static void pump(struct split_call *c)
{
	while (next_number < limit) {
		int rc = send_number(c, next_number);

		if (rc == SPLIT_AGAIN) {
			note('a');
			return;
		}
		ck_assert_int_eq(rc, 0);
		next_number++;
	}
	note('f');
	ck_assert_int_eq(split_call_finish(c), 0);
}

static void pump_message(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	on_message(c, message, data);
	pump(c);
}

static void on_half_close(struct split_call *c, void *data)
{
	(void)data;
	(void)c;
	note('h');
}

static void finish_half_close(struct split_call *c, void *data)
{
	on_half_close(c, data);
	ck_assert_int_eq(split_call_finish(c), 0);
}

static void answer_half_close(struct split_call *c, void *data)
{
	Split__Test__Item item = item_of(77);

	on_half_close(c, data);
	ck_assert_int_eq(split_call_answer(c, &item.base), 0);
}

static void on_writable(struct split_call *c, void *data)
{
	(void)data;
	note('w');
	pump(c);
}

static void on_cancelled(struct split_call *c, void *data)
{
	(void)data;
	note('c');
	ck_assert(split_call_cancelled(c));
	ck_assert_int_eq(send_number(c, 1), SPLIT_E_LOST);
	ck_assert_int_eq(split_call_fail(c, SPLIT_CANCELLED, NULL), SPLIT_E_LOST);
}

static void on_closed(struct split_call *c, void *data)
{
	(void)data;
	(void)c;
	note('x');
}

#define METHOD(name_, kind_)                                                                       \
	.service = "split.test.Stream", .name = name_, .kind = kind_,                              \
	.input = &split__test__item__descriptor, .output = &split__test__item__descriptor,         \
	.closed = on_closed

static const struct split_method methods[] = {
	{METHOD("Bidi", SPLIT_BIDI_STREAM), .open = on_open, .message = echo_message,
	 .half_close = finish_half_close, .writable = on_writable, .cancelled = on_cancelled},
	{METHOD("Server", SPLIT_SERVER_STREAM), .message = pump_message, .writable = on_writable,
	 .cancelled = on_cancelled},
	{METHOD("Client", SPLIT_CLIENT_STREAM), .open = on_open, .message = on_message,
	 .half_close = answer_half_close, .cancelled = on_cancelled, .read_ahead = 4},
	{METHOD("Manual", SPLIT_CLIENT_STREAM), .open = on_open, .message = on_message,
	 .half_close = answer_half_close, .read_ahead = 4, .flags = SPLIT_METHOD_CREDIT},
	{METHOD("Quiet", SPLIT_BIDI_STREAM), .open = on_open, .message = on_message},
};

static void start_with(unsigned workers, const struct split_host_options *options)
{
	struct endpoint_config config = harness_config();

	config.host_workers = workers;
	log_n = 0;
	kept_n = 0;
	keep = false;
	next_number = 0;
	limit = 0;
	harness_init(&h, &config, workers, options);
	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		ck_assert_int_eq(split_host_serve_method(h.host, &methods[i]), 0);
	harness_run(&h);
}

static void setup(void)
{
	start_with(1, NULL);
}

static void teardown(void)
{
	hcall_free(&call);
	harness_fini(&h);
}

static void call_open(const char *method, bool many)
{
	static Split__Test__Item item;
	struct hsend s = {.method = method, .open = many, .message = &item.base};

	item = item_of(5);
	hcall_free(&call);
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
}

static void message_send(int64_t number, bool no_inline, bool last)
{
	Split__Test__Item item = item_of(number);
	uint8_t bytes[4000] = {1};

	if (no_inline) {
		item.payload.data = bytes;
		item.payload.len = sizeof(bytes);
	}
	while (harness_message(&h, &call, &item.base, no_inline, last) != 0)
		harness_spin(&h, 1, NULL, 0);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static int64_t numbers_wanted;

/* The replies are 0, 1, 2, … */
static void in_order(struct hcall *c)
{
	Split__Test__Item *item = split__test__item__unpack(NULL, c->reply_bytes, c->reply);

	ck_assert_ptr_nonnull(item);
	ck_assert_int_eq(item->number, numbers_wanted);
	numbers_wanted++;
	split__test__item__free_unpacked(item, NULL);
}

START_TEST(callbacks_come_in_order)
{
	call_open("split.test.Stream/Bidi", true);
	log_check("o");
	numbers_wanted = 0;
	call.on_message = in_order;
	for (int i = 0; i < 20; i++) {
		message_send(i, i % 3 == 2, false);
		while (call.messages <= (unsigned)i)
			(void)harness_poll(&h);
		ck_assert_int_eq(harness_writable(&h, &call, 1, 0), 0);
	}
	ck_assert_int_eq(harness_half_close(&h, &call), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_OK);
	ck_assert_uint_eq(call.messages, 20);
	ck_assert_uint_ge(call.credit, 16); /* in halves of the read-ahead of 16 */
	log_check("ommmmmmmmmmmmmmmmmmmmhx");
	harness_wait_released(&h);
}
END_TEST

START_TEST(half_close_may_come_with_a_message_or_alone)
{
	call_open("split.test.Stream/Bidi", true);
	message_send(0, false, true);
	harness_wait(&h, &call);
	log_check("omhx");
	log_n = 0;
	call_open("split.test.Stream/Bidi", true);
	ck_assert_int_eq(harness_half_close(&h, &call), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_OK);
	log_check("ohx");
}
END_TEST

START_TEST(a_slow_client_stops_the_handler)
{
	limit = 100;
	numbers_wanted = 0;
	call_open("split.test.Stream/Server", false);
	call.on_message = in_order;
	log_check("ma");
	ck_assert_uint_eq(call.messages, SHEPHERD_STREAM_WINDOW);
	/* A window that grows by 2 holds 4. */
	ck_assert_int_eq(harness_writable(&h, &call, 2, 2), 0);
	log_check("mawa");
	ck_assert_uint_eq(call.messages, 6);
	for (unsigned out = 4; call.answers == 0;) {
		unsigned had = call.messages;

		ck_assert_int_eq(harness_writable(&h, &call, out, 0), 0);
		while (call.messages < had + 4 && call.answers == 0)
			(void)harness_poll(&h);
		harness_spin(&h, 1, NULL, 0);
		ck_assert_uint_le(call.messages, had + 4);
	}
	ck_assert_uint_eq(call.status, SPLIT_OK);
	ck_assert_uint_eq(call.messages, 100);
	ck_assert_uint_eq(numbers_wanted, 100);
	harness_wait_released(&h);
}
END_TEST

START_TEST(large_messages_wait_for_bytes_and_want)
{
	uint8_t *bytes = calloc(1, 200000);
	Split__Test__Item item = item_of(0);
	unsigned sent = 0;
	int rc;

	item.payload.data = bytes;
	item.payload.len = 200000;
	call_open("split.test.Stream/Quiet", true);
	log_check("o");
	h.hold_tokens = true;
	ck_assert_int_eq(harness_writable(&h, &call, 0, 30), 0);
	harness_until(&h, split_call_room(seen) > SHEPHERD_STREAM_WINDOW);
	while ((rc = split_call_send(seen, &item.base)) == 0)
		ck_assert_uint_lt(++sent, 10);
	ck_assert_int_eq(rc, SPLIT_AGAIN); /* by bytes: the window has 32 */
	ck_assert_int_eq(split_call_send(seen, &item.base), SPLIT_AGAIN);
	harness_spin(&h, 20, NULL, 0);
	ck_assert_uint_eq(call.messages, sent);
	ck_assert_uint_eq(call.wants, 1); /* once for both */
	harness_release_held(&h);
	ck_assert_int_eq(harness_writable(&h, &call, sent, 0), 0);
	harness_until(&h, (rc = split_call_send(seen, &item.base)) != SPLIT_AGAIN);
	ck_assert_int_eq(rc, 0);
	h.hold_tokens = false;
	harness_release_held(&h);
	ck_assert_int_eq(split_call_finish(seen), 0);
	harness_wait(&h, &call);
	free(bytes);
}
END_TEST

START_TEST(credit_returns_with_the_message)
{
	keep = true;
	call_open("split.test.Stream/Client", true);
	for (int i = 0; i < 4; i++)
		message_send(i, i % 2 == 0, false);
	log_check("ommmm");
	ck_assert_uint_eq(call.credit, 0);
	split_message_release(kept[0]);
	harness_spin(&h, 10, NULL, 0);
	ck_assert_uint_eq(call.credit, 0); /* half of four, not before */
	split_message_release(kept[1]);
	harness_spin(&h, 10, NULL, 0);
	ck_assert_uint_eq(call.credit, 2);
	/* One that lies in a slot and one that lies in blocks are as they were. */
	ck_assert_int_eq(number_of(split_message_get(kept[2])), 2);
	ck_assert_int_eq(number_of(split_message_get(kept[3])), 3);
	ck_assert_int_eq(harness_half_close(&h, &call), 0);
	harness_wait(&h, &call);
	split_message_release(kept[2]);
	harness_spin(&h, 10, NULL, 0);
	ck_assert_int_eq(log_text[log_n - 1], 'h'); /* a kept message holds the call */
	split_message_release(kept[3]);
	log_check("ommmmhx");
	harness_wait_released(&h);
}
END_TEST

START_TEST(credit_by_hand)
{
	call_open("split.test.Stream/Manual", true);
	for (int i = 0; i < 4; i++)
		message_send(i, false, false);
	log_check("ommmm");
	harness_spin(&h, 10, NULL, 0);
	ck_assert_uint_eq(call.credit, 0);
	ck_assert_int_eq(split_call_credit(seen, 7), 0);
	harness_spin(&h, 10, NULL, 0);
	ck_assert_uint_eq(call.credit, 7);
	ck_assert_int_eq(send_number(seen, 1), SPLIT_E_KIND);
	ck_assert_int_eq(harness_half_close(&h, &call), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_OK);
	call_open("split.test.Stream/Bidi", true);
	harness_spin(&h, 10, NULL, 0);
	ck_assert_int_eq(split_call_credit(seen, 1), SPLIT_E_KIND);
	ck_assert_int_eq(split_call_answer(seen, &(Split__Test__Item)SPLIT__TEST__ITEM__INIT.base),
			 SPLIT_E_ARGUMENT);
	ck_assert_int_eq(split_call_finish(seen), 0);
	ck_assert_int_eq(split_call_finish(seen), SPLIT_E_ANSWERED);
	harness_wait(&h, &call);
}
END_TEST

START_TEST(an_early_end_drops_the_rest)
{
	call_open("split.test.Stream/Quiet", true);
	log_check("o");
	ck_assert_int_eq(split_call_add_trailing_metadata(seen, "x-t", "v", 1), 0);
	ck_assert_int_eq(split_call_fail(seen, SPLIT_ABORTED, "enough"), 0);
	for (int i = 0; i < 3; i++) {
		Split__Test__Item item = item_of(i);

		(void)harness_message(&h, &call, &item.base, true, false);
	}
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_ABORTED);
	ck_assert_str_eq(call.text, "enough");
	ck_assert_int_eq(call.trailing_n, 1);
	log_check("ox");
	harness_wait_released(&h);
}
END_TEST

START_TEST(initial_metadata_goes_first)
{
	call_open("split.test.Stream/Quiet", true);
	log_check("o");
	ck_assert_int_eq(split_call_add_initial_metadata(seen, "x-i", "v", 1), 0);
	ck_assert_int_eq(split_call_send_initial_metadata(seen), 0);
	ck_assert_int_eq(split_call_send_initial_metadata(seen), SPLIT_E_ARGUMENT);
	ck_assert_int_eq(split_call_add_initial_metadata(seen, "x-i", "v", 1), SPLIT_E_ARGUMENT);
	harness_spin(&h, 20, NULL, 0);
	ck_assert_int_eq(call.initial_n, 1);
	ck_assert_uint_eq(call.messages, 0);
	ck_assert_int_eq(split_call_finish(seen), 0);
	harness_wait(&h, &call);
}
END_TEST

START_TEST(cancel_reaches_the_handler)
{
	call_open("split.test.Stream/Bidi", true);
	message_send(0, false, false);
	log_check("om");
	harness_cancel(&h, &call);
	log_check("omcx");
	/* A method that does not want to know. */
	log_n = 0;
	call_open("split.test.Stream/Quiet", true);
	log_check("o");
	harness_cancel(&h, &call);
	log_check("ox");
}
END_TEST

/* A method that does not want to know is over by a cancel. What somebody still builds of the call,
 * with a reference of his own, stays his until he lets go. */
START_TEST(cancel_leaves_what_is_being_built)
{
	struct split_host_stats stats;
	struct split_call *first;
	uint8_t *mine;

	call_open("split.test.Stream/Quiet", true);
	log_check("o");
	first = seen;
	(void)split_call_retain(first);
	mine = split_call_alloc(first, 3000);
	ck_assert_ptr_nonnull(mine);
	memset(mine, 'm', 3000);
	harness_cancel(&h, &call);
	do {
		harness_spin(&h, 1, NULL, 0);
		split_host_stats_get(h.host, &stats);
	} while (stats.answers_late == 0);
	memset(mine, 'n', 3000);
	log_check("o"); /* not closed: it is held */
	builds = true;
	call_open("split.test.Stream/Quiet", true);
	message_send(0, false, false);
	log_check("oom");
	builds = false;
	for (unsigned i = 0; i < 3000; i++)
		ck_assert_int_eq(mine[i], 'n');
	ck_assert_int_eq(send_number(first, 1), SPLIT_E_ANSWERED);
	split_call_release(first);
	log_check("oomx");
	ck_assert_int_eq(split_call_finish(seen), 0);
	harness_wait(&h, &call);
	log_check("oomxx");
}
END_TEST

START_TEST(a_lost_daemon_cancels)
{
	call_open("split.test.Stream/Bidi", true);
	message_send(0, true, false);
	log_check("om");
	harness_drop(&h, false);
	harness_spin(&h, 5000, &log_n, 4);
	log_equals("omcx");
	harness_accept(&h);
	log_n = 0;
	call_open("split.test.Stream/Bidi", true);
	ck_assert_int_eq(harness_half_close(&h, &call), 0);
	harness_wait(&h, &call);
	log_check("ohx");
}
END_TEST

START_TEST(stop_cancels_what_does_not_end)
{
	struct split_host_options options = SPLIT_HOST_OPTIONS_INIT;

	teardown();
	options.drain_ns = 20 * CLOCK_NS_PER_MS;
	start_with(1, &options);
	call_open("split.test.Stream/Bidi", true);
	log_check("o");
	harness_stop(&h);
	log_equals("ocx");
}
END_TEST

/* Messages sent by turns on the worker, and on two other threads, come as they were sent. */
static _Atomic unsigned turn;

static void *sender(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;

	while (turn < 300) {
		if (turn % 3 != me) {
			sched_yield();
			continue;
		}
		ck_assert_int_eq(send_wait_number(seen, turn), 0);
		turn++;
	}
	return NULL;
}

static void turn_message(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	(void)message;
	(void)data;
	while (turn < 300) {
		if (turn % 3 != 0) {
			sched_yield();
			continue;
		}
		ck_assert_int_eq(send_wait_number(c, turn), 0);
		turn++;
	}
	ck_assert_int_eq(split_call_finish(c), 0);
}

START_TEST(threads_keep_their_order)
{
	static const struct split_method m = {METHOD("Turns", SPLIT_BIDI_STREAM), .open = on_open,
					      .message = turn_message};
	struct endpoint_config config = harness_config();
	pthread_t threads[2];
	unsigned done = 0;

	teardown();
	log_n = 0;
	turn = 0;
	harness_init(&h, &config, 1, NULL);
	ck_assert_int_eq(split_host_serve_method(h.host, &m), 0);
	harness_run(&h);
	call_open("split.test.Stream/Turns", true);
	log_check("o");
	numbers_wanted = 0;
	call.on_message = in_order;
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, sender, (void *)(i + 1));
	message_send(0, false, false);
	while (call.answers == 0) {
		(void)harness_poll(&h);
		if (call.messages != done && call.open &&
		    harness_writable(&h, &call, call.messages - done, 0) == 0)
			done = call.messages;
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(call.status, SPLIT_OK);
	ck_assert_int_eq(numbers_wanted, 300);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("stream");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, callbacks_come_in_order);
	tcase_add_test(tc, half_close_may_come_with_a_message_or_alone);
	tcase_add_test(tc, a_slow_client_stops_the_handler);
	tcase_add_test(tc, large_messages_wait_for_bytes_and_want);
	tcase_add_test(tc, credit_returns_with_the_message);
	tcase_add_test(tc, credit_by_hand);
	tcase_add_test(tc, an_early_end_drops_the_rest);
	tcase_add_test(tc, initial_metadata_goes_first);
	tcase_add_test(tc, cancel_reaches_the_handler);
	tcase_add_test(tc, cancel_leaves_what_is_being_built);
	tcase_add_test(tc, a_lost_daemon_cancels);
	tcase_add_test(tc, stop_cancels_what_does_not_end);
	tcase_add_test(tc, threads_keep_their_order);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	SRunner *r = srunner_create(suite());
	int failed;

	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
