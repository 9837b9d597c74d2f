#!/bin/bash
# mkimage.sh NAME:TAG [OPTION...]: makes a one-layer image (docker-archive) without any registry, and imports it into
# containerd's k8s.io namespace. It is for this machine's processor. The same input gives the same bytes.
#
#   --bin SRC[:DEST]      add a program at DEST (default: SRC); if dynamic, its libraries come along. Repeatable.
#   --add SRC:DEST        copy a file, or the contents of a folder. Repeatable.
#   --entrypoint JSON|STR a JSON array, or one string (not split)
#   --cmd JSON|STR        likewise
#   --env K=V  --label K=V  --expose 80/tcp     Repeatable.
#   --user U[:G]  --workdir DIR
#   -o FILE               where the archive goes (default: $K8S_HOME/images/NAME.tar)
#   --no-import           only write the archive
#
# Name it localhost/NAME:TAG and use imagePullPolicy IfNotPresent. Not :latest: the default policy for that is Always.
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
usage() { sed -n '2,/^set -e/{/^set -e/!s/^# \{0,1\}//p}' "$0"; exit "$1"; }
[ $# -ge 1 ] || usage 2
case $1 in -h | --help) usage 0 ;; esac
NAME=$1; shift
case $NAME in *:*) ;; *) echo "mkimage.sh: $NAME has no tag: write NAME:TAG" >&2; exit 2 ;; esac
mkdir -p "$K/images"
STAGE=$(mktemp -d "$K/images/.stage.XXXXXX"); chmod 755 "$STAGE"
trap 'rm -rf "$STAGE"' EXIT
OUT='' IMPORT=1 CONFIG=()
addbin() { # SRC DEST
  local src lib; src=$(readlink -f "$1")
  install -D -m 755 "$src" "$STAGE$2"
  ldd "$src" 2>/dev/null | awk '/=> \//{print $3} $1 ~ /^\//{print $1}' | sort -u | while read -r lib; do
    install -D -m 755 "$(readlink -f "$lib")" "$STAGE$lib"
  done || : # a static program has none
}
while [ $# -gt 0 ]; do
  option=$1; shift
  case $option in
    --bin) src=${1%%:*} dest=${1#*:}; [ "$dest" != "$1" ] || dest=$(realpath -s "$src"); addbin "$src" "$dest"; shift ;;
    --add) src=${1%%:*} dest=${1#*:}
      if [ -d "$src" ]; then mkdir -p "$STAGE$dest"; cp -a "$src"/. "$STAGE$dest"/; else install -D -m "$(stat -c %a "$src")" "$src" "$STAGE$dest"; fi
      shift ;;
    --entrypoint | --cmd | --env | --label | --expose | --user | --workdir) CONFIG+=("$option" "$1"); shift ;;
    -o) OUT=$1; shift ;;
    --no-import) IMPORT=0 ;;
    *) echo "mkimage.sh: unknown option $option" >&2; exit 2 ;;
  esac
done
mkdir -p "$STAGE/tmp" "$STAGE/etc"; chmod 1777 "$STAGE/tmp"
[ -e "$STAGE/etc/passwd" ] || printf 'root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n' > "$STAGE/etc/passwd"
[ -e "$STAGE/etc/group" ] || printf 'root:x:0:\nnogroup:x:65534:\n' > "$STAGE/etc/group"
[ -n "$OUT" ] || OUT=$K/images/$(printf %s "$NAME" | tr '/:' '__').tar
python3 - "$NAME" "$STAGE" "$OUT" ${CONFIG[@]+"${CONFIG[@]}"} <<'PY'
import hashlib, io, json, os, platform, sys, tarfile
name, stage, out = sys.argv[1:4]
options = list(zip(sys.argv[4::2], sys.argv[5::2]))

def words(value):
    return json.loads(value) if value.lstrip().startswith("[") else [value]

config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
for option, value in options:
    if option == "--entrypoint": config["Entrypoint"] = words(value)
    elif option == "--cmd": config["Cmd"] = words(value)
    elif option == "--env": config["Env"] = [e for e in config["Env"] if e.split("=")[0] != value.split("=")[0]] + [value]
    elif option == "--label": config.setdefault("Labels", {}).update([value.split("=", 1)])
    elif option == "--expose": config.setdefault("ExposedPorts", {})[value if "/" in value else value + "/tcp"] = {}
    elif option == "--user": config["User"] = value
    elif option == "--workdir": config["WorkingDir"] = value

machine = platform.machine()
architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)

def anonymous(info):
    info.mtime = info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info

layer = out + ".layer.tmp"
with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as tar:
    for entry in sorted(os.listdir(stage)):
        tar.add(os.path.join(stage, entry), arcname=entry, filter=anonymous)
with open(layer, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
image = json.dumps({"architecture": architecture, "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
                    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
                    "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mkimage.sh"}]}).encode()
image_name = hashlib.sha256(image).hexdigest() + ".json"
manifest = json.dumps([{"Config": image_name, "RepoTags": [name], "Layers": [digest + "/layer.tar"]}]).encode()
with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
    def put(path, data):
        info = tarfile.TarInfo(path)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    put(image_name, image)
    tar.add(layer, arcname=digest + "/layer.tar", filter=anonymous)
    put("manifest.json", manifest)
os.unlink(layer)
print(f"{name}  {os.path.getsize(out) // 1024} KiB  {out}")
PY
if [ $IMPORT = 1 ]; then
  ctr -n k8s.io images import "$OUT" >/dev/null
fi
