#!/usr/bin/python3
"""The honest client beside an attack: calls without a pause, each judged on its own.

usage: honest.py ADDRESS:PORT [CALLERS [CA NAME]]      with CA over TLS, to a server of that name

Says `calling` once every caller has had an answer. For each line on standard input it prints what the calls since the last one
came to, {"calls", "<status>": n, "wrong": n, "p50_ms", "p99_ms", "slowest_ms"}, and ends with the input. A caller in two has a
connection of its own, so that connections come while attacks go on: it opens a new one for every eighth call.
"""
import collections
import json
import pathlib
import sys
import threading
import time

import grpc

from attacker import ECHO, varint

SIZES = (0, 64, 1000, 5000, 50000, 300000)


def message(payload):
    return b"\x0a" + varint(len(payload)) + payload if payload else b""


def channel(target):
    # The first connection may have to wait behind an attack's handshakes: that is slow, not wrong.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.min_reconnect_backoff_ms", 20000)]
    if len(sys.argv) <= 3:
        return grpc.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(pathlib.Path(sys.argv[3]).read_bytes())
    return grpc.secure_channel(target, credentials, options + [("grpc.ssl_target_name_override", sys.argv[4])])


class Honest:
    def __init__(self, target, callers):
        self.target, self.lock, self.stop = target, threading.Lock(), threading.Event()
        self.begun = threading.Semaphore(0)
        self.clear()
        self.threads = [threading.Thread(target=self.caller, args=(i,)) for i in range(callers)]
        for t in self.threads:
            t.start()
        for _ in self.threads:
            self.begun.acquire()

    def clear(self):
        self.outcome, self.took, self.texts = collections.Counter(), [], set()

    def caller(self, number):
        n, opened = number, channel(self.target)
        while not self.stop.is_set():
            n += 1
            if number % 2 and n % 8 == 0:
                opened.close()
                opened = channel(self.target)
            sent = message(bytes([n & 0xFF]) * SIZES[n % len(SIZES)])
            begin = time.monotonic()
            text = None
            try:
                answer = opened.unary_unary(ECHO)(sent, timeout=60, wait_for_ready=True)
                status = "OK" if answer == sent else "wrong"
            except grpc.RpcError as e:
                status, text = e.code().name, e.details()
            with self.lock:
                self.outcome[status] += 1
                self.took.append(time.monotonic() - begin)
                if text:
                    self.texts.add(text[:200])
            if n - number == 1:
                self.begun.release()
        opened.close()

    def mark(self):
        with self.lock:
            took, outcome, texts = sorted(self.took), dict(self.outcome), sorted(self.texts)
            self.clear()
        at = lambda part: round(took[int(part * (len(took) - 1))] * 1000, 1) if took else None
        out = {"calls": len(took), **outcome, "p50_ms": at(0.5), "p99_ms": at(0.99), "slowest_ms": at(1)}
        return out | ({"said": texts[:4]} if texts else {})


def main():
    honest = Honest(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4)
    print("calling", flush=True)
    for _ in sys.stdin:
        print(json.dumps(honest.mark()), flush=True)
    honest.stop.set()
    for t in honest.threads:
        t.join()


main()
