/* Calls to services that nobody serves yet and whose configuration has them wait (wait_for_host):
 * taken, but not read, until a host that serves the method attaches, their time is over or their
 * client gives up. Of such a call nothing is known but its path, which lies where its first message
 * will. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

int host_wait_service(const struct worker *w, const struct grpc_request_head *head)
{
	char name[CONFIG_SERVICE_MAX + 1];
	int service;

	if (head->service_len >= sizeof(name) || head->path_len > CALL_SMALL_BYTES || w->draining)
		return -1;
	memcpy(name, head->service, head->service_len);
	name[head->service_len] = '\0';
	service = config_service_find(w->cfg, name);
	if (service < 0 || w->cfg->services[service].wait_for_host_ns == 0)
		return -1;
	return service;
}

void host_wait_begin(struct call *call, const struct grpc_request_head *head, int service,
		     struct grpc_accept *accept)
{
	struct worker *w = call->w;

	memcpy(call->small, head->path, head->path_len);
	call->wire_bytes = head->path_len;
	call->wait_until_ns = w->now_ns + w->cfg->services[service].wait_for_host_ns;
	list_add_tail(&w->host_wait, &call->host_wait);
	accept->wait = true;
	accept->kind = GRPC_BIDI; /* until it is known */
	accept->message_bytes_max = (uint32_t)w->cfg->services[service].limits.message_bytes_max;
	counter_inc(&w->counters.host_waits);
}

/* Somebody serves it: from here on it is like any other. */
static void host_wait_end(struct call *call, struct balance_method *sought)
{
	const struct method *method = balance_method_any(sought);

	list_del(&call->host_wait);
	call->sought = sought;
	call->kind = method->kind;
	call->wire_bytes = 0;
	if (grpc_kind_many_requests(call->kind))
		list_add_tail(&call->w->opening, &call->opening);
	grpc_call_kind_set(call->grpc, call->kind, (uint32_t)method->decode_limits.wire_bytes_max);
	grpc_call_pause(call->grpc, false);
}

void host_wait_run(struct worker *w)
{
	list_for_each_safe (pos, &w->host_wait) {
		struct call *call = list_entry(pos, struct call, host_wait);
		struct balance_method *sought;
		int err = balance_lookup(w->balance, (const char *)call->small, call->wire_bytes,
					 &sought);

		if (err == 0) {
			host_wait_end(call, sought);
		} else if (w->draining) {
			call_fail(call, GRPC_UNAVAILABLE, "the server shuts down", 0);
		} else if (err != -SPLIT_E_BALANCE_NONE || w->now_ns >= call->wait_until_ns) {
			counter_inc(&w->counters.host_waits_over);
			call_fail_code(call, err);
		}
	}
}
