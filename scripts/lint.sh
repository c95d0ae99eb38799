#!/usr/bin/env bash
# Format, clippy, documentation, and where cargo-deny is there or can be installed, licences and advisories.
set -uo pipefail

cd "$(dirname "$0")/.."
failed=()

step() {
  printf '== %s\n' "$*"
  "$@" || failed+=("$*")
}

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --features pgstmtpool-tests/kubernetes,pgstmtpool-tests/regress --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --locked --quiet
if ! cargo deny --version >/dev/null 2>&1; then
  echo "== installing cargo-deny"
  cargo install --locked --quiet cargo-deny || failed+=("cargo install cargo-deny")
fi
if cargo deny --version >/dev/null 2>&1; then
  step cargo deny --log-level error check bans licenses sources
  # The advisory database is fetched from the network: without one this is a warning, not a failure.
  cargo deny --log-level error check advisories || echo "warning: advisories not clean, or not reachable"
fi

if [ ${#failed[@]} -gt 0 ]; then
  printf '\nlint: %d failed\n' "${#failed[@]}"
  printf '  - %s\n' "${failed[@]}"
  exit 1
fi
printf '\nlint: all clean\n'
