/* Orders for the bench to send, and what must come back. */
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/random.h"
#include "bench/exchange/exchange.h"

typedef Bench__Exchange__Item Item;
typedef Bench__Exchange__Attribute Attribute;

#define PREFIX_BYTES 5
#define ATTRIBUTES   3
#define STOCK        6
#define DIGEST_BYTES 16

/* Memory of one order; freed as a whole. */
struct pieces {
	struct piece {
		struct piece *next;
		_Alignas(16) uint8_t bytes[];
	} * first;
};

static void *piece_get(void *ctx, size_t bytes)
{
	struct pieces *all = ctx;
	struct piece *p = calloc(1, sizeof(*p) + bytes);

	if (p == NULL)
		return NULL;
	p->next = all->first;
	all->first = p;
	return p->bytes;
}

static void pieces_free(struct pieces *all)
{
	while (all->first != NULL) {
		struct piece *next = all->first->next;

		free(all->first);
		all->first = next;
	}
}

static char *words(struct random *r, struct pieces *all, unsigned n)
{
	static const char *const some[] = {"amber",  "basalt", "copper", "delta", "ember",  "fjord",
					   "garnet", "harbor", "indigo", "jade",  "kernel", "lumen",
					   "meadow", "north",  "opal",   "prism"};
	char *out = piece_get(all, n * 8 + 1);

	for (unsigned i = 0; out && i < n; i++) {
		if (i != 0)
			strcat(out, " ");
		strcat(out, some[random_next(r) % ARRAY_LEN(some)]);
	}
	return out;
}

static Attribute *attribute(struct random *r, struct pieces *all)
{
	Attribute *a = piece_get(all, sizeof(*a));

	if (a == NULL)
		return NULL;
	bench__exchange__attribute__init(a);
	a->key = words(r, all, 1);
	switch (random_next(r) % 4) {
	case 0:
		a->value_case = BENCH__EXCHANGE__ATTRIBUTE__VALUE_TEXT;
		a->text = words(r, all, 1);
		break;
	case 1:
		a->value_case = BENCH__EXCHANGE__ATTRIBUTE__VALUE_NUMBER;
		a->number = (int64_t)(random_next(r) % 1000000);
		break;
	case 2:
		a->value_case = BENCH__EXCHANGE__ATTRIBUTE__VALUE_REAL;
		a->real = (double)(random_next(r) % 1000) / 8;
		break;
	default:
		a->value_case = BENCH__EXCHANGE__ATTRIBUTE__VALUE_FLAG;
		a->flag = true;
	}
	return a->key ? a : NULL;
}

static bool item_lists(struct random *r, struct pieces *all, Item *item)
{
	item->attributes = piece_get(all, ATTRIBUTES * sizeof(void *));
	item->stock = piece_get(all, STOCK * sizeof(*item->stock));
	item->digest.data = piece_get(all, DIGEST_BYTES);
	if (item->attributes == NULL || item->stock == NULL || item->digest.data == NULL)
		return false;
	for (; item->n_attributes < ATTRIBUTES; item->n_attributes++) {
		item->attributes[item->n_attributes] = attribute(r, all);
		if (item->attributes[item->n_attributes] == NULL)
			return false;
	}
	for (; item->n_stock < STOCK; item->n_stock++)
		item->stock[item->n_stock] =
			(uint32_t)(random_next(r) >> (32 + random_next(r) % 31));
	for (; item->digest.len < DIGEST_BYTES; item->digest.len++)
		item->digest.data[item->digest.len] = (uint8_t)random_next(r);
	return true;
}

static Item *item_make(struct random *r, struct pieces *all)
{
	Item *item = piece_get(all, sizeof(*item));

	if (item == NULL)
		return NULL;
	bench__exchange__item__init(item);
	item->id = random_next(r) >> 20;
	item->name = words(r, all, 2);
	item->description = words(r, all, 5);
	item->price = piece_get(all, sizeof(*item->price));
	if (item->name == NULL || item->description == NULL || item->price == NULL)
		return NULL;
	bench__exchange__money__init(item->price);
	item->price->currency = "EUR";
	item->price->units = (int64_t)(random_next(r) % 5000);
	item->price->nanos = (int32_t)(random_next(r) % 100) * 10000000;
	item->quantity = (uint32_t)(random_next(r) % 20 + 1);
	item->state = (Bench__Exchange__Item__State)(random_next(r) % 4);
	item->updated = UINT64_C(1700000000000) + random_next(r) % 100000000;
	item->weight = (double)(random_next(r) % 10000) / 16;
	return item_lists(r, all, item) ? item : NULL;
}

static int order_make(uint32_t bytes, struct pieces *all, Bench__Exchange__Order *order)
{
	struct random r;
	size_t have;

	random_seed(&r, bytes);
	bench__exchange__order__init(order);
	order->id = random_next(&r) >> 8;
	order->customer = words(&r, all, 3);
	order->items = piece_get(all, (bytes / 64 + 1) * sizeof(void *));
	if (order->customer == NULL || order->items == NULL)
		return -1;
	have = bench__exchange__order__get_packed_size(order);
	while (have < bytes) {
		Item *item = item_make(&r, all);
		size_t n;

		if (item == NULL)
			return -1;
		n = bench__exchange__item__get_packed_size(item);
		if (order->n_items != 0 && have + n / 2 > bytes)
			break;
		order->items[order->n_items++] = item;
		have += n + 1 + (n < 128 ? 1 : 2);
	}
	return 0;
}

static uint8_t *framed(const ProtobufCMessage *message, size_t *bytes_out)
{
	size_t n = protobuf_c_message_get_packed_size(message);
	uint8_t *out = malloc(PREFIX_BYTES + n);

	if (out == NULL)
		return NULL;
	out[0] = 0;
	be32_store(out + 1, (uint32_t)n);
	protobuf_c_message_pack(message, out + PREFIX_BYTES);
	*bytes_out = PREFIX_BYTES + n;
	return out;
}

int exchange_bytes(uint32_t bytes, uint32_t busy_ns, uint8_t **request_out, size_t *request_bytes,
		   uint8_t **reply_out, size_t *reply_bytes)
{
	struct pieces all = {NULL};
	const struct exchange_room room = {piece_get, &all};
	Bench__Exchange__Order order;
	Bench__Exchange__Invoice invoice;
	int err = order_make(bytes, &all, &order);

	*request_out = *reply_out = NULL;
	if (err == 0)
		err = exchange_settle(&order, &room, &invoice);
	if (err == 0) {
		order.busy_ns = busy_ns;
		*request_out = framed(&order.base, request_bytes);
		*reply_out = framed(&invoice.base, reply_bytes);
	}
	pieces_free(&all);
	if (*request_out != NULL && *reply_out != NULL)
		return 0;
	free(*request_out);
	free(*reply_out);
	*request_out = *reply_out = NULL;
	return -1;
}
