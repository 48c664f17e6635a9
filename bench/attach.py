#!/usr/bin/python3
"""What a host on another machine costs beside one that shares memory: the same calls through splitd to a host behind tcp:// (here:
over loopback) and to one on the attach socket, by turns in one run (docs/SOCKET.md).

    bench/attach.py [--build DIR] [--rounds N] [--seconds S] [--json] [-- OPTIONS OF split-perf rpc …]

A row for each shape: the medians over the rounds, and the median of the rounds' ratios tcp ÷ shm. CPU is the whole of a call's:
splitd's worker and relay, and the host's process. The options after -- go to every run (--core-a, --core-b, --host-core, …).
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

# connections, streams on each, payload
SHAPES = [(1, 1, 64), (8, 16, 64), (8, 16, 4096), (4, 4, 49152), (1, 4, 487424)]
KEYS = {"calls_per_s": lambda r: r["calls_per_s"], "cpu_ns": lambda r: r["cpu_ns_per_call"], "daemon_ns": lambda r: r["daemon_ns_per_call"],
        "relay_ns": lambda r: r["relay_ns_per_call"], "host_ns": lambda r: r["host_ns_per_call"],
        "p50_ns": lambda r: r["latency_ns"]["p50"], "p99_ns": lambda r: r["latency_ns"]["p99"]}
RATIOS = ("calls_per_s", "cpu_ns", "p50_ns", "p99_ns")


def run(args, attach, shape):
    connections, streams, size = shape
    command = [args.build / "bench/split-perf", "rpc", "--json", "--attach", attach, "--connections", connections, "--streams", streams,
               "--size", size, "--stages", "off", "--runs", 1, "--seconds", args.seconds, *args.options]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    result = json.loads(done.stdout)
    if result["errors"] != 0:
        sys.exit(f"{attach}, {shape}: {result['errors']} errors")
    return {name: get(result) for name, get in KEYS.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("options", nargs="*")
    args = parser.parse_args()
    rows = []
    if not args.json:
        print(f"{'shape':>9} {'bytes':>7} | {'calls/s shm':>11} {'tcp':>8} {'÷':>5} | {'CPU us shm':>10} {'tcp':>7} {'÷':>5} | "
              f"{'p50 us shm':>10} {'tcp':>7} {'÷':>5} | {'p99 ÷':>5}")
    for shape in SHAPES:
        rounds = [{attach: run(args, attach, shape) for attach in (("shm", "tcp") if i % 2 == 0 else ("tcp", "shm"))}
                  for i in range(args.rounds)]
        row = {"connections": shape[0], "streams": shape[1], "bytes": shape[2]}
        for attach in ("shm", "tcp"):
            row[attach] = {key: statistics.median(r[attach][key] for r in rounds) for key in KEYS}
        row["ratio"] = {key: statistics.median(r["tcp"][key] / r["shm"][key] for r in rounds) for key in RATIOS}
        rows.append(row)
        s, t, q = row["shm"], row["tcp"], row["ratio"]
        if not args.json:
            print(f"{shape[0]:>6}x{shape[1]:<2} {shape[2]:>7} | {s['calls_per_s']:>11.0f} {t['calls_per_s']:>8.0f} {q['calls_per_s']:>5.2f} | "
                  f"{s['cpu_ns'] / 1e3:>10.1f} {t['cpu_ns'] / 1e3:>7.1f} {q['cpu_ns']:>5.2f} | "
                  f"{s['p50_ns'] / 1e3:>10.0f} {t['p50_ns'] / 1e3:>7.0f} {q['p50_ns']:>5.2f} | {q['p99_ns']:>5.2f}", flush=True)
    if args.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
