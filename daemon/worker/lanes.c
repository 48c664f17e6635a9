/* The host's workers as this daemon worker sees them: who is free, who is stuck, how many are
 * needed.
 *
 * What a worker says of itself (shepherd's control line) is its own word. Beside it stands what is
 * seen from here: how long the oldest slot has waited that it has not claimed, whether it has been
 * in one handler since the last look, and, where BPF is allowed, whether its thread is on a CPU
 * (sched.h). From these follow four things:
 *
 *   lane_get    what balance chooses by. A worker that has been in one handler for long, or whose
 *               thread is off the CPU, is a place of last resort.
 *   take back   a request that waits behind such a worker goes to one that is free, if it has not
 *               been claimed. One that a parked worker was woken for, and has not come for yet,
 *               goes only to a worker that is awake: no request costs two wake-ups (unless the
 * first plainly led nowhere: WOKEN_LOST_NS). resume      calls wait, or are stuck, and nobody is
 * free: a retired worker is called back. retire      much of the active ones' time is spent
 * waiting: one less. And TRYAGAIN to one that has looked in vain for long. Both by daemon worker 0
 * alone: two that judge by the same figures would do it twice.
 *
 * Looks cost lines of the host's, so they are taken only while calls are out, and less and less
 * often while nothing changes. */
#include "daemon/worker/worker_internal.h"

#include <string.h>

#include "daemon/sched/sched.h"

/* A request that its host worker has not begun for so long goes to another that is free. Past the
 * time a handler usually takes, well before anybody would notice. */
#define TAKE_BACK_NS (2 * CLOCK_NS_PER_MS)
/* The same where the thread is off its CPU, or has been in one handler for STUCK_NS: waiting longer
 * promises nothing. Some times what a wake takes. */
#define TAKE_BACK_OFF_NS (200 * CLOCK_NS_PER_US)
#define STUCK_NS         CLOCK_NS_PER_MS
#define WOKEN_LOST_NS    (20 * CLOCK_NS_PER_MS)

/* Looks while calls are out. */
#define LOOK_FIRST_NS (200 * CLOCK_NS_PER_US)
#define LOOK_MAX_NS   (4 * CLOCK_NS_PER_MS)

/* Calls that wait for longer than this want another worker; one is called at a time, and is given
 * this long to come. */
#define WAIT_RESUME_NS CLOCK_NS_PER_MS
#define RESUME_GAP_NS  (2 * CLOCK_NS_PER_MS)

/* The active number is judged over so many ticks; it falls by one when less than RETIRE_PERCENT of
 * the time of those that would be left was needed, and nothing waited. */
#define SCALE_TICKS    20
#define RETIRE_PERCENT 60

/* Lauberhorn's 15 ms: a worker that has looked so long shall do something else with its core. */
#define TRYAGAIN_NS (15 * CLOCK_NS_PER_MS)

/* ---- what is seen --------------------------------------------------------------------------- */

static uint64_t lane_word(const struct attached *ep, unsigned lane)
{
	const uint64_t *words = ep->we->on_cpu;

	return words != NULL ? __atomic_load_n(&words[lane], __ATOMIC_RELAXED) : 0;
}

/* Whether the scheduler has taken its CPU from a worker that should be at work. On our own core
 * that is always so while we look. */
static bool lane_off(const struct attached *ep, unsigned lane, const struct endpoint_lane_state *s)
{
	uint64_t word = lane_word(ep, lane);

	if (!sched_word_off(word) || sched_word_core(word) == ep->w->core)
		return false;
	return s->queued != 0 || s->state == HOST_POLLING || s->state == HOST_RUNNING;
}

static void lane_get(void *endpoint, unsigned lane, struct balance_lane *out)
{
	static const enum balance_lane_state states[HOST_STATES] = {
		[HOST_POLLING] = BALANCE_LANE_POLLING,
		[HOST_RUNNING] = BALANCE_LANE_RUNNING,
		[HOST_PARKED] = BALANCE_LANE_PARKED,
		[HOST_RETIRED] = BALANCE_LANE_RETIRED,
	};
	const struct attached *ep = endpoint;
	const struct lane_watch *watch = &ep->watch[lane];
	struct endpoint_lane_state s;

	endpoint_lane_state(ep->port, lane, &s);
	out->state = s.state < HOST_STATES ? states[s.state] : BALANCE_LANE_RUNNING;
	out->ahead = s.queued;
	out->oldest_ns = s.oldest_ns;
	out->full = s.room == 0;
	out->last_resort = (watch->stuck && s.state == HOST_RUNNING && watch->claim == s.claim &&
			    watch->heartbeat == s.heartbeat) ||
			   lane_off(ep, lane, &s);
}

static void lane_wanted(void *endpoint)
{
	struct attached *ep = endpoint;

	ep->worker_wanted = true;
}

const struct balance_lanes attached_lanes = {.lane_get = lane_get, .wanted = lane_wanted};

/* ---- what a worker is asked ----------------------------------------------------------------- */

bool attached_ask(struct attached *ep, unsigned lane, enum slot_kind kind)
{
	const struct endpoint_request rq = {.kind = kind};
	uint64_t *counters[TO_HOST_KINDS] = {
		[TO_HOST_TRYAGAIN] = &ep->w->counters.hosts_tryagain,
		[TO_HOST_YIELDNOW] = &ep->w->counters.hosts_yieldnow,
		[TO_HOST_RETIRE] = &ep->w->counters.hosts_retired,
		[TO_HOST_RESUME] = &ep->w->counters.hosts_resumed,
	};

	if (ep->faulted || lane >= endpoint_lanes(ep->port) ||
	    endpoint_submit(ep->port, lane, &rq, ep->w->now_ns) != 0)
		return false; /* its ring is full, so it is not idle; or it is gone */
	counter_inc(counters[kind]);
	return true;
}

/* One retired worker comes back, if there is one and none is on its way. */
static void resume_one(struct attached *ep)
{
	unsigned lanes = endpoint_lanes(ep->port);
	uint64_t now_ns = ep->w->now_ns;

	ep->worker_wanted = false;
	if (now_ns < ep->resumed_ns + RESUME_GAP_NS)
		return;
	for (unsigned lane = 0; lane < lanes; lane++) {
		struct endpoint_lane_state s;

		endpoint_lane_state(ep->port, lane, &s);
		/* Before it has begun nobody reads its ring. */
		if (s.state != HOST_RETIRED || s.queued != 0 || s.heartbeat == 0)
			continue;
		if (attached_ask(ep, lane, TO_HOST_RESUME)) {
			ep->resumed_ns = now_ns;
			return;
		}
	}
}

/* ---- taking back ---------------------------------------------------------------------------- */

struct lanes_seen {
	struct attached *ep;
	uint64_t stuck[SHEPHERD_HOST_WORKERS_MAX / 64]; /* bit by lane: take from these */
	uint64_t woken[SHEPHERD_HOST_WORKERS_MAX / 64]; /* the same, only for one that is awake */
	bool any_stuck, any_woken, waits, free, awake, changed;
	struct list calls; /* struct call by wait: taken back */
};

static void bit_set(uint64_t *bits, unsigned i)
{
	bits[i / 64] |= UINT64_C(1) << (i % 64);
}

static bool bit_get(const uint64_t *bits, unsigned i)
{
	return (bits[i / 64] >> (i % 64) & 1) != 0;
}

static void lane_look(struct lanes_seen *t, unsigned lane)
{
	struct attached *ep = t->ep;
	struct lane_watch *watch = &ep->watch[lane];
	uint64_t now_ns = ep->w->now_ns, waited;
	struct endpoint_lane_state s;
	bool off, coming;

	endpoint_lane_state(ep->port, lane, &s);
	if (s.state != HOST_RUNNING || s.claim != watch->claim || s.heartbeat != watch->heartbeat) {
		t->changed |= watch->claim != s.claim;
		watch->claim = s.claim;
		watch->heartbeat = s.heartbeat;
		watch->since_ns = now_ns;
	}
	watch->stuck = now_ns - watch->since_ns > STUCK_NS;
	off = lane_off(ep, lane, &s);
	waited = s.oldest_ns != 0 && now_ns > s.oldest_ns ? now_ns - s.oldest_ns : 0;
	t->waits |= s.oldest_ns != 0;
	if (waited > TAKE_BACK_NS || (waited > TAKE_BACK_OFF_NS && (off || watch->stuck))) {
		if (off)
			counter_inc(&ep->w->counters.hosts_off_cpu);
		coming = s.woken && (s.state == HOST_PARKED || s.state == HOST_RETIRED) &&
			 waited < WOKEN_LOST_NS;
		bit_set(coming ? t->woken : t->stuck, lane);
		t->any_stuck |= !coming;
		t->any_woken |= coming;
	} else if (s.queued == 0 && !off) {
		t->awake |= s.state == HOST_POLLING;
		t->free |= s.state == HOST_POLLING || s.state == HOST_PARKED;
	}
}

static void call_take_back(void *ctx, uint64_t call_id, void *user)
{
	struct lanes_seen *t = ctx;
	struct call *call = user;
	struct endpoint_port *port = t->ep->port;

	/* Nor one whose client has gone (its CANCEL waits for room in the ring: what the host said
	 * it had claimed then it may deny now), nor one that has a further message under way. */
	if (!call_wanted(call) || call->waiting != CALL_WAIT_NONE || call->decode != NULL ||
	    call->have_message)
		return;
	if (!call->published || call->answered || call->finished ||
	    call->msg_seq > (grpc_kind_many_requests(call->kind) ? 0 : 1) ||
	    !(bit_get(t->stuck, call->lane) || (t->awake && bit_get(t->woken, call->lane))))
		return;
	if (endpoint_revoke(port, call_id, t->ep->w->now_ns, &call->blocks) != 0)
		return;
	counter_inc(&t->ep->w->counters.calls_taken_back);
	call_unpublish(call, true);
	list_add_tail(&t->calls, &call->wait);
}

static void take_back(struct lanes_seen *t)
{
	struct list *node;

	list_init(&t->calls);
	endpoint_calls_each(t->ep->port, call_take_back, t);
	while ((node = list_pop_head(&t->calls)) != NULL)
		call_place(list_entry(node, struct call, wait));
}

/* ---- looking -------------------------------------------------------------------------------- */

static void look(struct attached *ep)
{
	struct lanes_seen t = {.ep = ep};

	for (unsigned lane = 0; lane < endpoint_lanes(ep->port); lane++)
		lane_look(&t, lane);
	if (endpoint_geometry(ep->we->endpoint)->revocable != 0 &&
	    ((t.any_stuck && t.free) || (t.any_woken && t.awake)))
		take_back(&t);
	if (ep->worker_wanted || ((t.any_stuck || t.any_woken) && !t.free) ||
	    balance_endpoint_waited(ep->balance, ep->w->now_ns) > WAIT_RESUME_NS)
		resume_one(ep);
	ep->look_step_ns =
		t.changed || !t.waits ? LOOK_FIRST_NS : RTE_MIN(2 * ep->look_step_ns, LOOK_MAX_NS);
	ep->look_ns = ep->w->now_ns + ep->look_step_ns;
	/* What nobody has begun is worth being woken for; a handler's end announces itself. */
	ep->look_wakes = t.waits;
}

void attached_look(struct attached *ep)
{
	if (ep->faulted || balance_endpoint_outstanding(ep->balance) == 0) {
		ep->look_wakes = false;
		return;
	}
	if (ep->look_ns == 0) {
		ep->look_step_ns = LOOK_FIRST_NS;
		ep->look_ns = ep->w->now_ns + ep->look_step_ns;
	}
	if (ep->w->now_ns >= ep->look_ns || ep->worker_wanted)
		look(ep);
}

uint64_t attached_look_ns(const struct attached *ep)
{
	return ep->look_wakes && !ep->faulted ? ep->look_ns : UINT64_MAX;
}

/* ---- how many are needed -------------------------------------------------------------------- */

static void load_publish(struct attached *ep, uint64_t waited_ns, unsigned active, unsigned busy)
{
	struct worker_load *load = &ep->we->load[ep->w->params.index];

	__atomic_store_n(&load->queue_ns, waited_ns, __ATOMIC_RELAXED);
	__atomic_store_n(&load->active, active, __ATOMIC_RELAXED);
	ep->scale.busy += busy;
	ep->scale.active += active;
	ep->scale.waited |= waited_ns > WAIT_RESUME_NS;
}

/* All that wait anywhere: what this worker alone sees is not the whole load. */
static bool waits_anywhere(const struct attached *ep)
{
	for (unsigned d = 0; d < ep->w->params.workers_n; d++)
		if (__atomic_load_n(&ep->we->load[d].queue_ns, __ATOMIC_RELAXED) > WAIT_RESUME_NS)
			return true;
	return false;
}

static void scale_judge(struct attached *ep, unsigned active)
{
	const struct geometry *g = endpoint_geometry(ep->we->endpoint);
	struct lane_scale s = ep->scale;
	struct worker_load *load = &ep->we->load[ep->w->params.index];

	ep->scale = (struct lane_scale){0};
	__atomic_store_n(&load->busy_permille, s.active != 0 ? 1000 * s.busy / s.active : 0,
			 __ATOMIC_RELAXED);
	if (ep->w->params.index != 0 || active <= g->host_workers_min || s.waited ||
	    100 * s.busy >= (uint64_t)RETIRE_PERCENT * (s.active - s.active / active))
		return;
	for (unsigned lane = endpoint_lanes(ep->port); lane-- > 0;) {
		struct endpoint_lane_state l;

		endpoint_lane_state(ep->port, lane, &l);
		if ((l.state == HOST_POLLING || l.state == HOST_PARKED) && l.queued == 0 &&
		    attached_ask(ep, lane, TO_HOST_RETIRE))
			return;
	}
}

/* Looked in vain for long: whoever asks for more looks than that has his reasons, and hears it
 * once. */
static void try_again(struct attached *ep, unsigned lane, const struct endpoint_lane_state *s)
{
	struct lane_watch *watch = &ep->watch[lane];
	uint64_t now_ns = ep->w->now_ns;

	if (s->state != HOST_POLLING || s->queued != 0 || s->claim != watch->polled_claim) {
		watch->polled_claim = s->claim;
		watch->polling_ns = s->state == HOST_POLLING ? now_ns : 0;
		watch->told = false;
	} else if (watch->polling_ns == 0) {
		watch->polling_ns = now_ns;
	} else if (!watch->told && now_ns - watch->polling_ns > TRYAGAIN_NS) {
		watch->told = attached_ask(ep, lane, TO_HOST_TRYAGAIN);
	}
}

void attached_scale(struct attached *ep)
{
	uint64_t now_ns = ep->w->now_ns, waited_ns;
	unsigned active = 0, busy = 0;

	if (ep->faulted || ep->we->load == NULL)
		return;
	waited_ns = balance_endpoint_waited(ep->balance, now_ns);
	for (unsigned lane = 0; lane < endpoint_lanes(ep->port); lane++) {
		struct endpoint_lane_state s;

		endpoint_lane_state(ep->port, lane, &s);
		active += s.state != HOST_RETIRED;
		busy += s.state == HOST_RUNNING;
		if (s.oldest_ns != 0 && now_ns > s.oldest_ns)
			waited_ns = RTE_MAX(waited_ns, now_ns - s.oldest_ns);
		if (ep->w->params.index == 0)
			try_again(ep, lane, &s);
	}
	load_publish(ep, waited_ns, active, busy);
	ep->scale.waited |= waits_anywhere(ep);
	if (++ep->scale.ticks >= SCALE_TICKS && active != 0)
		scale_judge(ep, active);
}
