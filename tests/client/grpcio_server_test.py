#!/usr/bin/python3
"""The daemon's gRPC client against stock grpcio servers, over the kernel's sockets (socket_client.c).
Usage: grpcio_server_test.py SOCKET_CLIENT"""

import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent import futures

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import certs  # noqa: E402

CLIENT = ""
OPTIONS = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20),
           ("grpc.so_reuseport", 0)]


def pattern(n):
    return bytes(i * 7 & 255 for i in range(n))


class Server:
    """Methods of /t.T: Echo (all kinds), Slow, Fail, Flaky, Big; all calls are counted."""

    def __init__(self, port=0, credentials=None, options=(), compression=None, health=None, fails=0):
        self.calls, self.cancelled, self.fails, self.lock = {}, 0, fails, threading.Lock()
        self.health, self.previous, self.metadata = health, [], {}
        self.changed = threading.Condition()
        self.stopped = False
        self.server = grpc.server(futures.ThreadPoolExecutor(32), handlers=[self], options=[*OPTIONS, *options],
                                  compression=compression)
        where = f"127.0.0.1:{port}"
        self.port = (self.server.add_secure_port(where, credentials) if credentials
                     else self.server.add_insecure_port(where))
        assert self.port != 0
        self.server.start()

    # grpc.GenericRpcHandler
    def service_name(self):
        return "t.T"

    def service(self, details):
        name = details.method.split("/")[-1]
        with self.lock:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.metadata = dict(details.invocation_metadata)
            self.previous.append(self.metadata.get("grpc-previous-rpc-attempts"))
        return {"Echo": grpc.unary_unary_rpc_method_handler(self.echo),
                "EchoClient": grpc.stream_unary_rpc_method_handler(self.echo_client),
                "EchoServer": grpc.unary_stream_rpc_method_handler(self.echo_server),
                "EchoBoth": grpc.stream_stream_rpc_method_handler(self.echo_both),
                "Slow": grpc.unary_unary_rpc_method_handler(self.slow),
                "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
                "Flaky": grpc.unary_unary_rpc_method_handler(self.flaky),
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch) if self.health is not None else None}.get(name)

    def echo(self, request, context):
        context.set_trailing_metadata((("x-t", "trailer"), ("x-b-bin", b"\0\1\2")))
        return request

    def echo_client(self, requests, context):
        return b"".join(requests)

    def echo_server(self, request, context):
        for _ in range(10):
            yield request

    def echo_both(self, requests, context):
        yield from requests

    def slow(self, request, context):
        gone = threading.Event()
        if not context.add_callback(gone.set):
            gone.set()
        gone.wait(30)
        with self.lock:
            self.cancelled += 1
        return request

    def fail(self, request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 % \"gone\"")

    def flaky(self, request, context):
        with self.lock:
            self.fails -= 1
            bad = self.fails >= 0
        if bad:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return request

    def watch(self, request, context):
        told = None
        context.add_callback(self.wake)
        while context.is_active() and not self.stopped:
            with self.changed:
                if told == self.health:
                    self.changed.wait(1)
                now = self.health
            if told != now:
                told = now
                yield bytes([8, now])

    def wake(self):
        with self.changed:
            self.changed.notify_all()

    def health_set(self, health):
        with self.changed:
            self.health = health
            self.changed.notify_all()

    def stop(self, grace=None):
        self.stopped = True
        self.wake()
        return self.server.stop(grace)


class Client:
    def __init__(self, *servers, **keys):
        addresses = ",".join(f"127.0.0.1:{s if isinstance(s, int) else s.port}" for s in servers)
        self.process = subprocess.Popen([CLIENT, f"addresses={addresses}", *(f"{k}={v}" for k, v in keys.items())],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.calls = []

    def say(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline()
        if line == "":
            raise AssertionError(f"socket_client ended: {self.process.wait()}")
        return json.loads(line)

    def start(self, method="Echo", kind="unary", messages=1, size=100, timeout_ms=60000, wait=0):
        self.say(f"call /t.T/{method} {kind} {messages} {size} {timeout_ms} {wait}")

    def collect(self, what):
        """What calls said until the answer to the command."""
        self.say(what)
        heard = []
        while True:
            line = self.hear()
            if "call" not in line:
                self.calls += heard
                return heard, line
            heard.append(line)

    def wait(self, ms=60000):
        heard, line = self.collect(f"wait {ms}")
        if line["open"] != 0:
            raise AssertionError(f"{line['open']} calls are still open: {heard}")
        return heard

    def call(self, *args, **keys):
        self.start(*args, **keys)
        done = self.wait()
        assert len(done) == 1, done
        return done[0]

    def counters(self):
        return self.collect("counters")[1]

    def end(self):
        self.process.stdin.close()
        self.process.stdout.read()  # calls that were open say that they ended: nobody to hear it would be a SIGPIPE
        self.process.stdout.close()
        return self.process.wait(30)


class Base(unittest.TestCase):
    def server(self, **keys):
        server = Server(**keys)
        self.addCleanup(server.stop)
        return server

    def client(self, *servers, **keys):
        client = Client(*servers, **keys)
        self.addCleanup(lambda: self.assertEqual(client.end(), 0))
        return client


class Kinds(Base):
    def test_kinds(self):
        server = self.server()
        client = self.client(server)
        done = client.call()
        self.assertEqual((done["status"], done["messages"], done["bytes"], done["bad"]), (0, 1, 100, False))
        self.assertEqual(done["trailers"], {"x-t": 7, "x-b-bin": 3})
        self.assertIn("user-agent", server.metadata)
        self.assertTrue(server.metadata["user-agent"].startswith("grpc-c-splitd"))
        done = client.call("EchoClient", "cstream", messages=20, size=0)
        self.assertEqual((done["status"], done["messages"], done["bytes"]), (0, 1, 0))
        done = client.call("EchoServer", "sstream", size=1000)
        self.assertEqual((done["status"], done["messages"], done["bytes"], done["bad"]), (0, 10, 10000, False))
        done = client.call("EchoBoth", "bidi", messages=50, size=5000)
        self.assertEqual((done["status"], done["messages"], done["bytes"], done["bad"]), (0, 50, 250000, False))

    def test_sizes(self):
        client = self.client(self.server())
        for size in (0, 1, 16379, 16384, 65531, 300000, 3 << 20):
            done = client.call(size=size)
            self.assertEqual((done["status"], done["bytes"], done["bad"]), (0, size, False), size)

    def test_many(self):
        client = self.client(self.server())
        for _ in range(300):
            client.start(size=500)
        self.assertEqual([c["status"] for c in client.wait()], [0] * 300)
        self.assertEqual(client.counters()["client.connects"], 1)

    def test_compressed(self):
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            client = self.client(self.server(compression=compression))
            done = client.call(size=200000)
            self.assertEqual((done["status"], done["bytes"], done["bad"]), (0, 200000, False))
            self.assertEqual(client.counters()["client.rx_compressed"], 1)

    def test_statuses(self):
        client = self.client(self.server())
        done = client.call("Fail")
        self.assertEqual((done["status"], done["by_peer"]), (5, True))
        self.assertEqual(done["text"], "no such thing: 100 % gone")
        self.assertEqual(client.call("Nothing")["status"], 12)

    def test_deadline(self):
        server = self.server()
        client = self.client(server)
        client.call()
        done = client.call("Slow", timeout_ms=2000)
        self.assertEqual(done["status"], 4)
        for _ in range(600):
            if server.cancelled == 1:
                break
            time.sleep(0.05)
        self.assertEqual(server.cancelled, 1)

    def test_cancel(self):
        server = self.server()
        client = self.client(server)
        self.assertEqual(client.call()["status"], 0)
        client.start("Slow")
        for _ in range(600):
            client.collect("run 50")
            if server.calls.get("Slow") == 1:
                break
        client.say("cancel")
        for _ in range(600):
            client.collect("run 50")
            if server.cancelled == 1:
                break
        self.assertEqual(server.cancelled, 1)
        self.assertEqual(client.counters()["client.calls_cancelled"], 1)


class Retries(Base):
    def test_flaky(self):
        server = self.server(fails=2)
        client = self.client(server, attempts=4, backoff_ms=10)
        done = client.call("Flaky")
        self.assertEqual((done["status"], done["bytes"], done["bad"]), (0, 100, False))
        self.assertEqual(server.calls["Flaky"], 3)
        self.assertEqual(server.previous, [None, "1", "2"])
        self.assertEqual(client.counters()["client.retries"], 2)

    def test_spent(self):
        server = self.server(fails=100)
        client = self.client(server, attempts=3, backoff_ms=10)
        self.assertEqual(client.call("Flaky")["status"], 14)
        self.assertEqual(server.calls["Flaky"], 3)

    def test_not_asked_for(self):
        server = self.server(fails=1)
        client = self.client(server)
        self.assertEqual(client.call("Flaky")["status"], 14)
        self.assertEqual(server.calls["Flaky"], 1)

    def test_budget(self):
        """Ten tokens, each failure takes one; with five left there are no more retries."""
        server = self.server(fails=1000)
        client = self.client(server, attempts=2, backoff_ms=1, tokens=10)
        for _ in range(10):
            self.assertEqual(client.call("Flaky")["status"], 14)
        counters = client.counters()
        self.assertEqual(server.calls["Flaky"], 10 + counters["client.retries"])
        self.assertEqual(counters["client.retries"], 2)  # after 10 - 1 and 8 - 1; 6 - 1 is not over half


class Servers(Base):
    def test_round_robin(self):
        servers = [self.server() for _ in range(3)]
        client = self.client(*servers)
        client.call()
        for _ in range(600):
            client.collect("run 20")
            if client.counters().get("client.gauge_ready") == 3:
                break
        before = [s.calls.get("Echo", 0) for s in servers]
        for _ in range(30):
            client.start()
        client.wait()
        self.assertEqual([s.calls["Echo"] - b for s, b in zip(servers, before)], [10, 10, 10])

    def test_death(self):
        """One of two goes; with retries no call is lost, and when it is back it is used again."""
        one, two = self.server(), self.server()
        client = self.client(one, two, attempts=5, backoff_ms=10, tokens=0)
        client.call()
        one.stop(None).wait()
        for _ in range(40):
            client.start()
        self.assertEqual({c["status"] for c in client.wait()}, {0})
        back = self.server(port=one.port)
        for _ in range(600):
            client.call()
            client.collect("run 50")
            if back.calls.get("Echo", 0) > 0:
                break
        self.assertGreater(back.calls.get("Echo", 0), 0)

    def test_goaway(self):
        """A server that ends gracefully: what runs ends well, what comes goes to the other."""
        one, two = self.server(), self.server()
        client = self.client(one, two)
        client.call()
        for _ in range(600):
            client.collect("run 20")
            if client.counters().get("client.gauge_ready") == 2:
                break
        for _ in range(4):
            client.start("Slow", timeout_ms=1500)
        client.collect("run 200")
        stopping = one.stop(10)
        for _ in range(20):
            client.start()
        heard = client.wait()
        self.assertEqual(sorted(c["status"] for c in heard), [0] * 20 + [4] * 4)
        self.assertGreaterEqual(client.counters()["client.goaways"], 1)
        stopping.wait()

    def test_nobody(self):
        server = self.server()
        server.stop(None).wait()
        client = self.client(server.port)
        done = client.call()
        self.assertEqual((done["status"], done["by_peer"]), (14, False))
        client.start(wait=1)
        client.collect("run 100")
        self.server(port=server.port)
        self.assertEqual([c["status"] for c in client.wait()], [0])

    def test_ejection(self):
        good, bad = self.server(), self.server(fails=10**6)
        client = self.client(good, bad, consecutive=3, eject_ms=600000)
        client.call()
        for _ in range(600):
            client.collect("run 20")
            if client.counters().get("client.gauge_ready") == 2:
                break
        statuses = [client.call("Flaky")["status"] for _ in range(40)]
        self.assertEqual(statuses.count(14), 3)
        self.assertEqual(bad.calls["Flaky"], 3)
        self.assertEqual(client.counters()["picker.ejected_consecutive"], 1)

    def test_health(self):
        one, two = self.server(health=1), self.server(health=2)
        client = self.client(one, two, health="t.T")
        for _ in range(10):
            client.start()
        self.assertEqual({c["status"] for c in client.wait()}, {0})
        self.assertEqual(two.calls.get("Echo", 0), 0)
        two.health_set(1)
        for _ in range(600):
            client.call()
            client.collect("run 20")
            if two.calls.get("Echo", 0) > 0:
                break
        self.assertGreater(two.calls.get("Echo", 0), 0)


class Tls(Base):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.ca = certs.Authority(cls.folder.name)
        cls.cert, cls.key = cls.ca.make("server", ["DNS:server.example", "DNS:*.wild.example", "IP:127.0.0.1"])
        cls.own = cls.ca.make("client", client=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def credentials(self, cert=None, key=None, mutual=False):
        return grpc.ssl_server_credentials([((key or self.key).read_bytes(), (cert or self.cert).read_bytes())],
                                           self.ca.cert.read_bytes() if mutual else None, mutual)

    def tls_client(self, server, **keys):
        return self.client(server, ca=self.ca.cert, **{"tls_name": "server.example", **keys})

    def test_good(self):
        client = self.tls_client(self.server(credentials=self.credentials()))
        for size in (0, 100, 100000, 3 << 20):
            done = client.call(size=size)
            self.assertEqual((done["status"], done["bytes"], done["bad"]), (0, size, False), size)
        counters = client.counters()
        self.assertEqual((counters["client.connects"], counters["tls.handshakes"]), (1, 1))
        done = client.call("EchoBoth", "bidi", messages=50, size=20000)
        self.assertEqual((done["status"], done["messages"], done["bad"]), (0, 50, False))

    def test_names(self):
        server = self.server(credentials=self.credentials())
        for name, status in (("a.wild.example", 0), ("127.0.0.1", 0), ("other.example", 14), ("a.b.wild.example", 14),
                             ("127.0.0.2", 14)):
            self.assertEqual(self.tls_client(server, tls_name=name).call()["status"], status, name)

    def test_wrong_certificates(self):
        other = certs.Authority(self.folder.name, "other")
        for cert, key in (other.make("server", ["DNS:server.example"], file="foreign"),
                          self.ca.make("server", ["DNS:server.example"], days=-1, file="ended")):
            server = self.server(credentials=self.credentials(cert, key))
            client = self.tls_client(server)
            done = client.call()
            self.assertEqual(done["status"], 14)
            self.assertRegex(done["text"], "TLS handshake .* failed: .*(certificate|issuer)")
            counters = client.counters()
            self.assertEqual((counters["client.tls_failed"], counters["tls.failed_certificate"]), (1, 1))
            self.assertEqual(server.calls, {})

    def test_resumed(self):
        """The second connection takes up the first one's session, by the ticket that it left."""
        server = self.server(credentials=self.credentials())
        client = self.tls_client(server, streams=1, connections=2)
        self.assertEqual(client.call(size=1000)["status"], 0)
        for _ in range(2):
            client.start("Slow", timeout_ms=20000)
        for _ in range(600):
            client.collect("run 20")
            if client.counters()["tls.handshakes"] == 2:
                break
        counters = client.counters()
        self.assertEqual((counters["tls.handshakes"], counters["tls.handshakes_resumed"]), (2, 1))

    def test_no_tls(self):
        self.assertEqual(self.tls_client(self.server()).call()["status"], 14)

    def test_mutual(self):
        server = self.server(credentials=self.credentials(mutual=True))
        cert, key = self.own
        self.assertEqual(self.tls_client(server, cert=cert, key=key).call()["status"], 0)
        self.assertEqual(self.tls_client(server).call()["status"], 14)


if __name__ == "__main__":
    CLIENT = sys.argv.pop(1)
    unittest.main(verbosity=2)
