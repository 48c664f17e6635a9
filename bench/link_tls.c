/* Links with TLS over other links: OpenSSL's client, ALPN h2. The server's certificate is not
 * looked at: it is made for the run. Ciphertext that the link below does not take waits here, a
 * little of it, and then nothing more is taken from above. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "base/list.h"
#include "bench/link.h"
#include "bench/perf.h"

#define WAITING_MAX  65536u
#define RECORD_BYTES 16384u

struct link {
	struct tls_set *set;
	void *user;
	struct link *below;
	struct list waits; /* set.waits: ciphertext that the link below has not taken */
	SSL *ssl;
	BIO *in, *out;
	bool up, down;
};

struct tls_set {
	struct link_set base;
	struct link_set *below;
	SSL_CTX *ctx;
	struct list waits;
	uint8_t plain[RECORD_BYTES];
};

/* Give what is sealed to the link below. True when it took all. */
static bool pass(struct link *l)
{
	char *bytes;
	long n = BIO_get_mem_data(l->out, &bytes);
	size_t took = n > 0 && !l->down ? link_send(l->set->below, l->below, (const uint8_t *)bytes,
						    (size_t)n)
					: 0;

	/* Reading is how a memory BIO forgets. */
	while (took > 0) {
		int part = BIO_read(l->out, l->set->plain,
				    (int)(took < RECORD_BYTES ? took : RECORD_BYTES));

		took -= part > 0 ? (size_t)part : took;
		n -= part > 0 ? part : n;
	}
	list_del(&l->waits);
	if (n <= 0 || l->down)
		return true;
	list_add_tail(&l->set->waits, &l->waits);
	return false;
}

static void fail(struct link *l)
{
	if (l->down)
		return;
	l->down = true;
	l->set->base.events->down(l->user);
}

static void handshake(struct link *l)
{
	int r;

	ERR_clear_error();
	r = SSL_do_handshake(l->ssl);
	(void)pass(l);
	if (r == 1) {
		l->up = true;
		l->set->base.events->up(l->user);
	} else if (SSL_get_error(l->ssl, r) != SSL_ERROR_WANT_READ) {
		perf_warn("the TLS handshake failed");
		fail(l);
	}
}

static void on_up(void *user)
{
	handshake(user);
}

static void on_data(void *user, const uint8_t *bytes, size_t n)
{
	struct link *l = user;

	if (l->down || BIO_write(l->in, bytes, (int)n) != (int)n)
		return;
	if (!l->up)
		handshake(l);
	while (l->up && !l->down) {
		size_t got;
		int r;

		ERR_clear_error();
		r = SSL_read_ex(l->ssl, l->set->plain, sizeof(l->set->plain), &got);
		if (r != 1) {
			if (SSL_get_error(l->ssl, r) != SSL_ERROR_WANT_READ)
				fail(l);
			return;
		}
		l->set->base.events->data(l->user, l->set->plain, got);
	}
}

static void on_down(void *user)
{
	fail(user);
}

static const struct link_events below_events = {on_up, on_data, on_down};

const struct link_events *link_tls_below(void)
{
	return &below_events;
}

static void link_free(struct link *l)
{
	list_del(&l->waits);
	SSL_free(l->ssl);
	free(l);
}

static int tls_open(struct link_set *base, void *user, struct link **out)
{
	struct tls_set *s = (struct tls_set *)(void *)base;
	struct link *l = calloc(1, sizeof(*l));
	int err = l == NULL ? -SPLIT_E_BASE_NOMEM : 0;

	if (err != 0)
		return err;
	l->set = s;
	l->user = user;
	list_init(&l->waits);
	l->ssl = SSL_new(s->ctx);
	l->in = BIO_new(BIO_s_mem());
	l->out = BIO_new(BIO_s_mem());
	if (l->ssl == NULL || l->in == NULL || l->out == NULL) {
		BIO_free(l->in);
		BIO_free(l->out);
		link_free(l);
		return -SPLIT_E_BASE_NOMEM;
	}
	SSL_set_bio(l->ssl, l->in, l->out);
	SSL_set_connect_state(l->ssl);
	err = link_open(s->below, l, &l->below);
	if (err != 0) {
		link_free(l);
		return err;
	}
	*out = l;
	return 0;
}

static size_t tls_send(struct link *l, const uint8_t *bytes, size_t n)
{
	size_t at = 0, done;

	if (!l->up || l->down)
		return 0;
	while (at < n && BIO_ctrl_pending(l->out) < WAITING_MAX) {
		size_t part = n - at < RECORD_BYTES ? n - at : RECORD_BYTES;

		ERR_clear_error();
		if (SSL_write_ex(l->ssl, bytes + at, part, &done) != 1)
			break;
		at += done;
		(void)pass(l);
	}
	return at;
}

static void tls_close(struct link *l)
{
	if (l->up && !l->down) {
		(void)SSL_shutdown(l->ssl);
		(void)pass(l);
	}
	link_close(l->set->below, l->below);
	link_free(l);
}

static void waits_pass(struct tls_set *s)
{
	struct list now;
	struct list *node;

	list_init(&now);
	list_splice_tail(&now, &s->waits);
	while ((node = list_pop_head(&now)) != NULL)
		(void)pass(list_entry(node, struct link, waits));
}

static unsigned tls_poll(struct link_set *base, uint64_t now_ns, uint64_t wait_ns)
{
	struct tls_set *s = (struct tls_set *)(void *)base;
	unsigned n = links_poll(s->below, now_ns, list_empty(&s->waits) ? wait_ns : 0);

	waits_pass(s);
	return n;
}

static void tls_flush(struct link_set *base, uint64_t now_ns)
{
	struct tls_set *s = (struct tls_set *)(void *)base;

	waits_pass(s);
	links_flush(s->below, now_ns);
}

static void tls_destroy(struct link_set *base)
{
	struct tls_set *s = (struct tls_set *)(void *)base;

	links_destroy(s->below);
	SSL_CTX_free(s->ctx);
	free(s);
}

int link_tls_create(struct link_set *below, const struct link_events *events, struct link_set **out)
{
	static const struct link_ops ops = {tls_open, tls_send,  tls_close,
					    tls_poll, tls_flush, tls_destroy};
	static const unsigned char h2[] = {2, 'h', '2'};
	struct tls_set *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return -SPLIT_E_BASE_NOMEM;
	s->base = (struct link_set){.ops = &ops, .events = events};
	s->below = below;
	list_init(&s->waits);
	s->ctx = SSL_CTX_new(TLS_client_method());
	if (s->ctx == NULL || SSL_CTX_set_alpn_protos(s->ctx, h2, sizeof(h2)) != 0) {
		SSL_CTX_free(s->ctx);
		free(s);
		return -SPLIT_E_BASE_NOMEM;
	}
	(void)SSL_CTX_set_mode(s->ctx, SSL_MODE_RELEASE_BUFFERS);
	*out = &s->base;
	return 0;
}

/* The openssl command makes them; no part of what is measured. */
int link_tls_certificate(const char *dir)
{
	char command[512];

	(void)snprintf(command, sizeof(command),
		       "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=split-perf "
		       "-keyout '%s/tls.key' -out '%s/tls.pem' >/dev/null 2>&1",
		       dir, dir);
	if (system(command) == 0) /* NOLINT(cert-env33-c) */
		return 0;
	perf_warn("the openssl command made no certificate");
	return -SPLIT_E_BASE_SYSTEM;
}

void link_tls_remove(const char *dir)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/tls.pem", dir);
	(void)unlink(path);
	(void)snprintf(path, sizeof(path), "%s/tls.key", dir);
	(void)unlink(path);
}
