/* split-sim --seed N | --seeds A-B: run the network simulator; exits 1 if any seed failed. Counters
 * that moved are shown, so that one sees what the seeds reached. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>

#include "tests/sim/sim.h"

static bool seeds_parse(int argc, char **argv, uint64_t *first, uint64_t *last)
{
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
	uint64_t first, last, passed = 0, failed = 0;
	struct sim *sim;

	if (!seeds_parse(argc, argv, &first, &last)) {
		fprintf(stderr, "usage: split-sim --seed N | --seeds A-B\n");
		return 2;
	}
	sim = calloc(1, sizeof(*sim));
	if (sim == NULL || rte_eal_init(sizeof(eal) / sizeof(eal[0]), eal) < 0 || !sim_init()) {
		fprintf(stderr, "split-sim: cannot start EAL\n");
		return 2;
	}
	for (uint64_t seed = first; seed <= last; seed++) {
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
	free(sim->totals);
	free(sim->hoard);
	free(sim);
	printf("%" PRIu64 " passed, %" PRIu64 " failed\n", passed, failed);
	return failed != 0;
}
