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

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* --- Schema, host side ------------------------------------------------------------------ */

/* Syntax of a message. It decides the UTF-8 rule: strings of proto3 are checked on decode. */
enum schema_syntax {
	SCHEMA_SYNTAX_UNKNOWN = 0, /* proto3 if any field has LABEL_NONE, else unchecked */
	SCHEMA_SYNTAX_PROTO2 = 2,
	SCHEMA_SYNTAX_PROTO3 = 3,
};

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

/* Say which syntax an added message type has, where descriptors cannot tell.
 * 0, -SPLIT_E_BASE_INVALID (no such index). */
SPLIT_MUST_USE int schema_builder_set_syntax(struct schema_builder *b, uint32_t index,
					     enum schema_syntax syntax);

/* Write the blob of all types added so far. 0, -SPLIT_E_BASE_NOMEM. */
SPLIT_MUST_USE int schema_builder_finish(struct schema_builder *b, struct schema_blob *out);

/* NULL is allowed. */
void schema_builder_destroy(struct schema_builder *b);

/* --- Schema, daemon side ---------------------------------------------------------------- */

struct schema;
struct schema_message;

struct schema_limits {
	uint32_t blob_bytes_max;
	uint32_t messages_max;
	uint32_t fields_max;        /* over all messages */
	uint32_t message_bytes_max; /* sizeof one message struct */
};

/* 16 MiB blob, 16384 messages, 262144 fields, 64 KiB structs: far above real services, and
 * tables of at most some 100 MiB. */
extern const struct schema_limits schema_limits_default;

/* Validate a blob from a host and compile its tables. `blob` is read once into private memory
 * first, so it may lie in shared memory; it is not needed afterwards. `limits` NULL: the defaults.
 * `*out` is owned by the caller. 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_LINEARIZE_SCHEMA,
 * ..._SCHEMA_VERSION, ..._SCHEMA_LAYOUT, ..._SCHEMA_LIMIT. */
SPLIT_MUST_USE int schema_parse(const void *blob, size_t len, const struct schema_limits *limits,
				struct schema **out);

/* NULL is allowed. No job may be using it. */
void schema_destroy(struct schema *s);

/* Message by index (as schema_builder_add gave it); NULL if there is none. */
const struct schema_message *schema_message_at(const struct schema *s, uint32_t index);
uint32_t schema_message_count(const struct schema *s);
/* Full name ("pkg.Type"), at most 512 bytes of [A-Za-z0-9_.]; NULL if there is none. */
const struct schema_message *schema_message_find(const struct schema *s, const char *name);
const char *schema_message_name(const struct schema_message *m);
/* sizeof the message struct in the host. */
size_t schema_message_bytes(const struct schema_message *m);

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
};

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

/* After 0: the receiver's address of the message. The outermost struct lies at the very start of
 * the first chunk. */
uint64_t decode_root(const struct decode_job *j);

/* Bytes used of the chunk got last, from its start; what is past it may be given back. */
size_t decode_chunk_used(const struct decode_job *j);
/* Linear bytes used in all, and work units spent so far. */
uint64_t decode_linear_bytes(const struct decode_job *j);
uint64_t decode_work(const struct decode_job *j);

/* --- Encode ----------------------------------------------------------------------------- */

/* The peer's writable memory: its addresses [peer_base, peer_base + bytes) lie at `mem` here.
 * Hostile and changing: each word is loaded once, every pointer is checked into this window. */
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
 * message has no piece. */
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

/* --- Errors ----------------------------------------------------------------------------- */

/* The gRPC status code for a job's negative error: 8 RESOURCE_EXHAUSTED for the limits and for no
 * room, 13 INTERNAL for all else, as gRPC C++ answers a message that it cannot parse. 0 for 0. */
int linearize_map_status(int error);

#endif
