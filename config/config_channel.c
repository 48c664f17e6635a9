/* Channels: where hosts may call to. Their keys, and what no single key shows of them. */
#include <string.h>

#include "config/config_fields.h"

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
		 "serve them, without a network between."},
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
	    "RESOURCE_EXHAUSTED."),
	DURATION("deadline_max", deadline_max_ns, "0", 0, 24 * HOUR,
		 "Cap on the deadline of its calls, also of those that bring none. 0: none."),
	DURATION("room_timeout", room_timeout_ns, "1s", 10 * MS, HOUR,
		 "A message that waits so long for memory at the other end ends its call with "
		 "RESOURCE_EXHAUSTED, so that calls that wait for each other come to an end."),
};
const struct field_table channel_table =
	TABLE_OF(channel, "Channel", "Where calls out of handlers go.");
#undef STRUCT

bool config_channel_is_local(const struct config_channel *channel)
{
	return strcmp(channel->target, "local") == 0;
}

int config_channel_find(const struct config *cfg, const char *name)
{
	for (uint32_t i = 0; i < cfg->channels_n; i++)
		if (strcmp(cfg->channels[i].name, name) == 0)
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
			config_sink_node(sink, doc_member(node, "target"),
					 "is no target, expected \"local\"");
		check_hosts(cfg, ch, doc_member(node, "hosts"), sink);
	}
}
