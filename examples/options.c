#include "examples/options.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define CORES_MAX 256

struct example_options {
	const char *socket;
	const char *name;
	unsigned workers;
	unsigned workers_min;
	unsigned cores[CORES_MAX];
	size_t cores_n;
};

static struct split_host *running; /* what the signal handler stops */

static void on_signal(int number)
{
	(void)number;
	split_host_stop(running);
}

static void on_event(struct split_host *host, enum split_host_event event, const char *text,
		     void *arg)
{
	static const char *const words[] = {
		[SPLIT_HOST_ATTACHED] = NULL,
		[SPLIT_HOST_LOST] = "splitd is gone",
		[SPLIT_HOST_REFUSED] = "attach refused",
		[SPLIT_HOST_WAITING] = "waiting for splitd",
	};

	(void)host;
	(void)arg;
	if (event != SPLIT_HOST_ATTACHED) {
		fprintf(stderr, "%s: %s\n", words[event], text);
		return;
	}
	puts("attached");
	fflush(stdout);
}

/* A number up to `max` at *at, which moves behind it. */
static bool number_parse(const char **at, unsigned long max, unsigned *out)
{
	char *end;
	unsigned long v;

	if (**at < '0' || **at > '9')
		return false;
	v = strtoul(*at, &end, 10);
	if (v > max)
		return false;
	*out = (unsigned)v;
	*at = end;
	return true;
}

/* "0,2-4" */
static bool cores_parse(const char *text, struct example_options *o)
{
	do {
		unsigned first, last;

		if (!number_parse(&text, 1023, &first))
			return false;
		last = first;
		if (*text == '-') {
			text++;
			if (!number_parse(&text, 1023, &last) || last < first)
				return false;
		}
		for (unsigned core = first; core <= last; core++) {
			if (o->cores_n == CORES_MAX)
				return false;
			o->cores[o->cores_n++] = core;
		}
	} while (*text++ == ',');
	return text[-1] == '\0';
}

static bool options_parse(int argc, char **argv, struct example_options *o)
{
	static const struct option known[] = {
		{"socket", required_argument, NULL, 's'},
		{"name", required_argument, NULL, 'n'},
		{"workers", required_argument, NULL, 'w'},
		{"workers-min", required_argument, NULL, 'm'},
		{"cores", required_argument, NULL, 'c'},
		{NULL, 0, NULL, 0},
	};
	const char *at;
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 's':
			o->socket = optarg;
			break;
		case 'n':
			o->name = optarg;
			break;
		case 'w':
			at = optarg;
			if (!number_parse(&at, 256, &o->workers) || *at != '\0')
				return false;
			break;
		case 'm':
			at = optarg;
			if (!number_parse(&at, 256, &o->workers_min) || *at != '\0')
				return false;
			break;
		case 'c':
			if (!cores_parse(optarg, o))
				return false;
			break;
		default:
			return false;
		}
	}
	return optind == argc;
}

int example_serve(int argc, char **argv, const char *default_name,
		  int (*serve)(struct split_host *host, void *arg), void *arg)
{
	struct example_options o = {.name = default_name};
	struct split_host_options options = SPLIT_HOST_OPTIONS_INIT;
	struct sigaction action = {.sa_handler = on_signal};
	int rc;

	if (!options_parse(argc, argv, &o)) {
		fprintf(stderr,
			"usage: %s [--socket PATH] [--name NAME] [--workers N] [--workers-min N] "
			"[--cores LIST]\n",
			argv[0]);
		return 2;
	}
	options.cores = o.cores;
	options.cores_n = o.cores_n;
	options.workers_min = o.workers_min;
	options.event = on_event;
	running = split_host_attach(o.socket, o.name, &options);
	if (running == NULL) {
		perror("split_host_attach");
		return 1;
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	rc = serve(running, arg);
	if (rc == 0)
		rc = split_host_run(running, o.workers);
	if (rc != 0)
		fprintf(stderr, "%s: %s\n", argv[0], split_host_error_text(rc));
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	split_host_detach(running);
	return rc == 0 ? 0 : 1;
}

static int serve_service(struct split_host *host, void *service)
{
	return split_host_serve(host, service);
}

int example_main(int argc, char **argv, const char *default_name, ProtobufCService *service)
{
	return example_serve(argc, argv, default_name, serve_service, service);
}
