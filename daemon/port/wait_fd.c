/* Descriptors to wait on, for drivers that have one and do not give it: the AF_XDP and AF_PACKET
 * drivers of DPDK 22.11 offer no receive interrupt, but the sockets they poll are this process's,
 * and epoll says of them when a frame is there. They are found in /proc/self/fd by their family: an
 * AF_PACKET one says which interface it is bound to, an AF_XDP one comes with its queue's set-up.
 * Where nothing is found the worker sleeps in steps, as for any other driver. */
#include "daemon/port/port_internal.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include <linux/if_packet.h>
#include <sys/socket.h>

static int fd_compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static bool socket_is(int fd, int family)
{
	int domain = -1;
	socklen_t n = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) == 0 && domain == family;
}

/* Bound, and to that interface. */
static bool packet_socket_on(int fd, unsigned if_index)
{
	struct sockaddr_ll at = {0};
	socklen_t n = sizeof(at);

	return getsockname(fd, (struct sockaddr *)&at, &n) == 0 && at.sll_protocol != 0 &&
	       (unsigned)at.sll_ifindex == if_index;
}

size_t port_sockets(int family, unsigned if_index, int *fds_out, size_t max)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	size_t n = 0;

	while (dir != NULL && n < max && (entry = readdir(dir)) != NULL) {
		char *end;
		long fd = strtol(entry->d_name, &end, 10);

		if (end == entry->d_name || *end != '\0' || !socket_is((int)fd, family))
			continue;
		if (family != AF_PACKET || packet_socket_on((int)fd, if_index))
			fds_out[n++] = (int)fd;
	}
	if (dir != NULL)
		(void)closedir(dir);
	qsort(fds_out, n, sizeof(fds_out[0]), fd_compare);
	return n;
}

int port_socket_new(int family, const int *before, size_t before_n)
{
	int now[PORT_SOCKETS_MAX];
	size_t n = port_sockets(family, 0, now, PORT_SOCKETS_MAX);
	int found = -1;

	for (size_t i = 0; i < n; i++) {
		bool old = false;

		for (size_t k = 0; k < before_n; k++)
			old |= before[k] == now[i];
		if (old)
			continue;
		if (found >= 0)
			return -1; /* two: nobody knows which is the queue's */
		found = now[i];
	}
	return found;
}
