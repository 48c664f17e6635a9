/* Descriptors: the bytes of a FileDescriptorSet as a resolved tree.
 *
 * What protoc writes with --descriptor_set_out, hands to its plugins, or what a manifest carries,
 * becomes files, messages, fields, enums and services, with full names, types found, and what
 * descriptor.proto leaves to its reader worked out: whether a field is packed, has presence, which
 * default it has, whether an enum is closed.
 *
 * The bytes are hostile: everything is bounded (struct proto_limits) and checked before it is
 * believed, and a finding names its file and element. What protoc would have refused is refused
 * here as far as readers of the tree would stumble over it; a set that protoc made is always taken.
 * Proto2 and proto3 only: editions are refused with a line of their own.
 *
 * Threads: a set belongs to whoever made it; it never changes, so any number may read it. Strings
 * are NUL-terminated and without NULs inside; spans point into the set's own copy of the input.
 *
 * Options that are not spelled out below, custom ones among them, are in the `options` spans; read
 * these with proto_next.
 */
#ifndef SPLITD_LINEARIZE_DESCRIPTOR_DESCRIPTOR_H
#define SPLITD_LINEARIZE_DESCRIPTOR_DESCRIPTOR_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct proto_bytes {
	const uint8_t *data;
	size_t len;
};

/* FieldDescriptorProto.Type */
enum proto_type {
	PROTO_DOUBLE = 1,
	PROTO_FLOAT = 2,
	PROTO_INT64 = 3,
	PROTO_UINT64 = 4,
	PROTO_INT32 = 5,
	PROTO_FIXED64 = 6,
	PROTO_FIXED32 = 7,
	PROTO_BOOL = 8,
	PROTO_STRING = 9,
	PROTO_GROUP = 10,
	PROTO_MESSAGE = 11,
	PROTO_BYTES = 12,
	PROTO_UINT32 = 13,
	PROTO_ENUM = 14,
	PROTO_SFIXED32 = 15,
	PROTO_SFIXED64 = 16,
	PROTO_SINT32 = 17,
	PROTO_SINT64 = 18,
};

/* FieldDescriptorProto.Label */
enum proto_label {
	PROTO_OPTIONAL = 1,
	PROTO_REQUIRED = 2,
	PROTO_REPEATED = 3,
};

struct proto_file;
struct proto_message;
struct proto_enum;
struct proto_oneof;

struct proto_value {
	const char *name;
	int32_t number;
	bool deprecated;
	struct proto_bytes options; /* EnumValueOptions */
};

struct proto_enum {
	const char *name, *full_name;
	const struct proto_file *file;
	const struct proto_message *parent; /* NULL: of the file */
	uint32_t index;                     /* in its parent or file, as declared */
	const struct proto_value *values;   /* as declared, at least one */
	uint32_t values_n;
	bool closed; /* declared in proto2: other values are unknown fields */
	bool allow_alias, deprecated;
	struct proto_bytes options; /* EnumOptions */
};

struct proto_field {
	const char *name, *full_name;
	const char *json_name;         /* given, or made as protoc makes it */
	const struct proto_file *file; /* that declares it */
	const struct proto_message
		*parent; /* that it is a field of; extensions: declared in, or NULL */
	const struct proto_message *extendee; /* extensions: the message extended; else NULL */
	const struct proto_oneof *oneof;      /* synthetic ones of proto3 optional included */
	const struct proto_message *message;  /* PROTO_MESSAGE, PROTO_GROUP */
	const struct proto_enum *enumeration; /* PROTO_ENUM */
	uint32_t index;                       /* in its parent, as declared */
	uint32_t number;
	uint8_t type;  /* enum proto_type */
	uint8_t label; /* enum proto_label */
	bool proto3_optional;
	bool packed;   /* in effect: repeated, packable, and said so or proto3 */
	bool presence; /* singular, and set and default can be told apart */
	bool map;      /* repeated map entry */
	bool utf8;     /* a string of proto3 */
	bool deprecated;
	bool has_default;
	/* Bits of the number as its C type has them (enum: the value's number; a float's 32 bits).
	 * The first value of the enum, else 0, where there is no default. */
	uint64_t default_number;
	struct proto_bytes default_bytes; /* string, bytes: unescaped; NUL follows */
	struct proto_bytes options;       /* FieldOptions */
};

struct proto_oneof {
	const char *name, *full_name;
	const struct proto_field *const *fields; /* as declared */
	uint32_t fields_n;
	uint32_t index;
	bool synthetic; /* of one proto3 optional field */
	struct proto_bytes options;
};

struct proto_message {
	const char *name, *full_name;
	const struct proto_file *file;
	const struct proto_message *parent;         /* NULL: of the file */
	uint32_t index;                             /* in its parent or file, as declared */
	uint32_t id;                                /* in the set: 0 .. messages_n - 1 */
	const struct proto_field *fields;           /* as declared */
	const struct proto_field *const *by_number; /* the same, ascending */
	const struct proto_oneof *oneofs;           /* synthetic ones last, as protoc has them */
	const struct proto_message *messages;       /* nested */
	const struct proto_enum *enums;
	const struct proto_field *extensions; /* declared here */
	uint32_t fields_n, oneofs_n, messages_n, enums_n, extensions_n;
	uint32_t extension_ranges_n;
	bool map_entry, message_set, deprecated;
	struct proto_bytes options; /* MessageOptions */
};

enum proto_idempotency {
	PROTO_IDEMPOTENCY_UNKNOWN = 0,
	PROTO_NO_SIDE_EFFECTS = 1,
	PROTO_IDEMPOTENT = 2,
};

struct proto_method {
	const char *name, *full_name;
	const struct proto_message *input, *output;
	bool client_streaming, server_streaming, deprecated;
	uint8_t idempotency;        /* enum proto_idempotency */
	struct proto_bytes options; /* MethodOptions */
};

struct proto_service {
	const char *name, *full_name;
	const struct proto_file *file;
	uint32_t index;
	const struct proto_method *methods;
	uint32_t methods_n;
	bool deprecated;
	struct proto_bytes options; /* ServiceOptions */
};

struct proto_file {
	const char *name, *package; /* package "" when there is none */
	uint8_t syntax;             /* 2 or 3 */
	bool deprecated;
	const struct proto_file *const *dependencies;
	const bool *dependency_public; /* by dependency */
	const struct proto_message *messages;
	const struct proto_enum *enums;
	const struct proto_field *extensions;
	const struct proto_service *services;
	uint32_t dependencies_n, messages_n, enums_n, extensions_n, services_n;
	uint32_t index;                 /* in the set */
	struct proto_bytes options;     /* FileOptions */
	struct proto_bytes source_info; /* SourceCodeInfo; empty when it was left out */
	struct proto_bytes bytes;       /* the FileDescriptorProto itself */
};

struct proto_set {
	const struct proto_file *files; /* as given */
	uint32_t files_n;
	const struct proto_message *const *messages; /* of all files, nested ones too, by id */
	uint32_t messages_n;
};

struct proto_limits {
	size_t bytes_max;
	uint32_t elements_max; /* files, messages, fields, oneofs, enums, values, services, methods
				*/
	uint32_t name_bytes_max; /* of a full name */
	uint32_t depth_max;      /* messages nested in messages */
};

/* 16 MiB, 524288 elements, names of 512 bytes, depth 32. */
extern const struct proto_limits proto_limits_default;

/* Why a set was refused: "a.proto: pkg.Message.field: type .pkg.Other is not known". */
struct proto_finding {
	char file[256];    /* name of the file, "" when it is none's */
	char element[256]; /* full name of the element, or "" */
	char text[256];    /* what is wrong */
	/* The element's path as SourceCodeInfo has it, for the line number; steps 0: none. */
	int32_t path[80]; /* PROTO_PATH_MAX */
	uint32_t steps;
};

/* Parse the bytes of a FileDescriptorSet. Files may come in any order as long as each import is
 * there. `limits` NULL: the defaults. `finding` may be NULL. `*out` is the caller's
 * (proto_set_destroy); the input is copied. 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_LINEARIZE_PROTO
 * (malformed or not sound), -SPLIT_E_LINEARIZE_PROTO_LIMIT, -SPLIT_E_LINEARIZE_PROTO_EDITION. */
SPLIT_MUST_USE int proto_set_parse(const void *bytes, size_t len, const struct proto_limits *limits,
				   struct proto_set **out, struct proto_finding *finding);

/* The same of single FileDescriptorProtos. */
SPLIT_MUST_USE int proto_set_parse_files(const struct proto_bytes *files, size_t files_n,
					 const struct proto_limits *limits, struct proto_set **out,
					 struct proto_finding *finding);

/* NULL is allowed. */
void proto_set_destroy(struct proto_set *set);

/* By full name without a leading dot; NULL if there is none. */
const struct proto_message *proto_message_find(const struct proto_set *set, const char *name);
const struct proto_enum *proto_enum_find(const struct proto_set *set, const char *name);
const struct proto_service *proto_service_find(const struct proto_set *set, const char *name);
const struct proto_file *proto_file_find(const struct proto_set *set, const char *name);

static inline bool proto_type_is_packable(unsigned type)
{
	return type != PROTO_STRING && type != PROTO_BYTES && type != PROTO_MESSAGE &&
	       type != PROTO_GROUP;
}

/* --- split/options.proto ---------------------------------------------------------------------- */

/* What (split.method) says, over what the service's (split.defaults) says, member by member. */
struct proto_method_options {
	uint32_t decode, encode; /* split.Placement: 0 any, 1 daemon, 2 host */
	uint32_t request_bytes_max, response_bytes_max;
	uint32_t deadline_ms;
	uint32_t idempotency; /* enum proto_idempotency; else the method's standard option */
	bool any;             /* one of them is not 0 */
};

void proto_method_options_read(const struct proto_service *s, const struct proto_method *m,
			       struct proto_method_options *out);
/* (split.acc) = true */
bool proto_field_is_acc(const struct proto_field *f);

/* Path of an element as SourceCodeInfo.Location has it; `path` has PROTO_PATH_MAX places. Returns
 * the number of steps. `value` is an index into e->values; `method` into s->methods. */
#define PROTO_PATH_MAX 80
uint32_t proto_message_path(const struct proto_message *m, int32_t *path);
uint32_t proto_field_path(const struct proto_field *f, int32_t *path);
uint32_t proto_oneof_path(const struct proto_message *m, const struct proto_oneof *o,
			  int32_t *path);
uint32_t proto_enum_path(const struct proto_enum *e, int32_t *path);
uint32_t proto_value_path(const struct proto_enum *e, uint32_t value, int32_t *path);
uint32_t proto_service_path(const struct proto_service *s, int32_t *path);
uint32_t proto_method_path(const struct proto_service *s, uint32_t method, int32_t *path);

/* --- Reading protobuf bytes: options, source info, and the sets themselves ------------------- */

struct proto_item {
	uint32_t number;
	uint32_t wire;            /* 0 varint, 1 64 bits, 2 bytes, 5 32 bits; groups are refused */
	uint64_t value;           /* of wire 0, 1 and 5 */
	struct proto_bytes bytes; /* of wire 2 */
};

/* The field at the start of `*rest`, which moves behind it. 1 there is one, 0 the end,
 * -SPLIT_E_LINEARIZE_PROTO malformed. Start and end of a group are skipped together. */
int proto_next(struct proto_bytes *rest, struct proto_item *out);

#endif
