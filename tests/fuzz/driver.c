/* A main for fuzz targets where there is no libFuzzer (gcc): every file of a seed corpus as it
 * stands, then mutations of them, each drawn from (seed, case), so that a failure is a seed and a
 * case.
 *
 * usage: TARGET [CORPUS_DIR [CASES [SEED]]]      20,000 cases, seed 1; at most 20 s
 *        TARGET --case N [CORPUS_DIR [SEED]]     one case alone
 *        TARGET --file PATH                      one file alone
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/poison.h"
#include "base/random.h"

#if POISON_ENABLED
#include <sanitizer/common_interface_defs.h>
#endif

#define SEEDS_MAX     512
#define INPUT_MAX     (1u << 16)
#define TIME_LIMIT_NS (20 * CLOCK_NS_PER_SEC)
#define CASES_DEFAULT 20000
#define MUTATIONS_MAX 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seed {
	uint8_t *bytes;
	size_t len;
};

static struct seed seeds[SEEDS_MAX];
static size_t seeds_n;
static uint64_t case_now, seed_now = 1;
static const char *file_now;

static void died(void)
{
	if (file_now != NULL)
		fprintf(stderr, "fuzz: died in file %s\n", file_now);
	else
		fprintf(stderr, "fuzz: died in --case %" PRIu64 " CORPUS %" PRIu64 "\n", case_now,
			seed_now);
}

/* The input in an allocation of exactly its size, so that reading past it is seen. */
static void run(const uint8_t *bytes, size_t len)
{
	uint8_t *copy = malloc(len != 0 ? len : 1);

	if (copy == NULL)
		abort();
	memcpy(copy, bytes, len);
	LLVMFuzzerTestOneInput(copy, len);
	free(copy);
}

static int seed_load(const char *path)
{
	struct seed *s = &seeds[seeds_n];
	FILE *f;

	if (seeds_n == SEEDS_MAX)
		return 0;
	f = fopen(path, "rb");
	s->bytes = malloc(INPUT_MAX);
	if (f == NULL || s->bytes == NULL) {
		if (f != NULL)
			fclose(f);
		free(s->bytes);
		return -1;
	}
	s->len = fread(s->bytes, 1, INPUT_MAX, f);
	fclose(f);
	seeds_n++;
	return 0;
}

static int name_compare(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void corpus_load(const char *dir)
{
	struct dirent **names;
	/* Sorted by bytes: the same cases on every machine. */
	int n = scandir(dir, &names, NULL, name_compare);

	for (int i = 0; i < n; i++) {
		char path[4096];
		struct stat st;

		snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name);
		if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && seed_load(path) == 0) {
			file_now = path;
			run(seeds[seeds_n - 1].bytes, seeds[seeds_n - 1].len);
			file_now = NULL;
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

static uint8_t interesting(struct random *r)
{
	static const uint8_t bytes[] = {0,    1,    2,    4,   8,   16,  0x7f,
					0x80, 0xff, 0xfe, '"', '{', '0', '/'};

	return random_below(r, 2) != 0 ? bytes[random_below(r, sizeof(bytes))]
				       : (uint8_t)random_next(r);
}

/* One change of buf[0..len); returns the new length, at most INPUT_MAX. */
static size_t mutate(struct random *r, uint8_t *buf, size_t len)
{
	size_t at = len != 0 ? random_below(r, len) : 0;
	size_t n = 1 + random_below(r, random_below(r, 4) == 0 ? 64 : 4);
	const struct seed *other = seeds_n != 0 ? &seeds[random_below(r, seeds_n)] : NULL;

	switch (random_below(r, 7)) {
	case 0: /* flip a bit */
		if (len != 0)
			buf[at] ^= (uint8_t)(1u << random_below(r, 8));
		return len;
	case 1: /* overwrite */
		for (size_t i = at; i < len && i < at + n; i++)
			buf[i] = interesting(r);
		return len;
	case 2: /* insert */
		if (len + n > INPUT_MAX)
			return len;
		memmove(buf + at + n, buf + at, len - at);
		for (size_t i = 0; i < n; i++)
			buf[at + i] = interesting(r);
		return len + n;
	case 3: /* remove */
		n = n < len - at ? n : len - at;
		memmove(buf + at, buf + at + n, len - at - n);
		return len - n;
	case 4: /* cut off */
		return at;
	case 5: /* repeat a piece */
		n = n < len - at ? n : len - at;
		if (len + n > INPUT_MAX)
			return len;
		memmove(buf + at + n, buf + at, len - at);
		return len + n;
	default: /* the tail of another seed */
		if (other == NULL || other->len == 0)
			return len;
		n = random_below(r, other->len);
		if (at + other->len - n > INPUT_MAX)
			return len;
		memcpy(buf + at, other->bytes + n, other->len - n);
		return at + other->len - n;
	}
}

static void run_case(uint64_t number)
{
	static uint8_t buf[INPUT_MAX];
	struct random r;
	size_t len = 0;

	case_now = number;
	random_seed(&r, seed_now * UINT64_C(0x9e3779b97f4a7c15) + number);
	if (seeds_n != 0) {
		const struct seed *s = &seeds[random_below(&r, seeds_n)];

		len = s->len;
		memcpy(buf, s->bytes, len);
	}
	for (uint64_t i = 0, n = 1 + random_below(&r, MUTATIONS_MAX); i < n; i++)
		len = mutate(&r, buf, len);
	run(buf, len);
}

int main(int argc, char **argv)
{
	uint64_t cases = CASES_DEFAULT, done = 0, start = clock_ns();

#if POISON_ENABLED
	__sanitizer_set_death_callback(died);
#else
	(void)died; /* a plain crash says nothing; use a sanitizer build */
#endif
	if (argc == 3 && strcmp(argv[1], "--file") == 0) {
		file_now = argv[2];
		if (seed_load(argv[2]) != 0)
			return EXIT_FAILURE;
		run(seeds[0].bytes, seeds[0].len);
		free(seeds[0].bytes);
		return EXIT_SUCCESS;
	}
	if (argc >= 3 && strcmp(argv[1], "--case") == 0) {
		seed_now = argc > 4 ? strtoull(argv[4], NULL, 0) : 1;
		if (argc > 3)
			corpus_load(argv[3]);
		run_case(strtoull(argv[2], NULL, 0));
		return EXIT_SUCCESS;
	}
	if (argc > 1)
		corpus_load(argv[1]);
	if (argc > 2)
		cases = strtoull(argv[2], NULL, 0);
	if (argc > 3)
		seed_now = strtoull(argv[3], NULL, 0);
	for (; done < cases && clock_ns() - start < TIME_LIMIT_NS; done++)
		run_case(done);
	printf("%zu seeds, %" PRIu64 " cases, seed %" PRIu64 "\n", seeds_n, done, seed_now);
	for (size_t i = 0; i < seeds_n; i++)
		free(seeds[i].bytes);
	return EXIT_SUCCESS;
}
