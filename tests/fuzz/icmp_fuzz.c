/* ICMP and ICMPv6 but for neighbour discovery: errors about connections with bytes in flight,
 * errors about nothing, echo, and whatever else the input makes. */
#include "tests/fuzz/net_world.h"

#define RECORDS_MAX 300

/* Type, code and body are the input's, the checksum is right. */
static void message(struct input *in, bool v6, uint8_t how)
{
	uint8_t f[54 + 260] = {0}, *p = f + (v6 ? 54 : 34);
	size_t n = bytes_take(in, p, 255);
	uint16_t sum;

	if (n < 4)
		n = 4;
	if (v6) {
		/* Neighbour discovery has a target of its own. */
		if (p[0] >= ICMP6_ROUTER_SOLICIT && p[0] <= ICMP6_REDIRECT)
			p[0] = ICMP6_ECHO;
		headers6(f, IP_PROTO_ICMP6, (uint16_t)n, 64);
		if (how & 64) {
			memset(f + 38, 0, 16); /* to all nodes */
			f[38] = 0xff;
			f[39] = 2;
			f[53] = 1;
			f[0] = 0x33;
		}
		sum6(f, (uint16_t)n);
	} else {
		headers(f, IP_PROTO_ICMP, (uint16_t)n);
		p[2] = p[3] = 0;
		sum = cksum_fold(cksum_add(0, p, n));
		memcpy(p + 2, &sum, 2);
	}
	frame_give(f, (uint16_t)(p - f + (ptrdiff_t)n), how);
}

static void record(struct input *in)
{
	uint8_t kind = take8(in), how = take8(in);

	switch (kind % 8) {
	case 0:
	case 1:
		message(in, kind % 8 == 1, how);
		break;
	case 5:
		world_step(how);
		break;
	case 6:
		world_call(in);
		break;
	case 7:
		segment_give(in, how);
		break;
	default:
		error_give(in, how);
		break;
	}
	if (kind & 16)
		net_flush(w.stack, w.now_ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Both connections have something in flight. */
	static const uint8_t sends[] = {0, 0, 0x0f, 0xa0, 1, 0, 0x0f, 0xa0};
	struct input in = {data, size}, first = {sends, sizeof(sends)};

	world_make(take8(&in));
	world_open(0, false, true);
	world_open(1, true, false);
	world_call(&first);
	world_call(&first);
	net_flush(w.stack, w.now_ns);
	for (int i = 0; i < RECORDS_MAX && in.left > 0; i++)
		record(&in);
	world_end();
	return 0;
}
