"""Looks into the image. In: the archive of `make image`, its version. Out: a line about it; an error if it holds more than the program
and the public authorities, or is not run as its manifests say."""

import gzip
import io
import json
import pathlib
import sys
import tarfile

archive, version = sys.argv[1:3]
files = {}
with tarfile.open(archive) as tar:
    manifest = json.load(tar.extractfile("manifest.json"))[0]
    config = json.load(tar.extractfile(manifest["Config"]))["config"]
    for layer in manifest["Layers"]:
        with tarfile.open(fileobj=tar.extractfile(layer)) as content:
            files |= {member.name.removeprefix("./"): (member, content.extractfile(member).read(16)) for member in content if member.isfile()}

assert files.keys() == {"chatservice", "etc/ssl/certs/ca-certificates.crt"}, files.keys()
program, start = files["chatservice"]
assert start.startswith(b"\x7fELF") and program.mode & 0o777 == 0o755 and (program.uid, program.gid) == (0, 0), program.get_info()
assert files["etc/ssl/certs/ca-certificates.crt"][1].startswith(b"-----BEGIN CERT")
assert (config["User"], config["Entrypoint"], config.get("Cmd") or []) == ("65532:65532", ["/chatservice"], []), config
assert config["Healthcheck"]["Test"] == ["CMD", "/chatservice", "healthcheck"], config
assert set(config["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}, config
labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items() if "opencontainers" in name}
assert labels.keys() == {"title", "description", "source", "licenses", "version", "revision"}, labels
assert labels["version"] == version and labels["revision"], labels

# As registries keep it: compressed
compressed = io.BytesIO()
with gzip.GzipFile(fileobj=compressed, mode="wb", compresslevel=9) as stream:
    stream.write(pathlib.Path(archive).read_bytes())
size = len(compressed.getvalue())
assert size < 20_000_000, f"{size} bytes compressed, 20 MB are allowed"
print(f"{program.size} bytes of program, {size} bytes compressed, revision {labels['revision']}")
