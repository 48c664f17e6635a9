#!/usr/bin/python3
"""The JSON view against Python's google.protobuf.json_format, on random messages.

usage: json_test.py SPLITCTL SET [messages per type [seed]]
SET holds json.proto, unit2/3.proto and the generated files, with their imports.
"""
import json
import math
import random
import struct
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

TYPES = ["json.All", "unit2.Defaults", "unit3.All"] + ["gen%d.M0" % i for i in range(8)]
TEXTS = ["", "a", "héllo", "日本語", "\U0001f600", 'quote " and \\', "line\nbreak\ttab", "</script>", "\x01\x1f\x7f"]
MASK_PATHS = ["a", "foo_bar", "foo.bar_baz", "x_y.z_w"]


class Filler:
    def __init__(self, rng, pool, factory):
        self.rng, self.pool, self.factory = rng, pool, factory

    def new(self, name):
        return self.factory.GetPrototype(self.pool.FindMessageTypeByName(name))()

    def integer(self, bits, signed):
        rng = self.rng
        value = rng.choice([0, 1, rng.getrandbits(bits), rng.getrandbits(7), (1 << bits) - 1, 1 << (bits - 1)])
        return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value

    def real(self, single):
        rng = self.rng
        value = rng.choice([1.5, -2.25, 1e300, 0.1, float("inf"), float("-inf"), float("nan"), rng.random() * 1e6,
                            struct.unpack("<d", rng.randbytes(8))[0], 3.0])
        if not single:
            return value
        if math.isfinite(value) and abs(value) > 3e38:
            value = 0.1
        return struct.unpack("<f", struct.pack("<f", value))[0]

    def scalar(self, f):
        t, rng = f.type, self.rng
        if t in (f.TYPE_INT32, f.TYPE_SINT32, f.TYPE_SFIXED32):
            return self.integer(32, True)
        if t in (f.TYPE_INT64, f.TYPE_SINT64, f.TYPE_SFIXED64):
            return self.integer(64, True)
        if t in (f.TYPE_UINT32, f.TYPE_FIXED32):
            return self.integer(32, False)
        if t in (f.TYPE_UINT64, f.TYPE_FIXED64):
            return self.integer(64, False)
        if t == f.TYPE_BOOL:
            return rng.random() < 0.5
        if t == f.TYPE_STRING:
            return "".join(rng.choice(TEXTS) for _ in range(rng.randint(0, 4)))
        if t == f.TYPE_BYTES:
            return rng.randbytes(rng.randint(0, 9))
        if t == f.TYPE_ENUM:
            numbers = [v.number for v in f.enum_type.values]
            open_enum = f.file.syntax == "proto3" and f.enum_type.full_name != "google.protobuf.NullValue"
            return rng.choice(numbers + ([12345] if open_enum else []))
        value = self.real(t == f.TYPE_FLOAT)
        # Without presence -0.0 is protobuf-c's zero; see docs/LINEARIZE.md.
        return value if value != 0 else 0.5

    def value(self, m, depth):
        """A google.protobuf.Value; json_format refuses numbers that are not finite."""
        kind = self.rng.randint(0, 5 if depth < 4 else 3)
        if kind == 0:
            m.null_value = 0
        elif kind == 1:
            m.number_value = self.rng.choice([0.0, 1.0, -3.25, 1e30])
        elif kind == 2:
            m.string_value = self.rng.choice(TEXTS)
        elif kind == 3:
            m.bool_value = self.rng.random() < 0.5
        elif kind == 4:
            m.struct_value.SetInParent()
            for _ in range(self.rng.randint(0, 3)):
                self.value(m.struct_value.fields[self.rng.choice(TEXTS)], depth + 1)
        else:
            m.list_value.SetInParent()
            for _ in range(self.rng.randint(0, 3)):
                self.value(m.list_value.values.add(), depth + 1)

    def known(self, m, depth):
        """Fill a well-known type whose values are bounded; False if `m` is none."""
        rng, name = self.rng, m.DESCRIPTOR.full_name
        if name == "google.protobuf.Timestamp":
            m.seconds = rng.choice([0, -62135596800, 253402300799, rng.randint(-10**10, 10**10)])
            m.nanos = rng.choice([0, 1, 999999999, 500000000, 120000, 1000])
        elif name == "google.protobuf.Duration":
            m.seconds = rng.choice([0, 1, -1, 315576000000, -315576000000, rng.randint(-10**6, 10**6)])
            nanos = rng.choice([0, 1, 999999999, 500000000, 120000])
            m.nanos = -nanos if m.seconds < 0 or (m.seconds == 0 and rng.random() < 0.5) else nanos
        elif name == "google.protobuf.FieldMask":
            m.paths.extend(rng.choice(MASK_PATHS) for _ in range(rng.randint(0, 3)))
        elif name == "google.protobuf.Value":
            self.value(m, depth)
        elif name == "google.protobuf.ListValue":
            for _ in range(rng.randint(0, 3)):
                self.value(m.values.add(), depth)
        elif name == "google.protobuf.Struct":
            for _ in range(rng.randint(0, 3)):
                self.value(m.fields[rng.choice(TEXTS)], depth)
        elif name == "google.protobuf.Any":
            if rng.random() < 0.8:
                inner = self.new(rng.choice(["json.Inner", "json.All", "google.protobuf.Duration", "google.protobuf.Empty",
                                             "google.protobuf.Value", "google.protobuf.Int64Value", "unit3.All"]))
                self.fill(inner, depth + 2)
                m.Pack(inner)
        else:
            return False
        return True

    def fill(self, m, depth=0):
        if self.known(m, depth):
            return
        for f in m.DESCRIPTOR.fields:
            required = f.label == f.LABEL_REQUIRED
            if not required and self.rng.random() > (0.4 if depth < 2 else 0.12):
                continue
            if f.type == f.TYPE_MESSAGE and depth > 5 and not required:
                continue
            self.field(m, f, depth)

    def field(self, m, f, depth):
        if f.type == f.TYPE_MESSAGE and f.message_type.GetOptions().map_entry:
            key, value = f.message_type.fields
            for _ in range(self.rng.randint(0, 3)):
                if value.type == f.TYPE_MESSAGE:
                    self.fill(getattr(m, f.name)[self.scalar(key)], depth + 1)
                else:
                    getattr(m, f.name)[self.scalar(key)] = self.scalar(value)
        elif f.label == f.LABEL_REPEATED:
            for _ in range(self.rng.randint(0, 3)):
                if f.type == f.TYPE_MESSAGE:
                    self.fill(getattr(m, f.name).add(), depth + 1)
                else:
                    getattr(m, f.name).append(self.scalar(f))
        elif f.type == f.TYPE_MESSAGE:
            getattr(m, f.name).SetInParent()
            self.fill(getattr(m, f.name), depth + 1)
        else:
            setattr(m, f.name, self.scalar(f))


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def different(a, b, path="$"):
    """Where two JSON values differ, or None. Numbers by value: 3 and 3.0 are one."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None or type(a) is str or type(b) is str:
        return None if a == b and type(a) is type(b) else f"{path}: expected {a!r}, got {b!r}"
    if isinstance(a, dict) and isinstance(b, dict):
        for key in list(a) + list(b):
            if key not in a or key not in b:
                return f"{path}.{key}: only in {'ours' if key in b else 'json_format'}"
            found = different(a[key], b[key], f"{path}.{key}")
            if found:
                return found
        return None
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{path}: expected {len(a)} elements, got {len(b)}"
        for i, (x, y) in enumerate(zip(a, b)):
            found = different(x, y, f"{path}[{i}]")
            if found:
                return found
        return None
    return None if a == b else f"{path}: expected {a!r}, got {b!r}"


def main():
    splitctl, path = sys.argv[1], sys.argv[2]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 60
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    files = descriptor_pb2.FileDescriptorSet()
    with open(path, "rb") as f:
        files.ParseFromString(f.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    failed = compared = skipped = 0
    for name in TYPES:
        filler = Filler(random.Random(f"{seed} {name}"), pool, factory)
        messages, expected = [], []
        while len(messages) < count:
            m = filler.new(name)
            filler.fill(m)
            try:
                expected.append(json_format.MessageToDict(m, descriptor_pool=pool))
            except (json_format.SerializeToJsonError, ValueError, TypeError) as e:
                skipped += 1  # what json_format itself cannot show is no yardstick
                if skipped > 20 * count:
                    raise SystemExit(f"json_format refuses nearly everything: {e}")
                continue
            messages.append(m.SerializeToString())
        with tempfile.NamedTemporaryFile() as data:
            data.write(b"".join(varint(len(m)) + m for m in messages))
            data.flush()
            run = subprocess.run([splitctl, "decode", "--proto-set", path, "--type", name, "--delimited", "--compact",
                                  data.name], capture_output=True, check=False)
        if run.returncode != 0:
            print(f"{name}: {run.stderr.decode().strip()}")
            return 1
        lines = run.stdout.decode().splitlines()
        if len(lines) != count:
            print(f"{name}: expected {count} lines, got {len(lines)}")
            return 1
        for i, line in enumerate(lines):
            found = different(json.loads(json.dumps(expected[i])), json.loads(line))
            compared += 1
            if found:
                failed += 1
                if failed < 10:
                    print(f"{name} message {i}: {found}\n  {messages[i].hex()}")
    print(f"{compared} messages compared, {failed} differ; json_format refused {skipped} of its own")
    return 1 if failed else 0


sys.exit(main())
