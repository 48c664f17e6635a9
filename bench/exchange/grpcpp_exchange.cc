// bench.exchange.Exchange on plain grpc++: the peer of split-perf isolation. One thread, one completion queue, and messages on an arena of
// the call, the way its users write a fast server. What exchange_settle.c does, line for line, and the same bytes out.
// usage: grpcpp_exchange ADDRESS:PORT   prints `ready` once it listens; ends on SIGTERM.
#include <malloc.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include <google/protobuf/arena.h>
#include <grpcpp/grpcpp.h>

#include "exchange.grpc.pb.h"

namespace {

using bench::exchange::Exchange;
using bench::exchange::Invoice;
using bench::exchange::Item;
using bench::exchange::Line;
using bench::exchange::Money;
using bench::exchange::Order;

constexpr int kOutstanding = 256;
constexpr int64_t kNanos = 1000000000;

void Spin(uint32_t ns) {
  if (ns == 0)
    return;
  const auto end = std::chrono::steady_clock::now() + std::chrono::nanoseconds(ns);
  while (std::chrono::steady_clock::now() < end) {
  }
}

void Set(Money* money, const std::string& currency, int64_t units, int64_t nanos) {
  money->set_currency(currency);
  money->set_units(units + nanos / kNanos);
  money->set_nanos(static_cast<int32_t>(nanos % kNanos));
}

void Settle(const Item& item, uint32_t position, Line* line) {
  const int64_t quantity = item.quantity();
  line->set_item(item.id());
  line->set_title(item.description());
  Set(line->mutable_total(), item.price().currency(), item.price().units() * quantity, item.price().nanos() * quantity);
  line->mutable_labels()->Reserve(item.attributes_size());
  for (const auto& attribute : item.attributes())
    line->add_labels(attribute.key());
  line->mutable_history()->Reserve(item.stock_size());
  int64_t before = 0;
  for (uint32_t stock : item.stock()) {
    line->add_history(static_cast<int64_t>(stock) - before);
    before = stock;
  }
  line->set_available(item.state() != Item::STATE_GONE);
  line->set_score(static_cast<float>(item.weight() * 0.5));
  uint64_t sum = item.id();
  for (unsigned char byte : item.digest())
    sum = sum * 31 + byte;
  char checksum[8];
  for (int i = 0; i < 8; i++)
    checksum[i] = static_cast<char>(sum >> (8 * i));
  line->set_checksum(checksum, sizeof(checksum));
  line->set_position(position);
}

void Settle(const Order& order, Invoice* invoice) {
  invoice->set_order(order.id());
  invoice->set_customer(order.customer());
  invoice->mutable_lines()->Reserve(order.items_size());
  int64_t units = 0, nanos = 0;
  uint32_t missing = 0, position = 0;
  for (const auto& item : order.items()) {
    Line* line = invoice->add_lines();
    Settle(item, position++, line);
    units += line->total().units();
    nanos += line->total().nanos();
    missing += !line->available();
  }
  Set(invoice->mutable_total(), "EUR", units, nanos);
  invoice->set_missing(missing);
}

class Call {
 public:
  Call(Exchange::AsyncService* service, grpc::ServerCompletionQueue* queue)
      : service_(service), queue_(queue), request_(google::protobuf::Arena::CreateMessage<Order>(&arena_)), responder_(&context_) {
    service_->RequestSettle(&context_, request_, &responder_, queue_, queue_, this);
  }

  void Proceed(bool ok) {
    if (answered_ || !ok) {
      delete this;
      return;
    }
    new Call(service_, queue_);
    Spin(request_->busy_ns());
    auto* reply = google::protobuf::Arena::CreateMessage<Invoice>(&arena_);
    Settle(*request_, reply);
    answered_ = true;
    responder_.Finish(*reply, grpc::Status::OK, this);
  }

 private:
  Exchange::AsyncService* service_;
  grpc::ServerCompletionQueue* queue_;
  google::protobuf::Arena arena_;
  Order* request_;
  grpc::ServerContext context_;
  grpc::ServerAsyncResponseWriter<Invoice> responder_;
  bool answered_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: grpcpp_exchange ADDRESS:PORT\n");
    return 2;
  }
  // glibc would give the arena's large blocks back to the kernel after each call, and fault them in again.
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);

  Exchange::AsyncService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server) {
    std::fprintf(stderr, "grpcpp_exchange: cannot listen on %s\n", argv[1]);
    return 1;
  }
  for (int i = 0; i < kOutstanding; i++)
    new Call(&service, queue.get());
  std::thread serving([&queue] {
    void* tag;
    bool ok;
    while (queue->Next(&tag, &ok))
      static_cast<Call*>(tag)->Proceed(ok);
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
