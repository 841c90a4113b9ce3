# `make` alone says what there is. Each target sets up the environment first; that costs nothing when nothing changed.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
BIN := .venv/bin
ONLY ?=
# Without its byte code every program of ours starts a second later, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE
ARGS ?=

ROW ?=
LONG ?= 1

.PHONY: help setup demo serve test test-fast faults planted chaos check lint proto migrate bench lock clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install the pinned environment into .venv
	@tools/setup.sh

demo: setup ## Build this repository with a pipeline of its own: server, database, agent, run, exit code
	@tools/demo.sh

serve: setup ## Run server, database and a local agent on the default ports, data in ./.data
	$(BIN)/arcentra-server dev --data-dir .data

test: setup ## Run all tests but those of `make faults` and `make planted` (ARGS="-k name" for some)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not faults and not planted" $(ARGS)

test-fast: setup ## Run the tests without real kills and load
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow" $(ARGS)

faults: setup ## Put the server through every row of faults, with everything checked at the end (ARGS="-k f1" for some)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m faults tests/faults $(ARGS)

chaos: setup ## Put the server through the long form of a row of faults (ROW=F1; SEED=n replays, LONG=0: as in the tests)
	@test -n "$(ROW)$(ARGS)" || { echo "name a row: make chaos ROW=F1, of" tests/faults/test_*.py; exit 2; }
	CHAOS_LONG=$(LONG) SEED=$(SEED) timeout --signal=INT 3600 $(BIN)/python -m pytest -p no:xdist -s --timeout 3600 \
	  $(or $(ARGS),tests/faults/test_$(shell echo $(ROW) | tr A-Z a-z)_*.py)

planted: setup ## Plant each bug of tests/planted, and see the harness of faults find it (ARGS="-k name" for some)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m planted tests/planted $(ARGS)

check: setup ## Run every check of the tree (ONLY=lint,types for some)
	@$(BIN)/python -m tools.check $(if $(ONLY),--only $(ONLY))

lint: setup ## Run the checks that take no database and no type checker
	@$(BIN)/python -m tools.check --quick

proto: setup ## Write the stubs of proto/ to src/arcentra_api
	$(BIN)/python tools/gen_proto.py

migrate: setup ## Bring the database of ./.data (or ARGS="--database-url URL") to the newest schema
	$(BIN)/arcentra-server migrate $(or $(ARGS),--data-dir .data)

bench: setup ## Run the benchmarks beside their limits (ONLY=name for one)
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(ARGS)

lock: setup ## Pin the dependencies of pyproject.toml anew
	@tools/lock.sh

clean: ## Remove what the targets made, except the data in ./.data
	rm -rf .venv dist .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
