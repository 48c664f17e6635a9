/* The host's side of lanes, what host_lane.h has not, and its park. */
#include "shepherd/shepherd_internal.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* <linux/futex.h> of older kernels lacks it. */
struct wait_entry {
	uint64_t val;
	uint64_t uaddr;
	uint32_t flags;
	uint32_t reserved;
};
#define WAIT_SIZE_U32 2u
#define WAIT_PRIVATE  128u

/* Without futex_waitv only one word can be waited for; the other is looked at this often. */
#define PARK_FALLBACK_NS 1000000ull

static void *line_calloc(size_t n, size_t bytes)
{
	void *p = aligned_alloc(SHEPHERD_LINE, n * bytes);

	if (p != NULL)
		memset(p, 0, n * bytes);
	return p;
}

static void lane_wire(struct attachment *a, unsigned d, unsigned h, struct host_lane *l)
{
	const struct geometry *g = &a->geometry;
	bool foreign = h == g->host_workers;
	size_t index = (size_t)(l - a->lanes);

	l->attachment = a;
	l->daemon_worker = d;
	l->revocable = g->revocable != 0;
	l->tokens_max = g->tokens_max;
	l->peer = &a->peers[d];
	l->sleep = (const struct daemon_sleep *)(a->to_host.mem + g->daemon_sleep_offset) + d;
	l->host_line = (struct host_line *)(a->to_daemon.mem + g->host_line_offset) + index;
	l->daemon_line =
		(const struct daemon_line *)(a->to_host.mem + g->daemon_line_offset) + index;
	l->completions = (struct slot *)(a->to_daemon.mem + geometry_completion_offset(g, d, h));
	l->completion_slots = foreign ? g->foreign_slots : g->completion_slots;
	if (!foreign) {
		l->requests =
			(const struct slot *)(a->to_host.mem + geometry_request_offset(g, d, h));
		l->request_mask = g->request_slots - 1;
	}
}

int attachment_wire(struct attachment *a, const int *eventfds)
{
	const struct geometry *g = &a->geometry;

	a->lanes = line_calloc(geometry_lanes(g), sizeof(*a->lanes));
	a->peers = line_calloc(g->daemon_workers, sizeof(*a->peers));
	a->workers = line_calloc(g->host_workers, sizeof(*a->workers));
	if (a->lanes == NULL || a->peers == NULL || a->workers == NULL) {
		free(a->peers); /* without its descriptors, which are still the caller's */
		a->peers = NULL;
		return -SPLIT_E_BASE_NOMEM;
	}
	for (unsigned d = 0; d < g->daemon_workers; d++) {
		a->peers[d].eventfd = eventfds[d];
		for (unsigned h = 0; h < g->host_workers; h++)
			lane_wire(a, d, h, attachment_lane(a, d, h));
		lane_wire(a, d, g->host_workers, attachment_foreign(a, d));
	}
	for (unsigned h = 0; h < g->host_workers; h++) {
		a->workers[h].control =
			(struct control_line *)(a->to_daemon.mem + g->control_offset) + h;
		a->workers[h].wake =
			(const struct host_wake *)(a->to_host.mem + g->host_wake_offset) + h;
		/* Until its thread begins, nothing should be sent to a worker. */
		store_relaxed(&a->workers[h].control->state, (uint64_t)HOST_RETIRED);
	}
	return 0;
}

int attachment_fd(const struct attachment *a)
{
	return a->fd;
}

void attachment_lost(struct attachment *a)
{
	store_release(&a->life.lost, 1);
	for (unsigned h = 0; h < a->geometry.host_workers; h++)
		host_kick(a, h);
}

unsigned attachment_daemon_workers(const struct attachment *a)
{
	return a->geometry.daemon_workers;
}

unsigned attachment_workers(const struct attachment *a)
{
	return a->geometry.host_workers;
}

struct shepherd_chunk attachment_arena(const struct attachment *a)
{
	return (struct shepherd_chunk){a->to_daemon.mem + a->geometry.to_daemon_arena_offset,
				       a->geometry.to_daemon_arena_bytes};
}

struct shepherd_window attachment_incoming(const struct attachment *a)
{
	return (struct shepherd_window){
		.mem = a->to_host.mem,
		.peer_base = (uint64_t)(uintptr_t)a->to_host.mem,
		.bytes = a->to_host.bytes,
	};
}

bool attachment_holds(const struct attachment *a, const void *p, size_t bytes)
{
	struct shepherd_chunk arena = attachment_arena(a);
	size_t offset = (uintptr_t)p - (uintptr_t)arena.mem;

	return offset < arena.bytes && bytes <= arena.bytes - offset;
}

struct host_lane *attachment_lane(struct attachment *a, unsigned d, unsigned h)
{
	return &a->lanes[(size_t)d * a->geometry.host_workers + h];
}

struct host_lane *attachment_foreign(struct attachment *a, unsigned d)
{
	return &a->lanes[(size_t)a->geometry.daemon_workers * a->geometry.host_workers + d];
}

unsigned attachment_workers_min(const struct attachment *a)
{
	return a->geometry.host_workers_min;
}

uint32_t attachment_stream_window(const struct attachment *a)
{
	return a->geometry.stream_window;
}

uint32_t attachment_tokens_max(const struct attachment *a)
{
	return a->geometry.tokens_max;
}

uint32_t attachment_outs_max(const struct attachment *a)
{
	return a->geometry.outs_max;
}

/* ---- requests */

unsigned host_lane_released(struct host_lane *l, const struct slot *slot,
			    uint64_t tokens[SLOT_TOKENS_MAX])
{
	unsigned n = slot->info < SLOT_TOKENS_MAX ? (unsigned)slot->info : SLOT_TOKENS_MAX;

	memcpy(tokens, slot->tokens, n * sizeof(tokens[0]));
	__atomic_fetch_sub(&l->peer->tokens_out, n, __ATOMIC_RELAXED);
	return n;
}

/* ---- completions */

static bool token_reserve(struct host_lane *l)
{
	/* Count first: two threads at the limit must not both pass. */
	if (__atomic_fetch_add(&l->peer->tokens_out, 1, __ATOMIC_RELAXED) < l->tokens_max)
		return true;
	__atomic_fetch_sub(&l->peer->tokens_out, 1, __ATOMIC_RELAXED);
	return false;
}

static void token_unreserve(struct host_lane *l)
{
	if (l->reserved_token)
		__atomic_fetch_sub(&l->peer->tokens_out, 1, __ATOMIC_RELAXED);
	l->reserved_token = false;
}

struct slot *host_lane_reserve(struct host_lane *l, bool with_token)
{
	struct slot *s = host_lane_next(l);

	if (s == NULL || (with_token && !token_reserve(l)))
		return NULL;
	l->reserved_token = with_token;
	memset((uint8_t *)s + sizeof(s->seq), 0,
	       offsetof(struct slot, inline_area) - sizeof(s->seq));
	return s;
}

void host_lane_drop(struct host_lane *l, struct slot *slot)
{
	(void)slot;
	token_unreserve(l);
}

void host_lane_commit(struct host_lane *l, struct slot *slot)
{
	if (!(slot->flags & SLOT_HAS_TOKEN))
		token_unreserve(l);
	l->reserved_token = false;
	host_lane_publish(l, slot);
}

void host_lane_signal(struct host_lane *l, uint32_t word)
{
	struct host_peer *peer = l->peer;
	uint64_t one = 1;
	ssize_t n;

	if (load_relaxed(&peer->signalled) == word)
		return;
	do
		n = write(peer->eventfd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
	store_relaxed(&peer->signalled, word);
}

/* ---- park */

void host_state_set(struct attachment *a, unsigned h, enum host_state state)
{
	store_relaxed(&a->workers[h].control->state, (uint64_t)state);
}

void host_heartbeat(struct attachment *a, unsigned h)
{
	struct control_line *c = a->workers[h].control;

	store_relaxed(&c->heartbeat, c->heartbeat + 1);
}

void host_worker_begin(struct attachment *a, unsigned h)
{
	store_relaxed(&a->workers[h].control->tid, (uint32_t)gettid());
}

int host_core_wanted(const struct attachment *a, unsigned h)
{
	return (int)load_acquire(&a->workers[h].wake->core) - 1;
}

bool host_shares_core(struct attachment *a, unsigned h)
{
	const struct daemon_sleep *sleep =
		(const struct daemon_sleep *)(a->to_host.mem + a->geometry.daemon_sleep_offset);
	uint32_t core = (uint32_t)sched_getcpu() + 1;

	store_relaxed(&a->workers[h].control->core, core);
	for (unsigned d = 0; core != 0 && d < a->geometry.daemon_workers; d++)
		if (load_relaxed(&sleep[d].core) == core)
			return true;
	return false;
}

static bool work_waits(struct attachment *a, unsigned h, uint32_t kick)
{
	for (unsigned d = 0; d < a->geometry.daemon_workers; d++)
		if (host_lane_peek(attachment_lane(a, d, h)) != NULL)
			return true;
	return load_acquire(&a->workers[h].kick) != kick || !attachment_alive(a);
}

static struct timespec after(uint64_t ns)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	ns += (uint64_t)t.tv_nsec;
	t.tv_sec += (time_t)(ns / 1000000000u);
	t.tv_nsec = (long)(ns % 1000000000u);
	return t;
}

/* Wait while both words have these values. False on timeout. */
static bool words_wait(const uint32_t *wake, uint32_t wake_value, const uint32_t *kick,
		       uint32_t kick_value, uint64_t timeout_ns)
{
	struct wait_entry entries[2] = {
		{wake_value, (uint64_t)(uintptr_t)wake, WAIT_SIZE_U32, 0},
		{kick_value, (uint64_t)(uintptr_t)kick, WAIT_SIZE_U32 | WAIT_PRIVATE, 0},
	};
	bool bounded = timeout_ns != 0;
	struct timespec until = after(timeout_ns);
	struct timespec step = {.tv_nsec = (long)(bounded && timeout_ns < PARK_FALLBACK_NS
							  ? timeout_ns
							  : PARK_FALLBACK_NS)};

	if (syscall(SYS_futex_waitv, entries, 2, 0, bounded ? &until : NULL, CLOCK_MONOTONIC) >= 0)
		return true;
	if (errno != ENOSYS && errno != EPERM)
		return errno != ETIMEDOUT;
	syscall(SYS_futex, wake, FUTEX_WAIT, wake_value, &step, NULL, 0);
	return !bounded || timeout_ns > PARK_FALLBACK_NS;
}

/* The wake word is read before PARKED is stored: a wake between the two changes the word, and the
 * futex sees that. PARKED is stored, fence, then the lanes are looked at: a slot published before
 * is found, one published after finds PARKED. RETIRED likewise. */
static uint32_t park_say(struct attachment *a, unsigned h, enum host_state state)
{
	struct host_worker *w = &a->workers[h];
	uint32_t wake = load_acquire(&w->wake->word);

	store_relaxed(&w->control->state, (uint64_t)wake << 32 | (uint64_t)state);
	shepherd_fence();
	return wake;
}

bool host_park(struct attachment *a, unsigned h, enum host_state state, uint64_t timeout_ns)
{
	struct host_worker *w = &a->workers[h];
	uint32_t kick = w->kick_seen;
	uint32_t wake = park_say(a, h, state);
	bool something = true;

	if (!work_waits(a, h, kick))
		something = words_wait(&w->wake->word, wake, &w->kick, kick, timeout_ns);
	w->kick_seen = load_acquire(&w->kick);
	if (state == HOST_PARKED)
		store_relaxed(&w->control->state, (uint64_t)HOST_POLLING);
	return something;
}

bool host_park_begin(struct attachment *a, unsigned h, uint32_t *wake_out)
{
	*wake_out = park_say(a, h, HOST_PARKED);
	if (!work_waits(a, h, a->workers[h].kick_seen))
		return true;
	host_state_set(a, h, HOST_POLLING);
	return false;
}

void host_park_wait(struct attachment *a, unsigned h, uint32_t wake)
{
	struct host_worker *w = &a->workers[h];
	uint32_t kick = w->kick_seen;

	(void)words_wait(&w->wake->word, wake, &w->kick, kick, 0);
	w->kick_seen = load_acquire(&w->kick);
}

void host_kick(struct attachment *a, unsigned h)
{
	__atomic_fetch_add(&a->workers[h].kick, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &a->workers[h].kick, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL,
		NULL, 0);
}
