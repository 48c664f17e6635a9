#!/usr/bin/python3
"""The tidy test can fail: a forbidden edge, an internal header, a leaked library and a long file are each found."""
import pathlib
import subprocess
import sys
import tempfile

CASES = [
    ("base/a.c", '#include "daemon/net/net.h"\n', {"daemon/net/net.h": ""}, "base may not include daemon/net"),
    ("daemon/grpc/a.c", '#include "daemon/http2/http2_internal.h"\n', {"daemon/http2/http2_internal.h": ""},
     "is not a public header of daemon/http2"),
    ("daemon/grpc/a.c", "#include <nghttp2/nghttp2.h>\n", {}, "may be named in daemon/http2 only"),
    ("host-lib/a.c", "#include <rte_mbuf.h>\n", {}, "<rte_mbuf.h> may be named in"),
    ("base/long.c", "\n" * 1001, {}, "1001 lines"),
    ("base/good.c", '#include <stdio.h>\n', {}, None),
]

failed = 0
for path, text, others, expected in CASES:
    with tempfile.TemporaryDirectory() as top:
        for name, body in {path: text, **others}.items():
            file = pathlib.Path(top, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(body)
        run = subprocess.run([sys.executable, sys.argv[1], top], capture_output=True, text=True)
        good = (run.returncode == 0) if expected is None else (run.returncode == 1 and expected in run.stdout)
        if not good:
            failed += 1
            print(f"{path}: expected {expected!r}, got {run.returncode}: {run.stdout}{run.stderr}")
sys.exit(1 if failed else 0)
