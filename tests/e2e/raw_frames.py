"""Ethernet, ARP, IPv4, TCP, UDP and ICMP in bytes, and a socket that puts them on a veth: for tests that lie.

Every builder fills lengths and checksums rightly unless told a wrong value.
"""
import ctypes
import os
import socket
import struct

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32


def enter_netns(name):
    """This thread goes into the namespace (os.setns comes with Python 3.12 only)."""
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def eth(dst, src, kind, payload):
    return dst + src + struct.pack("!H", kind) + payload


def arp(op, sha, spa, tha, tpa, hardware=1, protocol=0x800, hlen=6, plen=4):
    return struct.pack("!HHBBH", hardware, protocol, hlen, plen, op) + sha + socket.inet_aton(spa) + tha + socket.inet_aton(tpa)


def ip4(src, dst, proto, payload, version=4, words=5, length=None, fragment=0, check=None, options=b"", ttl=64):
    length = 20 + len(options) + len(payload) if length is None else length
    head = struct.pack("!BBHHHBBH4s4s", version << 4 | words, 0, length, 7, fragment, ttl, proto, 0,
                       socket.inet_aton(src), socket.inet_aton(dst)) + options
    check = checksum(head) if check is None else check
    return head[:10] + struct.pack("!H", check) + head[12:] + payload


def pseudo(src, dst, proto, n):
    return socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, proto, n)


def tcp(src, dst, sport, dport, seq, ack, flags, payload=b"", options=b"", words=None, window=65535, check=None):
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4 if words is None else words
    head = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, (words & 15) << 4, flags, window, 0, 0)
    whole = head + options + payload
    check = checksum(pseudo(src, dst, 6, len(whole)) + whole) if check is None else check
    return whole[:16] + struct.pack("!H", check) + whole[18:]


def udp(src, dst, sport, dport, payload, length=None, check=None):
    length = 8 + len(payload) if length is None else length
    whole = struct.pack("!HHHH", sport, dport, length, 0) + payload
    check = checksum(pseudo(src, dst, 17, len(whole)) + whole) or 0xFFFF if check is None else check
    return whole[:6] + struct.pack("!H", check) + whole[8:]


def icmp(kind, code, rest, check=None):
    whole = struct.pack("!BBH", kind, code, 0) + rest
    check = checksum(whole) if check is None else check
    return whole[:2] + struct.pack("!H", check) + whole[4:]


class Wire:
    """A raw socket on `device`: what it sends, the other end of the veth receives."""

    def __init__(self, device, tcp_port=None):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if tcp_port is not None:  # of what passes by, only IPv4 from or to that port: tcpdump -dd 'port N', shortened
            program = [(0x28, 0, 0, 34), (0x15, 2, 0, tcp_port), (0x28, 0, 0, 36), (0x15, 0, 1, tcp_port), (6, 0, 0, 65535), (6, 0, 0, 0)]
            code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
            self.sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))  # SO_ATTACH_FILTER
        self.sock.bind((device, 0))
        self.sock.settimeout(0.2)

    def send(self, frame):
        try:
            self.sock.send(frame)
        except OSError as e:
            if e.errno != 105:  # ENOBUFS: the device is busy; a lost frame is no verdict
                raise

    def last_segment(self, local, remote):
        """The newest TCP segment (address, port) pairs exchanged: (seq after it, ack, ts value or None) from `local`."""
        found, quiet = None, 0
        while quiet < 2:
            try:
                f = self.sock.recv(65536)
            except socket.timeout:
                quiet += 1
                continue
            if len(f) < 54 or f[12:14] != b"\x08\0" or f[23] != 6:
                continue
            head = 14 + (f[14] & 15) * 4
            sport, dport, seq, ack, off, flags = struct.unpack("!HHIIBB", f[head:head + 14])
            if (socket.inet_ntoa(f[26:30]), sport, socket.inet_ntoa(f[30:34]), dport) != (*local, *remote) or not flags & ACK:
                continue
            data = int.from_bytes(f[16:18], "big") - (head - 14) - (off >> 4) * 4
            found = (seq + data + bool(flags & (SYN | FIN)), ack, timestamp(f[head + 20:head + (off >> 4) * 4]))
        return found


def timestamp(options):
    while options and options[0] != 0:
        if options[0] == 1:
            options = options[1:]
            continue
        if options[0] == 8:
            return struct.unpack("!II", options[2:10])
        options = options[options[1]:]
    return None
