/* Answers: the reply into the to-daemon segment, status and metadata with it, one slot out.
 *
 * A reply goes, in this order of preference: inside the slot (small, nothing of it by the call's
 * allocator); in place (built with the allocator: only walked, or not even looked at when the
 * handler promised so); flattened into blocks. All blocks
 * that go with one slot are one chain, whose address is the slot's token. Whatever happens here,
 * the call ends with exactly one slot with a status, unless nobody is there to take it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/poison.h"
#include "host-lib/host_internal.h"

#define BLOCK_FIRST   (512 - sizeof(struct block))
#define BLOCK_FURTHER (4096 - sizeof(struct block))
#define ALLOC_ALIGN   16
#define ALLOC_REDZONE (POISON_ENABLED ? ALLOC_ALIGN : 0)

static const char detail_name[] = "grpc-status-details-bin";

/* ------------------------------------------------------------------ memory of a reply */

struct room_cache *answer_cache(const struct session *s)
{
	struct worker *w = worker_self;

	return w != NULL && w->session == s ? &w->cache : NULL;
}

static void *heap_get(struct split_call *call, size_t bytes)
{
	struct heap_part *part = malloc(sizeof(*part) + bytes);

	if (part == NULL)
		return NULL;
	part->next = call->heap;
	call->heap = part;
	call->parts = true;
	return part->bytes;
}

static void heap_free(struct split_call *call)
{
	while (call->heap != NULL) {
		struct heap_part *next = call->heap->next;

		free(call->heap);
		call->heap = next;
	}
}

static void blocks_free(struct split_call *call)
{
	if (call->blocks == NULL)
		return;
	room_put(&call->session->room, answer_cache(call->session), call->blocks);
	call->blocks = NULL;
	call->bump = call->bump_end = NULL;
}

void answer_parts_free(struct split_call *call)
{
	blocks_free(call);
	heap_free(call);
	free(call->initial.items);
	free(call->trailing.items);
	call->initial = call->trailing = (struct metadata_list){0};
	call->text = NULL;
	call->parts = false;
}

/* One more block on the call's chain, nothing of it in use. */
static struct block *block_add(struct split_call *call, size_t bytes)
{
	struct block *b = room_get(&call->session->room, answer_cache(call->session), bytes);

	if (b == NULL)
		return NULL;
	b->next = call->blocks;
	call->blocks = b;
	call->parts = true;
	return b;
}

/* Hand out the rest of a new block from `from` on by bumping, if that is more than what is left. */
static void bump_set(struct split_call *call, const struct block *b, size_t from)
{
	uint8_t *start = (uint8_t *)(uintptr_t)b + from;
	uint8_t *end = (uint8_t *)(uintptr_t)b + align_down(b->bytes, ALLOC_ALIGN);

	if (start >= end || end - start <= call->bump_end - call->bump)
		return;
	call->bump = start;
	call->bump_end = end;
	poison_region(start, (size_t)(end - start));
}

void *split_call_alloc(struct split_call *call, size_t bytes)
{
	size_t size = align_up(bytes == 0 ? 1 : bytes, ALLOC_ALIGN) + ALLOC_REDZONE;
	size_t block = call->blocks == NULL ? BLOCK_FIRST : BLOCK_FURTHER;
	struct block *b;
	void *p;

	if (bytes > SIZE_MAX / 2)
		return NULL;
	if (size <= (size_t)(call->bump_end - call->bump)) {
		p = call->bump;
		call->bump += size;
		unpoison_region(p, bytes);
		return p;
	}
	b = block_add(call, size > block ? size : block);
	if (b == NULL && size < block)
		b = block_add(call, size);
	if (b == NULL) {
		STAT(call->host, heap_fallback);
		call->fell_back = true;
		return heap_get(call, bytes);
	}
	bump_set(call, b, sizeof(*b) + size);
	if (POISON_ENABLED) {
		poison_region(b + 1, size);
		unpoison_region(b + 1, bytes); /* to the byte */
	}
	return b + 1;
}

void split_call_in_place(struct split_call *call)
{
	call->in_place = true;
}

struct block *answer_block_now(struct split_call *call, size_t min, size_t want)
{
	size_t fair = min > BLOCK_FURTHER ? min : BLOCK_FURTHER;
	struct block *b = NULL;

	for (size_t size = want; b == NULL && size > fair; size /= 2)
		b = block_add(call, size);
	if (b == NULL)
		b = block_add(call, want < fair && want >= min ? want : fair);
	return b != NULL ? b : block_add(call, min);
}

struct block *answer_block_wait(struct split_call *call, size_t min, size_t want, int *rc)
{
	struct room *room = &call->session->room;
	size_t fair = min > BLOCK_FURTHER ? min : BLOCK_FURTHER;
	struct block *b = answer_block_now(call, min, want);
	struct waiter wt;

	if (b != NULL)
		return b;
	if (call->nowait || !room_possible(room, min)) {
		*rc = -SPLIT_E_HOST_ROOM;
		return NULL;
	}
	waiter_init(&wt, call->session);
	while ((*rc = waiter_step(&wt, call->session)) == 0) {
		if (atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0) {
			*rc = -SPLIT_E_HOST_LOST;
			break;
		}
		b = block_add(call, fair);
		if (b == NULL)
			b = block_add(call, min);
		if (b != NULL)
			break;
	}
	waiter_fini(&wt, call->session);
	return b;
}

/* linear_target.chunk_get over the call's blocks. */
static int chunk_block(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct split_call *call = ctx;
	struct block *b;
	int rc = 0;

	if (min <= (size_t)(call->bump_end - call->bump)) {
		out->mem = call->bump;
		out->bytes = (size_t)(call->bump_end - call->bump);
		call->bump = call->bump_end;
		unpoison_region(out->mem, out->bytes);
		return 0;
	}
	b = answer_block_wait(call, min, want, &rc);
	if (b == NULL)
		return rc;
	out->mem = (uint8_t *)(b + 1);
	out->bytes = b->bytes - sizeof(*b);
	STAT_ADD(call->host, replies_copied, min > want ? min : want);
	return 0;
}

/* chunk_get over a slot's inline area: one chunk and no more. */
static int chunk_slot(void *ctx, size_t min, size_t want, struct linear_chunk *out)
{
	struct slot **slot = ctx;

	(void)want;
	if (*slot == NULL || min > SLOT_INLINE_BYTES)
		return -SPLIT_E_HOST_SLOT;
	out->mem = (*slot)->inline_area;
	out->bytes = SLOT_INLINE_BYTES;
	*slot = NULL;
	return 0;
}

/* ------------------------------------------------------------------ one slot */

struct answer {
	uint8_t kind;
	uint8_t flags;
	uint8_t form;
	uint8_t wire_bytes; /* of wire_inline */
	uint32_t status;
	uint64_t msg;
	uint64_t metadata;
	uint64_t text;
	uint32_t text_bytes;
	uint32_t msg_bytes;         /* what it takes of the segment */
	const uint8_t *wire_inline; /* an encoded message that goes in the slot */
	const char *text_inline;    /* small enough to go in the slot; `text` is 0 then */
};

static void slot_fill_call(struct slot *slot, const struct split_call *call)
{
	slot->flags |= SLOT_EXTRA;
	slot->method = call->method->index;
	slot->home = call->home->h;
	slot->deadline_ns = call->deadline_ns;
	slot->info = call->out->parent_id;
	slot->out_flags = call->out->waits ? SLOT_OUT_WAITS : 0;
	slot->out_code = (uint64_t)(uintptr_t)out_event_run;
	slot->out_data = (uint64_t)(uintptr_t)call;
}

static void slot_fill(struct slot *slot, struct split_call *call, const struct answer *a)
{
	slot->kind = a->kind;
	slot->flags = a->flags;
	slot->form = a->form;
	if (call->compress && (a->flags & SLOT_HAS_MESSAGE) != 0)
		slot->flags |= SLOT_COMPRESSED;
	slot->call_id = call->call_id;
	slot->msg = a->msg;
	slot->info = a->status;
	if (a->kind == TO_DAEMON_CALL)
		slot_fill_call(slot, call);
	if (call->streaming && a->kind == TO_DAEMON_MESSAGE)
		stream_sends(call, a->msg_bytes != 0 ? a->msg_bytes : SLOT_BYTES);
	if (a->metadata != 0 || a->text != 0 || a->msg_bytes != 0) {
		slot->flags |= SLOT_EXTRA;
		slot->msg_bytes = a->msg_bytes;
		slot->metadata = a->metadata;
		slot->text = a->text;
		slot->text_bytes = a->text_bytes;
	}
	if (unlikely(a->wire_inline != NULL)) {
		memcpy(slot->inline_area, a->wire_inline, a->wire_bytes);
		slot->inline_bytes = a->wire_bytes;
	}
	if (a->text_inline != NULL) {
		memcpy(slot->inline_area, a->text_inline, a->text_bytes);
		slot->inline_bytes = (uint8_t)a->text_bytes;
		slot->flags |= SLOT_EXTRA;
		slot->text = (uint64_t)(uintptr_t)slot->inline_area;
		slot->text_bytes = a->text_bytes;
	}
	if (call->blocks != NULL) {
		slot->flags |= SLOT_HAS_TOKEN;
		slot->token = (uint64_t)(uintptr_t)call->blocks;
		ROOM_TO_DAEMON(call->blocks);
		call->blocks = NULL;
		call->bump = call->bump_end = NULL;
	}
}

/* Publish the slot that ends the call; or leave it to the handler's return, when the request's
 * blocks can go with it. */
static void slot_end_call(struct producer *p, struct split_call *call, struct slot *slot,
			  bool *kept_out)
{
	uint64_t word = atomic_load_explicit(&call->word, memory_order_acquire);
	struct worker *w = p->worker;

	unsigned refs = call->streaming ? 1 : 0;

	if (w != NULL && w->current == call && call->has_token && (word & CALL_GONE) == 0 &&
	    (word & CALL_REFS) == 1 + refs) {
		w->pending.call = call;
		w->pending.slot = slot;
		w->pending.lane = p->lane;
		w->pending.refs = refs;
		*kept_out = true;
	} else {
		producer_commit_call(p, call, slot);
	}
	producer_close(p);
}

/* The chain of blocks that the call has is dropped when no slot can be had. */
static int answer_send(struct split_call *call, const struct answer *a, bool *kept_out)
{
	struct producer p;
	struct slot *slot;
	int rc;

	rc = producer_open_call(&p, call);
	if (rc != 0)
		return rc;
	rc = producer_slot(&p, call->blocks != NULL, &slot);
	if (rc != 0) {
		producer_close(&p);
		return rc;
	}
	slot_fill(slot, call, a);
	if ((a->flags & SLOT_HAS_STATUS) != 0 || a->kind == TO_DAEMON_STATUS) {
		slot_end_call(&p, call, slot, kept_out);
	} else {
		producer_commit_call(&p, call, slot);
		producer_close(&p);
	}
	return 0;
}

/* ------------------------------------------------------------------ metadata and status */

/* `bytes` of the call's blocks, waiting for them. */
static void *block_memory(struct split_call *call, size_t bytes, int *rc)
{
	size_t size = align_up(bytes, ALLOC_ALIGN);
	struct block *b;
	uint8_t *p;

	if (size <= (size_t)(call->bump_end - call->bump)) {
		p = call->bump;
		call->bump += size;
		unpoison_region(p, size);
		return p;
	}
	b = answer_block_wait(call, size, size, rc);
	return b == NULL ? NULL : b + 1;
}

static int metadata_put(struct split_call *call, const struct metadata_list *list, uint64_t *out)
{
	size_t bytes;
	void *mem;
	int rc = 0;

	*out = 0;
	if (list->count == 0)
		return 0;
	bytes = metadata_bytes(list->items, list->count);
	mem = block_memory(call, bytes, &rc);
	if (mem == NULL)
		return rc;
	rc = metadata_write(list->items, list->count, mem, bytes, 0);
	if (rc == 0)
		*out = (uint64_t)(uintptr_t)mem;
	return rc;
}

static int answer_status(struct split_call *call, unsigned status, const char *text, bool *kept_out)
{
	struct answer a = {.kind = TO_DAEMON_STATUS, .flags = SLOT_END_STREAM, .status = status};
	size_t len = text == NULL ? 0 : strlen(text);
	char *copy;
	int rc = metadata_put(call, &call->trailing, &a.metadata);

	a.text_bytes = (uint32_t)len;
	if (len > 0 && len <= SLOT_INLINE_BYTES) {
		a.text_inline = text;
	} else if (rc == 0 && len > 0) {
		copy = block_memory(call, len + 1, &rc);
		if (copy != NULL) {
			memcpy(copy, text, len + 1);
			a.text = (uint64_t)(uintptr_t)copy;
		}
	}
	if (rc == 0)
		rc = answer_send(call, &a, kept_out);
	if (rc == -SPLIT_E_HOST_ROOM || rc == -SPLIT_E_BASE_LIMIT) {
		/* The bare status needs no room but a slot. */
		blocks_free(call);
		a.metadata = a.text = 0;
		a.text_bytes = a.text_inline == NULL ? 0 : a.text_bytes;
		rc = answer_send(call, &a, kept_out);
	}
	return rc;
}

int answer_initial(struct split_call *call, bool always)
{
	struct answer a = {.kind = TO_DAEMON_INITIAL_METADATA};
	struct block *reply = call->blocks;
	uint8_t *bump = call->bump, *end = call->bump_end;
	bool kept = false;
	int rc;

	if (call->initial_sent || (call->initial.count == 0 && !always))
		return 0;
	/* A chain of its own: it is given back on its own. */
	call->blocks = NULL;
	call->bump = call->bump_end = NULL;
	rc = metadata_put(call, &call->initial, &a.metadata);
	if (rc == 0)
		rc = answer_send(call, &a, &kept);
	if (rc != 0)
		blocks_free(call);
	else
		call->initial_sent = true;
	call->blocks = reply;
	call->bump = bump;
	call->bump_end = end;
	return rc;
}

/* ------------------------------------------------------------------ replies */

#define REPLY_LAST (SLOT_END_STREAM | SLOT_HAS_STATUS)

static int reply_flatten(const struct split_call *call, const ProtobufCMessage *reply,
			 const struct linear_target *target, const void *inside,
			 size_t inside_bytes, uint64_t *root_out)
{
	if (call->method->plan == NULL)
		return flatten(reply, target, inside, inside_bytes, NULL, root_out);
	return flatten_planned(call->method->plan, reply, target, inside, inside_bytes, NULL,
			       root_out);
}

/* A call out begins with its CALL. */
static bool opens(const struct split_call *call)
{
	return call->is_out && !call->initial_sent;
}

/* Into a slot, if it fits. `end`: REPLY_LAST, or 0 when more follows. 0, -SPLIT_E_HOST_SLOT (it
 * does not), others. */
static int reply_inline(struct split_call *call, const ProtobufCMessage *reply, uint8_t end,
			bool *kept_out)
{
	struct answer a = {.kind = opens(call) ? TO_DAEMON_CALL : TO_DAEMON_MESSAGE,
			   .flags = end | SLOT_HAS_MESSAGE | SLOT_INLINE};
	struct slot *slot, *area;
	struct linear_target target = {.chunk_get = chunk_slot, .ctx = &area};
	struct producer p;
	int rc;

	rc = producer_open_call(&p, call);
	if (rc != 0)
		return rc;
	rc = producer_slot(&p, false, &slot);
	if (rc == 0) {
		area = slot;
		rc = reply_flatten(call, reply, &target, NULL, 0, &a.msg);
		if (rc != 0)
			host_lane_drop(p.lane, slot);
	}
	if (rc != 0) {
		producer_close(&p);
		return rc;
	}
	slot_fill(slot, call, &a);
	slot->inline_bytes = SLOT_INLINE_BYTES;
	STAT(call->host, replies_inline);
	if (end != 0) {
		slot_end_call(&p, call, slot, kept_out);
	} else {
		producer_commit_call(&p, call, slot);
		producer_close(&p);
	}
	return 0;
}

static uint32_t chain_bytes(const struct block *b)
{
	uint64_t bytes = 0;

	for (; b != NULL; b = b->next)
		bytes += b->bytes;
	return bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
}

static int reply_blocks(struct split_call *call, const ProtobufCMessage *reply, uint8_t end,
			bool *kept_out)
{
	struct answer a = {.kind = opens(call) ? TO_DAEMON_CALL : TO_DAEMON_MESSAGE,
			   .flags = end | SLOT_HAS_MESSAGE};
	struct linear_target target = {.chunk_get = chunk_block, .ctx = call};
	const struct shepherd_chunk *mem = &call->session->room.mem;
	/* Only what the call itself allocated may stay in place: nothing else goes with its token.
	 */
	bool own = call->blocks != NULL;
	int rc;

	if (own && call->in_place && !call->fell_back)
		rc = flatten_root(reply, &target, mem->mem, mem->bytes, &a.msg);
	else
		rc = reply_flatten(call, reply, &target, own ? mem->mem : NULL,
				   own ? mem->bytes : 0, &a.msg);
	if (rc == 0 && end != 0)
		rc = metadata_put(call, opens(call) ? &call->initial : &call->trailing,
				  &a.metadata);
	if (end == 0)
		a.msg_bytes = chain_bytes(call->blocks);
	return rc == 0 ? answer_send(call, &a, kept_out) : rc;
}

/* The encoded message into `a`: inside the slot, or in a block of the call's. */
static int wire_place(struct split_call *call, const ProtobufCMessage *reply,
		      uint8_t small[WIRE_SMALL_BYTES], struct answer *a)
{
	const uint8_t *at = small;
	uint32_t bytes = 0;
	int rc = wire_encode(call, reply, small, &at, &bytes);
	void *copy;

	if (rc != 0)
		return rc;
	if (bytes <= SLOT_INLINE_BYTES) {
		memmove(small, at, bytes);
		blocks_free(call);
		a->flags |= SLOT_INLINE;
		a->wire_inline = small;
		a->wire_bytes = (uint8_t)bytes;
		STAT(call->host, replies_inline);
		return 0;
	}
	if (call->blocks == NULL) {
		copy = block_memory(call, bytes, &rc);
		if (copy == NULL)
			return rc;
		at = memcpy(copy, at, bytes);
	}
	a->msg = (uint64_t)(uintptr_t)at;
	a->msg_bytes = bytes;
	return 0;
}

/* What it was built of in the call's own memory has done its part. */
static int reply_wire(struct split_call *call, const ProtobufCMessage *reply, uint8_t end,
		      bool *kept_out)
{
	struct answer a = {
		.kind = TO_DAEMON_MESSAGE, .flags = end | SLOT_HAS_MESSAGE, .form = SLOT_FORM_WIRE};
	struct block *built = call->blocks;
	uint8_t *bump = call->bump, *bump_end = call->bump_end;
	uint8_t small[WIRE_SMALL_BYTES];
	int rc;

	call->blocks = NULL;
	call->bump = call->bump_end = NULL;
	rc = wire_place(call, reply, small, &a);
	if (rc == 0 && end != 0)
		rc = metadata_put(call, &call->trailing, &a.metadata);
	if (rc == 0)
		rc = answer_send(call, &a, kept_out);
	if (rc == 0) {
		if (built != NULL)
			room_put(&call->session->room, answer_cache(call->session), built);
		return 0;
	}
	blocks_free(call);
	call->blocks = built;
	call->bump = bump;
	call->bump_end = bump_end;
	return rc;
}

/* What was added to the chain since `mark` goes back; the bump is what it was. */
static void blocks_unwind(struct split_call *call, struct block *mark, uint8_t *bump, uint8_t *end)
{
	struct block *last = call->blocks;

	if (last != mark) {
		while (last->next != mark)
			last = last->next;
		last->next = NULL;
		room_put(&call->session->room, answer_cache(call->session), call->blocks);
		call->blocks = mark;
	}
	call->bump = bump;
	call->bump_end = end;
	if (bump != end)
		poison_region(bump, (size_t)(end - bump));
}

int answer_message(struct split_call *call, const ProtobufCMessage *message)
{
	struct block *mark = call->blocks;
	uint8_t *bump = call->bump, *end = call->bump_end;
	bool kept = false;
	int rc = answer_initial(call, false);

	if (rc != 0)
		return rc;
	if (message->descriptor != call->method->output)
		return -SPLIT_E_HOST_SCHEMA;
	if (call->answers_wire) {
		rc = reply_wire(call, message, 0, &kept);
		goto out;
	}
	if (call->blocks == NULL) {
		rc = reply_inline(call, message, 0, &kept);
		if (rc != -SPLIT_E_HOST_SLOT)
			goto out;
	}
	rc = reply_blocks(call, message, 0, &kept);
out:
	if (rc != 0)
		blocks_unwind(call, mark, bump, end);
	else
		call->initial_sent = true;
	return rc;
}

int answer_call(struct split_call *call, const ProtobufCMessage *request)
{
	struct answer a = {.kind = TO_DAEMON_CALL};
	bool kept = false;
	int rc;

	if (request != NULL && request->descriptor != call->method->output)
		return -SPLIT_E_HOST_SCHEMA;
	if (request == NULL) {
		rc = metadata_put(call, &call->initial, &a.metadata);
		if (rc == 0)
			rc = answer_send(call, &a, &kept);
	} else {
		rc = -SPLIT_E_HOST_SLOT;
		if (call->initial.count == 0)
			rc = reply_inline(call, request, SLOT_END_STREAM, &kept);
		if (rc == -SPLIT_E_HOST_SLOT)
			rc = reply_blocks(call, request, SLOT_END_STREAM, &kept);
	}
	answer_parts_free(call);
	if (rc == 0)
		call->initial_sent = true;
	return rc;
}

static int answer_reply(struct split_call *call, const ProtobufCMessage *reply, bool *kept_out)
{
	int rc = -SPLIT_E_HOST_SLOT;

	if (reply->descriptor != call->method->output)
		return -SPLIT_E_HOST_SCHEMA;
	if (call->answers_wire)
		return reply_wire(call, reply, REPLY_LAST, kept_out);
	if (call->blocks == NULL && call->trailing.count == 0)
		rc = reply_inline(call, reply, REPLY_LAST, kept_out);
	if (rc == -SPLIT_E_HOST_SLOT)
		rc = reply_blocks(call, reply, REPLY_LAST, kept_out);
	return rc;
}

/* The answer could not be given as it was meant: give the reason instead. */
static int answer_instead(struct split_call *call, int rc, bool *kept_out)
{
	blocks_free(call);
	if (rc == -SPLIT_E_HOST_ROOM || linearize_map_status(rc) == SPLIT_RESOURCE_EXHAUSTED) {
		STAT(call->host, room_exhausted);
		rc = answer_status(call, SPLIT_RESOURCE_EXHAUSTED,
				   "no room for the reply in the host's segment", kept_out);
		return rc == 0 ? SPLIT_E_NOMEM : rc;
	}
	rc = answer_status(call, SPLIT_INTERNAL, "the reply could not be sent as it is", kept_out);
	return rc == 0 ? SPLIT_E_SCHEMA : rc;
}

int answer_claimed(struct split_call *call, const ProtobufCMessage *reply, bool *kept_out)
{
	bool many = call->method->kind == SPLIT_SERVER_STREAM ||
		    call->method->kind == SPLIT_BIDI_STREAM;
	int rc = 0;

	*kept_out = false;
	/* What it was built of for a message that was never sent. */
	if (many)
		blocks_free(call);
	if (atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0 ||
	    !attachment_alive(call->session->attachment))
		rc = -SPLIT_E_HOST_LOST;
	else
		rc = answer_initial(call, false);
	if (rc == 0 && reply != NULL && call->status == SPLIT_OK)
		rc = answer_reply(call, reply, kept_out);
	else if (rc == 0 && many && call->status == SPLIT_OK)
		rc = answer_status(call, SPLIT_OK, call->text, kept_out);
	else if (rc == 0 && !call->status_set)
		rc = answer_status(call, SPLIT_INTERNAL, "the service gave no reply", kept_out);
	else if (rc == 0 && call->status == SPLIT_OK)
		rc = answer_status(call, SPLIT_INTERNAL, "status OK without a reply", kept_out);
	else if (rc == 0)
		rc = answer_status(call, call->status, call->text, kept_out);
	if (rc < 0 && rc != -SPLIT_E_HOST_LOST)
		rc = answer_instead(call, rc, kept_out);
	if (rc == -SPLIT_E_HOST_LOST)
		STAT(call->host, answers_late);
	else
		STAT(call->host, answers);
	if (rc != -SPLIT_E_HOST_LOST &&
	    (worker_self == NULL || worker_self->session != call->session))
		STAT(call->host, answers_async);
	answer_parts_free(call);
	return rc;
}

/* Line 0 of a slot whole, and its message: what the daemon reads of it. */
static inline void slot_fill_usual(struct slot *slot, const struct split_call *call, size_t used)
{
	slot->kind = TO_DAEMON_MESSAGE;
	slot->flags = REPLY_LAST | SLOT_HAS_MESSAGE | SLOT_INLINE;
	slot->inline_bytes = (uint8_t)used;
	slot->form = 0;
	slot->call_id = call->call_id;
	slot->release = 0;
	slot->token = 0;
	slot->msg = (uint64_t)(uintptr_t)slot->inline_area;
	slot->method = 0;
	slot->msg_seq = 0;
	slot->deadline_ns = 0;
	slot->info = SPLIT_OK;
}

bool answer_usual(struct worker *w, struct split_call *call, const ProtobufCMessage *reply)
{
	const struct method *m = call->method;
	struct host_lane *lane = w->lanes[call->daemon_worker];
	struct slot *slot;
	size_t used;

	if (unlikely(call->unusual != 0 || reply == NULL || reply->descriptor != m->output ||
		     m->plan == NULL || w->pending.call != NULL ||
		     atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0 ||
		     !attachment_alive(w->session->attachment)))
		return false;
	slot = host_lane_next(lane);
	if (unlikely(slot == NULL || flatten_into(m->plan, reply, slot->inline_area,
						  SLOT_INLINE_BYTES, &used) != 0))
		return false;
	slot_fill_usual(slot, call, used);
	if (call->has_token && (atomic_load_explicit(&call->word, memory_order_acquire) &
				(CALL_GONE | CALL_REFS)) == 1) {
		w->pending.call = call;
		w->pending.slot = slot;
		w->pending.lane = lane;
		w->pending.refs = 0;
	} else {
		host_lane_publish(lane, slot);
		host_lane_ring(lane);
	}
	STAT_OWN(w, replies_inline);
	STAT_OWN(w, answers);
	return true;
}

void answer_undecoded(struct split_call *call, int rc)
{
	const char *text = error_text(rc);
	struct producer p;
	struct slot *slot;

	if (atomic_load_explicit(&call->cancelled, memory_order_acquire) != 0 ||
	    !attachment_alive(call->session->attachment)) {
		STAT(call->host, answers_late);
		return;
	}
	/* Another thread may be building a message of the call: nothing of that is touched. */
	producer_open(&p, call->session, call->daemon_worker);
	if (producer_slot(&p, false, &slot) == 0) {
		slot->kind = TO_DAEMON_STATUS;
		slot->flags = SLOT_END_STREAM | SLOT_EXTRA;
		slot->form = SLOT_FORM_UNDECODED;
		slot->call_id = call->call_id;
		slot->info = (uint64_t)linearize_map_status(rc);
		slot->msg = slot->metadata = 0;
		slot->msg_bytes = 0;
		slot->text_bytes = (uint32_t)strnlen(text, SLOT_INLINE_BYTES);
		slot->inline_bytes = (uint8_t)slot->text_bytes;
		memcpy(slot->inline_area, text, slot->text_bytes);
		slot->text = (uint64_t)(uintptr_t)slot->inline_area;
		producer_commit(&p, slot);
		STAT(call->host, answers);
	}
	producer_close(&p);
}

/* ------------------------------------------------------------------ what a handler says */

static bool answered(const struct split_call *call)
{
	return (atomic_load_explicit(&call->word, memory_order_acquire) & CALL_ANSWERED) != 0;
}

int answer_status_set(struct split_call *call, unsigned code, const char *message)
{
	size_t len = message == NULL ? 0 : strnlen(message, HOST_TEXT_BYTES);

	call->status = (uint8_t)code;
	call->status_set = true;
	call->text = NULL;
	if (len == 0)
		return 0;
	/* Cut between characters. */
	if (message[len] != '\0')
		while (len > 0 && ((uint8_t)message[len] & 0xc0) == 0x80)
			len--;
	call->text = heap_get(call, len + 1);
	if (call->text == NULL)
		return SPLIT_E_NOMEM;
	memcpy(call->text, message, len);
	call->text[len] = '\0';
	return 0;
}

int split_call_set_status(struct split_call *call, enum split_status code, const char *message)
{
	if ((unsigned)code > SPLIT_UNAUTHENTICATED)
		return SPLIT_E_ARGUMENT;
	if (answered(call))
		return SPLIT_E_ANSWERED;
	return answer_status_set(call, code, message);
}

static bool name_sound(const char *name, size_t len)
{
	if (len == 0 || len > 255 || strncmp(name, "grpc-", 5) == 0)
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
		      c == '.'))
			return false;
	}
	return true;
}

static bool value_sound(const char *name, size_t name_len, const uint8_t *value, size_t len)
{
	if (name_len >= 4 && memcmp(name + name_len - 4, "-bin", 4) == 0)
		return true;
	for (size_t i = 0; i < len; i++)
		if (value[i] < 0x20 || value[i] > 0x7e)
			return false;
	return true;
}

static int list_add(struct split_call *call, struct metadata_list *list, const char *name,
		    const void *value, size_t len)
{
	size_t name_len = strlen(name);
	struct metadata_item *items;
	uint8_t *copy;

	if (answered(call))
		return SPLIT_E_ANSWERED;
	if (list->count == HOST_METADATA_ITEMS || len > HOST_METADATA_BYTES ||
	    list->bytes + name_len + len > HOST_METADATA_BYTES)
		return SPLIT_E_METADATA;
	if (list->items == NULL) {
		items = calloc(HOST_METADATA_ITEMS, sizeof(*items));
		if (items == NULL)
			return SPLIT_E_NOMEM;
		list->items = items;
		call->parts = true;
	}
	copy = heap_get(call, name_len + 1 + len + 1);
	if (copy == NULL)
		return SPLIT_E_NOMEM;
	memcpy(copy, name, name_len + 1);
	if (len > 0)
		memcpy(copy + name_len + 1, value, len);
	copy[name_len + 1 + len] = '\0';
	list->items[list->count++] = (struct metadata_item){
		.name = (const char *)copy,
		.value = copy + name_len + 1,
		.name_bytes = (uint32_t)name_len,
		.value_bytes = (uint32_t)len,
	};
	list->bytes += (uint32_t)(name_len + len);
	return 0;
}

static int metadata_add(struct split_call *call, struct metadata_list *list, const char *name,
			const void *value, size_t len)
{
	if (name == NULL || (value == NULL && len > 0))
		return SPLIT_E_ARGUMENT;
	if (!name_sound(name, strlen(name)) || !value_sound(name, strlen(name), value, len))
		return SPLIT_E_METADATA;
	return list_add(call, list, name, value, len);
}

int split_call_add_initial_metadata(struct split_call *call, const char *name, const void *value,
				    size_t len)
{
	if (call->initial_sent)
		return SPLIT_E_ARGUMENT;
	return metadata_add(call, &call->initial, name, value, len);
}

int split_call_add_trailing_metadata(struct split_call *call, const char *name, const void *value,
				     size_t len)
{
	return metadata_add(call, &call->trailing, name, value, len);
}

int split_call_set_status_details(struct split_call *call, const void *bytes, size_t len)
{
	if ((bytes == NULL && len > 0) || len > HOST_DETAILS_BYTES)
		return SPLIT_E_ARGUMENT;
	return list_add(call, &call->trailing, detail_name, bytes, len);
}

int split_call_peer_text(const struct split_call *call, char *buf, size_t bytes)
{
	const struct split_peer *p = &call->peer;
	const uint8_t *a = p->address;

	if (p->family == 4)
		return snprintf(buf, bytes, "ipv4:%u.%u.%u.%u:%u", a[0], a[1], a[2], a[3], p->port);
	if (p->family == 6)
		return snprintf(buf, bytes, "ipv6:[%x:%x:%x:%x:%x:%x:%x:%x]:%u", be16_load(a),
				be16_load(a + 2), be16_load(a + 4), be16_load(a + 6),
				be16_load(a + 8), be16_load(a + 10), be16_load(a + 12),
				be16_load(a + 14), p->port);
	return snprintf(buf, bytes, "unknown");
}
