/* What the files of linearize/ share: the blob's records, the compiled tables, small helpers.
 * Not for other folders.
 *
 * The blob is a header, then arrays of fixed-size records, then one pool of bytes for names and
 * default contents. All integers are little endian, all references are indexes or offsets into
 * the pool. docs/LINEARIZE.md describes it for people; the static_asserts hold it.
 */
#ifndef SPLITD_LINEARIZE_INTERNAL_H
#define SPLITD_LINEARIZE_INTERNAL_H

#include "linearize/linearize.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

/* --- Blob, version 2 -------------------------------------------------------------------- */

#define SCHEMA_MAGIC      0x534c5053u /* "SPLS" */
#define SCHEMA_VERSION    2
#define SCHEMA_NONE       UINT32_MAX /* no message or enum */
#define SCHEMA_NAME_MAX   512
#define FIELD_NUMBER_MAX  ((1u << 29) - 1)
#define SCHEMA_ENDIAN_TAG 0x01020304u /* as the host stores it */

struct blob_header {
	uint32_t magic;
	uint16_t version;
	uint8_t pointer_bytes; /* 8 */
	uint8_t enum_bytes;    /* 4 */
	uint32_t endian_tag;
	uint32_t total_bytes;
	uint32_t messages, fields, enums, values; /* counts */
	uint32_t pool_bytes;
	uint32_t set_bytes;    /* descriptor set, after the pool; 0: none */
	uint64_t empty_string; /* address of protobuf_c_empty_string in the host */
};

struct blob_message {
	uint64_t descriptor; /* address in the host, goes to base.descriptor */
	uint32_t struct_bytes;
	uint32_t first_field, fields;
	uint32_t name, name_bytes; /* in the pool, no NUL */
	uint8_t syntax;            /* enum schema_syntax */
	uint8_t flags;             /* SCHEMA_MESSAGE_* */
	uint16_t package_bytes;    /* the name's beginning; 0: in no package, or not known */
};

#define BLOB_MESSAGE_FLAGS SCHEMA_MESSAGE_MAP_ENTRY

#define BLOB_FIELD_PACKED     (1u << 0) /* encode packed */
#define BLOB_FIELD_DEPRECATED (1u << 1)
#define BLOB_FIELD_ONEOF      (1u << 2)
#define BLOB_FIELD_DEFAULT    (1u << 3) /* the descriptor names a default */
#define BLOB_FIELD_INFO_SHIFT 4         /* SCHEMA_FIELD_* from here on */
#define BLOB_FIELD_UTF8       (SCHEMA_FIELD_UTF8 << BLOB_FIELD_INFO_SHIFT)
#define BLOB_FIELD_OPTIONAL   (SCHEMA_FIELD_OPTIONAL << BLOB_FIELD_INFO_SHIFT)
#define BLOB_FIELD_ACC        (SCHEMA_FIELD_ACC << BLOB_FIELD_INFO_SHIFT)
#define BLOB_FIELD_FLAGS      127u

struct blob_field {
	uint32_t number;
	uint8_t type;  /* ProtobufCType */
	uint8_t label; /* ProtobufCLabel */
	uint16_t flags;
	uint32_t offset, quantifier;          /* quantifier 0: none */
	uint32_t sub;                         /* index of the message or enum, else SCHEMA_NONE */
	uint32_t json_name;                   /* in the pool; see json_name_bytes */
	uint64_t default_address;             /* of string, or of bytes data; 0: none */
	uint32_t default_pool, default_bytes; /* its content */
	uint64_t init, init_len;              /* the member after message_init */
	uint32_t name;
	uint16_t name_bytes;
	uint16_t json_name_bytes; /* 0: lowerCamelCase of the name */
};

#define BLOB_ENUM_CLOSED SCHEMA_ENUM_CLOSED

struct blob_enum {
	uint32_t first_value, values;
	uint32_t name, name_bytes;
	uint32_t flags;
};

struct blob_value {
	int32_t number;
	uint32_t name, name_bytes;
};

static_assert(sizeof(struct blob_header) == 48, "blob v2");
static_assert(sizeof(struct blob_message) == 32, "blob v2");
static_assert(sizeof(struct blob_field) == 64, "blob v2");
static_assert(sizeof(struct blob_enum) == 20, "blob v2");
static_assert(sizeof(struct blob_value) == 12, "blob v2");
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || __SIZEOF_POINTER__ != 8
#error "linearize is written for 64-bit little-endian machines"
#endif

/* --- The protobuf-c ABI that both sides share (64 bit) ------------------------------------ */

#define BASE_N_UNKNOWN offsetof(ProtobufCMessage, n_unknown_fields)
#define BASE_UNKNOWN   offsetof(ProtobufCMessage, unknown_fields)

static_assert(sizeof(ProtobufCMessage) == 24 && BASE_N_UNKNOWN == 8 && BASE_UNKNOWN == 16, "ABI");
static_assert(sizeof(ProtobufCMessageUnknownField) == 24, "ABI");
static_assert(offsetof(ProtobufCMessageUnknownField, wire_type) == 4, "ABI");
static_assert(offsetof(ProtobufCMessageUnknownField, len) == 8, "ABI");
static_assert(offsetof(ProtobufCMessageUnknownField, data) == 16, "ABI");
static_assert(sizeof(ProtobufCBinaryData) == 16 && offsetof(ProtobufCBinaryData, data) == 8, "ABI");
static_assert(sizeof(protobuf_c_boolean) == 4 && sizeof(size_t) == 8, "ABI");

enum wire_type {
	WIRE_VARINT = 0,
	WIRE_64 = 1,
	WIRE_LEN = 2,
	WIRE_GROUP = 3,
	WIRE_GROUP_END = 4,
	WIRE_32 = 5,
};

#define TYPE_COUNT (PROTOBUF_C_TYPE_MESSAGE + 1)

/* Bytes of one element in a struct or array, and its wire type, by ProtobufCType. */
extern const uint8_t type_bytes[TYPE_COUNT];
extern const uint8_t type_wire[TYPE_COUNT];

static inline bool type_is_packable(unsigned type)
{
	return type != PROTOBUF_C_TYPE_STRING && type != PROTOBUF_C_TYPE_BYTES &&
	       type != PROTOBUF_C_TYPE_MESSAGE;
}

/* --- Compiled tables ---------------------------------------------------------------------- */

enum field_card {
	CARD_PLAIN,    /* no presence: required, proto3, or presence is the pointer */
	CARD_HAS,      /* has_ word at `quantifier` */
	CARD_ONEOF,    /* case word at `quantifier` */
	CARD_REPEATED, /* size_t count at `quantifier`, array at `offset` */
};

#define FIELD_PACKED      (1u << 0) /* encode packed */
#define FIELD_PACKABLE    (1u << 1)
#define FIELD_UTF8        (1u << 2)
#define FIELD_REQUIRED    (1u << 3) /* must be met on the wire */
#define FIELD_NONE        (1u << 4) /* LABEL_NONE: zero is not encoded */
#define FIELD_OPTIONAL    (1u << 5) /* string and message: the default's address means absent */
#define FIELD_ENUM_CLOSED (1u << 6)

struct schema_field {
	uint32_t number;
	uint8_t type;
	uint8_t wire;
	uint8_t card;
	uint8_t flags;
	uint32_t offset;
	uint32_t quantifier;
	uint32_t required_bit;
	uint8_t bytes;       /* of one element */
	uint8_t oneof_bytes; /* of the whole union */
	uint8_t tag_bytes;
	uint8_t tag[5]; /* as encode writes it */
	union {
		const struct schema_message *message;
		const struct schema_enum *enumeration;
	} sub;
	uint64_t default_address;
	const uint8_t *default_data;
	uint32_t default_bytes;
};

static_assert(sizeof(struct schema_field) <= 64, "one cache line");

struct schema_enum {
	const int32_t *numbers; /* ascending */
	uint32_t count;
	uint32_t index;
	const struct schema *schema;
};

/* What decode_fast needs of a field, found by number: half a cache line. */
struct fast_field {
	uint32_t tag; /* in the form that encoders write; FAST_TAG_NONE: not for the fast engine */
	uint8_t op;   /* enum fast_op */
	uint8_t bytes;
	uint16_t zero;
	uint32_t offset;
	uint32_t presence_at; /* has word, case word, count, or required word */
	uint32_t presence;    /* the case; required: the bit's index in its word */
	uint32_t zero_too;
	union {
		const struct schema_message *message;
		const struct schema_enum *enumeration; /* closed */
	} sub;
};

static_assert(sizeof(struct fast_field) == 32, "two in a cache line");

/* What encode_fast needs of a field, half a cache line. The fields of a message stand in a row, by
 * number, behind one that only says where the row begins. */
struct encode_field {
	uint8_t op; /* encode_fast.c */
	uint8_t tag_bytes;
	uint8_t short_header_bytes; /* with a length of one byte */
	uint8_t type;
	uint32_t offset;
	uint32_t presence_at; /* has word, case word or count */
	uint32_t number;
	uint32_t tag_high; /* the tag's bytes at the high end; of at most 4, else op is 0 */
	uint32_t index;    /* in the message's fields; ENCODE_ROW_BEGIN */
	union {
		const struct schema_message *message;
		uint64_t absent; /* string with presence: the address that means "not there" */
	} sub;
};

static_assert(sizeof(struct encode_field) == 32, "two in a cache line");

#define ENCODE_ROW_BEGIN UINT32_MAX

#define FAST_TAG_NONE   UINT32_MAX
#define FAST_NUMBERS    16   /* each message has at least these, the tags of one byte */
#define FAST_NUMBER_MAX 2047 /* the last that has a tag of two bytes */

struct schema_message {
	const struct fast_field *fast;         /* by number, for number < fast_count */
	const struct encode_field *encode_end; /* behind the last of its row */
	const struct schema_field *fields;     /* by number, ascending */
	const uint32_t *dense;                 /* number -> index + 1, for number < dense_count */
	const uint8_t *image;                  /* struct_bytes, as message_init leaves them */
	uint32_t field_count;
	uint32_t dense_count;
	uint32_t fast_count;
	uint32_t struct_bytes;
	uint32_t required_count;
	uint32_t alloc_bytes; /* struct, then the words of required bits; multiple of 8 */
	uint32_t required_at; /* offset of those words; 0: none */
	uint32_t fast_room;   /* what decode_fast needs for a plain one; not plain: no room does */
	uint64_t empty_string;
	const char *name;
	const struct schema *schema;
	uint32_t index;
};

struct schema {
	uint8_t *blob; /* private copy, sound; default contents point into it */
	size_t blob_bytes;
	uint64_t hash; /* of the blob */
	unsigned refs;
	const struct blob_header *header;
	const struct blob_message *blob_messages;
	const struct blob_field *blob_fields;
	const struct blob_enum *blob_enums;
	const struct blob_value *blob_values;
	const char *pool;
	struct schema_message *messages;
	struct schema_field *fields;
	struct schema_enum *enums;
	int32_t *numbers;
	uint32_t *dense;
	struct fast_field *fast;
	struct encode_field *encode;
	uint8_t *images;
	char *names;
	uint32_t message_count;
};

/* Field by number, or NULL. */
static inline const struct schema_field *schema_field_find(const struct schema_message *m,
							   uint32_t number)
{
	uint32_t low = 0, high = m->field_count;

	if (number < m->dense_count) {
		uint32_t index = m->dense[number];

		return index ? &m->fields[index - 1] : NULL;
	}
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (m->fields[mid].number == number)
			return &m->fields[mid];
		if (m->fields[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* Fill in the table and fast_room of `m`, which is otherwise compiled; there is room for
 * m->fast_count. */
void fast_compile(struct schema_message *m, struct fast_field *table);

/* Fill in the row of `m`, which is otherwise compiled; there is room for one more than its fields.
 */
void fast_encode_compile(struct schema_message *m, struct encode_field *row);

/* What may be read past the images of all messages. */
#define FAST_IMAGE_SLACK 64

bool schema_enum_has(const struct schema_enum *e, int32_t number);

/* enum linearize_engine: of the jobs that start. */
extern _Atomic unsigned linearize_engine_now;

/* --- Small things --------------------------------------------------------------------------- */

static inline uint32_t load32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t load64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void store32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void store64(void *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline uint64_t align8(uint64_t n)
{
	return (n + 7) & ~(uint64_t)7;
}

/* Check [p, end) for UTF-8 (RFC 3629: no surrogates, shortest form, up to U+10FFFF). Returns the
 * end of the last whole character, which is `end` or at most 3 bytes before it when the input
 * stops inside a so far valid character; NULL for invalid input. */
const uint8_t *utf8_span(const uint8_t *p, const uint8_t *end);

/* Linear memory, handed out in order from the target's chunks. */
struct linear_bump {
	uint8_t *free, *end; /* unused part of the current chunk */
	uint8_t *chunk;
	uint64_t used, most; /* bytes, with alignment */
	int64_t delta;
	int (*chunk_get)(void *ctx, size_t bytes_min, size_t bytes_want, struct linear_chunk *out);
	void *ctx;
};

/* Member by member: the target was written a moment ago by as many stores, and a wider load of them
 * would wait until they are through. */
static inline void bump_init(struct linear_bump *b, const struct linear_target *target,
			     uint64_t most)
{
	b->free = b->end = b->chunk = NULL;
	b->used = 0;
	b->most = most;
	b->delta = target->delta;
	b->chunk_get = target->chunk_get;
	b->ctx = target->ctx;
}

#define BUMP_HINT_MAX (1u << 20)

/* A new chunk, whose first `bytes` are returned. Arguments as of bump_get. */
static inline uint8_t *bump_open(struct linear_bump *b, uint64_t bytes, uint64_t hint, int *error)
{
	struct linear_chunk chunk;
	int rc;

	if (bytes > b->most - b->used) {
		*error = -SPLIT_E_LINEARIZE_LIMIT_LINEAR;
		return NULL;
	}
	if (hint > BUMP_HINT_MAX)
		hint = BUMP_HINT_MAX;
	rc = b->chunk_get(b->ctx, bytes, bytes + hint, &chunk);
	if (rc) {
		*error = rc < 0 ? rc : -SPLIT_E_LINEARIZE_NOMEM;
		return NULL;
	}
	if (!chunk.mem || chunk.bytes < bytes || (uintptr_t)chunk.mem % 16) {
		*error = -SPLIT_E_BASE_INTERNAL;
		return NULL;
	}
	b->chunk = chunk.mem;
	b->end = chunk.mem + chunk.bytes;
	b->free = chunk.mem + bytes;
	b->used += bytes;
	return chunk.mem;
}

/* bump_get when the chunk does not do. */
uint8_t *bump_get_slow(struct linear_bump *b, uint64_t bytes, uint64_t hint, int *error);

/* Memory for `bytes` (> 0), at most 2^62; `align` 8 or 1. A new chunk is asked to hold `hint` bytes
 * more (at most 1 MiB). NULL: `*error` is set. */
static inline uint8_t *bump_get(struct linear_bump *b, uint64_t bytes, unsigned align,
				uint64_t hint, int *error)
{
	uint64_t all = (-(uintptr_t)b->free & (align - 1)) + bytes;

	if (all > (uint64_t)(b->end - b->free) || all > b->most - b->used)
		return bump_get_slow(b, bytes, hint, error);
	b->used += all;
	b->free += all;
	return b->free - bytes;
}

/* What is not 0 and not above `most`; else `most`. */
static inline uint64_t limit_or(uint64_t limit, uint64_t most)
{
	return limit - 1 < most ? limit : most;
}

/* Copies `limits` (or the defaults) with zeros replaced by what they mean. */
static inline void linear_limits_resolve(struct linear_limits *out,
					 const struct linear_limits *limits)
{
	if (!limits)
		limits = &linear_limits_default;
	out->linear_bytes_max = limit_or(limits->linear_bytes_max, UINT64_MAX);
	out->elements_max = limit_or(limits->elements_max, UINT64_MAX);
	/* protobuf's own bound on any length */
	out->wire_bytes_max = limit_or(limits->wire_bytes_max, INT32_MAX);
	out->depth_max = (uint32_t)limit_or(limits->depth_max, LINEAR_DEPTH_MAX);
	out->work_quantum = (uint32_t)limit_or(limits->work_quantum, UINT32_MAX);
	out->work_max = limits->work_max ? limits->work_max : INT64_MAX;
}

#endif
