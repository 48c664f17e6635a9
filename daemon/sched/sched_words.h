/* What splitd and the BPF program share. No other include here: clang reads it for the BPF machine.
 */
#ifndef SPLITD_DAEMON_SCHED_WORDS_H
#define SPLITD_DAEMON_SCHED_WORDS_H

#define SCHED_WORDS_MAX 4096 /* threads watched at once */

/* A thread's word: 0 until it was first seen to be switched. */
#define SCHED_SEEN       0x1u
#define SCHED_ON_CPU     0x2u
#define SCHED_CORE_SHIFT 8 /* above: the core it is on, or was last */

#endif
