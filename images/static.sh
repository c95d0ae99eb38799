#!/usr/bin/env bash
# Builds the programs of the image, static and stripped, and puts them into a folder as they lie in the image's
# /usr/local/bin. What needs a library of the machine it runs on is refused: the image has none, and the guard runs in
# images of others. The compiler is told by a run of the proxy what to make fast (scripts/profile.sh, some minutes the first
# time); PROFILE=no leaves that out.
#   usage: images/static.sh FOLDER [PROGRAM...]    (default: all four)
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
out=$(realpath -m "$1")
shift
[ $# -gt 0 ] || set -- pgstmtpool pgstmtpool-proxy pgstmtpool-operator pgstmtpool-guard
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
flags="-C target-feature=+crt-static"
if [ "${PROFILE:-yes}" != no ]; then
  profile=$(scripts/profile.sh "$flags")
  flags+=" -C profile-use=$profile"
fi

# A target that is given by name keeps the flags from build scripts and procedural macros, which are loaded by the compiler. All three
# packages, whichever programs are wanted: the libraries are then built once, with the same features.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=$flags cargo build --release --locked --target "$host" \
  -p pgstmtpool-proxy -p pgstmtpool-operator -p pgstmtpool-ctl "${@/#/--bin=}"

# A profile of a build that gave the crates other names is no error to the compiler, only worth nothing.
if [ -n "${profile:-}" ] && [[ " $* " == *" pgstmtpool-proxy "* ]]; then
  names() { nm "$1" | awk '/16pgstmtpool_proxy5plane6worker/ { print $NF }' | sort -u; }
  common=$(comm -12 <(names "$target/profile/$host/release/pgstmtpool-proxy") <(names "$target/$host/release/pgstmtpool-proxy"))
  [ -n "$common" ] || {
    echo "$profile was of no use: its functions have other names than those of this build. PROFILE=no builds without" >&2
    exit 1
  }
fi

mkdir -p "$out"
for program; do
  install -s "$target/$host/release/$program" "$out/$program"
  if ldd "$out/$program" >/dev/null 2>&1 && ! ldd "$out/$program" 2>&1 | grep -q "statically linked"; then
    { echo "$program needs libraries:"; ldd "$out/$program"; } >&2
    exit 1
  fi
done
[ ! -e "$out/pgstmtpool" ] || ln -sfn pgstmtpool "$out/kubectl-pgpool"
ls -l "$out"
