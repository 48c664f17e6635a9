#!/usr/bin/python3
"""Each kind of call of split.examples.Echo with stock grpcio, with good messages and with bytes that are none.

usage: placement_client.py TARGET. Prints one JSON object: what the client saw. It must not depend on who decodes and encodes.
"""
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load_proto():
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["protoc", f"-I{ROOT / 'examples/echo'}", f"--python_out={out}", "echo.proto"], check=True)
        sys.path.insert(0, out)
        try:
            import echo_pb2
        finally:
            sys.path.remove(out)
    return echo_pb2


Echo = load_proto().EchoMessage
SIZES = (0, 1, 60, 124, 300, 509, 5000, 70000, 300000)
# Truncated, no wire type, a group that never ends, field 0, a varint too long; an unknown field, which is good.
BYTES = {"truncated": b"\x0a\x05ab", "wire type 7": b"\x0f", "open group": b"\x0b\x08\x01", "field 0": b"\x00\x01",
         "long varint": b"\x10" + b"\xff" * 10 + b"\x01", "unknown field": b"\x0a\x02ok\xfa\x7f\x03xyz",
         "large and truncated": b"\x0a\xff\xff\x7f" + bytes(100000), "large, wire type 7": b"\x0f" * 200000}


def pattern(size, seed):
    block = bytes((seed * 31 + i * 7) & 0xFF for i in range(256))
    return (block * (size // 256 + 1))[:size]


def digest(messages):
    h = hashlib.sha256()
    for m in messages:
        h.update(len(m).to_bytes(4, "big") + m)
    return h.hexdigest()[:16]


def result(fn):
    try:
        return fn()
    except grpc.RpcError as e:
        return f"{e.code().name}: {e.details()}"


def good(call, **more):
    """Every kind with every size; an exception is the caller's."""
    seen = {}
    for i, size in enumerate(SIZES):
        message = Echo(payload=pattern(size, i)).SerializeToString()
        asks = Echo(reply_bytes=size, replies=3).SerializeToString()
        seen[f"unary {size}"] = digest([call["Unary"](message, timeout=60, **more)])
        seen[f"reply {size}"] = digest([call["Unary"](asks, timeout=60, **more)])
        seen[f"server {size}"] = digest(call["Server"](asks, timeout=60, **more))
        seen[f"client {size}"] = digest([call["Client"](iter([message] * 3), timeout=60, **more)])
        seen[f"bidi {size}"] = digest(call["Bidi"](iter([message, b"", message]), timeout=60, **more))
    return seen


def main():
    channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.max_receive_message_length", 8 << 20)])
    kinds = {"Unary": "unary_unary", "Client": "stream_unary", "Server": "unary_stream", "Bidi": "stream_stream"}
    call = {name: getattr(channel, kind)(f"/split.examples.Echo/{name}") for name, kind in kinds.items()}
    fine = Echo(payload=b"fine").SerializeToString()
    seen = good(call)
    seen["compressed"] = good(call, compression=grpc.Compression.Gzip) == seen
    for name, raw in BYTES.items():
        seen[f"unary, {name}"] = result(lambda: digest([call["Unary"](raw, timeout=60)]))
        seen[f"server, {name}"] = result(lambda: digest(call["Server"](raw, timeout=60)))
        seen[f"client, {name}"] = result(lambda: digest([call["Client"](iter([fine, raw, fine]), timeout=60)]))
        seen[f"bidi, {name}"] = result(lambda: len(digest(call["Bidi"](iter([fine, raw, fine]), timeout=60))) > 0)
    slow = Echo(payload=b"late", sleep_us=2000000).SerializeToString()
    seen["deadline"] = result(lambda: digest([call["Unary"](slow, timeout=0.3)])).split(":")[0]
    seen["too large an answer"] = result(lambda: digest([call["Unary"](Echo(reply_bytes=2 << 20).SerializeToString(), timeout=60)]))
    print(json.dumps(seen))


main()
