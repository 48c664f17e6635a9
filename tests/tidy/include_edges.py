#!/usr/bin/python3
"""Holds the include edges of the repository: which folder may include which, as data.

DESIGN.md ("The folders"): dependencies point one way, and inside the daemon each folder of a
request's way includes only the next one below, through that folder's public header. A folder is
reached through the headers listed as its public ones; `*_internal.h` never leaves its folder.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()

# folder -> the folders whose public headers it may include (its own are always allowed).
EDGES = {
    "base": [],
    "config": ["base"],
    "shepherd": ["base"],
    "linearize/descriptor": ["base"],
    "linearize": ["base", "linearize/descriptor"],
    "linearize/compiler": ["base", "linearize/descriptor"],
    "linearize/manifest": ["base", "linearize/descriptor"],
    "linearize/json": ["base", "linearize"],
    "remote": ["base", "shepherd", "linearize"],
    "daemon/relay": ["base", "config", "shepherd", "linearize", "remote"],
    "daemon/port": ["base", "config"],
    "daemon/net": ["base"],
    "daemon/tls": ["base"],
    "daemon/http2": ["base"],
    "daemon/grpc": ["base", "daemon/http2"],
    "daemon/services": ["base", "linearize/descriptor", "daemon/http2", "daemon/grpc"],
    "daemon/client": ["base", "daemon/tls", "daemon/http2", "daemon/grpc", "daemon/balance"],
    "daemon/sched": ["base"],
    "daemon/balance": ["base", "config", "shepherd"],
    "daemon/worker": ["base", "config", "shepherd", "linearize", "daemon/port", "daemon/net",
                      "daemon/tls", "daemon/http2", "daemon/grpc", "daemon/services", "daemon/sched", "daemon/balance",
                      "daemon/client"],
    "daemon/control": ["base", "config", "shepherd", "linearize", "linearize/descriptor", "linearize/manifest", "linearize/json",
                       "daemon/port", "daemon/tls", "daemon/services", "daemon/sched", "daemon/worker",
                       "daemon/balance", "daemon/relay"],
    "daemon": ["base", "config", "shepherd", "daemon/port", "daemon/tls", "daemon/worker", "daemon/control"],
    "host-lib": ["base", "shepherd", "linearize", "remote"],
    "ctl": ["base", "linearize", "linearize/descriptor", "linearize/manifest", "linearize/json"],
    "examples": ["host-lib"],
}
# folder -> its public headers; a folder that is not here has any number (base) or none.
PUBLIC = {
    "config": {"config.h"},
    "shepherd": {"shepherd.h", "layout.h", "host_lane.h"},
    "linearize/descriptor": {"descriptor.h"},
    "linearize": {"linearize.h", "split-schema.h"},
    "linearize/compiler": {"compiler.h"},
    "linearize/manifest": {"manifest.h"},
    "linearize/json": {"json.h"},
    "remote": {"remote.h"},
    "daemon/relay": {"relay.h"},
    "daemon/port": {"port.h"},
    "daemon/net": {"net.h"},
    "daemon/tls": {"tls.h"},
    "daemon/http2": {"http2.h", "http2_client.h"},
    "daemon/client": {"client.h"},
    "daemon/grpc": {"grpc.h", "grpc_text.h"},
    "daemon/services": {"services.h"},
    "daemon/sched": {"sched.h"},
    "daemon/balance": {"balance.h", "field.h", "picker.h"},
    "daemon/worker": {"worker.h"},
    "daemon/control": {"control.h"},
    "host-lib": {"split-host.h"},
}
# A library's own header -> the folders that may name it, so that no type of theirs leaves its folder.
SYSTEM = {
    r"nghttp2/": {"daemon/http2"},
    r"jansson\.h": {"config", "ctl", "linearize/json"},
    r"rte_": {"daemon", "daemon/port", "daemon/net", "daemon/worker", "daemon/control", "daemon/balance"},
    r"openssl/": {"daemon/tls", "remote"},
    r"bpf/": {"daemon/sched"},
}
MAX_LINES = 1000


def folder_of(path):
    """The longest listed folder that holds `path`, or None (tests and benches may include anything)."""
    parts = path.relative_to(ROOT).parts[:-1]
    for n in range(len(parts), 0, -1):
        name = "/".join(parts[:n])
        if name in EDGES:
            return name
    return None


def check(path, findings):
    folder = folder_of(path)
    text = path.read_text(errors="replace")
    lines = text.splitlines()
    where = path.relative_to(ROOT)
    if len(lines) > MAX_LINES:
        findings.append(f"{where}: {len(lines)} lines, at most {MAX_LINES}: split it by mechanism")
    if folder is None:
        return
    for number, line in enumerate(lines, 1):
        m = re.match(r'\s*#\s*include\s+([<"])([^>"]+)[>"]', line)
        if not m:
            continue
        header = m.group(2)
        if m.group(1) == "<":
            for pattern, allowed in SYSTEM.items():
                if re.match(pattern, header) and folder not in allowed:
                    findings.append(f"{where}:{number}: <{header}> may be named in {', '.join(sorted(allowed))} only")
            continue
        target = ROOT / header
        if not target.exists():
            if (path.parent / header).exists():
                findings.append(f'{where}:{number}: "{header}": write the path from the root of the repository')
            continue  # generated
        to = folder_of(target)
        if to == folder or to is None:
            continue
        if to not in EDGES[folder]:
            findings.append(f"{where}:{number}: {folder} may not include {to} (allowed: {', '.join(EDGES[folder]) or 'none'})")
        elif target.name.endswith("_internal.h") or (to in PUBLIC and target.name not in PUBLIC[to]):
            findings.append(f"{where}:{number}: {header} is not a public header of {to}")


def main():
    findings = []
    files = [p for top in sorted({f.split("/")[0] for f in EDGES} | {"tests", "bench"})
             for p in sorted((ROOT / top).rglob("*")) if p.suffix in (".c", ".h", ".cc") and p.is_file()]
    if not files:
        sys.exit("no source files found: wrong root?")
    for path in files:
        check(path, findings)
    for finding in findings:
        print(finding)
    print(f"{len(files)} files, {len(findings)} findings")
    sys.exit(1 if findings else 0)


main()
