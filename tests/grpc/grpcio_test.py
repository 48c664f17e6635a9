#!/usr/bin/python3
"""Drives grpc_socket_server with stock grpcio: every kind of method, sizes, metadata, deadlines,
cancellation, errors. Usage: grpcio_test.py SERVER [server options]"""

import random
import subprocess
import sys
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVER = []
OPTIONS = [("grpc.max_receive_message_length", 8 << 20),
           ("grpc.max_send_message_length", 8 << 20)]


class Server:
    def __init__(self, *options):
        self.process = subprocess.Popen([*SERVER, *options], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split("=")[1])

    def channel(self, *more):
        options = OPTIONS + [("grpc.use_local_subchannel_pool", 1), *more]
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(20)


def unary(channel, name):
    return channel.unary_unary("/test.Echo/" + name)


def stats(channel):
    text = unary(channel, "Stats")(b"").decode()
    return {k: int(v) for k, v in (word.split("=") for word in text.split())}


class GrpcTest(unittest.TestCase):
    options = ()
    large = 4 << 20

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.options)
        cls.channel = cls.server.channel()

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        code = cls.server.stop()
        if code != 0:
            raise AssertionError(f"server exited with {code}")

    def check(self, payload, name="Unary", **kw):
        self.assertEqual(unary(self.channel, name)(payload, timeout=60, **kw), payload)

    def test_sizes(self):
        random.seed(1)
        for size in (0, 1, 64, 1000, 16379, 16384, 65535, 65536, 1 << 20, self.large):
            self.check(random.randbytes(size))

    def test_concurrent(self):
        random.seed(2)
        payloads = [random.randbytes(random.choice((0, 64, 3000, 70000))) for _ in range(400)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda p: unary(self.channel, "Unary")(p, timeout=60), payloads))
        self.assertEqual(answers, payloads)

    def test_concurrent_large(self):
        random.seed(3)
        payloads = [random.randbytes(self.large - 64 + i) for i in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda p: unary(self.channel, "Unary")(p, timeout=60), payloads))
        self.assertTrue(answers == payloads)

    def test_message_over_limit(self):
        with self.assertRaises(grpc.RpcError) as e:
            unary(self.channel, "Unary")(bytes((4 << 20) + 1), timeout=30)
        self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.check(b"still there")

    def test_many_connections(self):
        channels = [self.server.channel() for _ in range(16)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda c: unary(c, "Unary")(b"x" * 1000, timeout=60), channels))
        self.assertEqual(answers, [b"x" * 1000] * 16)
        for channel in channels:
            channel.close()

    def test_client_streaming(self):
        call = self.channel.stream_unary("/test.Echo/ClientStream")
        self.assertEqual(call(iter([]), timeout=30), b"0")
        parts = [bytes(n) for n in (0, 1, 5, 100000, 0, 7)]
        self.assertEqual(call(iter(parts), timeout=30), b"100013")
        self.assertEqual(call(iter([bytes(1 << 20)] * 8), timeout=60), b"8388608")

    def test_server_streaming(self):
        call = self.channel.unary_stream("/test.Echo/ServerStream")
        self.assertEqual(list(call((0).to_bytes(4, "big"), timeout=30)), [])
        for count, size in ((1, 0), (1000, 10), (40, 100000)):
            answers = list(call(count.to_bytes(4, "big") + bytes([7]) * size, timeout=60))
            self.assertEqual(len(answers), count)
            self.assertTrue(all(a == bytes([7]) * size for a in answers))

    def test_bidi(self):
        random.seed(4)
        call = self.channel.stream_stream("/test.Echo/Bidi")
        self.assertEqual(list(call(iter([]), timeout=30)), [])
        parts = [random.randbytes(random.choice((0, 1, 500, 40000))) for _ in range(200)]
        self.assertEqual(list(call(iter(parts), timeout=60)), parts)

    def test_bidi_in_turns(self):
        call = self.channel.stream_stream("/test.Echo/Bidi")
        gate = threading.Semaphore(1)

        def parts():
            for i in range(50):
                gate.acquire()
                yield str(i).encode()
        for i, answer in enumerate(call(parts(), timeout=30)):
            self.assertEqual(answer, str(i).encode())
            gate.release()

    def test_bidi_slow_reader(self):
        call = self.channel.stream_stream("/test.Echo/Bidi")(
            iter([bytes(60000)] * 100), timeout=60)
        time.sleep(0.3)
        self.assertEqual(sum(len(a) for a in call), 6000000)

    def test_metadata(self):
        sent = [("x-one", "1"), ("x-two", "a, b"), ("x-two", "c"), ("x-raw-bin", bytes(range(256))),
                ("x-raw-bin", b""), ("x-raw-bin", b"\x00"), ("x-empty", "")]
        _, call = unary(self.channel, "Metadata").with_call(b"", metadata=sent, timeout=30)
        for got in (call.initial_metadata(), call.trailing_metadata()):
            got = [(k, v) for k, v in got if k.startswith("x-")]
            self.assertEqual(sorted(got, key=str), sorted(sent, key=str))

    def test_space_around_metadata_is_stripped(self):
        _, call = unary(self.channel, "Metadata").with_call(b"", metadata=[("x-a", "  a b "), ("x-b", " ")], timeout=30)
        got = {k: v for k, v in call.trailing_metadata() if k.startswith("x-")}
        self.assertEqual(got, {"x-a": "a b", "x-b": ""})

    def test_metadata_too_large(self):
        with self.assertRaises(grpc.RpcError) as e:
            unary(self.channel, "Unary")(b"", metadata=[("x-large", "v" * 9000)], timeout=30)
        self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        with self.assertRaises(grpc.RpcError) as e:
            unary(self.channel, "Unary")(b"", metadata=[("x-large", "v" * 30000)], timeout=30)
        self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)

    def test_status(self):
        for code in list(grpc.StatusCode)[1:]:
            text = "höhe 100% \n end"
            with self.assertRaises(grpc.RpcError) as e:
                unary(self.channel, "Fail")(f"{code.value[0]}:{text}".encode(), timeout=30)
            self.assertEqual(e.exception.code(), code)
            self.assertEqual(e.exception.details(), text)
            self.assertIn(("grpc-status-details-bin", b"details"),
                          [tuple(m) for m in e.exception.trailing_metadata()])

    def test_ok_without_reply(self):
        with self.assertRaises(grpc.RpcError) as e:
            unary(self.channel, "Fail")(b"0:", timeout=30)
        self.assertEqual(e.exception.code(), grpc.StatusCode.INTERNAL)

    def test_unimplemented(self):
        for path in ("/test.Echo/None", "/test.None/Unary", "/x", "//", "/a/b/c"):
            with self.assertRaises(grpc.RpcError) as e:
                self.channel.unary_unary(path)(b"x", timeout=30)
            self.assertEqual(e.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_deadline(self):
        before = stats(self.channel)["deadline"] + stats(self.channel)["cancelled"]
        start = time.monotonic()
        with self.assertRaises(grpc.RpcError) as e:
            list(self.channel.stream_stream("/test.Echo/Hang")(iter([b"x"]), timeout=0.2))
        self.assertEqual(e.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - start, 5)
        time.sleep(0.2)
        after = stats(self.channel)
        self.assertEqual(after["deadline"] + after["cancelled"], before + 1)
        self.assertEqual(after["calls"], 1)

    def test_cancel(self):
        before = stats(self.channel)["cancelled"]
        call = self.channel.stream_stream("/test.Echo/Hang")(iter([b"x"]))
        time.sleep(0.2)
        call.cancel()
        time.sleep(0.2)
        self.assertEqual(stats(self.channel)["cancelled"], before + 1)

    def test_connection_lost(self):
        before = stats(self.channel)["connection"]
        channel = self.server.channel()
        calls = [channel.stream_stream("/test.Echo/Hang")(iter([b"x"])) for _ in range(5)]
        unary(channel, "Unary")(b"", timeout=30)
        time.sleep(0.1)
        channel.close()
        time.sleep(0.3)
        after = stats(self.channel)
        self.assertEqual(after["calls"], 1)
        del calls

    def test_slow_room(self):
        before = stats(self.channel)["held"]
        random.seed(5)
        payloads = [random.randbytes(n) for n in (0, 5, 1000, 70000, 1 << 20, 65531, self.large)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda p: unary(self.channel, "Slow")(p, timeout=60), payloads))
        self.assertTrue(answers == payloads)
        self.assertEqual(stats(self.channel)["held"], before + len(payloads))

    def test_later(self):
        payloads = [str(i).encode() * 100 for i in range(200)]
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda p: unary(self.channel, "Later")(p, timeout=60), payloads))
        self.assertEqual(answers, payloads)

    def test_compression(self):
        random.seed(6)
        for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            before = stats(self.channel)
            for size in (100, 5000, 300000, self.large):
                payload = random.randbytes(size // 4) + bytes(size - size // 4)
                self.check(payload, compression=kind)
            after = stats(self.channel)
            self.assertEqual(after["rx_compressed"], before["rx_compressed"] + 4)
            self.assertEqual(after["tx_compressed"], before["tx_compressed"] + 4)
        self.check(random.randbytes(70000), compression=grpc.Compression.Gzip)  # no smaller: goes as it is

    def test_compression_streams(self):
        call = self.channel.stream_stream("/test.Echo/Bidi")
        for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            parts = [b"ab" * n for n in (0, 1, 20, 5000, 100000, 3)]
            self.assertEqual(list(call(iter(parts), compression=kind, timeout=60)), parts)

    def test_compression_concurrent(self):
        random.seed(7)
        payloads = [random.randbytes(20000) * random.randrange(1, 20) for _ in range(60)]
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda p: unary(self.channel, "Slow" if len(p) % 3 else "Unary")(
                p, timeout=60, compression=random.choice((grpc.Compression.Gzip, grpc.Compression.Deflate))), payloads))
        self.assertTrue(answers == payloads)

    def test_compression_over_limit(self):
        for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            with self.assertRaises(grpc.RpcError) as e:
                unary(self.channel, "Unary")(bytes((4 << 20) + 1), compression=kind, timeout=30)
            self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.check(b"still there")


class TinyRoomTest(GrpcTest):
    """Output in pieces of 7 bytes, input in pieces of 3."""
    options = ("--room", "7", "--read", "3")


class ByteRoomTest(GrpcTest):
    """Each byte by itself, both ways; a small window too."""
    options = ("--room", "1", "--read", "1", "--window", "1000")
    large = 300000


class LimitTest(unittest.TestCase):
    def test_calls_max(self):
        server = Server("--calls", "3")
        channel = server.channel()
        calls = [channel.stream_stream("/test.Echo/Hang")(iter([b"x"])) for _ in range(3)]
        time.sleep(0.3)
        with self.assertRaises(grpc.RpcError) as e:
            unary(channel, "Unary")(b"x", timeout=10)
        self.assertEqual(e.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        for call in calls:
            call.cancel()
        time.sleep(0.2)
        self.assertEqual(unary(channel, "Unary")(b"x", timeout=10), b"x")
        channel.close()
        self.assertEqual(server.stop(), 0)

    def test_streams_max(self):
        server = Server("--streams", "4")
        channel = server.channel()
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda i: unary(channel, "Later")(b"x", timeout=30), range(40)))
        self.assertEqual(answers, [b"x"] * 40)
        channel.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    SERVER.append(sys.argv[1])
    names = sys.argv[2:]
    unittest.main(argv=[sys.argv[0], *names], verbosity=1)
