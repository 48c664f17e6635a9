/* A link's output: in order and whole while it is never idle, in bounded memory, and an end to a
 * peer that does not read. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "remote/remote_internal.h"

static struct remote_link *a, *b;

static void setup(void)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	ck_assert_int_eq(link_create(fds[0], NULL, false, &a), 0);
	ck_assert_int_eq(link_create(fds[1], NULL, true, &b), 0);
	link_frame_max_set(b, 1 << 20);
}

static void teardown(void)
{
	link_destroy(a);
	link_destroy(b);
}

/* What a frame is made of, by its number. */
static void fill(uint8_t *body, size_t bytes, unsigned number)
{
	for (size_t i = 0; i < bytes; i++)
		body[i] = (uint8_t)(number * 31 + i * 7);
}

static unsigned frames_read(unsigned from)
{
	static uint8_t expected[1 << 20];
	struct remote_frame f;

	if (link_read(b, 1) < 0)
		ck_abort_msg("%s", link_cause(b));
	while (link_frame(b, &f) == 1) {
		fill(expected, f.bytes, from++);
		ck_assert_int_eq(f.type, REMOTE_SLOT);
		ck_assert_mem_eq(f.body, expected, f.bytes);
	}
	return from;
}

START_TEST(busy_link_keeps_its_size)
{
	enum { FRAMES = 3000, LEAST = 300 << 10 };
	unsigned put = 0, got = 0;
	size_t bytes, room = 0;
	uint8_t *body;

	while (got < FRAMES) {
		/* Never idle until all was put. */
		while (put < FRAMES && link_backlog(a) < LEAST) {
			bytes = (size_t)8 * (1 + put * 7919 % 8000);
			body = link_put(a, REMOTE_SLOT, bytes);
			ck_assert_ptr_nonnull(body);
			fill(body, bytes, put++);
		}
		ck_assert_int_ge(link_flush(a), 0);
		if (put < FRAMES)
			ck_assert_uint_gt(link_backlog(a), 0);
		got = frames_read(got);
		if (a->out_room > room)
			room = a->out_room;
	}
	ck_assert_uint_eq(got, FRAMES);
	ck_assert_uint_le(room, 4 * LEAST); /* of some 96 MB that went through */
}
END_TEST

START_TEST(peer_that_does_not_read)
{
	const uint8_t body[64] = {0};
	size_t most = 0;
	int rc = 0;

	for (unsigned i = 0; i < 2000000 && rc == 0; i++) {
		rc = link_say(a, REMOTE_PULSE, body, sizeof(body));
		if (link_backlog(a) > most)
			most = link_backlog(a);
		if (rc == 0)
			ck_assert_int_ge(link_flush(a), 0);
	}
	ck_assert_int_eq(rc, -SPLIT_E_REMOTE_SILENT);
	ck_assert_str_eq(link_cause(a), "the peer does not read");
	ck_assert_uint_lt(most, 32u << 20);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("remote/link");
	TCase *tc = tcase_create("link");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, busy_link_keeps_its_size);
	tcase_add_test(tc, peer_that_does_not_read);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? 0 : 1;
}
