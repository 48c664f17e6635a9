/* Defaults: the text of a descriptor -> the value. descriptor.proto says how each type is written:
 * numbers in decimal, bytes C-escaped, enums by the value's name. */
#include "linearize/descriptor/descriptor_internal.h"

#include <errno.h>
#include <stdlib.h>

static int integer(const char *text, bool is_signed, int64_t min, uint64_t max, uint64_t *out)
{
	char *end;

	if (*text != '-' && (*text < '0' || *text > '9'))
		return -SPLIT_E_LINEARIZE_PROTO;
	errno = 0;
	if (is_signed) {
		long long v = strtoll(text, &end, 10);

		if (v < min || (v > 0 && (uint64_t)v > max))
			return -SPLIT_E_LINEARIZE_PROTO;
		*out = (uint64_t)v;
	} else {
		*out = strtoull(text, &end, 10);
		if (*text == '-' || *out > max)
			return -SPLIT_E_LINEARIZE_PROTO;
	}
	return errno || end == text || *end ? -SPLIT_E_LINEARIZE_PROTO : 0;
}

static int real(const char *text, bool is_float, uint64_t *out)
{
	char *end;
	double d;
	float f;

	/* protoc writes inf, -inf and nan; strtod knows these. Hexadecimal it never writes. */
	if (*text == '\0' || strpbrk(text, " \t\nxXpP"))
		return -SPLIT_E_LINEARIZE_PROTO;
	d = strtod(text, &end);
	if (*end)
		return -SPLIT_E_LINEARIZE_PROTO;
	*out = 0;
	f = (float)d;
	if (is_float)
		memcpy(out, &f, sizeof(f));
	else
		memcpy(out, &d, sizeof(d));
	return 0;
}

static int hex(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One escape at t[*at], behind its backslash. */
static int escape(struct proto_bytes t, size_t *at, uint8_t *out)
{
	static const char from[] = "nrtabfv\\'\"?", to[] = "\n\r\t\a\b\f\v\\'\"?";
	uint8_t c = t.data[(*at)++];
	unsigned v = 0, digits = 0;
	const char *found;

	if (c >= '0' && c <= '7') {
		for ((*at)--; digits < 3 && *at < t.len && t.data[*at] >= '0' && t.data[*at] <= '7';
		     digits++)
			v = v * 8 + (unsigned)(t.data[(*at)++] - '0');
		*out = (uint8_t)v;
		return v > 255 ? -SPLIT_E_LINEARIZE_PROTO : 0;
	}
	if (c == 'x' || c == 'X') {
		for (; digits < 2 && *at < t.len && hex(t.data[*at]) >= 0; digits++)
			v = v * 16 + (unsigned)hex(t.data[(*at)++]);
		*out = (uint8_t)v;
		return digits ? 0 : -SPLIT_E_LINEARIZE_PROTO;
	}
	found = c ? strchr(from, c) : NULL;
	if (!found)
		return -SPLIT_E_LINEARIZE_PROTO;
	*out = (uint8_t)to[found - from];
	return 0;
}

static int text_default(struct owned_set *s, struct proto_field *f, struct proto_bytes t)
{
	uint8_t *out = memory_get(s, t.len + 1);
	size_t n = 0, i = 0;
	int rc = 0;

	if (!out)
		return -SPLIT_E_BASE_NOMEM;
	while (rc == 0 && i < t.len) {
		out[n] = t.data[i++];
		if (f->type == PROTO_BYTES && out[n] == '\\')
			rc = i < t.len ? escape(t, &i, &out[n]) : -SPLIT_E_LINEARIZE_PROTO;
		n++;
	}
	f->default_bytes = (struct proto_bytes){out, n};
	return rc;
}

static int enum_default(struct proto_field *f, const char *name)
{
	for (uint32_t i = 0; i < f->enumeration->values_n; i++)
		if (strcmp(f->enumeration->values[i].name, name) == 0) {
			f->default_number = (uint64_t)(int64_t)f->enumeration->values[i].number;
			return 0;
		}
	return -SPLIT_E_LINEARIZE_PROTO;
}

int default_parse(struct owned_set *s, struct proto_field *f, struct proto_bytes text)
{
	char *t;

	if (f->type == PROTO_STRING || f->type == PROTO_BYTES)
		return text_default(s, f, text);
	if (text.len > 0 && memchr(text.data, 0, text.len))
		return -SPLIT_E_LINEARIZE_PROTO;
	t = memory_get(s, text.len + 1);
	if (!t)
		return -SPLIT_E_BASE_NOMEM;
	memcpy(t, text.len ? text.data : (const uint8_t *)"", text.len);
	switch (f->type) {
	case PROTO_INT32:
	case PROTO_SINT32:
	case PROTO_SFIXED32:
		return integer(t, true, INT32_MIN, INT32_MAX, &f->default_number);
	case PROTO_INT64:
	case PROTO_SINT64:
	case PROTO_SFIXED64:
		return integer(t, true, INT64_MIN, INT64_MAX, &f->default_number);
	case PROTO_UINT32:
	case PROTO_FIXED32:
		return integer(t, false, 0, UINT32_MAX, &f->default_number);
	case PROTO_UINT64:
	case PROTO_FIXED64:
		return integer(t, false, 0, UINT64_MAX, &f->default_number);
	case PROTO_FLOAT:
	case PROTO_DOUBLE:
		return real(t, f->type == PROTO_FLOAT, &f->default_number);
	case PROTO_BOOL:
		f->default_number = strcmp(t, "true") == 0;
		return f->default_number || strcmp(t, "false") == 0 ? 0 : -SPLIT_E_LINEARIZE_PROTO;
	case PROTO_ENUM:
		return enum_default(f, t);
	default:
		return -SPLIT_E_LINEARIZE_PROTO;
	}
}
