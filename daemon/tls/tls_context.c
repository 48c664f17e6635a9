/* A listener's certificates and rules, as one SSL_CTX. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#include "daemon/tls/tls_internal.h"

/* Ephemeral key exchange and AEAD only, none of RFC 9113 appendix A; 128 bits first, which is
 * enough and the quickest. */
#define CIPHERS_DEFAULT                                                                            \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                               \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"                               \
	"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define SUITES_DEFAULT "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS_DEFAULT "X25519:P-256:P-384"

#define CLIENT_CHAIN_DEPTH 8

int session_index = -1, context_index = -1;

static pthread_once_t indices_once = PTHREAD_ONCE_INIT;

static void indices_make(void)
{
	tls_library_init();
	session_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	context_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

int library_ready(void)
{
	(void)pthread_once(&indices_once, indices_make);
	return session_index < 0 || context_index < 0 ? -SPLIT_E_BASE_NOMEM : 0;
}

void context_warn(struct tls_context *ctx, const char *fmt, ...)
{
	va_list args;
	char *text;

	if (ctx->warnings_n >= CONTEXT_WARNINGS_MAX)
		return;
	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) >= 0)
		ctx->warnings[ctx->warnings_n++] = text;
	va_end(args);
}

const char *tls_context_warning(const struct tls_context *ctx, size_t index)
{
	return index < ctx->warnings_n ? ctx->warnings[index] : NULL;
}

int context_wrong(struct tls_error *error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(error->text, sizeof(error->text), fmt, args);
	va_end(args);
	return -SPLIT_E_TLS_CONFIG;
}

/* ---- what the handshake asks ------------------------------------------------------------------
 */

static void cause_set(SSL *ssl, enum handshake_cause cause)
{
	struct tls_session *s = SSL_get_ex_data(ssl, session_index);

	if (s->handshake != NULL)
		s->handshake->cause = cause;
}

/* RFC 9113 s3.2: HTTP/2 over TLS is chosen by ALPN. A client that offers nothing at all does not
 * get as far as on_alpn. */
static int on_client_hello(SSL *ssl, int *alert, void *arg)
{
	const unsigned char *p;
	size_t n;

	(void)arg;
	if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &p,
				      &n) == 1)
		return SSL_CLIENT_HELLO_SUCCESS;
	cause_set(ssl, CAUSE_ALPN);
	*alert = SSL_AD_NO_APPLICATION_PROTOCOL;
	return SSL_CLIENT_HELLO_ERROR;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n,
		   const unsigned char *in, unsigned in_n, void *arg)
{
	const struct tls_context *ctx = arg;
	const unsigned char *ours = (const unsigned char *)ctx->alpn;

	for (unsigned at = 0; at < in_n; at += 1u + in[at]) {
		if (in[at] == ours[0] && in_n - at > ours[0] &&
		    memcmp(in + at + 1, ours + 1, ours[0]) == 0) {
			*out = in + at + 1;
			*out_n = ours[0];
			return SSL_TLSEXT_ERR_OK;
		}
	}
	cause_set(ssl, CAUSE_ALPN);
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* The name is taken as said; on_certificate looks at it. */
static int on_server_name(SSL *ssl, int *alert, void *arg)
{
	(void)alert;
	(void)arg;
	return SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) != NULL ? SSL_TLSEXT_ERR_OK
									  : SSL_TLSEXT_ERR_NOACK;
}

static bool certificate_use(SSL *ssl, const struct certificate *c)
{
	return SSL_use_cert_and_key(ssl, c->leaf, c->key, c->chain, 1) == 1;
}

/* All certificates for the name: RFC 6066 s3, the most specific first. */
static int on_certificate(SSL *ssl, void *arg)
{
	const struct tls_context *ctx = arg;
	const char *host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	bool found = false;

	SSL_certs_clear(ssl);
	for (int wildcards = 0; wildcards < 2 && host != NULL && !found; wildcards++) {
		for (size_t i = 0; i < ctx->certificates_n; i++)
			if (certificate_covers(&ctx->certificates[i], host, wildcards != 0))
				found |= certificate_use(ssl, &ctx->certificates[i]);
	}
	if (found)
		return 1;
	/* Unknown or none: the first, and what stands beside it for the same name. */
	for (size_t i = ctx->certificates_n; i-- > 1;) {
		const struct certificate *first = &ctx->certificates[0];

		if (first->names_n > 0 && ctx->certificates[i].names_n > 0 &&
		    strcmp(first->names[0], ctx->certificates[i].names[0]) == 0)
			(void)certificate_use(ssl, &ctx->certificates[i]);
	}
	return certificate_use(ssl, &ctx->certificates[0]) ? 1 : 0;
}

static int on_status(SSL *ssl, void *arg)
{
	const struct tls_context *ctx = arg;
	const X509 *leaf = SSL_get_certificate(ssl);
	unsigned char *copy;

	for (size_t i = 0; i < ctx->certificates_n; i++) {
		const struct certificate *c = &ctx->certificates[i];

		if (c->leaf != leaf || c->ocsp == NULL ||
		    (c->ocsp_until != 0 && c->ocsp_until <= time(NULL)))
			continue;
		copy = OPENSSL_memdup(c->ocsp, c->ocsp_n);
		if (copy == NULL)
			break;
		SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)c->ocsp_n);
		return SSL_TLSEXT_ERR_OK;
	}
	return SSL_TLSEXT_ERR_NOACK;
}

/* A ticket remembers the client's certificate as it was verified then: one that has ended since
 * does not come in by it. With TLS 1.3 each is for one connection, which brings the next (RFC 8446
 * sC.4). */
static SSL_TICKET_RETURN on_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
				   size_t name_n, SSL_TICKET_STATUS status, void *arg)
{
	X509 *peer;

	(void)name;
	(void)name_n;
	(void)arg;
	if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	peer = SSL_SESSION_get0_peer(session);
	if (peer != NULL && X509_cmp_current_time(X509_get0_notAfter(peer)) <= 0)
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	return status == SSL_TICKET_SUCCESS && SSL_version(ssl) != TLS1_3_VERSION
		       ? SSL_TICKET_RETURN_USE
		       : SSL_TICKET_RETURN_USE_RENEW;
}

static int on_ticket_made(SSL *ssl, void *arg)
{
	(void)ssl;
	(void)arg;
	return 1;
}

/* ---- rules ------------------------------------------------------------------------------------
 */

/* What HTTP/2 forbids (RFC 9113 s9.2.2) would fail later, at clients that choose it. */
static int ciphers_check(SSL_CTX *ssl, struct tls_error *error)
{
	const STACK_OF(SSL_CIPHER) *list = SSL_CTX_get_ciphers(ssl);

	for (int i = 0; i < sk_SSL_CIPHER_num(list); i++) {
		const SSL_CIPHER *c = sk_SSL_CIPHER_value(list, i);
		int exchange = SSL_CIPHER_get_kx_nid(c);

		if (SSL_CIPHER_is_aead(c) != 1 ||
		    (exchange != NID_kx_ecdhe && exchange != NID_kx_any))
			return context_wrong(
				error,
				"cipher %s is not ephemeral (ECDHE) with AEAD, as HTTP/2 asks",
				SSL_CIPHER_get_name(c));
	}
	return 0;
}

int context_rules(SSL_CTX *ssl, const char *ciphers, const char *suites, const char *groups,
		  enum tls_version min_version, struct tls_error *error)
{
	int version = min_version == TLS_VERSION_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION;

	ciphers = ciphers != NULL ? ciphers : CIPHERS_DEFAULT;
	suites = suites != NULL ? suites : SUITES_DEFAULT;
	groups = groups != NULL ? groups : GROUPS_DEFAULT;
	SSL_CTX_set_security_level(ssl, 2);
	if (SSL_CTX_set_min_proto_version(ssl, version) != 1 ||
	    SSL_CTX_set_max_proto_version(ssl, TLS1_3_VERSION) != 1)
		return context_wrong(error, "this OpenSSL does not speak TLS 1.2 and 1.3");
	if (SSL_CTX_set_cipher_list(ssl, ciphers) != 1)
		return context_wrong(
			error, "ciphers \"%s\": OpenSSL knows none of them for TLS 1.2", ciphers);
	if (SSL_CTX_set_ciphersuites(ssl, suites) != 1)
		return context_wrong(error, "ciphersuites \"%s\": not a list of TLS 1.3 suites",
				     suites);
	if (SSL_CTX_set1_groups_list(ssl, groups) != 1)
		return context_wrong(
			error, "groups \"%s\": not a list of groups that OpenSSL knows", groups);
	(void)SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
					       SSL_OP_CIPHER_SERVER_PREFERENCE |
					       SSL_OP_PRIORITIZE_CHACHA);
	(void)SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	(void)SSL_CTX_set_max_early_data(ssl, 0);
	(void)SSL_CTX_set_max_cert_list(ssl, CERTIFICATE_LIST_MAX);
	return ciphers_check(ssl, error);
}

static void tickets_set(struct tls_context *ctx, uint64_t seconds)
{
	(void)SSL_CTX_set_session_cache_mode(ctx->ssl, SSL_SESS_CACHE_OFF);
	if (ctx->tickets == NULL) {
		(void)SSL_CTX_set_options(ctx->ssl, SSL_OP_NO_TICKET);
		(void)SSL_CTX_set_num_tickets(ctx->ssl, 0);
		return;
	}
	/* A gRPC client keeps one connection: one ticket is what it may need. */
	(void)SSL_CTX_set_num_tickets(ctx->ssl, 1);
	(void)SSL_CTX_set_timeout(ctx->ssl, (long)seconds);
	(void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx->ssl, tickets_key);
	(void)SSL_CTX_set_session_ticket_cb(ctx->ssl, on_ticket_made, on_ticket, ctx);
}

/* ---- clients ----------------------------------------------------------------------------------
 */

static int client_auth_set(SSL_CTX *ssl, const struct tls_context_config *cfg,
			   struct tls_error *error)
{
	int mode = SSL_VERIFY_PEER;
	STACK_OF(X509_NAME) * names;
	char reason[128];

	if (cfg->client_auth == TLS_CLIENT_NONE)
		return 0;
	if (cfg->client_ca_file == NULL)
		return context_wrong(
			error, "client certificates are asked for, but no client_ca is given");
	if (SSL_CTX_load_verify_file(ssl, cfg->client_ca_file) != 1)
		return context_wrong(error, "client_ca %s cannot be used: %s", cfg->client_ca_file,
				     openssl_reason(reason, sizeof(reason)));
	names = SSL_load_client_CA_file(cfg->client_ca_file);
	if (names == NULL || sk_X509_NAME_num(names) == 0) {
		sk_X509_NAME_pop_free(names, X509_NAME_free);
		return context_wrong(error, "client_ca %s holds no certificate in PEM form: %s",
				     cfg->client_ca_file, openssl_reason(reason, sizeof(reason)));
	}
	SSL_CTX_set_client_CA_list(ssl, names);
	if (cfg->client_auth == TLS_CLIENT_REQUIRED)
		mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
	SSL_CTX_set_verify(ssl, mode, NULL);
	SSL_CTX_set_verify_depth(ssl, CLIENT_CHAIN_DEPTH);
	return 0;
}

/* Sessions resume only where the same clients are let in by the same authorities. */
static int session_scope_set(struct tls_context *ctx, const struct tls_context_config *cfg)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx->ssl);
	STACK_OF(X509) *trusted = X509_STORE_get1_all_certs(store);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	unsigned char scope[EVP_MAX_MD_SIZE], digest[EVP_MAX_MD_SIZE];
	unsigned n = 0, digest_n;
	bool good = md != NULL && trusted != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1;

	good = good && EVP_DigestUpdate(md, cfg->name, strlen(cfg->name) + 1) == 1 &&
	       EVP_DigestUpdate(md, &cfg->client_auth, sizeof(cfg->client_auth)) == 1;
	for (int i = 0; good && i < sk_X509_num(trusted); i++)
		good = X509_digest(sk_X509_value(trusted, i), EVP_sha256(), digest, &digest_n) ==
			       1 &&
		       EVP_DigestUpdate(md, digest, digest_n) == 1;
	good = good && EVP_DigestFinal_ex(md, scope, &n) == 1 &&
	       SSL_CTX_set_session_id_context(
		       ctx->ssl, scope, n < SSL_MAX_SID_CTX_LENGTH ? n : SSL_MAX_SID_CTX_LENGTH) ==
		       1;
	EVP_MD_CTX_free(md);
	sk_X509_pop_free(trusted, X509_free);
	return good ? 0 : -SPLIT_E_BASE_NOMEM;
}

/* ---- the whole --------------------------------------------------------------------------------
 */

static int certificates_set(struct tls_context *ctx, const struct tls_context_config *cfg,
			    struct tls_error *error)
{
	char reason[128];
	int err = 0;

	if (cfg->certificates_n == 0)
		return context_wrong(error, "no certificate is given");
	ctx->certificates = calloc(cfg->certificates_n, sizeof(*ctx->certificates));
	if (ctx->certificates == NULL)
		return -SPLIT_E_BASE_NOMEM;
	for (size_t i = 0; i < cfg->certificates_n && err == 0; i++) {
		const struct certificate *c = &ctx->certificates[i];

		ctx->certificates_n++;
		err = certificate_load(&ctx->certificates[i], &cfg->certificates[i], ctx, error);
		/* The SSL_CTX says what it thinks of it (a key too short for its level). */
		if (err == 0 &&
		    SSL_CTX_use_cert_and_key(ctx->ssl, c->leaf, c->key, c->chain, 1) != 1)
			err = context_wrong(error, "certificate %s cannot be used: %s",
					    cfg->certificates[i].cert_file,
					    openssl_reason(reason, sizeof(reason)));
	}
	if (err == 0 && cfg->certificates_n > 1)
		SSL_CTX_set_cert_cb(ctx->ssl, on_certificate, ctx);
	return err;
}

int context_alpn(struct tls_context *ctx, const char *alpn)
{
	size_t n = strlen(alpn != NULL ? alpn : "h2");

	if (n == 0 || n > sizeof(ctx->alpn) - 2)
		return -SPLIT_E_BASE_INVALID;
	ctx->alpn[0] = (char)n;
	memcpy(ctx->alpn + 1, alpn != NULL ? alpn : "h2", n);
	if (ctx->client)
		return SSL_CTX_set_alpn_protos(ctx->ssl, (const unsigned char *)ctx->alpn,
					       (unsigned)n + 1) == 0
			       ? 0
			       : -SPLIT_E_BASE_NOMEM;
	SSL_CTX_set_client_hello_cb(ctx->ssl, on_client_hello, ctx);
	SSL_CTX_set_alpn_select_cb(ctx->ssl, on_alpn, ctx);
	return 0;
}

int context_new(const SSL_METHOD *method, struct tls_error *error, struct tls_context **out)
{
	struct tls_context *ctx;
	int err = library_ready();

	error->text[0] = '\0';
	if (err != 0)
		return err;
	ctx = calloc(1, sizeof(*ctx));
	if (ctx == NULL)
		return -SPLIT_E_BASE_NOMEM;
	atomic_init(&ctx->refs, 1);
	ERR_clear_error();
	ctx->ssl = SSL_CTX_new(method);
	if (ctx->ssl == NULL || SSL_CTX_set_ex_data(ctx->ssl, context_index, ctx) != 1) {
		tls_context_put(ctx);
		return -SPLIT_E_BASE_NOMEM;
	}
	*out = ctx;
	return 0;
}

int tls_context_create(const struct tls_context_config *cfg, struct tls_tickets *tickets,
		       struct tls_context **out, struct tls_error *error)
{
	struct tls_context *ctx;
	int err = context_new(TLS_server_method(), error, &ctx);

	if (err != 0)
		return err;
	ctx->tickets = cfg->ticket_seconds != 0 ? tickets : NULL;
	err = context_rules(ctx->ssl, cfg->ciphers, cfg->ciphersuites, cfg->groups,
			    cfg->min_version, error);
	if (err == 0)
		err = certificates_set(ctx, cfg, error);
	if (err == 0)
		err = client_auth_set(ctx->ssl, cfg, error);
	if (err == 0)
		err = session_scope_set(ctx, cfg);
	if (err == 0)
		err = context_alpn(ctx, cfg->alpn);
	if (err != 0) {
		tls_context_put(ctx);
		return err;
	}
	tickets_set(ctx, cfg->ticket_seconds);
	(void)SSL_CTX_set_tlsext_servername_callback(ctx->ssl, on_server_name);
	(void)SSL_CTX_set_tlsext_status_cb(ctx->ssl, on_status);
	(void)SSL_CTX_set_tlsext_status_arg(ctx->ssl, ctx);
	SSL_CTX_set_info_callback(ctx->ssl, session_info);
	*out = ctx;
	return 0;
}

struct tls_context *tls_context_get(struct tls_context *ctx)
{
	atomic_fetch_add_explicit(&ctx->refs, 1, memory_order_relaxed);
	return ctx;
}

bool tls_context_last(const struct tls_context *ctx)
{
	return atomic_load_explicit(&ctx->refs, memory_order_acquire) == 1;
}

void tls_context_put(struct tls_context *ctx)
{
	if (ctx == NULL || atomic_fetch_sub_explicit(&ctx->refs, 1, memory_order_acq_rel) != 1)
		return;
	/* Sessions that are open still have the SSL_CTX; they ask nothing of us any more. */
	SSL_CTX_free(ctx->ssl);
	for (size_t i = 0; i < ctx->certificates_n; i++)
		certificate_fini(&ctx->certificates[i]);
	free(ctx->certificates);
	for (size_t i = 0; i < ctx->warnings_n; i++)
		free(ctx->warnings[i]);
	free(ctx);
}

const char *tls_context_describe(const struct tls_context *ctx, char *buf, size_t bytes)
{
	size_t n = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < ctx->certificates_n && n < bytes; i++) {
		const struct certificate *c = &ctx->certificates[i];
		char day[32] = "?";
		struct tm tm;

		if (ASN1_TIME_to_tm(X509_get0_notAfter(c->leaf), &tm) == 1)
			(void)strftime(day, sizeof(day), "%Y-%m-%d", &tm);
		n += (size_t)snprintf(buf + n, bytes - n, "%s%s until %s", i > 0 ? "; " : "",
				      c->names_n > 0 ? c->names[0] : "certificate without a name",
				      day);
	}
	return buf;
}
