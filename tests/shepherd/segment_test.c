/* Segments: who may write what, in both page sizes; holes; SIGBUS; death of the process. */
#include "tests/shepherd/harness.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shepherd/shepherd_internal.h"

/* Loop index 0: normal pages, 1: hugepages. */
static bool config_of(int i, struct endpoint_config *config)
{
	*config = pair_config();
	if (i == 0)
		return true;
	config->hugepages = true;
	config->to_host_bytes = config->to_daemon_bytes = 4 << 20;
	if (hugepages_there(4))
		return true;
	printf("skipped: no hugepages\n");
	return false;
}

static int expect(bool ok, int code)
{
	return ok ? 0 : code;
}

/* In the host, with the descriptors of the offer kept by hand: every way to more rights. Returns
 * where it found one. */
static int try_everything(int to_host, int to_daemon, uint8_t *host_mem, uint8_t *daemon_mem,
			  size_t bytes)
{
	const int rw = PROT_READ | PROT_WRITE;
	char path[64];
	int fd, rc = 0;

	/* to-host: read only, for good. */
	rc |= expect(mmap(NULL, bytes, rw, MAP_SHARED, to_host, 0) == MAP_FAILED && errno == EPERM,
		     1);
	rc |= expect(mprotect(host_mem, bytes, rw) < 0 && errno == EACCES, 2);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", to_host);
	fd = open(path, O_RDWR | O_CLOEXEC);
	rc |= expect(fd < 0 || (mmap(NULL, bytes, rw, MAP_SHARED, fd, 0) == MAP_FAILED &&
				errno == EPERM),
		     4);
	if (fd >= 0)
		close(fd);
	rc |= expect(pwrite(to_host, "x", 1, 0) < 0, 8);
	/* Neither may be cut, grown or punched, by descriptor or through the old mapping. */
	for (int i = 0; i < 2; i++) {
		int target = i == 0 ? to_host : to_daemon;

		rc |= expect(fallocate(target, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				       (off_t)bytes) < 0 &&
				     errno == EPERM,
			     16);
		rc |= expect(ftruncate(target, 0) < 0 && errno == EPERM, 32);
		rc |= expect(ftruncate(target, (off_t)bytes * 2) < 0 && errno == EPERM, 64);
	}
	rc |= expect(madvise(daemon_mem, bytes, MADV_REMOVE) < 0, 128);
	/* No second writable mapping of its own segment either; the first goes on writing. */
	rc |= expect(mmap(NULL, bytes, rw, MAP_SHARED, to_daemon, 0) == MAP_FAILED &&
			     errno == EPERM,
		     256);
	daemon_mem[bytes - 1] = 1;
	return rc;
}

/* A host that does the protocol by hand and keeps its descriptors. */
static int manual_host(int fd)
{
	struct attach_hello_packet hello = {.workers = 1, .name = "test"};
	struct attach_hello h = {.name = "test", .workers = 1};
	struct attach_offer_packet offer;
	struct attach_bases_packet bases;
	struct attach_header active;
	struct attach_received r, r2;
	struct attach_blob_packet *part;
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	uint8_t *blob, *host_mem, *daemon_mem;
	size_t bytes;
	int rc;

	if (attach_blob_make(&h, &blob, &bytes) < 0)
		return 1000;
	hello.blob_bytes = (uint32_t)bytes;
	attach_header_fill(&hello.header, ATTACH_HELLO, sizeof(hello));
	rc = attach_send(fd, &hello, sizeof(hello), NULL, 0);
	part = calloc(1, sizeof(*part) + bytes);
	attach_header_fill(&part->header, ATTACH_BLOB, sizeof(*part) + bytes);
	memcpy(part->bytes, blob, bytes);
	rc |= attach_send(fd, part, sizeof(*part) + bytes, NULL, 0);
	free(part);
	free(blob);
	poll(&pfd, 1, 10000);
	rc |= attach_receive(fd, &offer, sizeof(offer), &r);
	if (rc != 0 || r.fds_n != 3)
		return 1001;
	host_mem = mmap(NULL, offer.to_host_bytes, PROT_READ, MAP_SHARED, r.fds[0], 0);
	daemon_mem =
		mmap(NULL, offer.to_daemon_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r.fds[1], 0);
	if (host_mem == MAP_FAILED || daemon_mem == MAP_FAILED)
		return 1002;
	/* Before it is sealed a hole can still be made; the daemon must fill it in itself. */
	if (fallocate(r.fds[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		      (off_t)offer.to_daemon_bytes) < 0)
		return 1003;
	bases.to_host_base = (uint64_t)(uintptr_t)host_mem;
	bases.to_daemon_base = (uint64_t)(uintptr_t)daemon_mem;
	attach_header_fill(&bases.header, ATTACH_BASES, sizeof(bases));
	rc = attach_send(fd, &bases, sizeof(bases), NULL, 0);
	poll(&pfd, 1, 10000);
	rc |= attach_receive(fd, &active, sizeof(active), &r2);
	if (rc != 0 || active.type != ATTACH_ACTIVE)
		return 1004;
	return try_everything(r.fds[0], r.fds[1], host_mem, daemon_mem, offer.to_host_bytes);
}

START_TEST(sealed)
{
	struct endpoint_config config;
	struct attach_policy policy = {0};
	struct attach_server *server;
	int fds[2], out[2], status, result = -1;
	pid_t pid;

	if (!config_of(_i, &config))
		return;
	config.host_workers = 1;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	ck_assert_int_eq(pipe(out), 0);
	pid = fork();
	if (pid == 0) {
		result = manual_host(fds[1]);
		if (write(out[1], &result, sizeof(result)) < 0)
			_exit(1);
		_exit(0);
	}
	close(fds[1]);
	ck_assert_int_eq(attach_server_create(fds[0], &policy, &server), 0);
	ck_assert_int_eq(serve_attach(server, &config), 0);
	ck_assert_int_eq(read(out[0], &result, sizeof(result)), sizeof(result));
	ck_assert_msg(result == 0, "the host could do %d", result);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	/* Every page is there, and what the host wrote last. */
	ck_assert_uint_eq(attach_server_endpoint(server)->to_daemon.mem[config.to_host_bytes - 1],
			  1);
	attach_server_destroy(server);
	close(out[0]);
	close(out[1]);
}
END_TEST

/* The same way of a request on hugepages as on normal ones. */
static int echo_once(struct attachment *a, void *arg)
{
	struct host_lane *lane = attachment_lane(a, 0, 0);
	const struct slot *s;
	struct slot *c;

	(void)arg;
	host_state_set(a, 0, HOST_POLLING);
	while ((s = host_lane_peek(lane)) == NULL)
		if (!host_park(a, 0, HOST_PARKED, 5000 * MS))
			return 1;
	c = host_lane_reserve(lane, false);
	c->kind = TO_DAEMON_MESSAGE;
	c->flags = SLOT_END_STREAM | SLOT_HAS_STATUS | SLOT_RELEASE_REQUEST | SLOT_HAS_MESSAGE;
	c->call_id = s->call_id;
	c->release = s->info;
	c->msg = (uint64_t)(uintptr_t)attachment_arena(a).mem;
	memcpy(attachment_arena(a).mem, (const void *)(uintptr_t)s->msg, 4096);
	host_lane_commit(lane, c);
	host_lane_ring(lane);
	host_lane_advance(lane);
	/* Until the daemon says it is over. */
	while (attachment_alive(a))
		host_park(a, 0, HOST_PARKED, 5000 * MS);
	return 42;
}

START_TEST(request_across_processes)
{
	struct endpoint_config config;
	struct gathered got = {0};
	struct endpoint_blocks blocks = {0};
	struct endpoint_request r = {
		.kind = TO_HOST_REQUEST, .has_message = true, .blocks = &blocks};
	struct shepherd_chunk c;
	struct pair p;
	uint64_t until;

	if (!config_of(_i, &config))
		return;
	pair_fork(&p, &config, echo_once, NULL);
	ck_assert_int_eq(endpoint_call_open(p.port, &p, &r.call_id), 0);
	ck_assert_int_eq(endpoint_block_get(p.port, &blocks, 4096, &c), 0);
	for (size_t i = 0; i < 4096; i++)
		c.mem[i] = (uint8_t)(i * 31);
	r.msg = (uint64_t)((int64_t)(uintptr_t)c.mem + endpoint_delta(p.port));
	ck_assert_int_eq(endpoint_submit(p.port, 0, &r, now()), 0);
	endpoint_flush(p.port, now());
	until = now() + 10000 * MS;
	while (got.n == 0 && now() < until)
		ck_assert_int_ge(endpoint_poll(p.port, 8, &gather, &got, now()), 0);
	ck_assert_uint_eq(got.n, 1);
	ck_assert_uint_eq(got.c[0].window.bytes,
			  endpoint_geometry(p.endpoint)->to_daemon_arena_bytes);
	for (size_t i = 0; i < 4096; i++)
		ck_assert_uint_eq(got.c[0].window.mem[i], (uint8_t)(i * 31));
	ck_assert_int_eq(pair_close(&p), 42);
}
END_TEST

static int sleep_forever(struct attachment *a, void *arg)
{
	(void)arg;
	for (;;)
		host_park(a, 0, HOST_PARKED, 0);
	return 0;
}

START_TEST(death_by_pidfd)
{
	struct endpoint_config config = pair_config();
	struct pollfd pfd;
	enum attach_event event;
	struct pair p;

	pair_fork(&p, &config, sleep_forever, NULL);
	pfd = (struct pollfd){.fd = endpoint_pidfd(p.endpoint), .events = POLLIN};
	ck_assert_int_eq(endpoint_pid(p.endpoint), p.pid);
	ck_assert_int_eq(poll(&pfd, 1, 50), 0);
	kill(p.pid, SIGKILL);
	ck_assert_int_eq(poll(&pfd, 1, 5000), 1);
	ck_assert_int_eq(attach_server_step(p.server, &event), 0);
	ck_assert_int_eq(event, ATTACH_DETACHED);
	/* Its memory is still ours: nothing faults. */
	ck_assert_int_eq(endpoint_poll(p.port, 8, &gather, NULL, now()), 0);
	ck_assert_int_eq(pair_close(&p), -SIGKILL);
}
END_TEST

START_TEST(references)
{
	struct endpoint_config config = pair_config();
	struct endpoint *e;
	struct pair p;

	pair_open(&p, &config);
	e = p.endpoint;
	endpoint_get(e);
	ck_assert_uint_eq(endpoint_refs(e), 2);
	pair_close(&p);
	ck_assert_uint_eq(endpoint_refs(e), 1);
	ck_assert_str_eq(endpoint_name(e), "test");
	endpoint_put(e);
}
END_TEST

/* A hole in a segment that was never sealed stands for whatever else raises SIGBUS in one. */
START_TEST(sigbus_marks_dead)
{
	struct segment s;
	uint32_t dead = 0;
	volatile const uint8_t *byte;

	ck_assert_int_eq(segment_sigbus_install(), 0);
	ck_assert_int_eq(segment_sigbus_install(), 0);
	ck_assert_int_eq(segment_create(&s, "test", 1 << 20, false, -1, false), 0);
	ck_assert_int_eq(segment_map(&s, false, &dead), 0);
	byte = s.mem + 5000;
	ck_assert_uint_eq(*byte, 0);
	ck_assert_int_eq(ftruncate(s.fd, 0), 0);
	ck_assert_uint_eq(*byte, 0);
	ck_assert_uint_eq(load_acquire(&dead), 1);
	ck_assert_int_eq(segment_seal(&s), -SPLIT_E_SHEPHERD_SEAL);
	segment_destroy(&s);
}
END_TEST

/* One that is not ours goes to who had the signal before: the default, or a sanitizer. */
START_TEST(sigbus_elsewhere_kills)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		int fd = memfd_create("other", MFD_CLOEXEC);
		volatile uint8_t *mem;

		if (freopen("/dev/null", "w", stderr) == NULL || segment_sigbus_install() < 0)
			_exit(0);
		mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		*mem = 1; /* past the file's end */
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0);
}
END_TEST

START_TEST(sigbus_ends_the_endpoint)
{
	struct endpoint_config config = pair_config();
	struct pair p;

	pair_open(&p, &config);
	store_release(&p.endpoint->gone, 1);
	ck_assert_int_eq(endpoint_poll(p.port, 8, &gather, NULL, now()), -SPLIT_E_SHEPHERD_GONE);
	ck_assert_str_ne(endpoint_cause(p.port), "");
	ck_assert(!endpoint_alive(p.endpoint));
	pair_close(&p);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("shepherd/segment");
	TCase *t = tcase_create("segment");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, sealed, 0, 2);
	tcase_add_loop_test(t, request_across_processes, 0, 2);
	tcase_add_test(t, death_by_pidfd);
	tcase_add_test(t, references);
	tcase_add_test(t, sigbus_marks_dead);
	tcase_add_test(t, sigbus_elsewhere_kills);
	tcase_add_test(t, sigbus_ends_the_endpoint);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
