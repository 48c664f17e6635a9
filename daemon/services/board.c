/* The board: what each worker writes of its connections, for the channelz of all.
 *
 * A worker's part has a slot for each connection. `ids[slot]` is 0 while the slot is free; it is
 * written last when a connection comes and first when it goes, so a reader that finds the same id
 * before and after its copy has copied one connection (a sequence lock whose sequence is the id).
 * Everything is copied by relaxed 8-byte words.
 *
 * Ids: worker and slot in the upper half, so that a list in the order of ids can be gone through
 * from any place of it, and the count of the slot's connections in the lower.
 */
#include "daemon/services/services_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define WORKERS_MAX 64u
#define SLOTS_SHIFT 20u
#define SLOTS_MAX   (1u << SLOTS_SHIFT)

_Static_assert(sizeof(struct services_socket) % sizeof(uint64_t) == 0, "copied by words");

struct part {
	const struct grpc_server *grpc; /* NULL: the worker is not there */
	uint32_t slots_used;            /* those from there on are free */
	uint32_t free_n;
	uint32_t *free; /* the worker's own */
	uint64_t *ids;
	struct services_socket *sockets;
} cache_aligned;

struct services_board {
	unsigned parts_n;
	uint32_t slots_n;
	uint64_t created_ns;
	struct services_listener *listeners;
	uint32_t listeners_n;
	struct part parts[WORKERS_MAX];
};

static void words_store(void *to, const void *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, (const uint8_t *)from + i, sizeof(word));
		__atomic_store_n((uint64_t *)(void *)((uint8_t *)to + i), word, __ATOMIC_RELAXED);
	}
}

static void words_load(void *to, const void *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
		uint64_t word =
			__atomic_load_n((const uint64_t *)(const void *)((const uint8_t *)from + i),
					__ATOMIC_RELAXED);

		memcpy((uint8_t *)to + i, &word, sizeof(word));
	}
}

/* ---- life ----------------------------------------------------------------------------------- */

static int part_init(struct part *p, uint32_t slots)
{
	p->free = malloc(slots * sizeof(*p->free));
	p->ids = calloc(slots, sizeof(*p->ids));
	p->sockets = calloc(slots, sizeof(*p->sockets));
	if (p->free == NULL || p->ids == NULL || p->sockets == NULL)
		return -SPLIT_E_BASE_NOMEM;
	/* The lowest first: what is used stays together. */
	for (uint32_t i = 0; i < slots; i++)
		p->free[p->free_n++] = slots - 1 - i;
	return 0;
}

int services_board_create(const struct services_board_config *config,
			  struct services_board **board_out)
{
	struct services_board *b;
	int err = 0;

	*board_out = NULL;
	if (config->workers_n == 0 || config->workers_n > WORKERS_MAX || config->sockets_max == 0 ||
	    config->sockets_max > SLOTS_MAX)
		return -SPLIT_E_BASE_INVALID;
	b = aligned_alloc(BITS_CACHE_LINE, align_up(sizeof(*b), BITS_CACHE_LINE));
	if (b == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(b, 0, sizeof(*b));
	b->slots_n = config->sockets_max;
	b->created_ns = clock_ns();
	b->listeners_n = config->listeners_n;
	b->listeners = calloc(config->listeners_n + 1, sizeof(*b->listeners));
	if (b->listeners == NULL)
		err = -SPLIT_E_BASE_NOMEM;
	else if (config->listeners_n > 0)
		memcpy(b->listeners, config->listeners,
		       config->listeners_n * sizeof(*b->listeners));
	while (err == 0 && b->parts_n < config->workers_n)
		err = part_init(&b->parts[b->parts_n++], config->sockets_max);
	if (err != 0) {
		services_board_destroy(b);
		return err;
	}
	*board_out = b;
	return 0;
}

void services_board_destroy(struct services_board *b)
{
	if (b == NULL)
		return;
	for (unsigned i = 0; i < b->parts_n; i++) {
		free(b->parts[i].sockets);
		free(b->parts[i].ids);
		free(b->parts[i].free);
	}
	free(b->listeners);
	free(b);
}

void board_worker_set(struct services_board *b, unsigned worker, const struct grpc_server *grpc)
{
	__atomic_store_n(&b->parts[worker].grpc, grpc, __ATOMIC_RELEASE);
}

/* ---- the worker's side ---------------------------------------------------------------------- */

struct services_socket *services_socket_open(struct services *s,
					     const struct services_address *local,
					     const struct services_address *remote,
					     const char *cipher)
{
	struct services_board *b = s->config.board;
	struct part *p = &b->parts[s->config.worker];
	struct services_socket fresh;
	uint64_t place;
	uint32_t slot;

	if (p->free_n == 0)
		return NULL;
	slot = p->free[--p->free_n];
	memset(&fresh, 0, sizeof(fresh));
	fresh.cipher = cipher;
	fresh.local = *local;
	fresh.remote = *remote;
	/* Who copies the slot must see that its id has gone before what comes now. */
	__atomic_thread_fence(__ATOMIC_RELEASE);
	words_store(&p->sockets[slot], &fresh, sizeof(fresh));
	if (slot >= p->slots_used)
		__atomic_store_n(&p->slots_used, slot + 1, __ATOMIC_RELAXED);
	place = ((uint64_t)s->config.worker << SLOTS_SHIFT | slot) + 1;
	s->sockets_made++;
	if ((uint32_t)s->sockets_made == 0)
		s->sockets_made++;
	__atomic_store_n(&p->ids[slot], place << 32 | (uint32_t)s->sockets_made, __ATOMIC_RELEASE);
	return &p->sockets[slot];
}

void services_socket_close(struct services *s, struct services_socket *socket)
{
	struct part *p = &s->config.board->parts[s->config.worker];
	uint32_t slot, used = p->slots_used;

	if (socket == NULL)
		return;
	slot = (uint32_t)(socket - p->sockets);
	__atomic_store_n(&p->ids[slot], 0, __ATOMIC_RELAXED);
	p->free[p->free_n++] = slot;
	while (used > 0 && p->ids[used - 1] == 0)
		used--;
	__atomic_store_n(&p->slots_used, used, __ATOMIC_RELAXED);
}

/* ---- everybody's side ----------------------------------------------------------------------- */

void board_calls(const struct services_board *b, struct board_calls *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < b->parts_n; i++) {
		const struct grpc_server *grpc =
			__atomic_load_n(&b->parts[i].grpc, __ATOMIC_ACQUIRE);
		const struct grpc_counters *c;
		uint64_t last_ns;

		if (grpc == NULL)
			continue;
		c = grpc_server_counters(grpc);
		out->started += counter_get(&c->calls);
		out->succeeded += counter_get(&c->calls_ok);
		out->failed += counter_get(&c->calls_failed) + counter_get(&c->calls_cancelled);
		last_ns = grpc_server_call_ns(grpc);
		if (last_ns > out->last_ns)
			out->last_ns = last_ns;
	}
}

uint64_t board_socket_from(const struct services_board *b, uint64_t from)
{
	uint64_t place = from >> 32;
	unsigned part = place == 0 ? 0 : (unsigned)((place - 1) >> SLOTS_SHIFT);
	uint32_t slot = place == 0 ? 0 : (uint32_t)((place - 1) & (SLOTS_MAX - 1));

	for (; part < b->parts_n; part++, slot = 0) {
		const struct part *p = &b->parts[part];
		uint32_t used = __atomic_load_n(&p->slots_used, __ATOMIC_RELAXED);

		for (; slot < used; slot++) {
			uint64_t id = counter_get(&p->ids[slot]);

			if (id != 0 && id >= from)
				return id;
		}
	}
	return 0;
}

bool board_socket_read(const struct services_board *b, uint64_t id, struct services_socket *out)
{
	uint64_t place = id >> 32;
	unsigned part = (unsigned)((place - 1) >> SLOTS_SHIFT);
	uint32_t slot = (uint32_t)((place - 1) & (SLOTS_MAX - 1));
	const struct part *p;

	if (place == 0 || part >= b->parts_n || slot >= b->slots_n)
		return false;
	p = &b->parts[part];
	if (__atomic_load_n(&p->ids[slot], __ATOMIC_ACQUIRE) != id)
		return false;
	words_load(out, &p->sockets[slot], sizeof(*out));
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return counter_get(&p->ids[slot]) == id;
}

size_t board_listeners(const struct services_board *b, const struct services_listener **list_out)
{
	*list_out = b->listeners;
	return b->listeners_n;
}

uint64_t board_created_ns(const struct services_board *b)
{
	return b->created_ns;
}
