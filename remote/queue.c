/* Items that wait for the window. */
#include <stdlib.h>
#include <string.h>

#include "remote/remote.h"

#define UNUSED_MAX 1024 /* kept for the next ones; the rest goes back */

struct remote_item *remote_item_get(struct remote_queue *q)
{
	struct remote_item *item = q->unused;

	if (item == NULL)
		return calloc(1, sizeof(*item));
	q->unused = item->next;
	memset(item, 0, offsetof(struct remote_item, area));
	return item;
}

bool remote_item_keep(struct remote_item *item)
{
	struct metadata_item items[REMOTE_METADATA_ITEMS];
	size_t n = item->metadata != NULL ? item->metadata->count : 0, room, text;
	uint8_t *copy;

	if (item->kept != NULL || (n == 0 && item->text_bytes == 0))
		return true;
	if (n > REMOTE_METADATA_ITEMS)
		return true; /* it will not be sent in any case */
	for (size_t i = 0; i < n; i++)
		items[i] = (struct metadata_item){
			.name = (const char *)(uintptr_t)item->metadata->entries[i].name,
			.value = (const void *)(uintptr_t)item->metadata->entries[i].value,
			.name_bytes = item->metadata->entries[i].name_bytes,
			.value_bytes = item->metadata->entries[i].value_bytes,
		};
	room = metadata_bytes(items, n);
	text = item->text_bytes < REMOTE_METADATA_MAX ? item->text_bytes : 0;
	copy = malloc(room + text);
	if (copy == NULL || metadata_write(items, n, copy, room, 0) != 0) {
		free(copy);
		return false;
	}
	if (text != 0)
		memcpy(copy + room, item->text, text);
	item->kept = copy;
	item->metadata = (const struct metadata_block *)(const void *)copy;
	item->text = (const char *)copy + room;
	return true;
}

void remote_item_free(struct remote_queue *q, struct remote_item *item)
{
	free(item->kept);
	item->kept = NULL;
	if (q->n > UNUSED_MAX) {
		free(item);
		return;
	}
	item->next = q->unused;
	q->unused = item;
}

void remote_queue_add(struct remote_queue *q, struct remote_item *item)
{
	item->next = NULL;
	if (q->last != NULL)
		q->last->next = item;
	else
		q->first = item;
	q->last = item;
	q->n++;
}

struct remote_item *remote_queue_take(struct remote_queue *q)
{
	struct remote_item *item = q->first;

	if (item == NULL)
		return NULL;
	q->first = item->next;
	if (q->first == NULL)
		q->last = NULL;
	q->n--;
	item->next = NULL;
	return item;
}

void remote_queue_put_back(struct remote_queue *q, struct remote_item *item)
{
	item->next = q->first;
	q->first = item;
	if (q->last == NULL)
		q->last = item;
	q->n++;
}

bool remote_queue_opens(const struct remote_queue *q, uint64_t call_id)
{
	for (const struct remote_item *i = q->first; i != NULL; i = i->next)
		if (i->slot.call_id == call_id &&
		    (i->slot.kind == TO_HOST_REQUEST || i->slot.kind == TO_DAEMON_CALL))
			return true;
	return false;
}

void remote_queue_fini(struct remote_queue *q)
{
	struct remote_item *item;

	while ((item = remote_queue_take(q)) != NULL) {
		free(item->kept);
		free(item);
	}
	while ((item = q->unused) != NULL) {
		q->unused = item->next;
		free(item);
	}
}
