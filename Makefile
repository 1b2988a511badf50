# What a developer runs. Each target does its own set-up; see README.md.
#
#   make demo    the small internet on loopback: a month of warmup in about a minute
#   make test    everything: laws, crash laboratory, seeds, stories with real counterparts
#   make check   format, lints, doctests, licences and bans
#   make bench   measures, each beside its reference; writes benches/RESULTS.md (PART: only some)
#   make soak    all of the laboratories for hours, chunk by chunk; goes on where it was (KINDS, MINUTES, LANES)
#   make seeds   the virtual world over N seeds
#
# The budgets of the stages, in seconds, sum up with a reserve of six minutes to the 45 of .ci/run.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test check lint bench soak seeds setup build laws crash stories ci-build

BUDGET_SETUP   := 360
BUDGET_BUILD   := 720
BUDGET_LAWS    := 240
BUDGET_CRASH   := 360
BUDGET_SEEDS   := 300
BUDGET_STORIES := 720

# How much the crash laboratory and the virtual world do in one run.
CUTS    ?= 20
KILLS   ?= 60
NESTED  ?= 10
DAMAGES ?= 100
N       ?= 100

STORY  := package(inboxgrove-tests) & test(/^stories::/)
SEED   := package(inboxgrove-tests) & test(/^seeds::/)
CRASH  := package(inboxgrove-tests) & test(/^crash::/)
# What is neither of the three, so that no test falls between the stages.
LAW    := not (package(inboxgrove-tests) & test(/^(crash|seeds|stories)::/))

NEXTEST := cargo nextest run --color never --workspace

help:
	@sed -n '3,8s/^# *//p' Makefile

# All it needs beside Rust is a C compiler.
demo:
	@command -v cc >/dev/null || scripts/setup
	cargo run --profile dev -p inboxgrove -- demo

setup:
	@scripts/stage setup $(BUDGET_SETUP) scripts/setup

# The stories and the crash laboratory run target/debug/inboxgrove.
build:
	cargo build --quiet --workspace --bin inboxgrove
	cargo nextest run --color never --workspace --no-run

lint:
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	scripts/check-text
	scripts/deny

# For doctests cargo reads every package once more, so only where there are some.
check: lint
	@if grep -rqsE '^ *//[/!] *```' --include='*.rs' */src; then cargo test --quiet --doc --workspace; fi

# Build and lint in one stage: they share most of their work.
ci-build:
	@scripts/stage "build and lint" $(BUDGET_BUILD) $(MAKE) check build

laws:
	@scripts/stage laws $(BUDGET_LAWS) $(NEXTEST) -E '$(LAW)'

# More at a time than there are cores: the laboratories wait for a minute each.
crash:
	@GROVE_TESTS_CUTS=$(CUTS) GROVE_TESTS_KILLS=$(KILLS) GROVE_TESTS_NESTED=$(NESTED) GROVE_TESTS_DAMAGES=$(DAMAGES) \
		scripts/stage crash $(BUDGET_CRASH) $(NEXTEST) --no-fail-fast --test-threads 4 -E '$(CRASH)'

seeds:
	@GROVE_TESTS_SEEDS=$(N) scripts/stage seeds $(BUDGET_SEEDS) $(NEXTEST) --no-fail-fast -E '$(SEED)'

stories:
	@scripts/stage stories $(BUDGET_STORIES) $(NEXTEST) --no-fail-fast -E '$(STORY)'

# One stage after the other, whatever -j says: two cores, and the laboratory measures time. All run, also past a failing one.
test: setup
	@$(MAKE) build
	@failed=""; for stage in laws crash seeds stories; do $(MAKE) $$stage || failed="$$failed $$stage"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

# All of it takes about twenty minutes. One part: make bench PART="reading --write"
bench:
	cargo run --release -p inboxgrove-benches -- $(PART)

# Its state and its results are tests/SOAK.md. Fewer kinds: make soak KINDS="cuts kills" MINUTES=30
soak: setup
	scripts/soak --lanes $(or $(LANES),3) --minutes $(or $(MINUTES),0) $(if $(KINDS),--kinds "$(KINDS)")
