/* split-perf codec: wire to usable struct and back, ours beside the libraries, in one run.
 *
 * Each message set holds a number of messages of one shape; an operation goes over all of them in
 * turn, so that no branch predictor learns one message by heart. Output buffers rotate over several
 * pages' offsets: one fixed address can slow an encoder several times by 4 KiB aliasing.
 */
#include <malloc.h>
#include <math.h>
#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "bench/codec/codec_cpp.h"
#include "bench/perf.h"
#include "fleet.pb-c.h"
#include "linearize/linearize.h"

#define MESSAGES   32 /* of each set */
#define OUT_BYTES  (1U << 20)
#define OUT_ROTATE 16 /* offsets of 320 bytes: no two within a line, none aligned to a page */

static const struct {
	const char *name;
	const ProtobufCMessageDescriptor *descriptor;
	bool small; /* counts in the geometric means: structured, not dominated by memcpy */
} sets[] = {
	{"Small", &bench__small__descriptor, true},
	{"Deep", &bench__deep__descriptor, true},
	{"Maps", &bench__maps__descriptor, true},
	{"Packed", &bench__packed__descriptor, true},
	{"Strings", &bench__strings__descriptor, false},
	{"Blobs", &bench__blobs__descriptor, false},
};

enum engine {
	DECODE_FAST,
	DECODE_GENERIC,
	DECODE_PROTOBUF_C,
	DECODE_PROTOBUF_C_BUMP,
	DECODE_LIBPROTOBUF,
	DECODE_MEMCPY,
	ENCODE_FAST,
	ENCODE_GENERIC,
	ENCODE_PROTOBUF_C,
	ENCODE_LIBPROTOBUF,
	FLATTEN_GENERIC,
	ENGINES
};

static const struct {
	const char *op, *engine;
	bool copies; /* GB/s means something */
} engines[ENGINES] = {
	[DECODE_FAST] = {"decode", "fast", true},
	[DECODE_GENERIC] = {"decode", "generic", true},
	[DECODE_PROTOBUF_C] = {"decode", "protobuf-c", true},
	[DECODE_PROTOBUF_C_BUMP] = {"decode", "protobuf-c-bump", true},
	[DECODE_LIBPROTOBUF] = {"decode", "libprotobuf", true},
	[DECODE_MEMCPY] = {"decode", "memcpy", true},
	[ENCODE_FAST] = {"encode", "fast", true},
	[ENCODE_GENERIC] = {"encode", "generic", true},
	[ENCODE_PROTOBUF_C] = {"encode", "protobuf-c", true},
	[ENCODE_LIBPROTOBUF] = {"encode", "libprotobuf", true},
	[FLATTEN_GENERIC] = {"flatten", "generic", true},
};

/* A bump allocator over one buffer: linear chunks, protobuf-c's bump mode, encode's sink. */
struct bump {
	uint8_t *mem;
	size_t bytes, used;
};

struct set {
	const ProtobufCMessageDescriptor *descriptor;
	const struct schema_message *schema;
	struct codec_cpp *cpp;
	uint8_t *wire[MESSAGES];
	size_t bytes[MESSAGES];
	ProtobufCMessage *heap[MESSAGES]; /* unpacked, to be packed again */
	struct bump linear[MESSAGES];     /* decoded, to be encoded again */
	uint64_t root[MESSAGES];
	struct bump out;
	unsigned rotation;
};

static int bump_chunk(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct bump *b = ctx;
	size_t left = b->bytes - b->used;
	size_t bytes = align_up(want > left ? min : want, 16);

	if (bytes > left)
		return -SPLIT_E_LINEARIZE_NOMEM;
	out->mem = b->mem + b->used;
	out->bytes = bytes;
	b->used += bytes;
	return 0;
}

static int bump_sink(void *ctx, size_t want, struct linear_chunk *out)
{
	return bump_chunk(ctx, 1, want, out);
}

static void *bump_alloc(void *ctx, size_t bytes)
{
	struct linear_chunk chunk;

	return bump_chunk(ctx, bytes, bytes, &chunk) == 0 ? chunk.mem : NULL;
}

static void bump_free(void *ctx, void *p)
{
	(void)ctx;
	(void)p;
}

/* The output buffer, begun anew at the next offset. */
static struct bump *out_begin(struct set *s)
{
	static _Thread_local struct bump b;
	size_t offset = (size_t)(s->rotation++ % OUT_ROTATE) * 320;

	b = (struct bump){s->out.mem + offset, s->out.bytes - offset, 0};
	return &b;
}

static int decode_into(struct bump *b, const struct set *s, unsigned i, uint64_t *root)
{
	static _Thread_local struct decode_job job;
	const struct linear_target target = {.chunk_get = bump_chunk, .ctx = b};
	int error = decode_start(&job, s->schema, s->wire[i], s->bytes[i], &target, NULL);

	while (error == 0 && (error = decode_run(&job)) == SPLIT_AGAIN)
		error = 0;
	*root = error == 0 ? decode_root(&job) : 0;
	return error;
}

static int encode_from(struct bump *b, const struct set *s, unsigned i, uint64_t *bytes)
{
	static _Thread_local struct encode_job job;
	const struct linear_source source = {
		s->linear[i].mem, (uint64_t)(uintptr_t)s->linear[i].mem, s->linear[i].bytes};
	const struct encode_sink sink = {.chunk_get = bump_sink, .ctx = b};
	int error = encode_start(&job, s->schema, &source, s->root[i], &sink, NULL);

	while (error == 0 && (error = encode_run(&job)) == SPLIT_AGAIN)
		error = 0;
	*bytes = encode_bytes(&job);
	return error;
}

/* One operation on message `i`. 0 or a negative code: a bench of something that fails is none. */
static int operate(struct set *s, enum engine engine, unsigned i)
{
	ProtobufCAllocator bump = {bump_alloc, bump_free, NULL};
	ProtobufCMessage *message;
	uint64_t n;

	switch (engine) {
	case DECODE_FAST:
	case DECODE_GENERIC:
		return decode_into(out_begin(s), s, i, &n);
	case DECODE_PROTOBUF_C:
		message = protobuf_c_message_unpack(s->descriptor, NULL, s->bytes[i], s->wire[i]);
		protobuf_c_message_free_unpacked(message, NULL);
		return message ? 0 : -SPLIT_E_BASE_INTERNAL;
	case DECODE_PROTOBUF_C_BUMP:
		bump.allocator_data = out_begin(s);
		message = protobuf_c_message_unpack(s->descriptor, &bump, s->bytes[i], s->wire[i]);
		return message ? 0 : -SPLIT_E_BASE_INTERNAL;
	case DECODE_LIBPROTOBUF:
		return codec_cpp_parse(s->cpp, s->wire[i], s->bytes[i]);
	case DECODE_MEMCPY:
		memcpy(out_begin(s)->mem, s->wire[i], s->bytes[i]);
		__asm__ volatile("" ::: "memory");
		return 0;
	case ENCODE_FAST:
	case ENCODE_GENERIC:
		return encode_from(out_begin(s), s, i, &n);
	case ENCODE_PROTOBUF_C:
		return protobuf_c_message_pack(s->heap[i], out_begin(s)->mem) == s->bytes[i]
			       ? 0
			       : -SPLIT_E_BASE_INTERNAL;
	case ENCODE_LIBPROTOBUF:
		return codec_cpp_serialize(s->cpp, i, out_begin(s)->mem,
					   s->out.bytes - OUT_ROTATE * 320UL) == s->bytes[i]
			       ? 0
			       : -SPLIT_E_BASE_INTERNAL;
	case FLATTEN_GENERIC: {
		const struct linear_target target = {.chunk_get = bump_chunk, .ctx = out_begin(s)};

		return flatten(s->heap[i], &target, NULL, 0, NULL, &n);
	}
	default:
		return -SPLIT_E_BASE_INTERNAL;
	}
}

/* Both have rows of their own; a build without the fast engine measures the generic one twice. */
static int engine_set(enum engine engine)
{
	bool generic = engine == DECODE_GENERIC || engine == ENCODE_GENERIC;

	if (generic || linearize_engine_set(LINEARIZE_ENGINE_FAST) != 0)
		return linearize_engine_set(LINEARIZE_ENGINE_GENERIC);
	return 0;
}

/* Nanoseconds of one operation, over the whole set for about `seconds`. Negative: it failed. */
static double measure(struct set *s, enum engine engine, double seconds)
{
	uint64_t n = 0, begin, now;

	if (engine_set(engine) != 0)
		return -1;
	for (unsigned i = 0; i < MESSAGES; i++) {
		if (operate(s, engine, i) != 0)
			return -1;
	}
	begin = clock_ns();
	do {
		for (unsigned i = 0; i < MESSAGES; i++)
			(void)operate(s, engine, i);
		n += MESSAGES;
		now = clock_ns();
	} while (now - begin < (uint64_t)(seconds * 1e9));
	return (double)(now - begin) / (double)n;
}

static void set_close(struct set *s)
{
	for (unsigned i = 0; i < MESSAGES; i++) {
		free(s->wire[i]);
		free(s->linear[i].mem);
		protobuf_c_message_free_unpacked(s->heap[i], NULL);
	}
	codec_cpp_destroy(s->cpp);
	free(s->out.mem);
}

/* Makes the messages, and proves once that each engine agrees with the wire bytes. */
static int set_open(struct set *s, size_t which, const struct schema *schema)
{
	uint64_t n;

	memset(s, 0, sizeof(*s));
	s->descriptor = sets[which].descriptor;
	s->schema = schema_message_find(schema, s->descriptor->name);
	s->cpp = codec_cpp_create(sets[which].name);
	s->out = (struct bump){.mem = aligned_alloc(4096, OUT_BYTES), .bytes = OUT_BYTES};
	if (!s->schema || !s->cpp || !s->out.mem)
		return -SPLIT_E_BASE_NOMEM;
	for (unsigned i = 0; i < MESSAGES; i++) {
		s->wire[i] = codec_cpp_make(sets[which].name, i, &s->bytes[i]);
		s->linear[i] = (struct bump){.mem = aligned_alloc(4096, OUT_BYTES / 2),
					     .bytes = OUT_BYTES / 2};
		if (!s->wire[i] || !s->linear[i].mem)
			return -SPLIT_E_BASE_NOMEM;
		s->heap[i] =
			protobuf_c_message_unpack(s->descriptor, NULL, s->bytes[i], s->wire[i]);
		int error = decode_into(&s->linear[i], s, i, &s->root[i]);

		if (error == 0)
			error = encode_from(out_begin(s), s, i, &n);
		if (error != 0)
			return error;
		if (!s->heap[i] || n != s->bytes[i] ||
		    codec_cpp_keep(s->cpp, i, s->wire[i], s->bytes[i]) != 0) {
			perf_warn("%s %u: the engines disagree", sets[which].name, i);
			return -SPLIT_E_BASE_INTERNAL;
		}
	}
	return 0;
}

static int schema_open(struct schema **out)
{
	struct schema_builder *builder;
	struct schema_blob blob = {0};
	int error = schema_builder_create(&builder);

	if (error != 0)
		return error;
	for (size_t i = 0; error == 0 && i < ARRAY_LEN(sets); i++)
		error = schema_builder_add(builder, sets[i].descriptor, NULL);
	if (error == 0)
		error = schema_builder_finish(builder, &blob);
	schema_builder_destroy(builder);
	if (error == 0)
		error = schema_parse(blob.bytes, blob.len, NULL, out);
	free(blob.bytes);
	return error;
}

static double geomean_ratio(double ns[ARRAY_LEN(sets)][ENGINES], enum engine ours,
			    enum engine theirs)
{
	double sum = 0;
	int n = 0;

	for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
		if (sets[i].small) {
			sum += log(ns[i][theirs] / ns[i][ours]);
			n++;
		}
	}
	return exp(sum / n);
}

static int set_measure(const struct perf_options *options, size_t which,
		       const struct schema *schema, double ns[ENGINES], double *bytes_out)
{
	static double runs[ENGINES][101];
	static struct set s;
	double bytes = 0;
	int error = set_open(&s, which, schema);

	for (unsigned run = 0; error == 0 && run < options->runs; run++) {
		perf_progress("codec: %s, run %u of %u", sets[which].name, run + 1, options->runs);
		for (int e = 0; error == 0 && e < ENGINES; e++) {
			runs[e][run] = measure(&s, (enum engine)e, options->seconds / ENGINES);
			if (runs[e][run] < 0) {
				perf_warn("%s: %s by %s failed", sets[which].name, engines[e].op,
					  engines[e].engine);
				error = -SPLIT_E_BASE_INTERNAL;
			}
		}
	}
	for (unsigned i = 0; i < MESSAGES; i++)
		bytes += (double)s.bytes[i] / MESSAGES;
	*bytes_out = bytes;
	for (int e = 0; error == 0 && e < ENGINES; e++)
		ns[e] = perf_median(runs[e], options->runs);
	set_close(&s);
	return error;
}

static void set_report(const struct perf_options *options, size_t which, const double ns[ENGINES],
		       double bytes, json_t *results)
{
	for (int e = 0; e < ENGINES; e++) {
		json_t *row = json_pack("{s:s, s:i, s:s, s:s, s:f}", "message", sets[which].name,
					"bytes", (int)bytes, "op", engines[e].op, "engine",
					engines[e].engine, "ns", ns[e]);

		if (engines[e].copies)
			json_object_set_new(row, "gb_per_s", json_real(bytes / ns[e]));
		json_array_append_new(results, row);
		perf_say(options, "%-8s %7.0f  %-8s %-16s %10.0f %8.2f\n", sets[which].name, bytes,
			 engines[e].op, engines[e].engine, ns[e], bytes / ns[e]);
	}
}

static int codec_run(const struct perf_options *given, json_t *out)
{
	struct perf_options options = *given;
	static double ns[ARRAY_LEN(sets)][ENGINES];
	struct schema *schema = NULL;

	/* Heap trimming would charge C++ and protobuf-c for page faults: alike for all. */
	(void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
	(void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
	if (perf_options_done(&options) != 0 || perf_pin(options.core_a) != 0)
		return -SPLIT_E_BASE_INVALID;
	int error = schema_open(&schema);
	json_t *results = json_array();

	perf_say(&options, "%-8s %7s  %-8s %-16s %10s %8s\n", "message", "bytes", "op", "engine",
		 "ns", "GB/s");
	for (size_t i = 0; error == 0 && i < ARRAY_LEN(sets); i++) {
		double bytes;

		error = set_measure(&options, i, schema, ns[i], &bytes);
		if (error == 0)
			set_report(&options, i, ns[i], bytes, results);
	}
	json_object_set_new(out, "results", results);
	if (error == 0) {
		double decode = geomean_ratio(ns, DECODE_FAST, DECODE_PROTOBUF_C);
		double bump = geomean_ratio(ns, DECODE_FAST, DECODE_PROTOBUF_C_BUMP);
		double decode_cpp = geomean_ratio(ns, DECODE_FAST, DECODE_LIBPROTOBUF);
		double encode = geomean_ratio(ns, ENCODE_FAST, ENCODE_PROTOBUF_C);
		double encode_cpp = geomean_ratio(ns, ENCODE_FAST, ENCODE_LIBPROTOBUF);
		double decode_generic = geomean_ratio(ns, DECODE_FAST, DECODE_GENERIC);
		double encode_generic = geomean_ratio(ns, ENCODE_FAST, ENCODE_GENERIC);
		double part = geomean_ratio(ns, ENCODE_PROTOBUF_C, FLATTEN_GENERIC);

		json_object_set_new(
			out, "geomean",
			json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}",
				  "decode_vs_protobuf_c", decode, "decode_vs_protobuf_c_bump", bump,
				  "decode_vs_libprotobuf", decode_cpp, "encode_vs_protobuf_c",
				  encode, "encode_vs_libprotobuf", encode_cpp, "decode_vs_generic",
				  decode_generic, "encode_vs_generic", encode_generic,
				  "flatten_of_protobuf_c_encode", part));
		perf_say(&options,
			 "\nstructured sets, geometric mean, above 1 = we are faster:\n"
			 "  decode against protobuf-c %.2f, its bump mode %.2f, C++ %.2f, "
			 "our generic engine %.2f\n"
			 "  encode against protobuf-c %.2f, C++ %.2f, our generic engine %.2f\n"
			 "  flatten costs %.2f of protobuf-c's encode\n",
			 decode, bump, decode_cpp, decode_generic, encode, encode_cpp,
			 encode_generic, part);
	}
	schema_destroy(schema);
	return error;
}

const struct perf_mode perf_mode_codec = {
	.name = "codec",
	.purpose = "decode, encode and flatten beside protobuf-c and C++ protobuf",
	.usage = "  (no options of its own)\n",
	.run = codec_run,
};
