/* Inside config/: the located document, the table of keys, findings.
 *
 * Way of a load: text → jansson (syntax) → located tree (each value with its line and path) →
 * table-driven reading into struct config (types, ranges, defaults) → checks across keys. Each step
 * adds findings; only a document without any becomes a configuration.
 */
#ifndef SPLITD_CONFIG_CONFIG_INTERNAL_H
#define SPLITD_CONFIG_CONFIG_INTERNAL_H

#include <jansson.h>

#include "config/config.h"

/* ---- findings (config_report.c) ------------------------------------------------------------- */

/* Longest path and longest quoted piece of input in a finding. */
#define CONFIG_PATH_TEXT_MAX  256
#define CONFIG_QUOTE_TEXT_MAX 96

struct doc_node;

/* Where findings go and which file they speak of. */
struct config_sink {
	struct config_report *rep;
	const char *name;
};

/* Add `name:line: path: text`. Path NULL or "": left out. */
void config_sink_add(const struct config_sink *sink, unsigned line, const char *path,
		     const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* The same at a node of the document. */
void config_sink_node(const struct config_sink *sink, const struct doc_node *node, const char *fmt,
		      ...) __attribute__((format(printf, 3, 4)));

/* Order the findings by line. Once, at the end. */
void config_report_sort(struct config_report *rep);

/* `text` as printable ASCII in double quotes, cut to CONFIG_QUOTE_TEXT_MAX. Returns buf. */
const char *config_quote(const char *text, char buf[CONFIG_QUOTE_TEXT_MAX]);

/* ---- the located document (config_doc.c) ---------------------------------------------------- */

struct doc_node {
	json_t *value;   /* borrowed from doc.root; never NULL in a finished tree */
	const char *key; /* member name, else NULL */
	unsigned line;
	uint32_t index; /* within its array */
	uint32_t children;
	struct doc_node *parent;
	struct doc_node *first;
	struct doc_node *next;
};

struct doc {
	json_t *json;
	char *text; /* keys point in here */
	struct doc_node *nodes;
	struct doc_node *root;
};

/* Parse `len` bytes. Findings: too large, too deep, too many values, not JSON, duplicate keys.
 * 0 even with duplicate keys (the last counts); -SPLIT_E_CONFIG_INVALID when there is no tree;
 * -SPLIT_E_BASE_NOMEM. doc_free in any case. */
int doc_parse(struct doc *doc, const char *text, size_t len,
	      const struct config_sink *sink) SPLIT_MUST_USE;
void doc_free(struct doc *doc);

/* Member of an object by name, element of an array; NULL: not there, or `node` is NULL or no such
 * thing. */
const struct doc_node *doc_member(const struct doc_node *node, const char *key);
const struct doc_node *doc_element(const struct doc_node *node, uint32_t index);

/* "hosts[1].to_host"; cut at its front when too long. Returns buf. */
const char *doc_path(const struct doc_node *node, char buf[CONFIG_PATH_TEXT_MAX]);

/* ---- the table of keys (config_table.c) ----------------------------------------------------- */

enum field_type {
	FIELD_IGNORED,  /* any string; "$schema" */
	FIELD_BOOL,     /* bool */
	FIELD_INT,      /* uint32_t */
	FIELD_INT_OPT,  /* int32_t, CONFIG_NONE when absent or null */
	FIELD_SIZE,     /* uint64_t, "64MiB" */
	FIELD_DURATION, /* uint64_t, "15ms" */
	FIELD_ENUM,     /* int, one of `choices` */
	FIELD_ENUMS,    /* uint32_t, a bit for each of `choices` in the array; `def`: with commas */
	FIELD_STRING,   /* char[max + 1], of `format` */
	FIELD_MODE,     /* uint32_t, "0660" */
	FIELD_ADDRESS,  /* struct config_address */
	FIELD_MAC,      /* uint8_t[6], bool at count_offset */
	FIELD_OBJECT,   /* `sub` in place */
	FIELD_OBJECTS,  /* allocated array of `sub`; count at count_offset */
	FIELD_ITEMS,    /* allocated array of struct config_item */
	FIELD_INTS,     /* uint32_t[items_max] */
	FIELD_CIDRS,    /* struct config_address[items_max] */
	FIELD_REFS,     /* names of `ref` objects; config_check.c turns them into indices */
};

enum field_format {
	FORMAT_ITEM,      /* printable, no blank */
	FORMAT_NAME,      /* letters, digits, _ . - */
	FORMAT_SERVICE,   /* package.Service */
	FORMAT_PATH,      /* absolute */
	FORMAT_AUTHORITY, /* host, *.host or [address], with or without :port */
};

struct field_table;

struct field {
	const char *key;
	enum field_type type;
	enum field_format format;
	size_t offset;
	size_t count_offset;
	bool required;
	bool nullable;      /* null is the same as absent */
	bool star;          /* FIELD_REFS: ["*"] stands for all */
	const char *def;    /* as in the file, without quotes; NULL: zero, empty, none */
	const char *def_is; /* what an absent key means, where `def` cannot say it */
	uint64_t min, max;  /* ints, bytes, ns; for strings the longest length */
	uint32_t items_min, items_max;
	const char *const *choices; /* NULL-terminated */
	const struct field_table *sub;
	const char *shorthand; /* FIELD_OBJECT: a string stands for an object with this key alone */
	const char *help;
};

struct field_table {
	const char *title;
	const char *help;
	const struct field *fields;
	size_t fields_n;
	size_t bytes; /* of the struct */
};

extern const struct field_table config_table;
extern const struct field_table balance_table; /* config_table_balance.c: struct config_balance */

/* ---- reading and checking ------------------------------------------------------------------- */

/* Fill `cfg` (zeroed) with defaults and the document's values (config_read.c). Findings tell of
 * what is wrong; 0, or -SPLIT_E_BASE_NOMEM. */
int config_read(struct config *cfg, const struct doc_node *root,
		const struct config_sink *sink) SPLIT_MUST_USE;

/* References and contradictions (config_check.c). Runs on what could be read, also when there are
 * findings already, so that all come at once. `machine` may be NULL. */
void config_check(struct config *cfg, const struct doc_node *root,
		  const struct config_machine *machine, const struct config_sink *sink);

/* The same for channels (config_channel.c), after the hosts. */
void config_check_channels(struct config *cfg, const struct doc_node *root,
			   const struct config_sink *sink);

/* ---- values as text (config_units.c) -------------------------------------------------------- */

bool config_text_fits(const char *text, enum field_format format, size_t max);
const char *config_format_expected(enum field_format format);
/* An ECMA 262 regular expression for the same. */
const char *config_format_pattern(enum field_format format);

/* "198.18.0.2", "2001:db8::1"; with `cidr` "198.18.0.2/24", where the prefix must be given. */
bool config_address_parse(const char *text, bool cidr, struct config_address *out);
bool config_address_equal(const struct config_address *a, const struct config_address *b);
bool config_address_in(const struct config_address *a, const struct config_address *prefix);
bool config_address_any(const struct config_address *a);
/* Fit for an interface: not any, loopback, multicast, broadcast. */
bool config_address_unicast(const struct config_address *a);
bool config_mac_parse(const char *text, uint8_t mac[6]);
bool config_mode_parse(const char *text, uint32_t *mode_out);

/* Units of sizes (base 1024) and durations, smallest first, NULL-terminated. */
struct config_unit {
	const char *name;
	uint64_t factor;
};
extern const struct config_unit config_size_units[];
extern const struct config_unit config_duration_units[];

#endif
