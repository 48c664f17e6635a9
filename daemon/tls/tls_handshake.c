/* One step of a handshake: the peer's bytes in, as far as they go. Runs on a helper's thread, or on
 * the worker's where there are none; touches nothing but the handshake, its session and the
 * context.
 */
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "base/clock.h"
#include "daemon/tls/tls_internal.h"

void session_info(const SSL *ssl, int where, int ret)
{
	struct tls_session *s = SSL_get_ex_data(ssl, session_index);
	int level = ret >> 8, what = ret & 0xff;

	if (s == NULL)
		return;
	if (where & SSL_CB_ALERT) {
		if (what == SSL_AD_NO_RENEGOTIATION && (where & SSL_CB_WRITE))
			s->renegotiation = true;
		if (level == SSL3_AL_FATAL && (where & SSL_CB_WRITE))
			s->alert_fatal_out = true;
		else if (level == SSL3_AL_FATAL)
			s->alert_fatal_in = true;
		if (s->alert_fatal_in && s->alert == 0)
			s->alert = (uint8_t)what;
	} else if ((where == SSL_CB_ACCEPT_LOOP || where == SSL_CB_CONNECT_LOOP) &&
		   s->state == SESSION_OPEN) {
		s->messages++;
	}
}

static int ssl_make(struct tls_session *s)
{
	BIO *bio;

	s->ssl = SSL_new(s->context->ssl);
	if (s->ssl == NULL)
		return -SPLIT_E_BASE_NOMEM;
	bio = session_bio(s);
	if (bio == NULL || SSL_set_ex_data(s->ssl, session_index, s) != 1) {
		BIO_free(bio);
		return -SPLIT_E_BASE_NOMEM;
	}
	SSL_set_bio(s->ssl, bio, bio);
	if (s->server != NULL)
		return client_prepare(s);
	SSL_set_accept_state(s->ssl);
	return 0;
}

static enum handshake_cause cause_of(const struct tls_session *s, unsigned long code)
{
	static const struct {
		int reason;
		enum handshake_cause cause;
	} causes[] = {
		{SSL_R_NO_SHARED_CIPHER, CAUSE_CIPHER},
		{SSL_R_NO_SUITABLE_KEY_SHARE, CAUSE_CIPHER},
		{SSL_R_NO_SUITABLE_GROUPS, CAUSE_CIPHER},
		{SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, CAUSE_CIPHER},
		{SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, CAUSE_CIPHER},
		{SSL_R_UNSUPPORTED_PROTOCOL, CAUSE_VERSION},
		{SSL_R_VERSION_TOO_LOW, CAUSE_VERSION},
		{SSL_R_INAPPROPRIATE_FALLBACK, CAUSE_VERSION},
		{SSL_R_CERTIFICATE_VERIFY_FAILED, CAUSE_CERTIFICATE},
		{SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, CAUSE_CERTIFICATE},
		{SSL_R_EXCESSIVE_MESSAGE_SIZE, CAUSE_OVER},
	};

	if (s->alert_fatal_in)
		return CAUSE_PEER;
	if (ERR_GET_LIB(code) == ERR_LIB_SSL) {
		for (size_t i = 0; i < ARRAY_LEN(causes); i++)
			if (causes[i].reason == ERR_GET_REASON(code))
				return causes[i].cause;
	}
	return CAUSE_MALFORMED;
}

static const char *why_of(const struct tls_session *s, enum handshake_cause cause)
{
	long verified = SSL_get_verify_result(s->ssl);

	switch (cause) {
	case CAUSE_ALPN:
		return "HTTP/2 was not agreed on (ALPN)";
	case CAUSE_VERSION:
		return "no version of TLS in common";
	case CAUSE_CIPHER:
		return "no cipher, curve or signature in common";
	case CAUSE_CERTIFICATE:
		return verified != X509_V_OK ? X509_verify_cert_error_string(verified)
					     : "no certificate";
	case CAUSE_OVER:
		return "the handshake is too long";
	case CAUSE_NONE:
	case CAUSE_PEER: /* tls_session_why knows its alert */
	case CAUSE_MALFORMED:
		break;
	}
	return "the peer does not speak TLS, or broke off";
}

/* Both were seen to by callbacks; no session is open without. */
static int outcome_check(struct tls_handshake *hs)
{
	struct tls_session *s = hs->session;
	const unsigned char *alpn;
	X509 *peer = SSL_get0_peer_certificate(s->ssl);
	unsigned n;

	SSL_get0_alpn_selected(s->ssl, &alpn, &n);
	if (n == 0) {
		hs->cause = CAUSE_ALPN;
		return -SPLIT_E_TLS_HANDSHAKE;
	}
	if (peer != NULL && SSL_get_verify_result(s->ssl) != X509_V_OK) {
		hs->cause = CAUSE_CERTIFICATE;
		return -SPLIT_E_TLS_HANDSHAKE;
	}
	if (peer == NULL && s->server != NULL) {
		hs->cause = CAUSE_CERTIFICATE;
		return -SPLIT_E_TLS_HANDSHAKE;
	}
	if (peer == NULL)
		return 0;
	s->identity = identity_of(peer);
	return s->identity != NULL ? 0 : -SPLIT_E_TLS_HANDSHAKE;
}

static int step(struct tls_handshake *hs)
{
	struct tls_session *s = hs->session;
	unsigned long code;
	int r;

	if (s->ssl == NULL && ssl_make(s) != 0)
		return -SPLIT_E_TLS_HANDSHAKE;
	ERR_clear_error();
	r = SSL_do_handshake(s->ssl);
	if (r == 1)
		return outcome_check(hs);
	if (SSL_get_error(s->ssl, r) == SSL_ERROR_WANT_READ)
		return SPLIT_AGAIN;
	code = ERR_peek_error();
	if (hs->cause == CAUSE_NONE)
		hs->cause = cause_of(s, code);
	ERR_clear_error();
	return -SPLIT_E_TLS_HANDSHAKE;
}

void handshake_step(struct tls_handshake *hs)
{
	uint64_t begin_ns = clock_ns();

	hs->result = step(hs);
	if (hs->result < 0 && hs->session->ssl != NULL)
		hs->session->why = why_of(hs->session, hs->cause);
	hs->step_ns = clock_ns() - begin_ns;
}
