# The two commands of a new user: `make demo` and `make test`; each sets itself up in .venv first.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
STAMP := .venv/.installed
LOCK := requirements/dev.txt
RUN_LOCK := requirements/run.txt
# What the computer of a bench needs (docs/flashing.md).
BENCH_LOCK := requirements/bench.txt
# Tests start many interpreters: each would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=
# MicroPython for the firmware's tests: one npm package, installed into .venv like everything else.
NPM_DIR := requirements/micropython

# What both locks share: every pin with its hashes, no host named.
COMPILE := --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --quiet

# Knobs of `make demo`; FOR=60s gives the headless run an end.
METERS ?= 20
SPEED ?= 1
# The nodes' firmware runs in real time.
NODES ?= $(if $(filter 1,$(SPEED)),4,0)
PORT ?= 8080
FOR ?=

# Knobs of `make soak`; ONLY names parts, FROM and COUNT repeat some numbers of one.
ONLY ?=
SEED ?= 1
SCALE ?= 1
FROM ?=
COUNT ?=
FRESH ?=

.PHONY: help demo test check lint types bench soak lock package package-try clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(STAMP) ## a simulated site on this machine (METERS=20 NODES=4 SPEED=1 PORT=8080 FOR=60s)
	@$(BIN)/prepaid-gateway demo --meters $(METERS) --nodes $(NODES) --speed $(SPEED) \
		--port $(PORT) $(if $(FOR),--for $(FOR))

test: lint types ## everything: format, lint, types, the whole test suite
	@.ci/tools
	@$(BIN)/pytest -m "not slow and not alone" -n 4
	@$(BIN)/pytest -m "slow and not alone" -n 4 --dist loadfile --no-loadscope-reorder
	@$(BIN)/pytest -m alone

check: lint types ## the same with the fast tests only, about a minute
	@$(BIN)/pytest -m "not slow and not alone" -n 4

lint: $(STAMP) ## format and lint
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .

types: $(STAMP) ## types
	@$(BIN)/mypy --no-error-summary
	@MYPYPATH=packaging $(BIN)/mypy --no-error-summary packaging/*.py

bench: $(STAMP) ## figures, each beside its rival in the same run where there is one (QUICK=1: less)
	@set -e; for script in bench/[a-z]*.py; do \
		name=$${script#bench/}; echo "== $${name%.py}"; quick=; \
		if [ -n "$(QUICK)" ] && grep -q -e '"--quick"' "$$script"; then quick=--quick; fi; \
		$(BIN)/python -m bench.$${name%.py} $$quick; \
	done

soak: $(STAMP) ## the long proofs, resumable (ONLY=powercuts,money SEED=1 SCALE=0.01 FROM= COUNT= FRESH=1)
	@$(BIN)/python -m tests.soak --seed $(SEED) --scale $(SCALE) $(if $(ONLY),--only $(ONLY)) \
		$(if $(FROM),--from $(FROM)) $(if $(COUNT),--count $(COUNT)) $(if $(FRESH),--fresh)

lock: $(STAMP) ## write the locks in requirements/ anew (UPGRADE=1 takes newer versions)
	@$(BIN)/uv pip compile pyproject.toml --extra north --extra dev $(COMPILE) \
		$(if $(UPGRADE),--upgrade) --output-file $(LOCK)
	@$(BIN)/uv pip compile pyproject.toml --extra north $(COMPILE) \
		--constraint $(LOCK) --upgrade --output-file $(RUN_LOCK)
	@$(BIN)/uv pip compile pyproject.toml --extra bench $(COMPILE) \
		--constraint $(LOCK) --upgrade --output-file $(BENCH_LOCK)
	@.ci/npm install --prefix $(NPM_DIR) --package-lock-only --omit-lockfile-registry-resolved --silent

package: $(STAMP) ## wheel, offline wheelhouse and Debian package into dist/
	@$(BIN)/python packaging/build.py

package-try: $(STAMP) ## install, upgrade, roll back, remove the package in a Debian of its own (root)
	@$(BIN)/python packaging/trial.py

clean: ## remove caches and build results (.venv stays)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(STAMP): $(LOCK) pyproject.toml $(NPM_DIR)/package-lock.json
	@.ci/setup $(LOCK) $(NPM_DIR)
	@touch $(STAMP)
