#!/usr/bin/python3
"""Tenants under user ids of their own: what one can do to another is compete within its share, and nothing else.

usage: isolation_test.py BUILD

Two processes run under two uids, each attached under its own name, for its own service. What is judged is what the kernel
and splitd let one do (files, mappings, tracing, names, services), and counts of calls: never times.
"""
import json
import os
import shutil
import subprocess
import sys

from bed import Bed, demo_config, settled
from served import ROOT, need_kernel, wait_until

PATIENCE = 60
UID_A, UID_B = 61001, 61002  # of nobody: files are made readable by all

# Run as one tenant: tries to get at process PID, whose segments lie at RANGES and behind the descriptors FDS. Prints what it
# could do; "nothing" is what it should be able to do.
INTRUDER = r"""
import ctypes, json, mmap, os, sys
pid, ranges, fds = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
done = []

def attempt(name, what):
    try:
        if what():
            done.append(name)
    except OSError:
        pass

def mapped(flags, prot):
    def go():
        for path in [f"/proc/{pid}/map_files/{r}" for r in ranges] + [f"/proc/{pid}/fd/{n}" for n in fds]:
            fd = os.open(path, flags)
            mmap.mmap(fd, 2 << 20, prot=prot)
        return True
    return go

def memory():
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    return len(os.pread(fd, 16, int(ranges[0].split("-")[0], 16))) == 16

def vm_read():
    class IoVec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
    buf = ctypes.create_string_buffer(16)
    mine, theirs = IoVec(ctypes.addressof(buf), 16), IoVec(int(ranges[0].split("-")[0], 16), 16)
    return libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0) == 16

def getfd():
    pidfd = os.pidfd_open(pid)
    return any(libc.syscall(438, pidfd, n, 0) >= 0 for n in fds or range(64))  # pidfd_getfd

def trace():
    ok = libc.ptrace(16, pid, 0, 0) == 0  # PTRACE_ATTACH
    if ok:
        os.waitpid(pid, 0)
        libc.ptrace(17, pid, 0, 0)
    return ok

attempt("list its descriptors", lambda: os.listdir(f"/proc/{pid}/fd") is not None)
attempt("map its segments", mapped(os.O_RDONLY, mmap.PROT_READ))
attempt("map its segments to write", mapped(os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE))
attempt("read its memory by /proc", memory)
attempt("read its memory by process_vm_readv", vm_read)
attempt("take a descriptor", getfd)
attempt("trace it", trace)
attempt("signal it", lambda: os.kill(pid, 0) is None)
print(json.dumps(done))
"""


def config():
    c = demo_config()
    c["workers"] = c["workers"][:1]
    small = {"to_host": "16MiB", "to_daemon": "16MiB", "hugepages_fallback": True}
    c["hosts"] = [{"name": "a", "uids": [UID_A], **small, "share": 300}, {"name": "b", "uids": [UID_B], **small}]
    c["services"] = [{"name": "split.examples.Echo", "hosts": ["a"], "limits": {"queue_max": 32}},
                     {"name": "split.examples.Greeter", "hosts": ["b"]}]
    c["linearize"] = {"linear_bytes_max": "4MiB"}
    c["grpc"] = {"message_bytes_max": "1MiB"}
    return c


def segments_of(pid):
    """What root sees: ranges of its mapped segments, and descriptors of them if it keeps any."""
    ranges = [line.split()[0] for line in open(f"/proc/{pid}/maps") if "memfd:splitd-" in line]
    fds = []
    for n in os.listdir(f"/proc/{pid}/fd"):
        try:
            if "memfd:splitd-" in os.readlink(f"/proc/{pid}/fd/{n}"):
                fds.append(int(n))
        except OSError:
            pass
    return ranges, fds


class Tenants(Bed):
    def programs(self):
        """Copies that any uid can run, wherever the build is."""
        os.chmod(self.work, 0o755)
        place = self.work / "bin"
        place.mkdir()
        for name in ("echo", "greeter"):
            shutil.copy(self.build / "examples" / name, place)
        for lib in (self.build / "host-lib").glob("libsplit-host.so*"):
            if lib.is_file():
                shutil.copy(lib, place)
        for path in [place, *place.iterdir()]:
            path.chmod(0o755)
        return place

    def tenant(self, name, program, uid, wait=True):
        return self.host_start(name, program=self.place / program, wait=wait, user=uid, group=uid, extra_groups=[],
                               env={**os.environ, "LD_LIBRARY_PATH": str(self.place)}, cwd="/")


def intrude(uid, pid, ranges, fds):
    done = subprocess.run(["/usr/bin/python3", "-c", INTRUDER, str(pid), json.dumps(ranges), json.dumps(fds)], user=uid, group=uid,
                          extra_groups=[], cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def apart(bed, a, b):
    """Neither gets at the other's segments, nor at splitd; root would."""
    for uid, victim in ((UID_B, a.pid), (UID_A, b.pid), (UID_A, bed.splitd.pid)):
        ranges, fds = segments_of(victim)
        assert len(ranges) >= 2, f"{victim} has no segments: the test would prove nothing"
        could = intrude(uid, victim, ranges, fds)
        assert not could, f"uid {uid} could, with process {victim}: {could}"
    could = intrude(0, a.pid, *segments_of(a.pid))
    assert "map its segments" in could and "list its descriptors" in could, f"not even root could: {could}"
    assert "map its segments to write" not in could, "a new writable mapping was made: the seals did not hold"
    print("apart: files, mappings, memory, descriptors, tracing, signals")


def names(bed):
    """A uid attaches under its own name only, and serves what the configuration gives that name."""
    before = bed.counters()
    refused = bed.tenant("a", "echo", UID_B, wait=False)
    assert refused.wait(PATIENCE) != 0
    refused = bed.tenant("b", "echo", UID_B, wait=False)  # its own name, the other's service
    assert refused.wait(PATIENCE) != 0
    after = bed.counters()
    assert after["control.attach_refused_uid"] == before["control.attach_refused_uid"] + 1
    assert after["control.attach_refused_name"] == before["control.attach_refused_name"] + 1
    assert len(bed.ctl("endpoints")) == 2
    print("names: a foreign name and a foreign service are refused")


def flood(bed, client):
    """A connection that floods a slow service fills its own line: others of the service, and the other tenant, lose nothing."""
    def ask(**request):
        client.stdin.write(json.dumps(request) + "\n")
        client.stdin.flush()
        return json.loads(bed.line(client, 300, "the client"))
    before = bed.counters()
    slow = "18" + "a08d06"  # busy_us: 100000
    ask(do="flood", key="f", n=200, hex=slow, channel="flood")
    wait_until(lambda: bed.counters()["balance.queue_full"] > before["balance.queue_full"], PATIENCE, "the queue is full")
    assert ask(do="calls", n=30, method="/split.examples.Greeter/SayHello", channel="b") == {"OK": 30}
    assert ask(do="calls", n=5, hex="0a0161", channel="other") == {"OK": 5}
    got = ask(do="join", key="f")
    assert got.get("OK", 0) > 0 and got.get("RESOURCE_EXHAUSTED", 0) > 0 and set(got) <= {"OK", "RESOURCE_EXHAUSTED"}, got
    print(f"flood: {got}; the other connection and the other tenant lost nothing")


def main():
    need_kernel("af_packet")
    with Tenants(sys.argv[1], config()) as bed:
        bed.place = bed.programs()
        bed.splitd_start()
        a, b = bed.tenant("a", "echo", UID_A), bed.tenant("b", "greeter", UID_B)
        assert {e["name"]: e["uid"] for e in bed.ctl("endpoints")} == {"a": UID_A, "b": UID_B}
        assert bed.probe("echo", PATIENCE) and bed.probe("greeter", PATIENCE)
        apart(bed, a, b)
        names(bed)
        client = bed.start([ROOT / "tests/e2e/balance_client.py", bed.target], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           stderr=bed.log, text=True)
        flood(bed, client)
        settled(bed, PATIENCE)
        had = {e["name"]: e for e in bed.ctl("endpoints")}
        assert had["a"]["calls"] > 30 and had["b"]["calls"] >= 30 and had["a"]["open"] == had["b"]["open"] == 0, had
        assert bed.splitd_stop() == 0


if __name__ == "__main__":
    main()
