/* Processes that were detached and live on.
 *
 * A segment's pages stay as long as anybody maps them or has a descriptor of them. So a process
 * that attaches, is detached, keeps what it has and attaches again would take all hugepages little
 * by little: those that may still keep segments count against their name's endpoints_max. And one
 * that was cut off for nonsense (struct control_host.outcast) is refused until it has died.
 *
 * Whether a process keeps segments is asked of /proc only when the answer matters. A child of it
 * that inherited them is not seen; that needs a limit on the hugepages of its cgroup. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/control/control_internal.h"

#define SEGMENT_NAME "/memfd:splitd-"

/* How often those that have died are looked for. */
#define LOOK_PERIOD_NS (200 * CLOCK_NS_PER_MS)

/* More than an honest process has; who has more is taken to keep what it had. */
#define LINES_MAX 65536
#define FDS_MAX   4096

struct departed {
	struct list link; /* control.departed */
	int pidfd;
	pid_t pid;
	int host_index;
	bool outcast;
};

static void departed_free(struct departed *d)
{
	list_del(&d->link);
	close(d->pidfd);
	free(d);
}

static bool has_died(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

void departed_add(struct control *control, const struct control_host *host,
		  const struct endpoint *endpoint)
{
	int pidfd = endpoint_pidfd(endpoint);
	struct departed *d;

	if (control->state == CONTROL_STOPPED || has_died(pidfd))
		return;
	d = calloc(1, sizeof(*d));
	if (d == NULL)
		return; /* one too few is remembered: no worse than before */
	d->pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
	if (d->pidfd < 0) {
		free(d);
		return;
	}
	d->pid = host->pid;
	d->host_index = host->host_index;
	d->outcast = host->outcast;
	list_add_tail(&control->departed, &d->link);
}

bool departed_is_outcast(struct control *control, pid_t pid)
{
	list_for_each_safe (pos, &control->departed) {
		struct departed *d = list_entry(pos, struct departed, link);

		if (d->pid != pid)
			continue;
		if (has_died(d->pidfd))
			departed_free(d); /* another process has its number now */
		else if (d->outcast)
			return true;
	}
	/* One that is on its way out has no entry yet. */
	list_for_each (pos, &control->hosts) {
		const struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->pid == pid && host->state == HOST_REMOVING && host->outcast &&
		    !has_died(endpoint_pidfd(host->endpoint)))
			return true;
	}
	return false;
}

static unsigned maps_count(pid_t pid)
{
	char path[64], line[PATH_MAX + 128];
	unsigned n = 0, lines = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return UINT_MAX;
	while (fgets(line, sizeof(line), f) != NULL && lines++ < LINES_MAX)
		n += strstr(line, SEGMENT_NAME) != NULL;
	fclose(f);
	return lines < LINES_MAX ? n : UINT_MAX;
}

static unsigned fds_count(pid_t pid)
{
	char path[64], target[64];
	unsigned n = 0, seen = 0;
	struct dirent *entry;
	ssize_t len;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (dir == NULL)
		return UINT_MAX;
	while ((entry = readdir(dir)) != NULL && seen++ < FDS_MAX) {
		len = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
		target[len > 0 ? len : 0] = '\0';
		n += strncmp(target, SEGMENT_NAME, strlen(SEGMENT_NAME)) == 0;
	}
	closedir(dir);
	return seen < FDS_MAX ? n : UINT_MAX;
}

/* Attaches of `pid` that are over and whose segments it may still have. */
static unsigned kept_by(const struct control *control, pid_t pid)
{
	unsigned maps = maps_count(pid), fds = fds_count(pid), now = 0;

	if (maps == UINT_MAX || fds == UINT_MAX)
		return UINT_MAX;
	/* What it has of attaches that are not over: two mappings, and two descriptors on the way.
	 */
	list_for_each (pos, &control->hosts) {
		const struct control_host *host = list_entry(pos, struct control_host, link);

		if (host->pid == pid && host->state != HOST_GREETING)
			now += 2;
		else if (host->pid == pid && attach_server_endpoint(host->server) != NULL)
			now += 4;
	}
	return maps + fds > now ? (maps + fds - now + 1) / 2 : 0;
}

/* Forget what `pid` has not kept, the oldest first. Outcasts stay. */
static void reconcile(struct control *control, pid_t pid)
{
	unsigned kept = kept_by(control, pid), n = 0;

	list_for_each (pos, &control->departed)
		n += list_entry(pos, struct departed, link)->pid == pid;
	list_for_each_safe (pos, &control->departed) {
		struct departed *d = list_entry(pos, struct departed, link);

		if (d->pid == pid && n > kept && !d->outcast) {
			departed_free(d);
			n--;
		}
	}
}

static unsigned count(const struct control *control, int host_index)
{
	unsigned n = 0;

	list_for_each (pos, &control->departed)
		n += list_entry(pos, struct departed, link)->host_index == host_index;
	return n;
}

unsigned departed_count(struct control *control, int host_index, unsigned enough)
{
	pid_t last = 0;

	if (count(control, host_index) < enough)
		return 0;
	list_for_each_safe (pos, &control->departed) {
		struct departed *d = list_entry(pos, struct departed, link);

		if (has_died(d->pidfd))
			departed_free(d);
	}
	/* Entries of one process mostly stand together: it is asked about once. `pid` grows, so
	 * that no entry freed by reconcile is looked at. */
	for (;;) {
		pid_t next = 0;

		list_for_each (pos, &control->departed) {
			const struct departed *d = list_entry(pos, struct departed, link);

			if (d->host_index == host_index && d->pid > last &&
			    (next == 0 || d->pid < next))
				next = d->pid;
		}
		if (next == 0)
			break;
		reconcile(control, next);
		last = next;
	}
	return count(control, host_index);
}

void departed_tick(struct control *control, uint64_t now_ns)
{
	if (list_empty(&control->departed) || now_ns < control->next_departed_ns)
		return;
	control->next_departed_ns = now_ns + LOOK_PERIOD_NS;
	list_for_each_safe (pos, &control->departed) {
		struct departed *d = list_entry(pos, struct departed, link);

		if (has_died(d->pidfd))
			departed_free(d);
	}
}

void departed_fini(struct control *control)
{
	while (!list_empty(&control->departed))
		departed_free(list_entry(list_first(&control->departed), struct departed, link));
}
