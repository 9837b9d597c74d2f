# helpers for cp-up.sh / node-up.sh / *-down.sh; not for direct use
S=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)   # the scripts
K=${K8S_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/chatservice/cluster}; R=$K/run; B=$K/bin; N=$K/node; mkdir -p $B
NODENAME=node1            # must match certs/node.crt (system:node:node1)
NODEIP=10.10.10.10        # extra /32 on lo: stable, and not on eth0
PODCIDR=10.244.0.0/24; PODGW=10.244.0.1; CLUSTERCIDR=10.244.0.0/16
SVCCIDR=10.96.0.0/16; DNSIP=10.96.0.10
PAUSE=localhost/pause:3.10
kc(){ $B/kubectl --kubeconfig=$R/admin.kubeconfig "$@"; }
# alive NAME DIR: is the process of DIR/NAME.pid running the program NAME?
alive(){ local p; p=$(cat "$2/$1.pid" 2>/dev/null) && [ -n "$p" ] && [ "$(basename "$(readlink /proc/$p/exe 2>/dev/null)" | sed 's/ (deleted)//')" = "$1" -o "$(tr '\0' '\n' < /proc/$p/cmdline 2>/dev/null | head -1 | xargs -r basename)" = "$1" ]; }
# start NAME DIR CMD...: in its own session, out of this shell's process group
start(){ local n=$1 d=$2; shift 2; alive $n $d && { echo "$n already running ($(cat $d/$n.pid))"; return 0; }
  setsid nohup "$@" >> $d/$n.log 2>&1 < /dev/null & echo $! > $d/$n.pid; }
# stop NAME DIR: by its pid file only
stop(){ local p; alive $1 $2 || { rm -f $2/$1.pid; return 0; }; p=$(cat $2/$1.pid); kill $p 2>/dev/null
  for i in $(seq 100); do kill -0 $p 2>/dev/null || break; sleep 0.1; done
  kill -0 $p 2>/dev/null && kill -9 $p; rm -f $2/$1.pid; return 0; }
nodeip(){ ip addr show dev lo | grep -q "inet $NODEIP/32" || ip addr add $NODEIP/32 dev lo; }
