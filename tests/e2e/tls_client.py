#!/usr/bin/python3
"""Calls over TLS by stock grpcio, for tls_test.py. Prints what came of them as JSON: {"OK": 50}."""
import argparse
import collections
import json
import pathlib
import time

import grpc

p = argparse.ArgumentParser()
p.add_argument("target")
p.add_argument("--ca", required=True)
p.add_argument("--name")
p.add_argument("--cert")
p.add_argument("--key")
p.add_argument("--calls", type=int, default=1)
p.add_argument("--seconds", type=float, default=0, help="instead of --calls")
p.add_argument("--fresh", action="store_true", help="beside the calls of one connection, some on a new one each")
p.add_argument("--bytes", type=int, default=10)
p.add_argument("--username", action="store_true", help="grpc.testing.TestService/UnaryCall with fill_username")
a = p.parse_args()

read = lambda name: pathlib.Path(name).read_bytes() if name else None
credentials = grpc.ssl_channel_credentials(read(a.ca), read(a.key), read(a.cert))
options = [("grpc.ssl_target_name_override", a.name), ("grpc.use_local_subchannel_pool", 1)] if a.name else []


def channel():
    return grpc.secure_channel(a.target, credentials, options)


def varint(n):
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


counts = collections.Counter()
message = bytes([10]) + varint(a.bytes) + b"x" * a.bytes


def one(ch):
    try:
        counts["OK" if ch.unary_unary("/split.examples.Echo/Unary")(message, timeout=20) == message else "wrong"] += 1
    except grpc.RpcError as e:
        counts[e.code().name] += 1


with channel() as main:
    if a.username:
        try:
            answer = main.unary_unary("/grpc.testing.TestService/UnaryCall")(bytes([0x20, 1]), timeout=20)
            # SimpleResponse{username = 2}
            print(json.dumps({"username": answer[2:2 + answer[1]].decode() if answer else ""}))
        except grpc.RpcError as e:
            print(json.dumps({e.code().name: 1}))
    else:
        end = time.monotonic() + a.seconds
        n = 0
        while time.monotonic() < end if a.seconds else n < a.calls:
            one(main)
            n += 1
            if a.fresh and n % 20 == 0:
                with channel() as new:
                    one(new)
        print(json.dumps(counts))
