/* Two engines, one truth: the same input under the same limits and the same chunks must give the
 * same bytes, the same pointers, the same requests for memory, the same work and the same error. */
#include "tests/linearize/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES   (192u << 10) /* for chunks */
#define WIRE_BYTES    (64u << 10)  /* behind them, when the wire lies in the receiver's memory */
#define REQUESTS_MAX  4096
#define ENCODED_BYTES (64u << 10)

struct request {
	size_t min, want;
};

/* Chunks in order out of one block, so that both engines get the same addresses. */
struct ledger {
	uint8_t *mem;
	size_t bytes, used;
	unsigned policy; /* of chunk sizes */
	unsigned count;
	struct request requests[REQUESTS_MAX];
};

/* What an engine made of it. */
struct verdict {
	int rc;
	unsigned runs;
	uint64_t work, bytes, place, aliased;
};

struct trial {
	const char *label;
	struct verdict verdict;
	struct ledger ledger;
	uint8_t *copy; /* of the block */
};

static void differ(const char *label, const char *what, const struct verdict *a,
		   const struct verdict *b)
{
	fprintf(stderr,
		"%s: the engines differ: %s\n"
		"generic: %s, %u runs, work %llu, bytes %llu, at %llx\n"
		"fast:    %s, %u runs, work %llu, bytes %llu, at %llx\n",
		label, what, error_name(a->rc), a->runs, (unsigned long long)a->work,
		(unsigned long long)a->bytes, (unsigned long long)a->place, error_name(b->rc),
		b->runs, (unsigned long long)b->work, (unsigned long long)b->bytes,
		(unsigned long long)b->place);
	abort();
}

static int ledger_get(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct ledger *l = ctx;
	size_t bytes = l->policy == 0 ? min : l->policy == 1 ? want : min + want / l->policy;

	if (l->count < REQUESTS_MAX)
		l->requests[l->count] = (struct request){min, want};
	l->count++;
	bytes = (bytes + 15) & ~(size_t)15;
	if (bytes > l->bytes - l->used)
		return -SPLIT_E_LINEARIZE_NOMEM;
	*out = (struct linear_chunk){l->mem + l->used, bytes};
	l->used += bytes;
	return 0;
}

static int ledger_sink(void *ctx, size_t want, struct linear_chunk *out)
{
	struct ledger *l = ctx;
	size_t bytes = l->policy == 0 ? want : l->policy < 8 ? l->policy * 3 - 2 : want / 3 + 1;

	if (l->count < REQUESTS_MAX)
		l->requests[l->count] = (struct request){0, want};
	l->count++;
	if (bytes > l->bytes - l->used)
		return -SPLIT_E_LINEARIZE_NOMEM;
	*out = (struct linear_chunk){l->mem + l->used, bytes};
	l->used += bytes;
	return 0;
}

static void engine_set(enum linearize_engine engine)
{
	/* Refused where the build has the generic engine only: then that is held against itself. */
	if (linearize_engine_set(engine) != 0 &&
	    linearize_engine_set(LINEARIZE_ENGINE_GENERIC) != 0)
		abort();
}

static void requests_compare(const struct trial *a, const struct trial *b)
{
	unsigned n = a->ledger.count < REQUESTS_MAX ? a->ledger.count : REQUESTS_MAX;

	if (a->ledger.count != b->ledger.count ||
	    memcmp(a->ledger.requests, b->ledger.requests, n * sizeof(struct request)) != 0)
		differ(a->label, "other requests for memory", &a->verdict, &b->verdict);
	if (memcmp(&a->verdict, &b->verdict, sizeof(a->verdict)) != 0)
		differ(a->label, "other verdict", &a->verdict, &b->verdict);
}

/* How a decode is run, by whichever engine. */
struct setting {
	const struct schema_message *m;
	const struct wire *w;
	struct linear_limits limits;
	int64_t delta;
	unsigned policy;
	uint32_t alias_min; /* not 0: the wire lies behind the chunks */
};

static void decode_try(struct trial *t, uint8_t *block, int fill, enum linearize_engine engine,
		       const struct setting *how)
{
	struct linear_target target = {how->delta, ledger_get, &t->ledger, how->alias_min};
	enum linearize_engine before = linearize_engine_get();
	const uint8_t *wire = how->w->bytes;
	struct decode_job j;
	int rc;

	memset(&t->verdict, 0, sizeof(t->verdict));
	memset(block, fill, BLOCK_BYTES);
	memset(block + BLOCK_BYTES, 0, WIRE_BYTES);
	if (how->alias_min) {
		if (how->w->len)
			memcpy(block + BLOCK_BYTES, wire, how->w->len);
		wire = block + BLOCK_BYTES;
	}
	t->ledger.mem = block;
	t->ledger.bytes = BLOCK_BYTES;
	t->ledger.used = 0;
	t->ledger.count = 0;
	t->ledger.policy = how->policy;
	engine_set(engine);
	rc = decode_start(&j, how->m, wire, how->w->len, &target, &how->limits);
	engine_set(before);
	if (rc == 0) {
		do {
			rc = decode_run(&j);
			t->verdict.runs++;
		} while (rc == SPLIT_AGAIN);
		t->verdict.work = decode_work(&j);
		t->verdict.bytes = decode_linear_bytes(&j) + decode_chunk_used(&j);
		t->verdict.place = rc ? 0 : decode_root(&j);
		t->verdict.aliased = rc ? 0 : decode_aliased(&j);
	}
	t->verdict.rc = rc;
	memcpy(t->copy, block, BLOCK_BYTES + WIRE_BYTES);
}

static void encode_try(struct trial *t, enum linearize_engine engine,
		       const struct schema_message *m, const struct linear_source *source,
		       uint64_t root, const struct linear_limits *limits, unsigned policy)
{
	struct encode_sink sink = {ledger_sink, &t->ledger};
	enum linearize_engine before = linearize_engine_get();
	struct encode_job j;
	int rc;

	memset(&t->verdict, 0, sizeof(t->verdict));
	t->ledger.mem = t->copy;
	t->ledger.bytes = ENCODED_BYTES;
	t->ledger.used = 0;
	t->ledger.count = 0;
	t->ledger.policy = policy;
	engine_set(engine);
	rc = encode_start(&j, m, source, root, &sink, limits);
	engine_set(before);
	if (rc == 0) {
		do {
			rc = encode_run(&j);
			t->verdict.runs++;
		} while (rc == SPLIT_AGAIN);
		t->verdict.work = encode_work(&j);
		t->verdict.bytes = encode_bytes(&j);
		t->verdict.place = encode_head(&j) ? (uint64_t)(encode_head(&j) - t->copy) : 0;
	}
	t->verdict.rc = rc;
}

static struct trial trials[3];

static void trials_init(const char *label)
{
	unsigned i;

	for (i = 0; i < 3; i++) {
		trials[i].label = label;
		if (!trials[i].copy)
			trials[i].copy = malloc(BLOCK_BYTES + WIRE_BYTES);
		if (!trials[i].copy)
			abort();
	}
}

/* All chunks but the last are full; of the last only what lies from the head on counts. */
static void encoded_compare(const struct trial *a, const struct trial *b)
{
	size_t place, full;

	requests_compare(a, b);
	if (a->verdict.rc || !a->verdict.bytes)
		return;
	place = (size_t)a->verdict.place;
	full = (size_t)a->verdict.bytes - (a->ledger.used - place);
	if (full > place || memcmp(a->copy, b->copy, full) != 0 ||
	    memcmp(a->copy + place, b->copy + place, a->ledger.used - place) != 0)
		differ(a->label, "other output", &a->verdict, &b->verdict);
}

void check_encode_engines(const char *label, const struct schema_message *m,
			  const struct linear_source *source, uint64_t root,
			  const struct linear_limits *limits, unsigned policy)
{
	trials_init(label);
	encode_try(&trials[0], LINEARIZE_ENGINE_GENERIC, m, source, root, limits, policy);
	encode_try(&trials[1], LINEARIZE_ENGINE_FAST, m, source, root, limits, policy);
	encoded_compare(&trials[0], &trials[1]);
}

static struct linear_limits random_limits(struct random *r)
{
	struct linear_limits l = {.work_max = 100000};

	if (random_below(r, 2))
		l.work_quantum = 1 + (uint32_t)random_below(r, random_below(r, 2) ? 8 : 200);
	if (random_below(r, 6) == 0)
		l.elements_max = 1 + random_below(r, 60);
	if (random_below(r, 6) == 0)
		l.linear_bytes_max = 1 + random_below(r, 3000);
	if (random_below(r, 6) == 0)
		l.wire_bytes_max = 1 + random_below(r, 2000);
	if (random_below(r, 6) == 0)
		l.depth_max = 1 + (uint32_t)random_below(r, 4);
	if (random_below(r, 6) == 0)
		l.work_max = 1 + random_below(r, 300);
	return l;
}

/* The message in the block, then that with some words changed: a peer that lies. */
static void check_encode_block(const char *label, struct random *r, const struct schema_message *m,
			       uint8_t *block, size_t used, int64_t delta, uint64_t root)
{
	struct linear_source source = {
		.mem = block,
		.peer_base = (uintptr_t)block + (uint64_t)delta,
		.bytes = BLOCK_BYTES + WIRE_BYTES,
	};
	unsigned i, k;

	for (i = 0; i < 6; i++) {
		struct linear_limits l = random_limits(r);

		check_encode_engines(label, m, &source, root, i ? &l : &unlimited,
				     (unsigned)random_below(r, 12));
		for (k = 0; i > 1 && k < 2; k++) {
			uint64_t v = random_next(r) >> random_below(r, 64);

			if (random_below(r, 2))
				v = source.peer_base + v % used;
			memcpy(block + random_below(r, used / 8) * 8, &v, 8);
		}
	}
}

void check_engines(const char *label, struct random *r, const struct schema_message *m,
		   const struct wire *w)
{
	static _Alignas(16) uint8_t block[BLOCK_BYTES + WIRE_BYTES];
	struct setting how = {.m = m,
			      .w = w,
			      .limits = random_below(r, 3) ? random_limits(r) : unlimited,
			      .delta = random_below(r, 2) ? 0 : (int64_t)1 << 44,
			      .policy = (unsigned)random_below(r, 5)};
	size_t i;

	if (w->len < WIRE_BYTES && random_below(r, 4) == 0)
		how.alias_min = 1 + (uint32_t)random_below(r, 300);
	linearize_portable_set(random_below(r, 2));
	trials_init(label);
	decode_try(&trials[0], block, 0xa5, LINEARIZE_ENGINE_GENERIC, &how);
	decode_try(&trials[1], block, 0x5a, LINEARIZE_ENGINE_GENERIC, &how);
	decode_try(&trials[2], block, 0xa5, LINEARIZE_ENGINE_FAST, &how);
	requests_compare(&trials[0], &trials[2]);
	/* What failed may be tried again: the wire is as it was. */
	if (trials[0].verdict.rc) {
		if (how.alias_min && w->len && memcmp(block + BLOCK_BYTES, w->bytes, w->len) != 0)
			differ(label, "a wire changed", &trials[0].verdict, &trials[2].verdict);
		return;
	}
	/* A byte that is the same whatever was there before was written. */
	for (i = 0; i < trials[0].ledger.used; i++)
		if (trials[0].copy[i] == trials[1].copy[i] &&
		    trials[0].copy[i] != trials[2].copy[i])
			differ(label, "other memory", &trials[0].verdict, &trials[2].verdict);
	if (memcmp(trials[0].copy + BLOCK_BYTES, trials[2].copy + BLOCK_BYTES, WIRE_BYTES) != 0)
		differ(label, "other wire", &trials[0].verdict, &trials[2].verdict);
	check_encode_block(label, r, m, block, trials[0].ledger.used, how.delta,
			   trials[0].verdict.place);
	linearize_portable_set(false);
}
