#!/bin/bash
# Runs the libFuzzer targets of tests/fuzz, built by clang in a tree of their own (build-fuzz/).
#
#   scripts/fuzz.sh TARGET SECONDS      one target of tests/fuzz/meson.build
#   scripts/fuzz.sh all SECONDS         every target, SECONDS each (default 60)
#
# New inputs go to build-fuzz/corpus/TARGET; the seeds in tests/fuzz/corpus stay as they are. What crashed a
# target is kept in build-fuzz/crashes, and the exit status is 1. Turn it into a regression test.
set -eu
. "$(dirname "$0")/lib.sh"

wanted=${1:-all} seconds=${2:-60}
case $seconds in
'' | *[!0-9]*) die "usage: scripts/fuzz.sh [TARGET|all [SECONDS]]" ;;
esac
fuzz=$root/build-fuzz
packages_install build test
CC=clang CXX=clang++ build_tree "$fuzz" -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false \
	-Dc_args=-fsanitize=fuzzer-no-link -Dwerror=false
if [ "$wanted" = all ]; then
	set -- $(find "$fuzz/tests/fuzz" -maxdepth 1 -type f -name 'fuzz_*' -perm -u+x -printf '%f\n' | sed 's/^fuzz_//' | sort)
else
	set -- "$wanted"
fi
mkdir -p "$fuzz/crashes"
failed=0
for target in "$@"; do
	[ -x "$fuzz/tests/fuzz/fuzz_$target" ] || die "no such target: $target"
	mkdir -p "$fuzz/corpus/$target"
	options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$fuzz/crashes/$target-")
	[ ! -f "$root/tests/fuzz/$target.dict" ] || options+=(-dict="$root/tests/fuzz/$target.dict")
	say "$target, $seconds s"
	if ! "$fuzz/tests/fuzz/fuzz_$target" "${options[@]}" "$fuzz/corpus/$target" "$root/tests/fuzz/corpus/$target" \
		>"$fuzz/$target.log" 2>&1; then
		tail -40 "$fuzz/$target.log" >&2
		failed=1
	fi
	tail -1 "$fuzz/$target.log"
done
exit $failed
