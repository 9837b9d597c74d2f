# shellcheck shell=bash
# What the status says while real pods do what they do: sourced by run.sh, a function for each scenario.

# condition NAME TYPE FIELD
condition() { k get chat "$1" -o jsonpath="{.status.conditions[?(@.type==\"$2\")].$3}"; }
# until_condition NAME TYPE STATUS REASON [SECONDS]
until_condition() {
  has() { [ "$(condition "$1" "$2" status) $(condition "$1" "$2" reason)" = "$3 $4" ]; }
  retry "${5:-120}" has "$1" "$2" "$3" "$4" || { echo "$2 of $1 is not $3 $4"; show "$1"; return 1; }
}

# What a user sees
show() {
  k get chat "$1" -o wide
  k get chat "$1" -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}'
  k get events --field-selector "involvedObject.kind=ChatService,involvedObject.name=$1" \
    -o custom-columns=TYPE:.type,REASON:.reason,NOTE:.message --sort-by=.metadata.creationTimestamp | tail -6
}

chat() { # NAME SPEC: applies a ChatService of the echo backend
  printf '{"apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService", "metadata": {"name": "%s"}, "spec": {"model": "echo-1", "backend": {"echo": {}}, %s}}' "$1" "$2" | k apply -f -
}

serves_model() {
  local end=$((SECONDS + 100))
  until curl -sS --max-time 5 "$BASE/v1/models" | grep -qF "\"$1\""; do
    [ $SECONDS -lt $end ] || { echo "after 100 s $1 is not served"; return 1; }
    sleep 0.1
  done
}

# The operator touches the pods, so that their node brings the new file at once; the same pods take it up.
change_model() {
  local before start; before=$(running demo); start=$(date +%s%N)
  k patch chat demo --type=merge -p '{"spec": {"model": "echo-2"}}'
  with_service demo serves_model echo-2
  echo "served by the same pods after $((($(date +%s%N) - start) / 1000000)) ms"
  with_service demo ask_both_dialects echo-2
  until_condition demo ConfigApplied True Applied
  echo "confirmed after $((($(date +%s%N) - start) / 1000000)) ms"
  k wait --for=condition=Ready chat/demo --timeout=10s
  [ "$(running demo)" = "$before" ] || { echo "pods before: $before, now: $(running demo)"; return 1; }
  show demo
}

missing_image_is_named() {
  chat image '"image": "'"${E2E_IMAGE%%@*}"'-missing"'
  until_condition image Ready False ImagePullFailed
  show image
  k patch chat image --type=merge -p '{"spec": {"image": null}}'
  k wait --for=condition=Ready chat/image --timeout=120s
  k delete chat image
}

# More than its limit: the kernel ends it, again and again.
memory_limit_is_named() {
  chat memory '"resources": {"requests": {"memory": "4Mi"}, "limits": {"memory": "'"5Mi"'"}}'
  until_condition memory Ready False CrashLooping
  show memory
  [[ $(condition memory Ready message) == *OOMKilled*spec.resources.limits.memory* ]] || return 1
  k patch chat memory --type=merge -p '{"spec": {"resources": null}}'
  k wait --for=condition=Ready chat/memory --timeout=120s
  k delete chat memory
}

# An image that ends at once, under a tag that the operator allows
crash_is_named() {
  tests/cluster/mkimage.sh "${E2E_IMAGE%:*}:crashes" --bin /bin/false --entrypoint '["/bin/false"]' --user 65532:65532
  chat crash '"image": "'"${E2E_IMAGE%:*}:crashes"'"'
  until_condition crash Ready False CrashLooping
  [[ $(condition crash Ready message) == *"exit code 1"*"--previous"* ]] || { show crash; return 1; }
  k delete chat crash
}

# The Secret allows the host "demo" alone. The pods keep their last good configuration and serve, until it allows the other too.
refused_configuration_is_told() {
  local before; before=$(running relay)
  k patch chat relay --type=merge -p '{"spec": {"backend": {"openai": {"baseURL": "http://demo.'"$NS"'.svc:8080/v1"}}}}'
  until_condition relay ConfigApplied False Rejected
  show relay
  with_service relay ask_both_dialects echo-2
  k patch secret relay-key --type=merge -p '{"stringData": {"allowed-hosts": "demo,demo.'"$NS"'.svc"}}'
  until_condition relay ConfigApplied True Applied
  with_service relay ask_both_dialects echo-2
  [ "$(running relay)" = "$before" ] || { echo "pods before: $before, now: $(running relay)"; return 1; }
}

paused_is_told() {
  k annotate chat demo chatservice.dev/paused=true
  until_condition demo Ready False Paused
  show demo
  bash -euc "$(reason_and_fix demo Paused)"
  k wait --for=condition=Ready chat/demo --timeout=60s
}
