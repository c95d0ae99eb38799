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
  # Only that the database cannot be fetched is no failure.
  if cargo deny --log-level error fetch db; then
    step cargo deny --log-level error check advisories
  else
    echo "warning: the advisory database cannot be reached: NOT CHECKED"
  fi
fi

if [ ${#failed[@]} -gt 0 ]; then
  printf '\nlint: %d failed\n' "${#failed[@]}"
  printf '  - %s\n' "${failed[@]}"
  exit 1
fi
printf '\nlint: all clean\n'
