#!/usr/bin/python3
"""The typed handlers of protoc-gen-split (examples/tally), all four kinds of call, by stock grpcio; and what
tally.proto's options do in splitd: the size limit and the default deadline. With and without a manifest.

usage: typed_test.py BUILD
"""
import pathlib
import subprocess
import sys
import tempfile

from bed import Bed, demo_config
from served import ROOT, need_kernel

CLIENT = r'''
import sys, time
sys.path.insert(0, sys.argv[2])
import grpc
import tally_pb2 as pb
limits = [("grpc.max_receive_message_length", 1 << 22)]
with grpc.insecure_channel(sys.argv[1], options=limits) as channel:
    def call(kind, name, request, reply):
        return getattr(channel, kind)("/split.examples.Tally/" + name, request_serializer=request.SerializeToString,
                                      response_deserializer=reply.FromString)
    def status(make):
        try:
            result = make()
            list(result) if hasattr(result, "__iter__") else result
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""
    wait = {"timeout": 20, "wait_for_ready": True}
    add = call("unary_unary", "Add", pb.Pair, pb.Total)
    assert add(pb.Pair(left=2, right=3), **wait) == pb.Total(value=5, numbers=2)
    assert add(pb.Pair(left=2, right=0), **wait) == pb.Total(value=2, numbers=2)
    assert add(pb.Pair(left=2), **wait) == pb.Total(value=2, numbers=1)
    assert status(lambda: add(pb.Pair(left=2**63 - 1, right=1), **wait)) == ("OUT_OF_RANGE", "the total does not fit")

    total = call("stream_unary", "Sum", pb.Number, pb.Total)
    assert total(iter([]), **wait) == pb.Total()
    assert total((pb.Number(value=n) for n in range(1001)), **wait) == pb.Total(value=500500, numbers=1001)
    far = [pb.Number(value=2**63 - 1)] * 3
    assert status(lambda: total(iter(far), **wait))[0] == "OUT_OF_RANGE"

    count = call("unary_stream", "Count", pb.Limit, pb.Number)
    assert [n.value for n in count(pb.Limit(up_to=3000), **wait)] == list(range(1, 3001))
    assert list(count(pb.Limit(), **wait)) == []
    assert status(lambda: count(pb.Limit(up_to=2000000), **wait))[0] == "INVALID_ARGUMENT"
    begun = count(pb.Limit(up_to=1000000), **wait)
    assert next(begun).value == 1
    begun.cancel()

    running = call("stream_stream", "Running", pb.Number, pb.Total)
    totals = list(running((pb.Number(value=n) for n in range(1, 501)), **wait))
    assert totals[-1] == pb.Total(value=125250, numbers=500), totals[-1]
    assert [t.numbers for t in totals] == sorted(t.numbers for t in totals)
    talk = []
    def ask():
        for n in range(1, 6):
            yield pb.Number(value=n)
            end = time.time() + 10
            while len(talk) < n and time.time() < end:
                time.sleep(0.001)
    for t in running(ask(), **wait):
        talk.append(t.value)
    assert talk == [1, 3, 6, 10, 15], talk

    # tally.proto: requests of at most 64 bytes. An unknown field makes one larger.
    code, text = status(lambda: channel.unary_unary("/split.examples.Tally/Add")(b"\x08\x02" + b"\x7a\x60" + b"x" * 96, **wait))
    assert code == "RESOURCE_EXHAUSTED", (code, text)
print("good")
'''


DEADLINE = r'''
import sys, time
import grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    stop = time.time() + 60
    def silence():
        while time.time() < stop:
            time.sleep(0.01)
        yield b""
    try:
        channel.stream_unary("/split.examples.Tally/Sum")(silence(), wait_for_ready=True)
        code = "OK"
    except grpc.RpcError as error:
        code = error.code().name
    stop = 0
assert code == "DEADLINE_EXCEEDED", code
print("good")
'''


def round_of(build, config, tmp, client=CLIENT):
    with Bed(build, config=config, port="af_packet") as bed:
        bed.splitd_start()
        bed.host_start("tally", program="tally")
        done = subprocess.run(bed.inside(["/usr/bin/python3", "-c", client, bed.target, tmp]), capture_output=True,
                              text=True, timeout=240)
        if done.returncode != 0 or "good" not in done.stdout:
            raise RuntimeError(f"{done.stdout}{done.stderr}\n{bed.log_text()}")
        assert bed.splitd_stop() == 0


def refused_round(build, config):
    """A manifest of another service's methods: the host is refused, with the reason."""
    with Bed(build, config=config, port="af_packet") as bed:
        bed.splitd_start()
        host = bed.host_start("tally", program="tally", wait=False)
        assert host.wait(60) != 0
        assert "is not in the manifest" in bed.log_text(), bed.log_text()


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    need_kernel("af_packet")
    with tempfile.TemporaryDirectory(prefix="splitd-typed.") as tmp:
        options = ROOT / "linearize/compiler"
        run = lambda *command: subprocess.run([str(c) for c in command], check=True)
        run("protoc", f"-I{ROOT}/examples/tally", f"-I{options}", f"--python_out={tmp}", "tally.proto", "split/options.proto")
        round_of(build, demo_config(), tmp)
        print("four kinds: good", flush=True)

        config = demo_config()
        for service in config["services"]:
            if service["name"] == "split.examples.Tally":
                service["manifest"] = str(build / "examples/tally.manifest")
        round_of(build, config, tmp)
        print("with a manifest: good", flush=True)

        changed = (ROOT / "examples/tally/tally.proto").read_text().replace(
            "rpc Sum(stream Number) returns (Total);",
            "rpc Sum(stream Number) returns (Total) { option (split.method).deadline_ms = 300; }")
        (pathlib.Path(tmp) / "changed.proto").write_text(changed)
        run("protoc", f"-I{tmp}", f"-I{options}", "--include_imports", f"--descriptor_set_out={tmp}/changed.set",
            "changed.proto")
        for service in config["services"]:
            if service["name"] == "split.examples.Tally":
                service["manifest"] = f"{tmp}/changed.set"
        round_of(build, config, tmp, DEADLINE)
        print("a manifest's default deadline: good", flush=True)

        other = pathlib.Path(tmp) / "other.proto"
        other.write_text('syntax = "proto3"; package split.examples; message M {} service Tally { rpc Else(M) returns (M); }')
        run("protoc", f"-I{tmp}", f"--descriptor_set_out={tmp}/other.set", "other.proto")
        for service in config["services"]:
            if service["name"] == "split.examples.Tally":
                service["manifest"] = f"{tmp}/other.set"
        refused_round(build, config)
        print("another manifest: refused", flush=True)


main()
