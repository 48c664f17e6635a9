/* splitd in this process, for the benches: the real configuration, port, worker and control code
 * over a net_ring port, with an echo host that is a process of its own (forked before DPDK starts)
 * and attaches by the real protocol. The bench's thread is the other end of the ring.
 *
 *     rig_start → (bench on the calling thread) → rig_stop
 *
 * One rig in a process, once. The calling thread becomes DPDK's main lcore, pinned to core_load;
 * splitd's control runs on a thread of its own there, asleep nearly always. SIGTERM and SIGINT
 * drain the splitd inside, as they would splitd: rig_running() turns false.
 */
#ifndef SPLITD_BENCH_RIG_H
#define SPLITD_BENCH_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "bench/link.h"
#include "daemon/worker/worker.h"

#define RIG_ADDRESS "198.18.0.2"
#define RIG_PEER    "198.18.0.1"
#define RIG_PORT    50051

struct rig;

struct rig_options {
	unsigned core_daemon, core_host, core_load;
	bool adaptive;         /* idle.mode; else poll */
	uint64_t host_spin_ns; /* 0: host-lib's default */
	unsigned connections_max;
	uint32_t message_bytes; /* largest payload */
	unsigned calls;         /* at once */
	bool tls;
	bool decode_at_host, encode_at_host; /* services[].decode, .encode */
	bool attach_tcp;                     /* the host comes by tcp:// over loopback */
	uint64_t alias_min; /* linearize.alias_min; RIG_ALIAS_DEFAULT: its default */
};

#define RIG_ALIAS_DEFAULT UINT64_MAX

int rig_start(const struct rig_options *options, struct rig **out) SPLIT_MUST_USE;
void rig_stop(struct rig *rig); /* NULL is fine */

/* Parameters of links to it, with `connections_max` as in the options. */
struct link_ring rig_link(const struct rig *rig);
bool rig_running(const struct rig *rig);
struct worker *rig_worker(struct rig *rig);

/* Cumulative; subtract two. */
struct rig_sample {
	uint64_t ns;
	uint64_t busy_ns, idle_poll_ns, sleep_ns; /* of the worker, wall time */
	uint64_t preempted_ns;                    /* as far as the worker noticed */
	uint64_t daemon_cpu_ns;                   /* of the worker's thread */
	uint64_t host_cpu_ns;                     /* of the host's process */
	uint64_t relay_cpu_ns;                    /* of the relay's threads */
	uint64_t stages[WORKER_STAGE_COUNT];
};
void rig_sample(struct rig *rig, struct rig_sample *out);
/* A counter of the worker, "layer.name"; 0 when there is none. */
uint64_t rig_counter(struct rig *rig, const char *layer, const char *name);

/* CPU time of a process. 0 when it is gone. */
uint64_t process_cpu_ns(pid_t pid);

#endif
