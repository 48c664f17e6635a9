/* Wire input of two types that have everything: decode must agree with protobuf-c where that is
 * right, with itself under another quantum, and with encode and flatten. Input: one byte that picks
 * the type and the way of decoding, then the wire. */
#include "tests/linearize/support.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct schema_message *messages[2];
	static const ProtobufCMessageDescriptor *const types[2] = {&unit3__all__descriptor,
								   &unit2__defaults__descriptor};
	static struct schema *schemas[2];
	struct check_counts counts = {0};
	struct random r;
	struct wire w;
	unsigned type;

	if (size == 0 || size > 4096)
		return 0;
	type = data[0] & 1;
	if (!schemas[type])
		schemas[type] = schema_of(types[type], &messages[type]);
	random_seed(&r, data[0]);
	w = (struct wire){.bytes = (uint8_t *)(uintptr_t)data + 1, .len = size - 1};
	check_input("fuzz", &r, types[type], messages[type], &w, &counts);
	return 0;
}
