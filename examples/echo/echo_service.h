/* The handlers of split.examples.Echo, for the example and for load generators that serve it. */
#ifndef SPLITD_EXAMPLES_ECHO_SERVICE_H
#define SPLITD_EXAMPLES_ECHO_SERVICE_H

#include <split-host.h>

/* Serve all four methods on `host`. `arg` is not used. 0 or SPLIT_E_*. */
int echo_serve(struct split_host *host, void *arg);

#endif
