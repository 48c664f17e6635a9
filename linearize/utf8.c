#include "linearize/linearize_internal.h"

/* Length of the character at `p`, 0 if it is invalid, -1 if it is valid so far but cut by `end`.
 * RFC 3629 s4, the UTF8-octets grammar: only the second byte has a narrowed range. */
static int utf8_char(const uint8_t *p, const uint8_t *end)
{
	uint8_t lead = p[0], low = 0x80, high = 0xbf;
	int i, bytes;

	if (lead < 0x80)
		return 1;
	if (lead < 0xc2 || lead > 0xf4)
		return 0;
	bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
	if (lead == 0xe0)
		low = 0xa0;
	else if (lead == 0xed)
		high = 0x9f;
	else if (lead == 0xf0)
		low = 0x90;
	else if (lead == 0xf4)
		high = 0x8f;
	for (i = 1; i < bytes; i++) {
		if (p + i == end)
			return -1;
		if (p[i] < low || p[i] > high)
			return 0;
		low = 0x80;
		high = 0xbf;
	}
	return bytes;
}

const uint8_t *utf8_span(const uint8_t *p, const uint8_t *end)
{
	while (p < end) {
		int bytes;

		while (end - p >= 8 && !(load64(p) & 0x8080808080808080u))
			p += 8;
		if (p == end)
			break;
		bytes = utf8_char(p, end);
		if (bytes == 0)
			return NULL;
		if (bytes < 0)
			break;
		p += bytes;
	}
	return p;
}
