/* TCP sequence numbers: a circle of 2^32. RFC 9293 s3.4.
 *
 * Each comparison is right while the two numbers lie less than 2^31 apart, which windows of at most
 * 1 GiB (RFC 7323) keep true for every number of a live connection.
 */
#ifndef SPLITD_DAEMON_NET_TCP_SEQ_H
#define SPLITD_DAEMON_NET_TCP_SEQ_H

#include <stdbool.h>
#include <stdint.h>

static inline bool seq_lt(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline bool seq_le(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) <= 0;
}

static inline bool seq_gt(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

static inline bool seq_ge(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) >= 0;
}

static inline uint32_t seq_max(uint32_t a, uint32_t b)
{
	return seq_gt(a, b) ? a : b;
}

static inline uint32_t seq_min(uint32_t a, uint32_t b)
{
	return seq_lt(a, b) ? a : b;
}

/* low <= s < low + len, for any distance: a window test. */
static inline bool seq_in(uint32_t s, uint32_t low, uint32_t len)
{
	return s - low < len;
}

#endif
