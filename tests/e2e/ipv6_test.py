#!/usr/bin/python3
"""splitd over IPv6, and on a VLAN: stock clients by grpcio, with the kernel's neighbour discovery and ARP between.

    ipv6_test.py BUILD tap|af_packet|af_xdp|vlan
"""
import os
import subprocess
import sys

from served import ROOT, Served, need_kernel, skip, wait_until

CLIENT = """
import sys, grpc
sizes = [0, 1, 100, 1400, 5000, 100000, 1000000]
with grpc.insecure_channel(sys.argv[1], options=[("grpc.max_receive_message_length", 1 << 24)]) as channel:
    call = channel.unary_unary("/split.examples.Echo/Unary")
    for n in sizes:
        body = bytes(i * 7 & 0x7f for i in range(n))
        length, v = b"", n
        while v > 127:
            length, v = length + bytes([v & 127 | 128]), v >> 7
        message = b"" if n == 0 else bytes([0x0a]) + length + bytes([v]) + body
        answer = call(message, timeout=20, wait_for_ready=True)
        assert body in answer, (n, len(answer))
print("right", len(sizes))
"""


def calls(s, target):
    told = s.run(["/usr/bin/python3", "-c", CLIENT, target], timeout=120).stdout
    assert told.startswith("right"), told


def vlans_there():
    name = f"splitd-vlan-{os.getpid()}"
    run = lambda *a: subprocess.run(a, capture_output=True).returncode == 0
    run("ip", "netns", "add", name)
    try:
        return run(str(ROOT / "scripts/in-netns"), name, "ip", "link", "add", "link", "lo", "name", "lo.7", "type", "vlan", "id", "7")
    finally:
        run("ip", "netns", "del", name)


def ipv6(build, port):
    need_kernel(port)
    with Served(build, "echo", port=port, options=["--ipv6"]) as s:
        calls(s, s.target)
        calls(s, f"198.18.0.2:{s.facts['port']}")
        stats = s.stats()
        assert stats["net.rx_ndp_solicitations"] > 0, "the kernel found the address without asking"
        assert stats["net.ndp_duplicates"] == 0, "an address was taken"
        print(f"{port}: calls over IPv6 and IPv4 right, "
              f"{stats['net.rx_ndp_solicitations']} solicitations answered", flush=True)


def vlan(build):
    need_kernel("af_packet")
    if not vlans_there():
        skip("kernel feature missing: VLAN devices (8021q)")
    for family in ([], ["--ipv6"]):
        with Served(build, "echo", port="af_packet", options=["--vlan", "7", *family]) as s:
            calls(s, s.target)
            dropped = s.stats()["net.rx_drop_eth_vlan"]
            s.run(["ip", "addr", "add", "198.18.9.1/24", "dev", "cl0"])
            s.run(["/usr/bin/python3", "-c", "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
                   "s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); s.sendto(b'x', ('198.18.9.255', 9))"])
            wait_until(lambda: s.stats()["net.rx_drop_eth_vlan"] > dropped, 10, "untagged frames are dropped")
            print(f"VLAN 7 {' '.join(family)}: calls right, untagged frames dropped", flush=True)


if sys.argv[2] == "vlan":
    vlan(sys.argv[1])
else:
    ipv6(sys.argv[1], sys.argv[2])
