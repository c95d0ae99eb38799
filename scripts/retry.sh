#!/usr/bin/env bash
# Runs once more, each alone, the tests of clusters and drivers that failed: on a machine that does other things they may be
# late without anything being wrong. Prints `flaky SUITE: TEST` for each that passes then; the summary shows them. Unit
# tests get no second try, nor does anything when more than ten failed.
#   usage: scripts/retry.sh LOG
set -uo pipefail

cd "$(dirname "$0")/.."
root=$PWD
failed=$(awk '
  /^ *Running tests\// { suite = $2; exe = $NF; gsub(/[()]/, "", exe) }
  /^ *Running unittests/ || /^ *Doc-tests / { suite = "" }
  /^test .* \.\.\. FAILED/ && suite != "" { print suite, exe, $2 }' "$1")
[ -n "$failed" ] || exit 0
[ "$(wc -l <<<"$failed")" -le 10 ] || exit 0
while read -r suite exe name; do
  [[ $exe = /* ]] || exe=$root/$exe
  for package in */; do
    [ -f "$package$suite" ] || continue
    file=$(basename "$exe" | sed 's/-[0-9a-f]*$//')
    echo "once more, alone: $file: $name" >&2
    if (cd "$package" && CARGO_MANIFEST_DIR=$PWD "$exe" --exact "$name" --nocapture >&2); then
      echo "flaky $file ($suite): $name"
    fi
  done
done <<<"$failed"
