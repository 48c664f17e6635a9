/* Neighbour and router discovery, listener discovery's queries: messages mostly right, messages
 * with any body, and connections that need a neighbour meanwhile. */
#include "tests/fuzz/net_world.h"

#define RECORDS_MAX 300

/* A message of one of the types with a body of the input's, from a source of its choice. */
static void message(struct input *in, uint8_t how)
{
	static const uint8_t types[] = {ICMP6_ROUTER_SOLICIT,    ICMP6_ROUTER_ADVERT,
					ICMP6_NEIGHBOUR_SOLICIT, ICMP6_NEIGHBOUR_ADVERT,
					ICMP6_REDIRECT,          130};
	uint8_t f[54 + 300] = {0};
	uint16_t n = (uint16_t)(4 + bytes_take(in, f + 58, 255));

	f[54] = types[how / 32 % sizeof(types)];
	headers6(f, IP_PROTO_ICMP6, n, how & 4 ? 255 : 1);
	if (how & 8)
		memcpy(f + 22, router6, 16);
	if (how & 16) {
		memcpy(f + 38, nodes6, 16);
		f[0] = 0x33;
	}
	sum6(f, n);
	frame_give(f, (uint16_t)(54 + n), how & 3);
}

static void record(struct input *in)
{
	uint8_t kind = take8(in), how = take8(in);

	switch (kind % 8) {
	case 0:
	case 1:
	case 2:
		discovery_give(in, how);
		break;
	case 5:
		world_step(how);
		break;
	case 6:
		world_call(in);
		break;
	case 7:
		world_open(how % 4, true, (how & 32) != 0);
		break;
	default:
		message(in, how);
		break;
	}
	if (kind & 16)
		net_flush(w.stack, w.now_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	world_make(take8(&in));
	for (int i = 0; i < RECORDS_MAX && in.left > 0; i++)
		record(&in);
	world_end();
	return 0;
}
