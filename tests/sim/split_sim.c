/* split-sim --seed N | --seeds A-B: run the network simulator; exits 1 if any seed failed. Counters
 * that moved are shown, so that one sees what the seeds reached.
 * --seconds N: seeds from a number that the clock gives, as many as fit.
 * --connections N: so many at once, held and asked (crowd.h).
 * --shallow: what pacing does for a link with a short queue (shallow.h). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>

#include "base/clock.h"
#include "tests/sim/crowd.h"
#include "tests/sim/shallow.h"
#include "tests/sim/sim.h"

struct seeds {
	uint64_t first, last;
	uint64_t end_ns; /* of the clock; 0: no limit */
};

static bool seeds_parse(int argc, char **argv, struct seeds *out)
{
	uint64_t *first = &out->first, *last = &out->last, seconds;

	if (argc == 3 && strcmp(argv[1], "--seconds") == 0) {
		if (sscanf(argv[2], "%" SCNu64, &seconds) != 1)
			return false;
		*first = clock_ns() / CLOCK_NS_PER_MS << 20; /* others than last time */
		*last = UINT64_MAX - 1;
		out->end_ns = clock_ns() + seconds * CLOCK_NS_PER_SEC;
		return true;
	}
	if (argc == 3 && strcmp(argv[1], "--seed") == 0)
		return sscanf(argv[2], "%" SCNu64, first) == 1 && (*last = *first, true);
	if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
		return sscanf(argv[2], "%" SCNu64 "-%" SCNu64, first, last) == 2 && *first <= *last;
	return false;
}

int main(int argc, char **argv)
{
	char *eal[] = {
		"split-sim", "--no-huge",      "--no-shconf",      "-m", "160", "--no-pci", "-c",
		"1",         "--no-telemetry", "--log-level=error"};
	uint64_t passed = 0, failed = 0;
	uint32_t connections = 0;
	bool shallow = argc == 2 && strcmp(argv[1], "--shallow") == 0;
	struct seeds seeds = {0};
	struct sim *sim;

	if (argc == 3 && strcmp(argv[1], "--connections") == 0) {
		connections = (uint32_t)strtoul(argv[2], NULL, 10);
	} else if (!shallow && !seeds_parse(argc, argv, &seeds)) {
		fprintf(stderr, "usage: split-sim --seed N | --seeds A-B | --seconds N | "
				"--connections N | --shallow\n");
		return 2;
	}
	sim = calloc(1, sizeof(*sim));
	if (sim == NULL || rte_eal_init(sizeof(eal) / sizeof(eal[0]), eal) < 0) {
		fprintf(stderr, "split-sim: cannot start EAL\n");
		return 2;
	}
	if (connections != 0) {
		free(sim);
		return crowd_run(connections, 1) ? 0 : 1;
	}
	if (shallow) {
		free(sim);
		return shallow_run() ? 0 : 1;
	}
	if (!sim_init()) {
		fprintf(stderr, "split-sim: cannot start EAL\n");
		return 2;
	}
	for (uint64_t seed = seeds.first;
	     seed <= seeds.last && (seeds.end_ns == 0 || clock_ns() < seeds.end_ns); seed++) {
		if (sim_run(sim, seed)) {
			passed++;
			continue;
		}
		failed++;
		printf("seed %" PRIu64 " failed: %s\n", seed, sim->failure);
		fflush(stdout);
	}
	for (size_t i = 0; i < net_counter_desc.count; i++) {
		if (sim->totals[i] != 0)
			printf("%14" PRIu64 " %s\n", sim->totals[i],
			       net_counter_desc.names[i].name);
	}
	printf("%14" PRIu64 " segments cut from larger ones\n%14" PRIu64 " joined\n", sim->cut,
	       sim->joined);
	free(sim->totals);
	free(sim->hoard);
	free(sim);
	printf("%" PRIu64 " passed, %" PRIu64 " failed\n", passed, failed);
	return failed != 0;
}
