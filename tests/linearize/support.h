/* What the tests of linearize/ share: memory with exact bounds, schemas, comparison with
 * protobuf-c, and the list of inputs on which protobuf-c is not right. */
#ifndef SPLITD_TESTS_LINEARIZE_SUPPORT_H
#define SPLITD_TESTS_LINEARIZE_SUPPORT_H

#include "base/random.h"
#include "linearize/linearize.h"

#include <stdbool.h>

/* --- Memory ------------------------------------------------------------------------------- */

enum chunk_policy { CHUNK_EXACT, CHUNK_WANT, CHUNK_LARGE };

/* Chunks from malloc, so that ASan sees every byte past them. */
struct arena {
	enum chunk_policy policy;
	int fail_at; /* the nth chunk_get fails; 0: none */
	int got;     /* chunk_gets so far */
	size_t most; /* encode: largest chunk given; 0: what is wanted */
	struct linear_chunk *chunks;
	int count;
};

void arena_init(struct arena *a, enum chunk_policy policy);
void arena_fini(struct arena *a);
struct linear_target arena_target(struct arena *a);
struct encode_sink arena_sink(struct arena *a);

/* One fixed block as a target: flat memory that can be an encode source too. */
struct block {
	uint8_t *mem;
	size_t bytes, used;
	int64_t delta;
};

struct linear_target block_target(struct block *b);

/* --- Schemas ------------------------------------------------------------------------------ */

/* A schema of one root type and what it reaches; aborts on failure. */
struct schema *schema_of(const ProtobufCMessageDescriptor *d, const struct schema_message **root);

/* --- Jobs in one call ------------------------------------------------------------------------- */

/* Decode with the given quantum (0: none). Counts the runs in *runs_out if not NULL. */
int decode_all(const struct schema_message *m, const uint8_t *wire, size_t len,
	       const struct linear_target *target, struct linear_limits limits, uint64_t *root_out,
	       unsigned *runs_out);

/* Encode into malloc'ed bytes (*out, the caller's). */
int encode_all(const struct schema_message *m, const struct linear_source *source, uint64_t root,
	       struct linear_limits limits, size_t chunk_most, uint8_t **out, size_t *len_out);

/* All of this process's memory as a source (only for messages that are known good). */
struct linear_source source_everything(void);

extern const struct linear_limits unlimited;

/* --- Comparison ---------------------------------------------------------------------------------
 */

/* Deep walk of both structs by the descriptor; pointers of `b` are taken minus `delta`. Writes why
 * not into `why` (200 bytes) when they differ. */
bool message_equal(const ProtobufCMessage *a, const ProtobufCMessage *b, int64_t delta, char *why);

/* --- Where protobuf-c 1.4.1 is not right
 * ------------------------------------------------------------ */

/* X(name, what protobuf-c does). Each is asserted, with what linearize does, in quirks_test.c. */
#define QUIRKS(X)                                                                                  \
	X(MERGE, "a repeated singular sub-message: merge loses fields or fails")                   \
	X(GROUP, "groups are refused; they are legal unknown fields")                              \
	X(WIRE, "a known field of another wire type is refused, or misread: bool")                 \
	X(BOOL_VALUE, "a bool varint counts bits past 64")                                         \
	X(PACKED_BOOL, "each byte of a packed bool is an element, unchecked")                      \
	X(TAG, "tags past 32 bits are cut; field number 0 passes in long form")                    \
	X(UTF8, "proto3 strings are not checked")                                                  \
	X(ENUM_CLOSED, "all enums are open")                                                       \
	X(DEPTH, "no limit of nesting: the stack is the limit")

enum quirk_bit {
#define X(name, what) QUIRK_BIT_##name,
	QUIRKS(X)
#undef X
		QUIRK_COUNT
};

/* The quirks that this input would meet in protobuf_c_message_unpack, as a mask of quirk bits.
 * Never misses one before the first error; `utf8`: proto3 rule by LABEL_NONE as in schema_syntax.
 */
extern bool quirks_enums_closed; /* the schema says closed of all its enums */
unsigned quirks_of(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t len);

/* --- Random schemas and messages
 * ---------------------------------------------------------------------- */

struct random_schema;

/* A set of message types built in memory from the generator, all label and type combinations. */
struct random_schema *random_schema_create(struct random *r);
void random_schema_destroy(struct random_schema *s);
const ProtobufCMessageDescriptor *random_schema_root(const struct random_schema *s);

struct wire {
	uint8_t *bytes;
	size_t len, room;
};

/* A random well-formed message of type `d` on the wire, fields in any order, arrays interleaved,
 * packed or not as it comes. `clean`: without what QUIRKS lists. */
void random_wire(struct random *r, const ProtobufCMessageDescriptor *d, bool clean,
		 struct wire *out);
/* Change some bytes, lengths or the end of it. */
void random_mutate(struct random *r, struct wire *w);
void wire_put(struct wire *w, const void *bytes, size_t len);
void wire_varint(struct wire *w, uint64_t v);
void wire_tag(struct wire *w, uint32_t number, unsigned wire_type);

/* --- The differential check that all generated tests run
 * -------------------------------------------------- */

struct check_counts {
	unsigned inputs, accepted, refused, quirky;
	unsigned by_quirk[QUIRK_COUNT];
};

/* Decode in several ways, compare with protobuf-c and with each other, encode, flatten. Aborts with
 * the label (a seed) on any difference. */
void check_input(const char *label, struct random *r, const ProtobufCMessageDescriptor *d,
		 const struct schema_message *m, const struct wire *w, struct check_counts *counts);

/* Both engines over the same input, with random limits and chunks, decode and then encode of what
 * came out and of what a lying peer makes of it. Aborts where they differ. */
void check_engines(const char *label, struct random *r, const struct schema_message *m,
		   const struct wire *w);
/* Both over one source; `policy` picks the chunks (below 12). */
void check_encode_engines(const char *label, const struct schema_message *m,
			  const struct linear_source *source, uint64_t root,
			  const struct linear_limits *limits, unsigned policy);

#endif
