#!/usr/bin/python3
"""TLS renegotiation: TLS 1.2 clients that ask for another handshake on a connection they have, again and again."""
from attacker import main
from openssl_client import flood

MARK = ("tls.renegotiations",)
ENDED = True
TLS = True


def attack(run):
    flood(run, ["-tls1_2"], b"R\n")


if __name__ == "__main__":
    main(attack)
