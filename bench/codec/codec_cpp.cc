#include "bench/codec/codec_cpp.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>

#include <google/protobuf/arena.h>

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

constexpr unsigned kSlots = 64;
constexpr size_t kArenaBlock = 1 << 20;

}  // namespace

struct codec_cpp {
  const google::protobuf::Message* prototype;
  std::unique_ptr<char[]> block{new char[kArenaBlock]};
  std::unique_ptr<google::protobuf::Message> kept[kSlots];
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

extern "C" codec_cpp* codec_cpp_create(const char* name) {
  const auto* prototype = Prototype(name);
  if (!prototype)
    return nullptr;
  auto* codec = new codec_cpp;
  codec->prototype = prototype;
  return codec;
}

extern "C" void codec_cpp_destroy(codec_cpp* codec) { delete codec; }

extern "C" int codec_cpp_parse(codec_cpp* codec, const uint8_t* wire, size_t bytes) {
  google::protobuf::ArenaOptions options;
  options.initial_block = codec->block.get();
  options.initial_block_size = kArenaBlock;
  google::protobuf::Arena arena(options);
  return codec->prototype->New(&arena)->ParseFromArray(wire, static_cast<int>(bytes)) ? 0 : -1;
}

extern "C" int codec_cpp_keep(codec_cpp* codec, unsigned slot, const uint8_t* wire, size_t bytes) {
  auto& kept = codec->kept[slot % kSlots];
  kept.reset(codec->prototype->New());
  return kept->ParseFromArray(wire, static_cast<int>(bytes)) ? 0 : -1;
}

extern "C" size_t codec_cpp_serialize(codec_cpp* codec, unsigned slot, uint8_t* out, size_t room) {
  auto& kept = codec->kept[slot % kSlots];
  const size_t bytes = kept->ByteSizeLong();  // what SerializeToArray does first; its own call would do it again
  return bytes <= room && kept->SerializeToArray(out, static_cast<int>(room)) ? bytes : 0;
}
