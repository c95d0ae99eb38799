# shellcheck shell=bash
# Sourced by instructions.sh and profile.sh: a PostgreSQL of its own with pgbench's tables, a manifest for a proxy before it, and
# the workloads to run against that. All of it is in one folder, gone when the script ends.
bin=${PGBIN:-$(find /usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -n 1)}
[ -x "${bin:-/nowhere}/pgbench" ] || { echo "missing: pgbench and PostgreSQL (Debian: postgresql; or PGBIN=folder)" >&2; exit 1; }
at=$(mktemp -d /tmp/pgstmtpool-loads-XXXXXX)
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
export PGHOST=127.0.0.1 PGUSER=postgres PGAPPNAME=load PGDATABASE=postgres

# PostgreSQL, its tables, the manifest and the scripts of pgbench. User `scram` logs in by SCRAM, the others are trusted.
stand_up() {
  "${user[@]}" "$bin/initdb" -D "$at/data" -A trust -U postgres >/dev/null
  printf '%s\n' "port = $server" "unix_socket_directories = '$at'" "fsync = off" "autovacuum = off" >>"$at/data/postgresql.conf"
  "${user[@]}" "$bin/pg_ctl" -D "$at/data" -l "$at/log" -w start >/dev/null
  "$bin/pgbench" -i -q -s 5 -p "$server" >/dev/null 2>&1
  "$bin/psql" -p "$server" -qc "create role scram superuser login password 'secret'"
  cat >"$at/pool.yaml" <<YAML
apiVersion: pgstmtpool.io/v1alpha1
kind: PgPool
metadata: {name: load}
spec:
  master: {name: a, host: 127.0.0.1, port: $server}
  adminSecretRef: {name: admin}
  auth: {hba: ["host all scram all scram-sha-256", "host all all all trust"], userSecretRefs: [{name: scram}]}
---
apiVersion: v1
kind: Secret
metadata: {name: admin}
stringData: {username: postgres, password: unused}
---
apiVersion: v1
kind: Secret
metadata: {name: scram}
stringData: {username: scram, password: secret}
YAML
  chmod 600 "$at/pool.yaml"
  echo 'select 1;' >"$at/one"
  printf '\\set a random(1, 500000)\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :a;\n' >"$at/update"
  printf '\\set a random(1, 499999)\nbegin;\n%s\n%s\ncommit;\n' "select abalance from pgbench_accounts where aid = :a;" \
    "select abalance from pgbench_accounts where aid = :a + 1;" >"$at/tx"
  { echo '\startpipeline'; yes 'select 1;' | head -n 10 || true; echo '\endpipeline'; } >"$at/pipe"
  echo "select repeat('x', 1100) from generate_series(1, 1000);" >"$at/rows"
}

# pgbench's arguments for a workload, into the array `load`.
workload() {
  case $1 in
    one | one_client) load=(-f "$at/one") ;;
    simple) load=(-S) ;;
    prepared) load=(-S -M prepared) ;;
    extended) load=(-S -M extended) ;;
    rate) load=(-S -R 2000) ;;
    transactions) load=(-f "$at/tx") ;;
    tpcb) load=(-b tpcb-like) ;;
    updates) load=(-f "$at/update") ;;
    pipeline) load=(-M extended -f "$at/pipe") ;;
    rows) load=(-f "$at/rows") ;;
    logins) load=(-C -f "$at/one") ;;
    *) echo "no such workload: $1" >&2; exit 2 ;;
  esac
}

# Starts a proxy with this command, its process in `pid`, and waits until it answers.
start_proxy() {
  "$@" --config "$at/pool.yaml" --listen "127.0.0.1:$port" --http-listen "127.0.0.1:$http" >"$at/proxy.log" 2>&1 &
  pid=$!
  for _ in $(seq 100); do
    if "$bin/psql" -p "$port" -qAtc 'select 1' >/dev/null 2>&1; then return; fi
    sleep 0.3
  done
  { echo "the proxy does not answer:"; tail -n 20 "$at/proxy.log"; } >&2
  exit 1
}

# Ends it as an administrator would, and waits.
stop_proxy() {
  kill "$pid"
  wait "$pid" 2>/dev/null || true
  pid=
}
