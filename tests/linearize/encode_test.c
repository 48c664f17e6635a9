#include "tests/linearize/support.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static struct schema *schema2, *schema3;
static const struct schema_message *all, *defaults;

static void setup(void)
{
	schema3 = schema_of(&unit3__all__descriptor, &all);
	schema2 = schema_of(&unit2__defaults__descriptor, &defaults);
}

static void teardown(void)
{
	schema_destroy(schema2);
	schema_destroy(schema3);
}

/* Encode a message that lies in ordinary memory, and hold it against protobuf-c's pack. */
static void same_as_pack(const struct schema_message *m, const ProtobufCMessage *msg)
{
	struct linear_source source = source_everything();
	size_t len = protobuf_c_message_get_packed_size(msg), got, most;
	uint8_t *packed = malloc(len + 1), *out;
	uint32_t quantum;

	protobuf_c_message_pack(msg, packed);
	for (most = 0; most < 4; most++)
		for (quantum = 0; quantum < 3; quantum++) {
			struct linear_limits l = {.work_quantum = quantum};

			ck_assert_int_eq(
				encode_all(m, &source, (uintptr_t)msg, l, most, &out, &got), 0);
			ck_assert_uint_eq(got, len);
			ck_assert_mem_eq(out, packed, len);
			free(out);
		}
	free(packed);
}

START_TEST(test_presence)
{
	Unit3__All m = UNIT3__ALL__INIT;
	Unit3__Leaf leaf = UNIT3__LEAF__INIT;
	char empty[] = "";

	same_as_pack(all, &m.base);
	m.f_float = -0.0f; /* protobuf-c takes it for zero */
	m.f_double = -0.0;
	same_as_pack(all, &m.base);
	m.f_string = empty;
	same_as_pack(all, &m.base);
	m.f_string = NULL;
	same_as_pack(all, &m.base);
	m.f_leaf = &leaf;
	same_as_pack(all, &m.base);
	m.f_bool = 5;
	m.f_enum = UNIT3__COLOR__BLUE;
	m.f_int32 = -1;
	m.f_sint32 = INT32_MIN;
	m.f_sint64 = INT64_MIN;
	m.f_far = 1;
	same_as_pack(all, &m.base);
	m.choice_case = UNIT3__ALL__CHOICE_O_STRING;
	same_as_pack(all, &m.base); /* NULL */
	m.o_string = empty;
	same_as_pack(all, &m.base);
	m.o_string = (char *)(uintptr_t)protobuf_c_empty_string;
	same_as_pack(all, &m.base);
	m.choice_case = UNIT3__ALL__CHOICE_O_INT32;
	m.o_int32 = 0;
	same_as_pack(all, &m.base);
}
END_TEST

START_TEST(test_defaults)
{
	Unit2__Defaults m = UNIT2__DEFAULTS__INIT;
	Unit2__Needs needs = UNIT2__NEEDS__INIT;
	char *names[2] = {(char *)(uintptr_t)protobuf_c_empty_string, m.s};
	/* A window that holds the message and nothing else: defaults must be known by address. */
	struct linear_source source = {(const uint8_t *)&m, (uintptr_t)&m, sizeof(m)};
	uint8_t *out, packed[200];
	size_t len, packed_len = protobuf_c_message_pack(&m.base, packed);

	ck_assert_int_eq(encode_all(defaults, &source, (uintptr_t)&m, unlimited, 0, &out, &len), 0);
	ck_assert_uint_eq(len, packed_len); /* the required ones, from their defaults */
	ck_assert_mem_eq(out, packed, len);
	free(out);
	same_as_pack(defaults, &m.base);
	m.has_b = m.has_i = m.has_e = m.has_t = m.has_d = 1;
	m.choice_case = UNIT2__DEFAULTS__CHOICE_OS;
	m.os = (char *)(uintptr_t)unit2__defaults__os__default_value;
	m.needs = &needs;
	m.n_names = 1;
	m.names = names;
	same_as_pack(defaults, &m.base);
	m.b.len = 2; /* the front of the default */
	same_as_pack(defaults, &m.base);
	m.r = NULL;
	same_as_pack(defaults, &m.base);
}
END_TEST

START_TEST(test_unknown_groups)
{
	static const uint8_t wire[] = "\x9b\x06\x08\x01\x9c\x06\x98\x06\x01";
	struct linear_source source = source_everything();
	struct arena a;
	struct linear_target target;
	uint64_t root;
	uint8_t *out;
	size_t len;

	arena_init(&a, CHUNK_EXACT);
	target = arena_target(&a);
	ck_assert_int_eq(decode_all(all, wire, sizeof(wire) - 1, &target, unlimited, &root, NULL),
			 0);
	ck_assert_int_eq(encode_all(all, &source, root, unlimited, 0, &out, &len), 0);
	ck_assert_uint_eq(len, sizeof(wire) - 1);
	ck_assert_mem_eq(out, wire, len);
	free(out);
	arena_fini(&a);
}
END_TEST

/* --- A hostile peer --------------------------------------------------------------------------- */

/* Its segment: exactly malloc'ed, so that a read past it is seen. Peer addresses are made up. */
#define PEER 0x700000000000u

struct segment {
	uint8_t *mem;
	size_t bytes;
};

static struct segment segment_new(size_t bytes)
{
	struct segment s = {.mem = calloc(1, bytes), .bytes = bytes};

	return s;
}

static int encode_segment(const struct segment *s, uint64_t root, struct linear_limits l)
{
	struct linear_source source = {s->mem, PEER, s->bytes};
	uint8_t *out;
	size_t len;
	int rc = encode_all(all, &source, root, l, 0, &out, &len);

	if (rc == 0)
		free(out);
	return rc;
}

#define POINTER (-SPLIT_E_LINEARIZE_POINTER)

START_TEST(test_pointers)
{
	static const uint64_t bad[] = {0,
				       1,
				       PEER - 1,
				       PEER - 8,
				       PEER + 4096,
				       PEER + 4096 - 1,
				       UINT64_MAX,
				       UINT64_MAX - 7,
				       PEER + ((uint64_t)1 << 63)};
	struct segment s = segment_new(4096);
	Unit3__All *m = (Unit3__All *)(void *)s.mem;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		bool last = bad[i] == PEER + 4096 - 1; /* one byte is there, and it is a NUL */
		bool null = bad[i] == 0;

		ck_assert_int_eq(encode_segment(&s, bad[i], unlimited), POINTER);
		m->f_string = (char *)bad[i];
		ck_assert_int_eq(encode_segment(&s, PEER, unlimited), last || null ? 0 : POINTER);
		m->f_string = NULL;
		m->f_bytes = (ProtobufCBinaryData){2, (uint8_t *)bad[i]};
		ck_assert_int_eq(encode_segment(&s, PEER, unlimited), POINTER);
		m->f_bytes.len = UINT64_MAX;
		ck_assert_int_ne(encode_segment(&s, PEER, unlimited), 0);
		m->f_bytes.len = 0;
		m->f_leaf = (Unit3__Leaf *)bad[i];
		ck_assert_int_eq(encode_segment(&s, PEER, unlimited), null ? 0 : POINTER);
		m->f_leaf = NULL;
		m->n_r_int32 = 1;
		m->r_int32 = (int32_t *)bad[i];
		ck_assert_int_eq(encode_segment(&s, PEER, unlimited), POINTER);
		m->n_r_int32 = 0;
		m->n_r_string = 1;
		m->r_string = (char **)bad[i];
		ck_assert_int_eq(encode_segment(&s, PEER, unlimited), POINTER);
		m->n_r_string = 0;
		m->base.n_unknown_fields = 1;
		m->base.unknown_fields = (ProtobufCMessageUnknownField *)bad[i];
		ck_assert_int_eq(encode_segment(&s, PEER, unlimited), POINTER);
		m->base.n_unknown_fields = 0;
	}
	free(s.mem);
}
END_TEST

START_TEST(test_counts)
{
	static const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 62, (uint64_t)1 << 61, 1025,
					  513};
	struct segment s = segment_new(4096);
	Unit3__All *m = (Unit3__All *)(void *)s.mem;
	size_t i;

	m->r_double = (double *)PEER;
	for (i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		m->n_r_double = counts[i];
		ck_assert_int_eq(encode_segment(&s, PEER, unlimited), POINTER);
	}
	m->n_r_double = 512;
	ck_assert_int_eq(encode_segment(&s, PEER, unlimited), 0);
	m->n_r_double = 0;
	m->base.unknown_fields = (ProtobufCMessageUnknownField *)PEER;
	m->base.n_unknown_fields = UINT32_MAX;
	ck_assert_int_eq(encode_segment(&s, PEER, unlimited), POINTER);
	free(s.mem);
}
END_TEST

START_TEST(test_string_without_end)
{
	struct segment s = segment_new(4096);
	Unit3__All *m = (Unit3__All *)(void *)s.mem;
	struct linear_limits small = {.wire_bytes_max = 100}, one = {.work_quantum = 1};

	memset(s.mem + 2048, 'x', 2048);
	m->f_string = (char *)(PEER + 2048);
	ck_assert_int_eq(encode_segment(&s, PEER, unlimited), POINTER);
	ck_assert_int_eq(encode_segment(&s, PEER, one), POINTER);
	ck_assert_int_eq(encode_segment(&s, PEER, small), -SPLIT_E_LINEARIZE_LIMIT_WIRE);
	s.mem[4095] = 0;
	ck_assert_int_eq(encode_segment(&s, PEER, one), 0);
	free(s.mem);
}
END_TEST

START_TEST(test_unknown_refused)
{
	static const uint32_t bad[][2] = {{0, 0}, {1u << 29, 0}, {UINT32_MAX, 0},
					  {1, 4}, {1, 6},        {1, 8}};
	struct segment s = segment_new(4096);
	Unit3__All *m = (Unit3__All *)(void *)s.mem;
	uint32_t *u = (uint32_t *)(void *)(s.mem + 2048);
	size_t i;

	m->base.n_unknown_fields = 1;
	m->base.unknown_fields = (ProtobufCMessageUnknownField *)(PEER + 2048);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		u[0] = bad[i][0];
		u[1] = bad[i][1];
		ck_assert_int_eq(encode_segment(&s, PEER, unlimited), -SPLIT_E_LINEARIZE_SOURCE);
	}
	free(s.mem);
}
END_TEST

START_TEST(test_cycles)
{
	struct segment s = segment_new(4096);
	Unit3__All *m = (Unit3__All *)(void *)s.mem;
	uint64_t *children = (uint64_t *)(void *)(s.mem + 2048);
	struct linear_limits l = {.work_quantum = 100};
	int i;

	m->f_self = (Unit3__All *)PEER; /* itself */
	ck_assert_int_eq(encode_segment(&s, PEER, l), -SPLIT_E_LINEARIZE_DEPTH);
	m->f_self = NULL;
	/* 200 times itself on every level: 200^100 messages. */
	for (i = 0; i < 200; i++)
		children[i] = PEER;
	m->n_r_self = 200;
	m->r_self = (Unit3__All **)(PEER + 2048);
	l.depth_max = 100;
	ck_assert_int_eq(encode_segment(&s, PEER, l), -SPLIT_E_LINEARIZE_DEPTH);
	/* A shared child per level instead, on levels of different messages: bounded by each limit.
	 */
	free(s.mem);
	s = segment_new(64 * 1024);
	for (i = 0; i < 60; i++) {
		m = (Unit3__All *)(void *)(s.mem + (size_t)i * 1024);
		children = (uint64_t *)(void *)(s.mem + (size_t)i * 1024 + 768);
		ck_assert_uint_le(sizeof(*m), 768);
		children[0] = children[1] = PEER + (uint64_t)(i + 1) * 1024;
		m->n_r_self = i < 59 ? 2 : 0;
		m->r_self = (Unit3__All **)(PEER + (uint64_t)i * 1024 + 768);
	}
	l = (struct linear_limits){.wire_bytes_max = 100000, .work_quantum = 1000};
	ck_assert_int_eq(encode_segment(&s, PEER, l), -SPLIT_E_LINEARIZE_LIMIT_WIRE);
	l = (struct linear_limits){.elements_max = 100000, .work_quantum = 1000};
	ck_assert_int_eq(encode_segment(&s, PEER, l), -SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	l = (struct linear_limits){.work_max = 1000000, .work_quantum = 1000};
	ck_assert_int_eq(encode_segment(&s, PEER, l), -SPLIT_E_LINEARIZE_LIMIT_WORK);
	free(s.mem);
}
END_TEST

START_TEST(test_chunk_failures)
{
	Unit3__All m = UNIT3__ALL__INIT;
	char text[3000];
	int k, rc = -1;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	m.f_string = text;
	for (k = 1; rc != 0; k++) {
		struct linear_source source = source_everything();
		struct encode_job j;
		struct encode_sink sink;
		struct arena a;

		arena_init(&a, CHUNK_WANT);
		a.most = 100;
		a.fail_at = k;
		sink = arena_sink(&a);
		ck_assert_int_eq(encode_start(&j, all, &source, (uintptr_t)&m, &sink, NULL), 0);
		rc = encode_run(&j);
		ck_assert(rc == 0 || rc == -SPLIT_E_LINEARIZE_NOMEM);
		ck_assert_int_eq(encode_run(&j), rc); /* final */
		arena_fini(&a);
	}
	ck_assert_int_eq(k, 33); /* 3,003 bytes in chunks of 100, and one round without failure */
}
END_TEST

START_TEST(test_result)
{
	Unit3__All m = UNIT3__ALL__INIT;
	struct linear_source source = source_everything();
	struct encode_job j;
	struct iovec iov[2];
	struct arena a;
	struct encode_sink sink;

	arena_init(&a, CHUNK_WANT);
	sink = arena_sink(&a);
	ck_assert_int_eq(encode_start(&j, all, &source, (uintptr_t)&m, &sink, NULL), 0);
	ck_assert_int_eq(encode_run(&j), 0);
	ck_assert_int_eq(encode_result(&j, iov, 2), 0);
	ck_assert_uint_eq(encode_bytes(&j), 0);
	a.most = 2;
	m.f_int32 = 1;
	m.f_int64 = 200;
	ck_assert_int_eq(encode_start(&j, all, &source, (uintptr_t)&m, &sink, NULL), 0);
	ck_assert_int_eq(encode_run(&j), 0);
	ck_assert_int_eq(encode_result(&j, iov, 2), -SPLIT_E_LINEARIZE_CHUNKS);
	arena_fini(&a);
}
END_TEST

/* --- Another thread rewrites the segment meanwhile
 * --------------------------------------------------- */

struct scribbler {
	struct segment s;
	atomic_bool stop;
};

/* Not atomic on purpose: this is what a peer can do. Half of the words it writes are plausible. */
__attribute__((no_sanitize("thread"))) static void *scribble(void *arg)
{
	struct scribbler *x = arg;
	struct random r;

	random_seed(&r, 77);
	while (!atomic_load_explicit(&x->stop, memory_order_relaxed)) {
		uint64_t v = random_next(&r);
		size_t at = random_below(&r, x->s.bytes / 8) * 8;

		switch (random_below(&r, 4)) {
		case 0:
			v = PEER + v % x->s.bytes;
			break;
		case 1:
			v %= 100;
			break;
		case 2:
			v = 0;
			break;
		default:
			break;
		}
		*(volatile uint64_t *)(void *)(x->s.mem + at) = v;
	}
	return NULL;
}

START_TEST(test_scribble)
{
	struct scribbler x = {.s = segment_new(8192)};
	pthread_t thread;
	struct random r;
	int i, good = 0, refused = 0;

	random_seed(&r, 9);
	ck_assert_int_eq(pthread_create(&thread, NULL, scribble, &x), 0);
	/* Until the two threads have met often enough, however busy the machine is. */
	for (i = 0; i < 3000 || (i < 60000 && (good <= 10 || refused <= 10)); i++) {
		struct linear_limits l = {.work_quantum = 50,
					  .wire_bytes_max = 1 << 20,
					  .work_max = 20000,
					  .elements_max = 10000};
		struct block b = {.mem = aligned_alloc(16, x.s.bytes), .bytes = x.s.bytes};
		struct linear_target target;
		struct wire w;
		uint64_t root;

		/* A good message, decoded elsewhere, since decode's own memory is never shared so.
		 */
		b.delta = (int64_t)(PEER - (uintptr_t)b.mem);
		target = block_target(&b);
		random_wire(&r, &unit3__all__descriptor, true, &w);
		if (decode_all(all, w.bytes, w.len, &target, unlimited, &root, NULL) == 0)
			memcpy(x.s.mem, b.mem, b.used);
		if (encode_segment(&x.s, PEER, l) == 0)
			good++;
		else
			refused++;
		free(b.mem);
		free(w.bytes);
		if (i >= 3000)
			sched_yield();
	}
	atomic_store(&x.stop, true);
	pthread_join(thread, NULL);
	free(x.s.mem);
	ck_assert_int_gt(refused, 10);
	ck_assert_int_gt(good, 10);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("encode");
	TCase *c = tcase_create("encode");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 300);
	tcase_add_test(c, test_presence);
	tcase_add_test(c, test_defaults);
	tcase_add_test(c, test_unknown_groups);
	tcase_add_test(c, test_pointers);
	tcase_add_test(c, test_counts);
	tcase_add_test(c, test_string_without_end);
	tcase_add_test(c, test_unknown_refused);
	tcase_add_test(c, test_cycles);
	tcase_add_test(c, test_chunk_failures);
	tcase_add_test(c, test_result);
	tcase_add_test(c, test_scribble);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
