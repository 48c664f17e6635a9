/* split-perf host: what libsplit-host spends on a small unary call, the handler excluded. The work
 * is host_alone.c's, in a process of its own: for cycles as it is, for instructions under
 * callgrind. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/perf.h"

#define CALLS_CYCLES       100000u
#define CALLS_INSTRUCTIONS 5000u
#define CALLS_WARM         1000u /* host-alone's */

static const char *const shapes[] = {"batched", "single"};

/* host-alone lies beside split-perf. */
static int alone_path(char *path, size_t bytes)
{
	static const char name[] = "host-alone";
	ssize_t n = readlink("/proc/self/exe", path, bytes - 1);
	char *slash;

	if (n < 0)
		return -SPLIT_E_BASE_SYSTEM;
	path[n] = '\0';
	slash = strrchr(path, '/');
	if (slash == NULL || (size_t)(slash + 1 - path) + sizeof(name) > bytes)
		return -SPLIT_E_BASE_SYSTEM;
	memcpy(slash + 1, name, sizeof(name));
	return 0;
}

/* Run a command; the number that `format` finds in a line of its output. False: there is none. */
static bool number_from(const char *command, const char *format, double *out)
{
	FILE *pipe = popen(command, "re"); /* NOLINT(cert-env33-c): our own words */
	char line[512];
	bool found = false;

	while (pipe != NULL && fgets(line, sizeof(line), pipe) != NULL)
		found |= sscanf(line, format, out) == 1;
	return pipe != NULL && pclose(pipe) == 0 && found;
}

static int cycles_measure(const struct perf_options *o, const char *path, double result[2])
{
	double samples[2][101];

	for (unsigned run = 0; run < o->runs; run++) {
		for (unsigned i = 0; i < 2; i++) {
			char command[1024];

			snprintf(command, sizeof(command), "taskset -c %u '%s' %u %s", o->core_b,
				 path, CALLS_CYCLES, shapes[i]);
			if (!number_from(command, "%*u calls, %lf cycles each", &samples[i][run])) {
				perf_warn("host-alone %s gave no cycles", shapes[i]);
				return -SPLIT_E_BASE_SYSTEM;
			}
		}
	}
	for (unsigned i = 0; i < 2; i++)
		result[i] = perf_median(samples[i], o->runs);
	return 0;
}

/* Instructions a call; NULL JSON where valgrind is not to be had. */
static json_t *instructions_json(const struct perf_options *o, const char *path)
{
	json_t *object = json_object();

	for (unsigned i = 0; i < 2; i++) {
		char command[1024];
		double total = 0;

		snprintf(command, sizeof(command),
			 "valgrind --tool=callgrind --collect-atstart=no "
			 "--callgrind-out-file=/dev/null '%s' %u %s 2>&1",
			 path, CALLS_INSTRUCTIONS + CALLS_WARM, shapes[i]);
		if (!number_from(command, "%*s Collected : %lf", &total) || total <= 0) {
			perf_say(o, "instructions a call, %-12s not known: no valgrind\n",
				 shapes[i]);
			json_object_set_new(object, shapes[i], json_null());
			continue;
		}
		total /= CALLS_INSTRUCTIONS;
		perf_say(o, "instructions a call, %-12s %9.0f\n", shapes[i], total);
		json_object_set_new(object, shapes[i], json_real(total));
	}
	return object;
}

static int host_run(const struct perf_options *options, json_t *out)
{
	char path[512];
	double cycles[2];
	int err = alone_path(path, sizeof(path));

	if (perf_options_done(options) != 0)
		exit(2);
	if (err == 0)
		err = cycles_measure(options, path, cycles);
	if (err != 0)
		return err;
	json_object_set_new(out, "host_cycles_per_call",
			    json_pack("{s:f, s:f}", shapes[0], cycles[0], shapes[1], cycles[1]));
	perf_say(options, "cycles a call, batched / single  %9.0f / %.0f\n", cycles[0], cycles[1]);
	json_object_set_new(out, "host_instructions_per_call", instructions_json(options, path));
	json_object_set_new(out, "cycles_hz", json_integer((json_int_t)clock_cycles_hz()));
	return 0;
}

const struct perf_mode perf_mode_host = {
	.name = "host",
	.purpose = "cycles and instructions of libsplit-host for a call, the handler excluded",
	.usage = "",
	.run = host_run,
};
