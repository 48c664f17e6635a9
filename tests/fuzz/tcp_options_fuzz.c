/* TCP options: whatever comes, the parser ends, stays inside, and what it read can be written and
 * read again with the same meaning. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/net/tcp_opt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t written[TCP_OPTIONS_BYTES_MAX];
	struct tcp_options o, again;
	size_t len;

	if (tcp_options_parse(data, size, &o) != 0)
		return 0;
	if (o.sack_n > TCP_SACK_BLOCKS_MAX || o.wscale > TCP_WSCALE_MAX)
		abort();
	len = tcp_options_write(written, &o);
	if (len > TCP_OPTIONS_BYTES_MAX || len % 4 != 0 ||
	    tcp_options_parse(written, len, &again) != 0)
		abort();
	if (again.sack_n > o.sack_n ||
	    memcmp(again.sack, o.sack, again.sack_n * sizeof(o.sack[0])) != 0)
		abort();
	again.sack_n = o.sack_n;
	memcpy(again.sack, o.sack, sizeof(o.sack));
	if (again.has_mss != o.has_mss || again.mss != o.mss || again.has_wscale != o.has_wscale ||
	    again.wscale != o.wscale || again.has_timestamp != o.has_timestamp ||
	    again.ts_value != o.ts_value || again.ts_echo != o.ts_echo ||
	    again.sack_permitted != o.sack_permitted)
		abort();
	return 0;
}
