#!/usr/bin/python3
"""End to end: the services that splitd answers itself, by a stock client, while hosts come and go.

usage: services_test.py BUILD
"""
import pathlib
import select
import subprocess
import sys

from bed import Bed, demo_config
from served import ROOT, need_kernel, wait_until

PATIENCE = 60
ECHO = "split.examples.Echo"


def main():
    need_kernel("af_packet")
    build = pathlib.Path(sys.argv[1])
    config = demo_config()
    config["shutdown"] = {"drain_timeout": "5s"}
    next(s for s in config["services"] if s["name"] == ECHO)["wait_for_host"] = "30s"
    with Bed(build, config) as bed:
        client = [ROOT / "tests/e2e/services_client.py", build / "daemon/services/services.set", bed.target]

        def ask(*what):
            done = subprocess.run(bed.inside([*client, *what]), capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr + bed.log_text()
            return done.stdout.strip()

        def watch(name):
            return bed.start([*client, "watch", name], stdout=subprocess.PIPE, bufsize=0)

        def line(process):
            text = b""
            while not text.endswith(b"\n"):
                ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
                got = process.stdout.read(1) if ready else b""
                assert got, f"a watch said {text} and nothing more\n{bed.log_text()}"
                text += got
            return text.decode().strip()

        def says(process, *words):
            for word in words:
                got = line(process)
                assert got == word, (got, word)

        bed.splitd_start()
        assert ask("check", "") == "NOT_SERVING"
        assert ask("check", ECHO) == "NOT_SERVING"
        assert ask("check", "no.such.Service") == "NOT_FOUND"
        assert ask("check", "grpc.health.v1.Health") == "SERVING"
        echo, whole, none = watch(ECHO), watch(""), watch("no.such.Service")
        says(echo, "NOT_SERVING")
        says(whole, "NOT_SERVING")
        says(none, "SERVICE_UNKNOWN")

        # Calls wait for a host, within their deadlines.
        early = [bed.start([*client, "call", "60"], stdout=subprocess.PIPE, bufsize=0) for _ in range(3)]
        assert ask("call", "0.5") == "DEADLINE_EXCEEDED"
        wait_until(lambda: bed.counters()["worker.host_waits"] >= 4, PATIENCE, "the calls wait")
        host = bed.host_start("echo")
        for call in early:
            says(call, "hi")
        says(echo, "SERVING")
        says(whole, "SERVING")
        assert ask("check", "") == "SERVING" and ask("check", ECHO) == "SERVING"
        for version in ("v1", "v1alpha"):
            text = ask("reflect", version)
            assert text.endswith("reflected") and ECHO in text, text
        assert ask("channelz", "-") == "channelz"

        host.kill()
        host.wait()
        says(echo, "NOT_SERVING")
        says(whole, "NOT_SERVING")
        host = bed.host_start("echo")
        second = bed.host_start("echo")
        says(echo, "SERVING")
        says(whole, "SERVING")
        host.kill()
        host.wait()
        # One of two went: nothing changes, and reflection still tells of the other.
        assert ask("check", ECHO) == "SERVING"
        assert ask("reflect", "v1").endswith("reflected")
        second.kill()
        second.wait()
        says(echo, "NOT_SERVING")
        bed.host_start("echo")
        says(echo, "SERVING")
        says(whole, "NOT_SERVING", "SERVING")

        # Going away: watches hear of it and are ended, so that they do not hold the drain up.
        counters = bed.counters()
        assert counters["services.watches"] == 3 and counters["services.watch_changes"] == 10, counters
        assert bed.splitd_stop() == 0, bed.log_text()
        says(echo, "NOT_SERVING", "UNAVAILABLE")
        says(whole, "NOT_SERVING", "UNAVAILABLE")
        says(none, "UNAVAILABLE")
    print("services: done")


main()
