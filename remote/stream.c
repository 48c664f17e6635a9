/* Bytes: a TCP socket of the kernel, or TLS 1.3 over it. The only file that knows OpenSSL. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "remote/remote_internal.h"

struct remote_tls {
	SSL_CTX *ctx;
	bool server;
	char *name;
};

static void openssl_text(char *why, size_t bytes, const char *what, const char *file)
{
	unsigned long error = ERR_peek_last_error();
	const char *reason = error != 0 ? ERR_reason_error_string(error) : NULL;

	snprintf(why, bytes, "%s %s: %s", what, file, reason != NULL ? reason : "cannot be used");
	ERR_clear_error();
}

int remote_tls_create(bool server, const struct remote_tls_files *f, struct remote_tls **out,
		      char *why, size_t why_bytes)
{
	struct remote_tls *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return -SPLIT_E_BASE_NOMEM;
	t->server = server;
	t->ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (f->name != NULL)
		t->name = strdup(f->name);
	if (t->ctx == NULL || (f->name != NULL && t->name == NULL)) {
		remote_tls_destroy(t);
		return -SPLIT_E_BASE_NOMEM;
	}
	ERR_clear_error();
	(void)SSL_CTX_set_min_proto_version(t->ctx, TLS1_3_VERSION);
	SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
	(void)SSL_CTX_set_num_tickets(t->ctx, 0);
	(void)SSL_CTX_set_mode(t->ctx,
			       SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	if (SSL_CTX_use_certificate_chain_file(t->ctx, f->cert) != 1)
		openssl_text(why, why_bytes, "certificate", f->cert);
	else if (SSL_CTX_use_PrivateKey_file(t->ctx, f->key, SSL_FILETYPE_PEM) != 1 ||
		 SSL_CTX_check_private_key(t->ctx) != 1)
		openssl_text(why, why_bytes, "key", f->key);
	else if (SSL_CTX_load_verify_locations(t->ctx, f->ca, NULL) != 1)
		openssl_text(why, why_bytes, "authorities", f->ca);
	else {
		*out = t;
		return 0;
	}
	remote_tls_destroy(t);
	return -SPLIT_E_TLS_CONFIG;
}

void remote_tls_destroy(struct remote_tls *t)
{
	if (t == NULL)
		return;
	SSL_CTX_free(t->ctx);
	free(t->name);
	free(t);
}

/* The name that a client wants to find in the server's certificate. */
static bool name_expect(SSL *ssl, const char *name)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

	if (X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1)
		return true;
	return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

int stream_init(struct remote_link *l, struct remote_tls *t, bool server)
{
	SSL *ssl;

	if (t == NULL)
		return 0;
	ssl = SSL_new(t->ctx);
	if (ssl == NULL)
		return -SPLIT_E_BASE_NOMEM;
	l->ssl = ssl;
	if (SSL_set_fd(ssl, l->fd) != 1 || (t->name != NULL && !name_expect(ssl, t->name)))
		return -SPLIT_E_BASE_NOMEM;
	if (server)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	return 0;
}

void stream_fini(struct remote_link *l)
{
	if (l->ssl == NULL)
		return;
	if (l->fault == 0)
		(void)SSL_shutdown(l->ssl); /* close_notify, if it goes at once */
	ERR_clear_error();
	SSL_free(l->ssl);
}

/* What came of an operation of OpenSSL that returned `n` <= 0: 0 wait, -1 the end. */
static int tls_result(struct remote_link *l, int n, bool handshake)
{
	SSL *ssl = l->ssl;
	long verify;
	char text[160];

	switch (SSL_get_error(ssl, n)) {
	case SSL_ERROR_WANT_READ:
		l->wants_read = true;
		return 0;
	case SSL_ERROR_WANT_WRITE:
		l->wants_write = true;
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		link_fail(l, -SPLIT_E_REMOTE_CLOSED, "the peer closed the connection");
		return -1;
	default:
		break;
	}
	verify = SSL_get_verify_result(ssl);
	if (handshake && verify != X509_V_OK)
		snprintf(text, sizeof(text), "TLS: the peer's certificate: %s",
			 X509_verify_cert_error_string(verify));
	else if (ERR_peek_last_error() != 0)
		snprintf(text, sizeof(text), "TLS: %s",
			 ERR_reason_error_string(ERR_peek_last_error()));
	else
		snprintf(text, sizeof(text), "%s",
			 errno != 0 && errno != EAGAIN ? strerror(errno)
						       : "the peer closed the connection");
	ERR_clear_error();
	link_fail(l, handshake ? -SPLIT_E_TLS_HANDSHAKE : -SPLIT_E_REMOTE_CLOSED, text);
	return -1;
}

ssize_t stream_read(struct remote_link *l, void *buf, size_t bytes)
{
	ssize_t n;
	int got;

	if (l->ssl != NULL) {
		l->wants_write = false;
		errno = 0;
		got = SSL_read(l->ssl, buf, bytes > INT32_MAX ? INT32_MAX : (int)bytes);
		return got > 0 ? got : tls_result(l, got, false);
	}
	do
		n = recv(l->fd, buf, bytes, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return n;
	if (n < 0 && errno == EAGAIN)
		return 0;
	link_fail(l, -SPLIT_E_REMOTE_CLOSED,
		  n == 0 ? "the peer closed the connection" : strerror(errno));
	return -1;
}

ssize_t stream_write(struct remote_link *l, const void *buf, size_t bytes)
{
	ssize_t n;
	int put;

	if (l->ssl != NULL) {
		l->wants_read = false;
		errno = 0;
		put = SSL_write(l->ssl, buf, bytes > INT32_MAX ? INT32_MAX : (int)bytes);
		if (put > 0)
			return put;
		n = tls_result(l, put, false);
		l->deaf_end = n < 0;
		return n;
	}
	do
		n = send(l->fd, buf, bytes, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno == EAGAIN)
		return 0;
	link_fail(l, -SPLIT_E_REMOTE_CLOSED, strerror(errno));
	l->deaf_end = true;
	return -1;
}

int stream_handshake(struct remote_link *l)
{
	int rc;

	if (l->ssl == NULL)
		return 0;
	l->wants_read = l->wants_write = false;
	errno = 0;
	rc = SSL_do_handshake(l->ssl);
	if (rc == 1)
		return 0;
	return tls_result(l, rc, true) == 0 ? 1 : l->fault;
}

short link_events(const struct remote_link *l)
{
	short events = POLLIN;

	if (l->wants_write || (link_backlog(l) != 0 && !l->wants_read))
		events |= POLLOUT;
	return events;
}

/* Behind the *at bytes that are there, if it fits with one NUL more. */
static void name_add(char *buf, size_t bytes, size_t *at, const char *kind, const ASN1_STRING *name)
{
	const unsigned char *text = ASN1_STRING_get0_data(name);
	size_t n = (size_t)ASN1_STRING_length(name);

	for (size_t i = 0; i < n; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return;
	if (n == 0 || n + strlen(kind) + 2 > bytes - *at)
		return;
	*at += (size_t)snprintf(buf + *at, bytes - *at, "%s%.*s", kind, (int)n, text) + 1;
	buf[*at] = '\0';
}

void link_peer_names(const struct remote_link *l, char *buf, size_t bytes)
{
	X509 *cert = l->ssl != NULL ? SSL_get0_peer_certificate(l->ssl) : NULL;
	GENERAL_NAMES *names =
		cert != NULL ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
	size_t at = 0;

	buf[0] = '\0';
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

		if (name->type == GEN_DNS)
			name_add(buf, bytes, &at, "DNS:", name->d.dNSName);
		else if (name->type == GEN_URI)
			name_add(buf, bytes, &at, "URI:", name->d.uniformResourceIdentifier);
	}
	GENERAL_NAMES_free(names);
}
