#include "bench/codec/codec_cpp.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <google/protobuf/arena.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/dynamic_message.h>

#include "fleet.pb.h"

namespace {

using Random = std::mt19937;

std::string Text(Random& r, size_t from, size_t to) {
  std::string s(from + r() % (to - from + 1), ' ');
  for (char& c : s)
    c = static_cast<char>('a' + r() % 26);
  return s;
}

std::string Bytes(Random& r, size_t n) {
  std::string s(n, '\0');
  for (char& c : s)
    c = static_cast<char>(r());
  return s;
}

void Fill(bench::Tag* t, Random& r) {
  t->set_key(Text(r, 4, 12));
  t->set_value(Text(r, 4, 24));
  t->set_weight(static_cast<int>(r() % 2001) - 1000);
}

void Fill(bench::Small* m, Random& r) {
  m->set_id(r());
  m->set_name(Text(r, 8, 32));
  m->set_active(r() % 2);
  m->set_delta(static_cast<int>(r() % 200));
  m->set_stamp((uint64_t{r()} << 32) | r());
  m->set_score(r() / 7.0);
  Fill(m->mutable_owner(), r);
  for (unsigned i = r() % 8; i > 0; i--)
    Fill(m->add_tags(), r);
  m->set_state(static_cast<bench::Small::State>(r() % 3));
  m->set_digest(Bytes(r, 16));
  for (unsigned i = r() % 12; i > 0; i--)
    m->add_codes(r() % 5000);
  if (r() % 2)
    m->set_user(Text(r, 5, 15));
  else
    m->set_device(r());
  m->set_ratio(r() / 3.0F);
  m->set_crc(r());
  m->set_parent(r() % 100000);
}

void Fill(bench::Deep* m, Random& r) {
  const unsigned depth = 10 + r() % 30;
  for (unsigned i = 0; i < depth; i++, m = m->mutable_child()) {
    m->set_level(i);
    m->set_label(Text(r, 3, 9));
  }
}

void Fill(bench::Strings* m, Random& r) {
  for (int i = 0; i < 8; i++)
    m->add_lines(Text(r, 200, 4000));
}

void Fill(bench::Blobs* m, Random& r) {
  for (int i = 0; i < 4; i++)
    m->add_parts(Bytes(r, 4096 << (r() % 4)));
}

void Fill(bench::Packed* m, Random& r) {
  for (int i = 0; i < 500; i++) {
    m->add_small(r() % 300);
    m->add_large((uint64_t{r()} << (r() % 32)));
    m->add_signed_(static_cast<int64_t>(r()) - static_cast<int64_t>(r()));
    m->add_samples(r() / 11.0);
    m->add_flags(r() % 2);
  }
}

void Fill(bench::Maps* m, Random& r) {
  for (int i = 0; i < 24; i++) {
    (*m->mutable_counts())[Text(r, 6, 16)] = r();
    Fill(&(*m->mutable_tags())[r() % 100000], r);
  }
}

const google::protobuf::Message* Prototype(const std::string& name) {
  static const std::map<std::string, const google::protobuf::Message*> types = {
      {"Small", &bench::Small::default_instance()},     {"Deep", &bench::Deep::default_instance()},
      {"Strings", &bench::Strings::default_instance()}, {"Blobs", &bench::Blobs::default_instance()},
      {"Packed", &bench::Packed::default_instance()},   {"Maps", &bench::Maps::default_instance()}};
  const auto found = types.find(name);
  return found == types.end() ? nullptr : found->second;
}

void FillAny(google::protobuf::Message* m, const std::string& name, Random& r) {
  if (name == "Small") Fill(static_cast<bench::Small*>(m), r);
  else if (name == "Deep") Fill(static_cast<bench::Deep*>(m), r);
  else if (name == "Strings") Fill(static_cast<bench::Strings*>(m), r);
  else if (name == "Blobs") Fill(static_cast<bench::Blobs*>(m), r);
  else if (name == "Packed") Fill(static_cast<bench::Packed*>(m), r);
  else Fill(static_cast<bench::Maps*>(m), r);
}

constexpr size_t kArenaBlock = 4 << 20;

// A type's prototype among the generated code of this process, whoever loaded it.
const google::protobuf::Message* Generated(const std::string& type) {
  const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(type);
  return descriptor ? google::protobuf::MessageFactory::generated_factory()->GetPrototype(descriptor) : nullptr;
}

}  // namespace

struct codec_cpp {
  // Both outlive the messages: members go in reverse order.
  std::unique_ptr<google::protobuf::DescriptorPool> pool;
  std::unique_ptr<google::protobuf::DynamicMessageFactory> factory;
  const google::protobuf::Message* prototype = nullptr;
  std::unique_ptr<char[]> block{new char[kArenaBlock]};
  std::vector<std::unique_ptr<google::protobuf::Message>> kept;
};

extern "C" uint8_t* codec_cpp_make(const char* name, unsigned variant, size_t* bytes_out) {
  const auto* prototype = Prototype(name);
  if (!prototype)
    return nullptr;
  Random random(variant * 2654435761u + 1);
  std::unique_ptr<google::protobuf::Message> message(prototype->New());
  FillAny(message.get(), name, random);
  const std::string wire = message->SerializeAsString();
  auto* copy = static_cast<uint8_t*>(std::malloc(wire.size() + 1));
  if (copy) {
    std::memcpy(copy, wire.data(), wire.size());
    *bytes_out = wire.size();
  }
  return copy;
}

extern "C" uint8_t* codec_cpp_file(const char* type, size_t* bytes_out) {
  const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(type);
  if (!descriptor)
    return nullptr;
  google::protobuf::FileDescriptorProto file;
  descriptor->file()->CopyTo(&file);
  const std::string bytes = file.SerializeAsString();
  auto* copy = static_cast<uint8_t*>(std::malloc(bytes.size() + 1));
  if (copy) {
    std::memcpy(copy, bytes.data(), bytes.size());
    *bytes_out = bytes.size();
  }
  return copy;
}

extern "C" codec_cpp* codec_cpp_create(const char* type) {
  const auto* prototype = Generated(type);
  if (!prototype)
    return nullptr;
  auto* codec = new codec_cpp;
  codec->prototype = prototype;
  return codec;
}

extern "C" codec_cpp* codec_cpp_create_dynamic(const uint8_t* set, size_t bytes, const char* type) {
  google::protobuf::FileDescriptorSet files;
  if (!files.ParseFromArray(set, static_cast<int>(bytes)))
    return nullptr;
  auto codec = std::make_unique<codec_cpp>();
  codec->pool = std::make_unique<google::protobuf::DescriptorPool>();
  // Imports may come later in the set than who imports them.
  for (int left = files.file_size(), before = left + 1; left > 0 && left < before;) {
    before = left;
    left = 0;
    for (const auto& file : files.file()) {
      bool ready = !codec->pool->FindFileByName(file.name());
      for (const auto& import : file.dependency())
        ready = ready && codec->pool->FindFileByName(import);
      if (!ready || !codec->pool->BuildFile(file))
        left += !codec->pool->FindFileByName(file.name());
    }
  }
  const auto* descriptor = codec->pool->FindMessageTypeByName(type);
  if (!descriptor)
    return nullptr;
  codec->factory = std::make_unique<google::protobuf::DynamicMessageFactory>(codec->pool.get());
  codec->prototype = codec->factory->GetPrototype(descriptor);
  return codec.release();
}

extern "C" bool codec_cpp_has_file(const char* name) {
  return google::protobuf::DescriptorPool::generated_pool()->FindFileByName(name) != nullptr;
}

extern "C" bool codec_cpp_same_type(const uint8_t* set, size_t bytes, const char* type) {
  google::protobuf::FileDescriptorSet files;
  const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(type);
  if (!descriptor || !files.ParseFromArray(set, static_cast<int>(bytes)))
    return false;
  google::protobuf::FileDescriptorProto ours;
  descriptor->file()->CopyTo(&ours);
  for (auto& file : *files.mutable_file()) {
    if (file.name() != ours.name())
      continue;
    // What protoc adds to a set and CopyTo leaves out.
    file.clear_source_code_info();
    for (auto& message : *file.mutable_message_type())
      for (auto& field : *message.mutable_field())
        field.clear_json_name();
    return file.SerializeAsString() == ours.SerializeAsString();
  }
  return false;
}

extern "C" void codec_cpp_destroy(codec_cpp* codec) { delete codec; }

extern "C" int codec_cpp_parse(codec_cpp* codec, const uint8_t* wire, size_t bytes) {
  google::protobuf::ArenaOptions options;
  options.initial_block = codec->block.get();
  options.initial_block_size = kArenaBlock;
  google::protobuf::Arena arena(options);
  return codec->prototype->New(&arena)->ParseFromArray(wire, static_cast<int>(bytes)) ? 0 : -1;
}

extern "C" int codec_cpp_room(codec_cpp* codec, unsigned n) {
  codec->kept.resize(n);
  return 0;
}

extern "C" int codec_cpp_keep(codec_cpp* codec, unsigned slot, const uint8_t* wire, size_t bytes) {
  auto& kept = codec->kept.at(slot);
  kept.reset(codec->prototype->New());
  return kept->ParseFromArray(wire, static_cast<int>(bytes)) ? 0 : -1;
}

extern "C" size_t codec_cpp_serialize(codec_cpp* codec, unsigned slot, uint8_t* out, size_t room) {
  const auto& kept = codec->kept[slot];
  const size_t bytes = kept->ByteSizeLong();
  if (bytes > room)
    return SIZE_MAX;
  return static_cast<size_t>(kept->SerializeWithCachedSizesToArray(out) - out);
}
