/* The walk over a message, and all values but the well-known types. */
#include "linearize/json/json_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define VALUES_MAX (1u << 20)
#define TEXT_MAX   ((size_t)64 << 20)

typedef uint32_t word32 __attribute__((aligned(1), may_alias));
typedef uint64_t word64 __attribute__((aligned(1), may_alias));

/* volatile: the host may write there meanwhile, so a word is loaded once. */
static uint64_t load(const uint8_t *p, unsigned bytes)
{
	if (bytes == 4)
		return *(const volatile word32 *)(const void *)p;
	return *(const volatile word64 *)(const void *)p;
}

json_t *view_fail(struct view *v, int error)
{
	if (v->error == 0)
		v->error = -error;
	return NULL;
}

static json_t *view_made(struct view *v, json_t *value)
{
	return value ? value : view_fail(v, SPLIT_E_BASE_NOMEM);
}

static bool take_value(struct view *v)
{
	if (v->values_left == 0) {
		(void)view_fail(v, SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
		return false;
	}
	v->values_left--;
	return true;
}

static bool take_text(struct view *v, size_t bytes)
{
	if (bytes > v->text_left) {
		(void)view_fail(v, SPLIT_E_LINEARIZE_LIMIT_LINEAR);
		return false;
	}
	v->text_left -= bytes;
	return true;
}

/* Of `len` bytes of text, so many as are left: all, or with options->partial the beginning. What
 * was cut ends the view. */
static bool cut_text(struct view *v, size_t *len, size_t unit)
{
	if (!v->path || *len <= v->text_left || v->error != 0)
		return take_text(v, *len);
	*len = v->text_left / unit * unit;
	v->text_left = 0;
	(void)view_fail(v, SPLIT_E_LINEARIZE_LIMIT_LINEAR);
	return true;
}

json_t *view_kept(struct view *v, json_t *container)
{
	if (v->error == 0 || (v->path && v->error != -SPLIT_E_BASE_NOMEM))
		return container;
	json_decref(container);
	return NULL;
}

/* --- The path to where a partial view stops ---------------------------------------------- */

static size_t path_enter(struct view *v, struct text name)
{
	size_t mark = v->path_n;

	if (v->path && v->error == 0) {
		size_t room = JSON_PATH_MAX - 1 - v->path_n;
		int n = snprintf(v->path + mark, room, "%s%.*s", mark > 0 ? "." : "", (int)name.len,
				 name.at);

		v->path_n += n > 0 && (size_t)n < room ? (size_t)n : 0;
	}
	return mark;
}

static size_t path_enter_element(struct view *v, uint64_t i)
{
	size_t mark = v->path_n;

	if (v->path && v->error == 0) {
		size_t room = JSON_PATH_MAX - 1 - v->path_n;
		int n = snprintf(v->path + mark, room, "[%" PRIu64 "]", i);

		v->path_n += n > 0 && (size_t)n < room ? (size_t)n : 0;
	}
	return mark;
}

static void path_leave(struct view *v, size_t mark)
{
	if (v->path && v->error == 0) {
		v->path_n = mark;
		v->path[mark] = '\0';
	}
}

/* --- Memory ------------------------------------------------------------------------------ */

const uint8_t *view_at(struct view *v, uint64_t address, uint64_t bytes)
{
	uint64_t offset = address - v->source.peer_base;

	if (address < v->source.peer_base || offset > v->source.bytes ||
	    bytes > v->source.bytes - offset) {
		(void)view_fail(v, SPLIT_E_LINEARIZE_POINTER);
		return NULL;
	}
	return v->source.mem + offset;
}

static bool object_at(struct view *v, const struct schema_message *m, uint64_t address,
		      struct object *out)
{
	out->m = m;
	out->at = view_at(v, address, schema_message_bytes(m));
	return out->at != NULL;
}

bool view_field(const struct schema_message *m, uint32_t number, ProtobufCType type, bool repeated,
		struct schema_field_view *out)
{
	uint32_t i;

	for (i = 0; i < schema_field_count(m); i++) {
		schema_field_at(m, i, out);
		if (out->number == number)
			return out->type == type &&
			       (out->presence == SCHEMA_PRESENCE_REPEATED) == repeated;
	}
	return false;
}

uint64_t view_bits(const struct object *o, const struct schema_field_view *f)
{
	return load(o->at + f->offset, f->bytes == 4 ? 4 : 8);
}

/* The string at the peer's address: the default, the empty string, or bytes up to a NUL. */
static bool string_at(struct view *v, const struct schema_message *m,
		      const struct schema_field_view *f, uint64_t address, struct text *out)
{
	const uint8_t *p;
	size_t room, most = v->text_left == SIZE_MAX ? SIZE_MAX : v->text_left + 1;

	*out = (struct text){"", 0};
	if (address == 0 || address == schema_empty_string(m))
		return true;
	if (f->default_address && address == f->default_address) {
		*out = (struct text){(const char *)f->default_data, f->default_bytes};
		return true;
	}
	p = view_at(v, address, 1);
	if (!p)
		return false;
	room = v->source.bytes - (size_t)(p - v->source.mem);
	out->at = (const char *)p;
	/* No further than what can be shown: the source may be a whole segment. */
	out->len = strnlen((const char *)p, room < most ? room : most);
	if (out->len == room) {
		(void)view_fail(v, SPLIT_E_LINEARIZE_POINTER);
		return false;
	}
	return true;
}

static bool bytes_at(struct view *v, const struct schema_field_view *f, const uint8_t *member,
		     struct text *out)
{
	uint64_t len = load(member, 8), address = load(member + 8, 8);
	const uint8_t *p;

	*out = (struct text){"", 0};
	if (len == 0)
		return true;
	if (f->default_address && address == f->default_address && len == f->default_bytes) {
		*out = (struct text){(const char *)f->default_data, f->default_bytes};
		return true;
	}
	p = view_at(v, address, len);
	if (!p)
		return false;
	*out = (struct text){(const char *)p, len};
	return true;
}

bool view_text(struct view *v, const struct object *o, const struct schema_field_view *f,
	       struct text *out)
{
	return string_at(v, o->m, f, view_bits(o, f), out);
}

bool view_bytes(struct view *v, const struct object *o, const struct schema_field_view *f,
		struct text *out)
{
	return bytes_at(v, f, o->at + f->offset, out);
}

bool view_child(struct view *v, const struct object *o, const struct schema_field_view *f,
		struct object *out)
{
	uint64_t address = view_bits(o, f);

	*out = (struct object){f->message, NULL};
	return address == 0 || object_at(v, f->message, address, out);
}

bool view_is_there(const struct object *o, const struct schema_field_view *f)
{
	switch (f->presence) {
	case SCHEMA_PRESENCE_REQUIRED:
		return true;
	case SCHEMA_PRESENCE_HAS:
		return load(o->at + f->quantifier, 4) != 0;
	case SCHEMA_PRESENCE_ONEOF:
		return load(o->at + f->quantifier, 4) == f->number;
	case SCHEMA_PRESENCE_POINTER: {
		uint64_t address = view_bits(o, f);

		return address != 0 && (f->default_address == 0 || address != f->default_address);
	}
	case SCHEMA_PRESENCE_REPEATED:
		return load(o->at + f->quantifier, 8) != 0;
	default:
		/* proto3: a string's first byte and what is zero are looked at with the value. */
		return f->type == PROTOBUF_C_TYPE_STRING || view_bits(o, f) != 0;
	}
}

bool view_array(struct view *v, const struct object *o, const struct schema_field_view *f,
		uint64_t *count_out, const uint8_t **array_out)
{
	uint64_t count = load(o->at + f->quantifier, 8), address = load(o->at + f->offset, 8);

	*count_out = count;
	*array_out = NULL;
	if (count == 0)
		return true;
	if (address == 0 || count > v->source.bytes / f->bytes) {
		(void)view_fail(v, SPLIT_E_LINEARIZE_SOURCE);
		return false;
	}
	*array_out = view_at(v, address, count * f->bytes);
	return *array_out != NULL;
}

bool view_element(struct view *v, const struct schema_field_view *f, const uint8_t *array,
		  uint64_t i, struct object *out)
{
	return object_at(v, f->message, load(array + i * 8, 8), out);
}

/* --- Values ------------------------------------------------------------------------------ */

/* Length of the UTF-8 character at p, 0 if there is none. RFC 3629. */
static unsigned utf8_length(const uint8_t *p, size_t left)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	unsigned n = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4, i;
	uint32_t c = n == 1 ? *p : *p & (0x7fu >> n);

	if (n == 0 || n > left || *p > 0xf4)
		return 0;
	for (i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (n > 1 && (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)))
		return 0;
	return n;
}

/* A private copy is made and mended: the source may change while it is looked at, and jansson takes
 * UTF-8 only. */
json_t *view_string(struct view *v, struct text text)
{
	static const uint8_t replacement[3] = {0xef, 0xbf, 0xbd}; /* U+FFFD */
	size_t i = 0, n = 0;
	uint8_t *copy, *mended;
	json_t *value;

	if (!take_value(v) || !cut_text(v, &text.len, 1))
		return NULL;
	copy = malloc(4 * text.len + 1);
	if (!copy)
		return view_fail(v, SPLIT_E_BASE_NOMEM);
	mended = copy + text.len;
	memcpy(copy, text.at, text.len);
	while (i < text.len) {
		unsigned len = utf8_length(copy + i, text.len - i);

		if (len == 0) {
			memcpy(mended + n, replacement, 3);
			n += 3;
			i++;
			continue;
		}
		memcpy(mended + n, copy + i, len);
		n += len;
		i += len;
	}
	value = json_stringn((const char *)mended, n);
	free(copy);
	return view_made(v, value);
}

json_t *view_base64(struct view *v, struct text bytes)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len = (bytes.len + 2) / 3 * 4, i, n = 0;
	json_t *value;
	char *to;

	if (!take_value(v) || !cut_text(v, &len, 4))
		return NULL;
	if (bytes.len > len / 4 * 3)
		bytes.len = len / 4 * 3;
	to = malloc(len + 1);
	if (!to)
		return view_fail(v, SPLIT_E_BASE_NOMEM);
	for (i = 0; i < bytes.len; i += 3) {
		uint8_t three[3] = {0};
		size_t left = bytes.len - i < 3 ? bytes.len - i : 3;
		uint32_t bits;

		memcpy(three, bytes.at + i, left);
		bits = (uint32_t)three[0] << 16 | (uint32_t)three[1] << 8 | three[2];
		to[n++] = digits[bits >> 18];
		to[n++] = digits[bits >> 12 & 63];
		to[n++] = left > 1 ? digits[bits >> 6 & 63] : '=';
		to[n++] = left > 2 ? digits[bits & 63] : '=';
	}
	value = json_stringn(to, n);
	free(to);
	return view_made(v, value);
}

json_t *view_double(struct view *v, double d)
{
	if (!take_value(v))
		return NULL;
	if (isnan(d))
		return view_made(v, json_string("NaN"));
	if (isinf(d))
		return view_made(v, json_string(d > 0 ? "Infinity" : "-Infinity"));
	return view_made(v, json_real(d));
}

/* The shortest decimal that is this float again, as a double: 0.1f is shown as 0.1. */
static double float_shortest(float f)
{
	char text[32];
	int digits;

	for (digits = 6; digits <= 9; digits++) {
		(void)snprintf(text, sizeof(text), "%.*g", digits, (double)f);
		if (strtof(text, NULL) == f)
			break;
	}
	return isfinite(f) ? strtod(text, NULL) : (double)f;
}

static json_t *view_int64(struct view *v, const char *format, uint64_t bits)
{
	char text[24];

	if (!take_value(v))
		return NULL;
	(void)snprintf(text, sizeof(text), format, bits);
	return view_made(v, json_string(text));
}

static json_t *view_enum(struct view *v, const struct schema_enum *e, int32_t number)
{
	uint32_t len;
	const char *name = schema_enum_name(e, &len);
	static const char null_value[] = "google.protobuf.NullValue";

	if (!take_value(v))
		return NULL;
	if (len == sizeof(null_value) - 1 && !memcmp(name, null_value, len) && number == 0)
		return json_null();
	name = v->options->enum_numbers ? NULL : schema_enum_value(e, number, &len);
	if (!name)
		return view_made(v, json_integer(number));
	return view_made(v, json_stringn(name, len));
}

/* Numbers, bools and enums, by their bits. */
static json_t *view_scalar(struct view *v, const struct schema_field_view *f, uint64_t bits)
{
	uint32_t low = (uint32_t)bits;
	double d;
	float s;

	switch (f->type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		return view_int64(v, "%" PRId64, bits);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return view_int64(v, "%" PRIu64, bits);
	case PROTOBUF_C_TYPE_DOUBLE:
		memcpy(&d, &bits, sizeof(d));
		return view_double(v, d);
	case PROTOBUF_C_TYPE_FLOAT:
		memcpy(&s, &low, sizeof(s));
		return view_double(v, float_shortest(s));
	case PROTOBUF_C_TYPE_ENUM:
		return view_enum(v, f->enumeration, (int32_t)low);
	case PROTOBUF_C_TYPE_BOOL:
		return take_value(v) ? json_boolean(low != 0) : NULL;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return take_value(v) ? view_made(v, json_integer(low)) : NULL;
	default:
		return take_value(v) ? view_made(v, json_integer((int32_t)low)) : NULL;
	}
}

/* The value in a member or element at `at`, whatever its type. */
static json_t *view_value(struct view *v, const struct object *o, const struct schema_field_view *f,
			  const uint8_t *at)
{
	struct object child = {f->message, NULL};
	struct text text;
	uint64_t bits;

	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		return string_at(v, o->m, f, load(at, 8), &text) ? view_string(v, text) : NULL;
	case PROTOBUF_C_TYPE_BYTES:
		return bytes_at(v, f, at, &text) ? view_base64(v, text) : NULL;
	case PROTOBUF_C_TYPE_MESSAGE:
		bits = load(at, 8);
		if (bits == 0) /* the value of a map's entry that was not sent */
			return take_value(v) ? view_made(v, json_object()) : NULL;
		return object_at(v, f->message, bits, &child) ? view_message(v, &child) : NULL;
	default:
		return view_scalar(v, f, load(at, f->bytes));
	}
}

json_t *view_singular(struct view *v, const struct object *o, const struct schema_field_view *f)
{
	return view_value(v, o, f, o->at + f->offset);
}

/* --- Objects ----------------------------------------------------------------------------- */

bool view_set(struct view *v, json_t *object, struct text key, json_t *value)
{
	/* What a partial view could not show whole is its last. */
	if (!value || (v->error == 0 && !take_text(v, key.len))) {
		json_decref(value);
		return false;
	}
	if (json_object_setn_new(object, key.at, key.len, value) != 0) {
		(void)view_fail(v, SPLIT_E_BASE_NOMEM);
		return false;
	}
	return true;
}

size_t view_camel(struct text name, char *to)
{
	bool upper = false;
	size_t i, n = 0;

	for (i = 0; i < name.len; i++) {
		char c = name.at[i];

		if (c == '_') {
			upper = true;
			continue;
		}
		to[n++] = upper && c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
		upper = false;
	}
	return n;
}

struct text view_key(const struct schema_field_view *f, bool proto_names, char *room)
{
	struct text name = {f->name, f->name_bytes};

	if (name.len == 0)
		return (struct text){room, (size_t)snprintf(room, VIEW_KEY_MAX, "%u", f->number)};
	if (proto_names)
		return name;
	if (f->json_name)
		return (struct text){f->json_name, f->json_name_bytes};
	return (struct text){room, view_camel(name, room)};
}

/* A map's key as text. `room`: VIEW_KEY_MAX bytes; strings go where `string` is, freed by the
 * caller. */
static bool entry_key(struct view *v, const struct object *entry, const struct schema_field_view *f,
		      char *room, json_t **string, struct text *out)
{
	uint64_t bits;
	const char *format = "%" PRIu64;

	if (f->type == PROTOBUF_C_TYPE_STRING) {
		struct text text;

		*string = view_text(v, entry, f, &text) ? view_string(v, text) : NULL;
		if (!*string)
			return false;
		*out = (struct text){json_string_value(*string), json_string_length(*string)};
		return true;
	}
	bits = view_bits(entry, f);
	if (f->type == PROTOBUF_C_TYPE_BOOL) {
		*out = bits & UINT32_MAX ? (struct text){"true", 4} : (struct text){"false", 5};
		return true;
	}
	switch (f->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		bits = (uint64_t)(int64_t)(int32_t)(uint32_t)bits;
		format = "%" PRId64;
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		format = "%" PRId64;
		break;
	default:
		break;
	}
	*out = (struct text){room, (size_t)snprintf(room, VIEW_KEY_MAX, format, bits)};
	return true;
}

static bool entry_show(struct view *v, json_t *map, const struct object *entry,
		       const struct schema_field_view *key, const struct schema_field_view *value)
{
	json_t *string = NULL;
	char room[VIEW_KEY_MAX];
	struct text text;
	bool good = entry_key(v, entry, key, room, &string, &text) &&
		    view_set(v, map, text, view_singular(v, entry, value));

	json_decref(string);
	return good;
}

/* Is it a map that can be shown as one? A hostile schema may say so of anything. */
static bool map_fields(const struct schema_field_view *f, struct schema_field_view *key,
		       struct schema_field_view *value)
{
	uint32_t n = f->type == PROTOBUF_C_TYPE_MESSAGE ? schema_field_count(f->message) : 0;

	if (n != 2 || !(schema_message_flags(f->message) & SCHEMA_MESSAGE_MAP_ENTRY))
		return false;
	schema_field_at(f->message, 0, key);
	schema_field_at(f->message, 1, value);
	return key->number == 1 && value->number == 2 &&
	       key->presence != SCHEMA_PRESENCE_REPEATED &&
	       value->presence != SCHEMA_PRESENCE_REPEATED &&
	       key->type != PROTOBUF_C_TYPE_MESSAGE && key->type != PROTOBUF_C_TYPE_BYTES;
}

static json_t *view_map(struct view *v, const struct schema_field_view *key,
			const struct schema_field_view *value, const struct schema_field_view *f,
			const uint8_t *array, uint64_t count)
{
	json_t *map = take_value(v) ? view_made(v, json_object()) : NULL;
	struct object entry;
	uint64_t i;

	for (i = 0; map && i < count && v->error == 0; i++) {
		size_t mark = path_enter_element(v, i);

		if (view_element(v, f, array, i, &entry))
			(void)entry_show(v, map, &entry, key, value);
		path_leave(v, mark);
	}
	return view_kept(v, map);
}

static json_t *view_repeated(struct view *v, const struct object *o,
			     const struct schema_field_view *f)
{
	struct schema_field_view key, value;
	const uint8_t *array;
	uint64_t count, i;
	json_t *list;

	if (!view_array(v, o, f, &count, &array))
		return NULL;
	if (map_fields(f, &key, &value))
		return view_map(v, &key, &value, f, array, count);
	list = take_value(v) ? view_made(v, json_array()) : NULL;
	for (i = 0; list && i < count && v->error == 0; i++) {
		size_t mark = path_enter_element(v, i);
		json_t *element = view_value(v, o, f, array + i * f->bytes);

		if (!element || json_array_append_new(list, element) != 0)
			(void)view_fail(v, SPLIT_E_BASE_NOMEM); /* but for an earlier one */
		path_leave(v, mark);
	}
	return view_kept(v, list);
}

/* proto3's rule for what has no presence. */
static bool is_shown(struct view *v, const struct object *o, const struct schema_field_view *f)
{
	bool plain = f->presence == SCHEMA_PRESENCE_ZERO;
	struct text text;

	if (v->options->zero_fields && (plain || f->presence == SCHEMA_PRESENCE_REPEATED))
		return true;
	if (!view_is_there(o, f))
		return false;
	if (plain && f->type == PROTOBUF_C_TYPE_STRING)
		return view_text(v, o, f, &text) && text.len != 0;
	return true;
}

json_t *view_plain_message(struct view *v, const struct object *o)
{
	json_t *object = view_made(v, json_object());
	uint32_t i;

	for (i = 0; object && i < schema_field_count(o->m) && v->error == 0; i++) {
		struct schema_field_view f;
		char room[VIEW_KEY_MAX];
		struct text key;
		size_t mark;

		schema_field_at(o->m, i, &f);
		key = view_key(&f, v->options->proto_names, room);
		mark = path_enter(v, key);
		if (is_shown(v, o, &f))
			(void)view_set(v, object, key,
				       f.presence == SCHEMA_PRESENCE_REPEATED
					       ? view_repeated(v, o, &f)
					       : view_singular(v, o, &f));
		path_leave(v, mark);
	}
	return view_kept(v, object);
}

json_t *view_message(struct view *v, const struct object *o)
{
	json_t *value;

	if (v->depth_left == 0)
		return view_fail(v, SPLIT_E_LINEARIZE_DEPTH);
	/* Here and not where it is shown: some known types show nothing of their own, and a host
	 * may let any number of elements be the same message. */
	if (!take_value(v))
		return NULL;
	v->depth_left--;
	if (!known_view(v, o, &value))
		value = view_plain_message(v, o);
	v->depth_left++;
	return value;
}

static int view_begin(struct view *v, const struct schema_message *m, uint64_t root, json_t **out)
{
	struct object o;

	/* The outermost message and LINEAR_DEPTH_MAX below it, as decode has it. */
	v->depth_left = (v->options->depth_max ? v->options->depth_max : LINEAR_DEPTH_MAX) + 1;
	v->values_left = v->options->values_max ? v->options->values_max : VALUES_MAX;
	v->text_left = v->options->text_max ? v->options->text_max : TEXT_MAX;
	v->any_left = VIEW_ANY_BYTES_MAX;
	*out = object_at(v, m, root, &o) ? view_message(v, &o) : NULL;
	return v->error;
}

static const struct json_view_options view_plain;

int json_view(const struct schema_message *m, const struct linear_source *source, uint64_t root,
	      const struct json_view_options *options, json_t **out)
{
	struct view v = {.options = options ? options : &view_plain, .source = *source};
	json_t *value;

	if (view_begin(&v, m, root, &value) != 0) {
		json_decref(value);
		return v.error;
	}
	*out = value;
	return 0;
}

int json_view_partial(const struct schema_message *m, const struct linear_source *source,
		      uint64_t root, const struct json_view_options *options,
		      struct json_partial *out)
{
	struct view v = {
		.options = options ? options : &view_plain, .source = *source, .path = out->path};

	out->path[0] = '\0';
	out->error = view_begin(&v, m, root, &out->value);
	return out->error;
}
