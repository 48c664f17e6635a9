/* A session's bytes, on its worker's thread. */
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>

#include "base/clock.h"
#include "daemon/tls/tls_internal.h"

/* A connection that sent nothing for so long begins again with records of one segment, and with as
 * many bytes of them as TCP's initial window has. */
#define BURST_IDLE_NS CLOCK_NS_PER_SEC
#define BURST_BYTES   (16u * 1024u)
/* What a record of ours really adds, at most: header, explicit nonce of 1.2, tag. */
#define RECORD_ADDS 29u

/* ---- life --------------------------------------------------------------------------------------
 */

static struct tls_handshake *handshake_get(struct tls_engine *e)
{
	struct tls_handshake *hs = pool_get(&e->handshakes), *oldest;
	struct tls_session *s;

	if (hs != NULL || list_empty(&e->peer_wait))
		return hs;
	oldest = list_entry(list_first(&e->peer_wait), struct tls_handshake, link);
	s = oldest->session;
	s->state = SESSION_FAILED;
	engine_handshake_put(e, oldest);
	counter_inc(&e->counters.handshakes_evicted);
	e->events->progress(s->user);
	return pool_get(&e->handshakes);
}

int tls_session_create(struct tls_engine *e, struct tls_context *context, const struct tls_out *out,
		       void *user, uint64_t source, uint32_t segment, uint64_t now_ns,
		       struct tls_session **session_out)
{
	struct tls_session *s = pool_get_zero(&e->sessions);
	struct tls_handshake *hs = s != NULL ? handshake_get(e) : NULL;

	if (hs == NULL) {
		pool_put(&e->sessions, s);
		counter_inc(&e->counters.sessions_refused);
		return -SPLIT_E_BASE_LIMIT;
	}
	memset(hs, 0, offsetof(struct tls_handshake, in));
	list_init(&hs->link);
	hs->session = s;
	hs->place = PLACE_PEER;
	hs->bucket = (unsigned)(source % SOURCE_BUCKETS);
	hs->began_ns = now_ns;
	list_add_tail(&e->peer_wait, &hs->link);
	s->engine = e;
	s->context = tls_context_get(context);
	s->handshake = hs;
	s->out = *out;
	s->user = user;
	s->segment = segment;
	counter_inc(&e->counters.sessions);
	counter_set(&e->counters.gauge_handshakes, pool_in_use(&e->handshakes));
	*session_out = s;
	return 0;
}

int tls_session_connect(struct tls_engine *e, struct tls_context *context, const char *server,
			const struct tls_out *out, void *user, uint64_t source, uint32_t segment,
			uint64_t now_ns, struct tls_session **session_out)
{
	int err = tls_session_create(e, context, out, user, source, segment, now_ns, session_out);

	if (err != 0)
		return err;
	(*session_out)->server = strdup(server);
	if ((*session_out)->server == NULL) {
		session_free(*session_out);
		return -SPLIT_E_BASE_NOMEM;
	}
	client_resume(*session_out, source);
	e->now_ns = now_ns;
	engine_ready(e, (*session_out)->handshake); /* the first flight is ours */
	return 0;
}

void session_free(struct tls_session *s)
{
	struct tls_engine *e = s->engine;

	if (s->handshake != NULL)
		engine_handshake_put(e, s->handshake);
	/* Else OpenSSL would take its tickets for those of a session that broke. */
	if (s->ssl != NULL && s->state == SESSION_OPEN)
		SSL_set_shutdown(s->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(s->ssl);
	client_tickets_put(s);
	free(s->server);
	tls_context_put(s->context);
	identity_free(s->identity);
	pool_put(&e->sessions, s);
}

void tls_session_destroy(struct tls_session *s, enum tls_end why)
{
	struct tls_engine *e;

	if (s == NULL)
		return;
	e = s->engine;
	if (s->state == SESSION_HANDSHAKE)
		counter_inc(why == TLS_END_TIMEOUT ? &e->counters.handshakes_timeout
						   : &e->counters.handshakes_left);
	if (s->handshake != NULL && s->handshake->place == PLACE_HELPER) {
		s->handshake->abandoned = true;
		return;
	}
	session_free(s);
}

bool tls_session_open(const struct tls_session *s)
{
	return s->state == SESSION_OPEN;
}

const char *tls_session_why(const struct tls_session *s)
{
	return s->alert_fatal_in ? SSL_alert_desc_string_long(s->alert) : s->why;
}

bool tls_session_eof(const struct tls_session *s)
{
	return s->eof;
}

const struct tls_identity *tls_session_identity(const struct tls_session *s)
{
	return s->identity;
}

void tls_session_info(const struct tls_session *s, struct tls_info *out)
{
	out->version = SSL_get_version(s->ssl);
	out->cipher = SSL_CIPHER_standard_name(SSL_get_current_cipher(s->ssl));
	out->resumed = SSL_session_reused(s->ssl) == 1;
}

/* ---- in ----------------------------------------------------------------------------------------
 */

static int session_fail(struct tls_session *s)
{
	struct tls_counters *c = &s->engine->counters;

	s->state = SESSION_FAILED;
	counter_inc(&c->sessions_failed);
	if (s->alert_fatal_in)
		counter_inc(&c->alerts_received);
	if (s->alert_fatal_out)
		counter_inc(&c->alerts_sent);
	return -SPLIT_E_TLS_PROTOCOL;
}

/* Rules that OpenSSL has no opinion on. */
static int rules_check(struct tls_session *s)
{
	struct tls_counters *c = &s->engine->counters;
	uint64_t allowed = POST_HANDSHAKE_BURST + s->received / POST_HANDSHAKE_BYTES;

	/* RFC 9113 s9.2.1: a connection error. OpenSSL has refused it with a warning. */
	if (unlikely(s->renegotiation)) {
		counter_inc(&c->renegotiations);
		return session_fail(s);
	}
	if (unlikely(s->messages > allowed)) {
		counter_inc(&c->key_updates_over);
		return session_fail(s);
	}
	return 0;
}

/* Open what is in s->in, as far as records are whole. */
static int session_read(struct tls_session *s)
{
	struct tls_engine *e = s->engine;
	uint32_t messages = s->messages;
	size_t n;
	int err = 0, r;

	/* With nothing left to read no further record can be whole: OpenSSL reads no more than the
	 * record it is at. */
	while (s->in_n > 0 && !s->eof && err == 0) {
		ERR_clear_error();
		r = SSL_read_ex(s->ssl, e->scratch, sizeof(e->scratch), &n);
		if (likely(r == 1)) {
			s->received += n;
			counter_inc(&e->counters.rx_records);
			counter_add(&e->counters.rx_bytes, n);
			e->events->data(s->user, e->scratch, n);
		} else {
			r = SSL_get_error(s->ssl, r);
			if (r == SSL_ERROR_ZERO_RETURN) {
				s->eof = true;
				counter_inc(&e->counters.closed_by_peer);
			} else if (r == SSL_ERROR_WANT_READ || r == SSL_ERROR_WANT_WRITE) {
				err = rules_check(s);
				if (err == 0 && r == SSL_ERROR_WANT_READ && s->in_n == 0)
					break;
			} else {
				ERR_clear_error();
				return session_fail(s);
			}
		}
		if (err == 0)
			err = rules_check(s);
	}
	counter_add(&e->counters.key_updates, s->messages - messages);
	return err;
}

/* A handshake's bytes: into its chunk, as long as it is ours. */
static ssize_t handshake_recv(struct tls_session *s, const uint8_t *p, size_t n)
{
	struct tls_handshake *hs = s->handshake;
	size_t part;

	if (hs->place == PLACE_HELPER)
		return 0;
	if (hs->in_at == hs->in_n)
		hs->in_at = hs->in_n = 0;
	part = HANDSHAKE_CHUNK - hs->in_n;
	part = part < n ? part : n;
	memcpy(hs->in + hs->in_n, p, part);
	hs->in_n += (uint32_t)part;
	hs->in_total += part;
	if (hs->in_total > HANDSHAKE_IN_MAX) {
		s->state = SESSION_FAILED;
		engine_handshake_put(s->engine, hs);
		counter_inc(&s->engine->counters.handshakes_failed);
		counter_inc(&s->engine->counters.handshakes_over);
		return -SPLIT_E_TLS_HANDSHAKE;
	}
	if (hs->place == PLACE_PEER && part > 0)
		engine_ready(s->engine, hs);
	return (ssize_t)part;
}

ssize_t tls_session_recv(struct tls_session *s, const uint8_t *p, size_t n, uint64_t now_ns)
{
	int err;

	s->engine->now_ns = now_ns;
	switch ((enum session_state)s->state) {
	case SESSION_HANDSHAKE:
		return n != 0 ? handshake_recv(s, p, n) : 0;
	case SESSION_FAILED:
		return -SPLIT_E_TLS_CLOSED;
	case SESSION_OPEN:
		break;
	}
	s->in = p;
	s->in_n = n;
	err = session_read(s);
	s->in = NULL;
	s->in_n = 0;
	return err != 0 ? err : (ssize_t)n;
}

void tls_session_recv_end(struct tls_session *s)
{
	if (s->state == SESSION_OPEN && !s->eof)
		counter_inc(&s->engine->counters.closed_short);
}

bool tls_session_waits(const struct tls_session *s)
{
	return s->state == SESSION_HANDSHAKE && s->handshake->place == PLACE_PEER;
}

int session_opened(struct tls_session *s, uint64_t now_ns)
{
	struct tls_handshake *hs = s->handshake;
	struct tls_counters *c = &s->engine->counters;
	int err;

	s->state = SESSION_OPEN;
	s->sent_ns = now_ns;
	tls_context_put(s->context);
	s->context = NULL;
	counter_inc(&c->handshakes);
	if (SSL_version(s->ssl) == TLS1_2_VERSION)
		counter_inc(&c->handshakes_12);
	if (SSL_session_reused(s->ssl) == 1)
		counter_inc(&c->handshakes_resumed);
	client_opened(s);
	err = s->engine->events->opened(s->user);
	if (err != 0) {
		s->state = SESSION_FAILED;
		return err;
	}
	s->in = hs->in + hs->in_at;
	s->in_n = hs->in_n - hs->in_at;
	err = session_read(s);
	s->in = NULL;
	s->in_n = 0;
	hs->in_at = hs->in_n;
	return err;
}

/* ---- out ---------------------------------------------------------------------------------------
 */

/* What the handshake has written. True when all of it is out. */
static bool flight_send(struct tls_session *s)
{
	struct tls_handshake *hs = s->handshake;

	while (hs->out_at < hs->out_n) {
		size_t left = hs->out_n - hs->out_at, part = 0;
		uint8_t *room;

		if (s->out.reserve(s->out.ctx, left, &room, &part) != 0)
			return false;
		part = part < left ? part : left;
		memcpy(room, hs->out + hs->out_at, part);
		s->out.commit(s->out.ctx, part);
		hs->out_at += part;
	}
	if (s->state != SESSION_HANDSHAKE) {
		engine_handshake_put(s->engine, hs);
		return true;
	}
	hs->out_at = hs->out_n = 0;
	return true;
}

static int write_result(struct tls_session *s, int r, uint32_t n)
{
	struct tls_counters *c = &s->engine->counters;

	if (likely(r == 1)) {
		s->pending = 0;
		return 0;
	}
	if (SSL_get_error(s->ssl, r) == SSL_ERROR_WANT_WRITE) {
		if (s->pending == 0)
			counter_inc(&c->tx_blocked);
		s->pending = n;
		return SPLIT_AGAIN;
	}
	ERR_clear_error();
	s->pending = 0;
	return session_fail(s);
}

bool tls_session_want_send(const struct tls_session *s)
{
	const struct tls_handshake *hs = s->handshake;

	if (hs != NULL && hs->place != PLACE_HELPER && hs->out_at < hs->out_n)
		return true;
	return s->state == SESSION_OPEN && (s->pending != 0 || s->shut_waits);
}

int tls_session_send(struct tls_session *s)
{
	size_t n;
	int err;

	if (s->handshake != NULL) {
		if (s->handshake->place == PLACE_HELPER)
			return 0;
		if (!flight_send(s))
			return SPLIT_AGAIN;
	}
	if (s->state == SESSION_FAILED)
		return -SPLIT_E_TLS_CLOSED;
	if (s->state == SESSION_HANDSHAKE)
		return 0;
	if (s->pending != 0) {
		/* The record is sealed: what the buffer holds by now is not looked at. */
		ERR_clear_error();
		err = write_result(s, SSL_write_ex(s->ssl, s->engine->scratch, s->pending, &n),
				   s->pending);
		if (err != 0)
			return err;
	}
	return s->shut_waits ? tls_session_shutdown(s) : 0;
}

uint32_t tls_session_record_bytes(const struct tls_session *s, uint64_t now_ns)
{
	uint32_t fixed = s->engine->config.record_bytes_max;
	bool idle = now_ns - s->sent_ns >= BURST_IDLE_NS;

	if (fixed != 0)
		return fixed;
	if ((!idle && s->burst >= BURST_BYTES) || s->segment < 2 * RECORD_ADDS)
		return TLS_RECORD_BYTES_MAX;
	return s->segment - RECORD_ADDS < TLS_RECORD_BYTES_MAX ? s->segment - RECORD_ADDS
							       : TLS_RECORD_BYTES_MAX;
}

int tls_session_write(struct tls_session *s, const uint8_t *p, size_t n, uint64_t now_ns)
{
	struct tls_counters *c = &s->engine->counters;
	size_t done;

	if (s->state != SESSION_OPEN || s->shut)
		return -SPLIT_E_TLS_CLOSED;
	if (now_ns - s->sent_ns >= BURST_IDLE_NS)
		s->burst = 0;
	s->sent_ns = now_ns;
	if (s->burst < BURST_BYTES)
		s->burst += (uint32_t)n;
	counter_inc(&c->tx_records);
	counter_add(&c->tx_bytes, n);
	ERR_clear_error();
	return write_result(s, SSL_write_ex(s->ssl, p, n, &done), (uint32_t)n);
}

int tls_session_shutdown(struct tls_session *s)
{
	int r;

	if (s->state != SESSION_OPEN || s->pending != 0 || (s->shut && !s->shut_waits))
		return 0;
	s->shut = true;
	ERR_clear_error();
	r = SSL_shutdown(s->ssl);
	s->shut_waits = r < 0 && SSL_get_error(s->ssl, r) == SSL_ERROR_WANT_WRITE;
	ERR_clear_error();
	return s->shut_waits ? SPLIT_AGAIN : 0;
}
