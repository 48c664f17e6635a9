#!/usr/bin/python3
"""Calls to a method that may answer anything, until SIGTERM: what a hostile host's own clients see.

usage: any_load.py TARGET /PACKAGE.SERVICE/METHOD [--at-once N] [--bytes N,N,…] [--timeout S]

Prints one JSON object at the end: statuses and their counts. Each call ends, at the latest by its deadline.
"""
import argparse
import collections
import json
import signal
import threading
import time

import grpc


def field_one(payload):
    """A message whose field 1 is `payload`."""
    n, head = len(payload), bytearray([0x0A])
    while n > 127:
        head.append(n & 127 | 128)
        n >>= 7
    head.append(n)
    return bytes(head) + payload


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("method")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--bytes", default="0,64,1000,5000")
    parser.add_argument("--timeout", type=float, default=1)
    args = parser.parse_args()
    sizes = [int(b) for b in args.bytes.split(",")]
    stop, lock, outcome = threading.Event(), threading.Lock(), collections.Counter()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def caller(number):
        channel = grpc.insecure_channel(args.target, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])
        call = channel.unary_unary(args.method, request_serializer=None, response_deserializer=None)
        n = number
        while not stop.is_set():
            n += 1
            try:
                call(field_one(bytes(sizes[n % len(sizes)])), timeout=args.timeout)
                status = "OK"
            except grpc.RpcError as e:
                status = e.code().name
            with lock:
                outcome[status] += 1
            if status == "UNAVAILABLE":
                time.sleep(0.005)
        channel.close()

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(args.at_once)]
    for t in threads:
        t.start()
    print("loading", flush=True)
    for t in threads:
        t.join()
    print(json.dumps({"calls": sum(outcome.values()), **outcome}))


main()
