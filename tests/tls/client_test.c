/* Sessions to servers: tickets that are kept and used, and what is said of a server that is not
 * accepted. Both ends are ours, joined by buffers. */
#include <string.h>

#include "base/clock.h"
#include "tests/tls/rig.h"

#define BYTES 65536u

struct end {
	struct tls_session *session;
	bool opened, failed;
	uint8_t out[BYTES]; /* sealed, on its way to the other */
	size_t out_n;
	uint8_t in[256]; /* plaintext */
	size_t in_n;
};

static struct tls_context *serving, *calling;
static struct tls_engine *servers, *clients;
static struct tls_tickets *tickets;

static int on_opened(void *user)
{
	((struct end *)user)->opened = true;
	return 0;
}

static void on_data(void *user, const uint8_t *p, size_t n)
{
	struct end *e = user;

	ck_assert_uint_le(e->in_n + n, sizeof(e->in));
	memcpy(e->in + e->in_n, p, n);
	e->in_n += n;
}

static void on_progress(void *user)
{
	(void)user;
}

static int reserve(void *ctx, size_t wanted, uint8_t **buf_out, size_t *room_out)
{
	struct end *e = ctx;

	(void)wanted;
	*buf_out = e->out + e->out_n;
	*room_out = BYTES - e->out_n;
	return *room_out > 0 ? 0 : SPLIT_AGAIN;
}

static void commit(void *ctx, size_t bytes)
{
	((struct end *)ctx)->out_n += bytes;
}

static const struct tls_events events = {on_opened, on_data, on_progress};

static struct tls_engine *engine_make(void)
{
	const struct tls_engine_config cfg = {
		.sessions_max = 8, .handshakes_max = 8, .wake_fd = -1};
	struct tls_engine *e;

	ck_assert_int_eq(tls_engine_create(&cfg, &events, &e), 0);
	return e;
}

static struct tls_context *calling_make(const char *ca)
{
	const struct tls_client_config cfg = {.name = "c", .ca_file = rig_file(ca)};
	struct tls_context *context;
	struct tls_error error;

	ck_assert_msg(tls_context_create_client(&cfg, &context, &error) == 0, "%s", error.text);
	return context;
}

static void setup(void)
{
	static const struct context_options plain;

	ck_assert_int_eq(tls_tickets_create(&tickets), 0);
	serving = rig_context(&plain, tickets);
	calling = calling_make("ca.pem");
	servers = engine_make();
	clients = engine_make();
}

static void teardown(void)
{
	tls_engine_destroy(clients);
	tls_engine_destroy(servers);
	tls_context_put(calling);
	tls_context_put(serving);
	tls_tickets_destroy(tickets);
	rig_cleanup();
}

static bool carry(struct end *from, struct end *to)
{
	ssize_t took;

	if (!from->failed && tls_session_send(from->session) < 0)
		from->failed = true;
	if (from->out_n == 0 || to->failed)
		return false;
	took = tls_session_recv(to->session, from->out, from->out_n, clock_ns());
	if (took < 0) {
		to->failed = true;
		from->out_n = 0;
		return true;
	}
	memmove(from->out, from->out + took, from->out_n - (size_t)took);
	from->out_n -= (size_t)took;
	return took > 0;
}

static void settle(struct end *a, struct end *b)
{
	bool moved;

	do {
		moved = tls_engine_poll(clients, clock_ns()) > 0;
		moved |= tls_engine_poll(servers, clock_ns()) > 0;
		moved |= carry(a, b);
		moved |= carry(b, a);
	} while (moved);
}

static struct end client, server;

static void connect_to(const char *name, uint64_t source)
{
	const struct tls_out up = {reserve, commit, &client}, down = {reserve, commit, &server};

	memset(&client, 0, sizeof(client));
	memset(&server, 0, sizeof(server));
	ck_assert_int_eq(tls_session_create(servers, serving, &down, &server, 1, 0, clock_ns(),
					    &server.session),
			 0);
	ck_assert_int_eq(tls_session_connect(clients, calling, name, &up, &client, source, 0,
					     clock_ns(), &client.session),
			 0);
	settle(&client, &server);
}

static void let_go(void)
{
	tls_session_destroy(client.session, TLS_END_CLOSED);
	tls_session_destroy(server.session, TLS_END_CLOSED);
}

/* A whole connection; whether it was resumed. */
static bool resumed(const char *name, uint64_t source)
{
	struct tls_info mine, theirs;

	connect_to(name, source);
	ck_assert(client.opened && server.opened);
	ck_assert_int_eq(tls_session_write(client.session, (const uint8_t *)"up", 2, clock_ns()),
			 0);
	ck_assert_int_eq(tls_session_write(server.session, (const uint8_t *)"down", 4, clock_ns()),
			 0);
	settle(&client, &server);
	ck_assert_mem_eq(server.in, "up", 2);
	ck_assert_mem_eq(client.in, "down", 4);
	tls_session_info(client.session, &mine);
	tls_session_info(server.session, &theirs);
	ck_assert_int_eq(mine.resumed, theirs.resumed);
	/* Whom we are connected to is known either way. */
	ck_assert_ptr_nonnull(tls_session_identity(client.session));
	let_go();
	return mine.resumed;
}

START_TEST(tickets_are_used)
{
	ck_assert(!resumed("server.example", 1));
	for (unsigned i = 0; i < 5; i++)
		ck_assert(resumed("server.example", 1));
	ck_assert_uint_eq(tls_engine_counters(clients)->handshakes_resumed, 5);
	ck_assert_uint_eq(tls_engine_counters(servers)->handshakes_resumed, 5);
}
END_TEST

/* Each only for what it came from. */
START_TEST(tickets_are_apart)
{
	struct tls_context *before = calling;

	ck_assert(!resumed("server.example", 1));
	ck_assert(!resumed("server.example", 2));   /* another address */
	ck_assert(!resumed("www.wild.example", 1)); /* another name */
	calling = calling_make("ca.pem");           /* another configuration */
	ck_assert(!resumed("server.example", 1));
	tls_context_put(calling);
	calling = before;
	ck_assert(resumed("server.example", 1));
	/* One that would not be accepted by its certificate is not by a ticket. */
	connect_to("other.example", 1);
	ck_assert(!client.opened);
	let_go();
}
END_TEST

/* They are few. */
START_TEST(tickets_are_bounded)
{
	ck_assert(!resumed("server.example", 1000));
	for (uint64_t i = 0; i < 100; i++)
		ck_assert(!resumed("server.example", i));
	ck_assert(!resumed("server.example", 1000));
	ck_assert(resumed("server.example", 99));
}
END_TEST

static void refused(const char *name, const char *why)
{
	connect_to(name, 1);
	ck_assert(!client.opened);
	ck_assert_ptr_nonnull(tls_session_why(client.session));
	ck_assert_str_eq(tls_session_why(client.session), why);
	let_go();
}

START_TEST(refusals_say_why)
{
	static const struct context_options ended = {.certificates = {"expired"}};

	refused("elsewhere.example", "hostname mismatch");
	refused("198.18.0.1", "IP address mismatch");
	tls_context_put(calling);
	calling = calling_make("foreign_ca.pem");
	refused("server.example", "unable to get local issuer certificate");
	tls_context_put(calling);
	calling = calling_make("ca.pem");
	tls_context_put(serving);
	serving = rig_context(&ended, tickets);
	refused("billing.example", "certificate has expired");
	ck_assert_uint_eq(tls_engine_counters(clients)->failed_certificate, 4);
	ck_assert_uint_eq(tls_engine_counters(clients)->handshakes, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tls/client");
	TCase *t = tcase_create("client");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 110);
	tcase_add_test(t, tickets_are_used);
	tcase_add_test(t, tickets_are_apart);
	tcase_add_test(t, tickets_are_bounded);
	tcase_add_test(t, refusals_say_why);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
