/* Which endpoint a call goes to: what the service's picker is told of it. The key of a consistent
 * hash may lie in the request itself, which is decoded into the memory of the endpoint to be
 * chosen: so its beginning is looked at on the wire (daemon/balance/field.h). */
#include "daemon/worker/worker_internal.h"

#include <string.h>

#include "daemon/balance/field.h"

_Static_assert((int)CONFIG_ROUND_ROBIN == (int)PICKER_ROUND_ROBIN &&
		       (int)CONFIG_WEIGHTED == (int)PICKER_WEIGHTED &&
		       (int)CONFIG_LEAST_OUTSTANDING == (int)PICKER_LEAST_OUTSTANDING &&
		       (int)CONFIG_POWER_OF_TWO == (int)PICKER_POWER_OF_TWO &&
		       (int)CONFIG_CONSISTENT_HASH == (int)PICKER_CONSISTENT_HASH,
	       "one order of policies");

/* ---- configuration -------------------------------------------------------------------------- */

/* Processes that may serve it at once, those that leave while others come included. */
static uint32_t members_max(const struct config *cfg, const struct config_service *service)
{
	uint32_t n = 1;

	for (uint32_t i = 0; i < service->hosts_n; i++)
		n += 2 * cfg->hosts[service->hosts[i]].endpoints_max + 1;
	return n;
}

/* Number of this worker among those that serve it. */
static uint32_t worker_number(const struct worker *w, const struct config_service *service)
{
	for (uint32_t i = 0; i < service->workers_n; i++)
		if (service->workers[i] == w->params.index)
			return i;
	return 0;
}

void choose_picker_config(const struct worker *w, const struct config_balance *b,
			  struct picker_config *out)
{
	*out = (struct picker_config){
		.policy = (enum picker_policy)b->policy,
		.node = w->cfg->workers[w->params.index].numa_node,
		.locality = b->locality,
		.locality_spill = b->locality_spill,
		.subset = b->subset,
		.slow_start_ns = b->slow_start_ns,
		.slow_start_percent = b->slow_start_percent,
		.hash_slots = b->hash.slots,
		.sticky_entries = b->sticky.by != CONFIG_STICKY_NONE ? b->sticky.entries : 0,
		.ejection =
			{
				.consecutive = b->ejection.consecutive,
				.percent = b->ejection.percent,
				.deviation = b->ejection.deviation,
				.members_min = b->ejection.members_min,
				.calls_min = b->ejection.calls_min,
				.interval_ns = b->ejection.interval_ns,
				.base_ns = b->ejection.time_ns,
				.max_ns = b->ejection.time_max_ns,
				.share_percent = b->ejection.share_max,
			},
	};
}

void choose_config(const struct worker *w, const struct config_service *service,
		   struct picker_config *out)
{
	choose_picker_config(w, &service->balance, out);
	out->members_max = members_max(w->cfg, service);
	out->caller = worker_number(w, service);
	out->callers_n = service->workers_n != 0 ? service->workers_n : 1;
	out->seed = w->random_key.k0 ^ (uint64_t)(service - w->cfg->services);
}

/* ---- keys ----------------------------------------------------------------------------------- */

static const struct config_balance *call_balance(const struct call *call)
{
	size_t service = balance_method_service(call->w->balance, call->sought);

	return &call->w->cfg->services[service].balance;
}

/* Calls out of handlers have one for each host that makes them. */
static uint64_t connection_number(const struct call *call)
{
	return call->conn != NULL ? call->conn->number : UINT64_MAX;
}

static uint64_t connection_key(const struct call *call)
{
	const uint64_t who[2] = {call->w->params.index, connection_number(call)};

	return picker_hash(who, sizeof(who));
}

/* The first entry of that name. */
static bool metadata_key(const struct call *call, const char *name, uint64_t *key_out)
{
	size_t len = strlen(name);

	for (uint32_t i = 0; i < call->items_n; i++) {
		const struct metadata_item *item = &call->items[i];

		if (item->name_bytes == len && memcmp(item->name, name, len) == 0) {
			*key_out = picker_hash(item->value, item->value_bytes);
			return true;
		}
	}
	return false;
}

static bool field_key(const struct call *call, const struct config_hash *hash, uint64_t *key_out)
{
	struct field_value v;

	switch (field_find(call->small, call->seen, call->seen_whole, hash->field, hash->field_n,
			   &v)) {
	case FIELD_FOUND:
		*key_out = picker_hash(v.bytes, v.len);
		return true;
	case FIELD_ABSENT:
		*key_out = picker_hash("", 0);
		return true;
	case FIELD_UNSEEN:
		break;
	}
	return false;
}

static void key_fill(const struct call *call, const struct config_balance *b,
		     struct picker_key *key)
{
	if (b->policy == CONFIG_CONSISTENT_HASH && b->hash.by == CONFIG_HASH_METADATA) {
		key->has_hash = metadata_key(call, b->hash.key, &key->hash);
	} else if (b->policy == CONFIG_CONSISTENT_HASH && b->hash.by == CONFIG_HASH_FIELD) {
		key->has_hash = field_key(call, &b->hash, &key->hash);
	} else if (b->policy == CONFIG_CONSISTENT_HASH) {
		key->has_hash = true;
		key->hash = connection_key(call);
	}
	if (b->sticky.by == CONFIG_STICKY_METADATA) {
		key->has_sticky = metadata_key(call, b->sticky.key, &key->sticky);
	} else if (b->sticky.by == CONFIG_STICKY_CONNECTION) {
		key->has_sticky = true;
		key->sticky = connection_key(call);
	}
}

int call_choose(struct call *call, void **route_out)
{
	const struct config_balance *b = call_balance(call);
	struct picker_key key = {0};

	if (unlikely(b->policy == CONFIG_CONSISTENT_HASH || b->sticky.by != CONFIG_STICKY_NONE))
		key_fill(call, b, &key);
	call->balance.flow = connection_number(call);
	return balance_pick(call->w->balance, call->sought, &key, &call->balance, route_out);
}

/* ---- the message before its endpoint -------------------------------------------------------- */

int call_look(struct call *call, uint32_t bytes)
{
	const struct config_balance *b = call_balance(call);

	if (likely(b->policy != CONFIG_CONSISTENT_HASH || b->hash.by != CONFIG_HASH_FIELD))
		return 0;
	if (bytes <= CALL_SMALL_BYTES)
		return CHOOSE_LATER;
	call->seen = (uint16_t)client_peek(call, call->small, CALL_SMALL_BYTES);
	if (call->seen < CALL_SMALL_BYTES && call->grpc != NULL &&
	    grpc_call_peek_wait(call->grpc, CALL_SMALL_BYTES))
		return SPLIT_AGAIN;
	return 0;
}

/* ---- health --------------------------------------------------------------------------------- */

void call_judge(struct call *call, uint32_t status)
{
	uint32_t failures = call->method->failures;

	if (status > GRPC_STATUS_MAX)
		status = GRPC_UNKNOWN;
	call->balance.result = failures >> status & 1 ? PICKER_FAILED : PICKER_GOOD;
	if (call->balance.result == PICKER_FAILED && call->ep != NULL)
		counter_inc(&call->ep->told->failed);
}
