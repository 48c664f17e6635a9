/* The examples as processes, against a daemon that the test plays: examples_test ECHO GREETER. */
#include <check.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "echo.pb-c.h"
#include "greeter.pb-c.h"
#include "tests/host-lib/harness.h"

static char **programs;
static struct harness h;
static struct hcall call;
static pid_t pid;
static int out_fd;

static void example_start(const char *program)
{
	struct endpoint_config config = harness_config();
	char line[16] = {0};
	int fds[2];

	harness_init_remote(&h, &config);
	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		(void)dup2(fds[1], STDOUT_FILENO);
		execl(program, program, "--socket", h.path, "--name", "test", "--workers", "2",
		      "--cores", "0", (char *)NULL);
		_exit(127);
	}
	close(fds[1]);
	out_fd = fds[0];
	harness_accept(&h);
	ck_assert_uint_eq(h.host_workers, 2);
	ck_assert_int_eq(read(out_fd, line, 9), 9);
	ck_assert_str_eq(line, "attached\n");
}

static void example_end(void)
{
	int status;

	hcall_free(&call);
	kill(pid, SIGTERM);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		(void)harness_poll(&h);
		sched_yield();
	}
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	close(out_fd);
	harness_drop(&h, false);
	harness_fini(&h);
}

static void echo_one(size_t payload, uint32_t reply_bytes, uint32_t busy_us)
{
	Split__Examples__EchoMessage in = SPLIT__EXAMPLES__ECHO_MESSAGE__INIT, *out;
	struct hsend s = {.method = "split.examples.Echo/Unary", .message = &in.base};
	uint8_t *bytes = malloc(payload + 1);
	uint64_t start = clock_ns();
	size_t want = reply_bytes != 0 ? reply_bytes : payload;

	for (size_t i = 0; i < payload; i++)
		bytes[i] = (uint8_t)(i * 31 + payload);
	in.payload = (ProtobufCBinaryData){payload, bytes};
	in.reply_bytes = reply_bytes;
	in.busy_us = busy_us;
	hcall_free(&call);
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, 0);
	ck_assert_uint_ge(clock_ns() - start, busy_us * CLOCK_NS_PER_US);
	out = split__examples__echo_message__unpack(NULL, call.reply_bytes, call.reply);
	ck_assert_ptr_nonnull(out);
	ck_assert_uint_eq(out->payload.len, want);
	for (size_t i = 0; i < want; i++)
		ck_assert_uint_eq(out->payload.data[i], reply_bytes != 0 ? (uint8_t)i : bytes[i]);
	split__examples__echo_message__free_unpacked(out, NULL);
	free(bytes);
}

START_TEST(echo)
{
	static const size_t sizes[] = {0, 1, 63, 64, 65, 66, 500, 1024, 49152, 300000};

	example_start(programs[0]);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		echo_one(sizes[i], 0, 0);
		echo_one(sizes[i], (uint32_t)sizes[i], 0);
		echo_one(3, (uint32_t)sizes[i], 0);
	}
	echo_one(10, 0, 20000);
	example_end();
}
END_TEST

START_TEST(echo_too_much)
{
	Split__Examples__EchoMessage in = SPLIT__EXAMPLES__ECHO_MESSAGE__INIT;
	struct hsend s = {.method = "split.examples.Echo/Unary", .message = &in.base};

	example_start(programs[0]);
	in.reply_bytes = UINT32_MAX;
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_INVALID_ARGUMENT);
	in.reply_bytes = 2 << 20; /* more than the segment has */
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, SPLIT_RESOURCE_EXHAUSTED);
	example_end();
}
END_TEST

static void greet(const char *name, const char *expected)
{
	Split__Examples__HelloRequest in = SPLIT__EXAMPLES__HELLO_REQUEST__INIT;
	Split__Examples__HelloReply *out;
	struct hsend s = {.method = "split.examples.Greeter/SayHello", .message = &in.base};

	in.name = (char *)(uintptr_t)name;
	hcall_free(&call);
	ck_assert_int_eq(harness_send(&h, &call, &s), 0);
	harness_wait(&h, &call);
	out = split__examples__hello_reply__unpack(NULL, call.reply_bytes, call.reply);
	ck_assert_ptr_nonnull(out);
	ck_assert_str_eq(out->message, expected);
	split__examples__hello_reply__free_unpacked(out, NULL);
}

START_TEST(greeter)
{
	example_start(programs[1]);
	greet("Ada", "Hello, Ada!");
	greet("", "Hello, world!");
	example_end();
}
END_TEST

START_TEST(usage)
{
	static const char *const wrong[] = {"--workers=x", "--cores=1-",     "--cores=3-2",
					    "--cores=",    "--workers=1000", "--nonsense",
					    "extra"};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		int status;

		pid = fork();
		if (pid == 0) {
			execl(programs[0], programs[0], wrong[i], (char *)NULL);
			_exit(127);
		}
		waitpid(pid, &status, 0);
		ck_assert_int_eq(WEXITSTATUS(status), 2);
	}
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("examples");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	if (argc != 3)
		return 2;
	programs = argv + 1;
	tcase_set_timeout(t, 60);
	tcase_add_test(t, echo);
	tcase_add_test(t, echo_too_much);
	tcase_add_test(t, greeter);
	tcase_add_test(t, usage);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
