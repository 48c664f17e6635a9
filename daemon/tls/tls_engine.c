/* A worker's handshakes: who has his turn, and what came of it.
 *
 * A handshake waits for its peer (peer_wait), for its turn (begun: it has made a step before;
 * ready: it has not), or is with a helper. Those that have begun go first, as what was spent on
 * them is lost if they time out; the others in turn by class of source, so that somebody who opens
 * thousands waits behind himself. Few are lent at a time: the order is decided here and not in a
 * helper's queue. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/tls/tls_internal.h"

COUNTER_DEFINE(tls, TLS_COUNTERS);

/* Steps taken back in one poll. */
#define STEPS_PER_POLL 32u

int tls_engine_create(const struct tls_engine_config *config, const struct tls_events *events,
		      struct tls_engine **out)
{
	size_t bytes = align_up(sizeof(struct tls_engine), BITS_CACHE_LINE);
	struct tls_engine *e;
	int err;

	if (config->sessions_max == 0 || config->handshakes_max == 0 ||
	    config->record_bytes_max > TLS_RECORD_BYTES_MAX)
		return -SPLIT_E_BASE_INVALID;
	e = aligned_alloc(BITS_CACHE_LINE, bytes);
	if (e == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memset(e, 0, bytes);
	e->config = *config;
	e->events = events;
	list_init(&e->peer_wait);
	list_init(&e->begun);
	for (unsigned i = 0; i < SOURCE_BUCKETS; i++)
		list_init(&e->ready[i]);
	e->tokens = config->handshakes_per_second;
	err = library_ready();
	if (err == 0)
		err = pool_init(&e->sessions, sizeof(struct tls_session), config->sessions_max,
				NULL);
	if (err == 0)
		err = pool_init(&e->handshakes, sizeof(struct tls_handshake),
				config->handshakes_max, NULL);
	if (err != 0) {
		tls_engine_destroy(e);
		return err;
	}
	if (config->helpers != NULL)
		helpers_wake_fd_set(config->helpers, config->index, config->wake_fd);
	*out = e;
	return 0;
}

/* Steps under way end by themselves, in milliseconds. */
static void lent_take_back(struct tls_engine *e)
{
	while (e->lent > 0) {
		struct tls_handshake *hs = helpers_take(e->config.helpers, e->config.index);

		if (hs == NULL) {
			usleep(100);
			continue;
		}
		e->lent--;
		hs->place = PLACE_PEER;
		session_free(hs->session);
	}
}

void tls_engine_destroy(struct tls_engine *e)
{
	if (e == NULL)
		return;
	lent_take_back(e);
	client_tickets_fini(e);
	pool_fini(&e->sessions);
	pool_fini(&e->handshakes);
	free(e);
}

const struct tls_counters *tls_engine_counters(const struct tls_engine *e)
{
	return &e->counters;
}

bool tls_engine_pending(const struct tls_engine *e)
{
	return e->config.helpers == NULL && e->waiting > 0;
}

uint8_t *tls_engine_scratch(struct tls_engine *e)
{
	return e->scratch;
}

/* ---- waiting -----------------------------------------------------------------------------------
 */

void engine_ready(struct tls_engine *e, struct tls_handshake *hs)
{
	list_del(&hs->link);
	hs->place = PLACE_READY;
	hs->ready_ns = e->now_ns;
	e->waiting++;
	if (hs->begun) {
		list_add_tail(&e->begun, &hs->link);
		return;
	}
	list_add_tail(&e->ready[hs->bucket], &hs->link);
	e->ready_bits |= UINT64_C(1) << hs->bucket;
}

void engine_unlink(struct tls_engine *e, struct tls_handshake *hs)
{
	list_del(&hs->link);
	if (hs->place != PLACE_READY)
		return;
	e->waiting--;
	if (!hs->begun && list_empty(&e->ready[hs->bucket]))
		e->ready_bits &= ~(UINT64_C(1) << hs->bucket);
}

void engine_handshake_put(struct tls_engine *e, struct tls_handshake *hs)
{
	engine_unlink(e, hs);
	hs->session->handshake = NULL;
	free(hs->out);
	pool_put(&e->handshakes, hs);
	counter_set(&e->counters.gauge_handshakes, pool_in_use(&e->handshakes));
}

static bool token_take(struct tls_engine *e)
{
	double rate = e->config.handshakes_per_second;

	if (e->config.handshakes_per_second == 0)
		return true;
	e->tokens += (double)(e->now_ns - e->tokens_ns) / (double)CLOCK_NS_PER_SEC * rate;
	e->tokens_ns = e->now_ns;
	if (e->tokens > rate)
		e->tokens = rate;
	if (e->tokens < 1)
		return false;
	e->tokens -= 1;
	return true;
}

static struct tls_handshake *next_ready(struct tls_engine *e)
{
	uint64_t ahead;
	unsigned bucket;

	if (!list_empty(&e->begun))
		return list_entry(list_first(&e->begun), struct tls_handshake, link);
	if (e->ready_bits == 0)
		return NULL;
	ahead = e->ready_bits & ~((UINT64_C(1) << e->next_bucket) - 1);
	bucket = (unsigned)__builtin_ctzll(ahead != 0 ? ahead : e->ready_bits);
	return list_entry(list_first(&e->ready[bucket]), struct tls_handshake, link);
}

/* ---- steps -------------------------------------------------------------------------------------
 */

static void failure_count(struct tls_counters *c, enum handshake_cause cause)
{
	uint64_t *const by_cause[] = {
		[CAUSE_NONE] = &c->failed_malformed,          [CAUSE_ALPN] = &c->failed_alpn,
		[CAUSE_VERSION] = &c->failed_version,         [CAUSE_CIPHER] = &c->failed_cipher,
		[CAUSE_CERTIFICATE] = &c->failed_certificate, [CAUSE_PEER] = &c->failed_peer,
		[CAUSE_MALFORMED] = &c->failed_malformed,     [CAUSE_OVER] = &c->handshakes_over,
	};

	counter_inc(&c->handshakes_failed);
	counter_inc(by_cause[cause]);
}

static void step_done(struct tls_engine *e, struct tls_handshake *hs)
{
	struct tls_session *s = hs->session;
	struct tls_counters *c = &e->counters;

	counter_inc(&c->steps);
	counter_add(&c->step_ns, hs->step_ns);
	counter_max(&c->step_ns_max, hs->step_ns);
	hs->place = PLACE_PEER;
	if (hs->abandoned) {
		session_free(s);
		return;
	}
	if (hs->result == SPLIT_AGAIN) {
		list_add_tail(&e->peer_wait, &hs->link);
	} else if (hs->result == 0) {
		if (session_opened(s, e->now_ns) != 0 && s->state == SESSION_OPEN)
			s->state = SESSION_FAILED;
	} else {
		s->state = SESSION_FAILED;
		failure_count(c, hs->cause);
		if (s->alert_fatal_in)
			counter_inc(&c->alerts_received);
		if (s->alert_fatal_out)
			counter_inc(&c->alerts_sent);
	}
	e->events->progress(s->user);
}

/* Hand out what waits. Returns how many steps were made here, for want of helpers: at most one. */
static unsigned steps_begin(struct tls_engine *e)
{
	struct tls_handshake *hs;

	while ((hs = next_ready(e)) != NULL) {
		bool first = !hs->begun;

		if (first && !token_take(e)) {
			counter_inc(&e->counters.handshakes_delayed);
			break;
		}
		engine_unlink(e, hs);
		if (first)
			e->next_bucket = (hs->bucket + 1) % SOURCE_BUCKETS;
		hs->begun = true;
		hs->place = PLACE_HELPER;
		counter_max(&e->counters.step_wait_ns_max, e->now_ns - hs->ready_ns);
		if (e->config.helpers == NULL) {
			handshake_step(hs);
			step_done(e, hs);
			return 1;
		}
		if (!helpers_submit(e->config.helpers, e->config.index, hs)) {
			/* Full: the first again, next time. */
			hs->place = PLACE_READY;
			e->waiting++;
			list_add_head(&e->begun, &hs->link);
			break;
		}
		e->lent++;
		counter_inc(&e->counters.steps_helper);
	}
	return 0;
}

unsigned tls_engine_poll(struct tls_engine *e, uint64_t now_ns)
{
	unsigned n = 0;

	e->now_ns = now_ns;
	while (e->lent > 0 && n < STEPS_PER_POLL) {
		struct tls_handshake *hs = helpers_take(e->config.helpers, e->config.index);

		if (hs == NULL)
			break;
		e->lent--;
		n++;
		step_done(e, hs);
	}
	if (e->waiting > 0) {
		n += steps_begin(e);
		counter_set(&e->counters.gauge_waiting, e->waiting);
	}
	return n;
}
