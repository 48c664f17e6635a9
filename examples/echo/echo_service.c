/* split.examples.Echo: what tests and load generators are pointed at; all four kinds of call.
 *
 * It shows how to spend as little as possible on a reply. The payload sent back is the request's
 * own memory: the library copies it once, into the slot when it is small, else into shared memory.
 * A reply that is made here is made in shared memory at once, by the call's allocator, and not
 * copied at all.
 *
 * And how a stream keeps pace with a slow client: what split_call_send does not take is kept until
 * `writable`. A bidi call keeps the messages it has not answered yet by split_message_retain;
 * splitd hands over no more than the read-ahead, so the client is stopped and nothing grows.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "echo.pb-c.h"
#include "examples/echo/echo_service.h"

#define REPLY_BYTES_MAX   (64u << 20)
#define REPLY_BYTES_SMALL 64u /* goes in the slot, from wherever it is */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void spin_us(uint32_t us)
{
	uint64_t end = now_ns() + (uint64_t)us * 1000u;

	while (now_ns() < end)
		;
}

/* Byte i is i & 0xff. */
static void pattern_fill(uint8_t *p, size_t bytes)
{
	size_t done = bytes < 256 ? bytes : 256;

	for (size_t i = 0; i < done; i++)
		p[i] = (uint8_t)i;
	while (done < bytes) {
		size_t n = done < bytes - done ? done : bytes - done;

		memcpy(p + done, p, n); /* `done` is a multiple of 256 until the end */
		done += n;
	}
}

/* Fill in the answer to `in`; its payload may be the request's, or `small`'s. False: the call has
 * been ended with a status. */
static bool answer_make(struct split_call *call, const Split__Examples__EchoMessage *in,
			Split__Examples__EchoMessage *out, uint8_t small[REPLY_BYTES_SMALL])
{
	split__examples__echo_message__init(out);
	if (in->busy_us != 0)
		spin_us(in->busy_us);
	if (in->sleep_us != 0)
		usleep(in->sleep_us);
	out->payload = in->payload;
	if (in->reply_bytes == 0)
		return true;
	if (in->reply_bytes > REPLY_BYTES_MAX) {
		split_call_fail(call, SPLIT_INVALID_ARGUMENT, "reply_bytes: at most 64 MiB");
		return false;
	}
	out->payload.len = in->reply_bytes;
	out->payload.data = in->reply_bytes <= REPLY_BYTES_SMALL
				    ? small
				    : split_call_alloc(call, in->reply_bytes);
	if (out->payload.data == NULL) {
		split_call_fail(call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
		return false;
	}
	pattern_fill(out->payload.data, out->payload.len);
	return true;
}

static void unary(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	Split__Examples__EchoMessage out;
	uint8_t small[REPLY_BYTES_SMALL];

	(void)data;
	if (answer_make(call, (const Split__Examples__EchoMessage *)message, &out, small))
		split_call_answer(call, &out.base);
}

/* ---- streams -------------------------------------------------------------------------------- */

#define KEPT_MAX 16 /* messages not answered yet: the read-ahead */

struct echo {
	Split__Examples__EchoMessage out; /* made, and not taken yet */
	uint8_t small[REPLY_BYTES_SMALL];
	bool made, half_closed, over;
	uint32_t sent;
	uint64_t bytes;
	struct split_message *kept[KEPT_MAX]; /* a ring */
	unsigned kept_first, kept_n;
};

static void echo_open(struct split_call *call, void *data)
{
	struct echo *e = calloc(1, sizeof(*e));

	(void)data;
	split_call_set_user(call, e);
	if (e == NULL)
		split_call_fail(call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
}

/* A kept message holds its call: it must go for `closed` to come. */
static void kept_drop(struct echo *e)
{
	for (; e->kept_n != 0; e->kept_n--) {
		split_message_release(e->kept[e->kept_first]);
		e->kept_first = (e->kept_first + 1) % KEPT_MAX;
	}
}

static void echo_end(struct split_call *call, enum split_status status, const char *text)
{
	struct echo *e = split_call_user(call);

	e->over = true;
	if (status == SPLIT_OK)
		split_call_finish(call);
	else
		split_call_fail(call, status, text);
	kept_drop(e);
}

static void echo_cancelled(struct split_call *call, void *data)
{
	(void)data;
	echo_end(call, SPLIT_CANCELLED, NULL);
}

static void echo_closed(struct split_call *call, void *data)
{
	(void)data;
	free(split_call_user(call));
}

/* One answer. False: not now, or not any more. */
static bool echo_send(struct split_call *call, struct echo *e,
		      const Split__Examples__EchoMessage *in)
{
	int rc;

	if (!e->made && !answer_make(call, in, &e->out, e->small)) {
		e->over = true;
		kept_drop(e);
		return false;
	}
	e->made = true;
	rc = split_call_send(call, &e->out.base);
	if (rc == SPLIT_AGAIN)
		return false; /* writable follows */
	if (rc != 0) {
		echo_end(call, SPLIT_RESOURCE_EXHAUSTED, split_host_error_text(rc));
		return false;
	}
	e->made = false;
	return true;
}

/* Server: the request stays valid until the call has been answered. */
static void server_go(struct split_call *call, void *data)
{
	const Split__Examples__EchoMessage *in = (const void *)split_call_message(call);
	struct echo *e = split_call_user(call);

	(void)data;
	while (e->sent < in->replies) {
		if (!echo_send(call, e, in))
			return;
		e->sent++;
	}
	echo_end(call, SPLIT_OK, NULL);
}

static void server(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	(void)message;
	echo_open(call, data);
	if (split_call_user(call) != NULL)
		server_go(call, data);
}

static void client_message(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	struct echo *e = split_call_user(call);

	(void)data;
	e->bytes += ((const Split__Examples__EchoMessage *)message)->payload.len;
	kept_drop(e);
	e->kept[0] = split_message_retain(call);
	e->kept_first = 0;
	e->kept_n = e->kept[0] != NULL;
}

static void client_half_close(struct split_call *call, void *data)
{
	Split__Examples__EchoMessage out = SPLIT__EXAMPLES__ECHO_MESSAGE__INIT;
	struct echo *e = split_call_user(call);
	const Split__Examples__EchoMessage *last;

	(void)data;
	if (e->kept_n != 0) {
		last = (const void *)split_message_get(e->kept[0]);
		out.payload = last->payload;
	}
	out.reply_bytes = (uint32_t)e->bytes;
	split_call_answer(call, &out.base);
	kept_drop(e);
}

static void bidi_go(struct split_call *call, void *data)
{
	struct echo *e = split_call_user(call);

	(void)data;
	while (e->kept_n != 0) {
		struct split_message *m = e->kept[e->kept_first];

		if (!echo_send(call, e, (const void *)split_message_get(m)))
			return;
		split_message_release(m);
		e->kept_first = (e->kept_first + 1) % KEPT_MAX;
		e->kept_n--;
	}
	if (e->half_closed)
		echo_end(call, SPLIT_OK, NULL);
}

static void bidi_message(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	struct echo *e = split_call_user(call);
	struct split_message *m;

	(void)data;
	if (e->kept_n == 0 && echo_send(call, e, (const void *)message))
		return; /* at once: nothing to keep */
	if (e->over)
		return;
	m = e->kept_n < KEPT_MAX ? split_message_retain(call) : NULL;
	if (m == NULL) {
		echo_end(call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	e->kept[(e->kept_first + e->kept_n++) % KEPT_MAX] = m;
}

static void bidi_half_close(struct split_call *call, void *data)
{
	struct echo *e = split_call_user(call);

	e->half_closed = true;
	if (e->kept_n == 0)
		bidi_go(call, data);
}

#define ECHO(name_, kind_)                                                                         \
	.service = "split.examples.Echo", .name = (name_), .kind = (kind_),                        \
	.input = &split__examples__echo_message__descriptor,                                       \
	.output = &split__examples__echo_message__descriptor

int echo_serve(struct split_host *host, void *arg)
{
	static const struct split_method methods[] = {
		{ECHO("Unary", SPLIT_UNARY), .message = unary},
		{ECHO("Client", SPLIT_CLIENT_STREAM), .open = echo_open, .message = client_message,
		 .half_close = client_half_close, .cancelled = echo_cancelled,
		 .closed = echo_closed},
		{ECHO("Server", SPLIT_SERVER_STREAM), .message = server, .writable = server_go,
		 .cancelled = echo_cancelled, .closed = echo_closed},
		{ECHO("Bidi", SPLIT_BIDI_STREAM), .open = echo_open, .message = bidi_message,
		 .half_close = bidi_half_close, .writable = bidi_go, .cancelled = echo_cancelled,
		 .closed = echo_closed, .read_ahead = KEPT_MAX},
	};
	int rc = 0;

	(void)arg;
	for (size_t i = 0; rc == 0 && i < sizeof(methods) / sizeof(methods[0]); i++)
		rc = split_host_serve_method(host, &methods[i]);
	return rc;
}
