#!/usr/bin/python3
"""RFC 9113 and RFC 7541 cases in raw frames, in the manner of h2spec.

usage: conformance_test.py SERVER [unittest arguments]                   starts grpc_socket_server
       conformance_test.py ADDRESS:PORT METHOD [--tls CA NAME] [unittest arguments]
                                                                         a server that is up; METHOD echoes, "/service/method"
"""

import socket
import ssl
import struct
import subprocess
import sys
import unittest

ADDRESS = None
TLS = NAME = None  # for every connection that has none of its own
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONT = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIO = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CALM = 11
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A literal field without indexing, new name, no Huffman (RFC 7541 s6.2.2)."""
    name, value = name.encode(), value.encode()
    return b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value


def integer(n, bits):
    limit = (1 << bits) - 1
    if n < limit:
        return bytes([n])
    out, n = [limit], n - limit
    while n >= 128:
        out.append(n % 128 + 128)
        n //= 128
    return bytes(out + [n])


def block(*fields):
    return b"".join(literal(*f) for f in fields)


GET = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "localhost"))
POST = ((":method", "POST"),) + GET[1:]


def grpc(path):
    return POST[:2] + ((":path", path),) + POST[3:] + (("content-type", "application/grpc"), ("te", "trailers"))


# HANG is a call that stays open: by its method, or because the message never becomes whole.
if __name__ == "__main__" and ":" in sys.argv[1]:
    GRPC = HANG = grpc(sys.argv[2])
else:
    GRPC, HANG = grpc("/test.Echo/Unary"), grpc("/test.Echo/Hang")


class Conn:
    def __init__(self, address, settings=b"", preface=PREFACE, greet=True, tls=None, name=None):
        self.sock = socket.create_connection(address, timeout=60)
        if tls is None:
            tls, name = TLS, NAME
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=name or address[0])
        self.buf = b""
        self.frames = []
        if not greet:
            return
        self.send(preface + frame(SETTINGS, 0, 0, settings))
        got = self.read()
        assert got[0] == SETTINGS and got[1] == 0, got
        self.server_settings = dict(struct.iter_unpack(">HI", got[3]))
        self.send(frame(SETTINGS, ACK, 0))

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass

    def read(self):
        """The next frame as (type, flags, stream, payload); None at the end."""
        try:
            while len(self.buf) < 9 or len(self.buf) < 9 + int.from_bytes(self.buf[:3], "big"):
                got = self.sock.recv(65536)
                if not got:
                    return None
                self.buf += got
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            return None
        n = int.from_bytes(self.buf[:3], "big")
        got = (self.buf[3], self.buf[4], int.from_bytes(self.buf[5:9], "big"), self.buf[9:9 + n])
        self.buf = self.buf[9 + n:]
        return got

    def until(self, want):
        """The first frame for which want(frame) holds; fails at the end."""
        while True:
            got = self.read()
            if got is None:
                raise AssertionError("connection closed")
            if want(got):
                return got

    def headers(self, stream, fields, flags=END_STREAM | END_HEADERS):
        payload = fields if isinstance(fields, bytes) else block(*fields)
        self.send(frame(HEADERS, flags, stream, payload))

    def close(self):
        self.sock.close()


class Case(unittest.TestCase):
    def connect(self, **kw):
        conn = Conn(ADDRESS, **kw)
        self.addCleanup(conn.close)
        return conn

    def conn_error(self, conn, *codes):
        """GOAWAY with one of the codes, then the end of the connection."""
        while True:
            got = conn.read()
            self.assertIsNotNone(got, "closed without GOAWAY")
            if got[0] == GOAWAY:
                break
        self.assertIn(struct.unpack(">I", got[3][4:8])[0], codes)
        while conn.read() is not None:
            pass

    def stream_error(self, conn, stream, *codes):
        got = conn.until(lambda f: f[0] == GOAWAY or (f[0] == RST and f[2] == stream and
                                                      int.from_bytes(f[3], "big") != NO_ERROR))
        code = struct.unpack(">I", got[3][4:8] if got[0] == GOAWAY else got[3])[0]
        self.assertIn(code, codes)
        if got[0] == RST:
            self.alive(conn)

    def answered(self, conn, stream):
        got = conn.until(lambda f: f[0] in (HEADERS, RST, GOAWAY))
        self.assertEqual((got[0], got[2]), (HEADERS, stream))
        return got

    def alive(self, conn):
        conn.send(frame(PING, 0, 0, b"12345678"))
        got = conn.until(lambda f: f[0] in (PING, GOAWAY))
        self.assertEqual(got, (PING, ACK, 0, b"12345678"))


class Generic(Case):
    """h2spec's "generic": what every server must simply do."""

    def test_1_preface(self):
        self.alive(self.connect())

    def test_2_priority_idle(self):
        c = self.connect()
        c.send(frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 255)))
        c.headers(1, GET)
        self.answered(c, 1)

    def test_2_half_closed_remote(self):
        for extra in (frame(WINDOW, 0, 1, struct.pack(">I", 100)),
                      frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 15))):
            c = self.connect()
            c.headers(1, GET)
            c.send(extra)
            self.answered(c, 1)
            self.alive(c)
        c = self.connect()
        c.headers(1, GET)
        c.send(frame(RST, 0, 1, struct.pack(">I", CANCEL)))
        self.alive(c)

    def test_2_closed(self):
        c = self.connect()
        c.headers(1, GET)
        c.until(lambda f: f[0] == DATA and f[1] & END_STREAM)
        c.send(frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 15)))
        self.alive(c)
        c.send(frame(WINDOW, 0, 1, struct.pack(">I", 100)) +
               frame(RST, 0, 1, struct.pack(">I", CANCEL)))
        self.alive(c)

    def test_3_1_data(self):
        for frames in ((frame(DATA, END_STREAM, 1, b"test"),),
                       (frame(DATA, 0, 1, b"te"), frame(DATA, END_STREAM, 1, b"st")),
                       (frame(DATA, END_STREAM | PADDED, 1, b"\x05test" + bytes(5)),)):
            c = self.connect()
            c.headers(1, POST, END_HEADERS)
            c.send(b"".join(frames))
            self.answered(c, 1)
            self.alive(c)

    def test_3_2_headers(self):
        b = block(*GET)
        for flags, payload in ((0, b), (PADDED, b"\x07" + b + bytes(7)),
                               (PRIO, struct.pack(">IB", 0, 255) + b),
                               (PRIO | PADDED, b"\x02" + struct.pack(">IB", 0x80000000, 9) + b + b"\0\0")):
            c = self.connect()
            c.headers(1, payload, flags | END_STREAM | END_HEADERS)
            self.answered(c, 1)

    def test_3_3_priority(self):
        for weight, dep in ((0, 0), (255, 0), (255, 3), (255, 0x80000003)):
            c = self.connect()
            c.send(frame(PRIORITY, 0, 1, struct.pack(">IB", dep, weight)))
            c.headers(1, GET)
            self.answered(c, 1)
        c = self.connect()
        c.send(frame(PRIORITY, 0, 7, struct.pack(">IB", 0, 255)))
        c.headers(5, GET)
        self.answered(c, 5)

    def test_3_4_rst(self):
        c = self.connect()
        c.headers(1, POST, END_HEADERS)
        c.send(frame(RST, 0, 1, struct.pack(">I", CANCEL)))
        self.alive(c)

    def test_3_5_settings(self):
        c = self.connect()
        c.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)))
        c.until(lambda f: f[0] == SETTINGS and f[1] == ACK)
        self.alive(c)

    def test_3_8_goaway(self):
        c = self.connect()
        c.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, NO_ERROR)))
        c.send(frame(PING, 0, 0, b"12345678"))
        while (got := c.read()) is not None and got[0] != PING:
            pass

    def test_3_9_window_update(self):
        c = self.connect()
        c.send(frame(WINDOW, 0, 0, struct.pack(">I", 1)))
        c.headers(1, GET)
        c.send(frame(WINDOW, 0, 1, struct.pack(">I", 1)))
        self.answered(c, 1)

    def test_3_10_continuation(self):
        b = block(*GET, ("x-dummy", "v" * 200))
        for cuts in ((20,), (1, 2, 30, 40), (0, 0, 3)):
            c = self.connect()
            at = 0
            kind, flags = HEADERS, END_STREAM
            for cut in cuts:
                c.send(frame(kind, flags, 1, b[at:cut]))
                at, kind, flags = cut, CONT, 0
            c.send(frame(CONT, END_HEADERS, 1, b[at:]))
            self.answered(c, 1)

    def test_4_exchanges(self):
        for method in ("GET", "HEAD", "PUT", "OPTIONS", "DELETE"):
            c = self.connect()
            c.headers(1, ((":method", method),) + GET[1:])
            got = self.answered(c, 1)
            if method == "HEAD":
                self.assertTrue(got[1] & END_STREAM)
            else:
                got = c.until(lambda f: f[0] == DATA)
                self.assertGreater(len(got[3]), 1)
                self.assertTrue(got[1] & END_STREAM)
        c = self.connect()
        c.headers(1, POST + (("trailer", "x-test"),), END_HEADERS)
        c.send(frame(DATA, 0, 1, b"test"))
        c.headers(1, (("x-test", "ok"),))
        self.answered(c, 1)
        self.alive(c)

    def test_4_connect(self):
        c = self.connect()
        c.headers(1, ((":method", "CONNECT"), (":authority", "localhost:1")), END_HEADERS)
        self.answered(c, 1)
        c.headers(3, ((":method", "CONNECT"), (":authority", "x"), (":path", "/"), (":scheme", "http")),
                  END_HEADERS)
        self.stream_error(c, 3, PROTOCOL)

    def test_5_hpack(self):
        authority = literal(":authority", "localhost")
        for b in (b"\x82\x86\x84" + authority,                       # indexed
                  b"\x82\x86\x84\x41\x09localhost",                  # incremental, indexed name
                  b"\x82\x86\x84" + authority + b"\x40\x06x-test\x01v\xbe",  # incremental, new name
                  b"\x82\x86\x84\x01\x09localhost",                  # without indexing
                  b"\x82\x86\x84\x11\x09localhost",                  # never indexed
                  b"\x82\x86\x84" + authority + b"\x10\x06x-test\x01v",
                  b"\x20\x82\x86\x84" + authority,                   # table size update to 0
                  b"\x3f\xe1\x1f\x82\x86\x84" + authority,           # ... to 4096
                  b"\x20\x3f\xe1\x1f\x82\x86\x84" + authority,       # both
                  b"\x82\x86\x84\x41\x86\xa0\xe4\x1d\x13\x9d\x09"):  # Huffman "localhost"
            c = self.connect()
            c.headers(1, b)
            self.answered(c, 1)
            self.alive(c)

    def test_grpc_in_raw_frames(self):
        c = self.connect()
        c.headers(1, GRPC, END_HEADERS)
        message = b"\0\0\0\0\x03\x0a\x01a"  # also a protobuf message, {1: "a"}
        for byte in message:
            c.send(frame(DATA, 0, 1, bytes([byte])))
        c.send(frame(DATA, END_STREAM, 1))
        self.assertFalse(self.answered(c, 1)[1] & END_STREAM)
        got = c.until(lambda f: f[0] == DATA)
        self.assertEqual(got[3], message)
        self.assertTrue(self.answered(c, 1)[1] & END_STREAM)


class Preface(Case):
    def test_invalid(self):
        for preface in (b"INVALID CONNECTION PREFACE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                        PREFACE[:-1] + b"x" + frame(SETTINGS, 0, 0)):
            c = self.connect(greet=False)
            c.send(preface)
            self.conn_error(c, PROTOCOL)

    def test_settings_must_be_first(self):
        c = self.connect(greet=False)
        c.send(PREFACE + frame(PING, 0, 0, bytes(8)))
        self.conn_error(c, PROTOCOL)


class Framing(Case):
    """RFC 9113 s4."""

    def test_unknown_type(self):
        c = self.connect()
        c.send(frame(0x16, 0, 0, bytes(8)) + frame(0x16, 0xff, 77, b""))
        self.alive(c)

    def test_undefined_flags(self):
        c = self.connect()
        c.send(frame(PING, 0x16, 0, b"abcdefgh"))
        self.assertEqual(c.until(lambda f: f[0] == PING)[3], b"abcdefgh")

    def test_reserved_bit(self):
        c = self.connect()
        c.send(frame(PING, 0, 0x80000000, b"abcdefgh"))
        self.assertEqual(c.until(lambda f: f[0] == PING)[3], b"abcdefgh")

    def test_data_of_largest_size(self):
        c = self.connect()
        c.headers(1, POST, END_HEADERS)
        c.send(frame(DATA, END_STREAM, 1, bytes(16384)))
        self.answered(c, 1)
        self.alive(c)

    def test_too_large(self):
        c = self.connect()
        c.headers(1, HANG, END_HEADERS)
        c.send(frame(DATA, END_STREAM, 1, bytes(16385)))
        self.stream_error(c, 1, SIZE)
        c = self.connect()
        c.headers(1, block(*GET, ("x-dummy", "v" * 16400)))
        self.conn_error(c, SIZE)
        c = self.connect()
        c.send(frame(0x16, 0, 0, bytes(16385)))
        self.conn_error(c, SIZE)

    def test_broken_block(self):
        c = self.connect()
        c.headers(1, b"\0\0")
        self.conn_error(c, COMPRESSION)

    def test_frames_inside_block(self):
        for extra in (frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 255)), frame(0x16, 0, 0, bytes(8)),
                      frame(HEADERS, END_STREAM | END_HEADERS, 3, block(*GET)),
                      frame(CONT, END_HEADERS, 3, block(*GET)), frame(DATA, 0, 1, b"x"),
                      frame(SETTINGS, 0, 0)):
            c = self.connect()
            c.headers(1, GET, END_STREAM)
            c.send(extra)
            self.conn_error(c, PROTOCOL)


class Streams(Case):
    """RFC 9113 s5."""

    def test_idle(self):
        for f in (frame(DATA, END_STREAM, 1, b"test"), frame(RST, 0, 1, struct.pack(">I", CANCEL)),
                  frame(WINDOW, 0, 1, struct.pack(">I", 100)),
                  frame(CONT, END_HEADERS, 1, block(*GET))):
            c = self.connect()
            c.send(f)
            self.conn_error(c, PROTOCOL)

    def test_half_closed_remote(self):
        for f, codes in ((frame(DATA, END_STREAM, 1, b"test"), (CLOSED,)),
                         (frame(HEADERS, END_STREAM | END_HEADERS, 1, block(*GET)), (CLOSED,)),
                         (frame(CONT, END_HEADERS, 1, block(*GET)), (CLOSED, PROTOCOL))):
            c = self.connect()
            # Keep the stream from closing on our side: no window for the answer.
            c.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
            c.headers(1, GET)
            c.send(f)
            self.stream_error(c, 1, *codes)

    def test_closed_by_reset(self):
        for f, codes in ((frame(DATA, END_STREAM, 1, b"test"), (CLOSED,)),
                         (frame(HEADERS, END_STREAM | END_HEADERS, 1, block(*GET)), (CLOSED,)),
                         (frame(CONT, END_HEADERS, 1, block(*GET)), (CLOSED, PROTOCOL))):
            for request in (POST, HANG):
                c = self.connect()
                c.headers(1, request, END_HEADERS)
                c.send(frame(RST, 0, 1, struct.pack(">I", CANCEL)))
                c.send(f)
                self.stream_error(c, 1, *codes)

    def test_closed_by_end(self):
        for f, codes in ((frame(DATA, END_STREAM, 1, b"test"), (CLOSED,)),
                         (frame(HEADERS, END_STREAM | END_HEADERS, 1, block(*GET)), (CLOSED,)),
                         (frame(CONT, END_HEADERS, 1, block(*GET)), (CLOSED, PROTOCOL))):
            c = self.connect()
            c.headers(1, GET)
            c.until(lambda g: g[0] == DATA and g[1] & END_STREAM)
            c.send(f)
            self.stream_error(c, 1, *codes)

    def test_late_data_after_early_answer(self):
        # We ended the stream with RST_STREAM(NO_ERROR): what was under way must be ignored.
        c = self.connect()
        c.headers(1, grpc("/no.Such/Method"), END_HEADERS)
        c.until(lambda f: f[0] == RST and f[3] == bytes(4))
        c.send(frame(DATA, 0, 1, bytes(16384)) * 8 + frame(DATA, END_STREAM, 1, b""))
        self.alive(c)

    def test_identifiers(self):
        c = self.connect()
        c.headers(2, GET)
        self.conn_error(c, PROTOCOL)
        c = self.connect()
        c.headers(5, HANG, END_HEADERS)
        c.headers(3, GET)
        self.conn_error(c, PROTOCOL, CLOSED)

    def test_concurrency(self):
        c = self.connect()
        limit = c.server_settings[3]
        for i in range(limit + 1):
            c.headers(2 * i + 1, HANG, END_HEADERS)
        self.stream_error(c, 2 * limit + 1, PROTOCOL, REFUSED)

    def test_depends_on_itself(self):
        c = self.connect()
        c.headers(1, struct.pack(">IB", 1, 255) + block(*GET), PRIO | END_STREAM | END_HEADERS)
        self.stream_error(c, 1, PROTOCOL)
        c = self.connect()
        c.headers(1, HANG, END_HEADERS)
        c.send(frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 255)))
        self.stream_error(c, 1, PROTOCOL)

    def test_connection_error_closes(self):
        c = self.connect()
        c.send(frame(PING, 0, 0, bytes(6)))
        self.conn_error(c, SIZE)


class Frames(Case):
    """RFC 9113 s6."""

    def bad(self, f, *codes, before=None, settings=b""):
        # On a call, and on a request that is none: neither may have been answered before it is whole.
        for request in (before,) if before is None else (before, POST):
            c = self.connect(settings=settings)
            if request is not None:
                c.headers(1, request, END_HEADERS)
            c.send(f)
            self.conn_error(c, *codes)

    def test_6_1_data(self):
        self.bad(frame(DATA, END_STREAM, 0, b"test"), PROTOCOL)
        self.bad(frame(DATA, END_STREAM | PADDED, 1, b"\x06test"), PROTOCOL, before=HANG)
        self.bad(frame(DATA, END_STREAM | PADDED, 1, b"\x05test"), PROTOCOL, before=HANG)
        self.bad(frame(DATA, PADDED, 1, b""), PROTOCOL, SIZE, before=HANG)

    def test_6_2_headers(self):
        b = block(*GET)
        self.bad(frame(HEADERS, END_STREAM | END_HEADERS, 0, b), PROTOCOL)
        self.bad(frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, bytes([len(b) + 1]) + b), PROTOCOL)
        self.bad(frame(HEADERS, END_STREAM | END_HEADERS | PRIO, 1, b"\0\0"), PROTOCOL, SIZE)

    def test_6_3_priority(self):
        self.bad(frame(PRIORITY, 0, 0, struct.pack(">IB", 0, 255)), PROTOCOL)
        for request in (HANG, POST):
            c = self.connect()
            c.headers(1, request, END_HEADERS)
            c.send(frame(PRIORITY, 0, 1, bytes(4)))
            self.stream_error(c, 1, SIZE)

    def test_6_4_rst(self):
        self.bad(frame(RST, 0, 0, bytes(4)), PROTOCOL)
        self.bad(frame(RST, 0, 1, bytes(4)), PROTOCOL)
        self.bad(frame(RST, 0, 1, bytes(3)), SIZE, before=HANG)

    def test_6_5_settings(self):
        self.bad(frame(SETTINGS, ACK, 0, b"\0"), SIZE)
        self.bad(frame(SETTINGS, 0, 1, struct.pack(">HI", 3, 100)), PROTOCOL)
        self.bad(frame(SETTINGS, 0, 0, bytes(3)), SIZE)
        for key, value, code in ((2, 2, PROTOCOL), (4, 0x80000000, FLOW), (5, 16383, PROTOCOL),
                                 (5, 16777216, PROTOCOL)):
            self.bad(frame(SETTINGS, 0, 0, struct.pack(">HI", key, value)), code)
        c = self.connect()
        c.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 0xff, 1)))
        c.until(lambda f: f[0] == SETTINGS and f[1] == ACK)
        self.alive(c)

    def test_6_5_3_last_value_counts(self):
        c = self.connect()
        c.send(frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 100, 4, 1)))
        c.headers(1, GET)
        self.assertEqual(len(c.until(lambda f: f[0] == DATA)[3]), 1)

    def test_6_7_ping(self):
        c = self.connect()
        c.send(frame(PING, ACK, 0, b"unwanted") + frame(PING, 0, 0, b"wantedxx"))
        self.assertEqual(c.until(lambda f: f[0] == PING)[3], b"wantedxx")
        self.bad(frame(PING, 0, 1, bytes(8)), PROTOCOL)
        self.bad(frame(PING, 0, 0, bytes(6)), SIZE)

    def test_6_8_goaway(self):
        self.bad(frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL)
        self.bad(frame(GOAWAY, 0, 0, bytes(7)), SIZE)

    def test_6_9_window_update(self):
        self.bad(frame(WINDOW, 0, 0, bytes(4)), PROTOCOL)
        self.bad(frame(WINDOW, 0, 0, bytes(3)), SIZE)
        for request in (HANG, POST):
            c = self.connect()
            c.headers(1, request, END_HEADERS)
            c.send(frame(WINDOW, 0, 1, bytes(4)))
            self.stream_error(c, 1, PROTOCOL)

    def test_6_9_1_windows(self):
        c = self.connect(settings=struct.pack(">HI", 4, 1))
        c.headers(1, GET)
        self.assertEqual(len(c.until(lambda f: f[0] == DATA)[3]), 1)
        c.send(frame(WINDOW, 0, 1, struct.pack(">I", 2)))
        self.assertEqual(len(c.until(lambda f: f[0] == DATA)[3]), 2)
        self.bad(frame(WINDOW, 0, 0, struct.pack(">I", 0x7fffffff)) * 2, FLOW)
        for request in (HANG, POST):
            c = self.connect()
            c.headers(1, request, END_HEADERS)
            c.send(frame(WINDOW, 0, 1, struct.pack(">I", 0x7fffffff)) * 2)
            self.stream_error(c, 1, FLOW)

    def test_6_9_2_initial_window(self):
        c = self.connect(settings=struct.pack(">HI", 4, 0))
        c.headers(1, GET)
        self.answered(c, 1)
        c.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1)))
        self.assertEqual(len(c.until(lambda f: f[0] == DATA)[3]), 1)
        c = self.connect(settings=struct.pack(">HI", 4, 3))
        c.headers(1, GET)
        self.assertEqual(len(c.until(lambda f: f[0] == DATA)[3]), 3)
        c.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2)) +
               frame(WINDOW, 0, 1, struct.pack(">I", 2)))
        self.assertEqual(len(c.until(lambda f: f[0] == DATA)[3]), 1)
        c = self.connect(settings=struct.pack(">HI", 4, 0))
        c.headers(1, HANG, END_HEADERS)
        c.send(frame(WINDOW, 0, 1, struct.pack(">I", 0x7fffffff)) +
               frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1)))
        self.conn_error(c, FLOW)
        c = self.connect(settings=struct.pack(">HI", 4, 0x7fffffff))
        c.headers(1, HANG, END_HEADERS)
        c.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1)) + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7fffffff)))
        self.alive(c)

    def test_6_9_client_over_window(self):
        c = self.connect()
        c.headers(1, HANG, END_HEADERS)
        window = c.server_settings[4]
        # Hang reads messages as they come, so the window is only closed inside of one burst.
        c.send(frame(DATA, 0, 1, bytes(16384)) * (window // 16384) + frame(DATA, 0, 1, bytes(16384)) * 200)
        got = c.until(lambda f: f[0] in (GOAWAY, WINDOW, RST))
        self.assertIn(got[0], (GOAWAY, WINDOW, RST))

    def test_6_10_continuation(self):
        b = block(*GET)
        self.bad(frame(CONT, END_HEADERS, 0, b), PROTOCOL)
        self.bad(frame(CONT, END_HEADERS, 1, b""), PROTOCOL, before=HANG)
        self.bad(frame(HEADERS, END_STREAM, 1, b[:9]) + frame(CONT, END_HEADERS, 1, b[9:]) +
                 frame(CONT, END_HEADERS, 1, b""), PROTOCOL, CLOSED)
        self.bad(frame(DATA, 0, 1, b"x") + frame(CONT, END_HEADERS, 1, b""), PROTOCOL, before=HANG)
        self.bad(frame(HEADERS, END_STREAM, 1, b) + frame(CONT, END_HEADERS, 0, b""), PROTOCOL)


class ErrorCodes(Case):
    """RFC 9113 s7: an unknown code is no error."""

    def test_unknown(self):
        c = self.connect()
        c.headers(1, HANG, END_HEADERS)
        c.send(frame(RST, 0, 1, struct.pack(">I", 0xff)))
        self.alive(c)
        c.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0xff)) + frame(PING, 0, 0, b"12345678"))
        while (got := c.read()) is not None and got[0] != PING:
            pass


class Messages(Case):
    """RFC 9113 s8."""

    def malformed(self, fields, flags=END_STREAM | END_HEADERS):
        c = self.connect()
        c.headers(1, fields, flags)
        self.stream_error(c, 1, PROTOCOL)

    def test_8_1_second_headers(self):
        for request in (HANG, POST):
            c = self.connect()
            c.headers(1, request, END_HEADERS)
            c.headers(1, request, END_HEADERS)
            self.stream_error(c, 1, PROTOCOL)

    def test_8_2_fields(self):
        self.malformed(GET + (("X-TEST", "ok"),))
        self.malformed(GET + (("x test", "ok"),))
        self.malformed(GET + (("x-test", "a\nb"),))
        self.malformed(GET + (("x-test", "a\0b"),))
        c = self.connect()  # RFC 9113 s8.2.1 would refuse it; stock gRPC clients send it
        c.headers(1, GET + (("x-test", " a "),))
        self.answered(c, 1)
        self.malformed(GET + (("", "a"),))

    def test_8_2_2_connection_specific(self):
        for field in (("connection", "keep-alive"), ("keep-alive", "1"), ("proxy-connection", "x"),
                      ("transfer-encoding", "chunked"), ("upgrade", "x"), ("te", "trailers, deflate")):
            self.malformed(GET + (field,))

    def test_8_3_pseudo(self):
        self.malformed(GET + ((":test", "ok"),))
        self.malformed(GET + ((":status", "200"),))
        self.malformed(GET[:3] + (("x-test", "ok"),) + GET[3:])
        for request in (HANG, POST):
            c = self.connect()
            c.headers(1, request, END_HEADERS)
            c.headers(1, ((":method", "POST"),))
            self.stream_error(c, 1, PROTOCOL)

    def test_8_3_1_request(self):
        self.malformed(((":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "x")))
        for missing in (0, 1, 2):
            self.malformed(GET[:missing] + GET[missing + 1:])
        for twice in (0, 1, 2, 3):
            self.malformed(GET + (GET[twice],))

    def test_8_1_1_content_length(self):
        for frames in (frame(DATA, END_STREAM, 1, b"test"),
                       frame(DATA, 0, 1, b"te") + frame(DATA, END_STREAM, 1, b"st")):
            for length in ("1", "5", "x"):
                for request in (HANG, POST):
                    c = self.connect()
                    c.headers(1, request + (("content-length", length),), END_HEADERS)
                    c.send(frames)
                    self.stream_error(c, 1, PROTOCOL)

    def test_8_4_push(self):
        c = self.connect()
        c.headers(1, HANG, END_HEADERS)
        c.send(frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + block(*GET)))
        self.conn_error(c, PROTOCOL)


class Further(Case):
    """What RFC 9113 says besides, by section."""

    def request(self, fields, flags=END_STREAM | END_HEADERS, **kw):
        c = self.connect(**kw)
        c.headers(1, fields, flags)
        return c

    def malformed(self, fields, flags=END_STREAM | END_HEADERS):
        self.stream_error(self.request(fields, flags), 1, PROTOCOL)

    def test_4_1_frames_of_every_flag(self):
        # Flags that a type does not define are ignored; those it defines are not set here.
        c = self.connect()
        c.send(frame(WINDOW, 0xff, 0, struct.pack(">I", 1)) + frame(SETTINGS, 0xfe, 0) +
               frame(PRIORITY, 0xff, 1, struct.pack(">IB", 0, 15)))
        c.headers(1, GET, END_STREAM | END_HEADERS | 0xd2 - 0x80)
        self.answered(c, 1)
        self.alive(c)

    def test_4_3_block_of_an_ended_stream_counts(self):
        # The block of a request that is refused must still reach the HPACK table (s4.3).
        c = self.connect()
        bad = b"\x82\x86\x84" + b"\x40\x05x-abc\x03def" + literal("X-BAD", "1")
        c.headers(1, bad)
        self.stream_error(c, 1, PROTOCOL)
        c.headers(3, b"\x82\x86\x84\xbe" + literal(":authority", "x"))  # a pseudo field behind a regular one
        self.stream_error(c, 3, PROTOCOL)
        c.headers(5, b"\x82\x86\x84" + literal(":authority", "x") + b"\xbe")
        self.answered(c, 5)

    def test_5_1_1_skipped_identifiers_are_closed(self):
        for f in (frame(DATA, END_STREAM, 3, b"x"), frame(HEADERS, END_STREAM | END_HEADERS, 3, block(*GET))):
            c = self.request(HANG, END_HEADERS)
            c.headers(7, HANG, END_HEADERS)
            c.send(f)
            self.stream_error(c, 3, PROTOCOL, CLOSED)

    def test_5_1_1_even_identifiers_are_idle(self):
        for f in (frame(RST, 0, 2, struct.pack(">I", CANCEL)), frame(WINDOW, 0, 2, struct.pack(">I", 9)),
                  frame(DATA, 0, 2, b"x")):
            c = self.connect()
            c.send(f)
            self.conn_error(c, PROTOCOL)

    def test_5_1_frames_that_closed_streams_take(self):
        c = self.request(GET)
        c.until(lambda f: f[0] == DATA and f[1] & END_STREAM)
        for _ in range(2):
            c.send(frame(WINDOW, 0, 1, struct.pack(">I", 10)) + frame(RST, 0, 1, struct.pack(">I", CANCEL)) +
                   frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 1)))
        self.alive(c)

    def test_5_4_1_connection_errors_name_the_last_stream(self):
        c = self.request(GET)
        c.until(lambda f: f[0] == DATA and f[1] & END_STREAM)
        c.send(frame(SETTINGS, 0, 1))
        got = c.until(lambda f: f[0] == GOAWAY)
        self.assertEqual(struct.unpack(">II", got[3][:8]), (1, PROTOCOL))

    def test_6_1_padding_counts(self):
        # A DATA frame of padding alone, and END_STREAM with it.
        c = self.request(POST, END_HEADERS)
        c.send(frame(DATA, PADDED, 1, b"\xff" + bytes(255)) * 3 + frame(DATA, PADDED | END_STREAM, 1, b"\0"))
        self.answered(c, 1)
        self.alive(c)

    def test_6_1_padding_is_given_back(self):
        c = self.request(POST, END_HEADERS)
        for _ in range(4):
            c.send(frame(DATA, PADDED, 1, b"\xff" + bytes(255)) * (c.server_settings[4] // 512))
            c.until(lambda f: f[0] == WINDOW and f[2] == 1)
        c.send(frame(DATA, END_STREAM, 1, b""))
        self.answered(c, 1)

    def test_6_2_priority_and_padding_too_short(self):
        for flags, payload in ((PRIO, b"\0\0\0\0"), (PADDED, b""), (PADDED | PRIO, b"\x01\0\0\0\0")):
            c = self.request(payload, END_STREAM | END_HEADERS | flags)
            self.conn_error(c, PROTOCOL, SIZE)

    def test_6_4_rst_of_idle(self):
        c = self.connect()
        c.send(frame(RST, 0, 1, bytes(4)))
        self.conn_error(c, PROTOCOL)

    def test_6_4_rst_of_a_stream_to_come(self):
        """Let pass beside other streams: gRPC's C core does it (http2_scan.c says why)."""
        c = self.connect()
        c.headers(1, GET)
        c.send(frame(RST, 0, 5, bytes(4)))
        c.headers(7, GET)
        c.until(lambda f: f[2] == 7 and f[1] & END_STREAM)

    def test_6_5_settings_many_and_empty(self):
        c = self.connect()
        c.send(frame(SETTINGS, 0, 0) + frame(SETTINGS, 0, 0, struct.pack(">HIHIHI", 1, 0, 3, 1, 6, 100)))
        for _ in range(2):
            c.until(lambda f: f[0] == SETTINGS and f[1] == ACK)
        c.headers(1, GET)
        self.answered(c, 1)

    def test_6_5_2_boundaries(self):
        settings = struct.pack(">HI", 2, 0) + struct.pack(">HI", 4, 0x7fffffff) + struct.pack(">HI", 5, 16384)
        c = self.connect(settings=settings + struct.pack(">HI", 5, 16777215) + struct.pack(">HI", 2, 1))
        c.headers(1, GET)
        self.answered(c, 1)
        for key, value in ((2, 0xffffffff), (5, 0), (8, 2), (9, 2)):
            c = self.connect()
            c.send(frame(SETTINGS, 0, 0, struct.pack(">HI", key, value)))
            self.conn_error(c, PROTOCOL)

    def test_6_5_3_settings_are_acknowledged_in_order(self):
        c = self.connect()
        c.until(lambda f: f[0] == SETTINGS and f[1] == ACK)
        c.send((frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 7)) + frame(PING, 0, 0, b"behind..")) * 2)
        seen = []
        while len(seen) < 4:
            got = c.until(lambda f: f[0] in (SETTINGS, PING))
            seen.append(got[0])
        self.assertEqual(seen.count(SETTINGS), 2)

    def test_6_5_table_size_of_the_peer(self):
        c = self.connect(settings=struct.pack(">HI", 1, 0))
        for stream in (1, 3):
            c.headers(stream, GET)
            got = self.answered(c, stream)
            if stream == 1:
                self.assertEqual(got[3][:1], b"\x20", "a block must begin with the size update (RFC 7541 s4.2)")
            self.assertFalse(any(b & 0xc0 == 0x40 for b in got[3][:1]))

    def test_6_9_window_of_zero_from_the_beginning(self):
        c = self.connect(settings=struct.pack(">HI", 4, 0))
        c.headers(1, GET)
        self.answered(c, 1)
        self.alive(c)
        got = b""
        for _ in range(3):
            c.send(frame(WINDOW, 0, 1, struct.pack(">I", 1)))
            f = c.until(lambda f: f[0] == DATA)
            self.assertEqual(len(f[3]), 1)
            got += f[3]
        self.assertEqual(got, b"not")

    def test_6_9_1_our_frames_keep_to_the_peers_limits(self):
        # A large echo, in frames of 16384 at most, within a window given piece by piece.
        c = self.connect(settings=struct.pack(">HI", 4, 20000))
        message = b"\x0a\xc0\xb8\x02" + bytes(40000)  # {1: 40000 bytes}
        body = b"\0" + struct.pack(">I", len(message)) + message
        c.headers(1, GRPC, END_HEADERS)
        for at in range(0, len(body), 16384):
            c.send(frame(DATA, END_STREAM if at + 16384 >= len(body) else 0, 1, body[at:at + 16384]))
        got, window = b"", 20000
        while len(got) < len(body):
            f = c.until(lambda f: f[0] == DATA)
            self.assertLessEqual(len(f[3]), 16384)
            got += f[3]
            self.assertLessEqual(len(got), window)
            if len(got) == window:
                c.send(frame(WINDOW, 0, 1, struct.pack(">I", 9000)))
                window += 9000
        self.assertEqual(got, body)
        self.assertTrue(self.answered(c, 1)[1] & END_STREAM)

    def test_6_9_connection_window_of_the_peer(self):
        # 65535 bytes for all streams together; none may be sent past it.
        c = self.connect(settings=struct.pack(">HI", 4, 200000))
        message = b"\x0a\xa0\x9c\x01" + bytes(20000)
        body = b"\0" + struct.pack(">I", len(message)) + message
        for stream in (1, 3, 5, 7):
            c.headers(stream, GRPC, END_HEADERS)
            c.send(frame(DATA, 0, stream, body[:16000]) + frame(DATA, END_STREAM, stream, body[16000:]))
        got = 0
        while got < 65535:
            got += len(c.until(lambda f: f[0] == DATA)[3])
        self.assertEqual(got, 65535)
        c.send(frame(PING, 0, 0, b"whatnext"))
        f = c.until(lambda f: f[0] in (PING, DATA))
        self.assertEqual(f[0], PING, "DATA past the connection's window")
        c.send(frame(WINDOW, 0, 0, struct.pack(">I", 100000)))
        while got < 4 * len(body):
            got += len(c.until(lambda f: f[0] == DATA)[3])

    def test_6_10_block_in_many_frames(self):
        b = block(*GET, ("x-dummy", "v" * 300))
        c = self.connect()
        c.send(frame(HEADERS, END_STREAM, 1, b[:1]) + b"".join(frame(CONT, 0, 1, b[i:i + 20]) for i in range(1, len(b), 20)) +
               frame(CONT, END_HEADERS, 1))
        self.answered(c, 1)

    def test_8_1_trailers(self):
        c = self.request(POST, END_HEADERS)
        c.headers(1, (("x-trailer", "1"), (":path", "/")))
        self.stream_error(c, 1, PROTOCOL)
        c = self.request(POST, END_HEADERS)
        c.headers(1, (("X-Trailer", "1"),))
        self.stream_error(c, 1, PROTOCOL)
        c = self.request(POST, END_HEADERS)
        c.headers(1, (("x-trailer", "1"),), END_HEADERS)  # without END_STREAM
        self.stream_error(c, 1, PROTOCOL)
        c = self.request(POST, END_HEADERS)
        c.headers(1, b"")
        self.answered(c, 1)

    def test_8_1_1_content_length(self):
        self.malformed(POST + (("content-length", "1"),))
        self.malformed(POST + (("content-length", "0"), ("content-length", "1")), END_HEADERS)
        self.malformed(POST + (("content-length", "-1"),), END_HEADERS)
        self.malformed(POST + (("content-length", "99999999999999999999"),), END_HEADERS)
        c = self.request(POST + (("content-length", "4"),), END_HEADERS)
        c.send(frame(DATA, PADDED | END_STREAM, 1, b"\x03test\0\0\0"))
        self.answered(c, 1)
        c = self.request(POST + (("content-length", "4"),), END_HEADERS)
        c.send(frame(DATA, 0, 1, b"test"))
        c.headers(1, (("x-trailer", "1"),))
        self.answered(c, 1)
        c = self.request(POST + (("content-length", "5"),), END_HEADERS)
        c.send(frame(DATA, 0, 1, b"test"))
        c.headers(1, (("x-trailer", "1"),))
        self.stream_error(c, 1, PROTOCOL)

    def test_8_2_1_field_names_and_values(self):
        for name in ("a b", "a\0", "a\x7f", "a:b", "Abc", "a\x80", "(a)"):
            self.malformed(GET + ((name, "x"),))
        for value in ("a\rb", "a\n", "\0"):
            self.malformed(GET + (("x-test", value),))
        c = self.request(GET + (("x-test", ""), ("a!#$%&'*+-.^_`|~9", "\t\x80 ok")))
        self.answered(c, 1)

    def test_8_2_3_cookie_crumbs(self):
        self.answered(self.request(GET + (("cookie", "a=b"), ("cookie", "c=d"))), 1)

    def test_8_3_1_paths_and_schemes(self):
        for fields in (((":path", "healthz"),), ((":path", "*"),), ((":path", "http://x/"),)):
            self.malformed(GET[:2] + fields + GET[3:])
        self.answered(self.request(((":method", "OPTIONS"), GET[1], (":path", "*"), GET[3])), 1)
        self.answered(self.request(GET[:1] + ((":scheme", "https"),) + GET[2:]), 1)
        self.answered(self.request(GET[:3] + (("host", "localhost"),)), 1)
        self.malformed(GET[:2] + GET[3:] + ((":protocol", "websocket"), (":path", "/")))

    def test_8_3_1_authority_and_host(self):
        for host in ("LOCALHOST", "localhost:80"):  # the same, said otherwise
            self.answered(self.request(GET + (("host", host),)), 1)
        for host in ("elsewhere", "localhost:81", "localhost.", "xlocalhost"):
            self.malformed(GET + (("host", host),))
        self.malformed(GET[:3] + ((":authority", "me@localhost"),))
        self.malformed(GET[:3] + ((":authority", ""),))
        self.malformed(GET[:3])  # and none at all
        self.malformed(GET[:3] + (("host", "localhost"), ("host", "localhost")))

    def test_8_5_connect(self):
        self.malformed(((":method", "CONNECT"),), END_HEADERS)
        self.malformed(((":method", "CONNECT"), (":authority", "x"), (":scheme", "http")), END_HEADERS)

    def test_8_6_no_upgrade_inside(self):
        self.malformed(GET + (("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")))

    def test_probe(self):
        for path in ("/healthz", "/healthz?full=1"):
            c = self.request(GET[:2] + ((":path", path),) + GET[3:])
            self.assertEqual(self.answered(c, 1)[3][:1], b"\x88")  # :status 200
            self.assertEqual(c.until(lambda f: f[0] == DATA)[3], b"ok\n")


class Hpack(Case):
    """RFC 7541: all are COMPRESSION_ERROR."""

    def test_errors(self):
        authority = literal(":authority", "localhost")
        good = b"\x82\x86\x84"
        for b in (good + authority + b"\xc6",              # index behind the tables
                  good + authority + b"\x7f\x1f\x01v",     # literal with such an index
                  good + authority + b"\x20",              # size update at the end
                  good + authority + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",  # padding > 7
                  good + authority + b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90",  # padding of zeros
                  good + authority + b"\x00\x85\xf2\xb2\x4a\x84\xff\x88\x49\x51\xff\xff\xff\xfa\x7f\xff",
                  good + authority + b"\x80",              # index 0
                  b"\x3f\xe1\x3f" + good + authority,      # size update over the setting
                  good + authority + b"\x00\x7f\xff\xff\xff\xff\xff\xff\xff\x0f"):  # endless integer
            c = self.connect()
            c.headers(1, b)
            self.conn_error(c, COMPRESSION)


class HpackFurther(Case):
    """RFC 7541, what must work and what must not."""

    def answer_of(self, *blocks):
        c = self.connect()
        for i, b in enumerate(blocks):
            c.headers(2 * i + 1, b)
            self.answered(c, 2 * i + 1)
            c.until(lambda f: f[0] == DATA and f[1] & END_STREAM)
        self.alive(c)

    def refused(self, *blocks):
        c = self.connect()
        for i, b in enumerate(blocks):
            c.headers(2 * i + 1, b)
        self.conn_error(c, COMPRESSION)

    good = b"\x82\x86\x84" + b"\x01\x09localhost"

    def test_dynamic_table(self):
        # Entries come, are found by later blocks, and move as more come (s2.3.3).
        self.answer_of(self.good + b"\x40\x03x-a\x011" + b"\x40\x03x-b\x012" + b"\xbe\xbf",
                       self.good + b"\xbe\xbf" + b"\x40\x03x-c\x013" + b"\xbe\xbf\xc0",
                       self.good + b"\x7e\x03new")  # name by index 62, new value

    def test_eviction(self):
        # 4096 bytes hold one of these only (s4.4): the first is gone, index 63 does not exist.
        one = b"\x40\x03x-a" + integer(3000, 7) + b"1" * 3000
        self.answer_of(self.good + one + one + b"\xbe")
        self.refused(self.good + one + one + b"\xbf")
        # Larger than the table: it empties it (s4.4).
        self.refused(self.good + b"\x40\x03x-a\x011" + b"\x40\x03x-b" + integer(4080, 7) + b"2" * 4080 + b"\xbe")

    def test_size_updates(self):
        # To 0 empties the table; two at the beginning may come; up to what we announced (s4.2, s6.3).
        self.answer_of(self.good + b"\x40\x03x-a\x011", b"\x20\x3f\xe1\x1f" + self.good)
        self.refused(self.good + b"\x40\x03x-a\x011", b"\x20\x3f\xe1\x1f" + self.good + b"\xbe")
        self.refused(b"\x82\x20\x86\x84\x01\x09localhost")
        self.refused(b"\x3f\xe2\x1f" + self.good)  # 4097

    def test_integers(self):
        # Zeros that lengthen an integer (s5.1) are no error in moderation; past 32 bits they are.
        self.answer_of(self.good + b"\x00\x03x-a\x7f\x80\x00" + b"v" * 127)
        self.refused(self.good + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
        self.refused(self.good + b"\x00\x7f")  # cut short
        self.refused(self.good + b"\x00\x05ab")

    def test_huffman(self):
        self.refused(self.good + b"\x00\x03x-a\x81\xff")       # EOS's first byte alone: padding of 8
        self.refused(self.good + b"\x00\x03x-a\x84\xff\xff\xff\xff")
        self.answer_of(self.good + b"\x00\x03x-a\x80")           # nothing, Huffman coded

    def test_static_table(self):
        for i in range(15, 62):  # every regular entry: name and value alone are sound
            if i in (28, 38, 57):  # content-length, host and transfer-encoding have rules of their own
                continue
            self.answer_of(self.good + integer_byte(0x80, i, 7))

    def test_refused_blocks_end_the_connection_whole(self):
        c = self.connect()
        c.headers(1, HANG, END_HEADERS)
        c.headers(3, self.good + b"\xc6")
        self.conn_error(c, COMPRESSION)


def integer_byte(first, n, bits):
    b = integer(n, bits)
    return bytes([b[0] | first]) + b[1:]


class Floods(Case):
    """RFC 9113 s10.5."""

    def flood(self, data, before=b""):
        c = self.connect()
        c.send(before)
        for _ in range(40):
            c.send(data)
        self.conn_error(c, CALM)

    def test_ping(self):
        self.flood(frame(PING, 0, 0, bytes(8)) * 200)

    def test_settings(self):
        self.flood(frame(SETTINGS, 0, 0) * 200)

    def test_empty_data(self):
        self.flood(frame(DATA, 0, 1) * 2000,
                   frame(HEADERS, END_HEADERS, 1, block(*HANG)))
        self.flood(frame(DATA, PADDED, 1, b"\x08" + bytes(8)) * 2000,
                   frame(HEADERS, END_HEADERS, 1, block(*HANG)))

    def test_priority(self):
        self.flood(frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 5)) * 2000)

    def test_unknown(self):
        self.flood(frame(0x16, 0, 0) * 2000)

    def test_window_update(self):
        self.flood(frame(WINDOW, 0, 0, struct.pack(">I", 1)) * 2000)

    def test_rapid_reset(self):
        c = self.connect()
        b = block(*HANG)
        for i in range(3000):
            c.send(frame(HEADERS, END_HEADERS, 2 * i + 1, b) +
                   frame(RST, 0, 2 * i + 1, struct.pack(">I", CANCEL)))
        self.conn_error(c, CALM)

    def test_made_us_reset(self):
        c = self.connect()
        b = block(*HANG, ("content-length", "1"))
        for i in range(3000):
            c.send(frame(HEADERS, END_HEADERS, 2 * i + 1, b) + frame(DATA, 0, 2 * i + 1, bytes(2)))
            # In turns: the streams that end by our resets count as open until these are out.
            while (got := c.read()) is not None and got[0] not in (RST, GOAWAY):
                pass
            if got is None or got[0] == GOAWAY:
                self.assertEqual(got[3][4:8], struct.pack(">I", CALM))
                return
        self.conn_error(c, CALM)

    def test_continuations(self):
        self.flood(frame(CONT, 0, 1) * 10, frame(HEADERS, 0, 1, block(*GET)))

    def test_header_bomb(self):
        c = self.connect()
        bomb = block(*GET) + b"\x40\x01x" + integer(4000, 7) + bytes([97]) * 4000 + b"\xbe" * 8000
        c.headers(1, bomb)
        self.conn_error(c, CALM)

    def test_large_list_is_answered(self):
        c = self.connect()
        c.headers(1, GET + (("x-dummy", "v" * 8000), ("x-dummy", "v" * 8000)), END_STREAM)
        c.send(frame(CONT, END_HEADERS, 1, block(("x-dummy", "v" * 8000))))
        self.answered(c, 1)
        self.alive(c)


def main():
    global ADDRESS, TLS, NAME
    if ":" in sys.argv[1]:
        host, port = sys.argv[1].rsplit(":", 1)
        ADDRESS, rest = (host, int(port)), sys.argv[3:]
        if rest[:1] == ["--tls"]:
            NAME, TLS = rest[2], ssl.create_default_context(cafile=rest[1])
            TLS.set_alpn_protocols(["h2"])
            rest = rest[3:]
        unittest.main(argv=[sys.argv[0], *rest], verbosity=1)
    process = subprocess.Popen([sys.argv[1], "--streams", "100"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    ADDRESS = ("127.0.0.1", int(process.stdout.readline().split("=")[1]))
    program = unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=1, exit=False)
    process.stdin.close()
    process.stdout.close()
    code = process.wait(20)
    if code != 0:
        print(f"server exited with {code}")
    sys.exit(code != 0 or not program.result.wasSuccessful())


if __name__ == "__main__":
    main()
