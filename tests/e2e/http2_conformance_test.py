#!/usr/bin/python3
"""tests/http2/conformance_test.py's raw frames against splitd itself, through its port.

usage: http2_conformance_test.py BUILD [unittest arguments]
"""
import sys

from served import ROOT, Served, need_kernel


def main():
    need_kernel("af_packet")
    with Served(sys.argv[1], "echo", port="af_packet") as s:
        done = s.run([ROOT / "tests/http2/conformance_test.py", s.target, "/split.examples.Echo/Unary", *sys.argv[2:]], check=False)
        print(done.stdout + done.stderr)
        assert s.alive(), "splitd died"
        counters = s.stats()
        for name in ("http2.rx_malformed", "http2.sessions_failed", "http2.ping_strikes", "http2.flood_resets",
                     "http2.flood_settings", "http2.flood_empty", "http2.flood_windows", "http2.headers_bombs"):
            print(f"{name} {counters[name]}")
            assert counters[name] > 0 or len(sys.argv) > 2, f"{name} did not move"
    sys.exit(done.returncode)


main()
