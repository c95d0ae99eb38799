#!/usr/bin/env bash
# Instructions the proxy itself needs for a statement (not the kernel's), counted by callgrind: they hardly depend on what else the
# machine does, so they show what a change costs or gains where times do not. Wants valgrind and a release build.
#   usage: scripts/instructions.sh [WORKLOAD...]    (default: all of one one_client simple prepared transactions updates pipeline logins)
#   PROXY=path another build; TOP=n the n functions that take most
set -euo pipefail
cd "$(dirname "$0")/.."
proxy=$(realpath "${PROXY:-${CARGO_TARGET_DIR:-target}/release/pgstmtpool-proxy}")
command -v valgrind >/dev/null || { echo "missing: valgrind (Debian's package of that name)" >&2; exit 1; }
[ -x "$proxy" ] || { echo "missing: $proxy (cargo build --release, or PROXY=path)" >&2; exit 1; }
. scripts/loads.sh

echo "starting PostgreSQL and filling it"
stand_up

count() { # workload clients transactions statements-in-each
  local name=$1 clients=$2 each=$3 statements=$4 out="$at/$1.out" load
  workload "$name"
  start_proxy valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file="$out" "$proxy"
  "$bin/pgbench" -n -p "$port" -c "$clients" -t $((each / 5 + 1)) "${load[@]}" >/dev/null 2>&1
  sleep 1 # the catalog is read meanwhile
  callgrind_control -i on "$pid" >/dev/null 2>&1
  "$bin/pgbench" -n -p "$port" -c "$clients" -t "$each" "${load[@]}" >/dev/null 2>&1
  callgrind_control -d "$pid" >/dev/null 2>&1
  stop_proxy
  local total
  total=$(awk '/^(totals|summary):/ { print $2; exit }' "$out.1")
  printf '%-14s %7d instructions a statement\n' "$name" $((total / (clients * each * statements)))
  [ -z "${TOP:-}" ] || callgrind_annotate "$out.1" | grep -E '^ *[0-9,]+ \(' | head -n "$TOP"
}

for workload in "${@:-all}"; do
  case $workload in one | all) count one 16 400 1 ;; esac
  case $workload in one_client | all) count one_client 1 3000 1 ;; esac
  case $workload in simple | all) count simple 16 400 1 ;; esac
  case $workload in prepared | all) count prepared 16 1000 1 ;; esac
  case $workload in transactions | all) count transactions 16 100 4 ;; esac
  case $workload in updates | all) count updates 16 300 1 ;; esac
  case $workload in pipeline | all) count pipeline 16 80 10 ;; esac
  case $workload in logins | all) count logins 4 300 1 ;; esac
done
