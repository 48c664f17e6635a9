/* A host process for process_test.c: every way of answering, until SIGTERM.
 * service SOCKET: attaches as "test" with two workers. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.pb-c.h"
#include "tests/host-lib/service.h"

#include <split-host.h>

#define LATER_MAX 1024

static struct split_host *host;

static struct later {
	Split__Test__Item_Closure reply;
	void *data;
	const Split__Test__Item *in; /* retained, or NULL */
} later[LATER_MAX];
static unsigned later_n;
static pthread_mutex_t later_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool later_end;

static void reply_named(Split__Test__Item_Closure reply, void *data, const char *name)
{
	Split__Test__Item out = SPLIT__TEST__ITEM__INIT;

	out.name = (char *)(uintptr_t)name;
	reply(&out, data);
}

static void allocated(const Split__Test__Item *in, Split__Test__Item_Closure reply, void *data)
{
	struct split_call *call = split_call_of(data);
	Split__Test__Item *out = split_call_alloc(call, sizeof(*out));

	split__test__item__init(out);
	out->payload.len = in->payload.len;
	out->payload.data = split_call_alloc(call, in->payload.len);
	if (in->payload.len > 0)
		memcpy(out->payload.data, in->payload.data, in->payload.len);
	out->name = in->name; /* this one is copied */
	reply(out, data);
}

static void calls_said(Split__Test__Item_Closure reply, void *data)
{
	struct split_host_stats stats;
	char text[24];

	split_host_stats_get(host, &stats);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)stats.calls);
	reply_named(reply, data, text);
}

static void host_unary(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	struct split_call *call = split_call_of(data);
	struct later l = {reply, data, NULL};

	(void)self;
	switch (in->action) {
	case SERVICE_ALLOCATED:
		allocated(in, reply, data);
		break;
	case SERVICE_STATUS:
		split_call_add_initial_metadata(call, "x-initial", "1", 1);
		split_call_add_trailing_metadata(call, "x-trailing", "2", 1);
		split_call_set_status(call, SPLIT_NOT_FOUND, in->name);
		reply(NULL, data);
		break;
	case SERVICE_CALLS:
		calls_said(reply, data);
		break;
	case SERVICE_TWICE:
		reply(in, data);
		reply(in, data);
		break;
	case SERVICE_RETAINED:
		l.in = (const Split__Test__Item *)(const void *)split_call_retain(call);
		/* fallthrough */
	case SERVICE_LATER:
		pthread_mutex_lock(&later_lock);
		if (later_n == LATER_MAX)
			abort();
		later[later_n++] = l;
		pthread_mutex_unlock(&later_lock);
		break;
	default:
		reply(in, data);
		break;
	}
}

static void host_other(Split__Test__Host_Service *self, const Split__Test__Item *in,
		       Split__Test__Item_Closure reply, void *data)
{
	host_unary(self, in, reply, data);
}

static void *later_thread(void *arg)
{
	(void)arg;
	while (!later_end) {
		struct later l = {0};

		pthread_mutex_lock(&later_lock);
		if (later_n > 0)
			l = later[--later_n];
		pthread_mutex_unlock(&later_lock);
		if (l.reply == NULL) {
			sched_yield();
		} else if (l.in == NULL) {
			reply_named(l.reply, l.data, "later");
		} else {
			struct split_call *call = split_call_of(l.data);

			l.reply(l.in, l.data);
			split_call_release(call);
		}
	}
	return NULL;
}

static void on_term(int number)
{
	(void)number;
	split_host_stop(host);
}

int main(int argc, char **argv)
{
	Split__Test__Host_Service service = SPLIT__TEST__HOST__INIT(host_);
	pthread_t t;
	int rc;

	if (argc != 2)
		return 2;
	host = split_host_attach(argv[1], "test", NULL);
	signal(SIGTERM, on_term);
	if (host == NULL || pthread_create(&t, NULL, later_thread, NULL) != 0)
		return 2;
	rc = split_host_serve(host, &service.base);
	if (rc == 0)
		rc = split_host_run(host, 2);
	later_end = true;
	pthread_join(t, NULL);
	split_host_detach(host);
	if (rc != 0)
		fprintf(stderr, "service: %s\n", split_host_error_text(rc));
	return rc == 0 ? 0 : 1;
}
