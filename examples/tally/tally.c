/* split.examples.Tally: the four kinds of call with the typed handlers of protoc-gen-split.
 *
 * One registration (split__examples__tally__serve) tells splitd everything that tally.proto says:
 * kinds, message layouts, limits, the default deadline, the descriptors for reflection. The
 * handlers below are all there is.
 *
 * A handler returns SPLIT_OK, another gRPC status, or SPLIT_LATER. What a call needs between its
 * callbacks hangs on the call (split_call_user) and goes in `closed`, which always comes.
 */
#include <stdlib.h>

#include "examples/options.h"
#include "tally.split.h"

#define COUNT_MAX 1000000u

struct sum {
	int64_t value;
	uint32_t numbers;
	uint32_t up_to;     /* Count */
	bool unsent, ended; /* Running: a total waits for room; the client is done */
};

static void sum_forget(struct split_call *call, void *data)
{
	(void)data;
	free(split_call_user(call));
}

static void sum_begin(struct split_call *call, void *data)
{
	struct sum *sum = calloc(1, sizeof(*sum));

	(void)data;
	split_call_set_user(call, sum);
	if (sum == NULL)
		split_call_fail(call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- unary: the reply comes initialised, the return value sends it */

static int add(struct split_call *call, const Split__Examples__Pair *pair,
	       Split__Examples__Total *reply, void *data)
{
	(void)data;
	if (__builtin_add_overflow(pair->left, pair->has_right ? pair->right : 0, &reply->value)) {
		split_call_set_status(call, SPLIT_OUT_OF_RANGE, "the total does not fit");
		return SPLIT_OUT_OF_RANGE;
	}
	reply->numbers = pair->has_right ? 2 : 1;
	return SPLIT_OK;
}

/* ---- client stream: a callback for each message, and one for the end */

static void sum_message(struct split_call *call, const Split__Examples__Number *number, void *data)
{
	struct sum *sum = split_call_user(call);

	(void)data;
	if (__builtin_add_overflow(sum->value, number->value, &sum->value))
		split_call_fail(call, SPLIT_OUT_OF_RANGE, "the total does not fit");
	sum->numbers++;
}

static int sum_half_close(struct split_call *call, Split__Examples__Total *reply, void *data)
{
	const struct sum *sum = split_call_user(call);

	(void)data;
	reply->value = sum->value;
	reply->numbers = sum->numbers;
	return SPLIT_OK;
}

/* ---- server stream: send while there is room, go on when `writable` says so */

static int count_on(struct split_call *call)
{
	struct sum *sum = split_call_user(call);

	while (sum->numbers < sum->up_to) {
		Split__Examples__Number number = SPLIT__EXAMPLES__NUMBER__INIT;
		int rc;

		number.value = sum->numbers + 1;
		rc = split__examples__tally__count__send(call, &number);
		if (rc == SPLIT_AGAIN)
			return SPLIT_LATER;
		if (rc != 0)
			return SPLIT_INTERNAL; /* nobody waits any more, or no memory */
		sum->numbers++;
	}
	return SPLIT_OK;
}

static int count(struct split_call *call, const Split__Examples__Limit *limit, void *data)
{
	sum_begin(call, data);
	if (split_call_user(call) == NULL)
		return SPLIT_LATER; /* ended already */
	if (limit->up_to > COUNT_MAX)
		return SPLIT_INVALID_ARGUMENT;
	((struct sum *)split_call_user(call))->up_to = limit->up_to;
	return count_on(call);
}

static void count_writable(struct split_call *call, void *data)
{
	(void)data;
	split_call_settle(call, count_on(call), NULL);
}

/* ---- bidi: a total for each number; when the client is slow the last one is enough */

static void running_send(struct split_call *call)
{
	struct sum *sum = split_call_user(call);
	Split__Examples__Total total = SPLIT__EXAMPLES__TOTAL__INIT;

	total.value = sum->value;
	total.numbers = sum->numbers;
	sum->unsent = split__examples__tally__running__send(call, &total) == SPLIT_AGAIN;
	if (sum->ended && !sum->unsent)
		split_call_finish(call);
}

static void running_message(struct split_call *call, const Split__Examples__Number *number,
			    void *data)
{
	sum_message(call, number, data);
	running_send(call);
}

static void running_writable(struct split_call *call, void *data)
{
	struct sum *sum = split_call_user(call);

	(void)data;
	if (sum->unsent)
		running_send(call);
}

static int running_half_close(struct split_call *call, void *data)
{
	struct sum *sum = split_call_user(call);

	(void)data;
	sum->ended = true;
	return sum->unsent ? SPLIT_LATER : SPLIT_OK;
}

static const Split__Examples__Tally_Handlers handlers = {
	.add = add,
	.sum = {.open = sum_begin,
		.message = sum_message,
		.half_close = sum_half_close,
		.closed = sum_forget},
	.count = {.request = count, .writable = count_writable, .closed = sum_forget},
	.running = {.open = sum_begin,
		    .message = running_message,
		    .half_close = running_half_close,
		    .writable = running_writable,
		    .closed = sum_forget},
};

static int serve(struct split_host *host, void *arg)
{
	return split__examples__tally__serve(host, &handlers, arg);
}

int main(int argc, char **argv)
{
	return example_serve(argc, argv, "tally", serve, NULL);
}
