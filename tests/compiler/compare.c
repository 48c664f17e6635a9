/* Compare what protoc-c and protoc-gen-split made of the same .proto files.
 *
 * usage: compiler_compare SET THEIRS.so OURS.so
 *
 * SET is the FileDescriptorSet; each library holds the compiled .pb-c.c files. For every message
 * and enum the two descriptor graphs must be equal member by member, the structs as large, the
 * initial values the same; and random messages must pass protobuf-c's unpack, check and pack
 * through both with the same bytes. With "-" for THEIRS only our side is driven.
 *
 * With a fourth argument, a file, the random wires are written to it, for another implementation to
 * read and write again: a message's name and its bytes, each behind its length (32 bits). With a
 * fifth, such a file comes back, and our side must unpack and pack each message to the very bytes.
 */
#include "linearize/compiler/compiler_internal.h"
#include "tests/linearize/support.h"

#include <dlfcn.h>
#include <stdlib.h>

#define ROUNDS 60

static struct compiler names;
static FILE *records;
static const char *where = "";
static unsigned compared, packed, refused;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s differs\n", where, what);
	exit(1);
}

#define same(a, b, what) ((a) == (b) ? (void)0 : die(what))

static void same_text(const char *a, const char *b, const char *what)
{
	if ((a == NULL) != (b == NULL) || (a && strcmp(a, b) != 0))
		die(what);
}

static const void *symbol(void *lib, const char *full_name)
{
	const void *found =
		dlsym(lib, str(&names, "%s__descriptor", name_lower(&names, full_name)));

	if (!found) {
		fprintf(stderr, "%s: no descriptor: %s\n", full_name, dlerror());
		exit(1);
	}
	return found;
}

static void same_ranges(const ProtobufCIntRange *a, const ProtobufCIntRange *b, unsigned n)
{
	if (n == 0)
		return;
	for (unsigned i = 0; i <= n; i++) {
		same(a[i].start_value, b[i].start_value, "range start");
		same(a[i].orig_index, b[i].orig_index, "range index");
	}
}

static void compare_enum(const ProtobufCEnumDescriptor *a, const ProtobufCEnumDescriptor *b)
{
	where = a->name;
	same(a->magic, b->magic, "magic");
	same_text(a->name, b->name, "name");
	same_text(a->short_name, b->short_name, "short name");
	same_text(a->c_name, b->c_name, "C name");
	same_text(a->package_name, b->package_name, "package");
	same(a->n_values, b->n_values, "count of values");
	for (unsigned i = 0; i < a->n_values; i++) {
		same(a->values[i].value, b->values[i].value, "value");
		same_text(a->values[i].name, b->values[i].name, "value's name");
		same_text(a->values[i].c_name, b->values[i].c_name, "value's C name");
	}
	same(a->n_value_names, b->n_value_names, "count of names");
	for (unsigned i = 0; i < a->n_value_names; i++) {
		same_text(a->values_by_name[i].name, b->values_by_name[i].name, "sorted name");
		same(a->values_by_name[i].index, b->values_by_name[i].index, "sorted index");
	}
	same(a->n_value_ranges, b->n_value_ranges, "count of ranges");
	same_ranges(a->value_ranges, b->value_ranges, a->n_value_ranges);
	compared++;
}

static size_t element_bytes(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	default:
		return 4;
	}
}

static void same_value(ProtobufCType type, const void *a, const void *b, const char *what)
{
	const ProtobufCBinaryData *x = a, *y = b;

	if (type == PROTOBUF_C_TYPE_STRING) {
		same_text(a, b, what);
	} else if (type == PROTOBUF_C_TYPE_BYTES) {
		same(x->len, y->len, what);
		same(x->data == NULL, y->data == NULL, what);
		if (x->len && memcmp(x->data, y->data, x->len) != 0)
			die(what);
	} else if (memcmp(a, b, element_bytes(type)) != 0) {
		die(what);
	}
}

static void compare_field(const ProtobufCFieldDescriptor *a, const ProtobufCFieldDescriptor *b)
{
	same_text(a->name, b->name, "field name");
	same(a->id, b->id, a->name);
	same(a->label, b->label, a->name);
	same(a->type, b->type, a->name);
	same(a->quantifier_offset, b->quantifier_offset, a->name);
	same(a->offset, b->offset, a->name);
	same(a->flags, b->flags, a->name);
	same(a->reserved_flags, b->reserved_flags, a->name);
	same(a->descriptor == NULL, b->descriptor == NULL, a->name);
	same(a->default_value == NULL, b->default_value == NULL, a->name);
	if (a->type == PROTOBUF_C_TYPE_MESSAGE)
		same_text(((const ProtobufCMessageDescriptor *)a->descriptor)->name,
			  ((const ProtobufCMessageDescriptor *)b->descriptor)->name, a->name);
	if (a->type == PROTOBUF_C_TYPE_ENUM)
		same_text(((const ProtobufCEnumDescriptor *)a->descriptor)->name,
			  ((const ProtobufCEnumDescriptor *)b->descriptor)->name, a->name);
	/* Of repeated strings it is the empty string's address, of others a value. */
	if (a->default_value && a->label != PROTOBUF_C_LABEL_REPEATED)
		same_value(a->type, a->default_value, b->default_value, a->name);
}

/* What message_init leaves, pointers by what they point to. */
static void compare_init(const ProtobufCMessageDescriptor *a, const ProtobufCMessageDescriptor *b)
{
	uint8_t *x = calloc(1, a->sizeof_message), *y = calloc(1, b->sizeof_message);

	if (!x || !y)
		exit(1);
	a->message_init((ProtobufCMessage *)(void *)x);
	b->message_init((ProtobufCMessage *)(void *)y);
	for (unsigned i = 0; i < a->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &a->fields[i];
		const void *p = x + f->offset, *q = y + f->offset;

		if (f->quantifier_offset)
			same(memcmp(x + f->quantifier_offset, y + f->quantifier_offset, 4), 0,
			     f->name);
		if (f->label == PROTOBUF_C_LABEL_REPEATED ||
		    f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF || f->type == PROTOBUF_C_TYPE_MESSAGE)
			same(memcmp(p, q, 4), 0, f->name);
		else if (f->type == PROTOBUF_C_TYPE_STRING)
			same_text(*(char *const *)p, *(char *const *)q, f->name);
		else
			same_value(f->type, p, q, f->name);
	}
	free(x);
	free(y);
}

static void compare_message(const ProtobufCMessageDescriptor *a,
			    const ProtobufCMessageDescriptor *b)
{
	where = a->name;
	same(a->magic, b->magic, "magic");
	same_text(a->name, b->name, "name");
	same_text(a->short_name, b->short_name, "short name");
	same_text(a->c_name, b->c_name, "C name");
	same_text(a->package_name, b->package_name, "package");
	same(a->sizeof_message, b->sizeof_message, "sizeof");
	same(a->n_fields, b->n_fields, "count of fields");
	for (unsigned i = 0; i < a->n_fields; i++) {
		compare_field(&a->fields[i], &b->fields[i]);
		same(a->fields_sorted_by_name[i], b->fields_sorted_by_name[i], "order by name");
	}
	same(a->n_field_ranges, b->n_field_ranges, "count of ranges");
	same_ranges(a->field_ranges, b->field_ranges, a->n_field_ranges);
	same(a->message_init == NULL, b->message_init == NULL, "message_init");
	compare_init(a, b);
	compared++;
}

static void compare_service(const ProtobufCServiceDescriptor *a,
			    const ProtobufCServiceDescriptor *b)
{
	where = a->name;
	same(a->magic, b->magic, "magic");
	same_text(a->name, b->name, "name");
	same_text(a->short_name, b->short_name, "short name");
	same_text(a->c_name, b->c_name, "C name");
	same_text(a->package, b->package, "package");
	same(a->n_methods, b->n_methods, "count of methods");
	for (unsigned i = 0; i < a->n_methods; i++) {
		same_text(a->methods[i].name, b->methods[i].name, "method");
		same_text(a->methods[i].input->name, b->methods[i].input->name, "input");
		same_text(a->methods[i].output->name, b->methods[i].output->name, "output");
		same(a->method_indices_by_name[i], b->method_indices_by_name[i], "order");
	}
	compared++;
}

/* One wire through one side: unpack, check, pack. NULL: refused. */
static uint8_t *through(const ProtobufCMessageDescriptor *d, const struct wire *w, size_t *len_out)
{
	ProtobufCMessage *m = protobuf_c_message_unpack(d, NULL, w->len, w->bytes);
	uint8_t *out;

	if (!m)
		return NULL;
	if (!protobuf_c_message_check(m))
		die("protobuf_c_message_check's verdict");
	*len_out = protobuf_c_message_get_packed_size(m);
	out = malloc(*len_out + 1);
	if (!out)
		exit(1);
	same(protobuf_c_message_pack(m, out), *len_out, "packed size");
	protobuf_c_message_free_unpacked(m, NULL);
	return out;
}

static void record(const void *data, size_t len)
{
	uint32_t n = (uint32_t)len;

	fwrite(&n, sizeof(n), 1, records);
	if (len != 0)
		fwrite(data, 1, len, records);
}

static void drive(struct random *r, const ProtobufCMessageDescriptor *theirs,
		  const ProtobufCMessageDescriptor *ours)
{
	where = ours->name;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct wire w = {0};
		size_t a_len = 0, b_len = 0;
		uint8_t *a, *b;

		random_wire(r, ours, true, &w);
		a = theirs ? through(theirs, &w, &a_len) : NULL;
		b = through(ours, &w, &b_len);
		if (theirs) {
			same(a == NULL, b == NULL, "verdict of unpack");
			same(a_len, b_len, "length of what is packed");
			if (b && memcmp(a, b, b_len) != 0)
				die("what is packed");
		}
		if (b && records) {
			record(ours->name, strlen(ours->name));
			record(w.bytes, w.len);
		}
		packed += b != NULL;
		refused += b == NULL;
		free(a);
		free(b);
		free(w.bytes);
	}
}

static struct proto_set *set_load(const char *path)
{
	struct proto_finding finding;
	struct proto_set *set = NULL;
	FILE *f = fopen(path, "rb");
	static uint8_t bytes[1 << 20];
	size_t len;

	if (!f)
		exit(2);
	len = fread(bytes, 1, sizeof(bytes), f);
	fclose(f);
	if (proto_set_parse(bytes, len, NULL, &set, &finding) != 0) {
		fprintf(stderr, "%s: %s: %s: %s\n", path, finding.file, finding.element,
			finding.text);
		exit(1);
	}
	return set;
}

static void *library(const char *path)
{
	void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (!lib) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
	return lib;
}

static void enums(const struct proto_enum *list, uint32_t n, void *theirs, void *ours)
{
	for (uint32_t i = 0; theirs && i < n; i++)
		compare_enum(symbol(theirs, list[i].full_name), symbol(ours, list[i].full_name));
}

static bool record_read(FILE *f, struct wire *out)
{
	uint32_t n;

	if (fread(&n, sizeof(n), 1, f) != 1)
		return false;
	out->bytes = calloc(1, n + 1);
	out->len = n;
	return out->bytes && fread(out->bytes, 1, n, f) == n;
}

static int judge(const char *lib_path, const char *path)
{
	void *ours = library(lib_path);
	FILE *f = fopen(path, "rb");
	struct wire name, w;
	unsigned n = 0;

	if (!f)
		return 1;
	while (record_read(f, &name) && record_read(f, &w)) {
		size_t len = 0;
		uint8_t *out;

		where = (const char *)name.bytes;
		out = through(symbol(ours, where), &w, &len);
		if (!out)
			die("what C++ wrote is refused: verdict");
		if (len != w.len || memcmp(out, w.bytes, len) != 0)
			die("what is packed of C++'s bytes");
		free(out);
		free(name.bytes);
		free(w.bytes);
		n++;
	}
	fclose(f);
	printf("%u messages of C++ came back byte for byte\n", n);
	return n == 0;
}

int main(int argc, char **argv)
{
	struct proto_set *set;
	void *theirs, *ours;
	struct random r;

	if (argc < 4 || argc > 6)
		return 2;
	if (argc == 6)
		return judge(argv[3], argv[5]);
	records = argc == 5 ? fopen(argv[4], "wb") : NULL;
	random_seed(&r, 7);
	set = set_load(argv[1]);
	theirs = strcmp(argv[2], "-") != 0 ? library(argv[2]) : NULL;
	ours = library(argv[3]);
	for (uint32_t i = 0; i < set->messages_n; i++) {
		const struct proto_message *m = set->messages[i];
		const ProtobufCMessageDescriptor *b = symbol(ours, m->full_name);
		const ProtobufCMessageDescriptor *a = theirs ? symbol(theirs, m->full_name) : NULL;

		if (a)
			compare_message(a, b);
		enums(m->enums, m->enums_n, theirs, ours);
		drive(&r, a, b);
	}
	for (uint32_t i = 0; i < set->files_n; i++) {
		const struct proto_file *f = &set->files[i];

		enums(f->enums, f->enums_n, theirs, ours);
		for (uint32_t k = 0; theirs && k < f->services_n; k++)
			compare_service(symbol(theirs, f->services[k].full_name),
					symbol(ours, f->services[k].full_name));
	}
	if (records && fclose(records) != 0)
		return 1;
	printf("%u descriptors equal, %u messages packed, %u refused by both\n", compared, packed,
	       refused);
	if (packed == 0 && set->messages_n > 0)
		die("nothing was packed: this");
	proto_set_destroy(set);
	return 0;
}
