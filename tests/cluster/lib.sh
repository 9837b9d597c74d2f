# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share; not for direct use.
S=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) # the scripts
K=${K8S_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/chatservice/cluster}
R=$K/run B=$K/bin N=$K/node
mkdir -p "$B"
NODENAME=node1
NODEIP=10.10.10.10 # an extra /32 on lo: stable, and not the machine's own address
PODCIDR=10.244.0.0/24 PODGW=10.244.0.1 CLUSTERCIDR=10.244.0.0/16
SVCCIDR=10.96.0.0/16 DNSIP=10.96.0.10
PAUSE=localhost/pause:3.10
# containerd's state, gone when the machine restarts; the mark in it says which node it is for
CONTAINERD=/run/containerd CONTAINERD_MARK=.chatservice-node
export CONTAINERD_ADDRESS=$CONTAINERD/containerd.sock

kc() { "$B/kubectl" --kubeconfig="$R/admin.kubeconfig" "$@"; }

# alive NAME DIR: is the process of DIR/NAME.pid running the program NAME? Prints nothing.
alive() {
  local pid exe
  pid=$(cat "$2/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
  exe=${exe% (deleted)}
  [ "${exe##*/}" = "$1" ]
}

# own_containerd: is the containerd of this machine the node's, running or left behind?
own_containerd() { alive containerd "$N" || [ "$(cat "$CONTAINERD/$CONTAINERD_MARK" 2>/dev/null)" = "$N" ]; }

# start NAME DIR CMD...: in a session of its own, out of this shell's process group; log in DIR/NAME.log
start() {
  local name=$1 dir=$2; shift 2
  alive "$name" "$dir" && return 0
  setsid nohup "$@" >> "$dir/$name.log" 2>&1 < /dev/null &
  echo $! > "$dir/$name.pid"
}

# stop NAME DIR: by its pid file only; killed when it has not ended after 10 s
stop() {
  local pid
  if alive "$1" "$2"; then
    pid=$(cat "$2/$1.pid")
    kill "$pid" 2>/dev/null
    for _ in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || :
  fi
  rm -f "$2/$1.pid"
}

# retry SECONDS CMD...: again and again until it succeeds or the time is over; CMD's output is dropped
retry() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

nodeip() { [ -n "$(ip -o addr show dev lo to "$NODEIP/32")" ] || ip addr add "$NODEIP/32" dev lo; }
