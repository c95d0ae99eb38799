#!/bin/sh
# Fuzzes one target of pgnet, or each in turn, with libFuzzer on the stable toolchain.
#
#   pgnet/fuzz/run.sh [SECONDS [TARGET...]]        default: 60 seconds for each target
#
# Needs cargo and a C++ compiler, nothing else: the coverage flags below are stable. (cargo-fuzz adds the address sanitizer,
# which is nightly only; the crate has no unsafe code.) What was found is kept in pgnet/fuzz/corpus and pgnet/fuzz/artifacts.
set -eu
cd "$(dirname "$0")"
command -v c++ >/dev/null || { echo "run.sh: no C++ compiler (Debian: apt-get install g++)" >&2; exit 1; }
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- $(cd src/bin && for file in *.rs; do echo "${file%.rs}"; done)
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# An explicit target keeps the flags away from build scripts and macros.
cargo build --release --target "$host"
bin=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$host/release
for target; do
    mkdir -p "corpus/$target" "artifacts/$target"
    echo "== $target, $seconds s"
    log=artifacts/$target.log
    if ! "$bin/$target" "corpus/$target" "seeds/$target" -max_total_time="$seconds" -max_len=4096 -malloc_limit_mb=64 \
        -rss_limit_mb=512 -timeout=5 -print_final_stats=1 -artifact_prefix="artifacts/$target/" >"$log" 2>&1
    then
        tail -n 40 "$log" >&2
        echo "run.sh: $target found something: see pgnet/fuzz/artifacts/$target" >&2
        exit 1
    fi
    grep -E '^Done|average_exec_per_sec|cov:' "$log" | tail -n 3
done
