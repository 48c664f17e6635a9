/* The producer's side: which lane an answer takes, and waiting for room.
 *
 * A worker answers on its own lane; any other thread on the foreign lane of the daemon worker,
 * under that lane's lock. What a waiting thread needs comes from the daemon: slots without
 * anybody's help, memory and tokens by RELEASE in the request rings. So a waiting thread keeps
 * taking what lies in all rings whose worker is in a handler (worker_help); no handler can hold up
 * another's answer, and a ring of two slots cannot stand still. What cannot be had within
 * room_wait_ns (clients that do not read hold everything) becomes RESOURCE_EXHAUSTED.
 */
#include <sched.h>

#include "host-lib/host_internal.h"

#define WAIT_SPINS    64
#define WAIT_YIELDS   128
#define WAIT_SLEEP_NS 50000

void waiter_init(struct waiter *wt, const struct session *s)
{
	*wt = (struct waiter){.until_ns = clock_ns() + s->host->options.room_wait_ns};
}

void waiter_fini(struct waiter *wt, struct session *s)
{
	if (wt->counted)
		atomic_fetch_sub_explicit(&s->room.waiters, 1, memory_order_relaxed);
	wt->counted = false;
}

static void wait_begin(struct waiter *wt, struct session *s)
{
	struct worker *w = worker_self;

	wt->counted = true;
	STAT(s->host, room_waits);
	atomic_fetch_add_explicit(&s->room.waiters, 1, memory_order_relaxed);
	if (w != NULL && w->session == s) {
		worker_pending_flush(w);
		room_cache_flush(&s->room, &w->cache);
	}
	session_kick(s);
}

int waiter_step(struct waiter *wt, struct session *s)
{
	struct timespec pause = {.tv_nsec = WAIT_SLEEP_NS};

	if (!attachment_alive(s->attachment))
		return -SPLIT_E_HOST_LOST;
	if (!wt->counted)
		wait_begin(wt, s);
	if (worker_help(s)) {
		wt->idle = 0;
		return 0;
	}
	if (clock_ns() >= wt->until_ns)
		return -SPLIT_E_HOST_ROOM;
	if (++wt->idle <= WAIT_SPINS)
		cpu_relax();
	else if (wt->idle <= WAIT_YIELDS)
		sched_yield();
	else
		(void)nanosleep(&pause, NULL);
	return 0;
}

void producer_open(struct producer *p, struct session *s, unsigned d)
{
	struct worker *w = worker_self;

	p->session = s;
	p->d = d;
	p->nowait = false;
	if (w != NULL && w->session == s) {
		worker_pending_flush(w);
		p->worker = w;
		p->lane = w->lanes[d];
	} else {
		p->worker = NULL;
		pthread_mutex_lock(&s->foreign[d].lock);
		p->lane = attachment_foreign(s->attachment, d);
	}
}

void producer_close(struct producer *p)
{
	if (p->worker == NULL)
		pthread_mutex_unlock(&p->session->foreign[p->d].lock);
}

/* Until the daemon has taken what is on the lane; it needs nobody's help for that. */
static int lane_wait_taken(struct session *s, const struct host_lane *lane, uint32_t tail)
{
	struct timespec pause = {.tv_nsec = WAIT_SLEEP_NS};

	for (unsigned idle = 0; !host_lane_taken(lane, tail); idle++) {
		if (!attachment_alive(s->attachment))
			return -SPLIT_E_HOST_LOST;
		if (idle < WAIT_SPINS)
			cpu_relax();
		else if (idle < WAIT_YIELDS)
			sched_yield();
		else
			(void)nanosleep(&pause, NULL);
	}
	return 0;
}

int producer_open_call(struct producer *p, struct split_call *call)
{
	int rc;

	producer_open(p, call->session, call->daemon_worker);
	p->nowait = call->nowait;
	if (likely(call->out_lane == NULL || call->out_lane == p->lane))
		return 0;
	rc = lane_wait_taken(call->session, call->out_lane, call->out_tail);
	if (rc != 0)
		producer_close(p);
	return rc;
}

void producer_commit_call(struct producer *p, struct split_call *call, struct slot *slot)
{
	host_lane_commit(p->lane, slot);
	call->out_lane = p->lane;
	call->out_tail = host_lane_tail(p->lane);
	host_lane_ring(p->lane);
}

/* The ring has room, so it is the tokens that are out. */
static bool ring_has_room(struct producer *p)
{
	struct slot *probe = host_lane_reserve(p->lane, false);

	if (probe != NULL)
		host_lane_drop(p->lane, probe);
	return probe != NULL;
}

int producer_slot(struct producer *p, bool with_token, struct slot **out)
{
	struct waiter wt;
	int rc = 0;

	*out = host_lane_reserve(p->lane, with_token);
	if (likely(*out != NULL))
		return 0;
	waiter_init(&wt, p->session);
	do {
		bool tokens = with_token && ring_has_room(p);

		if (tokens && p->nowait) {
			rc = -SPLIT_E_HOST_ROOM;
			break;
		}
		rc = waiter_step(&wt, p->session);
		if (rc == -SPLIT_E_HOST_LOST || (rc != 0 && tokens))
			break;
		rc = 0;
		*out = host_lane_reserve(p->lane, with_token);
	} while (*out == NULL);
	waiter_fini(&wt, p->session);
	return rc;
}

void producer_commit(struct producer *p, struct slot *slot)
{
	host_lane_commit(p->lane, slot);
	host_lane_ring(p->lane);
}

/* ------------------------------------------------------------------ giving requests back */

static void release_send(struct session *s, unsigned d, const uint64_t *tokens, unsigned n)
{
	struct producer p;
	struct slot *slot;

	producer_open(&p, s, d);
	/* Only a daemon that is gone makes this fail, and then there is nobody to tell. */
	if (producer_slot(&p, false, &slot) == 0) {
		slot->kind = TO_DAEMON_RELEASE;
		slot->info = n;
		slot->inline_bytes = (uint8_t)(n * sizeof(tokens[0]));
		memcpy(slot->tokens, tokens, n * sizeof(tokens[0]));
		producer_commit(&p, slot);
	}
	producer_close(&p);
}

static void batch_flush(struct worker *w, unsigned d)
{
	struct release_batch *b = &w->batches[d];
	struct release_batch now;

	if (b->n == 0)
		return;
	now = *b; /* while we wait for a slot more may come */
	b->n = 0;
	release_send(w->session, d, now.tokens, now.n);
}

void worker_batches_flush(struct worker *w)
{
	for (unsigned d = 0; d < w->session->daemon_workers; d++)
		batch_flush(w, d);
}

void request_release(struct session *s, unsigned d, uint64_t token)
{
	struct worker *w = worker_self;
	struct release_batch *b;

	if (w == NULL || w->session != s) {
		release_send(s, d, &token, 1);
		return;
	}
	b = &w->batches[d];
	b->tokens[b->n++] = token;
	if (b->n == SLOT_TOKENS_MAX)
		batch_flush(w, d);
}
