#!/usr/bin/python3
"""Streams end to end with stock grpcio: thousands at once, slow handlers, slow readers, cancels at random.

usage: streams_test.py BUILD SECONDS [SEED]

Every byte that comes back is compared (streams_client.py). Meanwhile splitd's memory and the host's must not grow with what a slow
side leaves lying, and at the end no call, page or token is left.
"""
import json
import signal
import sys
import time

from bed import Bed, demo_config, settled
from served import ROOT, need_kernel

# What neither process may grow by while a client or a handler is slow: far less than what is under way.
GROWTH_KIB_MAX = 48 * 1024


def private_kib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    return 0


def client(bed, what, *args, seconds=900):
    process = bed.start([ROOT / "tests/e2e/streams_client.py", bed.target, what, *map(json.dumps, args)], stdout=-1, stderr=-1, text=True)
    out, err = process.communicate(timeout=seconds)
    if process.returncode != 0:
        raise AssertionError(f"{what} {args}: {out}{err}\n{bed.log_text()}")
    facts = json.loads(out)
    print(f"{what} {args}: {facts}", flush=True)
    return facts


def open_streams(bed, finish):
    process = bed.start([ROOT / "tests/e2e/streams_client.py", bed.target, "until", "40", json.dumps(finish)], stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "open\n", "the streams did not open"
    return process


def ended(process, status):
    out, _ = process.communicate(input="go\n", timeout=120)
    facts = json.loads(out)
    print(f"streams that were open: {facts}", flush=True)
    assert facts["wrong_n"] == 0 and facts.get(status) == 40, f"not all ended with {status}"


def main():
    build, seconds = sys.argv[1], float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else int(time.time())
    long = seconds > 20
    need_kernel("af_packet")
    print(f"seed {seed}")
    config = demo_config()
    config["hosts"] = [{"name": "echo", "uids": [0], "hugepages_fallback": True, "workers_max": 2}]
    config["services"] = [{"name": "split.examples.Echo", "hosts": ["echo"]}]
    with Bed(build, config) as bed:
        bed.splitd_start()
        host = bed.host_start("echo", args=["--workers", "2"])
        assert bed.probe()
        client(bed, "many", 50, 30, [0, 64, 1000, 20000, 300000], 4)
        settled(bed)
        before = [private_kib(p) for p in (bed.splitd.pid, host.pid)]
        client(bed, "held", 4000 if long else 2500, 4)  # grpc.calls_max, and http2.streams_max of each connection, are 4096 in all
        # 60 MB and 40 MB that wait for a reader; 16 MB for a handler.
        client(bed, "slow_reader", 60000 if long else 20000, 1000, 2)
        client(bed, "slow_reader", 200, 200000, 2)
        facts = client(bed, "slow_handler", 800, 20000, 500)
        # The read-ahead, HTTP/2's windows (64 KiB here, as much or more in the client), and what grpcio takes of itself.
        assert facts["ahead"] < 200, "a slow handler did not stop its client"
        settled(bed, 60)
        grown = [private_kib(p) - b for p, b in zip((bed.splitd.pid, host.pid), before)]
        print(f"splitd grew by {grown[0]} KiB, the host by {grown[1]} KiB")
        assert max(grown) < GROWTH_KIB_MAX, "memory grows with what waits"
        client(bed, "cancels", seconds, seed, 4)
        settled(bed, 60)
        counters = bed.counters()
        for name in ("worker.stream_messages", "worker.stream_grants", "worker.stream_credit_waits", "grpc.calls_cancelled"):
            assert counters[name] > 0, f"{name} is 0: the test tested nothing"
        assert counters["worker.stream_overruns"] == 0 and counters["shepherd.faults"] == 0
        # A host that dies takes its streams with it; one that comes has new ones.
        process = open_streams(bed, False)
        host.kill()
        ended(process, "UNAVAILABLE")
        bed.host_start("echo")
        assert bed.probe()
        settled(bed, 60)
        # A drain lets open streams go on to their end.
        process = open_streams(bed, True)
        bed.splitd.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert bed.splitd.poll() is None, "splitd did not wait for its streams"
        ended(process, "OK")
        assert bed.splitd.wait(60) == 0, "splitd did not end cleanly"
        bed.splitd = None


main()
