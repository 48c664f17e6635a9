/* Driven by the table: the document's values into structs. A key that is wrong keeps its default,
 * so that the checks after this one see a whole configuration and can report as well. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_internal.h"

struct reader {
	const struct config_sink *sink;
	bool nomem;
};

static void read_object(struct reader *r, const struct field_table *table, void *base,
			const struct doc_node *node);

static const char *type_name(const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
	case JSON_REAL:
		return "a number";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	default:
		return "null";
	}
}

static void wrong_type(struct reader *r, const struct doc_node *node, const char *expected)
{
	config_sink_node(r->sink, node, "is %s, expected %s", type_name(node->value), expected);
}

/* A whole number, also one written as 1e3 (JSON Schema's "integer" allows it). */
static bool whole_number(const json_t *v, int64_t *out)
{
	double d;

	if (json_is_integer(v)) {
		*out = json_integer_value(v);
		return true;
	}
	if (!json_is_real(v))
		return false;
	d = json_real_value(v);
	if (d != floor(d) || fabs(d) > 9007199254740992.0)
		return false;
	*out = (int64_t)d;
	return true;
}

static bool read_number(struct reader *r, uint64_t min, uint64_t max, const struct doc_node *node,
			uint32_t *out)
{
	int64_t v;

	if (!whole_number(node->value, &v)) {
		char expected[80];

		snprintf(expected, sizeof(expected), "a whole number from %llu to %llu",
			 (unsigned long long)min, (unsigned long long)max);
		if (json_is_real(node->value))
			config_sink_node(r->sink, node, "is %g, expected %s",
					 json_real_value(node->value), expected);
		else
			wrong_type(r, node, expected);
		return false;
	}
	if (v < 0 || (uint64_t)v < min || (uint64_t)v > max) {
		config_sink_node(r->sink, node, "is %lld, expected %llu to %llu", (long long)v,
				 (unsigned long long)min, (unsigned long long)max);
		return false;
	}
	*out = (uint32_t)v;
	return true;
}

static void read_quantity(struct reader *r, const struct field *f, const struct doc_node *node,
			  uint64_t *out)
{
	bool size = f->type == FIELD_SIZE;
	const char *(*format)(uint64_t, char[32]) =
		size ? config_size_format : config_duration_format;
	const char *text = json_string_value(node->value);
	char lo[32], hi[32], quote[CONFIG_QUOTE_TEXT_MAX];
	uint64_t v;

	if (text == NULL) {
		wrong_type(r, node,
			   size ? "a size with its unit as a string, like \"64MiB\""
				: "a duration with its unit as a string, like \"15ms\"");
		return;
	}
	if ((size ? config_size_parse(text, &v) : config_duration_parse(text, &v)) != 0) {
		config_sink_node(r->sink, node, "is %s, expected %s", config_quote(text, quote),
				 size ? "a size in B, KiB, MiB or GiB, like \"64MiB\""
				      : "a duration in ns, us, ms, s, min or h, like \"15ms\"");
		return;
	}
	if (v < f->min || v > f->max) {
		config_sink_node(r->sink, node, "is %s, expected %s to %s",
				 config_quote(text, quote), format(f->min, lo), format(f->max, hi));
		return;
	}
	*out = v;
}

static bool choice_find(const struct field *f, const char *text, int *out)
{
	for (int i = 0; f->choices[i] != NULL; i++) {
		if (strcmp(f->choices[i], text) == 0) {
			*out = i;
			return true;
		}
	}
	return false;
}

static void read_enum(struct reader *r, const struct field *f, const struct doc_node *node,
		      int *out)
{
	const char *text = json_string_value(node->value);
	char expected[256] = "one of", quote[CONFIG_QUOTE_TEXT_MAX];
	size_t n = strlen(expected);

	if (text != NULL && choice_find(f, text, out))
		return;
	for (int i = 0; f->choices[i] != NULL && n < sizeof(expected); i++)
		n += (size_t)snprintf(expected + n, sizeof(expected) - n, "%s \"%s\"",
				      i > 0 ? "," : "", f->choices[i]);
	if (text == NULL)
		wrong_type(r, node, expected);
	else
		config_sink_node(r->sink, node, "is %s, expected %s", config_quote(text, quote),
				 expected);
}

/* One bit for each element; the array is of an allowed length. */
static void read_enums(struct reader *r, const struct field *f, const struct doc_node *node,
		       uint32_t *out)
{
	uint32_t bits = 0;

	for (const struct doc_node *e = node->first; e != NULL; e = e->next) {
		int choice = -1;

		read_enum(r, f, e, &choice);
		if (choice >= 0)
			bits |= UINT32_C(1) << choice;
	}
	*out = bits;
}

/* A string of the field's format and length, or NULL and a finding. */
static const char *checked_string(struct reader *r, const struct field *f,
				  const struct doc_node *node)
{
	const char *text = json_string_value(node->value);
	const char *expected = config_format_expected(f->format);
	char quote[CONFIG_QUOTE_TEXT_MAX];

	if (text == NULL) {
		wrong_type(r, node, expected);
		return NULL;
	}
	if (f->star && strcmp(text, "*") == 0)
		return text;
	if (!config_text_fits(text, f->format, f->max)) {
		config_sink_node(r->sink, node, "is %s, expected %s, at most %llu bytes",
				 config_quote(text, quote), expected, (unsigned long long)f->max);
		return NULL;
	}
	return text;
}

static void read_address(struct reader *r, const struct doc_node *node, bool cidr,
			 struct config_address *out)
{
	const char *text = json_string_value(node->value);
	const char *expected = cidr ? "an address with its prefix, like \"198.18.0.2/24\""
				    : "an IPv4 or IPv6 address";
	char quote[CONFIG_QUOTE_TEXT_MAX];

	if (text == NULL)
		wrong_type(r, node, expected);
	else if (!config_address_parse(text, cidr, out))
		config_sink_node(r->sink, node, "is %s, expected %s", config_quote(text, quote),
				 expected);
}

static void read_mac(struct reader *r, const struct doc_node *node, uint8_t *mac, bool *given)
{
	const char *text = json_string_value(node->value);
	char quote[CONFIG_QUOTE_TEXT_MAX];

	if (text == NULL)
		wrong_type(r, node, "a MAC address");
	else if (!config_mac_parse(text, mac))
		config_sink_node(r->sink, node,
				 "is %s, expected a MAC address like \"02:00:00:00:00:01\"",
				 config_quote(text, quote));
	else
		*given = true;
}

static void read_mode(struct reader *r, const struct doc_node *node, uint32_t *mode)
{
	const char *text = json_string_value(node->value);
	char quote[CONFIG_QUOTE_TEXT_MAX];

	if (text == NULL)
		wrong_type(r, node, "four octal digits as a string, like \"0660\"");
	else if (!config_mode_parse(text, mode))
		config_sink_node(r->sink, node, "is %s, expected four octal digits, like \"0660\"",
				 config_quote(text, quote));
}

/* Whether `node` is an array of an allowed length. */
static bool array_fits(struct reader *r, const struct field *f, const struct doc_node *node)
{
	if (!json_is_array(node->value)) {
		wrong_type(r, node, "an array");
		return false;
	}
	if (node->children < f->items_min || node->children > f->items_max) {
		config_sink_node(r->sink, node, "has %u elements, expected %u to %u",
				 node->children, f->items_min, f->items_max);
		return false;
	}
	return true;
}

/* Array fields: elements one by one; one that is wrong leaves its zero. */
static void read_array(struct reader *r, const struct field *f, char *base,
		       const struct doc_node *node)
{
	uint32_t *count = (uint32_t *)(void *)(base + f->count_offset);
	size_t bytes = f->type == FIELD_OBJECTS ? f->sub->bytes : sizeof(struct config_item);
	void *at = base + f->offset;

	if (!array_fits(r, f, node))
		return;
	if ((f->type == FIELD_OBJECTS || f->type == FIELD_ITEMS) && node->children > 0) {
		at = calloc(node->children, bytes);
		if (at == NULL) {
			r->nomem = true;
			return;
		}
		*(void **)(void *)(base + f->offset) = at;
	}
	if (f->type != FIELD_REFS)
		*count = node->children;
	for (const struct doc_node *e = node->first; e != NULL; e = e->next) {
		const char *text;

		switch (f->type) {
		case FIELD_OBJECTS:
			read_object(r, f->sub, (char *)at + e->index * bytes, e);
			break;
		case FIELD_ITEMS:
			text = checked_string(r, f, e);
			if (text != NULL)
				strcpy(((struct config_item *)at)[e->index].text, text);
			break;
		case FIELD_INTS:
			read_number(r, f->min, f->max, e, (uint32_t *)at + e->index);
			break;
		case FIELD_CIDRS:
			read_address(r, e, true, (struct config_address *)at + e->index);
			break;
		default:
			checked_string(r, f, e);
			break;
		}
	}
}

static void read_field(struct reader *r, const struct field *f, char *base,
		       const struct doc_node *node);

/* A string where an object may stand: the value of its foremost key. */
static void read_shorthand(struct reader *r, const struct field *f, void *base,
			   const struct doc_node *node)
{
	for (size_t i = 0; i < f->sub->fields_n; i++)
		if (strcmp(f->sub->fields[i].key, f->shorthand) == 0)
			read_field(r, &f->sub->fields[i], base, node);
}

static void read_field(struct reader *r, const struct field *f, char *base,
		       const struct doc_node *node)
{
	void *at = base + f->offset;
	const char *text;
	uint32_t number;

	if (f->nullable && json_is_null(node->value))
		return;
	switch (f->type) {
	case FIELD_IGNORED:
		if (!json_is_string(node->value))
			wrong_type(r, node, "a string");
		break;
	case FIELD_BOOL:
		if (json_is_boolean(node->value))
			*(bool *)at = json_is_true(node->value);
		else
			wrong_type(r, node, "true or false");
		break;
	case FIELD_INT:
		read_number(r, f->min, f->max, node, at);
		break;
	case FIELD_INT_OPT:
		if (read_number(r, f->min, f->max, node, &number))
			*(int32_t *)at = (int32_t)number;
		break;
	case FIELD_SIZE:
	case FIELD_DURATION:
		read_quantity(r, f, node, at);
		break;
	case FIELD_ENUM:
		read_enum(r, f, node, at);
		break;
	case FIELD_STRING:
		text = checked_string(r, f, node);
		if (text != NULL)
			strcpy(at, text);
		break;
	case FIELD_ENUMS:
		if (array_fits(r, f, node))
			read_enums(r, f, node, at);
		break;
	case FIELD_MODE:
		read_mode(r, node, at);
		break;
	case FIELD_ADDRESS:
		read_address(r, node, false, at);
		break;
	case FIELD_MAC:
		read_mac(r, node, at, (bool *)(void *)(base + f->count_offset));
		break;
	case FIELD_OBJECT:
		if (f->shorthand != NULL && json_is_string(node->value))
			read_shorthand(r, f, at, node);
		else
			read_object(r, f->sub, at, node);
		break;
	default:
		read_array(r, f, base, node);
		break;
	}
}

/* "a,b" of choices as bits. */
static int default_bits(const struct field *f, uint32_t *bits)
{
	char text[256];
	char *rest = text, *word;

	if (strlen(f->def) >= sizeof(text))
		return -SPLIT_E_BASE_INTERNAL;
	strcpy(text, f->def);
	while ((word = strsep(&rest, ",")) != NULL) {
		int choice;

		if (!choice_find(f, word, &choice))
			return -SPLIT_E_BASE_INTERNAL;
		*bits |= UINT32_C(1) << choice;
	}
	return 0;
}

/* The table's default. Its text is ours: what does not parse is our bug, and a test reads them all.
 */
static int default_set(const struct field *f, char *base)
{
	void *at = base + f->offset;

	if (f->type == FIELD_INT_OPT)
		*(int32_t *)at = CONFIG_NONE;
	if (f->def == NULL)
		return 0;
	switch (f->type) {
	case FIELD_BOOL:
		*(bool *)at = strcmp(f->def, "true") == 0;
		return 0;
	case FIELD_INT:
		*(uint32_t *)at = (uint32_t)strtoul(f->def, NULL, 10);
		return 0;
	case FIELD_SIZE:
		return config_size_parse(f->def, at);
	case FIELD_DURATION:
		return config_duration_parse(f->def, at);
	case FIELD_ENUM:
		return choice_find(f, f->def, at) ? 0 : -SPLIT_E_BASE_INTERNAL;
	case FIELD_ENUMS:
		*(uint32_t *)at = 0;
		return default_bits(f, at);
	case FIELD_STRING:
		strcpy(at, f->def);
		return 0;
	case FIELD_MODE:
		return config_mode_parse(f->def, at) ? 0 : -SPLIT_E_BASE_INTERNAL;
	case FIELD_ADDRESS:
		return config_address_parse(f->def, false, at) ? 0 : -SPLIT_E_BASE_INTERNAL;
	default:
		return -SPLIT_E_BASE_INTERNAL;
	}
}

static void defaults_set(struct reader *r, const struct field_table *table, char *base)
{
	for (size_t i = 0; i < table->fields_n; i++) {
		const struct field *f = &table->fields[i];

		if (f->type == FIELD_OBJECT)
			defaults_set(r, f->sub, base + f->offset);
		else if (default_set(f, base) != 0)
			config_sink_add(r->sink, 0, f->key, "bad default in the table (our bug)");
	}
}

/* Edits between two short words, for "did you mean". */
static unsigned word_distance(const char *a, const char *b)
{
	enum { MAX = 40 };
	unsigned row[MAX + 1];
	size_t la = strlen(a), lb = strlen(b);

	if (la > MAX || lb > MAX)
		return MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned replace = diagonal + (a[i - 1] != b[j - 1]);
			unsigned insert = row[j - 1] + 1, drop = row[j] + 1;

			diagonal = row[j];
			row[j] = insert < drop ? insert : drop;
			if (replace < row[j])
				row[j] = replace;
		}
	}
	return row[lb];
}

static void unknown_key(struct reader *r, const struct field_table *table,
			const struct doc_node *node)
{
	const char *best = NULL;
	unsigned best_distance = 3; /* more than two edits is another word */

	for (size_t i = 0; i < table->fields_n; i++) {
		unsigned d = word_distance(node->key, table->fields[i].key);

		if (d < best_distance) {
			best_distance = d;
			best = table->fields[i].key;
		}
	}
	if (best != NULL) {
		config_sink_node(r->sink, node, "unknown key, expected \"%s\"?", best);
	} else {
		char list[640];
		size_t n = 0;

		list[0] = '\0';
		for (size_t i = 0; i < table->fields_n && n < sizeof(list); i++)
			n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i > 0 ? ", " : "",
					      table->fields[i].key);
		config_sink_node(r->sink, node, "unknown key, expected one of %s", list);
	}
}

/* `base` was defaulted by the caller's table walk, or is a fresh array element. */
static void read_members(struct reader *r, const struct field_table *table, char *base,
			 const struct doc_node *node)
{
	for (const struct doc_node *c = node->first; c != NULL; c = c->next) {
		const struct field *f = NULL;

		for (size_t i = 0; i < table->fields_n && f == NULL; i++)
			if (strcmp(table->fields[i].key, c->key) == 0)
				f = &table->fields[i];
		if (f == NULL)
			unknown_key(r, table, c);
		else
			read_field(r, f, base, c);
	}
	for (size_t i = 0; i < table->fields_n; i++)
		if (table->fields[i].required && doc_member(node, table->fields[i].key) == NULL)
			config_sink_node(r->sink, node, "key \"%s\" is missing, expected: %s",
					 table->fields[i].key, table->fields[i].help);
}

static void read_object(struct reader *r, const struct field_table *table, void *base,
			const struct doc_node *node)
{
	defaults_set(r, table, base);
	if (json_is_object(node->value))
		read_members(r, table, base, node);
	else
		wrong_type(r, node, "an object");
}

int config_read(struct config *cfg, const struct doc_node *root, const struct config_sink *sink)
{
	struct reader r = {.sink = sink};

	read_object(&r, &config_table, cfg, root);
	return r.nomem ? -SPLIT_E_BASE_NOMEM : 0;
}
