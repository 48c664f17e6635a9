/* Bringing a request into the host's memory: metadata and message, decoded to their final place. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

/* Outcomes of one attempt besides 0 and errors. */
#define PREPARE_RUNS    2 /* used up its quantum: on attached.jobs */
#define PREPARE_NO_ROOM 3 /* gave everything back */

/* What attached.prepare_mark says besides a number of bytes: more than any, so that the next is
 * tried in any case. */
#define MARK_NO_JOB UINT64_MAX       /* it was not room that lacked */
#define MARK_TRY    (UINT64_MAX - 1) /* the one before found room */

/* First chunk of a message in blocks, doubling with each further one: few blocks for a large
 * message, little waste for a small one. */
#define CHUNK_FIRST_BYTES   4096u
#define CHUNK_DOUBLINGS_MAX 9

/* True when everything but wire rooms has come back: more room there will not be. */
static bool nothing_to_wait_for(const struct attached *ep)
{
	return endpoint_bytes_used(ep->port) <= ep->wire_used;
}

static bool room_error(int err)
{
	return err == -SPLIT_E_SHEPHERD_FULL || err == -SPLIT_E_SHEPHERD_QUOTA;
}

static int blocks_chunk_get(void *ctx, size_t bytes_min, size_t bytes_want,
			    struct linear_chunk *out)
{
	struct call *call = ctx;
	uint32_t count = call->blocks.count;
	size_t step = (size_t)CHUNK_FIRST_BYTES
		      << (count < CHUNK_DOUBLINGS_MAX ? count : CHUNK_DOUBLINGS_MAX);
	size_t bytes = bytes_want < step ? bytes_want : step;
	struct shepherd_chunk chunk;
	int err;

	if (bytes < bytes_min)
		bytes = bytes_min;
	err = call_block_get(call, &call->blocks, bytes, &chunk);
	if (err != 0 && bytes > bytes_min)
		err = call_block_get(call, &call->blocks, bytes_min, &chunk);
	if (err != 0)
		return err;
	out->mem = chunk.mem;
	out->bytes = chunk.bytes;
	return 0;
}

/* Whether metadata or the client's names go with the REQUEST, and are not in its blocks yet. */
static bool metadata_wanted(const struct call *call)
{
	return !call->published && !call->metadata_ready &&
	       (call->items_n != 0 || connection_identity(call->conn) != NULL);
}

static uint32_t identity_items(const struct tls_identity *id,
			       struct metadata_item items[TLS_IDENTITY_MAX])
{
	uint32_t n = id != NULL ? id->properties_n : 0;

	for (uint32_t i = 0; i < n; i++)
		items[i] = (struct metadata_item){
			.name = id->properties[i].name,
			.value = id->properties[i].value,
			.name_bytes = id->properties[i].name_len,
			.value_bytes = id->properties[i].value_len,
		};
	return n;
}

/* Metadata is small and bounded: written at once, the client's names behind it. */
static int metadata_prepare(struct call *call)
{
	struct metadata_item names[TLS_IDENTITY_MAX];
	uint32_t names_n = identity_items(connection_identity(call->conn), names);
	struct endpoint_port *port = call->ep->port;
	size_t bytes = align_up(metadata_bytes(call->items, call->items_n), 16);
	size_t names_bytes = names_n != 0 ? metadata_bytes(names, names_n) : 0;
	const struct metadata_block *block;
	struct shepherd_chunk chunk;
	int err;

	err = call_block_get(call, &call->blocks, bytes + names_bytes, &chunk);
	if (err != 0)
		return err;
	err = metadata_write(call->items, call->items_n, chunk.mem, chunk.bytes,
			     endpoint_delta(port));
	if (err == 0 && names_n != 0) {
		err = metadata_write(names, names_n, chunk.mem + bytes, chunk.bytes - bytes,
				     endpoint_delta(port));
		call->peer =
			(uint64_t)(uintptr_t)(chunk.mem + bytes) + (uint64_t)endpoint_delta(port);
	}
	if (err != 0)
		return err;
	block = (const struct metadata_block *)(const void *)chunk.mem;
	call->metadata = (uint64_t)(uintptr_t)chunk.mem + (uint64_t)endpoint_delta(port);
	for (uint32_t i = 0; i < call->items_n; i++) {
		if (call->items[i].name_bytes == 11 &&
		    memcmp(call->items[i].name, "traceparent", 11) == 0)
			call->trace = block->entries[i].value;
	}
	call->metadata_ready = true;
	return 0;
}

void call_job_drop(struct call *call)
{
	if (call->decode == NULL)
		return;
	list_del(&call->job.link);
	pool_put(&call->w->decode_pool, call->decode);
	call->decode = NULL;
	call->ep->decoding--;
}

/* What one quantum of a decode led to; the job is given back unless it goes on. */
static int decode_outcome(struct call *call, int err)
{
	struct worker *w = call->w;

	if (err == SPLIT_AGAIN) {
		counter_inc(&w->counters.decode_yields);
		job_add(call->ep, &call->job);
		return PREPARE_RUNS;
	}
	if (err == 0) {
		call->root = decode_root(call->decode);
		call->message_ready = true;
		counter_inc(&w->counters.requests_block);
		counter_inc(&call->method->told->decoded);
		counter_add(&w->counters.decode_bytes, call->wire_bytes);
		if (decode_aliased(call->decode) != 0) {
			counter_inc(&w->counters.requests_aliased);
			room_keep(call);
		}
	} else {
		call->refused_at = (uint32_t)decode_where(call->decode);
	}
	call_job_drop(call);
	if (err == 0) {
		call_wire_put(call);
		return 0;
	}
	if (!room_error(err))
		return err;
	endpoint_blocks_put(call->ep->port, &call->blocks);
	call->metadata_ready = false;
	return PREPARE_NO_ROOM;
}

/* How long what stays in the wire's room must be; 0: nothing may, for the wire lies elsewhere, or
 * fills its block to the last byte, where a NUL might have to stand. */
static uint32_t alias_min(const struct call *call)
{
	uint64_t least = call->w->cfg->linearize.alias_min;

	if (call->wire == call->small || call->wire_bytes >= call->wire_charged)
		return 0;
	return least < UINT32_MAX ? (uint32_t)least : 0;
}

/* What decode_start would say. */
static int hand_over_check(struct call *call)
{
	call->refused_at = 0;
	return call->wire_bytes > call->method->decode_limits.wire_bytes_max
		       ? -SPLIT_E_LINEARIZE_LIMIT_WIRE
		       : 0;
}

static void handed_over(struct call *call, const uint8_t *at)
{
	call->root = (uint64_t)(uintptr_t)at + (uint64_t)endpoint_delta(call->ep->port);
	call->handed_over = true;
	counter_inc(&call->w->counters.requests_wire);
	counter_inc(&call->method->told->handed_over);
}

/* The host decodes it: its bytes stay in their room, or get a block. */
static int message_hand_over(struct call *call)
{
	struct endpoint_port *port = call->ep->port;
	struct shepherd_chunk chunk = {.mem = call->wire};
	int err = hand_over_check(call);

	if (err != 0)
		return err;
	if (call->wire == call->small) {
		err = call_block_get(call, &call->blocks, call->wire_bytes, &chunk);
		if (room_error(err)) {
			endpoint_blocks_put(port, &call->blocks);
			call->metadata_ready = false;
			return PREPARE_NO_ROOM;
		}
		if (err != 0)
			return err;
		memcpy(chunk.mem, call->wire, call->wire_bytes);
		units_spent(call->w, call->wire_bytes / LINEAR_UNIT_BYTES, call->ep);
	} else {
		room_keep(call);
	}
	handed_over(call, chunk.mem);
	call->message_ready = true;
	call_wire_put(call);
	return 0;
}

static int message_prepare(struct call *call)
{
	struct worker *w = call->w;
	struct attached *ep = call->ep;
	const struct linear_target target = {
		.delta = endpoint_delta(call->ep->port),
		.chunk_get = blocks_chunk_get,
		.ctx = call,
		.alias_min = alias_min(call),
	};
	int err;

	call->as_wire = call->method->decode_at_host;
	if (call->as_wire)
		return message_hand_over(call);
	if (ep->decoding < WORKER_JOBS_PER_ENDPOINT)
		call->decode = pool_get(&w->decode_pool);
	if (call->decode == NULL) {
		/* Every job is somebody's who runs on: the next turn may have one. */
		endpoint_blocks_put(call->ep->port, &call->blocks);
		call->metadata_ready = false;
		call->ep->prepare_mark = MARK_NO_JOB;
		return PREPARE_NO_ROOM;
	}
	ep->decoding++;
	err = decode_start(call->decode, call->method->input, call->wire, call->wire_bytes, &target,
			   &call->method->decode_limits);
	if (err == 0)
		err = attached_spent(ep) ? SPLIT_AGAIN : decode_go(w, call->decode, ep);
	return decode_outcome(call, err);
}

/* A stream's messages come after its request, in slots of their own. */
static bool message_turn(const struct call *call)
{
	return call->have_message && (call->published || !grpc_kind_many_requests(call->kind));
}

bool message_needs_blocks(const struct call *call)
{
	return message_turn(call) && !call->message_ready &&
	       (call->wire != call->small || call->blocks_wanted);
}

static int prepare_attempt(struct call *call)
{
	enum worker_stage left = stage_enter(call->w, WORKER_STAGE_decode);
	int err = 0;

	call->ep->prepare_mark = 0;
	call->refused_at = 0;
	if (metadata_wanted(call)) {
		err = metadata_prepare(call);
		if (room_error(err)) {
			endpoint_blocks_put(call->ep->port, &call->blocks);
			err = PREPARE_NO_ROOM;
		}
	}
	/* A small message is left for its slot unless it was found not to fit there. */
	if (err == 0 && message_needs_blocks(call))
		err = message_prepare(call);
	if (err != PREPARE_NO_ROOM)
		call->ep->prepare_mark = MARK_TRY;
	else if (call->ep->prepare_mark == 0)
		call->ep->prepare_mark = endpoint_bytes_used(call->ep->port);
	stage_enter(call->w, left);
	return err;
}

static void prepare_failed(struct call *call, int err)
{
	const char *text = error_text(err);

	counter_inc(&call->w->counters.decode_errors);
	refused_request(call, err);
	if (err == -SPLIT_E_BASE_LIMIT)
		call_fail_code(call, err);
	else
		call_fail(call, (enum grpc_status)linearize_map_status(err), text, CANCEL_SHUTDOWN);
}

int call_prepare(struct call *call)
{
	struct attached *ep = call->ep;
	int err;

	if (!list_empty(&ep->prepare_wait)) {
		counter_inc(&call->w->counters.prepare_waits);
		call_wait(call, CALL_WAIT_PREPARE, false);
		return SPLIT_AGAIN;
	}
	err = prepare_attempt(call);
	if (err == PREPARE_NO_ROOM) {
		counter_inc(&call->w->counters.prepare_waits);
		call_wait(call, CALL_WAIT_PREPARE, true);
		return SPLIT_AGAIN;
	}
	if (err == PREPARE_RUNS)
		return SPLIT_AGAIN;
	if (err < 0)
		prepare_failed(call, err);
	return err;
}

void call_advance(struct call *call)
{
	bool needs_blocks;

	if (unlikely(call->nested.out)) {
		out_advance(call);
		return;
	}
	if (call->finished || call->answered || call->waiting != CALL_WAIT_NONE ||
	    call->decode != NULL || call->balance.queued)
		return;
	if (!call->have_message && (call->published ? !call->half_closed || call->half_close_out
						    : !grpc_kind_many_requests(call->kind)))
		return;
	if (!call->published && call_held(call))
		return;
	needs_blocks = metadata_wanted(call) || message_needs_blocks(call);
	if (needs_blocks && call_prepare(call) != 0)
		return;
	if (call->published)
		call_follow_up(call);
	else
		call_place(call);
}

void call_job_run(struct call *call)
{
	enum worker_stage left = stage_enter(call->w, WORKER_STAGE_decode);
	int err = decode_outcome(call, decode_go(call->w, call->decode, NULL));

	stage_enter(call->w, left);
	if (err == PREPARE_RUNS)
		return;
	/* It had all there can be, from first to last: waiting and beginning again gives no more.
	 */
	if (err == PREPARE_NO_ROOM && call->prepare_alone && nothing_to_wait_for(call->ep))
		err = -SPLIT_E_BASE_LIMIT;
	if (err == PREPARE_NO_ROOM) {
		/* It was at the front once: it goes back there. */
		call->ep->prepare_mark = endpoint_bytes_used(call->ep->port);
		counter_inc(&call->w->counters.prepare_waits);
		call_wait(call, CALL_WAIT_PREPARE, true);
	} else if (err < 0) {
		prepare_failed(call, err);
	} else {
		call_advance(call);
	}
}

/* ---- inline --------------------------------------------------------------------------------- */

struct inline_target {
	struct shepherd_chunk area;
	bool taken, overflowed;
};

static int inline_chunk_get(void *ctx, size_t bytes_min, size_t bytes_want,
			    struct linear_chunk *out)
{
	struct inline_target *t = ctx;

	(void)bytes_want;
	if (t->taken || bytes_min > t->area.bytes) {
		t->overflowed = true;
		return -SPLIT_E_LINEARIZE_NOMEM;
	}
	t->taken = true;
	out->mem = t->area.mem;
	out->bytes = t->area.bytes;
	return 0;
}

/* Wire bytes that fit go into the slot as they are. As call_decode_inline. */
static int hand_over_inline(struct call *call, const struct shepherd_chunk *area,
			    uint8_t *bytes_out)
{
	int err = hand_over_check(call);

	if (err != 0) {
		prepare_failed(call, err);
		return err;
	}
	if (call->wire_bytes > area->bytes)
		return SPLIT_AGAIN;
	memcpy(area->mem, call->wire, call->wire_bytes);
	handed_over(call, area->mem);
	*bytes_out = (uint8_t)call->wire_bytes;
	return 0;
}

int call_decode_inline(struct call *call, unsigned lane, uint8_t *bytes_out)
{
	struct worker *w = call->w;
	struct inline_target area = {0};
	const struct linear_target target = {
		.delta = endpoint_delta(call->ep->port),
		.chunk_get = inline_chunk_get,
		.ctx = &area,
	};
	enum worker_stage left;
	struct decode_job *job;
	int err;

	err = endpoint_inline_area(call->ep->port, lane, &area.area);
	if (err != 0)
		return err;
	call->as_wire = call->method->decode_at_host;
	if (call->as_wire)
		return hand_over_inline(call, &area.area, bytes_out);
	job = pool_get(&w->decode_pool);
	if (job == NULL)
		return SPLIT_AGAIN;
	left = stage_enter(w, WORKER_STAGE_decode);
	err = decode_start(job, call->method->input, call->wire, call->wire_bytes, &target,
			   &call->method->decode_limits);
	if (err == 0)
		err = decode_go(w, job, call->ep);
	if (err == 0) {
		call->root = decode_root(job);
		*bytes_out = (uint8_t)decode_chunk_used(job);
		counter_inc(&w->counters.requests_small);
		counter_inc(&call->method->told->decoded);
		counter_add(&w->counters.decode_bytes, call->wire_bytes);
	} else if (area.overflowed) {
		err = SPLIT_AGAIN;
	}
	if (err < 0)
		call->refused_at = (uint32_t)decode_where(job);
	stage_enter(w, left);
	pool_put(&w->decode_pool, job);
	if (err < 0)
		prepare_failed(call, err);
	return err;
}

/* ---- waiting -------------------------------------------------------------------------------- */

static bool prepare_retry(struct attached *ep)
{
	struct call *call = list_entry(list_first(&ep->prepare_wait), struct call, wait);
	bool alone = nothing_to_wait_for(ep);
	bool no_job;
	int err;

	if (!alone && endpoint_bytes_used(ep->port) >= ep->prepare_mark)
		return false;
	call->prepare_alone = alone;
	err = prepare_attempt(call);
	no_job = ep->prepare_mark == MARK_NO_JOB;
	if (err == PREPARE_NO_ROOM) {
		if (!alone || no_job)
			return false;
		err = -SPLIT_E_BASE_LIMIT;
	}
	call_unwait(call);
	if (err < 0)
		prepare_failed(call, err);
	else if (err == 0)
		call_advance(call);
	return true;
}

unsigned attached_retry(struct attached *ep)
{
	unsigned n = 0;

	while (!list_empty(&ep->prepare_wait) && prepare_retry(ep))
		n++;
	return n + room_retry(ep);
}
