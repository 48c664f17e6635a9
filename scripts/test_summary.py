#!/usr/bin/python3
"""Adds up meson's test logs: what failed, what was skipped and why, then `N passed, N failed, N skipped` last.

usage: test_summary.py LOG.json...   (meson-logs/NAME.json: one JSON object a line)
A log that is missing or empty counts as one failure: a suite that did not run has not passed.
"""
import json
import pathlib
import sys

passed, failed, skipped = 0, [], []
for name in sys.argv[1:]:
    path = pathlib.Path(name)
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    if not lines:
        failed.append(f"{path.stem}: no test ran")
    for line in lines:
        test = json.loads(line)
        label = f"{path.stem}: {test['name']}"
        if test["result"] in ("OK", "EXPECTEDFAIL"):
            passed += 1
        elif test["result"] == "SKIP":
            why = [t for t in (test.get("stdout") or "").splitlines() if t.startswith("skipped: ")]
            skipped.append(f"{label}: {why[-1][9:] if why else 'no reason given'}")
        else:
            failed.append(f"{label}: {test['result']}")
for label in failed:
    print(f"FAILED   {label}")
for label in skipped:
    print(f"skipped  {label}")
print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
sys.exit(1 if failed else 0)
