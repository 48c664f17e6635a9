/* Names as protoc-c makes them, and that no two things get the same one. */
#include "linearize/compiler/compiler_internal.h"

#include <ctype.h>
#include <stdlib.h>

/* Keywords of C up to C23, of C++ up to C++20, and of both compilers' GNU modes, that a name in
 * lower case can be. protoc-c knows C++98's only: the others are C names to it that C++ refuses. */
static const char *const keywords[] = {
	"alignas",      "alignof",
	"and",          "and_eq",
	"asm",          "assert",
	"auto",         "bitand",
	"bitor",        "bool",
	"break",        "case",
	"catch",        "char",
	"char16_t",     "char32_t",
	"char8_t",      "class",
	"co_await",     "co_return",
	"co_yield",     "compl",
	"concept",      "const",
	"const_cast",   "consteval",
	"constexpr",    "constinit",
	"continue",     "decltype",
	"default",      "delete",
	"do",           "double",
	"dynamic_cast", "else",
	"enum",         "explicit",
	"export",       "extern",
	"false",        "float",
	"for",          "friend",
	"goto",         "i386",
	"if",           "inline",
	"int",          "linux",
	"long",         "mutable",
	"namespace",    "new",
	"noexcept",     "not",
	"not_eq",       "nullptr",
	"operator",     "or",
	"or_eq",        "private",
	"protected",    "public",
	"register",     "reinterpret_cast",
	"requires",     "restrict",
	"return",       "short",
	"signed",       "sizeof",
	"static",       "static_assert",
	"static_cast",  "struct",
	"switch",       "template",
	"this",         "thread_local",
	"throw",        "true",
	"try",          "typedef",
	"typeid",       "typename",
	"typeof",       "typeof_unqual",
	"union",        "unix",
	"unsigned",     "using",
	"virtual",      "void",
	"volatile",     "wchar_t",
	"while",        "xor",
	"xor_eq",
};

static bool is_keyword(const char *name)
{
	for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
		if (strcmp(keywords[i], name) == 0)
			return true;
	return false;
}

/* --- Making them ---------------------------------------------------------------------------- */

static bool is_upper(char ch)
{
	return ch >= 'A' && ch <= 'Z';
}

static char upper(char ch)
{
	return ch >= 'a' && ch <= 'z' ? (char)(ch - 'a' + 'A') : ch;
}

static char lower(char ch)
{
	return is_upper(ch) ? (char)(ch - 'A' + 'a') : ch;
}

/* Dots become `__`; within a piece a `_` goes before an upper case letter that follows another
 * character which is none. */
static const char *snake(struct compiler *c, const char *name, bool to_upper)
{
	char *s = scratch_get(c, strlen(name) * 2 + 1), *to = s;
	bool was_upper = true;

	if (!s)
		return "";
	for (; *name; name++) {
		if (*name == '.') {
			*to++ = '_';
			*to++ = '_';
			was_upper = true;
			continue;
		}
		if (is_upper(*name) && !was_upper)
			*to++ = '_';
		*to++ = to_upper ? upper(*name) : lower(*name);
		was_upper = is_upper(*name);
	}
	return s;
}

const char *name_lower(struct compiler *c, const char *full_name)
{
	return snake(c, full_name, false);
}

const char *name_upper(struct compiler *c, const char *full_name)
{
	return snake(c, full_name, true);
}

const char *name_class(struct compiler *c, const char *full_name)
{
	char *s = scratch_get(c, strlen(full_name) * 2 + 1), *to = s;
	bool next_upper = true;

	if (!s)
		return "";
	for (; *full_name; full_name++) {
		if (*full_name == '.') {
			*to++ = '_';
			*to++ = '_';
			next_upper = true;
		} else if (*full_name == '_') {
			next_upper = true;
		} else {
			*to++ = next_upper ? upper(*full_name) : *full_name;
			next_upper = false;
		}
	}
	return s;
}

const char *name_camel(struct compiler *c, const char *name)
{
	return name_class(c, name);
}

static const char *lower_case(struct compiler *c, const char *name)
{
	char *s = scratch_get(c, strlen(name) + 1);

	if (!s)
		return "";
	for (size_t i = 0; name[i]; i++)
		s[i] = lower(name[i]);
	return s;
}

const char *name_field(struct compiler *c, const struct proto_field *f)
{
	const char *name = lower_case(c, f->name);

	return is_keyword(name) || strcmp(name, "base") == 0 ? str(c, "%s_", name) : name;
}

const char *name_oneof(struct compiler *c, const struct proto_oneof *o)
{
	return name_lower(c, o->name);
}

const char *name_method(struct compiler *c, const struct proto_method *m)
{
	static const char *const taken[] = {"base",
					    "init",
					    "descriptor",
					    "serve",
					    "method_descriptors",
					    "method_indices_by_name"};
	const char *name = name_lower(c, m->name);

	for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
		if (strcmp(name, taken[i]) == 0)
			return str(c, "%s_", name);
	return is_keyword(name) ? str(c, "%s_", name) : name;
}

const char *name_stem(struct compiler *c, const struct proto_file *f)
{
	size_t len = strlen(f->name);

	if (len > 6 && strcmp(f->name + len - 6, ".proto") == 0)
		len -= 6;
	else if (len > 11 && strcmp(f->name + len - 11, ".protodevel") == 0)
		len -= 11;
	return str(c, "%.*s", (int)len, f->name);
}

const char *name_guard(struct compiler *c, const char *file_name)
{
	char *s = scratch_get(c, strlen(file_name) * 3 + 1), *to = s;

	if (!s)
		return "";
	for (; *file_name; file_name++) {
		if (isalnum((unsigned char)*file_name))
			*to++ = *file_name;
		else
			to += sprintf(to, "_%02x", (unsigned char)*file_name);
	}
	return s;
}

/* --- Comparing them ------------------------------------------------------------------------- */

struct clash {
	const char *scope, *name, *what;
	const struct proto_file *file;
	const int32_t *path;
	uint32_t steps;
	uint32_t order;
};

void name_claim(struct compiler *c, const char *scope, const char *name,
		const struct proto_file *file, const int32_t *path, uint32_t steps,
		const char *what)
{
	int32_t *copy;

	if (c->clashes_n == c->clashes_room) {
		size_t room = c->clashes_room ? c->clashes_room * 2 : 1024;
		struct clash *grown = realloc(c->clashes, room * sizeof(*grown));

		if (!grown) {
			c->nomem = true;
			return;
		}
		c->clashes = grown;
		c->clashes_room = room;
	}
	copy = scratch_get(c, steps * sizeof(*copy));
	if (!copy)
		return;
	memcpy(copy, path, steps * sizeof(*copy));
	c->clashes[c->clashes_n] = (struct clash){.scope = scope,
						  .name = name,
						  .what = what,
						  .file = file,
						  .path = copy,
						  .steps = steps,
						  .order = (uint32_t)c->clashes_n};
	c->clashes_n++;
}

static int clash_order(const void *a, const void *b)
{
	const struct clash *x = a, *y = b;
	int order = strcmp(x->scope, y->scope);

	if (order == 0)
		order = strcmp(x->name, y->name);
	return order ? order : (x->order > y->order) - (x->order < y->order);
}

void names_check(struct compiler *c)
{
	if (c->clashes_n == 0)
		return;
	qsort(c->clashes, c->clashes_n, sizeof(*c->clashes), clash_order);
	for (size_t i = 1; i < c->clashes_n && !failed(c); i++) {
		const struct clash *a = &c->clashes[i - 1], *b = &c->clashes[i];
		uint32_t line = 0, column;

		if (strcmp(a->scope, b->scope) != 0 || strcmp(a->name, b->name) != 0)
			continue;
		source_place(a->file, a->path, a->steps, &line, &column);
		compiler_fail(c, b->file, b->path, b->steps,
			      "%s and %s (%s:%u) would both be called %s in C; rename one", b->what,
			      a->what, a->file->name, line, b->name);
	}
}

static void claim_enum(struct compiler *c, const struct proto_enum *e)
{
	int32_t path[PROTO_PATH_MAX];
	uint32_t steps = proto_enum_path(e, path);
	const char *what = str(c, "enum %s", e->full_name);
	const char *prefix = name_upper(c, e->full_name);

	name_claim(c, "", name_class(c, e->full_name), e->file, path, steps, what);
	name_claim(c, "", str(c, "%s__descriptor", name_lower(c, e->full_name)), e->file, path,
		   steps, what);
	for (uint32_t i = 0; i < e->values_n; i++) {
		steps = proto_value_path(e, i, path);
		name_claim(c, "", str(c, "%s__%s", prefix, e->values[i].name), e->file, path, steps,
			   str(c, "value %s of enum %s", e->values[i].name, e->full_name));
	}
}

static void claim_field(struct compiler *c, const struct proto_field *f)
{
	int32_t path[PROTO_PATH_MAX];
	uint32_t steps = proto_field_path(f, path);
	const char *scope = str(c, "struct %s", f->parent->full_name), *name = name_field(c, f);
	const char *what = str(c, "field %s", f->full_name);

	if (!field_is_member(f))
		return;
	name_claim(c, scope, name, f->file, path, steps, what);
	if (f->label == PROTO_REPEATED)
		name_claim(c, scope, str(c, "n_%s", name), f->file, path, steps, what);
	if (field_has_has(f))
		name_claim(c, scope, str(c, "has_%s", name), f->file, path, steps, what);
	if (f->has_default)
		name_claim(c, "", str(c, "%s__default_value", name_lower(c, f->full_name)), f->file,
			   path, steps, what);
}

static void claim_oneof(struct compiler *c, const struct proto_message *m,
			const struct proto_oneof *o)
{
	int32_t path[PROTO_PATH_MAX];
	uint32_t steps = proto_oneof_path(m, o, path);
	const char *prefix = name_upper(c, o->full_name);
	const char *what = str(c, "oneof %s", o->full_name);

	if (o->synthetic)
		return;
	name_claim(c, str(c, "struct %s", m->full_name), str(c, "%s_case", name_oneof(c, o)),
		   m->file, path, steps, what);
	name_claim(c, "", str(c, "%sCase", name_class(c, o->full_name)), m->file, path, steps,
		   what);
	name_claim(c, "", str(c, "%s__NOT_SET", prefix), m->file, path, steps, what);
	for (uint32_t i = 0; i < o->fields_n; i++)
		name_claim(c, "", str(c, "%s_%s", prefix, name_upper(c, o->fields[i]->name)),
			   m->file, path, steps, str(c, "a member of oneof %s", o->full_name));
}

static void claim_message(struct compiler *c, const struct proto_message *m)
{
	static const char *const functions[] = {
		"init",   "get_packed_size", "pack",      "pack_to_buffer",
		"unpack", "free_unpacked",   "descriptor"};
	int32_t path[PROTO_PATH_MAX];
	uint32_t steps = proto_message_path(m, path);
	const char *what = str(c, "message %s", m->full_name);
	const char *class = name_class(c, m->full_name), *low = name_lower(c, m->full_name);

	name_claim(c, "", class, m->file, path, steps, what);
	name_claim(c, "", str(c, "%s_Closure", class), m->file, path, steps, what);
	name_claim(c, "", str(c, "%s__INIT", name_upper(c, m->full_name)), m->file, path, steps,
		   what);
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		name_claim(c, "", str(c, "%s__%s", low, functions[i]), m->file, path, steps, what);
	for (uint32_t i = 0; i < m->fields_n; i++)
		claim_field(c, &m->fields[i]);
	for (uint32_t i = 0; i < m->oneofs_n; i++)
		claim_oneof(c, m, &m->oneofs[i]);
	for (uint32_t i = 0; i < m->enums_n; i++)
		claim_enum(c, &m->enums[i]);
	for (uint32_t i = 0; i < m->messages_n; i++)
		claim_message(c, &m->messages[i]);
}

static void claim_service(struct compiler *c, const struct proto_service *s)
{
	int32_t path[PROTO_PATH_MAX];
	uint32_t steps = proto_service_path(s, path);
	const char *what = str(c, "service %s", s->full_name);
	const char *class = name_class(c, s->full_name), *low = name_lower(c, s->full_name);
	const char *scope = str(c, "service %s", s->full_name);

	name_claim(c, "", str(c, "%s_Service", class), s->file, path, steps, what);
	name_claim(c, "", str(c, "%s_ServiceDestroy", class), s->file, path, steps, what);
	name_claim(c, "", str(c, "%s_Handlers", class), s->file, path, steps, what);
	name_claim(c, "", str(c, "%s__init", low), s->file, path, steps, what);
	name_claim(c, "", str(c, "%s__serve", low), s->file, path, steps, what);
	name_claim(c, "", str(c, "%s__descriptor", low), s->file, path, steps, what);
	for (uint32_t i = 0; i < s->methods_n; i++) {
		const char *name = name_method(c, &s->methods[i]);

		steps = proto_method_path(s, i, path);
		what = str(c, "method %s", s->methods[i].full_name);
		name_claim(c, scope, name, s->file, path, steps, what);
		name_claim(c, "", str(c, "%s__%s", low, name), s->file, path, steps, what);
	}
}

void names_claim_file(struct compiler *c, const struct proto_file *f)
{
	for (uint32_t i = 0; i < f->messages_n; i++)
		claim_message(c, &f->messages[i]);
	for (uint32_t i = 0; i < f->enums_n; i++)
		claim_enum(c, &f->enums[i]);
	for (uint32_t i = 0; i < f->services_n; i++)
		claim_service(c, &f->services[i]);
}
