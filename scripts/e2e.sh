#!/usr/bin/env bash
# End to end on Kubernetes: the charts, then every scenario on one cluster: that of KUBECONFIG (E2E_LOAD: a command that
# loads an image archive into it), else the local one of tests/kubernetes, which needs root and cgroups.
# E2E_RELEASE=1: the programs as images/static.sh makes them for the image, instead of debug builds. E2E_RECORD=1: what was measured
# goes into docs/BENCHMARKS.md.
#   usage: scripts/e2e.sh [name of a test, and other arguments of the test program]
set -euo pipefail

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
if [ "${E2E_RECORD:-}" = 1 ] && [ $# != 0 ]; then
  echo "scripts/e2e.sh: E2E_RECORD=1 is for all scenarios, not for one" >&2
  exit 2
fi
if [ -z "${KUBECONFIG:-}" ] && ! tests/kubernetes/cluster.sh check; then
  echo "make e2e: set KUBECONFIG (and E2E_LOAD) to use a cluster of yours; SKIP_E2E=1 leaves this part of make test out" >&2
  exit 1
fi
tests/kubernetes/build.sh >/dev/null
export E2E_EVIDENCE=$target/e2e-failed
rm -rf "$E2E_EVIDENCE"

if [ "${E2E_RECORD:-}" = 1 ]; then
  E2E_NUMBERS=$(mktemp)
  export E2E_NUMBERS
fi
# All of the workspace, and programs together with tests: otherwise cargo would build the same libraries again with other
# features. `cargo test` with these two alone would do so, too, therefore they are run as they were built.
built=$(cargo build --workspace --bins --test charts --test e2e --features pgstmtpool-tests/kubernetes --locked \
  --message-format=json-render-diagnostics)
if [ "${E2E_RELEASE:-}" = 1 ]; then
  export PGSTMTPOOL_BIN=$target/e2e-programs
  images/static.sh "$PGSTMTPOOL_BIN"
  cp "$target/debug/e2e-load" "$PGSTMTPOOL_BIN/" # the workload, no part of the image
fi
code=0
for suite in charts.rs e2e/main.rs; do
  program=$(sed -n "s|.*/tests/tests/$suite\".*\"executable\":\"\([^\"]*\)\".*|\1|p" <<<"$built" | tail -n 1)
  [ -x "$program" ] || { echo "cargo did not say where it put tests/$suite" >&2; exit 1; }
  echo "     Running tests/$suite ($program)"
  (cd tests && CARGO_MANIFEST_DIR=$PWD "$program" --test-threads=1 "$@") || code=1
done
[ "$code" = 0 ] || exit 1

if [ "${E2E_RECORD:-}" = 1 ]; then
  build=debug how=
  if [ "${E2E_RELEASE:-}" = 1 ]; then build="static release" how="E2E_RELEASE=1 "; fi
  {
    sed '/^<!-- kubernetes: begin -->/,$d' docs/BENCHMARKS.md
    echo '<!-- kubernetes: begin -->'
    echo '## Kubernetes'
    echo
    echo "Measured by \`${how}E2E_RECORD=1 make e2e\` on $(date -u +%F): three nodes, control plane and workload on one machine with $(nproc) CPUs,"
    echo "$build builds, load average $(cut -d' ' -f3 /proc/loadavg) over the last 15 minutes, this run's own included. PostgreSQL 15 with"
    echo "\`durability: Required\`, \`failureThreshold: 6\`, \`probePeriod: 500ms\`; two proxies, eight clients that rest 10 ms after each statement."
    echo
    echo '| what | measured |'
    echo '|---|---|'
    cat "$E2E_NUMBERS"
    echo '| acknowledged writes lost, all scenarios together | 0 |' # else a scenario would have failed
    echo '<!-- kubernetes: end -->'
    if grep -q "^<!-- kubernetes: end -->" docs/BENCHMARKS.md; then sed "1,/^<!-- kubernetes: end -->/d" docs/BENCHMARKS.md; fi
  } >docs/BENCHMARKS.md.new
  mv docs/BENCHMARKS.md.new docs/BENCHMARKS.md
  rm -f "$E2E_NUMBERS"
fi
