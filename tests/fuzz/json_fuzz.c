/* The JSON view: of wire bytes, and of memory that is the input itself (a hostile host's message).
 * Both must end, within bounds, in a value or an error. */
#include "linearize/json/json.h"
#include "tests/linearize/support.h"

#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <stdlib.h>
#include <string.h>

static const struct json_view_options options = {.values_max = 10000, .text_max = 1 << 18};
static const struct linear_limits limits = {.linear_bytes_max = 1 << 20, .work_max = 100000};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As the beginning of a longer message, refused somewhere or nobody knows where. */
static void refused(const struct schema_message *m, const uint8_t *data, size_t size)
{
	struct linear_source source = {data, 4096, size};
	struct json_refused r = {
		.m = m,
		.what = "request",
		.peer = "peer",
		.host = "host",
		.service = "s",
		.method = "m",
		.error = -SPLIT_E_LINEARIZE_UTF8,
		.bytes = size + (data[0] & 3),
		.text_max = 300,
		.wire = data,
		.kept = size,
		.at = data[0] & 0x80 ? JSON_UNKNOWN : data[0] % (size + 1),
	};
	char *line;

	if (json_refused_line(&r, &line) == 0)
		free(line);
	r.error = -SPLIT_E_LINEARIZE_REQUIRED;
	r.bytes = r.at = size;
	if (json_refused_line(&r, &line) == 0)
		free(line);
	r.wire = NULL;
	r.source = &source;
	r.root = 4096;
	if (json_refused_line(&r, &line) == 0) {
		json_t *value = json_loads(line, JSON_ALLOW_NUL, NULL);

		if (!value)
			abort();
		json_decref(value);
		free(line);
	}
}

static void show(const struct schema_message *m, const uint8_t *data, size_t size)
{
	struct linear_source source = {data, 4096, size};
	json_t *value;

	if (json_view_wire(m, data, size, &limits, &options, &value) == 0)
		json_decref(value);
	if (json_view(m, &source, 4096, &options, &value) == 0)
		json_decref(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct schema_message *both[2];

	if (!both[0]) {
		(void)schema_of(&unit2__defaults__descriptor, &both[0]);
		(void)schema_of(&unit3__all__descriptor, &both[1]);
	}
	if (size > 0)
		show(both[data[0] & 1], data + 1, size - 1);
	if (size > 1)
		refused(both[data[0] & 1], data + 1, size - 1);
	return 0;
}
