/* One network stack on a bench: the test plays the peer, frame by frame, and owns the clock. */
#ifndef SPLITD_TESTS_NET_RIG_H
#define SPLITD_TESTS_NET_RIG_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/random.h"
#include "daemon/net/net_internal.h"

#define RIG_MS        UINT64_C(1000000)
#define RIG_S         UINT64_C(1000000000)
#define RIG_PORT      80
#define RIG_PEER_PORT 4000
#define RIG_FRAMES    512

/* A TCP segment as the peer sends or sees it. */
struct rig_segment {
	uint32_t seq, ack;
	uint16_t window;
	uint8_t flags;
	uint16_t src_port, dst_port;
	uint8_t tos;      /* type of service; ECN's bits are the low two */
	uint8_t from;     /* last byte of the peer's address; 0: the usual peer */
	uint64_t sent_ns; /* of one that the stack sent */
	uint32_t len;
	uint8_t payload[9000];
	uint8_t options[40];
	uint32_t options_len;
	struct tcp_options opt; /* parsed, when seen */
};

/* What the layer above saw. */
struct rig_app {
	struct tcp_conn *conn;
	bool refuse;      /* accept says no */
	bool keep_unread; /* data is not consumed */
	bool abort_on_data;
	unsigned accepted, connected, eofs, writables, closeds, datas;
	int reason;
	uint32_t bytes;
	uint8_t data[1 << 17];
	uint32_t last_chain_mbufs;
};

struct rig {
	struct net_stack *stack;
	struct net_config config;
	struct rte_mempool *pool;
	uint64_t now_ns;
	struct rte_mbuf *sent[RIG_FRAMES]; /* what the stack sent and nobody looked at */
	uint64_t sent_ns[RIG_FRAMES];
	unsigned sent_n;
	uint64_t took_ns; /* when the frame that rig_take() gave last was sent */
	unsigned avail;   /* mbufs free at the start */
	bool device_full;
	unsigned device_room; /* frames taken at each rig_flush(); 0: all */
	unsigned device_took;
	/* net_ops.reached */
	bool (*reached)(void *ctx, const struct net_addr *local, const struct net_addr *remote);
	bool no_arp;   /* do not answer ARP requests */
	bool show_mld; /* rig_take() shows multicast listener reports */
	bool arp_all;  /* answer for every address, not only the peer's */
	struct random random;
	struct rig_app app;
	struct tcp_listener *listener;
	uint32_t peer_seq, peer_ack; /* of the connection the helpers made */
	uint32_t peer_ts;            /* next timestamp value; 0: none are sent */
};

extern const struct rte_ether_addr rig_mac, rig_peer_mac;
extern const struct tcp_events rig_events;

/* EAL once, without hugepages and devices, and the runner. Use through RIG_MAIN. */
int rig_main(const char *name, const TTest *const *tests, size_t n);
#define RIG_MAIN(name, ...)                                                                        \
	int main(void)                                                                             \
	{                                                                                          \
		const TTest *const tests[] = {__VA_ARGS__};                                        \
		return rig_main(name, tests, sizeof(tests) / sizeof(tests[0]));                    \
	}

void rig_defaults(struct rig *r); /* then change r->config */
struct net_ops rig_ops(struct rig *r);
void rig_start(struct rig *r); /* makes the stack, listens on RIG_PORT, eats the announcement */
/* Destroys the stack and checks that every mbuf came back. */
void rig_stop(struct rig *r);

/* Speak IPv6 instead of IPv4 from the next rig_defaults() on. */
void rig_family(uint8_t family);
uint8_t rig_family_now(void);
/* Where the layer-4 header begins in a frame of that family. */
uint32_t rig_l4_offset(void);

struct net_addr rig_local(uint16_t port);
struct net_addr rig_remote(uint16_t port);

/* Give a raw frame to the stack, then run timers and flush. */
void rig_input(struct rig *r, const uint8_t *frame, size_t len);
/* Move the clock by `ns`, running what is due on the way. */
void rig_wait(struct rig *r, uint64_t ns);
void rig_flush(struct rig *r);
/* The next frame that the stack sent, copied; its length, 0 if there is none. ARP requests for the
 * peer are answered by rig_flush() and not shown (unless no_arp). */
size_t rig_take(struct rig *r, uint8_t *frame, size_t max);
/* The next frame, which must be a TCP segment with right checksums. False if there is none. */
bool rig_take_tcp(struct rig *r, struct rig_segment *s);
/* Nothing was sent. */
void rig_silent(struct rig *r);

/* Build frames. */
size_t rig_build_ip(uint8_t *frame, uint8_t protocol, const uint8_t *l4, size_t l4_len);
size_t rig_build_tcp(uint8_t *frame, const struct rig_segment *s);
void rig_send(struct rig *r, const struct rig_segment *s);
/* A segment of the current connection: peer_seq + `offset`, ack peer_ack, window 65535 >> 0. */
void rig_segment(struct rig *r, uint8_t flags, int32_t offset, const void *payload, uint32_t len);
/* Expect one segment with these flags; returns it. */
struct rig_segment rig_expect(struct rig *r, uint8_t flags);

/* SYN, SYN-ACK, ACK; sets peer_seq, peer_ack and app.conn. `options` of the SYN may be NULL. */
void rig_accept(struct rig *r, const uint8_t *options, uint32_t options_len);
/* `len` bytes of a pattern as a chain of mbufs of at most `mbuf_len`. */
struct rte_mbuf *rig_chain(struct rig *r, uint32_t len, uint32_t mbuf_len);

#endif
