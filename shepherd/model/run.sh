#!/bin/sh
# Check a model: run.sh MODEL.pml hold|fail [-DNAME…]. Exits 0 when spin finds no error and it should
# hold, or finds one and it should fail (a mutation: the model can tell).
set -eu
model=$(realpath "$1")
expected=$2
shift 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT INT TERM
cd "$dir"
spin -a "$@" "$model" >spin.out 2>&1 || { cat spin.out; exit 1; }
cc -O1 -w -DSAFETY -DVECTORSZ=2048 -DCOLLAPSE -o pan pan.c
./pan -m1000000 -w24 >pan.out 2>&1 || { cat pan.out; exit 1; }
grep -q '^State-vector' pan.out || { cat pan.out; exit 1; }
if grep -q 'errors: 0' pan.out; then found=hold; else found=fail; fi
# A search that was cut short proves nothing.
if [ "$found" = hold ] && grep -qE 'max search depth too small|Search not completed' pan.out; then
	cat pan.out
	exit 1
fi
grep -E 'errors:|states, stored' pan.out
if [ "$found" != "$expected" ]; then
	cat pan.out
	echo "expected to $expected: $(basename "$model") $*"
	exit 1
fi
