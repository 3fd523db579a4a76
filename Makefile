# Everything a contributor runs. `make` alone prints this list.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
# In a folder of its own: it is a whole system, owned by root.
ARM_ROOT ?= build/arm64
# A process for each core; the tests of one file stay together, as they share what they make.
SIDE_BY_SIDE := -n auto --dist loadscope
SOURCES := edgekit converters runtime benchmarks device_agent tests examples tools

.DEFAULT_GOAL := help
.PHONY: help install check format lint types imports docs-check docs test test-fast test-arm test-kills perf quickstart

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: ## Make .venv with everything that development needs
	python3 -m venv .venv
	.venv/bin/pip install -e ".[dev]"

check: lint types imports docs-check ## Format, lint, types, import rules, generated docs

format: ## Put all code into the project's format
	$(PYTHON) -m ruff format $(SOURCES)
	$(PYTHON) -m ruff check --fix $(SOURCES)

lint: ## Check format and lint
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m ruff check $(SOURCES)

types: ## Check types (mypy strict)
	$(PYTHON) -m mypy

imports: ## Check who imports whom
	$(dir $(PYTHON))lint-imports

docs-check: ## Check that the generated docs are up to date
	$(PYTHON) tools/cli_docs.py --check
	$(PYTHON) tools/operator_docs.py --check
	$(PYTHON) tools/device_docs.py --check

docs: ## Write the generated docs again
	$(PYTHON) tools/cli_docs.py
	$(PYTHON) tools/operator_docs.py
	$(PYTHON) tools/device_docs.py

test: ## Run the whole test suite
	$(PYTHON) -m pytest $(SIDE_BY_SIDE)

test-fast: ## Run the tests that take no time
	$(PYTHON) -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-arm: ## Run a packaged agent on an emulated arm64 Debian (takes root and qemu)
	$(PYTHON) tools/arm_root.py $(ARM_ROOT)
	EDGEKIT_ARM_ROOT=$(ARM_ROOT) $(PYTHON) -m pytest tests/arm

test-kills: ## Kill whole agents at 500 instants of an update (ten minutes of two processors)
	EDGEKIT_ALL_KILLS=1 $(PYTHON) -m pytest tests/device_agent/test_agent_kills.py

perf: ## Run the performance benchmarks
	$(PYTHON) tools/perf.py
	$(PYTHON) tools/perf_control_plane.py
	$(PYTHON) tools/perf_fleet.py

quickstart: ## From a trained model to a proven update on a device
	$(dir $(PYTHON))edgekit quickstart
