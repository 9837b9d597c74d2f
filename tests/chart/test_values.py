"""Values: each is described, in the schema, and changes something; mistakes are refused with the key and the fix."""
import copy
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

import rendering
import schemas
from rendering import IMAGE, MONITORING, chart, ci_files, objects, of_kind, render, template

generate = schemas.generate


def values_of(name):
    return yaml.safe_load((chart(name) / "values.yaml").read_text())


def described(name):
    return generate.comments((chart(name) / "values.yaml").read_text())


def leaf_names(name):
    return [leaf for leaf, _ in generate.leaves(values_of(name), described(name))]


@pytest.mark.parametrize("name", rendering.CHARTS)
def test_every_value_is_described(name):
    comments = described(name)
    missing = [leaf for leaf in leaf_names(name) if not comments.get(leaf)]
    missing += [group for group, value in values_of(name).items() if isinstance(value, dict) and not comments.get(group)]
    assert not missing, f"charts/{name}/values.yaml: no comment above {missing}"


@pytest.mark.parametrize("name", rendering.CHARTS)
def test_the_schema_has_exactly_the_values(name):
    schema = json.loads((chart(name) / "values.schema.json").read_text())
    names = leaf_names(name)
    in_values = {leaf.split(".")[0] for leaf in names}
    assert set(schema["properties"]) == in_values | {"enabled"}, "differs from values.yaml"
    for leaf in names:
        here = schema
        for part in leaf.split("."):
            while "$ref" in here:
                here = schema["$defs"][here["$ref"].rpartition("/")[2]]
            assert here.get("additionalProperties") is False or here is schema["properties"]["global"], f"{leaf}: an object in it is open"
            here = here["properties"].get(part)
            assert here is not None, f"{leaf} is missing from values.schema.yaml"


def get(values, name):
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            return None
        values = values[part]
    return values


def without(values, name):
    values = copy.deepcopy(values)
    *parents, last = name.split(".")
    inner = values
    for part in parents:
        inner = inner[part]
    del inner[last]
    return values


# What no file of ci/ sets, because it is no shape that anybody runs on purpose
MORE = {
    "chatservice-operator": [
        {"image": {"repository": "a/b", "registry": "r.example.com", "digest": "sha256:" + "a" * 64}, "fullnameOverride": "x",
         "rbac": {"create": False}, "serviceAccount": {"annotations": {"a": "b"}, "labels": {"a": "b"}, "automount": True, "name": "x"},
         "podSecurityContext": {"fsGroup": 1}, "securityContext": {"runAsUser": 1}, "resources": {"limits": {"cpu": 1}},
         "terminationGracePeriodSeconds": 5, "revisionHistoryLimit": 1, "readinessProbe": {"periodSeconds": 5},
         "networkPolicy": {"enabled": False}, "serviceMonitor": {"enabled": True, "renderMode": "alwaysRender"},
         "prometheusRule": {"enabled": True, "annotations": {"a": "b"}, "runbookUrl": "https://example.com/x",
                            "excludeRules": ["ChatServiceNotReady"]},
         "grafanaDashboard": {"enabled": True, "labels": {"a": "b"}}},
        {"image": {"repository": "a/b"}, "rbac": {"aggregateClusterRoles": False}, "replicaCount": 2, "podDisruptionBudget": {"maxUnavailable": "50%"}},
        {"image": {"repository": "a/b"}, "replicaCount": 2, "podDisruptionBudget": {"enabled": False},
         "updateStrategy": {"rollingUpdate": {"maxSurge": 2}}},
        {"image": {"repository": "a/b"}, "watchNamespaces": ["a"], "rbac": {"clusterRoles": False}},
    ],
    "chatservice": [
        {"image": {"repository": "a/b", "registry": "r.example.com", "tag": "1.2.3", "pullPolicy": "Always"}, "imagePullSecrets": [{"name": "a"}],
         "nameOverride": "x", "namespaceOverride": "elsewhere", "redis": {
            "image": {"registry": "r.example.com", "repository": "a/b", "tag": "1", "pullPolicy": "Always"},
            "persistence": {"accessModes": ["ReadWriteOncePod"], "annotations": {"a": "b"}}, "networkPolicy": {"enabled": False},
            "podSecurityContext": {"runAsUser": 1}, "securityContext": {"runAsUser": 1}, "terminationGracePeriodSeconds": 5},
         "jobs": {"resources": {"limits": {"cpu": 1}}, "podLabels": {"a": "b"}, "priorityClassName": "low",
                  "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                      {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}]}}},
         "auth": {"apiKeysSecretRef": {"name": "a"}}, "tests": {"keysSecret": "b"},
         "keda": {"enabled": True, "pollingInterval": 1, "cooldownPeriod": 1, "streamsPerPod": 1, "prometheusAddress": "http://p:1"},
         "serviceMonitor": {"enabled": True, "namespace": "x", "annotations": {"a": "b"}, "honorLabels": True, "renderMode": "alwaysRender",
                            "relabelings": [{"targetLabel": "a", "replacement": "b"}], "metricRelabelings": [{"regex": "a", "action": "drop"}]},
         "ingress": {"enabled": True, "labels": {"a": "b"}, "hosts": [{"host": "a"}]},
         "httpRoute": {"enabled": True, "annotations": {"a": "b"}, "labels": {"a": "b"}, "parentRefs": [{"name": "a"}],
                       "filters": [{"type": "RequestHeaderModifier"}], "timeouts": {"request": "0s", "backendRequest": "0s"}}},
        {"image": {"repository": "a/b"}, "tests": {"enabled": False}},
        {"image": {"repository": "a/b"}, "auth": {"serviceAccounts": {"allowed": [{"namespace": "system", "name": "a"}, {"namespace": "system", "name": "b"}]}},
         "tests": {"serviceAccountName": "b"}},
        {"image": {"repository": "a/b", "digest": "sha256:" + "a" * 64}, "redis": {"image": {"digest": "sha256:" + "b" * 64}},
         "keda": {"enabled": True, "minReplicaCount": 0, "triggers": [{"type": "cron"}]}},
        {"redis": {"enabled": False}, "externalRedis": {"url": "rediss+sentinel://a,b/m", "tls": {
            "certificate": "-----BEGIN CERTIFICATE-----\n", "key": "-----BEGIN PRIVATE KEY-----\n"}}},
    ],
}
# Only forbids what the others ask for: see BAD
GUARDS = {"rbac.clusterRoles"}


@pytest.mark.parametrize("name", rendering.CHARTS)
def test_every_value_changes_what_is_rendered(name):
    files = [yaml.safe_load(file.read_text()) for file in ci_files(name)] + MORE[name]

    def changes(leaf):
        for values in files:
            if get(values, leaf) is None:
                continue
            apis = [] if get(values, "serviceMonitor.renderMode") else MONITORING
            other = template(name, values=without(values, leaf), apis=apis)
            if other.returncode:
                # It is missed: then by its name.
                assert leaf.rpartition(".")[2] in other.stderr, f"{leaf}: {other.stderr}"
                return True
            if other.stdout != render(name, values=values, apis=apis):
                return True
        return False

    with ThreadPoolExecutor(2) as pool:
        unused = {leaf for leaf, used in zip(leaf_names(name), pool.map(changes, leaf_names(name))) if not used} - GUARDS
    assert not unused, f"nothing changes with {unused}, or no values in {name}/ci and this test set them"


def test_every_field_of_the_spec_can_be_set():
    fields = schemas.generate.spec_fields()
    other_form = {"image": "serverImage", "redis": "externalRedis", "replicas": "replicaCount"}
    values = values_of("chatservice")
    missing = [field for field in fields if other_form.get(field, field) not in values]
    assert not missing, f"charts/chatservice/values.yaml: add, with a comment and an empty default: {missing}; then make charts"
    comments = described("chatservice")
    for field, schema in fields.items():
        if field == "autoscaling":
            assert schema["properties"].keys() == values_of("chatservice")[field].keys() - {"enabled"}
            continue
        for inner in schema.get("properties", {}) if field not in ("redis", "resources") else ():
            assert inner in comments[field], f"charts/chatservice/values.yaml: the comment above {field} does not name {inner}"


def sample(schema):
    """Some value that a schema of the CRD allows, in which every field is set."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "string")
    if kind == "object":
        if isinstance(schema.get("additionalProperties"), dict):
            return {"key": sample(schema["additionalProperties"])}
        return {name: sample(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema["items"])]
    if kind in ("integer", "number"):
        return max(schema.get("minimum", 1), 1)
    return True if kind == "boolean" else "x"


def test_every_field_of_the_spec_reaches_the_chatservice_as_it_is():
    fields = schemas.generate.spec_fields()
    values = {field: sample(schema) for field, schema in fields.items() if field not in ("image", "redis", "replicas", "autoscaling")}
    rendered = objects("chatservice", *IMAGE, "--set", "replicaCount=0,serverImage=a:1", values=values)
    spec = of_kind(rendered, "ChatService")[0]["spec"]
    # The chart's own Redis has to be reached too, and its own test let in.
    redis, test = (spec["networkPolicy"][list_].pop()["podSelector"]["matchLabels"] for list_ in ("egressTo", "ingressFrom"))
    assert redis == of_kind(rendered, "StatefulSet")[0]["spec"]["selector"]["matchLabels"]
    assert test.items() <= of_kind(rendered, "Pod")[0]["metadata"]["labels"].items()
    for field, value in values.items():
        assert spec[field] == value, field
    assert (spec["replicas"], spec["image"], spec["redis"]) == (0, "a:1", {"secretRef": {"name": "test-redis"}})


TWICE = "extraEnv: CHATSERVICE_SERVER_IMAGE is set already"
BAD = [
    # misspelt
    ("chatservice-operator", "watchNamespace={chat}", "additional properties 'watchNamespace' not allowed"),
    ("chatservice-operator", "image.repo=x", "at '/image': additional properties 'repo' not allowed"),
    ("chatservice-operator", "resources.limit.memory=1Gi", "at '/resources': additional properties 'limit' not allowed"),
    ("chatservice-operator", "tolerations[0].effekt=NoSchedule", "at '/tolerations/0': additional properties 'effekt' not allowed"),
    ("chatservice", "rateLimit.requestsPerMinute=5", "additional properties 'rateLimit' not allowed"),
    ("chatservice", "rateLimits.requestPerMinute=5", "at '/rateLimits': additional properties 'requestPerMinute' not allowed"),
    ("chatservice", "redis.persistance.enabled=false", "at '/redis': additional properties 'persistance' not allowed"),
    # wrong types and values
    ("chatservice-operator", "crds.keep=maybe", "at '/crds/keep': got string, want boolean"),
    ("chatservice-operator", "image.digest=abc", "at '/image/digest': 'abc' does not match pattern"),
    ("chatservice-operator", "image.tag=latest", "at '/image/tag': value must be 'a version: latest is another image tomorrow"),
    ("chatservice", "redis.image.tag=latest", "at '/redis/image/tag': value must be 'a version: "),
    ("chatservice", "image.repository=a/b:1.0", "at '/image/repository': value must be 'a name without tag and digest: they have values of their own beside it'"),
    ("chatservice", "image.repository=a/b@sha256:1", "at '/image/repository': value must be 'a name without tag and digest"),
    ("chatservice", "image=null", "missing property 'image'"),
    ("chatservice", "redis=null", "missing property 'redis'"),
    ("chatservice", "redis.auth=null", "at '/redis': missing property 'auth'"),
    ("chatservice-operator", "image=null", "missing property 'image'"),
    ("chatservice-operator", "watchNamespaces={Chat}", "at '/watchNamespaces/0': 'Chat' does not match pattern"),
    ("chatservice-operator", "image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("chatservice-operator", "networkPolicy.apiServerPorts={}", "at '/networkPolicy/apiServerPorts"),
    ("chatservice", "replicaCount=many", "at '/replicaCount': got string, want null or integer"),
    ("chatservice", "rateLimits.requestsPerMinute=-5", "at '/rateLimits/requestsPerMinute': minimum: got -5, want"),
    ("chatservice", "service.port=99999", "at '/service/port': maximum: got 99,999, want 65,535"),
    # What the operator needs and what cannot be
    ("chatservice-operator", "image.repository=", "image.repository is needed: the name under which the image was pushed"),
    ("chatservice-operator", "serviceAccount.create=false", "serviceAccount.name is needed when serviceAccount.create is false"),
    ("chatservice-operator", "rbac.clusterRoles=false", "rbac.clusterRoles is false and watchNamespaces is empty: serving all namespaces needs a ClusterRole. Name the namespaces in watchNamespaces, or set rbac.clusterRoles to true"),
    ("chatservice-operator", "extraEnv[0].name=CHATSERVICE_SERVER_IMAGE,extraEnv[0].value=x", TWICE),
    ("chatservice-operator", "extraEnv[0].name=A,extraEnv[0].value=x,extraEnv[1].name=A,extraEnv[1].value=y", "extraEnv: A is set already: each variable once"),
    ("chatservice-operator", "extraArgs={--log-level=debug}", "extraArgs: --log-level is set already, from the values logging, watchNamespaces, allowedImages and maxConcurrentRollouts: change those"),
    ("chatservice-operator", "serviceMonitor.enabled=true,serviceMonitor.renderMode=failIfMissing", "serviceMonitor.enabled is true and the cluster has no ServiceMonitor (monitoring.coreos.com/v1): install the Prometheus operator first, or set serviceMonitor.renderMode to skipIfMissing"),
    ("chatservice-operator", "prometheusRule.enabled=true,serviceMonitor.renderMode=alwaysRender,prometheusRule.excludeRules={ChatServiceSlow}", "prometheusRule.excludeRules: there is no alert ChatServiceSlow; there are ChatServiceOperatorWithoutLeader, "),
    ("chatservice", "image.repository=", "image.repository is needed for the Job that makes Redis' password"),
    ("chatservice", "tests.serviceAccountName=web", "tests.serviceAccountName is web, and auth.serviceAccounts.allowed has no {namespace: system, name: web}: add it there"),
    # Redis
    ("chatservice", "externalRedis.url=redis://a:6379", "at '/redis/enabled': value must be 'false, because externalRedis is set: use one of the two'"),
    ("chatservice", "redis.enabled=false", "at '/redis/enabled': value must be 'true, because externalRedis has no existingSecret, url or host"),
    ("chatservice", "redis.enabled=false,externalRedis.url=redis://a,externalRedis.host=b", "externalRedis.url and externalRedis.host are set: use one of them"),
    ("chatservice", "redis.enabled=false,externalRedis.url=http://a", "at '/externalRedis/url': 'http://a' does not match pattern"),
    ("chatservice", "redis.enabled=false,externalRedis.url=redis://a,externalRedis.tls.enabled=true", "write rediss for redis in it"),
    ("chatservice", "redis.enabled=false,externalRedis.host=a,externalRedis.tls.ca=-----BEGIN CERTIFICATE-----", "set externalRedis.tls.enabled, or write rediss in externalRedis.url"),
    ("chatservice", "redis.enabled=false,externalRedis.host=a,externalRedis.tls.enabled=true,externalRedis.tls.key=-----BEGIN PRIVATE KEY-----", "externalRedis.tls.certificate and externalRedis.tls.key go together"),
    ("chatservice", "redis.enabled=false,externalRedis.existingSecret=a,externalRedis.password=b", "leave out externalRedis.username and externalRedis.password"),
    ("chatservice", "redis.enabled=false,externalRedis.existingSecret=a,externalRedis.tls.enabled=true", "externalRedis.existingSecret and externalRedis.tls are set, and that Secret says it itself: leave out externalRedis.tls"),
    ("chatservice", "redis.enabled=false,externalRedis.existingSecret=a,externalRedis.tls.certificate=-----BEGIN CERTIFICATE-----", "externalRedis.existingSecret and externalRedis.tls are set"),
    ("chatservice", "redis.enabled=false,externalRedis.existingSecret=a,externalRedis.port=6380", "externalRedis.port is 6380 and externalRedis.host is not set: set it, or write the port in that Secret (externalRedis.existingSecret)"),
    ("chatservice", "redis.enabled=false,externalRedis.url=redis://a,externalRedis.port=6380", "externalRedis.port is 6380 and externalRedis.host is not set: set it, or write the port in externalRedis.url"),
    ("chatservice", "redis.enabled=false,externalRedis.url=redis://a,externalRedis.username=b", "externalRedis.url and externalRedis.username are set, and a url says it itself: write rediss://USER:PASSWORD@HOST:PORT in externalRedis.url, or use externalRedis.host instead"),
    ("chatservice", "redis.enabled=false,externalRedis.url=redis://a,externalRedis.password=b", "externalRedis.url and externalRedis.password are set"),
    ("chatservice", "redis.image.tag=", "redis.image.tag is empty, and so is redis.image.digest: name a version of it"),
    ("chatservice", "redis.image.tag=null", "redis.image.tag is empty, and so is redis.image.digest: name a version of it"),
    ("chatservice", "redis.image.repository=", "redis.image.repository is empty: name the image of a Valkey or Redis, such as valkey/valkey"),
    ("chatservice", "redis.resources.limits.memory=1.5Gi", "redis.resources.limits.memory is 1.5Gi, of which three quarters cannot be taken: write a whole number with Mi or Gi, such as 256Mi, or set redis.maxmemory"),
    ("chatservice", "redis.resources.limits=null", "redis.resources.limits.memory is not set"),
    # Scaling, exposure, the model
    ("chatservice", "autoscaling.enabled=true,keda.enabled=true", "autoscaling.enabled and keda.enabled are both true, and would fight over the number of pods: set one of them to false"),
    ("chatservice", "autoscaling.enabled=true,autoscaling.minReplicas=5,autoscaling.maxReplicas=3", "autoscaling.minReplicas (5) is above autoscaling.maxReplicas (3): lower the first or raise the second"),
    ("chatservice", "autoscaling.minReplicas=0", "at '/autoscaling/minReplicas': minimum: got 0, want 1"),
    ("chatservice", "keda.enabled=true,keda.minReplicaCount=5,keda.maxReplicaCount=3", "keda.minReplicaCount (5) is above keda.maxReplicaCount (3): lower the first or raise the second"),
    ("chatservice", "keda.enabled=true,keda.minReplicaCount=0", "keda.minReplicaCount is 0 and keda.triggers is empty: without pods there are no streams to count, so nothing would ever start one again. Set keda.minReplicaCount to 1, or keda.triggers"),
    ("chatservice", "backend.openai.baseURL=https://api.openai.com/v1", "model is needed with backend.openai: the name of the model to ask, such as --set model=gpt-4o-mini"),
    # --set cannot write an empty map.
    ("chatservice", "{backend: {openai: {}}}", "model is needed with backend.openai"),
    ("chatservice", "ingress.enabled=true", "ingress.enabled is true and ingress.hosts is empty"),
    ("chatservice", "httpRoute.timeouts.request=forever", "at '/httpRoute/timeouts/request': 'forever' does not match pattern"),
    ("chatservice", "httpRoute.enabled=true", "httpRoute.enabled is true and httpRoute.parentRefs is empty"),
]


@pytest.mark.parametrize(("name", "sets", "said"), BAD, ids=[f"{name}-{sets[:40]}" for name, sets, _ in BAD])
def test_a_mistake_is_refused_with_the_key_and_the_fix(name, sets, said):
    given = {"values": yaml.safe_load(sets)} if sets.startswith("{") else {}
    result = template(name, *IMAGE, *([] if given else ["--set", sets]), **given)
    assert result.returncode != 0, f"accepted {sets}"
    assert said in result.stderr, result.stderr


@pytest.mark.parametrize("name", rendering.CHARTS)
def test_what_is_taken_away_is_refused_by_its_name_or_not_missed(name):
    """`null` takes a value away; a template that then trips over it would tell of its own lines."""
    def groups(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield prefix + key
                yield from groups(value, f"{prefix}{key}.")

    taken = [group for group in groups(values_of(name)) if group != "global"]
    with ThreadPoolExecutor(2) as pool:
        results = zip(taken, pool.map(lambda group: template(name, *IMAGE, "--set", f"{group}=null"), taken))
    wrong = [f"{group}: {result.stderr}" for group, result in results if result.returncode and (
        re.search("nil pointer|wrong type for value", result.stderr)
        or (f"missing property '{group.rpartition('.')[2]}'" not in result.stderr and group not in result.stderr))]
    assert len(taken) > 20 and not wrong, wrong


def test_an_autoscaler_leaves_out_replicas_and_what_is_not_set():
    args = ["--set", "replicaCount=7,autoscaling.enabled=true,autoscaling.targetCPUUtilizationPercentage=null"]
    spec = of_kind(objects("chatservice", *IMAGE, *args), "ChatService")[0]["spec"]
    assert spec["autoscaling"] == {"minReplicas": 2, "maxReplicas": 10} and "replicas" not in spec
    spec = of_kind(objects("chatservice", *IMAGE, "--set", "replicaCount=7,keda.enabled=true"), "ChatService")[0]["spec"]
    assert "replicas" not in spec and "autoscaling" not in spec


def test_a_release_that_begins_with_a_digit_is_told_what_to_do():
    result = template("chatservice", *IMAGE, release="1demo")
    assert "Set fullnameOverride to one that does" in result.stderr
    assert render("chatservice", *IMAGE, "--set", "fullnameOverride=demo", release="1demo")


def test_generated_files_are_current():
    import subprocess
    import sys
    result = subprocess.run([sys.executable, str(rendering.ROOT / "charts/generate.py"), "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
