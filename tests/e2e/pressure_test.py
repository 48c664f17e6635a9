#!/usr/bin/python3
"""Back-pressure end to end with stock grpc++ and grpc-js (grpcio: streams_test.py).

usage: pressure_test.py BUILD grpcpp|node

A client that does not read stops the handler: what splitd sent stands still far below what was asked for, until it reads again. A
handler that is slow stops its client: it never gets further ahead than read-ahead and windows hold. Every byte is compared.
"""
import json
import os
import pathlib
import sys
import time

from bed import Bed, settled
from served import ROOT, need_kernel, wait_until

sys.path.insert(0, str(ROOT / "tests/interop"))
import node_modules  # noqa: E402

REPLIES, BYTES = 500, 100000  # 50 MB, of which windows and queues hold a few
MESSAGES, MESSAGE = 300, 20000


def stands_still(bed, name):
    """The counter's value once it has not moved for a second."""
    last, since = bed.counters()[name], time.monotonic()

    def still():
        nonlocal last, since
        now = bed.counters()[name]
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 1
    wait_until(still, 120, f"{name} stands still")
    return last


def main():
    build, client = sys.argv[1:3]
    need_kernel("af_packet")
    env = dict(os.environ)
    command = [pathlib.Path(build).resolve() / "tests/e2e/grpcpp_pressure"]
    if client == "node":
        env["INTEROP_NODE_MODULES"] = str(node_modules.installed(pathlib.Path(build).resolve()))
        command = ["node", ROOT / "tests/e2e/pressure.js"]
    with Bed(build) as bed:
        bed.splitd_start()
        bed.host_start("echo")
        assert bed.probe()
        settled(bed)

        def start(*args):
            return bed.start([*command, bed.target, *args], stdin=-1, stdout=-1, text=True, env=env)

        def end(process, told=None):
            out, _ = process.communicate(input=told, timeout=300)
            assert process.returncode == 0, f"{client}: {out}\n{bed.log_text()}"
            print(f"{client}: {out.strip()}", flush=True)
            return json.loads(out)

        before = bed.counters()["grpc.tx_messages"]
        reader = start("slow_reader", REPLIES, BYTES)
        assert bed.line(reader, 60, "the slow reader") == "paused\n"
        sent = stands_still(bed, "grpc.tx_messages") - before
        print(f"{client}: {sent} of {REPLIES} messages sent while it did not read", flush=True)
        # Another client is served meanwhile.
        assert bed.probe()
        assert 0 < sent < REPLIES / 2, "a client that does not read did not stop the handler"
        assert end(reader, "go\n")["messages"] == REPLIES
        facts = end(start("slow_handler", MESSAGES, MESSAGE, 2000))
        assert facts["messages"] == MESSAGES and facts["ahead"] < MESSAGES / 2, "a slow handler did not stop its client"
        settled(bed, 60)
        counters = bed.counters()
        assert counters["worker.stream_credit_waits"] > 0 and counters["worker.stream_overruns"] == 0, counters
        assert bed.splitd_stop() == 0


main()
