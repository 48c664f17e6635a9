/* The switch between the engines, and both held equal on what lies at the edges: every truncation,
 * every length of varint at every distance from the end, long runs, long strings, small chunks. The
 * random inputs of differential_test, generated_test and the fuzz targets go through the same. */
#include "linearize/fast_internal.h"
#include "tests/linearize/support.h"
#include "unit3.pb-c.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct schema *schema;
static const struct schema_message *all;
static struct random r;

static void setup(void)
{
	schema = schema_of(&unit3__all__descriptor, &all);
	random_seed(&r, 4);
}

static void teardown(void)
{
	schema_destroy(schema);
}

/* From memory of exactly that size, so that ASan sees what is read past it. */
static void check_exact(const char *label, const uint8_t *bytes, size_t len)
{
	struct wire w = {.bytes = malloc(len + !len), .len = len};

	ck_assert_ptr_nonnull(w.bytes);
	if (len)
		memcpy(w.bytes, bytes, len);
	check_engines(label, &r, all, &w);
	free(w.bytes);
}

START_TEST(test_switch)
{
	enum linearize_engine first = linearize_engine_get();

	ck_assert_int_eq(linearize_engine_set(LINEARIZE_ENGINE_GENERIC), 0);
	ck_assert_int_eq(linearize_engine_get(), LINEARIZE_ENGINE_GENERIC);
	ck_assert_int_eq(linearize_engine_set((enum linearize_engine)7), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(linearize_engine_get(), LINEARIZE_ENGINE_GENERIC);
	ck_assert_int_eq(linearize_engine_set(first), 0);
}
END_TEST

START_TEST(test_truncations)
{
	int i;

	for (i = 0; i < 12; i++) {
		struct wire w;
		size_t len;

		random_wire(&r, &unit3__all__descriptor, i % 2, &w);
		for (len = 0; len <= w.len && len < 600; len++)
			check_exact("truncation", w.bytes, len);
		free(w.bytes);
	}
}
END_TEST

/* A varint of `bytes` bytes, which is longer than it need be at times. */
static void varint_of(struct wire *w, unsigned bytes)
{
	uint8_t b[11];

	random_fill(&r, b, sizeof(b));
	for (unsigned i = 0; i < bytes; i++)
		b[i] |= 0x80;
	b[bytes - 1] &= 0x7f;
	wire_put(w, b, bytes);
}

START_TEST(test_varints)
{
	const ProtobufCMessageDescriptor *d = &unit3__all__descriptor;
	unsigned f, bytes, tail;

	for (f = 0; f < d->n_fields; f++) {
		bool packed = d->fields[f].flags & PROTOBUF_C_FIELD_FLAG_PACKED;

		for (bytes = 1; bytes <= 11; bytes++) {
			for (tail = 0; tail < 12; tail++) {
				struct wire w = {0}, sub = {0};

				varint_of(&sub, bytes);
				for (unsigned i = 0; packed && i < tail; i++)
					varint_of(&sub, 1 + (i + bytes) % 10);
				wire_tag(&w, d->fields[f].id, packed ? 2 : 0);
				if (packed)
					wire_varint(&w, sub.len);
				wire_put(&w, sub.bytes, sub.len);
				for (unsigned i = 0; !packed && i < tail; i++)
					wire_varint(&w, d->fields[f].id << 3);
				check_exact(d->fields[f].name, w.bytes, w.len);
				free(sub.bytes);
				free(w.bytes);
			}
		}
	}
}
END_TEST

/* Strings, bytes and packed fields of each length around what is moved at once. */
START_TEST(test_lengths)
{
	const ProtobufCMessageDescriptor *d = &unit3__all__descriptor;
	unsigned f, len;

	for (f = 0; f < d->n_fields; f++) {
		for (len = 0; len < 600; len += len < 70 ? 1 : 37) {
			struct wire w = {0};
			uint8_t content[600];

			memset(content, 'a', sizeof(content));
			if (len && len % 3 == 0)
				content[random_below(&r, len)] = (uint8_t)random_next(&r);
			wire_tag(&w, d->fields[f].id, 2);
			wire_varint(&w, len);
			wire_put(&w, content, len);
			check_exact(d->fields[f].name, w.bytes, w.len);
			free(w.bytes);
		}
	}
}
END_TEST

/* Messages in messages that all end with the wire, the innermost with so many unknown fields that
 * the engines take turns more often than the fast one may enter the end of the wire. */
START_TEST(test_deep_end)
{
	unsigned depth, unknown;

	for (depth = 0; depth < 100; depth += 1 + depth / 3) {
		for (unknown = 0; unknown < 28; unknown += 3) {
			struct wire w = {0};

			for (unsigned i = 0; i < unknown; i++)
				wire_put(&w, i % 4 ? "\x68\x01" : "\x08\x05", 2);
			for (unsigned i = 0; i < depth; i++) {
				struct wire outer = {0};

				wire_tag(&outer, 29, 2);
				wire_varint(&outer, w.len);
				wire_put(&outer, w.bytes, w.len);
				free(w.bytes);
				w = outer;
			}
			check_exact("deep end", w.bytes, w.len);
			free(w.bytes);
		}
	}
}
END_TEST

/* Runs of strings and bytes with tags of one byte, of all lengths, that take more than what is
 * asked for ahead; cut at some places. */
START_TEST(test_long_runs)
{
	const struct schema_message *lines;
	struct schema *own = schema_of(&unit3__lines__descriptor, &lines);

	for (unsigned each = 4; each < 20000; each *= 2) {
		struct wire w = {0};
		uint8_t content[20000];

		memset(content, 'b', sizeof(content));
		for (unsigned i = 0; i < 45000 / each; i++) {
			uint64_t len = random_below(&r, each);

			wire_tag(&w, 1 + (i > 15000 / each), 2);
			wire_varint(&w, len);
			wire_put(&w, content, len);
		}
		for (unsigned i = 0; i < 30; i++) {
			struct wire cut = {.len = i ? random_below(&r, w.len) : w.len};

			cut.bytes = malloc(cut.len + !cut.len);
			ck_assert_ptr_nonnull(cut.bytes);
			memcpy(cut.bytes, w.bytes, cut.len);
			check_engines("long run", &r, lines, &cut);
			free(cut.bytes);
		}
		free(w.bytes);
	}
	schema_destroy(own);
}
END_TEST

/* A run of one field, then of another, then the first again: arrays begin, fill, and grow. */
START_TEST(test_runs)
{
	const ProtobufCMessageDescriptor *d = &unit3__all__descriptor;
	int i;

	for (i = 0; i < 400; i++) {
		struct wire w = {0};
		unsigned part;

		for (part = 0; part < 3; part++) {
			const ProtobufCFieldDescriptor *f =
				&d->fields[random_below(&r, d->n_fields)];
			uint64_t n = random_below(&r, 3) ? random_below(&r, 40) : 600;

			while (n--) {
				bool scalar = f->type < PROTOBUF_C_TYPE_STRING;

				wire_tag(&w, f->id, scalar && random_below(&r, 20) ? 0 : 2);
				wire_varint(&w, scalar ? random_below(&r, 300) % 2 : 0);
				if (scalar && random_below(&r, 30) == 0)
					wire_varint(&w, random_next(&r));
			}
		}
		if (!w.bytes)
			wire_put(&w, "", 0);
		check_exact("runs", w.bytes, w.len);
		free(w.bytes);
	}
}
END_TEST

/* Pieces of text, good and bad, cut anywhere: the vectors say what the grammar says. */
START_TEST(test_utf8)
{
	static const char *const pieces[] = {
		"a",
		"0123456789abcdefghijklmnopqrstuvwxyz",
		"\xc3\xa9",
		"\xe2\x82\xac",
		"\xed\x9f\xbf",
		"\xf0\x9f\x98\x80",
		"\xf4\x8f\xbf\xbf",
		/* bad */
		"\x80",
		"\xc0\x80",
		"\xc1\xbf",
		"\xe0\x9f\xbf",
		"\xed\xa0\x80",
		"\xf0\x8f\xbf\xbf",
		"\xf4\x90\x80\x80",
		"\xf5\x80\x80\x80",
		"\xff",
		"\xe2\x82",
	};
	int i, k, good = 0;

	for (i = 0; i < 40000; i++) {
		struct wire w = {0};
		int bad = (int)random_below(&r, 3);
		const uint8_t *end, *expected;

		for (k = (int)random_below(&r, 40); k >= 0; k--) {
			const char *piece = pieces[random_below(&r, 7)];

			if (bad == 1 && random_below(&r, 30) == 0)
				piece = pieces[7 + random_below(&r, 10)];
			wire_put(&w, piece, strlen(piece));
		}
		if (bad == 2)
			w.bytes[random_below(&r, w.len)] = (uint8_t)random_next(&r);
		/* Exactly that size, so that ASan sees what is read past it. */
		w.bytes = realloc(w.bytes, w.len);
		end = w.bytes + w.len - (w.len ? random_below(&r, 2) : 0);
		expected = utf8_span(w.bytes, end);
		good += expected != NULL;
		ck_assert_ptr_eq(linear_fast_get()->utf8(w.bytes, end), expected);
		ck_assert_ptr_eq(linear_fast_any.utf8(w.bytes, end), expected);
		free(w.bytes);
	}
	ck_assert_int_gt(good, 1000);
	ck_assert_int_lt(good, 39000);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engines");
	TCase *c = tcase_create("engines");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 300);
	tcase_add_test(c, test_switch);
	tcase_add_test(c, test_truncations);
	tcase_add_test(c, test_varints);
	tcase_add_test(c, test_lengths);
	tcase_add_test(c, test_deep_end);
	tcase_add_test(c, test_long_runs);
	tcase_add_test(c, test_runs);
	tcase_add_test(c, test_utf8);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
