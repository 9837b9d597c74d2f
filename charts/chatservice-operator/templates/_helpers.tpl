{{- define "chatservice-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* At most 63 characters; a release that holds the chart's name already is not named twice. */ -}}
{{- define "chatservice-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* The full name with a suffix, in: [context, suffix]. Cut before the suffix, so that two of them never meet. */ -}}
{{- define "chatservice-operator.suffixed" -}}
{{- $suffix := printf "-%s" (index . 1) -}}
{{- include "chatservice-operator.fullname" (index . 0) | trunc (int (sub 63 (len $suffix))) | trimSuffix "-" -}}{{ $suffix }}
{{- end -}}

{{- define "chatservice-operator.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "chatservice-operator.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "chatservice-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "chatservice-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* The chart's own labels win over commonLabels: selectors rest on them. */ -}}
{{- define "chatservice-operator.labels" -}}
{{- $own := fromYaml (include "chatservice-operator.selectorLabels" .) -}}
{{- $_ := merge $own (dict
  "helm.sh/chart" (include "chatservice-operator.chart" .)
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/component" "controller"
  "app.kubernetes.io/part-of" "chatservice"
  "app.kubernetes.io/managed-by" .Release.Service) -}}
{{- toYaml (merge $own .Values.commonLabels) -}}
{{- end -}}

{{- /* The lines under `metadata` but name and namespace. In: [context], or [context, labels, annotations] with more of both. */ -}}
{{- define "chatservice-operator.meta" -}}
{{- $ := index . 0 -}}
{{- $labels := dict -}}{{- $annotations := dict -}}
{{- if gt (len .) 1 -}}{{- $labels = index . 1 -}}{{- $annotations = index . 2 -}}{{- end -}}
labels:
  {{- toYaml (merge (dict) $labels (fromYaml (include "chatservice-operator.labels" $))) | nindent 2 }}
{{- with merge (dict) $annotations $.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "chatservice-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "chatservice-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false: the name of an existing ServiceAccount" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "chatservice-operator.image" -}}
{{- $repository := required "image.repository is needed: the name under which the image was pushed, such as --set image.registry=registry.example.com --set image.repository=team/chatservice" .Values.image.repository -}}
{{- with default .Values.image.registry .Values.global.imageRegistry }}{{ . }}/{{ end -}}
{{- $repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end -}}

{{- /* imagePullSecrets of a pod, the parent's too, each once. */ -}}
{{- define "chatservice-operator.imagePullSecrets" -}}
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

{{- /* Whether objects of the Prometheus operator are rendered: "true", or nothing. In: [context, value, kind]. */ -}}
{{- define "chatservice-operator.monitoring" -}}
{{- $ := index . 0 -}}{{- $value := index . 1 -}}{{- $kind := index . 2 -}}
{{- if (index $.Values $value).enabled -}}
{{- $mode := $.Values.serviceMonitor.renderMode -}}
{{- if or (eq $mode "alwaysRender") ($.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" $kind)) -}}true
{{- else if eq $mode "failIfMissing" -}}
{{- fail (printf "%s.enabled is true and the cluster has no %s (monitoring.coreos.com/v1): install the Prometheus operator first, or set serviceMonitor.renderMode to skipIfMissing" $value $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What the operator may do, in each namespace that it watches: the list of src/controller/rbac.rs. */ -}}
{{- define "chatservice-operator.rules" -}}
- apiGroups: [chatservice.dev]
  resources: [chatservices]
  verbs: [get, list, watch]
- apiGroups: [chatservice.dev]
  resources: [chatservices/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- /* What cannot work, said before anything is rendered. */ -}}
{{- define "chatservice-operator.check" -}}
{{- if and .Values.rbac.create (not .Values.rbac.clusterRoles) (not .Values.watchNamespaces) -}}
{{- fail "rbac.clusterRoles is false and watchNamespaces is empty: serving all namespaces needs a ClusterRole. Name the namespaces in watchNamespaces, or set rbac.clusterRoles to true" -}}
{{- end -}}
{{- $known := list "POD_NAME" "POD_NAMESPACE" "CHATSERVICE_SERVER_IMAGE" "CHATSERVICE_OPERATOR_LABELS" -}}
{{- range .Values.extraEnv -}}
{{- if has .name $known -}}
{{- fail (printf "extraEnv: %s is set already: each variable once. What the chart sets follows from the values image, watchNamespaces, allowedImages and logging" .name) -}}
{{- end -}}
{{- $known = append $known .name -}}
{{- end -}}
{{- range .Values.extraArgs -}}
{{- $flag := regexFind "^--[a-z-]+" . -}}
{{- if has $flag (list "--lease-name" "--log-level" "--log-format" "--watch-namespaces" "--allowed-images" "--max-concurrent-rollouts") -}}
{{- fail (printf "extraArgs: %s is set already, from the values logging, watchNamespaces, allowedImages and maxConcurrentRollouts: change those" $flag) -}}
{{- end -}}
{{- end -}}
{{- end -}}
