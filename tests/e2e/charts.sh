# shellcheck shell=bash
# Both charts on real pods, as README says it, with a real Valkey; sourced by run.sh, all but `service_chart` for a cluster of our own: what is
# installed has README's names. `helm` of run.sh's own part comes after it, and finds a cluster without any of this.

# Debian's Valkey under the name of the image that the chart would pull, which no test can: of the same minor version.
valkey_image() {
  local name root version tag
  root=$(tests/cluster/valkey.sh)
  name=$("$CACHE/venv/bin/python" -c 'import yaml; i = yaml.safe_load(open("charts/chatservice/values.yaml"))["redis"]["image"]; print("{registry}/{repository}:{tag}".format(**i))')
  version=$(chroot "$root" redis-server --version | grep -oP ' v=\K[0-9.]+') tag=${name##*:}
  echo "the chart names $tag, this is $version"
  [ "${version%.*}" = "${tag%.*}" ]
  tests/cluster/mkimage.sh "$name" --add "$root:/" --env PATH=/usr/bin --entrypoint '["redis-server"]' -o "$WORK/redis.tar"
}

# What this node provides by itself belongs to root, and its kind of volume takes no fsGroup: so Redis' claim finds one that fits.
redis_volume() {
  mkdir -m 777 "$WORK/volume"; chmod 777 "$WORK/volume"; chmod 755 "$WORK"
  kubectl apply -f - <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: demo-redis}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: $(kubectl get storageclass -o jsonpath='{.items[0].metadata.name}')
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: $WORK/volume}
END
}

# The commands of README's section, one a line; what makes the image is done already.
readme_commands() {
  sed -n '/^## In a cluster/,/^## /s/^    //p' README.md | sed -e ':a' -e '/\\$/{N;s/\\\n *//;ba' -e '}' -e 's/  *#.*//' | grep -E '^(helm|kubectl|curl) '
}

# Runs them as they stand, each shown; those that install and wait, then those that ask. The port is there a moment after the command that opens it.
helm_quickstart() {
  local commands command began=$SECONDS answer
  commands=$(readme_commands)
  [ "$(grep -c '^helm install' <<<"$commands")" = 2 ] && [ "$(grep -c '^kubectl wait' <<<"$commands")" = 1 ] && [ "$(grep -c '^curl' <<<"$commands")" = 1 ]
  while read -r command; do
    echo "\$ $command"
    case $command in
      *'&') bash -c "exec ${command%&}" > "$WORK/quickstart.log" 2>&1 & echo $! > "$WORK/forward.pid"
        retry 30 grep -q 'Forwarding from 127' "$WORK/quickstart.log" ;;
      curl*) answer=$(bash -c "$command") ;;
      *) bash -c "$command" ;;
    esac
  done <<<"$commands"
  stop_forward; rm -f "$WORK/forward.pid"
  is '.message == "Hello"' <<<"$answer"
  echo "answered $((SECONDS - began)) s after the first command: $answer"
}

d() { kubectl -n default "$@"; }
ask_demo() { BASE=http://$(d get service demo -o jsonpath='{.spec.clusterIP}'):8080 ask_both_dialects echo-1; }

redis_is_shared_and_locked() {
  BASE=http://$(d get service demo -o jsonpath='{.spec.clusterIP}'):8080
  # The server may be ready before Redis is, and looks for it again when it is asked.
  persisted() { post /api/v1/chat '{"message": "Hello"}' | is '.persisted'; }
  retry 60 persisted
  local cli=(d exec demo-redis-0 -- redis-cli)
  # Nobody without a name; the kubelet's user may ping and nothing else.
  "${cli[@]}" get chatservice:x | grep NOAUTH
  "${cli[@]}" --no-auth-warning --user probe --pass probe ping | grep PONG
  "${cli[@]}" --no-auth-warning --user probe --pass probe get chatservice:x | grep NOPERM
  # The servers' user may touch our keys alone, and no dangerous command.
  local password; password=$(d get secret demo-redis -o jsonpath='{.data.password}' | base64 -d)
  cli+=(--no-auth-warning --user chatservice --pass "$password")
  "${cli[@]}" get other:x | grep NOPERM
  "${cli[@]}" config get maxmemory | grep NOPERM
  "${cli[@]}" flushall | grep NOPERM
  "${cli[@]}" get chatservice:x
  # Redis' pod knows the hash alone.
  if d get statefulset demo-redis -o yaml | grep -F "$password"; then return 1; fi
  if d get configmap demo-redis -o yaml | grep -F "$password"; then return 1; fi
}

conversation_outlives_redis_pod() {
  BASE=http://$(d get service demo -o jsonpath='{.spec.clusterIP}'):8080
  local id uid
  id=$(post /api/v1/chat '{"message": "Remember this"}' | jq -re 'select(.persisted) | .conversation_id')
  uid=$(d get pod demo-redis-0 -o jsonpath='{.metadata.uid}')
  # Written within a second (appendfsync everysec)
  sleep 1.1
  d delete pod demo-redis-0
  replaced() { [ "$(d get pod demo-redis-0 -o jsonpath='{.metadata.uid}')" != "$uid" ]; }
  retry 60 replaced
  d wait --for=condition=Ready pod/demo-redis-0 --timeout=60s
  remembered() { curl -sS --fail-with-body --max-time 5 "$BASE/api/v1/conversations/$id" | is '.messages[0].content == "Remember this"'; }
  retry 30 remembered
}

upgrade_keeps_the_password() {
  local before after
  before=$(d get secret demo-redis -o jsonpath='{.metadata.resourceVersion}')
  helm upgrade demo charts/chatservice --set image.repository=localhost/chatservice --set rateLimits.requestsPerMinute=600 --wait --timeout 2m
  after=$(d get secret demo-redis -o jsonpath='{.metadata.resourceVersion}')
  [ "$before" = "$after" ]
  retry 30 ask_demo
}

helm_tests() {
  helm test demo
  helm test chatservice --namespace chatservice-system
}

# Both kinds of pods are admitted where only restricted ones are.
restricted_namespace() {
  kubectl create namespace strict
  kubectl label namespace strict pod-security.kubernetes.io/enforce=restricted
  helm install strict charts/chatservice --namespace strict --set image.repository=localhost/chatservice --set redis.persistence.enabled=false --wait --timeout 2m
  helm test strict --namespace strict
  helm uninstall strict --namespace strict --wait
  kubectl delete namespace strict --wait=false
}

permissions_of_both_accounts() {
  echo "--- the operator"; kubectl auth can-i --list --as=system:serviceaccount:chatservice-system:chatservice-chatservice-operator -n default
  echo "--- a chat server"; kubectl auth can-i --list --as=system:serviceaccount:default:demo -n default
  local account verb
  for account in chatservice-system:chatservice-chatservice-operator default:demo; do
    for verb in get list watch create; do
      if kubectl auth can-i "$verb" secrets -n default --as="system:serviceaccount:$account" >/dev/null; then echo "$account may $verb secrets"; return 1; fi
    done
  done
  # A server's account may what any fresh account may.
  diff <(kubectl auth can-i --list --as=system:serviceaccount:default:demo -n default) <(kubectl auth can-i --list --as=system:serviceaccount:default:default -n default)
}

serves_without_an_operator() {
  helm uninstall chatservice --namespace chatservice-system --wait
  d get chat demo
  ask_demo
  d get pods -l app.kubernetes.io/instance=demo
}

charts_are_uninstalled() {
  helm uninstall demo --wait
  gone() { [ -z "$(d get deployments,statefulsets,pods,services,configmaps -o name -l app.kubernetes.io/instance=demo)" ]; }
  retry 60 gone
  # What its notes say is left
  d get secret/demo-redis pvc/data-demo-redis-0
  d delete secret/demo-redis pvc/data-demo-redis-0
  kubectl delete pv demo-redis
  kubectl delete crd "$CRD"
  kubectl delete namespace chatservice-system --timeout=60s
}

# On either cluster, beside the operator of run.sh's own part. A cluster of our own has no volume that fits; the steps above bring one.
service_chart() {
  local persistence=true; [ "$OWN" = 0 ] || persistence=false
  helm install chart charts/chatservice --namespace "$NS" "${IMAGE_VALUES[@]}" --set "redis.persistence.enabled=$persistence" --wait --timeout 3m
  with_service chart retry 30 ask_both_dialects echo-1
  k wait --for=condition=StateShared chat/chart --timeout=60s
  helm test chart --namespace "$NS"
  helm uninstall chart --namespace "$NS" --wait
  k delete secret/chart-redis
  k delete pvc/data-chart-redis-0 --ignore-not-found
}

charts() {
  step "image of a Valkey" valkey_image
  step "volume for it" redis_volume
  step "README's Helm quickstart answers within a minute" helm_quickstart
  step "Redis is shared, and open to the servers alone" redis_is_shared_and_locked
  step "a conversation outlives Redis' pod" conversation_outlives_redis_pod
  step "upgrade keeps Redis' password" upgrade_keeps_the_password
  step "helm test asks both" helm_tests
  step "a restricted namespace takes the chart" restricted_namespace
  step "what both accounts may" permissions_of_both_accounts
  step "servers go on without an operator" serves_without_an_operator
  step "uninstall leaves what the notes say" charts_are_uninstalled
}
