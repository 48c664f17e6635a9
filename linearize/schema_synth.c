/* A FileDescriptorSet made of what a schema knows, for reflection of hosts that bring none.
 *
 * Types are sorted by package and name. '.' sorts before every other character of a name, so what
 * is nested in a type follows it at once, and one walk over the list gives the nesting; a component
 * that is no type itself (its message was not reachable) becomes a message without fields. Each
 * package is one file. Files may not need each other, so packages are written in Kahn's order and
 * what is left over, packages in a circle and who needs them, is left out.
 *
 * The schema is sound but hostile: nothing here takes more than sorting its types and fields does.
 */
#include "linearize/linearize_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define FILE_PREFIX "synthesised-by-splitd/"
#define COMMENT                                                                                    \
	" Synthesised by splitd from protobuf-c descriptors, for want of the real file.\n"         \
	" Names of oneofs, options, defaults and comments are not known.\n"

struct span {
	const char *at;
	uint32_t len;
};

struct type {
	struct span name;
	uint32_t package, index;
	bool is_enum;
};

struct package {
	struct span name;
	uint32_t first_type, types; /* in the sorted list */
	uint32_t needs;             /* packages that are not written yet */
	uint32_t first_need;        /* in synth.needs */
	bool proto2, written;
};

struct edge {
	uint32_t from, to; /* packages: `to` needs `from` */
};

struct synth {
	const struct schema *s;
	struct type *types;
	uint32_t types_n;
	uint32_t *message_type, *enum_type; /* index in the schema -> index in types, or NONE */
	struct package *packages;
	uint32_t packages_n;
	struct edge *edges; /* sorted by `from`, each once */
	struct edge *needs; /* the same by `to` */
	uint32_t edges_n;
	uint8_t *out;
	size_t len, room;
	bool failed; /* no memory */
};

/* --- Writing protobuf ----------------------------------------------------------------------------
 */

static void put(struct synth *x, const void *bytes, size_t len)
{
	if (x->failed)
		return;
	if (x->room - x->len < len) {
		size_t room = (x->len + len) * 2 + 256;
		uint8_t *grown = realloc(x->out, room);

		if (!grown) {
			x->failed = true;
			return;
		}
		x->out = grown;
		x->room = room;
	}
	if (len)
		memcpy(x->out + x->len, bytes, len);
	x->len += len;
}

static unsigned varint(uint8_t *to, uint64_t v)
{
	unsigned n = 0;

	for (; v >= 0x80; v >>= 7)
		to[n++] = (uint8_t)(v | 0x80);
	to[n++] = (uint8_t)v;
	return n;
}

static void put_varint(struct synth *x, uint64_t v)
{
	uint8_t bytes[10];

	put(x, bytes, varint(bytes, v));
}

static void put_number(struct synth *x, unsigned field, uint64_t v)
{
	put_varint(x, field << 3 | WIRE_VARINT);
	put_varint(x, v);
}

static void put_bytes(struct synth *x, unsigned field, const void *bytes, size_t len)
{
	put_varint(x, field << 3 | WIRE_LEN);
	put_varint(x, len);
	put(x, bytes, len);
}

static void put_text(struct synth *x, unsigned field, const char *text)
{
	put_bytes(x, field, text, strlen(text));
}

/* A message: what is written until `close` is its content, which then moves up for its length. */
static size_t open_message(struct synth *x, unsigned field)
{
	put_varint(x, field << 3 | WIRE_LEN);
	return x->len;
}

static void close_message(struct synth *x, size_t begin)
{
	uint8_t length[10];
	size_t len = x->len - begin;
	unsigned n = varint(length, len);

	put(x, length, n); /* room */
	if (x->failed)
		return;
	memmove(x->out + begin + n, x->out + begin, len);
	memcpy(x->out + begin, length, n);
}

/* --- Types and packages --------------------------------------------------------------------------
 */

static int span_compare(struct span a, struct span b)
{
	uint32_t n = a.len < b.len ? a.len : b.len;
	int c = n ? memcmp(a.at, b.at, n) : 0;

	return c ? c : (a.len > b.len) - (a.len < b.len);
}

static int package_compare(const void *a, const void *b)
{
	return span_compare(((const struct package *)a)->name, ((const struct package *)b)->name);
}

static int type_compare(const void *a, const void *b)
{
	const struct type *x = a, *y = b;

	if (x->package != y->package)
		return x->package < y->package ? -1 : 1;
	return span_compare(x->name, y->name);
}

static int edge_compare(const void *a, const void *b)
{
	const struct edge *x = a, *y = b;

	if (x->from != y->from)
		return x->from < y->from ? -1 : 1;
	return (x->to > y->to) - (x->to < y->to);
}

static int need_compare(const void *a, const void *b)
{
	const struct edge *x = a, *y = b;

	return edge_compare(&(struct edge){x->to, x->from}, &(struct edge){y->to, y->from});
}

static void packages_sort(struct synth *x)
{
	uint32_t i, n = 0;

	qsort(x->packages, x->packages_n, sizeof(*x->packages), package_compare);
	for (i = 0; i < x->packages_n; i++)
		if (n == 0 || package_compare(&x->packages[n - 1], &x->packages[i]) != 0)
			x->packages[n++] = x->packages[i];
	x->packages_n = n;
}

static struct package *package_find(struct synth *x, struct span name)
{
	struct package key = {.name = name};

	return bsearch(&key, x->packages, x->packages_n, sizeof(key), package_compare);
}

static struct span message_package(const struct schema *s, uint32_t i)
{
	return (struct span){s->messages[i].name, s->blob_messages[i].package_bytes};
}

static struct span enum_span(const struct schema *s, uint32_t i)
{
	return (struct span){s->pool + s->blob_enums[i].name, s->blob_enums[i].name_bytes};
}

/* The longest package of any message that an enum's name begins with; else all before its last
 * dot, which may be a package without messages. Descriptors of enums know theirs, blobs do not. */
static struct span enum_package(struct synth *x, struct span name)
{
	struct span package = name, last = {name.at, 0};

	while (package.len > 0) {
		while (package.len > 0 && package.at[package.len - 1] != '.')
			package.len--;
		if (package.len == 0)
			break;
		package.len--;
		if (last.len == 0)
			last = package;
		if (package_find(x, package))
			return package;
	}
	package.len = 0;
	return package_find(x, package) ? package : last;
}

static bool types_collect(struct synth *x)
{
	const struct schema *s = x->s;
	uint32_t all = s->message_count + s->header->enums, i, known;
	struct span *of_enum = calloc(s->header->enums + 1, sizeof(*of_enum));

	x->types = calloc(all + 1, sizeof(*x->types));
	x->packages = calloc(all + 1, sizeof(*x->packages));
	x->message_type = calloc(s->message_count + 1, sizeof(uint32_t));
	x->enum_type = calloc(s->header->enums + 1, sizeof(uint32_t));
	if (!of_enum || !x->types || !x->packages || !x->message_type || !x->enum_type) {
		free(of_enum);
		return false;
	}
	for (i = 0; i < s->message_count; i++)
		x->packages[x->packages_n++].name = message_package(s, i);
	packages_sort(x);
	for (i = 0; i < s->header->enums; i++)
		of_enum[i] = enum_package(x, enum_span(s, i));
	for (i = 0, known = x->packages_n; i < s->header->enums; i++)
		x->packages[known + i].name = of_enum[i];
	x->packages_n = known + s->header->enums;
	packages_sort(x);
	for (i = 0; i < all; i++) {
		bool is_enum = i >= s->message_count;
		uint32_t index = is_enum ? i - s->message_count : i;
		struct type t = {.index = index, .is_enum = is_enum};

		t.name = is_enum ? enum_span(s, index)
				 : (struct span){s->messages[i].name,
						 s->blob_messages[i].name_bytes};
		t.package = (uint32_t)(package_find(x, is_enum ? of_enum[index]
							       : message_package(s, i)) -
				       x->packages);
		if (t.name.len != 0 && t.name.len > x->packages[t.package].name.len)
			x->types[x->types_n++] = t;
	}
	free(of_enum);
	qsort(x->types, x->types_n, sizeof(*x->types), type_compare);
	for (i = 0; i < s->message_count; i++)
		x->message_type[i] = SCHEMA_NONE;
	for (i = 0; i < s->header->enums; i++)
		x->enum_type[i] = SCHEMA_NONE;
	for (i = 0; i < x->types_n; i++) {
		struct type *t = &x->types[i];
		struct package *p = &x->packages[t->package];

		(t->is_enum ? x->enum_type : x->message_type)[t->index] = i;
		if (p->types++ == 0)
			p->first_type = i;
	}
	return true;
}

static uint32_t field_type(const struct synth *x, const struct blob_field *f)
{
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return x->message_type[f->sub];
	return f->type == PROTOBUF_C_TYPE_ENUM ? x->enum_type[f->sub] : SCHEMA_NONE;
}

/* proto3 unless something in the package cannot be that. */
static bool field_is_proto2(const struct blob_field *f)
{
	if (f->label == PROTOBUF_C_LABEL_REQUIRED)
		return true;
	return f->label == PROTOBUF_C_LABEL_OPTIONAL && f->type != PROTOBUF_C_TYPE_MESSAGE &&
	       !(f->flags & BLOB_FIELD_OPTIONAL);
}

static bool enum_has_zero(const struct schema *s, uint32_t i)
{
	return schema_enum_has(&s->enums[i], 0);
}

static bool edges_collect(struct synth *x)
{
	const struct schema *s = x->s;
	uint32_t i, k, n = 0;

	x->edges = calloc(s->header->fields + 1, sizeof(*x->edges));
	if (!x->edges)
		return false;
	for (i = 0; i < x->types_n; i++) {
		const struct type *t = &x->types[i];
		struct package *p = &x->packages[t->package];

		if (t->is_enum) {
			p->proto2 |= !enum_has_zero(s, t->index) ||
				     s->blob_enums[t->index].flags & BLOB_ENUM_CLOSED;
			continue;
		}
		p->proto2 |= s->blob_messages[t->index].syntax == SCHEMA_SYNTAX_PROTO2;
		for (k = 0; k < s->blob_messages[t->index].fields; k++) {
			const struct blob_field *f =
				&s->blob_fields[s->blob_messages[t->index].first_field + k];
			uint32_t other = field_type(x, f);

			p->proto2 |= field_is_proto2(f);
			if (other != SCHEMA_NONE && x->types[other].package != t->package)
				x->edges[x->edges_n++] =
					(struct edge){x->types[other].package, t->package};
		}
	}
	qsort(x->edges, x->edges_n, sizeof(*x->edges), edge_compare);
	for (i = 0; i < x->edges_n; i++)
		if (n == 0 || edge_compare(&x->edges[n - 1], &x->edges[i]) != 0)
			x->edges[n++] = x->edges[i];
	x->edges_n = n;
	x->needs = calloc(n + 1, sizeof(*x->needs));
	if (!x->needs)
		return false;
	for (i = 0; i < n; i++) {
		x->needs[i] = x->edges[i];
		x->packages[x->edges[i].to].needs++;
	}
	qsort(x->needs, n, sizeof(*x->needs), need_compare);
	for (i = n; i-- > 0;)
		x->packages[x->needs[i].to].first_need = i;
	return true;
}

/* --- Messages and enums --------------------------------------------------------------------------
 */

enum { LABEL_OPTIONAL = 1, LABEL_REQUIRED, LABEL_REPEATED };

#define T(name, number) [PROTOBUF_C_TYPE_##name] = (number)
static const uint8_t descriptor_types[TYPE_COUNT] = {
	T(DOUBLE, 1),  T(FLOAT, 2),   T(INT64, 3), T(UINT64, 4),    T(INT32, 5),
	T(FIXED64, 6), T(FIXED32, 7), T(BOOL, 8),  T(STRING, 9),    T(MESSAGE, 11),
	T(BYTES, 12),  T(UINT32, 13), T(ENUM, 14), T(SFIXED32, 15), T(SFIXED64, 16),
	T(SINT32, 17), T(SINT64, 18),
};

static void put_type_name(struct synth *x, unsigned field, struct span name)
{
	char text[SCHEMA_NAME_MAX + 1];

	text[0] = '.';
	memcpy(text + 1, name.at, name.len);
	put_bytes(x, field, text, name.len + 1);
}

static void put_field_options(struct synth *x, const struct blob_field *f, bool proto2)
{
	bool packable = f->label == PROTOBUF_C_LABEL_REPEATED && type_is_packable(f->type);
	bool packed = f->flags & BLOB_FIELD_PACKED, deprecated = f->flags & BLOB_FIELD_DEPRECATED;
	size_t options;

	if (!deprecated && !(packable && packed == proto2))
		return;
	options = open_message(x, 8);
	if (packable && packed == proto2)
		put_number(x, 2, packed);
	if (deprecated)
		put_number(x, 3, 1);
	close_message(x, options);
}

static void put_field(struct synth *x, const struct blob_field *f, bool proto2, uint32_t oneof)
{
	uint32_t type = field_type(x, f);
	char made_up[24];
	size_t field = open_message(x, 2);

	if (f->name_bytes) {
		put_bytes(x, 1, x->s->pool + f->name, f->name_bytes);
	} else {
		(void)snprintf(made_up, sizeof(made_up), "field_%u", f->number);
		put_text(x, 1, made_up);
	}
	put_number(x, 3, f->number);
	put_number(x, 4,
		   f->label == PROTOBUF_C_LABEL_REPEATED   ? LABEL_REPEATED
		   : f->label == PROTOBUF_C_LABEL_REQUIRED ? LABEL_REQUIRED
							   : LABEL_OPTIONAL);
	put_number(x, 5, descriptor_types[f->type]);
	if (type != SCHEMA_NONE)
		put_type_name(x, 6, x->types[type].name);
	put_field_options(x, f, proto2);
	if (oneof != SCHEMA_NONE)
		put_number(x, 9, oneof);
	if (f->json_name_bytes)
		put_bytes(x, 10, x->s->pool + f->json_name, f->json_name_bytes);
	if (f->flags & BLOB_FIELD_OPTIONAL && !proto2)
		put_number(x, 17, 1);
	close_message(x, field);
}

/* A oneof is known by its case word. `cases`: for each word of the struct, its oneof + 1. */
static uint32_t oneof_of(const struct blob_field *f, uint32_t *cases, uint32_t *n)
{
	if (!(f->flags & BLOB_FIELD_ONEOF))
		return SCHEMA_NONE;
	if (cases[f->quantifier / 4] == 0)
		cases[f->quantifier / 4] = ++*n;
	return cases[f->quantifier / 4] - 1;
}

static void put_oneof(struct synth *x, const char *prefix, const char *name, uint32_t len)
{
	size_t oneof = open_message(x, 8), text = open_message(x, 1);

	put(x, prefix, strlen(prefix));
	put(x, name, len);
	close_message(x, text);
	close_message(x, oneof);
}

static void put_fields(struct synth *x, const struct blob_message *m, bool proto2)
{
	const struct blob_field *fields = &x->s->blob_fields[m->first_field];
	uint32_t *cases = calloc(m->struct_bytes / 4, sizeof(*cases)), real = 0, all, i;

	if (!cases) {
		x->failed = true;
		return;
	}
	for (i = 0; i < m->fields; i++)
		(void)oneof_of(&fields[i], cases, &real);
	all = real;
	for (i = 0; i < m->fields; i++) {
		uint32_t oneof = oneof_of(&fields[i], cases, &real);

		if (fields[i].flags & BLOB_FIELD_OPTIONAL && !proto2)
			oneof = all++;
		put_field(x, &fields[i], proto2, oneof);
	}
	for (i = 0; i < real; i++) {
		char number[16];

		put_oneof(x, "oneof_", number,
			  (uint32_t)snprintf(number, sizeof(number), "%u", i + 1));
	}
	for (i = 0; i < m->fields; i++)
		if (fields[i].flags & BLOB_FIELD_OPTIONAL && !proto2)
			put_oneof(x, "_", x->s->pool + fields[i].name, fields[i].name_bytes);
	free(cases);
}

/* proto3 wants 0 first. */
static void put_enum(struct synth *x, unsigned field, struct span name, uint32_t index)
{
	const struct blob_enum *e = &x->s->blob_enums[index];
	size_t begin = open_message(x, field), value;
	uint32_t pass, i;

	put_bytes(x, 1, name.at, name.len);
	for (pass = 0; pass < 2; pass++)
		for (i = e->first_value; i < e->first_value + e->values; i++) {
			const struct blob_value *v = &x->s->blob_values[i];

			if ((v->number == 0) != (pass == 0) || v->name_bytes == 0)
				continue;
			value = open_message(x, 2);
			put_bytes(x, 1, x->s->pool + v->name, v->name_bytes);
			put_number(x, 2, (uint64_t)(int64_t)v->number);
			close_message(x, value);
		}
	close_message(x, begin);
}

/* The part of a name from `at` to the next dot. */
static struct span component(struct span name, uint32_t at)
{
	struct span c = {name.at + at, 0};

	while (at + c.len < name.len && c.at[c.len] != '.')
		c.len++;
	return c;
}

/* The types [first, end), all alike before `at`; fields 4 and 5 in a file, 3 and 4 in a message. */
static void put_types(struct synth *x, uint32_t first, uint32_t end, uint32_t at, unsigned field,
		      bool proto2)
{
	while (first < end && !x->failed) {
		struct span name = component(x->types[first].name, at);
		const struct type *t = &x->types[first];
		bool is_type = t->name.len == at + name.len;
		uint32_t last = first + 1;
		size_t message;

		if (is_type && t->is_enum) {
			put_enum(x, field + 1, name, t->index);
			first++;
			continue;
		}
		while (last < end && span_compare(component(x->types[last].name, at), name) == 0)
			last++;
		message = open_message(x, field);
		put_bytes(x, 1, name.at, name.len);
		if (is_type)
			put_fields(x, &x->s->blob_messages[t->index], proto2);
		/* A second type of the same name is no sound schema's: it is left out. */
		while (is_type && first < last && x->types[first].name.len == at + name.len)
			first++;
		put_types(x, first, last, at + name.len + 1, 3, proto2);
		if (is_type && schema_message_flags(&x->s->messages[t->index])) {
			size_t options = open_message(x, 7);

			put_number(x, 7, 1);
			close_message(x, options);
		}
		close_message(x, message);
		first = last;
	}
}

/* --- Files ---------------------------------------------------------------------------------------
 */

static void put_file_name(struct synth *x, unsigned field, const char *kind, struct span package)
{
	size_t name = open_message(x, field);

	put(x, FILE_PREFIX, strlen(FILE_PREFIX));
	put(x, kind, strlen(kind));
	if (package.len)
		put(x, package.at, package.len);
	else
		put(x, "no-package", 10);
	put(x, ".proto", 6);
	close_message(x, name);
}

static size_t file_begin(struct synth *x, const char *kind, struct span name, struct span package)
{
	size_t file = open_message(x, 1);

	put_file_name(x, 1, kind, name);
	if (package.len)
		put_bytes(x, 2, package.at, package.len);
	return file;
}

static void file_end(struct synth *x, size_t file, bool proto2)
{
	static const uint8_t path[] = {12}, span[] = {0, 0, 1};
	size_t info = open_message(x, 9), location = open_message(x, 1);

	put_bytes(x, 1, path, sizeof(path));
	put_bytes(x, 2, span, sizeof(span));
	put_text(x, 3, COMMENT);
	close_message(x, location);
	close_message(x, info);
	if (!proto2)
		put_text(x, 12, "proto3");
	close_message(x, file);
}

static void put_package(struct synth *x, uint32_t i)
{
	struct package *p = &x->packages[i];
	size_t file = file_begin(x, "", p->name, p->name);
	uint32_t e;

	for (e = p->first_need; e < x->edges_n && x->needs[e].to == i; e++)
		put_file_name(x, 3, "", x->packages[x->needs[e].from].name);
	put_types(x, p->first_type, p->first_type + p->types, p->name.len ? p->name.len + 1 : 0, 4,
		  p->proto2);
	file_end(x, file, p->proto2);
	p->written = true;
}

/* Kahn: a package is written when all that it needs are. */
static bool put_packages(struct synth *x)
{
	uint32_t *ready = calloc(x->packages_n + 1, sizeof(*ready)), n = 0, done, e, i;

	if (!ready)
		return false;
	for (i = 0; i < x->packages_n; i++)
		if (x->packages[i].needs == 0)
			ready[n++] = i;
	for (done = 0; done < n; done++) {
		uint32_t low = 0, high = x->edges_n;

		if (x->packages[ready[done]].types)
			put_package(x, ready[done]);
		while (low < high) {
			uint32_t mid = low + (high - low) / 2;

			if (x->edges[mid].from < ready[done])
				low = mid + 1;
			else
				high = mid;
		}
		for (e = low; e < x->edges_n && x->edges[e].from == ready[done]; e++)
			if (--x->packages[x->edges[e].to].needs == 0)
				ready[n++] = x->edges[e].to;
	}
	free(ready);
	return true;
}

static struct span text_span(const char *text, size_t len)
{
	return (struct span){text, (uint32_t)len};
}

static struct span service_package(const char *service)
{
	const char *dot = strrchr(service, '.');

	return text_span(service, dot ? (size_t)(dot - service) : 0);
}

/* The package whose file a method's message is in; SCHEMA_NONE if none was written. */
static uint32_t written_package(const struct synth *x, uint32_t message)
{
	uint32_t type = message < x->s->message_count ? x->message_type[message] : SCHEMA_NONE;

	if (type == SCHEMA_NONE || !x->packages[x->types[type].package].written)
		return SCHEMA_NONE;
	return x->types[type].package;
}

static int method_compare(const void *a, const void *b)
{
	const struct schema_method *x = *(const struct schema_method *const *)a;
	const struct schema_method *y = *(const struct schema_method *const *)b;
	int c = strcmp(x->service, y->service);

	return c ? c : strcmp(x->method, y->method);
}

static void put_method(struct synth *x, const struct schema_method *m)
{
	size_t method = open_message(x, 2);

	put_text(x, 1, m->method);
	put_type_name(x, 2, x->types[x->message_type[m->input]].name);
	put_type_name(x, 3, x->types[x->message_type[m->output]].name);
	if (m->client_streams)
		put_number(x, 5, 1);
	if (m->server_streams)
		put_number(x, 6, 1);
	close_message(x, method);
}

/* One file for each service, after the files of all types: it imports what its methods need. */
static void put_service(struct synth *x, const struct schema_method *const *methods, size_t n,
			uint8_t *imported)
{
	const char *name = methods[0]->service;
	struct span package = service_package(name);
	size_t file = file_begin(x, "services/", text_span(name, strlen(name)), package);
	size_t service, i, k;

	memset(imported, 0, x->packages_n);
	for (i = 0; i < n; i++) {
		uint32_t both[2] = {written_package(x, methods[i]->input),
				    written_package(x, methods[i]->output)};

		for (k = 0; k < 2 && both[0] != SCHEMA_NONE && both[1] != SCHEMA_NONE; k++)
			if (!imported[both[k]]++)
				put_file_name(x, 3, "", x->packages[both[k]].name);
	}
	service = open_message(x, 6);
	put_text(x, 1, package.len ? name + package.len + 1 : name);
	for (i = 0; i < n; i++)
		if (written_package(x, methods[i]->input) != SCHEMA_NONE &&
		    written_package(x, methods[i]->output) != SCHEMA_NONE)
			put_method(x, methods[i]);
	close_message(x, service);
	file_end(x, file, false);
}

static bool put_services(struct synth *x, const struct schema_method *methods, size_t n)
{
	const struct schema_method **sorted = calloc(n + 1, sizeof(void *));
	uint8_t *imported = calloc(x->packages_n + 1, 1);
	size_t i, k;

	for (i = 0; sorted && imported && i < n; i++)
		sorted[i] = &methods[i];
	if (sorted && imported) {
		qsort(sorted, n, sizeof(void *), method_compare);
		for (i = 0; i < n; i = k) {
			for (k = i + 1; k < n && !strcmp(sorted[k]->service, sorted[i]->service);)
				k++;
			put_service(x, sorted + i, k - i, imported);
		}
	}
	x->failed |= !sorted || !imported;
	free(sorted);
	free(imported);
	return !x->failed;
}

int schema_synthesise(const struct schema *s, const struct schema_method *methods, size_t n,
		      uint8_t **out, size_t *len_out)
{
	struct synth x = {.s = s};
	bool good = types_collect(&x) && edges_collect(&x) && put_packages(&x) &&
		    put_services(&x, methods, n) && !x.failed;

	if (good) {
		*out = x.out ? x.out : calloc(1, 1);
		*len_out = x.len;
		good = *out != NULL;
	}
	if (!good)
		free(x.out);
	free(x.types);
	free(x.packages);
	free(x.message_type);
	free(x.enum_type);
	free(x.edges);
	free(x.needs);
	return good ? 0 : -SPLIT_E_BASE_NOMEM;
}
