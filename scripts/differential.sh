#!/bin/bash
# The codec against protobuf-c and C++ for as long as you like: random schemas × random messages × mutations, in a release
# build and under ASan and UBSan.
#
#   scripts/differential.sh SECONDS     go on for so long, then print the figures
#   scripts/differential.sh report      print the figures so far
#
# Both builds are kept in build-differential/, and beside them what scripts/differential.py (which see) writes down: a later
# run goes on where the last one ended. Exit status 1: a difference was found.
set -eu
. "$(dirname "$0")/lib.sh"

out=$root/build-differential
case ${1:-} in
report) exec "$python" "$root/scripts/differential.py" "$out" 0 ;;
'' | *[!0-9]*) die "usage: scripts/differential.sh SECONDS|report" ;;
esac
packages_install build test
mkdir -p "$out"
build_targets=(tests/linearize/linearize_{differential,cpp,generated}_test)
build_tree "$out/release"
build_tree "$out/sanitized" -Db_sanitize=address,undefined -Db_lundef=false
exec "$python" "$root/scripts/differential.py" "$out" "$1"
