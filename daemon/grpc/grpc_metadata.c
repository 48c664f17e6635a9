/* The text forms of gRPC's metadata: base64 of "-bin" values, percent-encoded messages, timeouts,
 * and the rendering of what goes out. Pure functions but for grpc_block_render's memory. */
#include "daemon/grpc/grpc_internal.h"

#include <stdio.h>
#include <string.h>

int grpc_timeout_parse(const char *p, size_t n, uint64_t *ns_out)
{
	uint64_t value = 0;
	uint64_t unit;

	/* TimeoutValue is 1 to 8 digits, so no product below leaves 64 bits but hours' largest. */
	if (n < 2 || n > 9)
		return -SPLIT_E_GRPC_MALFORMED;
	for (size_t i = 0; i + 1 < n; i++) {
		if (p[i] < '0' || p[i] > '9')
			return -SPLIT_E_GRPC_MALFORMED;
		value = value * 10 + (uint64_t)(p[i] - '0');
	}
	switch (p[n - 1]) {
	case 'H':
		unit = UINT64_C(3600000000000);
		break;
	case 'M':
		unit = UINT64_C(60000000000);
		break;
	case 'S':
		unit = UINT64_C(1000000000);
		break;
	case 'm':
		unit = UINT64_C(1000000);
		break;
	case 'u':
		unit = UINT64_C(1000);
		break;
	case 'n':
		unit = 1;
		break;
	default:
		return -SPLIT_E_GRPC_MALFORMED;
	}
	if (__builtin_mul_overflow(value, unit, ns_out))
		*ns_out = UINT64_MAX;
	return 0;
}

static const char base64_digits[65] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

ssize_t grpc_base64_decode(const char *p, size_t n, uint8_t *dst)
{
	uint32_t bits = 0;
	size_t out = 0;
	size_t i;

	if (n % 4 == 0 && n > 0 && p[n - 1] == '=')
		n -= p[n - 2] == '=' ? 2 : 1;
	if (n % 4 == 1)
		return -SPLIT_E_GRPC_MALFORMED;
	for (i = 0; i < n; i++) {
		int v = base64_value(p[i]);

		if (v < 0)
			return -SPLIT_E_GRPC_MALFORMED;
		bits = bits << 6 | (uint32_t)v;
		if (i % 4 == 3) {
			dst[out++] = (uint8_t)(bits >> 16);
			dst[out++] = (uint8_t)(bits >> 8);
			dst[out++] = (uint8_t)bits;
		}
	}
	if (n % 4 >= 2)
		dst[out++] = (uint8_t)(n % 4 == 2 ? bits >> 4 : bits >> 10);
	if (n % 4 == 3)
		dst[out++] = (uint8_t)(bits >> 2);
	return (ssize_t)out;
}

size_t grpc_base64_encode(const uint8_t *p, size_t n, char *dst)
{
	size_t out = 0;
	uint32_t bits;

	for (; n >= 3; n -= 3, p += 3) {
		bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
		dst[out++] = base64_digits[bits >> 18];
		dst[out++] = base64_digits[bits >> 12 & 63];
		dst[out++] = base64_digits[bits >> 6 & 63];
		dst[out++] = base64_digits[bits & 63];
	}
	if (n > 0) {
		bits = (uint32_t)p[0] << 16 | (n == 2 ? (uint32_t)p[1] << 8 : 0);
		dst[out++] = base64_digits[bits >> 18];
		dst[out++] = base64_digits[bits >> 12 & 63];
		if (n == 2)
			dst[out++] = base64_digits[bits >> 6 & 63];
	}
	return out;
}

size_t grpc_percent_encode(const char *p, size_t n, char *dst, size_t dst_max)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t out = 0;

	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)p[i];

		/* No value begins or ends with a space (RFC 9113 s8.2.1). */
		if (c >= 0x20 && c <= 0x7e && c != '%' && (c != ' ' || (i > 0 && i + 1 < n))) {
			if (out + 1 > dst_max)
				break;
			dst[out++] = (char)c;
			continue;
		}
		if (out + 3 > dst_max)
			break;
		dst[out++] = '%';
		dst[out++] = hex[c >> 4];
		dst[out++] = hex[c & 15];
	}
	/* Nor may our cut have made it end in one. */
	while (out > 0 && dst[out - 1] == ' ')
		out--;
	return out;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

size_t grpc_percent_decode(const char *p, size_t n, char *dst)
{
	size_t out = 0;

	for (size_t i = 0; i < n; i++) {
		if (p[i] == '%' && n - i > 2 && hex_value(p[i + 1]) >= 0 &&
		    hex_value(p[i + 2]) >= 0) {
			dst[out++] = (char)(hex_value(p[i + 1]) << 4 | hex_value(p[i + 2]));
			i += 2;
		} else {
			dst[out++] = p[i];
		}
	}
	return out;
}

size_t grpc_timeout_format(uint64_t ns, char text[GRPC_TIMEOUT_TEXT_MAX])
{
	static const struct {
		uint64_t ns;
		char unit;
	} units[] = {
		{1, 'n'},
		{1000, 'u'},
		{1000000, 'm'},
		{UINT64_C(1000000000), 'S'},
		{UINT64_C(60000000000), 'M'},
		{UINT64_C(3600000000000), 'H'},
	};
	uint64_t value = 0;
	size_t i = 0;

	for (;; i++) {
		value = ns / units[i].ns + (ns % units[i].ns != 0);
		if (value <= 99999999 || i + 1 == ARRAY_LEN(units))
			break;
	}
	if (value == 0)
		value = 1;
	return (size_t)snprintf(text, GRPC_TIMEOUT_TEXT_MAX, "%u%c",
				(unsigned)(value <= 99999999 ? value : 99999999), units[i].unit);
}

bool grpc_name_is_bin(const char *name, size_t n)
{
	return n > 4 && memcmp(name + n - 4, "-bin", 4) == 0;
}

static bool name_is(const struct grpc_metadata *md, const char *name)
{
	size_t n = strlen(name);

	return md->name_len == n && memcmp(md->name, name, n) == 0;
}

bool grpc_metadata_valid(const struct grpc_metadata *md)
{
	/* What HTTP/2 forbids or this layer sends itself. */
	static const char *const reserved[] = {
		"content-type",      "te",      "connection", "keep-alive",     "proxy-connection",
		"transfer-encoding", "upgrade", "host",       "content-length",
	};

	if (md->name_len == 0 || (md->name_len >= 5 && memcmp(md->name, "grpc-", 5) == 0))
		return false;
	for (uint32_t i = 0; i < md->name_len; i++) {
		char c = md->name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
		      c == '.'))
			return false;
	}
	for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
		if (name_is(md, reserved[i]))
			return false;
	if (grpc_name_is_bin(md->name, md->name_len))
		return true;
	for (uint32_t i = 0; i < md->value_len; i++)
		if (md->value[i] < 0x20 || md->value[i] > 0x7e)
			return false;
	return md->value_len == 0 || (md->value[0] != ' ' && md->value[md->value_len - 1] != ' ');
}

/* A block being filled. */
struct render {
	struct block *block;
	char *at;
};

static void render_field(struct render *r, const char *name, size_t name_len, char *value,
			 size_t value_len)
{
	struct http2_header *h = &r->block->h[r->block->count++];

	*h = (struct http2_header){name, value, name_len, value_len, HTTP2_STATIC};
	r->at = value + value_len;
}

static void render_metadata(struct render *r, const struct grpc_metadata *md)
{
	char *name = r->at;
	char *value = name + md->name_len;
	size_t n = md->value_len;

	memcpy(name, md->name, md->name_len);
	if (grpc_name_is_bin(md->name, md->name_len))
		n = grpc_base64_encode(md->value, md->value_len, value);
	else if (n > 0)
		memcpy(value, md->value, n);
	render_field(r, name, md->name_len, value, n);
}

/* What metadata take on the wire, HTTP/2's overhead included; UINT64_MAX when one is invalid. */
static uint64_t metadata_bytes(const struct grpc_metadata *md, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		bool bin;

		if (!grpc_metadata_valid(&md[i]))
			return UINT64_MAX;
		bin = grpc_name_is_bin(md[i].name, md[i].name_len);
		sum += 32 + (uint64_t)md[i].name_len +
		       (bin ? grpc_base64_bytes(md[i].value_len) : md[i].value_len);
	}
	return sum;
}

struct block *grpc_block_render(struct grpc_server *server, const struct http2_header *fixed,
				size_t n, const struct grpc_result *result,
				const struct grpc_metadata *md, size_t md_n)
{
	size_t bytes_max = server->config.metadata_bytes_max;
	size_t message = 0;
	size_t details = 0;
	uint64_t custom;
	struct render r;

	if (md_n > server->config.metadata_max)
		return NULL;
	custom = metadata_bytes(md, md_n);
	if (result != NULL && result->message != NULL) {
		message = (size_t)result->message_len * 3;
		message = message < bytes_max / 2 ? message : bytes_max / 2;
	}
	if (result != NULL && result->details != NULL)
		details = grpc_base64_bytes(result->details_len);
	if (custom > bytes_max || details > bytes_max || custom + details > bytes_max)
		return NULL;
	r.block = http2_engine_alloc(server->engine,
				     sizeof(*r.block) + (n + 2 + md_n) * sizeof(r.block->h[0]) +
					     message + details + (size_t)custom);
	if (r.block == NULL)
		return NULL;
	memcpy(r.block->h, fixed, n * sizeof(*fixed));
	r.block->count = (uint32_t)n;
	r.at = (char *)&r.block->h[n + 2 + md_n];
	if (message > 0) {
		size_t len =
			grpc_percent_encode(result->message, result->message_len, r.at, message);

		render_field(&r, "grpc-message", 12, r.at, len);
	}
	if (details > 0) {
		size_t len = grpc_base64_encode(result->details, result->details_len, r.at);

		render_field(&r, "grpc-status-details-bin", 23, r.at, len);
	}
	for (size_t i = 0; i < md_n; i++)
		render_metadata(&r, &md[i]);
	return r.block;
}
