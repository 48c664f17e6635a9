/* Bytes of a peer into a TLS server: the handshake's first, in pieces, and those of an open
 * session.
 *
 * Input: a byte of flags (1: the session is open first, over an honest client; 2: TLS 1.2; 4: the
 * client is asked for a certificate), a byte that sizes the pieces, then what the peer sends. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "daemon/tls/tls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OUT_MAX (1u << 20)

static struct tls_context *contexts[2]; /* the second asks for client certificates */
static struct tls_engine *engine;
static SSL_CTX *client_ctx;
static uint8_t out[OUT_MAX];
static size_t out_n;
static uint64_t now_ns;

static int out_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	(void)ctx;
	(void)wanted;
	if (out_n == OUT_MAX)
		return SPLIT_AGAIN;
	*buf_out = out + out_n;
	*room_out = OUT_MAX - out_n;
	return 0;
}

static void out_commit(void *ctx, size_t bytes)
{
	(void)ctx;
	out_n += bytes;
}

static int on_opened(void *user)
{
	(void)user;
	return 0;
}

static void on_data(void *user, const uint8_t *p, size_t n)
{
	/* Every byte is there to be read. */
	for (size_t i = 0; i < n; i++)
		*(volatile uint8_t *)user = p[i];
}

static void on_progress(void *user)
{
	(void)user;
}

static void must(bool good)
{
	if (!good)
		abort();
}

static void files_make(char cert[32], char key[32])
{
	EVP_PKEY *pkey = EVP_EC_gen("P-256");
	X509 *x = X509_new();
	FILE *file;

	must(pkey != NULL && x != NULL);
	must(ASN1_INTEGER_set(X509_get_serialNumber(x), 1) == 1);
	must(X509_gmtime_adj(X509_getm_notBefore(x), 0) != NULL);
	must(X509_gmtime_adj(X509_getm_notAfter(x), 3600L * 24 * 365) != NULL);
	must(X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
					(const unsigned char *)"fuzz", -1, -1, 0) == 1);
	must(X509_set_issuer_name(x, X509_get_subject_name(x)) == 1);
	must(X509_set_pubkey(x, pkey) == 1 && X509_sign(x, pkey, EVP_sha256()) > 0);
	file = fdopen(mkstemp(cert), "w");
	must(file != NULL && PEM_write_X509(file, x) == 1 && fclose(file) == 0);
	file = fdopen(mkstemp(key), "w");
	must(file != NULL && PEM_write_PrivateKey(file, pkey, NULL, NULL, 0, NULL, NULL) == 1 &&
	     fclose(file) == 0);
	X509_free(x);
	EVP_PKEY_free(pkey);
}

static void setup(void)
{
	static const struct tls_events events = {on_opened, on_data, on_progress};
	const struct tls_engine_config cfg = {
		.sessions_max = 2,
		.handshakes_max = 2,
		.wake_fd = -1,
	};
	char cert[32] = "/tmp/splitd-fuzz-c.XXXXXX", key[32] = "/tmp/splitd-fuzz-k.XXXXXX";
	static const unsigned char h2[] = {2, 'h', '2'};
	struct tls_tickets *tickets;
	struct tls_error error;

	tls_library_init();
	files_make(cert, key);
	must(tls_tickets_create(&tickets) == 0);
	for (int i = 0; i < 2; i++) {
		const struct tls_certificate certificate = {.cert_file = cert, .key_file = key};
		const struct tls_context_config config = {
			.name = "fuzz",
			.certificates = &certificate,
			.certificates_n = 1,
			.client_ca_file = i == 1 ? cert : NULL,
			.client_auth = i == 1 ? TLS_CLIENT_OPTIONAL : TLS_CLIENT_NONE,
			.ticket_seconds = 60,
		};

		must(tls_context_create(&config, tickets, &contexts[i], &error) == 0);
	}
	(void)unlink(cert);
	(void)unlink(key);
	must(tls_engine_create(&cfg, &events, &engine) == 0);
	client_ctx = SSL_CTX_new(TLS_client_method());
	must(client_ctx != NULL && SSL_CTX_set_alpn_protos(client_ctx, h2, sizeof(h2)) == 0);
}

/* True when the session lives. */
static bool feed(struct tls_session *s, const uint8_t *p, size_t n)
{
	for (unsigned i = 0; n > 0 && i < 10000; i++) {
		ssize_t took = tls_session_recv(s, p, n, now_ns);

		if (took < 0)
			break;
		p += took;
		n -= (size_t)took;
		(void)tls_engine_poll(engine, now_ns);
	}
	(void)tls_engine_poll(engine, now_ns);
	return tls_session_send(s) >= 0 && n == 0;
}

/* An honest client's handshake. */
static void open_session(struct tls_session *s, int version)
{
	SSL *client = SSL_new(client_ctx);
	BIO *in = BIO_new(BIO_s_mem()), *to = BIO_new(BIO_s_mem());

	must(client != NULL && in != NULL && to != NULL);
	SSL_set_bio(client, in, to);
	SSL_set_connect_state(client);
	must(SSL_set_max_proto_version(client, version) == 1);
	for (unsigned i = 0; i < 10 && !tls_session_open(s); i++) {
		char *bytes;
		long n;

		(void)SSL_do_handshake(client);
		n = BIO_get_mem_data(to, &bytes);
		must(feed(s, (const uint8_t *)bytes, (size_t)n));
		(void)BIO_reset(to);
		must(BIO_write(in, out, (int)out_n) == (int)out_n);
		out_n = 0;
	}
	must(tls_session_open(s));
	SSL_free(client);
	ERR_clear_error();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct tls_out to = {out_reserve, out_commit, NULL};
	static uint8_t sink;
	struct tls_session *s;
	size_t piece;
	uint8_t flags;

	if (engine == NULL)
		setup();
	if (size < 2)
		return 0;
	flags = data[0];
	piece = 1u + data[1] * 8u;
	data += 2;
	size -= 2;
	now_ns += 1000000;
	out_n = 0;
	must(tls_session_create(engine, contexts[(flags >> 2) & 1], &to, &sink, flags, 1448, now_ns,
				&s) == 0);
	if (flags & 1)
		open_session(s, flags & 2 ? TLS1_2_VERSION : TLS1_3_VERSION);
	while (size > 0) {
		size_t n = size < piece ? size : piece;

		if (!feed(s, data, n))
			break;
		data += n;
		size -= n;
	}
	tls_session_recv_end(s);
	if (tls_session_open(s) && tls_session_write(s, (const uint8_t *)"answer", 6, now_ns) >= 0)
		(void)tls_session_shutdown(s);
	tls_session_destroy(s, TLS_END_CLOSED);
	return 0;
}
