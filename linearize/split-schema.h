/* What generated code knows of message types beyond protobuf-c's descriptors: the tables that
 * protoc-gen-split writes. Installed; needs protobuf-c's header only, so that generated code may
 * include it wherever it is compiled; linearize.h (schema_builder_add_info) takes it in.
 *
 * All of it is constant data with static lifetime.
 */
#ifndef SPLITD_LINEARIZE_SPLIT_SCHEMA_H
#define SPLITD_LINEARIZE_SPLIT_SCHEMA_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

/* Syntax of a message or file. Editions are refused. */
enum schema_syntax {
	SCHEMA_SYNTAX_UNKNOWN = 0, /* proto3 if any field has LABEL_NONE, else unknown */
	SCHEMA_SYNTAX_PROTO2 = 2,
	SCHEMA_SYNTAX_PROTO3 = 3,
};

#define SCHEMA_FIELD_UTF8     (1u << 0) /* string: refused unless UTF-8 */
#define SCHEMA_FIELD_OPTIONAL (1u << 1) /* proto3 `optional`: has presence of its own */
#define SCHEMA_FIELD_ACC      (1u << 2) /* (split.acc) = true */

struct schema_field_info {
	uint32_t number;
	uint32_t flags;        /* SCHEMA_FIELD_* */
	const char *json_name; /* NULL: lowerCamelCase of the name */
};

#define SCHEMA_MESSAGE_MAP_ENTRY (1u << 0) /* the entry type of a map field */

struct schema_message_info {
	const ProtobufCMessageDescriptor *descriptor;
	uint32_t flags; /* SCHEMA_MESSAGE_* */
	uint32_t fields_n;
	const struct schema_field_info
		*fields; /* ascending by number; fields without flags may lack */
};

#define SCHEMA_ENUM_CLOSED (1u << 0) /* proto2: a number without a name is an unknown field */

struct schema_enum_info {
	const ProtobufCEnumDescriptor *descriptor;
	uint32_t flags; /* SCHEMA_ENUM_* */
};

/* One .proto file. */
struct schema_file_info {
	const char *name;          /* "dir/name.proto" */
	enum schema_syntax syntax; /* of all its messages */
	uint32_t messages_n, enums_n;
	const struct schema_message_info *messages; /* nested ones and map entries too */
	const struct schema_enum_info *enums;
	/* Serialised FileDescriptorSet: this file after all that it imports; NULL: not known. */
	const uint8_t *descriptor_set;
	size_t descriptor_set_bytes;
};

#endif
