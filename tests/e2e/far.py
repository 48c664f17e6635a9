"""The other machine of the socket backend's tests: a network namespace with a cable to the Bed's, and hosts in it.

`with Bed(build, config) as bed, Far(bed) as far: bed.splitd_start(); far.host("echo")`; far_config() adds what lets them in.
"""
import os
import subprocess

from served import ROOT

PATIENCE = 60
SPLITD, HOST, PORT = "198.19.0.1", "198.19.0.2", 7400


def far_config(config, names, timeout="5s", tls=None):
    """Lets hosts of these names attach from over there."""
    config["remote"] = {"address": SPLITD, "port": PORT, "timeout": timeout}
    if tls:
        config["remote"]["tls"] = tls
    for h in config["hosts"]:
        h["remote"] = h["name"] in names
    return config


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
