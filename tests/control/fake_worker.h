/* A worker that only answers messages: what control needs of one, under a test's thumb. Messages
 * are answered at once, on the control thread, inside worker_post. */
#ifndef SPLITD_TESTS_CONTROL_FAKE_WORKER_H
#define SPLITD_TESTS_CONTROL_FAKE_WORKER_H

#include <stdatomic.h>

#include "base/log.h"
#include "daemon/worker/worker.h"

#define FAKE_REPORTS 64

struct worker {
	unsigned index;
	atomic_uint adds, removes, drains, stops;
	atomic_uint endpoint_drains;
	atomic_uint full;                             /* so many posts find the ring full */
	atomic_bool no_quiet, no_drained;             /* stays silent */
	_Atomic(const struct worker_endpoint *) last; /* endpoint of the last ADD */
	/* Of the last ADDRESSES; whoever looks at it takes his reader off. */
	struct worker_addresses *addresses;
	uint32_t channel;
	_Atomic uint64_t channels_failing;
	unsigned address_lists;
	struct worker_report reports[FAKE_REPORTS];
	atomic_uint reports_in, reports_out;
	struct log_ring log;
};

void fake_worker_init(struct worker *worker, unsigned index);
void fake_worker_fini(struct worker *worker);
/* As the worker would from its own thread. */
void fake_worker_report(struct worker *worker, enum worker_report_kind kind,
			const struct worker_endpoint *endpoint, int cause);

#endif
