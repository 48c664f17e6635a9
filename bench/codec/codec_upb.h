/* upb for split-perf codec: the library inside Debian's gRPC (libgrpc29's libupb.so). No header of
 * it is packaged, so codec_upb.c declares the few functions that it calls. */
#ifndef SPLITD_BENCH_CODEC_UPB_H
#define SPLITD_BENCH_CODEC_UPB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct codec_upb;

/* Serialised FileDescriptorProtos, imports before who imports them, and the type's full name. NULL:
 * not built with upb, or it does not take the type. */
struct codec_upb *codec_upb_create(const uint8_t *const *files, const size_t *bytes, size_t n,
				   const char *type);
void codec_upb_destroy(struct codec_upb *codec);
/* Decode, copying strings or pointing into `wire`. 0 when it is good. */
int codec_upb_decode(struct codec_upb *codec, const uint8_t *wire, size_t bytes, bool alias);
/* Keep parsed messages, to be encoded again and again. */
int codec_upb_room(struct codec_upb *codec, unsigned n);
int codec_upb_keep(struct codec_upb *codec, unsigned slot, const uint8_t *wire, size_t bytes);
/* Bytes written (into an arena of its own); SIZE_MAX: it failed. */
size_t codec_upb_encode(struct codec_upb *codec, unsigned slot);

#endif
