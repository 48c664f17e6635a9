/* Every allocation fails once, one at a time: reading descriptor sets and manifests, making types
 * and schemas of them, JSON, and the compiler. Each says so, holds nothing back and crashes
 * nowhere. Leaks are ASan's to see. usage: nomem_test SET */
#include "base/bits.h"
#include "linearize/compiler/compiler.h"
#include "linearize/json/json.h"
#include "linearize/manifest/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where more than that can fail, each of so many is tried, from another one on in each run. */
#define FAILURES_MAX 400

static long countdown = -1; /* the allocation that fails; negative: none */
static long allocations;

static bool fails_now(void)
{
	allocations++;
	return countdown >= 0 && countdown-- == 0;
}

/* The linker sends all calls here (--wrap). */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
	return fails_now() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
	return fails_now() ? NULL : __real_calloc(n, bytes);
}

void *__wrap_realloc(void *p, size_t bytes)
{
	return fails_now() ? NULL : __real_realloc(p, bytes);
}

/* The set as a file, and parsed, once. */
static uint8_t *bytes;
static size_t bytes_n;
static struct proto_set *whole;
static struct schema_types *types;
static struct schema *schema;
static const ProtobufCMessageDescriptor *root;
static uint8_t *request;
static size_t request_n;

static int op_set(void)
{
	struct proto_set *set;
	int rc = proto_set_parse(bytes, bytes_n, NULL, &set, NULL);

	if (rc == 0)
		proto_set_destroy(set);
	return rc;
}

static int op_manifest(void)
{
	struct manifest *m;
	int rc = manifest_parse(bytes, bytes_n, NULL, &m, NULL);

	if (rc == 0)
		manifest_destroy(m);
	return rc;
}

static int op_types(void)
{
	struct schema_types *t;
	struct schema *s;
	int rc = schema_types_create(whole, &t);

	if (rc != 0)
		return rc;
	rc = schema_types_compile(t, NULL, &s);
	if (rc == 0)
		schema_destroy(s);
	schema_types_destroy(t);
	return rc;
}

static int op_amend(void)
{
	struct schema_builder *b;
	struct schema_blob blob = {0};
	struct schema *s;
	int rc = schema_builder_create(&b);

	if (rc != 0)
		return rc;
	rc = schema_builder_add(b, root, NULL);
	if (rc == 0)
		rc = schema_builder_finish(b, &blob);
	schema_builder_destroy(b);
	if (rc == 0)
		rc = schema_parse(blob.bytes, blob.len, NULL, &s);
	free(blob.bytes);
	if (rc != 0)
		return rc;
	rc = schema_amend(&s, whole, NULL);
	schema_destroy(s);
	return rc;
}

static int op_synthesise(void)
{
	uint8_t *set;
	size_t len;
	int rc = schema_synthesise(schema, NULL, 0, &set, &len);

	if (rc == 0)
		free(set);
	return rc;
}

static int op_plan(void)
{
	struct flatten_plan *plan;
	int rc = flatten_plan_create(root, &plan);

	if (rc == 0)
		flatten_plan_destroy(plan);
	return rc;
}

static int op_json(void)
{
	const struct json_view_options options = {.zero_fields = true};
	json_t *json;
	int rc = json_view_wire(schema_message_find(schema, root->name), "", 0, NULL, &options,
				&json);

	if (rc == 0)
		json_decref(json);
	return rc;
}

static int op_compiler(void)
{
	uint8_t *out;
	size_t len;
	int rc = compiler_run(request, request_n, &out, &len);

	if (rc == 0)
		free(out);
	return rc;
}

static const struct {
	const char *name;
	int (*run)(void);
} ops[] = {
	{"set", op_set},   {"manifest", op_manifest},     {"types", op_types},
	{"plan", op_plan}, {"synthesise", op_synthesise}, {"amend", op_amend},
	{"json", op_json}, {"compiler", op_compiler},
};

static int try_all(const char *name, int (*run)(void))
{
	long total, step, failures = 0;
	int rc;

	allocations = 0;
	rc = run();
	total = allocations;
	if (rc != 0 || total == 0) {
		fprintf(stderr, "%s: %d after %ld allocations\n", name, rc, total);
		return 1;
	}
	step = 1 + total / FAILURES_MAX;
	for (long n = 0; n < total; n += step) {
		countdown = n;
		rc = run();
		if (countdown >= 0) {
			fprintf(stderr, "%s: allocation %ld of %ld did not come\n", name, n, total);
			return 1;
		}
		if (rc != -SPLIT_E_BASE_NOMEM) {
			fprintf(stderr, "%s: allocation %ld failed: %s\n", name, n, error_text(rc));
			return 1;
		}
		failures++;
	}
	countdown = -1;
	printf("%s: %ld allocations, %ld of them failed\n", name, total, failures);
	return run() != 0;
}

static void varint_add(uint8_t **p, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		*(*p)++ = (uint8_t)(v | 0x80);
	*(*p)++ = (uint8_t)v;
}

static void field_add(uint8_t **p, uint32_t number, const void *from, size_t len)
{
	varint_add(p, (uint64_t)number << 3 | 2);
	varint_add(p, len);
	memcpy(*p, from, len);
	*p += len;
}

/* CodeGeneratorRequest: all files of the set, all that can be written. */
static void request_make(void)
{
	static const char parameter[] = "messages,manifest";
	uint8_t *p;

	request = p = malloc(2 * bytes_n + 65536);
	for (uint32_t i = 0; i < whole->files_n; i++)
		field_add(&p, 1, whole->files[i].name, strlen(whole->files[i].name));
	field_add(&p, 2, parameter, sizeof(parameter) - 1);
	for (uint32_t i = 0; i < whole->files_n; i++)
		field_add(&p, 15, whole->files[i].bytes.data, whole->files[i].bytes.len);
	request_n = (size_t)(p - request);
}

static int prepare(const char *path)
{
	FILE *f = fopen(path, "rb");

	bytes = malloc(1 << 20);
	if (f == NULL || bytes == NULL)
		return 1;
	bytes_n = fread(bytes, 1, 1 << 20, f);
	(void)fclose(f);
	if (proto_set_parse(bytes, bytes_n, NULL, &whole, NULL) != 0 ||
	    schema_types_create(whole, &types) != 0 ||
	    schema_types_compile(types, NULL, &schema) != 0)
		return 1;
	/* The one with most fields. */
	for (uint32_t i = 0; i < whole->messages_n; i++) {
		const ProtobufCMessageDescriptor *d =
			schema_types_message(types, whole->messages[i]->full_name);

		if (d != NULL && (root == NULL || d->n_fields > root->n_fields))
			root = d;
	}
	request_make();
	return root == NULL;
}

int main(int argc, char **argv)
{
	int failed = 0;

	/* jansson's too, which is a shared library. */
	json_set_alloc_funcs(__wrap_malloc, free);
	if (argc != 2 || prepare(argv[1]) != 0) {
		fprintf(stderr, "usage: nomem_test SET\n");
		return 1;
	}
	for (size_t i = 0; i < ARRAY_LEN(ops); i++)
		failed |= try_all(ops[i].name, ops[i].run);
	free(request);
	schema_destroy(schema);
	schema_types_destroy(types);
	proto_set_destroy(whole);
	free(bytes);
	return failed;
}
