/* Listening, and the list of connections. */
#include "daemon/relay/relay_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

COUNTER_DEFINE(relay, RELAY_COUNTERS);

#define BACKLOG      64
#define ACCEPT_BURST 8

static int listen_open(const struct config_remote *c, char *why, size_t why_bytes)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)c->port)};
	bool six = c->address.family == 6;
	int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1, rc;

	memcpy(&v4.sin_addr, c->address.bytes, 4);
	memcpy(&v6.sin6_addr, c->address.bytes, 16);
	if (fd < 0)
		goto fail;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	rc = six ? bind(fd, (struct sockaddr *)&v6, sizeof(v6))
		 : bind(fd, (struct sockaddr *)&v4, sizeof(v4));
	if (rc == 0 && listen(fd, BACKLOG) == 0)
		return fd;
fail:
	snprintf(why, why_bytes, "remote: port %u: %s", c->port, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -SPLIT_E_BASE_SYSTEM;
}

int relay_create(const struct relay_params *p, void (*tell)(const char *line), struct relay **out)
{
	struct relay *r = calloc(1, sizeof(*r));
	char why[512] = "", line[1024];
	int rc = 0;

	*out = NULL;
	if (r == NULL)
		return -SPLIT_E_BASE_NOMEM;
	r->p = *p;
	r->fd = -1;
	list_init(&r->guests);
	list_init(&r->waiting);
	pthread_mutex_init(&r->lock, NULL);
	if (p->config->tls.cert[0] != '\0') {
		const struct remote_tls_files files = {
			.cert = p->config->tls.cert,
			.key = p->config->tls.key,
			.ca = p->config->tls.ca,
		};

		rc = remote_tls_create(true, &files, &r->tls, why, sizeof(why));
	}
	if (rc == 0) {
		r->fd = listen_open(p->config, why, sizeof(why));
		rc = r->fd < 0 ? r->fd : 0;
	}
	if (rc < 0) {
		snprintf(line, sizeof(line), "%s: remote: %s", p->path,
			 why[0] != '\0' ? why : error_text(rc));
		tell(line);
		relay_destroy(r);
		return rc;
	}
	*out = r;
	return 0;
}

int relay_fd(const struct relay *r)
{
	return r->fd;
}

const struct relay_counters *relay_counters_get(const struct relay *r)
{
	return &r->counters;
}

/* ------------------------------------------------------------------ connections */

static void guest_free(struct guest *g)
{
	struct relay *r = g->relay;

	pthread_mutex_lock(&r->lock);
	if (g->offer_fd >= 0) {
		list_del(&g->offer);
		close(g->offer_fd);
	}
	pthread_mutex_unlock(&r->lock);
	list_del(&g->link);
	r->guests_n--;
	if (g->fd >= 0)
		close(g->fd);
	close(g->stop_fd);
	free(g);
}

static void *guest_main(void *arg)
{
	struct guest *g = arg;

	(void)pthread_setname_np(pthread_self(), "relay");
	if (guest_greet(g) == 0)
		guest_serve(g);
	else
		RELAY_COUNT(g, refused);
	__atomic_store_n(&g->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void peer_text(const struct sockaddr_storage *from, char *text, size_t bytes)
{
	char address[INET6_ADDRSTRLEN] = "";

	if (from->ss_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)from;

		inet_ntop(AF_INET6, &v6->sin6_addr, address, sizeof(address));
		snprintf(text, bytes, "[%s]:%u", address, ntohs(v6->sin6_port));
	} else {
		const struct sockaddr_in *v4 = (const void *)from;

		inet_ntop(AF_INET, &v4->sin_addr, address, sizeof(address));
		snprintf(text, bytes, "%s:%u", address, ntohs(v4->sin_port));
	}
}

static bool guest_start(struct relay *r, int fd, const struct sockaddr_storage *from)
{
	struct guest *g = calloc(1, sizeof(*g));
	pthread_attr_t attr;
	int rc;

	if (g == NULL)
		return false;
	g->relay = r;
	g->fd = fd;
	g->offer_fd = g->wake_fd = -1;
	g->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	peer_text(from, g->peer, sizeof(g->peer));
	list_add_tail(&r->guests, &g->link);
	r->guests_n++;
	if (g->stop_fd < 0 || pthread_attr_init(&attr) != 0) {
		guest_free(g);
		return true; /* and fd is closed */
	}
	if (r->p.cores != NULL)
		(void)pthread_attr_setaffinity_np(&attr, sizeof(*r->p.cores), r->p.cores);
	rc = pthread_create(&g->thread, &attr, guest_main, g);
	(void)pthread_attr_destroy(&attr);
	if (rc != 0)
		guest_free(g);
	return true;
}

bool relay_accept(struct relay *r)
{
	for (int i = 0; i < ACCEPT_BURST; i++) {
		struct sockaddr_storage from = {0};
		socklen_t len = sizeof(from);
		int fd = accept4(r->fd, (struct sockaddr *)&from, &len,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
		relay_tick(r);
		__atomic_fetch_add(&r->counters.connections, 1, __ATOMIC_RELAXED);
		if (r->guests_n >= r->p.config->connections_max) {
			__atomic_fetch_add(&r->counters.refused_limit, 1, __ATOMIC_RELAXED);
			if (log_limit_pass(&r->limit_log, clock_ns(), 1, CLOCK_NS_PER_SEC, NULL))
				log_warn("remote: a connection was closed at once: there are "
					 "remote.connections_max (%u)",
					 r->p.config->connections_max);
			close(fd);
		} else if (!guest_start(r, fd, &from)) {
			close(fd);
		}
	}
	return true;
}

bool relay_guest_take(struct relay *r, struct relay_guest *out)
{
	struct guest *g = NULL;

	pthread_mutex_lock(&r->lock);
	if (!list_empty(&r->waiting)) {
		g = list_entry(list_first(&r->waiting), struct guest, offer);
		list_del(&g->offer);
		out->fd = g->offer_fd;
		g->offer_fd = -1;
		snprintf(out->peer, sizeof(out->peer), "%s", g->peer);
		out->secure = g->secure;
		memcpy(out->names, g->names, sizeof(out->names));
	}
	pthread_mutex_unlock(&r->lock);
	return g != NULL;
}

void relay_tick(struct relay *r)
{
	list_for_each_safe (pos, &r->guests) {
		struct guest *g = list_entry(pos, struct guest, link);

		if (!__atomic_load_n(&g->done, __ATOMIC_ACQUIRE))
			continue;
		(void)pthread_join(g->thread, NULL);
		guest_free(g);
	}
}

void relay_destroy(struct relay *r)
{
	uint64_t one = 1;

	if (r == NULL)
		return;
	if (r->fd >= 0)
		close(r->fd);
	/* Who waits for control to take his offer waits no longer: it will not. */
	pthread_mutex_lock(&r->lock);
	r->closing = true;
	while (!list_empty(&r->waiting)) {
		struct guest *g = list_entry(list_first(&r->waiting), struct guest, offer);

		list_del(&g->offer);
		close(g->offer_fd);
		g->offer_fd = -1;
	}
	pthread_mutex_unlock(&r->lock);
	list_for_each (pos, &r->guests)
		(void)!write(list_entry(pos, struct guest, link)->stop_fd, &one, sizeof(one));
	while (!list_empty(&r->guests)) {
		struct guest *g = list_entry(list_first(&r->guests), struct guest, link);

		(void)pthread_join(g->thread, NULL);
		guest_free(g);
	}
	remote_tls_destroy(r->tls);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
