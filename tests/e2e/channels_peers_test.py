#!/usr/bin/python3
"""Calls out of a handler to stock servers of other languages, over other ports, by IPv6, with TLS, and by name: all four kinds and many at
once, byte for byte, as channels_remote_test.py has them with grpcio over AF_PACKET.

usage: channels_peers_test.py BUILD grpcio|grpcpp|node tap|af_packet|af_xdp [ipv6] [tls] [name]

With "name" the channel goes to a name, which the system's resolver knows from a hosts file that changes under way.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

import certs
from bed import Bed, CLIENT
from channels_remote_test import Server, clients_ok, config_of, quiet
from channels_test import Clients
from served import ROOT, need_kernel, skip, wait_until

sys.path.insert(0, str(ROOT / "tests/interop"))
import node_modules  # noqa: E402

SERVER6, SPLITD6, NAME = "2001:2::1", "2001:2::2", "server.test.example"


class Peer:
    """As channels_remote_test.Server, of another language."""

    def __init__(self, bed, language, address, tls=()):
        env = dict(os.environ)
        command = [bed.build / "tests/e2e/grpcpp_server"]
        if language == "node":
            env["INTEROP_NODE_MODULES"] = str(node_modules.installed(bed.build))
            command = ["node", ROOT / "tests/e2e/echo_server.js"]
        self.process = bed.start([*command, address, *tls], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        if bed.line(self.process, 60, "server").strip() != "ready":
            raise RuntimeError("the server does not start")

    def kill(self):
        self.process.kill()
        self.process.wait()


class NamedBed(Bed):
    """splitd sees a hosts file of the test's own."""

    def __enter__(self):
        super().__enter__()
        self.hosts_file = self.work / "hosts"
        self.hosts_file.write_text("")
        return self

    def inside(self, command):
        command = list(map(str, command))
        if command[0] == str(self.build / "daemon/splitd"):
            command = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self.hosts_file), *command]
        return super().inside(command)


def ipv6_add(bed):
    for name in ("sd0",) if bed.port == "tap" else ("cl0",):
        subprocess.run(bed.inside(["sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=0"]), check=True)
        subprocess.run(bed.inside(["ip", "addr", "add", f"{SERVER6}/48", "dev", name, "nodad"]), check=True)


def server_start(bed, protos, language, host, port, tls=()):
    if language == "grpcio":
        return Server(bed, protos, port, tls=tls, host=host)
    return Peer(bed, language, f"{host}:{port}", tls)


def names(bed, clients, protos, language):
    """What the hosts file says is where calls go, again and again."""
    served = {}
    for port_host in (CLIENT, "198.18.0.9"):
        subprocess.run(bed.inside(["ip", "addr", "replace", f"{port_host}/24", "dev", "cl0"]), check=True)
    for host in (CLIENT, "198.18.0.9"):
        served[host] = server_start(bed, protos, language, host, 6001)
    assert "cannot be resolved" in bed.log_text() or "UNAVAILABLE" in clients.run("gone")
    for host in (CLIENT, "198.18.0.9", CLIENT):
        before = bed.counters()["channel_back.addresses_updates"]
        bed.hosts_file.write_text(f"{host} {NAME}\n")
        wait_until(lambda: bed.counters()["channel_back.addresses_updates"] > before, 60, f"{NAME} is {host}")
        clients.run("ok")
    # The name's one server dies: calls fail, until the name is that of another.
    served[CLIENT].kill()
    wait_until(lambda: "UNAVAILABLE" in clients.run("gone"), 60, "no server is left")
    bed.hosts_file.write_text(f"198.18.0.9 {NAME}\n")
    clients_ok(clients)
    # A name that is not known any more takes no server away.
    before = bed.log_text().count("cannot be resolved")
    bed.hosts_file.write_text("")
    wait_until(lambda: bed.log_text().count("cannot be resolved") > before, 60, "the resolver is asked again")
    clients.run("ok")


def main():
    build, language, port, *more = sys.argv[1:]
    need_kernel(port)
    if "name" in more and subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
        skip("kernel feature missing: mount namespaces")
    host, tls, keys = CLIENT, (), {}
    with tempfile.TemporaryDirectory() as protos:
        subprocess.run(["protoc", f"-I{ROOT / 'examples/echo'}", f"--python_out={protos}", "echo.proto"], check=True)
        if "ipv6" in more:
            host = f"[{SERVER6}]"
        if "tls" in more:
            ca = certs.Authority(protos)
            tls = ca.make("server", ["DNS:server.example"])
            keys["tls"] = {"ca": str(ca.cert), "name": "server.example"}
        if "name" in more:
            keys["resolve_interval"] = "200ms"
        target = f"{NAME}:6001" if "name" in more else f"{host}:6001"
        config = config_of(target=target, **keys)
        if "ipv6" in more:
            config["ports"][0]["addresses"].append(f"{SPLITD6}/48")
        with (NamedBed if "name" in more else Bed)(build, config, port=port) as bed:
            clients = Clients(bed, protos)
            bed.splitd_start()
            if "ipv6" in more:
                ipv6_add(bed)
            bed.host_start("front", "front", args=("--workers", "2"))
            if "name" in more:
                names(bed, clients, protos, language)
            else:
                server_start(bed, protos, language, host, 6001, tls)
                clients_ok(clients)  # its own address may still be looked for on the link (IPv6)
                clients.run("kinds")
                clients.run("many")
            quiet(bed)
            counters = bed.counters()
            if "tls" in more:
                assert counters["tls_client.handshakes"] >= 1, counters
            assert bed.splitd_stop() == 0, bed.log_text()
    print(language, port, *more, "passed")


if __name__ == "__main__":
    main()
