#include "tests/linearize/cpp_oracle.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>

namespace pb = google::protobuf;
using Field = pb::FieldDescriptorProto;

struct oracle {
  pb::DescriptorPool pool;
  std::unique_ptr<pb::DynamicMessageFactory> factory;
  const pb::Message* prototype = nullptr;
  std::string set;
  bool required_default = false, group = false;
};

namespace {

class Maker {
 public:
  explicit Maker(uint64_t seed) : random_(seed), proto3_(Below(2)), messages_(1 + Below(5)) {}

  void Make(pb::FileDescriptorProto* file) {
    file->set_name("random.proto");
    file->set_package("random");
    if (proto3_)
      file->set_syntax("proto3");
    auto* e = file->add_enum_type();
    e->set_name("E");
    const int numbers[] = {proto3_ ? 0 : 3, 1, -5, 70000};
    for (int i = 0; i < 4; i++) {
      auto* v = e->add_value();
      v->set_name("E_" + std::to_string(i));
      v->set_number(numbers[i]);
    }
    for (unsigned i = 0; i < messages_; i++)
      Message(file->add_message_type(), "M" + std::to_string(i));
  }

 private:
  unsigned Below(unsigned n) { return static_cast<unsigned>(random_() % n); }

  int Number(int last) {
    switch (Below(14)) {
      case 0: return last + 2 + static_cast<int>(Below(40));
      case 1: return last < 1 << 20 ? last + 20000 + static_cast<int>(Below(1 << 18)) : last + 1;
      default: return last + 1;
    }
  }

  void Type(Field* f) {
    f->clear_type_name();
    static const Field::Type types[] = {
        Field::TYPE_DOUBLE, Field::TYPE_FLOAT, Field::TYPE_INT64, Field::TYPE_UINT64, Field::TYPE_INT32,
        Field::TYPE_FIXED64, Field::TYPE_FIXED32, Field::TYPE_BOOL, Field::TYPE_STRING, Field::TYPE_BYTES,
        Field::TYPE_UINT32, Field::TYPE_SFIXED32, Field::TYPE_SFIXED64, Field::TYPE_SINT32, Field::TYPE_SINT64,
        Field::TYPE_ENUM, Field::TYPE_MESSAGE, Field::TYPE_MESSAGE, Field::TYPE_STRING};
    f->set_type(types[Below(sizeof(types) / sizeof(types[0]))]);
    if (f->type() == Field::TYPE_ENUM)
      f->set_type_name(".random.E");
    else if (f->type() == Field::TYPE_MESSAGE)
      f->set_type_name(".random.M" + std::to_string(Below(messages_)));
  }

  void Default(Field* f) {
    switch (f->type()) {
      case Field::TYPE_MESSAGE: return;
      case Field::TYPE_STRING: f->set_default_value(Below(2) ? "a default" : ""); return;
      case Field::TYPE_BYTES: f->set_default_value("\\001\\377"); return;
      case Field::TYPE_BOOL: f->set_default_value("true"); return;
      case Field::TYPE_ENUM: f->set_default_value("E_1"); return;
      case Field::TYPE_DOUBLE:
      case Field::TYPE_FLOAT: f->set_default_value("1.5"); return;
      default: f->set_default_value("7");
    }
  }

  static bool Packable(const Field& f) {
    return f.type() != Field::TYPE_STRING && f.type() != Field::TYPE_BYTES && f.type() != Field::TYPE_MESSAGE &&
           f.type() != Field::TYPE_GROUP;
  }

  void Plain(pb::DescriptorProto* m, Field* f) {
    Type(f);
    const unsigned dice = Below(10);
    if (dice < 4) {
      f->set_label(Field::LABEL_REPEATED);
      if (Packable(*f) && Below(2))
        f->mutable_options()->set_packed(Below(2));
      return;
    }
    f->set_label(Field::LABEL_OPTIONAL);
    if (proto3_) {
      if (dice == 9)
        optional_.push_back(f);
      return;
    }
    // A required cycle has no finite message.
    if (dice == 9 && f->type() != Field::TYPE_MESSAGE)
      f->set_label(Field::LABEL_REQUIRED);
    if (Below(4) == 0)
      Default(f);
    (void)m;
  }

  void Map(pb::DescriptorProto* m, Field* f) {
    static const Field::Type keys[] = {Field::TYPE_INT32, Field::TYPE_UINT64, Field::TYPE_SINT32, Field::TYPE_FIXED64,
                                       Field::TYPE_BOOL, Field::TYPE_STRING};
    auto* entry = m->add_nested_type();
    // As protoc names it after the field.
    entry->set_name("F" + f->name().substr(1) + "Entry");
    entry->mutable_options()->set_map_entry(true);
    auto* key = entry->add_field();
    key->set_name("key");
    key->set_number(1);
    key->set_label(Field::LABEL_OPTIONAL);
    key->set_type(keys[Below(6)]);
    auto* value = entry->add_field();
    value->set_name("value");
    value->set_number(2);
    value->set_label(Field::LABEL_OPTIONAL);
    do
      Type(value);
    while (!proto3_ && value->type() == Field::TYPE_ENUM);  // its first value would have to be 0
    f->set_label(Field::LABEL_REPEATED);
    f->set_type(Field::TYPE_MESSAGE);
    f->set_type_name(".random." + m->name() + "." + entry->name());
  }

  void Group(pb::DescriptorProto* m, Field* f) {
    auto* inner = m->add_nested_type();
    inner->set_name("Group" + f->name().substr(1));
    auto* a = inner->add_field();
    a->set_name("a");
    a->set_number(1);
    a->set_label(Below(2) ? Field::LABEL_OPTIONAL : Field::LABEL_REQUIRED);
    a->set_type(Field::TYPE_INT32);
    f->set_name("group" + f->name().substr(1));
    f->set_label(Below(2) ? Field::LABEL_REPEATED : Field::LABEL_OPTIONAL);
    f->set_type(Field::TYPE_GROUP);
    f->set_type_name(".random." + m->name() + "." + inner->name());
  }

  void Message(pb::DescriptorProto* m, const std::string& name) {
    m->set_name(name);
    const unsigned n = Below(20);
    int number = 0, oneof_left = 0;
    optional_.clear();
    for (unsigned i = 0; i < n; i++) {
      number = Number(number);
      if (number >= 19000 && number <= 19999)
        number = 20000;
      auto* f = m->add_field();
      f->set_name("f" + std::to_string(number));
      f->set_number(number);
      if (oneof_left == 0 && Below(9) == 0) {
        oneof_left = 1 + static_cast<int>(Below(5));
        m->add_oneof_decl()->set_name("o" + std::to_string(m->oneof_decl_size()));
      }
      if (oneof_left > 0) {
        oneof_left--;
        Type(f);
        f->set_label(Field::LABEL_OPTIONAL);
        f->set_oneof_index(m->oneof_decl_size() - 1);
      } else if (Below(12) == 0) {
        Map(m, f);
      } else if (!proto3_ && Below(14) == 0) {
        Group(m, f);
      } else {
        Plain(m, f);
      }
    }
    for (auto* f : optional_) {
      f->set_proto3_optional(true);
      f->set_oneof_index(m->oneof_decl_size());
      m->add_oneof_decl()->set_name("_" + f->name());
    }
  }

  std::mt19937_64 random_;
  const bool proto3_;
  const unsigned messages_;
  std::vector<Field*> optional_;
};

class Filler {
 public:
  explicit Filler(uint64_t seed) : random_(seed) {}

  void Fill(pb::Message* m, int depth) {
    const auto* d = m->GetDescriptor();
    for (int i = 0; i < d->field_count(); i++) {
      const auto* f = d->field(i);
      const bool message = f->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE;
      if (f->is_required() ? Below(60) == 0 : Below(depth < 2 ? 2 : 5) != 0 || (message && depth > 5))
        continue;
      for (unsigned n = f->is_repeated() ? Below(5) : 1; n > 0; n--)
        Field(m, f, depth);
    }
  }

 private:
  unsigned Below(unsigned n) { return static_cast<unsigned>(random_() % n); }

  uint64_t Number() {
    switch (Below(5)) {
      case 0: return Below(2);
      case 1: return Below(300);
      case 2: return UINT64_MAX - Below(300);
      case 3: return random_() >> Below(64);
      default: return random_();
    }
  }

  double Real() {
    static const double odd[] = {0.0, -0.0, 1.5, -1e300, HUGE_VAL, -HUGE_VAL, NAN, 1e-320};
    return Below(3) ? odd[Below(8)] : static_cast<double>(Number());
  }

  std::string Text(bool bytes) {
    static const char* const pieces[] = {"a", "hello ", "\xc3\xa9", "\xf0\x9f\x98\x80", "0123456789abcdef"};
    std::string s;
    for (unsigned n = Below(8); n > 0; n--)
      s += pieces[Below(5)];
    if (bytes || Below(40) == 0)
      s.push_back('\0');
    return s + (Below(2) ? "z" : "");
  }

  void Field(pb::Message* m, const pb::FieldDescriptor* f, int depth) {
    const auto* r = m->GetReflection();
    const bool many = f->is_repeated();
    switch (f->cpp_type()) {
#define ONE(TYPE, NAME, value)                       \
  case pb::FieldDescriptor::CPPTYPE_##TYPE:          \
    if (many)                                        \
      r->Add##NAME(m, f, value);                     \
    else                                             \
      r->Set##NAME(m, f, value);                     \
    break
      ONE(INT32, Int32, static_cast<int32_t>(Number()));
      ONE(INT64, Int64, static_cast<int64_t>(Number()));
      ONE(UINT32, UInt32, static_cast<uint32_t>(Number()));
      ONE(UINT64, UInt64, Number());
      ONE(DOUBLE, Double, Real());
      ONE(FLOAT, Float, static_cast<float>(Real()));
      ONE(BOOL, Bool, Below(2) != 0);
      ONE(STRING, String, Text(f->type() == pb::FieldDescriptor::TYPE_BYTES));
      ONE(ENUM, EnumValue, f->enum_type()->value(static_cast<int>(Below(4)))->number());
#undef ONE
      case pb::FieldDescriptor::CPPTYPE_MESSAGE:
        Fill(many ? r->AddMessage(m, f) : r->MutableMessage(m, f), depth + 1);
        break;
    }
  }

  std::mt19937_64 random_;
};

void Look(const pb::Message& m, verdict* v) {
  const auto* reflection = m.GetReflection();
  std::vector<const pb::FieldDescriptor*> fields;
  reflection->ListFields(m, &fields);
  for (const auto* f : fields) {
    const int n = f->is_repeated() ? reflection->FieldSize(m, f) : 1;
    for (int i = 0; i < n; i++) {
      switch (f->cpp_type()) {
        case pb::FieldDescriptor::CPPTYPE_MESSAGE:
          Look(f->is_repeated() ? reflection->GetRepeatedMessage(m, f, i) : reflection->GetMessage(m, f), v);
          break;
        case pb::FieldDescriptor::CPPTYPE_STRING:
          if (f->type() == pb::FieldDescriptor::TYPE_STRING) {
            const std::string s = f->is_repeated() ? reflection->GetRepeatedString(m, f, i) : reflection->GetString(m, f);
            v->text_with_nul |= s.find('\0') != std::string::npos;
          }
          break;
        case pb::FieldDescriptor::CPPTYPE_DOUBLE:
          if (!f->has_presence() && !f->is_repeated())
            v->negative_zero |= reflection->GetDouble(m, f) == 0 && std::signbit(reflection->GetDouble(m, f));
          break;
        case pb::FieldDescriptor::CPPTYPE_FLOAT:
          if (!f->has_presence() && !f->is_repeated())
            v->negative_zero |= reflection->GetFloat(m, f) == 0 && std::signbit(reflection->GetFloat(m, f));
          break;
        default:
          break;
      }
    }
  }
}

class Errors : public pb::DescriptorPool::ErrorCollector {
 public:
  void AddError(const std::string&, const std::string& element, const pb::Message*, ErrorLocation,
                const std::string& message) override {
    std::fprintf(stderr, "%s: %s\n", element.c_str(), message.c_str());
  }
};

void Survey(const pb::FileDescriptorProto& file, oracle* o) {
  for (const auto& m : file.message_type())
    for (const auto& f : m.field()) {
      o->required_default |= f.label() == Field::LABEL_REQUIRED && f.has_default_value();
      o->group |= f.type() == Field::TYPE_GROUP;
    }
}

std::string Canonical(const pb::Message& m) {
  std::string out;
  {
    pb::io::StringOutputStream stream(&out);
    pb::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    m.SerializePartialToCodedStream(&coded);
  }
  return out;
}

}  // namespace

extern "C" oracle* oracle_create(uint64_t seed) {
  auto o = std::make_unique<oracle>();
  pb::FileDescriptorSet set;
  Maker(seed).Make(set.add_file());
  Errors errors;
  const auto* file = o->pool.BuildFileCollectingErrors(set.file(0), &errors);
  if (!file) {
    std::fprintf(stderr, "seed %llu: no sound file\n", static_cast<unsigned long long>(seed));
    std::abort();
  }
  pb::SetLogHandler(nullptr);
  Survey(set.file(0), o.get());
  o->set = set.SerializeAsString();
  o->factory = std::make_unique<pb::DynamicMessageFactory>(&o->pool);
  o->prototype = o->factory->GetPrototype(file->FindMessageTypeByName("M0"));
  return o.release();
}

extern "C" void oracle_destroy(oracle* o) { delete o; }

extern "C" const uint8_t* oracle_set(const oracle* o, size_t* len_out) {
  *len_out = o->set.size();
  return reinterpret_cast<const uint8_t*>(o->set.data());
}

extern "C" void oracle_judge(const oracle* o, const uint8_t* wire, size_t len, verdict* v) {
  std::unique_ptr<pb::Message> m(o->prototype->New());
  *v = verdict{};
  v->partial = m->ParsePartialFromArray(wire, static_cast<int>(len));
  v->accepted = v->partial && m->IsInitialized();
  if (!v->partial)
    return;
  Look(*m, v);
  const std::string bytes = Canonical(*m);
  v->canonical = static_cast<uint8_t*>(std::malloc(bytes.size() + 1));
  std::memcpy(v->canonical, bytes.data(), bytes.size());
  v->canonical_len = bytes.size();
}

extern "C" uint8_t* oracle_make(const oracle* o, uint64_t seed, size_t* len_out) {
  std::unique_ptr<pb::Message> m(o->prototype->New());
  Filler(seed).Fill(m.get(), 0);
  std::string bytes = m->SerializePartialAsString();
  auto* copy = static_cast<uint8_t*>(std::malloc(bytes.size() + 1));
  std::memcpy(copy, bytes.data(), bytes.size());
  *len_out = bytes.size();
  return copy;
}

extern "C" void oracle_tell(const oracle* o, const char* title, const uint8_t* wire, size_t len) {
  std::unique_ptr<pb::Message> m(o->prototype->New());
  const bool good = m->ParsePartialFromArray(wire, static_cast<int>(len));
  std::fprintf(stderr, "%s:%s\n%s\n", title, good ? "" : " (refused)", m->DebugString().c_str());
}

extern "C" bool oracle_builds(const uint8_t* set, size_t len) {
  pb::FileDescriptorSet files;
  pb::DescriptorPool pool;
  Errors errors;
  if (!files.ParseFromArray(set, static_cast<int>(len)))
    return false;
  for (const auto& file : files.file())
    if (!pool.BuildFileCollectingErrors(file, &errors))
      return false;
  return true;
}

extern "C" bool oracle_has_required_default(const oracle* o) { return o->required_default; }
extern "C" bool oracle_has_group(const oracle* o) { return o->group; }
