/* Attach: the good way, and everything else a peer may send. */
#include "tests/shepherd/harness.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/random.h"
#include "shepherd/shepherd_internal.h"

static int fds[2]; /* [0]: the server's */
static struct attach_server *server;
static const uid_t *allowed_uid;

static int admit(void *ctx, const struct attach_request *request)
{
	(void)ctx;
	ck_assert_str_eq(request->name, "test");
	ck_assert_int_eq(request->uid, getuid());
	ck_assert_int_eq(request->pid, getpid());
	return allowed_uid == NULL || *allowed_uid == request->uid ? 0
								   : -SPLIT_E_SHEPHERD_ATTACH_UID;
}

static void setup(void)
{
	struct attach_policy policy = {.admit = admit, .blob_bytes_max = 1 << 20};

	allowed_uid = NULL;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	ck_assert_int_eq(attach_server_create(fds[0], &policy, &server), 0);
}

static void teardown(void)
{
	attach_server_destroy(server);
	close(fds[1]);
}

static unsigned descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static int step(enum attach_event *event)
{
	return attach_server_step(server, event);
}

static void hello_fill(struct attach_hello_packet *p, uint32_t blob_bytes)
{
	memset(p, 0, sizeof(*p));
	attach_header_fill(&p->header, ATTACH_HELLO, sizeof(*p));
	p->workers = 2;
	p->blob_bytes = blob_bytes;
	strcpy(p->name, "test");
}

/* The server must fail with `code`, say so, and stay failed. */
static void expect_refusal(int code)
{
	struct attach_refused_packet refused;
	enum attach_event event;
	ssize_t n;

	ck_assert_int_eq(step(&event), code);
	ck_assert_int_lt(step(&event), 0);
	n = recv(fds[1], &refused, sizeof(refused), MSG_DONTWAIT);
	if (n < 0)
		n = recv(fds[1], &refused, sizeof(refused), MSG_DONTWAIT);
	ck_assert_int_eq(n, sizeof(refused));
	ck_assert_int_eq(refused.header.type, ATTACH_REFUSED);
	ck_assert_int_eq(refused.code, code);
	ck_assert_str_eq(refused.text, error_text(code));
}

static void send_raw(const void *p, size_t bytes)
{
	ck_assert_int_eq(send(fds[1], p, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
}

START_TEST(good)
{
	unsigned before = descriptors();
	struct endpoint_config config = pair_config();
	struct pair p;
	const struct attach_request *r;

	pair_open(&p, &config);
	r = attach_server_request(p.server);
	ck_assert_str_eq(r->name, "test");
	ck_assert_uint_eq(r->workers, 2);
	ck_assert_uint_eq(r->methods_n, 3);
	ck_assert_ptr_null(r->methods[0].channel);
	ck_assert_ptr_null(r->methods[1].channel);
	ck_assert_str_eq(r->methods[2].channel, "back");
	ck_assert_str_eq(r->methods[2].method, "Ask");
	ck_assert_uint_eq(r->methods[2].read_ahead, 7);
	ck_assert_str_eq(r->methods[1].service, "test.Pair");
	ck_assert_str_eq(r->methods[1].method, "Two");
	ck_assert_int_eq(r->methods[1].kind, ATTACH_BIDI);
	ck_assert_uint_eq(r->methods[1].input_schema, 2);
	ck_assert_uint_eq(r->methods[1].data, 0x4000);
	ck_assert_uint_eq(r->methods[0].options.request_bytes_max, 0);
	ck_assert_uint_eq(r->methods[1].options.request_bytes_max, 4096);
	ck_assert_uint_eq(r->methods[1].options.deadline_ns, 250000000);
	ck_assert_int_eq(r->methods[1].options.decode, 1);
	ck_assert_int_eq(r->methods[1].options.idempotency, 2);
	ck_assert_uint_eq(r->schema_bytes, pair_hello()->schema_bytes);
	ck_assert_int_eq(memcmp(r->schema, pair_hello()->schema, r->schema_bytes), 0);
	ck_assert_str_eq(endpoint_name(p.endpoint), "test");
	ck_assert_uint_eq(attachment_workers(p.host), 2);
	ck_assert_uint_eq(attachment_daemon_workers(p.host), 1);
	ck_assert(attachment_alive(p.host));
	ck_assert(endpoint_alive(p.endpoint));
	endpoint_detach(p.endpoint);
	ck_assert(!attachment_alive(p.host));
	ck_assert(!endpoint_alive(p.endpoint));
	pair_close(&p);
	ck_assert_uint_eq(descriptors(), before);
}
END_TEST

START_TEST(goodbye_and_close)
{
	struct endpoint_config config = pair_config();
	enum attach_event event;
	struct pair p;

	pair_open(&p, &config);
	ck_assert_int_eq(attach_server_step(p.server, &event), 0);
	ck_assert_int_eq(event, ATTACH_NOTHING);
	attachment_close(p.host);
	p.host = NULL;
	ck_assert_int_eq(attach_server_step(p.server, &event), 0);
	ck_assert_int_eq(event, ATTACH_DETACHED);
	/* The socket's end says the same. */
	ck_assert_int_eq(attach_server_step(p.server, &event), 0);
	ck_assert_int_eq(event, ATTACH_DETACHED);
	pair_close(&p);
}
END_TEST

START_TEST(wrong_version)
{
	struct attach_hello_packet p;

	hello_fill(&p, 100);
	p.header.version++;
	send_raw(&p, sizeof(p));
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_VERSION);
}
END_TEST

START_TEST(wrong_layout)
{
	struct attach_hello_packet p;

	hello_fill(&p, 100);
	p.header.layout = 4 << 8 | 1;
	send_raw(&p, sizeof(p));
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_LAYOUT);
}
END_TEST

START_TEST(wrong_uid)
{
	struct attach_hello_packet p;
	uid_t other = getuid() + 1;

	allowed_uid = &other;
	hello_fill(&p, 100);
	send_raw(&p, sizeof(p));
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_UID);
}
END_TEST

START_TEST(truncated)
{
	struct attach_hello_packet p;
	size_t bytes = (size_t)_i;

	hello_fill(&p, 100);
	send_raw(&p, bytes);
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_MALFORMED);
}
END_TEST

START_TEST(bad_fields)
{
	struct attach_hello_packet p;
	int code = -SPLIT_E_SHEPHERD_ATTACH_MALFORMED;

	hello_fill(&p, 100);
	switch (_i) {
	case 0:
		p.workers = 0;
		break;
	case 1:
		p.workers = SHEPHERD_HOST_WORKERS_MAX + 1;
		break;
	case 2:
		memset(p.name, 'x', sizeof(p.name));
		break;
	case 3:
		memset(p.name, 0, sizeof(p.name));
		break;
	case 4:
		strcpy(p.name, "with space");
		break;
	case 5:
		p.name[1] = '\033';
		break;
	case 6:
		p.header.bytes++;
		break;
	case 7:
		p.header.type = 99;
		break;
	case 8:
		p.blob_bytes = 3;
		break;
	case 9:
		p.blob_bytes = UINT32_MAX;
		code = -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
		break;
	case 10:
		p.header.type = ATTACH_ACTIVE;
		break;
	}
	send_raw(&p, sizeof(p));
	expect_refusal(code);
}
END_TEST

START_TEST(oversized)
{
	static uint8_t packet[ATTACH_PART_MAX + 1];

	attach_header_fill((struct attach_header *)packet, ATTACH_BLOB, sizeof(packet));
	send_raw(packet, sizeof(packet));
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_MALFORMED);
}
END_TEST

START_TEST(out_of_order)
{
	struct attach_bases_packet p = {.to_host_base = 4096, .to_daemon_base = 8192};

	attach_header_fill(&p.header, ATTACH_BASES, sizeof(p));
	send_raw(&p, sizeof(p));
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_ORDER);
}
END_TEST

START_TEST(descriptors_uninvited)
{
	struct attach_hello_packet p;
	unsigned before = descriptors();
	int three[3] = {0, 1, 2};

	hello_fill(&p, 100);
	ck_assert_int_eq(attach_send(fds[1], &p, sizeof(p), three, 3), 0);
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_MALFORMED);
	ck_assert_uint_eq(descriptors(), before);
}
END_TEST

START_TEST(blob_parts)
{
	uint8_t buf[sizeof(struct attach_blob_packet) + 64] = {0};
	struct attach_blob_packet *part = (struct attach_blob_packet *)buf;
	struct attach_hello_packet p;
	enum attach_event event;

	hello_fill(&p, 100);
	send_raw(&p, sizeof(p));
	ck_assert_int_eq(step(&event), 0);
	ck_assert_int_eq(event, ATTACH_NOTHING);
	attach_header_fill(&part->header, ATTACH_BLOB, sizeof(buf));
	send_raw(buf, sizeof(buf));
	ck_assert_int_eq(step(&event), 0);
	/* A part that repeats, or runs past the end. */
	part->offset = _i == 0 ? 0 : 64;
	send_raw(buf, sizeof(buf));
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_MALFORMED);
}
END_TEST

/* All a host does up to OFFER; returns the packet's descriptors. */
static void up_to_offer(struct attach_offer_packet *offer, struct attach_received *r)
{
	struct endpoint_config config = pair_config();
	struct attach_hello_packet p;
	enum attach_event event = ATTACH_NOTHING;
	struct attach_hello hello = {.name = "test", .workers = 2};
	struct attach_blob_packet *part;
	uint8_t *blob;
	size_t bytes;

	ck_assert_int_eq(attach_blob_make(&hello, &blob, &bytes), 0);
	hello_fill(&p, (uint32_t)bytes);
	send_raw(&p, sizeof(p));
	part = calloc(1, sizeof(*part) + bytes);
	attach_header_fill(&part->header, ATTACH_BLOB, sizeof(*part) + bytes);
	memcpy(part->bytes, blob, bytes);
	send_raw(part, sizeof(*part) + bytes);
	free(part);
	free(blob);
	ck_assert_int_eq(step(&event), 0);
	ck_assert_int_eq(event, ATTACH_REQUESTED);
	ck_assert_int_eq(attach_server_offer(server, &config), 0);
	ck_assert_int_eq(attach_receive(fds[1], offer, sizeof(*offer), r), 0);
	ck_assert_uint_eq(r->fds_n, 3);
}

START_TEST(bad_bases)
{
	static const uint64_t bases[][2] = {
		{0, 1 << 30},
		{1 << 30, 0},
		{(1 << 30) + 1, 1u << 31},
		{1 << 30, 1 << 30},               /* the same place */
		{1 << 30, (1 << 30) + 4096},      /* overlapping */
		{UINT64_MAX - 4095, 1 << 30},     /* wraps */
		{0xffff800000000000ull, 1 << 30}, /* the kernel's half */
		{1 << 30, (1ull << 56) - (1 << 20) + 4096},
	};
	struct attach_bases_packet p = {.to_host_base = bases[_i][0],
					.to_daemon_base = bases[_i][1]};
	struct attach_offer_packet offer;
	struct attach_received r;
	void *mem;

	up_to_offer(&offer, &r);
	mem = mmap(NULL, offer.to_daemon_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r.fds[1], 0);
	ck_assert_ptr_ne(mem, MAP_FAILED);
	attach_header_fill(&p.header, ATTACH_BASES, sizeof(p));
	send_raw(&p, sizeof(p));
	expect_refusal(-SPLIT_E_SHEPHERD_ATTACH_MALFORMED);
	munmap(mem, offer.to_daemon_bytes);
	attach_received_close(&r);
}
END_TEST

/* A host that changes its segment's size, or seals it itself, before it says where it is. */
START_TEST(segment_tampered)
{
	struct attach_bases_packet p = {.to_host_base = 1 << 30, .to_daemon_base = 1u << 31};
	struct attach_offer_packet offer;
	struct attach_received r;

	up_to_offer(&offer, &r);
	if (_i == 0)
		ck_assert_int_eq(ftruncate(r.fds[1], 4096), 0);
	else if (_i == 1)
		ck_assert_int_eq(ftruncate(r.fds[1], (off_t)offer.to_daemon_bytes * 2), 0);
	else
		ck_assert_int_eq(fcntl(r.fds[1], F_ADD_SEALS, F_SEAL_SEAL), 0);
	attach_header_fill(&p.header, ATTACH_BASES, sizeof(p));
	send_raw(&p, sizeof(p));
	expect_refusal(-SPLIT_E_SHEPHERD_SEAL);
	attach_received_close(&r);
}
END_TEST

START_TEST(garbage)
{
	struct attach_policy policy = {.admit = NULL};
	uint8_t packet[600];
	struct random rnd;

	random_seed(&rnd, 42);
	for (int i = 0; i < 2000; i++) {
		size_t bytes = 1 + random_below(&rnd, sizeof(packet));
		enum attach_event event;

		random_fill(&rnd, packet, bytes);
		if (i % 2 == 0 && bytes >= sizeof(struct attach_header))
			attach_header_fill((struct attach_header *)packet,
					   (enum attach_type)(i / 2 % 9), bytes);
		ck_assert_int_le(attach_packet_check(packet, bytes), 0);
		ck_assert_int_le(attach_blob_check(packet, bytes), 0);
		send_raw(packet, bytes);
		if (step(&event) < 0) {
			teardown();
			ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds),
					 0);
			ck_assert_int_eq(attach_server_create(fds[0], &policy, &server), 0);
		}
	}
}
END_TEST

START_TEST(blob_round_trip_and_damage)
{
	uint8_t *blob;
	size_t bytes;

	ck_assert_int_eq(attach_blob_make(pair_hello(), &blob, &bytes), 0);
	ck_assert_int_eq(attach_blob_check(blob, bytes), 0);
	/* Cut anywhere: refused, never read past. */
	for (size_t cut = 0; cut < 200; cut++) {
		uint8_t *exact = malloc(cut + 1);

		memcpy(exact, blob, cut);
		ck_assert_int_lt(attach_blob_check(exact, cut), 0);
		free(exact);
	}
	free(blob);
}
END_TEST

START_TEST(too_large_for_the_host_side)
{
	struct attach_hello hello = *pair_hello();
	struct attachment *a;
	struct attach_refusal why;

	hello.schema_bytes = ATTACH_BLOB_MAX;
	ck_assert_int_eq(attachment_open_fd(dup(fds[1]), &hello, 100, &a, &why),
			 -SPLIT_E_SHEPHERD_ATTACH_LIMIT);
	hello = *pair_hello();
	ck_assert_int_eq(attachment_open_fd(dup(fds[1]), &hello, 50, &a, &why),
			 -SPLIT_E_SHEPHERD_ATTACH_TIMEOUT);
	ck_assert_int_eq(attachment_open("/nonexistent/socket", &hello, 50, &a, &why),
			 -SPLIT_E_SHEPHERD_ATTACH_CLOSED);
	ck_assert_str_ne(why.text, "");
}
END_TEST

START_TEST(config_out_of_range)
{
	struct endpoint_config config = pair_config();
	struct endpoint *e;
	struct attach_request request = {.name = "x", .pid = getpid()};

	config.request_slots = 12;
	ck_assert_int_eq(endpoint_create(&config, &request, &e), -SPLIT_E_SHEPHERD_GEOMETRY);
	config = pair_config();
	config.to_host_bytes = 8192;
	ck_assert_int_eq(endpoint_create(&config, &request, &e), -SPLIT_E_SHEPHERD_GEOMETRY);
	config = pair_config();
	config.to_host_bytes = 1ull << 37;
	config.hugepages = true;
	ck_assert_int_eq(endpoint_create(&config, &request, &e), -SPLIT_E_SHEPHERD_MEMORY);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("shepherd/attach");
	TCase *t = tcase_create("attach");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, good);
	tcase_add_test(t, goodbye_and_close);
	tcase_add_test(t, wrong_version);
	tcase_add_test(t, wrong_layout);
	tcase_add_test(t, wrong_uid);
	tcase_add_loop_test(t, truncated, 1, (int)sizeof(struct attach_hello_packet));
	tcase_add_loop_test(t, bad_fields, 0, 11);
	tcase_add_test(t, oversized);
	tcase_add_test(t, out_of_order);
	tcase_add_test(t, descriptors_uninvited);
	tcase_add_loop_test(t, blob_parts, 0, 2);
	tcase_add_loop_test(t, bad_bases, 0, 8);
	tcase_add_loop_test(t, segment_tampered, 0, 3);
	tcase_add_test(t, garbage);
	tcase_add_test(t, blob_round_trip_and_damage);
	tcase_add_test(t, too_large_for_the_host_side);
	tcase_add_test(t, config_out_of_range);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
