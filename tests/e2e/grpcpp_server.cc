// split.examples.Echo by stock grpc++: what calls out of a handler are answered by.
//
//   grpcpp_server ADDRESS:PORT [CERT KEY]
//
// Says "ready" when it listens; ends with its standard input.
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "echo.grpc.pb.h"

namespace {

using grpc::ServerContext;
using grpc::Status;
using split::examples::Echo;
using split::examples::EchoMessage;

constexpr std::uint64_t kReplyBytesMax = 64u << 20;

Status Answer(const EchoMessage& m, EchoMessage* reply) {
  if (m.reply_bytes() > kReplyBytesMax)
    return Status(grpc::StatusCode::INVALID_ARGUMENT, "reply_bytes: at most 64 MiB");
  std::string* payload = reply->mutable_payload();
  *payload = m.payload();
  if (m.reply_bytes() != 0) {
    payload->resize(m.reply_bytes());
    for (std::size_t i = 0; i < payload->size(); i++)
      (*payload)[i] = static_cast<char>(i);
  }
  return Status::OK;
}

class Service final : public Echo::Service {
  Status Unary(ServerContext*, const EchoMessage* m, EchoMessage* reply) override { return Answer(*m, reply); }

  Status Client(ServerContext*, grpc::ServerReader<EchoMessage>* reader, EchoMessage* reply) override {
    EchoMessage m;
    std::uint64_t total = 0;
    while (reader->Read(&m)) {
      total += m.payload().size();
      reply->set_payload(m.payload());
    }
    reply->set_reply_bytes(static_cast<std::uint32_t>(total));
    return Status::OK;
  }

  Status Server(ServerContext*, const EchoMessage* m, grpc::ServerWriter<EchoMessage>* writer) override {
    EchoMessage reply;
    Status status = Answer(*m, &reply);
    for (std::uint32_t i = 0; status.ok() && i < m->replies(); i++)
      if (!writer->Write(reply))
        break;
    return status;
  }

  Status Bidi(ServerContext*, grpc::ServerReaderWriter<EchoMessage, EchoMessage>* stream) override {
    EchoMessage m;
    while (stream->Read(&m)) {
      EchoMessage reply;
      Status status = Answer(m, &reply);
      if (!status.ok())
        return status;
      if (!stream->Write(reply))
        break;
    }
    return Status::OK;
  }
};

std::string ReadFile(const char* name) {
  std::ifstream file(name);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 4)
    return 2;
  auto credentials = grpc::InsecureServerCredentials();
  if (argc == 4) {
    grpc::SslServerCredentialsOptions options;
    options.pem_key_cert_pairs.push_back({ReadFile(argv[3]), ReadFile(argv[2])});
    credentials = grpc::SslServerCredentials(options);
  }
  Service service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(argv[1], credentials);
  builder.SetMaxReceiveMessageSize(16 << 20);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server) {
    std::fprintf(stderr, "cannot listen at %s\n", argv[1]);
    return 1;
  }
  std::puts("ready");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  server->Shutdown();
  return 0;
}
