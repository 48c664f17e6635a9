/* The scheduler's own word: which threads are on a CPU.
 *
 * A host worker says POLLING or RUNNING as long as it has not said otherwise, also while somebody
 * else has its core. A BPF program at sched_switch (sched_switch.bpf.c) knows better: for each
 * thread that is watched it keeps a word up to date in a map that is mapped here, so that a look
 * costs one load and no system call. (Lauberhorn, s4: who dispatches shares the scheduler's view.)
 *
 * Where the program can't be had, because BPF is not allowed, the kernel has no BTF, splitd is not
 * in the first pid namespace or was built without clang, sched_open fails and says why; who
 * dispatches goes by the age of what waits then.
 *
 * Threads: the control thread, but for the words, which anybody may read.
 */
#ifndef SPLITD_DAEMON_SCHED_SCHED_H
#define SPLITD_DAEMON_SCHED_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/sched/sched_words.h"

struct sched_watch;

static inline bool sched_word_off(uint64_t word)
{
	return (word & (SCHED_SEEN | SCHED_ON_CPU)) == SCHED_SEEN;
}

/* The core it is on, or was last. */
static inline int sched_word_core(uint64_t word)
{
	return (word & SCHED_SEEN) != 0 ? (int)(word >> SCHED_CORE_SHIFT) : -1;
}

/* Load the program. 0; -SPLIT_E_BASE_SYSTEM, -SPLIT_E_BASE_NOMEM with one line in `why`. */
int sched_open(struct sched_watch **out, char *why, size_t why_bytes) SPLIT_MUST_USE;
/* NULL is fine. */
void sched_close(struct sched_watch *watch);

/* `n` words in a row, all 0, until sched_words_put; NULL when there are not so many. */
const uint64_t *sched_words_get(struct sched_watch *watch, unsigned n);
void sched_words_put(struct sched_watch *watch, const uint64_t *words, unsigned n);

/* Keep `word` (one of sched_words_get) for the thread `tid` of process `pid`, both as this process
 * sees them; whoever had the word before is forgotten. A thread that is not `pid`'s is refused:
 * what hosts say of themselves need not be true. 0, -SPLIT_E_BASE_INVALID, -SPLIT_E_BASE_SYSTEM. */
int sched_thread_watch(struct sched_watch *watch, int pid, int tid,
		       const uint64_t *word) SPLIT_MUST_USE;
void sched_thread_forget(struct sched_watch *watch, const uint64_t *word);

#endif
