#!/bin/bash
# valkey.sh: Debian's valkey-server and valkey-cli in $K8S_HOME/valkey, not installed: of this release where it has them, else from its
# backports. What is there already stays. Prints the folder.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
to=$K/valkey
if [ ! -x "$to/usr/bin/valkey-server" ]; then
  work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
  apt=(-o APT::Sandbox::User=root)
  if [ -z "$(apt-cache search --names-only '^valkey-server$')" ]; then
    . /etc/os-release
    # shellcheck disable=SC2016 # apt-get's variable
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $VERSION_CODENAME" | head -1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $VERSION_CODENAME-backports main" > "$work/backports.list"
    mkdir -p "$work/lists/partial"
    apt+=(-o "Dir::Etc::sourcelist=$work/backports.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work")
    apt-get "${apt[@]}" update -qq
  fi
  (cd "$work" && apt-get "${apt[@]}" download -qq valkey-server valkey-tools)
  rm -rf "$to"; mkdir -p "$to"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$to"; done
fi
echo "$to"
