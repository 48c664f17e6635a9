#!/usr/bin/python3
"""Calls out of a handler, end to end: examples/front asks examples/echo over a local channel, for stock grpcio
clients. All four kinds, many at once, itself in a row, deadlines and cancels passed on, and deaths of either side.

usage: channels_test.py BUILD
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from bed import Bed, demo_config, settled
from served import ROOT, need_kernel, wait_until

CLIENT = r'''
import sys, threading, time
sys.path.insert(0, sys.argv[2])
import grpc
import echo_pb2 as pb
what = sys.argv[3]
limits = [("grpc.max_receive_message_length", 1 << 24), ("grpc.max_send_message_length", 1 << 24)]
channel = grpc.insecure_channel(sys.argv[1], options=limits)
def call(kind, name):
    return getattr(channel, kind)("/split.examples.Front/" + name, request_serializer=pb.EchoMessage.SerializeToString,
                                  response_deserializer=pb.EchoMessage.FromString)
unary, client = call("unary_unary", "Unary"), call("stream_unary", "Client")
server, bidi = call("unary_stream", "Server"), call("stream_stream", "Bidi")
wait = {"timeout": 60, "wait_for_ready": True}
def bytes_of(n, seed=1):
    return bytes((i * 7 + seed) & 0xff for i in range(n))

def status(fn):
    try:
        fn()
    except grpc.RpcError as e:
        return e.code().name, e.details()
    return "OK", ""

if what == "kinds":
    for n in (0, 1, 64, 127, 200, 511, 512, 513, 4000, 70000, 1 << 20, (4 << 20) - 64):
        assert unary(pb.EchoMessage(payload=bytes_of(n)), **wait).payload == bytes_of(n), n
    for n in (1, 100, 1000, 100000, 3 << 20):
        assert unary(pb.EchoMessage(reply_bytes=n), **wait).payload == bytes(i & 0xff for i in range(n)), n
    assert status(lambda: unary(pb.EchoMessage(reply_bytes=100 << 20), **wait)) == \
        ("INVALID_ARGUMENT", "reply_bytes: at most 64 MiB")
    # Itself, in a row, before Echo.
    for depth in (1, 2, 10, 100):
        assert unary(pb.EchoMessage(payload=b"deep", replies=depth), **wait).payload == b"deep"
    parts = [bytes_of(n, n & 0xff) for n in (0, 10, 600, 20000, 3, 100000)]
    got = client((pb.EchoMessage(payload=p) for p in parts), **wait)
    assert got.payload == parts[-1] and got.reply_bytes == sum(map(len, parts)), got.reply_bytes
    assert client(iter([]), **wait).payload == b""
    many = [pb.EchoMessage(payload=bytes_of(i % 700, i & 0xff)) for i in range(2000)]
    assert client(iter(many), **wait).payload == many[-1].payload
    for size, n in ((0, 1), (50, 300), (5000, 200), (300000, 12)):
        got = [m.payload for m in server(pb.EchoMessage(payload=bytes_of(size), replies=n), **wait)]
        assert got == [bytes_of(size)] * n, (size, n, len(got))
    assert list(server(pb.EchoMessage(replies=0), **wait)) == []
    got = [m.payload for m in bidi(iter(many), **wait)]
    assert got == [m.payload for m in many]
    large = [pb.EchoMessage(payload=bytes_of(400000, i)) for i in range(10)]
    assert [m.payload for m in bidi(iter(large), **wait)] == [m.payload for m in large]
    # A slow reader: nothing is lost, nothing is out of order.
    seen = 0
    for m in server(pb.EchoMessage(payload=bytes_of(20000), replies=150), **wait):
        assert m.payload == bytes_of(20000)
        seen += 1
        if seen % 10 == 0:
            time.sleep(0.02)
    assert seen == 150

elif what == "many":
    # 1,000 calls under way at once, each of them three calls out.
    done = threading.Semaphore(0)
    failed = []
    def over(f):
        if f.code() != grpc.StatusCode.OK:
            failed.append((f.code(), f.details()))
        done.release()
    calls = []
    for i in range(1000):
        f = unary.future(pb.EchoMessage(payload=bytes_of(100, i & 0xff), replies=2, busy_us=0), **wait)
        f.add_done_callback(over)
        calls.append(f)
    for _ in calls:
        done.acquire()
    assert not failed, failed[:3]
    for i, f in enumerate(calls):
        assert f.result().payload == bytes_of(100, i & 0xff)

elif what == "gone":
    code, text = status(lambda: unary(pb.EchoMessage(payload=b"x"), timeout=30))
    assert code == "UNAVAILABLE", (code, text)
    print(code, text)

elif what == "deadline":
    t = time.monotonic()
    code, text = status(lambda: unary(pb.EchoMessage(payload=b"x", busy_us=0), timeout=0.5))
    assert code == "DEADLINE_EXCEEDED", (code, text)

elif what == "cancel":
    begun = [unary.future(pb.EchoMessage(payload=b"c"), timeout=60) for _ in range(20)]
    streams = [bidi(iter(()), timeout=60) for _ in range(5)]
    print("begun", flush=True)
    sys.stdin.readline()
    for c in begun + streams:
        c.cancel()
    print("cancelled", flush=True)
    sys.stdin.readline()

elif what == "ok":
    assert unary(pb.EchoMessage(payload=b"back again"), **wait).payload == b"back again"

elif what == "late":
    begun = unary.future(pb.EchoMessage(payload=b"c"), timeout=60)
    print("begun", flush=True)
    try:
        begun.result()
        print("OK", flush=True)
    except grpc.RpcError as e:
        print(e.code().name, e.details(), flush=True)

channel.close()
print("passed", what)
'''


def config_of(calls_max=4096):
    config = demo_config()
    config["hosts"] = [{"name": name, "uids": [os.getuid()], "hugepages_fallback": True, "endpoints_max": 4,
                        "workers_max": 4, "stall_timeout": "3s"} for name in ("echo", "front")]
    config["services"] = [{"name": "split.examples.Echo", "hosts": ["echo"]},
                          {"name": "split.examples.Front", "hosts": ["front"]}]
    config["channels"] = [{"name": name, "target": "local", "hosts": ["front"], "calls_max": calls_max} for name in ("back", "self")]
    return config


class Clients:
    def __init__(self, bed, protos):
        self.bed, self.script = bed, pathlib.Path(protos) / "client.py"
        self.protos = protos
        self.script.write_text(CLIENT)

    def command(self, what):
        return ["/usr/bin/python3", self.script, self.bed.target, self.protos, what]

    def run(self, what):
        done = subprocess.run(self.bed.inside(self.command(what)), capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise RuntimeError(f"client {what}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, what):
        return self.bed.start(self.command(what), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def quiet(bed):
    wait_until(lambda: bed.counters()["worker.gauge_outs"] == 0, 30, "no call out is left")
    settled(bed, 30)


def main():
    build = sys.argv[1]
    need_kernel("af_packet")
    with tempfile.TemporaryDirectory() as protos, Bed(build, config_of()) as bed:
        subprocess.run(["protoc", f"-I{ROOT / 'examples/echo'}", f"--python_out={protos}", "echo.proto"], check=True)
        clients = Clients(bed, protos)
        bed.splitd_start()
        front = bed.host_start("front", "front", args=("--workers", "2"))
        # Nobody serves Echo: the status of the call out is the client's.
        assert "no host serves" in clients.run("gone")
        # With wait_for_ready, by a reload, it waits for whom there will be.
        patient = json.loads(json.dumps(bed.config))
        patient["channels"][0]["wait_for_ready"] = True
        status, said = bed.reload(patient)
        assert status == 0, said
        clients.run("deadline")
        process = clients.start("late")
        assert bed.line(process, 60, "client").strip() == "begun"
        wait_until(lambda: bed.counters()["worker.host_waits"] >= 2, 30, "a call out waits for a host")
        echo = bed.host_start("echo")
        assert bed.line(process, 60, "client").strip() == "OK"
        assert process.wait(60) == 0
        print("wait for ready: passed")
        clients.run("ok")
        clients.run("kinds")
        clients.run("many")
        quiet(bed)
        counters = bed.counters()
        assert counters["worker.outs"] > 3000, counters["worker.outs"]
        print("kinds, many: passed;", counters["worker.outs"], "calls out")

        # Echo hangs: the deadline and the cancel of the outer call end the inner one.
        before = counters
        echo.send_signal(signal.SIGSTOP)
        clients.run("deadline")
        process = clients.start("cancel")
        assert bed.line(process, 60, "client").strip() == "begun"
        wait_until(lambda: bed.counters()["worker.gauge_outs"] >= 1, 30, "calls out wait for Echo")
        process.stdin.write("\n")
        process.stdin.flush()
        assert bed.line(process, 60, "client").strip() == "cancelled"
        wait_until(lambda: bed.counters()["worker.gauge_outs"] == 0, 30, "cancelled calls out are gone")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(60) == 0
        after = bed.counters()
        ended = sum(after[f"worker.{n}"] - before[f"worker.{n}"] for n in ("outs_abandoned", "outs_deadline"))
        assert ended >= 1, ended
        echo.send_signal(signal.SIGCONT)
        wait_until(lambda: clients.run("ok"), 60, "Echo is back")
        print("deadline, cancel: passed")

        # The callee dies under a call out; then the caller does.
        echo.send_signal(signal.SIGSTOP)
        process = clients.start("late")
        assert bed.line(process, 60, "client").strip() == "begun"
        wait_until(lambda: bed.counters()["worker.gauge_outs"] >= 1, 30, "a call out waits for Echo")
        echo.kill()
        said = bed.line(process, 60, "client").strip()
        assert said.startswith("UNAVAILABLE"), said
        assert process.wait(60) == 0
        echo = bed.host_start("echo")
        clients.run("ok")
        echo.send_signal(signal.SIGSTOP)
        process = clients.start("late")
        assert bed.line(process, 60, "client").strip() == "begun"
        wait_until(lambda: bed.counters()["worker.gauge_outs"] >= 1, 30, "a call out waits for Echo")
        front.kill()
        said = bed.line(process, 60, "client").strip()
        assert said.startswith("UNAVAILABLE"), said
        assert process.wait(60) == 0
        wait_until(lambda: bed.counters()["worker.gauge_outs"] == 0, 30, "the dead host's calls out are gone")
        echo.send_signal(signal.SIGCONT)
        front = bed.host_start("front", "front", args=("--workers", "2"))
        clients.run("ok")
        # splitd goes and comes back: hosts attach again, and what was under way has ended.
        assert bed.splitd_stop() == 0, bed.log_text()
        bed.splitd_start()
        for host in (front, echo):
            assert bed.line(host, 60, "host").startswith("attached")
        clients.run("ok")
        clients.run("many")
        quiet(bed)
        assert bed.splitd_stop() == 0, bed.log_text()
        print("deaths: passed")


if __name__ == "__main__":
    main()
