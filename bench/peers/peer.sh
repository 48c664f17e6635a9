#!/usr/bin/env bash
# A peer of a bench on the kernel's TCP: `PROGRAM ADDRESS:PORT` in a namespace of its own, joined to another one, the client's, by a veth pair
# with the kernel's offloads on (its best case). Up until SIGTERM.
#   bench/peers/peer.sh PROGRAM CORE MTU
# Prints `ready netns=… address=… port=… host=PID` once it listens; netns is the client's.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
[ $# = 3 ] || die "usage: bench/peers/peer.sh PROGRAM CORE MTU"
program=$1 core=$2 mtu=$3
need_root
[ -x "$program" ] || die "$program is missing: build first"
server_ns=splitd-peer-$$-s client_ns=splitd-peer-$$-c address=198.18.1.2 tcp_port=50052 pid=
work=$(mktemp -d /tmp/splitd-peer.XXXXXX)
cleanup() {
	trap '' INT TERM HUP
	[ -z "$pid" ] || stop_pid "$pid" 10
	ip netns del "$server_ns" 2>/dev/null
	ip netns del "$client_ns" 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 0' INT TERM HUP
in_server() { "$root/scripts/in-netns" "$server_ns" "$@"; }
in_client() { "$root/scripts/in-netns" "$client_ns" "$@"; }

ip netns add "$server_ns" && ip netns add "$client_ns" || die "cannot make network namespaces"
in_server ip link add sd0 type veth peer name cl0 netns "$client_ns" || die "cannot make a veth pair"
in_server ip addr add "$address/24" dev sd0
in_client ip addr add 198.18.1.1/24 dev cl0
in_server ip link set sd0 mtu "$mtu" up || die "an MTU of $mtu: the link does not take it"
in_client ip link set cl0 mtu "$mtu" up
in_client ip link set lo up
"$root/scripts/in-netns" "$server_ns" taskset -c "$core" "$program" "$address:$tcp_port" >"$work/out" &
pid=$!
left=150
until grep -q '^ready' "$work/out"; do
	kill -0 "$pid" 2>/dev/null || die "$program ended before it was ready"
	left=$((left - 1))
	[ "$left" -gt 0 ] || die "$program was not ready within 15 s"
	sleep 0.1
done
printf 'ready netns=%s address=%s port=%s host=%s\n' "$client_ns" "$address" "$tcp_port" "$pid"
wait -n "$pid"
die "$program ended by itself"
