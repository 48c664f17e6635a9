/* Calls: their beginning, messages out, their end. */
#include <string.h>

#include "daemon/client/client_internal.h"

/* ---- the end ----------------------------------------------------------------------------------
 */

/* A message that was sent and is kept for another attempt: ours, in engine memory. Streams have
 * theirs back at once, for whoever lends them may lend no more before. */
struct kept {
	struct client_message message;
	struct client *client;
	struct iovec iov;
	uint8_t bytes[];
};

static void kept_release(struct client_message *m)
{
	struct kept *k = container_of(m, struct kept, message);

	http2_client_engine_free(k->client->http2, k);
}

static void messages_release(struct client_call *call, const struct client_message *until)
{
	call->sent = NULL;
	while (call->first != until) {
		struct client_message *m = call->first;

		call->first = m->next;
		call->kept -= (uint64_t)m->bytes + PREFIX_BYTES;
		call->flags |= CALL_RELEASED;
		m->release(m);
	}
	if (call->first == NULL)
		call->last = NULL;
}

/* `m` was sent. False: it cannot be kept. */
static bool message_keep(struct client_call *call, struct client_message *m)
{
	struct client *c = call->ch->c;
	size_t at = 0;
	struct kept *k;

	if (m->release == kept_release)
		return true;
	k = http2_client_engine_alloc(c->http2, sizeof(*k) + m->bytes);
	if (k == NULL)
		return false;
	for (uint32_t i = 0; i < m->iov_count; at += m->iov[i++].iov_len)
		if (m->iov[i].iov_len > 0)
			memcpy(k->bytes + at, m->iov[i].iov_base, m->iov[i].iov_len);
	k->client = c;
	k->iov = (struct iovec){k->bytes, m->bytes};
	k->message = (struct client_message){
		.next = m->next,
		.iov = &k->iov,
		.iov_count = 1,
		.bytes = m->bytes,
		.release = kept_release,
	};
	if (call->sent == NULL)
		call->first = &k->message;
	else
		call->sent->next = &k->message;
	if (call->last == m)
		call->last = &k->message;
	m->release(m);
	return true;
}

void call_commit(struct client_call *call)
{
	if (!(call->flags & CALL_COMMITTED)) {
		call->flags |= CALL_COMMITTED;
		call->ch->kept_bytes -= call->kept;
		counter_set(&call->ch->counters.gauge_retry_bytes, call->ch->kept_bytes);
	}
}

void call_release_sent(struct client_call *call)
{
	messages_release(call, call->at);
}

void call_detach(struct client_call *call, enum picker_result result)
{
	struct attempt *a = call->attempt;

	if (a == NULL)
		return;
	call->attempt = NULL;
	a->call = NULL;
	if (!a->ended) {
		a->ended = true;
		picker_end(a->target->current ? &call->ch->picker : NULL, &a->target->member,
			   result, call->ch->c->now_ns);
	}
	http2_client_stream_reset(attempt_stream(a), HTTP2_CANCEL);
}

void call_leave(struct client_call *call)
{
	struct client *c = call->ch->c;

	if (--call->busy > 0 || !(call->flags & CALL_OVER))
		return;
	pool_put(&c->calls, call);
}

/* Everything of it but the object itself. */
static void call_stop(struct client_call *call, enum picker_result result)
{
	struct channel *ch = call->ch;
	struct client *c = ch->c;

	call->flags |= CALL_OVER;
	wheel_cancel(c->wheel, &call->deadline);
	wheel_cancel(c->wheel, &call->retry);
	if (call->flags & CALL_WAITING)
		ch->waiting_n--;
	list_del(&call->link);
	list_del(&call->all);
	list_del(&call->writable);
	call_detach(call, result);
	message_drop(call);
	call_commit(call);
	messages_release(call, NULL);
	http2_client_engine_free(c->http2, call->request);
	call->request = NULL;
	ch->calls_n--;
	counter_set(&ch->counters.gauge_calls, ch->calls_n);
	counter_set(&ch->counters.gauge_waiting, ch->waiting_n);
}

static void call_tell(struct client_call *call, const struct client_status *status,
		      enum picker_result result)
{
	struct channel *ch = call->ch;

	if (call->flags & CALL_OVER)
		return;
	call_enter(call);
	call_stop(call, result);
	counter_inc(status->status == GRPC_OK ? &ch->counters.calls_ok
					      : &ch->counters.calls_failed);
	call->events->status(call->user, status);
	call_leave(call);
}

void client_call_fail(struct client_call *call, uint32_t code, const char *text)
{
	const struct client_status status = {
		.status = code,
		.message = text,
		.message_len = (uint32_t)strlen(text),
	};

	call_tell(call, &status, result_of(call->ch, code));
}

void call_tell_final(struct client_call *call)
{
	struct final *f = call->final;
	struct client *c = call->ch->c;

	if (f->status.status == GRPC_OK && call->messages_in == 0 &&
	    !grpc_kind_many_replies(call->kind)) {
		counter_inc(&call->ch->counters.rx_malformed);
		client_call_fail(call, GRPC_INTERNAL, "the server's answer has no message");
		return;
	}
	call->final = NULL;
	call_tell(call, &f->status, PICKER_GOOD);
	http2_client_engine_free(c->http2, f);
}

void call_final(struct client_call *call, struct final *f)
{
	if (f == NULL) {
		counter_inc(&call->ch->counters.hold_refused);
		client_call_fail(call, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer's end");
		return;
	}
	call->final = f;
	call->flags |= CALL_FINAL;
	message_go_on(call);
}

void call_deadline(struct wheel_timer *timer, uint64_t now_ns)
{
	struct client_call *call = container_of(timer, struct client_call, deadline);

	call->ch->c->now_ns = now_ns;
	counter_inc(&call->ch->counters.calls_deadline);
	client_call_fail(call, GRPC_DEADLINE_EXCEEDED,
			 call->attempt == NULL
				 ? "deadline exceeded before the call reached a server"
				 : "deadline exceeded");
}

void client_call_cancel(struct client_call *call)
{
	call_enter(call);
	counter_inc(&call->ch->counters.calls_cancelled);
	call_stop(call, PICKER_NEUTRAL);
	call_leave(call);
}

/* ---- the beginning ----------------------------------------------------------------------------
 */

void client_call_wait(struct client_call *call)
{
	struct channel *ch = call->ch;

	call->flags |= CALL_WAITING;
	list_add_tail(&ch->waiting, &call->link);
	ch->waiting_n++;
	counter_set(&ch->counters.gauge_waiting, ch->waiting_n);
	channel_due(ch);
}

/* Of the first entry of that name. */
static bool key_of(const struct client_request *request, const char *name, uint64_t *key_out)
{
	size_t len = name != NULL ? strlen(name) : 0;

	for (uint32_t i = 0; i < request->metadata_count && len > 0; i++) {
		const struct grpc_metadata *md = &request->metadata[i];

		if (md->name_len == len && memcmp(md->name, name, len) == 0) {
			*key_out = picker_hash(md->value, md->value_len);
			return true;
		}
	}
	return false;
}

static void keys_fill(struct client_call *call, const struct client_request *request)
{
	const struct client_channel_config *cfg = &call->ch->config;
	struct picker_key *key = &call->key;

	if (request->hash_given) {
		key->has_hash = key->has_sticky = true;
		key->hash = key->sticky = request->hash;
		return;
	}
	key->has_hash = key_of(request, cfg->hash_key, &key->hash);
	key->has_sticky = key_of(request, cfg->sticky_key, &key->sticky);
}

int client_call_start(struct client *c, unsigned channel, const struct client_request *request,
		      const struct client_events *events, void *user, uint64_t now_ns,
		      struct client_call **call_out)
{
	struct channel *ch = &c->channels[channel];
	uint64_t deadline_ns = request->deadline_ns;
	struct client_connection *conn;
	struct client_call *call;

	c->now_ns = now_ns;
	if (c->draining || ch->config.unused)
		return GRPC_UNAVAILABLE;
	if (deadline_ns <= now_ns)
		return GRPC_DEADLINE_EXCEEDED;
	call = ch->calls_n < ch->config.calls_max ? pool_get_zero(&c->calls) : NULL;
	if (call == NULL) {
		counter_inc(&ch->counters.calls_over);
		return GRPC_RESOURCE_EXHAUSTED;
	}
	call->request = request_render(ch, request);
	if (call->request == NULL) {
		pool_put(&c->calls, call);
		return GRPC_INTERNAL;
	}
	call->ch = ch;
	call->events = events;
	call->user = user;
	call->kind = (uint8_t)request->kind;
	call->message_bytes_max = request->message_bytes_max != 0 ? request->message_bytes_max
								  : ch->config.message_bytes_max;
	call->flags = request->wait_for_ready ? CALL_WAIT_READY : 0;
	keys_fill(call, request);
	list_init(&call->link);
	list_init(&call->writable);
	list_init(&call->inflate);
	wheel_timer_init(&call->deadline, call_deadline);
	wheel_timer_init(&call->retry, retry_timer);
	if (deadline_ns == UINT64_MAX && ch->config.timeout_ns != 0)
		deadline_ns = now_ns + ch->config.timeout_ns;
	call->deadline_ns = deadline_ns;
	if (deadline_ns != UINT64_MAX)
		wheel_arm(c->wheel, &call->deadline, deadline_ns);
	list_add_tail(&ch->calls, &call->all);
	ch->calls_n++;
	ch->used_ns = now_ns;
	counter_inc(&ch->counters.calls);
	counter_set(&ch->counters.gauge_calls, ch->calls_n);
	if (ch->ready_n < ch->targets_n)
		channel_due(ch); /* those that were closed meanwhile are wanted again */
	conn = ch->waiting_n == 0 ? channel_pick(ch, call) : NULL;
	if (conn == NULL || !call_attempt(call, conn)) {
		counter_inc(&ch->counters.calls_waited);
		client_call_wait(call);
	}
	*call_out = call;
	return 0;
}

bool call_attempt(struct client_call *call, struct client_connection *conn)
{
	struct channel *ch = call->ch;
	struct request_block *r = call->request;
	char timeout[GRPC_TIMEOUT_TEXT_MAX], previous[2] = "0";
	struct http2_client_stream *stream;
	uint32_t fields = r->count;
	struct attempt *a;
	uint64_t now_ns = ch->c->now_ns;

	request_scheme(r, conn->tls != NULL);
	if (call->deadline_ns != UINT64_MAX) {
		uint64_t left = call->deadline_ns > now_ns ? call->deadline_ns - now_ns : 1;

		r->h[fields++] = (struct http2_header){
			.name = "grpc-timeout",
			.value = timeout,
			.name_len = 12,
			.value_len = grpc_timeout_format(left, timeout),
		};
	}
	if (call->attempts > 0) {
		previous[0] = (char)('0' + call->attempts);
		r->h[fields++] = (struct http2_header){
			.name = "grpc-previous-rpc-attempts",
			.value = previous,
			.name_len = 26,
			.value_len = 1,
		};
	}
	if (http2_client_request(conn->h2, r->h, fields, &stream) != 0)
		return false;
	a = http2_client_stream_user(stream);
	a->call = call;
	a->conn = conn;
	a->target = conn->target;
	call->attempt = a;
	call->at = call->first;
	call->sent = NULL;
	call->at_prefix = call->at_iov = 0;
	call->at_offset = 0;
	call->queued = call->kept;
	call->sent_messages = 0;
	picker_begin(&conn->target->member);
	conn->target->attempts++;
	counter_inc(&ch->counters.attempts);
	connection_active(conn);
	return true;
}

/* ---- messages out -----------------------------------------------------------------------------
 */

int client_call_send(struct client_call *call, struct client_message *m)
{
	struct channel *ch = call->ch;
	uint64_t bytes = (uint64_t)m->bytes + PREFIX_BYTES;

	if (call->flags & (CALL_END | CALL_OVER))
		return -SPLIT_E_GRPC_STATE;
	if (call->queued > 0 && call->queued + bytes > SEND_QUEUE_BYTES) {
		call->flags |= CALL_BLOCKED;
		return SPLIT_AGAIN;
	}
	m->next = NULL;
	if (call->last == NULL)
		call->first = m;
	else
		call->last->next = m;
	call->last = m;
	if (call->at == NULL) {
		call->at = m;
		call->at_prefix = call->at_iov = 0;
		call->at_offset = 0;
	}
	call->kept += bytes;
	call->queued += bytes;
	if (!(call->flags & CALL_COMMITTED)) {
		ch->kept_bytes += bytes;
		counter_set(&ch->counters.gauge_retry_bytes, ch->kept_bytes);
		if (call->kept > ch->config.retry.bytes_max ||
		    ch->kept_bytes > ch->config.retry.total_bytes_max) {
			counter_inc(&ch->counters.retries_committed);
			call_commit(call);
		}
	}
	if (!grpc_kind_many_requests(call->kind))
		call->flags |= CALL_END;
	if (call->attempt != NULL)
		http2_client_stream_resume(attempt_stream(call->attempt));
	return 0;
}

void client_call_end(struct client_call *call)
{
	if (call->flags & (CALL_END | CALL_OVER))
		return;
	call->flags |= CALL_END;
	if (call->attempt != NULL)
		http2_client_stream_resume(attempt_stream(call->attempt));
}

/* The message at hand: what fits. */
static size_t message_copy(struct client_call *call, uint8_t *dst, size_t room)
{
	const struct client_message *m = call->at;
	size_t done = 0;

	if (call->at_prefix < PREFIX_BYTES) {
		const uint8_t prefix[PREFIX_BYTES] = {
			0,
			(uint8_t)(m->bytes >> 24),
			(uint8_t)(m->bytes >> 16),
			(uint8_t)(m->bytes >> 8),
			(uint8_t)m->bytes,
		};
		size_t part = PREFIX_BYTES - call->at_prefix;

		part = part < room ? part : room;
		memcpy(dst, prefix + call->at_prefix, part);
		call->at_prefix += (uint32_t)part;
		done = part;
	}
	while (done < room && call->at_iov < m->iov_count) {
		const struct iovec *iov = &m->iov[call->at_iov];
		size_t part = iov->iov_len - call->at_offset;

		part = part < room - done ? part : room - done;
		if (part > 0)
			memcpy(dst + done, (const uint8_t *)iov->iov_base + call->at_offset, part);
		call->at_offset += part;
		done += part;
		if (call->at_offset == iov->iov_len) {
			call->at_iov++;
			call->at_offset = 0;
		}
	}
	return done;
}

static bool message_sent(const struct client_call *call)
{
	const struct client_message *m = call->at;

	if (call->at_prefix < PREFIX_BYTES)
		return false;
	for (uint32_t i = call->at_iov; i < m->iov_count; i++)
		if (m->iov[i].iov_len > (i == call->at_iov ? call->at_offset : 0))
			return false;
	return true;
}

/* The message at hand is sent: the next. */
static void message_next(struct client_call *call)
{
	struct client_message *m = call->at, *next = m->next;

	if (!(call->flags & CALL_COMMITTED) && grpc_kind_many_requests(call->kind)) {
		if (message_keep(call, m))
			m = call->sent != NULL ? call->sent->next : call->first;
		else
			call_commit(call);
	}
	call->sent = m;
	call->at = next;
	call->at_prefix = call->at_iov = 0;
	call->at_offset = 0;
}

size_t call_body(struct client_call *call, uint8_t *dst, size_t room, bool *eof_out)
{
	struct client_counters *counters = &call->ch->counters;
	size_t done = 0;

	while (call->at != NULL && done < room) {
		size_t part = message_copy(call, dst + done, room - done);

		done += part;
		call->queued -= part;
		if (!message_sent(call))
			continue;
		counter_inc(&counters->tx_messages);
		counter_add(&counters->tx_message_bytes, call->at->bytes);
		message_next(call);
	}
	if (call->flags & CALL_COMMITTED)
		call_release_sent(call);
	*eof_out = call->at == NULL && (call->flags & CALL_END);
	if ((call->flags & CALL_BLOCKED) && call->queued <= SEND_QUEUE_BYTES / 2) {
		call->flags &= ~(uint32_t)CALL_BLOCKED;
		list_add_tail(&call->ch->c->writable, &call->writable);
	}
	return done;
}

/* ---- messages in: the caller's word -----------------------------------------------------------
 */

void client_call_room(struct client_call *call)
{
	call->flags &= ~(uint32_t)CALL_NO_ROOM;
	message_go_on(call);
}

void client_call_pause(struct client_call *call, bool paused)
{
	if (paused) {
		call->flags |= CALL_PAUSED;
		return;
	}
	call->flags &= ~(uint32_t)CALL_PAUSED;
	message_go_on(call);
}

void *client_call_user(const struct client_call *call)
{
	return call->user;
}
