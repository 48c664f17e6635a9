/* split.examples.Front: a service that calls another one, with all four kinds of call.
 *
 * It is called by clients and asks split.examples.Echo, which another process serves: over the
 * channel "back" of splitd's configuration (over "self" it calls itself, for tests). Nothing here
 * waits: a handler begins a call out and returns; what answers comes back as a continuation on the
 * same worker, and it answers the client.
 *
 * Unary calls go by the stubs that protoc-c generates (split__examples__echo__unary), as with any
 * ProtobufCService. The streams are relayed message by message. Each side keeps pace with the
 * other: what one does not take yet is retained, no further message is asked for meanwhile, and so
 * the sender at the far end stops. */
#include <stdlib.h>
#include <string.h>

#include "echo.pb-c.h"
#include "examples/options.h"

#define ECHO_CHANNEL "back"
#define SELF_CHANNEL "self"
#define FRONT        "split.examples.Front"
#define ECHO         "split.examples.Echo"

static ProtobufCService *echo; /* Echo, as protoc-c's stubs call it */
static struct split_stub *self;
static struct split_stub *stubs[4]; /* Echo's methods by kind */

/* How the call out ended is how the call ends. */
static void fail_alike(struct split_call *call, const struct split_out_result *result)
{
	for (size_t i = 0; i < result->trailers_n; i++)
		split_call_add_trailing_metadata(call, result->trailers[i].name,
						 result->trailers[i].value,
						 result->trailers[i].value_bytes);
	if (result->status != SPLIT_OK)
		split_call_set_status(call, result->status, result->message);
}

/* ---- unary */

static void unary_answered(const Split__Examples__EchoMessage *reply, void *data)
{
	struct split_call *call = data;
	const struct split_out_result *result;

	if (reply == NULL) {
		split_out_current(&result);
		fail_alike(call, result);
	}
	split_call_answer(call, reply != NULL ? &reply->base : NULL);
	split_call_release(call);
}

static void self_answered(struct split_out *out, const struct split_out_result *result, void *data)
{
	struct split_call *call = data;

	(void)out;
	fail_alike(call, result);
	split_call_answer(call, result->reply);
	split_call_release(call);
}

static void unary(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	static const struct split_out_events events = {.done = self_answered};
	Split__Examples__EchoMessage ask = *(const Split__Examples__EchoMessage *)message;

	(void)data;
	split_call_retain(call);
	if (ask.replies == 0) {
		split__examples__echo__unary(echo, &ask, unary_answered, call);
		return;
	}
	ask.replies--;
	if (split_out_start(self, &ask.base, NULL, &events, call, NULL) != 0) {
		split_call_fail(call, SPLIT_RESOURCE_EXHAUSTED, "cannot call myself");
		split_call_release(call);
	}
}

/* ---- streams */

struct kept {
	struct kept *next;
	struct split_message *message;
};

struct queue {
	struct kept *first, **last;
};

struct relay {
	struct split_call *call;
	struct split_out *out;
	struct queue up, down; /* to Echo; to the client */
	bool up_ends, ended;   /* the client is done; Echo is */
	unsigned refs;         /* of the two calls; all on one worker */
};

static void relay_put(struct relay *r)
{
	if (--r->refs != 0)
		return;
	split_out_release(r->out);
	free(r);
}

static bool keep(struct queue *q, struct split_message *message)
{
	struct kept *k = malloc(sizeof(*k));

	if (k == NULL || message == NULL) {
		free(k);
		return false;
	}
	k->message = message;
	k->next = NULL;
	*q->last = k;
	q->last = &k->next;
	return true;
}

static struct split_message *first(const struct queue *q)
{
	return q->first != NULL ? q->first->message : NULL;
}

static void drop_first(struct queue *q)
{
	struct kept *k = q->first;

	split_message_release(k->message);
	q->first = k->next;
	if (q->first == NULL)
		q->last = &q->first;
	free(k);
}

static void queue_empty(struct queue *q)
{
	while (q->first != NULL)
		drop_first(q);
}

/* What the client sent goes on to Echo, as far as it takes it. */
static void go_up(struct relay *r)
{
	while (first(&r->up) != NULL) {
		if (split_out_send(r->out, split_message_get(first(&r->up))) == SPLIT_AGAIN)
			return;
		drop_first(&r->up);
	}
	if (r->up_ends)
		split_out_half_close(r->out);
}

static void go_down(struct relay *r)
{
	while (first(&r->down) != NULL) {
		if (split_call_send(r->call, split_message_get(first(&r->down))) == SPLIT_AGAIN)
			return;
		drop_first(&r->down);
	}
	if (r->ended)
		split_call_finish(r->call);
}

static void echo_message(struct split_out *out, const ProtobufCMessage *message, void *data)
{
	struct relay *r = data;

	if ((first(&r->down) != NULL || split_call_send(r->call, message) == SPLIT_AGAIN) &&
	    !keep(&r->down, split_out_message_retain(out)))
		split_call_fail(r->call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
}

static void echo_writable(struct split_out *out, void *data)
{
	(void)out;
	go_up(data);
}

static void echo_done(struct split_out *out, const struct split_out_result *result, void *data)
{
	struct relay *r = data;

	(void)out;
	fail_alike(r->call, result);
	r->ended = true;
	queue_empty(&r->up);
	if (result->status != SPLIT_OK)
		queue_empty(&r->down);
	if (split_call_kind(r->call) == SPLIT_CLIENT_STREAM || result->status != SPLIT_OK)
		split_call_answer(r->call, result->reply);
	else
		go_down(r);
	split_call_release(r->call);
	relay_put(r);
}

static struct relay *relay_begin(struct split_call *call, const ProtobufCMessage *request)
{
	static const struct split_out_events events = {
		.message = echo_message, .writable = echo_writable, .done = echo_done};
	struct relay *r = calloc(1, sizeof(*r));
	int rc = r == NULL ? SPLIT_E_NOMEM : 0;

	if (rc == 0) {
		*r = (struct relay){.call = call, .refs = 2};
		r->up.last = &r->up.first;
		r->down.last = &r->down.first;
		split_call_set_user(call, r);
		split_call_retain(call);
		rc = split_out_start(stubs[split_call_kind(call)], request, NULL, &events, r,
				     &r->out);
	}
	if (rc != 0) {
		split_call_fail(call, SPLIT_UNAVAILABLE, split_host_error_text(rc));
		if (r != NULL) {
			r->refs--;
			split_call_release(call);
		}
		return NULL;
	}
	return r;
}

static void stream_open(struct split_call *call, void *data)
{
	(void)data;
	(void)relay_begin(call, NULL);
}

static void stream_message(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	struct relay *r = split_call_user(call);

	(void)data;
	if ((first(&r->up) != NULL || split_out_send(r->out, message) == SPLIT_AGAIN) &&
	    !keep(&r->up, split_message_retain(call)))
		split_call_fail(call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
}

static void stream_half_close(struct split_call *call, void *data)
{
	struct relay *r = split_call_user(call);

	(void)data;
	r->up_ends = true;
	go_up(r);
}

static void stream_writable(struct split_call *call, void *data)
{
	(void)data;
	go_down(split_call_user(call));
}

/* The call out ends by itself with the call it was made for. */
static void stream_closed(struct split_call *call, void *data)
{
	struct relay *r = split_call_user(call);

	(void)data;
	if (r != NULL)
		relay_put(r);
}

static void stream_cancelled(struct split_call *call, void *data)
{
	struct relay *r = split_call_user(call);

	(void)data;
	queue_empty(&r->up);
	queue_empty(&r->down);
	split_call_fail(call, SPLIT_CANCELLED, NULL);
}

static void server(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	(void)data;
	(void)relay_begin(call, message);
}

static int serve(struct split_host *host, void *arg)
{
	static const char *const names[] = {"Unary", "Client", "Server", "Bidi"};
	const ProtobufCMessageDescriptor *d = &split__examples__echo_message__descriptor;
	struct split_channel *back = split_channel_open(host, ECHO_CHANNEL);
	int rc = 0;

	(void)arg;
	echo = split_channel_service(back, &split__examples__echo__descriptor);
	self = split_channel_stub(split_channel_open(host, SELF_CHANNEL), FRONT, "Unary",
				  SPLIT_UNARY, d, d, 0);
	for (int kind = SPLIT_UNARY; rc == 0 && kind <= SPLIT_BIDI_STREAM; kind++) {
		struct split_method m = {
			.service = FRONT,
			.name = names[kind],
			.kind = (enum split_method_kind)kind,
			.input = d,
			.output = d,
			.message = kind == SPLIT_UNARY           ? unary
				   : kind == SPLIT_SERVER_STREAM ? server
								 : stream_message,
		};

		if (kind == SPLIT_CLIENT_STREAM || kind == SPLIT_BIDI_STREAM) {
			m.open = stream_open;
			m.half_close = stream_half_close;
		}
		if (kind != SPLIT_UNARY) {
			m.writable = stream_writable;
			m.cancelled = stream_cancelled;
			m.closed = stream_closed;
		}
		stubs[kind] = split_channel_stub(back, ECHO, names[kind],
						 (enum split_method_kind)kind, d, d, 0);
		rc = split_host_serve_method(host, &m);
		if (stubs[kind] == NULL)
			rc = SPLIT_E_NOMEM;
	}
	return echo == NULL || self == NULL ? SPLIT_E_NOMEM : rc;
}

int main(int argc, char **argv)
{
	return example_serve(argc, argv, "front", serve, NULL);
}
