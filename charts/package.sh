#!/bin/bash
# package.sh REPOSITORY OUT: what a release publishes: both charts as archives, and install.yaml, that take their image from REPOSITORY, such as
# registry.example.com/team/chatservice. Called by `make package`; needs helm in PATH.
set -euo pipefail
if [ $# != 2 ] || [ -z "$1" ] || [ -z "$2" ]; then sed -n "2,3s/^# //p" "$0" >&2; exit 2; fi
here=$(dirname "$(readlink -f "$0")")
registry='' repository=$1
# Its first part is a registry's host if it looks like one.
case ${1%%/*} in *.* | *:* | localhost) registry=${1%%/*} repository=${1#*/} ;; esac
mkdir -p "$2"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for chart in chatservice-operator chatservice; do
  cp -r "$here/$chart" "$work"
  version=$(sed -n 's/^appVersion: //p' "$here/$chart/Chart.yaml")
  sed -i "/^image:/,/^[a-z]/{s|^  registry: \"\"|  registry: \"$registry\"|;s|^  repository: \"\"|  repository: $repository|}" "$work/$chart/values.yaml"
  printf '  artifacthub.io/images: |\n    - name: chatservice\n      image: %s:%s\n' "$1" "$version" >> "$work/$chart/Chart.yaml"
  # The service's chart runs a Valkey too: what its values say of `redis.image`.
  sed -n '/^redis:/,/^[a-z]/{/^  image:/,/^  [a-z]/{/^    [rt]/p}}' "$work/$chart/values.yaml" \
    | awk '{value[$1] = $2} END {if (NR) printf "    - name: valkey\n      image: %s/%s:%s\n", value["registry:"], value["repository:"], value["tag:"]}' \
    >> "$work/$chart/Chart.yaml"
  # Links that lead out of the chart lead to the sources of this version.
  source=$(sed -n '/^sources:/{n;s/^ *- //p}' "$here/$chart/Chart.yaml")/blob/v$version
  sed -i "s#](\.\./\.\./#]($source/#g; s#](\.\./#]($source/charts/#g" "$work/$chart/README.md"
  helm package "$work/$chart" --destination "$2"
done
sed "s|localhost/chatservice|$1|; /^# The image is/d" "$here/../install.yaml" > "$2/install.yaml"
