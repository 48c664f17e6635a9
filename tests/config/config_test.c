#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "config/config_internal.h"

/* A small good document; each test changes a piece of it. */
static const char base[] = "{\n"
			   " \"eal\": {\"devices\": [\"net_tap0,iface=t\"]},\n"
			   " \"workers\": [{\"core\": 0}, {\"core\": 1}],\n"
			   " \"ports\": [{\"name\": \"p0\", \"device\": \"net_tap0\",\n"
			   "   \"addresses\": [\"198.18.0.2/24\"]}],\n"
			   " \"listeners\": [{\"name\": \"main\", \"port\": 50051}],\n"
			   " \"hosts\": [{\"name\": \"echo\", \"uids\": [0]}],\n"
			   " \"services\": [{\"name\": \"a.Echo\", \"hosts\": [\"echo\"]}]\n"
			   "}\n";

static struct config_report rep;
static struct config *cfg;

static void setup(void)
{
	config_report_init(&rep);
	cfg = NULL;
}

static void teardown(void)
{
	config_report_fini(&rep);
	config_free(cfg);
}

/* `base` with the first `from` replaced by `to`. */
static char *changed(const char *from, const char *to)
{
	const char *at = strstr(base, from);
	char *text = NULL;

	ck_assert_ptr_nonnull(at);
	ck_assert_int_ge(asprintf(&text, "%.*s%s%s", (int)(at - base), base, to, at + strlen(from)),
			 0);
	return text;
}

static int parse(const char *text, const struct config_machine *machine)
{
	config_report_fini(&rep);
	config_free(cfg);
	cfg = NULL;
	return config_parse(text, strlen(text), "c.json", machine, &cfg, &rep);
}

static bool found(const char *finding)
{
	for (size_t i = 0; i < rep.count; i++)
		if (strncmp(rep.findings[i].text, finding, strlen(finding)) == 0)
			return true;
	return false;
}

static void expect_bad(const char *text, const char *finding, const struct config_machine *machine)
{
	ck_assert_msg(parse(text, machine) == -SPLIT_E_CONFIG_INVALID, "expected \"%s\"", finding);
	ck_assert_ptr_null(cfg);
	ck_assert_uint_gt(rep.count, 0);
	ck_assert_msg(found(finding), "expected \"%s\", got \"%s\"", finding, rep.findings[0].text);
}

/* ---- units ---------------------------------------------------------------------------------- */

START_TEST(units)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t v;
	} sizes[] =
		{
			{"0", 0, 0},
			{"0KiB", 0, 0},
			{"1B", 0, 1},
			{"64KiB", 0, 65536},
			{"64MiB", 0, 67108864},
			{"16GiB", 0, UINT64_C(17179869184)},
			{"18446744073709551615B", 0, UINT64_MAX},
			{"18446744073709551616B", -1, 0},
			{"17179869184GiB", -1, 0},
			{"", -1, 0},
			{"64", -1, 0},
			{"MiB", -1, 0},
			{"01B", -1, 0},
			{"-1B", -1, 0},
			{"+1B", -1, 0},
			{"1 B", -1, 0},
			{"1b", -1, 0},
			{"1MB", -1, 0},
			{"1.5MiB", -1, 0},
			{"0x10B", -1, 0},
			{"1B ", -1, 0},
		},
	  durations[] = {
		  {"0", 0, 0},
		  {"5ns", 0, 5},
		  {"100us", 0, 100000},
		  {"15ms", 0, 15000000},
		  {"5s", 0, UINT64_C(5000000000)},
		  {"2min", 0, UINT64_C(120000000000)},
		  {"1h", 0, UINT64_C(3600000000000)},
		  {"5m", -1, 0},
		  {"5", -1, 0},
		  {"5124096h", -1, 0},
	  };
	char buf[32];
	uint64_t v;

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		int rc = config_size_parse(sizes[i].text, &v);

		ck_assert_msg((rc == 0) == (sizes[i].rc == 0), "%s", sizes[i].text);
		if (rc == 0)
			ck_assert_uint_eq(v, sizes[i].v);
	}
	for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
		int rc = config_duration_parse(durations[i].text, &v);

		ck_assert_msg((rc == 0) == (durations[i].rc == 0), "%s", durations[i].text);
		if (rc == 0)
			ck_assert_uint_eq(v, durations[i].v);
	}
	ck_assert_str_eq(config_size_format(67108864, buf), "64MiB");
	ck_assert_str_eq(config_size_format(1025, buf), "1025B");
	ck_assert_str_eq(config_duration_format(15000000, buf), "15ms");
	ck_assert_str_eq(config_duration_format(0, buf), "0");
	ck_assert_str_eq(config_duration_format(UINT64_C(120000000000), buf), "2min");
}
END_TEST

START_TEST(addresses)
{
	struct config_address a, net;
	uint8_t mac[6];
	uint32_t mode;

	ck_assert(config_address_parse("198.18.0.2", false, &a) && a.family == 4);
	ck_assert(config_address_parse("198.18.0.0/15", true, &net) && net.prefix == 15);
	ck_assert(config_address_in(&a, &net));
	ck_assert(config_address_parse("198.20.0.0", false, &a) && !config_address_in(&a, &net));
	ck_assert(config_address_parse("2001:db8::1", false, &a) && a.family == 6);
	ck_assert(!config_address_in(&a, &net));
	ck_assert(config_address_parse("2001:db8::/128", true, &net) &&
		  !config_address_in(&a, &net));
	ck_assert(!config_address_parse("198.18.0.2/24", false, &a));
	ck_assert(!config_address_parse("198.18.0.2", true, &a));
	ck_assert(!config_address_parse("198.18.0.2/", true, &a));
	ck_assert(!config_address_parse("198.18.0.2/33", true, &a));
	ck_assert(!config_address_parse("198.18.0.2/024", true, &a));
	ck_assert(!config_address_parse("198.18.0.2/4294967320", true, &a));
	ck_assert(!config_address_parse("198.18.0", false, &a));
	ck_assert(!config_address_parse("", false, &a));
	ck_assert(config_address_parse("127.0.0.1", false, &a) && !config_address_unicast(&a));
	ck_assert(config_address_parse("224.0.0.1", false, &a) && !config_address_unicast(&a));
	ck_assert(config_address_parse("::1", false, &a) && !config_address_unicast(&a));
	ck_assert(config_address_parse("ff02::1", false, &a) && !config_address_unicast(&a));
	ck_assert(config_mac_parse("02:aB:00:00:00:01", mac) && mac[1] == 0xab);
	ck_assert(!config_mac_parse("02:ab:00:00:00:1", mac));
	ck_assert(!config_mac_parse("02-ab-00-00-00-01", mac));
	ck_assert(config_mode_parse("0660", &mode) && mode == 0660);
	ck_assert(!config_mode_parse("660", &mode) && !config_mode_parse("0680", &mode));
}
END_TEST

/* ---- values --------------------------------------------------------------------------------- */

static void table_defaults_fit(const struct field_table *table)
{
	for (size_t i = 0; i < table->fields_n; i++) {
		const struct field *f = &table->fields[i];
		uint64_t v = 0;
		int rc = 0;

		ck_assert_msg(f->help != NULL && strlen(f->help) > 3, "%s", f->key);
		for (size_t j = 0; j < i; j++)
			ck_assert_str_ne(f->key, table->fields[j].key);
		if (f->sub != NULL)
			table_defaults_fit(f->sub);
		if (f->def == NULL)
			continue;
		if (f->type == FIELD_SIZE)
			rc = config_size_parse(f->def, &v);
		else if (f->type == FIELD_DURATION)
			rc = config_duration_parse(f->def, &v);
		else if (f->type == FIELD_INT)
			v = strtoull(f->def, NULL, 10);
		else
			continue;
		ck_assert_msg(rc == 0 && v >= f->min && v <= f->max, "default of %s", f->key);
	}
}

START_TEST(defaults)
{
	table_defaults_fit(&config_table);
	ck_assert_int_eq(parse(base, NULL), 0);
	ck_assert_uint_eq(rep.count, 0);
	ck_assert_int_eq(cfg->eal.main_core, CONFIG_NONE);
	ck_assert_uint_eq(cfg->eal.memory, 256u << 20);
	ck_assert(cfg->eal.hugepages && !cfg->eal.hugepages_fallback);
	ck_assert_str_eq(cfg->eal.devices[0].text, "net_tap0,iface=t");
	ck_assert_uint_eq(cfg->workers_n, 2);
	ck_assert_int_eq(cfg->workers[1].numa_node, CONFIG_NONE);
	ck_assert_int_eq(cfg->idle.mode, CONFIG_IDLE_ADAPTIVE);
	ck_assert_uint_eq(cfg->idle.sleep_max_ns, 100000);
	ck_assert_uint_eq(cfg->idle.quiet_sleep_max_ns, 2000000);
	ck_assert_uint_eq(cfg->ports[0].mtu, 1500);
	ck_assert_uint_eq(cfg->ports[0].rx_queues, 1);
	ck_assert_uint_eq(cfg->ports[0].queue_workers_n, 1);
	ck_assert(!cfg->ports[0].mac_given);
	ck_assert_uint_eq(cfg->ports[0].gateway.family, 0);
	ck_assert_uint_eq(cfg->ports[0].addresses[0].bytes[3], 2);
	ck_assert_uint_eq(cfg->ports[0].addresses[0].prefix, 24);
	ck_assert_uint_eq(cfg->tcp.rto_min_ns, 200000000);
	ck_assert(cfg->listeners[0].all_services);
	ck_assert_uint_eq(cfg->listeners[0].address.family, 4);
	ck_assert(config_address_any(&cfg->listeners[0].address));
	ck_assert_uint_eq(cfg->http2.window_stream, 65536);
	ck_assert_uint_gt(cfg->http2.resets.burst, 0);
	ck_assert_uint_gt(cfg->http2.windows.per_second, 0);
	ck_assert_uint_eq(cfg->grpc.message_bytes_max, 4u << 20);
	ck_assert_uint_eq(cfg->linearize.depth_max, 100);
	ck_assert_str_eq(cfg->control.socket, "/run/splitd/host.sock");
	ck_assert_uint_eq(cfg->control.socket_mode, 0666);
	ck_assert_uint_eq(cfg->hosts[0].lane_depth, 2);
	ck_assert_uint_eq(cfg->services[0].hosts_n, 1);
	ck_assert_uint_eq(cfg->services[0].workers_n, 2);
	ck_assert_uint_eq(cfg->services[0].limits.message_bytes_max, 4u << 20);
	ck_assert_uint_eq(cfg->services[0].limits.linear_bytes_max, 16u << 20);
	ck_assert_int_eq(cfg->log.level, LOG_LEVEL_INFO);
	ck_assert(cfg->telemetry.enabled);
	ck_assert(config_host_has_uid(&cfg->hosts[0], 0) &&
		  !config_host_has_uid(&cfg->hosts[0], 1));
	ck_assert_int_eq(config_host_find(cfg, "echo"), 0);
	ck_assert_int_eq(config_host_find(cfg, "nobody"), -1);
}
END_TEST

START_TEST(values)
{
	char *text = changed(
		"\"services\"",
		"\"log\": {\"level\": \"debug\"}, \"tcp\": {\"nagle\": true, "
		"\"backlog\": 1e2, \"delayed_ack\": \"0\"}, \"grpc\": {\"message_bytes_max\": "
		"\"1MiB\"}, \"services\"");

	ck_assert_int_eq(parse(text, NULL), 0);
	ck_assert_int_eq(cfg->log.level, LOG_LEVEL_DEBUG);
	ck_assert(cfg->tcp.nagle);
	ck_assert_uint_eq(cfg->tcp.backlog, 100);
	ck_assert_uint_eq(cfg->tcp.delayed_ack_ns, 0);
	ck_assert_uint_eq(cfg->services[0].limits.message_bytes_max, 1u << 20);
	free(text);
	text = changed("\"port\": 50051",
		       "\"port\": 443, \"address\": \"198.18.0.2\", \"services\": [\"a.Echo\"]");
	ck_assert_int_eq(parse(text, NULL), 0);
	ck_assert(!cfg->listeners[0].all_services);
	ck_assert(config_listener_has_service(&cfg->listeners[0], 0));
	ck_assert(!config_listener_has_service(&cfg->listeners[0], 1));
	free(text);
	text = changed(
		"\"hosts\": [\"echo\"]",
		"\"hosts\": [\"echo\"], \"workers\": [1], \"balance\": \"least_outstanding\", "
		"\"limits\": {\"queue_max\": 0}");
	ck_assert_int_eq(parse(text, NULL), 0);
	ck_assert(config_service_has_worker(&cfg->services[0], 1));
	ck_assert(!config_service_has_worker(&cfg->services[0], 0));
	ck_assert_int_eq(cfg->services[0].balance.policy, CONFIG_LEAST_OUTSTANDING);
	ck_assert_uint_eq(cfg->services[0].limits.queue_max, 0);
	ck_assert_uint_eq(cfg->services[0].limits.calls_max, cfg->grpc.calls_max);
	free(text);
	text = changed("\"addresses\"",
		       "\"mac\": \"02:00:00:00:00:05\", \"gateway\": \"198.18.0.1\", "
		       "\"rx_queues\": 2, \"queue_workers\": [1, 0], \"addresses\"");
	ck_assert_int_eq(parse(text, NULL), 0);
	ck_assert(cfg->ports[0].mac_given && cfg->ports[0].mac[5] == 5);
	ck_assert_uint_eq(cfg->ports[0].gateway.family, 4);
	ck_assert_uint_eq(cfg->ports[0].queue_workers[0], 1);
	ck_assert_uint_eq(cfg->ports[0].tx_queues, 2);
	free(text);
	text = changed("\"addresses\"", "\"mac\": null, \"gateway\": null, \"numa_node\": null, "
					"\"addresses\"");
	ck_assert_int_eq(parse(text, NULL), 0);
	free(text);
}
END_TEST

/* Which certificates a host on another machine may show (docs/SOCKET.md). */
START_TEST(certificates)
{
	static const struct {
		const char *names[2];
		const char *san;
		bool good;
	} cases[] = {
		{{NULL}, "DNS:echo", true},
		{{NULL}, "DNS:ECHO", true},
		{{NULL}, "URI:echo", true},
		{{NULL}, "URI:Echo", false},
		{{NULL}, "DNS:echo.example", false},
		{{NULL}, "DNS:ech", false},
		{{NULL}, "DNS:", false},
		{{NULL}, "echo", false},
		{{NULL}, "", false},
		{{"a.example", "spiffe://example/echo"}, "DNS:A.example", true},
		{{"a.example", "spiffe://example/echo"}, "URI:spiffe://example/echo", true},
		{{"a.example", "spiffe://example/echo"}, "URI:spiffe://example/Echo", false},
		{{"a.example", "spiffe://example/echo"}, "DNS:echo", false},
		{{"*.example"}, "DNS:a.example", false},
		{{"*", "a"}, "DNS:*", true},
	};
	struct config_item items[2];
	struct config_host host = {.name = "echo", .remote_names = items};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint32_t n = 0;

		for (; n < 2 && cases[i].names[n] != NULL; n++)
			strcpy(items[n].text, cases[i].names[n]);
		host.remote_names_n = n;
		ck_assert_msg(config_host_has_certificate(&host, cases[i].san) == cases[i].good,
			      "%zu: %s", i, cases[i].san);
		ck_assert(config_host_any_certificate(&host) ==
			  (cases[i].names[0] != NULL && strcmp(cases[i].names[0], "*") == 0));
	}
}
END_TEST

START_TEST(authorities)
{
	static const struct {
		const char *item, *authority;
		bool good;
	} cases[] = {
		{"api.example", "api.example", true},
		{"api.example", "API.example:8443", true},
		{"api.example:8443", "api.Example:8443", true},
		{"api.example:8443", "api.example", false},
		{"api.example:8443", "api.example:443", false},
		{"api.example", "api.example.", false},
		{"api.example", "xapi.example", false},
		{"api.example", "", false},
		{"*.example", "a.example:1", true},
		{"*.example", "a.b.example", false},
		{"*.example", ".example", false},
		{"*.example", "example", false},
		{"[2001:db8::1]", "[2001:DB8::1]:50051", true},
		{"[2001:db8::1]:50051", "[2001:db8::1]", false},
		{"[2001:db8::1]", "[2001:db8::2]:50051", false},
		{"198.18.0.2", "198.18.0.2:50051", true},
		{"x", "[", false},
		{"x", ":", false},
	};
	char *text;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct config_item item;

		strcpy(item.text, cases[i].item);
		ck_assert_msg(config_authority_has(&item, 1, cases[i].authority,
						   strlen(cases[i].authority)) == cases[i].good,
			      "%s for %s", cases[i].authority, cases[i].item);
	}
	ck_assert(config_authority_has(NULL, 0, NULL, 0));
	text = changed("\"port\": 50051",
		       "\"port\": 50051, \"authorities\": [\"*.example:1\", \"[::1]\"]");
	ck_assert_int_eq(parse(text, NULL), 0);
	ck_assert_uint_eq(cfg->listeners[0].authorities_n, 2);
	ck_assert_str_eq(cfg->listeners[0].authorities[1].text, "[::1]");
	free(text);
}
END_TEST

/* ---- findings ------------------------------------------------------------------------------- */

static const struct {
	const char *from, *to, *finding;
} findings[] = {
	/* certificates of far hosts */
	{"\"uids\": [0]", "\"uids\": [0], \"remote_names\": [\"a\"]",
	 "c.json:7: hosts[0].remote_names: is of certificates, expected remote to be true"},
	{"\"uids\": [0]}]",
	 "\"uids\": [0], \"remote\": true, \"remote_names\": [\"a\"]}], \"remote\": {\"port\": 1}",
	 "c.json:7: hosts[0].remote_names: is of certificates, expected remote.tls, which asks for "
	 "them"},
	/* keys, types, ranges */
	{"\"core\": 0", "\"core\": 0, \"cores\": 1",
	 "c.json:3: workers[0].cores: unknown key, expected \"core\"?"},
	{"\"core\": 0", "\"core\": 0, \"zzz\": 1",
	 "c.json:3: workers[0].zzz: unknown key, expected one of core, numa_node"},
	{"{\"core\": 0}", "{}", "c.json:3: workers[0]: key \"core\" is missing"},
	{"{\"core\": 0}", "[]", "c.json:3: workers[0]: is an array, expected an object"},
	{"{\"core\": 0}", "null", "c.json:3: workers[0]: is null, expected an object"},
	{"\"core\": 0", "\"core\": \"0\"",
	 "c.json:3: workers[0].core: is a string, expected a whole number from 0 to 1023"},
	{"\"core\": 0", "\"core\": 1.5",
	 "c.json:3: workers[0].core: is 1.5, expected a whole number"},
	{"\"core\": 0", "\"core\": -1", "c.json:3: workers[0].core: is -1, expected 0 to 1023"},
	{"\"core\": 0", "\"core\": 1024", "c.json:3: workers[0].core: is 1024, expected 0 to 1023"},
	{"\"port\": 50051", "\"port\": 65536",
	 "c.json:6: listeners[0].port: is 65536, expected 1 to 65535"},
	{"\"port\": 50051", "\"port\": 1, \"address\": \"localhost\"",
	 "c.json:6: listeners[0].address: is \"localhost\", expected an IPv4 or IPv6 address"},
	{"\"port\": 50051", "\"port\": 1, \"authorities\": [\"a\", \"me@b\"]",
	 "c.json:6: listeners[0].authorities[1]: is \"me@b\", expected a host"},
	{"\"port\": 50051", "\"port\": 1, \"authorities\": []",
	 "c.json:6: listeners[0].authorities: has 0 elements, expected 1 to 64"},
	{"\"uids\": [0]", "\"uids\": []",
	 "c.json:7: hosts[0].uids: has 0 elements, expected 1 to 32"},
	{"\"uids\": [0]", "\"uids\": [0, \"root\"]",
	 "c.json:7: hosts[0].uids[1]: is a string, expected"},
	{"\"uids\": [0]", "\"uids\": [4294967295]",
	 "c.json:7: hosts[0].uids[0]: is 4294967295, expected"},
	{"\"uids\": [0]", "\"uids\": [0], \"to_host\": 64",
	 "c.json:7: hosts[0].to_host: is a number, expected a size with its unit as a string"},
	{"\"uids\": [0]", "\"uids\": [0], \"to_host\": \"64MB\"",
	 "c.json:7: hosts[0].to_host: is \"64MB\", expected a size in B, KiB, MiB or GiB"},
	{"\"uids\": [0]", "\"uids\": [0], \"to_host\": \"65GiB\"",
	 "c.json:7: hosts[0].to_host: is \"65GiB\", expected 2MiB to 64GiB"},
	{"\"uids\": [0]", "\"uids\": [0], \"stall_timeout\": \"1ms\"",
	 "c.json:7: hosts[0].stall_timeout: is \"1ms\", expected 10ms to 1h"},
	{"\"echo\", \"uids\"", "\"a b\", \"uids\"",
	 "c.json:7: hosts[0].name: is \"a b\", expected letters"},
	{"\"a.Echo\"", "\"a..Echo\"",
	 "c.json:8: services[0].name: is \"a..Echo\", expected a full service name"},
	{"\"a.Echo\"", "\"/a.Echo\"",
	 "c.json:8: services[0].name: is \"/a.Echo\", expected a full service name"},
	{"\"hosts\": [\"echo\"]", "\"hosts\": [\"echo\"], \"balance\": \"random\"",
	 "c.json:8: services[0].balance: is \"random\", expected one of \"round_robin\", "
	 "\"weighted\""},
	{"\"hosts\": [\"echo\"]", "\"hosts\": [\"echo\"], \"balance\": 3",
	 "c.json:8: services[0].balance: is a number, expected an object"},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"policy\": \"weighted\", \"weights\": [1, 2]}",
	 "c.json:8: services[0].balance.weights: has 2 elements, expected one for each of hosts "
	 "(1)"},
	{"\"hosts\": [\"echo\"]", "\"hosts\": [\"echo\"], \"balance\": {\"weights\": [2]}",
	 "c.json:8: services[0].balance.weights: are nothing to round_robin"},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"policy\": \"consistent_hash\", \"hash\": {\"by\": "
	 "\"metadata\"}}",
	 "c.json:8: services[0].balance.hash: names none, expected the name of a metadata entry"},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"sticky\": {\"by\": \"metadata\", \"key\": "
	 "\"X-User\"}}",
	 "c.json:8: services[0].balance.sticky.key: is no name of one, expected the name of a "
	 "metadata entry, in "
	 "lower"},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"policy\": \"consistent_hash\", \"hash\": {\"by\": "
	 "\"field\", \"key\": \"2.user\"}}",
	 "c.json:8: services[0].balance.hash.key: expected numbers of at most 8 fields"},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"policy\": \"consistent_hash\", \"hash\": {\"by\": "
	 "\"field\", \"key\": \"1.2.3.4.5.6.7.8.9\"}}",
	 "c.json:8: services[0].balance.hash.key: expected numbers of at most 8 fields"},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"hash\": {\"by\": \"connection\"}}",
	 "c.json:8: services[0].balance.hash: stands beside another policy"},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"ejection\": {\"time\": \"10min\"}}",
	 "c.json:8: services[0].balance.ejection: is less than time"},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"ejection\": {\"statuses\": [\"BAD\"]}}",
	 "c.json:8: services[0].balance.ejection.statuses[0]: is \"BAD\", expected one of \"OK\""},
	{"\"hosts\": [\"echo\"]",
	 "\"hosts\": [\"echo\"], \"balance\": {\"ejection\": {\"statuses\": []}}",
	 "c.json:8: services[0].balance.ejection.statuses: has 0 elements, expected 1 to 17"},
	{"\"uids\": [0]", "\"uids\": [0], \"memory_max\": \"1MiB\"",
	 "c.json:7: hosts[0].memory_max: 1MiB is less than linear_bytes_max"},
	{"\"workers\"", "\"eal2\": 1,\n\n\n \"workers\"", "c.json:3: eal2: unknown key"},
	{"\"workers\"", "\"\\u0065al\": {}, \"workers\"",
	 "c.json:3: eal: duplicate key, first given in line 2, expected once"},
	{"\"core\": 0", "\"core\": 0, \"core\": 0, \"core\": 0",
	 "c.json:3: workers[0].core: duplicate key, first given in line 3"},
	{"\"workers\"", "\"bad\\nkey\\u00e9\": 1, \"workers\"",
	 "c.json:3: \"bad\\x0akey\\xc3\\xa9\": unknown key"},
	{"\"workers\"", "\"control\": {\"socket\": \"run/x\"}, \"workers\"",
	 "c.json:3: control.socket: is \"run/x\", expected an absolute path"},
	{"\"workers\"", "\"control\": {\"socket_mode\": \"777\"}, \"workers\"",
	 "c.json:3: control.socket_mode: is \"777\", expected four octal digits"},
	/* placement */
	{"\"core\": 1}]", "\"core\": 0}], \"idle\": {\"mode\": \"poll\"}",
	 "c.json:3: workers[1].core: core 0 is that of workers[0] too"},
	{"\"addresses\"", "\"rx_queues\": 3, \"addresses\"",
	 "c.json:5: ports[0].rx_queues: 3 queues for 2 workers"},
	{"\"addresses\"", "\"tx_queues\": 3, \"addresses\"",
	 "c.json:5: ports[0].tx_queues: 3 queues for 2 workers"},
	{"\"addresses\"", "\"queue_workers\": [2], \"addresses\"",
	 "c.json:5: ports[0].queue_workers[0]: is 2, expected the index of one of 2 workers"},
	{"\"addresses\"", "\"rx_queues\": 2, \"queue_workers\": [1], \"addresses\"",
	 "c.json:5: ports[0].queue_workers: names 1 workers, expected one for each of 2 queues"},
	{"\"addresses\"", "\"queue_workers\": [1, 1], \"addresses\"",
	 "c.json:5: ports[0].queue_workers[1]: worker 1 has queue 0 already"},
	{"\"hosts\": [\"echo\"]", "\"hosts\": [\"echo\"], \"workers\": [2]",
	 "c.json:8: services[0].workers[0]: is 2, expected the index of one of 2 workers"},
	{"\"hosts\": [\"echo\"]", "\"hosts\": [\"echo\"], \"workers\": [1, 1]",
	 "c.json:8: services[0].workers[1]: worker 1 stands here twice"},
	/* names */
	{"\"hosts\": [\"echo\"]", "\"hosts\": [\"nobody\"]",
	 "c.json:8: services[0].hosts[0]: \"nobody\" is no host, expected a name in hosts"},
	{"\"hosts\": [\"echo\"]", "\"hosts\": [\"echo\", \"echo\"]",
	 "c.json:8: services[0].hosts[1]: \"echo\" is named twice"},
	{"\"uids\": [0]}", "\"uids\": [0]}, {\"name\": \"echo\", \"uids\": [1]}",
	 "c.json:7: hosts[1].name: is the name of hosts[0] too"},
	{"\"uids\": [0]", "\"uids\": [7, 7]", "c.json:7: hosts[0].uids[1]: 7 stands here twice"},
	{"\"port\": 50051}",
	 "\"port\": 50051}, {\"name\": \"b\", \"port\": 50051, \"address\": "
	 "\"198.18.0.2\"}",
	 "c.json:6: listeners[1].port: 50051 on this address is taken by listeners[0]"},
	{"\"port\": 50051}", "\"port\": 50051}, {\"name\": \"main\", \"port\": 2}",
	 "c.json:6: listeners[1].name: is the name of listeners[0] too"},
	{"\"port\": 50051", "\"port\": 1, \"address\": \"198.18.0.3\"",
	 "c.json:6: listeners[0].address: belongs to no port"},
	{"\"port\": 50051", "\"port\": 1, \"services\": [\"*\", \"a.Echo\"]",
	 "c.json:6: listeners[0].services[0]: stands beside other names"},
	{"\"port\": 50051", "\"port\": 1, \"services\": [\"a.Eco\"]",
	 "c.json:6: listeners[0].services[0]: \"a.Eco\" is no service"},
	/* ports */
	{"\"net_tap0\",", "\"net_tap1\",",
	 "c.json:4: ports[0].device: does not stand in eal.devices"},
	{"\"net_tap0\",", "\"net_tap\",",
	 "c.json:4: ports[0].device: does not stand in eal.devices"},
	{"\"addresses\"", "\"mtu\": 2048, \"mbuf_room\": \"2176B\", \"addresses\"",
	 "c.json:5: ports[0].mbuf_room: frames of MTU 2048"},
	{"\"addresses\"", "\"mbufs\": 512, \"rx_descriptors\": 512, \"addresses\"",
	 "c.json:5: ports[0].mbufs: 512 buffers do not fill"},
	{"\"addresses\"", "\"gateway\": \"198.19.0.1\", \"addresses\"",
	 "c.json:5: ports[0].gateway: is on none of the port's networks"},
	{"\"addresses\"", "\"gateway\": \"198.18.0.2\", \"addresses\"",
	 "c.json:5: ports[0].gateway: is the port's own address"},
	{"\"198.18.0.2/24\"", "\"198.18.0.2/24\", \"198.18.0.2/16\"",
	 "c.json:5: ports[0].addresses[1]: is ports[0].addresses[0] too"},
	{"\"addresses\"", "\"gateway\": \"2001:2::1\", \"addresses\"",
	 "c.json:5: ports[0].gateway: is IPv6, expected an IPv4 address"},
	{"\"addresses\"", "\"gateway_ipv6\": \"198.18.0.1\", \"addresses\"",
	 "c.json:5: ports[0].gateway_ipv6: is IPv4, expected an IPv6 address"},
	{"\"addresses\"", "\"gateway_ipv6\": \"2001:2::1\", \"addresses\"",
	 "c.json:5: ports[0].gateway_ipv6: is on none of the port's networks"},
	{"\"198.18.0.2/24\"", "\"2001:2::2/64\"], \"mtu\": 1000, \"queue_workers\": [0",
	 "c.json:5: ports[0].mtu: 1000 is too small for IPv6"},
	{"\"198.18.0.2/24\"", "\"127.0.0.1/8\"",
	 "c.json:5: ports[0].addresses[0]: cannot be an interface's"},
	{"\"addresses\"", "\"mac\": \"01:00:5e:00:00:01\", \"addresses\"",
	 "c.json:5: ports[0].mac: is not one of an interface"},
	/* sizes that do not fit together */
	{"\"devices\"", "\"memory\": \"64MiB\", \"devices\"",
	 "c.json:2: eal.memory: 64MiB is too small for the packet buffers"},
	{"\"uids\": [0]", "\"uids\": [0], \"to_host\": \"3MiB\"",
	 "c.json:7: hosts[0].to_host: is no multiple of a hugepage"},
	{"\"uids\": [0]", "\"uids\": [0], \"to_host\": \"16MiB\"",
	 "c.json:7: hosts[0].to_host: 16MiB among 2 workers leaves less than linear_bytes_max "
	 "(16MiB)"},
	{"\"uids\": [0]", "\"uids\": [0], \"to_daemon\": \"2MiB\", \"lane_slots\": 1024",
	 "c.json:7: hosts[0].to_daemon: rings alone take 4MiB"},
	{"\"uids\": [0]", "\"uids\": [0], \"lane_slots\": 48",
	 "c.json:7: hosts[0].lane_slots: is 48, expected a power of two"},
	{"\"uids\": [0]", "\"uids\": [0], \"lane_slots\": 4, \"lane_depth\": 8",
	 "c.json:7: hosts[0].lane_depth: is more than lane_slots"},
	{"\"workers\"", "\"tcp\": {\"rto_min\": \"2s\"}, \"workers\"",
	 "c.json:3: tcp: is out of order"},
	{"\"workers\"", "\"tcp\": {\"rto_min\": \"10ms\"}, \"workers\"",
	 "c.json:3: tcp: is not less than rto_min"},
	{"\"workers\"", "\"tcp\": {\"window_scaling\": false}, \"workers\"",
	 "c.json:3: tcp: needs window scaling"},
	{"\"workers\"", "\"http2\": {\"streams_total_max\": 10}, \"workers\"",
	 "c.json:3: http2: is more than streams_total_max"},
	{"\"workers\"", "\"grpc\": {\"metadata_bytes_max\": \"32KiB\"}, \"workers\"",
	 "c.json:3: grpc.metadata_bytes_max: is more than http2.header_bytes_max"},
	{"\"workers\"", "\"grpc\": {\"message_bytes_max\": \"32MiB\"}, \"workers\"",
	 "c.json:8: services[0]: messages of 32MiB do not fit"},
	/* not JSON at all */
	{"\"port\": 50051}", "\"port\": 50051,}", "c.json:6: not JSON: "},
	{"\"port\": 50051}", "\"port\": 0x10}", "c.json:6: not JSON: "},
	{"\"port\": 50051}", "\"port\": \"\xff\"}", "c.json:6: not JSON: "},
	{"\"port\": 50051}", "\"port\": \"\\u0000\"}", "c.json:6: not JSON: "},
	{"\"port\": 50051}", "\"port\": 99999999999999999999}", "c.json:6: not JSON: "},
};

START_TEST(finding)
{
	char *text = changed(findings[_i].from, findings[_i].to);

	expect_bad(text, findings[_i].finding, NULL);
	free(text);
}
END_TEST

START_TEST(all_at_once_in_order)
{
	expect_bad(
		"{\r\n\"workers\": [{\"core\": 5000}],\r\n\"ports\": 7,\r\n\"hosts\": [{\"name\": "
		"\"\"}],\r\n\"log\":\r\n{\"level\": 3}, \"services\": [\r\n]}",
		"c.json:2: workers[0].core: is 5000", NULL);
	ck_assert(found("c.json:3: ports: is a number, expected an array"));
	ck_assert(found("c.json:4: hosts[0].name: is \"\", expected"));
	ck_assert(found("c.json:4: hosts[0]: key \"uids\" is missing"));
	ck_assert(found("c.json:6: log.level: is a number, expected one of"));
	ck_assert(found("c.json:6: services: has 0 elements, expected 1 to 256"));
	ck_assert(found("c.json:1: key \"listeners\" is missing"));
	for (size_t i = 1; i < rep.count; i++)
		ck_assert_uint_ge(rep.findings[i].line, rep.findings[i - 1].line);
}
END_TEST

/* ---- bounds --------------------------------------------------------------------------------- */

static char *repeat(const char *head, const char *piece, size_t n, const char *tail)
{
	size_t len = strlen(piece);
	char *text = malloc(strlen(head) + n * len + strlen(tail) + 1);
	char *p = stpcpy(text, head);

	for (size_t i = 0; i < n; i++)
		p = stpcpy(p, piece);
	strcpy(p, tail);
	return text;
}

START_TEST(bounds)
{
	char *text;

	text = repeat("", "[", 1000000, "");
	expect_bad(text, "c.json:1: nested too deep, expected at most 16 levels", NULL);
	free(text);
	text = repeat("", "{\"a\":", 100, "");
	expect_bad(text, "c.json:1: nested too deep", NULL);
	free(text);
	text = repeat("[", "1,\n", 70000, "1]");
	expect_bad(text, "c.json:65535: too many values, expected at most 65536", NULL);
	free(text);
	text = repeat("{", " ", CONFIG_FILE_BYTES_MAX, "}");
	expect_bad(text, "c.json: file too large, expected at most 1048576 bytes", NULL);
	free(text);
	/* 60,000 findings, of which some are kept and the rest counted. */
	text = repeat("{\"a\":1", ",\"b\":1", 60000, "}");
	expect_bad(text, "c.json:1: b: duplicate key", NULL);
	ck_assert_uint_eq(rep.count, CONFIG_FINDINGS_MAX);
	ck_assert_uint_gt(rep.dropped, 59000);
	free(text);
	/* Long keys and values are cut in findings. */
	text = repeat("{\"", "k", 100000, "\": 1}");
	ck_assert_int_eq(parse(text, NULL), -SPLIT_E_CONFIG_INVALID);
	for (size_t i = 0; i < rep.count; i++)
		ck_assert_uint_lt(strlen(rep.findings[i].text), 1500);
	free(text);
	expect_bad("", "c.json:1: not JSON", NULL);
	expect_bad("\xef\xbb\xbf{}", "c.json:1: not JSON", NULL);
	expect_bad("[1, 2]", "c.json:1: is an array, expected an object", NULL);
	ck_assert_int_eq(config_parse("{}\0{}", 5, "c.json", NULL, &cfg, &rep),
			 -SPLIT_E_CONFIG_INVALID);
}
END_TEST

/* What follows from a finding is none of its own. */
START_TEST(mistakes_are_told_once)
{
	static const struct {
		const char *from, *to;
	} cases[] = {
		{"[{\"core\": 0}, {\"core\": 1}]", "{\"core\": 0}"},
		{"[\"net_tap0,iface=t\"]", "\"net_tap0,iface=t\""},
		{"[\"198.18.0.2/24\"]", "[\"198.18.0.2\"], \"gateway\": \"198.18.0.1\""},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *text = changed(cases[i].from, cases[i].to);

		ck_assert_int_eq(parse(text, NULL), -SPLIT_E_CONFIG_INVALID);
		ck_assert_msg(rep.count == 1, "%zu: %s", i, rep.findings[rep.count - 1].text);
		free(text);
	}
}
END_TEST

/* The last of two counts, and the tree follows jansson in that also where their shapes differ. */
START_TEST(duplicates_of_other_shape)
{
	char *text =
		changed("\"workers\"", "\"workers\": {\"core\": [1, 2, {\"a\": 3}]}, \"workers\"");

	expect_bad(text, "c.json:3: workers: duplicate key, first given in line 3", NULL);
	ck_assert_uint_eq(rep.count, 1);
	free(text);
}
END_TEST

/* ---- the machine ---------------------------------------------------------------------------- */

START_TEST(machine)
{
	static struct config_machine m;
	char *text;

	memset(m.node_of_core, -1, sizeof(m.node_of_core));
	m.cores[0] = 0x3;
	m.node_of_core[0] = 0;
	m.node_of_core[1] = 1;
	m.nodes = 0x3;
	ck_assert_int_eq(parse(base, &m), 0);
	ck_assert_int_eq(cfg->workers[1].numa_node, 1);
	m.cores[0] = 0x1;
	expect_bad(base, "c.json:3: workers[1].core: core 1 is not there", &m);
	m.cores[0] = 0x3;
	text = changed("\"core\": 0", "\"core\": 0, \"numa_node\": 2");
	expect_bad(text, "c.json:3: workers[0].numa_node: memory node 2 is not there", &m);
	free(text);
	text = changed("\"uids\"", "\"numa_node\": 63, \"uids\"");
	expect_bad(text, "c.json:7: hosts[0].numa_node: memory node 63 is not there", &m);
	free(text);
	text = changed("\"devices\"", "\"main_core\": 1000, \"devices\"");
	expect_bad(text, "c.json:2: eal.main_core: core 1000 is not there", &m);
	free(text);
	ck_assert_int_eq(config_machine_get(&m), 0);
	ck_assert_uint_ne(m.nodes, 0);
}
END_TEST

START_TEST(files)
{
	ck_assert_int_eq(config_load("/nonexistent/x.json", &cfg, &rep), -SPLIT_E_BASE_SYSTEM);
	ck_assert(found("/nonexistent/x.json: cannot be read: No such file"));
	config_report_fini(&rep);
	ck_assert_int_eq(config_load("/dev/zero", &cfg, &rep), -SPLIT_E_BASE_SYSTEM);
	config_report_fini(&rep);
	ck_assert_int_eq(config_load("/", &cfg, &rep), -SPLIT_E_BASE_SYSTEM);
}
END_TEST

START_TEST(balance_in_full)
{
	char *text = changed(
		"\"hosts\": [\"echo\"]",
		"\"hosts\": [\"echo\"], \"balance\": {\"policy\": \"consistent_hash\", "
		"\"weights\": [7], "
		"\"hash\": {\"by\": \"field\", \"key\": \"2.536870911\", \"slots\": 1009}, "
		"\"sticky\": {\"by\": \"metadata\", \"key\": \"x-user\"}, \"locality\": true, "
		"\"subset\": 3, \"slow_start\": \"5s\", "
		"\"ejection\": {\"consecutive\": 5, \"statuses\": [\"UNKNOWN\", \"INTERNAL\"]}}");
	const struct config_balance *b;

	ck_assert_int_eq(parse(text, NULL), 0);
	free(text);
	b = &cfg->services[0].balance;
	ck_assert_int_eq(b->policy, CONFIG_CONSISTENT_HASH);
	ck_assert_uint_eq(b->weights[0], 7);
	ck_assert_uint_eq(b->hash.field_n, 2);
	ck_assert_uint_eq(b->hash.field[0], 2);
	ck_assert_uint_eq(b->hash.field[1], 536870911);
	ck_assert_uint_eq(b->hash.slots, 1009);
	ck_assert_int_eq(b->sticky.by, CONFIG_STICKY_METADATA);
	ck_assert_str_eq(b->sticky.key, "x-user");
	ck_assert(b->locality);
	ck_assert_uint_eq(b->subset, 3);
	ck_assert_uint_eq(b->slow_start_ns, UINT64_C(5000000000));
	ck_assert_uint_eq(b->slow_start_percent, 10);
	ck_assert_uint_eq(b->ejection.consecutive, 5);
	ck_assert_uint_eq(b->ejection.statuses, 1u << 2 | 1u << 13);
	/* What is not given. */
	ck_assert_int_eq(parse(base, NULL), 0);
	b = &cfg->services[0].balance;
	ck_assert_int_eq(b->policy, CONFIG_ROUND_ROBIN);
	ck_assert_uint_eq(b->weights_n, 0);
	ck_assert_uint_eq(b->ejection.consecutive, 0);
	ck_assert_uint_eq(b->ejection.statuses, 1u << 2 | 1u << 13 | 1u << 14 | 1u << 15);
	ck_assert_uint_eq(cfg->hosts[0].share, 100);
	ck_assert_uint_eq(cfg->hosts[0].memory_max, 0);
}
END_TEST

/* ---- reloading ---- */

static char restarts[512];

static void on_restart(void *ctx, const char *path)
{
	(void)ctx;
	strcat(restarts, path);
	strcat(restarts, " ");
}

/* What config_succeed says of `base` with that change; the successor stays in *out. */
static int succeed(const char *from, const char *to, struct config **out)
{
	struct config *running;
	char *text = changed(from, to);
	int err;

	ck_assert_int_eq(parse(base, NULL), 0);
	running = cfg;
	cfg = NULL;
	ck_assert_msg(parse(text, NULL) == 0, "%s", rep.count ? rep.findings[0].text : "?");
	free(text);
	restarts[0] = '\0';
	err = config_succeed(running, cfg, on_restart, NULL);
	config_free(running); /* nothing of it may be in the other */
	*out = cfg;
	return err;
}

START_TEST(reload_keeps_indices)
{
	struct config *c;

	ck_assert_int_eq(
		succeed("\"hosts\": [{\"name\": \"echo\", \"uids\": [0]}],\n",
			"\"hosts\": [{\"name\": \"new\", \"uids\": [1]}, {\"name\": \"echo\", "
			"\"uids\": [2]}],\n",
			&c),
		0);
	ck_assert_uint_eq(c->hosts_n, 2);
	ck_assert_str_eq(c->hosts[0].name, "echo");
	ck_assert_uint_eq(c->hosts[0].uids[0], 2);
	ck_assert_str_eq(c->hosts[1].name, "new");
	ck_assert_uint_eq(c->services[0].hosts[0], 0); /* was 1 in the file */

	ck_assert_int_eq(succeed("\"services\": [{\"name\": \"a.Echo\", \"hosts\": [\"echo\"]}]",
				 "\"services\": [{\"name\": \"b.New\", \"hosts\": [\"echo\"], "
				 "\"authorities\": "
				 "[\"x\"]}]",
				 &c),
			 0);
	ck_assert_uint_eq(c->services_n, 2);
	ck_assert(c->services[0].gone && !c->services[1].gone);
	ck_assert_int_eq(config_service_find(c, "a.Echo"), -1);
	ck_assert_int_eq(config_service_find(c, "b.New"), 1);

	ck_assert_int_eq(
		succeed("\"hosts\": [{\"name\": \"echo\", \"uids\": [0]}],\n \"services\": "
			"[{\"name\": "
			"\"a.Echo\", \"hosts\": [\"echo\"]}]",
			"\"hosts\": [{\"name\": \"other\", \"uids\": [0]}],\n \"services\": "
			"[{\"name\": \"a.Echo\", \"hosts\": [\"other\"]}]",
			&c),
		0);
	ck_assert(c->hosts[0].gone);
	ck_assert_int_eq(config_host_find(c, "echo"), -1);
	ck_assert_uint_eq(c->services[0].hosts[0], 1);
}
END_TEST

START_TEST(reload_names_what_needs_a_restart)
{
	static const struct {
		const char *from, *to, *restarts;
	} cases[] = {
		{"\"device\"", "\"mtu\": 1400, \"device\"", "ports[0].mtu "},
		{"{\"core\": 1}", "{\"core\": 2}", "workers[1].core "},
		{", {\"core\": 1}", "", "workers "},
		{"50051", "50052", "listeners[0].port "},
		{"\"hosts\"",
		 "\"tcp\": {\"sack\": false}, \"http2\": {\"memory\": \"300MiB\", "
		 "\"keepalive\": \"9s\"}, \"hosts\"",
		 "tcp.sack http2.memory "},
		{"[\"echo\"]}", "[\"echo\"], \"manifest\": \"/m\"}", "services[0].manifest "},
		{"\"hosts\"",
		 "\"log\": {\"level\": \"debug\"}, \"http2\": {\"age_max\": \"1h\"}, \"grpc\": "
		 "{\"deadline_max\": \"5s\"}, \"idle\": {\"spin\": \"1us\"}, \"hosts\"",
		 ""},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct config *c;
		int err = succeed(cases[i].from, cases[i].to, &c);

		ck_assert_str_eq(restarts, cases[i].restarts);
		ck_assert_int_eq(err, cases[i].restarts[0] ? -SPLIT_E_CONFIG_INVALID : 0);
	}
	ck_assert(config_key_is_live("hosts[3].uids") && config_key_is_live("http2.pings.burst"));
	ck_assert(!config_key_is_live("http2") && !config_key_is_live("eal.memory"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config");
	TCase *tcase = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, balance_in_full);
	tcase_add_test(tcase, units);
	tcase_add_test(tcase, addresses);
	tcase_add_test(tcase, defaults);
	tcase_add_test(tcase, values);
	tcase_add_test(tcase, authorities);
	tcase_add_test(tcase, certificates);
	tcase_add_loop_test(tcase, finding, 0, (int)ARRAY_LEN(findings));
	tcase_add_test(tcase, all_at_once_in_order);
	tcase_add_test(tcase, bounds);
	tcase_add_test(tcase, duplicates_of_other_shape);
	tcase_add_test(tcase, mistakes_are_told_once);
	tcase_add_test(tcase, machine);
	tcase_add_test(tcase, files);
	tcase_add_test(tcase, reload_keeps_indices);
	tcase_add_test(tcase, reload_names_what_needs_a_restart);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
