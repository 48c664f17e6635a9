// Stock C++ client for splitd's examples: grpcio_client.py's twin, same options, same rows.
//
// Drives split.examples.Echo/Unary and checks every answer byte for byte; `greeter` greets.
// Prints a table, or with --json one object {"rows": [...]}. Exit status 1 when any call failed.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "echo.grpc.pb.h"
#include "greeter.grpc.pb.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Shape {
  size_t bytes;
  int at_once;
  int connections;
};

struct Options {
  std::string target;
  bool greeter = false;
  bool json = false;
  int calls = 0;
  int timeout_s = 60;
};

// 4 MiB - 64 leaves room for the message's own framing under gRPC's default limit.
constexpr size_t kLargest = 4 * 1024 * 1024 - 64;

std::vector<Shape> Matrix(bool greeter) {
  std::vector<Shape> shapes;
  const std::vector<size_t> sizes =
      greeter ? std::vector<size_t>{0} : std::vector<size_t>{0, 64, 1024, 48 * 1024, 476 * 1024, kLargest};
  for (size_t bytes : sizes)
    for (int at_once : {1, bytes == kLargest ? 4 : 64})
      for (int connections : {1, 16})
        shapes.push_back({bytes, at_once, connections});
  return shapes;
}

std::string Pattern(size_t size, unsigned seed) {
  std::string out(size, '\0');
  for (size_t i = 0; i < size; i++)
    out[i] = static_cast<char>((seed * 31 + (i % 251) * 7) & 0xff);
  return out;
}

struct Row {
  std::vector<int64_t> latencies;
  std::vector<std::string> failures;
  double seconds = 0;
  int64_t At(double q) const { return latencies[std::min(latencies.size() - 1, size_t(q * latencies.size()))]; }
};

// One call; empty when the answer is right, else what was wrong.
std::string CallOnce(const Options& options, const std::shared_ptr<grpc::Channel>& channel, const Shape& shape, unsigned n) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(options.timeout_s));
  grpc::Status status;
  std::string wrong;
  if (options.greeter) {
    split::examples::HelloRequest request;
    split::examples::HelloReply reply;
    request.set_name("caller " + std::to_string(n));
    status = split::examples::Greeter::NewStub(channel)->SayHello(&context, request, &reply);
    if (reply.message().find(request.name()) == std::string::npos)
      wrong = "unexpected greeting '" + reply.message() + "'";
  } else {
    split::examples::EchoMessage request;
    split::examples::EchoMessage reply;
    request.set_payload(Pattern(shape.bytes, n));
    status = split::examples::Echo::NewStub(channel)->Unary(&context, request, &reply);
    if (reply.payload() != request.payload())
      wrong = std::to_string(reply.payload().size()) + " bytes came back, other than those sent";
  }
  if (!status.ok())
    return "status " + std::to_string(status.error_code()) + ": " + status.error_message();
  return wrong;
}

Row RunShape(const Options& options, const Shape& shape) {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < shape.connections; i++) {
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channels.push_back(grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), args));
  }
  const bool small = shape.bytes < 100000;
  const int calls = options.calls ? options.calls
                                  : std::max(shape.at_once, shape.connections) * (small ? 4 : 1) + (small ? 64 : 0);
  Row row;
  std::mutex lock;
  std::atomic<int> next{0};
  auto worker = [&] {
    for (int n = next++; n < calls; n = next++) {
      const auto begin = Clock::now();
      const std::string wrong = CallOnce(options, channels[n % channels.size()], shape, n);
      const auto took = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count();
      std::lock_guard<std::mutex> guard(lock);
      row.latencies.push_back(took);
      if (!wrong.empty())
        row.failures.push_back("call " + std::to_string(n) + ": " + wrong);
    }
  };
  const auto begin = Clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < std::min(shape.at_once, calls); i++)
    threads.emplace_back(worker);
  for (auto& t : threads)
    t.join();
  row.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::sort(row.latencies.begin(), row.latencies.end());
  return row;
}

std::string Quoted(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\')
      out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

[[noreturn]] void Usage() {
  std::fprintf(stderr, "usage: grpcpp_client TARGET [--example echo|greeter] [--calls N] [--bytes N --at-once N "
                       "--connections N] [--timeout SECONDS] [--json]\n");
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  Shape one{0, 1, 1};
  bool single = false;
  for (int i = 1; i < argc; i++) {
    const std::string arg = argv[i];
    auto value = [&]() -> const char* { return i + 1 < argc ? argv[++i] : (Usage(), nullptr); };
    if (arg == "--example") options.greeter = std::string(value()) == "greeter";
    else if (arg == "--calls") options.calls = std::atoi(value());
    else if (arg == "--bytes") one.bytes = std::strtoul(value(), nullptr, 10), single = true;
    else if (arg == "--at-once") one.at_once = std::atoi(value());
    else if (arg == "--connections") one.connections = std::atoi(value());
    else if (arg == "--timeout") options.timeout_s = std::atoi(value());
    else if (arg == "--json") options.json = true;
    else if (arg[0] != '-' && options.target.empty()) options.target = arg;
    else Usage();
  }
  if (options.target.empty())
    Usage();
  bool failed = false;
  const auto shapes = single ? std::vector<Shape>{one} : Matrix(options.greeter);
  if (options.json)
    std::printf("{\"rows\": [");
  else
    std::printf("%-8s %8s %7s %5s %6s %6s %9s %9s %9s\n", "client", "bytes", "at once", "conns", "calls", "errors",
                "calls/s", "p50 us", "p99 us");
  for (size_t i = 0; i < shapes.size(); i++) {
    const Row row = RunShape(options, shapes[i]);
    const Shape& s = shapes[i];
    const size_t calls = row.latencies.size();
    failed |= !row.failures.empty();
    if (options.json) {
      std::printf("%s{\"client\": \"grpc++\", \"bytes\": %zu, \"at_once\": %d, \"connections\": %d, \"calls\": %zu, "
                  "\"errors\": %zu, \"first_error\": %s, \"calls_per_s\": %.1f, \"p50_ns\": %lld, \"p99_ns\": %lld}",
                  i ? ", " : "", s.bytes, s.at_once, s.connections, calls, row.failures.size(),
                  row.failures.empty() ? "null" : Quoted(row.failures[0]).c_str(), calls / row.seconds,
                  static_cast<long long>(row.At(0.5)), static_cast<long long>(row.At(0.99)));
    } else {
      std::printf("%-8s %8zu %7d %5d %6zu %6zu %9.0f %9.0f %9.0f\n", "grpc++", s.bytes, s.at_once, s.connections, calls,
                  row.failures.size(), calls / row.seconds, row.At(0.5) / 1e3, row.At(0.99) / 1e3);
      if (!row.failures.empty())
        std::printf("  %s\n", row.failures[0].c_str());
    }
    std::fflush(stdout);
  }
  if (options.json)
    std::printf("]}\n");
  return failed ? 1 : 0;
}
