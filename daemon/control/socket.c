/* The attach socket's file. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/control/control.h"

/* As many hosts as may knock while control is busy with one. */
#define SOCKET_BACKLOG 64

/* 1: somebody listens; 0: a stale socket file or nothing; negative: something else is there. */
static int socket_in_use(const char *path, const struct sockaddr_un *addr)
{
	struct stat file;
	int fd, result;

	if (lstat(path, &file) != 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(file.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* ECONNREFUSED is the sign of a file without a listener; a full backlog is EAGAIN. */
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
		result = 1;
	else
		result = errno == ECONNREFUSED ? 0 : -errno;
	close(fd);
	return result;
}

/* "/run/splitd" for "/run/splitd/host.sock", where only that last part is missing. */
static void directory_make(const char *path)
{
	char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char *slash;

	snprintf(directory, sizeof(directory), "%s", path);
	slash = strrchr(directory, '/');
	if (slash == NULL || slash == directory)
		return;
	*slash = '\0';
	(void)mkdir(directory, 0755); /* bind says what is wrong */
}

int control_socket_open(const char *path, unsigned mode, char *error, size_t bytes)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	mode_t mask;
	int fd = -1, used, bound;

	if (len == 0 || len >= sizeof(addr.sun_path)) {
		snprintf(error, bytes, "attach socket %s: the path must have 1 to %zu bytes", path,
			 sizeof(addr.sun_path) - 1);
		return -SPLIT_E_CONTROL_SOCKET;
	}
	memcpy(addr.sun_path, path, len + 1);
	used = socket_in_use(path, &addr);
	if (used != 0) {
		snprintf(error, bytes, "attach socket %s: %s", path,
			 used == 1         ? "another process listens there (a second splitd?)"
			 : used == -EEXIST ? "something that is no socket is there"
					   : strerror(-used));
		return -SPLIT_E_CONTROL_SOCKET;
	}
	if (unlink(path) != 0 && errno != ENOENT)
		goto fail;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		goto fail;
	directory_make(path);
	/* Closed to everybody until the mode is set, so that there is no moment too open. */
	mask = umask(0777);
	bound = bind(fd, (const struct sockaddr *)&addr, sizeof(addr));
	umask(mask);
	if (bound != 0)
		goto fail;
	if (chmod(path, mode) != 0 || listen(fd, SOCKET_BACKLOG) != 0) {
		int saved = errno;

		unlink(path);
		errno = saved;
		goto fail;
	}
	return fd;
fail:
	snprintf(error, bytes, "attach socket %s: %s%s", path, strerror(errno),
		 errno == ENOENT ? " (its directory is missing)" : "");
	if (fd >= 0)
		close(fd);
	return -SPLIT_E_CONTROL_SOCKET;
}
