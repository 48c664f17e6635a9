#!/usr/bin/python3
"""Every attack of this folder against splitd, beside an honest client that must be served as if there were none.

usage: attack_test.py BUILD SECONDS [NAME...]

Each attack runs for SECONDS. Of the honest client's calls meanwhile each must come back OK with its own bytes; a counter that
names the cause must have moved; where the attack is one that ends connections, the server must have ended some; afterwards
splitd holds no call, connection, page or stream of it, and its memory is bounded. How long calls took is shown, and no verdict.
--table prints the rows of docs/ATTACKS.md.
"""
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
for folder in ("hostile", "e2e"):
    sys.path.insert(0, str(HERE.parent / folder))
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=16"

import certs  # noqa: E402
from bed import Bed, demo_config, settled  # noqa: E402
from hostile_test import held, private_kib  # noqa: E402
from served import need_kernel, wait_until  # noqa: E402

ATTACKS = ("rapid_reset made_you_reset continuation_flood ping_flood settings_flood priority_flood empty_frames zero_length_headers "
           "window_update_flood slow_read slow_headers data_dribble hpack_bytes hpack_count flow_overflow stream_ids pseudo_headers "
           "idle_streams tls_handshakes tls_half tls_renegotiation tls_key_updates").split()
NAME = "server.test.example"
TCP = "syn_flood half_open_flood connection_flood tiny_window blind_guess odd_peers".split()
ATTACKS += TCP
GROWTH_KIB_MAX = (32 + 64 + 64) * 1024  # http2.memory, pages of answers, and the rest


def config(folder):
    """The demo's, and a second listener with TLS; the authority of its certificate."""
    c = demo_config()
    ca = certs.Authority(folder)
    cert, key = ca.make(NAME, [f"DNS:{NAME}"], rsa=True)  # RSA: the dearest handshakes
    c["listeners"].append({"name": "tls", "port": 50052, "tls": {"certificates": [{"cert": str(cert), "key": str(key)}],
                                                                 "handshake_timeout": "2s"}})
    c["tls"] = {"handshakes_max": 64}
    c["http2"] = {"memory": "32MiB", "frame_timeout": "2s"}
    c["tcp"] = {"backlog": 256, "source_prefix_ipv4": 32, "source_half_open_max": 64, "source_connections_max": 200}
    c["grpc"] = {"upload_timeout": "500ms", "reader_timeout": "500ms"}
    return c, ca.cert


def lines(process, say=None):
    if say:
        process.stdin.write(say)
        process.stdin.flush()
    text = process.stdout.readline()
    assert text, "the honest client has ended"
    return text


def quiet(bed):
    c = bed.counters()
    # The honest clients' own connections stay.
    return c["worker.gauge_connections"] <= 16


def attack(bed, clients, name, seconds):
    """(what the attacker did, what the honest client saw, counters that moved, work of the daemon in ms)"""
    program = importlib.import_module(name)
    honest = clients[getattr(program, "TLS", False)]
    before, anon = bed.counters(), private_kib(bed.splitd.pid)
    lines(honest, "\n")
    target = bed.target.replace(":50051", ":50052") if getattr(program, "TLS", False) else bed.target
    child = bed.start([HERE / f"{name}.py", target, seconds], stdout=subprocess.PIPE, text=True)
    grown = 0
    while child.poll() is None:
        grown = max(grown, private_kib(bed.splitd.pid) - anon)
        bed.ended("splitd")
        try:
            child.wait(0.1)
        except subprocess.TimeoutExpired:
            pass
    done = child.stdout.read()
    assert child.returncode == 0, f"{name}: the attacker itself ended with {child.returncode}"
    done = json.loads(done)
    saw = json.loads(lines(honest, "\n"))
    wait_until(lambda: quiet(bed), 60, f"{name}: its connections are gone")
    after = bed.counters()
    moved = {k: after[k] - before[k] for k in after if after[k] != before[k]}
    bad = {k: v for k, v in saw.items() if k not in ("calls", "OK", "p50_ms", "p99_ms", "slowest_ms")}
    assert saw.get("OK", 0) > 0 and not bad, f"{name}: the honest client saw {saw}\n{done}\n{moved}"
    marks = {k: moved[k] for k in program.MARK if moved.get(k, 0) > 0}
    if seconds < 30 and (not marks or (program.ENDED and done["ended"] == 0)):
        return attack(bed, clients, name, seconds * 4)  # too slow a machine for it to come to that in this time
    assert marks, f"{name}: none of {program.MARK} moved: {done}\n{moved}"
    assert not program.ENDED or done["ended"] > 0, f"{name}: no connection of it was ended: {done}"
    assert grown < GROWTH_KIB_MAX, f"{name}: splitd's memory grew by {grown} KiB"
    return done, saw, marks, moved.get("worker.busy_ns", 0) / 1e6, grown


def main():
    args = [a for a in sys.argv[1:] if a != "--table"]
    build, seconds = args[0], float(args[1])
    names = args[2:] or ATTACKS
    need_kernel("af_packet")
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory(prefix="splitd-attack.") as folder:
        run(build, seconds, names, *config(folder))


def run(build, seconds, names, settings, ca):
    with Bed(build, settings) as bed:
        bed.splitd_start()
        bed.host_start("echo")
        assert bed.probe()
        settled(bed)
        before = held(bed)
        clients = {False: [bed.target], True: [bed.target.replace(":50051", ":50052"), 4, ca, NAME]}
        # Both call all the time; of an attack on TLS the one that uses it is asked.
        clients = {tls: bed.start([HERE / "honest.py", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                   for tls, args in clients.items() if any(name.startswith("tls_") == tls for name in names)}
        for honest in clients.values():
            assert lines(honest).startswith("calling")
        for name in names:
            done, saw, marks, busy, grown = attack(bed, clients, name, seconds)
            if "--table" in sys.argv:
                print(f"| `{name}` | {done['connections']} connections, {done['frames']} frames, {done['bytes'] // 1024} KiB | "
                      f"{done['ended']} ended: {', '.join(f'{n} {k}' for k, n in done['goaway'].items()) or '-'} | "
                      f"{', '.join(f'`{k}` {v}' for k, v in marks.items())} | {busy:.0f} ms, {grown} KiB | "
                      f"{saw['OK']} of {saw['calls']} OK, p99 {saw['p99_ms']} ms |", flush=True)
            else:
                print(f"{name}: {json.dumps(done)} -> {json.dumps(marks)}; daemon busy {busy:.0f} ms, grew {grown} KiB; honest: "
                      f"{json.dumps(saw)}", flush=True)
        for honest in clients.values():
            honest.stdin.close()
            assert honest.wait(90) == 0
        settled(bed, 60)
        wait_until(lambda: held(bed) == before, 60, f"descriptors and segments as before: {before}")
        assert bed.splitd_stop() == 0


if __name__ == "__main__":
    main()
