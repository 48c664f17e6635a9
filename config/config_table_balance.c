/* Keys of who gets which call: of services, and of whatever else chooses among several. */
#include "base/status.h"
#include "config/config_fields.h"

static const char *const balance_policies[] = {
	"round_robin", "weighted", "least_outstanding", "power_of_two", "consistent_hash", NULL};
const char *config_policy_name(int policy)
{
	return policy >= 0 && (size_t)policy < ARRAY_LEN(balance_policies) - 1
		       ? balance_policies[policy]
		       : "?";
}

static const char *const hash_bys[] = {"connection", "metadata", "field", NULL};
static const char *const sticky_bys[] = {"none", "connection", "metadata", NULL};
#define STRUCT struct config_hash
static const struct field hash_fields[] = {
	ENUM("by", by, "connection", hash_bys,
	     "What decides: the client's connection, a metadata entry, or a field of the request."),
	STRING("key", key, FORMAT_ITEM, "",
	       "Name of the metadata entry; or numbers of the field and of those it lies in, "
	       "outermost first: \"2.1\" is field 1 of the message in field 2. A field is found "
	       "in the first 512 bytes of the message."),
	INT("slots", slots, "4093", 3, 65521,
	    "Least size of the table; a hundred for each process keeps shares even within a "
	    "percent or so."),
};
TABLE(hash, "Hash", "What consistent_hash goes by.");
#undef STRUCT

#define STRUCT struct config_sticky
static const struct field sticky_fields[] = {
	ENUM("by", by, "none", sticky_bys,
	     "Calls of one connection, or with the same value of a metadata entry, stay where the "
	     "first of them went, while that takes calls."),
	STRING("key", key, FORMAT_ITEM, "", "Name of the metadata entry."),
	INT("entries", entries, "4096", 4, 1048576,
	    "Keys that one worker remembers; those not seen for longest are forgotten."),
};
TABLE(sticky, "Sticky", "What stays together.");
#undef STRUCT

#define STRUCT struct config_ejection
static const struct field ejection_fields[] = {
	INT("consecutive", consecutive, "0", 0, 1000000,
	    "So many failures in a row eject. 0: none do."),
	INT("percent", percent, "0", 0, 100,
	    "So great a share of failures among the calls of an interval ejects. 0: none does."),
	INT("deviation", deviation, "0", 0, 100000,
	    "A share of successes so many thousandths of a standard deviation below the mean of "
	    "all "
	    "ejects (gRFC A50 takes 1900). 0: none does."),
	INT("members_min", members_min, "5", 1, 1000,
	    "So many must have had calls_min calls in the interval for deviation to be looked at."),
	INT("calls_min", calls_min, "50", 1, 1000000,
	    "Calls that an interval must have had for percent and deviation to be looked at."),
	DURATION("interval", interval_ns, "10s", 10 * MS, HOUR,
		 "Time over which percent is counted; one without an ejection makes the next one "
		 "shorter again."),
	DURATION("time", time_ns, "30s", 10 * MS, HOUR,
		 "The first ejection is so long, the second twice, and so on."),
	DURATION("time_max", time_max_ns, "5min", 10 * MS, 24 * HOUR, "No ejection is longer."),
	INT("share_max", share_max, "50", 1, 100,
	    "Percent of the processes that may be ejected at a time. One always may, and the last "
	    "that is good never is."),
	{.key = "statuses",
	 .type = FIELD_ENUMS,
	 AT(statuses),
	 .def = "UNKNOWN,INTERNAL,UNAVAILABLE,DATA_LOSS",
	 .items_min = 1,
	 .items_max = 17,
	 .choices = status_names,
	 .help = "Statuses that are failures."},
};
TABLE(ejection, "Ejection", "When a process that fails gets no calls for a while.");
#undef STRUCT

#define STRUCT struct config_balance
static const struct field balance_fields[] = {
	ENUM("policy", policy, "round_robin", balance_policies,
	     "round_robin: in turn. weighted: in turn, by weights. least_outstanding: who has the "
	     "fewest calls open, for its weight. power_of_two: the better of two drawn at random. "
	     "consistent_hash: equal keys go to equal processes."),
	{.key = "weights",
	 .type = FIELD_INTS,
	 AT(weights),
	 .count_offset = offsetof(STRUCT, weights_n),
	 .items_max = CONFIG_HOSTS_MAX,
	 .min = 1,
	 .max = 1000,
	 .def_is = "1 for each",
	 .help = "Of a process of each of hosts, in their order."},
	OBJECT("hash", hash, hash_table, "What consistent_hash goes by."),
	OBJECT("sticky", sticky, sticky_table, "What stays together."),
	BOOL("locality", locality, "false",
	     "Processes whose segments lie on the worker's own memory node first."),
	INT("locality_spill", locality_spill, "0", 0, 65536,
	    "Others too when each of those has so many calls open, for each unit of weight. "
	    "0: never."),
	INT("subset", subset, "0", 0, 4096,
	    "Each worker uses so many of the processes only, workers evenly spread over them. "
	    "0: all."),
	DURATION("slow_start", slow_start_ns, "0", 0, HOUR,
		 "The weight of a process that has just come grows for so long to what it is. "
		 "0: it has all of it at once."),
	INT("slow_start_percent", slow_start_percent, "10", 1, 100,
	    "Where it begins, in percent of the weight."),
	OBJECT("ejection", ejection, ejection_table,
	       "When a process that fails gets no calls for a while."),
};
const struct field_table balance_table =
	TABLE_OF(balance, "Balance", "How calls are spread over those that serve them.");
#undef STRUCT
