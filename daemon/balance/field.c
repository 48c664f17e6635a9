#include "daemon/balance/field.h"

#include <string.h>

#include "base/bits.h"

enum wire_type { VARINT = 0, I64 = 1, LEN = 2, SGROUP = 3, EGROUP = 4, I32 = 5 };

struct reader {
	const uint8_t *at, *end;
};

/* False: it does not end here, or is longer than ten bytes. */
static bool varint_read(struct reader *r, uint64_t *out)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70 && r->at < r->end; shift += 7) {
		uint8_t byte = *r->at++;

		if (shift < 64)
			v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80)) {
			*out = v;
			return true;
		}
	}
	return false;
}

static bool fixed_read(struct reader *r, size_t n, uint64_t *out)
{
	*out = 0;
	if ((size_t)(r->end - r->at) < n)
		return false;
	for (size_t i = 0; i < n; i++)
		*out |= (uint64_t)r->at[i] << (8 * i);
	r->at += n;
	return true;
}

/* One field's tag and value; of a group only its beginning or end. `len_out` of LEN may be more
 * than is here: then at stays before the bytes. */
static bool field_read(struct reader *r, uint32_t *number, enum wire_type *type,
		       struct field_value *v)
{
	uint64_t tag;

	memset(v, 0, sizeof(*v));
	if (!varint_read(r, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
		return false;
	*number = (uint32_t)(tag >> 3);
	*type = (enum wire_type)(tag & 7);
	switch (*type) {
	case VARINT:
		return varint_read(r, &v->number);
	case I64:
		return fixed_read(r, 8, &v->number);
	case I32:
		return fixed_read(r, 4, &v->number);
	case LEN:
		if (!varint_read(r, &v->number))
			return false;
		v->bytes = r->at;
		v->len = (size_t)v->number;
		return true;
	case SGROUP:
	case EGROUP:
		return true;
	}
	return false;
}

/* Past the bytes of a LEN; false: they are not all here. */
static bool bytes_skip(struct reader *r, const struct field_value *v)
{
	if (v->number > (uint64_t)(r->end - r->at))
		return false;
	r->at += v->number;
	return true;
}

/* Into the sub-message; where it is cut off, `whole` becomes false. */
static void enter(struct reader *r, const struct field_value *v, bool *whole)
{
	uint64_t here = (uint64_t)(r->end - r->at);

	if (v->number > here)
		*whole = false;
	else
		r->end = r->at + v->number;
}

static enum field_result value_done(const struct reader *r, enum wire_type type,
				    struct field_value *v)
{
	if (type == LEN && v->number > (uint64_t)(r->end - r->at))
		return FIELD_UNSEEN;
	if (type == LEN)
		return v->len != 0 ? FIELD_FOUND : FIELD_ABSENT;
	v->bytes = (const uint8_t *)&v->number;
	v->len = sizeof(v->number);
	return v->number != 0 ? FIELD_FOUND : FIELD_ABSENT;
}

enum field_result field_find(const uint8_t *wire, size_t n, bool whole, const uint32_t *path,
			     unsigned depth, struct field_value *value_out)
{
	struct reader r = {wire, wire + n};
	unsigned groups = 0, at = 0;

	while (r.at < r.end) {
		enum wire_type type;
		uint32_t number;

		if (!field_read(&r, &number, &type, value_out))
			return FIELD_UNSEEN;
		if (type == SGROUP && ++groups > FIELD_GROUPS_MAX)
			return FIELD_UNSEEN;
		if (type == EGROUP && groups-- == 0)
			return FIELD_UNSEEN;
		if (type == SGROUP || type == EGROUP)
			continue;
		if (groups == 0 && number == path[at] && at + 1 == depth)
			return value_done(&r, type, value_out);
		if (groups == 0 && number == path[at] && type == LEN) {
			enter(&r, value_out, &whole);
			at++;
			continue;
		}
		if (type == LEN && !bytes_skip(&r, value_out))
			return FIELD_UNSEEN;
	}
	return whole && groups == 0 ? FIELD_ABSENT : FIELD_UNSEEN;
}
