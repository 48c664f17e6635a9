#!/usr/bin/python3
"""The official interoperability cases with stock grpcio: grpcio_cases.py TARGET [--ca FILE --name NAME] [CASE …].

One line a case, "ok CASE" or "FAILED CASE: why"; exit status 1 when any failed. The cases are written from their public
description (gRPC's doc/interop-test-descriptions.md).
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import grpc

LARGE_REQUEST, LARGE_RESPONSE = 271828, 314159
REQUESTS, RESPONSES = (27182, 8, 1828, 45904), (31415, 9, 2653, 58979)
INITIAL_KEY, INITIAL = "x-grpc-test-echo-initial", "test_initial_metadata_value"
TRAILING_KEY, TRAILING = "x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


def load_proto():
    with tempfile.TemporaryDirectory() as out:
        here = pathlib.Path(__file__).resolve().parent
        subprocess.run(["protoc", f"-I{here}", f"--python_out={out}", "interop.proto"], check=True)
        sys.path.insert(0, out)
        try:
            import interop_pb2
        finally:
            sys.path.remove(out)
    return interop_pb2


pb = load_proto()


class Stub:
    """What protoc's gRPC plugin would make."""

    def __init__(self, channel, service="grpc.testing.TestService"):
        def method(kind, name, request, response):
            return getattr(channel, kind)(f"/{service}/{name}", request_serializer=request.SerializeToString,
                                          response_deserializer=response.FromString)
        ask, answer = pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse
        self.empty = method("unary_unary", "EmptyCall", pb.Empty, pb.Empty)
        self.unary = method("unary_unary", "UnaryCall", pb.SimpleRequest, pb.SimpleResponse)
        self.cacheable = method("unary_unary", "CacheableUnaryCall", pb.SimpleRequest, pb.SimpleResponse)
        self.output = method("unary_stream", "StreamingOutputCall", ask, answer)
        self.input = method("stream_unary", "StreamingInputCall", pb.StreamingInputCallRequest, pb.StreamingInputCallResponse)
        self.full = method("stream_stream", "FullDuplexCall", ask, answer)
        self.half = method("stream_stream", "HalfDuplexCall", ask, answer)
        self.unimplemented = method("unary_unary", "UnimplementedCall", pb.Empty, pb.Empty)


def payload(size):
    return pb.Payload(body=bytes(size))


def ask(size, interval_us=0, request=0, compressed=None):
    p = pb.ResponseParameters(size=size, interval_us=interval_us)
    if compressed is not None:
        p.compressed.value = compressed
    return pb.StreamingOutputCallRequest(response_parameters=[p], payload=payload(request))


class Talk:
    """Requests of a stream, sent when the test says so."""

    def __init__(self):
        self.condition, self.queue, self.closed = threading.Condition(), [], False

    def send(self, request):
        with self.condition:
            self.queue.append(request)
            self.condition.notify()

    def close(self):
        with self.condition:
            self.closed = True
            self.condition.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.condition:
            while not self.queue and not self.closed:
                self.condition.wait()
            if self.queue:
                return self.queue.pop(0)
        raise StopIteration


def expect(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r}, not {wanted!r}")


def expect_code(call, code):
    try:
        call()
    except grpc.RpcError as e:
        expect("status", e.code(), code)
        return e
    raise AssertionError(f"no error, not {code}")


def empty_unary(stub, more):
    expect("answer", stub.empty(pb.Empty(), timeout=20), pb.Empty())


def large_unary(stub, more):
    answer = stub.unary(pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST)), timeout=20)
    expect("body", answer.payload.body, bytes(LARGE_RESPONSE))


def cacheable_unary(stub, more):
    metadata = (("x-user-ip", "1.2.3.4"),)
    request = pb.SimpleRequest(payload=pb.Payload(body=str(time.monotonic_ns()).encode()))
    answer, call = stub.cacheable.with_call(request, metadata=metadata, timeout=20)
    if not answer.payload.body.isdigit():
        raise AssertionError(f"body {answer.payload.body!r}")
    expect("cache-control", dict(call.initial_metadata()).get("cache-control"), "max-age=60, public")


def client_streaming(stub, more):
    answer = stub.input((pb.StreamingInputCallRequest(payload=payload(n)) for n in REQUESTS), timeout=20)
    expect("sum", answer.aggregated_payload_size, sum(REQUESTS))


def server_streaming(stub, more):
    request = pb.StreamingOutputCallRequest(response_parameters=[pb.ResponseParameters(size=n) for n in RESPONSES])
    expect("sizes", tuple(len(a.payload.body) for a in stub.output(request, timeout=20)), RESPONSES)


def ping_pong(stub, more):
    talk = Talk()
    call = stub.full(talk, timeout=20)
    for size, request in zip(RESPONSES, REQUESTS):
        talk.send(ask(size, request=request))
        expect("body", next(call).payload.body, bytes(size))
    talk.close()
    expect("rest", list(call), [])
    expect("status", call.code(), grpc.StatusCode.OK)


def half_duplex(stub, more):
    talk = Talk()
    call = stub.half(talk, timeout=20)
    for size in RESPONSES:
        talk.send(ask(size))
    time.sleep(0.2)
    talk.close()
    expect("sizes", tuple(len(a.payload.body) for a in call), RESPONSES)


def empty_stream(stub, more):
    call = stub.full(iter(()), timeout=20)
    expect("answers", list(call), [])
    expect("status", call.code(), grpc.StatusCode.OK)


def compressed_requests_expected(stub, more):
    """client_compressed_unary and _streaming: the probe says compressed and is not: INVALID_ARGUMENT."""
    plain = pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST), expect_compressed=pb.BoolValue(value=True))
    expect_code(lambda: stub.unary(plain, timeout=20), grpc.StatusCode.INVALID_ARGUMENT)


def client_compressed_unary(stub, more):
    compressed_requests_expected(stub, more)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression):
        request = pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST),
                                   expect_compressed=pb.BoolValue(value=compression != grpc.Compression.NoCompression))
        answer = stub.unary(request, compression=compression, timeout=20)
        expect("body", answer.payload.body, bytes(LARGE_RESPONSE))


def client_compressed_streaming(stub, more):
    probe = pb.StreamingInputCallRequest(payload=payload(27182), expect_compressed=pb.BoolValue(value=True))
    expect_code(lambda: stub.input(iter([probe]), timeout=20), grpc.StatusCode.INVALID_ARGUMENT)
    requests = [pb.StreamingInputCallRequest(payload=payload(n), expect_compressed=pb.BoolValue(value=True)) for n in (27182, 45904)]
    answer = stub.input(iter(requests), compression=grpc.Compression.Gzip, timeout=20)
    expect("sum", answer.aggregated_payload_size, 27182 + 45904)


def server_compressed_unary(stub, more):
    for wanted in (True, False):
        request = pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST),
                                   response_compressed=pb.BoolValue(value=wanted))
        answer = stub.unary(request, timeout=20)
        expect("body", answer.payload.body, bytes(LARGE_RESPONSE))


def server_compressed_streaming(stub, more):
    request = pb.StreamingOutputCallRequest(response_parameters=[
        pb.ResponseParameters(size=31415, compressed=pb.BoolValue(value=True)),
        pb.ResponseParameters(size=92653, compressed=pb.BoolValue(value=False))])
    expect("sizes", tuple(len(a.payload.body) for a in stub.output(request, timeout=20)), (31415, 92653))


def custom_metadata(stub, more):
    metadata = ((INITIAL_KEY, INITIAL), (TRAILING_KEY, TRAILING))

    def check(call):
        expect("initial", dict(call.initial_metadata()).get(INITIAL_KEY), INITIAL)
        expect("trailing", dict(call.trailing_metadata()).get(TRAILING_KEY), TRAILING)
    request = pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(LARGE_REQUEST))
    _, call = stub.unary.with_call(request, metadata=metadata, timeout=20)
    check(call)
    call = stub.full(iter([ask(LARGE_RESPONSE, request=LARGE_REQUEST)]), metadata=metadata, timeout=20)
    expect("sizes", [len(a.payload.body) for a in call], [LARGE_RESPONSE])
    check(call)


def status_code_and_message(stub, more):
    status = pb.EchoStatus(code=2, message="test status message")
    e = expect_code(lambda: stub.unary(pb.SimpleRequest(response_status=status), timeout=20), grpc.StatusCode.UNKNOWN)
    expect("message", e.details(), status.message)
    request = pb.StreamingOutputCallRequest(response_status=status)
    e = expect_code(lambda: list(stub.full(iter([request]), timeout=20)), grpc.StatusCode.UNKNOWN)
    expect("message", e.details(), status.message)
    e = expect_code(lambda: list(stub.output(request, timeout=20)), grpc.StatusCode.UNKNOWN)
    expect("message", e.details(), status.message)


def special_status_message(stub, more):
    request = pb.SimpleRequest(response_status=pb.EchoStatus(code=2, message=SPECIAL))
    e = expect_code(lambda: stub.unary(request, timeout=20), grpc.StatusCode.UNKNOWN)
    expect("message", e.details(), SPECIAL)


def unimplemented_method(stub, more):
    expect_code(lambda: stub.unimplemented(pb.Empty(), timeout=20), grpc.StatusCode.UNIMPLEMENTED)


def unimplemented_service(stub, more):
    expect_code(lambda: more.unimplemented(pb.Empty(), timeout=20), grpc.StatusCode.UNIMPLEMENTED)


def cancel_after_begin(stub, more):
    call = stub.input.future(Talk(), timeout=20)
    call.cancel()
    expect("cancelled", call.cancelled(), True)
    expect("status", call.code(), grpc.StatusCode.CANCELLED)


def cancel_after_first_response(stub, more):
    talk = Talk()
    call = stub.full(talk, timeout=20)
    talk.send(ask(31415, request=27182))
    expect("body", next(call).payload.body, bytes(31415))
    call.cancel()
    expect_code(lambda: next(call), grpc.StatusCode.CANCELLED)


def timeout_on_sleeping_server(stub, more):
    talk = Talk()
    talk.send(pb.StreamingOutputCallRequest(payload=payload(27182)))
    expect_code(lambda: next(stub.full(talk, timeout=0.001)), grpc.StatusCode.DEADLINE_EXCEEDED)
    talk = Talk()
    talk.send(ask(1, interval_us=20_000_000))
    expect_code(lambda: next(stub.full(talk, timeout=0.3)), grpc.StatusCode.DEADLINE_EXCEEDED)


def intervals(stub, more):
    """interval_us is kept, by messages in between too."""
    request = pb.StreamingOutputCallRequest(response_parameters=[pb.ResponseParameters(size=i, interval_us=30000) for i in range(4)])
    began = time.monotonic()
    expect("sizes", [len(a.payload.body) for a in stub.output(request, timeout=20)], [0, 1, 2, 3])
    if time.monotonic() - began < 0.12:
        raise AssertionError("answers came sooner than their intervals")


CASES = [empty_unary, large_unary, cacheable_unary, client_streaming, server_streaming, ping_pong, half_duplex, empty_stream,
         client_compressed_unary, client_compressed_streaming, server_compressed_unary, server_compressed_streaming,
         custom_metadata, status_code_and_message, special_status_message, unimplemented_method, unimplemented_service,
         cancel_after_begin, cancel_after_first_response, timeout_on_sleeping_server, intervals]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--ca", help="certificates (PEM) that the server's must come from: TLS")
    parser.add_argument("--name", help="the name that the server's certificate is for")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    if args.ca:
        credentials = grpc.ssl_channel_credentials(pathlib.Path(args.ca).read_bytes())
        options = [("grpc.ssl_target_name_override", args.name)] if args.name else []
        channel = grpc.secure_channel(args.target, credentials, options)
    else:
        channel = grpc.insecure_channel(args.target)
    stub, more = Stub(channel), Stub(channel, "grpc.testing.UnimplementedService")
    failed = 0
    for case in CASES:
        if args.cases and case.__name__ not in args.cases:
            continue
        try:
            case(stub, more)
            print(f"ok {case.__name__}", flush=True)
        except Exception as e:  # whatever went wrong is the answer
            failed += 1
            print(f"FAILED {case.__name__}: {type(e).__name__}: {e}", flush=True)
    channel.close()
    sys.exit(1 if failed else 0)


main()
