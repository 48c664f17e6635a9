/* Attach packets: making, sending, receiving, parsing. Everything that comes in is hostile: sizes
 * are checked before anything is read, descriptors that nobody asked for are closed. */
#include "shepherd/shepherd_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void attach_header_fill(struct attach_header *h, enum attach_type type, size_t bytes)
{
	*h = (struct attach_header){
		.magic = ATTACH_MAGIC,
		.type = (uint16_t)type,
		.version = SHEPHERD_VERSION,
		.layout = ATTACH_LAYOUT,
		.bytes = (uint32_t)bytes,
	};
}

int attach_header_parse(const uint8_t *packet, size_t bytes)
{
	struct attach_header h;
	size_t min, max;

	if (bytes < sizeof(h))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	memcpy(&h, packet, sizeof(h));
	if (h.magic != ATTACH_MAGIC)
		return h.magic == __builtin_bswap32(ATTACH_MAGIC)
			       ? -SPLIT_E_SHEPHERD_ATTACH_LAYOUT
			       : -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	/* Version first: what follows may mean something else in another one. */
	if (h.version != SHEPHERD_VERSION)
		return -SPLIT_E_SHEPHERD_ATTACH_VERSION;
	if (h.layout != ATTACH_LAYOUT)
		return -SPLIT_E_SHEPHERD_ATTACH_LAYOUT;
	if (h.bytes != bytes)
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	switch (h.type) {
	case ATTACH_HELLO:
		min = max = sizeof(struct attach_hello_packet);
		break;
	case ATTACH_BLOB:
		min = sizeof(struct attach_blob_packet) + 1;
		max = ATTACH_PART_MAX;
		break;
	case ATTACH_OFFER:
		min = max = sizeof(struct attach_offer_packet);
		break;
	case ATTACH_BASES:
		min = max = sizeof(struct attach_bases_packet);
		break;
	case ATTACH_ACTIVE:
	case ATTACH_GOODBYE:
	case ATTACH_LEAVING:
	case ATTACH_DRAINED:
		min = max = sizeof(struct attach_header);
		break;
	case ATTACH_REFUSED:
		min = max = sizeof(struct attach_refused_packet);
		break;
	default:
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	}
	return bytes < min || bytes > max ? -SPLIT_E_SHEPHERD_ATTACH_MALFORMED : h.type;
}

static bool text_valid(const char *s, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (s[i] <= ' ' || s[i] > '~')
			return false;
	return bytes > 0;
}

bool attach_name_valid(const char *name, size_t room)
{
	size_t bytes = strnlen(name, room);

	return bytes < room && text_valid(name, bytes);
}

int attach_packet_check(const uint8_t *packet, size_t bytes)
{
	struct attach_hello_packet hello;
	int type = attach_header_parse(packet, bytes);

	if (type != ATTACH_HELLO)
		return type < 0 ? type : 0;
	memcpy(&hello, packet, sizeof(hello));
	if (!attach_name_valid(hello.name, sizeof(hello.name)) || hello.workers < 1 ||
	    hello.workers > SHEPHERD_HOST_WORKERS_MAX || hello.workers_min > hello.workers ||
	    (hello.yield_signal != 0 &&
	     (hello.yield_signal < ATTACH_SIGNAL_MIN || hello.yield_signal > ATTACH_SIGNAL_MAX)))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	return 0;
}

/* ---- the blob */

/* One record at `p`, `left` bytes: how long it is with its strings, or 0 when it is not sound. */
static size_t record_bytes(const uint8_t *p, size_t left, struct attach_method_record *r)
{
	size_t bytes = sizeof(*r);

	if (left < bytes)
		return 0;
	memcpy(r, p, sizeof(*r));
	bytes += (size_t)r->service_bytes + r->method_bytes + r->options_bytes + r->channel_bytes;
	if (left < bytes || r->kind > ATTACH_BIDI ||
	    !text_valid((const char *)p + sizeof(*r), r->service_bytes) ||
	    !text_valid((const char *)p + sizeof(*r) + r->service_bytes, r->method_bytes) ||
	    memchr(p + sizeof(*r), '/', (size_t)r->service_bytes + r->method_bytes) != NULL)
		return 0;
	if (r->channel_bytes != 0 &&
	    !text_valid((const char *)p + bytes - r->channel_bytes, r->channel_bytes))
		return 0;
	return bytes;
}

/* Behind the names; a shorter record than ours leaves the rest at zero. -1: a value that cannot be.
 */
static int options_parse(const uint8_t *p, size_t bytes, struct attach_method_options *out)
{
	struct attach_options_record r = {0};

	memcpy(&r, p, bytes < sizeof(r) ? bytes : sizeof(r));
	*out = (struct attach_method_options){
		.request_bytes_max = r.request_bytes_max,
		.response_bytes_max = r.response_bytes_max,
		.deadline_ns = r.deadline_ns,
		.decode = r.decode,
		.encode = r.encode,
		.idempotency = r.idempotency,
	};
	return r.decode > 2 || r.encode > 2 || r.idempotency > 2 ? -1 : 0;
}

static char *string_copy(char **at, const uint8_t *from, size_t bytes)
{
	char *s = *at;

	memcpy(s, from, bytes);
	s[bytes] = '\0';
	*at += bytes + 1;
	return s;
}

static int methods_parse(const uint8_t *p, size_t bytes, uint32_t n, struct attach_table *out)
{
	struct attach_method_record r;
	struct attach_method *m;
	size_t strings = 0, at = 0, len;
	char *text;

	for (uint32_t i = 0; i < n; i++) {
		len = record_bytes(p + at, bytes - at, &r);
		if (len == 0)
			return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
		strings += (size_t)r.service_bytes + r.method_bytes + r.channel_bytes + 3;
		at += len;
	}
	if (at != bytes)
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	m = malloc(n * sizeof(*m) + strings + 1);
	if (m == NULL)
		return -SPLIT_E_BASE_NOMEM;
	text = (char *)(m + n);
	at = 0;
	for (uint32_t i = 0; i < n; i++) {
		len = record_bytes(p + at, bytes - at, &r);
		m[i] = (struct attach_method){
			.kind = (enum attach_kind)r.kind,
			.read_ahead = r.read_ahead,
			.input_schema = r.input_schema,
			.output_schema = r.output_schema,
			.code = r.code,
			.data = r.data,
			.service = string_copy(&text, p + at + sizeof(r), r.service_bytes),
			.method = string_copy(&text, p + at + sizeof(r) + r.service_bytes,
					      r.method_bytes),
		};
		if (r.channel_bytes != 0)
			m[i].channel =
				string_copy(&text, p + at + len - r.channel_bytes, r.channel_bytes);
		if (options_parse(p + at + len - r.channel_bytes - r.options_bytes, r.options_bytes,
				  &m[i].options) != 0) {
			free(m);
			return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
		}
		at += len;
	}
	out->methods = m;
	out->methods_n = n;
	return 0;
}

int attach_blob_parse(const uint8_t *blob, size_t bytes, struct attach_table *out)
{
	struct attach_blob_head head;

	*out = (struct attach_table){0};
	if (bytes < sizeof(head))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	memcpy(&head, blob, sizeof(head));
	if (head.methods_n > ATTACH_METHODS_MAX)
		return -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
	if ((uint64_t)head.methods_bytes + head.schema_bytes != bytes - sizeof(head))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	out->schema = blob + sizeof(head) + head.methods_bytes;
	out->schema_bytes = head.schema_bytes;
	return methods_parse(blob + sizeof(head), head.methods_bytes, head.methods_n, out);
}

void attach_table_fini(struct attach_table *table)
{
	free(table->methods);
	*table = (struct attach_table){0};
}

int attach_blob_check(const uint8_t *blob, size_t bytes)
{
	struct attach_table table;
	int rc = attach_blob_parse(blob, bytes, &table);

	attach_table_fini(&table);
	return rc;
}

/* How much of an options record a method needs: all or nothing. */
static uint8_t options_bytes(const struct attach_method_options *o)
{
	bool any = o->request_bytes_max != 0 || o->response_bytes_max != 0 || o->deadline_ns != 0 ||
		   o->decode != 0 || o->encode != 0 || o->idempotency != 0;

	return any ? sizeof(struct attach_options_record) : 0;
}

static void options_make(const struct attach_method_options *o, uint8_t *at)
{
	struct attach_options_record r = {
		.deadline_ns = o->deadline_ns,
		.request_bytes_max = o->request_bytes_max,
		.response_bytes_max = o->response_bytes_max,
		.decode = o->decode,
		.encode = o->encode,
		.idempotency = o->idempotency,
	};

	memcpy(at, &r, options_bytes(o));
}

static size_t channel_bytes(const struct attach_method *m)
{
	return m->channel != NULL ? strlen(m->channel) : 0;
}

int attach_blob_make(const struct attach_hello *hello, uint8_t **out, size_t *bytes_out)
{
	struct attach_blob_head head = {.methods_n = (uint32_t)hello->methods_n};
	uint64_t methods_bytes = 0;
	uint8_t *blob, *at;

	if (hello->methods_n > ATTACH_METHODS_MAX)
		return -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
	for (size_t i = 0; i < hello->methods_n; i++) {
		size_t service = strlen(hello->methods[i].service);
		size_t method = strlen(hello->methods[i].method);
		size_t channel = channel_bytes(&hello->methods[i]);

		if (service > UINT8_MAX || method > UINT8_MAX || channel > UINT8_MAX)
			return -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
		methods_bytes += sizeof(struct attach_method_record) + service + method + channel +
				 options_bytes(&hello->methods[i].options);
	}
	if (methods_bytes + hello->schema_bytes + sizeof(head) > ATTACH_BLOB_MAX)
		return -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
	head.methods_bytes = (uint32_t)methods_bytes;
	head.schema_bytes = (uint32_t)hello->schema_bytes;
	*bytes_out = sizeof(head) + methods_bytes + hello->schema_bytes;
	blob = malloc(*bytes_out);
	if (blob == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memcpy(blob, &head, sizeof(head));
	at = blob + sizeof(head);
	for (size_t i = 0; i < hello->methods_n; i++) {
		const struct attach_method *m = &hello->methods[i];
		struct attach_method_record r = {
			.code = m->code,
			.data = m->data,
			.input_schema = m->input_schema,
			.output_schema = m->output_schema,
			.kind = (uint8_t)m->kind,
			.read_ahead = m->read_ahead,
			.service_bytes = (uint8_t)strlen(m->service),
			.method_bytes = (uint8_t)strlen(m->method),
			.options_bytes = options_bytes(&m->options),
			.channel_bytes = (uint8_t)channel_bytes(m),
		};

		memcpy(at, &r, sizeof(r));
		at += sizeof(r);
		memcpy(at, m->service, r.service_bytes);
		at += r.service_bytes;
		memcpy(at, m->method, r.method_bytes);
		at += r.method_bytes;
		options_make(&m->options, at);
		at += r.options_bytes;
		if (r.channel_bytes != 0)
			memcpy(at, m->channel, r.channel_bytes);
		at += r.channel_bytes;
	}
	if (hello->schema_bytes != 0)
		memcpy(at, hello->schema, hello->schema_bytes);
	*out = blob;
	return 0;
}

/* ---- the socket */

int attach_send(int fd, const void *packet, size_t bytes, const int *fds, size_t fds_n)
{
	union {
		char room[CMSG_SPACE(sizeof(int) * ATTACH_FDS_MAX)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = (void *)packet, .iov_len = bytes};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (fds_n > ATTACH_FDS_MAX)
		return -SPLIT_E_BASE_INVALID;
	if (fds_n != 0) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.room;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fds_n);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * fds_n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * fds_n);
	}
	do
		n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -SPLIT_E_SHEPHERD_ATTACH_TIMEOUT
				       : -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
	return (size_t)n == bytes ? 0 : -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
}

static void received_fds(struct attach_received *out, const struct cmsghdr *c)
{
	size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
		if (out->fds_n < ATTACH_FDS_MAX)
			out->fds[out->fds_n++] = fd;
		else
			close(fd);
	}
}

int attach_receive(int fd, void *buf, size_t room, struct attach_received *out)
{
	union {
		char room[CMSG_SPACE(sizeof(int) * ATTACH_FDS_MAX) +
			  CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = room};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.room,
			     .msg_controllen = sizeof(control.room)};
	int resets = 0;
	ssize_t n;

	*out = (struct attach_received){0};
	/* A peer that closed with packets of ours unread raises ECONNRESET once, before what it had
	 * sent can be read: that may be the REFUSED with the reason. */
	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
	if (n < 0)
		return errno == EAGAIN ? SPLIT_AGAIN : -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS) {
			received_fds(out, c);
		} else if (c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred u;

			memcpy(&u, CMSG_DATA(c), sizeof(u));
			out->has_credentials = u.pid > 0;
			out->pid = u.pid;
			out->uid = u.uid;
			out->gid = u.gid;
		}
	}
	out->bytes = (size_t)n;
	if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
		attach_received_close(out);
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	}
	/* A zero-length packet and the end of the stream look alike; both end the attach. */
	if (n == 0) {
		attach_received_close(out);
		return -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
	}
	return 0;
}

void attach_received_close(struct attach_received *r)
{
	while (r->fds_n > 0)
		close(r->fds[--r->fds_n]);
}
