/* Any bytes as a message of which one field is read: what is found lies within them, and cutting
 * the message never makes something else of what was found before the cut. */
#include "daemon/balance/field.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t seen; /* so that nothing is left out as unused */

static enum field_result find(const uint8_t *wire, size_t n, bool whole, const uint32_t *path,
			      unsigned depth, uint64_t *sum_out)
{
	struct field_value v;
	enum field_result result = field_find(wire, n, whole, path, depth, &v);

	*sum_out = 0;
	for (size_t i = 0; result == FIELD_FOUND && i < v.len; i++)
		*sum_out = *sum_out * 31 + v.bytes[i];
	seen += *sum_out;
	return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t path[4];
	unsigned depth;
	uint8_t *exact;

	if (size < 6)
		return 0;
	depth = data[0] % 4 + 1;
	for (unsigned i = 0; i < 4; i++)
		path[i] = data[1 + i] % 16 + 1;
	data += 5;
	size -= 5;
	exact = malloc(size); /* so that reading past it is seen */
	if (exact == NULL)
		return 0;
	memcpy(exact, data, size);
	for (size_t n = size; n > 0; n = n / 2) {
		uint64_t all, part;
		enum field_result whole = find(exact, size, false, path, depth, &all);
		enum field_result cut = find(exact, n, false, path, depth, &part);

		if (cut == FIELD_FOUND && (whole != FIELD_FOUND || all != part))
			abort();
		if (cut == FIELD_ABSENT && whole == FIELD_FOUND)
			abort();
	}
	free(exact);
	return 0;
}
