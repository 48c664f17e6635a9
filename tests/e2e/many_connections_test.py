#!/usr/bin/python3
"""Very many TCP connections from kernel clients to our stack: opened, held, each still answering.

    many_connections_test.py PATH_OF_TCP_ECHO_DAEMON COUNT HOLD_SECONDS

Client processes, each with an address of its own (ports are 16 bits) and no more descriptors than it
may have, open their share, wait until all are open, hold them, then ask each of them something of its
own and compare the answer; then ask again, so that no first answer came from a buffer. Needs root and
veth; says why and exits 77 where it cannot run.
"""
import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time

import net_kernel_test as rig

SPARE = 64        # descriptors a process needs besides
EACH_MAX = 25000  # of one address: the kernel has 64,511 ports for it
OPENING = 128     # handshakes under way in one process
PATIENCE = 900    # seconds; only a machine that stands still takes so long


class Crowd:
    """One process' connections."""

    def __init__(self, first, count, address):
        self.first, self.count, self.address = first, count, address
        self.poll = select.epoll()
        self.sockets = {}

    def connect(self, number):
        s = socket.socket()
        s.setblocking(False)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        s.bind((self.address, 0))
        error = s.connect_ex((rig.DAEMON, rig.ECHO))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, f"connect: {os.strerror(error)}")
        self.sockets[s.fileno()] = (s, number)
        self.poll.register(s.fileno(), select.EPOLLOUT)

    def open(self):
        opened = up = 0
        while up < self.count:
            while opened < self.count and opened < up + OPENING:
                self.connect(self.first + opened)
                opened += 1
            for fd, _ in self.poll.poll(1):
                s, number = self.sockets[fd]
                error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, f"connection {number}: {os.strerror(error)}")
                self.poll.modify(fd, select.EPOLLIN)
                up += 1

    def ask(self, turn):
        waiting, answers = {}, 0
        todo = list(self.sockets)
        while todo or waiting:
            while todo and len(waiting) < OPENING:
                fd = todo.pop()
                s, number = self.sockets[fd]
                word = b"%d:%08d:" % (turn, number) * 4
                if s.send(word) != len(word):
                    raise OSError(f"connection {number} takes no request")
                waiting[fd] = word
            for fd, _ in self.poll.poll(1):
                s, number = self.sockets[fd]
                got = s.recv(4096)
                left = waiting.get(fd)
                if not got or left is None or not left.startswith(got):
                    raise OSError(f"connection {number}: expected {left!r}, got {got!r}")
                if len(got) < len(left):
                    waiting[fd] = left[len(got):]
                    continue
                del waiting[fd]
                answers += 1
        return answers


def client(first, count, address, orders, reports):
    """A process: says a line when a step is done, begins the next when it is told to."""
    reports = os.fdopen(reports, "w", buffering=1)
    orders = os.fdopen(orders)
    try:
        crowd = Crowd(first, count, address)
        crowd.open()
        reports.write(f"{count}\n")
        for turn in (1, 2):
            orders.readline()
            reports.write(f"{crowd.ask(turn)}\n")
        orders.readline()
    except OSError as error:
        reports.write(f"{address}: {error}\n")


class Client:
    def __init__(self, first, count, address):
        from_child, reports = os.pipe()
        orders, to_child = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(from_child)
            os.close(to_child)
            client(first, count, address, orders, reports)
            os._exit(0)
        os.close(reports)
        os.close(orders)
        self.count = count
        self.lines = os.fdopen(from_child)
        self.orders = os.fdopen(to_child, "w", buffering=1)

    def go(self):
        self.orders.write("go\n")

    def result(self):
        return self.lines.readline().strip()


def gather(clients, step):
    results = [c.result() for c in clients]
    bad = [r for r in results if not r.isdigit()]
    if bad:
        print(f"{step}: {bad}")
        return None
    return sum(int(r) for r in results)


def descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (ValueError, OSError):
        pass
    return min(soft - SPARE, EACH_MAX)


def steps(clients, count, hold):
    begin = time.monotonic()
    if gather(clients, "open") != count:
        return False
    print(f"{count} connections open after {time.monotonic() - begin:.1f} s, from {len(clients)} addresses")
    time.sleep(hold)
    for turn in (1, 2):
        begin = time.monotonic()
        for c in clients:
            c.go()
        if gather(clients, f"turn {turn}") != count:
            return False
        print(f"turn {turn}: {count} answers in {time.monotonic() - begin:.1f} s")
    return True


def main():
    path, count, hold = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    if os.geteuid() != 0:
        rig.skip("needs root")
    signal.alarm(PATIENCE)
    namespaces = rig.Namespaces("af_packet")
    each = descriptors()
    shares = [(i, min(each, count - i)) for i in range(0, count, each)]
    os.environ["ECHO_SESSIONS"] = str(count + 64)
    good = False
    clients = []
    try:
        try:
            namespaces.make()
            for i in range(len(shares)):
                rig.run(rig.IN_NETNS, namespaces.peer, "ip", "addr", "add",
                        f"198.18.7.{10 + i}/{rig.PREFIX}", "dev", "vk0")
            rig.run(rig.IN_NETNS, namespaces.peer, "sysctl", "-qw",
                    "net.ipv4.ip_local_port_range=1024 65535")
        except (subprocess.CalledProcessError, OSError) as error:
            rig.skip(f"no network namespaces here: {error}")
        daemon = rig.Daemon(path, namespaces, 0)
        try:
            namespaces.enter_peer()
            clients = [Client(first, n, f"198.18.7.{10 + i}") for i, (first, n) in enumerate(shares)]
            good = steps(clients, count, hold)
        finally:
            for c in clients:
                os.kill(c.pid, signal.SIGKILL)
                os.waitpid(c.pid, 0)
            status, counters = daemon.stop()
    finally:
        namespaces.remove()
    for name in ("tcp_opens_passive", "tcp_drop_connections", "tcp_retransmits", "tcp_flights_blind"):
        print(name, counters.get(name, 0))
    good &= status == 0 and counters.get("tcp_opens_passive", 0) >= count
    good &= counters.get("tcp_drop_connections", 0) == 0
    print("passed" if good else "failed")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
