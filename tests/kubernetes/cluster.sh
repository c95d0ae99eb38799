#!/usr/bin/env bash
# A real Kubernetes on this machine, without a container engine or a registry: etcd, API server, controller manager,
# scheduler, DNS, metrics, and nodes with containerd, kubelet and kube-proxy, all in one set of namespaces. Everything it is lives
# in one folder; ending its first process ends all of it, pods included, and leaves nothing behind.
#
#   cluster.sh check                     says what this machine lacks, if it lacks anything
#   cluster.sh up FOLDER [NODES]         starts one (default 3 nodes) in the background, prints how to reach it
#   cluster.sh run FOLDER [NODES]        the same in the foreground: it lives as long as this process
#   cluster.sh down FOLDER               ends it and removes the folder
#   cluster.sh enter FOLDER NODE CMD...  runs a command in its network (NODE: n1, n2, ... or `control`)
#   cluster.sh load FOLDER ARCHIVE...    imports images (docker archives) into all nodes
#   cluster.sh node FOLDER NODE ACTION   cut | join: its network cable; freeze | thaw: the whole machine; off: its power
#   cluster.sh api FOLDER ACTION         stop | start the API server
#
# Images in FOLDER/images/*.tar are imported before the nodes start. FOLDER/kubeconfig works from outside.
set -euo pipefail

self=$(realpath "$0")
here=$(dirname "$self")
hierarchies=(cpu cpuacct cpuset memory devices freezer blkio pids systemd)

fail() { printf 'cluster.sh: %s\n' "$*" >&2; exit 1; }

# --- what a machine must have

check() {
  local missing=() program
  [ "$(uname -s)" = Linux ] || missing+=("Linux")
  [ "$(id -u)" = 0 ] || missing+=("the user root (namespaces, mounts and cgroups of the nodes)")
  for program in containerd ctr runc iptables conntrack ip nsenter unshare openssl socat cc; do
    command -v "$program" >/dev/null || missing+=("the program $program")
  done
  [ -x /usr/lib/cni/bridge ] || missing+=("/usr/lib/cni (Debian: containernetworking-plugins)")
  if [ "$(id -u)" = 0 ]; then
    unshare --mount --net --pid --fork true 2>/dev/null || missing+=("the right to make mount, network and process namespaces")
    if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
      for program in "${hierarchies[@]}"; do
        [ -w "/sys/fs/cgroup/$program" ] || missing+=("the cgroup hierarchy $program, writable")
      done
    else
      [ -w /sys/fs/cgroup/cgroup.subtree_control ] || missing+=("cgroups, writable")
    fi
  fi
  [ ${#missing[@]} = 0 ] && return 0
  printf 'this machine cannot run a local Kubernetes cluster; missing:\n' >&2
  printf '  - %s\n' "${missing[@]}" >&2
  return 1
}

unified() { [ -e /sys/fs/cgroup/cgroup.controllers ]; }

# Folders of cgroups whose cluster is gone (its first process is in their name).
sweep() {
  local folder pid
  for folder in /sys/fs/cgroup/pgst-*-n* /sys/fs/cgroup/*/pgst-*-n*; do
    [ -d "$folder" ] || continue
    pid=${folder##*/pgst-}
    [ -e "/proc/${pid%-n*}" ] && continue
    find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

make_cgroups() { # name
  local hierarchy folder file
  if unified; then
    mkdir -p "/sys/fs/cgroup/$1"
    return
  fi
  for hierarchy in "${hierarchies[@]}"; do
    folder=/sys/fs/cgroup/$hierarchy
    mkdir -p "$folder/$1"
    if [ "$hierarchy" = cpuset ]; then
      for file in cpuset.cpus cpuset.mems; do cat "$folder/$file" >"$folder/$1/$file"; done
    fi
  done
}

# --- certificates

authority() { # name
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=pgstmtpool e2e $1" \
    -keyout "$pki/$1.key" -out "$pki/$1.crt" 2>/dev/null
}

certificate() { # name, authority, subject, further lines of the extension file
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$3" -keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
  printf '%s\n' 'keyUsage=digitalSignature' 'extendedKeyUsage=clientAuth,serverAuth' "${@:4}" >"$pki/$1.ext"
  openssl x509 -req -days 3650 -in "$pki/$1.csr" -CA "$pki/$2.crt" -CAkey "$pki/$2.key" -CAcreateserial \
    -extfile "$pki/$1.ext" -out "$pki/$1.crt" 2>/dev/null
}

kubeconfig() { # certificate, server, file
  cat >"$3" <<END
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "$2", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]
users: [{name: e2e, user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}}]
contexts: [{name: e2e, context: {cluster: e2e, user: e2e}}]
current-context: e2e
END
}

make_pki() {
  local n
  mkdir -p "$pki"
  authority ca
  authority front
  certificate apiserver ca /CN=kube-apiserver \
    "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:10.10.0.1"
  certificate admin ca /O=system:masters/CN=admin
  certificate controller-manager ca /CN=system:kube-controller-manager
  certificate scheduler ca /CN=system:kube-scheduler
  certificate proxy ca /CN=system:kube-proxy
  certificate front-client front /CN=system:auth-proxy
  for ((n = 1; n <= nodes; n++)); do certificate "n$n" ca "/O=system:nodes/CN=system:node:n$n"; done
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$pki/accounts.key" 2>/dev/null
  openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub" 2>/dev/null
  for n in admin controller-manager scheduler proxy; do kubeconfig "$n" https://10.10.0.1:6443 "$pki/$n.conf"; done
  for ((n = 1; n <= nodes; n++)); do kubeconfig "n$n" https://10.10.0.1:6443 "$pki/n$n.conf"; done
}

# --- processes

# Starts a program in the background, its output in log/NAME.log, its process id (in the cluster's namespace) in
# run/NAME.pid, how it is started in run/NAME.sh.
start() { # name, command...
  local name=$1
  shift
  { printf '#!/bin/bash\nexec'; printf ' %q' "$@"; echo; } >"$folder/run/$name.sh"
  again "$name"
}

again() { # name
  setsid bash "$folder/run/$1.sh" >>"$folder/log/$1.log" 2>&1 </dev/null &
  echo $! >"$folder/run/$1.pid"
}

await() { # what, seconds, command...
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "waited in vain for $what" >"$folder/failed"
      fail "waited in vain for $what; logs are in $folder/log"
    fi
    sleep 0.1
  done
}

kubectl() { "$bin/kubectl" --kubeconfig "$pki/admin.conf" "$@"; }

# --- the control plane: first process of the cluster's namespaces

control_plane() {
  trap 'exit 0' TERM INT
  mount --make-rshared /
  ip link set lo up
  ip link add node0 type bridge
  ip addr add 10.10.0.1/24 dev node0
  ip link set node0 up
  ip route add default via 10.10.0.1
  echo 1 >/proc/sys/net/ipv4/ip_forward
  local n
  for ((n = 1; n <= nodes; n++)); do start_node "$n"; done

  start etcd "$bin/etcd" --name e2e --data-dir "$folder/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn
  start kube-apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 \
    --advertise-address=10.10.0.1 --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --client-ca-file="$pki/ca.crt" --service-cluster-ip-range=10.96.0.0/16 \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/accounts.pub" \
    --service-account-signing-key-file="$pki/accounts.key" --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false \
    --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
    --kubelet-preferred-address-types=InternalIP --requestheader-client-ca-file="$pki/front.crt" \
    --requestheader-allowed-names=system:auth-proxy --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User \
    --proxy-client-cert-file="$pki/front-client.crt" --proxy-client-key-file="$pki/front-client.key" --enable-aggregator-routing=true \
    --default-not-ready-toleration-seconds=10 --default-unreachable-toleration-seconds=10
  await "the API server" 90 kubectl get --raw /readyz

  start kube-controller-manager "$bin/kube-controller-manager" --kubeconfig="$pki/controller-manager.conf" \
    --authentication-kubeconfig="$pki/controller-manager.conf" --authorization-kubeconfig="$pki/controller-manager.conf" \
    --service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/ca.crt" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" --use-service-account-credentials \
    --leader-elect=false --service-cluster-ip-range=10.96.0.0/16 --node-monitor-grace-period=12s --node-monitor-period=2s \
    --allocate-node-cidrs=false --horizontal-pod-autoscaler-sync-period=5s --horizontal-pod-autoscaler-initial-readiness-delay=5s \
    --horizontal-pod-autoscaler-cpu-initialization-period=10s
  start kube-scheduler "$bin/kube-scheduler" --kubeconfig="$pki/scheduler.conf" --authentication-kubeconfig="$pki/scheduler.conf" \
    --authorization-kubeconfig="$pki/scheduler.conf" --leader-elect=false
  cat >"$folder/Corefile" <<END
.:53 {
  bind 10.10.0.1
  errors
  kubernetes cluster.local {
    kubeconfig $pki/admin.conf e2e
    ttl 1
  }
}
END
  start coredns "$bin/coredns" -conf "$folder/Corefile"
  start metrics-server "$bin/metrics-server" --kubeconfig="$pki/admin.conf" --authentication-kubeconfig="$pki/admin.conf" \
    --authorization-kubeconfig="$pki/admin.conf" --secure-port=4443 --cert-dir="$folder/metrics" --kubelet-insecure-tls \
    --kubelet-preferred-address-types=InternalIP --metric-resolution=10s --kubelet-request-timeout=5s
  start api-inside socat "UNIX-LISTEN:$folder/api.sock,fork" TCP:127.0.0.1:6443
  await "kube-system" 60 kubectl get namespace kube-system
  objects | kubectl apply -f - >"$folder/log/objects.log" 2>&1 || echo "the first objects were refused" >"$folder/failed"
  for ((n = 1; n <= nodes; n++)); do await "node n$n" 120 ready "n$n"; done
  touch "$folder/ready"
  while :; do sleep infinity & wait $! || true; done
}

ready() { [ "$(kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]; }

# DNS, metrics, and volumes: folders of the nodes, made beforehand (the host-path provisioner ignores fsGroup).
objects() {
  local n v
  cat <<END
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [10.10.0.1], conditions: {ready: true}}]
---
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec:
  ports: [{name: https, port: 443, protocol: TCP, targetPort: 4443}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: metrics-server-1, namespace: kube-system, labels: {kubernetes.io/service-name: metrics-server}}
addressType: IPv4
ports: [{name: https, port: 4443, protocol: TCP}]
endpoints: [{addresses: [10.10.0.1], conditions: {ready: true}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: metrics-server, namespace: kube-system, port: 443}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
END
  for ((n = 1; n <= nodes; n++)); do
    for ((v = 1; v <= 8; v++)); do
      mkdir -p "$folder/n$n/volumes/$v"
      cat <<END
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: n$n-$v}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: $folder/n$n/volumes/$v}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n$n]}]}]}}
END
    done
  done
}

# --- a node: mount and network namespaces of its own inside the cluster's

start_node() { # number
  mkdir -p "$folder/n$1"/{kubelet,cni-state,pods,containers,containerd,cni}
  start "n$1" unshare --mount --net bash "$self" _node "$folder" "$nodes" "$1"
  ip link add "veth$1" type veth peer name "port$1"
  ip link set "veth$1" master node0 up
  # The process id is right at once; its network namespace is its own a moment later.
  await "the namespaces of n$1" 10 moved "$1"
  ip route add "10.244.$1.0/24" via "10.10.0.1$1"
}

moved() { # number
  local pid
  pid=$(cat "$folder/run/n$1.pid")
  [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] && ip link set "port$1" netns "$pid" name eth0
}

node() {
  local n=$1 m own=$folder/n$1 cgroup=pgst-$(cat "$folder/pid")-n$1
  mount --make-rshared /
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p /run/netns /run/containerd
  local pair
  for pair in kubelet:/var/lib/kubelet cni-state:/var/lib/cni pods:/var/log/pods containers:/var/log/containers; do
    mount --bind "$own/${pair%%:*}" "${pair#*:}"
  done
  mount --make-rshared /var/lib/kubelet
  if ! unified; then echo $$ >"/sys/fs/cgroup/freezer/$cgroup/cgroup.procs"; fi

  ip link set lo up
  await "the cable of n$n" 10 ip link show eth0
  ip addr add "10.10.0.1$n/24" dev eth0
  ip link set eth0 up
  ip route add default via 10.10.0.1
  for ((m = 1; m <= nodes; m++)); do
    [ "$m" = "$n" ] || ip route add "10.244.$m.0/24" via "10.10.0.1$m"
  done
  echo 1 >/proc/sys/net/ipv4/ip_forward
  node_files "$n" "$cgroup"

  start "n$n-containerd" containerd --config "$own/containerd.toml"
  await "containerd of n$n" 30 ctr version
  local image
  for image in "$folder"/images/*.tar; do
    [ -e "$image" ] && ctr -n k8s.io images import "$image" >>"$folder/log/n$n-images.log" 2>&1
  done
  await "the API server" 120 test -e "$folder/log/objects.log"
  start "n$n-kubelet" "$bin/kubelet" --config="$own/kubelet.yaml" --kubeconfig="$pki/n$n.conf" --hostname-override="n$n" \
    --node-ip="10.10.0.1$n" --root-dir=/var/lib/kubelet --node-labels="topology.kubernetes.io/zone=zone-$n"
  start "n$n-kube-proxy" "$bin/kube-proxy" --config="$own/kube-proxy.yaml"
  while :; do sleep infinity & wait $! || true; done
}

node_files() { # number, cgroup
  local own=$folder/n$1
  cat >"$own/containerd.toml" <<END
version = 2
root = "$own/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$own/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
END
  cat >"$own/cni/10-bridge.conflist" <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
  echo "nameserver 10.10.0.1" >"$own/resolv.conf"
  cat >"$own/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
failSwapOn: false
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$2
enforceNodeAllocatable: []
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
evictionHard: {memory.available: "1Mi", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: $own/resolv.conf
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
shutdownGracePeriod: 0s
END
  cat >"$own/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: n$1
clientConnection: {kubeconfig: $pki/proxy.conf}
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {masqueradeAll: true}
END
}

# --- from outside

pause_image() { # file
  local work layer
  work=$(mktemp -d)
  mkdir "$work/root"
  cp "$bin/pause" "$work/root/pause"
  tar -C "$work/root" --owner=0 --group=0 -cf "$work/layer.tar" pause
  layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
  printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/pause"],"User":"65535:65535"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(go env GOARCH)" "$layer" >"$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["localhost/pause:1"],"Layers":["layer.tar"]}]' >"$work/manifest.json"
  tar -C "$work" -cf "$1" manifest.json config.json layer.tar
  rm -rf "$work"
}

run() {
  check
  sweep
  [ ! -e "$folder/pid" ] || fail "$folder holds a cluster already (cluster.sh down $folder)"
  local n
  mkdir -p "$folder"/{run,log,images} /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers
  echo $$ >"$folder/pid" # this process becomes `unshare`, whose child is the first process of the cluster
  for ((n = 1; n <= nodes; n++)); do make_cgroups "pgst-$$-n$n"; done
  pause_image "$folder/images/pause.tar"
  make_pki
  local port
  port=$(free_port)
  kubeconfig admin "https://127.0.0.1:$port" "$folder/kubeconfig"
  # Ends with us: it shares our process group, and a socket without a listener is of no use to anybody.
  socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" "UNIX-CONNECT:$folder/api.sock" >"$folder/log/api-outside.log" 2>&1 &
  exec unshare --mount --net --pid --fork --kill-child=KILL --mount-proc bash "$self" _control "$folder" "$nodes"
}

free_port() {
  local port
  for ((port = 20000 + RANDOM % 9000; ; port++)); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}


# The child that is the cluster's first process: the other child is the way in from outside.
inside() {
  local pid child
  pid=$(cat "$folder/pid" 2>/dev/null) || fail "there is no cluster in $folder"
  for child in $(cat "/proc/$pid/task/$pid/children" 2>/dev/null); do
    if [ "$(readlink "/proc/$child/ns/net")" != "$(readlink /proc/self/ns/net)" ]; then
      echo "$child"
      return
    fi
  done
  fail "the cluster in $folder has ended"
}

enter() { # node, command...
  local at=$1 into
  shift
  into=$(inside)
  if [ "$at" = control ]; then exec nsenter -t "$into" -m -n -p -- "$@"; fi
  exec nsenter -t "$into" -m -n -p -- nsenter -t "$(cat "$folder/run/$at.pid")" -m -n -- "$@"
}

up() {
  local end=$((SECONDS + 180)) started=$SECONDS
  setsid bash "$self" run "$folder" "$nodes" >"$folder.log" 2>&1 </dev/null &
  local pid=$!
  until [ -e "$folder/ready" ]; do
    [ ! -e "$folder/failed" ] || fail "$(cat "$folder/failed"); logs are in $folder/log"
    kill -0 "$pid" 2>/dev/null || { cat "$folder.log" >&2; fail "the cluster did not start; logs are in $folder/log"; }
    [ $SECONDS -lt $end ] || fail "the cluster was not ready after 180 s; logs are in $folder/log"
    sleep 0.1
  done
  echo "ready after $((SECONDS - started)) s; $nodes nodes. To use it:"
  echo "  export KUBECONFIG=$folder/kubeconfig PATH=$bin:\$PATH"
}

down() {
  local pid
  pid=$(cat "$folder/pid" 2>/dev/null) || fail "there is no cluster in $folder"
  kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
  await_gone "$pid"
  sweep
  rm -rf "$folder" "$folder.log"
}

await_gone() { # pid
  local n
  for ((n = 0; n < 100; n++)); do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
  done
}

load() { # archives...
  local n archive
  for archive in "$@"; do
    cp "$archive" "$folder/images/"
    for ((n = 1; n <= nodes; n++)); do
      (enter "n$n" ctr -n k8s.io images import "$archive")
    done
  done
}

node_action() { # node, action
  local cgroup
  cgroup=pgst-$(cat "$folder/pid")-$1
  case $2 in
    cut) (enter control ip link set "veth${1#n}" down) ;;
    join)
      (enter control ip link set "veth${1#n}" up)
      # Routes through the bridge go when it has no port left that is up.
      (enter control ip route replace "10.244.${1#n}.0/24" via "10.10.0.1${1#n}")
      ;;
    freeze | thaw) set_frozen "$cgroup" "$2" ;;
    off)
      set_frozen "$cgroup" freeze
      (enter control ip link set "veth${1#n}" down)
      ;;
    *) fail "unknown action $2" ;;
  esac
}

set_frozen() { # cgroup, freeze | thaw
  if unified; then
    [ "$2" = freeze ] && echo 1 >"/sys/fs/cgroup/$1/cgroup.freeze" || echo 0 >"/sys/fs/cgroup/$1/cgroup.freeze"
  else
    [ "$2" = freeze ] && echo FROZEN >"/sys/fs/cgroup/freezer/$1/freezer.state" || echo THAWED >"/sys/fs/cgroup/freezer/$1/freezer.state"
  fi
}

# Elsewhere scheduler and controller manager hold a lead, end when they lose the API, and are started again by their kubelet. Here they
# end with it: one that lives on has a cache that may be corrupted (scheduler), or declares nodes dead by what it saw before (controller
# manager). Kubelets notice that late, and what runs there is evicted.
with_the_api=(kube-scheduler kube-controller-manager)

api_action() { # stop | start
  local name
  case $1 in
    stop)
      for name in "${with_the_api[@]}" kube-apiserver; do
        (enter control kill -KILL "$(cat "$folder/run/$name.pid")")
      done
      ;;
    start)
      (enter control bash "$self" _again "$folder" "$nodes" kube-apiserver)
      (enter control bash "$self" _await_api "$folder" "$nodes")
      for name in "${with_the_api[@]}"; do
        (enter control bash "$self" _again "$folder" "$nodes" "$name")
      done
      ;;
    *) fail "unknown action $1" ;;
  esac
}

# --- which of these

action=${1:-help}
if [ "$action" = help ] || [ $# -lt 2 ] && [ "$action" != check ]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$self"
  exit 2
fi
if [ "$action" = check ]; then check; exit; fi
folder=$(realpath -m "$2")
pki=$folder/pki
case $action in
  up | run | _control | _node | _again | _await_api) nodes=${3:-3} ;;
  *) nodes=$(find "$folder/run" -name 'n[0-9].pid' 2>/dev/null | wc -l) ;;
esac
bin=$("$here/build.sh")/bin
case $action in
  up | run | down) "$action" ;;
  _control) control_plane ;;
  _node) node "$4" ;;
  _again) again "$4" ;;
  _await_api) await "the API server" 90 kubectl get --raw /readyz ;;
  enter) enter "${@:3}" ;;
  load) load "${@:3}" ;;
  node) node_action "$3" "$4" ;;
  api) api_action "$3" ;;
  *) fail "unknown action $action" ;;
esac
