/* Calls that nobody can answer yet, and that wait for a host: those of clients to services whose
 * configuration says so (wait_for_host), and calls out of handlers by their own option too (gRPC's
 * wait-for-ready, until their deadline). They are taken, but not read, until a host that serves the
 * method attaches, their time is over or their client gives up.
 *
 * Of a client's call nothing is known but its path, which lies where its first message will. A call
 * out knows its method; its message stays where it is until there is somebody to decode it for. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

/* The configured service of that name if its calls wait, else -1. */
static int waiting_service(const struct worker *w, const char *text, size_t len)
{
	char name[CONFIG_SERVICE_MAX + 1];
	int service;

	if (len >= sizeof(name) || w->draining)
		return -1;
	memcpy(name, text, len);
	name[len] = '\0';
	service = config_service_find(w->cfg, name);
	if (service < 0 || w->cfg->services[service].wait_for_host_ns == 0)
		return -1;
	return service;
}

int host_wait_service(const struct worker *w, const struct grpc_request_head *head)
{
	return head->path_len <= CALL_SMALL_BYTES
		       ? waiting_service(w, head->service, head->service_len)
		       : -1;
}

bool host_wait_wanted(const struct call *out, uint64_t *until_ns_out)
{
	const struct worker *w = out->w;
	const struct method *m = out->method;
	const char *end = memchr(m->path + 1, '/', m->path_len - 1);
	int service = waiting_service(w, m->path + 1, (size_t)(end - m->path) - 1);

	*until_ns_out = UINT64_MAX;
	if (out->nested.waits)
		return !w->draining;
	if (service >= 0)
		*until_ns_out = w->now_ns + w->cfg->services[service].wait_for_host_ns;
	return service >= 0;
}

void host_wait_enter(struct call *call, uint64_t until_ns)
{
	call->wait_until_ns = until_ns;
	list_add_tail(&call->w->host_wait, &call->host_wait);
	counter_inc(&call->w->counters.host_waits);
}

void host_wait_begin(struct call *call, const struct grpc_request_head *head, int service,
		     struct grpc_accept *accept)
{
	struct worker *w = call->w;

	memcpy(call->small, head->path, head->path_len);
	call->wire_bytes = head->path_len;
	host_wait_enter(call, w->now_ns + w->cfg->services[service].wait_for_host_ns);
	accept->wait = true;
	accept->kind = GRPC_BIDI; /* until it is known */
	accept->message_bytes_max = (uint32_t)w->cfg->services[service].limits.message_bytes_max;
}

/* Somebody serves it: from here on it is like any other. */
static void host_wait_end(struct call *call, struct balance_method *sought)
{
	const struct method *method = balance_method_any(sought);

	list_del(&call->host_wait);
	call->sought = sought;
	if (call->grpc == NULL) {
		callee_found(call);
		return;
	}
	call->kind = method->kind;
	call->wire_bytes = 0;
	if (grpc_kind_many_requests(call->kind))
		list_add_tail(&call->w->opening, &call->opening);
	grpc_call_kind_set(call->grpc, call->kind, (uint32_t)method->decode_limits.wire_bytes_max);
	grpc_call_pause(call->grpc, false);
}

static int host_wait_lookup(const struct call *call, struct balance_method **sought_out)
{
	const struct method *m = call->grpc == NULL ? call->nested.peer->method : NULL;

	return balance_lookup(call->w->balance, m != NULL ? m->path : (const char *)call->small,
			      m != NULL ? m->path_len : call->wire_bytes, sought_out);
}

void host_wait_run(struct worker *w)
{
	list_for_each_safe (pos, &w->host_wait) {
		struct call *call = list_entry(pos, struct call, host_wait);
		struct balance_method *sought;
		int err;

		if (call->grpc == NULL && call->nested.peer == NULL)
			continue; /* its caller has gone: nested_run sees to it */
		err = host_wait_lookup(call, &sought);
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
