/* The program's life, and which threads it watches. */
#include "daemon/sched/sched.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef SCHED_HAVE_BPF

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "sched_switch.h"

/* The first pid namespace's inode (PROC_PID_INIT_INO): the kernel's numbers are ours there only. */
#define PID_NAMESPACE_FIRST "pid:[4026531836]"

#define WORDS_BYTES (SCHED_WORDS_MAX * sizeof(uint64_t))

struct sched_watch {
	struct bpf_object *object;
	struct bpf_link *link;
	int threads_fd, words_fd;
	uint64_t *words; /* mapped; the program writes, we clear before a word is given out */
	int tid[SCHED_WORDS_MAX];
	bool taken[SCHED_WORDS_MAX];
};

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

static bool namespace_is(const char *path, const char *wanted)
{
	char text[64];
	ssize_t n = readlink(path, text, sizeof(text) - 1);

	if (n < 0)
		return false;
	text[n] = '\0';
	return strcmp(text, wanted) == 0;
}

static int program_load(struct sched_watch *s, char *why, size_t why_bytes)
{
	struct bpf_program *program;
	struct bpf_map *threads, *words;
	int err;

	s->object = bpf_object__open_mem(sched_switch, sizeof(sched_switch), NULL);
	err = s->object == NULL ? -errno : bpf_object__load(s->object);
	if (err != 0) {
		snprintf(why, why_bytes, "the sched_switch program can't be loaded: %s",
			 strerror(-err));
		return -SPLIT_E_BASE_SYSTEM;
	}
	program = bpf_object__find_program_by_name(s->object, "on_switch");
	threads = bpf_object__find_map_by_name(s->object, "threads");
	words = bpf_object__find_map_by_name(s->object, "words");
	if (program == NULL || threads == NULL || words == NULL) {
		snprintf(why, why_bytes, "the sched_switch program is not whole");
		return -SPLIT_E_BASE_SYSTEM;
	}
	s->threads_fd = bpf_map__fd(threads);
	s->words_fd = bpf_map__fd(words);
	s->words = mmap(NULL, WORDS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s->words_fd, 0);
	if (s->words == MAP_FAILED)
		s->words = NULL;
	s->link = s->words != NULL ? bpf_program__attach(program) : NULL;
	if (s->link == NULL) {
		snprintf(why, why_bytes, "the sched_switch program can't be attached: %s",
			 strerror(errno));
		return -SPLIT_E_BASE_SYSTEM;
	}
	return 0;
}

int sched_open(struct sched_watch **out, char *why, size_t why_bytes)
{
	struct sched_watch *s;
	int err;

	if (!namespace_is("/proc/self/ns/pid", PID_NAMESPACE_FIRST)) {
		snprintf(why, why_bytes, "splitd is not in the first pid namespace");
		return -SPLIT_E_BASE_SYSTEM;
	}
	s = calloc(1, sizeof(*s));
	if (s == NULL) {
		snprintf(why, why_bytes, "no memory");
		return -SPLIT_E_BASE_NOMEM;
	}
	(void)libbpf_set_print(quiet);
	err = program_load(s, why, why_bytes);
	if (err != 0) {
		sched_close(s);
		return err;
	}
	*out = s;
	return 0;
}

void sched_close(struct sched_watch *s)
{
	if (s == NULL)
		return;
	(void)bpf_link__destroy(s->link);
	if (s->words != NULL)
		(void)munmap(s->words, WORDS_BYTES);
	bpf_object__close(s->object);
	free(s);
}

const uint64_t *sched_words_get(struct sched_watch *s, unsigned n)
{
	unsigned free_n = 0;

	for (unsigned i = 0; i < SCHED_WORDS_MAX; i++) {
		free_n = s->taken[i] ? 0 : free_n + 1;
		if (free_n < n || n == 0)
			continue;
		i -= n - 1;
		for (unsigned k = i; k < i + n; k++) {
			s->taken[k] = true;
			__atomic_store_n(&s->words[k], 0, __ATOMIC_RELAXED);
		}
		return &s->words[i];
	}
	return NULL;
}

void sched_words_put(struct sched_watch *s, const uint64_t *words, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		sched_thread_forget(s, words + i);
		s->taken[words - s->words + (ptrdiff_t)i] = false;
	}
}

/* Whether `tid` is a thread of `pid`, and of our own pid namespace: what it says of its number is
 * then what the kernel says. */
static bool thread_is_of(int pid, int tid)
{
	char path[64], own[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d", pid, tid);
	if (pid <= 0 || tid <= 0 || access(path, F_OK) != 0)
		return false;
	n = readlink("/proc/self/ns/pid", own, sizeof(own) - 1);
	own[n > 0 ? n : 0] = '\0';
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	return namespace_is(path, own);
}

int sched_thread_watch(struct sched_watch *s, int pid, int tid, const uint64_t *word)
{
	uint32_t index = (uint32_t)(word - s->words);

	sched_thread_forget(s, word);
	if (!thread_is_of(pid, tid))
		return -SPLIT_E_BASE_INVALID;
	__atomic_store_n(&s->words[index], 0, __ATOMIC_RELAXED);
	if (bpf_map_update_elem(s->threads_fd, &tid, &index, BPF_ANY) != 0)
		return -SPLIT_E_BASE_SYSTEM;
	s->tid[index] = tid;
	return 0;
}

void sched_thread_forget(struct sched_watch *s, const uint64_t *word)
{
	uint32_t index = (uint32_t)(word - s->words), now;
	int *tid = &s->tid[index];

	/* Another word may have the number by now. */
	if (*tid != 0 && bpf_map_lookup_elem(s->threads_fd, tid, &now) == 0 && now == index)
		(void)bpf_map_delete_elem(s->threads_fd, tid);
	*tid = 0;
	__atomic_store_n(&s->words[index], 0, __ATOMIC_RELAXED);
}

#else

int sched_open(struct sched_watch **out, char *why, size_t why_bytes)
{
	(void)out;
	snprintf(why, why_bytes, "splitd was built without clang or libbpf");
	return -SPLIT_E_BASE_SYSTEM;
}

void sched_close(struct sched_watch *s)
{
	(void)s;
}

const uint64_t *sched_words_get(struct sched_watch *s, unsigned n)
{
	(void)s;
	(void)n;
	return NULL;
}

void sched_words_put(struct sched_watch *s, const uint64_t *words, unsigned n)
{
	(void)s;
	(void)words;
	(void)n;
}

int sched_thread_watch(struct sched_watch *s, int pid, int tid, const uint64_t *word)
{
	(void)s;
	(void)pid;
	(void)tid;
	(void)word;
	return -SPLIT_E_BASE_SYSTEM;
}

void sched_thread_forget(struct sched_watch *s, const uint64_t *word)
{
	(void)s;
	(void)word;
}

#endif
