#!/usr/bin/python3
"""A hostile host behind tcp:// harms only itself: every mode of hostile_remote.py beside an honest host under steady load.

usage: remote_test.py BUILD SECONDS [--balance POLICY] [SEED] [MODE...]

Each mode runs for its share of SECONDS and until it has spoiled something and, where it makes no sense to splitd, until splitd has closed a
connection for it. Throughout, every call to the honest host comes back OK with the bytes that were sent. At the end
nothing is left: no call, no descriptor, no segment.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

from bed import Bed, demo_config, settled  # noqa: E402
from far import HOST, PORT, SPLITD, Far, far_config  # noqa: E402
from policies import policy, take_option  # noqa: E402
from served import ROOT, need_kernel, wait_until  # noqa: E402

PATIENCE = 120
PROXY = f"{HOST}:7401"
# What splitd's counters show of each; None: it looks like a slow or forgetful host.
MODES = {"hello": "refused", "flip": "faults", "head": "faults", "message": "faults", "replay": None, "reorder": None, "drop": None,
         "no-window": None, "windows": "faults", "pulses": None, "knock": "refused"}


def config(balance):
    c = demo_config()
    c["hosts"] = [{"name": name, "uids": [0], "to_host": "16MiB", "to_daemon": "16MiB", "hugepages_fallback": True}
                  for name in ("echo", "tally", "greeter")]
    c["services"] = [{"name": "split.examples.Echo", "hosts": ["echo"], "balance": policy(balance, 1)},
                     {"name": "split.examples.Greeter", "hosts": ["greeter"], "balance": policy(balance, 1)}]
    c["linearize"], c["grpc"] = {"linear_bytes_max": "4MiB"}, {"message_bytes_max": "1MiB"}
    c["control"]["attach_timeout"] = "5s"
    c = far_config(c, ["greeter"], timeout="2s")
    c["remote"]["connections_max"] = 8
    return c


def held(bed):
    return bed.descriptors(), bed.segments()


def relayed(bed):
    return {k[6:]: v for k, v in bed.counters().items() if k.startswith("relay.")}


def attack(bed, far, mode, seconds, seed):
    before = relayed(bed)
    out = bed.work / f"{mode}.out"
    with open(out, "w") as file:
        attacker = subprocess.Popen(far.inside([HERE / "hostile_remote.py", "--listen", PROXY, "--splitd", f"{SPLITD}:{PORT}",
                                                "--mode", mode, "--seed", seed]), stdout=file, stderr=bed.log)
    bed.others.append(attacker)
    host = None
    if mode != "knock":
        wait_until(lambda: "listening" in out.read_text() or attacker.poll() is not None, PATIENCE, "the proxy listens")
        host = subprocess.Popen(far.inside([bed.build / "examples/greeter", "--socket", f"tcp://{PROXY}", "--name", "greeter"]),
                                stdout=subprocess.DEVNULL, stderr=bed.log)
        bed.hosts.append(host)
    begin, sign = time.monotonic(), MODES[mode]
    while True:
        now = relayed(bed)
        seen = now[sign] > before[sign] if sign else now["slots_in"] > before["slots_in"]
        if seen and "spoiled" in out.read_text() and time.monotonic() - begin >= seconds:
            break
        assert time.monotonic() - begin < PATIENCE, f"{mode}: its mark was not seen: {now}"
        bed.ended("splitd")
        time.sleep(0.1)
    for process in (host, attacker):
        if process:
            process.terminate()
            process.wait(PATIENCE)
    told = json.loads(out.read_text().splitlines()[-1])
    assert told["spoiled"] > 0, f"{mode}: nothing was spoiled: {told}"
    after = relayed(bed)
    print(f"{json.dumps(told)} -> {json.dumps({k: after[k] - before[k] for k in after if after[k] != before[k]})}", flush=True)


def main():
    balance = take_option(sys.argv, "round_robin")
    build, seconds = sys.argv[1], float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    modes = sys.argv[4:] or list(MODES)
    need_kernel("af_packet")
    print(f"seed {seed}, balance {balance}")
    with Bed(build, config(balance)) as bed, Far(bed) as far:
        bed.splitd_start()
        bed.host_start("echo")
        assert bed.probe()
        settled(bed)
        before = held(bed)
        load = lambda *args: bed.start(args, stdout=subprocess.PIPE, text=True)
        honest = load(ROOT / "tests/e2e/steady_load.py", bed.target, "--at-once", "4", "--timeout", "90")
        others = load(HERE / "any_load.py", bed.target, "/split.examples.Greeter/SayHello", "--at-once", "4", "--timeout", "20",
                      "--bytes", "0,64,5000,60000")
        for process in (honest, others):
            assert bed.line(process, PATIENCE, "the load").startswith("loading")
        for number, mode in enumerate(modes):
            attack(bed, far, mode, seconds / len(modes), seed + number)
        results = []
        for process in (honest, others):
            process.send_signal(signal.SIGTERM)
            results.append(json.loads(process.communicate(timeout=180)[0]))
        print(f"honest clients: {results[0]}\nthe hostile host's clients: {results[1]}")
        bad = {k: v for k, v in results[0].items() if k not in ("OK", "calls", "slowest_s") and v}
        assert results[0]["OK"] > 0 and not bad, f"the honest host's clients saw {bad}"
        wait_until(lambda: len(bed.ctl("endpoints")) == 1, PATIENCE, "only the honest host is attached")
        settled(bed, PATIENCE)
        wait_until(lambda: held(bed) == before, PATIENCE, f"descriptors and segments are what they were, {before}")
        # An honest one from over there gets in and serves.
        far.host("greeter", "greeter")
        assert bed.probe("greeter")
        assert bed.splitd_stop() == 0
    print("ok")


if __name__ == "__main__":
    main()
