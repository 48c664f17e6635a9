#!/usr/bin/python3
"""Half-open flood: hosts that exist ask for connections and never send the last segment of the handshake, or a wrong one."""
from tcp_attacker import ACK, Hosts, main

MARK = ("net.tcp_cookies_sent", "net.tcp_cookies_refused", "net.tcp_drop_source_half_open", "net.tcp_backlog_evictions")
ENDED = False


def attack(run):
    hosts = Hosts(run)
    while run.going():
        for _ in range(30):
            hosts.syn(hosts.rng.choice(hosts.addresses), hosts.rng.randint(1024, 65535), hosts.rng.getrandbits(32))
        for host, port, seq, ack, flags, _, _ in hosts.take():
            if flags & 2 and port % 2:  # one in two guesses the number it was told
                hosts.segment(host, port, ack, (seq + hosts.rng.randint(2, 1 << 31)) & 0xffffffff, ACK)


if __name__ == "__main__":
    main(attack)
