#!/usr/bin/python3
"""Malformed requests: pseudo-header fields missing, twice, unknown, empty, behind others; upper case, connection-specific fields,
control characters. Each is answered with a reset; without an end they are a flood of resets that the client forces."""
from attacker import Peer, h2, headers, main

MARK = ("http2.rx_malformed",)
ENDED = True
GOOD = h2.grpc("/split.examples.Echo/Unary")


def attack(run):
    lists = [GOOD[1:], GOOD[:2] + GOOD[3:], GOOD[:1] + GOOD[2:], GOOD[:1] + GOOD, GOOD + GOOD[:1], GOOD + ((":path", "/x"),),
             ((":nonsense", "x"),) + GOOD, ((":status", "200"),) + GOOD, GOOD[:2] + ((":path", ""),) + GOOD[3:],
             GOOD + (("Upper", "x"),), GOOD + (("connection", "close"),), GOOD + (("transfer-encoding", "chunked"),),
             GOOD + (("te", "gzip"),), GOOD + (("x", "a\nb"),), GOOD + (("a b", "x"),), GOOD + (("content-length", "-1"),),
             GOOD + (("content-length", "1"), ("content-length", "2"))]
    blocks = [h2.block(*fields) for fields in lists]
    while run.going():
        peer, stream = Peer(run), 1
        while run.going():
            batch = b"".join(headers(stream + 2 * i, block, end=True) for i, block in enumerate(blocks))
            stream += 2 * len(blocks)
            if not peer.send(batch, len(blocks)):
                break
        peer.wait(2)
        peer.close()


if __name__ == "__main__":
    main(attack)
