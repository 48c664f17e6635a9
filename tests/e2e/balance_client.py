#!/usr/bin/python3
"""Calls to order, for balance_test.py: one JSON request a line on standard input, one JSON answer a line on standard output.

usage: balance_client.py TARGET

{"do": "calls", "n": 10, "metadata": {"x-user": "a"}, "hex": "0a0161", "channel": 0, "method": "..."}
    n unary calls, one after the other, of raw message bytes   -> {"OK": 10, ...} by status
{"do": "open", "key": "k", "channel": 0}    a bidi stream of Echo that has begun   -> {}
{"do": "close", "key": "k"}                 half-close it and wait for its end     -> {"OK": 1}
{"do": "flood", "key": "k", "n": 100, ...}  n calls at once  -> {}
{"do": "join", "key": "k"}                  their ends       -> {"OK": 90, "RESOURCE_EXHAUSTED": 10}
Channels are connections of their own.
"""
import collections
import json
import queue
import sys

import grpc

RAW = {"request_serializer": None, "response_deserializer": None}


def main():
    target, channels, streams, floods = sys.argv[1], {}, {}, {}

    def channel(name):
        if name not in channels:
            channels[name] = grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])
        return channels[name]

    def calls(r):
        method = channel(r.get("channel", 0)).unary_unary(r.get("method", "/split.examples.Echo/Unary"), **RAW)
        metadata, got = list(r.get("metadata", {}).items()), collections.Counter()
        for _ in range(r["n"]):
            try:
                method(bytes.fromhex(r.get("hex", "")), timeout=120, metadata=metadata, wait_for_ready=True)
                got["OK"] += 1
            except grpc.RpcError as e:
                got[e.code().name] += 1
                print(e.details(), file=sys.stderr)
        return got

    def open_stream(r):
        feed = queue.Queue()
        stream = channel(r.get("channel", 0)).stream_stream("/split.examples.Echo/Bidi", **RAW)(iter(feed.get, None), timeout=300)
        feed.put(b"")
        next(stream)  # its handler has answered: it is with a process
        streams[r["key"]] = (feed, stream)
        return {}

    def close_stream(r):
        feed, stream = streams.pop(r["key"])
        feed.put(None)
        for _ in stream:
            pass
        return {stream.code().name: 1}

    def flood(r):
        method = channel(r.get("channel", 0)).unary_unary(r.get("method", "/split.examples.Echo/Unary"), **RAW)
        floods[r["key"]] = [method.future(bytes.fromhex(r.get("hex", "")), timeout=300) for _ in range(r["n"])]
        return {}

    def join(r):
        return collections.Counter(f.code().name for f in floods.pop(r["key"]))

    do = {"calls": calls, "open": open_stream, "close": close_stream, "flood": flood, "join": join}
    for line in sys.stdin:
        r = json.loads(line)
        print(json.dumps(do[r["do"]](r)), flush=True)


main()
