#!/usr/bin/python3
"""Streams of split.examples.Echo with stock grpcio: streams_client.py TARGET WHAT [ARGS]. Prints one JSON object.

What is sent and what comes back is compared byte for byte. `what` is one of the functions below.
"""
import asyncio
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import grpc
import grpc.aio

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load_proto():
    with tempfile.TemporaryDirectory() as out:
        folder = ROOT / "examples/echo"
        subprocess.run(["protoc", f"-I{folder}", f"--python_out={out}", "echo.proto"], check=True)
        sys.path.insert(0, out)
        try:
            import echo_pb2
        finally:
            sys.path.remove(out)
    return echo_pb2


pb = load_proto()
Echo = pb.EchoMessage


def stubs(target, n=1):
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(n)]
    codec = {"request_serializer": Echo.SerializeToString, "response_deserializer": Echo.FromString}
    kinds = {"Unary": "unary_unary", "Client": "stream_unary", "Server": "unary_stream", "Bidi": "stream_stream"}
    return channels, [{name: getattr(c, kind)(f"/split.examples.Echo/{name}", **codec) for name, kind in kinds.items()} for c in channels]


def body(size, seed):
    block = bytes((seed * 31 + i * 7) & 0xFF for i in range(256))
    return (block * (size // 256 + 1))[:size]


def pattern(size):
    return (bytes(range(256)) * (size // 256 + 1))[:size]


async def bidi(stub, messages, size, seed, pace=0.0, busy_us=0, **more):
    """One bidi call: sends while it reads. Returns what was wrong, or None."""
    sizes = [size] * messages if not isinstance(size, (list, tuple)) else [random.Random(seed + i).choice(size) for i in range(messages)]

    async def send():
        for i in range(messages):
            yield Echo(payload=body(sizes[i], seed + i), busy_us=busy_us)
    i = 0
    call = stub["Bidi"](send(), timeout=more.get("timeout", 120))
    async for answer in call:
        if answer.payload != body(sizes[i], seed + i):
            return f"message {i}: {len(answer.payload)} bytes came back, other than the {sizes[i]} sent"
        i += 1
        if pace:
            await asyncio.sleep(pace)
    return None if i == messages else f"{i} of {messages} messages came back"


async def many(target, streams, messages, size, connections):
    """So many bidi calls at once, each with some messages."""
    channels, stub = stubs(target, connections)
    wrong = await asyncio.gather(*(bidi(stub[s % connections], messages, size, s) for s in range(streams)), return_exceptions=True)
    for c in channels:
        await c.close()
    return [str(w) for w in wrong if w is not None]


async def held(target, streams, connections):
    """All calls are open at once, proved by each having had an answer before the first is half-closed."""
    channels, stub = stubs(target, connections)
    calls, wrong = [], []
    for s in range(streams):
        call = stub[s % connections]["Bidi"](timeout=600)
        calls.append(call)
        await call.write(Echo(payload=body(64, s)))
    for s, call in enumerate(calls):
        answer = await call.read()
        if answer == grpc.aio.EOF or answer.payload != body(64, s):
            wrong.append(f"stream {s}: {await call.code()}: {await call.details()}" if answer == grpc.aio.EOF else f"stream {s}: other bytes")
    for s, call in enumerate(calls):
        await call.done_writing()
        if await call.read() != grpc.aio.EOF or await call.code() != grpc.StatusCode.OK:
            wrong.append(f"stream {s} did not end well: {await call.code()}")
    for c in channels:
        await c.close()
    return wrong


async def slow_reader(target, replies, size, pause):
    """A server stream whose client reads nothing for `pause` seconds, then all."""
    channels, stub = stubs(target)
    call = stub[0]["Server"](Echo(payload=b"", reply_bytes=size, replies=replies), timeout=200)
    wrong, n, wanted = [], 0, pattern(size)
    first = await call.read()
    other = await stub[0]["Unary"](Echo(payload=b"beside it"), timeout=20)
    if other.payload != b"beside it":
        wrong.append("a call beside it got other bytes")
    await asyncio.sleep(pause)
    while first != grpc.aio.EOF:
        if first.payload != wanted and not wrong:
            wrong.append(f"message {n}: other bytes")
        n += 1
        first = await call.read()
    if n != replies or await call.code() != grpc.StatusCode.OK:
        wrong.append(f"{n} of {replies}: {await call.code()} {await call.details()}")
    await channels[0].close()
    return wrong


async def slow_handler(target, messages, size, busy_us):
    """A client stream to a handler that takes its time: the client is stopped by flow control. Says how far the client got
    ahead of what was answered, at most."""
    channels, stub = stubs(target)
    call = stub[0]["Bidi"](timeout=200)
    sent = got = ahead = 0
    wrong = []

    async def send():
        nonlocal sent
        for i in range(messages):
            await call.write(Echo(payload=body(size, i), busy_us=busy_us))
            sent += 1
        await call.done_writing()
    sender = asyncio.create_task(send())
    while True:
        answer = await call.read()
        if answer == grpc.aio.EOF:
            break
        if answer.payload != body(size, got):
            wrong.append(f"message {got}: other bytes")
            break
        got += 1
        ahead = max(ahead, sent - got)
    await sender
    if got != messages or await call.code() != grpc.StatusCode.OK:
        wrong.append(f"{got} of {messages}: {await call.code()} {await call.details()}")
    await channels[0].close()
    return wrong, {"ahead": ahead}


async def cancels(target, seconds, seed, connections):
    """Calls of every kind, most of them cancelled, deadlined or broken off at random; those left alone must end well."""
    rand = random.Random(seed)
    channels, stub = stubs(target, connections)
    end, wrong, counts = time.monotonic() + seconds, [], {}

    def note(what):
        counts[what] = counts.get(what, 0) + 1

    async def one(n):
        s = stub[n % connections]
        what = rand.choice(["cancel_early", "cancel_mid", "deadline", "abandon", "whole", "server_cancel", "client_cancel", "client"])
        try:
            if what == "whole":
                w = await bidi(s, rand.randrange(1, 40), [0, 64, 1000, 20000, 100000], n)
                if w:
                    wrong.append(w)
            elif what in ("cancel_early", "cancel_mid", "abandon"):
                call = s["Bidi"](timeout=60)
                if what != "cancel_early":
                    for i in range(rand.randrange(1, 20)):
                        await call.write(Echo(payload=body(rand.choice([0, 64, 5000, 60000]), i)))
                        if what == "abandon" or rand.random() < 0.5:
                            await call.read()
                else:
                    # Not before its HEADERS are out: C-core may then send RST_STREAM on a stream that it never opens, for
                    # which RFC 9113 s5.1 has the connection end, with the other calls on it.
                    await call.write(Echo())
                call.cancel()
            elif what == "deadline":
                call = s["Bidi"](timeout=1 + rand.random())  # as above
                while True:
                    await call.write(Echo(payload=body(3000, 1), busy_us=200))
                    if await call.read() == grpc.aio.EOF:
                        break
            elif what == "server_cancel":
                call = s["Server"](Echo(reply_bytes=rand.choice([1, 100, 30000]), replies=100000), timeout=60)
                for _ in range(rand.randrange(1, 30)):
                    await call.read()
                call.cancel()
            elif what == "client_cancel":
                call = s["Client"](timeout=60)
                for i in range(rand.randrange(1, 30)):
                    await call.write(Echo(payload=body(rand.choice([10, 2000, 40000]), i)))
                call.cancel()
            else:
                call = s["Client"](timeout=60)
                sizes = [rand.choice([10, 2000, 40000]) for _ in range(rand.randrange(1, 30))]
                for i, size in enumerate(sizes):
                    await call.write(Echo(payload=body(size, i)))
                await call.done_writing()
                answer = await call
                if answer.reply_bytes != sum(sizes) or answer.payload != body(sizes[-1], len(sizes) - 1):
                    wrong.append("client stream: wrong sum or last payload")
        except (grpc.RpcError, asyncio.CancelledError, asyncio.InvalidStateError) as e:
            if what in ("whole", "client"):
                wrong.append(f"{what}: {e!r}")
        note(what)

    async def lane(k):
        n = k
        while time.monotonic() < end:
            await one(n)
            n += 64
    await asyncio.gather(*(lane(k) for k in range(64)))
    for c in channels:
        await c.close()
    return wrong, counts


async def too_large(target, size, times):
    """Calls whose answer cannot go end with RESOURCE_EXHAUSTED, and those around them well."""
    channels, stub = stubs(target, 2)
    wrong, counts = [], {}

    async def small(n):
        answer = await stub[n % 2]["Unary"](Echo(payload=body(20000, n)), timeout=60)
        if answer.payload != body(20000, n):
            wrong.append("other bytes")
    for n in range(times):
        await asyncio.gather(*(small(i) for i in range(8)))
        try:
            await stub[n % 2]["Unary"](Echo(reply_bytes=size), timeout=60)
            code = "OK"
        except grpc.RpcError as e:
            code = e.code().name
        counts[code] = counts.get(code, 0) + 1
    await asyncio.gather(*(small(i) for i in range(200)))
    for c in channels:
        await c.close()
    return wrong, counts


async def line_of(reader):
    return (await asyncio.get_running_loop().run_in_executor(None, reader.readline)).strip()


async def until(target, streams, finish):
    """Opens calls, says "open", and with `finish` goes on with them once a line comes on standard input. Says how they ended."""
    channels, stub = stubs(target, 2)
    calls, counts, wrong = [], {}, []
    for s in range(streams):
        call = stub[s % 2]["Bidi"](timeout=120)
        calls.append(call)
        await call.write(Echo(payload=body(100, s)))
    for s, call in enumerate(calls):
        if (await call.read()).payload != body(100, s):
            wrong.append("other bytes")
    print("open", flush=True)
    if finish:
        await line_of(sys.stdin)
        for s, call in enumerate(calls):
            await call.write(Echo(payload=body(30000, s)))
            await call.done_writing()
            answer = await call.read()
            if answer == grpc.aio.EOF or answer.payload != body(30000, s):
                wrong.append("a call that was open did not go on")
    for call in calls:
        try:
            while await call.read() != grpc.aio.EOF:
                pass
        except grpc.RpcError:
            pass
        code = (await call.code()).name
        counts[code] = counts.get(code, 0) + 1
    for c in channels:
        await c.close()
    return wrong, counts


async def main():
    target, what = sys.argv[1:3]
    args = [json.loads(a) for a in sys.argv[3:]]
    done = await globals()[what](target, *args)
    wrong, facts = done if isinstance(done, tuple) else (done, {})
    print(json.dumps({"wrong": wrong[:5], "wrong_n": len(wrong), **facts}))
    sys.exit(1 if wrong else 0)


asyncio.run(main())
