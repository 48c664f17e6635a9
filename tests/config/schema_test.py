#!/usr/bin/python3
"""Holds splitd.schema.json against the parser.

The two judge the same documents: good ones, and each of them with one value replaced, one key removed,
added or renamed, at every place that the schema knows. Where the schema says no, the parser must. Where
the parser says no and the schema yes, each finding must be of a kind that a schema cannot express (BEYOND).
Both files that are printed from the parser's table must be what the table prints now.

usage: schema_test.py CONFIG_CHECK CONFIG_DOC SOURCE_ROOT [--all]
(--all judges every change, about 40,000 documents in half a minute, instead of a fixed part of them)
"""
import copy
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

import jsonschema

# What only the parser can see: ranges behind units, other keys, names, duplicates.
BEYOND = [
    r'is "[0-9]+(B|KiB|MiB|GiB|ns|us|ms|s|min|h|)", expected (a size|a duration|[0-9])',
    r'is "[0-9a-fA-F:.]*(/[0-9]+)?", expected (an address with its prefix|an IPv4 or IPv6)',
    r"core [0-9]+ is that of workers",
    r"[0-9]+ queues for [0-9]+ workers",
    r"names [0-9]+ workers, expected one for each",
    r"expected the index of one of",
    r"has queue [0-9]+ already",
    r"(stands here|is named) twice",
    r"is the (name|device) of [a-z]+\[[0-9]+\] too",
    r"does not stand in eal\.devices",
    r"frames of MTU",
    r"do not fill the descriptors",
    r"is not one of an interface",
    r"on none of the port's networks",
    r"is the port's own address",
    r"cannot be an interface's",
    r"is IPv[46], expected an IPv[46] address",
    r"is too small for IPv6",
    r"is ports\[[0-9]+\]\.addresses\[[0-9]+\] too",
    r"too small for the packet buffers",
    r"rto_min <= rto_initial <= rto_max",
    r"is not less than rto_min",
    r"needs window scaling",
    r"does not fit behind headers",
    r"is more than (streams_total_max|http2\.memory|http2\.header_bytes_max|lane_slots|workers_max)",
    r"is taken by listeners",
    r"belongs to no port",
    r"stands beside other names",
    r"is no (service|host), expected a name",
    r"rings alone take",
    r"is no multiple of a hugepage",
    r"expected a power of two",
    r"do not fit into linear_bytes_max",
    r"leaves less than linear_bytes_max",
    r"lets nobody in: no listener",
    r"is mutual, expected cert, key and ca",
    r"expected a remote\.port by which they come",
    r"is of certificates, expected (remote\.tls|remote to be true)",
    r"expected client_ca with it",
    r"beside a client_ca",
    r"are of TLS 1\.2, which min_version leaves out",
    r"expected one for each of hosts",
    r"expected the name of a metadata entry",
    r"expected numbers of at most \d+ fields",
    r"expected consistent_hash with it",
    r"are nothing to round_robin",
    r"is less than time",
    r"is less than linear_bytes_max",
]
BEYOND_RE = re.compile("|".join(BEYOND))

VALUES = [
    None, True, False, 0, 1, -1, 2, 63, 64, 1.0, 1.5, 1e3, 4294967295, 2**53, -(2**53), "", "0", "x",
    "64MiB", "1KiB", "0B", "15ms", "1h", "01s", "1 s", "-1s", "1.5s", "5m", "64MB", "99999999GiB",
    "198.18.0.2", "198.18.0.9", "198.18.0.2/24", "198.018.0.2", "256.1.1.1", "2001:db8::1", "::/0",
    "1::2::3", "198.18.0.2/33", "02:00:00:00:00:01", "02:00:00:00:00", "0660", "0999", "660", "a.B",
    "a..B", ".a", "9a", "split.examples.Echo", "echo", "nobody", "*", "a b", "/run/x", "run/x", "/",
    "auto", "poll", "debug", "é", "\x7f", "n" * 63, "n" * 64, "n" * 255, "n" * 256, "/" + "p" * 106,
    "/" + "p" * 107, [], {}, [0], ["x"], [None], ["*"], [0, 0], [{}], {"x": 1}, list(range(70)),
]


def subschemas(root, schema, value, path):
    """(path, schema) for each place of `value` that the schema describes."""
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].lstrip("#/").split("/"):
            target = target[part]
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    yield path, schema
    if isinstance(value, dict):
        for key, sub in schema.get("properties", {}).items():
            default = {} if "$ref" in sub else [] if sub.get("type") == "array" else None
            yield from subschemas(root, sub, value.get(key, default), path + [key])
    elif isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from subschemas(root, schema["items"], item, path + [i])


def replaced(document, path, value):
    """A copy of `document` with the value at `path`, objects on the way made where absent."""
    if not path:
        return value
    document = copy.deepcopy(document)
    at = document
    for part in path[:-1]:
        if isinstance(at, dict) and part not in at:
            at[part] = {}
        at = at[part]
    at[path[-1]] = value
    return document


def removed(document, path):
    document = copy.deepcopy(document)
    at = document
    for part in path[:-1]:
        if isinstance(at, dict) and part not in at:
            return None
        at = at[part]
    if isinstance(at, dict) and path[-1] not in at:
        return None
    del at[path[-1]]
    return document


def mutations(root, document):
    for path, schema in list(subschemas(root, root, document, [])):
        values = list(VALUES) if path else [None, 1, "x", [], {}, [1]]
        for bound in ("minimum", "maximum"):
            if bound in schema:
                values += [schema[bound] - 1, schema[bound], schema[bound] + 1]
        values += schema.get("enum", [])
        if "default" in schema:
            values.append(schema["default"])
        for value in values:
            yield replaced(document, path, value)
        if path:
            gone = removed(document, path)
            if gone is not None:
                yield gone
        if schema.get("type") == "object" and path:
            yield replaced(document, path + ["unknown"], 1)


def verdicts(config_check, documents, directory):
    """For each document: (good, findings) of the parser."""
    names = []
    for i, document in enumerate(documents):
        name = os.path.join(directory, f"{i}.json")
        with open(name, "w", encoding="utf-8") as f:
            json.dump(document, f, ensure_ascii=False)
        names.append(name)
    result = {}
    for start in range(0, len(names), 1000):
        out = subprocess.run([config_check, "--any-machine"] + names[start:start + 1000],
                             stdout=subprocess.PIPE, check=False, text=True)
        if out.returncode not in (0, 1):
            sys.exit(f"config_check ended with {out.returncode}")
        for line in out.stdout.splitlines():
            name, rest = line.split(":", 1)
            good, findings = result.get(name, (None, []))
            if rest in (" good", " bad"):
                good = rest == " good"
            else:
                findings.append(rest)
            result[name] = (good, findings)
    for name in names:
        os.unlink(name)
    return [result[name] for name in names]


def judge(validator, config_check, documents, directory, count):
    wrong = 0
    for document, (good, findings) in zip(documents, verdicts(config_check, documents, directory)):
        schema_good = validator.is_valid(document)
        beyond = bool(findings) and all(BEYOND_RE.search(f) for f in findings)
        kind = "both good" if schema_good and good else "both bad" if not schema_good and not good else None
        if kind is None and schema_good and not good and beyond:
            kind = "parser only"
        if kind is None or (good and findings) or (not good and not findings):
            wrong += 1
            if wrong <= 10:
                print("schema:", "good" if schema_good else
                      [e.message[:120] for e in validator.iter_errors(document)][:2],
                      "parser:", "good" if good else findings[:3],
                      json.dumps(document)[:2000])
            continue
        count[kind] = count.get(kind, 0) + 1
    return wrong


def check_printed(config_doc, root):
    def printed(what):
        return subprocess.run([config_doc, what], stdout=subprocess.PIPE, check=True, text=True).stdout

    with open(os.path.join(root, "config/splitd.schema.json"), encoding="utf-8") as f:
        if f.read() != printed("schema"):
            print("config/splitd.schema.json is old: config-doc schema > config/splitd.schema.json")
            return 1
    with open(os.path.join(root, "docs/CONFIG.md"), encoding="utf-8") as f:
        if not f.read().endswith(printed("reference")):
            print("docs/CONFIG.md does not end with what config-doc reference prints")
            return 1
    return 0


def main():
    config_check, config_doc, root = sys.argv[1:4]
    every = sys.argv[4:] == ["--all"]
    wrong = check_printed(config_doc, root)
    with open(os.path.join(root, "config/splitd.schema.json"), encoding="utf-8") as f:
        schema = json.load(f)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    files = [os.path.join(root, "config/demo.json")]
    files += sorted(glob.glob(os.path.join(root, "config/examples/*.json")))
    count = {}
    with tempfile.TemporaryDirectory() as directory:
        good = []
        for name in files:
            with open(name, encoding="utf-8") as f:
                good.append(json.load(f))
        for name, document, (fine, findings) in zip(files, good, verdicts(config_check, good, directory)):
            if not fine or not validator.is_valid(document):
                print(f"{name}: must be good: {findings}")
                wrong += 1
        # Changes of a plain and of a rich example; the others are held as they stand.
        rich = good[files.index(os.path.join(root, "config/examples/placement.json"))]
        for document, step in ((good[0], 1 if every else 3), (rich, 1 if every else 7)):
            wrong += judge(validator, config_check, list(mutations(schema, document))[::step], directory,
                           count)
    print(", ".join(f"{n} {kind}" for kind, n in sorted(count.items())), f"{wrong} wrong")
    if min(count.get(k, 0) for k in ("both good", "both bad", "parser only")) < 100:
        sys.exit("too few documents of a kind: the test has lost its teeth")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
