"""Every query of the alerts, the dashboards and the KEDA trigger, asked of a real Prometheus that scraped the real programs.

Run under tests/cluster/with-api-server.sh. Four programs are driven until they show all that is asked for: a server with a Redis that is
killed, one whose backend fails, one whose configuration changes, and an operator of which one object is refused.
"""
import http.server
import json
import os
import pathlib
import random
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import yaml

import queries

KUBECONFIG = os.environ.get("CHATSERVICE_TEST_KUBECONFIG")
pytestmark = pytest.mark.skipif(not KUBECONFIG, reason="CHATSERVICE_TEST_KUBECONFIG is not set: run it under tests/cluster/with-api-server.sh")
PROGRAM = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", queries.ROOT / "target")) / "debug/chatservice"
PATIENCE = 120
KEY = "a-key-of-a-test-that-is-long-enough-0123456789"

LIMITED = """
apiVersion: chatservice.dev/v1alpha1
kind: ChatService
metadata: {name: demo}
spec:
  model: echo-1
  models: [{name: echo-1, price: {inputPerMillionTokens: "1", outputPerMillionTokens: "2"}, maxOutputTokens: 100}]
  backend: {echo: {}}
  rateLimits: {requestsPerMinute: 600, burst: 20}
  budget: {amount: "1.00", period: Day}
  cache: {ttl: 1h}
  redis: {secretRef: {name: redis}}
"""
SIMPLE = """
apiVersion: chatservice.dev/v1alpha1
kind: ChatService
metadata: {name: demo}
spec: {model: m, backend: {%s}%s}
"""
# Refuses a child of one ChatService: a failure that a reconcile meets again and again
REFUSAL = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: refused}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "object.metadata.name != 'refused-config'", reason: Forbidden}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: refused}
spec: {policyName: refused, validationActions: [Deny]}
"""
OBJECT = "apiVersion: chatservice.dev/v1alpha1\nkind: ChatService\nmetadata: {name: %s, namespace: default}\nspec: {model: m, backend: {echo: {}}, auth: {serviceAccounts: {allowed: [{namespace: default, name: default}]}}}\n"


def free_port():
    """Below those that connections are given by themselves: one of them could take it before its program does."""
    while True:
        port = random.randrange(20000, 32000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            pass


def until(what, look):
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.1)
    return found


def fetch(url, body=None, key=None):
    """Status and text; a connection that cannot be made is status 0."""
    # As an SDK says it that asks again
    headers = {"content-type": "application/json", "x-stainless-retry-count": "1", **({"authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, data=body and json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Failing(http.server.BaseHTTPRequestHandler):
    """A backend that has an outage."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(500)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Starts programs, and ends them with the module."""
    folder, running = tmp_path_factory.mktemp("programs"), []

    def start(name, *command, **environment):
        log = (folder / f"{name}.log").open("w")
        process = subprocess.Popen([*map(str, command)], stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}, cwd=folder)
        running.append(process)
        return process

    yield folder, start
    for process in running:
        process.kill()
        process.wait()


def chat(port, message, stream=False, **more):
    return fetch(f"http://127.0.0.1:{port}/v1/chat/completions", {"model": "echo-1", "messages": [{"role": "user", "content": message}], "stream": stream, **more})


def drive_limited(folder, start):
    redis, api, admin = free_port(), free_port(), free_port()
    store = start("redis", "redis-server", "--port", redis, "--bind", "127.0.0.1", "--save", "")
    (folder / "limited.yaml").write_text(LIMITED)
    start("limited", PROGRAM, "local", "-f", "limited.yaml", f"--address=127.0.0.1:{api}", f"--admin-address=127.0.0.1:{admin}",
          REDIS_URL=f"redis://127.0.0.1:{redis}")
    until("the limited server", lambda: chat(api, "hello")[0] == 200)

    def again():
        """Answers, hits, streams and refusals; the Redis goes away in the middle of it."""
        for turn in range(30):
            chat(api, "hello")
            chat(api, f"hello {turn} {time.monotonic()}", stream=True)

    again()
    return admin, lambda: (store.kill(), again())


def drive_failing(folder, start):
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    api, admin = free_port(), free_port()
    (folder / "failing.yaml").write_text(SIMPLE % (f'openai: {{baseURL: "http://127.0.0.1:{backend.server_port}/v1"}}', ", auth: {apiKeysSecretRef: {name: keys}}"))
    start("failing", PROGRAM, "local", "-f", "failing.yaml", f"--address=127.0.0.1:{api}", f"--admin-address=127.0.0.1:{admin}",
          CHATSERVICE_API_KEYS=f"app={KEY}")
    until("the failing server", lambda: fetch(f"http://127.0.0.1:{admin}/readyz")[0] == 200)
    ask = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

    def again():
        for _ in range(20):
            assert fetch(f"http://127.0.0.1:{api}/v1/chat/completions", ask, KEY)[0] >= 500
            assert fetch(f"http://127.0.0.1:{api}/v1/chat/completions", ask)[0] == 401

    again()
    return admin, again


def drive_reloading(folder, start):
    """As a pod runs it: with the file that the operator writes."""
    api, admin, config = free_port(), free_port(), folder / "config.json"
    rendered = subprocess.run([PROGRAM, "render", "-f", "-"], input=SIMPLE % ("echo: {}", ""), capture_output=True, text=True, check=True).stdout
    content = next(json.loads(item["data"]["config.json"]) for item in yaml.safe_load_all(rendered)
                   if item["kind"] == "ConfigMap" and "config.json" in item["data"])

    def write(generation):
        content["identity"]["generation"] = generation
        content["dynamic"]["model"] = f"echo-{generation}"
        config.write_text(json.dumps(content))

    write(1)
    start("reloading", PROGRAM, "serve", f"--config={config}", f"--address=127.0.0.1:{api}", f"--admin-address=127.0.0.1:{admin}")
    metrics = f"http://127.0.0.1:{admin}/metrics"
    until("the server", lambda: "chat_config_generation 1" in fetch(metrics)[1])
    write(2)
    until("the new configuration", lambda: "chat_config_generation 2" in fetch(metrics)[1])
    config.write_text("{")
    until("the bad configuration", lambda: 'result="rejected"' in fetch(metrics)[1])
    return admin, lambda: None


def kubectl(*args, text=None):
    return subprocess.run(["kubectl", *args], input=text, check=True, capture_output=True, text=True).stdout


def drive_operator(_, start):
    admin = free_port()
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(queries.ROOT / "crds/chatservices.yaml"))
    # Not `kubectl wait`, which fails while there are no conditions at all
    until("the kind", lambda: subprocess.run(["kubectl", "get", "chatservices"], capture_output=True).returncode == 0)
    kubectl("apply", "-f", "-", text=REFUSAL)
    attempt = ["kubectl", "create", "configmap", "refused-config", "--dry-run=server"]
    until("the policy", lambda: subprocess.run(attempt, capture_output=True).returncode != 0)
    start("operator", PROGRAM, "controller", f"--admin-address=127.0.0.1:{admin}", "--lease-namespace=default")
    metrics = f"http://127.0.0.1:{admin}/metrics"
    until("the operator", lambda: "chatservice_controller_leader 1" in fetch(metrics)[1])
    for name in ("good", "refused"):
        kubectl("apply", "-f", "-", text=OBJECT % name)
    until("a reconcile that fails", lambda: "chatservice_controller_reconcile_errors_total{" in fetch(metrics)[1])
    return admin, lambda: kubectl("annotate", "--overwrite", "chat/good", "chat/refused", f"again={time.monotonic()}")


@pytest.fixture(scope="module")
def prometheus(started):
    """Asks a Prometheus; the programs are driven meanwhile, so that there are rates."""
    folder, start = started
    driven = {name: drive(folder, start) for name, drive in
              [("limited", drive_limited), ("failing", drive_failing), ("reloading", drive_reloading), ("operator", drive_operator)]}
    labels = {"limited": {"job": "chatservice", "namespace": "chat", "chatservice": "demo", "pod": "demo-1"},
              "failing": {"job": "chatservice", "namespace": "chat", "chatservice": "demo", "pod": "demo-2"},
              "reloading": {"job": "chatservice", "namespace": "chat", "chatservice": "demo", "pod": "demo-3"},
              # What a ServiceMonitor adds by itself
              "operator": {"job": "chatservice-operator", "namespace": "chatservice-system", "pod": "operator-1"}}
    port = free_port()
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [
        {"job_name": labels[name]["job"] + name, "static_configs": [{"targets": [f"127.0.0.1:{admin}"], "labels": labels[name]}]}
        for name, (admin, _) in driven.items()]}))
    start("prometheus", "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn")

    def ask(query):
        status, text = fetch(f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}")
        assert status in (0, 200), f"{query}: {text}"
        return json.loads(text)["data"]["result"] if status else []

    until("all targets", lambda: len(ask("up == 1")) == len(driven))
    time_of_first = time.monotonic()
    for _, again in driven.values():
        again()
    # A rate needs two scrapes after something has happened.
    until("a few scrapes", lambda: time.monotonic() > time_of_first + 3)
    for _, again in driven.values():
        again()
    return ask


QUERIES = queries.of_alerts() + queries.of_boards() + queries.of_keda()


def test_every_metric_and_label_of_every_query_exists(prometheus):
    known, wrong = {}, []

    def labels(metric):
        if metric not in known:
            series = prometheus(f'{{__name__="{metric}"}}')
            known[metric] = {label for one in series for label in one["metric"]}
        return known[metric]

    # What was driven last is scraped last.
    until("the Redis to be missed", lambda: prometheus("chat_store_errors_total"))
    for where, query, shown in QUERIES:
        parts = queries.selectors(queries.filled(query))
        assert parts, f"{where}: no metric found in {query}"
        all_labels = set()
        for metric, _, matched in parts:
            if not labels(metric):
                wrong.append(f"{where}: no program shows {metric}")
                continue
            all_labels |= labels(metric)
            if missing := matched - labels(metric):
                wrong.append(f"{where}: {metric} has no label {missing}")
        if missing := (queries.grouped(query) | set(shown)) - all_labels - {"le"}:
            wrong.append(f"{where}: none of its metrics has a label {missing}")
    assert not wrong, "\n".join(wrong)


def test_every_matcher_finds_something(prometheus):
    """A value that is never there is a misspelt one."""
    wrong = []
    for where, query, _ in QUERIES:
        for metric, matchers, _ in queries.selectors(queries.filled(query)):
            if not prometheus(metric + matchers):
                wrong.append(f"{where}: {metric}{matchers}")
    assert not wrong, "\n".join(wrong)


def test_every_panel_shows_something(prometheus):
    empty = [where for where, query, _ in queries.of_boards() if not until(where, lambda: prometheus(queries.filled(query)))]
    assert not empty


def test_the_test_can_fail(prometheus):
    assert not prometheus("chat_no_such_metric")
    assert not prometheus('http_requests_total{status="999"}')
