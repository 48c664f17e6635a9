/* Header lists: what a request says, and what an answer said. */
#include <stdlib.h>
#include <string.h>

#include "daemon/client/client_internal.h"

#define TEXT_IS(h, text)                                                                           \
	((h)->name_len == sizeof(text) - 1 && memcmp((h)->name, (text), sizeof(text) - 1) == 0)

/* Fields that every request has, before the custom ones; two more are an attempt's own. */
#define REQUEST_FIXED 8
#define REQUEST_OWN   2
#define SCHEME_FIELD  1
/* Of one request: HTTP/2's own measure (RFC 9113 s6.5.2). */
#define REQUEST_METADATA_MAX (64u * 1024u)

static void field_set(struct request_block *r, const char *name, size_t name_len, const char *value,
		      size_t value_len)
{
	r->h[r->count++] = (struct http2_header){
		.name = name,
		.value = value,
		.name_len = name_len,
		.value_len = value_len,
	};
}

static void field(struct request_block *r, const char *name, const char *value)
{
	field_set(r, name, strlen(name), value, strlen(value));
}

static char *field_custom(struct request_block *r, char *at, const struct grpc_metadata *md)
{
	char *value = at + md->name_len;
	size_t n = md->value_len;

	memcpy(at, md->name, md->name_len);
	if (grpc_name_is_bin(md->name, md->name_len))
		n = grpc_base64_encode(md->value, md->value_len, value);
	else if (n > 0)
		memcpy(value, md->value, n);
	field_set(r, at, md->name_len, value, n);
	return value + n;
}

void request_scheme(struct request_block *r, bool tls)
{
	r->h[SCHEME_FIELD].value = tls ? "https" : "http";
	r->h[SCHEME_FIELD].value_len = tls ? 5 : 4;
}

struct request_block *request_render(struct channel *ch, const struct client_request *request)
{
	size_t fields = REQUEST_FIXED + REQUEST_OWN + (size_t)request->metadata_count;
	struct request_block *r;
	size_t authority_len = strlen(ch->config.authority);
	uint64_t text = request->path_len + authority_len;
	char *at;

	if (request->metadata_count > HEADERS_MAX)
		return NULL;
	for (uint32_t i = 0; i < request->metadata_count; i++) {
		const struct grpc_metadata *md = &request->metadata[i];
		bool bin = grpc_name_is_bin(md->name, md->name_len);

		/* The user agent is ours. */
		if (!grpc_metadata_valid(md) ||
		    (md->name_len == 10 && memcmp(md->name, "user-agent", 10) == 0))
			return NULL;
		text += 32 + (uint64_t)md->name_len +
			(bin ? grpc_base64_bytes(md->value_len) : md->value_len);
	}
	if (text > REQUEST_METADATA_MAX)
		return NULL;
	r = http2_client_engine_alloc(ch->c->http2,
				      sizeof(*r) + fields * sizeof(r->h[0]) + (size_t)text);
	if (r == NULL)
		return NULL;
	r->count = 0;
	at = (char *)&r->h[fields];
	memcpy(at, request->path, request->path_len);
	field(r, ":method", "POST");
	field(r, ":scheme", "http"); /* SCHEME_FIELD */
	field_set(r, ":path", 5, at, request->path_len);
	at += request->path_len;
	memcpy(at, ch->config.authority, authority_len);
	field_set(r, ":authority", 10, at, authority_len);
	at += authority_len;
	field(r, "te", "trailers");
	field(r, "content-type", "application/grpc");
	field(r, "user-agent", ch->c->user_agent);
	if (ch->config.compression)
		field(r, "grpc-accept-encoding", "identity, deflate, gzip");
	for (uint32_t i = 0; i < request->metadata_count; i++)
		at = field_custom(r, at, &request->metadata[i]);
	return r;
}

const struct http2_header *header_find(const struct http2_header *h, size_t n, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < n; i++)
		if (h[i].name_len == len && memcmp(h[i].name, name, len) == 0)
			return &h[i];
	return NULL;
}

/* Of this layer: not for the application. */
static bool header_own(const struct http2_header *h)
{
	return h->name_len == 0 || h->name[0] == ':' ||
	       (h->name_len >= 5 && memcmp(h->name, "grpc-", 5) == 0) ||
	       TEXT_IS(h, "content-type") || TEXT_IS(h, "te") || TEXT_IS(h, "content-length");
}

/* One entry, or one for each comma-separated value of a "-bin" field; broken ones are left out. */
static size_t metadata_one(struct client *c, uint32_t *count, size_t used,
			   const struct http2_header *h)
{
	bool bin = grpc_name_is_bin(h->name, h->name_len);
	const char *at = h->value, *end = h->value + h->value_len;

	while (*count < HEADERS_MAX) {
		const char *comma = bin ? memchr(at, ',', (size_t)(end - at)) : NULL;
		size_t n = (size_t)((comma != NULL ? comma : end) - at);
		struct grpc_metadata *md = &c->metadata[*count];
		ssize_t got;

		md->name = h->name;
		md->name_len = (uint32_t)h->name_len;
		md->value = (const uint8_t *)at;
		md->value_len = (uint32_t)n;
		got = 0;
		if (bin) {
			while (n > 0 && *at == ' ')
				at++, n--;
			got = grpc_base64_decode(at, n, c->decoded + used);
			md->value = c->decoded + used;
			md->value_len = got > 0 ? (uint32_t)got : 0;
			used += md->value_len;
		}
		if (got >= 0)
			(*count)++;
		if (comma == NULL)
			break;
		at = comma + 1;
	}
	return used;
}

uint32_t metadata_decode(struct client *c, const struct http2_header *h, size_t n)
{
	uint32_t count = 0;
	size_t used = 0;

	for (size_t i = 0; i < n; i++)
		if (!header_own(&h[i]))
			used = metadata_one(c, &count, used, &h[i]);
	return count;
}

static uint32_t status_parse(const struct http2_header *h)
{
	uint32_t status = 0;

	if (h->value_len == 0 || h->value_len > 2)
		return GRPC_UNKNOWN;
	for (size_t i = 0; i < h->value_len; i++) {
		if (h->value[i] < '0' || h->value[i] > '9')
			return GRPC_UNKNOWN;
		status = status * 10 + (uint32_t)(h->value[i] - '0');
	}
	return status <= GRPC_STATUS_MAX ? status : GRPC_UNKNOWN;
}

struct final *final_make(struct client *c, const struct http2_header *h, size_t n)
{
	const struct http2_header *status = header_find(h, n, "grpc-status");
	const struct http2_header *message = header_find(h, n, "grpc-message");
	const struct http2_header *details = header_find(h, n, "grpc-status-details-bin");
	uint32_t count = metadata_decode(c, h, n);
	size_t bytes = sizeof(struct final) + count * sizeof(struct grpc_metadata);
	struct final *f;
	uint8_t *at;

	for (uint32_t i = 0; i < count; i++)
		bytes += (size_t)c->metadata[i].name_len + c->metadata[i].value_len;
	bytes += message != NULL ? message->value_len : 0;
	bytes += details != NULL ? details->value_len : 0;
	f = http2_client_engine_alloc(c->http2, bytes + 16);
	if (f == NULL)
		return NULL;
	memset(f, 0, sizeof(*f));
	f->status.status = status != NULL ? status_parse(status) : GRPC_UNKNOWN;
	f->status.by_peer = true;
	f->status.trailers = f->md;
	f->status.trailers_count = count;
	at = (uint8_t *)&f->md[count];
	for (uint32_t i = 0; i < count; i++) {
		f->md[i] = c->metadata[i];
		memcpy(at, c->metadata[i].name, c->metadata[i].name_len);
		f->md[i].name = (const char *)at;
		at += c->metadata[i].name_len;
		if (c->metadata[i].value_len > 0)
			memcpy(at, c->metadata[i].value, c->metadata[i].value_len);
		f->md[i].value = at;
		at += c->metadata[i].value_len;
	}
	if (message != NULL) {
		f->status.message = (const char *)at;
		f->status.message_len = (uint32_t)grpc_percent_decode(
			message->value, message->value_len, (char *)at);
		at += f->status.message_len;
	}
	if (details != NULL) {
		ssize_t got = grpc_base64_decode(details->value, details->value_len, at);

		f->status.details = got > 0 ? at : NULL;
		f->status.details_len = got > 0 ? (uint32_t)got : 0;
	}
	return f;
}

/* http-grpc-status-mapping.md */
uint32_t status_of_http(const char *status)
{
	switch (atoi(status)) {
	case 400:
		return GRPC_INTERNAL;
	case 401:
		return GRPC_UNAUTHENTICATED;
	case 403:
		return GRPC_PERMISSION_DENIED;
	case 404:
		return GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return GRPC_UNAVAILABLE;
	default:
		return GRPC_UNKNOWN;
	}
}

bool content_type_grpc(const struct http2_header *type)
{
	static const char grpc[] = "application/grpc";

	if (type == NULL || type->value_len < sizeof(grpc) - 1 ||
	    memcmp(type->value, grpc, sizeof(grpc) - 1) != 0)
		return false;
	return type->value_len == sizeof(grpc) - 1 || type->value[sizeof(grpc) - 1] == '+' ||
	       type->value[sizeof(grpc) - 1] == ';';
}
