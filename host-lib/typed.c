/* What generated code (protoc-gen-split) stands on: bindings that live as long as the host, tables
 * that tell splitd more than descriptors can, and the meaning of what a typed handler returns. */
#include <stdio.h>
#include <stdlib.h>

#include "host-lib/host_internal.h"

struct kept {
	struct kept *next;
	_Alignas(16) uint8_t bytes[];
};

void *split_host_keep(struct split_host *host, const void *bytes, size_t len)
{
	struct kept *k;

	if (host == NULL || (bytes == NULL && len > 0))
		return NULL;
	k = malloc(sizeof(*k) + len);
	if (k == NULL)
		return NULL;
	if (len > 0)
		memcpy(k->bytes, bytes, len);
	k->next = host->kept;
	host->kept = k;
	return k->bytes;
}

void typed_fini(struct split_host *host)
{
	while (host->kept != NULL) {
		struct kept *k = host->kept;

		host->kept = k->next;
		free(k);
	}
	free(host->infos);
}

int split_host_describe(struct split_host *host, const struct schema_file_info *info)
{
	const struct schema_file_info **infos;

	if (host == NULL || info == NULL || atomic_load(&host->running))
		return SPLIT_E_ARGUMENT;
	for (size_t i = 0; i < host->infos_n; i++)
		if (host->infos[i] == info)
			return 0;
	infos = realloc(host->infos, (host->infos_n + 1) * sizeof(void *));
	if (infos == NULL)
		return SPLIT_E_NOMEM;
	infos[host->infos_n++] = info;
	host->infos = infos;
	return 0;
}

int typed_inform(const struct split_host *host, struct schema_builder *builder)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < host->infos_n; i++)
		rc = schema_builder_add_info(builder, host->infos[i]);
	return rc;
}

int split_call_settle(struct split_call *call, int result, const ProtobufCMessage *reply)
{
	char text[64];
	int rc;

	if (result == SPLIT_LATER)
		return 0;
	if (result == SPLIT_OK)
		return split_call_answer(call, reply);
	if (result < SPLIT_OK || result > SPLIT_UNAUTHENTICATED) {
		(void)snprintf(text, sizeof(text), "the handler returned %d", result);
		return split_call_fail(call, SPLIT_INTERNAL, text);
	}
	/* What the handler said of this status stays; without a word of its own it gets none. */
	if (call->status_set && call->status == (uint8_t)result)
		return split_call_answer(call, NULL);
	rc = split_call_set_status(call, (enum split_status)result, NULL);
	return rc != 0 ? rc : split_call_answer(call, NULL);
}
