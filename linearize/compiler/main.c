/* protoc-gen-split: protoc runs it as a plugin, with a request on stdin, for a response on stdout.
 */
#include "linearize/compiler/compiler.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* More than any set of .proto files; a request is read whole. */
#define REQUEST_BYTES_MAX (512u << 20)

static int read_all(uint8_t **out, size_t *len_out)
{
	uint8_t *bytes = NULL, *grown;
	size_t len = 0, room = 0;
	ssize_t n = 1;

	while (n > 0 && len <= REQUEST_BYTES_MAX) {
		if (len == room) {
			room = room ? room * 2 : 65536;
			grown = realloc(bytes, room);
			if (!grown)
				break;
			bytes = grown;
		}
		n = read(STDIN_FILENO, bytes + len, room - len);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n > 0)
			len += (size_t)n;
	}
	*out = bytes;
	*len_out = len;
	return n == 0 ? 0 : -1;
}

static int write_all(const uint8_t *bytes, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDOUT_FILENO, bytes, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		bytes += n;
		len -= (size_t)n;
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint8_t *request = NULL, *response = NULL;
	size_t request_len, response_len;
	int rc;

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("protoc-gen-split " SPLITD_VERSION);
		return 0;
	}
	if (argc > 1 || isatty(STDIN_FILENO)) {
		fprintf(stderr,
			"protoc-gen-split is run by protoc: protoc --split_out=DIR FILE.proto "
			"(see protoc-gen-split(1))\n");
		return 2;
	}
	rc = read_all(&request, &request_len);
	if (rc == 0)
		rc = compiler_run(request, request_len, &response, &response_len);
	else
		fprintf(stderr, "protoc-gen-split: the request cannot be read\n");
	if (rc == 0)
		rc = write_all(response, response_len);
	if (rc == -SPLIT_E_BASE_NOMEM)
		fprintf(stderr, "protoc-gen-split: out of memory\n");
	free(request);
	free(response);
	return rc == 0 ? 0 : 1;
}
