/* AddressSanitizer poisoning of memory that is free or unused.
 *
 * ASan sees nothing inside a hugepage, segment or mbuf room by itself: whoever hands parts of such
 * memory out poisons the rest. No-ops without ASan (gcc and clang). Granularity is 8 bytes: poison
 * 8-byte aligned starts; a region's tail may end anywhere. Any thread.
 */
#ifndef SPLITD_BASE_POISON_H
#define SPLITD_BASE_POISON_H

#include <stdbool.h>
#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define POISON_ENABLED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISON_ENABLED 1
#endif
#endif
#ifndef POISON_ENABLED
#define POISON_ENABLED 0
#endif

#if POISON_ENABLED
#include <sanitizer/asan_interface.h>
#endif

/* From here on a load or store in [p, p+bytes) is a report. */
static inline void poison_region(const void *p, size_t bytes)
{
#if POISON_ENABLED
	__asan_poison_memory_region(p, bytes);
#else
	(void)p;
	(void)bytes;
#endif
}

/* The bytes may be used (again). Unpoison before munmap, or the next mapping there inherits it. */
static inline void unpoison_region(const void *p, size_t bytes)
{
#if POISON_ENABLED
	__asan_unpoison_memory_region(p, bytes);
#else
	(void)p;
	(void)bytes;
#endif
}

/* Whether the byte at `p` is poisoned; false without ASan. For tests. */
static inline bool poison_is_poisoned(const void *p)
{
#if POISON_ENABLED
	return __asan_address_is_poisoned(p) != 0;
#else
	(void)p;
	return false;
#endif
}

#endif
