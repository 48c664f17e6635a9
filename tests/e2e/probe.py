#!/usr/bin/python3
"""Wait until a service behind splitd answers: probe.py ADDRESS:PORT EXAMPLE [--tls | --tls-handshake].

One unary call of EXAMPLE's simplest method with an empty message, by stock grpcio, again and again
until it is answered with OK or the time is over. Exit status 0 or 1. With --tls the call is made by
hand, so that any certificate will do; with --tls-handshake (clients must have certificates) it is a
handshake only.
"""
import argparse
import pathlib
import ssl
import sys
import time

METHODS = {
    "echo": "/split.examples.Echo/Unary",
    "exchange": "/bench.exchange.Exchange/Settle",
    "greeter": "/split.examples.Greeter/SayHello",
    "interop": "/grpc.testing.TestService/EmptyCall",
}


def plain(target, method):
    import grpc
    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=2, wait_for_ready=True)
            return None
        except grpc.RpcError as e:
            return f"{e.code().name}: {e.details()}"


def context():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.set_alpn_protocols(["h2"])
    return tls


def address(target):
    host, port = target.rsplit(":", 1)
    return host.strip("[]"), int(port)


def over_tls(target, method):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
    import raw_grpc
    try:
        client = raw_grpc.Client(address(target), tls=context())
        fields, _ = client.call([(":method", "POST"), (":scheme", "https"), (":path", method), (":authority", target),
                                 ("te", "trailers"), ("content-type", "application/grpc")], raw_grpc.message(b""))
        client.sock.close()
        # Who may not call it knows that it is there.
        return None if fields.get("grpc-status") in ("0", "7", "16") else str(fields)
    except (OSError, AssertionError, TypeError) as e:
        return str(e)


def handshake(target, method):
    import socket
    try:
        with context().wrap_socket(socket.create_connection(address(target), timeout=5)):
            return None
    except ssl.SSLError as e:
        return None if "REQUIRED" in str(e) or "HANDSHAKE_FAILURE" in str(e) else str(e)
    except OSError as e:
        return str(e)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("target")
    p.add_argument("example", choices=sorted(METHODS))
    p.add_argument("--tls", action="store_const", dest="ask", const=over_tls, default=plain)
    p.add_argument("--tls-handshake", action="store_const", dest="ask", const=handshake)
    p.add_argument("--seconds", type=float, default=20)
    a = p.parse_args()
    end, last = time.monotonic() + a.seconds, "no time"
    while time.monotonic() < end:
        last = a.ask(a.target, METHODS[a.example])
        if last is None:
            return 0
        time.sleep(0.1)
    print(f"{a.target}: {last}", file=sys.stderr)
    return 1


sys.exit(main())
