/* What reflection will tell of a host: the descriptor set it brought, or one made of its schema. */
#include "daemon/control/control_internal.h"

#include <stdlib.h>

#include "linearize/linearize.h"
#include "linearize/manifest/manifest.h"

/* A set that says what the schema knows; NULL when there is no memory for it. */
static struct services_catalog *catalog_synthesised(const struct schema *schema,
						    const struct attach_request *request)
{
	struct schema_method *methods = calloc(request->methods_n + 1, sizeof(*methods));
	struct services_catalog *catalog = NULL;
	uint8_t *set = NULL;
	size_t bytes = 0, n = 0;

	if (methods == NULL)
		return NULL;
	for (size_t i = 0; i < request->methods_n; i++) {
		const struct attach_method *m = &request->methods[i];

		if (m->channel != NULL)
			continue; /* it calls that one */
		methods[n++] = (struct schema_method){
			.service = m->service,
			.method = m->method,
			.input = m->input_schema,
			.output = m->output_schema,
			.client_streams = m->kind == ATTACH_CLIENT_STREAM || m->kind == ATTACH_BIDI,
			.server_streams = m->kind == ATTACH_SERVER_STREAM || m->kind == ATTACH_BIDI,
		};
	}
	if (schema_synthesise(schema, methods, n, &set, &bytes) == 0) {
		if (services_catalog_create(set, bytes, &catalog) != 0)
			catalog = NULL;
		free(set);
	}
	free(methods);
	return catalog;
}

/* The operator's manifest of the first of its services that has one: it goes over what a host says.
 */
static const uint8_t *manifest_set_of(const struct control *control,
				      const struct attach_request *request, size_t *bytes_out)
{
	for (size_t i = 0; control->manifests != NULL && i < request->methods_n; i++) {
		int service = config_service_find(control->p.config, request->methods[i].service);

		if (request->methods[i].channel == NULL && service >= 0 &&
		    control->manifests[service] != NULL)
			return manifest_bytes(control->manifests[service], bytes_out);
	}
	return NULL;
}

struct services_catalog *control_catalog_make(const struct control_host *host,
					      const struct attach_request *request)
{
	struct services_catalog *catalog = NULL;
	size_t bytes = 0;
	const uint8_t *set = manifest_set_of(host->control, request, &bytes);
	int err;

	if (!host->control->p.config->grpc.reflection)
		return NULL;
	if (set == NULL)
		set = schema_descriptor_set(host->schema, &bytes);
	if (set != NULL) {
		err = services_catalog_create(set, bytes, &catalog);
		if (err == 0)
			return catalog;
		log_warn("host \"%s\" (pid %d): its descriptor set is not used for reflection: %s",
			 host->name, host->pid, error_text(err));
	}
	catalog = catalog_synthesised(host->schema, request);
	if (catalog == NULL)
		log_warn("host \"%s\" (pid %d): reflection has nothing to tell of it", host->name,
			 host->pid);
	return catalog;
}
