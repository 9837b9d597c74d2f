#!/bin/bash
# The operator on a cluster, as a user meets it: install, apply, ask, change, break, heal, delete. Called by `make e2e`.
#
# KUBECONFIG with E2E_IMAGE (an image of chatservice that the cluster can pull) names a cluster, which pulls the chart's Valkey too and has a
# default StorageClass; what is made there is removed again.
# Without them a single-node cluster is made here (tests/cluster; needs root) with the image that the Dockerfile makes of this tree.
# E2E_KEEP=1 leaves that cluster up to look around: . tests/cluster/env.sh
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$(readlink -f "$0")")/../.."
# shellcheck source=../stages.sh
. tests/stages.sh
# shellcheck source=../cluster/lib.sh
. tests/cluster/lib.sh
# shellcheck source=charts.sh
. tests/e2e/charts.sh
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/chatservice
SYSTEM=chatservice-e2e-system
NS=chatservice-e2e
CRD=chatservices.chatservice.dev
WORK=$(mktemp -d)

# Whoever looked around in a cluster that was left up has its KUBECONFIG still.
[ "${KUBECONFIG:-}" != "$R/admin.kubeconfig" ] || unset KUBECONFIG
if [ -n "${KUBECONFIG:-}" ] && [ -n "${E2E_IMAGE:-}" ]; then OWN=0
elif [ -n "${E2E_IMAGE:-}" ]; then echo "E2E_IMAGE without KUBECONFIG: set both, or neither for a cluster of its own" >&2; exit 1
elif [ -n "${KUBECONFIG:-}" ]; then echo "KUBECONFIG without E2E_IMAGE: set both, or neither for a cluster of its own" >&2; exit 1
else
  OWN=1; VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1); E2E_IMAGE=localhost/chatservice:$VERSION
  . tests/cluster/env.sh
fi

k() { kubectl -n "$NS" "$@"; }
stop_forward() { [ ! -f "$WORK/forward.pid" ] || kill "$(cat "$WORK/forward.pid")" 2>/dev/null || :; }

diagnose() {
  printf '\n--- what the cluster says\n'
  k get chatservices,deployments,pods,services -o wide
  k get chatservices -o jsonpath='{range .items[*]}{.metadata.name}: {.status}{"\n"}{end}'
  k get events --sort-by=.lastTimestamp | tail -15
  kubectl -n "$SYSTEM" get pods -o wide
  kubectl -n "$SYSTEM" logs --tail=40 --all-containers -l app.kubernetes.io/name=chatservice-operator
  k logs --tail=15 --prefix -l app.kubernetes.io/managed-by=chatservice-controller
} 2>&1

# Was it this run's Helm that made the CRD? It says so on what it makes.
crd_is_ours() {
  local from
  from=$(kubectl get crd "$CRD" -o jsonpath='{.metadata.annotations.meta\.helm\.sh/release-namespace}') && [ "$from" = "$SYSTEM" ]
}

# However this ends, nothing is left: a cluster of our own goes as a whole, in another one what was installed is removed.
INSTALLED=0
finish() {
  local code=$?
  trap - EXIT
  stop_forward
  if [ "$OWN" = 1 ]; then
    if [ -n "${E2E_KEEP:-}" ]; then echo "the cluster is left up:  . tests/cluster/env.sh; tests/cluster/cluster-down.sh --wipe"
    else tests/cluster/cluster-down.sh --wipe >/dev/null || code=1; fi
  elif [ "$INSTALLED" = 1 ]; then
    k delete chatservices --all --timeout=60s
    helm uninstall chatservice --namespace "$SYSTEM" --ignore-not-found
    kubectl delete namespace "$NS" "$SYSTEM" --ignore-not-found --timeout=120s
    if crd_is_ours; then kubectl delete crd "$CRD" --ignore-not-found; fi
  fi >/dev/null 2>&1
  rm -rf "$WORK"
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# step NAME CMD...: a stage without which the rest makes no sense
step() {
  stage "$@"
  [ "$LAST" = 0 ] || { diagnose || :; finale; }
}
finale() {
  local code=0
  summary || code=1
  printf '%s passed, %s failed\n' "$PASSED" "$FAILED"
  exit "$code"
}

# What a run that was killed left behind goes first; images stay.
new_cluster() {
  tests/cluster/cluster-down.sh --wipe
  tests/cluster/cluster-up.sh
}

# The image as values of either chart. A colon is a tag's only after the last slash.
REPOSITORY=${E2E_IMAGE%%@*} IMAGE_VALUES=()
if [ "$REPOSITORY" != "$E2E_IMAGE" ]; then IMAGE_VALUES+=(--set "image.digest=${E2E_IMAGE#*@}"); fi
if [[ ${REPOSITORY##*/} == *:* ]]; then IMAGE_VALUES+=(--set "image.tag=${REPOSITORY##*:}"); REPOSITORY=${REPOSITORY%:*}; fi
IMAGE_VALUES+=(--set "image.repository=$REPOSITORY")

install() {
  helm install chatservice charts/chatservice-operator --namespace "$SYSTEM" --create-namespace \
    --set replicaCount=2 "${IMAGE_VALUES[@]}" --wait --timeout 3m
  kubectl create namespace "$NS"
  kubectl wait --for=condition=Established "crd/$CRD" --timeout=30s
  retry 30 k get serviceaccount default
}

# Every object of the namespace but events, which are only a record, and Endpoints, which mirror the EndpointSlices
listing() {
  local kinds
  kinds=$(kubectl api-resources --verbs=list --namespaced -o name | grep -vE '^(events(\..*)?|endpoints|(pods|nodes)\.metrics.*)$' | paste -sd,)
  k get "$kinds" --ignore-not-found -o name | sort
}

apply_quickstart() {
  k apply -f examples/quickstart.yaml
  k wait --for=condition=Ready chat/demo --timeout=120s
  k get chat -o wide
}

# with_service NAME CMD...: CMD with $BASE, a URL of the ChatService's Service: its ClusterIP, or through a port-forward
with_service() {
  local name=$1 port code=0 pid; shift
  port=$(k get service "$name" -o jsonpath='{.spec.ports[0].port}')
  if [ "$OWN" = 1 ]; then
    BASE=http://$(k get service "$name" -o jsonpath='{.spec.clusterIP}'):$port "$@"
    return
  fi
  kubectl -n "$NS" port-forward "service/$name" ":$port" > "$WORK/forward.log" 2>&1 & pid=$!
  echo "$pid" > "$WORK/forward.pid"
  retry 30 grep -q 'Forwarding from 127' "$WORK/forward.log"
  BASE=http://127.0.0.1:$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$WORK/forward.log" | head -1) "$@" || code=$?
  kill "$pid"; wait "$pid" 2>/dev/null || :
  rm -f "$WORK/forward.pid"
  return "$code"
}

post() { curl -sS --fail-with-body --max-time 20 -H 'content-type: application/json' "$BASE$1" -d "$2"; }
# is JQ-CONDITION: standard input, which is shown when it is otherwise
is() { local input; input=$(cat); jq -e "$1" >/dev/null <<<"$input" || { echo "expected $1, got: $input"; return 1; }; }

# Chained, because it is also retried, and in a condition `set -e` does not work.
ask_both_dialects() { # MODEL
  post /api/v1/chat '{"message": "Hello, cluster"}' | is ".message == \"Hello, cluster\" and .model == \"$1\" and .cached == false" \
    && post /api/v1/chat/stream '{"message": "Hello, stream"}' > "$WORK/events" \
    && grep '^data: ' "$WORK/events" | sed 's/^data: //' | jq -s '{text: map(.delta // "") | add, last: last}' \
    | is '.text == "Hello, stream" and .last.finished == true' \
    && post /v1/chat/completions "{\"model\": \"$1\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello, OpenAI\"}]}" \
    | is ".choices[0].message.content == \"Hello, OpenAI\" and .model == \"$1\"" \
    && curl -sS --fail-with-body --max-time 5 "$BASE/health" | is '.status == "healthy"'
}

ask_with_sdk() { "$CACHE/venv/bin/python" tests/e2e/sdk.py "$BASE/v1" "$1"; }

refuses_bad_spec() {
  local said
  said=$(k patch chat demo --type=merge -p '{"spec": {"replicas": -1}}' 2>&1) && { echo "replicas: -1 was accepted"; return 1; }
  grep -F 'spec.replicas' <<<"$said"
}

# Pods with their restarts: whether any was replaced or started again
running() { k get pods -l "app.kubernetes.io/instance=$1" -o jsonpath='{range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}'; }

scales() {
  k scale chat/demo --replicas=2
  k wait --for=jsonpath='{.status.pods}'=2/2 chat/demo --timeout=120s
  k get poddisruptionbudget demo
  k scale chat/demo --replicas=1
  k wait --for=jsonpath='{.status.pods}'=1/1 chat/demo --timeout=120s
}

deleted_child_comes_back() {
  local uid; uid=$(k get service demo -o jsonpath='{.metadata.uid}')
  k delete service demo
  returned() { local now; now=$(k get service demo -o jsonpath='{.metadata.uid}') && [ -n "$now" ] && [ "$now" != "$uid" ]; }
  retry 30 returned
  with_service demo retry 30 ask_both_dialects echo-2
}

# reason_and_fix NAME REASON: waits for Ready=False with that reason, and prints the command of its message
reason_and_fix() {
  k wait --for=jsonpath='{.status.conditions[?(@.type=="Ready")].reason}'="$2" "chat/$1" --timeout=120s >&2
  local message; message=$(k get chat "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].message}')
  echo "$message" >&2
  [[ $message == *kubectl\ -n\ * ]] || { echo "the message holds no command" >&2; return 1; }
  echo "kubectl -n ${message#*kubectl -n }"
}

missing_secret_is_named() {
  k apply -f tests/e2e/relay.yaml
  reason_and_fix relay SecretNotFound > "$WORK/fix"
  show relay
}

secret_heals_by_the_printed_commands() {
  local fix start=$SECONDS; fix=$(< "$WORK/fix")
  # What a user does: paste, and put the key where the dots are.
  bash -euc "${fix/.../test-key}"
  # The key may only go where its Secret says; the message tells how to say so.
  fix=$(reason_and_fix relay CredentialHostMismatch)
  bash -euc "$fix"
  k wait --for=condition=Ready chat/relay --timeout=120s
  echo "healed after $((SECONDS - start)) s, two commands"
  with_service relay retry 30 ask_both_dialects echo-2
}

# Not applied for good: they want a model and a key.
examples_are_valid() { k apply --dry-run=server -f examples; }

# A pod starts without its key, which is found again when it is back.
lost_secret_is_named() {
  k delete secret relay-key
  k delete pods -l app.kubernetes.io/instance=relay
  reason_and_fix relay SecretNotFound > "$WORK/fix"
}

deletes_without_a_trace() {
  k delete chatservices --all --timeout=60s
  k delete secret relay-key
  left() { listing > "$WORK/after"; ! diff "$WORK/before" "$WORK/after" > "$WORK/left"; }
  gone() { ! left; }
  retry 120 gone || { echo "left behind:"; cat "$WORK/left"; return 1; }
}

uninstall() {
  helm uninstall chatservice --namespace "$SYSTEM" --wait
  kubectl get crd "$CRD" # crds.keep
  kubectl delete crd "$CRD"
  local left; left=$(kubectl get clusterroles,clusterrolebindings -o name -l app.kubernetes.io/part-of=chatservice; kubectl -n "$SYSTEM" get deployments,serviceaccounts -o name -l app.kubernetes.io/part-of=chatservice)
  [ -z "$left" ] || { echo "left behind: $left"; return 1; }
}

# shellcheck source=conditions.sh
. tests/e2e/conditions.sh
# shellcheck source=upkeep.sh
. tests/e2e/upkeep.sh

step "tools" tests/tools.sh kubectl helm
if [ "$OWN" = 1 ]; then
  step "image to build in" tests/cluster/rust-image.sh
  step "image of the Dockerfile" make image
  step "it holds the program alone, below 20 MB" python3 tests/e2e/image.py "$CACHE/chatservice-$VERSION.tar" "$VERSION"
  step "cluster" new_cluster
  step "image into the node" ctr images import "$CACHE/chatservice-$VERSION.tar"
  charts
else
  # What is there already is not ours to remove at the end. An error of kubectl ends this.
  found=$(kubectl get crd "$CRD" --ignore-not-found -o name; kubectl get namespace "$NS" "$SYSTEM" --ignore-not-found -o name)
  [ -z "$found" ] || { printf 'nothing was done, because this cluster has already:\n%s\n' "$found" >&2; exit 1; }
fi
INSTALLED=1
step "operator installed by its chart" install
listing > "$WORK/before"
step "examples are taken by the API server" examples_are_valid
step "quickstart becomes Ready" apply_quickstart
step "both dialects answer through the Service" with_service demo ask_both_dialects echo-1
step "the OpenAI SDK works unchanged" with_service demo ask_with_sdk echo-1
step "the service's chart serves with its Redis" service_chart
step "bad spec is refused by the API server" refuses_bad_spec
step "changed model is served by the same pods" change_model
step "a pause is told and ends" paused_is_told
if [ "$OWN" = 1 ]; then step "a Secret's certificate is served, helm test believes it" certificate_is_served; fi
step "missing image is named" missing_image_is_named
step "too little memory is named" memory_limit_is_named
if [ "$OWN" = 1 ]; then
  step "crash is named" crash_is_named
  step "leader dies, the other replaces pods under load without a failure" leader_dies_under_load
  step "upgrade rolls services under load without a failure" upgrade_rolls_services_under_load
  step "renewed certificate is served by the same pods" certificate_is_renewed_without_a_restart
fi
step "kubectl scale works both ways" scales
step "deleted child comes back" deleted_child_comes_back
step "missing Secret is named with its fix" missing_secret_is_named
step "printed commands heal it" secret_heals_by_the_printed_commands
step "refused configuration is told, the last good one serves" refused_configuration_is_told
step "lost Secret is named with its fix" lost_secret_is_named
step "printed commands heal it again" secret_heals_by_the_printed_commands
step "deletion leaves nothing" deletes_without_a_trace
step "uninstall leaves nothing" uninstall
finale
