/* Attach, refusal, loss, attach again, stop: what happens to calls then. */
#include <check.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/host-lib/harness.h"

#define UNARY "split.test.Host/Unary"

static struct harness h;
static struct hcall call;
static _Atomic unsigned running, go, handled;
static Split__Test__Item_Closure late_reply;
static void *late_data;
static const Split__Test__Item *late_in;
/* Of the last handler's thread. */
static pid_t handler_tid;
static cpu_set_t handler_cpus;

/* By request: 0 echoes; 1 waits for `go`, then echoes; 2 is answered by whoever likes. */
static void host_unary(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	(void)self;
	handler_tid = (pid_t)syscall(SYS_gettid);
	(void)sched_getaffinity(0, sizeof(handler_cpus), &handler_cpus);
	if (in->action == 2) {
		late_in = (const Split__Test__Item *)(const void *)split_call_retain(
			split_call_of(data));
		late_reply = reply;
		late_data = data;
		running++;
		return;
	}
	if (in->action == 1) {
		running++;
		while (go == 0)
			sched_yield();
		ck_assert_str_eq(in->name, "life"); /* the mapping is still there */
	}
	reply(in, data);
	handled++;
}

static void host_other(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	host_unary(self, in, reply, data);
}

static Split__Test__Host_Service service = SPLIT__TEST__HOST__INIT(host_);

static void start(const struct split_host_options *options)
{
	struct endpoint_config config = harness_config();

	running = go = handled = 0;
	harness_init(&h, &config, 1, options);
	ck_assert_int_eq(split_host_serve(h.host, &service.base), 0);
}

static void send_action(struct hcall *c, unsigned action)
{
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct hsend s = {.method = UNARY, .message = &item.base};

	item.name = "life";
	item.action = action;
	ck_assert_int_eq(harness_send(&h, c, &s), 0);
}

static void finish(void)
{
	hcall_free(&call);
	harness_fini(&h);
}

static struct split_host_stats stats(void)
{
	struct split_host_stats s;

	split_host_stats_get(h.host, &s);
	return s;
}

static void echo_works(void)
{
	send_action(&call, 0);
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.answers, 1);
	ck_assert_uint_eq(call.status, 0);
	hcall_free(&call);
}

START_TEST(arguments)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	unsigned cores[] = {100000};
	char name[70];

	memset(name, 'n', sizeof(name));
	name[69] = '\0';
	ck_assert_ptr_null(split_host_attach("/nowhere", NULL, NULL));
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_ptr_null(split_host_attach("/nowhere", "", NULL));
	ck_assert_ptr_null(split_host_attach("/nowhere", name, NULL));
	o.cores = cores;
	o.cores_n = 1;
	ck_assert_ptr_null(split_host_attach("/nowhere", "x", &o));
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(split_host_serve(NULL, &service.base), SPLIT_E_ARGUMENT);
	ck_assert_int_eq(split_host_run(NULL, 1), SPLIT_E_ARGUMENT);
	split_host_stop(NULL);
	split_host_detach(NULL);
	start(NULL);
	ck_assert_int_eq(split_host_serve(h.host, NULL), SPLIT_E_ARGUMENT);
	ck_assert_int_eq(split_host_serve(h.host, &service.base), SPLIT_E_DUPLICATE);
	ck_assert_int_eq(split_host_run(h.host, 100000), SPLIT_E_ARGUMENT);
	ck_assert_str_eq(split_host_error_text(SPLIT_E_ANSWERED), "the call was answered before");
	finish();
}
END_TEST

static void *stop_soon(void *host)
{
	usleep(100000);
	split_host_stop(host);
	return NULL;
}

/* No splitd: waits, until stop; or says so at once. */
START_TEST(absent)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	struct split_host *host;

	o.attach_once = true;
	host = split_host_attach("/tmp/no-splitd-is-here", "x", &o);
	ck_assert_int_eq(split_host_run(host, 1), SPLIT_E_ARGUMENT); /* serves nothing */
	ck_assert_int_eq(split_host_serve(host, &service.base), 0);
	ck_assert_int_eq(split_host_run(host, 1), SPLIT_E_LOST);
	split_host_detach(host);
	setenv(SPLIT_HOST_SOCKET_ENV, "/tmp/no-splitd-is-here", 1);
	host = split_host_attach(NULL, "x", NULL);
	ck_assert_int_eq(split_host_serve(host, &service.base), 0);
	split_host_stop(host); /* before run: run returns at once */
	ck_assert_int_eq(split_host_run(host, 1), 0);
	split_host_detach(host);
}
END_TEST

static unsigned waits;
static pthread_t stopper;
static char event_text[256];

/* Stops after a while, so that a second word would be heard. */
static void hear_waiting(struct split_host *host, enum split_host_event e, const char *text,
			 void *arg)
{
	(void)arg;
	snprintf(event_text, sizeof(event_text), "%s", text);
	if (e == SPLIT_HOST_WAITING && waits++ == 0)
		pthread_create(&stopper, NULL, stop_soon, host);
}

/* A path that is wrong must not look like a service that runs. */
START_TEST(waiting_is_told)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	struct split_host *host;

	waits = 0;
	o.event = hear_waiting;
	o.backoff_max_ns = 10 * CLOCK_NS_PER_MS;
	o.backoff_min_ns = o.backoff_max_ns;
	host = split_host_attach("/tmp/no-splitd-is-here", "x", &o);
	ck_assert_int_eq(split_host_serve(host, &service.base), 0);
	ck_assert_int_eq(split_host_run(host, 1), 0);
	pthread_join(stopper, NULL);
	ck_assert_uint_eq(waits, 1);
	ck_assert_str_eq(event_text, "/tmp/no-splitd-is-here: No such file or directory");
	split_host_detach(host);
	/* What waiting does not mend. */
	host = split_host_attach("tcp://nowhere", "x", &o);
	ck_assert_int_eq(split_host_serve(host, &service.base), 0);
	ck_assert_int_eq(split_host_run(host, 1), SPLIT_E_ARGUMENT);
	ck_assert_ptr_nonnull(strstr(event_text, "tcp://host:port"));
	split_host_detach(host);
}
END_TEST

static void *run_thread(void *arg)
{
	(void)arg;
	h.run_result = split_host_run(h.host, 1);
	return NULL;
}

START_TEST(refused)
{
	start(NULL);
	ck_assert_int_eq(pthread_create(&h.thread, NULL, run_thread, NULL), 0);
	harness_refuse(&h, -SPLIT_E_SHEPHERD_ATTACH_UID, "not you");
	pthread_join(h.thread, NULL);
	ck_assert_int_eq(h.run_result, SPLIT_E_REFUSED);
	ck_assert_uint_eq(h.refused, 1);
	finish();
}
END_TEST

/* A reason that may pass is tried again. */
START_TEST(refused_for_now)
{
	start(NULL);
	ck_assert_int_eq(pthread_create(&h.thread, NULL, run_thread, NULL), 0);
	h.running = true;
	harness_refuse(&h, -SPLIT_E_SHEPHERD_ATTACH_LIMIT, "full");
	harness_accept(&h);
	ck_assert_uint_eq(h.refused, 1);
	echo_works();
	finish();
}
END_TEST

/* splitd goes while nothing is running, politely and not, again and again. */
START_TEST(attach_again)
{
	start(NULL);
	harness_run(&h);
	for (unsigned i = 0; i < 6; i++) {
		for (int n = 0; n < 20; n++)
			echo_works();
		harness_drop(&h, i % 2 == 0);
		harness_accept(&h);
		ck_assert_uint_eq(h.lost, i + 1);
	}
	echo_works();
	ck_assert_uint_eq(stats().attaches, 7);
	ck_assert_uint_eq(stats().calls, 121);
	finish();
	ck_assert_int_eq(h.run_result, 0);
}
END_TEST

/* A handler that is stuck over the loss neither holds up the next attach nor loses its memory. */
START_TEST(lost_while_running)
{
	static struct hcall stuck, queued;

	start(NULL);
	harness_run(&h);
	send_action(&stuck, 1);
	harness_spin(&h, 5000, &running, 1);
	send_action(&queued, 0); /* never begun: the daemon has ended it */
	harness_drop(&h, false);
	harness_accept(&h);
	echo_works();
	ck_assert_uint_eq(handled, 1);
	go = 1;
	harness_spin(&h, 5000, &handled, 2);
	harness_until(&h, stats().answers_late != 0);
	harness_spin(&h, 100, NULL, 0);
	ck_assert_uint_eq(handled, 2); /* the stuck one, not the queued one */
	ck_assert_uint_eq(stats().answers_late, 1);
	echo_works();
	finish();
}
END_TEST

/* An answer owed over the loss goes nowhere; the message is still there until it is given. */
START_TEST(lost_while_owed)
{
	start(NULL);
	harness_run(&h);
	send_action(&call, 2);
	harness_spin(&h, 5000, &running, 1);
	harness_drop(&h, true);
	harness_accept(&h);
	ck_assert(split_call_cancelled(split_call_of(late_data)));
	ck_assert_str_eq(late_in->name, "life");
	ck_assert_ptr_nonnull(split_call_alloc(split_call_of(late_data), 100));
	late_reply(late_in, late_data);
	split_call_release(split_call_of(late_data));
	ck_assert_ptr_null(split_call_of(late_data));
	ck_assert_uint_eq(stats().answers_late, 1);
	echo_works();
	finish();
}
END_TEST

/* Owed for ever: the host goes all the same, and the closure may still be called. */
START_TEST(owed_at_the_end)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;

	o.drain_ns = 20 * CLOCK_NS_PER_MS;
	start(&o);
	harness_run(&h);
	send_action(&call, 2);
	harness_spin(&h, 5000, &running, 1);
	ck_assert_ptr_nonnull(split_call_alloc(split_call_of(late_data), 100));
	finish();
	ck_assert_int_eq(h.run_result, 0);
	late_reply(NULL, late_data);
}
END_TEST

static void *stop_thread(void *arg)
{
	(void)arg;
	split_host_stop(h.host);
	return NULL;
}

/* Until splitd says that nothing is left it gets what it had for us, and we run it. */
START_TEST(leaving_serves_what_comes)
{
	static struct hcall after[3];
	enum attach_event e = ATTACH_NOTHING;

	start(NULL);
	harness_run(&h);
	split_host_stop(h.host);
	while (e != ATTACH_LEAVES)
		ck_assert_int_eq(attach_server_step(h.server, &e), 0);
	for (unsigned i = 0; i < 3; i++) {
		send_action(&after[i], 0);
		harness_wait(&h, &after[i]);
		ck_assert_uint_eq(after[i].status, 0);
		ck_assert_uint_eq(after[i].refused, 0);
		hcall_free(&after[i]);
	}
	ck_assert(h.running);
	ck_assert_int_eq(attach_server_drained(h.server), 0);
	finish();
	ck_assert_int_eq(h.run_result, 0);
}
END_TEST

/* Stop lets what runs and what is owed be answered. */
START_TEST(stop_drains)
{
	static struct hcall owed;
	pthread_t t;

	start(NULL);
	harness_run(&h);
	send_action(&owed, 2);
	harness_spin(&h, 5000, &running, 1);
	send_action(&call, 1);
	harness_spin(&h, 5000, &running, 2);
	ck_assert_int_eq(pthread_create(&t, NULL, stop_thread, NULL), 0);
	pthread_join(t, NULL);
	harness_let_go(&h);
	harness_spin(&h, 30, NULL, 0);
	ck_assert_uint_eq(call.answers, 0);
	go = 1;
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, 0);
	late_reply(late_in, late_data);
	split_call_release(split_call_of(late_data));
	harness_wait(&h, &owed);
	ck_assert_uint_eq(owed.status, 0);
	pthread_join(h.thread, NULL);
	h.running = false;
	ck_assert_int_eq(h.run_result, 0);
	hcall_free(&owed);
	hcall_free(&call);
	/* The same host may run again. */
	harness_drop(&h, false);
	harness_run(&h);
	echo_works();
	finish();
}
END_TEST

/* A parked worker is woken by a call; a worker that never parks is not counted as parked. */
START_TEST(park)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;

	o.spin_ns = 1;
	start(&o);
	harness_run(&h);
	for (int i = 0; i < 20; i++) {
		usleep(2000);
		echo_works();
	}
	ck_assert_uint_ge(stats().parks, 10);
	ck_assert_uint_ge(h.counters[0].wakes, 10);
	finish();
	o.spin_ns = UINT64_MAX;
	start(&o);
	harness_run(&h);
	for (int i = 0; i < 20; i++)
		echo_works();
	ck_assert_uint_eq(stats().parks, 0);
	finish();
}
END_TEST

static void control_to(unsigned lane, enum slot_kind kind)
{
	struct endpoint_request r = {.kind = kind};

	ck_assert_int_eq(endpoint_submit(h.port[0], lane, &r, clock_ns()), 0);
	endpoint_flush(h.port[0], clock_ns());
}

static void control(enum slot_kind kind)
{
	control_to(0, kind);
}

static enum host_state lane_state(unsigned lane)
{
	struct endpoint_lane_state state;

	harness_poll(&h);
	endpoint_lane_state(h.port[0], lane, &state);
	return state.state;
}

static void state_wait(unsigned lane, enum host_state wanted)
{
	uint64_t until = clock_ns() + 20 * CLOCK_NS_PER_SEC;

	while (lane_state(lane) != wanted) {
		ck_assert_msg(clock_ns() < until, "lane %u never says %d", lane, (int)wanted);
		usleep(100);
	}
}

/* YIELDNOW and TRYAGAIN change nothing for calls. A retired worker says so, runs what is sent to it
 * all the same (the daemon may not have seen it yet), stays retired, and comes back by RESUME. */
START_TEST(scheduling)
{
	start(NULL);
	harness_run(&h);
	control(TO_HOST_YIELDNOW);
	control(TO_HOST_TRYAGAIN);
	echo_works();
	ck_assert_uint_eq(stats().yields, 1);
	control(TO_HOST_RETIRE);
	state_wait(0, HOST_RETIRED);
	echo_works();
	ck_assert_int_eq(lane_state(0), HOST_RETIRED);
	control(TO_HOST_RETIRE);
	control(TO_HOST_RESUME);
	state_wait(0, HOST_PARKED);
	echo_works();
	ck_assert_uint_eq(stats().retires, 1);
	ck_assert_uint_eq(stats().resumes, 1);
	ck_assert_uint_eq(stats().refused, 0);
	finish();
}
END_TEST

/* TRYAGAIN ends a long look: the worker parks although its time is not over. */
START_TEST(try_again)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;

	o.spin_ns = 3600 * CLOCK_NS_PER_SEC;
	start(&o);
	harness_run(&h);
	echo_works();
	state_wait(0, HOST_POLLING);
	control(TO_HOST_TRYAGAIN);
	/* It may be on its way to sleep already when the slot's bell rings, and look once more
	 * then. */
	harness_until(&h, stats().parks == 1);
	echo_works();
	finish();
}
END_TEST

/* Workers past workers_min begin retired, asleep; RESUME wakes them. */
START_TEST(pool)
{
	struct endpoint_config config = harness_config();
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;

	o.workers_min = 1;
	harness_init(&h, &config, 3, &o);
	ck_assert_int_eq(split_host_serve(h.host, &service.base), 0);
	harness_run(&h);
	state_wait(0, HOST_PARKED);
	for (unsigned lane = 1; lane < 3; lane++)
		ck_assert_int_eq(lane_state(lane), HOST_RETIRED);
	control_to(2, TO_HOST_RESUME);
	state_wait(2, HOST_PARKED);
	ck_assert_int_eq(lane_state(1), HOST_RETIRED);
	finish();
}
END_TEST

static int first_core(void)
{
	cpu_set_t cpus;
	int core = 0;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	while (!CPU_ISSET(core, &cpus))
		core++;
	return core;
}

/* The core that the daemon names is taken at YIELDNOW and told; -1 gives the old ones back. */
START_TEST(core_named)
{
	struct endpoint_worker_state said;
	uint64_t until = clock_ns() + 20 * CLOCK_NS_PER_SEC;
	cpu_set_t cpus;
	int core = first_core();

	start(NULL);
	harness_run(&h);
	endpoint_core_set(h.endpoint, 0, core);
	control(TO_HOST_YIELDNOW);
	do {
		harness_poll(&h);
		endpoint_worker_state(h.endpoint, 0, &said);
		ck_assert(clock_ns() < until);
	} while (stats().yields == 0 || said.core != core);
	ck_assert_int_eq(sched_getaffinity((pid_t)said.tid, sizeof(cpus), &cpus), 0);
	ck_assert_int_eq(CPU_COUNT(&cpus), 1);
	ck_assert(CPU_ISSET(core, &cpus));
	echo_works();
	finish();
}
END_TEST

/* A worker in a handler does not heed YIELDNOW; the signal moves its thread all the same, and the
 * call goes on. */
START_TEST(yield_by_signal)
{
	struct endpoint_worker_state said;
	uint64_t until = clock_ns() + 20 * CLOCK_NS_PER_SEC;
	cpu_set_t cpus;
	int core = first_core();

	start(NULL);
	harness_run(&h);
	send_action(&call, 1);
	harness_spin(&h, 5000, &running, 1);
	endpoint_worker_state(h.endpoint, 0, &said);
	endpoint_core_set(h.endpoint, 0, core);
	control(TO_HOST_YIELDNOW);
	ck_assert_int_eq((int)syscall(SYS_tgkill, getpid(), (pid_t)said.tid, SIGRTMIN + 5), 0);
	while (stats().yields_forced == 0) {
		ck_assert(clock_ns() < until);
		usleep(100);
	}
	ck_assert_int_eq(sched_getaffinity((pid_t)said.tid, sizeof(cpus), &cpus), 0);
	ck_assert_int_eq(CPU_COUNT(&cpus), 1);
	ck_assert_uint_eq(stats().yields, 0);
	go = 1;
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, 0);
	finish();
}
END_TEST

/* ------------------------------------------------------------------ the same, over TCP
 *
 * To splitd a host behind tcp:// is one worker, the relay's, and what that hears of cores and sleep
 * it keeps to itself: waking, spinning, how many are at work and where is the host's own affair
 * (docs/SOCKET.md). So in the place of the five tests above: none of it reaches the host's workers,
 * no call suffers, and what the host's options say holds. */

/* Orders for the core change nothing here: nobody retires, and nothing is counted. */
START_TEST(scheduling_is_the_hosts_own)
{
	start(NULL);
	harness_run(&h);
	control(TO_HOST_YIELDNOW);
	control(TO_HOST_TRYAGAIN);
	echo_works();
	control(TO_HOST_RETIRE);
	echo_works();
	ck_assert_int_ne(lane_state(0), HOST_RETIRED);
	control(TO_HOST_RESUME);
	echo_works();
	ck_assert_uint_eq(stats().yields, 0);
	ck_assert_uint_eq(stats().retires, 0);
	ck_assert_uint_eq(stats().resumes, 0);
	ck_assert_uint_eq(stats().calls, 3);
	ck_assert_uint_eq(h.lost, 0);
	finish();
}
END_TEST

/* A worker that was told to look for an hour does, whatever the relay hears. */
START_TEST(spin_is_the_hosts_own)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;

	o.spin_ns = 3600 * CLOCK_NS_PER_SEC;
	start(&o);
	harness_run(&h);
	for (int i = 0; i < 3; i++) {
		echo_works();
		control(TO_HOST_TRYAGAIN);
		harness_spin(&h, 2, NULL, 0);
	}
	ck_assert_uint_eq(stats().parks, 0);
	finish();
}
END_TEST

/* All workers are at work, whatever workers_min says: three handlers run at once. */
START_TEST(all_workers_at_work)
{
	struct endpoint_config config = harness_config();
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	static struct hcall calls[3];

	o.workers_min = 1;
	running = go = 0;
	harness_init(&h, &config, 3, &o);
	ck_assert_int_eq(split_host_serve(h.host, &service.base), 0);
	harness_run(&h);
	ck_assert_uint_eq(h.host_workers, 1); /* the relay's */
	for (unsigned i = 0; i < 3; i++)
		send_action(&calls[i], 1);
	harness_spin(&h, 20000, &running, 3);
	ck_assert_uint_eq(running, 3);
	go = 1;
	for (unsigned i = 0; i < 3; i++) {
		harness_wait(&h, &calls[i]);
		ck_assert_uint_eq(calls[i].status, 0);
		hcall_free(&calls[i]);
	}
	finish();
}
END_TEST

/* A core that splitd names moves nobody; options.cores does. */
START_TEST(cores_are_the_hosts_own)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	unsigned core = (unsigned)first_core();
	cpu_set_t before;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	start(NULL);
	harness_run(&h);
	endpoint_core_set(h.endpoint, 0, (int)core);
	control(TO_HOST_YIELDNOW);
	for (int i = 0; i < 3; i++)
		echo_works();
	ck_assert(CPU_EQUAL(&handler_cpus, &before));
	finish();
	o.cores = &core;
	o.cores_n = 1;
	start(&o);
	harness_run(&h);
	echo_works();
	ck_assert_int_eq(CPU_COUNT(&handler_cpus), 1);
	ck_assert(CPU_ISSET(core, &handler_cpus));
	finish();
}
END_TEST

/* The signal for a worker that does not heed YIELDNOW: splitd has no thread of ours to send it to,
 * since it knows only the relay's. From anybody else it moves a worker nowhere, and its call goes
 * on. */
START_TEST(signal_without_a_core)
{
	struct endpoint_worker_state said;
	uint64_t until = clock_ns() + 20 * CLOCK_NS_PER_SEC;
	cpu_set_t before, now;

	start(NULL);
	harness_run(&h);
	send_action(&call, 1);
	harness_spin(&h, 20000, &running, 1);
	ck_assert_uint_eq(running, 1);
	endpoint_worker_state(h.endpoint, 0, &said);
	ck_assert_uint_ne(said.tid, (uint32_t)handler_tid);
	ck_assert_int_eq(sched_getaffinity(handler_tid, sizeof(before), &before), 0);
	ck_assert_int_eq((int)syscall(SYS_tgkill, getpid(), handler_tid, SIGRTMIN + 5), 0);
	while (stats().yields_forced == 0) {
		ck_assert(clock_ns() < until);
		usleep(100);
	}
	ck_assert_int_eq(sched_getaffinity(handler_tid, sizeof(now), &now), 0);
	ck_assert(CPU_EQUAL(&before, &now));
	go = 1;
	harness_wait(&h, &call);
	ck_assert_uint_eq(call.status, 0);
	finish();
}
END_TEST

/* What the relay's one worker means for the host's. */
static void add_backend(TCase *t)
{
	if (harness_over_tcp()) {
		tcase_add_test(t, scheduling_is_the_hosts_own);
		tcase_add_test(t, spin_is_the_hosts_own);
		tcase_add_test(t, all_workers_at_work);
		tcase_add_test(t, cores_are_the_hosts_own);
		tcase_add_test(t, signal_without_a_core);
		return;
	}
	tcase_add_test(t, scheduling);
	tcase_add_test(t, try_again);
	tcase_add_test(t, pool);
	tcase_add_test(t, core_named);
	tcase_add_test(t, yield_by_signal);
}

int main(void)
{
	Suite *s = suite_create("life");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, arguments);
	tcase_add_test(t, absent);
	tcase_add_test(t, waiting_is_told);
	tcase_add_test(t, refused);
	tcase_add_test(t, refused_for_now);
	tcase_add_test(t, attach_again);
	tcase_add_test(t, lost_while_running);
	tcase_add_test(t, lost_while_owed);
	tcase_add_test(t, owed_at_the_end);
	tcase_add_test(t, leaving_serves_what_comes);
	tcase_add_test(t, stop_drains);
	tcase_add_test(t, park);
	add_backend(t);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
