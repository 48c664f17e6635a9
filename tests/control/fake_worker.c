#include "tests/control/fake_worker.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "daemon/balance/picker.h"

#define FAKE_COUNTERS(X) X(polls, "times it looked")
COUNTER_DECLARE(fake, FAKE_COUNTERS);
COUNTER_DEFINE(fake, FAKE_COUNTERS);

void fake_worker_init(struct worker *worker, unsigned index)
{
	memset(worker, 0, sizeof(*worker));
	worker->index = index;
	if (log_ring_init(&worker->log, "fake", 16) != 0)
		abort();
}

void fake_worker_fini(struct worker *worker)
{
	log_ring_fini(&worker->log);
}

void fake_worker_report(struct worker *worker, enum worker_report_kind kind,
			const struct worker_endpoint *endpoint, int cause)
{
	unsigned in = worker->reports_in;

	worker->reports[in % FAKE_REPORTS] = (struct worker_report){
		.kind = kind, .worker = worker->index, .endpoint = endpoint, .cause = cause};
	worker->reports_in = in + 1;
}

int worker_post(struct worker *worker, const struct worker_msg *msg)
{
	if (worker->full > 0) {
		worker->full--;
		return -SPLIT_E_BASE_LIMIT;
	}
	switch (msg->kind) {
	case WORKER_MSG_ENDPOINT_ADD:
		worker->last = msg->endpoint;
		worker->adds++;
		break;
	case WORKER_MSG_ENDPOINT_REMOVE:
		worker->removes++;
		if (!worker->no_quiet)
			fake_worker_report(worker, WORKER_REPORT_ENDPOINT_QUIET, msg->endpoint, 0);
		break;
	case WORKER_MSG_ENDPOINT_DRAIN:
		worker->endpoint_drains++;
		counter_set(&msg->endpoint->told[worker->index].gauge_draining, msg->drain);
		if (!worker->no_drained)
			counter_set(&msg->endpoint->told[worker->index].gauge_drained, msg->drain);
		break;
	case WORKER_MSG_LANE:
	case WORKER_MSG_TLS:
		break;
	case WORKER_MSG_ADDRESSES:
		worker->channel = msg->channel;
		worker->addresses = msg->addresses;
		worker->address_lists++;
		break;
	case WORKER_MSG_CONFIG:
		fake_worker_report(worker, WORKER_REPORT_CONFIG, NULL, 0);
		break;
	case WORKER_MSG_DRAIN:
		worker->drains++;
		if (!worker->no_drained)
			fake_worker_report(worker, WORKER_REPORT_DRAINED, NULL, 0);
		break;
	case WORKER_MSG_STOP:
		log_ring_msg(&worker->log, clock_ns(), LOG_LEVEL_INFO, "fake worker stops");
		worker->stops++;
		break;
	}
	return 0;
}

bool worker_report_next(struct worker *worker, struct worker_report *report_out)
{
	unsigned out = worker->reports_out;

	if (out == worker->reports_in)
		return false;
	*report_out = worker->reports[out % FAKE_REPORTS];
	worker->reports_out = out + 1;
	return true;
}

unsigned worker_endpoints_wanted(const struct config *config)
{
	(void)config;
	return 1;
}

unsigned worker_endpoints_max(const struct worker *worker)
{
	(void)worker;
	return 1;
}

void worker_stages_enable(struct worker *worker, bool on)
{
	(void)worker;
	(void)on;
}

uint64_t worker_channels_failing(struct worker *worker)
{
	return atomic_exchange(&worker->channels_failing, 0);
}

const struct worker_refused *worker_refused_first(struct worker *worker)
{
	(void)worker;
	return NULL;
}

void worker_refused_done(struct worker *worker)
{
	(void)worker;
	abort(); /* there was none */
}

struct log_ring *worker_log(struct worker *worker)
{
	return &worker->log;
}

const char *worker_stage_name(enum worker_stage stage)
{
	(void)stage;
	return "stage";
}

void worker_stages_read(const struct worker *worker, uint64_t cycles_out[WORKER_STAGE_COUNT])
{
	(void)worker;
	memset(cycles_out, 0, sizeof(uint64_t) * WORKER_STAGE_COUNT);
}

const struct picker_counters *worker_service_counters(const struct worker *worker, size_t service)
{
	static const struct picker_counters counters = {.picks = 11, .gauge_members = 3};

	(void)worker;
	(void)service;
	return &counters;
}

size_t worker_counters(const struct worker *worker, struct worker_counter_block *out, size_t max)
{
	static const struct fake_counters counters = {.polls = 7};

	(void)worker;
	if (max == 0)
		return 0;
	out[0] = (struct worker_counter_block){"fake", &fake_counter_desc, 1, &counters.polls};
	return 1;
}

void worker_gauges_read(const struct worker *worker, struct worker_gauges *out)
{
	memset(out, 0, sizeof(*out));
	out->calls = worker->index + 1;
}
