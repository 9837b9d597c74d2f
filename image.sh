#!/bin/bash
# image.sh NAME FILE [OPTION...]: builds the image of the Dockerfile with buildah, for this machine's processor, and writes it as an
# archive (as of `docker save`) under that name. Called by `make image`. Options go to `buildah build`, such as --no-cache.
#
# SOURCE_DATE_EPOCH and REVISION, by default those of the last commit, are what else goes into it: the same of both, the same sources
# and the same base image give the same bytes. The base image is pulled, unless it is in the store of images under the cache.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
name=$1 file=$2; shift 2
store=${XDG_CACHE_HOME:-$HOME/.cache}/chatservice/buildah
command -v buildah >/dev/null || { echo "buildah is not installed. With docker: docker build --tag $name ." >&2; exit 1; }
last() { git log -1 --format="$1" 2>/dev/null || echo "$2"; }
b() { buildah --root "$store" --runroot "$store/run" "$@"; }

# What all builds have in common, then what only the stage that compiles has.
common=(--isolation chroot --format docker --timestamp "${SOURCE_DATE_EPOCH:-$(last %ct 0)}")
compile=(--layers)
# What cargo has downloaded here already is not downloaded again.
if command -v cargo >/dev/null; then
  cargo fetch --quiet --locked
  for part in cache index; do compile+=(--volume "${CARGO_HOME:-$HOME/.cargo}/registry/$part:/usr/local/cargo/registry/$part:ro"); done
fi
# Stage by stage, because only the layers of the first are kept: buildah takes kept ones for current although they have the labels and
# times of another commit.
b build "${common[@]}" "${compile[@]}" "$@" --target build --tag localhost/chatservice-build .
sed -n '/^FROM scratch/,$p' Dockerfile | sed 's|--from=build |--from=localhost/chatservice-build |' \
  | b build "${common[@]}" --no-cache --build-arg "VERSION=${name##*:}" --build-arg "REVISION=${REVISION:-$(last %H unknown)}" --tag "$name" --file - .
# What is left of earlier states of the sources
b rmi --prune >/dev/null 2>&1 || :
written=$(mktemp -d); trap 'rm -rf "$written"' EXIT
b push --quiet "$name" "docker-archive:$written/image.tar:$name"

# Without what only this build is known by, the container in which it was made.
python3 - "$written/image.tar" "$file" <<'PY'
import hashlib, io, json, sys, tarfile
with tarfile.open(sys.argv[1]) as made, tarfile.open(sys.argv[2], "w", format=tarfile.GNU_FORMAT) as archive:
    def put(name, data):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    manifest = json.load(made.extractfile("manifest.json"))[0]
    config = json.load(made.extractfile(manifest["Config"]))
    config = {key: value for key, value in config.items() if key not in ("container", "container_config", "parent")}
    config["config"].pop("Hostname", None)
    data = json.dumps(config, sort_keys=True).encode()
    layers = [(digest.removeprefix("sha256:") + ".tar", made.extractfile(layer).read()) for digest, layer in zip(config["rootfs"]["diff_ids"], manifest["Layers"])]
    own = hashlib.sha256(data).hexdigest() + ".json"
    put("manifest.json", json.dumps([{"Config": own, "RepoTags": manifest["RepoTags"], "Layers": [name for name, _ in layers]}]).encode())
    put(own, data)
    for name, layer in layers:
        put(name, layer)
PY
echo "$name  $(du -k "$file" | cut -f1) KiB  $file"
