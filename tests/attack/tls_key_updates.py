#!/usr/bin/python3
"""TLS key updates: TLS 1.3 clients that do nothing but renew the keys of their connection."""
from attacker import main
from openssl_client import flood

MARK = ("tls.key_updates_over",)
ENDED = True
TLS = True


def attack(run):
    flood(run, ["-tls1_3"], b"K\n")


if __name__ == "__main__":
    main(attack)
