/* Time: monotonic nanoseconds, and the cycle counter scaled to them.
 *
 * Any thread. No layer between port and shepherd reads a clock by itself: worker/ reads once a poll
 * and hands `now_ns` down, so that everything runs under a virtual clock in tests.
 */
#ifndef SPLITD_BASE_CLOCK_H
#define SPLITD_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#define CLOCK_NS_PER_US  UINT64_C(1000)
#define CLOCK_NS_PER_MS  UINT64_C(1000000)
#define CLOCK_NS_PER_SEC UINT64_C(1000000000)

/* CLOCK_MONOTONIC; by vDSO, so no system call on the machines we run on. Never fails. */
static inline uint64_t clock_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * CLOCK_NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* CLOCK_REALTIME, for log lines and what an operator reads; never for intervals. */
uint64_t clock_wall_ns(void);

/* The free-running cycle counter (TSC; CNTVCT_EL0 on Arm). Not serialising. */
static inline uint64_t clock_cycles(void)
{
#if defined(__x86_64__)
	return __rdtsc();
#elif defined(__aarch64__)
	uint64_t v;

	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
	return v;
#else
	return clock_ns();
#endif
}

/* Cycles to nanoseconds. The first call of the process measures the counter's rate for about 10 ms
 * (call clock_calibrate() at start so that it is not on the data path); any number of threads. */
uint64_t clock_cycles_to_ns(uint64_t cycles);
void clock_calibrate(void);

/* Measured counter rate in Hz. Calibrates when nobody has. */
uint64_t clock_cycles_hz(void);

#endif
