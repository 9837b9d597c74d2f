#!/bin/bash
# Installs what the tests need and this machine lacks: Debian packages, PyPI's and npm's packages under the cache, and
# Kubernetes' programs built as Go tools. Run again, it does nothing. Rust, Go and Python are expected to be there.
# The arguments are those programs that are needed; by default all. Prints to stderr what could not be had; what depends on it is
# skipped later, or fails in CI.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/chatservice
mkdir -p "$cache"
# One at a time: two runs would install into the same places.
exec 9>"$cache/tools.lock"; flock 9

declare -A package=([redis-server]=redis-server [redis-cli]=redis-tools [shellcheck]=shellcheck [jq]=jq [curl]=curl [openssl]=openssl [cc]=gcc [make]=make
  [npm]=npm [chromium]=chromium [promtool]=prometheus [lua5.4]=lua5.4 [buildah]=buildah [mmdebstrap]=mmdebstrap)
missing=()
for program in "${!package[@]}"; do command -v "$program" >/dev/null || missing+=("${package[$program]}"); done
# A compiler without the C library's headers, and a Python without what makes environments, are what Debian gives by default.
if command -v cc >/dev/null; then cc -x c -E - <<<'#include <stdlib.h>' >/dev/null 2>&1 || missing+=(libc6-dev); else missing+=(libc6-dev); fi
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} != 0 ]; then
  root=(); [ "$(id -u)" = 0 ] || root=(sudo -n)
  if command -v apt-get >/dev/null && "${root[@]}" true 2>/dev/null; then
    echo "installing ${missing[*]}"
    "${root[@]}" apt-get update -qq
    # RUNLEVEL: packages must not start their services
    "${root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "cannot install ${missing[*]}: no apt-get or no root here; install them by hand" >&2
  fi
fi

wanted=$(sha256sum "$here/requirements.txt" | cut -d' ' -f1)
if [ "$(cat "$cache/venv/.made-from" 2>/dev/null)" != "$wanted" ]; then
  echo "installing $(grep -vc '^#' "$here/requirements.txt") packages from PyPI"
  rm -rf "$cache/venv"; hash -r # python3 may have been the one in it
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  echo "$wanted" > "$cache/venv/.made-from"
fi

wanted=$(cat "$here"/package.json "$here"/package-lock.json | sha256sum | cut -d' ' -f1)
if command -v npm >/dev/null && [ "$(cat "$cache/node/.made-from" 2>/dev/null)" != "$wanted" ]; then
  echo "installing packages from npm"
  mkdir -p "$cache/node"
  cp "$here"/package.json "$here"/package-lock.json "$cache/node"
  (cd "$cache/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)
  echo "$wanted" > "$cache/node/.made-from"
fi

code=0
"$here/cluster/build.sh" "$@" || code=$?
# 3: Go is not there, which is only a reason to skip
[ "$code" != 3 ] || [ "${CI:-}" = true ] || code=0
exit "$code"
