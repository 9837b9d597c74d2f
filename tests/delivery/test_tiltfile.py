"""The Tiltfile, run by a Starlark interpreter whose functions of Tilt only note how they were called."""
import json
import pathlib
import re
import sys

import starlark
import yaml

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/chart"))
import rendering  # noqa: E402

# What Tilt offers (https://docs.tilt.dev/api.html); `recorded` notes each call as a list of [function, arguments, named arguments].
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
    module.add_callable("record", lambda *call: calls.append(call))
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


def test_ci_ends_with_an_answer():
    asks = named(run(), "local_resource")[-1][1]
    body = re.search(r"-d '(.*)'", asks["cmd"])[1]
    assert json.loads(body) == {"message": "Hello"} and asks["resource_deps"] == ["demo"]
