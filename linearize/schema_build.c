/* Host side: ProtobufCMessageDescriptor graphs -> schema blob.
 *
 * The descriptors are the host's own, so they are trusted not to be hostile; they are still checked
 * for what the daemon would refuse, because here the culprit can be named. */
#include "linearize/linearize_internal.h"

#include <stdlib.h>

/* ProtobufCFieldFlag has the same bits as the blob. */
#define DESCRIPTOR_FLAGS (BLOB_FIELD_PACKED | BLOB_FIELD_DEPRECATED | BLOB_FIELD_ONEOF)
static_assert(BLOB_FIELD_PACKED == PROTOBUF_C_FIELD_FLAG_PACKED &&
		      BLOB_FIELD_DEPRECATED == PROTOBUF_C_FIELD_FLAG_DEPRECATED &&
		      BLOB_FIELD_ONEOF == PROTOBUF_C_FIELD_FLAG_ONEOF,
	      "flags are copied");

struct entry {
	const ProtobufCMessageDescriptor *descriptor;
	const struct schema_message_info *info; /* NULL: only the descriptor is known */
	uint8_t syntax;
};

struct buffer {
	uint8_t *bytes;
	size_t len, room;
};

struct schema_builder {
	struct entry *entries;
	uint32_t count, room;
	uint32_t *hash; /* entry index + 1 by descriptor address; open addressing */
	uint32_t hash_size;
	const struct schema_file_info **files;
	uint32_t files_n, files_room;
};

int schema_builder_create(struct schema_builder **out)
{
	struct schema_builder *b = calloc(1, sizeof(*b));

	if (!b)
		return -SPLIT_E_BASE_NOMEM;
	*out = b;
	return 0;
}

void schema_builder_destroy(struct schema_builder *b)
{
	if (!b)
		return;
	free(b->entries);
	free(b->hash);
	free(b->files);
	free(b);
}

static uint32_t *hash_slot(struct schema_builder *b, const void *descriptor)
{
	uint64_t h = (uintptr_t)descriptor * 0x9e3779b97f4a7c15u;
	uint32_t i = (uint32_t)(h >> 32) & (b->hash_size - 1);

	while (b->hash[i] && b->entries[b->hash[i] - 1].descriptor != descriptor)
		i = (i + 1) & (b->hash_size - 1);
	return &b->hash[i];
}

/* Room for one more entry, with the hash at most half full. */
static int builder_grow(struct schema_builder *b)
{
	uint32_t room = b->room ? b->room * 2 : 32, i;
	struct entry *entries;
	uint32_t *hash;

	if (b->count < b->room)
		return 0;
	entries = realloc(b->entries, room * sizeof(*entries));
	if (!entries)
		return -SPLIT_E_BASE_NOMEM;
	b->entries = entries;
	hash = calloc(room * 2, sizeof(*hash));
	if (!hash)
		return -SPLIT_E_BASE_NOMEM;
	free(b->hash);
	b->hash = hash;
	b->hash_size = room * 2;
	b->room = room;
	for (i = 0; i < b->count; i++)
		*hash_slot(b, b->entries[i].descriptor) = i + 1;
	return 0;
}

/* Descriptors made for CODE_SIZE have no names. */
static size_t name_length(const char *name)
{
	return name ? strlen(name) : 0;
}

static bool field_is_sound(const ProtobufCFieldDescriptor *f)
{
	if ((unsigned)f->type >= TYPE_COUNT || (unsigned)f->label > PROTOBUF_C_LABEL_NONE)
		return false;
	if (name_length(f->name) > SCHEMA_NAME_MAX)
		return false;
	if (f->id == 0 || f->id > FIELD_NUMBER_MAX)
		return false;
	return f->descriptor ||
	       (f->type != PROTOBUF_C_TYPE_MESSAGE && f->type != PROTOBUF_C_TYPE_ENUM);
}

static bool descriptor_is_sound(const ProtobufCMessageDescriptor *d)
{
	unsigned i;

	if (!d || d->magic != PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC ||
	    name_length(d->name) > SCHEMA_NAME_MAX)
		return false;
	if (d->sizeof_message < sizeof(ProtobufCMessage) || d->sizeof_message > INT32_MAX)
		return false;
	for (i = 0; i < d->n_fields; i++)
		if (!field_is_sound(&d->fields[i]) ||
		    (i > 0 && d->fields[i].id <= d->fields[i - 1].id))
			return false;
	return true;
}

static int builder_add_one(struct schema_builder *b, const ProtobufCMessageDescriptor *d,
			   uint32_t *index_out)
{
	int rc = builder_grow(b);
	uint32_t *slot;

	if (rc)
		return rc;
	slot = hash_slot(b, d);
	if (*slot == 0) {
		if (!descriptor_is_sound(d))
			return -SPLIT_E_LINEARIZE_DESCRIPTOR;
		b->entries[b->count] = (struct entry){.descriptor = d};
		*slot = ++b->count;
	}
	*index_out = *slot - 1;
	return 0;
}

int schema_builder_add(struct schema_builder *b, const ProtobufCMessageDescriptor *d,
		       uint32_t *index_out)
{
	uint32_t next = b->count, index, ignored;
	int rc = builder_add_one(b, d, &index);

	/* The entries past `next` are the work list. */
	for (; rc == 0 && next < b->count; next++) {
		const ProtobufCMessageDescriptor *m = b->entries[next].descriptor;
		unsigned i;

		for (i = 0; rc == 0 && i < m->n_fields; i++)
			if (m->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
				rc = builder_add_one(b, m->fields[i].descriptor, &ignored);
	}
	if (rc == 0 && index_out)
		*index_out = index;
	return rc;
}

int schema_builder_set_syntax(struct schema_builder *b, uint32_t index, enum schema_syntax syntax)
{
	if (index >= b->count)
		return -SPLIT_E_BASE_INVALID;
	b->entries[index].syntax = (uint8_t)syntax;
	return 0;
}

static bool set_is_sound(const uint8_t *set, size_t bytes);

int schema_builder_add_info(struct schema_builder *b, const struct schema_file_info *info)
{
	uint32_t i;

	for (i = 0; i < b->files_n; i++)
		if (b->files[i] == info)
			return 0;
	if (info->descriptor_set && !set_is_sound(info->descriptor_set, info->descriptor_set_bytes))
		return -SPLIT_E_LINEARIZE_DESCRIPTOR;
	if (b->files_n == b->files_room) {
		uint32_t room = b->files_room ? b->files_room * 2 : 8;
		const struct schema_file_info **files =
			realloc(b->files, room * sizeof(const void *));

		if (!files)
			return -SPLIT_E_BASE_NOMEM;
		b->files = files;
		b->files_room = room;
	}
	b->files[b->files_n++] = info;
	return 0;
}

/* What the files say of the messages that were added. */
static void builder_inform(struct schema_builder *b)
{
	uint32_t i, k;

	for (i = 0; i < b->files_n && b->hash_size; i++)
		for (k = 0; k < b->files[i]->messages_n; k++) {
			const struct schema_message_info *info = &b->files[i]->messages[k];
			uint32_t slot = *hash_slot(b, info->descriptor);

			if (slot == 0)
				continue;
			b->entries[slot - 1].info = info;
			b->entries[slot - 1].syntax = (uint8_t)b->files[i]->syntax;
		}
}

static uint32_t enum_flags(const struct schema_builder *b, const ProtobufCEnumDescriptor *d)
{
	uint32_t i, k;

	for (i = 0; i < b->files_n; i++)
		for (k = 0; k < b->files[i]->enums_n; k++)
			if (b->files[i]->enums[k].descriptor == d)
				return b->files[i]->enums[k].flags & SCHEMA_ENUM_CLOSED;
	return 0;
}

/* LABEL_NONE exists in proto3 only. A message of unknown syntax without any such field stays
 * unknown and its strings unchecked, since proto2 strings may hold anything. */
static uint8_t entry_syntax(const struct entry *e)
{
	unsigned i;

	if (e->syntax != SCHEMA_SYNTAX_UNKNOWN)
		return e->syntax;
	for (i = 0; i < e->descriptor->n_fields; i++)
		if (e->descriptor->fields[i].label == PROTOBUF_C_LABEL_NONE)
			return SCHEMA_SYNTAX_PROTO3;
	return SCHEMA_SYNTAX_UNKNOWN;
}

static const struct schema_field_info *field_info(const struct entry *e, uint32_t number)
{
	uint32_t low = 0, high = e->info ? e->info->fields_n : 0;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (e->info->fields[mid].number == number)
			return &e->info->fields[mid];
		if (e->info->fields[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* --- Writing -------------------------------------------------------------------------------- */

static bool buffer_put(struct buffer *buf, const void *bytes, size_t len)
{
	if (buf->room - buf->len < len) {
		size_t room = (buf->len + len) * 2;
		uint8_t *grown = realloc(buf->bytes, room);

		if (!grown)
			return false;
		buf->bytes = grown;
		buf->room = room;
	}
	if (len)
		memcpy(buf->bytes + buf->len, bytes, len);
	buf->len += len;
	return true;
}

static bool pool_put(struct buffer *pool, const void *bytes, size_t len, uint32_t *at_out,
		     uint32_t *len_out)
{
	*at_out = (uint32_t)pool->len;
	*len_out = (uint32_t)len;
	return buffer_put(pool, bytes, len);
}

static bool name_put(struct buffer *pool, const char *name, uint32_t *at_out, uint32_t *len_out)
{
	return pool_put(pool, name, name_length(name), at_out, len_out);
}

/* The struct as message_init leaves it; descriptors without one (built by hand) get what
 * protobuf_c_message_unpack itself would do then. */
static void message_image(const ProtobufCMessageDescriptor *d, uint8_t *image)
{
	unsigned i;

	if (d->message_init) {
		d->message_init((ProtobufCMessage *)(void *)image);
		return;
	}
	for (i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];

		if (!f->default_value || f->label == PROTOBUF_C_LABEL_REPEATED)
			continue;
		if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE)
			store64(image + f->offset, (uintptr_t)f->default_value);
		else
			memcpy(image + f->offset, f->default_value, type_bytes[f->type]);
	}
}

static bool field_default(const ProtobufCFieldDescriptor *f, struct buffer *pool,
			  struct blob_field *out)
{
	if (!f->default_value || f->label == PROTOBUF_C_LABEL_REPEATED)
		return true;
	if (f->type == PROTOBUF_C_TYPE_STRING) {
		out->default_address = (uintptr_t)f->default_value;
		return pool_put(pool, f->default_value, strlen(f->default_value),
				&out->default_pool, &out->default_bytes);
	}
	if (f->type == PROTOBUF_C_TYPE_BYTES) {
		const ProtobufCBinaryData *data = f->default_value;

		out->default_address = (uintptr_t)data->data;
		return pool_put(pool, data->data, data->data ? data->len : 0, &out->default_pool,
				&out->default_bytes);
	}
	return true;
}

static void field_init(const ProtobufCFieldDescriptor *f, const uint8_t *image,
		       struct blob_field *out)
{
	bool oneof = f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF;

	if (f->label == PROTOBUF_C_LABEL_REPEATED || oneof)
		return;
	if (f->type == PROTOBUF_C_TYPE_BYTES) {
		out->init_len = load64(image + f->offset);
		out->init = load64(image + f->offset + 8);
	} else {
		memcpy(&out->init, image + f->offset, type_bytes[f->type]);
	}
}

/* --- Descriptor sets: each file once, by its name -----------------------------------------------
 */

/* The next length-delimited field of a message; 0 and other wire types are not sound here.
 * `*number_out` with its content, and the place after it; NULL at the end or if it is none. */
static const uint8_t *part_next(const uint8_t *p, const uint8_t *end, uint32_t *number_out,
				const uint8_t **content_out, size_t *len_out)
{
	uint64_t v[2];
	int i;

	for (i = 0; i < 2; i++) {
		unsigned shift = 0;

		for (v[i] = 0; p < end && shift < 35; shift += 7) {
			v[i] |= (uint64_t)(*p & 0x7f) << shift;
			if (*p++ < 0x80)
				break;
		}
		if (shift >= 35 || p[-1] >= 0x80)
			return NULL;
		if (i == 0 && ((v[0] & 7) != WIRE_LEN || p == end))
			return NULL;
	}
	if (v[1] > (uint64_t)(end - p))
		return NULL;
	*number_out = (uint32_t)(v[0] >> 3);
	*content_out = p;
	*len_out = v[1];
	return p + v[1];
}

/* The name of a FileDescriptorProto, its field 1, which protoc writes first. */
static bool file_name(const uint8_t *file, size_t bytes, const uint8_t **name_out, size_t *len_out)
{
	uint32_t number;

	return bytes && part_next(file, file + bytes, &number, name_out, len_out) && number == 1;
}

static bool set_is_sound(const uint8_t *set, size_t bytes)
{
	const uint8_t *p = set, *end = set + bytes, *file, *name;
	uint32_t number;
	size_t len, name_len;

	while (p && p < end) {
		p = part_next(p, end, &number, &file, &len);
		if (!p || number != 1 || !file_name(file, len, &name, &name_len))
			return false;
	}
	return true;
}

static bool set_has(const struct buffer *set, const uint8_t *name, size_t name_len)
{
	const uint8_t *p = set->bytes, *end = p + set->len, *file, *other;
	uint32_t number;
	size_t len, other_len;

	while (p && p < end) {
		p = part_next(p, end, &number, &file, &len);
		if (p && file_name(file, len, &other, &other_len) && other_len == name_len &&
		    !memcmp(other, name, name_len))
			return true;
	}
	return false;
}

/* Adds the files of a sound set that `set` does not have yet, in their order. False: no memory. */
static bool set_join(struct buffer *set, const uint8_t *add, size_t bytes)
{
	const uint8_t *p = add, *end = add + bytes, *file, *name;
	uint32_t number;
	size_t len, name_len;

	while (add && p < end) {
		const uint8_t *next = part_next(p, end, &number, &file, &len);

		if (!next || !file_name(file, len, &name, &name_len))
			break;
		if (!set_has(set, name, name_len) && !buffer_put(set, p, (size_t)(next - p)))
			return false;
		p = next;
	}
	return true;
}

struct writer {
	struct schema_builder *b;
	struct buffer messages, fields, enums, values, pool, set;
	const ProtobufCEnumDescriptor **enum_seen;
	uint32_t enum_count, enum_room;
};

/* Few enums are used by many fields, and attach is rare: a list is enough. */
static bool enum_put(struct writer *w, const ProtobufCEnumDescriptor *d, uint32_t *index_out)
{
	struct blob_enum e = {.first_value = (uint32_t)(w->values.len / sizeof(struct blob_value))};
	unsigned i;

	for (i = w->enum_count; i-- > 0;)
		if (w->enum_seen[i] == d) {
			*index_out = i;
			return true;
		}
	if (w->enum_count == w->enum_room) {
		uint32_t room = w->enum_room ? w->enum_room * 2 : 16;
		const ProtobufCEnumDescriptor **seen =
			realloc(w->enum_seen, room * sizeof(const void *));

		if (!seen)
			return false;
		w->enum_seen = seen;
		w->enum_room = room;
	}
	for (i = 0; i < d->n_values; i++) {
		struct blob_value v = {.number = d->values[i].value};

		if (!name_put(&w->pool, d->values[i].name, &v.name, &v.name_bytes) ||
		    !buffer_put(&w->values, &v, sizeof(v)))
			return false;
	}
	e.values = d->n_values;
	e.flags = enum_flags(w->b, d);
	w->enum_seen[w->enum_count] = d;
	*index_out = w->enum_count++;
	return name_put(&w->pool, d->name, &e.name, &e.name_bytes) &&
	       buffer_put(&w->enums, &e, sizeof(e));
}

/* Is `json` the lowerCamelCase that protoc makes of `name`? */
static bool is_lower_camel(const char *name, const char *json)
{
	bool upper = false;

	for (; *name; name++) {
		char c = *name;

		if (c == '_') {
			upper = true;
			continue;
		}
		if (upper && c >= 'a' && c <= 'z')
			c = (char)(c - 'a' + 'A');
		upper = false;
		if (*json++ != c)
			return false;
	}
	return *json == '\0';
}

static bool field_names(struct writer *w, const ProtobufCFieldDescriptor *f, const char *json_name,
			struct blob_field *out)
{
	uint32_t bytes;

	if (!name_put(&w->pool, f->name, &out->name, &bytes))
		return false;
	out->name_bytes = (uint16_t)bytes;
	if (!json_name || name_length(json_name) > SCHEMA_NAME_MAX ||
	    (f->name && is_lower_camel(f->name, json_name)))
		return true;
	if (!name_put(&w->pool, json_name, &out->json_name, &bytes))
		return false;
	out->json_name_bytes = (uint16_t)bytes;
	return true;
}

static uint16_t field_flags(const struct entry *e, const ProtobufCFieldDescriptor *f,
			    const struct schema_field_info *info)
{
	uint32_t flags = f->flags & DESCRIPTOR_FLAGS;

	if (f->default_value)
		flags |= BLOB_FIELD_DEFAULT;
	if (info)
		flags |= info->flags << BLOB_FIELD_INFO_SHIFT & BLOB_FIELD_FLAGS;
	else if (!e->info && entry_syntax(e) == SCHEMA_SYNTAX_PROTO3)
		flags |= BLOB_FIELD_UTF8;
	/* What the descriptor's type contradicts is not so (string_as_bytes, for one). */
	if (f->type != PROTOBUF_C_TYPE_STRING)
		flags &= ~BLOB_FIELD_UTF8;
	if (f->label != PROTOBUF_C_LABEL_OPTIONAL || f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
		flags &= ~BLOB_FIELD_OPTIONAL;
	return (uint16_t)flags;
}

static bool field_put(struct writer *w, const struct entry *e, const ProtobufCFieldDescriptor *f,
		      const uint8_t *image)
{
	const struct schema_field_info *info = field_info(e, f->id);
	struct blob_field out = {
		.number = f->id,
		.type = (uint8_t)f->type,
		.label = (uint8_t)f->label,
		.flags = field_flags(e, f, info),
		.offset = f->offset,
		.quantifier = f->quantifier_offset,
		.sub = SCHEMA_NONE,
	};

	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		out.sub = *hash_slot(w->b, f->descriptor) - 1;
	else if (f->type == PROTOBUF_C_TYPE_ENUM && !enum_put(w, f->descriptor, &out.sub))
		return false;
	field_init(f, image, &out);
	return field_default(f, &w->pool, &out) &&
	       field_names(w, f, info ? info->json_name : NULL, &out) &&
	       buffer_put(&w->fields, &out, sizeof(out));
}

static uint16_t package_bytes(const ProtobufCMessageDescriptor *d)
{
	size_t n = name_length(d->package_name);

	return n && d->name && !strncmp(d->name, d->package_name, n) && d->name[n] == '.'
		       ? (uint16_t)n
		       : 0;
}

static int message_put(struct writer *w, const struct entry *e)
{
	const ProtobufCMessageDescriptor *d = e->descriptor;
	struct blob_message out = {
		.descriptor = (uintptr_t)d,
		.struct_bytes = (uint32_t)d->sizeof_message,
		.first_field = (uint32_t)(w->fields.len / sizeof(struct blob_field)),
		.fields = d->n_fields,
		.syntax = entry_syntax(e),
		.flags = e->info ? (uint8_t)(e->info->flags & BLOB_MESSAGE_FLAGS) : 0,
		.package_bytes = package_bytes(d),
	};
	uint8_t *image = calloc(1, d->sizeof_message);
	bool good = image != NULL;
	int rc = 0;
	unsigned i;

	if (image)
		message_image(d, image);
	for (i = 0; good && i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];

		uint32_t bytes = f->label == PROTOBUF_C_LABEL_REPEATED ? 8 : type_bytes[f->type];

		if (f->offset > d->sizeof_message || bytes > d->sizeof_message - f->offset) {
			rc = -SPLIT_E_LINEARIZE_DESCRIPTOR;
			goto out;
		}
		good = field_put(w, e, f, image);
	}
	good = good && name_put(&w->pool, d->name, &out.name, &out.name_bytes) &&
	       buffer_put(&w->messages, &out, sizeof(out));
	if (!good)
		rc = -SPLIT_E_BASE_NOMEM;
out:
	free(image);
	return rc;
}

int schema_builder_finish(struct schema_builder *b, struct schema_blob *out)
{
	struct writer w = {.b = b};
	struct buffer all = {0};
	struct blob_header h = {
		.magic = SCHEMA_MAGIC,
		.version = SCHEMA_VERSION,
		.pointer_bytes = sizeof(void *),
		.enum_bytes = sizeof(ProtobufCType),
		.endian_tag = SCHEMA_ENDIAN_TAG,
		.messages = b->count,
		.empty_string = (uintptr_t)protobuf_c_empty_string,
	};
	uint32_t i;
	int rc = 0;

	builder_inform(b);
	for (i = 0; rc == 0 && i < b->count; i++)
		rc = message_put(&w, &b->entries[i]);
	for (i = 0; rc == 0 && i < b->files_n; i++)
		if (!set_join(&w.set, b->files[i]->descriptor_set,
			      b->files[i]->descriptor_set_bytes))
			rc = -SPLIT_E_BASE_NOMEM;
	if (rc)
		goto out;
	h.fields = (uint32_t)(w.fields.len / sizeof(struct blob_field));
	h.enums = w.enum_count;
	h.values = (uint32_t)(w.values.len / sizeof(struct blob_value));
	h.pool_bytes = (uint32_t)w.pool.len;
	h.set_bytes = (uint32_t)w.set.len;
	h.total_bytes = (uint32_t)(sizeof(h) + w.messages.len + w.fields.len + w.enums.len +
				   w.values.len + w.pool.len + w.set.len);
	if (!buffer_put(&all, &h, sizeof(h)) ||
	    !buffer_put(&all, w.messages.bytes, w.messages.len) ||
	    !buffer_put(&all, w.fields.bytes, w.fields.len) ||
	    !buffer_put(&all, w.enums.bytes, w.enums.len) ||
	    !buffer_put(&all, w.values.bytes, w.values.len) ||
	    !buffer_put(&all, w.pool.bytes, w.pool.len) ||
	    !buffer_put(&all, w.set.bytes, w.set.len)) {
		free(all.bytes);
		rc = -SPLIT_E_BASE_NOMEM;
		goto out;
	}
	*out = (struct schema_blob){.bytes = all.bytes, .len = all.len};
out:
	free(w.messages.bytes);
	free(w.fields.bytes);
	free(w.enums.bytes);
	free(w.values.bytes);
	free(w.pool.bytes);
	free(w.set.bytes);
	free(w.enum_seen);
	return rc;
}
