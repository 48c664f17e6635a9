#include "bench/echo_host.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/perf.h"
#include "examples/echo/echo_service.h"
#include "host-lib/split-host.h"

static struct split_host *host;

static void on_term(int signo)
{
	(void)signo;
	/* It is async-signal-safe by its contract. NOLINTNEXTLINE(bugprone-signal-handler) */
	split_host_stop(host);
}

/* It is started before splitd and ended after it: nothing to tell. */
static void on_event(struct split_host *h, enum split_host_event event, const char *text, void *arg)
{
	(void)h;
	(void)arg;
	if (event == SPLIT_HOST_REFUSED)
		perf_warn("echo host: refused: %s", text);
}

static int serve(const struct echo_host_options *o)
{
	struct split_host_options options = SPLIT_HOST_OPTIONS_INIT;
	int result;

	options.cores = &o->core;
	options.cores_n = 1;
	options.spin_ns = o->spin_ns;
	options.event = on_event;
	options.backoff_max_ns = 20 * CLOCK_NS_PER_MS;
	host = split_host_attach(o->socket, o->name, &options);
	result = echo_serve(host, NULL);
	if (result == 0) {
		(void)signal(SIGTERM, on_term);
		result = split_host_run(host, 1);
	}
	if (result != 0)
		perf_warn("echo host: %s", split_host_error_text(result));
	split_host_detach(host);
	return result == 0 ? 0 : 1;
}

pid_t echo_host_fork(const struct echo_host_options *options)
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		perf_warn("fork: %s", strerror(errno));
	if (pid != 0)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)prctl(PR_SET_NAME, "split-perf-echo");
	(void)signal(SIGINT, SIG_IGN); /* the parent's business */
	if (getppid() != parent || perf_pin(options->core) != 0)
		_exit(1);
	_exit(serve(options));
}

void echo_host_end(pid_t pid)
{
	if (pid <= 0 || kill(pid, SIGTERM) != 0)
		return;
	for (unsigned i = 0; i < 500; i++) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return;
		usleep(10000);
	}
	perf_warn("the echo host did not end within 5 s of SIGTERM and was killed");
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}
