#!/usr/bin/env bash
# Instructions the proxy itself needs for a statement (not the kernel's), counted by callgrind: they hardly depend on what else the
# machine does, so they show what a change costs or gains where times do not. Wants valgrind and a release build.
#   usage: scripts/instructions.sh [WORKLOAD...]    (default: all of one one_client simple prepared transactions updates pipeline logins)
#   PROXY=path another build; TOP=n the n functions that take most
set -euo pipefail
cd "$(dirname "$0")/.."
proxy=$(realpath "${PROXY:-${CARGO_TARGET_DIR:-target}/release/pgstmtpool-proxy}")
command -v valgrind >/dev/null || { echo "missing: valgrind (Debian's package of that name)" >&2; exit 1; }
[ -x "$proxy" ] || { echo "missing: $proxy (make build, or PROXY=path)" >&2; exit 1; }
bin=${PGBIN:-$(find /usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -n 1)}
at=$(mktemp -d /tmp/pgstmtpool-instructions-XXXXXX)
user=()
if [ "$(id -u)" = 0 ]; then
  user=(setpriv --reuid=postgres --regid=postgres --init-groups --)
  chown postgres "$at"
fi
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) server=$(free_port) http=$(free_port) pid=
finish() {
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
  "${user[@]}" "$bin/pg_ctl" -D "$at/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$at"
}
trap finish EXIT
export PGHOST=127.0.0.1 PGUSER=postgres PGAPPNAME=count

echo "starting PostgreSQL and filling it"
"${user[@]}" "$bin/initdb" -D "$at/data" -A trust -U postgres >/dev/null
printf '%s\n' "port = $server" "unix_socket_directories = '$at'" "fsync = off" "autovacuum = off" >>"$at/data/postgresql.conf"
"${user[@]}" "$bin/pg_ctl" -D "$at/data" -l "$at/log" -w start >/dev/null
"$bin/pgbench" -i -q -s 5 -p "$server" postgres >/dev/null 2>&1
cat >"$at/pool.yaml" <<YAML
apiVersion: pgstmtpool.io/v1alpha1
kind: PgPool
metadata: {name: count}
spec:
  master: {name: a, host: 127.0.0.1, port: $server}
  adminSecretRef: {name: admin}
  auth: {hba: ["host all all all trust"]}
---
apiVersion: v1
kind: Secret
metadata: {name: admin}
stringData: {username: postgres, password: unused}
YAML
chmod 600 "$at/pool.yaml"
echo 'select 1;' >"$at/one"
printf '\\set a random(1, 500000)\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :a;\n' >"$at/update"
printf '\\set a random(1, 499999)\nbegin;\n%s\n%s\ncommit;\n' "select abalance from pgbench_accounts where aid = :a;" \
  "select abalance from pgbench_accounts where aid = :a + 1;" >"$at/tx"
{ echo '\startpipeline'; yes 'select 1;' | head -n 10 || true; echo '\endpipeline'; } >"$at/pipe"

count() { # name clients transactions statements-in-each pgbench's arguments
  local name=$1 clients=$2 each=$3 statements=$4
  shift 4
  local out="$at/$name.out"
  valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file="$out" "$proxy" --config "$at/pool.yaml" \
    --listen "127.0.0.1:$port" --http-listen "127.0.0.1:$http" >"$at/$name.log" 2>&1 &
  pid=$!
  for _ in $(seq 100); do psql -p "$port" -qAtc 'select 1' postgres >/dev/null 2>&1 && break; sleep 0.3; done
  "$bin/pgbench" -n -p "$port" -c "$clients" -t $((each / 5 + 1)) "$@" postgres >/dev/null 2>&1
  sleep 1 # the catalog is read meanwhile
  callgrind_control -i on "$pid" >/dev/null 2>&1
  "$bin/pgbench" -n -p "$port" -c "$clients" -t "$each" "$@" postgres >/dev/null 2>&1
  callgrind_control -d "$pid" >/dev/null 2>&1
  kill "$pid"
  wait "$pid" 2>/dev/null || true
  pid=
  local total
  total=$(awk '/^(totals|summary):/ { print $2; exit }' "$out.1")
  printf '%-14s %7d instructions a statement\n' "$name" $((total / (clients * each * statements)))
  [ -z "${TOP:-}" ] || callgrind_annotate "$out.1" | grep -E '^ *[0-9,]+ \(' | head -n "$TOP"
}

for workload in "${@:-all}"; do
  case $workload in one | all) count one 16 400 1 -f "$at/one" ;; esac
  case $workload in one_client | all) count one_client 1 3000 1 -f "$at/one" ;; esac
  case $workload in simple | all) count simple 16 400 1 -S ;; esac
  case $workload in prepared | all) count prepared 16 1000 1 -S -M prepared ;; esac
  case $workload in transactions | all) count transactions 16 100 4 -f "$at/tx" ;; esac
  case $workload in updates | all) count updates 16 300 1 -f "$at/update" ;; esac
  case $workload in pipeline | all) count pipeline 16 80 10 -M extended -f "$at/pipe" ;; esac
  case $workload in logins | all) count logins 4 300 1 -C -f "$at/one" ;; esac
done
