/* Messages as their wire bytes: what splitd leaves to the host where a method's decode or encode is
 * placed on the host's side (docs/PLACEMENT.md).
 *
 * In. The worker decodes before the handler runs, with the decoder and the limits that splitd would
 * have used, out of the to-host segment (or the copy of a slot) into memory of its own. So nothing
 * of it can alias the wire: that segment is not the host's to write to.
 *
 * Out. The encoder writes backwards and does not know how far it will come. Small answers are
 * encoded on the stack and go inside the slot; larger ones into one block of the to-daemon segment,
 * as large as the method's answers have been of late; what outgrows it moves to the end of a block
 * twice as large. So splitd gets one piece with its length, whatever the message is made of.
 *
 * Both need a schema with its tables, as splitd makes it of what the host says at attach. It is
 * made when it is first asked for. */
#include <stdlib.h>

#include "base/poison.h"
#include "host-lib/host_internal.h"

/* A part that is kept for the next message has so many bytes, those of longer messages double up to
 * PART_MAX. */
#define PART_BYTES (4096 - sizeof(struct wire_part))
#define PART_MAX   (2u << 20)
#define PARTS_KEPT 64 /* by worker */

/* ------------------------------------------------------------------ schema */

static const struct schema *schema_make(struct split_host *host)
{
	/* It is our own: what splitd takes is for splitd to say. */
	static const struct schema_limits none = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX,
						  0};
	struct schema *schema;

	pthread_mutex_lock(&host->schema_lock);
	schema = atomic_load_explicit(&host->schema, memory_order_relaxed);
	if (schema == NULL && host->schema_blob != NULL &&
	    schema_parse(host->schema_blob, host->schema_bytes, &none, &schema) == 0)
		atomic_store_explicit(&host->schema, schema, memory_order_release);
	pthread_mutex_unlock(&host->schema_lock);
	return schema;
}

/* NULL: no memory. */
static const struct schema_message *schema_of(struct split_host *host, uint32_t index)
{
	const struct schema *schema = atomic_load_explicit(&host->schema, memory_order_acquire);

	if (unlikely(schema == NULL))
		schema = schema_make(host);
	return schema == NULL ? NULL : schema_message_at(schema, index);
}

void wire_schema_set(struct split_host *host, const struct attach_hello *hello)
{
	struct schema *known = atomic_load(&host->schema);

	if (known != NULL && !schema_is_from(known, hello->schema, hello->schema_bytes))
		wire_schema_fini(host);
	host->schema_blob = hello->schema;
	host->schema_bytes = hello->schema_bytes;
	for (size_t i = 0; i < host->methods_n; i++) {
		host->methods[i]->input_index = hello->methods[i].input_schema;
		host->methods[i]->output_index = hello->methods[i].output_schema;
	}
}

void wire_schema_forget(struct split_host *host)
{
	pthread_mutex_lock(&host->schema_lock);
	host->schema_blob = NULL;
	pthread_mutex_unlock(&host->schema_lock);
}

void wire_schema_fini(struct split_host *host)
{
	schema_destroy(atomic_exchange(&host->schema, NULL));
}

/* ------------------------------------------------------------------ in */

void wire_take(struct wire_in *in, const struct slot *slot, const void *inline_copy)
{
	bool inlined = (slot->flags & SLOT_INLINE) != 0;

	*in = (struct wire_in){
		.wanted = true,
		.at = inlined ? inline_copy : (const void *)(uintptr_t)slot->msg,
		.bytes = inlined ? slot->inline_bytes : slot->msg_bytes,
		.limits = slot->limits,
		.elements_max = slot->elements_max,
	};
}

struct decoding {
	struct worker *w;
	struct wire_in *in;
	size_t step;
};

static int part_get(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct decoding *d = ctx;
	size_t bytes = want < d->step ? want : d->step;
	struct wire_part *part;

	if (bytes < min)
		bytes = min;
	if (bytes < PART_BYTES)
		bytes = PART_BYTES;
	part = bytes == PART_BYTES ? d->w->parts : NULL;
	if (part != NULL) {
		d->w->parts = part->next;
		d->w->parts_n--;
	} else {
		part = aligned_alloc(16, align_up(sizeof(*part) + bytes, 16));
		if (part == NULL)
			return -SPLIT_E_BASE_NOMEM;
		part->bytes = bytes;
	}
	part->next = d->in->parts;
	d->in->parts = part;
	if (d->step < PART_MAX)
		d->step *= 2;
	out->mem = part->mem;
	out->bytes = part->bytes;
	return 0;
}

void wire_free(struct worker *home, struct wire_in *in)
{
	struct wire_part *part;

	while ((part = in->parts) != NULL) {
		in->parts = part->next;
		if (home != NULL && worker_self == home && part->bytes == PART_BYTES &&
		    home->parts_n < PARTS_KEPT) {
			part->next = home->parts;
			home->parts = part;
			home->parts_n++;
		} else {
			free(part);
		}
	}
}

void wire_parts_free(struct worker *w)
{
	struct wire_part *part;

	while ((part = w->parts) != NULL) {
		w->parts = part->next;
		free(part);
	}
	w->parts_n = 0;
}

int wire_decode(struct worker *w, const struct method *m, struct wire_in *in,
		const ProtobufCMessage **out)
{
	const struct schema_message *type = schema_of(w->host, m->input_index);
	struct decoding ctx = {.w = w, .in = in, .step = PART_BYTES};
	const struct linear_target target = {.chunk_get = part_get, .ctx = &ctx};
	const struct linear_limits limits = {
		.linear_bytes_max = WIRE_LIMITS_BYTES(in->limits),
		.elements_max = in->elements_max,
		.depth_max = WIRE_LIMITS_DEPTH(in->limits),
		.work_max = linear_limits_default.work_max,
	};
	struct decode_job job;
	int rc = type == NULL ? -SPLIT_E_LINEARIZE_NOMEM
			      : decode_start(&job, type, in->at, in->bytes, &target, &limits);

	while (rc == 0 && (rc = decode_run(&job)) == SPLIT_AGAIN)
		rc = 0;
	in->wanted = false;
	if (rc != 0) {
		STAT(w->host, decode_errors);
		wire_free(w, in);
		return rc == -SPLIT_E_BASE_NOMEM ? -SPLIT_E_LINEARIZE_NOMEM : rc;
	}
	STAT(w->host, decodes);
	*out = (const ProtobufCMessage *)(uintptr_t)decode_root(&job);
	return 0;
}

/* ------------------------------------------------------------------ out */

/* The answer as far as it is encoded: in [head, end of the memory got last). */
struct encoding {
	struct split_call *call;
	uint8_t *small;      /* WIRE_SMALL_BYTES; NULL: it is expected to be longer */
	struct block *block; /* NULL: all is in `small` */
	uint8_t *mem;
	size_t bytes;  /* of `mem`, all in use when more is asked for */
	uint8_t *heap; /* where `mem` is while there is no room; NULL: it is not */
};

/* Who waits for a larger block holds none: two that wait for each other's would wait for ever. What
 * is encoded waits on the heap; without memory for that it stays where it is. */
static void block_leave(struct encoding *e)
{
	struct split_call *call = e->call;

	if (e->block == NULL || call->nowait || (e->heap = malloc(e->bytes)) == NULL)
		return;
	memcpy(e->heap, e->mem, e->bytes);
	e->mem = e->heap;
	call->blocks = e->block->next; /* it was got last */
	e->block->next = NULL;
	room_put(&call->session->room, answer_cache(call->session), e->block);
	e->block = NULL;
}

/* The block before is not needed any more: its bytes have moved. */
static void block_drop(struct split_call *call, struct block *newest, struct block *old)
{
	newest->next = old->next;
	old->next = NULL;
	room_put(&call->session->room, answer_cache(call->session), old);
}

static int chunk_more(void *ctx, size_t want, struct linear_chunk *out)
{
	struct encoding *e = ctx;
	size_t hint = atomic_load_explicit(&e->call->method->wire_hint, memory_order_relaxed);
	size_t least = e->bytes + 1, bytes;
	struct block *b;
	int rc = 0;

	if (e->mem == NULL && e->small != NULL) {
		e->mem = out->mem = e->small;
		e->bytes = out->bytes = WIRE_SMALL_BYTES;
		return 0;
	}
	/* `want` may be all of a long string. */
	least += want < PART_MAX ? want : PART_MAX;
	bytes = 2 * e->bytes > hint ? 2 * e->bytes : hint;
	bytes = bytes < least ? least : bytes;
	b = answer_block_now(e->call, least, bytes);
	if (b == NULL) {
		block_leave(e);
		b = answer_block_wait(e->call, least, bytes, &rc);
	}
	if (b == NULL)
		return rc;
	unpoison_region(b + 1, b->bytes - sizeof(*b));
	out->mem = (uint8_t *)(b + 1);
	out->bytes = b->bytes - sizeof(*b) - e->bytes;
	if (e->bytes != 0)
		memcpy(out->mem + out->bytes, e->mem, e->bytes);
	if (e->block != NULL)
		block_drop(e->call, b, e->block);
	free(e->heap);
	e->heap = NULL;
	e->block = b;
	e->mem = out->mem;
	e->bytes = b->bytes - sizeof(*b);
	return 0;
}

/* What the next answer is expected to take: the most of late. Threads may lose each other's word.
 */
static void hint_note(struct method *m, size_t bytes)
{
	size_t hint = atomic_load_explicit(&m->wire_hint, memory_order_relaxed);

	atomic_store_explicit(&m->wire_hint, bytes >= hint ? bytes : hint - (hint - bytes) / 16,
			      memory_order_relaxed);
}

int wire_encode(struct split_call *call, const ProtobufCMessage *message,
		uint8_t small[WIRE_SMALL_BYTES], const uint8_t **at_out, uint32_t *bytes_out)
{
	const struct schema_message *type = schema_of(call->host, call->method->output_index);
	/* All of our own memory. */
	const struct linear_source source = {.bytes = SIZE_MAX};
	struct encoding ctx = {
		.call = call,
		.small = atomic_load_explicit(&call->method->wire_hint, memory_order_relaxed) <=
					 WIRE_SMALL_BYTES
				 ? small
				 : NULL,
	};
	const struct encode_sink sink = {.chunk_get = chunk_more, .ctx = &ctx};
	static const struct linear_limits limits = {.wire_bytes_max = UINT32_MAX};
	struct encode_job job;
	int rc = type == NULL ? -SPLIT_E_LINEARIZE_NOMEM
			      : encode_start(&job, type, &source, (uint64_t)(uintptr_t)message,
					     &sink, &limits);

	while (rc == 0 && (rc = encode_run(&job)) == SPLIT_AGAIN)
		rc = 0;
	free(ctx.heap);
	if (rc != 0)
		return rc;
	*bytes_out = (uint32_t)encode_bytes(&job);
	*at_out = *bytes_out != 0 ? encode_head(&job) : small;
	hint_note(call->method, *bytes_out);
	STAT(call->host, encodes);
	return 0;
}
