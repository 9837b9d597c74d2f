"""The real Helm, without a cluster. In: a chart, values, a Kubernetes version. Out: the objects it renders, or what it says against it."""
import os
import pathlib
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).parents[2]
CHARTS = ["chatservice-operator", "chatservice"]
MONITORING = ["monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule"]
# The one value that has no default
IMAGE = ["--set", "image.repository=localhost/chatservice"]

_HOME = tempfile.TemporaryDirectory()
# Neither a user's settings nor a cluster
_OFFLINE = {**os.environ, "HELM_CACHE_HOME": _HOME.name, "HELM_CONFIG_HOME": _HOME.name, "HELM_DATA_HOME": _HOME.name,
            "KUBECONFIG": f"{_HOME.name}/none"}


def chart(name):
    return ROOT / "charts" / name


def notes(name, *args, release="demo", namespace="chat", values=None):
    """What Helm says after an installation, as far as it can be said without a cluster."""
    line = ["install", release, chart(name), "--namespace", namespace, "--dry-run=client", *args]
    result = helm(*line, *([] if values is None else ["--values", "-"]), text=None if values is None else yaml.safe_dump(values))
    assert result.returncode == 0, result.stderr
    return result.stdout.split("\nNOTES:\n")[1]


def helm(*args, text=None):
    return subprocess.run(["helm", *map(str, args)], env=_OFFLINE, input=text, capture_output=True, text=True)


def template(name, *args, release="test", values=None, apis=(), version=None):
    """What `helm template` does with these arguments, and with `values` instead of a file of values."""
    line = ["template", release, chart(name), "--namespace", "system", *args]
    for api in apis:
        line += ["--api-versions", api]
    if version:
        line += ["--kube-version", version]
    if values is not None:
        line += ["--values", "-"]
    return helm(*line, text=None if values is None else yaml.safe_dump(values))


def render(name, *args, **kwargs):
    result = template(name, *args, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout


class _UniqueKeys(yaml.CSafeLoader):
    """Refuses what other readers resolve in silence: a key that is there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice: {keys}, {node.start_mark}"
        return super().construct_mapping(node, deep)


def parse(text):
    return [document for document in yaml.load_all(text, _UniqueKeys) if document]


def objects(name, *args, **kwargs):
    return parse(render(name, *args, **kwargs))


def ci_files(name):
    files = sorted((chart(name) / "ci").glob("*-values.yaml"))
    assert files
    return files


def of_kind(rendered, kind):
    return [item for item in rendered if item["kind"] == kind]


def pods(rendered):
    """Each pod that an object makes, as (object, pod spec, pod labels)."""
    for item in rendered:
        if item["kind"] == "Pod":
            yield item, item["spec"], item["metadata"].get("labels", {})
        elif item["kind"] in ("Deployment", "StatefulSet", "Job"):
            template_ = item["spec"]["template"]
            yield item, template_["spec"], template_["metadata"].get("labels", {})
