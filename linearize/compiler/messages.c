/* .pb-c.h: enums, structs, initialisers, helpers, in the form and with the names of protoc-c. */
#include "linearize/compiler/compiler_internal.h"
#include "linearize/compiler/messages.h"

#include <math.h>

const char *field_c_type(struct compiler *c, const struct proto_field *f)
{
	switch (f->type) {
	case PROTO_DOUBLE:
		return "double";
	case PROTO_FLOAT:
		return "float";
	case PROTO_INT64:
	case PROTO_SINT64:
	case PROTO_SFIXED64:
		return "int64_t";
	case PROTO_UINT64:
	case PROTO_FIXED64:
		return "uint64_t";
	case PROTO_INT32:
	case PROTO_SINT32:
	case PROTO_SFIXED32:
		return "int32_t";
	case PROTO_UINT32:
	case PROTO_FIXED32:
		return "uint32_t";
	case PROTO_BOOL:
		return "protobuf_c_boolean";
	case PROTO_STRING:
		return "char *";
	case PROTO_BYTES:
		return "ProtobufCBinaryData";
	case PROTO_ENUM:
		return name_class(c, f->enumeration->full_name);
	default:
		return str(c, "%s *", name_class(c, f->message->full_name));
	}
}

static const char *real_literal(struct compiler *c, double v, int digits, const char *suffix)
{
	const char *text;

	if (isnan(v))
		return "NAN";
	if (isinf(v))
		return v < 0 ? "-INFINITY" : "INFINITY";
	text = str(c, "%.*g", digits, v);
	return str(c, "%s%s%s", text, strpbrk(text, ".e") ? "" : ".0", suffix);
}

const char *int32_literal(struct compiler *c, int32_t v)
{
	return v == INT32_MIN ? "(-2147483647 - 1)" : str(c, "%d", v);
}

static const char *enum_literal(struct compiler *c, const struct proto_enum *e, int32_t number)
{
	for (uint32_t i = 0; i < e->values_n; i++)
		if (e->values[i].number == number)
			return str(c, "%s__%s", name_upper(c, e->full_name), e->values[i].name);
	return "0"; /* cannot be: a default is a value's */
}

const char *field_literal(struct compiler *c, const struct proto_field *f)
{
	uint64_t bits = f->default_number;
	double d;
	float s;

	switch (f->type) {
	case PROTO_DOUBLE:
		memcpy(&d, &bits, sizeof(d));
		return f->has_default ? real_literal(c, d, 17, "") : "0";
	case PROTO_FLOAT:
		memcpy(&s, &bits, sizeof(s));
		return f->has_default ? real_literal(c, (double)s, 9, "f") : "0";
	case PROTO_INT64:
	case PROTO_SINT64:
	case PROTO_SFIXED64:
		if ((int64_t)bits == INT64_MIN)
			return "(-9223372036854775807ll - 1)";
		return str(c, "%lld%s", (long long)bits, bits ? "ll" : "");
	case PROTO_UINT64:
	case PROTO_FIXED64:
		return str(c, "%llu%s", (unsigned long long)bits, bits ? "ull" : "");
	case PROTO_UINT32:
	case PROTO_FIXED32:
		return str(c, "%u%s", (uint32_t)bits, bits ? "u" : "");
	case PROTO_ENUM:
		return enum_literal(c, f->enumeration, (int32_t)bits);
	default:
		return int32_literal(c, (int32_t)bits);
	}
}

const char *default_name(struct compiler *c, const struct proto_field *f)
{
	return str(c, "%s__default_value", name_lower(c, f->full_name));
}

/* --- Enums ---------------------------------------------------------------------------------- */

static void enum_put(struct compiler *c, struct text *t, const struct proto_enum *e)
{
	const char *class = name_class(c, e->full_name), *up = name_upper(c, e->full_name);
	int32_t path[PROTO_PATH_MAX];
	uint32_t steps = proto_enum_path(e, path);

	comments_put(c, t, path, steps, "", e->deprecated ? "Deprecated.\n" : NULL);
	put(t, "typedef enum _$0 {\n", class);
	for (uint32_t i = 0; i < e->values_n; i++) {
		const struct proto_value *v = &e->values[i];

		steps = proto_value_path(e, i, path);
		comments_put(c, t, path, steps, "  ", v->deprecated ? "Deprecated.\n" : NULL);
		put(t, "  $0__$1 = $2$3\n", up, v->name, int32_literal(c, v->number),
		    i + 1 < e->values_n ? "," : "");
	}
	put(t, "  PROTOBUF_C__FORCE_ENUM_TO_BE_INT_SIZE($0)\n} $1;\n\n", up, class);
}

static void enums_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	for (uint32_t i = 0; i < m->messages_n; i++)
		enums_put(c, t, &m->messages[i]);
	for (uint32_t i = 0; i < m->enums_n; i++)
		enum_put(c, t, &m->enums[i]);
}

/* --- Structs -------------------------------------------------------------------------------- */

static void typedefs_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	put(t, "typedef struct _$0 $0;\n", name_class(c, m->full_name));
	for (uint32_t i = 0; i < m->messages_n; i++)
		typedefs_put(c, t, &m->messages[i]);
}

static const char *field_note(struct compiler *c, const struct proto_field *f)
{
	if (f->proto3_optional && f->type == PROTO_STRING)
		return str(c, "Optional: not set when it is NULL or protobuf_c_empty_string.\n");
	return NULL;
}

static void member_put(struct compiler *c, struct text *t, const struct proto_field *f,
		       const char *indent)
{
	const char *type = field_c_type(c, f), *name = name_field(c, f);
	const char *old = f->deprecated ? " PROTOBUF_C__DEPRECATED" : "";
	const char *space = type[strlen(type) - 1] == '*' ? "" : " ";
	int32_t path[PROTO_PATH_MAX];

	comments_put(c, t, path, proto_field_path(f, path), indent, field_note(c, f));
	if (f->label == PROTO_REPEATED) {
		put(t, "$0size_t n_$1$2;\n", indent, name, old);
		put(t, "$0$1$2*$3$4;\n", indent, type, space, name, old);
		return;
	}
	if (field_has_has(f))
		put(t, "$0protobuf_c_boolean has_$1$2;\n", indent, name, old);
	put(t, "$0$1$2$3$4;\n", indent, type, space, name, old);
}

static void oneof_case_put(struct compiler *c, struct text *t, const struct proto_oneof *o)
{
	const char *up = name_upper(c, o->full_name);

	put(t, "typedef enum {\n  $0__NOT_SET = 0", up);
	for (uint32_t i = 0; i < o->fields_n; i++)
		if (field_is_member(o->fields[i]))
			put(t, ",\n  $0_$1 = $2", up, name_upper(c, o->fields[i]->name),
			    str(c, "%u", o->fields[i]->number));
	put(t, "\n  PROTOBUF_C__FORCE_ENUM_TO_BE_INT_SIZE($0)\n} $1Case;\n\n", up,
	    name_class(c, o->full_name));
}

static bool oneof_is_empty(const struct proto_oneof *o)
{
	for (uint32_t i = 0; i < o->fields_n; i++)
		if (field_is_member(o->fields[i]))
			return false;
	return true;
}

static void oneof_put(struct compiler *c, struct text *t, const struct proto_message *m,
		      const struct proto_oneof *o)
{
	int32_t path[PROTO_PATH_MAX];

	comments_put(c, t, path, proto_oneof_path(m, o, path), "  ", NULL);
	put(t, "  $0Case $1_case;\n", name_class(c, o->full_name), name_oneof(c, o));
	if (oneof_is_empty(o))
		return; /* of groups only */
	put(t, "  union {\n");
	for (uint32_t i = 0; i < o->fields_n; i++)
		if (field_is_member(o->fields[i]))
			member_put(c, t, o->fields[i], "    ");
	put(t, "  };\n");
}

static const char *field_init(struct compiler *c, const struct proto_field *f)
{
	if (f->label == PROTO_REPEATED)
		return "0,NULL";
	switch (f->type) {
	case PROTO_STRING:
		if (f->has_default)
			return default_name(c, f);
		return f->file->syntax == 3 ? "(char *)protobuf_c_empty_string" : "NULL";
	case PROTO_MESSAGE:
		return "NULL";
	case PROTO_BYTES:
		return str(c, "%s%s", field_has_has(f) ? "0, " : "",
			   f->has_default ? str(c, "{ %zu, %s_data }", f->default_bytes.len,
						default_name(c, f))
					  : "{0,NULL}");
	default:
		return str(c, "%s%s", field_has_has(f) ? "0, " : "", field_literal(c, f));
	}
}

/* The union is zeroed through its first member, whatever that is; C++ takes no 0 for an enum. */
static const char *union_init(struct compiler *c, const struct proto_oneof *o)
{
	for (uint32_t i = 0; i < o->fields_n; i++) {
		const struct proto_field *f = o->fields[i];

		if (!field_is_member(f))
			continue;
		return f->type == PROTO_ENUM
			       ? str(c, "{(%s)0}", name_class(c, f->enumeration->full_name))
			       : "{0}";
	}
	return NULL;
}

static void init_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	put(t, "#define $0__INIT \\\n { PROTOBUF_C_MESSAGE_INIT (&$1__descriptor) \\\n    ",
	    name_upper(c, m->full_name), name_lower(c, m->full_name));
	for (uint32_t i = 0; i < m->fields_n; i++)
		if (field_is_member(&m->fields[i]) && !field_in_union(&m->fields[i]))
			put(t, ", $0", field_init(c, &m->fields[i]));
	for (uint32_t i = 0; i < m->oneofs_n; i++) {
		const struct proto_oneof *o = &m->oneofs[i];
		const char *init;

		if (o->synthetic)
			continue;
		put(t, ", $0__NOT_SET", name_upper(c, o->full_name));
		init = union_init(c, o);
		if (init)
			put(t, ", $0", init);
	}
	put(t, " }\n\n\n");
}

static const char *message_note(struct compiler *c, const struct proto_message *m)
{
	const char *note = m->deprecated ? "Deprecated.\n" : "";

	for (uint32_t i = 0; i < m->fields_n; i++)
		if (m->fields[i].type == PROTO_GROUP)
			note = str(c,
				   "%sGroup %s = %u has no member: it is kept with the unknown "
				   "fields.\n",
				   note, m->fields[i].name, m->fields[i].number);
	if (m->extension_ranges_n > 0)
		note = str(c, "%sExtensions are kept with the unknown fields.\n", note);
	return *note ? note : NULL;
}

static void struct_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	int32_t path[PROTO_PATH_MAX];

	for (uint32_t i = 0; i < m->messages_n; i++)
		struct_put(c, t, &m->messages[i]);
	for (uint32_t i = 0; i < m->oneofs_n; i++)
		if (!m->oneofs[i].synthetic)
			oneof_case_put(c, t, &m->oneofs[i]);
	comments_put(c, t, path, proto_message_path(m, path), "", message_note(c, m));
	put(t, "struct _$0\n{\n  ProtobufCMessage base;\n", name_class(c, m->full_name));
	for (uint32_t i = 0; i < m->fields_n; i++)
		if (field_is_member(&m->fields[i]) && !field_in_union(&m->fields[i]))
			member_put(c, t, &m->fields[i], "  ");
	for (uint32_t i = 0; i < m->oneofs_n; i++)
		if (!m->oneofs[i].synthetic)
			oneof_put(c, t, m, &m->oneofs[i]);
	put(t, "};\n");
	for (uint32_t i = 0; i < m->fields_n; i++) {
		const struct proto_field *f = &m->fields[i];

		if (!f->has_default)
			continue;
		if (f->type == PROTO_STRING)
			put(t, "extern char $0[];\n", default_name(c, f));
		else if (f->type == PROTO_BYTES)
			put(t, "extern uint8_t $0_data[];\n", default_name(c, f));
	}
	init_put(c, t, m);
}

/* --- Helpers -------------------------------------------------------------------------------- */

static void helpers_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	const char *class = name_class(c, m->full_name), *low = name_lower(c, m->full_name);

	for (uint32_t i = 0; i < m->messages_n; i++)
		helpers_put(c, t, &m->messages[i]);
	put(t,
	    "/* $0 methods */\n"
	    "void   $1__init\n"
	    "                     ($0         *message);\n",
	    class, low);
	if (m->parent)
		return;
	put(t,
	    "size_t $1__get_packed_size\n"
	    "                     (const $0   *message);\n"
	    "size_t $1__pack\n"
	    "                     (const $0   *message,\n"
	    "                      uint8_t             *out);\n"
	    "size_t $1__pack_to_buffer\n"
	    "                     (const $0   *message,\n"
	    "                      ProtobufCBuffer     *buffer);\n"
	    "$0 *\n"
	    "       $1__unpack\n"
	    "                     (ProtobufCAllocator  *allocator,\n"
	    "                      size_t               len,\n"
	    "                      const uint8_t       *data);\n"
	    "void   $1__free_unpacked\n"
	    "                     ($0 *message,\n"
	    "                      ProtobufCAllocator *allocator);\n",
	    class, low);
}

static void closures_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	for (uint32_t i = 0; i < m->messages_n; i++)
		closures_put(c, t, &m->messages[i]);
	put(t,
	    "typedef void (*$0_Closure)\n"
	    "                 (const $0 *message,\n"
	    "                  void *closure_data);\n",
	    name_class(c, m->full_name));
}

static void descriptors_put(struct compiler *c, struct text *t, const struct proto_message *m)
{
	put(t, "extern const ProtobufCMessageDescriptor $0__descriptor;\n",
	    name_lower(c, m->full_name));
	for (uint32_t i = 0; i < m->messages_n; i++)
		descriptors_put(c, t, &m->messages[i]);
	for (uint32_t i = 0; i < m->enums_n; i++)
		put(t, "extern const ProtobufCEnumDescriptor    $0__descriptor;\n",
		    name_lower(c, m->enums[i].full_name));
}

/* --- Includes ------------------------------------------------------------------------------- */

static bool message_uses(const struct proto_message *m, const struct proto_file *file)
{
	for (uint32_t i = 0; i < m->fields_n; i++) {
		const struct proto_field *f = &m->fields[i];

		if (field_is_member(f) && ((f->message && f->message->file == file) ||
					   (f->enumeration && f->enumeration->file == file)))
			return true;
	}
	for (uint32_t i = 0; i < m->messages_n; i++)
		if (message_uses(&m->messages[i], file))
			return true;
	return false;
}

static bool file_uses(const struct proto_file *f, const struct proto_file *other)
{
	for (uint32_t i = 0; i < f->messages_n; i++)
		if (message_uses(&f->messages[i], other))
			return true;
	for (uint32_t i = 0; i < f->services_n; i++)
		for (uint32_t k = 0; k < f->services[i].methods_n; k++)
			if (f->services[i].methods[k].input->file == other ||
			    f->services[i].methods[k].output->file == other)
				return true;
	return false;
}

static bool extends_options(const struct proto_field *extensions, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (strcmp(extensions[i].extendee->file->name,
			   "google/protobuf/descriptor.proto") == 0)
			return true;
	return false;
}

/* A file that is imported for the sake of options has no header that anybody would have: protoc-c's
 * for descriptor.proto is shipped by nobody. It is left out unless a type of it is used. */
bool import_is_included(const struct proto_file *f, const struct proto_file *import)
{
	if (file_uses(f, import))
		return true;
	return strcmp(import->name, "google/protobuf/descriptor.proto") != 0 &&
	       !extends_options(import->extensions, import->extensions_n);
}

static bool message_needs_math(const struct proto_message *m)
{
	for (uint32_t i = 0; i < m->fields_n; i++) {
		const struct proto_field *f = &m->fields[i];
		double d;
		float s;

		memcpy(&d, &f->default_number, sizeof(d));
		memcpy(&s, &f->default_number, sizeof(s));
		if (f->has_default && ((f->type == PROTO_DOUBLE && !isfinite(d)) ||
				       (f->type == PROTO_FLOAT && !isfinite(s))))
			return true;
	}
	for (uint32_t i = 0; i < m->messages_n; i++)
		if (message_needs_math(&m->messages[i]))
			return true;
	return false;
}

static void includes_put(struct compiler *c, struct text *t)
{
	const struct proto_file *f = c->file;
	bool math = false;

	for (uint32_t i = 0; i < f->messages_n; i++)
		math = math || message_needs_math(&f->messages[i]);
	if (math)
		put(t, "#include <math.h>\n");
	put(t, "#include <protobuf-c/protobuf-c.h>\n\n"
	       "PROTOBUF_C__BEGIN_DECLS\n\n"
	       "#if PROTOBUF_C_VERSION_NUMBER < 1003000\n"
	       "# error This file needs protobuf-c 1.3 or newer.\n"
	       "#endif\n\n");
	for (uint32_t i = 0; i < f->dependencies_n; i++)
		if (import_is_included(f, f->dependencies[i]))
			put(t, "#include \"$0.pb-c.h\"\n", name_stem(c, f->dependencies[i]));
	put(t, "\n");
}

void messages_header(struct compiler *c, struct text *t)
{
	const struct proto_file *f = c->file;
	const char *guard = name_guard(c, f->name);
	static const int32_t syntax_path[] = {12}, package_path[] = {2};

	put(t, "/* Generated by protoc-gen-split. DO NOT EDIT! */\n");
	put(t, "/* Generated from: $0 */\n\n", file_name_for_comment(c, f));
	comments_put(c, t, syntax_path, 1, "", NULL);
	comments_put(c, t, package_path, 1, "", f->deprecated ? "Deprecated.\n" : NULL);
	put(t, "#ifndef PROTOBUF_C_$0__INCLUDED\n#define PROTOBUF_C_$0__INCLUDED\n\n", guard);
	includes_put(c, t);
	for (uint32_t i = 0; i < f->messages_n; i++)
		typedefs_put(c, t, &f->messages[i]);
	put(t, "\n\n/* --- enums --- */\n\n");
	for (uint32_t i = 0; i < f->messages_n; i++)
		enums_put(c, t, &f->messages[i]);
	for (uint32_t i = 0; i < f->enums_n; i++)
		enum_put(c, t, &f->enums[i]);
	put(t, "\n/* --- messages --- */\n\n");
	for (uint32_t i = 0; i < f->messages_n; i++)
		struct_put(c, t, &f->messages[i]);
	for (uint32_t i = 0; i < f->messages_n; i++)
		helpers_put(c, t, &f->messages[i]);
	put(t, "/* --- per-message closures --- */\n\n");
	for (uint32_t i = 0; i < f->messages_n; i++)
		closures_put(c, t, &f->messages[i]);
	put(t, "\n/* --- services --- */\n\n");
	for (uint32_t i = 0; i < f->services_n; i++)
		service_header(c, t, &f->services[i]);
	put(t, "\n/* --- descriptors --- */\n\n");
	for (uint32_t i = 0; i < f->enums_n; i++)
		put(t, "extern const ProtobufCEnumDescriptor    $0__descriptor;\n",
		    name_lower(c, f->enums[i].full_name));
	for (uint32_t i = 0; i < f->messages_n; i++)
		descriptors_put(c, t, &f->messages[i]);
	for (uint32_t i = 0; i < f->services_n; i++)
		put(t, "extern const ProtobufCServiceDescriptor $0__descriptor;\n",
		    name_lower(c, f->services[i].full_name));
	put(t, "\nPROTOBUF_C__END_DECLS\n\n\n#endif  /* PROTOBUF_C_$0__INCLUDED */\n", guard);
}
