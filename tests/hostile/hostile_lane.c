/* Requests taken and answered, each mode in its own way. */
#include "tests/hostile/hostile.h"

#include <string.h>
#include <unistd.h>

struct answer {
	struct slot *slot;
	struct shepherd_chunk block;
};

/* ---- addresses that are not its own --------------------------------------------------------- */

static uint64_t foreign_address(struct hostile *x)
{
	const struct attachment *a = x->a;
	uint64_t own = (uint64_t)(uintptr_t)a->to_daemon.mem;
	uint64_t r = random_next(&x->rng);

	switch (r % 10) {
	case 0: /* just before the arena, just behind, at its last byte */
		return own + a->geometry.to_daemon_arena_offset - 1 - r % 64;
	case 1:
		return own + a->to_daemon.bytes - (r >> 8) % 9;
	case 2: /* the daemon's usual places: heap, DPDK's memory, stack, vsyscall */
		return 0x555555554000ull + ((r >> 8) & 0xffffff);
	case 3:
		return 0x100000000ull + ((r >> 8) & 0xffffffff);
	case 4:
		return 0x7fff00000000ull + ((r >> 8) & 0xffffffff);
	case 5:
		return 0xffffffffff600000ull;
	case 6: /* the to-host segment, where it has it */
		return (uint64_t)(uintptr_t)a->to_host.mem + (r >> 8) % a->to_host.bytes;
	case 7: /* wraps */
		return UINT64_MAX - (r >> 8) % 4096;
	case 8: /* its own rings and lines */
		return own + (r >> 8) % a->geometry.to_daemon_arena_offset;
	default:
		return r;
	}
}

/* ---- one answer ----------------------------------------------------------------------------- */

/* A message in the arena, of a payload up to 64 KiB; the struct first. 0: no room. */
static uint64_t message_make(struct hostile *x, struct shepherd_chunk *block, size_t payload)
{
	Split__Examples__EchoMessage *m;

	if (arena_get(x->arena, sizeof(*m) + payload, block) < 0)
		return 0;
	m = (Split__Examples__EchoMessage *)(void *)block->mem;
	split__examples__echo_message__init(m);
	m->payload.len = payload;
	m->payload.data = block->mem + sizeof(*m);
	if (x->mode == MODE_POINT) {
		m->payload.data = (uint8_t *)(uintptr_t)foreign_address(x);
		if (random_below(&x->rng, 4) == 0)
			m->payload.len = (size_t)random_next(&x->rng);
		if (random_below(&x->rng, 4) == 0)
			m->base.n_unknown_fields = (unsigned)random_next(&x->rng);
		m->base.unknown_fields =
			(ProtobufCMessageUnknownField *)(uintptr_t)foreign_address(x);
		m->base.descriptor =
			(const ProtobufCMessageDescriptor *)(uintptr_t)foreign_address(x);
	}
	return (uint64_t)(uintptr_t)m;
}

static struct slot *reserve(struct hostile *x, struct host_lane *lane, bool token)
{
	struct slot *s;

	for (int i = 0; i < 2000; i++) {
		s = host_lane_reserve(lane, token);
		if (s != NULL || hostile_over(x) || !attachment_alive(x->a))
			return s;
		if (x->mode != MODE_EVENTFD)
			host_lane_ring(lane);
		usleep(100);
	}
	return NULL;
}

static uint64_t bomb_in_arena(struct hostile *x, struct shepherd_chunk *block)
{
	if (arena_get(x->arena, bomb_bytes(x->bomb), block) < 0)
		return 0;
	bomb_make(x->bomb, block->mem);
	return (uint64_t)(uintptr_t)block->mem;
}

/* The answer as encoded bytes: some are, some are noise; as many as it has, or more than may be
 * sent; wild: of places that are not its own, or in forms that there are not. */
static void wire_make(struct hostile *x, struct slot *s)
{
	struct shepherd_chunk arena = attachment_arena(x->a);
	bool wild = x->mode == MODE_WIRE_WILD && random_below(&x->rng, 4) == 0;

	s->form = SLOT_FORM_WIRE;
	switch (random_below(&x->rng, 5)) {
	case 0: /* in the slot */
		s->flags |= SLOT_INLINE;
		s->inline_bytes = (uint8_t)random_below(&x->rng, SLOT_INLINE_BYTES + 1);
		break;
	case 1: /* all that it has */
		s->msg = (uint64_t)(uintptr_t)arena.mem;
		s->msg_bytes = (uint32_t)arena.bytes;
		break;
	case 2: /* up to its last byte */
		s->msg_bytes = (uint32_t)random_below(&x->rng, 200000);
		s->msg = (uint64_t)(uintptr_t)(arena.mem + arena.bytes - s->msg_bytes - 1);
		break;
	case 3: /* it could not decode the request */
		s->kind = TO_DAEMON_STATUS;
		s->form = SLOT_FORM_UNDECODED;
		s->flags &= (uint8_t) ~(SLOT_HAS_MESSAGE);
		s->info = random_below(&x->rng, 17);
		break;
	default:
		break;
	}
	if (!wild)
		return;
	if (random_below(&x->rng, 3) == 0)
		s->form = (uint8_t)random_next(&x->rng);
	else
		s->msg_bytes = (uint32_t)random_next(&x->rng);
	if (random_below(&x->rng, 2) == 0)
		s->msg = foreign_address(x);
}

static void message(struct hostile *x, struct host_lane *lane, uint64_t call_id, uint64_t release,
		    bool status)
{
	size_t payload =
		(size_t)random_below(&x->rng, x->mode == MODE_SCRIBBLE_ARENA ? 65536 : 3000);
	struct shepherd_chunk block = {0};
	uint64_t msg =
		x->mode == MODE_BOMB ? bomb_in_arena(x, &block) : message_make(x, &block, payload);
	struct slot *s = reserve(x, lane, msg != 0);

	if (s == NULL) {
		if (msg != 0)
			(void)arena_put(x->arena, block.mem);
		return;
	}
	s->kind = TO_DAEMON_MESSAGE;
	s->flags = status ? SLOT_HAS_STATUS | SLOT_END_STREAM : 0;
	s->call_id = call_id;
	if (release != 0) {
		s->flags |= SLOT_RELEASE_REQUEST;
		s->release = release;
	}
	if (msg == 0) {
		s->kind = TO_DAEMON_STATUS;
		s->info = 8; /* RESOURCE_EXHAUSTED */
	} else {
		s->flags |= SLOT_HAS_MESSAGE | SLOT_HAS_TOKEN | SLOT_EXTRA;
		s->msg = msg;
		s->msg_bytes = (uint32_t)payload;
		s->token = (uint64_t)(block.mem - x->a->to_daemon.mem);
	}
	if ((x->mode == MODE_WIRE || x->mode == MODE_WIRE_WILD) && msg != 0)
		wire_make(x, s);
	if (x->mode == MODE_POINT_SLOT && random_below(&x->rng, 4) == 0) {
		uint64_t *words[] = {&s->msg, &s->metadata, &s->text};

		s->flags |= SLOT_EXTRA;
		*words[random_below(&x->rng, 3)] = foreign_address(x);
		s->text_bytes = (uint32_t)random_next(&x->rng);
	}
	host_lane_commit(lane, s);
	x->counts->answers++;
}

static void answer(struct hostile *x, struct host_lane *lane, uint64_t call_id, uint64_t release)
{
	message(x, lane, call_id, release, true);
}

/* CREDIT, WANT: what has no message. */
static void say(struct hostile *x, struct host_lane *lane, uint64_t call_id, enum slot_kind kind,
		uint64_t info)
{
	struct slot *s = reserve(x, lane, false);

	if (s == NULL)
		return;
	s->kind = (uint8_t)kind;
	s->call_id = call_id;
	s->info = info;
	host_lane_commit(lane, s);
}

static void release_batch(struct hostile *x, struct host_lane *lane, const uint64_t *tokens,
			  unsigned n)
{
	struct slot *s = reserve(x, lane, false);

	if (s == NULL)
		return;
	s->kind = TO_DAEMON_RELEASE;
	s->info = n;
	s->inline_bytes = (uint8_t)(n * 8);
	memcpy(s->tokens, tokens, n * sizeof(tokens[0]));
	host_lane_commit(lane, s);
}

/* ---- calls out ------------------------------------------------------------------------------ */

static uint64_t out_id(struct hostile *x, unsigned place)
{
	return (uint64_t)++x->out_generation << 32 | SLOT_OUT | place;
}

/* Of itself or of Echo, made for `parent`, with a message in the arena. */
static void call_out(struct hostile *x, struct host_lane *lane, unsigned h, uint64_t parent)
{
	struct shepherd_chunk block = {0};
	uint64_t r = random_next(&x->rng), msg, id;
	unsigned place = (unsigned)(r % HOSTILE_OUTS);
	struct slot *s;

	if (place >= attachment_outs_max(x->a) || (x->out_open[place] && x->mode == MODE_CALL_OUT))
		return;
	msg = message_make(x, &block, (r >> 8) % 3000);
	s = msg != 0 ? reserve(x, lane, true) : NULL;
	if (s == NULL) {
		if (msg != 0)
			(void)arena_put(x->arena, block.mem);
		return;
	}
	id = out_id(x, place);
	x->out_open[place] = 1;
	s->kind = TO_DAEMON_CALL;
	s->flags = SLOT_EXTRA | SLOT_HAS_MESSAGE | SLOT_HAS_TOKEN | SLOT_END_STREAM;
	s->call_id = id;
	s->method = 1 + (r >> 32 & 1);
	s->home = h;
	s->info = (r >> 33 & 3) == 0 ? r : parent;
	s->deadline_ns = (r >> 35 & 3) == 0 ? r : 0;
	s->msg = msg;
	s->token = (uint64_t)(block.mem - x->a->to_daemon.mem);
	s->out_code = random_next(&x->rng);
	s->out_data = random_next(&x->rng);
	if (x->mode == MODE_CALL_OUT_WILD) {
		uint64_t *words[] = {&s->msg, &s->metadata, &s->call_id, &s->text};

		if (r >> 40 & 1)
			*words[r >> 41 & 3] = foreign_address(x);
		else if (r >> 43 & 1)
			s->method = (uint32_t)(r >> 44);
		else
			s->home = (uint32_t)(r >> 44);
	}
	host_lane_commit(lane, s);
	/* More than there is to say of it, and of others. */
	for (unsigned i = 0; i < (r >> 48) % 6; i++) {
		static const uint8_t kinds[] = {TO_DAEMON_ABANDON, TO_DAEMON_HALF_CLOSE,
						TO_DAEMON_CREDIT, TO_DAEMON_WANT};
		uint64_t q = random_next(&x->rng);

		say(x, lane, (q & 3) != 0 ? id : id - ((q >> 8) % 4 << 32), kinds[q >> 16 & 3], q);
	}
	if ((r >> 56 & 7) == 0)
		message(x, lane, id, 0, false); /* a second request of a unary call */
}

static void out_taken(struct hostile *x, const struct slot *slot)
{
	unsigned place = (unsigned)(slot->call_id & SLOT_OUT_INDEX);

	if ((slot->call_id & SLOT_OUT) != 0 && (slot->flags & SLOT_HAS_STATUS) != 0 &&
	    place < HOSTILE_OUTS)
		x->out_open[place] = 0;
}

/* ---- requests ------------------------------------------------------------------------------- */

static void remember(struct hostile *x, uint64_t call_id, uint64_t token)
{
	unsigned at = x->stale_n++ % STALE_MAX;

	x->stale[at] = call_id;
	x->stale_tokens[at] = token;
}

static uint64_t stale_id(struct hostile *x, uint64_t call_id)
{
	uint64_t r = random_next(&x->rng);
	unsigned known = x->stale_n < STALE_MAX ? x->stale_n : STALE_MAX;

	switch (r % 5) {
	case 0:
		return call_id + (1ull << 32);
	case 1:
		return call_id - (1ull << 32);
	case 2: /* another index, of a call that may well be open */
		return (call_id & ~0xffffffull) | (r >> 8) % 1024;
	case 3:
		return known == 0 ? r : x->stale[(r >> 8) % known];
	default:
		return call_id ^ (r & 0xff000000);
	}
}

static void request_serve(struct hostile *x, struct host_lane *lane, unsigned h,
			  const struct slot *slot)
{
	uint64_t call_id = slot->call_id;
	uint64_t release = slot->flags & SLOT_HAS_TOKEN ? slot->info : 0;
	uint64_t tokens[SLOT_TOKENS_MAX];

	x->counts->requests++;
	if (x->mode == MODE_BOMB && slot->flags & SLOT_HAS_MESSAGE)
		x->bomb = bomb_kind((const void *)(uintptr_t)slot->msg);
	remember(x, call_id, release);
	switch (x->mode) {
	case MODE_CALL_OUT:
	case MODE_CALL_OUT_WILD:
		for (unsigned i = 0; i < 4; i++)
			call_out(x, lane, h, call_id);
		if (random_below(&x->rng, 4) != 0)
			answer(x, lane, call_id, release);
		break;
	case MODE_NEVER_RELEASE:
		answer(x, lane, call_id, 0);
		break;
	case MODE_RELEASE_TWICE:
		answer(x, lane, call_id, release);
		for (unsigned i = 0; i < SLOT_TOKENS_MAX; i++)
			tokens[i] = i % 4 == 0 ? random_next(&x->rng)
					       : x->stale_tokens[random_below(&x->rng, STALE_MAX)];
		tokens[0] = release;
		release_batch(x, lane, tokens, SLOT_TOKENS_MAX);
		break;
	case MODE_ANSWER_TWICE:
		answer(x, lane, call_id, release);
		answer(x, lane, call_id, release);
		if (random_below(&x->rng, 2) == 0)
			answer(x, attachment_foreign(x->a, attachment_call_worker(call_id)),
			       call_id, 0);
		break;
	case MODE_STALE:
		for (unsigned i = 0; i < 4; i++)
			answer(x, lane, stale_id(x, call_id), 0);
		answer(x, lane, call_id, release);
		break;
	case MODE_STALL:
		break; /* taken, and that is all */
	case MODE_STREAM_FLOOD:
		for (unsigned i = 0; i < 3 * SHEPHERD_STREAM_WINDOW_MAX; i++)
			message(x, lane, call_id, i == 0 ? release : 0, false);
		answer(x, lane, call_id, 0);
		break;
	case MODE_STREAM_AFTER:
		message(x, lane, call_id, release, false);
		answer(x, lane, call_id, 0);
		message(x, lane, call_id, 0, false);
		say(x, lane, call_id, TO_DAEMON_CREDIT, 5);
		say(x, attachment_foreign(x->a, attachment_call_worker(call_id)), call_id,
		    TO_DAEMON_WANT, 0);
		answer(x, lane, call_id, 0);
		break;
	case MODE_STREAM_CREDIT:
		for (unsigned i = 0; i < 4; i++)
			say(x, lane, call_id, TO_DAEMON_CREDIT, UINT64_MAX >> (i * 16));
		message(x, lane, call_id, 0, false);
		if (random_below(&x->rng, 2) == 0)
			answer(x, lane, call_id, release);
		break;
	case MODE_STREAM_WANT:
		for (unsigned i = 0; i < 64; i++)
			say(x, lane, call_id, TO_DAEMON_WANT, i);
		message(x, lane, call_id, 0, false);
		break;
	default:
		answer(x, lane, call_id, release);
	}
}

unsigned hostile_serve(struct hostile *x, unsigned d, unsigned h)
{
	struct host_lane *lane = attachment_lane(x->a, d, h);
	uint64_t tokens[SLOT_TOKENS_MAX];
	const struct slot *slot;
	unsigned n = 0;

	if (x->mode == MODE_STALL && x->gentle)
		return 0; /* not even taken */
	while (n < 16 && (slot = host_lane_peek(lane)) != NULL) {
		if (slot->kind == TO_HOST_REQUEST) {
			if (host_lane_claim(lane, slot))
				request_serve(x, lane, h, slot);
		} else if (slot->kind == TO_HOST_MESSAGE && x->mode != MODE_STREAM_CREDIT &&
			   (slot->flags & SLOT_HAS_TOKEN) != 0) {
			out_taken(x, slot);
			tokens[0] = slot->info;
			release_batch(x, lane, tokens, 1);
		} else if (slot->call_id & SLOT_OUT) {
			out_taken(x, slot);
			tokens[0] = slot->info;
			if (slot->flags & SLOT_HAS_TOKEN)
				release_batch(x, lane, tokens, 1);
		} else if (slot->kind == TO_HOST_RELEASE) {
			unsigned tokens_n = host_lane_released(lane, slot, tokens);

			for (unsigned i = 0; i < tokens_n; i++)
				(void)arena_put(x->arena, x->a->to_daemon.mem + tokens[i]);
		}
		host_lane_advance(lane);
		n++;
	}
	/* Full and blocking by its own doing, the eventfd would hold it up. */
	if (n != 0 && x->mode != MODE_EVENTFD)
		host_lane_ring(lane);
	return n;
}
