#include "tests/tls/rig.h"

#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

uint64_t rig_now_ns = 1000 * CLOCK_NS_PER_SEC;

/* ---- certificates -----------------------------------------------------------------------------
 */

static char folder[64];

static const char make_script[] =
	"set -e; cd \"$1\"; exec >/dev/null 2>&1\n"
	"ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
	"-keyout $1.key"
	" -out $1.pem -subj /CN=$1 -addext basicConstraints=critical,CA:TRUE"
	" -addext keyUsage=critical,keyCertSign; }\n"
	"cert() { name=$1 by=$2 san=$3; shift 3\n"
	" openssl req -newkey \"$@\" -nodes -keyout $name.key -out $name.csr -subj /CN=$name\n"
	" printf 'subjectAltName=%s\\n' \"$san\" >$name.ext\n"
	" openssl x509 -req -in $name.csr -CA $by.pem -CAkey $by.key -CAcreateserial -days 1"
	" -extfile $name.ext -out $name.pem; }\n"
	"ec='ec -pkeyopt ec_paramgen_curve:P-256'\n"
	"ca ca; ca foreign_ca\n"
	"cert server ca DNS:server.example,DNS:*.wild.example $ec\n"
	"cert server_rsa ca DNS:server.example rsa:2048\n"
	"cert other ca DNS:other.example $ec\n"
	"cert client ca DNS:billing.example,URI:spiffe://example/billing,IP:192.0.2.1 $ec\n"
	"cert foreign foreign_ca DNS:billing.example $ec\n"
	"cert expired ca DNS:billing.example $ec; : >index.txt\n"
	"printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index.txt\\nnew_certs_dir=.\\npolicy=p\\n"
	"default_md=sha256\\nrand_serial=yes\\n[p]\\ncommonName=supplied\\n' >ca.conf\n"
	"openssl ca -batch -config ca.conf -in expired.csr -cert ca.pem -keyfile ca.key"
	" -startdate 20200101000000Z -enddate 20200201000000Z -extfile expired.ext -notext -out "
	"expired.pem\n";

static void folder_make(void)
{
	char command[sizeof(make_script) + 128];

	strcpy(folder, "/tmp/splitd-tls-test.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	(void)snprintf(command, sizeof(command), "set -- '%s'\n%s", folder, make_script);
	ck_assert_msg(system(command) == 0, "the openssl command made no certificates");
}

const char *rig_file(const char *name)
{
	static char paths[8][128];
	static unsigned next;
	char *path = paths[next++ % 8];

	if (folder[0] == '\0')
		folder_make();
	(void)snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

void rig_cleanup(void)
{
	char command[128];

	if (folder[0] == '\0')
		return;
	(void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	ck_assert_int_eq(system(command), 0);
	folder[0] = '\0';
}

/* ---- the server's parts ------------------------------------------------------------------------
 */

struct tls_context *rig_context(const struct context_options *o, struct tls_tickets *tickets)
{
	struct tls_certificate certificates[4] = {0};
	char files[8][128], ca[128];
	struct tls_context_config cfg = {
		.name = o->name != NULL ? o->name : "main",
		.certificates = certificates,
		.client_auth = o->auth,
		.min_version = o->version,
		.ticket_seconds = o->no_tickets ? 0 : 3600,
	};
	struct tls_context *context = NULL;
	struct tls_error error;

	do {
		size_t i = cfg.certificates_n++;
		const char *name = o->certificates[i] != NULL ? o->certificates[i] : "server";

		(void)snprintf(files[2 * i], sizeof(files[0]), "%s.pem", rig_file(name));
		(void)snprintf(files[2 * i + 1], sizeof(files[0]), "%s.key", rig_file(name));
		certificates[i].cert_file = files[2 * i];
		certificates[i].key_file = files[2 * i + 1];
	} while (cfg.certificates_n < 4 && o->certificates[cfg.certificates_n] != NULL);
	if (o->client_ca != NULL) {
		(void)snprintf(ca, sizeof(ca), "%s.pem", rig_file(o->client_ca));
		cfg.client_ca_file = ca;
	}
	ck_assert_msg(tls_context_create(&cfg, tickets, &context, &error) == 0, "%s", error.text);
	return context;
}

static int on_opened(void *user)
{
	((struct rig *)user)->opened = true;
	return 0;
}

static void on_data(void *user, const uint8_t *p, size_t n)
{
	struct rig *r = user;

	ck_assert(r->opened);
	ck_assert_uint_le(r->received_n + n, RIG_BYTES_MAX);
	memcpy(r->received + r->received_n, p, n);
	r->received_n += n;
}

static void on_progress(void *user)
{
	((struct rig *)user)->progress++;
}

static const struct tls_events events = {on_opened, on_data, on_progress};

struct tls_engine *rig_engine(struct tls_helpers *helpers, uint32_t handshakes_max,
			      uint32_t per_second)
{
	const struct tls_engine_config cfg = {
		.sessions_max = 64,
		.handshakes_max = handshakes_max != 0 ? handshakes_max : 16,
		.handshakes_per_second = per_second,
		.helpers = helpers,
		.wake_fd = -1,
	};
	struct tls_engine *engine;

	ck_assert_int_eq(tls_engine_create(&cfg, &events, &engine), 0);
	return engine;
}

static int out_reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	struct rig *r = ctx;
	size_t left = RIG_BYTES_MAX - r->sent_n;

	(void)wanted;
	if (r->room < left)
		left = r->room;
	if (left == 0)
		return SPLIT_AGAIN;
	*buf_out = r->sent + r->sent_n;
	*room_out = left;
	return 0;
}

static void out_commit(void *ctx, size_t bytes)
{
	struct rig *r = ctx;

	r->sent_n += bytes;
	if (r->room != SIZE_MAX)
		r->room -= bytes;
}

/* ---- the client --------------------------------------------------------------------------------
 */

static void on_client_info(const SSL *ssl, int where, int ret)
{
	struct rig *r = SSL_get_app_data(ssl);

	if ((where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT && ret >> 8 == SSL3_AL_FATAL)
		r->client_alert = ret & 0xff;
}

static int on_ticket(SSL *ssl, SSL_SESSION *session)
{
	struct rig *r = SSL_get_app_data(ssl);

	SSL_SESSION_free(r->ticket);
	r->ticket = session;
	return 1;
}

static void client_configure(struct rig *r, const struct client_options *o)
{
	const char *alpn = o->alpn != NULL ? o->alpn : "h2";
	const char *name = o->server_name != NULL ? o->server_name : "server.example";
	unsigned char list[64];

	if (o->version != 0) {
		ck_assert_int_eq(SSL_set_min_proto_version(r->client, o->version), 1);
		ck_assert_int_eq(SSL_set_max_proto_version(r->client, o->version), 1);
	}
	if (o->ciphers != NULL)
		ck_assert_int_eq(SSL_set_cipher_list(r->client, o->ciphers), 1);
	if (alpn[0] != '\0') {
		list[0] = (unsigned char)strlen(alpn);
		memcpy(list + 1, alpn, strlen(alpn));
		ck_assert_int_eq(SSL_set_alpn_protos(r->client, list, list[0] + 1u), 0);
	}
	if (name[0] != '\0')
		ck_assert_int_eq(SSL_set_tlsext_host_name(r->client, name), 1);
	if (o->certificate != NULL) {
		char file[128];

		(void)snprintf(file, sizeof(file), "%s.pem", rig_file(o->certificate));
		ck_assert_int_eq(SSL_use_certificate_file(r->client, file, SSL_FILETYPE_PEM), 1);
		(void)snprintf(file, sizeof(file), "%s.key", rig_file(o->certificate));
		ck_assert_int_eq(SSL_use_PrivateKey_file(r->client, file, SSL_FILETYPE_PEM), 1);
	}
	if (o->session != NULL)
		ck_assert_int_eq(SSL_set_session(r->client, o->session), 1);
}

void rig_open(struct rig *r, struct tls_engine *engine, struct tls_context *context,
	      const struct client_options *o, uint64_t source)
{
	const struct tls_out out = {out_reserve, out_commit, r};
	static const struct client_options none;

	memset(r, 0, sizeof(*r));
	r->engine = engine;
	r->room = SIZE_MAX;
	r->client_alert = -1;
	r->sent = malloc(RIG_BYTES_MAX);
	r->received = malloc(RIG_BYTES_MAX);
	ck_assert(r->sent != NULL && r->received != NULL);
	r->client_ctx = SSL_CTX_new(TLS_client_method());
	ck_assert_ptr_nonnull(r->client_ctx);
	/* Without a store of its own, which would spoil the ticket when the context goes. */
	SSL_CTX_set_session_cache_mode(r->client_ctx,
				       SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(r->client_ctx, on_ticket);
	SSL_CTX_set_info_callback(r->client_ctx, on_client_info);
	r->client = SSL_new(r->client_ctx);
	ck_assert_ptr_nonnull(r->client);
	SSL_set_app_data(r->client, r);
	r->to_client = BIO_new(BIO_s_mem());
	r->from_client = BIO_new(BIO_s_mem());
	SSL_set_bio(r->client, r->to_client, r->from_client);
	SSL_set_connect_state(r->client);
	client_configure(r, o != NULL ? o : &none);
	ck_assert_int_eq(
		tls_session_create(engine, context, &out, r, source, 1448, rig_now_ns, &r->server),
		0);
}

void rig_client_free(struct rig *r)
{
	/* A ticket is no use if its session was not ended. */
	if (r->client != NULL)
		SSL_set_shutdown(r->client, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(r->client);
	SSL_CTX_free(r->client_ctx);
	SSL_SESSION_free(r->ticket);
	r->client = NULL;
	r->client_ctx = NULL;
	r->ticket = NULL;
}

void rig_close(struct rig *r)
{
	tls_session_destroy(r->server, TLS_END_CLOSED);
	rig_client_free(r);
	free(r->sent);
	free(r->received);
	memset(r, 0, sizeof(*r));
}

/* ---- moving ------------------------------------------------------------------------------------
 */

static void client_turn(struct rig *r)
{
	int n;

	ERR_clear_error();
	if (r->client_done || r->client_failed)
		return;
	n = SSL_do_handshake(r->client);
	r->client_done = n == 1;
	r->client_failed = n != 1 && SSL_get_error(r->client, n) != SSL_ERROR_WANT_READ;
	ERR_clear_error();
}

size_t rig_take(struct rig *r, uint8_t *to)
{
	int n;

	client_turn(r);
	n = BIO_read(r->from_client, to, RIG_BYTES_MAX);
	return n > 0 ? (size_t)n : 0;
}

ssize_t rig_feed(struct rig *r, const uint8_t *p, size_t n)
{
	ssize_t took = tls_session_recv(r->server, p, n, rig_now_ns);

	if (took < 0)
		r->server_failed = true;
	return took;
}

/* A helper may have the session: wait until it takes more. */
static void feed_all(struct rig *r, const uint8_t *p, size_t n)
{
	while (n > 0 && !r->server_failed) {
		ssize_t took = rig_feed(r, p, n);

		if (took < 0)
			return;
		p += took;
		n -= (size_t)took;
		if (took == 0) {
			usleep(100);
			(void)tls_engine_poll(r->engine, rig_now_ns);
			if (tls_session_send(r->server) < 0)
				r->server_failed = true;
		}
	}
}

bool rig_move(struct rig *r, size_t piece)
{
	uint8_t *bytes = malloc(RIG_BYTES_MAX);
	size_t n = rig_take(r, bytes);
	bool moved = n > 0;

	for (size_t at = 0; at < n; at += piece)
		feed_all(r, bytes + at, n - at < piece ? n - at : piece);
	free(bytes);
	moved |= tls_engine_poll(r->engine, rig_now_ns) > 0;
	if (tls_session_send(r->server) < 0)
		r->server_failed = true;
	if (r->sent_n > 0) {
		ck_assert_int_eq(BIO_write(r->to_client, r->sent, (int)r->sent_n), (int)r->sent_n);
		r->sent_n = 0;
		moved = true;
	}
	client_turn(r);
	return moved;
}

static bool helpers_busy(struct rig *r)
{
	const struct tls_counters *c = tls_engine_counters(r->engine);

	return counter_get(&c->steps_helper) > counter_get(&c->steps);
}

void rig_settle(struct rig *r, size_t piece)
{
	unsigned quiet = 0;

	while (quiet < 2) {
		if (rig_move(r, piece)) {
			quiet = 0;
		} else if (helpers_busy(r)) {
			usleep(100);
		} else {
			quiet++;
		}
	}
}

void rig_handshake(struct rig *r)
{
	rig_settle(r, SIZE_MAX / 2);
	ck_assert_msg(r->client_done, "the client has no session: alert %d", r->client_alert);
	ck_assert(r->opened && !r->server_failed && tls_session_open(r->server));
}

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 7 + i / 251);
}

void rig_upload(struct rig *r, size_t n, size_t piece)
{
	uint8_t *bytes = malloc(n);

	for (size_t i = 0; i < n; i++)
		bytes[i] = pattern(i);
	r->received_n = 0;
	ck_assert_int_eq(SSL_write(r->client, bytes, (int)n), (int)n);
	rig_settle(r, piece);
	ck_assert_uint_eq(r->received_n, n);
	ck_assert_mem_eq(r->received, bytes, n);
	free(bytes);
}

void rig_download(struct rig *r, size_t n)
{
	uint8_t *bytes = malloc(n), *got = malloc(n);
	size_t at = 0, read = 0;

	for (size_t i = 0; i < n; i++)
		bytes[i] = pattern(i);
	while (read < n) {
		size_t part;
		int more;

		if (at < n && !tls_session_want_send(r->server)) {
			part = tls_session_record_bytes(r->server, rig_now_ns);
			part = part < n - at ? part : n - at;
			ck_assert_int_ge(tls_session_write(r->server, bytes + at, part, rig_now_ns),
					 0);
			at += part;
		}
		(void)rig_move(r, SIZE_MAX / 2);
		if (r->room != SIZE_MAX && r->room == 0)
			r->room = 700; /* the connection takes a little more */
		ERR_clear_error();
		more = SSL_read(r->client, got + read, (int)(n - read));
		if (more > 0)
			read += (size_t)more;
	}
	ck_assert_mem_eq(got, bytes, n);
	free(bytes);
	free(got);
}
