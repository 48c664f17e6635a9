// The peer that splitd is compared with: split.examples.Echo on grpc++, the way its users write a fast server.
//
// One thread, one completion queue, a fixed number of outstanding requests, protobuf messages on an arena-free
// path as generated. `--generic` serves the same method on bytes alone (no protobuf), gRPC's own floor.
// usage: grpcpp_echo ADDRESS:PORT [--generic]   prints `ready` once it listens; ends on SIGTERM.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include "echo.grpc.pb.h"

namespace {

using split::examples::Echo;
using split::examples::EchoMessage;

constexpr int kOutstanding = 256;

void SpinMicroseconds(unsigned us) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(us);
  while (std::chrono::steady_clock::now() < end) {
  }
}

class Tag {
 public:
  virtual ~Tag() = default;
  virtual void Proceed(bool ok) = 0;
};

class TypedCall final : public Tag {
 public:
  TypedCall(Echo::AsyncService* service, grpc::ServerCompletionQueue* queue) : service_(service), queue_(queue), responder_(&context_) {
    service_->RequestUnary(&context_, &request_, &responder_, queue_, queue_, this);
  }

  void Proceed(bool ok) override {
    if (answered_ || !ok) {
      delete this;
      return;
    }
    new TypedCall(service_, queue_);
    if (request_.busy_us())
      SpinMicroseconds(request_.busy_us());
    EchoMessage reply;
    if (request_.reply_bytes())
      reply.mutable_payload()->resize(request_.reply_bytes());
    else
      reply.mutable_payload()->swap(*request_.mutable_payload());
    answered_ = true;
    responder_.Finish(reply, grpc::Status::OK, this);
  }

 private:
  Echo::AsyncService* service_;
  grpc::ServerCompletionQueue* queue_;
  grpc::ServerContext context_;
  EchoMessage request_;
  grpc::ServerAsyncResponseWriter<EchoMessage> responder_;
  bool answered_ = false;
};

class GenericCall final : public Tag {
 public:
  GenericCall(grpc::AsyncGenericService* service, grpc::ServerCompletionQueue* queue)
      : service_(service), queue_(queue), stream_(&context_) {
    service_->RequestCall(&context_, &stream_, queue_, queue_, this);
  }

  void Proceed(bool ok) override {
    if (!ok || state_ == kDone) {
      delete this;
      return;
    }
    if (state_ == kNew) {
      new GenericCall(service_, queue_);
      state_ = kRead;
      stream_.Read(&buffer_, this);
    } else if (state_ == kRead) {
      state_ = kDone;
      stream_.WriteAndFinish(buffer_, grpc::WriteOptions(), grpc::Status::OK, this);
    }
  }

 private:
  enum { kNew, kRead, kDone } state_ = kNew;
  grpc::AsyncGenericService* service_;
  grpc::ServerCompletionQueue* queue_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  grpc::ByteBuffer buffer_;
};

std::string ReadFile(const char* name) {
  std::ifstream file(name);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

std::shared_ptr<grpc::ServerCredentials> Credentials(const char* cert, const char* key) {
  if (cert == nullptr)
    return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options;
  options.pem_key_cert_pairs.push_back({ReadFile(key), ReadFile(cert)});
  return grpc::SslServerCredentials(options);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: grpcpp_echo ADDRESS:PORT [--generic] [--tls CERT KEY]\n");
    return 2;
  }
  bool generic = false;
  const char *cert = nullptr, *key = nullptr;
  for (int i = 2; i < argc; i++) {
    if (!std::strcmp(argv[i], "--generic"))
      generic = true;
    else if (!std::strcmp(argv[i], "--tls") && i + 2 < argc)
      cert = argv[++i], key = argv[++i];
  }
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);

  Echo::AsyncService typed_service;
  grpc::AsyncGenericService generic_service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(argv[1], Credentials(cert, key));
  if (generic)
    builder.RegisterAsyncGenericService(&generic_service);
  else
    builder.RegisterService(&typed_service);
  std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server) {
    std::fprintf(stderr, "grpcpp_echo: cannot listen on %s\n", argv[1]);
    return 1;
  }
  for (int i = 0; i < kOutstanding; i++) {
    if (generic)
      new GenericCall(&generic_service, queue.get());
    else
      new TypedCall(&typed_service, queue.get());
  }
  std::thread serving([&queue] {
    void* tag;
    bool ok;
    while (queue->Next(&tag, &ok))
      static_cast<Tag*>(tag)->Proceed(ok);
  });
  std::printf("ready\n");
  std::fflush(stdout);
  int signal;
  sigwait(&ending, &signal);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  queue->Shutdown();
  serving.join();
  return 0;
}
