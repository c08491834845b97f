# `make help` lists the targets.
SHELL := /bin/bash
.PHONY: help up down test check bench fuzz

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

check: ## formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

test: check ## everything that CI runs
	cargo nextest run --workspace --locked
