"""What the attacks on TCP share: hosts of nobody on the link, frame by frame.

They need a raw socket on the Ethernet device that leads to the server (the only one with the server on its link), so root in
that network namespace, and fit attacker.py's way: `NAME.py ADDRESS:PORT SECONDS`, one JSON object at the end. "connections" are
handshakes begun, "frames" and "bytes" what was sent, "answers" segments that came back. Each host answers ARP for its own
address as an honest one would.
"""
import pathlib
import random
import socket
import struct
import subprocess
import sys
import time

from attacker import main  # noqa: F401  (the programs take it from here)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from raw_frames import ACK, FIN, PSH, RST, SYN, Wire, arp, eth, icmp, ip4, mac, tcp  # noqa: E402, F401

OPTIONS = b"\x02\x04\x05\xb4\x04\x02\x01\x01"  # segment size, SACK


class Hosts:
    """Addresses base.100 to base.(100 + n - 1), all with one MAC address of their own."""

    def __init__(self, run, n=100):
        self.run, self.server, self.port = run, run.address[0], run.address[1]
        route = subprocess.run(["ip", "-o", "route", "get", self.server], capture_output=True, text=True, check=True).stdout.split()
        self.device, self.own = route[route.index("dev") + 1], route[route.index("src") + 1]
        base = self.server.rsplit(".", 1)[0]
        self.addresses = [f"{base}.{100 + i}" for i in range(n)]
        self.mac, self.rng = b"\x02\x0a\x0b\x0c\x0d\x0e", random.Random(11)
        self.elsewhere = 0  # segments for these hosts that went to another MAC address
        self.options = b""  # of the segment that take() gave last
        self.wire = Wire(self.device)
        self.wire.sock.settimeout(0)
        self.server_mac = self.server_mac_find()

    def server_mac_find(self):
        for _ in range(50):
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", (self.server, 9))
            words = subprocess.run(["ip", "neigh", "show", self.server], capture_output=True, text=True).stdout.split()
            if "lladdr" in words:
                return mac(words[words.index("lladdr") + 1])
            time.sleep(0.1)
        raise SystemExit(f"no neighbour {self.server}")

    def frame(self, packet, src_mac=None):
        data = eth(self.server_mac, src_mac or self.mac, 0x800, packet)
        self.wire.send(data)
        self.run.seen["frames"] += 1
        self.run.seen["bytes"] += len(data)

    def segment(self, src, sport, seq, ack, flags, **more):
        self.frame(ip4(src, self.server, 6, tcp(src, self.server, sport, self.port, seq, ack, flags, **more)))

    def syn(self, src, sport, seq, **more):
        self.run.seen["connections"] += 1
        self.segment(src, sport, seq, 0, SYN, options=OPTIONS, **more)

    def take(self):
        """Answers ARP; yields (host address, its port, seq, ack, flags, window, payload) of the server's segments."""
        while True:
            try:
                f = self.wire.sock.recv(65536)
            except (BlockingIOError, socket.timeout):
                return
            if f[6:12] != self.server_mac:
                continue
            if f[12:14] == b"\x08\x06":
                target = socket.inet_ntoa(f[38:42])
                if f[20:22] == b"\0\x01" and target in self.addresses:
                    self.wire.send(eth(f[6:12], self.mac, 0x806, arp(2, self.mac, target, f[22:28], socket.inet_ntoa(f[28:32]))))
                continue
            if f[12:14] != b"\x08\0" or f[23] != 6 or len(f) < 54:
                continue
            host = socket.inet_ntoa(f[30:34])
            if host not in self.addresses:
                continue
            head = 14 + (f[14] & 15) * 4
            _, port, seq, ack, off, flags, window = struct.unpack("!HHIIBBH", f[head:head + 16])
            self.run.seen["answers"] += 1
            self.elsewhere += f[:6] != self.mac
            self.options = f[head + 20:head + (off >> 4) * 4]
            yield host, port, seq, ack, flags, window, f[head + (off >> 4) * 4:14 + int.from_bytes(f[16:18], "big")]
