/* The client's side: the rules of connections to servers, and whom we take a server for.
 *
 * Resumption. A server's tickets are kept by the engine, so by the worker alone, and the next
 * session to the same server, at the same address and by the same context begins with one: no
 * certificates are sent or checked again, for what was found out about them is a part of the
 * session. A reload makes a new context, under which nothing is resumed. A ticket of TLS 1.3 is
 * used once (RFC 8446 sC.4). */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "base/siphash.h"
#include "daemon/tls/tls_internal.h"

#define SERVER_CHAIN_DEPTH 8

static atomic_ullong contexts_made;

static int authorities_set(SSL_CTX *ssl, const struct tls_client_config *cfg,
			   struct tls_error *error)
{
	char reason[128];
	int r = cfg->ca_file != NULL ? SSL_CTX_load_verify_file(ssl, cfg->ca_file)
				     : SSL_CTX_set_default_verify_paths(ssl);

	if (r != 1)
		return context_wrong(error, "ca %s cannot be used: %s",
				     cfg->ca_file != NULL ? cfg->ca_file : "(the system's)",
				     openssl_reason(reason, sizeof(reason)));
	SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_verify_depth(ssl, SERVER_CHAIN_DEPTH);
	return 0;
}

static int identity_set(struct tls_context *ctx, const struct tls_client_config *cfg,
			struct tls_error *error)
{
	struct tls_certificate files = {.cert_file = cfg->cert_file, .key_file = cfg->key_file};
	const struct certificate *c;
	char reason[128];
	int err;

	if (cfg->cert_file == NULL)
		return 0;
	if (cfg->key_file == NULL)
		return context_wrong(error, "certificate %s: no key is given", cfg->cert_file);
	ctx->certificates = calloc(1, sizeof(*ctx->certificates));
	if (ctx->certificates == NULL)
		return -SPLIT_E_BASE_NOMEM;
	ctx->certificates_n = 1;
	c = &ctx->certificates[0];
	err = certificate_load(&ctx->certificates[0], &files, ctx, error);
	if (err == 0 && SSL_CTX_use_cert_and_key(ctx->ssl, c->leaf, c->key, c->chain, 1) != 1)
		err = context_wrong(error, "certificate %s cannot be used: %s", cfg->cert_file,
				    openssl_reason(reason, sizeof(reason)));
	return err;
}

/* ---- tickets -----------------------------------------------------------------------------------
 */

static void ticket_keep(struct tls_session *s, SSL_SESSION *session)
{
	struct client_tickets *tickets = s->engine->tickets;
	struct client_ticket *oldest;

	if (tickets == NULL) {
		SSL_SESSION_free(session);
		return;
	}
	oldest = &tickets->at[0];
	for (unsigned i = 0; i < CLIENT_TICKETS; i++)
		if (tickets->at[i].kept < oldest->kept)
			oldest = &tickets->at[i];
	SSL_SESSION_free(oldest->session);
	*oldest = (struct client_ticket){s->ticket_key, ++tickets->clock, session};
}

/* OpenSSL's callback; 1: the session is ours. In the handshake this may be a helper's thread. */
static int on_ticket(SSL *ssl, SSL_SESSION *session)
{
	struct tls_session *s = SSL_get_ex_data(ssl, session_index);

	if (s == NULL || s->server == NULL)
		return 0;
	if (s->state == SESSION_OPEN) {
		ticket_keep(s, session);
		return 1;
	}
	SSL_SESSION_free(s->ticket);
	s->ticket = session;
	return 1;
}

static SSL_SESSION *ticket_take(struct client_tickets *tickets, uint64_t key)
{
	struct client_ticket *newest = NULL;
	SSL_SESSION *session;

	for (unsigned i = 0; i < CLIENT_TICKETS; i++) {
		struct client_ticket *t = &tickets->at[i];

		if (t->session != NULL && t->key == key &&
		    (newest == NULL || t->kept > newest->kept))
			newest = t;
	}
	if (newest == NULL)
		return NULL;
	session = newest->session;
	if (SSL_SESSION_get_protocol_version(session) == TLS1_3_VERSION)
		*newest = (struct client_ticket){0};
	else
		SSL_SESSION_up_ref(session);
	return session;
}

void client_resume(struct tls_session *s, uint64_t source)
{
	static const struct siphash_key key = {0};
	struct tls_engine *e = s->engine;
	const uint64_t all[3] = {siphash24(&key, s->server, strlen(s->server)), source,
				 s->context->id};

	s->ticket_key = siphash24(&key, all, sizeof(all));
	if (e->tickets == NULL)
		e->tickets = calloc(1, sizeof(*e->tickets));
	if (e->tickets != NULL)
		s->resumes = ticket_take(e->tickets, s->ticket_key);
}

void client_opened(struct tls_session *s)
{
	if (s->ticket != NULL)
		ticket_keep(s, s->ticket);
	s->ticket = NULL;
}

void client_tickets_put(struct tls_session *s)
{
	SSL_SESSION_free(s->resumes);
	SSL_SESSION_free(s->ticket);
	s->resumes = s->ticket = NULL;
}

void client_tickets_fini(struct tls_engine *e)
{
	for (unsigned i = 0; e->tickets != NULL && i < CLIENT_TICKETS; i++)
		SSL_SESSION_free(e->tickets->at[i].session);
	free(e->tickets);
	e->tickets = NULL;
}

/* ---- contexts and sessions --------------------------------------------------------------------
 */

int tls_context_create_client(const struct tls_client_config *cfg, struct tls_context **out,
			      struct tls_error *error)
{
	struct tls_context *ctx;
	int err = context_new(TLS_client_method(), error, &ctx);

	if (err != 0)
		return err;
	ctx->client = true;
	err = context_rules(ctx->ssl, cfg->ciphers, cfg->ciphersuites, cfg->groups,
			    cfg->min_version, error);
	if (err == 0)
		err = authorities_set(ctx->ssl, cfg, error);
	if (err == 0)
		err = identity_set(ctx, cfg, error);
	if (err == 0)
		err = context_alpn(ctx, cfg->alpn);
	if (err != 0) {
		tls_context_put(ctx);
		return err;
	}
	ctx->id = atomic_fetch_add_explicit(&contexts_made, 1, memory_order_relaxed) + 1;
	(void)SSL_CTX_set_session_cache_mode(ctx->ssl,
					     SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx->ssl, on_ticket);
	SSL_CTX_set_info_callback(ctx->ssl, session_info);
	*out = ctx;
	return 0;
}

/* RFC 9110 s4.3.4, RFC 6125: the name as it stands in the config, wildcards of one whole label. */
int client_prepare(struct tls_session *s)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(s->ssl);
	struct in6_addr ip;
	bool address =
		inet_pton(AF_INET, s->server, &ip) == 1 || inet_pton(AF_INET6, s->server, &ip) == 1;
	int r;

	SSL_set_connect_state(s->ssl);
	if (address) {
		r = X509_VERIFY_PARAM_set1_ip_asc(param, s->server);
	} else {
		X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
		r = X509_VERIFY_PARAM_set1_host(param, s->server, 0);
		if (r == 1)
			r = (int)SSL_set_tlsext_host_name(s->ssl, s->server);
	}
	/* One that cannot be used makes no difference: the handshake is a whole one then. */
	if (s->resumes != NULL)
		(void)SSL_set_session(s->ssl, s->resumes);
	SSL_SESSION_free(s->resumes);
	s->resumes = NULL;
	return r == 1 ? 0 : -SPLIT_E_TLS_HANDSHAKE;
}
