/* What the files of linearize/json share. */
#ifndef SPLITD_LINEARIZE_JSON_INTERNAL_H
#define SPLITD_LINEARIZE_JSON_INTERNAL_H

#include "linearize/json/json.h"

#include <string.h>

#define VIEW_ANY_BYTES_MAX ((uint64_t)64 << 20)

struct view {
	const struct json_view_options *options;
	struct linear_source source;
	uint32_t depth_left, values_left;
	size_t text_left;
	uint64_t any_left; /* bytes of what Anys inside one another were decoded to */
	int error;         /* the first one, negative; 0: none */
	/* Of a view that keeps what it has when it must stop: JSON_PATH_MAX bytes, NUL-terminated;
	 * NULL: it is all or nothing. */
	char *path;
	size_t path_n;
};

/* A message as its struct lies in the window. */
struct object {
	const struct schema_message *m;
	const uint8_t *at; /* schema_message_bytes(m) of them can be read */
};

/* Text as it is: not NUL-terminated. */
struct text {
	const char *at;
	size_t len;
};

/* Sets the error and returns NULL. */
json_t *view_fail(struct view *v, int error);

/* A container with what it has so far. After an error that is kept in a partial view, and freed in
 * any other: NULL. */
json_t *view_kept(struct view *v, json_t *container);

/* The place of `bytes` at the peer's address; NULL: the error is set. */
const uint8_t *view_at(struct view *v, uint64_t address, uint64_t bytes);

/* A field by number if it has the type and is repeated or not as asked; else false. */
bool view_field(const struct schema_message *m, uint32_t number, ProtobufCType type, bool repeated,
		struct schema_field_view *out);

/* The member's bits (4 or 8 bytes), loaded once. */
uint64_t view_bits(const struct object *o, const struct schema_field_view *f);
/* A string member; false: the error is set. */
bool view_text(struct view *v, const struct object *o, const struct schema_field_view *f,
	       struct text *out);
bool view_bytes(struct view *v, const struct object *o, const struct schema_field_view *f,
		struct text *out);
/* A sub-message member. `out->at` NULL without an error: it is not there. */
bool view_child(struct view *v, const struct object *o, const struct schema_field_view *f,
		struct object *out);
bool view_is_there(const struct object *o, const struct schema_field_view *f);
/* Count and array of a repeated field; false: the error is set. */
bool view_array(struct view *v, const struct object *o, const struct schema_field_view *f,
		uint64_t *count_out, const uint8_t **array_out);
/* Element `i` of an array of messages. */
bool view_element(struct view *v, const struct schema_field_view *f, const uint8_t *array,
		  uint64_t i, struct object *out);

/* New values; NULL: the error is set. */
json_t *view_string(struct view *v, struct text text);
json_t *view_base64(struct view *v, struct text bytes);
json_t *view_double(struct view *v, double d);
/* Any value of field `f`: `bits` is its member or element, `o` for error's sake not needed. */
json_t *view_message(struct view *v, const struct object *o);
json_t *view_plain_message(struct view *v, const struct object *o);
json_t *view_singular(struct view *v, const struct object *o, const struct schema_field_view *f);

/* `value` (stolen, may be NULL after an error) under `key`. False: the error is set. */
bool view_set(struct view *v, json_t *object, struct text key, json_t *value);

/* lowerCamelCase as protoc makes it; `to` has room for as many bytes. Returns how many. */
size_t view_camel(struct text name, char *to);

/* A field's key; fields without a name (CODE_SIZE) go by their number. */
#define VIEW_KEY_MAX 512 /* bytes of `room` */
struct text view_key(const struct schema_field_view *f, bool proto_names, char *room);

/* The well-known types. False: `o` is none, or not of its shape; true: `*out` is the value, NULL
 * after an error. */
bool known_view(struct view *v, const struct object *o, json_t **out);
/* Decode into one piece of malloc'ed memory, which grows until it is enough: one piece is one
 * window. `*source_out`'s memory is the caller's to free. `where_out` (may be NULL) gets
 * decode_where() of what failed; with it, a message that lacks required fields is good all the
 * same. As decode_run. */
int view_decode(const struct schema_message *m, const void *wire, size_t len,
		const struct linear_limits *limits, struct linear_source *source_out,
		uint64_t *root_out, uint64_t *where_out);
/* Whether known_view would show `m` as something else than an object of its fields. */
bool known_is(const struct schema_message *m);

#endif
