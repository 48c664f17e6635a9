/* C++ protobuf for split-perf codec: makes the messages of the built-in sets, and is one of the
 * engines, with generated code (arena for parsing) or, where there is none, DynamicMessage. */
#ifndef SPLITD_BENCH_CODEC_CPP_H
#define SPLITD_BENCH_CODEC_CPP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Serialized message of type "bench.<name>", `variant` seeds and sizes it. malloc'd; NULL when
 * there is no such type. The same variant gives the same bytes. */
uint8_t *codec_cpp_make(const char *name, unsigned variant, size_t *bytes_out);

/* The FileDescriptorProto of a type of generated code in this process. malloc'd; NULL: none. */
uint8_t *codec_cpp_file(const char *type, size_t *bytes_out);

/* One type's parser with an arena of its own that is reset each time. NULL: no such type. */
struct codec_cpp;
/* Of generated code in this process, by full name. */
struct codec_cpp *codec_cpp_create(const char *type);
/* Of a serialised FileDescriptorSet, by reflection: DynamicMessage. NULL: it is not sound. */
struct codec_cpp *codec_cpp_create_dynamic(const uint8_t *set, size_t bytes, const char *type);
void codec_cpp_destroy(struct codec_cpp *codec);
/* Parse; 0 when it is good. */
int codec_cpp_parse(struct codec_cpp *codec, const uint8_t *wire, size_t bytes);
/* Keep `n` parsed messages to serialize again and again; then set one. */
int codec_cpp_room(struct codec_cpp *codec, unsigned n);
int codec_cpp_keep(struct codec_cpp *codec, unsigned slot, const uint8_t *wire, size_t bytes);
/* Serialize slot into `out` as SerializeToArray does: a size pass, then one that writes. Bytes
 * written; SIZE_MAX when `room` does not do. */
size_t codec_cpp_serialize(struct codec_cpp *codec, unsigned slot, uint8_t *out, size_t room);

/* Are the file's types in this process already, as generated code? */
bool codec_cpp_has_file(const char *name);
/* Does the set hold the same file as generated code in this process does? */
bool codec_cpp_same_type(const uint8_t *set, size_t bytes, const char *type);

#ifdef __cplusplus
}
#endif

#endif
