/* Names -> pointers, and what can only be said once these are known. */
#include "linearize/descriptor/descriptor_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define refuse(p, file, element, ...)                                                              \
	parser_refuse(p, SPLIT_E_LINEARIZE_PROTO, file, element, __VA_ARGS__)

/* --- Symbols -------------------------------------------------------------------------------- */

struct symbol *symbol_slot(const struct owned_set *s, const char *name, size_t len)
{
	uint32_t i = (uint32_t)siphash24(&s->key, name, len) & (s->symbols_size - 1);

	while (s->symbols[i].name &&
	       (strncmp(s->symbols[i].name, name, len) != 0 || s->symbols[i].name[len] != '\0'))
		i = (i + 1) & (s->symbols_size - 1);
	return &s->symbols[i];
}

static int symbol_add(struct parser *p, const struct proto_file *file, const char *name,
		      const void *what, enum symbol_kind kind)
{
	struct symbol *slot = symbol_slot(p->s, name, strlen(name));

	if (slot->name)
		return refuse(p, file, name, "it is declared twice");
	*slot = (struct symbol){.name = name, .what = what, .kind = kind};
	return 0;
}

static int enums_add(struct parser *p, const struct proto_enum *enums, uint32_t n)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < n; i++)
		rc = symbol_add(p, enums[i].file, enums[i].full_name, &enums[i], SYMBOL_ENUM);
	return rc;
}

/* As deep as descriptors may nest. */
static int messages_add(struct parser *p, const struct proto_message *messages, uint32_t n)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < n; i++) {
		struct proto_message *m = (struct proto_message *)(uintptr_t)&messages[i];

		m->id = p->s->set.messages_n++;
		p->by_id[m->id] = m;
		rc = symbol_add(p, m->file, m->full_name, m, SYMBOL_MESSAGE);
		if (rc == 0)
			rc = enums_add(p, m->enums, m->enums_n);
		if (rc == 0)
			rc = messages_add(p, m->messages, m->messages_n);
	}
	return rc;
}

static int symbols_make(struct parser *p)
{
	struct owned_set *s = p->s;
	int rc = 0;

	s->symbols_size = 16;
	while (s->symbols_size < 2 * p->symbols)
		s->symbols_size *= 2;
	s->symbols = memory_array(s, s->symbols_size, sizeof(*s->symbols));
	p->by_id = memory_array(s, p->messages + 1, sizeof(void *));
	if (!s->symbols || !p->by_id)
		return -SPLIT_E_BASE_NOMEM;
	s->set.messages = p->by_id;
	for (uint32_t i = 0; rc == 0 && i < s->set.files_n; i++) {
		const struct proto_file *f = &s->set.files[i];

		rc = messages_add(p, f->messages, f->messages_n);
		if (rc == 0)
			rc = enums_add(p, f->enums, f->enums_n);
		for (uint32_t k = 0; rc == 0 && k < f->services_n; k++)
			rc = symbol_add(p, f, f->services[k].full_name, &f->services[k],
					SYMBOL_SERVICE);
	}
	return rc;
}

/* ".a.B" is a.B; "B" is looked for in the scope and outwards, as in the language. */
static const struct symbol *symbol_find(const struct parser *p, const char *name, const char *scope)
{
	char full[2048];
	size_t n = strlen(scope), bytes = strlen(name);
	const struct symbol *found;

	if (*name == '.') {
		found = symbol_slot(p->s, name + 1, bytes - 1);
		return found->name ? found : NULL;
	}
	if (n + bytes + 2 > sizeof(full))
		return NULL;
	for (;;) {
		int len =
			snprintf(full, sizeof(full), "%.*s%s%s", (int)n, scope, n ? "." : "", name);

		found = symbol_slot(p->s, full, (size_t)len);
		if (found->name)
			return found;
		if (n == 0)
			return NULL;
		while (n > 0 && scope[--n] != '.')
			;
	}
}

/* --- Paths ---------------------------------------------------------------------------------- */

static uint32_t path_add(int32_t *path, uint32_t steps, int32_t number, uint32_t index)
{
	path[steps] = number;
	path[steps + 1] = (int32_t)index;
	return steps + 2;
}

uint32_t proto_message_path(const struct proto_message *m, int32_t *path)
{
	/* Room for the deepest message and one more step; deeper ones are cut, and have no line. */
	const struct proto_message *chain[PROTO_PATH_MAX / 2 - 2];
	uint32_t n = 0, steps = 0;

	for (; m && n < sizeof(chain) / sizeof(chain[0]); m = m->parent)
		chain[n++] = m;
	while (n-- > 0)
		steps = path_add(path, steps, chain[n]->parent ? 3 : 4, chain[n]->index);
	return steps;
}

uint32_t proto_field_path(const struct proto_field *f, int32_t *path)
{
	uint32_t steps = f->parent ? proto_message_path(f->parent, path) : 0;
	int32_t number = !f->extendee ? 2 : f->parent ? 6 : 7;

	return path_add(path, steps, number, f->index);
}

uint32_t proto_oneof_path(const struct proto_message *m, const struct proto_oneof *o, int32_t *path)
{
	return path_add(path, proto_message_path(m, path), 8, o->index);
}

uint32_t proto_enum_path(const struct proto_enum *e, int32_t *path)
{
	uint32_t steps = e->parent ? proto_message_path(e->parent, path) : 0;

	return path_add(path, steps, e->parent ? 4 : 5, e->index);
}

uint32_t proto_value_path(const struct proto_enum *e, uint32_t value, int32_t *path)
{
	return path_add(path, proto_enum_path(e, path), 2, value);
}

uint32_t proto_service_path(const struct proto_service *s, int32_t *path)
{
	return path_add(path, 0, 6, s->index);
}

uint32_t proto_method_path(const struct proto_service *s, uint32_t method, int32_t *path)
{
	return path_add(path, proto_service_path(s, path), 2, method);
}

static int refuse_field(struct parser *p, const struct proto_field *f, const char *text)
{
	if (p->finding)
		p->finding->steps = proto_field_path(f, p->finding->path);
	return refuse(p, f->file, f->full_name, "%s", text);
}

/* --- Fields --------------------------------------------------------------------------------- */

static int field_type(struct parser *p, struct proto_field *f, const struct pending_field *pending)
{
	bool by_name = f->type == 0 || f->type == PROTO_MESSAGE || f->type == PROTO_GROUP ||
		       f->type == PROTO_ENUM;
	const struct symbol *symbol;

	if (!by_name)
		return 0;
	if (!pending->type_name)
		return refuse_field(p, f, "it has no type");
	symbol = symbol_find(p, pending->type_name, pending->scope);
	if (!symbol) {
		if (p->finding)
			p->finding->steps = proto_field_path(f, p->finding->path);
		return refuse(p, f->file, f->full_name, "its type %.160s is not there",
			      pending->type_name);
	}
	if (f->type == 0)
		f->type = symbol->kind == SYMBOL_ENUM ? PROTO_ENUM : PROTO_MESSAGE;
	if (f->type == PROTO_ENUM && symbol->kind == SYMBOL_ENUM)
		f->enumeration = symbol->what;
	else if (f->type != PROTO_ENUM && symbol->kind == SYMBOL_MESSAGE)
		f->message = symbol->what;
	else
		return refuse_field(p, f, "the name of its type names something else");
	return 0;
}

static int field_oneof(struct parser *p, struct proto_field *f, const struct pending_field *pending)
{
	struct proto_oneof *o;

	if (pending->oneof < 0)
		return f->proto3_optional && !f->extendee
			       ? refuse_field(p, f, "proto3 optional without its oneof")
			       : 0;
	if (!f->parent || f->extendee || (uint32_t)pending->oneof >= f->parent->oneofs_n)
		return refuse_field(p, f, "its oneof is not there");
	if (f->label != PROTO_OPTIONAL)
		return refuse_field(p, f, "a member of a oneof must be singular");
	o = (struct proto_oneof *)(uintptr_t)&f->parent->oneofs[pending->oneof];
	o->fields_n++; /* counted here, gathered by message_oneofs */
	o->synthetic = f->proto3_optional;
	f->oneof = o;
	return 0;
}

/* Known once type and oneof are. */
static int field_rules(struct parser *p, struct proto_field *f)
{
	bool proto3 = f->file->syntax == 3;
	uint64_t said = 2;
	struct proto_bytes rest = f->options;
	struct proto_item item;

	while (proto_next(&rest, &item) > 0)
		if (item.number == 2 && item.wire == 0)
			said = item.value != 0;
	f->packed = f->label == PROTO_REPEATED && proto_type_is_packable(f->type) &&
		    (said == 2 ? proto3 : said);
	f->utf8 = proto3 && f->type == PROTO_STRING;
	f->presence = f->label != PROTO_REPEATED && (!proto3 || f->oneof || f->message);
	f->map = f->message && f->message->map_entry && f->label == PROTO_REPEATED;
	if (proto3 && f->label == PROTO_REQUIRED)
		return refuse_field(p, f, "required is proto2's");
	if (proto3 && f->type == PROTO_GROUP)
		return refuse_field(p, f, "groups are proto2's");
	if (f->proto3_optional && !proto3)
		return refuse_field(p, f, "proto3_optional in a proto2 file");
	if (f->message && f->message->map_entry && (!f->map || f->message->parent != f->parent))
		return refuse_field(p, f, "a map entry is used as a message");
	if (f->has_default && (proto3 || f->label == PROTO_REPEATED || f->message))
		return refuse_field(p, f, "it cannot have a default");
	return 0;
}

static int fields_link(struct parser *p)
{
	int rc = 0;

	for (struct pending_field *pending = p->fields; rc == 0 && pending;
	     pending = pending->next) {
		struct proto_field *f = pending->field;
		const struct symbol *symbol;

		if (pending->extendee) {
			symbol = symbol_find(p, pending->extendee, pending->scope);
			if (!symbol || symbol->kind != SYMBOL_MESSAGE)
				return refuse_field(p, f, "the message it extends is not there");
			f->extendee = symbol->what;
		}
		rc = field_type(p, f, pending);
		if (rc == 0)
			rc = field_oneof(p, f, pending);
		if (rc == 0)
			rc = field_rules(p, f);
		if (rc == 0 && f->enumeration)
			f->default_number = (uint64_t)(int64_t)f->enumeration->values[0].number;
		if (rc == 0 && f->has_default) {
			rc = default_parse(p->s, f, pending->default_text);
			if (rc == -SPLIT_E_LINEARIZE_PROTO)
				rc = refuse_field(p, f, "its default is not one of its type");
		}
	}
	return rc;
}

/* Which list a field came from decides what it is: only extensions have an extendee. */
static int kinds_check(struct parser *p, const struct proto_field *fields, uint32_t n,
		       bool extensions)
{
	for (uint32_t i = 0; i < n; i++)
		if ((fields[i].extendee != NULL) != extensions)
			return refuse_field(p, &fields[i],
					    extensions ? "an extension extends nothing"
						       : "a field that extends something");
	return 0;
}

/* --- Messages ------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
	const struct proto_field *const *x = a, *const *y = b;

	return ((*x)->number > (*y)->number) - ((*x)->number < (*y)->number);
}

static int message_numbers(struct parser *p, struct proto_message *m)
{
	const struct proto_field **sorted = memory_array(p->s, m->fields_n + 1, sizeof(void *));

	if (!sorted)
		return -SPLIT_E_BASE_NOMEM;
	for (uint32_t i = 0; i < m->fields_n; i++)
		sorted[i] = &m->fields[i];
	if (m->fields_n)
		qsort(sorted, m->fields_n, sizeof(void *), by_number);
	for (uint32_t i = 1; i < m->fields_n; i++)
		if (sorted[i]->number == sorted[i - 1]->number)
			return refuse_field(p, sorted[i], "its number is another field's too");
	m->by_number = sorted;
	return 0;
}

static int message_oneofs(struct parser *p, struct proto_message *m)
{
	struct proto_oneof *oneofs = (struct proto_oneof *)(uintptr_t)m->oneofs;

	for (uint32_t i = 0; i < m->oneofs_n; i++) {
		if (oneofs[i].fields_n == 0 || (oneofs[i].synthetic && oneofs[i].fields_n != 1))
			return refuse(p, m->file, oneofs[i].full_name,
				      "the oneof has no field, or a synthetic one many");
		oneofs[i].fields = memory_array(p->s, oneofs[i].fields_n, sizeof(void *));
		if (!oneofs[i].fields)
			return -SPLIT_E_BASE_NOMEM;
		oneofs[i].fields_n = 0;
	}
	for (uint32_t i = 0; i < m->fields_n; i++) {
		const struct proto_field *f = &m->fields[i];
		struct proto_oneof *o;

		if (!f->oneof)
			continue;
		o = &oneofs[f->oneof->index];
		((const struct proto_field **)(uintptr_t)o->fields)[o->fields_n++] = f;
		if (o->synthetic != f->proto3_optional)
			return refuse_field(p, f, "proto3 optional in a oneof of others");
	}
	return 0;
}

static bool map_key_good(unsigned type)
{
	return type != PROTO_FLOAT && type != PROTO_DOUBLE && type != PROTO_BYTES &&
	       type != PROTO_ENUM && type != PROTO_MESSAGE && type != PROTO_GROUP;
}

static int message_map(struct parser *p, const struct proto_message *m)
{
	const struct proto_field *const *f = m->by_number;

	if (!m->map_entry)
		return 0;
	if (!m->parent || m->fields_n != 2 || m->oneofs_n || f[0]->number != 1 ||
	    f[1]->number != 2 || f[0]->label != PROTO_OPTIONAL || f[1]->label != PROTO_OPTIONAL ||
	    !map_key_good(f[0]->type) || f[1]->type == PROTO_GROUP)
		return refuse(p, m->file, m->full_name, "a map entry needs its key and value");
	return 0;
}

static int messages_link(struct parser *p)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < p->s->set.messages_n; i++) {
		struct proto_message *m = (struct proto_message *)(uintptr_t)p->by_id[i];

		rc = kinds_check(p, m->fields, m->fields_n, false);
		if (rc == 0)
			rc = kinds_check(p, m->extensions, m->extensions_n, true);
		if (rc == 0)
			rc = message_numbers(p, m);
		if (rc == 0)
			rc = message_oneofs(p, m);
		if (rc == 0)
			rc = message_map(p, m);
	}
	for (uint32_t i = 0; rc == 0 && i < p->s->set.files_n; i++)
		rc = kinds_check(p, p->s->set.files[i].extensions, p->s->set.files[i].extensions_n,
				 true);
	return rc;
}

/* --- Methods -------------------------------------------------------------------------------- */

static int method_type(struct parser *p, const struct pending_method *pending, const char *name,
		       const struct proto_message **out)
{
	const struct symbol *symbol = symbol_find(p, name, pending->service->file->package);

	if (symbol && symbol->kind == SYMBOL_MESSAGE) {
		*out = symbol->what;
		return 0;
	}
	if (p->finding)
		p->finding->steps =
			proto_method_path(pending->service, pending->index, p->finding->path);
	return refuse(p, pending->service->file, pending->method->full_name,
		      "its message %.160s is not there", name);
}

int parser_link(struct parser *p)
{
	int rc = symbols_make(p);

	if (rc == 0)
		rc = fields_link(p);
	if (rc == 0)
		rc = messages_link(p);
	for (const struct pending_method *m = p->methods; rc == 0 && m; m = m->next) {
		rc = method_type(p, m, m->input, &m->method->input);
		if (rc == 0)
			rc = method_type(p, m, m->output, &m->method->output);
	}
	return rc;
}

/* --- Finding -------------------------------------------------------------------------------- */

static const void *find(const struct proto_set *set, const char *name, enum symbol_kind kind)
{
	const struct owned_set *s = (const struct owned_set *)(const void *)set;
	const struct symbol *slot = symbol_slot(s, name, strlen(name));

	return slot->name && slot->kind == kind ? slot->what : NULL;
}

const struct proto_message *proto_message_find(const struct proto_set *set, const char *name)
{
	return find(set, name, SYMBOL_MESSAGE);
}

const struct proto_enum *proto_enum_find(const struct proto_set *set, const char *name)
{
	return find(set, name, SYMBOL_ENUM);
}

const struct proto_service *proto_service_find(const struct proto_set *set, const char *name)
{
	return find(set, name, SYMBOL_SERVICE);
}
