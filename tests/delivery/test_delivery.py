"""What is shipped beside the charts: the Dockerfile, workflows, packaged charts, Argo CD's health check, Flux' example."""
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/chart"))
import rendering  # noqa: E402
import schemas  # noqa: E402


def run(*command, **kwargs):
    result = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_hadolint_finds_nothing():
    run("hadolint", "Dockerfile")


def test_the_final_image_has_a_program_and_no_shell():
    final = (ROOT / "Dockerfile").read_text().split("\nFROM scratch\n")[1]
    lines = [line for line in final.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert not [line for line in lines if line.startswith("RUN")]
    assert [line for line in lines if line.startswith("USER")] == ["USER 65532:65532"]
    health = json.loads(next(line for line in lines if line.startswith("HEALTHCHECK")).split("CMD ")[1])
    assert health == ["/chatservice", "healthcheck"]
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert f"ARG VERSION={version}" in lines
    toolchain = re.search(r'channel = "(.*)"', (ROOT / "rust-toolchain.toml").read_text())[1]
    assert f"library/rust:{toolchain}-" in (ROOT / "Dockerfile").read_text()


def test_the_build_gets_all_that_the_sources_include():
    """What is not in .dockerignore is not there when the image is built."""
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert let_in == ["Cargo.toml", "Cargo.lock", "src"]
    for file in (ROOT / "src").rglob("*.rs"):
        for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', file.read_text()):
            assert (file.parent / included).resolve().is_relative_to(ROOT / "src"), f"{file}: {included}"


def test_actionlint_finds_nothing():
    run("actionlint", "-shellcheck=shellcheck", "-pyflakes=")


def test_workflows_call_make_targets_that_exist_and_ask_for_little():
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    called = set()
    for file in sorted((ROOT / ".github/workflows").glob("*.yml")):
        text = file.read_text()
        called |= set(re.findall(r"\bmake ([a-z0-9-]+)", text))
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}, file.name
        for name, job in workflow["jobs"].items():
            assert job["timeout-minutes"] <= 90, f"{file.name}: {name}"
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False
    assert {"test", "e2e", "package"} <= called <= targets


def test_packaged_charts_need_no_image_to_be_named(tmp_path):
    run("charts/package.sh", "registry.example.com:5000/team/chatservice", tmp_path)
    image = "registry.example.com:5000/team/chatservice:0.1.0"
    archives = sorted(file.name for file in tmp_path.iterdir())
    assert archives == ["chatservice-0.1.0.tgz", "chatservice-operator-0.1.0.tgz", "install.yaml"]
    for archive in tmp_path.glob("*.tgz"):
        rendered = rendering.parse(run("helm", "template", "demo", archive))
        images = {container["image"] for _, pod, _ in rendering.pods(rendered) for container in pod["containers"]}
        assert images - {"docker.io/valkey/valkey:8.1.4"} == {image}
        chart = yaml.safe_load(run("helm", "show", "chart", archive))
        assert yaml.safe_load(chart["annotations"]["artifacthub.io/images"]) == [{"name": "chatservice", "image": image}]
    installed = rendering.parse((tmp_path / "install.yaml").read_text())
    assert image in str(installed) and "localhost/chatservice" not in str(installed)


def test_install_yaml_is_what_the_chart_installs():
    installed = rendering.parse((ROOT / "install.yaml").read_text())
    chart = rendering.objects("chatservice-operator", *rendering.IMAGE, "--no-hooks", release="chatservice-operator")
    kinds = sorted(item["kind"] for item in installed if item["kind"] != "Namespace")
    assert kinds == sorted(item["kind"] for item in chart if item["kind"] != "Pod")
    for item in installed:
        if "namespace" in item["metadata"]:
            assert item["metadata"]["namespace"] == "chatservice-system"
        if item["kind"] not in ("CustomResourceDefinition",):
            assert schemas.errors(item, "1.37") == []


def lua(value):
    """A value as Lua writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{json.dumps(key)}] = {lua(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(lua, value)) + "}"
    return json.dumps(value)


def condition(type_, status, reason="", message=""):
    return {"type": type_, "status": status, "reason": reason, "message": message}


READY = condition("Ready", "True", "Available", "1 of 1 pods are ready")
HEALTH = [
    ({"metadata": {"generation": 1}}, "Progressing", "operator"),
    # The schema's default status, before anybody looked
    ({"metadata": {"generation": 1}, "status": {"observedGeneration": -1}}, "Progressing", "operator"),
    ({"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [READY]}}, "Progressing", "operator"),
    ({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": [READY]}}, "Healthy", "1 of 1"),
    ({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": [READY, condition("Reconciling", "True", "RollingOut", "a new one")]}},
     "Progressing", "a new one"),
    ({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": [condition("Ready", "False", "Progressing", "on their way")]}},
     "Progressing", "on their way"),
    ({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": [condition("Ready", "False", "SecretNotFound", "Fix: kubectl")]}},
     "Degraded", "Fix: kubectl"),
    ({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": [
        condition("Ready", "False", "InvalidSpec", "no"), condition("Stalled", "True", "InvalidSpec", "write it so")]}}, "Degraded", "write it so"),
    ({"metadata": {"generation": 2, "annotations": {"chatservice.dev/paused": "true"}}}, "Suspended", "paused"),
]


@pytest.mark.parametrize(("object_", "status", "message"), HEALTH, ids=[f"{n}-{case[1]}" for n, case in enumerate(HEALTH)])
def test_argo_cd_is_told_how_it_is(object_, status, message):
    script = (ROOT / "contrib/argocd/health.lua").read_text()
    said = run("lua5.4", "-", input=f"obj = {lua(object_)}\nlocal function check()\n{script}\nend\nlocal hs = check()\nprint(hs.status)\nprint(hs.message)")
    assert said.splitlines()[0] == status and message in said.splitlines()[1]


def test_the_reasons_of_the_health_check_exist():
    reasons = set(re.findall(r'pub const [A-Z_]+: &str = "([A-Za-z]+)";', (ROOT / "src/constants.rs").read_text()))
    named = set(re.findall(r'ready\.reason ~= "(\w+)"', (ROOT / "contrib/argocd/health.lua").read_text()))
    assert named and named <= reasons


def test_the_example_for_flux_is_valid_and_so_are_its_values():
    items = rendering.parse((ROOT / "contrib/flux/chatservice.yaml").read_text())
    assert schemas.errors_of_others(items) == []
    releases = rendering.of_kind(items, "HelmRelease")
    for release in releases:
        chart = release["spec"]["chart"]["spec"]
        assert rendering.render(chart["chart"], values=release["spec"]["values"], release=release["metadata"]["name"])
        assert chart["version"] == "0.1.x"
    names = {release["metadata"]["name"] for release in releases}
    assert {other["name"] for release in releases for other in release["spec"].get("dependsOn", [])} <= names


# In place of the toolchain, which no registry of tests has: a cargo that checks what it is given and copies a program.
CARGO = """#!/bin/sh
set -e
[ "$*" = "build --locked --release --target x86_64-unknown-linux-gnu" ]
for file in Cargo.toml Cargo.lock src/main.rs src/lib.rs; do [ -f "$file" ]; done
[ ! -e README.md ]
mkdir -p target/x86_64-unknown-linux-gnu/release
cp /program target/x86_64-unknown-linux-gnu/release/chatservice
"""


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """buildah with a store of its own, which goes afterwards."""
    folder = tmp_path_factory.mktemp("buildah")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = [*root, "buildah", "--root", folder / "store", "--runroot", folder / "run", "--storage-driver", "vfs"]
    yield folder, lambda *args: run(*command, *args)
    subprocess.run([*root, "rm", "-rf", str(folder / "store"), str(folder / "run")], check=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the stand-in for cargo is for x86_64")
def test_the_dockerfile_is_built_and_gives_the_same_layers_twice(buildah):
    folder, build = buildah
    base = folder / "base"
    for directory in ("bin", "etc/ssl/certs"):
        (base / directory).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), base / "bin/busybox")
    for applet in ("sh", "mkdir", "echo", "cp", "touch", "cat", "rm"):
        (base / "bin" / applet).symlink_to("busybox")
    (base / "etc/ssl/certs/ca-certificates.crt").write_text("authorities\n")
    (base / "program").write_text("the program\n")
    (base / "bin/rustc").write_text("#!/bin/sh\necho x86_64-unknown-linux-gnu\n")
    (base / "bin/cargo").write_text(CARGO)
    for program in ("rustc", "cargo"):
        (base / "bin" / program).chmod(0o755)
    run("tests/cluster/mkimage.sh", "localhost/toolchain:1", "--no-import", "-o", folder / "base.tar", "--add", f"{base}:/")
    build("pull", f"docker-archive:{folder}/base.tar")
    ids = [build("build", "--isolation", "chroot", "--pull-never", "--no-cache", "--quiet", "--timestamp", "1700000000", "--format", "docker",
                 "--build-arg", "RUST_IMAGE=localhost/toolchain:1", "--build-arg", "REVISION=abc", ".").strip() for _ in range(2)]
    # Not the ids: buildah writes the name of its container into what Docker calls the configuration.
    first, second = (json.loads(build("inspect", "--type", "image", image)) for image in ids)
    assert first["OCIv1"]["rootfs"] == second["OCIv1"]["rootfs"]
    config = first["Docker"]["config"]
    assert (config["User"], config["Entrypoint"]) == ("65532:65532", ["/chatservice"])
    assert config["Healthcheck"]["Test"] == ["CMD", "/chatservice", "healthcheck"]
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}
    build("push", "--quiet", ids[0], f"docker-archive:{folder}/image.tar")
    files = {}
    with tarfile.open(folder / "image.tar") as archive:
        for layer in json.load(archive.extractfile("manifest.json"))[0]["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(layer)) as content:
                files |= {member.name: member for member in content if member.isfile()}
    assert files.keys() == {"chatservice", "etc/ssl/certs/ca-certificates.crt"}
    assert files["chatservice"].mode & 0o777 == 0o755 and files["chatservice"].size == len("the program\n")
