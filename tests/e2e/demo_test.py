#!/usr/bin/python3
"""scripts/demo.sh leaves nothing behind: not when it ends, and not when it is interrupted at any point.

usage: demo_test.py BUILD
"""
import os
import pathlib
import signal
import subprocess
import sys
import time

from served import ROOT, need_kernel, wait_until


def traces():
    """What a run could leave: namespaces, work folders, processes, DPDK's runtime folders."""
    netns = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    folders = [str(p) for pattern in ("splitd-serve.*", "splitd-demo.*") for p in pathlib.Path("/tmp").glob(pattern)]
    runtime = [str(p) for p in pathlib.Path("/var/run/dpdk").glob("splitd-*")]
    return {n for n in netns if n.startswith("splitd-")}, set(folders), set(runtime)


def children_of(group):
    """Processes of the sessions that the demo started: its own and those of what it runs in new sessions."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if group in (entry / "environ").read_bytes():
                    found.append((entry.name, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
            except OSError:
                pass
    return found


def run(build, port, interrupt_after):
    mark = f"SPLITD_DEMO_TEST={os.getpid()}.{port}.{interrupt_after}"
    name, value = mark.split("=")
    before = traces()
    demo = subprocess.Popen([ROOT / "scripts/demo.sh", "--no-setup", "--build", build, "--port", port], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env={**os.environ, name: value}, start_new_session=True)
    if interrupt_after is not None:
        time.sleep(interrupt_after)
        demo.send_signal(signal.SIGINT)
    output = demo.communicate(timeout=400)[0]
    if interrupt_after is None:
        assert demo.returncode == 0, output
        assert "demo: every answer was right" in output and "grpc.calls_ok" in output, output
    else:
        assert demo.returncode in (130, 0), f"interrupted after {interrupt_after} s it ended with {demo.returncode}:\n{output}"
    wait_until(lambda: not children_of(mark.encode()), 20, f"processes gone: {children_of(mark.encode())}")
    after = traces()
    left = [a - b for a, b in zip(after, before)]
    assert not any(left), f"port {port}, interrupted after {interrupt_after} s, left behind {left}\n{output}"
    print(f"--port {port}, {'to its end' if interrupt_after is None else f'interrupted after {interrupt_after} s'}: nothing left")


def main():
    build = sys.argv[1]
    need_kernel("af_packet")
    run(build, "af_packet", None)
    for seconds in (0.1, 0.7, 1.5, 4.0):
        run(build, "af_packet", seconds)


main()
