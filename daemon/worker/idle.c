/* What a worker does that found nothing to do: look again for a while, then sleep in growing steps
 * until a host's eventfd, the control thread, a device's descriptor or a timer calls.
 *
 * Before it sleeps it arms every endpoint (shepherd's park protocol, mirrored): from then on a
 * completion makes the eventfd readable. Where each port's descriptor announces its frames the
 * worker sleeps until the next timer; a device without one is looked at after each step, so
 * idle.sleep_max bounds what sleep adds to the latency of a frame, and a sixty-fourth of the pause
 * before it where that is more (up to idle.quiet_sleep_max).
 *
 * Where a host's worker has this very core it can answer only while this worker sleeps: then there
 * is no spinning, and the kernel is asked not to let a wake-up interrupt the host (SCHED_BATCH), or
 * the first answer of many would end the host's turn. */
#include "daemon/worker/worker_internal.h"

#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_pause.h>

/* How soon a host's ring that had no room is looked at again. */
#define RING_LOOK_NS   (50 * CLOCK_NS_PER_US)
#define SLEEP_FIRST_NS (5 * CLOCK_NS_PER_US)
#define EVENTS_MAX     16

static int watch_fd(struct worker *w, int fd, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.fd = fd};

	return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -SPLIT_E_BASE_SYSTEM;
}

int idle_init(struct worker *w)
{
	int err = 0;

	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (w->epoll_fd < 0)
		return -SPLIT_E_BASE_SYSTEM;
	if (w->params.wake_fd >= 0)
		err = watch_fd(w, w->params.wake_fd, EPOLLIN);
	w->ports_announce = w->ports_n != 0;
	for (unsigned i = 0; i < w->ports_n && err == 0; i++) {
		int fd = port_queue_fd(w->ports[i].queue);

		w->ports_announce &= port_queue_announces(w->ports[i].queue);
		if (fd >= 0)
			err = watch_fd(w, fd, EPOLLIN);
	}
	w->idle_sleep_ns = SLEEP_FIRST_NS;
	return err;
}

void idle_fini(struct worker *w)
{
	if (w->epoll_fd >= 0)
		close(w->epoll_fd);
	w->epoll_fd = -1;
}

void idle_watch(struct worker *w, struct attached *ep)
{
	ep->event_fd = endpoint_eventfd(ep->port);
	/* Edge-triggered and never read: the host shares it and could have made it blocking. */
	if (ep->event_fd >= 0 && watch_fd(w, ep->event_fd, EPOLLIN | EPOLLET) != 0)
		worker_log_msg(w, LOG_LEVEL_WARN, "%s: its eventfd can't be watched: errno %d",
			       endpoint_name(ep->we->endpoint), errno);
}

void idle_unwatch(struct worker *w, const struct attached *ep)
{
	if (ep->event_fd >= 0)
		(void)epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, ep->event_fd, NULL);
}

static uint64_t next_timer_ns(const struct worker *w)
{
	uint64_t next = wheel_next_ns(&w->wheel);

	for (unsigned i = 0; i < w->ports_n; i++)
		next = RTE_MIN(next, net_timer_next_ns(w->ports[i].net));
	list_for_each (pos, &w->endpoints) {
		const struct attached *ep = list_entry(pos, struct attached, link);

		next = RTE_MIN(next, endpoint_next_ns(ep->port));
		next = RTE_MIN(next, attached_look_ns(ep));
		/* A host says nothing when it takes slots. */
		if (!list_empty(&ep->publish_wait) || !list_empty(&ep->grants))
			next = RTE_MIN(next, w->now_ns + RING_LOOK_NS);
	}
	return next;
}

/* Arm all endpoints, or none. */
static bool arm(struct worker *w)
{
	list_for_each (pos, &w->endpoints) {
		if (endpoint_arm_sleep(list_entry(pos, struct attached, link)->port))
			continue;
		for (struct list *p = pos->prev; p != &w->endpoints; p = p->prev)
			endpoint_disarm_sleep(list_entry(p, struct attached, link)->port);
		return false;
	}
	return true;
}

static void disarm(struct worker *w)
{
	list_for_each (pos, &w->endpoints)
		endpoint_disarm_sleep(list_entry(pos, struct attached, link)->port);
}

/* A device's socket whose interface went down says so until somebody asks. */
static void error_clear(int fd)
{
	int error;
	socklen_t n = sizeof(error);

	(void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n);
}

static void sleep_for(struct worker *w, uint64_t ns)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(ns / CLOCK_NS_PER_SEC),
		.tv_nsec = (long)(ns % CLOCK_NS_PER_SEC),
	};
	struct epoll_event events[EVENTS_MAX];
	uint64_t begin_ns = clock_ns(), drained;
	int n = epoll_pwait2(w->epoll_fd, events, EVENTS_MAX, &ts, NULL);

	for (int i = 0; i < n; i++) {
		if (events[i].data.fd == w->params.wake_fd &&
		    read(w->params.wake_fd, &drained, sizeof(drained)) < 0)
			drained = 0; /* EAGAIN: nothing to drain */
		if (unlikely(events[i].events & EPOLLERR))
			error_clear(events[i].data.fd);
	}
	if (n > 0)
		w->idle_sleep_ns = SLEEP_FIRST_NS;
	counter_inc(&w->counters.sleeps);
	w->slept_ns = clock_ns() - begin_ns;
	counter_add(&w->counters.sleep_ns, w->slept_ns);
}

/* Whether a host's worker is on this core; the scheduling policy follows it. */
static bool core_shared(struct worker *w)
{
	static const struct sched_param normal = {0};
	bool shared = false;

	list_for_each (pos, &w->endpoints)
		shared = shared ||
			 endpoint_shares_core(list_entry(pos, struct attached, link)->port);
	if (unlikely(shared != w->core_shared)) {
		int from = shared ? SCHED_OTHER : SCHED_BATCH;

		/* Another policy was somebody's choice. */
		if (sched_getscheduler(0) == from)
			(void)sched_setscheduler(0, shared ? SCHED_BATCH : SCHED_OTHER, &normal);
		w->core_shared = shared;
	}
	return shared;
}

/* The same as the kernel says: a host's thread may run nowhere else. Not a host's word. */
static bool core_shared_for_certain(const struct worker *w)
{
	list_for_each (pos, &w->endpoints) {
		const uint64_t *shared = list_entry(pos, struct attached, link)->we->cores_shared;

		if (shared != NULL &&
		    (__atomic_load_n(shared, __ATOMIC_RELAXED) >> w->params.index & 1) != 0)
			return true;
	}
	return false;
}

/* How long to look follows the pauses, as host-lib's workers do it: twice the average pause, from
 * an eighth of idle.spin to all of it; where pauses are longer than that, the eighth. */
#define GAP_WEIGHT 8
#define GAP_CAP    4
#define SPIN_PART  8

static uint64_t spin_wanted(const struct worker *w)
{
	uint64_t max = w->cfg->idle.spin_ns, wanted = 2 * w->gap_ns;

	if (w->gap_ns > max || wanted < max / SPIN_PART)
		return max / SPIN_PART;
	return RTE_MIN(wanted, max);
}

void worker_idle_over(struct worker *w)
{
	uint64_t gap = w->now_ns - w->idle_since_ns;

	w->was_idle = false;
	gap = RTE_MIN(gap, GAP_CAP * w->cfg->idle.spin_ns);
	w->gap_ns = (w->gap_ns * (GAP_WEIGHT - 1) + gap) / GAP_WEIGHT;
}

/* A device without a descriptor is looked at now and then. After a pause nobody notices a small
 * part of it more, and a worker that has nothing to do for long takes close to no CPU. */
#define QUIET_PART 64

static uint64_t sleep_max(const struct worker *w)
{
	const struct config_idle *cfg = &w->cfg->idle;
	uint64_t quiet = (w->now_ns - w->traffic_ns) / QUIET_PART;

	return RTE_MAX(cfg->sleep_max_ns, RTE_MIN(quiet, cfg->quiet_sleep_max_ns));
}

/* Whether to look again at once. Who shares a core with a host never does: the host can answer only
 * while we sleep. In `poll` mode that takes more than the host's word. */
static bool look_on(struct worker *w)
{
	if (w->cfg->idle.mode != CONFIG_IDLE_ADAPTIVE)
		return !core_shared_for_certain(w);
	return !core_shared(w) && w->now_ns - w->idle_since_ns < spin_wanted(w);
}

void worker_idle(struct worker *w)
{
	uint64_t next, ns;

	if (look_on(w)) {
		rte_pause();
		return;
	}
	next = next_timer_ns(w);
	if (next <= w->now_ns)
		return;
	ns = next - w->now_ns;
	if (!w->ports_announce)
		ns = RTE_MIN(ns, w->idle_sleep_ns);
	if (!arm(w))
		return;
	sleep_for(w, ns);
	disarm(w);
	w->idle_sleep_ns = RTE_MIN(w->idle_sleep_ns * 2, sleep_max(w));
}
