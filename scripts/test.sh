#!/usr/bin/env bash
# All tests: builds everything, runs every suite, shows cargo's own output as it comes, ends with a summary.
#   usage: scripts/test.sh [arguments of cargo test]
set -uo pipefail

cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
started=$SECONDS

say() { printf '\n== %s (%d s)\n' "$*" "$((SECONDS - started))"; }

say "building"
# With the tests, so that features are chosen as `cargo test` chooses them and nothing is built twice. The micro-benchmarks
# are built, not run.
cargo build --workspace --bins --tests --bench '*' --locked || exit 1
say "testing"
# Suites run one after another; within one, a few tests at a time: each may start a cluster of its own.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) > 4 ? 4 : $(nproc)))}
cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$log"
code=${PIPESTATUS[0]}
say "end to end on Kubernetes"
if [ "${SKIP_E2E:-}" = 1 ]; then
  echo "NOT RUN: the charts and every scenario on a cluster. Nothing here says that they work. ${SKIP_E2E_WHY:-SKIP_E2E=1}"
else
  scripts/install-deps.sh e2e && scripts/e2e.sh 2>&1 | tee -a "$log"
  for e2e in "${PIPESTATUS[@]}"; do if [ "$e2e" != 0 ]; then code=1; fi; done
fi
if [ "$code" != 0 ]; then
  say "once more what failed"
  scripts/retry.sh "$log" >>"$log"
fi
say "summary"
if [ "${SKIP_E2E:-}" = 1 ]; then echo "  without the end-to-end tests: ${SKIP_E2E_WHY:-SKIP_E2E=1}"; fi
scripts/summary.sh "$log" "$code"
