/* The sched_switch program against threads of our own: one that sleeps, one that works, one that is
 * watched no more, one that is not ours. Skipped where the program can't be had. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "daemon/sched/sched.h"

#define WAIT_NS (20 * CLOCK_NS_PER_SEC)

static sem_t go;
static _Atomic int tid, stop;

static void fail_at(int line, const char *what)
{
	fprintf(stderr, "line %d: %s\n", line, what);
	exit(1);
}
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			fail_at(__LINE__, #x);                                                     \
	} while (0)

/* Sleeps, then works until `stop`, then sleeps again. */
static void *sleeper(void *arg)
{
	(void)arg;
	tid = gettid();
	while (sem_wait(&go) != 0)
		;
	while (!stop)
		;
	while (sem_wait(&go) != 0)
		;
	return NULL;
}

static void word_wait(const uint64_t *word, bool off, int line)
{
	uint64_t until = clock_ns() + WAIT_NS, now;

	do {
		now = __atomic_load_n(word, __ATOMIC_RELAXED);
		if (clock_ns() > until)
			fail_at(line, off ? "never off" : "never on");
	} while (now == 0 || sched_word_off(now) != off);
	CHECK(sched_word_core(now) >= 0 && sched_word_core(now) < sysconf(_SC_NPROCESSORS_CONF));
}

int main(void)
{
	struct sched_watch *watch = NULL;
	const uint64_t *words, *more;
	char why[128] = "";
	pthread_t thread;

	if (sched_open(&watch, why, sizeof(why)) != 0) {
		CHECK(why[0] != '\0');
		printf("skipped: %s\n", why);
		return 77;
	}
	words = sched_words_get(watch, 3);
	more = sched_words_get(watch, 2);
	CHECK(words != NULL && more != NULL && (more >= words + 3 || more + 2 <= words));
	CHECK(sched_words_get(watch, SCHED_WORDS_MAX) == NULL);
	CHECK(sem_init(&go, 0, 0) == 0);
	CHECK(pthread_create(&thread, NULL, sleeper, NULL) == 0);
	while (tid == 0)
		usleep(100);

	/* Another process's thread is not ours to name, nor one that is not there. */
	CHECK(sched_thread_watch(watch, getpid(), 1, &words[1]) == -SPLIT_E_BASE_INVALID);
	CHECK(sched_thread_watch(watch, getpid(), -5, &words[1]) == -SPLIT_E_BASE_INVALID);
	CHECK(words[1] == 0);

	CHECK(sched_thread_watch(watch, getpid(), tid, &words[1]) == 0);
	CHECK(sem_post(&go) == 0);
	word_wait(&words[1], false, __LINE__);
	stop = 1;
	word_wait(&words[1], true, __LINE__);

	/* Watched in another word: the old one is still. */
	CHECK(sched_thread_watch(watch, getpid(), tid, &words[2]) == 0);
	sched_thread_forget(watch, &words[1]);
	CHECK(sem_post(&go) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	word_wait(&words[2], true, __LINE__);
	CHECK(words[1] == 0);
	sched_words_put(watch, words, 3);
	CHECK(words[2] == 0);
	CHECK(sched_words_get(watch, 3) == words);
	sched_close(watch);
	return 0;
}
