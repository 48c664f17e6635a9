#!/usr/bin/python3
"""Every official interoperability case, with one stock client, against tests/interop/interop behind splitd.

usage: interop_test.py BUILD grpcio|grpcpp|node [--tls]
"""
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import node_modules  # noqa: E402
from served import Served, need_kernel  # noqa: E402

CASES = {"empty_unary", "large_unary", "cacheable_unary", "client_streaming", "server_streaming", "ping_pong", "half_duplex",
         "empty_stream", "client_compressed_unary", "client_compressed_streaming", "server_compressed_unary",
         "server_compressed_streaming", "custom_metadata", "status_code_and_message", "special_status_message",
         "unimplemented_method", "unimplemented_service", "cancel_after_begin", "cancel_after_first_response",
         "timeout_on_sleeping_server"}


def certificate(folder):
    """A certificate for "localhost" that is its own authority, and its key."""
    cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


def main():
    build, client = sys.argv[1:3]
    with tempfile.TemporaryDirectory(prefix="splitd-interop.") as folder:
        run(build, client, certificate(folder) if sys.argv[3:] == ["--tls"] else None)


def run(build, client, tls):
    need_kernel("af_packet")
    env = dict(os.environ)
    if client == "node":
        env["INTEROP_NODE_MODULES"] = str(node_modules.installed(build))
    command = {"grpcio": [HERE / "grpcio_cases.py"], "grpcpp": [f"{build}/tests/interop/grpcpp_cases"],
               "node": ["node", HERE / "node/cases.js"]}[client]
    options = ["--tls-cert", tls[0], "--tls-key", tls[1]] if tls else []
    with Served(build, "interop", port="af_packet", options=options) as s:
        done = s.run(command + [s.target] + (["--ca", tls[0], "--name", "localhost"] if tls else []), check=False, env=env)
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        assert s.alive(), "splitd died"
    ok = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("ok ")}
    if done.returncode != 0 or not CASES <= ok:
        print(f"missing or failed: {sorted(CASES - ok)}")
        sys.exit(1)


main()
