# Synaxis. `make run` and `make test` set up everything they need in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := libs/common libs/cli services/gateway services/registry services/sync services/discovery
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test check format bench bench-long bench-compare bench-peers bench-identity bench-usage chaos documents lock clean

help: ## Show what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with everything, from the hash-locked list

$(STAMP): requirements.lock $(PACKAGES:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Synaxis needs Python 3.11 or newer; try: make PYTHON=python3.11 install")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(PACKAGES:%=-e %)
	@touch $@

run: install ## Run the whole system on embedded servers
	$(BIN)/synaxis up

test: install ## Run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: install ## Lint, format, types, import rules, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.asyncapi --check
	$(BIN)/python -m scripts.settings_table --check

format: install ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

documents: install ## Write docs/asyncapi.json and the README's settings table anew from the code
	$(BIN)/python -m scripts.asyncapi --write
	$(BIN)/python -m scripts.settings_table --write

bench: install ## Measure throughput, added latency, streams and more, in five minutes (BENCH='--only throughput')
	$(BIN)/python -m tests.bench $(BENCH)

bench-long: install ## The same with longer loads, three times, with medians
	$(BIN)/python -m tests.bench --long $(BENCH)

bench-compare: install ## Compare two results of make bench (OLD=a.json NEW=b.json)
	$(BIN)/python -m tests.bench.compare $(OLD) $(NEW)

bench-peers: install ## The same load through Synaxis, LiteLLM, Portkey and TensorZero (PEERS='--only portkey')
	$(BIN)/python -m tests.bench.peers $(PEERS)

chaos: install ## Kill and stop services under load, and check limits, budgets and the ledger
	$(BIN)/python -m tests.chaos $(CHAOS)

bench-identity: install ## Measure which provider ids are recognised as the same model
	$(BIN)/python -m tests.bench.bench_identity

bench-usage: install ## Measure how fast usage is summed with 10 million requests
	$(BIN)/python -m tests.bench.bench_usage

lock: ## Resolve requirements.in anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header requirements.in -o requirements.lock

clean: ## Remove .venv, caches and the embedded servers' data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .synaxis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
