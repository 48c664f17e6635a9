/* Frames over a stream that never blocks.
 *
 * Both buffers begin at 16-byte aligned memory and frames are multiples of 8, so bodies are
 * aligned. How much may be in them is bounded by what may be in one frame (in) and by the sender,
 * which looks at link_backlog before it puts what costs of the window (out).
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "remote/remote_internal.h"

#define IN_ROOM  (64u << 10)
#define OUT_ROOM (64u << 10)
/* Beyond its largest frame what waits for a peer to read: more than honest traffic piles up. */
#define OUT_SLACK      (16u << 20)
#define KEEP_ROOM      (1u << 20)   /* a larger buffer is given back once it is empty */
#define READ_MAX       (256u << 10) /* of one link_read, so that other work gets its turn */
#define PULSE_ASKS     1u
#define PULSE_OF_LIMIT 3 /* ask after this part of the time in which something must be heard */

static size_t up8(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

int link_fail(struct remote_link *l, int code, const char *text)
{
	if (l->fault == 0 || l->deaf_end) {
		l->deaf_end = false;
		l->fault = code;
		snprintf(l->cause, sizeof(l->cause), "%s", text);
	}
	return l->fault;
}

int link_create(int fd, struct remote_tls *tls, bool server, struct remote_link **out)
{
	struct remote_link *l = calloc(1, sizeof(*l));
	int on = 1, rc;

	if (l == NULL) {
		close(fd);
		return -SPLIT_E_BASE_NOMEM;
	}
	l->fd = fd;
	l->frame_max = REMOTE_HELLO_MAX;
	l->heard_ns = l->said_ns = clock_ns();
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	rc = stream_init(l, tls, server);
	if (rc < 0) {
		link_destroy(l);
		return rc;
	}
	*out = l;
	return 0;
}

void link_destroy(struct remote_link *l)
{
	if (l == NULL)
		return;
	stream_fini(l);
	close(l->fd);
	free(l->in);
	free(l->out);
	free(l);
}

int link_fault(const struct remote_link *l)
{
	return l->fault;
}

const char *link_cause(const struct remote_link *l)
{
	return l->cause;
}

int link_fd(const struct remote_link *l)
{
	return l->fd;
}

void link_frame_max_set(struct remote_link *l, size_t bytes)
{
	l->frame_max = bytes;
}

static bool room_make(uint8_t **mem, size_t *room, size_t have, size_t want, size_t least)
{
	size_t n = *room > least ? *room : least;
	uint8_t *more;

	if (*room >= want)
		return true;
	while (n < want)
		n *= 2;
	more = aligned_alloc(16, n);
	if (more == NULL)
		return false;
	if (have != 0)
		memcpy(more, *mem, have);
	free(*mem);
	*mem = more;
	*room = n;
	return true;
}

/* ------------------------------------------------------------------ in */

static void in_compact(struct remote_link *l)
{
	if (l->in_at == 0)
		return;
	l->in_have -= l->in_at;
	if (l->in_have != 0)
		memmove(l->in, l->in + l->in_at, l->in_have);
	l->in_at = 0;
	if (l->in_have == 0 && l->in_room > KEEP_ROOM) {
		free(l->in);
		l->in = NULL;
		l->in_room = 0;
	}
}

/* Bytes that the frame at hand has, as far as is known. */
static size_t in_wanted(const struct remote_link *l)
{
	uint32_t bytes;

	if (l->in_have < sizeof(struct remote_head))
		return sizeof(struct remote_head);
	memcpy(&bytes, l->in, sizeof(bytes));
	return bytes <= l->frame_max ? bytes : sizeof(struct remote_head);
}

int link_read(struct remote_link *l, uint64_t now_ns)
{
	size_t most = READ_MAX;
	int took = 0;

	/* A peer that says why it goes may have closed before all of ours was written. */
	if (l->fault != 0 && !l->deaf_end)
		return l->fault;
	in_compact(l);
	l->more = true;
	if (l->in_have >= READ_MAX && l->in_have >= in_wanted(l))
		return 1; /* first what is here */
	while (most != 0) {
		size_t want = in_wanted(l), n;
		ssize_t got;

		if (want < l->in_have + IN_ROOM / 2)
			want = l->in_have + IN_ROOM / 2;
		if (!room_make(&l->in, &l->in_room, l->in_have, want, IN_ROOM))
			return link_fail(l, -SPLIT_E_BASE_NOMEM, "out of memory");
		n = l->in_room - l->in_have;
		got = stream_read(l, l->in + l->in_have, n);
		if (got == 0) {
			l->more = false;
			break;
		}
		if (got < 0)
			/* What came before the end is still to be looked at. */
			return took != 0 ? 1 : l->fault;
		l->in_have += (size_t)got;
		l->heard_ns = now_ns;
		took = 1;
		most = (size_t)got < most ? most - (size_t)got : 0;
		if ((size_t)got < n && l->ssl == NULL) {
			l->more = false;
			break; /* TLS gives one record at a time */
		}
	}
	return took;
}

int link_read_seen(struct remote_link *l, uint64_t now_ns)
{
	bool seen = l->readable || l->more;

	l->readable = false;
	return seen ? link_read(l, now_ns) : 0;
}

/* Turns in a row without a look at what is neither socket nor rings. */
#define BUSY_POLL 64

/* A system call less for each turn with work: the first one after it only looks at the rings,
 * further ones try the socket without asking. */
bool link_goes_on(struct remote_link *l, bool busy)
{
	l->busy = busy ? l->busy + 1 : 0;
	if (!busy || l->busy % BUSY_POLL == 0)
		return false;
	l->readable = l->busy > 1;
	return true;
}

void link_poll_next(struct remote_link *l)
{
	l->busy = BUSY_POLL - 1;
}

void link_polled(struct remote_link *l, short revents)
{
	l->readable = revents != 0;
}

int link_frame(struct remote_link *l, struct remote_frame *out)
{
	size_t have = l->in_have - l->in_at;
	struct remote_head h;

	if (have < sizeof(h))
		return 0;
	memcpy(&h, l->in + l->in_at, sizeof(h));
	if (h.bytes < sizeof(h) || h.bytes % 8 != 0 || h.bytes > l->frame_max || h.type == 0 ||
	    h.type >= REMOTE_TYPES || h.zero != 0 || h.flags > (h.type == REMOTE_PULSE))
		return link_fail(l, -SPLIT_E_REMOTE_FRAME, "a frame's head makes no sense");
	if (have < h.bytes)
		return 0;
	*out = (struct remote_frame){
		.type = (enum remote_type)h.type,
		.flags = h.flags,
		.body = l->in + l->in_at + sizeof(h),
		.bytes = h.bytes - sizeof(h),
	};
	l->in_at += h.bytes;
	return 1;
}

/* ------------------------------------------------------------------ out */

uint8_t *link_put(struct remote_link *l, enum remote_type type, size_t body_bytes)
{
	size_t bytes = sizeof(struct remote_head) + up8(body_bytes);
	struct remote_head h = {.bytes = (uint32_t)bytes, .type = (uint8_t)type};
	uint8_t *at;

	if (link_backlog(l) > l->out_largest + OUT_SLACK) {
		link_fail(l, -SPLIT_E_REMOTE_SILENT, "the peer does not read");
		return NULL;
	}
	if (bytes > l->out_largest)
		l->out_largest = bytes;
	if (l->out_at == l->out_have)
		l->out_at = l->out_have = 0;
	/* What has gone makes room before memory does: a link that is never idle would grow else.
	 */
	if (l->out_at >= l->out_have / 2 && l->out_at != 0 && l->out_have + bytes > l->out_room) {
		l->out_have -= l->out_at;
		memmove(l->out, l->out + l->out_at, l->out_have);
		l->out_at = 0;
	}
	if (bytes > UINT32_MAX - 8 ||
	    !room_make(&l->out, &l->out_room, l->out_have, l->out_have + bytes, OUT_ROOM)) {
		link_fail(l, -SPLIT_E_BASE_NOMEM, "out of memory");
		return NULL;
	}
	at = l->out + l->out_have;
	memcpy(at, &h, sizeof(h));
	if (body_bytes % 8 != 0)
		memset(at + bytes - 8, 0, 8);
	l->out_last = l->out_have;
	l->out_have += bytes;
	l->puts++;
	return at + sizeof(h);
}

void link_take_back(struct remote_link *l)
{
	l->out_have = l->out_last;
}

int link_say(struct remote_link *l, enum remote_type type, const void *body, size_t bytes)
{
	uint8_t *at = link_put(l, type, bytes);

	if (at == NULL)
		return l->fault;
	if (bytes != 0)
		memcpy(at, body, bytes);
	return 0;
}

int link_flush(struct remote_link *l)
{
	if (l->fault != 0)
		return l->fault;
	while (l->out_at < l->out_have) {
		ssize_t n = stream_write(l, l->out + l->out_at, l->out_have - l->out_at);

		if (n < 0)
			return l->fault;
		if (n == 0)
			return 1;
		l->out_at += (size_t)n;
	}
	l->out_at = l->out_have = 0;
	if (l->out_room > KEEP_ROOM) {
		free(l->out);
		l->out = NULL;
		l->out_room = 0;
	}
	return 0;
}

size_t link_backlog(const struct remote_link *l)
{
	return l->out_have - l->out_at;
}

/* ------------------------------------------------------------------ pulse */

/* Whether something came that nobody has read yet: it may be our turn that is late. */
static bool readable(const struct remote_link *l)
{
	struct pollfd p = {.fd = l->fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0 && (p.revents & POLLIN) != 0;
}

/* Each side says something at least once in a step, unasked: an asking PULSE may lie behind a large
 * message for longer than the whole timeout, while he who is to answer has nothing to say. */
int link_pulse(struct remote_link *l, uint64_t now_ns, uint64_t timeout_ns, uint64_t *next_ns)
{
	uint64_t step = timeout_ns / PULSE_OF_LIMIT;
	bool asks = now_ns > l->heard_ns && now_ns - l->heard_ns >= step;
	uint64_t last;
	uint8_t *at;

	if (l->puts != l->puts_seen)
		l->said_ns = now_ns;
	l->puts_seen = l->puts;
	if (now_ns > l->heard_ns && now_ns - l->heard_ns >= timeout_ns && !readable(l))
		return link_fail(l, -SPLIT_E_REMOTE_SILENT,
				 "nothing was heard of the peer in time");
	if ((asks || (now_ns > l->said_ns && now_ns - l->said_ns >= step)) &&
	    now_ns - l->pulse_ns >= step) {
		at = link_put(l, REMOTE_PULSE, 0);
		if (at == NULL)
			return l->fault;
		at[-3] = asks ? PULSE_ASKS : 0; /* remote_head.flags */
		l->pulse_ns = l->said_ns = now_ns;
		l->puts_seen = l->puts;
	}
	last = l->heard_ns < l->said_ns ? l->heard_ns : l->said_ns;
	if (last < l->pulse_ns)
		last = l->pulse_ns;
	*next_ns = last + step;
	return 0;
}

void link_silence_begin(struct remote_link *l, uint64_t now_ns)
{
	l->heard_ns = now_ns;
}

int link_pulse_answer(struct remote_link *l, const struct remote_frame *f)
{
	/* What waits to go is as good a sign of life. */
	return (f->flags & PULSE_ASKS) != 0 && link_backlog(l) == 0
		       ? link_say(l, REMOTE_PULSE, NULL, 0)
		       : 0;
}

/* ------------------------------------------------------------------ the greeting waits */

static int wait_step(struct remote_link *l, short events, uint64_t until_ns, int stop_fd)
{
	struct pollfd p[2] = {{.fd = l->fd, .events = events}, {.fd = stop_fd, .events = POLLIN}};
	uint64_t now_ns = clock_ns();
	int n;

	if (now_ns >= until_ns)
		return link_fail(l, -SPLIT_E_SHEPHERD_ATTACH_TIMEOUT, "no answer in time");
	n = poll(p, stop_fd >= 0 ? 2 : 1, (int)((until_ns - now_ns) / CLOCK_NS_PER_MS) + 1);
	if (n < 0 && errno != EINTR)
		return link_fail(l, -SPLIT_E_BASE_SYSTEM, strerror(errno));
	if (n > 0 && p[1].revents != 0)
		return link_fail(l, -SPLIT_E_REMOTE_CLOSED, "it stops");
	return 0;
}

int link_wait_sent(struct remote_link *l, uint64_t until_ns, int stop_fd)
{
	int rc;

	while ((rc = link_flush(l)) == 1) {
		rc = wait_step(l, link_events(l), until_ns, stop_fd);
		if (rc < 0)
			break;
	}
	return rc;
}

int link_wait_secure(struct remote_link *l, uint64_t until_ns, int stop_fd)
{
	int rc;

	while ((rc = stream_handshake(l)) == 1) {
		rc = wait_step(l, link_events(l), until_ns, stop_fd);
		if (rc < 0)
			break;
	}
	return rc;
}

int link_wait_frame(struct remote_link *l, enum remote_type type, uint64_t until_ns, int stop_fd,
		    struct remote_frame *out)
{
	int rc;

	for (;;) {
		rc = link_frame(l, out);
		if (rc < 0)
			return rc;
		if (rc == 1)
			break;
		rc = link_read(l, clock_ns());
		if (rc < 0)
			return rc;
		if (rc == 0 && (rc = wait_step(l, link_events(l), until_ns, stop_fd)) < 0)
			return rc;
	}
	if (out->type == REMOTE_REFUSED && type != REMOTE_REFUSED)
		return 1;
	return out->type == type
		       ? 0
		       : link_fail(l, -SPLIT_E_REMOTE_FRAME, "another frame than was expected");
}

/* ------------------------------------------------------------------ addresses */

#define SCHEME "tcp://"

bool remote_is_address(const char *path)
{
	return path != NULL && strncmp(path, SCHEME, sizeof(SCHEME) - 1) == 0;
}

/* "host:port" or "[v6]:port". */
static bool address_split(const char *path, char *host, size_t host_bytes, const char **port)
{
	const char *from = path + sizeof(SCHEME) - 1, *end, *colon;

	if (*from == '[') {
		from++;
		end = strchr(from, ']');
		colon = end != NULL && end[1] == ':' ? end + 1 : NULL;
	} else {
		end = colon = strrchr(from, ':');
	}
	if (end == NULL || colon == NULL || end == from || (size_t)(end - from) >= host_bytes ||
	    colon[1] == '\0')
		return false;
	memcpy(host, from, (size_t)(end - from));
	host[end - from] = '\0';
	*port = colon + 1;
	return true;
}

/* A signal of the program's is no reason to give up. */
static bool connect_wait(struct pollfd *p, int timeout_ms)
{
	uint64_t until_ns = clock_ns() + (uint64_t)timeout_ms * CLOCK_NS_PER_MS, now_ns;
	int n;

	while ((n = poll(p, 1, timeout_ms)) < 0 && errno == EINTR) {
		now_ns = clock_ns();
		timeout_ms = now_ns < until_ns ? (int)((until_ns - now_ns) / CLOCK_NS_PER_MS) : 0;
	}
	return n == 1;
}

static int connect_one(const struct addrinfo *a, int timeout_ms)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(int);
	int error = 0;

	if (fd < 0)
		return -1;
	if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
		return fd;
	if (errno == EINPROGRESS) {
		if (!connect_wait(&p, timeout_ms))
			error = ETIMEDOUT;
		else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
			error = errno;
		if (error == 0)
			return fd;
		errno = error;
	}
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

int remote_connect(const char *path, int timeout_ms, char *host, size_t host_bytes, char *why,
		   size_t why_bytes)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	const char *port;
	int fd = -1, rc;

	if (!remote_is_address(path) || !address_split(path, host, host_bytes, &port)) {
		snprintf(why, why_bytes, "%s", error_text(-SPLIT_E_REMOTE_ADDRESS));
		return -SPLIT_E_REMOTE_ADDRESS;
	}
	rc = getaddrinfo(host, port, &hints, &list);
	if (rc != 0) {
		snprintf(why, why_bytes, "%s: %s", path, gai_strerror(rc));
		return -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
	}
	for (const struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next)
		fd = connect_one(a, timeout_ms);
	if (fd < 0)
		snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
	freeaddrinfo(list);
	return fd >= 0 ? fd : -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
}
