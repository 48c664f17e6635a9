/* Options of split/options.proto, read from the spans of the descriptors. The last word counts, as
 * for any protobuf field; a message option may come in pieces, which protoc writes for
 * `option (split.method).deadline_ms = 5;`. */
#include "linearize/descriptor/descriptor_internal.h"

#define SPLIT_OPTION 51400

enum {
	METHOD_DECODE = 1,
	METHOD_ENCODE = 2,
	METHOD_REQUEST_BYTES = 3,
	METHOD_RESPONSE_BYTES = 4,
	METHOD_DEADLINE = 5,
	METHOD_IDEMPOTENCY = 6,
};

static void method_piece(struct proto_bytes rest, struct proto_method_options *out)
{
	struct proto_item item;

	while (proto_next(&rest, &item) > 0) {
		uint32_t v = item.value > UINT32_MAX ? UINT32_MAX : (uint32_t)item.value;

		if (item.wire != 0)
			continue;
		switch (item.number) {
		case METHOD_DECODE:
			out->decode = v <= 2 ? v : 0;
			break;
		case METHOD_ENCODE:
			out->encode = v <= 2 ? v : 0;
			break;
		case METHOD_REQUEST_BYTES:
			out->request_bytes_max = v;
			break;
		case METHOD_RESPONSE_BYTES:
			out->response_bytes_max = v;
			break;
		case METHOD_DEADLINE:
			out->deadline_ms = v;
			break;
		case METHOD_IDEMPOTENCY:
			out->idempotency = v <= 2 ? v : 0;
			break;
		default:
			break;
		}
	}
}

static void method_pieces(struct proto_bytes options, struct proto_method_options *out)
{
	struct proto_item item;

	while (proto_next(&options, &item) > 0)
		if (item.number == SPLIT_OPTION && item.wire == 2)
			method_piece(item.bytes, out);
}

void proto_method_options_read(const struct proto_service *s, const struct proto_method *m,
			       struct proto_method_options *out)
{
	*out = (struct proto_method_options){.idempotency = m->idempotency};
	method_pieces(s->options, out);
	method_pieces(m->options, out);
	out->any = out->decode || out->encode || out->request_bytes_max ||
		   out->response_bytes_max || out->deadline_ms || out->idempotency;
}

bool proto_field_is_acc(const struct proto_field *f)
{
	struct proto_bytes rest = f->options;
	struct proto_item item;
	bool acc = false;

	while (proto_next(&rest, &item) > 0)
		if (item.number == SPLIT_OPTION && item.wire == 0)
			acc = item.value != 0;
	return acc;
}
