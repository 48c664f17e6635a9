/* One request: what protoc asks for, file by file. plugin.proto is the format. */
#include "linearize/compiler/compiler_internal.h"

#include <stdlib.h>

enum { REQUEST_FILE = 1, REQUEST_PARAMETER = 2, REQUEST_PROTO = 15 };
enum { RESPONSE_ERROR = 1, RESPONSE_FEATURES = 2, RESPONSE_FILE = 15 };
enum { FILE_NAME = 1, FILE_CONTENT = 15 };
#define FEATURE_PROTO3_OPTIONAL 1

#define FILES_MAX 4096

/* What protoc sends may be larger than what a daemon takes from a stranger. */
static const struct proto_limits limits = {
	.bytes_max = 256u << 20,
	.elements_max = 4u << 20,
	.name_bytes_max = 512,
	.depth_max = 32,
};

struct request {
	struct proto_bytes parameter;
	struct proto_bytes *names, *protos; /* FILES_MAX */
	uint32_t names_n, protos_n;
};

/* --- Writing the response ------------------------------------------------------------------- */

static void varint_put(struct text *t, uint64_t v)
{
	uint8_t byte;

	for (; v >= 0x80; v >>= 7) {
		byte = (uint8_t)(v | 0x80);
		text_bytes(t, &byte, 1);
	}
	byte = (uint8_t)v;
	text_bytes(t, &byte, 1);
}

static uint32_t varint_bytes(uint64_t v)
{
	uint32_t n = 1;

	for (; v >= 0x80; v >>= 7)
		n++;
	return n;
}

static void bytes_put(struct text *t, uint32_t number, const void *bytes, size_t len)
{
	varint_put(t, (uint64_t)number << 3 | 2);
	varint_put(t, len);
	text_bytes(t, bytes, len);
}

static void file_write(struct compiler *c, struct text *response, const char *suffix,
		       void (*generate)(struct compiler *c, struct text *t))
{
	const char *name = str(c, "%s%s", name_stem(c, c->file), suffix);
	struct text content = {0};
	size_t len;

	generate(c, &content);
	c->nomem = c->nomem || content.failed;
	len = 1 + varint_bytes(strlen(name)) + strlen(name) + 1 + varint_bytes(content.len) +
	      content.len;
	varint_put(response, RESPONSE_FILE << 3 | 2);
	varint_put(response, len);
	bytes_put(response, FILE_NAME, name, strlen(name));
	bytes_put(response, FILE_CONTENT, content.bytes, content.len);
	text_fini(&content);
}

/* --- Reading the request -------------------------------------------------------------------- */

static void request_read(struct compiler *c, struct proto_bytes rest, struct request *r)
{
	struct proto_item item;
	int rc;

	r->names = scratch_get(c, FILES_MAX * sizeof(*r->names));
	r->protos = scratch_get(c, FILES_MAX * sizeof(*r->protos));
	if (!r->names || !r->protos)
		return;
	while ((rc = proto_next(&rest, &item)) > 0) {
		if (item.wire != 2)
			continue;
		if (item.number == REQUEST_PARAMETER)
			r->parameter = item.bytes;
		if (item.number != REQUEST_FILE && item.number != REQUEST_PROTO)
			continue;
		if (r->names_n == FILES_MAX || r->protos_n == FILES_MAX) {
			compiler_fail(c, NULL, NULL, 0, "more than %u files", FILES_MAX);
			return;
		}
		if (item.number == REQUEST_FILE)
			r->names[r->names_n++] = item.bytes;
		else
			r->protos[r->protos_n++] = item.bytes;
	}
	if (rc < 0)
		compiler_fail(c, NULL, NULL, 0, "the request is no CodeGeneratorRequest");
}

static void option_take(struct compiler *c, const char *word)
{
	struct compiler_options *o = &c->options;

	if (strcmp(word, "messages") == 0)
		o->messages = true;
	else if (strcmp(word, "manifest") == 0)
		o->manifest = true;
	else if (strcmp(word, "imports") == 0)
		o->imports = true;
	else if (strcmp(word, "nohandlers") == 0)
		o->handlers = false;
	else if (*word)
		compiler_fail(c, NULL, NULL, 0,
			      "unknown option '%.100s': known are messages, manifest, imports and "
			      "nohandlers",
			      word);
}

static void options_read(struct compiler *c, struct proto_bytes p)
{
	char *text = scratch_get(c, p.len + 1), *save = NULL;

	c->options.handlers = true;
	if (!text)
		return;
	if (p.len)
		memcpy(text, p.data, p.len);
	for (char *word = strtok_r(text, ",", &save); word; word = strtok_r(NULL, ",", &save))
		option_take(c, word);
}

/* --- Checks of what is asked for ------------------------------------------------------------ */

/* A finding of the descriptors' reader, with the line of the source where the file has one. */
static void finding_tell(struct compiler *c, const struct request *r, const struct proto_finding *f)
{
	struct proto_file file = {.name = f->file};
	uint32_t line, column;
	char place[64] = "";

	for (uint32_t i = 0; *f->file && f->steps && i < r->protos_n; i++) {
		struct proto_bytes rest = r->protos[i], name = {0}, info = {0};
		struct proto_item item;

		while (proto_next(&rest, &item) > 0) {
			if (item.number == 1 && item.wire == 2)
				name = item.bytes;
			if (item.number == 9 && item.wire == 2)
				info = item.bytes;
		}
		if (name.len == strlen(f->file) && memcmp(name.data, f->file, name.len) == 0)
			file.source_info = info;
	}
	if (f->steps && source_place(&file, f->path, f->steps, &line, &column))
		snprintf(place, sizeof(place), "%u:%u:", line, column);
	compiler_fail(c, NULL, NULL, 0, "%s%s%s%s%s%s%s", f->file, *f->file ? ":" : "", place,
		      *f->file ? " " : "", f->element, *f->element ? ": " : "", f->text);
}

static bool name_is_safe(const char *name)
{
	return *name && *name != '/' && strstr(name, "..") == NULL && !strpbrk(name, "\\\"\n");
}

static void file_check(struct compiler *c, const struct proto_file *f)
{
	if (!name_is_safe(f->name))
		compiler_fail(c, f, NULL, 0, "its name cannot be that of a C header");
}

/* Every file's names once: those that are generated and all that they import. */
static void closure_claim(struct compiler *c, const struct proto_file *f, bool *seen)
{
	if (seen[f->index])
		return;
	seen[f->index] = true;
	for (uint32_t i = 0; i < f->dependencies_n; i++)
		closure_claim(c, f->dependencies[i], seen);
	names_claim_file(c, f);
	file_check(c, f);
}

static void file_generate(struct compiler *c, struct text *response, const struct proto_file *f)
{
	c->file = f;
	c->comments = comments_read(c, f);
	if (c->options.messages) {
		file_write(c, response, ".pb-c.h", messages_header);
		file_write(c, response, ".pb-c.c", messages_source);
	}
	if (c->options.handlers) {
		file_write(c, response, ".split.h", handlers_header);
		file_write(c, response, ".split.c", handlers_source);
	}
	if (c->options.manifest)
		file_write(c, response, ".manifest", manifest_text);
}

static void files_mark(const struct compiler *c, const struct proto_file *f, bool *wanted)
{
	if (wanted[f->index])
		return;
	wanted[f->index] = true;
	for (uint32_t i = 0; c->options.imports && i < f->dependencies_n; i++)
		files_mark(c, f->dependencies[i], wanted);
}

static void generate(struct compiler *c, const struct request *r, struct text *response)
{
	bool *wanted = scratch_get(c, c->set->files_n + 1),
	     *seen = scratch_get(c, c->set->files_n + 1);

	if (!wanted || !seen)
		return;
	for (uint32_t i = 0; i < r->names_n; i++) {
		const char *name =
			str(c, "%.*s", (int)r->names[i].len, (const char *)r->names[i].data);
		const struct proto_file *f = proto_file_find(c->set, name);

		if (!f) {
			compiler_fail(c, NULL, NULL, 0, "%s: its descriptor is not there", name);
			return;
		}
		files_mark(c, f, wanted);
	}
	for (uint32_t i = 0; i < c->set->files_n; i++)
		if (wanted[i])
			closure_claim(c, &c->set->files[i], seen);
	names_check(c);
	for (uint32_t i = 0; i < c->set->files_n && !failed(c); i++)
		if (wanted[i])
			file_generate(c, response, &c->set->files[i]);
}

static void compiler_fini(struct compiler *c)
{
	while (c->pool) {
		struct pool_chunk *p = c->pool;

		c->pool = p->next;
		free(p);
	}
	free(c->clashes);
	proto_set_destroy((struct proto_set *)(uintptr_t)c->set);
}

int compiler_run(const uint8_t *bytes, size_t len, uint8_t **out, size_t *len_out)
{
	struct compiler c = {0};
	struct request r = {0};
	struct text response = {0};
	struct proto_finding finding;
	struct proto_set *set = NULL;
	int rc;

	request_read(&c, (struct proto_bytes){bytes, len}, &r);
	if (!failed(&c))
		options_read(&c, r.parameter);
	if (!failed(&c)) {
		rc = proto_set_parse_files(r.protos, r.protos_n, &limits, &set, &finding);
		c.set = set;
		c.nomem = rc == -SPLIT_E_BASE_NOMEM;
		if (rc && !c.nomem)
			finding_tell(&c, &r, &finding);
	}
	varint_put(&response, RESPONSE_FEATURES << 3);
	varint_put(&response, FEATURE_PROTO3_OPTIONAL);
	if (!failed(&c))
		generate(&c, &r, &response);
	if (c.error && !c.nomem) {
		response.len = 0;
		varint_put(&response, RESPONSE_FEATURES << 3);
		varint_put(&response, FEATURE_PROTO3_OPTIONAL);
		bytes_put(&response, RESPONSE_ERROR, c.error, strlen(c.error));
	}
	rc = c.nomem || response.failed ? -SPLIT_E_BASE_NOMEM : 0;
	compiler_fini(&c);
	if (rc) {
		text_fini(&response);
		return rc;
	}
	*out = (uint8_t *)response.bytes;
	*len_out = response.len;
	return 0;
}
