#!/bin/bash
# rust-image.sh: makes the image that the Dockerfile is built in, where it cannot be pulled: Debian's packages and the Rust
# toolchain of this machine, under the same name and laid out alike, in the store of image.sh. What is there already stays. Needs root.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
store=${XDG_CACHE_HOME:-$HOME/.cache}/chatservice/buildah
b() { buildah --root "$store" --runroot "$store/run" "$@"; }
name=$(sed -n 's/^ARG RUST_IMAGE=//p' Dockerfile)
! b inspect --type image "$name" >/dev/null 2>&1 || exit 0

# rust:VERSION-slim-SUITE
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=essential --include=ca-certificates,gcc,libc6-dev "${name##*-}" "$work/root.tar"
sysroot=$(rustc --print sysroot)
container=$(b from scratch)
b add --quiet "$container" "$work/root.tar" / >/dev/null
root=$(b mount "$container")
mkdir -p "$root/usr/local/rustup/bin" "$root/usr/local/cargo/bin"
cp -a "$sysroot/lib" "$root/usr/local/rustup/"
for program in cargo rustc; do
  cp -a "$sysroot/bin/$program" "$root/usr/local/rustup/bin/"
  ln -s "/usr/local/rustup/bin/$program" "$root/usr/local/cargo/bin/"
done
chmod a+w "$root/usr/local/cargo"
b umount "$container" >/dev/null
b config --env CARGO_HOME=/usr/local/cargo --env PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
b commit --quiet --rm "$container" "$name" >/dev/null
echo "$name"
