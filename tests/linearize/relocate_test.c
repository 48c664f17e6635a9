/* relocate_out and relocate_in: random messages of random types there and back, and every pointer
 * of such a block set to what it must not be. usage: relocate_test [schemas [first_seed]] */
#include "tests/linearize/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_EACH 6
#define CHANGES_EACH  40

static uint64_t seed;
static unsigned messages, changes, refused;

static void fail(const char *what)
{
	printf("seed %llu: %s\n", (unsigned long long)seed, what);
	exit(1);
}

static void check(bool good, const char *what)
{
	if (!good)
		fail(what);
}

/* A copy of its own, so that ASan sees every byte past its end. */
static uint8_t *copy_of(const uint8_t *from, size_t bytes)
{
	uint8_t *copy = malloc(bytes);

	memcpy(copy, from, bytes);
	return copy;
}

static void wire_compare(const struct schema_message *m, uint64_t a, uint64_t b)
{
	struct linear_source all = source_everything();
	uint8_t *wire_a, *wire_b;
	size_t len_a, len_b;

	check(encode_all(m, &all, a, unlimited, 0, &wire_a, &len_a) == 0, "the first encodes");
	check(encode_all(m, &all, b, unlimited, 0, &wire_b, &len_b) == 0, "the second encodes");
	check(len_a == len_b && memcmp(wire_a, wire_b, len_a) == 0,
	      "both are the same on the wire");
	free(wire_a);
	free(wire_b);
}

/* Whatever one of its words says: refused, or a message within the block. */
static void change_words(struct random *r, const struct schema_message *m, const uint8_t *block,
			 size_t bytes)
{
	const uint64_t values[] = {bytes, bytes + 8, UINT64_MAX, 3, 8, 16, 24, 1, 2, 0, 1ull << 47};
	struct linear_source all = source_everything();

	for (int i = 0; i < CHANGES_EACH; i++) {
		uint8_t *copy = copy_of(block, bytes), *wire;
		size_t at = random_below(r, (uint32_t)(bytes / 8)) * 8, len;
		uint64_t v = values[random_below(r, sizeof(values) / sizeof(values[0]))];

		memcpy(copy + at, &v, sizeof(v));
		changes++;
		if (relocate_in(m, copy, bytes, 0, NULL) != 0)
			refused++;
		else if (encode_all(m, &all, (uint64_t)(uintptr_t)copy, unlimited, 0, &wire,
				    &len) == 0)
			free(wire); /* a number was changed; ASan has watched the walk */
		free(copy);
	}
}

static void one_message(struct random *r, const ProtobufCMessageDescriptor *d,
			const struct schema_message *m, const struct wire *w)
{
	struct linear_source all = source_everything();
	struct arena arena;
	struct linear_target target;
	uint64_t root;
	uint8_t *block, *copy;
	size_t bytes, again;

	arena_init(&arena, CHUNK_WANT);
	target = arena_target(&arena);
	if (decode_all(m, w->bytes, w->len, &target, unlimited, &root, NULL) != 0) {
		arena_fini(&arena);
		return;
	}
	messages++;
	check(relocate_out(m, &all, root, NULL, NULL, 0, &bytes) == 0, "it can be counted");
	block = malloc(bytes);
	check(relocate_out(m, &all, root, NULL, block, bytes, &again) == 0 && again == bytes,
	      "what is written is what was counted");
	check(relocate_out(m, &all, root, NULL, block, bytes - 1, &again) != 0,
	      "one byte less is too little");
	check(relocate_out(m, &all, root, NULL, block, bytes, &again) == 0, "and again");
	copy = copy_of(block, bytes);
	check(relocate_in(m, copy, bytes, 0, NULL) == 0, "it is taken where it arrives");
	check(((const ProtobufCMessage *)(const void *)copy)->descriptor == d,
	      "with the receiver's descriptor");
	wire_compare(m, root, (uint64_t)(uintptr_t)copy);
	free(copy);
	for (size_t less = 1; less <= bytes && less <= 16; less++) {
		copy = copy_of(block, bytes - less + 1);
		check(less == 1 || relocate_in(m, copy, bytes - less + 1, 0, NULL) != 0,
		      "a block cut short is refused");
		free(copy);
	}
	change_words(r, m, block, bytes);
	free(block);
	arena_fini(&arena);
}

static void one_schema(void)
{
	const struct schema_message *m;
	const ProtobufCMessageDescriptor *d;
	struct random_schema *rs;
	struct schema *s;
	struct random r;

	random_seed(&r, seed);
	rs = random_schema_create(&r);
	d = random_schema_root(rs);
	s = schema_of(d, &m);
	for (int i = 0; i < MESSAGES_EACH; i++) {
		struct wire w;

		random_wire(&r, d, true, &w);
		one_message(&r, d, m, &w);
		free(w.bytes);
	}
	schema_destroy(s);
	random_schema_destroy(rs);
}

int main(int argc, char **argv)
{
	uint64_t schemas = argc > 1 ? strtoull(argv[1], NULL, 0) : 300;
	uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;

	for (seed = first; seed < first + schemas; seed++)
		one_schema();
	printf("%llu schemas, %u messages there and back, %u words changed, %u of these refused\n",
	       (unsigned long long)schemas, messages, changes, refused);
	return messages == 0 || refused == 0;
}
