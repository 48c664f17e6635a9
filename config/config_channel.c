/* Channels: where hosts may call to. Their keys, and what no single key shows of them. */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "config/config_fields.h"

#define STRUCT struct config_channel_tls
static const char *const tls_versions[] = {"1.2", "1.3", NULL};
static const struct field channel_tls_fields[] = {
	STRING("ca", ca, FORMAT_ITEM, NULL,
	       "PEM file of the authorities that may vouch for the servers, or \"system\": those "
	       "that this system trusts. Absent: the channel speaks no TLS."),
	STRING("cert", cert, FORMAT_PATH, NULL, "PEM file: the certificate shown to servers."),
	STRING("key", key, FORMAT_PATH, NULL, "PEM file: its key."),
	STRING("name", name, FORMAT_ITEM, NULL,
	       "Name or address that the server's certificate must be for, also sent as SNI. "
	       "Absent: the host of authority."),
	ENUM("min_version", min_version, "1.2", tls_versions, "Oldest version of TLS spoken."),
};
TABLE(channel_tls, "ChannelTLS", "TLS of a channel: HTTP/2 by ALPN, servers are always verified.");
#undef STRUCT

#define STRUCT struct config_retry
static const struct field retry_fields[] = {
	INT("attempts_max", attempts_max, "1", 1, 5,
	    "Attempts of a call, the first included. What no server has seen is tried again in any "
	    "case."),
	DURATION("backoff", backoff_ns, "50ms", MS, HOUR,
		 "Before the first retry, within a fifth."),
	DURATION("backoff_max", backoff_max_ns, "1s", MS, HOUR, "Before any retry."),
	INT("backoff_percent", backoff_percent, "200", 100, 1000,
	    "Each wait in percent of the one before."),
	{.key = "statuses",
	 .type = FIELD_ENUMS,
	 AT(statuses),
	 .def = "UNAVAILABLE",
	 .items_min = 1,
	 .items_max = 17,
	 .choices = status_names,
	 .help = "Statuses that are retried."},
	INT("tokens_max", tokens_max, "10", 0, 1000,
	    "The budget of a channel on a worker: a failure takes a token, and there are no "
	    "retries unless more than half are left. 0: there is no budget."),
	INT("token_ratio", token_ratio_milli, "100", 1, 1000000,
	    "Thousandths of a token that a call that goes well gives back."),
	SIZE("bytes_max", bytes_max, "256KiB", 0, GIB,
	     "Messages of one call that are kept for another attempt; a call that sends more has "
	     "no other."),
	SIZE("total_bytes_max", total_bytes_max, "4MiB", 0, GIB, "The same for all its calls."),
};
TABLE(retry, "Retry", "When calls are tried again (gRFC A6).");
#undef STRUCT

#define STRUCT struct config_client
static const struct field client_fields[] = {
	INT("calls_max", calls_max, "4096", 1, 1048576, "Calls at once, of each daemon worker."),
	INT("connections_max", connections_max, "64", 1, 65536,
	    "Connections to servers, of each daemon worker."),
	SIZE("memory", memory, "32MiB", 4 * MIB, 64 * GIB,
	     "Memory for them, of each daemon worker; taken at start where there is a channel to "
	     "servers."),
	SIZE("window_stream", window_stream, "256KiB", 1024, 2147483647,
	     "Bytes that a server may send ahead of a call's reader."),
	SIZE("window_connection", window_connection, "4MiB", 65535, 2147483647,
	     "The same for a connection."),
};
const struct field_table client_table = TABLE_OF(
	client, "Client", "The daemon's own gRPC client, which carries calls out of handlers.");
#undef STRUCT

#define STRUCT struct config_channel
static const struct field channel_fields[] = {
	NAME(FORMAT_NAME, "Name by which a host opens it (split_channel_open)."),
	{.key = "target",
	 .type = FIELD_STRING,
	 .format = FORMAT_ITEM,
	 AT(target),
	 .required = true,
	 .max = CONFIG_TARGET_MAX,
	 .help = "\"local\": the services of this configuration, as the hosts that are attached "
		 "serve them, without a network between. Else gRPC servers: addresses with ports, "
		 "separated by commas (\"198.18.0.9:50051,[2001:db8::9]:50051\"), or one name with "
		 "a port (\"backend.example:50051\"), which is resolved by this system's "
		 "resolver."},
	{.key = "hosts",
	 .type = FIELD_REFS,
	 .format = FORMAT_NAME,
	 .items_min = 1,
	 .items_max = CONFIG_HOSTS_MAX,
	 .max = CONFIG_NAME_MAX,
	 .def_is = "all hosts",
	 .help = "Names of the hosts that may open it."},
	INT("calls_max", calls_max, "1024", 1, 65536,
	    "Calls over it at once, of each daemon worker; further ones end with "
	    "RESOURCE_EXHAUSTED. Memory for them is taken at start: a reload does not raise what "
	    "all "
	    "channels have together."),
	DURATION("deadline_max", deadline_max_ns, "0", 0, 24 * HOUR,
		 "Cap on the deadline of its calls, also of those that bring none. 0: none."),
	BOOL("wait_for_ready", wait_for_ready, "false",
	     "Its calls wait while nobody can answer (no host that serves them is attached, no "
	     "server can be reached), until their deadline. Calls may ask for that themselves. "
	     "Else they end with UNAVAILABLE at once."),
	BOOL("log_refused", log_refused, "false",
	     "Messages of its calls that are refused (requests that cannot be encoded, answers "
	     "that "
	     "cannot be decoded) go to the log, as services[].log_refused says."),
	DURATION("room_timeout", room_timeout_ns, "1s", 10 * MS, HOUR,
		 "A message that waits so long for memory at the other end ends its call with "
		 "RESOURCE_EXHAUSTED, so that calls that wait for each other come to an end."),
	STRING("authority", authority, FORMAT_ITEM, NULL,
	       "Sent as :authority. Absent: the name, or the first address, of target."),
	DURATION("resolve_interval", resolve_interval_ns, "30s", 100 * MS, 24 * HOUR,
		 "A name is resolved again after so long."),
	OBJECT("tls", tls, channel_tls_table, "TLS to the servers."),
	{.key = "balance",
	 .type = FIELD_OBJECT,
	 AT(balance),
	 .sub = &balance_table,
	 .shorthand = "policy",
	 .help = "How calls are spread over the addresses; weights stand in their order. Hash and "
		 "sticky go by an entry of the call's own metadata."},
	OBJECT("retry", retry, retry_table, "Retries."),
	INT("connections_max", connections_max, "4", 1, 1024,
	    "To one address, of each daemon worker. Another is made when all there are have as "
	    "many "
	    "calls as they may."),
	INT("streams_max", streams_max, "1000", 1, 65535,
	    "Calls on one connection, within what the server allows."),
	DURATION("connect_timeout", connect_timeout_ns, "20s", 10 * MS, HOUR,
		 "TCP, TLS and the server's first words may take so long."),
	DURATION("connect_backoff", connect_backoff_ns, "1s", MS, HOUR,
		 "After a connection that failed; 1.6 times as long after each further one."),
	DURATION("connect_backoff_max", connect_backoff_max_ns, "2min", MS, 24 * HOUR,
		 "At most so long."),
	DURATION("idle_timeout", idle_timeout_ns, "5min", 0, 24 * HOUR,
		 "A connection without calls is closed after so long. 0: never."),
	DURATION("keepalive", keepalive_ns, "0", 0, 24 * HOUR,
		 "A server that has said nothing for so long is sent a PING. 0: none is."),
	DURATION("keepalive_timeout", keepalive_timeout_ns, "20s", 10 * MS, HOUR,
		 "Without an answer to it for so long the connection is given up."),
	BOOL("keepalive_without_calls", keepalive_without_calls, "false",
	     "PINGs also while no call runs, which servers may take for an attack."),
	BOOL("compression", compression, "true", "Servers may compress their answers."),
	BOOL("health", health, "false",
	     "Watch the health of each address (grpc.health.v1.Health): those that do not serve "
	     "get "
	     "no calls. A server that does not know the method is taken for healthy."),
	STRING("health_service", health_service, FORMAT_ITEM, NULL,
	       "The service asked about. Absent: the server as a whole."),
	SIZE("message_bytes_max", message_bytes_max, "4MiB", 1, GIB,
	     "A larger message of a server ends its call with RESOURCE_EXHAUSTED."),
	SIZE("metadata_bytes_max", metadata_bytes_max, "16KiB", 256, 65536,
	     "The same for its metadata, counted as HTTP/2 does."),
};
const struct field_table channel_table =
	TABLE_OF(channel, "Channel", "Where calls out of handlers go.");
#undef STRUCT

/* "198.18.0.9:50051" or "[2001:db8::9]:50051". */
static bool endpoint_parse(const char *text, size_t n, struct config_endpoint *out)
{
	char copy[64], *colon, *end, *host = copy;
	unsigned long port;

	if (n >= sizeof(copy))
		return false;
	memcpy(copy, text, n);
	copy[n] = '\0';
	colon = strrchr(copy, ':');
	if (colon == NULL || colon[1] < '0' || colon[1] > '9')
		return false;
	*colon = '\0';
	port = strtoul(colon + 1, &end, 10);
	if (*end != '\0' || port == 0 || port > 65535)
		return false;
	if (copy[0] == '[' && colon > copy && colon[-1] == ']') {
		colon[-1] = '\0';
		host++;
	} else if (strchr(copy, ':') != NULL) {
		return false;
	}
	out->port = (uint32_t)port;
	return config_address_parse(host, false, &out->address);
}

static bool addresses_parse(struct config_channel *ch)
{
	const char *at = ch->target;

	for (;;) {
		size_t n = strcspn(at, ",");

		if (ch->addresses_n == CONFIG_CHANNEL_ADDRESSES_MAX ||
		    !endpoint_parse(at, n, &ch->addresses[ch->addresses_n]) ||
		    config_address_any(&ch->addresses[ch->addresses_n].address))
			return false;
		ch->addresses_n++;
		if (at[n] == '\0')
			return true;
		at += n + 1;
	}
}

/* "backend.example:50051" */
static bool name_parse(struct config_channel *ch)
{
	static const char good[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
	size_t n = strspn(ch->target, good);
	unsigned long port;
	char *end;

	if (n == 0 || n >= sizeof(ch->host) || ch->target[n] != ':' || ch->target[n + 1] < '0' ||
	    ch->target[n + 1] > '9')
		return false;
	port = strtoul(ch->target + n + 1, &end, 10);
	if (*end != '\0' || port == 0 || port > 65535)
		return false;
	/* What looks like an address and is none is no name either (RFC 1123 s2.1). */
	if (strspn(ch->target, "0123456789.") == n)
		return false;
	memcpy(ch->host, ch->target, n);
	ch->host[n] = '\0';
	ch->port = (uint32_t)port;
	return true;
}

static bool target_parse(struct config_channel *ch)
{
	ch->addresses_n = 0;
	if (addresses_parse(ch))
		return true;
	ch->addresses_n = 0;
	return name_parse(ch);
}

static void authority_default(struct config_channel *ch)
{
	size_t n = strcspn(ch->target, ",");

	if (ch->authority[0] != '\0' || n > CONFIG_AUTHORITY_MAX)
		return;
	memcpy(ch->authority, ch->target, n);
	ch->authority[n] = '\0';
}

static void check_remote(struct config_channel *ch, const struct doc_node *node,
			 const struct config_sink *sink)
{
	const struct doc_node *target = doc_member(node, "target");
	const struct doc_node *tls = doc_member(node, "tls");
	const struct doc_node *retry = doc_member(node, "retry");
	char quote[CONFIG_QUOTE_TEXT_MAX];

	if (!target_parse(ch)) {
		config_sink_node(
			sink, target,
			"%s is no target, expected \"local\", addresses with ports separated "
			"by commas (at most %u), or a name with a port",
			config_quote(ch->target, quote), CONFIG_CHANNEL_ADDRESSES_MAX);
		return;
	}
	for (uint32_t i = 0; i < ch->addresses_n; i++)
		for (uint32_t j = 0; j < i; j++)
			if (ch->addresses[i].port == ch->addresses[j].port &&
			    config_address_equal(&ch->addresses[i].address,
						 &ch->addresses[j].address))
				config_sink_node(sink, target,
						 "has address %u twice, expected each once", i + 1);
	authority_default(ch);
	if (ch->tls.ca[0] == '\0' && tls != NULL)
		config_sink_node(sink, tls, "has no ca, expected a file or \"system\"");
	if (ch->tls.ca[0] != '\0' && ch->tls.ca[0] != '/' && strcmp(ch->tls.ca, "system") != 0)
		config_sink_node(sink, doc_member(tls, "ca"),
				 "is no absolute path, expected one or \"system\"");
	if ((ch->tls.cert[0] == '\0') != (ch->tls.key[0] == '\0'))
		config_sink_node(sink, tls, "has one of cert and key, expected both");
	if (ch->retry.backoff_max_ns < ch->retry.backoff_ns)
		config_sink_node(sink, retry != NULL ? retry : node,
				 "backoff_max is less than backoff, expected at least that");
	if (ch->health_service[0] != '\0' && !ch->health)
		config_sink_node(sink, doc_member(node, "health_service"),
				 "is of no use without health");
	if (ch->balance.weights_n != 0 && ch->balance.weights_n != ch->addresses_n)
		config_sink_node(sink, doc_member(doc_member(node, "balance"), "weights"),
				 "has %u elements, expected one for each address of target (%u)",
				 ch->balance.weights_n, ch->addresses_n);
	if (ch->balance.hash.by == CONFIG_HASH_FIELD)
		config_sink_node(sink, doc_member(doc_member(node, "balance"), "hash"),
				 "goes by a field, expected metadata");
}

bool config_channel_is_local(const struct config_channel *channel)
{
	return strcmp(channel->target, "local") == 0;
}

int config_channel_find(const struct config *cfg, const char *name)
{
	for (uint32_t i = 0; i < cfg->channels_n; i++)
		if (!cfg->channels[i].gone && strcmp(cfg->channels[i].name, name) == 0)
			return (int)i;
	return -1;
}

bool config_channel_has_host(const struct config_channel *channel, uint32_t host)
{
	for (uint32_t i = 0; i < channel->hosts_n; i++)
		if (channel->hosts[i] == host)
			return true;
	return false;
}

static void check_hosts(struct config *cfg, struct config_channel *ch, const struct doc_node *hosts,
			const struct config_sink *sink)
{
	char quote[CONFIG_QUOTE_TEXT_MAX];

	if (hosts == NULL || !json_is_array(hosts->value)) {
		for (uint32_t i = 0; i < cfg->hosts_n && i < CONFIG_HOSTS_MAX; i++)
			ch->hosts[ch->hosts_n++] = i;
		return;
	}
	for (const struct doc_node *e = hosts->first; e != NULL; e = e->next) {
		const char *name = json_string_value(e->value);
		int index = name != NULL ? config_host_find(cfg, name) : -1;

		if (name == NULL)
			continue;
		if (index < 0)
			config_sink_node(sink, e, "%s is no host, expected a name in hosts",
					 config_quote(name, quote));
		else if (config_channel_has_host(ch, (uint32_t)index))
			config_sink_node(sink, e, "%s is named twice, expected each once",
					 config_quote(name, quote));
		else if (ch->hosts_n < CONFIG_HOSTS_MAX)
			ch->hosts[ch->hosts_n++] = (uint32_t)index;
	}
}

void config_check_channels(struct config *cfg, const struct doc_node *root,
			   const struct config_sink *sink)
{
	const struct doc_node *channels = doc_member(root, "channels");

	for (uint32_t i = 0; i < cfg->channels_n; i++) {
		struct config_channel *ch = &cfg->channels[i];
		const struct doc_node *node = doc_element(channels, i);
		const struct doc_node *name = doc_member(node, "name");

		for (uint32_t j = 0; j < i; j++)
			if (ch->name[0] != '\0' && strcmp(cfg->channels[j].name, ch->name) == 0)
				config_sink_node(
					sink, name,
					"is the name of channels[%u] too, expected one of its own",
					j);
		if (ch->target[0] != '\0' && !config_channel_is_local(ch))
			check_remote(ch, node, sink);
		check_hosts(cfg, ch, doc_member(node, "hosts"), sink);
	}
}
