/* splitd and an example under scripts/serve.sh, or a peer under bench/peers/peer.sh, in a network
 * namespace of their own, for as long as a bench wants. */
#ifndef SPLITD_BENCH_SERVED_H
#define SPLITD_BENCH_SERVED_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "bench/rig.h"
#include "ctl/ctl.h"

struct served {
	pid_t script, splitd, host; /* splitd 0: a peer, which is `host` */
	char netns[64], address[64], prefix[64];
	char config[40];      /* file made from config/demo.json */
	char certificate[40]; /* folder of tls.pem and tls.key; empty: no TLS */
	unsigned port;
	int home_fd; /* the namespace this thread came from; -1: it is there */
	struct ctl_client ctl;
	unsigned core_daemon, core_host;
};

struct served_options {
	const char *port; /* tap, af_packet, af_xdp */
	/* Of scripts/serve.sh; NULL: echo. "exchange" gets a service in the configuration. */
	const char *example;
	const char *peer; /* not NULL: this program of the build folder instead of splitd */
	unsigned peer_mtu;
	const char *build; /* NULL: the one this program is in */
	unsigned core_daemon, core_host;
	bool poll; /* idle.mode "poll"; else as in config/demo.json */
	bool tls;
};

/* Bring them up with stage counting on, and move this thread into their namespace. Takes seconds.
 * 0, or a negative code after a line on standard error; nothing is left then. */
int served_start(const struct served_options *options, struct served *s) SPLIT_MUST_USE;
/* Sockets that this thread makes from here on are in their namespace; until it leaves. */
int served_enter(struct served *s) SPLIT_MUST_USE;
void served_leave(struct served *s);
/* Back home, stop everything, wait for it. */
void served_stop(struct served *s);
bool served_running(const struct served *s);

/* Worker 0 and the two processes. daemon_cpu_ns is splitd's whole process. Of a peer: host_cpu_ns.
 */
int served_sample(struct served *s, struct rig_sample *out) SPLIT_MUST_USE;

/* Busy time of a core since boot, softirq included, from /proc/stat; its resolution is a tick. */
uint64_t core_busy_ns(unsigned core);

#endif
