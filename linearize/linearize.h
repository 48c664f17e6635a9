/* Protobuf messages as memory: schema, wire -> linear decode, linear -> wire encode, flatten.
 *
 * A linear message is the protobuf-c struct of a message with everything it points to, in 16-byte
 * aligned chunks, every pointer absolute in the receiver's address space. docs/LINEARIZE.md holds
 * the format; DESIGN.md ("Linearize: the message is the memory") the reasons.
 *
 * Threads: a builder, a parse and a job belong to one thread at a time. A parsed schema is
 * immutable and may be read by any number of threads. Nothing here locks, and nothing but
 * schema_builder_* and schema_parse calls malloc.
 *
 * Protocol: the host builds a schema from its message descriptors and sends the blob at attach;
 * the daemon parses it (hostile input) into tables, then runs decode jobs into the host's segment
 * and encode jobs out of it. A job that used up its quantum returns SPLIT_AGAIN and is run again
 * later; it may also just be forgotten, since it owns nothing.
 *
 * Only 64-bit little-endian hosts are served; others are refused with LINEARIZE_SCHEMA_LAYOUT.
 */
#ifndef SPLITD_LINEARIZE_LINEARIZE_H
#define SPLITD_LINEARIZE_LINEARIZE_H

#include "base/error.h"
#include "linearize/split-schema.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* --- Schema, host side ------------------------------------------------------------------ */

/* enum schema_syntax and the tables of generated code are in split-schema.h. */
struct schema_builder;

/* Position independent, owned by the caller: free(blob.bytes). */
struct schema_blob {
	uint8_t *bytes;
	size_t len;
};

/* `*out` is owned by the caller. 0, -SPLIT_E_BASE_NOMEM. */
SPLIT_MUST_USE int schema_builder_create(struct schema_builder **out);

/* Add a message type and all that it reaches; a type added twice gets the same index. The
 * descriptors must outlive the builder. `*index_out` (may be NULL) is its index in the schema.
 * 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_LINEARIZE_DESCRIPTOR (`d` or one it reaches is no sound
 * descriptor). After an error only destroy may be called. */
SPLIT_MUST_USE int schema_builder_add(struct schema_builder *b, const ProtobufCMessageDescriptor *d,
				      uint32_t *index_out);

/* Say which syntax an added message type has, where descriptors cannot tell: proto3 means that its
 * strings are checked for UTF-8. 0, -SPLIT_E_BASE_INVALID (no such index). */
SPLIT_MUST_USE int schema_builder_set_syntax(struct schema_builder *b, uint32_t index,
					     enum schema_syntax syntax);

/* Say what generated code knows of the types of one file, before or after they are added; types
 * that never are added are left out. `info` must outlive the builder. A file twice counts once.
 * Descriptor sets are joined, each file (by its name) once. 0, -SPLIT_E_BASE_NOMEM,
 * -SPLIT_E_LINEARIZE_DESCRIPTOR (its descriptor set is none). */
SPLIT_MUST_USE int schema_builder_add_info(struct schema_builder *b,
					   const struct schema_file_info *info);

/* Write the blob of all types added so far. 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_LINEARIZE_DESCRIPTOR.
 */
SPLIT_MUST_USE int schema_builder_finish(struct schema_builder *b, struct schema_blob *out);

/* NULL is allowed. */
void schema_builder_destroy(struct schema_builder *b);

/* --- Schema, daemon side ---------------------------------------------------------------- */

struct schema;
struct schema_message;
struct schema_enum;

struct schema_limits {
	uint32_t blob_bytes_max;
	uint32_t messages_max;
	uint32_t fields_max;        /* over all messages */
	uint32_t message_bytes_max; /* sizeof one message struct */
	uint32_t set_bytes_max;     /* the descriptor set in the blob; 0: blob_bytes_max */
};

/* 16 MiB blob, 16384 messages, 262144 fields, 64 KiB structs, 8 MiB descriptor set: far above real
 * services, and tables of at most some 100 MiB. */
extern const struct schema_limits schema_limits_default;

/* Validate a blob from a host and compile its tables. `blob` is read once into private memory
 * first, so it may lie in shared memory; it is not needed afterwards. `limits` NULL: the defaults.
 * `*out` is owned by the caller. 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_LINEARIZE_SCHEMA,
 * ..._SCHEMA_VERSION, ..._SCHEMA_LAYOUT, ..._SCHEMA_LIMIT. */
SPLIT_MUST_USE int schema_parse(const void *blob, size_t len, const struct schema_limits *limits,
				struct schema **out);

/* NULL is allowed. No job may be using it. With schema_get: gives up one reference. */
void schema_destroy(struct schema *s);

/* One more owner: each ends with schema_destroy. One thread for all references of a schema. */
struct schema *schema_get(struct schema *s);
unsigned schema_refs(const struct schema *s);

/* Was `s` parsed from just these bytes? Endpoints that bring the same blob share one schema. The
 * hash is one of the blob's bytes, the same in every process. */
bool schema_is_from(const struct schema *s, const void *blob, size_t len);
uint64_t schema_hash(const struct schema *s);
uint64_t schema_blob_hash(const void *blob, size_t len);

/* Are they parsed from the same bytes, amended alike? */
bool schema_equal(const struct schema *a, const struct schema *b);

/* Let what `set` (linearize/descriptor/) says of the messages and enums that it knows, by name, be
 * what the schema says: syntax, UTF-8, closed enums, proto3 `optional`, map entries, (split.acc).
 * For hosts that were built without protoc-gen-split. `*schema`, with one reference, may become
 * another one. Limits as in schema_parse. 0, or an error of schema_parse: then `*schema` is as it
 * was. */
struct proto_set;
SPLIT_MUST_USE int schema_amend(struct schema **schema, const struct proto_set *set,
				const struct schema_limits *limits);

/* Message by index (as schema_builder_add gave it); NULL if there is none. */
const struct schema_message *schema_message_at(const struct schema *s, uint32_t index);
uint32_t schema_message_count(const struct schema *s);
/* Full name ("pkg.Type"), at most 512 bytes of [A-Za-z0-9_.]; NULL if there is none. */
const struct schema_message *schema_message_find(const struct schema *s, const char *name);
const char *schema_message_name(const struct schema_message *m);
/* sizeof the message struct in the host. */
size_t schema_message_bytes(const struct schema_message *m);
const struct schema *schema_of_message(const struct schema_message *m);

/* The FileDescriptorSet that the host brought, serialised and not looked at: hostile bytes, for
 * linearize/descriptor/ to read. They live as long as `s`. NULL and 0 if there is none. */
const uint8_t *schema_descriptor_set(const struct schema *s, size_t *len_out);

/* A method, for a schema that brings no descriptor set. */
struct schema_method {
	const char *service; /* full name */
	const char *method;
	uint32_t input, output; /* indexes in the schema */
	bool client_streams, server_streams;
};

/* Make a FileDescriptorSet of what the schema knows: one file for each package, named
 * "synthesised-by-splitd/PACKAGE.proto", and one with the services. Oneof names, options, comments
 * and the files' real names are not known to protobuf-c's descriptors. Types that make two packages
 * need each other are left out, with the methods that use them. `*out` is the caller's: free().
 * 0, -SPLIT_E_BASE_NOMEM. */
SPLIT_MUST_USE int schema_synthesise(const struct schema *s, const struct schema_method *methods,
				     size_t n, uint8_t **out, size_t *len_out);

/* --- Types without generated code --------------------------------------------------------- */

/* Message types of a descriptor set (linearize/descriptor/), with the structs that protoc-c would
 * lay out and the descriptors that it would write: good for protobuf_c_message_unpack and pack too,
 * and for schema_builder_add. Groups, which protobuf-c has not, are unknown fields. */
struct schema_types;

/* `set` must outlive `*out`, which is the caller's. 0, -SPLIT_E_BASE_NOMEM. */
SPLIT_MUST_USE int schema_types_create(const struct proto_set *set, struct schema_types **out);
/* NULL is allowed. No message of its types may be left. */
void schema_types_destroy(struct schema_types *t);
/* By full name; NULL if there is none. */
const ProtobufCMessageDescriptor *schema_types_message(const struct schema_types *t,
						       const char *name);
/* A schema of all its messages, for messages of this process. Errors as of schema_builder_add and
 * schema_parse. `*out` is the caller's and needs `t` no more, but its messages do: their
 * base.descriptor and defaults lie there. */
SPLIT_MUST_USE int schema_types_compile(const struct schema_types *t,
					const struct schema_limits *limits, struct schema **out);

/* --- Looking into a schema (tools, JSON view) -------------------------------------------- */

enum schema_presence {
	SCHEMA_PRESENCE_ZERO,     /* there unless zero or empty */
	SCHEMA_PRESENCE_REQUIRED, /* always there */
	SCHEMA_PRESENCE_POINTER,  /* string, sub-message: unless NULL (optional: or the default) */
	SCHEMA_PRESENCE_HAS,      /* 32-bit word at `quantifier` is not 0 */
	SCHEMA_PRESENCE_ONEOF,    /* 32-bit word at `quantifier` is the field's number */
	SCHEMA_PRESENCE_REPEATED, /* size_t count at `quantifier`, array at `offset` */
};

struct schema_field_view {
	const char *name; /* no NUL */
	uint32_t name_bytes;
	uint32_t json_name_bytes;
	const char *json_name; /* no NUL; NULL: lowerCamelCase of the name */
	uint32_t number;
	ProtobufCType type;
	enum schema_presence presence;
	uint32_t flags; /* SCHEMA_FIELD_* */
	bool packed;
	uint32_t offset, quantifier;          /* in the struct */
	uint32_t bytes;                       /* of one element there */
	const struct schema_message *message; /* of type MESSAGE */
	const struct schema_enum *enumeration;
	uint64_t
		default_address; /* string, bytes: what the member holds when it is not set; or 0 */
	const uint8_t *default_data;
	uint32_t default_bytes;
};

uint32_t schema_field_count(const struct schema_message *m);
/* `i` < count; ascending by number. */
void schema_field_at(const struct schema_message *m, uint32_t i, struct schema_field_view *out);
/* SCHEMA_MESSAGE_*, and the syntax as far as it is known. */
uint32_t schema_message_flags(const struct schema_message *m);
enum schema_syntax schema_message_syntax(const struct schema_message *m);
/* Address of protobuf_c_empty_string in the host. */
uint64_t schema_empty_string(const struct schema_message *m);
const char *schema_enum_name(const struct schema_enum *e, uint32_t *bytes_out);
bool schema_enum_is_closed(const struct schema_enum *e);
/* The first name of a number, no NUL; NULL if it has none. */
const char *schema_enum_value(const struct schema_enum *e, int32_t number, uint32_t *bytes_out);

/* --- Limits and memory ------------------------------------------------------------------ */

/* Nesting levels below the outermost message that a job has room for (C++'s default limit). */
#define LINEAR_DEPTH_MAX 100

/* One unit of work is a field, an element, or this many bytes copied, scanned or cleared. */
#define LINEAR_UNIT_BYTES 256

/* Zero means "no limit" for every member but depth_max, where it means LINEAR_DEPTH_MAX. */
struct linear_limits {
	uint64_t linear_bytes_max; /* decode, flatten: memory used, including alignment */
	uint64_t elements_max;     /* messages, array elements, unknown fields, strings and bytes */
	uint64_t wire_bytes_max;   /* decode: input; encode: output */
	uint32_t depth_max;        /* more than LINEAR_DEPTH_MAX counts as LINEAR_DEPTH_MAX */
	uint32_t work_quantum;     /* units until a run returns SPLIT_AGAIN */
	uint64_t work_max;         /* units of a whole job */
};

/* 64 MiB linear, 4 Mi elements, 4 MiB wire, depth 100, 16384 units a run, 64 Mi units in all. */
extern const struct linear_limits linear_limits_default;

/* Memory as this process sees it; `mem` is 16-byte aligned for decode and flatten. */
struct linear_chunk {
	uint8_t *mem;
	size_t bytes;
};

/* Where decode and flatten write. chunk_get gives one more chunk of at least `bytes_min`;
 * `bytes_want` (>= bytes_min) is a hint that fits the rest of the message well. Returns 0, or a
 * negative error that the job then ends with. Chunks got belong to the caller in every outcome.
 * The memory may hold anything; only this process may write to it while the job lives. */
struct linear_target {
	int64_t delta; /* receiver's address = this process's address + delta */
	int (*chunk_get)(void *ctx, size_t bytes_min, size_t bytes_want, struct linear_chunk *out);
	void *ctx;
	/* Decode only. Not 0: strings and bytes of at least so many bytes (LINEAR_ALIAS_LEAST or
	 * more) are not copied; the message points to where they lie on the wire. For that the wire
	 * lies in the receiver's memory too, under the same delta, is writable and has one byte
	 * more than `len`, and stays as long as the message when decode_aliased() is not 0. Nothing
	 * on the wire is changed before the job is done; then a NUL stands after each such string.
	 */
	uint32_t alias_min;
};

/* Below that, copying is cheaper than what it would spare. */
#define LINEAR_ALIAS_LEAST 128

/* --- Engines ----------------------------------------------------------------------------- */

/* Two engines, one truth: whatever one gives, the other gives byte for byte. The fast one takes the
 * usual and leaves the rest to the generic one, which can do all. */
enum linearize_engine {
	LINEARIZE_ENGINE_GENERIC,
	LINEARIZE_ENGINE_FAST,
};

/* The engine of the jobs that this process starts from now on; jobs under way keep theirs. Any
 * thread, any time. 0, -SPLIT_E_BASE_INVALID (no such engine). The default is what the build says
 * (-Dlinearize_engine); a build with `generic` has no other, and answers -SPLIT_E_BASE_INVALID. */
SPLIT_MUST_USE int linearize_engine_set(enum linearize_engine engine);
enum linearize_engine linearize_engine_get(void);

/* The fast engine is compiled for every machine and, on x86-64, again for BMI2 and AVX2; the best
 * that this machine can run is taken. For tests and benches: the portable one for the jobs that are
 * started from now on, or the best again. */
void linearize_portable_set(bool portable);
const char *linearize_variant_name(void);

/* --- Decode ----------------------------------------------------------------------------- */

#define DECODE_JOB_BYTES 6144

/* In the caller's memory; its inside is private. */
struct decode_job {
	_Alignas(16) uint8_t opaque[DECODE_JOB_BYTES];
};

/* Prepare to decode `len` contiguous bytes at `wire` as a message of type `m`. `m`, `wire` and
 * whatever target->ctx points to must stay until the job is done or forgotten; `*target` and
 * `*limits` are copied. limits NULL: the defaults. 0, -SPLIT_E_LINEARIZE_LIMIT_WIRE. */
SPLIT_MUST_USE int decode_start(struct decode_job *j, const struct schema_message *m,
				const uint8_t *wire, size_t len, const struct linear_target *target,
				const struct linear_limits *limits);

/* Run for one quantum. 0 done, SPLIT_AGAIN call again, or a negative error, final:
 * -SPLIT_E_LINEARIZE_* or what chunk_get returned. Equal to protobuf_c_message_unpack where that
 * is right; docs/LINEARIZE.md lists where it is not. */
SPLIT_MUST_USE int decode_run(struct decode_job *j);

/* After 0, and after -SPLIT_E_LINEARIZE_REQUIRED, when all of it was read: the receiver's address
 * of the message. The outermost struct lies at the very start of the first chunk. */
uint64_t decode_root(const struct decode_job *j);

/* Bytes used of the chunk got last, from its start; what is past it may be given back. */
size_t decode_chunk_used(const struct decode_job *j);
/* After 0: how many strings and bytes of the message lie on the wire itself. */
uint64_t decode_aliased(const struct decode_job *j);
/* After an error, where: the offset on the wire of the tag of the field that was refused (`len`
 * where required fields are missing). After LIMIT_WORK one that lies not after it, for the usual is
 * not kept track of. */
uint64_t decode_where(const struct decode_job *j);
/* Linear bytes used in all, and work units spent so far. */
uint64_t decode_linear_bytes(const struct decode_job *j);
uint64_t decode_work(const struct decode_job *j);

/* --- Encode ----------------------------------------------------------------------------- */

/* The peer's writable memory: its addresses [peer_base, peer_base + bytes) lie at `mem` here.
 * Hostile and changing: each word is loaded once, every pointer is checked into this window. All of
 * it is mapped (of one above 1 TiB only what the message points to need be). */
struct linear_source {
	const uint8_t *mem;
	uint64_t peer_base;
	size_t bytes;
};

/* Where encode writes. Each chunk is filled from its end towards its start and is full before the
 * next one is asked for; `bytes_want` is only a hint and any size > 0 will do. Alignment does not
 * matter. Errors and ownership as for linear_target. */
struct encode_sink {
	int (*chunk_get)(void *ctx, size_t bytes_want, struct linear_chunk *out);
	void *ctx;
};

#define ENCODE_JOB_BYTES 12288
/* Chunks that a job remembers for encode_result; more are legal, but only the sink knows them. */
#define ENCODE_CHUNKS_MAX 128

struct encode_job {
	_Alignas(16) uint8_t opaque[ENCODE_JOB_BYTES];
};

/* Prepare to encode the message of type `m` at the peer's address `root`. `m`, the source memory
 * and sink->ctx must stay; the structs are copied. Always 0 today; errors are for the future. */
SPLIT_MUST_USE int encode_start(struct encode_job *j, const struct schema_message *m,
				const struct linear_source *source, uint64_t root,
				const struct encode_sink *sink, const struct linear_limits *limits);

/* Run for one quantum; results as decode_run. Output equals protobuf_c_message_pack for a
 * well-formed message, whatever base.descriptor holds. */
SPLIT_MUST_USE int encode_run(struct encode_job *j);

/* After 0: the output in wire order. Writes up to `n` pieces and returns how many, or
 * -SPLIT_E_LINEARIZE_CHUNKS when there are more than `n` or than ENCODE_CHUNKS_MAX. An empty
 * message has no piece, though a chunk was asked for. */
int encode_result(const struct encode_job *j, struct iovec *iov, size_t n);

uint64_t encode_bytes(const struct encode_job *j);
/* First byte written in the chunk got last (NULL before the first); with encode_bytes this is
 * enough for a sink that keeps its own list. */
uint8_t *encode_head(const struct encode_job *j);
uint64_t encode_work(const struct encode_job *j);

/* --- Flatten ---------------------------------------------------------------------------- */

/* Host side: copy an ordinary protobuf-c message (trusted, by its own descriptor) into linear
 * memory of `target`. Whatever lies in [inside, inside + inside_bytes) already (this process's
 * addresses; 0 bytes: nothing does) is left where it is and pointed to, so a message built with the
 * call's allocator costs a walk only; requires target->delta == 0 then. Pointers to defaults and to
 * protobuf_c_empty_string are kept. The source is not changed. `*root_out`: the receiver's address.
 * Not resumable; limits NULL: the defaults, quantum and wire bytes unused.
 * 0, -SPLIT_E_LINEARIZE_NOMEM/DEPTH/LIMIT_*, -SPLIT_E_LINEARIZE_SOURCE (counts without array),
 * or what chunk_get returned. */
SPLIT_MUST_USE int flatten(const ProtobufCMessage *msg, const struct linear_target *target,
			   const void *inside, size_t inside_bytes,
			   const struct linear_limits *limits, uint64_t *root_out);

/* What flatten does, with the types looked at beforehand: several times faster. Same results. The
 * plan is for messages of type `d` and all that it reaches, whose descriptors must outlive it; any
 * number of threads may use it. `*out` is owned by the caller. 0, -SPLIT_E_BASE_NOMEM,
 * -SPLIT_E_LINEARIZE_DESCRIPTOR. */
struct flatten_plan;
SPLIT_MUST_USE int flatten_plan_create(const ProtobufCMessageDescriptor *d,
				       struct flatten_plan **out);
/* NULL is allowed. */
void flatten_plan_destroy(struct flatten_plan *plan);
SPLIT_MUST_USE int flatten_planned(const struct flatten_plan *plan, const ProtobufCMessage *msg,
				   const struct linear_target *target, const void *inside,
				   size_t inside_bytes, const struct linear_limits *limits,
				   uint64_t *root_out);

/* The same for a message that may fit the `bytes` at `mem` (16-byte aligned; the receiver sees them
 * at the same address), where its struct comes first: *used_out of them. -SPLIT_E_LINEARIZE_NOMEM:
 * it does not fit; what is at `mem` then is nonsense. */
SPLIT_MUST_USE int flatten_into(const struct flatten_plan *plan, const ProtobufCMessage *msg,
				void *mem, size_t bytes, size_t *used_out);

/* For a message of which all that it points to is known to lie in the receiver's memory already
 * (defaults and the empty string excepted): nothing is looked at. The struct itself stays if it
 * lies in [inside, inside + inside_bytes), else it alone is copied. An encode job checks every
 * pointer in any case: one that leads elsewhere ends it with -SPLIT_E_LINEARIZE_POINTER. 0,
 * -SPLIT_E_LINEARIZE_SOURCE (no descriptor), or what chunk_get returned. */
SPLIT_MUST_USE int flatten_root(const ProtobufCMessage *msg, const struct linear_target *target,
				const void *inside, size_t inside_bytes, uint64_t *root_out);

/* --- Relocate --------------------------------------------------------------------------- */

/* A linear message as one block that means the same at any address, for a stream between machines
 * (docs/SOCKET.md): base.descriptor is 0, a pointer is the offset of what it points to from the
 * block's start, or 0 NULL, 1 the field's default, 2 protobuf_c_empty_string. Pieces lie in the
 * order in which a walk by the schema meets them, structs and arrays 8-byte aligned. No address of
 * the sender is in it. Both directions recurse at most depth_max deep and take no memory. */

/* Copy the message at the peer's address `root` into such a block at `to` (8-byte aligned); with
 * `to` NULL only count. The source is checked as by an encode job; if it changes meanwhile, what
 * is written is still within `room`, and the receiver refuses it. *bytes_out: its length. limits
 * NULL: the defaults; linear_bytes_max, elements_max and depth_max count. 0,
 * -SPLIT_E_LINEARIZE_POINTER/DEPTH/LIMIT_LINEAR (also: not in `room`)/LIMIT_ELEMENTS. */
SPLIT_MUST_USE int relocate_out(const struct schema_message *m, const struct linear_source *source,
				uint64_t root, const struct linear_limits *limits, uint8_t *to,
				size_t room, size_t *bytes_out);

/* Make a message of a hostile block, in place and in one pass: every offset must name the very next
 * piece, and becomes a pointer in the receiver's address space (address here + delta); descriptor,
 * defaults and empty string are those of `m`. `mem` is 8-byte aligned and this process's alone;
 * afterwards the message lies at its start. What is checked is the form, not UTF-8 nor enums. On
 * failure the memory holds nonsense. 0, -SPLIT_E_LINEARIZE_POINTER/DEPTH/LIMIT_LINEAR/
 * LIMIT_ELEMENTS/SOURCE (bytes left over). */
SPLIT_MUST_USE int relocate_in(const struct schema_message *m, uint8_t *mem, size_t bytes,
			       int64_t delta, const struct linear_limits *limits);

/* Take the addresses out of a blob that schema_builder_finish has made (8-byte aligned, as malloc
 * gives it): in their places are the numbers above, so that what is decoded by it is a message that
 * relocate_out can send. 0, -SPLIT_E_LINEARIZE_SCHEMA (it is none). */
SPLIT_MUST_USE int schema_blob_portable(uint8_t *blob, size_t len);

/* --- Errors ----------------------------------------------------------------------------- */

/* The gRPC status code for a job's negative error: 8 RESOURCE_EXHAUSTED for the limits and for no
 * room, 13 INTERNAL for all else, as gRPC C++ answers a message that it cannot parse. 0 for 0. */
int linearize_map_status(int error);

#endif
