#!/usr/bin/env bash
# Builds container images without an engine, a registry or root: docker archives, made by hand from files of this machine.
#   images/archive.sh programs FOLDER NAME:TAG OUT.tar   the programs in FOLDER (target/release or target/debug), laid out
#                                                        as images/Dockerfile does; programs that are not static get the
#                                                        libraries they name
#   images/archive.sh postgres BIN NAME:TAG OUT.tar      PostgreSQL of this machine (BIN: its folder of programs) with
#                                                        busybox as the shell: for tests, where no registry can be reached
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

# The libraries of dynamic programs and of each other, each where the program looks for it.
add_libraries() { # files...
  local file
  { ldd "$@" 2>/dev/null || true; } | awk '/=> \// { print $3 } /^[ \t]+\/.*ld-linux/ { print $1 }' | sort -u | while read -r file; do
    [ -e "$root$file" ] || install -D -m 755 "$(realpath "$file")" "$root$file"
  done
}

add_users() {
  install -D -m 644 "$here/passwd" "$root/etc/passwd"
  install -D -m 644 "$here/group" "$root/etc/group"
}

# A docker archive: one layer, its configuration, and what says so. The same files give the same bytes.
pack() { # name:tag[,name:tag...], out, JSON of the configuration's "config"
  local layer
  tar -C "$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$work/layer.tar" .
  layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
  local machine=amd64
  [ "$(uname -m)" = aarch64 ] && machine=arm64
  printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$machine" "$3" "$layer" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "${1//,/\",\"}" >"$work/manifest.json"
  mkdir -p "$(dirname "$2")"
  tar -C "$work" --owner=0 --group=0 --mtime=@0 -cf "$2.new" manifest.json config.json layer.tar
  mv "$2.new" "$2"
  echo "$2: $1, $(du -h "$2" | cut -f1)"
}

programs() { # folder, name:tag, out
  local program
  for program in "$1"/pgstmtpool "$1"/pgstmtpool-{proxy,operator,guard} "$1"/e2e-load; do
    [ -x "$program" ] || continue
    mkdir -p "$root/usr/local/bin"
    # Line numbers of a debug build are most of its size, and nobody looks at them in there.
    strip -o "$root/usr/local/bin/${program##*/}" "$program"
  done
  [ -e "$root/usr/local/bin/pgstmtpool-proxy" ] || { echo "$1 holds no pgstmtpool-proxy: build it first" >&2; exit 1; }
  if [ -e "$root/usr/local/bin/pgstmtpool" ]; then ln -s pgstmtpool "$root/usr/local/bin/kubectl-pgpool"; fi
  add_libraries "$root"/usr/local/bin/*
  add_users
  if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  fi
  pack "$2" "$3" '{"Env":["PATH=/usr/local/bin"],"User":"65532:65532","Cmd":["pgstmtpool-proxy","--help"]}'
}

postgres() { # bin, name:tag, out
  local bin lib share program tools
  bin=$(realpath "$1")
  lib=$("$bin/pg_config" --pkglibdir 2>/dev/null || echo "${bin%/bin}/lib")
  share=$("$bin/pg_config" --sharedir 2>/dev/null || echo "/usr/share/postgresql/$(basename "${bin%/bin}")")
  mkdir -p "$root$bin" "$root$lib" "$root$share" "$root"/{bin,tmp,run,var/lib/postgresql}
  for program in postgres initdb pg_ctl pg_basebackup pg_rewind pg_controldata pg_isready pg_resetwal psql; do
    cp "$bin/$program" "$root$bin/"
  done
  # Not the just-in-time compiler: it brings LLVM, which is larger than all the rest.
  cp -r "$lib/." "$root$lib/"
  rm -rf "$root$lib"/{bitcode,llvmjit*,pgxs}
  cp -rL "$share/." "$root$share/"
  rm -rf "$root$share"/{man,locale}
  add_libraries "$root$bin"/* "$root$lib"/*.so
  [ -d /usr/share/zoneinfo ] && mkdir -p "$root/usr/share/zoneinfo" && cp -rL /usr/share/zoneinfo/{UTC,Etc,Europe} "$root/usr/share/zoneinfo/" 2>/dev/null
  cp "$(command -v busybox)" "$root/bin/busybox"
  tools=$("$root/bin/busybox" --list)
  for program in $tools; do [ -e "$root/bin/$program" ] || ln -s busybox "$root/bin/$program"; done
  mkdir -p "$root/usr/lib/locale"
  [ -d /usr/lib/locale/C.utf8 ] && cp -r /usr/lib/locale/C.utf8 "$root/usr/lib/locale/"
  add_users
  pack "$2" "$3" "{\"Env\":[\"PATH=$bin:/bin\",\"LANG=C.UTF-8\"],\"User\":\"999:999\",\"StopSignal\":\"SIGINT\",\"Cmd\":[\"postgres\"]}"
}

case ${1:-} in
  programs | postgres) [ $# = 4 ] && "$@" && exit ;;
esac
sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
exit 2
