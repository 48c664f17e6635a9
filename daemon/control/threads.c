/* The threads of attached hosts: what the kernel says of them.
 *
 * A host worker stores its thread's number in its control line once it begins. From it control has
 * the scheduler's word kept (sched.h), where that can be had, and asks the kernel which cores the
 * thread may run on: one that may only run on a daemon worker's own core can go on only while that
 * worker sleeps, which is no hint but a fact, and holds in `poll` mode too. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "daemon/control/control_internal.h"

/* How often the kernel is asked for affinities. */
#define AFFINITY_PERIOD_NS (200 * CLOCK_NS_PER_MS)

void threads_open(struct control *control)
{
	char why[160];

	if (sched_open(&control->sched, why, sizeof(why)) == 0)
		return;
	control->sched = NULL;
	counter_inc(&control->counters.sched_unavailable);
	log_info("which host threads are on a CPU is not known (%s): calls go by queue age", why);
}

void threads_close(struct control *control)
{
	sched_close(control->sched);
	control->sched = NULL;
}

int threads_host_init(struct control_host *host)
{
	unsigned n = endpoint_geometry(host->endpoint)->host_workers;

	host->threads = calloc(n, sizeof(*host->threads));
	host->load =
		aligned_alloc(BITS_CACHE_LINE, host->control->p.workers_n * sizeof(*host->load));
	if (host->threads == NULL || host->load == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(host->load, 0, host->control->p.workers_n * sizeof(*host->load));
	for (unsigned h = 0; h < n; h++)
		host->threads[h].core = -1;
	if (host->control->sched != NULL)
		host->words = sched_words_get(host->control->sched, n);
	host->words_n = n;
	return 0;
}

void threads_host_fini(struct control_host *host)
{
	if (host->words != NULL)
		sched_words_put(host->control->sched, host->words, host->words_n);
	host->words = NULL;
	free(host->threads);
	free(host->load);
	host->threads = NULL;
	host->load = NULL;
}

bool threads_is_of(const struct control_host *host, uint32_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%u", (int)host->pid, tid);
	return tid != 0 && access(path, F_OK) == 0;
}

static uint64_t worker_on_core(const struct control *control, int core)
{
	for (unsigned d = 0; d < control->p.workers_n; d++)
		if ((int)control->p.config->workers[d].core == core)
			return UINT64_C(1) << d;
	return 0;
}

/* The daemon worker whose core is all that the thread may use, as a bit; else 0. */
static uint64_t core_shared(const struct control *control, int tid)
{
	cpu_set_t cpus;

	if (sched_getaffinity(tid, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) != 1)
		return 0;
	for (int core = 0; core < CPU_SETSIZE; core++)
		if (CPU_ISSET(core, &cpus))
			return worker_on_core(control, core);
	return 0;
}

static void host_look(struct control_host *host, bool affinities)
{
	struct control *control = host->control;
	uint64_t shared = 0;

	for (unsigned h = 0; h < host->words_n; h++) {
		struct host_thread *t = &host->threads[h];
		struct endpoint_worker_state said;

		endpoint_worker_state(host->endpoint, h, &said);
		if (said.tid != t->tid) {
			t->tid = said.tid;
			if (host->words != NULL &&
			    sched_thread_watch(control->sched, host->pid, (int)t->tid,
					       &host->words[h]) == 0)
				counter_inc(&control->counters.sched_threads);
		}
		if (affinities && t->tid != 0 && said.state != HOST_RETIRED &&
		    threads_is_of(host, t->tid))
			shared |= core_shared(control, (int)t->tid);
	}
	if (affinities)
		__atomic_store_n(&host->cores_shared, shared, __ATOMIC_RELAXED);
}

void threads_tick(struct control *control, uint64_t now_ns)
{
	bool affinities = now_ns >= control->affinity_next_ns;

	if (affinities)
		control->affinity_next_ns = now_ns + AFFINITY_PERIOD_NS;
	list_for_each (pos, &control->hosts) {
		struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->state == HOST_ACTIVE)
			host_look(host, affinities);
	}
}
