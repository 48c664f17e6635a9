/* The streaming half of a fake host: what comes for a call is looked at, credited and given back,
 * and answered within the call's window. Its answers to Bidi say in reply_bytes how long each
 * payload was, so that they are small; that to Client says how long all were together; Server sends
 * `replies` payloads of reply_bytes. */
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "echo.pb-c.h"
#include "tests/worker/harness.h"
#include "tests/worker/harness_internal.h"

typedef Split__Examples__EchoMessage EchoMessage;

/* A place in the ring; the worker takes what is there without anybody's help. NULL: it is gone. */
static struct slot *place(const struct fake_host *h, struct host_lane *lane, bool with_token)
{
	struct slot *out;

	while ((out = host_lane_reserve(lane, with_token)) == NULL && !atomic_load(&h->stop))
		usleep(50);
	return out;
}

static void publish(struct host_lane *lane, struct slot *out, const struct slot *release)
{
	if (release != NULL && (release->flags & SLOT_HAS_TOKEN)) {
		out->flags |= SLOT_RELEASE_REQUEST;
		out->release = release->info;
	}
	host_lane_commit(lane, out);
	host_lane_ring(lane);
}

void host_refuse(struct fake_host *h, struct host_lane *lane, const struct slot *slot)
{
	struct slot *out = place(h, lane, false);

	if (out == NULL)
		return;
	out->kind = TO_DAEMON_REFUSE;
	out->call_id = slot->call_id;
	publish(lane, out, slot);
}

/* ---- what comes ----------------------------------------------------------------------------- */

static struct fake_stream *stream_find(struct fake_host *h, uint64_t id)
{
	for (unsigned i = 0; i < HOST_STREAMS_MAX; i++)
		if (h->streams[i].id == id)
			return &h->streams[i];
	return NULL;
}

static void owe(struct fake_stream *st, uint32_t reply_bytes, unsigned times)
{
	for (unsigned i = 0; i < times && st->owed_n < HOST_OWED_MAX; i++)
		st->owed[(st->owed_first + st->owed_n++) % HOST_OWED_MAX] = reply_bytes;
}

static void message_take(struct fake_host *h, struct fake_stream *st, const struct slot *slot)
{
	const EchoMessage *m = (const EchoMessage *)(uintptr_t)slot->msg;

	atomic_fetch_add(&h->stream_messages, 1);
	for (size_t i = 0; i < m->payload.len; i++)
		if (m->payload.data[i] != pattern(i))
			atomic_fetch_add(&h->bad_bytes, 1);
	st->bytes += m->payload.len;
	if (st->kind == ATTACH_BIDI)
		owe(st, (uint32_t)m->payload.len, 1);
	if (st->kind == ATTACH_SERVER_STREAM)
		owe(st, m->reply_bytes, m->replies);
}

/* The message's blocks go back at once. */
static void release(const struct fake_host *h, struct host_lane *lane, const struct slot *slot)
{
	struct slot *out = (slot->flags & SLOT_HAS_TOKEN) ? place(h, lane, false) : NULL;

	if (out == NULL)
		return;
	out->kind = TO_DAEMON_RELEASE;
	out->info = 1;
	out->inline_bytes = sizeof(out->tokens[0]);
	out->tokens[0] = slot->info;
	publish(lane, out, NULL);
}

static void stream_open(struct fake_host *h, struct host_lane *lane, const struct slot *slot)
{
	struct fake_stream *st = stream_find(h, 0);

	if (!host_lane_claim(lane, slot) || st == NULL) {
		host_refuse(h, lane, slot);
		return;
	}
	atomic_fetch_add(&h->requests, 1);
	*st = (struct fake_stream){
		.id = slot->call_id,
		.lane = lane,
		.kind = (enum attach_kind)slot->method, /* the table is in this order */
		.half = (slot->flags & SLOT_END_STREAM) != 0,
		.window = attachment_stream_window(h->attachment),
	};
	if (slot->flags & SLOT_HAS_MESSAGE)
		message_take(h, st, slot);
	release(h, lane, slot);
}

static void credit(struct fake_host *h, struct fake_stream *st, uint32_t messages)
{
	struct slot *out = place(h, st->lane, false);

	if (out == NULL)
		return;
	out->kind = TO_DAEMON_CREDIT;
	out->call_id = st->id;
	out->info = messages;
	publish(st->lane, out, NULL);
}

bool host_stream_take(struct fake_host *h, struct host_lane *lane, const struct slot *slot)
{
	struct fake_stream *st;

	if (slot->kind == TO_HOST_REQUEST) {
		if (slot->method == ATTACH_UNARY)
			return false;
		stream_open(h, lane, slot);
		return true;
	}
	st = slot->call_id != 0 ? stream_find(h, slot->call_id) : NULL;
	if (st == NULL)
		return false;
	if (slot->kind == TO_HOST_CANCEL) {
		atomic_fetch_add(&h->cancels, 1);
		st->id = 0;
	} else if (slot->kind == TO_HOST_WRITABLE) {
		st->out -= RTE_MIN(WRITABLE_DONE(slot->info), st->out);
		st->window += WRITABLE_MORE(slot->info);
	} else if (slot->kind == TO_HOST_HALF_CLOSE) {
		st->half = true;
	} else if (slot->kind == TO_HOST_MESSAGE) {
		message_take(h, st, slot);
		st->half |= (slot->flags & SLOT_END_STREAM) != 0;
		release(h, lane, slot);
		if (atomic_load(&h->mode) == HOST_HOLD)
			st->withheld++;
		else
			credit(h, st, 1);
	}
	return true;
}

/* ---- what goes ------------------------------------------------------------------------------ */

static struct slot *small_answer(const struct fake_host *h, struct fake_stream *st, uint64_t number)
{
	struct slot *out = place(h, st->lane, false);
	EchoMessage *m;

	if (out == NULL)
		return NULL;
	m = (EchoMessage *)(void *)out->inline_area;
	split__examples__echo_message__init(m);
	m->reply_bytes = (uint32_t)number;
	out->kind = TO_DAEMON_MESSAGE;
	out->flags = SLOT_HAS_MESSAGE | SLOT_INLINE;
	out->inline_bytes = sizeof(*m);
	out->call_id = st->id;
	out->msg = (uint64_t)(uintptr_t)m;
	return out;
}

/* NULL: no memory now. */
static struct slot *large_answer(const struct fake_host *h, struct fake_stream *st, size_t bytes)
{
	struct shepherd_chunk chunk;
	struct slot *out;
	EchoMessage *m;

	if (arena_get(h->arena, 256 + bytes, &chunk) != 0)
		return NULL;
	out = place(h, st->lane, true);
	if (out == NULL)
		return NULL;
	m = (EchoMessage *)(void *)chunk.mem;
	split__examples__echo_message__init(m);
	m->payload.data = chunk.mem + 256;
	m->payload.len = bytes;
	for (size_t i = 0; i < bytes; i++)
		m->payload.data[i] = pattern(i);
	out->kind = TO_DAEMON_MESSAGE;
	out->flags = SLOT_HAS_MESSAGE | SLOT_HAS_TOKEN;
	out->call_id = st->id;
	out->token = (uint64_t)(uintptr_t)chunk.mem;
	out->msg = (uint64_t)(uintptr_t)m;
	return out;
}

static void stream_end(struct fake_host *h, struct fake_stream *st)
{
	struct slot *out;

	if (st->kind == ATTACH_CLIENT_STREAM) {
		out = small_answer(h, st, st->bytes);
		if (out != NULL)
			out->flags |= SLOT_END_STREAM | SLOT_HAS_STATUS;
	} else {
		out = place(h, st->lane, false);
		if (out != NULL) {
			out->kind = TO_DAEMON_STATUS;
			out->flags = SLOT_END_STREAM;
			out->call_id = st->id;
		}
	}
	if (out == NULL)
		return;
	publish(st->lane, out, NULL);
	atomic_fetch_add(&h->stream_ends, 1);
	st->id = 0;
}

void host_streams_run(struct fake_host *h)
{
	for (unsigned i = 0; i < HOST_STREAMS_MAX; i++) {
		struct fake_stream *st = &h->streams[i];

		if (st->id == 0)
			continue;
		if (st->withheld != 0 && atomic_load(&h->mode) != HOST_HOLD) {
			credit(h, st, st->withheld);
			st->withheld = 0;
		}
		while (st->owed_n != 0 && (st->out < st->window || atomic_load(&h->overrun))) {
			uint32_t n = st->owed[st->owed_first];
			struct slot *out = st->kind == ATTACH_SERVER_STREAM
						   ? large_answer(h, st, n)
						   : small_answer(h, st, n);

			if (out == NULL)
				break;
			st->owed_first = (st->owed_first + 1) % HOST_OWED_MAX;
			st->owed_n--;
			st->out++;
			publish(st->lane, out, NULL);
		}
		if (st->half && st->owed_n == 0)
			stream_end(h, st);
	}
}
