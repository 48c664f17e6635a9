#!/usr/bin/python3
"""Large messages both ways with segments cut and joined by splitd, and frames of 3,400 bytes over AF_XDP: the same
bytes as without, no frame larger than the link's, and the counters tell that it happened.

    offload_test.py BUILD tap|af_packet|af_xdp
"""
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
SIZES = (1, 3000, 100000, 1 << 20, (4 << 20) - 64)


class Watch(threading.Thread):
    """The largest frame from the server's MAC address on the device that leads to it."""

    def __init__(self, device, port):
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sock.bind((device, 0))
        self.sock.settimeout(0.2)
        self.port, self.largest, self.over = port, 0, False
        self.start()

    def run(self):
        while not self.over:
            try:
                f, where = self.sock.recvfrom(70000)
            except socket.timeout:
                continue
            # Those that came in (not what this machine sends), IPv4 TCP from the server's port.
            if where[2] != socket.PACKET_OUTGOING and f[12:14] == b"\x08\0" and f[23] == 6 and \
                    int.from_bytes(f[34:36], "big") == self.port:
                self.largest = max(self.largest, len(f))


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def inside(target):
    host, port = target.rsplit(":", 1)
    route = subprocess.run(["ip", "-o", "route", "get", host], capture_output=True, text=True, check=True).stdout.split()
    watch = Watch(route[route.index("dev") + 1], int(port))
    import grpc
    limits = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]
    with grpc.insecure_channel(target, options=limits) as channel:
        call = channel.unary_unary("/split.examples.Echo/Unary")
        for n in SIZES:
            payload = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(min(n, 65536))) * (n // 65536 + 1)
            sent = b"\x0a" + varint(n) + payload[:n]
            assert call(sent, timeout=60, wait_for_ready=True) == sent, f"{n} bytes came back as others"
    watch.over = True
    watch.join()
    print(json.dumps({"largest": watch.largest}))


def main():
    if sys.argv[1] == "--inside":
        inside(sys.argv[2])
        return
    from served import ROOT, Served, need_kernel
    build, port = sys.argv[1], sys.argv[2]
    need_kernel(port)
    mtu = 3400 if port == "af_xdp" else 1500
    ways = [{}, {"tso": "software"}, {"gro": True}, {"tso": "software", "gro": True}]
    for way in ways:
        config = json.loads((ROOT / "config/demo.json").read_text())
        config["ports"][0].update(way)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            json.dump(config, f)
            f.flush()
            with Served(build, "echo", port=port, config=f.name) as s:
                told = json.loads(s.run(["/usr/bin/python3", __file__, "--inside", s.target]).stdout.splitlines()[-1])
                c = s.stats()
        counted = {k: v for k, v in c.items() if k in ("port.tx_cut", "port.rx_joined", "net.tx_frames", "net.tx_tcp_segments", "port.tx_frames")}
        print(f"{port} {way}: largest frame {told['largest']}, {counted}", flush=True)
        assert mtu + 14 - 40 <= told["largest"] <= mtu + 14, told
        assert (c["port.tx_cut"] > 100) == ("tso" in way), counted
        assert (c["port.rx_joined"] > 0) == way.get("gro", False), counted
        if "tso" in way:  # TCP built fewer frames than there were segments
            assert c["net.tx_frames"] < c["net.tx_tcp_segments"], counted


if __name__ == "__main__":
    main()
