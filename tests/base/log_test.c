#include "base_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

static char last[8192];
static unsigned lines;
static enum log_level last_level;

static void sink(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	snprintf(last, sizeof(last), "%s", line);
	last_level = level;
	lines++;
}

static void setup(void)
{
	lines = 0;
	log_level_set(LOG_LEVEL_INFO);
	log_sink_set(sink, NULL);
}

START_TEST(one_line_whatever_the_text)
{
	char big[3 * LOG_TEXT_MAX];

	setup();
	log_error("name \"%s\"", "a\nb\x1b[31m\xff");
	ck_assert_uint_eq(lines, 1);
	ck_assert_ptr_nonnull(strstr(last, "error name \"a\\x0ab\\x1b[31m\\xff\""));
	ck_assert_ptr_null(strchr(last, '\n'));
	memset(big, '\n', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	log_warn("%s", big);
	ck_assert_uint_eq(lines, 2);
	ck_assert_str_eq(last + strlen(last) - 3, "...");
	ck_assert_uint_lt(strlen(last), 4 * LOG_TEXT_MAX + 80);
}
END_TEST

START_TEST(levels)
{
	setup();
	log_debug("not shown");
	ck_assert_uint_eq(lines, 0);
	log_level_set(LOG_LEVEL_DEBUG);
	log_debug("shown %d", 1);
	ck_assert_uint_eq(lines, 1);
	ck_assert_int_eq(last_level, LOG_LEVEL_DEBUG);
	log_level_set(LOG_LEVEL_ERROR);
	log_warn("not shown");
	ck_assert_uint_eq(lines, 1);
}
END_TEST

START_TEST(ring_in_order_and_bounded)
{
	struct log_ring ring;

	setup();
	ck_assert_int_eq(log_ring_init(&ring, "worker 0", 0), -SPLIT_E_BASE_INVALID);
	ck_assert_int_eq(log_ring_init(&ring, "worker 0", 3), 0);
	for (int i = 0; i < 7; i++)
		log_ring_msg(&ring, clock_ns(), LOG_LEVEL_INFO, "record %d", i);
	ck_assert_uint_eq(log_ring_drain(&ring, 3), 3);
	ck_assert_ptr_nonnull(strstr(last, "3 log records dropped"));
	ck_assert_uint_eq(log_ring_drain(&ring, 10), 1);
	ck_assert_ptr_nonnull(strstr(last, "worker 0: record 3"));
	ck_assert_uint_eq(log_ring_drain(&ring, 10), 0);
	for (int i = 0; i < 1000; i++) {
		log_ring_msg(&ring, 0, LOG_LEVEL_WARN, "again %d", i);
		ck_assert_uint_eq(log_ring_drain(&ring, 10), 1);
	}
	ck_assert_ptr_nonnull(strstr(last, "again 999"));
	log_ring_msg(&ring, 0, LOG_LEVEL_WARN, "%0400d", 7);
	ck_assert_uint_eq(log_ring_drain(&ring, 10), 1);
	ck_assert_str_eq(last + strlen(last) - 3, "...");
	log_ring_fini(&ring);
}
END_TEST

static char *whole;

static void sink_whole(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	free(whole);
	whole = strdup(line);
}

/* A line of any length comes whole, and stays one line. */
START_TEST(long_lines)
{
	size_t n = 100000;
	char *text = malloc(n + 1);

	log_level_set(LOG_LEVEL_INFO);
	log_sink_set(sink_whole, NULL);
	memset(text, 'x', n);
	memcpy(text, "a\nb\x7f\xff", 5);
	text[n] = '\0';
	log_long(LOG_LEVEL_WARN, "worker 3", clock_ns(), text);
	ck_assert_ptr_nonnull(whole);
	ck_assert_ptr_nonnull(strstr(whole, "Z warn  worker 3: a?b??xxxx"));
	ck_assert_uint_eq(strlen(strstr(whole, "a?b")), n);
	free(whole);
	whole = NULL;
	log_long(LOG_LEVEL_DEBUG, "worker 3", clock_ns(), text);
	ck_assert_ptr_null(whole);
	free(text);
}
END_TEST

START_TEST(limit)
{
	struct log_limit l = {0};
	uint32_t held;
	unsigned passed = 0;

	for (int i = 0; i < 100; i++)
		passed += log_limit_pass(&l, 1000 + i, 5, 1000, &held);
	ck_assert_uint_eq(passed, 5);
	ck_assert(log_limit_pass(&l, 2100, 5, 1000, &held));
	ck_assert_uint_eq(held, 95);
	ck_assert(log_limit_pass(&l, 2101, 5, 1000, &held));
	ck_assert_uint_eq(held, 0);
}
END_TEST

BASE_CHECK_MAIN("log", one_line_whatever_the_text, levels, ring_in_order_and_bounded, long_lines,
		limit)
