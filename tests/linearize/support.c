#include "tests/linearize/support.h"

#include "linearize/linearize_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct linear_limits unlimited = {0};

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                 \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* --- Memory ------------------------------------------------------------------------------- */

void arena_init(struct arena *a, enum chunk_policy policy)
{
	*a = (struct arena){.policy = policy};
}

void arena_fini(struct arena *a)
{
	int i;

	for (i = 0; i < a->count; i++)
		free(a->chunks[i].mem);
	free(a->chunks);
	a->chunks = NULL;
	a->count = 0;
}

static int arena_get(struct arena *a, size_t bytes, struct linear_chunk *out)
{
	a->got++;
	if (a->got == a->fail_at)
		return -SPLIT_E_LINEARIZE_NOMEM;
	a->chunks = realloc(a->chunks, (size_t)(a->count + 1) * sizeof(*a->chunks));
	MUST(a->chunks);
	out->mem = malloc(bytes);
	MUST(out->mem);
	out->bytes = bytes;
	memset(out->mem, 0xa5, bytes); /* nobody may count on zeroes */
	a->chunks[a->count++] = *out;
	return 0;
}

static int arena_decode_get(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct arena *a = ctx;

	MUST(min > 0 && want >= min);
	return arena_get(a,
			 a->policy == CHUNK_EXACT  ? min
			 : a->policy == CHUNK_WANT ? want
						   : want * 4,
			 out);
}

static int arena_encode_get(void *ctx, size_t want, struct linear_chunk *out)
{
	struct arena *a = ctx;

	MUST(want > 0);
	return arena_get(a, a->most && a->most < want ? a->most : want, out);
}

struct linear_target arena_target(struct arena *a)
{
	return (struct linear_target){.chunk_get = arena_decode_get, .ctx = a};
}

struct encode_sink arena_sink(struct arena *a)
{
	return (struct encode_sink){.chunk_get = arena_encode_get, .ctx = a};
}

static int block_get(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct block *b = ctx;
	size_t bytes = (min + 15) & ~(size_t)15;

	(void)want;
	if (bytes > b->bytes - b->used)
		return -SPLIT_E_LINEARIZE_NOMEM;
	*out = (struct linear_chunk){.mem = b->mem + b->used, .bytes = bytes};
	b->used += bytes;
	return 0;
}

struct linear_target block_target(struct block *b)
{
	return (struct linear_target){.delta = b->delta, .chunk_get = block_get, .ctx = b};
}

/* --- Schemas and jobs ------------------------------------------------------------------------ */

/* Descriptors cannot say that their enums are closed. */
static void enums_close(uint8_t *blob)
{
	struct blob_header *h = (struct blob_header *)(void *)blob;
	struct blob_message *messages = (struct blob_message *)(void *)(h + 1);
	struct blob_field *fields = (struct blob_field *)(void *)(messages + h->messages);
	struct blob_enum *enums = (struct blob_enum *)(void *)(fields + h->fields);
	uint32_t i;

	for (i = 0; i < h->enums; i++)
		enums[i].flags |= BLOB_ENUM_CLOSED;
}

struct schema *schema_of(const ProtobufCMessageDescriptor *d, const struct schema_message **root)
{
	struct schema_builder *b;
	struct schema_blob blob;
	struct schema *s;
	uint32_t index;

	MUST(!schema_builder_create(&b));
	MUST(!schema_builder_add(b, d, &index));
	MUST(!schema_builder_finish(b, &blob));
	schema_builder_destroy(b);
	if (quirks_enums_closed)
		enums_close(blob.bytes);
	MUST(!schema_parse(blob.bytes, blob.len, NULL, &s));
	free(blob.bytes);
	*root = schema_message_at(s, index);
	MUST(*root);
	return s;
}

int decode_all(const struct schema_message *m, const uint8_t *wire, size_t len,
	       const struct linear_target *target, struct linear_limits limits, uint64_t *root_out,
	       unsigned *runs_out)
{
	struct decode_job j;
	unsigned runs = 0;
	int rc = decode_start(&j, m, wire, len, target, &limits);

	while (rc == 0) {
		rc = decode_run(&j);
		runs++;
		if (rc != SPLIT_AGAIN)
			break;
		rc = 0;
	}
	*root_out = decode_root(&j);
	if (runs_out)
		*runs_out = runs;
	return rc;
}

int encode_all(const struct schema_message *m, const struct linear_source *source, uint64_t root,
	       struct linear_limits limits, size_t chunk_most, uint8_t **out, size_t *len_out)
{
	static struct iovec iov[ENCODE_CHUNKS_MAX];
	struct encode_job j;
	struct arena a;
	struct encode_sink sink;
	int rc, i, n;

	arena_init(&a, CHUNK_WANT);
	a.most = chunk_most;
	sink = arena_sink(&a);
	rc = encode_start(&j, m, source, root, &sink, &limits);
	while (rc == 0) {
		rc = encode_run(&j);
		if (rc != SPLIT_AGAIN)
			break;
		rc = 0;
	}
	if (rc == 0) {
		*len_out = encode_bytes(&j);
		*out = malloc(*len_out + 1);
		n = encode_result(&j, iov, ENCODE_CHUNKS_MAX);
		if (n >= 0) {
			size_t at = 0;

			for (i = 0; i < n; i++) {
				memcpy(*out + at, iov[i].iov_base, iov[i].iov_len);
				at += iov[i].iov_len;
			}
			MUST(at == *len_out);
		} else { /* as a sink with its own list would */
			uint8_t *to = *out + *len_out;

			MUST(a.count > ENCODE_CHUNKS_MAX);
			for (i = 0; i < a.count; i++) {
				uint8_t *from =
					i == a.count - 1 ? encode_head(&j) : a.chunks[i].mem;
				size_t bytes = (size_t)(a.chunks[i].mem + a.chunks[i].bytes - from);

				to -= bytes;
				memcpy(to, from, bytes);
			}
			MUST(to == *out);
		}
	}
	arena_fini(&a);
	return rc;
}

struct linear_source source_everything(void)
{
	const uintptr_t low = 4096;

	return (struct linear_source){
		.mem = (const uint8_t *)low, .peer_base = low, .bytes = ((size_t)1 << 47) - low};
}

/* --- Comparison ---------------------------------------------------------------------------------
 */

struct comparison {
	int64_t delta;
	char *why;
};

static bool differ(const struct comparison *c, const char *message, const char *field,
		   const char *what)
{
	snprintf(c->why, 200, "%s.%s: %s", message, field, what);
	return false;
}

static const void *theirs(const struct comparison *c, const void *p)
{
	return (const void *)((uintptr_t)p - (uintptr_t)c->delta);
}

static bool walk(const struct comparison *c, const ProtobufCMessage *a, const ProtobufCMessage *b);

/* One member or element. `def`: the field's default address counts as itself, not as content. */
static bool value_equal(const struct comparison *c, const ProtobufCFieldDescriptor *f,
			const char *m, const void *a, const void *b)
{
	if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE) {
		const void *pa, *pb;

		memcpy(&pa, a, 8);
		memcpy(&pb, b, 8);
		if (!pa || pa == f->default_value || pa == protobuf_c_empty_string)
			return pa == pb || differ(c, m, f->name, "default or NULL expected");
		if (!pb || pb == f->default_value || pb == protobuf_c_empty_string)
			return differ(c, m, f->name, "default or NULL not expected");
		pb = theirs(c, pb);
		if (f->type == PROTOBUF_C_TYPE_MESSAGE)
			return walk(c, pa, pb);
		return !strcmp(pa, pb) || differ(c, m, f->name, "string");
	}
	if (f->type == PROTOBUF_C_TYPE_BYTES) {
		ProtobufCBinaryData da, db;
		const ProtobufCBinaryData *def = f->default_value;

		memcpy(&da, a, sizeof(da));
		memcpy(&db, b, sizeof(db));
		if (da.len != db.len || !da.data != !db.data)
			return differ(c, m, f->name, "bytes length");
		if (!da.data || (def && da.data == def->data))
			return da.data == db.data || differ(c, m, f->name, "bytes default");
		return !memcmp(da.data, theirs(c, db.data), da.len) ||
		       differ(c, m, f->name, "bytes content");
	}
	switch (f->type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return !memcmp(a, b, 8) || differ(c, m, f->name, "value");
	default:
		return !memcmp(a, b, 4) || differ(c, m, f->name, "value");
	}
}

static size_t element_bytes(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_BYTES:
		return 16;
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
	case PROTOBUF_C_TYPE_BOOL:
	case PROTOBUF_C_TYPE_ENUM:
		return 4;
	default:
		return 8;
	}
}

static bool repeated_equal(const struct comparison *c, const ProtobufCFieldDescriptor *f,
			   const char *m, const uint8_t *a, const uint8_t *b)
{
	size_t na, nb, i, bytes = element_bytes(f->type);
	const uint8_t *pa, *pb;

	memcpy(&na, a + f->quantifier_offset, 8);
	memcpy(&nb, b + f->quantifier_offset, 8);
	memcpy(&pa, a + f->offset, 8);
	memcpy(&pb, b + f->offset, 8);
	if (na != nb)
		return differ(c, m, f->name, "count");
	if (na == 0)
		return true;
	pb = theirs(c, pb);
	for (i = 0; i < na; i++)
		if (!value_equal(c, f, m, pa + i * bytes, pb + i * bytes))
			return false;
	return true;
}

static bool unknown_equal(const struct comparison *c, const ProtobufCMessage *a,
			  const ProtobufCMessage *b)
{
	const char *m = a->descriptor->name;
	unsigned i;

	if (a->n_unknown_fields != b->n_unknown_fields)
		return differ(c, m, "unknown", "count");
	if (a->n_unknown_fields == 0)
		return true;
	for (i = 0; i < a->n_unknown_fields; i++) {
		const ProtobufCMessageUnknownField *ua = &a->unknown_fields[i];
		const ProtobufCMessageUnknownField *ub =
			(const ProtobufCMessageUnknownField *)theirs(c, b->unknown_fields) + i;

		if (ua->tag != ub->tag || ua->wire_type != ub->wire_type || ua->len != ub->len)
			return differ(c, m, "unknown", "tag, type or length");
		if (memcmp(ua->data, theirs(c, ub->data), ua->len) != 0)
			return differ(c, m, "unknown", "data");
	}
	return true;
}

static bool walk(const struct comparison *c, const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	const ProtobufCMessageDescriptor *d = a->descriptor;
	const uint8_t *ma = (const uint8_t *)a, *mb = (const uint8_t *)b;
	unsigned i;

	if (b->descriptor != d)
		return differ(c, d->name, "base", "descriptor");
	if ((uintptr_t)b % 8)
		return differ(c, d->name, "base", "alignment");
	for (i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];

		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			if (!repeated_equal(c, f, d->name, ma, mb))
				return false;
			continue;
		}
		if (f->quantifier_offset) {
			if (memcmp(ma + f->quantifier_offset, mb + f->quantifier_offset, 4) != 0)
				return differ(c, d->name, f->name, "presence");
			if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
				uint32_t which;

				memcpy(&which, ma + f->quantifier_offset, 4);
				if (which != f->id)
					continue;
			}
		}
		if (!value_equal(c, f, d->name, ma + f->offset, mb + f->offset))
			return false;
	}
	return unknown_equal(c, a, b);
}

bool message_equal(const ProtobufCMessage *a, const ProtobufCMessage *b, int64_t delta, char *why)
{
	struct comparison c = {.delta = delta, .why = why};

	why[0] = 0;
	return walk(&c, a, b);
}
