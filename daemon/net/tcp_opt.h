/* TCP options: read from a received header, written into one to send.
 * RFC 9293 s3.1 and s3.2, RFC 7323 (window scale, timestamps), RFC 2018 (SACK).
 *
 * Any thread; no state.
 */
#ifndef SPLITD_DAEMON_NET_TCP_OPT_H
#define SPLITD_DAEMON_NET_TCP_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TCP_OPTIONS_BYTES_MAX 40 /* data offset is four bits of words, less the fixed header */
#define TCP_SACK_BLOCKS_MAX   4  /* 2 + 4 * 8 = 34 bytes of 40 */
#define TCP_WSCALE_MAX        14 /* RFC 7323 s2.3: larger values mean 14 */

struct tcp_sack_block {
	uint32_t start, end; /* [start, end) */
};

struct tcp_options {
	bool has_mss, has_wscale, has_timestamp, sack_permitted;
	uint8_t wscale; /* at most TCP_WSCALE_MAX */
	uint8_t sack_n;
	uint16_t mss;
	uint32_t ts_value, ts_echo;
	struct tcp_sack_block sack[TCP_SACK_BLOCKS_MAX];
};

/* Read `len` bytes of options, at most TCP_OPTIONS_BYTES_MAX. Unknown kinds are skipped; an option
 * of a known kind with a wrong length is ignored. 0, or -SPLIT_E_NET_MALFORMED where the list
 * cannot be walked: a length below 2 or past the end. *out is set either way to what was read until
 * then. */
int tcp_options_parse(const uint8_t *p, size_t len, struct tcp_options *out);

/* Write what `o` has into `p` (room for TCP_OPTIONS_BYTES_MAX), padded to a multiple of 4 with NOPs
 * in front so that timestamps lie aligned. SACK blocks that do not fit are left out. Returns the
 * bytes written. */
size_t tcp_options_write(uint8_t p[TCP_OPTIONS_BYTES_MAX], const struct tcp_options *o);

/* How many SACK blocks fit beside the timestamp option. */
static inline unsigned tcp_options_sack_room(bool timestamps)
{
	return timestamps ? 3 : 4;
}

#endif
