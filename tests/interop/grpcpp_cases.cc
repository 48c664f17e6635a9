// The official interoperability cases with stock grpc++: grpcio_cases.py's twin, same options, same output.
//
//   grpcpp_cases TARGET [--ca FILE --name NAME] [CASE ...]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "interop.grpc.pb.h"

namespace {

using grpc::ClientContext;
using grpc::Status;
using grpc::StatusCode;
using namespace grpc::testing;

constexpr int kLargeRequest = 271828, kLargeResponse = 314159;
const std::vector<int> kRequests = {27182, 8, 1828, 45904}, kResponses = {31415, 9, 2653, 58979};

struct Stubs {
  std::unique_ptr<TestService::Stub> test;
  std::unique_ptr<UnimplementedService::Stub> unimplemented;
};

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void Expect(bool good, const std::string& what) {
  if (!good)
    throw Failure(what);
}

void ExpectCode(const Status& status, StatusCode code) {
  Expect(status.error_code() == code, "status " + std::to_string(status.error_code()) + " (" + status.error_message() + "), not " + std::to_string(code));
}

void ExpectBody(const Payload& payload, int size) {
  Expect(payload.body() == std::string(size, '\0'), "a body of " + std::to_string(payload.body().size()) + " bytes, not " + std::to_string(size) + " zeros");
}

struct Context : ClientContext {
  explicit Context(std::chrono::milliseconds limit = std::chrono::seconds(20)) {
    set_deadline(std::chrono::system_clock::now() + limit);
  }
};

SimpleRequest Large() {
  SimpleRequest request;
  request.set_response_size(kLargeResponse);
  request.mutable_payload()->set_body(std::string(kLargeRequest, '\0'));
  return request;
}

StreamingOutputCallRequest Ask(int size, int request_size = 0, int interval_us = 0) {
  StreamingOutputCallRequest request;
  auto* p = request.add_response_parameters();
  p->set_size(size);
  p->set_interval_us(interval_us);
  request.mutable_payload()->set_body(std::string(request_size, '\0'));
  return request;
}

void EmptyUnary(Stubs& s) {
  Context context;
  Empty request, answer;
  ExpectCode(s.test->EmptyCall(&context, request, &answer), StatusCode::OK);
  Expect(answer.ByteSizeLong() == 0, "an answer that is not empty");
}

void LargeUnary(Stubs& s) {
  Context context;
  SimpleResponse answer;
  ExpectCode(s.test->UnaryCall(&context, Large(), &answer), StatusCode::OK);
  ExpectBody(answer.payload(), kLargeResponse);
}

void CacheableUnary(Stubs& s) {
  Context context;
  SimpleRequest request;
  SimpleResponse answer;
  context.AddMetadata("x-user-ip", "1.2.3.4");
  ExpectCode(s.test->CacheableUnaryCall(&context, request, &answer), StatusCode::OK);
  auto found = context.GetServerInitialMetadata().find("cache-control");
  Expect(found != context.GetServerInitialMetadata().end() && found->second == "max-age=60, public", "no cache-control");
}

void ClientStreaming(Stubs& s) {
  Context context;
  StreamingInputCallResponse answer;
  auto stream = s.test->StreamingInputCall(&context, &answer);
  int sum = 0;
  for (int size : kRequests) {
    StreamingInputCallRequest request;
    request.mutable_payload()->set_body(std::string(size, '\0'));
    Expect(stream->Write(request), "a write was refused");
    sum += size;
  }
  stream->WritesDone();
  ExpectCode(stream->Finish(), StatusCode::OK);
  Expect(answer.aggregated_payload_size() == sum, "sum " + std::to_string(answer.aggregated_payload_size()));
}

void ServerStreaming(Stubs& s) {
  Context context;
  StreamingOutputCallRequest request;
  for (int size : kResponses)
    request.add_response_parameters()->set_size(size);
  auto stream = s.test->StreamingOutputCall(&context, request);
  StreamingOutputCallResponse answer;
  for (int size : kResponses) {
    Expect(stream->Read(&answer), "too few answers");
    ExpectBody(answer.payload(), size);
  }
  Expect(!stream->Read(&answer), "an answer too many");
  ExpectCode(stream->Finish(), StatusCode::OK);
}

void PingPong(Stubs& s) {
  Context context;
  auto stream = s.test->FullDuplexCall(&context);
  StreamingOutputCallResponse answer;
  for (size_t i = 0; i < kResponses.size(); i++) {
    Expect(stream->Write(Ask(kResponses[i], kRequests[i])), "a write was refused");
    Expect(stream->Read(&answer), "no answer");
    ExpectBody(answer.payload(), kResponses[i]);
  }
  stream->WritesDone();
  Expect(!stream->Read(&answer), "an answer too many");
  ExpectCode(stream->Finish(), StatusCode::OK);
}

void HalfDuplex(Stubs& s) {
  Context context;
  auto stream = s.test->HalfDuplexCall(&context);
  StreamingOutputCallResponse answer;
  for (int size : kResponses)
    Expect(stream->Write(Ask(size)), "a write was refused");
  stream->WritesDone();
  for (int size : kResponses) {
    Expect(stream->Read(&answer), "too few answers");
    ExpectBody(answer.payload(), size);
  }
  Expect(!stream->Read(&answer), "an answer too many");
  ExpectCode(stream->Finish(), StatusCode::OK);
}

void EmptyStream(Stubs& s) {
  Context context;
  auto stream = s.test->FullDuplexCall(&context);
  StreamingOutputCallResponse answer;
  stream->WritesDone();
  Expect(!stream->Read(&answer), "an answer");
  ExpectCode(stream->Finish(), StatusCode::OK);
}

void ClientCompressedUnary(Stubs& s) {
  SimpleRequest request = Large();
  SimpleResponse answer;
  request.mutable_expect_compressed()->set_value(true);
  {
    Context probe;
    ExpectCode(s.test->UnaryCall(&probe, request, &answer), StatusCode::INVALID_ARGUMENT);
  }
  for (auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_NONE}) {
    Context context;
    context.set_compression_algorithm(algorithm);
    request.mutable_expect_compressed()->set_value(algorithm != GRPC_COMPRESS_NONE);
    ExpectCode(s.test->UnaryCall(&context, request, &answer), StatusCode::OK);
    ExpectBody(answer.payload(), kLargeResponse);
  }
}

void ClientCompressedStreaming(Stubs& s) {
  StreamingInputCallRequest request;
  StreamingInputCallResponse answer;
  request.mutable_expect_compressed()->set_value(true);
  request.mutable_payload()->set_body(std::string(27182, '\0'));
  {
    Context context;
    auto probe = s.test->StreamingInputCall(&context, &answer);
    probe->Write(request);
    probe->WritesDone();
    ExpectCode(probe->Finish(), StatusCode::INVALID_ARGUMENT);
  }
  Context context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  auto stream = s.test->StreamingInputCall(&context, &answer);
  Expect(stream->Write(request), "a write was refused");
  request.mutable_expect_compressed()->set_value(false);
  request.mutable_payload()->set_body(std::string(45904, '\0'));
  grpc::WriteOptions plain;
  plain.set_no_compression();
  Expect(stream->Write(request, plain), "a write was refused");
  stream->WritesDone();
  ExpectCode(stream->Finish(), StatusCode::OK);
  Expect(answer.aggregated_payload_size() == 73086, "sum " + std::to_string(answer.aggregated_payload_size()));
}

void ServerCompressedUnary(Stubs& s) {
  for (bool wanted : {true, false}) {
    Context context;
    SimpleRequest request = Large();
    SimpleResponse answer;
    request.mutable_response_compressed()->set_value(wanted);
    ExpectCode(s.test->UnaryCall(&context, request, &answer), StatusCode::OK);
    ExpectBody(answer.payload(), kLargeResponse);
  }
}

void ServerCompressedStreaming(Stubs& s) {
  Context context;
  StreamingOutputCallRequest request;
  StreamingOutputCallResponse answer;
  const std::vector<std::pair<int, bool>> wanted = {{31415, true}, {92653, false}};
  for (auto& w : wanted) {
    auto* p = request.add_response_parameters();
    p->set_size(w.first);
    p->mutable_compressed()->set_value(w.second);
  }
  auto stream = s.test->StreamingOutputCall(&context, request);
  for (auto& w : wanted) {
    Expect(stream->Read(&answer), "too few answers");
    ExpectBody(answer.payload(), w.first);
  }
  ExpectCode(stream->Finish(), StatusCode::OK);
}

void AddEcho(ClientContext& context) {
  context.AddMetadata("x-grpc-test-echo-initial", "test_initial_metadata_value");
  context.AddMetadata("x-grpc-test-echo-trailing-bin", "\x0a\x0b\x0a\x0b\x0a\x0b");
}

void ExpectEcho(const ClientContext& context) {
  auto initial = context.GetServerInitialMetadata().find("x-grpc-test-echo-initial");
  auto trailing = context.GetServerTrailingMetadata().find("x-grpc-test-echo-trailing-bin");
  Expect(initial != context.GetServerInitialMetadata().end() && initial->second == "test_initial_metadata_value", "initial metadata");
  Expect(trailing != context.GetServerTrailingMetadata().end() && trailing->second == "\x0a\x0b\x0a\x0b\x0a\x0b", "trailing metadata");
}

void CustomMetadata(Stubs& s) {
  {
    Context context;
    SimpleResponse answer;
    AddEcho(context);
    ExpectCode(s.test->UnaryCall(&context, Large(), &answer), StatusCode::OK);
    ExpectEcho(context);
  }
  Context context;
  StreamingOutputCallResponse answer;
  AddEcho(context);
  auto stream = s.test->FullDuplexCall(&context);
  Expect(stream->Write(Ask(kLargeResponse, kLargeRequest)), "a write was refused");
  stream->WritesDone();
  Expect(stream->Read(&answer), "no answer");
  ExpectBody(answer.payload(), kLargeResponse);
  Expect(!stream->Read(&answer), "an answer too many");
  ExpectCode(stream->Finish(), StatusCode::OK);
  ExpectEcho(context);
}

void UnaryStatus(Stubs& s, const std::string& message) {
  Context context;
  SimpleRequest request;
  SimpleResponse answer;
  request.mutable_response_status()->set_code(2);
  request.mutable_response_status()->set_message(message);
  Status status = s.test->UnaryCall(&context, request, &answer);
  ExpectCode(status, StatusCode::UNKNOWN);
  Expect(status.error_message() == message, "message '" + status.error_message() + "'");
}

void StatusCodeAndMessage(Stubs& s) {
  const std::string message = "test status message";
  UnaryStatus(s, message);
  Context context;
  StreamingOutputCallRequest request;
  StreamingOutputCallResponse answer;
  request.mutable_response_status()->set_code(2);
  request.mutable_response_status()->set_message(message);
  auto stream = s.test->FullDuplexCall(&context);
  stream->Write(request);
  stream->WritesDone();
  Expect(!stream->Read(&answer), "an answer");
  Status status = stream->Finish();
  ExpectCode(status, StatusCode::UNKNOWN);
  Expect(status.error_message() == message, "message '" + status.error_message() + "'");
}

void SpecialStatusMessage(Stubs& s) {
  UnaryStatus(s, "\t\ntest with whitespace\r\nand Unicode BMP \xe2\x98\xba and non-BMP \xf0\x9f\x98\x88\t\n");
}

void UnimplementedMethod(Stubs& s) {
  Context context;
  Empty request, answer;
  ExpectCode(s.test->UnimplementedCall(&context, request, &answer), StatusCode::UNIMPLEMENTED);
}

void UnimplementedServiceCase(Stubs& s) {
  Context context;
  Empty request, answer;
  ExpectCode(s.unimplemented->UnimplementedCall(&context, request, &answer), StatusCode::UNIMPLEMENTED);
}

void CancelAfterBegin(Stubs& s) {
  Context context;
  StreamingInputCallResponse answer;
  auto stream = s.test->StreamingInputCall(&context, &answer);
  context.TryCancel();
  ExpectCode(stream->Finish(), StatusCode::CANCELLED);
}

void CancelAfterFirstResponse(Stubs& s) {
  Context context;
  StreamingOutputCallResponse answer;
  auto stream = s.test->FullDuplexCall(&context);
  Expect(stream->Write(Ask(31415, 27182)), "a write was refused");
  Expect(stream->Read(&answer), "no answer");
  ExpectBody(answer.payload(), 31415);
  context.TryCancel();
  ExpectCode(stream->Finish(), StatusCode::CANCELLED);
}

void TimeoutOnSleepingServer(Stubs& s) {
  for (auto limit : {1, 300}) {
    Context context{std::chrono::milliseconds(limit)};
    StreamingOutputCallResponse answer;
    auto stream = s.test->FullDuplexCall(&context);
    stream->Write(limit == 1 ? Ask(0, 27182) : Ask(1, 27182, 20000000));
    stream->Read(&answer);
    if (limit == 1)
      stream->Read(&answer);
    ExpectCode(stream->Finish(), StatusCode::DEADLINE_EXCEEDED);
  }
}

using Case = std::pair<const char*, std::function<void(Stubs&)>>;

const std::vector<Case> kCases = {
    {"empty_unary", EmptyUnary},
    {"large_unary", LargeUnary},
    {"cacheable_unary", CacheableUnary},
    {"client_streaming", ClientStreaming},
    {"server_streaming", ServerStreaming},
    {"ping_pong", PingPong},
    {"half_duplex", HalfDuplex},
    {"empty_stream", EmptyStream},
    {"client_compressed_unary", ClientCompressedUnary},
    {"client_compressed_streaming", ClientCompressedStreaming},
    {"server_compressed_unary", ServerCompressedUnary},
    {"server_compressed_streaming", ServerCompressedStreaming},
    {"custom_metadata", CustomMetadata},
    {"status_code_and_message", StatusCodeAndMessage},
    {"special_status_message", SpecialStatusMessage},
    {"unimplemented_method", UnimplementedMethod},
    {"unimplemented_service", UnimplementedServiceCase},
    {"cancel_after_begin", CancelAfterBegin},
    {"cancel_after_first_response", CancelAfterFirstResponse},
    {"timeout_on_sleeping_server", TimeoutOnSleepingServer},
};

}  // namespace

int main(int argc, char** argv) {
  std::string target, ca, name;
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; i++) {
    if (std::strcmp(argv[i], "--ca") == 0 && i + 1 < argc) {
      ca = argv[++i];
    } else if (std::strcmp(argv[i], "--name") == 0 && i + 1 < argc) {
      name = argv[++i];
    } else if (target.empty()) {
      target = argv[i];
    } else {
      wanted.push_back(argv[i]);
    }
  }
  if (target.empty()) {
    std::fprintf(stderr, "usage: grpcpp_cases TARGET [--ca FILE --name NAME] [CASE ...]\n");
    return 2;
  }
  grpc::ChannelArguments arguments;
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!ca.empty()) {
    std::ifstream file(ca);
    std::stringstream pem;
    pem << file.rdbuf();
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = pem.str();
    credentials = grpc::SslCredentials(options);
    if (!name.empty())
      arguments.SetSslTargetNameOverride(name);
  }
  auto channel = grpc::CreateCustomChannel(target, credentials, arguments);
  Stubs stubs{TestService::NewStub(channel), UnimplementedService::NewStub(channel)};
  int failed = 0;
  for (const auto& c : kCases) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), c.first) == wanted.end())
      continue;
    try {
      c.second(stubs);
      std::printf("ok %s\n", c.first);
    } catch (const Failure& e) {
      failed++;
      std::printf("FAILED %s: %s\n", c.first, e.what());
    }
    std::fflush(stdout);
  }
  return failed == 0 ? 0 : 1;
}
