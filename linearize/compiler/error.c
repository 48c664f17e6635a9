/* Findings with their place in the source, and the source's comments.
 *
 * SourceCodeInfo is a list of locations: a path of field numbers and indexes into the
 * FileDescriptorProto, a span of lines and columns from 0, and the comments around it. */
#include "linearize/compiler/compiler_internal.h"

#include <stdarg.h>
#include <stdlib.h>

enum { INFO_LOCATION = 1 };
enum { LOCATION_PATH = 1, LOCATION_SPAN = 2, LOCATION_LEADING = 3, LOCATION_TRAILING = 4 };

struct location {
	int32_t path[PROTO_PATH_MAX];
	uint32_t steps;
	int32_t line, column; /* -1: none */
	struct proto_bytes leading, trailing;
};

struct comments {
	struct location *locations; /* by path */
	size_t n;
};

static bool varint(struct proto_bytes *rest, uint64_t *out)
{
	*out = 0;
	for (unsigned shift = 0; shift < 64 && rest->len > 0; shift += 7) {
		uint8_t byte = *rest->data++;

		rest->len--;
		*out |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			return true;
	}
	return false;
}

/* Packed or not; a longer list than `max` is cut, which no path of ours is equal to. */
static void ints_add(const struct proto_item *item, int32_t *out, uint32_t *n, uint32_t max)
{
	struct proto_bytes rest = item->bytes;
	uint64_t v;

	if (item->wire == 0 && *n < max)
		out[(*n)++] = (int32_t)item->value;
	while (item->wire == 2 && *n < max && varint(&rest, &v))
		out[(*n)++] = (int32_t)v;
}

static void location_read(struct proto_bytes bytes, struct location *l)
{
	int32_t span[4];
	uint32_t spans = 0;
	struct proto_item item;

	*l = (struct location){.line = -1, .column = -1};
	while (proto_next(&bytes, &item) > 0) {
		if (item.number == LOCATION_PATH)
			ints_add(&item, l->path, &l->steps, PROTO_PATH_MAX);
		else if (item.number == LOCATION_SPAN)
			ints_add(&item, span, &spans, 4);
		else if (item.number == LOCATION_LEADING && item.wire == 2)
			l->leading = item.bytes;
		else if (item.number == LOCATION_TRAILING && item.wire == 2)
			l->trailing = item.bytes;
	}
	if (spans >= 3 && span[0] >= 0 && span[1] >= 0) {
		l->line = span[0];
		l->column = span[1];
	}
}

static int path_compare(const int32_t *a, uint32_t a_steps, const int32_t *b, uint32_t b_steps)
{
	for (uint32_t i = 0; i < a_steps && i < b_steps; i++)
		if (a[i] != b[i])
			return a[i] < b[i] ? -1 : 1;
	return (a_steps > b_steps) - (a_steps < b_steps);
}

bool source_place(const struct proto_file *file, const int32_t *path, uint32_t steps,
		  uint32_t *line_out, uint32_t *column_out)
{
	struct proto_bytes rest = file->source_info;
	struct proto_item item;
	struct location l;

	while (proto_next(&rest, &item) > 0) {
		if (item.number != INFO_LOCATION || item.wire != 2)
			continue;
		location_read(item.bytes, &l);
		if (l.line < 0 || path_compare(l.path, l.steps, path, steps) != 0)
			continue;
		*line_out = (uint32_t)l.line + 1;
		*column_out = (uint32_t)l.column + 1;
		return true;
	}
	return false;
}

void compiler_fail(struct compiler *c, const struct proto_file *file, const int32_t *path,
		   uint32_t steps, const char *format, ...)
{
	char text[1024], place[64] = "";
	uint32_t line, column;
	va_list args;

	if (failed(c))
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (file && path && source_place(file, path, steps, &line, &column))
		snprintf(place, sizeof(place), "%u:%u: ", line, column);
	c->error = (char *)(uintptr_t)str(c, "%s%s%s%s", file ? file->name : "", file ? ":" : "",
					  file && !*place ? " " : place, text);
}

/* --- Comments ------------------------------------------------------------------------------- */

static int location_order(const void *a, const void *b)
{
	const struct location *x = a, *y = b;

	return path_compare(x->path, x->steps, y->path, y->steps);
}

struct comments *comments_read(struct compiler *c, const struct proto_file *file)
{
	struct comments *all = scratch_get(c, sizeof(*all));
	struct proto_bytes rest = file->source_info;
	struct proto_item item;
	size_t n = 0;

	/* Only what has a comment is kept. */
	while (proto_next(&rest, &item) > 0) {
		struct location l;

		if (item.number != INFO_LOCATION || item.wire != 2)
			continue;
		location_read(item.bytes, &l);
		n += l.leading.len > 0 || l.trailing.len > 0;
	}
	if (!all)
		return NULL;
	all->locations = scratch_get(c, n * sizeof(*all->locations));
	if (!all->locations)
		return NULL;
	for (rest = file->source_info; all->n < n && proto_next(&rest, &item) > 0;) {
		struct location *l = &all->locations[all->n];

		if (item.number != INFO_LOCATION || item.wire != 2)
			continue;
		location_read(item.bytes, l);
		all->n += l->leading.len > 0 || l->trailing.len > 0;
	}
	if (n > 0)
		qsort(all->locations, n, sizeof(*all->locations), location_order);
	return all;
}

static const struct location *location_find(const struct comments *all, const int32_t *path,
					    uint32_t steps)
{
	size_t low = 0, high = all ? all->n : 0;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct location *l = &all->locations[mid];
		int order = path_compare(l->path, l->steps, path, steps);

		if (order == 0)
			return l;
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* Characters that change the direction of text: compilers warn of them, rightly. */
static bool is_bidi(const uint8_t *p, size_t left)
{
	if (left >= 2 && p[0] == 0xd8 && p[1] == 0x9c)
		return true; /* U+061C */
	if (left < 3 || p[0] != 0xe2)
		return false;
	if (p[1] == 0x80) /* U+200E, 200F, 202A..202E */
		return p[2] == 0x8e || p[2] == 0x8f || (p[2] >= 0xaa && p[2] <= 0xae);
	return p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9; /* U+2066..2069 */
}

/* What must not be in a C comment, or not as it is, becomes something harmless. */
static void comment_line(struct text *t, const char *indent, struct proto_bytes line)
{
	size_t len = line.len;

	while (len > 0 && (line.data[len - 1] == ' ' || line.data[len - 1] == '\t' ||
			   line.data[len - 1] == '\r'))
		len--;
	put(t, "$0 *", indent);
	if (len > 0 && line.data[0] != ' ' && line.data[0] != '\t')
		text_bytes(t, " ", 1);
	for (size_t i = 0; i < len; i++) {
		uint8_t b = line.data[i], before = i > 0 ? line.data[i - 1] : ' ';

		if (is_bidi(line.data + i, len - i)) {
			i += b == 0xd8 ? 1 : 2;
			b = '?';
		}
		if ((b == '/' && (before == '*' || before == '?')) || (b == '*' && before == '/') ||
		    (b == '?' && before == '?'))
			text_bytes(t, " ", 1);
		if ((b < ' ' && b != '\t') || b == 0x7f)
			b = ' ';
		text_bytes(t, &b, 1);
	}
	text_bytes(t, "\n", 1);
}

static void comment_lines(struct text *t, const char *indent, struct proto_bytes text)
{
	while (text.len > 0) {
		const uint8_t *end = memchr(text.data, '\n', text.len);
		size_t len = end ? (size_t)(end - text.data) : text.len;
		size_t step = end ? len + 1 : len;

		comment_line(t, indent, (struct proto_bytes){text.data, len});
		text.data += step;
		text.len -= step;
	}
}

void comments_put(struct compiler *c, struct text *t, const int32_t *path, uint32_t steps,
		  const char *indent, const char *note)
{
	static const struct proto_bytes blank = {(const uint8_t *)"\n", 1};
	const struct location *l = location_find(c->comments, path, steps);
	bool any = false;

	if (!l && !note)
		return;
	put(t, "$0/*\n", indent);
	if (l && l->leading.len > 0) {
		comment_lines(t, indent, l->leading);
		any = true;
	}
	if (l && l->trailing.len > 0) {
		if (any)
			comment_lines(t, indent, blank);
		comment_lines(t, indent, l->trailing);
		any = true;
	}
	if (note) {
		if (any)
			comment_lines(t, indent, blank);
		comment_lines(t, indent, (struct proto_bytes){(const uint8_t *)note, strlen(note)});
	}
	put(t, "$0 */\n", indent);
}
