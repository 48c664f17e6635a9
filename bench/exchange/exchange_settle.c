#include <string.h>

#include "bench/exchange/exchange.h"

typedef Bench__Exchange__Item Item;
typedef Bench__Exchange__Line Line;
typedef Bench__Exchange__Money Money;

#define NANOS      1000000000
#define HISTORY    4
#define CHECK_SIZE 8

static char *copy(const struct exchange_room *room, const char *text)
{
	size_t n = strlen(text) + 1;
	char *out = room->get(room->ctx, n);

	if (out)
		memcpy(out, text, n);
	return out;
}

static Money *money(const struct exchange_room *room, const char *currency, int64_t units,
		    int64_t nanos)
{
	Money *m = room->get(room->ctx, sizeof(*m));

	if (m == NULL)
		return NULL;
	bench__exchange__money__init(m);
	m->currency = copy(room, currency);
	m->units = units + nanos / NANOS;
	m->nanos = (int32_t)(nanos % NANOS);
	return m->currency ? m : NULL;
}

static int labels(const Item *item, const struct exchange_room *room, Line *line)
{
	line->labels = room->get(room->ctx, (item->n_attributes + 1) * sizeof(*line->labels));
	if (line->labels == NULL)
		return -1;
	for (size_t i = 0; i < item->n_attributes; i++) {
		line->labels[i] = copy(room, item->attributes[i]->key);
		if (line->labels[i] == NULL)
			return -1;
	}
	line->n_labels = item->n_attributes;
	return 0;
}

static int numbers(const Item *item, const struct exchange_room *room, Line *line)
{
	size_t stock = item->n_stock;
	uint64_t sum = item->id;
	int64_t before = 0;

	line->history = room->get(room->ctx, (stock + 1) * sizeof(*line->history));
	line->checksum.data = room->get(room->ctx, CHECK_SIZE);
	if (line->history == NULL || line->checksum.data == NULL)
		return -1;
	for (size_t i = 0; i < stock; i++) {
		line->history[i] = (int64_t)item->stock[i] - before;
		before = item->stock[i];
	}
	line->n_history = stock;
	for (size_t i = 0; i < item->digest.len; i++)
		sum = sum * 31 + item->digest.data[i];
	line->checksum.len = CHECK_SIZE;
	for (unsigned i = 0; i < CHECK_SIZE; i++)
		line->checksum.data[i] = (uint8_t)(sum >> (8 * i));
	return 0;
}

static Line *line_of(const Item *item, uint32_t position, const struct exchange_room *room)
{
	Line *line = room->get(room->ctx, sizeof(*line));
	int64_t quantity = item->quantity;

	if (line == NULL || item->price == NULL)
		return NULL;
	bench__exchange__line__init(line);
	line->item = item->id;
	line->title = copy(room, item->description);
	line->total = money(room, item->price->currency, item->price->units * quantity,
			    item->price->nanos * quantity);
	line->available = item->state != BENCH__EXCHANGE__ITEM__STATE__STATE_GONE;
	line->score = (float)(item->weight * 0.5);
	line->position = position;
	if (line->title == NULL || line->total == NULL || labels(item, room, line) != 0 ||
	    numbers(item, room, line) != 0)
		return NULL;
	return line;
}

int exchange_settle(const Bench__Exchange__Order *order, const struct exchange_room *room,
		    Bench__Exchange__Invoice *out)
{
	int64_t units = 0, nanos = 0;

	bench__exchange__invoice__init(out);
	out->order = order->id;
	out->customer = copy(room, order->customer);
	out->lines = room->get(room->ctx, (order->n_items + 1) * sizeof(void *));
	if (out->customer == NULL || out->lines == NULL)
		return -1;
	for (size_t i = 0; i < order->n_items; i++) {
		Line *line = line_of(order->items[i], (uint32_t)i, room);

		if (line == NULL)
			return -1;
		out->lines[i] = line;
		units += line->total->units;
		nanos += line->total->nanos;
		out->missing += !line->available;
	}
	out->n_lines = order->n_items;
	out->total = money(room, "EUR", units, nanos);
	return out->total ? 0 : -1;
}
