#!/usr/bin/env bash
# splitd from a fresh clone to answered calls, in one command: set-up, splitd and two example services in a
# namespace of their own, stock Python and C++ gRPC clients against them, the counters, clean-up.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<-'END'
	usage: scripts/demo.sh [--port tap|af_packet|af_xdp] [--daemon-core N] [--host-core N] [--stay]
	  --port    how splitd reaches its namespace (default tap)
	  --stay    leave everything running for you to try; Ctrl-C ends it
	  --build DIR, --no-setup   run from DIR (default build/); neither install nor build
	END
}
port=tap stay= setup=1 pass=()
while [ $# -gt 0 ]; do
	case $1 in
	--port) [ $# -ge 2 ] || { usage >&2; die "--port needs a value"; }; port=$2; shift ;;
	--daemon-core | --host-core) [ $# -ge 2 ] || { usage >&2; die "$1 needs a value"; }; pass+=("$1" "$2"); shift ;;
	--build) [ $# -ge 2 ] || { usage >&2; die "--build needs a value"; }; build=$(realpath -m "$2"); shift ;;
	--no-setup) setup= ;;
	--stay) stay=1 ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; die "unknown option $1" ;;
	esac
	shift
done
case $port in tap | af_packet | af_xdp) ;; *) die "--port $port: expected tap, af_packet or af_xdp" ;; esac
need_root

if [ -n "$setup" ]; then
	packages_install build
	build_tree "$build"
fi

work=$(mktemp -d /tmp/splitd-demo.XXXXXX)
serve_pid= greeter_pid= client_pid= cleaned=
cleanup() {
	[ -z "$cleaned" ] || return
	cleaned=1
	trap '' INT TERM HUP
	stop_pid "$client_pid" 5
	stop_pid "$greeter_pid" 5
	stop_pid "$serve_pid" 40
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "starting splitd (--port $port) and examples/echo in a namespace"
mkfifo "$work/ready"
# A session of its own: Ctrl-C reaches this script, which then ends things in order.
setsid "$root/scripts/serve.sh" echo --no-setup --build "$build" --port "$port" "${pass[@]}" >"$work/ready" 2>"$work/log" &
serve_pid=$!
read -r line <"$work/ready" || { cat "$work/log" >&2; die "splitd did not come up"; }
for word in $line; do
	case $word in
	netns=*) ns=${word#*=} ;;
	address=*) address=${word#*=} ;;
	port=*) tcp_port=${word#*=} ;;
	socket=*) socket=${word#*=} ;;
	prefix=*) prefix=${word#*=} ;;
	esac
done
target=$address:$tcp_port
grep -h 'no hugepages' "$work/log" >&2

say "starting examples/greeter beside it"
setsid "$build/examples/greeter" --socket "$socket" --name greeter >"$work/greeter" 2>>"$work/log" &
greeter_pid=$!
inside() { setsid "$root/scripts/in-netns" "$ns" "$@" & client_pid=$!; wait "$client_pid"; }
inside "$root/tests/e2e/probe.py" "$target" greeter || { cat "$work/log" >&2; die "greeter does not answer"; }

status=0
for example in greeter echo; do
	for client in "$root/tests/e2e/grpcio_client.py" "$build/tests/e2e/grpcpp_client"; do
		printf '\n== %s, driven by %s\n' "$example" "$(basename "$client")"
		inside "$client" "$target" --example "$example" || status=1
	done
done
printf '\n== one answer, in full: SayHello{name: "splitd"}\n'
inside "$python" "$root/examples/greeter/hello.py" "$target" splitd || status=1
printf '\n== splitd counters that are not zero (splitctl stats)\n'
"$build/ctl/splitctl" --prefix "$prefix" stats || status=1

if [ -n "$stay" ]; then
	cat <<-END

	splitd stays up. Try it from another terminal, as root:
	  $root/scripts/in-netns $ns $root/examples/greeter/hello.py $target you
	  $root/scripts/in-netns $ns h2load -n 10000 -c 8 -m 16 http://$target/healthz
	  $build/ctl/splitctl --prefix $prefix stats
	Ctrl-C ends it and cleans up.
	END
	wait "$serve_pid"
fi
if [ "$status" = 0 ]; then
	printf '\ndemo: every answer was right\n'
else
	cat "$work/log" >&2
	printf '\ndemo: some calls failed; see above\n'
fi
exit "$status"
