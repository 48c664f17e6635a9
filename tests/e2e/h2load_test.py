#!/usr/bin/python3
"""h2load against splitd over AF_XDP: every request answered 2xx, none lost.

usage: h2load_test.py BUILD SECONDS [PORT]

gRPC echoes at 8 connections x 16 streams for SECONDS (issue 2 asks for ten), then a fixed number of requests in other
shapes: GET /healthz, many connections, a thousand streams on one connection, larger messages. h2load judges HTTP; so
splitd's own counters must say that every call ended with status OK.
"""
import re
import shutil
import sys
import tempfile
import time

from served import Served, need_kernel, skip


def h2load(served, *arguments, timeout=300):
    out = served.run(["h2load", *arguments], timeout=timeout).stdout
    total, done, good, failed, errored, timed_out = map(int, re.search(
        r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", out).groups())
    codes = list(map(int, re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out).groups()))
    print(f"h2load {' '.join(map(str, arguments))}: {done} done, {codes[0]} 2xx, {failed} failed, {errored} errored, {timed_out} timeout", flush=True)
    assert done > 0 and (failed, errored, timed_out) == (0, 0, 0), out
    assert good == done and codes == [done, 0, 0, 0], out
    assert "-n" not in arguments or done == total == int(arguments[arguments.index("-n") + 1]), out
    return done


def call_file(folder, payload):
    field = b"\x0a" + bytes([payload & 127 | 128, payload >> 7]) + bytes(i & 0xFF for i in range(payload))
    path = f"{folder}/{payload}"
    with open(path, "wb") as f:
        f.write(b"\0" + len(field).to_bytes(4, "big") + field)
    return ["-d", path, "-H", "content-type: application/grpc", "-H", "te: trailers"]


def settled(s):
    """Counters once no call and no connection of the last load is left: what it broke off may still be ending."""
    end = time.monotonic() + 60
    while True:
        stats = s.stats()
        if stats["worker.gauge_calls"] == 0 and stats["worker.gauge_connections"] == 0:
            return stats
        assert time.monotonic() < end, f"{stats['worker.gauge_calls']} calls, {stats['worker.gauge_connections']} connections are left"
        time.sleep(0.1)


def main():
    build, seconds, port = sys.argv[1], sys.argv[2], (sys.argv[3:] or ["af_xdp"])[0]
    if shutil.which("h2load") is None:
        skip("no h2load (package nghttp2-client)")
    need_kernel(port)
    with Served(build, "echo", port=port) as s, tempfile.TemporaryDirectory() as folder:
        url = f"http://{s.target}/split.examples.Echo/Unary"
        before = s.stats()
        small = call_file(folder, 64)
        calls = h2load(s, "-c", "8", "-m", "16", "-D", seconds, *small, url)
        after = s.stats()
        # h2load stops the clock, not the calls that run: those it resets.
        open_now = after["grpc.calls_ok"] - before["grpc.calls_ok"] - calls
        print(f"{calls} calls, splitd answered {open_now:+} more")
        assert 0 <= open_now <= 8 * 16, "calls that h2load counted did not end OK"
        for n, shape, body in ((20000, ("-c", "64", "-m", "1"), small), (20000, ("-c", "1", "-m", "1000"), small),
                               (2000, ("-c", "16", "-m", "8"), call_file(folder, 16000))):
            before = settled(s)
            h2load(s, "-n", str(n), *shape, *body, url)
            after = settled(s)
            assert after["grpc.calls_ok"] - before["grpc.calls_ok"] == n, "not every call ended with status OK"
        h2load(s, "-n", "20000", "-c", "8", "-m", "100", f"http://{s.target}/healthz")
        after = s.stats()
        assert after["grpc.calls_failed"] == 0 and after["http2.sessions_failed"] == 0, "a call or a session failed"
    print("every request 2xx, none lost")


main()
