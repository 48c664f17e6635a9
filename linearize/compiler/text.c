/* Text that grows, templates, and strings that live as long as the run. */
#include "linearize/compiler/compiler_internal.h"

#include <stdarg.h>
#include <stdlib.h>

void *scratch_get(struct compiler *c, size_t bytes)
{
	struct pool_chunk *p = calloc(1, sizeof(*p) + bytes);

	if (!p) {
		c->nomem = true;
		return NULL;
	}
	p->next = c->pool;
	c->pool = p;
	return p->text;
}

const char *str(struct compiler *c, const char *format, ...)
{
	va_list args, again;
	char *s;
	int n;

	va_start(args, format);
	va_copy(again, args);
	n = vsnprintf(NULL, 0, format, args);
	s = n < 0 ? NULL : scratch_get(c, (size_t)n + 1);
	if (s)
		vsnprintf(s, (size_t)n + 1, format, again);
	va_end(again);
	va_end(args);
	return s ? s : "";
}

void text_bytes(struct text *t, const void *bytes, size_t len)
{
	if (t->room - t->len < len) {
		size_t room = (t->len + len) * 2 + 4096;
		char *grown = realloc(t->bytes, room);

		if (!grown) {
			t->failed = true;
			return;
		}
		t->bytes = grown;
		t->room = room;
	}
	if (len)
		memcpy(t->bytes + t->len, bytes, len);
	t->len += len;
}

void text_fini(struct text *t)
{
	free(t->bytes);
	*t = (struct text){0};
}

void text_put(struct text *t, const char *const *args)
{
	const char *p = args[0];

	for (;;) {
		const char *dollar = strchr(p, '$');

		if (!dollar) {
			text_bytes(t, p, strlen(p));
			return;
		}
		text_bytes(t, p, (size_t)(dollar - p));
		if (dollar[1] == '$')
			text_bytes(t, "$", 1);
		else
			text_bytes(t, args[dollar[1] - '0' + 1], strlen(args[dollar[1] - '0' + 1]));
		p = dollar + 2;
	}
}

/* Octal escapes have three digits, so that a digit may follow; `?` is escaped against trigraphs. */
const char *c_string(struct compiler *c, struct proto_bytes bytes)
{
	char *s = scratch_get(c, bytes.len * 4 + 3), *to = s;

	if (!s)
		return "\"\"";
	*to++ = '"';
	for (size_t i = 0; i < bytes.len; i++) {
		uint8_t b = bytes.data[i];

		if (b == '"' || b == '\\' || b == '?') {
			*to++ = '\\';
			*to++ = (char)b;
		} else if (b >= ' ' && b <= '~') {
			*to++ = (char)b;
		} else {
			to += snprintf(to, 5, "\\%03o", b);
		}
	}
	*to = '"';
	return s;
}
