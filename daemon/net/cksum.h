/* The Internet checksum, RFC 1071: one's complement sum of 16-bit words.
 *
 * Any thread; no state. Sums are kept unfolded in 64 bits in memory order, so one routine serves
 * both byte orders; cksum_fold() gives the 16 bits to store as they are.
 */
#ifndef SPLITD_DAEMON_NET_CKSUM_H
#define SPLITD_DAEMON_NET_CKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <rte_mbuf.h>

typedef uint64_t cksum_lanes __attribute__((vector_size(16)));

static inline uint64_t cksum_carry(uint64_t sum, uint64_t v)
{
	sum += v;
	return sum + (sum < v);
}

/* Add `len` bytes that begin at an even offset of what is summed. */
static inline uint64_t cksum_add(uint64_t sum, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t v;

	/* 32 bytes a turn as 32-bit words in 64-bit lanes: nothing can overflow, no add waits for
	 * the carry of another. */
	if (len >= 32) {
		const cksum_lanes low = {UINT32_MAX, UINT32_MAX};
		cksum_lanes a = {0}, b = {0};

		do {
			cksum_lanes x, y;

			memcpy(&x, p, sizeof(x));
			memcpy(&y, p + sizeof(x), sizeof(y));
			a += (x & low) + (x >> 32);
			b += (y & low) + (y >> 32);
			p += 32;
			len -= 32;
		} while (len >= 32);
		a += b;
		sum = cksum_carry(sum, a[0]);
		sum = cksum_carry(sum, a[1]);
	}
	while (len >= 8) {
		memcpy(&v, p, 8);
		sum = cksum_carry(sum, v);
		p += 8;
		len -= 8;
	}
	if (len > 0) {
		v = 0;
		memcpy(&v, p, len);
		sum = cksum_carry(sum, v);
	}
	return sum;
}

static inline uint16_t cksum_reduce(uint64_t sum)
{
	sum = (sum & 0xffffffffu) + (sum >> 32);
	sum = (sum & 0xffffffffu) + (sum >> 32);
	sum = (sum & 0xffffu) + (sum >> 16);
	sum = (sum & 0xffffu) + (sum >> 16);
	return (uint16_t)sum;
}

/* The checksum as it is stored (memory order). */
static inline uint16_t cksum_fold(uint64_t sum)
{
	return (uint16_t)~cksum_reduce(sum);
}

/* Add `len` bytes of a chain from its byte `off` on; the chain must hold them. */
static inline uint64_t cksum_add_chain(uint64_t sum, const struct rte_mbuf *m, size_t off,
				       size_t len)
{
	size_t done = 0;

	while (off >= m->data_len && m->next != NULL) {
		off -= m->data_len;
		m = m->next;
	}
	while (m != NULL && done < len) {
		size_t n = m->data_len - off < len - done ? m->data_len - off : len - done;
		uint16_t part =
			cksum_reduce(cksum_add(0, rte_pktmbuf_mtod_offset(m, void *, off), n));

		/* A part that begins at an odd offset is the sum with its bytes swapped. */
		sum = cksum_carry(sum, (done & 1) ? __builtin_bswap16(part) : part);
		done += n;
		off = 0;
		m = m->next;
	}
	return sum;
}

#endif
