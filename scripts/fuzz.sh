#!/usr/bin/env bash
# Runs every fuzz target of every `fuzz/` folder for FUZZ_SECONDS each.
set -euo pipefail

cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "make fuzz needs cargo-fuzz: cargo install cargo-fuzz" >&2
  exit 1
fi
if ! rustup run nightly rustc --version >/dev/null 2>&1; then
  echo "make fuzz needs the nightly toolchain: rustup toolchain install nightly" >&2
  exit 1
fi
ran=0
for folder in */fuzz; do
  [ -e "$folder/Cargo.toml" ] || continue
  for target in $(cd "$folder/.." && cargo +nightly fuzz list); do
    echo "== $folder: $target for $seconds s"
    (cd "$folder/.." && cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -verbosity=0 -print_final_stats=1)
    ran=$((ran + 1))
  done
done
echo "$ran fuzz targets ran, none found a fault"
