/* The loop. One turn: what control says, what has arrived, what is due, what hosts have answered,
 * what goes on, what goes out. Each part is bounded, so a turn is short whatever comes. */
#include "daemon/worker/worker_internal.h"

#include <stdlib.h>
#include <string.h>

#include <sys/prctl.h>

int worker_create(const struct worker_params *params, struct worker **worker_out)
{
	size_t bytes = align_up(sizeof(struct worker), BITS_CACHE_LINE);
	struct worker *w = aligned_alloc(BITS_CACHE_LINE, bytes);
	char name[16];
	int err;

	if (w == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(w, 0, bytes);
	w->cfg = params->config;
	w->params = *params;
	w->now_ns = clock_ns();
	w->epoll_fd = -1;
	w->core = (int)params->config->workers[params->index].core;
	w->stages_want = params->config->telemetry.stages;
	list_init(&w->connections);
	list_init(&w->due);
	list_init(&w->opening);
	list_init(&w->host_wait);
	list_init(&w->job_turns);
	list_init(&w->reply_wait);
	list_init(&w->nested_due);
	list_init(&w->endpoints);
	list_init(&w->client_wires);
	(void)snprintf(name, sizeof(name), "worker %u", params->index);
	err = log_ring_init(&w->log, name, params->config->log.ring_records);
	if (err == 0) {
		err = worker_setup(w);
		if (err != 0) {
			log_error("worker %u: %s", params->index, error_text(err));
			worker_teardown(w);
			log_ring_fini(&w->log);
		}
	}
	if (err != 0) {
		free(w);
		return err;
	}
	*worker_out = w;
	return 0;
}

void worker_destroy(struct worker *worker)
{
	if (worker == NULL)
		return;
	worker_teardown(worker);
	log_ring_fini(&worker->log);
	free(worker);
}

static unsigned ports_poll(struct worker *w)
{
	struct rte_mbuf *pkts[WORKER_BURST];
	unsigned n = 0;

	for (unsigned i = 0; i < w->ports_n; i++) {
		struct worker_port *p = &w->ports[i];
		uint16_t got;

		stage_enter(w, WORKER_STAGE_port);
		got = port_rx_burst(p->queue, pkts, WORKER_BURST);
		stage_enter(w, WORKER_STAGE_net);
		if (got != 0)
			net_rx(p->net, pkts, got, w->now_ns);
		n += got;
		if (got != 0)
			w->traffic_ns = w->now_ns;
		n += net_timers_run(p->net, w->now_ns);
	}
	return n;
}

static unsigned endpoints_poll(struct worker *w)
{
	unsigned n = 0;

	list_for_each (pos, &w->endpoints) {
		struct attached *ep = list_entry(pos, struct attached, link);
		int got;

		if (ep->faulted)
			continue;
		got = endpoint_poll(ep->port, WORKER_POLL_SLOTS, &complete_events, w, w->now_ns);
		if (got < 0) {
			attached_fault(ep, got);
			continue;
		}
		n += (unsigned)got;
		if (got != 0)
			w->traffic_ns = w->now_ns;
		attached_look(ep);
		n += attached_retry(ep);
		n += attached_publish(ep);
		n += attached_grant(ep);
	}
	return n;
}

static void endpoints_flush(struct worker *w)
{
	list_for_each (pos, &w->endpoints) {
		struct attached *ep = list_entry(pos, struct attached, link);

		if (ep->faulted)
			continue;
		(void)attached_grant(ep);
		endpoint_flush(ep->port, w->now_ns);
	}
}

static void job_run(struct worker *w, struct attached *ep, struct job *job)
{
	uint64_t before = w->turn_units;

	list_del(&job->link);
	if (job->kind == JOB_DECODE)
		call_job_run(container_of(job, struct call, job));
	else
		reply_job_run(container_of(job, struct reply, job));
	ep->job_deficit -= (int64_t)(w->turn_units - before) + 1;
	counter_add(&ep->told->units, w->turn_units - before);
}

/* Endpoints take turns by their budgets; whoever has used up its own goes behind the others. */
static unsigned jobs_run(struct worker *w)
{
	uint64_t units = w->turn_units;
	struct list *node;
	unsigned n = 0;

	while (n < WORKER_JOBS_PER_TURN && w->turn_units - units < w->cfg->linearize.work_quantum &&
	       (node = list_first(&w->job_turns)) != NULL) {
		struct attached *ep = list_entry(node, struct attached, job_turn);
		struct list *job = list_first(&ep->jobs);

		if (job == NULL) {
			list_del(node);
			if (ep->job_deficit > 0)
				ep->job_deficit = 0;
		} else if (ep->job_deficit <= 0) {
			ep->job_deficit += (int64_t)ep->turn_budget;
			list_del(node);
			list_add_tail(&w->job_turns, node);
		} else {
			job_run(w, ep, list_entry(job, struct job, link));
			n++;
		}
	}
	return n;
}

/* An empty turn takes well under a microsecond, a few with a system call in the driver. One that
 * took longer than this had its core taken away, which is no polling. */
#define TURN_EMPTY_MAX_NS (10 * CLOCK_NS_PER_US)

/* The clock read that begins a turn tells what the last one took. */
static void turn_time(struct worker *w)
{
	uint64_t last_ns = w->now_ns, took_ns;

	w->now_ns = clock_ns();
	took_ns = w->now_ns - last_ns - w->slept_ns;
	if (w->busy)
		counter_add(&w->counters.busy_ns, took_ns);
	else if (took_ns <= TURN_EMPTY_MAX_NS)
		counter_add(&w->counters.idle_poll_ns, took_ns);
	else
		counter_add(&w->counters.preempted_ns, took_ns);
	counter_max(&w->counters.turn_ns_max, took_ns);
	counter_max(&w->counters.turn_units_max, w->turn_units);
	w->turn_units = 0;
	w->turn++;
	w->slept_ns = 0;
}

static unsigned turn(struct worker *w)
{
	unsigned work;

	turn_time(w);
	stage_enter(w, WORKER_STAGE_control);
	work = messages_run(w);
	work += ports_poll(w);
	if (w->tls != NULL) {
		stage_enter(w, WORKER_STAGE_tls);
		work += tls_engine_poll(w->tls, w->now_ns);
	}
	stage_enter(w, WORKER_STAGE_grpc);
	work += wheel_advance(&w->wheel, w->now_ns, WORKER_TIMERS);
	work += openings_run(w);
	stage_enter(w, WORKER_STAGE_ring);
	if (unlikely(w->refused.over != w->refused.tail))
		refused_collect(w);
	work += endpoints_poll(w);
	stage_enter(w, WORKER_STAGE_encode);
	work += replies_retry(w);
	work += jobs_run(w);
	stage_enter(w, WORKER_STAGE_ring);
	work += nested_run(w);
	stage_enter(w, WORKER_STAGE_encode);
	work += grpc_server_run(w->grpc, w->now_ns);
	if (w->client != NULL)
		work += client_run(w->client, w->now_ns);
	work += connections_send(w);
	stage_enter(w, WORKER_STAGE_send);
	for (unsigned i = 0; i < w->ports_n; i++)
		net_flush(w->ports[i].net, w->now_ns);
	stage_enter(w, WORKER_STAGE_ring);
	endpoints_flush(w);
	if (w->draining)
		drain_check(w);
	return work;
}

/* Something stays to be done that no event announces. */
static bool unfinished(const struct worker *w)
{
	if (!list_empty(&w->due) || !list_empty(&w->job_turns) || !list_empty(&w->nested_due) ||
	    w->deferred_turn == w->turn)
		return true;
	if (w->tls != NULL && tls_engine_pending(w->tls))
		return true;
	if (w->client != NULL && client_pending(w->client))
		return true;
	for (unsigned i = 0; i < w->ports_n; i++) {
		if (net_flush_pending(w->ports[i].net))
			return true;
	}
	return false;
}

static void gauges_set(struct worker *w)
{
	counter_set(&w->counters.gauge_queued, balance_queued(w->balance));
	counter_set(&w->counters.gauge_pages,
		    pool_in_use(&w->page_pool) + pool_in_use(&w->large_pool));
}

int worker_run(void *worker)
{
	struct worker *w = worker;

	/* Sleeps of a few microseconds shall not be rounded up to 50. */
	(void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
	w->now_ns = w->traffic_ns = clock_ns();
	while (!w->stop) {
		stage_turn_begin(w);
		w->busy = turn(w) != 0;
		counter_inc(&w->counters.polls);
		if (w->busy) {
			if (w->was_idle)
				worker_idle_over(w);
			w->idle_since_ns = w->now_ns;
			gauges_set(w);
		} else {
			counter_inc(&w->counters.polls_empty);
			w->was_idle = true;
			if (!unfinished(w))
				worker_idle(w);
		}
		stage_turn_end(w, w->busy);
	}
	connections_abort(w);
	for (unsigned i = 0; i < w->ports_n; i++)
		net_flush(w->ports[i].net, w->now_ns);
	return 0;
}
