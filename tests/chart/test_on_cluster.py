"""Both charts by the real Helm on a real API server, in a namespace that enforces the pod security standard *restricted*.

Run under tests/cluster/with-api-server.sh. Pods are kwok's: they become ready and run nothing; the operator runs beside the cluster.
The tests are one story, in the order of the file.
"""
import json
import time

import pytest
import yaml

import on_cluster
import rendering
from on_cluster import PATIENCE, get, helm, kubectl, run, until

pytestmark = on_cluster.needs_api_server
SYSTEM, NS = "chatservice-system", "chat"
CRD = "chatservices.chatservice.dev"


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    for name in (SYSTEM, NS):
        on_cluster.namespace(name)
    with on_cluster.operator(tmp_path_factory.mktemp("operator"), f"--lease-namespace={SYSTEM}", "--lease-name=beside"):
        yield


OPERATOR = ["chatservice", rendering.chart("chatservice-operator"), "--namespace", SYSTEM, *rendering.IMAGE]
# No volume: nothing provides one here. KEPT has one, and is never ready.
SERVICE = ["demo", rendering.chart("chatservice"), "--namespace", NS, *rendering.IMAGE, "--set", "redis.persistence.enabled=false"]
KEPT = ["kept", *SERVICE[1:-2], "--set", "redis.persistence.size=2Gi,redis.persistence.annotations.a=b"]


def versions(release, namespace):
    """The resourceVersion of each object of a release, hooks aside."""
    manifest = helm("get", "manifest", release, "--namespace", namespace).stdout
    listed = json.loads(kubectl("get", "--namespace", namespace, "-f", "-", "-o", "json", text=manifest))
    return {f"{item['kind']} {item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in listed["items"]}


def settled(release, namespace):
    """The same, once nothing writes to them any more."""
    end, before = time.monotonic() + PATIENCE, None
    while before != (before := versions(release, namespace)):
        assert time.monotonic() < end, f"objects of {release} are written again and again: {before}"
        time.sleep(1)
    return before


def test_operator_is_installed_with_wait():
    helm("install", *OPERATOR, "--wait", "--timeout", "2m")
    assert get("deployment", "-n", SYSTEM)["items"][0]["status"]["readyReplicas"] == 1
    assert get("crd", CRD)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_redis_on_a_volume_is_installed():
    helm("install", *KEPT)
    # It waits for a volume that nothing provides here.
    claim = until("its claim", lambda: get("pvc", "-n", NS)["items"])[0]
    assert (claim["metadata"]["name"], claim["spec"]["resources"]["requests"]["storage"]) == ("data-kept-redis-0", "2Gi")


def test_chatservice_is_installed_and_wait_ends_when_it_is_ready():
    # kwok's pods are silent, and the operator waits 2 min for what they say.
    helm("install", *SERVICE, "--wait", "--timeout", "4m")
    chat = get("chat", "demo", "-n", NS)
    ready = [condition for condition in chat["status"]["conditions"] if condition["type"] == "Ready"]
    assert ready[0]["status"] == "True", chat["status"]
    assert get("statefulset", "demo-redis", "-n", NS)["status"]["readyReplicas"] == 1


def test_hooks_leave_nothing():
    left = kubectl("get", "jobs,roles,rolebindings,serviceaccounts", "-n", NS, "-o", "name", "-l", "app.kubernetes.io/component=init")
    assert left == ""


@pytest.mark.parametrize(("release", "namespace", "line"), [("chatservice", SYSTEM, OPERATOR), ("demo", NS, SERVICE)], ids=["operator", "service"])
def test_upgrade_with_the_same_values_writes_nothing(release, namespace, line):
    before = settled(release, namespace)
    helm("upgrade", *line)
    assert versions(release, namespace) == before


def test_nor_does_it_to_a_redis_on_a_volume():
    # Of pods that are silent the operator says so once, and no more.
    kubectl("wait", "--for=condition=ConfigApplied=Unknown", "chat/kept", "-n", NS, "--timeout=4m")
    before = settled("kept", NS)
    assert "StatefulSet kept-redis" in before
    helm("upgrade", *KEPT)
    assert versions("kept", NS) == before


def test_redis_volume_outlives_the_release():
    helm("uninstall", "kept", "--namespace", NS, "--wait")
    until("its pods to go", lambda: get("pods", "-n", NS, "-l", "app.kubernetes.io/instance=kept")["items"] == [])
    assert get("pvc", "data-kept-redis-0", "-n", NS)
    kubectl("delete", "pvc", "data-kept-redis-0", "-n", NS)


def test_upgrade_and_rollback():
    def level():
        return kubectl("get", "deployment", "-n", SYSTEM, "-o", "jsonpath={.items[0].spec.template.spec.containers[0].args}")

    helm("upgrade", *OPERATOR, "--set", "logging.level=debug", "--wait", "--timeout", "2m")
    assert "--log-level=debug" in level()
    helm("rollback", "chatservice", "--namespace", SYSTEM, "--wait", "--timeout", "2m")
    assert "--log-level=info" in level()


def test_scale_survives_the_next_upgrade():
    kubectl("scale", "chat/demo", "--replicas=3", "-n", NS)
    until("three pods", lambda: get("chat", "demo", "-n", NS)["status"].get("pods") == "3/3")
    helm("upgrade", *SERVICE, "--set", "rateLimits.requestsPerMinute=60", "--wait", "--timeout", "2m")
    spec = get("chat", "demo", "-n", NS)["spec"]
    assert (spec["replicas"], spec["rateLimits"]["requestsPerMinute"]) == (3, 60)


def test_replica_count_after_scale_is_a_conflict_as_the_notes_say():
    fixed = [*SERVICE, "--set", "replicaCount=2"]
    helm("upgrade", *fixed)
    assert get("chat", "demo", "-n", NS)["spec"]["replicas"] == 2
    kubectl("scale", "chat/demo", "--replicas=3", "-n", NS)
    result = helm("upgrade", *fixed, fails=True)
    assert result.returncode != 0 and "conflict" in result.stderr, result.stderr
    helm("upgrade", *fixed, "--force-conflicts", "--wait", "--timeout", "2m")
    assert get("chat", "demo", "-n", NS)["spec"]["replicas"] == 2
    notes = helm("get", "notes", "demo", "--namespace", NS).stdout
    assert "Each upgrade sets 2 pods again" in notes


def test_a_spec_that_cannot_be_is_refused_with_the_rule():
    result = helm("upgrade", *SERVICE, "--set", "model=a,models[0].name=b", fails=True)
    assert "must be the name of one of models" in result.stderr, result.stderr


def test_what_only_a_new_spec_can_heal_ends_the_wait_and_is_rolled_back():
    result = helm("install", "bad", *SERVICE[1:], "--set", "serverImage=elsewhere.example.com/other:1", "--rollback-on-failure", "--timeout", "5m",
                  fails=True)
    assert result.returncode != 0
    # Helm ended the wait by itself: at its time-out it would say so.
    assert f"resource ChatService/{NS}/bad not ready. status: Failed" in result.stderr, result.stderr
    assert "context deadline exceeded" not in result.stderr, result.stderr
    assert run("kubectl", "get", "chat", "bad", "-n", NS, fails=True).returncode != 0, "it was not rolled back"
    assert "bad" not in helm("list", "--namespace", NS, "-q").stdout.split()


def test_uninstalling_the_operator_leaves_chatservices_and_their_pods():
    before = {item["metadata"]["uid"] for item in get("chat,pods", "-n", NS)["items"]}
    helm("uninstall", "chatservice", "--namespace", SYSTEM, "--wait")
    assert get("deployments,services,serviceaccounts,roles,rolebindings", "-n", SYSTEM, "-l", "app.kubernetes.io/part-of=chatservice")["items"] == []
    assert get("clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/part-of=chatservice")["items"] == []
    assert {item["metadata"]["uid"] for item in get("chat,pods", "-n", NS)["items"]} == before


def test_it_is_installed_again_over_the_crd_that_was_kept():
    # By its old name it is its own; by another one it is told, and its notes say how.
    other = ["second", *OPERATOR[1:]]
    result = helm("install", *other, fails=True)
    assert "invalid ownership metadata" in result.stderr, result.stderr
    helm("install", *other, "--take-ownership", "--wait", "--timeout", "2m")
    assert get("crd", CRD)["metadata"]["annotations"]["meta.helm.sh/release-name"] == "second"
    assert get("chat", "demo", "-n", NS)
    helm("uninstall", "second", "--namespace", SYSTEM, "--wait")
    helm("install", *OPERATOR, "--take-ownership", "--wait", "--timeout", "2m")


def test_uninstalling_a_chatservice_removes_all_but_its_password():
    kubectl("create", "secret", "generic", "demo-redis", "-n", NS, "--from-literal=password=x")
    helm("uninstall", "demo", "--namespace", NS, "--wait")
    until("its children to go", lambda: get("deployments,statefulsets,services,configmaps", "-n", NS, "-l", "app.kubernetes.io/instance=demo")["items"] == [])
    assert get("secret", "demo-redis", "-n", NS)


@pytest.mark.parametrize("file", rendering.ci_files("chatservice"), ids=lambda file: file.name)
def test_restricted_namespace_admits_every_shape(file):
    """Asked of the API server, which validates all and stores nothing."""
    args = ["--set", "serviceMonitor.enabled=false,keda.enabled=false,httpRoute.enabled=false,namespaceOverride="]
    rendered = rendering.parse(rendering.render("chatservice", "--values", file, *args, "--namespace", NS))
    for item in rendered:
        item["metadata"]["namespace"] = NS
        # Of a template the API server only warns: so each pod is asked about itself.
        pods = [(spec, labels) for _, spec, labels in rendering.pods([item])]
        for spec, labels in pods:
            volumes = spec.get("volumes", []) + [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in item["spec"].get("volumeClaimTemplates", [])]
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asked", "namespace": NS, "labels": labels}, "spec": {
                **spec, "volumes": volumes, "priorityClassName": "", "serviceAccountName": "default"}}
            kubectl("create", "--dry-run=server", "-f", "-", text=yaml.safe_dump(pod))
        result = run("kubectl", "apply", "--dry-run=server", "-f", "-", text=yaml.safe_dump(item))
        assert "Warning" not in result.stderr, result.stderr
