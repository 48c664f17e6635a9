/* Retries (gRFC A6): whether a failed attempt is followed by another, and when. */
#include "daemon/client/client_internal.h"

#define TOKEN_MILLI 1000

/* The server said OK: the budget grows. */
void retry_ended_ok(struct channel *ch)
{
	const struct client_retry_config *r = &ch->config.retry;
	int max = (int)r->tokens_max * TOKEN_MILLI;

	if (r->tokens_max == 0)
		return;
	ch->tokens_milli += (int)r->token_ratio_milli;
	if (ch->tokens_milli > max)
		ch->tokens_milli = max;
	counter_set(&ch->counters.gauge_tokens_milli, (uint64_t)ch->tokens_milli);
}

enum picker_result result_of(const struct channel *ch, uint32_t status)
{
	return (ch->config.failures >> status & 1) != 0 ? PICKER_FAILED : PICKER_GOOD;
}

/* A failure costs a token; true while more than half of them are left. */
static bool tokens_spend(struct channel *ch)
{
	const struct client_retry_config *r = &ch->config.retry;

	if (r->tokens_max == 0)
		return true;
	ch->tokens_milli -= TOKEN_MILLI;
	if (ch->tokens_milli < 0)
		ch->tokens_milli = 0;
	counter_set(&ch->counters.gauge_tokens_milli, (uint64_t)ch->tokens_milli);
	return ch->tokens_milli > (int)r->tokens_max * TOKEN_MILLI / 2;
}

static uint64_t backoff(struct client_call *call)
{
	const struct client_retry_config *r = &call->ch->config.retry;
	uint64_t ns = r->backoff_ns;

	for (unsigned i = 0; i < call->backoffs && ns < r->backoff_max_ns; i++)
		ns = ns / 100 * r->backoff_percent;
	if (ns > r->backoff_max_ns)
		ns = r->backoff_max_ns;
	call->backoffs++;
	return client_jitter(call->ch->c, ns);
}

static bool transparent(struct client_call *call, const struct failure *f)
{
	/* What never left is tried again; what the server refused, once. */
	if (!f->unsent && (!f->refused || call->refused > 0))
		return false;
	if (call->transparent >= TRANSPARENT_MAX)
		return false;
	call->transparent++;
	call->refused += !f->unsent;
	counter_inc(&call->ch->counters.retries_transparent);
	client_call_wait(call);
	return true;
}

bool retry_decide(struct client_call *call, const struct failure *f)
{
	struct channel *ch = call->ch;
	const struct client_retry_config *r = &ch->config.retry;
	struct client_counters *counters = &ch->counters;
	bool retryable = (r->codes >> f->status & 1) != 0 && r->attempts_max > 1;
	bool refused = f->pushback_given && f->pushback_ns < 0;
	bool tokens = true;

	if (call->flags & (CALL_RELEASED | CALL_OVER | CALL_HEADERS))
		return false;
	if (transparent(call, f))
		return true;
	if (r->attempts_max <= 1)
		return false;
	if (retryable || refused)
		tokens = tokens_spend(ch);
	if (!retryable || (call->flags & CALL_COMMITTED))
		return false;
	if (refused) {
		counter_inc(&counters->retries_refused);
		return false;
	}
	if (call->attempts + 1u >= r->attempts_max) {
		counter_inc(&counters->retries_spent);
		return false;
	}
	if (!tokens) {
		counter_inc(&counters->retries_throttled);
		return false;
	}
	call->attempts++;
	counter_inc(&counters->retries);
	if (f->pushback_given) {
		counter_inc(&counters->retries_pushback);
		call->backoffs = 0;
	}
	wheel_arm(ch->c->wheel, &call->retry,
		  ch->c->now_ns + (f->pushback_given ? (uint64_t)f->pushback_ns : backoff(call)));
	return true;
}

void retry_timer(struct wheel_timer *timer, uint64_t now_ns)
{
	struct client_call *call = container_of(timer, struct client_call, retry);

	call->ch->c->now_ns = now_ns;
	client_call_wait(call);
}
