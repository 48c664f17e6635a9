/* How the tables of keys are written (config_table.c, config_channel.c): one macro for each type of
 * value. Not for other files. */
#ifndef SPLITD_CONFIG_FIELDS_H
#define SPLITD_CONFIG_FIELDS_H

#include "base/bits.h"
#include "config/config_internal.h"

#define KIB  (UINT64_C(1) << 10)
#define MIB  (UINT64_C(1) << 20)
#define GIB  (UINT64_C(1) << 30)
#define US   UINT64_C(1000)
#define MS   UINT64_C(1000000)
#define SEC  UINT64_C(1000000000)
#define HOUR (3600 * SEC)

/* STRUCT names the struct whose members the fields of the table around it fill. */
#define AT(member) .offset = offsetof(STRUCT, member)

#define BOOL(k, member, d, text)                                                                   \
	{                                                                                          \
		.key = (k), .type = FIELD_BOOL, AT(member), .def = (d), .help = (text)             \
	}
#define INT(k, member, d, lo, hi, text)                                                            \
	{                                                                                          \
		.key = (k), .type = FIELD_INT, AT(member), .def = (d), .min = (lo), .max = (hi),   \
		.help = (text)                                                                     \
	}
#define NODE(k, member, hi, absent, text)                                                          \
	{                                                                                          \
		.key = (k), .type = FIELD_INT_OPT, AT(member), .max = (hi), .nullable = true,      \
		.def_is = (absent), .help = (text)                                                 \
	}
#define SIZE(k, member, d, lo, hi, text)                                                           \
	{                                                                                          \
		.key = (k), .type = FIELD_SIZE, AT(member), .def = (d), .min = (lo), .max = (hi),  \
		.help = (text)                                                                     \
	}
#define DURATION(k, member, d, lo, hi, text)                                                       \
	{                                                                                          \
		.key = (k), .type = FIELD_DURATION, AT(member), .def = (d), .min = (lo),           \
		.max = (hi), .help = (text)                                                        \
	}
#define ENUM(k, member, d, list, text)                                                             \
	{                                                                                          \
		.key = (k), .type = FIELD_ENUM, AT(member), .def = (d), .choices = (list),         \
		.help = (text)                                                                     \
	}
#define STRING(k, member, fmt, d, text)                                                            \
	{                                                                                          \
		.key = (k), .type = FIELD_STRING, .format = (fmt), AT(member), .def = (d),         \
		.max = sizeof(((STRUCT *)0)->member) - 1, .help = (text)                           \
	}
#define NAME(fmt, text)                                                                            \
	{                                                                                          \
		.key = "name", .type = FIELD_STRING, .format = (fmt), AT(name), .required = true,  \
		.max = sizeof(((STRUCT *)0)->name) - 1, .help = (text)                             \
	}
#define OBJECT(k, member, table, text)                                                             \
	{                                                                                          \
		.key = (k), .type = FIELD_OBJECT, AT(member), .sub = &(table), .help = (text)      \
	}
#define OBJECTS(k, member, table, lo, hi, text)                                                    \
	{                                                                                          \
		.key = (k), .type = FIELD_OBJECTS, AT(member),                                     \
		.count_offset = offsetof(STRUCT, member##_n), .required = true, .items_min = (lo), \
		.items_max = (hi), .sub = &(table), .help = (text)                                 \
	}
#define TABLE(name, title_, help_)                                                                 \
	static const struct field_table name##_table = TABLE_OF(name, title_, help_)
#define TABLE_OF(name, title_, help_)                                                              \
	{                                                                                          \
		(title_), (help_), name##_fields, ARRAY_LEN(name##_fields), sizeof(STRUCT)         \
	}

extern const struct field_table channel_table, client_table;

#endif
