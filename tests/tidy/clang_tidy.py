#!/usr/bin/python3
"""clang-tidy's bugprone checks (.clang-tidy) over every C file of ours that the build compiles.

usage: clang_tidy.py ROOT BUILD [FILE...]    findings to standard output, exit status 1 when there are any
"""
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

FOLDERS = ("base", "config", "shepherd", "linearize", "daemon", "host-lib", "ctl", "examples", "bench")


def main():
    root, build = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    wanted = {pathlib.Path(f).resolve() for f in sys.argv[3:]}
    files = set()
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["directory"], entry["file"]).resolve()
        if path.suffix == ".c" and path.is_relative_to(root) and path.relative_to(root).parts[0] in FOLDERS:
            files.add(path)
    files = sorted(files & wanted if wanted else files)
    if not files:
        sys.exit("no C file of ours in compile_commands.json: is BUILD a build folder of ROOT?")

    # gcc's own flags mean nothing to clang.
    database = tempfile.TemporaryDirectory(prefix="splitd-tidy.")
    commands = (build / "compile_commands.json").read_text()
    for flag in ("-fno-crossjumping", "-fno-gcse"):
        commands = commands.replace(f" {flag} ", " ")
    pathlib.Path(database.name, "compile_commands.json").write_text(commands)

    def tidy(path):
        return path, subprocess.run(["clang-tidy", "-p", database.name, "--quiet", str(path)], capture_output=True, text=True)

    bad = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, done in pool.map(tidy, files):
            if done.returncode != 0:
                bad += 1
                print(f"== {path.relative_to(root)}\n{done.stdout}{done.stderr[-2000:]}")
    print(f"{len(files)} files, {bad} with findings")
    sys.exit(1 if bad else 0)


main()
