/* The variants of the fast engines, and which one this machine runs. This file is compiled once for
 * each; the common one chooses. */
#include "linearize/fast_internal.h"

const struct linear_fast FAST_NAME(linear_fast) = {
	.decode = FAST_NAME(decode_fast),
	.encode = FAST_NAME(encode_fast),
	.encode_packed = FAST_NAME(encode_fast_packed),
	.utf8 = FAST_NAME(utf8_span),
#ifdef LINEARIZE_WIDE
	.name = "BMI2, AVX2",
#elif defined(__ARM_NEON)
	.name = "NEON",
#else
	.name = "portable",
#endif
};

#ifndef LINEARIZE_WIDE

#if defined(LINEARIZE_HAVE_WIDE) && defined(__x86_64__)
#include <cpuid.h>

/* AMD before Zen 3 (family 19h) has PEXT and PDEP in microcode, slower than what they replace. */
static bool pext_is_slow(void)
{
	unsigned a, b, c, d, family;

	if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &a, &b, &c, &d))
		return false;
	family = (a >> 8 & 15) + (a >> 20 & 255);
	return family < 0x19;
}

/* clang's __builtin_cpu_supports does not know "lzcnt". */
static bool has_lzcnt(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & bit_LZCNT) != 0;
}

static const struct linear_fast *choose(void)
{
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
	    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") && has_lzcnt() &&
	    !pext_is_slow())
		return &linear_fast_wide;
	return &linear_fast_any;
}
#else
static const struct linear_fast *choose(void)
{
	return &linear_fast_any;
}
#endif

const struct linear_fast *_Atomic linear_fast_chosen = &linear_fast_any;

/* Before main() and before a plugin's first call: no job needs to ask. */
static __attribute__((constructor)) void choose_first(void)
{
	linear_fast_chosen = choose();
}

const struct linear_fast *linear_fast_get(void)
{
	return linear_fast_chosen;
}

void linearize_portable_set(bool portable)
{
	linear_fast_chosen = portable ? &linear_fast_any : choose();
}

const char *linearize_variant_name(void)
{
	return linear_fast_get()->name;
}

#endif
