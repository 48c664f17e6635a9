#!/usr/bin/python3
"""What protoc-gen-split writes, without golden files: it must compile as C11 and as C++ with all
warnings, equal protoc-c's output in all that a program can see, and do what protoc-c cannot.

usage: generated_test.py PROTOC-GEN-SPLIT COMPILER_COMPARE OPTIONS_DIR PROTOS ROOT
"""
import pathlib
import subprocess
import sys
import tempfile

PLUGIN, COMPARE, OPTIONS, PROTOS, ROOT = sys.argv[1:6]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes"]
SHARED = ["all2.proto", "all3.proto", "keywords.proto", "nopackage.proto",
          "common/base.proto", "common/leaf.proto"]
# What protoc-c cannot do, or not so that a C++ compiler takes it.
OURS = ["optional3.proto", "groups.proto", "custom.proto", "known.proto", "hard.proto", "hard2.proto"]
BAD = {
    "bad/clash_field.proto": "bad/clash_field.proto:5:3: field bad.M.foobar and field bad.M.fooBar "
                             "(bad/clash_field.proto:4) would both be called foobar in C",
    "bad/clash_count.proto": "bad/clash_count.proto:5:3: field bad.M.n_items and field bad.M.items",
    "bad/clash_message.proto": "bad/clash_message.proto:6:1: message bad.Foo_bar and message bad.FooBar",
}
failures = 0


def run(*command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(c) for c in command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def protoc(out, files, options="messages,imports"):
    out.mkdir(parents=True, exist_ok=True)
    return run("protoc", f"-I{PROTOS}", f"-I{OPTIONS}", f"--plugin=protoc-gen-split={PLUGIN}",
               f"--split_opt={options}", f"--split_out={out}", *files)


def library(path, folder, sources):
    run("gcc", "-std=c11", "-fPIC", "-shared", "-g", *WARNINGS, f"-I{folder}", "-o", path, *sources,
        "-lprotobuf-c")


def check(name):
    """A step by name: what it raises is told, and the others still run."""
    def decorate(function):
        global failures
        try:
            print(f"{name}: {function() or 'good'}", flush=True)
        except RuntimeError as error:
            failures += 1
            print(f"{name}: FAILED\n{error}", flush=True)
    return decorate


with tempfile.TemporaryDirectory() as temporary:
    tmp = pathlib.Path(temporary)
    ours = tmp / "ours"

    @check("same as protoc-c")
    def _():
        theirs = tmp / "theirs"
        theirs.mkdir()
        run("protoc-c", f"-I{PROTOS}", f"--c_out={theirs}", *SHARED)
        protoc(tmp / "shared", SHARED, "messages")
        run("protoc", f"-I{PROTOS}", f"--descriptor_set_out={tmp}/set", "--include_imports", *SHARED)
        # Theirs is not ours: no warnings asked of it.
        run("gcc", "-fPIC", "-shared", "-w", f"-I{theirs}", "-o", tmp / "theirs.so",
            *theirs.rglob("*.c"), "-lprotobuf-c")
        library(tmp / "ours.so", tmp / "shared",
                [p for p in (tmp / "shared").rglob("*.pb-c.c")])
        return run(COMPARE, tmp / "set", tmp / "theirs.so", tmp / "ours.so").strip()

    @check("what protoc-c cannot do")
    def _():
        protoc(ours, OURS)
        run("protoc", f"-I{PROTOS}", f"-I{OPTIONS}", f"--descriptor_set_out={tmp}/set2",
            "--include_imports", *OURS)
        library(tmp / "ours2.so", ours, ours.rglob("*.pb-c.c"))
        return run(COMPARE, tmp / "set2", "-", tmp / "ours2.so").strip()

    # Python's protobuf is C++'s here. What it writes passes through our structs and protobuf-c's runtime unchanged.
    # Left out, where C++ has more than one way to write it: negative zeros of proto3 (protobuf-c takes them for
    # zeros) and messages with maps (C++ writes the zeros of an entry).
    @check("the same bytes to C++")
    def _():
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        from google.protobuf.internal import api_implementation
        told = []

        def has_map(kind, seen):
            seen.add(kind.full_name)
            return any(f.message_type and (f.message_type.GetOptions().map_entry or f.message_type.full_name not in seen
                                           and has_map(f.message_type, seen)) for f in kind.fields)
        for the_set, lib in (("set", "ours.so"), ("set2", "ours2.so")):
            run(COMPARE, tmp / the_set, "-", tmp / lib, tmp / "records")
            pool = descriptor_pool.DescriptorPool()
            for file in descriptor_pb2.FileDescriptorSet.FromString((tmp / the_set).read_bytes()).file:
                pool.Add(file)
            factory = message_factory.MessageFactory(pool)
            data, at, back = (tmp / "records").read_bytes(), 0, bytearray()
            while at < len(data):
                parts = []
                for _ in range(2):
                    size = int.from_bytes(data[at:at + 4], "little")
                    parts.append(data[at + 4:at + 4 + size])
                    at += 4 + size
                kind = pool.FindMessageTypeByName(parts[0].decode())
                message = factory.GetPrototype(kind).FromString(parts[1])
                if kind.GetOptions().map_entry or has_map(kind, set()):
                    continue
                if not message.IsInitialized():
                    continue  # a required field with a default: protobuf-c does not ask for it
                message.DiscardUnknownFields()
                written = message.SerializeToString(deterministic=True)
                if b"\0\0\0\x80" in written:
                    continue
                for part in (parts[0], written):
                    back += len(part).to_bytes(4, "little") + part
            (tmp / "back").write_bytes(back)
            told.append(run(COMPARE, tmp / the_set, "-", tmp / lib, "-", tmp / "back").strip())
        return f"{'; '.join(told)} ({api_implementation.Type()})"

    @check("handlers compile as C11")
    def _():
        protoc(ours, SHARED + OURS)
        for source in ours.rglob("*.split.c"):
            run("gcc", "-std=c11", "-c", "-o", tmp / "x.o", *WARNINGS, "-Wmissing-prototypes",
                f"-I{ours}", f"-I{ROOT}/host-lib", f"-I{ROOT}/linearize", source)

    @check("headers compile as C++")
    def _():
        for header in ours.rglob("*.h"):
            run("g++", "-std=c++20", "-fsyntax-only", "-x", "c++", *[w for w in WARNINGS if w != "-Wstrict-prototypes"],
                f"-I{ours}", f"-I{ROOT}/host-lib", f"-I{ROOT}/linearize", "-include", header, "/dev/null")

    @check("initialisers compile as C++")
    def _():
        code = '#include "hard.pb-c.h"\n#include "all3.pb-c.h"\n' \
               "Test__Hard__Names a = TEST__HARD__NAMES__INIT;\n" \
               "Test__All3__Pick b = TEST__ALL3__PICK__INIT;\n"
        run("g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers",
            "-Wno-deprecated-declarations", f"-I{ours}",
            "-x", "c++", "-", input=code)

    @check("comments are carried over")
    def _():
        header = (ours / "all3.pb-c.h").read_text()
        for text in ["Größe, 大きさ, размер: comments are UTF-8.", "The package's own comment."]:
            if text not in header:
                raise RuntimeError(f"all3.pb-c.h lacks: {text}")
        if "in the middle" not in (ours / "all2.pb-c.h").read_text():
            raise RuntimeError("a trailing comment is lost")

    for bad, expected in BAD.items():
        @check(f"refused: {bad}")
        def _():
            try:
                protoc(tmp / "bad", [bad])
            except RuntimeError as error:
                if expected in str(error):
                    return "good"
                raise
            raise RuntimeError("it was taken")

    @check("unknown options are refused")
    def _():
        try:
            protoc(tmp / "bad", ["all3.proto"], "messages,mesages")
        except RuntimeError as error:
            if "unknown option 'mesages'" in str(error):
                return "good"
            raise
        raise RuntimeError("it was taken")

sys.exit(1 if failures else 0)
