# `make repro` runs the whole line of stages, `make test` the tests; each sets up what it needs.
# With another Python than python3: make repro PYTHON=python3.12

SHELL := /bin/bash -o pipefail
PYTHON ?= python3
BIN := .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: repro test lint

repro: .venv/installed-line
	@$(BIN)/python -m flows.repro

# The test of the line takes longest, so it comes first.
LINE_TEST := tests/test_line.py
OTHER_TESTS := $(filter-out $(LINE_TEST),$(wildcard tests/test_*.py))

test: .venv/installed-tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(LINE_TEST) $(OTHER_TESTS)

lint: .venv/installed-tests
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

.venv/installed-line: EXTRAS := pipeline,embedded
.venv/installed-tests: EXTRAS := pipeline,embedded,cocola,search,serve,test

# These files say that an install is complete; one that was interrupted is begun anew.
.venv/installed-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { $(PYTHON) --version; echo "phalar needs Python 3.11 or later: make PYTHON=..."; exit 1; }
	@if [ -e .venv/installing ]; then rm -rf .venv; fi
	@[ -e $(BIN)/python ] || $(PYTHON) -m venv .venv
	@touch .venv/installing
	@echo "Installing into .venv, 6 GB and some minutes the first time"
	@$(BIN)/python -m pip install -e '.[$(EXTRAS)]' -c constraints.txt | awk ' \
	    /^ *Downloading .*[0-9][0-9][0-9]\.[0-9] MB/ { print "  " $$2, $$3, $$4; fflush() } \
	    /^Collecting/ && ++n % 50 == 0 { print "  " n " packages found"; fflush() } \
	    /^Installing collected/ { print "  installing"; fflush() }'
	@rm .venv/installing
	@touch $@
