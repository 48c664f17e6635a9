/* The peers: a UNIX stream socket, a pipe announced by an eventfd, an rte_ring pair. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <rte_ring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "bench/ring.h"

#define PEER_BYTES  64
#define PEER_SLOTS  256
#define PEER_STRIDE 64 /* messages between looks at the clock */

/* Two ends; each function blocks (or spins) until it is done. -1 ends the measurement. */
struct peer {
	int kind;
	int fd[2];   /* socket ends, or read and write end of the pipe to the far side */
	int back[2]; /* pipe: to the near side */
	int bell[2]; /* eventfds, one for each direction */
	struct rte_ring *ring[2];
	atomic_bool stop;
	_Atomic uint64_t taken;
	unsigned core;
	bool answers;
};

const char *ring_peer_name(int peer)
{
	static const char *const names[] = {"unix_socket", "pipe_eventfd", "rte_ring"};

	return names[peer];
}

static bool whole_read(int fd, void *p, size_t n)
{
	for (size_t got = 0; got < n;) {
		ssize_t r = read(fd, (char *)p + got, n - got);

		if (r <= 0 && !(r < 0 && errno == EINTR))
			return false;
		got += r > 0 ? (size_t)r : 0;
	}
	return true;
}

static bool whole_write(int fd, const void *p, size_t n)
{
	for (size_t put = 0; put < n;) {
		ssize_t r = write(fd, (const char *)p + put, n - put);

		if (r < 0 && errno != EINTR)
			return false;
		put += r > 0 ? (size_t)r : 0;
	}
	return true;
}

/* side 0: near (sends first), 1: far. */
static bool peer_send(struct peer *p, int side, uint64_t value)
{
	uint64_t message[PEER_BYTES / 8] = {value}, one = 1;

	switch (p->kind) {
	case RING_PEER_UNIX_SOCKET:
		return whole_write(p->fd[side], message, sizeof(message));
	case RING_PEER_PIPE_EVENTFD:
		return whole_write(side == 0 ? p->fd[1] : p->back[1], message, sizeof(message)) &&
		       whole_write(p->bell[side], &one, sizeof(one));
	default:
		while (rte_ring_sp_enqueue(p->ring[side], (void *)(uintptr_t)value) != 0) {
			if (atomic_load_explicit(&p->stop, memory_order_relaxed))
				return false;
		}
		return true;
	}
}

static bool peer_receive(struct peer *p, int side, uint64_t *rung)
{
	uint64_t message[PEER_BYTES / 8];
	void *object;

	switch (p->kind) {
	case RING_PEER_UNIX_SOCKET:
		return whole_read(p->fd[side], message, sizeof(message));
	case RING_PEER_PIPE_EVENTFD:
		/* One read of the eventfd may announce many messages. */
		if (*rung == 0 && !whole_read(p->bell[1 - side], rung, sizeof(*rung)))
			return false;
		--*rung;
		return whole_read(side == 1 ? p->fd[0] : p->back[0], message, sizeof(message));
	default:
		while (rte_ring_sc_dequeue(p->ring[1 - side], &object) != 0) {
			if (atomic_load_explicit(&p->stop, memory_order_relaxed))
				return false;
		}
		return true;
	}
}

static void *far_run(void *arg)
{
	struct peer *p = arg;
	uint64_t rung = 0, taken = 0;

	(void)perf_pin(p->core);
	while (!atomic_load_explicit(&p->stop, memory_order_relaxed) && peer_receive(p, 1, &rung)) {
		if (p->answers && !peer_send(p, 1, 1))
			break;
		atomic_store_explicit(&p->taken, ++taken, memory_order_relaxed);
	}
	return NULL;
}

static struct rte_ring *ring_make(const char *name)
{
	ssize_t bytes = rte_ring_get_memsize(PEER_SLOTS);
	struct rte_ring *ring = bytes > 0 ? aligned_alloc(64, align_up((size_t)bytes, 64)) : NULL;

	if (ring && rte_ring_init(ring, name, PEER_SLOTS, RING_F_SP_ENQ | RING_F_SC_DEQ) != 0) {
		free(ring);
		return NULL;
	}
	return ring;
}

static bool peer_open(struct peer *p)
{
	for (int i = 0; i < 2; i++)
		p->fd[i] = p->back[i] = p->bell[i] = -1;
	switch (p->kind) {
	case RING_PEER_UNIX_SOCKET:
		return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p->fd) == 0;
	case RING_PEER_PIPE_EVENTFD:
		p->bell[0] = eventfd(0, EFD_CLOEXEC);
		p->bell[1] = eventfd(0, EFD_CLOEXEC);
		return pipe2(p->fd, O_CLOEXEC) == 0 && pipe2(p->back, O_CLOEXEC) == 0 &&
		       p->bell[0] >= 0 && p->bell[1] >= 0;
	default:
		p->ring[0] = ring_make("there");
		p->ring[1] = ring_make("back");
		return p->ring[0] && p->ring[1];
	}
}

/* Wakes a far side that blocks; the near side's ends stay usable until the join. */
static void peer_stop(struct peer *p)
{
	uint64_t one = 1, message[PEER_BYTES / 8] = {0};

	atomic_store(&p->stop, true);
	if (p->kind == RING_PEER_UNIX_SOCKET)
		(void)shutdown(p->fd[0], SHUT_RDWR);
	if (p->kind == RING_PEER_PIPE_EVENTFD) {
		(void)whole_write(p->fd[1], message, sizeof(message));
		(void)whole_write(p->bell[0], &one, sizeof(one));
	}
}

static void peer_close(struct peer *p)
{
	for (int i = 0; i < 2; i++) {
		if (p->fd[i] >= 0)
			close(p->fd[i]);
		if (p->back[i] >= 0)
			close(p->back[i]);
		if (p->bell[i] >= 0)
			close(p->bell[i]);
		free(p->ring[i]);
	}
}

static double near_round_trips(struct peer *p, double seconds)
{
	uint64_t rung = 0, n = 0, begin = clock_ns(), now;

	do {
		for (unsigned i = 0; i < PEER_STRIDE; i++, n++) {
			if (!peer_send(p, 0, n + 1) || !peer_receive(p, 0, &rung))
				return 0;
		}
		now = clock_ns();
	} while (now - begin < (uint64_t)(seconds * 1e9));
	return (double)(now - begin) / (double)n;
}

static double near_one_way(struct peer *p, double seconds)
{
	uint64_t n = 0, begin = clock_ns(), now, first = atomic_load(&p->taken);

	do {
		for (unsigned i = 0; i < PEER_STRIDE; i++, n++) {
			if (!peer_send(p, 0, n + 1))
				return 0;
		}
		now = clock_ns();
	} while (now - begin < (uint64_t)(seconds * 1e9));
	return (double)(atomic_load(&p->taken) - first) * 1e9 / (double)(now - begin);
}

static double peer_measure(const struct perf_options *options, int kind, bool answers,
			   double seconds)
{
	struct peer p = {.kind = kind, .core = options->core_b, .answers = answers};
	pthread_t thread;
	double result = 0;

	if (!peer_open(&p) || pthread_create(&thread, NULL, far_run, &p) != 0) {
		perf_warn("cannot run the peer %s: %s", ring_peer_name(kind), strerror(errno));
		peer_close(&p);
		return 0;
	}
	result = answers ? near_round_trips(&p, seconds) : near_one_way(&p, seconds);
	peer_stop(&p);
	pthread_join(thread, NULL);
	peer_close(&p);
	return result;
}

double ring_peer_rtt(const struct perf_options *options, int peer, double seconds)
{
	return peer_measure(options, peer, true, seconds);
}

double ring_peer_rate(const struct perf_options *options, int peer, double seconds)
{
	return peer_measure(options, peer, false, seconds);
}
