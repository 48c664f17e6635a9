"""splitd against the kernel's TCP used in ways that clients of gRPC seldom use it: small segments, small buffers, half-close,
resets, many short connections, a flood of SYNs. Beside each, an honest client sees every call right.

    tcp_peers_test.py BUILD [PORT]
"""
import os
import pathlib
import random
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from raw_grpc import Client, field, h2, message, varint  # noqa: E402

ECHO = ((":method", "POST"), (":scheme", "http"), (":path", "/split.examples.Echo/Unary"), (":authority", "x"),
        ("content-type", "application/grpc"), ("te", "trailers"))
BIG = (4 << 20) - 64
WINDOWS = struct.pack(">HI", 4, 0x7FFFFFFF)


def client(address, rcvbuf=None, mss=None):
    def connect(where, timeout):
        s = socket.socket()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if mss:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        s.settimeout(timeout)
        s.connect(where)
        return s

    usual, h2.socket.create_connection = h2.socket.create_connection, connect
    try:
        c = Client(address, settings=WINDOWS)
    finally:
        h2.socket.create_connection = usual
    c.send(h2.frame(8, 0, 0, struct.pack(">I", 0x7FFFFFFF - 65535)))
    return c


def ask(reply=0, payload=b""):
    return message((field(1, 2, payload) if payload else b"") + (field(2, 0) + varint(reply) if reply else b""))


def check(got, want_bytes, payload=None):
    fields, body = got
    assert fields.get("grpc-status") == "0", fields
    if payload is None:
        payload = (bytes(range(256)) * (want_bytes // 256 + 1))[:want_bytes]
    assert body[5:] == (field(1, 2, payload) if payload else b""), f"{len(body)} bytes that differ"


class Honest(threading.Thread):
    """Small calls on one connection until told to stop."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address, self.calls, self.failure, self.stop = address, 0, None, threading.Event()
        self.start()

    def run(self):
        try:
            c = Client(self.address)
            while not self.stop.is_set():
                check(c.call(ECHO, ask(payload=b"honest")), 0, b"honest")
                self.calls += 1
                time.sleep(0.002)
        except BaseException as e:  # noqa: BLE001: told in done()
            self.failure = e

    def done(self, least=1):
        self.stop.set()
        self.join(60)
        assert self.failure is None, f"the honest client: {self.failure!r}"
        assert self.calls >= least, f"the honest client got {self.calls} answers only"
        return self.calls


def small_segments(address):
    for mss in (88, 256, 536):
        c = client(address, mss=mss)
        check(c.call(ECHO, ask(payload=b"x" * 5000)), 0, b"x" * 5000)
        check(c.call(ECHO, ask(reply=200000)), 200000)
        c.sock.close()


def slow_reader(address):
    """Reads 4 MiB through the smallest buffer there is, stopping now and then, beside a client that does not wait."""
    honest = Honest(address)
    for rcvbuf in (1, 4096):
        c = client(address, rcvbuf=rcvbuf)
        stream = c.open(ECHO, ask(reply=BIG if rcvbuf > 1 else 300000))
        time.sleep(1)  # the window closes
        before = honest.calls
        time.sleep(0.5)
        assert honest.calls > before or honest.failure, "the honest client waits for the slow one"
        check(c.answer(stream), BIG if rcvbuf > 1 else 300000)
        c.sock.close()
    return honest.done()


def half_close(address):
    c = client(address)
    stream = c.open(ECHO, ask(reply=BIG))
    c.sock.shutdown(socket.SHUT_WR)
    check(c.answer(stream), BIG)
    c.sock.close()


def resets(address):
    honest = Honest(address)
    for i in range(40):
        c = client(address)
        c.open(ECHO, ask(reply=BIG))
        c.sock.recv(1 + i * 5000)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.sock.close()
    return honest.done()


def short_connections(address, n):
    for i in range(n):
        c = Client(address)
        check(c.call(ECHO, ask(payload=b"%d" % i)), 0, b"%d" % i)
        if i % 3 == 0:
            c.sock.shutdown(socket.SHUT_RDWR)
        c.sock.close()


def flood(address, seconds):
    """SYNs from addresses of nobody, on the link and not: their ACKs never come. Calls on old and on new connections go on."""
    rng, sent, honest = random.Random(7), 0, Honest(address)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    net = socket.inet_aton(address[0])[:3]
    end = time.monotonic() + seconds
    from raw_frames import SYN, ip4, tcp
    while time.monotonic() < end:
        for _ in range(50):
            src = socket.inet_ntoa(net + bytes([rng.randint(10, 250)])) if rng.random() < 0.7 else f"203.0.113.{rng.randint(1, 254)}"
            packet = ip4(src, address[0], 6, tcp(src, address[0], rng.randint(1024, 65535), address[1], rng.getrandbits(32), 0, SYN))
            try:
                raw.sendto(packet, (address[0], 0))
                sent += 1
            except OSError as e:
                if e.errno != 105:
                    raise
        check(Client(address).call(ECHO, ask(payload=b"new")), 0, b"new")
    return sent, honest.done()


def inside(target, n, seconds):
    host, port = target.rsplit(":", 1)
    address = (host, int(port))
    for name, run in (("small segments", lambda: small_segments(address)), ("slow reader", lambda: slow_reader(address)),
                      ("half-close", lambda: half_close(address)), ("resets", lambda: resets(address)),
                      (f"{n} short connections", lambda: short_connections(address, n)),
                      ("flood of SYNs", lambda: flood(address, seconds))):
        began = time.monotonic()
        told = run()
        print(f"{name}: right, {time.monotonic() - began:.1f} s{'' if told is None else f', {told}'}", flush=True)


def main():
    if sys.argv[1] == "--inside":
        inside(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
        return
    from served import Served, need_kernel
    build, port = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "tap"
    need_kernel(port)
    with Served(build, "echo", port=port) as s:
        print(s.run(["/usr/bin/python3", __file__, "--inside", s.target, "1000", "3"], timeout=500).stdout, end="")
        stats = subprocess.run([build / "ctl/splitctl", "--prefix", s.facts["prefix"], "stats"], capture_output=True, text=True)
        print("\n".join(line for line in stats.stdout.splitlines() if "net" in line or "tcp_" in line or "arp" in line))


if __name__ == "__main__":
    main()
