/* split-perf codec: wire to usable struct and back, ours beside the libraries, in one run.
 *
 * Each message set holds a number of messages of one shape; an operation goes over all of them in
 * turn, so that no branch predictor learns one message by heart. Output buffers rotate over several
 * pages' offsets: one fixed address can slow an encoder several times by 4 KiB aliasing.
 */
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/codec.h"

#define FILES_MAX   1024
#define RUNS_MAX    101
#define SMALL_BYTES 4096 /* messages below are structured; above memcpy is what counts */
/* A hundred times what reading the clock takes. */
#define CLOCK_EVERY_NS 50000

static const struct {
	const char *op, *engine;
	bool copies; /* GB/s means something */
} engines[CODEC_ENGINES] = {
	[DECODE_FAST] = {"decode", "fast", true},
	[DECODE_FAST_ALIAS] = {"decode", "fast-alias", false},
	[DECODE_GENERIC] = {"decode", "generic", true},
	[DECODE_PROTOBUF_C] = {"decode", "protobuf-c", true},
	[DECODE_PROTOBUF_C_BUMP] = {"decode", "protobuf-c-bump", true},
	[DECODE_LIBPROTOBUF] = {"decode", "libprotobuf", true},
	[DECODE_UPB] = {"decode", "upb", true},
	[DECODE_UPB_ALIAS] = {"decode", "upb-alias", false},
	[DECODE_MEMCPY] = {"decode", "memcpy", true},
	[ENCODE_FAST] = {"encode", "fast", true},
	[ENCODE_GENERIC] = {"encode", "generic", true},
	[ENCODE_PROTOBUF_C] = {"encode", "protobuf-c", true},
	[ENCODE_LIBPROTOBUF] = {"encode", "libprotobuf", true},
	[ENCODE_UPB] = {"encode", "upb", true},
	[FLATTEN_GENERIC] = {"flatten", "generic", true},
	[FLATTEN_PLANNED] = {"flatten", "fast", true},
	[FLATTEN_WALKED] = {"flatten", "in-place-walked", false},
	[FLATTEN_PROMISED] = {"flatten", "in-place", false},
};

/* What a set's rows say. */
struct result {
	double ns[CODEC_ENGINES]; /* 0: not measured */
	double bytes;             /* mean of the messages */
	bool small;
};

/* Both have rows of their own; a build without the fast engine measures the generic one twice. */
static int engine_set(enum codec_engine engine)
{
	bool generic = engine == DECODE_GENERIC || engine == ENCODE_GENERIC;

	if (generic || linearize_engine_set(LINEARIZE_ENGINE_FAST) != 0)
		return linearize_engine_set(LINEARIZE_ENGINE_GENERIC);
	return 0;
}

/* The thread's CPU time: a neighbour on the core costs nobody anything. */
static uint64_t cpu_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* Nanoseconds of one operation, over the whole set for about `seconds`. Negative: it failed. */
static double measure(struct codec_set *s, enum codec_engine engine, double seconds)
{
	uint64_t n = 0, rounds = 1, begin, before, now;

	if (engine_set(engine) != 0)
		return -1;
	for (unsigned i = 0; i < s->n; i++) {
		if (codec_operate(s, engine, i) != 0)
			return -1;
	}
	now = begin = cpu_ns();
	do {
		before = now;
		for (uint64_t round = 0; round < rounds; round++)
			for (unsigned i = 0; i < s->n; i++)
				(void)codec_operate(s, engine, i);
		n += rounds * s->n;
		now = cpu_ns();
		/* That clock is a system call: it should not be what is measured. */
		if (now - before < CLOCK_EVERY_NS)
			rounds *= 2;
	} while (now - begin < (uint64_t)(seconds * 1e9));
	return (double)(now - begin) / (double)n;
}

static int set_measure(const struct perf_options *options, struct codec_set *s, struct result *out)
{
	static double runs[CODEC_ENGINES][RUNS_MAX];
	int error = codec_set_open(s);

	for (unsigned run = 0; error == 0 && run < options->runs; run++) {
		perf_progress("codec: %s, run %u of %u", s->name, run + 1, options->runs);
		for (int e = 0; error == 0 && e < CODEC_ENGINES; e++) {
			if (!s->can[e])
				continue;
			runs[e][run] =
				measure(s, (enum codec_engine)e, options->seconds / CODEC_ENGINES);
			if (runs[e][run] < 0) {
				perf_warn("%s: %s by %s failed", s->name, engines[e].op,
					  engines[e].engine);
				error = -SPLIT_E_BASE_INTERNAL;
			}
		}
	}
	for (unsigned i = 0; i < s->n; i++)
		out->bytes += (double)s->messages[i].bytes / s->n;
	out->small = s->built_in ? s->small : out->bytes < SMALL_BYTES;
	for (int e = 0; error == 0 && e < CODEC_ENGINES; e++)
		if (s->can[e])
			out->ns[e] = perf_median(runs[e], options->runs);
	return error;
}

static const char *engine_name(const struct codec_set *s, int e)
{
	return e == DECODE_LIBPROTOBUF || e == ENCODE_LIBPROTOBUF ? s->cpp_engine
								  : engines[e].engine;
}

static void set_report(const struct perf_options *options, const struct codec_set *s,
		       const struct result *r, json_t *results)
{
	for (int e = 0; e < CODEC_ENGINES; e++) {
		json_t *row;

		if (r->ns[e] == 0)
			continue;
		row = json_pack("{s:s, s:i, s:s, s:s, s:f}", "message", s->name, "bytes",
				(int)r->bytes, "op", engines[e].op, "engine", engine_name(s, e),
				"ns", r->ns[e]);
		if (engines[e].copies)
			json_object_set_new(row, "gb_per_s", json_real(r->bytes / r->ns[e]));
		json_array_append_new(results, row);
		perf_say(options, "%-12s %8.0f  %-8s %-20s %11.1f", s->name, r->bytes,
			 engines[e].op, engine_name(s, e), r->ns[e]);
		if (engines[e].copies)
			perf_say(options, " %8.2f", r->bytes / r->ns[e]);
		perf_say(options, "\n");
	}
}

/* --- Means ------------------------------------------------------------------------------------ */

enum which { SMALL_ONES, LARGE_ONES, ALL };

/* Of `theirs` by `ours`, over the sets that have both; 0: none has. */
static double geomean(const struct result *results, unsigned n, enum which which,
		      enum codec_engine ours, enum codec_engine theirs)
{
	double sum = 0;
	int count = 0;

	for (unsigned i = 0; i < n; i++) {
		const struct result *r = &results[i];

		if ((which != ALL && r->small != (which == SMALL_ONES)) || r->ns[ours] == 0 ||
		    r->ns[theirs] == 0)
			continue;
		sum += log(r->ns[theirs] / r->ns[ours]);
		count++;
	}
	return count ? exp(sum / count) : 0;
}

static const struct {
	const char *key, *text;
	enum codec_engine ours, theirs;
	bool large; /* of messages where memcpy counts */
} means[] = {
	{"decode_vs_protobuf_c", "decode: protobuf-c", DECODE_FAST, DECODE_PROTOBUF_C, false},
	{"decode_vs_protobuf_c_bump", "decode: protobuf-c, bump allocator", DECODE_FAST,
	 DECODE_PROTOBUF_C_BUMP, false},
	{"decode_vs_libprotobuf", "decode: C++, arena", DECODE_FAST, DECODE_LIBPROTOBUF, false},
	{"decode_vs_upb", "decode: upb, copying", DECODE_FAST, DECODE_UPB, false},
	{"decode_vs_generic", "decode: our generic engine", DECODE_FAST, DECODE_GENERIC, false},
	{"encode_vs_protobuf_c", "encode: protobuf-c", ENCODE_FAST, ENCODE_PROTOBUF_C, false},
	{"encode_vs_libprotobuf", "encode: C++", ENCODE_FAST, ENCODE_LIBPROTOBUF, false},
	{"encode_vs_upb", "encode: upb", ENCODE_FAST, ENCODE_UPB, false},
	{"encode_vs_generic", "encode: our generic engine", ENCODE_FAST, ENCODE_GENERIC, false},
	{"flatten_of_protobuf_c_encode", "flatten, as part of protobuf-c's encode",
	 ENCODE_PROTOBUF_C, FLATTEN_PLANNED, false},
	{"in_place_of_protobuf_c_encode", "a reply built in place, as part of the same",
	 ENCODE_PROTOBUF_C, FLATTEN_PROMISED, false},
	{"in_place_walked_of_protobuf_c_encode", "the same, not promised to be so",
	 ENCODE_PROTOBUF_C, FLATTEN_WALKED, false},
	{"large_decode_vs_memcpy", "large messages, decode: memcpy", DECODE_FAST, DECODE_MEMCPY,
	 true},
	{"large_decode_alias_vs_upb_alias", "large messages, aliasing decode: upb's",
	 DECODE_FAST_ALIAS, DECODE_UPB_ALIAS, true},
};

static void means_report(const struct perf_options *options, const struct result *results,
			 unsigned n, json_t *out)
{
	json_t *object = json_object();
	bool any_small = false;

	for (unsigned i = 0; i < n; i++)
		any_small |= results[i].small;
	perf_say(options, "\nGeometric means, above 1 we are faster%s:\n",
		 any_small ? "; structured messages unless it says large" : "");
	for (size_t i = 0; i < sizeof(means) / sizeof(means[0]); i++) {
		/* Who brings large messages only wants to know of these. */
		enum which which = means[i].large ? LARGE_ONES : any_small ? SMALL_ONES : ALL;
		double mean = geomean(results, n, which, means[i].ours, means[i].theirs);

		json_object_set_new(object, means[i].key, mean > 0 ? json_real(mean) : json_null());
		if (mean > 0)
			perf_say(options, "  %6.2f  %s\n", mean, means[i].text);
	}
	json_object_set_new(out, "geomean", object);
}

/* --- The mode --------------------------------------------------------------------------------- */

struct codec_arguments {
	const char *proto_set, *type;
	char *files[FILES_MAX];
	unsigned n;
	bool single, dynamic;
};

/* `--data A B C`: all up to the next option; may come several times. */
static int data_take(struct perf_options *options, struct codec_arguments *out)
{
	int kept = 0;

	for (int i = 0; i < options->argc; i++) {
		if (strcmp(options->argv[i], "--data") != 0) {
			options->argv[kept++] = options->argv[i];
			continue;
		}
		if (i + 1 == options->argc || strncmp(options->argv[i + 1], "--", 2) == 0) {
			perf_warn("--data: expected one file or more");
			return -SPLIT_E_BASE_INVALID;
		}
		while (i + 1 < options->argc && strncmp(options->argv[i + 1], "--", 2) != 0) {
			if (out->n == FILES_MAX) {
				perf_warn("--data: expected at most %d files", FILES_MAX);
				return -SPLIT_E_BASE_INVALID;
			}
			out->files[out->n++] = options->argv[++i];
		}
	}
	options->argc = kept;
	return 0;
}

static int arguments_take(struct perf_options *options, struct codec_arguments *out)
{
	out->proto_set = perf_option(options, "--proto-set");
	out->type = perf_option(options, "--type");
	out->single = perf_flag(options, "--single");
	out->dynamic = perf_flag(options, "--cpp-dynamic");
	if (data_take(options, out) != 0 || perf_options_done(options) != 0)
		return -SPLIT_E_BASE_INVALID;
	if ((out->proto_set != NULL) != (out->type != NULL) ||
	    (out->proto_set != NULL) != (out->n > 0) || (out->single && out->n == 0)) {
		perf_warn("expected --proto-set FILE, --type NAME and --data FILE... together, or "
			  "none of them");
		return -SPLIT_E_BASE_INVALID;
	}
	return 0;
}

static int codec_run(const struct perf_options *given, json_t *out)
{
	struct perf_options options = *given;
	struct codec_arguments arguments = {0};
	struct codec_sets sets = {0};
	struct result *results;
	json_t *rows;
	int error;

	/* Heap trimming would charge C++ and protobuf-c for page faults: alike for all. */
	(void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
	(void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
	if (arguments_take(&options, &arguments) != 0)
		return -SPLIT_E_BASE_INVALID;
	error = arguments.proto_set
			? codec_sets_of_files(&sets, arguments.proto_set, arguments.type,
					      arguments.files, arguments.n, arguments.single,
					      !arguments.dynamic)
			: codec_sets_built_in(&sets);
	/* Only now: what the C++ compiler does need not be on one core. */
	if (error == 0)
		error = perf_pin(options.core_a);
	results = calloc(sets.n + 1, sizeof(*results));
	if (!results && error == 0)
		error = -SPLIT_E_BASE_NOMEM;
	rows = json_array();
	if (error == 0)
		perf_say(&options, "%-12s %8s  %-8s %-20s %11s %8s\n", "message", "bytes", "op",
			 "engine", "ns", "GB/s");
	for (unsigned i = 0; error == 0 && i < sets.n; i++) {
		error = set_measure(&options, &sets.sets[i], &results[i]);
		if (error == 0)
			set_report(&options, &sets.sets[i], &results[i], rows);
		codec_set_close(&sets.sets[i]);
	}
	json_object_set_new(out, "results", rows);
	json_object_set_new(out, "variant", json_string(linearize_variant_name()));
	if (error == 0)
		means_report(&options, results, sets.n, out);
	free(results);
	codec_sets_close(&sets);
	return error;
}

const struct perf_mode perf_mode_codec = {
	.name = "codec",
	.purpose = "decode, encode and flatten beside protobuf-c, C++ protobuf and upb",
	.usage = "  --proto-set FILE  descriptor set (protoc --include_imports "
		 "--descriptor_set_out)\n"
		 "  --type NAME       full name of the messages' type\n"
		 "  --data FILE...    messages, each with its length before it, as a varint\n"
		 "  --single          each file is one message\n"
		 "  --cpp-dynamic     C++ by DynamicMessage, no generated code\n"
		 "Without --proto-set: built-in messages.\n",
	.run = codec_run,
};
