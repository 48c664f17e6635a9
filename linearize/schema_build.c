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

static bool field_is_sound(const ProtobufCFieldDescriptor *f)
{
	if ((unsigned)f->type >= TYPE_COUNT || (unsigned)f->label > PROTOBUF_C_LABEL_NONE ||
	    !f->name)
		return false;
	if (f->id == 0 || f->id > FIELD_NUMBER_MAX)
		return false;
	return f->descriptor ||
	       (f->type != PROTOBUF_C_TYPE_MESSAGE && f->type != PROTOBUF_C_TYPE_ENUM);
}

static bool descriptor_is_sound(const ProtobufCMessageDescriptor *d)
{
	unsigned i;

	if (!d || d->magic != PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC || !d->name)
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
	return pool_put(pool, name, strlen(name), at_out, len_out);
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

struct writer {
	struct schema_builder *b;
	struct buffer messages, fields, enums, values, pool;
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

		if (!name_put(&w->pool, d->values[i].name ? d->values[i].name : "", &v.name,
			      &v.name_bytes) ||
		    !buffer_put(&w->values, &v, sizeof(v)))
			return false;
	}
	e.values = d->n_values;
	w->enum_seen[w->enum_count] = d;
	*index_out = w->enum_count++;
	return name_put(&w->pool, d->name ? d->name : "", &e.name, &e.name_bytes) &&
	       buffer_put(&w->enums, &e, sizeof(e));
}

static bool field_put(struct writer *w, const ProtobufCFieldDescriptor *f, const uint8_t *image)
{
	struct blob_field out = {
		.number = f->id,
		.type = (uint8_t)f->type,
		.label = (uint8_t)f->label,
		.flags = (uint16_t)(f->flags & DESCRIPTOR_FLAGS),
		.offset = f->offset,
		.quantifier = f->quantifier_offset,
		.sub = SCHEMA_NONE,
	};

	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		out.sub = *hash_slot(w->b, f->descriptor) - 1;
	else if (f->type == PROTOBUF_C_TYPE_ENUM && !enum_put(w, f->descriptor, &out.sub))
		return false;
	if (f->default_value)
		out.flags |= BLOB_FIELD_DEFAULT;
	field_init(f, image, &out);
	return field_default(f, &w->pool, &out) &&
	       name_put(&w->pool, f->name, &out.name, &out.name_bytes) &&
	       buffer_put(&w->fields, &out, sizeof(out));
}

static int message_put(struct writer *w, const struct entry *e)
{
	const ProtobufCMessageDescriptor *d = e->descriptor;
	struct blob_message out = {
		.descriptor = (uintptr_t)d,
		.struct_bytes = (uint32_t)d->sizeof_message,
		.first_field = (uint32_t)(w->fields.len / sizeof(struct blob_field)),
		.fields = d->n_fields,
		.syntax = e->syntax,
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
		good = field_put(w, f, image);
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

	for (i = 0; rc == 0 && i < b->count; i++)
		rc = message_put(&w, &b->entries[i]);
	if (rc)
		goto out;
	h.fields = (uint32_t)(w.fields.len / sizeof(struct blob_field));
	h.enums = w.enum_count;
	h.values = (uint32_t)(w.values.len / sizeof(struct blob_value));
	h.pool_bytes = (uint32_t)w.pool.len;
	h.total_bytes = (uint32_t)(sizeof(h) + w.messages.len + w.fields.len + w.enums.len +
				   w.values.len + w.pool.len);
	if (!buffer_put(&all, &h, sizeof(h)) ||
	    !buffer_put(&all, w.messages.bytes, w.messages.len) ||
	    !buffer_put(&all, w.fields.bytes, w.fields.len) ||
	    !buffer_put(&all, w.enums.bytes, w.enums.len) ||
	    !buffer_put(&all, w.values.bytes, w.values.len) ||
	    !buffer_put(&all, w.pool.bytes, w.pool.len)) {
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
	free(w.enum_seen);
	return rc;
}
