/* Every allocation fails once, one at a time: in attach and serve, while attaching, and in the
 * middle of calls. Nothing crashes or leaks, and each call is answered or given back; over TCP it
 * may also end with its connection, and the host attaches again. */
#include <check.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/host-lib/harness.h"

/* The linker sends every call in host-lib and below here. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);

static _Atomic int countdown = -1; /* the allocation that fails; -1: none */
static __thread bool is_daemon;    /* whose allocations always succeed */

struct thread_start {
	void *(*fn)(void *);
	void *arg;
};

static void *thread_main(void *arg)
{
	struct thread_start start = *(struct thread_start *)arg;

	is_daemon = true;
	free(arg);
	return start.fn(start.arg);
}

/* The daemon's threads, the relay's, are the daemon. */
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
	struct thread_start *start;

	if (!is_daemon)
		return __real_pthread_create(t, a, fn, arg);
	start = __real_malloc(sizeof(*start));
	*start = (struct thread_start){fn, arg};
	return __real_pthread_create(t, a, thread_main, start);
}

static bool fails(void)
{
	if (is_daemon || countdown < 0)
		return false;
	return countdown-- == 0;
}

void *__wrap_malloc(size_t n)
{
	return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return fails() ? NULL : __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
	return fails() ? NULL : __real_aligned_alloc(align, n);
}

static void host_unary(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	struct split_call *call = split_call_of(data);

	(void)self;
	if (in->action == 1) {
		(void)split_call_add_trailing_metadata(call, "x", "y", 1);
		(void)split_call_set_status(call, SPLIT_ABORTED, "why");
	}
	reply(in, data);
}

static void host_other(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	host_unary(self, in, reply, data);
}

static Split__Test__Host_Service service = SPLIT__TEST__HOST__INIT(host_);

START_TEST(attach_and_serve)
{
	static const unsigned cores[] = {0};
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	bool hit = true;

	o.cores = cores;
	o.cores_n = 1;
	for (int n = 0; hit; n++) {
		struct split_host *host;

		countdown = n;
		host = split_host_attach("/nowhere", "x", &o);
		(void)split_host_serve(host, &service.base);
		hit = countdown < 0;
		countdown = -1;
		split_host_detach(host);
		ck_assert_int_lt(n, 100);
	}
}
END_TEST

static struct harness h;
static _Atomic bool ended;

static void *run_thread(void *arg)
{
	(void)arg;
	is_daemon = false;
	h.run_result = split_host_run(h.host, 1);
	ended = true;
	return NULL;
}

static int admit(void *ctx, const struct attach_request *request)
{
	(void)ctx;
	(void)request;
	return 0;
}

/* As harness_accept, but the host may fail at any step. True when it got through. */
static bool accept_maybe(void)
{
	struct pollfd p = {.fd = h.listen_fd, .events = POLLIN};
	static const struct attach_policy policy = {.admit = admit};
	struct relay_guest guest = {.fd = -1};
	enum attach_event e;
	bool good = false;

	while (!ended && h.relay != NULL && !relay_guest_take(h.relay, &guest)) {
		(void)!relay_accept(h.relay);
		relay_tick(h.relay);
		(void)usleep(200);
	}
	while (!ended && h.relay == NULL && poll(&p, 1, 5) == 0)
		;
	if (ended && guest.fd < 0)
		return false;
	if (guest.fd < 0)
		guest.fd = accept4(h.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	ck_assert_int_eq(attach_server_create(guest.fd, &policy, &h.server), 0);
	p.fd = attach_server_fd(h.server);
	while (!ended && !good) {
		if (poll(&p, 1, 5) == 0)
			continue;
		if (attach_server_step(h.server, &e) != 0)
			break;
		if (e == ATTACH_REQUESTED && attach_server_offer(h.server, &h.config) != 0)
			break;
		good = e == ATTACH_MAPPED && attach_server_activate(h.server) == 0;
	}
	return good;
}

START_TEST(attaching)
{
	struct endpoint_config config = harness_config();
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	bool hit = true;

	is_daemon = true;
	config.to_host_bytes = config.to_daemon_bytes = 2 << 20;
	o.attach_once = true;
	for (int n = 0; hit; n++) {
		harness_init(&h, &config, 1, &o);
		ck_assert_int_eq(split_host_serve(h.host, &service.base), 0);
		ended = false;
		countdown = n;
		ck_assert_int_eq(pthread_create(&h.thread, NULL, run_thread, NULL), 0);
		if (accept_maybe())
			while (!ended && h.attached == 0)
				sched_yield();
		hit = countdown < 0;
		countdown = -1;
		split_host_stop(h.host);
		attach_server_destroy(h.server);
		h.server = NULL;
		pthread_join(h.thread, NULL);
		ck_assert(!hit || h.run_result < 0 || h.attached > 0);
		harness_fini(&h);
		ck_assert_int_lt(n, 1000);
	}
}
END_TEST

/* Until it is over: answered, given back, or its connection has ended. False: the last. */
static bool call_over(struct hcall *call)
{
	uint64_t until = clock_ns() + 10 * CLOCK_NS_PER_SEC;

	while (call->answers + call->refused == 0 && h.lost == 0) {
		if (harness_poll(&h) == 0)
			sched_yield();
		ck_assert_uint_lt(clock_ns(), until);
	}
	return call->answers + call->refused != 0;
}

START_TEST(calls)
{
	struct endpoint_config config = harness_config();
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct hsend s = {.method = "split.test.Host/Unary", .message = &item.base};
	static struct hcall call[3];

	is_daemon = true;
	config.to_host_bytes = config.to_daemon_bytes = 2 << 20;
	for (int n = 0; n < 12; n++) {
		harness_init(&h, &config, 1, NULL);
		ck_assert_int_eq(split_host_serve(h.host, &service.base), 0);
		harness_run(&h);
		countdown = n;
		for (unsigned i = 0; i < 3; i++) {
			item.action = i;
			ck_assert_int_eq(harness_send(&h, &call[i], &s), 0);
			if (!call_over(&call[i])) {
				ck_assert(harness_over_tcp());
				countdown = -1;
				harness_drop(&h, false);
				h.lost = 0;
				harness_accept(&h);
				continue;
			}
			ck_assert_uint_eq(call[i].answers + call[i].refused, 1);
			hcall_free(&call[i]);
		}
		countdown = -1;
		harness_wait_released(&h);
		harness_fini(&h);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("alloc");
	TCase *t = tcase_create("all");
	SRunner *r;
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_test(t, attach_and_serve);
	tcase_add_test(t, attaching);
	tcase_add_test(t, calls);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? 0 : 1;
}
