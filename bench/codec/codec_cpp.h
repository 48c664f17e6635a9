/* C++ protobuf for split-perf codec: makes the messages, and is one of the engines. */
#ifndef SPLITD_BENCH_CODEC_CPP_H
#define SPLITD_BENCH_CODEC_CPP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Serialized message of type "bench.<name>", `variant` seeds and sizes it. malloc'd; NULL when
 * there is no such type. The same variant gives the same bytes. */
uint8_t *codec_cpp_make(const char *name, unsigned variant, size_t *bytes_out);

/* One type's parser with an arena of its own that is reset each time. NULL: no such type. */
struct codec_cpp;
struct codec_cpp *codec_cpp_create(const char *name);
void codec_cpp_destroy(struct codec_cpp *codec);
/* Parse; 0 when it is good. */
int codec_cpp_parse(struct codec_cpp *codec, const uint8_t *wire, size_t bytes);
/* Keep one parsed message (slot) to serialize again and again. */
int codec_cpp_keep(struct codec_cpp *codec, unsigned slot, const uint8_t *wire, size_t bytes);
/* Serialize slot into `out`; bytes written. */
size_t codec_cpp_serialize(struct codec_cpp *codec, unsigned slot, uint8_t *out, size_t room);

#ifdef __cplusplus
}
#endif

#endif
