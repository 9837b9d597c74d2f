# source me: kubectl, helm, crictl and ctr for the single-node cluster
export K8S_HOME=${K8S_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/chatservice/cluster}
export PATH=$K8S_HOME/bin:$PATH KUBECONFIG=$K8S_HOME/run/admin.kubeconfig
export CONTAINER_RUNTIME_ENDPOINT=unix:///run/containerd/containerd.sock CONTAINERD_NAMESPACE=k8s.io
