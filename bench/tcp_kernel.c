/* The peer: a plain single-threaded epoll server on the kernel's TCP, in the server's namespace, on
 * the server's core. A process of its own, because both ends' descriptors may be too many for one.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/rig.h"
#include "bench/served.h"
#include "bench/tcp.h"

#define EVENTS_MAX 256

/* Shared with the server's process. */
struct kernel_page {
	atomic_int ready; /* 1: serves, -1: cannot */
	_Atomic uint64_t discarded;
};

struct kernel_server {
	struct tcp_server base;
	const struct tcp_place *place;
	struct kernel_page *page;
	pid_t pid;
};

/* In the server's process only. */
struct serving {
	struct kernel_page *page;
	int listen_fds[2], epoll_fd;
	uint8_t buffer[65536];
};

/* What epoll's data says of a descriptor. */
enum { KIND_LISTEN = 1, KIND_ECHO, KIND_DISCARD };

static void watch(const struct serving *s, int fd, uint64_t kind)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = kind << 32 | (uint32_t)fd};

	(void)epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

static void accept_all(const struct serving *s, int listen_fd)
{
	const int on = 1;
	int fd;

	while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		watch(s, fd, listen_fd == s->listen_fds[0] ? KIND_ECHO : KIND_DISCARD);
	}
}

static void connection_serve(struct serving *s, int fd, bool echo)
{
	ssize_t n = recv(fd, s->buffer, sizeof(s->buffer), 0);

	if (n <= 0) {
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			close(fd);
		return;
	}
	if (!echo)
		atomic_fetch_add_explicit(&s->page->discarded, (uint64_t)n, memory_order_relaxed);
	else if (send(fd, s->buffer, (size_t)n, MSG_NOSIGNAL) != n)
		close(fd);
}

static int listen_open(uint16_t port)
{
	struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons(port)};
	const int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd >= 0 &&
	    (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
	     bind(fd, (struct sockaddr *)&local, sizeof(local)) != 0 || listen(fd, 16384) != 0)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int serve_open(struct serving *s, const struct tcp_place *place)
{
	if (setns(place->server_fd, CLONE_NEWNET) != 0 || perf_pin(place->core_server) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->listen_fds[0] = listen_open(TCP_PORT_ECHO);
	s->listen_fds[1] = listen_open(TCP_PORT_DISCARD);
	if (s->epoll_fd < 0 || s->listen_fds[0] < 0 || s->listen_fds[1] < 0)
		return -SPLIT_E_BASE_SYSTEM;
	watch(s, s->listen_fds[0], KIND_LISTEN);
	watch(s, s->listen_fds[1], KIND_LISTEN);
	return 0;
}

/* Until it is killed: it holds nothing that anybody would miss. */
static void serve(const struct tcp_place *place, struct kernel_page *page)
{
	struct serving s = {.page = page};

	if (serve_open(&s, place) != 0) {
		atomic_store(&page->ready, -1);
		return;
	}
	atomic_store(&page->ready, 1);
	for (;;) {
		struct epoll_event events[EVENTS_MAX];
		int n = epoll_wait(s.epoll_fd, events, EVENTS_MAX, -1);

		for (int i = 0; i < n; i++) {
			uint64_t kind = events[i].data.u64 >> 32;
			int fd = (int)(uint32_t)events[i].data.u64;

			if (kind == KIND_LISTEN)
				accept_all(&s, fd);
			else
				connection_serve(&s, fd, kind == KIND_ECHO);
		}
	}
}

/* It sleeps in epoll_wait while nobody calls. */
static int kernel_start(struct tcp_server *base)
{
	(void)base;
	return 0;
}

static void kernel_stop(struct tcp_server *base)
{
	(void)base;
}

/* OutSegs of the server's namespace. (InSegs counts what GRO or the sender's TSO made of several as
 * one.) */
static uint64_t segments_out(const struct tcp_place *place)
{
	unsigned long long out = 0;
	char line[512];
	FILE *file;

	if (setns(place->server_fd, CLONE_NEWNET) != 0)
		return 0;
	file = fopen("/proc/thread-self/net/snmp", "re");
	while (file && fgets(line, sizeof(line), file))
		(void)sscanf(line, "Tcp: %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %llu", &out);
	if (file)
		(void)fclose(file);
	return setns(place->client_fd, CLONE_NEWNET) == 0 ? out : 0;
}

static void kernel_sample(struct tcp_server *base, struct tcp_sample *out)
{
	struct kernel_server *s = (struct kernel_server *)(void *)base;

	*out = (struct tcp_sample){
		.ns = clock_ns(),
		.core_busy_ns = core_busy_ns(s->place->core_server),
		.client_busy_ns = core_busy_ns(s->place->core_client),
		.thread_cpu_ns = process_cpu_ns(s->pid),
		.segments_out = segments_out(s->place),
		.discarded = atomic_load(&s->page->discarded),
	};
}

static unsigned kernel_connections(const struct tcp_server *base)
{
	(void)base;
	return 0; /* a reset ends them at once */
}

static void kernel_complain(const struct tcp_server *base)
{
	(void)base;
}

static void kernel_destroy(struct tcp_server *base)
{
	struct kernel_server *s = (struct kernel_server *)(void *)base;

	if (s->pid > 0 && kill(s->pid, SIGKILL) == 0)
		(void)waitpid(s->pid, NULL, 0);
	if (s->page != NULL)
		(void)munmap(s->page, sizeof(*s->page));
	free(s);
}

static const struct tcp_server_ops ops = {
	.start = kernel_start,
	.stop = kernel_stop,
	.sample = kernel_sample,
	.connections = kernel_connections,
	.complain = kernel_complain,
	.destroy = kernel_destroy,
};

/* One object of each cache that an accepted, watched socket takes; those that the kernel has merged
 * with others are not listed and not counted. */
static double idle_bytes(void)
{
	static const char *const caches[] = {"TCP",    "sock_inode_cache", "filp",
					     "dentry", "eventpoll_epi",    "ep_head"};
	FILE *file = fopen("/proc/slabinfo", "re");
	double sum = 0;
	char line[512], name[64];
	unsigned long size;

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%63s %*u %*u %lu", name, &size) != 2)
			continue;
		for (size_t i = 0; i < sizeof(caches) / sizeof(caches[0]); i++)
			sum += strcmp(name, caches[i]) == 0 ? (double)size : 0;
	}
	if (file)
		(void)fclose(file);
	return sum > 0 ? sum : -1;
}

static int server_fork(struct kernel_server *s)
{
	pid_t parent = getpid();

	s->pid = fork();
	if (s->pid < 0)
		return -SPLIT_E_BASE_SYSTEM;
	if (s->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			serve(s->place, s->page);
		_exit(1);
	}
	while (atomic_load(&s->page->ready) == 0) {
		if (waitpid(s->pid, NULL, WNOHANG) != 0) {
			s->pid = 0;
			return -SPLIT_E_BASE_SYSTEM;
		}
		usleep(1000);
	}
	return atomic_load(&s->page->ready) == 1 ? 0 : -SPLIT_E_BASE_SYSTEM;
}

int tcp_kernel_server(struct tcp_place *place, struct tcp_server **out)
{
	struct kernel_server *s = calloc(1, sizeof(*s));
	int err;

	if (s == NULL)
		return -SPLIT_E_BASE_NOMEM;
	s->base = (struct tcp_server){.ops = &ops,
				      .name = "kernel",
				      .address = TCP_KERNEL_ADDRESS,
				      .plain = TCP_PLAIN_ADDRESS,
				      .idle_bytes = idle_bytes()};
	s->place = place;
	s->page = mmap(NULL, sizeof(*s->page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (s->page == MAP_FAILED)
		s->page = NULL;
	err = s->page != NULL ? server_fork(s) : -SPLIT_E_BASE_NOMEM;
	if (err != 0) {
		perf_warn("the kernel's server does not come up");
		kernel_destroy(&s->base);
		return err;
	}
	*out = &s->base;
	return 0;
}
