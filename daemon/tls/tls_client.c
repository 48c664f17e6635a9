/* The client's side: the rules of connections to servers, and whom we take a server for. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "daemon/tls/tls_internal.h"

#define SERVER_CHAIN_DEPTH 8

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

int tls_context_create_client(const struct tls_client_config *cfg, struct tls_context **out,
			      struct tls_error *error)
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
	ctx->client = true;
	ERR_clear_error();
	ctx->ssl = SSL_CTX_new(TLS_client_method());
	if (ctx->ssl == NULL || SSL_CTX_set_ex_data(ctx->ssl, context_index, ctx) != 1)
		err = -SPLIT_E_BASE_NOMEM;
	if (err == 0)
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
	(void)SSL_CTX_set_session_cache_mode(ctx->ssl, SSL_SESS_CACHE_OFF);
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
	return r == 1 ? 0 : -SPLIT_E_TLS_HANDSHAKE;
}
