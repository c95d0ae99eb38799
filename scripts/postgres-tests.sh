#!/usr/bin/env bash
# Prints a folder with PostgreSQL's own tests: regress/ (with regress.so built) and isolation/. Debian packages the programs that run
# them (postgresql-client-N) but not the tests: they are taken from the source package of the same major, once, into the
# user's cache.   usage: scripts/postgres-tests.sh MAJOR
set -euo pipefail

major=${1:?usage: $0 MAJOR}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgstmtpool/postgres-tests-$major
if [ -e "$cache/ready" ]; then echo "$cache"; exit 0; fi
for program in apt-get dpkg-source make gcc perl bzip2; do
  command -v "$program" >/dev/null || { echo "$0: $program is missing (Debian: dpkg-dev make gcc perl bzip2)" >&2; exit 1; }
done
mkdir -p "$cache"
exec 9>"$cache/lock"; flock 9
if [ -e "$cache/ready" ]; then echo "$cache"; exit 0; fi
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
log=$cache/log

# The machine's own package sources, asked for source packages; nothing of the machine is changed.
mkdir -p "$work/parts" "$work/lists/partial" "$work/source"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
  case $file in
    *.sources) sed 's/^Types:.*/Types: deb-src/' "$file" >"$work/parts/$(basename "$file")" ;;
    *.list) [ ! -e "$file" ] || sed -n 's/^deb /deb-src /p' "$file" >"$work/parts/$(basename "$file")" ;;
  esac
done
apt() {
  apt-get -q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/parts" \
    -o "Dir::State::lists=$work/lists" -o APT::Sandbox::User=root "$@" >>"$log" 2>&1
}
versions() {
  apt-cache -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/parts" \
    -o "Dir::State::lists=$work/lists" showsrc "postgresql-$major" | awk '/^Version:/ {print $2}' | sort -Vr | uniq
}
apt update || true # one source without source packages does not matter
cd "$work/source"
got=
# The newest that can be had: a mirror need not have all it lists.
for version in $(versions); do
  if apt source --download-only "postgresql-$major=$version"; then got=$version; break; fi
done
[ -n "$got" ] || { echo "$0: no source package of postgresql-$major can be had, see $log" >&2; exit 1; }
{
  tar xf postgresql-*.orig.tar.*
  cd postgresql-*/
  ./configure --without-readline --without-zlib --without-icu
  make -C src/backend generated-headers
  make -C src/test/regress regress.so
  make -C contrib/spi autoinc.so refint.so
  cp contrib/spi/autoinc.so contrib/spi/refint.so src/test/regress/
} >>"$log" 2>&1 || { echo "$0: the tests cannot be built, see $log" >&2; exit 1; }
rm -rf "$cache/regress" "$cache/isolation"
cp -r "$work"/source/postgresql-*/src/test/regress "$work"/source/postgresql-*/src/test/isolation "$cache/"
chmod -R a+rX "$cache"
echo "$got" >"$cache/ready"
echo "$cache"
