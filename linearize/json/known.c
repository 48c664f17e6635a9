/* The well-known types that protobuf's JSON mapping shows in a way of their own. A type is known by
 * its full name and by having the fields it should: a schema may call anything anything. Values out
 * of a type's range (a year 10000) are shown as plain objects, so that a log still tells them. */
#include "linearize/json/json_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define NANOS_PER_SEC 1000000000
#define TIMESTAMP_MIN INT64_C(-62135596800) /* 0001-01-01T00:00:00Z */
#define TIMESTAMP_MAX INT64_C(253402300799) /* 9999-12-31T23:59:59Z */
#define DURATION_MAX  INT64_C(315576000000) /* 10,000 years */

typedef bool show_fn(struct view *v, const struct object *o, json_t **out);

static json_t *made(struct view *v, json_t *value)
{
	return value ? value : view_fail(v, SPLIT_E_BASE_NOMEM);
}

/* seconds = 1 and nanos = 2, of Timestamp and Duration. */
static bool seconds_of(const struct object *o, int64_t *seconds, int32_t *nanos)
{
	struct schema_field_view s, n;

	if (!view_field(o->m, 1, PROTOBUF_C_TYPE_INT64, false, &s) ||
	    !view_field(o->m, 2, PROTOBUF_C_TYPE_INT32, false, &n))
		return false;
	*seconds = (int64_t)view_bits(o, &s);
	*nanos = (int32_t)(uint32_t)view_bits(o, &n);
	return true;
}

/* ".5", "" or ".000000001": nothing, or 3, 6 or 9 digits. */
static void fraction(char *to, size_t room, int32_t nanos)
{
	if (nanos == 0)
		*to = '\0';
	else if (nanos % 1000000 == 0)
		(void)snprintf(to, room, ".%03d", nanos / 1000000);
	else if (nanos % 1000 == 0)
		(void)snprintf(to, room, ".%06d", nanos / 1000);
	else
		(void)snprintf(to, room, ".%09d", nanos);
}

static bool timestamp_show(struct view *v, const struct object *o, json_t **out)
{
	int64_t seconds;
	char text[64], part[16];
	int32_t nanos;
	struct tm tm;
	time_t t;

	if (!seconds_of(o, &seconds, &nanos) || seconds < TIMESTAMP_MIN ||
	    seconds > TIMESTAMP_MAX || nanos < 0 || nanos >= NANOS_PER_SEC)
		return false;
	t = (time_t)seconds;
	if (!gmtime_r(&t, &tm))
		return false;
	fraction(part, sizeof(part), nanos);
	(void)snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d%sZ", tm.tm_year + 1900,
		       tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, part);
	*out = view_string(v, (struct text){text, strlen(text)});
	return true;
}

static bool duration_show(struct view *v, const struct object *o, json_t **out)
{
	int64_t seconds;
	char text[64], part[16];
	int32_t nanos;

	if (!seconds_of(o, &seconds, &nanos) || seconds < -DURATION_MAX || seconds > DURATION_MAX ||
	    nanos <= -NANOS_PER_SEC || nanos >= NANOS_PER_SEC || (seconds > 0 && nanos < 0) ||
	    (seconds < 0 && nanos > 0))
		return false;
	fraction(part, sizeof(part), nanos < 0 ? -nanos : nanos);
	(void)snprintf(text, sizeof(text), "%s%" PRId64 "%ss", seconds < 0 || nanos < 0 ? "-" : "",
		       seconds < 0 ? -seconds : seconds, part);
	*out = view_string(v, (struct text){text, strlen(text)});
	return true;
}

/* DoubleValue and its like: the value of field 1, whatever it is. */
static bool wrapper_show(struct view *v, const struct object *o, json_t **out)
{
	struct schema_field_view f;

	if (schema_field_count(o->m) != 1)
		return false;
	schema_field_at(o->m, 0, &f);
	if (f.number != 1 || f.presence == SCHEMA_PRESENCE_REPEATED ||
	    f.type == PROTOBUF_C_TYPE_MESSAGE)
		return false;
	*out = view_singular(v, o, &f);
	return true;
}

/* Struct: an object of what is in its map, field 1. */
static bool struct_show(struct view *v, const struct object *o, json_t **out)
{
	struct schema_field_view fields;
	json_t *shown;

	if (schema_field_count(o->m) != 1 ||
	    !view_field(o->m, 1, PROTOBUF_C_TYPE_MESSAGE, true, &fields) ||
	    !(schema_message_flags(fields.message) & SCHEMA_MESSAGE_MAP_ENTRY))
		return false;
	/* The plain object has one key or none. */
	shown = view_plain_message(v, o);
	*out = NULL;
	if (shown) {
		json_t *inner = json_object_iter_value(json_object_iter(shown));

		*out = inner ? json_incref(inner) : made(v, json_object());
		json_decref(shown);
	}
	return true;
}

/* Value: whichever of its oneof is set. */
static bool value_show(struct view *v, const struct object *o, json_t **out)
{
	struct schema_field_view f;
	uint32_t i;

	for (i = 0; i < schema_field_count(o->m); i++) {
		schema_field_at(o->m, i, &f);
		if (f.presence != SCHEMA_PRESENCE_ONEOF)
			return false;
	}
	*out = json_null();
	for (i = 0; i < schema_field_count(o->m); i++) {
		schema_field_at(o->m, i, &f);
		if (!view_is_there(o, &f))
			continue;
		*out = f.type == PROTOBUF_C_TYPE_ENUM ? json_null() : view_singular(v, o, &f);
		break;
	}
	return true;
}

static bool list_value_show(struct view *v, const struct object *o, json_t **out)
{
	struct schema_field_view values;
	const uint8_t *array;
	uint64_t count, i;

	if (!view_field(o->m, 1, PROTOBUF_C_TYPE_MESSAGE, true, &values))
		return false;
	*out = NULL;
	if (!view_array(v, o, &values, &count, &array))
		return true;
	*out = made(v, json_array());
	for (i = 0; *out && i < count && v->error == 0; i++) {
		struct object element;
		json_t *value = view_element(v, &values, array, i, &element)
					? view_message(v, &element)
					: NULL;

		if (!value || json_array_append_new(*out, value) != 0)
			(void)view_fail(v, SPLIT_E_BASE_NOMEM); /* but for an earlier one */
	}
	*out = view_kept(v, *out);
	return true;
}

/* FieldMask: its paths in lowerCamelCase, joined by commas. */
static bool field_mask_show(struct view *v, const struct object *o, json_t **out)
{
	struct schema_field_view paths;
	size_t n = 0, room = 0;
	char *joined = NULL;
	const uint8_t *array;
	uint64_t count, i;

	if (!view_field(o->m, 1, PROTOBUF_C_TYPE_STRING, true, &paths))
		return false;
	*out = NULL;
	if (!view_array(v, o, &paths, &count, &array))
		return true;
	for (i = 0; i < count; i++) {
		/* An element is read like a string member of a message that begins with it. */
		const struct object at = {o->m, array + i * 8};
		struct schema_field_view element = paths;
		struct text path;
		char *grown;
		size_t k;

		element.offset = 0;
		if (!view_text(v, &at, &element, &path))
			goto out;
		/* The comma too: a host may let any number of paths be empty. */
		if (path.len + (i > 0) > v->text_left) {
			(void)view_fail(v, SPLIT_E_LINEARIZE_LIMIT_LINEAR);
			goto out;
		}
		v->text_left -= path.len + (i > 0);
		if (room - n < path.len + 1) {
			room = (n + path.len + 1) * 2;
			grown = realloc(joined, room);
			if (!grown) {
				(void)view_fail(v, SPLIT_E_BASE_NOMEM);
				goto out;
			}
			joined = grown;
		}
		if (i > 0)
			joined[n++] = ',';
		for (k = 0; k < path.len; k++) {
			char c = path.at[k];

			if (c == '_' && k + 1 < path.len && path.at[k + 1] >= 'a' &&
			    path.at[k + 1] <= 'z')
				c = (char)(path.at[++k] - 'a' + 'A');
			joined[n++] = c;
		}
	}
	*out = view_string(v, (struct text){joined ? joined : "", n});
out:
	free(joined);
	return true;
}

/* --- Any --------------------------------------------------------------------------------- */

struct room {
	uint8_t *mem;
	size_t bytes;
	bool taken;
};

static int room_get(void *ctx, size_t bytes_min, size_t bytes_want, struct linear_chunk *out)
{
	struct room *room = ctx;

	(void)bytes_want;
	if (room->taken || bytes_min > room->bytes)
		return -SPLIT_E_LINEARIZE_NOMEM;
	room->taken = true;
	*out = (struct linear_chunk){room->mem, room->bytes};
	return 0;
}

static int decode_into(const struct schema_message *m, const void *wire, size_t len,
		       const struct linear_limits *limits, struct room *room, uint64_t *root_out,
		       uint64_t *where_out)
{
	const struct linear_target target = {.chunk_get = room_get, .ctx = room};
	struct decode_job *job = malloc(sizeof(*job));
	int rc;

	if (!job)
		return -SPLIT_E_BASE_NOMEM;
	rc = decode_start(job, m, wire, len, &target, limits);
	if (rc == 0)
		do
			rc = decode_run(job);
		while (rc == SPLIT_AGAIN);
	if (where_out)
		*where_out = decode_where(job);
	if (where_out && rc == -SPLIT_E_LINEARIZE_REQUIRED)
		rc = 0;
	if (rc == 0)
		*root_out = decode_root(job);
	free(job);
	return rc;
}

int view_decode(const struct schema_message *m, const void *wire, size_t len,
		const struct linear_limits *limits, struct linear_source *source_out,
		uint64_t *root_out, uint64_t *where_out)
{
	uint64_t most = limits->linear_bytes_max ? limits->linear_bytes_max : VIEW_ANY_BYTES_MAX;
	size_t bytes = 4 * len + 4096;
	struct room room;
	int rc;

	for (;; bytes *= 2) {
		if (bytes > most)
			bytes = most;
		room = (struct room){.mem = aligned_alloc(16, (bytes + 15) & ~(size_t)15),
				     .bytes = bytes};
		if (!room.mem)
			return -SPLIT_E_BASE_NOMEM;
		rc = decode_into(m, wire, len, limits, &room, root_out, where_out);
		if (rc == 0)
			break;
		free(room.mem);
		if (rc != -SPLIT_E_LINEARIZE_NOMEM || bytes == most)
			return rc;
	}
	*source_out = (struct linear_source){room.mem, (uint64_t)(uintptr_t)room.mem, bytes};
	return 0;
}

/* What an Any holds, under "value" or as its own fields, in `object`. */
static void any_content(struct view *v, const struct schema_message *m, struct text wire,
			json_t *object)
{
	const struct linear_limits limits = {.linear_bytes_max = v->any_left};
	const struct linear_source outer = v->source;
	struct linear_source source;
	struct object inner;
	uint8_t *copy;
	uint64_t root;
	json_t *shown;
	int rc;

	if (wire.len > v->text_left) {
		(void)view_fail(v, SPLIT_E_LINEARIZE_LIMIT_LINEAR);
		return;
	}
	/* decode wants bytes that nobody else writes to. */
	copy = malloc(wire.len + 1);
	if (!copy) {
		(void)view_fail(v, SPLIT_E_BASE_NOMEM);
		return;
	}
	memcpy(copy, wire.at, wire.len);
	rc = v->any_left ? view_decode(m, copy, wire.len, &limits, &source, &root, NULL)
			 : -SPLIT_E_LINEARIZE_NOMEM;
	if (rc != 0) {
		/* Not a message of its type, or too much: shown as bytes. */
		(void)view_set(v, object, (struct text){"value", 5},
			       view_base64(v, (struct text){(const char *)copy, wire.len}));
		free(copy);
		return;
	}
	v->source = source;
	v->any_left -= source.bytes;
	inner = (struct object){m, view_at(v, root, schema_message_bytes(m))};
	shown = inner.at ? view_message(v, &inner) : NULL;
	if (shown && known_is(m)) {
		(void)view_set(v, object, (struct text){"value", 5}, shown);
	} else if (shown) {
		if (json_object_update(object, shown) != 0)
			(void)view_fail(v, SPLIT_E_BASE_NOMEM);
		json_decref(shown);
	}
	v->any_left += source.bytes;
	v->source = outer;
	free((void *)(uintptr_t)source.mem);
	free(copy);
}

static const struct schema_message *any_type(const struct object *o, const char *url)
{
	const char *slash = strrchr(url, '/');

	return slash ? schema_message_find(schema_of_message(o->m), slash + 1) : NULL;
}

static bool any_show(struct view *v, const struct object *o, json_t **out)
{
	struct schema_field_view url, value;
	const struct schema_message *m;
	struct text text, wire;
	json_t *type;

	if (!view_field(o->m, 1, PROTOBUF_C_TYPE_STRING, false, &url) ||
	    !view_field(o->m, 2, PROTOBUF_C_TYPE_BYTES, false, &value))
		return false;
	*out = NULL;
	if (!view_text(v, o, &url, &text) || !view_bytes(v, o, &value, &wire))
		return true;
	*out = made(v, json_object());
	if (!*out || (text.len == 0 && wire.len == 0))
		return true;
	type = view_string(v, text);
	m = type ? any_type(o, json_string_value(type)) : NULL;
	if (view_set(v, *out, (struct text){"@type", 5}, type)) {
		if (m)
			any_content(v, m, wire, *out);
		else
			(void)view_set(v, *out, (struct text){"value", 5}, view_base64(v, wire));
	}
	*out = view_kept(v, *out);
	return true;
}

/* --- Which ------------------------------------------------------------------------------- */

#define PREFIX "google.protobuf."

static const struct {
	const char *name; /* after PREFIX */
	show_fn *show;
} known[] = {
	{"Any", any_show},
	{"BoolValue", wrapper_show},
	{"BytesValue", wrapper_show},
	{"DoubleValue", wrapper_show},
	{"Duration", duration_show},
	{"FieldMask", field_mask_show},
	{"FloatValue", wrapper_show},
	{"Int32Value", wrapper_show},
	{"Int64Value", wrapper_show},
	{"ListValue", list_value_show},
	{"StringValue", wrapper_show},
	{"Struct", struct_show},
	{"Timestamp", timestamp_show},
	{"UInt32Value", wrapper_show},
	{"UInt64Value", wrapper_show},
	{"Value", value_show},
};

static show_fn *known_find(const struct schema_message *m)
{
	const char *name = schema_message_name(m);
	size_t i;

	if (strncmp(name, PREFIX, sizeof(PREFIX) - 1) != 0)
		return NULL;
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(name + sizeof(PREFIX) - 1, known[i].name))
			return known[i].show;
	return NULL;
}

bool known_is(const struct schema_message *m)
{
	return known_find(m) != NULL;
}

bool known_view(struct view *v, const struct object *o, json_t **out)
{
	show_fn *show = known_find(o->m);

	return show && show(v, o, out);
}

int json_view_wire(const struct schema_message *m, const void *wire, size_t len,
		   const struct linear_limits *limits, const struct json_view_options *options,
		   json_t **out)
{
	const struct linear_limits *l = limits ? limits : &linear_limits_default;
	struct linear_source source;
	uint64_t root;
	int rc = view_decode(m, wire, len, l, &source, &root, NULL);

	if (rc != 0)
		return rc;
	rc = json_view(m, &source, root, options, out);
	free((void *)(uintptr_t)source.mem);
	return rc;
}
