#!/usr/bin/python3
"""Live reload: services, hosts and limits come and go under load, and no call is lost. What needs a restart is refused and named, and
then nothing changes. usage: reload_test.py BUILD"""
import copy
import subprocess
import sys

import grpc

sys.path.insert(0, __file__.rsplit("/", 2)[0] + "/hostile")
from bed import Bed, demo_config, settled
from hostile_test import held, load_end, load_start
from served import ROOT, need_kernel, wait_until

ECHO, GREETER = "split.examples.Echo", "split.examples.Greeter"


def call(bed, method, size=0):
    """The status of one unary call with a field of `size` bytes, made in the namespace."""
    code = ("import sys, grpc; c = grpc.insecure_channel(sys.argv[1]); n = int(sys.argv[3])\n"
            "m = b'\\x0a' + bytes([n & 127 | 128, n >> 7 & 127 | 128, n >> 14]) + bytes(n) if n else b''\n"
            "try:\n    c.unary_unary(sys.argv[2])(m, timeout=60); print('OK')\n"
            "except grpc.RpcError as e: print(e.code().name)")
    done = subprocess.run(bed.inside(["/usr/bin/python3", "-c", code, bed.target, method, str(size)]), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def main():
    need_kernel("af_packet")
    config = demo_config()
    host = {"uids": [0], "hugepages_fallback": True}
    config["hosts"] = [{"name": "away", **host}, {"name": "echo", **host}]
    config["services"] = [{"name": "away.Service", "hosts": ["away"]}, {"name": ECHO, "hosts": ["echo"]}]
    config["shutdown"] = {"drain_timeout": "2s"}
    with Bed(sys.argv[1], config) as bed:
        bed.splitd_start()
        bed.host_start("echo")
        assert bed.probe()
        settled(bed)
        before = held(bed)
        honest = load_start(bed, ROOT / "tests/e2e/steady_load.py", bed.target, "--at-once", "8", "--timeout", "60")

        # A service and a host that were not there, in front of the others.
        assert call(bed, f"/{GREETER}/SayHello") == "UNIMPLEMENTED"
        more = copy.deepcopy(bed.config)
        more["hosts"].insert(0, {"name": "greeter", **host})
        more["services"].insert(0, {"name": GREETER, "hosts": ["greeter"]})
        status, said = bed.reload(more)
        assert status == 0, said
        assert call(bed, f"/{GREETER}/SayHello") == "UNAVAILABLE", "known, and nobody serves it yet"
        bed.host_start("greeter", "greeter")
        wait_until(lambda: call(bed, f"/{GREETER}/SayHello") == "OK", 60, "the new service is served")

        # Limits of a service that is served.
        assert call(bed, f"/{ECHO}/Unary", 1000000) == "OK"
        narrow = copy.deepcopy(more)
        narrow["services"][2]["limits"] = {"message_bytes_max": "500KiB"}
        status, said = bed.reload(narrow)
        assert status == 0, said
        wait_until(lambda: call(bed, f"/{ECHO}/Unary", 1000000) == "RESOURCE_EXHAUSTED", 60, "the narrower limit is in force")
        assert call(bed, f"/{ECHO}/Unary", 400000) == "OK"

        # What needs a restart, beside what does not: all of it is refused, and the keys are named.
        wrong = copy.deepcopy(more)
        wrong["ports"][0]["mtu"] = 1400
        wrong["tcp"] = {"nagle": True}
        status, said = bed.reload(wrong)
        assert status != 0 and "ports[0].mtu has changed; this needs a restart" in said, said
        assert "tcp.nagle has changed" in bed.log_text()
        assert call(bed, f"/{ECHO}/Unary", 1000000) == "RESOURCE_EXHAUSTED", "something of a refused reload is in force"
        status, said = bed.reload({**more, "nonsense": 1})
        assert status != 0 and "nonsense" in said, said

        # The first service and its host go; the others keep theirs. Then it comes back.
        status, said = bed.reload(bed.config)
        assert status == 0, said
        wait_until(lambda: call(bed, f"/{GREETER}/SayHello") == "UNIMPLEMENTED", 60, "the service is gone")
        wait_until(lambda: len(bed.ctl("endpoints")) == 1, 60, "its host is detached after the drain's time")
        assert "the configuration names it no more" in bed.log_text()
        assert call(bed, f"/{ECHO}/Unary", 1000000) == "OK"
        status, said = bed.reload(more)
        assert status == 0, said
        wait_until(lambda: call(bed, f"/{GREETER}/SayHello") == "OK", 60, "its host attaches again by itself")

        # A host that is attached may serve more than when it came.
        moved = copy.deepcopy(more)
        moved["services"][2]["hosts"] = ["greeter"]
        status, said = bed.reload(moved)
        assert status == 0, said
        for _ in range(20):
            status, said = bed.reload(more)
            assert status == 0, said
        wait_until(lambda: call(bed, f"/{ECHO}/Unary") == "OK", 60, "echo serves its service again")

        honest_saw = load_end(honest)
        print(f"honest clients: {honest_saw}")
        bad = {k: v for k, v in honest_saw.items() if k not in ("OK", "calls", "slowest_s", "UNAVAILABLE") and v}
        # While no host was configured for it, and only then, calls found nobody.
        assert honest_saw["OK"] > 0 and not bad, f"the honest clients saw {bad}"
        settled(bed, 60)
        bed.hosts[1].terminate()
        bed.hosts[1].wait(20)
        wait_until(lambda: held(bed) == before, 60, f"descriptors and segments as before: {before}")
        assert bed.splitd_stop() == 0


main()
