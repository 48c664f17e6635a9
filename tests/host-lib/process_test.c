/* A host in a process of its own: process_test SERVICE [PREFIX…] starts it, under a prefix such as
 * valgrind when one is given. Calls of every kind, loss and return of the daemon, SIGSTOP, SIGTERM.
 */
#include <check.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/host-lib/harness.h"
#include "tests/host-lib/service.h"

#define OPEN 24

static char **command; /* prefix and service */
static int command_n;
static struct harness h;
static struct hcall calls[OPEN];
static pid_t pid;

static void service_start(void)
{
	struct endpoint_config config = harness_config();
	char *args[16];

	config.calls_max = OPEN + 8;
	config.request_slots = config.completion_slots = 16;
	harness_init_remote(&h, &config);
	for (int i = 0; i < command_n; i++)
		args[i] = command[i];
	args[command_n] = h.path;
	args[command_n + 1] = NULL;
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		execvp(args[0], args);
		_exit(127);
	}
	harness_accept(&h);
}

static int service_end(int signal_number)
{
	int status;

	kill(pid, signal_number);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (h.endpoint != NULL)
			(void)harness_poll(&h);
		harness_leaving_answer(&h);
		sched_yield();
	}
	harness_drop(&h, false);
	harness_fini(&h);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int send_action(struct hcall *c, unsigned lane, unsigned action)
{
	static uint8_t payload[3000];
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct hsend s = {.method = "split.test.Host/Unary", .message = &item.base, .lane = lane};

	item.name = "process";
	item.action = action;
	item.payload = (ProtobufCBinaryData){action * 500, payload};
	return harness_send(&h, c, &s);
}

static void check_answer(struct hcall *c, unsigned action)
{
	Split__Test__Item *item;

	if (action == SERVICE_STATUS) {
		ck_assert_uint_eq(c->status, SPLIT_NOT_FOUND);
		ck_assert_str_eq(c->text, "process");
		ck_assert_int_eq(c->initial_n, 1);
		ck_assert_int_eq(c->trailing_n, 1);
		hcall_free(c);
		return;
	}
	item = harness_item(c);
	ck_assert_str_eq(item->name, action == SERVICE_LATER ? "later" : "process");
	split__test__item__free_unpacked(item, NULL);
	hcall_free(c);
}

static void calls_run(unsigned n)
{
	unsigned action[OPEN] = {0}, sent = 0, done = 0;
	uint64_t until = clock_ns() + 60 * CLOCK_NS_PER_SEC;

	memset(calls, 0, sizeof(calls));
	while (done < n) {
		for (unsigned i = 0; i < OPEN; i++) {
			if (calls[i].answers > 0) {
				check_answer(&calls[i], action[i]);
				calls[i].answers = 0;
				done++;
			}
			if (!calls[i].open && sent < n &&
			    send_action(&calls[i], sent % h.host_workers, sent % SERVICE_ACTIONS) ==
				    0)
				action[i] = sent++ % SERVICE_ACTIONS;
		}
		if (harness_poll(&h) == 0)
			sched_yield();
		ck_assert_msg(clock_ns() < until, "%u of %u answered", done, sent);
	}
	harness_wait_released(&h);
}

START_TEST(calls_and_loss)
{
	service_start();
	calls_run(600);
	/* Lost with calls open: their answers go nowhere, and the next session is clean. */
	for (unsigned i = 0; i < 12; i++)
		(void)send_action(&calls[i], i % h.host_workers, i % SERVICE_ACTIONS);
	harness_drop(&h, true);
	harness_accept(&h);
	calls_run(300);
	harness_drop(&h, false);
	harness_accept(&h);
	calls_run(60);
	ck_assert_int_eq(service_end(SIGTERM), 0);
}
END_TEST

/* How many calls the process has begun. */
static unsigned calls_begun(void)
{
	Split__Test__Item *item;
	unsigned n;

	ck_assert_int_eq(send_action(&calls[0], 0, SERVICE_CALLS), 0);
	harness_wait(&h, &calls[0]);
	item = harness_item(&calls[0]);
	n = (unsigned)atoi(item->name);
	split__test__item__free_unpacked(item, NULL);
	hcall_free(&calls[0]);
	return n;
}

/* Stopped while calls wait in its rings, or over TCP in its socket; the daemon gives it up, so that
 * they are answered; resumed, it runs none of them. */
START_TEST(stopped)
{
	int status;

	service_start();
	calls_run(20);
	/* Nothing is in its hands: pump and workers sleep. */
	harness_spin(&h, 20, NULL, 0);
	kill(pid, SIGSTOP);
	/* kill() returns before the threads on other cores have stopped. */
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
	for (unsigned i = 0; i < 8; i++)
		ck_assert_int_eq(send_action(&calls[i], i % h.host_workers, SERVICE_ECHO), 0);
	harness_spin(&h, 20, NULL, 0);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_uint_eq(calls[i].answers, 0);
	harness_drop_wait(&h);
	kill(pid, SIGCONT);
	harness_accept(&h);
	ck_assert_uint_eq(calls_begun(), 20 + 1);
	calls_run(20);
	ck_assert_int_eq(service_end(SIGTERM), 0);
}
END_TEST

START_TEST(killed)
{
	service_start();
	calls_run(20);
	ck_assert_int_eq(service_end(SIGKILL), -SIGKILL);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("process");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	if (argc < 2 || argc > 12)
		return 2;
	command = argv + 1;
	command_n = argc - 1;
	if (command_n > 1 && system("command -v valgrind >/dev/null") != 0) {
		puts("skipped: no valgrind");
		return 77;
	}
	tcase_set_timeout(t, 120);
	tcase_add_test(t, calls_and_loss);
	if (command_n == 1) {
		tcase_add_test(t, stopped);
		tcase_add_test(t, killed);
	}
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
