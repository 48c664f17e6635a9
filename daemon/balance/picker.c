#include "daemon/balance/picker.h"

#include <stdlib.h>
#include <string.h>

#include "base/siphash.h"

COUNTER_DEFINE(picker, PICKER_COUNTERS);

/* Thousandths of a weight. */
#define WEIGHT_UNIT 1000u

/* A remembered key has so many places to be in. */
#define STICKY_WAYS 4u

/* Slots looked at behind a key's own when its member is not usable. They belong to members at
 * random; with so few usable that none is found, each of those is weighed. */
#define HASH_PROBES 64

/* How often slow start's weights are looked at while there is one. */
#define WARM_STEPS 64

uint64_t picker_hash(const void *bytes, size_t n)
{
	/* "splitd balance k" in two words; no secret: processes must agree. */
	static const struct siphash_key key = {UINT64_C(0x6174696c70730064),
					       UINT64_C(0x6b65636e616c6162)};

	return siphash24(&key, bytes, n);
}

static uint64_t hash_pair(uint64_t a, uint64_t b)
{
	const uint64_t both[2] = {a, b};

	return picker_hash(both, sizeof(both));
}

/* ---- setting up ----------------------------------------------------------------------------- */

static bool is_prime(uint32_t n)
{
	for (uint32_t d = 3; d * d <= n; d += 2)
		if (n % d == 0)
			return false;
	return n % 2 != 0;
}

static uint32_t prime_from(uint32_t n)
{
	if (n >= PICKER_HASH_SLOTS_MAX)
		return PICKER_HASH_SLOTS_MAX;
	n = n < 3 ? 3 : n | 1;
	while (!is_prime(n))
		n += 2;
	return n;
}

static bool config_valid(const struct picker_config *c)
{
	return c->members_max != 0 && c->ejection.percent <= 100 &&
	       c->ejection.share_percent <= 100 &&
	       (c->subset == 0 || (c->callers_n != 0 && c->caller < c->callers_n)) &&
	       (c->slow_start_ns == 0 ||
		(c->slow_start_percent >= 1 && c->slow_start_percent <= 100)) &&
	       ((c->ejection.consecutive == 0 && c->ejection.percent == 0 &&
		 c->ejection.deviation == 0) ||
		(c->ejection.interval_ns != 0 && c->ejection.base_ns != 0 &&
		 c->ejection.max_ns >= c->ejection.base_ns));
}

int picker_init(struct picker *p, const struct picker_config *cfg)
{
	size_t n = cfg->members_max;
	bool good;

	memset(p, 0, sizeof(*p));
	if (!config_valid(cfg))
		return -SPLIT_E_BASE_INVALID;
	p->cfg = *cfg;
	random_seed(&p->random, cfg->seed);
	p->members = calloc(n, sizeof(struct picker_member *));
	p->usable = calloc(n, sizeof(struct picker_member *));
	p->slots = calloc(n, sizeof(struct picker_member *));
	good = p->members != NULL && p->usable != NULL && p->slots != NULL;
	if (good && cfg->policy == PICKER_CONSISTENT_HASH) {
		p->table_slots = prime_from(cfg->hash_slots);
		p->table = calloc(p->table_slots, sizeof(*p->table));
		p->turns = calloc(n, sizeof(*p->turns));
		good = p->table != NULL && p->turns != NULL;
	}
	if (good && cfg->sticky_entries != 0) {
		p->sticky_sets = (cfg->sticky_entries + STICKY_WAYS - 1) / STICKY_WAYS;
		p->sticky = calloc((size_t)p->sticky_sets * STICKY_WAYS, sizeof(*p->sticky));
		good = p->sticky != NULL;
	}
	if (good)
		return 0;
	picker_fini(p);
	return -SPLIT_E_BASE_NOMEM;
}

void picker_fini(struct picker *p)
{
	free(p->members);
	free(p->usable);
	free(p->slots);
	free(p->table);
	free(p->turns);
	free(p->sticky);
	memset(p, 0, sizeof(*p));
}

/* ---- members -------------------------------------------------------------------------------- */

static uint32_t full_weight(const struct picker *p, const struct picker_member *m)
{
	return (p->cfg.policy == PICKER_ROUND_ROBIN ? 1 : m->weight) * WEIGHT_UNIT;
}

/* Its weight at `now_ns`; ends its slow start when that is over. */
static void weight_look(struct picker *p, struct picker_member *m, uint64_t now_ns)
{
	uint32_t full = full_weight(p, m);
	uint64_t first = p->cfg.slow_start_percent, age_ns = now_ns - m->warm_since_ns;
	uint64_t percent;

	if (m->warming && age_ns >= p->cfg.slow_start_ns) {
		m->warming = false;
		p->warming_n--;
		counter_set(&p->counters.gauge_warming, p->warming_n);
	}
	if (!m->warming) {
		m->effective = full;
		return;
	}
	percent = first + (100 - first) * (age_ns / 1000) / (p->cfg.slow_start_ns / 1000 + 1);
	m->effective = (uint32_t)((uint64_t)full * percent / 100);
	if (m->effective == 0)
		m->effective = 1;
}

static void warm(struct picker *p, struct picker_member *m, uint64_t now_ns)
{
	if (p->cfg.slow_start_ns != 0 && !m->warming) {
		m->warming = true;
		p->warming_n++;
		counter_set(&p->counters.gauge_warming, p->warming_n);
	}
	m->warm_since_ns = now_ns;
	m->current = 0;
	weight_look(p, m, now_ns);
}

static void warm_end(struct picker *p, struct picker_member *m)
{
	p->warming_n -= m->warming;
	m->warming = false;
	counter_set(&p->counters.gauge_warming, p->warming_n);
}

static bool is_local(const struct picker *p, const struct picker_member *m)
{
	return p->cfg.locality && p->cfg.node != PICKER_NODE_ANY && m->node == p->cfg.node;
}

static void usable_take(struct picker *p, bool in_subset, bool local)
{
	for (uint32_t i = 0; i < p->members_n; i++) {
		struct picker_member *m = p->members[i];

		if (picker_member_usable(m) && m->in_subset == in_subset && is_local(p, m) == local)
			p->usable[p->usable_n++] = m;
	}
}

static void uneject(struct picker *p, struct picker_member *m, uint64_t now_ns)
{
	m->ejected = false;
	m->failures = 0;
	p->ejected_n--;
	counter_inc(&p->counters.uneject);
	warm(p, m, now_ns);
}

/* The members that can be picked have changed. */
static void usable_look(struct picker *p)
{
	for (;;) {
		bool again = false;

		p->usable_n = 0;
		usable_take(p, true, true);
		p->local_n = p->usable_n;
		usable_take(p, true, false);
		p->subset_n = p->usable_n;
		usable_take(p, false, true);
		usable_take(p, false, false);
		if (p->usable_n != 0 || p->ejected_n == 0)
			break;
		/* The last good one has gone: one that fails now and then is better than none. */
		for (uint32_t i = 0; i < p->members_n; i++) {
			struct picker_member *m = p->members[i];

			if (m->ejected && m->state == PICKER_UP) {
				uneject(p, m, p->now_ns);
				again = true;
			}
		}
		if (!again)
			break;
	}
	counter_set(&p->counters.gauge_members, p->members_n);
	counter_set(&p->counters.gauge_usable, p->usable_n);
	counter_set(&p->counters.gauge_ejected, p->ejected_n);
}

/* Every caller takes its run of the common order. */
static void subset_look(struct picker *p)
{
	uint32_t n = p->members_n, size = p->cfg.subset;
	uint64_t first;

	for (uint32_t i = 0; i < n; i++)
		p->members[i]->in_subset = size == 0;
	if (size == 0 || n == 0)
		return;
	/* All callers together must use all members. */
	if ((uint64_t)size * p->cfg.callers_n < n)
		size = (n + p->cfg.callers_n - 1) / p->cfg.callers_n;
	if (size > n)
		size = n;
	first = (uint64_t)p->cfg.caller * size;
	for (uint32_t i = 0; i < size; i++)
		p->members[(first + i) % n]->in_subset = true;
}

static void members_add(struct picker *p, struct picker_member *m)
{
	uint32_t at = p->members_n++;

	while (p->slots[m->index] != NULL)
		m->index++;
	p->slots[m->index] = m;
	while (at > 0 &&
	       (p->members[at - 1]->order > m->order ||
		(p->members[at - 1]->order == m->order && p->members[at - 1]->id > m->id))) {
		p->members[at] = p->members[at - 1];
		at--;
	}
	p->members[at] = m;
}

static void members_remove(struct picker *p, const struct picker_member *m)
{
	uint32_t at = 0;

	p->slots[m->index] = NULL;
	while (p->members[at] != m)
		at++;
	p->members_n--;
	memmove(&p->members[at], &p->members[at + 1],
		(p->members_n - at) * sizeof(struct picker_member *));
}

/* ---- the table ------------------------------------------------------------------------------ */

/* The member's next free slot in its own permutation of all slots (s3.4 of the paper: `offset` and
 * `skip` of two hashes, the number of slots being prime). */
static uint32_t slot_next(struct picker *p, struct picker_turn *t)
{
	uint32_t at;

	do {
		at = t->at;
		t->at += t->skip;
		if (t->at >= p->table_slots)
			t->at -= p->table_slots;
	} while (p->table[at] != UINT32_MAX);
	return at;
}

/* Members take a slot in turn, a member of the greatest weight in every round, one of half of it in
 * every other. */
static void table_look(struct picker *p)
{
	uint32_t slots = p->table_slots, filled = 0, weight_max = 0;

	if (p->table == NULL)
		return;
	memset(p->table, 0xff, slots * sizeof(*p->table));
	for (uint32_t i = 0; i < p->members_n; i++) {
		const struct picker_member *m = p->members[i];

		p->turns[i] = (struct picker_turn){
			.at = (uint32_t)(hash_pair(m->id, 1) % slots),
			.skip = (uint32_t)(hash_pair(m->id, 2) % (slots - 1)) + 1,
		};
		if (m->weight > weight_max)
			weight_max = m->weight;
	}
	for (uint64_t round = 1; p->members_n != 0; round++) {
		for (uint32_t i = 0; i < p->members_n; i++) {
			struct picker_turn *t = &p->turns[i];

			if (round * p->members[i]->weight <= t->taken)
				continue;
			t->taken += weight_max;
			p->table[slot_next(p, t)] = p->members[i]->index;
			if (++filled == slots)
				return;
		}
	}
}

/* ---- coming and going ----------------------------------------------------------------------- */

int picker_add(struct picker *p, struct picker_member *m, const struct picker_member_config *cfg,
	       uint64_t now_ns)
{
	if (p->members_n == p->cfg.members_max)
		return -SPLIT_E_BASE_LIMIT;
	if (cfg->weight < 1 || cfg->weight > PICKER_WEIGHT_MAX)
		return -SPLIT_E_BASE_INVALID;
	p->now_ns = now_ns;
	*m = (struct picker_member){
		.id = cfg->id,
		.load = cfg->load != NULL ? cfg->load : &m->own_load,
		.weight = cfg->weight,
		.node = cfg->node,
		.state = PICKER_UP,
		.order = hash_pair(cfg->id, 0),
		.serial = ++p->serials,
	};
	members_add(p, m);
	warm(p, m, now_ns);
	subset_look(p);
	usable_look(p);
	table_look(p);
	return 0;
}

void picker_remove(struct picker *p, struct picker_member *m)
{
	p->ejected_n -= m->ejected;
	warm_end(p, m);
	members_remove(p, m);
	subset_look(p);
	usable_look(p);
	table_look(p);
}

void picker_state_set(struct picker *p, struct picker_member *m, enum picker_state state,
		      uint64_t now_ns)
{
	enum picker_state before = (enum picker_state)m->state;

	if (state == before)
		return;
	p->now_ns = now_ns;
	m->state = (uint8_t)state;
	if (state == PICKER_UP && before == PICKER_DOWN)
		warm(p, m, now_ns);
	if (state == PICKER_DRAINING && *m->load == 0)
		counter_inc(&p->counters.drained);
	usable_look(p);
}

#define SAME(member) (a->member == b->member)

static bool config_same(const struct picker_config *a, const struct picker_config *b)
{
	return SAME(policy) && SAME(members_max) && SAME(node) && SAME(locality) &&
	       SAME(locality_spill) && SAME(subset) && SAME(caller) && SAME(callers_n) &&
	       SAME(slow_start_ns) && SAME(slow_start_percent) && SAME(hash_slots) &&
	       SAME(sticky_entries) && SAME(ejection.consecutive) && SAME(ejection.percent) &&
	       SAME(ejection.deviation) && SAME(ejection.members_min) && SAME(ejection.calls_min) &&
	       SAME(ejection.percent_enforced) && SAME(ejection.deviation_enforced) &&
	       SAME(ejection.interval_ns) && SAME(ejection.base_ns) && SAME(ejection.max_ns) &&
	       SAME(ejection.share_percent);
}

int picker_configure(struct picker *p, const struct picker_config *cfg)
{
	uint32_t sticky_entries = p->cfg.sticky_entries;
	struct picker fresh;
	int err;

	if (config_same(&p->cfg, cfg))
		return 0;
	for (uint32_t i = cfg->members_max; i < p->cfg.members_max; i++)
		if (p->slots[i] != NULL)
			return -SPLIT_E_BASE_LIMIT;
	err = picker_init(&fresh, cfg);
	if (err != 0)
		return err;
	fresh.counters = p->counters;
	fresh.now_ns = p->now_ns;
	fresh.serials = p->serials;
	fresh.sticky_clock = p->sticky_clock;
	if (fresh.cfg.sticky_entries == sticky_entries) {
		struct picker_sticky *kept = p->sticky;

		p->sticky = fresh.sticky;
		fresh.sticky = kept;
	}
	/* In the same places: what sticks goes by them. */
	for (uint32_t i = 0; i < p->members_n; i++) {
		struct picker_member *m = p->members[i];

		m->ejected = false;
		m->warming = false;
		m->current = 0;
		fresh.members[fresh.members_n++] = m;
		fresh.slots[m->index] = m;
		weight_look(&fresh, m, fresh.now_ns);
	}
	counter_set(&fresh.counters.gauge_warming, 0);
	picker_fini(p);
	*p = fresh;
	subset_look(p);
	usable_look(p);
	table_look(p);
	return 0;
}

void picker_weight_set(struct picker *p, struct picker_member *m, uint32_t weight)
{
	if (weight == m->weight || weight < 1 || weight > PICKER_WEIGHT_MAX)
		return;
	m->weight = weight;
	weight_look(p, m, p->now_ns);
	table_look(p);
}

/* ---- choosing ------------------------------------------------------------------------------- */

static bool fits(const struct picker_key *key, const struct picker_member *m)
{
	return key->fits == NULL || key->fits(key->ctx, m);
}

static struct picker_member *choose_in_turn(struct picker *p, struct picker_member **from,
					    uint32_t n, const struct picker_key *key)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = (uint32_t)((p->next + (uint64_t)i) % n);

		if (fits(key, from[at])) {
			p->next = at + 1;
			return from[at];
		}
	}
	return NULL;
}

/* Smooth weighted round robin (nginx): each gains its weight, the richest is taken and pays for
 * all. */
static struct picker_member *choose_weighted(struct picker_member **from, uint32_t n,
					     const struct picker_key *key)
{
	struct picker_member *best = NULL;
	int64_t total = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct picker_member *m = from[i];

		if (!fits(key, m))
			continue;
		m->current += m->effective;
		total += m->effective;
		if (best == NULL || m->current > best->current)
			best = m;
	}
	if (best != NULL)
		best->current -= total;
	return best;
}

/* Whether a is less loaded for its weight, were it to get one more. */
static bool less_loaded(const struct picker_member *a, const struct picker_member *b)
{
	return ((uint64_t)*a->load + 1) * b->effective < ((uint64_t)*b->load + 1) * a->effective;
}

static struct picker_member *choose_least(struct picker *p, struct picker_member **from, uint32_t n,
					  const struct picker_key *key)
{
	struct picker_member *best = NULL;
	uint32_t best_at = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = (uint32_t)((p->next + (uint64_t)i) % n);

		if (fits(key, from[at]) && (best == NULL || less_loaded(from[at], best))) {
			best = from[at];
			best_at = at;
		}
	}
	p->next = best_at + 1;
	return best;
}

static struct picker_member *choose_of_two(struct picker *p, struct picker_member **from,
					   uint32_t n, const struct picker_key *key)
{
	uint32_t i = (uint32_t)random_below(&p->random, n), j = i;
	struct picker_member *a = from[i], *b;

	if (n > 1)
		j = (i + 1 + (uint32_t)random_below(&p->random, n - 1)) % n;
	b = from[j];
	if (!fits(key, a) || !fits(key, b)) {
		p->next = i;
		return choose_in_turn(p, from, n, key);
	}
	return less_loaded(b, a) ? b : a;
}

static struct picker_member *choose(struct picker *p, struct picker_member **from, uint32_t n,
				    const struct picker_key *key)
{
	if (n == 0)
		return NULL;
	switch (p->cfg.policy) {
	case PICKER_LEAST_OUTSTANDING:
		return choose_least(p, from, n, key);
	case PICKER_POWER_OF_TWO:
		return choose_of_two(p, from, n, key);
	case PICKER_WEIGHTED:
		return choose_weighted(from, n, key);
	case PICKER_ROUND_ROBIN:
	case PICKER_CONSISTENT_HASH:
		break;
	}
	return p->warming_n != 0 ? choose_weighted(from, n, key) : choose_in_turn(p, from, n, key);
}

/* Each has enough ahead of it that leaving the node pays. */
static bool local_full(const struct picker *p)
{
	for (uint32_t i = 0; i < p->local_n; i++) {
		const struct picker_member *m = p->usable[i];

		if (*m->load < (uint64_t)p->cfg.locality_spill * m->weight)
			return false;
	}
	return true;
}

static struct picker_member *choose_near(struct picker *p, const struct picker_key *key)
{
	struct picker_member *m = NULL;
	bool full = false;

	if (p->local_n != 0) {
		full = p->cfg.locality_spill != 0 && local_full(p);
		if (!full)
			m = choose(p, p->usable, p->local_n, key);
	}
	if (m == NULL)
		m = choose(p, p->usable, p->subset_n, key);
	if (m == NULL && p->usable_n != p->subset_n) {
		m = choose(p, p->usable + p->subset_n, p->usable_n - p->subset_n, key);
		if (m != NULL)
			counter_inc(&p->counters.subset_left);
	}
	if (m != NULL && is_local(p, m))
		counter_inc(&p->counters.local);
	else if (m != NULL && full)
		counter_inc(&p->counters.spilled);
	return m;
}

static bool takes(const struct picker_member *m, const struct picker_key *key)
{
	return m != NULL && picker_member_usable(m) && fits(key, m);
}

/* Highest random weight (Thaler & Ravishankar 1998) among those there are. */
static struct picker_member *choose_highest(struct picker *p, const struct picker_key *key)
{
	struct picker_member *best = NULL;
	uint64_t best_rank = 0;

	for (uint32_t i = 0; i < p->usable_n; i++) {
		struct picker_member *m = p->usable[i];
		uint64_t rank = hash_pair(m->order, key->hash);

		if (fits(key, m) && (best == NULL || rank > best_rank)) {
			best = m;
			best_rank = rank;
		}
	}
	return best;
}

static struct picker_member *choose_hashed(struct picker *p, const struct picker_key *key)
{
	uint32_t at = (uint32_t)(key->hash % p->table_slots);

	if (p->usable_n == 0)
		return NULL;
	counter_inc(&p->counters.hashed);
	if (takes(p->slots[p->table[at]], key))
		return p->slots[p->table[at]];
	counter_inc(&p->counters.hash_moved);
	for (unsigned i = 0; i < HASH_PROBES; i++) {
		at = at + 1 == p->table_slots ? 0 : at + 1;
		if (takes(p->slots[p->table[at]], key))
			return p->slots[p->table[at]];
	}
	return choose_highest(p, key);
}

static struct picker_member *choose_fresh(struct picker *p, const struct picker_key *key)
{
	if (p->table != NULL && key->has_hash)
		return choose_hashed(p, key);
	if (p->table != NULL)
		counter_inc(&p->counters.hash_no_key);
	return choose_near(p, key);
}

/* ---- what sticks ---------------------------------------------------------------------------- */

/* The key's entry; a free or the least recently used one of its set when it is not known. */
static struct picker_sticky *sticky_find(struct picker *p, uint64_t key)
{
	struct picker_sticky *set = &p->sticky[(key % p->sticky_sets) * STICKY_WAYS];
	struct picker_sticky *least = set;

	for (unsigned i = 0; i < STICKY_WAYS; i++) {
		if (set[i].used != 0 && set[i].key == key)
			return &set[i];
		if (set[i].used < least->used)
			least = &set[i];
	}
	return least;
}

static struct picker_member *choose_sticky(struct picker *p, const struct picker_key *key)
{
	struct picker_sticky *e = sticky_find(p, key->sticky);
	bool known = e->used != 0 && e->key == key->sticky;
	struct picker_member *m = known ? p->slots[e->index] : NULL;

	p->sticky_clock++;
	if (m != NULL && m->serial == e->serial && picker_member_usable(m)) {
		e->used = p->sticky_clock;
		if (fits(key, m)) {
			counter_inc(&p->counters.sticky_kept);
			return m;
		}
		return choose_fresh(p, key);
	}
	m = choose_fresh(p, key);
	if (m == NULL)
		return NULL;
	if (known)
		counter_inc(&p->counters.sticky_moved);
	else
		counter_inc(&p->counters.sticky_new);
	if (!known && e->used != 0)
		counter_inc(&p->counters.sticky_forgotten);
	*e = (struct picker_sticky){
		.key = key->sticky,
		.index = m->index,
		.serial = m->serial,
		.used = p->sticky_clock,
	};
	return m;
}

struct picker_member *picker_pick(struct picker *p, const struct picker_key *key)
{
	struct picker_member *m;

	if (p->sticky != NULL && key->has_sticky)
		m = choose_sticky(p, key);
	else
		m = choose_fresh(p, key);
	if (m != NULL)
		counter_inc(&p->counters.picks);
	else
		counter_inc(&p->counters.no_member);
	return m;
}

/* Of a member with too few results in the interval. */
#define RATE_NONE UINT32_MAX

static uint64_t root(uint64_t v)
{
	uint64_t r = 0;

	for (uint64_t bit = UINT64_C(1) << 31; bit != 0; bit >>= 1)
		if ((r | bit) * (r | bit) <= v)
			r |= bit;
	return r;
}

/* ---- health --------------------------------------------------------------------------------- */

static void eject(struct picker *p, struct picker_member *m, uint64_t *counter)
{
	const struct picker_ejection *e = &p->cfg.ejection;
	uint64_t for_ns;

	m->failures = 0;
	if (!picker_member_usable(m))
		return;
	if (p->usable_n <= 1 ||
	    (p->ejected_n != 0 &&
	     (p->ejected_n + UINT64_C(1)) * 100 > (uint64_t)e->share_percent * p->members_n)) {
		counter_inc(&p->counters.eject_refused);
		return;
	}
	m->ejections++;
	for_ns = m->ejections > e->max_ns / e->base_ns ? e->max_ns : m->ejections * e->base_ns;
	m->ejected = true;
	m->ejected_until_ns = p->now_ns + for_ns;
	p->ejected_n++;
	warm_end(p, m);
	counter_inc(counter);
	usable_look(p);
}

void picker_end(struct picker *p, struct picker_member *m, enum picker_result result,
		uint64_t now_ns)
{
	(*m->load)--;
	if (p == NULL)
		return;
	p->now_ns = now_ns;
	if (m->state == PICKER_DRAINING && *m->load == 0)
		counter_inc(&p->counters.drained);
	if (result == PICKER_GOOD) {
		counter_inc(&p->counters.good);
		m->failures = 0;
		m->interval_good++;
	} else if (result == PICKER_FAILED) {
		counter_inc(&p->counters.failed);
		m->failures++;
		m->interval_failed++;
		if (p->cfg.ejection.consecutive != 0 && m->failures >= p->cfg.ejection.consecutive)
			eject(p, m, &p->counters.ejected_consecutive);
	}
}

static bool enforced(struct picker *p, uint32_t percent)
{
	return percent == 0 || percent >= 100 || random_below(&p->random, 100) < percent;
}

/* The share of good results, in millionths, below which a member is ejected; 0: none is. gRFC A50,
 * "Success Rate Algorithm", in whole numbers. */
static uint64_t rate_least(const struct picker *p)
{
	const struct picker_ejection *e = &p->cfg.ejection;
	uint64_t n = 0, sum = 0, squares = 0, mean, below;

	if (e->deviation == 0)
		return 0;
	for (uint32_t i = 0; i < p->members_n; i++) {
		uint64_t rate = p->members[i]->interval_rate;

		if (rate == RATE_NONE)
			continue;
		n++;
		sum += rate;
		squares += rate * rate;
	}
	if (n < (e->members_min != 0 ? e->members_min : 2))
		return 0;
	mean = sum / n;
	below = root(squares / n > mean * mean ? squares / n - mean * mean : 0) * e->deviation /
		1000;
	return below < mean ? mean - below : 0;
}

/* What an interval's results say. */
static void interval_judge(struct picker *p, struct picker_member *m, uint64_t least)
{
	const struct picker_ejection *e = &p->cfg.ejection;

	if (m->interval_rate != RATE_NONE && m->interval_rate < least &&
	    enforced(p, e->deviation_enforced))
		eject(p, m, &p->counters.ejected_deviation);
	else if (m->interval_rate != RATE_NONE && e->percent != 0 &&
		 (uint64_t)m->interval_failed * 100 >=
			 (uint64_t)e->percent * (m->interval_failed + m->interval_good) &&
		 enforced(p, e->percent_enforced))
		eject(p, m, &p->counters.ejected_percent);
	else if (!m->ejected && m->ejections != 0)
		m->ejections--;
}

static void interval_end(struct picker *p)
{
	uint64_t least;

	for (uint32_t i = 0; i < p->members_n; i++) {
		struct picker_member *m = p->members[i];
		uint64_t total = (uint64_t)m->interval_failed + m->interval_good;

		m->interval_rate =
			total != 0 && total >= p->cfg.ejection.calls_min
				? (uint32_t)(m->interval_good * UINT64_C(1000000) / total)
				: RATE_NONE;
	}
	least = rate_least(p);
	for (uint32_t i = 0; i < p->members_n; i++) {
		struct picker_member *m = p->members[i];

		interval_judge(p, m, least);
		m->interval_good = 0;
		m->interval_failed = 0;
	}
}

void picker_tick(struct picker *p, uint64_t now_ns)
{
	bool back = false;

	p->now_ns = now_ns;
	for (uint32_t i = 0; i < p->members_n && p->ejected_n != 0; i++) {
		struct picker_member *m = p->members[i];

		if (m->ejected && now_ns >= m->ejected_until_ns) {
			uneject(p, m, now_ns);
			back = true;
		}
	}
	if (back)
		usable_look(p);
	if (p->cfg.ejection.interval_ns != 0 && now_ns >= p->interval_end_ns) {
		if (p->interval_end_ns != 0)
			interval_end(p);
		p->interval_end_ns = now_ns + p->cfg.ejection.interval_ns;
	}
	if (p->warming_n != 0 && now_ns >= p->warm_next_ns) {
		for (uint32_t i = 0; i < p->members_n; i++)
			weight_look(p, p->members[i], now_ns);
		p->warm_next_ns = now_ns + p->cfg.slow_start_ns / WARM_STEPS;
	}
}
