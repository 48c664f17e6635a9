/* protobuf-c's own service tables, parts of .pb-c.h and .pb-c.c: what protobuf_c_service_* and
 * split_host_serve take. protobuf-c knows unary methods only; these tables list every method. */
#include "linearize/compiler/compiler_internal.h"

#include <stdlib.h>

/* put() takes its text in several pieces.
 * NOLINTBEGIN(bugprone-suspicious-missing-comma) */

static const char *spaces(struct compiler *c, const char *of)
{
	return str(c, "%*s", (int)strlen(of), "");
}

static void caller_put(struct compiler *c, struct text *t, const char *low,
		       const struct proto_method *m, const char *end)
{
	const char *name = str(c, "%s__%s", low, name_method(c, m));

	put(t,
	    "void $0(ProtobufCService *service,\n"
	    "     $1 const $2 *input,\n"
	    "     $1 $3_Closure closure,\n"
	    "     $1 void *closure_data)$4\n",
	    name, spaces(c, name), name_class(c, m->input->full_name),
	    name_class(c, m->output->full_name), end);
}

void service_header(struct compiler *c, struct text *t, const struct proto_service *s)
{
	const char *class = name_class(c, s->full_name), *low = name_lower(c, s->full_name);
	const char *up = name_upper(c, s->full_name);
	int32_t path[PROTO_PATH_MAX];

	put(t, "typedef struct _$0_Service $0_Service;\n", class);
	comments_put(c, t, path, proto_service_path(s, path), "",
		     s->deprecated ? "Deprecated.\n" : NULL);
	put(t, "struct _$0_Service\n{\n  ProtobufCService base;\n", class);
	for (uint32_t i = 0; i < s->methods_n; i++) {
		const struct proto_method *m = &s->methods[i];
		const char *name = name_method(c, m);

		comments_put(c, t, path, proto_method_path(s, i, path), "  ",
			     m->deprecated ? "Deprecated.\n" : NULL);
		put(t,
		    "  void (*$0)($1_Service *service,\n"
		    "         $2  const $3 *input,\n"
		    "         $2  $4_Closure closure,\n"
		    "         $2  void *closure_data);\n",
		    name, class, spaces(c, name), name_class(c, m->input->full_name),
		    name_class(c, m->output->full_name));
	}
	put(t,
	    "};\n"
	    "typedef void (*$0_ServiceDestroy)($0_Service *);\n"
	    "void $1__init ($0_Service *service,\n"
	    "     $2        $0_ServiceDestroy destroy);\n",
	    class, low, spaces(c, low));
	put(t,
	    "#define $0__BASE_INIT \\\n"
	    "    { &$1__descriptor, protobuf_c_service_invoke_internal, NULL }\n"
	    "#define $0__INIT(function_prefix__) \\\n"
	    "    { $0__BASE_INIT",
	    up, low);
	for (uint32_t i = 0; i < s->methods_n; i++)
		put(t, ",\\\n      function_prefix__ ## $0", name_method(c, &s->methods[i]));
	put(t, "  }\n");
	for (uint32_t i = 0; i < s->methods_n; i++)
		caller_put(c, t, low, &s->methods[i], ";");
}

struct indexed {
	const char *name;
	uint32_t index;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct indexed *)a)->name, ((const struct indexed *)b)->name);
}

static void methods_put(struct compiler *c, struct text *t, const struct proto_service *s,
			const char *low)
{
	struct indexed *sorted = scratch_get(c, (s->methods_n + 1) * sizeof(*sorted));

	if (!sorted || s->methods_n == 0)
		return;
	put(t, "static const ProtobufCMethodDescriptor $0__method_descriptors[] =\n{\n", low);
	for (uint32_t i = 0; i < s->methods_n; i++) {
		const struct proto_method *m = &s->methods[i];

		put(t, "  { \"$0\", &$1__descriptor, &$2__descriptor },\n", m->name,
		    name_lower(c, m->input->full_name), name_lower(c, m->output->full_name));
		sorted[i] = (struct indexed){m->name, i};
	}
	qsort(sorted, s->methods_n, sizeof(*sorted), by_name);
	put(t, "};\nstatic const unsigned $0__method_indices_by_name[] = {\n", low);
	for (uint32_t i = 0; i < s->methods_n; i++)
		put(t, "  $0,        /* $1 */\n", str(c, "%u", sorted[i].index), sorted[i].name);
	put(t, "};\n");
}

void service_source(struct compiler *c, struct text *t, const struct proto_service *s)
{
	const char *class = name_class(c, s->full_name), *low = name_lower(c, s->full_name);

	methods_put(c, t, s, low);
	put(t,
	    "const ProtobufCServiceDescriptor $0__descriptor =\n"
	    "{\n"
	    "  PROTOBUF_C__SERVICE_DESCRIPTOR_MAGIC,\n"
	    "  \"$1\",\n"
	    "  \"$2\",\n"
	    "  \"$3\",\n"
	    "  \"$4\",\n",
	    low, s->full_name, s->name, class, s->file->package);
	if (s->methods_n > 0)
		put(t,
		    "  $1,\n"
		    "  $0__method_descriptors,\n"
		    "  $0__method_indices_by_name\n"
		    "};\n",
		    low, str(c, "%u", s->methods_n));
	else
		put(t, "  0,\n  NULL,\n  NULL\n};\n");
	for (uint32_t i = 0; i < s->methods_n; i++) {
		caller_put(c, t, low, &s->methods[i], "");
		put(t,
		    "{\n"
		    "  assert(service->descriptor == &$0__descriptor);\n"
		    "  service->invoke(service, $1, (const ProtobufCMessage *) input,\n"
		    "                  (ProtobufCClosure) closure, closure_data);\n"
		    "}\n",
		    low, str(c, "%u", i));
	}
	put(t,
	    "void $0__init ($1_Service *service,\n"
	    "     $2        $1_ServiceDestroy destroy)\n"
	    "{\n"
	    "  protobuf_c_service_generated_init (&service->base,\n"
	    "                                     &$0__descriptor,\n"
	    "                                     (ProtobufCServiceDestroy) destroy);\n"
	    "}\n",
	    low, class, spaces(c, low));
}

/* NOLINTEND(bugprone-suspicious-missing-comma) */
