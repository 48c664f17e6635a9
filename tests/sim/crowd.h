/* Very many connections between two stacks: opened, held, asked, closed, under a virtual clock,
 * over a link that loses a little. What one costs is what the process has grown by. */
#ifndef SPLITD_TESTS_SIM_CROWD_H
#define SPLITD_TESTS_SIM_CROWD_H

#include <stdbool.h>
#include <stdint.h>

/* After rte_eal_init(). Prints what it did; false after a line that says what failed. */
bool crowd_run(uint32_t connections, uint64_t seed);

#endif
