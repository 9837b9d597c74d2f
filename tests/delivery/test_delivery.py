"""What is shipped beside the charts: the text of the Dockerfile, workflows, packaged charts, Argo CD's health check, Flux' example."""
import json
import pathlib
import re
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


def test_nothing_is_compiled_by_root():
    """What the image is like, `make e2e` looks at: it builds and runs it."""
    build, final = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.M)[1:]
    assert "cargo build" not in build.split("\nUSER 65532:65532\n")[0] and build.count("\nUSER ") == 1
    assert re.findall(r"^(?:RUN|USER) .*", final, re.M) == ["USER 65532:65532"]


def test_the_image_is_built_with_the_versions_of_the_sources():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
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
            if job.get("uses", "").startswith("./"):
                continue
            assert job["timeout-minutes"] <= 90, f"{file.name}: {name}"
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False
    assert {"test", "e2e", "package"} <= called <= targets


def test_what_others_wrote_runs_only_as_it_was_looked_at():
    """A tag may be another program tomorrow, with the permissions of the job."""
    for file in sorted((ROOT / ".github/workflows").glob("*.yml")):
        for used in re.findall(r"uses: (.+)", file.read_text()):
            assert used.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{file.name}: {used}"
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert {"github-actions", "cargo"} <= {update["package-ecosystem"] for update in updates}


def test_nothing_is_published_that_was_not_tested_and_it_lists_its_crates():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}
    calls = {name: " ".join(step.get("run", "") for step in job.get("steps", [])) for name, job in jobs.items()}
    assert jobs["ci"]["uses"] == "./.github/workflows/ci.yml" and "make reproducible" in calls["reproducible"]
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    # YAML's `on` is a truth.
    assert "workflow_call" in ci[True]
    assert {step.get("run") for job in ci["jobs"].values() for step in job["steps"]} >= {"make test", "make e2e"}
    # By its directory catalogers syft reads Cargo.lock; of an image it would look for a list in the program, which has none.
    assert "cp Cargo.lock locked" in calls["publish"] and "syft scan dir:locked" in calls["publish"]
    crates = set(re.findall(r'^name = "(.+)"', (ROOT / "Cargo.lock").read_text(), re.M))
    assert set(re.findall(r'index\("(.+?)"\)', calls["publish"])) <= crates


def test_packaged_charts_need_no_image_to_be_named(tmp_path):
    run("charts/package.sh", "registry.example.com:5000/team/chatservice", tmp_path)
    image = "registry.example.com:5000/team/chatservice:0.1.0"
    archives = sorted(file.name for file in tmp_path.iterdir())
    assert archives == ["chatservice-0.1.0.tgz", "chatservice-operator-0.1.0.tgz", "install.yaml"]
    for archive in tmp_path.glob("*.tgz"):
        rendered = rendering.parse(run("helm", "template", "demo", archive))
        images = {container["image"] for _, pod, _ in rendering.pods(rendered) for container in pod["containers"]}
        assert {name for name in images if not name.startswith("docker.io/valkey/valkey:")} == {image}
        chart = yaml.safe_load(run("helm", "show", "chart", archive))
        # Artifact Hub looks for what is known of the images that a chart names.
        assert {named["image"] for named in yaml.safe_load(chart["annotations"]["artifacthub.io/images"])} == images
        readme = run("helm", "show", "readme", archive)
        with tarfile.open(archive) as packed:
            names = packed.getnames()
        for link in re.findall(r"\]\(([^)#]+)", readme):
            if link.startswith(prefix := f"{chart['sources'][0]}/blob/v{chart['appVersion']}/"):
                assert (ROOT / link.removeprefix(prefix)).exists(), link
            else:
                assert not link.startswith("..") and any(name.startswith(f"{chart['name']}/{link}") for name in names), link
        assert f"oci://REGISTRY/REPOSITORY/charts/{chart['name']} --version {chart['version']}" in readme
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
