/* Server reflection (gRPC's server-reflection.md). v1 and v1alpha are the same on the wire. */
#include "daemon/services/services_internal.h"

#include <stdlib.h>
#include <string.h>

#include "reflection.pb-c.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest request_t;
typedef Grpc__Reflection__V1__ServerReflectionResponse response_t;

/* Catalog i of all: our own, then the hosts'. */
static const struct services_catalog *catalog_at(const struct services *s, size_t i)
{
	return i == 0 ? s->own : s->source.catalog(s->source.ctx, i - 1);
}

static void error_set(response_t *r, Grpc__Reflection__V1__ErrorResponse *error,
		      enum grpc_status status, const char *text)
{
	error->error_code = (int32_t)status;
	error->error_message = (char *)(uintptr_t)text;
	r->message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
	r->error_response = error;
}

/* ---- files ---------------------------------------------------------------------------------- */

struct files {
	const struct proto_file *file[SERVICES_FILES_MAX];
	size_t n, bytes;
};

static bool file_put(struct files *files, const struct proto_file *file)
{
	for (size_t i = 0; i < files->n; i++)
		if (files->file[i] == file)
			return true;
	if (files->n == SERVICES_FILES_MAX)
		return false;
	files->file[files->n++] = file;
	files->bytes += file->bytes.len;
	return true;
}

/* The file and all that it needs, each once; breadth first, so that `files` is the queue too. When
 * that is too much, the file alone: clients ask for the others by name. */
static void files_gather(struct files *files, const struct proto_file *file)
{
	bool whole = file_put(files, file);

	for (size_t i = 0; i < files->n && whole; i++) {
		const struct proto_file *f = files->file[i];

		for (uint32_t k = 0; k < f->dependencies_n && whole; k++)
			whole = file_put(files, f->dependencies[k]);
		whole = whole && files->bytes <= SERVICES_PIECE_BYTES * (SERVICES_PIECES_MAX / 2);
	}
	if (!whole)
		files->n = 1;
}

static const struct proto_file *file_sought(const struct services_catalog *c, const request_t *rq)
{
	switch (rq->message_request_case) {
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
		return catalog_file(c, rq->file_by_filename);
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
		return catalog_symbol(c, rq->file_containing_symbol);
	default:
		return catalog_extension(c, rq->file_containing_extension->containing_type,
					 rq->file_containing_extension->extension_number);
	}
}

static void files_answer(struct services_call *call, const request_t *rq, response_t *r)
{
	Grpc__Reflection__V1__FileDescriptorResponse answer =
		GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
	Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
	ProtobufCBinaryData bytes[SERVICES_FILES_MAX];
	const struct services_catalog *c;
	const struct proto_file *file = NULL;
	struct files files = {.n = 0};

	for (size_t i = 0; file == NULL && (c = catalog_at(call->services, i)) != NULL; i++)
		file = file_sought(c, rq);
	if (file == NULL) {
		counter_inc(&call->services->counters.reflection_errors);
		error_set(r, &error, GRPC_NOT_FOUND, "not found");
	} else {
		files_gather(&files, file);
		for (size_t i = 0; i < files.n; i++)
			bytes[i] = (ProtobufCBinaryData){
				files.file[i]->bytes.len,
				(uint8_t *)(uintptr_t)files.file[i]->bytes.data};
		answer.n_file_descriptor_proto = files.n;
		answer.file_descriptor_proto = bytes;
		r->message_response_case =
			GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
		r->file_descriptor_response = &answer;
	}
	services_reply(call, &r->base, false);
}

/* ---- the rest ------------------------------------------------------------------------------- */

static int number_compare(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

static void numbers_answer(struct services_call *call, const request_t *rq, response_t *r)
{
	Grpc__Reflection__V1__ExtensionNumberResponse answer =
		GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
	Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
	int32_t numbers[SERVICES_NUMBERS_MAX];
	const struct services_catalog *c;
	size_t n = 0, distinct = 0;
	bool known = false;

	for (size_t i = 0; (c = catalog_at(call->services, i)) != NULL; i++) {
		bool here;

		n += catalog_extension_numbers(c, rq->all_extension_numbers_of_type, numbers + n,
					       SERVICES_NUMBERS_MAX - n, &here);
		known |= here;
	}
	if (!known) {
		counter_inc(&call->services->counters.reflection_errors);
		error_set(r, &error, GRPC_NOT_FOUND, "type not found");
		services_reply(call, &r->base, false);
		return;
	}
	/* Several processes of one host tell the same. */
	qsort(numbers, n, sizeof(numbers[0]), number_compare);
	for (size_t i = 0; i < n; i++)
		if (distinct == 0 || numbers[distinct - 1] != numbers[i])
			numbers[distinct++] = numbers[i];
	answer.base_type_name = rq->all_extension_numbers_of_type;
	answer.n_extension_number = distinct;
	answer.extension_number = numbers;
	r->message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
	r->all_extension_numbers_response = &answer;
	services_reply(call, &r->base, false);
}

static void list_answer(struct services_call *call, response_t *r)
{
	static const char *const own[] = {"grpc.channelz.v1.Channelz", "grpc.health.v1.Health",
					  "grpc.reflection.v1.ServerReflection",
					  "grpc.reflection.v1alpha.ServerReflection"};
	Grpc__Reflection__V1__ListServiceResponse answer =
		GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
	Grpc__Reflection__V1__ServiceResponse services[SERVICES_LISTED_MAX];
	Grpc__Reflection__V1__ServiceResponse *list[SERVICES_LISTED_MAX];
	struct services *s = call->services;
	const char *name;
	size_t n = 0;

	for (size_t i = 0; n < SERVICES_LISTED_MAX - ARRAY_LEN(own) &&
			   (name = s->source.service(s->source.ctx, i)) != NULL;
	     i++) {
		grpc__reflection__v1__service_response__init(&services[n]);
		services[n++].name = (char *)(uintptr_t)name;
	}
	for (size_t i = 0; i < ARRAY_LEN(own); i++) {
		if (!services_has(s, own[i], strlen(own[i])))
			continue;
		grpc__reflection__v1__service_response__init(&services[n]);
		services[n++].name = (char *)(uintptr_t)own[i];
	}
	for (size_t i = 0; i < n; i++)
		list[i] = &services[i];
	answer.n_service = n;
	answer.service = list;
	r->message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
	r->list_services_response = &answer;
	services_reply(call, &r->base, false);
}

void reflection_info(struct services_call *call, const uint8_t *p, uint32_t n)
{
	ProtobufCAllocator scratch = services_scratch(call->services);
	Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
	response_t r = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
	request_t *rq = grpc__reflection__v1__server_reflection_request__unpack(&scratch, n, p);

	if (rq == NULL) {
		counter_inc(&call->services->counters.malformed);
		services_finish(call, GRPC_INTERNAL, "the request could not be decoded");
		return;
	}
	counter_inc(&call->services->counters.reflections);
	r.valid_host = rq->host;
	r.original_request = rq;
	switch (rq->message_request_case) {
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
		files_answer(call, rq, &r);
		return;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
		numbers_answer(call, rq, &r);
		return;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
		list_answer(call, &r);
		return;
	default:
		counter_inc(&call->services->counters.reflection_errors);
		error_set(&r, &error, GRPC_INVALID_ARGUMENT, "the request asks for nothing known");
		services_reply(call, &r.base, false);
		return;
	}
}
