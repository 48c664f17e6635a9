/* The bytes of descriptors -> structs, names still unresolved (descriptor_link.c does that).
 *
 * Each message is read twice: once to count its repeated fields, so that each becomes one array,
 * and once to fill them. Every element counts against the limit before memory is taken for it. */
#include "linearize/descriptor/descriptor_internal.h"

#include "base/random.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK_BYTES 16384
#define NUMBERS     32 /* field numbers that descriptors use and we read are below this */

/* FieldDescriptorProto, DescriptorProto and the others, from descriptor.proto. */
enum { SET_FILE = 1 };
enum {
	FILE_NAME = 1,
	FILE_PACKAGE = 2,
	FILE_DEPENDENCY = 3,
	FILE_MESSAGE = 4,
	FILE_ENUM = 5,
	FILE_SERVICE = 6,
	FILE_EXTENSION = 7,
	FILE_OPTIONS = 8,
	FILE_SOURCE_INFO = 9,
	FILE_PUBLIC = 10,
	FILE_SYNTAX = 12,
	FILE_EDITION_OLD = 13,
	FILE_EDITION = 14,
};
enum {
	MESSAGE_NAME = 1,
	MESSAGE_FIELD = 2,
	MESSAGE_NESTED = 3,
	MESSAGE_ENUM = 4,
	MESSAGE_EXTENSION_RANGE = 5,
	MESSAGE_EXTENSION = 6,
	MESSAGE_OPTIONS = 7,
	MESSAGE_ONEOF = 8,
};
enum {
	FIELD_NAME = 1,
	FIELD_EXTENDEE = 2,
	FIELD_NUMBER = 3,
	FIELD_LABEL = 4,
	FIELD_TYPE = 5,
	FIELD_TYPE_NAME = 6,
	FIELD_DEFAULT = 7,
	FIELD_OPTIONS = 8,
	FIELD_ONEOF = 9,
	FIELD_JSON = 10,
	FIELD_PROTO3_OPTIONAL = 17,
};
enum { ENUM_NAME = 1, ENUM_VALUE = 2, ENUM_OPTIONS = 3 };
enum { VALUE_NAME = 1, VALUE_NUMBER = 2, VALUE_OPTIONS = 3 };
enum { ONEOF_NAME = 1, ONEOF_OPTIONS = 2 };
enum { SERVICE_NAME = 1, SERVICE_METHOD = 2, SERVICE_OPTIONS = 3 };
enum {
	METHOD_NAME = 1,
	METHOD_INPUT = 2,
	METHOD_OUTPUT = 3,
	METHOD_OPTIONS = 4,
	METHOD_CLIENT_STREAMING = 5,
	METHOD_SERVER_STREAMING = 6,
};

const struct proto_limits proto_limits_default = {
	.bytes_max = 16u << 20,
	.elements_max = 524288,
	.name_bytes_max = 512,
	.depth_max = 32,
};

/* --- Memory and findings -------------------------------------------------------------------- */

void *memory_get(struct owned_set *s, size_t bytes)
{
	struct memory_chunk *c = s->chunks;
	size_t room;
	void *mem;

	bytes = (bytes + 15) & ~(size_t)15;
	if (!c || c->bytes - c->used < bytes) {
		room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
		c = malloc(sizeof(*c) + room);
		if (!c)
			return NULL;
		*c = (struct memory_chunk){.next = s->chunks, .bytes = room};
		s->chunks = c;
	}
	mem = c->mem + c->used;
	c->used += bytes;
	return memset(mem, 0, bytes);
}

void *memory_array(struct owned_set *s, size_t n, size_t bytes)
{
	return memory_get(s, n * bytes); /* n is at most elements_max */
}

int parser_refuse(struct parser *p, int error, const struct proto_file *file, const char *element,
		  const char *format, ...)
{
	struct proto_finding *f = p->finding;
	va_list args;

	if (!f)
		return -error;
	snprintf(f->file, sizeof(f->file), "%s", file && file->name ? file->name : "");
	snprintf(f->element, sizeof(f->element), "%s", element ? element : "");
	va_start(args, format);
	vsnprintf(f->text, sizeof(f->text), format, args);
	va_end(args);
	return -error;
}

#define refuse(p, element, ...)                                                                    \
	parser_refuse(p, SPLIT_E_LINEARIZE_PROTO, (p)->file, element, __VA_ARGS__)

static int malformed(struct parser *p, const char *element)
{
	return refuse(p, element, "descriptor is malformed");
}

/* How many fields of each number; also sees that everything can be read, so that who reads it again
 * need not. */
static int count(struct parser *p, struct proto_bytes bytes, uint32_t *counts)
{
	struct proto_item item;
	int rc;

	memset(counts, 0, NUMBERS * sizeof(*counts));
	while ((rc = proto_next(&bytes, &item)) > 0)
		if (item.number < NUMBERS)
			counts[item.number]++;
	return rc < 0 ? malformed(p, NULL) : 0;
}

static int elements_take(struct parser *p, uint32_t n)
{
	if (n > p->limits.elements_max - p->elements)
		return parser_refuse(p, SPLIT_E_LINEARIZE_PROTO_LIMIT, p->file, NULL,
				     "more than %u elements", p->limits.elements_max);
	p->elements += n;
	return 0;
}

/* An array of n elements, counted. NULL in *out for none. */
static int array_take(struct parser *p, uint32_t n, size_t bytes, void *out)
{
	void *mem = NULL;
	int rc = elements_take(p, n);

	if (rc == 0 && n > 0) {
		mem = memory_array(p->s, n, bytes);
		if (!mem)
			rc = -SPLIT_E_BASE_NOMEM;
	}
	memcpy(out, &mem, sizeof(mem));
	return rc;
}

/* --- Names ---------------------------------------------------------------------------------- */

static bool is_name_start(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* Identifiers, with dots between them where `dots`. */
static bool is_name(struct proto_bytes b, bool dots)
{
	bool start = true;

	for (size_t i = 0; i < b.len; i++) {
		uint8_t c = b.data[i];

		if (c == '.' && dots && !start) {
			start = true;
			continue;
		}
		if (!is_name_start(c) && (start || c < '0' || c > '9'))
			return false;
		start = false;
	}
	return !start;
}

static bool is_text(struct proto_bytes b)
{
	return memchr(b.data, 0, b.len) == NULL;
}

static int text_take(struct parser *p, struct proto_bytes b, const char **out)
{
	char *s;

	if (b.len > 0 && !is_text(b))
		return refuse(p, NULL, "a name has a NUL inside");
	s = memory_get(p->s, b.len + 1);
	if (!s)
		return -SPLIT_E_BASE_NOMEM;
	if (b.len)
		memcpy(s, b.data, b.len);
	*out = s;
	return 0;
}

static int name_take(struct parser *p, const struct proto_item *item, const char **out)
{
	if (item->wire != 2 || !is_name(item->bytes, false))
		return refuse(p, NULL, "a name is no identifier");
	return text_take(p, item->bytes, out);
}

/* A reference, with or without a leading dot. */
static int reference_take(struct parser *p, const struct proto_item *item, const char **out)
{
	struct proto_bytes b = item->bytes;

	if (item->wire == 2 && b.len > 0 && b.data[0] == '.')
		b = (struct proto_bytes){b.data + 1, b.len - 1};
	if (item->wire != 2 || b.len > p->limits.name_bytes_max || !is_name(b, true))
		return refuse(p, NULL, "a reference is no name");
	return text_take(p, item->bytes, out);
}

static int full_name_make(struct parser *p, const char *scope, const char *name, const char **out)
{
	size_t scope_bytes = strlen(scope), bytes;
	char *s;

	if (!name)
		return refuse(p, scope, "something in it has no name");
	bytes = strlen(name) + (scope_bytes ? scope_bytes + 1 : 0);
	if (bytes > p->limits.name_bytes_max)
		return parser_refuse(p, SPLIT_E_LINEARIZE_PROTO_LIMIT, p->file, name,
				     "its full name is longer than %u bytes",
				     p->limits.name_bytes_max);
	s = memory_get(p->s, bytes + 1);
	if (!s)
		return -SPLIT_E_BASE_NOMEM;
	snprintf(s, bytes + 1, "%s%s%s", scope, scope_bytes ? "." : "", name);
	*out = s;
	return 0;
}

/* Options come once: in pieces they would have to be joined, and nobody writes that. */
static int options_take(struct parser *p, const struct proto_item *item, struct proto_bytes *out)
{
	struct proto_bytes rest = item->bytes;
	struct proto_item inner;
	int rc;

	if (item->wire != 2 || out->data)
		return malformed(p, NULL);
	while ((rc = proto_next(&rest, &inner)) > 0)
		;
	if (rc < 0)
		return malformed(p, NULL);
	*out = item->bytes;
	return 0;
}

/* The last varint of that number in options that options_take took. */
static uint64_t option_number(struct proto_bytes options, uint32_t number, uint64_t otherwise)
{
	struct proto_item item;

	while (proto_next(&options, &item) > 0)
		if (item.number == number && item.wire == 0)
			otherwise = item.value;
	return otherwise;
}

/* --- Fields --------------------------------------------------------------------------------- */

static int json_name_make(struct parser *p, struct proto_field *f)
{
	char *s = memory_get(p->s, strlen(f->name) + 1), *to = s;
	bool upper = false;

	if (!s)
		return -SPLIT_E_BASE_NOMEM;
	for (const char *c = f->name; *c; c++) {
		if (*c == '_') {
			upper = true;
			continue;
		}
		*to++ = upper && *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
		upper = false;
	}
	f->json_name = s;
	return 0;
}

static int field_item(struct parser *p, struct proto_field *f, struct pending_field *pending,
		      const struct proto_item *item)
{
	bool number = item->wire == 0;

	switch (item->number) {
	case FIELD_NAME:
		return name_take(p, item, &f->name);
	case FIELD_EXTENDEE:
		return reference_take(p, item, &pending->extendee);
	case FIELD_NUMBER:
		if (!number || item->value == 0 || item->value > FIELD_NUMBER_MAX)
			return refuse(p, f->name, "its number is not from 1 to 536870911");
		f->number = (uint32_t)item->value;
		return 0;
	case FIELD_LABEL:
		if (!number || item->value < PROTO_OPTIONAL || item->value > PROTO_REPEATED)
			return refuse(p, f->name, "its label is unknown");
		f->label = (uint8_t)item->value;
		return 0;
	case FIELD_TYPE:
		if (!number || item->value < PROTO_DOUBLE || item->value > PROTO_SINT64)
			return refuse(p, f->name, "its type is unknown");
		f->type = (uint8_t)item->value;
		return 0;
	case FIELD_TYPE_NAME:
		return reference_take(p, item, &pending->type_name);
	case FIELD_DEFAULT:
		if (item->wire != 2)
			return malformed(p, f->name);
		pending->default_text = item->bytes;
		f->has_default = true;
		return 0;
	case FIELD_OPTIONS:
		return options_take(p, item, &f->options);
	case FIELD_ONEOF:
		if (!number || item->value > INT32_MAX)
			return malformed(p, f->name);
		pending->oneof = (int32_t)item->value;
		return 0;
	case FIELD_JSON:
		return item->wire == 2 ? text_take(p, item->bytes, &f->json_name)
				       : malformed(p, f->name);
	case FIELD_PROTO3_OPTIONAL:
		f->proto3_optional = number && item->value != 0;
		return 0;
	default:
		return 0;
	}
}

static int field_parse(struct parser *p, struct proto_bytes bytes, struct proto_field *f,
		       const char *scope, const struct proto_message *parent, uint32_t index)
{
	struct pending_field *pending = memory_get(p->s, sizeof(*pending));
	struct proto_item item;
	int rc;

	if (!pending)
		return -SPLIT_E_BASE_NOMEM;
	pending->oneof = -1;
	pending->field = f;
	pending->scope = scope;
	f->file = p->file;
	f->parent = parent;
	f->index = index;
	while ((rc = proto_next(&bytes, &item)) > 0) {
		rc = field_item(p, f, pending, &item);
		if (rc)
			return rc;
	}
	if (rc < 0)
		return malformed(p, f->name);
	rc = full_name_make(p, scope, f->name, &f->full_name);
	if (rc == 0 && f->number == 0)
		rc = refuse(p, f->full_name, "it has no number");
	if (rc == 0 && f->label == 0)
		f->label = PROTO_OPTIONAL;
	if (rc == 0 && !f->json_name)
		rc = json_name_make(p, f);
	f->deprecated = option_number(f->options, 3, 0) != 0;
	*p->fields_end = pending;
	p->fields_end = &pending->next;
	return rc;
}

/* --- Enums ---------------------------------------------------------------------------------- */

static int value_parse(struct parser *p, struct proto_bytes bytes, struct proto_value *v)
{
	struct proto_item item;
	int rc;

	while ((rc = proto_next(&bytes, &item)) > 0) {
		rc = 0;
		if (item.number == VALUE_NAME)
			rc = name_take(p, &item, &v->name);
		else if (item.number == VALUE_NUMBER && item.wire == 0)
			v->number = (int32_t)item.value;
		else if (item.number == VALUE_OPTIONS)
			rc = options_take(p, &item, &v->options);
		if (rc)
			return rc;
	}
	if (rc < 0 || !v->name)
		return malformed(p, v->name);
	v->deprecated = option_number(v->options, 1, 0) != 0;
	return 0;
}

static int enum_parse(struct parser *p, struct proto_bytes bytes, struct proto_enum *e,
		      const char *scope, const struct proto_message *parent, uint32_t index)
{
	uint32_t counts[NUMBERS], n = 0;
	struct proto_value *values;
	struct proto_item item;
	int rc = count(p, bytes, counts);

	if (rc == 0)
		rc = array_take(p, counts[ENUM_VALUE], sizeof(*values), &values);
	*e = (struct proto_enum){.file = p->file,
				 .parent = parent,
				 .index = index,
				 .values = rc == 0 ? values : NULL,
				 .closed = p->file->syntax == 2};
	while (rc == 0 && proto_next(&bytes, &item) > 0) {
		if (item.number == ENUM_NAME)
			rc = name_take(p, &item, &e->name);
		else if (item.number == ENUM_VALUE && item.wire == 2)
			rc = value_parse(p, item.bytes, &values[n++]);
		else if (item.number == ENUM_VALUE)
			rc = malformed(p, e->name);
		else if (item.number == ENUM_OPTIONS)
			rc = options_take(p, &item, &e->options);
	}
	if (rc == 0)
		rc = full_name_make(p, scope, e->name, &e->full_name);
	if (rc)
		return rc;
	e->values_n = n;
	e->allow_alias = option_number(e->options, 2, 0) != 0;
	e->deprecated = option_number(e->options, 3, 0) != 0;
	p->symbols++;
	if (n == 0)
		return refuse(p, e->full_name, "an enum needs a value");
	if (!e->closed && values[0].number != 0)
		return refuse(p, e->full_name, "the first value of a proto3 enum must be 0");
	return 0;
}

/* --- Messages ------------------------------------------------------------------------------- */

struct message_parts {
	struct proto_field *fields, *extensions;
	struct proto_oneof *oneofs;
	struct proto_message *messages;
	struct proto_enum *enums;
	uint32_t fields_n, extensions_n, oneofs_n, messages_n, enums_n;
};

static int oneof_parse(struct parser *p, struct proto_bytes bytes, struct proto_oneof *o,
		       const char *scope, uint32_t index)
{
	struct proto_item item;
	int rc;

	o->index = index;
	while ((rc = proto_next(&bytes, &item)) > 0) {
		rc = 0;
		if (item.number == ONEOF_NAME)
			rc = name_take(p, &item, &o->name);
		else if (item.number == ONEOF_OPTIONS)
			rc = options_take(p, &item, &o->options);
		if (rc)
			return rc;
	}
	return rc < 0 ? malformed(p, o->name) : full_name_make(p, scope, o->name, &o->full_name);
}

static int message_parse(struct parser *p, struct proto_bytes bytes, struct proto_message *m,
			 const char *scope, const struct proto_message *parent, uint32_t index,
			 uint32_t depth);

static int message_item(struct parser *p, struct proto_message *m, struct message_parts *at,
			const struct proto_item *item, uint32_t depth)
{
	const char *scope = m->full_name;
	uint32_t i;

	if (item->number == MESSAGE_NAME || item->number > MESSAGE_ONEOF)
		return 0;
	if (item->wire != 2)
		return malformed(p, scope);
	switch (item->number) {
	case MESSAGE_FIELD:
		i = at->fields_n++;
		return field_parse(p, item->bytes, &at->fields[i], scope, m, i);
	case MESSAGE_NESTED:
		i = at->messages_n++;
		return message_parse(p, item->bytes, &at->messages[i], scope, m, i, depth + 1);
	case MESSAGE_ENUM:
		i = at->enums_n++;
		return enum_parse(p, item->bytes, &at->enums[i], scope, m, i);
	case MESSAGE_EXTENSION_RANGE:
		m->extension_ranges_n++;
		return 0;
	case MESSAGE_EXTENSION:
		i = at->extensions_n++;
		return field_parse(p, item->bytes, &at->extensions[i], scope, m, i);
	case MESSAGE_OPTIONS:
		return options_take(p, item, &m->options);
	default: /* MESSAGE_ONEOF */
		i = at->oneofs_n++;
		return oneof_parse(p, item->bytes, &at->oneofs[i], scope, i);
	}
}

/* The name comes first as protoc writes it, but need not: what is inside is named by it. */
static int message_name(struct parser *p, struct proto_bytes bytes, struct proto_message *m,
			const char *scope)
{
	struct proto_item item;
	int rc = 0;

	while (rc == 0 && proto_next(&bytes, &item) > 0)
		if (item.number == MESSAGE_NAME)
			rc = name_take(p, &item, &m->name);
	return rc ? rc : full_name_make(p, scope, m->name, &m->full_name);
}

static int message_parse(struct parser *p, struct proto_bytes bytes, struct proto_message *m,
			 const char *scope, const struct proto_message *parent, uint32_t index,
			 uint32_t depth)
{
	struct message_parts at = {0};
	struct proto_bytes rest = bytes;
	uint32_t counts[NUMBERS];
	struct proto_item item;
	int rc;

	*m = (struct proto_message){.file = p->file, .parent = parent, .index = index};
	if (depth > p->limits.depth_max)
		return parser_refuse(p, SPLIT_E_LINEARIZE_PROTO_LIMIT, p->file, scope,
				     "messages are nested deeper than %u", p->limits.depth_max);
	rc = count(p, bytes, counts);
	if (rc == 0)
		rc = message_name(p, bytes, m, scope);
	if (rc == 0)
		rc = array_take(p, counts[MESSAGE_FIELD], sizeof(*at.fields), &at.fields);
	if (rc == 0)
		rc = array_take(p, counts[MESSAGE_EXTENSION], sizeof(*at.fields), &at.extensions);
	if (rc == 0)
		rc = array_take(p, counts[MESSAGE_NESTED], sizeof(*at.messages), &at.messages);
	if (rc == 0)
		rc = array_take(p, counts[MESSAGE_ENUM], sizeof(*at.enums), &at.enums);
	if (rc == 0)
		rc = array_take(p, counts[MESSAGE_ONEOF], sizeof(*at.oneofs), &at.oneofs);
	m->fields = at.fields;
	m->extensions = at.extensions;
	m->messages = at.messages;
	m->enums = at.enums;
	m->oneofs = at.oneofs;
	while (rc == 0 && proto_next(&rest, &item) > 0)
		rc = message_item(p, m, &at, &item, depth);
	if (rc)
		return rc;
	m->fields_n = at.fields_n;
	m->extensions_n = at.extensions_n;
	m->messages_n = at.messages_n;
	m->enums_n = at.enums_n;
	m->oneofs_n = at.oneofs_n;
	m->message_set = option_number(m->options, 1, 0) != 0;
	m->deprecated = option_number(m->options, 3, 0) != 0;
	m->map_entry = option_number(m->options, 7, 0) != 0;
	p->messages++;
	p->symbols++;
	return 0;
}

/* --- Services ------------------------------------------------------------------------------- */

static int method_item(struct parser *p, struct proto_method *m, struct pending_method *pending,
		       const struct proto_item *item)
{
	switch (item->number) {
	case METHOD_NAME:
		return name_take(p, item, &m->name);
	case METHOD_INPUT:
		return reference_take(p, item, &pending->input);
	case METHOD_OUTPUT:
		return reference_take(p, item, &pending->output);
	case METHOD_OPTIONS:
		return options_take(p, item, &m->options);
	case METHOD_CLIENT_STREAMING:
		m->client_streaming = item->wire == 0 && item->value != 0;
		return 0;
	case METHOD_SERVER_STREAMING:
		m->server_streaming = item->wire == 0 && item->value != 0;
		return 0;
	default:
		return 0;
	}
}

static int method_parse(struct parser *p, struct proto_bytes bytes, struct proto_method *m,
			const struct proto_service *service, uint32_t index)
{
	struct pending_method *pending = memory_get(p->s, sizeof(*pending));
	struct proto_item item;
	uint64_t level;
	int rc;

	if (!pending)
		return -SPLIT_E_BASE_NOMEM;
	pending->method = m;
	pending->service = service;
	pending->index = index;
	while ((rc = proto_next(&bytes, &item)) > 0) {
		rc = method_item(p, m, pending, &item);
		if (rc)
			return rc;
	}
	if (rc < 0)
		return malformed(p, service->full_name);
	rc = full_name_make(p, service->full_name, m->name, &m->full_name);
	if (rc)
		return rc;
	m->deprecated = option_number(m->options, 33, 0) != 0;
	level = option_number(m->options, 34, 0);
	m->idempotency = level <= PROTO_IDEMPOTENT ? (uint8_t)level : PROTO_IDEMPOTENCY_UNKNOWN;
	*p->methods_end = pending;
	p->methods_end = &pending->next;
	if (!pending->input || !pending->output)
		return refuse(p, m->full_name, "a method needs an input and an output");
	return 0;
}

static int service_parse(struct parser *p, struct proto_bytes bytes, struct proto_service *s,
			 uint32_t index)
{
	struct proto_bytes rest = bytes;
	struct proto_method *methods;
	uint32_t counts[NUMBERS];
	struct proto_item item;
	int rc = count(p, bytes, counts);

	*s = (struct proto_service){.file = p->file, .index = index};
	while (rc == 0 && proto_next(&rest, &item) > 0)
		if (item.number == SERVICE_NAME)
			rc = name_take(p, &item, &s->name);
	if (rc == 0)
		rc = full_name_make(p, p->file->package, s->name, &s->full_name);
	if (rc == 0)
		rc = array_take(p, counts[SERVICE_METHOD], sizeof(*methods), &methods);
	if (rc)
		return rc;
	s->methods = methods;
	while (rc == 0 && proto_next(&bytes, &item) > 0) {
		if (item.number == SERVICE_METHOD && item.wire == 2) {
			rc = method_parse(p, item.bytes, &methods[s->methods_n], s, s->methods_n);
			s->methods_n++;
		} else if (item.number == SERVICE_METHOD) {
			rc = malformed(p, s->full_name);
		} else if (item.number == SERVICE_OPTIONS) {
			rc = options_take(p, &item, &s->options);
		}
	}
	s->deprecated = option_number(s->options, 33, 0) != 0;
	p->symbols++;
	return rc;
}

/* --- Files ---------------------------------------------------------------------------------- */

struct file_parts {
	struct proto_message *messages;
	struct proto_enum *enums;
	struct proto_field *extensions;
	struct proto_service *services;
};

/* What the rest of the file is read by. */
static int file_head(struct parser *p, struct proto_bytes bytes, struct proto_file *f)
{
	struct proto_item item;
	int rc = 0;

	f->syntax = 2;
	f->package = "";
	while (rc == 0 && proto_next(&bytes, &item) > 0) {
		bool text = item.wire == 2;
		struct proto_bytes b = item.bytes;

		if (item.number == FILE_NAME && text) {
			rc = text_take(p, b, &f->name);
		} else if (item.number == FILE_PACKAGE && text && b.len > 0) {
			rc = is_name(b, true) && b.len <= p->limits.name_bytes_max
				     ? text_take(p, b, &f->package)
				     : refuse(p, NULL, "the package is no name");
		} else if (item.number == FILE_SYNTAX && text) {
			if (b.len == 6 && memcmp(b.data, "proto3", 6) == 0)
				f->syntax = 3;
			else if (b.len == 8 && memcmp(b.data, "editions", 8) == 0)
				f->syntax = 0;
			else if (b.len != 6 || memcmp(b.data, "proto2", 6) != 0)
				rc = refuse(p, NULL, "its syntax is neither proto2 nor proto3");
		} else if (item.number == FILE_EDITION || item.number == FILE_EDITION_OLD) {
			f->syntax = 0;
		}
	}
	if (rc == 0 && (!f->name || !*f->name))
		return refuse(p, NULL, "a file has no name");
	if (rc == 0 && f->syntax == 0)
		return parser_refuse(p, SPLIT_E_LINEARIZE_PROTO_EDITION, f, NULL,
				     "editions are not supported: use proto2 or proto3");
	return rc;
}

static int file_item(struct parser *p, struct proto_file *f, struct file_parts *at,
		     const struct proto_item *item)
{
	uint32_t i;

	if (item->number < FILE_MESSAGE || item->number > FILE_SOURCE_INFO)
		return 0;
	if (item->wire != 2)
		return malformed(p, NULL);
	switch (item->number) {
	case FILE_MESSAGE:
		i = f->messages_n++;
		return message_parse(p, item->bytes, &at->messages[i], f->package, NULL, i, 1);
	case FILE_ENUM:
		i = f->enums_n++;
		return enum_parse(p, item->bytes, &at->enums[i], f->package, NULL, i);
	case FILE_SERVICE:
		i = f->services_n++;
		return service_parse(p, item->bytes, &at->services[i], i);
	case FILE_EXTENSION:
		i = f->extensions_n++;
		return field_parse(p, item->bytes, &at->extensions[i], f->package, NULL, i);
	case FILE_OPTIONS:
		return options_take(p, item, &f->options);
	default: /* FILE_SOURCE_INFO */
		f->source_info = item->bytes;
		return 0;
	}
}

static int file_parse(struct parser *p, struct proto_bytes bytes, struct proto_file *f)
{
	struct file_parts at = {0};
	struct proto_bytes rest = bytes;
	uint32_t counts[NUMBERS];
	struct proto_item item;
	int rc;

	p->file = f;
	f->bytes = bytes;
	rc = count(p, bytes, counts);
	if (rc == 0)
		rc = file_head(p, bytes, f);
	if (rc == 0)
		rc = array_take(p, counts[FILE_MESSAGE], sizeof(*at.messages), &at.messages);
	if (rc == 0)
		rc = array_take(p, counts[FILE_ENUM], sizeof(*at.enums), &at.enums);
	if (rc == 0)
		rc = array_take(p, counts[FILE_SERVICE], sizeof(*at.services), &at.services);
	if (rc == 0)
		rc = array_take(p, counts[FILE_EXTENSION], sizeof(*at.extensions), &at.extensions);
	f->messages = at.messages;
	f->enums = at.enums;
	f->services = at.services;
	f->extensions = at.extensions;
	while (rc == 0 && proto_next(&rest, &item) > 0)
		rc = file_item(p, f, &at, &item);
	f->deprecated = rc == 0 && option_number(f->options, 23, 0) != 0;
	return rc;
}

/* Imports by name, and which of them are public. */
static int file_imports(struct parser *p, struct proto_file *f)
{
	const struct proto_file **dependencies;
	bool *is_public;
	struct proto_bytes rest = f->bytes;
	uint32_t counts[NUMBERS];
	struct proto_item item;
	int rc;

	p->file = f;
	rc = count(p, rest, counts);
	if (rc == 0)
		rc = array_take(p, counts[FILE_DEPENDENCY], sizeof(void *), &dependencies);
	if (rc == 0)
		rc = array_take(p, counts[FILE_DEPENDENCY], sizeof(*is_public), &is_public);
	if (rc)
		return rc;
	f->dependencies = dependencies;
	f->dependency_public = is_public;
	while (proto_next(&rest, &item) > 0) {
		const char *name;

		if (item.number != FILE_DEPENDENCY)
			continue;
		rc = item.wire == 2 ? text_take(p, item.bytes, &name) : malformed(p, NULL);
		if (rc)
			return rc;
		dependencies[f->dependencies_n] = proto_file_find(&p->s->set, name);
		if (!dependencies[f->dependencies_n])
			return refuse(p, NULL, "it imports %.200s, which is not there", name);
		f->dependencies_n++;
	}
	for (rest = f->bytes; proto_next(&rest, &item) > 0;)
		if (item.number == FILE_PUBLIC && item.wire == 0 && item.value < f->dependencies_n)
			is_public[item.value] = true;
	return 0;
}

/* --- Sets ----------------------------------------------------------------------------------- */

const struct proto_file *proto_file_find(const struct proto_set *set, const char *name)
{
	for (uint32_t i = 0; i < set->files_n; i++)
		if (strcmp(set->files[i].name, name) == 0)
			return &set->files[i];
	return NULL;
}

static int files_parse(struct parser *p, const struct proto_bytes *files)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < p->s->set.files_n; i++) {
		p->files[i].index = i;
		rc = file_parse(p, files[i], &p->files[i]);
		for (uint32_t k = 0; rc == 0 && k < i; k++)
			if (strcmp(p->files[i].name, p->files[k].name) == 0)
				rc = refuse(p, NULL, "the file is there twice");
	}
	for (uint32_t i = 0; rc == 0 && i < p->s->set.files_n; i++)
		rc = file_imports(p, &p->files[i]);
	return rc ? rc : parser_link(p);
}

/* Files are compared with each other by name, so there are not too many of them. */
#define FILES_MAX 4096

int proto_set_parse_files(const struct proto_bytes *files, size_t files_n,
			  const struct proto_limits *limits, struct proto_set **out,
			  struct proto_finding *finding)
{
	struct parser p = {.limits = limits ? *limits : proto_limits_default, .finding = finding};
	struct proto_bytes *copies;
	size_t bytes = 0, i;
	uint8_t *copy, key[16];
	int rc;

	if (finding)
		*finding = (struct proto_finding){0};
	for (i = 0; i < files_n && bytes <= p.limits.bytes_max; i++)
		bytes += files[i].len;
	if (bytes > p.limits.bytes_max || files_n > FILES_MAX)
		return parser_refuse(&p, SPLIT_E_LINEARIZE_PROTO_LIMIT, NULL, NULL,
				     "descriptors of more than %zu bytes or %u files",
				     p.limits.bytes_max, FILES_MAX);
	p.fields_end = &p.fields;
	p.methods_end = &p.methods;
	p.s = calloc(1, sizeof(*p.s));
	if (!p.s)
		return -SPLIT_E_BASE_NOMEM;
	rc = random_bytes(key, sizeof(key));
	p.s->key = siphash_key_from(key);
	copy = memory_get(p.s, bytes + 1);
	copies = memory_array(p.s, files_n + 1, sizeof(*copies));
	p.files = memory_array(p.s, files_n + 1, sizeof(*p.files));
	if (!copy || !copies || !p.files)
		rc = -SPLIT_E_BASE_NOMEM;
	for (i = 0; rc == 0 && i < files_n; i++) {
		copies[i] = (struct proto_bytes){copy, files[i].len};
		if (files[i].len)
			memcpy(copy, files[i].data, files[i].len);
		copy += files[i].len;
	}
	p.s->set.files = p.files;
	p.s->set.files_n = (uint32_t)files_n;
	if (rc == 0)
		rc = files_parse(&p, copies);
	if (rc) {
		proto_set_destroy(&p.s->set);
		return rc;
	}
	*out = &p.s->set;
	return 0;
}

int proto_set_parse(const void *bytes, size_t len, const struct proto_limits *limits,
		    struct proto_set **out, struct proto_finding *finding)
{
	struct parser p = {.finding = finding};
	struct proto_bytes rest = {bytes, len}, *files;
	struct proto_item item;
	size_t n = 0;
	int rc;

	if (finding)
		*finding = (struct proto_finding){0};
	files = calloc(FILES_MAX, sizeof(*files));
	if (!files)
		return -SPLIT_E_BASE_NOMEM;
	while ((rc = proto_next(&rest, &item)) > 0) {
		if (item.number != SET_FILE)
			continue;
		if (item.wire != 2)
			break;
		if (n == FILES_MAX) {
			rc = parser_refuse(&p, SPLIT_E_LINEARIZE_PROTO_LIMIT, NULL, NULL,
					   "more than %u files", FILES_MAX);
			goto out;
		}
		files[n++] = item.bytes;
	}
	if (rc != 0)
		rc = malformed(&p, NULL);
	else
		rc = proto_set_parse_files(files, n, limits, out, finding);
out:
	free(files);
	return rc;
}

void proto_set_destroy(struct proto_set *set)
{
	struct owned_set *s = (struct owned_set *)(void *)set;

	if (!s)
		return;
	while (s->chunks) {
		struct memory_chunk *c = s->chunks;

		s->chunks = c->next;
		free(c);
	}
	free(s);
}
