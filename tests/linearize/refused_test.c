/* The line that a log has of a refused message: it is JSON, it says where and why, and it shows
 * what was good before. */
#include "linearize/json/json.h"
#include "tests/linearize/support.h"

#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Decode as the daemon would, for the error and where it is. */
static int refuse(const struct schema_message *m, const void *wire, size_t len,
		  const struct linear_limits *limits, uint64_t *at)
{
	struct arena arena;
	struct linear_target target;
	struct decode_job job;
	int rc;

	arena_init(&arena, CHUNK_WANT);
	target = arena_target(&arena);
	rc = decode_start(&job, m, wire, len, &target, limits);
	while (rc == 0 && (rc = decode_run(&job)) == SPLIT_AGAIN)
		rc = 0;
	*at = decode_where(&job);
	arena_fini(&arena);
	return rc;
}

static json_t *line_of(struct json_refused *r)
{
	json_error_t error;
	json_t *line;
	char *text;

	r->what = "request";
	r->peer = "192.0.2.1:4711";
	r->host = "echo";
	r->service = "unit.Service";
	r->method = "Method";
	ck_assert_int_eq(json_refused_line(r, &text), 0);
	for (const char *c = text; *c != '\0'; c++)
		ck_assert_msg(*c >= 0x20 && *c < 0x7f, "not printable: %s", text);
	/* A string that was rewritten while it was copied may have a NUL in it. */
	line = json_loads(text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
	ck_assert_msg(line != NULL, "%s: %s", error.text, text);
	free(text);
	return line;
}

static const char *string_of(const json_t *line, const char *key)
{
	const char *s = json_string_value(json_object_get(line, key));

	return s ? s : "-";
}

#define W(s) s, sizeof(s) - 1

static const struct {
	const char *name;
	const char *wire;
	size_t len;
	struct linear_limits limits;
	const char *error, *field, *message, *hex;
	int at;
	int unit; /* 2: Defaults */
} cases[] = {
	{"bad UTF-8",
	 W("\x08\x07\x7a\x02\xff\xff"),
	 {0},
	 "LINEARIZE_UTF8",
	 "fString",
	 "{\"fInt32\":7}",
	 "7a02ffff",
	 2,
	 3},
	{"the first field",
	 W("\x7a\x02\xff\xff"),
	 {0},
	 "LINEARIZE_UTF8",
	 "fString",
	 "{}",
	 "7a02ffff",
	 0,
	 3},
	{"not the string before",
	 W("\x7a\x02hi\xda\x01\x01\x80"),
	 {0},
	 "LINEARIZE_UTF8",
	 "rString[0]",
	 "{\"fString\":\"hi\"}",
	 "da010180",
	 4,
	 3},
	{"an element",
	 W("\xda\x01\x01"
	   "a\xda\x01\x01"
	   "b\xda\x01\x01\x80"),
	 {0},
	 "LINEARIZE_UTF8",
	 "rString[2]",
	 "{\"rString\":[\"a\",\"b\"]}",
	 "da010180",
	 8,
	 3},
	{"truncated",
	 W("\x08\x07\x7a\x0a"
	   "abc"),
	 {0},
	 "LINEARIZE_TRUNCATED",
	 "fString",
	 "{\"fInt32\":7}",
	 "7a0a616263",
	 2,
	 3},
	{"truncated inside a message",
	 W("\x8a\x01\x05\x08\x2a\x12\x7f"
	   "x"),
	 {0},
	 "LINEARIZE_TRUNCATED",
	 "fLeaf.s",
	 "{\"fLeaf\":{\"a\":42}}",
	 "127f78",
	 5,
	 3},
	{"truncated tag",
	 W("\x08\x07\x8a"),
	 {0},
	 "LINEARIZE_TRUNCATED",
	 "-",
	 "{\"fInt32\":7}",
	 "8a",
	 2,
	 3},
	{"deep",
	 W("\xea\x01\x02\x08\x01\xea\x01\x09\x92\x01\x06\x08\x05\x7a\x02\xc0\x80"),
	 {0},
	 "LINEARIZE_UTF8",
	 "rSelf[1].fSelf.fString",
	 "{\"rSelf\":[{\"fInt32\":1},{\"fSelf\":{\"fInt32\":5}}]}",
	 "7a02c080",
	 13,
	 3},
	{"in a map",
	 W("\xf2\x01\x08\x0a\x01k\x12\x03\x12\x01\xfe"),
	 {0},
	 "LINEARIZE_UTF8",
	 "mLeaf[0].value.s",
	 "{\"mLeaf\":[{\"key\":\"k\",\"value\":{}}]}",
	 "1201fe",
	 8,
	 3},
	{"field number zero",
	 W("\x08\x01\x00\x01"),
	 {0},
	 "LINEARIZE_TAG_ZERO",
	 "-",
	 "{\"fInt32\":1}",
	 "0001",
	 2,
	 3},
	{"reserved wire type",
	 W("\x08\x01\x7f"),
	 {0},
	 "LINEARIZE_WIRE_RESERVED",
	 "fString",
	 "{\"fInt32\":1}",
	 "7f",
	 2,
	 3},
	{"an unknown group without end",
	 W("\x08\x01\x9b\x06\x08\x01"),
	 {0},
	 "LINEARIZE_TRUNCATED",
	 "#99",
	 "{\"fInt32\":1}",
	 "9b060801",
	 2,
	 3},
	{"packed, no whole element",
	 W("\x08\x01\xba\x01\x05\x01\x02\x03\x04\x05"),
	 {0},
	 "LINEARIZE_PACKED",
	 "rFixed32",
	 "{\"fInt32\":1}",
	 "ba01050102030405",
	 2,
	 3},
	{"too many elements",
	 W("\x08\x01\xaa\x01\x04\x01\x02\x03\x04"),
	 {.elements_max = 3},
	 "LINEARIZE_LIMIT_ELEMENTS",
	 "rInt32",
	 "{\"fInt32\":1}",
	 "aa010401020304",
	 2,
	 3},
	{"too deep",
	 W("\x92\x01\x07\x08\x01\x92\x01\x02\x08\x02"),
	 {.depth_max = 1},
	 "LINEARIZE_DEPTH",
	 "fSelf.fSelf",
	 "{\"fSelf\":{\"fInt32\":1}}",
	 "9201020802",
	 5,
	 3},
	{"more than may come",
	 W("\x08\x01\x7a\x02hi"),
	 {.wire_bytes_max = 5},
	 "LINEARIZE_LIMIT_WIRE",
	 "fInt32",
	 "{}",
	 "08017a026869",
	 0,
	 3},
	{"required",
	 W("\x4a\x01x\x72\x02\x08\x03"),
	 {0},
	 "LINEARIZE_REQUIRED",
	 "needs.b",
	 "{\"needs\":{\"a\":3,\"b\":\"\"},\"r\":\"x\",\"rb\":\"Ynl0ZXMgZGVmYXVsdA==\"}",
	 "-",
	 7,
	 2},
	{"nothing of what is required",
	 W(""),
	 {0},
	 "LINEARIZE_REQUIRED",
	 "a",
	 "{\"a\":0,\"b\":\"\"}",
	 "-",
	 0,
	 1},
};

static const struct schema_message *unit(int which, struct schema **s)
{
	const struct schema_message *m;

	*s = schema_of(which == 3   ? &unit3__all__descriptor
		       : which == 2 ? &unit2__defaults__descriptor
				    : &unit2__needs__descriptor,
		       &m);
	return m;
}

START_TEST(test_where)
{
	const int portable_engines[] = {LINEARIZE_ENGINE_GENERIC, LINEARIZE_ENGINE_FAST};
	struct json_refused r = {.text_max = 4096, .bytes = cases[_i].len, .kept = cases[_i].len};
	enum linearize_engine before = linearize_engine_get();
	uint8_t *wire = malloc(cases[_i].len + 1);
	struct schema *s;

	memcpy(wire, cases[_i].wire, cases[_i].len);
	r.wire = wire;
	r.m = unit(cases[_i].unit, &s);
	for (int e = 0; e < 2; e++) {
		json_t *line, *message;

		if (linearize_engine_set((enum linearize_engine)portable_engines[e]) != 0)
			continue;
		r.error = refuse(r.m, wire, r.kept, &cases[_i].limits, &r.at);
		ck_assert_msg(!strcmp(error_name(r.error), cases[_i].error), "%s: %s",
			      cases[_i].name, error_name(r.error));
		r.status = linearize_map_status(r.error);
		ck_assert_msg((int)r.at == cases[_i].at, "%s: at %d", cases[_i].name, (int)r.at);
		line = line_of(&r);
		message = json_loads(cases[_i].message, 0, NULL);
		ck_assert_msg(json_equal(message, json_object_get(line, "message")), "%s: %s",
			      cases[_i].name,
			      json_dumps(json_object_get(line, "message"), JSON_COMPACT));
		ck_assert_str_eq(string_of(line, "error"), cases[_i].error);
		ck_assert_str_eq(string_of(line, "field"), cases[_i].field);
		ck_assert_str_eq(string_of(line, "hex"), cases[_i].hex);
		ck_assert_str_eq(string_of(line, "peer"), "192.0.2.1:4711");
		ck_assert_str_eq(string_of(line, "method"), "/unit.Service/Method");
		ck_assert_int_eq(json_integer_value(json_object_get(line, "status")),
				 linearize_map_status(r.error));
		ck_assert_int_eq(json_integer_value(json_object_get(line, "at")), cases[_i].at);
		ck_assert_int_eq(json_integer_value(json_object_get(line, "bytes")),
				 (int)cases[_i].len);
		ck_assert_ptr_null(json_object_get(line, "cut"));
		json_decref(message);
		json_decref(line);
	}
	ck_assert_int_eq(linearize_engine_set(before), 0);
	schema_destroy(s);
	free(wire);
}
END_TEST

/* Only the beginning was kept, or nobody said where: what can be said is said. */
START_TEST(test_cut)
{
	static const char wire[] = "\x08\x07\x8a\x01\x0a\x08\x2a\x12\x06"
				   "abcdef\x7a\x01\xff";
	struct json_refused r = {.error = -SPLIT_E_LINEARIZE_UTF8,
				 .text_max = 4096,
				 .wire = (const uint8_t *)wire,
				 .bytes = sizeof(wire) - 1};
	struct schema *s;
	json_t *line;

	r.m = unit(3, &s);
	for (r.kept = 0; r.kept < r.bytes; r.kept++) {
		uint8_t *kept = malloc(r.kept + 1);
		char *shown;

		memcpy(kept, wire, r.kept);
		r.wire = kept;
		r.at = 15;
		line = line_of(&r);
		shown = json_dumps(json_object_get(line, "message"), JSON_COMPACT);
		ck_assert_str_eq(shown,
				 r.kept < 2   ? "{}"
				 : r.kept < 5 ? "{\"fInt32\":7}"
				 : r.kept < 7 ? "{\"fInt32\":7,\"fLeaf\":{}}"
				 : r.kept < 15
					 ? "{\"fInt32\":7,\"fLeaf\":{\"a\":42}}"
					 : "{\"fInt32\":7,\"fLeaf\":{\"a\":42,\"s\":\"abcdef\"}}");
		ck_assert_int_eq(json_is_true(json_object_get(line, "cut")), r.kept < 15);
		ck_assert_str_eq(string_of(line, "field"), r.kept > 15 ? "fString" : "-");
		free(shown);
		json_decref(line);
		free(kept);
	}
	/* Nobody said where: it is found. */
	r.wire = (const uint8_t *)wire;
	r.kept = r.bytes;
	r.at = JSON_UNKNOWN;
	line = line_of(&r);
	ck_assert_int_eq(json_integer_value(json_object_get(line, "at")), 15);
	ck_assert_str_eq(string_of(line, "field"), "fString");
	json_decref(line);
	/* Nothing is known of it but that it was. */
	r.wire = NULL;
	r.bytes = JSON_UNKNOWN;
	line = line_of(&r);
	ck_assert_uint_eq(json_object_size(line), 7);
	json_decref(line);
	schema_destroy(s);
}
END_TEST

/* Inside messages that are open, offsets of the copy are not those of the wire. */
START_TEST(test_found_deep)
{
	static const char wire[] =
		"\x92\x01\x0d\x08\x01\x92\x01\x08\x08\x02\x7a\x02\xc0\x80\x08\x03";
	struct json_refused r = {.error = -SPLIT_E_LINEARIZE_UTF8,
				 .text_max = 4096,
				 .wire = (const uint8_t *)wire,
				 .bytes = 5000,
				 .kept = sizeof(wire) - 1,
				 .at = JSON_UNKNOWN};
	struct schema *s;
	json_t *line;

	r.m = unit(3, &s);
	line = line_of(&r);
	ck_assert_int_eq(json_integer_value(json_object_get(line, "at")), 10);
	ck_assert_str_eq(string_of(line, "field"), "fSelf.fSelf.fString");
	json_decref(line);
	schema_destroy(s);
}
END_TEST

/* What is missing, behind as many messages as can be kept: found in one pass over them. */
START_TEST(test_missing_behind)
{
	enum { N = 32768 };
	uint8_t *wire = malloc(2 * N);
	struct json_refused r = {.error = -SPLIT_E_LINEARIZE_REQUIRED,
				 .text_max = 100,
				 .wire = wire,
				 .bytes = 2 * N,
				 .kept = 2 * N,
				 .at = 2 * N};
	struct schema *s = schema_of(&unit2__many__descriptor, &r.m);
	json_t *line;

	for (int i = 0; i < N; i++)
		memcpy(wire + 2 * i, "\x0a", 2);
	line = line_of(&r);
	ck_assert_str_eq(string_of(line, "field"), "last");
	json_decref(line);
	/* The last but one has a `needs` without anything. */
	memcpy(wire + 2 * N - 6, "\x0a\x02\x0a\x00\x0a", 6);
	line = line_of(&r);
	ck_assert_str_eq(string_of(line, "field"), "all[32765].needs.a");
	json_decref(line);
	schema_destroy(s);
	free(wire);
}
END_TEST

/* Random messages, damaged: always a line, never longer than it may be, and what it shows is what
 * the wire up to there decodes to. */
START_TEST(test_random)
{
	struct schema *schemas[2];
	const struct schema_message *both[] = {unit(2, &schemas[0]), unit(3, &schemas[1])};
	const ProtobufCMessageDescriptor *ds[] = {&unit2__defaults__descriptor,
						  &unit3__all__descriptor};
	unsigned refused = 0;
	struct random r;

	random_seed(&r, 5);
	for (int i = 0; i < 2000; i++) {
		struct json_refused told = {.m = both[i & 1]};
		struct linear_limits limits = unlimited;
		uint8_t *kept;
		struct wire w;
		char *text;

		random_wire(&r, ds[i & 1], random_below(&r, 2) != 0, &w);
		if (w.len > 0 && random_below(&r, 2))
			w.bytes[random_below(&r, w.len)] = (uint8_t)random_next(&r);
		if (random_below(&r, 4) == 0)
			limits.elements_max = random_below(&r, 20) + 1;
		told.error = refuse(told.m, w.bytes, w.len, &limits, &told.at);
		told.what = told.peer = told.host = told.service = told.method = "x";
		told.bytes = w.len;
		told.kept = random_below(&r, 2) ? w.len : random_below(&r, w.len + 1);
		told.text_max = 64 + random_below(&r, 2000);
		if (random_below(&r, 4) == 0)
			told.at = JSON_UNKNOWN;
		kept = malloc(told.kept + 1);
		if (told.kept != 0)
			memcpy(kept, w.bytes, told.kept);
		told.wire = kept;
		if (told.error < 0) {
			json_t *line, *message;
			char *shown;

			refused++;
			ck_assert_int_eq(json_refused_line(&told, &text), 0);
			line = json_loads(text, 0, NULL);
			ck_assert_msg(line != NULL, "%s", text);
			message = json_object_get(line, "message");
			ck_assert_ptr_nonnull(message);
			shown = json_dumps(message, JSON_COMPACT | JSON_ENSURE_ASCII);
			ck_assert_msg(strlen(shown) <= told.text_max, "%s", text);
			free(shown);
			json_decref(line);
			free(text);
		}
		free(kept);
		free(w.bytes);
	}
	ck_assert_uint_gt(refused, 250);
	schema_destroy(schemas[0]);
	schema_destroy(schemas[1]);
}
END_TEST

/* --- Linear messages ---------------------------------------------------------------------- */

static _Alignas(16) uint8_t memory[65536];

static struct linear_source linear(const struct schema_message *m, const char *wire, size_t len,
				   uint64_t *root)
{
	struct block b = {.mem = memory, .bytes = sizeof(memory)};
	struct linear_target target = block_target(&b);

	ck_assert_int_eq(decode_all(m, (const uint8_t *)wire, len, &target, unlimited, root, NULL),
			 0);
	return (struct linear_source){memory, (uintptr_t)memory, b.used};
}

START_TEST(test_pointer)
{
	struct json_refused r = {.error = -SPLIT_E_LINEARIZE_POINTER,
				 .status = 13,
				 .text_max = 4096,
				 .bytes = JSON_UNKNOWN,
				 .at = JSON_UNKNOWN};
	struct linear_source source;
	struct schema *s;
	json_t *line;
	char *shown;

	r.m = unit(3, &s);
	source = linear(r.m, W("\x08\x07\xea\x01\x02\x08\x01\xea\x01\x05\x08\x05\x7a\x01z"),
			&r.root);
	r.source = &source;
	{
		const Unit3__All *all = (const Unit3__All *)(const void *)memory;

		all->r_self[1]->f_string = (char *)(uintptr_t)0x1234;
	}
	line = line_of(&r);
	shown = json_dumps(json_object_get(line, "message"), JSON_COMPACT);
	ck_assert_str_eq(shown, "{\"fInt32\":7,\"rSelf\":[{\"fInt32\":1},{\"fInt32\":5}]}");
	ck_assert_str_eq(string_of(line, "field"), "rSelf[1].fString");
	ck_assert_ptr_null(json_object_get(line, "cut"));
	ck_assert_ptr_null(json_object_get(line, "at"));
	free(shown);
	json_decref(line);
	/* A root that leads nowhere: nothing to show. */
	r.root = 8;
	line = line_of(&r);
	ck_assert_ptr_null(json_object_get(line, "message"));
	json_decref(line);
	schema_destroy(s);
}
END_TEST

/* Text past the bound: its beginning is shown, and that it was cut is said. */
START_TEST(test_long)
{
	struct json_refused r = {.error = -SPLIT_E_LINEARIZE_LIMIT_WIRE,
				 .status = 8,
				 .text_max = 100,
				 .bytes = JSON_UNKNOWN,
				 .at = JSON_UNKNOWN};
	char wire[2 + 3 + 20000] = "\x08\x07\x7a\xa0\x9c\x01";
	struct linear_source source;
	const char *shown;
	struct schema *s;
	json_t *line;

	memset(wire + 6, 'a', sizeof(wire) - 6);
	r.m = unit(3, &s);
	/* field 15, 19999 bytes */
	wire[3] = (char)0x9f;
	source = linear(r.m, wire, sizeof(wire), &r.root);
	r.source = &source;
	line = line_of(&r);
	shown = json_string_value(json_object_get(json_object_get(line, "message"), "fString"));
	ck_assert_ptr_nonnull(shown);
	ck_assert_uint_ge(strlen(shown), 30);
	ck_assert_uint_lt(strlen(shown), 100);
	ck_assert_uint_eq(strspn(shown, "a"), strlen(shown));
	ck_assert_int_eq(json_is_true(json_object_get(line, "cut")), 1);
	ck_assert_ptr_null(json_object_get(line, "field"));
	json_decref(line);
	schema_destroy(s);
}
END_TEST

/* What JSON adds to characters counts too. */
START_TEST(test_long_escaped)
{
	static const char *const characters[] = {"\x01", "\x7f", "\xc3\xa9"};
	struct json_refused r = {.error = -SPLIT_E_LINEARIZE_LIMIT_ELEMENTS,
				 .what = "",
				 .peer = "",
				 .host = "",
				 .service = "",
				 .method = "",
				 .text_max = 1000,
				 .bytes = 2003,
				 .kept = 2003,
				 .at = 2003};
	uint8_t wire[2003] = "\x7a\xd0\x0f";
	size_t n = strlen(characters[_i]);
	struct schema *s;
	char *text, *message;

	for (size_t i = 0; i < 2000; i++)
		wire[3 + i] = (uint8_t)characters[_i][i % n];
	r.m = unit(3, &s);
	r.wire = wire;
	ck_assert_int_eq(json_refused_line(&r, &text), 0);
	message = strstr(text, "\"message\":");
	ck_assert_ptr_nonnull(message);
	ck_assert_uint_le(strlen(message), sizeof("\"message\":}") - 1 + r.text_max);
	ck_assert_uint_ge(strlen(message), r.text_max / 4);
	free(text);
	schema_destroy(s);
}
END_TEST

static atomic_bool over;

static void *scribble(void *arg)
{
	const struct linear_source *source = arg;
	struct random r;

	random_seed(&r, 77);
	while (!atomic_load(&over)) {
		uint64_t at = random_below(&r, source->bytes / 8) * 8;
		uint64_t word = source->peer_base + random_below(&r, source->bytes);

		if (random_below(&r, 3) == 0)
			word = random_below(&r, 3) ? random_next(&r) : random_below(&r, 300);
		__atomic_store_n((uint64_t *)(void *)(memory + at), word, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* A host that rewrites its answer while the line is made: it is a line all the same, of JSON. */
START_TEST(test_rewritten)
{
	static const char wire[] =
		"\x08\x07\x7a\x05hello\x8a\x01\x05\x08\x2a\x12\x01x"
		"\xaa\x01\x04\x01\x02\x03\x04\xda\x01\x03"
		"abc\xda\x01\x02zz"
		"\xea\x01\x04\x08\x01\x7a\x00\xf2\x01\x07\x0a\x01k\x12\x02\x08\x01"
		"\x82\x01\x04\x01\x02\x03\x04\xe2\x01\x02\xff\xfe";
	struct json_refused r = {.error = -SPLIT_E_LINEARIZE_POINTER,
				 .text_max = 2000,
				 .bytes = JSON_UNKNOWN,
				 .at = JSON_UNKNOWN};
	struct linear_source source;
	pthread_t thread;
	struct schema *s;

	r.m = unit(3, &s);
	source = linear(r.m, wire, sizeof(wire) - 1, &r.root);
	r.source = &source;
	atomic_store(&over, false);
	ck_assert_int_eq(pthread_create(&thread, NULL, scribble, &source), 0);
	for (int i = 0; i < 1000; i++)
		json_decref(line_of(&r));
	atomic_store(&over, true);
	pthread_join(thread, NULL);
	schema_destroy(s);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("refused");
	TCase *tc = tcase_create("refused");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, test_where, 0, (int)(sizeof(cases) / sizeof(cases[0])));
	tcase_add_test(tc, test_cut);
	tcase_add_test(tc, test_found_deep);
	tcase_add_test(tc, test_missing_behind);
	tcase_add_test(tc, test_random);
	tcase_add_test(tc, test_pointer);
	tcase_add_test(tc, test_long);
	tcase_add_loop_test(tc, test_long_escaped, 0, 3);
	tcase_add_test(tc, test_rewritten);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
