#!/usr/bin/python3
"""A stock client of the services that splitd answers itself, with message types made at run time.

usage: services_client.py SET TARGET check SERVICE           prints the status, or the code of the failure
       services_client.py SET TARGET watch SERVICE           prints each status as it comes, until it is ended
       services_client.py SET TARGET call SECONDS            calls the echo service, within that deadline
       services_client.py SET TARGET channelz -              asks everything of channelz
       services_client.py SET TARGET everybody N             prints what N connections, each with two calls, are told of all
       services_client.py SET TARGET reflect VERSION         asks everything of reflection, calls what it found

SET is the descriptor set of the services' own protos; nothing else is known beforehand.
"""
import pathlib
import sys
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def pool_of(files):
    """A pool of FileDescriptorProtos in any order."""
    pool, left = descriptor_pool.DescriptorPool(), {f.name: f for f in files}

    def add(name):
        f = left.pop(name, None)
        if f is not None:
            for needed in f.dependency:
                add(needed)
            pool.Add(f)
    for f in list(files):
        add(f.name)
    return pool


def types(pool):
    factory = message_factory.MessageFactory(pool)
    return lambda name: factory.GetPrototype(pool.FindMessageTypeByName(name))


class Reflection:
    def __init__(self, channel, own, version):
        self.kind = f"grpc.reflection.{version}."
        self.request, self.response = own(self.kind + "ServerReflectionRequest"), own(self.kind + "ServerReflectionResponse")
        self.call = channel.stream_stream(f"/{self.kind}ServerReflection/ServerReflectionInfo", self.request.SerializeToString,
                                          self.response.FromString)
        self.extension = own(self.kind + "ExtensionRequest")

    def ask_all(self, *questions):
        requests = [self.request(host="here", **q) for q in questions]
        answers = list(self.call(iter(requests), timeout=30))
        assert len(answers) == len(requests), (len(answers), len(requests))
        for rq, got in zip(requests, answers):
            assert got.valid_host == "here" and got.original_request == rq, got
        return answers

    def ask(self, **question):
        return self.ask_all(question)[0]

    def files(self, **question):
        got = self.ask(**question)
        assert got.WhichOneof("message_response") == "file_descriptor_response", got
        return [descriptor_pb2.FileDescriptorProto.FromString(b) for b in got.file_descriptor_response.file_descriptor_proto]

    def error(self, **question):
        got = self.ask(**question)
        assert got.WhichOneof("message_response") == "error_response", got
        return got.error_response.error_code


def reflect(channel, own, version):
    r = Reflection(channel, own, version)
    names = [s.name for s in r.ask(list_services="").list_services_response.service]
    print("services", *names)
    for wanted in ("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"):
        assert wanted in names, names
    assert len(set(names)) == len(names), names
    called = 0
    for name in names:
        files = r.files(file_containing_symbol=name)
        assert any(f"{f.package}.{s.name}" == name for s in files[0].service for f in files[:1]), files[0]
        assert [f.name for f in r.files(file_by_filename=files[0].name)] == [f.name for f in files]
        pool = pool_of(files)
        service = pool.FindServiceByName(name)
        for method in service.methods:
            assert r.files(file_containing_symbol=method.full_name)[0].name == files[0].name
            assert r.files(file_containing_symbol=method.input_type.full_name)
        if name == "split.examples.Echo":
            of = types(pool)
            method = service.methods_by_name["Unary"]
            request = of(method.input_type.full_name)()
            field = method.input_type.fields[0]
            setattr(request, field.name, b"by reflection" if field.type == field.TYPE_BYTES else "by reflection")
            answer = channel.unary_unary(f"/{name}/Unary", type(request).SerializeToString,
                                         of(method.output_type.full_name).FromString)(request, timeout=30)
            assert answer.SerializeToString() == request.SerializeToString(), answer
            called += 1
    assert called == 1, "the example's service is not there"
    assert r.error(file_by_filename="no/such.proto") == 5
    assert r.error(file_containing_symbol="no.such.Symbol") == 5
    assert r.error(file_containing_extension=r.extension(containing_type="no.Such", extension_number=1)) == 5
    assert r.error(all_extension_numbers_of_type="no.Such") == 5
    assert r.error() == 3
    numbers = r.ask(all_extension_numbers_of_type="grpc.health.v1.HealthCheckRequest").all_extension_numbers_response
    assert (numbers.base_type_name, list(numbers.extension_number)) == ("grpc.health.v1.HealthCheckRequest", []), numbers
    # Several questions on one stream, an error among them, are answered in order.
    got = r.ask_all({"list_services": "x"}, {"file_by_filename": "none"}, {"file_containing_symbol": "grpc.health.v1.Health.Watch"})
    assert [g.WhichOneof("message_response") for g in got] == ["list_services_response", "error_response", "file_descriptor_response"]
    print("reflected")


def channelz(channel, own):
    kind = "grpc.channelz.v1."

    def ask(method, **fields):
        request, response = own(f"{kind}{method}Request"), own(f"{kind}{method}Response")
        return channel.unary_unary(f"/{kind}Channelz/{method}", request.SerializeToString, response.FromString)(
            request(**fields), timeout=30)

    def code(method, **fields):
        try:
            ask(method, **fields)
        except grpc.RpcError as e:
            return e.code().name
        return "OK"
    top = ask("GetTopChannels")
    assert top.end and not top.channel, top
    servers = ask("GetServers")
    assert servers.end and len(servers.server) == 1, servers
    server = servers.server[0]
    now = time.time()
    recent = lambda t: now - 600 < t.seconds + t.nanos / 1e9 < now + 60
    assert not ask("GetServers", start_server_id=server.ref.server_id + 1).server
    assert recent(server.data.trace.creation_timestamp) and recent(server.data.last_call_started_timestamp), server
    listening = [ask("GetSocket", socket_id=r.socket_id).socket for r in server.listen_socket]
    assert [(s.ref.name, s.local.tcpip_address.port) for s in listening] == [("main", 50051)], listening
    assert server.data.calls_started >= 2 and server.data.calls_succeeded >= 1, server
    assert ask("GetServer", server_id=server.ref.server_id).server.ref == server.ref
    sockets = ask("GetServerSockets", server_id=server.ref.server_id)
    ids = [s.socket_id for s in sockets.socket_ref]
    assert sockets.end and ids == sorted(set(ids)) and ids, sockets
    page = ask("GetServerSockets", server_id=server.ref.server_id, start_socket_id=ids[0] + 1)
    assert [s.socket_id for s in page.socket_ref] == ids[1:], page
    assert not ask("GetServerSockets", server_id=server.ref.server_id, max_results=1).end or len(ids) == 1
    # This connection is the one over which messages came last.
    mine = max((ask("GetSocket", socket_id=i).socket for i in ids), key=lambda s: s.data.last_message_received_timestamp.ToNanoseconds())
    assert recent(mine.data.last_message_received_timestamp) and recent(mine.data.last_message_sent_timestamp), mine
    assert recent(mine.data.last_remote_stream_created_timestamp) and not mine.HasField("security"), mine
    assert mine.data.streams_started >= 6 and mine.data.messages_received >= 6, mine
    assert mine.data.streams_succeeded >= 5 and mine.data.messages_sent >= 5, mine
    assert mine.local.tcpip_address.port == 50051 and mine.remote.tcpip_address.port > 0, mine
    assert len(mine.remote.tcpip_address.ip_address) == 4, mine
    for method, fields in (("GetServer", {"server_id": 9999}), ("GetSocket", {"socket_id": 1}), ("GetChannel", {"channel_id": 1}),
                           ("GetSubchannel", {"subchannel_id": 1}), ("GetServerSockets", {"server_id": 77})):
        assert code(method, **fields) == "NOT_FOUND", method
    print("channelz")


def everybody(own, target, n):
    """Of N connections each sees all, whichever worker has it; {ids of sockets: how many saw just these}, calls, ciphers."""
    kind = "grpc.channelz.v1."
    channels = [grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(n)]

    def ask(channel, method, **fields):
        request, response = own(f"{kind}{method}Request"), own(f"{kind}{method}Response")
        return channel.unary_unary(f"/{kind}Channelz/{method}", request.SerializeToString, response.FromString)(
            request(**fields), timeout=60, wait_for_ready=True)
    for channel in channels:
        channel.unary_unary("/split.examples.Echo/Unary")(b"\x0a\x02hi", timeout=60, wait_for_ready=True)
    views = []
    for channel in channels:
        server = ask(channel, "GetServers").server[0]
        got = ask(channel, "GetServerSockets", server_id=server.ref.server_id)
        views.append([s.socket_id for s in got.socket_ref])
        assert server.data.calls_succeeded >= n, server
    assert all(v == views[0] for v in views), views
    assert len(views[0]) == n and views[0] == sorted(views[0]), views[0]
    sockets = [ask(channels[0], "GetSocket", socket_id=i).socket for i in views[0]]
    assert len({s.remote.tcpip_address.port for s in sockets}) == n, sockets
    # The echo and two questions of each; the first has asked for all of these too.
    assert all(s.data.streams_started >= 3 and s.data.streams_succeeded >= 3 for s in sockets), sockets
    print("workers", len({i >> 52 for i in views[0]}))


def main():
    path, target, what, name = sys.argv[1:5]
    own_files = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(path).read_bytes()).file
    own = types(pool_of(own_files))
    channel = grpc.insecure_channel(target)
    request, response = own("grpc.health.v1.HealthCheckRequest"), own("grpc.health.v1.HealthCheckResponse")
    word = lambda r: response.DESCRIPTOR.enum_types_by_name["ServingStatus"].values_by_number[r.status].name
    try:
        if what == "check":
            print(word(channel.unary_unary("/grpc.health.v1.Health/Check", request.SerializeToString, response.FromString)(
                request(service=name), timeout=30)))
        elif what == "call":
            print(channel.unary_unary("/split.examples.Echo/Unary")(b"\x0a\x02hi", timeout=float(name)).decode()[2:], flush=True)
        elif what == "everybody":
            everybody(own, target, int(name))
        elif what == "channelz":
            channelz(channel, own)
        elif what == "watch":
            for r in channel.unary_stream("/grpc.health.v1.Health/Watch", request.SerializeToString, response.FromString)(
                    request(service=name), timeout=300):
                print(word(r), flush=True)
        else:
            reflect(channel, own, name)
    except grpc.RpcError as e:
        print(e.code().name, flush=True)


main()
