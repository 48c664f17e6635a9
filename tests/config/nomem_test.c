/* Every allocation of a load fails once, jansson's too: the load must say so, hold nothing back and
 * never make a configuration of half a file. Leaks are ASan's to see. */
#include <check.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

static const char good[] = "{\"eal\": {\"devices\": [\"net_tap0,iface=t\"], \"args\": [\"--x\"]},"
			   "\"workers\": [{\"core\": 0}], \"ports\": [{\"name\": \"p0\","
			   "\"device\": \"net_tap0\", \"addresses\": [\"198.18.0.2/24\"]}],"
			   "\"listeners\": [{\"name\": \"main\", \"p\\u006frt\": 50051}],"
			   "\"hosts\": [{\"name\": \"echo\", \"uids\": [0]}],"
			   "\"services\": [{\"name\": \"a.Echo\", \"hosts\": [\"echo\"]}]}";
static const char bad[] =
	"{\"workers\": [{\"core\": 0, \"core\": -1}, 7], \"ports\": {}, \"x\": 1}";

static long countdown = -1; /* the allocation that fails; negative: none */

static bool fails_now(void)
{
	return countdown >= 0 && countdown-- == 0;
}

/* The linker sends config's calls here (--wrap). */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
int __wrap_asprintf(char **out, const char *fmt, ...);

void *__wrap_malloc(size_t bytes)
{
	return fails_now() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
	return fails_now() ? NULL : __real_calloc(n, bytes);
}

int __wrap_asprintf(char **out, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (fails_now())
		return -1;
	va_start(ap, fmt);
	n = vasprintf(out, fmt, ap);
	va_end(ap);
	return n;
}

/* jansson can do without some of what it asks for; then nothing may be missing. */
static bool is_whole(const struct config *cfg)
{
	return cfg != NULL && cfg->eal.devices_n == 1 && cfg->eal.args_n == 1 &&
	       cfg->workers_n == 1 && cfg->ports_n == 1 && cfg->ports[0].addresses_n == 1 &&
	       cfg->listeners_n == 1 && cfg->listeners[0].port == 50051 && cfg->hosts_n == 1 &&
	       cfg->services_n == 1 && cfg->services[0].hosts_n == 1;
}

/* Runs with each allocation failing in turn; returns how many there were. */
static long each(const char *text, int rc_whole)
{
	for (long n = 0;; n++) {
		struct config_report rep;
		struct config *cfg;
		bool jansson_said_syntax, whole, reached;
		int rc;

		config_report_init(&rep);
		countdown = n;
		rc = config_parse(text, strlen(text), "c.json", NULL, &cfg, &rep);
		reached = countdown < 0;
		countdown = -1; /* Check allocates as well */
		ck_assert((rc == 0) == (cfg != NULL));
		/* jansson takes some of its own failures for an invalid token. */
		jansson_said_syntax =
			rep.count == 1 && strstr(rep.findings[0].text, "not JSON") != NULL;
		whole = is_whole(cfg);
		config_report_fini(&rep);
		config_free(cfg);
		if (!reached) {
			ck_assert_int_eq(rc, rc_whole);
			return n;
		}
		ck_assert_msg(rc == -SPLIT_E_BASE_NOMEM || (rc == 0 && whole) ||
				      (rc == -SPLIT_E_CONFIG_INVALID && jansson_said_syntax),
			      "allocation %ld failed, result %d", n, rc);
	}
}

START_TEST(each_allocation_once)
{
	json_set_alloc_funcs(__wrap_malloc, free);
	ck_assert_int_gt(each(good, 0), 40);
	ck_assert_int_gt(each(bad, -SPLIT_E_CONFIG_INVALID), 20);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config nomem");
	TCase *tcase = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_test(tcase, each_allocation_once);
	tcase_set_timeout(tcase, 60);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
