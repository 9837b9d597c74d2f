# shellcheck shell=bash
# What goes on under running services, for a cluster of our own: an operator that dies, its upgrade, a renewed certificate. Sourced by run.sh.

# under_load THREADS NAME... -- CMD...: while those Services (NodePort) are asked without a pause, through a port of the node each:
# fails if CMD does, or one request did.
under_load() {
  local threads=$1 urls=() name code=0 load; shift
  while [ "$1" != -- ]; do
    name=$1; shift
    urls+=("http://127.0.0.1:$(k get service "$name" -o jsonpath='{.spec.ports[0].nodePort}')")
    retry 30 curl -sS --fail --max-time 2 "${urls[-1]}/health"
  done
  shift
  rm -f "$WORK/stop"
  python3 tests/e2e/load.py "$WORK/stop" "$threads" "${urls[@]}" > "$WORK/load" 2>&1 & load=$!
  "$@" || code=1
  touch "$WORK/stop"
  wait "$load" || code=1
  cat "$WORK/load"
  return "$code"
}

lease_holder() { kubectl -n "$SYSTEM" get lease chatservice-chatservice-operator -o jsonpath='{.spec.holderIdentity}'; }

# Without a last word, as if its node had died
kill_leader() {
  local id; id=$(kubectl -n "$SYSTEM" get pod "${1%_*}" -o jsonpath='{.status.containerStatuses[0].containerID}')
  ctr -n k8s.io tasks kill --signal SIGKILL "${id#containerd://}"
}

# Chained, because it runs in a condition, where `set -e` does not work.
rolled_by_another_leader() {
  local first start=$SECONDS before; first=$(lease_holder); before=$(running demo)
  other_leads() { local now; now=$(lease_holder) && [ -n "$now" ] && [ "$now" != "$first" ]; }
  # Also while the last of the old ones drain
  replaced() { local now; now=$(running demo) && [ "$(wc -l <<<"$now")" = 2 ] && ! grep -qF -f <(cut -d' ' -f1 <<<"$before") <<<"$now"; }
  kill_leader "$first" && k annotate chat demo "chatservice.dev/restartedAt=$(date -u +%FT%TZ)" --overwrite \
    && retry 40 other_leads && echo "$(lease_holder) leads $((SECONDS - start)) s after $first was killed" \
    && until_condition demo Reconciling True RollingOut 30 && show demo \
    && k wait --for=jsonpath='{.status.config.applied}'=2/2 chat/demo --timeout=120s \
    && k wait --for=condition=Ready chat/demo --timeout=120s && retry 120 replaced
}

# What the first leader left undone the second does, and every pod is replaced: no request fails.
leader_dies_under_load() {
  local code=0
  k patch chat demo --type=merge -p '{"spec": {"replicas": 2, "service": {"type": "NodePort"}}}'
  k wait --for=jsonpath='{.status.pods}'=2/2 chat/demo --timeout=120s
  under_load 4 demo -- rolled_by_another_leader || code=1
  k patch chat demo --type=merge -p '{"spec": {"replicas": 1, "service": {"type": "ClusterIP"}}}'
  k wait --for=jsonpath='{.status.pods}'=1/1 chat/demo --timeout=120s || code=1
  return "$code"
}

# NAME IMAGE REVISION, and `rolling` while its pods are not all new and ready
rollouts() {
  k get deployments -o json | jq -r '.items[] | "\(.metadata.name) \(.spec.template.spec.containers[0].image) \(.metadata.annotations["deployment.kubernetes.io/revision"])"
    + (if .status.observedGeneration == .metadata.generation and .status.replicas == .spec.replicas and .status.updatedReplicas == .spec.replicas
       and .status.availableReplicas == .spec.replicas then "" else " rolling" end)'
}

upgraded_two_at_a_time() {
  local next=$1 most=0 end=$((SECONDS + 150)) now rolling; shift
  helm upgrade chatservice charts/chatservice-operator --namespace "$SYSTEM" --reuse-values --set "image.tag=${next##*:},maxConcurrentRollouts=2" || return 1
  until now=$(rollouts) && [ "$(grep -cE "^up-. $next 2\$" <<<"$now")" = "$#" ]; do
    rolling=$(grep -c ' rolling$' <<<"$now"); [ "$rolling" -le "$most" ] || most=$rolling
    [ $SECONDS -lt $end ] || { echo "not all are rolled:"; echo "$now"; return 1; }
    sleep 0.2
  done
  echo "at most $most were rolled at a time"
  [ "$most" -le 2 ]
}

# The servers' image is another: each service that names none is rolled once, at most as many at a time as was said, one that names
# its own not at all; no request fails.
upgrade_rolls_services_under_load() {
  local next=$E2E_IMAGE-next names=(up-1 up-2 up-3 up-4 up-5) name fixed code=0
  local spec='"service": {"type": "NodePort"}, "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}'
  ctr -n k8s.io images tag --force "$E2E_IMAGE" "$next"
  for name in "${names[@]}"; do chat "$name" "$spec"; done
  chat fixed "$spec, \"image\": \"$E2E_IMAGE\""
  k wait --for=condition=Ready chat "${names[@]}" fixed --timeout=120s
  fixed=$(k get deployment fixed -o jsonpath='{.spec.template}')
  under_load 1 "${names[@]}" fixed -- upgraded_two_at_a_time "$next" "${names[@]}" || code=1
  rollouts
  [ "$(k get deployment fixed -o jsonpath='{.spec.template}')" = "$fixed" ] || { echo "the pods of fixed were changed"; code=1; }
  k delete chat "${names[@]}" fixed --wait=false
  return "$code"
}

# certificate NAME: of an authority of its own, for the Service of the ChatService tls
certificate() {
  local file=$WORK/$1
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=authority of $1" -keyout "$file-ca.key" -out "$file-ca.crt" 2>/dev/null
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tls -CA "$file-ca.crt" -CAkey "$file-ca.key" \
    -addext "subjectAltName=DNS:tls.$NS.svc" -addext basicConstraints=critical,CA:FALSE -keyout "$file.key" -out "$file.crt" 2>/dev/null
}
tls_secret() {
  k create secret generic tls-cert --from-file=tls.crt="$WORK/$1.crt" --from-file=tls.key="$WORK/$1.key" --from-file=ca.crt="$WORK/$1-ca.crt" --dry-run=client -o yaml | k apply -f -
}
# served_by NAME: does the Service show that certificate, and answer?
served_by() {
  local address; address=$(k get service tls -o jsonpath='{.spec.clusterIP}')
  curl -sS --fail --max-time 5 --cacert "$WORK/$1-ca.crt" --resolve "tls.$NS.svc:8080:$address" "https://tls.$NS.svc:8080/health"
}

# With callers who log in, so that the pod of `helm test` needs both the authority and a key.
certificate_is_served() {
  certificate first; certificate second
  tls_secret first
  k create secret generic tls-keys --from-literal=web="$(openssl rand -hex 32)"
  # Its image is named, so that no upgrade of the operator replaces its pod.
  chat tls '"image": "'"$E2E_IMAGE"'", "service": {"tls": {"secretRef": {"name": "tls-cert"}}}, "auth": {"apiKeysSecretRef": {"name": "tls-keys"}}'
  k wait --for=condition=Ready chat/tls --timeout=120s
  [ "$(k get chat tls -o jsonpath='{.status.endpoint}')" = "https://tls.$NS.svc:8080/v1" ]
  retry 30 served_by first
  if served_by second 2>/dev/null; then echo "another authority is believed"; return 1; fi
  helm_test_passes
  # The node brings it within a minute or two: looked at later.
  running tls > "$WORK/tls-pods"; date +%s > "$WORK/tls-since"
  tls_secret second
}

# The pod that the chart's `helm test` would start for it
helm_test_passes() {
  helm template tls charts/chatservice --namespace "$NS" --show-only templates/tests/ask.yaml --set "image.repository=${E2E_IMAGE%:*},image.tag=${E2E_IMAGE##*:}" \
    --set service.tls.secretRef.name=tls-cert --set auth.apiKeysSecretRef.name=tls-keys | k apply -f -
  k wait --for=jsonpath='{.status.phase}'=Succeeded pod/tls-test --timeout=60s || { k logs tls-test; return 1; }
  k logs tls-test
  k delete pod tls-test
}

certificate_is_renewed_without_a_restart() {
  retry 150 served_by second || { echo "still the old one"; return 1; }
  echo "the other certificate was seen $(($(date +%s) - $(< "$WORK/tls-since"))) s after its Secret was changed, or earlier"
  if served_by first 2>/dev/null; then echo "the old one is served still"; return 1; fi
  [ "$(running tls)" = "$(< "$WORK/tls-pods")" ] || { echo "its pod was replaced or started again"; return 1; }
  helm_test_passes
  k delete chat tls
  k delete secret tls-cert tls-keys
}
