#!/usr/bin/python3
"""split-perf codec with somebody's own messages: rows and keys, and one clear line for each bad file.

usage: codec_test.py SPLIT-PERF SET
SET holds unit2.proto and unit3.proto.
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DECODERS = {"fast", "fast-alias", "generic", "protobuf-c", "protobuf-c-bump", "memcpy"}
ENCODERS = {"fast", "generic", "protobuf-c"}
MEANS = ["decode_vs_protobuf_c", "encode_vs_protobuf_c", "encode_vs_libprotobuf", "decode_vs_libprotobuf"]


def delimited(messages):
    out = b""
    for m in messages:
        n, head = len(m), b""
        while n > 127:
            head += bytes([n & 127 | 128])
            n >>= 7
        out += head + bytes([n]) + m
    return out


def messages_make(path, count):
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString(pathlib.Path(path).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    all_type = message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName("unit3.All"))
    rng = random.Random(5)
    out = []
    for i in range(count):
        m = all_type(f_int32=i, f_string="text" * rng.randint(0, 50), f_double=0.5, r_int32=[rng.getrandbits(20)] * (i % 9))
        m.f_leaf.s = "leaf"
        m.m_leaf["key"].a = i
        m.o_leaf.a = 1
        out.append(m.SerializeToString())
    return out


def main():
    perf, proto_set = sys.argv[1], sys.argv[2]
    findings = []

    def run(*args, expect=0):
        done = subprocess.run([perf, "codec", "--json", "--runs", "1", "--seconds", "0.01", *args], capture_output=True,
                              text=True, check=False)
        if done.returncode != expect:
            findings.append(f"{args}: exit code {done.returncode}, expected {expect}: {done.stderr}")
        return done

    def rows(*args):
        done = run("--proto-set", proto_set, "--type", "unit3.All", *args)
        if done.returncode:
            return {}
        out = json.loads(done.stdout)
        for key in MEANS:
            if not isinstance(out["geomean"].get(key), float):
                findings.append(f"{args}: geomean.{key} is no number")
        found = {}
        for row in out["results"]:
            if row["ns"] <= 0 or row["bytes"] <= 0:
                findings.append(f"{args}: {row}")
            if row["op"] == "flatten" and row["engine"] not in ("fast", "generic", "in-place", "in-place-walked"):
                findings.append(f"{args}: {row}")
            found.setdefault((row["message"], row["op"]), set()).add(row["engine"])
        return found

    def complains(files, texts, kind="unit3.All", extra=()):
        done = run("--proto-set", proto_set, "--type", kind, "--cpp-dynamic", *extra, "--data", *files, expect=1)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("codec:")]
        if not lines or not all(text in lines[0] for text in texts):
            findings.append(f"{files}: expected a line with {texts}, got {lines}")

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)

        def write(file, content):
            (folder / file).write_bytes(content)
            return str(folder / file)

        messages = messages_make(proto_set, 40)
        good = write("good", delimited(messages))
        other = write("other", delimited(messages[:7]))
        single = [write(f"single{i}", m) for i, m in enumerate(messages[:3])]
        # With generated C++ code, made on the spot.
        found = rows("--data", good)
        if not found.get(("unit3.All", "decode"), set()) >= DECODERS | {"libprotobuf"}:
            findings.append(f"decode: {found}")
        if not found.get(("unit3.All", "encode"), set()) >= ENCODERS | {"libprotobuf"}:
            findings.append(f"encode: {found}")
        found = rows("--cpp-dynamic", "--data", good, other)
        for file in ("good", "other"):
            if "libprotobuf-dynamic" not in found.get((f"unit3.All:{file}", "decode"), set()):
                findings.append(f"two files: {found}")
        if list(rows("--cpp-dynamic", "--single", "--data", *single)) == []:
            findings.append("--single: no rows")

        cut = write("cut", delimited(messages)[:-1])
        complains([cut], ["cut: message 39: expected", "bytes after the length"])
        complains([write("long", b"\xff" * 9)], ["long: message 0: expected a length"])
        complains([write("empty", b"")], ["empty: expected at least one message"])
        complains([write("wrong", delimited([messages[0], b"\x0b\x0c\x0e"]))], ["wrong: message 1: expected a unit3.All"])
        complains([single[0], write("bad", b"\xff\xff")], ["bad: message 0: expected a unit3.All"], extra=["--single"])
        complains([str(folder / "none")], ["none: No such file"])
        complains([good], ["expected a message unit3.None"], kind="unit3.None")
        done = run("--proto-set", good, "--type", "x", "--data", good, expect=1)
        if "good: expected a descriptor set" not in done.stderr:
            findings.append(f"no set: {done.stderr}")
        done = run("--type", "unit3.All", expect=1)
        if "expected --proto-set FILE, --type NAME and --data FILE... together" not in done.stderr:
            findings.append(f"no files: {done.stderr}")
    for finding in findings:
        print(finding)
    return 1 if findings else 0


sys.exit(main())
