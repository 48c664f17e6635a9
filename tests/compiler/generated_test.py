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
