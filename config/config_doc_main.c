/* config-doc schema | reference: print what ships beside the parser from the parser's own table, so
 * that they cannot drift apart: splitd.schema.json, and the reference part of docs/CONFIG.md. A
 * test compares both with the files in the repository. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "config/config_internal.h"

#define IPV4                                                                                       \
	"((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}"                                    \
	"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define IPV6 "[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"

static const char address_pattern[] = "^(" IPV4 "|" IPV6 ")$";
static const char cidr_pattern[] =
	"^(" IPV4 "/([0-9]|[12][0-9]|3[0-2])|" IPV6 "/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))$";
static const char mac_pattern[] = "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$";

static void put(json_t *object, const char *key, json_t *value)
{
	if (json_object_set_new(object, key, value) != 0)
		abort();
}

static json_t *text(const char *s)
{
	return json_string(s);
}

static const char *range_format(const struct field *f, uint64_t v, char buf[32])
{
	if (f->type == FIELD_SIZE)
		return config_size_format(v, buf);
	if (f->type == FIELD_DURATION)
		return config_duration_format(v, buf);
	snprintf(buf, 32, "%llu", (unsigned long long)v);
	return buf;
}

/* ---- JSON Schema ---------------------------------------------------------------------------- */

static json_t *quantity_pattern(const struct config_unit *units)
{
	char buf[128] = "^(0|(0|[1-9][0-9]*)(";

	for (; units->name != NULL; units++) {
		strcat(buf, units->name);
		strcat(buf, units[1].name != NULL ? "|" : "))$");
	}
	return text(buf);
}

/* "a,b" as an array. */
static json_t *schema_words(const char *words)
{
	json_t *array = json_array();

	for (size_t n; *words != '\0'; words += n + (words[n] == ',')) {
		n = strcspn(words, ",");
		json_array_append_new(array, json_stringn(words, n));
	}
	return array;
}

static json_t *schema_default(const struct field *f)
{
	if (f->type == FIELD_ENUMS)
		return schema_words(f->def);
	if (f->type == FIELD_BOOL)
		return json_boolean(strcmp(f->def, "true") == 0);
	if (f->type == FIELD_INT)
		return json_integer(strtoll(f->def, NULL, 10));
	return text(f->def);
}

static json_t *schema_typed(const struct field *f, const char *type)
{
	json_t *s = json_object();

	put(s, "type", f->nullable ? json_pack("[s, s]", type, "null") : text(type));
	return s;
}

static json_t *schema_number(const struct field *f)
{
	json_t *s = schema_typed(f, "integer");

	put(s, "minimum", json_integer((json_int_t)f->min));
	put(s, "maximum", json_integer((json_int_t)f->max));
	return s;
}

static json_t *schema_string(const struct field *f, const char *pattern)
{
	json_t *s = schema_typed(f, "string");

	if (pattern != NULL)
		put(s, "pattern", text(pattern));
	if (f->type == FIELD_STRING || f->type == FIELD_ITEMS || f->type == FIELD_REFS)
		put(s, "maxLength", json_integer((json_int_t)f->max));
	return s;
}

static json_t *schema_ref(const struct field *f)
{
	return json_pack("{s: s+}", "$ref", "#/$defs/", f->sub->title);
}

static json_t *schema_array(const struct field *f, json_t *items)
{
	json_t *s = schema_typed(f, "array");

	put(s, "minItems", json_integer(f->items_min));
	put(s, "maxItems", json_integer(f->items_max));
	put(s, "items", items);
	return s;
}

static json_t *schema_enum(const struct field *f)
{
	json_t *s = json_object(), *choices = json_array();

	for (int i = 0; f->choices[i] != NULL; i++)
		json_array_append_new(choices, text(f->choices[i]));
	put(s, "enum", choices);
	return s;
}

/* An object, or a string that stands for one. */
static json_t *schema_object(const struct field *f)
{
	const struct field *word = f->sub->fields;

	if (f->shorthand == NULL)
		return schema_ref(f);
	while (strcmp(word->key, f->shorthand) != 0)
		word++;
	return json_pack("{s: [o, o]}", "anyOf", schema_enum(word), schema_ref(f));
}

static json_t *schema_refs(const struct field *f)
{
	char pattern[256];

	/* "^NAME$" becomes "^(\*|NAME)$". */
	snprintf(pattern, sizeof(pattern), "%s", config_format_pattern(f->format));
	if (f->star) {
		pattern[strlen(pattern) - 1] = '\0';
		char with_star[300];

		snprintf(with_star, sizeof(with_star), "^(\\*|%s)$", pattern + 1);
		return schema_array(f, schema_string(f, with_star));
	}
	return schema_array(f, schema_string(f, pattern));
}

static json_t *schema_type(const struct field *f)
{
	json_t *s;

	switch (f->type) {
	case FIELD_BOOL:
		return schema_typed(f, "boolean");
	case FIELD_INT:
	case FIELD_INT_OPT:
		return schema_number(f);
	case FIELD_SIZE:
	case FIELD_DURATION:
		s = schema_typed(f, "string");
		put(s, "pattern",
		    quantity_pattern(f->type == FIELD_SIZE ? config_size_units
							   : config_duration_units));
		return s;
	case FIELD_ENUM:
		return schema_enum(f);
	case FIELD_ENUMS:
		return schema_array(f, schema_enum(f));
	case FIELD_STRING:
		return schema_string(f, config_format_pattern(f->format));
	case FIELD_MODE:
		return schema_string(f, "^0[0-7]{3}$");
	case FIELD_ADDRESS:
		return schema_string(f, address_pattern);
	case FIELD_MAC:
		return schema_string(f, mac_pattern);
	case FIELD_OBJECT:
		return schema_object(f);
	case FIELD_OBJECTS:
		return schema_array(f, schema_ref(f));
	case FIELD_ITEMS:
		return schema_array(f, schema_string(f, config_format_pattern(f->format)));
	case FIELD_INTS:
		return schema_array(f, schema_number(f));
	case FIELD_CIDRS:
		return schema_array(f, schema_string(f, cidr_pattern));
	case FIELD_REFS:
		return schema_refs(f);
	case FIELD_IGNORED:
		break;
	}
	return schema_typed(f, "string");
}

static void help_format(const struct field *f, char *buf, size_t size)
{
	char lo[32], hi[32];
	size_t n = (size_t)snprintf(buf, size, "%s", f->help);

	if (f->type == FIELD_SIZE || f->type == FIELD_DURATION)
		n += (size_t)snprintf(buf + n, size - n, " From %s to %s.",
				      range_format(f, f->min, lo), range_format(f, f->max, hi));
	if (f->def_is != NULL)
		snprintf(buf + n, size - n, " Default: %s.", f->def_is);
}

static void schema_table(json_t *s, json_t *defs, const struct field_table *table)
{
	json_t *properties = json_object(), *required = json_array();
	char help[1024];

	put(s, "description", text(table->help));
	put(s, "type", text("object"));
	put(s, "additionalProperties", json_false());
	for (size_t i = 0; i < table->fields_n; i++) {
		const struct field *f = &table->fields[i];
		json_t *p = schema_type(f);

		help_format(f, help, sizeof(help));
		put(p, "description", text(help));
		if (f->def != NULL)
			put(p, "default", schema_default(f));
		put(properties, f->key, p);
		if (f->required)
			json_array_append_new(required, text(f->key));
		if (f->sub != NULL && json_object_get(defs, f->sub->title) == NULL) {
			json_t *sub = json_object();

			put(defs, f->sub->title, sub);
			schema_table(sub, defs, f->sub);
		}
	}
	if (json_array_size(required) > 0)
		put(s, "required", json_incref(required));
	json_decref(required);
	put(s, "properties", properties);
}

static int schema_print(void)
{
	json_t *s = json_object(), *defs = json_object();
	int rc;

	put(s, "$schema", text("https://json-schema.org/draft/2020-12/schema"));
	put(s, "title", text(config_table.title));
	schema_table(s, defs, &config_table);
	put(s, "$defs", defs);
	rc = json_dumpf(s, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(s);
	return rc;
}

/* ---- reference ------------------------------------------------------------------------------ */

static void type_print(const struct field *f)
{
	char lo[32], hi[32];

	switch (f->type) {
	case FIELD_BOOL:
		printf("true or false");
		break;
	case FIELD_INT:
	case FIELD_INT_OPT:
		printf("%s to %s", range_format(f, f->min, lo), range_format(f, f->max, hi));
		break;
	case FIELD_SIZE:
	case FIELD_DURATION:
		printf("%s, %s to %s", f->type == FIELD_SIZE ? "size" : "duration",
		       range_format(f, f->min, lo), range_format(f, f->max, hi));
		break;
	case FIELD_ENUMS:
		printf("array of ");
		/* fall through */
	case FIELD_ENUM:
		for (int i = 0; f->choices[i] != NULL; i++)
			printf("%s`\"%s\"`", i > 0 ? ", " : "", f->choices[i]);
		break;
	case FIELD_MODE:
		printf("octal, `\"0660\"`");
		break;
	case FIELD_ADDRESS:
		printf("IPv4 or IPv6 address");
		break;
	case FIELD_MAC:
		printf("MAC address");
		break;
	case FIELD_OBJECT:
		if (f->shorthand != NULL)
			printf("object, or its `%s` alone", f->shorthand);
		else
			printf("object");
		break;
	case FIELD_OBJECTS:
		printf("%u to %u objects", f->items_min, f->items_max);
		break;
	case FIELD_CIDRS:
		printf("%u to %u addresses with prefix", f->items_min, f->items_max);
		break;
	case FIELD_INTS:
		printf("%u to %u numbers, %s to %s", f->items_min, f->items_max,
		       range_format(f, f->min, lo), range_format(f, f->max, hi));
		break;
	case FIELD_REFS:
		printf("%u to %u names", f->items_min, f->items_max);
		break;
	case FIELD_ITEMS:
		printf("%u to %u strings", f->items_min, f->items_max);
		break;
	case FIELD_IGNORED:
	case FIELD_STRING:
		printf("string");
		break;
	}
	if (f->nullable)
		printf(", or null");
}

static void default_print(const struct field *f)
{
	if (f->required)
		printf("required");
	else if (f->def_is != NULL)
		printf("%s", f->def_is);
	else if (f->def == NULL)
		printf("%s", f->type == FIELD_OBJECT ? "as below" : "none");
	else if (f->type == FIELD_BOOL || f->type == FIELD_INT || f->type == FIELD_ENUMS)
		printf("`%s`", f->def);
	else
		printf("`\"%s\"`", f->def);
}

static void reference_table(const char *path, const struct field_table *table)
{
	char sub[256];

	printf("### %s\n\n%s\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n",
	       path[0] != '\0' ? path : "The file", table->help);
	for (size_t i = 0; i < table->fields_n; i++) {
		const struct field *f = &table->fields[i];

		printf("| `%s` | ", f->key);
		type_print(f);
		printf(" | ");
		default_print(f);
		snprintf(sub, sizeof(sub), "%s%s%s", path, path[0] != '\0' ? "." : "", f->key);
		printf(" | %s%s |\n", f->help,
		       f->sub == NULL && f->type != FIELD_IGNORED && config_key_is_live(sub)
			       ? " *Live.*"
			       : "");
	}
	printf("\n");
	for (size_t i = 0; i < table->fields_n; i++) {
		const struct field *f = &table->fields[i];
		bool told = false;

		if (f->sub == NULL)
			continue;
		/* A table that several keys share is printed at the first. */
		for (size_t j = 0; j < i; j++)
			told |= table->fields[j].sub == f->sub;
		if (told)
			continue;
		snprintf(sub, sizeof(sub), "%s%s%s%s", path, path[0] != '\0' ? "." : "", f->key,
			 f->type == FIELD_OBJECTS ? "[]" : "");
		reference_table(sub, f->sub);
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "schema") == 0)
		return schema_print() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
	if (argc == 2 && strcmp(argv[1], "reference") == 0) {
		reference_table("", &config_table);
		return EXIT_SUCCESS;
	}
	fprintf(stderr, "usage: config-doc schema | reference\n");
	return 2;
}
