/* Random message descriptors, built in memory as protoc-c would lay them out, and random messages
 * of any descriptor, straight on the wire. One seed decides all. */
#include "tests/linearize/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_MAX 8
#define FIELDS_MAX   24

struct random_message {
	ProtobufCMessageDescriptor d;
	ProtobufCFieldDescriptor fields[FIELDS_MAX];
	ProtobufCIntRange ranges[FIELDS_MAX + 1];
	char name[32];
	char field_names[FIELDS_MAX][16];
	union {
		uint64_t scalar;
		ProtobufCBinaryData data;
		char string[16];
	} defaults[FIELDS_MAX];
	uint8_t default_bytes[FIELDS_MAX][8];
};

struct random_schema {
	struct random_message messages[MESSAGES_MAX];
	int count;
};

static const ProtobufCEnumValue enum_values[] = {
	{"MINUS", "MINUS", -1}, {"ZERO", "ZERO", 0}, {"SEVEN", "SEVEN", 7}};
static const ProtobufCEnumDescriptor enum_descriptor = {
	.magic = PROTOBUF_C__ENUM_DESCRIPTOR_MAGIC,
	.name = "test.Enum",
	.short_name = "Enum",
	.n_values = 3,
	.values = enum_values,
};

static unsigned member_bytes(ProtobufCType type)
{
	static const uint8_t bytes[] = {4, 4, 4, 8, 8, 8, 4, 4, 8, 8, 4, 8, 4, 4, 8, 16, 8};

	return bytes[type];
}

static unsigned place(unsigned *at, unsigned bytes)
{
	unsigned align = bytes == 4 ? 4 : 8, offset = (*at + align - 1) / align * align;

	*at = offset + bytes;
	return offset;
}

static void random_default(struct random *r, struct random_message *m, int i)
{
	ProtobufCFieldDescriptor *f = &m->fields[i];

	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return;
	if (f->type == PROTOBUF_C_TYPE_STRING) {
		snprintf(m->defaults[i].string, 16, "%s", random_below(r, 3) ? "a default" : "");
		f->default_value = m->defaults[i].string;
	} else if (f->type == PROTOBUF_C_TYPE_BYTES) {
		random_fill(r, m->default_bytes[i], 8);
		m->defaults[i].data = (ProtobufCBinaryData){.len = 1 + random_below(r, 8),
							    .data = m->default_bytes[i]};
		f->default_value = &m->defaults[i].data;
	} else {
		m->defaults[i].scalar = f->type == PROTOBUF_C_TYPE_BOOL ? 1 : random_next(r);
		f->default_value = &m->defaults[i].scalar;
	}
}

static uint32_t random_number(struct random *r, uint32_t last)
{
	switch (random_below(r, 12)) {
	case 0:
		return last + 1 + (uint32_t)random_below(r, 40);
	case 1:
		return last < 1u << 20 ? last + (uint32_t)random_below(r, 1u << 16) + 1 : last + 1;
	case 2: /* a tag of 5 bytes; so it is with all that follow */
		if (random_below(r, 4) == 0 && last < 1u << 25)
			return (1u << 25) + (uint32_t)random_below(r, 1u << 26);
		return last + 1;
	default:
		return last + 1;
	}
}

static void random_label(struct random *r, ProtobufCFieldDescriptor *f, bool proto3)
{
	uint64_t dice = random_below(r, 10);

	if (dice < 4)
		f->label = PROTOBUF_C_LABEL_REPEATED;
	else if (proto3)
		f->label = PROTOBUF_C_LABEL_NONE;
	else
		f->label = dice == 9 ? PROTOBUF_C_LABEL_REQUIRED : PROTOBUF_C_LABEL_OPTIONAL;
	if (f->label == PROTOBUF_C_LABEL_REPEATED && f->type < PROTOBUF_C_TYPE_STRING &&
	    random_below(r, 2))
		f->flags |= PROTOBUF_C_FIELD_FLAG_PACKED;
}

/* Quantifier and member of a field that is in no oneof. */
static void random_place(ProtobufCFieldDescriptor *f, unsigned *at)
{
	bool pointer = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE;

	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		f->quantifier_offset = place(at, 8);
	else if (f->label == PROTOBUF_C_LABEL_OPTIONAL && !pointer)
		f->quantifier_offset = place(at, 4);
	f->offset = place(at, f->label == PROTOBUF_C_LABEL_REPEATED ? 8 : member_bytes(f->type));
}

static void random_ranges(struct random_message *m)
{
	unsigned i, n = 0;

	for (i = 0; i < m->d.n_fields; i++)
		if (i == 0 || m->fields[i].id != m->fields[i - 1].id + 1)
			m->ranges[n++] = (ProtobufCIntRange){(int)m->fields[i].id, i};
	m->ranges[n] = (ProtobufCIntRange){0, m->d.n_fields};
	m->d.n_field_ranges = n;
	m->d.field_ranges = m->ranges;
}

static void random_fields(struct random *r, struct random_schema *s, struct random_message *m)
{
	bool proto3 = random_below(r, 2);
	unsigned n = (unsigned)random_below(r, FIELDS_MAX + 1), i, at = sizeof(ProtobufCMessage);
	unsigned oneof_left = 0, oneof_case = 0, oneof_at = 0;
	uint32_t number = 0;

	for (i = 0; i < n; i++) {
		ProtobufCFieldDescriptor *f = &m->fields[i];

		number = random_number(r, number);
		snprintf(m->field_names[i], sizeof(m->field_names[i]), "f%u", number);
		f->name = m->field_names[i];
		f->id = number;
		f->type = (ProtobufCType)random_below(r, PROTOBUF_C_TYPE_MESSAGE + 1);
		if (f->type == PROTOBUF_C_TYPE_MESSAGE)
			f->descriptor = &s->messages[random_below(r, (uint64_t)s->count)].d;
		else if (f->type == PROTOBUF_C_TYPE_ENUM)
			f->descriptor = &enum_descriptor;
		if (oneof_left == 0 && random_below(r, 8) == 0) {
			oneof_left = 1 + (unsigned)random_below(r, 5);
			oneof_case = place(&at, 4);
			oneof_at = place(&at, 16);
		}
		if (oneof_left) {
			oneof_left--;
			f->flags |= PROTOBUF_C_FIELD_FLAG_ONEOF;
			f->label = proto3 ? PROTOBUF_C_LABEL_NONE : PROTOBUF_C_LABEL_OPTIONAL;
			f->quantifier_offset = oneof_case;
			f->offset = oneof_at;
		} else {
			random_label(r, f, proto3);
			random_place(f, &at);
			if (!proto3 && f->label != PROTOBUF_C_LABEL_REPEATED && !random_below(r, 3))
				random_default(r, m, (int)i);
		}
		/* Not in a oneof: without message_init protobuf-c would put the address into the
		 * union of an unset oneof, and crash. Generated code has no such trouble. */
		if (proto3 && f->type == PROTOBUF_C_TYPE_STRING &&
		    f->label == PROTOBUF_C_LABEL_NONE && !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
			f->default_value = protobuf_c_empty_string;
	}
	m->d.n_fields = n;
	m->d.fields = m->fields;
	m->d.sizeof_message = (at + 7) / 8 * 8;
	random_ranges(m);
}

struct random_schema *random_schema_create(struct random *r)
{
	struct random_schema *s = calloc(1, sizeof(*s));
	int i;

	s->count = 1 + (int)random_below(r, MESSAGES_MAX);
	for (i = 0; i < s->count; i++) {
		struct random_message *m = &s->messages[i];

		snprintf(m->name, sizeof(m->name), "test.M%d", i);
		m->d.magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC;
		m->d.name = m->d.short_name = m->d.c_name = m->name;
		random_fields(r, s, m);
	}
	return s;
}

void random_schema_destroy(struct random_schema *s)
{
	free(s);
}

const ProtobufCMessageDescriptor *random_schema_root(const struct random_schema *s)
{
	return &s->messages[0].d;
}

/* --- Messages on the wire ------------------------------------------------------------------- */

void wire_put(struct wire *w, const void *bytes, size_t len)
{
	if (w->room - w->len < len) {
		w->room = (w->len + len) * 2 + 64;
		w->bytes = realloc(w->bytes, w->room);
		if (!w->bytes)
			abort();
	}
	if (len)
		memcpy(w->bytes + w->len, bytes, len);
	w->len += len;
}

void wire_varint(struct wire *w, uint64_t v)
{
	uint8_t b;

	while (v >= 0x80) {
		b = (uint8_t)(v | 0x80);
		wire_put(w, &b, 1);
		v >>= 7;
	}
	b = (uint8_t)v;
	wire_put(w, &b, 1);
}

void wire_tag(struct wire *w, uint32_t number, unsigned wire_type)
{
	wire_varint(w, (uint64_t)number << 3 | wire_type);
}

struct writer {
	struct random *r;
	bool clean;
	int budget; /* fields still to write, over all levels */
};

static uint64_t random_value(struct random *r)
{
	switch (random_below(r, 5)) {
	case 0:
		return random_below(r, 2);
	case 1:
		return random_below(r, 300);
	case 2:
		return UINT64_MAX - random_below(r, 300);
	case 3:
		return random_next(r) >> random_below(r, 64);
	default:
		return (uint32_t)random_next(r);
	}
}

/* At times longer than it need be, which is legal. */
static void random_varint(struct random *r, struct wire *w, uint64_t v)
{
	uint8_t bytes[10];
	int n = 0;

	if (random_below(r, 20)) {
		wire_varint(w, v);
		return;
	}
	for (; n < 10; n++, v >>= 7)
		bytes[n] = (uint8_t)(v | 0x80);
	bytes[9] &= 0x01;
	wire_put(w, bytes, 10);
}

static unsigned wire_of(ProtobufCType type)
{
	static const uint8_t wires[] = {0, 0, 5, 0, 0, 1, 0, 5, 0, 1, 5, 1, 0, 0, 2, 2, 2};

	return wires[type];
}

static void random_scalar(struct writer *x, ProtobufCType type, struct wire *w)
{
	uint64_t v = random_value(x->r);

	if (type == PROTOBUF_C_TYPE_BOOL && x->clean)
		wire_varint(w, v & 1);
	else if (wire_of(type) == 0)
		random_varint(x->r, w, v);
	else
		wire_put(w, &v, wire_of(type) == 5 ? 4 : 8);
}

static void random_text(struct writer *x, ProtobufCType type, struct wire *w)
{
	static const char *const pieces[] = {
		"a", "hello ", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "0123456789abcdef"};
	uint64_t n = random_below(x->r, 12);
	struct wire text = {0};

	if (random_below(x->r, 60) == 0)
		n *= 200;
	if (type == PROTOBUF_C_TYPE_BYTES) {
		uint8_t bytes[2400];

		random_fill(x->r, bytes, n);
		wire_varint(w, n);
		wire_put(w, bytes, n);
		return;
	}
	while (n--) {
		const char *piece = pieces[random_below(x->r, 6)];

		wire_put(&text, piece, strlen(piece));
	}
	if (!x->clean && random_below(x->r, 50) == 0)
		wire_put(&text, "\xc0", 1);
	wire_varint(w, text.len);
	wire_put(w, text.bytes, text.len);
	free(text.bytes);
}

static void random_message(struct writer *x, const ProtobufCMessageDescriptor *d, int depth,
			   struct wire *w);

static void random_field(struct writer *x, const ProtobufCFieldDescriptor *f, int depth,
			 struct wire *w)
{
	struct wire sub = {0};
	uint64_t n;

	if (f->label == PROTOBUF_C_LABEL_REPEATED && f->type < PROTOBUF_C_TYPE_STRING &&
	    random_below(x->r, 2)) {
		for (n = random_below(x->r, 30); n > 0; n--)
			random_scalar(x, f->type, &sub);
		wire_tag(w, f->id, 2);
		wire_varint(w, sub.len);
		wire_put(w, sub.bytes, sub.len);
		free(sub.bytes);
		return;
	}
	wire_tag(w, f->id, wire_of(f->type));
	if (f->type < PROTOBUF_C_TYPE_STRING) {
		random_scalar(x, f->type, w);
	} else if (f->type < PROTOBUF_C_TYPE_MESSAGE) {
		random_text(x, f->type, w);
	} else {
		random_message(x, f->descriptor, depth + 1, &sub);
		wire_varint(w, sub.len);
		wire_put(w, sub.bytes, sub.len);
		free(sub.bytes);
	}
}

static void random_unknown(struct writer *x, uint32_t number, int depth, struct wire *w)
{
	unsigned wire_type = (unsigned)random_below(x->r, x->clean ? 4 : 5);
	uint64_t v = random_value(x->r);

	switch (wire_type) {
	case 0:
		wire_tag(w, number, 0);
		random_varint(x->r, w, v);
		break;
	case 1:
		wire_tag(w, number, 1);
		wire_put(w, &v, 8);
		break;
	case 2:
		wire_tag(w, number, 5);
		wire_put(w, &v, 4);
		break;
	case 3:
		wire_tag(w, number, 2);
		random_text(x, PROTOBUF_C_TYPE_BYTES, w);
		break;
	default:
		wire_tag(w, number, 3);
		while (depth < 20 && random_below(x->r, 3))
			random_unknown(x, 1 + (uint32_t)random_below(x->r, 1000), depth + 1, w);
		wire_tag(w, number, 4);
	}
}

static bool is_singular_message(const ProtobufCFieldDescriptor *f)
{
	return f->type == PROTOBUF_C_TYPE_MESSAGE && f->label != PROTOBUF_C_LABEL_REPEATED;
}

static void random_message(struct writer *x, const ProtobufCMessageDescriptor *d, int depth,
			   struct wire *w)
{
	uint64_t n = random_below(x->r, 2 + 2 * (uint64_t)d->n_fields), i;
	bool seen[FIELDS_MAX * 8] = {false};

	for (i = 0; i < d->n_fields; i++)
		if (d->fields[i].label == PROTOBUF_C_LABEL_REQUIRED && random_below(x->r, 50) &&
		    (depth < 6 || !is_singular_message(&d->fields[i]))) {
			random_field(x, &d->fields[i], depth, w);
			if (i < sizeof(seen))
				seen[i] = true;
		}
	for (; n > 0 && x->budget > 0; n--) {
		const ProtobufCFieldDescriptor *f;
		uint64_t again = random_below(x->r, 8) ? 1 : random_below(x->r, 20);

		x->budget--;
		if (d->n_fields == 0 || random_below(x->r, 15) == 0) {
			uint32_t number = 600000 + (uint32_t)random_below(x->r, 10);

			random_unknown(x, random_below(x->r, 9) ? number : (1u << 29) - 1, 0, w);
			continue;
		}
		i = random_below(x->r, d->n_fields);
		f = &d->fields[i];
		if (f->type == PROTOBUF_C_TYPE_MESSAGE && depth > 8)
			continue;
		if (is_singular_message(f)) {
			if (x->clean && i < sizeof(seen) && seen[i])
				continue;
			if (i < sizeof(seen))
				seen[i] = true;
			again = 1;
		}
		while (again-- && x->budget-- > 0)
			random_field(x, f, depth, w);
	}
}

void random_wire(struct random *r, const ProtobufCMessageDescriptor *d, bool clean,
		 struct wire *out)
{
	struct writer x = {.r = r, .clean = clean, .budget = 20 + (int)random_below(r, 150)};

	*out = (struct wire){0};
	random_message(&x, d, 0, out);
	if (!out->bytes)
		wire_put(out, "", 0);
}

void random_mutate(struct random *r, struct wire *w)
{
	uint64_t n = 1 + random_below(r, 3);

	while (n-- && w->len) {
		size_t at = random_below(r, w->len);

		switch (random_below(r, 6)) {
		case 0:
			w->bytes[at] ^= (uint8_t)(1u << random_below(r, 8));
			break;
		case 1:
			w->bytes[at] = (uint8_t)random_next(r);
			break;
		case 2:
			w->len = at;
			break;
		case 3:
			w->bytes[at] |= 0x80;
			break;
		case 4: /* repeat a piece */
			if (w->len < 100000) {
				size_t len = random_below(r, w->len - at) + 1;
				uint8_t *piece = malloc(len);

				memcpy(piece, w->bytes + at, len);
				wire_put(w, piece, len);
				free(piece);
			}
			break;
		default: /* take a piece out */
			if (w->len - at > 1) {
				size_t len = 1 + random_below(r, 4);

				if (len > w->len - at)
					len = w->len - at;
				memmove(w->bytes + at, w->bytes + at + len, w->len - at - len);
				w->len -= len;
			}
		}
	}
}
