/* Bytes of open sessions: records in every cut, room that ends anywhere, alerts, close_notify,
 * memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>

#include "base/clock.h"
#include "daemon/tls/tls_internal.h"
#include "tests/tls/rig.h"

static struct tls_context *context;
static struct tls_engine *engine;
static struct tls_tickets *tickets;

static void setup(void)
{
	static const struct context_options plain;

	ck_assert_int_eq(tls_tickets_create(&tickets), 0);
	context = rig_context(&plain, tickets);
	engine = rig_engine(NULL, 0, 0);
}

static void teardown(void)
{
	tls_engine_destroy(engine);
	tls_context_put(context);
	tls_tickets_destroy(tickets);
	rig_cleanup();
}

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

static void open_version(struct rig *r, int version)
{
	const struct client_options o = {.version = version};

	rig_open(r, engine, context, &o, 1);
	rig_handshake(r);
}

START_TEST(both_ways)
{
	struct rig r;

	open_version(&r, versions[_i]);
	for (size_t n = 1; n < 100000; n = n * 3 + 1) {
		rig_upload(&r, n, 1448);
		rig_download(&r, n);
	}
	rig_close(&r);
}
END_TEST

/* The handshake in single bytes, and data in pieces of every size. */
START_TEST(pieces)
{
	const struct client_options o = {.version = versions[_i]};
	struct rig r;

	rig_open(&r, engine, context, &o, 1);
	rig_settle(&r, 1);
	ck_assert(r.client_done && tls_session_open(r.server));
	for (size_t piece = 1; piece < 70; piece++)
		rig_upload(&r, 200, piece);
	rig_upload(&r, 40000, 1);
	rig_close(&r);
}
END_TEST

/* Two records and close_notify in two feeds, cut at each byte. */
START_TEST(every_cut)
{
	uint8_t *bytes = malloc(RIG_BYTES_MAX);
	size_t n = 1;

	for (size_t cut = 0; cut <= n; cut++) {
		struct rig r;

		open_version(&r, versions[_i]);
		ck_assert_int_eq(SSL_write(r.client, "first", 5), 5);
		ck_assert_int_eq(SSL_write(r.client, "second", 6), 6);
		ck_assert_int_eq(SSL_shutdown(r.client), 0);
		n = rig_take(&r, bytes);
		ck_assert_int_eq(rig_feed(&r, bytes, cut), (ssize_t)cut);
		ck_assert_int_eq(rig_feed(&r, bytes + cut, n - cut), (ssize_t)(n - cut));
		ck_assert_uint_eq(r.received_n, 11);
		ck_assert_mem_eq(r.received, "firstsecond", 11);
		ck_assert(tls_session_eof(r.server));
		rig_close(&r);
	}
	free(bytes);
}
END_TEST

/* The handshake's flights and the records find room for a few bytes only, each time. */
START_TEST(little_room)
{
	const struct client_options o = {.version = versions[_i]};
	struct rig r;

	rig_open(&r, engine, context, &o, 1);
	r.room = 0;
	for (unsigned i = 0; i < 20000 && !(r.client_done && r.opened); i++) {
		(void)rig_move(&r, SIZE_MAX / 2);
		r.room = 3;
	}
	ck_assert(r.client_done && r.opened);
	r.room = 100;
	rig_download(&r, 50000);
	ck_assert_uint_gt(tls_engine_counters(engine)->tx_blocked, 0);
	rig_close(&r);
}
END_TEST

/* One segment a record at the beginning and after a pause, large ones in between. */
START_TEST(record_sizes)
{
	struct rig r;

	open_version(&r, TLS1_3_VERSION);
	ck_assert_uint_lt(tls_session_record_bytes(r.server, rig_now_ns), 1448);
	rig_download(&r, 64 * 1024);
	ck_assert_uint_eq(tls_session_record_bytes(r.server, rig_now_ns), TLS_RECORD_BYTES_MAX);
	rig_now_ns += 2 * CLOCK_NS_PER_SEC;
	ck_assert_uint_lt(tls_session_record_bytes(r.server, rig_now_ns), 1448);
	rig_close(&r);
}
END_TEST

/* What is no record, or not from this session: a fatal alert, and the end. */
START_TEST(garbage)
{
	static const char *const what[] = {
		"GET / HTTP/1.1\r\n\r\n",
		"\x17\x03\x03\x50\x01",                             /* longer than any record */
		"\x17\x03\x03\x00\x15 not what the key would make", /* no tag */
		"\x16\x02\x00\x00\x01\x00",
	};
	static const size_t lengths[] = {18, 5, 33, 6};
	struct rig r;

	open_version(&r, versions[_i % 2]);
	ck_assert_int_eq(rig_feed(&r, (const uint8_t *)what[_i / 2], lengths[_i / 2]),
			 -SPLIT_E_TLS_PROTOCOL);
	ck_assert_int_lt(rig_feed(&r, (const uint8_t *)"x", 1), 0);
	ck_assert(!tls_session_open(r.server));
	ck_assert_uint_gt(r.sent_n, 0);
	ck_assert_int_lt(tls_session_send(r.server), 0);
	ck_assert_uint_eq(tls_engine_counters(engine)->sessions_failed, 1);
	(void)rig_move(&r, 1);
	ERR_clear_error();
	ck_assert_int_le(SSL_read(r.client, &(char){0}, 1), 0);
	ck_assert_int_ge(r.client_alert, 0);
	rig_close(&r);
}
END_TEST

/* A record of ours changed on the way: bad_record_mac. */
START_TEST(changed_record)
{
	uint8_t *bytes = malloc(RIG_BYTES_MAX);
	struct rig r;
	size_t n;

	open_version(&r, versions[_i]);
	ck_assert_int_eq(SSL_write(r.client, "hello", 5), 5);
	n = rig_take(&r, bytes);
	bytes[n - 1] ^= 1;
	ck_assert_int_eq(rig_feed(&r, bytes, n), -SPLIT_E_TLS_PROTOCOL);
	ck_assert_uint_eq(r.received_n, 0);
	ck_assert_uint_eq(tls_engine_counters(engine)->alerts_sent, 1);
	rig_close(&r);
	free(bytes);
}
END_TEST

/* RFC 9113 s9.2.1: a connection error. */
START_TEST(renegotiation)
{
	struct rig r;

	open_version(&r, TLS1_2_VERSION);
	ck_assert_int_eq(SSL_renegotiate(r.client), 1);
	r.client_done = false;
	rig_settle(&r, SIZE_MAX / 2);
	ck_assert(r.server_failed && !tls_session_open(r.server));
	ck_assert_uint_eq(tls_engine_counters(engine)->renegotiations, 1);
	rig_close(&r);
}
END_TEST

START_TEST(key_updates)
{
	struct rig r;

	open_version(&r, TLS1_3_VERSION);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_int_eq(SSL_key_update(r.client, SSL_KEY_UPDATE_REQUESTED), 1);
		rig_upload(&r, 100, 1448);
		rig_download(&r, 100);
	}
	ck_assert(tls_session_open(r.server));
	for (unsigned i = 0; i < 100 && !r.server_failed; i++) {
		ck_assert_int_eq(SSL_key_update(r.client, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
		ck_assert_int_eq(SSL_do_handshake(r.client), 1);
		(void)rig_move(&r, 1448);
	}
	ck_assert(r.server_failed);
	ck_assert_uint_eq(tls_engine_counters(engine)->key_updates_over, 1);
	rig_close(&r);
}
END_TEST

/* Ours first: the client sees it and may still send. Theirs first: ours may go on. */
START_TEST(close_notify)
{
	struct rig r;

	open_version(&r, versions[_i]);
	ck_assert_int_eq(tls_session_shutdown(r.server), 0);
	ck_assert_int_eq(tls_session_shutdown(r.server), 0); /* once only */
	ck_assert_int_lt(tls_session_write(r.server, (const uint8_t *)"x", 1, rig_now_ns), 0);
	rig_settle(&r, 1448);
	ck_assert_int_eq(SSL_read(r.client, &(char){0}, 1), 0);
	ck_assert_int_eq(SSL_get_shutdown(r.client) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
	rig_close(&r);

	open_version(&r, versions[_i]);
	ck_assert_int_eq(SSL_shutdown(r.client), 0);
	rig_settle(&r, 1448);
	ck_assert(tls_session_eof(r.server) && tls_session_open(r.server));
	tls_session_recv_end(r.server);
	ck_assert_uint_eq(tls_engine_counters(engine)->closed_short, 0);
	ck_assert_uint_eq(tls_engine_counters(engine)->closed_by_peer, 1);
	ck_assert_int_eq(tls_session_write(r.server, (const uint8_t *)"late", 4, rig_now_ns), 0);
	ck_assert_int_eq(tls_session_shutdown(r.server), 0);
	rig_settle(&r, 1448);
	rig_close(&r);

	open_version(&r, versions[_i]);
	tls_session_recv_end(r.server);
	ck_assert_uint_eq(tls_engine_counters(engine)->closed_short, 1);
	rig_close(&r);
}
END_TEST

/* An idle session keeps no record buffers; what it had is given back. */
START_TEST(memory)
{
	struct rig r[8];
	size_t before, each;

	for (int i = 0; i < 8; i++) { /* the pools of OpenSSL, and of malloc, are filled */
		open_version(&r[i], versions[_i]);
		rig_close(&r[i]);
	}
	before = memory_used();
	for (int i = 0; i < 8; i++) {
		open_version(&r[i], versions[_i]);
		rig_upload(&r[i], 20000, 1448);
		rig_download(&r[i], 20000);
	}
	for (int i = 0; i < 8; i++)
		rig_client_free(&r[i]); /* its half is OpenSSL's too */
	each = (memory_used() - before) / 8;
	if (getenv("SPLITD_TLS_MEMORY") != NULL)
		printf("%s: %zu bytes of OpenSSL for an idle session\n",
		       versions[_i] == TLS1_2_VERSION ? "1.2" : "1.3", each);
	/* Without the 33 KiB of its two record buffers. */
	ck_assert_uint_gt(each, 0);
	ck_assert_uint_lt(each, 16 * 1024);
	for (int i = 0; i < 8; i++)
		rig_close(&r[i]);
	ck_assert_uint_le(memory_used(), before + 4096);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tls session");
	TCase *t = tcase_create("all");
	SRunner *sr;
	int failed;

	tls_library_init();
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, both_ways, 0, 2);
	tcase_add_loop_test(t, pieces, 0, 2);
	tcase_add_loop_test(t, every_cut, 0, 2);
	tcase_add_loop_test(t, little_room, 0, 2);
	tcase_add_test(t, record_sizes);
	tcase_add_loop_test(t, garbage, 0, 8);
	tcase_add_loop_test(t, changed_record, 0, 2);
	tcase_add_test(t, renegotiation);
	tcase_add_test(t, key_updates);
	tcase_add_loop_test(t, close_notify, 0, 2);
	tcase_add_loop_test(t, memory, 0, 2);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed == 0 ? 0 : 1;
}
