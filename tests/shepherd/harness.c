#include "tests/shepherd/harness.h"

#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct endpoint_config pair_config(void)
{
	return (struct endpoint_config){
		.name = "test",
		.daemon_workers = 1,
		.host_workers = 2,
		.request_slots = 8,
		.completion_slots = 8,
		.foreign_slots = 8,
		.to_host_bytes = 1 << 20,
		.to_daemon_bytes = 1 << 20,
		.numa_node = -1,
		.calls_max = 16,
	};
}

const struct attach_hello *pair_hello(void)
{
	static const struct attach_method methods[] = {
		{"test.Pair", "One", ATTACH_UNARY, 0, 1, 0x1000, 0x2000, 0, {0}, NULL},
		{"test.Pair",
		 "Two",
		 ATTACH_BIDI,
		 2,
		 3,
		 0x3000,
		 0x4000,
		 5,
		 {4096, 0, 250000000, 1, 0, 2},
		 NULL},
		{"far.Service", "Ask", ATTACH_SERVER_STREAM, 4, 5, 0, 0, 7, {0}, "back"},
	};
	static uint8_t schema[100000];
	static struct attach_hello hello = {.name = "test",
					    .workers = 2,
					    .methods = methods,
					    .methods_n = 3,
					    .schema = schema,
					    .schema_bytes = sizeof(schema)};

	for (size_t i = 0; i < sizeof(schema); i++)
		schema[i] = (uint8_t)(i * 7);
	return &hello;
}

int serve_attach(struct attach_server *server, const struct endpoint_config *config)
{
	enum attach_event event = ATTACH_NOTHING;
	int rc = 0;

	while (rc == 0) {
		rc = attach_server_step(server, &event);
		if (rc < 0)
			return rc;
		if (event == ATTACH_REQUESTED)
			rc = attach_server_offer(server, config);
		else if (event == ATTACH_MAPPED)
			return attach_server_activate(server);
		else if (event == ATTACH_DETACHED)
			return -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
		else if (event == ATTACH_NOTHING) {
			struct pollfd pfd = {.fd = attach_server_fd(server), .events = POLLIN};

			if (poll(&pfd, 1, 10000) <= 0)
				return -SPLIT_E_SHEPHERD_ATTACH_TIMEOUT;
		}
	}
	return rc;
}

struct opener {
	int fd;
	struct attachment *host;
	struct attach_refusal why;
	int rc;
};

static void *opener_run(void *arg)
{
	struct opener *o = arg;

	o->rc = attachment_open_fd(o->fd, pair_hello(), 10000, &o->host, &o->why);
	return NULL;
}

/* Before the host says a word, so that its packets carry its credentials. */
static void server_make(struct pair *p, int fd)
{
	struct attach_policy policy = {0};

	ck_assert_int_eq(attach_server_create(fd, &policy, &p->server), 0);
}

static void server_up(struct pair *p, const struct endpoint_config *config)
{
	ck_assert_int_eq(serve_attach(p->server, config), 0);
	p->endpoint = attach_server_endpoint(p->server);
	p->port = endpoint_port_of(p->endpoint, 0);
	endpoint_port_adopt(p->port, &p->counters);
}

void pair_open(struct pair *p, const struct endpoint_config *config)
{
	struct opener o = {0};
	pthread_t thread;
	int fds[2];

	memset(p, 0, sizeof(*p));
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	o.fd = fds[1];
	server_make(p, fds[0]);
	ck_assert_int_eq(pthread_create(&thread, NULL, opener_run, &o), 0);
	server_up(p, config);
	pthread_join(thread, NULL);
	ck_assert_msg(o.rc == 0, "attach: %s: %s", error_name(o.rc), o.why.text);
	p->host = o.host;
}

void pair_fork(struct pair *p, const struct endpoint_config *config,
	       int (*host)(struct attachment *, void *), void *arg)
{
	int fds[2];

	memset(p, 0, sizeof(*p));
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	server_make(p, fds[0]);
	fflush(NULL);
	p->pid = fork();
	ck_assert_int_ge(p->pid, 0);
	if (p->pid == 0) {
		struct attachment *a;
		struct attach_refusal why;
		int rc;

		close(fds[0]);
		if (attachment_open_fd(fds[1], pair_hello(), 10000, &a, &why) < 0) {
			fprintf(stderr, "host: %s\n", why.text);
			_exit(99);
		}
		rc = host(a, arg);
		attachment_close(a);
		_exit(rc);
	}
	close(fds[1]);
	server_up(p, config);
}

int pair_close(struct pair *p)
{
	int status = 0;

	if (p->endpoint != NULL)
		endpoint_detach(p->endpoint);
	if (p->host != NULL)
		attachment_close(p->host);
	attach_server_destroy(p->server);
	if (p->pid != 0) {
		ck_assert_int_eq(waitpid(p->pid, &status, 0), p->pid);
		status = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
	}
	return status;
}

static void gather_one(void *ctx, struct endpoint_port *port, const struct endpoint_completion *c)
{
	struct gathered *g = ctx;

	if (g->n < 64) {
		g->c[g->n] = *c;
		if (c->has_message && c->window.bytes <= SLOT_INLINE_BYTES)
			memcpy(g->area[g->n], c->window.mem, c->window.bytes);
		g->n++;
	}
	if (c->has_token && g->release)
		endpoint_token_release(port, c->lane, c->token);
}

const struct endpoint_events gather = {gather_one};

bool hugepages_there(unsigned pages)
{
	FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "r");
	unsigned have = 0;

	if (f == NULL)
		return false;
	if (fscanf(f, "%u", &have) != 1)
		have = 0;
	fclose(f);
	return have >= pages;
}
