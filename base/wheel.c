/* Design. Time is counted in ticks and seen as a number of 9 digits of 6 bits. A timer hangs at the
 * level of the highest digit in which its tick differs from now, in the slot of its own digit
 * there. So every occupied slot of a level is ahead of now's digit (nothing wraps), everything on a
 * lower level is earlier than anything on a higher one, and the next slot to look at is the lowest
 * bit of the lowest level that is not empty. When now reaches the start of a slot of a higher
 * level, its timers are spread over the lower ones. Time may jump to anywhere before the next
 * occupied slot without touching a timer: such a jump changes no digit above that slot's level.
 *
 * Varghese & Lauck, "Hashed and Hierarchical Timing Wheels" (1987), scheme 7.
 */
#include "base/wheel.h"

#include <stddef.h>

#define SLOT_NONE    UINT16_MAX
#define CASCADE_RATE 16u

void wheel_init(struct wheel *w, uint64_t now_ns)
{
	w->now_tick = now_ns >> WHEEL_TICK_SHIFT;
	w->armed = 0;
	list_init(&w->due);
	list_init(&w->cascade);
	for (unsigned l = 0; l < WHEEL_LEVELS; l++)
		w->occupied[l] = 0;
	for (unsigned i = 0; i < WHEEL_LEVELS * WHEEL_SLOTS; i++)
		list_init(&w->slots[i]);
}

/* The first tick that is wholly past the deadline. */
static uint64_t wheel_tick_of(uint64_t deadline_ns)
{
	uint64_t mask = WHEEL_TICK_NS - 1;

	return (deadline_ns >> WHEEL_TICK_SHIFT) + ((deadline_ns & mask) != 0);
}

static void wheel_place(struct wheel *w, struct wheel_timer *t)
{
	uint64_t tick = wheel_tick_of(t->deadline_ns);
	unsigned level, slot;

	if (tick <= w->now_tick) {
		t->slot = SLOT_NONE;
		list_add_tail(&w->due, &t->link);
		return;
	}
	level = (63u - (unsigned)__builtin_clzll(tick ^ w->now_tick)) / WHEEL_LEVEL_BITS;
	slot = (tick >> (level * WHEEL_LEVEL_BITS)) & (WHEEL_SLOTS - 1);
	w->occupied[level] |= UINT64_C(1) << slot;
	t->slot = (uint16_t)(level * WHEEL_SLOTS + slot);
	list_add_tail(&w->slots[t->slot], &t->link);
}

void wheel_arm(struct wheel *w, struct wheel_timer *t, uint64_t deadline_ns)
{
	wheel_cancel(w, t);
	t->deadline_ns = deadline_ns;
	w->armed++;
	wheel_place(w, t);
}

void wheel_cancel(struct wheel *w, struct wheel_timer *t)
{
	if (!wheel_timer_armed(t))
		return;
	list_del(&t->link);
	w->armed--;
	if (t->slot != SLOT_NONE && list_empty(&w->slots[t->slot]))
		w->occupied[t->slot / WHEEL_SLOTS] &= ~(UINT64_C(1) << (t->slot % WHEEL_SLOTS));
}

/* The next occupied slot: its index, or SLOT_NONE; and the tick at which it begins. */
static uint16_t wheel_next_slot(const struct wheel *w, uint64_t *tick_out)
{
	for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
		unsigned shift = level * WHEEL_LEVEL_BITS;
		unsigned slot;

		if (w->occupied[level] == 0)
			continue;
		slot = (unsigned)__builtin_ctzll(w->occupied[level]);
		*tick_out = ((w->now_tick >> shift >> WHEEL_LEVEL_BITS << WHEEL_LEVEL_BITS | slot)
			     << shift);
		return (uint16_t)(level * WHEEL_SLOTS + slot);
	}
	return SLOT_NONE;
}

/* Spread at most *work timers of the slot under way. */
static void wheel_spread(struct wheel *w, unsigned *work)
{
	while (*work > 0 && !list_empty(&w->cascade)) {
		struct list *node = list_pop_head(&w->cascade);

		wheel_place(w, list_entry(node, struct wheel_timer, link));
		(*work)--;
	}
}

/* Open the next occupied slot if it begins by `target`; else move time to `target`: false. */
static bool wheel_step(struct wheel *w, uint64_t target)
{
	uint64_t tick;
	uint16_t slot = wheel_next_slot(w, &tick);

	if (slot == SLOT_NONE || tick > target) {
		w->now_tick = target;
		return false;
	}
	w->now_tick = tick;
	w->occupied[slot / WHEEL_SLOTS] &= ~(UINT64_C(1) << (slot % WHEEL_SLOTS));
	/* The timers keep the slot's index, which now names an empty list; wheel_cancel bears that.
	 */
	list_splice_tail(&w->cascade, &w->slots[slot]);
	return true;
}

unsigned wheel_advance(struct wheel *w, uint64_t now_ns, unsigned budget)
{
	uint64_t target = now_ns >> WHEEL_TICK_SHIFT;
	unsigned work = budget < UINT32_MAX / CASCADE_RATE ? budget * CASCADE_RATE : UINT32_MAX;
	unsigned fired = 0;

	if (target < w->now_tick)
		target = w->now_tick;
	while (fired < budget) {
		struct list *node = list_pop_head(&w->due);

		if (node != NULL) {
			struct wheel_timer *t = list_entry(node, struct wheel_timer, link);

			w->armed--;
			fired++;
			t->fire(t, now_ns);
			continue;
		}
		if (!list_empty(&w->cascade)) {
			if (work == 0)
				break;
			wheel_spread(w, &work);
			continue;
		}
		if (w->now_tick == target || !wheel_step(w, target))
			break;
	}
	return fired;
}

uint64_t wheel_next_ns(const struct wheel *w)
{
	uint64_t tick;

	if (!list_empty(&w->due) || !list_empty(&w->cascade))
		return w->now_tick << WHEEL_TICK_SHIFT;
	if (wheel_next_slot(w, &tick) == SLOT_NONE)
		return UINT64_MAX;
	return tick > UINT64_MAX >> WHEEL_TICK_SHIFT ? UINT64_MAX : tick << WHEEL_TICK_SHIFT;
}
