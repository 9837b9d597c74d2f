#!/bin/bash
# mkimage.sh NAME:TAG [options]  - make a one-layer docker-archive image without
# any registry and import it into containerd's k8s.io namespace.
#
#   --rootfs DIR          start from everything in DIR (hard copy into the layer)
#   --debootstrap PKGS    start from a minimal Debian rootfs (debootstrap
#                         --variant=minbase) with comma-separated PKGS ("" = none);
#                         cached under $K8S_HOME/cache/
#   --debs PKGS           unpack these Debian packages (no dependency resolution,
#                         no maintainer scripts) on top
#   --bin SRC[:DEST]      add a binary at DEST (default: SRC as given); if dynamic,
#                         its shared libs and ld.so come along (ldd). Repeatable.
#   --add SRC:DEST        copy a file or a directory's contents. Repeatable.
#   --busybox             add /bin/busybox (with its libc) and its applet links (sh,
#                         ls, cat, wget, httpd, nc, ...)
#   --entrypoint JSON|STR entrypoint: a JSON array, or one string (no splitting)
#   --cmd JSON|STR        command
#   --env K=V  --label K=V  --expose 80/tcp     Repeatable.
#   --user U[:G]  --workdir DIR
#   -o FILE               keep the archive as FILE (default: $K8S_HOME/images/<name>.tar)
#   --no-import           only write the archive
#
# Use it in pods as image: NAME:TAG with imagePullPolicy: IfNotPresent (or Never).
# Give NAME a registry part (localhost/foo:1), avoid :latest (its default is Always).
set -euo pipefail
K=${K8S_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/chatservice/cluster}; mkdir -p $K/images $K/cache
usage(){ sed -n '2,/^set -e/p' "$0" | sed '$d;s/^# \{0,1\}//'; exit 2; }
[ $# -ge 1 ] || usage
case $1 in -h|--help) usage;; esac
NAME=$1; shift
case $NAME in *:*) ;; *) NAME=$NAME:1;; esac
STAGE=$(mktemp -d $K/images/.stage.XXXXXX); chmod 755 "$STAGE"
trap 'rm -rf "$STAGE"' EXIT
OUT=; IMPORT=1; CFG=()
addbin(){ # SRC DEST
  local src dest; src=$(readlink -f "$1"); dest=$2
  install -D -m 755 "$src" "$STAGE$dest"
  if ldd "$src" >/dev/null 2>&1; then
    ldd "$src" | awk '/=> \//{print $3} $1 ~ /^\//{print $1}' | sort -u | while read -r so; do
      install -D -m 755 "$(readlink -f "$so")" "$STAGE$so"
    done
  fi
}
while [ $# -gt 0 ]; do
  o=$1; shift
  case $o in
    --rootfs) cp -a "$1"/. "$STAGE"/; shift;;
    --debootstrap)
      command -v debootstrap >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap >/dev/null
      key=$(printf %s "$1" | md5sum | cut -c1-8); c=$K/cache/debian-$key
      if [ ! -e $c/.done ]; then
        rm -rf $c; mkdir -p $c
        debootstrap --variant=minbase ${1:+--include=$1} "$(. /etc/os-release; echo $VERSION_CODENAME)" $c "$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -1)" > $c.log 2>&1 || { tail -5 $c.log >&2; exit 1; }
        rm -rf $c/var/cache/apt/archives/*.deb $c/var/lib/apt/lists/* $c/usr/share/doc/* $c/usr/share/man/*
        touch $c/.done
      fi
      cp -a $c/. "$STAGE"/; rm -f "$STAGE/.done"; shift;;
    --debs)
      d=$(mktemp -d); chmod 755 $d; for p in ${1//,/ }; do (cd $d && apt-get download "$p" >/dev/null 2>&1); done
      for f in $d/*.deb; do dpkg-deb -x $f "$STAGE"; done; rm -rf $d; shift;;
    --bin) s=${1%%:*}; d=${1#*:}; [ "$d" = "$1" ] && d=$(realpath -s "$s"); addbin "$s" "$d"; shift;;
    --add) s=${1%%:*}; d=${1#*:}
      if [ -d "$s" ]; then mkdir -p "$STAGE$d"; cp -a "$s"/. "$STAGE$d"/; else install -D -m "$(stat -c %a "$s")" "$s" "$STAGE$d"; fi; shift;;
    --busybox)
      # Debian's dynamic busybox (glibc name resolution needs no NSS tricks then).
      # Its wget segfaults with -T SECONDS (the static one too): use "timeout N wget"
      bb=$K/cache/busybox/bin/busybox
      [ -x $bb ] || { d=$(mktemp -d); chmod 755 $d; (cd $d && apt-get download busybox >/dev/null 2>&1); mkdir -p $K/cache/busybox; dpkg-deb -x $d/busybox_*.deb $K/cache/busybox; rm -rf $d; }
      [ -e "$STAGE/bin/busybox" ] || addbin $bb /bin/busybox
      "$bb" --list | while read -r a; do [ -e "$STAGE/bin/$a" ] || [ -L "$STAGE/bin/$a" ] || ln -s busybox "$STAGE/bin/$a"; done;;
    --entrypoint|--cmd|--env|--label|--expose|--user|--workdir) CFG+=("$o" "$1"); shift;;
    -o) OUT=$1; shift;;
    --no-import) IMPORT=0;;
    -h|--help) usage;;
    *) echo "mkimage.sh: unknown option $o" >&2; exit 2;;
  esac
done
mkdir -p "$STAGE/tmp"; chmod 1777 "$STAGE/tmp"
mkdir -p "$STAGE/etc"
[ -e "$STAGE/etc/passwd" ] || printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' > "$STAGE/etc/passwd"
[ -e "$STAGE/etc/group" ] || printf 'root:x:0:\nnogroup:x:65534:\n' > "$STAGE/etc/group"
[ -n "$OUT" ] || OUT=$K/images/$(printf %s "$NAME" | tr '/:' '__').tar
python3 - "$NAME" "$STAGE" "$OUT" ${CFG[@]+"${CFG[@]}"} <<'PY'
import sys,os,json,tarfile,hashlib,io,tempfile,datetime
name,stage,out=sys.argv[1:4]; opts=sys.argv[4:]
def arr(s):
    s2=s.strip()
    return json.loads(s2) if s2.startswith('[') else [s]
c={"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
for k,v in zip(opts[::2],opts[1::2]):
    if k=='--entrypoint': c['Entrypoint']=arr(v)
    elif k=='--cmd': c['Cmd']=arr(v)
    elif k=='--env':
        c['Env']=[e for e in c['Env'] if e.split('=')[0]!=v.split('=')[0]]+[v]
    elif k=='--label': c.setdefault('Labels',{}).update([v.split('=',1)])
    elif k=='--expose': c.setdefault('ExposedPorts',{})[v if '/' in v else v+'/tcp']={}
    elif k=='--user': c['User']=v
    elif k=='--workdir': c['WorkingDir']=v
def flt(ti):
    ti.mtime=0; ti.uname=ti.gname=''
    return ti
tmp=out+'.layer.tmp'
with tarfile.open(tmp,'w',format=tarfile.GNU_FORMAT) as t:
    for n in sorted(os.listdir(stage)):
        t.add(os.path.join(stage,n),arcname=n,filter=flt)
h=hashlib.sha256()
with open(tmp,'rb') as f:
    for b in iter(lambda:f.read(1<<20),b''): h.update(b)
d=h.hexdigest()
cfg=json.dumps({"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z","config":c,
  "rootfs":{"type":"layers","diff_ids":["sha256:"+d]},
  "history":[{"created":"1970-01-01T00:00:00Z","created_by":"mkimage.sh"}]}).encode()
cn=hashlib.sha256(cfg).hexdigest()+'.json'
man=json.dumps([{"Config":cn,"RepoTags":[name],"Layers":[d+"/layer.tar"]}]).encode()
with tarfile.open(out,'w',format=tarfile.GNU_FORMAT) as t:
    def put(n,b):
        ti=tarfile.TarInfo(n); ti.size=len(b); t.addfile(ti,io.BytesIO(b))
    put(cn,cfg)
    t.add(tmp,arcname=d+"/layer.tar",filter=flt)
    put("manifest.json",man)
os.unlink(tmp)
print(f"{name}  layer sha256:{d[:12]}  {os.path.getsize(out)//1024} KiB  -> {out}")
PY
if [ $IMPORT = 1 ]; then
  ctr -n k8s.io images import "$OUT" >/dev/null
  echo "imported into k8s.io: $(ctr -n k8s.io images ls -q | grep -F "$NAME" | head -1)"
fi
