/* The differential check over what protoc-c generates: real layouts, defaults and message_init.
 * usage: generated_test [messages per type [seed]] */
#include "tests/linearize/support.h"

#include "gen_table.h"
#include "unit2.pb-c.h"
#include "unit3.pb-c.h"

#include <stdio.h>
#include <stdlib.h>

static void one_type(const ProtobufCMessageDescriptor *d, uint64_t messages, uint64_t seed,
		     struct check_counts *counts)
{
	const struct schema_message *m;
	struct schema *s = schema_of(d, &m);
	struct random r;
	char label[256];
	uint64_t i;
	int k;

	random_seed(&r, seed);
	snprintf(label, sizeof(label), "%s seed %llu", d->name, (unsigned long long)seed);
	for (i = 0; i < messages; i++) {
		struct wire w;

		random_wire(&r, d, i % 2 == 0, &w);
		check_input(label, &r, d, m, &w, counts);
		for (k = 0; k < 4; k++) {
			random_mutate(&r, &w);
			check_input(label, &r, d, m, &w, counts);
		}
		free(w.bytes);
	}
	schema_destroy(s);
}

int main(int argc, char **argv)
{
	uint64_t messages = argc > 1 ? strtoull(argv[1], NULL, 0) : 150;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	struct check_counts counts = {0};
	size_t i;

	for (i = 0; i < sizeof(roots) / sizeof(roots[0]); i++)
		one_type(roots[i], messages, seed + i, &counts);
	one_type(&unit3__all__descriptor, messages * 4, seed, &counts);
	one_type(&unit2__defaults__descriptor, messages * 4, seed, &counts);
	printf("%zu types, %u inputs: %u accepted, %u refused, %u where protobuf-c is not right\n",
	       sizeof(roots) / sizeof(roots[0]) + 2, counts.inputs, counts.accepted, counts.refused,
	       counts.quirky);
	return counts.accepted > counts.inputs / 10 ? 0 : 1;
}
