#!/usr/bin/env bash
# Runs every fuzz target of every `fuzz/` folder for FUZZ_SECONDS each.
set -euo pipefail

cd "$(dirname "$0")/.."
for run in */fuzz/run.sh; do
  "$run" "${FUZZ_SECONDS:-60}"
done
echo "none of the fuzz targets found a fault"
