#!/usr/bin/python3
"""tests/http2/conformance_test.py's raw frames against splitd itself, through its port: plain, then inside TLS.

usage: http2_conformance_test.py BUILD [unittest arguments]
"""
import json
import pathlib
import sys
import tempfile

import certs
from served import ROOT, Served, need_kernel

NAME = "server.test.example"


def run(build, arguments, config=None, tls=()):
    """The list's exit status; what the frames came to is in splitd's counters."""
    with Served(build, "echo", port="af_packet", config=config) as s:
        done = s.run([ROOT / "tests/http2/conformance_test.py", s.target, "/split.examples.Echo/Unary", *tls, *arguments], check=False)
        print(done.stdout + done.stderr)
        assert s.alive(), "splitd died"
        counters = s.stats()
        for name in ("http2.rx_malformed", "http2.sessions_failed", "http2.ping_strikes", "http2.flood_resets",
                     "http2.flood_settings", "http2.flood_empty", "http2.flood_windows", "http2.headers_bombs"):
            print(f"{name} {counters[name]}")
            assert counters[name] > 0 or arguments, f"{name} did not move"
        assert counters.get("tls.handshakes", 0) > 0 or not tls, "no TLS was spoken"
    return done.returncode


def main():
    build, arguments = sys.argv[1], sys.argv[2:]
    need_kernel("af_packet")
    status = run(build, arguments)
    with tempfile.TemporaryDirectory(prefix="splitd-conformance.") as folder:
        ca = certs.Authority(folder)
        cert, key = ca.make(NAME, [f"DNS:{NAME}"])
        config = json.loads((ROOT / "config/demo.json").read_text())
        config["listeners"][0]["tls"] = {"certificates": [{"cert": str(cert), "key": str(key)}]}
        path = pathlib.Path(folder, "splitd.json")
        path.write_text(json.dumps(config))
        status |= run(build, arguments, path, ("--tls", ca.cert, NAME))
    sys.exit(status)


main()
