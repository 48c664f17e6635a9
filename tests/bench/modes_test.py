#!/usr/bin/python3
"""Runs a mode of split-perf for a fraction of a second and checks the JSON: every key of bench/README.md, its type,
and what must hold whatever the machine does (no errors, every call accounted for). Never a timing.

usage: modes_test.py SPLIT_PERF BUILD MODE[:PORT]
"""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from served import need_kernel  # noqa: E402

NUMBER = (int, float)
MAYBE = (int, float, type(None))
HEAD = {"mode": str, "version": str, "cpu": str, "args": list}
STAGES = dict.fromkeys(["port", "net", "tls", "http2", "grpc", "decode", "ring", "host", "encode", "send", "idle"], NUMBER)
RATES = {"rtt_ns": NUMBER, "msgs_per_s": NUMBER}
TCP = {
    "rr": [{"connections": int, "requests_per_s": NUMBER, "cycles_per_request": NUMBER, "cpu_ns_per_request": NUMBER,
            "thread_cycles_per_request": NUMBER, "system_cpu_ns_per_request": NUMBER}],
    "cycles_per_segment": NUMBER, "bulk_bytes_per_s": NUMBER, "connects_per_s": NUMBER,
    "bytes_per_idle_connection": (int, float, type(None)),
}
SHAPES = {
    "codec": {**HEAD, "variant": str, "results": [{"message": str, "bytes": int, "op": str, "engine": str, "ns": NUMBER}], "geomean": dict},
    "ring": {**HEAD, "line_rtt_ns": NUMBER, "lane_rtt_ns": NUMBER, "lane_rtt_lines": NUMBER, "lane_msgs_per_s": NUMBER, "line_msgs_per_s": NUMBER,
             "by_size": [{"bytes": int, **RATES}], "peers": {"unix_socket": RATES, "pipe_eventfd": RATES, "rte_ring": RATES}},
    "dispatch": {**HEAD, "polling_ns": NUMBER, "parked_ns": NUMBER, "wakes": int, "parks": int, "parked_calls": int,
                 "polling_calls": int, "syscalls_per_call": {"polling": NUMBER, "parked": NUMBER, "mixed": NUMBER}, "mixed_ns": NUMBER, "mixed_p99_ns": NUMBER,
                 "mixed_calls": int, "mixed_polling": int, "mixed_wakes": int, "wake_ns": NUMBER,
                 "host_cycles_per_call": {"batched": NUMBER, "single": NUMBER}, "idle_cpu_host": NUMBER,
                 "idle_cpu_daemon": NUMBER, "pool_workers": int, "cycles_hz": int},
    "host": {**HEAD, "host_cycles_per_call": {"batched": NUMBER, "single": NUMBER},
             "host_instructions_per_call": {"batched": MAYBE, "single": MAYBE}, "cycles_hz": int},
    "tcp": {**HEAD, "port": str, **TCP, "kernel": TCP, "net_ring": {"note": str, **TCP}},
    "rpc": {**HEAD, "load": str, "port": str, "connections": int, "streams": int, "bytes": int, "kind": str, "messages": int,
            "messages_per_s": NUMBER, "rate": (int, float, type(None)), "calls": int, "calls_per_s": NUMBER, "cpu_ns_per_call": NUMBER,
            "daemon_ns_per_call": NUMBER, "host_ns_per_call": NUMBER, "daemon_busy": NUMBER, "cycles": STAGES,
            "cycles_hz": int, "stages_cost": (int, float, type(None)),
            "latency_ns": dict.fromkeys(["p50", "p90", "p99", "p999", "max"], int), "errors": int, "behind": int},
    "isolation": {**HEAD, "rows": [{"system": str, "modelled": object, "bytes": int, "busy_ns": int, "antagonist": object, "offered_per_s": NUMBER,
                                    "calls_per_s": NUMBER, "p75_ns": int, "p90_ns": int, "p99_ns": int, "host_util": NUMBER,
                                    "host_core_util": NUMBER, "daemon_util": (int, float, type(None)), "codec_ns_per_call": NUMBER,
                                    "errors": int, "behind": int}]},
}
COMMON = ["--json", "--runs", "1"]


def check(value, shape, where, findings):
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            findings.append(f"{where}: an object is missing")
            return
        for key, inner in shape.items():
            if key not in value:
                findings.append(f"{where}.{key}: missing")
            else:
                check(value[key], inner, f"{where}.{key}", findings)
    elif isinstance(shape, list):
        if not isinstance(value, list) or not value:
            findings.append(f"{where}: a list with something in it is missing")
            return
        for i, item in enumerate(value):
            check(item, shape[0], f"{where}[{i}]", findings)
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not object):
        findings.append(f"{where}: {value!r} is not {shape}")


def run(binary, *arguments):
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=240)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    try:
        return json.loads(done.stdout)  # one object and nothing else
    except json.JSONDecodeError as e:
        sys.exit(f"{' '.join(arguments)}: standard output is not one JSON object: {e}\n{done.stdout}")


def mode_run(binary, mode, *more, shape=None):
    findings = []
    out = run(binary, mode, *COMMON, *more)
    check(out, shape or SHAPES[mode], mode, findings)
    if out.get("mode") != mode or out.get("args", [])[:1] != [mode]:
        findings.append(f"{mode}: mode or args do not say what was run")
    return out, findings


def rpc(binary, build, port):
    findings = []
    small = ["--seconds", "0.1", "--build", build, *(["--port", port] if port else [])]
    cases = [("closed", []), ("open", ["--rate", "500"]), ("closed", ["--connections", "2", "--streams", "2", "--size", "100000"]),
             ("closed", ["--connections", "1", "--streams", "1", "--size", "0", "--idle", "adaptive"])]
    for kind in ("client", "server", "bidi"):
        cases += [("closed", ["--kind", kind]),
                  ("closed", ["--kind", kind, "--messages", "3", "--size", "100000", "--connections", "2", "--streams", "2"])]
    for load, more in cases if not port else cases[:2]:
        out, found = mode_run(binary, "rpc", *small, *more)
        findings += found
        if out["load"] != load or out["calls"] == 0 or out["errors"] != 0:
            findings.append(f"rpc {more}: load {out['load']}, {out['calls']} calls, {out['errors']} errors")
    return findings


def dispatch(binary):
    out, findings = mode_run(binary, "dispatch", "--seconds", "0.2")
    if not 0 < out["wakes"] <= out["parked_calls"] or out["polling_calls"] == 0:
        findings.append(f"dispatch: {out['wakes']} wakes for {out['parked_calls']} parked calls")
    return findings


def isolation(binary, build, port):
    out, findings = mode_run(binary, "isolation", "--seconds", "0.2", "--build", build, "--port", port, "--sizes", "1KiB,48KiB",
                             "--busy", "0,20000", "--rate", "100")
    kinds = [(r["bytes"], r["antagonist"], r["busy_ns"], r["system"]) for r in out["rows"]]
    wanted = [(size, antagonist, busy, system) for size in (1024, 49152) for antagonist in (False, True) for busy in (0, 20000)
              for system in ("grpc++", "split", "split-modelled")]
    if kinds != wanted:
        findings.append(f"isolation: rows {kinds}")
    for row in out["rows"]:
        # Both answered what the bench knows they must, byte for byte.
        if row["errors"] or row["calls_per_s"] <= 0 or (row["daemon_util"] is None) != (row["system"] == "grpc++"):
            findings.append(f"isolation: {row}")
    return findings


def tcp(binary, port):
    shape = dict(SHAPES["tcp"])
    if port == "ring":
        shape.update(kernel=type(None), net_ring=type(None))
    out, findings = mode_run(binary, "tcp", "--seconds", "0.1", "--port", port, "--connections", "1,10,100", shape=shape)
    for name, system in (("ours", out), ("kernel", out["kernel"]), ("net_ring", out["net_ring"])):
        if system is None:
            continue
        if [row["connections"] for row in system["rr"]] != [1, 10, 100] or system["bulk_bytes_per_s"] <= 0:
            findings.append(f"tcp: {name}: {system}")
    return findings


def main():
    binary, build, what = sys.argv[1:]
    mode, _, port = what.partition(":")
    if port not in ("", "ring"):
        need_kernel(port)
    if mode == "rpc":
        findings = rpc(binary, build, port or None)
    elif mode == "tcp":
        findings = tcp(binary, port)
    elif mode == "isolation":
        findings = isolation(binary, build, port)
    elif mode == "dispatch":
        findings = dispatch(binary)
    else:
        findings = mode_run(binary, mode, "--seconds", "0.01" if mode == "codec" else "0.1")[1]
    for finding in findings:
        print(finding)
    left = [str(p) for p in pathlib.Path("/tmp").glob("split-perf.*") if not p.is_dir() or not any(p.iterdir())]
    if left:
        print(f"note: in /tmp: {left}")  # another bench may be running
    sys.exit(1 if findings else 0)


main()
