/* Segments: memfds that one side writes and the other can only read.
 *
 * The pages are taken when the segment is made, so that a machine without memory says so then. The
 * to-daemon segment is unsealed until the host has mapped it; until the seals are on, the host may
 * punch holes in it or cut it short, so its size is checked and every page faulted in after
 * sealing, by madvise, which reports an error where a plain load would raise SIGBUS.
 */
#include "shepherd/shepherd_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/poison.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

#if SHEPHERD_TSAN
uint32_t shepherd_fence_word;
#endif

/* ---- SIGBUS. The handler may run in any thread at any instant; it only reads this table, calls
 * mmap and stores one word. */
#define SIGBUS_SEGMENTS_MAX 1024

static struct sigbus_entry {
	uint32_t taken;
	uintptr_t start; /* 0: not in use; stored last when taken, first when given back */
	size_t bytes;
	uint32_t *dead;
	bool writable;
} sigbus_entries[SIGBUS_SEGMENTS_MAX];

static struct sigaction sigbus_before;
static bool sigbus_installed;

static bool sigbus_cover(uintptr_t address)
{
	for (size_t i = 0; i < SIGBUS_SEGMENTS_MAX; i++) {
		struct sigbus_entry *e = &sigbus_entries[i];
		uintptr_t start = load_acquire(&e->start);
		size_t bytes = load_relaxed(&e->bytes);

		if (start == 0 || address - start >= bytes || load_acquire(&e->start) != start)
			continue;
		if (mmap((void *)start, bytes, PROT_READ | (e->writable ? PROT_WRITE : 0),
			 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			 0) == MAP_FAILED)
			return false;
		store_release(e->dead, 1);
		return true;
	}
	return false;
}

static void sigbus_handle(int signal_number, siginfo_t *info, void *context)
{
	int saved = errno;

	if (info->si_code > 0 && sigbus_cover((uintptr_t)info->si_addr)) {
		errno = saved;
		return;
	}
	errno = saved;
	if (sigbus_before.sa_flags & SA_SIGINFO) {
		sigbus_before.sa_sigaction(signal_number, info, context);
		return;
	}
	if (sigbus_before.sa_handler != SIG_DFL && sigbus_before.sa_handler != SIG_IGN) {
		sigbus_before.sa_handler(signal_number);
		return;
	}
	/* Not ours: let the fault happen again without us. */
	signal(SIGBUS, SIG_DFL);
	if (info->si_code <= 0)
		raise(SIGBUS);
}

int segment_sigbus_install(void)
{
	struct sigaction action = {.sa_sigaction = sigbus_handle, .sa_flags = SA_SIGINFO};

	if (sigbus_installed)
		return 0;
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, &sigbus_before) < 0)
		return -SPLIT_E_BASE_SYSTEM;
	sigbus_installed = true;
	return 0;
}

/* Any thread may add and remove: an entry is taken by its `taken` word. */
static int sigbus_add(struct segment *s, bool writable, uint32_t *dead)
{
	for (size_t i = 0; i < SIGBUS_SEGMENTS_MAX; i++) {
		struct sigbus_entry *e = &sigbus_entries[i];
		uint32_t unused = 0;

		if (!__atomic_compare_exchange_n(&e->taken, &unused, 1, false, __ATOMIC_ACQUIRE,
						 __ATOMIC_RELAXED))
			continue;
		store_relaxed(&e->bytes, s->bytes);
		e->dead = dead;
		e->writable = writable;
		store_release(&e->start, (uintptr_t)s->mem);
		s->watch = e;
		return 0;
	}
	return -SPLIT_E_SHEPHERD_ATTACH_LIMIT;
}

static void sigbus_remove(struct segment *s)
{
	if (s->watch == NULL)
		return;
	store_release(&s->watch->start, 0);
	store_release(&s->watch->taken, 0);
	s->watch = NULL;
}

/* ---- segments */

/* The policy sticks to the memfd, whoever faults its pages in later. Preferred, not bound: a node
 * that is full gives a slower endpoint, not none. */
static void segment_place(const struct segment *s, int node)
{
	unsigned long mask[16] = {0};
	void *mem;

	if (node < 0 || (size_t)node >= sizeof(mask) * 8)
		return;
	mask[(size_t)node / (sizeof(long) * 8)] = 1UL << ((size_t)node % (sizeof(long) * 8));
	mem = mmap(NULL, s->bytes, PROT_READ, MAP_SHARED, s->fd, 0);
	if (mem == MAP_FAILED)
		return;
	syscall(SYS_mbind, mem, s->bytes, MPOL_PREFERRED, mask, sizeof(mask) * 8, 0);
	munmap(mem, s->bytes);
}

int segment_create(struct segment *s, const char *name, uint64_t bytes, bool huge, int numa_node,
		   bool lazy)
{
	uint64_t page = huge ? SEGMENT_HUGE : (uint64_t)sysconf(_SC_PAGESIZE);
	int rc;

	*s = (struct segment){.fd = -1, .huge = huge, .lazy = lazy};
	if (bytes == 0 || bytes > SHEPHERD_SEGMENT_MAX)
		return -SPLIT_E_SHEPHERD_GEOMETRY;
	s->bytes = (bytes + page - 1) / page * page;
	s->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING |
					   (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
	if (s->fd < 0)
		return -SPLIT_E_SHEPHERD_MEMORY;
	rc = ftruncate(s->fd, (off_t)s->bytes);
	if (rc == 0) {
		segment_place(s, numa_node);
		do
			rc = lazy ? 0 : fallocate(s->fd, 0, 0, (off_t)s->bytes);
		while (rc < 0 && errno == EINTR);
	}
	if (rc < 0) {
		close(s->fd);
		s->fd = -1;
		return -SPLIT_E_SHEPHERD_MEMORY;
	}
	return 0;
}

int segment_map(struct segment *s, bool writable, uint32_t *dead)
{
	int rc;
	void *mem =
		mmap(NULL, s->bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, s->fd, 0);

	if (mem == MAP_FAILED)
		return -SPLIT_E_SHEPHERD_MEMORY;
	s->mem = mem;
	madvise(mem, s->bytes, MADV_DONTDUMP);
	if (madvise(mem, s->bytes, MADV_DONTFORK) < 0)
		goto fail;
	do
		rc = s->lazy ? 0
			     : madvise(mem, s->bytes,
				       writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
	while (rc < 0 && (errno == EINTR || errno == EAGAIN));
	if (rc < 0)
		goto fail;
	if (dead != NULL && sigbus_add(s, writable, dead) < 0)
		goto fail;
	return 0;
fail:
	munmap(mem, s->bytes);
	s->mem = NULL;
	return -SPLIT_E_SHEPHERD_MEMORY;
}

int segment_seal(const struct segment *s)
{
	struct stat st;
	int seals;

	if (fcntl(s->fd, F_ADD_SEALS, SEGMENT_SEALS) < 0)
		return -SPLIT_E_SHEPHERD_SEAL;
	seals = fcntl(s->fd, F_GET_SEALS);
	if (seals < 0 || (seals & SEGMENT_SEALS) != SEGMENT_SEALS)
		return -SPLIT_E_SHEPHERD_SEAL;
	/* Only now does the size stand still. */
	if (fstat(s->fd, &st) < 0 || st.st_size != (off_t)s->bytes)
		return -SPLIT_E_SHEPHERD_SEAL;
	return 0;
}

void segment_destroy(struct segment *s)
{
	if (s->mem != NULL) {
		sigbus_remove(s);
		unpoison_region(s->mem, s->bytes);
		munmap(s->mem, s->bytes);
		s->mem = NULL;
	}
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}
