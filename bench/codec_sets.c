/* The message sets of split-perf codec, and one operation on one message by each engine. */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "bench/codec.h"
#include "fleet.pb-c.h"

#define BUILT_IN_MESSAGES 32
#define OUT_BYTES         ((size_t)1 << 20)
#define OUT_BYTES_MAX     ((size_t)4 << 30)
#define OUT_ROTATE        16 /* no two within a line, none aligned to a page */
#define OUT_STEP          320

/* What the wire holds may be more than a call could carry; here it is measured, not limited. */
static const struct linear_limits unlimited = {0};

static const struct {
	const char *name;
	const ProtobufCMessageDescriptor *descriptor;
	bool small;
} built_in[] = {
	{"Small", &bench__small__descriptor, true},
	{"Deep", &bench__deep__descriptor, true},
	{"Maps", &bench__maps__descriptor, true},
	{"Packed", &bench__packed__descriptor, true},
	{"Strings", &bench__strings__descriptor, false},
	{"Blobs", &bench__blobs__descriptor, false},
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

	return bump_chunk(ctx, bytes ? bytes : 1, bytes ? bytes : 1, &chunk) == 0 ? chunk.mem
										  : NULL;
}

static void bump_free(void *ctx, void *p)
{
	(void)ctx;
	(void)p;
}

/* The output buffer, begun anew at the next offset. */
static struct bump *out_begin(struct codec_set *s)
{
	static _Thread_local struct bump b;
	size_t offset = (size_t)(s->rotation++ % OUT_ROTATE) * OUT_STEP;

	b = (struct bump){s->out.mem + offset, s->out.bytes - offset, 0};
	return &b;
}

static int decode_wire(struct bump *b, const struct codec_set *s, unsigned i, const uint8_t *wire,
		       uint32_t alias_min, uint64_t *root)
{
	static _Thread_local struct decode_job job;
	const struct linear_target target = {
		.chunk_get = bump_chunk, .ctx = b, .alias_min = alias_min};
	int error = decode_start(&job, s->schema, wire, s->messages[i].bytes, &target, &unlimited);

	while (error == 0 && (error = decode_run(&job)) == SPLIT_AGAIN)
		error = 0;
	*root = error == 0 ? decode_root(&job) : 0;
	return error;
}

static int decode_into(struct bump *b, const struct codec_set *s, unsigned i, uint64_t *root)
{
	return decode_wire(b, s, i, s->messages[i].wire, 0, root);
}

static int decode_alias(struct codec_set *s, unsigned i)
{
	struct codec_message *m = &s->messages[i];
	uint64_t root;
	int rc = decode_wire(out_begin(s), s, i, m->alias_wire, LINEAR_ALIAS_LEAST, &root);

	for (size_t k = 0; k < m->changed_n; k++)
		m->alias_wire[m->changed[k]] = m->wire[m->changed[k]];
	return rc;
}

static int encode_from(struct bump *b, const struct codec_set *s, unsigned i, uint64_t *bytes)
{
	static _Thread_local struct encode_job job;
	const struct codec_message *m = &s->messages[i];
	const struct linear_source source = {m->linear.mem, (uint64_t)(uintptr_t)m->linear.mem,
					     m->linear.bytes};
	const struct encode_sink sink = {.chunk_get = bump_sink, .ctx = b};
	int error = encode_start(&job, s->schema, &source, m->root, &sink, &unlimited);

	while (error == 0 && (error = encode_run(&job)) == SPLIT_AGAIN)
		error = 0;
	*bytes = encode_bytes(&job);
	return error;
}

int codec_operate(struct codec_set *s, enum codec_engine engine, unsigned i)
{
	struct codec_message *m = &s->messages[i];
	ProtobufCAllocator bump = {bump_alloc, bump_free, NULL};
	ProtobufCMessage *message;
	struct bump *out;
	uint64_t n;

	switch (engine) {
	case DECODE_FAST:
	case DECODE_GENERIC:
		return decode_into(out_begin(s), s, i, &n);
	case DECODE_FAST_ALIAS:
		return decode_alias(s, i);
	case DECODE_PROTOBUF_C:
		message = protobuf_c_message_unpack(s->descriptor, NULL, m->bytes, m->wire);
		protobuf_c_message_free_unpacked(message, NULL);
		return message ? 0 : -SPLIT_E_BASE_INTERNAL;
	case DECODE_PROTOBUF_C_BUMP:
		bump.allocator_data = out_begin(s);
		message = protobuf_c_message_unpack(s->descriptor, &bump, m->bytes, m->wire);
		return message ? 0 : -SPLIT_E_BASE_NOMEM;
	case DECODE_LIBPROTOBUF:
		return codec_cpp_parse(s->cpp, m->wire, m->bytes) == 0 ? 0 : -SPLIT_E_BASE_INTERNAL;
	case DECODE_UPB:
	case DECODE_UPB_ALIAS:
		return codec_upb_decode(s->upb, m->wire, m->bytes, engine == DECODE_UPB_ALIAS) == 0
			       ? 0
			       : -SPLIT_E_BASE_INTERNAL;
	case DECODE_MEMCPY:
		memcpy(out_begin(s)->mem, m->wire, m->bytes);
		__asm__ volatile("" ::: "memory");
		return 0;
	case ENCODE_FAST:
	case ENCODE_GENERIC:
		return encode_from(out_begin(s), s, i, &n);
	case ENCODE_PROTOBUF_C:
		return protobuf_c_message_pack(m->heap, out_begin(s)->mem) <= s->out.bytes
			       ? 0
			       : -SPLIT_E_BASE_INTERNAL;
	case ENCODE_LIBPROTOBUF:
		out = out_begin(s);
		return codec_cpp_serialize(s->cpp, i, out->mem, out->bytes) != SIZE_MAX
			       ? 0
			       : -SPLIT_E_BASE_INTERNAL;
	case ENCODE_UPB:
		return codec_upb_encode(s->upb, i) != SIZE_MAX ? 0 : -SPLIT_E_BASE_INTERNAL;
	case FLATTEN_GENERIC: {
		const struct linear_target target = {.chunk_get = bump_chunk, .ctx = out_begin(s)};

		return flatten(m->heap, &target, NULL, 0, &unlimited, &n);
	}
	case FLATTEN_PLANNED: {
		const struct linear_target target = {.chunk_get = bump_chunk, .ctx = out_begin(s)};

		return flatten_planned(s->plan, m->heap, &target, NULL, 0, &unlimited, &n);
	}
	case FLATTEN_WALKED: {
		const struct linear_target target = {.chunk_get = bump_chunk, .ctx = out_begin(s)};

		return flatten_planned(s->plan, (const ProtobufCMessage *)(uintptr_t)m->root,
				       &target, m->linear.mem, m->linear.bytes, &unlimited, &n);
	}
	case FLATTEN_PROMISED: {
		const struct linear_target target = {.chunk_get = bump_chunk, .ctx = out_begin(s)};

		return flatten_root((const ProtobufCMessage *)(uintptr_t)m->root, &target,
				    m->linear.mem, m->linear.bytes, &n);
	}
	default:
		return -SPLIT_E_BASE_INTERNAL;
	}
}

/* --- Opening ---------------------------------------------------------------------------------- */

static int out_room(struct codec_set *s, size_t bytes)
{
	free(s->out.mem);
	s->out = (struct bump){.mem = aligned_alloc(4096, align_up(bytes, 4096)),
			       .bytes = align_up(bytes, 4096)};
	return s->out.mem ? 0 : -SPLIT_E_BASE_NOMEM;
}

/* Decode message `i` into memory of its own, as large as it must be. */
static int linear_make(struct codec_set *s, unsigned i)
{
	struct codec_message *m = &s->messages[i];
	size_t bytes = 8 * m->bytes + 4096;
	int rc;

	for (;; bytes *= 4) {
		m->linear = (struct bump){.mem = aligned_alloc(4096, align_up(bytes, 4096)),
					  .bytes = align_up(bytes, 4096)};
		if (!m->linear.mem)
			return -SPLIT_E_BASE_NOMEM;
		rc = decode_into(&m->linear, s, i, &m->root);
		if (rc != -SPLIT_E_LINEARIZE_NOMEM || bytes > OUT_BYTES_MAX)
			return rc;
		free(m->linear.mem);
		m->linear.mem = NULL;
	}
}

/* An engine that does not take a message of somebody else's is left out, with a line. */
static int engine_drop(struct codec_set *s, const char *who, unsigned i, const char *what,
		       enum codec_engine first, enum codec_engine second, enum codec_engine third)
{
	perf_warn("%s: message %u: %s %s%s", s->name, i, who, what,
		  s->built_in ? "" : "; it is left out");
	s->can[first] = s->can[second] = s->can[third] = false;
	return s->built_in ? -SPLIT_E_BASE_INTERNAL : 0;
}

/* protobuf-c unpacks it, and our encode writes what its pack writes, where nothing is known to
 * differ: docs/LINEARIZE.md lists what protobuf-c takes otherwise (merging, groups, closed enums).
 */
static int agree_protobuf_c(struct codec_set *s, unsigned i)
{
	struct codec_message *m = &s->messages[i];
	const ProtobufCMessage *ours = (const void *)(uintptr_t)m->root;
	struct bump *out;
	uint64_t n;
	int rc;

	m->heap = protobuf_c_message_unpack(s->descriptor, NULL, m->bytes, m->wire);
	if (!m->heap && s->can[DECODE_PROTOBUF_C]) {
		s->can[ENCODE_PROTOBUF_C] = s->can[FLATTEN_GENERIC] = false;
		s->can[FLATTEN_PLANNED] = false;
		rc = engine_drop(s, "protobuf-c", i, "does not take it", DECODE_PROTOBUF_C,
				 DECODE_PROTOBUF_C_BUMP, ENCODE_PROTOBUF_C);
		if (rc != 0)
			return rc;
	}
	out = out_begin(s);
	rc = encode_from(out, s, i, &n);
	if (rc != 0 || n != protobuf_c_message_get_packed_size(ours)) {
		perf_warn("%s: message %u: encode gives %llu bytes, protobuf_c_message_pack %zu",
			  s->name, i, (unsigned long long)n,
			  protobuf_c_message_get_packed_size(ours));
		return rc != 0 ? rc : -SPLIT_E_BASE_INTERNAL;
	}
	if (s->built_in && n != m->bytes) {
		perf_warn("%s: message %u: encode gives other bytes than C++", s->name, i);
		return -SPLIT_E_BASE_INTERNAL;
	}
	return 0;
}

/* What does one aliasing decode change on the wire? */
static int alias_open(struct codec_set *s, unsigned i)
{
	struct codec_message *m = &s->messages[i];
	size_t n = 0;
	int rc;

	m->alias_wire = malloc(m->bytes + 1);
	m->changed = NULL;
	m->changed_n = 0;
	if (!m->alias_wire)
		return -SPLIT_E_BASE_NOMEM;
	memcpy(m->alias_wire, m->wire, m->bytes);
	rc = decode_alias(s, i);
	for (size_t k = 0; k < m->bytes; k++)
		n += m->alias_wire[k] != m->wire[k];
	m->changed = malloc((n + 1) * sizeof(*m->changed));
	if (!m->changed)
		return -SPLIT_E_BASE_NOMEM;
	for (size_t k = 0; k < m->bytes; k++)
		if (m->alias_wire[k] != m->wire[k])
			m->changed[m->changed_n++] = (uint32_t)k;
	for (size_t k = 0; k < m->changed_n; k++)
		m->alias_wire[m->changed[k]] = m->wire[m->changed[k]];
	return rc;
}

static int message_open(struct codec_set *s, unsigned i)
{
	struct codec_message *m = &s->messages[i];
	size_t packed;
	int rc = linear_make(s, i);

	if (rc != 0) {
		/* With --single each file is one message. */
		perf_warn("%s: message %u: expected a %s: %s",
			  s->files ? s->files[s->single ? i : 0] : s->name, s->single ? 0 : i,
			  s->type, error_text(rc));
		return rc;
	}
	packed = protobuf_c_message_get_packed_size((const void *)(uintptr_t)m->root);
	if (2 * (packed + m->linear.bytes) + OUT_ROTATE * OUT_STEP > s->out.bytes)
		rc = out_room(s, 4 * (packed + m->linear.bytes) + OUT_BYTES);
	if (rc == 0)
		rc = agree_protobuf_c(s, i);
	if (rc == 0)
		rc = alias_open(s, i);
	if (rc == 0 && s->cpp && codec_cpp_keep(s->cpp, i, m->wire, m->bytes) != 0)
		rc = engine_drop(s, "C++ protobuf", i, "does not take it", DECODE_LIBPROTOBUF,
				 ENCODE_LIBPROTOBUF, ENCODE_LIBPROTOBUF);
	if (rc == 0 && s->upb && codec_upb_keep(s->upb, i, m->wire, m->bytes) != 0)
		rc = engine_drop(s, "upb", i, "does not take it", DECODE_UPB, DECODE_UPB_ALIAS,
				 ENCODE_UPB);
	/* protobuf-c's bump mode frees nothing, so it may need more than linear memory. */
	while (rc == 0 && s->can[DECODE_PROTOBUF_C_BUMP] &&
	       codec_operate(s, DECODE_PROTOBUF_C_BUMP, i) != 0 && s->out.bytes < OUT_BYTES_MAX)
		rc = out_room(s, 2 * s->out.bytes);
	return rc;
}

int codec_set_open(struct codec_set *s)
{
	int rc = out_room(s, OUT_BYTES);

	for (unsigned e = 0; e < CODEC_ENGINES; e++)
		s->can[e] = true;
	s->can[DECODE_LIBPROTOBUF] = s->can[ENCODE_LIBPROTOBUF] = s->cpp != NULL;
	s->can[DECODE_UPB] = s->can[DECODE_UPB_ALIAS] = s->can[ENCODE_UPB] = s->upb != NULL;
	if (rc == 0)
		rc = flatten_plan_create(s->descriptor, &s->plan);
	if (s->cpp && codec_cpp_room(s->cpp, s->n) != 0)
		rc = -SPLIT_E_BASE_NOMEM;
	if (s->upb && codec_upb_room(s->upb, s->n) != 0)
		rc = -SPLIT_E_BASE_NOMEM;
	for (unsigned i = 0; rc == 0 && i < s->n; i++)
		rc = message_open(s, i);
	return rc;
}

/* What opening took; the messages stay. */
void codec_set_close(struct codec_set *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		free(s->messages[i].linear.mem);
		protobuf_c_message_free_unpacked(s->messages[i].heap, NULL);
		free(s->messages[i].alias_wire);
		free(s->messages[i].changed);
		s->messages[i] = (struct codec_message){.wire = s->messages[i].wire,
							.bytes = s->messages[i].bytes};
	}
	flatten_plan_destroy(s->plan);
	codec_cpp_destroy(s->cpp);
	codec_upb_destroy(s->upb);
	s->plan = NULL;
	s->cpp = NULL;
	s->upb = NULL;
	free(s->out.mem);
	s->out.mem = NULL;
}

/* --- The built-in sets ------------------------------------------------------------------------ */

static int schema_open(struct schema **out)
{
	struct schema_builder *builder;
	struct schema_blob blob = {0};
	int error = schema_builder_create(&builder);

	if (error != 0)
		return error;
	for (size_t i = 0; error == 0 && i < ARRAY_LEN(built_in); i++)
		error = schema_builder_add(builder, built_in[i].descriptor, NULL);
	/* All of fleet.proto is proto3: also those that have nothing but repeated fields. */
	for (uint32_t i = 0; error == 0 && schema_builder_set_syntax(builder, i, 3) == 0;)
		i++;
	if (error == 0)
		error = schema_builder_finish(builder, &blob);
	schema_builder_destroy(builder);
	if (error == 0)
		error = schema_parse(blob.bytes, blob.len, NULL, out);
	free(blob.bytes);
	return error;
}

int codec_sets_built_in(struct codec_sets *out)
{
	size_t file_bytes;
	uint8_t *file = codec_cpp_file("bench.Small", &file_bytes);
	int error = schema_open(&out->schema);

	out->n = ARRAY_LEN(built_in);
	out->sets = calloc(out->n, sizeof(*out->sets));
	if (!out->sets)
		error = -SPLIT_E_BASE_NOMEM;
	for (size_t k = 0; error == 0 && k < out->n; k++) {
		struct codec_set *s = &out->sets[k];

		(void)snprintf(s->name, sizeof(s->name), "%s", built_in[k].name);
		(void)snprintf(s->type, sizeof(s->type), "bench.%s", built_in[k].name);
		s->small = built_in[k].small;
		s->built_in = true;
		s->descriptor = built_in[k].descriptor;
		s->schema = schema_message_find(out->schema, s->type);
		s->cpp = codec_cpp_create(s->type);
		s->cpp_engine = "libprotobuf";
		if (file)
			s->upb = codec_upb_create((const uint8_t *const *)&file, &file_bytes, 1,
						  s->type);
		s->n = BUILT_IN_MESSAGES;
		s->messages = calloc(s->n, sizeof(*s->messages));
		if (!s->messages || !s->schema || !s->cpp)
			error = -SPLIT_E_BASE_NOMEM;
		for (unsigned i = 0; error == 0 && i < s->n; i++) {
			s->messages[i].wire =
				codec_cpp_make(built_in[k].name, i, &s->messages[i].bytes);
			if (!s->messages[i].wire)
				error = -SPLIT_E_BASE_NOMEM;
		}
	}
	free(file);
	return error;
}

void codec_sets_close(struct codec_sets *sets)
{
	for (unsigned k = 0; sets->sets && k < sets->n; k++) {
		codec_set_close(&sets->sets[k]);
		for (unsigned i = 0; sets->sets[k].messages && i < sets->sets[k].n; i++)
			free(sets->sets[k].messages[i].wire);
		free(sets->sets[k].messages);
	}
	free(sets->sets);
	schema_destroy(sets->schema);
	schema_types_destroy(sets->types);
	proto_set_destroy(sets->proto);
	free(sets->proto_bytes);
}
