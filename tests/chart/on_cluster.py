"""What the tests on an API server share: programs that are run, waiting, and an operator beside the cluster. The API server and its
controllers are tests/cluster/with-api-server.sh's; pods are kwok's, which become ready and run nothing."""
import contextlib
import json
import os
import pathlib
import subprocess
import time

import pytest

import rendering

KUBECONFIG = os.environ.get("CHATSERVICE_TEST_KUBECONFIG")
needs_api_server = pytest.mark.skipif(not KUBECONFIG, reason="CHATSERVICE_TEST_KUBECONFIG is not set: run it under tests/cluster/with-api-server.sh")
PATIENCE = 90


def run(*command, text=None, fails=False):
    result = subprocess.run([*map(str, command)], input=text, capture_output=True, text=True)
    if not fails:
        assert result.returncode == 0, f"{command}: {result.stderr}{result.stdout}"
    return result


def kubectl(*args, **kwargs):
    return run("kubectl", *args, **kwargs).stdout


def helm(*args, **kwargs):
    return run("helm", *args, **kwargs)


def get(*args):
    return json.loads(kubectl("get", *args, "-o", "json"))


def until(what, look):
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.1)
    return found


def namespace(name):
    """Makes one that enforces the pod security standard *restricted*."""
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    until("the default account", lambda: run("kubectl", "-n", name, "get", "serviceaccount", "default", fails=True).returncode == 0)


@contextlib.contextmanager
def operator(folder, *args):
    """One that uses the admin's kubeconfig; its log is in `folder`."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", rendering.ROOT / "target"))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [target / "debug/chatservice", "controller", "--server-image=localhost/chatservice:0.1.0", "--admin-address=127.0.0.1:0", *args],
            stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)
