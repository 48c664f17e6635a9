/* Threads that carry handshakes.
 *
 * For each helper and engine there is a lane: a ring of handshakes lent and one of those that are
 * done, each with one producer and one consumer, and no more under way on both together than a ring
 * holds, so that neither is ever full. A helper that finds nothing parks on a futex word, by the
 * protocol of docs/SHARED-MEMORY.md: it says so, fence, looks again; the worker publishes, fence,
 * looks whether it is parked. */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/tls/tls_internal.h"

_Static_assert((HELPER_DEPTH & (HELPER_DEPTH - 1)) == 0, "rings are masked");

struct lane {
	/* written by the worker */
	cache_aligned atomic_uint lent; /* count of handshakes ever lent */
	unsigned taken;                 /* ... and taken back */
	struct tls_handshake *lent_ring[HELPER_DEPTH];
	/* written by the helper */
	cache_aligned atomic_uint done; /* count of handshakes ever done */
	struct tls_handshake *done_ring[HELPER_DEPTH];
};

struct helper {
	struct tls_helpers *all;
	pthread_t thread;
	bool started;
	int nice;
	struct lane *lanes;               /* by engine */
	cache_aligned atomic_uint parked; /* futex word: 1 while it sleeps or is about to */
};

struct tls_helpers {
	unsigned threads, engines;
	atomic_bool stop;
	int *wake_fds;  /* by engine */
	unsigned *next; /* by engine: where to look for room first */
	struct helper helpers[];
};

static void futex_wait(atomic_uint *word, unsigned value)
{
	(void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word)
{
	(void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* ---- the helper --------------------------------------------------------------------------------
 */

static void wake_engine(const struct tls_helpers *all, unsigned engine)
{
	const uint64_t one = 1;

	/* EAGAIN: its counter is full, so it wakes anyway. */
	if (all->wake_fds[engine] >= 0 &&
	    write(all->wake_fds[engine], &one, sizeof(one)) != (ssize_t)sizeof(one))
		return;
}

/* One step of each engine that has one waiting. Returns how many. */
static unsigned lanes_serve(struct helper *h)
{
	unsigned n = 0;

	for (unsigned i = 0; i < h->all->engines; i++) {
		struct lane *lane = &h->lanes[i];
		unsigned done = atomic_load_explicit(&lane->done, memory_order_relaxed);
		struct tls_handshake *hs;

		if (done == atomic_load_explicit(&lane->lent, memory_order_acquire))
			continue;
		hs = lane->lent_ring[done % HELPER_DEPTH];
		handshake_step(hs);
		lane->done_ring[done % HELPER_DEPTH] = hs;
		atomic_store_explicit(&lane->done, done + 1, memory_order_release);
		wake_engine(h->all, i);
		n++;
	}
	return n;
}

static bool lanes_empty(const struct helper *h)
{
	for (unsigned i = 0; i < h->all->engines; i++)
		if (atomic_load_explicit(&h->lanes[i].lent, memory_order_relaxed) !=
		    atomic_load_explicit(&h->lanes[i].done, memory_order_relaxed))
			return false;
	return true;
}

static void *helper_run(void *arg)
{
	struct helper *h = arg;

	if (h->nice != 0) /* of this thread only, on Linux */
		(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid),
				  getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid)) + h->nice);
	while (!atomic_load_explicit(&h->all->stop, memory_order_relaxed)) {
		if (lanes_serve(h) != 0)
			continue;
		atomic_store_explicit(&h->parked, 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst);
		if (lanes_empty(h) && !atomic_load_explicit(&h->all->stop, memory_order_relaxed))
			futex_wait(&h->parked, 1);
		atomic_store_explicit(&h->parked, 0, memory_order_relaxed);
	}
	return NULL;
}

static void helper_wake(struct helper *h)
{
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&h->parked, memory_order_relaxed) == 0)
		return;
	atomic_store_explicit(&h->parked, 0, memory_order_relaxed);
	futex_wake(&h->parked);
}

/* ---- workers -----------------------------------------------------------------------------------
 */

void helpers_wake_fd_set(struct tls_helpers *all, unsigned engine, int fd)
{
	all->wake_fds[engine] = fd;
}

static unsigned lane_under_way(const struct lane *lane)
{
	return atomic_load_explicit(&lane->lent, memory_order_relaxed) - lane->taken;
}

bool helpers_submit(struct tls_helpers *all, unsigned engine, struct tls_handshake *hs)
{
	struct helper *best = NULL;
	struct lane *lane;
	unsigned lent;

	for (unsigned i = 0; i < all->threads; i++) {
		struct helper *h = &all->helpers[(all->next[engine] + i) % all->threads];

		if (lane_under_way(&h->lanes[engine]) < HELPER_DEPTH &&
		    (best == NULL ||
		     lane_under_way(&h->lanes[engine]) < lane_under_way(&best->lanes[engine])))
			best = h;
	}
	if (best == NULL)
		return false;
	all->next[engine] = (unsigned)(best - all->helpers + 1) % all->threads;
	lane = &best->lanes[engine];
	lent = atomic_load_explicit(&lane->lent, memory_order_relaxed);
	lane->lent_ring[lent % HELPER_DEPTH] = hs;
	atomic_store_explicit(&lane->lent, lent + 1, memory_order_release);
	helper_wake(best);
	return true;
}

struct tls_handshake *helpers_take(struct tls_helpers *all, unsigned engine)
{
	for (unsigned i = 0; i < all->threads; i++) {
		struct lane *lane = &all->helpers[i].lanes[engine];
		struct tls_handshake *hs;

		if (lane->taken == atomic_load_explicit(&lane->done, memory_order_acquire))
			continue;
		hs = lane->done_ring[lane->taken % HELPER_DEPTH];
		lane->taken++;
		return hs;
	}
	return NULL;
}

/* ---- life --------------------------------------------------------------------------------------
 */

static int helper_start(struct helper *h, const struct tls_helpers_config *cfg, unsigned index)
{
	pthread_attr_t attr;
	char name[24];
	cpu_set_t set;
	int err;

	if (pthread_attr_init(&attr) != 0)
		return -SPLIT_E_BASE_NOMEM;
	if (cfg->cores_n != 0) {
		CPU_ZERO(&set);
		for (size_t i = 0; i < cfg->cores_n; i++)
			CPU_SET(cfg->cores[i], &set);
		(void)pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	err = pthread_create(&h->thread, &attr, helper_run, h);
	pthread_attr_destroy(&attr);
	if (err != 0)
		return -SPLIT_E_BASE_SYSTEM;
	h->started = true;
	(void)snprintf(name, sizeof(name), "tls-%u", index);
	(void)pthread_setname_np(h->thread, name);
	return 0;
}

int tls_helpers_create(const struct tls_helpers_config *cfg, struct tls_helpers **out)
{
	size_t bytes = sizeof(struct tls_helpers) + cfg->threads * sizeof(struct helper);
	struct tls_helpers *all;
	int err = 0;

	if (cfg->threads == 0 || cfg->threads > TLS_HELPERS_MAX || cfg->engines == 0)
		return -SPLIT_E_BASE_INVALID;
	all = aligned_alloc(BITS_CACHE_LINE, align_up(bytes, BITS_CACHE_LINE));
	if (all == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(all, 0, bytes);
	all->threads = cfg->threads;
	all->engines = cfg->engines;
	all->wake_fds = malloc(cfg->engines * sizeof(*all->wake_fds));
	all->next = calloc(cfg->engines, sizeof(*all->next));
	if (all->wake_fds == NULL || all->next == NULL)
		err = -SPLIT_E_BASE_NOMEM;
	for (unsigned i = 0; i < cfg->engines && err == 0; i++)
		all->wake_fds[i] = -1;
	for (unsigned i = 0; i < cfg->threads && err == 0; i++) {
		struct helper *h = &all->helpers[i];
		size_t lanes = cfg->engines * sizeof(struct lane);

		h->all = all;
		h->nice = cfg->nice;
		h->lanes = aligned_alloc(BITS_CACHE_LINE, lanes);
		if (h->lanes == NULL) {
			err = -SPLIT_E_BASE_NOMEM;
			break;
		}
		memset(h->lanes, 0, lanes);
		err = helper_start(h, cfg, i);
	}
	if (err != 0) {
		tls_helpers_destroy(all);
		return err;
	}
	*out = all;
	return 0;
}

void tls_helpers_destroy(struct tls_helpers *all)
{
	if (all == NULL)
		return;
	atomic_store_explicit(&all->stop, true, memory_order_relaxed);
	for (unsigned i = 0; i < all->threads; i++) {
		struct helper *h = &all->helpers[i];

		if (h->started) {
			helper_wake(h);
			(void)pthread_join(h->thread, NULL);
		}
		free(h->lanes);
	}
	free(all->wake_fds);
	free(all->next);
	free(all);
}
