/* What messages.c and messages_source.c share: how a field looks in C. Not for other folders. */
#ifndef SPLITD_LINEARIZE_COMPILER_MESSAGES_H
#define SPLITD_LINEARIZE_COMPILER_MESSAGES_H

#include "linearize/compiler/compiler_internal.h"

/* Of one element: "int32_t", "char *", "Pkg__Type *" */
const char *field_c_type(struct compiler *c, const struct proto_field *f);
/* The default of a number, bool or enum as a C constant. */
const char *field_literal(struct compiler *c, const struct proto_field *f);
const char *int32_literal(struct compiler *c, int32_t v);
/* "pkg__message__field__default_value"; bytes have their data at that name with "_data". */
const char *default_name(struct compiler *c, const struct proto_field *f);
bool import_is_included(const struct proto_file *f, const struct proto_file *import);
/* What a C comment can hold of a file's name. */
const char *file_name_for_comment(struct compiler *c, const struct proto_file *f);

#endif
