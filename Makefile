# `make demo` and `make test` set everything up in .venv from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint types format clean

$(BIN)/acoustic-env: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

# What only the tests and the published TF-Hub models need.
$(VENV)/.dev: $(BIN)/acoustic-env
	$(BIN)/pip install --quiet --editable '.[tensorflow,dev]'
	touch $@

demo: $(BIN)/acoustic-env
	$(BIN)/acoustic-env demo --out demo-out

test: $(VENV)/.dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
