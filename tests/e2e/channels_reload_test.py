#!/usr/bin/python3
"""Channels configured anew under load: addresses, balance, retries, limits, certificates, channels that come and go. No call is lost; what
needs a restart is refused and named.

usage: channels_reload_test.py BUILD
"""
import copy
import pathlib
import shutil
import subprocess
import sys
import tempfile

import certs
from bed import Bed, CLIENT
from channels_remote_test import Server, config_of, quiet
from channels_test import Clients
from served import ROOT, need_kernel, wait_until

# Calls without a pause until it is told to stop; then how many there were, and which did not go well.
STEADY = r'''
import sys, threading
sys.path.insert(0, sys.argv[2])
import grpc
import echo_pb2 as pb
stop, lock, good, bad = threading.Event(), threading.Lock(), 0, []
channel = grpc.insecure_channel(sys.argv[1])
unary = channel.unary_unary("/split.examples.Front/Unary", request_serializer=pb.EchoMessage.SerializeToString,
                            response_deserializer=pb.EchoMessage.FromString)
def run(i):
    global good
    n = 0
    while not stop.is_set():
        n += 1
        sent = b"%d %d" % (i, n)
        try:
            right = unary(pb.EchoMessage(payload=sent, busy_us=2000 if n % 5 == 0 else 0), timeout=120).payload == sent
            with lock:
                good += right
                if not right:
                    bad.append("another's answer")
        except grpc.RpcError as e:
            with lock:
                bad.append(f"{e.code().name} {e.details()}")
threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
for t in threads:
    t.start()
print("begun", flush=True)
sys.stdin.readline()
stop.set()
for t in threads:
    t.join()
print(good, bad[:5], flush=True)
sys.exit(bool(bad))
'''


class Steady:
    def __init__(self, bed, protos):
        script = pathlib.Path(protos) / "steady.py"
        script.write_text(STEADY)
        self.process = bed.start(["/usr/bin/python3", script, bed.target, protos], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert bed.line(self.process, 60, "steady client").strip() == "begun"

    def end(self):
        out, _ = self.process.communicate("\n", timeout=300)
        assert self.process.returncode == 0, out
        return int(out.split()[0])


def change(bed, config, **back):
    """A copy of the configuration with other keys of channel "back", in force."""
    fresh = copy.deepcopy(config)
    fresh["channels"][0].update(back)
    status, said = bed.reload(fresh)
    assert status == 0, said
    return fresh


def under_load(bed, protos, clients):
    servers = [Server(bed, protos, port) for port in (6001, 6002)]
    config = change(bed, bed.config, target=f"{CLIENT}:6001")
    clients.run("ok")
    steady = Steady(bed, protos)
    # Another address, and only that one.
    before = servers[1].ask()
    change(bed, config, target=f"{CLIENT}:6002")
    wait_until(lambda: servers[1].ask() > before + 20, 60, "calls go to the other address")
    wait_until(lambda: bed.counters()["channel_back.gauge_connections"] == 1, 60, "the first one's connection is closed")
    before = servers[0].ask()
    clients.run("ok")
    assert servers[0].ask() == before
    # Both, by another policy, with retries.
    config = change(bed, config, target=f"{CLIENT}:6002,{CLIENT}:6001", balance={"policy": "power_of_two"},
                    retry={"attempts_max": 4, "backoff": "10ms", "tokens_max": 0})
    wait_until(lambda: servers[0].ask() > before + 20, 60, "both addresses have calls")
    retries = bed.counters()["channel_back.retries"]
    for s in servers:
        s.ask("fail 1")
    wait_until(lambda: bed.counters()["channel_back.retries"] > retries, 60, "calls are tried again")
    # A channel that was not there; what is in a file twice changes nothing.
    more = copy.deepcopy(config)
    more["channels"].insert(0, {"name": "third", "target": f"{CLIENT}:6001"})
    for _ in range(3):
        status, said = bed.reload(more)
        assert status == 0, said
    wait_until(lambda: "channel_third.calls" in bed.counters(), 60, "the new channel's counters are there")
    status, said = bed.reload(config)
    assert status == 0, said
    wait_until(lambda: "channel_third.calls" not in bed.counters(), 60, "they have gone")
    good = steady.end()
    assert good > 50, good
    print("under load: passed;", good, "calls,", bed.counters()["channel_back.addresses_updates"], "times other addresses")
    return config, servers


def comes_and_goes(bed, clients, config):
    without = copy.deepcopy(config)
    without["channels"] = [c for c in config["channels"] if c["name"] != "back"]
    status, said = bed.reload(without)
    assert status == 0, said
    wait_until(lambda: "taken out of the configuration" in clients.run("gone"), 60, "the channel is not there")
    status, said = bed.reload(config)
    assert status == 0, said
    wait_until(lambda: clients.run("ok"), 60, "it is there again")
    # Fewer calls at once than there are callers: some are refused, and none any more when it is as before.
    change(bed, config, calls_max=1)
    steady_refused = subprocess.run(bed.inside(clients.command("many")), capture_output=True, text=True, timeout=300)
    assert steady_refused.returncode != 0 and "RESOURCE_EXHAUSTED" in steady_refused.stderr, steady_refused.stderr[-500:]
    change(bed, config)
    clients.run("ok")
    # What needs a restart.
    wrong = copy.deepcopy(config)
    wrong["client"] = {"calls_max": 8}
    wrong["channels"][0]["calls_max"] = 1
    status, said = bed.reload(wrong)
    assert status != 0 and "client.calls_max has changed; this needs a restart" in said, said
    clients.run("ok")
    print("channels that come and go: passed")


def certificates(bed, protos, clients, config):
    ca, other = (certs.Authority(protos, name) for name in ("first", "second"))
    shown, trusted = {}, pathlib.Path(protos) / "trusted.pem"
    for a in (ca, other):
        shown[a] = a.make("server", ["DNS:server.example"], file=f"server-{a.name}")
    shutil.copy(ca.cert, trusted)
    servers = [Server(bed, protos, 6003, tls=shown[ca]), Server(bed, protos, 6004, tls=shown[other])]
    config = change(bed, config, target=f"{CLIENT}:6003,{CLIENT}:6004", tls={"ca": str(trusted), "name": "server.example"})
    wait_until(lambda: clients.run("ok"), 60, "TLS is spoken")
    assert servers[0].ask() > 0 and servers[1].ask() == 0
    wait_until(lambda: "port 6004: the TLS handshake with the server failed: " in bed.log_text(), 60, "the log says why")
    # A file that is none: nothing changes.
    trusted.write_text("no certificate\n")
    status, said = bed.reload(config)
    assert status != 0 and "trusted.pem" in said, said
    clients.run("ok")
    # The other authority is trusted, under load: new connections go by it.
    steady = Steady(bed, protos)
    trusted.write_bytes(ca.cert.read_bytes() + other.cert.read_bytes())
    status, said = bed.reload(config)
    assert status == 0, said
    wait_until(lambda: servers[1].ask() > 0, 60, "the other server is trusted")
    good = steady.end()
    print("certificates: passed;", good, "calls meanwhile")
    return servers


def main():
    build = sys.argv[1]
    need_kernel("af_packet")
    with tempfile.TemporaryDirectory() as protos:
        subprocess.run(["protoc", f"-I{ROOT / 'examples/echo'}", f"--python_out={protos}", "echo.proto"], check=True)
        config = config_of()
        own = config["channels"].pop()
        with Bed(build, config) as bed:
            clients = Clients(bed, protos)
            bed.splitd_start()
            # Its host may attach once both its channels are there.
            bed.config["channels"].append(own)
            status, said = bed.reload(bed.config)
            assert status == 0, said
            bed.host_start("front", "front", args=("--workers", "2"))
            config, _ = under_load(bed, protos, clients)
            comes_and_goes(bed, clients, config)
            _ = certificates(bed, protos, clients, config)
            quiet(bed)
            assert bed.splitd_stop() == 0, bed.log_text()


if __name__ == "__main__":
    main()
