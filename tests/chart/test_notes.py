"""What Helm says after an installation: true for the values, and its commands can be pasted."""
import re
import subprocess

import pytest

import rendering
from rendering import IMAGE, ci_files, notes

SHAPES = [(name, file) for name in rendering.CHARTS for file in ci_files(name)]
IDS = [f"{name}-{file.name.removesuffix('-values.yaml')}" for name, file in SHAPES]
IMAGE_VALUES = {"image": {"repository": "localhost/chatservice"}}
OPENAI = {"model": "m", "backend": {"openai": {"credentialsSecretRef": {"name": "openai"}}}}


@pytest.mark.parametrize(("name", "file"), SHAPES, ids=IDS)
def test_indented_lines_are_commands_that_a_shell_understands(name, file):
    said = notes(name, "--values", file)
    commands = "\n".join(line[2:] for line in said.splitlines() if line.startswith("  "))
    assert "kubectl" in commands
    parsed = subprocess.run(["bash", "-n"], input=commands, capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr
    assert not re.search(r"<no value>|%!|  kubectl.*  [a-z]", said), said
    assert max(map(len, said.splitlines())) < 260


# Values beside those of the echo shape, what is then said, and what is not
SAID = [
    ({}, ["It is open", "Nothing limits", "backend is empty: echo", "helm -n chat test demo", "http://127.0.0.1:8080/"],
     ["OUTSIDE", "Bearer", "What it needs"]),
    ({"rateLimits": {"requestsPerMinute": 5}}, [], ["Nothing limits"]),
    ({"ingress": {"enabled": True, "hosts": [{"host": "a.example.com"}]}}, ["REACHED FROM OUTSIDE", "http://a.example.com"], []),
    ({"service": {"type": "NodePort"}}, ["may ask, AND IT IS REACHED FROM OUTSIDE THE CLUSTER"], []),
    ({"service": {"type": "LoadBalancer"}}, ["may ask, AND IT IS REACHED FROM OUTSIDE THE CLUSTER"], []),
    ({"service": {"type": "ClusterIP"}}, ["It is open"], ["OUTSIDE"]),
    ({"networkPolicy": {"enabled": True, "ingressFrom": [{"podSelector": {}}]}}, ["from where networkPolicy.ingressFrom says"], []),
    ({"networkPolicy": {"enabled": False, "ingressFrom": [{"podSelector": {}}]}}, ["whoever reaches the Service may ask"], ["ingressFrom"]),
    ({"namespaceOverride": "elsewhere"}, ["helm -n chat test demo", "kubectl -n elsewhere wait"], ["kubectl -n chat"]),
    (OPENAI, ["asks m of https://api.openai.com/v1", "create secret generic openai --from-literal=api-key=...\n"], ["echo"]),
    ({**OPENAI, "backend": {"openai": {"baseURL": "https://llm.example.com:8443/v1", "credentialsSecretRef": {"name": "a"}}}},
     ["asks m of https://llm.example.com:8443/v1", "secret generic a --from-literal=api-key=... --from-literal=allowed-hosts=llm.example.com\n"], []),
    ({"auth": {"apiKeysSecretRef": {"name": "keys"}}}, ["Callers must log in, by a key of Secret keys.", "create secret generic keys --from-literal=web=", "get secret keys"],
     ["It is open", "ServiceAccount"]),
    ({"auth": {"serviceAccounts": {"allowed": [{"namespace": "shop", "name": "web"}]}}},
     ["kubectl -n shop create token web --audience=chatservice.dev/chat/demo", "`helm test` asks nothing: of namespace chat no ServiceAccount may ask"], ["helm -n chat test"]),
    ({"auth": {"serviceAccounts": {"audience": "x", "allowed": [{"namespace": "chat", "name": "web"}]}}}, ["--audience=x", "helm -n chat test demo"], ["asks nothing"]),
    ({"service": {"port": 443, "tls": {"secretRef": {"name": "cert"}}}}, ["https://demo.chat.svc:8080/", "create secret tls cert", "8080:443"], ["http://127"]),
    ({"redis": {"persistence": {"enabled": True}}}, ["on the volume data-demo-redis-0", "delete secret/demo-redis pvc/data-demo-redis-0"], ["in memory"]),
    ({"redis": {"auth": {"existingSecret": "login"}}}, ["get secret login"], ["made once"]),
    ({"image": {"repository": ""}, "redis": {"enabled": False}, "externalRedis": {"existingSecret": "r"}},
     ["in the Redis of Secret r", "create secret generic r --from-literal=url=", "asks nothing: image.repository is not set"], ["helm uninstall"]),
    ({"tests": {"enabled": False}}, [], ["helm test", "test demo"]),
    ({"replicaCount": 2}, ["Each upgrade sets 2 pods again"], []),
    ({"keda": {"enabled": True}, "replicaCount": 2}, ["KEDA scales it from 1 to 10 pods; replicaCount is left out"], []),
    ({"serviceMonitor": {"enabled": True}}, ["NOT installed, because this cluster does not know the kind: ServiceMonitor"], []),
]


@pytest.mark.parametrize(("values", "there", "absent"), SAID, ids=range(len(SAID)))
def test_the_service_says_what_is_true_for_its_values(values, there, absent):
    said = notes("chatservice", values={**IMAGE_VALUES, **values})
    assert [text for text in there if text not in said] == [], said
    assert [text for text in absent if text in said] == [], said


def test_commands_name_the_namespace_whatever_the_context_has():
    for namespace in ("default", "chat"):
        said = notes("chatservice", *IMAGE, namespace=namespace)
        called = re.findall(r"\b(?:kubectl|helm) (?!uninstall)\S+ \S+", said)
        assert called and all(f" -n {namespace}" in call for call in called), said


def test_the_operator_says_whom_it_serves_and_what_was_left_out():
    said = notes("chatservice-operator", *IMAGE)
    assert "of all namespaces" in said and "NOT installed" not in said
    said = notes("chatservice-operator", *IMAGE, "--set", "watchNamespaces={chat,shop},prometheusRule.enabled=true,replicaCount=0")
    for text in ("of: chat, shop.", "kubectl apply -n chat", "kind: PrometheusRule.", "NOTHING LOOKS AFTER ChatServices"):
        assert text in said, said


def test_alerts_that_nothing_is_scraped_for_are_told_of():
    alerts = "prometheusRule.enabled=true,serviceMonitor.renderMode=alwaysRender"
    fires = "(serviceMonitor.enabled is false): unless your Prometheus scrapes the operator"
    assert fires in notes("chatservice-operator", *IMAGE, "--set", alerts)
    assert fires not in notes("chatservice-operator", *IMAGE, "--set", alerts + ",serviceMonitor.enabled=true")
    assert fires not in notes("chatservice-operator", *IMAGE)
