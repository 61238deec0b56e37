# The two commands of a new user: `make demo` and `make test`; each sets itself up in .venv first.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
STAMP := .venv/.installed
LOCK := requirements/dev.txt

# Knobs of `make demo`; FOR=60s gives the headless run an end.
METERS ?= 20
NODES ?= 0
SPEED ?= 1
PORT ?= 8080
FOR ?=

.PHONY: help demo test check lint types bench soak lock clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(STAMP) ## a simulated site on this machine (METERS=20 NODES=0 SPEED=1 PORT=8080 FOR=60s)
	@$(BIN)/prepaid-gateway demo --meters $(METERS) --nodes $(NODES) --speed $(SPEED) \
		--port $(PORT) $(if $(FOR),--for $(FOR))

test: lint types ## everything: format, lint, types, the whole test suite
	@$(BIN)/pytest -m "not slow" -n 2
	@$(BIN)/pytest -m slow

check: lint types ## the same with the fast tests only, under a minute
	@$(BIN)/pytest -m "not slow" -n 2

lint: $(STAMP) ## format and lint
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .

types: $(STAMP) ## types
	@$(BIN)/mypy --no-error-summary

bench: $(STAMP) ## figures, each beside its rival in the same run where there is one
	@set -e; for script in bench/[a-z]*.py; do \
		name=$${script#bench/}; echo "== $${name%.py}"; $(BIN)/python -m bench.$${name%.py}; \
	done

soak: $(STAMP) ## the long proofs (begun: the slow tests alone)
	@$(BIN)/pytest -m slow

lock: $(STAMP) ## write requirements/dev.txt anew (UPGRADE=1 takes newer versions)
	@$(BIN)/uv pip compile pyproject.toml --extra north --extra dev --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --quiet $(if $(UPGRADE),--upgrade) --output-file $(LOCK)

clean: ## remove caches and build results (.venv stays)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(STAMP): $(LOCK) pyproject.toml
	@.ci/setup $(LOCK)
	@touch $(STAMP)
