/* The segments themselves. Once they are sealed no call may change, cut, pierce or newly map them
 * for writing; before that (--mode punch-early) all of it may succeed, and splitd must refuse the
 * attach or have whole memory. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/hostile/hostile.h"

struct raw {
	struct hostile *x;
	int socket;
	int fds[ATTACH_FDS_MAX];
	size_t fds_n;
	size_t bytes[2]; /* to-host, to-daemon */
	uint8_t *mem[2];
	bool stop;
};

static int raw_hear(struct raw *r, enum attach_type type, void *packet, size_t room)
{
	struct attach_received got;
	struct attach_header h;

	for (int i = 0; i < 500; i++) {
		struct pollfd pfd = {.fd = r->socket, .events = POLLIN};

		if (poll(&pfd, 1, 20) != 1 || attach_receive(r->socket, packet, room, &got) != 0) {
			if (hostile_over(r->x) || (pfd.revents & POLLHUP))
				return -1;
			continue;
		}
		memcpy(&h, packet, sizeof(h));
		memcpy(r->fds, got.fds, sizeof(got.fds));
		r->fds_n = got.fds_n;
		return h.type == type ? 0 : -1;
	}
	return -1;
}

/* Until the offer is here and both segments are mapped. */
static int raw_open(struct raw *r)
{
	union {
		struct attach_offer_packet offer;
		uint8_t room[1024];
	} p;
	struct attach_hello_packet hello = {.workers = 1};
	struct attach_blob_packet *part;
	uint8_t *blob;
	size_t bytes;
	int rc = -1;

	r->socket = hostile_connect(r->x);
	if (r->socket < 0 || attach_blob_make(&r->x->hello, &blob, &bytes) < 0)
		return -1;
	part = calloc(1, sizeof(*part) + bytes);
	snprintf(hello.name, sizeof(hello.name), "%s", r->x->name);
	hello.blob_bytes = (uint32_t)bytes;
	attach_header_fill(&hello.header, ATTACH_HELLO, sizeof(hello));
	attach_header_fill(&part->header, ATTACH_BLOB, sizeof(*part) + bytes);
	memcpy(part->bytes, blob, bytes);
	if (attach_send(r->socket, &hello, sizeof(hello), NULL, 0) == 0 &&
	    attach_send(r->socket, part, sizeof(*part) + bytes, NULL, 0) == 0)
		rc = raw_hear(r, ATTACH_OFFER, &p, sizeof(p));
	free(part);
	free(blob);
	if (rc < 0 || r->fds_n < 3)
		return -1;
	r->bytes[0] = p.offer.to_host_bytes;
	r->bytes[1] = p.offer.to_daemon_bytes;
	for (int i = 0; i < 2; i++) {
		r->mem[i] = mmap(NULL, r->bytes[i], i == 0 ? PROT_READ : PROT_READ | PROT_WRITE,
				 MAP_SHARED, r->fds[i], 0);
		if (r->mem[i] == MAP_FAILED)
			return -1;
	}
	return 0;
}

static int raw_place(struct raw *r)
{
	struct attach_bases_packet p = {
		.to_host_base = (uint64_t)(uintptr_t)r->mem[0],
		.to_daemon_base = (uint64_t)(uintptr_t)r->mem[1],
	};

	attach_header_fill(&p.header, ATTACH_BASES, sizeof(p));
	return attach_send(r->socket, &p, sizeof(p), NULL, 0);
}

static void raw_close(struct raw *r)
{
	for (int i = 0; i < 2; i++)
		if (r->mem[i] != NULL && r->mem[i] != MAP_FAILED)
			munmap(r->mem[i], r->bytes[i]);
	while (r->fds_n > 0)
		close(r->fds[--r->fds_n]);
	if (r->socket >= 0)
		close(r->socket);
}

/* ---- once sealed ---------------------------------------------------------------------------- */

static void must_fail(struct raw *r, const char *what, bool failed)
{
	if (failed) {
		r->x->counts->denied++;
		return;
	}
	r->x->counts->allowed++;
	fprintf(stderr, "hostile_host: %s was allowed on a sealed segment\n", what);
}

static void remap(struct raw *r, int i)
{
	char path[64];
	void *mem;
	int fd;

	mem = mmap(NULL, r->bytes[i], PROT_READ | PROT_WRITE, MAP_SHARED, r->fds[i], 0);
	must_fail(r, "a new writable mapping", mem == MAP_FAILED);
	if (mem != MAP_FAILED)
		munmap(mem, r->bytes[i]);
	if (i == 0)
		must_fail(r, "mprotect to writable",
			  mprotect(r->mem[0], r->bytes[0], PROT_READ | PROT_WRITE) < 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", r->fds[i]);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	mem = mmap(NULL, r->bytes[i], PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must_fail(r, "a writable mapping of the file opened anew", mem == MAP_FAILED);
	if (mem != MAP_FAILED)
		munmap(mem, r->bytes[i]);
	close(fd);
}

static void pierce(struct raw *r)
{
	uint64_t word = random_next(&r->x->rng);

	for (int i = 0; i < 2; i++) {
		int fd = r->fds[i];
		size_t page = 2u << 20;
		off_t at = (off_t)(random_below(&r->x->rng, r->bytes[i] / page) * page);

		must_fail(r, "a hole",
			  fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
				    (off_t)page) < 0);
		must_fail(r, "MADV_REMOVE", madvise(r->mem[i] + at, page, MADV_REMOVE) < 0);
		must_fail(r, "a shorter file", ftruncate(fd, 0) < 0);
		must_fail(r, "a longer file", ftruncate(fd, (off_t)(r->bytes[i] * 2)) < 0);
		must_fail(r, "write", pwrite(fd, &word, sizeof(word), at) < 0);
		must_fail(r, "a further seal", fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
		remap(r, i);
		/* Allowed, and of no avail: its own page tables. */
		(void)madvise(r->mem[i] + at, page, MADV_DONTNEED);
	}
}

/* ---- while splitd maps ---------------------------------------------------------------------- */

static void *piercer(void *arg)
{
	struct raw *r = arg;
	struct random rng;
	unsigned act = (unsigned)(r->x->counts->sessions % 3);

	random_seed(&rng, r->x->seed + r->x->counts->sessions);
	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		size_t page = 2u << 20;
		off_t at = (off_t)(random_below(&rng, r->bytes[1] / page) * page);
		int rc;

		if (act == 0)
			rc = fallocate(r->fds[1], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
				       (off_t)page);
		else if (act == 1)
			rc = madvise(r->mem[1] + at, page, MADV_REMOVE);
		else
			rc = ftruncate(r->fds[1],
				       random_below(&rng, 2) == 0 ? 0 : (off_t)r->bytes[1]);
		r->x->counts->writes += rc == 0;
		if (rc < 0 && errno == EPERM)
			break; /* sealed by now */
	}
	return NULL;
}

static void session(struct hostile *x)
{
	struct raw r = {.x = x, .socket = -1};
	pthread_t thread;
	bool early = x->mode_asked == MODE_PUNCH_EARLY, racing = false;
	bool opened = raw_open(&r) == 0;
	uint8_t room[1024];
	int rc = -1;

	if (opened) {
		int fds[ATTACH_FDS_MAX];
		size_t fds_n = r.fds_n;

		if (early)
			racing = pthread_create(&thread, NULL, piercer, &r) == 0;
		rc = raw_place(&r);
		/* ACTIVE brings no descriptors: keep those of the offer. */
		memcpy(fds, r.fds, sizeof(fds));
		if (rc == 0 && !early)
			rc = raw_hear(&r, ATTACH_ACTIVE, room, sizeof(room));
		memcpy(r.fds, fds, sizeof(fds));
		r.fds_n = fds_n;
	}
	if (!opened || rc < 0)
		x->counts->refused++;
	else
		x->counts->sessions++;
	if (opened && rc == 0 && !early)
		for (int i = 0; i < 20 && !hostile_over(x); i++)
			pierce(&r);
	if (racing) {
		usleep(50000);
		__atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
	}
	raw_close(&r);
	if (!opened)
		usleep(20000);
}

void hostile_memory(struct hostile *x)
{
	while (!hostile_over(x))
		session(x);
}
