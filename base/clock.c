#include "base/clock.h"

#include <stdatomic.h>

/* Nanoseconds per cycle as 32.32 fixed point; 0 = not measured yet. Two threads that measure at the
 * same time write nearly the same value, so no lock is needed. */
static _Atomic uint64_t ns_per_cycle_fp;

#define CALIBRATE_NS (UINT64_C(10) * CLOCK_NS_PER_MS)

uint64_t clock_wall_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * CLOCK_NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

void clock_calibrate(void)
{
	uint64_t ns0 = clock_ns();
	uint64_t c0 = clock_cycles();
	uint64_t ns1, c1;

	do {
		ns1 = clock_ns();
		c1 = clock_cycles();
	} while (ns1 - ns0 < CALIBRATE_NS || c1 == c0);
	atomic_store_explicit(&ns_per_cycle_fp,
			      (uint64_t)(((unsigned __int128)(ns1 - ns0) << 32) / (c1 - c0)),
			      memory_order_relaxed);
}

static uint64_t clock_rate(void)
{
	uint64_t fp = atomic_load_explicit(&ns_per_cycle_fp, memory_order_relaxed);

	if (fp == 0) {
		clock_calibrate();
		fp = atomic_load_explicit(&ns_per_cycle_fp, memory_order_relaxed);
	}
	return fp;
}

uint64_t clock_cycles_to_ns(uint64_t cycles)
{
	return (uint64_t)(((unsigned __int128)cycles * clock_rate()) >> 32);
}

uint64_t clock_cycles_hz(void)
{
	return (uint64_t)(((unsigned __int128)CLOCK_NS_PER_SEC << 32) / clock_rate());
}
