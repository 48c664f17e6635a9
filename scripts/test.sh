#!/usr/bin/env bash
# Set-up and every test. The last line is `N passed, N failed, N skipped`.
#
#   scripts/test.sh            all of it: unit, the models' mutations, clang-tidy, end to end, unit and end to end
#                              again under ASan and UBSan, the fuzz targets' seeds (most of an hour on two cores)
#   scripts/test.sh --unit     the unit suite alone (under two minutes)
#   scripts/test.sh --long     all, and the minute- and hour-long ones
#   --retry                    with any of these: what failed runs once more, alone, and says so (CI's machines are shared)
set -u
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tier=all retry=
for option in "$@"; do
	case $option in
	--unit) tier=unit ;;
	--long) tier=long ;;
	--retry) retry=1 ;;
	*) die "usage: scripts/test.sh [--unit | --long] [--retry]" ;;
	esac
done
need_root
packages_install build test
trap hugepages_restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# Two instances of the demo's configuration beside each other, and what unit tests map.
hugepages_reserve 2048

asan=$root/build-asan
logs=()
# run_suite LOGNAME DIR [meson test arguments...]
run_suite() {
	local name=$1 dir=$2
	shift 2
	say "running: $name"
	meson test -C "$dir" --no-rebuild --logbase "$name" --print-errorlogs "$@" 2>&1 | tail -n +2
	logs+=("$dir/meson-logs/$name.json")
	[ -n "$retry" ] || return 0
	local failed
	rm -f "$dir/meson-logs/$name-again.json"
	mapfile -t failed < <("$python" "$root/scripts/test_summary.py" --failed "$dir/meson-logs/$name.json")
	[ ${#failed[@]} -gt 0 ] || return 0
	say "once more, alone: ${failed[*]}"
	meson test -C "$dir" --no-rebuild --logbase "$name-again" --print-errorlogs --num-processes 1 "$@" "${failed[@]}" 2>&1 | tail -n +2
}

# Check's own limits are against hanging: a shared machine may be many times slower than a quiet one.
export CK_TIMEOUT_MULTIPLIER=5
build_tree "$build"
run_suite unit "$build" --suite unit --timeout-multiplier 3
if [ "$tier" != unit ]; then
	run_suite model "$build" --suite model --timeout-multiplier 3
	run_suite lint "$build" --suite lint
	run_suite e2e "$build" --suite e2e --timeout-multiplier 2
	build_tree "$asan" -Db_sanitize=address,undefined -Db_lundef=false -Dfuzz=true -Doptimization=1
	export CK_TIMEOUT_MULTIPLIER=20
	export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
	export LSAN_OPTIONS=suppressions=$root/tests/lsan.supp:print_suppressions=0
	run_suite unit-asan "$asan" --suite unit --timeout-multiplier 10
	# Suite `once`: the same code by another port, scripts and measurements, which teach the sanitizers nothing new.
	run_suite e2e-asan "$asan" --suite e2e --no-suite once --timeout-multiplier 4
	run_suite fuzz "$asan" --suite fuzz --timeout-multiplier 4
fi
[ "$tier" != long ] || run_suite long "$build" --suite long --timeout-multiplier 0
"$python" "$root/scripts/test_summary.py" "${logs[@]}"
