/* A message that was refused, as a line for the log.
 *
 * What decode had taken before it stopped is shown by decoding it again, here and at leisure: the
 * wire is copied up to the field that was refused, and the messages that are open there are given
 * the lengths they then have. So the copy is a message like any other, and neither decode nor the
 * view needs to know of half ones. The same walk finds the names of the fields on the way.
 *
 * Wire bytes are ours by now (nobody writes to them); a linear message is its host's, which may
 * write to it while it is shown. */
#include "linearize/json/json_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define WIRE_VARINT    0
#define WIRE_64        1
#define WIRE_LEN       2
#define WIRE_GROUP     3
#define WIRE_GROUP_END 4
#define WIRE_32        5

#define TAG_BYTES_MAX 5
/* A length that is not known yet is written with as many bytes. */
#define LEN_BYTES 5
/* Bytes of the refused field that are shown in hexadecimal. */
#define HEX_BYTES 32
/* Where decode says that it refuses something else in what is left: so often it is cut again. */
#define CUTS_MAX 8
/* A message has so many bytes in its line in any case. */
#define TEXT_LEAST 64
/* What one view may make of a log record's bytes, whatever they decode to. */
#define VIEW_LINEAR_MAX ((uint64_t)64 << 20)

/* --- Walking the wire -------------------------------------------------------------------- */

struct walk {
	const uint8_t *wire;
	uint64_t kept; /* bytes of it */
	uint64_t stop; /* nothing from here on is copied; at most `kept` */
	uint8_t *to;   /* what was copied: room for `stop` bytes and LEN_BYTES for each level */
	size_t n;
	struct {
		size_t at;   /* where in `to` its length goes */
		size_t more; /* than the length had before */
	} open[LINEAR_DEPTH_MAX];
	unsigned depth; /* messages that are open */
	char *path;     /* JSON_PATH_MAX */
	size_t path_n;
};

/* False: it is none, or goes on past `end`. */
static bool varint_read(const uint8_t *wire, uint64_t *at, uint64_t end, unsigned most,
			uint64_t *out)
{
	uint64_t v = 0;
	unsigned i;

	for (i = 0; i < most && *at < end; i++) {
		uint8_t byte = wire[(*at)++];

		v |= (uint64_t)(byte & 0x7f) << (7 * i);
		if (byte < 0x80) {
			*out = v;
			return true;
		}
	}
	return false;
}

/* The end of a value that is no group and begins at `at`. False: not before `end`. */
static bool value_end(const uint8_t *wire, uint64_t *at, uint64_t end, unsigned type)
{
	uint64_t v = type == WIRE_64 ? 8 : 4;

	if (type == WIRE_VARINT)
		return varint_read(wire, at, end, 10, &v);
	if (type == WIRE_LEN && !varint_read(wire, at, end, LEN_BYTES, &v))
		return false;
	if (type > WIRE_32 || v > end - *at)
		return false;
	*at += v;
	return true;
}

/* The end of a group whose tag was read. */
static bool group_end(const uint8_t *wire, uint64_t *at, uint64_t end)
{
	unsigned depth = 1;

	while (depth > 0) {
		uint64_t tag;

		if (!varint_read(wire, at, end, TAG_BYTES_MAX, &tag))
			return false;
		if ((tag & 7) == WIRE_GROUP)
			depth++;
		else if ((tag & 7) == WIRE_GROUP_END)
			depth--;
		else if (!value_end(wire, at, end, tag & 7))
			return false;
	}
	return true;
}

/* Fields ascend by number. */
static bool field_find(const struct schema_message *m, uint64_t number,
		       struct schema_field_view *out, uint32_t *index_out)
{
	uint32_t low = 0, high = schema_field_count(m);

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		schema_field_at(m, middle, out);
		*index_out = middle;
		if (out->number == number)
			return true;
		if (out->number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/* The end of the value of a field whose tag was read. */
static bool field_end(const uint8_t *wire, uint64_t *at, uint64_t end, uint64_t tag)
{
	return (tag & 7) == WIRE_GROUP ? group_end(wire, at, end)
				       : value_end(wire, at, end, tag & 7);
}

/* How many fields of `number` lie whole in [at, end). */
static uint64_t count_before(const uint8_t *wire, uint64_t at, uint64_t end, uint64_t number)
{
	uint64_t n = 0, tag;

	while (at < end && varint_read(wire, &at, end, TAG_BYTES_MAX, &tag)) {
		if (!field_end(wire, &at, end, tag))
			break;
		n += tag >> 3 == number;
	}
	return n;
}

static void path_add(struct walk *w, struct text name, const char *format, uint64_t number)
{
	size_t room = JSON_PATH_MAX - w->path_n;
	char text[32];
	int n;

	(void)snprintf(text, sizeof(text), format, number);
	n = snprintf(w->path + w->path_n, room, "%.*s%s", (int)name.len, name.at, text);
	if (n > 0 && (size_t)n < room)
		w->path_n += (size_t)n;
	else
		w->path[w->path_n] = '\0';
}

/* The field of tag `tag`, before which its message has `before` of them. `f` NULL: the schema has
 * none. */
static void path_field(struct walk *w, const struct schema_field_view *f, uint64_t tag,
		       uint64_t before)
{
	static const struct text dot = {".", 1}, nothing = {"", 0};
	char room[VIEW_KEY_MAX];

	if (w->path_n > 0)
		path_add(w, dot, "", 0);
	if (f == NULL) {
		path_add(w, nothing, "#%" PRIu64, tag >> 3);
		return;
	}
	path_add(w, view_key(f, false, room), "", 0);
	if (f->presence == SCHEMA_PRESENCE_REPEATED &&
	    (f->type == PROTOBUF_C_TYPE_MESSAGE || f->type == PROTOBUF_C_TYPE_STRING ||
	     f->type == PROTOBUF_C_TYPE_BYTES))
		path_add(w, nothing, "[%" PRIu64 "]", before);
}

static void copy(struct walk *w, uint64_t from, uint64_t to)
{
	memcpy(w->to + w->n, w->wire + from, to - from);
	w->n += to - from;
}

/* Copy the fields of a message at `*at` that are whole, and name the one that is not. True: that is
 * a message, of type `*m` from now on, whose content begins at `*at`. */
static bool level(struct walk *w, const struct schema_message **m, uint64_t *at)
{
	uint64_t from = *at, p, content, tag, len;
	struct schema_field_view f;
	uint32_t index;
	bool known;

	for (;; *at = p) {
		p = *at;
		if (!varint_read(w->wire, &p, w->kept, TAG_BYTES_MAX, &tag) || tag < 8)
			return false;
		content = p;
		if (p > w->stop || !field_end(w->wire, &p, w->stop, tag))
			break;
		copy(w, *at, p);
	}
	known = field_find(*m, tag >> 3, &f, &index);
	path_field(w, known ? &f : NULL, tag, count_before(w->wire, from, *at, tag >> 3));
	p = content;
	if (!known || (tag & 7) != WIRE_LEN || f.type != PROTOBUF_C_TYPE_MESSAGE ||
	    w->depth == LINEAR_DEPTH_MAX || !varint_read(w->wire, &p, w->stop, LEN_BYTES, &len))
		return false;
	copy(w, *at, content);
	w->open[w->depth].at = w->n;
	w->open[w->depth++].more = LEN_BYTES - (p - content);
	w->n += LEN_BYTES;
	*m = f.message;
	*at = p;
	return true;
}

/* Copy the message up to `stop`; its path ends where that is. */
static void walk_copy(struct walk *w, const struct schema_message *m)
{
	uint64_t at = 0;
	unsigned d, i;

	w->n = w->path_n = 0;
	w->depth = 0;
	w->path[0] = '\0';
	while (level(w, &m, &at))
		;
	for (d = 0; d < w->depth; d++) {
		size_t len = w->n - w->open[d].at - LEN_BYTES;
		uint8_t *to = w->to + w->open[d].at;

		for (i = 0; i < LEN_BYTES; i++)
			to[i] = (uint8_t)((len >> (7 * i) & 0x7f) | (i + 1 < LEN_BYTES ? 0x80 : 0));
	}
}

/* An offset in the copy, on the wire. */
static uint64_t walk_origin(const struct walk *w, uint64_t at)
{
	uint64_t more = 0;
	unsigned d;

	for (d = 0; d < w->depth && w->open[d].at < at; d++)
		more += w->open[d].more;
	return at - more;
}

/* Append the path to the first required field that is not there, of the message of type `m` in
 * [from, end). False: there is none. (A message that comes in pieces counts as several here.) */
static bool missing_find(struct walk *w, const struct schema_message *m, uint64_t from,
			 uint64_t end, unsigned depth)
{
	uint32_t n = schema_field_count(m), i;
	uint32_t *seen = calloc((size_t)n + 1, sizeof(*seen)); /* how many, by field */
	uint64_t p = from, tag, len;
	struct schema_field_view f;
	bool found = false;

	if (!seen)
		return false;
	while (!found && varint_read(w->wire, &p, end, TAG_BYTES_MAX, &tag)) {
		uint64_t content = p;

		if (!field_end(w->wire, &p, end, tag))
			break;
		if (!field_find(m, tag >> 3, &f, &i))
			continue;
		seen[i]++;
		if (f.type == PROTOBUF_C_TYPE_MESSAGE && (tag & 7) == WIRE_LEN &&
		    depth < LINEAR_DEPTH_MAX && varint_read(w->wire, &content, end, 5, &len)) {
			size_t mark = w->path_n;

			path_field(w, &f, tag, seen[i] - 1);
			found = missing_find(w, f.message, content, p, depth + 1);
			if (!found)
				w->path[w->path_n = mark] = '\0';
		}
	}
	for (i = 0; !found && i < n; i++) {
		schema_field_at(m, i, &f);
		found = f.presence == SCHEMA_PRESENCE_REQUIRED && seen[i] == 0;
		if (found)
			path_field(w, &f, 0, 0);
	}
	free(seen);
	return found;
}

/* --- Showing ----------------------------------------------------------------------------- */

/* jansson leaves DEL as it is, which is no printable character: it is written like this. */
static const char del[] = "\\u007f";

/* Of `value` in the line; 0: no memory. */
static size_t line_bytes(const json_t *value)
{
	char *text = json_dumps(value, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_ENCODE_ANY);
	size_t n = 0, i;

	for (i = 0; text && text[i] != '\0'; i++)
		n += text[i] == 0x7f ? sizeof(del) - 1 : 1;
	free(text);
	return n;
}

/* The message in no more than r->text_max bytes of text, as far as it goes, into out->value. */
static void bounded_show(const struct json_refused *r, const struct linear_source *source,
			 uint64_t root, struct json_partial *out)
{
	size_t most = r->text_max < TEXT_LEAST ? TEXT_LEAST : r->text_max, bytes;
	struct json_view_options options = {.text_max = most, .values_max = (uint32_t)most};

	for (;;) {
		if (json_view_partial(r->m, source, root, &options, out) != 0 && !out->value)
			return;
		bytes = line_bytes(out->value);
		if ((bytes > 0 && bytes <= most) || options.text_max == 1)
			return;
		/* What JSON adds to text is known once it was added. */
		json_decref(out->value);
		options.text_max /= 2;
		options.values_max = options.values_max / 2 + 1;
	}
}

/* What a line says of a message. */
struct shown {
	struct json_partial part;
	uint64_t at;  /* where it was refused; UINT64_MAX: nobody knows */
	bool located; /* part.path is where, too */
	bool cut;     /* there is more that was good */
};

static void linear_line(const struct json_refused *r, struct shown *s)
{
	bounded_show(r, r->source, r->root, &s->part);
	s->located = s->part.error == -SPLIT_E_LINEARIZE_POINTER ||
		     s->part.error == -SPLIT_E_LINEARIZE_SOURCE ||
		     s->part.error == -SPLIT_E_LINEARIZE_DEPTH;
	s->cut = s->part.error != 0 && !s->located;
}

/* Decode the copy, and again less of it while something is refused of which nobody has said where.
 * 0 and the source, whose memory is the caller's; negative: nothing can be shown. */
static int wire_decode(struct walk *w, const struct json_refused *r, struct shown *s,
		       struct linear_source *source, uint64_t *root)
{
	static const struct linear_limits limits = {.linear_bytes_max = VIEW_LINEAR_MAX};
	uint64_t where = 0;
	int rc = 0, i;

	for (i = 0; i < CUTS_MAX; i++) {
		walk_copy(w, r->m);
		rc = view_decode(r->m, w->to, w->n, &limits, source, root, &where);
		if (rc == 0 || rc == -SPLIT_E_BASE_NOMEM)
			break;
		where = walk_origin(w, where);
		w->stop = where < w->stop ? where : 0;
		s->at = w->stop;
	}
	return rc;
}

static void wire_line(const struct json_refused *r, struct shown *s)
{
	struct walk w = {.wire = r->wire, .kept = r->kept};
	struct linear_source source = {0};
	char path[JSON_PATH_MAX] = "";
	uint64_t root;

	w.path = path;
	w.stop = s->at < r->kept ? s->at : r->kept;
	w.to = malloc(w.stop + (size_t)LEN_BYTES * LINEAR_DEPTH_MAX + 1);
	if (w.to && wire_decode(&w, r, s, &source, &root) == 0) {
		bounded_show(r, &source, root, &s->part);
		free((void *)(uintptr_t)source.mem);
	}
	free(w.to);
	if (r->error == -SPLIT_E_LINEARIZE_REQUIRED && r->kept == r->bytes) {
		w.path_n = 0;
		s->located = missing_find(&w, r->m, 0, r->kept, 0);
	} else {
		s->located = s->at < r->kept;
	}
	s->cut = s->part.error != 0 || (r->kept < r->bytes && s->at > r->kept);
	memcpy(s->part.path, path, sizeof(path));
}

/* --- The line ---------------------------------------------------------------------------- */

static void put(json_t *line, const char *key, json_t *value)
{
	/* Without memory there is less in it. */
	(void)json_object_set_new(line, key, value);
}

static void put_hex(json_t *line, const struct json_refused *r, uint64_t at)
{
	char hex[2 * HEX_BYTES + 1];
	uint64_t from = at != JSON_UNKNOWN ? at : 0, i;

	for (i = 0; i < HEX_BYTES && from + i < r->kept; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", r->wire[from + i]);
	if (i > 0)
		put(line, "hex", json_stringn(hex, 2 * i));
}

/* `text` is taken. */
static char *printable(char *text)
{
	size_t len = strlen(text), n = 0, i;
	char *to = strchr(text, 0x7f) ? malloc(len * (sizeof(del) - 1) + 1) : NULL;

	if (!to)
		return text;
	for (i = 0; i < len; i++) {
		if (text[i] != 0x7f) {
			to[n++] = text[i];
			continue;
		}
		memcpy(to + n, del, sizeof(del) - 1);
		n += sizeof(del) - 1;
	}
	to[n] = '\0';
	free(text);
	return to;
}

int json_refused_line(const struct json_refused *r, char **line_out)
{
	struct shown s = {.at = r->at};
	json_t *line = json_object();

	put(line, "refused", json_string(r->what));
	put(line, "peer", json_string(r->peer));
	put(line, "host", json_string(r->host));
	put(line, "method", json_sprintf("/%s/%s", r->service, r->method));
	put(line, "error", json_string(error_name(r->error)));
	put(line, "text", json_string(error_text(r->error)));
	put(line, "status", json_integer(r->status));
	if (r->bytes != JSON_UNKNOWN)
		put(line, "bytes", json_integer((json_int_t)r->bytes));
	if (r->source != NULL)
		linear_line(r, &s);
	else if (r->wire != NULL)
		wire_line(r, &s);
	if (s.at != JSON_UNKNOWN)
		put(line, "at", json_integer((json_int_t)s.at));
	if (s.located && s.part.path[0] != '\0')
		put(line, "field", json_string(s.part.path));
	if (r->wire != NULL)
		put_hex(line, r, s.at);
	if (s.cut)
		put(line, "cut", json_true());
	if (s.part.value != NULL)
		put(line, "message", s.part.value);
	*line_out = json_dumps(line, JSON_COMPACT | JSON_ENSURE_ASCII);
	json_decref(line);
	if (*line_out != NULL)
		*line_out = printable(*line_out);
	return *line_out != NULL ? 0 : -SPLIT_E_BASE_NOMEM;
}
