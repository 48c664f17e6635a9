/* IP reassembly, both families. Byte i of every packet is a function of i, whatever the fragment it
 * comes in, so a datagram that is put together of the wrong pieces shows. */
#include "tests/fuzz/net_world.h"

#define RECORDS_MAX 300
#define BYTES_MAX   1400

static uint8_t byte_at(uint32_t i)
{
	static const uint8_t udp[8] = {0, 99, 0, UDP_PORT};

	return i < 8 ? udp[i] : (uint8_t)(i * 7 + (i >> 8));
}

static uint16_t length_said; /* in the UDP header; 0: none yet */

static void datagram(const struct rte_mbuf *payload)
{
	uint32_t at = 8;

	for (const struct rte_mbuf *m = payload; m != NULL; m = m->next)
		for (uint16_t i = 0; i < m->data_len; i++, at++)
			if (rte_pktmbuf_mtod(m, const uint8_t *)[i] != byte_at(at))
				abort();
}

/* Bytes [first, first + len) of the packet `id`. */
static void fragment(bool v6, uint8_t id, uint16_t first, uint16_t len, bool more, uint8_t how)
{
	uint8_t f[62 + BYTES_MAX] = {0}, *p = f + (v6 ? 62 : 34);

	for (uint16_t i = 0; i < len; i++) {
		p[i] = byte_at((uint32_t)first + i);
		if (first + i == 4 || first + i == 5)
			p[i] = (uint8_t)(length_said >> (first + i == 4 ? 8 : 0));
	}
	if (v6) {
		headers6(f, 44, (uint16_t)(8 + len), 64);
		f[54] = IP_PROTO_UDP;
		be16_store(f + 56, (uint16_t)((first & ~7u) | more));
		be32_store(f + 58, id);
	} else {
		headers(f, IP_PROTO_UDP, len);
		be16_store(f + 18, id);
		be16_store(f + 20, (uint16_t)(first / 8 | (more ? 0x2000 : 0)));
	}
	frame_give(f, (uint16_t)(p - f + len), how);
}

static void record(struct input *in)
{
	uint8_t kind = take8(in), how = take8(in);
	uint16_t first, len;

	switch (kind % 8) {
	case 6:
		world_step(how);
		break;
	case 7: /* anything at all behind a fragment's header */
		fragment_give(in, how, (kind & 8) != 0);
		break;
	default:
		first = (uint16_t)(take16(in) & ~7u);
		len = take16(in) % (BYTES_MAX + 1);
		if (kind & 16)
			len &= (uint16_t)~7u;
		if (first == 0 && len >= 8)
			length_said = take16(in);
		fragment((kind & 8) != 0, kind >> 6, first, len, (kind & 32) != 0, how);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	world_make(take8(&in) & (uint8_t)~2u); /* fragments are taken */
	w.datagram = datagram;
	length_said = 0;
	for (int i = 0; i < RECORDS_MAX && in.left > 0; i++)
		record(&in);
	world_end();
	return 0;
}
