/* What the files of remote share. Not for other folders. */
#ifndef SPLITD_REMOTE_INTERNAL_H
#define SPLITD_REMOTE_INTERNAL_H

#include <sys/types.h>

#include "remote/remote.h"

struct remote_link {
	int fd;
	void *ssl;        /* SSL *; NULL: plain */
	bool wants_write; /* TLS cannot go on before the socket takes bytes, whatever it was asked
			   */
	bool wants_read;  /* to write it must read first */
	uint8_t *in, *out;
	size_t in_at, in_have, in_room; /* in_at: of the frames given out */
	size_t out_at, out_have, out_room, out_last;
	size_t out_largest; /* frame so far */
	size_t frame_max;
	uint64_t heard_ns, said_ns, pulse_ns; /* pulse_ns: when the last PULSE was put */
	uint64_t puts, puts_seen;             /* frames put; as of link_pulse's last look */
	bool more;                            /* link_read stopped before the socket was empty */
	bool readable;                        /* the socket has something, as far as is known */
	unsigned busy;                        /* turns of its loop in a row that found something */
	bool deaf_end; /* fault is of writing: what came before may still be read */
	int fault;
	char cause[192];
};

/* Keep the first cause; but what is read after writing has failed knows better. Returns the fault.
 */
int link_fail(struct remote_link *l, int code, const char *text);

/* stream.c */
int stream_init(struct remote_link *l, struct remote_tls *tls, bool server) SPLIT_MUST_USE;
void stream_fini(struct remote_link *l);
/* Bytes, 0: none now, -1: the end, fault set. */
ssize_t stream_read(struct remote_link *l, void *buf, size_t bytes);
ssize_t stream_write(struct remote_link *l, const void *buf, size_t bytes);
/* 0 done; 1: wait for link_events; negative. */
int stream_handshake(struct remote_link *l) SPLIT_MUST_USE;

#endif
