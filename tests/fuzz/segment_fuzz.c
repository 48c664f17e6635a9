/* Segments for connections that stand: every state's checks, reassembly, acknowledgements, loss
 * recovery. The first byte picks the stack's knobs, the second which connections are open. */
#include "tests/fuzz/net_world.h"

#define RECORDS_MAX 600

static void record(struct input *in)
{
	uint8_t kind = take8(in), how = take8(in);

	switch (kind % 8) {
	case 5:
		world_step(how);
		break;
	case 6:
		world_call(in);
		break;
	case 7:
		world_open(how % 16, (how & 16) != 0, (how & 32) != 0);
		break;
	default:
		segment_give(in, how);
		break;
	}
	if (kind & 16)
		net_flush(w.stack, w.now_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t open;

	world_make(take8(&in));
	open = take8(&in);
	for (uint8_t i = 0; i < 3; i++)
		if (open & (1u << i))
			world_open(i, (open & (8u << i)) != 0, (open & 64) != 0);
	for (int i = 0; i < RECORDS_MAX && in.left > 0; i++)
		record(&in);
	world_end();
	return 0;
}
