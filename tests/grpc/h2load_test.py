#!/usr/bin/python3
"""h2load against grpc_socket_server: gRPC calls and plain requests, every one answered 2xx.
Usage: h2load_test.py SERVER"""

import re
import shutil
import subprocess
import sys
import tempfile

if shutil.which("h2load") is None:
    print("skipped: no h2load")
    sys.exit(77)

server = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline().split("=")[1])
failed = 0
with tempfile.NamedTemporaryFile() as body:
    body.write(b"\0\0\0\0\x40" + b"x" * 64)
    body.flush()
    grpc = ["-d", body.name, "-H", "content-type: application/grpc", "-H", "te: trailers"]
    for n, clients, streams, path, more in ((20000, 8, 16, "/test.Echo/Unary", grpc),
                                            (2000, 64, 1, "/test.Echo/Unary", grpc),
                                            (5000, 4, 100, "/healthz", [])):
        out = subprocess.run(["h2load", "-n", str(n), "-c", str(clients), "-m", str(streams), *more,
                              f"http://127.0.0.1:{port}{path}"],
                             capture_output=True, text=True, timeout=60, check=True).stdout
        good = re.search(r"status codes: (\d+) 2xx", out)
        lost = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", out)
        print(path, clients, streams, good.group(0), lost.group(0))
        if int(good.group(1)) != n or lost.groups() != ("0", "0", "0"):
            failed += 1
server.stdin.close()
server.stdout.close()
if server.wait(20) != 0:
    failed += 1
sys.exit(failed != 0)
