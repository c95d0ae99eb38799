#!/usr/bin/env bash
# The drivers of other languages that `make test` runs, each installed by its ordinary client, in pinned versions,
# outside the clone: ${XDG_CACHE_HOME:-~/.cache}/pgstmtpool/drivers/<language>-<hash of its lock file>.
#   usage: scripts/drivers.sh install [LANGUAGE...]    makes what is not there yet
#          scripts/drivers.sh where LANGUAGE           prints its folder; exits with 1 when it is not installed
# Languages: python node go java (PHP and Ruby come as packages of the distribution, see install-deps.sh)
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)/tests/drivers
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgstmtpool/drivers

lock_files() {
  case $1 in
    python) echo python/requirements.txt ;;
    node) echo node/package.json node/package-lock.json ;;
    go) echo go/go.mod go/go.sum ;;
    java) echo java/pom.xml ;;
    *) echo "no language $1" >&2; exit 2 ;;
  esac
}

folder_of() {
  local files
  files=$(lock_files "$1")
  # shellcheck disable=SC2086
  echo "$cache/$1-$(cd "$here" && cat $files | sha256sum | cut -c 1-16)"
}

install_python() {
  python3 -m venv "$1"
  "$1/bin/python" -m pip install -q --disable-pip-version-check --no-deps -r "$here/python/requirements.txt"
}

install_node() {
  cp "$here/node/package.json" "$here/node/package-lock.json" "$1/"
  (cd "$1" && npm ci --silent --no-audit --no-fund)
}

# The Go client keeps a cache of its own; what is kept here is only that it was filled and everything once built.
install_go() {
  mkdir "$1/bin"
  (cd "$here/go" && go mod download && go build -o "$1/bin/" ./...)
}

install_java() {
  cp "$here/java/pom.xml" "$1/"
  (cd "$1" && mvn -q -B dependency:copy-dependencies -DoutputDirectory="$1/lib")
}

install() {
  local language=$1 folder log started=$SECONDS
  folder=$(folder_of "$language")
  if [ -e "$folder/complete" ]; then touch "$folder/complete"; return 0; fi
  echo "installing the drivers of $language into $folder"
  rm -rf "$folder"
  mkdir -p "$folder"
  log=$(mktemp)
  if ! "install_$language" "$folder" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    rm -rf "$folder" "$log"
    echo "the drivers of $language cannot be installed" >&2
    return 1
  fi
  rm -f "$log"
  touch "$folder/complete"
  echo "installed the drivers of $language ($((SECONDS - started)) s)"
  # Sets that no clone has asked for in a month.
  find "$cache" -mindepth 2 -maxdepth 2 -name complete -mtime +30 -printf '%h\0' | xargs -0 -r rm -rf
}

case ${1:-} in
  install)
    shift
    [ $# -gt 0 ] || set -- python node go java
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    running=()
    for language in "$@"; do install "$language" & running+=($!); done
    failed=0
    for one in "${running[@]}"; do wait "$one" || failed=1; done
    exit $failed
    ;;
  where)
    folder=$(folder_of "${2:?language}")
    if [ ! -e "$folder/complete" ]; then
      echo "the drivers of $2 are not installed: run scripts/drivers.sh install $2" >&2
      exit 1
    fi
    echo "$folder"
    ;;
  *) sed -n '2,6p' "$0" >&2; exit 2 ;;
esac
