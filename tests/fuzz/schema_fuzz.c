/* Any blob that schema_parse accepts must be safe to decode and encode with. Input: a blob; the
 * same bytes then serve as wire input for each of its messages. */
#include "tests/linearize/support.h"

#include <stdlib.h>

#define WIRE_MAX 4096

static const struct linear_limits limits = {.linear_bytes_max = 1 << 20,
					    .wire_bytes_max = 1 << 20,
					    .work_max = 100000,
					    .work_quantum = 100};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct schema_message *m, const uint8_t *wire, size_t len)
{
	struct arena a;
	struct linear_target target;
	uint64_t root;

	arena_init(&a, CHUNK_LARGE); /* one chunk holds all */
	target = arena_target(&a);
	if (decode_all(m, wire, len, &target, limits, &root, NULL) == 0) {
		struct linear_source source = {a.chunks[0].mem, root, a.chunks[0].bytes};
		uint8_t *out;
		size_t out_len;

		if (encode_all(m, &source, root, limits, 0, &out, &out_len) == 0)
			free(out);
	}
	arena_fini(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct schema_limits small = {.blob_bytes_max = 1 << 20,
					    .messages_max = 64,
					    .fields_max = 1024,
					    .message_bytes_max = 16384};
	struct schema *s;
	uint32_t i;

	if (schema_parse(data, size, &small, &s) != 0)
		return 0;
	for (i = 0; i < schema_message_count(s); i++) {
		size_t from = size > WIRE_MAX ? size - WIRE_MAX : 0;

		use(schema_message_at(s, i), NULL, 0);
		use(schema_message_at(s, i), data + from, size - from);
	}
	schema_destroy(s);
	return 0;
}
