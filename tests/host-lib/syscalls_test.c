/* No system call on the host's side under load: while calls lie ready, a worker takes them, runs
 * them and answers without one. Counted by the kernel itself (syscall user dispatch, Linux 5.11):
 * from a handler of the first call to that of the last, every system call of the worker's thread
 * becomes a SIGSYS. Nothing here is measured, so a slow machine changes nothing: the lane is full
 * before the worker goes on, and the daemon's end (this harness) never sleeps. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/host-lib/harness.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_OFF          0
#define PR_SYS_DISPATCH_ON           1
#endif
#define SELECT_ALLOW 0
#define SELECT_BLOCK 1

#define CALLS  200u
#define SLOTS  256u
#define LARGE  3000u
#define SYSTEM "the kernel has no syscall user dispatch"

static struct harness h;
static struct hcall calls[CALLS + 1];
static volatile char selector = SELECT_ALLOW;
static _Atomic int dispatched = -1; /* what prctl said */
static _Atomic bool filled;
static _Atomic unsigned handled, system_calls;
static _Atomic int first_number = -1;

/* One is enough: it is run again, and what follows is let pass. */
static void on_sigsys(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)signo;
	selector = SELECT_ALLOW;
	first_number = info->si_syscall;
	system_calls++;
#if defined(__x86_64__)
	uc->uc_mcontext.gregs[REG_RIP] -= 2;
#else
	(void)uc;
#endif
}

/* The worker's own thread. */
static void dispatch_begin(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGSYS);
	(void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	dispatched = prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector);
}

static void on_unary(Split__Test__Host_Service *self, const Split__Test__Item *in,
		     Split__Test__Item_Closure reply, void *data)
{
	unsigned n = ++handled;

	(void)self;
	if (n == 1)
		dispatch_begin();
	while (n == 2 && !filled)
		usleep(100);
	if (n == 2 && dispatched == 0)
		selector = SELECT_BLOCK;
	if (n == CALLS + 1)
		selector = SELECT_ALLOW;
	reply(in, data);
}

static void on_other(Split__Test__Host_Service *self, const Split__Test__Item *in,
		     Split__Test__Item_Closure reply, void *data)
{
	on_unary(self, in, reply, data);
}

static Split__Test__Host_Service service = SPLIT__TEST__HOST__INIT(on_);

static void send_one(unsigned i)
{
	static uint8_t large[LARGE];
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct hsend s = {.method = "split.test.Host/Unary", .message = &item.base};

	item.name = "load";
	if (i % 2 != 0) {
		item.payload.data = large;
		item.payload.len = sizeof(large);
	}
	ck_assert_int_eq(harness_send(&h, &calls[i], &s), 0);
}

static void run(void)
{
	struct endpoint_config config = harness_config();
	struct split_host_options options = SPLIT_HOST_OPTIONS_INIT;

	config.request_slots = config.completion_slots = SLOTS;
	config.to_host_bytes = config.to_daemon_bytes = 8 << 20;
	config.calls_max = 2 * CALLS;
	config.revocable = true;
	harness_init(&h, &config, 1, &options);
	ck_assert_int_eq(split_host_serve(h.host, &service.base), 0);
	harness_run(&h);
	send_one(0);
	harness_wait(&h, &calls[0]);
	for (unsigned i = 1; i <= CALLS; i++)
		send_one(i);
	filled = true;
	for (unsigned i = 1; i <= CALLS; i++)
		harness_wait(&h, &calls[i]);
	for (unsigned i = 0; i <= CALLS; i++) {
		ck_assert_uint_eq(calls[i].answers, 1);
		ck_assert_uint_eq(calls[i].status, 0);
		hcall_free(&calls[i]);
	}
	harness_fini(&h);
}

START_TEST(a_busy_worker_makes_no_system_call)
{
	struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};

	ck_assert_int_eq(sigaction(SIGSYS, &action, NULL), 0);
	run();
	ck_assert_uint_eq(handled, CALLS + 1);
	ck_assert_msg(system_calls == 0, "system call %d among %u calls", first_number, CALLS);
}
END_TEST

static bool supported(void)
{
	static volatile char all = SELECT_ALLOW;

	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &all) != 0)
		return false;
	return prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0) == 0;
}

/* The counter itself: a handler that makes a call is caught. */
START_TEST(a_system_call_is_seen)
{
	struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};

	ck_assert_int_eq(sigaction(SIGSYS, &action, NULL), 0);
	dispatch_begin();
	ck_assert_int_eq(dispatched, 0);
	selector = SELECT_BLOCK;
	ck_assert_int_gt(getppid(), 0); /* is run all the same */
	selector = SELECT_ALLOW;
	ck_assert_uint_eq(system_calls, 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("syscalls");
	TCase *tc = tcase_create("syscalls");
	SRunner *runner;
	int failed;

	if (!supported()) {
		printf("skipped: " SYSTEM "\n");
		return 77;
	}
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, a_system_call_is_seen);
	tcase_add_test(tc, a_busy_worker_makes_no_system_call);
	suite_add_tcase(s, tc);
	runner = srunner_create(s);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
