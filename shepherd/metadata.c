/* Metadata in the format that crosses, written into one's own segment. */
#include "shepherd/shepherd.h"

#include <string.h>

size_t metadata_bytes(const struct metadata_item *items, size_t n)
{
	size_t bytes = sizeof(struct metadata_block) + n * sizeof(struct metadata_entry);

	for (size_t i = 0; i < n; i++)
		bytes += (size_t)items[i].name_bytes + items[i].value_bytes + 2;
	return bytes;
}

static uint64_t string_put(uint8_t **at, const void *from, size_t bytes, int64_t delta)
{
	uint8_t *to = *at;

	if (bytes != 0)
		memcpy(to, from, bytes);
	to[bytes] = '\0';
	*at += bytes + 1;
	return (uint64_t)(uintptr_t)to + (uint64_t)delta;
}

int metadata_write(const struct metadata_item *items, size_t n, void *mem, size_t bytes,
		   int64_t delta)
{
	struct metadata_block *block = mem;
	uint8_t *at = (uint8_t *)&block->entries[n];

	if (n > UINT32_MAX || metadata_bytes(items, n) > bytes)
		return -SPLIT_E_BASE_LIMIT;
	block->count = (uint32_t)n;
	block->reserved = 0;
	for (size_t i = 0; i < n; i++) {
		struct metadata_entry *e = &block->entries[i];

		e->name_bytes = items[i].name_bytes;
		e->value_bytes = items[i].value_bytes;
		e->name = string_put(&at, items[i].name, items[i].name_bytes, delta);
		e->value = string_put(&at, items[i].value, items[i].value_bytes, delta);
	}
	return 0;
}
