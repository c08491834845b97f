# `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help up down test test-long test-ipvs clients check bench fuzz fuzz-program fuzz-keep packages build programs images unit cluster nextest lab-programs

TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
CARGO := cargo
NETWORK ?= vxlan
PROXY ?= iptables
NODES ?= 2
FUZZ_SECONDS ?= 60

# What building needs: etcd's client makes its types from the protocol's own files.
BUILD_PACKAGES := build-essential ca-certificates protobuf-compiler libprotobuf-dev
UP_PACKAGES := $(BUILD_PACKAGES) containerd runc iptables nftables \
	$(if $(shell command -v kubectl),,kubernetes-client)
TEST_PACKAGES := $(UP_PACKAGES) etcd-server etcd-client containernetworking-plugins bird2 \
	ipset ipvsadm conntrack iproute2 podman curl procps gobgpd frr \
	$(if $(shell command -v node),,nodejs) $(if $(shell command -v npm),,npm) \
	$(if $(shell command -v pip),,python3 python3-pip)
STATIC := -C target-feature=+crt-static

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

# Services by IPVS need a kernel that has it: demo/run-ipvs finds or emulates one.
up: packages build images ## a cluster of two nodes on this machine, with an application (NETWORK=, PROXY=, NODES=)
	NETWORK=$(NETWORK) PROXY=$(PROXY) NODES=$(NODES) FAIRLEAD=$(TARGET)/release/fairlead \
		demo/run$(if $(filter ipvs,$(PROXY)),-ipvs)

down: ## removes what `make up` made
	@if [ -x $(TARGET)/release/fairlead ]; then $(TARGET)/release/fairlead lab down demo; fi

build: ## the release build
	$(CARGO) build --release --locked -p fairlead
	$(CARGO) rustc -q --release --locked -p cni-plugin --bin fairlead-cni -- $(STATIC)

programs: ## the static programs of the images
	@for program in pause testserver; do \
		$(CARGO) rustc -q --release --locked -p lab-programs --bin $$program -- $(STATIC); \
	done

images: build programs ## the images of the demonstration and the tests
	@if [ -z "$$(find $(TARGET)/release/images -name nginx.tar -newer $(TARGET)/release/fairlead 2>/dev/null)" ]; then \
		$(TARGET)/release/fairlead image build; \
	fi

packages:
	@scripts/packages $(UP_PACKAGES)

check: ## formatting and lints
	@scripts/packages $(BUILD_PACKAGES)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

nextest:
	@scripts/packages $(TEST_PACKAGES)
	@command -v cargo-nextest >/dev/null || $(CARGO) install cargo-nextest --locked

# The programs and the images that whole clusters need.
lab-programs: nextest programs
	$(CARGO) build --workspace --bins --locked
	$(TARGET)/debug/fairlead image build >/dev/null

# Suites with whole clusters that make test runs.
CLUSTERS := binary(apps) or binary(clients) or binary(cluster) or binary(faults) or binary(labs) or \
	binary(network) or binary(server) or binary(services) or binary(surface)
# What runs in a kernel that has IPVS, which is emulated where this one has none.
IPVS := kind(test) and test(/^ipvs::/)

test: lab-programs clients check ## what CI runs
	$(CARGO) nextest run --workspace --locked --no-fail-fast --retries 2 \
		-E 'not (package(cluster-tests) or ($(IPVS)))'
	CASE_RETRIES=1 $(CARGO) nextest run --workspace --locked --no-fail-fast --retries 1 \
		-E 'package(cluster-tests) and ($(CLUSTERS))'

clients: nextest # kubectl old and new, Helm, client libraries
	@scripts/clients $(TARGET)/clients

test-long: lab-programs clients ## suites that take long or were not yet seen to pass as a whole
	$(CARGO) nextest run --workspace --locked --no-fail-fast -E 'package(cluster-tests) and not ($(CLUSTERS))'

test-ipvs: nextest ## Services by IPVS, in a kernel that has it
	$(CARGO) nextest run --workspace --locked --no-fail-fast -E '$(IPVS)'

unit: nextest ## the tests of the parts, network namespaces included
	$(CARGO) nextest run --workspace --locked --no-fail-fast -E 'not (package(cluster-tests) or ($(IPVS)))'

cluster: lab-programs clients ## whole clusters in the lab (TESTS=name for some of them)
	$(CARGO) nextest run --workspace --locked --no-fail-fast -E 'package(cluster-tests)' $(TESTS)

bench: packages build images ## measures; results into bench/RESULTS.md (SECTIONS=, all when not given)
	@scripts/packages $(TEST_PACKAGES)
	$(CARGO) build --release --locked -p fairlead -p bench -p bench-bgp -p bench-pod-network -p bench-policy -p bench-proxy --bins
	$(TARGET)/release/bench $(SECTIONS)

# The crates of this workspace are built with coverage; of the others only those that libFuzzer asks
# for other features.
fuzz-program:
	@scripts/packages $(BUILD_PACKAGES)
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/fuzz/instrumented $(CARGO) build --workspace --locked \
		--features fairlead-fuzz/libfuzzer --bin fuzz

FUZZ_TARGETS ?= $(notdir $(wildcard fuzz/corpus/*))

fuzz: fuzz-program ## every decoder for FUZZ_SECONDS (FUZZ_TARGETS=names for some of them)
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/found/$$target fuzz/artifacts/$$target; \
		echo "== $$target"; \
		FUZZ_TARGET=$$target $(TARGET)/debug/fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
			-rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
			-artifact_prefix=fuzz/artifacts/$$target/ fuzz/found/$$target fuzz/corpus/$$target; \
	done

fuzz-keep: fuzz-program ## what the last fuzzing found goes into the corpus, without what adds nothing
	@for target in $(FUZZ_TARGETS); do \
		FUZZ_TARGET=$$target $(TARGET)/debug/fuzz -merge=1 fuzz/corpus/$$target fuzz/found/$$target; \
	done
