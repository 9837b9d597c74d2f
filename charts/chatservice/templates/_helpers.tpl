{{- define "chatservice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* The ChatService's name: at most 52 characters, so that its children's names fit. */ -}}
{{- define "chatservice.fullname" -}}
{{- $name := default .Release.Name .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the release's name %s cannot be a ChatService's: that begins with a letter and has only a-z, 0-9 and -. Set fullnameOverride to one that does" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- /* Of Redis' objects. The label of a StatefulSet's revision has 11 characters more than its name and must fit 63. */ -}}
{{- define "chatservice.redis.name" -}}
{{- $name := include "chatservice.fullname" . -}}
{{- if gt (len $name) 46 -}}
{{- $name = printf "%s-%s" ($name | trunc 37 | trimSuffix "-") ($name | sha256sum | trunc 8) -}}
{{- end -}}
{{- $name }}-redis
{{- end -}}

{{- define "chatservice.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "chatservice.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Labels of an object. In: [context, component]. The name has the component in it: the Service of the ChatService selects pods by
       name `chatservice` and the instance, and must never find a pod of this chart. */ -}}
{{- define "chatservice.labels" -}}
{{- $ := index . 0 -}}
{{- $own := fromYaml (include "chatservice.selectorLabels" .) -}}
{{- $_ := merge $own (dict
  "helm.sh/chart" (include "chatservice.chart" $)
  "app.kubernetes.io/version" $.Chart.AppVersion
  "app.kubernetes.io/component" (index . 1)
  "app.kubernetes.io/part-of" "chatservice"
  "app.kubernetes.io/managed-by" $.Release.Service) -}}
{{- toYaml (merge $own $.Values.commonLabels) -}}
{{- end -}}

{{- define "chatservice.selectorLabels" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ printf "%s-%s" (include "chatservice.name" $ | trunc 50 | trimSuffix "-") (index . 1) }}
app.kubernetes.io/instance: {{ include "chatservice.fullname" $ }}
{{- end -}}

{{- /* What the operator puts on the ChatService's pods and Services. */ -}}
{{- define "chatservice.serverLabels" -}}
app.kubernetes.io/name: chatservice
app.kubernetes.io/instance: {{ include "chatservice.fullname" . }}
{{- end -}}

{{- /* The lines under `metadata` but name and namespace. In: [context, component], or [context, component, labels, annotations]. */ -}}
{{- define "chatservice.meta" -}}
{{- $ := index . 0 -}}
{{- $labels := dict -}}{{- $annotations := dict -}}
{{- if gt (len .) 2 -}}{{- $labels = index . 2 -}}{{- $annotations = index . 3 -}}{{- end -}}
labels:
  {{- toYaml (merge (dict) $labels (fromYaml (include "chatservice.labels" (list $ (index . 1))))) | nindent 2 }}
{{- with merge (dict) $annotations $.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "chatservice.image" -}}
{{- $repository := required "image.repository is needed for the Job that makes Redis' password and for `helm test`: the name under which the operator's image was pushed, such as --set image.repository=registry.example.com/team/chatservice" .Values.image.repository -}}
{{- with default .Values.image.registry .Values.global.imageRegistry }}{{ . }}/{{ end -}}
{{- $repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end -}}

{{- define "chatservice.redis.image" -}}
{{- $image := .Values.redis.image -}}
{{- with default $image.registry .Values.global.imageRegistry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag }}{{ end -}}
{{- end -}}

{{- /* imagePullSecrets of a pod, the parent's too, each once. */ -}}
{{- define "chatservice.imagePullSecrets" -}}
{{- $names := list -}}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets -}}
{{- $names = append $names (kindIs "string" . | ternary . (get (kindIs "map" . | ternary . (dict)) "name")) -}}
{{- end -}}
{{- with uniq $names }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* The Secret that says where Redis is. */ -}}
{{- define "chatservice.redis.secret" -}}
{{- $own := include "chatservice.redis.name" . -}}
{{- if .Values.redis.enabled -}}{{ default $own .Values.redis.auth.existingSecret }}
{{- else -}}{{ default $own .Values.externalRedis.existingSecret }}
{{- end -}}
{{- end -}}

{{- /* "true" where the hook Job makes that Secret. */ -}}
{{- define "chatservice.redis.makesSecret" -}}
{{- if and .Values.redis.enabled (not .Values.redis.auth.existingSecret) -}}true{{- end -}}
{{- end -}}

{{- /* Bytes of a quantity, as a decimal. In: [quantity, the value's name]. */ -}}
{{- define "chatservice.bytes" -}}
{{- $text := toString (index . 0) -}}
{{- $number := regexFind "^[0-9]+" $text | int64 -}}
{{- $unit := regexReplaceAll "^[0-9]+" $text "" -}}
{{- $factor := get (dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824) $unit -}}
{{- if or (not $factor) (eq $number 0) -}}
{{- fail (printf "%s is %s, of which three quarters cannot be taken: write a whole number with Mi or Gi, such as 256Mi, or set redis.maxmemory" (index . 1) $text) -}}
{{- end -}}
{{- mul $number $factor -}}
{{- end -}}

{{- define "chatservice.redis.maxmemory" -}}
{{- $limit := get (default (dict) (get (default (dict) .Values.redis.resources) "limits")) "memory" -}}
{{- if .Values.redis.maxmemory -}}{{ .Values.redis.maxmemory }}
{{- else if $limit -}}
{{- div (mul (include "chatservice.bytes" (list $limit "redis.resources.limits.memory") | int64) 3) 4 -}}
{{- else -}}
{{- fail "redis.resources.limits.memory is not set, so nothing says how much Redis may hold: set it, or redis.maxmemory" -}}
{{- end -}}
{{- end -}}

{{- /* Whether the ServiceMonitor is rendered: "true", or nothing. */ -}}
{{- define "chatservice.monitoring" -}}
{{- if .Values.serviceMonitor.enabled -}}
{{- $mode := .Values.serviceMonitor.renderMode -}}
{{- if or (eq $mode "alwaysRender") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor") -}}true
{{- else if eq $mode "failIfMissing" -}}
{{- fail "serviceMonitor.enabled is true and the cluster has no ServiceMonitor (monitoring.coreos.com/v1): install the Prometheus operator first, or set serviceMonitor.renderMode to skipIfMissing" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "chatservice.port" -}}
{{- get .Values.service "port" | default 8080 -}}
{{- end -}}

{{- /* What cannot work, said before anything is rendered. */ -}}
{{- define "chatservice.check" -}}
{{- $external := .Values.externalRedis -}}
{{- $given := list -}}
{{- range $name := list "existingSecret" "url" "host" -}}
{{- if get $external $name -}}{{- $given = append $given (printf "externalRedis.%s" $name) -}}{{- end -}}
{{- end -}}
{{- if gt (len $given) 1 -}}
{{- fail (printf "%s are set: use one of them" (join " and " $given)) -}}
{{- end -}}
{{- $tls := $external.tls -}}
{{- range $name := list "username" "password" -}}
{{- if and $external.url (get $external $name) -}}
{{- fail (printf "externalRedis.url and externalRedis.%s are set, and a url says it itself: write rediss://USER:PASSWORD@HOST:PORT in externalRedis.url, or use externalRedis.host instead" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (ne (int $external.port) 6379) (not $external.host) -}}
{{- fail (printf "externalRedis.port is %d and externalRedis.host is not set: set it, or write the port in %s" (int $external.port) (empty $external.existingSecret | not | ternary "that Secret (externalRedis.existingSecret)" "externalRedis.url")) -}}
{{- end -}}
{{- if and $external.existingSecret (or $tls.enabled $tls.ca $tls.certificate $tls.key) -}}
{{- fail "externalRedis.existingSecret and externalRedis.tls are set, and that Secret says it itself: leave out externalRedis.tls, and put rediss in its url, and certificates in its data keys ca.crt, tls.crt and tls.key" -}}
{{- end -}}
{{- if and (or $tls.ca $tls.certificate $tls.key) (not $tls.enabled) (not (hasPrefix "rediss" $external.url)) -}}
{{- fail "externalRedis.tls has a certificate, and the connection has no TLS: set externalRedis.tls.enabled, or write rediss in externalRedis.url" -}}
{{- end -}}
{{- if and $tls.enabled $external.url (not (hasPrefix "rediss" $external.url)) -}}
{{- fail "externalRedis.tls.enabled is true and externalRedis.url has no TLS: write rediss for redis in it" -}}
{{- end -}}
{{- if and (eq (empty $tls.certificate) (not (empty $tls.key))) -}}
{{- fail "externalRedis.tls.certificate and externalRedis.tls.key go together: set both, or neither" -}}
{{- end -}}
{{- if and $external.existingSecret (or $external.password $external.username) -}}
{{- fail "externalRedis.existingSecret is set, so username and password come from that Secret: leave out externalRedis.username and externalRedis.password" -}}
{{- end -}}
{{- $image := .Values.redis.image -}}
{{- if and .Values.redis.enabled (not $image.repository) -}}
{{- fail "redis.image.repository is empty: name the image of a Valkey or Redis, such as valkey/valkey" -}}
{{- end -}}
{{- if and .Values.redis.enabled (not $image.tag) (not $image.digest) -}}
{{- fail "redis.image.tag is empty, and so is redis.image.digest: name a version of it. No other value says which" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled are both true, and would fight over the number of pods: set one of them to false" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas (%d) is above autoscaling.maxReplicas (%d): lower the first or raise the second" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and .Values.keda.enabled (gt (int .Values.keda.minReplicaCount) (int .Values.keda.maxReplicaCount)) -}}
{{- fail (printf "keda.minReplicaCount (%d) is above keda.maxReplicaCount (%d): lower the first or raise the second" (int .Values.keda.minReplicaCount) (int .Values.keda.maxReplicaCount)) -}}
{{- end -}}
{{- if and .Values.keda.enabled (eq (int .Values.keda.minReplicaCount) 0) (not .Values.keda.triggers) -}}
{{- fail "keda.minReplicaCount is 0 and keda.triggers is empty: without pods there are no streams to count, so nothing would ever start one again. Set keda.minReplicaCount to 1, or keda.triggers to something that is there without pods, such as a cron" -}}
{{- end -}}
{{- if and (hasKey .Values.backend "openai") (not .Values.model) -}}
{{- fail "model is needed with backend.openai: the name of the model to ask, such as --set model=gpt-4o-mini" -}}
{{- end -}}
{{- with .Values.tests.serviceAccountName -}}
{{- $account := dict "namespace" (include "chatservice.namespace" $) "name" . -}}
{{- if not (has $account (get (get $.Values.auth "serviceAccounts" | default dict) "allowed" | default list)) -}}
{{- fail (printf "tests.serviceAccountName is %s, and auth.serviceAccounts.allowed has no {namespace: %s, name: %s}: add it there, or name one of those" . $account.namespace .) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled is true and ingress.hosts is empty: name a host, such as [{host: chat.example.com, paths: [{path: /}]}]" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled is true and httpRoute.parentRefs is empty: name the Gateway, such as [{name: public, namespace: gateways}]" -}}
{{- end -}}
{{- end -}}
