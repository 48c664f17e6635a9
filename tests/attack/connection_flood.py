#!/usr/bin/python3
"""Connection flood: hosts that exist open connections, as many as they get, and say nothing on them."""
from tcp_attacker import ACK, RST, SYN, Hosts, main

MARK = ("net.tcp_drop_source_connections", "net.tcp_drop_connections", "net.tcp_drop_listener")
ENDED = False
HOSTS = 5


def attack(run):
    hosts, held = Hosts(run, HOSTS), {}
    while run.going():
        for _ in range(30):
            hosts.syn(hosts.rng.choice(hosts.addresses), hosts.rng.randint(1024, 65535), hosts.rng.getrandbits(32))
        for host, port, seq, ack, flags, _, payload in hosts.take():
            if flags & RST:
                held.pop((host, port), None)
                continue
            seen = (seq + len(payload) + bool(flags & SYN)) & 0xffffffff
            held[host, port] = ack, seen
            hosts.segment(host, port, ack, seen, ACK)
    for (host, port), (seq, ack) in held.items():
        hosts.segment(host, port, seq, ack, RST | ACK)


if __name__ == "__main__":
    main(attack)
