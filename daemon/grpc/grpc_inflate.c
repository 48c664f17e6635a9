/* Compressed messages from the client (gRPC's compression.md): kept until whole, then inflated into
 * room of their plain size.
 *
 *   WAITING    for its share of compress_memory, all of its bytes at once, in order: who is granted
 *              needs nothing more to become whole, so nobody waits for somebody who waits
 *   RECEIVING  its bytes go into chunks of the engine's memory; the stream's window is given back
 *   COUNTING   how much does it hold? gzip says so in its last four bytes; deflate is inflated once
 *              for the count, so that a bomb is found before room is taken for it
 *   ROOM       the backend has none now
 *   WRITING    inflated into that room; must be exactly as much as was said
 *   WHOLE      the backend paused the call meanwhile
 *
 * COUNTING and WRITING are jobs: each turn of the worker gives them a quantum together. They alone
 * hold a zlib slot. */
#include "daemon/grpc/grpc_internal.h"

#include <string.h>
#include <zlib.h>

#define CHUNK_BYTES 16384u
#define STEP_BYTES  16384u
#define NS_PER_S    UINT64_C(1000000000)
/* gzip's header and trailer (RFC 1952 s2.3) around an empty block. */
#define GZIP_MIN 20u
/* A look at a job costs so much of the quantum at least, so that a round of jobs that wait for a
 * slot ends. */
#define VISIT_BYTES 256u

enum inflate_state { WAITING, RECEIVING, COUNTING, ROOM, WRITING, WHOLE };

struct inflate {
	struct zlib_job job;
	struct list wait; /* server.inflate_wait, or inflate_in */
	struct grpc_call *call;
	struct hold *first, *last;
	struct hold *at; /* the next chunk to inflate */
	struct zlib_slot *slot;
	uint64_t due_ns;
	uint32_t bytes, got;  /* as it comes */
	uint32_t plain, done; /* what it holds */
	uint8_t tail[4];      /* its last bytes: gzip's ISIZE */
	enum inflate_state state;
};

static void chunks_free(struct grpc_server *server, struct inflate *in)
{
	struct hold *next;

	for (struct hold *chunk = in->first; chunk != NULL; chunk = next) {
		next = chunk->next;
		http2_engine_free(server->engine, chunk);
	}
	in->first = NULL;
	in->last = NULL;
}

void grpc_inflate_drop(struct grpc_call *call)
{
	struct grpc_server *server = call_server(call);
	struct inflate *in = call->inflate;

	if (in == NULL)
		return;
	call->inflate = NULL;
	list_del(&in->job.link);
	list_del(&in->wait);
	if (in->slot != NULL)
		grpc_zlib_put(in->slot);
	if (in->state != WAITING)
		server->compressed_bytes -= in->bytes;
	chunks_free(server, in);
	http2_engine_free(server->engine, in);
}

static void inflate_abort(struct grpc_call *call, enum grpc_status status, const char *text)
{
	grpc_inflate_drop(call);
	grpc_call_abort(call, status, text, GRPC_CLOSED_FAILED);
}

static void inflate_broken(struct grpc_call *call)
{
	counter_inc(&call_server(call)->counters.rx_inflate_errors);
	inflate_abort(call, GRPC_INTERNAL, "a compressed message is broken");
}

/* ---- receiving ------------------------------------------------------------------------------ */

static bool memory_granted(struct grpc_server *server, struct inflate *in)
{
	const struct grpc_config *c = &server->config;

	if (server->compressed_bytes + in->bytes > c->compress_memory)
		return false;
	server->compressed_bytes += in->bytes;
	in->state = RECEIVING;
	in->due_ns = server->now_ns + c->upload_timeout_ns +
		     (c->upload_rate_min != 0 ? in->bytes * NS_PER_S / c->upload_rate_min : 0);
	list_del(&in->wait);
	list_add_tail(&server->inflate_in, &in->wait);
	in->call->flags |= CALL_IN_MESSAGE;
	in->call->flags &= ~(uint32_t)CALL_WAITING;
	return true;
}

void grpc_inflate_begin(struct grpc_call *call)
{
	struct grpc_server *server = call_server(call);
	struct inflate *in;

	counter_inc(&server->counters.rx_compressed);
	counter_add(&server->counters.rx_compressed_bytes, call->message_bytes);
	if (call->message_bytes == 0) {
		inflate_broken(call);
		return;
	}
	in = http2_engine_alloc(server->engine, sizeof(*in));
	if (in == NULL || call->message_bytes > server->config.compress_memory) {
		http2_engine_free(server->engine, in);
		inflate_abort(call, GRPC_RESOURCE_EXHAUSTED, "no memory for a compressed message");
		return;
	}
	memset(in, 0, sizeof(*in));
	in->job.inflate = true;
	list_init(&in->job.link);
	list_init(&in->wait);
	in->call = call;
	in->bytes = call->message_bytes;
	call->inflate = in;
	server->now_ns = call->conn->now_ns;
	if (list_empty(&server->inflate_wait) && memory_granted(server, in))
		return;
	counter_inc(&server->counters.rx_compressed_waits);
	call->flags |= CALL_WAITING;
	list_add_tail(&server->inflate_wait, &in->wait);
}

static struct hold *chunk_new(struct grpc_server *server, struct inflate *in)
{
	size_t left = in->bytes - in->got;
	size_t bytes =
		left + sizeof(struct hold) < CHUNK_BYTES ? left + sizeof(struct hold) : CHUNK_BYTES;
	struct hold *chunk = http2_engine_alloc(server->engine, bytes);

	if (chunk == NULL)
		return NULL;
	*chunk = (struct hold){.bytes_max = (uint32_t)(bytes - sizeof(*chunk))};
	if (in->last == NULL)
		in->first = chunk;
	else
		in->last->next = chunk;
	in->last = chunk;
	return chunk;
}

static void tail_keep(struct inflate *in, const uint8_t *p, size_t n)
{
	size_t keep = sizeof(in->tail);

	if (n >= keep) {
		memcpy(in->tail, p + n - keep, keep);
		return;
	}
	memmove(in->tail, in->tail + n, keep - n);
	memcpy(in->tail + keep - n, p, n);
}

/* All its bytes are here. */
static void inflate_whole(struct grpc_call *call)
{
	struct grpc_server *server = call_server(call);
	struct inflate *in = call->inflate;

	list_del(&in->wait);
	call->flags &= ~(uint32_t)CALL_IN_MESSAGE;
	call->flags |= CALL_WAITING;
	in->at = in->first;
	in->state = COUNTING;
	if (call->encoding_in == ENCODING_GZIP) {
		in->plain = le32_load(in->tail);
		if (in->bytes < GZIP_MIN) {
			inflate_broken(call);
			return;
		}
		if (in->plain > call->message_bytes_max) {
			counter_inc(&server->counters.rx_inflate_bombs);
			grpc_call_oversize(call, in->plain);
			inflate_abort(call, GRPC_RESOURCE_EXHAUSTED,
				      "a compressed message holds more than the limit");
			return;
		}
		in->state = ROOM;
		grpc_inflate_room(call);
		return;
	}
	list_add_tail(&server->jobs, &in->job.link);
	grpc_inflate_run(server, &in->job);
}

size_t grpc_inflate_feed(struct grpc_call *call, const uint8_t *p, size_t n)
{
	struct inflate *in = call->inflate;
	size_t at = 0;

	if (n > in->bytes - in->got)
		n = in->bytes - in->got;
	while (at < n) {
		struct hold *chunk = in->last;
		size_t part;

		if (chunk == NULL || chunk->end == chunk->bytes_max) {
			chunk = chunk_new(call_server(call), in);
			if (chunk == NULL) {
				inflate_abort(call, GRPC_RESOURCE_EXHAUSTED,
					      "no memory for a compressed message");
				return n;
			}
		}
		part = chunk->bytes_max - chunk->end;
		part = part < n - at ? part : n - at;
		memcpy(chunk->bytes + chunk->end, p + at, part);
		chunk->end += (uint32_t)part;
		in->got += (uint32_t)part;
		at += part;
	}
	tail_keep(in, p, n);
	if (in->got == in->bytes)
		inflate_whole(call);
	return n;
}

unsigned grpc_inflate_retry(struct grpc_server *server)
{
	unsigned n = 0;

	list_for_each_safe (pos, &server->inflate_in) {
		struct inflate *in = list_entry(pos, struct inflate, wait);

		if (server->config.upload_timeout_ns == 0 || server->now_ns < in->due_ns)
			continue;
		counter_inc(&server->counters.rx_compressed_slow);
		inflate_abort(in->call, GRPC_RESOURCE_EXHAUSTED, "the message came too slowly");
		n++;
	}
	while (!list_empty(&server->inflate_wait)) {
		struct inflate *in =
			list_entry(list_first(&server->inflate_wait), struct inflate, wait);

		if (!memory_granted(server, in))
			break;
		grpc_call_go_on(in->call);
		n++;
	}
	return n;
}

/* ---- inflating ------------------------------------------------------------------------------ */

/* Inflate into [dst, dst + room), at most a step, and not past the quantum. Bytes written;
 * *state_out is zlib's last word. */
static size_t inflate_step(struct grpc_server *server, struct inflate *in, uint8_t *dst,
			   size_t room, int *state_out)
{
	z_stream *z = in->slot->z;
	size_t before;

	if (z->avail_in == 0 && in->at != NULL) {
		z->next_in = in->at->bytes;
		z->avail_in = in->at->end;
		in->at = in->at->next;
	}
	room = room < STEP_BYTES ? room : STEP_BYTES;
	room = room <= server->quantum_left ? room : server->quantum_left;
	before = z->avail_in;
	z->next_out = dst;
	z->avail_out = (uInt)room;
	*state_out = inflate(z, Z_NO_FLUSH);
	room -= z->avail_out;
	grpc_zlib_spend(server, room + (before - z->avail_in));
	/* Stuck though there is room and no input left: the stream is cut short. */
	if (*state_out == Z_BUF_ERROR && (z->avail_in > 0 || in->at != NULL))
		*state_out = Z_OK;
	return room;
}

static bool input_over(const struct inflate *in)
{
	return in->slot->z->avail_in == 0 && in->at == NULL;
}

/* Give way to others, or go on now? False: on the list, for another turn. */
static bool slot_ready(struct grpc_server *server, struct inflate *in)
{
	grpc_zlib_spend(server, VISIT_BYTES);
	if (in->slot == NULL)
		in->slot = grpc_inflate_slot(server, in->call->encoding_in);
	if (in->slot != NULL && server->quantum_left > 0)
		return true;
	counter_inc(&server->counters.compress_yields);
	list_add_tail(&server->jobs, &in->job.link);
	return false;
}

static void slot_put(struct inflate *in)
{
	grpc_zlib_put(in->slot);
	in->slot = NULL;
	in->at = in->first;
}

static void count_run(struct grpc_server *server, struct inflate *in)
{
	uint8_t scratch[STEP_BYTES];
	struct grpc_call *call = in->call;

	while (slot_ready(server, in)) {
		int state;
		size_t n = inflate_step(server, in, scratch, sizeof(scratch), &state);

		if (n > call->message_bytes_max - in->plain) {
			counter_inc(&server->counters.rx_inflate_bombs);
			grpc_call_oversize(call, UINT64_MAX);
			inflate_abort(call, GRPC_RESOURCE_EXHAUSTED,
				      "a compressed message holds more than the limit");
			return;
		}
		in->plain += (uint32_t)n;
		if (state == Z_STREAM_END && input_over(in)) {
			slot_put(in);
			in->state = ROOM;
			grpc_inflate_room(call);
			return;
		}
		if (state != Z_OK) {
			inflate_broken(call);
			return;
		}
	}
}

/* It is in call->buf: hand it up, and go on with what came behind it. */
static void inflate_hand_up(struct grpc_call *call)
{
	struct grpc_server *server = call_server(call);
	uint32_t plain = call->inflate->plain;

	grpc_inflate_drop(call);
	counter_add(&server->counters.rx_inflated_bytes, plain);
	call->message_bytes = plain;
	call->flags &= ~(uint32_t)CALL_WAITING;
	call->flags |= CALL_COMPRESSED;
	grpc_message_whole(call);
	call->flags &= ~(uint32_t)CALL_COMPRESSED;
	if (!(call->flags & CALL_FEEDING))
		grpc_call_go_on(call);
}

static void write_run(struct grpc_server *server, struct inflate *in)
{
	struct grpc_call *call = in->call;

	while (slot_ready(server, in)) {
		uint8_t beyond; /* a message that holds more than it said */
		size_t left = in->plain - in->done;
		int state;
		size_t n;

		if (left > 0)
			n = inflate_step(server, in, call->buf + in->done, left, &state);
		else
			n = inflate_step(server, in, &beyond, 1, &state);
		if (n > left || (state != Z_OK && state != Z_STREAM_END) ||
		    (state == Z_STREAM_END && (in->done + n != in->plain || !input_over(in)))) {
			inflate_broken(call);
			return;
		}
		in->done += (uint32_t)n;
		if (state != Z_STREAM_END)
			continue;
		slot_put(in);
		in->state = WHOLE;
		if (!(call->flags & CALL_PAUSED))
			inflate_hand_up(call);
		return;
	}
}

void grpc_inflate_run(struct grpc_server *server, struct zlib_job *job)
{
	struct inflate *in = container_of(job, struct inflate, job);

	list_del(&job->link);
	if (in->state == COUNTING)
		count_run(server, in);
	else
		write_run(server, in);
}

void grpc_inflate_room(struct grpc_call *call)
{
	struct grpc_server *server = call_server(call);
	struct inflate *in = call->inflate;
	int rc;

	if (call->flags & CALL_PAUSED)
		return;
	if (in->state == WHOLE) {
		inflate_hand_up(call);
		return;
	}
	if (in->state != ROOM)
		return;
	call->buf = NULL;
	rc = call->backend->reserve(call->ctx, call, in->plain, &call->buf);
	if (call->inflate != in)
		return; /* finished from inside */
	if (rc < 0) {
		inflate_abort(call, GRPC_RESOURCE_EXHAUSTED, "no room for the message");
		return;
	}
	if (rc > 0)
		return;
	in->state = WRITING;
	write_run(server, in);
}
