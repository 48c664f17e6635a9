/* protoc-gen-split over any CodeGeneratorRequest: it answers, with files or with an error, and the
 * answer is one that protoc can read. */
#include "linearize/compiler/compiler.h"
#include "linearize/descriptor/descriptor.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct proto_bytes rest;
	struct proto_item item;
	uint8_t *out;
	size_t len;
	int rc;

	if (compiler_run(data, size, &out, &len) != 0)
		return 0;
	rest = (struct proto_bytes){out, len};
	while ((rc = proto_next(&rest, &item)) > 0)
		;
	if (rc != 0 || len == 0)
		abort();
	free(out);
	return 0;
}
