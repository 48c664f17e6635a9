#!/usr/bin/python3
"""The pool of a host's workers, and the core broker.

usage: pool_test.py BUILD

Pool: a host with four workers begins with one. Three calls sleep in their handlers; further calls are answered all the
while, by workers that splitd calls back one after the other. When nothing is left to do, splitd retires them again.
Then stopped workers' calls, a host that dies with a blocked pool, and a new one.

Broker: two hosts share cores. Each worker's thread is on a core of the broker's, whoever is loaded gets what the other can
spare but for its floor, and a worker in a long handler is moved by the signal.

Nothing is judged by time: calls that sleep do so until they are cancelled or their host is killed.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

from bed import Bed, demo_config, settled
from served import ROOT, need_kernel, wait_until

PATIENCE = 90

CLIENT = """
import sys, threading, grpc
sys.path.insert(0, sys.argv[2])
import echo_pb2
call = grpc.insecure_channel(sys.argv[1]).unary_unary("/split.examples.Echo/Unary",
    request_serializer=echo_pb2.EchoMessage.SerializeToString, response_deserializer=echo_pb2.EchoMessage.FromString)
held = []
for line in sys.stdin:
    what, n = line.split()
    if what == "hold":  # calls that sleep for as long as anybody cares
        held += [call.future(echo_pb2.EchoMessage(payload=b"held", sleep_us=3_000_000_000), timeout=600, wait_for_ready=True)
                 for _ in range(int(n))]
        print("held", len(held), flush=True)
    elif what == "spin":  # the same, working
        held += [call.future(echo_pb2.EchoMessage(payload=b"held", busy_us=3_000_000_000), timeout=600, wait_for_ready=True)
                 for _ in range(int(n))]
        print("held", len(held), flush=True)
    elif what == "quick":
        for i in range(int(n)):
            sent = bytes([i & 255]) * (i * 37 % 300)
            assert call(echo_pb2.EchoMessage(payload=sent), timeout=120, wait_for_ready=True).payload == sent
        print("quick", n, "of held", sum(f.done() for f in held), "done", flush=True)
    elif what == "ended":
        print("ended", *[f.exception(120).code().name for f in held], flush=True)
        held = []
"""


class Client:
    def __init__(self, bed, out):
        self.bed = bed
        self.process = bed.start([sys.executable, "-c", CLIENT, bed.target, out], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)

    def say(self, what, n=0):
        self.process.stdin.write(f"{what} {n}\n")
        self.process.stdin.flush()
        return self.bed.line(self.process, 200, "the client").strip()


def endpoint(bed, name):
    return {e["name"]: e for e in bed.ctl("endpoints")}[name]


def active(bed, name):
    return endpoint(bed, name)["workers_active"]


def busy(bed, name):
    """Workers in handlers, of late."""
    e = endpoint(bed, name)
    return e["workers_active"] * e["busy_permille"] / 1000


def config(broker=None):
    c = demo_config()
    c["hosts"] = [{"name": name, "uids": [0], "to_host": "32MiB", "to_daemon": "32MiB", "hugepages_fallback": True, "workers_max": 4}
                  for name in ("echo", "greeter")]
    c["services"] = [{"name": "split.examples.Echo", "hosts": ["echo"]}, {"name": "split.examples.Greeter", "hosts": ["greeter"]}]
    if broker is not None:
        c["broker"] = broker
    return c


def pool(bed, out):
    host = bed.host_start("echo", args=["--workers", "4", "--workers-min", "1"])
    client = Client(bed, out)
    assert client.say("quick", 20) == "quick 20 of held 0 done"
    assert client.say("hold", 3) == "held 3"
    wait_until(lambda: bed.counters()["worker.hosts_resumed"] >= 2, PATIENCE, "a worker for each that is blocked")
    wait_until(lambda: 2.9 < busy(bed, "echo") < 3.1, PATIENCE, "each of the three is in its handler")
    said = client.say("quick", 60)
    assert said == "quick 60 of held 0 done", said
    counters = bed.counters()
    assert active(bed, "echo") == 4
    print(f"pool: 3 handlers asleep, 60 calls answered; {counters['worker.hosts_resumed']} workers called back, "
          f"{counters['worker.calls_taken_back']} calls taken back")
    # The blocked pool dies: its calls end, and the next host begins with one worker again.
    host.kill()
    host.wait()
    said = client.say("ended")
    assert said == "ended UNAVAILABLE UNAVAILABLE UNAVAILABLE", said
    host = bed.host_start("echo", args=["--workers", "4", "--workers-min", "1"])
    assert client.say("quick", 60) == "quick 60 of held 0 done"
    wait_until(lambda: active(bed, "echo") == 1, PATIENCE, "workers that are not needed are retired")
    assert client.say("quick", 20) == "quick 20 of held 0 done"
    settled(bed, PATIENCE)
    host.terminate()
    assert host.wait(PATIENCE) == 0
    return client


def threads(pid):
    return [int(t) for t in os.listdir(f"/proc/{pid}/task") if int(t) != pid]


def placed(pid, cores):
    return all(len(os.sched_getaffinity(t)) == 1 and os.sched_getaffinity(t) <= cores for t in threads(pid))


def broker(bed, out, cores):
    # One worker each on the core of its own; what is retired follows when it is called back.
    echo = bed.host_start("echo", args=["--workers", "2"])
    greeter = bed.host_start("greeter", program="greeter", args=["--workers", "2"])
    client = Client(bed, out)
    for host in (echo, greeter):
        wait_until(lambda h=host: placed(h.pid, set(cores)), PATIENCE, "every worker is on a core of the broker's")
    assert client.say("quick", 20) == "quick 20 of held 0 done"
    own = {name: e["cores"] for name, e in ((e["name"], e) for e in bed.ctl("endpoints"))}
    assert sum(own.values()) == max(len(cores), 2) or len(cores) < 2, own
    # Both workers of one host are in handlers that do not end; it goes, and the other host's workers get all cores. Then
    # a host comes and must have its floor: workers in handlers are moved by the signal.
    assert client.say("spin", 1) == "held 1"
    before = bed.counters()
    greeter.terminate()
    assert greeter.wait(PATIENCE) == 0
    wait_until(lambda: {e["name"]: e for e in bed.ctl("endpoints")}.get("echo", {}).get("cores") == len(cores), PATIENCE,
               "the only host has every core")
    again = bed.host_start("greeter", program="greeter", args=["--workers", "2"])
    wait_until(lambda: placed(again.pid, set(cores)), PATIENCE, "a new host has its floor")
    wait_until(lambda: all(e["cores"] == 1 for e in bed.ctl("endpoints")), PATIENCE, "and the other what is left")
    if len(cores) > 1:
        wait_until(lambda: len({frozenset(os.sched_getaffinity(t)) for t in threads(echo.pid)}) == 1, PATIENCE,
                   "both workers of the loaded host are on the core that is left, though one is in a handler")
    after = bed.counters()
    for name in ("control.broker_moves", "worker.hosts_yieldnow"):
        assert after[name] > before[name] or len(cores) < 2, name
    assert bed.probe("greeter", seconds=PATIENCE)
    print(f"broker: {len(cores)} cores, {after['control.broker_moves']} moves, {after['worker.hosts_yieldnow']} asked to yield, "
          f"{after['control.broker_signals']} by signal")
    echo.kill()
    echo.wait()
    assert client.say("ended") == "ended UNAVAILABLE"
    settled(bed, PATIENCE)


def main():
    build = sys.argv[1]
    need_kernel("af_packet")
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["protoc", f"-I{ROOT}/examples/echo", f"--python_out={out}", "echo.proto"], check=True)
        with Bed(build, config()) as bed:
            bed.splitd_start()
            pool(bed, out)
        cores = sorted(os.sched_getaffinity(0))[:2]
        with Bed(build, config({"cores": cores, "period": "5ms", "grace": "2ms"})) as bed:
            bed.splitd_start()
            broker(bed, out, cores)


main()
