/* What the files of linearize/compiler share. Not for other folders. */
#ifndef SPLITD_LINEARIZE_COMPILER_INTERNAL_H
#define SPLITD_LINEARIZE_COMPILER_INTERNAL_H

#include "linearize/compiler/compiler.h"
#include "linearize/descriptor/descriptor.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* --- text.c: growing text and strings that live as long as the run ---------------------------- */

struct pool_chunk {
	struct pool_chunk *next;
	char text[];
};

struct text {
	char *bytes;
	size_t len, room;
	bool failed; /* no memory: what was put since is lost */
};

/* What the parameter of --split_opt says. */
struct compiler_options {
	bool messages; /* .pb-c.h and .pb-c.c too */
	bool manifest; /* .manifest too */
	bool handlers; /* .split.h and .split.c: the default, off by `nohandlers` */
	bool imports;  /* for every file that is imported as well */
};

struct clash;

struct compiler {
	const struct proto_set *set;
	struct compiler_options options;
	struct pool_chunk *pool;
	bool nomem;
	char *error;           /* in the pool; the first one counts */
	struct clash *clashes; /* names.c */
	size_t clashes_n, clashes_room;
	/* What is being generated. */
	const struct proto_file *file;
	struct comments *comments;
};

/* printf into the pool; "" when there is no memory, which is noted. */
const char *str(struct compiler *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* `bytes` bytes, zeroed; NULL when there is no memory, which is noted. */
void *scratch_get(struct compiler *c, size_t bytes);

void text_bytes(struct text *t, const void *bytes, size_t len);
void text_fini(struct text *t);
/* `$0` .. `$9` in the first argument stand for those that follow; `$$` is a dollar. */
void text_put(struct text *t, const char *const *args);
#define put(t, ...) text_put((t), (const char *const[]){__VA_ARGS__, NULL})

/* A C string literal with its quotes; NULs allowed. */
const char *c_string(struct compiler *c, struct proto_bytes bytes);

/* --- error.c: findings, source locations, comments ---------------------------------------------
 */

/* Note an error at an element's place in its file ("dir/a.proto:12:3: text"). The first stays. */
void compiler_fail(struct compiler *c, const struct proto_file *file, const int32_t *path,
		   uint32_t steps, const char *format, ...) __attribute__((format(printf, 5, 6)));
static inline bool failed(const struct compiler *c)
{
	return c->nomem || c->error;
}

/* Line and column, both from 1; false where the file has no source info for the path. */
bool source_place(const struct proto_file *file, const int32_t *path, uint32_t steps,
		  uint32_t *line_out, uint32_t *column_out);

/* Source info of one file, sorted. */
struct comments *comments_read(struct compiler *c, const struct proto_file *file);
/* Write the comments of an element as a block, indented by `indent`; `note` (may be NULL) is a
 * paragraph of our own behind them. Nothing when there is nothing to say. */
void comments_put(struct compiler *c, struct text *t, const int32_t *path, uint32_t steps,
		  const char *indent, const char *note);

/* --- names.c: names as protoc-c makes them ---------------------------------------------------- */

const char *name_class(struct compiler *c, const char *full_name); /* a.foo_bar -> A__FooBar */
const char *name_lower(struct compiler *c, const char *full_name); /* a.FooBar -> a__foo_bar */
const char *name_upper(struct compiler *c, const char *full_name); /* a.FooBar -> A__FOO_BAR */
const char *name_camel(struct compiler *c, const char *name);      /* foo_bar -> FooBar */
/* Member of a struct for a field: lower case, with `_` behind a keyword or `base`. */
const char *name_field(struct compiler *c, const struct proto_field *f);
/* The same of a oneof, a method. Method names that a function of the service's own has get a `_`.
 */
const char *name_oneof(struct compiler *c, const struct proto_oneof *o);
const char *name_method(struct compiler *c, const struct proto_method *m);
/* "dir/a.proto" -> "dir/a" */
const char *name_stem(struct compiler *c, const struct proto_file *f);
/* Of a header guard. */
const char *name_guard(struct compiler *c, const char *file_name);

/* Two things of one name in one scope are an error that names both. `scope` "" is C's own. */
void name_claim(struct compiler *c, const char *scope, const char *name,
		const struct proto_file *file, const int32_t *path, uint32_t steps,
		const char *what);
/* All claims are made: compare them. */
void names_check(struct compiler *c);
/* Claim every name that the messages and services of a file give rise to. */
void names_claim_file(struct compiler *c, const struct proto_file *f);

/* --- The files that are written ----------------------------------------------------------------
 */

void messages_header(struct compiler *c, struct text *t); /* .pb-c.h */
void messages_source(struct compiler *c, struct text *t); /* .pb-c.c */
void handlers_header(struct compiler *c, struct text *t); /* .split.h */
void handlers_source(struct compiler *c, struct text *t); /* .split.c */
void manifest_text(struct compiler *c, struct text *t);   /* .manifest */

/* service.c: protobuf-c's own service tables, parts of .pb-c.[hc] */
void service_header(struct compiler *c, struct text *t, const struct proto_service *s);
void service_source(struct compiler *c, struct text *t, const struct proto_service *s);
/* tables.c: struct schema_file_info, part of .split.c */
void tables_source(struct compiler *c, struct text *t);
const char *tables_name(struct compiler *c, const struct proto_file *f);

/* Whether a message field is in the generated struct at all (groups are not). */
static inline bool field_is_member(const struct proto_field *f)
{
	return f->type != PROTO_GROUP;
}

/* Whether there is a has_ word beside it. */
static inline bool field_has_has(const struct proto_field *f)
{
	bool in_oneof = f->oneof && !f->oneof->synthetic;

	return f->label == PROTO_OPTIONAL && f->presence && !in_oneof && f->type != PROTO_STRING &&
	       f->type != PROTO_MESSAGE;
}

static inline bool field_in_union(const struct proto_field *f)
{
	return f->oneof && !f->oneof->synthetic;
}

#endif
