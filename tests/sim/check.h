/* What always holds of a connection, and of a stack, between two events (after a flush). Each
 * returns what is wrong, or NULL. */
#ifndef SPLITD_TESTS_SIM_CHECK_H
#define SPLITD_TESTS_SIM_CHECK_H

#include "daemon/net/net_internal.h"

/* Numbers in their order; records, timers, intervals and memory as they should be. Adds what is
 * held out of order to *ooo_mbufs. */
const char *sim_conn_wrong(const struct tcp_conn *c, uint32_t *ooo_mbufs);
/* `connections`: how many its table holds. */
const char *sim_stack_wrong(const struct net_stack *s, uint32_t connections);

#endif
