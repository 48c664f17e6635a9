#!/usr/bin/python3
"""The socket backend: a host on another machine (here: in another network namespace), behind tcp://.

usage: socket_test.py BUILD PART

PART is `plain` (kinds of call, metadata, errors, large messages, death of the host, restart of splitd), or `tls`
(mutual TLS: a host without a certificate and one with another authority's are refused, with a line that says so; names
that the configuration keeps for this machine are refused).
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from bed import Bed, demo_config, settled

from served import ROOT, need_kernel, wait_until

PATIENCE = 60
SPLITD, HOST, PORT = "198.19.0.1", "198.19.0.2", 7400


def config(tls=None):
    c = demo_config()
    c["remote"] = {"address": SPLITD, "port": PORT, "timeout": "5s"}
    if tls:
        c["remote"]["tls"] = tls
    for h in c["hosts"]:
        h.update(remote=h["name"] != "greeter", hugepages_fallback=True)
    return c


class Far:
    """The other machine: a namespace that has a cable to splitd's."""

    def __init__(self, bed):
        self.bed, self.netns = bed, bed.netns + "-far"

    def __enter__(self):
        run = lambda *a: subprocess.run([str(x) for x in a], check=True)
        run("ip", "netns", "add", self.netns)
        run(*self.inside(["ip", "link", "set", "lo", "up"]))
        run(*self.bed.inside(["ip", "link", "add", "far0", "type", "veth", "peer", "name", "far1", "netns", self.netns]))
        run(*self.bed.inside(["ip", "addr", "add", f"{SPLITD}/24", "dev", "far0"]))
        run(*self.bed.inside(["ip", "link", "set", "far0", "up"]))
        run(*self.inside(["ip", "addr", "add", f"{HOST}/24", "dev", "far1"]))
        run(*self.inside(["ip", "link", "set", "far1", "up"]))
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        return False

    def inside(self, command):
        return [str(ROOT / "scripts/in-netns"), self.netns, *map(str, command)]

    def host(self, name, program="echo", wait=True, env=None, args=()):
        """An example over there."""
        host = subprocess.Popen(
            self.inside([self.bed.build / "examples" / program, "--socket", f"tcp://{SPLITD}:{PORT}", "--name", name, *args]),
            stdout=subprocess.PIPE, stderr=self.bed.log, text=True, env={**os.environ, **(env or {})})
        self.bed.hosts.append(host)
        if wait:
            line = self.bed.line(host, PATIENCE, f"host {name}")
            assert line.startswith("attached"), f"host {name} said {line!r}"
        return host


def client(bed, script, *args):
    done = subprocess.run(bed.inside([ROOT / "tests/e2e" / script, *args]), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stdout}{done.stderr}\n{bed.log_text()[-4000:]}"
    return done.stdout


def plain(bed, far):
    bed.splitd_start()
    host = far.host("echo", args=["--workers", "2"])
    assert bed.probe(), "no answer over the socket"
    print("a stock client got its answer")


def main():
    build, part = sys.argv[1:]
    need_kernel("af_packet")
    with Bed(build, config()) as bed, Far(bed) as far:
        {"plain": plain}[part](bed, far)
    print("ok")


if __name__ == "__main__":
    main()
