"""Both charts over the shapes people run × Kubernetes' versions × what the cluster knows: valid, equal twice, restricted."""
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

import rendering
import schemas
from rendering import IMAGE, MONITORING, chart, ci_files, objects, of_kind, parse, pods, render

VERSIONS = ["1.33", "1.34", "1.35", "1.36", "1.37"]
SHAPES = [(name, file) for name in rendering.CHARTS for file in ci_files(name)]
IDS = [f"{name}-{file.name.removesuffix('-values.yaml')}" for name, file in SHAPES]


@pytest.fixture(scope="session")
def matrix():
    """(chart, file, version, capabilities) → two renders."""
    cells = list(itertools.product(SHAPES, VERSIONS, ([], MONITORING)))

    def twice(cell):
        (name, file), version, apis = cell
        return [render(name, "--values", file, version=version, apis=apis) for _ in range(2)]

    with ThreadPoolExecutor(2) as pool:
        return {(name, file, version, bool(apis)): texts
                for ((name, file), version, apis), texts in zip(cells, pool.map(twice, cells))}


@pytest.mark.parametrize(("name", "file"), SHAPES, ids=IDS)
def test_two_renders_are_equal_and_strictly_valid_for_every_version(matrix, name, file):
    for version in VERSIONS:
        for apis in (False, True):
            first, second = matrix[name, file, version, apis]
            assert first == second
            wrong = []
            for item in parse(first):
                if item["kind"] == "CustomResourceDefinition" or item["kind"] in schemas.OTHERS:
                    continue
                wrong += schemas.errors(item, version)
            assert not wrong, f"Kubernetes {version}: {wrong}"


def test_objects_of_other_projects_are_valid(matrix):
    items = [item for texts in matrix.values() for item in parse(texts[0]) if item["kind"] in schemas.OTHERS]
    assert {item["kind"] for item in items} == set(schemas.OTHERS), "a kind is never rendered"
    for item in items:
        assert item["apiVersion"] == schemas.OTHERS[item["kind"]]
    unique = list({str(item): item for item in items}.values())
    assert schemas.errors_of_others(unique) == []
    # The validator is no rubber stamp.
    broken = [{**item, "spec": {**item["spec"], **nonsense}} for item in unique
              for nonsense in [{"endpoints": 5, "groups": 5, "scaleTargetRef": 5, "rules": 5}]]
    assert len(schemas.errors_of_others(broken)) == len(broken)


@pytest.mark.parametrize(("name", "file"), SHAPES, ids=IDS)
def test_example_values_pass_the_linter(name, file):
    result = rendering.helm("lint", "--strict", chart(name), "--values", file)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("name", "file"), SHAPES, ids=IDS)
def test_every_pod_fits_the_restricted_standard(name, file):
    found = list(pods(objects(name, "--values", file)))
    for item, spec, _ in found:
        where = f"{item['kind']} {item['metadata']['name']}"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), where
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "secret", "emptyDir", "projected", "persistentVolumeClaim"}, where
        outer = spec["securityContext"]
        for container in spec["containers"] + spec.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, where
            assert context["capabilities"]["drop"] == ["ALL"] and "add" not in context["capabilities"], where
            assert context["readOnlyRootFilesystem"] is True, where
            assert outer["runAsNonRoot"] is True and outer["seccompProfile"]["type"] == "RuntimeDefault", where
            assert outer.get("runAsUser") != 0, where
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"], where
        if item["kind"] != "Deployment":
            assert spec["automountServiceAccountToken"] is (item["kind"] == "Job"), where
    if name == "chatservice-operator":
        assert found


@pytest.mark.parametrize(("name", "file"), SHAPES, ids=IDS)
def test_names_and_labels_fit_with_the_longest_release(name, file):
    release = "r" * 53
    rendered = objects(name, "--values", file, "--set", "fullnameOverride=,nameOverride=", release=release, apis=MONITORING)
    seen = set()
    for item in rendered:
        meta = item["metadata"]
        kind, own = item["kind"], meta["name"]
        # A StatefulSet's and a Job's pods get labels that are longer than its name.
        most = {"StatefulSet": 52, "ChatService": 52}.get(kind, 63)
        assert len(own) <= most and not own.endswith("-"), f"{kind} {own}"
        assert (kind, meta.get("namespace"), own) not in seen, f"{kind} {own} is there twice"
        seen.add((kind, meta.get("namespace"), own))
        for labels in [meta.get("labels", {})] + [labels for _, _, labels in pods([item])]:
            for key, value in labels.items():
                assert len(value) <= 63 and not value.endswith("-"), f"{kind} {own}: {key}: {value}"


@pytest.mark.parametrize("name", rendering.CHARTS)
def test_every_object_is_in_the_namespace_that_was_asked_for_and_labelled(name):
    args = [*IMAGE, "--set", "namespaceOverride=elsewhere,commonLabels.team=platform,commonAnnotations.owner=me"]
    args += ["--set", "serviceMonitor.enabled=true"]
    for item in objects(name, *args, apis=MONITORING):
        meta = item["metadata"]
        assert meta["labels"]["team"] == "platform" and meta["annotations"]["owner"] == "me", meta
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"} <= meta["labels"].keys()
        if item["kind"] not in ("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"):
            assert meta["namespace"] == "elsewhere", meta


def selects(selector, labels):
    return selector.items() <= labels.items()


@pytest.mark.parametrize(("name", "file"), SHAPES, ids=IDS)
def test_selectors_find_their_own_pods_and_no_others(name, file):
    rendered = objects(name, "--values", file)
    found = list(pods(rendered))
    for item, _, labels in found:
        if item["kind"] in ("Deployment", "StatefulSet"):
            own = item["spec"]["selector"]["matchLabels"]
            assert [other["kind"] for other, _, labels in found if selects(own, labels)] == [item["kind"]]
    for service in of_kind(rendered, "Service"):
        kinds = [item["kind"] for item, _, labels in found if selects(service["spec"]["selector"], labels)]
        assert kinds in (["Deployment"], ["StatefulSet"]), service["metadata"]["name"]
    for chatservice in of_kind(rendered, "ChatService"):
        # What the operator makes the selector of its Service (src/controller/names.rs)
        selector = {"app.kubernetes.io/name": "chatservice", "app.kubernetes.io/instance": chatservice["metadata"]["name"]}
        assert not [item["kind"] for item, _, labels in found if selects(selector, labels)]


def test_server_labels_are_those_of_the_operator():
    constants = (rendering.ROOT / "src/constants.rs").read_text()
    for name in ["chatservice-controller", "app.kubernetes.io/managed-by", "admin"]:
        assert f'"{name}"' in constants
    policy = of_kind(objects("chatservice", *IMAGE), "NetworkPolicy")[0]
    peer = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert peer == {"app.kubernetes.io/name": "chatservice", "app.kubernetes.io/instance": "test"}


def test_who_may_scrape_the_operator_does_not_shut_out_its_own_test():
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    rendered = objects("chatservice-operator", *IMAGE, values={"networkPolicy": {"scrapeFrom": [prometheus]}})
    peers = of_kind(rendered, "NetworkPolicy")[0]["spec"]["ingress"][0]["from"]
    own = [peer["podSelector"]["matchLabels"] for peer in peers if peer.keys() == {"podSelector"}]
    let_in = [item["kind"] for item, _, labels in pods(rendered) if any(selects(selector, labels) for selector in own)]
    assert let_in == ["Pod"] and prometheus in peers and len(peers) == 2
    rendered = objects("chatservice-operator", *IMAGE)
    assert "from" not in of_kind(rendered, "NetworkPolicy")[0]["spec"]["ingress"][0]


# Values, and what the pod of `helm test` asks with: arguments, the volume of them, its account
QUESTIONS = [
    ({}, ["http://demo.chat.svc:8080/v1"], {}, None),
    ({"service": {"port": 80}, "backend": {"openai": {}}, "model": "m"}, ["http://demo.chat.svc:80/v1"], {}, None),
    ({"service": {"tls": {"secretRef": {"name": "cert"}}}}, ["https://demo.chat.svc:8080/v1", "--authorities=/authorities"], {"authorities": "cert"}, None),
    ({"auth": {"apiKeysSecretRef": {"name": "a"}}}, ["--keys=/keys"], {"keys": "a"}, None),
    ({"auth": {"apiKeysSecretRef": {"name": "a"}}, "tests": {"keysSecret": "b"}}, ["--keys=/keys"], {"keys": "b"}, None),
    ({"auth": {"serviceAccounts": {"allowed": [{"namespace": "shop", "name": "x"}, {"namespace": "chat", "name": "web"}, {"namespace": "chat", "name": "other"}]}}},
     ["--keys=/keys"], {"keys": "chatservice.dev/chat/demo"}, "web"),
    ({"auth": {"serviceAccounts": {"audience": "shared", "allowed": [{"namespace": "chat", "name": "x"}, {"namespace": "chat", "name": "web"}]}},
      "tests": {"serviceAccountName": "web"}}, ["--keys=/keys"], {"keys": "shared"}, "web"),
]


@pytest.mark.parametrize(("values", "arguments", "sources", "account"), QUESTIONS, ids=range(len(QUESTIONS)))
def test_helm_test_asks_as_a_caller_does(values, arguments, sources, account):
    rendered = parse(render("chatservice", *IMAGE, "--namespace", "chat", release="demo", values=values))
    spec = of_kind(rendered, "Pod")[0]["spec"]
    container = spec["containers"][0]
    assert set(arguments) <= set(container["args"]) and container["args"][0] == "ask"
    # Only echo is known to answer with the question.
    assert ("--expect=Are you there?" in container["args"]) is ("backend" not in values)
    found = {}
    for volume in spec.get("volumes", []):
        token = volume.get("projected", {}).get("sources", [{}])[0].get("serviceAccountToken")
        found[volume["name"]] = token["audience"] if token else volume["secret"]["secretName"]
        # What is missing is said by the pod, which else would not start.
        assert token or volume["secret"]["optional"] is True
        # The key of the certificate stays where it is.
        assert volume["name"] != "authorities" or [item["key"] for item in volume["secret"]["items"]] == ["ca.crt", "tls.crt"]
    assert found == sources
    assert [mount["mountPath"] for mount in container.get("volumeMounts", [])] == [f"/{name}" for name in found]
    assert spec.get("serviceAccountName") == account


def test_where_nobody_of_the_namespace_may_ask_there_is_no_helm_test():
    foreign = {"auth": {"serviceAccounts": {"allowed": [{"namespace": "shop", "name": "web"}]}}}
    assert of_kind(objects("chatservice", *IMAGE, values=foreign), "Pod") == []
