#!/usr/bin/python3
"""Refused messages in the log: one line of JSON for each, that says whose, where and why, and what was good of it.

usage: refused_test.py BUILD

splitd on a veth, an echo and a greeter host, and grpcio as the client, which sends what no generated code would: bad UTF-8,
truncated messages, messages past the limit; and asks for an answer past what may be sent. Off, on by a reload, off again.
"""
import copy
import json
import sys

import grpc

from bed import CLIENT, TCP_PORT, ADDRESS, Bed, demo_config, settled
from raw_frames import enter_netns
from raw_grpc import field, varint
from served import need_kernel, wait_until

ECHO, HELLO = "/split.examples.Echo/Unary", "/split.examples.Greeter/SayHello"
RECORD = ("refused", "peer", "host", "method", "error", "text", "status", "bytes", "at", "field", "hex", "cut", "message")


def lines(bed):
    """The records in the log, each as (worker, record)."""
    found = []
    # The last line may be half written.
    for line in bed.log_text().split("\n")[:-1]:
        head, brace, rest = line.partition(' {"refused":')
        if brace:
            assert line.isprintable() and line.isascii(), line
            assert " warn " in head and "worker " in head, line
            found.append(json.loads(brace + rest))
    return found


class Checker:
    def __init__(self, bed, channel):
        self.bed, self.channel, self.seen = bed, channel, 0

    def call(self, path, wire):
        call = self.channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            return grpc.StatusCode.OK, call(wire, timeout=60)
        except grpc.RpcError as e:
            return e.code(), None

    def refused(self, name, path, wire, status, **want):
        code, _ = self.call(path, wire)
        assert code.value[0] == status, f"{name}: {code}"
        found = wait_until(lambda: lines(self.bed)[self.seen:], 60, f"{name}: a line in the log")
        assert len(found) == 1, f"{name}: {found}"
        self.seen += 1
        got = found[0]
        assert not set(got) - set(RECORD), f"{name}: {got}"
        want = {"refused": "request", "method": path, "status": status, "host": "echo" if path == ECHO else "greeter", **want}
        for key, value in want.items():
            assert got.get(key) == value, f"{name}: {key} is {got.get(key)!r}, expected {value!r}: {got}"
        address, _, port = got["peer"].rpartition(":")
        assert address == CLIENT and 0 < int(port) < 65536, got
        print(f"{name}: {json.dumps(got)[:400]}", flush=True)
        return got

    def reload(self, config):
        status, said = self.bed.reload(config)
        assert status == 0, said
        # The worker takes it at the begin of a turn: one that went through its turns since then has.
        for _ in range(2):
            assert self.call(ECHO, echo(b"turn"))[0] == grpc.StatusCode.OK

    def silent(self, name, path, wire, status):
        code, _ = self.call(path, wire)
        assert code.value[0] == status, f"{name}: {code}"


def echo(payload, reply_bytes=0):
    return field(1, 2, payload) + (field(2, 0) + varint(reply_bytes) if reply_bytes else b"")


def main():
    build = sys.argv[1]
    need_kernel("af_packet")
    config = demo_config()
    config["log"].update(refused_rate=10000, refused_bytes="1KiB")
    on = copy.deepcopy(config)
    for service in on["services"][:2]:
        service["log_refused"] = True
    on["services"][1]["limits"] = {"send_message_bytes_max": "64KiB"}
    bad = field(1, 2, b"caf\xe9")  # Latin-1
    with Bed(build, config) as bed:
        bed.splitd_start()
        bed.host_start("echo")
        bed.host_start("greeter", "greeter")
        assert bed.probe() and bed.probe("greeter")
        enter_netns(bed.netns)
        with grpc.insecure_channel(f"{ADDRESS}:{TCP_PORT}", options=[("grpc.max_send_message_length", -1)]) as channel:
            c = Checker(bed, channel)
            # Off, as it is by itself: nothing of what clients send is in the log.
            c.silent("off: bad UTF-8", HELLO, bad, 13)
            assert bed.counters()["worker.refused_logged"] == 0
            c.reload({**on, **{k: bed.config[k] for k in ("eal", "ports", "control")}})
            checks(bed, c, bad)
            # ... and off again.
            c.reload(bed.config)
            before = bed.counters()["worker.refused_logged"]
            c.silent("off again: bad UTF-8", HELLO, bad, 13)
            now = bed.counters()
            assert now["worker.refused_logged"] == before and now["worker.refused_no_room"] == 0, now
            assert len(lines(bed)) == c.seen
            assert c.call(ECHO, echo(b"alive")) == (grpc.StatusCode.OK, echo(b"alive"))
        settled(bed)
        assert bed.splitd_stop() == 0
        assert len(lines(bed)) == c.seen, "lines at the end that nobody asked for"


def checks(bed, c, bad):
    got = c.refused("bad UTF-8", HELLO, bad, 13, error="LINEARIZE_UTF8", at=0, field="name", bytes=len(bad), message={},
                    hex=bad.hex())
    assert "UTF-8" in got["text"], got
    c.refused("truncated", ECHO, field(2, 0) + varint(9) + field(1, 2, b"abcdef")[:4], 13, error="LINEARIZE_TRUNCATED", at=2,
              field="payload", bytes=6, message={"replyBytes": 9}, hex="0a066162")
    long = field(1, 2, b"x" * 20000)
    got = c.refused("truncated, past what is kept", ECHO, field(2, 0) + varint(7) + long + b"\x18", 13,
                    error="LINEARIZE_TRUNCATED", at=2 + len(long), bytes=3 + len(long), cut=True, message={"replyBytes": 7})
    assert "field" not in got and "hex" not in got, got
    c.refused("wire type 7", ECHO, b"\x17", 13, error="LINEARIZE_WIRE_RESERVED", at=0, message={}, hex="17")
    got = c.refused("over the limit", ECHO, echo(b"y" * (5 << 20)), 8, error="LINEARIZE_LIMIT_WIRE")
    assert got["bytes"] > 5 << 20 and "message" not in got and "hex" not in got, got
    got = c.refused("an answer over the limit", ECHO, echo(b"", 100000), 8, refused="answer", error="LINEARIZE_LIMIT_WIRE",
                    cut=True)
    import base64
    shown = base64.b64decode(got["message"]["payload"])
    assert len(shown) > 300 and shown == bytes(i & 0xff for i in range(len(shown))), got
    assert len(json.dumps(got["message"])) <= 1024 + 64, len(json.dumps(got["message"]))
    # The host's memory came back: it answers on and on.
    for i in range(200):
        assert c.call(ECHO, echo(b"", 60000))[0] == grpc.StatusCode.OK, i
    # What cannot be seen by a client's own code: the log has it in one line, escaped.
    c.refused("control characters", HELLO, field(1, 2, b"a\n\x7f\"{") + b"\xff", 13, error="LINEARIZE_TRUNCATED",
              message={"name": 'a\n\x7f"{'}, hex="ff")


main()
