# `make` lists the targets. Everything here works on a Debian machine with Rust and nothing else:
# scripts/bootstrap installs what is missing.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

ifdef RELEASE
profile := --release
bin := $(TARGET)/release
else
bin := $(TARGET)/debug
endif

# Mounting a small file system is for root; a run without it says so.
ifneq ($(shell id -u),0)
root_only := --skip a_full_disk $(info Not root: the test with a full disk is left out.)
endif

.PHONY: help dev test test-newest-postgres test-citus test-browser chaos siege check-supply-chain rollout bench growth load fmt fmt-check lint unit model histories bootstrap bootstrap-tests check-ops check-dashboards check-image rehearse-alerts

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

dev: bootstrap ## Run a whole cluster here; ARGS="--replicas 5 --port 4000 --reset", RELEASE=1
	$(CARGO) build $(profile) -p mana-sync -p mana-dev --bins
	@$(bin)/mana-dev up $(ARGS)

test: bootstrap-tests fmt-check lint check-supply-chain ## Format, lints and every test, against a PostgreSQL of its own
	$(CARGO) test --workspace --no-run
	@TMPDIR=$$(scripts/temporary-folder) CARGO=$(CARGO) $(TARGET)/debug/mana-dev with-postgres -- scripts/test $(ARGS)

test-newest-postgres: bootstrap ## What the database has a say in, on the newest PostgreSQL that a package registry has; PG_BIN=folder for another
	$(CARGO) build --workspace --bins
	MANA_DEV_IGNORE_SYSTEM_POSTGRES=1 $(TARGET)/debug/mana-dev with-postgres -- $(CARGO) test --no-fail-fast \
		--test driver --test push --test sql --test compaction --test takeover --test store $(ARGS)
	MANA_DEV_IGNORE_SYSTEM_POSTGRES=1 $(TARGET)/debug/mana-dev with-postgres -- $(CARGO) test --no-fail-fast \
		--test process --test fanout -- unfit:: reconnect:: $(ARGS)
	# Before version 17 no test can fill the queue of notifications.
	MANA_DEV_IGNORE_SYSTEM_POSTGRES=1 $(TARGET)/debug/mana-dev with-postgres -- $(CARGO) test --test driver -- --ignored

test-citus: ## Buckets on a real Citus: CITUS_BIN=folder with postgres, initdb and the extension (12 or newer)
	@test -x "$(CITUS_BIN)/postgres" || { echo "CITUS_BIN must name a folder with the programs of a PostgreSQL that has the extension citus" >&2; exit 2; }
	$(CARGO) build --workspace --bins
	# A push alone takes many times as long there: hundreds at once wait for longer than they do elsewhere.
	PG_BIN=$(CITUS_BIN) TEST_BUCKETS=4 DATABASE_ACQUIRE_TIMEOUT_MS=20000 QUEUE_TIMEOUT_MS=20000 \
		$(TARGET)/debug/mana-dev with-postgres --citus -- $(CARGO) test --no-fail-fast \
		--test push -- --skip a_cursor_of_ours_past_the_newest_change
	PG_BIN=$(CITUS_BIN) TEST_BUCKETS=4 DATABASE_ACQUIRE_TIMEOUT_MS=20000 QUEUE_TIMEOUT_MS=20000 \
		$(TARGET)/debug/mana-dev with-postgres --citus -- $(CARGO) test --no-fail-fast --test store -- \
		pull:: concurrency:: convergence:: crash:: --skip without_the_head_row
	PG_BIN=$(CITUS_BIN) TEST_BUCKETS=4 DATABASE_ACQUIRE_TIMEOUT_MS=20000 QUEUE_TIMEOUT_MS=20000 \
		$(TARGET)/debug/mana-dev with-postgres --citus -- $(CARGO) test --no-fail-fast --test streams
	# Without those that change the tables themselves, which are views there.
	PG_BIN=$(CITUS_BIN) TEST_BUCKETS=4 DATABASE_ACQUIRE_TIMEOUT_MS=20000 QUEUE_TIMEOUT_MS=20000 \
		$(TARGET)/debug/mana-dev with-postgres --citus -- $(CARGO) test --no-fail-fast --test compaction -- \
		commands:: rule:: retry:: trimming_between --skip claimed_stamps_and_young --skip what_a_killed_command --skip a_programs_row
	PG_BIN=$(CITUS_BIN) $(TARGET)/debug/mana-dev with-postgres --citus -- \
		$(CARGO) test --test citus -- --nocapture --ignored --test-threads 1 $(ARGS)

test-browser: bootstrap-browser ## Clients, the console, reports and the page of make dev in Chromium; CLIENT_SEEDS=5, CLIENT_SEED=7, SCREENSHOTS=folder
	$(CARGO) build --workspace --bins
	$(CARGO) test --test clients --test console --no-run
	$(TARGET)/debug/mana-dev with-postgres -- \
		$(CARGO) test --test clients --test console -- --nocapture --ignored --test-threads 1 $(ARGS)
	$(CARGO) test -p mana-load --test report -- --ignored
	$(CARGO) test -p mana-dev --test dev -- --nocapture --ignored

chaos: bootstrap-tests ## Break a cluster by seeded schedules; SEEDS=200, MINUTES=30 or SEED=7
	CHAOS_SEEDS=$(SEEDS) CHAOS_MINUTES=$(MINUTES) CHAOS_SEED=$(SEED) \
		$(CARGO) test --test chaos -- --nocapture --include-ignored $(root_only) $(ARGS)

siege: bootstrap-tests ## Every known attack at a replica under a memory limit, in full (a machine that does nothing else)
	$(CARGO) build -p mana-dev
	$(CARGO) test $(profile) -p mana-sync --test siege --no-run
	ulimit -n $$(ulimit -Hn) && SIEGE=long $(TARGET)/debug/mana-dev with-postgres -- \
		$(CARGO) test $(profile) -p mana-sync --test siege -- --nocapture --test-threads 1 $(ARGS)

rollout: bootstrap-tests ## Rehearse a rollout behind HAProxy, nginx and Caddy, for as long as a real one takes
	ROLLOUT_LONG=1 $(CARGO) test --test rollout -- --nocapture --include-ignored --test-threads 1 $(ARGS)

bench: bootstrap ## Our numbers beside PostgreSQL's own; QUICK=1, ROWS=pushes
	@scripts/bench $(ARGS)

growth: bootstrap ## How cost grows with size, with plots; QUICK=1, ONLY=stored,replicas,connections,names,log,edits,days,replays
	@scripts/growth $(ARGS)

load: bootstrap ## Run a scenario: SCENARIO=mixed; TARGETS=URL,URL KEY=FILE against what is there
	@scripts/load $(or $(SCENARIO),mixed) $(ARGS)

check-supply-chain: ## Licences, banned crates and sources, and known weaknesses where their database can be reached
	@scripts/check-supply-chain

check-ops: ## Check deploy/, k8s/ and docs/ against the tools that read them and against the code
	@scripts/check-ops

check-dashboards: ## Ask a Prometheus that watches a loaded cluster for every panel of the dashboard
	@scripts/check-dashboards $(ARGS)

rehearse-alerts: ## Break clusters on purpose and see which alerts arrive, and when; ARGS="killed frozen", FACTOR=20 (forty minutes)
	@scripts/rehearse-alerts $(ARGS)

check-image: ## Build the image's last stage and run it as strictly as production does (root, takes minutes)
	@scripts/check-image $(ARGS)

fmt: ## Format the code
	$(CARGO) fmt --all

fmt-check:
	$(CARGO) fmt --all --check

lint: ## Warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit: ## The tests that need no database
	$(CARGO) test --workspace --lib $(ARGS)

model: ## Random histories of trimming against the log as it was; TRIM_CASES=10000
	TRIM_CASES=$(or $(TRIM_CASES),10000) $(CARGO) test --lib merge::tests::trimmed $(ARGS)

histories: bootstrap-tests ## Random histories on PostgreSQL, with and without trimming, and a kill between any two statements; CASES=400
	$(CARGO) build --workspace --bins
	CASES=$(or $(CASES),400) CRASH_STEP=1 $(bin)/mana-dev with-postgres -- $(CARGO) test --no-fail-fast \
		--test store --test compaction -- six_devices trimming_between between_any_two $(ARGS)

bootstrap:
	@scripts/bootstrap

bootstrap-tests:
	@scripts/bootstrap tests

bootstrap-browser:
	@scripts/bootstrap browser
