#!/usr/bin/python3
"""Death and return: hosts and splitd die, hang, stop and come back under load; every call ends once, nothing leaks.

usage: death_test.py BUILD SECONDS [--balance POLICY] [--far] [SEED...]

With --far one of the two hosts is on another machine (a namespace), behind tcp://.

Two hosts serve the same method. A seeded sequence kills, stops (SIGSTOP), hangs and replaces them while clients call
without a pause; then splitd itself is stopped gracefully and killed under load and started again, and the hosts attach
again by themselves. Each call ends at its client with OK and the right bytes, or with UNAVAILABLE; none hangs.

SECONDS is how long things happen, not what is judged: every wait is for a state and long enough for a busy machine. What
is counted before and after (descriptors, segments) is splitd's own, so that other users of the machine do not matter.
"""
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from bed import Bed, demo_config, settled
from far import Far, far_config
from policies import policy, take_option
from served import ROOT, need_kernel, wait_until

ALLOWED = {"OK", "UNAVAILABLE"}
FAR_HOST = "echo2"
PATIENCE = 60  # seconds for what takes none on an idle machine
POOL = ["--workers", "3", "--workers-min", "1"]
CALL_SECONDS = 90  # a call that takes so long was forgotten


def config(balance, far):
    c = demo_config()
    for h in ("echo", "echo2"):
        c["hosts"] = [x for x in c["hosts"] if x["name"] != h]
        c["hosts"].append({"name": h, "uids": [0], "to_host": "32MiB", "to_daemon": "32MiB", "hugepages_fallback": True,
                           "stall_timeout": "500ms"})
    c["services"] = [{"name": "split.examples.Echo", "hosts": ["echo", "echo2"], "balance": policy(balance, 2)}]
    # With a pool that grows and shrinks, and cores that change hands as hosts come and go.
    c["broker"] = {"cores": sorted(os.sched_getaffinity(0)), "period": "5ms", "grace": "1ms"}
    return far_config(c, [FAR_HOST]) if far else c


def start(bed, name):
    if bed.far and name == FAR_HOST:
        return bed.far.host(name, args=POOL)
    return bed.host_start(name, args=POOL)


def answered(bed):
    return bed.counters()["worker.calls_answered"]


def progress(bed, calls=50):
    """Waits until splitd has answered so many more calls: the load is there, and is served."""
    from_here = answered(bed)
    wait_until(lambda: answered(bed) >= from_here + calls, PATIENCE, f"{calls} more calls are answered")


def load_start(bed):
    load = bed.start([ROOT / "tests/e2e/steady_load.py", bed.target, "--timeout", CALL_SECONDS], stdout=subprocess.PIPE,
                     text=True)
    assert bed.line(load, PATIENCE, "the load").startswith("loading")
    progress(bed)
    return load


def load_end(load, allowed=ALLOWED):
    load.send_signal(signal.SIGTERM)
    result = json.loads(load.communicate(timeout=CALL_SECONDS + PATIENCE)[0])
    bad = {k: v for k, v in result.items() if k not in allowed | {"calls", "slowest_s"} and v}
    assert not bad, f"calls ended in ways that must not be: {bad} of {result}"
    return result


def end(host):
    """SIGTERM, as an operator does it."""
    host.terminate()
    assert host.wait(PATIENCE) == 0, "a host did not end cleanly on SIGTERM"


def act(bed, hosts, rng):
    name, what = rng.choice(list(hosts)), rng.choice(("kill", "kill", "stop", "hang", "term", "twin"))
    host = hosts[name]
    if what == "kill":
        host.kill()
        host.wait()
        hosts[name] = start(bed, name)
    elif what == "term":
        end(host)
        hosts[name] = start(bed, name)
    elif what == "stop":  # and goes on later, with what was answered in its place meanwhile
        host.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.05, 1.5))
        host.send_signal(signal.SIGCONT)
    elif what == "hang":  # never goes on; another comes
        host.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.05, 1.0))
        hosts[name] = start(bed, name)
        host.kill()
        host.wait()
    else:  # one of the same name takes over, the old one goes
        hosts[name] = start(bed, name)
        time.sleep(rng.uniform(0, 0.3))
        end(host)
    return what


def mine(bed):
    return bed.descriptors(), bed.segments()


def hosts_alone(bed, seconds, rng):
    """Hosts die and hang; splitd stays."""
    hosts = {n: start(bed, n) for n in ("echo", "echo2")}
    assert bed.probe(seconds=PATIENCE)
    settled(bed, PATIENCE)
    before = mine(bed)
    # The relay has the segments of a host over there at both of its ends.
    assert before[1] == (6 if bed.far else 4), f"two hosts have {before[1]} segments"
    load = load_start(bed)
    until, acts = time.monotonic() + seconds, []
    while time.monotonic() < until or len(acts) < 3:
        acts.append(act(bed, hosts, rng))
        time.sleep(rng.uniform(0.05, 0.4))
    progress(bed)  # after all that, calls are served
    result = load_end(load)
    settled(bed, PATIENCE)
    wait_until(lambda: mine(bed) == before, PATIENCE,
               f"descriptors and segments are what they were, {before}, now {mine(bed)}")
    for h in hosts.values():
        end(h)
    wait_until(lambda: not bed.ctl("endpoints"), PATIENCE, "every endpoint gone")
    wait_until(lambda: bed.segments() == 0, PATIENCE, "every segment gone")
    print(f"hosts: {len(acts)} acts ({' '.join(acts)}), {result}")
    return {n: start(bed, n) for n in ("echo", "echo2")}


def splitd_returns(bed, rng, rounds):
    """splitd is stopped and killed under load; hosts come back to the new one by themselves."""
    for number in range(rounds):
        load = load_start(bed)
        time.sleep(rng.uniform(0.1, 0.6))
        graceful = number % 2 == 0
        if graceful:
            status = bed.splitd_stop(signal.SIGTERM)
            assert status == 0, f"a graceful stop under load ended with {status}"
        else:
            bed.splitd_stop(signal.SIGKILL)
        bed.splitd_start()
        wait_until(lambda: len(bed.ctl("endpoints")) == 2, PATIENCE, "both hosts attached again")
        progress(bed)  # the same clients get their answers from the new one
        result = load_end(load)
        print(f"splitd {'stopped' if graceful else 'killed'} under load: {result}")
        settled(bed, PATIENCE)


def once(build, seconds, balance, far, seed):
    print(f"seed {seed}, balance {balance}{', one host far' if far else ''}", flush=True)
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(Bed(build, config(balance, far)))
        bed.far = stack.enter_context(Far(bed)) if far else None
        bed.splitd_start()
        hosts = hosts_alone(bed, seconds, rng)
        splitd_returns(bed, rng, max(2, int(seconds / 5)))
        assert bed.splitd_stop() == 0
        assert all(h.poll() is None for h in hosts.values()), "a host ended though only splitd did"
        left = list(pathlib.Path("/dev/hugepages").glob(f"{bed.prefix}*"))
        assert not left, f"splitd left hugepages behind: {left}"


def main():
    need_kernel("af_packet")
    balance = take_option(sys.argv, "least_outstanding")
    far = "--far" in sys.argv
    if far:
        sys.argv.remove("--far")
    for seed in sys.argv[3:] or ["1"]:
        once(sys.argv[1], float(sys.argv[2]), balance, far, int(seed))


main()
