"""What an object must be, strictly: unknown fields are errors. In: an object. Out: what is wrong with it.

Kubernetes' own kinds by PyPI kubernetes-validate, ours by the CustomResourceDefinition, those of others by npm @kubernetes-models.
"""
import functools
import json
import pathlib
import re
import subprocess
import sys

import jsonschema
import kubernetes_validate
import referencing

from rendering import ROOT, parse

sys.path.insert(0, str(ROOT / "charts"))
import generate  # noqa: E402

_DATA = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
# Kinds of others, with what their schema is a part of
OTHERS = {"ServiceMonitor": "monitoring.coreos.com/v1", "PrometheusRule": "monitoring.coreos.com/v1", "ScaledObject": "keda.sh/v1alpha1",
          "HTTPRoute": "gateway.networking.k8s.io/v1"}


@functools.cache
def _definitions(version):
    text = (_DATA / f"v{version}.0-local-strict/_definitions.json").read_text()
    return referencing.Resource.from_contents(json.loads(text)) @ referencing.Registry()


@functools.cache
def _core(version, kind, api):
    short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    schema = json.loads((_DATA / f"v{version}.0-local-strict/{kind.lower()}-{short}.json").read_text())
    return jsonschema.Draft202012Validator(schema, registry=_definitions(version))


@functools.cache
def _chatservice():
    crd = parse((ROOT / "crds/chatservices.yaml").read_text())[0]
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = generate.closed(generate.structural(schema["properties"]["spec"]))
    return jsonschema.Draft202012Validator({"type": "object", "required": ["spec"], "properties": {"spec": spec}})


def errors(item, version):
    """What is wrong with an object of Kubernetes or of ours."""
    if item["kind"] == "ChatService":
        validator = _chatservice()
    else:
        validator = _core(version, item["kind"], item["apiVersion"])
    name = f"{item['kind']} {item['metadata']['name']}"
    return [f"{name}: {'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(item)]


def errors_of_others(items):
    """What is wrong with objects of other projects' kinds; all in one process of Node."""
    result = subprocess.run(["node", str(ROOT / "tests/chart/others.mjs")], input=json.dumps(items), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
