"""The Tiltfile, run by a Starlark interpreter whose functions of Tilt only note how they were called."""
import inspect
import json
import pathlib
import re
import sys

import pytest
import starlark
import yaml

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/chart"))
import rendering  # noqa: E402

# What each function of Tilt (https://docs.tilt.dev/api.html) and of its extensions takes
TAKES = {name: inspect.signature(function) for name, function in {
    "allow_k8s_contexts": lambda contexts: 0,
    "local_resource": lambda name, cmd="", deps=(), trigger_mode=0, resource_deps=(), ignore=(), auto_init=True, serve_cmd="", cmd_bat="",
    serve_cmd_bat="", allow_parallel=False, links=(), tags=(), env={}, serve_env={}, readiness_probe=None, dir="", serve_dir="", labels=(): 0,
    "k8s_yaml": lambda yaml, allow_duplicates=False: 0,
    "k8s_resource": lambda workload="", new_name="", port_forwards=(), extra_pod_selectors=(), trigger_mode=0, resource_deps=(), objects=(),
    auto_init=True, pod_readiness="", links=(), labels=(), discovery_strategy="": 0,
    "k8s_kind": lambda kind, api_version="", image_json_path=(), image_object=None, pod_readiness="": 0,
    "helm": lambda pathToChartDir, name="", namespace="", values=(), set=(), kube_version="", skip_crds=False: 0,
    "blob": lambda contents: 0,
    "sync": lambda local_path, remote_path: 0,
    "link": lambda url, name="": 0,
    "port_forward": lambda local_port, container_port=None, name="", link_path="", host="": 0,
    # Beside its own, those of docker_build
    "docker_build_with_restart": lambda ref, context, entrypoint, live_update, base_suffix="", restart_file="", trigger=(), exit_policy="",
    build_args={}, dockerfile="", dockerfile_contents="", match_in_env_vars=False, ignore=(), only=(), target="", ssh="", network="", secret="",
    extra_tag="", container_args=None, cache_from=(), pull=False, platform="", extra_hosts=(): 0,
    "cmd_button": lambda name, resource="", argv=(), text=None, location="", icon_name=None, icon_svg=None, inputs=(), env=(), dir="", disabled=False,
    requires_confirmation=False: 0,
    "text_input": lambda name, label="", default="", placeholder="": 0,
    "config.define_string": lambda name, args=False, usage="": 0,
}.items()}
# `record` is told of each call: function, arguments, named arguments.
TILT = """
def _recorder(name):
    def call(*args, **kwargs):
        record(name, list(args), dict(kwargs))
        return {"call": name, "args": list(args), "kwargs": dict(kwargs)}
    return call

allow_k8s_contexts = _recorder("allow_k8s_contexts")
local_resource = _recorder("local_resource")
k8s_yaml = _recorder("k8s_yaml")
k8s_resource = _recorder("k8s_resource")
k8s_kind = _recorder("k8s_kind")
helm = _recorder("helm")
blob = _recorder("blob")
sync = _recorder("sync")
link = _recorder("link")
port_forward = _recorder("port_forward")
docker_build_with_restart = _recorder("docker_build_with_restart")
cmd_button = _recorder("cmd_button")
text_input = _recorder("text_input")
config = struct(define_string=_recorder("config.define_string"), parse=lambda: arguments())
location = struct(NAV="NAV", RESOURCE="RESOURCE")
os = struct(path=struct(basename=basename))
"""
LOADED = {"ext://restart_process": ["docker_build_with_restart"], "ext://uibutton": ["cmd_button", "location", "text_input"]}


def run(**arguments):
    calls = []
    dialect = starlark.Dialect.extended()
    dialect.enable_top_level_stmt = True
    globals_ = starlark.Globals.extended_by([starlark.LibraryExtension.StructType, starlark.LibraryExtension.Json])
    module = starlark.Module()

    def record(name, args, kwargs):
        try:
            TAKES[name].bind(*args, **kwargs)
        except TypeError as wrong:
            raise TypeError(f"{name}: {wrong}") from wrong
        calls.append((name, args, kwargs))

    module.add_callable("record", record)
    module.add_callable("arguments", lambda: arguments)
    module.add_callable("basename", lambda path: pathlib.PurePath(path).name)
    module.add_callable("listdir", lambda path: sorted(str(file.relative_to(ROOT)) for file in (ROOT / path).iterdir()))
    module.add_callable("read_yaml", lambda path: yaml.safe_load((ROOT / path).read_text()))
    text = (ROOT / "Tiltfile").read_text()
    # The extensions are Tilt's to fetch; what the file takes from them is noted like the rest.
    for extension, names in re.findall(r"^load\('([^']+)', (.+)\)$", text, flags=re.M):
        assert LOADED[extension] == re.findall(r"'([^']+)'", names)
    text = re.sub(r"^load\(.*\)$", "", text, flags=re.M)
    starlark.eval(module, starlark.parse("tilt", TILT, dialect), globals_)
    starlark.eval(module, starlark.parse("Tiltfile", text, dialect), globals_)
    return calls


def named(calls, name):
    found = [(args, kwargs) for called, args, kwargs in calls if called == name]
    assert found, f"{name} is never called"
    return found


def test_every_path_exists():
    calls = run()
    paths = [path for _, kwargs in named(calls, "local_resource") for path in kwargs.get("deps", [])]
    paths += [args[0] for args, _ in named(calls, "helm")]
    paths += [args[0] for args, _ in named(calls, "k8s_yaml") if isinstance(args[0], str)]
    paths += [kwargs["argv"][-1] for _, kwargs in named(calls, "cmd_button") if kwargs["argv"][:3] == ["kubectl", "apply", "-f"]]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert len(paths) > 8 and not missing
    # What is made: by the one, for the other.
    (_, context), kwargs = named(calls, "docker_build_with_restart")[0]
    compile_ = named(calls, "local_resource")[0][1]["cmd"]
    assert f"{context}/chatservice" in compile_ and kwargs["live_update"][0]["args"][0] == f"{context}/chatservice"
    assert f"/{context}" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_dev_image_starts_as_the_production_image_does():
    """Servers are pods of the operator: arguments alone, and no root."""
    kwargs = named(run(), "docker_build_with_restart")[0][1]
    lines = kwargs["dockerfile_contents"].splitlines()
    user = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("USER ")][-1]
    program = kwargs["entrypoint"][0]
    assert user in lines and json.loads(lines[-1].removeprefix("ENTRYPOINT ")) == [program]
    # What a live update replaces and touches, as that user
    folder, copied, synced = (str(pathlib.PurePath(path).parent) for path in (
        kwargs["restart_file"], next(line for line in lines if line.startswith("COPY ")).split()[-1], kwargs["live_update"][0]["args"][1]))
    assert folder == copied == synced != "/" and f"chown {user.split()[1]} {folder}" in lines[1]
    sets = named(run(), "helm")[0][1]["set"]
    assert not [value for value in sets if "runAsNonRoot" in value or "runAsUser" in value]


def test_a_call_that_tilt_would_refuse_is_one_here_too():
    for name, args, kwargs in [("k8s_resource", ["demo"], {"port_forward": 1}), ("docker_build_with_restart", ["a", "b"], {}), ("link", [], {})]:
        with pytest.raises(TypeError):
            TAKES[name].bind(*args, **kwargs)


def test_the_production_chart_takes_its_values_and_runs_the_built_image():
    calls = run()
    (chart,), kwargs = named(calls, "helm")[0]
    sets = [word for value in kwargs["set"] for word in ("--set", value)]
    rendered = rendering.objects(pathlib.PurePath(chart).name, *sets, "--namespace", kwargs["namespace"], release=kwargs["name"])
    deployment = rendering.of_kind(rendered, "Deployment")[0]
    image, _ = named(calls, "docker_build_with_restart")[0][0]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["image"].startswith(image + ":")
    assert any(variable.get("value", "").startswith(image + ":") for variable in container["env"]), "match_in_env_vars finds nothing"
    # Resources are named after workloads and ChatServices.
    workloads = {deployment["metadata"]["name"], "demo", "compile"}
    for args, kwargs in named(calls, "k8s_resource"):
        assert args[0] in workloads and set(kwargs["resource_deps"]) <= workloads
    ports = [port["args"][:2] for _, kwargs in named(calls, "k8s_resource") for port in kwargs["port_forwards"]]
    assert ports == [[9090, 9090], [8080, 8080]]


def test_tilt_knows_the_kind():
    crd = yaml.safe_load((ROOT / "crds/chatservices.yaml").read_text())["spec"]
    (kind,), kwargs = named(run(), "k8s_kind")[0]
    assert (kind, kwargs["api_version"]) == (crd["names"]["kind"], f"{crd['group']}/{crd['versions'][0]['name']}")


def test_any_example_can_be_the_one_that_runs():
    for file in sorted((ROOT / "examples").glob("*.yaml")):
        documents = list(yaml.safe_load_all(file.read_text()))
        if len(documents) == 1:
            calls = run(example=str(file.relative_to(ROOT)))
            assert named(calls, "k8s_resource")[1][0][0] == documents[0]["metadata"]["name"]


def test_its_cluster_is_the_one_of_kind():
    kind = yaml.safe_load((ROOT / "kind.yaml").read_text())
    assert named(run(), "allow_k8s_contexts")[0][0] == [f"kind-{kind['name']}"]


def test_its_cluster_is_of_the_version_that_tests_run_on():
    text = (ROOT / "kind.yaml").read_text()
    minor = re.search(r"k8s.io/kubernetes v(1\.\d+)\.", (ROOT / "tests/cluster/tools/kubernetes/go.mod").read_text())[1]
    assert re.fullmatch(rf"kindest/node:v{minor}\.\d+@sha256:[0-9a-f]{{64}}", yaml.safe_load(text)["nodes"][0]["image"])
    # CI's kind is the one that made the image.
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["e2e"]["steps"]
    kind = next(step["with"] for step in steps if step.get("uses", "").startswith("helm/kind-action@"))
    assert kind["config"] == "kind.yaml" and f"kind {kind['version']} " in text and kind["kubectl_version"].startswith(f"v{minor}.")


def test_ci_ends_with_an_answer():
    asks = named(run(), "local_resource")[-1][1]
    body = re.search(r"-d '(.*)'", asks["cmd"])[1]
    assert json.loads(body) == {"message": "Hello"} and asks["resource_deps"] == ["demo"]
