#!/bin/bash
# with-api-server.sh CMD [ARG...]: runs CMD beside a real Kubernetes API server with controller-manager, scheduler and kwok
# (which plays the kubelet: it makes pods ready, but runs nothing), all of it new, empty and on free ports, and takes it down again.
#
# CMD finds an admin's kubeconfig in $CHATSERVICE_TEST_KUBECONFIG and $KUBECONFIG, and etcd's JSON API in $CHATSERVICE_TEST_ETCD. RBAC is on. The only node, kwok-node, is fake.
# KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver, replaces those two; build.sh builds what else is missing.
# Ends with CMD's exit code. When one of the programs fails, the ends of their logs are printed to stderr.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
[ $# -gt 0 ] || { sed -n '2,/^set -e/{/^set -e/!s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

ASSETS=${KUBEBUILDER_ASSETS:-}
NEEDED=(kube-controller-manager kube-scheduler kubectl kwok)
if [ -n "$ASSETS" ]; then
  for p in etcd kube-apiserver; do
    [ -x "$ASSETS/$p" ] || { echo "KUBEBUILDER_ASSETS=$ASSETS holds no program $p: unset it, or point it at a folder with etcd and kube-apiserver" >&2; exit 1; }
  done
else
  ASSETS=$B; NEEDED+=(etcd kube-apiserver)
fi
"$S/build.sh" "${NEEDED[@]}" >&2

# What a run that was killed outright left behind: its programs died with it, its folder goes now.
mkdir -p "$K/api"
for d in "$K"/api/*; do [ -d "$d" ] && [ ! -d "/proc/${d##*/}" ] && rm -rf "$d"; done
D=$K/api/$$; rm -rf "$D"; mkdir -m 700 "$D"; cd "$D"
PIDS=()
READY=0
# Did it come up, and do all programs still run?
well() {
  [ "$READY" = 1 ] || return 1
  local pid; for pid in "${PIDS[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done
}
finish() {
  local code=$? log
  trap - EXIT
  if [ "$code" != 0 ] && ! well; then
    for log in "$D"/*.log; do [ ! -s "$log" ] || { echo "--- end of ${log##*/}"; tail -n 8 "$log" | cut -c1-300; } >&2; done
  fi
  # Nothing of it is kept, so nothing needs a chance to save its work.
  [ ${#PIDS[@]} = 0 ] || { kill -9 "${PIDS[@]}"; wait "${PIDS[@]}"; } 2>/dev/null || :
  rm -rf "$D"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# run PROGRAM ARG...: in the background; dies with this script, however that ends
run() { local name=${1##*/}; setpriv --pdeathsig KILL "$@" > "$D/$name.log" 2>&1 < /dev/null & PIDS+=($!); }

read -r ETCD PEER API < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in held))')

# A CA, the server's certificate and the admin's (group system:masters), good for one day.
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
key ca; key server; key admin
openssl req -x509 -new -key ca.key -out ca.crt -days 2 -subj /CN=test-ca \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
issue() { # NAME SUBJECT EXTENSIONS
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr" 2>/dev/null
  printf '%s\n' "${@:3}" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 1 -extfile "$1.ext" 2>/dev/null
}
issue server /CN=kube-apiserver subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1 extendedKeyUsage=serverAuth
issue admin /O=system:masters/CN=admin subjectAltName=DNS:admin extendedKeyUsage=clientAuth
openssl genrsa -out sa.key 2048 2>/dev/null
cat > kubeconfig <<E
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
clusters: [{name: test, cluster: {server: 'https://127.0.0.1:$API', certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: admin, user: {client-certificate-data: $(base64 -w0 admin.crt), client-key-data: $(base64 -w0 admin.key)}}]
E
api() { curl -sf --max-time 5 --cacert ca.crt --cert admin.crt --key admin.key "https://127.0.0.1:$API$1" "${@:2}"; }
# until_ok SECONDS WHAT CMD...: CMD again and again until it succeeds; the programs must stay alive
until_ok() {
  local end=$((SECONDS + $1)) what=$2 pid; shift 2
  until "$@" >/dev/null 2>&1; do
    for pid in "${PIDS[@]}"; do kill -0 "$pid" 2>/dev/null || { echo "a program of the test API server died while waiting for $what" >&2; exit 1; }; done
    [ $SECONDS -lt $end ] || { echo "gave up waiting for $what" >&2; exit 1; }
    sleep 0.1
  done
}

run "$ASSETS/etcd" --data-dir "$D/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls "http://127.0.0.1:$ETCD" --advertise-client-urls "http://127.0.0.1:$ETCD" \
  --listen-peer-urls "http://127.0.0.1:$PEER" --initial-advertise-peer-urls "http://127.0.0.1:$PEER" --initial-cluster "default=http://127.0.0.1:$PEER"
cat > api-server.sh <<E
#!/bin/bash
# api-server.sh PORT KEY...: one more API server of this cluster. It signs tokens with the first key and accepts those of all.
port=\$1 signing=\$2 keys=(); shift
for key in "\$@"; do keys+=(--service-account-key-file "\$key"); done
exec "$ASSETS/kube-apiserver" --etcd-servers http://127.0.0.1:$ETCD --bind-address 127.0.0.1 --secure-port "\$port" \\
  --cert-dir "$D" --tls-cert-file server.crt --tls-private-key-file server.key --client-ca-file ca.crt \\
  --service-account-issuer https://kubernetes.default.svc "\${keys[@]}" --service-account-signing-key-file "\$signing" \\
  --service-cluster-ip-range 10.96.0.0/16 --authorization-mode RBAC --endpoint-reconciler-type none
E
chmod +x api-server.sh
run "$D/api-server.sh" "$API" sa.key
until_ok 120 "the API server" api /readyz
# A busy machine delays the heartbeats of the fake node; its pods must not turn unready for that.
run "$B/kube-controller-manager" --kubeconfig kubeconfig --leader-elect=false --secure-port 0 \
  --use-service-account-credentials --service-account-private-key-file sa.key --root-ca-file ca.crt --node-monitor-grace-period 1h \
  --horizontal-pod-autoscaler-sync-period 1s
run "$B/kube-scheduler" --kubeconfig kubeconfig --leader-elect=false --secure-port 0
run "$B/kwok" --kubeconfig kubeconfig --config "$K/kwok-stages.yaml" --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake
api /api/v1/nodes -X POST -H 'content-type: application/json' -o /dev/null --data '{"apiVersion": "v1", "kind": "Node",
  "metadata": {"name": "kwok-node", "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {"kubernetes.io/hostname": "kwok-node", "kubernetes.io/os": "linux"}},
  "status": {"allocatable": {"cpu": "1000", "memory": "256Gi", "pods": "9000"}, "capacity": {"cpu": "1000", "memory": "256Gi", "pods": "9000"}}}'
node_ready() { api /api/v1/nodes/kwok-node | tr -d ' \n' | grep '"type":"Ready","status":"True"'; }
account_made() { api /api/v1/namespaces/default/serviceaccounts/default; }
# The controller-manager's own marks on a new node keep pods away until its controllers have seen the node.
untainted() { local node; node=$(api /api/v1/nodes/kwok-node) && [[ $node != *'"taints"'* ]]; }
until_ok 60 "the fake node" node_ready
until_ok 60 "the controller-manager" account_made
until_ok 60 "the node's taints to go" untainted
READY=1
echo "API server with controllers, scheduler and kwok ready after $SECONDS s" >&2

export CHATSERVICE_TEST_KUBECONFIG=$D/kubeconfig KUBECONFIG=$D/kubeconfig CHATSERVICE_TEST_ETCD=http://127.0.0.1:$ETCD PATH=$B:$PATH
cd "$OLDPWD"
code=0; "$@" || code=$?
exit "$code"
