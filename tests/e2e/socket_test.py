#!/usr/bin/python3
"""The socket backend: a host on another machine (here: in another network namespace), behind tcp://.

usage: socket_test.py BUILD PART

PART is `plain` (kinds of call, metadata, errors, large messages, death of the host, restart of splitd), `large` (answers
that cannot go over the connection end their calls and nothing else), or `tls`
(mutual TLS: a host without a certificate, one with another authority's and one whose certificate is for another name are
refused, with a line that says so on both sides; hosts[].remote_names, also as a reload changes them).
"""
import json
import os
import signal
import subprocess
import sys

from bed import Bed, demo_config, settled
from certs import Authority

from served import ROOT, need_kernel, wait_until

PATIENCE = 60
SPLITD, HOST, PORT = "198.19.0.1", "198.19.0.2", 7400


def config(tls=None):
    c = demo_config()
    c["remote"] = {"address": SPLITD, "port": PORT, "timeout": "5s"}
    if tls:
        c["remote"]["tls"] = tls
    for service in c["services"]:
        service.update(decode="host", encode="host")  # means nothing for a host that is far
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


def client(bed, what, *args, seconds=240):
    """streams_client.py: every message is compared byte for byte."""
    process = bed.start([ROOT / "tests/e2e/streams_client.py", bed.target, what, *map(json.dumps, args)], stdout=-1, stderr=-1, text=True)
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, f"{what} {args}: {out}{err}\n{bed.log_text()[-4000:]}"
    print(f"{what} {args}: {json.loads(out)}", flush=True)


def matrix(bed):
    """Unary calls from nothing to 4 MiB, by one and by many."""
    for size, at_once in ((0, 1), (64, 16), (48 * 1024, 16), (4 * 1024 * 1024 - 64, 4)):
        done = subprocess.run(bed.inside([ROOT / "tests/e2e/grpcio_client.py", bed.target, "--json", "--bytes", size, "--calls", 40,
                                          "--at-once", at_once, "--connections", 2]), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{size} bytes: {done.stdout}{done.stderr}\n{bed.log_text()[-4000:]}"
    print("unary calls from nothing to 4 MiB, no error", flush=True)


def relayed(bed):
    c = bed.counters()
    return {k.split(".")[1]: v for k, v in c.items() if k.startswith("relay.")}


def plain(bed, far):
    bed.splitd_start()
    # Names that are not for other machines, and none at all, are refused with a line that says so.
    for name, program in (("greeter", "greeter"), ("nobody", "echo")):
        host = far.host(name, program, wait=False)
        wait_until(lambda: f'attach of "{name}" (remote' in bed.log_text(), PATIENCE, f"{name} is refused")
        host.terminate()
        host.wait(PATIENCE)
    host = far.host("echo", args=["--workers", "2"])
    assert bed.probe(), "no answer over the socket"
    matrix(bed)
    client(bed, "many", 20, 20, [0, 64, 1000, 20000, 300000], 2)
    client(bed, "slow_reader", 100, 200000, 2)
    client(bed, "slow_handler", 200, 20000, 100)
    client(bed, "cancels", 2, 7, 2)
    settled(bed, PATIENCE)
    told = relayed(bed)
    print(told)
    assert told["slots_out"] > 0 and told["slots_in"] > 0 and told["faults"] == 0

    # The host dies: its calls end, another takes over.
    process = bed.start([ROOT / "tests/e2e/streams_client.py", bed.target, "until", "40", "false"], stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "open\n", "the streams did not open"
    host.kill()
    out, _ = process.communicate(input="go\n", timeout=120)
    facts = json.loads(out)
    assert facts["wrong_n"] == 0 and facts.get("UNAVAILABLE") == 40, facts
    host.wait(PATIENCE)
    host = far.host("echo", args=["--workers", "2"])
    assert bed.probe(), "no answer after the host was replaced"

    # A machine that is gone without a word: its cable is cut.
    subprocess.run(bed.inside(["ip", "link", "set", "far0", "down"]), check=True)
    wait_until(lambda: relayed(bed)["connections"] > 0 and "connection closed: nothing was heard" in bed.log_text(), PATIENCE,
               "splitd notices that the machine is gone")
    subprocess.run(bed.inside(["ip", "link", "set", "far0", "up"]), check=True)
    wait_until(lambda: bed.probe(seconds=5), PATIENCE, "the host has attached again by itself")

    # splitd is killed and comes back: the host attaches again by itself.
    bed.splitd_stop(signal.SIGKILL)
    bed.splitd_start()
    wait_until(lambda: bed.probe(seconds=5), PATIENCE, "the host has attached again by itself")
    # An orderly end of the host, then of splitd.
    host.terminate()
    assert host.wait(PATIENCE) == 0, "the host did not end cleanly"
    assert bed.splitd_stop() == 0, "splitd did not end cleanly"


def large(bed, far):
    """Answers that no window can take, in the midst of others."""
    for h in bed.config["hosts"]:
        h["to_daemon"] = "4MiB"
    bed.splitd_start()
    far.host("echo", args=["--workers", "2"])
    assert bed.probe()
    done = bed.start([ROOT / "tests/e2e/streams_client.py", bed.target, "too_large", str(3 << 20), "5"], stdout=-1, text=True)
    out, _ = done.communicate(timeout=240)
    facts = json.loads(out)
    print(facts, flush=True)
    assert facts["wrong_n"] == 0 and facts.get("RESOURCE_EXHAUSTED") == 5, facts
    settled(bed, PATIENCE)
    told = relayed(bed)
    print(told)
    assert told["connections"] == 1 and told["faults"] == 0, "the connection did not last"


def tls(bed, far):
    good, other = Authority(bed.work, "ca"), Authority(bed.work, "other")
    cert, key = good.make("splitd", [f"IP:{SPLITD}"])
    bed.config["remote"]["tls"] = {"cert": str(cert), "key": str(key), "ca": str(good.cert)}
    env = lambda cert, key, ca: {"SPLITD_TLS_CERT": str(cert), "SPLITD_TLS_KEY": str(key), "SPLITD_TLS_CA": str(ca)}
    bed.splitd_start()

    def refused(what, env, line):
        before = bed.counters()["relay.refused"]
        host = far.host("echo", wait=False, env=env)
        wait_until(lambda: bed.counters()["relay.refused"] > before, PATIENCE, f"{what} is refused")
        wait_until(lambda: line in bed.log_text(), PATIENCE, f"{what}: {line!r} in a log")
        host.terminate()
        host.wait(PATIENCE)
        print(f"{what}: refused", flush=True)

    # A stranger: without TLS; with a certificate of another authority; who trusts another authority than splitd's.
    refused("no certificate", {}, "refused: ")
    refused("another authority's certificate", env(*other.make("stranger", client=True), good.cert), "TLS: the peer's certificate: ")
    refused("a host that does not trust splitd", env(*good.make("host0", client=True), other.cert), "alert unknown ca")
    # One of the right authority whose certificate is for another name, or for none: it has to be for "echo".
    wrong = "attach: the certificate is not for this name"
    uri = "spiffe://example.org/echo"
    names = good.make("names", ["DNS:greeter", f"URI:{uri}", "IP:198.19.0.2"], client=True)
    refused("another name's certificate", env(*names, good.cert), f"refused: {wrong}; it is for DNS:greeter URI:{uri}")
    refused("a certificate without a name", env(*good.make("echo", client=True), good.cert), "; it has no DNS name and no URI")
    assert f"{wrong}\n" in bed.log_text(), "the host does not say why"
    assert bed.counters()["control.attach_refused_certificate"] == 2, bed.counters()
    assert not bed.probe(seconds=1), "a stranger serves"
    host = far.host("echo", env=env(*good.make("host", ["DNS:other", "DNS:Echo"], client=True), good.cert))
    assert bed.probe(), "no answer over TLS"
    # A list takes the place of the name: whoever is not in it any more goes, who is comes.
    entry = next(h for h in bed.config["hosts"] if h["name"] == "echo")
    entry["remote_names"] = ["someone", uri]
    status, said = bed.reload(bed.config)
    assert status == 0, said
    wait_until(lambda: not bed.ctl("endpoints"), PATIENCE, "the host whose name the reload took away goes")
    host.terminate()
    host.wait(PATIENCE)
    far.host("echo", env=env(*names, good.cert))
    assert bed.probe(), "no answer of the host that the list names"
    matrix(bed)
    client(bed, "many", 10, 10, [0, 1000, 300000], 2)
    assert relayed(bed)["refused_tls"] >= 2


def main():
    build, part = sys.argv[1:]
    need_kernel("af_packet")
    with Bed(build, config()) as bed, Far(bed) as far:
        {"plain": plain, "large": large, "tls": tls}[part](bed, far)
    print("ok")


if __name__ == "__main__":
    main()
