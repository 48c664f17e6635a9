/* struct schema_file_info (split-schema.h): what protobuf-c's descriptors do not say, as constant
 * tables, with the descriptor set; and the manifest, which is that set alone.
 *
 * A file's tables hold its own messages and enums, and of the files it imports what its messages
 * and methods reach: every one of these is linked anyway. */
#include "linearize/compiler/compiler_internal.h"

#include <stdlib.h>

enum { SET_FILE = 1, FILE_SOURCE_INFO = 9 };

const char *tables_name(struct compiler *c, const struct proto_file *f)
{
	return str(c, "split_describe__%s", name_guard(c, f->name));
}

/* --- The descriptor set --------------------------------------------------------------------- */

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

/* The file without its comments and line numbers. */
static void file_bytes(struct text *t, const struct proto_file *f)
{
	struct proto_bytes rest = f->bytes, before = rest;
	struct proto_item item;

	while (proto_next(&rest, &item) > 0) {
		if (item.number != FILE_SOURCE_INFO)
			text_bytes(t, before.data, before.len - rest.len);
		before = rest;
	}
}

static void set_file(struct compiler *c, struct text *t, const struct proto_file *f, bool *seen)
{
	struct text one = {0};

	if (seen[f->index])
		return;
	seen[f->index] = true;
	for (uint32_t i = 0; i < f->dependencies_n; i++)
		set_file(c, t, f->dependencies[i], seen);
	file_bytes(&one, f);
	varint_put(t, SET_FILE << 3 | 2);
	varint_put(t, one.len);
	text_bytes(t, one.bytes, one.len);
	c->nomem = c->nomem || one.failed;
	text_fini(&one);
}

void manifest_bytes(struct compiler *c, struct text *t)
{
	bool *seen = pool_get(c, c->set->files_n + 1);

	if (seen)
		set_file(c, t, c->file, seen);
}

/* --- What is reached ------------------------------------------------------------------------ */

struct reach {
	bool *messages;                    /* by id */
	const struct proto_message **list; /* what was marked, also the work still to do */
	uint32_t n;
	const struct proto_enum **enums;
	uint32_t enums_n, enums_room;
};

static void reach_message(struct reach *r, const struct proto_message *m)
{
	if (r->messages[m->id])
		return;
	r->messages[m->id] = true;
	r->list[r->n++] = m;
}

static void reach_all(struct reach *r, const struct proto_message *m)
{
	reach_message(r, m);
	for (uint32_t i = 0; i < m->messages_n; i++)
		reach_all(r, &m->messages[i]);
}

static void reach_enum(struct compiler *c, struct reach *r, const struct proto_enum *e)
{
	for (uint32_t i = 0; i < r->enums_n; i++)
		if (r->enums[i] == e)
			return;
	if (r->enums_n == r->enums_room) {
		uint32_t room = r->enums_room ? r->enums_room * 2 : 64;
		const struct proto_enum **grown = pool_get(c, room * sizeof(*grown));

		if (!grown)
			return;
		if (r->enums_n)
			memcpy(grown, r->enums, r->enums_n * sizeof(*grown));
		r->enums = grown;
		r->enums_room = room;
	}
	r->enums[r->enums_n++] = e;
}

static void reach_fields(struct compiler *c, struct reach *r, const struct proto_message *m)
{
	for (uint32_t i = 0; i < m->fields_n; i++) {
		const struct proto_field *f = &m->fields[i];

		if (!field_is_member(f))
			continue;
		if (f->message)
			reach_message(r, f->message);
		else if (f->enumeration)
			reach_enum(c, r, f->enumeration);
	}
}

static bool reach_make(struct compiler *c, struct reach *r)
{
	const struct proto_file *f = c->file;

	*r = (struct reach){0};
	r->messages = pool_get(c, c->set->messages_n + 1);
	r->list = pool_get(c, (c->set->messages_n + 1) * sizeof(*r->list));
	if (!r->messages || !r->list)
		return false;
	for (uint32_t i = 0; i < f->messages_n; i++)
		reach_all(r, &f->messages[i]);
	for (uint32_t i = 0; i < f->services_n; i++)
		for (uint32_t k = 0; k < f->services[i].methods_n; k++) {
			reach_message(r, f->services[i].methods[k].input);
			reach_message(r, f->services[i].methods[k].output);
		}
	for (uint32_t i = 0; i < r->n; i++)
		reach_fields(c, r, r->list[i]);
	return true;
}

/* --- Tables --------------------------------------------------------------------------------- */

/* Whether the JSON name is what the field's own name gives. */
static bool json_name_is_usual(const struct proto_field *f)
{
	const char *json = f->json_name;
	bool upper = false;

	for (const char *p = f->name; *p; p++) {
		char ch = *p;

		if (ch == '_') {
			upper = true;
			continue;
		}
		if (upper && ch >= 'a' && ch <= 'z')
			ch = (char)(ch - 'a' + 'A');
		upper = false;
		if (*json++ != ch)
			return false;
	}
	return *json == '\0';
}

/* One row, unless there is nothing to say. */
static bool field_row(struct compiler *c, struct text *t, const struct proto_field *f)
{
	const char *flags = "", *json = "NULL";

	if (!field_is_member(f))
		return false;
	if (f->utf8)
		flags = str(c, "%s | SCHEMA_FIELD_UTF8", flags);
	if (f->proto3_optional)
		flags = str(c, "%s | SCHEMA_FIELD_OPTIONAL", flags);
	if (field_is_acc(f))
		flags = str(c, "%s | SCHEMA_FIELD_ACC", flags);
	if (!json_name_is_usual(f))
		json = c_string(c, (struct proto_bytes){(const uint8_t *)f->json_name,
							strlen(f->json_name)});
	if (!*flags && strcmp(json, "NULL") == 0)
		return false;
	put(t, "  { $0, $1, $2 },\n", str(c, "%u", f->number), *flags ? flags + 3 : "0", json);
	return true;
}

/* Tables of the fields of one message; how many rows. */
static uint32_t fields_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	struct text rows = {0};
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->fields_n; i++)
		n += field_row(c, &rows, m->by_number[i]);
	if (n > 0) {
		put(t, "static const struct schema_field_info $0__split_fields[] =\n{\n",
		    name_lower(c, m->full_name));
		text_bytes(t, rows.bytes, rows.len);
		put(t, "};\n");
	}
	c->nomem = c->nomem || rows.failed;
	text_fini(&rows);
	return n;
}

static uint32_t messages_put(struct compiler *c, struct text *t, const struct reach *r,
			     const struct proto_file *f, const char *id)
{
	struct text rows = {0};
	uint32_t n = 0;

	for (uint32_t i = 0; i < r->n; i++) {
		const struct proto_message *m = r->list[i];
		const char *low = name_lower(c, m->full_name);
		uint32_t fields;

		if (m->file != f)
			continue;
		fields = fields_put(c, t, m);
		put(&rows, "  { &$0__descriptor, $1, $2, $3 },\n", low,
		    m->map_entry ? "SCHEMA_MESSAGE_MAP_ENTRY" : "0", str(c, "%u", fields),
		    fields ? str(c, "%s__split_fields", low) : "NULL");
		n++;
	}
	if (n > 0) {
		put(t, "static const struct schema_message_info $0_messages[] =\n{\n", id);
		text_bytes(t, rows.bytes, rows.len);
		put(t, "};\n");
	}
	c->nomem = c->nomem || rows.failed;
	text_fini(&rows);
	return n;
}

static uint32_t enums_put(struct compiler *c, struct text *t, const struct reach *r,
			  const struct proto_file *f, const char *id)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < r->enums_n; i++) {
		if (r->enums[i]->file != f)
			continue;
		if (n++ == 0)
			put(t, "static const struct schema_enum_info $0_enums[] =\n{\n", id);
		put(t, "  { &$0__descriptor, $1 },\n", name_lower(c, r->enums[i]->full_name),
		    r->enums[i]->closed ? "SCHEMA_ENUM_CLOSED" : "0");
	}
	if (n > 0)
		put(t, "};\n");
	return n;
}

static void set_put(struct compiler *c, struct text *t)
{
	struct text set = {0};

	manifest_bytes(c, &set);
	put(t, "static const uint8_t split_set[] =\n{");
	for (size_t i = 0; i < set.len; i++) {
		char number[8];

		snprintf(number, sizeof(number), "%s%u,", i % 20 ? "" : "\n  ",
			 (uint8_t)set.bytes[i]);
		text_bytes(t, number, strlen(number));
	}
	put(t, "\n};\n");
	c->nomem = c->nomem || set.failed;
	text_fini(&set);
}

static void file_put(struct compiler *c, struct text *t, const struct reach *r,
		     const struct proto_file *f, struct text *calls)
{
	const char *id = str(c, "split_file_%u", f->index);
	bool own = f == c->file;
	uint32_t messages = messages_put(c, t, r, f, id), enums = enums_put(c, t, r, f, id);

	if (messages == 0 && enums == 0 && !own)
		return;
	put(t,
	    "static const struct schema_file_info $0 =\n"
	    "{\n"
	    "  $1,\n"
	    "  SCHEMA_SYNTAX_PROTO$2,\n"
	    "  $3, $4,\n",
	    id, c_string(c, (struct proto_bytes){(const uint8_t *)f->name, strlen(f->name)}),
	    f->syntax == 3 ? "3" : "2", str(c, "%u", messages), str(c, "%u", enums));
	put(t, "  $0, $1,\n  $2\n};\n", messages ? str(c, "%s_messages", id) : "NULL",
	    enums ? str(c, "%s_enums", id) : "NULL",
	    own ? "split_set, sizeof(split_set)" : "NULL, 0");
	put(calls, "  if (rc == 0)\n    rc = split_host_describe(host, &$0);\n", id);
}

void tables_source(struct compiler *c, struct text *t)
{
	struct text calls = {0};
	struct reach r;

	if (!reach_make(c, &r))
		return;
	set_put(c, t);
	for (uint32_t i = 0; i < c->set->files_n; i++)
		file_put(c, t, &r, &c->set->files[i], &calls);
	put(t, "int $0(struct split_host *host)\n{\n  int rc = 0;\n\n", tables_name(c, c->file));
	text_bytes(t, calls.bytes, calls.len);
	put(t, "  return rc;\n}\n");
	c->nomem = c->nomem || calls.failed;
	text_fini(&calls);
}
