/* Handshakes: who is let in, by which certificate, resumed by which ticket; whose turn it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/x509.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tests/tls/rig.h"

static struct tls_engine *engine;
static struct tls_tickets *tickets;

static void setup(void)
{
	ck_assert_int_eq(tls_tickets_create(&tickets), 0);
	engine = rig_engine(NULL, 0, 0);
}

static void teardown(void)
{
	tls_engine_destroy(engine);
	tls_tickets_destroy(tickets);
	rig_cleanup();
}

/* One handshake; the alert that ended it, -1 when it did not. */
static int attempt(struct tls_context *context, const struct client_options *o)
{
	struct rig r;
	int alert;

	rig_open(&r, engine, context, o, 1);
	rig_settle(&r, 1448);
	if (!r.server_failed)
		ck_assert(r.client_done && tls_session_open(r.server));
	alert = r.server_failed ? r.client_alert : -1;
	if (r.server_failed && alert < 0) {
		/* After the client's own end of it (1.3): it learns when it reads. */
		(void)SSL_read(r.client, &(char){0}, 1);
		alert = r.client_alert;
		ck_assert_int_ge(alert, 0);
	}
	rig_close(&r);
	return alert;
}

START_TEST(alpn)
{
	static const struct context_options plain;
	struct tls_context *context = rig_context(&plain, tickets);

	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		ck_assert_int_eq(attempt(context, &(struct client_options){.version = version}),
				 -1);
		ck_assert_int_eq(
			attempt(context, &(struct client_options){.version = version, .alpn = ""}),
			SSL_AD_NO_APPLICATION_PROTOCOL);
		ck_assert_int_eq(attempt(context, &(struct client_options){.version = version,
									   .alpn = "http/1.1"}),
				 SSL_AD_NO_APPLICATION_PROTOCOL);
	}
	ck_assert_uint_eq(tls_engine_counters(engine)->failed_alpn, 4);
	tls_context_put(context);
}
END_TEST

START_TEST(oldest_version)
{
	const struct context_options only_13 = {.version = TLS_VERSION_1_3};
	struct tls_context *context = rig_context(&only_13, tickets);

	ck_assert_int_eq(attempt(context, &(struct client_options){.version = TLS1_2_VERSION}),
			 SSL_AD_PROTOCOL_VERSION);
	ck_assert_int_eq(attempt(context, &(struct client_options){.version = TLS1_3_VERSION}), -1);
	ck_assert_uint_eq(tls_engine_counters(engine)->failed_version, 1);
	tls_context_put(context);
}
END_TEST

static void subject_of(struct tls_context *context, const struct client_options *o, char name[64],
		       bool *rsa)
{
	struct rig r;
	X509 *leaf;

	rig_open(&r, engine, context, o, 1);
	rig_handshake(&r);
	leaf = SSL_get0_peer_certificate(r.client);
	ck_assert_int_gt(
		X509_NAME_get_text_by_NID(X509_get_subject_name(leaf), NID_commonName, name, 64),
		0);
	*rsa = EVP_PKEY_get_base_id(X509_get0_pubkey(leaf)) == EVP_PKEY_RSA;
	rig_close(&r);
}

START_TEST(server_names)
{
	const struct context_options several = {.certificates = {"server", "other", "server_rsa"}};
	struct tls_context *context = rig_context(&several, tickets);
	static const struct {
		const char *asked, *got;
	} cases[] = {
		{"server.example", "server"}, {"OTHER.example", "other"},
		{"a.wild.example", "server"}, {"a.b.wild.example", "server"},
		{"nobody.example", "server"}, {"", "server"},
	};
	char name[64];
	bool rsa;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		subject_of(context, &(struct client_options){.server_name = cases[i].asked}, name,
			   &rsa);
		ck_assert_str_eq(name, cases[i].got);
		ck_assert(!rsa);
	}
	/* The client's signature algorithms choose between the two for one name. */
	subject_of(context,
		   &(struct client_options){.version = TLS1_2_VERSION,
					    .ciphers = "ECDHE-RSA-AES128-GCM-SHA256"},
		   name, &rsa);
	ck_assert(rsa);
	tls_context_put(context);
}
END_TEST

#define AS(who) (&(struct client_options){.version = version, .certificate = (who)})

START_TEST(client_certificates)
{
	const struct context_options required = {.client_ca = "ca", .auth = TLS_CLIENT_REQUIRED};
	const struct context_options optional = {.client_ca = "ca", .auth = TLS_CLIENT_OPTIONAL};
	struct tls_context *must = rig_context(&required, tickets);
	struct tls_context *may = rig_context(&optional, tickets);
	int version = _i == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;

	ck_assert_int_eq(attempt(must, AS("client")), -1);
	ck_assert_int_eq(attempt(must, AS(NULL)),
			 _i == 0 ? SSL_AD_HANDSHAKE_FAILURE : SSL_AD_CERTIFICATE_REQUIRED);
	ck_assert_int_eq(attempt(must, AS("expired")), SSL_AD_CERTIFICATE_EXPIRED);
	ck_assert_int_eq(attempt(must, AS("foreign")), SSL_AD_UNKNOWN_CA);
	ck_assert_int_eq(attempt(may, AS(NULL)), -1);
	ck_assert_int_eq(attempt(may, AS("foreign")), SSL_AD_UNKNOWN_CA);
	ck_assert_uint_eq(tls_engine_counters(engine)->failed_certificate, 4);
	tls_context_put(must);
	tls_context_put(may);
}
END_TEST

START_TEST(identity)
{
	const struct context_options optional = {.client_ca = "ca", .auth = TLS_CLIENT_OPTIONAL};
	struct tls_context *context = rig_context(&optional, tickets);
	const struct tls_identity *id;
	int version = _i == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
	struct rig r;
	unsigned alternatives = 0;

	rig_open(&r, engine, context, AS("client"), 1);
	rig_handshake(&r);
	id = tls_session_identity(r.server);
	ck_assert_ptr_nonnull(id);
	for (uint32_t i = 0; i < id->properties_n; i++) {
		const struct tls_property *p = &id->properties[i];

		ck_assert_uint_eq(strlen(p->name), p->name_len);
		ck_assert_uint_eq(strlen(p->value), p->value_len);
		if (strcmp(p->name, "x509_common_name") == 0)
			ck_assert_str_eq(p->value, "client");
		if (strcmp(p->name, "x509_subject") == 0)
			ck_assert_str_eq(p->value, "CN=client");
		alternatives += strcmp(p->name, "x509_subject_alternative_name") == 0;
	}
	ck_assert_uint_eq(alternatives, 3);
	ck_assert(tls_identity_matches(id, "billing.example"));
	ck_assert(tls_identity_matches(id, "BILLING.example"));
	ck_assert(tls_identity_matches(id, "*.example"));
	ck_assert(tls_identity_matches(id, "spiffe://example/billing"));
	ck_assert(tls_identity_matches(id, "192.0.2.1"));
	ck_assert(tls_identity_matches(id, "client"));
	ck_assert(!tls_identity_matches(id, "CLIENT"));
	ck_assert(!tls_identity_matches(id, "spiffe://example/BILLING"));
	ck_assert(!tls_identity_matches(id, "*.billing.example"));
	ck_assert(!tls_identity_matches(id, "ing.example"));
	ck_assert(!tls_identity_matches(id, "CN=client"));
	ck_assert(!tls_identity_matches(id, ""));
	ck_assert(!tls_identity_matches(NULL, "billing.example"));
	rig_close(&r);
	rig_open(&r, engine, context, AS(NULL), 1);
	rig_handshake(&r);
	ck_assert_ptr_null(tls_session_identity(r.server));
	rig_close(&r);
	tls_context_put(context);
}
END_TEST

/* ---- tickets ----------------------------------------------------------------------------------
 */

static SSL_SESSION *ticket_of(struct tls_context *context, const struct client_options *o)
{
	SSL_SESSION *ticket;
	struct rig r;

	rig_open(&r, engine, context, o, 1);
	rig_handshake(&r);
	rig_download(&r, 10); /* 1.3's ticket comes with the first read */
	ticket = r.ticket;
	r.ticket = NULL;
	ck_assert_ptr_nonnull(ticket);
	rig_close(&r);
	return ticket;
}

static bool resumes(struct tls_context *context, const struct client_options *like,
		    SSL_SESSION *ticket)
{
	struct client_options o = *like;
	struct tls_info info;
	struct rig r;

	/* A client uses a ticket up. */
	o.session = SSL_SESSION_dup(ticket);
	rig_open(&r, engine, context, &o, 1);
	SSL_SESSION_free(o.session);
	rig_handshake(&r);
	tls_session_info(r.server, &info);
	ck_assert_int_eq(info.resumed, SSL_session_reused(r.client));
	rig_close(&r);
	return info.resumed;
}

START_TEST(resumption)
{
	const struct client_options o = {.version = _i == 0 ? TLS1_2_VERSION : TLS1_3_VERSION};
	static const struct context_options plain, elsewhere = {.name = "elsewhere"};
	const struct context_options clients = {.client_ca = "ca", .auth = TLS_CLIENT_OPTIONAL};
	const struct context_options without = {.no_tickets = true};
	struct tls_context *first = rig_context(&plain, tickets);
	struct tls_context *again = rig_context(&plain, tickets); /* as after a reload */
	struct tls_context *other = rig_context(&elsewhere, tickets);
	struct tls_context *asks = rig_context(&clients, tickets);
	struct tls_context *none = rig_context(&without, tickets);
	SSL_SESSION *ticket = ticket_of(first, &o);

	ck_assert(resumes(first, &o, ticket));
	ck_assert(resumes(again, &o, ticket));
	ck_assert(!resumes(other, &o, ticket));
	ck_assert(!resumes(asks, &o, ticket));
	ck_assert(!resumes(none, &o, ticket));
	/* As many rotations as there are older keys, then one more. */
	for (unsigned i = 1; i < TLS_TICKET_KEYS; i++) {
		ck_assert_int_eq(tls_tickets_rotate(tickets), 0);
		ck_assert(resumes(first, &o, ticket));
	}
	ck_assert_int_eq(tls_tickets_rotate(tickets), 0);
	ck_assert(!resumes(first, &o, ticket));
	ck_assert_uint_gt(tls_engine_counters(engine)->handshakes_resumed, 3);
	SSL_SESSION_free(ticket);
	tls_context_put(first);
	tls_context_put(again);
	tls_context_put(other);
	tls_context_put(asks);
	tls_context_put(none);
}
END_TEST

/* Who resumes is still who he was. */
START_TEST(resumed_identity)
{
	const struct context_options required = {.client_ca = "ca", .auth = TLS_CLIENT_REQUIRED};
	struct tls_context *context = rig_context(&required, tickets);
	struct client_options o = {.version = _i == 0 ? TLS1_2_VERSION : TLS1_3_VERSION,
				   .certificate = "client"};
	SSL_SESSION *ticket = ticket_of(context, &o);
	struct rig r;

	o.session = ticket;
	o.certificate = NULL;
	rig_open(&r, engine, context, &o, 1);
	rig_handshake(&r);
	ck_assert_int_eq(SSL_session_reused(r.client), 1);
	ck_assert(tls_identity_matches(tls_session_identity(r.server), "billing.example"));
	rig_close(&r);
	SSL_SESSION_free(ticket);
	tls_context_put(context);
}
END_TEST

/* ---- whose turn -------------------------------------------------------------------------------
 */

START_TEST(helpers)
{
	const struct tls_helpers_config cfg = {.threads = 2, .engines = 1};
	static const struct context_options plain;
	struct tls_context *context = rig_context(&plain, tickets);
	struct tls_helpers *all;
	struct tls_engine *e;
	struct rig r[12];

	ck_assert_int_eq(tls_helpers_create(&cfg, &all), 0);
	e = rig_engine(all, 0, 0);
	for (int i = 0; i < 12; i++)
		rig_open(&r[i], e, context, NULL, (uint64_t)i);
	for (int i = 0; i < 12; i++)
		(void)rig_move(&r[i], 100);
	/* One goes while it may be lent. */
	rig_close(&r[5]);
	for (int i = 0; i < 12; i++)
		if (i != 5)
			rig_handshake(&r[i]);
	for (int i = 0; i < 12; i++)
		if (i != 5) {
			rig_upload(&r[i], 5000, 1448);
			rig_close(&r[i]);
		}
	ck_assert_uint_eq(tls_engine_counters(e)->handshakes, 11);
	ck_assert_uint_eq(tls_engine_counters(e)->steps, tls_engine_counters(e)->steps_helper);
	/* And one while the engine ends. */
	rig_open(&r[0], e, context, NULL, 1);
	(void)rig_move(&r[0], SIZE_MAX / 2);
	rig_close(&r[0]);
	tls_engine_destroy(e);
	tls_helpers_destroy(all);
	tls_context_put(context);
}
END_TEST

/* The one that has waited longest for its client gives way. */
START_TEST(handshakes_max)
{
	static const struct context_options plain;
	struct tls_context *context = rig_context(&plain, tickets);
	struct tls_engine *e = rig_engine(NULL, 2, 0);
	struct rig r[3];

	for (int i = 0; i < 3; i++)
		rig_open(&r[i], e, context, NULL, 1);
	ck_assert_uint_eq(r[0].progress, 1);
	ck_assert_int_lt(tls_session_send(r[0].server), 0);
	ck_assert_int_lt(rig_feed(&r[0], (const uint8_t *)"x", 1), 0);
	rig_handshake(&r[1]);
	rig_handshake(&r[2]);
	ck_assert_uint_eq(tls_engine_counters(e)->handshakes_evicted, 1);
	for (int i = 0; i < 3; i++)
		rig_close(&r[i]);
	tls_engine_destroy(e);
	tls_context_put(context);
}
END_TEST

static void hello_send(struct rig *r)
{
	uint8_t *bytes = malloc(RIG_BYTES_MAX);
	size_t n = rig_take(r, bytes);

	ck_assert_int_eq(rig_feed(r, bytes, n), (ssize_t)n);
	free(bytes);
}

/* Ten of one source before one of another: that is the second or third to have his turn. */
START_TEST(fair)
{
	static const struct context_options plain;
	struct tls_context *context = rig_context(&plain, tickets);
	struct rig r[11];
	unsigned turns = 0;

	for (int i = 0; i < 11; i++) {
		rig_open(&r[i], engine, context, NULL, i == 10 ? 7 : 3);
		hello_send(&r[i]);
	}
	while (r[10].progress == 0) {
		ck_assert_uint_eq(tls_engine_poll(engine, rig_now_ns), 1);
		turns++;
	}
	ck_assert_uint_le(turns, 2);
	for (int i = 0; i < 11; i++)
		rig_close(&r[i]);
	tls_context_put(context);
}
END_TEST

START_TEST(rate)
{
	static const struct context_options plain;
	struct tls_context *context = rig_context(&plain, tickets);
	struct tls_engine *e = rig_engine(NULL, 0, 2);
	struct rig r[3];

	(void)tls_engine_poll(e, rig_now_ns);
	for (int i = 0; i < 3; i++) {
		rig_open(&r[i], e, context, NULL, 1);
		hello_send(&r[i]);
	}
	ck_assert_uint_eq(tls_engine_poll(e, rig_now_ns), 1);
	ck_assert_uint_eq(tls_engine_poll(e, rig_now_ns), 1);
	ck_assert_uint_eq(tls_engine_poll(e, rig_now_ns), 0);
	ck_assert(tls_engine_pending(e));
	ck_assert_uint_gt(tls_engine_counters(e)->handshakes_delayed, 0);
	rig_now_ns += CLOCK_NS_PER_SEC;
	ck_assert_uint_eq(tls_engine_poll(e, rig_now_ns), 1);
	for (int i = 0; i < 3; i++)
		rig_close(&r[i]);
	tls_engine_destroy(e);
	tls_context_put(context);
}
END_TEST

/* More bytes than any handshake has. */
START_TEST(endless)
{
	static const struct context_options plain;
	struct tls_context *context = rig_context(&plain, tickets);
	/* ClientHello, 16 MiB long, in records of 16 KiB. */
	static uint8_t record[16389] = {22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff};
	struct rig r;

	rig_open(&r, engine, context, NULL, 1);
	for (unsigned i = 0; i < 100 && !r.server_failed; i++) {
		size_t at = 0;

		while (at < sizeof(record) && !r.server_failed) {
			ssize_t took = rig_feed(&r, record + at, sizeof(record) - at);

			at += took > 0 ? (size_t)took : 0;
			(void)tls_engine_poll(engine, rig_now_ns);
			if (tls_session_send(r.server) < 0)
				r.server_failed = true;
		}
	}
	ck_assert(r.server_failed);
	rig_close(&r);
	tls_context_put(context);
}
END_TEST

/* ---- files ------------------------------------------------------------------------------------
 */

static void context_wrong(struct tls_certificate certificate, const char *ca, const char *ciphers,
			  const char *say1, const char *say2)
{
	const struct tls_context_config cfg = {
		.name = "main",
		.certificates = &certificate,
		.certificates_n = 1,
		.client_ca_file = ca,
		.client_auth = ca != NULL ? TLS_CLIENT_REQUIRED : TLS_CLIENT_NONE,
		.ciphers = ciphers,
	};
	struct tls_context *context;
	struct tls_error error;

	ck_assert_int_eq(tls_context_create(&cfg, tickets, &context, &error), -SPLIT_E_TLS_CONFIG);
	ck_assert_msg(strstr(error.text, say1) != NULL, "%s", error.text);
	ck_assert_msg(strstr(error.text, say2) != NULL, "%s", error.text);
	ck_assert_ptr_null(strchr(error.text, '\n'));
}

START_TEST(files)
{
	const char *cert = rig_file("server.pem"), *key = rig_file("server.key");
	const char *other = rig_file("other.key"), *writable = rig_file("writable.key");
	struct tls_certificate c = {.cert_file = cert, .key_file = other};
	char copy[512];

	context_wrong(c, NULL, NULL, cert, other);
	c.key_file = "/nowhere/key";
	context_wrong(c, NULL, NULL, "/nowhere/key", "No such file");
	c.key_file = cert;
	context_wrong(c, NULL, NULL, cert, "no private key");
	c.key_file = key;
	context_wrong(c, "/nowhere/ca", NULL, "/nowhere/ca", "client_ca");
	context_wrong(c, key, NULL, key, "client_ca");
	context_wrong(c, NULL, "AES128-SHA256", "AES128-SHA256", "ephemeral");
	context_wrong(c, NULL, "no such cipher", "no such cipher", "1.2");
	c.ocsp_file = cert;
	context_wrong(c, NULL, NULL, cert, "OCSP");
	c = (struct tls_certificate){.cert_file = key, .key_file = key};
	context_wrong(c, NULL, NULL, key, "no certificate");
	(void)snprintf(copy, sizeof(copy), "cp '%s' '%s'", key, writable);
	ck_assert_int_eq(system(copy), 0);
	ck_assert_int_eq(chmod(writable, 0666), 0);
	c = (struct tls_certificate){.cert_file = cert, .key_file = writable};
	context_wrong(c, NULL, NULL, writable, "written by everybody");
}
END_TEST

START_TEST(described)
{
	const struct context_options several = {.certificates = {"server", "expired"}};
	struct tls_context *context = rig_context(&several, tickets);
	char text[256];
	bool told = false;

	tls_context_describe(context, text, sizeof(text));
	ck_assert_ptr_nonnull(strstr(text, "server.example until 20"));
	for (size_t i = 0; tls_context_warning(context, i) != NULL; i++)
		told |= strstr(tls_context_warning(context, i), "expired.pem has ended") != NULL;
	ck_assert(told);
	ck_assert(tls_context_last(context));
	tls_context_put(context);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tls handshake");
	TCase *t = tcase_create("all");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, alpn);
	tcase_add_test(t, oldest_version);
	tcase_add_test(t, server_names);
	tcase_add_loop_test(t, client_certificates, 0, 2);
	tcase_add_loop_test(t, identity, 0, 2);
	tcase_add_loop_test(t, resumption, 0, 2);
	tcase_add_loop_test(t, resumed_identity, 0, 2);
	tcase_add_test(t, helpers);
	tcase_add_test(t, handshakes_max);
	tcase_add_test(t, fair);
	tcase_add_test(t, rate);
	tcase_add_test(t, endless);
	tcase_add_test(t, files);
	tcase_add_test(t, described);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed == 0 ? 0 : 1;
}
