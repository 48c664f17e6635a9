/* splitd's end of the socket backend against a host that the test plays by frames: who is silent,
 * shutdown while one waits, answers that find no room, calls out that cannot be told their answer,
 * bytes that no host sends, and cuts. */
#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/random.h"
#include "daemon/relay/relay.h"
#include "host.pb-c.h"
#include "linearize/linearize.h"
#include "remote/remote.h"

#define PATIENCE_MS 20000
#define ITEM_BYTES  sizeof(Split__Test__Item)
#define WORKERS     2

static struct config_remote config;
static struct relay *relay;
static struct remote_link *host; /* the test's end */
static struct remote_welcome welcome;
static uint64_t host_window;

/* splitd behind the relay. */
static struct attach_server *server;
static struct endpoint *endpoint;
static struct endpoint_port *ports[WORKERS];
static unsigned statuses[WORKERS], calls, abandons;
static uint64_t out_id;
static useconds_t attach_pause_us; /* what control takes over an attach */
static uint64_t active_ns;         /* the relay is served from here on */

static void tell(const char *line)
{
	ck_abort_msg("%s", line);
}

static void relay_open(uint64_t timeout_ns, uint64_t attach_timeout_ns)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(any);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_eq(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&any, &len), 0);
	(void)close(fd);
	config = (struct config_remote){
		.address = {.family = 4, .bytes = {127, 0, 0, 1}},
		.port = ntohs(any.sin_port),
		.connections_max = 8,
		.timeout_ns = timeout_ns,
	};
	ck_assert_int_eq(relay_create(&(struct relay_params){.config = &config,
							     .attach_timeout_ns = attach_timeout_ns,
							     .path = "test"},
				      tell, &relay),
			 0);
}

static void setup(void)
{
	host_window = REMOTE_WINDOW_MIN;
	relay_open(600 * CLOCK_NS_PER_SEC, 60 * CLOCK_NS_PER_SEC);
}

static void splitd_drop(void)
{
	attach_server_destroy(server);
	if (endpoint != NULL)
		endpoint_put(endpoint);
	server = NULL;
	endpoint = NULL;
}

static void teardown(void)
{
	link_destroy(host);
	host = NULL;
	splitd_drop();
	relay_destroy(relay);
	relay = NULL;
}

/* ---- the host ------------------------------------------------------------------------------- */

static uint64_t patience(void)
{
	return clock_ns() + PATIENCE_MS * CLOCK_NS_PER_MS;
}

static void knock(void)
{
	char path[64], name[64], why[128];
	int fd;

	link_destroy(host);
	host = NULL;
	snprintf(path, sizeof(path), "tcp://127.0.0.1:%u", config.port);
	fd = remote_connect(path, PATIENCE_MS, name, sizeof(name), why, sizeof(why));
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(link_create(fd, NULL, false, &host), 0);
	link_frame_max_set(host, 64 << 20);
}

/* HELLO with a method that it serves (0) and one that it calls (1). */
static uint8_t *hello_make(size_t *bytes_out)
{
	const struct attach_method methods[] = {
		{.service = "split.test.Host", .method = "Unary", .kind = ATTACH_UNARY},
		{.service = "split.test.Far",
		 .method = "Unary",
		 .kind = ATTACH_UNARY,
		 .channel = "back"},
	};
	struct remote_hello h = {
		.magic = REMOTE_MAGIC,
		.version = REMOTE_VERSION,
		.layout = 1,
		.workers = 1,
		.window = host_window,
		.name = "test",
	};
	struct schema_builder *builder;
	struct schema_blob schema;
	struct attach_hello hello = {
		.name = "test", .workers = 1, .methods = methods, .methods_n = 2};
	uint32_t index;
	uint8_t *blob, *out;
	size_t bytes;

	ck_assert_int_eq(schema_builder_create(&builder), 0);
	ck_assert_int_eq(schema_builder_add(builder, &split__test__item__descriptor, &index), 0);
	ck_assert_uint_eq(index, 0);
	ck_assert_int_eq(schema_builder_finish(builder, &schema), 0);
	ck_assert_int_eq(schema_blob_portable(schema.bytes, schema.len), 0);
	hello.schema = schema.bytes;
	hello.schema_bytes = schema.len;
	ck_assert_int_eq(attach_blob_make(&hello, &blob, &bytes), 0);
	h.blob_bytes = (uint32_t)bytes;
	*bytes_out = sizeof(h) + (bytes + 7) / 8 * 8;
	out = calloc(1, *bytes_out);
	memcpy(out, &h, sizeof(h));
	memcpy(out + sizeof(h), blob, bytes);
	free(blob);
	free(schema.bytes);
	schema_builder_destroy(builder);
	return out;
}

static void hello_say(void)
{
	size_t bytes;
	uint8_t *hello = hello_make(&bytes);

	ck_assert_int_eq(link_say(host, REMOTE_HELLO, hello, bytes), 0);
	ck_assert_int_eq(link_wait_sent(host, patience(), -1), 0);
	free(hello);
}

static void say(const struct remote_slot *s)
{
	ck_assert_int_eq(link_say(host, REMOTE_SLOT, s, sizeof(*s)), 0);
}

static void flush(void)
{
	ck_assert_int_eq(link_wait_sent(host, patience(), -1), 0);
}

/* ---- splitd --------------------------------------------------------------------------------- */

static int admit(void *ctx, const struct attach_request *request)
{
	(void)ctx;
	(void)request;
	return 0;
}

static void step_until(enum attach_event wanted)
{
	enum attach_event e = ATTACH_NOTHING;

	while (e != wanted) {
		struct pollfd p = {.fd = attach_server_fd(server), .events = POLLIN};

		ck_assert_int_eq(poll(&p, 1, PATIENCE_MS), 1);
		ck_assert_int_eq(attach_server_step(server, &e), 0);
	}
}

static void guest_take(struct relay_guest *guest)
{
	uint64_t until = patience();

	while (!relay_guest_take(relay, guest)) {
		(void)!relay_accept(relay);
		relay_tick(relay);
		ck_assert_uint_lt(clock_ns(), until);
		(void)usleep(1000);
	}
}

/* Connect, greet, attach. */
static void attach(void)
{
	static const struct attach_policy policy = {.admit = admit};
	const struct endpoint_config ec = {
		.name = "test",
		.daemon_workers = WORKERS,
		.host_workers = 1,
		.request_slots = 64,
		.completion_slots = 64,
		.foreign_slots = 64,
		.to_host_bytes = 4 << 20,
		.to_daemon_bytes = 4 << 20,
		.numa_node = -1,
		.calls_max = 64,
		.outs_max = 8,
	};
	struct remote_frame frame;
	struct relay_guest guest;

	splitd_drop();
	knock();
	hello_say();
	guest_take(&guest);
	ck_assert(!guest.secure);
	ck_assert_int_eq(attach_server_create(guest.fd, &policy, &server), 0);
	step_until(ATTACH_REQUESTED);
	ck_assert_int_eq(attach_server_offer(server, &ec), 0);
	step_until(ATTACH_MAPPED);
	endpoint = attach_server_endpoint(server);
	endpoint_get(endpoint);
	for (unsigned d = 0; d < WORKERS; d++) {
		ports[d] = endpoint_port_of(endpoint, d);
		endpoint_port_adopt(ports[d], NULL);
		statuses[d] = 0;
	}
	calls = abandons = 0;
	(void)usleep(attach_pause_us);
	active_ns = clock_ns();
	ck_assert_int_eq(attach_server_activate(server), 0);
	ck_assert_int_eq(link_wait_frame(host, REMOTE_WELCOME, patience(), -1, &frame), 0);
	ck_assert_int_eq(remote_welcome_parse(&frame, &welcome), 0);
	ck_assert_uint_eq(welcome.daemon_workers, WORKERS);
}

static void completion(void *ctx, struct endpoint_port *port, const struct endpoint_completion *c)
{
	unsigned d = *(const unsigned *)ctx;

	if (c->has_token)
		endpoint_token_release(port, c->lane, c->token);
	if (c->kind == TO_DAEMON_CALL) {
		calls++;
		out_id = c->call_id;
		endpoint_out_accept(port, c->call_id, NULL);
	}
	abandons += c->kind == TO_DAEMON_ABANDON;
	statuses[d] += (c->flags & SLOT_HAS_STATUS) != 0;
}

/* Serve worker d until *what is n. */
static void serve_until(unsigned d, const unsigned *what, unsigned n)
{
	static const struct endpoint_events events = {.completion = completion};
	uint64_t until = patience();

	while (*what < n) {
		ck_assert_int_ge(endpoint_poll(ports[d], 256, &events, &d, clock_ns()), 0);
		endpoint_flush(ports[d], clock_ns());
		ck_assert_uint_lt(clock_ns(), until);
		(void)usleep(200);
	}
}

static uint64_t call_open(unsigned d)
{
	struct endpoint_request r = {.kind = TO_HOST_REQUEST, .flags = SLOT_END_STREAM};

	ck_assert_int_eq(endpoint_call_open(ports[d], NULL, &r.call_id), 0);
	ck_assert_int_eq(endpoint_submit(ports[d], 0, &r, clock_ns()), 0);
	endpoint_flush(ports[d], clock_ns());
	return r.call_id;
}

/* The next slot for the host. */
static struct remote_slot hear(void)
{
	struct remote_frame frame;
	struct remote_slot slot;

	ck_assert_int_eq(link_wait_frame(host, REMOTE_SLOT, patience(), -1, &frame), 0);
	memcpy(&slot, frame.body, sizeof(slot));
	return slot;
}

/* ---- tests ---------------------------------------------------------------------------------- */

/* Who says nothing any more is let go, and counted. */
START_TEST(silent_host)
{
	uint64_t until = patience();

	relay_destroy(relay);
	relay_open(150 * CLOCK_NS_PER_MS, 60 * CLOCK_NS_PER_SEC);
	attach();
	while (relay_counters_get(relay)->faults == 0) {
		ck_assert_uint_lt(clock_ns(), until);
		(void)usleep(1000);
	}
	step_until(ATTACH_DETACHED);
	ck_assert_uint_eq(relay_counters_get(relay)->faults, 1);
}
END_TEST

/* An attach that takes longer than that is no silence of the host's. */
START_TEST(silent_while_control_is_slow)
{
	const uint64_t timeout_ns = 300 * CLOCK_NS_PER_MS;
	uint64_t until = patience();

	relay_destroy(relay);
	relay_open(timeout_ns, 60 * CLOCK_NS_PER_SEC);
	attach_pause_us = 400000;
	attach();
	while (relay_counters_get(relay)->faults == 0) {
		ck_assert_uint_lt(clock_ns(), until);
		(void)usleep(1000);
	}
	ck_assert_uint_ge(clock_ns(), active_ns + timeout_ns);
}
END_TEST

/* Control goes while a host has knocked and nobody has taken it: nothing waits for its attach. */
START_TEST(shutdown_while_one_waits)
{
	uint64_t until = patience();

	relay_destroy(relay);
	relay_open(600 * CLOCK_NS_PER_SEC, 600 * CLOCK_NS_PER_SEC);
	knock();
	hello_say();
	while (relay_counters_get(relay)->connections == 0) {
		ck_assert(relay_accept(relay));
		ck_assert_uint_lt(clock_ns(), until);
	}
	(void)usleep(50000);
	relay_destroy(relay); /* the test's time is up long before the attach's */
	relay = NULL;
}
END_TEST

/* What waits for room towards one worker holds up nobody else's. */
START_TEST(answers_pass_others)
{
	struct remote_slot slot = {0};
	uint64_t first, second;

	attach();
	first = call_open(0);
	second = call_open(1);
	for (unsigned i = 0; i < 2; i++)
		ck_assert_uint_eq(hear().kind, TO_HOST_REQUEST);
	/* More than the ring of worker 0 takes; it takes none out. */
	slot.kind = TO_DAEMON_WANT;
	slot.call_id = first;
	for (unsigned i = 0; i < 200; i++)
		say(&slot);
	slot = (struct remote_slot){.kind = TO_DAEMON_STATUS,
				    .flags = SLOT_HAS_STATUS | SLOT_END_STREAM,
				    .call_id = first};
	say(&slot);
	slot.call_id = second;
	say(&slot);
	flush();
	serve_until(1, &statuses[1], 1);
	ck_assert_uint_eq(statuses[0], 0);
	serve_until(0, &statuses[0], 1); /* behind its own */
}
END_TEST

/* An answer to a call out that no window takes: the worker is told that nobody waits, the host when
 * the worker has said that it has ended; only then may it use the id again. */
START_TEST(large_answer_to_a_call_out)
{
	const uint64_t id = UINT64_C(1) << 32 | SLOT_OUT | 3;
	struct endpoint_request r = {.kind = TO_HOST_MESSAGE, .has_message = true, .call_id = id};
	struct endpoint_blocks blocks = {0};
	struct shepherd_chunk chunk;
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct remote_frame frame;
	struct remote_slot slot = {
		.kind = TO_DAEMON_CALL, .flags = SLOT_END_STREAM, .method = 1, .call_id = id};
	const size_t large = 300000;

	attach();
	say(&slot);
	flush();
	serve_until(0, &calls, 1);
	ck_assert_uint_eq(out_id, id);
	ck_assert_int_eq(endpoint_block_get(ports[0], &blocks, sizeof(item) + large, &chunk), 0);
	memset(chunk.mem, 0, sizeof(item) + large);
	item.payload.len = large;
	item.payload.data = (void *)(uintptr_t)((uint64_t)(uintptr_t)(chunk.mem + sizeof(item)) +
						(uint64_t)endpoint_delta(ports[0]));
	item.base.descriptor = NULL;
	item.name = NULL;
	memcpy(chunk.mem, &item, sizeof(item));
	r.msg = (uint64_t)(uintptr_t)chunk.mem + (uint64_t)endpoint_delta(ports[0]);
	r.blocks = &blocks;
	ck_assert_int_eq(endpoint_submit(ports[0], 0, &r, clock_ns()), 0);
	endpoint_flush(ports[0], clock_ns());
	serve_until(0, &abandons, 1);
	/* Nothing has been said to the host. */
	ck_assert_int_ge(link_read(host, clock_ns()), 0);
	ck_assert_int_eq(link_frame(host, &frame), 0);
	r = (struct endpoint_request){.kind = TO_HOST_STATUS,
				      .flags = SLOT_END_STREAM | SLOT_HAS_STATUS,
				      .status = 1,
				      .call_id = id};
	ck_assert_int_eq(endpoint_submit(ports[0], 0, &r, clock_ns()), 0);
	endpoint_call_close(ports[0], id, clock_ns());
	endpoint_flush(ports[0], clock_ns());
	slot = hear();
	ck_assert_uint_eq(slot.kind, TO_HOST_STATUS);
	ck_assert_uint_eq(slot.call_id, id);
	ck_assert_uint_eq(slot.status, 8);
	/* And the place is free. */
	slot = (struct remote_slot){.kind = TO_DAEMON_CALL,
				    .flags = SLOT_END_STREAM,
				    .method = 1,
				    .call_id = id + (UINT64_C(1) << 32)};
	say(&slot);
	flush();
	serve_until(0, &calls, 2);
}
END_TEST

/* A host that goes at any byte of its greeting, or says nonsense for one. */
START_TEST(cut_greeting)
{
	size_t bytes, n;
	uint8_t *hello = hello_make(&bytes), *said = malloc(8 + bytes);
	const struct remote_head head = {.bytes = (uint32_t)(8 + bytes), .type = REMOTE_HELLO};
	struct random random;
	uint64_t until;

	random_seed(&random, 20261122);
	memcpy(said, &head, 8);
	memcpy(said + 8, hello, bytes);
	for (n = 0; n < 8 + bytes; n += n < 64 ? 7 : 211) {
		uint8_t *wrong = malloc(8 + bytes);

		memcpy(wrong, said, 8 + bytes);
		if (n % 2 == 1)
			wrong[random_below(&random, n)] ^=
				(uint8_t)(1 + random_below(&random, 255));
		knock();
		ck_assert_int_eq(send(link_fd(host), wrong, n, MSG_NOSIGNAL), (long)n);
		ck_assert(relay_accept(relay));
		free(wrong);
	}
	free(said);
	free(hello);
	link_destroy(host);
	host = NULL;
	until = patience();
	while (relay_counters_get(relay)->refused + relay_counters_get(relay)->refused_limit <
	       relay_counters_get(relay)->connections) {
		(void)!relay_accept(relay);
		relay_tick(relay);
		ck_assert_uint_lt(clock_ns(), until);
		(void)usleep(1000);
	}
	attach();
}
END_TEST

/* Slots that make no sense: the connection ends or they are passed over; the next one is well. */
START_TEST(nonsense)
{
	static const struct endpoint_events events = {.completion = completion};
	struct random random;
	uint8_t body[256];

	random_seed(&random, 20261122);
	for (unsigned round = 0; round < 40; round++) {
		struct remote_slot s = {0};
		unsigned d = 0;
		uint64_t until = clock_ns() + 30 * CLOCK_NS_PER_MS;

		attach();
		s.call_id = call_open(0);
		for (unsigned i = 0; i < 8; i++) {
			random_fill(&random, body, sizeof(body));
			s.kind = (uint8_t)(0x40 + random_below(&random, 12));
			s.flags = (uint8_t)random_below(&random, 16) * (i % 2);
			s.method = (uint32_t)random_below(&random, 3);
			if (i % 3 == 0)
				s.call_id = random_below(&random, 2) << 32 |
					    random_below(&random, 2) << 24 |
					    SLOT_OUT * random_below(&random, 2) |
					    random_below(&random, 70);
			memcpy(body, &s, sizeof(s));
			body[random_below(&random, sizeof(s))] ^= (uint8_t)random_below(&random, 4);
			if (link_say(host, REMOTE_SLOT, body,
				     i % 2 == 0 ? sizeof(s) : sizeof(body)) != 0)
				break;
			(void)!link_flush(host);
		}
		while (clock_ns() < until &&
		       endpoint_poll(ports[0], 256, &events, &d, clock_ns()) >= 0)
			(void)usleep(1000);
		relay_tick(relay);
	}
	attach();
	(void)call_open(0);
	ck_assert_uint_eq(hear().kind, TO_HOST_REQUEST);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("host-lib/relay");
	TCase *tc = tcase_create("relay");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, silent_host);
	tcase_add_test(tc, silent_while_control_is_slow);
	tcase_add_test(tc, shutdown_while_one_waits);
	tcase_add_test(tc, answers_pass_others);
	tcase_add_test(tc, large_answer_to_a_call_out);
	tcase_add_test(tc, cut_greeting);
	tcase_add_test(tc, nonsense);
	suite_add_tcase(suite, tc);
	sr = srunner_create(suite);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed == 0 ? 0 : 1;
}
