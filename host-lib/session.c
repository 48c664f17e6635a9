/* One attachment: its workers and its end.
 *
 * A session ends in steps: the workers leave after the handler they are in; their threads are
 * joined; and when the last call opened in it is over, the mapping goes. Nothing waits for that:
 * the next session runs beside it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "host-lib/pump.h"

#define ATTACH_TIMEOUT_MS 5000 /* as splitd has for its part */

static int worker_init(struct session *s, unsigned h)
{
	struct worker *w = &s->workers[h];

	w->session = s;
	w->host = s->host;
	w->h = h;
	w->maps = calloc(s->daemon_workers, sizeof(*w->maps));
	w->batches = calloc(s->daemon_workers, sizeof(*w->batches));
	w->out_ids = calloc(s->daemon_workers, sizeof(*w->out_ids));
	w->lanes = calloc(s->daemon_workers, sizeof(struct host_lane *));
	if (w->maps == NULL || w->batches == NULL || w->out_ids == NULL || w->lanes == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (unsigned d = 0; d < s->daemon_workers; d++)
		w->lanes[d] = attachment_lane(s->attachment, d, h);
	return 0;
}

/* Of one that was begun or not. */
static void worker_fini(struct session *s, struct worker *w)
{
	struct call_table *table = &s->host->calls;

	call_table_put(table, w->free);
	call_table_put(table, atomic_exchange_explicit(&w->returned, NULL, memory_order_acquire));
	events_free(w);
	wire_parts_free(w);
	for (unsigned d = 0; w->maps != NULL && d < s->daemon_workers; d++)
		free(w->maps[d].of);
	free(w->maps);
	free(w->batches);
	free(w->lanes);
}

/* Pinned, and with all signals blocked: they are the application's other threads' business. */
static int worker_start(struct worker *w, struct attach_refusal *why)
{
	const struct split_host_options *o = &w->host->options;
	sigset_t all, before;
	pthread_attr_t attr;
	cpu_set_t cpus;
	int rc;

	if (pthread_attr_init(&attr) != 0)
		return -SPLIT_E_BASE_NOMEM;
	if (o->cores_n > 0) {
		CPU_ZERO(&cpus);
		CPU_SET(w->host->cores[w->h % o->cores_n], &cpus);
		(void)pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
	}
	sigfillset(&all);
	(void)pthread_sigmask(SIG_BLOCK, &all, &before);
	rc = pthread_create(&w->thread, &attr, worker_main, w);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	(void)pthread_attr_destroy(&attr);
	w->started = rc == 0;
	if (rc == 0)
		return 0;
	if (o->cores_n > 0)
		(void)snprintf(why->text, sizeof(why->text),
			       "worker %u could not be started on core %u: %s", w->h,
			       w->host->cores[w->h % o->cores_n], strerror(rc));
	else
		(void)snprintf(why->text, sizeof(why->text), "worker %u could not be started: %s",
			       w->h, strerror(rc));
	return -SPLIT_E_BASE_SYSTEM;
}

static int session_make(struct session *s, struct attach_refusal *why)
{
	struct attachment *a = s->attachment;
	size_t workers_bytes, foreign_bytes;
	int rc;

	s->daemon_workers = attachment_daemon_workers(a);
	s->workers_n = attachment_workers(a);
	workers_bytes = s->workers_n * sizeof(*s->workers);
	foreign_bytes = s->daemon_workers * sizeof(*s->foreign);
	rc = room_init(&s->room, attachment_arena(a), s->workers_n);
	if (rc != 0)
		return rc;
	s->workers = aligned_alloc(BITS_CACHE_LINE, align_up(workers_bytes, BITS_CACHE_LINE));
	s->foreign = aligned_alloc(BITS_CACHE_LINE, align_up(foreign_bytes, BITS_CACHE_LINE));
	if (s->workers == NULL || s->foreign == NULL) {
		free(s->workers);
		free(s->foreign);
		s->workers = NULL; /* nothing for session_free */
		room_fini(&s->room);
		return -SPLIT_E_BASE_NOMEM;
	}
	memset(s->workers, 0, workers_bytes);
	memset(s->foreign, 0, foreign_bytes);
	for (unsigned d = 0; d < s->daemon_workers; d++)
		(void)pthread_mutex_init(&s->foreign[d].lock, NULL); /* cannot fail on Linux */
	for (unsigned h = 0; rc == 0 && h < s->workers_n; h++)
		rc = worker_init(s, h);
	if (rc == 0)
		rc = outs_init(s);
	for (unsigned h = 0; rc == 0 && h < s->workers_n; h++)
		rc = worker_start(&s->workers[h], why);
	if (rc != 0) {
		session_end(s);
		session_join(s);
	}
	return rc;
}

int session_open(struct split_host *host, const struct attach_hello *hello, struct session **out,
		 struct attach_refusal *why)
{
	struct session *s = calloc(1, sizeof(*s));
	int rc;

	*why = (struct attach_refusal){0};
	if (s == NULL)
		return -SPLIT_E_BASE_NOMEM;
	s->host = host;
	if (remote_is_address(host->path))
		rc = pump_open(host, hello, ATTACH_TIMEOUT_MS, &s->attachment, &s->pump, why);
	else
		rc = attachment_open(host->path, hello, ATTACH_TIMEOUT_MS, &s->attachment, why);
	if (rc != 0) {
		free(s);
		return rc;
	}
	rc = session_make(s, why);
	if (rc != 0 && s->workers != NULL) {
		session_free(s);
	} else if (rc != 0) {
		attachment_close(s->attachment);
		pump_close(s->pump);
		free(s);
	}
	if (rc != 0)
		return rc;
	*out = s;
	return 0;
}

void session_kick(struct session *s)
{
	for (unsigned h = 0; h < s->workers_n; h++)
		host_kick(s->attachment, h);
}

void session_drain(struct session *s, uint64_t until_ns)
{
	atomic_store_explicit(&s->drain_until_ns, until_ns, memory_order_relaxed);
	atomic_store_explicit(&s->draining, true, memory_order_release);
	session_kick(s);
}

void session_end(struct session *s)
{
	/* The mapping must stay for who is inside; the daemon hears of it by the socket. */
	(void)shutdown(attachment_fd(s->attachment), SHUT_RDWR);
	attachment_lost(s->attachment);
	session_kick(s);
}

bool session_workers_exited(const struct session *s)
{
	for (unsigned h = 0; h < s->workers_n; h++)
		if (s->workers[h].started &&
		    !atomic_load_explicit(&s->workers[h].exited, memory_order_acquire))
			return false;
	return true;
}

uint64_t session_calls(const struct session *s)
{
	uint64_t closed = atomic_load_explicit(&s->outs_closed, memory_order_acquire), opened = 0;

	for (unsigned h = 0; h < s->workers_n; h++)
		closed += atomic_load_explicit(&s->workers[h].closed, memory_order_acquire) +
			  atomic_load_explicit(&s->workers[h].closed_here, memory_order_acquire);
	for (unsigned h = 0; h < s->workers_n; h++)
		opened += atomic_load_explicit(&s->workers[h].opened, memory_order_acquire);
	return opened + atomic_load_explicit(&s->outs_opened, memory_order_acquire) - closed;
}

void session_join(struct session *s)
{
	for (unsigned h = 0; h < s->workers_n; h++) {
		if (s->workers[h].started)
			(void)pthread_join(s->workers[h].thread, NULL);
		s->workers[h].started = false;
	}
}

static void stats_add(struct split_host_stats *sum, const struct split_host_stats *part)
{
	const uint64_t *from = (const uint64_t *)(const void *)part;
	uint64_t *to = (uint64_t *)(void *)sum;

	for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
		to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

static void session_stats(const struct session *s, struct split_host_stats *sum)
{
	for (unsigned h = 0; h < s->workers_n; h++)
		stats_add(sum, &s->workers[h].stats);
}

void split_host_stats_get(const struct split_host *host, struct split_host_stats *out)
{
	struct split_host *h = (struct split_host *)(uintptr_t)host; /* for the lock */

	pthread_mutex_lock(&h->stats_lock);
	*out = host->stats_ended;
	stats_add(out, &host->stats);
	if (host->session != NULL)
		session_stats(host->session, out);
	for (const struct session *s = host->ending; s != NULL; s = s->next)
		session_stats(s, out);
	pthread_mutex_unlock(&h->stats_lock);
}

/* Calls that are still open when the host goes lose what they have in the segment. */
static void session_calls_abandon(struct session *s)
{
	struct call_table *t = &s->host->calls;

	for (uint32_t i = 0; i < t->made; i++) {
		struct split_call *c = &t->chunks[i / HOST_CALL_CHUNK][i % HOST_CALL_CHUNK];

		if (c->session != s)
			continue;
		c->blocks = NULL;
		c->bump = c->bump_end = NULL;
		c->session = NULL;
	}
}

void session_free(struct session *s)
{
	struct split_host *host = s->host;

	if (session_calls(s) != 0)
		session_calls_abandon(s);
	pthread_mutex_lock(&host->stats_lock);
	session_stats(s, &host->stats_ended);
	pthread_mutex_unlock(&host->stats_lock);
	outs_fini(s);
	for (unsigned h = 0; h < s->workers_n; h++)
		worker_fini(s, &s->workers[h]);
	for (unsigned d = 0; d < s->daemon_workers; d++)
		(void)pthread_mutex_destroy(&s->foreign[d].lock);
	free(s->workers);
	free(s->foreign);
	room_fini(&s->room);
	pump_close(s->pump); /* it reads what the mapping holds */
	attachment_close(s->attachment);
	free(s);
}
