#!/usr/bin/python3
"""Whether cutting and joining segments in software (ports[].tso, ports[].gro) pays: splitd's CPU time for large messages both
ways, with and without, by turns in one run.

    bench/offload.py BUILD tap|af_packet|af_xdp [ROUNDS [MTU]]

Prints, for each way, the median over the rounds of that time divided by that of the same round without either. Below 1 it pays.
"""
import json
import pathlib
import statistics
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))
WAYS = {"neither": {}, "tso": {"tso": "software"}, "gro": {"gro": True}, "both": {"tso": "software", "gro": True}}
CALLS, SIZE = 30, (4 << 20) - 64


def inside(target):
    import grpc
    from offload_test import varint
    limits = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]
    sent = b"\x0a" + varint(SIZE) + bytes(SIZE)
    with grpc.insecure_channel(target, options=limits) as channel:
        call = channel.unary_unary("/split.examples.Echo/Unary")
        for _ in range(CALLS):
            assert len(call(sent, timeout=60, wait_for_ready=True)) == len(sent)


def cpu(pid):
    """Ticks of CPU time so far, user and system."""
    return sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))


def busy(build, port, way, options):
    """splitd's CPU time for CALLS calls."""
    from served import Served
    config = json.loads((ROOT / "config/demo.json").read_text())
    config["ports"][0].update(way)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(config, f)
        f.flush()
        with Served(build, "echo", port=port, config=f.name, options=options) as s:
            before = cpu(s.splitd)
            s.run(["/usr/bin/python3", __file__, "--inside", s.target])
            return cpu(s.splitd) - before


def main():
    if sys.argv[1] == "--inside":
        inside(sys.argv[2])
        return
    build, port, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5
    options = ["--mtu", sys.argv[4]] if len(sys.argv) > 4 else []
    ratios = {name: [] for name in WAYS}
    for _ in range(rounds):
        took = {name: busy(build, port, way, options) for name, way in WAYS.items()}
        for name in WAYS:
            ratios[name].append(took[name] / took["neither"])
    for name in WAYS:
        print(f"{port} {name}: {statistics.median(ratios[name]):.2f} ({min(ratios[name]):.2f} to {max(ratios[name]):.2f})")


if __name__ == "__main__":
    main()
