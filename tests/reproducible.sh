#!/bin/bash
# The image once more, from a copy of the sources in another folder and without any layer that was kept: are its bytes the same?
# Called by `make reproducible`; a whole release build.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
name=$1 first=$2
copy=$(mktemp -d); trap 'rm -rf "$copy"' EXIT
export SOURCE_DATE_EPOCH REVISION
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
REVISION=$(git log -1 --format=%H)
./image.sh "$name" "$first"
cp -r .dockerignore Cargo.lock Cargo.toml Dockerfile image.sh src "$copy"
"$copy/image.sh" "$name" "$copy/second.tar" --no-cache
sha256sum "$first" "$copy/second.tar"
cmp "$first" "$copy/second.tar"
