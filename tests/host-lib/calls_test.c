/* Calls through the public API, against a daemon that the test plays: sync, later, from other
 * threads, twice, forgotten, retained, cancelled; status and metadata. */
#include <check.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/poison.h"
#include "tests/host-lib/harness.h"

#define UNARY "split.test.Host/Unary"

static struct harness h;
static struct hcall call;

/* What the service does is the test's choice. */
typedef void (*item_handler)(const Split__Test__Item *in, Split__Test__Item_Closure reply,
			     void *data);
typedef void (*small_handler)(const Split__Test__Small *in, Split__Test__Small_Closure reply,
			      void *data);
static _Atomic(item_handler) handler;
static _Atomic(small_handler) little_handler;
static _Atomic unsigned handled;

static void host_unary(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	item_handler fn = atomic_load(&handler);

	(void)self;
	fn(in, reply, data);
	handled++;
}

static void little_unary(Split__Test__Little_Service *self, const Split__Test__Small *in,
			 Split__Test__Small_Closure reply, void *data)
{
	small_handler fn = atomic_load(&little_handler);

	(void)self;
	fn(in, reply, data);
	handled++;
}

static void host_other(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	host_unary(self, in, reply, data);
}

static Split__Test__Host_Service service = SPLIT__TEST__HOST__INIT(host_);
static Split__Test__Little_Service little = SPLIT__TEST__LITTLE__INIT(little_);

static void start(const struct endpoint_config *config, unsigned workers, unsigned flags)
{
	handled = 0;
	harness_init(&h, config, workers, NULL);
	ck_assert_int_eq(split_host_serve_flags(h.host, &service.base, flags), 0);
	ck_assert_int_eq(split_host_serve(h.host, &little.base), 0);
	harness_run(&h);
}

static void start_default(void)
{
	struct endpoint_config config = harness_config();

	start(&config, 1, 0);
}

static void finish(void)
{
	hcall_free(&call);
	harness_fini(&h);
}

static struct split_host_stats stats(void)
{
	struct split_host_stats s;

	split_host_stats_get(h.host, &s);
	return s;
}

static void send_item(struct hcall *c, const Split__Test__Item *item)
{
	struct hsend s = {.method = UNARY, .message = &item->base};

	ck_assert_int_eq(harness_send(&h, c, &s), 0);
}

static Split__Test__Item named(const char *name)
{
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;

	item.name = (char *)(uintptr_t)name;
	return item;
}

/* ------------------------------------------------------------------ sync */

static void do_echo(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	reply(in, data);
}

static void check_same(const struct hcall *c, const ProtobufCMessage *m)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	uint8_t *wire = malloc(len + 1);

	protobuf_c_message_pack(m, wire);
	ck_assert_uint_eq(c->answers, 1);
	ck_assert_msg(c->status == 0, "status %u: %s", c->status, c->text);
	ck_assert_uint_eq(c->reply_bytes, len);
	ck_assert_mem_eq(c->reply, wire, len);
	free(wire);
}

START_TEST(echo_of_everything)
{
	char *tags[] = {"one", "", "three"};
	int64_t numbers[] = {0, -1, INT64_MIN};
	uint8_t data[] = {1, 2, 3};
	ProtobufCBinaryData blobs[] = {{3, data}, {0, NULL}};
	Split__Test__Item inner = named("inner"), child = named("child");
	Split__Test__Item *items[] = {&inner, &child};
	Split__Test__Item item = named("top");
	uint8_t *large = calloc(1, 300000);

	handler = do_echo;
	start_default();
	for (int i = 0; i < 3; i++) {
		send_item(&call, &item);
		harness_wait(&h, &call);
		check_same(&call, &item.base);
		hcall_free(&call);
	}
	item.child = &child;
	item.n_tags = 3;
	item.tags = tags;
	item.n_numbers = 3;
	item.numbers = numbers;
	item.n_blobs = 2;
	item.blobs = blobs;
	item.n_items = 2;
	item.items = items;
	item.pick_case = SPLIT__TEST__ITEM__PICK_INNER;
	item.inner = &inner;
	send_item(&call, &item);
	harness_wait(&h, &call);
	check_same(&call, &item.base);
	hcall_free(&call);
	for (int i = 0; i < 300000; i++)
		large[i] = (uint8_t)(i * 7);
	item.payload = (ProtobufCBinaryData){300000, large};
	send_item(&call, &item);
	harness_wait(&h, &call);
	check_same(&call, &item.base);
	harness_wait_released(&h);
	ck_assert_uint_eq(stats().calls, 5);
	harness_until(&h, stats().answers >= 5);
	ck_assert_uint_eq(stats().answers, 5);
	ck_assert_uint_eq(h.counters[0].stale_releases, 0);
	free(large);
	finish();
}
END_TEST

static void do_small(const Split__Test__Small *in, Split__Test__Small_Closure reply, void *data)
{
	reply(in, data);
}

/* Request and reply inside their slots; the answer leaves at once, with no block at all. */
START_TEST(inline_both_ways)
{
	uint8_t data[] = {4, 5, 6};
	Split__Test__Small small = SPLIT__TEST__SMALL__INIT;
	struct hsend s = {.method = "split.test.Little/Unary", .message = &small.base};

	little_handler = do_small;
	start_default();
	small.name = "tiny";
	small.payload = (ProtobufCBinaryData){3, data};
	small.number = 42;
	for (int i = 0; i < 200; i++) {
		ck_assert_int_eq(harness_send(&h, &call, &s), 0);
		harness_wait(&h, &call);
		check_same(&call, &small.base);
		hcall_free(&call);
	}
	ck_assert_uint_eq(stats().replies_inline, 200);
	ck_assert_uint_eq(h.counters[0].requests_inline, 200);
	ck_assert_uint_eq(h.counters[0].releases_in, 0);
	finish();
}
END_TEST

static void do_allocated(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	struct split_call *c = split_call_of(data);
	ProtobufCAllocator *a = split_call_allocator(c);
	Split__Test__Item *out = a->alloc(a->allocator_data, sizeof(*out));

	ck_assert_ptr_eq(c, split_call_current());
	split__test__item__init(out);
	out->name = split_call_alloc(c, strlen(in->name) + 2);
	sprintf(out->name, "%s!", in->name);
	out->payload.len = 20000;
	out->payload.data = split_call_alloc(c, 20000);
	memset(out->payload.data, 0x5a, 20000);
	a->free(a->allocator_data, out->name);
	reply(out, data);
}

/* A reply made with the call's allocator is not copied. */
START_TEST(allocator)
{
	Split__Test__Item item = named("built"), *got;

	handler = do_allocated;
	start_default();
	for (int i = 0; i < 300; i++) { /* more than the segment holds at once */
		send_item(&call, &item);
		harness_wait(&h, &call);
		got = harness_item(&call);
		ck_assert_str_eq(got->name, "built!");
		ck_assert_uint_eq(got->payload.len, 20000);
		ck_assert_uint_eq(got->payload.data[19999], 0x5a);
		split__test__item__free_unpacked(got, NULL);
		hcall_free(&call);
	}
	ck_assert_uint_eq(stats().replies_copied, 0);
	ck_assert_uint_eq(stats().heap_fallback, 0);
	finish();
}
END_TEST

/* Action 0: all but the struct itself made by the allocator; 1: a part of it is not; 2: the
 * allocator had to take it from the heap. */
static void do_promised(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	struct split_call *c = split_call_of(data);
	size_t bytes = in->action == 2 ? (size_t)64 << 20 : 20000;
	Split__Test__Item out = SPLIT__TEST__ITEM__INIT;
	Split__Test__Item *child = split_call_alloc(c, sizeof(*child));

	split_call_in_place(c);
	split__test__item__init(child);
	child->name = in->action == 1 ? "a literal" : split_call_alloc(c, 8);
	if (in->action != 1)
		memcpy(child->name, "promise", 8);
	child->payload.len = bytes < 20000 ? bytes : 20000;
	child->payload.data = split_call_alloc(c, bytes);
	memset(child->payload.data, 0x5a, child->payload.len);
	out.child = child;
	reply(&out, data);
}

/* A promised reply is not looked at: what is wrong with it is found by who reads it. That is
 * splitd, which encodes it, or over TCP host-lib's own pump, which ends that call and nothing else.
 */
START_TEST(promised)
{
	Split__Test__Item item = named("promise"), *got;

	handler = do_promised;
	start_default();
	h.replies_may_fail = true;
	for (int i = 0; i < 300; i++) {
		item.action = (unsigned)i % 3;
		send_item(&call, &item);
		harness_wait(&h, &call);
		if (item.action == 1 && harness_over_tcp()) {
			ck_assert_uint_eq(call.answers, 1);
			ck_assert_uint_eq(call.status, SPLIT_INTERNAL);
			ck_assert_str_eq(call.text, error_text(-SPLIT_E_LINEARIZE_POINTER));
		} else if (item.action == 1) {
			ck_assert_int_eq(call.reply_error, -SPLIT_E_LINEARIZE_POINTER);
		} else {
			got = harness_item(&call);
			ck_assert_str_eq(got->child->name, "promise");
			ck_assert_uint_eq(got->child->payload.data[19999], 0x5a);
			split__test__item__free_unpacked(got, NULL);
		}
		hcall_free(&call);
	}
	ck_assert_uint_eq(stats().heap_fallback, 100);
	/* Of those that fell back only: the daemon's part of the others is what was allocated. */
	ck_assert_uint_ge(stats().replies_copied, 100 * 20000);
	ck_assert_uint_lt(stats().replies_copied, 101 * 40000);
	ck_assert_uint_eq(h.lost, 0);
	ck_assert_uint_eq(stats().protocol_errors, 0);
	finish();
}
END_TEST

static void do_overflow(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	struct split_call *c = split_call_of(data);
	static const size_t sizes[] = {1, 16, 40, 100, 3000, 7000};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint8_t *p = split_call_alloc(c, sizes[i]);

		memset(p, 1, sizes[i]);
		ck_assert_uint_eq((uintptr_t)p % 16, 0);
		ck_assert_int_eq(poison_is_poisoned(p + sizes[i]), POISON_ENABLED);
		ck_assert(!poison_is_poisoned(p + sizes[i] - 1));
	}
	reply(in, data);
}

/* One byte past what was asked for is poisoned in a sanitizer build. */
START_TEST(overflow)
{
	Split__Test__Item item = named("overflow");

	handler = do_overflow;
	start_default();
	send_item(&call, &item);
	harness_wait(&h, &call);
	check_same(&call, &item.base);
	finish();
}
END_TEST

/* ------------------------------------------------------------------ status, metadata */

static void do_status(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	struct split_call *c = split_call_of(data);

	switch (in->action) {
	case 0:
		reply(NULL, data);
		break;
	case 1:
		ck_assert_int_eq(split_call_set_status(c, SPLIT_NOT_FOUND, "no such thing"), 0);
		reply(NULL, data);
		break;
	case 2: /* a status other than OK wins over the reply */
		ck_assert_int_eq(split_call_set_status(c, SPLIT_ABORTED, in->name), 0);
		ck_assert_int_eq(split_call_set_status_details(c, "\x08\x0a", 2), 0);
		reply(in, data);
		break;
	case 3:
		ck_assert_int_eq(split_call_fail(c, SPLIT_OK, ""), SPLIT_E_ARGUMENT);
		ck_assert_int_eq(split_call_fail(c, (enum split_status)17, ""), SPLIT_E_ARGUMENT);
		ck_assert_int_eq(split_call_fail(c, SPLIT_DATA_LOSS, NULL), 0);
		ck_assert_int_eq(split_call_fail(c, SPLIT_DATA_LOSS, NULL), SPLIT_E_ANSWERED);
		ck_assert_int_eq(split_call_set_status(c, SPLIT_OK, NULL), SPLIT_E_ANSWERED);
		break;
	default: { /* another type than the method's */
		Split__Test__Small wrong = SPLIT__TEST__SMALL__INIT;

		reply((const Split__Test__Item *)(const void *)&wrong, data);
	}
	}
}

static void one(unsigned action, const char *name)
{
	Split__Test__Item item = named(name);

	item.action = action;
	hcall_free(&call);
	send_item(&call, &item);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.answers, 1);
}

START_TEST(status)
{
	char longer[1500];

	memset(longer, 'x', sizeof(longer));
	longer[1499] = '\0';
	handler = do_status;
	start_default();
	one(0, "");
	ck_assert_uint_eq(call.status, SPLIT_INTERNAL);
	one(1, "");
	ck_assert_uint_eq(call.status, SPLIT_NOT_FOUND);
	ck_assert_str_eq(call.text, "no such thing");
	ck_assert_ptr_null(call.reply);
	one(2, longer);
	ck_assert_uint_eq(call.status, SPLIT_ABORTED);
	ck_assert_uint_eq(strlen(call.text), 1024);
	ck_assert_ptr_null(call.reply);
	ck_assert_int_eq(call.trailing_n, 1);
	ck_assert_mem_eq(call.trailing[0].name, "grpc-status-details-bin", 23);
	ck_assert_mem_eq(call.trailing[0].value, "\x08\x0a", 2);
	one(2, "\xc3\xa4");
	ck_assert_str_eq(call.text, "\xc3\xa4");
	one(3, "");
	ck_assert_uint_eq(call.status, SPLIT_DATA_LOSS);
	ck_assert_str_eq(call.text, "");
	one(4, "");
	ck_assert_uint_eq(call.status, SPLIT_INTERNAL);
	harness_until(&h, stats().answers >= 6);
	ck_assert_uint_eq(stats().answers, 6);
	harness_until(&h, stats().answers_twice >= 1);
	ck_assert_uint_eq(stats().answers_twice, 1);
	finish();
}
END_TEST

static void do_metadata(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	struct split_call *c = split_call_of(data);
	const struct split_metadata *m;
	struct split_peer peer;
	char text[64];
	size_t n;

	m = split_call_metadata(c, &n);
	ck_assert_uint_eq(n, 2);
	ck_assert_str_eq(m[0].name, "x-user");
	ck_assert_str_eq(m[0].value, "ada");
	m = split_call_metadata_find(c, "trace-bin");
	ck_assert_ptr_nonnull(m);
	ck_assert_uint_eq(m->value_bytes, 3);
	ck_assert_mem_eq(m->value, "\0\1\2", 3);
	ck_assert_ptr_null(split_call_metadata_find(c, "x-use"));
	split_call_peer(c, &peer);
	ck_assert_uint_eq(peer.family, 4);
	ck_assert_uint_eq(peer.port, 4000);
	split_call_peer_text(c, text, sizeof(text));
	ck_assert_str_eq(text, "ipv4:198.18.0.1:4000");
	ck_assert_str_eq(split_call_method(c), UNARY);
	ck_assert_int_eq(split_call_kind(c), SPLIT_UNARY);
	ck_assert(split_call_time_left_ns(c) > 0);
	ck_assert(split_call_time_left_ns(c) < 10 * (int64_t)CLOCK_NS_PER_SEC);
	ck_assert(!split_call_cancelled(c));
	ck_assert_ptr_null(split_call_user(c));
	split_call_set_user(c, &h);
	ck_assert_ptr_eq(split_call_user(c), &h);

	ck_assert_int_eq(split_call_add_initial_metadata(c, "x-first", "1", 1), 0);
	ck_assert_int_eq(split_call_add_trailing_metadata(c, "x-last", "2", 1), 0);
	ck_assert_int_eq(split_call_add_trailing_metadata(c, "x-last-bin", "\0\xff", 2), 0);
	ck_assert_int_eq(split_call_add_trailing_metadata(c, "Upper", "", 0), SPLIT_E_METADATA);
	ck_assert_int_eq(split_call_add_trailing_metadata(c, "", "", 0), SPLIT_E_METADATA);
	ck_assert_int_eq(split_call_add_trailing_metadata(c, "grpc-status", "0", 1),
			 SPLIT_E_METADATA);
	ck_assert_int_eq(split_call_add_trailing_metadata(c, ":path", "", 0), SPLIT_E_METADATA);
	ck_assert_int_eq(split_call_add_trailing_metadata(c, "x", "a\r\nb", 4), SPLIT_E_METADATA);
	ck_assert_int_eq(split_call_add_trailing_metadata(c, NULL, "", 0), SPLIT_E_ARGUMENT);
	ck_assert_int_eq(split_call_send(c, &in->base), SPLIT_E_KIND);
	ck_assert_int_eq(split_call_credit(c, 1), SPLIT_E_KIND);
	for (int i = 0; i < 62; i++)
		ck_assert_int_eq(split_call_add_initial_metadata(c, "n", "v", 1), 0);
	reply(in, data);
}

START_TEST(metadata)
{
	struct metadata_item items[] = {{"x-user", "ada", 6, 3}, {"trace-bin", "\0\1\2", 9, 3}};
	Split__Test__Item item = named("m");
	struct hsend s = {.method = UNARY,
			  .message = &item.base,
			  .metadata = items,
			  .metadata_n = 2,
			  .deadline_ns = clock_ns() + 5 * CLOCK_NS_PER_SEC};

	handler = do_metadata;
	start_default();
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	check_same(&call, &item.base);
	ck_assert_int_eq(call.initial_n, 63);
	ck_assert_mem_eq(call.initial[0].name, "x-first", 7);
	ck_assert_int_eq(call.trailing_n, 2);
	ck_assert_mem_eq(call.trailing[1].value, "\0\xff", 2);
	harness_wait_released(&h);
	finish();
}
END_TEST

/* A call whose deadline is over before its turn is not run. */
START_TEST(deadline_over)
{
	Split__Test__Item item = named("late");
	struct hsend s = {.method = UNARY, .message = &item.base, .deadline_ns = 1};

	handler = do_echo;
	start_default();
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_DEADLINE_EXCEEDED);
	ck_assert_uint_eq(handled, 0);
	harness_wait_released(&h);
	finish();
}
END_TEST

/* ------------------------------------------------------------------ later, elsewhere, twice, never
 */

struct owed {
	Split__Test__Item_Closure reply;
	void *data;
	const Split__Test__Item *kept;
};

static struct owed owed[256];
static _Atomic unsigned owed_n;
static bool keep_request;

static void do_owe(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	unsigned i = owed_n;

	owed[i].reply = reply;
	owed[i].data = data;
	owed[i].kept = NULL;
	if (keep_request)
		owed[i].kept = (const Split__Test__Item *)(const void *)split_call_retain(
			split_call_of(data));
	(void)in;
	owed_n = i + 1;
}

static void *answer_all(void *arg)
{
	Split__Test__Item item = named("later");

	(void)arg;
	for (unsigned i = 0; i < owed_n; i++)
		owed[i].reply(&item, owed[i].data);
	return NULL;
}

static void in_thread(void *(*fn)(void *))
{
	pthread_t t;

	ck_assert_int_eq(pthread_create(&t, NULL, fn, NULL), 0);
	while (pthread_tryjoin_np(t, NULL) != 0)
		harness_poll(&h);
}

START_TEST(async)
{
	static struct hcall calls[32];
	Split__Test__Item item = named("wait"), *got;

	owed_n = 0;
	keep_request = false;
	handler = do_owe;
	start_default();
	for (int i = 0; i < 32; i++)
		send_item(&calls[i], &item);
	harness_spin(&h, 5000, &owed_n, 32);
	ck_assert_uint_eq(owed_n, 32);
	harness_wait_released(&h); /* the requests go back though no answer is there */
	ck_assert_uint_eq(stats().answers, 0);
	in_thread(answer_all);
	for (int i = 0; i < 32; i++) {
		harness_wait(&h, &calls[i]);
		got = harness_item(&calls[i]);
		ck_assert_str_eq(got->name, "later");
		/* The foreign lane; the relay has but one for all that comes. */
		ck_assert_uint_eq(calls[i].answer_lane, HARNESS_EITHER(h.host_workers, 0));
		split__test__item__free_unpacked(got, NULL);
		hcall_free(&calls[i]);
	}
	harness_until(&h, stats().answers_async >= 32);
	ck_assert_uint_eq(stats().answers_async, 32);
	/* Again: refused, counted, harmless. */
	in_thread(answer_all);
	harness_spin(&h, 20, NULL, 0);
	harness_until(&h, stats().answers_twice >= 32);
	ck_assert_uint_eq(stats().answers_twice, 32);
	harness_until(&h, stats().answers >= 32);
	ck_assert_uint_eq(stats().answers, 32);
	for (int i = 0; i < 32; i++) {
		ck_assert_uint_eq(calls[i].answers, 1);
		ck_assert_ptr_null(split_call_of(owed[i].data));
	}
	finish();
	/* And when the host is gone. */
	answer_all(NULL);
	ck_assert_ptr_null(split_call_of(owed[0].data));
}
END_TEST

static void do_twice(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	reply(in, data);
	reply(in, data);
	reply(NULL, data);
}

START_TEST(twice_at_once)
{
	Split__Test__Item item = named("twice");

	handler = do_twice;
	start_default();
	send_item(&call, &item);
	harness_wait(&h, &call);
	check_same(&call, &item.base);
	harness_until(&h, stats().answers_twice == 2);
	harness_spin(&h, 20, NULL, 0);
	ck_assert_uint_eq(call.answers, 1);
	harness_until(&h, stats().answers_twice >= 2);
	ck_assert_uint_eq(stats().answers_twice, 2);
	ck_assert_uint_eq(h.counters[0].stale_calls, 0);
	finish();
}
END_TEST

static void do_nothing(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	(void)in;
	(void)reply;
	(void)data;
}

static void raw_message(struct split_call *c, const ProtobufCMessage *m, void *data)
{
	const Split__Test__Item *in = (const Split__Test__Item *)(const void *)m;

	ck_assert_ptr_eq(data, &h);
	ck_assert_ptr_eq(split_call_message(c), m);
	if (in->action == 1) {
		ck_assert_int_eq(split_call_answer(c, m), 0);
		ck_assert_int_eq(split_call_answer(c, m), SPLIT_E_ANSWERED);
	}
}

static const struct split_method raw = {.service = "split.test.Raw",
					.name = "Unary",
					.kind = SPLIT_UNARY,
					.input = &split__test__item__descriptor,
					.output = &split__test__item__descriptor,
					.data = &h,
					.message = raw_message};

/* A handler that forgets its call: INTERNAL, where the interface lets us know. */
START_TEST(forgotten)
{
	Split__Test__Item item = named("forgotten");
	struct hsend s = {.method = "split.test.Raw/Unary", .message = &item.base};
	struct endpoint_config config = harness_config();
	struct split_method m = raw;

	handler = do_nothing;
	harness_init(&h, &config, 1, NULL);
	ck_assert_int_eq(split_host_serve_flags(h.host, &service.base, SPLIT_SERVE_ANSWERS_NOW), 0);
	ck_assert_int_eq(split_host_serve_method(h.host, &raw), 0);
	ck_assert_int_eq(split_host_serve_method(h.host, &raw), SPLIT_E_DUPLICATE);
	m.name = "Stream";
	m.kind = (enum split_method_kind)7;
	ck_assert_int_eq(split_host_serve_method(h.host, &m), SPLIT_E_ARGUMENT);
	m.kind = SPLIT_BIDI_STREAM; /* it has neither open nor half_close */
	ck_assert_int_eq(split_host_serve_method(h.host, &m), SPLIT_E_ARGUMENT);
	harness_run(&h);
	ck_assert_int_eq(split_host_serve(h.host, &little.base), SPLIT_E_ARGUMENT);
	send_item(&call, &item);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_INTERNAL);
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_INTERNAL);
	item.action = 1;
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	check_same(&call, &item.base);
	harness_until(&h, stats().answers_missing >= 2);
	ck_assert_uint_eq(stats().answers_missing, 2);
	harness_wait_released(&h);
	finish();
}
END_TEST

static void *answer_kept(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < owed_n; i++) {
		struct split_call *c = split_call_of(owed[i].data);

		ck_assert_ptr_nonnull(c);
		owed[i].reply(owed[i].kept, owed[i].data);
		ck_assert_ptr_eq(split_call_of(owed[i].data), c); /* still held */
		ck_assert_str_eq(owed[i].kept->name, "kept");
		split_call_release(c);
	}
	return NULL;
}

START_TEST(retain)
{
	static struct hcall calls[8];
	Split__Test__Item item = named("kept"), other = named("others");
	uint8_t payload[500] = {1, 2, 3};

	owed_n = 0;
	keep_request = true;
	handler = do_owe;
	start_default();
	item.payload = (ProtobufCBinaryData){sizeof(payload), payload};
	for (int i = 0; i < 8; i++)
		send_item(&calls[i], &item);
	harness_spin(&h, 5000, &owed_n, 8);
	/* Other calls come and go; the kept requests stay. */
	handler = do_echo;
	for (int i = 0; i < 100; i++) {
		send_item(&call, &other);
		harness_wait(&h, &call);
		hcall_free(&call);
	}
	/* Over TCP they lie in the host's own memory: window_held in full_test.c. */
	if (!harness_over_tcp())
		ck_assert_uint_ge(endpoint_bytes_used(h.port[0]), 8 * 500);
	in_thread(answer_kept);
	for (int i = 0; i < 8; i++) {
		harness_wait(&h, &calls[i]);
		check_same(&calls[i], &item.base);
		hcall_free(&calls[i]);
	}
	harness_wait_released(&h);
	finish();
}
END_TEST

static const Split__Test__Small *kept_small;
static Split__Test__Small_Closure kept_reply;
static void *kept_data;
static _Atomic unsigned kept;

static void do_keep_small(const Split__Test__Small *in, Split__Test__Small_Closure reply,
			  void *data)
{
	(void)in;
	kept_small =
		(const Split__Test__Small *)(const void *)split_call_retain(split_call_current());
	kept_reply = reply;
	kept_data = data;
	kept = 1;
}

/* The slot of an inline request is reused long before the answer. */
START_TEST(retain_inline)
{
	Split__Test__Small small = SPLIT__TEST__SMALL__INIT, other = SPLIT__TEST__SMALL__INIT;
	struct hsend s = {.method = "split.test.Little/Unary", .message = &small.base};
	static struct hcall first;

	kept = 0;
	little_handler = do_keep_small;
	start_default();
	small.name = "inline";
	other.name = "nothing";
	ck_assert_int_eq(harness_send(&h, &first, &s), 0);
	harness_spin(&h, 5000, &kept, 1);
	little_handler = do_small;
	s.message = &other.base;
	for (int i = 0; i < 130; i++) {
		ck_assert_int_eq(harness_send(&h, &call, &s), 0);
		harness_wait(&h, &call);
		hcall_free(&call);
	}
	ck_assert_str_eq(kept_small->name, "inline");
	kept_reply(kept_small, kept_data);
	split_call_release(split_call_of(kept_data));
	harness_wait(&h, &first);
	check_same(&first, &small.base);
	hcall_free(&first);
	finish();
}
END_TEST

static _Atomic unsigned go, running, saw_cancel;

static void do_until_cancelled(const Split__Test__Item *in, Split__Test__Item_Closure reply,
			       void *data)
{
	running = 1;
	while (!split_call_cancelled(split_call_of(data)))
		sched_yield();
	saw_cancel = 1;
	reply(in, data);
}

START_TEST(cancel_while_running)
{
	Split__Test__Item item = named("cancel me"), next = named("next");
	static struct hcall second;

	running = saw_cancel = 0;
	handler = do_until_cancelled;
	start_default();
	send_item(&call, &item);
	harness_spin(&h, 5000, &running, 1);
	handler = do_echo;
	send_item(&second,
		  &next); /* waits behind the handler; the CANCEL is behind it in the ring */
	harness_cancel(&h, &call);
	harness_spin(&h, 5000, &saw_cancel, 1);
	ck_assert_uint_eq(saw_cancel, 1);
	harness_wait(&h, &second);
	check_same(&second, &next.base);
	hcall_free(&second);
	harness_wait_released(&h);
	ck_assert_uint_eq(call.answers, 0);
	finish();
}
END_TEST

START_TEST(cancel_while_owed)
{
	Split__Test__Item item = named("owed");

	owed_n = 0;
	keep_request = true;
	handler = do_owe;
	start_default();
	send_item(&call, &item);
	harness_spin(&h, 5000, &owed_n, 1);
	harness_cancel(&h, &call);
	while (!split_call_cancelled(split_call_of(owed[0].data)))
		harness_poll(&h);
	in_thread(answer_all);
	split_call_release(split_call_of(owed[0].data));
	harness_wait_released(&h);
	harness_until(&h, stats().answers_late >= 1);
	ck_assert_uint_eq(stats().answers_late, 1);
	harness_until(&h, stats().cancels >= 1);
	ck_assert_uint_eq(stats().cancels, 1);
	ck_assert_uint_eq(call.answers, 0);
	ck_assert_ptr_null(split_call_of(owed[0].data));
	finish();
}
END_TEST

static void do_wait_go(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	running++;
	while (go == 0)
		sched_yield();
	reply(in, data);
}

/* Cancelled before its turn: never run. */
START_TEST(cancel_before_begun)
{
	Split__Test__Item item = named("x");
	static struct hcall second;

	running = go = 0;
	handler = do_wait_go;
	start_default();
	send_item(&call, &item);
	harness_spin(&h, 5000, &running, 1);
	send_item(&second, &item);
	harness_cancel(&h, &second);
	go = 1;
	harness_wait(&h, &call);
	harness_wait_released(&h);
	ck_assert_uint_le(running, 2);
	ck_assert_uint_eq(second.answers, 0);
	finish();
}
END_TEST

static void do_flush(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	struct split_call *c = split_call_of(data);

	reply(in, data);
	if (in->action == 1)
		split_call_flush(c);
	running = 1;
	while (go == 0)
		sched_yield();
}

/* An answer to a request in blocks waits for the handler's return, or for split_call_flush. */
START_TEST(flush)
{
	Split__Test__Item item = named("flush");

	running = go = 0;
	handler = do_flush;
	start_default();
	send_item(&call, &item);
	harness_spin(&h, 5000, &running, 1);
	harness_spin(&h, 20, NULL, 0);
	ck_assert_uint_eq(call.answers, 0);
	go = 1;
	harness_wait(&h, &call);
	if (!harness_over_tcp())
		ck_assert_uint_eq(endpoint_bytes_used(h.port[0]), 0); /* by the same slot */
	hcall_free(&call);
	running = go = 0;
	item.action = 1;
	send_item(&call, &item);
	harness_spin(&h, 5000, &running, 1);
	harness_wait(&h, &call);
	check_same(&call, &item.base);
	if (!harness_over_tcp())
		ck_assert_uint_gt(endpoint_bytes_used(h.port[0]), 0);
	ck_assert_uint_eq(handled, 1); /* the second is answered and still runs */
	go = 1;
	harness_wait_released(&h);
	finish();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("calls");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, echo_of_everything);
	tcase_add_test(t, inline_both_ways);
	tcase_add_test(t, allocator);
	tcase_add_test(t, promised);
	tcase_add_test(t, overflow);
	tcase_add_test(t, status);
	tcase_add_test(t, metadata);
	tcase_add_test(t, deadline_over);
	tcase_add_test(t, async);
	tcase_add_test(t, twice_at_once);
	tcase_add_test(t, forgotten);
	tcase_add_test(t, retain);
	tcase_add_test(t, retain_inline);
	tcase_add_test(t, cancel_while_running);
	tcase_add_test(t, cancel_while_owed);
	tcase_add_test(t, cancel_before_begun);
	tcase_add_test(t, flush);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
