#!/usr/bin/python3
"""Odd peers: TCP that no ordinary client speaks, right or wrong, in the course of a call. What comes of each is checked here: the
call is answered with its own bytes, or the connection is gone, as the RFC says; in between lie segments that are dropped."""
import struct
import time

from attacker import call, h2
from tcp_attacker import ACK, FIN, OPTIONS, PSH, RST, SYN, Hosts, arp, eth, icmp, ip4, main, tcp

MARK = ("net.tcp_challenge_acks", "net.rx_drop_tcp_paws", "net.rx_drop_tcp_options", "net.rx_drop_tcp_flags", "net.rx_drop_tcp_ack")
ENDED = False
PATIENCE = 60  # seconds for what must come
URG = 32
EVIL = b"\x02\x66\x66\x66\x66\x66"


def stamp(value, echo=0):
    return {"options": b"\1\1\x08\x0a" + struct.pack(">II", value, echo)}


def stamp_of(options):
    """The timestamp in a server's options, 0 without."""
    while len(options) >= 10 and options[0] != 8:
        options = options[1 if options[0] < 2 else max(options[1], 2):]
    return int.from_bytes(options[2:6], "big") if len(options) >= 10 else 0


class Gone(Exception):
    """The server ended the connection, as it may one that is slower than its limits; then it is tried again."""


class Odd:
    """One connection, by hand. `at` of a segment counts from the first byte of the newest call."""

    def __init__(self, hosts, what):
        self.hosts, self.what = hosts, what
        while True:
            self.ends = hosts.rng.choice(hosts.addresses), hosts.rng.randint(1024, 65535)
            if self.ends not in hosts.odd:
                break
        hosts.odd[self.ends] = self
        self.more = {}  # of each segment
        self.stamp = None  # its timestamp; what it echoes is the server's, which a SYN cookie may need
        self.begin()

    def begin(self):
        self.iss, self.next, self.stream, self.acked, self.answers = self.hosts.rng.getrandbits(32), None, bytearray(), 0, 0
        self.reset = self.fin = self.deaf = False
        self.base = self.end = self.call = self.echo = 0

    def open(self, **more):
        more = {"options": OPTIONS, **more}
        self.until(lambda: self.next is not None, lambda: self.hosts.segment(*self.ends, self.iss, 0, SYN, **more), "a SYN-ACK")
        self.say()

    def say(self, at=None, payload=b"", flags=ACK, ack=None, **more):
        at = self.acked if at is None else self.base + at
        stamped = {} if self.stamp is None else stamp(self.stamp, self.echo)
        self.hosts.segment(*self.ends, self.iss + 1 + at, (self.next or 0) if ack is None else ack, flags, payload=payload,
                           **{**self.more, **stamped, **more})

    def hear(self, seq, ack, flags, payload):
        self.answers += 1
        self.reset |= flags & RST != 0 and self.next is not None  # before, it answers what is of no connection
        self.echo = stamp_of(self.hosts.options)
        if flags & SYN:
            self.next = (seq + 1) & 0xffffffff
            return
        if self.next is None:
            return
        self.acked = max(self.acked, (ack - self.iss - 1) & 0xffffffff)
        known = (self.next - seq) & 0xffffffff
        if known <= len(payload):
            self.stream += payload[known:]
            self.next = (self.next + len(payload) - known) & 0xffffffff
            if flags & FIN and not self.fin:
                self.fin, self.next = True, (self.next + 1) & 0xffffffff
        if (payload or flags & FIN) and not self.deaf:
            self.say()

    def until(self, done, again, what):
        """Hears all connections until done(); again() at first and every second."""
        end, later = time.monotonic() + PATIENCE, 0
        while not done():
            if time.monotonic() > later:
                again()
                later = time.monotonic() + 1
            self.hosts.hear()
            time.sleep(0.001)
            if self.reset or (self.fin and self.what != "fin_first"):
                raise Gone(f"{self.what}: {what} did not come, the end did")
            assert time.monotonic() < end, f"{self.what}: {what} did not come"

    def challenged(self, *args, **more):
        """Something that is answered by an ACK, at times, and changes nothing."""
        before, acked = self.answers, self.acked
        self.until(lambda: self.answers > before, lambda: self.say(*args, **more), f"an ACK for {args} {more}")
        assert not self.reset and self.acked == acked, f"{self.what}: {args} {more} was taken"

    def ask(self, reply_bytes=0):
        """The bytes of a new call. Its answer is our payload, or so many bytes of a pattern."""
        hello = b""
        if self.call == 0:
            wide = h2.frame(h2.WINDOW, 0, 0, struct.pack(">I", 2**31 - 70000))
            hello = h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31 - 1)) + wide
        self.call = self.call + 2 if self.call else 1
        tag = b"odd %d %d " % (self.ends[1], self.call)
        self.want = (bytes(range(256)) * (reply_bytes // 256 + 1))[:reply_bytes] if reply_bytes else tag * 20
        request = hello + (call(self.call, reply_bytes=reply_bytes) if reply_bytes else call(self.call, payload=self.want))
        self.base, self.end = self.end, self.end + len(request)
        self.request = request
        return request

    def body(self):
        at, out = 0, b""
        while at + 9 <= len(self.stream):
            n = int.from_bytes(self.stream[at:at + 3], "big")
            if self.stream[at + 3] == h2.DATA and int.from_bytes(self.stream[at + 5:at + 9], "big") == self.call:
                out += self.stream[at + 9:at + 9 + n]
            at += 9 + n
        return out

    def answered(self):
        """The request, or what of it is not acknowledged, until its answer is here."""
        def again():
            at = self.acked - self.base
            self.say(at, self.request[at:at + 1400], ACK | PSH)

        def done():
            return len(self.stream) >= len(self.want) and len(self.body()) > len(self.want)

        self.until(done, again, "the answer")
        body = self.body()
        assert body[5:].endswith(self.want) and len(body) < len(self.want) + 16, f"{self.what}: an answer of other bytes"

    def under_way(self, reply_bytes):
        """An answer of which the first segments are here, and nothing from byte `una` on is acknowledged."""
        self.ask(reply_bytes)
        self.deaf, heard, self.una = True, self.answers, self.next
        self.until(lambda: self.answers > heard + 3, lambda: self.say(self.acked - self.base, self.request[self.acked - self.base:], ACK | PSH,
                                                                      ack=self.una), "the answer's beginning")

    def leave(self):
        if not self.reset and self.next is not None:
            self.say(flags=RST | ACK)
        del self.hosts.odd[self.ends]


class OddHosts(Hosts):
    def __init__(self, run):
        super().__init__(run, 20)
        self.odd = {}

    def hear(self):
        for host, port, seq, ack, flags, _, payload in self.take():
            if (host, port) in self.odd:
                self.odd[host, port].hear(seq, ack, flags, payload)


def overlaps(o):
    """Pieces out of order and over each other with other bytes: of each byte the first copy counts."""
    r = o.ask()
    o.say(40, r[40:])
    o.say(20, r[20:40])
    o.say(10, r[10:20] + b"\xcc" * 30)
    o.say(0, r[:5])
    o.until(lambda: o.acked >= o.end, lambda: o.say(0, r[:10]), "an ACK of all")
    o.answered()


def fin_first(o):
    """The FIN comes before the bytes in front of it; then half a connection is enough for the answer."""
    r = o.ask()
    o.say(len(r), flags=FIN | ACK)
    o.say(100, r[100:])
    o.until(lambda: o.acked == o.end + 1, lambda: o.say(0, r[:100]), "an ACK of the FIN")
    o.until(lambda: o.fin, lambda: o.say(len(r) + 1), "their FIN")
    o.answered()


def guesses(o):
    """RST and SYN beside the number that counts, ACKs of what was never sent: challenged at most."""
    n = len(o.ask())
    o.answered()
    o.challenged(n + 1, flags=RST)
    o.say(n - 10, flags=RST)
    o.say(n + (1 << 30), flags=RST)
    o.challenged(n, flags=SYN)
    o.challenged(n + 1000, flags=SYN)
    o.challenged(n, flags=SYN | ACK)
    o.challenged(n, ack=o.next + 10000)
    o.challenged(n, b"x" * 30, ack=o.next - (1 << 30))
    o.challenged(n + (1 << 25), b"x" * 30)
    o.ask()
    o.answered()
    o.say(flags=RST)  # the one that counts: the same ends may open again at once
    o.begin()
    o.open()
    o.ask()
    o.answered()


def sack_lies(o):
    """Blocks of everything but the truth while an answer is under way."""
    o.under_way(100000)
    una, rng = o.una, o.hosts.rng
    for i in range(300):
        blocks = b""
        for _ in range(rng.randint(1, 4)):
            a = una + rng.randint(-20000, 20000)
            b = rng.choice((una + rng.randint(-20000, 40000), a, a + 1, a + 2, a - 1, a + (1 << 30)))
            blocks += struct.pack(">II", a & 0xffffffff, b & 0xffffffff)
        o.say(ack=una, options=b"\1\1\5" + bytes([2 + len(blocks)]) + blocks)
        if i % 20 == 0:
            o.hosts.hear()
    o.deaf = False
    o.say()
    o.answered()


def ack_tricks(o):
    """Each byte acknowledged alone, twice, and some that were never sent."""
    o.under_way(30000)
    for i in range(600):
        o.say(ack=o.una + i // 2)
        if i % 60 == 0:
            o.say(ack=o.una + 500000)
            o.hosts.hear()
    o.deaf = False
    o.say()
    o.answered()


def windows(o):
    """A window that shrinks below what is under way, closes, is probed, and opens again."""
    o.under_way(60000)
    for window in (3000, 1, 0, 65535, 0, 1460, 0):
        o.say(ack=o.una, window=window)
        o.hosts.hear()
        time.sleep(0.01)
    o.more, heard = {"window": 0}, o.answers
    o.until(lambda: o.answers > heard + 1, lambda: o.say(ack=o.una), "a probe of the closed window")
    o.more, o.deaf = {}, False
    o.say()
    o.answered()


def icmp_lies(o):
    """Errors that quote what is under way, with MTUs that no path has: smaller segments at most."""
    o.under_way(50000)
    h = o.hosts
    quoted = ip4(h.server, o.ends[0], 6, tcp(h.server, o.ends[0], h.port, o.ends[1], o.una, o.iss + 1, ACK))[:28]
    for kind, code, rest in ((3, 4, 0), (3, 4, 1), (3, 4, 68), (3, 4, 296), (3, 4, 551), (3, 4, 65535), (3, 4, 1400), (3, 0, 0), (3, 1, 0),
                             (3, 2, 0), (3, 3, 0), (3, 13, 0), (4, 0, 0), (5, 1, 1), (11, 0, 0), (12, 0, 0)):
        for quote in (quoted, quoted[:20], b""):
            h.frame(ip4(o.ends[0], h.server, 1, icmp(kind, code, struct.pack("!I", rest) + quote)))
    h.hear()
    o.deaf = False
    o.say()
    o.answered()


def options_lie(o):
    n = len(o.ask())
    o.answered()
    for bad in (b"\x08\0\0\0", b"\x08\1\0\0", b"\xfe\x28\0\0", b"\1\1\1\5", b"\5\xff\0\0", b"\3\0\0\0", b"\2\x29\0\0" + b"\0" * 36):
        o.say(n, b"\xaa" * 100, options=bad)
    for wrong in ({"words": 3}, {"words": 15}, {"check": 0x1234}):
        o.say(n, b"\xaa" * 30, **wrong)
    o.more = {"options": b"\2\4\0\1\3\3\xff\4\2\xfd\6abcd\x1e\3\0\0"}  # well formed, of no meaning here
    o.ask()
    o.answered()


def urgent(o):
    r = o.ask()
    for at in range(0, 60, 20):
        o.say(at, r[at:at + 20], flags=ACK | URG)
    o.answered()


def fragments(o):
    """A segment in pieces that overlap, and pieces of nothing; then as it should be."""
    r, h = o.ask(), o.hosts
    right, evil = (tcp(o.ends[0], h.server, o.ends[1], h.port, o.iss + 1, o.next, ACK | PSH, payload=p) for p in (r, b"\xaa" * len(r)))
    for fragment in (0x2000, 0x2001, 0x2002, 5, 0x1fff, 0x3fff):
        h.frame(ip4(o.ends[0], h.server, 6, evil[:80], fragment=fragment))
    h.frame(ip4(o.ends[0], h.server, 6, right[:8], fragment=0x2000))  # less than a header
    h.frame(ip4(o.ends[0], h.server, 6, right[8:], fragment=1))
    o.answered()


def poison(o):
    """Others claim the peer's and the server's addresses while a call goes on."""
    o.under_way(30000)
    h, began = o.hosts, time.monotonic()
    for op in (1, 2):
        for whom in (o.ends[0], h.server):
            for told in (o.ends[0], h.server):
                h.wire.send(eth(b"\xff" * 6, EVIL, 0x806, arp(op, EVIL, whom, b"\0" * 6, told)))
                h.wire.send(eth(h.server_mac, EVIL, 0x806, arp(op, EVIL, whom, h.server_mac, told)))
                h.wire.send(eth(h.server_mac, EVIL, 0x806, arp(op, b"\xff" * 6, whom, h.server_mac, told)))
    quick = time.monotonic() - began < 0.5  # else the peer was silent for so long that others may be believed
    o.deaf = False
    o.say()
    o.answered()
    assert h.elsewhere == 0 or not quick, f"{h.elsewhere} segments went to another MAC address"
    h.elsewhere = 0


def small_steps(o):
    """A byte for each segment, of each forty the last one first."""
    r = o.ask()
    for i in range(0, len(r), 40):
        for at in range(min(i + 39, len(r) - 1), i - 1, -1):
            o.say(at, r[at:at + 1])
        o.hosts.hear()
    o.answered()


def syn_data(o):
    """Bytes that come with the SYN need not be taken, but do no harm."""
    r = o.ask()
    o.open(payload=r[:100])
    o.answered()


def syn_fin(o):
    """What is no SYN opens nothing."""
    for flags in (SYN | FIN, SYN | RST, SYN | FIN | RST, 0, FIN | PSH | URG, RST, RST | ACK):
        o.hosts.segment(*o.ends, o.iss, 0, flags, options=OPTIONS)
    time.sleep(0.05)
    o.hosts.hear()
    assert o.next is None, "SYN with FIN was taken for a SYN"
    for flags in (ACK, FIN | ACK, SYN | ACK, PSH | ACK):
        o.say(0, flags=flags)
    o.hosts.hear()
    o.open()
    o.ask()
    o.answered()


def stamps(o):
    """Timestamps that go back are dropped, and go round 2^32."""
    o.stamp = 0xfffffff0
    o.open(options=OPTIONS + stamp(0xffffffe0)["options"])
    n = len(o.ask())
    o.answered()
    o.challenged(n, b"\xaa" * 100, **stamp(0xffffff00))
    o.say(n, b"\xbb" * 100, options=b"")
    o.stamp = 5
    n = len(o.ask())
    o.answered()
    o.challenged(n, b"\xaa" * 100, **stamp(0xfffffff8))
    o.ask()
    o.answered()


OPEN = (overlaps, fin_first, guesses, sack_lies, ack_tricks, windows, icmp_lies, options_lie, urgent, fragments, poison, small_steps)
CLOSED = (syn_data, syn_fin, stamps)


def play(hosts, scene):
    for left in range(9, -1, -1):
        hosts.run.seen["connections"] += 1
        o = Odd(hosts, scene.__name__)
        try:
            if scene in OPEN:
                o.open()
            scene(o)
            return
        except Gone:
            if left == 0:
                raise
        finally:
            o.leave()


def attack(run):
    hosts = OddHosts(run)
    while True:
        for scene in OPEN + CLOSED:
            play(hosts, scene)
        if not run.going():
            return


if __name__ == "__main__":
    main(attack)
