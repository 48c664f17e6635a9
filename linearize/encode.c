/* Linear -> wire, the generic engine: one pass, backwards, an explicit stack.
 *
 * The output is written from its last byte to its first, so that a length is known when it is
 * written and nothing needs to be measured before. Messages are therefore walked from the last
 * unknown field to the first, then from the last field to the first, elements from the last one on.
 *
 * The source is the peer's memory and may change at any moment. Each word is loaded once into a
 * local (load*_once), checked, then used; every address becomes a pointer through window() only.
 * The length of a string is measured once and then binding: if the peer moves the NUL meanwhile,
 * the bytes that are sent change, and nothing else. Cycles and shared children are bounded by
 * depth, output bytes, elements and work.
 *
 * Addresses of defaults and of protobuf_c_empty_string lie in the peer's image, outside the
 * window; they are known by value, and their content comes from the schema.
 */
#include "linearize/encode_internal.h"

/* A source that is larger is not mapped as a whole: nothing before or after a value is read. */
#define SOURCE_WHOLE_MAX (UINT64_C(1) << 40)

#define CHUNK_WANT_MIN 4096u
#define CHUNK_WANT_MAX (256u << 10)

static inline struct encode_state *state_of(struct encode_job *j)
{
	return (struct encode_state *)(void *)j->opaque;
}

static inline const struct encode_state *state_const(const struct encode_job *j)
{
	return (const struct encode_state *)(const void *)j->opaque;
}

static bool fail(struct encode_state *s, int error)
{
	s->error = -error;
	return false;
}

/* --- The peer's memory
 * ---------------------------------------------------------------------------- */

/* The one way from a peer's address to memory: [address, address + bytes) in this process, or NULL
 * with s->error set when any of it lies outside the source. */
static inline const uint8_t *window(struct encode_state *s, uint64_t address, uint64_t bytes)
{
	uint64_t at = address - s->source.peer_base;

	if (address < s->source.peer_base || at > s->source.bytes || bytes > s->source.bytes - at) {
		fail(s, SPLIT_E_LINEARIZE_POINTER);
		return NULL;
	}
	return s->source.mem + at;
}

/* --- The output
 * --------------------------------------------------------------------------------------- */

static bool chunk_next(struct encode_state *s)
{
	struct linear_chunk chunk;
	uint64_t want = s->written;
	int rc;

	if (want < CHUNK_WANT_MIN)
		want = CHUNK_WANT_MIN;
	if (want > CHUNK_WANT_MAX)
		want = CHUNK_WANT_MAX;
	if (want < s->left + sizeof(s->header))
		want = s->left + sizeof(s->header);
	rc = s->sink.chunk_get(s->sink.ctx, want, &chunk);
	if (rc) {
		s->error = rc < 0 ? rc : -SPLIT_E_LINEARIZE_NOMEM;
		return false;
	}
	if (!chunk.mem || chunk.bytes == 0)
		return fail(s, SPLIT_E_BASE_INTERNAL);
	if (s->chunk_count < ENCODE_CHUNKS_MAX)
		s->chunks[s->chunk_count] = chunk;
	s->chunk_count++;
	s->chunk = chunk.mem;
	s->head = chunk.mem + chunk.bytes;
	return true;
}

/* Write `n` bytes in front of what is written. */
static bool put_slow(struct encode_state *s, const uint8_t *bytes, uint64_t n)
{
	while (n) {
		uint64_t room = (uint64_t)(s->head - s->chunk);

		if (room == 0) {
			if (!chunk_next(s))
				return false;
			continue;
		}
		if (room > n)
			room = n;
		n -= room;
		s->head -= room;
		memcpy(s->head, bytes + n, room);
	}
	return true;
}

static inline bool put(struct encode_state *s, const uint8_t *bytes, uint64_t n)
{
	if (n > s->limits.wire_bytes_max - s->written)
		return fail(s, SPLIT_E_LINEARIZE_LIMIT_WIRE);
	s->written += n;
	if (n > (uint64_t)(s->head - s->chunk))
		return put_slow(s, bytes, n);
	if (n) {
		s->head -= n;
		memcpy(s->head, bytes, n);
	}
	return true;
}

static inline unsigned varint_write(uint8_t *to, uint64_t v)
{
	unsigned n = 0;

	while (v >= 0x80) {
		to[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	to[n++] = (uint8_t)v;
	return n;
}

static inline bool put_varint(struct encode_state *s, uint64_t v)
{
	uint8_t bytes[10];

	return put(s, bytes, varint_write(bytes, v));
}

static inline bool put_tag(struct encode_state *s, const struct schema_field *f)
{
	return put(s, f->tag, f->tag_bytes);
}

/* Tag and length of what was written since `mark`. */
static bool put_header(struct encode_state *s, const struct schema_field *f, uint64_t mark)
{
	return put_varint(s, s->written - mark) && put_tag(s, f);
}

static inline bool element_count(struct encode_state *s, uint64_t n)
{
	if (n > s->limits.elements_max - s->elements)
		return fail(s, SPLIT_E_LINEARIZE_LIMIT_ELEMENTS);
	s->elements += n;
	return true;
}

/* --- Copying
 * ------------------------------------------------------------------------------------------ */

/* The tail first, in slices of the budget; the prepared header last. */
static bool copy_run(struct encode_state *s)
{
	while (s->left) {
		uint64_t n = (uint64_t)s->budget * LINEAR_UNIT_BYTES;

		if (s->budget <= 0)
			return true;
		if (n > s->left)
			n = s->left;
		if (!put(s, s->from + s->left - n, n))
			return false;
		s->left -= n;
		s->budget -= (int64_t)(n / LINEAR_UNIT_BYTES + (n >= LINEAR_UNIT_BYTES / 2));
	}
	s->phase = PHASE_FIELDS;
	return put(s, s->header, s->header_bytes);
}

static bool copy_start(struct encode_state *s, const uint8_t *from, uint64_t n)
{
	if (n > s->limits.wire_bytes_max - s->written)
		return fail(s, SPLIT_E_LINEARIZE_LIMIT_WIRE);
	s->from = from;
	s->left = n;
	s->phase = PHASE_COPY;
	return copy_run(s);
}

/* `n` bytes at `from` as the content of field `f`. */
static bool put_content(struct encode_state *s, const struct schema_field *f, const uint8_t *from,
			uint64_t n)
{
	memcpy(s->header, f->tag, f->tag_bytes);
	s->header_bytes = (uint8_t)(f->tag_bytes + varint_write(s->header + f->tag_bytes, n));
	return copy_start(s, from, n);
}

/* --- Strings and bytes
 * ----------------------------------------------------------------------------------- */

/* Look for the NUL of the string at `from`, not past the window nor the output's limit. */
static bool string_run(struct encode_state *s)
{
	uint64_t window_left = (uint64_t)(s->source.mem + s->source.bytes - s->from);

	while (s->budget > 0) {
		uint64_t n = (uint64_t)s->budget * LINEAR_UNIT_BYTES;
		const uint8_t *nul;

		if (n > window_left - s->length)
			n = window_left - s->length;
		if (n == 0)
			return fail(s, SPLIT_E_LINEARIZE_POINTER);
		nul = memchr(s->from + s->length, 0, n);
		if (nul)
			n = (uint64_t)(nul - s->from) - s->length;
		s->length += n;
		s->budget -= (int64_t)(n / LINEAR_UNIT_BYTES);
		if (s->length > s->limits.wire_bytes_max - s->written)
			return fail(s, SPLIT_E_LINEARIZE_LIMIT_WIRE);
		if (nul)
			return put_content(s, s->field, s->from, s->length);
	}
	return true;
}

/* NULL counts as empty, as in protobuf-c. */
static bool string_put(struct encode_state *s, const struct schema_field *f, uint64_t address)
{
	if (address == 0 || address == s->frame->m->empty_string)
		return put_content(s, f, NULL, 0);
	if (address == f->default_address)
		return put_content(s, f, f->default_data, f->default_bytes);
	s->from = window(s, address, 1);
	if (!s->from)
		return false;
	s->field = f;
	s->length = 0;
	s->phase = PHASE_STRING;
	return string_run(s);
}

static bool bytes_put(struct encode_state *s, const struct schema_field *f, uint64_t len,
		      uint64_t address)
{
	const uint8_t *from;

	if (len == 0)
		return put_content(s, f, NULL, 0);
	if (address == f->default_address && address != 0 && len <= f->default_bytes)
		return put_content(s, f, f->default_data, len);
	from = window(s, address, len);
	return from && put_content(s, f, from, len);
}

/* --- Messages
 * ---------------------------------------------------------------------------------------------- */

static bool message_push(struct encode_state *s, const struct schema_message *m, uint64_t address)
{
	struct encode_frame *frame = s->frame ? s->frame + 1 : s->frames;
	const uint8_t *src;

	if ((uint64_t)(frame - s->frames) > s->limits.depth_max)
		return fail(s, SPLIT_E_LINEARIZE_DEPTH);
	src = window(s, address, m->struct_bytes);
	if (!src)
		return false;
	frame->m = m;
	frame->at = m->encode_end;
	frame->src = src;
	frame->left = 0;
	frame->mark = s->written;
	frame->unknown_done = false;
	s->frame = frame;
	return true;
}

static bool message_put(struct encode_state *s, const struct schema_field *f, uint64_t address)
{
	if (address == 0) /* as protobuf-c: required and missing is empty */
		return put_content(s, f, NULL, 0);
	return message_push(s, f->sub.message, address);
}

/* --- Values
 * -------------------------------------------------------------------------------------------------
 */

/* The varint of the 4 or 8 bytes `v` of a member of `type`. */
static inline uint64_t varint_convert(unsigned type, uint64_t v)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_ENUM:
		return (uint64_t)(int64_t)(int32_t)v;
	case PROTOBUF_C_TYPE_SINT32:
		return (uint32_t)((uint32_t)v << 1) ^ (uint32_t)((int32_t)v >> 31);
	case PROTOBUF_C_TYPE_SINT64:
		return v << 1 ^ (uint64_t)((int64_t)v >> 63);
	case PROTOBUF_C_TYPE_BOOL:
		return v != 0;
	default:
		return v;
	}
}

static inline uint64_t value_load(const struct schema_field *f, const uint8_t *at)
{
	return f->bytes == 4 ? load32_once(at) : load64_once(at);
}

static inline bool scalar_put(struct encode_state *s, const struct schema_field *f, uint64_t v)
{
	bool good = f->wire == WIRE_VARINT ? put_varint(s, varint_convert(f->type, v))
					   : put(s, (const uint8_t *)&v, f->bytes);

	return good && put_tag(s, f);
}

/* One value of `f`, with its tag, whose member or element lies at `at`. */
static bool value_put(struct encode_state *s, const struct schema_field *f, const uint8_t *at)
{
	if (f->type == PROTOBUF_C_TYPE_STRING)
		return string_put(s, f, load64_once(at));
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return message_put(s, f, load64_once(at));
	if (f->type == PROTOBUF_C_TYPE_BYTES) {
		uint64_t len = load64_once(at);

		return bytes_put(s, f, len, load64_once(at + 8));
	}
	return scalar_put(s, f, value_load(f, at));
}

/* --- Singular fields
 * ------------------------------------------------------------------------------------------ */

/* A proto3 string without presence at `address`: is it empty? Anything it cannot look at is not. */
static bool string_is_empty(struct encode_state *s, const struct schema_field *f, uint64_t address)
{
	const uint8_t *p;

	if (address == 0 || address == s->frame->m->empty_string)
		return true;
	if (address == f->default_address)
		return f->default_bytes == 0;
	p = window(s, address, 1);
	return p && *(const volatile uint8_t *)p == 0;
}

/* proto3 without presence: zero, empty and NULL are not sent; -0.0 counts as zero (protobuf-c). */
static bool plain_put(struct encode_state *s, const struct schema_field *f, const uint8_t *at)
{
	uint64_t v = value_load(f, at); /* of bytes: the length */
	uint64_t magnitude = f->type == PROTOBUF_C_TYPE_FLOAT    ? v & INT32_MAX
			     : f->type == PROTOBUF_C_TYPE_DOUBLE ? v & INT64_MAX
								 : v;

	if (magnitude == 0)
		return true;
	if (f->type == PROTOBUF_C_TYPE_STRING && string_is_empty(s, f, v))
		return true;
	if (s->error)
		return false;
	switch (f->type) {
	case PROTOBUF_C_TYPE_BYTES:
		return bytes_put(s, f, v, load64_once(at + 8));
	case PROTOBUF_C_TYPE_STRING:
		return string_put(s, f, v);
	case PROTOBUF_C_TYPE_MESSAGE:
		return message_put(s, f, v);
	default:
		return scalar_put(s, f, v);
	}
}

/* Strings and messages whose presence is their pointer: NULL and the default are absent. */
static bool pointer_put(struct encode_state *s, const struct schema_field *f, const uint8_t *at)
{
	uint64_t address = load64_once(at);

	if (address == 0 || address == f->default_address)
		return true;
	return f->type == PROTOBUF_C_TYPE_STRING ? string_put(s, f, address)
						 : message_put(s, f, address);
}

static bool singular_put(struct encode_state *s, const struct schema_field *f, const uint8_t *src)
{
	const uint8_t *at = src + f->offset;
	bool pointer = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE;

	if (f->card == CARD_ONEOF) {
		if (load32_once(src + f->quantifier) != f->number)
			return true;
		if (pointer)
			return pointer_put(s, f, at);
	} else if (f->card == CARD_HAS) {
		if (load32_once(src + f->quantifier) == 0)
			return true;
	} else if (f->flags & FIELD_OPTIONAL) {
		return pointer_put(s, f, at);
	} else if (f->flags & FIELD_NONE) {
		return plain_put(s, f, at);
	}
	return value_put(s, f, at);
}

/* --- Repeated fields
 * ------------------------------------------------------------------------------------------- */

static bool packed_run(struct encode_state *s)
{
	struct encode_frame *frame = s->frame;
	const struct schema_field *f = s->field;

	while (frame->left && s->budget > 0) {
		uint64_t v;

		if (s->fast) {
			s->fast->encode_packed(s);
			if (!frame->left || s->budget <= 0)
				break;
		}
		frame->left--;
		s->budget--;
		v = value_load(f, frame->array + frame->left * f->bytes);
		if (!put_varint(s, varint_convert(f->type, v)))
			return false;
	}
	if (frame->left)
		return true;
	s->phase = PHASE_FIELDS;
	return put_header(s, f, s->mark);
}

static bool repeated_put(struct encode_state *s, const struct schema_field *f)
{
	struct encode_frame *frame = s->frame;
	uint64_t n = load64_once(frame->src + f->quantifier), address;

	if (n == 0)
		return true;
	if (n > s->source.bytes / f->bytes)
		return fail(s, SPLIT_E_LINEARIZE_POINTER);
	address = load64_once(frame->src + f->offset);
	frame->array = window(s, address, n * f->bytes);
	if (!frame->array || !element_count(s, n))
		return false;
	if (f->flags & FIELD_PACKED && f->wire != WIRE_VARINT)
		return put_content(s, f, frame->array, n * f->bytes);
	frame->left = n;
	if (f->flags & FIELD_PACKED) {
		s->field = f;
		s->mark = s->written;
		s->phase = PHASE_PACKED;
		return packed_run(s);
	}
	return true; /* fields_run takes the elements one by one */
}

/* --- Unknown fields
 * ---------------------------------------------------------------------------------------------- */

static bool unknown_start(struct encode_state *s)
{
	struct encode_frame *frame = s->frame;
	uint64_t n = load32_once(frame->src + BASE_N_UNKNOWN);

	frame->unknown_done = true;
	if (n == 0)
		return true;
	frame->array = window(s, load64_once(frame->src + BASE_UNKNOWN),
			      n * sizeof(ProtobufCMessageUnknownField));
	frame->left = n;
	return frame->array && element_count(s, n);
}

static bool unknown_put(struct encode_state *s, const uint8_t *at)
{
	uint32_t number = load32_once(at), wire = load32_once(at + 4);
	uint64_t len = load64_once(at + 8), address = load64_once(at + 16);
	const uint8_t *from = NULL;

	if (number == 0 || number > FIELD_NUMBER_MAX || wire > WIRE_32 || wire == WIRE_GROUP_END)
		return fail(s, SPLIT_E_LINEARIZE_SOURCE);
	if (len) {
		from = window(s, address, len);
		if (!from)
			return false;
	}
	s->header_bytes = (uint8_t)varint_write(s->header, number << 3 | wire);
	return copy_start(s, from, len);
}

/* --- The walk
 * --------------------------------------------------------------------------------------------------------
 */

static inline const struct schema_field *field_at(const struct encode_frame *frame)
{
	return &frame->m->fields[frame->at->index];
}

static bool element_put(struct encode_state *s, struct encode_frame *frame)
{
	const struct schema_field *f;

	frame->left--;
	if (frame->at == frame->m->encode_end)
		return unknown_put(s, frame->array +
					      frame->left * sizeof(ProtobufCMessageUnknownField));
	f = field_at(frame);
	return value_put(s, f, frame->array + frame->left * f->bytes);
}

/* All of the frame's message is out: its header, then on with its parent. */
static bool message_pop(struct encode_state *s)
{
	uint64_t mark = s->frame->mark;

	if (s->frame == s->frames) {
		s->phase = PHASE_DONE;
		return true;
	}
	s->frame--;
	return put_header(s, field_at(s->frame), mark);
}

/* What the fast engine does not do. */
static __attribute__((noinline)) bool step_run(struct encode_state *s)
{
	struct encode_frame *frame = s->frame;
	const struct schema_field *f;

	if (frame->left) {
		s->budget--;
		return element_put(s, frame);
	}
	if (!frame->unknown_done) {
		/* Its begin and end and all its fields, there or not, are charged here. */
		s->budget -= 2 + (int64_t)frame->m->field_count;
		return unknown_start(s);
	}
	if (frame->at[-1].index == ENCODE_ROW_BEGIN)
		return message_pop(s);
	frame->at--;
	f = field_at(frame);
	return f->card == CARD_REPEATED ? repeated_put(s, f) : singular_put(s, f, frame->src);
}

static inline bool fields_run(struct encode_state *s)
{
	do {
		if (likely(s->fast != NULL)) {
			s->fast->encode(s);
			if (s->budget <= 0)
				break;
			/* All of the outermost message is out. */
			if (likely(s->frame == s->frames && s->frame->unknown_done &&
				   !s->frame->left && s->frame->at[-1].index == ENCODE_ROW_BEGIN)) {
				s->phase = PHASE_DONE;
				break;
			}
		}
		if (!step_run(s))
			return false;
	} while (s->budget > 0 && s->phase == PHASE_FIELDS);
	return true;
}

/* Any phase but FIELDS. */
static __attribute__((noinline)) bool phase_run(struct encode_state *s)
{
	switch (s->phase) {
	case PHASE_STRING:
		return string_run(s);
	case PHASE_COPY:
		return copy_run(s);
	case PHASE_PACKED:
		return packed_run(s);
	default:
		return true;
	}
}

/* --- Public
 * ------------------------------------------------------------------------------------------------------------
 */

int encode_start(struct encode_job *j, const struct schema_message *m,
		 const struct linear_source *source, uint64_t root, const struct encode_sink *sink,
		 const struct linear_limits *limits)
{
	struct encode_state *s = state_of(j);

	/* What the phases and the tables need is written before it is read. */
	s->frame = NULL;
	s->frames[0].m = m;
	s->elements = s->written = s->work = 0;
	s->source.mem = source->mem;
	s->source.peer_base = source->peer_base;
	s->source.bytes = source->bytes;
	s->empty_string = m->empty_string;
	s->phase = PHASE_FIELDS;
	s->head = s->chunk = NULL;
	s->chunk_count = 0;
	s->left = 0;
	s->error = 0;
	s->root = root;
	s->sink.chunk_get = sink->chunk_get;
	s->sink.ctx = sink->ctx;
	linear_limits_resolve(&s->limits, limits);
	s->frame_last = s->frames + s->limits.depth_max;
	s->inner_peer = source->peer_base + ENCODE_MARGIN;
	s->inner_mem = (uintptr_t)source->mem + ENCODE_MARGIN;
	/* An empty string that lies there is one that must be looked for everywhere. */
	s->inner = source->bytes >= 2 * ENCODE_MARGIN && source->bytes < SOURCE_WHOLE_MAX &&
				   m->empty_string - source->peer_base >= source->bytes
			   ? source->bytes - 2 * ENCODE_MARGIN + 1
			   : 0;
	s->fast = linear_fast_of_job();
	return 0;
}

int encode_run(struct encode_job *j)
{
	struct encode_state *s = state_of(j);
	int64_t quantum = s->limits.work_quantum;

	if (s->error)
		return s->error;
	if (s->phase == PHASE_DONE)
		return 0;
	if ((uint64_t)quantum > s->limits.work_max - s->work)
		quantum = (int64_t)(s->limits.work_max - s->work) + 1;
	s->budget = quantum;
	if (!s->frame && message_push(s, s->frames[0].m, s->root))
		(void)chunk_next(s); /* before the first byte: then the fast engine can begin */
	while (!s->error && s->phase != PHASE_DONE && s->budget > 0)
		if (!(likely(s->phase == PHASE_FIELDS) ? fields_run(s) : phase_run(s)))
			break;
	s->work += (uint64_t)(quantum - s->budget);
	if (!s->error && s->work > s->limits.work_max)
		s->error = -SPLIT_E_LINEARIZE_LIMIT_WORK;
	if (s->error)
		return s->error;
	return s->phase == PHASE_DONE ? 0 : SPLIT_AGAIN;
}

int encode_result(const struct encode_job *j, struct iovec *iov, size_t n)
{
	const struct encode_state *s = state_const(j);
	uint32_t i;

	if (s->written == 0)
		return 0;
	if (s->chunk_count > n || s->chunk_count > ENCODE_CHUNKS_MAX)
		return -SPLIT_E_LINEARIZE_CHUNKS;
	for (i = 0; i < s->chunk_count; i++) {
		const struct linear_chunk *c = &s->chunks[s->chunk_count - 1 - i];
		uint8_t *start = i == 0 ? s->head : c->mem;

		iov[i].iov_base = start;
		iov[i].iov_len = (size_t)(c->mem + c->bytes - start);
	}
	return (int)s->chunk_count;
}

uint64_t encode_bytes(const struct encode_job *j)
{
	return state_const(j)->written;
}

uint8_t *encode_head(const struct encode_job *j)
{
	return state_const(j)->head;
}

uint64_t encode_work(const struct encode_job *j)
{
	return state_const(j)->work;
}
