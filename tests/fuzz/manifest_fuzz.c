/* Any file as a manifest: refused, or a set whose every pointer can be followed. */
#include "linearize/manifest/manifest.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t seen; /* so that nothing is left out as unused */

static void field_use(const struct proto_field *f)
{
	struct proto_bytes rest = f->options;
	struct proto_item item;
	int32_t path[PROTO_PATH_MAX];

	seen += strlen(f->name) + strlen(f->full_name) + strlen(f->json_name);
	seen += proto_field_path(f, path) + proto_field_is_acc(f);
	if (f->message)
		seen += strlen(f->message->full_name);
	if (f->enumeration)
		seen += strlen(f->enumeration->values[0].name);
	if (f->oneof)
		seen += f->oneof->fields_n;
	for (size_t i = 0; i < f->default_bytes.len; i++)
		seen += f->default_bytes.data[i];
	while (proto_next(&rest, &item) > 0)
		seen++;
}

static void message_use(const struct proto_set *set, const struct proto_message *m)
{
	if (proto_message_find(set, m->full_name) != m)
		abort();
	for (uint32_t i = 0; i < m->fields_n; i++) {
		field_use(&m->fields[i]);
		if (i > 0 && m->by_number[i]->number <= m->by_number[i - 1]->number)
			abort();
	}
	for (uint32_t i = 0; i < m->extensions_n; i++)
		field_use(&m->extensions[i]);
	for (uint32_t i = 0; i < m->oneofs_n; i++)
		for (uint32_t k = 0; k < m->oneofs[i].fields_n; k++)
			if (m->oneofs[i].fields[k]->oneof != &m->oneofs[i])
				abort();
}

static void file_use(const struct proto_file *f)
{
	struct proto_method_options o;

	for (uint32_t i = 0; i < f->dependencies_n; i++)
		seen += strlen(f->dependencies[i]->name) + f->dependency_public[i];
	for (uint32_t i = 0; i < f->extensions_n; i++)
		field_use(&f->extensions[i]);
	for (uint32_t i = 0; i < f->services_n; i++)
		for (uint32_t k = 0; k < f->services[i].methods_n; k++) {
			proto_method_options_read(&f->services[i], &f->services[i].methods[k], &o);
			seen += strlen(f->services[i].methods[k].input->full_name) + o.any;
		}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct proto_limits small = {
		.bytes_max = 1 << 20, .elements_max = 4096, .name_bytes_max = 512, .depth_max = 32};
	struct proto_finding finding;
	struct manifest *m;
	const struct proto_set *set;

	if (manifest_parse(data, size, &small, &m, &finding) != 0)
		return 0;
	set = manifest_set(m);
	for (uint32_t i = 0; i < set->messages_n; i++)
		message_use(set, set->messages[i]);
	for (uint32_t i = 0; i < set->files_n; i++)
		file_use(&set->files[i]);
	manifest_destroy(m);
	return 0;
}
