# `make` lists the targets. Everything here works on a Debian machine with Rust and nothing else:
# scripts/bootstrap installs what is missing.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

ifdef RELEASE
profile := --release
bin := $(TARGET)/release/mana-sync
else
bin := $(TARGET)/debug/mana-sync
endif

.PHONY: help dev test chaos bench fmt fmt-check lint unit bootstrap check-ops

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

dev: bootstrap ## Run a whole cluster here; ARGS="--replicas 5 --port 4000 --reset", RELEASE=1
	$(CARGO) build $(profile) --bin mana-sync
	@$(bin) dev $(ARGS)

test: bootstrap fmt-check lint ## Format, lints and every test, against a PostgreSQL of its own
	$(CARGO) test --workspace --no-run
	$(TARGET)/debug/mana-sync dev with-postgres -- $(CARGO) test --workspace $(ARGS)

chaos: bootstrap ## Break a cluster by seeded schedules; SEEDS=200, MINUTES=30 or SEED=7
	CHAOS_SEEDS=$(SEEDS) CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$(SEED) CHAOS_LONG=1 \
		$(CARGO) test --test chaos -- --nocapture $(ARGS)

bench: bootstrap ## Our numbers beside PostgreSQL's own; QUICK=1, ROWS=pushes
	@scripts/bench $(ARGS)

check-ops: ## Check deploy/, k8s/ and docs/ against the tools that read them and against the code
	@scripts/check-ops

fmt: ## Format the code
	$(CARGO) fmt --all

fmt-check:
	$(CARGO) fmt --all --check

lint: ## Warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit: ## The tests that need no database
	$(CARGO) test --workspace --lib $(ARGS)

bootstrap:
	@scripts/bootstrap
