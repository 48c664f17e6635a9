/* .split.h and .split.c: typed handlers for the four kinds of call, on libsplit-host.
 *
 * What a user writes is a struct of functions, one member for each method; what registers it is one
 * call. Between a handler and libsplit-host lies a trampoline, which casts the message and hands
 * what the handler returned to split_call_settle. */
#include "linearize/compiler/compiler_internal.h"
#include "linearize/compiler/messages.h"

/* put() takes its text in several pieces.
 * NOLINTBEGIN(bugprone-suspicious-missing-comma) */

enum kind { UNARY, CLIENT_STREAM, SERVER_STREAM, BIDI_STREAM };

static const char *const kind_names[] = {"SPLIT_UNARY", "SPLIT_CLIENT_STREAM",
					 "SPLIT_SERVER_STREAM", "SPLIT_BIDI_STREAM"};

static enum kind kind_of(const struct proto_method *m)
{
	if (m->client_streaming)
		return m->server_streaming ? BIDI_STREAM : CLIENT_STREAM;
	return m->server_streaming ? SERVER_STREAM : UNARY;
}

/* What the templates below are filled with. */
struct method_names {
	const char *low, *name, *input, *output, *full;
};

static struct method_names names_of(struct compiler *c, const struct proto_service *s,
				    const struct proto_method *m)
{
	return (struct method_names){
		.low = name_lower(c, s->full_name),
		.name = name_method(c, m),
		.input = name_class(c, m->input->full_name),
		.output = name_class(c, m->output->full_name),
		.full = str(c, "%s__%s", name_lower(c, s->full_name), name_method(c, m)),
	};
}

/* --- The header ----------------------------------------------------------------------------- */

static const char *method_note(struct compiler *c, const struct proto_service *s,
			       const struct proto_method *m)
{
	struct proto_method_options o;
	const char *note = str(c, "rpc %s (%s%s) returns (%s%s)\n", m->name,
			       m->client_streaming ? "stream " : "", m->input->full_name,
			       m->server_streaming ? "stream " : "", m->output->full_name);

	proto_method_options_read(s, m, &o);
	if (o.request_bytes_max)
		note = str(c, "%sRequests of at most %u bytes.\n", note, o.request_bytes_max);
	if (o.response_bytes_max)
		note = str(c, "%sResponses of at most %u bytes.\n", note, o.response_bytes_max);
	if (o.deadline_ms)
		note = str(c, "%sDeadline when the client gives none: %u ms.\n", note,
			   o.deadline_ms);
	return m->deprecated ? str(c, "%sDeprecated.\n", note) : note;
}

static void handler_put(struct compiler *c, struct text *t, const struct proto_service *s,
			uint32_t index)
{
	const struct proto_method *m = &s->methods[index];
	struct method_names n = names_of(c, s, m);
	int32_t path[PROTO_PATH_MAX];

	comments_put(c, t, path, proto_method_path(s, index, path), "  ", method_note(c, s, m));
	switch (kind_of(m)) {
	case UNARY:
		put(t,
		    "  int (*$0)(struct split_call *call, const $1 *request,\n"
		    "            $2 *reply, void *data);\n",
		    n.name, n.input, n.output);
		return;
	case SERVER_STREAM:
		put(t,
		    "  struct {\n"
		    "    int (*request)(struct split_call *call, const $0 *request, void *data);\n"
		    "    void (*writable)(struct split_call *call, void *data);\n",
		    n.input);
		break;
	case CLIENT_STREAM:
		put(t,
		    "  struct {\n"
		    "    void (*open)(struct split_call *call, void *data);\n"
		    "    void (*message)(struct split_call *call, const $0 *message, void *data);\n"
		    "    int (*half_close)(struct split_call *call, $1 *reply, void *data);\n",
		    n.input, n.output);
		break;
	case BIDI_STREAM:
		put(t,
		    "  struct {\n"
		    "    void (*open)(struct split_call *call, void *data);\n"
		    "    void (*message)(struct split_call *call, const $0 *message, void *data);\n"
		    "    int (*half_close)(struct split_call *call, void *data);\n"
		    "    void (*writable)(struct split_call *call, void *data);\n",
		    n.input);
		break;
	}
	put(t, "    void (*cancelled)(struct split_call *call, void *data);\n"
	       "    void (*closed)(struct split_call *call, void *data);\n");
	if (m->client_streaming)
		put(t, "    uint32_t read_ahead; /* as in struct split_method */\n"
		       "    unsigned flags;      /* SPLIT_METHOD_* */\n");
	put(t, "  } $0;\n", n.name);
}

static void senders_declare(struct compiler *c, struct text *t, const struct proto_service *s,
			    const struct proto_method *m)
{
	struct method_names n = names_of(c, s, m);

	if (!m->server_streaming) {
		put(t,
		    "/* The answer of a call whose handler returned SPLIT_LATER: "
		    "split_call_answer. */\n"
		    "int $0__answer(struct split_call *call, const $1 *reply);\n",
		    n.full, n.output);
		return;
	}
	put(t,
	    "/* One message: split_call_send, split_call_send_wait. */\n"
	    "int $0__send(struct split_call *call, const $1 *message);\n"
	    "int $0__send_wait(struct split_call *call, const $1 *message,\n"
	    "                  uint64_t timeout_ns);\n",
	    n.full, n.output);
}

static void service_declare(struct compiler *c, struct text *t, const struct proto_service *s)
{
	const char *class = name_class(c, s->full_name), *low = name_lower(c, s->full_name);
	int32_t path[PROTO_PATH_MAX];

	put(t, "/* --- $0 --- */\n\n", s->full_name);
	comments_put(
		c, t, path, proto_service_path(s, path), "",
		str(c,
		    "Handlers of %s. A method whose handlers are NULL is not served. What a "
		    "handler\nreturns: SPLIT_OK sends the reply (or ends the stream); another "
		    "enum split_status fails the\ncall; SPLIT_LATER leaves it open, to be "
		    "answered by anyone who retained it.\nA reply comes initialised, and what it "
		    "points to may come from split_call_alloc.\n",
		    s->full_name));
	put(t, "typedef struct _$0_Handlers\n{\n", class);
	for (uint32_t i = 0; i < s->methods_n; i++)
		handler_put(c, t, s, i);
	if (s->methods_n == 0)
		put(t, "  int no_methods;\n");
	put(t,
	    "} $0_Handlers;\n\n"
	    "/* Serve them: every method that has handlers. `handlers` is copied, `data` goes to "
	    "each\n"
	    " * handler. Before split_host_run. 0 or SPLIT_E_*. */\n"
	    "int $1__serve(struct split_host *host, const $0_Handlers *handlers, void *data);\n\n",
	    class, low);
	for (uint32_t i = 0; i < s->methods_n; i++)
		senders_declare(c, t, s, &s->methods[i]);
	put(t, "\n");
}

void handlers_header(struct compiler *c, struct text *t)
{
	const struct proto_file *f = c->file;
	const char *guard = name_guard(c, f->name), *stem = name_stem(c, f);

	put(t,
	    "/* Generated by protoc-gen-split. DO NOT EDIT! */\n"
	    "/* Generated from: $0 */\n\n"
	    "#ifndef SPLIT_$1__INCLUDED\n"
	    "#define SPLIT_$1__INCLUDED\n\n"
	    "#include <split-host.h>\n\n"
	    "#include \"$2.pb-c.h\"\n\n"
	    "PROTOBUF_C__BEGIN_DECLS\n\n",
	    file_name_for_comment(c, f), guard, stem);
	put(t,
	    "/* Tell splitd what protobuf-c's descriptors leave out: syntax, closed enums, JSON\n"
	    " * names, the file's descriptor for reflection. The functions below that serve do it "
	    "by\n"
	    " * themselves; this is for messages that are served otherwise, as by "
	    "split_host_serve.\n"
	    " * Before split_host_run. 0 or SPLIT_E_*. */\n"
	    "int $0(struct split_host *host);\n\n",
	    tables_name(c, f));
	for (uint32_t i = 0; i < f->services_n; i++)
		service_declare(c, t, &f->services[i]);
	put(t, "PROTOBUF_C__END_DECLS\n\n#endif  /* SPLIT_$0__INCLUDED */\n", guard);
}

/* --- The source ----------------------------------------------------------------------------- */

static void trampoline_head(struct text *t, const struct method_names *n, const char *what,
			    bool message)
{
	put(t,
	    "static void $0__$1(struct split_call *call$2, void *data)\n"
	    "{\n"
	    "  const struct $3__binding *b = (const struct $3__binding *)data;\n",
	    n->full, what, message ? ", const ProtobufCMessage *message" : "", n->low);
}

/* A callback without a result, passed on when there is one. */
static void trampoline_plain(struct text *t, const struct method_names *n, const char *what)
{
	trampoline_head(t, n, what, false);
	put(t, "\n  if (b->handlers.$0.$1)\n    b->handlers.$0.$1(call, b->data);\n}\n", n->name,
	    what);
}

static void trampoline_reading(struct text *t, const struct method_names *n, bool bidi,
			       const char *init)
{
	trampoline_plain(t, n, "open");
	trampoline_head(t, n, "message", true);
	put(t,
	    "\n  if (b->handlers.$0.message)\n"
	    "    b->handlers.$0.message(call, (const $1 *)message, b->data);\n}\n",
	    n->name, n->input);
	trampoline_head(t, n, "half_close", false);
	if (bidi) {
		put(t,
		    "  int result = b->handlers.$0.half_close ?\n"
		    "               b->handlers.$0.half_close(call, b->data) : SPLIT_OK;\n\n"
		    "  split_call_settle(call, result, NULL);\n}\n",
		    n->name);
		trampoline_plain(t, n, "writable");
	} else {
		put(t,
		    "  $1 reply = $2;\n"
		    "  int result = b->handlers.$0.half_close(call, &reply, b->data);\n\n"
		    "  split_call_settle(call, result, (const ProtobufCMessage *)&reply);\n}\n",
		    n->name, n->output, init);
	}
}

static void trampolines_put(struct compiler *c, struct text *t, const struct proto_service *s,
			    const struct proto_method *m)
{
	struct method_names n = names_of(c, s, m);
	const char *init = str(c, "%s__INIT", name_upper(c, m->output->full_name));

	switch (kind_of(m)) {
	case UNARY:
		trampoline_head(t, &n, "message", true);
		put(t,
		    "  $2 reply = $3;\n"
		    "  int result = b->handlers.$0(call, (const $1 *)message, &reply, b->data);\n\n"
		    "  split_call_settle(call, result, (const ProtobufCMessage *)&reply);\n}\n",
		    n.name, n.input, n.output, init);
		return;
	case SERVER_STREAM:
		trampoline_head(t, &n, "message", true);
		put(t,
		    "  int result = b->handlers.$0.request(call, (const $1 *)message, b->data);\n\n"
		    "  split_call_settle(call, result, NULL);\n}\n",
		    n.name, n.input);
		trampoline_plain(t, &n, "writable");
		break;
	case CLIENT_STREAM:
		trampoline_reading(t, &n, false, init);
		break;
	case BIDI_STREAM:
		trampoline_reading(t, &n, true, init);
		break;
	}
	trampoline_plain(t, &n, "cancelled");
	trampoline_plain(t, &n, "closed");
}

static void senders_define(struct compiler *c, struct text *t, const struct proto_service *s,
			   const struct proto_method *m)
{
	struct method_names n = names_of(c, s, m);

	if (!m->server_streaming) {
		put(t,
		    "int $0__answer(struct split_call *call, const $1 *reply)\n"
		    "{\n  return split_call_answer(call, (const ProtobufCMessage *)reply);\n}\n",
		    n.full, n.output);
		return;
	}
	put(t,
	    "int $0__send(struct split_call *call, const $1 *message)\n"
	    "{\n  return split_call_send(call, (const ProtobufCMessage *)message);\n}\n"
	    "int $0__send_wait(struct split_call *call, const $1 *message,\n"
	    "                  uint64_t timeout_ns)\n"
	    "{\n"
	    "  return split_call_send_wait(call, (const ProtobufCMessage *)message, timeout_ns);\n"
	    "}\n",
	    n.full, n.output);
}

static void options_put(struct compiler *c, struct text *t, const char *full,
			const struct proto_method_options *o)
{
	static const char *const places[] = {"ANY", "DAEMON", "HOST"};
	static const char *const idempotency[] = {"UNKNOWN", "NO_SIDE_EFFECTS", "IDEMPOTENT"};

	put(t,
	    "static const struct split_method_options $0__options =\n"
	    "{\n"
	    "  .request_bytes_max = $1,\n"
	    "  .response_bytes_max = $2,\n"
	    "  .deadline_ns = $3ull * 1000000,\n"
	    "  .decode = SPLIT_PLACE_$4,\n"
	    "  .encode = SPLIT_PLACE_$5,\n"
	    "  .idempotency = SPLIT_IDEMPOTENCY_$6,\n"
	    "};\n",
	    full, str(c, "%u", o->request_bytes_max), str(c, "%u", o->response_bytes_max),
	    str(c, "%u", o->deadline_ms), places[o->decode], places[o->encode],
	    idempotency[o->idempotency]);
}

static void method_define(struct compiler *c, struct text *t, const struct proto_service *s,
			  const struct proto_method *m)
{
	struct method_names n = names_of(c, s, m);
	enum kind kind = kind_of(m);
	struct proto_method_options o;

	proto_method_options_read(s, m, &o);
	trampolines_put(c, t, s, m);
	senders_define(c, t, s, m);
	if (o.any)
		options_put(c, t, n.full, &o);
	put(t,
	    "static const struct split_method $0__method =\n"
	    "{\n"
	    "  .service = \"$1\",\n"
	    "  .name = \"$2\",\n"
	    "  .kind = $3,\n"
	    "  .input = &$4__descriptor,\n"
	    "  .output = &$5__descriptor,\n"
	    "  .message = $0__message,\n",
	    n.full, s->full_name, m->name, kind_names[kind], name_lower(c, m->input->full_name),
	    name_lower(c, m->output->full_name));
	if (m->client_streaming)
		put(t, "  .open = $0__open,\n  .half_close = $0__half_close,\n", n.full);
	if (m->server_streaming)
		put(t, "  .writable = $0__writable,\n", n.full);
	if (kind != UNARY)
		put(t, "  .cancelled = $0__cancelled,\n  .closed = $0__closed,\n", n.full);
	if (o.any)
		put(t, "  .options = &$0__options,\n", n.full);
	put(t, "};\n");
}

/* Which member says that a method is served. */
static const char *served_condition(struct compiler *c, const struct proto_method *m,
				    const char *name)
{
	switch (kind_of(m)) {
	case UNARY:
		return str(c, "b->handlers.%s", name);
	case SERVER_STREAM:
		return str(c, "b->handlers.%s.request", name);
	case CLIENT_STREAM:
		return str(c, "b->handlers.%s.half_close", name);
	default:
		return str(c, "(b->handlers.%s.message || b->handlers.%s.half_close)", name, name);
	}
}

static void register_put(struct compiler *c, struct text *t, const struct proto_service *s,
			 const struct proto_method *m)
{
	struct method_names n = names_of(c, s, m);

	put(t,
	    "  if (rc == 0 && $0) {\n"
	    "    struct split_method m = $1__method;\n\n"
	    "    m.data = b;\n",
	    served_condition(c, m, n.name), n.full);
	if (m->client_streaming)
		put(t,
		    "    m.read_ahead = b->handlers.$0.read_ahead;\n"
		    "    m.flags = b->handlers.$0.flags;\n",
		    n.name);
	/* Without it the library ends cancelled calls by itself. */
	if (kind_of(m) != UNARY)
		put(t, "    if (!b->handlers.$0.cancelled)\n      m.cancelled = NULL;\n", n.name);
	put(t, "    rc = split_host_serve_method(host, &m);\n  }\n");
	if (kind_of(m) == CLIENT_STREAM)
		put(t,
		    "  if (rc == 0 && b->handlers.$0.message && !b->handlers.$0.half_close)\n"
		    "    rc = SPLIT_E_ARGUMENT;\n",
		    n.name);
}

static void service_define(struct compiler *c, struct text *t, const struct proto_service *s)
{
	const char *class = name_class(c, s->full_name), *low = name_lower(c, s->full_name);

	put(t,
	    "\n/* --- $2 --- */\n\n"
	    "struct $0__binding\n"
	    "{\n"
	    "  $1_Handlers handlers;\n"
	    "  void *data;\n"
	    "};\n\n",
	    low, class, s->full_name);
	for (uint32_t i = 0; i < s->methods_n; i++)
		method_define(c, t, s, &s->methods[i]);
	put(t,
	    "int $0__serve(struct split_host *host, const $1_Handlers *handlers, void *data)\n"
	    "{\n"
	    "  struct $0__binding now, *b;\n"
	    "  int rc;\n\n"
	    "  if (!host || !handlers)\n"
	    "    return SPLIT_E_ARGUMENT;\n"
	    "  now.handlers = *handlers;\n"
	    "  now.data = data;\n"
	    "  b = (struct $0__binding *)split_host_keep(host, &now, sizeof(now));\n"
	    "  if (!b)\n"
	    "    return SPLIT_E_NOMEM;\n"
	    "  rc = $2(host);\n",
	    low, class, tables_name(c, s->file));
	for (uint32_t i = 0; i < s->methods_n; i++)
		register_put(c, t, s, &s->methods[i]);
	put(t, "  return rc;\n}\n");
}

void handlers_source(struct compiler *c, struct text *t)
{
	const struct proto_file *f = c->file;

	put(t,
	    "/* Generated by protoc-gen-split. DO NOT EDIT! */\n"
	    "/* Generated from: $0 */\n\n"
	    "#ifndef PROTOBUF_C__NO_DEPRECATED\n"
	    "#define PROTOBUF_C__NO_DEPRECATED\n"
	    "#endif\n\n"
	    "#include <split-schema.h>\n\n"
	    "#include \"$1.split.h\"\n\n",
	    file_name_for_comment(c, f), name_stem(c, f));
	tables_source(c, t);
	for (uint32_t i = 0; i < f->services_n; i++)
		service_define(c, t, &f->services[i]);
}

/* NOLINTEND(bugprone-suspicious-missing-comma) */
