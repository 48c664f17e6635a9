/* Received bytes that wait: blocks of the engine's memory, in order. */
#include <string.h>

#include "daemon/client/client_internal.h"

bool hold_add(struct client *c, struct hold *hold, const uint8_t *p, size_t n)
{
	while (n > 0) {
		struct hold_block *b = hold->last;
		size_t part;

		if (b == NULL || b->end == HOLD_BYTES) {
			b = http2_client_engine_alloc(c->http2, sizeof(*b) + HOLD_BYTES);
			if (b == NULL)
				return false;
			b->next = NULL;
			b->begin = b->end = 0;
			if (hold->last == NULL)
				hold->first = b;
			else
				hold->last->next = b;
			hold->last = b;
		}
		part = HOLD_BYTES - b->end < n ? HOLD_BYTES - b->end : n;
		memcpy(b->bytes + b->end, p, part);
		b->end += (uint32_t)part;
		hold->bytes += part;
		p += part;
		n -= part;
	}
	return true;
}

void hold_skip(struct client *c, struct hold *hold, size_t n)
{
	while (n > 0) {
		struct hold_block *b = hold->first;
		size_t part = b->end - b->begin < n ? b->end - b->begin : n;

		b->begin += (uint32_t)part;
		hold->bytes -= part;
		n -= part;
		if (b->begin < b->end)
			return;
		hold->first = b->next;
		if (hold->first == NULL)
			hold->last = NULL;
		http2_client_engine_free(c->http2, b);
	}
}

void hold_drop(struct client *c, struct hold *hold)
{
	while (hold->first != NULL) {
		struct hold_block *b = hold->first;

		hold->first = b->next;
		http2_client_engine_free(c->http2, b);
	}
	hold->last = NULL;
	hold->bytes = 0;
}
