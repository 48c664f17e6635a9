#include "daemon/net/tcp_opt.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"

/* RFC 9293 table 1, RFC 7323, RFC 2018. */
enum tcp_option_kind {
	OPT_END = 0,
	OPT_NOP = 1,
	OPT_MSS = 2,
	OPT_WSCALE = 3,
	OPT_SACK_PERMITTED = 4,
	OPT_SACK = 5,
	OPT_TIMESTAMP = 8,
};

enum {
	OPT_MSS_LEN = 4,
	OPT_WSCALE_LEN = 3,
	OPT_SACK_PERMITTED_LEN = 2,
	OPT_TIMESTAMP_LEN = 10,
	OPT_SACK_BLOCK_LEN = 8,
};

static void option_sack(const uint8_t *p, uint8_t len, struct tcp_options *out)
{
	unsigned n = (len - 2u) / OPT_SACK_BLOCK_LEN;

	if ((len - 2u) % OPT_SACK_BLOCK_LEN != 0 || n > TCP_SACK_BLOCKS_MAX)
		return;
	for (unsigned i = 0; i < n; i++) {
		out->sack[i].start = be32_load(p + 2 + i * OPT_SACK_BLOCK_LEN);
		out->sack[i].end = be32_load(p + 6 + i * OPT_SACK_BLOCK_LEN);
	}
	out->sack_n = (uint8_t)n;
}

static void option_read(const uint8_t *p, uint8_t len, struct tcp_options *out)
{
	switch (p[0]) {
	case OPT_MSS:
		if (len == OPT_MSS_LEN) {
			out->has_mss = true;
			out->mss = be16_load(p + 2);
		}
		break;
	case OPT_WSCALE:
		if (len == OPT_WSCALE_LEN) {
			out->has_wscale = true;
			out->wscale = p[2] > TCP_WSCALE_MAX ? TCP_WSCALE_MAX : p[2];
		}
		break;
	case OPT_SACK_PERMITTED:
		if (len == OPT_SACK_PERMITTED_LEN)
			out->sack_permitted = true;
		break;
	case OPT_SACK:
		option_sack(p, len, out);
		break;
	case OPT_TIMESTAMP:
		if (len == OPT_TIMESTAMP_LEN) {
			out->has_timestamp = true;
			out->ts_value = be32_load(p + 2);
			out->ts_echo = be32_load(p + 6);
		}
		break;
	default:
		break;
	}
}

int tcp_options_parse(const uint8_t *p, size_t len, struct tcp_options *out)
{
	size_t i = 0;

	memset(out, 0, sizeof(*out));
	if (len > TCP_OPTIONS_BYTES_MAX)
		return -SPLIT_E_NET_MALFORMED;
	while (i < len) {
		uint8_t option_len;

		if (p[i] == OPT_END)
			break;
		if (p[i] == OPT_NOP) {
			i++;
			continue;
		}
		/* A length below 2 would not move on: the loop that never ends. */
		if (len - i < 2 || p[i + 1] < 2 || p[i + 1] > len - i)
			return -SPLIT_E_NET_MALFORMED;
		option_len = p[i + 1];
		option_read(p + i, option_len, out);
		i += option_len;
	}
	return 0;
}

size_t tcp_options_write(uint8_t p[TCP_OPTIONS_BYTES_MAX], const struct tcp_options *o)
{
	size_t n = 0;

	if (o->has_mss) {
		p[n] = OPT_MSS;
		p[n + 1] = OPT_MSS_LEN;
		be16_store(p + n + 2, o->mss);
		n += OPT_MSS_LEN;
	}
	if (o->sack_permitted) {
		p[n] = OPT_NOP;
		p[n + 1] = OPT_NOP;
		p[n + 2] = OPT_SACK_PERMITTED;
		p[n + 3] = OPT_SACK_PERMITTED_LEN;
		n += 4;
	}
	if (o->has_wscale) {
		p[n] = OPT_NOP;
		p[n + 1] = OPT_WSCALE;
		p[n + 2] = OPT_WSCALE_LEN;
		p[n + 3] = o->wscale;
		n += 4;
	}
	if (o->has_timestamp) {
		p[n] = OPT_NOP;
		p[n + 1] = OPT_NOP;
		p[n + 2] = OPT_TIMESTAMP;
		p[n + 3] = OPT_TIMESTAMP_LEN;
		be32_store(p + n + 4, o->ts_value);
		be32_store(p + n + 8, o->ts_echo);
		n += 12;
	}
	if (o->sack_n > 0 && n + 4 + OPT_SACK_BLOCK_LEN <= TCP_OPTIONS_BYTES_MAX) {
		unsigned fit = (unsigned)((TCP_OPTIONS_BYTES_MAX - n - 4) / OPT_SACK_BLOCK_LEN);
		unsigned blocks = o->sack_n < fit ? o->sack_n : fit;

		p[n] = OPT_NOP;
		p[n + 1] = OPT_NOP;
		p[n + 2] = OPT_SACK;
		p[n + 3] = (uint8_t)(2 + blocks * OPT_SACK_BLOCK_LEN);
		n += 4;
		for (unsigned i = 0; i < blocks; i++, n += OPT_SACK_BLOCK_LEN) {
			be32_store(p + n, o->sack[i].start);
			be32_store(p + n + 4, o->sack[i].end);
		}
	}
	return n;
}
