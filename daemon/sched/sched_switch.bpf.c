/* At each switch: the word of the thread that goes off a CPU, and of the one that comes on, if they
 * are watched. Built by clang for the BPF machine, carried in splitd's image, loaded by libbpf. */
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "daemon/sched/sched_words.h"

/* What is used of the kernel's struct; libbpf finds where it is in the kernel that runs. */
struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SCHED_WORDS_MAX);
	__type(key, int);
	__type(value, __u32);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SCHED_WORDS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} words SEC(".maps");

static __always_inline void note(int tid, __u64 on)
{
	__u32 *index = bpf_map_lookup_elem(&threads, &tid);
	__u64 *word = index ? bpf_map_lookup_elem(&words, index) : 0;

	if (word)
		*(volatile __u64 *)word =
			(__u64)bpf_get_smp_processor_id() << SCHED_CORE_SHIFT | SCHED_SEEN | on;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, _Bool preempt, struct task_struct *prev, struct task_struct *next)
{
	note(prev->pid, 0);
	note(next->pid, SCHED_ON_CPU);
	return 0;
}

char program_license[] SEC("license") = "Dual BSD/GPL";
