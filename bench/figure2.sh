#!/usr/bin/env bash
# Split gRPC's Figure 2 on this machine: split-perf isolation over its three message sizes, as a table, as JSON and as a plot.
#   bench/figure2.sh [--out FOLDER] [options of split-perf isolation]
# Writes FOLDER/figure2.json, .txt and .svg (default: the current folder). bench/README.md says how to read them. About ten minutes.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
out=.
if [ "${1:-}" = --out ]; then
	[ $# -ge 2 ] || die "--out needs a folder"
	out=$2
	shift 2
fi
[ -d "$out" ] && [ -w "$out" ] || die "--out $out: no such folder, or not writable"
need_root
packages_install build test
build_tree "$build" >&2
"$build/bench/split-perf" isolation --json "$@" >"$out/figure2.json" || die "split-perf isolation failed"
"$python" - "$out/figure2.json" <<'END' | tee "$out/figure2.txt"
import json, sys
rows = json.load(open(sys.argv[1]))["rows"]
print(f"{'system':15} {'bytes':>7} {'busy us':>9} {'':10} {'calls/s':>9} {'offered':>9} {'P75 us':>9} {'P90 us':>9} {'P99 us':>9} {'host':>5} {'daemon':>6} {'errors':>6}")
for r in rows:
    daemon = "" if r["daemon_util"] is None else f"{r['daemon_util']:.0%}"
    print(f"{r['system']:15} {r['bytes']:7} {r['busy_ns'] / 1e3:9.1f} {'antagonist' if r['antagonist'] else 'alone':10} {r['calls_per_s']:9.0f} "
          f"{r['offered_per_s']:9.0f} {r['p75_ns'] / 1e3:9.0f} {r['p90_ns'] / 1e3:9.0f} {r['p99_ns'] / 1e3:9.0f} {r['host_util']:5.0%} {daemon:>6} "
          f"{r['errors']:6}")
END
"$python" "$root/bench/figure2.py" "$out/figure2.json" "$out/figure2.svg"
