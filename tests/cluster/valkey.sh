#!/bin/bash
# valkey.sh: a folder with the programs of Debian 13's Valkey and all that they load, in $K8S_HOME/valkey-13, for an image: of the minor version
# that the chart names, whatever Debian this is. What is there already stays. Prints the folder. Needs root.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
to=$K/valkey-13
if [ ! -d "$to" ]; then
  rm -rf "$to.new"
  mmdebstrap --quiet --variant=extract --include=valkey-server,valkey-tools --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr trixie "$to.new"
  rm -rf "$to".new/{dev,var} "$to".new/usr/share/{doc,locale,man,info,lintian}
  # The names that the official image has too
  for program in server cli; do ln -s "valkey-$program" "$to.new/usr/bin/redis-$program"; done
  mv "$to.new" "$to"
fi
echo "$to"
