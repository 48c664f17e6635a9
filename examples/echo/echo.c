/* split.examples.Echo: what tests and load generators are pointed at.
 *
 * It shows how to spend as little as possible on a reply. The payload sent back is the request's
 * own memory: the library copies it once, into the slot when it is small, else into shared memory.
 * A reply that is made here is made in shared memory at once, by the call's allocator, and not
 * copied at all.
 */
#include <string.h>
#include <time.h>

#include "echo.pb-c.h"
#include "examples/options.h"

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

static void unary(Split__Examples__Echo_Service *self, const Split__Examples__EchoMessage *in,
		  Split__Examples__EchoMessage_Closure reply, void *closure_data)
{
	Split__Examples__EchoMessage out = SPLIT__EXAMPLES__ECHO_MESSAGE__INIT;
	struct split_call *call = split_call_of(closure_data);
	uint8_t small[REPLY_BYTES_SMALL];

	(void)self;
	if (in->busy_us != 0)
		spin_us(in->busy_us);
	out.payload = in->payload;
	if (in->reply_bytes > REPLY_BYTES_MAX) {
		split_call_set_status(call, SPLIT_INVALID_ARGUMENT, "reply_bytes: at most 64 MiB");
		reply(NULL, closure_data);
		return;
	}
	if (in->reply_bytes != 0) {
		out.payload.len = in->reply_bytes;
		out.payload.data = in->reply_bytes <= sizeof(small)
					   ? small
					   : split_call_alloc(call, in->reply_bytes);
		if (out.payload.data == NULL) {
			split_call_set_status(call, SPLIT_RESOURCE_EXHAUSTED, "out of memory");
			reply(NULL, closure_data);
			return;
		}
		pattern_fill(out.payload.data, out.payload.len);
	}
	reply(&out, closure_data);
}

int main(int argc, char **argv)
{
	Split__Examples__Echo_Service echo = SPLIT__EXAMPLES__ECHO__INIT();

	echo.unary = unary;
	return example_main(argc, argv, "echo", &echo.base);
}
