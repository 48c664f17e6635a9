/* Channels: their addresses, which of them are good, and the calls that wait for one. */
#include <stdio.h>
#include <string.h>

#include "daemon/client/client_internal.h"

/* A channel without calls for so long does not make new connections by itself; half of its idle
 * time-out, if that is less. */
#define ACTIVE_NS (60 * CLOCK_NS_PER_SEC)
/* connection-backoff.md */
#define BACKOFF_MULTIPLIER_PERCENT 160

static void retry_fire(struct wheel_timer *timer, uint64_t now_ns);

static bool active(const struct channel *ch)
{
	uint64_t idle = ch->config.idle_timeout_ns / 2;
	uint64_t limit = idle != 0 && idle < ACTIVE_NS ? idle : ACTIVE_NS;

	return ch->waiting_n > 0 || ch->calls_n > 0 || ch->c->now_ns - ch->used_ns < limit;
}

/* Equal keys go to equal targets, also while their connections are being made. */
static bool keyed(const struct channel *ch)
{
	return ch->config.picker.policy == PICKER_CONSISTENT_HASH ||
	       ch->config.picker.sticky_entries != 0;
}

/* ---- targets ----------------------------------------------------------------------------------
 */

static bool connection_ready(const struct client_connection *conn)
{
	if (conn->state != CONN_OPEN || conn->retired || conn->failed)
		return false;
	return conn->ch->config.health_service == NULL || conn->health == HEALTH_SERVING;
}

void target_update(struct target *t)
{
	struct channel *ch = t->ch;
	bool ready = false;

	list_for_each (pos, &t->connections)
		ready |= connection_ready(list_entry(pos, struct client_connection, link));
	if (!t->current)
		return;
	ch->ready_n += (unsigned)ready - (unsigned)t->ready;
	t->ready = ready;
	counter_set(&ch->counters.gauge_ready, ch->ready_n);
	picker_state_set(&ch->picker, &t->member,
			 ready || (keyed(ch) && !t->failed) ? PICKER_UP : PICKER_DOWN,
			 ch->c->now_ns);
}

static uint64_t address_id(const struct client_address *a)
{
	uint8_t bytes[19];

	bytes[0] = a->family;
	memcpy(bytes + 1, a->bytes, 16);
	bytes[17] = (uint8_t)(a->port >> 8);
	bytes[18] = (uint8_t)a->port;
	return picker_hash(bytes, sizeof(bytes));
}

static bool address_equal(const struct client_address *a, const struct client_address *b)
{
	return a->family == b->family && a->port == b->port &&
	       memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

static uint32_t weight_of(const struct client_address *a)
{
	if (a->weight == 0)
		return 1;
	return a->weight < PICKER_WEIGHT_MAX ? a->weight : PICKER_WEIGHT_MAX;
}

struct target *target_create(struct channel *ch, const struct client_address *address)
{
	const struct picker_member_config member = {
		.id = address_id(address),
		.weight = weight_of(address),
		.node = PICKER_NODE_ANY,
	};
	struct target *t = pool_get_zero(&ch->c->targets);

	if (t == NULL || picker_add(&ch->picker, &t->member, &member, ch->c->now_ns) != 0) {
		pool_put(&ch->c->targets, t);
		counter_inc(&ch->counters.addresses_over);
		return NULL;
	}
	t->ch = ch;
	t->address = *address;
	t->current = true;
	t->backoff_ns = ch->config.connect_backoff_ns;
	list_init(&t->connections);
	wheel_timer_init(&t->retry, retry_fire);
	list_add_tail(&ch->targets, &t->link);
	ch->targets_n++;
	target_update(t);
	return t;
}

void target_gone(struct target *t)
{
	struct channel *ch = t->ch;

	if (t->current || t->connections_n > 0)
		return;
	wheel_cancel(ch->c->wheel, &t->retry);
	list_del(&t->link);
	pool_put(&ch->c->targets, t);
}

/* It is not among the addresses any more. */
static void target_leave(struct target *t)
{
	struct channel *ch = t->ch;

	picker_remove(&ch->picker, &t->member);
	t->current = false;
	ch->ready_n -= t->ready;
	ch->targets_n--;
	list_del(&t->link);
	list_add_tail(&ch->leaving, &t->link);
	list_for_each (pos, &t->connections)
		connection_retire(list_entry(pos, struct client_connection, link));
	target_gone(t);
}

void target_connect_failed(struct target *t, const char *what, const char *why)
{
	const struct client_transport *io = &t->ch->c->transport;
	struct channel *ch = t->ch;

	counter_inc(&ch->counters.connects_failed);
	(void)snprintf(ch->failure, sizeof(ch->failure), "%s%s%s", what, why != NULL ? ": " : "",
		       why != NULL ? why : "");
	if (t->current && io->failed != NULL)
		io->failed(io->ctx, ch->index, &t->address, ch->failure, !t->failed);
	t->failed = true;
	if (!t->current || t->backoff_ns == 0)
		return;
	wheel_arm(ch->c->wheel, &t->retry, ch->c->now_ns + client_jitter(ch->c, t->backoff_ns));
	t->backoff_ns = t->backoff_ns / 100 * BACKOFF_MULTIPLIER_PERCENT;
	if (t->backoff_ns > ch->config.connect_backoff_max_ns)
		t->backoff_ns = ch->config.connect_backoff_max_ns;
}

void target_connected(struct target *t)
{
	t->failed = false;
	t->backoff_ns = t->ch->config.connect_backoff_ns;
	wheel_cancel(t->ch->c->wheel, &t->retry);
	target_update(t);
	channel_due(t->ch);
}

static void retry_fire(struct wheel_timer *timer, uint64_t now_ns)
{
	struct target *t = container_of(timer, struct target, retry);

	t->ch->c->now_ns = now_ns;
	/* Nobody asks: the next call may wait for it again. */
	if (!active(t->ch))
		t->failed = false;
	target_update(t);
	channel_due(t->ch);
}

/* ---- connections ------------------------------------------------------------------------------
 */

/* The connection of the target with the most room; NULL: none has any. */
static struct client_connection *target_connection(const struct target *t)
{
	struct client_connection *best = NULL;
	uint32_t most = 0;

	list_for_each (pos, &t->connections) {
		struct client_connection *conn = list_entry(pos, struct client_connection, link);
		uint32_t room = connection_ready(conn) ? connection_room(conn) : 0;

		if (room > most) {
			best = conn;
			most = room;
		}
	}
	return best;
}

static bool target_fits(void *ctx, const struct picker_member *m)
{
	(void)ctx;
	return target_connection(container_of(m, struct target, member)) != NULL;
}

struct client_connection *channel_pick(struct channel *ch, struct client_call *call)
{
	struct picker_member *m;

	call->key.fits = keyed(ch) ? NULL : target_fits;
	m = picker_pick(&ch->picker, &call->key);
	return m != NULL ? target_connection(container_of(m, struct target, member)) : NULL;
}

/* Whether to make another connection to it. */
static bool target_wants(const struct target *t)
{
	const struct channel *ch = t->ch;
	unsigned n = 0;

	if (wheel_timer_armed(&t->retry) || ch->c->draining || ch->config.unused)
		return false;
	/* All that there are must be open and full; leaving ones do not count. */
	list_for_each (pos, &t->connections) {
		const struct client_connection *conn =
			list_entry(pos, struct client_connection, link);

		if (conn->retired)
			continue;
		if (conn->failed || conn->state != CONN_OPEN || connection_room(conn) > 0)
			return false;
		n++;
	}
	return n == 0 || (ch->waiting_n > 0 && n < ch->config.connections_max);
}

void channel_connect(struct channel *ch)
{
	bool outside = true;

	/* Those outside the subset only when all of it has failed. */
	list_for_each (pos, &ch->targets) {
		const struct target *t = list_entry(pos, struct target, link);

		if (t->member.in_subset && !t->failed)
			outside = false;
	}
	list_for_each (pos, &ch->targets) {
		struct target *t = list_entry(pos, struct target, link);

		if ((t->member.in_subset || ch->config.picker.subset == 0 || outside) &&
		    target_wants(t) && connection_begin(t) != 0)
			return;
	}
}

/* ---- calls that wait --------------------------------------------------------------------------
 */

/* No target takes calls, and none is about to. */
static bool hopeless(const struct channel *ch)
{
	if (ch->config.unused)
		return true;
	if (ch->targets_n == 0)
		return ch->resolved;
	list_for_each (pos, &ch->targets) {
		const struct target *t = list_entry(pos, struct target, link);
		bool unhealthy = false;

		if (t->ready && picker_member_usable(&t->member))
			return false;
		list_for_each (p, &t->connections) {
			const struct client_connection *conn =
				list_entry(p, struct client_connection, link);

			unhealthy |= !conn->retired && conn->health == HEALTH_NOT_SERVING;
		}
		if (!t->failed && !unhealthy && !t->member.ejected &&
		    (t->member.in_subset || ch->config.picker.subset == 0))
			return false;
	}
	return true;
}

static const char *failure_text(const struct channel *ch)
{
	if (ch->config.unused)
		return "the channel was taken out of the configuration";
	if (ch->targets_n == 0)
		return "the channel's name has no address";
	return ch->failure[0] != '\0' ? ch->failure : "no server is healthy";
}

/* True: others may still find a place. */
static bool wait_try(struct channel *ch, struct client_call *call)
{
	struct client_connection *conn = channel_pick(ch, call);

	if (conn != NULL) {
		call->flags &= ~(uint32_t)CALL_WAITING;
		if (call_attempt(call, conn)) {
			ch->waiting_n--;
			return true;
		}
		call->flags |= CALL_WAITING;
	}
	if ((!(call->flags & CALL_WAIT_READY) || ch->config.unused) && hopeless(ch)) {
		counter_inc(&ch->counters.calls_no_address);
		client_call_fail(call, GRPC_UNAVAILABLE, failure_text(ch));
		return true;
	}
	list_add_tail(&ch->waiting, &call->link);
	return keyed(ch) || (call->flags & CALL_WAIT_READY);
}

void channel_dispatch(struct channel *ch)
{
	struct list now;
	struct list *node;
	bool go_on = true;

	if (active(ch))
		channel_connect(ch);
	list_init(&now);
	list_splice_tail(&now, &ch->waiting);
	while ((node = list_pop_head(&now)) != NULL) {
		struct client_call *call = list_entry(node, struct client_call, link);

		if (go_on)
			go_on = wait_try(ch, call);
		else
			list_add_tail(&ch->waiting, &call->link);
	}
	counter_set(&ch->counters.gauge_waiting, ch->waiting_n);
}

/* ---- addresses --------------------------------------------------------------------------------
 */

static struct target *target_find(struct channel *ch, const struct client_address *address)
{
	list_for_each (pos, &ch->targets) {
		struct target *t = list_entry(pos, struct target, link);

		if (address_equal(&t->address, address))
			return t;
	}
	return NULL;
}

static bool listed(const struct target *t, const struct client_address *addresses, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (address_equal(&t->address, &addresses[i]))
			return true;
	return false;
}

static void targets_keep(struct channel *ch, const struct client_address *addresses, size_t n)
{
	list_for_each_safe (pos, &ch->targets) {
		struct target *t = list_entry(pos, struct target, link);

		if (!listed(t, addresses, n))
			target_leave(t);
	}
	counter_set(&ch->counters.gauge_addresses, ch->targets_n);
	counter_set(&ch->counters.gauge_ready, ch->ready_n);
}

void channel_forget(struct channel *ch, const struct client_address *keep, size_t n)
{
	targets_keep(ch, keep, n);
	ch->failure[0] = '\0';
	ch->resolved = false;
	channel_due(ch);
}

void client_channel_addresses(struct client *c, unsigned channel,
			      const struct client_address *addresses, size_t n, uint64_t now_ns)
{
	struct channel *ch = &c->channels[channel];

	c->now_ns = now_ns;
	ch->resolved = true;
	channel_due(ch);
	if (n == 0)
		return;
	if (n > c->config.addresses_max) {
		counter_add(&ch->counters.addresses_over, n - c->config.addresses_max);
		n = c->config.addresses_max;
	}
	counter_inc(&ch->counters.addresses_updates);
	targets_keep(ch, addresses, n);
	for (size_t i = 0; i < n; i++) {
		struct target *t = target_find(ch, &addresses[i]);

		if (t == NULL)
			(void)target_create(ch, &addresses[i]);
		else
			picker_weight_set(&ch->picker, &t->member, weight_of(&addresses[i]));
	}
	counter_set(&ch->counters.gauge_addresses, ch->targets_n);
}

static void targets_fini(struct channel *ch, struct list *targets)
{
	struct list *node;

	while ((node = list_pop_head(targets)) != NULL) {
		struct target *t = list_entry(node, struct target, link);
		struct list *first;

		while ((first = list_first(&t->connections)) != NULL)
			connection_close(list_entry(first, struct client_connection, link), true);
		wheel_cancel(ch->c->wheel, &t->retry);
		pool_put(&ch->c->targets, t);
	}
}

void channel_end(struct channel *ch)
{
	struct list *node;

	while ((node = list_first(&ch->calls)) != NULL)
		client_call_fail(list_entry(node, struct client_call, all), GRPC_CANCELLED,
				 "the client ends");
	targets_fini(ch, &ch->targets);
	targets_fini(ch, &ch->leaving);
	picker_fini(&ch->picker);
}
