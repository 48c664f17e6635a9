#!/usr/bin/python3
"""The socket backend: a host on another machine (here: in another network namespace), behind tcp://.

usage: socket_test.py BUILD PART

PART is `plain` (kinds of call, metadata, errors, large messages, death of the host, restart of splitd), `large` (answers
that cannot go over the connection end their calls and nothing else), `interop` (grpc.testing.TestService over there and every official
case of a stock client: all kinds, metadata both ways, status and details, deadline, cancel), `front` (calls out of a handler, over there and back:
all kinds, many, deadline and cancel passed on, death of the callee), `balanced` (one host here and one there behind one service, under load: both
serve, reload, drain, an orderly end, and no call fails), or `tls` (mutual TLS: a host without a certificate, one with another authority's and one whose certificate is for another name are
refused, with a line that says so on both sides; hosts[].remote_names, also as a reload changes them).
"""
import json
import os
import signal
import subprocess
import sys
import tempfile

from bed import Bed, demo_config, settled
from certs import Authority
from channels_test import Clients, config_of, quiet
from far import SPLITD, Far, far_config
from served import ROOT, need_kernel, wait_until

PATIENCE = 60


def config():
    c = demo_config()
    for service in c["services"]:
        service.update(decode="host", encode="host")  # means nothing for a host that is far
    for h in c["hosts"]:
        h.update(hugepages_fallback=True)
    return far_config(c, [h["name"] for h in c["hosts"] if h["name"] != "greeter"])


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
    # Each once; on a machine so busy that a host gave up waiting for its refusal, once more.
    assert bed.counters()["control.attach_refused_certificate"] >= 2, bed.counters()
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


def interop(bed, far):
    bed.splitd_start()
    far.host("interop", bed.build / "tests/interop/interop", args=["--workers", "2"])
    assert bed.probe("interop")
    done = subprocess.run(bed.inside([ROOT / "tests/interop/grpcio_cases.py", bed.target]), capture_output=True, text=True, timeout=300)
    print(done.stdout)
    ok = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("ok ")}
    wanted = {"large_unary", "client_streaming", "server_streaming", "ping_pong", "custom_metadata", "status_code_and_message",
              "special_status_message", "cancel_after_begin", "timeout_on_sleeping_server"}
    assert done.returncode == 0 and wanted <= ok, f"{sorted(wanted - ok)}: {done.stderr}"
    settled(bed, PATIENCE)
    told = relayed(bed)
    assert told["connections"] == 1 and told["faults"] == 0, told


def front(bed, far):
    with tempfile.TemporaryDirectory() as protos:
        subprocess.run(["protoc", f"-I{ROOT / 'examples/echo'}", f"--python_out={protos}", "echo.proto"], check=True)
        clients = Clients(bed, protos)
        bed.splitd_start()
        far.host("front", "front", args=["--workers", "2"])
        assert "no host serves" in clients.run("gone")
        # The callee here, then over there as well: the call goes there, back, and there again.
        echo = bed.host_start("echo")
        clients.run("ok")
        echo.terminate()
        assert echo.wait(PATIENCE) == 0
        echo = far.host("echo", args=["--workers", "2"])
        clients.run("ok")
        clients.run("kinds")
        clients.run("many")
        quiet(bed)
        told = bed.counters()
        assert told["worker.outs"] > 3000 and told["relay.faults"] == 0, told
        print("kinds, many: passed;", told["worker.outs"], "calls out", flush=True)
        # The callee hangs: deadline and cancel of the outer call end the inner one.
        echo.send_signal(signal.SIGSTOP)
        clients.run("deadline")
        process = clients.start("cancel")
        assert bed.line(process, PATIENCE, "client").strip() == "begun"
        wait_until(lambda: bed.counters()["worker.gauge_outs"] >= 1, PATIENCE, "calls out wait for the callee")
        process.stdin.write("\n")
        process.stdin.flush()
        assert bed.line(process, PATIENCE, "client").strip() == "cancelled"
        wait_until(lambda: bed.counters()["worker.gauge_outs"] == 0, PATIENCE, "cancelled calls out are gone")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(PATIENCE) == 0
        # It dies under a call out.
        process = clients.start("late")
        assert bed.line(process, PATIENCE, "client").strip() == "begun"
        wait_until(lambda: bed.counters()["worker.gauge_outs"] >= 1, PATIENCE, "a call out waits for the callee")
        echo.kill()
        said = bed.line(process, PATIENCE, "client").strip()
        assert said.startswith("UNAVAILABLE"), said
        assert process.wait(PATIENCE) == 0
        far.host("echo")
        clients.run("ok")
        quiet(bed)
        print("deadline, cancel, death: passed", flush=True)


def balanced(bed, far):
    """Nobody may see anything of what happens to the two."""
    bed.splitd_start()
    bed.host_start("echo", args=["--workers", "2"])
    there = far.host("echo2", args=["--workers", "2"])
    assert bed.probe()
    settled(bed, PATIENCE)
    calls = lambda: {e["name"]: e["calls"] for e in bed.ctl("endpoints")}
    state = lambda name: next((e["state"] for e in bed.ctl("endpoints") if e["name"] == name), None)

    def more(names, n=50):
        at = calls()
        wait_until(lambda: all(calls()[name] >= at[name] + n for name in names), PATIENCE, f"{n} more calls for each of {names}")

    answered = bed.counters()["worker.calls_answered"]
    load = bed.start([ROOT / "tests/e2e/steady_load.py", bed.target, "--timeout", 90, "--at-once", 8], stdout=subprocess.PIPE, text=True)
    assert bed.line(load, PATIENCE, "the load").startswith("loading")
    more(["echo", "echo2"])
    for policy in ("least_outstanding", "power_of_two", "round_robin"):
        changed = json.loads(json.dumps(bed.config))
        changed["services"][0]["balance"] = policy
        status, said = bed.reload(changed)
        assert status == 0, said
        more(["echo", "echo2"])
    bed.ctl("drain echo2")
    wait_until(lambda: state("echo2") == "drained", PATIENCE, "the one over there is drained")
    quiet_at = calls()["echo2"]
    more(["echo"])
    assert calls()["echo2"] == quiet_at, "a drained host got calls"
    bed.ctl("undrain echo2")
    more(["echo", "echo2"])
    # An orderly end under load, and another in its place.
    there.terminate()
    assert there.wait(PATIENCE) == 0, "the host did not end cleanly"
    far.host("echo2", args=["--workers", "2"])
    more(["echo", "echo2"])
    load.send_signal(signal.SIGTERM)
    result = json.loads(load.communicate(timeout=180)[0])
    print(result, flush=True)
    assert result["OK"] == result["calls"] > 0, f"calls failed: {result}"
    settled(bed, PATIENCE)
    told = bed.counters()
    assert told["worker.calls_answered"] - answered == result["calls"], (told["worker.calls_answered"], answered, result)
    assert told["relay.faults"] == 0


def balanced_config():
    c = demo_config()
    c["hosts"] = [{"name": name, "uids": [0], "hugepages_fallback": True} for name in ("echo", "echo2")]
    c["services"] = [{"name": "split.examples.Echo", "hosts": ["echo", "echo2"], "balance": "round_robin"}]
    return far_config(c, ["echo2"])


PARTS = {
    "plain": (plain, config),
    "large": (large, config),
    "interop": (interop, config),
    "front": (front, lambda: far_config(config_of(), ["echo", "front"])),
    "balanced": (balanced, balanced_config),
    "tls": (tls, config),
}


def main():
    build, part = sys.argv[1:]
    need_kernel("af_packet")
    run, make = PARTS[part]
    with Bed(build, make()) as bed, Far(bed) as far:
        run(bed, far)
    print("ok")


if __name__ == "__main__":
    main()
