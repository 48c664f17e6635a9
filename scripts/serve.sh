#!/usr/bin/env bash
# Bring splitd and one example service up in a network namespace of their own, and keep them up.
#
#   scripts/serve.sh EXAMPLE [--port tap|af_packet|af_xdp] [--config FILE] [--ipv6] [--vlan N] [--daemon-core N] [--host-core N]
#
# Prints one line `ready netns=… address=… port=… splitd=PID host=PID socket=… prefix=…` once a call would be
# answered, runs until SIGTERM or SIGINT, and leaves nothing behind. `socket` is where further hosts attach,
# `prefix` what splitctl finds this splitd by. Point any client in that namespace at the address:
#   ip netns exec NETNS h2load …
set -u
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<-'END'
	usage: scripts/serve.sh EXAMPLE [options]
	  EXAMPLE                         echo, greeter: a program of examples/ (build/examples/EXAMPLE);
	                                  interop: grpc.testing.TestService (build/tests/interop/interop)
	  --port tap|af_packet|af_xdp     how splitd reaches the namespace (default tap)
	  --config FILE                   splitd configuration (default config/demo.json); device, sockets and
	                                  prefix are set by this script, the rest is taken as it is
	  --mtu N                         largest IP packet of the link (default: as in the configuration; where that names
	                                  none, 3400 on af_xdp, the largest it carries, and 1500 on the others)
	  --daemon-core N                 core of splitd's first worker (default: as in the configuration)
	  --host-core N                   core of the example (default: the last one)
	  --host-workers N                worker threads of the example (default 1)
	  --tls-cert FILE --tls-key FILE  serve TLS with this certificate (and its chain) and key, PEM
	  --tls-client-ca FILE            ask clients for a certificate of these authorities, PEM
	  --build DIR                     build folder to run from (default build/)
	  --no-setup                      neither install nor build; the build folder is ready
	  --ipv6                          the address is an IPv6 one (both are served)
	  --vlan N                        the namespace's side is VLAN N of the link
	  --log FILE                      where splitd's and the example's messages go (default: standard error)
	END
}

example= port=tap mtu= config=$root/config/demo.json daemon_core= host_core=$(($(nproc) - 1)) host_workers=1 setup=1 log= ipv6= vlan=0
tls_cert= tls_key= tls_client_ca=
need() { [ $# -ge 2 ] || { usage >&2; die "$1 needs a value"; }; }
while [ $# -gt 0 ]; do
	case $1 in
	--port) need "$@"; port=$2; shift ;;
	--config) need "$@"; config=$2; shift ;;
	--mtu) need "$@"; mtu=$2; shift ;;
	--daemon-core) need "$@"; daemon_core=$2; shift ;;
	--host-core) need "$@"; host_core=$2; shift ;;
	--host-workers) need "$@"; host_workers=$2; shift ;;
	--tls-cert) need "$@"; tls_cert=$(realpath -m "$2"); shift ;;
	--tls-key) need "$@"; tls_key=$(realpath -m "$2"); shift ;;
	--tls-client-ca) need "$@"; tls_client_ca=$(realpath -m "$2"); shift ;;
	--build) need "$@"; build=$(realpath -m "$2"); shift ;;
	--ipv6) ipv6=1 ;;
	--vlan) need "$@"; vlan=$2; shift ;;
	--log) need "$@"; log=$2; shift ;;
	--no-setup) setup= ;;
	-h | --help) usage; exit 0 ;;
	-*) usage >&2; die "unknown option $1" ;;
	*) [ -z "$example" ] || die "one example at a time: $example or $1"; example=$1 ;;
	esac
	shift
done
[ -n "$example" ] || { usage >&2; die "name an example: echo, greeter, interop"; }
case $port in tap | af_packet | af_xdp) ;; *) die "--port $port: expected tap, af_packet or af_xdp" ;; esac
case $mtu in *[!0-9]*) die "--mtu $mtu: expected a number of bytes" ;; esac
[ -r "$config" ] || die "--config $config: no such file, or not readable"
[ -n "$tls_cert" ] || [ -z "$tls_key$tls_client_ca" ] || die "--tls-key and --tls-client-ca go with --tls-cert"
[ -z "$tls_cert" ] || [ -n "$tls_key" ] || die "--tls-cert goes with --tls-key"
for f in "$tls_cert" "$tls_key" "$tls_client_ca"; do
	[ -z "$f" ] || [ -r "$f" ] || die "$f: no such file, or not readable"
done
need_root

if [ -n "$setup" ]; then
	packages_install build
	build_tree "$build"
fi
splitd=$build/daemon/splitd
service=$build/examples/$example
[ "$example" != interop ] || service=$build/tests/interop/interop
[ "$example" != exchange ] || service=$build/bench/exchange/exchange_host # a bench's, with its own configuration
[ -x "$splitd" ] || die "$splitd is missing: build first, or leave --no-setup away"
[ -x "$service" ] || die "no example named $example (looked for $service)"

ns=splitd-$$
work=$(mktemp -d /tmp/splitd-serve.XXXXXX)
address=198.18.0.2 client_address=198.18.0.1 tcp_port=
address6=2001:2::2 client_address6=2001:2::1
splitd_pid= host_pid=
cleaned=
cleanup() {
	local status=$? bad=
	[ -z "$cleaned" ] || return
	cleaned=1
	trap '' INT TERM HUP
	if [ -n "$host_pid" ]; then
		stop_pid "$host_pid" 10 || bad="$example ended with $?"
	fi
	if [ -n "$splitd_pid" ]; then
		stop_pid "$splitd_pid" 30 || bad="splitd ended with $?"
	fi
	ip netns del "$ns" 2>/dev/null
	rm -rf "$work"
	hugepages_restore
	if [ "$status" = 0 ] && [ -n "$bad" ]; then
		say "$bad"
		exit 1
	fi
}
trap cleanup EXIT
trap 'exit 0' INT TERM HUP

[ -z "$log" ] || exec 2>>"$log"
hugepages=1
hugepages_reserve 768 || hugepages=0

case $port in
tap) device="net_tap0,iface=sd0" ;;
af_packet) device="net_af_packet0,iface=sd0" ;;
af_xdp) device="net_af_xdp0,iface=sd0,start_queue=0,queue_count=1,busy_budget=0" ;;
esac

# The demo's configuration, bound to this namespace.
"$python" - "$config" "$work/splitd.json" "$device" "$work" "splitd-$$" "$hugepages" "$daemon_core" "$port" "$mtu" \
	"$tls_cert" "$tls_key" "$tls_client_ca" "$address6" "$ipv6" "$vlan" >"$work/port" <<'END' || die "cannot use $config"
import json, sys
source, target, device, work, prefix, hugepages, core, kind, mtu, cert, key, client_ca, address6, ipv6, vlan = sys.argv[1:]
try:
    with open(source) as f:
        config = json.load(f)
except ValueError as e:
    sys.exit(f"{source}: not JSON: {e}")
config.setdefault("eal", {}).update(devices=[device], file_prefix=prefix)
for port in config.get("ports", [])[:1]:
    port["device"] = device.split(",")[0]
    if ipv6:
        port.setdefault("addresses", []).append(address6 + "/64")
    if vlan != "0":
        port["vlan"] = int(vlan)
    if mtu or "mtu" not in port:
        port["mtu"] = int(mtu or (3400 if kind == "af_xdp" else 1500))
    link_mtu = port["mtu"]
config.setdefault("control", {})["socket"] = work + "/host.sock"
if hugepages == "0":
    config["eal"]["hugepages"] = False
    for host in config.get("hosts", []):
        host["hugepages"] = False
if core:
    config["workers"][0]["core"] = int(core)
    config["eal"]["main_core"] = int(core)
if cert:
    tls = config["listeners"][0].setdefault("tls", {})
    tls["certificates"] = [{"cert": cert, "key": key}]
    if client_ca:
        tls["client_ca"] = client_ca
if ipv6:
    first = config["listeners"][0]
    config["listeners"].append(dict(first, name=first["name"] + "-ipv6", address="::"))
with open(target, "w") as f:
    json.dump(config, f, indent=2)
tls = config["listeners"][0].get("tls")
probe = "" if not tls else "--tls-handshake" if "client_ca" in tls and tls.get("client_auth") != "optional" else "--tls"
print(config["listeners"][0]["port"], link_mtu, probe)
END
read -r tcp_port mtu probe <"$work/port"

ip netns add "$ns" || die "cannot make a network namespace"
"$root/scripts/in-netns" "$ns" ip link set lo up
# client_addresses IF: the client's addresses on its interface, or on that one's VLAN.
client_addresses() {
	local dev=$1
	if [ "$vlan" != 0 ]; then
		dev=$1.$vlan
		"$root/scripts/in-netns" "$ns" ip link add link "$1" name "$dev" type vlan id "$vlan" || die "cannot make VLAN $vlan"
		[ -n "$ipv6" ] || "$root/scripts/in-netns" "$ns" sysctl -qw "net/ipv6/conf/$dev/disable_ipv6=1" 2>/dev/null
		"$root/scripts/in-netns" "$ns" ethtool -K "$dev" tx off >/dev/null 2>&1
		"$root/scripts/in-netns" "$ns" ip link set "$dev" up
	fi
	"$root/scripts/in-netns" "$ns" ip addr add "$client_address/24" dev "$dev"
	[ -z "$ipv6" ] || "$root/scripts/in-netns" "$ns" ip addr add "$client_address6/64" dev "$dev" nodad
}
if [ "$port" != tap ]; then
	"$root/scripts/in-netns" "$ns" ip link add cl0 type veth peer name sd0 || die "cannot make a veth pair"
	for i in cl0 sd0; do
		[ "$i$ipv6" = cl01 ] || "$root/scripts/in-netns" "$ns" sysctl -qw "net.ipv6.conf.$i.disable_ipv6=1" 2>/dev/null
		"$root/scripts/in-netns" "$ns" ethtool -K "$i" tx off >/dev/null 2>&1
		"$root/scripts/in-netns" "$ns" ip link set "$i" mtu "$mtu" up || die "--mtu $mtu: the link does not take it"
	done
	client_addresses cl0
fi

"$root/scripts/in-netns" "$ns" "$splitd" -c "$work/splitd.json" >"$work/splitd.out" &
splitd_pid=$!
# wait_for FILE WORD PID WHAT: until WORD stands in FILE, at most 60 s, while PID lives.
wait_for() {
	local left=600
	until grep -q "$2" "$1" 2>/dev/null; do
		kill -0 "$3" 2>/dev/null || die "$4 ended before it was ready"
		left=$((left - 1))
		[ "$left" -gt 0 ] || die "$4 was not ready within 60 s"
		sleep 0.1
	done
}
wait_for "$work/splitd.out" '^splitd: ready' "$splitd_pid" splitd
if [ "$port" = tap ]; then
	[ -n "$ipv6" ] || "$root/scripts/in-netns" "$ns" sysctl -qw net.ipv6.conf.sd0.disable_ipv6=1 2>/dev/null
	"$root/scripts/in-netns" "$ns" ethtool -K sd0 tx off >/dev/null 2>&1
	"$root/scripts/in-netns" "$ns" ip link set sd0 mtu "$mtu" up || die "--mtu $mtu: the link does not take it"
	client_addresses sd0
fi
"$service" --socket "$work/host.sock" --name "$example" --workers "$host_workers" --cores "$host_core" >"$work/host.out" &
host_pid=$!
wait_for "$work/host.out" '^attached' "$host_pid" "$example"
[ -z "$ipv6" ] || address=[$address6]
"$root/scripts/in-netns" "$ns" "$python" "$root/tests/e2e/probe.py" "$address:$tcp_port" "$example" ${probe:+"$probe"} || die "no answer from $address:$tcp_port"

printf 'ready netns=%s address=%s port=%s splitd=%s host=%s socket=%s prefix=%s\n' \
	"$ns" "$address" "$tcp_port" "$splitd_pid" "$host_pid" "$work/host.sock" "splitd-$$"
wait -n "$splitd_pid" "$host_pid"
die "splitd or $example ended by itself"
