/* grpc.health.v1 (gRPC's health-checking.md). */
#include "daemon/services/services_internal.h"

#include <string.h>

#include "health.pb-c.h"

static enum services_health health_of(const struct services *s, const char *name, size_t n)
{
	enum services_health health = s->source.health(s->source.ctx, name, n);

	/* Served here, by ourselves, as long as anybody is. */
	if (health == SERVICES_UNKNOWN && services_has(s, name, n))
		health = SERVICES_SERVING;
	if (health == SERVICES_SERVING && s->draining)
		health = SERVICES_NOT_SERVING;
	return health;
}

static Grpc__Health__V1__HealthCheckRequest *request_of(struct services_call *call,
							const uint8_t *p, uint32_t n)
{
	ProtobufCAllocator scratch = services_scratch(call->services);
	Grpc__Health__V1__HealthCheckRequest *rq =
		grpc__health__v1__health_check_request__unpack(&scratch, n, p);

	if (rq == NULL) {
		counter_inc(&call->services->counters.malformed);
		services_finish(call, GRPC_INTERNAL, "the request could not be decoded");
	}
	return rq;
}

static void status_send(struct services_call *call, int status, bool last)
{
	Grpc__Health__V1__HealthCheckResponse response =
		GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

	response.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
	services_reply(call, &response.base, last);
}

void health_check(struct services_call *call, const uint8_t *p, uint32_t n)
{
	static const int statuses[] = {
		[SERVICES_SERVING] =
			GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
		[SERVICES_NOT_SERVING] =
			GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
	};
	Grpc__Health__V1__HealthCheckRequest *rq = request_of(call, p, n);
	enum services_health health;

	if (rq == NULL)
		return;
	counter_inc(&call->services->counters.checks);
	health = health_of(call->services, rq->service, strlen(rq->service));
	if (health == SERVICES_UNKNOWN)
		services_finish(call, GRPC_NOT_FOUND, "unknown service");
	else
		status_send(call, statuses[health], true);
}

void health_watch(struct services_call *call, const uint8_t *p, uint32_t n)
{
	Grpc__Health__V1__HealthCheckRequest *rq = request_of(call, p, n);
	size_t name_len;

	if (rq == NULL)
		return;
	name_len = strlen(rq->service);
	if (name_len > sizeof(call->name)) {
		services_finish(call, GRPC_INVALID_ARGUMENT, "the name is too long");
		return;
	}
	counter_inc(&call->services->counters.watches);
	memcpy(call->name, rq->service, name_len);
	call->name_len = (uint32_t)name_len;
	list_add_tail(&call->services->watches, &call->watch);
	health_update(call);
}

void health_update(struct services_call *call)
{
	static const int statuses[] = {
		[SERVICES_UNKNOWN] =
			GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
		[SERVICES_SERVING] =
			GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
		[SERVICES_NOT_SERVING] =
			GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
	};
	int status = statuses[health_of(call->services, call->name, call->name_len)];

	/* One that waits for its client hears of the last change only. */
	if (status == call->told || call->waiting != NULL)
		return;
	if (call->told >= 0)
		counter_inc(&call->services->counters.watch_changes);
	call->told = status;
	status_send(call, status, false);
}
