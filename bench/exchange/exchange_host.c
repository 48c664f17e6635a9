/* bench.exchange.Exchange behind splitd: the host of split-perf isolation. Each part of an answer
 * is made where it will be sent from, by the call's allocator. */
#include <time.h>

#include "bench/exchange/exchange.h"
#include "examples/options.h"

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *room_get(void *call, size_t bytes)
{
	return split_call_alloc(call, bytes);
}

static void settle(struct split_call *call, const ProtobufCMessage *message, void *data)
{
	const Bench__Exchange__Order *order = (const Bench__Exchange__Order *)message;
	const struct exchange_room room = {room_get, call};
	uint64_t until = order->busy_ns ? now_ns() + order->busy_ns : 0;
	Bench__Exchange__Invoice *out = split_call_alloc(call, sizeof(*out));

	(void)data;
	while (until != 0 && now_ns() < until)
		;
	if (out == NULL || exchange_settle(order, &room, out) != 0)
		split_call_fail(call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
	else
		split_call_answer(call, &out->base);
}

static int serve(struct split_host *host, void *arg)
{
	const struct split_method method = {
		.service = "bench.exchange.Exchange",
		.name = "Settle",
		.kind = SPLIT_UNARY,
		.input = &bench__exchange__order__descriptor,
		.output = &bench__exchange__invoice__descriptor,
		.message = settle,
	};

	(void)arg;
	return split_host_serve_method(host, &method);
}

int main(int argc, char **argv)
{
	return example_serve(argc, argv, "exchange", serve, NULL);
}
