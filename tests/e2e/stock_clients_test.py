#!/usr/bin/python3
"""The demo's matrix as a test: grpcio and grpc++ against splitd and both examples, over one kind of port.

usage: stock_clients_test.py BUILD PORT
"""
import json
import subprocess
import sys

from served import ROOT, Served, need_kernel, wait_until


def main():
    build, port = sys.argv[1:3]
    need_kernel(port)
    failed = 0
    with Served(build, "echo", port=port) as s:
        greeter = s.start([f"{build}/examples/greeter", "--socket", s.facts["socket"], "--name", "greeter"],
                          stdout=subprocess.PIPE, text=True)
        assert greeter.stdout.readline().startswith("attached"), "greeter did not attach"
        s.run([str(ROOT / "tests/e2e/probe.py"), s.target, "greeter"])
        for client in ([str(ROOT / "tests/e2e/grpcio_client.py")], [f"{build}/tests/e2e/grpcpp_client"]):
            for example in ("greeter", "echo"):
                done = s.run(client + [s.target, "--example", example, "--json"], check=False, timeout=400)
                try:
                    rows = json.loads(done.stdout)["rows"]
                except ValueError:
                    raise RuntimeError(f"{client}: {done.stdout}{done.stderr}")
                assert len(rows) >= (24 if example == "echo" else 4), "the matrix was cut short"
                for row in rows:
                    print({k: row[k] for k in ("client", "bytes", "at_once", "connections", "calls", "errors")})
                    if row["errors"]:
                        failed += 1
                        print("  " + row["first_error"])
        assert s.alive(), "splitd died"
    print(f"{failed} rows with errors")
    sys.exit(1 if failed else 0)


main()
