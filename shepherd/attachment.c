/* The host's end of an attach: connect, say who we are, map what is offered, say where, wait until
 * active. The only part of shepherd that waits, each time at most timeout_ms. */
#include "shepherd/shepherd_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct opening {
	int fd;
	int timeout_ms;
	bool lazy;
	struct attach_refusal *why;
	struct attachment *a;
	int eventfds[SHEPHERD_DAEMON_WORKERS_MAX];
	unsigned eventfds_n;
};

static int fail(struct opening *o, int code, const char *text)
{
	if (o->why != NULL && o->why->code == 0) {
		o->why->code = code;
		snprintf(o->why->text, sizeof(o->why->text), "%s", text);
	}
	return code;
}

static int wait_for(struct opening *o, short events)
{
	struct pollfd pfd = {.fd = o->fd, .events = events};
	int n;

	do
		n = poll(&pfd, 1, o->timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return fail(o, -SPLIT_E_BASE_SYSTEM, "poll failed");
	return n != 0 ? 0
		      : fail(o, -SPLIT_E_SHEPHERD_ATTACH_TIMEOUT, "splitd does not answer in time");
}

static int say(struct opening *o, const void *packet, size_t bytes)
{
	int rc;

	while ((rc = attach_send(o->fd, packet, bytes, NULL, 0)) ==
	       -SPLIT_E_SHEPHERD_ATTACH_TIMEOUT) {
		rc = wait_for(o, POLLOUT);
		if (rc < 0)
			return rc;
	}
	return rc;
}

/* Receive one packet of `type`; REFUSED becomes its code and text. */
static int hear(struct opening *o, enum attach_type type, void *packet, size_t room,
		struct attach_received *r)
{
	union {
		struct attach_refused_packet refused;
		uint8_t bytes[sizeof(struct attach_refused_packet) + 1];
	} buf;
	int rc;

	while ((rc = attach_receive(o->fd, &buf, sizeof(buf), r)) == SPLIT_AGAIN) {
		rc = wait_for(o, POLLIN);
		if (rc < 0)
			return rc;
	}
	if (rc < 0)
		return fail(o, rc, "splitd closed the socket");
	rc = attach_header_parse(buf.bytes, r->bytes);
	if (rc == ATTACH_REFUSED) {
		buf.refused.text[ATTACH_TEXT_MAX - 1] = '\0';
		fail(o, buf.refused.code < 0 ? buf.refused.code : -SPLIT_E_SHEPHERD_ATTACH_REFUSED,
		     buf.refused.text);
		attach_received_close(r);
		return -SPLIT_E_SHEPHERD_ATTACH_REFUSED;
	}
	if (rc != (int)type || r->bytes > room) {
		attach_received_close(r);
		return fail(o, rc < 0 ? rc : -SPLIT_E_SHEPHERD_ATTACH_ORDER,
			    "splitd said something else than was expected");
	}
	memcpy(packet, &buf, r->bytes);
	return 0;
}

static int send_hello(struct opening *o, const struct attach_hello *hello)
{
	struct attach_hello_packet p = {.workers = hello->workers,
					.workers_min = hello->workers_min,
					.yield_signal = hello->yield_signal};
	struct attach_blob_packet *part = NULL;
	const size_t part_max = ATTACH_PART_MAX - sizeof(*part);
	uint8_t *blob = NULL;
	size_t bytes = 0;
	int rc;

	if (!attach_name_valid(hello->name, ATTACH_NAME_MAX))
		return fail(o, -SPLIT_E_BASE_INVALID, "the host's name is not valid");
	rc = attach_blob_make(hello, &blob, &bytes);
	if (rc < 0)
		return fail(o, rc, "too many methods, or a schema that is too large");
	part = malloc(ATTACH_PART_MAX);
	if (part == NULL) {
		rc = -SPLIT_E_BASE_NOMEM;
		goto out;
	}
	memcpy(p.name, hello->name, strlen(hello->name));
	p.blob_bytes = (uint32_t)bytes;
	attach_header_fill(&p.header, ATTACH_HELLO, sizeof(p));
	rc = say(o, &p, sizeof(p));
	for (size_t at = 0; rc == 0 && at < bytes;) {
		size_t n = bytes - at < part_max ? bytes - at : part_max;

		attach_header_fill(&part->header, ATTACH_BLOB, sizeof(*part) + n);
		part->offset = (uint32_t)at;
		part->reserved = 0;
		memcpy(part->bytes, blob + at, n);
		rc = say(o, part, sizeof(*part) + n);
		at += n;
	}
	/* A daemon that refuses closes; its REFUSED is still to be read. */
	if (rc == -SPLIT_E_SHEPHERD_ATTACH_CLOSED)
		rc = 0;
out:
	free(part);
	free(blob);
	return rc;
}

static int segment_adopt(struct segment *s, int fd, uint64_t bytes, bool huge)
{
	struct stat st;

	*s = (struct segment){.fd = fd, .bytes = bytes, .huge = huge};
	if (bytes == 0 || bytes > SHEPHERD_SEGMENT_MAX || fstat(fd, &st) < 0 ||
	    (uint64_t)st.st_size != bytes)
		return -SPLIT_E_SHEPHERD_GEOMETRY;
	return 0;
}

static int take_offer(struct opening *o)
{
	struct attach_offer_packet p;
	struct attach_received r;
	struct attachment *a = o->a;
	int rc = hear(o, ATTACH_OFFER, &p, sizeof(p), &r);

	if (rc < 0)
		return rc;
	if (p.daemon_workers < 1 || p.daemon_workers > SHEPHERD_DAEMON_WORKERS_MAX ||
	    r.fds_n != 2 + p.daemon_workers) {
		attach_received_close(&r);
		return fail(o, -SPLIT_E_SHEPHERD_ATTACH_MALFORMED, "an offer that makes no sense");
	}
	/* From here on each descriptor has its owner. */
	o->eventfds_n = p.daemon_workers;
	memcpy(o->eventfds, r.fds + 2, p.daemon_workers * sizeof(int));
	rc = segment_adopt(&a->to_host, r.fds[0], p.to_host_bytes, p.huge != 0);
	if (segment_adopt(&a->to_daemon, r.fds[1], p.to_daemon_bytes, p.huge != 0) < 0)
		rc = -SPLIT_E_SHEPHERD_GEOMETRY;
	a->to_host.lazy = a->to_daemon.lazy = o->lazy;
	if (rc == 0)
		rc = segment_map(&a->to_host, false, NULL);
	if (rc == 0)
		rc = segment_map(&a->to_daemon, true, NULL);
	if (rc < 0)
		return fail(o, rc, "the segments could not be mapped");
	a->life.shared = (const struct geometry *)a->to_host.mem;
	a->geometry = *a->life.shared;
	a->geometry.detach_epoch = 0;
	rc = geometry_check(&a->geometry, a->to_host.bytes, a->to_daemon.bytes);
	if (rc == 0 && a->geometry.daemon_workers != o->eventfds_n)
		rc = -SPLIT_E_SHEPHERD_GEOMETRY;
	return rc < 0 ? fail(o, rc, "splitd lays its segments out differently") : 0;
}

static int take_place(struct opening *o)
{
	struct attach_bases_packet p = {
		.to_host_base = (uint64_t)(uintptr_t)o->a->to_host.mem,
		.to_daemon_base = (uint64_t)(uintptr_t)o->a->to_daemon.mem,
	};
	struct attach_header active;
	struct attach_received r;
	int rc;

	/* The mappings stay; the descriptors have done their work. */
	close(o->a->to_host.fd);
	close(o->a->to_daemon.fd);
	o->a->to_host.fd = o->a->to_daemon.fd = -1;
	attach_header_fill(&p.header, ATTACH_BASES, sizeof(p));
	rc = say(o, &p, sizeof(p));
	if (rc == 0 || rc == -SPLIT_E_SHEPHERD_ATTACH_CLOSED)
		rc = hear(o, ATTACH_ACTIVE, &active, sizeof(active), &r);
	if (rc == 0)
		attach_received_close(&r);
	return rc;
}

static void attachment_free(struct attachment *a)
{
	segment_destroy(&a->to_host);
	segment_destroy(&a->to_daemon);
	if (a->peers != NULL)
		for (unsigned d = 0; d < a->geometry.daemon_workers; d++)
			if (a->peers[d].eventfd >= 0)
				close(a->peers[d].eventfd);
	free(a->peers);
	free(a->lanes);
	free(a->workers);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
}

int attachment_open_fd(int fd, const struct attach_hello *hello, int timeout_ms,
		       struct attachment **out, struct attach_refusal *why)
{
	struct opening o = {.fd = fd, .timeout_ms = timeout_ms, .why = why, .lazy = hello->lazy};
	int rc;

	if (why != NULL)
		*why = (struct attach_refusal){0};
	o.a = calloc(1, sizeof(*o.a));
	if (o.a == NULL) {
		close(fd);
		return fail(&o, -SPLIT_E_BASE_NOMEM, "out of memory");
	}
	o.a->fd = fd;
	o.a->to_host.fd = o.a->to_daemon.fd = -1;
	rc = send_hello(&o, hello);
	if (rc == 0)
		rc = take_offer(&o);
	if (rc == 0) {
		rc = attachment_wire(o.a, o.eventfds);
		if (rc == 0)
			o.eventfds_n = 0; /* they are the attachment's now */
	}
	if (rc == 0)
		rc = take_place(&o);
	if (rc == 0) {
		*out = o.a;
		return 0;
	}
	while (o.eventfds_n > 0)
		close(o.eventfds[--o.eventfds_n]);
	attachment_free(o.a);
	return fail(&o, rc, error_text(rc));
}

int attachment_open(const char *path, const struct attach_hello *hello, int timeout_ms,
		    struct attachment **out, struct attach_refusal *why)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct opening o = {.why = why};
	int fd, flags;

	if (why != NULL)
		*why = (struct attach_refusal){0};
	if (strlen(path) >= sizeof(address.sun_path))
		return fail(&o, -SPLIT_E_BASE_INVALID, "the socket's path is too long");
	memcpy(address.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(&o, -SPLIT_E_BASE_SYSTEM, strerror(errno));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int error = errno;

		close(fd);
		return fail(&o, -SPLIT_E_SHEPHERD_ATTACH_CLOSED, strerror(error));
	}
	flags = fcntl(fd, F_GETFL);
	if (flags >= 0)
		fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	return attachment_open_fd(fd, hello, timeout_ms, out, why);
}

int attachment_leave(struct attachment *a)
{
	struct attach_header h;

	attach_header_fill(&h, ATTACH_LEAVING, sizeof(h));
	return attach_send(a->fd, &h, sizeof(h), NULL, 0);
}

int attachment_take(struct attachment *a)
{
	uint8_t packet[ATTACH_PART_MAX];
	struct attach_received r;
	int rc = attach_receive(a->fd, packet, sizeof(packet), &r);
	bool drained = rc == 0 && attach_header_parse(packet, r.bytes) == ATTACH_DRAINED;

	attach_received_close(&r);
	return rc < 0 ? rc : drained;
}

void attachment_close(struct attachment *a)
{
	struct attach_header h;

	if (a == NULL)
		return;
	attach_header_fill(&h, ATTACH_GOODBYE, sizeof(h));
	if (attach_send(a->fd, &h, sizeof(h), NULL, 0) < 0)
		attachment_lost(a); /* nobody is there to hear it */
	attachment_free(a);
}
