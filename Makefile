# Everything runs in .venv, made here on first use. Stamp files inside it let a second call skip what is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := anomgen pipelines tests docs .ci
JOBS ?= auto
# Where the tables lie that have to be downloaded; datasets/README.md says which.
DATA ?= data

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
APT = On Debian or Ubuntu: sudo apt-get install python3-venv

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.installed ## fit, track, register and score on a real table
	$(BIN)/python pipelines/train.py --card breast_cancer --model flow --out out/demo

test: $(VENV)/.installed-test ## the test suite, guarantees at reduced counts (at most 15 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS)

test-all: $(VENV)/.installed-test $(VENV)/.installed-spark ## the test suite with full counts, slow tests included
	$(BIN)/python -m pytest --full -n $(JOBS)

lint: $(VENV)/.installed-test ## style, format and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.installed-test ## repair what can be repaired by machine
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.installed-bench ## the figures of speed, accuracy and jobs, next to their peers (tables below DATA=data)
	$(BIN)/python pipelines/benchmark_speed.py
	$(BIN)/python pipelines/benchmark_batch.py --data $(DATA)
	$(BIN)/python pipelines/benchmark_tables.py --data $(DATA) --out tables.csv
	$(BIN)/python pipelines/benchmark_augment.py --data $(DATA) --out augment.csv

docs: $(VENV)/.installed-docs ## the HTML documentation, in docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean: ## remove what was built, but not .venv, saved models or runs
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e ".[$*]"
	@touch $@ $(VENV)/.installed

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) on this machine. $(APT)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "anomgen needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) could not create $(VENV): its venv module is missing or incomplete. $(APT)" >&2; exit 1; }
