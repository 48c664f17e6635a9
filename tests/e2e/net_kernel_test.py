#!/usr/bin/python3
"""The network stack against the Linux kernel's: kernel sockets speak with tests/net/tcp_echo_daemon.

    net_kernel_test.py PATH_OF_TCP_ECHO_DAEMON [--port af_packet|tap] [--ipv6] [--quick|--long]

Makes two network namespaces of its own and removes them. Needs root and veth or TUN; says why and
exits 77 where it cannot run. Loss between the two is made by nftables on the kernel's side, loss,
duplication, reordering and corruption by the daemon (ECHO_IMPAIR, ECHO_CORRUPT). --long: up to 1 GiB
and thousands of connections.
"""
import argparse
import ctypes
import hashlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

# Works in a chroot as well, unlike `ip netns exec`.
IN_NETNS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/in-netns")
KERNEL, DAEMON, PREFIX, FAMILY = "198.18.7.1", "198.18.7.2", 24, socket.AF_INET
ECHO, DISCARD, RESET, CHARGEN, OPEN, CLOSED = 7, 9, 13, 19, 27, 4444
GIB = 1 << 30


def run(*command, **kwargs):
    return subprocess.run(command, check=True, capture_output=True, text=True, **kwargs)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


class Namespaces:
    """The kernel's side lives in `peer`, the daemon in `host`; this process enters `peer`."""

    def __init__(self, port):
        self.port = port
        self.peer = f"netk-p{os.getpid()}"
        self.host = f"netk-h{os.getpid()}"

    def make(self):
        for ns in (self.peer, self.host):
            run("ip", "netns", "add", ns)
            run(IN_NETNS, ns, "ip", "link", "set", "lo", "up")
        if self.port == "af_packet":
            run("ip", "link", "add", "vk0", "netns", self.peer, "type", "veth", "peer", "name", "vd0",
                "netns", self.host)
            run(IN_NETNS, self.host, "sysctl", "-qw", "net.ipv6.conf.vd0.disable_ipv6=1")
            run(IN_NETNS, self.host, "ip", "link", "set", "vd0", "up")
            # The daemon sees frames as they leave the kernel: no partial checksums, no super-frames.
            run(IN_NETNS, self.peer, "ethtool", "-K", "vk0", "tx", "off", "gro", "off")
            run(IN_NETNS, self.host, "ethtool", "-K", "vd0", "tx", "off", "gro", "off")
            self.kernel_up("vk0")

    def kernel_up(self, dev):
        if FAMILY == socket.AF_INET:
            run(IN_NETNS, self.peer, "sysctl", "-qw", f"net.ipv6.conf.{dev}.disable_ipv6=1")
        extra = ["nodad"] if FAMILY == socket.AF_INET6 else []
        run(IN_NETNS, self.peer, "ip", "addr", "add", f"{KERNEL}/{PREFIX}", "dev", dev, *extra)
        run(IN_NETNS, self.peer, "ip", "link", "set", dev, "up")

    def remove(self):
        for ns in (self.peer, self.host):
            subprocess.run(["ip", "netns", "del", ns], capture_output=True)

    def enter_peer(self):
        fd = os.open(f"/run/netns/{self.peer}", os.O_RDONLY)
        clone_newnet = 0x40000000  # os.setns() comes with Python 3.12
        if ctypes.CDLL(None, use_errno=True).setns(fd, clone_newnet) != 0:
            skip(f"setns: {os.strerror(ctypes.get_errno())}")
        os.close(fd)


class Daemon:
    def __init__(self, path, namespaces, impair, corrupt=0):
        port = namespaces.port
        vdev = "net_af_packet0,iface=vd0,blocksz=65536,framesz=2048,framecnt=1024,qpairs=1"
        ns = namespaces.host
        if port == "tap":
            vdev, ns = "net_tap0,iface=vk0", namespaces.peer
        env = dict(os.environ, ECHO_IMPAIR=str(impair), ECHO_CORRUPT=str(corrupt))
        self.process = subprocess.Popen(
            [IN_NETNS, ns, path, DAEMON, str(PREFIX), "-", "--no-huge", "--no-shconf",
             "-m", "256", "--no-pci", "--no-telemetry", "-l", "0", "--log-level=error",
             f"--file-prefix=netk{os.getpid()}", f"--vdev={vdev}"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        for line in self.process.stdout:
            if line.strip() == "ready":
                break
        else:
            raise RuntimeError(f"tcp_echo_daemon did not start on {port}")
        if port == "tap":
            namespaces.kernel_up("vk0")
            run(IN_NETNS, namespaces.peer, "ethtool", "-K", "vk0", "tx", "off")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=20)
        counters = {}
        for line in out.splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdigit():
                counters[words[0]] = int(words[1])
        return self.process.returncode, counters


def fnv1a(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = ((h ^ b) * 0x100000001b3) & 0xffffffffffffffff
    return h


def pattern(n):
    block = bytearray(65536)
    for i in range(65536):
        block[i] = (i * 7 + (i >> 8)) & 0xff
    # i * 7 + (i >> 8) repeats each 65536 bytes.
    return (bytes(block) * (n // 65536 + 1))[:n]


def connect(port, timeout=60):
    return socket.create_connection((DAEMON, port), timeout=timeout)


def read_all(s):
    parts = []
    while True:
        d = s.recv(1 << 18)
        if not d:
            return b"".join(parts)
        parts.append(d)


# ---- what is tried --------------------------------------------------------------------------------


def echo(n, s=None):
    """`n` bytes there and back, compared by hash."""
    block = os.urandom(min(n, 1 << 20))
    s = s or connect(ECHO)
    want, got = hashlib.sha256(), hashlib.sha256()
    count = 0

    def send():
        left = n
        while left > 0:
            part = block[:min(left, len(block))]
            want.update(part)
            s.sendall(part)
            left -= len(part)
        s.shutdown(socket.SHUT_WR)

    t = threading.Thread(target=send)
    t.start()
    while True:
        d = s.recv(1 << 18)
        if not d:
            break
        count += len(d)
        got.update(d)
    t.join()
    s.close()
    assert count == n, f"{count} of {n} bytes came back"
    assert got.digest() == want.digest(), "bytes differ"


def discard(n):
    block = os.urandom(4096) * 256
    data = block[:n] if n <= len(block) else b""
    s = connect(DISCARD)
    for at in range(0, n, len(block)):
        s.sendall(block[:n - at])
    s.shutdown(socket.SHUT_WR)
    answer = read_all(s).decode().split()
    s.close()
    assert int(answer[0]) == n, f"{answer[0]} of {n} bytes arrived"
    if n <= 1 << 20:
        assert int(answer[1], 16) == fnv1a(data), "hash differs"


def chargen(n, pause=0.0, buffer=None):
    s = socket.socket(FAMILY)
    s.settimeout(60)
    if buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    s.connect((DAEMON, CHARGEN))
    s.sendall(b"%d\n" % n)
    time.sleep(pause)
    at, whole = 0, pattern(1 << 20)  # which repeats
    while True:
        d = s.recv(1 << 18)
        if not d:
            break
        k = at % (1 << 16)
        assert d == whole[k:k + len(d)], f"bytes differ after {at}"
        at += len(d)
    s.close()
    assert at == n, f"{at} of {n} bytes"


def slow_reader():
    """The kernel's window closes and opens again: zero-window probes."""
    chargen(2 << 20, pause=2.0, buffer=8192)


def closed_port():
    try:
        connect(CLOSED, timeout=5)
    except ConnectionRefusedError:
        return
    raise AssertionError("connected to a closed port")


def reset_by_daemon():
    s = connect(RESET)
    s.sendall(b"x")
    try:
        d = s.recv(1)
        raise AssertionError(f"read {d!r} instead of a reset")
    except ConnectionResetError:
        pass
    s.close()


def reset_by_kernel():
    for _ in range(50):
        s = connect(ECHO)
        s.sendall(b"y" * 3000)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()


def half_close():
    """We finish first, the daemon goes on sending."""
    s = connect(CHARGEN)
    s.sendall(b"3000000\n")
    s.shutdown(socket.SHUT_WR)
    assert read_all(s) == pattern(3000000), "bytes differ"
    s.close()


def listener():
    s = socket.socket(FAMILY)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((KERNEL, 0))
    s.listen(128)
    s.settimeout(60)
    return s


def ask_open(port):
    """The daemon opens a connection to our `port`; what it says of it."""
    s = connect(OPEN)
    s.sendall(b"%d\n" % port)
    return s


def daemon_opens(n):
    """The kernel listens, the daemon is the one that opens; bytes both ways."""
    with listener() as listening:
        control = ask_open(listening.getsockname()[1])
        s, _ = listening.accept()
        s.settimeout(60)
        assert read_all(control) == b"open"
        control.close()
        echo(n, s)


def daemon_opens_many(n):
    with listener() as listening:
        for i in range(n):
            control = ask_open(listening.getsockname()[1])
            s, _ = listening.accept()
            s.settimeout(60)
            m = b"hello %d" % i
            s.sendall(m)
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == m
            assert read_all(control) == b"open"
            control.close()
            s.close()


def daemon_is_refused():
    """RST in SYN-SENT."""
    with listener() as listening:
        port = listening.getsockname()[1]
    control = ask_open(port)
    told = read_all(control)
    control.close()
    assert b"REFUSED" in told.upper(), told


def abort(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def small_reader(n):
    """A connection of which the daemon has sent all but what our closed window keeps back."""
    s = socket.socket(FAMILY)
    s.settimeout(60)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect((DAEMON, CHARGEN))
    s.sendall(b"%d\n" % n)
    time.sleep(0.2)
    return s


def reset_in_every_state():
    """Of the daemon's states. SYN-SENT is daemon_is_refused(), TIME-WAIT hostile.seg's: the kernel sends no RST to it."""
    for _ in range(5):
        s = socket.socket(FAMILY)  # SYN-RECEIVED: nobody is there for its SYN-ACK
        s.setblocking(False)
        try:
            s.connect((DAEMON, ECHO))
        except BlockingIOError:
            pass
        s.close()
        s = connect(ECHO)  # ESTABLISHED, with bytes on their way
        s.sendall(b"x" * 100000)
        abort(s)
        abort(small_reader(100000))  # FIN-WAIT-1: its FIN is behind what we do not take
        s = small_reader(10)  # FIN-WAIT-2: we have its FIN, it has not ours
        assert read_all(s) == pattern(10)
        abort(s)
        s = small_reader(8 << 20)  # CLOSE-WAIT: it has our FIN and more to send
        s.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        abort(s)
        s = small_reader(100000)  # CLOSING or LAST-ACK: both FINs, its own not acknowledged
        s.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        abort(s)


def many_short(n):
    for i in range(n):
        s = connect(ECHO)
        m = b"hello %d" % i
        s.sendall(m)
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == m
        s.close()


def many_at_once(n):
    sockets = [connect(ECHO) for _ in range(n)]
    want = {s.fileno(): os.urandom(20000) for s in sockets}
    got = {s.fileno(): b"" for s in sockets}
    by_fd = {s.fileno(): s for s in sockets}
    for s in sockets:
        s.sendall(want[s.fileno()])
        s.shutdown(socket.SHUT_WR)
    open_fds = set(by_fd)
    while open_fds:
        ready, _, _ = select.select(list(open_fds), [], [], 60)
        assert ready, "nothing came for a minute"
        for fd in ready:
            d = by_fd[fd].recv(65536)
            if d:
                got[fd] += d
            else:
                open_fds.discard(fd)
    for s in sockets:
        assert got[s.fileno()] == want[s.fileno()], "bytes differ"
        s.close()


def tiny_segments():
    """One byte a segment, faster than the daemon polls."""
    s = connect(ECHO)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = os.urandom(5000)

    def send():
        for b in data:
            s.send(bytes([b]))
        s.shutdown(socket.SHUT_WR)

    t = threading.Thread(target=send)
    t.start()
    got = read_all(s)
    t.join()
    s.close()
    assert got == data, f"{len(got)} of {len(data)} bytes, or others"


def icmp_sum(message):
    padded = message + b"\0" * (len(message) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ping():
    """Echo of several sizes through a raw socket."""
    v6 = FAMILY == socket.AF_INET6
    s = socket.socket(FAMILY, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
    s.settimeout(3)
    request, reply, skip_bytes = (128, 129, 0) if v6 else (8, 0, 20)
    for sequence, size in enumerate((0, 1, 56, 1451, 1452) if v6 else (0, 1, 56, 1471, 1472)):
        body = struct.pack("!HH", os.getpid() & 0xffff, sequence) + os.urandom(size - size % 4 if v6 else size)
        checksum = 0 if v6 else icmp_sum(struct.pack("!BBH", request, 0, 0) + body)  # the kernel's, for IPv6
        s.sendto(struct.pack("!BBH", request, 0, checksum) + body, (DAEMON, 0))
        while True:
            answer = s.recv(65536)[skip_bytes:]
            if answer[0] == reply:
                break
        assert answer[4:] == body, f"echo of {size} bytes differs"
    s.close()


def udp_unreachable():
    s = socket.socket(FAMILY, socket.SOCK_DGRAM)
    s.connect((DAEMON, 5000))
    s.settimeout(3)
    s.send(b"anyone?")
    try:
        s.recv(10)
    except ConnectionRefusedError:
        return
    finally:
        s.close()
    raise AssertionError("no port unreachable")


def kernel_options(**sysctls):
    for key, value in sysctls.items():
        run("sysctl", "-qw", f"net.ipv4.tcp_{key}={value}")


def loss(percent):
    run("nft", "flush", "ruleset")
    if percent == 0:
        return
    rules = f"""
table inet bad {{
  chain in {{ type filter hook prerouting priority -300; numgen random mod 1000 < {percent * 10} drop; }}
  chain out {{ type filter hook postrouting priority -300; numgen random mod 1000 < {percent * 10} drop; }}
}}
"""
    run("nft", "-f", "-", input=rules)


class Results:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def try_one(self, name, fn, *args, **kwargs):
        start = time.monotonic()
        try:
            fn(*args, **kwargs)
            self.passed += 1
            print(f"ok    {name} ({time.monotonic() - start:.2f} s)", flush=True)
        except Exception as e:  # a test says why by any exception
            self.failed += 1
            print(f"FAIL  {name}: {type(e).__name__}: {e}", flush=True)


def long_transfers(r):
    for n in (256 << 20, GIB):
        r.try_one(f"echo {n} bytes", echo, n)
        r.try_one(f"kernel to daemon {n} bytes", discard, n)
        r.try_one(f"daemon to kernel {n} bytes", chargen, n)
    r.try_one(f"daemon opens, {GIB} bytes", daemon_opens, GIB)
    r.try_one("5000 short connections", many_short, 5000)
    r.try_one("2000 short connections that the daemon opens", daemon_opens_many, 2000)


def clean_link(r, quick):
    r.try_one("ping", ping)
    r.try_one("UDP port unreachable", udp_unreachable)
    for n in (1, 100, 1460, 65536, 1 << 20, (8 if quick else 64) << 20):
        r.try_one(f"echo {n} bytes", echo, n)
    for n in (1, 1461, 1 << 20, (8 if quick else 64) << 20):
        r.try_one(f"kernel to daemon {n} bytes", discard, n)
        r.try_one(f"daemon to kernel {n} bytes", chargen, n)
    r.try_one("connect to a closed port", closed_port)
    r.try_one("reset by the daemon", reset_by_daemon)
    r.try_one("reset by the kernel", reset_by_kernel)
    r.try_one("half close", half_close)
    r.try_one("reset in every state", reset_in_every_state)
    for n in (1, 65536, (1 if quick else 64) << 20):
        r.try_one(f"daemon opens, {n} bytes", daemon_opens, n)
    r.try_one("100 connections that the daemon opens", daemon_opens_many, 100)
    r.try_one("daemon is refused", daemon_is_refused)
    r.try_one("slow reader", slow_reader)
    r.try_one("tiny segments", tiny_segments)
    r.try_one("300 short connections", many_short, 300)
    r.try_one("100 connections at once", many_at_once, 100)
    for options in ({"timestamps": 0}, {"sack": 0}, {"window_scaling": 0},
                    {"timestamps": 0, "sack": 0, "window_scaling": 0}):
        kernel_options(**options)
        names = ", ".join(options)
        r.try_one(f"without {names}: echo", echo, 4 << 20)
        r.try_one(f"without {names}: short connections", many_short, 20)
        kernel_options(**{k: 1 for k in options})


def bad_link(r, quick, what):
    n = (1 if quick else 4) << 20
    r.try_one(f"{what}: echo", echo, n)
    r.try_one(f"{what}: kernel to daemon", discard, n)
    r.try_one(f"{what}: daemon to kernel", chargen, n)
    kernel_options(sack=0)
    r.try_one(f"{what}, no SACK: echo", echo, n // 4)
    r.try_one(f"{what}, no SACK: daemon to kernel", chargen, n // 4)
    kernel_options(sack=1)
    r.try_one(f"{what}: daemon opens", daemon_opens, n // 4)
    r.try_one(f"{what}: short connections", many_short, 20)
    r.try_one(f"{what}: 30 connections at once", many_at_once, 30)


def stop_and_check(r, daemon, show, moved=()):
    def check():
        code, counters = daemon.stop()
        for name in moved:
            assert counters.get(name, 0) > 0, f"{name} is nothing"
        if show:
            print("      " + ", ".join(f"{k} {v}" for k, v in counters.items()))
        assert code == 0, f"exit code {code}"
        assert counters.get("mbufs_out") == 0, f"{counters.get('mbufs_out')} mbufs leaked"
        assert counters.get("connections") == 0, "connections left"
        assert counters.get("rx_drop_tcp_options", 0) == 0, "options of the kernel's not understood"

    time.sleep(1.5)
    r.try_one("daemon ends clean", check)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("daemon")
    parser.add_argument("--port", choices=["af_packet", "tap"], default="af_packet")
    parser.add_argument("--ipv6", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--long", action="store_true", help="up to 1 GiB, thousands of connections")
    parser.add_argument("--show", action="store_true", help="the daemon's counters")
    args = parser.parse_args()
    if args.ipv6:
        global KERNEL, DAEMON, PREFIX, FAMILY
        KERNEL, DAEMON, PREFIX, FAMILY = "2001:2:0:7::1", "2001:2:0:7::2", 64, socket.AF_INET6
    if os.geteuid() != 0:
        skip("needs root")
    if args.port == "tap" and not os.path.exists("/dev/net/tun"):
        skip("no /dev/net/tun")
    args.daemon = os.path.abspath(args.daemon)
    namespaces = Namespaces(args.port)
    r = Results()
    try:
        try:
            namespaces.make()
        except (subprocess.CalledProcessError, FileNotFoundError) as e:
            skip(f"cannot make namespaces: {getattr(e, 'stderr', None) or e}")
        namespaces.enter_peer()
        daemon = Daemon(args.daemon, namespaces, 0)
        clean_link(r, args.quick)
        if args.long:
            long_transfers(r)
        try:
            loss(3)
        except (subprocess.CalledProcessError, FileNotFoundError):
            print("skipped: loss by nftables")
            r.skipped += 1
        else:
            bad_link(r, args.quick, "3 % loss")
            loss(0)
        stop_and_check(r, daemon, args.show)
        daemon = Daemon(args.daemon, namespaces, 60)
        bad_link(r, args.quick, "lost, doubled, reordered")
        stop_and_check(r, daemon, args.show)
        daemon = Daemon(args.daemon, namespaces, 20, 20)
        bad_link(r, args.quick, "bits changed, lost, doubled, reordered")
        stop_and_check(r, daemon, args.show, ("rx_drop_tcp_checksum",))
    finally:
        namespaces.remove()
    print(f"{r.passed} passed, {r.failed} failed, {r.skipped} skipped")
    return 1 if r.failed else 0


if __name__ == "__main__":
    sys.exit(main())
