"""What checkov has to say of everything that both charts render."""
import json
import subprocess

import rendering

# What it would have otherwise, and why not
ACCEPTED = {
    "CKV_K8S_8": "liveness of pods that end by themselves: the Job and the tests",
    "CKV_K8S_9": "readiness of the same",
    "CKV_K8S_11": "a CPU limit throttles; requests share what there is",
    "CKV_K8S_15": "tags are never moved, so what is there is not pulled again",
    "CKV_K8S_38": "the operator and the Job talk to the API server",
    "CKV_K8S_40": "the images say their user; Valkey's is 999",
    "CKV_K8S_43": "a digest is a value; no default can know it",
    "CKV2_K8S_6": "the Job and the tests make connections and take none",
}


def test_checkov_finds_nothing_that_is_not_accepted(tmp_path):
    for name in rendering.CHARTS:
        for file in rendering.ci_files(name):
            (tmp_path / f"{name}-{file.name}").write_text(rendering.render(name, "--values", file))
    result = subprocess.run(
        ["checkov", "-d", tmp_path, "--framework", "kubernetes", "-o", "json", "--compact", "--quiet", "--skip-download"],
        capture_output=True, text=True)
    report = json.loads(result.stdout)
    assert report["summary"]["passed"] > 500 and report["summary"]["parsing_errors"] == 0
    failed = {}
    for check in report["results"]["failed_checks"]:
        failed.setdefault(check["check_id"], []).append(f"{check['resource']}: {check['check_name']}")
    assert {check: where for check, where in failed.items() if check not in ACCEPTED} == {}
    assert set(ACCEPTED) <= set(failed), "an exception that nothing needs"
