/* Hierarchical timing wheel: arm, cancel and re-arm in O(1), intrusive timers, no allocation.
 *
 * Thread rule: one owner thread. Time is a parameter; the wheel reads no clock.
 *
 * Precision: a timer never fires before its deadline, and fires in the first wheel_advance() whose
 * now_ns is at least one tick (WHEEL_TICK_NS, 8.192 us) past it, budget permitting. Range: all of
 * uint64_t nanoseconds.
 *
 * Ownership: timers are the caller's and must stay put while armed; wheel_cancel before freeing.
 * A timer is unarmed when its fire() runs, which may arm, cancel or free any timer, itself
 * included, but must not call wheel_advance.
 */
#ifndef SPLITD_BASE_WHEEL_H
#define SPLITD_BASE_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

#define WHEEL_TICK_SHIFT 13
#define WHEEL_TICK_NS    (UINT64_C(1) << WHEEL_TICK_SHIFT)

/* 9 levels of 64 slots are 2^54 ticks; uint64_t nanoseconds are 2^51. */
#define WHEEL_LEVEL_BITS 6
#define WHEEL_SLOTS      (1u << WHEEL_LEVEL_BITS)
#define WHEEL_LEVELS     9u

_Static_assert(WHEEL_LEVELS *WHEEL_LEVEL_BITS >= 64 - WHEEL_TICK_SHIFT, "wheel covers the clock");

struct wheel_timer {
	struct list link;
	uint64_t deadline_ns;
	void (*fire)(struct wheel_timer *timer, uint64_t now_ns);
	uint16_t slot; /* the wheel's own */
};

struct wheel {
	uint64_t now_tick;
	uint64_t armed;                  /* timers on the wheel */
	struct list due;                 /* deadline reached, waiting for budget */
	struct list cascade;             /* a far slot whose time has come, being spread */
	uint64_t occupied[WHEEL_LEVELS]; /* bit per slot */
	struct list slots[WHEEL_LEVELS * WHEEL_SLOTS];
};

void wheel_init(struct wheel *w, uint64_t now_ns);

/* Before the first arm. */
static inline void wheel_timer_init(struct wheel_timer *t,
				    void (*fire)(struct wheel_timer *, uint64_t))
{
	list_init(&t->link);
	t->deadline_ns = 0;
	t->fire = fire;
	t->slot = 0;
}

static inline bool wheel_timer_armed(const struct wheel_timer *t)
{
	return !list_empty(&t->link);
}

/* Arm `t` (initialised), or move it when it is armed already. A deadline in the past fires at the
 * next advance (within the running one, when called from fire()). */
void wheel_arm(struct wheel *w, struct wheel_timer *t, uint64_t deadline_ns);

/* Take `t` off; harmless when it is not armed. */
void wheel_cancel(struct wheel *w, struct wheel_timer *t);

/* Move time to `now_ns` (never backwards: an older value moves nothing) and fire what is due, at
 * most `budget` timers; what is left fires at the next advance. Moves between levels are bounded by
 * the budget too (16 a unit). Returns how many fired. */
unsigned wheel_advance(struct wheel *w, uint64_t now_ns, unsigned budget);

/* When to call advance next at the latest: no timer is due before it. It may come before the
 * earliest deadline (by up to a level's slot for far timers), never after the time it can fire.
 * In the past when work is left over; UINT64_MAX when nothing is armed. */
uint64_t wheel_next_ns(const struct wheel *w);

#endif
