/* Compressed messages: kept until whole, then read twice: once for the plain size, so that its room
 * can be asked for, once into the room. One message at a time, a quantum of plain bytes a turn. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "daemon/client/client_internal.h"

/* What inflate takes: 7 KiB and its window of 32 KiB, with alignment and other builds' additions.
 */
#define INFLATE_ARENA (64u * 1024u)
#define SCRATCH_BYTES 8192u

struct inflater {
	z_stream z;
	struct client_call *call; /* whose message z is at; NULL: nobody's */
	const struct hold_block *block;
	uint64_t plain; /* bytes so far */
	bool filling;   /* the second reading */
	size_t arena_used;
	uint8_t scratch[SCRATCH_BYTES];
	_Alignas(64) uint8_t arena[INFLATE_ARENA];
};

static voidpf arena_alloc(voidpf opaque, uInt items, uInt size)
{
	struct inflater *inf = opaque;
	size_t bytes = align_up((size_t)items * size, 16);
	voidpf p = inf->arena + inf->arena_used;

	if (bytes > INFLATE_ARENA - inf->arena_used)
		return Z_NULL;
	inf->arena_used += bytes;
	return p;
}

static void arena_free(voidpf opaque, voidpf p)
{
	(void)opaque;
	(void)p; /* all at once, when the next message begins */
}

int inflater_create(struct inflater **out)
{
	size_t bytes = align_up(sizeof(struct inflater), 64);

	*out = aligned_alloc(64, bytes);
	if (*out == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(*out, 0, bytes);
	return 0;
}

void inflater_destroy(struct inflater *inf)
{
	free(inf);
}

void inflate_begin(struct client_call *call)
{
	list_add_tail(&call->ch->c->inflate_jobs, &call->inflate);
}

void inflate_drop(struct client_call *call)
{
	struct inflater *inf = call->ch->c->inflater;

	list_del(&call->inflate);
	if (inf->call == call)
		inf->call = NULL;
}

static bool reading_begin(struct inflater *inf, struct client_call *call, bool filling)
{
	inf->call = call;
	inf->block = call->packed.first;
	inf->plain = 0;
	inf->filling = filling;
	inf->arena_used = 0;
	memset(&inf->z, 0, sizeof(inf->z));
	inf->z.zalloc = arena_alloc;
	inf->z.zfree = arena_free;
	inf->z.opaque = inf;
	/* 16 more: gzip's format. */
	return inflateInit2(&inf->z, call->encoding_in == IN_GZIP ? MAX_WBITS + 16 : MAX_WBITS) ==
	       Z_OK;
}

static void broken(struct client_call *call, uint32_t status, const char *text)
{
	counter_inc(&call->ch->counters.rx_inflate_errors);
	client_call_fail(call, status, text);
}

/* A step of the reading: Z_OK: more is to come; Z_STREAM_END: it is through; else broken. */
static int reading_step(struct inflater *inf, size_t *quantum)
{
	struct client_call *call = inf->call;
	size_t room = SCRATCH_BYTES, got;
	int r;

	while (inf->z.avail_in == 0 && inf->block != NULL) {
		inf->z.next_in = (z_const Bytef *)inf->block->bytes + inf->block->begin;
		inf->z.avail_in = inf->block->end - inf->block->begin;
		inf->block = inf->block->next;
	}
	inf->z.next_out = inf->scratch;
	if (inf->filling) {
		uint8_t *end = inf->scratch + SCRATCH_BYTES;

		/* One byte of scratch at the end tells a message that is longer this time. */
		room = (size_t)(call->plain_bytes - inf->plain);
		inf->z.next_out = room > 0 ? call->buf + inf->plain : end - 1;
		room = room > 0 ? room : 1;
		room = room < SCRATCH_BYTES ? room : SCRATCH_BYTES;
	}
	inf->z.avail_out = (uInt)room;
	r = inflate(&inf->z, Z_NO_FLUSH);
	got = room - inf->z.avail_out;
	inf->plain += got;
	*quantum -= got + 64 < *quantum ? got + 64 : *quantum;
	if (r == Z_STREAM_END)
		return inf->z.avail_in == 0 && inf->block == NULL ? Z_STREAM_END : Z_DATA_ERROR;
	if (r == Z_BUF_ERROR || (r == Z_OK && got == 0 && inf->z.avail_in == 0))
		return inf->block != NULL ? Z_OK : Z_DATA_ERROR; /* cut short */
	return r;
}

static void filled(struct inflater *inf, struct client_call *call)
{
	list_del(&call->inflate);
	inf->call = NULL;
	hold_drop(call->ch->c, &call->packed);
	message_deliver(call, call->plain_bytes);
}

/* The size is known: room for it, then the second reading. */
static void fill_begin(struct inflater *inf, struct client_call *call)
{
	inf->call = NULL;
	if (!message_room(call, call->plain_bytes)) {
		list_del(&call->inflate); /* message_go_on brings it back */
		return;
	}
	if (!reading_begin(inf, call, true))
		broken(call, GRPC_INTERNAL, "no memory to inflate a message");
}

static void job_run(struct client *c, struct client_call *call, size_t *quantum)
{
	struct inflater *inf = c->inflater;
	int r;

	if (inf->call != call && (call->flags & CALL_PLAIN_KNOWN)) {
		fill_begin(inf, call);
		return;
	}
	if (inf->call != call && !reading_begin(inf, call, false)) {
		broken(call, GRPC_INTERNAL, "no memory to inflate a message");
		return;
	}
	do {
		r = reading_step(inf, quantum);
		if (!inf->filling && inf->plain > call->message_bytes_max) {
			broken(call, GRPC_RESOURCE_EXHAUSTED,
			       "the server's message is too large when inflated");
			return;
		}
	} while (r == Z_OK && *quantum > 0);
	if (r == Z_OK)
		return;
	if (r != Z_STREAM_END || (inf->filling && inf->plain != call->plain_bytes)) {
		broken(call, GRPC_INTERNAL, "the server's compressed message is broken");
	} else if (inf->filling) {
		filled(inf, call);
	} else {
		call->plain_bytes = (uint32_t)inf->plain;
		call->flags |= CALL_PLAIN_KNOWN;
		fill_begin(inf, call);
	}
}

void inflate_run(struct client *c)
{
	size_t quantum = INFLATE_QUANTUM;
	struct list *node;

	while (quantum > 0 && (node = list_first(&c->inflate_jobs)) != NULL) {
		struct client_call *call = list_entry(node, struct client_call, inflate);

		call_enter(call);
		job_run(c, call, &quantum);
		if (list_empty(&call->inflate))
			message_go_on(call);
		call_leave(call);
		quantum -= quantum > 0;
	}
}
