/* What split-perf isolation calls and its hosts do: bench.exchange.Exchange/Settle in C. The same
 * in C++ is bench/peers/grpcpp_exchange.cc; both answer the same bytes, and the bench checks them.
 */
#ifndef SPLITD_BENCH_EXCHANGE_H
#define SPLITD_BENCH_EXCHANGE_H

#include <stddef.h>
#include <stdint.h>

#include "exchange.pb-c.h"

/* Where an invoice's parts come from: uninitialised memory, or NULL. */
struct exchange_room {
	void *(*get)(void *ctx, size_t bytes);
	void *ctx;
};

/* Fill in `out` for `order`, its parts in `room`. Strings of the order are copied. 0, or -1 without
 * memory or for an item without a price. */
int exchange_settle(const Bench__Exchange__Order *order, const struct exchange_room *room,
		    Bench__Exchange__Invoice *out);

/* The wire bytes of an order of about `bytes` (within an item of them, 190 B), the same for the
 * same arguments, and of its invoice. Five bytes of gRPC's prefix come first in each. Both to be
 * freed by the caller. 0, or -1 without memory. */
int exchange_bytes(uint32_t bytes, uint32_t busy_ns, uint8_t **request_out, size_t *request_bytes,
		   uint8_t **reply_out, size_t *reply_bytes);

#endif
