#!/usr/bin/python3
"""Adds up meson's test logs: what failed, what was skipped and why, then `N passed, N failed, N skipped` last.

usage: test_summary.py LOG.json...            (meson-logs/NAME.json: one JSON object a line)
       test_summary.py --failed LOG.json      the names of what failed, a line each

A log that is missing or empty counts as one failure: a suite that did not run has not passed. Beside NAME.json there may
be NAME-again.json (scripts/test.sh --retry): what failed in the first and passed in the second has passed, and is named.
"""
import json
import pathlib
import sys


def tests_of(path):
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def good(test):
    return test["result"] in ("OK", "EXPECTEDFAIL")


def name_of(test):
    return test["name"].split(" / ", 1)[-1]


def main():
    if sys.argv[1:2] == ["--failed"]:
        for test in tests_of(pathlib.Path(sys.argv[2])):
            if not good(test) and test["result"] != "SKIP":
                print(name_of(test))
        return 0
    passed, failed, skipped, again = 0, [], [], []
    for path in map(pathlib.Path, sys.argv[1:]):
        tests = tests_of(path)
        second = {name_of(t) for t in tests_of(path.with_name(path.stem + "-again.json")) if good(t)}
        if not tests:
            failed.append(f"{path.stem}: no test ran")
        for test in tests:
            label = f"{path.stem}: {name_of(test)}"
            if good(test):
                passed += 1
            elif test["result"] == "SKIP":
                why = [t for t in (test.get("stdout") or "").splitlines() if t.startswith("skipped: ")]
                skipped.append(f"{label}: {why[-1][9:] if why else 'no reason given'}")
            elif name_of(test) in second:
                passed += 1
                again.append(label)
            else:
                failed.append(f"{label}: {test['result']}")
    for label in again:
        print(f"second try  {label}: failed once, passed alone: look into it")
    for label in failed:
        print(f"FAILED   {label}")
    for label in skipped:
        print(f"skipped  {label}")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


sys.exit(main())
