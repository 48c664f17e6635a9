#!/usr/bin/python3
"""Calls without a pause until SIGTERM, each judged on its own; what the tests of death and return listen to.

usage: steady_load.py TARGET [--at-once N] [--bytes N,N,…] [--timeout S] [--busy-us N]

Prints `loading`, and one JSON object at the end: {"calls", "OK", "<status>": n, ..., "wrong": n, "slowest_s"}. A call that
came back with OK and other bytes than were sent is "wrong"; one that its own deadline ended is DEADLINE_EXCEEDED, which no
test here allows: it would be a call that splitd forgot. What was said with other statuses goes to standard error.
"""
import argparse
import collections
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--bytes", default="0,64,1000,5000,50000")
    parser.add_argument("--timeout", type=float, default=20)
    parser.add_argument("--busy-us", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["protoc", f"-I{ROOT}/examples/echo", f"--python_out={out}", "echo.proto"], check=True)
        sys.path.insert(0, out)
        import echo_pb2
    sizes = [int(b) for b in args.bytes.split(",")]
    stop, lock = threading.Event(), threading.Lock()
    outcome, slowest, details = collections.Counter(), [0.0], {}
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    def caller(number):
        # min_reconnect_backoff is also the time a connection attempt may take: a busy machine needs more than a little.
        # Keepalive: a splitd that is killed takes its TCP with it, so nobody resets a connection on which the client
        # only waits; as after a power failure, the client has to ask.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50),
                   ("grpc.keepalive_time_ms", 10000), ("grpc.keepalive_timeout_ms", 20000),
                   ("grpc.min_reconnect_backoff_ms", 10000), ("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_retries", 0)]
        channel = grpc.insecure_channel(args.target, options=options)
        call = channel.unary_unary("/split.examples.Echo/Unary", request_serializer=echo_pb2.EchoMessage.SerializeToString,
                                   response_deserializer=echo_pb2.EchoMessage.FromString)
        n = number
        while not stop.is_set():
            n += 1
            sent = bytes([n & 0xFF]) * sizes[n % len(sizes)]
            begin, text = time.monotonic(), None
            try:
                answer = call(echo_pb2.EchoMessage(payload=sent, busy_us=args.busy_us), timeout=args.timeout)
                status = "OK" if answer.payload == sent else "wrong"
            except grpc.RpcError as e:
                status, text = e.code().name, e.details()
            took = time.monotonic() - begin
            with lock:
                outcome[status] += 1
                slowest[0] = max(slowest[0], took)
                if text is not None:
                    details.setdefault(status, collections.Counter())[text[:100]] += 1
            if status != "OK":
                time.sleep(0.02)
        channel.close()

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(args.at_once)]
    for t in threads:
        t.start()
    print("loading", flush=True)
    for t in threads:
        t.join()
    print(json.dumps({"calls": sum(outcome.values()), "slowest_s": slowest[0], "OK": 0, "wrong": 0, **outcome}), flush=True)
    for status, texts in details.items():
        print(f"{status}: {dict(texts.most_common(8))}", file=sys.stderr)


main()
