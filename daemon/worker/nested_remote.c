/* Calls out whose callee is a server on the network: the call out is what daemon/client calls its
 * caller. Messages go to it as they are encoded, lent; those of the answer come into the room that
 * call_reserve gives, as from a client of ours. */
#include "daemon/worker/worker_internal.h"

static void on_headers(void *user, const struct grpc_metadata *md, uint32_t n)
{
	(void)!out_headers(user, md, n);
}

static int on_reserve(void *user, uint32_t bytes, uint8_t **buf_out)
{
	struct call *call = user;

	if (call->finished || call->host_over)
		return -SPLIT_E_BASE_LIMIT;
	return call_reserve(call, bytes, buf_out);
}

static void on_message(void *user, uint8_t *buf, uint32_t bytes)
{
	struct call *call = user;

	(void)buf;
	counter_inc(&call->w->counters.out_answers);
	call_message(call, bytes, false, false);
}

static void on_writable(void *user)
{
	nested_due(user);
}

static void on_status(void *user, const struct client_status *status)
{
	struct call *call = user;
	const struct grpc_result result = {
		.status = status->status,
		.message = status->message,
		.message_len = status->message_len,
		.details = status->details,
		.details_len = status->details_len,
		.trailers = status->trailers,
		.trailers_count = status->trailers_count,
	};

	call->nested.remote = NULL;
	call->nested.linked = false;
	/* Room that was not filled. */
	if (!call->have_message) {
		call_unwait(call);
		call_wire_put(call);
	}
	out_ended(call, &result);
}

static const struct client_events events = {
	.headers = on_headers,
	.reserve = on_reserve,
	.message = on_message,
	.writable = on_writable,
	.status = on_status,
};

int remote_open(struct call *call, uint32_t metadata_n, const char **text_out)
{
	struct worker *w = call->w;
	const struct method *m = call->method;
	const struct client_request request = {
		.path = m->path,
		.path_len = m->path_len,
		.kind = m->kind,
		.deadline_ns = call->nested.deadline_ns,
		.metadata = w->metadata,
		.metadata_count = metadata_n,
		.wait_for_ready = call->nested.waits,
		.message_bytes_max = (uint32_t)m->decode_limits.wire_bytes_max,
	};
	int status;

	*text_out = "the channel takes no call now";
	if (w->client == NULL)
		return GRPC_UNAVAILABLE;
	status = client_call_start(w->client, m->channel, &request, &events, call, w->now_ns,
				   &call->nested.remote);
	if (status != 0)
		call->nested.remote = NULL;
	return status;
}

static void on_release(struct client_message *message)
{
	struct reply *r = container_of(message, struct reply, message);

	r->chain.release(&r->chain);
}

int remote_send(struct call *call, struct reply *r)
{
	int err;

	r->message = (struct client_message){
		.iov = r->chain.iov,
		.iov_count = r->chain.iov_count,
		.bytes = r->chain.bytes,
		.release = on_release,
	};
	err = client_call_send(call->nested.remote, &r->message);
	if (err == 0)
		counter_inc(&call->w->counters.out_requests);
	return err;
}

void remote_end(struct call *call)
{
	client_call_end(call->nested.remote);
}

void remote_room(struct call *call)
{
	client_call_room(call->nested.remote);
}

void remote_cancel(struct call *call)
{
	struct client_call *remote = call->nested.remote;

	call->nested.remote = NULL;
	client_call_cancel(remote);
}
