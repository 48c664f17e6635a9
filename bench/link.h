/* Byte streams to the server under test, whatever carries them: our own TCP stack over a ring in
 * this process (link_ring.c), or kernel sockets (link_socket.c). The load generators above see no
 * difference.
 *
 * One thread owns a link_set and its links. Events run inside links_poll() and links_flush() only,
 * and must not close links.
 */
#ifndef SPLITD_BENCH_LINK_H
#define SPLITD_BENCH_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct link;
struct link_set;
struct rte_mempool;
struct rte_ring;

struct link_events {
	void (*up)(void *user);                                   /* bytes may be sent */
	void (*data)(void *user, const uint8_t *bytes, size_t n); /* valid for the call */
	void (*down)(void *user); /* the server closed, or it never came up; last event */
};

struct link_ops {
	int (*open)(struct link_set *set, void *user, struct link **out);
	/* Takes a prefix of the bytes (copied) and returns how many. */
	size_t (*send)(struct link *link, const uint8_t *bytes, size_t n);
	void (*close)(struct link *link); /* invalid at once, no event */
	unsigned (*poll)(struct link_set *set, uint64_t now_ns, uint64_t wait_ns);
	void (*flush)(struct link_set *set, uint64_t now_ns);
	void (*destroy)(struct link_set *set);
};

struct link_set {
	const struct link_ops *ops;
	const struct link_events *events;
};

/* TLS over `below`, which was made with link_tls_below()'s events and is the new set's from here
 * on. */
int link_tls_create(struct link_set *below, const struct link_events *events,
		    struct link_set **out) SPLIT_MUST_USE;
const struct link_events *link_tls_below(void);
/* A certificate for a run: DIR/tls.pem, DIR/tls.key. */
int link_tls_certificate(const char *dir) SPLIT_MUST_USE;
void link_tls_remove(const char *dir);

/* Addresses that follow each other make so many connections possible. */
#define LINK_RING_MAX 120000u

/* One end of a net_ring device: frames go to and come from the worker at the other end. */
struct link_ring {
	struct rte_ring *tx, *rx;
	struct rte_mempool *pool;
	const char *local, *remote; /* addresses; of several local ones the first */
	uint16_t port;
	uint32_t connections_max;
	uint32_t connections_n; /* wanted at once; 0: few */
	bool yields;            /* somebody else has work on this core: give it away when idle */
};
int link_ring_create(const struct link_ring *params, const struct link_events *events,
		     struct link_set **out) SPLIT_MUST_USE;

/* Kernel TCP, in the network namespace of the calling thread. */
int link_socket_create(const char *remote, uint16_t port, const struct link_events *events,
		       struct link_set **out) SPLIT_MUST_USE;

/* 0 or a negative code; `up` or `down` follows. */
static inline int link_open(struct link_set *set, void *user, struct link **out)
{
	return set->ops->open(set, user, out);
}

static inline size_t link_send(struct link_set *set, struct link *link, const uint8_t *bytes,
			       size_t n)
{
	return set->ops->send(link, bytes, n);
}

static inline void link_close(struct link_set *set, struct link *link)
{
	set->ops->close(link);
}

/* Take what has arrived; waits for at most `wait_ns` when there is nothing. Returns how much work
 * it found. */
static inline unsigned links_poll(struct link_set *set, uint64_t now_ns, uint64_t wait_ns)
{
	return set->ops->poll(set, now_ns, wait_ns);
}

/* Once a turn, after sending. */
static inline void links_flush(struct link_set *set, uint64_t now_ns)
{
	set->ops->flush(set, now_ns);
}

static inline void links_destroy(struct link_set *set)
{
	if (set != NULL)
		set->ops->destroy(set);
}

#endif
