/* The index of a descriptor set: symbols and extensions, sorted, each with its file. */
#include "daemon/services/services_internal.h"

#include <stdlib.h>
#include <string.h>

struct symbol {
	const char *name;
	const struct proto_file *file;
};

struct extension {
	const char *extendee;
	int32_t number;
	const struct proto_file *file;
};

struct services_catalog {
	struct proto_set *set;
	struct symbol *symbols;
	struct extension *extensions;
	size_t symbols_n, symbols_max;
	size_t extensions_n, extensions_max;
	bool nomem;
};

/* ---- building ------------------------------------------------------------------------------- */

static void symbol_add(struct services_catalog *c, const char *name, const struct proto_file *file)
{
	if (c->symbols_n == c->symbols_max) {
		size_t max = c->symbols_max * 2 + 64;
		struct symbol *larger = reallocarray(c->symbols, max, sizeof(*larger));

		if (larger == NULL) {
			c->nomem = true;
			return;
		}
		c->symbols = larger;
		c->symbols_max = max;
	}
	c->symbols[c->symbols_n++] = (struct symbol){name, file};
}

static void extension_add(struct services_catalog *c, const struct proto_field *field)
{
	symbol_add(c, field->full_name, field->file);
	if (c->extensions_n == c->extensions_max) {
		size_t max = c->extensions_max * 2 + 16;
		struct extension *larger = reallocarray(c->extensions, max, sizeof(*larger));

		if (larger == NULL) {
			c->nomem = true;
			return;
		}
		c->extensions = larger;
		c->extensions_max = max;
	}
	c->extensions[c->extensions_n++] =
		(struct extension){field->extendee->full_name, (int32_t)field->number, field->file};
}

static void enum_add(struct services_catalog *c, const struct proto_enum *e)
{
	symbol_add(c, e->full_name, e->file);
}

/* Not nested deeper than the reader's depth_max. */
static void message_add(struct services_catalog *c, const struct proto_message *m)
{
	symbol_add(c, m->full_name, m->file);
	for (uint32_t i = 0; i < m->fields_n; i++)
		symbol_add(c, m->fields[i].full_name, m->file);
	for (uint32_t i = 0; i < m->oneofs_n; i++)
		symbol_add(c, m->oneofs[i].full_name, m->file);
	for (uint32_t i = 0; i < m->enums_n; i++)
		enum_add(c, &m->enums[i]);
	for (uint32_t i = 0; i < m->extensions_n; i++)
		extension_add(c, &m->extensions[i]);
	for (uint32_t i = 0; i < m->messages_n; i++)
		message_add(c, &m->messages[i]);
}

static void file_add(struct services_catalog *c, const struct proto_file *f)
{
	for (uint32_t i = 0; i < f->messages_n; i++)
		message_add(c, &f->messages[i]);
	for (uint32_t i = 0; i < f->enums_n; i++)
		enum_add(c, &f->enums[i]);
	for (uint32_t i = 0; i < f->extensions_n; i++)
		extension_add(c, &f->extensions[i]);
	for (uint32_t i = 0; i < f->services_n; i++) {
		const struct proto_service *s = &f->services[i];

		symbol_add(c, s->full_name, f);
		for (uint32_t k = 0; k < s->methods_n; k++)
			symbol_add(c, s->methods[k].full_name, f);
	}
}

static int symbol_compare(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static int extension_compare(const void *a, const void *b)
{
	const struct extension *x = a, *y = b;
	int names = strcmp(x->extendee, y->extendee);

	return names != 0 ? names : (x->number > y->number) - (x->number < y->number);
}

int services_catalog_create(const uint8_t *set, size_t bytes, struct services_catalog **catalog_out)
{
	struct services_catalog *c = calloc(1, sizeof(*c));
	int err;

	*catalog_out = NULL;
	if (c == NULL)
		return -SPLIT_E_BASE_NOMEM;
	err = proto_set_parse(set, bytes, NULL, &c->set, NULL);
	if (err != 0) {
		free(c);
		return err;
	}
	for (uint32_t i = 0; i < c->set->files_n; i++)
		file_add(c, &c->set->files[i]);
	if (c->nomem) {
		services_catalog_destroy(c);
		return -SPLIT_E_BASE_NOMEM;
	}
	if (c->symbols_n > 0)
		qsort(c->symbols, c->symbols_n, sizeof(*c->symbols), symbol_compare);
	if (c->extensions_n > 0)
		qsort(c->extensions, c->extensions_n, sizeof(*c->extensions), extension_compare);
	*catalog_out = c;
	return 0;
}

void services_catalog_destroy(struct services_catalog *c)
{
	if (c == NULL)
		return;
	proto_set_destroy(c->set);
	free(c->symbols);
	free(c->extensions);
	free(c);
}

/* ---- asking --------------------------------------------------------------------------------- */

const struct proto_file *catalog_file(const struct services_catalog *c, const char *name)
{
	return proto_file_find(c->set, name);
}

const struct proto_file *catalog_symbol(const struct services_catalog *c, const char *name)
{
	const struct symbol key = {.name = name};
	const struct symbol *found;

	if (c->symbols_n == 0)
		return NULL;
	found = bsearch(&key, c->symbols, c->symbols_n, sizeof(key), symbol_compare);
	return found != NULL ? found->file : NULL;
}

const struct proto_file *catalog_extension(const struct services_catalog *c, const char *extendee,
					   int32_t number)
{
	const struct extension key = {.extendee = extendee, .number = number};
	const struct extension *found;

	if (c->extensions_n == 0)
		return NULL;
	found = bsearch(&key, c->extensions, c->extensions_n, sizeof(key), extension_compare);
	return found != NULL ? found->file : NULL;
}

size_t catalog_extension_numbers(const struct services_catalog *c, const char *extendee,
				 int32_t *numbers, size_t max, bool *known_out)
{
	size_t low = 0, high = c->extensions_n, n = 0;

	*known_out = proto_message_find(c->set, extendee) != NULL;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(c->extensions[middle].extendee, extendee) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < c->extensions_n && n < max; low++) {
		if (strcmp(c->extensions[low].extendee, extendee) != 0)
			break;
		numbers[n++] = c->extensions[low].number;
	}
	return n;
}
