# shellcheck shell=sh
# Source me: kubectl, helm, ctr and KUBECONFIG for the single-node cluster.
export K8S_HOME="${K8S_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/chatservice/cluster}"
export PATH="$K8S_HOME/bin:$PATH" KUBECONFIG="$K8S_HOME/run/admin.kubeconfig"
export CONTAINERD_NAMESPACE=k8s.io
