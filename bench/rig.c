#include "bench/rig.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rte_eth_ring.h>
#include <rte_launch.h>
#include <rte_lcore.h>

#include "base/clock.h"
#include "base/log.h"
#include "bench/echo_host.h"
#include "bench/perf.h"
#include "config/config.h"
#include "daemon/control/control.h"
#include "daemon/port/port.h"
#include "shepherd/shepherd.h"

#define FRAMES     8192u /* of each ring; power of two */
#define ATTACH_NS  (10 * CLOCK_NS_PER_SEC)
#define MBUF_BYTES (2048 + RTE_PKTMBUF_HEADROOM)

struct rig {
	struct rig_options options;
	char dir[32];
	char socket[64];
	pid_t host;
	unsigned remote_port;
	struct config *config;
	struct port_set *ports;
	struct services_board *board;
	struct worker *worker;
	struct control *control;
	struct control_tls *tls;
	cpu_set_t cores;
	struct rte_ring *to_worker, *to_load;
	struct rte_mempool *pool;
	pthread_t control_thread;
	clockid_t worker_clock;
	_Atomic bool clock_known;
	atomic_bool control_ended;
	int wake_fd, report_fd;
	bool eal, launched, control_runs;
};

uint64_t process_cpu_ns(pid_t pid)
{
	struct timespec ts;
	clockid_t id;

	if (clock_getcpuclockid(pid, &id) != 0 || clock_gettime(id, &ts) != 0)
		return 0;
	return (uint64_t)ts.tv_sec * CLOCK_NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- the configuration ---------------------------------------------------------------------- */

static unsigned mbufs(const struct rig_options *o)
{
	/* What may be in flight each way, with room for small connections by the thousand. */
	return o->connections_max > 1000 ? 65535 : 16383;
}

static int config_make(struct rig *rig)
{
	const struct rig_options *o = &rig->options;
	unsigned memory_mib = 3 * mbufs(o) * (MBUF_BYTES + 256) / (1u << 20) + 64;
	unsigned calls = o->calls < 4096 ? 4096 : o->calls;
	struct config_report rep;
	char text[2560], tls[256] = "", alias[64] = "", remote[96] = "";
	int n, err;

	if (o->tls)
		(void)snprintf(tls, sizeof(tls),
			       ", \"tls\": {\"certificates\": [{\"cert\": \"%s/tls.pem\","
			       " \"key\": \"%s/tls.key\"}]}",
			       rig->dir, rig->dir);

	if (o->alias_min != RIG_ALIAS_DEFAULT)
		(void)snprintf(alias, sizeof(alias), "\"linearize\": {\"alias_min\": \"%lluB\"},",
			       (unsigned long long)o->alias_min);

	if (o->attach_tcp)
		(void)snprintf(remote, sizeof(remote),
			       "\"remote\": {\"address\": \"127.0.0.1\", \"port\": %u},",
			       rig->remote_port);

	n = snprintf(
		text, sizeof(text),
		"{\"eal\": {\"main_core\": %u, \"memory\": \"%uMiB\", \"hugepages\": true,"
		"  \"hugepages_fallback\": true, \"file_prefix\": \"split-perf-%d\","
		"  \"devices\": [\"net_ring0\"]},"
		"\"workers\": [{\"core\": %u}],"
		"\"idle\": {\"mode\": \"%s\"},"
		"\"ports\": [{\"name\": \"p0\", \"device\": \"net_ring0\", \"mtu\": 1500,"
		"  \"mbufs\": %u, \"checksum\": \"unverified\", \"addresses\": [\"%s/24\"]}],"
		"\"tcp\": {\"connections_max\": %u, \"backlog\": 1024},"
		"\"grpc\": {\"calls_max\": %u, \"queue_max\": %u},"
		"\"listeners\": [{\"name\": \"main\", \"address\": \"0.0.0.0\", \"port\": %u,"
		"  \"services\": [\"*\"]%s}],"
		"\"control\": {\"socket\": \"%s\"},"
		"\"hosts\": [{\"name\": \"echo\", \"uids\": [%u], \"hugepages_fallback\": true,"
		"  \"remote\": %s}],"
		"\"services\": [{\"name\": \"split.examples.Echo\", \"hosts\": [\"echo\"],"
		"  \"decode\": \"%s\", \"encode\": \"%s\"}],%s%s"
		"\"log\": {\"level\": \"warn\"}, \"telemetry\": {\"enabled\": false}}",
		o->core_load, memory_mib, (int)getpid(), o->core_daemon,
		o->adaptive ? "adaptive" : "poll", mbufs(o), RIG_ADDRESS, o->connections_max, calls,
		calls, RIG_PORT, tls, rig->socket, (unsigned)getuid(),
		o->attach_tcp ? "true" : "false", o->decode_at_host ? "host" : "daemon",
		o->encode_at_host ? "host" : "daemon", alias, remote);
	if (n < 0 || (size_t)n >= sizeof(text))
		return -SPLIT_E_BASE_INTERNAL;
	config_report_init(&rep);
	err = config_parse(text, (size_t)n, "split-perf", NULL, &rig->config, &rep);
	for (size_t i = 0; i < rep.count; i++)
		perf_warn("%s", rep.findings[i].text);
	config_report_fini(&rep);
	if (err != 0)
		return err;
	/* The device is made from two rings, below. */
	rig->config->eal.devices_n = 0;
	(void)snprintf(rig->config->ports[0].device, sizeof(rig->config->ports[0].device),
		       "net_ring_perf");
	return 0;
}

/* ---- up ------------------------------------------------------------------------------------- */

static int ports_make(struct rig *rig, struct port_error *why)
{
	/* One producer and one consumer each way: a worker and the bench. */
	const unsigned single = RING_F_SP_ENQ | RING_F_SC_DEQ;
	int err;

	rig->to_worker = rte_ring_create("to_worker", FRAMES, SOCKET_ID_ANY, single);
	rig->to_load = rte_ring_create("to_load", FRAMES, SOCKET_ID_ANY, single);
	if (rig->to_worker == NULL || rig->to_load == NULL ||
	    rte_eth_from_rings("perf", &rig->to_worker, 1, &rig->to_load, 1, 0) < 0)
		return -SPLIT_E_BASE_NOMEM;
	rig->pool = rte_pktmbuf_pool_create("load", mbufs(&rig->options), 256, 0, MBUF_BYTES,
					    SOCKET_ID_ANY);
	if (rig->pool == NULL)
		return -SPLIT_E_BASE_NOMEM;
	err = port_set_create(rig->config, &rig->ports, why);
	return err != 0 ? err : port_set_start(rig->ports, why);
}

static int worker_enter(void *arg)
{
	struct rig *rig = arg;

	if (pthread_getcpuclockid(pthread_self(), &rig->worker_clock) == 0)
		atomic_store(&rig->clock_known, true);
	return worker_run(rig->worker);
}

static void *control_enter(void *arg)
{
	struct rig *rig = arg;
	int err = control_run(rig->control);

	if (err != 0)
		perf_warn("the splitd inside stopped with: %s", error_text(err));
	atomic_store(&rig->control_ended, true);
	return NULL;
}

static void perf_line(const char *line)
{
	perf_warn("%s", line);
}

static int daemon_make(struct rig *rig)
{
	struct worker_params wp = {.config = rig->config, .ports = rig->ports, .workers_n = 1};
	struct control_params cp = {.config = rig->config,
				    .config_path = "(split-perf)",
				    .ports = rig->ports,
				    .workers = &rig->worker,
				    .workers_n = 1};
	int err = segment_sigbus_install();

	if (err == 0)
		err = control_tls_create(rig->config, "split-perf", perf_line, &rig->tls);
	if (err == 0)
		err = control_tls_start(rig->tls, &rig->cores);
	rig->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rig->report_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (err != 0 || rig->wake_fd < 0 || rig->report_fd < 0)
		return err != 0 ? err : -SPLIT_E_BASE_SYSTEM;
	wp.tls_contexts = control_tls_contexts(rig->tls);
	wp.tls_helpers = control_tls_helpers(rig->tls);
	cp.tls = rig->tls;
	wp.wake_fd = rig->wake_fd;
	wp.report_fd = rig->report_fd;
	cp.report_fd = rig->report_fd;
	err = worker_board_create(rig->config, &rig->board);
	wp.board = rig->board;
	if (err == 0)
		err = worker_create(&wp, &rig->worker);
	if (err == 0)
		err = control_create(&cp, &rig->control);
	if (err != 0)
		return err;
	if (rte_eal_remote_launch(worker_enter, rig, port_worker_lcore(0)) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	rig->launched = true;
	if (pthread_create(&rig->control_thread, NULL, control_enter, rig) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	rig->control_runs = true;
	return 0;
}

static int host_wait(const struct rig *rig)
{
	uint64_t end_ns = clock_ns() + ATTACH_NS;
	struct worker_gauges g;

	do {
		worker_gauges_read(rig->worker, &g);
		if (g.endpoints != 0)
			return 0;
		usleep(1000);
		if (waitpid(rig->host, NULL, WNOHANG) != 0) {
			perf_warn("the echo host ended before it was attached");
			return -SPLIT_E_BASE_SYSTEM;
		}
	} while (clock_ns() < end_ns);
	perf_warn("the echo host did not attach within 10 s");
	return -SPLIT_E_BASE_SYSTEM;
}

/* A TCP port of this machine that nobody has now; 0: none. */
static unsigned port_free(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(any);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any)) != 0 ||
	    getsockname(fd, (struct sockaddr *)&any, &len) != 0)
		any.sin_port = 0;
	if (fd >= 0)
		close(fd);
	return ntohs(any.sin_port);
}

static int start(struct rig *rig)
{
	char tcp[64];
	const struct echo_host_options host = {.socket =
						       rig->options.attach_tcp ? tcp : rig->socket,
					       .name = "echo",
					       .core = rig->options.core_host,
					       .spin_ns = rig->options.host_spin_ns};
	struct port_error why = {.text = ""};
	int err;

	if (mkdtemp(rig->dir) == NULL)
		return -SPLIT_E_BASE_SYSTEM;
	(void)snprintf(rig->socket, sizeof(rig->socket), "%s/host.sock", rig->dir);
	if (rig->options.attach_tcp)
		rig->remote_port = port_free();
	(void)snprintf(tcp, sizeof(tcp), "tcp://127.0.0.1:%u", rig->remote_port);
	/* First of all: a fork after DPDK and threads is no way to make a process. */
	rig->host = echo_host_fork(&host);
	if (rig->host < 0)
		return -SPLIT_E_BASE_SYSTEM;
	err = control_signals_block();
	if (err == 0 && rig->options.tls)
		err = link_tls_certificate(rig->dir);
	if (err == 0 && sched_getaffinity(0, sizeof(rig->cores), &rig->cores) != 0)
		err = -SPLIT_E_BASE_SYSTEM;
	if (err == 0)
		err = config_make(rig);
	if (err == 0) {
		log_level_set((enum log_level)rig->config->log.level);
		err = port_eal_start(rig->config, "split-perf", &why);
		rig->eal = err == 0;
	}
	if (err == 0)
		err = ports_make(rig, &why);
	if (why.text[0] != '\0')
		perf_warn("%s", why.text);
	if (err == 0)
		err = daemon_make(rig);
	return err != 0 ? err : host_wait(rig);
}

int rig_start(const struct rig_options *options, struct rig **out)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	int err;

	if (rig == NULL)
		return -SPLIT_E_BASE_NOMEM;
	rig->options = *options;
	rig->wake_fd = rig->report_fd = -1;
	(void)snprintf(rig->dir, sizeof(rig->dir), "/tmp/split-perf.XXXXXX");
	err = start(rig);
	if (err != 0) {
		rig_stop(rig);
		return err;
	}
	*out = rig;
	return 0;
}

/* ---- down ----------------------------------------------------------------------------------- */

static void worker_halt(struct rig *rig)
{
	const struct worker_msg stop = {.kind = WORKER_MSG_STOP};

	if (rig->control_runs) {
		(void)kill(getpid(), SIGTERM); /* control's signalfd: drain, then STOP */
		pthread_join(rig->control_thread, NULL);
	} else if (rig->launched) {
		while (worker_post(rig->worker, &stop) != 0)
			usleep(1000);
	}
	if (rig->launched)
		rte_eal_wait_lcore(port_worker_lcore(0));
}

void rig_stop(struct rig *rig)
{
	if (rig == NULL)
		return;
	worker_halt(rig);
	if (!rig->control_runs)
		control_destroy(rig->control);
	worker_destroy(rig->worker);
	worker_board_destroy(rig->board);
	if (rig->control_runs)
		control_destroy(rig->control);
	if (rig->ports != NULL) {
		port_set_stop(rig->ports);
		port_set_destroy(rig->ports);
	}
	rte_mempool_free(rig->pool);
	if (rig->wake_fd >= 0)
		close(rig->wake_fd);
	if (rig->report_fd >= 0)
		close(rig->report_fd);
	if (rig->eal)
		port_eal_stop();
	control_tls_destroy(rig->tls);
	config_free(rig->config);
	echo_host_end(rig->host);
	(void)unlink(rig->socket);
	if (rig->options.tls)
		link_tls_remove(rig->dir);
	(void)rmdir(rig->dir);
	free(rig);
}

/* ---- what it says --------------------------------------------------------------------------- */

struct link_ring rig_link(const struct rig *rig)
{
	return (struct link_ring){
		.tx = rig->to_worker,
		.rx = rig->to_load,
		.pool = rig->pool,
		.local = RIG_PEER,
		.remote = RIG_ADDRESS,
		.port = RIG_PORT,
		.connections_max = rig->options.connections_max,
		.yields = rig->options.core_host == rig->options.core_load,
	};
}

bool rig_running(const struct rig *rig)
{
	return !atomic_load(&rig->control_ended);
}

struct worker *rig_worker(struct rig *rig)
{
	return rig->worker;
}

uint64_t rig_counter(struct rig *rig, const char *layer, const char *name)
{
	struct worker_counter_block blocks[16];
	size_t n = worker_counters(rig->worker, blocks, 16);

	for (size_t b = 0; b < n; b++) {
		if (strcmp(blocks[b].layer, layer) != 0)
			continue;
		for (size_t i = 0; i < blocks[b].n; i++) {
			if (strcmp(blocks[b].desc->names[i].name, name) == 0)
				return counter_get(&blocks[b].values[i]);
		}
	}
	return 0;
}

/* CPU time of this process's threads whose name begins so. */
static uint64_t threads_cpu_ns(const char *name)
{
	DIR *tasks = opendir("/proc/self/task");
	uint64_t sum = 0;
	struct dirent *e;

	while (tasks != NULL && (e = readdir(tasks)) != NULL) {
		char path[300], comm[32] = "";
		unsigned long long ns = 0;
		FILE *f;

		(void)snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
		f = fopen(path, "re");
		if (f == NULL)
			continue;
		(void)!fgets(comm, sizeof(comm), f);
		(void)fclose(f);
		if (strncmp(comm, name, strlen(name)) != 0)
			continue;
		(void)snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", e->d_name);
		f = fopen(path, "re");
		if (f == NULL)
			continue;
		if (fscanf(f, "%20llu", &ns) == 1)
			sum += ns;
		(void)fclose(f);
	}
	if (tasks != NULL)
		(void)closedir(tasks);
	return sum;
}

void rig_sample(struct rig *rig, struct rig_sample *out)
{
	struct timespec ts = {0};

	*out = (struct rig_sample){
		.ns = clock_ns(),
		.busy_ns = rig_counter(rig, "worker", "busy_ns"),
		.idle_poll_ns = rig_counter(rig, "worker", "idle_poll_ns"),
		.sleep_ns = rig_counter(rig, "worker", "sleep_ns"),
		.preempted_ns = rig_counter(rig, "worker", "preempted_ns"),
		.host_cpu_ns = process_cpu_ns(rig->host),
		.relay_cpu_ns = rig->options.attach_tcp ? threads_cpu_ns("relay") : 0,
	};
	if (atomic_load(&rig->clock_known) && clock_gettime(rig->worker_clock, &ts) == 0)
		out->daemon_cpu_ns = (uint64_t)ts.tv_sec * CLOCK_NS_PER_SEC + (uint64_t)ts.tv_nsec;
	worker_stages_read(rig->worker, out->stages);
}
