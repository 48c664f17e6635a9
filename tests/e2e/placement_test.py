#!/usr/bin/python3
"""Decode and encode on the daemon's or on the host's side by method, with a stock grpcio client: what it sees is the same, of every kind
of call, of bytes that are no message too; the sides are live, shown, and counted. usage: placement_test.py BUILD"""
import copy
import json
import subprocess
import sys

sys.path.insert(0, __file__.rsplit("/", 2)[0] + "/hostile")
from bed import Bed, demo_config, settled
from hostile_test import load_end, load_start
from served import ROOT, need_kernel

ECHO = "split.examples.Echo"


def seen(bed):
    done = subprocess.run(bed.inside([ROOT / "tests/e2e/placement_client.py", bed.target]), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{bed.log_text()}"
    return json.loads(done.stdout)


def methods(bed):
    """{method: row} of what splitctl services says"""
    service = next(s for s in bed.ctl("services") if s["name"] == ECHO)
    return {m["method"]: m for m in service["methods"]}


def placed(bed, decode, encode):
    """Whether splitctl shows every method so."""
    rows = [r for r in bed.ctl("placement") if r["what"] == "method" and f" {ECHO}/" in r["name"]]
    assert len(rows) == 4, rows
    return all(r["more"] == f"decode: {decode}, encode: {encode}" for r in rows) and \
        all((m["decode"], m["encode"]) == (decode, encode) for m in methods(bed).values())


def main():
    need_kernel("af_packet")
    config = demo_config()
    config["hosts"] = [{"name": "echo", "uids": [0], "hugepages_fallback": True, "workers_max": 2}]
    config["services"] = [{"name": ECHO, "hosts": ["echo"], "limits": {"send_message_bytes_max": "1MiB"},
                           "balance": {"policy": "round_robin", "ejection": {"consecutive": 5}}}]
    with Bed(sys.argv[1], config) as bed:
        bed.splitd_start()
        bed.host_start("echo", args=["--workers", "2"])
        assert bed.probe()
        assert placed(bed, "daemon", "daemon")
        wanted = seen(bed)
        print(json.dumps(wanted, indent=1), flush=True)
        assert wanted["compressed"] and wanted["unary, truncated"].startswith("INTERNAL"), wanted
        assert wanted["deadline"] == "DEADLINE_EXCEEDED" and wanted["too large an answer"].startswith("RESOURCE_EXHAUSTED"), wanted
        counters = bed.counters()
        assert counters["worker.requests_wire"] == 0 and counters["worker.replies_wire"] == 0
        errors = counters["worker.decode_errors"]
        before = methods(bed)
        assert all(m["decoded"] > 0 and m["encoded"] > 0 and m["handed_over"] == m["taken_over"] == 0 for m in before.values()), before

        # The other three ways, put in force while honest clients go on.
        honest = load_start(bed, ROOT / "tests/e2e/steady_load.py", bed.target, "--at-once", "4", "--timeout", "60")
        for decode, encode in (("host", "host"), ("host", "daemon"), ("daemon", "host")):
            sides = copy.deepcopy(config)
            sides["services"][0].update(decode=decode, encode=encode)
            status, said = bed.reload(sides)
            assert status == 0, said
            assert placed(bed, decode, encode)
            told = methods(bed)
            now = seen(bed)
            differs = {k: (now[k], wanted[k]) for k in wanted if now[k] != wanted[k]}
            assert not differs, f"decode {decode}, encode {encode}: {differs}"
            for name, after in methods(bed).items():
                count = {k: after[k] - told[name][k] for k in ("decoded", "handed_over", "encoded", "taken_over")}
                assert (count["handed_over"] > 0) == (decode == "host"), (name, count)
                assert (count["taken_over"] > 0) == (encode == "host"), (name, count)
                if name != "Unary":  # that one has other clients, too
                    assert (count["decoded"] > 0) == (decode == "daemon"), (name, count)
                    assert (count["encoded"] > 0) == (encode == "daemon"), (name, count)

        # One method otherwise than its service.
        sides["services"][0]["methods"] = [{"name": "Server", "decode": "host", "encode": "daemon"}]
        status, said = bed.reload(sides)
        assert status == 0, said
        rows = methods(bed)
        assert (rows["Server"]["decode"], rows["Server"]["encode"]) == ("host", "daemon"), rows
        assert (rows["Bidi"]["decode"], rows["Bidi"]["encode"]) == ("daemon", "host"), rows
        assert seen(bed) == wanted

        honest_saw = load_end(honest)
        print(f"honest clients: {honest_saw}")
        bad = {k: v for k, v in honest_saw.items() if k not in ("OK", "calls", "slowest_s") and v}
        assert honest_saw["OK"] > 0 and not bad, f"the honest clients saw {bad}"
        counters = bed.counters()
        # As many as where the daemon decodes, whoever found them; and no host is blamed for them.
        assert counters["worker.decode_errors"] == 5 * errors, counters["worker.decode_errors"]
        assert counters["worker.requests_undecoded"] > 0 and counters["worker.replies_unasked"] == 0
        assert counters["worker.endpoint_faults"] == 0
        assert next(s for s in bed.ctl("services") if s["name"] == ECHO)["failed"] == 0
        settled(bed, 60)
        assert bed.splitd_stop() == 0


main()
