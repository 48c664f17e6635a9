/* The text forms of gRPC's metadata (PROTOCOL-HTTP2), for both ends: pure functions. */
#ifndef SPLITD_DAEMON_GRPC_GRPC_TEXT_H
#define SPLITD_DAEMON_GRPC_GRPC_TEXT_H

#include "daemon/grpc/grpc.h"

/* Base64 (RFC 4648 s4) with or without padding; returns bytes written (at most n/4*3 + 2) or
 * -SPLIT_E_GRPC_MALFORMED. */
ssize_t grpc_base64_decode(const char *p, size_t n, uint8_t *dst) SPLIT_MUST_USE;
/* Without padding; returns grpc_base64_bytes(n). */
size_t grpc_base64_encode(const uint8_t *p, size_t n, char *dst);
static inline size_t grpc_base64_bytes(size_t n)
{
	return n / 3 * 4 + (n % 3 == 0 ? 0 : n % 3 + 1);
}
/* grpc-message; returns bytes written, at most 3 * n and dst_max, never half of an escape. */
size_t grpc_percent_encode(const char *p, size_t n, char *dst, size_t dst_max);
bool grpc_name_is_bin(const char *name, size_t n);
/* May an application send a field of this name, with this value (for "-bin": any value)? */
bool grpc_metadata_valid(const struct grpc_metadata *md);
/* Undo grpc_percent_encode; escapes that are none stay as they are. `dst` may be `p`; returns bytes
 * written, at most n. */
size_t grpc_percent_decode(const char *p, size_t n, char *dst);
/* grpc-timeout: at most 8 digits and a unit, rounded up (never 0); NUL-terminated. Returns its
 * length. */
#define GRPC_TIMEOUT_TEXT_MAX 16
size_t grpc_timeout_format(uint64_t ns, char text[GRPC_TIMEOUT_TEXT_MAX]);

#endif
