#!/usr/bin/python3
"""Stock Python client for splitd's examples: grpcpp_client.cc's twin, same options, same rows.

Drives `split.examples.Echo/Unary` (or `Greeter/SayHello`) and checks every answer byte for byte.
Prints a table, or with --json one object `{"rows": [...]}`. Exit status 1 when any call failed.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
# (bytes, at a time, connections): the matrix of the demo. 4 MiB - 64 leaves room for the message's own framing.
LARGEST = 4 * 1024 * 1024 - 64
MATRIX = [(b, n, c) for b in (0, 64, 1024, 48 * 1024, 476 * 1024, LARGEST)
          for n in ((1, 4) if b == LARGEST else (1, 64)) for c in (1, 16)]


def load_protos():
    """Python classes of the examples' .proto files, made by protoc into a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as out:
        for name in ("echo", "greeter"):
            folder = ROOT / "examples" / name
            subprocess.run(["protoc", f"-I{folder}", f"--python_out={out}", f"{name}.proto"], check=True)
        sys.path.insert(0, out)
        try:
            import echo_pb2
            import greeter_pb2
        finally:
            sys.path.remove(out)
    return echo_pb2, greeter_pb2


def pattern(size, seed):
    """`size` bytes that differ from call to call, cheap to make."""
    block = bytes((seed * 31 + i * 7) & 0xFF for i in range(256))
    return (block * (size // 256 + 1))[:size]


class Load:
    """Keeps `at_once` calls in flight until `calls` are done; every answer is judged by `check`."""

    def __init__(self, methods, at_once, calls, timeout):
        self.methods, self.at_once, self.calls, self.timeout = methods, at_once, calls, timeout
        self.lock = threading.Lock()
        self.next, self.latencies, self.failures = 0, [], []

    def worker(self):
        while True:
            with self.lock:
                number = self.next
                self.next += 1
            if number >= self.calls:
                return
            invoke, request, check = self.methods(number)
            begin = time.perf_counter_ns()
            try:
                answer = invoke(request, timeout=self.timeout)
                wrong = check(answer)
            except grpc.RpcError as e:
                wrong = f"{e.code().name}: {e.details()}"
            took = time.perf_counter_ns() - begin
            with self.lock:
                self.latencies.append(took)
                if wrong:
                    self.failures.append(f"call {number}: {wrong}")

    def run(self):
        threads = [threading.Thread(target=self.worker) for _ in range(min(self.at_once, self.calls))]
        begin = time.perf_counter()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return time.perf_counter() - begin


def row_of(size, at_once, connections, load, seconds):
    ordered = sorted(load.latencies)
    at = lambda q: ordered[min(len(ordered) - 1, int(q * len(ordered)))]
    return {"client": "grpcio", "bytes": size, "at_once": at_once, "connections": connections,
            "calls": len(ordered), "errors": len(load.failures), "first_error": (load.failures or [None])[0],
            "calls_per_s": len(ordered) / seconds, "p50_ns": at(0.5), "p99_ns": at(0.99)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--example", choices=("echo", "greeter"), default="echo")
    parser.add_argument("--calls", type=int, default=0, help="calls for each row (default: by size)")
    parser.add_argument("--bytes", type=int, help="one row of this size only")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    echo_pb2, greeter_pb2 = load_protos()
    matrix = MATRIX if args.bytes is None else [(args.bytes, args.at_once, args.connections)]
    if args.example == "greeter":
        matrix = [(0, n, c) for n in (1, 64) for c in (1, 16)]
    rows = []
    for size, at_once, connections in matrix:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(args.target, options=options) for _ in range(connections)]
        if args.example == "echo":
            stubs = [c.unary_unary("/split.examples.Echo/Unary",
                                   request_serializer=echo_pb2.EchoMessage.SerializeToString,
                                   response_deserializer=echo_pb2.EchoMessage.FromString) for c in channels]

            def methods(number, size=size, stubs=stubs):
                sent = pattern(size, number)
                return (stubs[number % len(stubs)], echo_pb2.EchoMessage(payload=sent),
                        lambda a: None if a.payload == sent else f"{len(a.payload)} bytes came back, other than the {size} sent")
        else:
            stubs = [c.unary_unary("/split.examples.Greeter/SayHello",
                                   request_serializer=greeter_pb2.HelloRequest.SerializeToString,
                                   response_deserializer=greeter_pb2.HelloReply.FromString) for c in channels]

            def methods(number, stubs=stubs):
                name = f"caller {number}"
                return (stubs[number % len(stubs)], greeter_pb2.HelloRequest(name=name),
                        lambda a: None if name in a.message else f"unexpected greeting {a.message!r}")
        calls = args.calls or max(at_once, connections) * (4 if size < 100000 else 1) + (64 if size < 100000 else 0)
        load = Load(methods, at_once, calls, args.timeout)
        seconds = load.run()
        for c in channels:
            c.close()
        rows.append(row_of(size, at_once, connections, load, seconds))
        if not args.json:
            r = rows[-1]
            if len(rows) == 1:
                print(f"{'client':8} {'bytes':>8} {'at once':>7} {'conns':>5} {'calls':>6} {'errors':>6} {'calls/s':>9} {'p50 us':>9} {'p99 us':>9}")
            print(f"{r['client']:8} {size:8} {at_once:7} {connections:5} {r['calls']:6} {r['errors']:6} "
                  f"{r['calls_per_s']:9.0f} {r['p50_ns'] / 1e3:9.0f} {r['p99_ns'] / 1e3:9.0f}", flush=True)
            if r["first_error"]:
                print(f"  {r['first_error']}")
    if args.json:
        print(json.dumps({"rows": rows}))
    sys.exit(1 if any(r["errors"] for r in rows) else 0)


main()
