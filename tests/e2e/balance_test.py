#!/usr/bin/python3
"""Who gets a call: every balance policy end to end, drain by splitctl and by SIGTERM, ejection, fair queues.

usage: balance_test.py BUILD

What is judged are counts of calls by process, from splitd's own counters, never times. One worker, and calls one after the
other, make most of them exact.
"""
import json
import pathlib
import signal
import subprocess
import sys

from bed import Bed, demo_config, settled
from served import ROOT, need_kernel, wait_until

PATIENCE = 60
USERS = [f"user-{i}" for i in range(8)]


def config(balance, names=("echo",), **host):
    c = demo_config()
    c["workers"] = c["workers"][:1]
    c["hosts"] = [{"name": n, "uids": [0], "to_host": "16MiB", "to_daemon": "16MiB", "hugepages_fallback": True, **host} for n in names]
    c["services"] = [{"name": s, "hosts": list(names), "balance": balance} for s in ("split.examples.Echo", "grpc.testing.TestService")]
    c["linearize"] = {"linear_bytes_max": "4MiB"}
    c["grpc"] = {"message_bytes_max": "1MiB"}
    return c


class Balanced(Bed):
    """splitd with this balance, processes and a client."""

    def __init__(self, build, balance, processes=3, names=("echo",), program="echo", **host):
        super().__init__(build, config(balance, names, **host))
        self.wanted, self.names, self.program = processes, names, program

    def __enter__(self):
        super().__enter__()
        try:
            self.splitd_start()
            self.processes = [self.host_start(self.names[i % len(self.names)], self.program, args=["--workers", "2"])
                              for i in range(self.wanted)]
            self.client = self.start([ROOT / "tests/e2e/balance_client.py", self.target], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=self.log, text=True)
            assert self.probe(example="interop" if "interop" in str(self.program) else "echo", seconds=PATIENCE)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def ask(self, **request):
        self.client.stdin.write(json.dumps(request) + "\n")
        self.client.stdin.flush()
        return json.loads(self.line(self.client, 300, "the client"))

    def had(self):
        """{pid: calls it has had}"""
        return {e["pid"]: e["calls"] for e in self.ctl("endpoints")}

    def took(self, **request):
        """Who took how many of these calls, all of which must go well: {pid: n}, without those that took none."""
        before = self.had()
        n = request.get("n", 1)
        got = self.ask(do="calls", **{"n": 1, **request})
        assert got == {"OK": n}, f"{request}: {got}"
        after = self.had()
        return {pid: after[pid] - before.get(pid, 0) for pid in after if after[pid] != before.get(pid, 0)}

    def whose(self, **request):
        """The one process that took it."""
        took = self.took(**request)
        assert len(took) == 1, f"{request} went to several: {took}"
        return next(iter(took))

    def state(self, pid):
        return next((e["state"] for e in self.ctl("endpoints") if e["pid"] == pid), None)

    def service(self, name="split.examples.Echo"):
        return next(s for s in self.ctl("services") if s["name"] == name)


def turns(build):
    with Balanced(build, "round_robin") as bed:
        took = bed.took(n=30)
        assert sorted(took.values()) == [10, 10, 10], f"round robin: {took}"
        assert bed.service()["picks"] >= 30 and bed.service()["members"] == 3
    with Balanced(build, {"policy": "weighted", "weights": [3, 1]}, processes=2, names=("echo", "canary")) as bed:
        took = bed.took(n=40)
        assert took == {bed.processes[0].pid: 30, bed.processes[1].pid: 10}, f"weighted: {took}"
    # Hosts of no configured node: theirs is where the kernel has put their requests.
    with Balanced(build, {"policy": "round_robin", "locality": True}) as bed:
        rows = bed.ctl("placement")
        own = next(r["memory_node"] for r in rows if r["what"] == "worker")
        near = own >= 0 and all(r["memory_node"] == own for r in rows if r["what"] == "segment" and r["name"].endswith("to-host"))
        before = bed.service()["local"]
        took = bed.took(n=9)
        assert not near or (sorted(took.values()) == [3, 3, 3] and bed.service()["local"] >= before + 9), (rows, took, bed.service())
    print("turns: round robin 10/10/10, weighted 30/10, locality", "by memory" if near else "without a near host")


def loads(build):
    """A process that has a stream open gets nothing more while others have none."""
    for policy in ("least_outstanding", "power_of_two"):
        with Balanced(build, policy) as bed:
            before = bed.had()
            bed.ask(do="open", key="a")
            after = bed.had()
            busy = next(pid for pid in after if after[pid] != before[pid])
            took = bed.took(n=30)
            assert busy not in took and len(took) == 2, f"{policy}: {took}, and {busy} has a stream"
            assert bed.ask(do="close", key="a") == {"OK": 1}
    print("loads: least outstanding and power of two leave out who is busy")


def keys(build):
    """Equal keys go to equal processes, whatever the connection; when one dies only its keys move, and they come back."""
    by_user = lambda bed: {u: bed.whose(n=3, metadata={"x-user": u}, channel=u) for u in USERS}
    with Balanced(build, {"policy": "consistent_hash", "hash": {"by": "metadata", "key": "x-user"}}) as bed:
        first = by_user(bed)
        assert by_user(bed) == first
        assert len(set(first.values())) > 1, f"eight users all went to one of three: {first}"
        gone = first[USERS[0]]
        victim = next(p for p in bed.processes if p.pid == gone)
        victim.kill()
        victim.wait()
        wait_until(lambda: len(bed.ctl("endpoints")) == 2, PATIENCE, "the dead process gone")
        second = by_user(bed)
        moved = [u for u in USERS if second[u] != first[u] and first[u] != gone]
        assert not moved, f"users of living processes moved: {moved}"
        heir = bed.host_start("echo", args=["--workers", "2"]).pid
        third = by_user(bed)
        assert third == {u: heir if first[u] == gone else first[u] for u in USERS}, f"{first} became {third}"
        before = bed.service()["hash_no_key"]
        assert len(bed.took(n=9)) == 3 and bed.service()["hash_no_key"] == before + 9  # without a key: in turn
    with Balanced(build, {"policy": "consistent_hash", "hash": {"by": "field", "key": "4"}}) as bed:
        number = lambda n: "20" + format(n, "02x")  # field 4, a varint
        payload = lambda n: "0a" + format(0x80 | n & 0x7f, "02x") + format(n >> 7, "02x") + "61" * n
        small = {n: bed.whose(n=2, hex=number(n)) for n in range(1, 9)}
        assert len(set(small.values())) > 1
        # The same key before 5000 bytes that do not fit what is looked at, and behind a few.
        for n in small:
            assert bed.whose(n=2, hex=number(n) + payload(5000), channel="b") == small[n]
            assert bed.whose(n=2, hex=payload(200) + number(n), channel="c") == small[n]
        assert bed.service()["hash_no_key"] <= 1  # the probe's at most
        before = bed.service()["hash_no_key"]
        bed.took(n=3, hex=payload(5000) + number(1))  # behind too much
        assert bed.service()["hash_no_key"] == before + 3
    print("keys: metadata and field, death and return")


def sticks(build):
    with Balanced(build, {"policy": "round_robin", "sticky": {"by": "metadata", "key": "x-session"}}) as bed:
        of = {s: bed.whose(metadata={"x-session": s}) for s in ("a", "b", "c", "d", "e", "f")}
        assert sorted(list(of.values()).count(p.pid) for p in bed.processes) == [2, 2, 2], f"newcomers in turn: {of}"
        for s in of:
            assert bed.whose(n=4, metadata={"x-session": s}, channel=s) == of[s]
        assert bed.service()["sticky_kept"] == 24
    with Balanced(build, {"policy": "round_robin", "sticky": {"by": "connection"}}) as bed:
        of = {c: bed.whose(n=5, channel=c) for c in ("a", "b", "c")}
        assert len(set(of.values())) == 3, f"three connections: {of}"
    print("sticks: by metadata and by connection")


def drains(build):
    with Balanced(build, "round_robin", processes=2) as bed:
        before = bed.had()
        bed.ask(do="open", key="a")
        after = bed.had()
        busy = next(pid for pid in after if after[pid] != before[pid])
        other = next(pid for pid in after if pid != busy)
        number = next(e["id"] for e in bed.ctl("endpoints") if e["pid"] == busy)
        assert bed.ctl(f"drain {number}")["endpoints"] == 1
        wait_until(lambda: bed.state(busy) == "draining", PATIENCE, "the process drains")
        assert bed.took(n=10) == {other: 10}
        assert bed.state(busy) == "draining", "it has a stream, and is said to be drained"
        assert bed.ask(do="close", key="a") == {"OK": 1}
        wait_until(lambda: bed.state(busy) == "drained", PATIENCE, "the process is drained")
        assert bed.ctl(f"undrain {number}")["endpoints"] == 1
        wait_until(lambda: bed.state(busy) == "active", PATIENCE, "the process is back")
        assert bed.took(n=10) == {other: 5, busy: 5}
        # By name: both, and then nobody serves.
        assert bed.ctl("drain echo")["endpoints"] == 2
        wait_until(lambda: all(e["state"] == "drained" for e in bed.ctl("endpoints")), PATIENCE, "both drained")
        assert bed.ask(do="calls", n=3) == {"UNAVAILABLE": 3}
        assert bed.ctl("undrain echo")["endpoints"] == 2
        wait_until(lambda: all(e["state"] == "active" for e in bed.ctl("endpoints")), PATIENCE, "both back")
        bed.took(n=4)
    print("drains: by number, by name, and back")


def goodbyes(build):
    """Processes end by SIGTERM one after the other under load, others taking over: no call is lost."""
    with Balanced(build, "round_robin", processes=2) as bed:
        load = bed.start([ROOT / "tests/e2e/steady_load.py", bed.target, "--timeout", "90"], stdout=subprocess.PIPE, text=True)
        assert bed.line(load, PATIENCE, "the load").startswith("loading")
        answered = lambda: bed.counters()["worker.calls_answered"]
        for _ in range(4):
            at = answered()
            wait_until(lambda: answered() > at + 50, PATIENCE, "calls are answered")
            bed.processes.append(bed.host_start("echo", args=["--workers", "2"]))
            oldest = bed.processes.pop(0)
            oldest.send_signal(signal.SIGTERM)
            assert oldest.wait(PATIENCE) == 0, "a host did not end cleanly on SIGTERM"
        load.send_signal(signal.SIGTERM)
        result = json.loads(load.communicate(timeout=150)[0])
        bad = {k: v for k, v in result.items() if k not in ("OK", "calls", "slowest_s") and v}
        assert not bad and result["OK"] > 200, f"calls were lost while processes ended one by one: {result}"
        assert bed.counters()["balance.drained"] >= 4
    print(f"goodbyes: four processes replaced under load, {result['OK']} calls, none lost")


def ejects(build):
    """A process that fails is left out, whoever its keys belong to; the last good one never is."""
    fails = {"method": "/grpc.testing.TestService/UnaryCall", "hex": "3a02080d"}  # response_status.code = 13 INTERNAL
    balance = {"policy": "consistent_hash", "hash": {"by": "metadata", "key": "x-user"},
               "ejection": {"consecutive": 5, "time": "1h", "time_max": "1h", "share_max": 100}}
    with Balanced(build, balance, processes=2, program=pathlib.Path(build).resolve() / "tests/interop/interop") as bed:
        good = {"method": "/grpc.testing.TestService/EmptyCall"}
        user = {"metadata": {"x-user": "a"}}
        home = bed.whose(n=3, **good, **user)
        assert bed.ask(do="calls", n=4, **fails, **user) == {"INTERNAL": 4}
        assert bed.whose(n=1, **good, **user) == home  # a good one between: not in a row
        assert bed.ask(do="calls", n=5, **fails, **user) == {"INTERNAL": 5}
        wait_until(lambda: bed.state(home) == "ejected", PATIENCE, "the failing process is ejected")
        away = bed.whose(n=3, **good, **user)
        assert away != home
        bed.ask(do="calls", n=20, **fails, **user)
        assert bed.whose(n=3, **good, **user) == away, "the last good one was ejected"
        service = bed.service("grpc.testing.TestService")
        assert service["ejected_consecutive"] == 1 and service["eject_refused"] >= 1 and service["ejected"] == 1
    print("ejects: five failures in a row, and never the last")


def main():
    need_kernel("af_packet")
    for part in (turns, loads, keys, sticks, drains, goodbyes, ejects):
        if not sys.argv[2:] or part.__name__ in sys.argv[2:]:
            part(sys.argv[1])


if __name__ == "__main__":
    main()
