/* Raw HTTP/2 frames for tests: written by hand, read back with nghttp2's HPACK decoder. */
#ifndef SPLITD_TESTS_HTTP2_WIRE_H
#define SPLITD_TESTS_HTTP2_WIRE_H

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

#define WIRE_MAX (4u << 20)

struct wire {
	size_t n;
	uint8_t b[WIRE_MAX];
};

static inline void wire_put(struct wire *w, const void *p, size_t n)
{
	if (n > WIRE_MAX - w->n)
		abort();
	if (n > 0)
		memcpy(w->b + w->n, p, n);
	w->n += n;
}

static inline void wire_frame(struct wire *w, uint8_t type, uint8_t flags, uint32_t id,
			      const void *p, size_t n)
{
	uint8_t head[9];

	be32_store(head, (uint32_t)n << 8);
	head[3] = type;
	head[4] = flags;
	be32_store(head + 5, id);
	wire_put(w, head, 9);
	wire_put(w, p, n);
}

static inline void wire_preface(struct wire *w)
{
	wire_put(w, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	wire_frame(w, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
}

static inline void wire_u32(struct wire *w, uint8_t type, uint32_t id, uint32_t value)
{
	uint8_t p[4];

	be32_store(p, value);
	wire_frame(w, type, 0, id, p, 4);
}

/* One literal field without indexing; strings under 127 + 128 bytes. */
static inline size_t wire_literal(uint8_t *dst, const char *name, const char *value)
{
	const char *const parts[2] = {name, value};
	size_t at = 0;

	dst[at++] = 0;
	for (int i = 0; i < 2; i++) {
		size_t n = strlen(parts[i]);

		if (n < 127) {
			dst[at++] = (uint8_t)n;
		} else {
			dst[at++] = 127;
			for (n -= 127; n >= 128; n >>= 7)
				dst[at++] = (uint8_t)(n | 128);
			dst[at++] = (uint8_t)n;
		}
		memcpy(dst + at, parts[i], strlen(parts[i]));
		at += strlen(parts[i]);
	}
	return at;
}

/* `fields`: name, value, name, value, ..., NULL. */
static inline void wire_headers(struct wire *w, uint32_t id, uint8_t flags,
				const char *const *fields)
{
	static uint8_t block[65536];
	size_t n = 0;

	for (; fields[0] != NULL; fields += 2)
		n += wire_literal(block + n, fields[0], fields[1]);
	wire_frame(w, NGHTTP2_HEADERS, flags | NGHTTP2_FLAG_END_HEADERS, id, block, n);
}

/* What came back, frame by frame. */
struct wire_got {
	uint8_t type, flags;
	uint32_t id;
	const uint8_t *p;
	size_t n;
	char fields[8192]; /* HEADERS: "name: value\n" ... */
};

struct wire_reader {
	nghttp2_hd_inflater *inflater;
	const uint8_t *b;
	size_t n, at;
};

static inline void wire_reader_init(struct wire_reader *r, const uint8_t *b, size_t n)
{
	if (nghttp2_hd_inflate_new(&r->inflater) != 0)
		abort();
	r->b = b;
	r->n = n;
	r->at = 0;
}

static inline void wire_reader_fini(struct wire_reader *r)
{
	nghttp2_hd_inflate_del(r->inflater);
}

static inline bool wire_next(struct wire_reader *r, struct wire_got *g)
{
	size_t text = 0;

	if (r->n - r->at < 9)
		return false;
	g->n = be32_load(r->b + r->at) >> 8;
	g->type = r->b[r->at + 3];
	g->flags = r->b[r->at + 4];
	g->id = be32_load(r->b + r->at + 5);
	if (r->n - r->at - 9 < g->n)
		return false;
	g->p = r->b + r->at + 9;
	r->at += 9 + g->n;
	g->fields[0] = 0;
	if (g->type != NGHTTP2_HEADERS)
		return true;
	for (size_t at = 0;;) {
		nghttp2_nv nv;
		int flags = 0;
		ssize_t k =
			nghttp2_hd_inflate_hd2(r->inflater, &nv, &flags, g->p + at, g->n - at, 1);

		if (k < 0)
			abort();
		at += (size_t)k;
		if (flags & NGHTTP2_HD_INFLATE_EMIT)
			text += (size_t)snprintf(g->fields + text, sizeof(g->fields) - text,
						 "%s: %s\n", nv.name, nv.value);
		if (flags & NGHTTP2_HD_INFLATE_FINAL)
			break;
	}
	nghttp2_hd_inflate_end_headers(r->inflater);
	return true;
}

/* The next frame of this type and stream; false when there is none. */
static inline bool wire_find(struct wire_reader *r, struct wire_got *g, uint8_t type, uint32_t id)
{
	while (wire_next(r, g))
		if (g->type == type && g->id == id)
			return true;
	return false;
}

#endif
