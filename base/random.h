/* Randomness: the kernel's for keys and secrets, xoshiro256** for simulation, jitter and tests.
 *
 * struct random is one thread's. xoshiro is not for secrets: anything a peer must not guess (keys,
 * the ISN secret) comes from random_bytes().
 */
#ifndef SPLITD_BASE_RANDOM_H
#define SPLITD_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct random {
	uint64_t s[4];
};

/* Fill from getrandom(2). 0, or -SPLIT_E_BASE_SYSTEM. Any thread; control path. */
int random_bytes(void *buf, size_t len) SPLIT_MUST_USE;

/* Seed from one number (expanded by SplitMix64): the same seed gives the same sequence for ever. */
void random_seed(struct random *r, uint64_t seed);

/* Seed from the kernel. 0, or -SPLIT_E_BASE_SYSTEM. */
int random_seed_system(struct random *r) SPLIT_MUST_USE;

/* xoshiro256** 1.0, Blackman & Vigna. */
uint64_t random_next(struct random *r);

/* Uniform in [0, bound), bound != 0, without modulo bias (Lemire). */
uint64_t random_below(struct random *r, uint64_t bound);

/* Uniform in [lo, hi], lo <= hi. */
uint64_t random_between(struct random *r, uint64_t lo, uint64_t hi);

/* Uniform in [0, 1). */
double random_unit(struct random *r);

/* Fill a buffer from the sequence. */
void random_fill(struct random *r, void *buf, size_t len);

#endif
