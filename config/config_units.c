#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "config/config_internal.h"

const struct config_unit config_size_units[] = {
	{"B", 1},
	{"KiB", UINT64_C(1) << 10},
	{"MiB", UINT64_C(1) << 20},
	{"GiB", UINT64_C(1) << 30},
	{NULL, 0},
};

const struct config_unit config_duration_units[] = {
	{"ns", 1},
	{"us", UINT64_C(1000)},
	{"ms", UINT64_C(1000000)},
	{"s", UINT64_C(1000000000)},
	{"min", UINT64_C(60000000000)},
	{"h", UINT64_C(3600000000000)},
	{NULL, 0},
};

static int quantity_parse(const char *text, const struct config_unit *units, uint64_t *out)
{
	uint64_t v = 0;
	size_t digits = 0;

	for (; text[digits] >= '0' && text[digits] <= '9'; digits++)
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(text[digits] - '0'), &v))
			return -SPLIT_E_CONFIG_INVALID;
	/* One way to write a number: no sign, no leading zero. */
	if (digits == 0 || (text[0] == '0' && digits > 1))
		return -SPLIT_E_CONFIG_INVALID;
	if (v == 0 && text[digits] == '\0') {
		*out = 0;
		return 0;
	}
	for (; units->name != NULL; units++)
		if (strcmp(units->name, text + digits) == 0)
			return __builtin_mul_overflow(v, units->factor, out)
				       ? -SPLIT_E_CONFIG_INVALID
				       : 0;
	return -SPLIT_E_CONFIG_INVALID;
}

int config_size_parse(const char *text, uint64_t *bytes_out)
{
	return quantity_parse(text, config_size_units, bytes_out);
}

int config_duration_parse(const char *text, uint64_t *ns_out)
{
	return quantity_parse(text, config_duration_units, ns_out);
}

static const char *quantity_format(uint64_t v, const struct config_unit *units, char buf[32])
{
	const struct config_unit *best = units;

	if (v == 0)
		return strcpy(buf, "0");
	for (; units->name != NULL; units++)
		if (v % units->factor == 0)
			best = units;
	snprintf(buf, 32, "%llu%s", (unsigned long long)(v / best->factor), best->name);
	return buf;
}

const char *config_size_format(uint64_t bytes, char buf[32])
{
	return quantity_format(bytes, config_size_units, buf);
}

const char *config_duration_format(uint64_t ns, char buf[32])
{
	return quantity_format(ns, config_duration_units, buf);
}

static bool is_alpha(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool fits_name(const char *s)
{
	if (!is_alpha(*s) && !is_digit(*s))
		return false;
	for (; *s != '\0'; s++)
		if (!is_alpha(*s) && !is_digit(*s) && *s != '_' && *s != '.' && *s != '-')
			return false;
	return true;
}

static bool fits_service(const char *s)
{
	bool start = true;

	for (; *s != '\0'; s++) {
		if (*s == '.') {
			if (start)
				return false;
			start = true;
			continue;
		}
		if (!is_alpha(*s) && *s != '_' && (start || !is_digit(*s)))
			return false;
		start = false;
	}
	return !start;
}

static bool fits_item(const char *s)
{
	if (*s == '\0')
		return false;
	for (; *s != '\0'; s++)
		if (*s <= 0x20 || *s >= 0x7f)
			return false;
	return true;
}

/* host, *.host or [address], then perhaps :port. */
static bool fits_authority(const char *s)
{
	static const char host[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t n;

	if (*s == '[') {
		n = strspn(s + 1, "0123456789abcdefABCDEF:.");
		if (n == 0 || s[1 + n] != ']')
			return false;
		s += n + 2;
	} else {
		s += strncmp(s, "*.", 2) == 0 ? 2 : 0;
		n = strspn(s, host);
		if (n == 0 || *s == '.' || *s == '-')
			return false;
		s += n;
	}
	if (*s == '\0')
		return true;
	n = strspn(s + 1, "0123456789");
	return *s == ':' && n >= 1 && n <= 5 && s[1 + n] == '\0';
}

bool config_text_fits(const char *text, enum field_format format, size_t max)
{
	if (strlen(text) > max)
		return false;
	switch (format) {
	case FORMAT_NAME:
		return fits_name(text);
	case FORMAT_SERVICE:
		return fits_service(text);
	case FORMAT_PATH:
		return text[0] == '/' && text[1] != '\0' && fits_item(text);
	case FORMAT_ITEM:
		return fits_item(text);
	case FORMAT_AUTHORITY:
		return fits_authority(text);
	}
	return false;
}

const char *config_format_expected(enum field_format format)
{
	static const char *const texts[] = {
		[FORMAT_ITEM] = "printable ASCII without blanks",
		[FORMAT_NAME] = "letters, digits, '_', '.', '-', beginning with a letter or digit",
		[FORMAT_SERVICE] = "a full service name as package.Service",
		[FORMAT_PATH] = "an absolute path without blanks",
		[FORMAT_AUTHORITY] = "a host, *.host or [address], with or without :port",
	};

	return texts[format];
}

const char *config_format_pattern(enum field_format format)
{
	static const char authority[] = "^((\\*\\.)?[A-Za-z0-9_][A-Za-z0-9._-]*|"
					"\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?$";
	static const char *const patterns[] = {
		[FORMAT_ITEM] = "^[!-~]+$",
		[FORMAT_NAME] = "^[A-Za-z0-9][A-Za-z0-9_.-]*$",
		[FORMAT_SERVICE] = "^[A-Za-z_][A-Za-z0-9_]*(\\.[A-Za-z_][A-Za-z0-9_]*)*$",
		[FORMAT_PATH] = "^/[!-~]+$",
		[FORMAT_AUTHORITY] = authority,
	};

	return patterns[format];
}

bool config_address_parse(const char *text, bool cidr, struct config_address *out)
{
	struct config_address a = {0};
	char host[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
	unsigned prefix = 0;

	if ((slash != NULL) != cidr || len >= sizeof(host))
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	if (inet_pton(AF_INET, host, a.bytes) == 1)
		a.family = 4;
	else if (inet_pton(AF_INET6, host, a.bytes) == 1)
		a.family = 6;
	else
		return false;
	if (cidr) {
		const char *p = slash + 1;

		if (!is_digit(p[0]) || (p[0] == '0' && p[1] != '\0'))
			return false;
		for (; is_digit(*p) && prefix <= 128; p++)
			prefix = prefix * 10 + (unsigned)(*p - '0');
		if (*p != '\0' || prefix > (a.family == 4 ? 32u : 128u))
			return false;
		a.prefix = (uint8_t)prefix;
	}
	*out = a;
	return true;
}

bool config_address_equal(const struct config_address *a, const struct config_address *b)
{
	return a->family == b->family && memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool config_address_in(const struct config_address *a, const struct config_address *prefix)
{
	unsigned whole = prefix->prefix / 8;
	unsigned rest = prefix->prefix % 8;

	if (a->family != prefix->family || memcmp(a->bytes, prefix->bytes, whole) != 0)
		return false;
	return rest == 0 || (a->bytes[whole] ^ prefix->bytes[whole]) >> (8 - rest) == 0;
}

bool config_address_any(const struct config_address *a)
{
	static const uint8_t zero[16];

	return memcmp(a->bytes, zero, sizeof(zero)) == 0;
}

bool config_address_unicast(const struct config_address *a)
{
	static const uint8_t loopback6[16] = {[15] = 1};

	if (config_address_any(a))
		return false;
	if (a->family == 6)
		return a->bytes[0] != 0xff && memcmp(a->bytes, loopback6, sizeof(loopback6)) != 0;
	/* 0/8 and 127/8 (RFC 1122 s3.2.1.3), 224/4 and up. */
	return a->bytes[0] != 0 && a->bytes[0] != 127 && a->bytes[0] < 224;
}

bool config_mac_parse(const char *text, uint8_t mac[6])
{
	uint8_t out[6];

	if (strlen(text) != 17)
		return false;
	for (unsigned i = 0; i < 17; i++) {
		char c = text[i];
		uint8_t v;

		if (i % 3 == 2) {
			if (c != ':')
				return false;
			continue;
		}
		if (is_digit(c))
			v = (uint8_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = (uint8_t)(c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			v = (uint8_t)(c - 'A' + 10);
		else
			return false;
		out[i / 3] = i % 3 == 0 ? (uint8_t)(v << 4) : (uint8_t)(out[i / 3] | v);
	}
	memcpy(mac, out, sizeof(out));
	return true;
}

bool config_mode_parse(const char *text, uint32_t *mode_out)
{
	uint32_t mode = 0;

	if (strlen(text) != 4 || text[0] != '0')
		return false;
	for (unsigned i = 1; i < 4; i++) {
		if (text[i] < '0' || text[i] > '7')
			return false;
		mode = mode << 3 | (uint32_t)(text[i] - '0');
	}
	*mode_out = mode;
	return true;
}
