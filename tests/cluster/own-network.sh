#!/bin/bash
# own-network.sh CMD [ARG...]: runs CMD in a network of its own (root only) that has nothing but loopback, to which 10.0.0.0/8 belongs
# too: the addresses that kwok gives its pods, so that a test can answer for them.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,/^set -e/{/^set -e/!s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
if [ "$(id -u)" != 0 ]; then echo "own-network.sh: not root, so nobody answers for the pods" >&2; exec "$@"; fi
# shellcheck disable=SC2016 # expanded inside
exec unshare --net bash -euc 'ip link set lo up; ip route add local 10.0.0.0/8 dev lo; exec "$@"' own-network "$@"
