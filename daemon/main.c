/* splitd: from the command line to running workers, and back.
 *
 * Start: configuration → signals blocked → EAL → ports → workers → control. Stop is the same way
 * back, in two passes: everything leaves its loop, then everything is freed. What fails says so in
 * one line and the exit code tells the kind (docs/man/splitd.8). */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <numa.h>
#include <rte_launch.h>
#include <rte_version.h>

#include "base/log.h"
#include "config/config.h"
#include "daemon/control/control.h"
#include "daemon/port/port.h"
#include "daemon/tls/tls.h"
#include "daemon/worker/worker.h"
#include "shepherd/shepherd.h"

enum exit_code {
	EXIT_GOOD = 0,
	EXIT_CONFIG = 1, /* the configuration is not valid */
	EXIT_USAGE = 2,  /* the command line is wrong */
	EXIT_START = 3,  /* could not be started: memory, a port, the attach socket */
};

struct options {
	const char *config_path;
	bool check;
};

/* Everything that is running, for the way back. */
struct splitd {
	const char *config_path;
	const struct config *config;
	cpu_set_t cores; /* before DPDK pins threads */
	struct port_set *ports;
	struct services_board *board;
	struct worker *workers[CONFIG_WORKERS_MAX];
	int wake_fds[CONFIG_WORKERS_MAX];
	unsigned launched; /* workers in their loops */
	int report_fd;
	struct control *control;
	struct control_tls *tls;
	struct control_channels *channels;
};

static void usage(FILE *to)
{
	fputs("usage: splitd -c FILE [--check]\n"
	      "       splitd --version | --help\n"
	      "\n"
	      "  -c, --config FILE  the configuration (JSON)\n"
	      "      --check        check it, print every finding, start nothing\n"
	      "  -V, --version      print the versions of splitd and DPDK\n"
	      "  -h, --help         print this\n"
	      "\n"
	      "SIGTERM, SIGINT: drain and stop (again: at once). SIGHUP: read FILE and all "
	      "certificates again.\n"
	      "Exit codes: 0 good, 1 bad configuration, 2 bad command line, 3 start failed.\n",
	      to);
}

/* -1: go on; else the exit code. */
static int options_parse(int argc, char **argv, struct options *out)
{
	static const struct option longs[] = {
		{"config", required_argument, NULL, 'c'},
		{"check", no_argument, NULL, 'k'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int option;

	*out = (struct options){NULL, false};
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":c:hV", longs, NULL)) != -1) {
		switch (option) {
		case 'c':
			out->config_path = optarg;
			break;
		case 'k':
			out->check = true;
			break;
		case 'V':
			printf("splitd %s (%s)\n", SPLITD_VERSION, rte_version());
			return EXIT_GOOD;
		case 'h':
			usage(stdout);
			return EXIT_GOOD;
		default:
			fprintf(stderr, "splitd: %s: %s (see splitd --help)\n", argv[optind - 1],
				option == ':' ? "needs a value" : "unknown option");
			return EXIT_USAGE;
		}
	}
	if (optind != argc) {
		fprintf(stderr, "splitd: %s: unexpected argument (see splitd --help)\n",
			argv[optind]);
		return EXIT_USAGE;
	}
	if (out->config_path == NULL) {
		fprintf(stderr, "splitd: no configuration given: -c FILE (see splitd --help)\n");
		return EXIT_USAGE;
	}
	return -1;
}

static struct config *config_read(const char *path)
{
	struct config_report report;
	struct config *config = NULL;
	int result;

	config_report_init(&report);
	result = config_load(path, &config, &report);
	for (size_t i = 0; i < report.count; i++)
		fprintf(stderr, "%s\n", report.findings[i].text);
	if (report.dropped != 0)
		fprintf(stderr, "%s: and %zu more\n", path, report.dropped);
	if (result != 0 && report.count == 0)
		fprintf(stderr, "%s: %s\n", path, error_text(result));
	config_report_fini(&report);
	return config;
}

/* Each host costs descriptors by worker; the soft limit of 1,024 is soon reached. */
static void descriptors_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		log_warn("RLIMIT_NOFILE could not be raised: %s", strerror(errno));
}

static int worker_start(struct splitd *d, unsigned index)
{
	const struct config_worker *cw = &d->config->workers[index];
	bool placed = cw->numa_node != CONFIG_NONE && numa_available() >= 0;
	struct worker_params params = {
		.config = d->config,
		.ports = d->ports,
		.index = index,
		.workers_n = d->config->workers_n,
		.board = d->board,
		.report_fd = d->report_fd,
		.tls_contexts = control_tls_contexts(d->tls),
		.tls_helpers = control_tls_helpers(d->tls),
		.channel_tls = control_channels_contexts(d->channels),
	};
	int result;

	d->wake_fds[index] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (d->wake_fds[index] < 0) {
		log_error("worker %u: eventfd: %s", index, strerror(errno));
		return -SPLIT_E_BASE_SYSTEM;
	}
	params.wake_fd = d->wake_fds[index];
	/* Its tables come from malloc: on the memory node of its core, like its mbufs. */
	if (placed)
		numa_set_preferred(cw->numa_node);
	result = worker_create(&params, &d->workers[index]);
	if (placed)
		numa_set_localalloc();
	return result;
}

static int workers_start(struct splitd *d)
{
	int result = worker_board_create(d->config, &d->board);

	d->report_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (d->report_fd < 0) {
		log_error("eventfd: %s", strerror(errno));
		return -SPLIT_E_BASE_SYSTEM;
	}
	for (unsigned i = 0; i < d->config->workers_n && result == 0; i++)
		result = worker_start(d, i);
	return result;
}

static int daemon_start(struct splitd *d)
{
	struct control_params params;
	struct port_error error;
	int result;

	result = port_set_create(d->config, &d->ports, &error);
	if (result == 0)
		result = port_set_start(d->ports, &error);
	if (result != 0) {
		log_error("%s", error.text);
		return result;
	}
	result = segment_sigbus_install();
	if (result != 0) {
		log_error("SIGBUS handler: %s", error_text(result));
		return result;
	}
	result = control_tls_start(d->tls, &d->cores);
	if (result != 0) {
		log_error("TLS helpers: %s", error_text(result));
		return result;
	}
	result = control_channels_start(d->channels);
	if (result != 0) {
		log_error("names of channels: %s", error_text(result));
		return result;
	}
	result = workers_start(d);
	if (result != 0)
		return result;
	params = (struct control_params){
		.config = d->config,
		.config_path = d->config_path,
		.ports = d->ports,
		.workers = d->workers,
		.workers_n = d->config->workers_n,
		.report_fd = d->report_fd,
		.cores = &d->cores,
		.tls = d->tls,
		.channels = d->channels,
	};
	return control_create(&params, &d->control);
}

static int workers_launch(struct splitd *d)
{
	for (unsigned i = 0; i < d->config->workers_n; i++) {
		int result = rte_eal_remote_launch(worker_run, d->workers[i], port_worker_lcore(i));

		if (result != 0) {
			log_error("worker %u could not be launched: %s", i, strerror(-result));
			return -SPLIT_E_BASE_SYSTEM;
		}
		d->launched = i + 1;
	}
	return 0;
}

/* Workers that run when control never got to stop them. */
static void workers_abandon(struct splitd *d)
{
	struct worker_msg stop = {.kind = WORKER_MSG_STOP};

	for (unsigned i = 0; i < d->launched; i++)
		while (worker_post(d->workers[i], &stop) != 0)
			usleep(1000);
}

static void daemon_free(struct splitd *d)
{
	for (unsigned i = 0; i < d->launched; i++)
		rte_eal_wait_lcore(port_worker_lcore(i));
	for (unsigned i = 0; i < d->config->workers_n; i++) {
		worker_destroy(d->workers[i]);
		if (d->wake_fds[i] >= 0)
			close(d->wake_fds[i]);
	}
	worker_board_destroy(d->board);
	control_destroy(d->control);
	if (d->ports != NULL) {
		port_set_stop(d->ports);
		port_set_destroy(d->ports);
	}
	if (d->report_fd >= 0)
		close(d->report_fd);
}

static void ready_print(const struct splitd *d)
{
	printf("splitd: ready version=%s pid=%d ports=%u workers=%u socket=%s", SPLITD_VERSION,
	       (int)getpid(), d->config->ports_n, d->config->workers_n, d->config->control.socket);
	if (d->config->telemetry.enabled)
		printf(" telemetry=%s/dpdk_telemetry.v2", port_runtime_dir());
	printf("\n");
	fflush(stdout);
	control_notify("READY=1");
}

static int daemon_run(const char *config_path, const struct config *config, struct control_tls *tls,
		      struct control_channels *channels)
{
	struct splitd d = {
		.config_path = config_path,
		.config = config,
		.tls = tls,
		.channels = channels,
		.report_fd = -1,
	};
	struct port_error error;
	int result;

	for (unsigned i = 0; i < CONFIG_WORKERS_MAX; i++)
		d.wake_fds[i] = -1;
	if (control_signals_block() != 0) {
		log_error("signals: %s", strerror(errno));
		return EXIT_START;
	}
	if (sched_getaffinity(0, sizeof(d.cores), &d.cores) != 0) {
		log_error("sched_getaffinity: %s", strerror(errno));
		return EXIT_START;
	}
	descriptors_raise();
	result = port_eal_start(config, "splitd", &error);
	if (result != 0) {
		log_error("%s", error.text[0] != '\0' ? error.text : error_text(result));
		return EXIT_START;
	}
	result = daemon_start(&d);
	if (result == 0)
		result = workers_launch(&d);
	if (result != 0) {
		workers_abandon(&d);
		control_destroy(d.control);
		d.control = NULL;
		daemon_free(&d);
		port_eal_stop();
		return EXIT_START;
	}
	ready_print(&d);
	result = control_run(d.control);
	log_info("stopped: %s", result == 0 ? "every call has ended" : error_text(result));
	daemon_free(&d);
	port_eal_stop();
	return EXIT_GOOD;
}

static void finding_print(const char *line)
{
	fprintf(stderr, "%s\n", line);
}

int main(int argc, char **argv)
{
	struct options options;
	struct config *config;
	struct control_tls *tls;
	struct control_channels *channels;
	int code = options_parse(argc, argv, &options), result;

	if (code >= 0)
		return code;
	tls_library_init(); /* before anything else makes use of OpenSSL */
	config = config_read(options.config_path);
	if (config == NULL)
		return EXIT_CONFIG;
	/* All that is wrong is told at once, so each is asked. */
	result = control_tls_create(config, options.config_path, finding_print, &tls);
	if (control_channels_create(config, options.config_path, finding_print, &channels) != 0)
		result = -SPLIT_E_CONFIG_INVALID;
	if (control_manifests_check(config, options.config_path, finding_print) != 0)
		result = -SPLIT_E_CONFIG_INVALID;
	if (result != 0) {
		code = EXIT_CONFIG;
	} else if (options.check) {
		printf("%s: valid\n", options.config_path);
		code = EXIT_GOOD;
	} else {
		log_level_set((enum log_level)config->log.level);
		code = daemon_run(options.config_path, config, tls, channels);
	}
	control_channels_destroy(channels);
	control_tls_destroy(tls);
	config_free(config);
	return code;
}
