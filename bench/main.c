/* split-perf MODE [options]: picks the mode, prints one JSON object with --json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/perf.h"

static const struct perf_mode *const modes[] = {
	&perf_mode_codec, &perf_mode_ring, &perf_mode_dispatch,  &perf_mode_host,
	&perf_mode_rpc,   &perf_mode_tcp,  &perf_mode_isolation,
};

static void usage(FILE *to)
{
	fprintf(to, "usage: split-perf MODE [options]\n\nmodes:\n");
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		fprintf(to, "  %-10s %s\n", modes[i]->name, modes[i]->purpose);
	fprintf(to, "\noptions of every mode:\n"
		    "  --json          one JSON object on standard output, nothing else there\n"
		    "  --cores A,B     daemon's and host's core (default 0,1)\n"
		    "  --runs N        interleaved repetitions, medians are reported (default 5)\n"
		    "  --seconds S     aimed length of one run (default 1)\n"
		    "  --help          with a mode: its own options\n");
}

/* The processor's name, as a person would say which machine this was. */
static void cpu_name(char *name, size_t bytes)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char line[256];

	snprintf(name, bytes, "unknown");
	while (file && fgets(line, sizeof(line), file)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) == 0 && colon) {
			colon[strcspn(colon, "\n")] = '\0';
			snprintf(name, bytes, "%s", colon + 2);
			break;
		}
	}
	if (file)
		(void)fclose(file);
}

static int common_options(struct perf_options *options)
{
	const char *cores = perf_option(options, "--cores");
	const char *seconds = perf_option(options, "--seconds");
	uint64_t pair[2] = {0, 1};
	char *end = NULL;

	options->json = perf_flag(options, "--json");
	if (cores && perf_list("--cores", cores, pair, 2) != 2) {
		perf_warn("--cores: expected two cores like 0,1, not '%s'", cores);
		return -SPLIT_E_BASE_INVALID;
	}
	options->core_a = (unsigned)pair[0];
	options->core_b = (unsigned)pair[1];
	options->runs = (unsigned)perf_number("--runs", perf_option(options, "--runs"), 1, 101, 5);
	options->seconds = seconds ? strtod(seconds, &end) : 1.0;
	if (seconds && (*end != '\0' || !(options->seconds >= 0.01 && options->seconds <= 3600))) {
		perf_warn("--seconds: expected a number from 0.01 to 3600, not '%s'", seconds);
		return -SPLIT_E_BASE_INVALID;
	}
	return 0;
}

static const struct perf_mode *mode_find(const char *name)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(modes[i]->name, name) == 0)
			return modes[i];
	}
	return NULL;
}

static json_t *arguments_json(int argc, char **argv)
{
	json_t *list = json_array();

	for (int i = 1; i < argc; i++)
		json_array_append_new(list, json_string(argv[i]));
	return list;
}

int main(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		usage(argc < 2 ? stderr : stdout);
		return argc < 2 ? 2 : 0;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("split-perf %s\n", SPLITD_VERSION);
		return 0;
	}
	const struct perf_mode *mode = mode_find(argv[1]);

	if (!mode) {
		perf_warn("no mode named '%s'", argv[1]);
		usage(stderr);
		return 2;
	}
	char cpu[128];
	json_t *args = arguments_json(argc, argv);
	struct perf_options options = {.argc = argc - 1, .argv = argv + 1};

	if (perf_flag(&options, "--help")) {
		printf("split-perf %s: %s\n%s", mode->name, mode->purpose, mode->usage);
		json_decref(args);
		return 0;
	}
	if (common_options(&options) != 0)
		return 2;
	cpu_name(cpu, sizeof(cpu));
	json_t *out = json_pack("{s:s, s:s, s:s, s:o}", "mode", mode->name, "version",
				SPLITD_VERSION, "cpu", cpu, "args", args);
	int error = mode->run(&options, out);

	if (error == 0 && options.json) {
		json_dumpf(out, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
		putchar('\n');
	}
	json_decref(out);
	if (error != 0 && (error != -SPLIT_E_BASE_INVALID || !perf_warned()))
		perf_warn("%s: %s", mode->name, error_text(error));
	return error == 0 ? 0 : 1;
}
