/* Base64, a file, and the descriptors' reader. */
#include "linearize/manifest/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Base64 of the largest set, with line ends and comments. */
#define FILE_BYTES_MAX (32u << 20)

struct manifest {
	struct proto_set *set;
	uint8_t *bytes;
	size_t len;
};

static int digit(uint8_t c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* In place: `out` may be where `in` is, since it is never ahead. False: not base64. */
static bool base64_decode(const uint8_t *in, size_t len, uint8_t *out, size_t *len_out)
{
	uint32_t group = 0, digits = 0, padding = 0;
	bool line_start = true;
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t c = in[i];

		if (line_start && c == '#') {
			while (i < len && in[i] != '\n')
				i++;
			continue;
		}
		line_start = c == '\n';
		if (c == '\n' || c == '\r' || c == ' ')
			continue;
		if (c == '=') {
			padding++;
			continue;
		}
		if (padding > 0 || digit(c) < 0)
			return false;
		group = group << 6 | (uint32_t)digit(c);
		if (++digits % 4 != 0)
			continue;
		out[n++] = (uint8_t)(group >> 16);
		out[n++] = (uint8_t)(group >> 8);
		out[n++] = (uint8_t)group;
	}
	if ((digits + padding) % 4 != 0 || padding > 2)
		return false;
	if (digits % 4 == 2) {
		out[n++] = (uint8_t)(group >> 4);
	} else if (digits % 4 == 3) {
		out[n++] = (uint8_t)(group >> 10);
		out[n++] = (uint8_t)(group >> 2);
	}
	*len_out = n;
	return true;
}

/* A set begins with the tag of its first file, which is a line feed: text begins otherwise. */
static bool is_text(const uint8_t *bytes, size_t len)
{
	return len > 0 && (bytes[0] == '#' || digit(bytes[0]) >= 0);
}

int manifest_parse(const void *bytes, size_t len, const struct proto_limits *limits,
		   struct manifest **out, struct proto_finding *finding)
{
	struct manifest *m = calloc(1, sizeof(*m));
	int rc = 0;

	if (finding)
		*finding = (struct proto_finding){0};
	if (!m)
		return -SPLIT_E_BASE_NOMEM;
	m->bytes = malloc(len + 1);
	if (!m->bytes) {
		free(m);
		return -SPLIT_E_BASE_NOMEM;
	}
	if (len)
		memcpy(m->bytes, bytes, len);
	m->len = len;
	if (is_text(m->bytes, len) && !base64_decode(m->bytes, len, m->bytes, &m->len)) {
		rc = -SPLIT_E_LINEARIZE_PROTO;
		if (finding)
			snprintf(finding->text, sizeof(finding->text), "it is not base64");
	}
	if (rc == 0)
		rc = proto_set_parse(m->bytes, m->len, limits, &m->set, finding);
	if (rc) {
		manifest_destroy(m);
		return rc;
	}
	*out = m;
	return 0;
}

int manifest_set_parse(const void *bytes, size_t len, const struct proto_limits *limits,
		       struct proto_set **out, struct proto_finding *finding)
{
	struct manifest *m;
	int rc = manifest_parse(bytes, len, limits, &m, finding);

	if (rc)
		return rc;
	*out = m->set;
	m->set = NULL; /* it has a copy of the bytes of its own */
	manifest_destroy(m);
	return 0;
}

/* malloc'ed; NULL with errno. */
static uint8_t *file_read(const char *path, size_t *len_out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	uint8_t *bytes = NULL;
	struct stat st;
	size_t len = 0;
	ssize_t n = 1;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) != 0)
		goto out;
	if (!S_ISREG(st.st_mode) || st.st_size > FILE_BYTES_MAX) {
		errno = S_ISREG(st.st_mode) ? EFBIG : EINVAL;
		goto out;
	}
	bytes = malloc((size_t)st.st_size + 1);
	while (bytes && n > 0 && len < (size_t)st.st_size) {
		n = read(fd, bytes + len, (size_t)st.st_size - len);
		if (n > 0)
			len += (size_t)n;
	}
	if (bytes && n < 0) {
		free(bytes);
		bytes = NULL;
	}
	*len_out = len;
out:
	(void)close(fd);
	return bytes;
}

int manifest_load(const char *path, struct manifest **out, char why[256])
{
	struct proto_finding finding = {0};
	size_t len = 0;
	uint8_t *bytes = file_read(path, &len);
	int rc;

	if (!bytes) {
		snprintf(why, 256, "%s", strerror(errno));
		return -SPLIT_E_BASE_SYSTEM;
	}
	rc = manifest_parse(bytes, len, NULL, out, &finding);
	free(bytes);
	if (rc)
		snprintf(why, 256, "%s%s%.80s%s%.80s%s%.60s", error_text(rc),
			 *finding.file ? ": " : "", finding.file, *finding.element ? ": " : "",
			 finding.element, *finding.text ? ": " : "", finding.text);
	return rc;
}

void manifest_destroy(struct manifest *m)
{
	if (!m)
		return;
	proto_set_destroy(m->set);
	free(m->bytes);
	free(m);
}

const struct proto_set *manifest_set(const struct manifest *m)
{
	return m->set;
}

const uint8_t *manifest_bytes(const struct manifest *m, size_t *len_out)
{
	*len_out = m->len;
	return m->bytes;
}

const struct proto_method *manifest_method(const struct manifest *m, const char *service,
					   const char *method,
					   const struct proto_service **service_out)
{
	const struct proto_service *s = proto_service_find(m->set, service);

	for (uint32_t i = 0; s && i < s->methods_n; i++)
		if (strcmp(s->methods[i].name, method) == 0) {
			*service_out = s;
			return &s->methods[i];
		}
	return NULL;
}
