# `make help` lists what there is. Compiled things go under the cache, so that another clone finds them.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/chatservice
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(CACHE)/venv/bin:$(CACHE)/cluster/bin:$(PATH)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# Named, so that the flags of a fuzzer are not those of build scripts too
TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
# What libFuzzer is guided by. The sanitizers of `cargo fuzz` need a nightly compiler; without unsafe code they find nothing more.
SANCOV := -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help tools test lint fmt fuzz screenshots chaos openapi crd charts package image reproducible e2e bench

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

tools: ## install what tests need: packages, wheels, Kubernetes' programs (the first time 12 min)
	@tests/tools.sh

test: ## format, lints, licences, docs, scripts, and every test but make e2e
	@tests/run.sh

image: ## the image localhost/chatservice:VERSION of the Dockerfile, for this processor, as an archive (of `docker save`)
	@./image.sh "localhost/chatservice:$(VERSION)" "$(CACHE)/chatservice-$(VERSION).tar"

reproducible: ## the image once more without a cache, from another folder: the same bytes (a whole release build)
	@tests/reproducible.sh "localhost/chatservice:$(VERSION)" "$(CACHE)/chatservice-$(VERSION).tar"

e2e: ## the operator on real pods: KUBECONFIG and E2E_IMAGE name a cluster, else one is made here
	@tests/e2e/run.sh

bench: ## the chat server beside nginx on the same cores: ratios, latencies, memory (about 2 min after the release build)
	cargo bench --locked --bench throughput

lint: ## clippy and shellcheck
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --manifest-path fuzz/Cargo.toml -- -D warnings
	git ls-files '*.sh' .ci/run | xargs shellcheck

fmt: ## format the sources
	cargo fmt

fuzz: ## fuzz the parsers of event streams and of request bodies, for FUZZ_SECONDS (60) each
	for target in sse json; do \
	  RUSTFLAGS='$(SANCOV)' cargo run --locked --release --manifest-path fuzz/Cargo.toml --target $(TARGET) --bin $$target -- \
	    -max_len=4096 -verbosity=0 -print_final_stats=1 -max_total_time=$(or $(FUZZ_SECONDS),60); \
	done

screenshots: ## the docs page and the playground as pictures in OUT: each state, light and dark, on a desk and a phone
	@mkdir -p $(or $(OUT),$(CACHE)/screenshots)
	CHATSERVICE_SCREENSHOTS=$(abspath $(or $(OUT),$(CACHE)/screenshots)) cargo test --locked --test clients -- breaks_no_rule_of_axe docs_page_sends
	@ls $(or $(OUT),$(CACHE)/screenshots)

chaos: ## the faults in figures, over real processes: a release build and half an hour of a machine with nothing else to do
	cargo test --locked --release --test chaos --test server -- --ignored --nocapture --test-threads=1
	cargo test --locked --release --test server trips:: -- --nocapture --test-threads=1
	tests/cluster/build.sh etcd kube-apiserver kube-controller-manager kube-scheduler kwok
	CHATSERVICE_PROGRAM='$(CARGO_TARGET_DIR)/release/chatservice' \
	  tests/cluster/own-network.sh tests/cluster/with-api-server.sh cargo test --offline --locked --test operator -- --ignored --nocapture --test-threads=1

package: ## the charts as archives and install.yaml in OUT, with the image of REPOSITORY
	@tests/tools.sh helm
	@charts/package.sh "$(REPOSITORY)" "$(OUT)"

openapi: ## write docs/openapi.json from the handlers' types
	UPDATE_OPENAPI=1 cargo test --quiet --locked --test server the_committed_document

crd: ## write crds/chatservices.yaml from the Rust types, then what follows from it
	cargo run --quiet --locked -- crd > crds/.chatservices.yaml
	mv crds/.chatservices.yaml crds/chatservices.yaml
	@$(MAKE) --no-print-directory charts

charts: ## write the charts' schemas, READMEs and CRD, and install.yaml
	@tests/tools.sh helm
	$(CACHE)/venv/bin/python charts/generate.py
