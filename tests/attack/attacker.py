"""What the programs of this folder share: a client in raw frames that notes how the server took it, and a main().

Each program is `NAME.py ADDRESS:PORT SECONDS`: it attacks the gRPC server there again and again until SECONDS are over, each
time on connections of its own, and prints one JSON object: connections, frames and bytes sent, connections that the server
ended, and what its GOAWAYs said. attack_test.py runs them against splitd beside an honest client. They are plain clients: use
them against servers of your own only.
"""
import json
import pathlib
import select
import socket
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "http2"))
import conformance_test as h2  # noqa: E402  (frames and header blocks)

ECHO = "/split.examples.Echo/Unary"
ERRORS = ("NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR REFUSED_STREAM "
          "CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED").split()
REQUEST = h2.block(*h2.grpc(ECHO))


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def echo(payload=b"", reply_bytes=0, busy_us=0):
    """An EchoMessage in gRPC's framing."""
    out = b"\x0a" + varint(len(payload)) + payload if payload else b""
    out += b"\x10" + varint(reply_bytes) if reply_bytes else b""
    out += b"\x18" + varint(busy_us) if busy_us else b""
    return b"\0" + len(out).to_bytes(4, "big") + out


def headers(stream, block=REQUEST, end=False):
    return h2.frame(h2.HEADERS, h2.END_HEADERS | (h2.END_STREAM if end else 0), stream, block)


def call(stream, payload=b"", **more):
    return headers(stream) + h2.frame(h2.DATA, h2.END_STREAM, stream, echo(payload, **more))


class Peer:
    """One connection. send() says whether the connection still stands; what comes is read between, unless `deaf`."""

    def __init__(self, run, settings=b"", deaf=False, receive_buffer=None):
        self.run, self.deaf, self.have, self.open, self.bare = run, deaf, b"", True, True
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(60)
        self.sock.connect(run.address)
        self.sock.setblocking(False)
        run.seen["connections"] += 1
        self.goaway, self.resets, self.answers = None, 0, 0
        self.bare = False
        self.send(h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0, settings) + h2.frame(h2.SETTINGS, h2.ACK, 0), 2)

    def send(self, data, frames=1):
        """False: the server has ended the connection, or does not take more for 10 s."""
        at, end = 0, time.monotonic() + 10
        while self.open and at < len(data):
            readers = [] if self.deaf else [self.sock]
            readable, writable, _ = select.select(readers, [self.sock], [], 1)
            if readable:
                self.take()
            if writable and self.open:
                try:
                    at += self.sock.send(data[at:at + 262144])
                except (BrokenPipeError, ConnectionResetError):
                    self.open = False
                except BlockingIOError:
                    pass
            if not readable and not writable and time.monotonic() > end:
                return False
        self.run.seen["bytes"] += at
        self.run.seen["frames"] += frames if at == len(data) else 0
        return self.open

    def take(self):
        """What has come, without waiting."""
        try:
            more = self.sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            more = b""
        if not more:
            self.open = False
            return
        self.have += more
        while len(self.have) >= 9 and len(self.have) >= 9 + int.from_bytes(self.have[:3], "big"):
            n = int.from_bytes(self.have[:3], "big")
            kind, flags, payload = self.have[3], self.have[4], self.have[9:9 + n]
            self.have = self.have[9 + n:]
            if kind == h2.GOAWAY and self.goaway is None:
                self.goaway = ERRORS[struct.unpack(">I", payload[4:8])[0] % len(ERRORS)]
                self.run.seen["goaway"][self.goaway] = self.run.seen["goaway"].get(self.goaway, 0) + 1
            elif kind == h2.RST:
                self.resets += 1
            elif kind == h2.HEADERS and flags & h2.END_STREAM:
                self.answers += 1

    def wait(self, seconds, until=lambda: False):
        """Reads for so long, or until the connection ends or until() holds."""
        end = time.monotonic() + seconds
        while self.open and not until() and time.monotonic() < end:
            if select.select([self.sock], [], [], 0.05)[0]:
                self.take()
        return not self.open

    def close(self):
        """Counts how it ended, and leaves."""
        if not self.open or self.goaway:
            self.run.seen["ended"] += 1
        self.run.seen["resets"] += self.resets
        self.run.seen["answers"] += self.answers
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Run:
    def __init__(self, target, seconds):
        host, port = target.rsplit(":", 1)
        self.address, self.end = (host, int(port)), time.monotonic() + seconds
        self.seen = {"connections": 0, "frames": 0, "bytes": 0, "ended": 0, "resets": 0, "answers": 0, "goaway": {}}

    def going(self):
        return time.monotonic() < self.end

    def left(self):
        return max(0.0, self.end - time.monotonic())


def flood(run, data, frames, begin=b"", settings=b""):
    """`data` over and over on one connection after another; each goes on until the server ends it."""
    while run.going():
        peer = Peer(run, settings=settings)
        peer.send(begin)
        while peer.send(data, frames) and run.going():
            pass
        peer.wait(5 if run.going() else 0.5)
        peer.close()


def main(attack):
    run = Run(sys.argv[1], float(sys.argv[2]))
    attack(run)
    print(json.dumps(run.seen))
