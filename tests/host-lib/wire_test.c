/* Messages that come and go as their wire bytes, through the public API, against a daemon that the
 * test plays: the handler sees what it would see if splitd had decoded, the client gets what splitd
 * would have encoded, and what cannot be decoded ends the call with the status that splitd gives.
 *
 * Over TCP splitd decodes and encodes for the host, whatever a method's options say: the handler
 * and the client see the same, the host decodes and encodes nothing, and what cannot be decoded
 * never reaches it.
 */
#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "tests/host-lib/harness.h"

#define SEEN_MAX (3u << 20)

typedef Split__Test__Item Item;

static struct harness h;
static struct hcall call;

/* What the handler saw, packed by protobuf-c; and how often it ran, in all. */
static uint8_t *seen;
static size_t seen_len;
static _Atomic unsigned handled, cancelled, closed, half_closed;

static void see(const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);

	ck_assert_ptr_eq(message->descriptor, &split__test__item__descriptor);
	ck_assert_uint_le(len, SEEN_MAX);
	seen_len = protobuf_c_message_pack(message, seen);
	handled++;
}

/* How it answers: as Item.action says. */
enum { ECHO, BUILT = 0x15ac01, BUILT_IN_PLACE, TRAILERS, RETAINED, FAILS };

static Item *built(struct split_call *c, const Item *in)
{
	Item *out = split_call_alloc(c, sizeof(*out));

	split__test__item__init(out);
	out->action = in->action;
	out->payload.len = in->payload.len;
	out->payload.data = split_call_alloc(c, in->payload.len);
	if (in->payload.len != 0)
		memcpy(out->payload.data, in->payload.data, in->payload.len);
	return out;
}

static struct split_call *kept;
static _Atomic int no_room; /* what the last echo came to */

static void unary(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	const Item *in = (const Item *)(const void *)message;

	(void)data;
	/* Before it is told: whoever waits for that looks at `kept` then. */
	if (in->action == RETAINED) {
		ck_assert_ptr_eq(split_call_retain(c), message);
		kept = c;
	}
	see(message);
	switch (in->action) {
	case BUILT_IN_PLACE:
		split_call_in_place(c);
		/* fallthrough */
	case BUILT:
		ck_assert_int_eq(split_call_answer(c, &built(c, in)->base), 0);
		break;
	case TRAILERS:
		ck_assert_int_eq(split_call_add_initial_metadata(c, "x-initial", "i", 1), 0);
		ck_assert_int_eq(split_call_add_trailing_metadata(c, "x-trailing", "t", 1), 0);
		ck_assert_int_eq(split_call_answer(c, message), 0);
		break;
	case RETAINED:
		break;
	case FAILS:
		ck_assert_int_eq(split_call_fail(c, SPLIT_NOT_FOUND, "not here"), 0);
		break;
	default:
		no_room = split_call_answer(c, message);
		ck_assert(no_room == 0 || no_room == SPLIT_E_NOMEM);
		break;
	}
}

static void echo_message(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	(void)data;
	see(message);
	ck_assert_int_eq(split_call_send_wait(c, message, UINT64_MAX), 0);
}

static void echo_thrice(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	see(message);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(split_call_send_wait(c, message, UINT64_MAX), 0);
	(void)data;
	ck_assert_int_eq(split_call_finish(c), 0);
}

static struct split_message *held;

static void count_message(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	(void)data;
	if (((const Item *)(const void *)message)->action == RETAINED)
		held = split_message_retain(c);
	see(message);
}

static void finish(struct split_call *c, void *data)
{
	(void)data;
	half_closed++;
	ck_assert_int_eq(split_call_finish(c), 0);
}

static void answer_count(struct split_call *c, void *data)
{
	Item out = SPLIT__TEST__ITEM__INIT;

	(void)data;
	half_closed++;
	out.action = handled;
	ck_assert_int_eq(split_call_answer(c, &out.base), 0);
}

static void on_cancelled(struct split_call *c, void *data)
{
	(void)data;
	ck_assert(split_call_cancelled(c));
	ck_assert_int_ne(split_call_fail(c, SPLIT_ABORTED, NULL), 0);
	cancelled++;
}

static void on_closed(struct split_call *c, void *data)
{
	(void)c;
	(void)data;
	closed++;
}

#define METHOD(name_, kind_)                                                                       \
	.service = "split.test.Wire", .name = name_, .kind = kind_,                                \
	.input = &split__test__item__descriptor, .output = &split__test__item__descriptor,         \
	.closed = on_closed, .cancelled = on_cancelled

static const struct split_method methods[] = {
	{METHOD("Unary", SPLIT_UNARY), .message = unary},
	{METHOD("Other", SPLIT_UNARY), .message = unary},
	{METHOD("Server", SPLIT_SERVER_STREAM), .message = echo_thrice},
	{METHOD("Client", SPLIT_CLIENT_STREAM), .message = count_message,
	 .half_close = answer_count, .read_ahead = 4},
	{METHOD("Bidi", SPLIT_BIDI_STREAM), .message = echo_message, .half_close = finish,
	 .read_ahead = 4},
};

static void setup(void)
{
	struct endpoint_config config = harness_config();
	struct split_host_options options = SPLIT_HOST_OPTIONS_INIT;

	options.room_wait_ns = 20 * CLOCK_NS_PER_MS;
	config.to_host_bytes = config.to_daemon_bytes = 8u << 20;
	handled = cancelled = closed = half_closed = 0;
	seen = malloc(SEEN_MAX);
	kept = NULL;
	held = NULL;
	harness_init(&h, &config, 1, &options);
	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		ck_assert_int_eq(split_host_serve_method(h.host, &methods[i]), 0);
	harness_run(&h);
	h.wire = !harness_over_tcp();
}

static void teardown(void)
{
	hcall_free(&call);
	harness_fini(&h);
	free(seen);
}

static struct split_host_stats stats(void)
{
	struct split_host_stats s;

	split_host_stats_get(h.host, &s);
	return s;
}

/* ---- messages ------------------------------------------------------------------------------- */

static uint8_t filler[1u << 20];

static Item item_of(size_t payload, unsigned action)
{
	Item item = SPLIT__TEST__ITEM__INIT;

	item.action = action;
	item.payload.len = payload;
	item.payload.data = filler;
	return item;
}

static void send(const char *method, const Item *item, bool no_inline)
{
	struct hsend s = {.method = method, .message = &item->base, .no_inline = no_inline};

	hcall_free(&call);
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
}

static void check_seen(const Item *item)
{
	size_t len = protobuf_c_message_get_packed_size(&item->base);
	uint8_t *wire = malloc(len + 1);

	protobuf_c_message_pack(&item->base, wire);
	ck_assert_uint_eq(seen_len, len);
	ck_assert_mem_eq(seen, wire, len);
	free(wire);
}

static void check_reply(const Item *item)
{
	size_t len = protobuf_c_message_get_packed_size(&item->base);
	uint8_t *wire = malloc(len + 1);

	protobuf_c_message_pack(&item->base, wire);
	ck_assert_msg(call.status == 0, "status %u: %s", call.status, call.text);
	ck_assert_uint_eq(call.reply_bytes, len);
	ck_assert_mem_eq(call.reply, wire, len);
	free(wire);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static const size_t sizes[] = {0, 1, 100, 124, 127, 128, 400, 509, 600, 5000, 70000, 1u << 20};

/* Of every size, and in every way of building the answer: the handler sees the message, the client
 * gets it back, and nothing is left. */
START_TEST(every_size)
{
	static const unsigned actions[] = {ECHO, BUILT, BUILT_IN_PLACE, TRAILERS};
	unsigned n = 0;

	for (size_t a = 0; a < ARRAY_LEN(actions); a++) {
		/* Up and down: what an answer is expected to take is wrong either way. */
		for (size_t i = 0; i < 2 * ARRAY_LEN(sizes); i++) {
			size_t at = i < ARRAY_LEN(sizes) ? i : 2 * ARRAY_LEN(sizes) - 1 - i;
			Item item = item_of(sizes[at], actions[a]);

			send("split.test.Wire/Unary", &item, i % 2 != 0);
			harness_wait(&h, &call);
			check_seen(&item);
			check_reply(&item);
			if (actions[a] == TRAILERS) {
				ck_assert_int_eq(call.initial_n, 1);
				ck_assert_int_eq(call.trailing_n, 1);
				ck_assert_str_eq(call.trailing[0].name, "x-trailing");
			}
			n++;
		}
	}
	harness_wait_released(&h);
	harness_until(&h, stats().answers >= n); /* counted after it was said */
	ck_assert_uint_eq(stats().answers, n);
	n = HARNESS_EITHER(n, 0);
	ck_assert_uint_eq(h.wire_replies, n);
	ck_assert_uint_eq(stats().decodes, n);
	ck_assert_uint_eq(stats().encodes, n);
	ck_assert_uint_eq(stats().decode_errors, 0);
	ck_assert_uint_eq(stats().protocol_errors, 0);
}
END_TEST

/* Everything that a message may hold, nested, from one side and from the other. */
START_TEST(same_from_either_side)
{
	char *tags[] = {(char *)(uintptr_t) "one", (char *)(uintptr_t) "",
			(char *)(uintptr_t) "three"};
	int64_t numbers[] = {0, -1, INT64_MIN, 77};
	ProtobufCBinaryData blobs[] = {{3, filler}, {0, NULL}, {70000, filler}};
	Item inner = item_of(3, 7), child = item_of(0, 0), item = item_of(20, ECHO);
	Item *items[] = {&inner, &child, &inner};
	size_t first;

	inner.name = (char *)(uintptr_t) "inner";
	child.child = &inner;
	item.name = (char *)(uintptr_t) "top";
	item.child = &child;
	item.n_tags = 3;
	item.tags = tags;
	item.n_numbers = 4;
	item.numbers = numbers;
	item.n_blobs = 3;
	item.blobs = blobs;
	item.n_items = 3;
	item.items = items;
	item.pick_case = SPLIT__TEST__ITEM__PICK_INNER;
	item.inner = &child;
	h.wire = false;
	send("split.test.Wire/Unary", &item, true);
	harness_wait(&h, &call);
	check_seen(&item);
	check_reply(&item);
	first = call.reply_bytes;
	h.wire = !harness_over_tcp();
	memset(seen, 0, seen_len);
	send("split.test.Wire/Unary", &item, true);
	harness_wait(&h, &call);
	check_seen(&item);
	check_reply(&item);
	ck_assert_uint_eq(call.reply_bytes, first);
	ck_assert_uint_eq(h.wire_replies, HARNESS_EITHER(1, 0));
	ck_assert_uint_eq(stats().decodes, HARNESS_EITHER(1, 0));
	harness_wait_released(&h);
}
END_TEST

START_TEST(retained_and_failed)
{
	Item item = item_of(3000, RETAINED);

	send("split.test.Wire/Unary", &item, true);
	harness_spin(&h, 5000, &handled, 1);
	ck_assert_ptr_nonnull(kept);
	/* Others come and go meanwhile, and use the same memory if they can. */
	for (unsigned i = 0; i < 8; i++) {
		struct hcall other;
		Item small = item_of(3000, FAILS);
		struct hsend s = {.method = "split.test.Wire/Unary", .message = &small.base};

		ck_assert_int_eq(harness_send(&h, &other, &s), 0);
		harness_wait(&h, &other);
		ck_assert_uint_eq(other.status, SPLIT_NOT_FOUND);
		ck_assert_str_eq(other.text, "not here");
		ck_assert(!other.undecoded);
		hcall_free(&other);
	}
	see(split_call_message(kept));
	check_seen(&item);
	ck_assert_int_eq(split_call_answer(kept, split_call_message(kept)), 0);
	harness_wait(&h, &call);
	check_reply(&item);
	split_call_release(kept);
	harness_wait_released(&h);
}
END_TEST

/* ---- what cannot be decoded ------------------------------------------------------------------ */

static int heap_get(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	void **list = ctx;
	uint8_t *mem = aligned_alloc(16, align_up((want > min ? want : min) + 16, 16));

	*(void **)(void *)mem = *list;
	*list = mem;
	*out = (struct linear_chunk){mem + 16, want > min ? want : min};
	return 0;
}

/* Of Item, with this process's own addresses (those of a hello over TCP are nobody's). */
static const struct schema_message *item_schema(struct schema **schema)
{
	struct schema_builder *b;
	struct schema_blob blob;
	uint32_t index;

	ck_assert_int_eq(schema_builder_create(&b), 0);
	ck_assert_int_eq(schema_builder_add(b, &split__test__item__descriptor, &index), 0);
	ck_assert_int_eq(schema_builder_finish(b, &blob), 0);
	schema_builder_destroy(b);
	ck_assert_int_eq(schema_parse(blob.bytes, blob.len, NULL, schema), 0);
	free(blob.bytes);
	return schema_message_at(*schema, index);
}

/* What splitd's decode makes of the bytes: its result, and the message packed again. */
static int reference(const uint8_t *wire, size_t len, const struct linear_limits *limits,
		     uint8_t *packed, size_t *packed_len)
{
	static struct decode_job job;
	void *list = NULL;
	struct linear_target target = {.chunk_get = heap_get, .ctx = &list};
	struct schema *schema;
	int rc = decode_start(&job, item_schema(&schema), wire, len, &target, limits);

	while (rc == 0 && (rc = decode_run(&job)) == SPLIT_AGAIN)
		rc = 0;
	if (rc == 0)
		*packed_len = protobuf_c_message_pack(
			(const ProtobufCMessage *)(uintptr_t)decode_root(&job), packed);
	while (list != NULL) {
		void *next = *(void **)list;

		free(list);
		list = next;
	}
	schema_destroy(schema);
	return rc;
}

/* The call of `wire` ends as the reference says. */
static void check_bytes(const uint8_t *wire, size_t len, const struct linear_limits *limits,
			bool no_inline)
{
	struct hsend s = {.method = "split.test.Wire/Unary",
			  .raw = wire,
			  .raw_bytes = len,
			  .limits = limits,
			  .no_inline = no_inline};
	static uint8_t packed[1u << 16];
	size_t packed_len = 0;
	int rc = reference(wire, len, limits, packed, &packed_len);
	unsigned before = handled;

	hcall_free(&call);
	if (rc != 0 && harness_over_tcp()) {
		ck_assert_int_eq(harness_send(&h, &call, &s), rc);
		ck_assert_uint_eq(handled, before);
		return;
	}
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.answers, 1);
	if (rc == 0) {
		ck_assert_msg(call.status == 0, "status %u: %s", call.status, call.text);
		ck_assert(!call.undecoded);
		ck_assert_uint_eq(handled, before + 1);
		ck_assert_uint_eq(seen_len, packed_len);
		ck_assert_mem_eq(seen, packed, packed_len);
	} else {
		ck_assert_uint_eq(call.status, (unsigned)linearize_map_status(rc));
		ck_assert_str_eq(call.text, error_text(rc));
		ck_assert(call.undecoded);
		ck_assert_uint_eq(handled, before);
	}
}

#define BYTES(text) ((const uint8_t *)(text)), sizeof(text) - 1

START_TEST(undecodable)
{
	struct linear_limits limits = linear_limits_default;
	uint8_t deep[3 * 120];
	Item item = item_of(60000, ECHO);
	uint8_t *wire = malloc(70000);
	size_t len = protobuf_c_message_pack(&item.base, wire);

	for (int no_inline = 0; no_inline < 2; no_inline++) {
		check_bytes(BYTES("\x0a\x05"
				  "abc"),
			    NULL, no_inline);                            /* truncated */
		check_bytes(BYTES("\x0a\x02\xc3\x28"), NULL, no_inline); /* no UTF-8 */
		check_bytes(BYTES("\x00\x01"), NULL, no_inline);         /* field 0 */
		check_bytes(BYTES("\x0f"), NULL, no_inline);             /* wire type 7 */
		check_bytes(BYTES("\x0c"), NULL, no_inline);             /* end of no group */
		check_bytes(BYTES("\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), NULL,
			    no_inline);                                 /* a varint too long */
		check_bytes(BYTES("\xfa\x7f\x03xyz"), NULL, no_inline); /* unknown: good */
		check_bytes(BYTES("\x48\x00"), NULL, no_inline);        /* good */
	}
	/* 120 deep, of the child: lengths that are too long for it all, but depth comes first. */
	for (size_t i = 0; i < sizeof(deep) / 3; i++) {
		deep[3 * i] = 0x1a;
		deep[3 * i + 1] = (uint8_t)(0x80 | ((sizeof(deep) - 3 * i - 3) & 0x7f));
		deep[3 * i + 2] = (uint8_t)((sizeof(deep) - 3 * i - 3) >> 7);
	}
	check_bytes(deep, sizeof(deep), NULL, true);
	/* The limits are those that came with it. */
	limits.depth_max = 10;
	check_bytes(deep + sizeof(deep) - 3 * 9, 3 * 9, &limits, true);
	check_bytes(deep + sizeof(deep) - 3 * 12, 3 * 12, &limits, true);
	check_bytes(wire, len, NULL, true);
	limits = linear_limits_default;
	limits.linear_bytes_max = 4096;
	check_bytes(wire, len, &limits, true);
	limits = linear_limits_default;
	limits.elements_max = 1;
	check_bytes(deep + sizeof(deep) - 3 * 4, 3 * 4, &limits, true);
	ck_assert_uint_ge(stats().decode_errors, HARNESS_EITHER(15, 0));
	ck_assert_uint_eq(stats().protocol_errors, 0);
	harness_wait_released(&h);
	free(wire);
}
END_TEST

/* A message with bytes changed: the same result from either side. */
START_TEST(mutated)
{
	char *tags[] = {(char *)(uintptr_t) "red", (char *)(uintptr_t) "green"};
	int64_t numbers[] = {1, 300, -5};
	Item inner = item_of(9, 3), item = item_of(40, ECHO);
	Item *items[] = {&inner, &inner};
	uint8_t wire[512], changed[512];
	uint64_t x = 0x9e3779b97f4a7c15u;
	size_t len;

	inner.name = (char *)(uintptr_t) "inner";
	item.child = &inner;
	item.n_tags = 2;
	item.tags = tags;
	item.n_numbers = 3;
	item.numbers = numbers;
	item.n_items = 2;
	item.items = items;
	len = protobuf_c_message_pack(&item.base, wire);
	ck_assert_uint_le(len, sizeof(wire));
	for (unsigned i = 0; i < 2000; i++) {
		unsigned changes = 1 + i % 3;

		memcpy(changed, wire, len);
		for (unsigned k = 0; k < changes; k++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			changed[x % len] = (uint8_t)(x >> 32);
		}
		check_bytes(changed, i % 5 == 0 ? x % len : len, NULL, i % 2 != 0);
	}
	harness_wait_released(&h);
}
END_TEST

/* ---- streams -------------------------------------------------------------------------------- */

static size_t wanted;

static void same_size(struct hcall *c)
{
	ck_assert_uint_eq(c->reply_bytes, wanted);
	/* As splitd does once it is sent. */
	while (harness_writable(&h, c, 1, 0) != 0)
		;
}

START_TEST(server_stream)
{
	for (size_t i = 0; i < ARRAY_LEN(sizes) - 1; i++) {
		Item item = item_of(sizes[i], 1);

		wanted = protobuf_c_message_get_packed_size(&item.base);
		send("split.test.Wire/Server", &item, true);
		call.on_message = same_size;
		harness_wait(&h, &call);
		ck_assert_uint_eq(call.status, 0);
		ck_assert_uint_eq(call.messages, 3);
		check_seen(&item);
		check_reply(&item);
	}
	harness_wait_released(&h);
}
END_TEST

START_TEST(client_stream)
{
	struct hsend s = {.method = "split.test.Wire/Client", .open = true};

	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	for (size_t i = 0; i < ARRAY_LEN(sizes) - 1; i++) {
		Item item = item_of(sizes[i], i == 9 ? RETAINED : 1);
		unsigned n = handled;

		ck_assert_int_eq(harness_message(&h, &call, &item.base, i % 2 != 0, false), 0);
		harness_spin(&h, 5000, &handled, n + 1);
		check_seen(&item);
	}
	see(split_message_get(held));
	ck_assert_uint_eq(((const Item *)(const void *)split_message_get(held))->payload.len,
			  sizes[9]);
	ck_assert_int_eq(harness_half_close(&h, &call), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, 0);
	ck_assert_uint_eq(h.wire_replies, HARNESS_EITHER(1, 0));
	split_message_release(held);
	harness_wait_released(&h);
}
END_TEST

START_TEST(bidi_stream)
{
	struct hsend s = {.method = "split.test.Wire/Bidi", .open = true};

	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	call.on_message = same_size;
	for (size_t i = 0; i < ARRAY_LEN(sizes) - 1; i++) {
		Item item = item_of(sizes[i], 1);
		uint64_t until = clock_ns() + 10 * CLOCK_NS_PER_SEC;

		wanted = protobuf_c_message_get_packed_size(&item.base);
		ck_assert_int_eq(harness_message(&h, &call, &item.base, true, false), 0);
		while (call.messages != i + 1) {
			(void)harness_poll(&h);
			ck_assert_uint_lt(clock_ns(), until);
		}
		check_reply(&item);
	}
	ck_assert_int_eq(harness_half_close(&h, &call), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, 0);
	ck_assert_uint_eq(h.wire_replies, HARNESS_EITHER(ARRAY_LEN(sizes) - 1, 0));
	harness_wait_released(&h);
}
END_TEST

/* The third message of a stream is none: the call ends, the handler hears of it once, and what
 * comes behind is dropped. */
START_TEST(undecodable_in_a_stream)
{
	struct hsend s = {.method = _i == 0 ? "split.test.Wire/Client" : "split.test.Wire/Bidi",
			  .open = true};
	Item item = item_of(3000, 1);

	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	for (unsigned i = 0; i < 2; i++)
		ck_assert_int_eq(harness_message(&h, &call, &item.base, true, false), 0);
	if (harness_over_tcp()) { /* splitd sees it, and ends the call on both sides */
		harness_spin(&h, 10000, &handled, 2);
		ck_assert_int_eq(harness_raw(&h, &call, BYTES("\x0a\x02\xc3\x28"), false),
				 -SPLIT_E_LINEARIZE_UTF8);
		harness_cancel(&h, &call);
		harness_spin(&h, 10000, &closed, 1);
	} else {
		ck_assert_int_eq(harness_raw(&h, &call, BYTES("\x0a\x02\xc3\x28"), false), 0);
		ck_assert_int_eq(harness_message(&h, &call, &item.base, true, true), 0);
		harness_wait(&h, &call);
		harness_spin(&h, 5000, &closed, 1);
		ck_assert_uint_eq(call.status, SPLIT_INTERNAL);
		ck_assert(call.undecoded);
		ck_assert_str_eq(call.text, error_text(-SPLIT_E_LINEARIZE_UTF8));
	}
	ck_assert_uint_eq(handled, 2);
	ck_assert_uint_eq(cancelled, 1);
	ck_assert_uint_eq(half_closed, 0);
	ck_assert_uint_eq(closed, 1);
	harness_wait_released(&h);
	/* The worker goes on. */
	item = item_of(20, ECHO);
	send("split.test.Wire/Unary", &item, false);
	harness_wait(&h, &call);
	check_reply(&item);
}
END_TEST

START_TEST(undecodable_server_stream)
{
	struct hsend s = {.method = "split.test.Wire/Server",
			  .raw = (const uint8_t *)"\x0a\x05"
						  "abc",
			  .raw_bytes = 5};

	if (harness_over_tcp()) {
		ck_assert_int_lt(harness_send(&h, &call, &s), 0);
		harness_spin(&h, 2, NULL, 0);
	} else {
		ck_assert_int_eq(harness_send(&h, &call, &s), 0);
		harness_wait(&h, &call);
		ck_assert_uint_eq(call.status, SPLIT_INTERNAL);
		ck_assert(call.undecoded);
	}
	ck_assert_uint_eq(handled, 0);
	ck_assert_uint_eq(closed, 0); /* it never began */
	harness_wait_released(&h);
}
END_TEST

/* The host may give the requests before it back a little after it has answered them. */
static void send_with_room(struct hcall *c, const struct hsend *s)
{
	int rc;

	while ((rc = harness_send(&h, c, s)) == -SPLIT_E_SHEPHERD_QUOTA)
		harness_spin(&h, 1, NULL, 0);
	ck_assert_int_eq(rc, 0);
}

/* An answer that has no room in the segment ends its call as it does where splitd encodes. */
START_TEST(no_room_for_the_answer)
{
	Item item = item_of(1u << 20, ECHO), small = item_of(10, ECHO);
	struct hcall calls[32];
	unsigned n = 0, exhausted = 0;

	h.hold_tokens = true;
	for (; n < ARRAY_LEN(calls) && exhausted == 0; n++) {
		struct hsend s = {.method = "split.test.Wire/Unary", .message = &item.base};

		send_with_room(&calls[n], &s);
		/* It waits for room for a while, room_wait_ns. */
		while (stats().answers <= n)
			harness_spin(&h, 1, NULL, 0);
		exhausted = (unsigned)stats().room_exhausted;
	}
	ck_assert_uint_eq(exhausted, 1);
	harness_until(&h, no_room == SPLIT_E_NOMEM); /* its answer returns after it is counted */
	/* Over TCP answers wait in the host's segment, this one's status behind them. */
	h.hold_tokens = !harness_over_tcp();
	if (!h.hold_tokens)
		harness_release_held(&h);
	for (unsigned i = 0; i < n; i++) {
		harness_wait(&h, &calls[i]);
		ck_assert_uint_eq(calls[i].status, i == n - 1 ? SPLIT_RESOURCE_EXHAUSTED : 0);
	}
	h.hold_tokens = false;
	harness_release_held(&h);
	harness_wait_released(&h);
	for (unsigned i = 0; i < n; i++)
		hcall_free(&calls[i]);
	send("split.test.Wire/Unary", &small, false);
	harness_wait(&h, &call);
	check_reply(&small);
	harness_until(&h, no_room == 0);
}
END_TEST

/* The only room for an answer is that in which its beginning lies: it is left, and comes back
 * whole.
 */
START_TEST(room_of_its_own)
{
	static const size_t takes[] = {1u << 20, 600000, 300000, 150000, 70000};
	static int64_t numbers[150000];
	Item item = item_of(0, ECHO), large = SPLIT__TEST__ITEM__INIT;
	static struct hcall calls[400];
	struct hcall last = {0};
	struct hsend s = {.method = "split.test.Wire/Unary", .message = &item.base};
	unsigned n = 0;

	h.hold_tokens = true;
	/* Everything is taken, the largest first. */
	for (size_t i = 0; i < ARRAY_LEN(takes); i++) {
		item = item_of(takes[i], ECHO);
		do {
			ck_assert_uint_lt(n, ARRAY_LEN(calls));
			send_with_room(&calls[n], &s);
			while (calls[n].answers == 0)
				harness_spin(&h, 1, NULL, 0);
		} while (calls[n++].status == SPLIT_OK);
	}
	/* But for one block of 2 MiB. */
	harness_release_first(&h);
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		numbers[i] = INT64_MAX - (int64_t)i; /* 9 bytes each */
	large.numbers = numbers;
	large.n_numbers = ARRAY_LEN(numbers);
	s = (struct hsend){.method = "split.test.Wire/Other", .message = &large.base};
	send_with_room(&last, &s);
	while (last.answers == 0)
		harness_spin(&h, 1, NULL, 0);
	ck_assert_uint_eq(last.status, SPLIT_OK);
	h.hold_tokens = false;
	harness_release_held(&h);
	harness_wait_released(&h);
	for (unsigned i = 0; i < n; i++)
		hcall_free(&calls[i]);
	hcall_free(&last);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("host-lib/wire");
	TCase *t = tcase_create("wire");
	SRunner *r;
	int failed;

	for (size_t i = 0; i < sizeof(filler); i++)
		filler[i] = (uint8_t)(i * 7);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, every_size);
	tcase_add_test(t, same_from_either_side);
	tcase_add_test(t, retained_and_failed);
	tcase_add_test(t, undecodable);
	tcase_add_test(t, mutated);
	tcase_add_test(t, server_stream);
	tcase_add_test(t, client_stream);
	tcase_add_test(t, bidi_stream);
	tcase_add_loop_test(t, undecodable_in_a_stream, 0, 2);
	tcase_add_test(t, undecodable_server_stream);
	tcase_add_test(t, no_room_for_the_answer);
	if (!harness_over_tcp()) /* there splitd encodes */
		tcase_add_test(t, room_of_its_own);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
