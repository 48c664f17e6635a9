#!/usr/bin/env bash
# clang-format (the pinned .clang-format) would change nothing. Usage: format.sh ROOT
set -u
cd "$1" || exit 1
git ls-files '*.c' '*.h' >/dev/null 2>&1 || { echo "not a git checkout"; exit 77; }
git ls-files -z '*.c' '*.h' | xargs -0 clang-format --dry-run --Werror 2>&1 | head -40
exit "${PIPESTATUS[1]}"
