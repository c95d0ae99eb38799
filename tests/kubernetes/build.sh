#!/usr/bin/env bash
# Builds what the local cluster is made of, once, into a cache folder outside this clone, and prints that folder:
# all of Kubernetes and etcd in one program, CoreDNS, metrics-server, helm, and the pause program. The folder's name is the
# hash of everything that goes into it, so a second call is done at once.
#   usage: tests/kubernetes/build.sh
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
kubernetes=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" { print $3 } $1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2; exit }' \
  "$here/cluster/go.mod" | head -n 1)
key=$(cd "$here" && cat build.sh {cluster,tools}/go.{mod,sum} cluster/main.go tools/coredns/main.go pause.c | sha256sum | cut -c 1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgstmtpool/kubernetes/$(uname -m)-$key

if [ -e "$cache/complete" ]; then echo "$cache"; exit; fi
mkdir -p "$cache/bin"
exec 9>"$cache/lock"
flock 9 # another build of the same may be at work
if [ -e "$cache/complete" ]; then echo "$cache"; exit; fi

export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
number=${kubernetes#v}
versions=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  # Without these /version says v0.0.0 and every chart with a kubeVersion is refused.
  versions+=" -X $package.gitVersion=$kubernetes -X $package.gitMajor=${number%%.*}"
  versions+=" -X $package.gitMinor=$(cut -d. -f2 <<<"$number") -X $package.gitTreeState=clean"
done

build() { # folder, what, flags and packages
  local started=$SECONDS
  echo "building $2 (once, into $cache)" >&2
  (cd "$here/$1" && go build "${@:3}")
  echo "  took $((SECONDS - started)) s" >&2
}
build cluster Kubernetes -o "$cache/bin/hyperkube" -tags selinux,notest,grpcnotrace -ldflags "-s -w$versions" .
# In one module: what they have in common is built once.
build tools "DNS, metrics-server and helm" -o "$cache/bin/" -ldflags "-s -w" \
  ./coredns sigs.k8s.io/metrics-server/cmd/metrics-server helm.sh/helm/v4/cmd/helm
for name in etcd kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet; do
  ln -sfn hyperkube "$cache/bin/$name"
done
cc -Os -static -s -o "$cache/bin/pause" "$here/pause.c"
touch "$cache/complete"
echo "$cache"
