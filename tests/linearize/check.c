/* The differential check, and the scan that tells where protobuf-c is not to be believed. */
#include "tests/linearize/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Quirks: a third, naive, recursive reader ------------------------------------------------- */

struct scan {
	unsigned mask;
	const uint8_t *end;
};

#define Q(name) (1u << QUIRK_BIT_##name)

/* A varint of at most `most` bytes, or NULL. Bits past 64 are told in *lost. */
static const uint8_t *scan_varint(const uint8_t *p, const uint8_t *end, int most, uint64_t *out,
				  bool *lost)
{
	uint64_t v = 0;
	int i;

	*lost = false;
	for (i = 0; i < most; i++) {
		if (p + i == end)
			return NULL;
		v |= (uint64_t)(p[i] & 0x7f) << (7 * i);
		if (i == 9 && (p[i] & 0x7e))
			*lost = true;
		if (p[i] < 0x80) {
			*out = v;
			return p + i + 1;
		}
	}
	return NULL;
}

static const ProtobufCFieldDescriptor *scan_field(const ProtobufCMessageDescriptor *d,
						  uint32_t number)
{
	unsigned i;

	for (i = 0; i < d->n_fields; i++)
		if (d->fields[i].id == number)
			return &d->fields[i];
	return NULL;
}

static bool is_utf8(const uint8_t *p, size_t n)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};

	while (n) {
		unsigned len = *p < 0x80       ? 1
			       : *p >> 5 == 6  ? 2
			       : *p >> 4 == 14 ? 3
			       : *p >> 3 == 30 ? 4
					       : 0;
		uint32_t c = len == 1 ? *p : *p & (0x7f >> len);
		unsigned i;

		if (len == 0 || len > n)
			return false;
		for (i = 1; i < len; i++) {
			if (p[i] >> 6 != 2)
				return false;
			c = c << 6 | (p[i] & 0x3f);
		}
		if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
			return false;
		p += len;
		n -= len;
	}
	return true;
}

/* Nothing in it says proto2: strings may be checked, if the schema was told that it is proto3. */
static bool may_be_proto3(const ProtobufCMessageDescriptor *d)
{
	unsigned i;

	for (i = 0; i < d->n_fields; i++)
		if (d->fields[i].label == PROTOBUF_C_LABEL_OPTIONAL ||
		    d->fields[i].label == PROTOBUF_C_LABEL_REQUIRED)
			return false;
	return true;
}

bool quirks_enums_closed;

static void scan_enum(unsigned *mask, const ProtobufCEnumDescriptor *e, uint64_t v)
{
	unsigned i;

	for (i = 0; i < e->n_values; i++)
		if (e->values[i].value == (int32_t)v)
			return;
	if (quirks_enums_closed)
		*mask |= Q(ENUM_CLOSED);
}

static bool scan_message(unsigned *mask, const ProtobufCMessageDescriptor *d, const uint8_t *p,
			 const uint8_t *end, int depth);

static bool scan_content(unsigned *mask, const ProtobufCMessageDescriptor *d,
			 const ProtobufCFieldDescriptor *f, const uint8_t *p, uint64_t len,
			 int depth)
{
	uint64_t i;

	if (!f)
		return true;
	if (f->type == PROTOBUF_C_TYPE_BOOL) {
		for (i = 0; i < len; i++)
			if (p[i] > 1)
				*mask |= Q(PACKED_BOOL);
	} else if (f->type == PROTOBUF_C_TYPE_ENUM) {
		const uint8_t *end = p + len;
		uint64_t v;
		bool lost;

		while (p && p < end && (p = scan_varint(p, end, 10, &v, &lost)))
			scan_enum(mask, f->descriptor, v);
	} else if (f->type == PROTOBUF_C_TYPE_STRING) {
		if (may_be_proto3(d) && !is_utf8(p, len))
			*mask |= Q(UTF8);
	} else if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
		return scan_message(mask, f->descriptor, p, p + len, depth + 1);
	}
	return true;
}

/* Does `f` take that wire type? What does not fit is unknown. */
static bool scan_fits(const ProtobufCFieldDescriptor *f, unsigned wire)
{
	static const uint8_t wires[] = {0, 0, 5, 0, 0, 1, 0, 5, 0, 1, 5, 1, 0, 0, 2, 2, 2};

	return wires[f->type] == wire || (wire == 2 && f->label == PROTOBUF_C_LABEL_REPEATED &&
					  f->type < PROTOBUF_C_TYPE_STRING);
}

/* One value after its tag; NULL where all readers agree that the message is bad. */
static const uint8_t *scan_value(unsigned *mask, const ProtobufCMessageDescriptor *d,
				 const ProtobufCFieldDescriptor *f, unsigned wire, const uint8_t *p,
				 const uint8_t *end, int depth)
{
	uint64_t v;
	bool lost;

	if (f && !scan_fits(f, wire)) {
		*mask |= Q(WIRE);
		f = NULL;
	}
	switch (wire) {
	case 0:
		p = scan_varint(p, end, 10, &v, &lost);
		if (p && lost && f && f->type == PROTOBUF_C_TYPE_BOOL)
			*mask |= Q(BOOL_VALUE);
		if (p && f && f->type == PROTOBUF_C_TYPE_ENUM)
			scan_enum(mask, f->descriptor, v);
		return p;
	case 1:
	case 5:
		v = wire == 1 ? 8 : 4;
		return (uint64_t)(end - p) < v ? NULL : p + v;
	case 2:
		p = scan_varint(p, end, 5, &v, &lost);
		if (!p || v > (uint64_t)(end - p))
			return NULL;
		return scan_content(mask, d, f, p, v, depth) ? p + v : NULL;
	case 3:
	case 4:
		*mask |= Q(GROUP);
		return NULL;
	default:
		return NULL;
	}
}

static bool scan_message(unsigned *mask, const ProtobufCMessageDescriptor *d, const uint8_t *p,
			 const uint8_t *end, int depth)
{
	bool *seen = calloc(d->n_fields + 1, sizeof(*seen));
	bool good = true;

	if (depth > LINEAR_DEPTH_MAX) {
		*mask |= Q(DEPTH);
		good = false;
	}
	while (good && p < end) {
		const ProtobufCFieldDescriptor *f;
		uint64_t tag;
		bool lost;

		p = scan_varint(p, end, 5, &tag, &lost);
		if (!p) {
			good = false;
			break;
		}
		if (tag > UINT32_MAX || tag >> 3 == 0) {
			*mask |= Q(TAG);
			good = false;
			break;
		}
		f = scan_field(d, (uint32_t)(tag >> 3));
		if (f && (tag & 7) == 2 && f->type == PROTOBUF_C_TYPE_MESSAGE &&
		    f->label != PROTOBUF_C_LABEL_REPEATED) {
			if (seen[f - d->fields])
				*mask |= Q(MERGE);
			seen[f - d->fields] = true;
		}
		p = scan_value(mask, d, f, tag & 7, p, end, depth);
		good = p != NULL;
	}
	free(seen);
	return good;
}

unsigned quirks_of(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t len)
{
	unsigned mask = 0;

	scan_message(&mask, d, p, len ? p + len : p, 0);
	return mask;
}

/* --- The check
 * ------------------------------------------------------------------------------------- */

struct check {
	const char *label;
	struct random *r;
	const ProtobufCMessageDescriptor *d;
	const struct schema_message *m;
	const struct wire *w;
};

static void broken(const struct check *c, const char *what, const char *why)
{
	size_t i;

	fprintf(stderr, "%s: %s: %s\nwire (%zu):", c->label, what, why, c->w->len);
	for (i = 0; i < c->w->len && i < 2000; i++)
		fprintf(stderr, "%02x", c->w->bytes[i]);
	fprintf(stderr, "\n");
	abort();
}

/* Encode the message at `root` and hold it against `expected`. */
static void check_encode(const struct check *c, uint64_t root, const uint8_t *expected, size_t len,
			 const char *what)
{
	struct linear_source source = source_everything();
	struct linear_limits limits = {.work_quantum = (uint32_t)random_below(c->r, 4)};
	size_t most = random_below(c->r, 2) ? 0 : 1 + random_below(c->r, 200);
	uint8_t *bytes;
	size_t got;
	int rc = encode_all(c->m, &source, root, limits, most, &bytes, &got);

	if (rc)
		broken(c, what, error_name(rc));
	if (got != len || memcmp(bytes, expected, len) != 0)
		broken(c, what, "other bytes than protobuf_c_message_pack");
	free(bytes);
}

static void check_flatten(const struct check *c, const ProtobufCMessage *msg, const uint8_t *packed,
			  size_t len)
{
	struct arena a;
	struct linear_target target;
	uint64_t root;
	char why[200];
	int rc;

	arena_init(&a, (enum chunk_policy)random_below(c->r, 3));
	target = arena_target(&a);
	if (random_below(c->r, 2)) {
		struct flatten_plan *plan;

		if (flatten_plan_create(c->d, &plan))
			broken(c, "flatten", "no plan");
		rc = flatten_planned(plan, msg, &target, NULL, 0, &unlimited, &root);
		flatten_plan_destroy(plan);
	} else {
		rc = flatten(msg, &target, NULL, 0, &unlimited, &root);
	}
	if (rc)
		broken(c, "flatten", error_name(rc));
	if (!message_equal(msg, (const ProtobufCMessage *)root, 0, why))
		broken(c, "flatten", why);
	check_encode(c, root, packed, len, "encode of flattened");
	arena_fini(&a);
}

/* A flat copy that lies in one block must be left alone when that block is "inside". */
static void check_flatten_inside(const struct check *c, const ProtobufCMessage *msg)
{
	static _Alignas(16) uint8_t memory[1 << 21];
	struct block b = {.mem = memory, .bytes = sizeof(memory)};
	struct linear_target target = block_target(&b);
	struct flatten_plan *plan;
	uint64_t root, again;
	size_t used;

	if (flatten(msg, &target, NULL, 0, &unlimited, &root))
		broken(c, "flatten", "into a block");
	used = b.used;
	if (flatten((const ProtobufCMessage *)root, &target, b.mem, b.bytes, &unlimited, &again) ||
	    again != root || b.used != used)
		broken(c, "flatten", "what was linear already was copied");
	if (flatten_plan_create(c->d, &plan) ||
	    flatten_planned(plan, (const ProtobufCMessage *)root, &target, b.mem, b.bytes,
			    &unlimited, &again) ||
	    again != root || b.used != used)
		broken(c, "flatten by plan", "what was linear already was copied");
	flatten_plan_destroy(plan);
}

/* The same input under another quantum and other chunks must give the same message. */
static void check_again(const struct check *c, const ProtobufCMessage *first, int rc_first)
{
	struct linear_limits limits = {.work_quantum = 1 + (uint32_t)random_below(c->r, 3)};
	struct arena a;
	struct linear_target target;
	uint64_t root;
	unsigned runs;
	char why[200];
	int rc;

	arena_init(&a, (enum chunk_policy)random_below(c->r, 3));
	target = arena_target(&a);
	rc = decode_all(c->m, c->w->bytes, c->w->len, &target, limits, &root, &runs);
	if (rc != rc_first)
		broken(c, "resumed decode", error_name(rc));
	if (!rc && !message_equal(first, (const ProtobufCMessage *)root, 0, why))
		broken(c, "resumed decode", why);
	arena_fini(&a);
}

/* Without memory at its nth chunk the job ends with just that error, for each n. */
static void check_failures(const struct check *c, int rc_first)
{
	int n, rc = -SPLIT_E_LINEARIZE_NOMEM;

	for (n = 1; rc == -SPLIT_E_LINEARIZE_NOMEM; n++) {
		struct arena a;
		struct linear_target target;
		uint64_t root;

		arena_init(&a, CHUNK_EXACT);
		a.fail_at = n;
		target = arena_target(&a);
		rc = decode_all(c->m, c->w->bytes, c->w->len, &target, unlimited, &root, NULL);
		if (rc != rc_first && rc != -SPLIT_E_LINEARIZE_NOMEM)
			broken(c, "decode without memory", error_name(rc));
		if (rc == -SPLIT_E_LINEARIZE_NOMEM && a.got != n)
			broken(c, "decode without memory", "NOMEM though there was some");
		arena_fini(&a);
	}
}

static void check_accepted(const struct check *c, const ProtobufCMessage *linear,
			   const ProtobufCMessage *reference, unsigned mask)
{
	size_t len = protobuf_c_message_get_packed_size(linear);
	uint8_t *packed = malloc(len + 1);
	char why[200];

	if (!mask && !reference)
		broken(c, "decode", "accepted what protobuf-c refuses");
	if (!mask && !message_equal(reference, linear, 0, why))
		broken(c, "decode", why);
	protobuf_c_message_pack(linear, packed);
	check_encode(c, (uintptr_t)linear, packed, len, "encode of decoded");
	check_flatten(c, linear, packed, len);
	if (random_below(c->r, 8) == 0)
		check_flatten_inside(c, linear);
	if (reference) {
		size_t reference_len = protobuf_c_message_get_packed_size(reference);
		uint8_t *reference_packed = malloc(reference_len + 1);

		protobuf_c_message_pack(reference, reference_packed);
		check_encode(c, (uintptr_t)reference, reference_packed, reference_len, "encode");
		check_flatten(c, reference, reference_packed, reference_len);
		free(reference_packed);
	}
	free(packed);
}

void check_input(const char *label, struct random *r, const ProtobufCMessageDescriptor *d,
		 const struct schema_message *m, const struct wire *w, struct check_counts *counts)
{
	struct check c = {.label = label, .r = r, .d = d, .m = m, .w = w};
	unsigned mask = quirks_of(d, w->bytes, w->len), q;
	ProtobufCMessage *reference =
		mask ? NULL : protobuf_c_message_unpack(d, NULL, w->len, w->bytes);
	struct arena a;
	struct linear_target target;
	uint64_t root;
	int rc;

	arena_init(&a, (enum chunk_policy)random_below(r, 3));
	target = arena_target(&a);
	rc = decode_all(m, w->bytes, w->len, &target, unlimited, &root, NULL);
	if (rc > 0)
		broken(&c, "decode", "no quantum, yet AGAIN");
	if (rc < 0 && !mask && reference)
		broken(&c, "decode refuses what protobuf-c accepts", error_name(rc));
	if (rc == 0)
		check_accepted(&c, (const ProtobufCMessage *)root, reference, mask);
	check_again(&c, (const ProtobufCMessage *)root, rc);
	check_engines(label, r, m, w);
	if (random_below(r, 16) == 0)
		check_failures(&c, rc);
	arena_fini(&a);
	if (reference)
		protobuf_c_message_free_unpacked(reference, NULL);
	counts->inputs++;
	counts->accepted += rc == 0;
	counts->refused += rc < 0;
	counts->quirky += mask != 0;
	for (q = 0; q < QUIRK_COUNT; q++)
		counts->by_quirk[q] += mask >> q & 1;
}
