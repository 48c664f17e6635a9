/* host-lib's end of the socket backend against a splitd that the test plays by frames: the order
 * and the deadlines of calls that wait for a worker, ends that handlers must hear of, ids of calls
 * out, how often an idle pump wakes, memory; bytes that no splitd sends, and cuts at every byte. */
#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/random.h"
#include "host.pb-c.h"
#include "remote/remote.h"
#include <split-host.h>

#define PATIENCE_MS 20000
#define ITEM_BYTES  sizeof(Split__Test__Item)
#define CALLS_MAX   64u
#define TIMEOUT_NS  (UINT64_C(600) * CLOCK_NS_PER_SEC)

/* A slot without parts, or with an Item whose `action` is the test's. */
struct wire_slot {
	struct remote_slot slot;
	uint8_t item[ITEM_BYTES];
};

static int listener;
static uint16_t port;
static struct remote_link *splitd; /* the test's end */
static struct remote_hello hello;
static struct attach_table table;
static uint8_t *blob;
static uint64_t window, timeout_ns;
static uint32_t daemon_workers;

static struct split_host *host;
static pthread_t runner;
static _Atomic unsigned attached;

/* What handlers saw and shall do. */
static _Atomic bool hold;
static _Atomic unsigned seen_n;
static uint32_t seen[256];
static uint64_t seen_deadline[256];
static _Atomic unsigned opened, cancelled, closed;
static struct split_channel *channel;
static struct split_stub *stub;
static _Atomic unsigned outs_failed, outs_messages, outs_refused;
static _Atomic uint32_t out_status;

static void wait_for(const _Atomic unsigned *what, unsigned n, const char *name)
{
	uint64_t until = clock_ns() + PATIENCE_MS * CLOCK_NS_PER_MS;

	while (*what < n) {
		ck_assert_msg(clock_ns() < until, "%s: %u, not %u", name, *what, n);
		(void)usleep(1000);
	}
}

/* ---- the service ---------------------------------------------------------------------------- */

static void on_unary(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	unsigned n = seen_n;

	(void)data;
	seen[n] = ((const Split__Test__Item *)message)->action;
	seen_deadline[n] = split_call_deadline_ns(c);
	seen_n = n + 1;
	while (hold)
		(void)usleep(500);
	(void)!split_call_answer(c, message);
}

static void send_large(struct split_call *c)
{
	static uint8_t bytes[400000];
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;

	ck_assert_int_eq(split_call_send(c, &item.base), 0);
	item.payload.data = bytes;
	item.payload.len = sizeof(bytes);
	(void)!split_call_send(c, &item.base);
}

static void on_stream(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	(void)data;
	opened++;
	if (((const Split__Test__Item *)message)->action == 1)
		send_large(c);
}

static void on_cancelled(struct split_call *c, void *data)
{
	(void)data;
	cancelled++;
	(void)!split_call_fail(c, SPLIT_CANCELLED, NULL);
}

static void on_closed(struct split_call *c, void *data)
{
	(void)c;
	(void)data;
	closed++;
}

static void out_done(struct split_out *out, const struct split_out_result *result, void *data)
{
	(void)out;
	(void)data;
	out_status = (uint32_t)result->status;
	outs_failed++;
}

static void out_message(struct split_out *out, const ProtobufCMessage *message, void *data)
{
	(void)out;
	(void)message;
	(void)data;
	outs_messages++;
}

static const struct split_out_events out_events = {.done = out_done, .message = out_message};

/* action 0: a call out whose second message is too large; else one that begins and waits. */
static void on_caller(struct split_call *c, const ProtobufCMessage *message, void *data)
{
	static uint8_t bytes[400000];
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct split_out_options options = SPLIT_OUT_OPTIONS_INIT;
	struct split_out *out = NULL;

	(void)data;
	options.flags = SPLIT_OUT_DETACHED;
	if (split_out_start(stub, NULL, &options, &out_events, NULL, &out) != 0) {
		outs_refused++; /* every place is taken */
		(void)!split_call_answer(c, message);
		return;
	}
	ck_assert_int_eq(split_out_send(out, &item.base), 0);
	if (((const Split__Test__Item *)message)->action == 0) {
		item.payload.data = bytes;
		item.payload.len = sizeof(bytes);
		(void)!split_out_send(out, &item.base);
	}
	split_out_release(out);
	(void)!split_call_answer(c, message);
}

#define ITEMS .input = &split__test__item__descriptor, .output = &split__test__item__descriptor

static const struct split_method methods[] = {
	{.service = "split.test.Host", .name = "Unary", ITEMS, .message = on_unary},
	{.service = "split.test.Host",
	 .name = "Stream",
	 .kind = SPLIT_SERVER_STREAM,
	 ITEMS,
	 .message = on_stream,
	 .cancelled = on_cancelled,
	 .closed = on_closed},
	{.service = "split.test.Host", .name = "Caller", ITEMS, .message = on_caller},
};

/* ---- splitd's end --------------------------------------------------------------------------- */

static void on_event(struct split_host *h, enum split_host_event e, const char *text, void *arg)
{
	(void)h;
	(void)text;
	(void)arg;
	if (e == SPLIT_HOST_ATTACHED)
		attached++;
}

static void *run(void *arg)
{
	(void)arg;
	(void)!split_host_run(host, 0);
	return NULL;
}

static void listen_open(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(any);

	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&any, sizeof(any)), 0);
	ck_assert_int_eq(listen(listener, 16), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&any, &len), 0);
	port = ntohs(any.sin_port);
}

static uint64_t patience(void)
{
	return clock_ns() + PATIENCE_MS * CLOCK_NS_PER_MS;
}

static void flush(void)
{
	ck_assert_int_eq(link_wait_sent(splitd, patience(), -1), 0);
}

/* Take the next connection and its HELLO. */
static void hello_take(void)
{
	struct remote_frame frame;
	const uint8_t *at;
	int fd;

	link_destroy(splitd);
	splitd = NULL;
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(link_create(fd, NULL, true, &splitd), 0);
	ck_assert_int_eq(link_wait_frame(splitd, REMOTE_HELLO, patience(), -1, &frame), 0);
	ck_assert_int_eq(remote_hello_parse(&frame, &hello, &at), 0);
	attach_table_fini(&table);
	free(blob);
	blob = malloc(hello.blob_bytes);
	memcpy(blob, at, hello.blob_bytes);
	ck_assert_int_eq(attach_blob_parse(blob, hello.blob_bytes, &table), 0);
	link_frame_max_set(splitd, 64 << 20);
}

static struct remote_welcome welcome_of(void)
{
	return (struct remote_welcome){
		.magic = REMOTE_MAGIC,
		.version = REMOTE_VERSION,
		.daemon_workers = daemon_workers,
		.calls_max = CALLS_MAX,
		.tokens_max = CALLS_MAX * 4,
		.outs_max = 8,
		.stream_window = SHEPHERD_STREAM_WINDOW,
		.window = window,
		.timeout_ns = timeout_ns,
	};
}

static void welcome(void)
{
	struct remote_welcome w = welcome_of();
	unsigned before = attached;

	ck_assert_int_eq(link_say(splitd, REMOTE_WELCOME, &w, sizeof(w)), 0);
	flush();
	wait_for(&attached, before + 1, "attached");
}

static void begin(unsigned workers)
{
	struct split_host_options o = SPLIT_HOST_OPTIONS_INIT;
	char path[64];

	o.workers = workers;
	o.event = on_event;
	o.backoff_min_ns = CLOCK_NS_PER_MS;
	o.backoff_max_ns = CLOCK_NS_PER_MS;
	listen_open();
	snprintf(path, sizeof(path), "tcp://127.0.0.1:%u", port);
	host = split_host_attach(path, "test", &o);
	ck_assert_ptr_nonnull(host);
	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		ck_assert_int_eq(split_host_serve_method(host, &methods[i]), 0);
	channel = split_channel_open(host, "back");
	stub = split_channel_stub(channel, "split.test.Far", "Talk", SPLIT_BIDI_STREAM,
				  &split__test__item__descriptor, &split__test__item__descriptor,
				  4);
	ck_assert_ptr_nonnull(stub);
	ck_assert_int_eq(pthread_create(&runner, NULL, run, NULL), 0);
	hello_take();
	ck_assert_uint_eq(hello.workers, workers);
}

static void setup(void)
{
	window = 1 << 20;
	timeout_ns = TIMEOUT_NS;
	daemon_workers = 1;
}

static void teardown(void)
{
	hold = false;
	link_destroy(splitd);
	splitd = NULL;
	(void)close(listener);
	split_host_stop(host);
	ck_assert_int_eq(pthread_join(runner, NULL), 0);
	split_host_detach(host);
	attach_table_fini(&table);
	free(blob);
}

static uint32_t method_index(const char *name)
{
	for (size_t i = 0; i < table.methods_n; i++)
		if (strcmp(table.methods[i].method, name) == 0)
			return (uint32_t)i;
	ck_abort_msg("no method %s", name);
	return 0;
}

static uint64_t call_id(uint32_t generation, uint32_t place)
{
	return (uint64_t)generation << 32 | place;
}

static struct wire_slot request(const char *method, uint32_t place, uint32_t action)
{
	Split__Test__Item item = SPLIT__TEST__ITEM__INIT;
	struct wire_slot w = {
		.slot = {.kind = TO_HOST_REQUEST,
			 .flags = SLOT_END_STREAM | SLOT_HAS_MESSAGE,
			 .method = method_index(method),
			 .call_id = call_id(1, place),
			 .message_bytes = ITEM_BYTES},
	};
	Split__Test__Item *on_wire = (void *)w.item;

	/* As relocate_out writes it: nothing that points anywhere. */
	memset(&item, 0, sizeof(item));
	item.action = action;
	memcpy(on_wire, &item, sizeof(item));
	return w;
}

static void say(const struct wire_slot *w)
{
	ck_assert_int_eq(link_say(splitd, REMOTE_SLOT, w, sizeof(w->slot) + w->slot.message_bytes),
			 0);
}

static uint32_t place_failed; /* of a call out; 0: none has */

/* The next slot of a kind that the test asks for, MESSAGE of a call of splitd's; others are passed
 * over. */
static struct remote_slot hear(uint8_t kind)
{
	struct remote_frame frame;
	struct remote_slot slot;
	uint64_t until = patience();

	do {
		ck_assert_int_eq(link_wait_frame(splitd, REMOTE_SLOT, until, -1, &frame), 0);
		memcpy(&slot, frame.body, sizeof(slot));
		if (slot.kind == TO_DAEMON_CALL)
			ck_assert_uint_ne((uint32_t)slot.call_id, place_failed);
	} while (slot.kind != kind ||
		 (kind == TO_DAEMON_MESSAGE && (slot.call_id & SLOT_OUT) != 0));
	return slot;
}

/* The pump has taken all that was said so far: it has answered what comes last. Frames before the
 * answer are dropped. */
static void settle(void)
{
	uint8_t *at = link_put(splitd, REMOTE_PULSE, 0);
	struct remote_frame frame;
	uint64_t until = patience();
	int rc;

	ck_assert_ptr_nonnull(at);
	at[-3] = 1; /* asks */
	flush();
	for (;;) {
		rc = link_frame(splitd, &frame);
		ck_assert_int_ge(rc, 0);
		if (rc == 1 && frame.type == REMOTE_PULSE)
			return;
		if (rc == 0) {
			ck_assert_int_ge(link_read(splitd, clock_ns()), 0);
			ck_assert_uint_lt(clock_ns(), until);
			(void)usleep(500);
		}
	}
}

/* ---- tests ---------------------------------------------------------------------------------- */

/* Calls wait for the only worker in the order in which they came; their deadlines run meanwhile. */
START_TEST(waiting_calls)
{
	enum { N = 60 };
	const uint64_t left = 3600 * CLOCK_NS_PER_SEC;
	uint64_t latest;
	struct wire_slot w;

	begin(1);
	welcome();
	hold = true;
	for (uint32_t i = 0; i < N; i++) {
		w = request("Unary", i, i + 1);
		w.slot.deadline_left_ns = left;
		say(&w);
	}
	flush();
	settle();
	wait_for(&seen_n, 1, "the first begins");
	ck_assert_uint_eq(seen_n, 1);
	latest = clock_ns() + left;
	(void)usleep(20000); /* what lands later and counted from there would end later */
	hold = false;
	wait_for(&seen_n, N, "all are served");
	for (uint32_t i = 0; i < N; i++) {
		ck_assert_uint_eq(seen[i], i + 1);
		ck_assert_uint_le(seen_deadline[i], latest);
	}
}
END_TEST

/* What splitd cancels before it has begun never begins; a place that is used again is another's. */
START_TEST(waiting_calls_end)
{
	enum { N = 40 };
	struct wire_slot w;

	begin(1);
	welcome();
	hold = true;
	for (uint32_t i = 0; i < N; i++) {
		w = request("Unary", i, i + 1);
		say(&w);
	}
	settle();
	for (uint32_t i = 30; i < N; i++) {
		w = (struct wire_slot){
			.slot = {.kind = TO_HOST_CANCEL, .call_id = call_id(1, i), .info = 1}};
		if (i % 2 == 0)
			say(&w); /* the others are replaced without a word */
		w = request("Unary", i, 100 + i);
		w.slot.call_id = call_id(2, i);
		say(&w);
	}
	settle();
	hold = false;
	wait_for(&seen_n, N, "all that are left are served");
	(void)usleep(10000);
	ck_assert_uint_eq(seen_n, N);
	for (uint32_t i = 0; i < N; i++)
		ck_assert_uint_eq(seen[i], i < 30 ? i + 1 : 100 + i);
}
END_TEST

/* A message that no window takes ends its stream on both sides, without a word of splitd's. */
START_TEST(large_message_of_a_stream)
{
	struct remote_slot slot;
	struct wire_slot w;

	window = REMOTE_WINDOW_MIN;
	begin(1);
	welcome();
	w = request("Stream", 0, 1);
	say(&w);
	flush();
	slot = hear(TO_DAEMON_STATUS);
	ck_assert_uint_eq(slot.status, 8);
	ck_assert_uint_eq(slot.call_id, call_id(1, 0));
	wait_for(&cancelled, 1, "the handler hears of it");
	wait_for(&closed, 1, "and is closed");
	/* The connection goes on. */
	w = request("Unary", 1, 7);
	say(&w);
	flush();
	ck_assert_uint_eq(hear(TO_DAEMON_MESSAGE).call_id, call_id(1, 1));
}
END_TEST

/* A call out whose message is too large: its id is not used again before splitd says that it has
 * ended, and then its end is the message's. */
START_TEST(large_message_of_a_call_out)
{
	struct wire_slot w;
	uint64_t failed;

	window = REMOTE_WINDOW_MIN;
	begin(1);
	welcome();
	w = request("Caller", 0, 0);
	say(&w);
	flush();
	failed = hear(TO_DAEMON_CALL).call_id;
	ck_assert_uint_eq(hear(TO_DAEMON_ABANDON).call_id, failed);
	ck_assert_uint_eq(outs_failed, 0);
	place_failed = (uint32_t)failed;
	ck_assert_uint_eq(hear(TO_DAEMON_MESSAGE).call_id, call_id(1, 0));
	/* All the places that are left. */
	for (uint32_t i = 1; outs_refused == 0; i++) {
		ck_assert_uint_lt(i, 16);
		w = request("Caller", i, 1);
		say(&w);
		flush();
		ck_assert_uint_eq(hear(TO_DAEMON_MESSAGE).call_id, call_id(1, i));
	}
	ck_assert_uint_eq(outs_failed, 0);
	/* A message that was on its way is passed over. */
	w = request("Unary", 0, 9);
	w.slot.kind = TO_HOST_MESSAGE;
	w.slot.flags = SLOT_HAS_MESSAGE;
	w.slot.method = 0;
	w.slot.call_id = failed;
	say(&w);
	w = (struct wire_slot){.slot = {.kind = TO_HOST_STATUS,
					.flags = SLOT_END_STREAM | SLOT_HAS_STATUS,
					.status = 1,
					.call_id = failed}};
	say(&w);
	flush();
	wait_for(&outs_failed, 1, "the call out ends");
	ck_assert_uint_eq(out_status, 8);
	ck_assert_uint_eq(outs_failed, 1);
	ck_assert_uint_eq(outs_messages, 0);
}
END_TEST

/* A stream that is open and silent costs nobody anything. */
START_TEST(silent_stream_wakes_nobody)
{
	struct rusage before, after;
	struct wire_slot w;
	long wakes;

	begin(2);
	welcome();
	w = request("Stream", 0, 0);
	say(&w);
	flush();
	wait_for(&opened, 1, "the stream is open");
	(void)usleep(100000); /* workers park */
	ck_assert_int_eq(getrusage(RUSAGE_SELF, &before), 0);
	(void)usleep(1000000);
	ck_assert_int_eq(getrusage(RUSAGE_SELF, &after), 0);
	wakes = after.ru_nvcsw - before.ru_nvcsw;
	ck_assert_msg(wakes < 300, "%ld wake-ups in a second", wakes);
}
END_TEST

static long resident_kib(void)
{
	char line[256];
	long kib = 0, n;
	FILE *status = fopen("/proc/self/status", "re");

	ck_assert_ptr_nonnull(status);
	while (fgets(line, sizeof(line), status) != NULL)
		if (sscanf(line, "RssShmem: %ld", &n) == 1)
			kib = n;
	(void)fclose(status);
	return kib;
}

/* splitd's workers are many, its calls few: memory goes by what is in use. */
START_TEST(memory_by_use)
{
	struct wire_slot w;
	long kib;

	daemon_workers = 16;
	begin(1);
	welcome();
	for (uint32_t i = 0; i < 16; i++) {
		w = request("Unary", i << 24, i);
		w.slot.call_id = call_id(1, i << 24);
		say(&w);
	}
	flush();
	wait_for(&seen_n, 16, "calls of all workers");
	kib = resident_kib();
	ck_assert_msg(kib < 32 << 10, "%ld KiB", kib);
}
END_TEST

/* A connection that ends at any byte of what splitd says is attached anew. */
START_TEST(cut_anywhere)
{
	struct remote_welcome w;
	struct wire_slot r;
	struct remote_head head;
	uint8_t said[sizeof(head) + sizeof(w) + 3 * (sizeof(head) + sizeof(r))];
	size_t bytes = 0;

	begin(2);
	w = welcome_of();
	head = (struct remote_head){.bytes = sizeof(head) + sizeof(w), .type = REMOTE_WELCOME};
	memcpy(said, &head, sizeof(head));
	memcpy(said + sizeof(head), &w, sizeof(w));
	bytes = sizeof(head) + sizeof(w);
	for (uint32_t i = 0; i < 3; i++) {
		r = request("Unary", i, i);
		head = (struct remote_head){.bytes = sizeof(head) + sizeof(r), .type = REMOTE_SLOT};
		memcpy(said + bytes, &head, sizeof(head));
		memcpy(said + bytes + sizeof(head), &r, sizeof(r));
		bytes += head.bytes;
	}
	for (size_t cut = 0; cut <= bytes; cut += cut < 64 ? 1 : 37) {
		seen_n = 0;
		if (cut != 0)
			ck_assert_int_eq(send(link_fd(splitd), said, cut, MSG_NOSIGNAL), (long)cut);
		hello_take(); /* closes the one before */
	}
	seen_n = 0;
	welcome();
	r = request("Unary", 0, 5);
	say(&r);
	flush();
	while (hear(TO_DAEMON_MESSAGE).call_id != call_id(1, 0))
		;
}
END_TEST

/* Nonsense for a frame, or what looks like one: the connection ends, the process does not. */
START_TEST(nonsense)
{
	struct random random;
	uint8_t bytes[512];
	struct wire_slot r;

	random_seed(&random, 20261122);
	begin(1);
	for (int round = 0; round < 150; round++) {
		struct remote_head head = {.type = (uint8_t)(1 + random_below(&random, 10))};
		size_t n = 8 * (1 + (size_t)random_below(&random, 40));

		welcome();
		r = request("Unary", (uint32_t)random_below(&random, 70), 1);
		r.slot.kind = (uint8_t)random_below(&random, 16);
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)random_below(&random, 256);
		memcpy(bytes + sizeof(head), &r, sizeof(r) < n ? sizeof(r) : n);
		for (int i = 0; i < 4; i++)
			bytes[8 + random_below(&random, n)] = (uint8_t)random_below(&random, 256);
		if (round % 3 != 0) {
			head.bytes = (uint32_t)(sizeof(head) + n);
			memcpy(bytes, &head, sizeof(head));
		}
		(void)!send(link_fd(splitd), bytes, sizeof(head) + n, MSG_NOSIGNAL);
		seen_n = 0;
		hello_take();
	}
	welcome();
	r = request("Unary", 0, 5);
	say(&r);
	flush();
	while (hear(TO_DAEMON_MESSAGE).call_id != call_id(1, 0))
		;
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("host-lib/pump");
	TCase *tc = tcase_create("pump");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, waiting_calls);
	tcase_add_test(tc, waiting_calls_end);
	tcase_add_test(tc, large_message_of_a_stream);
	tcase_add_test(tc, large_message_of_a_call_out);
	tcase_add_test(tc, silent_stream_wakes_nobody);
	tcase_add_test(tc, memory_by_use);
	tcase_add_test(tc, cut_anywhere);
	tcase_add_test(tc, nonsense);
	suite_add_tcase(suite, tc);
	sr = srunner_create(suite);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed == 0 ? 0 : 1;
}
