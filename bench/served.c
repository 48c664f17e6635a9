#include "bench/served.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/perf.h"

#define READY_MS 90000
#define STOP_MS  60000

uint64_t core_busy_ns(unsigned core)
{
	FILE *file = fopen("/proc/stat", "re");
	unsigned long long user, nice_, system, idle, iowait, irq, softirq, busy = 0;
	char line[512], name[16];

	snprintf(name, sizeof(name), "cpu%u ", core);
	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, strlen(name)) == 0 &&
		    sscanf(line + strlen(name), "%llu %llu %llu %llu %llu %llu %llu", &user, &nice_,
			   &system, &idle, &iowait, &irq, &softirq) == 7)
			busy = user + nice_ + system + irq + softirq;
	}
	if (file)
		(void)fclose(file);
	return busy * (CLOCK_NS_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* The service of split-perf isolation is no example: the demo does not know it. */
static int config_exchange(json_t *config)
{
	json_t *host = json_pack("{s:s, s:[i], s:b}", "name", "exchange", "uids", 0,
				 "hugepages_fallback", 1);
	json_t *service =
		json_pack("{s:s, s:[s]}", "name", "bench.exchange.Exchange", "hosts", "exchange");

	return json_array_append_new(json_object_get(config, "hosts"), host) |
	       json_array_append_new(json_object_get(config, "services"), service);
}

/* The demo's configuration with stage counting on. */
static int config_write(struct served *s, bool poll, const char *example)
{
	json_t *config = json_load_file(SPLIT_PERF_ROOT "/config/demo.json", 0, NULL);
	json_t *telemetry = json_object_get(config, "telemetry");
	json_t *idle = json_object_get(config, "idle");
	int fd, err = 0;

	(void)snprintf(s->config, sizeof(s->config), "/tmp/split-perf.XXXXXX");
	fd = config != NULL ? mkstemp(s->config) : -1;
	if (fd < 0 || json_object_set_new(telemetry, "stages", json_true()) != 0 ||
	    (poll && json_object_set_new(idle, "mode", json_string("poll")) != 0) ||
	    (example && strcmp(example, "exchange") == 0 && config_exchange(config) != 0) ||
	    json_dumpfd(config, fd, 0) != 0) {
		perf_warn("cannot make a configuration from config/demo.json");
		err = -SPLIT_E_BASE_SYSTEM;
	}
	if (fd >= 0)
		close(fd);
	else
		s->config[0] = '\0';
	json_decref(config);
	return err;
}

static void build_default(char *out, size_t bytes)
{
	ssize_t n = readlink("/proc/self/exe", out, bytes - 1);

	out[n > 0 ? n : 0] = '\0';
	for (unsigned up = 0; up < 2; up++) { /* bench/split-perf */
		char *slash = strrchr(out, '/');

		if (slash != NULL)
			*slash = '\0';
	}
}

static void peer_exec(const struct served_options *o, const char *build)
{
	char program[1200], core[16], mtu[16];

	snprintf(program, sizeof(program), "%s/%s", o->build != NULL ? o->build : build, o->peer);
	snprintf(core, sizeof(core), "%u", o->core_host);
	snprintf(mtu, sizeof(mtu), "%u", o->peer_mtu);
	execl("/bin/bash", "bash", SPLIT_PERF_ROOT "/bench/peers/peer.sh", program, core, mtu,
	      (char *)NULL);
	perf_warn("cannot run bench/peers/peer.sh: %s", strerror(errno));
	_exit(127);
}

static void script_exec(const struct served_options *o, const struct served *s, int out)
{
	char build[1024], daemon[16], host[16], cert[64], key[64];

	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	(void)dup2(out, STDOUT_FILENO);
	build_default(build, sizeof(build));
	if (o->peer != NULL)
		peer_exec(o, build);
	snprintf(daemon, sizeof(daemon), "%u", o->core_daemon);
	snprintf(host, sizeof(host), "%u", o->core_host);
	snprintf(cert, sizeof(cert), "%s/tls.pem", s->certificate);
	snprintf(key, sizeof(key), "%s/tls.key", s->certificate);
	execl("/bin/bash", "bash", SPLIT_PERF_ROOT "/scripts/serve.sh",
	      o->example != NULL ? o->example : "echo", "--port", o->port, "--no-setup", "--build",
	      o->build != NULL ? o->build : build, "--config", s->config, "--daemon-core", daemon,
	      "--host-core", host, o->tls ? "--tls-cert" : (char *)NULL, cert, "--tls-key", key,
	      (char *)NULL);
	perf_warn("cannot run scripts/serve.sh: %s", strerror(errno));
	_exit(127);
}

/* "ready netns=… address=… …" */
static int ready_parse(struct served *s, char *line)
{
	char *save = NULL, *word = strtok_r(line, " \n", &save);

	if (word == NULL || strcmp(word, "ready") != 0)
		return -SPLIT_E_BASE_SYSTEM;
	while ((word = strtok_r(NULL, " \n", &save)) != NULL) {
		char *value = strchr(word, '=');

		if (value == NULL)
			continue;
		*value++ = '\0';
		if (strcmp(word, "netns") == 0)
			snprintf(s->netns, sizeof(s->netns), "%s", value);
		else if (strcmp(word, "address") == 0)
			snprintf(s->address, sizeof(s->address), "%s", value);
		else if (strcmp(word, "prefix") == 0)
			snprintf(s->prefix, sizeof(s->prefix), "%s", value);
		else if (strcmp(word, "port") == 0)
			s->port = (unsigned)atoi(value);
		else if (strcmp(word, "splitd") == 0)
			s->splitd = atoi(value);
		else if (strcmp(word, "host") == 0)
			s->host = atoi(value);
	}
	if (!s->netns[0] || !s->address[0] || !s->port || !s->host)
		return -SPLIT_E_BASE_SYSTEM;
	return !s->prefix[0] == !s->splitd ? 0 : -SPLIT_E_BASE_SYSTEM;
}

static int ready_read(struct served *s, int fd)
{
	uint64_t end_ns = clock_ns() + READY_MS * CLOCK_NS_PER_MS;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char line[1024];
	size_t n = 0;

	while (n + 1 < sizeof(line) && clock_ns() < end_ns) {
		int ready = poll(&p, 1, 1000);
		ssize_t got;

		if (ready <= 0)
			continue;
		got = read(fd, line + n, 1);
		if (got <= 0)
			break;
		if (line[n++] == '\n') {
			line[n] = '\0';
			return ready_parse(s, line);
		}
	}
	perf_warn("the server did not come up");
	return -SPLIT_E_BASE_SYSTEM;
}

int served_enter(struct served *s)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/run/netns/%s", s->netns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	s->home_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || s->home_fd < 0 || setns(fd, CLONE_NEWNET) != 0) {
		perf_warn("cannot enter network namespace %s: %s", s->netns, strerror(errno));
		if (fd >= 0)
			close(fd);
		return -SPLIT_E_BASE_SYSTEM;
	}
	close(fd);
	return 0;
}

int served_start(const struct served_options *o, struct served *s)
{
	char path[128];
	int out[2], err;

	memset(s, 0, sizeof(*s));
	s->home_fd = s->ctl.fd = -1;
	s->core_daemon = o->core_daemon;
	s->core_host = o->core_host;
	err = o->peer == NULL ? config_write(s, o->poll, o->example) : 0;
	if (err == 0 && o->tls) {
		(void)snprintf(s->certificate, sizeof(s->certificate),
			       "/tmp/split-perf-tls.XXXXXX");
		err = mkdtemp(s->certificate) != NULL ? link_tls_certificate(s->certificate)
						      : -SPLIT_E_BASE_SYSTEM;
	}
	if (err == 0 && pipe2(out, O_CLOEXEC) != 0)
		err = -SPLIT_E_BASE_SYSTEM;
	if (err == 0) {
		s->script = fork();
		if (s->script == 0)
			script_exec(o, s, out[1]);
		close(out[1]);
		err = s->script > 0 ? ready_read(s, out[0]) : -SPLIT_E_BASE_SYSTEM;
		close(out[0]);
	}
	if (err == 0 && s->splitd != 0)
		err = ctl_socket_path(s->prefix, path, sizeof(path));
	if (err == 0 && s->splitd != 0) {
		err = ctl_open(&s->ctl, path);
		if (err != 0)
			perf_warn("%s", s->ctl.error);
	}
	if (err == 0)
		err = served_enter(s);
	if (err != 0)
		served_stop(s);
	return err;
}

bool served_running(const struct served *s)
{
	return (s->splitd == 0 || kill(s->splitd, 0) == 0) && kill(s->host, 0) == 0;
}

void served_leave(struct served *s)
{
	if (s->home_fd < 0)
		return;
	if (setns(s->home_fd, CLONE_NEWNET) != 0)
		perf_warn("cannot leave namespace %s: %s", s->netns, strerror(errno));
	close(s->home_fd);
	s->home_fd = -1;
}

void served_stop(struct served *s)
{
	served_leave(s);
	if (s->ctl.fd >= 0)
		ctl_close(&s->ctl);
	if (s->script > 0) {
		bool ended = false;

		(void)kill(s->script, SIGTERM);
		for (unsigned i = 0; i < STOP_MS / 10 && !ended; i++) {
			ended = waitpid(s->script, NULL, WNOHANG) != 0;
			if (!ended)
				usleep(10000);
		}
		if (!ended)
			perf_warn("the server's script (pid %d) does not end", (int)s->script);
		s->script = 0;
	}
	if (s->config[0] != '\0')
		(void)unlink(s->config);
	s->config[0] = '\0';
	if (s->certificate[0] != '\0') {
		link_tls_remove(s->certificate);
		(void)rmdir(s->certificate);
		s->certificate[0] = '\0';
	}
}

static uint64_t value_of(const json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}

int served_sample(struct served *s, struct rig_sample *out)
{
	json_t *counters = NULL, *stages = NULL;
	int err = 0;

	if (s->splitd == 0) {
		*out = (struct rig_sample){.ns = clock_ns(),
					   .host_cpu_ns = process_cpu_ns(s->host)};
		return 0;
	}
	err = ctl_ask(&s->ctl, "/splitd/counters,worker,0", &counters);
	if (err == 0)
		err = ctl_ask(&s->ctl, "/splitd/stages,0", &stages);
	if (err != 0)
		perf_warn("%s", s->ctl.error);
	*out = (struct rig_sample){
		.ns = clock_ns(),
		.busy_ns = value_of(counters, "busy_ns"),
		.idle_poll_ns = value_of(counters, "idle_poll_ns"),
		.sleep_ns = value_of(counters, "sleep_ns"),
		.preempted_ns = value_of(counters, "preempted_ns"),
		.daemon_cpu_ns = process_cpu_ns(s->splitd),
		.host_cpu_ns = process_cpu_ns(s->host),
	};
	for (unsigned i = 0; i < WORKER_STAGE_COUNT; i++)
		out->stages[i] = value_of(stages, worker_stage_name((enum worker_stage)i));
	json_decref(counters);
	json_decref(stages);
	return err;
}
