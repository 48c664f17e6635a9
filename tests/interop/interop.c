/* grpc.testing.TestService: what the official interoperability cases are run against.
 *
 * Every kind of call through split_host_serve_method. Answers of the streaming ones wait in a list
 * of their call and are pumped out of it: by the callbacks, when a client that was slow takes more
 * (writable), and by one timer thread for those that shall come later (interval_us). Whoever pumps
 * holds the call's lock, for messages of a call are sent by one thread at a time.
 *
 * UnimplementedCall and UnimplementedService are not served: splitd answers UNIMPLEMENTED.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "examples/options.h"
#include "interop.pb-c.h"

#define BODY_BYTES_MAX (64 << 20)
#define ECHO_INITIAL   "x-grpc-test-echo-initial"
#define ECHO_TRAILING  "x-grpc-test-echo-trailing-bin"
#define NS_PER_US      UINT64_C(1000)
#define NS_PER_SEC     UINT64_C(1000000000)

/* What payloads are made of; never written, so that it costs no memory. */
static uint8_t zeros[BODY_BYTES_MAX];

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

/* ---- what all calls have in common ---------------------------------------------------------- */

static void metadata_echo(struct split_call *call)
{
	const struct split_metadata *initial = split_call_metadata_find(call, ECHO_INITIAL);
	size_t n;
	const struct split_metadata *all = split_call_metadata(call, &n);

	if (initial != NULL)
		(void)split_call_add_initial_metadata(call, ECHO_INITIAL, initial->value,
						      initial->value_bytes);
	for (size_t i = 0; i < n; i++)
		if (strcmp(all[i].name, ECHO_TRAILING) == 0)
			(void)split_call_add_trailing_metadata(call, all[i].name, all[i].value,
							       all[i].value_bytes);
}

/* True: the request asked for a status, and the call has it now. */
static bool status_echo(struct split_call *call, const Grpc__Testing__EchoStatus *status)
{
	if (status == NULL || status->code == SPLIT_OK)
		return false;
	if (status->code < 0 || split_call_fail(call, (enum split_status)status->code,
						status->message) == SPLIT_E_ARGUMENT)
		(void)split_call_fail(call, SPLIT_UNKNOWN, status->message);
	return true;
}

/* False: the request was not compressed as it says, and the call is ended. */
static bool compression_check(struct split_call *call, const Grpc__Testing__BoolValue *expected)
{
	if (expected == NULL || expected->value == split_call_compressed(call))
		return true;
	(void)split_call_fail(call, SPLIT_INVALID_ARGUMENT,
			      expected->value ? "the message should have come compressed"
					      : "the message should have come uncompressed");
	return false;
}

static bool size_check(struct split_call *call, int32_t size)
{
	if (size >= 0 && size <= BODY_BYTES_MAX)
		return true;
	(void)split_call_fail(call, SPLIT_INVALID_ARGUMENT, "size: 0 to 64 MiB");
	return false;
}

/* ---- unary ---------------------------------------------------------------------------------- */

static void empty_call(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	Grpc__Testing__Empty out = GRPC__TESTING__EMPTY__INIT;

	(void)message;
	(void)data;
	metadata_echo(call);
	(void)split_call_answer(call, &out.base);
}

/* Who the client is, by its certificate: what fill_username asks for. */
static const char *username(const struct split_call *call)
{
	static const char *const names[] = {"x509_subject_alternative_name", "x509_common_name"};
	size_t n;
	const struct split_metadata *identity = split_call_peer_identity(call, &n);

	for (size_t k = 0; k < 2; k++)
		for (size_t i = 0; i < n; i++)
			if (strcmp(identity[i].name, names[k]) == 0)
				return identity[i].value;
	return split_call_peer_is_tls(call) ? "somebody over TLS" : "";
}

static void unary_call(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	const Grpc__Testing__SimpleRequest *in = (const void *)message;
	Grpc__Testing__SimpleResponse out = GRPC__TESTING__SIMPLE_RESPONSE__INIT;
	Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;

	(void)data;
	metadata_echo(call);
	if (!compression_check(call, in->expect_compressed) ||
	    !size_check(call, in->response_size) || status_echo(call, in->response_status))
		return;
	if (in->response_compressed != NULL)
		split_call_compress(call, in->response_compressed->value);
	if (in->response_size > 0) {
		payload.body.data = zeros;
		payload.body.len = (size_t)in->response_size;
		out.payload = &payload;
	}
	if (in->fill_username)
		out.username = (char *)username(call);
	(void)split_call_answer(call, &out.base);
}

/* The time, so that a second answer differs unless something in between has kept the first. */
static void cacheable_call(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	static const char cache[] = "max-age=60, public";
	Grpc__Testing__SimpleResponse out = GRPC__TESTING__SIMPLE_RESPONSE__INIT;
	Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
	char text[32];

	(void)message;
	(void)data;
	metadata_echo(call);
	(void)split_call_add_initial_metadata(call, "cache-control", cache, sizeof(cache) - 1);
	payload.body.len =
		(size_t)snprintf(text, sizeof(text), "%llu", (unsigned long long)now_ns());
	payload.body.data = (uint8_t *)text;
	out.payload = &payload;
	(void)split_call_answer(call, &out.base);
}

/* ---- answers of streams --------------------------------------------------------------------- */

struct output {
	struct output *next;
	size_t bytes;
	uint64_t interval_ns;
	int compressed; /* -1: not said */
};

struct duplex {
	pthread_mutex_t lock;
	struct split_call *call;
	struct output *first, **last;
	uint64_t due_ns; /* of the first; 0: its interval has not begun */
	bool ending;     /* no request will come: end behind the last answer */
	bool over;
	bool timed; /* on the timer's list, which retains the call */
	struct duplex *timer_next;
};

static pthread_mutex_t timer_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t timer_changed;
static struct duplex *timer_list;

/* With its lock held: be pumped again when the first is due. */
static void duplex_later(struct duplex *d)
{
	if (d->timed)
		return;
	d->timed = true;
	split_call_retain(d->call);
	pthread_mutex_lock(&timer_lock);
	d->timer_next = timer_list;
	timer_list = d;
	pthread_cond_signal(&timer_changed);
	pthread_mutex_unlock(&timer_lock);
}

/* With its lock held: not any more. */
static void duplex_not_later(struct duplex *d)
{
	bool found = false;

	pthread_mutex_lock(&timer_lock);
	for (struct duplex **at = &timer_list; *at != NULL; at = &(*at)->timer_next) {
		if (*at != d)
			continue;
		*at = d->timer_next;
		found = true;
		break;
	}
	pthread_mutex_unlock(&timer_lock);
	if (!found)
		return; /* the timer has it in hand, or never had */
	d->timed = false;
	split_call_release(d->call);
}

static int output_send(struct split_call *call, const struct output *o)
{
	Grpc__Testing__StreamingOutputCallResponse out =
		GRPC__TESTING__STREAMING_OUTPUT_CALL_RESPONSE__INIT;
	Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;

	payload.body.data = zeros;
	payload.body.len = o->bytes;
	out.payload = &payload;
	split_call_compress(call, o->compressed > 0);
	return split_call_send(call, &out.base);
}

static void duplex_end(struct duplex *d, enum split_status status, const char *text)
{
	if (d->over)
		return;
	d->over = true;
	if (status == SPLIT_OK)
		(void)split_call_finish(d->call);
	else
		(void)split_call_fail(d->call, status, text);
}

/* Send what is due. With its lock held. */
static void duplex_pump(struct duplex *d)
{
	struct output *o;
	int rc;

	while (!d->over && (o = d->first) != NULL) {
		if (o->interval_ns != 0) {
			if (d->due_ns == 0)
				d->due_ns = now_ns() + o->interval_ns;
			if (now_ns() < d->due_ns) {
				duplex_later(d);
				return;
			}
		}
		rc = output_send(d->call, o);
		if (rc == SPLIT_AGAIN)
			return; /* writable follows */
		if (rc != 0) {
			duplex_end(d, SPLIT_RESOURCE_EXHAUSTED, "an answer could not be sent");
			return;
		}
		d->due_ns = 0;
		d->first = o->next;
		if (d->first == NULL)
			d->last = &d->first;
		free(o);
	}
	if (d->ending)
		duplex_end(d, SPLIT_OK, NULL);
}

/* Take the due ones off the list; returns when the next is, or 0. */
static uint64_t timer_collect(struct duplex **due_out)
{
	struct duplex **at = &timer_list, *d;
	uint64_t now = now_ns(), next = 0;

	while ((d = *at) != NULL) {
		if (d->due_ns <= now) {
			*at = d->timer_next;
			d->timer_next = *due_out;
			*due_out = d;
			continue;
		}
		if (next == 0 || d->due_ns < next)
			next = d->due_ns;
		at = &d->timer_next;
	}
	return next;
}

static void *timer_main(void *arg)
{
	pthread_mutex_lock(&timer_lock);
	for (;;) {
		struct duplex *due = NULL, *d;
		uint64_t next = timer_collect(&due);
		struct timespec until = {.tv_sec = (time_t)(next / NS_PER_SEC),
					 .tv_nsec = (long)(next % NS_PER_SEC)};

		if (due == NULL) {
			if (next == 0)
				pthread_cond_wait(&timer_changed, &timer_lock);
			else
				pthread_cond_timedwait(&timer_changed, &timer_lock, &until);
			continue;
		}
		pthread_mutex_unlock(&timer_lock);
		while ((d = due) != NULL) {
			struct split_call *call = d->call;

			due = d->timer_next;
			pthread_mutex_lock(&d->lock);
			d->timed = false;
			duplex_pump(d);
			pthread_mutex_unlock(&d->lock);
			split_call_release(call); /* may be the last of it: closed */
		}
		pthread_mutex_lock(&timer_lock);
	}
	return arg;
}

static struct duplex *duplex_new(struct split_call *call)
{
	struct duplex *d = calloc(1, sizeof(*d));

	if (d == NULL) {
		(void)split_call_fail(call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
		return NULL;
	}
	pthread_mutex_init(&d->lock, NULL);
	d->call = call;
	d->last = &d->first;
	split_call_set_user(call, d);
	metadata_echo(call);
	return d;
}

static void duplex_closed(struct split_call *call, void *data)
{
	struct duplex *d = split_call_user(call);
	struct output *o;

	(void)data;
	if (d == NULL)
		return;
	while ((o = d->first) != NULL) {
		d->first = o->next;
		free(o);
	}
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/* The answers that a request asks for, at the end of the list. False: the call was ended. */
static bool duplex_ask(struct duplex *d, const Grpc__Testing__StreamingOutputCallRequest *in)
{
	for (size_t i = 0; i < in->n_response_parameters; i++) {
		const Grpc__Testing__ResponseParameters *p = in->response_parameters[i];
		struct output *o;

		if (p->size < 0 || p->size > BODY_BYTES_MAX) {
			duplex_end(d, SPLIT_INVALID_ARGUMENT, "size: 0 to 64 MiB");
			return false;
		}
		o = calloc(1, sizeof(*o));
		if (o == NULL) {
			duplex_end(d, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
			return false;
		}
		o->bytes = (size_t)p->size;
		o->interval_ns = p->interval_us > 0 ? (uint64_t)p->interval_us * NS_PER_US : 0;
		o->compressed = p->compressed == NULL ? -1 : p->compressed->value;
		*d->last = o;
		d->last = &o->next;
	}
	return true;
}

/* ---- server streaming, and both ways -------------------------------------------------------- */

static void output_call(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	const Grpc__Testing__StreamingOutputCallRequest *in = (const void *)message;
	struct duplex *d = duplex_new(call);

	(void)data;
	if (d == NULL)
		return;
	pthread_mutex_lock(&d->lock);
	if (status_echo(call, in->response_status)) {
		d->over = true;
	} else if (duplex_ask(d, in)) {
		d->ending = true;
		duplex_pump(d);
	}
	pthread_mutex_unlock(&d->lock);
}

static void duplex_open(struct split_call *call, void *data)
{
	(void)data;
	(void)duplex_new(call);
}

/* `data`: whether answers wait for the half-close. */
static void duplex_message(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	const Grpc__Testing__StreamingOutputCallRequest *in = (const void *)message;
	struct duplex *d = split_call_user(call);
	const bool *half = data;

	pthread_mutex_lock(&d->lock);
	if (!d->over && status_echo(call, in->response_status))
		d->over = true;
	else if (!d->over && duplex_ask(d, in) && !*half)
		duplex_pump(d);
	pthread_mutex_unlock(&d->lock);
}

static void duplex_half_close(struct split_call *call, void *data)
{
	struct duplex *d = split_call_user(call);

	(void)data;
	pthread_mutex_lock(&d->lock);
	d->ending = true;
	duplex_pump(d);
	pthread_mutex_unlock(&d->lock);
}

static void duplex_writable(struct split_call *call, void *data)
{
	struct duplex *d = split_call_user(call);

	(void)data;
	pthread_mutex_lock(&d->lock);
	duplex_pump(d);
	pthread_mutex_unlock(&d->lock);
}

static void duplex_cancelled(struct split_call *call, void *data)
{
	struct duplex *d = split_call_user(call);

	(void)data;
	pthread_mutex_lock(&d->lock);
	duplex_not_later(d);
	duplex_end(d, SPLIT_CANCELLED, NULL);
	pthread_mutex_unlock(&d->lock);
}

/* ---- client streaming ----------------------------------------------------------------------- */

static void input_open(struct split_call *call, void *data)
{
	(void)data;
	metadata_echo(call);
}

/* The sum is the call's user word. */
static void input_message(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	const Grpc__Testing__StreamingInputCallRequest *in = (const void *)message;
	uintptr_t sum = (uintptr_t)split_call_user(call);

	(void)data;
	if (!compression_check(call, in->expect_compressed))
		return;
	if (in->payload != NULL)
		sum += in->payload->body.len;
	split_call_set_user(call, (void *)sum);
}

static void input_half_close(struct split_call *call, void *data)
{
	Grpc__Testing__StreamingInputCallResponse out =
		GRPC__TESTING__STREAMING_INPUT_CALL_RESPONSE__INIT;

	(void)data;
	out.aggregated_payload_size = (int32_t)(uintptr_t)split_call_user(call);
	(void)split_call_answer(call, &out.base);
}

/* ---- the service ---------------------------------------------------------------------------- */

#define IN(name)  .input = &grpc__testing__##name##__descriptor
#define OUT(name) .output = &grpc__testing__##name##__descriptor

static bool now = false, at_half_close = true;

static const struct split_method methods[] = {
	{.name = "EmptyCall", IN(empty), OUT(empty), .message = empty_call},
	{.name = "UnaryCall", IN(simple_request), OUT(simple_response), .message = unary_call},
	{.name = "CacheableUnaryCall",
	 IN(simple_request),
	 OUT(simple_response),
	 .message = cacheable_call},
	{.name = "StreamingOutputCall",
	 .kind = SPLIT_SERVER_STREAM,
	 IN(streaming_output_call_request),
	 OUT(streaming_output_call_response),
	 .message = output_call,
	 .writable = duplex_writable,
	 .cancelled = duplex_cancelled,
	 .closed = duplex_closed},
	{.name = "StreamingInputCall",
	 .kind = SPLIT_CLIENT_STREAM,
	 IN(streaming_input_call_request),
	 OUT(streaming_input_call_response),
	 .open = input_open,
	 .message = input_message,
	 .half_close = input_half_close},
	{.name = "FullDuplexCall",
	 .kind = SPLIT_BIDI_STREAM,
	 IN(streaming_output_call_request),
	 OUT(streaming_output_call_response),
	 .data = &now,
	 .open = duplex_open,
	 .message = duplex_message,
	 .half_close = duplex_half_close,
	 .writable = duplex_writable,
	 .cancelled = duplex_cancelled,
	 .closed = duplex_closed},
	{.name = "HalfDuplexCall",
	 .kind = SPLIT_BIDI_STREAM,
	 IN(streaming_output_call_request),
	 OUT(streaming_output_call_response),
	 .data = &at_half_close,
	 .open = duplex_open,
	 .message = duplex_message,
	 .half_close = duplex_half_close,
	 .writable = duplex_writable,
	 .cancelled = duplex_cancelled,
	 .closed = duplex_closed},
};

static int serve(struct split_host *host, void *arg)
{
	int rc = 0;

	(void)arg;
	for (size_t i = 0; rc == 0 && i < sizeof(methods) / sizeof(methods[0]); i++) {
		struct split_method m = methods[i];

		m.service = "grpc.testing.TestService";
		rc = split_host_serve_method(host, &m);
	}
	return rc;
}

int main(int argc, char **argv)
{
	pthread_condattr_t attr;
	pthread_t timer;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&timer_changed, &attr);
	if (pthread_create(&timer, NULL, timer_main, NULL) != 0) {
		fprintf(stderr, "cannot start a thread\n");
		return 1;
	}
	pthread_detach(timer);
	return example_serve(argc, argv, "interop", serve, NULL);
}
