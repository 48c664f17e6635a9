// Back-pressure as stock C++ sees it (pressure_test.py says what must hold).
//
//   grpcpp_pressure TARGET slow_reader REPLIES BYTES
//     asks for a server stream, reads one message, says "paused", goes on when a line comes on standard input
//   grpcpp_pressure TARGET slow_handler MESSAGES BYTES BUSY_US
//     sends to a handler that takes its time
//
// Prints {"messages": n, "ahead": most messages that were sent and not answered}. Exit status 1: bytes or status are wrong.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "echo.grpc.pb.h"

namespace {

using split::examples::Echo;
using split::examples::EchoMessage;

std::string Reply(size_t bytes) {
  std::string out(bytes, '\0');
  for (size_t i = 0; i < bytes; i++)
    out[i] = static_cast<char>(i & 0xff);
  return out;
}

int End(const grpc::Status& status, int got, int wanted, int ahead) {
  std::printf("{\"messages\": %d, \"ahead\": %d}\n", got, ahead);
  if (status.ok() && got == wanted)
    return 0;
  std::fprintf(stderr, "%d of %d: %d %s\n", got, wanted, status.error_code(), status.error_message().c_str());
  return 1;
}

int SlowReader(Echo::Stub* stub, int replies, size_t bytes) {
  grpc::ClientContext context;
  EchoMessage request, answer;
  const std::string wanted = Reply(bytes);
  std::string line;
  int got = 0;
  request.set_reply_bytes(static_cast<uint32_t>(bytes));
  request.set_replies(static_cast<uint32_t>(replies));
  auto reader = stub->Server(&context, request);
  while (reader->Read(&answer) && answer.payload() == wanted) {
    if (++got > 1)
      continue;
    std::printf("paused\n");
    std::fflush(stdout);
    std::getline(std::cin, line);
  }
  if (got != replies)
    context.TryCancel();
  return End(reader->Finish(), got, replies, 0);
}

int SlowHandler(Echo::Stub* stub, int messages, size_t bytes, int busy_us) {
  grpc::ClientContext context;
  EchoMessage answer;
  std::atomic<int> sent{0};
  int got = 0, ahead = 0;
  auto stream = stub->Bidi(&context);
  std::thread sender([&] {
    EchoMessage request;
    request.set_busy_us(static_cast<uint32_t>(busy_us));
    for (int i = 0; i < messages; i++) {
      request.set_payload(std::string(bytes, static_cast<char>(i)));
      if (!stream->Write(request))
        break;
      sent++;
    }
    stream->WritesDone();
  });
  while (stream->Read(&answer) && answer.payload() == std::string(bytes, static_cast<char>(got))) {
    got++;
    ahead = std::max(ahead, sent.load() - got);
  }
  if (got != messages)
    context.TryCancel();
  sender.join();
  return End(stream->Finish(), got, messages, ahead);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: grpcpp_pressure TARGET slow_reader|slow_handler N BYTES [BUSY_US]\n");
    return 2;
  }
  auto stub = Echo::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  const int n = std::atoi(argv[3]);
  const size_t bytes = static_cast<size_t>(std::atol(argv[4]));
  if (std::string(argv[2]) == "slow_reader")
    return SlowReader(stub.get(), n, bytes);
  return SlowHandler(stub.get(), n, bytes, argc > 5 ? std::atoi(argv[5]) : 0);
}
