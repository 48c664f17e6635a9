/* A stack of its own for each fuzz input, and frames for it that are mostly right: what the network
 * fuzz targets share.
 *
 * Checksums are trusted (ICMPv6's, which never are, are made right), so that mutations get past
 * them, and segments may be given relative to a connection's own numbers. Frames lie in heap blocks
 * of exactly their size (external buffers), so that ASan sees each byte read past them. At the end
 * every mbuf must be back and no timer may be left. */
#ifndef SPLITD_TESTS_FUZZ_NET_WORLD_H
#define SPLITD_TESTS_FUZZ_NET_WORLD_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/net/cksum.h"
#include "daemon/net/net_internal.h"

#define PORT     80
#define UDP_PORT 53
#define CONNS    4
#define S        UINT64_C(1000000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is left of the input; zeros follow it. */
struct input {
	const uint8_t *p;
	size_t left;
};

struct world {
	struct net_stack *stack;
	uint64_t now_ns, random;
	struct tcp_conn *conns[CONNS]; /* what the layer above holds */
	uint64_t unread[CONNS];
	uint32_t iss_seen; /* of the last SYN-ACK */
	/* Looks at a datagram on UDP_PORT; NULL: nobody does. */
	void (*datagram)(const struct rte_mbuf *payload);
};

extern struct world w;
extern const uint8_t us6[16], peer6[16], router6[16], nodes6[16];

uint8_t take8(struct input *in);
uint16_t take16(struct input *in);
/* A length byte and so many bytes, at most `max`. */
size_t bytes_take(struct input *in, uint8_t *out, size_t max);

/* A stack with listeners on PORT of both families and a UDP port; `options` picks its knobs. */
void world_make(uint8_t options);
/* Lets all come to rest; aborts if anything is left. */
void world_end(void);
/* A handshake from port 4000 + `which` (0 to 15), over either family, with all options or none. */
void world_open(uint8_t which, bool v6, bool options);
/* Move the clock by one of eight steps, 1 us to 130 s. */
void world_step(uint8_t how);
/* A call of the layer above on one of the connections. */
void world_call(struct input *in);

/* Give a frame: in one piece or two, in blocks of its own or in an mbuf (low two bits of `how`). */
void frame_give(const uint8_t *frame, uint16_t len, uint8_t how);
/* Ethernet and IP headers from the peer to us. */
void headers(uint8_t *f, uint8_t protocol, uint16_t l4_len);
void headers6(uint8_t *f, uint8_t next, uint16_t len, uint8_t hop_limit);
/* ICMPv6's checksum of the `len` bytes behind the IPv6 header. */
void sum6(uint8_t *f, uint16_t len);

/* Neighbour discovery, mostly right: a few bytes of it are the input's. */
void discovery_give(struct input *in, uint8_t how);
/* An ICMP error that quotes a connection's own segment, with type, code and MTU of the input's. */
void error_give(struct input *in, uint8_t how);
/* A piece of a packet, of one of a few identities, at a place of the input's. */
void fragment_give(struct input *in, uint8_t how, bool v6);
/* A TCP segment; with a connection its numbers are relative to what the connection expects. */
void segment_give(struct input *in, uint8_t how);

#endif
