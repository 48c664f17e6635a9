/* Manifests: what the operator's files say of services, over what hosts say. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/control/control_internal.h"
#include "linearize/linearize.h"
#include "linearize/manifest/manifest.h"

#define MANIFEST_LINE_MAX 1600 /* a path, a name, a reason */

/* The manifest of service `i`, NULL when it has none. False: it cannot be used, as `line` says. */
static bool manifest_of_service(const struct config *cfg, uint32_t i, struct manifest **out,
				char *line, size_t bytes)
{
	const struct config_service *service = &cfg->services[i];
	char why[256];

	*out = NULL;
	if (service->manifest[0] == '\0')
		return true;
	if (manifest_load(service->manifest, out, why) != 0) {
		*out = NULL;
		(void)snprintf(line, bytes, "services[%" PRIu32 "].manifest: %s: %s", i,
			       service->manifest, why);
		return false;
	}
	if (proto_service_find(manifest_set(*out), service->name) != NULL)
		return true;
	(void)snprintf(line, bytes, "services[%" PRIu32 "].manifest: %s: it has no service %s", i,
		       service->manifest, service->name);
	manifest_destroy(*out);
	*out = NULL;
	return false;
}

int control_manifests_check(const struct config *config, const char *path,
			    void (*tell)(const char *line))
{
	int result = 0;

	for (uint32_t i = 0; i < config->services_n; i++) {
		struct manifest *m;
		char why[MANIFEST_LINE_MAX], line[2 * MANIFEST_LINE_MAX];

		if (!manifest_of_service(config, i, &m, why, sizeof(why))) {
			(void)snprintf(line, sizeof(line), "%s: %s", path, why);
			tell(line);
			result = -SPLIT_E_CONFIG_INVALID;
		}
		manifest_destroy(m);
	}
	return result;
}

bool manifests_load(struct control *control)
{
	const struct config *cfg = control->p.config;
	char why[MANIFEST_LINE_MAX];

	control->manifests = calloc(cfg->services_n + 1, sizeof(struct manifest *));
	if (control->manifests == NULL)
		return false;
	for (uint32_t i = 0; i < cfg->services_n; i++) {
		if (manifest_of_service(cfg, i, &control->manifests[i], why, sizeof(why)))
			continue;
		log_error("%s", why);
		return false;
	}
	return true;
}

bool manifests_resize(struct control *control, uint32_t n)
{
	uint32_t have = control->p.config->services_n;
	struct manifest **more = realloc(control->manifests, (n + 1) * sizeof(struct manifest *));

	if (more == NULL)
		return false;
	control->manifests = more;
	for (uint32_t i = have; i <= n; i++)
		more[i] = NULL;
	return true;
}

void manifests_free(struct control *control)
{
	for (uint32_t i = 0; control->manifests != NULL && i < control->p.config->services_n; i++)
		manifest_destroy(control->manifests[i]);
	free(control->manifests);
	control->manifests = NULL;
}

/* The manifest of the method's service, or NULL. */
static const struct manifest *manifest_of(const struct control *control,
					  const struct attach_method *m)
{
	int service = config_service_find(control->p.config, m->service);

	return service < 0 ? NULL : control->manifests[service];
}

bool manifests_has(const struct control *control, const struct attach_request *request)
{
	for (size_t i = 0; i < request->methods_n; i++)
		if (manifest_of(control, &request->methods[i]) != NULL)
			return true;
	return false;
}

int manifests_amend(const struct control *control, const struct attach_request *request,
		    const struct schema_limits *limits, struct schema **schema)
{
	const struct manifest *last = NULL;

	for (size_t i = 0; i < request->methods_n; i++) {
		const struct manifest *m = manifest_of(control, &request->methods[i]);
		int err;

		/* The methods of a service come together. */
		if (m == NULL || m == last)
			continue;
		err = schema_amend(schema, manifest_set(m), limits);
		if (err != 0)
			return err;
		last = m;
	}
	return 0;
}

static enum attach_kind kind_of(const struct proto_method *m)
{
	if (m->client_streaming)
		return m->server_streaming ? ATTACH_BIDI : ATTACH_CLIENT_STREAM;
	return m->server_streaming ? ATTACH_SERVER_STREAM : ATTACH_UNARY;
}

bool manifest_agrees(const struct control *control, const struct control_host *host,
		     const struct attach_method *m, char *more, size_t bytes)
{
	const struct manifest *manifest = manifest_of(control, m);
	const struct proto_service *service;
	const struct proto_method *known;
	const char *input, *output;

	if (manifest == NULL)
		return true;
	known = manifest_method(manifest, m->service, m->method, &service);
	if (known == NULL) {
		snprintf(more, bytes, ": %s/%s is not in the manifest", m->service, m->method);
		return false;
	}
	if (kind_of(known) != m->kind) {
		snprintf(more, bytes, ": %s/%s is of another kind in the manifest", m->service,
			 m->method);
		return false;
	}
	input = schema_message_name(schema_message_at(host->schema, m->input_schema));
	output = schema_message_name(schema_message_at(host->schema, m->output_schema));
	if (strcmp(input, known->input->full_name) != 0 ||
	    strcmp(output, known->output->full_name) != 0) {
		snprintf(more, bytes, ": %s/%s has other messages in the manifest", m->service,
			 m->method);
		return false;
	}
	return true;
}

/* The smaller of two limits, of which 0 is none. */
static uint32_t narrower(uint32_t a, uint32_t b)
{
	return a != 0 && (b == 0 || a < b) ? a : b;
}

void manifest_options(const struct control *control, struct attach_method *m)
{
	const struct manifest *manifest = manifest_of(control, m);
	struct attach_method_options *o = &m->options;
	const struct proto_service *service;
	struct proto_method_options said;
	const struct proto_method *known;

	known = manifest == NULL ? NULL
				 : manifest_method(manifest, m->service, m->method, &service);
	if (known == NULL)
		return;
	proto_method_options_read(service, known, &said);
	o->request_bytes_max = narrower(o->request_bytes_max, said.request_bytes_max);
	o->response_bytes_max = narrower(o->response_bytes_max, said.response_bytes_max);
	if (said.deadline_ms != 0)
		o->deadline_ns = said.deadline_ms * CLOCK_NS_PER_MS;
	if (said.decode != 0)
		o->decode = (uint8_t)said.decode;
	if (said.encode != 0)
		o->encode = (uint8_t)said.encode;
	if (said.idempotency != 0)
		o->idempotency = (uint8_t)said.idempotency;
}
