# Shared by the scripts beside it: set-up, namespaces, hugepages. To be sourced by bash.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build
python=/usr/bin/python3

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() {
	say "$*"
	exit 1
}

need_root() {
	[ "$(id -u)" = 0 ] || die "needs root (network namespaces, hugepages); run it as root or with sudo"
}

# packages_install KIND...: installs what scripts/packages.txt lists under these kinds and is missing.
packages_install() {
	local kind wanted=() missing=() p has
	for kind in "$@"; do
		while read -r p has; do
			[ -n "$has" ] && command -v "$has" >/dev/null || wanted+=("$p")
		done < <(awk -v k="$kind" '$1 == k { print $2, $3 }' "$root/scripts/packages.txt")
	done
	for p in "${wanted[@]}"; do
		dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "missing packages and no apt-get to install them: ${missing[*]}"
	say "installing ${#missing[@]} Debian packages: ${missing[*]}"
	local log
	log=$(mktemp)
	if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
		tail -20 "$log" >&2
		rm -f "$log"
		die "apt-get could not install the packages above"
	fi
	rm -f "$log"
}

build_targets=() # what build_tree builds; nothing: all
# build_tree DIR [meson options...]: configures DIR once and builds it.
build_tree() {
	local dir=$1
	shift
	if [ ! -f "$dir/build.ninja" ]; then
		say "configuring $(basename "$dir")/"
		meson setup "$@" "$dir" "$root" >"$dir.log" 2>&1 || {
			tail -20 "$dir.log" >&2
			rm -f "$dir.log"
			die "meson setup failed (a missing package?)"
		}
		rm -f "$dir.log"
	fi
	say "building $(basename "$dir")/"
	if [ -t 2 ]; then
		ninja -C "$dir" "${build_targets[@]}" >&2 || die "the build failed"
	else
		ninja -C "$dir" "${build_targets[@]}" >"$dir/build.log" 2>&1 || {
			tail -40 "$dir/build.log" >&2
			die "the build failed"
		}
	fi
}

hugepages_raised=0
# hugepages_reserve MIB: makes MIB of 2 MiB hugepages free. Returns 1, with one line, where the machine has none to give.
hugepages_reserve() {
	local want=$(($1 / 2)) free nr after
	free=$(awk '/^HugePages_Free/ { print $2 }' /proc/meminfo)
	[ -n "$free" ] || free=0
	[ "$free" -ge "$want" ] && return 0
	nr=$(cat /proc/sys/vm/nr_hugepages 2>/dev/null || echo 0)
	echo $((nr + want - free)) 2>/dev/null >/proc/sys/vm/nr_hugepages || true
	after=$(cat /proc/sys/vm/nr_hugepages 2>/dev/null || echo 0)
	hugepages_raised=$((hugepages_raised + after - nr))
	free=$(awk '/^HugePages_Free/ { print $2 }' /proc/meminfo)
	[ "${free:-0}" -ge "$want" ] && return 0
	hugepages_restore
	say "no hugepages: $1 MiB wanted, $((${free:-0} * 2)) MiB free; going on with normal pages (slower)"
	return 1
}

hugepages_restore() {
	[ "$hugepages_raised" -gt 0 ] || return 0
	local nr
	nr=$(cat /proc/sys/vm/nr_hugepages)
	echo $((nr - hugepages_raised)) >/proc/sys/vm/nr_hugepages 2>/dev/null || true
	hugepages_raised=0
}

# stop_pid PID SECONDS: TERM, then KILL past the time. Returns the exit status of PID when it is our child.
stop_pid() {
	local pid=$1 left=$(($2 * 10)) killed=
	[ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || { wait "$pid" 2>/dev/null; return; }
	kill -TERM "$pid" 2>/dev/null
	while kill -0 "$pid" 2>/dev/null; do
		[ "$left" -le 0 ] && { kill -KILL "$pid" 2>/dev/null; killed=1; break; }
		left=$((left - 1))
		sleep 0.1
	done
	[ -z "$killed" ] || say "process $pid did not end within $2 s of SIGTERM and was killed"
	wait "$pid" 2>/dev/null
}
