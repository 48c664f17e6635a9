#!/usr/bin/python3
"""Wait until a service behind splitd answers: probe.py ADDRESS:PORT EXAMPLE [SECONDS].

One unary call of EXAMPLE's simplest method with an empty message, by stock grpcio, again and again
until it is answered with OK or the time is over. Exit status 0 or 1.
"""
import sys
import time

import grpc

METHODS = {
    "echo": "/split.examples.Echo/Unary",
    "greeter": "/split.examples.Greeter/SayHello",
    "interop": "/grpc.testing.TestService/EmptyCall",
}


def main():
    target, example = sys.argv[1:3]
    end = time.monotonic() + (float(sys.argv[3]) if len(sys.argv) > 3 else 20)
    last = f"no method known for {example}"
    while example in METHODS and time.monotonic() < end:
        with grpc.insecure_channel(target) as channel:
            call = channel.unary_unary(METHODS[example])
            try:
                call(b"", timeout=2, wait_for_ready=True)
                return 0
            except grpc.RpcError as e:
                last = f"{e.code().name}: {e.details()}"
        time.sleep(0.1)
    print(f"{target}: {last}", file=sys.stderr)
    return 1


sys.exit(main())
