/* The JSON view of messages that somebody else writes to: it may say anything, and reads nothing
 * outside. What it shows of sound ones is held by json_test.py. */
#include "linearize/json/json.h"
#include "tests/linearize/support.h"

#include "known.pb-c.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_BYTES 65536

static const struct json_view_options bounded = {.values_max = 20000, .text_max = 1 << 20};

/* A random message of `d` in memory of exactly its size, so that ASan sees any byte too far. */
static uint64_t message_make(struct random *r, const ProtobufCMessageDescriptor *d,
			     const struct schema_message *m, struct linear_source *out)
{
	static _Alignas(16) uint8_t memory[MEMORY_BYTES];

	for (;;) {
		struct block b = {.mem = memory, .bytes = sizeof(memory)};
		struct linear_target target = block_target(&b);
		struct wire w;
		uint64_t root;
		int rc;

		random_wire(r, d, true, &w);
		rc = decode_all(m, w.bytes, w.len, &target, unlimited, &root, NULL);
		free(w.bytes);
		if (rc != 0 || b.used == 0)
			continue;
		out->mem = malloc(b.used);
		out->peer_base = (uintptr_t)memory;
		out->bytes = b.used;
		memcpy((void *)(uintptr_t)out->mem, memory, b.used);
		return root;
	}
}

START_TEST(test_damaged)
{
	const ProtobufCMessageDescriptor *d =
		_i ? &unit2__defaults__descriptor : &unit3__all__descriptor;
	const struct schema_message *m;
	struct schema *s = schema_of(d, &m);
	unsigned shown = 0, refused = 0;
	struct random r;
	int i, k;

	random_seed(&r, 11 + (uint64_t)_i);
	for (i = 0; i < 3000; i++) {
		struct linear_source source;
		uint64_t root = message_make(&r, d, m, &source);
		uint8_t *memory = (uint8_t *)(uintptr_t)source.mem;
		json_t *value;
		int rc;

		for (k = (int)random_below(&r, 6); k > 0; k--) {
			size_t at = random_below(&r, source.bytes / 8) * 8;
			uint64_t word = random_below(&r, 2)
						? random_next(&r)
						: source.peer_base + random_below(&r, source.bytes);

			if (random_below(&r, 3) == 0)
				word = random_below(&r, 1000);
			memcpy(memory + at, &word, sizeof(word));
		}
		rc = json_view(m, &source, root, &bounded, &value);
		if (rc == 0) {
			char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

			ck_assert_ptr_nonnull(text);
			free(text);
			json_decref(value);
			shown++;
		} else {
			refused++;
		}
		free(memory);
	}
	ck_assert_uint_gt(shown, 100);
	ck_assert_uint_gt(refused, 100);
	schema_destroy(s);
}
END_TEST

START_TEST(test_limits)
{
	/* f_self.f_self.f_string = "abc"; r_int32 of four. */
	static const uint8_t wire[] = "\x92\x01\x08\x92\x01\x05\x7a\x03"
				      "abc"
				      "\xaa\x01\x04\x01\x02\x03\x04";
	static const struct {
		struct json_view_options options;
		int rc;
	} cases[] = {
		{{.depth_max = 0}, 0},
		{{.depth_max = 2}, 0},
		{{.depth_max = 1}, -SPLIT_E_LINEARIZE_DEPTH},
		{{.values_max = 9}, 0},
		{{.values_max = 8}, -SPLIT_E_LINEARIZE_LIMIT_ELEMENTS},
		{{.text_max = 26}, 0},
		{{.text_max = 25}, -SPLIT_E_LINEARIZE_LIMIT_LINEAR},
	};
	const struct schema_message *m;
	struct schema *s = schema_of(&unit3__all__descriptor, &m);
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *value = NULL;
		int rc = json_view_wire(m, wire, sizeof(wire) - 1, NULL, &cases[i].options, &value);

		ck_assert_msg(rc == cases[i].rc, "case %zu: %s", i, error_name(rc));
		if (rc == 0) {
			char *text = json_dumps(value, JSON_COMPACT);

			ck_assert_str_eq(text, "{\"fSelf\":{\"fSelf\":{\"fString\":\"abc\"}},"
					       "\"rInt32\":[1,2,3,4]}");
			free(text);
		}
		json_decref(value);
	}
	schema_destroy(s);
}
END_TEST

/* A host's memory in which a few words stand for more values than can be shown: the same elements
 * over and over, lists in lists, and nothing in them that would be text. */
START_TEST(test_multiplied)
{
	enum { N = 100000, DEEP = 40 };
	static const ProtobufCMessageDescriptor *const types[] = {
		&google__protobuf__list_value__descriptor,
		&google__protobuf__list_value__descriptor, &google__protobuf__anys__descriptor,
		&google__protobuf__field_mask__descriptor};
	static struct {
		Google__Protobuf__ListValue list;
		Google__Protobuf__Anys anys;
		Google__Protobuf__FieldMask mask;
		Google__Protobuf__Value value;
		Google__Protobuf__Any any;
		char empty[8];
		void *elements[N];
		struct {
			Google__Protobuf__ListValue list;
			Google__Protobuf__Value next, *twice[2];
		} deep[DEEP];
	} at;
	const struct linear_source source = {(const uint8_t *)&at, (uintptr_t)&at, sizeof(at)};
	const struct json_view_options options = {.values_max = 1000, .text_max = 1000};
	void *const roots[] = {&at.list, &at.deep[0].list, &at.anys, &at.mask};
	void *const elements[] = {&at.value, &at.value, &at.any, at.empty};
	const struct schema_message *m;
	struct schema *s = schema_of(types[_i], &m);
	struct json_partial out;
	char *text;

	for (size_t i = 0; i < N; i++)
		at.elements[i] = elements[_i];
	at.list.n_values = at.anys.n_anys = at.mask.n_paths = N;
	at.list.values = (void *)at.elements;
	at.anys.anys = (void *)at.elements;
	at.mask.paths = (void *)at.elements;
	/* Each list has the next one twice. */
	for (size_t i = 0; i < DEEP; i++) {
		at.deep[i].list.n_values = i + 1 < DEEP ? 2 : 0;
		at.deep[i].list.values = at.deep[i].twice;
		at.deep[i].twice[0] = at.deep[i].twice[1] = &at.deep[i].next;
		at.deep[i].next.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE;
		at.deep[i].next.list_value = &at.deep[(i + 1) % DEEP].list;
	}
	ck_assert_int_lt(json_view_partial(m, &source, (uintptr_t)roots[_i], &options, &out), 0);
	text = json_dumps(out.value, JSON_COMPACT | JSON_ENCODE_ANY);
	if (text)
		ck_assert_uint_lt(strlen(text), 10000);
	free(text);
	json_decref(out.value);
	schema_destroy(s);
}
END_TEST

/* proto2 strings may hold anything; JSON may not. */
START_TEST(test_not_utf8)
{
	const struct schema_message *m;
	struct schema *s = schema_of(&unit2__defaults__descriptor, &m);
	json_t *value;

	ck_assert_int_eq(json_view_wire(m, "\x42\x05\x61\xff\xc3\xa9\xe2", 7, NULL, NULL, &value),
			 0);
	ck_assert_str_eq(json_string_value(json_object_get(value, "plain")),
			 "a\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd");
	/* Required fields are always shown, defaults of optional ones never. */
	ck_assert_str_eq(json_string_value(json_object_get(value, "r")), "required default");
	ck_assert_ptr_null(json_object_get(value, "s"));
	json_decref(value);
	schema_destroy(s);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("json_view");
	TCase *c = tcase_create("json_view");
	SRunner *runner;
	int failed;

	tcase_set_timeout(c, 300);
	tcase_add_loop_test(c, test_damaged, 0, 2);
	tcase_add_test(c, test_limits);
	tcase_add_loop_test(c, test_multiplied, 0, 4);
	tcase_add_test(c, test_not_utf8);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
