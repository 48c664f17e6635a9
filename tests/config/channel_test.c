/* channels[]: where calls out of handlers go. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

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

/* A small good document with these members of one channel beside its name. */
static int parse(const char *members)
{
	char *text = NULL;
	int r;

	ck_assert_int_ge(
		asprintf(&text,
			 "{\"eal\": {\"devices\": [\"net_tap0,iface=t\"]},\n"
			 " \"workers\": [{\"core\": 0}],\n"
			 " \"ports\": [{\"name\": \"p0\", \"device\": \"net_tap0\",\n"
			 "   \"addresses\": [\"198.18.0.2/24\"]}],\n"
			 " \"listeners\": [{\"name\": \"main\", \"port\": 50051}],\n"
			 " \"hosts\": [{\"name\": \"echo\", \"uids\": [0]}],\n"
			 " \"services\": [{\"name\": \"a.Echo\", \"hosts\": [\"echo\"]}],\n"
			 " \"channels\": [{\"name\": \"out\", %s}]}\n",
			 members),
		0);
	config_report_fini(&rep);
	config_free(cfg);
	cfg = NULL;
	r = config_parse(text, strlen(text), "c.json", NULL, &cfg, &rep);
	free(text);
	return r;
}

static const struct config_channel *good(const char *members)
{
	int r = parse(members);

	ck_assert_msg(r == 0, "%s: %s", members, rep.count > 0 ? rep.findings[0].text : "");
	return &cfg->channels[0];
}

static void bad(const char *members, const char *text)
{
	ck_assert_int_eq(parse(members), -SPLIT_E_CONFIG_INVALID);
	for (size_t i = 0; i < rep.count; i++)
		if (strstr(rep.findings[i].text, text) != NULL)
			return;
	ck_abort_msg("%s: expected \"%s\", got \"%s\"", members, text, rep.findings[0].text);
}

START_TEST(addresses)
{
	static const uint8_t v4[4] = {198, 18, 0, 10}, v6[2] = {0x20, 0x01};
	const struct config_channel *ch =
		good("\"target\": \"198.18.0.9:50051,198.18.0.10:1,[2001:db8::9]:65535\"");

	ck_assert(!config_channel_is_local(ch));
	ck_assert_uint_eq(ch->addresses_n, 3);
	ck_assert_uint_eq(ch->addresses[0].port, 50051);
	ck_assert_uint_eq(ch->addresses[1].port, 1);
	ck_assert_mem_eq(ch->addresses[1].address.bytes, v4, 4);
	ck_assert_uint_eq(ch->addresses[2].address.family, 6);
	ck_assert_mem_eq(ch->addresses[2].address.bytes, v6, 2);
	ck_assert_uint_eq(ch->addresses[2].port, 65535);
	ck_assert_str_eq(ch->authority, "198.18.0.9:50051");
	ck_assert_str_eq(ch->host, "");
}
END_TEST

START_TEST(names)
{
	const struct config_channel *ch =
		good("\"target\": \"backend-1.example:443\", \"authority\": \"shop.example\"");

	ck_assert_uint_eq(ch->addresses_n, 0);
	ck_assert_str_eq(ch->host, "backend-1.example");
	ck_assert_uint_eq(ch->port, 443);
	ck_assert_str_eq(ch->authority, "shop.example");
	ch = good("\"target\": \"local\"");
	ck_assert(config_channel_is_local(ch));
	ck_assert_str_eq(ch->authority, "");
}
END_TEST

START_TEST(targets_bad)
{
	static const char *const targets[] = {
		"198.18.0.9",   "198.18.0.9:0",      "198.18.0.9:65536", "198.18.0.9:",
		":50051",       "2001:db8::9:50051", "[2001:db8::9]",    "0.0.0.0:50051",
		"198.18.0:501", "a.example",         "a.example:x",      "a.example:1,b.example:1",
		"a/b:1",        "198.18.0.9:1,",     "198.18.0.256:1",   ",",
	};

	for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
		char text[128];

		snprintf(text, sizeof(text), "\"target\": \"%s\"", targets[i]);
		bad(text, "is no target");
	}
	bad("\"target\": \"198.18.0.9:1,198.18.0.9:1\"", "twice");
}
END_TEST

START_TEST(retries)
{
	const struct config_channel *ch =
		good("\"target\": \"a:1\", \"retry\": {\"attempts_max\": 4, \"statuses\": "
		     "[\"UNAVAILABLE\", \"ABORTED\"], \"token_ratio\": 500}");

	ck_assert_uint_eq(ch->retry.attempts_max, 4);
	ck_assert_uint_eq(ch->retry.statuses, 1u << 14 | 1u << 10);
	ck_assert_uint_eq(ch->retry.token_ratio_milli, 500);
	ck_assert_uint_eq(ch->retry.tokens_max, 10);
	ch = good("\"target\": \"a:1\"");
	ck_assert_uint_eq(ch->retry.attempts_max, 1);
	ck_assert_uint_eq(ch->retry.statuses, 1u << 14);
	bad("\"target\": \"a:1\", \"retry\": {\"attempts_max\": 6}", "attempts_max");
	bad("\"target\": \"a:1\", \"retry\": {\"backoff\": \"2s\"}", "backoff_max");
}
END_TEST

START_TEST(contradictions)
{
	bad("\"target\": \"a:1\", \"tls\": {\"name\": \"b\"}", "has no ca");
	bad("\"target\": \"a:1\", \"tls\": {\"ca\": \"ca.pem\"}", "no absolute path");
	bad("\"target\": \"a:1\", \"tls\": {\"ca\": \"system\", \"cert\": \"/c\"}",
	    "expected both");
	bad("\"target\": \"a:1\", \"health_service\": \"x\"", "without health");
	bad("\"target\": \"198.18.0.9:1\", \"balance\": {\"policy\": \"weighted\", \"weights\": "
	    "[1, 2]}",
	    "one for each address");
	(void)good(
		"\"target\": \"198.18.0.9:1,198.18.0.8:1\", \"balance\": {\"policy\": "
		"\"weighted\", \"weights\": [1, 2]}, \"health\": true, \"health_service\": \"x\", "
		"\"tls\": {\"ca\": \"system\"}");
	ck_assert_uint_eq(cfg->channels[0].balance.weights[1], 2);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("config/channel");
	TCase *t = tcase_create("channel");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, addresses);
	tcase_add_test(t, names);
	tcase_add_test(t, targets_bad);
	tcase_add_test(t, retries);
	tcase_add_test(t, contradictions);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
