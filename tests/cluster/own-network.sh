#!/bin/bash
# own-network.sh CMD [ARG...]: runs CMD in a network of its own (root only) that leads nowhere. 10.0.0.0/8 belongs to its loopback: the
# addresses that kwok gives its pods, so that a test can answer for them. The API server wants a way out, which ends at once.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,/^set -e/{/^set -e/!s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
if [ "$(id -u)" != 0 ]; then echo "own-network.sh: not root, so nobody answers for the pods" >&2; exec "$@"; fi
# shellcheck disable=SC2016 # expanded inside
exec unshare --net bash -euc 'ip link set lo up; ip link add out type veth peer name back; ip link set back up; ip addr add 192.0.2.1/24 dev out
ip link set out up; ip route add default dev out; ip route add local 10.0.0.0/8 dev lo; exec "$@"' own-network "$@"
