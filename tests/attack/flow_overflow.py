#!/usr/bin/python3
"""Flow control overflowed: windows of more than 2^31 - 1 by updates and by SETTINGS, and more data than the server's window."""
import struct

from attacker import Peer, h2, headers, main

MARK = ("http2.rx_malformed", "http2.sessions_failed")
ENDED = True


def attack(run):
    most = (2**31 - 1).to_bytes(4, "big")
    ways = (h2.frame(h2.WINDOW, 0, 0, most),
            headers(1) + h2.frame(h2.WINDOW, 0, 1, (2**31 - 70000).to_bytes(4, "big")) +
            h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1)),
            h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)),
            headers(1) + h2.frame(h2.DATA, 0, 1, b"\0" + (1 << 24).to_bytes(4, "big")) + h2.frame(h2.DATA, 0, 1, bytes(16384)) * 400,
            h2.frame(h2.WINDOW, 0, 0, bytes(4)))
    turn = 0
    while run.going():
        peer = Peer(run)
        peer.send(ways[turn % len(ways)])
        peer.wait(5)
        peer.close()
        turn += 1


if __name__ == "__main__":
    main(attack)
