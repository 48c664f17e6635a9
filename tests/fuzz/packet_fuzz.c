/* The whole stack against a hostile wire: a script of frames, times and calls of the layer above.
 * Each record is one byte of kind and its arguments; see record(). */
#include "tests/fuzz/net_world.h"

#define FRAMES_MAX 400

static void record(struct input *in)
{
	uint8_t kind = take8(in), how = take8(in), f[1600];
	size_t n;

	switch (kind % 8) {
	case 0: /* raw */
		n = bytes_take(in, f, 255);
		frame_give(f, (uint16_t)n, how);
		break;
	case 1: /* any protocol over IP; errors about connections */
		if (kind & 64) {
			error_give(in, how);
			break;
		}
		if (kind & 128) {
			fragment_give(in, how, (kind & 32) != 0);
			break;
		}
		if (kind & 32) {
			n = bytes_take(in, f + 54, 255);
			headers6(f, take8(in), (uint16_t)n, 64);
			if (f[20] == IP_PROTO_ICMP6 && n >= 4)
				sum6(f, (uint16_t)n);
			frame_give(f, (uint16_t)(54 + n), how);
			break;
		}
		n = bytes_take(in, f + 34, 255);
		headers(f, kind & 8 ? IP_PROTO_ICMP : take8(in), (uint16_t)n);
		frame_give(f, (uint16_t)(34 + n), how);
		break;
	case 2: { /* ARP and neighbour discovery, mostly right */
		static const uint8_t arp[] = {2,   0,  0, 0, 0, 2, 2, 0, 0, 0, 0,   9,  8, 6,
					      0,   1,  8, 0, 6, 4, 0, 2, 2, 0, 0,   0,  0, 9,
					      198, 18, 0, 9, 2, 0, 0, 0, 0, 2, 198, 18, 0, 2};

		if (kind & 32) {
			discovery_give(in, how);
			break;
		}
		memcpy(f, arp, sizeof(arp));
		f[how % sizeof(arp)] = take8(in);
		frame_give(f, sizeof(arp), 0);
		break;
	}
	case 3:
		world_step(how);
		break;
	case 4:
		world_call(in);
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

	world_make(take8(&in));
	for (int i = 0; i < FRAMES_MAX && in.left > 0; i++)
		record(&in);
	world_end();
	return 0;
}
