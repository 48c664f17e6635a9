#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define LOG_RECORDS_MAX 65536u

/* Time, level, a ring's name; then text of which each byte may take four. */
#define LOG_PREFIX_MAX 80
#define LOG_LINE_MAX   (LOG_PREFIX_MAX + 4 * LOG_TEXT_MAX + 1)

static int log_level_now = LOG_LEVEL_INFO;
static void (*log_sink)(void *ctx, enum log_level level, const char *line);
static void *log_sink_ctx;

void log_level_set(enum log_level level)
{
	__atomic_store_n(&log_level_now, (int)level, __ATOMIC_RELAXED);
}

enum log_level log_level_get(void)
{
	return (enum log_level)__atomic_load_n(&log_level_now, __ATOMIC_RELAXED);
}

const char *log_level_name(enum log_level level)
{
	static const char *const names[] = {"error", "warn", "info", "debug"};

	return (unsigned)level < ARRAY_LEN(names) ? names[level] : "?";
}

void log_sink_set(void (*sink)(void *ctx, enum log_level level, const char *line), void *ctx)
{
	log_sink = sink;
	log_sink_ctx = ctx;
}

/* Append `text` with everything but printable ASCII escaped. `dst` has room for 4 * len. */
static size_t log_escape(char *dst, const char *text, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c >= 0x20 && c < 0x7f) {
			dst[n++] = (char)c;
			continue;
		}
		dst[n++] = '\\';
		dst[n++] = 'x';
		dst[n++] = hex[c >> 4];
		dst[n++] = hex[c & 15];
	}
	return n;
}

/* Time, level and who says it, in LOG_PREFIX_MAX bytes. Returns how many. */
static size_t log_prefix(char *line, uint64_t wall_ns, enum log_level level, const char *who)
{
	time_t sec = (time_t)(wall_ns / CLOCK_NS_PER_SEC);
	struct tm tm;
	size_t n;

	gmtime_r(&sec, &tm);
	n = strftime(line, LOG_PREFIX_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(line + n, LOG_PREFIX_MAX - n, ".%03uZ %-5s %.20s%s",
			      (unsigned)(wall_ns / CLOCK_NS_PER_MS % 1000), log_level_name(level),
			      who, who[0] != '\0' ? ": " : "");
	return n;
}

/* `line` has room for one byte more than its `n`. */
static void log_write(enum log_level level, char *line, size_t n)
{
	if (log_sink != NULL) {
		line[n] = '\0';
		log_sink(log_sink_ctx, level, line);
		return;
	}
	line[n++] = '\n';
	/* A log that cannot be written has nowhere to complain. */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}

static void log_line(uint64_t wall_ns, enum log_level level, const char *who, const char *text,
		     size_t len)
{
	char line[LOG_LINE_MAX + 1];
	size_t n = log_prefix(line, wall_ns, level, who);

	log_write(level, line, n + log_escape(line + n, text, len));
}

/* The wall clock at `mono_ns` of clock_ns(). */
static uint64_t log_wall_ns(uint64_t mono_ns)
{
	uint64_t now_ns = clock_ns(), wall_ns = clock_wall_ns();
	uint64_t age_ns = mono_ns < now_ns ? now_ns - mono_ns : 0;

	return wall_ns - (age_ns < wall_ns ? age_ns : 0);
}

void log_long(enum log_level level, const char *who, uint64_t now_ns, const char *text)
{
	size_t len = strlen(text), n;
	char *line;

	if (level > log_level_get())
		return;
	line = malloc(LOG_PREFIX_MAX + len + 1);
	if (line == NULL)
		return;
	n = log_prefix(line, log_wall_ns(now_ns), level, who);
	for (size_t i = 0; i < len; i++)
		line[n++] = (char)(text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?');
	log_write(level, line, n);
	free(line);
}

/* vsnprintf into `size` bytes; an overlong text ends in "...". Returns its length. */
static size_t log_format(char *text, size_t size, const char *fmt, va_list ap)
{
	int n = vsnprintf(text, size, fmt, ap);

	if (n < 0)
		return 0;
	if ((size_t)n < size)
		return (size_t)n;
	memcpy(text + size - 4, "...", 4);
	return size - 1;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	char text[LOG_TEXT_MAX];
	va_list ap;
	size_t len;

	if (level > log_level_get())
		return;
	va_start(ap, fmt);
	len = log_format(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_line(clock_wall_ns(), level, "", text, len);
}

int log_ring_init(struct log_ring *r, const char *name, uint32_t records)
{
	memset(r, 0, sizeof(*r));
	if (records == 0 || records > LOG_RECORDS_MAX)
		return -SPLIT_E_BASE_INVALID;
	records = (uint32_t)pow2_up(records);
	r->records = calloc(records, sizeof(*r->records));
	if (r->records == NULL)
		return -SPLIT_E_BASE_NOMEM;
	r->mask = records - 1;
	snprintf(r->name, sizeof(r->name), "%s", name);
	return 0;
}

void log_ring_fini(struct log_ring *r)
{
	free(r->records);
	r->records = NULL;
}

void log_ring_msg(struct log_ring *r, uint64_t now_ns, enum log_level level, const char *fmt, ...)
{
	uint64_t tail = r->tail;
	struct log_record *rec;
	va_list ap;

	if (level > log_level_get())
		return;
	/* Acquire: the consumer has done with the record before we write over it. */
	if (tail - __atomic_load_n(&r->head, __ATOMIC_ACQUIRE) > r->mask) {
		__atomic_store_n(&r->dropped, r->dropped + 1, __ATOMIC_RELAXED);
		return;
	}
	rec = &r->records[tail & r->mask];
	rec->now_ns = now_ns;
	rec->level = (uint8_t)level;
	va_start(ap, fmt);
	rec->len = (uint16_t)log_format(rec->text, sizeof(rec->text), fmt, ap);
	va_end(ap);
	/* Release: the record is whole before the consumer sees it. */
	__atomic_store_n(&r->tail, tail + 1, __ATOMIC_RELEASE);
}

unsigned log_ring_drain(struct log_ring *r, unsigned budget)
{
	uint64_t head = r->head;
	uint64_t tail = __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE);
	uint64_t dropped = __atomic_load_n(&r->dropped, __ATOMIC_RELAXED);
	uint64_t mono_ns = clock_ns();
	uint64_t wall_ns = clock_wall_ns();
	unsigned n = 0;

	for (; head != tail && n < budget; head++, n++) {
		const struct log_record *rec = &r->records[head & r->mask];
		uint64_t age_ns = rec->now_ns < mono_ns ? mono_ns - rec->now_ns : 0;

		log_line(wall_ns - (age_ns < wall_ns ? age_ns : 0), (enum log_level)rec->level,
			 r->name, rec->text, rec->len);
	}
	__atomic_store_n(&r->head, head, __ATOMIC_RELEASE);
	if (dropped != r->dropped_seen) {
		char text[64];
		int len = snprintf(text, sizeof(text), "%llu log records dropped (ring full)",
				   (unsigned long long)(dropped - r->dropped_seen));

		r->dropped_seen = dropped;
		log_line(wall_ns, LOG_LEVEL_WARN, r->name, text, (size_t)len);
	}
	return n;
}

bool log_limit_pass(struct log_limit *l, uint64_t now_ns, uint32_t burst, uint64_t interval_ns,
		    uint32_t *suppressed_out)
{
	if (suppressed_out != NULL)
		*suppressed_out = 0;
	if (l->window_ns == 0 || now_ns - l->window_ns >= interval_ns) {
		if (suppressed_out != NULL)
			*suppressed_out = l->suppressed;
		l->window_ns = now_ns != 0 ? now_ns : 1;
		l->passed = 0;
		l->suppressed = 0;
	}
	if (l->passed < burst) {
		l->passed++;
		return true;
	}
	l->suppressed++;
	return false;
}
