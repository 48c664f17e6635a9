/* Logging: lines to stderr for control threads, and a ring for each worker.
 *
 * log_msg() writes one line by one write(2): control threads and start-up only. A worker uses a
 * log_ring: it formats into a bounded record with no lock, no system call and no allocation (do not
 * print floating point there); one control thread drains all rings. A full ring drops the new
 * record and counts it; the drain reports the count.
 *
 * Text may hold what a peer sent: control characters and bytes past ASCII are written as \xHH, so a
 * line is always one line. Lines are bounded (LOG_TEXT_MAX); longer ones end in "...".
 */
#ifndef SPLITD_BASE_LOG_H
#define SPLITD_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bits.h"
#include "base/error.h"

enum log_level {
	LOG_LEVEL_ERROR = 0,
	LOG_LEVEL_WARN = 1,
	LOG_LEVEL_INFO = 2,
	LOG_LEVEL_DEBUG = 3,
};

/* Longest text of log_msg, and of a ring's record (which with its header is 256 bytes). */
#define LOG_TEXT_MAX        1024
#define LOG_RECORD_TEXT_MAX 240

/* Records above this level are not formatted. Any thread. Default: info. */
void log_level_set(enum log_level level);
enum log_level log_level_get(void);
const char *log_level_name(enum log_level level);

/* Where lines go (without newline) instead of stderr; NULL: stderr again. Before threads start. */
void log_sink_set(void (*sink)(void *ctx, enum log_level level, const char *line), void *ctx);

/* One line. Control threads. */
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_msg(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* One line of any length: `text` is printable ASCII (other characters are written as '?') and goes
 * out whole. `who` stands before it as a ring's name does; `now_ns`: when it was, as of clock_ns().
 * Control threads. */
void log_long(enum log_level level, const char *who, uint64_t now_ns, const char *text);

struct log_record {
	uint64_t now_ns; /* the writer's monotonic clock */
	uint16_t len;
	uint8_t level;
	uint8_t pad[5];
	char text[LOG_RECORD_TEXT_MAX];
};

_Static_assert(sizeof(struct log_record) == 256, "a record is four cache lines");

/* Single producer (a worker), single consumer (the draining control thread). Fields are grouped by
 * writer, each group on a cache line of its own. */
struct log_ring {
	struct log_record *records;
	uint32_t mask;
	char name[20];
	cache_aligned uint64_t tail; /* producer */
	uint64_t dropped;            /* producer */
	cache_aligned uint64_t head; /* consumer */
	uint64_t dropped_seen;       /* consumer */
};

/* `records`: rounded up to a power of two, at most 65,536. `name` stands in each line ("worker 0").
 * 0, -SPLIT_E_BASE_INVALID or -SPLIT_E_BASE_NOMEM. */
int log_ring_init(struct log_ring *r, const char *name, uint32_t records) SPLIT_MUST_USE;
void log_ring_fini(struct log_ring *r);

/* Producer. Bounded work, never blocks. */
void log_ring_msg(struct log_ring *r, uint64_t now_ns, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Consumer: write out at most `budget` records. Returns how many. */
unsigned log_ring_drain(struct log_ring *r, unsigned budget);

/* Rate limit: at most `burst` in each `interval_ns`. One thread each; zeroed is ready. */
struct log_limit {
	uint64_t window_ns; /* start of the running window */
	uint32_t passed;
	uint32_t suppressed;
};

/* Whether to log now. When a window opens, *suppressed_out (may be NULL) says how many were held
 * back in the windows before; else it is 0. */
bool log_limit_pass(struct log_limit *l, uint64_t now_ns, uint32_t burst, uint64_t interval_ns,
		    uint32_t *suppressed_out);

#endif
