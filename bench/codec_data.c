/* split-perf codec's sets of the command line: a descriptor set, a type, and files of messages. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/codec.h"

#define FILE_BYTES_MAX ((size_t)2 << 30)
/* More of them would only measure memory. */
#define MESSAGES_MAX 8192

/* The whole of a file, malloc'ed; NULL after a line. */
static uint8_t *file_read(const char *path, size_t *len_out)
{
	FILE *file = fopen(path, "rbe");
	size_t len = 0, room = 1 << 16;
	uint8_t *bytes = malloc(room), *grown;

	while (file && bytes) {
		size_t n = fread(bytes + len, 1, room - len, file);

		len += n;
		if (n == 0 || len > FILE_BYTES_MAX)
			break;
		if (len == room) {
			room *= 2;
			grown = realloc(bytes, room);
			if (!grown)
				free(bytes);
			bytes = grown;
		}
	}
	if (!file || !bytes || ferror(file) || len > FILE_BYTES_MAX) {
		perf_warn("%s: %s", path,
			  len > FILE_BYTES_MAX ? "expected at most 2 GiB" : strerror(errno));
		free(bytes);
		bytes = NULL;
	}
	if (file)
		(void)fclose(file);
	*len_out = len;
	return bytes;
}

static int message_add(struct codec_set *s, const uint8_t *wire, size_t bytes)
{
	struct codec_message *m;

	if (s->n % 64 == 0) {
		struct codec_message *grown =
			realloc(s->messages, (s->n + 64) * sizeof(*s->messages));

		if (!grown)
			return -SPLIT_E_BASE_NOMEM;
		s->messages = grown;
	}
	m = &s->messages[s->n];
	*m = (struct codec_message){.wire = malloc(bytes + 1), .bytes = bytes};
	if (!m->wire)
		return -SPLIT_E_BASE_NOMEM;
	memcpy(m->wire, wire, bytes);
	s->n++;
	return 0;
}

/* 0 with a length and `*p` behind it, or -1. */
static int length_read(const uint8_t **p, const uint8_t *end, size_t *len_out)
{
	uint64_t len = 0;

	for (unsigned shift = 0; shift <= 28; shift += 7) {
		if (*p == end)
			return -1;
		len |= (uint64_t)(**p & 0x7f) << shift;
		if (*(*p)++ < 0x80) {
			*len_out = len;
			return 0;
		}
	}
	return -1;
}

static int delimited_add(struct codec_set *s, const char *path, const uint8_t *bytes, size_t len)
{
	const uint8_t *p = bytes, *end = bytes + len;
	unsigned n;

	for (n = 0; p < end && s->n < MESSAGES_MAX; n++) {
		size_t at = (size_t)(p - bytes), part;

		if (length_read(&p, end, &part) != 0) {
			perf_warn("%s: message %u: expected a length (a varint of at most 5 bytes) "
				  "at byte %zu",
				  path, n, at);
			return -SPLIT_E_BASE_INVALID;
		}
		if (part > (size_t)(end - p)) {
			perf_warn(
				"%s: message %u: expected %zu bytes after the length at byte %zu, "
				"the file has %zu",
				path, n, part, at, (size_t)(end - p));
			return -SPLIT_E_BASE_INVALID;
		}
		if (message_add(s, p, part) != 0)
			return -SPLIT_E_BASE_NOMEM;
		p += part;
	}
	if (p < end)
		perf_warn("%s: only the first %u messages are measured", path, n);
	if (n == 0) {
		perf_warn("%s: expected at least one message, the file is empty", path);
		return -SPLIT_E_BASE_INVALID;
	}
	return 0;
}

static int file_add(struct codec_set *s, const char *path, bool single)
{
	size_t len;
	uint8_t *bytes = file_read(path, &len);
	int rc;

	if (!bytes)
		return -SPLIT_E_BASE_INVALID;
	rc = single ? message_add(s, bytes, len) : delimited_add(s, path, bytes, len);
	free(bytes);
	return rc;
}

/* Imports before who imports them, as upb wants them. */
static size_t files_order(const struct proto_set *set, const uint8_t **files, size_t *bytes)
{
	bool *taken = calloc(set->files_n + 1, sizeof(*taken));
	size_t n = 0, before;

	do {
		before = n;
		for (uint32_t i = 0; taken && i < set->files_n; i++) {
			const struct proto_file *f = &set->files[i];
			bool ready = !taken[i];

			for (uint32_t k = 0; ready && k < f->dependencies_n; k++)
				ready = taken[f->dependencies[k]->index];
			if (!ready)
				continue;
			taken[i] = true;
			files[n] = f->bytes.data;
			bytes[n++] = f->bytes.len;
		}
	} while (n > before);
	free(taken);
	return n;
}

static struct codec_upb *upb_open(const struct proto_set *set, const char *type)
{
	const uint8_t **files = calloc(set->files_n + 1, sizeof(*files));
	size_t *bytes = calloc(set->files_n + 1, sizeof(*bytes)), n;
	struct codec_upb *upb = NULL;

	if (files && bytes) {
		n = files_order(set, files, bytes);
		upb = codec_upb_create(files, bytes, n, type);
	}
	free(files);
	free(bytes);
	return upb;
}

/* Generated code if this process has it or can make it, else DynamicMessage. */
static void cpp_open(const struct codec_sets *sets, struct codec_set *s)
{
	s->cpp = sets->cpp_dynamic ? NULL : codec_cpp_create(s->type);
	s->cpp_engine = "libprotobuf";
	if (!s->cpp) {
		s->cpp = codec_cpp_create_dynamic(sets->proto_bytes, sets->proto_len, s->type);
		s->cpp_engine = "libprotobuf-dynamic";
	}
}

static int proto_open(struct codec_sets *out, const char *path)
{
	struct proto_finding finding = {0};
	int rc;

	out->proto_bytes = file_read(path, &out->proto_len);
	if (!out->proto_bytes)
		return -SPLIT_E_BASE_INVALID;
	rc = proto_set_parse(out->proto_bytes, out->proto_len, NULL, &out->proto, &finding);
	if (rc != 0) {
		perf_warn("%s: expected a descriptor set (protoc --include_imports "
			  "--descriptor_set_out): %s%s%s%s%s",
			  path, finding.file, finding.file[0] ? ": " : "", finding.element,
			  finding.element[0] ? ": " : "",
			  finding.text[0] ? finding.text : error_text(rc));
		return rc;
	}
	rc = schema_types_create(out->proto, &out->types);
	if (rc == 0)
		rc = schema_types_compile(out->types, NULL, &out->schema);
	if (rc != 0)
		perf_warn("%s: %s", path, error_text(rc));
	return rc;
}

static int set_fill(struct codec_sets *sets, struct codec_set *s, const char *type,
		    char *const *files, unsigned n, bool single)
{
	const char *base = strrchr(files[0], '/');
	int rc = 0;

	if (sets->n > 1)
		(void)snprintf(s->name, sizeof(s->name), "%s:%s", type, base ? base + 1 : files[0]);
	else
		(void)snprintf(s->name, sizeof(s->name), "%s", type);
	(void)snprintf(s->type, sizeof(s->type), "%s", type);
	s->small = true; /* the only ones there are */
	s->files = files;
	s->single = single;
	s->descriptor = schema_types_message(sets->types, type);
	s->schema = schema_message_find(sets->schema, type);
	for (unsigned i = 0; rc == 0 && i < n; i++)
		rc = file_add(s, files[i], single);
	if (rc == 0) {
		cpp_open(sets, s);
		s->upb = upb_open(sets->proto, type);
	}
	return rc;
}

int codec_sets_of_files(struct codec_sets *out, const char *proto_set, const char *type,
			char *const *files, unsigned n, bool single, bool compile)
{
	static char why[200];
	int rc = proto_open(out, proto_set);

	if (rc != 0)
		return rc;
	if (type[0] == '.')
		type++;
	if (!schema_types_message(out->types, type)) {
		perf_warn("%s: expected a message %s in it", proto_set, type);
		return -SPLIT_E_BASE_INVALID;
	}
	if (!codec_cpp_same_type(out->proto_bytes, out->proto_len, type)) {
		if (!compile)
			out->cpp_dynamic = "not asked for";
		else if (!codec_compile(proto_set, out->proto, why))
			out->cpp_dynamic = why;
	}
	if (compile && out->cpp_dynamic)
		perf_warn("C++ by DynamicMessage only, no generated code: %s", out->cpp_dynamic);
	out->n = single ? 1 : n;
	out->sets = calloc(out->n, sizeof(*out->sets));
	if (!out->sets)
		return -SPLIT_E_BASE_NOMEM;
	for (unsigned k = 0; rc == 0 && k < out->n; k++)
		rc = set_fill(out, &out->sets[k], type, files + k, single ? n : 1, single);
	return rc;
}
