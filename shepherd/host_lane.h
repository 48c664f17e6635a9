/* The host's side of a lane, open to the compiler: what a call costs a host is counted in tens of
 * cycles, and a call into another file for each step of it costs as much as the steps. The
 * contracts stand in shepherd.h, which alone includes this; the structs are shepherd's own, and
 * only host.c writes what is not written here.
 *
 * The daemon's words are trusted: it is the one that serves us. Our own words are plain memory to
 * us, read by a daemon that believes none of them.
 */
#ifndef SPLITD_SHEPHERD_HOST_LANE_H
#define SPLITD_SHEPHERD_HOST_LANE_H

#if defined(__SANITIZE_THREAD__)
#define SHEPHERD_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHEPHERD_TSAN 1
#endif
#endif
#ifndef SHEPHERD_TSAN
#define SHEPHERD_TSAN 0
#endif

#if SHEPHERD_TSAN
extern uint32_t shepherd_fence_word;
#endif

/* Full fence: what this thread stored before is seen by all before what it loads after. Both sides
 * of a park use it (Dekker); acquire and release do not order a store before a later load.
 * ThreadSanitizer does not model fences: there it is a read-modify-write of one common word, which
 * on x86 is a full barrier too. */
static inline void shepherd_fence(void)
{
#if SHEPHERD_TSAN
	__atomic_fetch_add(&shepherd_fence_word, 1, __ATOMIC_SEQ_CST);
#if defined(__aarch64__)
	__asm__ volatile("dmb ish" ::: "memory");
#endif
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

#define load_relaxed(p)     __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p)     __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* Per daemon worker, by any thread of the host. */
struct host_peer {
	uint32_t tokens_out; /* response tokens with the daemon */
	uint32_t signalled;  /* the sleep word we last wrote the eventfd for */
	int eventfd;
} cache_aligned;

struct host_lane {
	struct attachment *attachment;
	unsigned daemon_worker;
	bool reserved_token; /* the reserved slot counts against tokens_max */
	bool revocable;
	uint32_t tokens_max;
	/* requests: we consume */
	const struct slot *requests; /* shared, the daemon's; NULL: foreign lane */
	uint32_t request_mask;
	uint32_t head;
	struct host_line *host_line; /* shared, ours */
	/* completions: we produce */
	struct slot *completions; /* shared, ours */
	uint32_t completion_slots;
	uint32_t tail;
	uint32_t head_seen;
	const struct daemon_line *daemon_line; /* shared, the daemon's */
	const struct daemon_sleep *sleep;      /* the same */
	struct host_peer *peer;
} cache_aligned;

/* What attachment_alive looks at; the attachment begins with it. */
struct attachment_life {
	const struct geometry *shared;
	uint32_t lost;
};

static inline bool attachment_alive(const struct attachment *a)
{
	const struct attachment_life *life = (const struct attachment_life *)(const void *)a;

	return load_acquire(&life->shared->detach_epoch) == 0 && load_acquire(&life->lost) == 0;
}

static inline unsigned attachment_call_worker(uint64_t call_id)
{
	return (unsigned)(call_id >> 24) & 0xff;
}

/* ---- requests */

/* Acquire: what the daemon wrote before the sequence is there. */
static inline const struct slot *host_lane_peek_at(struct host_lane *l, uint32_t ahead)
{
	uint32_t ticket = l->head + ahead;
	const struct slot *s;

	if (unlikely(ahead > l->request_mask))
		return NULL;
	s = &l->requests[ticket & l->request_mask];
	return load_acquire(&s->seq) == ticket + 1 ? s : NULL;
}

static inline const struct slot *host_lane_peek(struct host_lane *l)
{
	return host_lane_peek_at(l, 0);
}

static inline bool host_lane_claim(struct host_lane *l, const struct slot *slot)
{
	store_relaxed(&l->host_line->claim, l->head + 1);
	if (!l->revocable)
		return true;
	shepherd_fence();
	return load_acquire(&slot->revoke) != l->head + 1;
}

/* Release: we have read the slot before the daemon writes it again. */
static inline void host_lane_advance(struct host_lane *l)
{
	l->head++;
	store_release(&l->host_line->head, l->head);
}

static inline void host_lane_skip(struct host_lane *l)
{
	l->head++;
}

static inline void host_lane_give_back(struct host_lane *l)
{
	store_release(&l->host_line->head, l->head);
}

static inline void host_lane_prefetch(const struct host_lane *l, uint32_t ahead)
{
	__builtin_prefetch(&l->requests[(l->head + ahead) & l->request_mask]);
}

/* ---- completions */

/* False: the ring is full. */
static inline bool host_lane_room(struct host_lane *l)
{
	if (likely(l->tail - l->head_seen != l->completion_slots))
		return true;
	/* Acquire: the daemon has read the slots that it says it took. */
	l->head_seen = load_acquire(&l->daemon_line->head);
	return l->tail - l->head_seen < l->completion_slots;
}

static inline struct slot *host_lane_next(struct host_lane *l)
{
	if (unlikely(!host_lane_room(l)))
		return NULL;
	l->reserved_token = false;
	return &l->completions[l->tail & (l->completion_slots - 1)];
}

static inline void host_lane_publish(struct host_lane *l, struct slot *slot)
{
	l->tail++;
	store_release(&slot->seq, l->tail); /* everything else of the slot is before it */
	store_relaxed(&l->host_line->tail, l->tail);
}

static inline uint32_t host_lane_tail(const struct host_lane *l)
{
	return l->tail;
}

/* Acquire: whatever the daemon did with the slots was before it said so. */
static inline bool host_lane_taken(const struct host_lane *l, uint32_t tail)
{
	return (int32_t)(load_acquire(&l->daemon_line->head) - tail) >= 0;
}

/* The eventfd, once for each sleep: `word` is that of this one. */
void host_lane_signal(struct host_lane *lane, uint32_t word);

/* The daemon's sleep word is odd while it sleeps or is about to. Fence between our slot and the
 * look: it stores the word, fences, looks at our slot. */
static inline void host_lane_ring(struct host_lane *l)
{
	uint32_t word;

	shepherd_fence();
	word = load_relaxed(&l->sleep->word);
	if (unlikely(word % 2 != 0))
		host_lane_signal(l, word);
}

#endif
