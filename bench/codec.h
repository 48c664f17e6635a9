/* split-perf codec: the message sets that are measured. codec.c measures and reports, codec_sets.c
 * makes and opens them, codec_data.c reads those of the command line. */
#ifndef SPLITD_BENCH_CODEC_H
#define SPLITD_BENCH_CODEC_H

#include <protobuf-c/protobuf-c.h>

#include "bench/codec/codec_cpp.h"
#include "bench/codec/codec_upb.h"
#include "bench/perf.h"
#include "linearize/descriptor/descriptor.h"
#include "linearize/linearize.h"

enum codec_engine {
	DECODE_FAST,
	DECODE_FAST_ALIAS,
	DECODE_GENERIC,
	DECODE_PROTOBUF_C,
	DECODE_PROTOBUF_C_BUMP,
	DECODE_LIBPROTOBUF,
	DECODE_UPB,
	DECODE_UPB_ALIAS,
	DECODE_MEMCPY,
	ENCODE_FAST,
	ENCODE_GENERIC,
	ENCODE_PROTOBUF_C,
	ENCODE_LIBPROTOBUF,
	ENCODE_UPB,
	FLATTEN_GENERIC,
	FLATTEN_PLANNED,  /* what host-lib does */
	FLATTEN_WALKED,   /* the same with a message that lies in the segment already */
	FLATTEN_PROMISED, /* the same, and the handler said so: split_call_in_place */
	CODEC_ENGINES
};

/* A bump allocator over one buffer: linear chunks, protobuf-c's bump mode, encode's sink. */
struct bump {
	uint8_t *mem;
	size_t bytes, used;
};

struct codec_message {
	uint8_t *wire;
	size_t bytes;
	ProtobufCMessage *heap; /* unpacked, to be packed again */
	struct bump linear;     /* decoded, to be encoded again */
	uint64_t root;
	/* Aliasing decode ends strings on the wire itself: a copy of its own, and the bytes that it
	 * changes there, to be put back each time. */
	uint8_t *alias_wire;
	uint32_t *changed;
	size_t changed_n;
};

/* Messages of one shape. */
struct codec_set {
	char name[256]; /* as the rows call it */
	char type[256]; /* full name */
	bool small;     /* structured, not dominated by memcpy: counts in the geometric means */
	bool built_in;  /* our own messages: whatever disagrees is a bug here */
	const ProtobufCMessageDescriptor *descriptor;
	const struct schema_message *schema;
	struct flatten_plan *plan;
	struct codec_cpp *cpp;
	const char *cpp_engine; /* "libprotobuf", "libprotobuf-dynamic" */
	struct codec_upb *upb;
	struct codec_message *messages;
	unsigned n;
	bool can[CODEC_ENGINES]; /* what the set can be measured with */
	struct bump out;
	unsigned rotation;
	char *const *files; /* of the command line; NULL: built in */
	bool single;
};

/* What the sets are made of; owned until codec_sets_close. */
struct codec_sets {
	struct codec_set *sets;
	unsigned n;
	struct proto_set *proto;
	struct schema_types *types;
	struct schema *schema;
	uint8_t *proto_bytes;
	size_t proto_len;
	const char *cpp_dynamic; /* why there is no generated code; NULL: there is */
};

/* The built-in sets. 0, or a negative code after a line. */
int codec_sets_built_in(struct codec_sets *out);

/* Of the command line: one set for each data file, or one for all (`single`: a file is one
 * message). `compile`: make the C++ peer with protoc and the compiler, else DynamicMessage. 0, or a
 * negative code after one line that names the file, the message (from 0) and what was expected. */
int codec_sets_of_files(struct codec_sets *out, const char *proto_set, const char *type,
			char *const *files, unsigned n, bool single, bool compile);
void codec_sets_close(struct codec_sets *sets);

/* Prepare a set for measuring: every engine takes every message, and those that should agree do.
 * 0, or a negative code after a line. */
int codec_set_open(struct codec_set *s);
void codec_set_close(struct codec_set *s);

/* One operation on message `i`. 0 or a negative code. */
int codec_operate(struct codec_set *s, enum codec_engine engine, unsigned i);

/* codec_compile.c: build C++ code for the files of `proto` that this process does not have, and
 * load it. False: `why` (200 bytes) says what was missing. */
bool codec_compile(const char *proto_set, const struct proto_set *proto, char *why);

#endif
