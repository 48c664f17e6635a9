/* A small message out of its slot.
 *
 * A message that fits is sent inside the slot, its pointers pointing into the slot. The slot must
 * go back to the daemon before the handler is done with it (else a RELEASE behind it could never
 * arrive and a ring of two slots would stand still), so the message is copied into the call, and
 * the pointers that point into the slot are shifted. Only fields that hold pointers are touched: a
 * number that looks like an address stays a number. The daemon made the message, so counts and
 * nesting are sound; at 24 bytes a struct, 128 bytes nest five deep at most.
 */
#include "host-lib/host_internal.h"

struct move {
	uint64_t from;
	size_t bytes;
	int64_t shift;
};

/* Shift one pointer if it points into the slot; returns where it points to now, NULL if not there.
 */
static void *move_pointer(const struct move *m, void *at)
{
	uint64_t v;

	memcpy(&v, at, sizeof(v));
	if (v - m->from >= m->bytes)
		return NULL;
	v += (uint64_t)m->shift;
	memcpy(at, &v, sizeof(v));
	return (void *)(uintptr_t)v;
}

static void move_message(const struct move *m, ProtobufCMessage *message,
			 const ProtobufCMessageDescriptor *d);

/* One element (or singular field) at `at`. */
static void move_element(const struct move *m, const ProtobufCFieldDescriptor *f, void *at)
{
	void *sub;

	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		move_pointer(m, at);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		move_pointer(m, (uint8_t *)at + offsetof(ProtobufCBinaryData, data));
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		sub = move_pointer(m, at);
		if (sub != NULL)
			move_message(m, sub, f->descriptor);
		break;
	default:
		break;
	}
}

static size_t element_bytes(ProtobufCType type)
{
	return type == PROTOBUF_C_TYPE_BYTES ? sizeof(ProtobufCBinaryData) : sizeof(void *);
}

static void move_repeated(const struct move *m, const ProtobufCFieldDescriptor *f, uint8_t *base)
{
	size_t n;
	uint8_t *array;

	memcpy(&n, base + f->quantifier_offset, sizeof(n));
	if (n == 0)
		return;
	array = move_pointer(m, base + f->offset);
	if (array == NULL ||
	    (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_BYTES &&
	     f->type != PROTOBUF_C_TYPE_MESSAGE))
		return;
	for (size_t i = 0; i < n; i++)
		move_element(m, f, array + i * element_bytes(f->type));
}

static void move_message(const struct move *m, ProtobufCMessage *message,
			 const ProtobufCMessageDescriptor *d)
{
	uint8_t *base = (uint8_t *)message;

	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		uint32_t chosen;

		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			move_repeated(m, f, base);
			continue;
		}
		if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
			memcpy(&chosen, base + f->quantifier_offset, sizeof(chosen));
			if (chosen != f->id)
				continue;
		}
		move_element(m, f, base + f->offset);
	}
	if (message->n_unknown_fields != 0) {
		ProtobufCMessageUnknownField *u = move_pointer(m, &message->unknown_fields);

		for (unsigned i = 0; u != NULL && i < message->n_unknown_fields; i++)
			move_pointer(m, &u[i].data);
	}
}

/* Where the pointers of a message of type `d` are, if that is all there is to know: no array, no
 * oneof, no message inside. */
void relocation_plan(const ProtobufCMessageDescriptor *d, struct relocation *out)
{
	*out = (struct relocation){.walk = true};
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		size_t at = f->offset;

		if (f->label == PROTOBUF_C_LABEL_REPEATED || f->type == PROTOBUF_C_TYPE_MESSAGE)
			return;
		if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_BYTES)
			continue;
		if (f->type == PROTOBUF_C_TYPE_BYTES)
			at += offsetof(ProtobufCBinaryData, data);
		if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 || at % 8 != 0 ||
		    at >= SLOT_INLINE_BYTES || out->n == RELOCATION_POINTERS)
			return;
		out->at[out->n++] = (uint8_t)at;
	}
	out->walk = false;
}

void relocate_message(ProtobufCMessage *message, const ProtobufCMessageDescriptor *descriptor,
		      uint64_t from, size_t bytes, int64_t shift)
{
	struct move m = {.from = from, .bytes = bytes, .shift = shift};

	move_message(&m, message, descriptor);
}
