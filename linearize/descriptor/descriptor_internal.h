/* What the files of linearize/descriptor share. Not for other folders. */
#ifndef SPLITD_LINEARIZE_DESCRIPTOR_INTERNAL_H
#define SPLITD_LINEARIZE_DESCRIPTOR_INTERNAL_H

#include "base/siphash.h"
#include "linearize/descriptor/descriptor.h"

#include <assert.h>
#include <string.h>

#define FIELD_NUMBER_MAX ((1u << 29) - 1)

struct memory_chunk {
	struct memory_chunk *next;
	size_t used, bytes;
	_Alignas(16) uint8_t mem[];
};

enum symbol_kind { SYMBOL_MESSAGE, SYMBOL_ENUM, SYMBOL_SERVICE };

struct symbol {
	const char *name; /* NULL: empty */
	const void *what;
	enum symbol_kind kind;
};

/* What a field's descriptor says by name, until all names are known. */
struct pending_field {
	struct pending_field *next;
	struct proto_field *field;
	const char *type_name, *extendee;
	struct proto_bytes default_text;
	const char *scope; /* full name of the message it is declared in, or the package */
	int32_t oneof;     /* -1: none */
};

struct pending_method {
	struct pending_method *next;
	struct proto_method *method;
	const struct proto_service *service;
	const char *input, *output;
	uint32_t index;
};

struct owned_set {
	struct proto_set set; /* first */
	struct memory_chunk *chunks;
	struct siphash_key key;
	struct symbol *symbols;
	uint32_t symbols_size; /* power of two */
};

struct parser {
	struct owned_set *s;
	struct proto_limits limits;
	struct proto_finding *finding;
	struct proto_file *file; /* being read */
	struct proto_file *files;
	const struct proto_message **by_id;
	struct pending_field *fields, **fields_end;
	struct pending_method *methods, **methods_end;
	uint32_t elements, messages, symbols;
};

/* Zeroed, 16-byte aligned; freed with the set. NULL: no memory. */
void *memory_get(struct owned_set *s, size_t bytes);
void *memory_array(struct owned_set *s, size_t n, size_t bytes);

/* Fill in the finding; returns `error` negated. `element` may be NULL. */
int parser_refuse(struct parser *p, int error, const struct proto_file *file, const char *element,
		  const char *format, ...) __attribute__((format(printf, 5, 6)));

/* descriptor_link.c: names become pointers, and what follows from that. */
int parser_link(struct parser *p) SPLIT_MUST_USE;

/* The slot of `name`, empty or not; there always is an empty one. */
struct symbol *symbol_slot(const struct owned_set *s, const char *name, size_t len);

/* descriptor_default.c. -SPLIT_E_LINEARIZE_PROTO when the text is none of the type's. */
int default_parse(struct owned_set *s, struct proto_field *f,
		  struct proto_bytes text) SPLIT_MUST_USE;

#endif
