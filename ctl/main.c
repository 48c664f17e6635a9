/* splitctl: the operator's command. docs/man/splitctl.8. */
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"

enum exit_code { EXIT_GOOD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static void usage(FILE *to)
{
	fputs("usage: splitctl [OPTIONS] "
	      "stats|endpoints|services|ports|placement|reload|version\n"
	      "       splitctl [OPTIONS] drain|undrain HOST\n"
	      "       splitctl decode --proto-set FILE --type NAME [OPTIONS] [FILE]\n"
	      "\n"
	      "  stats            counters by layer and worker (those that are not 0)\n"
	      "  endpoints        attached host processes\n"
	      "  services         how each service's calls were spread\n"
	      "  drain HOST       no new calls for the processes of this name, or of this number\n"
	      "  undrain HOST     calls for them again\n"
	      "  ports            network ports and their links\n"
	      "  placement        which core and which memory node has what\n"
	      "  reload           read the configuration, certificates and keys again\n"
	      "  version          versions of splitctl and of the running splitd\n"
	      "  decode           protobuf messages as JSON (splitctl decode --help)\n"
	      "\n"
	      "  -p, --prefix P   the splitd with eal.file_prefix P (default: splitd)\n"
	      "  -s, --socket F   its telemetry socket, instead of -p\n"
	      "  -l, --layer L    stats: this layer only\n"
	      "  -a, --all        stats: counters that are 0 too\n"
	      "  -i, --interval N stats: again every N seconds\n"
	      "  -j, --json       JSON instead of tables\n"
	      "  -h, --help       print this\n"
	      "  -V, --version    the version of splitctl alone\n",
	      to);
}

static void json_print(const json_t *value, bool compact)
{
	json_dumpf(value, stdout, compact ? JSON_COMPACT : JSON_INDENT(2));
	fputc('\n', stdout);
}

static int stats_run(struct ctl_client *c, const struct ctl_options *o)
{
	for (;;) {
		json_t *stats;
		int result = ctl_gather_stats(c, o->layer, &stats);

		if (result != 0)
			return result;
		if (o->json)
			json_print(stats, o->interval_s != 0);
		else
			ctl_show_stats(stdout, stats, o->all);
		json_decref(stats);
		fflush(stdout);
		if (o->interval_s == 0)
			return 0;
		sleep(o->interval_s);
	}
}

static int list_run(struct ctl_client *c, const struct ctl_options *o)
{
	json_t *list;
	static const struct {
		int (*gather)(struct ctl_client *c, json_t **out);
		void (*show)(FILE *to, const json_t *rows);
	} lists[] = {
		[CTL_ENDPOINTS] = {ctl_gather_endpoints, ctl_show_endpoints},
		[CTL_SERVICES] = {ctl_gather_services, ctl_show_services},
		[CTL_PORTS] = {ctl_gather_ports, ctl_show_ports},
		[CTL_PLACEMENT] = {ctl_gather_placement, ctl_show_placement},
	};
	int result = lists[o->command].gather(c, &list);

	if (result != 0)
		return result;
	if (o->json)
		json_print(list, false);
	else
		lists[o->command].show(stdout, list);
	json_decref(list);
	return 0;
}

static int version_run(struct ctl_client *c, const struct ctl_options *o)
{
	const char *version;
	json_t *info;
	int result = ctl_ask(c, "/splitd/info", &info);

	if (result != 0)
		return result;
	version = json_string_value(json_object_get(info, "version"));
	if (version == NULL)
		version = "-";
	if (o->json) {
		json_t *both =
			json_pack("{s:s, s:s}", "splitctl", SPLITD_VERSION, "splitd", version);

		json_print(both, false);
		json_decref(both);
	} else {
		printf("splitctl %s\nsplitd %s (pid %d)\n", SPLITD_VERSION, version, c->pid);
	}
	json_decref(info);
	return 0;
}

static int decode_run(int argc, char **argv)
{
	struct ctl_decode_options options;
	char error[1024];

	if (!ctl_decode_parse(argc, argv, &options, error, sizeof(error))) {
		fprintf(stderr, "splitctl: %s\n", error);
		return EXIT_USAGE;
	}
	if (options.help) {
		ctl_decode_usage(stdout);
		return EXIT_GOOD;
	}
	if (ctl_decode(&options, stdout, error, sizeof(error)))
		return EXIT_GOOD;
	fflush(stdout);
	fprintf(stderr, "splitctl: %s\n", error);
	return EXIT_FAILED;
}

/* How long the control thread may take to read the files. */
#define RELOAD_TRIES   500
#define RELOAD_STEP_US 20000
/* How long until what drain and undrain asked for is seen. */
#define DRAIN_TRIES   100
#define DRAIN_STEP_US 5000

static int reload_run(struct ctl_client *c)
{
	json_t *answer;
	json_int_t asked, done = 0, good;
	int result = ctl_ask(c, "/splitd/reload", &answer);

	if (result != 0)
		return result;
	asked = json_integer_value(json_object_get(answer, "asked"));
	json_decref(answer);
	for (unsigned i = 0; i < RELOAD_TRIES && done < asked; i++) {
		usleep(RELOAD_STEP_US);
		result = ctl_ask(c, "/splitd/reloaded", &answer);
		if (result != 0)
			return result;
		done = json_integer_value(json_object_get(answer, "done"));
		good = json_integer_value(json_object_get(answer, "result"));
		if (done >= asked && good != 0) {
			const char *text = json_string_value(json_object_get(answer, "text"));

			(void)snprintf(c->error, sizeof(c->error), "nothing was changed: %s",
				       text != NULL ? text : "?");
			result = -SPLIT_E_CONFIG_INVALID;
		}
		json_decref(answer);
	}
	if (done >= asked)
		return result;
	(void)snprintf(c->error, sizeof(c->error), "splitd does not say whether it has reloaded");
	return -SPLIT_E_BASE_SYSTEM;
}

/* Whether all processes that `host` means are shown as told. */
static bool drain_shows(const json_t *endpoints, const struct ctl_options *o)
{
	const json_t *endpoint;
	size_t i;

	json_array_foreach(endpoints, i, endpoint)
	{
		const char *name = json_string_value(json_object_get(endpoint, "name"));
		const char *state = json_string_value(json_object_get(endpoint, "state"));
		char id[24];

		(void)snprintf(id, sizeof(id), "%" JSON_INTEGER_FORMAT,
			       json_integer_value(json_object_get(endpoint, "id")));
		if (name == NULL || state == NULL ||
		    (strcmp(id, o->host) != 0 && strcmp(name, o->host) != 0))
			continue;
		if (o->command == CTL_DRAIN ? strcmp(state, "active") == 0
					    : strncmp(state, "drain", 5) == 0)
			return false;
	}
	return true;
}

/* The control thread takes it up at its next tick: wait for that, so that `endpoints` shows it to
 * whoever asks next. */
static int drain_wait(struct ctl_client *c, const struct ctl_options *o)
{
	for (unsigned i = 0; i < DRAIN_TRIES; i++) {
		json_t *endpoints;
		int result = ctl_gather_endpoints(c, &endpoints);
		bool shows;

		if (result != 0)
			return result;
		shows = drain_shows(endpoints, o);
		json_decref(endpoints);
		if (shows)
			return 0;
		usleep(DRAIN_STEP_US);
	}
	return 0; /* it said LEAVING itself, or is stalled: nothing that we could wait for */
}

static int drain_run(struct ctl_client *c, const struct ctl_options *o)
{
	char request[128];
	json_int_t n;
	json_t *answer;
	int result;

	(void)snprintf(request, sizeof(request), "/splitd/%s,%s",
		       o->command == CTL_DRAIN ? "drain" : "undrain", o->host);
	result = ctl_ask(c, request, &answer);
	if (result != 0)
		return result;
	n = json_integer_value(json_object_get(answer, "endpoints"));
	if (o->json)
		json_print(answer, false);
	json_decref(answer);
	if (n > 0)
		return drain_wait(c, o);
	(void)snprintf(c->error, sizeof(c->error),
		       "%s: no attached process has this name or number", o->host);
	return -SPLIT_E_BASE_INVALID;
}

int main(int argc, char **argv)
{
	struct ctl_options options;
	struct ctl_client client;
	char error[512], path[128];
	int result;

	if (argc > 1 && strcmp(argv[1], "decode") == 0)
		return decode_run(argc - 1, argv + 1);
	if (!ctl_options_parse(argc, argv, &options, error, sizeof(error))) {
		fprintf(stderr, "splitctl: %s\n", error);
		return EXIT_USAGE;
	}
	if (options.command == CTL_HELP) {
		usage(stdout);
		return EXIT_GOOD;
	}
	if (options.only_version) {
		printf("splitctl %s\n", SPLITD_VERSION);
		return EXIT_GOOD;
	}
	if (options.socket == NULL) {
		if (ctl_socket_path(options.prefix, path, sizeof(path)) != 0) {
			fprintf(stderr, "splitctl: %s: not a file prefix\n", options.prefix);
			return EXIT_USAGE;
		}
		options.socket = path;
	}
	if (ctl_open(&client, options.socket) != 0) {
		fprintf(stderr, "splitctl: %s\n", client.error);
		return EXIT_FAILED;
	}
	if (options.command == CTL_STATS)
		result = stats_run(&client, &options);
	else if (options.command == CTL_RELOAD)
		result = reload_run(&client);
	else if (options.command == CTL_DRAIN || options.command == CTL_UNDRAIN)
		result = drain_run(&client, &options);
	else if (options.command == CTL_VERSION)
		result = version_run(&client, &options);
	else
		result = list_run(&client, &options);
	if (result != 0)
		fprintf(stderr, "splitctl: %s\n", client.error);
	ctl_close(&client);
	return result == 0 ? EXIT_GOOD : EXIT_FAILED;
}
