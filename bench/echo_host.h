/* The echo service as a process of its own, on libsplit-host. */
#ifndef SPLITD_BENCH_ECHO_HOST_H
#define SPLITD_BENCH_ECHO_HOST_H

#include <stdint.h>
#include <sys/types.h>

struct echo_host_options {
	const char *socket, *name;
	unsigned core;
	uint64_t spin_ns; /* 0: host-lib's default; UINT64_MAX: never parks */
};

/* Fork it; call before there are threads. It attaches as soon as somebody listens, serves until
 * SIGTERM, and ends when its parent does. Negative: a line said why. */
pid_t echo_host_fork(const struct echo_host_options *options);
/* SIGTERM, wait for it at most 5 s, then SIGKILL. pid <= 0 is fine. */
void echo_host_end(pid_t pid);

#endif
