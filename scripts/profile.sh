#!/usr/bin/env bash
# What the compiler should know about the proxy: which code runs often. Builds the proxy with counters in it, runs workloads
# through it against a PostgreSQL of its own, and writes what they counted. It is good for this compiler and these sources only: made
# once for them and kept in the target folder, made anew when they have changed. Prints the file; progress goes to standard error.
# FLAGS are those of rustc that the build with the profile will have besides, and its packages and target are those below: else cargo
# gives the crates other names (`-C metadata`), and the compiler finds nothing in the profile that it knows.
#   usage: RUSTFLAGS="FLAGS -C profile-use=$(scripts/profile.sh FLAGS)" cargo build --release --target "$host" ...
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
host=$(rustc -vV | sed -n 's/^host: //p')
sources=$({ echo "$*"; rustc -vV; find Cargo.toml Cargo.lock proxy pgnet cluster crds -name '*.rs' -o -name 'Cargo.*'; } | LC_ALL=C sort \
  | while read -r line; do if [ -f "$line" ]; then sha256sum "$line"; else echo "$line"; fi; done | sha256sum | cut -c -16)
# One name for all of them: another path in RUSTFLAGS would have cargo build every library again.
profile=$target/profile/proxy.profdata
if [ -s "$profile" ] && [ "$(cat "$profile.of" 2>/dev/null)" = "$sources" ]; then
  echo "$profile"
  exit
fi
say() { echo "profile: $*" >&2; }

llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || profdata=$(command -v "llvm-profdata-$llvm") || {
  say "missing: llvm-profdata of LLVM $llvm (rustup component add llvm-tools; or Debian's llvm-$llvm). PROFILE=no builds without"
  exit 1
}
. scripts/loads.sh

say "1/3 a build with counters"
RUSTFLAGS="$* -C profile-generate" cargo build --release --locked --target "$host" --target-dir "$target/profile" \
  -p pgstmtpool-proxy -p pgstmtpool-operator -p pgstmtpool-ctl --bin pgstmtpool-proxy >&2
say "2/3 workloads against it"
stand_up
export LLVM_PROFILE_FILE=$at/counted-%p.profraw
start_proxy "$target/profile/$host/release/pgstmtpool-proxy"

run() { # workload clients seconds
  local load
  workload "$1"
  "$bin/pgbench" -n -p "$port" -c "$2" -T "$3" "${load[@]}" >"$at/run.log" 2>&1 || { cat "$at/run.log" >&2; exit 1; }
  say "    $1, $2 clients: $(sed -n 's/^tps = \([0-9]*\).*/\1 transactions a second/p' "$at/run.log")"
}
run one 32 2
run one 500 2
run one_client 1 1
run simple 32 2
run extended 32 2
run prepared 32 2
run rate 32 2
run transactions 32 2
run tpcb 16 2
run updates 32 2
run pipeline 16 1
run rows 8 1
run logins 8 2
PGUSER=scram PGPASSWORD=secret run logins 8 2
# Now and then, in every pool: settings, COPY, errors, the admin database.
for _ in $(seq 20); do
  "$bin/psql" -p "$port" -q -v ON_ERROR_STOP=0 >/dev/null 2>&1 <<'SQL' || true
set statement_timeout = '30s';
begin; declare c cursor for select * from pgbench_tellers; fetch 10 from c; select nonsense; rollback;
copy (select * from pgbench_tellers) to stdout;
create temp table t (a int); copy t from stdin;
1
\.
select pg_sleep(0.01), now();
prepare p(int) as select abalance from pgbench_accounts where aid = $1; execute p(1); deallocate p;
SQL
  "$bin/psql" -p "$port" -q -c 'show pools' pseudo >/dev/null
done
stop_proxy

say "3/3 what they counted"
mkdir -p "$target/profile"
"$profdata" merge --sparse -o "$profile.new" "$at"/counted-*.profraw
mv "$profile.new" "$profile"
echo "$sources" >"$profile.of"
say "$(du -h "$profile" | cut -f 1) in $profile"
echo "$profile"
