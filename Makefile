# The project's commands; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
# Three workers for each of two cores: most tests wait, for processes that start or stop.
PYTEST_ARGS ?= -n 6 --dist loadgroup
PIP_FLAGS := --disable-pip-version-check --quiet --no-input
PIP := $(BIN)/python -m pip $(PIP_FLAGS)
CLIENT_PIP := .client/bin/python -m pip $(PIP_FLAGS)
# The first Python of 3.11 or later, unless PYTHON names one.
PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13 python3.14; do \
  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$name; exit; fi; done; echo python3)

.PHONY: help run test test-kubernetes fuzz soak chaos lint docs bench doctor lock clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

run: .venv/run.stamp ## start the whole service (PORT, VAR_DIR and every other setting by environment)
	@exec $(BIN)/python -m workers.run --end-with-parent

test: .venv/dev.stamp .client/stamp ## run the whole suite (PYTEST_ARGS for other arguments of pytest)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-kubernetes: .venv/dev.stamp ## run the tests of ORCHESTRATOR=kubernetes on a throw-away cluster, or on that of KUBECONFIG
	$(BIN)/python -m tests.kubernetes $(KUBERNETES_PYTEST_ARGS)

fuzz: .venv/dev.stamp ## try the API with made-up requests for minutes (FUZZ_EXAMPLES for each operation; FUZZ_SEED)
	FUZZ_EXAMPLES="$${FUZZ_EXAMPLES:-30}" $(BIN)/python -m pytest tests/openapi/test_fuzz.py tests/integration/test_webhook_fuzz.py -n 2 -rP

soak: .venv/dev.stamp ## 10,000 calls of good and hostile functions, 50 kills of each part of the workers, attempts without defences; 22 minutes
	RUNTIME_FORMS=all $(BIN)/python -m pytest tests/runtime tests/integration/test_hostile_functions.py -n 3 --dist loadgroup
	POOL_EXAMPLES=500 $(BIN)/python -m pytest tests/pool/test_scripts_by_machine.py -n 0
	ESCAPE_WITHOUT=1 $(BIN)/python -m pytest tests/escape -n 2 --dist loadgroup --timeout 600
	SOAK=1 $(BIN)/python -m pytest tests/soak -n 0 -rP --timeout 3600

chaos: .venv/dev.stamp ## kill processes and servers at random moments under asynchronous load; 7 minutes (CHAOS_SEED; CHAOS_ONLY for a part)
	CHAOS=1 $(BIN)/python -m pytest tests/chaos/test_async.py -n 4 --maxschedchunk 1 -rP $(if $(CHAOS_ONLY),-k "$(CHAOS_ONLY)")

lint: .venv/dev.stamp ## check style, types, layers, and that docs/settings.md is current
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@$(BIN)/python -m qinling_falcon.settings_reference | diff -u docs/settings.md - \
	  || { echo "docs/settings.md is not what settings.py says: run make docs" >&2; exit 1; }

docs: .venv/run.stamp ## write docs/settings.md from settings.py
	@mkdir -p docs
	$(BIN)/python -m qinling_falcon.settings_reference > docs/settings.md

bench: .venv/dev.stamp ## measure the warm call beside its references (benchmarks/README.md)
	$(BIN)/python -m benchmarks.warm_call
	$(BIN)/python -m benchmarks.first_call

doctor: .venv/run.stamp ## say what isolation this host can give, and what is missing
	@$(BIN)/python -m qinling_falcon.orchestrators.process.doctor

lock: ## write the lock files anew from the ranges in requirements*.txt
	@PYTHON="$(PYTHON)" config/lock.sh

clean: ## remove the virtual environments and caches; data in VAR_DIR stays
	rm -rf .venv .client .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or later is needed; $(PYTHON) is $$("$(PYTHON)" --version 2>&1 | head -n 1 || true)." \
	    "Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making a virtual environment in .venv ..." >&2
	@"$(PYTHON)" -m venv .venv >&2 || { rm -rf .venv; \
	  echo "$(PYTHON) -m venv failed; on Debian: apt install python3-venv" >&2; exit 1; }

.venv/run.stamp: requirements.lock | .venv/bin/python
	@echo "Installing requirements.lock ..." >&2
	@$(PIP) install -r requirements.lock
	@touch $@

.venv/dev.stamp: requirements-dev.lock .venv/run.stamp
	@echo "Installing requirements-dev.lock ..." >&2
	@$(PIP) install -r requirements-dev.lock
	@touch $@

# The client that users have, for tests/client: apart, so that neither finds what only the other has installed.
.client/bin/python: | .venv/bin/python
	@echo "Making a virtual environment in .client ..." >&2
	@$(BIN)/python -m venv .client || { rm -rf .client; exit 1; }

.client/stamp: requirements-client.lock | .client/bin/python
	@echo "Installing requirements-client.lock ..." >&2
	@$(CLIENT_PIP) install "$$(grep '^setuptools==' requirements-client.lock)"
	@$(CLIENT_PIP) install --use-pep517 --no-build-isolation -r requirements-client.lock
	@touch $@
