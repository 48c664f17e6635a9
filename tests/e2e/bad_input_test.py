#!/usr/bin/python3
"""Bad input from the wire and the attach socket harms nobody else: each case is refused with a counter and a reason.

usage: bad_input_test.py BUILD [SEED [SECTION...]]

splitd on a veth (af_packet), an echo and a greeter host, and a stock client that calls without a pause. Beside it: lying
Ethernet, ARP, IP, UDP, ICMP and TCP frames from a raw socket, broken HTTP/2, broken gRPC, broken protobuf, nonsense on the
attach socket; each with the counter that must move and what the peer must be told. The steady client sees nothing but OK.
Last a SIGTERM with calls in the handler: these finish, new ones do not begin, splitd ends with 0.
"""
import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys

from bed import ADDRESS, CLIENT, TCP_PORT, Bed, demo_config, settled
from raw_frames import ACK, FIN, PSH, RST, SYN, URG, Wire, arp, enter_netns, eth, icmp, ip4, mac, tcp, udp
from raw_grpc import Client, field, h2, message, varint
from served import ROOT, need_kernel, wait_until

EVIL = "198.18.0.77"  # nobody: a forger's address on the link
TARGET = (ADDRESS, TCP_PORT)
ECHO, HELLO = "/split.examples.Echo/Unary", "/split.examples.Greeter/SayHello"
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DEADLINE = 8, 12, 13, 14, 4


class Case:
    """Notes the counters before, and afterwards waits for those that must move."""

    def __init__(self, bed, steady):
        self.bed, self.steady, self.count = bed, steady, 0

    @contextlib.contextmanager
    def __call__(self, name, *counters, by=1):
        before = self.bed.counters()
        told = []
        yield told
        self.bed.ended("splitd")
        assert self.steady.poll() is None, "the steady client ended"

        def moved():
            now = self.bed.counters()
            return now if all(now[c] >= before[c] + by for c in counters) else None
        try:
            now = wait_until(moved, 60, f"{name}: counters {counters} move by {by}")
        except RuntimeError as e:
            now = self.bed.counters()
            raise RuntimeError(f"{e}; what moved: {({c: now[c] - before[c] for c in now if now[c] != before[c]})}") from e
        self.count += 1
        print(f"{name}: {', '.join(f'{c} +{now[c] - before[c]}' for c in counters)}{''.join('; ' + str(t) for t in told)}", flush=True)


# ---- below TCP -----------------------------------------------------------------------------------------------------


def frames_bad(us, them):
    """(name, counter, frame) for a splitd with MAC `us` on a link where `them` is our own MAC."""
    segment = lambda **k: tcp(EVIL, ADDRESS, 4000, TCP_PORT, 1, 0, SYN, **k)
    ip = lambda payload=None, proto=6, **k: ip4(k.pop("src", EVIL), k.pop("dst", ADDRESS), proto,
                                                segment() if payload is None else payload, **k)
    good = lambda packet, **k: eth(k.get("dst", us), k.get("src", them), k.get("kind", 0x800), packet)
    a = lambda **k: eth(us, them, 0x806, arp(k.pop("op", 1), k.pop("sha", them), EVIL, bytes(6), ADDRESS, **k))
    yield "to another MAC", "net.rx_drop_eth_dst", good(ip(), dst=b"\x02\0\0\0\0\x99")
    yield "from a group MAC", "net.rx_drop_eth_src", good(ip(), src=b"\x03\0\0\0\0\x01")
    yield "EtherType not spoken", "net.rx_drop_eth_type", good(ip(), kind=0x88B5)
    yield "802.3 length for a type", "net.rx_drop_eth_type", good(ip(), kind=40)
    yield "no payload at all", "net.rx_drop_ip_short", good(b"")
    yield "longer than the MTU", "net.rx_drop_eth_long", good(ip(bytes(1484), proto=17))
    yield "ARP cut short", "net.rx_drop_arp_malformed", a()[:34]
    yield "ARP of other hardware", "net.rx_drop_arp_malformed", a(hardware=6)
    yield "ARP of another protocol", "net.rx_drop_arp_malformed", a(protocol=0x86DD)
    yield "ARP with lying lengths", "net.rx_drop_arp_malformed", a(hlen=255, plen=255)
    yield "ARP from a group address", "net.rx_drop_arp_malformed", a(sha=b"\xff" * 6)
    yield "ARP sender is not the frame's", "net.rx_drop_arp_malformed", a(sha=b"\x02\0\0\0\0\x55")
    yield "ARP claims splitd's address", "net.rx_arp_conflicts", eth(us, them, 0x806, arp(2, them, ADDRESS, us, ADDRESS))
    yield "ARP claims the client's address", "net.rx_arp_unsolicited", \
        eth(us, b"\x02\0\0\0\0\x66", 0x806, arp(2, b"\x02\0\0\0\0\x66", CLIENT, us, ADDRESS))
    yield "IP version 6 in IPv4", "net.rx_drop_ip_version", good(ip(version=6))
    yield "IP header of 16 bytes", "net.rx_drop_ip_header", good(ip(words=4))
    yield "IP header past the packet", "net.rx_drop_ip_short", good(ip(words=15)[:30])
    yield "IP total length past the frame", "net.rx_drop_ip_length", good(ip(length=1400))
    yield "IP total length below the header", "net.rx_drop_ip_length", good(ip(length=19))
    yield "IP checksum", "net.rx_drop_ip_checksum", good(ip(check=0xBEEF))
    for name, options in (("source route", b"\x83\x07\x04\xc6\x12\0\x09\0"), ("option of length 0", b"\x07\0\0\0"), ("option past the header", b"\x07\x27\x04\0")):
        yield f"IP {name}", "net.rx_drop_ip_options", good(ip(words=5 + len(options) // 4, options=options))
    # AF_PACKET reassembles fragments before it hands them over (PACKET_FANOUT_FLAG_DEFRAG), so splitd never counts these
    # here; tests/net/ip_test.c does.
    yield "first fragment", None, good(ip(fragment=0x2000))
    yield "last fragment", None, good(ip(fragment=0x00B9))
    yield "fragment past 64 KiB", None, good(ip(fragment=0x1FFF))
    for src in ("127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", ADDRESS, "198.18.0.255"):
        yield f"from {src}", "net.rx_drop_ip_src", good(ip(src=src))
    yield "for another address", "net.rx_drop_ip_dst", good(ip(dst="198.18.0.9"))
    yield "IP protocol 99", "net.rx_drop_ip_protocol", good(ip(b"x" * 20, proto=99))
    yield "ICMP checksum", "net.rx_drop_icmp_malformed", good(ip(icmp(8, 0, bytes(4), check=1), proto=1))
    yield "ICMP cut short", "net.rx_drop_icmp_malformed", good(ip(b"\x08\0", proto=1))
    yield "ICMP redirect", "net.rx_drop_icmp_type", good(ip(icmp(5, 1, bytes(32)), proto=1))
    yield "ICMP unreachable about nothing", "net.rx_drop_icmp_type", \
        good(ip(icmp(3, 3, bytes(4) + ip4(ADDRESS, EVIL, 6, tcp(ADDRESS, EVIL, TCP_PORT, 9, 1, 1, ACK))), proto=1))
    yield "UDP length", "net.rx_drop_udp_malformed", good(ip(udp(EVIL, ADDRESS, 9, 9, b"xyz", length=200), proto=17))
    yield "UDP checksum", "net.rx_drop_udp_checksum", good(ip(udp(EVIL, ADDRESS, 9, 9, b"xyz", check=0x1234), proto=17))
    yield "UDP to no port", "net.rx_drop_udp_port", good(ip(udp(EVIL, ADDRESS, 9, 9, b"xyz"), proto=17))
    for name, t in (("cut short", segment()[:12]), ("header length 0", segment(words=0)), ("header length 16", segment(words=4)),
                    ("header past the packet", segment(words=15)), ("from port 0", tcp(EVIL, ADDRESS, 0, TCP_PORT, 1, 0, SYN))):
        yield f"TCP {name}", "net.rx_drop_tcp_short" if name == "cut short" else "net.rx_drop_tcp_header", good(ip(t))
    yield "TCP checksum", "net.rx_drop_tcp_checksum", good(ip(segment(check=0x0101)))
    for name, options in (("of length 0", b"\x02\0\0\0"), ("unknown, of length 0", b"\xfe\0\0\0"), ("of length 1", b"\x03\x01\0\0"),
                          ("past the header", b"\x08\x0a\0\0")):
        yield f"TCP option {name}", "net.rx_drop_tcp_options", good(ip(segment(options=options)))
    for name, flags in (("SYN and FIN", SYN | FIN), ("no flags", 0), ("FIN alone", FIN), ("all flags", 63)):
        yield f"TCP {name}", "net.rx_tcp_segments", good(ip(tcp(EVIL, ADDRESS, 4001, TCP_PORT, 1, 0, flags)))
    yield "TCP ACK of no connection", "net.rx_drop_tcp_no_conn", good(ip(tcp(EVIL, ADDRESS, 4002, TCP_PORT, 5, 5, ACK)))
    yield "TCP to a port nobody listens on", "net.rx_drop_tcp_no_conn", good(ip(tcp(EVIL, ADDRESS, 4003, 1, 5, 0, SYN)))


def frames(case, wire, us, them):
    for name, counter, frame in frames_bad(us, them):
        with case(name, *filter(None, [counter]), by=5):
            for _ in range(10):  # the device may lose some
                wire.send(frame)


def frames_random(case, wire, us, them, rng, count):
    """Damaged frames by the thousand, half of them with checksums that are right again."""
    with case(f"{count} damaged frames", "net.rx_frames", by=count // 4):
        for _ in range(count):
            flags = rng.choice((SYN, ACK, SYN | ACK, RST, FIN | ACK, PSH | ACK | URG, rng.randrange(256)))
            options = rng.randbytes(rng.choice((0, 0, 4, 12, 40)))
            t = bytearray(tcp(EVIL, ADDRESS, rng.randrange(65536), TCP_PORT, rng.getrandbits(32), rng.getrandbits(32), flags,
                              rng.randbytes(rng.choice((0, 1, 100))), options, words=rng.choice((None, None, rng.randrange(16)))))
            if rng.random() < 0.3:
                t[rng.randrange(len(t))] ^= 1 << rng.randrange(8)
            p = bytearray(ip4(EVIL, ADDRESS, rng.choice((6, 6, 6, 1, 17, rng.randrange(256))), bytes(t)))
            if rng.random() < 0.3:
                p[rng.randrange(len(p))] ^= 1 << rng.randrange(8)
            f = eth(us, them, rng.choice((0x800, 0x800, 0x800, 0x806, rng.randrange(65536))), bytes(p))
            wire.send(f[:rng.randrange(15, len(f) + 1)] if rng.random() < 0.2 else f)


def tcp_forged(case, wire, us, them):
    """What a forger who knows the four-tuple may try on a connection in use: it goes on."""
    conn = Client(TARGET)
    local = conn.sock.getsockname()
    sniffer = Wire("cl0", tcp_port=local[1])
    conn.call(call_of(ECHO), message(b""))

    def forge(name, counter, flags, seq_add, ack_add, payload=b"", old=False, bare=False):
        seq, ack, stamp = sniffer.last_segment(local, TARGET) or forge.known
        forge.known = (seq, ack, stamp)
        options = b""
        if stamp is not None and not bare:
            value = (stamp[0] - (1 << 30 if old else 0)) & 0xFFFFFFFF
            options = b"\x01\x01\x08\x0a" + struct.pack("!II", value, stamp[1])
        packet = ip4(local[0], ADDRESS, 6, tcp(local[0], ADDRESS, local[1], TCP_PORT, seq + seq_add, ack + ack_add, flags, payload, options))
        with case(name, counter):
            for _ in range(5):
                wire.send(eth(us, them, 0x800, packet))
        conn.send(h2.frame(h2.PING, 0, 0, b"alive?!?"))
        got = conn.until(lambda f: f[0] in (h2.PING, h2.GOAWAY))
        assert got[:2] == (h2.PING, h2.ACK), f"{name}: the connection did not live on: {got}"

    forge("RST guess in the window", "net.rx_drop_tcp_rst", RST, 1000, 0)
    forge("RST guess outside the window", "net.rx_drop_tcp_rst", RST, 1 << 30, 0)
    forge("SYN in a connection", "net.rx_drop_tcp_flags", SYN, 5, 0)
    forge("SYN and FIN in a connection", "net.rx_drop_tcp_flags", SYN | FIN, 5, 0)
    forge("data without ACK", "net.rx_drop_tcp_flags", PSH, 0, 0, b"evil")
    forge("data past the window", "net.rx_drop_tcp_window", PSH | ACK, 1 << 30, 0, b"evil")
    forge("data of long ago", "net.tcp_duplicate_segments", PSH | ACK, -5000, 0, b"evil")
    forge("ACK of what was never sent", "net.rx_drop_tcp_ack", ACK, 0, 1 << 20, b"evil")
    forge("ACK of another age", "net.rx_drop_tcp_ack", ACK, 0, -(1 << 30), b"evil")
    if forge.known[2] is not None:
        forge("timestamp of the past", "net.rx_drop_tcp_paws", PSH | ACK, 0, 0, b"evil", old=True)
        forge("no timestamp", "net.rx_drop_tcp_paws", PSH | ACK, 0, 0, b"evil", bare=True)
    conn.close()


# ---- HTTP/2 --------------------------------------------------------------------------------------------------------


def call_of(path, *more):
    return h2.grpc(path) + more


def http2(case):
    def connection(name, counters, data, code, greet=True):
        with case(name, *counters) as told:
            c = Client(TARGET, greet=greet)
            for piece in data if isinstance(data, list) else [data]:
                c.send(piece)
            fields, _ = c.answer(-1)
            told.append(f"GOAWAY {fields.get('goaway')}")
            assert fields.get("goaway") == code, f"{name}: GOAWAY {code} was due, got {fields}"
            c.close()

    f, headers = h2.frame, lambda block, flags=h2.END_HEADERS: h2.frame(h2.HEADERS, flags, 1, block)
    ends = ("http2.sessions_failed",)
    connection("no preface", ends, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), h2.PROTOCOL, greet=False)
    connection("HTTP/1.1", ends, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", h2.PROTOCOL, greet=False)
    connection("no SETTINGS first", ends, h2.PREFACE + f(h2.PING, 0, 0, bytes(8)), h2.PROTOCOL, greet=False)
    connection("frame of 2^24-1 bytes", ends, b"\xff\xff\xff" + f(h2.DATA, 0, 1)[3:] + bytes(70000), h2.SIZE)
    connection("DATA on stream 0", ends, f(h2.DATA, 0, 0, b"x"), h2.PROTOCOL)
    connection("even stream", ends, f(h2.HEADERS, h2.END_HEADERS, 2, h2.block(*h2.GRPC)), h2.PROTOCOL)
    connection("padding over the frame", ends, headers(h2.block(*h2.GRPC)) + f(h2.DATA, h2.PADDED, 1, b"\xffx"), h2.PROTOCOL)
    connection("SETTINGS of 5 bytes", ends, f(h2.SETTINGS, 0, 0, bytes(5)), h2.SIZE)
    connection("window past 2^31-1", ends, f(h2.WINDOW, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2, h2.FLOW)
    connection("initial window that overflows a stream's", ends,
               headers(h2.block(*call_of(ECHO))) + f(h2.WINDOW, 0, 1, struct.pack(">I", 0x7FFF0000)) +
               f(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7FFFFFFF)), h2.FLOW)
    connection("HPACK garbage", ends, headers(bytes(range(255, 200, -1))), h2.COMPRESSION)
    connection("HPACK index past the tables", ends, headers(b"\xff\xff\xff\x7f"), h2.COMPRESSION)
    connection("HPACK endless integer", ends, headers(b"\x7f" + b"\xff" * 30), h2.COMPRESSION)
    connection("HPACK string past the block", ends, headers(b"\x00\x7f\xff\x01abc"), h2.COMPRESSION)
    connection("HPACK bomb", ("http2.headers_bombs",),
               headers(h2.block(*h2.GRPC) + b"\x40\x01x" + h2.integer(4000, 7) + b"a" * 4000 + b"\xbe" * 8000), h2.CALM)
    connection("endless CONTINUATION", ("http2.flood_empty",),
               headers(h2.block(*h2.GRPC), flags=0) + f(h2.CONT, 0, 1, b"\0\x01a\0") * 20000, h2.CALM)
    for name, counter, data in (("PING", "pings", f(h2.PING, 0, 0, bytes(8))), ("SETTINGS", "settings", f(h2.SETTINGS, 0, 0)),
                                ("WINDOW_UPDATE", "windows", f(h2.WINDOW, 0, 0, struct.pack(">I", 1))),
                                ("PRIORITY", "empty", f(h2.PRIORITY, 0, 1, struct.pack(">IB", 0, 5)))):
        connection(f"{name} flood", (f"http2.flood_{counter}",), [data * 2000] * 60, h2.CALM)
    storm = [b"".join(f(h2.HEADERS, h2.END_HEADERS, 2 * i + 1, h2.block(*call_of(ECHO))) +
                      f(h2.RST, 0, 2 * i + 1, struct.pack(">I", h2.CANCEL)) for i in range(n, n + 500)) for n in range(0, 20000, 500)]
    connection("RST storm", ("http2.flood_resets",), storm, h2.CALM)
    for name, fields in (("a field with a line feed", call_of(ECHO, ("x-a", "b\nc"))), ("a path without its slash", call_of("x")),
                         ("no path", call_of(ECHO)[:2] + call_of(ECHO)[3:]), ("a field in capitals", call_of(ECHO, ("X-A", "b")))):
        with case(name, "http2.rx_malformed", "http2.tx_resets") as told:
            c = Client(TARGET)
            got, _ = c.call(fields, message(b""))
            told.append(f"RST_STREAM {got.get('reset')}")
            assert got.get("reset") == h2.PROTOCOL, f"{name}: {got}"
            c.close()


# ---- gRPC and protobuf ---------------------------------------------------------------------------------------------


def grpc_calls(case):
    def status(name, counter, want, fields, data=b"", text=None, **more):
        with case(name, counter) as told:
            c = Client(TARGET)
            got, body = c.call(fields, data, **more)
            told.append(f"grpc-status {got.get('grpc-status')} {got.get('grpc-message')!r}")
            assert got.get(":status") == "200" and got.get("content-type") == "application/grpc", f"{name}: {got}"
            assert got.get("grpc-status") == str(want) and body == b"", f"{name}: status {want} was due, got {got} {body[:40]}"
            assert text is None or re.search(text, got.get("grpc-message", "")), f"{name}: {text!r} was due, got {got}"
            assert c.call(call_of(ECHO), message(field(1, 2, b"ok")))[0].get("grpc-status") == "0", "the connection did not go on"
            c.close()

    def plain(name, want, fields, **more):
        with case(name, "grpc.http_requests") as told:
            c = Client(TARGET)
            got, _ = c.call(fields, **more)
            told.append(f":status {got.get(':status')}")
            assert got.get(":status") == str(want) and "grpc-status" not in got, f"{name}: {want} was due, got {got}"
            c.close()

    bad, none = "grpc.calls_malformed", "grpc.calls_unimplemented"
    status("unknown service", "balance.unknown_service", UNIMPLEMENTED, call_of("/no.such.Service/Do"), message(b""), "unknown service")
    status("unknown method", "balance.unknown_method", UNIMPLEMENTED, call_of("/split.examples.Echo/Nothing"), message(b""), "unknown method")
    status("service without a host", "balance.no_endpoint", UNAVAILABLE, call_of("/grpc.testing.TestService/UnaryCall"), message(b""), "no host")
    for path in ("/", "//", "/x", "/split.examples.Echo/", "//Unary"):
        status(f"path {path!r}", none, UNIMPLEMENTED, call_of(path), message(b""))
    status("prefix cut short", bad, INTERNAL, call_of(ECHO), b"\0\0\0", "inside a message")
    status("message cut short", bad, INTERNAL, call_of(ECHO), message(b"abc", length=100), "inside a message")
    status("no message", bad, INTERNAL, call_of(ECHO), b"", "no request message")
    status("no message, headers alone", bad, INTERNAL, call_of(ECHO), headers_end=True)
    status("message of 4 GiB", "grpc.rx_messages_over", RESOURCE_EXHAUSTED, call_of(ECHO), message(b"x", length=0xFFFFFFFF), "larger")
    status("message of 4 MiB and a byte", "grpc.rx_messages_over", RESOURCE_EXHAUSTED, call_of(ECHO), message(bytes((4 << 20) + 1)),
           r"4194305 vs\. 4194304 bytes")
    status("compressed flag without encoding", bad, INTERNAL, call_of(ECHO), message(b"", flag=1), "compressed")
    status("flags that do not exist", bad, INTERNAL, call_of(ECHO), message(b"", flag=0x82), "flags")
    status("encoding nobody knows", none, UNIMPLEMENTED, call_of(ECHO, ("grpc-encoding", "zip")), message(b"abc", flag=1), "encoding")
    for value in ("", "5", "S", "-1S", "1.5S", "123456789S", "1 S", "1x", "1SS", "99999999999999999999H"):
        status(f"grpc-timeout {value!r}", bad, INTERNAL, call_of(ECHO, ("grpc-timeout", value)), message(b""), "timeout")
    status("grpc-timeout of 0", "grpc.calls_deadline", DEADLINE, call_of(ECHO, ("grpc-timeout", "0n")), message(b""))
    status("-bin that is no base64", bad, INTERNAL, call_of(ECHO, ("x-bin", "a?b=")), message(b""), "base64")
    status("metadata of 12 KiB", "grpc.rx_metadata_over", RESOURCE_EXHAUSTED, call_of(ECHO, ("x", "y" * 12000)), message(b""), "metadata")
    status("metadata of 40 KiB", "http2.headers_over", RESOURCE_EXHAUSTED, call_of(ECHO, ("x", "y" * 40000)), message(b""), "metadata")
    status("300 fields", "http2.headers_over", RESOURCE_EXHAUSTED, call_of(ECHO, *[(f"x-{i}", "y") for i in range(300)]), message(b""))
    post = h2.POST[:2] + ((":path", ECHO),) + h2.POST[3:]
    for kind in ("application/json", "application/grpc-web", "application/grpcx", ""):
        plain(f"content-type {kind!r}", 415, post + (("content-type", kind),))
    plain("no content-type", 415, post)
    plain("GET", 404, h2.GET, headers_end=True)
    plain("gRPC by PUT", 405, ((":method", "PUT"),) + call_of(ECHO)[1:])
    plain("header list of 40 KiB", 431, h2.GET + (("x", "y" * 40000),), headers_end=True)

    wrong = "worker.decode_errors"
    for name, body, text in (
            ("tag cut short", b"\x80", "inside a field"), ("varint cut short", field(2, 0) + b"\xff\xff", "inside a field"),
            ("varint of 11 bytes", field(2, 0) + b"\xff" * 10 + b"\x01", "varint"), ("length past the end", b"\x0a\x7fabc", "inside"),
            ("length of 2^32-1", b"\x0a\xff\xff\xff\xff\x0fabc", None), ("length of 2^63", b"\x0a" + b"\xff" * 9 + b"\x01", "varint"),
            ("field 0", b"\x00\x01", "field number 0"), ("field above 2^29", b"\xf8\xff\xff\xff\x7f\x01", None),
            ("wire type 6", b"\x0e\x01", "wire type"), ("wire type 7", b"\x0f\x01", "wire type"),
            ("fixed32 cut short", field(9, 5) + b"abc", "inside"), ("group without end", field(9, 3), None),
            ("end without group", field(9, 4), "group"), ("another group's end", field(9, 3) + field(8, 4), "group"),
            ("groups 200 deep", field(9, 3) * 200 + field(9, 4) * 200, "deep"), ("groups 500,000 deep", field(9, 3) * 500000, "deep")):
        status(f"protobuf: {name}", wrong, INTERNAL, call_of(ECHO), message(body), text)
    # Another wire type than the field's is an unknown field (as in C++), and the echo knows nothing of it.
    for name, body in (("payload as a varint", field(1, 0) + b"\x05"), ("number as bytes", field(2, 2, b"abc"))):
        with case(f"protobuf: {name}", "grpc.calls_ok") as told:
            c = Client(TARGET)
            got, reply = c.call(call_of(ECHO), message(body))
            told.append(f"grpc-status {got.get('grpc-status')}, an empty echo")
            assert got.get("grpc-status") == "0" and reply == message(b""), f"{name}: {got} {reply[:40]}"
            c.close()
    status("protobuf: not UTF-8", wrong, INTERNAL, call_of(HELLO), message(field(1, 2, b"a\xc0\xafb")), "UTF-8")
    status("protobuf: UTF-8 surrogate", wrong, INTERNAL, call_of(HELLO), message(field(1, 2, b"\xed\xa0\x80")), "UTF-8")


def grpc_random(case, rng, count):
    """Random messages and random frames: every call gets a status, every connection an end or an answer."""
    with case(f"{count} random messages", "worker.decode_errors", by=count // 4):
        c = Client(TARGET)
        for _ in range(count):
            body = b"".join(rng.choice((rng.randbytes(rng.randrange(1, 9)), varint(rng.getrandbits(rng.randrange(1, 64))), field(1, 2, b"x")))
                            for _ in range(rng.randrange(1, 6)))
            got, _ = c.call(call_of(HELLO), message(body))  # not Echo, which such dice would make spin for an hour
            assert got.get("grpc-status") in ("0", "13"), got
        c.close()
    with case(f"{count} connections of random frames", "http2.sessions_failed", by=count // 8):
        for _ in range(count):
            c = Client(TARGET)
            c.send(b"".join(h2.frame(rng.randrange(11), rng.choice((0, 1, 4, 5, 8, 0x20, rng.randrange(256))), rng.choice((0, 1, 1, 3, rng.getrandbits(31))),
                                     rng.choice((b"", rng.randbytes(4), rng.randbytes(8), h2.block(*call_of(ECHO)), rng.randbytes(200))))
                            for _ in range(rng.randrange(1, 12))))
            c.sock.shutdown(socket.SHUT_WR)
            while c.read() is not None:
                pass
            c.close()


def stock_clients(case, bed):
    """What a stock client is told of the same."""
    script = f"""
import grpc
c = grpc.insecure_channel("{bed.target}", options=[("grpc.max_send_message_length", -1)])
def code(path, body=b"", **more):
    try:
        c.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)(body, timeout=60, **more)
        return "OK"
    except grpc.RpcError as e:
        return e.code().name
print(code("{ECHO}", bytes(5 << 20)), code("/no.such.Service/Do"), code("/split.examples.Echo/No"), code("/grpc.testing.TestService/UnaryCall"),
      code("{ECHO}", bytes([255])), code("{ECHO}", metadata=[("x", "y" * 9000)]), code("{ECHO}", metadata=[("x", " padded ")]), code("{ECHO}"))
"""
    with case("grpcio", "grpc.rx_messages_over", "balance.unknown_service", "worker.decode_errors") as told:
        done = subprocess.run(bed.inside(["/usr/bin/python3", "-c", script]), capture_output=True, text=True, timeout=300)
        told.append(done.stdout.strip())
        want = ["RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "UNIMPLEMENTED", "UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "OK", "OK"]
        assert done.stdout.split() == want, f"{done.stdout}{done.stderr}"


# ---- the attach socket ---------------------------------------------------------------------------------------------


def attach(case, bed, rng):
    def nonsense(name, counter, *packets, fds=()):
        before = len(bed.log_text())
        with case(f"attach: {name}", counter) as told:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect(str(bed.socket))
            for p in packets:
                with contextlib.suppress(OSError):
                    socket.send_fds(s, [p], list(fds)) if fds else s.send(p)
            s.settimeout(30)
            with contextlib.suppress(OSError):
                while s.recv(65536):
                    pass
            s.close()
            line = wait_until(lambda: [x for x in bed.log_text()[before:].splitlines() if "attach" in x], 30, f"{name}: a line that says why")
            told.append(line[-1].strip())

    refused = "control.attach_refused_protocol"
    nonsense("random bytes", refused, rng.randbytes(200))
    nonsense("one byte", refused, b"x")
    nonsense("a long packet", refused, rng.randbytes(60000))
    with open("/dev/null") as null:
        nonsense("descriptors nobody asked for", refused, rng.randbytes(64), fds=[null.fileno()] * 8)


# ---- the end -------------------------------------------------------------------------------------------------------


def drain(bed, steady):
    """SIGTERM with calls in handlers and in queues: all of them finish OK, and splitd ends with 0."""
    calls, c = 12, Client(TARGET)
    streams = [c.open(call_of(ECHO), message(field(1, 2, bytes([i])) + field(3, 0) + varint(100000))) for i in range(calls)]
    wait_until(lambda: bed.counters()["worker.gauge_calls"] >= calls, 30, "the calls are open")
    bed.splitd.send_signal(signal.SIGTERM)
    ended, goaways = {}, 0
    while (got := c.read()) is not None:
        kind, flags, stream, payload = got
        if kind == h2.GOAWAY:
            goaways += 1
            assert int.from_bytes(payload[4:8], "big") == h2.NO_ERROR, got
        elif kind == h2.PING and not flags & h2.ACK:
            c.send(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.HEADERS:
            ended.setdefault(stream, {}).update(c.inflater.fields(payload))
    assert [ended.get(s, {}).get("grpc-status") for s in streams] == ["0"] * calls, f"calls that ran were cut off: {ended}"
    assert goaways >= 1, "no GOAWAY"
    status = bed.splitd.wait(40)
    assert status == 0, f"splitd ended with {status}"
    steady.send_signal(signal.SIGTERM)
    print(f"SIGTERM: {calls} calls that ran finished OK, {goaways} GOAWAYs, exit {status}; the steady client: {steady.communicate(timeout=90)[0].strip()}")


def main():
    build, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    need_kernel("af_packet")
    print(f"seed {seed}")
    rng = random.Random(seed)
    # PINGs are how the forged segments' connection shows that it lives: more of them than gRPC's rule allows.
    config = demo_config()
    config.setdefault("http2", {})["ping_strikes_max"] = 0
    with Bed(build, config) as bed:
        bed.splitd_start()
        bed.host_start("echo")
        bed.host_start("greeter", "greeter")
        assert bed.probe() and bed.probe("greeter")
        enter_netns(bed.netns)
        for device, mtu in (("cl0", 1504),):  # so that one frame may be too long
            subprocess.run(["ip", "link", "set", device, "mtu", str(mtu)], check=True)
        us, them = (mac(socket_mac(name)) for name in ("sd0", "cl0"))
        load = lambda: bed.start([ROOT / "tests/e2e/steady_load.py", bed.target, "--at-once", "4", "--timeout", "60"], stdout=subprocess.PIPE, text=True)
        steady = load()
        assert steady.stdout.readline().startswith("loading")
        case, wire = Case(bed, steady), Wire("cl0")
        sections = {
            "frames": lambda: frames(case, wire, us, them),
            "frames_random": lambda: frames_random(case, wire, us, them, rng, 4000),
            "tcp_forged": lambda: tcp_forged(case, wire, us, them),
            "http2": lambda: http2(case),
            "grpc_calls": lambda: grpc_calls(case),
            "grpc_random": lambda: grpc_random(case, rng, 200),
            "stock_clients": lambda: stock_clients(case, bed),
            "attach": lambda: attach(case, bed, rng),
        }
        for name, section in sections.items():
            if name in (sys.argv[3:] or sections):
                section()
        steady.send_signal(signal.SIGTERM)
        saw = json.loads(steady.communicate(timeout=90)[0])
        bad = {k: v for k, v in saw.items() if k not in ("OK", "calls", "slowest_s") and v}
        print(f"{case.count} cases; the steady client: {saw}")
        assert saw["OK"] > 0 and not bad, f"the steady client saw {bad}"
        settled(bed, 60)
        again = load()
        assert again.stdout.readline().startswith("loading")
        drain(bed, again)


def socket_mac(device):
    text = subprocess.run(["ip", "-j", "link", "show", device], capture_output=True, text=True, check=True).stdout
    return json.loads(text)[0]["address"]


main()
