/* The reader of descriptor sets: what it makes of a set from protoc, that every damage is refused
 * or harmless, and manifests in both forms.
 *
 * usage: descriptor_test SET MANIFEST       (of tests/compiler/protos; of examples/tally) */
#include "base/random.h"
#include "linearize/descriptor/descriptor.h"
#include "linearize/manifest/manifest.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t bytes[1 << 20];
static size_t len;
static const char *manifest_path;
static struct proto_set *set;

static void setup(void)
{
	struct proto_finding finding;

	ck_assert_msg(proto_set_parse(bytes, len, NULL, &set, &finding) == 0, "%s: %s: %s",
		      finding.file, finding.element, finding.text);
}

static void teardown(void)
{
	proto_set_destroy(set);
}

static const struct proto_field *field(const char *message, const char *name)
{
	const struct proto_message *m = proto_message_find(set, message);

	ck_assert_ptr_nonnull(m);
	for (uint32_t i = 0; i < m->fields_n; i++)
		if (strcmp(m->fields[i].name, name) == 0)
			return &m->fields[i];
	ck_abort_msg("%s has no %s", message, name);
	return NULL;
}

START_TEST(labels_and_presence)
{
	ck_assert(field("test.all3.Lists", "packed")->packed);
	ck_assert(!field("test.all3.Lists", "unpacked")->packed);
	ck_assert(!field("test.all2.Repeated", "a_int32")->packed);
	ck_assert(field("test.all2.Repeated", "a_float")->packed);
	ck_assert(!field("test.all3.Lists", "names")->packed);
	ck_assert(!field("test.all3.Scalars", "a_int32")->presence);
	ck_assert(field("test.all3.Scalars", "self")->presence);
	ck_assert(field("test.all3.Pick", "text")->presence);
	ck_assert(field("test.all2.Optionals", "o_int32")->presence);
	ck_assert(field("test.optional3.Optionals", "number")->presence);
	ck_assert(field("test.optional3.Optionals", "number")->oneof->synthetic);
	ck_assert(!field("test.optional3.Optionals", "a")->oneof->synthetic);
	ck_assert(field("test.all3.Scalars", "a_string")->utf8);
	ck_assert(!field("test.all2.Optionals", "o_string")->utf8);
	ck_assert(field("test.all3.Maps", "trees")->map);
	ck_assert_int_eq(field("test.groups.Grouped", "many")->type, PROTO_GROUP);
	ck_assert(field("test.all2.Choice", "flag")->deprecated);
	ck_assert_int_eq(field("test.all2.Scalars", "r_none")->number, 536870911);
}
END_TEST

START_TEST(enums_and_names)
{
	ck_assert(proto_enum_find(set, "test.all2.Level")->closed);
	ck_assert(!proto_enum_find(set, "test.all3.Mode")->closed);
	ck_assert(proto_enum_find(set, "test.all2.Aliased")->allow_alias);
	ck_assert_str_eq(field("test.all2.Reserved", "json")->json_name, "another NAME");
	ck_assert_str_eq(field("test.all2.Reserved", "CamelCase")->json_name, "CamelCase");
	ck_assert_str_eq(field("test.all3.Scalars", "a_double")->json_name, "aDouble");
	ck_assert_ptr_eq(field("test.all2.Optionals", "o_point")->message,
			 proto_message_find(set, "common.base_types.Point"));
	ck_assert_ptr_null(proto_message_find(set, "test.all2.Level"));
	ck_assert_ptr_null(proto_message_find(set, "test.all2"));
	ck_assert_ptr_nonnull(proto_service_find(set, "test.all3.Search"));
	ck_assert(proto_service_find(set, "test.all3.Search")->methods[3].client_streaming);
}
END_TEST

START_TEST(defaults)
{
	const struct proto_field *f;
	double d;

	ck_assert_int_eq((int32_t)field("test.all2.Defaults", "d_int32")->default_number,
			 -2147483647);
	ck_assert_uint_eq(field("test.all2.Defaults", "d_uint64")->default_number, UINT64_MAX);
	memcpy(&d, &field("test.all2.Defaults", "d_double")->default_number, sizeof(d));
	ck_assert_double_eq(d, 1.5);
	ck_assert_int_eq((int)field("test.all2.Defaults", "d_level")->default_number, 10);
	ck_assert_int_eq((int)field("test.all2.Optionals", "o_level")->default_number, -5);
	f = field("test.all2.Defaults", "d_bytes");
	ck_assert_uint_eq(f->default_bytes.len, 6);
	ck_assert_mem_eq(f->default_bytes.data, "\1\0\377\"x9", 6);
	f = field("test.all2.Defaults", "d_string");
	ck_assert_str_eq((const char *)f->default_bytes.data, "with \"quotes\", \\ and \303\251 ?"
							      "?/");
	ck_assert(field("test.all2.Defaults", "d_empty")->has_default);
	ck_assert(field("test.all2.Defaults", "d_false")->has_default);
}
END_TEST

START_TEST(options)
{
	const struct proto_service *s = proto_service_find(set, "test.custom.Limited");
	struct proto_method_options o;

	ck_assert_ptr_nonnull(s);
	proto_method_options_read(s, &s->methods[0], &o);
	ck_assert_uint_eq(o.request_bytes_max, 1000);
	ck_assert_uint_eq(o.response_bytes_max, 64);
	ck_assert_uint_eq(o.deadline_ms, 250);
	ck_assert_uint_eq(o.decode, 1);
	proto_method_options_read(s, &s->methods[1], &o);
	ck_assert_uint_eq(o.request_bytes_max, 0); /* said so, over the service's */
	ck_assert_uint_eq(o.idempotency, PROTO_NO_SIDE_EFFECTS);
	ck_assert(proto_field_is_acc(field("test.custom.Marked", "payload")));
	ck_assert(!proto_field_is_acc(field("test.custom.Marked", "other_name")));
}
END_TEST

START_TEST(paths)
{
	const struct proto_message *deeper =
		proto_message_find(set, "test.all2.Choice.Inner.Deeper");
	int32_t path[PROTO_PATH_MAX];

	ck_assert_uint_eq(proto_message_path(deeper, path), 6);
	ck_assert_int_eq(path[0], 4);
	ck_assert_int_eq(path[2], 3);
	ck_assert_int_eq(path[4], 3);
	ck_assert_uint_eq(proto_field_path(&deeper->fields[1], path), 8);
	ck_assert_int_eq(path[6], 2);
	ck_assert_int_eq(path[7], 1);
}
END_TEST

/* Whatever is cut off or changed, it is taken or refused: ASan and the walk over what is taken say
 * whether that was safe. */
static void damaged(const uint8_t *b, size_t n, unsigned *good, unsigned *bad)
{
	uint8_t *copy = malloc(n + 1);
	struct proto_finding finding;
	struct proto_set *s;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, b, n);
	if (proto_set_parse(copy, n, NULL, &s, &finding) != 0) {
		ck_assert(*finding.text != '\0');
		++*bad;
	} else {
		for (uint32_t i = 0; i < s->messages_n; i++)
			ck_assert_ptr_eq(proto_message_find(s, s->messages[i]->full_name),
					 s->messages[i]);
		proto_set_destroy(s);
		++*good;
	}
	free(copy);
}

START_TEST(damage)
{
	static uint8_t changed[sizeof(bytes)];
	unsigned good = 0, bad = 0;
	struct random r;

	random_seed(&r, 3);
	for (size_t n = 0; n < len; n += 1 + n / 64)
		damaged(bytes, n, &good, &bad);
	for (unsigned i = 0; i < 3000; i++) {
		memcpy(changed, bytes, len);
		for (unsigned k = 0; k <= i % 4; k++)
			changed[random_next(&r) % len] = (uint8_t)random_next(&r);
		damaged(changed, len, &good, &bad);
	}
	ck_assert_uint_gt(good, 0);
	ck_assert_uint_gt(bad, 0);
}
END_TEST

/* --- Sets by hand, each wrong in one thing ------------------------------------------------------
 */

#define FILE_HEAD                                                                                  \
	"\x0a\x01"                                                                                 \
	"f" /* name: "f" */
#define PROTO3                                                                                     \
	"\x62\x06"                                                                                 \
	"proto3"
#define EDITIONS                                                                                   \
	"\x62\x08"                                                                                 \
	"editions"
#define MESSAGE(n) "\x22" n

static int parse_file(const char *file, size_t n, struct proto_finding *finding)
{
	struct proto_bytes one = {(const uint8_t *)file, n};
	struct proto_set *s = NULL;
	int rc = proto_set_parse_files(&one, 1, NULL, &s, finding);

	proto_set_destroy(s);
	return rc;
}

#define refused(code, words, literal)                                                              \
	do {                                                                                       \
		struct proto_finding f_;                                                           \
		ck_assert_int_eq(parse_file(literal, sizeof(literal) - 1, &f_), -(code));          \
		ck_assert_msg(strstr(f_.text, words) != NULL, "%s", f_.text);                      \
	} while (0)

START_TEST(wrong_in_one_thing)
{
	struct proto_finding f;

	ck_assert_int_eq(parse_file(FILE_HEAD, sizeof(FILE_HEAD) - 1, &f), 0);
	refused(SPLIT_E_LINEARIZE_PROTO_EDITION, "editions", FILE_HEAD EDITIONS);
	refused(SPLIT_E_LINEARIZE_PROTO, "no name", PROTO3);
	refused(SPLIT_E_LINEARIZE_PROTO, "not there",
		FILE_HEAD "\x1a\x01"
			  "g");
	refused(SPLIT_E_LINEARIZE_PROTO, "identifier", FILE_HEAD MESSAGE("\x03\x0a\x01") "1");
	/* message M { optional int32 a = 0; } and two fields of one number */
	refused(SPLIT_E_LINEARIZE_PROTO, "number",
		FILE_HEAD MESSAGE("\x0c") "\x0a\x01M"
					  "\x12\x07"
					  "\x0a\x01"
					  "a"
					  "\x18\x00"
					  "\x28\x05");
	refused(SPLIT_E_LINEARIZE_PROTO, "another field's",
		FILE_HEAD MESSAGE("\x15") "\x0a\x01M"
					  "\x12\x07"
					  "\x0a\x01"
					  "a"
					  "\x18\x01"
					  "\x28\x05"
					  "\x12\x07"
					  "\x0a\x01"
					  "b"
					  "\x18\x01"
					  "\x28\x05");
	refused(SPLIT_E_LINEARIZE_PROTO, "twice",
		FILE_HEAD MESSAGE("\x03\x0a\x01M") MESSAGE("\x03\x0a\x01M"));
	/* an enum without values */
	refused(SPLIT_E_LINEARIZE_PROTO, "needs a value",
		FILE_HEAD "\x2a\x03\x0a\x01"
			  "E");
}
END_TEST

START_TEST(limits)
{
	struct proto_limits few = proto_limits_default;
	struct proto_set *s;

	few.elements_max = 20;
	ck_assert_int_eq(proto_set_parse(bytes, len, &few, &s, NULL),
			 -SPLIT_E_LINEARIZE_PROTO_LIMIT);
	few = proto_limits_default;
	few.depth_max = 2;
	ck_assert_int_eq(proto_set_parse(bytes, len, &few, &s, NULL),
			 -SPLIT_E_LINEARIZE_PROTO_LIMIT);
	few = proto_limits_default;
	few.bytes_max = len / 2;
	ck_assert_int_eq(proto_set_parse(bytes, len, &few, &s, NULL),
			 -SPLIT_E_LINEARIZE_PROTO_LIMIT);
}
END_TEST

START_TEST(manifests)
{
	const struct proto_service *service;
	const struct proto_method *add;
	struct proto_finding finding;
	struct manifest *m, *again;
	const uint8_t *raw;
	size_t raw_len;
	char why[256];

	ck_assert_msg(manifest_load(manifest_path, &m, why) == 0, "%s", why);
	add = manifest_method(m, "split.examples.Tally", "Add", &service);
	ck_assert_ptr_nonnull(add);
	ck_assert_str_eq(add->output->full_name, "split.examples.Total");
	ck_assert_ptr_null(manifest_method(m, "split.examples.Tally", "Ad", &service));
	raw = manifest_bytes(m, &raw_len);
	ck_assert_int_eq(manifest_parse(raw, raw_len, NULL, &again, &finding), 0);
	ck_assert_uint_eq(manifest_set(again)->messages_n, manifest_set(m)->messages_n);
	manifest_destroy(again);
	manifest_destroy(m);
	ck_assert_int_ne(manifest_parse("# text\nA$AA\n", 12, NULL, &m, &finding), 0);
	ck_assert_str_eq(finding.text, "it is not base64");
	ck_assert_int_ne(manifest_parse("AAA", 3, NULL, &m, &finding), 0);
	ck_assert_int_eq(manifest_load("/nowhere/at/all", &m, why), -SPLIT_E_BASE_SYSTEM);
	ck_assert_int_eq(manifest_load("/dev/zero", &m, why), -SPLIT_E_BASE_SYSTEM);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("descriptor");
	TCase *t = tcase_create("descriptor");
	SRunner *runner;
	FILE *f = argc == 3 ? fopen(argv[1], "rb") : NULL;
	int failures;

	if (!f)
		return 2;
	len = fread(bytes, 1, sizeof(bytes), f);
	fclose(f);
	manifest_path = argv[2];
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, labels_and_presence);
	tcase_add_test(t, enums_and_names);
	tcase_add_test(t, defaults);
	tcase_add_test(t, options);
	tcase_add_test(t, paths);
	tcase_add_test(t, damage);
	tcase_add_test(t, wrong_in_one_thing);
	tcase_add_test(t, limits);
	tcase_add_test(t, manifests);
	suite_add_tcase(s, t);
	runner = srunner_create(s);
	srunner_run_all(runner, CK_NORMAL);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures == 0 ? 0 : 1;
}
