/* SipHash-2-4, 64-bit output: the keyed hash for tables whose keys a peer chooses, and for
 * RFC 6528 initial sequence numbers.
 *
 * Any thread; no state. Keys come from random_bytes(). Aumasson & Bernstein, "SipHash: a fast
 * short-input PRF" (2012).
 */
#ifndef SPLITD_BASE_SIPHASH_H
#define SPLITD_BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

struct siphash_key {
	uint64_t k0;
	uint64_t k1;
};

/* Key from 16 bytes in the reference's (little endian) order. */
struct siphash_key siphash_key_from(const uint8_t bytes[16]);

uint64_t siphash24(const struct siphash_key *key, const void *data, size_t len);

#endif
