/* protoc-gen-split: C for splitd from .proto files.
 *
 * One run answers one CodeGeneratorRequest, as protoc hands it to its plugins on stdin, with one
 * CodeGeneratorResponse. Whatever is wrong with the input is told in the response's `error`, with
 * file, line and column where these are known; docs/COMPILER.md describes what is generated.
 *
 * Any thread; no state. The request may be hostile.
 */
#ifndef SPLITD_LINEARIZE_COMPILER_COMPILER_H
#define SPLITD_LINEARIZE_COMPILER_COMPILER_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* `*out`, by malloc, is a serialised CodeGeneratorResponse: of files, or of an error (the result is
 * 0 all the same). -SPLIT_E_BASE_NOMEM: there is none. */
SPLIT_MUST_USE int compiler_run(const uint8_t *request, size_t len, uint8_t **out, size_t *len_out);

#endif
