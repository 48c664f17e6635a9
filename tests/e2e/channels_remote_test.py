#!/usr/bin/python3
"""Calls out of a handler to gRPC servers on the network, end to end: stock grpcio client → splitd → examples/front →
splitd's own gRPC client → stock grpcio servers. All four kinds, many at once, a flaky server counted exactly, a server's
death and return, deadlines, TLS with the right and the wrong certificate.

usage: channels_remote_test.py BUILD
"""
import os
import pathlib
import subprocess
import sys
import tempfile

import certs
from bed import Bed, CLIENT, demo_config, settled
from channels_test import Clients
from served import ROOT, need_kernel, wait_until

SERVER = r'''
import sys, threading, time
sys.path.insert(0, sys.argv[2])
from concurrent import futures
import grpc
import echo_pb2 as pb
OPTIONS = [("grpc.max_receive_message_length", 1 << 24), ("grpc.max_send_message_length", 1 << 24), ("grpc.so_reuseport", 0)]
lock, calls, fails = threading.Lock(), 0, int(sys.argv[3])

def answer(m, context):
    if m.reply_bytes > 64 << 20:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "reply_bytes: at most 64 MiB")
    return pb.EchoMessage(payload=bytes(i & 0xff for i in range(m.reply_bytes)) if m.reply_bytes else m.payload)

def unary(m, context):
    global calls, fails
    with lock:
        calls += 1
        fails -= 1
        bad = fails >= 0
    if bad:
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
    if m.busy_us:
        time.sleep(m.busy_us / 1e6)
    return answer(m, context)

def client(messages, context):
    last, total = b"", 0
    for m in messages:
        last, total = m.payload, total + len(m.payload)
    return pb.EchoMessage(payload=last, reply_bytes=total & 0xffffffff)

def server(m, context):
    for _ in range(m.replies):
        yield answer(m, context)

def bidi(messages, context):
    for m in messages:
        yield answer(m, context)

def handler(kind, fn):
    return getattr(grpc, kind + "_rpc_method_handler")(fn, pb.EchoMessage.FromString, pb.EchoMessage.SerializeToString)

methods = {"Unary": handler("unary_unary", unary), "Client": handler("stream_unary", client),
           "Server": handler("unary_stream", server), "Bidi": handler("stream_stream", bidi)}
served = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
served.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("split.examples.Echo", methods),))
if len(sys.argv) > 4:
    cert, key = (open(f, "rb").read() for f in sys.argv[4:6])
    assert served.add_secure_port(sys.argv[1], grpc.ssl_server_credentials([(key, cert)])) != 0
else:
    assert served.add_insecure_port(sys.argv[1]) != 0
served.start()
print("ready", flush=True)
for line in sys.stdin:
    if line.startswith("fail"):
        with lock:
            fails = int(line.split()[1])
    print(calls, flush=True)
served.stop(None)
'''


class Server:
    def __init__(self, bed, protos, port, fails=0, tls=(), host=CLIENT):
        script = pathlib.Path(protos) / "server.py"
        script.write_text(SERVER)
        self.bed = bed
        self.process = bed.start(["/usr/bin/python3", script, f"{host}:{port}", protos, fails, *tls],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if bed.line(self.process, 60, "server").strip() != "ready":
            raise RuntimeError("the server does not start")

    def ask(self, text="calls"):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return int(self.bed.line(self.process, 60, "server"))

    def kill(self):
        self.process.kill()
        self.process.wait()


def config_of(**more):
    config = demo_config()
    config["hosts"] = [{"name": "front", "uids": [os.getuid()], "hugepages_fallback": True, "endpoints_max": 4,
                        "workers_max": 4, "stall_timeout": "3s"}]
    config["services"] = [{"name": "split.examples.Front", "hosts": ["front"]}]
    config["channels"] = [{"name": "back", "target": f"{CLIENT}:6001,{CLIENT}:6002", "calls_max": 4096,
                           "connect_backoff": "100ms", "connect_backoff_max": "300ms",
                           "retry": {"attempts_max": 4, "backoff": "10ms", "tokens_max": 0}, **more},
                          {"name": "self", "target": "local", "hosts": ["front"], "calls_max": 4096}]
    return config


def quiet(bed):
    wait_until(lambda: bed.counters()["worker.gauge_outs"] == 0, 30, "no call out is left")
    wait_until(lambda: bed.counters()["channel_back.gauge_calls"] == 0, 30, "no call of the client is left")
    settled(bed, 30)


def plain(build, protos):
    with Bed(build, config_of()) as bed:
        clients = Clients(bed, protos)
        servers = [Server(bed, protos, port) for port in (6001, 6002)]
        bed.splitd_start()
        bed.host_start("front", "front", args=("--workers", "2"))
        clients.run("ok")
        wait_until(lambda: bed.counters()["channel_back.gauge_ready"] >= 2, 60, "both servers are connected")
        clients.run("kinds")
        clients.run("many")
        quiet(bed)
        assert all(s.ask() > 100 for s in servers), [s.ask() for s in servers]
        print("kinds, many: passed")

        # Both fail: attempts are counted exactly.
        before, counters = [s.ask("fail 1") for s in servers], bed.counters()
        clients.run("ok")
        after = bed.counters()
        attempts = sum(s.ask() for s in servers) - sum(before)
        retries = after["channel_back.retries"] - counters["channel_back.retries"]
        assert attempts == 1 + retries and 1 <= retries <= 2, (attempts, retries)
        for s in servers:
            s.ask("fail 0")
        print("flaky servers: passed;", retries, "retries")

        # One dies: nothing is lost. It returns, and is used again.
        servers[0].kill()
        clients.run("ok")
        clients.run("many")
        servers[0] = Server(bed, protos, 6001)
        wait_until(lambda: clients.run("ok") and servers[0].ask() > 0, 60, "the server that came back has calls")
        # Both die.
        for s in servers:
            s.kill()
        wait_until(lambda: "UNAVAILABLE" in clients.run("gone"), 60, "no server is left")
        servers = [Server(bed, protos, 6001)]
        clients_ok(clients)
        quiet(bed)
        assert bed.splitd_stop() == 0, bed.log_text()
        print("deaths: passed")


def clients_ok(clients):
    """Until a call goes well: connections are made again after a while."""
    def good():
        try:
            return clients.run("ok")
        except RuntimeError:
            return False
    wait_until(good, 60, "calls go well again")


def tls(build, protos):
    ca = certs.Authority(protos)
    good = ca.make("server", ["DNS:server.example"])
    foreign = certs.Authority(protos, "other").make("server", ["DNS:server.example"], file="foreign")
    with Bed(build, config_of(tls={"ca": str(ca.cert), "name": "server.example"})) as bed:
        clients = Clients(bed, protos)
        servers = [Server(bed, protos, 6001, tls=good), Server(bed, protos, 6002, tls=foreign)]
        bed.splitd_start()
        bed.host_start("front", "front", args=("--workers", "2"))
        clients.run("ok")
        clients.run("kinds")
        clients.run("many")
        quiet(bed)
        counters = bed.counters()
        assert counters["tls_client.handshakes"] >= 1 and counters["tls_client.failed_certificate"] >= 1, counters
        assert servers[1].ask() == 0
        assert bed.splitd_stop() == 0, bed.log_text()
        print("TLS: passed")


def main():
    build = sys.argv[1]
    need_kernel("af_packet")
    with tempfile.TemporaryDirectory() as protos:
        subprocess.run(["protoc", f"-I{ROOT / 'examples/echo'}", f"--python_out={protos}", "echo.proto"], check=True)
        plain(build, protos)
        tls(build, protos)


if __name__ == "__main__":
    main()
