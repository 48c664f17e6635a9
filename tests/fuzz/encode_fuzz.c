/* A hostile segment: encode must stay inside it and end, and both engines must agree on it. Input:
 * the segment, mapped by the peer at 4096; the message is at its start. */
#include "tests/linearize/support.h"
#include "unit3.pb-c.h"

#include <stdlib.h>

#define PEER_BASE 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct schema_message *all;
	static struct schema *schema;
	const struct linear_limits limits = {.wire_bytes_max = 1 << 16,
					     .elements_max = 10000,
					     .work_max = 50000,
					     .work_quantum = 1 + size % 50};
	struct linear_source source = {data, PEER_BASE, size};
	uint8_t *out;
	size_t len;

	if (!schema)
		schema = schema_of(&unit3__all__descriptor, &all);
	if (encode_all(all, &source, PEER_BASE, limits, size % 3 * 50, &out, &len) == 0)
		free(out);
	check_encode_engines("fuzz", all, &source, PEER_BASE, &limits, (unsigned)(size % 12));
	return 0;
}
