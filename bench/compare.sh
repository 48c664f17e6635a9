#!/usr/bin/env bash
# splitd's echo, a grpc++ async echo and nghttpd under the same h2load, interleaved and pinned alike.
#   bench/compare.sh [--json] [--runs N] [--seconds S] [--bytes N,N,…] [--shapes 8x16,64x1] [--port af_xdp|af_packet|tap] [--svg FILE]
# The head of bench/compare.py says how to read it. [--layout shared|split] puts splitd's host on the daemon's core or the client's.
set -u
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
need_root
packages_install build test
build_tree "$build" >&2
exec "$python" "$root/bench/compare.py" --build "$build" "$@"
