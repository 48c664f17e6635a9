#!/usr/bin/python3
"""A hostile host harms only itself: every mode of hostile_host beside an honest host under steady load.

usage: hostile_test.py BUILD SECONDS [--balance POLICY] [SEED] [MODE...]

Each mode runs for its share of SECONDS and until its mark is seen (a counter, a log line that names the host and the cause).
Throughout, every call to the honest host must come back OK with the bytes that were sent, and a further honest host must be
able to attach. At the end nothing is left: no call, page, descriptor or segment, and splitd's memory has not grown.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=16"

from bed import Bed, demo_config, settled  # noqa: E402
from policies import policy, take_option  # noqa: E402
from served import ROOT, need_kernel, wait_until  # noqa: E402

SERVICE = "split.tests.Hostile"
MARK_SECONDS = 120  # never a verdict on speed: only so that a test that can't pass ends
GROWTH_KIB_MAX = 96 * 1024


def counter(*names):
    """One of these has moved."""
    return lambda before, after, log, done: any(after[name] > before[name] for name in names)


def detached(cause):
    """The log names the host and the cause."""
    line = re.compile(rf'host "hostile" \(pid \d+\) is detached: .*{cause}')
    return lambda before, after, log, done: line.search(log) is not None


def both(*marks):
    return lambda *a: all(mark(*a) for mark in marks)


def did(what):
    """The attacker's own count, once it has ended."""
    return lambda before, after, log, done: done is None or done[what] > 0


ANY = "."
MODES = {
    "scribble": detached(ANY),
    "scribble-arena": counter("shepherd.slots_in"),
    "never-release": detached("was not released"),
    "release-twice": counter("shepherd.stale_releases"),
    "answer-twice": counter("shepherd.stale_calls"),
    "stale": counter("shepherd.stale_calls"),
    "point": counter("worker.encode_errors"),
    "point-slot": detached("address"),
    "wire": both(counter("worker.replies_wire"), counter("worker.encode_errors"), counter("worker.requests_undecoded")),
    "wire-wild": detached("(message address|a form that does not fit)"),
    "punch": both(counter("control.attach_accepted"), did("denied")),
    "punch-early": both(counter("control.attach_accepted", "control.attach_refused_resources"), did("writes")),
    "wake": both(counter("shepherd.requests_out"), did("storms")),
    "eventfd": both(counter("shepherd.requests_out"), did("storms")),
    "stall": counter("shepherd.requests_out"),
    "stream-flood": counter("worker.stream_overruns"),
    "stream-after": counter("shepherd.stale_calls"),
    "stream-credit": both(counter("shepherd.requests_out"), counter("worker.stream_messages")),
    "stream-want": counter("worker.stream_grants"),
    "call-out": both(counter("worker.outs"), counter("worker.outs_abandoned")),
    "call-out-wild": detached(ANY),
    "socket": counter("control.attach_refused_protocol"),
    "attaches": both(counter("control.attach_refused_limit"), did("connects")),
    "mixed": detached(ANY),
}
SHOWN = ("control.attach_accepted", "control.attach_refused_protocol", "control.attach_refused_limit", "control.attach_timeout",
         "control.attach_refused_resources", "control.endpoint_fault", "shepherd.faults", "shepherd.stale_calls",
         "shepherd.stale_releases", "worker.encode_errors", "worker.stream_overruns", "worker.stream_grants", "worker.calls_unavailable", "worker.calls_taken_back")


def config(balance):
    c = demo_config()
    small = {"uids": [0], "to_host": "16MiB", "to_daemon": "16MiB", "hugepages_fallback": True}
    c["hosts"] = [{"name": name, **small} for name in ("echo", "greeter")]
    c["hosts"].append({"name": "hostile", **small, "endpoints_max": 4, "release_timeout": "200ms", "stall_timeout": "200ms"})
    c["services"] = [{"name": "split.examples.Echo", "hosts": ["echo"]}, {"name": "split.examples.Greeter", "hosts": ["greeter"]},
                     {"name": SERVICE, "hosts": ["hostile"]}]
    c["channels"] = [{"name": "back", "target": "local", "hosts": ["hostile"], "calls_max": 48}]
    for service in c["services"]:
        service["balance"] = policy(balance, 1)
    c["control"]["attach_timeout"] = "1s"
    # What a host says of its workers, cores and threads is the broker's business, too.
    c["broker"] = {"cores": sorted(os.sched_getaffinity(0)), "period": "5ms", "grace": "1ms"}
    c["linearize"] = {"linear_bytes_max": "4MiB"}
    c["grpc"] = {"message_bytes_max": "1MiB"}
    return c


def private_kib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    return 0


def held(bed):
    """Descriptors, and segments mapped: what an attach takes. (Free hugepages are the whole machine's.) Three times the same: the kernel
    writes the list of mappings while it changes, and splitctl's own connection is a descriptor for a moment."""
    def look():
        return bed.descriptors(), sum("memfd:splitd-" in line for line in open(f"/proc/{bed.splitd.pid}/maps"))
    seen = [look()]
    while seen[-3:] != 3 * [seen[-1]] and len(seen) < 100:
        time.sleep(0.1)
        seen.append(look())
    return seen[-1]


def load_start(bed, script, *args):
    load = bed.start([script, *args], stdout=subprocess.PIPE, text=True)
    assert load.stdout.readline().startswith("loading")
    return load


def load_end(load):
    load.send_signal(signal.SIGTERM)
    return json.loads(load.communicate(timeout=120)[0])


def attack(bed, mode, seconds, seed):
    """Runs one mode; returns what the attacker counted and by how much splitd's counters moved."""
    before, log_at, begin = bed.counters(), len(bed.log_text()), time.monotonic()
    command = [bed.build / "tests/hostile/hostile_host", "--socket", bed.socket, "--name", "hostile", "--service", SERVICE,
               "--mode", mode, "--seconds", 2 * MARK_SECONDS, "--session", min(1, seconds), "--seed", seed]
    attacker = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=bed.log, text=True)
    bed.others.append(attacker)
    if mode in ("attaches", "socket", "mixed"):
        newcomer = bed.host_start("greeter", "greeter")  # it does get in
        newcomer.terminate()
        assert newcomer.wait(60) == 0, "an honest host did not end cleanly"
    mark = MODES[mode]
    while True:
        elapsed = time.monotonic() - begin
        if elapsed >= seconds and mark(before, bed.counters(), bed.log_text()[log_at:], None):
            break
        assert elapsed < MARK_SECONDS, f"{mode}: its mark was not seen"
        bed.ended("splitd")
        assert attacker.poll() is None, f"{mode}: the attacker ended with {attacker.returncode}"
        time.sleep(0.1)
    attacker.terminate()
    done = json.loads(attacker.communicate(timeout=60)[0])
    assert attacker.returncode == 0, f"{mode}: it was allowed what must not be: {done}"
    assert mark(before, bed.counters(), bed.log_text()[log_at:], done), f"{mode}: the attacker did nothing: {done}"
    after = bed.counters()
    return done, {k: after[k] - before[k] for k in SHOWN if after.get(k, 0) != before.get(k, 0)}


def causes(log):
    """Distinct causes for which the hostile host was detached, numbers left out."""
    found = re.findall(r'host "hostile" \(pid \d+\) is detached: (.*)', log)
    return sorted({re.sub(r"0x[0-9a-f]+|\d+", "N", c) for c in found})


def main():
    balance = take_option(sys.argv, "round_robin")
    build, seconds = sys.argv[1], float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    modes = sys.argv[4:] or list(MODES)
    need_kernel("af_packet")
    print(f"seed {seed}, balance {balance}")
    with Bed(build, config(balance)) as bed:
        bed.splitd_start()
        bed.host_start("echo")
        assert bed.probe()
        settled(bed)
        before = held(bed)
        grown_from = private_kib(bed.splitd.pid)
        honest = load_start(bed, ROOT / "tests/e2e/steady_load.py", bed.target, "--at-once", "4", "--timeout", "60")
        others = load_start(bed, HERE / "any_load.py", bed.target, f"/{SERVICE}/Unary", "--at-once", "4")
        for number, mode in enumerate(modes):
            done, moved = attack(bed, mode, seconds / len(modes), seed + number)
            print(f"{mode}: {json.dumps({k: v for k, v in done.items() if v and k != 'mode'})} -> {json.dumps(moved)}", flush=True)
        hostile_saw, honest_saw = load_end(others), load_end(honest)
        wait_until(lambda: len(bed.ctl("endpoints")) == 1, 60, "only the honest host is attached")
        settled(bed, 60)
        print(f"honest clients: {honest_saw}\nthe hostile host's clients: {hostile_saw}")
        for cause in causes(bed.log_text()):
            print(f"detached: {cause}")
        bad = {k: v for k, v in honest_saw.items() if k not in ("OK", "calls", "slowest_s") and v}
        assert honest_saw["OK"] > 0 and not bad, f"the honest host's clients saw {bad}"
        assert bed.probe()
        settled(bed, 60)
        after, grown = held(bed), private_kib(bed.splitd.pid) - grown_from
        print(f"descriptors, segments: {before} -> {after}; splitd's own memory grew by {grown} KiB")
        assert after == before, f"leaked: (descriptors, segments) were {before}, are {after}"
        assert grown < GROWTH_KIB_MAX, f"splitd's memory grew by {grown} KiB"
        assert bed.splitd_stop() == 0


if __name__ == "__main__":
    main()
