/* The core broker: which of the hosts' cores is whose.
 *
 * `broker.cores` are shared out among the attached processes. Each gets its floor, as far as there
 * are enough; where there are not, processes share a core. What is left goes where it is used: once
 * in a period the one that needs a core most gets one, of the free ones, else of the process that
 * can best spare it, at most to its ceiling. A process's workers are spread over the cores it has.
 *
 * A worker that is to leave its core is asked by YIELDNOW, and does so between two calls. One that
 * is in a handler does not hear that; after `broker.grace` its thread gets the signal that its
 * process named at attach, whose handler moves it. That is asking, too: a process that ignores both
 * stays where it is, is counted (broker_unheeded), and harms those that share that core with it, as
 * any process may that the kernel lets run there.
 *
 * What processes need follows from what the workers measure (struct worker_load) and from the
 * states the hosts claim: one that lies gets cores up to its ceiling, which is what ceilings are
 * for. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/control/control_internal.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

/* Of the time of its cores, in permille: from here a process could use one more, and to here it
 * would do with one less. */
#define NEEDS_PERMILLE  850
#define SPARES_PERMILLE 600
/* Calls that wait longer than this mean the same as NEEDS_PERMILLE. */
#define WAITS_NS CLOCK_NS_PER_MS

/* ---- the plan: no clock, no memory of its own ------------------------------------------------ */

/* More is needed, of two processes: below the floor first, then the one with most work by core,
 * which is no more than all its time, whatever it claims; then the one with fewer cores. */
static unsigned need_of(const struct broker_want *w)
{
	unsigned most = w->workers < w->ceiling ? w->workers : w->ceiling;

	if (w->has < w->floor && w->has < most)
		return UINT32_MAX - w->has;
	if (w->has >= most || w->has == 0)
		return w->has >= most ? 0 : UINT32_MAX / 2;
	if (!w->waits && w->busy_permille < NEEDS_PERMILLE * w->has)
		return 0;
	return (w->busy_permille < 1000 * w->has ? w->busy_permille / w->has : 1000) +
	       (w->waits ? 1000 : 0);
}

/* What it would be without one: the less the better to take from; UINT32_MAX: not at all. */
static unsigned loss_of(const struct broker_want *w, bool urgent, const struct broker_want *to)
{
	if (w == to || w->has <= w->floor || w->has < 2)
		return UINT32_MAX;
	/* Who has two more than the one that asks gives, whatever it does with them: that ends when
	 * they have about as many. */
	if (!urgent && w->has < to->has + 2 &&
	    (w->waits || w->busy_permille > SPARES_PERMILLE * (w->has - 1)))
		return UINT32_MAX;
	return w->busy_permille / (w->has - 1) + (w->waits ? 1000 : 0);
}

struct broker_move broker_step(const struct broker_want *wants, unsigned n, unsigned free_cores)
{
	struct broker_move move = {-1, -1};
	unsigned best = 0, least = UINT32_MAX;

	for (unsigned i = 0; i < n; i++) {
		unsigned need = need_of(&wants[i]);

		if (need > best ||
		    (need == best && need != 0 && wants[i].has < wants[move.to].has)) {
			best = need;
			move.to = (int)i;
		}
	}
	if (move.to < 0 || free_cores != 0)
		return move;
	for (unsigned i = 0; i < n; i++) {
		const struct broker_want *to = &wants[move.to];
		unsigned loss = loss_of(&wants[i], to->has < to->floor, to);

		if (loss < least) {
			least = loss;
			move.from = (int)i;
		}
	}
	if (move.from < 0)
		move.to = -1;
	return move;
}

/* ---- carrying it out ------------------------------------------------------------------------ */

static bool host_counts(const struct control_host *host)
{
	return host->state == HOST_ACTIVE && endpoint_alive(host->endpoint);
}

/* Owner of each core, as index in `hosts`; -1: free. */
struct broker_view {
	struct control_host *hosts[BROKER_HOSTS_MAX];
	struct broker_want wants[BROKER_HOSTS_MAX];
	unsigned n, free;
};

static void want_fill(const struct control *control, const struct control_host *host,
		      struct broker_want *w)
{
	const struct config_host *ch = &control->p.config->hosts[host->host_index];
	uint64_t active = __atomic_load_n(&host->load[0].active, __ATOMIC_RELAXED);
	uint64_t busy = __atomic_load_n(&host->load[0].busy_permille, __ATOMIC_RELAXED);

	*w = (struct broker_want){
		.floor = ch->cores_floor,
		.ceiling = ch->cores_ceiling,
		.workers = endpoint_geometry(host->endpoint)->host_workers,
		.busy_permille = (unsigned)(active * busy),
	};
	for (unsigned d = 0; d < control->p.workers_n; d++)
		w->waits |= __atomic_load_n(&host->load[d].queue_ns, __ATOMIC_RELAXED) > WAITS_NS;
}

static void view_fill(struct control *control, struct broker_view *v)
{
	const struct config_broker *b = &control->p.config->broker;

	*v = (struct broker_view){0};
	list_for_each (pos, &control->hosts) {
		struct control_host *host = list_entry(pos, struct control_host, link);

		if (!host_counts(host) || v->n == BROKER_HOSTS_MAX)
			continue;
		v->hosts[v->n] = host;
		want_fill(control, host, &v->wants[v->n++]);
	}
	for (uint32_t i = 0; i < b->cores_n; i++) {
		bool owned = false;

		for (unsigned k = 0; k < v->n; k++) {
			if (control->core_owner[i] != v->hosts[k]->id)
				continue;
			v->wants[k].has++;
			owned = true;
		}
		if (!owned) {
			control->core_owner[i] = 0; /* whoever had it has gone */
			v->free++;
		}
	}
}

static void core_move(struct control *control, const struct broker_view *v, struct broker_move m)
{
	uint64_t from = m.from >= 0 ? v->hosts[m.from]->id : 0;

	for (uint32_t i = control->p.config->broker.cores_n; i-- > 0;) {
		if (control->core_owner[i] != from)
			continue;
		control->core_owner[i] = v->hosts[m.to]->id;
		counter_inc(&control->counters.broker_moves);
		v->hosts[m.to]->cores_changed = true;
		if (m.from >= 0)
			v->hosts[m.from]->cores_changed = true;
		return;
	}
}

static void worker_place(struct control_host *host, unsigned h, int core)
{
	struct host_thread *t = &host->threads[h];

	if (t->core == core)
		return;
	t->core = core;
	t->ask = true;
	t->signalled = false;
	endpoint_core_set(host->endpoint, h, core);
}

/* Spread the workers over the cores that the process has; where it has none, over a shared one. */
static void workers_place(struct control_host *host, unsigned index)
{
	const struct config_broker *b = &host->control->p.config->broker;
	int cores[CONFIG_BROKER_CORES_MAX];
	unsigned n = 0;

	for (uint32_t i = 0; i < b->cores_n; i++)
		if (host->control->core_owner[i] == host->id)
			cores[n++] = (int)b->cores[i];
	if (n == 0)
		cores[n++] = (int)b->cores[index % b->cores_n];
	for (unsigned h = 0; h < endpoint_geometry(host->endpoint)->host_workers; h++)
		worker_place(host, h, cores[h % n]);
	host->cores_n = n;
}

/* Signal one thread of a process that is attached. The thread's number is the host's word: the
 * kernel must say that it is one of this process, and while the process's pidfd is silent its
 * numbers are nobody else's. */
static bool thread_signal(const struct control_host *host, unsigned tid, unsigned signo)
{
	struct pollfd alive = {.fd = endpoint_pidfd(host->endpoint), .events = POLLIN};
	int fd, rc;

	fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
	if (!threads_is_of(host, tid) || poll(&alive, 1, 0) != 0) {
		rc = -1;
	} else if (fd >= 0) {
		rc = (int)syscall(SYS_pidfd_send_signal, fd, signo, NULL, 0);
	} else {
		/* Before Linux 6.9: its number may change hands between the look and this. */
		rc = (int)syscall(SYS_tgkill, host->pid, tid, signo);
	}
	if (fd >= 0)
		close(fd);
	return rc == 0;
}

static void thread_press(struct control_host *host, unsigned h, uint64_t now_ns)
{
	struct control *control = host->control;
	struct host_thread *t = &host->threads[h];
	struct worker_msg msg = {.kind = WORKER_MSG_LANE,
				 .endpoint = &host->shared,
				 .lane = h,
				 .lane_kind = TO_HOST_YIELDNOW};
	struct endpoint_worker_state said;

	if (!t->ask && (t->grace_ns == 0 || now_ns < t->grace_ns))
		return;
	endpoint_worker_state(host->endpoint, h, &said);
	if (t->ask) {
		/* One that sleeps retired, or has not begun, is asked once it is at work. */
		if (said.tid != 0 && said.state != HOST_RETIRED)
			t->ask = worker_post(control->p.workers[0], &msg) != 0;
		t->grace_ns = t->ask ? 0 : now_ns + control->p.config->broker.grace_ns;
		return;
	}
	if (said.core == t->core || said.state == HOST_RETIRED || said.state == HOST_PARKED) {
		t->grace_ns = 0;
	} else if (!t->signalled && host->yield_signal != 0 && said.tid != 0) {
		t->signalled = true;
		t->grace_ns = now_ns + control->p.config->broker.grace_ns;
		if (thread_signal(host, said.tid, host->yield_signal))
			counter_inc(&control->counters.broker_signals);
	} else {
		t->grace_ns = 0;
		counter_inc(&control->counters.broker_unheeded);
	}
}

static bool presses(const struct control_host *host)
{
	for (unsigned h = 0; h < endpoint_geometry(host->endpoint)->host_workers; h++)
		if (host->threads[h].grace_ns != 0)
			return true;
	return false;
}

void broker_tick(struct control *control, uint64_t now_ns)
{
	const struct config_broker *b = &control->p.config->broker;
	struct broker_view v;

	if (b->cores_n == 0)
		return;
	control->broker_presses = false;
	view_fill(control, &v);
	if (now_ns >= control->broker_next_ns) {
		struct broker_move m = broker_step(v.wants, v.n, v.free);

		if (m.to >= 0)
			core_move(control, &v, m);
		control->broker_next_ns = now_ns + b->period_ns;
	}
	for (unsigned i = 0; i < v.n; i++) {
		struct control_host *host = v.hosts[i];

		if (host->cores_changed || host->cores_n == 0) {
			host->cores_changed = false;
			workers_place(host, i);
		}
		for (unsigned h = 0; h < endpoint_geometry(host->endpoint)->host_workers; h++)
			thread_press(host, h, now_ns);
		control->broker_presses |= presses(host);
	}
}

int broker_wait_ms(const struct control *control, int otherwise_ms)
{
	const struct config_broker *b = &control->p.config->broker;
	uint64_t wait_ns = control->broker_presses ? b->grace_ns : b->period_ns;
	int ms = (int)(wait_ns / CLOCK_NS_PER_MS);

	if (b->cores_n == 0)
		return otherwise_ms;
	return ms < 1 ? 1 : ms < otherwise_ms ? ms : otherwise_ms;
}
