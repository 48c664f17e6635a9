/* The telemetry socket. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/ctl.h"

int ctl_socket_path(const char *prefix, char *path_out, size_t bytes)
{
	const char *base = "/var/run";
	int n;

	if (prefix[0] == '\0' || strchr(prefix, '/') != NULL)
		return -SPLIT_E_BASE_INVALID;
	if (getuid() != 0) {
		base = getenv("XDG_RUNTIME_DIR");
		if (base == NULL)
			base = "/tmp";
	}
	n = snprintf(path_out, bytes, "%s/dpdk/%s/dpdk_telemetry.v2", base, prefix);
	return n > 0 && (size_t)n < bytes ? 0 : -SPLIT_E_BASE_INVALID;
}

int ctl_parse_greeting(const char *bytes, size_t n, int *pid_out, size_t *answer_max_out)
{
	json_t *json = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, NULL);
	json_int_t pid, max;
	int result = -SPLIT_E_BASE_INVALID;

	if (!json_is_integer(json_object_get(json, "pid")) ||
	    !json_is_integer(json_object_get(json, "max_output_len")))
		goto out;
	pid = json_integer_value(json_object_get(json, "pid"));
	max = json_integer_value(json_object_get(json, "max_output_len"));
	if (pid <= 0 || pid > INT_MAX || max <= 0 || max > (json_int_t)CTL_ANSWER_BYTES_MAX)
		goto out;
	*pid_out = (int)pid;
	*answer_max_out = (size_t)max;
	result = 0;
out:
	json_decref(json);
	return result;
}

int ctl_parse_answer(const char *bytes, size_t n, const char *request, json_t **value_out)
{
	json_t *json = json_loadb(bytes, n, 0, NULL);
	size_t command_len = strcspn(request, ",");
	const char *key;
	json_t *value;
	int result = -SPLIT_E_BASE_INVALID;

	*value_out = NULL;
	if (!json_is_object(json) || json_object_size(json) != 1)
		goto out;
	json_object_foreach(json, key, value)
	{
		/* null: the daemon doesn't know the command or the parameter */
		if (strlen(key) != command_len || memcmp(key, request, command_len) != 0 ||
		    json_is_null(value))
			goto out;
		*value_out = json_incref(value);
		result = 0;
	}
out:
	json_decref(json);
	return result;
}

static int client_fail(struct ctl_client *c, int result, const char *what, const char *path)
{
	if (result == -SPLIT_E_BASE_SYSTEM)
		snprintf(c->error, sizeof(c->error), "%s: %s: %s", path, what, strerror(errno));
	else
		snprintf(c->error, sizeof(c->error), "%s: %s", path, what);
	ctl_close(c);
	return result;
}

int ctl_open(struct ctl_client *c, const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval timeout = {.tv_sec = CTL_TIMEOUT_MS / 1000,
				  .tv_usec = CTL_TIMEOUT_MS % 1000 * 1000};
	char greeting[1024];
	ssize_t n;

	memset(c, 0, sizeof(*c));
	c->fd = -1;
	if (strlen(path) >= sizeof(addr.sun_path))
		return client_fail(c, -SPLIT_E_BASE_INVALID, "the path is too long", path);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return client_fail(c, -SPLIT_E_BASE_SYSTEM, "socket", path);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	if (connect(c->fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0)
		return client_fail(c, -SPLIT_E_BASE_SYSTEM,
				   getuid() == 0 ? "can't connect (is splitd running?)"
						 : "can't connect (is splitd running? root's "
						   "can be asked by root only)",
				   path);
	n = recv(c->fd, greeting, sizeof(greeting), 0);
	if (n < 0)
		return client_fail(c, -SPLIT_E_BASE_SYSTEM, "no greeting", path);
	if (ctl_parse_greeting(greeting, (size_t)n, &c->pid, &c->answer_bytes_max) != 0)
		return client_fail(c, -SPLIT_E_BASE_INVALID, "not a DPDK telemetry socket", path);
	return 0;
}

void ctl_close(struct ctl_client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

int ctl_ask(struct ctl_client *c, const char *request, json_t **value_out)
{
	/* One byte more than allowed, so that an answer cut short is seen. */
	size_t room = c->answer_bytes_max + 1;
	char *answer = malloc(room);
	ssize_t n;
	int result = -SPLIT_E_BASE_SYSTEM;

	*value_out = NULL;
	if (answer == NULL) {
		snprintf(c->error, sizeof(c->error), "out of memory");
		return -SPLIT_E_BASE_NOMEM;
	}
	if (send(c->fd, request, strlen(request), MSG_NOSIGNAL) < 0 ||
	    (n = recv(c->fd, answer, room, 0)) < 0) {
		snprintf(c->error, sizeof(c->error), "%s: %s", request, strerror(errno));
		goto out;
	}
	result = n == 0 ? -SPLIT_E_BASE_INVALID
			: ctl_parse_answer(answer, (size_t)n, request, value_out);
	if (result != 0)
		snprintf(c->error, sizeof(c->error),
			 n == 0 ? "%s: the daemon hung up" : "%s: no such answer from the daemon",
			 request);
out:
	free(answer);
	return result;
}
