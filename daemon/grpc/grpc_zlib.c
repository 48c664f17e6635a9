/* What compression shares: zlib's state in memory taken at start, the turn's quantum, the names.
 *
 * zlib asks for its memory when a stream begins (and once more, for the window, when an inflate
 * first needs it). Each slot has an arena large enough for all of that, so beginning a message
 * takes nothing from anybody and forgetting one is a flag. A job that finds no slot free keeps its
 * place in the round; whoever has one is on the same round and gives it back after bounded work. */
#include "daemon/grpc/grpc_internal.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* zlib's zconf.h: inflate takes 7 KiB and its window of 32 KiB, deflate (1 << (15 + 2)) + (1 << (8
 * + 9)) and some. With what the arena's alignment and other builds of zlib add. */
#define INFLATE_ARENA (64u * 1024u)
#define DEFLATE_ARENA (352u * 1024u)

static voidpf slot_alloc(voidpf opaque, uInt items, uInt size)
{
	struct zlib_slot *slot = opaque;
	size_t bytes = align_up((size_t)items * size, 16);
	voidpf p = slot->arena + slot->arena_used;

	if (bytes > slot->arena_bytes - slot->arena_used)
		return Z_NULL;
	slot->arena_used += bytes;
	return p;
}

static void slot_free(voidpf opaque, voidpf p)
{
	(void)opaque;
	(void)p; /* all at once, when the next message begins */
}

static struct zlib_slot *slots_create(unsigned n, size_t arena_bytes)
{
	struct zlib_slot *slots = calloc(n, sizeof(*slots));

	for (unsigned i = 0; slots != NULL && i < n; i++) {
		slots[i].z = calloc(1, sizeof(*slots[i].z));
		slots[i].arena = aligned_alloc(64, arena_bytes);
		slots[i].arena_bytes = arena_bytes;
	}
	return slots;
}

static void slots_destroy(struct zlib_slot *slots, unsigned n)
{
	for (unsigned i = 0; slots != NULL && i < n; i++) {
		free(slots[i].z);
		free(slots[i].arena);
	}
	free(slots);
}

static bool slots_whole(const struct zlib_slot *slots, unsigned n)
{
	for (unsigned i = 0; slots != NULL && i < n; i++)
		if (slots[i].z == NULL || slots[i].arena == NULL)
			return false;
	return slots != NULL;
}

int grpc_zlib_init(struct grpc_server *s)
{
	list_init(&s->jobs);
	list_init(&s->inflate_wait);
	list_init(&s->inflate_in);
	s->quantum_left = s->config.compress_quantum;
	s->inflates = slots_create(ZLIB_INFLATES, INFLATE_ARENA);
	s->deflates = slots_create(ZLIB_DEFLATES, DEFLATE_ARENA);
	if (!slots_whole(s->inflates, ZLIB_INFLATES) || !slots_whole(s->deflates, ZLIB_DEFLATES))
		return -SPLIT_E_BASE_NOMEM;
	return 0;
}

void grpc_zlib_fini(struct grpc_server *s)
{
	slots_destroy(s->inflates, ZLIB_INFLATES);
	slots_destroy(s->deflates, ZLIB_DEFLATES);
}

static struct zlib_slot *slot_get(struct zlib_slot *slots, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct zlib_slot *slot = &slots[i];

		if (slot->busy)
			continue;
		memset(slot->z, 0, sizeof(*slot->z));
		slot->z->zalloc = slot_alloc;
		slot->z->zfree = slot_free;
		slot->z->opaque = slot;
		slot->arena_used = 0;
		slot->busy = true;
		return slot;
	}
	return NULL;
}

/* windowBits: 8..15, zlib's own format; 16 more: gzip's. */
static int window_bits(enum encoding encoding)
{
	return encoding == ENCODING_GZIP ? MAX_WBITS + 16 : MAX_WBITS;
}

struct zlib_slot *grpc_inflate_slot(struct grpc_server *s, enum encoding encoding)
{
	struct zlib_slot *slot = slot_get(s->inflates, ZLIB_INFLATES);

	if (slot != NULL && inflateInit2(slot->z, window_bits(encoding)) != Z_OK) {
		slot->busy = false;
		return NULL;
	}
	return slot;
}

struct zlib_slot *grpc_deflate_slot(struct grpc_server *s, enum encoding encoding)
{
	struct zlib_slot *slot = slot_get(s->deflates, ZLIB_DEFLATES);

	if (slot != NULL && deflateInit2(slot->z, (int)s->config.compress_level, Z_DEFLATED,
					 window_bits(encoding), 8, Z_DEFAULT_STRATEGY) != Z_OK) {
		slot->busy = false;
		return NULL;
	}
	return slot;
}

enum encoding grpc_encoding_named(const char *name, size_t n)
{
	if (n == 8 && memcmp(name, "identity", 8) == 0)
		return ENCODING_IDENTITY;
	if (n == 4 && memcmp(name, "gzip", 4) == 0)
		return ENCODING_GZIP;
	if (n == 7 && memcmp(name, "deflate", 7) == 0)
		return ENCODING_DEFLATE;
	return ENCODING_UNKNOWN;
}

enum encoding grpc_encoding_choose(const char *list, size_t n)
{
	enum encoding best = ENCODING_IDENTITY;

	while (n > 0) {
		const char *comma = memchr(list, ',', n);
		size_t part = comma != NULL ? (size_t)(comma - list) : n;
		size_t begin = 0, end = part;
		enum encoding found;

		while (begin < end && (list[begin] == ' ' || list[begin] == '\t'))
			begin++;
		while (end > begin && (list[end - 1] == ' ' || list[end - 1] == '\t'))
			end--;
		found = grpc_encoding_named(list + begin, end - begin);
		if (found != ENCODING_UNKNOWN && found > best)
			best = found;
		if (comma == NULL)
			break;
		list += part + 1;
		n -= part + 1;
	}
	return best;
}

unsigned grpc_server_run(struct grpc_server *s, uint64_t now_ns)
{
	unsigned n = 0;

	s->now_ns = now_ns;
	s->quantum_left = s->config.compress_quantum;
	if (unlikely(!list_empty(&s->inflate_wait)))
		n += grpc_inflate_retry(s);
	if (likely(list_empty(&s->jobs)))
		return n;
	while (s->quantum_left > 0) {
		struct list *node = list_pop_head(&s->jobs);
		struct zlib_job *job;

		if (node == NULL)
			break;
		job = list_entry(node, struct zlib_job, link);
		n++;
		if (job->inflate)
			grpc_inflate_run(s, job);
		else
			grpc_deflate_run(s, job);
	}
	return n;
}
