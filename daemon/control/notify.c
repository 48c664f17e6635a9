/* Telling a service manager how we are: systemd's sd_notify(3) protocol, which is one datagram. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/control/control.h"

void control_notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = path != NULL ? strlen(path) : 0;
	char text[256];
	int fd, n;

	/* "@name" is one without a file. */
	if (len == 0 || len >= sizeof(addr.sun_path) || (path[0] != '/' && path[0] != '@'))
		return;
	memcpy(addr.sun_path, path, len);
	if (path[0] == '@')
		addr.sun_path[0] = '\0';
	/* A manager that counts reloads wants to know when this one began. */
	n = snprintf(text, sizeof(text), "%s\nMONOTONIC_USEC=%llu", state,
		     (unsigned long long)(clock_ns() / CLOCK_NS_PER_US));
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || n < 0 || (size_t)n >= sizeof(text) ||
	    sendto(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&addr,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		log_warn("the service manager at %s is not told: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}
