/* Header lists: kept while they come in, and held against RFC 9113 s8.2 and s8.3.
 *
 * nghttp2 can check them itself, but has to look at every byte of every field of every request.
 * A client says the same of itself in each request, and HPACK says that by an index: nghttp2 then
 * hands over the very buffers it handed over the last time. So a session remembers its last list
 * (the memo) with a reference to each buffer, which keeps its address from being used for another.
 * A field whose two buffers, or at least their bytes, stand at the same place of the memo was
 * looked at before, and a list that is the memo from end to end has the verdict of the last one.
 */
#include "daemon/http2/http2_internal.h"

#include <string.h>
#include <strings.h>

/* A field larger than that is not remembered, lest an idle session keeps a client's cookies. */
#define MEMO_BYTES_MAX 512

/* RFC 9113 s6.5.2: what each field adds to the size of a list. */
#define HEADER_OVERHEAD 32
/* A list this many times over its limit ends the connection (HPACK bombs). */
#define HEADER_BOMB_FACTOR 4

enum field_token {
	FIELD_OTHER,
	FIELD_BAD, /* forbidden characters, or a field that HTTP/2 has no place for */
	FIELD_METHOD,
	FIELD_SCHEME,
	FIELD_AUTHORITY,
	FIELD_PATH,
	FIELD_HOST,
	FIELD_CONTENT_LENGTH,
};

#define IS(p, n, text) ((n) == sizeof(text) - 1 && memcmp((p), (text), sizeof(text) - 1) == 0)
#define TOKEN(t)       (1u << (t))
#define PSEUDO_TOKENS                                                                              \
	(TOKEN(FIELD_METHOD) | TOKEN(FIELD_SCHEME) | TOKEN(FIELD_AUTHORITY) | TOKEN(FIELD_PATH))

/* RFC 9113 s8.3.1: a pseudo-header field says something. */
static bool blank(const nghttp2_vec *v)
{
	for (size_t i = 0; i < v->len; i++)
		if (v->base[i] != ' ' && v->base[i] != '\t')
			return false;
	return true;
}

static enum field_token pseudo_token(const nghttp2_vec *n, const nghttp2_vec *v)
{
	const char *name = (const char *)n->base;

	if (blank(v))
		return FIELD_BAD;
	if (IS(name, n->len, ":path"))
		return nghttp2_check_path(v->base, v->len) ? FIELD_PATH : FIELD_BAD;
	if (IS(name, n->len, ":method"))
		return nghttp2_check_method(v->base, v->len) ? FIELD_METHOD : FIELD_BAD;
	if (IS(name, n->len, ":authority"))
		return nghttp2_check_authority(v->base, v->len) ? FIELD_AUTHORITY : FIELD_BAD;
	if (IS(name, n->len, ":scheme"))
		return nghttp2_check_header_value(v->base, v->len) ? FIELD_SCHEME : FIELD_BAD;
	return FIELD_BAD;
}

/* RFC 9113 s8.2.2: fields of the connection have no place here, "te" says "trailers" or nothing. */
static bool connection_specific(const nghttp2_vec *n, const nghttp2_vec *v)
{
	const char *name = (const char *)n->base;

	if (IS(name, n->len, "te"))
		return v->len != 8 || strncasecmp((const char *)v->base, "trailers", 8) != 0;
	return IS(name, n->len, "connection") || IS(name, n->len, "keep-alive") ||
	       IS(name, n->len, "proxy-connection") || IS(name, n->len, "transfer-encoding") ||
	       IS(name, n->len, "upgrade");
}

/* RFC 9113 s8.2.1. The space around values that it forbids is let through: stock gRPC clients send
 * what they were given, and gRPC's PROTOCOL-HTTP2 lets the receiver strip it. */
static enum field_token field_token(const nghttp2_vec *n, const nghttp2_vec *v)
{
	const char *name = (const char *)n->base;

	if (!nghttp2_check_header_name(n->base, n->len))
		return FIELD_BAD;
	if (name[0] == ':')
		return pseudo_token(n, v);
	if (!nghttp2_check_header_value(v->base, v->len) || connection_specific(n, v))
		return FIELD_BAD;
	if (IS(name, n->len, "content-length"))
		return FIELD_CONTENT_LENGTH;
	if (IS(name, n->len, "host"))
		return blank(v) || !nghttp2_check_authority(v->base, v->len) ? FIELD_BAD
									     : FIELD_HOST;
	return FIELD_OTHER;
}

/* RFC 9110 s8.6. The length, or -1. */
static int64_t content_length(const struct http2_header *h)
{
	int64_t n = 0;

	if (h->value_len == 0 || h->value_len > 18)
		return -1;
	for (size_t i = 0; i < h->value_len; i++) {
		if (h->value[i] < '0' || h->value[i] > '9')
			return -1;
		n = n * 10 + (h->value[i] - '0');
	}
	return n;
}

/* Without the port that the scheme has anyway. */
static size_t authority_length(const struct http2_header *h, const char *default_port)
{
	size_t n = strlen(default_port);

	return h->value_len > n && memcmp(h->value + h->value_len - n, default_port, n) == 0
		       ? h->value_len - n
		       : h->value_len;
}

/* RFC 9113 s8.3.1: no user in front of a host, and "host", if it is there too, names the same. */
static bool authority_valid(const struct http2_header *authority, const struct http2_header *host,
			    const char *default_port)
{
	size_t n;

	if (authority != NULL && memchr(authority->value, '@', authority->value_len) != NULL)
		return false;
	if (authority == NULL || host == NULL)
		return true;
	n = authority_length(authority, default_port);
	return authority_length(host, default_port) == n &&
	       strncasecmp(authority->value, host->value, n) == 0;
}

/* What of a list says what is asked for. */
struct target {
	const struct http2_header *method, *scheme, *path, *authority, *host;
};

/* RFC 9113 s8.3.1, s8.5; RFC 9112 s3.2.4: what a request's target may look like. */
static bool target_valid(unsigned seen, const struct target *t)
{
	const struct http2_header *method = t->method, *scheme = t->scheme, *path = t->path;
	bool http;

	if (method == NULL)
		return false;
	if (IS(method->value, method->value_len, "CONNECT"))
		return (seen & PSEUDO_TOKENS) == (TOKEN(FIELD_METHOD) | TOKEN(FIELD_AUTHORITY));
	if (scheme == NULL || path == NULL ||
	    (seen & (TOKEN(FIELD_AUTHORITY) | TOKEN(FIELD_HOST))) == 0)
		return false;
	http = IS(scheme->value, scheme->value_len, "http");
	if (!http && !IS(scheme->value, scheme->value_len, "https"))
		return true;
	if (!authority_valid(t->authority, t->host, http ? ":80" : ":443"))
		return false;
	return path->value[0] == '/' || (IS(path->value, path->value_len, "*") &&
					 IS(method->value, method->value_len, "OPTIONS"));
}

/* The list in e->fields as a request. False: malformed. */
static bool list_valid(const struct http2_engine *e, uint32_t n, int64_t *length_out)
{
	struct target t = {NULL, NULL, NULL, NULL, NULL};
	unsigned seen = 0;

	*length_out = -1;
	for (uint32_t i = 0; i < n; i++) {
		const struct http2_header *h = &e->fields[i];
		unsigned token = e->field_tokens[i];

		if (token == FIELD_BAD)
			return false;
		if (token == FIELD_OTHER) {
			seen |= TOKEN(FIELD_OTHER);
			continue;
		}
		/* Each once, and pseudo-header fields before all others. */
		if (seen & TOKEN(token))
			return false;
		if ((TOKEN(token) & PSEUDO_TOKENS) && (seen & ~PSEUDO_TOKENS))
			return false;
		seen |= TOKEN(token);
		if (token == FIELD_METHOD)
			t.method = h;
		else if (token == FIELD_SCHEME)
			t.scheme = h;
		else if (token == FIELD_PATH)
			t.path = h;
		else if (token == FIELD_AUTHORITY)
			t.authority = h;
		else if (token == FIELD_HOST)
			t.host = h;
		else if (token == FIELD_CONTENT_LENGTH) {
			*length_out = content_length(h);
			if (*length_out < 0)
				return false;
		}
	}
	return target_valid(seen, &t);
}

void http2_fields_drop(struct http2_session *s)
{
	nghttp2_rcbuf **held = s->engine->fields_held;

	for (uint32_t i = 0; i < s->held; i++)
		nghttp2_rcbuf_decref(held[i]);
	s->held = 0;
	s->fields = 0;
	s->field_bytes = 0;
	s->fields_seen = 0;
	s->fields_known = 0;
	s->fields_bad = false;
	s->header_stream = NULL;
}

static void memo_forget(struct field_memo *m)
{
	if (m->name == NULL)
		return;
	nghttp2_rcbuf_decref(m->name);
	nghttp2_rcbuf_decref(m->value);
	m->name = m->value = NULL;
}

void http2_fields_fini(struct http2_session *s)
{
	for (unsigned i = 0; i < FIELDS_MEMO; i++)
		memo_forget(&s->memo[i]);
}

/* Over header_bytes_max or headers_max. */
static int field_over(struct http2_session *s)
{
	const struct http2_config *c = &s->engine->config;

	if (s->field_bytes / HEADER_BOMB_FACTOR > c->header_bytes_max ||
	    s->fields_seen / HEADER_BOMB_FACTOR > c->headers_max) {
		counter_inc(&s->engine->counters.headers_bombs);
		http2_session_fail(s, HTTP2_ENHANCE_YOUR_CALM, -SPLIT_E_HTTP2_FLOOD);
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	}
	if (s->header_stream != NULL && !(s->header_stream->flags & STREAM_OVER)) {
		counter_inc(&s->engine->counters.headers_over);
		s->header_stream->flags |= STREAM_OVER;
	}
	return 0;
}

/* A field that is not where it was in the last list. */
static int field_new(struct http2_session *s, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
		     uint8_t flags)
{
	struct http2_engine *e = s->engine;
	uint32_t at = s->fields;
	nghttp2_vec n = nghttp2_rcbuf_get_buf(name);
	nghttp2_vec v = nghttp2_rcbuf_get_buf(value);
	struct http2_header h = {(const char *)n.base, (const char *)v.base, n.len, v.len,
				 flags & NGHTTP2_NV_FLAG_NO_INDEX};
	enum field_token token = field_token(&n, &v);

	s->field_bytes += (uint32_t)(n.len + v.len + HEADER_OVERHEAD);
	s->fields_seen++;
	s->fields_bad |= token == FIELD_BAD || (s->header_stream == NULL && n.base[0] == ':');
	if (unlikely(s->field_bytes > e->config.header_bytes_max ||
		     s->fields_seen > e->config.headers_max))
		return field_over(s);
	if (s->header_stream == NULL)
		return 0;
	nghttp2_rcbuf_incref(name);
	nghttp2_rcbuf_incref(value);
	if (at < FIELDS_MEMO && n.len + v.len <= MEMO_BYTES_MAX) {
		struct field_memo *m = &s->memo[at];

		memo_forget(m);
		s->memo_fields = 0;
		*m = (struct field_memo){name, value, h, (uint8_t)token};
	} else {
		e->fields_held[s->held++] = name;
		e->fields_held[s->held++] = value;
	}
	e->fields[at] = h;
	e->field_tokens[at] = (uint8_t)token;
	s->fields = at + 1;
	return 0;
}

/* Sent as a literal again, as some clients send their path. */
static bool memo_says_the_same(const struct field_memo *m, nghttp2_rcbuf *name,
			       nghttp2_rcbuf *value)
{
	nghttp2_vec n, v;

	if (m->name == NULL)
		return false;
	v = nghttp2_rcbuf_get_buf(value);
	if (v.len != m->field.value_len || memcmp(v.base, m->field.value, v.len) != 0)
		return false;
	if (m->name == name)
		return true;
	n = nghttp2_rcbuf_get_buf(name);
	return n.len == m->field.name_len && memcmp(n.base, m->field.name, n.len) == 0;
}

int http2_fields_add(nghttp2_session *ng, const nghttp2_frame *frame, nghttp2_rcbuf *name,
		     nghttp2_rcbuf *value, uint8_t flags, void *user)
{
	struct http2_session *s = user;
	struct http2_engine *e = s->engine;
	uint32_t at = s->fields;
	const struct field_memo *m = &s->memo[at & (FIELDS_MEMO - 1)];
	uint32_t bytes;

	(void)ng;
	(void)frame;
	if (at >= FIELDS_MEMO || s->header_stream == NULL)
		return field_new(s, name, value, flags);
	if ((m->name != name || m->value != value) && !memo_says_the_same(m, name, value))
		return field_new(s, name, value, flags);
	bytes = s->field_bytes + (uint32_t)(m->field.name_len + m->field.value_len) +
		HEADER_OVERHEAD;
	if (unlikely(bytes > e->config.header_bytes_max || s->fields_seen >= e->config.headers_max))
		return field_new(s, name, value, flags);
	s->field_bytes = bytes;
	s->fields_seen++;
	s->fields_known++;
	e->fields[at] = m->field;
	e->fields[at].flags = flags & NGHTTP2_NV_FLAG_NO_INDEX;
	e->field_tokens[at] = m->token;
	s->fields = at + 1;
	return 0;
}

bool http2_fields_valid(struct http2_session *s, int64_t *length_out)
{
	/* The last list again: only lists that were valid and fitted the memo count. */
	if (likely(s->fields_known == s->fields && s->fields == s->memo_fields && !s->fields_bad)) {
		*length_out = s->memo_length;
		return true;
	}
	s->memo_fields = 0;
	if (s->fields_bad || !list_valid(s->engine, s->fields, length_out))
		return false;
	if (s->fields <= FIELDS_MEMO && s->held == 0 && s->fields_seen == s->fields) {
		s->memo_fields = s->fields;
		s->memo_length = *length_out;
	}
	return true;
}
