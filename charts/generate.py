#!/usr/bin/env python3
"""Writes what follows from other files: each chart's values.schema.json and the table of values in its README, and install.yaml.

In: values.yaml with a comment on every value, values.schema.yaml, definitions.schema.yaml, crds/chatservices.yaml, and Kubernetes' own
types as PyPI kubernetes-validate ships them. Out: the files, or with --check the names of those that are not as they would be written.
Called by `make charts`; needs helm in PATH.
"""
import json
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml

CHARTS = pathlib.Path(__file__).parent
ROOT = CHARTS.parent
NAMES = ["chatservice-operator", "chatservice"]
# The types of the oldest Kubernetes that the charts support: what they allow, newer ones do too.
KUBERNETES = (
    pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema/v1.33.0-local-strict/_definitions.json"
)
FIX = "make charts"
# Values whose members have no comments of their own, and in which templates look for one or to which they add
READ = ["backend", "commonAnnotations", "commonLabels", "networkPolicy", "podAnnotations", "podLabels", "service"]


def comments(text):
    """The dotted name of each value of a values.yaml → the comment above it, in the order of the file."""
    found, path, above, deeper_than = {}, [], [], None
    for line in text.splitlines():
        comment = re.match(r"\s*# ?(.*)", line)
        key = re.match(r"( *)([A-Za-z][A-Za-z0-9]*):(\s|$)", line)
        if comment:
            above.append(comment[1])
        elif not line.strip():
            above = []
        elif key:
            depth = len(key[1]) // 2
            # Below a value that was described as a whole there is nothing to describe.
            if deeper_than is not None and depth > deeper_than:
                continue
            deeper_than = None
            path = path[:depth] + [key[2]]
            found[".".join(path)] = " ".join(above)
            above = []
    return found


def values_of(chart):
    return yaml.safe_load((CHARTS / chart / "values.yaml").read_text())


def leaves(values, described, prefix=""):
    """The values that a table of values has a row for: those whose members have no comments of their own."""
    for key, value in values.items():
        name = prefix + key
        inner = [other for other in described if other.startswith(name + ".") and described[other]]
        if isinstance(value, dict) and inner:
            yield from leaves(value, described, name + ".")
        else:
            yield name, value


def cell(text):
    return text.replace("|", "\\|")


def shown(value):
    return "" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def table(chart):
    described = comments((CHARTS / chart / "values.yaml").read_text())
    rows = ["| value | default | meaning |", "|---|---|---|"]
    told = set()
    for name, value in leaves(values_of(chart), described):
        group = name.rpartition(".")[0]
        if group and group not in told and described.get(group):
            rows.append(f"| **{group}** | | {cell(described[group])} |")
        told.add(group)
        rows.append(f"| `{name}` | {cell(shown(value))} | {cell(described[name])} |")
    return "\n".join(rows) + "\n"


BEGIN, END = "<!-- values: made by `make charts` -->\n", "<!-- end of values -->\n"


def readme(chart):
    text = (CHARTS / chart / "README.md").read_text()
    head, rest = text.split(BEGIN)
    return head + BEGIN + table(chart) + END + rest.split(END)[1]


def closed(schema):
    """The same with every object that names its properties closed."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if "object" in [*([t] if isinstance(t := result.get("type"), str) else t or [])] and isinstance(result.get("properties"), dict):
        result.setdefault("additionalProperties", False)
    return result


def structural(schema):
    """A schema of the CRD as plain JSON Schema: without what only Kubernetes knows, and without its defaults."""
    if isinstance(schema, list):
        return [structural(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {}
    for key, value in schema.items():
        if key == "x-kubernetes-int-or-string":
            result["type"] = ["integer", "string"]
        elif key == "properties":
            result[key] = {name: structural(inner) for name, inner in value.items()}
        elif not key.startswith("x-kubernetes-") and key not in ("default", "description", "format", "nullable"):
            result[key] = structural(value)
    return result


def spec_fields():
    """Each field of a ChatService's spec → its schema in the CRD."""
    crd = yaml.safe_load((ROOT / "crds/chatservices.yaml").read_text())
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


class Schema:
    """One values.schema.json in the making."""

    def __init__(self, chart):
        self.chart = chart
        self.fields = spec_fields()
        self.kubernetes = json.loads(KUBERNETES.read_text())["$defs"]
        self.defs = {}

    def resolve(self, schema):
        if isinstance(schema, list):
            return [self.resolve(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        reference = schema.get("$ref", "")
        if isinstance(reference, str) and reference.startswith("kubernetes/"):
            return self.of_kubernetes("io.k8s.api." + reference.removeprefix("kubernetes/"))
        if isinstance(reference, str) and reference.startswith("crd/"):
            return self.of_crd(reference.removeprefix("crd/"))
        return {key: self.resolve(value) for key, value in schema.items()}

    def of_crd(self, dotted):
        field, *inner = dotted.split(".")
        schema = self.fields.get(field)
        for name in inner:
            schema = schema and schema["properties"].get(name)
        assert schema, f"{self.chart}: a ChatService has no field {dotted}"
        schema = closed(structural(schema))
        if schema.get("type") == "object" and "properties" in schema:
            # Nothing in it: left out of the ChatService. A condition, because its errors read better than those of `anyOf`.
            return {"type": "object", "if": {"minProperties": 1}, "then": schema}
        if schema.get("type") == "array":
            schema.pop("minItems", None)
        if inner and schema.get("type") == "integer":
            # A value that is taken away
            schema["type"] = ["integer", "null"]
        return schema

    def of_kubernetes(self, name):
        if name not in self.defs:
            self.defs[name] = None
            self.defs[name] = self.plain(self.kubernetes[name])
        return {"$ref": f"#/$defs/{name}"}

    def plain(self, schema):
        """A type of Kubernetes without its description; the types that it names come along."""
        if isinstance(schema, list):
            return [self.plain(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if isinstance(reference := schema.get("$ref"), str):
            return self.of_kubernetes(reference.rpartition("/")[2])
        result = {}
        for key, value in schema.items():
            if key == "properties":
                result[key] = {name: self.plain(inner) for name, inner in value.items()}
            elif key not in ("description", "format") and not key.startswith("x-kubernetes-"):
                result[key] = self.plain(value)
        return result

    def describe(self, schema, described, path=()):
        for name, inner in schema.get("properties", {}).items():
            if comment := described.get(".".join([*path, name])):
                inner["description"] = comment
            self.describe(inner, described, (*path, name))

    def demand(self, schema, values, described, path=()):
        """What templates look into must not be taken away with null: groups of values, and READ."""
        groups = [name for name, value in values.items() if isinstance(value, dict)
                  and (name in READ or any(other.startswith(".".join([*path, name, ""])) for other in described))]
        if groups:
            schema["required"] = groups
        for name in groups:
            if "properties" in (inner := schema["properties"][name]):
                self.demand(inner, values[name], described, (*path, name))

    def text(self):
        source = yaml.safe_load((CHARTS / self.chart / "values.schema.yaml").read_text())
        if self.chart == "chatservice":
            for field in self.fields:
                # What the chart has values of another form for
                if field not in ("image", "redis", "replicas"):
                    source["properties"].setdefault(field, {"$ref": f"crd/{field}"})
        shared = yaml.safe_load((CHARTS / "definitions.schema.yaml").read_text())
        body = self.resolve(closed({"type": "object", **source}))
        described = comments((CHARTS / self.chart / "values.yaml").read_text())
        self.describe(body, described)
        self.demand(body, values_of(self.chart), described)
        used = {**self.resolve(closed(shared)), **self.defs}
        body = {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "$defs": self.needed(body, used)}
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def needed(body, defs):
        """The definitions that something refers to."""
        kept, open_ = {}, [json.dumps(body)]
        while open_:
            for name in re.findall(r'"#/\$defs/([^"]+)"', open_.pop()):
                if name not in kept:
                    kept[name] = defs[name]
                    open_.append(json.dumps(defs[name]))
        return dict(sorted(kept.items()))


def install():
    """All that `helm install` of the operator makes, for people without Helm."""
    version = yaml.safe_load((CHARTS / "chatservice-operator/Chart.yaml").read_text())["appVersion"]
    rendered = subprocess.run(
        ["helm", "template", "chatservice-operator", CHARTS / "chatservice-operator", "--namespace", "chatservice-system",
         "--set", "image.repository=localhost/chatservice", "--no-hooks", "--skip-tests"],
        check=True, capture_output=True, text=True).stdout
    rendered = re.sub(r"^# Source: .*\n", "", rendered, flags=re.M)
    rendered = re.sub(r"^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", "", rendered, flags=re.M)
    return f"""# Made by `make charts`, do not edit: the operator as its chart installs it, in the namespace chatservice-system.
#   kubectl apply --server-side -f install.yaml
# The image is localhost/chatservice:{version}, as `make image` names it; put the name under which you pushed it in its two places.
apiVersion: v1
kind: Namespace
metadata:
  name: chatservice-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
{rendered}"""


def files():
    for chart in NAMES:
        if not (CHARTS / chart).is_dir():
            continue
        yield CHARTS / chart / "values.schema.json", Schema(chart).text()
        yield CHARTS / chart / "README.md", readme(chart)
    yield CHARTS / "chatservice-operator/files/chatservices.yaml", (ROOT / "crds/chatservices.yaml").read_text()


def main():
    stale = []

    def put(path, text):
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(text)

    for path, text in files():
        put(path, text)
    # Last: it is rendered from the others.
    put(ROOT / "install.yaml", install())
    if stale and "--check" in sys.argv:
        sys.exit(f"not as they would be made: {', '.join(stale)}. Fix: {FIX}")


if __name__ == "__main__":
    main()
