/* Calls out through the public API, against a daemon that the test plays: stubs of protoc-c,
 * streams, what is inherited, cancels, limits, threads, and splitd going away under them. */
#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "tests/host-lib/harness.h"

#define OUTS 8

static struct harness h;
static struct hcall call, outs[64];
static struct split_channel *channel;
static ProtobufCService *far;
static struct split_stub *unary_stub, *bidi_stub;

/* What continuations saw. */
static _Atomic unsigned dones, messages, writables, headers, handled;
static struct split_out_result last;
static char last_text[256], last_trailer[64], last_header[64];
static int64_t last_number, start_rc;
static struct split_out *out_now;
static struct split_call *parent_now;
static pthread_t done_thread, handler_thread;
static void (*handler)(struct split_call *call);

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

static int64_t number_asked(const struct hcall *out)
{
	Split__Test__Item *item = split__test__item__unpack(NULL, out->reply_bytes, out->reply);
	int64_t n;

	ck_assert_ptr_nonnull(item);
	n = item->number;
	split__test__item__free_unpacked(item, NULL);
	return n;
}

static void result_take(const struct split_out_result *result)
{
	last = *result;
	last_number = result->reply != NULL ? number_of(result->reply) : -1;
	strncpy(last_text, result->message, sizeof(last_text) - 1);
	last_trailer[0] = '\0';
	if (result->trailers_n > 0)
		strncpy(last_trailer, result->trailers[0].value, sizeof(last_trailer) - 1);
	done_thread = pthread_self();
}

static void on_done(struct split_out *out, const struct split_out_result *result, void *data)
{
	ck_assert_ptr_eq(split_out_current(NULL), out);
	ck_assert_ptr_eq(split_out_data(out), data);
	result_take(result);
	dones++;
}

static void on_message(struct split_out *out, const ProtobufCMessage *message, void *data)
{
	(void)out;
	(void)data;
	last_number = number_of(message);
	messages++;
}

static void on_writable(struct split_out *out, void *data)
{
	(void)out;
	(void)data;
	writables++;
}

static void on_headers(struct split_out *out, const struct split_metadata *md, size_t n, void *data)
{
	(void)out;
	(void)data;
	ck_assert_uint_eq(n, 1);
	strncpy(last_header, md[0].value, sizeof(last_header) - 1);
	headers++;
}

static const struct split_out_events events = {
	.done = on_done,
	.message = on_message,
	.writable = on_writable,
	.initial_metadata = on_headers,
};

static void on_closure(const Split__Test__Item *reply, void *data)
{
	const struct split_out_result *result;

	split_out_current(&result);
	ck_assert_ptr_nonnull(result);
	result_take(result);
	ck_assert_ptr_eq(reply, (const void *)result->reply);
	split_call_answer(data, reply != NULL ? &reply->base : NULL);
	split_call_release(data);
	dones++;
}

static void handle(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	(void)message;
	(void)data;
	handler_thread = pthread_self();
	handler(c);
	handled++;
}

/* Begin with an empty list of calls out. */
static void outs_forget(void)
{
	for (unsigned i = 0; i < h.outs_n; i++)
		hcall_free(&outs[i]);
	h.outs_n = 0;
}

static void setup_with(unsigned workers, uint32_t outs_max)
{
	struct endpoint_config config = harness_config();
	struct split_method m = {.service = "split.test.Near",
				 .name = "Do",
				 .input = &split__test__item__descriptor,
				 .output = &split__test__item__descriptor,
				 .message = handle};

	config.outs_max = outs_max;
	config.host_workers = workers;
	dones = messages = writables = headers = handled = 0;
	harness_init(&h, &config, workers, NULL);
	h.outs = outs;
	h.outs_max = ARRAY_LEN(outs);
	ck_assert_int_eq(split_host_serve_method(h.host, &m), 0);
	channel = split_channel_open(h.host, "back");
	ck_assert_ptr_eq(split_channel_open(h.host, "back"), channel);
	far = split_channel_service(channel, &split__test__host__descriptor);
	ck_assert_ptr_nonnull(far);
	ck_assert_ptr_eq(split_channel_service(channel, &split__test__host__descriptor), far);
	unary_stub = split_channel_stub(channel, "split.test.Host", "Unary", SPLIT_UNARY,
					&split__test__item__descriptor,
					&split__test__item__descriptor, 0);
	bidi_stub = split_channel_stub(channel, "split.test.Host", "Talk", SPLIT_BIDI_STREAM,
				       &split__test__item__descriptor,
				       &split__test__item__descriptor, 4);
	ck_assert_ptr_nonnull(unary_stub);
	ck_assert_ptr_nonnull(bidi_stub);
	ck_assert_int_ne(split_out_start(unary_stub, NULL, NULL, &events, NULL, NULL), 0);
	harness_run(&h);
	/* What is called is declared before. */
	ck_assert_ptr_null(split_channel_stub(channel, "split.test.Host", "Later", SPLIT_UNARY,
					      &split__test__item__descriptor,
					      &split__test__item__descriptor, 0));
}

static void setup(void)
{
	setup_with(1, OUTS);
}

static void teardown(void)
{
	outs_forget();
	hcall_free(&call);
	harness_fini(&h);
}

static void begin(void (*fn)(struct split_call *c), uint64_t deadline_ns,
		  const struct metadata_item *md, size_t n)
{
	Split__Test__Item item = item_of(1);
	unsigned before = handled;
	struct hsend s = {.method = "split.test.Near/Do",
			  .message = &item.base,
			  .deadline_ns = deadline_ns,
			  .metadata = md,
			  .metadata_n = n};

	handler = fn;
	hcall_free(&call);
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_spin(&h, 10000, &handled, before + 1);
	ck_assert_uint_eq(handled, before + 1);
}

static struct hcall *out_wait(unsigned n)
{
	harness_spin(&h, 10000, &h.outs_n, n);
	ck_assert_uint_ge(h.outs_n, n);
	return &outs[n - 1];
}

static void done_wait(unsigned n)
{
	harness_spin(&h, 10000, &dones, n);
	ck_assert_uint_eq(dones, n);
}

/* ------------------------------------------------------------------ */

static void ask_by_stub(struct split_call *c)
{
	Split__Test__Item item = item_of(42);

	split_call_retain(c);
	split__test__host__unary(far, &item, on_closure, c);
}

START_TEST(stub_of_protoc_c)
{
	static const struct metadata_item md[] = {
		{"traceparent", "00-abc-def-01", 11, 13},
		{"x-other", "not passed on", 7, 13},
	};
	Split__Test__Item answer = item_of(43);
	uint64_t begun_ns = clock_ns(), deadline = begun_ns + 60 * CLOCK_NS_PER_SEC;
	Split__Test__Item *got;
	struct hcall *out;

	begin(ask_by_stub, deadline, md, 2);
	out = out_wait(1);
	ck_assert_uint_eq(number_asked(out), 42);
	ck_assert_str_eq(h.method[out->method], "split.test.Host/Unary");
	ck_assert(out->half_closed);
	ck_assert_uint_eq(out->parent, call.id);
	/* Over TCP it goes as the time left, there and back: later by the way at most. */
	ck_assert_uint_ge(out->deadline_ns, deadline);
	ck_assert_uint_le(out->deadline_ns, deadline + HARNESS_EITHER(0, clock_ns() - begun_ns));
	ck_assert_int_eq(out->initial_n, 1);
	ck_assert_str_eq(out->initial[0].name, "traceparent");
	ck_assert_uint_eq(out->initial[0].value_bytes, 13);
	ck_assert_uint_eq(dones, 0);
	ck_assert_uint_eq(call.answers, 0);
	ck_assert_int_eq(harness_out_end(&h, out, &answer.base, 0, NULL, NULL, 0), 0);
	harness_wait(&h, &call);
	got = harness_item(&call);
	ck_assert_int_eq(got->number, 43);
	split__test__item__free_unpacked(got, NULL);
	/* On the worker whose handler began it: there is no other thread. */
	ck_assert(pthread_equal(done_thread, handler_thread));
	harness_wait_released(&h);
}
END_TEST

static void ask_patiently(struct split_call *c)
{
	struct split_out_options options = SPLIT_OUT_OPTIONS_INIT;
	Split__Test__Item item = item_of(42);

	(void)c;
	options.flags = SPLIT_OUT_WAIT_FOR_READY | SPLIT_OUT_DETACHED;
	ck_assert_int_eq(split_out_start(unary_stub, &item.base, &options, &events, NULL, NULL), 0);
	options.flags = 0x80;
	ck_assert_int_eq(split_out_start(unary_stub, &item.base, &options, &events, NULL, NULL),
			 SPLIT_E_ARGUMENT);
	split_call_answer(c, &item.base);
}

/* Whether it waits for somebody who can answer: by the call, by the channel for stubs. */
START_TEST(waits)
{
	Split__Test__Item answer = item_of(43);

	begin(ask_by_stub, 0, NULL, 0);
	ck_assert(!out_wait(1)->waits);
	ck_assert_int_eq(harness_out_end(&h, &outs[0], &answer.base, 0, NULL, NULL, 0), 0);
	harness_wait(&h, &call);
	split_channel_wait_for_ready(channel, true);
	begin(ask_by_stub, 0, NULL, 0);
	ck_assert(out_wait(2)->waits);
	ck_assert_int_eq(harness_out_end(&h, &outs[1], &answer.base, 0, NULL, NULL, 0), 0);
	harness_wait(&h, &call);
	split_channel_wait_for_ready(channel, false);
	begin(ask_patiently, 0, NULL, 0);
	ck_assert(out_wait(3)->waits);
	ck_assert_int_eq(harness_out_end(&h, &outs[2], &answer.base, 0, NULL, NULL, 0), 0);
	done_wait(3);
	harness_wait(&h, &call);
	harness_wait_released(&h);
}
END_TEST

START_TEST(stub_fails)
{
	static const struct metadata_item trailers[] = {{"x-why", "because", 5, 7}};

	begin(ask_by_stub, 0, NULL, 0);
	ck_assert_int_eq(harness_out_end(&h, out_wait(1), NULL, 5, "no such thing", trailers, 1),
			 0);
	done_wait(1);
	ck_assert_int_eq(last.status, SPLIT_NOT_FOUND);
	ck_assert_str_eq(last_text, "no such thing");
	ck_assert_str_eq(last_trailer, "because");
	ck_assert_int_eq(last_number, -1);
	harness_wait(&h, &call);
	harness_wait_released(&h);
	/* Status OK without the answer there must be is no good answer. */
	begin(ask_by_stub, 0, NULL, 0);
	ck_assert_int_eq(harness_out_end(&h, out_wait(2), NULL, 0, NULL, NULL, 0), 0);
	done_wait(2);
	ck_assert_int_eq(last.status, SPLIT_INTERNAL);
}
END_TEST

/* An answer that comes before its trailers. */
START_TEST(answer_then_status)
{
	static const struct metadata_item trailers[] = {{"x-t", "v", 3, 1}};
	Split__Test__Item answer = item_of(7);
	struct hcall *out;

	begin(ask_by_stub, 0, NULL, 0);
	out = out_wait(1);
	ck_assert_int_eq(harness_out_headers(&h, out, trailers, 1), 0);
	ck_assert_int_eq(harness_message(&h, out, &answer.base, true, false), 0);
	harness_spin(&h, 20, NULL, 0);
	ck_assert_uint_eq(dones, 0);
	ck_assert_int_eq(harness_out_end(&h, out, NULL, 0, NULL, trailers, 1), 0);
	done_wait(1);
	ck_assert_int_eq(last.status, SPLIT_OK);
	ck_assert_int_eq(last_number, 7);
	ck_assert_str_eq(last_trailer, "v");
	harness_wait_released(&h);
}
END_TEST

static void talk(struct split_call *c)
{
	static const struct split_metadata md[] = {{"x-mine", "1", 6, 1}};
	struct split_out_options o = SPLIT_OUT_OPTIONS_INIT;

	o.timeout_ns = CLOCK_NS_PER_SEC;
	o.metadata = md;
	o.metadata_n = 1;
	split_call_retain(c);
	parent_now = c;
	start_rc = split_out_start(bidi_stub, NULL, &o, &events, &call, &out_now);
}

START_TEST(stream_both_ways)
{
	static const struct metadata_item hd[] = {{"x-h", "hello", 3, 5}};
	Split__Test__Item item;
	struct hcall *out;
	unsigned sent = 0;
	int rc;

	begin(talk, 0, NULL, 0);
	ck_assert_int_eq(start_rc, 0);
	out = out_wait(1);
	ck_assert(!out->half_closed);
	ck_assert_uint_ne(out->deadline_ns, 0);
	ck_assert_int_eq(out->initial_n, 1);
	ck_assert_str_eq(out->initial[0].name, "x-mine");
	/* From this thread, which is no worker: up to the window. */
	item = item_of(100);
	while ((rc = split_out_send(out_now, &item.base)) == 0)
		item = item_of(100 + ++sent);
	ck_assert_int_eq(rc, SPLIT_AGAIN);
	ck_assert_uint_eq(sent, SHEPHERD_STREAM_WINDOW);
	harness_until(&h, out->messages >= sent);
	ck_assert_uint_eq(out->messages, sent);
	ck_assert_int_eq(number_asked(out), 100 + sent - 1);
	ck_assert_int_eq(harness_writable(&h, out, sent, 0), 0);
	harness_spin(&h, 10000, &writables, 1);
	ck_assert_uint_eq(writables, 1);
	ck_assert_int_eq(split_out_send(out_now, &item.base), 0);
	ck_assert_int_eq(split_out_half_close(out_now), 0);
	ck_assert_int_eq(split_out_half_close(out_now), SPLIT_E_ANSWERED);
	ck_assert_int_eq(split_out_send(out_now, &item.base), SPLIT_E_ANSWERED);
	/* The answer. */
	ck_assert_int_eq(harness_out_headers(&h, out, hd, 1), 0);
	for (unsigned i = 0; i < 4; i++) {
		item = item_of(200 + i);
		ck_assert_int_eq(harness_message(&h, out, &item.base, i % 2 == 0, false), 0);
	}
	harness_spin(&h, 10000, &messages, 4);
	ck_assert_uint_eq(messages, 4);
	ck_assert_int_eq(last_number, 203);
	ck_assert_uint_eq(headers, 1);
	ck_assert_str_eq(last_header, "hello");
	harness_until(&h, out->half_closed);
	harness_until(&h, out->credit >= 2); /* of its read-ahead of four */
	ck_assert_int_eq(harness_out_end(&h, out, NULL, 0, NULL, NULL, 0), 0);
	done_wait(1);
	ck_assert_int_eq(last.status, SPLIT_OK);
	ck_assert_int_eq(split_out_send(out_now, &item.base), SPLIT_E_ANSWERED);
	split_out_cancel(out_now); /* too late: nothing */
	split_out_release(out_now);
	split_call_fail(parent_now, SPLIT_ABORTED, NULL);
	split_call_release(parent_now);
	harness_wait(&h, &call);
	ck_assert_uint_eq(out->abandons, 0);
	harness_wait_released(&h);
}
END_TEST

START_TEST(cancelled)
{
	struct hcall *out;

	begin(talk, 0, NULL, 0);
	out = out_wait(1);
	split_out_cancel(out_now);
	harness_until(&h, out->abandons != 0);
	harness_spin(&h, 50, NULL, 0);
	ck_assert_uint_eq(out->abandons, 1);
	ck_assert_uint_eq(dones, 0); /* the status is splitd's to say */
	ck_assert_int_eq(harness_out_end(&h, out, NULL, 1, "cancelled", NULL, 0), 0);
	done_wait(1);
	ck_assert_int_eq(last.status, SPLIT_CANCELLED);
	split_out_release(out_now);
	split_call_fail(parent_now, SPLIT_ABORTED, NULL);
	split_call_release(parent_now);
	harness_wait(&h, &call);
}
END_TEST

static unsigned begun;

static void ask_too_much(struct split_call *c)
{
	Split__Test__Item item = item_of(1);
	int rc;

	(void)c;
	begun = 0;
	while ((rc = split_out_start(unary_stub, &item.base, NULL, &events, NULL, NULL)) == 0)
		begun++;
	start_rc = rc;
	split_call_fail(c, SPLIT_ABORTED, NULL);
}

/* Past the places that splitd gives there is an error at once, and a closure with NULL. Places come
 * back. */
START_TEST(too_many)
{
	Split__Test__Item answer = item_of(5);

	for (unsigned round = 1; round <= 3; round++) {
		unsigned before = dones;

		outs_forget();
		begin(ask_too_much, 0, NULL, 0);
		ck_assert_int_eq(start_rc, SPLIT_E_NOMEM);
		ck_assert_uint_eq(begun, OUTS); /* one worker alone has them all */
		for (unsigned i = 1; i <= begun; i++)
			ck_assert_int_eq(
				harness_out_end(&h, out_wait(i), &answer.base, 0, NULL, NULL, 0),
				0);
		done_wait(before + begun);
		harness_wait(&h, &call);
	}
	outs_forget();
	begin(ask_too_much, 0, NULL, 0);
	harness_wait(&h, &call);
	begin(ask_by_stub, 0, NULL, 0);
	harness_wait(&h, &call);
	ck_assert_int_eq(last.status, SPLIT_RESOURCE_EXHAUSTED);
	harness_wait_released(&h);
}
END_TEST

static void keep_parent(struct split_call *c)
{
	split_call_retain(c);
	parent_now = c;
}

/* From a thread of the application, for a call that it has retained, and for none. */
START_TEST(foreign_threads)
{
	struct split_out_options o = SPLIT_OUT_OPTIONS_INIT;
	Split__Test__Item item = item_of(9), answer = item_of(10);
	struct hcall *out;
	unsigned n = 2;

	begin(keep_parent, 0, NULL, 0);
	o.parent = parent_now;
	ck_assert_int_eq(split_out_start(unary_stub, &item.base, &o, &events, NULL, NULL), 0);
	out = out_wait(1);
	ck_assert_uint_eq(out->parent, call.id);
	o.flags = SPLIT_OUT_DETACHED;
	ck_assert_int_eq(split_out_start(unary_stub, &item.base, &o, &events, NULL, NULL), 0);
	while (split_out_start(unary_stub, &item.base, NULL, &events, NULL, NULL) == 0)
		n++;
	ck_assert_uint_eq(n, OUTS - OUTS / 4); /* a quarter of the places is the worker's */
	ck_assert_uint_eq(out_wait(2)->parent, 0);
	for (unsigned i = 1; i <= n; i++)
		ck_assert_int_eq(harness_out_end(&h, out_wait(i), &answer.base, 0, NULL, NULL, 0),
				 0);
	done_wait(n);
	ck_assert(!pthread_equal(done_thread, pthread_self()));
	ck_assert_int_eq(split_out_start(unary_stub, &item.base, NULL, &events, NULL, NULL), 0);
	ck_assert_int_eq(harness_out_end(&h, out_wait(n + 1), &answer.base, 0, NULL, NULL, 0), 0);
	done_wait(n + 1);
	split_call_fail(parent_now, SPLIT_ABORTED, NULL);
	split_call_release(parent_now);
	harness_wait(&h, &call);
}
END_TEST

/* splitd goes: each call out ends, once; it comes back: the next goes through. */
START_TEST(splitd_goes)
{
	Split__Test__Item item = item_of(9), answer = item_of(10);

	begin(talk, 0, NULL, 0);
	out_wait(1);
	harness_drop(&h, _i == 0);
	for (unsigned i = 0; i < 10000 && dones == 0; i++)
		harness_spin(&h, 1, NULL, 0);
	ck_assert_uint_eq(dones, 1);
	ck_assert_int_eq(last.status, SPLIT_UNAVAILABLE);
	ck_assert_int_eq(split_out_send(out_now, &item.base), SPLIT_E_ANSWERED);
	split_out_release(out_now);
	split_call_fail(parent_now, SPLIT_ABORTED, NULL);
	split_call_release(parent_now);
	harness_accept(&h);
	outs_forget();
	begin(ask_by_stub, 0, NULL, 0);
	ck_assert_int_eq(harness_out_end(&h, out_wait(1), &answer.base, 0, NULL, NULL, 0), 0);
	done_wait(2);
	ck_assert_int_eq(last.status, SPLIT_OK);
	harness_wait(&h, &call);
}
END_TEST

static void setup_none(void)
{
	setup_with(1, 0);
}

/* splitd lets the host make none. */
START_TEST(none_allowed)
{
	begin(ask_by_stub, 0, NULL, 0);
	harness_wait(&h, &call);
	ck_assert_int_eq(last.status, SPLIT_RESOURCE_EXHAUSTED);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("host-lib/out");
	TCase *t = tcase_create("out"), *none = tcase_create("none");
	SRunner *runner;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, stub_of_protoc_c);
	tcase_add_test(t, waits);
	tcase_add_test(t, stub_fails);
	tcase_add_test(t, answer_then_status);
	tcase_add_test(t, stream_both_ways);
	tcase_add_test(t, cancelled);
	tcase_add_test(t, too_many);
	tcase_add_test(t, foreign_threads);
	tcase_add_loop_test(t, splitd_goes, 0, 2);
	suite_add_tcase(s, t);
	tcase_add_checked_fixture(none, setup_none, teardown);
	tcase_add_test(none, none_allowed);
	suite_add_tcase(s, none);
	runner = srunner_create(s);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
