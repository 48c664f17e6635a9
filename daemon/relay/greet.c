/* From the first byte to WELCOME. Blocks, with an end: remote.attach_timeout is control's. */
#include "daemon/relay/relay_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* Refusals logged in a second, of all connections together; the counters count all. */
#define LOG_BURST 10

static void log_refusal(struct guest *g, const char *why)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct log_limit limit;
	bool pass;

	pthread_mutex_lock(&lock);
	pass = log_limit_pass(&limit, clock_ns(), LOG_BURST, CLOCK_NS_PER_SEC, NULL);
	pthread_mutex_unlock(&lock);
	if (pass)
		log_warn("remote host %s%s%s%s refused: %s", g->peer,
			 g->hello.name[0] != '\0' ? " (\"" : "", g->hello.name,
			 g->hello.name[0] != '\0' ? "\")" : "", why);
}

static int refuse(struct guest *g, int code, const char *text, uint64_t until_ns)
{
	struct remote_refused r = {.code = code};

	snprintf(r.text, sizeof(r.text), "%s", text);
	log_refusal(g, text);
	if (link_say(g->remote, REMOTE_REFUSED, &r, sizeof(r)) == 0)
		(void)!link_wait_sent(g->remote, until_ns, g->stop_fd);
	return code;
}

/* The name is printed: it is what control will check again. */
static bool name_printable(const char *name)
{
	for (const char *c = name; *c != '\0'; c++)
		if (*c <= ' ' || *c > '~')
			return false;
	return name[0] != '\0';
}

static int hello_take(struct guest *g, uint64_t until_ns)
{
	struct remote_frame frame;
	const uint8_t *blob;
	int rc = link_wait_frame(g->remote, REMOTE_HELLO, until_ns, g->stop_fd, &frame);

	if (rc == 0)
		rc = remote_hello_parse(&frame, &g->hello, &blob);
	if (rc == 0 && !name_printable(g->hello.name))
		rc = -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	if (rc != 0) {
		g->hello.name[0] = '\0';
		return rc < 0 ? rc : -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;
	}
	g->blob = malloc((size_t)g->hello.blob_bytes + 1);
	if (g->blob == NULL)
		return -SPLIT_E_BASE_NOMEM;
	memcpy(g->blob, blob, g->hello.blob_bytes);
	rc = attach_blob_parse(g->blob, g->hello.blob_bytes, &g->table);
	if (rc == 0)
		rc = schema_parse(g->table.schema, g->table.schema_bytes, NULL, &g->schema);
	/* No address comes by this way, and messages are decoded and encoded here. */
	for (size_t i = 0; rc == 0 && i < g->table.methods_n; i++) {
		struct attach_method *m = &g->table.methods[i];

		m->code = m->data = 0;
		m->options.decode = m->options.encode = 0;
		if (guest_type(g, m, false) == NULL || guest_type(g, m, true) == NULL)
			rc = -SPLIT_E_SHEPHERD_ATTACH_SCHEMA;
	}
	return rc;
}

const struct schema_message *guest_type(const struct guest *g, const struct attach_method *m,
					bool output)
{
	return schema_message_at(g->schema, output ? m->output_schema : m->input_schema);
}

/* Become a host process of splitd's: hand control one end of a socket, attach at the other. */
static int attach(struct guest *g, struct attach_refusal *why)
{
	const struct attach_hello hello = {
		.name = g->hello.name,
		.workers = 1,
		.workers_min = 1,
		.methods = g->table.methods,
		.methods_n = g->table.methods_n,
		.schema = g->table.schema,
		.schema_bytes = g->table.schema_bytes,
	};
	int fds[2], on = 1;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	g->secure = g->relay->tls != NULL;
	link_peer_names(g->remote, g->names, sizeof(g->names));
	/* Before anything is sent: the first packet must carry who sends it. */
	(void)setsockopt(fds[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
	pthread_mutex_lock(&g->relay->lock);
	if (g->relay->closing) {
		close(fds[0]);
	} else {
		g->offer_fd = fds[0];
		list_add_tail(&g->relay->waiting, &g->offer);
	}
	pthread_mutex_unlock(&g->relay->lock);
	return attachment_open_fd(fds[1], &hello,
				  (int)(g->relay->p.attach_timeout_ns / CLOCK_NS_PER_MS) + 1, &g->a,
				  why);
}

/* The largest power of two in the arena, so that one message may have half of it. */
static uint64_t window_of(size_t arena_bytes)
{
	uint64_t window = REMOTE_WINDOW_MIN;

	while (window * 2 <= arena_bytes && window < REMOTE_WINDOW_MAX)
		window *= 2;
	return window;
}

static bool tables_make(struct guest *g)
{
	struct shepherd_chunk arena = attachment_arena(g->a);
	unsigned d = g->daemon_workers;

	g->calls = calloc(d, sizeof(*g->calls));
	g->outs = calloc(d, sizeof(*g->outs));
	g->batches = calloc(d, sizeof(*g->batches));
	g->dirty = calloc(d, sizeof(*g->dirty));
	if (g->calls == NULL || g->outs == NULL || g->batches == NULL || g->dirty == NULL ||
	    arena_create(arena.mem, arena.bytes, &g->arena) != 0)
		return false;
	for (unsigned i = 0; i < d; i++) {
		g->calls[i].max = attachment_tokens_max(g->a) / 4;
		g->outs[i].max = attachment_outs_max(g->a);
	}
	return true;
}

static int welcome(struct guest *g, uint64_t until_ns)
{
	struct remote_welcome w = {
		.magic = REMOTE_MAGIC,
		.version = REMOTE_VERSION,
		.daemon_workers = g->daemon_workers,
		.calls_max = attachment_tokens_max(g->a) / 4,
		.tokens_max = attachment_tokens_max(g->a),
		.outs_max = attachment_outs_max(g->a),
		.stream_window = attachment_stream_window(g->a),
		.timeout_ns = g->relay->p.config->timeout_ns,
	};
	int rc;

	g->flow = (struct remote_flow){
		.left = g->hello.window,
		.peer_window = g->hello.window,
		.window = window_of(attachment_arena(g->a).bytes),
	};
	w.window = g->flow.window;
	link_frame_max_set(g->remote, remote_message_max(g->flow.window) + 2 * REMOTE_METADATA_MAX);
	rc = link_say(g->remote, REMOTE_WELCOME, &w, sizeof(w));
	return rc == 0 ? link_wait_sent(g->remote, until_ns, g->stop_fd) : rc;
}

static int greet(struct guest *g, uint64_t until_ns)
{
	struct attach_refusal why = {0};
	int rc = link_wait_secure(g->remote, until_ns, g->stop_fd);

	if (rc < 0) {
		if (rc == -SPLIT_E_TLS_HANDSHAKE)
			RELAY_COUNT(g, refused_tls);
		log_refusal(g, link_cause(g->remote));
		return rc;
	}
	rc = hello_take(g, until_ns);
	if (rc < 0) {
		if (link_cause(g->remote)[0] != '\0')
			log_refusal(g, link_cause(g->remote));
		else
			refuse(g, rc, error_text(rc), until_ns);
		return rc;
	}
	rc = attach(g, &why);
	if (rc < 0) {
		if (why.code < 0)
			rc = why.code;
		return refuse(g, rc, why.text[0] != '\0' ? why.text : error_text(rc), until_ns);
	}
	g->daemon_workers = attachment_daemon_workers(g->a);
	g->incoming = attachment_incoming(g->a);
	g->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (g->wake_fd < 0 || !tables_make(g))
		return refuse(g, -SPLIT_E_BASE_NOMEM, "out of memory", until_ns);
	rc = welcome(g, until_ns);
	if (rc < 0)
		log_refusal(g, link_cause(g->remote));
	return rc;
}

void guest_fini(struct guest *g)
{
	for (unsigned d = 0; d < g->daemon_workers; d++) {
		if (g->calls != NULL)
			free(g->calls[d].at);
		if (g->outs != NULL)
			free(g->outs[d].at);
	}
	free(g->calls);
	free(g->outs);
	free(g->batches);
	free(g->dirty);
	arena_destroy(g->arena);
	while (g->waiting != NULL) {
		struct guest_waiting *w = g->waiting;

		g->waiting = w->next;
		free(w);
	}
	remote_queue_fini(&g->queue);
	attachment_close(g->a);
	attach_table_fini(&g->table);
	schema_destroy(g->schema);
	free(g->blob);
	link_destroy(g->remote);
	if (g->wake_fd >= 0)
		close(g->wake_fd);
	g->wake_fd = -1;
}

int guest_greet(struct guest *g)
{
	uint64_t until_ns = clock_ns() + g->relay->p.attach_timeout_ns;
	int rc = link_create(g->fd, g->relay->tls, true, &g->remote);

	g->fd = -1;
	if (rc == 0)
		rc = greet(g, until_ns);
	if (rc < 0)
		guest_fini(g);
	return rc;
}
