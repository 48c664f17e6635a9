/* The daemon's end of an attach: one small state machine for each connection.
 *
 *     HELLO → (admit) → BLOB … → REQUESTED → offer → BASES → MAPPED → activate → ACTIVE
 *
 * It never waits: each step takes what is there. How long a host may dawdle is the control thread's
 * to bound; how much it may make us keep is bounded here (one blob, once it was admitted).
 */
#include "shepherd/shepherd_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define STEP_PACKETS_MAX 16

enum server_state {
	WANT_HELLO,
	WANT_BLOB,
	HAVE_REQUEST,
	WANT_BASES,
	HAVE_MAPPED,
	ACTIVE,
	FAILED,
};

struct attach_server {
	int fd;
	enum server_state state;
	struct attach_policy policy;
	struct attach_request request;
	char name[ATTACH_NAME_MAX];
	uint8_t *blob;
	size_t blob_bytes, blob_have;
	struct attach_table table;
	struct endpoint *endpoint;
};

int attach_server_create(int fd, const struct attach_policy *policy, struct attach_server **out)
{
	struct attach_server *s = calloc(1, sizeof(*s));
	int on = 1;

	if (s == NULL) {
		close(fd);
		return -SPLIT_E_BASE_NOMEM;
	}
	s->fd = fd;
	s->policy = *policy;
	if (s->policy.blob_bytes_max == 0 || s->policy.blob_bytes_max > ATTACH_BLOB_MAX)
		s->policy.blob_bytes_max = ATTACH_BLOB_MAX;
	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0) {
		attach_server_destroy(s);
		return -SPLIT_E_BASE_SYSTEM;
	}
	*out = s;
	return 0;
}

int attach_server_fd(const struct attach_server *s)
{
	return s->fd;
}

const struct attach_request *attach_server_request(const struct attach_server *s)
{
	return &s->request;
}

struct endpoint *attach_server_endpoint(const struct attach_server *s)
{
	return s->endpoint;
}

void attach_server_refuse(struct attach_server *s, int code, const char *text)
{
	struct attach_refused_packet p;

	if (s->state == FAILED || s->state == ACTIVE)
		return;
	s->state = FAILED;
	memset(&p, 0, sizeof(p));
	attach_header_fill(&p.header, ATTACH_REFUSED, sizeof(p));
	p.code = code;
	snprintf(p.text, sizeof(p.text), "%s", text);
	if (attach_send(s->fd, &p, sizeof(p), NULL, 0) < 0)
		return; /* it has gone, or does not read: nothing more can be done for it */
	shutdown(s->fd, SHUT_WR);
}

/* Who sent HELLO: by the packet's credentials, which the kernel vouches for. A packet sent in the
 * instant between accept and SO_PASSCRED has none; then it is who connected. */
static int identify(struct attach_server *s, const struct attach_received *r)
{
	struct ucred u;
	socklen_t len = sizeof(u);

	if (r->has_credentials) {
		s->request.pid = r->pid;
		s->request.uid = r->uid;
		s->request.gid = r->gid;
		return 0;
	}
	if (getsockopt(s->fd, SOL_SOCKET, SO_PEERCRED, &u, &len) < 0 || u.pid <= 0)
		return -SPLIT_E_SHEPHERD_ATTACH_UID;
	s->request.pid = u.pid;
	s->request.uid = u.uid;
	s->request.gid = u.gid;
	return 0;
}

static int take_request(struct attach_server *s, enum attach_event *event)
{
	int rc = attach_blob_parse(s->blob, s->blob_bytes, &s->table);

	if (rc < 0)
		return rc;
	s->request.methods = s->table.methods;
	s->request.methods_n = s->table.methods_n;
	s->request.schema = s->table.schema;
	s->request.schema_bytes = s->table.schema_bytes;
	s->state = HAVE_REQUEST;
	*event = ATTACH_REQUESTED;
	return 0;
}

static int take_hello(struct attach_server *s, const uint8_t *packet, size_t bytes,
		      const struct attach_received *r)
{
	struct attach_hello_packet p;
	int rc = attach_packet_check(packet, bytes);

	if (rc < 0)
		return rc;
	memcpy(&p, packet, sizeof(p));
	if (p.blob_bytes < sizeof(struct attach_blob_head))
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	if (p.blob_bytes > s->policy.blob_bytes_max)
		return -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
	rc = identify(s, r);
	if (rc < 0)
		return rc;
	memcpy(s->name, p.name, sizeof(s->name));
	s->request.name = s->name;
	s->request.workers = p.workers;
	s->request.workers_min = p.workers_min != 0 ? p.workers_min : p.workers;
	s->request.yield_signal = p.yield_signal;
	rc = s->policy.admit == NULL ? 0 : s->policy.admit(s->policy.ctx, &s->request);
	if (rc < 0)
		return rc;
	s->blob_bytes = p.blob_bytes;
	s->blob = malloc(s->blob_bytes);
	if (s->blob == NULL)
		return -SPLIT_E_BASE_NOMEM;
	s->state = WANT_BLOB;
	return 0;
}

static int take_blob(struct attach_server *s, const uint8_t *packet, size_t bytes,
		     enum attach_event *event)
{
	struct attach_blob_packet p;
	size_t n = bytes - sizeof(p);

	memcpy(&p, packet, sizeof(p));
	if (p.offset != s->blob_have || n > s->blob_bytes - s->blob_have)
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	memcpy(s->blob + s->blob_have, packet + sizeof(p), n);
	s->blob_have += n;
	return s->blob_have == s->blob_bytes ? take_request(s, event) : 0;
}

static int take_bases(struct attach_server *s, const uint8_t *packet, enum attach_event *event)
{
	struct attach_bases_packet p;
	int rc;

	memcpy(&p, packet, sizeof(p));
	rc = endpoint_map(s->endpoint, p.to_host_base, p.to_daemon_base);
	if (rc < 0)
		return rc;
	s->state = HAVE_MAPPED;
	*event = ATTACH_MAPPED;
	return 0;
}

static int take(struct attach_server *s, const uint8_t *packet, const struct attach_received *r,
		enum attach_event *event)
{
	int type = attach_header_parse(packet, r->bytes);

	if (type < 0)
		return type;
	if (r->fds_n != 0)
		return -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	if (type == ATTACH_HELLO && s->state == WANT_HELLO)
		return take_hello(s, packet, r->bytes, r);
	if (type == ATTACH_BLOB && s->state == WANT_BLOB)
		return take_blob(s, packet, r->bytes, event);
	if (type == ATTACH_BASES && s->state == WANT_BASES)
		return take_bases(s, packet, event);
	if (type == ATTACH_LEAVING && s->state == ACTIVE) {
		*event = ATTACH_LEAVES;
		return 0;
	}
	if (type == ATTACH_GOODBYE && s->state == ACTIVE) {
		*event = ATTACH_DETACHED;
		return 0;
	}
	return -SPLIT_E_SHEPHERD_ATTACH_ORDER;
}

int attach_server_step(struct attach_server *s, enum attach_event *event)
{
	uint8_t packet[ATTACH_PART_MAX];
	struct attach_received r;
	int rc = 0;

	*event = ATTACH_NOTHING;
	if (s->state == FAILED)
		return -SPLIT_E_SHEPHERD_ATTACH_CLOSED;
	for (int i = 0; i < STEP_PACKETS_MAX && rc == 0 && *event == ATTACH_NOTHING; i++) {
		rc = attach_receive(s->fd, packet, sizeof(packet), &r);
		if (rc == 0)
			rc = take(s, packet, &r, event);
		attach_received_close(&r);
	}
	if (rc >= 0)
		return 0;
	if (s->state == ACTIVE && rc == -SPLIT_E_SHEPHERD_ATTACH_CLOSED) {
		*event = ATTACH_DETACHED;
		return 0;
	}
	attach_server_refuse(s, rc, error_text(rc));
	s->state = FAILED;
	return rc;
}

int attach_server_offer(struct attach_server *s, const struct endpoint_config *config)
{
	int rc;

	if (s->state != HAVE_REQUEST)
		return -SPLIT_E_BASE_INVALID;
	rc = endpoint_create(config, &s->request, &s->endpoint);
	if (rc == 0)
		rc = endpoint_offer(s->endpoint, s->fd);
	if (rc < 0) {
		attach_server_refuse(s, rc, error_text(rc));
		s->state = FAILED;
		return rc;
	}
	s->state = WANT_BASES;
	return 0;
}

int attach_server_activate(struct attach_server *s)
{
	struct attach_header h;
	int rc;

	if (s->state != HAVE_MAPPED)
		return -SPLIT_E_BASE_INVALID;
	attach_header_fill(&h, ATTACH_ACTIVE, sizeof(h));
	rc = attach_send(s->fd, &h, sizeof(h), NULL, 0);
	s->state = rc < 0 ? FAILED : ACTIVE;
	return rc;
}

int attach_server_drained(struct attach_server *s)
{
	struct attach_header h;

	if (s->state != ACTIVE)
		return -SPLIT_E_BASE_INVALID;
	attach_header_fill(&h, ATTACH_DRAINED, sizeof(h));
	return attach_send(s->fd, &h, sizeof(h), NULL, 0);
}

void attach_server_destroy(struct attach_server *s)
{
	if (s == NULL)
		return;
	close(s->fd);
	attach_table_fini(&s->table);
	free(s->blob);
	if (s->endpoint != NULL)
		endpoint_put(s->endpoint);
	free(s);
}
