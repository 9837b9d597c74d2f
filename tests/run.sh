#!/bin/bash
# Everything that `make test` checks, each as a stage with its time, and at the end what failed or was skipped and why.
# A stage that fails does not keep the others from running. Called by make, which sets the target directory and PATH.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=stages.sh
. tests/stages.sh

has() { command -v "$1" >/dev/null; }
lint_scripts() { local files; mapfile -t files < <(git ls-files '*.sh' .ci/run); shellcheck "${files[@]}"; }
docs() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items; }
nextest() { cargo nextest run --locked --no-fail-fast "$@"; }
chart_tests() { python -m pytest -q -p no:cacheprovider tests/chart tests/delivery tests/monitoring --ignore-glob='tests/chart/test_on_cluster*.py' --ignore=tests/monitoring/test_queries.py; }
chart_cluster_tests() { cargo build --locked && tests/cluster/with-api-server.sh python -m pytest -q -p no:cacheprovider tests/chart/test_on_cluster.py tests/chart/test_on_cluster_keda.py tests/monitoring/test_queries.py; }
operator_tests() { tests/cluster/with-api-server.sh cargo nextest run --locked --no-fail-fast -E 'binary(operator)'; }

api_server=(kube-controller-manager kube-scheduler kwok)
[ -n "${KUBEBUILDER_ASSETS:-}" ] || api_server+=(etcd kube-apiserver)
stage "tools" tests/tools.sh "${api_server[@]}" helm kubectl actionlint
stage "format" cargo fmt --check
if has shellcheck; then stage "shell scripts" lint_scripts; else skip "shell scripts" "shellcheck is not installed"; fi
if has cargo-deny; then stage "licences, bans, sources" cargo deny --locked --log-level error check bans licenses sources; else skip "licences, bans, sources" "cargo-deny is not installed"; fi
stage "clippy" cargo clippy --locked --all-targets -- -D warnings
stage "documentation" docs
if has c++; then stage "clippy of fuzz targets" cargo clippy --locked --manifest-path fuzz/Cargo.toml -- -D warnings
  stage "fuzzing, 5 s" make --no-print-directory fuzz FUZZ_SECONDS=5
else skip "fuzzing" "a C++ compiler is not installed"; fi
stage "compile tests" cargo nextest run --locked --no-run
[ "$LAST" = 0 ] || { summary || :; exit 1; }

# Tests that need a program which cannot be had are left out by name, and said so; in CI that is a failure.
left_out='binary(operator)'
if ! has redis-server; then
  skip "Redis tests" "redis-server is not installed"
  left_out+=' or (binary(store) and not test(/^memory::/)) or (binary(server) and (test(redis) or test(shared_limit)))'
fi
if has helm; then stage "charts, image, workflows, monitoring" chart_tests
else skip "charts" "helm could not be built (Go 1.26 is needed)"; left_out+=' or binary(chart)'; fi
if ! has node || ! has npm; then
  skip "Node.js clients and browser tests" "Node.js is not installed"; left_out+=' or (binary(clients) and test(/::node$|^browser::/))'
elif ! has chromium; then skip "browser tests" "chromium is not installed"; left_out+=' or (binary(clients) and test(/^browser::/))'; fi
stage "tests" nextest -E "not ($left_out)"
if tests/cluster/build.sh --check "${api_server[@]}" helm kubectl; then
  stage "operator tests" operator_tests
  stage "charts and monitoring on an API server" chart_cluster_tests
else skip "operator tests, charts and monitoring on an API server" "the API server could not be built (Go 1.26 is needed)"; fi
summary
