/* What pacing is for: messages with pauses between them, over a link that is slow, long, and has a
 * queue for few packets. */
#ifndef SPLITD_TESTS_SIM_SHALLOW_H
#define SPLITD_TESTS_SIM_SHALLOW_H

#include <stdbool.h>

/* After rte_eal_init(). Runs it without pacing and with, prints both; false, after a line, unless
 * pacing lost less than half as much and was no slower. The clock is virtual. */
bool shallow_run(void);

#endif
