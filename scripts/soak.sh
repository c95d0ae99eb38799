#!/usr/bin/env bash
# Repeats the failover, leak and long-run suites for SOAK_MINUTES with full lengths; stops at the first failure.
set -euo pipefail

cd "$(dirname "$0")/.."
end=$((SECONDS + 60 * ${SOAK_MINUTES:-60}))
export SOAK=1
cargo build --workspace --bins --locked
rounds=0
while [ $SECONDS -lt $end ]; do
  rounds=$((rounds + 1))
  echo "== round $rounds, $(((end - SECONDS) / 60)) minutes left"
  cargo test --locked -p pgstmtpool-tests --test failover --test vanish --test leaks --test long_run
done
echo "soak: $rounds rounds, no failure"
