#!/usr/bin/python3
"""splitd's echo beside grpc++ and nghttpd under h2load: calls per second and CPU a call, medians of interleaved runs.

Every server has core 0, h2load has core 1. With --layout shared splitd's daemon and its host share core 0; with
--layout split the host is on core 1, beside h2load. CPU a call is the busy time of core 0 from /proc/stat (softirq
included) less splitd's empty polls, divided by the calls answered; a host on core 1 adds its threads' CPU time. As a
check `process_ns_per_call` is what the scheduler charged to the server's threads (schedstat), less the same empty
polls; `noise` is the share of core 0's busy time that it did not charge to them: interrupts, ksoftirqd, and whatever
else ran there. Where noise is large the machine was not quiet and only the process figure says something.

The peers run on the kernel's TCP over a veth pair with its default offloads on (their best case: 64 KiB segments that no
wire would carry); splitd over a veth pair of the same MTU whose client side computes its checksums. Whoever sends, the
receiving kernel's TCP runs on the sender's core (veth's way), for splitd as for the peers.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from served import Served  # noqa: E402

SERVER_CORE, CLIENT_CORE = 0, 1
PEER_PORT = 50052


def log(text):
    print(text, file=sys.stderr, flush=True)


def busy_ns(core):
    """Busy time of a core since boot: all but idle and iowait, in nanoseconds (resolution: one tick)."""
    for line in open("/proc/stat"):
        if line.startswith(f"cpu{core} "):
            user, nice, system, _, _, irq, softirq, *_ = map(int, line.split()[1:])
            return (user + nice + system + irq + softirq) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    raise RuntimeError(f"no core {core} in /proc/stat")


def cpu_ns(*pids):
    """CPU time of all threads of these processes, by the scheduler. A thread that ends in between takes its time along."""
    total = 0
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def grpc_body(size, folder):
    """A file with one length-prefixed EchoMessage of `size` payload bytes, for h2load -d."""
    def varint(n):
        out = b""
        while n > 0x7F:
            out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
        return out + bytes([n])
    message = b"\x0a" + varint(size) + bytes(i & 0xFF for i in range(size)) if size else b""
    path = pathlib.Path(folder, f"grpc-{size}")
    path.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    return path


def certificate(folder):
    """One for the run, RSA 2048 as most servers on the web have it: (certificate, key)."""
    cert, key = pathlib.Path(folder, "tls.pem"), pathlib.Path(folder, "tls.key")
    if not cert.exists():
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=compare", "-keyout", key,
                        "-out", cert], check=True, capture_output=True)
    return str(cert), str(key)


class Grpc:
    """What the two gRPC servers share: how h2load calls them."""

    def __init__(self, folder):
        self.folder = folder

    def load(self, size, shape, requests):
        return h2load(self, shape, requests, f"{self.args.scheme}://{self.target}/split.examples.Echo/Unary",
                      ["-d", grpc_body(size, self.folder), "-H", "content-type: application/grpc", "-H", "te: trailers"])


class Splitd(Grpc):
    name = "splitd"

    def __init__(self, args, folder):
        super().__init__(folder)
        self.args = args
        tls = ["--tls-cert", certificate(folder)[0], "--tls-key", certificate(folder)[1]] if args.tls else []
        self.host_core = SERVER_CORE if args.layout == "shared" else CLIENT_CORE
        self.served = Served(args.build, "echo", port=args.port,
                             options=["--mtu", str(args.mtu), "--daemon-core", str(SERVER_CORE), "--host-core", str(self.host_core), *tls])

    def __enter__(self):
        self.served.__enter__()
        self.target = self.served.target
        return self

    def inside(self, command):
        return self.served.inside(command)

    def idle_ns(self):
        """Time that splitd's workers have spent in polls that found nothing, asleep not included."""
        return self.served.stats()["worker.idle_poll_ns"]

    def threads_ns(self):
        return cpu_ns(self.served.splitd, self.served.host)

    def elsewhere_ns(self):
        """CPU time of the server that is not on the server's core."""
        return cpu_ns(self.served.host) if self.host_core != SERVER_CORE else 0

    def __exit__(self, *what):
        return self.served.__exit__(*what)


class Peer:
    """A server on the kernel's TCP in a namespace of its own, h2load in another, a veth pair between them."""

    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.server_ns, self.client_ns = (f"splitd-{self.name.strip('+')}-{side}-{os.getpid()}" for side in "sc")
        self.target = f"198.18.1.2:{PEER_PORT}"

    def __enter__(self):
        ip = lambda *a: subprocess.run(["ip", *a], check=True)
        inside = lambda ns, *a: subprocess.run([str(ROOT / "scripts/in-netns"), ns, *a], check=True)
        for ns in (self.server_ns, self.client_ns):
            ip("netns", "add", ns)
        inside(self.server_ns, "ip", "link", "add", "sd0", "type", "veth", "peer", "name", "cl0", "netns", self.client_ns)
        for ns, dev, address in ((self.server_ns, "sd0", "198.18.1.2/24"), (self.client_ns, "cl0", "198.18.1.1/24")):
            inside(ns, "ip", "addr", "add", address, "dev", dev)
            inside(ns, "ip", "link", "set", dev, "mtu", str(self.args.mtu), "up")
        command = [str(ROOT / "scripts/in-netns"), self.server_ns, "taskset", "-c", str(SERVER_CORE), *map(str, self.command())]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 15
        while subprocess.run(self.inside(["bash", "-c", f"</dev/tcp/198.18.1.2/{PEER_PORT}"]), capture_output=True).returncode:
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"{self.name} did not come up")
            time.sleep(0.1)
        return self

    def inside(self, command):
        return [str(ROOT / "scripts/in-netns"), self.client_ns, *map(str, command)]

    def idle_ns(self):
        return 0

    def threads_ns(self):
        return cpu_ns(self.process.pid)

    def elsewhere_ns(self):
        return 0

    def __exit__(self, *what):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for ns in (self.server_ns, self.client_ns):
            subprocess.run(["ip", "netns", "del", ns], check=False)
        return False


class Grpcpp(Peer, Grpc):
    name = "grpc++"

    def command(self):
        tls = ["--tls", *certificate(self.folder)] if self.args.tls else []
        return [self.args.build + "/bench/peers/grpcpp_echo", f"198.18.1.2:{PEER_PORT}", *tls]


class Nghttpd(Peer):
    name = "nghttpd"

    def command(self):
        self.static = pathlib.Path(self.folder, "static")
        self.static.mkdir(exist_ok=True)
        for size in self.args.bytes:
            pathlib.Path(self.static, f"static-{size}").write_bytes(b"x" * size)
        # Not the folder of the key.
        common = ["nghttpd", "-a", "198.18.1.2", "-d", self.static, "-n1", "-m256"]
        return [*common, PEER_PORT, *certificate(self.folder)[::-1]] if self.args.tls else [*common, "--no-tls", PEER_PORT]

    def load(self, size, shape, requests):
        return h2load(self, shape, requests, f"{self.args.scheme}://{self.target}/static-{size}", [])


def h2load(server, shape, requests, url, more):
    """One h2load run; {calls, errors, seconds}."""
    connections, streams = map(int, shape.split("x"))
    command = ["taskset", "-c", str(CLIENT_CORE), "h2load", "-t1", "-n", requests, "-c", connections, "-m", streams, *more, url]
    done = subprocess.run(server.inside(command), capture_output=True, text=True, timeout=300)
    total = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    took = re.search(r"finished in ([\d.]+)(us|ms|s)", done.stdout)
    if not total or not took:
        raise RuntimeError(f"h2load: {done.stdout}{done.stderr}")
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[took.group(2)]
    return {"calls": int(total.group(2)), "errors": requests - int(total.group(2)), "seconds": float(took.group(1)) * scale}


def measure(server, size, shape, requests):
    """One run between two readings of every clock. What belongs to no call (splitctl) stands before the first of them."""
    def read():
        idle = server.idle_ns()
        return {"idle": idle, "threads": server.threads_ns(), "elsewhere": server.elsewhere_ns(), "busy": busy_ns(SERVER_CORE)}
    before = read()
    run = server.load(size, shape, requests)
    busy, threads, elsewhere = busy_ns(SERVER_CORE), server.threads_ns(), server.elsewhere_ns()
    spent = {"busy": busy - before["busy"], "threads": threads - before["threads"], "elsewhere": elsewhere - before["elsewhere"]}
    idle = server.idle_ns() - before["idle"]
    calls = max(run["calls"], 1)
    here = spent["threads"] - spent["elsewhere"]
    return {"calls_per_s": run["calls"] / run["seconds"], "errors": run["errors"],
            "cpu_ns_per_call": max(spent["busy"] + spent["elsewhere"] - idle, 0) / calls,
            "process_ns_per_call": max(spent["threads"] - idle, 0) / calls,
            "noise": max(spent["busy"] - here, 0) / max(spent["busy"], 1)}


def requests_for(server, size, shape, seconds):
    """How many requests take about `seconds`, from a short run; a multiple of what is in flight."""
    connections, streams = map(int, shape.split("x"))
    flight = connections * streams
    run = server.load(size, shape, flight * (20 if size < 100000 else 2))
    return max(flight * 2, int(run["calls"] / run["seconds"] * seconds) // flight * flight)


def svg(rows, path):
    """Grouped bars of calls per CPU-second, splitd's neighbours beside it; one panel a shape. By the core's busy time, or
    where that was mostly others' work by the scheduler's account, for all rows alike."""
    quiet = all(r["noise"] < 0.4 for r in rows)
    key, account = ("cpu_ns_per_call", "core's busy time") if quiet else ("process_ns_per_call", "scheduler's account, machine not quiet")
    systems = ["splitd", "grpc++", "nghttpd"]
    colours = {"splitd": "#1a7f5a", "grpc++": "#4063d8", "nghttpd": "#b0b0b0"}
    shapes = list(dict.fromkeys(r["shape"] for r in rows))
    sizes = list(dict.fromkeys(r["bytes"] for r in rows))
    width, height, left, top = max(150 * len(sizes) + 120, 900), 300, 70, 40
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{(height + 70) * len(shapes)}" '
             'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    for panel, shape in enumerate(shapes):
        oy = panel * (height + 70) + top
        here = {(r["system"], r["bytes"]): 1e9 / r[key] for r in rows if r["shape"] == shape and r[key]}
        if not here:
            continue
        best = {b: max(v for (s, bb), v in here.items() if bb == b) for b in sizes if any(bb == b for _, bb in here)}
        parts.append(f'<text x="{left}" y="{oy - 16}" font-size="14">calls per CPU-second, {shape} '
                     f'(connections x streams), by {account}; height: share of the best of its group</text>')
        for i, size in enumerate(sizes):
            for j, system in enumerate(systems):
                value = here.get((system, size))
                if value is None:
                    continue
                tall = (height - 40) * value / best[size]
                x = left + i * 150 + j * 42
                parts.append(f'<rect x="{x}" y="{oy + height - 40 - tall:.1f}" width="36" height="{tall:.1f}" fill="{colours[system]}"/>')
                label = f"{value / 1000:.0f}k" if value >= 10000 else f"{value / 1000:.1f}k"
                parts.append(f'<text x="{x + 18}" y="{oy + height - 44 - tall:.1f}" text-anchor="middle" font-size="10">{label}</text>')
            parts.append(f'<text x="{left + i * 150 + 60}" y="{oy + height - 20}" text-anchor="middle">{size} B</text>')
        for j, system in enumerate(systems):
            parts.append(f'<rect x="{left + j * 110}" y="{oy + height - 8}" width="10" height="10" fill="{colours[system]}"/>')
            parts.append(f'<text x="{left + j * 110 + 15}" y="{oy + height + 1}">{system}</text>')
    parts.append("</svg>")
    pathlib.Path(path).write_text("\n".join(parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tls", action="store_true", help="every server with TLS 1.3, the same RSA 2048 certificate, ALPN h2")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="aimed length of one run")
    parser.add_argument("--bytes", default="64,1024,49152,487424")
    parser.add_argument("--shapes", default="8x16,64x1")
    parser.add_argument("--systems", default="splitd,grpc++,nghttpd")
    parser.add_argument("--port", default="af_xdp")
    parser.add_argument("--mtu", type=int, help="of every server's link (default: 3400 over af_xdp, 1500 else)")
    parser.add_argument("--layout", choices=("shared", "split"), default="shared", help="splitd's host: on the daemon's core, or on h2load's")
    parser.add_argument("--svg", help="write a plot to this file")
    args = parser.parse_args()
    args.scheme = "https" if args.tls else "http"
    args.mtu = args.mtu or (3400 if args.port == "af_xdp" else 1500)
    args.bytes = [int(b) for b in args.bytes.split(",")]
    kinds = {"splitd": Splitd, "grpc++": Grpcpp, "nghttpd": Nghttpd}
    systems = [s for s in args.systems.split(",") if s in kinds]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for shape in args.shapes.split(","):
            for size in args.bytes:
                runs, wanted = {s: [] for s in systems}, {}
                # One server at a time is up, so that no idle neighbour shares the core; the order alternates.
                for number in range(args.runs):
                    for system in systems if number % 2 == 0 else systems[::-1]:
                        with kinds[system](args, folder) as server:
                            if system not in wanted:
                                wanted[system] = requests_for(server, size, shape, args.seconds)
                            server.load(size, shape, max(256, wanted[system] // 10))  # warm
                            runs[system].append(measure(server, size, shape, wanted[system]))
                            log(f"{shape} {size} B run {number + 1}/{args.runs} {system}: {runs[system][-1]['calls_per_s']:.0f} calls/s")
                for system in systems:
                    median = lambda key: statistics.median(r[key] for r in runs[system])
                    rows.append({"system": system, "shape": shape, "bytes": size, "tls": args.tls, "calls_per_s": median("calls_per_s"),
                                 "cpu_ns_per_call": median("cpu_ns_per_call"), "process_ns_per_call": median("process_ns_per_call"),
                                 "noise": median("noise"), "errors": sum(r["errors"] for r in runs[system]),
                                 "runs": len(runs[system])})
    if args.svg:
        svg(rows, args.svg)
    if args.json:
        print(json.dumps({"rows": rows}))
        return
    print(f"{'shape':6} {'bytes':>7} {'system':8} {'calls/s':>10} {'CPU ns/call':>12} {'process ns':>11} {'noise':>6} {'errors':>6}"
          "  calls per CPU-second against grpc++ (by process)")
    for row in rows:
        base = [r for r in rows if r["system"] == "grpc++" and (r["shape"], r["bytes"]) == (row["shape"], row["bytes"])]
        ratio = "-"
        if base and row["cpu_ns_per_call"] and row["process_ns_per_call"]:
            ratio = (f"{base[0]['cpu_ns_per_call'] / row['cpu_ns_per_call']:.2f}x "
                     f"({base[0]['process_ns_per_call'] / row['process_ns_per_call']:.2f}x)")
        print(f"{row['shape']:6} {row['bytes']:7} {row['system']:8} {row['calls_per_s']:10.0f} {row['cpu_ns_per_call']:12.0f} "
              f"{row['process_ns_per_call']:11.0f} {row['noise']:6.0%} {row['errors']:6}  {ratio}")


main()
