#!/usr/bin/python3
"""Several workers on one port: the device has one queue, so flows go to their workers by the software hand-over.

    workers_test.py BUILD WORKERS

Stock clients over IPv4 and IPv6, many connections at once; every worker must have had some, every call must be right, and channelz must
tell of all of them on each connection. Workers may share a core.
"""
import json
import os
import subprocess
import sys
import tempfile

from served import ROOT, Served, need_kernel

CLIENT = """
import sys, grpc, concurrent.futures as futures

def calls(target, n):
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary("/split.examples.Echo/Unary")
        for i in range(n):
            body = bytes((i * 31 + k) & 0x7f for k in range(100 + i * 700))
            length, v = b"", len(body)
            while v > 127:
                length, v = length + bytes([v & 127 | 128]), v >> 7
            answer = call(bytes([0x0a]) + length + bytes([v]) + body, timeout=60, wait_for_ready=True)
            assert body in answer, (target, i)
    return n

with futures.ThreadPoolExecutor(16) as pool:
    done = [pool.submit(calls, sys.argv[1 + i % 2], 5) for i in range(48)]
    print("right", sum(f.result() for f in done))
"""


def counters(s):
    text = subprocess.run([str(s.build / "ctl/splitctl"), "--prefix", s.facts["prefix"], "--json", "--all", "stats"],
                          capture_output=True, text=True, timeout=30, check=True).stdout
    return json.loads(text)["layers"]["net"]


def main():
    build, workers = sys.argv[1], int(sys.argv[2])
    need_kernel("tap")
    config = json.loads((ROOT / "config/demo.json").read_text())
    cores = sorted(os.sched_getaffinity(0))
    config["workers"] = [{"core": cores[i % len(cores)]} for i in range(workers)]
    # So small that eight workers' pools fit where hugepages are few.
    config["tcp"] = {"connections_max": 512, "time_wait_max": 1024}
    config["ports"][0]["mbufs"] = 4096
    config["eal"]["memory"] = "256MiB"
    for host in config["hosts"]:
        host["to_host"], host["to_daemon"] = "256MiB", "64MiB"
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(config, f)
        f.flush()
        with Served(build, "echo", port="tap", config=f.name, options=["--ipv6"]) as s:
            told = s.run(["/usr/bin/python3", "-c", CLIENT, s.target, f"198.18.0.2:{s.facts['port']}"], timeout=200).stdout
            assert told.startswith("right 240"), told
            layer = counters(s)
            opened = layer["tcp_opens_passive"]["workers"]
            stats = s.stats()
            assert stats["net.tcp_opens_passive"] >= 48, stats["net.tcp_opens_passive"]
            assert workers == 1 or stats["port.rx_handed_over"] > 0, "nothing was handed over"
            assert stats["net.rx_drop_tcp_no_conn"] == 0, "a segment came to a worker that has not its connection"
            # Whatever worker a connection is with, channelz tells it of all.
            client = [ROOT / "tests/e2e/services_client.py", s.build / "daemon/services/services.set"]
            seen = s.run([*client, s.target, "everybody", str(8 * workers)]).stdout
            assert seen.strip() == f"workers {workers}" or workers > 2, f"channelz: {seen}"
            assert len(opened) == workers and min(opened) > 0, f"connections of the workers: {opened}"
            print(f"{workers} workers: 240 calls right on 48 connections ({opened}), "
                  f"{stats['port.rx_handed_over']} frames handed over")


main()
