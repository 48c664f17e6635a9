/* What the fast engines share: wide varints, and the variants they are compiled in.
 *
 * The files of the fast engines are compiled once for every machine and, on x86-64, once more for
 * those with BMI2 and AVX2 (LINEARIZE_WIDE); which one runs is chosen when the process starts.
 * aarch64 has NEON always, so one variant does. Each vector path has a portable twin. ASAN:
 * what looks past the ends of short strings is left out. */
#ifndef SPLITD_LINEARIZE_FAST_INTERNAL_H
#define SPLITD_LINEARIZE_FAST_INTERNAL_H

#include "linearize/linearize_internal.h"

#include <stdatomic.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define ASAN
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define ASAN
#endif

#ifdef LINEARIZE_WIDE
#define FAST_NAME(name) name##_wide
#else
#define FAST_NAME(name) name##_any
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define likely(x)     __builtin_expect(!!(x), 1)
#define unlikely(x)   __builtin_expect(!!(x), 0)
#define HIGH_BITS     0x8080808080808080u

/* At the end of what is called from outside. Between the pieces nothing is cleared: they call each
 * other at every field (-mno-vzeroupper). */
#ifdef __AVX2__
#define FAST_LEAVE() _mm256_zeroupper()
#else
#define FAST_LEAVE() ((void)0)
#endif

struct decode_state;
struct encode_state;

/* One variant of the fast engines. */
struct linear_fast {
	/* In phase FIELDS: take fields as far as the usual goes. Stops between two fields, with the
	 * state as the generic engine would have left it there; what it stopped at is for that
	 * engine. It has no errors of its own. */
	void (*decode)(struct decode_state *s);
	/* The same for encode. */
	void (*encode)(struct encode_state *s);
	/* In phase PACKED: write elements as long as there are chunk and budget for them. */
	void (*encode_packed)(struct encode_state *s);
	/* utf8_span of this variant. */
	const uint8_t *(*utf8)(const uint8_t *p, const uint8_t *end);
	const char *name;
};

extern const struct linear_fast linear_fast_any;
#ifdef LINEARIZE_HAVE_WIDE
extern const struct linear_fast linear_fast_wide;
#endif

/* The best variant that this machine can run, found when the process starts. */
extern const struct linear_fast *_Atomic linear_fast_chosen;
const struct linear_fast *linear_fast_get(void);

/* For a job that starts; NULL: the generic engine alone. */
static inline const struct linear_fast *linear_fast_of_job(void)
{
	if (atomic_load_explicit(&linearize_engine_now, memory_order_relaxed) !=
	    LINEARIZE_ENGINE_FAST)
		return NULL;
	return atomic_load_explicit(&linear_fast_chosen, memory_order_relaxed);
}

/* --- Variant-internal pieces ------------------------------------------------------------------ */

void FAST_NAME(decode_fast)(struct decode_state *s);
void FAST_NAME(encode_fast)(struct encode_state *s);
void FAST_NAME(encode_fast_packed)(struct encode_state *s);
const uint8_t *FAST_NAME(utf8_span)(const uint8_t *p, const uint8_t *end);

/* Varint types of packed fields. */
enum varint_kind { VARINT_32, VARINT_64, VARINT_ZIGZAG_32, VARINT_ZIGZAG_64, VARINT_BOOL };

/* The 64 bytes at `p`: bit i says that p[i] ends a varint. */
uint64_t FAST_NAME(varints_ends)(const uint8_t *p);
/* Decode the varints whose ends are set in `ends` (not 0), from `p` on, which 72 bytes may be read
 * of, to `slot`. False: one is too long; then `slot` holds anything. */
bool FAST_NAME(varints_decode_block)(enum varint_kind kind, uint8_t *slot, const uint8_t *p,
				     uint64_t ends);
/* How many varints end in [p, end). */
uint64_t FAST_NAME(varints_count)(const uint8_t *p, const uint8_t *end);
/* Decode all varints of [p, end), which ends with a whole one, to `slot`, which has room for them.
 * Nothing past `wire_end` (>= end) is read. False: one is too long; then `slot` holds anything. */
bool FAST_NAME(varints_decode)(enum varint_kind kind, uint8_t *slot, const uint8_t *p,
			       const uint8_t *end, const uint8_t *wire_end);
/* By ProtobufCType, of what has varints: encode elements [to, from) of `array`, the last one first,
 * in front of `head`; each has `most` bytes of room, and 16 more are there. The array may change
 * meanwhile: each element is loaded once. */
struct varints_encoder {
	uint8_t *(*encode)(uint8_t *head, const uint8_t *array, uint64_t from, uint64_t to);
	uint8_t most;
};

extern const struct varints_encoder FAST_NAME(varints_encoders)[TYPE_COUNT];

/* --- Varints ---------------------------------------------------------------------------------- */

/* By value: two registers. `next` NULL: longer than 10 bytes. */
struct varint {
	const uint8_t *next;
	uint64_t v;
};

/* The 7-bit groups of the bytes of `w`, together. */
ALWAYS_INLINE uint64_t groups_join(uint64_t w)
{
#ifdef __BMI2__
	return _pext_u64(w, ~HIGH_BITS);
#else
	w = (w & 0x007f007f007f007fu) | (w & 0x7f007f007f007f00u) >> 1;
	w = (w & 0x00003fff00003fffu) | (w & 0x3fff00003fff0000u) >> 2;
	return (w & 0x000000000fffffffu) | (w & 0x0fffffff00000000u) >> 4;
#endif
}

/* The low 56 bits of `v` as groups of 7, one in each byte. */
ALWAYS_INLINE uint64_t groups_spread(uint64_t v)
{
#ifdef __BMI2__
	return _pdep_u64(v, ~HIGH_BITS);
#else
	v = (v & 0x000000000fffffffu) | (v & 0x00fffffff0000000u) << 4;
	v = (v & 0x00003fff00003fffu) | (v & 0x0fffc0000fffc000u) << 2;
	return (v & 0x007f007f007f007fu) | (v & 0x3f803f803f803f80u) << 1;
#endif
}

/* The varint at `p`, 10 bytes of which may be read; `w` are its first 8. */
ALWAYS_INLINE struct varint varint_join(const uint8_t *p, uint64_t w)
{
	uint64_t stops = ~w & HIGH_BITS;
	struct varint r;

	if (likely(stops)) {
		r.v = groups_join(w & (stops ^ (stops - 1)));
		r.next = p + (unsigned)__builtin_ctzll(stops) / 8 + 1;
		return r;
	}
	r.v = groups_join(w) | (uint64_t)(p[8] & 0x7f) << 56;
	r.next = p + 9;
	if (p[8] >= 0x80) {
		r.v |= (uint64_t)p[9] << 63;
		r.next = p[9] >= 0x80 ? NULL : p + 10;
	}
	return r;
}

/* The same, the short ones first. */
ALWAYS_INLINE struct varint varint_near(const uint8_t *p)
{
	uint64_t w = load64(p);

	if (likely(!(w & 0x80)))
		return (struct varint){p + 1, w & 0x7f};
	return varint_join(p, w);
}

/* Of `v`, which is not 0. */
ALWAYS_INLINE unsigned varint_bytes(uint64_t v)
{
	return (640 - 9 * (unsigned)__builtin_clzll(v)) / 64;
}

/* `n` bytes, at most 8: the groups are spread over a word and moved to its end. All bytes but the
 * last say that they go on, those in front of the first too: nothing is there yet. */
ALWAYS_INLINE uint8_t *varint_spread(uint8_t *head, uint64_t v, unsigned n)
{
	store64(head - 8, groups_spread(v) << (-8 * n & 63) | HIGH_BITS >> 8);
	return head - n;
}

/* 9 or 10 bytes: the last two first, of which the rest overwrites one where there are 9. */
ALWAYS_INLINE uint8_t *varint_longest(uint8_t *head, uint64_t v)
{
	unsigned top = (unsigned)(v >> 63);
	uint16_t last = (uint16_t)((unsigned)(v >> 56) << (8 - 8 * top) | top << 8);

	memcpy(head - 2, &last, 2);
	head -= 9 + top;
	store64(head, groups_spread(v) | HIGH_BITS);
	return head;
}

/* The bytes of `v` in front of `head`, from the last on. `wide`: it may have more than 32 bits. */
ALWAYS_INLINE uint8_t *varint_put(uint8_t *head, uint64_t v, bool wide)
{
	if (likely(v < 0x80)) {
		*--head = (uint8_t)v;
		return head;
	}
	return likely(!wide || !(v >> 56)) ? varint_spread(head, v, varint_bytes(v))
					   : varint_longest(head, v);
}

/* Any varint of at most 10 bytes that ends before `end`, byte by byte. */
static inline struct varint varint_careful(const uint8_t *p, const uint8_t *end)
{
	struct varint r = {NULL, 0};
	unsigned i;

	for (i = 0; i < 10 && p + i < end; i++) {
		r.v |= (uint64_t)(p[i] & 0x7f) << (7 * i);
		if (p[i] < 0x80) {
			r.next = p + i + 1;
			return r;
		}
	}
	return r;
}

#endif
