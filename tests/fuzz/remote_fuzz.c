/* What comes over the socket backend: the greeting, slots with metadata, and messages, which are
 * relocated and then encoded, so that a pointer that leads elsewhere is followed under ASan. The
 * first byte picks what the rest is. */
#include "remote/remote.h"
#include "tests/linearize/support.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void relocated(const struct schema_message *m, const uint8_t *bytes, size_t n)
{
	struct linear_source all = source_everything();
	uint8_t *block = aligned_alloc(16, (n + 15) & ~(size_t)15), *copy, *wire;
	size_t len, again;

	memcpy(block, bytes, n);
	if (relocate_in(m, block, n, 0, NULL) == 0) {
		if (encode_all(m, &all, (uint64_t)(uintptr_t)block, unlimited, 0, &wire, &len) == 0)
			free(wire);
		/* What was taken in can be sent on, and is as long. */
		copy = malloc(n);
		if (relocate_out(m, &all, (uint64_t)(uintptr_t)block, NULL, copy, n, &again) != 0 ||
		    again > n)
			abort();
		free(copy);
	}
	free(block);
}

static void slot(const struct schema_message *m, const struct remote_frame *f, bool to_host)
{
	struct remote_arrival a;
	struct remote_landed at;
	uint8_t *mem;

	if (remote_slot_parse(f, to_host, &a) != 0)
		return;
	mem = aligned_alloc(16, (a.room + 16) & ~(size_t)15);
	if (a.room != 0 && remote_land(&a, m, mem, 0, &at) == 0 && remote_charge(&a.slot) < a.room)
		abort(); /* the window would not bound memory */
	free(mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct schema_message *types[2];
	struct remote_frame f = {0};
	struct remote_hello hello;
	struct remote_welcome welcome;
	struct remote_refused refused;
	const uint8_t *blob;
	uint64_t bytes;
	uint8_t *body;

	if (types[0] == NULL) {
		(void)schema_of(&unit2__defaults__descriptor, &types[0]);
		(void)schema_of(&unit3__all__descriptor, &types[1]);
	}
	if (size < 1)
		return 0;
	f.bytes = (size - 1) & ~(size_t)7;
	body = aligned_alloc(16, (f.bytes + 16) & ~(size_t)15);
	memcpy(body, data + 1, f.bytes);
	f.body = body;
	f.type = (enum remote_type)((data[0] >> 1) % REMOTE_TYPES);
	if ((data[0] & 0x80) != 0)
		relocated(types[data[0] & 1], data + 1, size - 1);
	else if (f.type == REMOTE_SLOT)
		slot(types[1], &f, data[0] & 1);
	else if (remote_hello_parse(&f, &hello, &blob) == 0 &&
		 blob + hello.blob_bytes > body + f.bytes)
		abort();
	(void)!remote_welcome_parse(&f, &welcome);
	(void)!remote_refused_parse(&f, &refused);
	(void)!remote_window_parse(&f, &bytes);
	free(body);
	return 0;
}
