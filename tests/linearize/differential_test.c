/* Thousands of random schemas, random messages of each, and mutations of those, against protobuf-c.
 * usage: differential_test [schemas [first_seed]] */
#include "tests/linearize/support.h"

#include <stdio.h>
#include <stdlib.h>

#define MESSAGES_EACH  6
#define MUTATIONS_EACH 6

static const char *const quirk_names[] = {
#define X(name, what) #name,
	QUIRKS(X)
#undef X
};

static void one_schema(uint64_t seed, struct check_counts *counts)
{
	const struct schema_message *m;
	const ProtobufCMessageDescriptor *d;
	struct random_schema *rs;
	struct schema *s;
	struct random r;
	char label[64];
	int i, k;

	random_seed(&r, seed);
	snprintf(label, sizeof(label), "seed %llu", (unsigned long long)seed);
	quirks_enums_closed = random_below(&r, 3) == 0;
	rs = random_schema_create(&r);
	d = random_schema_root(rs);
	s = schema_of(d, &m);
	for (i = 0; i < MESSAGES_EACH; i++) {
		struct wire w;

		random_wire(&r, d, i % 2 == 0, &w);
		check_input(label, &r, d, m, &w, counts);
		for (k = 0; k < MUTATIONS_EACH; k++) {
			random_mutate(&r, &w);
			check_input(label, &r, d, m, &w, counts);
		}
		free(w.bytes);
	}
	schema_destroy(s);
	random_schema_destroy(rs);
}

int main(int argc, char **argv)
{
	uint64_t schemas = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000;
	uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, seed;
	struct check_counts counts = {0};
	int q;

	for (seed = first; seed < first + schemas; seed++)
		one_schema(seed, &counts);
	printf("%llu schemas, %u inputs: %u accepted, %u refused, %u where protobuf-c is not "
	       "right\n",
	       (unsigned long long)schemas, counts.inputs, counts.accepted, counts.refused,
	       counts.quirky);
	for (q = 0; q < QUIRK_COUNT; q++)
		printf("  %-12s %u\n", quirk_names[q], counts.by_quirk[q]);
	return counts.accepted > counts.inputs / 10 ? 0 : 1;
}
