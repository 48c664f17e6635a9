#!/usr/bin/python3
"""Say hello through any gRPC stack: hello.py TARGET NAME prints the greeting.

No generated code: the two messages have one string field each, written out by hand below.
"""
import sys

import grpc


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def hello_request(name):
    data = name.encode()
    return b"\x0a" + varint(len(data)) + data if data else b""


def hello_reply(data):
    """The string of field 1."""
    if not data:
        return ""
    if data[0] != 0x0A:
        raise ValueError("not a HelloReply")
    size = shift = 0
    at = 1
    while True:
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return data[at:at + size].decode()


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: hello.py TARGET NAME")
    with grpc.insecure_channel(sys.argv[1]) as channel:
        say_hello = channel.unary_unary("/split.examples.Greeter/SayHello",
                                        request_serializer=hello_request,
                                        response_deserializer=hello_reply)
        try:
            print(say_hello(sys.argv[2], timeout=10))
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
