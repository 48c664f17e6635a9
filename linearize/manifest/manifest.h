/* Manifest: the daemon's side of a service, from a file.
 *
 * A manifest is a FileDescriptorSet: methods and their kinds, messages, options
 * (split/options.proto among them) and what reflection shows all follow from it. Two forms are
 * taken:
 *
 *   text    what protoc-gen-split writes (--split_opt=manifest): lines of base64, and lines that
 *           begin with `#`, for people
 *   binary  what protoc --descriptor_set_out --include_imports writes
 *
 * The bytes are hostile. A manifest is immutable; any thread may read it.
 */
#ifndef SPLITD_LINEARIZE_MANIFEST_MANIFEST_H
#define SPLITD_LINEARIZE_MANIFEST_MANIFEST_H

#include "base/error.h"
#include "linearize/descriptor/descriptor.h"

#include <stdint.h>

struct manifest;

/* `*out` is the caller's. 0, -SPLIT_E_BASE_NOMEM, -SPLIT_E_LINEARIZE_PROTO (also: not base64),
 * ..._PROTO_LIMIT, ..._PROTO_EDITION; `finding` (may be NULL) says more. */
SPLIT_MUST_USE int manifest_parse(const void *bytes, size_t len, const struct proto_limits *limits,
				  struct manifest **out, struct proto_finding *finding);

/* The set alone, the caller's (proto_set_destroy). As manifest_parse. */
SPLIT_MUST_USE int manifest_set_parse(const void *bytes, size_t len,
				      const struct proto_limits *limits, struct proto_set **out,
				      struct proto_finding *finding);

/* Read and parse a file; `why` (256 bytes) gets one line when that fails.
 * As manifest_parse; -SPLIT_E_BASE_SYSTEM when it cannot be read. */
SPLIT_MUST_USE int manifest_load(const char *path, struct manifest **out, char why[256]);

/* NULL is fine. */
void manifest_destroy(struct manifest *m);

const struct proto_set *manifest_set(const struct manifest *m);
/* The set itself, serialised; as long as the manifest. */
const uint8_t *manifest_bytes(const struct manifest *m, size_t *len_out);

/* NULL: the manifest does not know it. */
const struct proto_method *manifest_method(const struct manifest *m, const char *service,
					   const char *method,
					   const struct proto_service **service_out);

#endif
