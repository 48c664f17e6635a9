/* Links over kernel sockets. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/link.h"
#include "bench/perf.h"

#define READ_BYTES 65536
#define EVENTS_MAX 256

struct link {
	struct socket_set *set;
	void *user;
	struct link *next_dead;
	int fd; /* -1 once closed */
	bool up, want_out;
};

struct socket_set {
	struct link_set base;
	struct sockaddr_in remote;
	int epoll_fd;
	struct link *dead; /* freed after the batch of events that may name them */
	uint8_t buffer[READ_BYTES];
};

static void watch(struct link *l, uint32_t mask, int op)
{
	struct epoll_event e = {.events = mask, .data.ptr = l};

	(void)epoll_ctl(l->set->epoll_fd, op, l->fd, &e);
}

static int socket_open(struct link_set *base, void *user, struct link **out)
{
	struct socket_set *s = (struct socket_set *)(void *)base;
	struct link *l = calloc(1, sizeof(*l));
	const int on = 1;

	if (l == NULL)
		return -SPLIT_E_BASE_NOMEM;
	*l = (struct link){.set = s, .user = user};
	l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (l->fd < 0 || (connect(l->fd, (struct sockaddr *)&s->remote, sizeof(s->remote)) != 0 &&
			  errno != EINPROGRESS)) {
		perf_warn("connect: %s", strerror(errno));
		if (l->fd >= 0)
			close(l->fd);
		free(l);
		return -SPLIT_E_BASE_SYSTEM;
	}
	(void)setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	watch(l, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
	l->want_out = true;
	*out = l;
	return 0;
}

static void link_drop(struct link *l)
{
	close(l->fd);
	l->fd = -1;
	l->next_dead = l->set->dead;
	l->set->dead = l;
}

static size_t socket_send(struct link *l, const uint8_t *bytes, size_t n)
{
	ssize_t sent = l->fd >= 0 ? send(l->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

	if (sent < 0)
		sent = 0; /* full, or an error that epoll tells */
	if ((size_t)sent < n && !l->want_out && l->fd >= 0) {
		watch(l, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
		l->want_out = true;
	}
	return (size_t)sent;
}

static void socket_close(struct link *l)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};

	/* No TIME_WAIT: the next run may want the port. */
	(void)setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	link_drop(l);
}

static void link_serve(struct socket_set *s, struct link *l, uint32_t mask)
{
	ssize_t n = -1;

	if (!l->up && (mask & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
		int error = 0;
		socklen_t len = sizeof(error);

		(void)getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		if (error != 0) {
			s->base.events->down(l->user);
			link_drop(l);
			return;
		}
		l->up = true;
		s->base.events->up(l->user);
	}
	if (l->fd >= 0 && l->want_out && (mask & EPOLLOUT) != 0) {
		watch(l, EPOLLIN, EPOLL_CTL_MOD);
		l->want_out = false;
	}
	if (l->fd < 0 || (mask & (EPOLLIN | EPOLLERR | EPOLLHUP)) == 0)
		return;
	n = recv(l->fd, s->buffer, sizeof(s->buffer), MSG_DONTWAIT);
	if (n > 0) {
		s->base.events->data(l->user, s->buffer, (size_t)n);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		s->base.events->down(l->user);
		link_drop(l);
	}
}

static void dead_free(struct socket_set *s)
{
	struct link *l;

	while ((l = s->dead) != NULL) {
		s->dead = l->next_dead;
		free(l);
	}
}

static unsigned socket_poll(struct link_set *base, uint64_t now_ns, uint64_t wait_ns)
{
	struct socket_set *s = (struct socket_set *)(void *)base;
	const struct timespec wait = {.tv_sec = (time_t)(wait_ns / CLOCK_NS_PER_SEC),
				      .tv_nsec = (long)(wait_ns % CLOCK_NS_PER_SEC)};
	struct epoll_event events[EVENTS_MAX];
	int n = epoll_pwait2(s->epoll_fd, events, EVENTS_MAX, &wait, NULL);

	(void)now_ns;
	for (int i = 0; i < n; i++) {
		struct link *l = events[i].data.ptr;

		if (l->fd >= 0)
			link_serve(s, l, events[i].events);
	}
	dead_free(s);
	return n > 0 ? (unsigned)n : 0;
}

static void socket_flush(struct link_set *base, uint64_t now_ns)
{
	(void)base;
	(void)now_ns;
}

static void socket_destroy(struct link_set *base)
{
	struct socket_set *s = (struct socket_set *)(void *)base;

	dead_free(s);
	close(s->epoll_fd);
	free(s);
}

static const struct link_ops ops = {
	.open = socket_open,
	.send = socket_send,
	.close = socket_close,
	.poll = socket_poll,
	.flush = socket_flush,
	.destroy = socket_destroy,
};

int link_socket_create(const char *remote, uint16_t port, const struct link_events *link_events,
		       struct link_set **out)
{
	struct socket_set *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return -SPLIT_E_BASE_NOMEM;
	s->base = (struct link_set){.ops = &ops, .events = link_events};
	s->remote.sin_family = AF_INET;
	s->remote.sin_port = htons(port);
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (s->epoll_fd < 0 || inet_pton(AF_INET, remote, &s->remote.sin_addr) != 1) {
		perf_warn("%s: not an address that can be reached", remote);
		if (s->epoll_fd >= 0)
			close(s->epoll_fd);
		free(s);
		return -SPLIT_E_BASE_INVALID;
	}
	*out = &s->base;
	return 0;
}
