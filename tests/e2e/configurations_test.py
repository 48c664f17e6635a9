#!/usr/bin/python3
"""Calls of every kind, many of them cancelled, under configurations drawn at random.

usage: configurations_test.py BUILD SECONDS [SEED...]

What is seldom met in one configuration (a message half here when its stream moves to another worker, room that lacks, a ring of few
slots) is common in another. Each seed draws one: workers, host processes and their workers, small segments and rings, limits,
balance, aliasing, windows, the device. Every byte that comes back is compared (streams_client.py), and at the end nothing is left.
"""
import json
import random
import sys
import time

from bed import Bed, demo_config, settled
from served import ROOT, need_kernel

SEEDS_DEFAULT = 20


def draw(seed):
    """(configuration, arguments of each host process, device)"""
    rand = random.Random(seed)
    config = demo_config()
    config["workers"] = [{"core": i % 2} for i in range(rand.choice([1, 1, 2, 3]))]
    processes = rand.choice([1, 1, 2, 3])
    workers_max = rand.choice([1, 2, 4])
    config["hosts"] = [{
        "name": "echo", "uids": [0], "hugepages": False, "workers_max": workers_max,
        # Enough for linear_bytes_max in each worker's part, and little more.
        "to_host": f"{rand.choice([4, 8, 32]) * len(config['workers'])}MiB", "to_daemon": f"{rand.choice([8, 32])}MiB",
        "lane_slots": rand.choice([2, 4, 16, 256]), "lane_depth": rand.choice([1, 2]), "lane_depth_max": rand.choice([2, 64]),
    }]
    config["linearize"] = {"alias_min": rand.choice(["0", "128B", "4KiB"]), "linear_bytes_max": "2MiB",
                           "work_quantum": rand.choice([64, 2048])}
    config["grpc"] = {"message_bytes_max": "1MiB", "send_message_bytes_max": "1MiB"}
    config["http2"] = {"window_stream": rand.choice(["16KiB", "64KiB", "1MiB"])}
    config["services"] = [{"name": "split.examples.Echo", "hosts": ["echo"],
                           "balance": rand.choice(["least_outstanding", "round_robin", "power_of_two"])}]
    # Who polls wants a core for himself.
    config["idle"]["mode"] = rand.choice(["adaptive", "adaptive", "poll"]) if len(config["workers"]) < 3 else "adaptive"
    args = [["--workers", str(rand.randint(1, workers_max))] for _ in range(processes)]
    return config, args, rand.choice(["af_packet", "af_packet", "tap"])


def client(bed, what, *args):
    process = bed.start([ROOT / "tests/e2e/streams_client.py", bed.target, what, *map(json.dumps, args)], stdout=-1, stderr=-1, text=True)
    out, err = process.communicate(timeout=900)
    print(f"{what} {args}: {out.strip()[:300]}", flush=True)
    if process.returncode != 0:
        raise AssertionError(f"{what} {args}: {out}{err}")


def run(build, seed, seconds):
    config, hosts, port = draw(seed)
    print(f"seed {seed}: {port}, {len(config['workers'])} workers, hosts {hosts}, {config['hosts'][0]}, {config['linearize']}, {config['http2']}, "
          f"{config['services'][0]['balance']}", flush=True)
    with Bed(build, config, port) as bed:
        bed.splitd_start()
        for args in hosts:
            bed.host_start("echo", args=args)
        assert bed.probe()
        client(bed, "many", 40, 20, [0, 64, 500, 600, 5000, 60000, 300000], 3)
        client(bed, "cancels", seconds, seed, 4)
        settled(bed, 60)
        counters = bed.counters()
        wrong = {k: v for k, v in counters.items() if k in ("shepherd.faults", "worker.stream_overruns", "worker.decode_errors") and v}
        assert not wrong, f"{wrong} although client and host behave"
        assert bed.splitd_stop() == 0, "splitd did not end cleanly"


def main():
    build, seconds = sys.argv[1], float(sys.argv[2])
    need_kernel("af_packet")
    need_kernel("tap")
    seeds = [int(s) for s in sys.argv[3:]] or [int(time.time()) + i for i in range(SEEDS_DEFAULT)]
    for seed in seeds:
        run(build, seed, seconds)


main()
