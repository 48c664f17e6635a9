#!/usr/bin/python3
"""Bombs: messages that are small on the wire or in the segment and huge when decoded or walked, both ways.

usage: bomb_test.py BUILD SECONDS [SEED]

Each ends with its documented status (docs/LINEARIZE.md), honest calls of all sizes beside them stay right, and no turn of the
worker does more work than the quantum allows: judged by work units, never by time.
"""
import json
import random
import subprocess
import sys
import threading
import time

import grpc

from hostile_test import HERE, SERVICE, held, load_end, load_start, private_kib
from bed import Bed, demo_config, settled
from served import ROOT, need_kernel, wait_until

QUANTUM = 2048
ENDPOINTS = 3
SMALL_UNITS = 512  # CALL_SMALL_BYTES: at most, for each message decoded into its slot
LANE_SLOTS = 64
# daemon/worker/worker_internal.h, "work": two quanta of new work for each endpoint, two of old, and what goes into slots.
# A run may pass its quantum by the making of one struct (64 KiB: 256 units).
TURN_UNITS_MAX = (2 * ENDPOINTS + 2) * (QUANTUM + 256) + LANE_SLOTS * SMALL_UNITS


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def nested(levels):
    parts, length = [], 0
    for _ in range(levels):
        head = varint(2 << 3 | 2) + varint(length)
        parts.append(head)
        length += len(head)
    return b"".join(reversed(parts))


EXHAUSTED, INTERNAL, OK = "RESOURCE_EXHAUSTED", "INTERNAL", "OK"
MIB = 1 << 20
# What is sent to split.tests.Bomb, and what must come back.
INBOUND = {
    "4 MiB of empty sub-messages": (b"\x0a\x00" * (2 * MIB - 64), EXHAUSTED),
    "100,000 empty sub-messages": (b"\x0a\x00" * 100000, OK),
    "100 levels": (nested(100), OK),
    "101 levels": (nested(101), INTERNAL),
    "10,000 levels": (nested(10000), INTERNAL),
    "4 Mi packed numbers": (field(4, bytes(4 * MIB - 64)), EXHAUSTED),
    "500,000 packed numbers": (field(4, bytes(500000)), OK),
    "a million unpacked numbers in turn with empties": (b"\x20\x01\x0a\x00" * (MIB - 64), EXHAUSTED),
    "a length of 2 GiB": (b"\x0a\xff\xff\xff\xff\x07", INTERNAL),
    "200,000 children of an empty child each": (field(3, b"\x12\x00") * 200000, EXHAUSTED),
    "1 MiB of unknown fields": (b"\xf8\x07\x01" * (MIB // 3), EXHAUSTED),
    "100,000 unknown fields": (b"\xf8\x07\x01" * 100000, OK),
    "8 MiB": (field(4, bytes(8 * MIB)), EXHAUSTED),
}
# What hostile_host is asked to answer with (hostile_bomb.c), and what its client must see.
OUTBOUND = {
    "its own child": {INTERNAL}, "a thousand children, each itself": {EXHAUSTED, INTERNAL},
    "60 levels, each twice the next": {EXHAUSTED}, "a count of 2^60": {EXHAUSTED, INTERNAL},
    "a million pointers to one message": {EXHAUSTED}, "a thousand pointers to one string of 64 KiB": {EXHAUSTED},
    "a string without an end": {EXHAUSTED, INTERNAL},
}


def config():
    c = demo_config()
    host = {"uids": [0], "hugepages_fallback": True, "to_host": "64MiB", "to_daemon": "32MiB", "lane_slots": LANE_SLOTS}
    c["hosts"] = [{"name": name, **host} for name in ("echo", "bomb", "hostile")]
    c["services"] = [{"name": "split.examples.Echo", "hosts": ["echo"]}, {"name": "split.tests.Bomb", "hosts": ["bomb"]},
                     {"name": SERVICE, "hosts": ["hostile"]}]
    c["linearize"] = {"work_quantum": QUANTUM, "linear_bytes_max": "16MiB", "elements_max": 1 << 20}
    return c


def fallen(bed, method, cases, seconds, rng, at_once=4):
    """Sends every case from each of `at_once` threads, on and on for `seconds`; returns {name: {status: calls}}."""
    seen, lock, end = {name: {} for name in cases}, threading.Lock(), time.monotonic() + seconds

    def caller(order):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
        channel = grpc.insecure_channel(bed.target, options=options)
        call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
        first = True
        while first or time.monotonic() < end:
            for name in order:
                try:
                    call(cases[name], timeout=120)
                    status = OK
                except grpc.RpcError as e:
                    status = e.code().name
                with lock:
                    seen[name][status] = seen[name].get(status, 0) + 1
            first = False
        channel.close()

    threads = [threading.Thread(target=caller, args=(rng.sample(list(cases), len(cases)),)) for _ in range(at_once)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return seen


def child(target, seconds, seed):
    """Runs inside the namespace: the calls themselves."""
    class Inside:
        pass
    bed, rng = Inside(), random.Random(seed)
    bed.target = target
    inbound = fallen(bed, "/split.tests.Bomb/Take", {n: c[0] for n, c in INBOUND.items()}, seconds, rng)
    kinds = {name: varint(6 << 3) + varint(i) for i, name in enumerate(OUTBOUND)}
    outbound = fallen(bed, f"/{SERVICE}/Unary", kinds, seconds, rng)
    print(json.dumps([inbound, outbound]))


def main():
    if sys.argv[1] == "--child":
        child(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
        return
    build, seconds = sys.argv[1], float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    need_kernel("af_packet")
    print(f"seed {seed}")
    with Bed(build, config()) as bed:
        bed.splitd_start()
        bed.host_start("echo")
        bed.host_start("bomb", bed.build / "tests/hostile/bomb_host")
        command = [bed.build / "tests/hostile/hostile_host", "--socket", bed.socket, "--service", SERVICE, "--mode", "bomb",
                   "--seconds", 3600, "--session", 7200, "--seed", seed]
        bed.start(command)
        wait_until(lambda: len(bed.ctl("endpoints")) == 3, 60, "three hosts attached")
        assert bed.probe()
        settled(bed)
        before, counted, grown_from = held(bed), bed.counters(), private_kib(bed.splitd.pid)
        honest = load_start(bed, ROOT / "tests/e2e/steady_load.py", bed.target, "--at-once", "4", "--timeout", "60")
        bombs = bed.start([HERE / "bomb_test.py", "--child", bed.target, seconds / 2, seed], stdout=subprocess.PIPE, text=True)
        inbound, outbound = json.loads(bombs.communicate(timeout=600)[0])
        honest_saw = load_end(honest)
        settled(bed, 60)
        after, moved = bed.counters(), {}
        for name, seen in {**inbound, **outbound}.items():
            print(f"{name}: {seen}")
        for name in ("worker.decode_yields", "worker.encode_yields", "worker.decode_errors", "worker.encode_errors"):
            moved[name] = after[name] - counted[name]
        print(f"honest clients: {honest_saw}\n{moved}")
        print(f"one turn took at most {after['worker.turn_units_max']} work units (bound {TURN_UNITS_MAX}, quantum {QUANTUM}); "
              f"the longest was {after['worker.turn_ns_max'] / 1e6:.2f} ms (no verdict)")
        grown = private_kib(bed.splitd.pid) - grown_from
        print(f"descriptors, segments: {before} -> {held(bed)}; splitd's own memory grew by {grown} KiB")
        wrong = {n: s for n, s in inbound.items() if set(s) != {INBOUND[n][1]}}
        wrong.update({n: s for n, s in outbound.items() if not set(s) <= OUTBOUND[n]})
        assert not wrong, f"other statuses than documented: {wrong}"
        bad = {k: v for k, v in honest_saw.items() if k not in ("OK", "calls", "slowest_s") and v}
        assert honest_saw["OK"] > 0 and not bad, f"the honest host's clients saw {bad}"
        assert after["worker.turn_units_max"] <= TURN_UNITS_MAX, "a turn did more than its quantum"
        assert moved["worker.decode_yields"] > 0 and moved["worker.encode_yields"] > 0, "nothing had to yield: no bomb went off"
        assert grown < 96 * 1024, f"splitd's memory grew by {grown} KiB"
        wait_until(lambda: held(bed) == before, 60, f"descriptors and segments as before: {before}")
        assert bed.splitd_stop() == 0


if __name__ == "__main__":
    main()
