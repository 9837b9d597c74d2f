"""The chart's ScaledObject on a real API server with KEDA's own CustomResourceDefinition, and what KEDA makes of it: a HorizontalPodAutoscaler
on external metrics, which the test serves as KEDA's adapter would. KEDA itself does not run.

Run under tests/cluster/with-api-server.sh, after test_on_cluster.py: that installs our definition by its chart, this over it.
"""
import http.server
import json
import re
import ssl
import threading
import time

import pytest
import yaml

import on_cluster
import rendering
from on_cluster import get, helm, kubectl, run, until

pytestmark = on_cluster.needs_api_server
NS = "keda"
SERVICE = ["demo", rendering.chart("chatservice"), "--namespace", NS, *rendering.IMAGE, "--set", "redis.persistence.enabled=false",
           "--set", "keda.enabled=true,keda.streamsPerPod=20,keda.maxReplicaCount=6", "--set", "keda.behavior.scaleDown.stabilizationWindowSeconds=0"]
METRICS = "v1beta1.external.metrics.k8s.io"


class Adapter(http.server.BaseHTTPRequestHandler):
    """external.metrics.k8s.io with one metric: what all pods have together."""

    streams = 0

    def do_GET(self):
        resources = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "external.metrics.k8s.io/v1beta1", "resources": [
            {"name": "externalmetrics", "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}]}
        values = {"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {}, "items": [
            {"metricName": "s0-prometheus", "metricLabels": {}, "value": str(Adapter.streams),
             "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}]}
        path, _, query = self.path.partition("?")
        wanted = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{NS}/s0-prometheus"
        known = path == wanted and "scaledobject.keda.sh%2Fname%3Ddemo" in query
        found = resources if path == "/apis/external.metrics.k8s.io/v1beta1" else values if known else None
        body = json.dumps(found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """Both definitions, and an operator of this namespace alone."""
    on_cluster.namespace(NS)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", rendering.ROOT / "crds/chatservices.yaml")
    kubectl("apply", "--server-side", "-f", run(rendering.ROOT / "tests/cluster/keda-crd.sh").stdout.strip())
    for kind in ("chatservices", "scaledobjects"):
        until(f"the kind {kind}", lambda: run("kubectl", "get", kind, "-n", NS, fails=True).returncode == 0)
    with on_cluster.operator(tmp_path_factory.mktemp("operator"), f"--lease-namespace={NS}", "--lease-name=beside", f"--watch-namespaces={NS}"):
        yield


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The metrics API, as long as tests ask for it: no namespace goes while one of the APIs does not answer."""
    folder = tmp_path_factory.mktemp("adapter")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "1", "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key", "-out", folder / "certificate")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Adapter)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    group, version = "external.metrics.k8s.io", "v1beta1"
    kubectl("apply", "-f", "-", text=yaml.safe_dump_all([
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "adapter", "namespace": NS}, "spec": {"type": "ExternalName", "externalName": "localhost"}},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": METRICS}, "spec": {
            "group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": True,
            "service": {"namespace": NS, "name": "adapter", "port": server.server_port}}}]))
    kubectl("wait", "--for=condition=Available", f"apiservice/{METRICS}", "--timeout=60s")
    yield Adapter
    kubectl("delete", "apiservice", METRICS)
    server.shutdown()


def strictly(item):
    return run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-n", NS, "-f", "-", text=yaml.safe_dump(item), fails=True)


@pytest.mark.parametrize("values", [yaml.safe_load((rendering.chart("chatservice") / "ci/keda-values.yaml").read_text()), {
    "image": {"repository": "a/b"}, "keda": {"enabled": True, "minReplicaCount": 0, "triggers": [
        {"type": "cron", "metadata": {"timezone": "Etc/UTC", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "2"}}]}}],
    ids=["streams in flight", "triggers of one's own"])
def test_kedas_own_definition_knows_every_field(values):
    scaled = rendering.of_kind(rendering.objects("chatservice", values=values, apis=rendering.MONITORING), "ScaledObject")[0]
    del scaled["metadata"]["namespace"]
    result = strictly(scaled)
    assert result.returncode == 0 and "Warning" not in result.stderr, result.stderr
    # It looks: a field that it does not know, and one that is missing
    result = strictly({**scaled, "spec": {**scaled["spec"], "streams": 1}})
    assert result.returncode != 0 and 'unknown field "spec.streams"' in result.stderr, result.stderr
    result = strictly({**scaled, "spec": {**scaled["spec"], "triggers": [{"metadata": {}}]}})
    assert result.returncode != 0 and "triggers[0].type" in result.stderr, result.stderr


def autoscaler(scaled):
    """What KEDA makes of a ScaledObject with one trigger of Prometheus."""
    spec = scaled["spec"]
    trigger, = spec["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
    metric = {"name": "s0-prometheus", "selector": {"matchLabels": {"scaledobject.keda.sh/name": scaled["metadata"]["name"]}}}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {
        "name": f"keda-hpa-{scaled['metadata']['name']}", "namespace": NS, "labels": scaled["metadata"]["labels"], "ownerReferences": [
            {"apiVersion": scaled["apiVersion"], "kind": scaled["kind"], "name": scaled["metadata"]["name"], "uid": scaled["metadata"]["uid"],
             "controller": True, "blockOwnerDeletion": True}]},
        "spec": {"minReplicas": spec["minReplicaCount"], "maxReplicas": spec["maxReplicaCount"],
                 "scaleTargetRef": {key: spec["scaleTargetRef"][key] for key in ("apiVersion", "kind", "name")},
                 "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
                 "metrics": [{"type": "External", "external": {"metric": metric, "target": {
                     "type": "AverageValue", "averageValue": trigger["metadata"]["threshold"]}}}]}}


def pods():
    """How many the ChatService, and then its Deployment, is to have."""
    deployments = get("deployments", "-n", NS, "-l", "app.kubernetes.io/instance=demo")["items"]
    return get("chat", "demo", "-n", NS)["spec"].get("replicas"), *(deployment["spec"]["replicas"] for deployment in deployments)


def test_it_scales_the_chatservice_both_ways_and_nobody_fights_it(adapter):
    adapter.streams = 70
    helm("install", *SERVICE)
    scaled = get("scaledobject", "demo", "-n", NS)
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert re.fullmatch(r'sum\(chat_streams_active\{namespace="keda",chatservice="demo"\}\)', query), query
    kubectl("create", "-f", "-", text=yaml.safe_dump(autoscaler(scaled)))
    # 70 streams, 20 for each
    until("four pods", lambda: pods() == (4, 4))
    # An upgrade says nothing of how many.
    helm("upgrade", *SERVICE, "--set", "rateLimits.requestsPerMinute=60")
    assert pods() == (4, 4)
    adapter.streams = 30
    until("two pods", lambda: pods() == (2, 2))
    adapter.streams = 1000
    until("as many as may be", lambda: pods() == (6, 6))
    conditions = {one["type"]: one for one in get("hpa", "keda-hpa-demo", "-n", NS)["status"]["conditions"]}
    assert conditions["ScalingActive"]["status"] == "True" and conditions["AbleToScale"]["status"] == "True", conditions


def test_what_keda_made_goes_with_the_release(adapter):
    helm("uninstall", "demo", "--namespace", NS)
    until("the autoscaler to go", lambda: get("hpa", "-n", NS)["items"] == [])
