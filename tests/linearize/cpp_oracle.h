/* What C++ libprotobuf says: random schemas made with it, and its verdict on wire bytes. */
#ifndef SPLITD_TESTS_LINEARIZE_CPP_ORACLE_H
#define SPLITD_TESTS_LINEARIZE_CPP_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct oracle;

/* A random file: proto2 or proto3, all types and labels, oneofs, maps, defaults, proto3 optional,
 * groups, nesting and recursion. The root type is "random.M0". */
struct oracle *oracle_create(uint64_t seed);
void oracle_destroy(struct oracle *o);
/* Its serialised FileDescriptorSet; lives as long as `o`. */
const uint8_t *oracle_set(const struct oracle *o, size_t *len_out);

/* Does C++ build every file of a serialised FileDescriptorSet, in its order? What it says against
 * one goes to standard error. */
bool oracle_builds(const uint8_t *set, size_t len);

struct verdict {
	bool accepted;
	bool partial;       /* accepted but for required fields */
	bool text_with_nul; /* a string holds a NUL, which a C string cannot */
	bool negative_zero; /* a proto3 number without presence is -0.0 */
	uint8_t *canonical; /* of a partial one: deterministic bytes, malloc'd */
	size_t canonical_len;
};

/* The caller frees v->canonical. */
void oracle_judge(const struct oracle *o, const uint8_t *wire, size_t len, struct verdict *v);

/* A random message of the root type as C++ writes it, malloc'd: groups, NULs in strings and -0.0
 * too, and at times without required fields. */
uint8_t *oracle_make(const struct oracle *o, uint64_t seed, size_t *len_out);

/* To standard error: the message as C++ reads it. */
void oracle_tell(const struct oracle *o, const char *title, const uint8_t *wire, size_t len);

/* Any type reachable has a required field with a default, or a group field. */
bool oracle_has_required_default(const struct oracle *o);
bool oracle_has_group(const struct oracle *o);

#ifdef __cplusplus
}
#endif

#endif
