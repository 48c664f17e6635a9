/* protobuf's wire format, one field after another: no schema, no recursion. */
#include "linearize/descriptor/descriptor_internal.h"

static bool varint_next(struct proto_bytes *rest, uint64_t *out)
{
	uint64_t v = 0;
	unsigned i;

	for (i = 0; i < 10 && i < rest->len; i++) {
		uint8_t byte = rest->data[i];

		if (i == 9 && byte > 1)
			return false;
		v |= (uint64_t)(byte & 0x7f) << (7 * i);
		if (byte < 0x80) {
			rest->data += i + 1;
			rest->len -= i + 1;
			*out = v;
			return true;
		}
	}
	return false;
}

static bool fixed_next(struct proto_bytes *rest, size_t bytes, uint64_t *out)
{
	if (rest->len < bytes)
		return false;
	*out = 0;
	memcpy(out, rest->data, bytes); /* little endian, as linearize is */
	rest->data += bytes;
	rest->len -= bytes;
	return true;
}

/* Behind a group's start tag: to behind its end. Nesting needs no stack, only the numbers do, and
 * what is in a group of a descriptor is read by nobody: depth alone is kept. */
static bool group_skip(struct proto_bytes *rest)
{
	uint32_t depth = 1;
	uint64_t tag, v;

	while (depth > 0) {
		if (!varint_next(rest, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
			return false;
		switch (tag & 7) {
		case 0:
			if (!varint_next(rest, &v))
				return false;
			break;
		case 1:
		case 5:
			if (!fixed_next(rest, (tag & 7) == 1 ? 8 : 4, &v))
				return false;
			break;
		case 2:
			if (!varint_next(rest, &v) || v > rest->len)
				return false;
			rest->data += v;
			rest->len -= v;
			break;
		case 3:
			depth++;
			break;
		case 4:
			depth--;
			break;
		default:
			return false;
		}
	}
	return true;
}

int proto_next(struct proto_bytes *rest, struct proto_item *out)
{
	uint64_t tag;
	bool good;

	do {
		if (rest->len == 0)
			return 0;
		*out = (struct proto_item){0};
		if (!varint_next(rest, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
			return -SPLIT_E_LINEARIZE_PROTO;
		out->number = (uint32_t)(tag >> 3);
		out->wire = tag & 7;
		switch (out->wire) {
		case 0:
			good = varint_next(rest, &out->value);
			break;
		case 1:
			good = fixed_next(rest, 8, &out->value);
			break;
		case 5:
			good = fixed_next(rest, 4, &out->value);
			break;
		case 2:
			good = varint_next(rest, &out->value) && out->value <= rest->len;
			if (good) {
				out->bytes = (struct proto_bytes){rest->data, out->value};
				rest->data += out->value;
				rest->len -= out->value;
			}
			break;
		case 3:
			good = group_skip(rest);
			break;
		default:
			good = false;
		}
		if (!good)
			return -SPLIT_E_LINEARIZE_PROTO;
	} while (out->wire == 3);
	return 1;
}
