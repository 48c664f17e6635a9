#!/usr/bin/python3
"""Full: more at once than there is room for, and clients that hinder. Memory stays bounded, nothing deadlocks, what should
finish does, and the other clients are served.

usage: full_test.py BUILD SECONDS [SEED]

splitd has small segments (24 MiB), rings of two slots, and little memory for HTTP/2. Beside a steady load whose every call must
be right come: 64 calls of 4 MiB at once, requests in TCP segments of one byte, tiny segments, clients that never read their
answers, handlers that take seconds, a thousand streams opened and left, and connections reset in the middle.
"""
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time

import grpc

MIB = 1 << 20
ECHO = "/split.examples.Echo/Unary"
GROWTH_KIB_MAX = (32 + 64 + 64) * 1024  # http2.memory, pages of answers (64 MiB at least), and the rest


# ---- messages and frames, by hand

def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def request(payload=b"", reply_bytes=0, busy_us=0):
    out = b"\x0a" + varint(len(payload)) + payload if payload else b""
    out += b"\x10" + varint(reply_bytes) if reply_bytes else b""
    return out + (b"\x18" + varint(busy_us) if busy_us else b"")


def pattern(n):
    return (bytes(range(256)) * (n // 256 + 1))[:n]


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def headers(stream):
    fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", ECHO.encode()), (b":authority", b"full"), (b"te", b"trailers"),
              (b"content-type", b"application/grpc"))
    block = b"".join(b"\x00" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)
    return frame(1, 4, stream, block)


def data(stream, message, end=True):
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    pieces = [body[i:i + 16384] for i in range(0, len(body), 16384)]
    return b"".join(frame(0, 1 if end and i == len(pieces) - 1 else 0, stream, p) for i, p in enumerate(pieces))


SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, 2**31 - 1)) + \
    frame(8, 0, 0, (2**31 - 1 - 65535).to_bytes(4, "big"))


def connect(target, receive_buffer=None, segment=None):
    s = socket.socket()
    if receive_buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if segment:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.settimeout(120)
    host, port = target.rsplit(":", 1)
    s.connect((host, int(port)))
    return s


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def answer(s):
    """The message of the one call on this connection, once its trailers have come."""
    have, body = b"", b""
    while True:
        while len(have) >= 9 and len(have) >= 9 + int.from_bytes(have[:3], "big"):
            n = int.from_bytes(have[:3], "big")
            kind, flags, stream, payload = have[3], have[4], int.from_bytes(have[5:9], "big"), have[9:9 + n]
            have = have[9 + n:]
            assert kind not in (3, 7), f"the call was reset: frame {kind} {payload}"
            if kind == 4 and not flags & 1:
                s.sendall(frame(4, 1, 0))
            if kind == 0 and stream == 1:
                body += payload
            if kind in (0, 1) and stream == 1 and flags & 1:
                return body[5:]
        more = s.recv(65536)
        assert more, "the connection ended before the call"
        have += more


# ---- clients; each runs in the namespace by `full_test.py --child NAME TARGET SECONDS SEED` and prints a JSON line.
# deaf and resets go on until their standard input ends.

def channel(target):
    return grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1),
                                                  ("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)])


def at_once(target, calls, channels, message, expected):
    """`calls` at once over `channels`; {status: n}, "wrong" where the answer is not the expected message."""
    seen, opened = {}, [channel(target) for _ in range(channels)]
    methods = [c.unary_unary(ECHO, request_serializer=None, response_deserializer=None) for c in opened]
    for future in [methods[i % channels].future(message, timeout=300) for i in range(calls)]:
        try:
            status = "OK" if future.result() == expected else "wrong"
        except grpc.RpcError as e:
            status = e.code().name
        seen[status] = seen.get(status, 0) + 1
    for c in opened:
        c.close()
    return seen


def big(target, seconds, rng):
    payload = pattern(4 * MIB - 64)
    done = {"64 requests of 4 MiB": at_once(target, 64, 16, request(payload, reply_bytes=10), request(pattern(10))),
            "64 answers of 4 MiB": at_once(target, 64, 16, request(reply_bytes=4 * MIB - 64), request(payload))}
    if seconds > 5:
        done["64 both ways"] = at_once(target, 64, 16, request(payload), request(payload))
    return done


def bytewise(target, seconds, rng):
    """Whole requests, one byte in each segment; then through tiny segments."""
    n, end = 0, time.monotonic() + seconds
    while n < 2 or time.monotonic() < end:
        payload = rng.randbytes(200)
        s = connect(target, segment=88 if n % 2 else None)
        wire = SETTINGS + headers(1) + data(1, request(payload))
        if n % 2:
            payload = rng.randbytes(40000)
            s.sendall(SETTINGS + headers(1) + data(1, request(payload)))
        else:
            for i in range(len(wire)):
                try:
                    s.send(wire[i:i + 1])
                except OSError as e:
                    raise AssertionError(f"ended at byte {i} of {len(wire)}; splitd had sent {s.recv(65536).hex()}") from e
        assert answer(s) == request(payload), "another answer than was sent"
        s.close()
        n += 1
    return {"OK": n}


def deaf(target, seconds, rng):
    """Clients that ask for much and read nothing."""
    asks = SETTINGS + b"".join(headers(i) + data(i, request(reply_bytes=MIB)) for i in range(1, 2 * 48, 2))
    socks = [connect(target, receive_buffer=4096) for _ in range(16)]
    for s in socks:
        s.sendall(asks)
    sys.stdin.read()
    for s in socks:
        reset(s)
    return {"asked_for_mib": 16 * 48}


def left(target, seconds, rng):
    """A thousand streams, each with the beginning of a message of 1 MiB, left open for a second, again and again for `seconds`. While they
    stand, whoever wants room stands behind them: grpc.upload_timeout is what then lets him through."""
    prefix = b"\x00" + MIB.to_bytes(4, "big") + bytes(100)
    n, end = 0, time.monotonic() + seconds
    while n == 0 or time.monotonic() < end:
        s = connect(target)
        s.sendall(SETTINGS + b"".join(headers(i) + frame(0, 0, i, prefix) for i in range(1, 2001, 2)))
        time.sleep(1)
        reset(s)
        n += 1000
    return {"streams": n}


def resets(target, seconds, rng):
    """Reset at any byte of a request or of its answer."""
    n, over = 0, threading.Thread(target=sys.stdin.read)
    over.start()
    whole = SETTINGS + headers(1) + data(1, request(pattern(100000)))
    while n < 20 or over.is_alive():
        s = connect(target)
        s.sendall(whole[:rng.randrange(len(whole) + 1)])
        if rng.randrange(2):
            s.settimeout(0.02)
            try:
                s.recv(rng.randrange(1, 70000))
            except OSError:
                pass
        reset(s)
        n += 1
        time.sleep(0.005)  # a subject here, no flood: segments lost for want of a core would be every client's
    return {"connections": n}


def slow(target, seconds, rng):
    """Handlers that take a second each, more of them than there are workers."""
    return at_once(target, 16, 4, request(b"slow", busy_us=1000000), request(b"slow"))


CLIENTS = {f.__name__: f for f in (big, bytewise, deaf, left, resets, slow)}


# ---- the test

def config(demo):
    host = {"uids": [0], "hugepages_fallback": True, "to_host": "24MiB", "to_daemon": "24MiB", "lane_slots": 2,
            "release_timeout": "60s", "stall_timeout": "60s"}
    demo["hosts"] = [{"name": "echo", **host}]
    demo["services"] = [{"name": "split.examples.Echo", "hosts": ["echo"]}]
    # A client that sends byte by byte on a busy machine is slow, and that is not what this test is about.
    demo["http2"] = {"memory": "32MiB", "settings_timeout": "120s", "frame_timeout": "120s"}
    demo["grpc"] = {"reader_timeout": "6s"}
    demo["linearize"] = {"linear_bytes_max": "8MiB"}
    return demo


def main():
    if sys.argv[1] == "--child":
        name, target, seconds, seed = sys.argv[2:]
        print(json.dumps(CLIENTS[name](target, float(seconds), random.Random(int(seed)))))
        return
    sys.path.insert(0, __file__.rsplit("/", 2)[0] + "/hostile")
    from bed import Bed, demo_config, settled
    from hostile_test import held, load_end, load_start, private_kib
    from served import ROOT, need_kernel, wait_until
    build, seconds = sys.argv[1], float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    need_kernel("af_packet")
    print(f"seed {seed}")
    with Bed(build, config(demo_config())) as bed:
        bed.splitd_start()
        bed.start([bed.build / "examples/echo", "--socket", bed.socket, "--workers", "4"], stdout=subprocess.DEVNULL)
        wait_until(lambda: len(bed.ctl("endpoints")) == 1, 60, "the host attached")
        assert bed.probe()
        settled(bed)
        before, counted, grown_from = held(bed), bed.counters(), private_kib(bed.splitd.pid)
        honest = load_start(bed, ROOT / "tests/e2e/steady_load.py", bed.target, "--at-once", "4", "--timeout", "300")
        grown, watching = [0], threading.Event()

        def watch():
            while not watching.wait(0.1):
                grown[0] = max(grown[0], private_kib(bed.splitd.pid) - grown_from)
        watcher = threading.Thread(target=watch)
        watcher.start()
        results = {}
        try:
            # Those that hinder stay for the whole time, those that want an answer come one after the other.
            hinder = {n: bed.start([__file__, "--child", n, bed.target, seconds, seed], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True) for n in ("deaf", "left", "resets")}
            for name in ("slow", "bytewise", "big"):
                child = bed.start([__file__, "--child", name, bed.target, seconds / 4, seed], stdout=subprocess.PIPE, text=True)
                results[name] = json.loads(child.communicate(timeout=900)[0])
                print(f"{name}: {results[name]}", flush=True)
            for name, child in hinder.items():
                print(f"{name}: {json.loads(child.communicate(timeout=900)[0])}")
        finally:
            watching.set()
            watcher.join()
        honest_saw = load_end(honest)
        settled(bed, 120)
        after = bed.counters()
        moved = {k: after[k] - counted[k] for k in after if after[k] != counted[k] and k.startswith(("worker.", "shepherd.", "net.conn"))
                 and any(w in k for w in ("wait", "stalled", "cut", "full", "exhausted", "refused", "unavailable", "given_up", "slow"))}
        print(f"honest clients: {honest_saw}\n{moved}")
        print(f"descriptors, segments: {before} -> {held(bed)}; splitd's own memory grew by at most {grown[0]} KiB "
              f"(bound {GROWTH_KIB_MAX}); the longest turn was {after['worker.turn_ns_max'] / 1e6:.2f} ms (no verdict)")
        assert results["slow"] == {"OK": 16}, results
        assert results["big"] == {k: {"OK": 64} for k in results["big"]}, results
        bad = {k: v for k, v in honest_saw.items() if k not in ("OK", "calls", "slowest_s") and v}
        assert honest_saw["OK"] > 0 and not bad, f"the honest clients saw {bad}"
        assert grown[0] < GROWTH_KIB_MAX, f"splitd's memory grew by {grown[0]} KiB"
        assert bed.probe()
        wait_until(lambda: held(bed) == before, 60, f"descriptors and segments as before: {before}")
        assert bed.splitd_stop() == 0


main()
