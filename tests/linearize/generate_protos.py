#!/usr/bin/python3
"""Write random .proto files and a table of their root descriptors.

usage: generate_protos.py OUTDIR COUNT SEED PROTOC-C
Writes OUTDIR/gen0.proto ..., what protoc-c makes of them, and OUTDIR/gen_table.h; the same seed gives the same files. Types,
labels, packed options, oneofs, maps, defaults, enums, nesting and recursion as protoc-c takes them.
"""
import random
import subprocess
import sys

SCALARS = ["int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64",
           "sfixed32", "sfixed64", "float", "double", "bool", "string", "bytes"]
KEYS = ["int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64",
        "sfixed32", "sfixed64", "bool", "string"]


def default_of(rng, kind):
    if kind == "string":
        return rng.choice(['""', '"text"', '"\\303\\251"'])
    if kind == "bytes":
        return rng.choice(['"b"', '"\\001\\000\\377"'])
    if kind == "bool":
        return rng.choice(["true", "false"])
    if kind in ("float", "double"):
        return rng.choice(["0", "1.5", "-2.25"])
    if kind == "E":
        return rng.choice(["E_A", "E_B"])
    if kind[0] == "u" or kind.startswith("fixed"):
        return str(rng.choice([0, 7, 4000000000]))
    return str(rng.choice([0, 7, -7]))


class File:
    def __init__(self, rng, index):
        self.rng = rng
        self.index = index
        self.proto3 = index % 2 == 0
        self.messages = ["M%d" % i for i in range(rng.randint(2, 6))]

    def kind(self):
        dice = self.rng.random()
        if dice < 0.2:
            return self.rng.choice(self.messages)
        return "E" if dice < 0.27 else self.rng.choice(SCALARS)

    def field(self, number):
        rng, kind = self.rng, self.kind()
        if rng.random() < 0.08:
            value = kind if kind != "E" or self.proto3 else "string"  # protoc wants E = 0 first
            return "  map<%s, %s> f%d = %d;" % (rng.choice(KEYS), value, number, number)
        options = []
        if rng.random() < 0.35:
            label = "repeated "
            if kind not in ("string", "bytes") and not kind.startswith("M") and rng.random() < 0.6:
                options.append("packed = " + rng.choice(["true", "false"]))
        elif self.proto3:
            label = ""
        else:
            label = rng.choice(["optional ", "optional ", "optional ", "required "])
            if kind.startswith("M"):
                label = "optional "  # a required cycle has no finite message
            elif rng.random() < 0.3:
                options.append("default = " + default_of(rng, kind))
        if rng.random() < 0.05:
            options.append("deprecated = true")
        text = " [%s]" % ", ".join(options) if options else ""
        return "  %s%s f%d = %d%s;" % (label, kind, number, number, text)

    def number(self, last):
        dice = self.rng.random()
        if dice < 0.08:
            return last + self.rng.randint(2, 60)
        if dice < 0.1:
            return last + self.rng.randint(100, 30000) if last < 15000 else last + 5000
        return last + 1

    def skip_reserved(self, number):
        return 20000 if 19000 <= number <= 19999 else number

    def message(self, name):
        lines, number = ["message %s {" % name], 0
        for i in range(self.rng.randint(0, 18)):
            number = self.skip_reserved(self.number(number))
            if self.rng.random() < 0.12:
                lines.append("  oneof o%d {" % i)
                for _ in range(self.rng.randint(1, 5)):
                    kind = self.kind()
                    lines.append("    %s f%d = %d;" % (kind, number, number))
                    number = self.skip_reserved(number + 1)
                lines.append("  }")
            else:
                lines.append(self.field(number))
        return lines + ["}"]

    def text(self):
        lines = ['syntax = "proto%d";' % (3 if self.proto3 else 2), "package gen%d;" % self.index]
        values = "E_A = 0; E_B = 5; E_C = -3;" if self.proto3 else "E_A = 2; E_B = 5; E_C = -3;"
        lines.append("enum E { %s }" % values)
        for name in self.messages:
            lines += self.message(name)
        return "\n".join(lines) + "\n"


def main():
    out, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    roots = []
    for i in range(count):
        proto = File(random.Random(seed * 1000 + i), i)
        with open("%s/gen%d.proto" % (out, i), "w", encoding="ascii") as f:
            f.write(proto.text())
        roots += ["gen%d__m%d__descriptor" % (i, k) for k in range(len(proto.messages))]
    files = ["%s/gen%d.proto" % (out, i) for i in range(count)]
    subprocess.run([sys.argv[4], "--c_out=" + out, "--proto_path=" + out] + files, check=True)
    with open(out + "/gen_table.h", "w", encoding="ascii") as f:
        for i in range(count):
            f.write('#include "gen%d.pb-c.h"\n' % i)
        f.write("static const ProtobufCMessageDescriptor *const roots[] = {\n")
        f.write("".join("\t&%s,\n" % root for root in roots))
        f.write("};\n")


main()
