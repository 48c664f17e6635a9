/* splitctl: command line, the parsers of what the telemetry socket says, a client against a server
 * of the test's own, and the tables. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/ctl.h"

static char error[256];
static struct ctl_options options;

static bool parse(int argc, const char **argv)
{
	error[0] = '\0';
	return ctl_options_parse(argc, (char **)argv, &options, error, sizeof(error));
}

#define PARSE(...)                                                                                 \
	parse((int)(sizeof((const char *[]){"splitctl", __VA_ARGS__}) / sizeof(char *)),           \
	      (const char *[]){"splitctl", __VA_ARGS__, NULL})

START_TEST(options_are_understood)
{
	ck_assert(PARSE("stats"));
	ck_assert_int_eq(options.command, CTL_STATS);
	ck_assert_str_eq(options.prefix, "splitd");
	ck_assert(!options.json && !options.all && options.interval_s == 0);
	ck_assert(PARSE("-p", "other", "--json", "stats", "-a", "-l", "net", "-i", "5"));
	ck_assert_str_eq(options.prefix, "other");
	ck_assert_str_eq(options.layer, "net");
	ck_assert(options.json && options.all);
	ck_assert_uint_eq(options.interval_s, 5);
	ck_assert(PARSE("endpoints", "--socket=/x"));
	ck_assert_int_eq(options.command, CTL_ENDPOINTS);
	ck_assert_str_eq(options.socket, "/x");
	ck_assert(PARSE("services"));
	ck_assert_int_eq(options.command, CTL_SERVICES);
	ck_assert(PARSE("drain", "echo", "--json"));
	ck_assert_int_eq(options.command, CTL_DRAIN);
	ck_assert_str_eq(options.host, "echo");
	ck_assert(PARSE("undrain", "7"));
	ck_assert_int_eq(options.command, CTL_UNDRAIN);
	ck_assert_str_eq(options.host, "7");
	ck_assert(PARSE("version"));
	ck_assert(options.command == CTL_VERSION && !options.only_version);
	ck_assert(PARSE("--version"));
	ck_assert(options.only_version);
	ck_assert(PARSE("--help"));
	ck_assert_int_eq(options.command, CTL_HELP);
}
END_TEST

START_TEST(bad_options_are_named)
{
	ck_assert(!PARSE("frobnicate"));
	ck_assert_ptr_nonnull(strstr(error, "frobnicate"));
	ck_assert_ptr_nonnull(strstr(error, "placement"));
	ck_assert_ptr_nonnull(strstr(error, "decode"));
	ck_assert(!PARSE("drain"));
	ck_assert_ptr_nonnull(strstr(error, "drain"));
	ck_assert(!PARSE("drain", "echo", "more"));
	ck_assert(!PARSE("stats", "more"));
	ck_assert_ptr_nonnull(strstr(error, "more"));
	ck_assert(!PARSE("--bogus", "stats"));
	ck_assert_ptr_nonnull(strstr(error, "--bogus"));
	ck_assert(!PARSE("stats", "-i", "0"));
	ck_assert(!PARSE("stats", "-i", "1x"));
	ck_assert(!PARSE("stats", "-i", "-1"));
	ck_assert(!PARSE("stats", "-i"));
	ck_assert(!parse(1, (const char *[]){"splitctl", NULL}));
	ck_assert_ptr_nonnull(strstr(error, "no command"));
}
END_TEST

START_TEST(socket_path_follows_the_prefix)
{
	char path[128];

	ck_assert_int_eq(ctl_socket_path("splitd", path, sizeof(path)), 0);
	ck_assert_ptr_nonnull(strstr(path, "/dpdk/splitd/dpdk_telemetry.v2"));
	ck_assert_int_ne(ctl_socket_path("", path, sizeof(path)), 0);
	ck_assert_int_ne(ctl_socket_path("../x", path, sizeof(path)), 0);
	ck_assert_int_ne(ctl_socket_path("splitd", path, 16), 0);
}
END_TEST

static int greeting(const char *text)
{
	size_t max;
	int pid;

	return ctl_parse_greeting(text, strlen(text), &pid, &max);
}

START_TEST(greetings_are_checked)
{
	ck_assert_int_eq(greeting("{\"version\":\"DPDK\",\"pid\":7,\"max_output_len\":16384}"), 0);
	ck_assert_int_ne(greeting(""), 0);
	ck_assert_int_ne(greeting("{}"), 0);
	ck_assert_int_ne(greeting("[7]"), 0);
	ck_assert_int_ne(greeting("{\"pid\":\"7\",\"max_output_len\":16384}"), 0);
	ck_assert_int_ne(greeting("{\"pid\":-7,\"max_output_len\":16384}"), 0);
	ck_assert_int_ne(greeting("{\"pid\":7,\"max_output_len\":0}"), 0);
	ck_assert_int_ne(greeting("{\"pid\":7,\"max_output_len\":99999999999}"), 0);
	ck_assert_int_ne(greeting("{\"pid\":7,\"max_output_len\":16384"), 0);
}
END_TEST

static int answer(const char *text, const char *request)
{
	json_t *value;
	int result = ctl_parse_answer(text, strlen(text), request, &value);

	ck_assert((result == 0) == (value != NULL));
	json_decref(value);
	return result;
}

START_TEST(answers_are_checked)
{
	ck_assert_int_eq(answer("{\"/splitd/info\":{\"pid\":1}}", "/splitd/info"), 0);
	ck_assert_int_eq(answer("{\"/splitd/port\":{}}", "/splitd/port,0"), 0);
	ck_assert_int_ne(answer("{\"/splitd/info\":null}", "/splitd/info"), 0);
	ck_assert_int_ne(answer("{\"/splitd/other\":{}}", "/splitd/info"), 0);
	ck_assert_int_ne(answer("{\"/splitd/info\":{},\"b\":1}", "/splitd/info"), 0);
	ck_assert_int_ne(answer("{\"/splitd/info\":{", "/splitd/info"), 0);
	ck_assert_int_ne(answer("7", "/splitd/info"), 0);
	ck_assert_int_ne(answer("", "/splitd/info"), 0);
}
END_TEST

/* A channel's name may have 63 bytes. */
#define LONG_LAYER "channel_abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz_balance"

/* A telemetry server in a child: greets, then answers each request from a table. */
static const char *const served[][2] = {
	{"/splitd/info", "{\"/splitd/info\":{\"version\":\"9\",\"state\":\"running\",\"workers\":2,"
			 "\"ports\":1,\"uptime_ns\":3000000000}}"},
	{"/splitd/layers", "{\"/splitd/layers\":[\"net\",\"" LONG_LAYER "\",\"control\"]}"},
	{"/splitd/counters," LONG_LAYER ",0", "{\"/splitd/counters\":{\"picked\":1}}"},
	{"/splitd/counters," LONG_LAYER ",1", "{\"/splitd/counters\":{\"picked\":0}}"},
	{"/splitd/counters,net,0", "{\"/splitd/counters\":{\"rx\":5,\"drops\":0}}"},
	{"/splitd/counters,net,1", "{\"/splitd/counters\":{\"rx\":7,\"drops\":0}}"},
	{"/splitd/counters,control", "{\"/splitd/counters\":{\"attach_accepted\":1}}"},
	{"/splitd/gauges,0", "{\"/splitd/gauges\":{\"calls\":1}}"},
	{"/splitd/gauges,1", "{\"/splitd/gauges\":{\"calls\":2}}"},
	{"/splitd/endpoints", "{\"/splitd/endpoints\":[3,4]}"},
	{"/splitd/endpoint,3", "{\"/splitd/endpoint\":{\"id\":3,\"name\":\"echo\"}}"},
	{"/splitd/endpoint,4", "{\"/splitd/endpoint\":null}"}, /* gone meanwhile */
	{"/splitd/port,0", "{\"/splitd/port\":{\"name\":\"p0\",\"mtu\":1500}}"},
};

static char path[108];
static pid_t server;

static void server_run(int listener, const char *first)
{
	int fd = accept(listener, NULL, NULL);
	char request[256];
	ssize_t n;

	send(fd, first, strlen(first), 0);
	while ((n = recv(fd, request, sizeof(request) - 1, 0)) > 0) {
		const char *reply = "{}";

		request[n] = '\0';
		for (size_t i = 0; i < sizeof(served) / sizeof(served[0]); i++)
			if (strcmp(served[i][0], request) == 0)
				reply = served[i][1];
		send(fd, reply, strlen(reply), MSG_NOSIGNAL);
	}
	_exit(0);
}

static void server_start(const char *first)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	snprintf(path, sizeof(path), "/tmp/ctl_test.%d.sock", (int)getpid());
	unlink(path);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	server = fork();
	if (server == 0)
		server_run(listener, first);
	close(listener);
}

static void server_end(void)
{
	waitpid(server, NULL, 0);
	unlink(path);
}

static char *shown(void (*show)(FILE *, const json_t *, bool), const json_t *value, bool all)
{
	char *text = NULL;
	size_t bytes;
	FILE *to = open_memstream(&text, &bytes);

	show(to, value, all);
	fclose(to);
	return text;
}

static void endpoints_show(FILE *to, const json_t *value, bool all)
{
	(void)all;
	ctl_show_endpoints(to, value);
}

START_TEST(stats_are_gathered_and_shown)
{
	struct ctl_client c;
	json_t *stats, *rx;
	char *text;

	server_start("{\"pid\":42,\"max_output_len\":16384}");
	ck_assert_int_eq(ctl_open(&c, path), 0);
	ck_assert_int_eq(c.pid, 42);
	ck_assert_int_eq(ctl_gather_stats(&c, NULL, &stats), 0);
	rx = json_object_get(json_object_get(json_object_get(stats, "layers"), "net"), "rx");
	ck_assert_int_eq(json_integer_value(json_object_get(rx, "total")), 12);
	ck_assert_uint_eq(json_array_size(json_object_get(rx, "workers")), 2);
	text = shown(ctl_show_stats, stats, false);
	ck_assert_ptr_nonnull(strstr(text, "splitd 9, pid 42, running, up 3 s"));
	ck_assert_ptr_nonnull(strstr(text, "net.rx"));
	ck_assert_ptr_nonnull(strstr(text, "control.attach_accepted"));
	ck_assert_ptr_nonnull(strstr(text, LONG_LAYER ".picked"));
	ck_assert_ptr_nonnull(strstr(text, "now.calls"));
	ck_assert_ptr_null(strstr(text, "net.drops"));
	free(text);
	text = shown(ctl_show_stats, stats, true);
	ck_assert_ptr_nonnull(strstr(text, "net.drops"));
	free(text);
	json_decref(stats);
	ck_assert_int_ne(ctl_gather_stats(&c, "nonsense", &stats), 0);
	ck_assert_ptr_null(stats);
	ck_assert_str_eq(c.error,
			 "no layer \"nonsense\", expected one of net, " LONG_LAYER ", control");
	ctl_close(&c);
	server_end();
}
END_TEST

START_TEST(endpoints_and_ports_are_gathered)
{
	struct ctl_client c;
	json_t *list;
	char *text;

	server_start("{\"pid\":42,\"max_output_len\":16384}");
	ck_assert_int_eq(ctl_open(&c, path), 0);
	ck_assert_int_eq(ctl_gather_endpoints(&c, &list), 0);
	ck_assert_uint_eq(json_array_size(list), 1);
	text = shown(endpoints_show, list, false);
	ck_assert_ptr_nonnull(strstr(text, "echo"));
	free(text);
	json_decref(list);
	ck_assert_int_eq(ctl_gather_ports(&c, &list), 0);
	ck_assert_uint_eq(json_array_size(list), 1);
	json_decref(list);
	ctl_close(&c);
	server_end();
}
END_TEST

START_TEST(what_is_no_telemetry_socket_is_refused)
{
	struct ctl_client c;

	ck_assert_int_eq(ctl_open(&c, "/nonexistent/socket"), -SPLIT_E_BASE_SYSTEM);
	ck_assert_ptr_nonnull(strstr(c.error, "is splitd running?"));
	server_start("SSH-2.0-hello");
	ck_assert_int_eq(ctl_open(&c, path), -SPLIT_E_BASE_INVALID);
	ck_assert_ptr_nonnull(strstr(c.error, "not a DPDK telemetry socket"));
	server_end();
}
END_TEST

/* A long text moves the columns behind it, in every row. */
START_TEST(columns_are_as_wide_as_their_text)
{
	json_t *rows = json_loads("[{\"what\":\"method\",\"name\":\"h "
				  "a.very.long.package.Service/WithALongMethod\",\"core\":1},"
				  "{\"what\":\"host\",\"name\":\"h\",\"core\":23}]",
				  0, NULL);
	char *text = NULL, *first, *second;
	size_t bytes;
	FILE *to = open_memstream(&text, &bytes);

	ctl_show_placement(to, rows);
	fclose(to);
	first = strchr(text, '\n') + 1;
	second = strchr(first, '\n') + 1;
	ck_assert_int_eq(strstr(first, "   1") + 2 - first, strstr(second, "23") - second);
	ck_assert_int_eq(strstr(text, "core") + 2 - text, strstr(second, "23") - second);
	free(text);
	json_decref(rows);
}
END_TEST

/* Odd values may be shown as "-", but never crash. */
START_TEST(odd_values_are_shown_as_dashes)
{
	json_t *odd = json_loads("[{\"id\":\"x\",\"name\":[],\"pid\":null},7,null,\"y\"]", 0, NULL);
	json_t *stats =
		json_loads("{\"info\":7,\"layers\":{\"a\":{\"b\":7}},\"gauges\":[]}", 0, NULL);
	char *text = shown(endpoints_show, odd, false);

	ck_assert_ptr_nonnull(strstr(text, "-"));
	free(text);
	text = shown(ctl_show_stats, stats, true);
	ck_assert_ptr_nonnull(strstr(text, "splitd -"));
	free(text);
	json_decref(odd);
	json_decref(stats);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ctl");
	TCase *tc = tcase_create("ctl");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, options_are_understood);
	tcase_add_test(tc, bad_options_are_named);
	tcase_add_test(tc, socket_path_follows_the_prefix);
	tcase_add_test(tc, greetings_are_checked);
	tcase_add_test(tc, answers_are_checked);
	tcase_add_test(tc, stats_are_gathered_and_shown);
	tcase_add_test(tc, endpoints_and_ports_are_gathered);
	tcase_add_test(tc, what_is_no_telemetry_socket_is_refused);
	tcase_add_test(tc, columns_are_as_wide_as_their_text);
	tcase_add_test(tc, odd_values_are_shown_as_dashes);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
