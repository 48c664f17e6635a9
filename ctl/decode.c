/* splitctl decode: protobuf bytes of a type of a descriptor set, as JSON. Asks no daemon. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/ctl.h"
#include "linearize/descriptor/descriptor.h"
#include "linearize/json/json.h"
#include "linearize/linearize.h"
#include "linearize/manifest/manifest.h"

#define INPUT_BYTES_MAX ((size_t)1 << 30)

/* A message of 1 GiB is somebody's wish here, not an attack: only nesting is bounded. */
static const struct linear_limits limits = {.linear_bytes_max = UINT64_C(8) << 30};
static const struct json_view_options view_base = {.values_max = 1u << 30, .text_max = SIZE_MAX};

void ctl_decode_usage(FILE *to)
{
	fputs("usage: splitctl decode --proto-set FILE --type NAME [OPTIONS] [FILE]\n"
	      "\n"
	      "  Prints protobuf messages from FILE (default: standard input) as JSON.\n"
	      "\n"
	      "  --proto-set FILE  descriptor set (protoc --include_imports "
	      "--descriptor_set_out)\n"
	      "  --type NAME       full name of the messages' type\n"
	      "  --delimited       each message has its length before it, as a varint\n"
	      "  --compact         one line a message\n"
	      "  --proto-names     names as in the .proto, not in lowerCamelCase\n"
	      "  --zero-fields     fields without presence that are zero, too\n"
	      "  --enum-numbers    numbers of enum values, not their names\n",
	      to);
}

bool ctl_decode_parse(int argc, char **argv, struct ctl_decode_options *out, char *error,
		      size_t bytes)
{
	static const struct option longs[] = {
		{"proto-set", required_argument, NULL, 's'},
		{"type", required_argument, NULL, 't'},
		{"delimited", no_argument, NULL, 'd'},
		{"compact", no_argument, NULL, 'c'},
		{"proto-names", no_argument, NULL, 'n'},
		{"zero-fields", no_argument, NULL, 'z'},
		{"enum-numbers", no_argument, NULL, 'e'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int option;

	*out = (struct ctl_decode_options){0};
	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (option) {
		case 's':
			out->proto_set = optarg;
			break;
		case 't':
			out->type = optarg[0] == '.' ? optarg + 1 : optarg;
			break;
		case 'd':
			out->delimited = true;
			break;
		case 'c':
			out->compact = true;
			break;
		case 'n':
			out->proto_names = true;
			break;
		case 'z':
			out->zero_fields = true;
			break;
		case 'e':
			out->enum_numbers = true;
			break;
		case 'h':
			out->help = true;
			return true;
		default:
			snprintf(error, bytes, "decode: %s: unknown option or missing value",
				 argv[optind - 1]);
			return false;
		}
	}
	if (out->proto_set == NULL || out->type == NULL) {
		snprintf(error, bytes, "decode: expected --proto-set FILE and --type NAME");
		return false;
	}
	if (optind < argc)
		out->file = argv[optind++];
	if (optind < argc) {
		snprintf(error, bytes, "decode: %s: unexpected argument", argv[optind]);
		return false;
	}
	return true;
}

/* The whole of a file, malloc'ed; `path` NULL: standard input. NULL after a line in `error`. */
static uint8_t *file_read(const char *path, size_t *len_out, char *error, size_t error_bytes)
{
	const char *name = path ? path : "standard input";
	FILE *file = path ? fopen(path, "rbe") : stdin;
	size_t len = 0, room = 1 << 16;
	uint8_t *bytes = malloc(room), *grown;

	while (file && bytes && len < INPUT_BYTES_MAX) {
		size_t n = fread(bytes + len, 1, room - len, file);

		len += n;
		if (n == 0)
			break;
		if (len == room) {
			room *= 2;
			grown = realloc(bytes, room);
			if (!grown)
				free(bytes);
			bytes = grown;
		}
	}
	if (!file || !bytes || ferror(file) || len >= INPUT_BYTES_MAX) {
		snprintf(error, error_bytes, "decode: %s: %s", name,
			 len >= INPUT_BYTES_MAX ? "more than 1 GiB"
			 : bytes                ? strerror(errno)
						: "out of memory");
		free(bytes);
		bytes = NULL;
	}
	if (file && path)
		fclose(file);
	*len_out = len;
	return bytes;
}

/* The types of a descriptor set file; false after a line in `error`. */
static bool types_open(const char *path, struct proto_set **set, struct schema_types **types,
		       struct schema **schema, char *error, size_t error_bytes)
{
	struct proto_finding finding = {0};
	size_t len;
	uint8_t *bytes = file_read(path, &len, error, error_bytes);
	int rc;

	if (!bytes)
		return false;
	rc = manifest_set_parse(bytes, len, NULL, set, &finding);
	free(bytes);
	if (rc != 0) {
		snprintf(error, error_bytes, "decode: %s: no descriptor set: %s%s%s%s%s", path,
			 finding.file, finding.file[0] ? ": " : "", finding.element,
			 finding.element[0] ? ": " : "",
			 finding.text[0] ? finding.text : error_text(rc));
		return false;
	}
	rc = schema_types_create(*set, types);
	if (rc == 0)
		rc = schema_types_compile(*types, NULL, schema);
	if (rc != 0)
		snprintf(error, error_bytes, "decode: %s: %s", path, error_text(rc));
	return rc == 0;
}

static bool message_show(const struct ctl_decode_options *o, const struct schema_message *m,
			 const uint8_t *wire, size_t len, FILE *to, char *error, size_t error_bytes)
{
	struct json_view_options view = view_base;
	json_t *value;
	int rc;

	view.proto_names = o->proto_names;
	view.zero_fields = o->zero_fields;
	view.enum_numbers = o->enum_numbers;
	rc = json_view_wire(m, wire, len, &limits, &view, &value);
	if (rc != 0) {
		snprintf(error, error_bytes, "%s", error_text(rc));
		return false;
	}
	json_dumpf(value, to, JSON_ENCODE_ANY | (o->compact ? JSON_COMPACT : JSON_INDENT(2)));
	fputc('\n', to);
	json_decref(value);
	return true;
}

/* The next delimited message. 1 there is one, 0 the end, -1 cut off or no length. */
static int delimited_next(const uint8_t **p, const uint8_t *end, size_t *len_out)
{
	uint64_t len = 0;
	unsigned shift = 0;

	if (*p == end)
		return 0;
	for (;; shift += 7) {
		if (*p == end || shift > 28)
			return -1;
		len |= (uint64_t)(**p & 0x7f) << shift;
		if (*(*p)++ < 0x80)
			break;
	}
	*len_out = len;
	return len > (uint64_t)(end - *p) ? -1 : 1;
}

static bool input_show(const struct ctl_decode_options *o, const struct schema_message *m,
		       const uint8_t *bytes, size_t len, FILE *to, char *error, size_t error_bytes)
{
	const char *name = o->file ? o->file : "standard input";
	const uint8_t *p = bytes, *end = bytes + len;
	char why[128];
	size_t part;
	unsigned n;
	int more;

	if (!o->delimited) {
		if (message_show(o, m, bytes, len, to, why, sizeof(why)))
			return true;
		snprintf(error, error_bytes, "decode: %s: not a %s: %s", name, o->type, why);
		return false;
	}
	for (n = 0; (more = delimited_next(&p, end, &part)) > 0; n++, p += part)
		if (!message_show(o, m, p, part, to, why, sizeof(why))) {
			snprintf(error, error_bytes, "decode: %s: message %u: not a %s: %s", name,
				 n, o->type, why);
			return false;
		}
	if (more < 0)
		snprintf(error, error_bytes,
			 "decode: %s: message %u: expected a length and as many bytes, at byte %zu",
			 name, n, (size_t)(p - bytes));
	return more == 0;
}

bool ctl_decode(const struct ctl_decode_options *o, FILE *to, char *error, size_t error_bytes)
{
	struct proto_set *set = NULL;
	struct schema_types *types = NULL;
	struct schema *schema = NULL;
	const struct schema_message *m;
	uint8_t *bytes = NULL;
	bool good = false;
	size_t len;

	if (!types_open(o->proto_set, &set, &types, &schema, error, error_bytes))
		goto out;
	m = schema_message_find(schema, o->type);
	if (!m) {
		snprintf(error, error_bytes, "decode: %s: no message %s in it", o->proto_set,
			 o->type);
		goto out;
	}
	bytes = file_read(o->file, &len, error, error_bytes);
	good = bytes && input_show(o, m, bytes, len, to, error, error_bytes);
out:
	free(bytes);
	schema_destroy(schema);
	schema_types_destroy(types);
	proto_set_destroy(set);
	return good;
}
