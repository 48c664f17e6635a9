#!/usr/bin/python3
"""Stream identifiers misused: even, going back, none, idle, the largest; frames on streams that do not exist."""
from attacker import Peer, h2, headers, main

MARK = ("http2.rx_malformed", "http2.sessions_failed")
ENDED = True


def attack(run):
    ways = (headers(2), headers(0), headers(5) + headers(3), h2.frame(h2.DATA, 0, 7, b"x"), h2.frame(h2.DATA, 0, 0, b"x"),
            h2.frame(h2.RST, 0, 9, bytes(4)), h2.frame(h2.RST, 0, 0, bytes(4)), h2.frame(h2.WINDOW, 0, 11, b"\0\0\0\1"),
            h2.frame(h2.CONT, h2.END_HEADERS, 1, b""), h2.frame(h2.PUSH, h2.END_HEADERS, 1, b"\0\0\0\2\x82"),
            h2.frame(h2.PING, 0, 1, bytes(8)), h2.frame(h2.SETTINGS, 0, 1), h2.frame(h2.GOAWAY, 0, 1, bytes(8)),
            headers(2**31 - 1) + headers(1))
    turn = 0
    while run.going():
        peer = Peer(run)
        peer.send(ways[turn % len(ways)])
        peer.wait(5)
        peer.close()
        turn += 1


if __name__ == "__main__":
    main(attack)
