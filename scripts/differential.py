#!/usr/bin/python3
"""Runs the codec's differential tests in turns, for scripts/differential.sh.

usage: differential.py DIRECTORY SECONDS

DIRECTORY has two build trees, release/ and sanitized/. Each program below runs in batches of about ten
seconds. What it does follows from its seeds alone, and each batch has seeds of its own: DIRECTORY/state.json keeps
the next one and the sums, written after each batch, so that a run that was stopped loses one batch and the next one goes
on with other seeds. Delete it to begin at 1. With 0 seconds the figures so far are printed. The first difference ends
the run with status 1: what the program said, and the command that shows it again, are in DIRECTORY/found/.
"""
import json
import os
import re
import subprocess
import sys
import time

BATCH_SECONDS = 10
PROGRESS_SECONDS = 60

# The test, the build, what a unit is, how many seeds a batch of `n` uses up.
PROGRAMS = [
    ("differential", "release", "schemas", lambda n: n),
    ("differential", "sanitized", "schemas", lambda n: n),
    ("cpp", "release", "schemas", lambda n: n),
    ("cpp", "sanitized", "schemas", lambda n: n),
    ("generated", "release", "messages of each type", lambda n: 16),
    ("generated", "sanitized", "messages of each type", lambda n: 16),
]

SUMMARY = re.compile(r"(\d+) inputs: (\d+) accepted, (\d+) refused")
LISTED = re.compile(r"^  (\S+) +(\d+)$", re.MULTILINE)


def say(text):
    print(f"differential: {text}", file=sys.stderr, flush=True)


class Program:
    def __init__(self, directory, entry, state):
        self.test, self.build, self.unit, self.seeds_used = entry
        self.name = f"{self.test}, {self.build}"
        self.path = f"{directory}/{self.build}/tests/linearize/linearize_{self.test}_test"
        self.sums = state.setdefault(self.name, {"seed": 1, "units": 0, "seconds": 0.0, "inputs": 0, "accepted": 0,
                                                 "listed": {}})

    def batch(self, directory):
        """True: nothing was found."""
        sums = self.sums
        rate = sums["units"] / sums["seconds"] if sums["seconds"] else 0
        # Where a batch has 2,000 units, the test wants each line of its list to be met: that is not known here.
        units = min(max(20, int(rate * BATCH_SECONDS)), 1999)
        command = [self.path, str(units), str(sums["seed"])]
        begin = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        summary = SUMMARY.search(done.stdout)
        if done.returncode != 0 or not summary:
            os.makedirs(f"{directory}/found", exist_ok=True)
            path = f"{directory}/found/{self.test}-{self.build}-{sums['seed']}"
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"# {' '.join(command)}: status {done.returncode}\n{done.stdout}")
            sys.stderr.write(done.stdout[-8000:])
            say(f"found something, kept in {path}; again with: {' '.join(command)}")
            return False
        sums["seconds"] += time.monotonic() - begin
        sums["seed"] += self.seeds_used(units)
        sums["units"] += units
        sums["inputs"] += int(summary.group(1))
        sums["accepted"] += int(summary.group(2))
        for name, n in LISTED.findall(done.stdout):
            sums["listed"][name] = sums["listed"].get(name, 0) + int(n)
        return True

    def report(self):
        sums = self.sums
        listed = ", ".join(f"{name} {n:,}" for name, n in sums["listed"].items() if n)
        return (f"{self.name}: {sums['seconds']:,.0f} s, {sums['units']:,} {self.unit}, {sums['inputs']:,} inputs "
                f"({sums['accepted']:,} accepted)" + (f"; listed differences: {listed}" if listed else ""))


def state_read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def state_write(path, state):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file, indent=1)
    os.replace(path + ".new", path)


def main():
    directory, seconds = os.path.relpath(sys.argv[1]), float(sys.argv[2])
    path = f"{directory}/state.json"
    state = state_read(path)
    programs = [Program(directory, entry, state) for entry in PROGRAMS]
    begin = last = time.monotonic()
    good, turn = True, 0
    try:
        while good and time.monotonic() - begin < seconds:
            good = programs[turn % len(programs)].batch(directory)
            turn += 1
            state_write(path, state)
            if time.monotonic() - last >= PROGRESS_SECONDS:
                last = time.monotonic()
                inputs = sum(p.sums["inputs"] for p in programs)
                say(f"{last - begin:,.0f} of {seconds:,.0f} s, {inputs:,} inputs in all")
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
    for program in programs:
        print(program.report())
    total = sum(p.sums["inputs"] for p in programs)
    hours = sum(p.sums["seconds"] for p in programs) / 3600
    print(f"in all: {hours:.2f} hours, {total:,} inputs, " +
          ("no difference but the listed ones" if good else "STOPPED AT A DIFFERENCE"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
