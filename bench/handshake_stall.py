#!/usr/bin/python3
"""How long TLS handshakes keep a worker from its other connections: on a helper thread, and on the worker itself.

usage: bench/handshake_stall.py BUILD [--runs N] [--seconds S]

For each kind of key, and tls.helpers of 1 and 0, splitd is started N times and flooded with whole handshakes (tests/attack/tls_handshakes.py)
for S seconds. Shown is the least over the runs of the longest turn of the worker's loop (worker.turn_ns_max) and of the longest handshake step
(tls.step_ns_max): what another process of the machine does only ever adds to a run. splitd's threads run under SCHED_FIFO meanwhile, so that
little is added. A turn before the flood, of some plain calls, stands beside it.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))

import certs  # noqa: E402
from bed import Bed, demo_config  # noqa: E402

NAME = "server.test.example"


def once(build, pair, helpers, seconds):
    """(turn before, turn, step, handshakes), times in ns."""
    config = demo_config()
    config["listeners"].append({"name": "tls", "port": 50052, "tls": {"certificates": [{"cert": str(pair[0]), "key": str(pair[1])}]}})
    config["tls"] = {"helpers": helpers}
    with Bed(build, config) as bed:
        bed.splitd_start()
        subprocess.run(["chrt", "-a", "-f", "-p", "10", str(bed.splitd.pid)], check=True)
        bed.host_start("echo")
        assert bed.probe()
        before = bed.counters()
        flood = bed.start([ROOT / "tests/attack/tls_handshakes.py", bed.target.replace(":50051", ":50052"), seconds], stdout=subprocess.DEVNULL)
        assert flood.wait() == 0
        after = bed.counters()
        assert (after["tls.steps_helper"] > 0) == (helpers > 0), "who carried the handshakes?"
        return before["worker.turn_ns_max"], after["worker.turn_ns_max"], after["tls.step_ns_max"], after["tls.handshakes"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("build")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1)
    a = p.parse_args()
    print("| key | helpers | longest turn before | longest turn | longest step | handshakes |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="splitd-stall.") as folder:
        authority = certs.Authority(folder)
        for key, bits in (("ECDSA P-256", False), ("RSA 2048", 2048), ("RSA 4096", 4096)):
            pair = authority.make(NAME, [f"DNS:{NAME}"], rsa=bits, file=key.replace(" ", "_"))
            for helpers in (1, 0):
                runs = [once(a.build, pair, helpers, a.seconds) for _ in range(a.runs)]
                us = lambda i: f"{min(r[i] for r in runs) / 1000:.0f} µs"
                print(f"| {key} | {helpers} | {us(0)} | {us(1)} | {us(2)} | {sum(r[3] for r in runs)} |", flush=True)


main()
