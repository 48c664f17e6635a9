/* The control thread's loop: wait for the signal descriptor, the attach socket, the hosts' sockets
 * and pidfds and the workers' reports; every CONTROL_TICK_MS look at log rings, timeouts and links.
 *
 * Stopping is a chain of states, each left when all workers have answered or its time is over:
 * RUNNING → (SIGTERM) DRAINING: workers finish their calls → CLEARING: endpoints are taken from the
 * workers → STOPPED: workers are told to leave their loops. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "daemon/control/control_internal.h"

COUNTER_DEFINE(control, CONTROL_COUNTERS);

#define EVENTS_MAX     64
#define LINK_PERIOD_NS CLOCK_NS_PER_SEC

static void signals_served(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
}

int control_signals_block(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigset_t set;

	signals_served(&set);
	if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0 || sigaction(SIGPIPE, &ignore, NULL) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	return 0;
}

int control_watch(struct control *control, int fd, struct watch *watch)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = watch};

	return epoll_ctl(control->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0
									    : -SPLIT_E_BASE_SYSTEM;
}

void control_unwatch(struct control *control, int fd)
{
	/* Not watched (any more) is fine: hosts are unwatched at removal and again when freed. */
	if (fd >= 0)
		epoll_ctl(control->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

static int control_open(struct control *control)
{
	const struct config_control *cc = &control->p.config->control;
	char error[256];
	sigset_t set;

	control->signal_watch.kind = WATCH_SIGNAL;
	control->socket_watch.kind = WATCH_SOCKET;
	control->report_watch.kind = WATCH_REPORTS;
	signals_served(&set);
	control->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	control->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (control->epoll_fd < 0 || control->signal_fd < 0) {
		log_error("control: %s", strerror(errno));
		return -SPLIT_E_BASE_SYSTEM;
	}
	control->socket_fd = control_socket_open(cc->socket, cc->socket_mode, error, sizeof(error));
	if (control->socket_fd < 0) {
		log_error("%s", error);
		return control->socket_fd;
	}
	if (stat(cc->socket, &control->socket_file) != 0 ||
	    control_watch(control, control->signal_fd, &control->signal_watch) != 0 ||
	    control_watch(control, control->socket_fd, &control->socket_watch) != 0 ||
	    (control->p.report_fd >= 0 &&
	     control_watch(control, control->p.report_fd, &control->report_watch) != 0)) {
		log_error("control: %s", strerror(errno));
		return -SPLIT_E_BASE_SYSTEM;
	}
	return 0;
}

static void relay_tell(const char *line)
{
	log_error("%s", line);
}

static int relay_open(struct control *control)
{
	const struct relay_params p = {
		.config = &control->config_first->remote, /* which a reload leaves as it is */
		.attach_timeout_ns = control->p.config->control.attach_timeout_ns,
		.path = control->p.config_path != NULL ? control->p.config_path : "splitd",
		.cores = control->p.cores,
	};
	int result = relay_create(&p, relay_tell, &control->relay);

	control->relay_watch.kind = WATCH_RELAY;
	if (result == 0 &&
	    control_watch(control, relay_fd(control->relay), &control->relay_watch) != 0)
		result = -SPLIT_E_BASE_SYSTEM;
	if (result == 0)
		log_info("remote hosts may attach at port %u%s", p.config->port,
			 p.config->tls.cert[0] != '\0' ? ", with TLS" : "");
	return result;
}

int control_create(const struct control_params *p, struct control **out)
{
	struct control *control = calloc(1, sizeof(*control));
	int result;

	*out = NULL;
	if (control == NULL)
		return -SPLIT_E_BASE_NOMEM;
	control->p = *p;
	control->config_first = p->config;
	control->epoll_fd = control->signal_fd = control->socket_fd = -1;
	control->started_ns = clock_ns();
	list_init(&control->hosts);
	list_init(&control->departed);
	pthread_mutex_init(&control->lock, NULL);
	threads_open(control);
	result = manifests_load(control) ? control_open(control) : -SPLIT_E_CONFIG_INVALID;
	if (result == 0 && p->config->remote.port != 0)
		result = relay_open(control);
	if (result == 0 && p->config->telemetry.enabled)
		result = telemetry_open(control);
	if (result != 0) {
		control_destroy(control);
		return result;
	}
	*out = control;
	return 0;
}

static void state_set(struct control *control, enum control_state state)
{
	pthread_mutex_lock(&control->lock);
	control->state = state;
	pthread_mutex_unlock(&control->lock);
}

uint64_t control_workers_mask(const struct control *control)
{
	return control->p.workers_n == 64 ? UINT64_MAX : (UINT64_C(1) << control->p.workers_n) - 1;
}

static void drain_start(struct control *control)
{
	const struct config *cfg = control->p.config;

	control->drain_deadline_ns = clock_ns() + cfg->shutdown.drain_timeout_ns;
	control->drain_todo = control_workers_mask(control);
	control_unwatch(control, control->socket_fd);
	if (control->relay != NULL)
		control_unwatch(control, relay_fd(control->relay));
	state_set(control, CONTROL_DRAINING);
	control_notify("STOPPING=1");
	log_info("draining: no new connections, calls have %llu ms to finish",
		 (unsigned long long)(cfg->shutdown.drain_timeout_ns / CLOCK_NS_PER_MS));
}

static void drain_post(struct control *control)
{
	struct worker_msg msg = {.kind = WORKER_MSG_DRAIN,
				 .deadline_ns = control->drain_deadline_ns};

	for (unsigned w = 0; w < control->p.workers_n; w++) {
		uint64_t bit = UINT64_C(1) << w;

		if ((control->drain_todo & bit) && worker_post(control->p.workers[w], &msg) == 0)
			control->drain_todo &= ~bit;
	}
}

static void signals_read(struct control *control)
{
	struct signalfd_siginfo info;

	while (read(control->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGHUP) {
			control->reload_wanted = true;
		} else if (control->state == CONTROL_RUNNING) {
			log_info("signal %u from pid %u", info.ssi_signo, info.ssi_pid);
			drain_start(control);
		} else {
			log_warn("signal %u again: stopping at once", info.ssi_signo);
			control->cut = true;
			control->drain_deadline_ns = 0;
		}
	}
}

static void reports_read(struct control *control)
{
	uint64_t count;

	if (control->p.report_fd >= 0 && read(control->p.report_fd, &count, sizeof(count)) < 0 &&
	    errno != EAGAIN)
		log_warn("control: reading the report eventfd: %s", strerror(errno));
	for (unsigned w = 0; w < control->p.workers_n; w++) {
		struct worker_report report;

		while (worker_report_next(control->p.workers[w], &report)) {
			report.worker = w;
			if (report.kind == WORKER_REPORT_CONFIG) {
				reload_report(control, w);
				continue;
			}
			if (report.kind != WORKER_REPORT_DRAINED) {
				hosts_report(control, &report);
				continue;
			}
			control->drained |= UINT64_C(1) << w;
			control->cut |= report.cause != 0;
		}
	}
}

static void links_watch(struct control *control, uint64_t now_ns)
{
	if (now_ns < control->next_link_ns)
		return;
	for (unsigned i = 0; i < port_set_count(control->p.ports); i++) {
		struct port_info info;
		struct port_link link;

		port_link_get(control->p.ports, i, &link);
		if (link.up == control->link_up[i])
			continue;
		port_info_get(control->p.ports, i, &info);
		control->link_up[i] = link.up;
		log_info("port %s: link is %s", info.name, link.up ? "up" : "down");
	}
	control->next_link_ns = now_ns + LINK_PERIOD_NS;
}

static void logs_drain(struct control *control)
{
	for (unsigned w = 0; w < control->p.workers_n; w++)
		counter_add(&control->counters.log_lines,
			    log_ring_drain(worker_log(control->p.workers[w]), CONTROL_LOG_BUDGET));
}

static void stop_tick(struct control *control, uint64_t now_ns)
{
	bool late = now_ns >= control->drain_deadline_ns + CONTROL_GRACE_NS;

	if (control->state == CONTROL_DRAINING) {
		drain_post(control);
		if (control->drained != control_workers_mask(control) && !late)
			return;
		control->cut |= control->drained != control_workers_mask(control);
		hosts_remove_all(control, "splitd stops");
		state_set(control, CONTROL_CLEARING);
		control->drain_deadline_ns = now_ns;
	} else if (control->state == CONTROL_CLEARING) {
		if (list_empty(&control->hosts) || late)
			state_set(control, CONTROL_STOPPED);
	}
}

static void workers_stop(struct control *control)
{
	struct worker_msg msg = {.kind = WORKER_MSG_STOP};
	uint64_t todo = control_workers_mask(control);

	while (todo != 0) {
		for (unsigned w = 0; w < control->p.workers_n; w++) {
			uint64_t bit = UINT64_C(1) << w;

			if ((todo & bit) && worker_post(control->p.workers[w], &msg) == 0)
				todo &= ~bit;
		}
		/* A full ring empties, for its worker runs. */
		if (todo != 0)
			usleep(1000);
		reports_read(control);
	}
}

static void event_serve(struct control *control, const struct watch *watch)
{
	switch (watch->kind) {
	case WATCH_SIGNAL:
		signals_read(control);
		break;
	case WATCH_SOCKET:
		hosts_accept(control);
		break;
	case WATCH_REPORTS:
		reports_read(control);
		break;
	case WATCH_RELAY:
		guests_knock(control);
		break;
	case WATCH_HOST:
	case WATCH_PIDFD:
		hosts_event(watch->host, watch->kind);
		break;
	}
}

int control_run(struct control *control)
{
	while (control->state != CONTROL_STOPPED) {
		struct epoll_event events[EVENTS_MAX];
		int n = epoll_wait(control->epoll_fd, events, EVENTS_MAX,
				   broker_wait_ms(control, CONTROL_TICK_MS));
		uint64_t now_ns = clock_ns();

		if (n < 0 && errno != EINTR) {
			log_error("control: epoll_wait: %s", strerror(errno));
			control->cut = true;
			break;
		}
		for (int i = 0; i < n; i++)
			event_serve(control, events[i].data.ptr);
		reports_read(control);
		hosts_tick(control, now_ns);
		threads_tick(control, now_ns);
		broker_tick(control, now_ns);
		reload_tick(control);
		certificates_tick(control, now_ns);
		channels_tick(control);
		stop_tick(control, now_ns);
		links_watch(control, now_ns);
		logs_drain(control);
		refused_tick(control);
	}
	workers_stop(control);
	logs_drain(control);
	refused_drain(control);
	control->workers_over = true;
	telemetry_close(); /* the workers it reads are freed next */
	return control->cut ? -SPLIT_E_CONTROL_DRAIN : 0;
}

/* Only the file that is ours: another splitd may have put its own there since. */
static void socket_unlink(const struct control *control)
{
	const char *path = control->p.config->control.socket;
	struct stat now;

	if (lstat(path, &now) == 0 && now.st_dev == control->socket_file.st_dev &&
	    now.st_ino == control->socket_file.st_ino)
		unlink(path);
}

void control_destroy(struct control *control)
{
	if (control == NULL)
		return;
	telemetry_close();
	hosts_destroy_all(control);
	relay_destroy(control->relay);
	threads_close(control);
	departed_fini(control);
	manifests_free(control);
	if (control->socket_fd >= 0) {
		socket_unlink(control);
		close(control->socket_fd);
	}
	if (control->signal_fd >= 0)
		close(control->signal_fd);
	if (control->epoll_fd >= 0)
		close(control->epoll_fd);
	reload_fini(control);
	pthread_mutex_destroy(&control->lock);
	free(control);
}

const struct control_counters *control_counters_get(const struct control *control)
{
	return &control->counters;
}
