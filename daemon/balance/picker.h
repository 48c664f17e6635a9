/* Picker: which one of several members gets the next piece of work.
 *
 * It knows members (a weight, a load, a memory node, a state) and nothing of what they are:
 * balance.h uses one for each service over attached host processes, the client one for each channel
 * over addresses. One thread, no lock, no clock (time is a parameter), no DPDK; everything is
 * allocated by picker_init. The caller embeds struct picker_member and keeps it still between
 * picker_add and picker_remove.
 *
 * A pick goes through these steps, of which most configurations use few:
 *
 *   1. sticky     a key that was seen before goes where it went, while that member is usable
 *   2. subset     only `subset` of the members are used by this caller (all when none of them is
 *                 usable): members stand in an order that follows from their ids alone, and caller
 *                 number c of n takes the c-th run of them, wrapping around, so that two members
 *                 never differ by more than one in how many callers use them
 *   3. locality   members of the caller's own memory node first, until each of them has
 *                 `locality_spill` pieces ahead of it for each unit of weight (0: no spilling)
 *   4. policy     among what is left:
 *                   round robin         in turn
 *                   weighted            in turn, in proportion to weights, evenly interleaved
 *                                       (smooth weighted round robin)
 *                   least outstanding   the least load for its weight; equals take turns
 *                   power of two        the less loaded of two drawn at random (Mitzenmacher 1996)
 *                   consistent hash     by a Maglev table (Eisenbud et al., NSDI 2016, s3.4): equal
 *                                       keys go to equal members, and when a member comes or goes
 *                                       only about its own share of keys moves. Steps 2 and 3 do
 * not apply to it. A pick without a hash is round robin
 *
 * Usable is a member that is PICKER_UP and not ejected. When none is, a pick finds nothing; but
 * ejection by failures never takes the last usable member.
 *
 * Slow start: a member that was added, or comes back, has at first `slow_start_percent` of its
 * weight, which grows linearly to all of it during `slow_start_ns`. It bears on every policy but
 * the consistent hash (round robin becomes weighted meanwhile).
 *
 * Ejection (gRFC A50, Envoy's outlier detection): a member with `consecutive` failures in a row, or
 * with at least `percent` failures among at least `calls_min` results of one `interval_ns`, or
 * whose share of good ones is more than `deviation` standard deviations below the mean of all that
 * had so many results, is not picked for base_ns times the number of its ejections, at most max_ns;
 * each interval without one takes one of that number back. No more than `share_percent` of the
 * members are ejected at a time (but one always may be, unless it is the last usable). Its load
 * still ends as it ends.
 *
 * Bounds: picks are O(1), or O(members) for weighted and least outstanding; add and remove are
 * O(members log members), and O(hash_slots) more where there is a table. Ids and keys that peers
 * choose go through SipHash first (picker_hash).
 */
#ifndef SPLITD_DAEMON_BALANCE_PICKER_H
#define SPLITD_DAEMON_BALANCE_PICKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/error.h"
#include "base/random.h"

enum picker_policy {
	PICKER_ROUND_ROBIN,
	PICKER_WEIGHTED,
	PICKER_LEAST_OUTSTANDING,
	PICKER_POWER_OF_TWO,
	PICKER_CONSISTENT_HASH,
};

/* What the caller says of a member. */
enum picker_state {
	PICKER_UP,
	PICKER_DRAINING, /* finishes what it has, gets nothing new */
	PICKER_DOWN,     /* gone, stalled, not connected */
};

/* What became of a piece of work. */
enum picker_result {
	PICKER_GOOD,
	PICKER_FAILED,
	PICKER_NEUTRAL, /* says nothing about the member: cancelled, refused before it got it */
};

#define PICKER_WEIGHT_MAX     1000
#define PICKER_HASH_SLOTS_MAX 65521 /* a prime */
#define PICKER_NODE_ANY       (-1)

struct picker_ejection {
	uint32_t consecutive; /* failures in a row; 0: not by this */
	uint32_t percent;     /* of an interval's results; 0: not by this */
	uint32_t deviation;   /* thousandths of a standard deviation; 0: not by this */
	uint32_t members_min; /* deviation: with results enough; 0 counts as 2 */
	uint32_t calls_min;   /* percent, deviation: results that an interval must have had */
	/* A50's enforcement: so many percent of the ejections due by percent and by deviation are
	 * carried out, drawn at random. 0 counts as 100. */
	uint32_t percent_enforced, deviation_enforced;
	uint64_t interval_ns;
	uint64_t base_ns, max_ns;
	uint32_t share_percent; /* of the members, ejected at a time */
};

struct picker_config {
	enum picker_policy policy;
	uint32_t members_max;
	int32_t node; /* the caller's; PICKER_NODE_ANY: unknown, then there is no locality */
	bool locality;
	uint32_t locality_spill;
	uint32_t subset;             /* members; 0: all */
	uint32_t caller, callers_n;  /* number of this caller among all that pick; for the subset */
	uint64_t slow_start_ns;      /* 0: none */
	uint32_t slow_start_percent; /* 1..100 */
	uint32_t hash_slots;         /* at least; the next prime is taken. A hundred for each member
				      * keeps shares within a percent or so */
	uint32_t sticky_entries; /* keys remembered, the least recently used forgotten; 0: none */
	struct picker_ejection ejection;
	uint64_t seed; /* of what is drawn at random */
};

#define PICKER_COUNTERS(X)                                                                         \
	X(picks, "times a member was chosen")                                                      \
	X(no_member, "times no member was usable")                                                 \
	X(local, "picks that found a member of the own memory node")                               \
	X(spilled, "picks that left the own memory node: all there had enough ahead")              \
	X(hashed, "picks by the consistent hash")                                                  \
	X(hash_moved, "of these: past the key's own member, which was not usable")                 \
	X(hash_no_key, "picks without a key for the consistent hash: in turn instead")             \
	X(sticky_kept, "picks that went where their key went before")                              \
	X(sticky_new, "keys remembered")                                                           \
	X(sticky_moved, "keys that moved: their member was not usable any more")                   \
	X(sticky_forgotten, "keys forgotten for newer ones")                                       \
	X(subset_left, "picks outside the subset: none of it was usable")                          \
	X(good, "pieces of work that went well")                                                   \
	X(failed, "pieces of work that failed")                                                    \
	X(ejected_consecutive, "ejections after failures in a row")                                \
	X(ejected_percent, "ejections for an interval's share of failures")                        \
	X(ejected_deviation, "ejections for fewer good results than the others have")              \
	X(eject_refused, "ejections left out: too many are ejected already, or it is the last")    \
	X(uneject, "ejected members that came back")                                               \
	X(drained, "members that finished what they had while draining")                           \
	X(gauge_members, "members now")                                                            \
	X(gauge_usable, "members that can be picked now")                                          \
	X(gauge_ejected, "members ejected for failures now")                                       \
	X(gauge_warming, "members in slow start now")

COUNTER_DECLARE(picker, PICKER_COUNTERS);

struct picker_member_config {
	uint64_t id;     /* the same in every process and worker: subset and hash follow from it
			  * (picker_hash of a name or an address). Unique in its picker */
	uint32_t weight; /* 1..PICKER_WEIGHT_MAX */
	int32_t node;    /* PICKER_NODE_ANY: of no node in particular */
	uint32_t *load;  /* shared by several members that are one thing (an endpoint in several
			  * services); NULL: the member's own */
};

/* The fields are the picker's; the caller may read those named in its functions' comments. */
struct picker_member {
	uint64_t id;
	uint64_t order;           /* among members; hash of id */
	uint32_t *load, own_load; /* *load: picker_begin's not ended yet */
	uint32_t index;           /* in picker.slots, as long as it is in */
	uint32_t serial;          /* tells it from one that has its index later */
	uint32_t weight;
	uint32_t effective; /* weight in thousandths, slow start included */
	int64_t current;    /* smooth weighted round robin */
	int32_t node;
	uint8_t state; /* enum picker_state */
	bool ejected, warming, in_subset;
	uint32_t failures; /* in a row */
	uint32_t interval_good, interval_failed, interval_rate;
	uint32_t ejections; /* the multiplier */
	uint64_t ejected_until_ns, warm_since_ns;
};

struct picker_sticky {
	uint64_t key;
	uint32_t index, serial;
	uint32_t used; /* picker.sticky_clock when last used; 0: free */
};

/* A member while the table is made. */
struct picker_turn {
	uint32_t at, skip;
	uint64_t taken;
};

struct picker {
	struct picker_counters counters;
	struct picker_config cfg;
	struct picker_member **members; /* members_n of them, by order */
	struct picker_member **usable;  /* those of the subset first, its local ones first of all */
	struct picker_member **slots;   /* by index; NULL: free */
	uint32_t members_n, usable_n, subset_n, local_n;
	uint32_t ejected_n, warming_n;
	uint32_t next;   /* round robin; where scans begin */
	uint32_t *table; /* Maglev: index of a member */
	uint32_t table_slots;
	struct picker_turn *turns; /* by place in members */
	struct picker_sticky *sticky;
	uint32_t sticky_sets, sticky_clock;
	uint32_t serials;
	uint64_t interval_end_ns, now_ns, warm_next_ns;
	struct random random;
};

/* Init in the caller's memory; what it allocates stays until picker_fini. 0, -SPLIT_E_BASE_NOMEM,
 * -SPLIT_E_BASE_INVALID (members_max 0, percents or the caller's number out of range). */
int picker_init(struct picker *p, const struct picker_config *cfg) SPLIT_MUST_USE;
/* Also of a zeroed picker. Members are simply left. */
void picker_fini(struct picker *p);

/* Another configuration for the members there are; nothing happens when it is the same. Slow starts
 * and ejections end, keys that stick are kept if as many entries are wanted. 0,
 * -SPLIT_E_BASE_NOMEM, -SPLIT_E_BASE_INVALID, -SPLIT_E_BASE_LIMIT (more members than members_max):
 * then all is as it was.
 */
int picker_configure(struct picker *p, const struct picker_config *cfg) SPLIT_MUST_USE;

/* Add a member, PICKER_UP. 0, -SPLIT_E_BASE_LIMIT (members_max), -SPLIT_E_BASE_INVALID (weight). */
int picker_add(struct picker *p, struct picker_member *m, const struct picker_member_config *cfg,
	       uint64_t now_ns) SPLIT_MUST_USE;
/* Take it out; pieces of work begun on it may still be ended (picker_end does not need it to be
 * in). */
void picker_remove(struct picker *p, struct picker_member *m);
void picker_state_set(struct picker *p, struct picker_member *m, enum picker_state state,
		      uint64_t now_ns);
/* Does nothing when it is what it was. */
void picker_weight_set(struct picker *p, struct picker_member *m, uint32_t weight);

/* What is known of the piece of work. Zero: nothing. */
struct picker_key {
	bool has_hash, has_sticky;
	uint64_t hash;   /* of what the consistent hash goes by: picker_hash */
	uint64_t sticky; /* of what sticks together: a connection's number, picker_hash of a name */
	/* Only members that fit are chosen; NULL: all do. Cheap. */
	bool (*fits)(void *ctx, const struct picker_member *m);
	void *ctx;
};

/* Choose; NULL: no member is usable (and fits). Nothing is begun by it. */
struct picker_member *picker_pick(struct picker *p, const struct picker_key *key);

/* A piece of work begins on the member: its load grows. */
static inline void picker_begin(struct picker_member *m)
{
	(*m->load)++;
}
/* It has ended; `p` NULL: the member was removed, or its picker is gone. */
void picker_end(struct picker *p, struct picker_member *m, enum picker_result result,
		uint64_t now_ns);

/* Slow start, ejections that are over, intervals. About once a millisecond; cheap when nothing is
 * due. */
void picker_tick(struct picker *p, uint64_t now_ns);

static inline bool picker_member_usable(const struct picker_member *m)
{
	return m->state == PICKER_UP && !m->ejected;
}

/* SipHash under a key that is the same in every splitd, so that all agree where a key goes. */
uint64_t picker_hash(const void *bytes, size_t n);

#endif
