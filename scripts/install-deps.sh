#!/usr/bin/env bash
# Installs what a make target needs, on Debian and Ubuntu, as root or with sudo. Quiet about what is there already.
# Elsewhere, or without the right to install, it names exactly what is missing and exits with 1.
#   usage: scripts/install-deps.sh build|demo|release|test|bench|e2e|regress
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
what=${1:-test}
missing=()   # Debian packages
hints=()     # what to do about things that are not packages

have() { command -v "$1" >/dev/null 2>&1; }
need() { have "$1" || missing+=("$2"); }   # program, package

newest() { apt-cache search --names-only "$1" 2>/dev/null | awk '{print $1}' | sort -V | tail -n 1; }

have_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  local folder
  for folder in /usr/lib /usr/lib64 /usr/lib/*-linux-gnu /usr/lib/llvm-*/lib /usr/local/lib; do
    compgen -G "$folder/libclang.so*" >/dev/null && return 0
    compgen -G "$folder/libclang-[0-9]*.so*" >/dev/null && return 0
  done
  return 1
}

have_postgres() {
  [ -x "${PGBIN:-/nowhere}/initdb" ] && return 0
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && return 0
  have initdb
}

check_build() {
  have cargo || hints+=("cargo, the package manager of Rust (rustup.rs)")
  need cc gcc
  need make make
  have_libclang || missing+=(libclang)   # for the build of pg_query; the newest libclang1-N, see below
}

# Real PostgreSQL clusters.
check_demo() {
  check_build
  have_postgres || missing+=(postgresql postgresql-contrib)
  if [ "$(id -u)" = 0 ]; then need setpriv util-linux; fi
}

# Programs whose compiler was told what runs often: scripts/profile.sh.
check_release() {
  check_demo
  [ "${PROFILE:-yes}" != no ] || return 0
  need python3 python3
  have rustc || return 0   # check_build has said so
  local host llvm
  host=$(rustc -vV | sed -n 's/^host: //p')
  llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
  [ ! -x "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" ] || return 0
  if have rustup && rustup component add llvm-tools >/dev/null 2>&1; then return 0; fi
  need "llvm-profdata-$llvm" "llvm-$llvm"
}

# The languages whose drivers are tested; the drivers themselves are installed by drivers.sh.
check_test() {
  check_demo
  need python3 python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  need node nodejs
  need npm npm
  need javac default-jdk-headless
  need mvn maven
  have go || hints+=("Go 1.21 or newer (go.dev/dl)")
  need php php-cli
  php -m 2>/dev/null | grep -qx pdo_pgsql || missing+=(php-pgsql)
  need ruby ruby
  ruby -e 'require "pg"' 2>/dev/null || missing+=(ruby-pg)
  ruby -e 'require "active_record"' 2>/dev/null || missing+=(ruby-activerecord)
  { have pg_config && [ -e "$(pg_config --includedir)/libpq-fe.h" ]; } || missing+=(libpq-dev)
}

# PostgreSQL's own tests: scripts/postgres-tests.sh builds them.
check_regress() {
  check_demo
  need dpkg-source dpkg-dev
  need perl perl
  need bzip2 bzip2
}

# The local cluster, its images and helm. With a cluster of your own (KUBECONFIG) only what builds helm and images.
check_e2e() {
  check_build
  [ "${E2E_RELEASE:-}" != 1 ] || check_release
  have_postgres || missing+=(postgresql postgresql-contrib)
  have go || hints+=("Go 1.26 or newer (go.dev/dl): Kubernetes, helm and DNS of the local cluster are built with it")
  need openssl openssl
  [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || missing+=(busybox-static)
  [ -z "${KUBECONFIG:-}" ] || return 0
  need containerd containerd
  need runc runc
  need ip iproute2
  need iptables iptables
  need conntrack conntrack
  need ethtool ethtool
  need socat socat
  need nsenter util-linux
  [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
}

check_bench() {
  check_release
  [ -n "${PGBOUNCER:-}" ] || need pgbouncer pgbouncer
  if [ "${PEERS:-all}" = all ]; then need haproxy haproxy; need pgpool pgpool2; fi
}

install_missing() {
  [ "${#missing[@]}" -gt 0 ] || return 0
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    if have sudo && sudo -n true 2>/dev/null; then sudo=(sudo -n); else return 1; fi
  fi
  have apt-get || return 1
  echo "installing: ${missing[*]}"
  local log
  log=$(mktemp)
  "${sudo[@]}" apt-get update -qq >"$log" 2>&1 || { cat "$log"; return 1; }
  local packages=() package
  for package in "${missing[@]}"; do
    if [ "$package" = libclang ]; then package=$(newest '^libclang1-[0-9]+$'); fi
    packages+=("${package:-libclang1}")
  done
  # Debian's postgresql package would start a cluster of its own; tests make theirs.
  if ! [ -e /etc/postgresql-common/createcluster.conf ] && [ ${#sudo[@]} = 0 ]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  fi
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Options::=--force-confold "${packages[@]}" >"$log" 2>&1 || { tail -n 30 "$log"; return 1; }
  rm -f "$log"
}

case $what in
  build | demo | release | test | bench | e2e | regress) "check_$what" ;;
  *) echo "usage: $0 build|demo|release|test|bench|e2e|regress" >&2; exit 2 ;;
esac
if ! install_missing; then
  hints+=("packages (Debian's names): ${missing[*]}")
fi
if [ "${#hints[@]}" -gt 0 ]; then
  echo "missing for 'make $what':" >&2
  printf '  - %s\n' "${hints[@]}" >&2
  exit 1
fi
[ "$what" != test ] || "$here/scripts/drivers.sh" install
