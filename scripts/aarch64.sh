#!/bin/bash
# The codec on aarch64 (NEON): linearize/ and its differential test, cross-compiled and run under qemu.
#
#   scripts/aarch64.sh [SCHEMAS [SEED]]
#
# Only linearize/ and what it stands on is built, by hand: DPDK and the rest would need a whole Debian of
# that architecture. protobuf-c comes from Debian's arm64 packages, unpacked beside it.
set -eu
. "$(dirname "$0")/lib.sh"

schemas=${1:-2000} seed=${2:-1}
out=$root/build-aarch64
packages_install aarch64
mkdir -p "$out/lists/partial" "$out/objects" "$out/include"
cd "$out"
if [ ! -d root ]; then
	say "fetching protobuf-c for arm64"
	apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists="$out/lists"
		-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
	{ "${apt[@]}" update && "${apt[@]}" download libprotobuf-c-dev; } >apt.log 2>&1 || die "no protobuf-c for arm64: see $out/apt.log"
	dpkg -x libprotobuf-c-dev_*.deb root
fi
ln -sfn "$out/root/usr/include/protobuf-c" include/protobuf-c
cd "$root"
flags=(-std=gnu11 -O2 -g -fno-strict-aliasing -D_GNU_SOURCE -I. -I"$out/include" -DSPLITD_VERSION='"aarch64"' -Wall -Wextra -Werror)
fast=(-fomit-frame-pointer -fno-gcse -fno-crossjumping -fno-jump-tables) # as linearize/meson.build
say "compiling linearize/"
for file in base/*.c linearize/*.c linearize/descriptor/*.c tests/linearize/{support,random_schema,check,engines,differential_test}.c; do
	extra=()
	case $file in *fast.c) extra=("${fast[@]}") ;; esac
	aarch64-linux-gnu-gcc "${flags[@]}" "${extra[@]}" -c "$file" -o "$out/objects/${file//\//_}.o"
done
aarch64-linux-gnu-gcc -static -o "$out/differential" "$out"/objects/*.o "$out"/root/usr/lib/aarch64-linux-gnu/libprotobuf-c.a -lpthread
say "differential, $schemas schemas, seed $seed"
qemu-aarch64 "$out/differential" "$schemas" "$seed"
